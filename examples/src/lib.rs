//! MMSB examples.
