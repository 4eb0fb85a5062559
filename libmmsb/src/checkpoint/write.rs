//! Writing a checkpoint: threads that read images into chunks and write these where the file goes on.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};

use super::format::{
    ALIGN, Aligned, CHUNK, Entry, HEADER, Holds, IndexAt, RECORD, Record, encode_cold,
    encode_header, record_bytes,
};
use super::{CheckpointError, CheckpointInfo, Image, ImageSource, Options, Progress, TMP, files};
use crate::state::page_hash;

/// What is done to the file system, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A file under another name is made.
    Create,
    /// A chunk is written, somewhere in the file.
    Chunk,
    /// The index is written behind all chunks.
    Index,
    /// The header is written.
    Header,
    /// The file is synced.
    Sync,
    /// The log is waited for.
    Durable,
    /// The file gets its name.
    Rename,
    /// The directory is synced.
    SyncDirectory,
    /// All is done.
    Done,
}

impl Step {
    /// Its name among the crash steps.
    fn name(self) -> &'static str {
        match self {
            Step::Create => "checkpoint.create",
            Step::Chunk => "checkpoint.chunk",
            Step::Index => "checkpoint.index",
            Step::Header => "checkpoint.header",
            Step::Sync => "checkpoint.sync",
            Step::Durable => "checkpoint.durable",
            Step::Rename => "checkpoint.rename",
            Step::SyncDirectory => "checkpoint.renamed",
            Step::Done => "checkpoint.done",
        }
    }
}

/// How much longer than needed the file is made at a time: a write that makes a file longer holds up the others.
const AHEAD: u64 = 128 << 20;
/// Images between two calls of `progress`, per thread.
const PROGRESS_EVERY: u64 = 256;
/// Pages that a thread takes at a time.
const PAGES_AT_ONCE: usize = 16;

/// Writes a checkpoint of `source` into `dir`. `durable` waits until the log is durable up to the LSN that it is given
/// (everything ahead of it), and only then the checkpoint gets its name.
///
/// Several callers may do so in one directory: what a dead one was writing is removed, what a living one writes is not.
///
/// # Errors
/// [`CheckpointError::Io`], [`CheckpointError::Source`], [`CheckpointError::NotDurable`]. There is no new checkpoint
/// then, except that a directory that could not be synced may show it, whole.
pub fn write(
    dir: &Path,
    source: &dyn ImageSource,
    options: &Options<'_>,
    durable: &dyn Fn(u64) -> Result<(), super::OtherError>,
) -> Result<CheckpointInfo, CheckpointError> {
    write_stepwise(dir, source, options, durable, &|_| true)
}

/// As [`write()`], asking ahead of every step whether to go on. After a `false` all is left as a death there leaves it: for
/// crash tests.
///
/// # Errors
/// As [`write()`]; [`CheckpointError::Stopped`].
pub fn write_stepwise(
    dir: &Path,
    source: &dyn ImageSource,
    options: &Options<'_>,
    durable: &dyn Fn(u64) -> Result<(), super::OtherError>,
    go_on: &(dyn Fn(Step) -> bool + Sync),
) -> Result<CheckpointInfo, CheckpointError> {
    for left in files(dir, TMP)? {
        if is_abandoned(&left) {
            // If it cannot be removed, it only takes room.
            let _ = std::fs::remove_file(left);
        }
    }
    ask(go_on, Step::Create)?;
    // Relaxed: only told apart.
    let n = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("{:010}-{n}.{TMP}", std::process::id()));
    let result = write_to(dir, &path, source, options, durable, go_on);
    if let Err(e) = &result
        && !matches!(e, CheckpointError::Stopped(_))
    {
        let _ = std::fs::remove_file(&path);
    }
    result
}

