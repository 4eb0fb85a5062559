//! MMSB benches.
