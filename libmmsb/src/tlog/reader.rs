//! [`LogReader`]: the blocks of a log in order, each checked before it is given out.
//!
//! # Contract
//! What [`LogReader::next`] returns was written by the writer of this log, whole, and follows without a gap what it
//! returned before. Where the log ends cleanly or in a torn tail, it returns `None`, and [`LogReader::end`] says which;
//! later calls look again, so that a reader follows a log that is being written. Anything else is
//! [`LogError::Damaged`], with file, LSN and byte offset, and stays so.
//!
//! # Files
//! The names of the files say where each begins. Sorted by incarnation, then LSN, a file ends where the next one begins,
//! and a file that begins behind the beginning of a later one is not part of the log: it was given up, together with
//! whatever stands behind the end of others. A header that names its predecessor's last byte (the same writer went on)
//! says so exactly, which matters for content of records that stands at the very end of a file.
//!
//! # Torn or damaged
//! Of the last file, a block that is not whole is the torn tail if nothing says that it was once durable: no later block
//! of that file whose header (with a good checksum) calls a greater LSN durable, and no `durable_at_least` of the
//! caller. All else is damage.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::LogError;
use super::format::{BLOCK_HEAD, BlockHead, FileHeader, HeaderFault, SECTOR, block_at, parse_name};
use super::places::{Place, Places};

/// Bytes read at once, when one read goes on where the last one ended. Small blocks are taken from it, large ones are read
/// to where they go.
const WINDOW: usize = 256 << 10;
/// How long the rest of the last file is not searched again while the bytes at the end stay as they are.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);

/// Where and how to read.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Begin with the block that holds this LSN, and with the content that belongs to its records; 0: with the oldest.
    pub from_lsn: u64,
    /// What is known to have been durable, from live segments or a checkpoint: a log that ends before is damaged.
    pub durable_at_least: u64,
    /// Check the checksums of blocks (default). Without, a changed byte in a body goes unnoticed.
    pub verify_crc: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            from_lsn: 0,
            durable_at_least: 0,
            verify_crc: true,
        }
    }
}

/// A block of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// LSN of its first record. The first block given out may begin before the LSN that was asked for, and a block
    /// after a takeover may repeat records: skip what is known.
    pub first_lsn: u64,
    /// LSN behind its last record; equal to `first_lsn` if it holds only content of a record to come.
    pub end_lsn: u64,
    /// When it was submitted (`CLOCK_REALTIME`).
    pub time_ns: u64,
    /// What was durable then.
    pub durable_lsn: u64,
    /// Incarnation of the bus.
    pub incarnation: u64,
    /// When the bus was created, from which its records count time.
    pub created_ns: u64,
    /// Ring slots of the bus.
    pub ring_slots: u32,
    /// Records in it.
    pub records: u32,
    /// What [`mmsb_shm::wire::walk`] takes.
    pub body: Vec<u8>,
}

/// Bytes behind the last whole block, of writes that nobody was told were durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The last file.
    pub file: PathBuf,
    /// Where they begin.
    pub offset: u64,
    /// LSN at which the log ends.
    pub lsn: u64,
    /// Blocks that are given up, as far as they can be told apart.
    pub dropped_blocks: u64,
}

/// How the log ends for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// LSN behind the last record.
    pub lsn: u64,
    /// The writer closed the log.
    pub sealed: bool,
    /// There are torn writes behind it.
    pub torn: Option<Torn>,
}

/// A file of the log, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LineFile {
    pub path: PathBuf,
    pub first_lsn: u64,
    pub incarnation: u64,
    pub compressed: bool,
    /// Where the next one begins.
    pub limit: Option<u64>,
}

/// The files of a log in order, and those that were given up.
pub(crate) fn line(dir: &Path) -> Result<(Vec<LineFile>, Vec<LineFile>), LogError> {
    let entries = std::fs::read_dir(dir).map_err(|e| LogError::io("list", dir, e))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| LogError::io("list", dir, e))?;
        if let Some((first_lsn, incarnation, compressed)) =
            entry.file_name().to_str().and_then(parse_name)
        {
            files.push(LineFile {
                path: entry.path(),
                first_lsn,
                incarnation,
                compressed,
                limit: None,
            });
        }
    }
    files.sort_by_key(|f| (f.incarnation, f.first_lsn, f.compressed));
    // Both there: a crash during compression, and the plain one is whole.
    files.dedup_by_key(|f| (f.incarnation, f.first_lsn));
    let mut limit = None;
    let (mut kept, mut given_up) = (Vec::new(), Vec::new());
    for mut file in files.into_iter().rev() {
        if limit.is_some_and(|l| file.first_lsn >= l) {
            given_up.push(file);
        } else {
            file.limit = limit;
            limit = Some(file.first_lsn);
            kept.push(file);
        }
    }
    kept.reverse();
    Ok((kept, given_up))
}

