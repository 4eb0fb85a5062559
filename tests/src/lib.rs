//! MMSB tests.
