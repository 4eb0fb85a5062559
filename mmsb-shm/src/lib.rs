//! The shared-memory core of MMSB.

pub mod copy;
pub mod diff;
pub mod sys;
