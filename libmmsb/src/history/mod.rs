//! Time travel: the state of a bus at any moment that its log still covers, what changed between two moments, who
//! changed it and why.
//!
//! A [`Log`] only reads: beside a running supervisor, after the bus is gone, or from a copy of the directory. It holds
//! no file open and looks at the directory for each question, so it sees what was logged since it was opened. It remembers
//! where blocks stand and which records name something (up to 35 MiB), so that further questions are answered sooner; clones
//! share that.
//!
//! # Which state
//! The state at LSN n holds every record up to n, with it; a transaction of which it holds a record, it holds whole. The
//! state at a time holds the records up to the last one that is not younger; records carry their time in steps of about
//! a millisecond. Retention removes old files: what is ahead of the oldest state that can be rebuilt is
//! [`HistoryError::Gone`].
//!
//! ```no_run
//! use mmsb::history::{At, Log};
//!
//! let log = Log::open("/var/lib/mmsb/plant")?;
//! let before = log.state_at(At::Lsn(1_000_000))?;
//! println!("{} pages, hash {:032x}", before.len(), before.hash());
//! for page in log.diff(At::Lsn(1_000_000), At::End)?.pages {
//!     println!("{}: {} ranges changed", page.id, page.ranges.len());
//! }
//! # Ok::<(), mmsb::history::HistoryError>(())
//! ```

mod changes;
mod diff;
mod naming;
mod records;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mmsb_shm::PageId;

use crate::checkpoint::{self, CheckpointError, CheckpointInfo};
use crate::state::{Heap, Meta, PageMemory, ReplayOptions, State, StateError, Until, replay};
use crate::tlog::{self, Begin, LogError, LogMeta, LogReader, OpenOptions, Places, Survey};
use naming::Namings;

pub use changes::{Cause, ChainEnd, Change, ChangedRange, Provenance};
pub use diff::{Diff, PageDiff, PageSummary, RangeDiff};
pub use records::{Filter, Names, Record, Records};
pub use verify::{CheckpointCheck, LiveReport, Mismatch, Report};

/// Why a question about the past has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(LogError),
    /// The log cannot be replayed.
    #[error(transparent)]
    State(StateError),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// There is no log.
    #[error("there is no log in {}", dir.display())]
    NoLog {
        /// The directory.
        dir: PathBuf,
    },
    /// Retention removed it.
    #[error("{wanted} is no longer in the log; the oldest that is left is LSN {oldest}")]
    Gone {
        /// What was asked for.
        wanted: At,
        /// The oldest LSN there is: of a state, if a state was asked for, of a record otherwise.
        oldest: u64,
    },
    /// It did not happen yet, or is not on the disk yet.
    #[error("LSN {wanted} is not in the log yet, which ends at LSN {end}")]
    Ahead {
        /// What was asked for.
        wanted: u64,
        /// Where the log ends.
        end: u64,
    },
    /// The log ends ahead of what a checkpoint holds.
    #[error("the log ends at LSN {end}, but checkpoint {} holds records up to LSN {needed}", path.display())]
    Short {
        /// The checkpoint.
        path: PathBuf,
        /// Where the log would have to go to.
        needed: u64,
        /// Where it ends.
        end: u64,
    },
    /// There was no such page at that time.
    #[error("there was no page {page} then")]
    NoPage {
        /// The page.
        page: PageId,
    },
    /// There is no record at this LSN.
    #[error("there is no record at LSN {lsn}")]
    NoRecord {
        /// The LSN.
        lsn: u64,
    },
}

impl From<StateError> for HistoryError {
    fn from(e: StateError) -> HistoryError {
        match e {
            StateError::Log(e) => HistoryError::from(e),
            other => HistoryError::State(other),
        }
    }
}

impl From<LogError> for HistoryError {
    fn from(e: LogError) -> HistoryError {
        match e {
            LogError::Gone { wanted, oldest } => HistoryError::Gone {
                wanted: At::Lsn(wanted),
                oldest,
            },
            other => HistoryError::Log(other),
        }
    }
}

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// With the record at this LSN and all ahead of it.
    Lsn(u64),
    /// With all records that are not younger (CLOCK_REALTIME, ns).
    Time(u64),
    /// As far as the log goes.
    End,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Lsn(lsn) => write!(f, "LSN {lsn}"),
            At::Time(ns) => write!(f, "time {}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000),
            At::End => f.write_str("the end"),
        }
    }
}

