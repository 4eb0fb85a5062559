//! Checkpoints: the pages of a bus in one file, each as it was at its own LSN, so that replaying need not begin at the
//! beginning.
//!
//! # Fuzzy
//! Writers go on while a checkpoint is taken. Every image is one state of its page, with its LSN; records from
//! [`begin_lsn`](CheckpointInfo::begin_lsn) on are replayed over the images, and each page skips what its image holds.
//! Together with all records ahead of [`end_lsn`](CheckpointInfo::end_lsn) that is the state at `end_lsn`: a checkpoint
//! serves every state from there on, and none ahead of it.
//!
//! # Crashes
//! A checkpoint is written under another name, synced, and gets its own only when the log holds everything that the
//! images hold; then the directory is synced. So there is the whole checkpoint or none, whenever the power goes, and no
//! checkpoint holds what the log has lost. Every byte of the file is covered by a checksum, and every page has a hash.
//! What a death leaves has the suffix `.tmp` and is removed with the next checkpoint.
//!
//! The bytes are in `docs/checkpoint-format.md`.
//!
//! ```
//! use mmsb::checkpoint;
//! use mmsb::state::{Heap, Meta, State};
//!
//! let dir = tempfile::tempdir()?;
//! let state = State::new(Meta::default(), Heap::default());
//! let info = checkpoint::write(dir.path(), &state, &checkpoint::Options::default(), &|_lsn| Ok(()))?;
//! assert_eq!(checkpoint::list(dir.path())?[0].path, info.path);
//! let again = checkpoint::load(&info.path, Heap::default())?;
//! assert_eq!(again.hash(), state.hash());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod format;
mod live;
mod load;
mod write;

use std::path::{Path, PathBuf};

use mmsb_shm::{BusConfig, Cold, PageId};

use crate::state::{Meta, PageMemory, PageShape, Source, State, StateError};
use crate::tlog::{Fork, LogMeta};

pub use live::{images, of_bus};
pub(crate) use load::load_only;
pub use load::{Description, describe, load, load_with, newest};
pub use write::{Step, write, write_stepwise};

/// Why something outside failed.
pub type OtherError = Box<dyn std::error::Error + Send + Sync>;

/// Why a checkpoint could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A system call failed.
    #[error("{what} {path:?}: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The file is not as it was written.
    #[error("checkpoint {path:?} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The file is no checkpoint, or of another log.
    #[error("{path:?} is no checkpoint of this log: {what}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How that shows.
        what: &'static str,
    },
    /// The file has a format that this version does not read.
    #[error("checkpoint {path:?} has format {found}, this version reads format {supported}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format of this version.
        supported: u32,
    },
    /// A page of it could not be put into the state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The source of the images failed.
    #[error("taking the images of the pages: {0}")]
    Source(#[source] OtherError),
    /// The log did not become durable as far as the images go, so there is no checkpoint.
    #[error("the log is not durable up to LSN {lsn}, which the checkpoint holds: {source}")]
    NotDurable {
        /// How far it would have to be.
        lsn: u64,
        /// Why it is not.
        source: OtherError,
    },
    /// A [step](write_stepwise) was refused. Everything is left as it was then.
    #[error("stopped ahead of {0:?}")]
    Stopped(Step),
}

