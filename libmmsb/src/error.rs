//! One error for everything this crate does, with the families of the layer below inside.

use std::fmt;

use mmsb_shm::schema::SchemaError;
use mmsb_shm::{AttachError, BusFull, Corrupt, PageError, PageId};

use crate::checkpoint::CheckpointError;
use crate::history::HistoryError;
use crate::state::StateError;
use crate::tlog::LogError;

/// Result of a fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed. Unless a variant says otherwise, nothing was changed.
///
/// The families keep all their numbers, so match on them where the case matters; the `is_*` methods answer the common
/// questions.
///
/// ```
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// use mmsb::{Bus, Error, PageError};
///
/// let bus = Bus::builder("errors").dir(dir.path()).create()?;
/// match bus.page("no/such/page") {
///     Err(Error::Page(PageError::NoSuchName(name))) => assert_eq!(name, "no/such/page"),
///     other => panic!("{other:?}"),
/// }
/// assert!(bus.page("no/such/page").unwrap_err().is_missing());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Creating, attaching, observing or removing a bus.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// An operation on pages or on the ring.
    #[error(transparent)]
    Page(#[from] PageError),
    /// A schema, or a value that does not fit one.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The page has no schema, so it has no fields.
    #[error("page {0} has no schema; give it one with `Bus::set_schema`, or use offsets")]
    NoSchema(PageId),
    /// The page's schema has no such field.
    #[error("the schema of page {page} has no field {field:?}")]
    NoSuchField {
        /// The page.
        page: PageId,
        /// The path asked for.
        field: String,
    },
    /// A page of one bus was given to another.
    #[error("page {0} belongs to another bus, or to another attachment of this one")]
    OtherBus(PageId),
    /// A transaction read a page that another writer changed meanwhile. It never leaves [`Bus::transaction`], which runs
    /// its closure again; return it from there with `?`. Who commits with [`Transaction::try_commit`] begins again.
    ///
    /// [`Bus::transaction`]: crate::Bus::transaction
    /// [`Transaction::try_commit`]: crate::Transaction::try_commit
    #[error("page {0} changed during the transaction; it is to be run again")]
    Conflict(PageId),
    /// The closure of a transaction gave up, see [`Error::abort`].
    #[error("aborted: {0}")]
    Aborted(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The files of a log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Replaying a log.
    #[error(transparent)]
    State(#[from] StateError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The past of a bus.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// What the supervisor's thread reported.
    #[error("{0}")]
    Supervisor(String),
    /// An LSN of an incarnation of the bus that was given up when it was rebuilt: from `fork_lsn` on its deltas are void.
    #[error(
        "LSN {lsn} of incarnation {incarnation} is beyond LSN {fork_lsn}, where the next one began; read the pages anew and \
         go on from there"
    )]
    Diverged {
        /// What was asked for.
        lsn: u64,
        /// Of which incarnation.
        incarnation: u64,
        /// Where the next one began.
        fork_lsn: u64,
    },
    /// A system call outside shared memory failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// What the closure of a transaction returns to leave everything as it is: `Err(Error::abort("no stock"))`.
    pub fn abort(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Aborted(why.into())
    }

    /// The ring is full and somebody holds it. The same call may succeed later.
    pub fn is_backpressure(&self) -> bool {
        matches!(self, Error::Page(PageError::Backpressure { .. }))
    }

    /// A living participant kept something for longer than the timeout. The same call may succeed later.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Error::Page(PageError::Timeout { .. }))
    }

    /// There is no bus or page of this name, or the page is gone.
    pub fn is_missing(&self) -> bool {
        matches!(
            self,
            Error::Attach(AttachError::Missing { .. })
                | Error::Page(PageError::NoSuchName(_) | PageError::PageGone(_))
        )
    }

    /// The delta is committed and visible, and not on disk: nobody should write it again.
    pub fn is_not_durable(&self) -> bool {
        matches!(self, Error::Page(PageError::NotDurable { .. }))
    }

    /// The page was destroyed (or the id never named one).
    pub fn is_page_gone(&self) -> bool {
        matches!(self, Error::Page(PageError::PageGone(_)))
    }

    /// Something of this name exists already.
    pub fn is_exists(&self) -> bool {
        matches!(
            self,
            Error::Attach(AttachError::Exists { .. }) | Error::Page(PageError::NameTaken(_))
        )
    }

    /// No room: in the tmpfs, the bus or one of its tables.
    pub fn full(&self) -> Option<&BusFull> {
        match self {
            Error::Attach(AttachError::Full(full)) | Error::Page(PageError::Full(full)) => {
                Some(full)
            }
            _ => None,
        }
    }

    /// Bytes in shared memory that no correct participant can have written.
    pub fn corrupt(&self) -> Option<Corrupt> {
        match self {
            Error::Attach(AttachError::Corrupt(c)) | Error::Page(PageError::Corrupt(c)) => Some(*c),
            _ => None,
        }
    }

    /// The handle was copied by a fork; the child must attach for itself.
    pub fn is_forked(&self) -> bool {
        matches!(self, Error::Page(PageError::Forked))
    }

    pub(crate) fn io(what: &'static str, source: impl Into<std::io::Error>) -> Error {
        Error::Io {
            what,
            source: source.into(),
        }
    }
}

impl From<BusFull> for Error {
    fn from(full: BusFull) -> Error {
        Error::Page(PageError::Full(full))
    }
}

impl From<Corrupt> for Error {
    fn from(corrupt: Corrupt) -> Error {
        Error::Page(PageError::Corrupt(corrupt))
    }
}

/// A `what` for [`Error`] messages about a waiting time that ran out.
pub(crate) fn timed_out(
    what: impl fmt::Display,
    holder: impl fmt::Display,
    waited: std::time::Duration,
) -> Error {
    PageError::Timeout {
        what: what.to_string(),
        holder: holder.to_string(),
        waited,
    }
    .into()
}
