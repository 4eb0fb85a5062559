//! Reading a checkpoint: every byte checked, chunks by several threads.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mmsb_shm::layout::page::VERSIONS_MAX;
use mmsb_shm::layout::{PAGE_BYTES_MAX, SOURCE_BYTES_MAX};
use mmsb_shm::{Cold, PageId};
use rustix::fs::OFlags;

use super::format::{
    Aligned, CHUNK, CHUNK_MAX, ENTRY, Entry, HEADER, Holds, IndexAt, Record, decode_cold,
    decode_header, u32_at, u64_at,
};
use super::{CheckpointError, CheckpointInfo, list};
use crate::state::{Loaded, PageMemory, PageShape, Source, State, page_hash};

/// Reads and checks the header, and the length of the file.
pub(super) fn info(path: &Path) -> Result<CheckpointInfo, CheckpointError> {
    open(path).map(|opened| opened.info)
}

struct Opened {
    file: File,
    /// The same past the page cache, where the file system can: several large reads at a time are then what a disk is
    /// quick at, in whatever order they come.
    direct: Option<File>,
    info: CheckpointInfo,
    index: IndexAt,
}

fn open(path: &Path) -> Result<Opened, CheckpointError> {
    // A name of ours that leads elsewhere is not ours, and a pipe must not keep us.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags: OFlags| {
        std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(path)
    };
    let file = open(flags).map_err(CheckpointError::io("opening", path))?;
    let about = file
        .metadata()
        .map_err(CheckpointError::io("looking at", path))?;
    let len = about.len();
    if !about.is_file() {
        return Err(CheckpointError::Foreign {
            path: path.to_owned(),
            what: "it is no plain file",
        });
    }
    let mut header = vec![0; HEADER.min(len as usize)];
    file.read_exact_at(&mut header, 0)
        .map_err(CheckpointError::io("reading", path))?;
    let (info, index) = decode_header(path, &header)?;
    if len != info.file_bytes {
        return Err(CheckpointError::Damaged {
            path: path.to_owned(),
            offset: len.min(info.file_bytes),
            what: "length of the file",
        });
    }
    let direct = open(flags | OFlags::DIRECT).ok().filter(|direct| {
        // The same file still, not one that came in its place.
        let id = |m: &std::fs::Metadata| (m.dev(), m.ino());
        direct.metadata().is_ok_and(|now| id(&now) == id(&about))
    });
    Ok(Opened {
        file,
        direct,
        info,
        index,
    })
}

/// The newest checkpoint in `dir` that serves the state at `lsn` (any, if `None`) and whose header is good. Whether the
/// rest is, [`load`] says.
///
/// # Errors
/// [`CheckpointError::Io`] if the directory cannot be read.
pub fn newest(dir: &Path, lsn: Option<u64>) -> Result<Option<CheckpointInfo>, CheckpointError> {
    Ok(list(dir)?
        .into_iter()
        .find(|info| lsn.is_none_or(|lsn| info.end_lsn <= lsn)))
}

/// Reads a checkpoint into a state, with `memory` for its pages, by as many threads as there are processors. Replay goes
/// on at the state's LSN.
///
/// # Errors
/// All of [`CheckpointError`] but those of writing. Whatever is wrong with the file is found.
pub fn load<M: PageMemory>(path: &Path, memory: M) -> Result<State<M>, CheckpointError> {
    load_with(path, memory, 0)
}

/// As [`load`], with `threads` threads; 0: as many as there are processors.
///
/// # Errors
/// As [`load`].
pub fn load_with<M: PageMemory>(
    path: &Path,
    memory: M,
    threads: usize,
) -> Result<State<M>, CheckpointError> {
    load_only(path, memory, threads, None)
}