impl At {
    fn until(self) -> Until {
        match self {
            At::Lsn(lsn) => Until::Lsn(lsn),
            At::Time(ns) => Until::Time(ns),
            At::End => Until::End,
        }
    }
}

/// What a log covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// LSN of the oldest record.
    pub first_lsn: u64,
    /// The oldest LSN of which the state can be rebuilt.
    pub oldest_state: u64,
    /// LSN behind the last record.
    pub end_lsn: u64,
}

/// The log of a bus, with its checkpoints.
#[derive(Debug, Clone)]
pub struct Log {
    dir: PathBuf,
    checkpoints: PathBuf,
    meta: LogMeta,
    memory: Arc<Memory>,
}

/// What was found out about a log while it was read.
#[derive(Default)]
struct Memory {
    places: Arc<Places>,
    namings: Mutex<Namings>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Memory {
    fn namings(&self) -> MutexGuard<'_, Namings> {
        // Whole after each block that was added.
        self.namings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where replaying begins.
enum Start {
    Checkpoint(CheckpointInfo),
    /// The log reaches back to the creation of the bus.
    Birth,
}

impl Log {
    /// Opens the log in `dir`, whose checkpoints are there too.
    ///
    /// # Errors
    /// [`HistoryError::NoLog`], [`HistoryError::Log`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Log, HistoryError> {
        Log::open_with(dir.as_ref(), dir.as_ref())
    }

    /// Opens the log in `dir`, whose checkpoints are in another directory.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_with(
        dir: impl AsRef<Path>,
        checkpoints: impl AsRef<Path>,
    ) -> Result<Log, HistoryError> {
        let dir = dir.as_ref().to_owned();
        let memory = Arc::new(Memory::default());
        let Some(meta) = tlog::survey_from(&dir, Some(&memory.places))?.meta else {
            return Err(HistoryError::NoLog { dir });
        };
        Ok(Log {
            dir,
            checkpoints: checkpoints.as_ref().to_owned(),
            meta,
            memory,
        })
    }

