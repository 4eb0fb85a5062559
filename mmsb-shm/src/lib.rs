//! The shared-memory core of MMSB.

pub mod schema;
