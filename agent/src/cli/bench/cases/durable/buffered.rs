//! Commits that are on disk a little later: as many as there can be, then as many as are promised, without waits.

use std::time::{Duration, Instant};

use mmsb::{Bus, Durability};
use mmsb_benches::disk::sequential_write;

use super::super::super::rig::{Job, pin};
use super::super::super::samples::{Measured, blocks};
use super::{Turns, check, counters, create, sync};
use crate::cli::exit::Failure;

/// Greatest age of a commit that is not on its way to the disk.
const AGE: Duration = Duration::from_millis(100);

/// Pages that are written in turn.
const PAGES: usize = 16;

/// Commits in a block.
const BLOCK: u64 = 64;

/// A writer this far behind its schedule was not running; it goes on from there, and does not make up for it.
const BEHIND: Duration = Duration::from_millis(1);

/// Promised for 64 B, in deltas; for larger ones in bytes.
const DELTAS: f64 = 5e6;
const BYTES: f64 = 1e9;

/// Waits of all participants so far: for room in the ring, and for each other.
fn waits(bus: &Bus) -> Result<u64, Failure> {
    Ok(bus.stats()?.waits)
}

/// How a writer kept to a schedule.
struct Paced {
    per_second: f64,
    waits: u64,
    late: u64,
}

/// Writes `rate` times in a second for `budget`, a few at a time.
fn pace(bus: &Bus, turns: &mut Turns<'_>, rate: f64, budget: Duration) -> Result<Paced, Failure> {
    let burst = (rate * 20e-6).clamp(1.0, 64.0) as u32;
    let tick = Duration::from_secs_f64(f64::from(burst) / rate);
    let before = waits(bus)?;
    let (begin, done, mut late) = (Instant::now(), turns.done, 0);
    let (mut due, end) = (begin, begin + budget);
    while due < end {
        let mut now = Instant::now();
        while now < due {
            std::hint::spin_loop();
            now = Instant::now();
        }
        if now - due > BEHIND {
            late += 1;
            due = now;
        }
        for _ in 0..burst {
            turns.write()?;
        }
        due += tick;
    }
    Ok(Paced {
        per_second: (turns.done - done) as f64 / begin.elapsed().as_secs_f64(),
        waits: waits(bus)? - before,
        late,
    })
}

/// Sustained commits. The rate counts until the last of them is on disk.
pub fn buffered(job: &Job) -> Result<Measured, Failure> {
    let bandwidth = sequential_write(
        job.disk()?,
        if job.is_quick() { 16 << 20 } else { 512 << 20 },
    )?;
    let bus = create(job)?;
    // The supervisor's threads are not bound to the writer's core.
    pin(job.cpus.0)?;
    let mut turns = Turns::new(&bus, PAGES, job.bytes)?;
    let before = bus.stats()?.deltas;
    bus.set_durability(Durability::Buffered(AGE));
    let (waits_before, begin) = (waits(&bus)?, Instant::now());
    let (samples, _) = blocks(5 * job.budget, BLOCK, 1, |_| turns.write())?;
    sync(&bus)?;
    let per_second = turns.done as f64 / begin.elapsed().as_secs_f64();
    let flat_out_waits = waits(&bus)? - waits_before;
    let log = counters(&bus)?;
    let log_bytes_each = log.bytes as f64 / turns.done as f64;
    let promised = if job.bytes <= 64 {
        DELTAS
    } else {
        BYTES.min(0.8 * bandwidth) / job.bytes as f64
    };
    let paced = pace(&bus, &mut turns, promised, 3 * job.budget)?;
    turns.check()?;
    check(&bus, job.disk()?, before, turns.done, turns.done)?;
    let mut measured = samples.measured();
    measured.per_second = per_second;
    measured.floor_bytes = Some(log_bytes_each);
    Ok(measured
        .with("bytes_per_second", per_second * job.bytes as f64)
        .with("log_bytes_each", log_bytes_each)
        .with("log_writes", log.writes)
        .with("log_waits_for_file", log.waits_for_file)
        .with("waits", flat_out_waits)
        .with("paced_per_second", paced.per_second)
        .with("paced_waits", paced.waits)
        .with("paced_late", paced.late))
}

/// Bytes of the log that a commit takes, of many.
pub fn log_bytes(job: &Job) -> Result<Measured, Failure> {
    let bus = create(job)?;
    pin(job.cpus.0)?;
    let mut turns = Turns::new(&bus, PAGES, job.bytes)?;
    let before = bus.stats()?.deltas;
    let begin = counters(&bus)?;
    bus.set_durability(Durability::Buffered(AGE));
    let (samples, commits) = blocks(job.budget, BLOCK, 1, |_| turns.write())?;
    let log = counters(&bus)?;
    turns.check()?;
    check(&bus, job.disk()?, before, commits, commits)?;
    let (bytes, writes) = (log.bytes - begin.bytes, log.writes - begin.writes);
    Ok(samples
        .measured()
        .with("log_bytes_each", bytes as f64 / commits as f64)
        .with("log_bytes", bytes)
        .with("log_writes", writes))
}
