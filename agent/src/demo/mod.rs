//! What `mmsb demo` publishes.

pub mod sources;
