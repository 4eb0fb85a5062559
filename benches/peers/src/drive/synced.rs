//! Synced commits: threads of one process commit one small record after the other, each on disk when it returns.

use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::contender::Entry;
use crate::measure::{Round, Times};
use crate::task::{Job, Task, fill, number, ready};

/// Commits of each thread that are not counted.
const WARM_UP: u64 = 16;

/// Something that commits durably.
pub trait Engine: Sized + Sync {
    /// What a thread has of its own.
    type Session<'e>
    where
        Self: 'e;

    /// Opens it, empty, in `task.disk`, for `task.threads` threads.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn open(task: &Task) -> Result<Self>;

    /// What thread number `thread`, which calls this, needs.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn session(&self, thread: usize) -> Result<Self::Session<'_>>;

    /// Commits `payload` as the latest value of this thread; on disk when it returns.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn commit(&self, session: &mut Self::Session<'_>, payload: &[u8]) -> Result<()>;

    /// The latest value of this thread, read back.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    fn newest(&self, session: &mut Self::Session<'_>) -> Result<Vec<u8>>;
}

/// What such an engine does in this job.
pub const fn entry<E: Engine>() -> Entry {
    Entry {
        job: Job::Synced,
        sizes: &[64],
        lead: lead::<E>,
        peer: None,
        victim: None,
    }
}

fn lead<E: Engine>(task: &Task) -> Result<Round> {
    let engine = E::open(task)?;
    ready()?;
    let barrier = Barrier::new(task.threads);
    let done: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..task.threads)
            .map(|thread| {
                let (engine, barrier) = (&engine, &barrier);
                scope.spawn(move || commits(engine, task, thread, barrier))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .ok()
                    .context("a thread that commits panicked")?
            })
            .collect::<Result<_>>()
    })?;
    let mut all = Times::new(1.0);
    for commits in &done {
        commits.times.iter().for_each(|ns| all.record(*ns));
    }
    // By the threads' own clocks: the one that waits for them may get a core long after they began or ended.
    let start = done.iter().map(|commits| commits.start).min();
    let end = done.iter().map(|commits| commits.end).max();
    let (start, end) = start.zip(end).context("no thread commits")?;
    Ok(Round {
        per_second: Some(all.count() as f64 / (end - start).as_secs_f64()),
        ..all.round()
    })
}

/// What one thread did.
struct Commits {
    start: Instant,
    end: Instant,
    /// Of each commit, in nanoseconds.
    times: Vec<u64>,
}

/// One thread.
fn commits<E: Engine>(
    engine: &E,
    task: &Task,
    thread: usize,
    barrier: &Barrier,
) -> Result<Commits> {
    let mut payload = vec![0; task.bytes];
    // Files grow and memory is touched for the first time. Whatever happens: the others wait at the barrier.
    let prepared = engine.session(thread).and_then(|mut session| {
        for n in 1..=WARM_UP {
            fill(&mut payload, n);
            engine.commit(&mut session, &payload)?;
        }
        Ok(session)
    });
    barrier.wait();
    let mut session = prepared?;
    let mut times = Vec::new();
    let mut n = WARM_UP;
    let start = Instant::now();
    let mut end = start;
    while end - start < task.budget() {
        n += 1;
        fill(&mut payload, n);
        engine.commit(&mut session, &payload)?;
        let now = Instant::now();
        times.push((now - end).as_nanos() as u64);
        end = now;
    }
    let newest = number(&engine.newest(&mut session)?)?;
    ensure!(
        newest == n,
        "thread {thread} committed {n}, and {newest} is there"
    );
    Ok(Commits { start, end, times })
}