/// Checkpoints that this process began, for their names.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Whether nobody writes the file any more: who does keeps it locked.
fn is_abandoned(path: &Path) -> bool {
    File::open(path)
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

fn ask(go_on: &dyn Fn(Step) -> bool, step: Step) -> Result<(), CheckpointError> {
    mmsb_shm::testing::step(step.name());
    if go_on(step) {
        Ok(())
    } else {
        Err(CheckpointError::Stopped(step))
    }
}

fn write_to(
    dir: &Path,
    path: &Path,
    source: &dyn ImageSource,
    options: &Options<'_>,
    durable: &dyn Fn(u64) -> Result<(), super::OtherError>,
    go_on: &(dyn Fn(Step) -> bool + Sync),
) -> Result<CheckpointInfo, CheckpointError> {
    let out = Out {
        file: create(path, options.direct)?,
        path: path.to_owned(),
        end: AtomicU64::new(HEADER as u64),
        allocated: AtomicU64::new(0),
        entries: Mutex::new(Vec::new()),
        go_on,
    };
    let meta = source.meta().map_err(CheckpointError::Source)?;
    let begin_lsn = source.begin_lsn().map_err(CheckpointError::Source)?;
    mmsb_shm::testing::step("checkpoint.begun");
    let ids = source.pages().map_err(CheckpointError::Source)?;
    let done = Done {
        next: AtomicUsize::new(0),
        pages: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let threads = match options.threads {
        // Writes past the page cache keep their thread waiting: more of them than processors.
        0 => std::thread::available_parallelism().map_or(4, |n| n.get().max(4)),
        n => n,
    }
    .min(ids.len().max(1));
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let result = images(&out, source, &ids, &done, options);
                    if result.is_err() {
                        // Relaxed: a hint; the error comes by `join`.
                        done.stop.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join()).collect()
    });
    for result in results {
        match result {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    let mut chunk = Chunk::new();
    mmsb_shm::testing::step("checkpoint.imaged");
    let generations = source.generations().map_err(CheckpointError::Source)?;
    for (index, generation) in generations {
        let bytes = chunk.room(8, Holds::Generations, &out)?;
        bytes[..4].copy_from_slice(&index.to_le_bytes());
        bytes[4..].copy_from_slice(&generation.to_le_bytes());
    }
    chunk.flush(&out)?;
    for (id, s) in source.sources().map_err(CheckpointError::Source)? {
        let name = s.name.as_bytes();
        let name = &name[..name.len().min(255)];
        let bytes = chunk.room(16 + name.len().next_multiple_of(8), Holds::Sources, &out)?;
        bytes.fill(0);
        bytes[..8].copy_from_slice(&s.since_ns.to_le_bytes());
        bytes[8..10].copy_from_slice(&id.to_le_bytes());
        bytes[12..16].copy_from_slice(&(name.len() as u32).to_le_bytes());
        bytes[16..16 + name.len()].copy_from_slice(name);
    }
    chunk.flush(&out)?;
    let (end_lsn, time_ns) = source.end_lsn().map_err(CheckpointError::Source)?;
    let info = CheckpointInfo {
        path: PathBuf::new(),
        log_id: meta.log_id,
        bus: meta.bus,
        incarnation: meta.incarnation,
        begin_lsn,
        end_lsn: end_lsn.max(begin_lsn),
        time_ns,
        created_ns: meta.created_ns,
        ring_slots: meta.ring_slots,
        config: source.config(),
        pages: done.pages.into_inner(),
        page_bytes: done.bytes.into_inner(),
        file_bytes: 0,
    };
    finish(dir, out, info, durable)
}

/// Index, header, sync, name.
fn finish(
    dir: &Path,
    out: Out<'_>,
    mut info: CheckpointInfo,
    durable: &dyn Fn(u64) -> Result<(), super::OtherError>,
) -> Result<CheckpointInfo, CheckpointError> {
    let io = |what| CheckpointError::io(what, &out.path);
    let mut entries = out
        .entries
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    entries.sort_by_key(|e| e.at);
    let mut bytes = Vec::with_capacity(entries.len() * super::format::ENTRY);
    for entry in entries.iter() {
        entry.encode(&mut bytes);
    }
    let mut index = Aligned::new(bytes.len().next_multiple_of(ALIGN));
    index.bytes()[..bytes.len()].copy_from_slice(&bytes);
    let at = IndexAt {
        at: out.end.load(Ordering::Acquire),
        entries: entries.len() as u64,
        crc: crc32c::crc32c(index.bytes()),
    };
    ask(out.go_on, Step::Index)?;
    out.file
        .write_all_at(index.bytes(), at.at)
        .map_err(io("writing"))?;
    ask(out.go_on, Step::Header)?;
    let mut header = Aligned::new(HEADER);
    encode_header(&info, &at, header.bytes());
    out.file
        .write_all_at(header.bytes(), 0)
        .map_err(io("writing"))?;
    info.file_bytes = at.at + index.bytes().len() as u64;
    // Gives back what was asked for and not needed.
    out.file
        .set_len(info.file_bytes)
        .map_err(io("setting the length of"))?;
    ask(out.go_on, Step::Sync)?;
    out.file.sync_all().map_err(io("syncing"))?;
    ask(out.go_on, Step::Durable)?;
    durable(info.end_lsn).map_err(|source| CheckpointError::NotDurable {
        lsn: info.end_lsn,
        source,
    })?;
    ask(out.go_on, Step::Rename)?;
    info.path = dir.join(info.file_name());
    std::fs::rename(&out.path, &info.path).map_err(io("renaming"))?;
    ask(out.go_on, Step::SyncDirectory)?;
    sync_dir(dir)?;
    ask(out.go_on, Step::Done)?;
    Ok(info)
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), CheckpointError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(CheckpointError::io("syncing", dir))
}

fn create(path: &Path, direct: bool) -> Result<File, CheckpointError> {
    let open = |flags: OFlags| {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(flags.bits() as i32)
            .open(path)?;
        // A file system without locks: two writers at once then stand in each other's way, and say so.
        let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(file)
    };
    if direct && let Ok(file) = open(OFlags::DIRECT) {
        return Ok(file);
    }
    open(OFlags::empty()).map_err(CheckpointError::io("creating", path))
}

/// The file, as its writers share it.
struct Out<'f> {
    file: File,
    path: PathBuf,
    /// Where it goes on.
    end: AtomicU64,
    /// Up to where room was asked for.
    allocated: AtomicU64,
    entries: Mutex<Vec<Entry>>,
    go_on: &'f (dyn Fn(Step) -> bool + Sync),
}

