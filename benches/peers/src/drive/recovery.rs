//! Recovery: a writer is killed with `kill -9` while it writes flat out; how long until a reader sees a value of the
//! next writer. Three processes: the victim, its heir, which stands by as far as the system lets it, and a reader.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::latest::Value;
use crate::contender::Entry;
use crate::measure::Round;
use crate::task::{ANSWER, CONTROL, EXTRA, Job, Side, Task, now_ns, ready};

/// After so long it is said to be never.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Values from here on are the heir's.
const HEIRS: u64 = 1 << 48;

/// What a system that has such values does in this job.
pub const fn entry<V: Value>() -> Entry {
    Entry {
        job: Job::Recovery,
        sizes: &[64],
        lead: heir::<V>,
        peer: Some(reader::<V>),
        victim: Some(victim::<V>),
    }
}

/// Creates what all use, as the first writer; writes until it is killed.
fn victim<V: Value>(task: &Task) -> Result<Round> {
    let mut value = V::open(task, Side::Lead)?;
    let lines = task.lines()?;
    ready()?;
    value.connect()?;
    for n in 1.. {
        value.write(n)?;
        if n == 1000 {
            lines.line(EXTRA).store(1);
        }
        if n == HEIRS {
            break;
        }
    }
    bail!("nobody killed the writer")
}

/// Waits for the kill, then goes on where the victim ended.
fn heir<V: Value>(task: &Task) -> Result<Round> {
    let lines = task.lines()?;
    let mut value = match V::STANDBY {
        true => Some(V::inherit(task)?),
        false => None,
    };
    ready()?;
    // The time of the kill, by the clock that all share.
    while lines.line(CONTROL).load() == 0 {
        std::thread::sleep(Duration::from_micros(20));
    }
    let start = Instant::now();
    let mut n = HEIRS;
    let mut last = None;
    // Until the reader has seen one: a write may go well and reach nobody.
    while lines.line(ANSWER).load() == 0 && start.elapsed() < PATIENCE {
        if value.is_none() {
            match V::inherit(task) {
                Ok(opened) => value = Some(opened),
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            }
        }
        let Some(writer) = &mut value else { continue };
        n += 1;
        if let Err(error) = writer.write(n) {
            last = Some(error);
            // Where it may be another's for a while.
            std::thread::yield_now();
        }
    }
    if lines.line(ANSWER).load() == 0 {
        lines.line(ANSWER).store(u64::MAX);
        return Ok(Round {
            never: Some(1),
            note: last.map(|error| format!("{error:#}")),
            ..Round::default()
        });
    }
    Ok(Round::default())
}

/// Reads until it sees a value of the heir.
fn reader<V: Value>(task: &Task) -> Result<Round> {
    let mut value = V::open(task, Side::Peer)?;
    let lines = task.lines()?;
    ready()?;
    value.connect()?;
    loop {
        let n = value.read()?;
        let killed = lines.line(CONTROL).load();
        if n > HEIRS {
            let took = now_ns().saturating_sub(killed);
            lines.line(ANSWER).store(1);
            return Ok(Round {
                p50_ns: Some(took as f64),
                ..Round::default()
            });
        }
        if lines.line(ANSWER).load() == u64::MAX {
            return Ok(Round::default());
        }
    }
}
