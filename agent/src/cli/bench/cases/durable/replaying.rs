//! Replaying a log that is in the page cache, by all cores, against only reading its files.

use std::time::Instant;

use mmsb::supervisor::Supervisor;
use mmsb_benches::disk::read_all;

use super::super::super::rig::{Job, check_log, ensure};
use super::super::super::samples::{Measured, Samples};
use super::{Turns, check_state, config, log_files, replayed, sync};
use crate::cli::exit::Failure;

/// Pages that are written in turn.
const PAGES: usize = 1024;

/// Time of a delta.
pub fn replay(job: &Job) -> Result<Measured, Failure> {
    let disk = job.disk()?;
    let bus = job.create()?;
    let supervisor = Supervisor::start(&bus, config(disk))?;
    let mut turns = Turns::new(&bus, PAGES, job.bytes)?;
    let before = bus.stats()?.deltas;
    let deltas = match (job.is_quick(), job.bytes > 64) {
        (true, _) => 20_000,
        (false, true) => 1 << 20,
        (false, false) => 4 << 20,
    };
    for _ in 0..deltas {
        turns.write()?;
    }
    turns.check()?;
    check_log(&bus, before, deltas)?;
    sync(&bus)?;
    supervisor.stop()?;

    let files = log_files(disk)?;
    let (mut times, mut floors) = (Samples::new(deltas)?, Samples::new(deltas)?);
    // Into the page cache.
    let (log_bytes, _) = read_all(&files)?;
    for _ in 0..if job.is_quick() { 2 } else { 5 } {
        floors.add(read_all(&files)?.1);
        let start = Instant::now();
        let (state, done) = replayed(disk, bus.durable_lsn())?;
        times.add(start.elapsed());
        ensure(done.records >= deltas + PAGES as u64, || {
            format!("{} records were replayed of {deltas} patches", done.records)
        })?;
        check_state(&bus, &state, deltas)?;
    }
    let mut measured = times.measured();
    measured.floor_ns = Some(floors.quantile(0.5));
    measured.per_second = 1e9 / measured.p50_ns;
    let per_second = measured.per_second;
    Ok(measured
        .with("bytes_per_second", per_second * job.bytes as f64)
        .with(
            "log_bytes_per_second",
            per_second * log_bytes as f64 / deltas as f64,
        )
        .with("deltas", deltas))
}
