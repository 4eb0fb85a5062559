//! Late joiner: a process that comes later has the whole state, from the start of attaching to having read it all.

use anyhow::{Result, bail};

use crate::contender::Entry;
use crate::measure::Round;
use crate::task::{CONTROL, Job, Task, now_ns, ready};

/// Values of the state.
pub const VALUES: usize = 1000;

/// A state of [`VALUES`] values of `task.bytes`, value `i` being `i + 1` in all its words.
pub trait State: Sized {
    /// Makes the state; it lasts as long as what is returned.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn host(task: &Task) -> Result<Self>;

    /// Attaches and reads every value, handing each to `take`.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn join(task: &Task, take: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()>;

    /// Does what the state's host must do meanwhile, if anything.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn tend(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a system that has such a state does in this job.
pub const fn entry<S: State>() -> Entry {
    Entry {
        job: Job::LateJoin,
        sizes: &[64],
        lead: lead::<S>,
        peer: Some(peer::<S>),
        victim: None,
    }
}

fn lead<S: State>(task: &Task) -> Result<Round> {
    let mut state = S::host(task)?;
    let lines = task.lines()?;
    ready()?;
    while lines.line(CONTROL).load() == 0 {
        state.tend()?;
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    Ok(Round::default())
}

/// Started many times; the process itself is what joins.
fn peer<S: State>(task: &Task) -> Result<Round> {
    ready()?;
    let (mut sum, mut count) = (0, 0);
    let before = now_ns();
    S::join(task, &mut |at, bytes| {
        let n = crate::task::number(bytes)?;
        if n != at as u64 + 1 {
            bail!("value {at} is {n}");
        }
        count += 1;
        sum += n;
        Ok(())
    })?;
    let took = now_ns() - before;
    if count != VALUES || sum != (1..=VALUES as u64).sum::<u64>() {
        bail!("{count} values came, and there are {VALUES}");
    }
    Ok(Round {
        p50_ns: Some(took as f64),
        ..Round::default()
    })
}
