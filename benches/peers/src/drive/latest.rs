//! The latest value: read by one process, written by another, each alone and both at once.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::contender::Entry;
use crate::measure::{Round, blocks};
use crate::task::{ANSWER, CONTROL, Job, Side, Task, ready};

/// Operations of a block.
const BLOCK: u64 = 64;

/// A value of `task.bytes` that one process writes and others read.
pub trait Value: Sized {
    /// Whether the writer of [`open`](Value::open) may be there twice, so that an heir can stand by.
    const STANDBY: bool;

    /// What this side needs: the lead writes, and is there first, the peer reads.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn open(task: &Task, side: Side) -> Result<Self>;

    /// Another writer of the same value, which is there already: ahead of the first one's death where such may stand
    /// by, else after it, again and again until it succeeds.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn inherit(task: &Task) -> Result<Self> {
        Self::open(task, Side::Lead)
    }

    /// Called on both sides once both have opened.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn connect(&mut self) -> Result<()> {
        Ok(())
    }

    /// Makes `n` the value: all its words.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn write(&mut self, n: u64) -> Result<()>;

    /// The value, all of it read; 0 before the first.
    ///
    /// # Errors
    ///
    /// Whatever the system says, or that it is torn.
    fn read(&mut self) -> Result<u64>;
}

/// Reads of a value that nobody writes.
pub const fn read_alone<V: Value>(sizes: &'static [usize]) -> Entry {
    Entry {
        job: Job::ReadAlone,
        sizes,
        lead: idle_writer::<V>,
        peer: Some(reader_alone::<V>),
        victim: None,
    }
}

/// Writes of a value that nobody reads.
pub const fn update_alone<V: Value>(sizes: &'static [usize]) -> Entry {
    Entry {
        job: Job::UpdateAlone,
        sizes,
        lead: writer_alone::<V>,
        peer: Some(idle_reader::<V>),
        victim: None,
    }
}

/// Both, flat out.
pub const fn contended<V: Value>(sizes: &'static [usize]) -> Entry {
    Entry {
        job: Job::Contended,
        sizes,
        lead: writer::<V>,
        peer: Some(reader::<V>),
        victim: None,
    }
}

/// Waits without using the core, because the other side is measured.
fn idle_until(task: &Task, line: usize) -> Result<()> {
    let lines = task.lines()?;
    while lines.line(line).load() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

fn idle_writer<V: Value>(task: &Task) -> Result<Round> {
    let mut value = V::open(task, Side::Lead)?;
    ready()?;
    value.connect()?;
    value.write(1)?;
    task.lines()?.line(CONTROL).store(1);
    idle_until(task, ANSWER)?;
    Ok(Round::default())
}

fn reader_alone<V: Value>(task: &Task) -> Result<Round> {
    let mut value = V::open(task, Side::Peer)?;
    ready()?;
    value.connect()?;
    idle_until(task, CONTROL)?;
    let round = blocks(task.budget(), BLOCK, |_| match value.read()? {
        1 => Ok(()),
        other => bail!("read {other}, and 1 was written"),
    })?;
    task.lines()?.line(ANSWER).store(1);
    Ok(round)
}

fn writer_alone<V: Value>(task: &Task) -> Result<Round> {
    let mut value = V::open(task, Side::Lead)?;
    ready()?;
    value.connect()?;
    let mut last = 0;
    let round = blocks(task.budget(), BLOCK, |n| {
        last = n + 1;
        value.write(last)
    })?;
    let lines = task.lines()?;
    lines.line(CONTROL).store(last);
    idle_until(task, ANSWER)?;
    Ok(round)
}

fn idle_reader<V: Value>(task: &Task) -> Result<Round> {
    let mut value = V::open(task, Side::Peer)?;
    ready()?;
    value.connect()?;
    idle_until(task, CONTROL)?;
    let lines = task.lines()?;
    let last = lines.line(CONTROL).load();
    let seen = value.read()?;
    lines.line(ANSWER).store(1);
    if seen != last {
        bail!("read {seen}, and {last} was the last that was written");
    }
    Ok(Round::default())
}

fn writer<V: Value>(task: &Task) -> Result<Round> {
    let mut value = V::open(task, Side::Lead)?;
    let lines = task.lines()?;
    ready()?;
    value.connect()?;
    value.write(1)?;
    lines.line(CONTROL).store(1);
    while lines.line(ANSWER).load() == 0 {
        std::hint::spin_loop();
    }
    let start = Instant::now();
    let mut n = 1;
    let mut seconds = None;
    // Until the reader has ended, so that it was never alone.
    while lines.line(ANSWER).load() == 1 {
        for _ in 0..BLOCK {
            n += 1;
            value.write(n)?;
        }
        if seconds.is_none() && start.elapsed() >= task.budget() {
            seconds = Some((start.elapsed().as_secs_f64(), n));
        }
    }
    let (seconds, writes) = seconds.unwrap_or((start.elapsed().as_secs_f64(), n));
    Ok(Round {
        writes_per_second: Some((writes - 1) as f64 / seconds),
        ..Round::default()
    })
}

fn reader<V: Value>(task: &Task) -> Result<Round> {
    let mut value = V::open(task, Side::Peer)?;
    let lines = task.lines()?;
    ready()?;
    value.connect()?;
    while lines.line(CONTROL).load() == 0 {
        std::hint::spin_loop();
    }
    lines.line(ANSWER).store(1);
    let start = Instant::now();
    let (mut last, mut reads, mut seen) = (0, 0u64, 0u64);
    while start.elapsed() < task.budget() {
        for _ in 0..BLOCK {
            let n = value.read()?;
            if n < last {
                bail!("read {n} after {last}");
            }
            seen += u64::from(n != last);
            last = n;
            reads += 1;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    lines.line(ANSWER).store(2);
    Ok(Round {
        reads_per_second: Some(reads as f64 / seconds),
        note: Some(format!(
            "{:.0} % of the reads found a new value",
            100.0 * seen as f64 / reads as f64
        )),
        ..Round::default()
    })
}
