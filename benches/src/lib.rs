//! What MMSB is measured against: [`floor`], the machine itself, [`disk`], its disk, and [`lines`], bare cache lines between processes.
//!
//! The library does not use MMSB, and depends on nothing heavy: `mmsb bench` is built with it. The benches of single
//! parts, in one process, are the files `commit`, `read`, `ring`, `arena` and `tlog` beside `src`: `cargo bench -p mmsb-benches`.

pub mod disk;
pub mod floor;
pub mod lines;
