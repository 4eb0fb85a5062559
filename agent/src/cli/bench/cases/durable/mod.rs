//! Cases that have to do with the disk: a bus with a log, supervised by the first process.

mod attached;
mod buffered;
mod causes;
mod checkpoint;
mod replaying;
mod synced;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mmsb::state::{self, Heap, Meta, ReplayOptions, Replayed, State};
use mmsb::supervisor::{CheckpointPolicy, SupervisorConfig};
use mmsb::tlog::{self, LogReader, OpenOptions, WriterStats};
use mmsb::{Bus, Error, Page};

use super::super::rig::{Job, check_log, ensure};
use crate::cli::exit::Failure;

pub use attached::attached_cost;
pub use buffered::{buffered, log_bytes};
pub use causes::provenance;
pub use checkpoint::{checkpoint, restart};
pub use replaying::replay;
pub use synced::{lead as synced, peer as synced_writers};

/// Longest that anything waits for the disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// The defaults, with checkpoints only when asked for.
fn config(disk: &Path) -> SupervisorConfig {
    SupervisorConfig {
        checkpoint: CheckpointPolicy {
            interval: None,
            log_bytes: None,
            ..CheckpointPolicy::default()
        },
        ..SupervisorConfig::new(disk)
    }
}

/// Creates the bus, with default settings, and supervises it.
fn create(job: &Job) -> Result<Bus, Failure> {
    Ok(Bus::builder(&job.bus)
        .dir(&job.dir)
        .source("bench")
        .supervise(config(job.disk()?))
        .create()?)
}

/// Waits until everything so far is on disk.
fn sync(bus: &Bus) -> Result<(), Failure> {
    let end = bus.published_lsn()?;
    bus.wait_durable(end - 1, PATIENCE)?;
    ensure(bus.durable_lsn() >= end, || {
        format!(
            "LSN {} was said to be durable, and the bus says {}",
            end - 1,
            bus.durable_lsn()
        )
    })
}

/// The counters of the log, once they hold everything so far. They are brought up to date now and then.
fn counters(bus: &Bus) -> Result<WriterStats, Failure> {
    sync(bus)?;
    let now = || bus.supervisor().map(|supervisor| supervisor.status());
    let begin = Instant::now();
    let rounds = now().map_or(0, |status| status.rounds);
    let mut last = now().map(|status| status.log).unwrap_or_default();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let Some(status) = now() else {
            return Err(Failure::problem("the bus has no supervisor"));
        };
        if status.log.bytes == last.bytes && status.rounds > rounds {
            return Ok(status.log);
        }
        last = status.log;
        ensure(begin.elapsed() < PATIENCE, || {
            "the counters of the log do not come to rest".to_owned()
        })?;
    }
}

/// The files of a log.
fn log_files(disk: &Path) -> Result<Vec<PathBuf>, Failure> {
    let survey = tlog::survey(disk).map_err(Error::from)?;
    Ok(survey.files.into_iter().map(|file| file.path).collect())
}

/// Replays a log from its beginning.
fn replayed(disk: &Path, at_least: u64) -> Result<(State<Heap>, Replayed), Failure> {
    let options = OpenOptions {
        durable_at_least: at_least,
        ..OpenOptions::default()
    };
    let reader = LogReader::open(disk, options).map_err(Error::from)?;
    let mut state = State::new(Meta::default(), Heap::default());
    let done = state::replay(&mut state, reader, ReplayOptions::default()).map_err(Error::from)?;
    Ok((state, done))
}

/// Fails unless the bus, at rest, is whole and made `deltas` since `before`, and its log says all the same: `patches` of
/// pages from the beginning on.
fn check(bus: &Bus, disk: &Path, before: u64, deltas: u64, patches: u64) -> Result<(), Failure> {
    check_log(bus, before, deltas)?;
    sync(bus)?;
    let (state, _) = replayed(disk, bus.durable_lsn())?;
    check_state(bus, &state, patches)
}