/// As [`load_with`], keeping one page only, if it is said which. All others are read and checked, but for their hashes.
pub(crate) fn load_only<M: PageMemory>(
    path: &Path,
    memory: M,
    threads: usize,
    only: Option<PageId>,
) -> Result<State<M>, CheckpointError> {
    let Opened {
        file,
        direct,
        info,
        index,
    } = open(path)?;
    let mut state = State::new(info.meta(), memory);
    let entries = read_index(path, &file, &index)?;
    let threads = match threads {
        // Who waits for the disk needs no processor.
        0 => std::thread::available_parallelism().map_or(4, |n| n.get().max(4)),
        n => n,
    }
    .clamp(1, 64);
    let job = Job {
        path,
        file: &file,
        direct: direct.as_ref(),
        info: &info,
        entries: &entries,
        next: AtomicUsize::new(0),
        parts: Mutex::new(HashMap::new()),
        only,
    };
    let results: Vec<_> = {
        let (state, job) = (&state, &job);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| scope.spawn(move || job.work(state)))
                .collect();
            workers.into_iter().map(|w| w.join()).collect()
        })
    };
    let damaged = |what| CheckpointError::Damaged {
        path: path.to_owned(),
        offset: HEADER as u64,
        what,
    };
    let mut found = Found::default();
    let mut errors = Vec::new();
    for result in results {
        match result {
            Ok(Ok(part)) => found.add(part),
            Ok(Err(e)) => errors.push(e),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    // The first in the file, so that a report does not depend on which thread was quicker.
    errors.sort_by_key(|e| match e {
        CheckpointError::Damaged { offset, .. } => *offset,
        _ => u64::MAX,
    });
    if let Some(e) = errors.into_iter().next() {
        return Err(e);
    }
    let parts = job
        .parts
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if !parts.is_empty() {
        return Err(damaged("part of a page is missing"));
    }
    let bytes: u64 = found
        .pages
        .iter()
        .map(|p| p.bytes.as_ref().len() as u64)
        .sum();
    if only.is_none() && (found.pages.len() as u64, bytes) != (info.pages, info.page_bytes) {
        return Err(damaged("number of pages"));
    }
    found.pages.sort_unstable_by_key(|p| p.shape.id);
    if found
        .pages
        .windows(2)
        .any(|two| two[0].shape.id.index == two[1].shape.id.index)
    {
        // Taken one after the other, a number may have changed hands; but a list has each number once.
        return Err(damaged("two pages with one number"));
    }
    for page in found.pages {
        state.insert(page)?;
    }
    for (index, generation) in found.generations {
        state.set_generation(index, generation)?;
    }
    for (id, source) in found.sources {
        state.set_source(id, source);
    }
    state.set_position(info.begin_lsn, info.end_lsn, info.time_ns);
    Ok(state)
}

fn read_index(path: &Path, file: &File, index: &IndexAt) -> Result<Vec<Entry>, CheckpointError> {
    let damaged = |what| CheckpointError::Damaged {
        path: path.to_owned(),
        offset: index.at,
        what,
    };
    // The header vouches for its length, and the length of the file for that there is so much.
    let bytes = index
        .file_bytes()
        .and_then(|end| end.checked_sub(index.at))
        .and_then(|len| usize::try_from(len).ok())
        .ok_or(damaged("length of the index"))?;
    let mut table = vec![0; bytes];
    file.read_exact_at(&mut table, index.at)
        .map_err(CheckpointError::io("reading", path))?;
    if crc32c::crc32c(&table) != index.crc {
        return Err(damaged("checksum of the index"));
    }
    let mut expected = HEADER as u64;
    let mut entries = Vec::new();
    for bytes in table.chunks_exact(ENTRY).take(index.entries as usize) {
        let entry = Entry::decode(bytes).ok_or(damaged("index"))?;
        if entry.at != expected || entry.len == 0 || entry.len > CHUNK_MAX {
            return Err(damaged("entry of the index"));
        }
        expected += entry.padded() as u64;
        entries.push(entry);
    }
    if expected != index.at {
        return Err(damaged("chunks do not fill the file"));
    }
    Ok(entries)
}

/// A page of which parts are here.
struct Parts<B> {
    shape: PageShape,
    cold: Option<Cold>,
    hash: u128,
    bytes: B,
    /// Bytes that came.
    found: u64,
    seen: Vec<(u32, u32)>,
}

type Assembly<B> = Arc<Mutex<Option<Parts<B>>>>;

struct Job<'f, B> {
    path: &'f Path,
    file: &'f File,
    direct: Option<&'f File>,
    info: &'f CheckpointInfo,
    entries: &'f [Entry],
    next: AtomicUsize,
    parts: Mutex<HashMap<PageId, Assembly<B>>>,
    /// The page that is wanted, if not all are.
    only: Option<PageId>,
}

/// What one thread found.
struct Found<B> {
    pages: Vec<Loaded<B>>,
    generations: Vec<(u32, u32)>,
    sources: Vec<(u16, Source)>,
}

