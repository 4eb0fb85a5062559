//! The shared-memory core of MMSB.
