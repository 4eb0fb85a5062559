//! A bus whose segments are gone, out of its log: the newest checkpoint, then the rest of the log, straight into the
//! memory of new segments.
//!
//! Nobody sees the new bus before it is whole: its objects get their names last, and a death ahead of that leaves nothing
//! but an empty log file. That file is there first, because it says that the new incarnation has begun: whoever sees
//! an LSN of the new incarnation, after another power cut too, sees it under a number that no other incarnation will
//! have (PROTOCOL D6).

use std::collections::BTreeMap;
use std::path::Path;

use mmsb_shm::restore::{PageBytes, Restorer};
use mmsb_shm::segment::{Draft, Start};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::testing::step;
use mmsb_shm::{AttachError, BusConfig, PageId};

use crate::checkpoint::{self, CheckpointError, CheckpointInfo};
use crate::error::{Error, Result};
use crate::state::{MemoryError, Meta, PageMemory, ReplayOptions, Source, State, replay};
use crate::tlog::{self, Fork, LogError, LogMeta, LogReader, LogWriter, OpenOptions, WriterConfig};

/// What a rebuild made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Its incarnation.
    pub incarnation: u64,
    /// Where the log ended, and the new incarnation begins.
    pub lsn: u64,
    /// Pages.
    pub pages: usize,
    /// Records replayed behind the checkpoint.
    pub records: u64,
    /// Whether there was a checkpoint.
    pub checkpoint: bool,
}

/// Page memory in the segments of a draft.
struct InSegments(Restorer);

impl PageMemory for InSegments {
    type Bytes = PageBytes;

    fn take(
        &mut self,
        _: PageId,
        size: u32,
        versions: u32,
    ) -> std::result::Result<PageBytes, MemoryError> {
        Ok(self.0.take(size, versions)?)
    }

    fn give_back(&mut self, _: PageId, bytes: PageBytes) {
        // It cannot fail for memory that was just taken; if it did, the memory would only stay unused.
        let _ = self.0.give_back(bytes);
    }
}

/// Makes the segments of the bus `name` in `segments` from the log in `dir`.
///
/// # Errors
/// [`Error::Log`], [`Error::Checkpoint`], [`Error::State`] for what is wrong with the files; [`Error::Attach`] if there is
/// such a bus by now, or no room for it.
pub(crate) fn rebuild(
    segments: &SegmentDir,
    name: &str,
    config_asked: &BusConfig,
    dir: &Path,
) -> Result<Rebuilt> {
    // The lock keeps others from writing, repairing or rebuilding here meanwhile.
    let lock = tlog::DirLock::take(dir)?;
    // Whoever had the lock before us linked the segments ahead of giving it back.
    if segments.object(name, "pages").exists() {
        return Err(AttachError::Exists {
            name: name.to_owned(),
            dir: segments.path().to_path_buf(),
        }
        .into());
    }
    step("rebuild.locked");
    let survey = tlog::survey(dir)?;
    if let Some(fault) = survey.fault {
        return Err(fault.into());
    }
    let Some(meta) = survey.meta else {
        return Err(Error::Supervisor(format!("{} holds no log", dir.display())));
    };
    // What can be read need not be on disk yet: its writer may have died ahead of that, with its writes in flight. Of all
    // files only the last can hold such.
    if let Some(last) = survey.files.last() {
        std::fs::File::open(&last.path)
            .and_then(|f| f.sync_all())
            .map_err(|e| LogError::io("sync", &last.path, e))?;
    }
    let (end, incarnation) = (survey.end.lsn, meta.incarnation + 1);
    let start = Start {
        incarnation,
        lsn: end,
        created_ns: meta.created_ns,
    };
    // Those that the new files will list: all incarnations but the first and the new one.
    let mut forks: Vec<Fork> = meta.forks.clone();
    forks.retain(|f| f.incarnation < meta.incarnation);
    if meta.incarnation > 1 {
        forks.push(Fork {
            incarnation: meta.incarnation,
            lsn: meta.fork_lsn,
        });
    }
    // One that holds more than the log proves that the log lost what was durable: it is tried like the others, and says so.
    let mut candidates: Vec<Option<CheckpointInfo>> = checkpoint::of_log(dir, Some(&meta))?
        .into_iter()
        .map(Some)
        .collect();
    // A fresh ring begins with its second lap, so a log that begins no later holds all there ever was.
    if survey.first_lsn <= u64::from(meta.ring_slots) {
        candidates.push(None);
    } else if candidates.is_empty() {
        return Err(LogError::Gone {
            wanted: meta.ring_slots.into(),
            oldest: survey.first_lsn,
        }
        .into());
    }
    let mut first_error = None;
    // As it was made, if that is written down; as the caller says otherwise.
    let config = candidates
        .iter()
        .flatten()
        .find_map(|c| c.config.clone())
        .or_else(|| meta.config.clone())
        .unwrap_or_else(|| config_asked.clone());
    // A damaged checkpoint is no loss as long as an older one, or the whole log, is there.
    for from in &candidates {
        let draft = Draft::new(segments, name, &config, Some(start))?;
        match fill(&draft, dir, &meta, end, from.as_ref()) {
            Ok((pages, records)) => {
                step("rebuild.filled");
                let next = LogMeta {
                    config: Some(config.clone()),
                    incarnation,
                    fork_lsn: end,
                    forks,
                    ring_slots: (config.ring_bytes / 64).next_power_of_two() as u32,
                    bus: name.to_owned(),
                    ..meta
                };
                // Says that the incarnation has begun, before anybody can see it. The lock is kept until it can be seen.
                let writer =
                    LogWriter::create_locked(lock, dir, next, end, WriterConfig::default())?;
                step("rebuild.said");
                draft.link()?;
                step("rebuild.linked");
                writer.close()?;
                step("rebuild.closed");
                return Ok(Rebuilt {
                    incarnation,
                    lsn: end,
                    pages,
                    records,
                    checkpoint: from.is_some(),
                });
            }
            Err(e @ Error::Checkpoint(CheckpointError::Damaged { .. })) => {
                first_error.get_or_insert(e);
            }
            // What is behind a damaged checkpoint tells more than that the log does not begin at the beginning.
            Err(e) => return Err(first_error.unwrap_or(e)),
        }
    }
    Err(first_error
        .unwrap_or_else(|| Error::Supervisor(format!("{} holds no state", dir.display()))))
}