impl<B> Default for Found<B> {
    fn default() -> Found<B> {
        Found {
            pages: Vec::new(),
            generations: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl<B> Found<B> {
    fn add(&mut self, other: Found<B>) {
        self.pages.extend(other.pages);
        self.generations.extend(other.generations);
        self.sources.extend(other.sources);
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]> + Send + Sync> Job<'_, B> {
    fn work<M: PageMemory<Bytes = B>>(
        &self,
        state: &State<M>,
    ) -> Result<Found<B>, CheckpointError> {
        let mut found = Found::default();
        let mut buffer = Aligned::new(CHUNK);
        loop {
            // Relaxed: only tells them apart.
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = self.entries.get(i) else {
                return Ok(found);
            };
            let result = self.chunk(state, entry, &mut buffer, &mut found);
            if result.is_err() {
                // The others need not go on.
                self.next.fetch_max(self.entries.len(), Ordering::Relaxed);
            }
            result?;
        }
    }

    fn chunk<M: PageMemory<Bytes = B>>(
        &self,
        state: &State<M>,
        entry: &Entry,
        buffer: &mut Aligned,
        found: &mut Found<B>,
    ) -> Result<(), CheckpointError> {
        let damaged = |what| CheckpointError::Damaged {
            path: self.path.to_owned(),
            offset: entry.at,
            what,
        };
        if entry.padded() > buffer.bytes().len() {
            *buffer = Aligned::new(entry.padded());
        }
        let buffer = &mut buffer.bytes()[..entry.padded()];
        let direct = self
            .direct
            .is_some_and(|file| file.read_exact_at(buffer, entry.at).is_ok());
        if !direct {
            self.file
                .read_exact_at(buffer, entry.at)
                .map_err(CheckpointError::io("reading", self.path))?;
        }
        if crc32c::crc32c(buffer) != entry.crc {
            return Err(damaged("checksum of a chunk"));
        }
        let mut rest = &buffer[..entry.len as usize];
        for _ in 0..entry.records {
            if entry.holds == Holds::Pages as u32 {
                let record = Record::decode(&mut rest).ok_or(damaged("page"))?;
                if self.only.is_none_or(|only| only == record.shape.id)
                    && let Some(page) = self.page(state, entry.at, &record)?
                {
                    found.pages.push(page);
                }
            } else if entry.holds == Holds::Generations as u32 {
                let (index, generation) = u32_at(rest, 0)
                    .zip(u32_at(rest, 4))
                    .ok_or(damaged("free number"))?;
                rest = &rest[8..];
                found.generations.push((index, generation));
            } else if entry.holds == Holds::Sources as u32 {
                let (source, bytes) = source(rest).ok_or(damaged("source"))?;
                rest = rest.get(bytes..).ok_or(damaged("source"))?;
                found.sources.push(source);
            } else {
                return Err(damaged("kind of a chunk"));
            }
        }
        if !rest.is_empty() {
            return Err(damaged("length of a chunk"));
        }
        Ok(())
    }

    /// A page, if this record makes it whole.
    fn page<M: PageMemory<Bytes = B>>(
        &self,
        state: &State<M>,
        at: u64,
        record: &Record<'_>,
    ) -> Result<Option<Loaded<B>>, CheckpointError> {
        let damaged = |what| CheckpointError::Damaged {
            path: self.path.to_owned(),
            offset: at,
            what,
        };
        let (shape, size) = (record.shape, record.size);
        let range = record.offset as usize..record.offset as usize + record.bytes.len();
        if size == 0 || u64::from(size) > PAGE_BYTES_MAX || range.end > size as usize {
            return Err(damaged("size of a page"));
        }
        if shape.versions == 0 || shape.versions > VERSIONS_MAX {
            return Err(damaged("version slots of a page"));
        }
        if shape.lsn >= self.info.end_lsn {
            return Err(damaged("LSN of a page"));
        }
        let cold = |bytes| decode_cold(bytes).ok_or(damaged("description of a page"));
        if range.len() == size as usize {
            let cold = cold(record.cold)?;
            let mut bytes = state.take_memory(shape.id, size, shape.versions)?;
            bytes.as_mut().copy_from_slice(record.bytes);
            // Of what is in memory now, not of what was read.
            if page_hash(&shape, &cold, bytes.as_ref()) != record.hash {
                return Err(damaged("hash of a page"));
            }
            return Ok(Some(Loaded { shape, cold, bytes }));
        }
        let assembly = {
            let mut all = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(shape.id).or_default())
        };
        let mut slot = assembly.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(Parts {
                shape,
                cold: None,
                hash: record.hash,
                bytes: state.take_memory(shape.id, size, shape.versions)?,
                found: 0,
                seen: Vec::new(),
            });
        }
        let parts = slot.as_mut().ok_or(damaged("part of a page"))?;
        if parts.shape != shape
            || parts.hash != record.hash
            || parts.bytes.as_ref().len() != size as usize
        {
            return Err(damaged("parts of a page differ"));
        }
        if record.offset == 0 {
            parts.cold = Some(cold(record.cold)?);
        }
        parts.bytes.as_mut()[range.clone()].copy_from_slice(record.bytes);
        parts.found += record.bytes.len() as u64;
        parts.seen.push((range.start as u32, range.end as u32));
        if parts.found < u64::from(size) {
            return Ok(None);
        }
        parts.seen.sort_unstable();
        let whole = parts
            .seen
            .iter()
            .try_fold(0, |at, (start, end)| (*start == at).then_some(*end));
        if whole != Some(size) {
            return Err(damaged("parts of a page overlap"));
        }
        let parts = slot.take().ok_or(damaged("part of a page"))?;
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&shape.id);
        let cold = parts.cold.ok_or(damaged("description of a page"))?;
        if page_hash(&shape, &cold, parts.bytes.as_ref()) != record.hash {
            return Err(damaged("hash of a page"));
        }
        Ok(Some(Loaded {
            shape,
            cold,
            bytes: parts.bytes,
        }))
    }
}

