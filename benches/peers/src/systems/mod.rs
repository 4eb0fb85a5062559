//! The systems, each with the jobs that it has.

#[cfg(feature = "aeron")]
pub mod aeron;
pub mod bare;
#[cfg(feature = "fjall")]
pub mod fjall;
#[cfg(feature = "iceoryx2")]
pub mod iceoryx2;
#[cfg(feature = "lmdb")]
pub mod lmdb;
pub mod mmsb;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod uring;
