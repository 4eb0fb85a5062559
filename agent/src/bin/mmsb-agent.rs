//! `mmsb-agent`.
fn main() {}
