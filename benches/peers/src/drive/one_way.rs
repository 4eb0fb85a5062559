//! One way: messages from one process to another that polls. Each is written whole by its sender and read whole by its
//! receiver, and its time is from before the first byte is written until after the last one is read, by the counter of
//! the processor, which is the same on both cores. The answer, which lets the next message go, comes back through a bare
//! cache line, whoever is measured. Rounds take turns in which core sends, and there are as many of one kind as of the
//! other: should the cores' counters differ a little, the median of the rounds lies between both kinds.

use anyhow::{Result, bail};

use crate::contender::Entry;
use crate::measure::{Round, Ticks, Times};
use crate::task::{ANSWER, Job, Side, Task, ready};

/// The message that ends a conversation.
const END: u64 = u64::MAX >> 1;

/// Two directions of messages between two processes.
pub trait Link: Sized {
    /// What this side needs; the lead is there first, and creates what both use.
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

    /// Sends message `n`, all of whose words are its number.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn send(&mut self, n: u64) -> Result<()>;

    /// The number of the next message, if it has come; all of it was read.
    ///
    /// # Errors
    ///
    /// Whatever the system says, or that the message is torn.
    fn receive(&mut self) -> Result<Option<u64>>;
}

/// What a system that has such a link does in this job.
pub const fn entry<L: Link>(sizes: &'static [usize]) -> Entry {
    Entry {
        job: Job::OneWay,
        sizes,
        lead: lead::<L>,
        peer: Some(peer::<L>),
        victim: None,
    }
}

fn lead<L: Link>(task: &Task) -> Result<Round> {
    let mut link = L::open(task, Side::Lead)?;
    let lines = task.lines()?;
    let answer = lines.line(ANSWER);
    let ticks = Ticks::calibrate();
    let mut times = Times::new(ticks.ns);
    ready()?;
    link.connect()?;
    let mut n = 0;
    for is_counted in [false, true] {
        let share = if is_counted { 10 } else { 1 };
        let mut before = Ticks::now();
        let end = before + ticks.of(task.budget() * share / 11);
        while before < end {
            n += 1;
            link.send(n)?;
            while answer.load() != n {}
            if is_counted {
                let Some(took) = answer.get(1).checked_sub(before) else {
                    bail!("the cores' counters differ by more than a message takes");
                };
                times.record(took);
            }
            before = Ticks::now();
        }
    }
    link.send(END)?;
    while answer.load() != END {}
    Ok(times.round())
}

fn peer<L: Link>(task: &Task) -> Result<Round> {
    let mut link = L::open(task, Side::Peer)?;
    let lines = task.lines()?;
    let answer = lines.line(ANSWER);
    ready()?;
    link.connect()?;
    let mut expected = 1;
    loop {
        let Some(n) = link.receive()? else { continue };
        answer.put(1, Ticks::behind_loads());
        answer.store(n);
        if n == END {
            return Ok(Round::default());
        }
        if n != expected {
            bail!("{n} came in place of {expected}");
        }
        expected += 1;
    }
}
