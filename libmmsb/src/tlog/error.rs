//! Why the log could not be written or read; every message says what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on the files of a log failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A system call failed.
    #[error("cannot {what} {}: {source}; check the path, its permissions and the disk", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No room on the disk, or a quota is used up.
    #[error(
        "no room to {what} {}: {source}; free space there, or let retention keep less, then reopen the log",
        path.display()
    )]
    Full {
        /// The operation.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer, `ENOSPC` or `EDQUOT`.
        source: io::Error,
    },
    /// Bytes that were called durable are not what was written.
    #[error(
        "{} is damaged at byte {offset} (LSN {lsn}): {what}; restore the file from a copy, or cut the log there \
         with `mmsb repair`, which keeps the damaged bytes aside",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// First LSN that cannot be read.
        lsn: u64,
        /// Where in the file (in its uncompressed content).
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The file is not part of this log.
    #[error("{} is not part of this log: {what}; move it out of the directory", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// How it differs.
        what: String,
    },
    /// The file was written by a newer version.
    #[error(
        "{} has log format {major}, this program reads up to {}; use a newer MMSB",
        file.display(),
        super::format::MAJOR
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its major version.
        major: u32,
    },
    /// An earlier write or sync failed, so nothing more is written.
    #[error(
        "the log takes no more since an earlier failure ({because}); drop the writer and create another one at its \
         durable LSN {durable_lsn}"
    )]
    Poisoned {
        /// The first failure.
        because: String,
        /// Up to here (exclusive) everything is on the disk.
        durable_lsn: u64,
    },
    /// Another writer or a repair holds the directory.
    #[error(
        "{} is held by another supervisor or a repair; wait for it to end, or stop it",
        dir.display()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The log does not reach back that far.
    #[error(
        "LSN {wanted} is no longer in the log, which begins at {oldest}; start there, or from a checkpoint"
    )]
    Gone {
        /// What was asked for.
        wanted: u64,
        /// First LSN there is.
        oldest: u64,
    },
    /// What was read or asked for belongs to a past that was given up when the bus was rebuilt.
    #[error(
        "LSN {at} lies beyond {fork_lsn}, where incarnation {incarnation} of the bus began anew; go back to that LSN"
    )]
    Diverged {
        /// The new incarnation.
        incarnation: u64,
        /// Where it began.
        fork_lsn: u64,
        /// Where the caller was.
        at: u64,
    },
    /// The call makes no sense for this log.
    #[error("{what}; this is a mistake of the calling program")]
    Misuse {
        /// What is wrong with it.
        what: String,
    },
}

impl LogError {
    /// Sorts a failed system call by what can be done about it.
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>, source: io::Error) -> LogError {
        let path = path.as_ref().to_owned();
        let full = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT]
            .iter()
            .any(|e| source.raw_os_error() == Some(e.raw_os_error()));
        if full {
            LogError::Full { what, path, source }
        } else {
            LogError::Io { what, path, source }
        }
    }

    /// There is no room on the disk. Once there is, the log can be reopened.
    pub fn is_full(&self) -> bool {
        matches!(self, LogError::Full { .. })
    }

    /// The number of the system error behind it, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            LogError::Io { source, .. } | LogError::Full { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
