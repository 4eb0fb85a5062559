//! What a log costs those who write: the CPU time of volatile commits on a bus with a log and on one without, in turns.

use std::time::{Duration, Instant};

use mmsb::Bus;
use rustix::time::{ClockId, clock_gettime};

use super::super::super::rig::{Job, check_log, pin};
use super::super::super::runner::unlogged;
use super::super::super::samples::{Measured, Samples};
use super::{Turns, check, create};
use crate::cli::exit::Failure;

/// Commits in a second.
const RATE: f64 = 2e6;
/// Commits at a time: the thread's clock is a system call.
const BURST: u64 = 64;
/// Pages that are written in turn.
const PAGES: usize = 16;
/// A writer this far behind its schedule was not running; it goes on from there.
const BEHIND: Duration = Duration::from_millis(1);

/// CPU time of this thread.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// What a look at that clock takes of it: the median.
fn cost_of_looking() -> Duration {
    let mut samples: Vec<Duration> = (0..1001)
        .map(|_| {
            let start = cpu();
            cpu() - start
        })
        .collect();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// Writes so many bursts at the rate, and half as many ahead to get into it. Returns the CPU time of the former, and how
/// often the writer was late.
fn turn(turns: &mut Turns<'_>, bursts: u64, look: Duration) -> mmsb::Result<(Duration, u64)> {
    let tick = Duration::from_secs_f64(BURST as f64 / RATE);
    let (mut took, mut late, mut due) = (Duration::ZERO, 0, Instant::now());
    for burst in 0..bursts + bursts / 2 {
        let mut now = Instant::now();
        while now < due {
            std::hint::spin_loop();
            now = Instant::now();
        }
        if now - due > BEHIND {
            late += 1;
            due = now;
        }
        let start = cpu();
        for _ in 0..BURST {
            turns.write()?;
        }
        if burst >= bursts / 2 {
            took += (cpu() - start).saturating_sub(look);
        }
        due += tick;
    }
    Ok((took, late))
}

/// CPU time of a commit; the floor is that on a bus without a log.
pub fn attached_cost(job: &Job) -> Result<Measured, Failure> {
    let logged = create(job)?;
    let bare = Bus::builder(&unlogged(&job.bus))
        .dir(&job.dir)
        .source("bench")
        .create()?;
    // The supervisor's threads are not bound to the writer's core.
    pin(job.cpus.0)?;
    let mut with = Turns::new(&logged, PAGES, job.bytes)?;
    let mut without = Turns::new(&bare, PAGES, job.bytes)?;
    let before = (logged.stats()?.deltas, bare.stats()?.deltas);
    let look = cost_of_looking();
    // Some hundredths of a second at a time: long for the supervisor, short for what disturbs both.
    let bursts = (0.04 * RATE) as u64 / BURST;
    let mut samples = (Samples::new(bursts * BURST)?, Samples::new(bursts * BURST)?);
    let (mut late, begin) = (0, Instant::now());
    let rounds = if job.is_quick() { 3 } else { 40 };
    for round in 0..=rounds {
        let (its, its_late) = turn(&mut with, bursts, look)?;
        let (bares, bares_late) = turn(&mut without, bursts, look)?;
        // The first round warms up.
        if round > 0 {
            samples.0.add(its);
            samples.1.add(bares);
            late += its_late + bares_late;
        }
    }
    let logged_waits = logged.stats()?.waits;
    let per_second = (with.done + without.done) as f64 / begin.elapsed().as_secs_f64();
    with.check()?;
    without.check()?;
    check_log(&bare, before.1, without.done)?;
    check(&logged, job.disk()?, before.0, with.done, with.done)?;
    let mut measured = samples.0.measured();
    measured.floor_ns = Some(samples.1.quantile(0.5));
    measured.per_second = per_second;
    Ok(measured.with("late", late).with("waits", logged_waits))
}
