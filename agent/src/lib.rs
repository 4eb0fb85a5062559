//! `mmsb` and `mmsb-agent`: commands over the public API of the `mmsb` crate.
#![forbid(unsafe_code)]
