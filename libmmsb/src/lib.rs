//! MMSB, the Memory-Mapped State Bus.

pub use mmsb_shm::schema;
