//! Wake-up: a reader blocks in the kernel; from before the writer's call until the reader has the new value.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::contender::Entry;
use crate::measure::{Round, Times};
use crate::task::{ANSWER, CONTROL, EXTRA, Job, Side, Task, now_ns, ready};

/// How long the reader is given to fall asleep.
const FALL_ASLEEP: Duration = Duration::from_micros(300);

/// A value whose reader can be woken.
pub trait Bell: Sized {
    /// What this side needs: the lead writes and rings, and is there first; the peer waits.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn open(task: &Task, side: Side) -> Result<Self>;

    /// Called on both sides once both have opened.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn connect(&mut self) -> Result<()> {
        Ok(())
    }

    /// Publishes `n`, and wakes who waits.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn ring(&mut self, n: u64) -> Result<()>;

    /// Blocks until there is a new value, and returns it.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn wait(&mut self) -> Result<u64>;
}

/// What a system that has such a bell does in this job.
pub const fn entry<B: Bell>() -> Entry {
    Entry {
        job: Job::Wake,
        sizes: &[8],
        lead: lead::<B>,
        peer: Some(peer::<B>),
        victim: None,
    }
}

fn lead<B: Bell>(task: &Task) -> Result<Round> {
    let mut bell = B::open(task, Side::Lead)?;
    let lines = task.lines()?;
    ready()?;
    bell.connect()?;
    let mut times = Times::new(1.0);
    let end = Instant::now() + task.budget();
    let mut n = 0;
    while Instant::now() < end {
        n += 1;
        // The reader says that it is about to wait, then gets time to fall asleep.
        while lines.line(ANSWER).load() != n {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        while start.elapsed() < FALL_ASLEEP {
            std::hint::spin_loop();
        }
        let before = now_ns();
        bell.ring(n)?;
        while lines.line(EXTRA).load() != n {
            std::hint::spin_loop();
        }
        let woken = lines.line(EXTRA).get(1);
        // The first is the way into caches.
        if n > 1 {
            times.record(woken.saturating_sub(before));
        }
    }
    lines.line(CONTROL).store(1);
    while lines.line(ANSWER).load() != n + 1 {
        std::hint::spin_loop();
    }
    bell.ring(n + 1)?;
    Ok(times.round())
}

fn peer<B: Bell>(task: &Task) -> Result<Round> {
    let mut bell = B::open(task, Side::Peer)?;
    let lines = task.lines()?;
    ready()?;
    bell.connect()?;
    let mut n = 0;
    loop {
        n += 1;
        lines.line(ANSWER).store(n);
        let got = bell.wait()?;
        let woken = now_ns();
        if got != n {
            bail!("woken with {got} in place of {n}");
        }
        lines.line(EXTRA).put(1, woken);
        lines.line(EXTRA).store(n);
        if lines.line(CONTROL).load() == 1 {
            return Ok(Round::default());
        }
    }
}