/// The content of a log file, compressed or not.
enum Content {
    Plain(File),
    Zstd {
        decoder: zstd::Decoder<'static, io::BufReader<File>>,
        at: u64,
    },
}

/// Name of the compressed form of a file.
pub(crate) fn zst(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".zst");
    PathBuf::from(name)
}

/// Whether to list the directory again: a file was removed, by retention or a successor of its writer, between its
/// listing and its opening. Retention may be at it for a while. Counts down `left`.
pub(crate) fn vanished(e: &LogError, dir: &Path, left: &mut u32) -> bool {
    let gone = matches!(e, LogError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
    if !gone || *left == 0 || !dir.exists() {
        return false;
    }
    *left -= 1;
    std::thread::sleep(Duration::from_millis(2));
    true
}

/// How often a directory is listed again because a file vanished.
pub(crate) const LISTINGS: u32 = 500;

pub(crate) struct Source {
    path: PathBuf,
    content: Content,
    window: Vec<u8>,
    window_at: u64,
    /// Bytes to read next.
    ahead: usize,
}

impl Source {
    pub fn open(path: &Path, compressed: bool) -> Result<Source, LogError> {
        let fail = |e| LogError::io("open", path, e);
        let file = match File::open(path) {
            Err(e) if !compressed && e.kind() == io::ErrorKind::NotFound => {
                // Compressed since it was listed.
                let other = zst(path);
                if !other.exists() {
                    return Err(fail(e));
                }
                return Source::open(&other, true);
            }
            file => file.map_err(fail)?,
        };
        // Only a hint.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let content = if compressed {
            Content::Zstd {
                decoder: zstd::Decoder::new(file).map_err(fail)?,
                at: 0,
            }
        } else {
            Content::Plain(file)
        };
        Ok(Source {
            path: path.to_owned(),
            content,
            window: Vec::new(),
            window_at: 0,
            ahead: SECTOR,
        })
    }

    /// Reads until `buffer` is full or the file ends.
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize, LogError> {
        let mut have = 0;
        let path = &self.path;
        let result = loop {
            if have == buffer.len() {
                break Ok(());
            }
            let read = match &mut self.content {
                Content::Plain(file) => file.read_at(&mut buffer[have..], offset + have as u64),
                Content::Zstd { decoder, at } => {
                    let want = offset + have as u64;
                    if want < *at {
                        let file = File::open(path).map_err(|e| LogError::io("open", path, e))?;
                        *decoder =
                            zstd::Decoder::new(file).map_err(|e| LogError::io("open", path, e))?;
                        *at = 0;
                    }
                    let skip = want - *at;
                    let skipped = if skip > 0 {
                        io::copy(&mut decoder.by_ref().take(skip), &mut io::sink())
                    } else {
                        Ok(0)
                    };
                    skipped.and_then(|n| {
                        *at += n;
                        if n < skip {
                            return Ok(0);
                        }
                        let n = decoder.read(&mut buffer[have..])?;
                        *at += n as u64;
                        Ok(n)
                    })
                }
            };
            match read {
                Ok(0) => break Ok(()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        match (result, &self.content) {
            (Ok(()), _) => Ok(have),
            // What cannot be decompressed reads as the end of the file: whoever needs more says where it is damaged.
            (Err(e), Content::Zstd { .. }) if e.raw_os_error().is_none() => Ok(have),
            (Err(e), _) => Err(LogError::io("read", path, e)),
        }
    }

    /// `want` bytes at `offset` (at most a window), or what there is up to the end of the file. Whoever goes on where the
    /// last window ended has more and more read at once; who goes from header to header over long blocks, only those.
    fn peek(&mut self, offset: u64, want: usize) -> Result<&[u8], LogError> {
        let inside = offset >= self.window_at
            && offset + want as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let mut window = std::mem::take(&mut self.window);
            let behind = self.window_at + window.len() as u64 + SECTOR as u64;
            let goes_on = (self.window_at..=behind).contains(&offset);
            self.ahead = match self.content {
                Content::Plain(_) if !goes_on => SECTOR,
                Content::Plain(_) => (self.ahead * 2).min(WINDOW),
                // Behind it all has to be decompressed, whatever is read.
                Content::Zstd { .. } => WINDOW,
            };
            window.resize(self.ahead.max(want), 0);
            let read = self.read_at(&mut window, offset);
            window.truncate(*read.as_ref().unwrap_or(&0));
            self.window = window;
            self.window_at = offset;
            read?;
        }
        let from = (offset - self.window_at) as usize;
        let to = (from + want).min(self.window.len());
        Ok(&self.window[from.min(to)..to])
    }

    /// Forgets what was read, which may have been written since.
    fn forget(&mut self) {
        self.window.clear();
    }

    /// Reads `len` bytes into `body`, from the window as far as they are there, and continues the checksum `crc` over
    /// them while they are in the cache. `None`: the file ends before.
    fn body(
        &mut self,
        offset: u64,
        len: usize,
        body: &mut Vec<u8>,
        crc: Option<u32>,
    ) -> Result<Option<u32>, LogError> {
        let sum = |crc: Option<u32>, bytes: &[u8]| crc.map(|c| crc32c::crc32c_append(c, bytes));
        let mut crc = crc;
        if len <= WINDOW {
            let bytes = self.peek(offset, len)?;
            body.clear();
            body.extend_from_slice(bytes);
            return Ok((bytes.len() == len).then(|| sum(crc, bytes).unwrap_or(0)));
        }
        // Not cleared: a buffer that is used again needs no zeros.
        body.resize(len, 0);
        let mut have = 0;
        if offset >= self.window_at {
            let from = ((offset - self.window_at) as usize).min(self.window.len());
            let part = &self.window[from..];
            have = part.len().min(len);
            body[..have].copy_from_slice(&part[..have]);
            crc = sum(crc, &body[..have]);
        }
        while have < len {
            let end = len.min(have + WINDOW / 2);
            let read = self.read_at(&mut body[have..end], offset + have as u64)?;
            if read < end - have {
                return Ok(None);
            }
            crc = sum(crc, &body[have..end]);
            have = end;
        }
        Ok(Some(crc.unwrap_or(0)))
    }

    fn len(&self) -> Result<Option<u64>, LogError> {
        match &self.content {
            Content::Plain(file) => {
                let fail = |e| LogError::io("read the length of", &self.path, e);
                Ok(Some(file.metadata().map_err(fail)?.len()))
            }
            Content::Zstd { .. } => Ok(None),
        }
    }
}

/// Reads the header of a file.
pub(crate) fn read_header(
    source: &mut Source,
    first_lsn: u64,
    incarnation: u64,
) -> Result<(FileHeader, u32), LogError> {
    let decoded = FileHeader::decode(source.peek(0, SECTOR)?);
    let file = source.path.clone();
    let damaged = |what| LogError::Damaged {
        file: file.clone(),
        lsn: first_lsn,
        offset: 0,
        what,
    };
    let (header, crc) = decoded.map_err(|fault| match fault {
        HeaderFault::Foreign => LogError::Foreign {
            file: file.clone(),
            what: "it has the name of a log file, but not its content".into(),
        },
        HeaderFault::Newer(major) => LogError::Newer {
            file: file.clone(),
            major,
        },
        HeaderFault::Damaged(what) => damaged(what),
    })?;
    if (header.first_lsn, header.incarnation) != (first_lsn, incarnation) {
        return Err(damaged(
            "the file's name says another LSN or incarnation than its header",
        ));
    }
    Ok((header, crc))
}

/// Where a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The next file says: here, with a block of this checksum.
    Bytes { at: u64, crc: u32 },
    /// At this LSN.
    Lsn(u64),
    /// It is the last.
    Open,
}

/// The file that is being read.
struct Current {
    entry: LineFile,
    source: Source,
    header: FileHeader,
    ending: Ending,
    offset: u64,
    prev: u32,
    /// Checksum of the file header, with which the first block is linked.
    header_crc: u32,
    sealed: bool,
}

/// What stands at the present offset.
enum Found {
    Block(BlockHead),
    /// Why there is no block.
    Not(&'static str),
}

/// A search of the rest of the last file.
struct Searched {
    when: Instant,
    offset: u64,
    here: Vec<u8>,
    torn: Option<Torn>,
}

/// What stands behind a block that is not whole.
#[derive(Default)]
pub(crate) struct Later {
    pub blocks: u64,
    /// Greatest LSN that one of them calls durable.
    pub claimed: u64,
    /// Greatest LSN at which one of them ends.
    pub end_lsn: u64,
}

/// Offset, checksum of the block before, LSN.
type Spot = (u64, u32, u64);

/// The file that holds `lsn`.
fn holder(files: &[LineFile], lsn: u64) -> Result<usize, LogError> {
    let at = files.partition_point(|f| f.first_lsn <= lsn);
    at.checked_sub(1).ok_or(LogError::Gone {
        wanted: lsn,
        oldest: files.first().map_or(0, |f| f.first_lsn),
    })
}

/// Where `files[at]` ends.
fn ending(files: &[LineFile], at: usize, header: &FileHeader) -> Ending {
    let Some(next) = files.get(at + 1) else {
        return Ending::Open;
    };
    // A next file that cannot be read is met when it is reached.
    let previous = Source::open(&next.path, next.compressed)
        .and_then(|mut source| read_header(&mut source, next.first_lsn, next.incarnation))
        .ok()
        .and_then(|(next, _)| next.previous);
    match previous {
        Some(p) if p.file_id == header.file_id => Ending::Bytes {
            at: p.bytes,
            crc: p.crc,
        },
        _ => Ending::Lsn(next.first_lsn),
    }
}

impl Current {
    fn ends_at(&self, lsn: u64, offset: u64) -> bool {
        match self.ending {
            Ending::Bytes { at, .. } => offset >= at,
            Ending::Lsn(limit) => lsn >= limit,
            Ending::Open => false,
        }
    }

    fn damaged(&self, lsn: u64, what: &'static str) -> LogError {
        LogError::Damaged {
            file: self.entry.path.clone(),
            lsn,
            offset: self.offset,
            what,
        }
    }

    /// The header of the block here, its body unseen.
    fn look(&mut self, lsn: u64) -> Result<Found, LogError> {
        let bytes = self.source.peek(self.offset, BLOCK_HEAD)?;
        let Some(head) = BlockHead::decode(bytes) else {
            return Ok(Found::Not(if bytes.len() < BLOCK_HEAD {
                "the file ends before its last block"
            } else {
                "there is no block"
            }));
        };
        Ok(if head.file_id != self.header.file_id {
            Found::Not("a block of another file")
        } else if head.prev != self.prev {
            Found::Not("the block does not follow the one before")
        } else if head.first_lsn != lsn {
            Found::Not("the LSN of the block")
        } else {
            Found::Block(head)
        })
    }

    /// The block here, with its body.
    fn read(&mut self, lsn: u64, verify: bool, block: &mut Block) -> Result<Found, LogError> {
        let head = match self.look(lsn)? {
            Found::Block(head) => head,
            not => return Ok(not),
        };
        let mut bytes = [0; BLOCK_HEAD];
        bytes.copy_from_slice(self.source.peek(self.offset, BLOCK_HEAD)?);
        let len = head.len as usize - BLOCK_HEAD;
        let begun = verify.then(|| crc32c::crc32c(&bytes[block_at::LEN..]));
        let at = self.offset + BLOCK_HEAD as u64;
        let Some(crc) = self.source.body(at, len, &mut block.body, begun)? else {
            return Ok(Found::Not("the file ends before its last block"));
        };
        if verify && crc != head.crc {
            return Ok(Found::Not("the checksum of the block"));
        }
        if let Some(limit) = self.entry.limit
            && head.end_lsn > limit
        {
            return Ok(Found::Not(
                "the block goes on behind the beginning of the next file",
            ));
        }
        block.first_lsn = head.first_lsn;
        block.end_lsn = head.end_lsn;
        block.time_ns = head.time_ns;
        block.durable_lsn = head.durable_lsn;
        block.records = head.records;
        block.incarnation = self.header.incarnation;
        block.created_ns = self.header.created_ns;
        block.ring_slots = self.header.ring_slots;
        Ok(Found::Block(head))
    }

    /// Whole blocks of this file behind the present offset.
    fn later(&mut self) -> Result<Later, LogError> {
        let mut later = Later::default();
        let end = self.source.len()?.unwrap_or(u64::MAX);
        let mut at = self.offset + SECTOR as u64;
        let mut body = Vec::new();
        while at < end {
            let bytes = self.source.peek(at, BLOCK_HEAD)?;
            if bytes.len() < BLOCK_HEAD {
                break;
            }
            let mut step = SECTOR as u64;
            if let Some(head) = BlockHead::decode(bytes)
                && head.file_id == self.header.file_id
            {
                let mut bytes = [0; BLOCK_HEAD];
                bytes.copy_from_slice(self.source.peek(at, BLOCK_HEAD)?);
                let len = head.len as usize - BLOCK_HEAD;
                let begun = Some(crc32c::crc32c(&bytes[block_at::LEN..]));
                let at = at + BLOCK_HEAD as u64;
                if self.source.body(at, len, &mut body, begun)? == Some(head.crc) {
                    later.blocks += 1;
                    later.claimed = later.claimed.max(head.durable_lsn);
                    later.end_lsn = later.end_lsn.max(head.end_lsn);
                    step = head.padded();
                }
            }
            at += step;
        }
        Ok(later)
    }
}

/// Reads a log. See the [module](self).
pub struct LogReader {
    dir: PathBuf,
    options: OpenOptions,
    log_id: Option<[u64; 2]>,
    current: Option<Current>,
    /// Where the next block begins.
    lsn: u64,
    end: Option<LogEnd>,
    /// When the rest of the file was searched, and what stood at the end then.
    searched: Option<Searched>,
    /// Where blocks were found, by this reader or another one.
    places: Option<Arc<Places>>,
    /// Offset in the present file from which on they want to hear of another.
    place_from: u64,
    /// The last block with records that was given out, and the nonce of its file.
    given: Option<(u64, Place)>,
    /// What [`LogReader::go_to`] found in the directory.
    files: Vec<LineFile>,
    /// Whether to find out what the bytes behind the last whole block are.
    tell_torn: bool,
}

/// Where a reader begins that was asked for an LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With the content that belongs to the records from there on.
    Contents,
    /// With the block that holds it.
    Block,
    /// With the file that holds it.
    File,
}

impl LogReader {
    /// Opens the log in `dir`.
    ///
    /// # Errors
    /// [`LogError::Gone`] if it begins behind `from_lsn`; what is wrong with the file in which that stands. A directory
    /// without a log is one without blocks yet.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<LogReader, LogError> {
        LogReader::open_from(dir, options, Begin::Contents, None)
    }

    /// The same, with places of blocks that are shared with other readers.
    pub(crate) fn open_from(
        dir: &Path,
        options: OpenOptions,
        begin: Begin,
        places: Option<Arc<Places>>,
    ) -> Result<LogReader, LogError> {
        let mut reader = LogReader::new(dir, options);
        reader.places = places;
        let mut left = LISTINGS;
        loop {
            let begun = match begin {
                Begin::Contents => reader.start(),
                Begin::Block => reader.try_go_to(reader.lsn, true),
                Begin::File => reader.try_go_to(reader.lsn, false),
            };
            match begun {
                Err(e) if vanished(&e, dir, &mut left) => reader.files.clear(),
                result => return result.map(|()| reader),
            }
        }
    }

    /// One that has not begun.
    fn new(dir: &Path, options: OpenOptions) -> LogReader {
        LogReader {
            dir: dir.to_owned(),
            lsn: options.from_lsn,
            options,
            log_id: None,
            current: None,
            end: None,
            searched: None,
            places: None,
            place_from: 0,
            given: None,
            files: Vec::new(),
            tell_torn: true,
        }
    }

    /// Asks only where the log ends, not what stands behind that, which takes reading the rest of the file.
    pub(crate) fn only_the_end(&mut self) {
        self.tell_torn = false;
    }

    /// Goes to the block that holds `lsn`, without the content ahead of it. The directory is listed once only: this is for
    /// many questions of one moment.
    ///
    /// # Errors
    /// As [`LogReader::open`].
    pub(crate) fn go_to(&mut self, lsn: u64) -> Result<(), LogError> {
        let mut left = LISTINGS;
        loop {
            match self.try_go_to(lsn, true) {
                Err(e) if vanished(&e, &self.dir, &mut left) => self.files.clear(),
                result => return result,
            }
        }
    }

    fn try_go_to(&mut self, lsn: u64, to_block: bool) -> Result<(), LogError> {
        self.end = None;
        if self.files.is_empty() {
            self.files = line(&self.dir)?.0;
        }
        let files = std::mem::take(&mut self.files);
        let result = self.go_to_in(&files, lsn, to_block);
        self.files = files;
        result
    }

    fn go_to_in(&mut self, files: &[LineFile], lsn: u64, to_block: bool) -> Result<(), LogError> {
        if files.is_empty() {
            self.current = None;
            self.lsn = lsn;
            return Ok(());
        }
        // As for a reader that begins there, 0 is the beginning.
        let lsn = match lsn {
            0 => files[0].first_lsn,
            lsn => lsn,
        };
        let at = holder(files, lsn)?;
        match &self.current {
            Some(current) if current.entry == files[at] => self.rewind(),
            _ => self.enter(files, at, None)?,
        }
        if to_block {
            self.skip_to(lsn)?;
        }
        Ok(())
    }

    /// Back to the beginning of the present file.
    fn rewind(&mut self) {
        if let Some(current) = &mut self.current {
            current.offset = SECTOR as u64;
            current.prev = current.header_crc;
            current.sealed = false;
            self.lsn = current.entry.first_lsn;
            self.place_from = 0;
        }
    }

    /// Opens the file in which reading begins. Nothing happens while there is none.
    fn start(&mut self) -> Result<(), LogError> {
        let (files, _) = line(&self.dir)?;
        let Some(oldest) = files.first() else {
            return Ok(());
        };
        if self.lsn == 0 {
            self.lsn = oldest.first_lsn;
        }
        self.seek(&files, self.lsn)
    }

    /// Goes to the block that holds `lsn`, or rather to the content that stands ahead of it.
    fn seek(&mut self, files: &[LineFile], lsn: u64) -> Result<(), LogError> {
        let mut at = holder(files, lsn)?;
        let lsn = if files[at].first_lsn == lsn && self.back(files, &mut at)? {
            lsn
        } else {
            let (first_lsn, in_first) = (files[at].first_lsn, self.hop(files, at, lsn)?);
            if !in_first || !self.back(files, &mut at)? {
                return Ok(());
            }
            first_lsn
        };
        self.hop(files, at, lsn).map(drop)
    }

    /// Content of the first record of a file may stand at the end of the one before, if that was the same writer's.
    fn back(&self, files: &[LineFile], at: &mut usize) -> Result<bool, LogError> {
        let back = *at > 0 && self.continues(&files[*at])?;
        *at -= usize::from(back);
        Ok(back)
    }

    /// Hops over headers in `files[at]` to the first block that ends where the one with `lsn` begins. `true` if no
    /// records in this file stand ahead of that one.
    fn hop(&mut self, files: &[LineFile], at: usize, lsn: u64) -> Result<bool, LogError> {
        self.enter(files, at, None)?;
        let (from, first) = self.skip_to(lsn)?;
        if let (Some(current), Some((offset, prev, lsn))) = (&mut self.current, from) {
            (current.offset, current.prev) = (offset, prev);
            self.lsn = lsn;
            self.place_from = 0;
        }
        Ok(first)
    }

    /// Hops over headers, from the nearest known place, to the block that holds `lsn`. Returns where the last block with
    /// records ahead of that stands, or else where the file begins, and whether that is so.
    fn skip_to(&mut self, lsn: u64) -> Result<(Option<Spot>, bool), LogError> {
        self.jump(lsn)?;
        let mut from = self.place();
        let mut first = true;
        loop {
            let Some(current) = &mut self.current else {
                return Ok((from, false));
            };
            let Found::Block(head) = current.look(self.lsn)? else {
                break;
            };
            if head.is_seal() {
                break;
            }
            if current.ends_at(self.lsn, current.offset) || head.end_lsn > lsn {
                break;
            }
            if head.end_lsn > head.first_lsn {
                from = self.place();
                first = false;
                self.note(&head);
            }
            self.pass(&head);
        }
        Ok((from, first))
    }

    /// From the beginning of a file to the last place in it of which it is known that it stands ahead of `lsn`.
    fn jump(&mut self, lsn: u64) -> Result<(), LogError> {
        let (Some(current), Some(places)) = (&mut self.current, &self.places) else {
            return Ok(());
        };
        let file_id = current.header.file_id;
        let Some(place) = places.ahead_of(file_id, lsn) else {
            return Ok(());
        };
        if current.ends_at(place.first_lsn, place.offset) {
            return Ok(());
        }
        (current.offset, current.prev) = (place.offset, place.prev);
        match current.look(place.first_lsn)? {
            Found::Block(head) if place.is(&head) => self.lsn = place.first_lsn,
            _ => {
                // Cut by a repair, perhaps.
                places.forget(file_id);
                self.rewind();
            }
        }
        Ok(())
    }

    /// Goes to the last block that was read and checked on the way to the end of the log, if that is in the present file,
    /// and still as it was.
    pub(crate) fn go_to_last(&mut self) -> Result<(), LogError> {
        let (Some(current), Some(places)) = (&mut self.current, &self.places) else {
            return Ok(());
        };
        let file_id = current.header.file_id;
        let Some(place) = places.last(file_id) else {
            return Ok(());
        };
        if current.ends_at(place.first_lsn, place.offset) {
            return Ok(());
        }
        (current.offset, current.prev) = (place.offset, place.prev);
        let mut block = Block::default();
        match current.read(place.first_lsn, true, &mut block)? {
            Found::Block(head) if place.is(&head) => self.lsn = place.first_lsn,
            _ => {
                places.forget(file_id);
                self.rewind();
            }
        }
        Ok(())
    }

    /// Remembers where the block here stands, which has records.
    fn note(&mut self, head: &BlockHead) {
        if let (Some(current), Some(places)) = (&self.current, &self.places)
            && current.offset >= self.place_from
        {
            let place = Place::of(head, current.offset);
            self.place_from = places.add(current.header.file_id, place);
        }
    }

    /// The last block with records that was given out, and the nonce of its file.
    pub(crate) fn given(&self) -> Option<(u64, Place)> {
        self.given
    }

    fn place(&self) -> Option<Spot> {
        let current = self.current.as_ref()?;
        Some((current.offset, current.prev, self.lsn))
    }

    fn pass(&mut self, head: &BlockHead) {
        if let Some(current) = &mut self.current {
            current.offset += head.padded();
            current.prev = head.crc;
            self.lsn = head.end_lsn;
        }
    }

    /// Whether the writer of the file before went on in this one.
    fn continues(&self, entry: &LineFile) -> Result<bool, LogError> {
        let mut source = Source::open(&entry.path, entry.compressed)?;
        let (header, _) = read_header(&mut source, entry.first_lsn, entry.incarnation)?;
        Ok(header.previous.is_some())
    }

    /// Begins to read `files[at]`, which continues at the present LSN, or where it begins.
    fn enter(
        &mut self,
        files: &[LineFile],
        at: usize,
        expect: Option<u64>,
    ) -> Result<(), LogError> {
        let entry = files[at].clone();
        let mut source = Source::open(&entry.path, entry.compressed)?;
        let (header, prev) = read_header(&mut source, entry.first_lsn, entry.incarnation)?;
        match self.log_id {
            Some(id) if id != header.log_id => {
                return Err(LogError::Foreign {
                    file: entry.path,
                    what: format!(
                        "it belongs to bus {:?}, log {:016x?}",
                        header.bus, header.log_id
                    ),
                });
            }
            _ => self.log_id = Some(header.log_id),
        }
        if let Some(lsn) = expect
            && lsn < entry.first_lsn
        {
            if at == 0 {
                // Retention was quicker.
                return Err(LogError::Gone {
                    wanted: lsn,
                    oldest: entry.first_lsn,
                });
            }
            return Err(LogError::Damaged {
                file: entry.path,
                lsn,
                offset: 0,
                what: "the records ahead of this file are missing",
            });
        }
        self.lsn = entry.first_lsn;
        self.searched = None;
        self.place_from = 0;
        let ending = ending(files, at, &header);
        self.current = Some(Current {
            entry,
            source,
            header,
            ending,
            offset: SECTOR as u64,
            prev,
            header_crc: prev,
            sealed: false,
        });
        Ok(())
    }

    /// The next block, or `None` at the present end of the log; a later call looks again.
    ///
    /// # Errors
    /// [`LogError::Damaged`] and other faults of files, which later calls repeat; [`LogError::Diverged`] if the bus was
    /// rebuilt from before the present LSN; [`LogError::Gone`] if retention removed what comes next.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Block>, LogError> {
        let mut block = Block::default();
        Ok(self.next_into(&mut block)?.then_some(block))
    }

    /// The same into a block that is used again, which saves an allocation. `false` at the present end.
    ///
    /// # Errors
    /// As [`LogReader::next`].
    pub fn next_into(&mut self, block: &mut Block) -> Result<bool, LogError> {
        let mut left = LISTINGS;
        loop {
            match self.try_next_into(block) {
                Err(e) if vanished(&e, &self.dir, &mut left) => {}
                result => return result,
            }
        }
    }

    fn try_next_into(&mut self, block: &mut Block) -> Result<bool, LogError> {
        self.end = None;
        let mut fresh = false;
        loop {
            let Some(current) = &mut self.current else {
                self.start()?;
                if self.current.is_none() {
                    self.end = Some(LogEnd {
                        lsn: self.lsn,
                        sealed: false,
                        torn: None,
                    });
                    return Ok(false);
                }
                continue;
            };
            if current.ends_at(self.lsn, current.offset) {
                self.follow()?;
                continue;
            }
            let found = if current.sealed {
                Found::Not("blocks behind the seal")
            } else {
                current.read(self.lsn, self.options.verify_crc, block)?
            };
            let why = match found {
                Found::Block(head) if head.is_seal() => {
                    current.sealed = true;
                    self.pass(&head);
                    continue;
                }
                Found::Block(head) => {
                    if head.end_lsn > head.first_lsn {
                        self.given =
                            Some((current.header.file_id, Place::of(&head, current.offset)));
                        self.note(&head);
                    }
                    self.pass(&head);
                    return Ok(true);
                }
                Found::Not(why) => why,
            };
            if !fresh {
                // The file may have grown, or another have begun.
                fresh = true;
                current.source.forget();
                self.refresh()?;
                continue;
            }
            if current.ending != Ending::Open {
                return Err(current.damaged(self.lsn, why));
            }
            if self.at_the_end(why)? {
                return Ok(false);
            }
        }
    }

    /// Where the log ends, once [`LogReader::next`] returned `None`.
    pub fn end(&self) -> Option<LogEnd> {
        self.end.clone()
    }

    /// Reads `files[at]` alone, and checks it: the offset at which it ends.
    pub(crate) fn check_file(
        dir: &Path,
        files: &[LineFile],
        at: usize,
    ) -> Result<(FileHeader, u64), LogError> {
        let mut reader = LogReader::new(dir, OpenOptions::default());
        reader.enter(files, at, None)?;
        let mut block = Block::default();
        loop {
            let lsn = reader.lsn;
            let Some(current) = &mut reader.current else {
                return Err(LogError::Gone {
                    wanted: lsn,
                    oldest: lsn,
                });
            };
            if current.ends_at(lsn, current.offset) {
                return Ok((current.header.clone(), current.offset));
            }
            match current.read(lsn, true, &mut block)? {
                Found::Block(head) => reader.pass(&head),
                Found::Not(why) => return Err(current.damaged(lsn, why)),
            }
        }
    }

    /// What stands in the present file behind the present offset.
    pub(crate) fn rest(&mut self) -> Result<Later, LogError> {
        self.current
            .as_mut()
            .map_or(Ok(Later::default()), Current::later)
    }

    /// LSN of the next block.
    pub fn lsn(&self) -> u64 {
        self.lsn
    }

    /// Header of the file that is being read.
    pub fn header(&self) -> Option<&FileHeader> {
        self.current.as_ref().map(|c| &c.header)
    }

    /// The file that is being read, and where in it the next block stands.
    pub fn position(&self) -> Option<(&Path, u64)> {
        let current = self.current.as_ref()?;
        Some((&current.entry.path, current.offset))
    }

    /// The file is at its end: on to the next.
    fn follow(&mut self) -> Result<(), LogError> {
        let (files, _) = line(&self.dir)?;
        let Some(current) = &self.current else {
            return Ok(());
        };
        if let Ending::Bytes { crc, .. } = current.ending
            && crc != current.prev
        {
            return Err(current.damaged(self.lsn, "the next file continues another block"));
        }
        let key = |f: &LineFile| (f.incarnation, f.first_lsn);
        let here = key(&current.entry);
        match files.iter().position(|f| key(f) > here) {
            Some(at) if files[at].first_lsn <= self.lsn => {
                let lsn = self.lsn;
                if files[at].first_lsn < lsn {
                    return self.fall_back(&files, at);
                }
                self.enter(&files, at, Some(lsn))
            }
            Some(at) => Err(LogError::Gone {
                wanted: self.lsn,
                oldest: files[at].first_lsn,
            }),
            None => {
                // The next file was given up by a takeover just now: look where the line goes.
                self.refresh()
            }
        }
    }

    /// The log goes on in a file that begins before what was read: another writer took over, or the bus was rebuilt.
    fn fall_back(&mut self, files: &[LineFile], at: usize) -> Result<(), LogError> {
        let incarnation = self.current.as_ref().map(|c| c.entry.incarnation);
        if incarnation.is_some_and(|i| files[at].incarnation > i) {
            return Err(LogError::Diverged {
                incarnation: files[at].incarnation,
                fork_lsn: files[at].first_lsn,
                at: self.lsn,
            });
        }
        // Records are repeated from the beginning of a block.
        let lsn = self.lsn;
        self.enter(files, at, None)?;
        loop {
            let Some(current) = &mut self.current else {
                return Ok(());
            };
            match current.look(self.lsn)? {
                Found::Block(head) if !head.is_seal() && head.end_lsn <= lsn => self.pass(&head),
                _ => return Ok(()),
            }
        }
    }

    /// Looks at the directory again.
    fn refresh(&mut self) -> Result<(), LogError> {
        let (files, _) = line(&self.dir)?;
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let key = |f: &LineFile| (f.incarnation, f.first_lsn);
        let here = key(&current.entry);
        match files.iter().position(|f| key(f) == here) {
            Some(at) => {
                let limit = files[at].limit;
                if limit.is_some_and(|l| l < self.lsn) {
                    return self.fall_back(&files, at + 1);
                }
                if limit != current.entry.limit {
                    current.entry.limit = limit;
                    current.ending = ending(&files, at, &current.header);
                }
                Ok(())
            }
            // Given up, or removed by retention.
            None => match files.iter().position(|f| key(f) > here) {
                Some(at) if files[at].first_lsn < self.lsn => self.fall_back(&files, at),
                Some(at) => {
                    current.entry.limit = Some(files[at].first_lsn);
                    current.ending = Ending::Lsn(files[at].first_lsn);
                    Ok(())
                }
                None => {
                    current.entry.limit = None;
                    current.ending = Ending::Open;
                    Ok(())
                }
            },
        }
    }

    /// Nothing whole stands at the end of the last file: is that the end, a torn tail, or damage? `false`: look again.
    fn at_the_end(&mut self, why: &'static str) -> Result<bool, LogError> {
        let Some(current) = &mut self.current else {
            return Ok(true);
        };
        let lsn = self.lsn;
        if lsn < self.options.durable_at_least {
            return Err(current.damaged(lsn, "the log ends before what was durable"));
        }
        let mut end = LogEnd {
            lsn,
            sealed: current.sealed,
            torn: None,
        };
        let here = current.source.peek(current.offset, SECTOR)?.to_vec();
        if self.tell_torn && !current.sealed && !here.is_empty() {
            let again = self.searched.as_ref().is_some_and(|s| {
                s.when.elapsed() < SEARCH_PAUSE && s.offset == current.offset && s.here == here
            });
            if again {
                end.torn = self.searched.as_ref().and_then(|s| s.torn.clone());
            } else {
                let later = current.later()?;
                if later.claimed > lsn {
                    // Written while this looked?
                    current.source.forget();
                    let mut block = Block::default();
                    if let Found::Block(_) = current.read(lsn, true, &mut block)? {
                        return Ok(false);
                    }
                    return Err(current.damaged(lsn, why));
                }
                let any = here.iter().any(|b| *b != 0);
                if later.blocks > 0 || any {
                    end.torn = Some(Torn {
                        file: current.entry.path.clone(),
                        offset: current.offset,
                        lsn,
                        dropped_blocks: later.blocks + u64::from(any),
                    });
                }
                self.searched = Some(Searched {
                    when: Instant::now(),
                    offset: current.offset,
                    here,
                    torn: end.torn.clone(),
                });
            }
        }
        self.end = Some(end);
        Ok(true)
    }
}