impl CheckpointError {
    /// There is no such file or directory: removed since it was listed, perhaps.
    pub fn is_missing(&self) -> bool {
        matches!(self, CheckpointError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }

    fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError {
        move |source| CheckpointError::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

/// A checkpoint file, as its header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// The file.
    pub path: PathBuf,
    /// Random number of the log that it belongs to.
    pub log_id: [u64; 2],
    /// Name of the bus.
    pub bus: String,
    /// Incarnation of the bus.
    pub incarnation: u64,
    /// Replay begins here.
    pub begin_lsn: u64,
    /// No image holds a record from here on. The checkpoint serves the states from here on.
    pub end_lsn: u64,
    /// When it was done: CLOCK_REALTIME in ns. Every record ahead of `end_lsn` is older.
    pub time_ns: u64,
    /// Creation of the bus: CLOCK_REALTIME in ns.
    pub created_ns: u64,
    /// Slots of the ring.
    pub ring_slots: u32,
    /// What the bus was made for, if the source said so.
    pub config: Option<BusConfig>,
    /// Pages in it.
    pub pages: u64,
    /// Bytes of the pages.
    pub page_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

impl CheckpointInfo {
    /// Which log it comes from, as a state has it.
    pub fn meta(&self) -> Meta {
        Meta {
            log_id: self.log_id,
            bus: self.bus.clone(),
            incarnation: self.incarnation,
            created_ns: self.created_ns,
            ring_slots: self.ring_slots,
        }
    }

    fn file_name(&self) -> String {
        format!("{:020}-{:010}.{EXTENSION}", self.end_lsn, self.incarnation)
    }
}

const EXTENSION: &str = "ckpt";
/// Behind the name of a file that is being written.
const TMP: &str = "ckpt.tmp";

/// What an [`ImageSource`] says about a page, beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Id, version slots, epoch and LSN.
    pub shape: PageShape,
    /// Name, schema and metadata.
    pub cold: Cold,
}

/// Where the images come from: a live bus, or a [`State`].
///
/// [`write()`] calls [`begin_lsn`](ImageSource::begin_lsn) first, then [`pages`](ImageSource::pages), then
/// [`image`](ImageSource::image) by several threads at the same time, then the rest, and
/// [`end_lsn`](ImageSource::end_lsn) last.
pub trait ImageSource: Sync {
    /// Which log the bus writes.
    ///
    /// # Errors
    /// Whatever keeps it from telling. This and every other error of a source ends the checkpoint.
    fn meta(&self) -> Result<Meta, OtherError>;

    /// What the bus was made for, if known.
    fn config(&self) -> Option<BusConfig> {
        None
    }

    /// Every record ahead of this LSN is applied to its page by now.
    ///
    /// # Errors
    /// As above.
    fn begin_lsn(&self) -> Result<u64, OtherError>;

    /// Ids of all pages.
    ///
    /// # Errors
    /// As above.
    fn pages(&self) -> Result<Vec<PageId>, OtherError>;

    /// Makes `bytes` the content of a page at one moment, and says which state of it that is. `None`: it is gone.
    ///
    /// # Errors
    /// As above.
    fn image(&self, id: PageId, bytes: &mut Vec<u8>) -> Result<Option<Image>, OtherError>;

    /// Free page numbers that were used, with the generation of the last page that had them.
    ///
    /// # Errors
    /// As above.
    fn generations(&self) -> Result<Vec<(u32, u32)>, OtherError>;

    /// The sources of deltas, by number.
    ///
    /// # Errors
    /// As above.
    fn sources(&self) -> Result<Vec<(u16, Source)>, OtherError>;

    /// Nothing that the source gave so far holds a record at this LSN or behind it; and the time, which is not ahead of
    /// that of any record which it holds (CLOCK_REALTIME in ns).
    ///
    /// # Errors
    /// As above.
    fn end_lsn(&self) -> Result<(u64, u64), OtherError>;
}

impl<M: PageMemory + Sync> ImageSource for State<M> {
    fn meta(&self) -> Result<Meta, OtherError> {
        Ok(State::meta(self).clone())
    }

    fn begin_lsn(&self) -> Result<u64, OtherError> {
        Ok(self.lsn())
    }

    fn pages(&self) -> Result<Vec<PageId>, OtherError> {
        Ok(State::pages(self).map(|p| p.id()).collect())
    }

    fn image(&self, id: PageId, bytes: &mut Vec<u8>) -> Result<Option<Image>, OtherError> {
        Ok(self.page(id).map(|page| {
            bytes.clear();
            bytes.extend_from_slice(page.bytes());
            Image {
                shape: page.shape(),
                cold: page.cold().clone(),
            }
        }))
    }

    fn generations(&self) -> Result<Vec<(u32, u32)>, OtherError> {
        Ok(self.free_generations())
    }

    fn sources(&self) -> Result<Vec<(u16, Source)>, OtherError> {
        let sources = State::sources(self).iter();
        Ok(sources.map(|(id, s)| (*id, s.clone())).collect())
    }

    fn end_lsn(&self) -> Result<(u64, u64), OtherError> {
        Ok((self.consistent_from().max(self.lsn()), self.time_ns()))
    }
}

/// How far a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Pages done.
    pub pages: u64,
    /// Pages there were at the beginning.
    pub pages_total: u64,
    /// Bytes of the pages done.
    pub bytes: u64,
}

/// How to write a checkpoint.
#[derive(Clone, Copy)]
pub struct Options<'f> {
    /// Threads that read images and write them; 0: four, or as many as there are processors.
    pub threads: usize,
    /// Past the page cache, where the file system can.
    pub direct: bool,
    /// Called now and then, by whichever thread comes along.
    pub progress: Option<&'f (dyn Fn(Progress) + Sync)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            threads: 0,
            direct: true,
            progress: None,
        }
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("threads", &self.threads)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