/// Fails unless a replayed state is that of the bus, after so many patches of its pages.
fn check_state(bus: &Bus, state: &State<Heap>, patches: u64) -> Result<(), Failure> {
    ensure(state.lsn() >= bus.durable_lsn(), || {
        format!(
            "the log ends at LSN {}, and LSN {} was durable",
            state.lsn(),
            bus.durable_lsn()
        )
    })?;
    let live = bus.all_pages()?;
    let mut epochs = 0;
    ensure(state.pages().count() == live.len(), || {
        format!(
            "the log has {} pages and the bus {}",
            state.pages().count(),
            live.len()
        )
    })?;
    let mut bytes = Vec::new();
    for logged in state.pages() {
        let page = bus.page_by_id(logged.id())?;
        bytes.resize(page.size(), 0);
        let version = page.read_into(&mut bytes)?;
        ensure(
            (version.epoch, version.lsn) == (logged.epoch(), logged.lsn())
                && bytes == logged.bytes(),
            || {
                format!(
                    "page {} is at epoch {} and LSN {} on the bus, and in the log at epoch {} and LSN {}, or holds other \
                     bytes there",
                    logged.id(),
                    version.epoch,
                    version.lsn,
                    logged.epoch(),
                    logged.lsn()
                )
            },
        )?;
        epochs += logged.epoch();
    }
    ensure(epochs == patches, || {
        format!("the log has {epochs} patches, and {patches} were committed")
    })
}

/// Writes to some pages in turn, so that what they must hold follows from the number of writes.
struct Turns<'b> {
    pages: Vec<Page<'b>>,
    content: Vec<u8>,
    done: u64,
    last: u64,
}

impl<'b> Turns<'b> {
    fn new(bus: &'b Bus, pages: usize, bytes: usize) -> Result<Turns<'b>, Failure> {
        let new = |_| bus.create_page(mmsb::PageSpec::new(bytes as u64));
        Ok(Turns {
            pages: (0..pages).map(new).collect::<mmsb::Result<_>>()?,
            content: (0..bytes).map(|at| at as u8 ^ 0xa5).collect(),
            done: 0,
            last: 0,
        })
    }

    /// Writes the next page whole.
    #[inline(always)]
    fn write(&mut self) -> mmsb::Result<()> {
        self.write_by(|page, content| page.patch(0, content))
    }

    /// The same, on behalf of the delta at `cause`.
    fn write_caused(&mut self, cause: u64) -> mmsb::Result<()> {
        self.write_by(|page, content| page.caused_by(cause).patch(0, content))
    }

    #[inline(always)]
    fn write_by(
        &mut self,
        patch: impl FnOnce(&Page<'b>, &[u8]) -> mmsb::Result<u64>,
    ) -> mmsb::Result<()> {
        let page = &self.pages[self.done as usize % self.pages.len()];
        self.done += 1;
        self.content[..8].copy_from_slice(&self.done.to_le_bytes());
        self.last = patch(page, &self.content)?;
        Ok(())
    }

    /// Fails unless the pages hold what was written to them.
    fn check(&self) -> Result<(), Failure> {
        let count = self.pages.len() as u64;
        let mut bytes = self.content.clone();
        let mut newest = 0;
        for (at, page) in (0u64..).zip(&self.pages) {
            // Write number n went to page (n - 1) % count.
            let writes = (self.done + count - 1 - at) / count;
            let version = page.read_into(&mut bytes)?;
            newest = newest.max(version.lsn);
            let number = if writes == 0 {
                0
            } else {
                (writes - 1) * count + at + 1
            };
            let is_content = writes == 0 || bytes[8..] == self.content[8..];
            ensure(
                version.epoch == writes && super::super::rig::word(&bytes) == number && is_content,
                || {
                    format!(
                        "page {} is at epoch {}, and {writes} writes were made",
                        page.id(),
                        version.epoch
                    )
                },
            )?;
        }
        ensure(self.done == 0 || newest == self.last, || {
            format!(
                "the newest page is at LSN {newest}, and LSN {} was the last",
                self.last
            )
        })
    }
}
