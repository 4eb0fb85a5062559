//! MMSB benches.

pub mod floor;
