//! The shared-memory core of MMSB.

pub mod sys;
