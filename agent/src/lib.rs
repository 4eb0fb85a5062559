//! `mmsb` and `mmsb-agent`: commands over the public API of the `mmsb` crate.
#![forbid(unsafe_code)]

pub mod cli;
pub mod daemon;
pub mod demo;
pub mod sampling;