    /// What is in the directory now, and where the log ends.
    fn survey(&self) -> Result<Survey, HistoryError> {
        Ok(tlog::survey_from(&self.dir, Some(&self.memory.places))?)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the log is of, as it was when this was opened.
    pub fn meta(&self) -> &LogMeta {
        &self.meta
    }

    fn state_meta(&self) -> Meta {
        Meta {
            log_id: self.meta.log_id,
            bus: self.meta.bus.clone(),
            incarnation: 0,
            created_ns: self.meta.created_ns,
            ring_slots: self.meta.ring_slots,
        }
    }

    /// What the log covers now.
    ///
    /// # Errors
    /// [`HistoryError::Log`], [`HistoryError::Checkpoint`].
    pub fn bounds(&self) -> Result<Bounds, HistoryError> {
        self.bounds_in(&self.survey()?)
    }

    fn bounds_in(&self, survey: &Survey) -> Result<Bounds, HistoryError> {
        let oldest = if self.reaches_back(survey.first_lsn) {
            Some(survey.first_lsn)
        } else {
            let usable = self.checkpoints()?;
            let usable = usable.iter().filter(|c| c.begin_lsn >= survey.first_lsn);
            usable.map(|c| c.end_lsn.saturating_sub(1)).min()
        };
        Ok(Bounds {
            first_lsn: survey.first_lsn,
            oldest_state: oldest.unwrap_or(survey.end.lsn),
            end_lsn: survey.end.lsn,
        })
    }

    /// A fresh ring begins with its second lap, so a log that begins no later holds all there ever was.
    fn reaches_back(&self, first_lsn: u64) -> bool {
        first_lsn <= u64::from(self.meta.ring_slots)
    }

    /// The checkpoints that belong to this log, newest first. Those of a past that was given up are left out.
    ///
    /// # Errors
    /// [`HistoryError::Checkpoint`].
    pub fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, HistoryError> {
        match checkpoint::of_log(&self.checkpoints, Some(&self.meta)) {
            Err(e) if e.is_missing() => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    /// Where replaying may begin for `at`, the best first.
    fn starts(&self, at: At) -> Result<Vec<Start>, HistoryError> {
        let survey = self.survey()?;
        if let At::Lsn(lsn) = at
            && lsn >= survey.end.lsn
        {
            return Err(HistoryError::Ahead {
                wanted: lsn,
                end: survey.end.lsn,
            });
        }
        let all = self.checkpoints()?;
        let mut starts: Vec<Start> = all
            .iter()
            .filter(|c| {
                c.begin_lsn >= survey.first_lsn
                    && match at {
                        At::Lsn(lsn) => c.end_lsn <= lsn + 1,
                        At::Time(ns) => c.time_ns <= ns,
                        At::End => true,
                    }
            })
            .cloned()
            .map(Start::Checkpoint)
            .collect();
        if self.reaches_back(survey.first_lsn) {
            starts.push(Start::Birth);
        }
        if starts.is_empty() {
            return Err(HistoryError::Gone {
                wanted: at,
                oldest: self.bounds_in(&survey)?.oldest_state,
            });
        }
        Ok(starts)
    }

    /// A reader of the blocks from `lsn` on, with the content that belongs to their records.
    fn reader(&self, from_lsn: u64, durable_at_least: u64) -> Result<LogReader, HistoryError> {
        self.reader_from(from_lsn, durable_at_least, Begin::Contents)
    }

    /// The same, with or without that content.
    fn reader_from(
        &self,
        from_lsn: u64,
        durable_at_least: u64,
        begin: Begin,
    ) -> Result<LogReader, HistoryError> {
        let options = OpenOptions {
            from_lsn,
            durable_at_least,
            ..OpenOptions::default()
        };
        let places = Some(Arc::clone(&self.memory.places));
        Ok(LogReader::open_from(&self.dir, options, begin, places)?)
    }

    /// The state at a moment: the newest checkpoint ahead of it, and the log from there.
    ///
    /// # Errors
    /// [`HistoryError::Gone`], [`HistoryError::Ahead`], and whatever is wrong with the files.
    pub fn state_at(&self, at: At) -> Result<State, HistoryError> {
        self.state_in(at, Heap::default, 0)
    }

    /// As [`Log::state_at`], with memory of the caller's for the pages, made anew for each checkpoint that is tried: a
    /// damaged one is passed over if an older one can serve. `threads` as in [`ReplayOptions`].
    ///
    /// # Errors
    /// As [`Log::state_at`].
    pub fn state_in<M: PageMemory>(
        &self,
        at: At,
        memory: impl Fn() -> M,
        threads: usize,
    ) -> Result<State<M>, HistoryError> {
        let (mut state, start) = self.begin(at, &memory, threads, None)?;
        self.go_on(&mut state, at, threads)?;
        check_consistent(&state, &start)?;
        Ok(state)
    }

    /// The best beginning for `at` that can be loaded.
    fn begin<M: PageMemory>(
        &self,
        at: At,
        memory: &impl Fn() -> M,
        threads: usize,
        only: Option<PageId>,
    ) -> Result<(State<M>, Start), HistoryError> {
        let mut failed = None;
        for start in self.starts(at)? {
            match &start {
                Start::Birth => return Ok((State::new(self.state_meta(), memory()), start)),
                Start::Checkpoint(info) => {
                    match checkpoint::load_only(&info.path, memory(), threads, only) {
                        Ok(state) => return Ok((state, start)),
                        // The newest one's trouble is told if no other serves.
                        Err(e) => failed = failed.or(Some(e)),
                    }
                }
            }
        }
        Err(match failed {
            Some(e) => e.into(),
            None => HistoryError::NoLog {
                dir: self.dir.clone(),
            },
        })
    }

    /// Replays on, from where the state is.
    fn go_on<M: PageMemory>(
        &self,
        state: &mut State<M>,
        at: At,
        threads: usize,
    ) -> Result<(), HistoryError> {
        let reader = self.reader(state.lsn(), state.consistent_from())?;
        let options = ReplayOptions {
            threads,
            until: at.until(),
            progress: None,
        };
        replay(state, reader, options)?;
        Ok(())
    }

    /// One page at a moment: as [`Log::state_at`], but nothing else is kept. The state has that page, or none.
    ///
    /// # Errors
    /// As [`Log::state_at`].
    pub fn page_at(&self, page: PageId, at: At) -> Result<State, HistoryError> {
        let (mut state, start) = self.begin(at, &Heap::default, 0, Some(page))?;
        let mut blocks = self.reader(state.lsn(), state.consistent_from())?;
        records::follow_page(&mut state, &mut blocks, page, at.until())?;
        check_consistent(&state, &start)?;
        Ok(state)
    }
}

fn check_consistent<M: PageMemory>(state: &State<M>, start: &Start) -> Result<(), HistoryError> {
    match start {
        Start::Checkpoint(info) if !state.is_consistent() => Err(HistoryError::Short {
            path: info.path.clone(),
            needed: info.end_lsn,
            end: state.lsn(),
        }),
        _ => Ok(()),
    }
}