impl Out<'_> {
    fn allocate(&self, end: u64) {
        let had = self.allocated.load(Ordering::Relaxed);
        if end > had {
            let up_to = (end + AHEAD / 2).next_multiple_of(AHEAD);
            // Relaxed: who is late only asks twice for the same, or writes where no room was asked for.
            if self.allocated.fetch_max(up_to, Ordering::Relaxed) < up_to {
                // Where it cannot be had, the write says so, or makes it.
                let _ = fallocate(&self.file, FallocateFlags::empty(), had, up_to - had);
            }
        }
    }
}

/// A chunk that is being filled.
struct Chunk {
    buffer: Aligned,
    used: usize,
    records: u32,
    holds: Holds,
}

impl Chunk {
    fn new() -> Chunk {
        Chunk {
            buffer: Aligned::new(CHUNK),
            used: 0,
            records: 0,
            holds: Holds::Pages,
        }
    }

    fn left(&self) -> usize {
        CHUNK - self.used
    }

    /// Room for one record of `bytes` bytes, which no record exceeds that fits an empty chunk.
    fn room(
        &mut self,
        bytes: usize,
        holds: Holds,
        out: &Out<'_>,
    ) -> Result<&mut [u8], CheckpointError> {
        if bytes > self.left() || (holds != self.holds && self.used > 0) {
            self.flush(out)?;
        }
        self.holds = holds;
        let at = self.used;
        self.used += bytes;
        self.records += 1;
        Ok(&mut self.buffer.bytes()[at..at + bytes])
    }

