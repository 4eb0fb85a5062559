//! MMSB, the Memory-Mapped State Bus.
