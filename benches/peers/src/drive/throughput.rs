//! Throughput: one process sends flat out, another receives every message, in order, and reads all of it.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::contender::Entry;
use crate::measure::Round;
use crate::task::{ANSWER, CONTROL, Job, Side, Task, ready};

/// Messages between two looks at the clock.
const LOOK: u64 = 4096;

/// A stream of messages that loses none.
pub trait Stream: Sized {
    /// What this side needs; the lead, who sends, is there first.
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

    /// Sends some messages from number `next` on, and returns how many; none where there is no room.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn send(&mut self, next: u64) -> Result<u64>;

    /// Makes sure that everything is on its way.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    /// Receives what has come: the next is number `next`. Returns how many came, all read whole, all in order.
    ///
    /// # Errors
    ///
    /// Whatever the system says, or that a message is torn, lost, or out of order.
    fn receive(&mut self, next: u64) -> Result<u64>;
}

/// What a system that has such a stream does in this job.
pub const fn entry<S: Stream>(sizes: &'static [usize]) -> Entry {
    Entry {
        job: Job::Throughput,
        sizes,
        lead: lead::<S>,
        peer: Some(peer::<S>),
        victim: None,
    }
}

fn lead<S: Stream>(task: &Task) -> Result<Round> {
    let mut stream = S::open(task, Side::Lead)?;
    let lines = task.lines()?;
    ready()?;
    stream.connect()?;
    let mut sent = 0;
    let start = Instant::now();
    // By messages, not by calls, whose messages differ in number; and by calls where nothing can be sent.
    let (mut look, mut calls) = (LOOK, 0u64);
    loop {
        sent += stream.send(sent)?;
        calls += 1;
        if sent >= look || calls.is_multiple_of(1 << 16) {
            if start.elapsed() >= task.budget() {
                break;
            }
            look = sent + LOOK;
        }
    }
    stream.flush()?;
    lines.line(CONTROL).store(sent);
    while lines.line(ANSWER).load() != sent {
        std::hint::spin_loop();
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Round {
        samples: Some(sent),
        ..Round::rate(sent as f64 / seconds)
    })
}

fn peer<S: Stream>(task: &Task) -> Result<Round> {
    let mut stream = S::open(task, Side::Peer)?;
    let lines = task.lines()?;
    ready()?;
    stream.connect()?;
    let mut received = 0;
    loop {
        let came = stream.receive(received)?;
        received += came;
        // Zero until the sender has ended.
        let sent = if came == 0 {
            lines.line(CONTROL).load()
        } else {
            0
        };
        if sent > 0 && received >= sent {
            break;
        }
    }
    if received != lines.line(CONTROL).load() {
        bail!("{received} messages came, more than were sent");
    }
    lines.line(ANSWER).store(received);
    Ok(Round::default())
}

/// Fails unless the message that came is the one that was next.
///
/// # Errors
///
/// Which came.
#[inline(always)]
pub fn expect(got: u64, next: u64) -> Result<()> {
    if got == next {
        Ok(())
    } else {
        other(got, next)
    }
}

#[cold]
fn other(got: u64, next: u64) -> Result<()> {
    bail!("message {got} came in place of {next}")
}
