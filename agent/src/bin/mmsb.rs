//! `mmsb`.
fn main() {}
