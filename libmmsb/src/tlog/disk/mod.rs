//! The door to the disk: everything that the writer does to files goes through [`Disk`], [`DiskFile`] and [`Engine`],
//! so that the tests can put a disk behind it that loses, tears, reorders and refuses.
//!
//! **What counts as durable.** Bytes of a completed write that was issued as synced ([`Engine`] writes and
//! [`DiskFile::write_synced`]), and everything written to a file before a completed [`DiskFile::sync`] began; names, by
//! a completed [`Disk::sync_dir`]. Nothing else.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

mod files;
mod uring;

#[cfg(test)]
pub(crate) mod faulty;

pub(crate) use files::RealDisk;

/// Memory that O_DIRECT takes: aligned to 4096, and it stays where it is.
pub(crate) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    /// Its number among the registered buffers.
    pub index: Option<u16>,
}

impl AlignedBuffer {
    /// Zeros.
    pub fn new(len: usize) -> AlignedBuffer {
        let memory = vec![0; len + super::format::SECTOR];
        let start = memory.as_ptr().align_offset(super::format::SECTOR);
        AlignedBuffer {
            memory,
            start,
            len,
            index: None,
        }
    }
}

impl std::ops::Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// How blocks reach the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, or plain system calls where it is refused.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// `pwritev2`, one write at a time.
    Plain,
}

/// The directory of a log.
pub(crate) trait Disk: Send + Sync {
    /// Whether files may be prepared by another thread; a simulated disk wants one order of everything.
    fn threads(&self) -> bool {
        true
    }
    /// Where it is, for messages.
    fn path(&self) -> &Path;
    /// Names in it.
    fn list(&self) -> io::Result<Vec<String>>;
    /// First bytes of a file.
    fn read_head(&self, name: &str) -> io::Result<Vec<u8>>;
    /// A new, empty file; fails if the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, in place of whatever had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// What writes blocks; it may register `buffers`.
    fn engine(
        &self,
        depth: usize,
        buffers: &mut [AlignedBuffer],
        backend: Backend,
    ) -> io::Result<Box<dyn Engine>>;
}

/// A file that is being written.
pub(crate) trait DiskFile: Send + Sync {
    /// Reserves room for `len` bytes and makes them zeros; with `written`, so that writing into them later changes
    /// nothing but the bytes. Not durable before [`DiskFile::sync`].
    fn allocate(&self, len: u64, written: bool) -> io::Result<()>;
    /// Writes all of `bytes` (an aligned buffer's beginning) at `at`, durably.
    fn write_synced(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes everything written so far durable, its length included.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file. Not durable before [`DiskFile::sync`].
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// What the engine of the same disk needs to know.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// A block on its way to the disk: the first `len` bytes of `buffer`, to be durable when it completes.
pub(crate) struct Write {
    pub file: Arc<dyn DiskFile>,
    pub at: u64,
    pub buffer: AlignedBuffer,
    pub len: usize,
    pub tag: u64,
}

/// A write that ended.
pub(crate) struct Completion {
    pub tag: u64,
    pub buffer: AlignedBuffer,
    /// `Ok`: every byte is durable.
    pub result: io::Result<()>,
}

/// How long [`Engine::reap`] waits for a first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all.
    None,
    /// So long.
    For(Duration),
    /// For ever.
    Forever,
}

/// Writes blocks, several at a time, completing in any order.
pub(crate) trait Engine: Send {
    /// Takes a write. It need not begin before [`Engine::reap`].
    fn submit(&mut self, write: Write);
    /// Begins what was submitted, and gathers what ended; waits for one if nothing has.
    ///
    /// # Errors
    /// The engine itself is broken; what was in flight may or may not be written.
    fn reap(&mut self, patience: Patience, out: &mut Vec<Completion>) -> io::Result<()>;
    /// Begins what was submitted, without waiting for it.
    fn start(&mut self) -> io::Result<()>;
    /// For messages and statistics.
    fn name(&self) -> &'static str;
}