fn source(bytes: &[u8]) -> Option<((u16, Source), usize)> {
    let since_ns = u64_at(bytes, 0)?;
    let id = u16::try_from(u32_at(bytes, 8)?).ok()?;
    let len = u32_at(bytes, 12)? as usize;
    let name = bytes
        .get(16..16 + len.min(SOURCE_BYTES_MAX))
        .filter(|_| len <= SOURCE_BYTES_MAX)?;
    let name = std::str::from_utf8(name).ok()?.to_owned();
    Some((
        (id, Source { name, since_ns }),
        16 + len.next_multiple_of(8),
    ))
}

/// What a checkpoint says beside the bytes of its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its header.
    pub info: CheckpointInfo,
    /// Every page: id, version slots, epoch and LSN; bytes; name, schema and metadata. In the order of their ids.
    pub pages: Vec<(PageShape, u32, Cold)>,
    /// Free page numbers that were used, with the generation of the last page that had them.
    pub generations: Vec<(u32, u32)>,
    /// The sources of deltas, by number.
    pub sources: Vec<(u16, Source)>,
}

/// Reads what a checkpoint says beside the bytes of its pages. All checksums of the file are checked, and no hashes of
/// pages.
///
/// # Errors
/// As [`load`].
pub fn describe(path: &Path) -> Result<Description, CheckpointError> {
    let Opened {
        file, info, index, ..
    } = open(path)?;
    let mut about = Description {
        pages: Vec::new(),
        generations: Vec::new(),
        sources: Vec::new(),
        info,
    };
    let mut buffer = Vec::new();
    for entry in read_index(path, &file, &index)? {
        let damaged = |what| CheckpointError::Damaged {
            path: path.to_owned(),
            offset: entry.at,
            what,
        };
        buffer.resize(entry.padded(), 0);
        file.read_exact_at(&mut buffer, entry.at)
            .map_err(CheckpointError::io("reading", path))?;
        if crc32c::crc32c(&buffer) != entry.crc {
            return Err(damaged("checksum of a chunk"));
        }
        let mut rest = &buffer[..entry.len as usize];
        for _ in 0..entry.records {
            if entry.holds == Holds::Pages as u32 {
                let record = Record::decode(&mut rest).ok_or(damaged("page"))?;
                if record.offset == 0 {
                    let cold = decode_cold(record.cold).ok_or(damaged("description of a page"))?;
                    about.pages.push((record.shape, record.size, cold));
                }
            } else if entry.holds == Holds::Generations as u32 {
                let free = u32_at(rest, 0).zip(u32_at(rest, 4));
                about.generations.push(free.ok_or(damaged("free number"))?);
                rest = &rest[8..];
            } else {
                let (source, bytes) = source(rest).ok_or(damaged("source"))?;
                rest = rest.get(bytes..).ok_or(damaged("source"))?;
                about.sources.push(source);
            }
        }
    }
    about.pages.sort_unstable_by_key(|(shape, ..)| shape.id);
    Ok(about)
}
