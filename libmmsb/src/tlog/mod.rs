//! The transaction log: the delta ring of a bus, on disk.
//!
//! A directory per bus holds files of blocks; a block holds ring slots verbatim. [`LogWriter`] appends blocks and says
//! how far they are durable; [`LogReader`] gives them back, checked, beside a running writer too. The bytes are in
//! `docs/tlog-format.md`.

#[cfg(test)]
mod crash_tests;
mod disk;
mod error;
pub mod format;
mod maintain;
mod places;
pub mod reader;
#[cfg(test)]
mod seek_tests;
mod survey;
pub mod writer;

pub use disk::Backend;
pub use error::LogError;
pub use format::Fork;
pub use maintain::{
    Compressed, Cut, Removed, Repaired, Retention, compress_sealed, repair, retain,
};
pub(crate) use places::Places;
pub(crate) use reader::Begin;
pub use reader::{Block, LogEnd, LogReader, OpenOptions, Torn};
pub use survey::{LogFile, Survey, survey};
pub(crate) use survey::{extent, survey_from};
pub use writer::{BlockBuffer, DirLock, LogMeta, LogWriter, WriterConfig, WriterStats};