/// The checkpoints in a directory, newest first: by name and header, which is checked; what is behind it is not. A file
/// that cannot be read as a checkpoint is left out: [`list_all`] says why.
///
/// # Errors
/// [`CheckpointError::Io`] if the directory cannot be read.
pub fn list(dir: &Path) -> Result<Vec<CheckpointInfo>, CheckpointError> {
    Ok(list_all(dir)?.into_iter().filter_map(Result::ok).collect())
}

/// As [`list`], with the files that cannot be read as checkpoints.
///
/// # Errors
/// [`CheckpointError::Io`] if the directory cannot be read.
#[allow(clippy::type_complexity)] // A list of results, and its own.
pub fn list_all(
    dir: &Path,
) -> Result<Vec<Result<CheckpointInfo, CheckpointError>>, CheckpointError> {
    let mut paths = files(dir, EXTENSION)?;
    // The LSN comes first in the name, with leading zeros.
    paths.sort_by(|a, b| b.file_name().cmp(&a.file_name()));
    let mut all: Vec<_> = paths.iter().map(|path| load::info(path)).collect();
    // A later incarnation is the newer one: LSNs of an earlier one that are greater were given up.
    all.sort_by_key(|info| {
        let newness = info.as_ref().map_or((0, 0), |i| (i.incarnation, i.end_lsn));
        std::cmp::Reverse(newness)
    });
    Ok(all)
}

/// The checkpoints in a directory that serve the log there, newest first: of that log, and not of a past that was given
/// up when a later incarnation began ahead of what they hold. Without a log there are none.
///
/// # Errors
/// [`CheckpointError::Io`] if the directory cannot be read.
pub fn of_log(dir: &Path, meta: Option<&LogMeta>) -> Result<Vec<CheckpointInfo>, CheckpointError> {
    let Some(meta) = meta else {
        return Ok(Vec::new());
    };
    let newest = Fork {
        incarnation: meta.incarnation,
        lsn: meta.fork_lsn,
    };
    let given_up = |c: &CheckpointInfo| {
        let mut forks = meta.forks.iter().chain([&newest]);
        forks.any(|f| f.incarnation > c.incarnation && f.lsn < c.end_lsn)
    };
    let mut list = list(dir)?;
    list.retain(|c| c.log_id == meta.log_id && !given_up(c));
    Ok(list)
}

/// Takes checkpoints that hold more than the log does out of use: a repair cut the log ahead of what they hold. They stay
/// under the name `<name>.damaged`. Returns their new paths.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn set_aside_beyond(
    dir: &Path,
    meta: &LogMeta,
    end_lsn: u64,
) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut aside = Vec::new();
    for info in of_log(dir, Some(meta))? {
        if info.end_lsn > end_lsn {
            let mut to = info.path.clone().into_os_string();
            to.push(".damaged");
            let to = PathBuf::from(to);
            std::fs::rename(&info.path, &to)
                .map_err(CheckpointError::io("renaming", &info.path))?;
            aside.push(to);
        }
    }
    if !aside.is_empty() {
        write::sync_dir(dir)?;
    }
    Ok(aside)
}

/// Files of `dir` whose name ends in `.suffix`.
fn files(dir: &Path, suffix: &str) -> Result<Vec<PathBuf>, CheckpointError> {
    let failed = |source| CheckpointError::Io {
        what: "reading the directory",
        path: dir.to_owned(),
        source,
    };
    let suffix = format!(".{suffix}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .file_name()
            .and_then(|n| n.to_str())
            .is_some_and(|n| n.ends_with(&suffix))
        {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes all but the `keep` newest checkpoints whose header can be read (at least one stays). Returns what was
/// removed. Files that are no checkpoints, or damaged, stay: a person should look at them.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn prune(dir: &Path, keep: usize) -> Result<Vec<CheckpointInfo>, CheckpointError> {
    let old: Vec<CheckpointInfo> = list(dir)?.into_iter().skip(keep.max(1)).collect();
    for info in &old {
        std::fs::remove_file(&info.path).map_err(CheckpointError::io("removing", &info.path))?;
        mmsb_shm::testing::step("checkpoint.pruned");
    }
    if !old.is_empty() {
        write::sync_dir(dir)?;
    }
    Ok(old)
}
