//! What one process of a measurement is told, and how it talks to the one that started it.

use std::fmt;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mmsb_benches::lines::Lines;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Line by which one side tells the other that it is over, and when.
pub const CONTROL: usize = 0;
/// Line by which the other side answers.
pub const ANSWER: usize = 1;
/// Line of the process that is killed, and of the one behind it.
pub const EXTRA: usize = 2;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// From before a message is written until all of it was read.
    OneWay,
    /// Messages in a second, none lost, from one process to another.
    Throughput,
    /// Reading the latest value, which nobody writes.
    ReadAlone,
    /// Writing a value that nobody reads.
    UpdateAlone,
    /// Both at once, flat out.
    Contended,
    /// From the writer's call to the blocked reader having the value.
    Wake,
    /// A new process has the whole state.
    LateJoin,
    /// A commit that is on disk when it returns.
    Synced,
    /// From `kill -9` of a writer until a reader sees the value of the next.
    Recovery,
}

impl Job {
    /// All of them, in the order in which they are run.
    pub const ALL: [Job; 9] = [
        Job::OneWay,
        Job::Throughput,
        Job::ReadAlone,
        Job::UpdateAlone,
        Job::Contended,
        Job::Wake,
        Job::LateJoin,
        Job::Synced,
        Job::Recovery,
    ];

    /// Its name, in the results and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Job::OneWay => "one_way",
            Job::Throughput => "throughput",
            Job::ReadAlone => "read_alone",
            Job::UpdateAlone => "update_alone",
            Job::Contended => "contended",
            Job::Wake => "wake",
            Job::LateJoin => "late_join",
            Job::Synced => "synced",
            Job::Recovery => "recovery",
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose part a process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that is there first: it creates what both need, and measures.
    Lead,
    /// The other one.
    Peer,
}

/// One measurement, as its processes are told of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// What is measured.
    pub job: Job,
    /// Bytes of one message or value.
    pub bytes: usize,
    /// Threads that commit, where that matters; else 1.
    pub threads: usize,
    /// Who is measured.
    pub contender: String,
    /// A name that no other measurement of this machine has at present.
    pub name: String,
    /// A directory in shared memory, of this measurement alone.
    pub dir: PathBuf,
    /// A directory on the disk, of this measurement alone.
    pub disk: PathBuf,
    /// The cores of the two sides.
    pub cpus: (usize, usize),
    /// How long to measure, in milliseconds.
    pub millis: u64,
    /// Descriptor of the lines.
    pub lines: i32,
    /// The process that started this one.
    pub parent: i32,
}

impl Task {
    /// How long to measure.
    pub fn budget(&self) -> Duration {
        Duration::from_millis(self.millis)
    }

    /// The bare lines between the sides.
    ///
    /// # Errors
    ///
    /// If the process was started by somebody else.
    pub fn lines(&self) -> Result<Lines> {
        Ok(Lines::inherited(self.lines)?)
    }

    /// Eight-byte words of one message or value.
    #[allow(dead_code, reason = "not every choice of features counts in words")]
    pub fn words(&self) -> usize {
        self.bytes / 8
    }
}

/// Keeps this thread, and those it starts from now on, on one core.
///
/// # Errors
///
/// If the process may not run there.
pub fn pin(cpu: usize) -> Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        bail!("there is no core {cpu}");
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot run on core {cpu}"))
}

/// Sees to it that this process ends with the one that started it: it polls, and would do so for ever.
///
/// # Errors
///
/// If that one is gone already.
pub fn end_with(parent: i32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        bail!("the process that started this one is gone");
    }
    Ok(())
}

/// The clock that all processes share, in nanoseconds.
#[inline]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Tells the process that started this one that everything is there, and waits for its word.
///
/// # Errors
///
/// If it is gone.
pub fn ready() -> Result<()> {
    say("ready")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim_end() != "go" {
        bail!("told {line:?} in place of \"go\"");
    }
    Ok(())
}

/// Says one line to the process that started this one.
///
/// # Errors
///
/// If nobody listens.
pub fn say(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// Writes a message whole: every word is its number.
#[inline(always)]
pub fn fill(payload: &mut [u8], n: u64) {
    for word in payload.chunks_exact_mut(8) {
        word.copy_from_slice(&n.to_ne_bytes());
    }
}

/// Reads a message whole, and returns its number.
///
/// # Errors
///
/// If it is made of parts of several.
#[inline(always)]
pub fn number(payload: &[u8]) -> Result<u64> {
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("chunks of eight"));
    let words = payload.chunks_exact(8);
    let count = words.len() as u64;
    // Not the usual early exit: a sum is what a vectorised loop can do, so this reads as fast as memory gives.
    let (sum, mix) = words.fold((0u64, 0u64), |(sum, mix), each| {
        (sum.wrapping_add(word(each)), mix | word(each))
    });
    let first = payload
        .first_chunk()
        .map_or(0, |word| u64::from_ne_bytes(*word));
    if sum != first.wrapping_mul(count) || mix != first {
        return torn(first);
    }
    Ok(first)
}

#[cold]
fn torn(first: u64) -> Result<u64> {
    bail!("message {first} is torn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_number_or_torn() {
        for bytes in [8, 64, 1024] {
            let mut payload = vec![0; bytes];
            fill(&mut payload, 77);
            assert_eq!(number(&payload).unwrap(), 77);
            if bytes > 8 {
                payload[bytes - 1] ^= 1;
                assert!(number(&payload).is_err());
            }
        }
    }
}