/// Fills a draft with the state at the end of the log. Returns its pages, and how many records were replayed.
fn fill(
    draft: &Draft,
    dir: &Path,
    meta: &LogMeta,
    end: u64,
    from: Option<&CheckpointInfo>,
) -> Result<(usize, u64)> {
    let memory = InSegments(Restorer::new(draft)?);
    let mut state = match from {
        Some(info) => checkpoint::load(&info.path, memory)?,
        None => State::new(
            Meta {
                log_id: meta.log_id,
                bus: meta.bus.clone(),
                incarnation: meta.incarnation,
                created_ns: meta.created_ns,
                ring_slots: meta.ring_slots,
            },
            memory,
        ),
    };
    let reader = LogReader::open(
        dir,
        OpenOptions {
            from_lsn: state.lsn(),
            durable_at_least: state.consistent_from(),
            verify_crc: true,
        },
    )?;
    let done = replay(&mut state, reader, ReplayOptions::default())?;
    let (generations, sources) = (state.free_generations(), state.sources().clone());
    let (pages, InSegments(mut restorer)) = state.into_parts();
    tables(&mut restorer, &sources, &generations)?;
    let count = pages.len();
    for page in pages {
        let (id, epoch, lsn, cold) = (page.id(), page.epoch(), page.lsn(), page.cold().clone());
        restorer.place(id, page.into_bytes(), epoch, lsn, &cold)?;
    }
    restorer.attach_log(meta.log_id, end);
    Ok((count, done.records))
}

fn tables(
    restorer: &mut Restorer,
    sources: &BTreeMap<u16, Source>,
    generations: &[(u32, u32)],
) -> Result<()> {
    for (id, source) in sources {
        restorer.source(*id, &source.name, source.since_ns)?;
    }
    for (index, generation) in generations {
        restorer.free_number(*index, *generation)?;
    }
    Ok(())
}

/// Makes a bus with the pages, names and sources of `state`. Its LSNs go on where the state ends.
pub(crate) fn create_from<M: PageMemory>(
    segments: &SegmentDir,
    name: &str,
    config: &BusConfig,
    state: &State<M>,
    incarnation: u64,
) -> Result<()> {
    let start = (state.lsn() > 0).then(|| Start {
        incarnation,
        lsn: state.lsn().max(state.consistent_from()),
        created_ns: state.meta().created_ns,
    });
    let draft = Draft::new(segments, name, config, start)?;
    let mut restorer = Restorer::new(&draft)?;
    tables(&mut restorer, state.sources(), &state.free_generations())?;
    for page in state.pages() {
        let mut bytes = restorer.take(page.size(), page.versions())?;
        bytes.copy_from_slice(page.bytes());
        restorer.place(page.id(), bytes, page.epoch(), page.lsn(), page.cold())?;
    }
    drop(restorer);
    Ok(draft.link()?)
}