    /// Writes it where the file goes on.
    fn flush(&mut self, out: &Out<'_>) -> Result<(), CheckpointError> {
        if self.used == 0 {
            return Ok(());
        }
        ask(out.go_on, Step::Chunk)?;
        let used = self.used;
        let padded = used.next_multiple_of(ALIGN);
        let bytes = &mut self.buffer.bytes()[..padded];
        bytes[used..].fill(0);
        // AcqRel: every place is given once.
        let at = out.end.fetch_add(padded as u64, Ordering::AcqRel);
        out.allocate(at + padded as u64);
        let entry = Entry {
            at,
            len: used as u32,
            crc: crc32c::crc32c(bytes),
            holds: self.holds as u32,
            records: self.records,
        };
        out.file
            .write_all_at(bytes, at)
            .map_err(CheckpointError::io("writing", &out.path))?;
        out.entries
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(entry);
        (self.used, self.records) = (0, 0);
        Ok(())
    }

    /// Adds a page, in parts if it has to be.
    fn add(&mut self, image: &Image, bytes: &[u8], out: &Out<'_>) -> Result<(), CheckpointError> {
        let hash = page_hash(&image.shape, &image.cold, bytes);
        let cold = encode_cold(&image.cold);
        let whole = record_bytes(cold.len(), bytes.len());
        if whole > self.left() && (whole <= CHUNK || self.left() < CHUNK / 4) {
            self.flush(out)?;
        }
        let (mut offset, mut cold) = (0, &cold[..]);
        while offset < bytes.len() {
            if self.left() < RECORD + cold.len().next_multiple_of(8) + 8 {
                self.flush(out)?;
            }
            let room = self.left() - RECORD - cold.len().next_multiple_of(8);
            let part = &bytes[offset..bytes.len().min(offset + room / 8 * 8)];
            let record = Record {
                shape: image.shape,
                size: bytes.len() as u32,
                hash,
                offset: offset as u32,
                cold,
                bytes: part,
            };
            let target = self.room(record_bytes(cold.len(), part.len()), Holds::Pages, out)?;
            record.encode(target);
            offset += part.len();
            cold = &[];
        }
        Ok(())
    }
}

/// What the threads share.
struct Done {
    next: AtomicUsize,
    pages: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

/// One thread: images into chunks.
fn images(
    out: &Out<'_>,
    source: &dyn ImageSource,
    ids: &[mmsb_shm::PageId],
    done: &Done,
    options: &Options<'_>,
) -> Result<(), CheckpointError> {
    let mut chunk = Chunk::new();
    let mut bytes = Vec::new();
    let mut since = 0;
    loop {
        // Relaxed: only tells them apart.
        let first = done.next.fetch_add(PAGES_AT_ONCE, Ordering::Relaxed);
        let Some(mine) = ids.get(first..ids.len().min(first + PAGES_AT_ONCE)) else {
            break;
        };
        for id in mine {
            if done.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let image = source
                .image(*id, &mut bytes)
                .map_err(CheckpointError::Source)?;
            let Some(image) = image else {
                continue;
            };
            chunk.add(&image, &bytes, out)?;
            // Relaxed: counts.
            let pages = done.pages.fetch_add(1, Ordering::Relaxed) + 1;
            let len = bytes.len() as u64;
            let bytes = done.bytes.fetch_add(len, Ordering::Relaxed) + len;
            since += 1 + len / 4096;
            if let Some(progress) = options.progress
                && since >= PROGRESS_EVERY
            {
                since = 0;
                progress(Progress {
                    pages,
                    pages_total: ids.len() as u64,
                    bytes,
                });
            }
        }
    }
    chunk.flush(out)
}
