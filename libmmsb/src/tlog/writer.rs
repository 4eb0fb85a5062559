//! [`LogWriter`]: appends blocks to the files of a log, several at a time, and says how far they are durable.
//!
//! # Contract
//! [`LogWriter::durable_lsn`] covers a record only when every byte of its block, of all blocks ahead of it, and the
//! headers and names of their files are on the disk, as the kernel reported it for writes that were issued as synced.
//! After any failure (of a write, a sync, a rename, the preparation of a file) the writer is poisoned: every call
//! answers [`LogError::Poisoned`], `durable_lsn` stays, and the way on is a new writer at that LSN.
//!
//! # Files
//! A writer writes only into files that it made. They are prepared ahead by a thread of its own: allocated, filled with
//! zeros (while blocks are small: so a synced write changes no metadata) and synced, under a name that no reader looks at. A file gets its
//! log name when its header is durable and everything in the files ahead of it is; so of all files that a reader sees,
//! only the last can have a torn tail. The first file is small, the next ones grow to `segment_bytes`: an idle bus
//! costs little.
//!
//! A directory belongs to one writer at a time (a kernel lock on `lock` in it, gone with the process).

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};

use mmsb_shm::testing::step;

use mmsb_shm::BusConfig;

use super::disk::{
    AlignedBuffer, Backend, Completion, Disk, DiskFile, Engine, Patience, RealDisk, Write,
};
use super::error::LogError;
use super::format::{
    BLOCK_BYTES_MAX, BLOCK_HEAD, BlockHead, FORKS_MAX, FileHeader, Fork, HeaderFault, NAME_MAX,
    Previous, SEAL, SECTOR, SLOT, file_name, parse_name,
};

/// Name of the file that the lock is on.
pub(crate) const LOCK: &str = "lock";
/// Beginning of the names of files that are being prepared.
pub(crate) const PREPARED: &str = "prepared-";
/// Bytes of the first file.
const FIRST_FILE: u64 = 1 << 20;

/// Files are filled with zeros while blocks are shorter than this on average.
const PREWRITE_BELOW: u64 = 128 << 10;

/// What a log is of; it stands in the header of every file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogMeta {
    /// Chosen at random when the log was created, the same for ever.
    pub log_id: [u64; 2],
    /// Incarnation of the bus.
    pub incarnation: u64,
    /// LSN at which this incarnation began; 0 for the first.
    pub fork_lsn: u64,
    /// Past incarnations, oldest first.
    pub forks: Vec<Fork>,
    /// When the bus was created (`CLOCK_REALTIME`).
    pub created_ns: u64,
    /// Ring slots of the bus.
    pub ring_slots: u32,
    /// Name of the bus, at most 100 bytes.
    pub bus: String,
    /// What the bus was made for, if known: a rebuild without a checkpoint makes it so again.
    pub config: Option<BusConfig>,
}

impl LogMeta {
    /// A new log: random id, first incarnation.
    ///
    /// # Errors
    /// [`LogError::Io`] if there are no random numbers.
    pub fn new(bus: &str, created_ns: u64, ring_slots: u32) -> Result<LogMeta, LogError> {
        Ok(LogMeta {
            config: None,
            log_id: [random()?, random()?],
            incarnation: 1,
            fork_lsn: 0,
            forks: Vec::new(),
            created_ns,
            ring_slots,
            bus: bus.to_owned(),
        })
    }
}

/// A random number that is not 0.
pub(crate) fn random() -> Result<u64, LogError> {
    let path = Path::new("/dev/urandom");
    let fail = |e| LogError::io("read random numbers from", path, e);
    let mut file = File::open(path).map_err(fail)?;
    loop {
        let mut bytes = [0; 8];
        std::io::Read::read_exact(&mut file, &mut bytes).map_err(fail)?;
        if bytes != [0; 8] {
            return Ok(u64::from_le_bytes(bytes));
        }
    }
}

/// How to write.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// Bytes of a file (default 64 MiB). The first file of a writer has 1 MiB, each next one twice as much.
    pub segment_bytes: u64,
    /// Longest block, its header included (default and most: 1 MiB). Each buffer takes as much memory.
    pub block_bytes: usize,
    /// Blocks in flight at most (default 8).
    pub depth: usize,
    /// How writes reach the disk.
    pub backend: Backend,
    /// Fill files with zeros ahead while blocks are small (default). Without, a small synced write takes longer.
    pub prewrite: bool,
}

impl Default for WriterConfig {
    fn default() -> WriterConfig {
        WriterConfig {
            segment_bytes: 64 << 20,
            block_bytes: BLOCK_BYTES_MAX,
            depth: 8,
            backend: Backend::Auto,
            prewrite: true,
        }
    }
}

/// What a writer did so far.
#[derive(Clone, Debug, Default)]
pub struct WriterStats {
    /// Blocks that are durable.
    pub writes: u64,
    /// Bytes of them, padding included.
    pub bytes: u64,
    /// Write times: entry `n` counts those of at least 2^n and less than 2^(n+1) microseconds (entry 0: also less).
    pub latency: [u64; 32],
    /// Sum of all write times in microseconds.
    pub latency_sum_us: u64,
    /// Files begun.
    pub files: u64,
    /// How often a block waited because no file was prepared yet.
    pub waits_for_file: u64,
    /// `io_uring` or `pwritev2`.
    pub backend: &'static str,
    /// The first failure.
    pub last_error: Option<String>,
}

/// Free buffers, shared with the blocks that are being filled.
type Pool = Arc<Mutex<Vec<AlignedBuffer>>>;

fn pooled(pool: &Pool) -> std::sync::MutexGuard<'_, Vec<AlignedBuffer>> {
    pool.lock().unwrap_or_else(|e| e.into_inner())
}

/// A block that is being filled. Dropped instead of submitted, it is as if it never was.
pub struct BlockBuffer {
    buffer: Option<AlignedBuffer>,
    used: usize,
    max: usize,
    records: u32,
    pool: Pool,
}

impl BlockBuffer {
    fn memory(&mut self) -> &mut [u8] {
        // The buffer is there until `submit` takes it, and that takes the block as well.
        self.buffer.as_mut().map_or(&mut [], |b| &mut b[..])
    }

    /// The bytes of the body that are free. What they hold is of no meaning.
    pub fn room(&mut self) -> &mut [u8] {
        let (used, max) = (self.used, self.max);
        &mut self.memory()[used..max]
    }

    /// The first `bytes` of [`BlockBuffer::room`] are filled, with `records` records.
    ///
    /// # Panics
    /// If there was not so much room, or `bytes` is no multiple of 64.
    pub fn advance(&mut self, bytes: usize, records: u32) {
        assert!(
            bytes.is_multiple_of(SLOT) && bytes <= self.max - self.used,
            "{bytes} bytes in a block with room for {}",
            self.max - self.used
        );
        self.used += bytes;
        self.records += records;
    }

    /// Nothing was put into it.
    pub fn is_empty(&self) -> bool {
        self.used == BLOCK_HEAD
    }

    /// Bytes of the body so far.
    pub fn body_len(&self) -> usize {
        self.used - BLOCK_HEAD
    }

    /// Adds a part of the content of the swap record `lsn`, which has `total` bytes, from `offset` on: as much as fits,
    /// at most `max`. The caller fills all of the slice; it is empty when there is no room or nothing left, and then
    /// nothing was added.
    pub fn push_chunk(&mut self, lsn: u64, total: u64, offset: u64, max: usize) -> &mut [u8] {
        let left = usize::try_from(total.saturating_sub(offset)).unwrap_or(usize::MAX);
        let room = (self.max - self.used).saturating_sub(SLOT);
        let bytes = left.min(max).min(room);
        if bytes == 0 {
            return &mut [];
        }
        let head = mmsb_shm::wire::chunk_head(lsn, offset, bytes as u64, total);
        let at = self.used;
        let end = at + SLOT + bytes.next_multiple_of(SLOT);
        self.used = end;
        let memory = self.memory();
        memory[at..at + SLOT].copy_from_slice(&head);
        memory[at + SLOT + bytes..end].fill(0);
        &mut memory[at + SLOT..at + SLOT + bytes]
    }
}

impl Drop for BlockBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            pooled(&self.pool).push(buffer);
        }
    }
}

/// A file that is ready to be written, under a name that no reader looks at.
struct Prepared {
    file: Arc<dyn DiskFile>,
    name: String,
    len: u64,
}

/// What the preparing thread is asked for.
enum Order {
    Prepare {
        len: u64,
        written: bool,
    },
    /// A file is full: the rest of it is given back.
    Trim {
        file: Arc<dyn DiskFile>,
        len: u64,
    },
}

/// The thread that makes files ahead of need.
struct Preparer {
    disk: Arc<dyn Disk>,
    orders: Option<Sender<Order>>,
    outbox: Sender<Result<Prepared, LogError>>,
    ready: Receiver<Result<Prepared, LogError>>,
    thread: Option<JoinHandle<()>>,
    /// Ordered and not yet taken.
    ordered: bool,
}

impl Preparer {
    fn start(disk: Arc<dyn Disk>) -> Result<Preparer, LogError> {
        let (outbox, ready) = crossbeam_channel::unbounded();
        let mut preparer = Preparer {
            disk: Arc::clone(&disk),
            orders: None,
            outbox: outbox.clone(),
            ready,
            thread: None,
            ordered: false,
        };
        if disk.threads() {
            let (orders, inbox) = crossbeam_channel::unbounded();
            let path = disk.path().to_owned();
            let thread = std::thread::Builder::new()
                .name("mmsb-tlog-files".into())
                .spawn(move || {
                    for order in inbox {
                        fulfil(&*disk, order, &outbox);
                    }
                })
                .map_err(|e| LogError::io("start a thread for", path, e))?;
            preparer.orders = Some(orders);
            preparer.thread = Some(thread);
        }
        Ok(preparer)
    }

    fn order(&self, order: Order) {
        match &self.orders {
            // The thread ends only with the channel.
            Some(orders) => drop(orders.send(order)),
            None => fulfil(&*self.disk, order, &self.outbox),
        }
    }

    fn stop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn fulfil(disk: &dyn Disk, order: Order, outbox: &Sender<Result<Prepared, LogError>>) {
    match order {
        Order::Prepare { len, written } => {
            // Nobody takes it when the writer is gone; the next one clears it away.
            let _ = outbox.send(prepare(disk, len, written));
        }
        Order::Trim { file, len } => {
            // Only room is at stake: a reader does not look behind the end of a full file.
            let _ = file.truncate(len).and_then(|()| file.sync());
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.stop();
        // Prepared for nothing. If this fails, the next writer clears it away.
        while let Ok(Ok(unused)) = self.ready.try_recv() {
            let _ = self.disk.remove(&unused.name);
        }
    }
}

fn prepare(disk: &dyn Disk, len: u64, written: bool) -> Result<Prepared, LogError> {
    let name = format!("{PREPARED}{:016x}", random()?);
    let path = disk.path().join(&name);
    step("tlog.prepare");
    let file = disk
        .create(&name)
        .map_err(|e| LogError::io("create", &path, e))?;
    let filled = file
        .allocate(len, written)
        .map_err(|e| LogError::io("allocate", &path, e))
        .and_then(|()| file.sync().map_err(|e| LogError::io("sync", &path, e)));
    if let Err(e) = filled {
        // What was allocated so far would keep the disk full.
        let _ = disk.remove(&name);
        return Err(e);
    }
    step("tlog.prepared");
    Ok(Prepared { file, name, len })
}

/// The file that blocks go into.
struct Current {
    file: Arc<dyn DiskFile>,
    name: String,
    first_lsn: u64,
    file_id: u64,
    len: u64,
    /// Where the next block goes.
    at: u64,
    /// Checksum that the next block repeats.
    prev: u32,
    /// Blocks in it.
    blocks: u64,
}

/// What stands between now and a greater durable LSN, oldest first.
enum Step {
    /// A block or a file header.
    Write {
        tag: u64,
        end_lsn: u64,
        bytes: u64,
        begun: Instant,
        done: bool,
        block: bool,
    },
    /// The next file gets its name once everything ahead is durable, and the file before is cut to its length.
    Publish {
        from: String,
        to: String,
        full: Arc<dyn DiskFile>,
        full_len: u64,
    },
}

/// Appends to a log. See the [module](self).
pub struct LogWriter {
    disk: Arc<dyn Disk>,
    engine: Box<dyn Engine>,
    config: WriterConfig,
    meta: LogMeta,
    preparer: Preparer,
    current: Current,
    steps: VecDeque<Step>,
    next_tag: u64,
    in_flight: usize,
    end_lsn: u64,
    durable_lsn: u64,
    pool: Pool,
    completions: Vec<Completion>,
    next_len: u64,
    stats: WriterStats,
    poison: Option<String>,
    /// Keeps the directory ours; dropped last.
    _lock: Option<File>,
}

/// Takes the directory's lock.
pub(crate) fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join(LOCK);
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| LogError::io("open", &path, e))?;
    match mmsb_shm::sys::lock::try_lock(&file, 0) {
        Ok(true) => Ok(file),
        Ok(false) => Err(LogError::Locked {
            dir: dir.to_owned(),
        }),
        Err(e) => Err(LogError::io("lock", path, e)),
    }
}

/// The lock of a log's directory: while it is held nobody else writes or repairs there.
#[derive(Debug)]
pub struct DirLock(File);

impl DirLock {
    /// Takes it, without waiting.
    ///
    /// # Errors
    /// [`LogError::Locked`] if somebody else has it.
    pub fn take(dir: &Path) -> Result<DirLock, LogError> {
        lock(dir).map(DirLock)
    }
}

impl LogWriter {
    /// Begins to write at `first_lsn`, in a new file. `dir` is made if it is not there. What an earlier writer of the
    /// same incarnation left at or behind `first_lsn` is given up: it was never called durable.
    ///
    /// # Errors
    /// [`LogError::Locked`] while another writer lives; [`LogError::Foreign`], [`LogError::Newer`] or
    /// [`LogError::Diverged`] if the directory holds another log or a later incarnation.
    pub fn create(
        dir: &Path,
        meta: LogMeta,
        first_lsn: u64,
        config: WriterConfig,
    ) -> Result<LogWriter, LogError> {
        if !dir.is_dir() {
            std::fs::create_dir_all(dir).map_err(|e| LogError::io("create", dir, e))?;
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            File::open(parent)
                .and_then(|d| d.sync_all())
                .map_err(|e| LogError::io("sync", parent, e))?;
        }
        LogWriter::create_locked(DirLock::take(dir)?, dir, meta, first_lsn, config)
    }

    /// As [`LogWriter::create`], for who has the lock of `dir` already.
    ///
    /// # Errors
    /// As [`LogWriter::create`].
    pub fn create_locked(
        lock: DirLock,
        dir: &Path,
        meta: LogMeta,
        first_lsn: u64,
        config: WriterConfig,
    ) -> Result<LogWriter, LogError> {
        let disk = RealDisk::open(dir).map_err(|e| LogError::io("open", dir, e))?;
        LogWriter::create_on(Arc::new(disk), Some(lock.0), meta, first_lsn, config)
    }

    /// The same on any disk.
    pub(crate) fn create_on(
        disk: Arc<dyn Disk>,
        lock: Option<File>,
        meta: LogMeta,
        first_lsn: u64,
        mut config: WriterConfig,
    ) -> Result<LogWriter, LogError> {
        config.block_bytes = config.block_bytes.clamp(SECTOR, BLOCK_BYTES_MAX) / SECTOR * SECTOR;
        config.depth = config.depth.clamp(1, 256);
        if meta.bus.len() > NAME_MAX {
            return Err(LogError::Misuse {
                what: format!(
                    "a bus name of {} bytes, at most {NAME_MAX} fit",
                    meta.bus.len()
                ),
            });
        }
        make_way(&*disk, &meta, first_lsn)?;
        let mut buffers: Vec<AlignedBuffer> = (0..=config.depth)
            .map(|_| AlignedBuffer::new(config.block_bytes))
            .collect();
        let engine = disk
            .engine(config.depth, &mut buffers, config.backend)
            .map_err(|e| LogError::io("start io_uring for", disk.path(), e))?;
        let smallest = (SECTOR * 2 + config.block_bytes) as u64;
        let first_len = FIRST_FILE.min(config.segment_bytes).max(smallest);
        let first = prepare(&*disk, first_len, config.prewrite)?;
        let preparer = Preparer::start(Arc::clone(&disk))?;
        let stats = WriterStats {
            backend: engine.name(),
            ..WriterStats::default()
        };
        let mut writer = LogWriter {
            engine,
            preparer,
            current: Current {
                file: Arc::clone(&first.file),
                name: String::new(),
                first_lsn,
                file_id: random()?,
                len: first.len,
                at: SECTOR as u64,
                prev: 0,
                blocks: 0,
            },
            steps: VecDeque::new(),
            next_tag: 0,
            in_flight: 0,
            end_lsn: first_lsn,
            durable_lsn: first_lsn,
            pool: Arc::new(Mutex::new(buffers)),
            completions: Vec::new(),
            next_len: (first_len * 2).min(config.segment_bytes.max(smallest)),
            stats,
            poison: None,
            _lock: lock,
            disk,
            config,
            meta,
        };
        let header = writer.header(None);
        let (bytes, crc) = encode_header(&header);
        writer.current.prev = crc;
        let path = writer.disk.path().join(&first.name);
        first
            .file
            .write_synced(&bytes, 0)
            .map_err(|e| LogError::io("write the header of", &path, e))?;
        writer.current.name = file_name(first_lsn, writer.meta.incarnation);
        let name = writer.current.name.clone();
        writer.publish(&first.name, &name)?;
        Ok(writer)
    }

    fn header(&self, previous: Option<Previous>) -> FileHeader {
        FileHeader {
            config: self.meta.config.clone(),
            log_id: self.meta.log_id,
            incarnation: self.meta.incarnation,
            fork_lsn: self.meta.fork_lsn,
            first_lsn: self.end_lsn,
            file_id: self.current.file_id,
            created_ns: self.meta.created_ns,
            ring_slots: self.meta.ring_slots,
            forks: self.meta.forks[self.meta.forks.len().saturating_sub(FORKS_MAX)..].to_vec(),
            bus: self.meta.bus.clone(),
            previous,
        }
    }

    /// Gives a file its log name, durably.
    fn publish(&mut self, from: &str, to: &str) -> Result<(), LogError> {
        step("tlog.name");
        self.disk
            .rename(from, to)
            .map_err(|e| LogError::io("rename to", self.disk.path().join(to), e))?;
        step("tlog.named");
        self.disk
            .sync_dir()
            .map_err(|e| LogError::io("sync", self.disk.path(), e))?;
        self.stats.files += 1;
        Ok(())
    }

    fn healthy(&self) -> Result<(), LogError> {
        match &self.poison {
            None => Ok(()),
            Some(because) => Err(LogError::Poisoned {
                because: because.clone(),
                durable_lsn: self.durable_lsn,
            }),
        }
    }

    /// Keeps the first failure, after which nothing more is written or called durable.
    fn poisoned<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(e) = &result
            && self.poison.is_none()
        {
            self.poison = Some(e.to_string());
            self.stats.last_error = self.poison.clone();
        }
        result
    }

    /// A buffer to fill. `None` while all are in flight (or the writer is poisoned, as the next call says).
    pub fn begin(&mut self) -> Option<BlockBuffer> {
        if self.poison.is_some() || self.in_flight >= self.config.depth {
            return None;
        }
        let buffer = pooled(&self.pool).pop()?;
        Some(BlockBuffer {
            max: self.config.block_bytes,
            buffer: Some(buffer),
            used: BLOCK_HEAD,
            records: 0,
            pool: Arc::clone(&self.pool),
        })
    }

    /// Takes a block, whose records end at `end_lsn`; they begin where those of the last block ended. With io_uring, the
    /// write begins here; the plain backend writes in [`poll`](LogWriter::poll) and [`wait`](LogWriter::wait).
    ///
    /// # Errors
    /// [`LogError::Misuse`] if `end_lsn` lies before the last one (nothing was written then); otherwise the writer is
    /// poisoned.
    pub fn submit(&mut self, mut block: BlockBuffer, end_lsn: u64) -> Result<(), LogError> {
        self.healthy()?;
        if end_lsn < self.end_lsn || !Arc::ptr_eq(&block.pool, &self.pool) {
            return Err(LogError::Misuse {
                what: format!(
                    "a block that ends at LSN {end_lsn} behind one that ends at {}",
                    self.end_lsn
                ),
            });
        }
        if block.is_empty() && end_lsn == self.end_lsn {
            return Ok(());
        }
        let Some(buffer) = block.buffer.take() else {
            return Ok(());
        };
        let (used, records) = (block.used, block.records);
        let result = self.append(buffer, used, records, end_lsn, 0);
        self.poisoned(result)
    }

    /// Submits a block of the current file, or of the next one if it does not fit.
    fn append(
        &mut self,
        mut buffer: AlignedBuffer,
        used: usize,
        records: u32,
        end_lsn: u64,
        flags: u32,
    ) -> Result<(), LogError> {
        let padded = used.next_multiple_of(SECTOR);
        // Room for a seal stays.
        if self.current.at + (padded + SECTOR) as u64 > self.current.len && flags & SEAL == 0 {
            if self.current.first_lsn == self.end_lsn {
                self.grow()?;
            } else {
                self.rotate()?;
            }
        }
        let head = BlockHead {
            crc: 0,
            len: 0,
            prev: self.current.prev,
            first_lsn: self.end_lsn,
            end_lsn,
            durable_lsn: self.durable_lsn,
            time_ns: now_ns(),
            records,
            flags,
            file_id: self.current.file_id,
        };
        let crc = head.encode(&mut buffer[..used]);
        buffer[used..padded].fill(0);
        let at = self.current.at;
        self.current.prev = crc;
        self.current.at += padded as u64;
        self.current.blocks += 1;
        self.end_lsn = end_lsn;
        self.send(buffer, at, padded, true)?;
        if !self.preparer.ordered && self.current.at * 4 > self.current.len && flags & SEAL == 0 {
            self.order_next();
        }
        Ok(())
    }

    /// Submits bytes of the current file.
    fn send(
        &mut self,
        buffer: AlignedBuffer,
        at: u64,
        len: usize,
        block: bool,
    ) -> Result<(), LogError> {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.in_flight += 1;
        self.steps.push_back(Step::Write {
            tag,
            end_lsn: self.end_lsn,
            bytes: len as u64,
            begun: Instant::now(),
            done: false,
            block,
        });
        self.engine.submit(Write {
            file: Arc::clone(&self.current.file),
            at,
            buffer,
            len,
            tag,
        });
        let path = self.disk.path();
        self.engine
            .start()
            .map_err(|e| LogError::io("submit writes to", path, e))
    }

    fn order_next(&mut self) {
        // Zeros pay for small blocks, each of which would wait for the file's metadata. Large ones are few, and want
        // the disk for themselves.
        let mean = (self.current.at - SECTOR as u64) / self.current.blocks.max(1);
        self.preparer.order(Order::Prepare {
            len: self.next_len,
            written: self.config.prewrite && mean < PREWRITE_BELOW,
        });
        self.preparer.ordered = true;
    }

    /// Makes the file longer: it holds nothing yet but content of a record to come, and two files cannot begin at the
    /// same LSN.
    fn grow(&mut self) -> Result<(), LogError> {
        let len = self.current.len + self.config.segment_bytes.max(FIRST_FILE * 2);
        let path = self.disk.path().join(&self.current.name);
        self.current
            .file
            .allocate(len, false)
            .map_err(|e| LogError::io("allocate", path, e))?;
        self.current.len = len;
        Ok(())
    }

    /// Goes on in the next file, while writes of this one are in flight.
    fn rotate(&mut self) -> Result<(), LogError> {
        if !self.preparer.ordered {
            self.order_next();
        }
        let next = match self.preparer.ready.try_recv() {
            Ok(next) => next,
            Err(_) => {
                self.stats.waits_for_file += 1;
                // What is in flight must not wait for this.
                let path = self.disk.path();
                self.engine
                    .start()
                    .map_err(|e| LogError::io("submit writes to", path, e))?;
                self.preparer.ready.recv().unwrap_or_else(|_| {
                    Err(LogError::Misuse {
                        what: "the thread that prepares files is gone".into(),
                    })
                })
            }
        }?;
        self.preparer.ordered = false;
        let smallest = (SECTOR * 2 + self.config.block_bytes) as u64;
        self.next_len = (next.len * 2).min(self.config.segment_bytes.max(smallest));
        let name = file_name(self.end_lsn, self.meta.incarnation);
        let full = std::mem::replace(
            &mut self.current,
            Current {
                file: next.file,
                name: name.clone(),
                first_lsn: self.end_lsn,
                file_id: random()?,
                len: next.len,
                at: SECTOR as u64,
                prev: 0,
                blocks: 0,
            },
        );
        let header = self.header(Some(Previous {
            file_id: full.file_id,
            bytes: full.at,
            crc: full.prev,
        }));
        let (buffer, crc) = encode_header(&header);
        self.current.prev = crc;
        self.send(buffer, 0, SECTOR, false)?;
        step("tlog.rotated");
        self.steps.push_back(Step::Publish {
            from: next.name,
            to: name,
            full: full.file,
            full_len: full.at,
        });
        Ok(())
    }

    /// Takes completions, and moves `durable_lsn` over those that are contiguous.
    fn reap(&mut self, patience: Patience) -> Result<u64, LogError> {
        let mut completions = std::mem::take(&mut self.completions);
        let reaped = self.engine.reap(patience, &mut completions);
        let mut failed = None;
        for completion in completions.drain(..) {
            self.in_flight -= 1;
            let step = self.steps.iter_mut().find_map(|step| match step {
                Step::Write {
                    tag,
                    done,
                    begun,
                    block,
                    ..
                } if *tag == completion.tag => {
                    *done = completion.result.is_ok();
                    Some((*begun, *block))
                }
                _ => None,
            });
            if let Some((begun, true)) = step {
                let us = begun.elapsed().as_micros() as u64;
                self.stats.latency[(us.max(1).ilog2() as usize).min(31)] += 1;
                self.stats.latency_sum_us += us;
            }
            if let Err(e) = completion.result
                && failed.is_none()
            {
                failed = Some(e);
            }
            if completion.buffer.len() == self.config.block_bytes {
                pooled(&self.pool).push(completion.buffer);
            }
        }
        self.completions = completions;
        // What completed ahead of a failure is durable all the same.
        self.advance()?;
        let path = self.disk.path();
        reaped.map_err(|e| LogError::io("wait for writes to", path, e))?;
        match failed {
            Some(e) => Err(LogError::io("write to", path.join(&self.current.name), e)),
            None => Ok(self.durable_lsn),
        }
    }

    fn advance(&mut self) -> Result<(), LogError> {
        loop {
            match self.steps.front() {
                Some(Step::Write {
                    done: true,
                    end_lsn,
                    bytes,
                    block,
                    ..
                }) => {
                    if *block {
                        self.durable_lsn = *end_lsn;
                        self.stats.writes += 1;
                    }
                    self.stats.bytes += bytes;
                    self.steps.pop_front();
                }
                Some(Step::Publish { .. }) => {
                    if let Some(Step::Publish {
                        from,
                        to,
                        full,
                        full_len,
                    }) = self.steps.pop_front()
                    {
                        self.publish(&from, &to)?;
                        self.preparer.order(Order::Trim {
                            file: full,
                            len: full_len,
                        });
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    /// Begins what was submitted, and takes what is complete, without waiting (the plain backend writes here).
    /// Returns [`durable_lsn`](LogWriter::durable_lsn).
    ///
    /// # Errors
    /// The writer is poisoned.
    pub fn poll(&mut self) -> Result<u64, LogError> {
        self.healthy()?;
        let result = self.reap(Patience::None);
        self.poisoned(result)
    }

    /// Waits until at least one more write is complete, or nothing is in flight. Returns
    /// [`durable_lsn`](LogWriter::durable_lsn). For one small write it spins a while, giving the core away at each look.
    /// A `timeout` may be exceeded by that, or by the time of one write with the plain backend.
    ///
    /// # Errors
    /// The writer is poisoned.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<u64, LogError> {
        self.healthy()?;
        if self.in_flight == 0 {
            return Ok(self.durable_lsn);
        }
        let result = self.reap(timeout.map_or(Patience::Forever, Patience::For));
        self.poisoned(result)
    }

    /// Writes that are not complete.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Everything below this is on the disk.
    pub fn durable_lsn(&self) -> u64 {
        self.durable_lsn
    }

    /// Where the next block begins.
    pub fn end_lsn(&self) -> u64 {
        self.end_lsn
    }

    /// What it did so far.
    pub fn stats(&self) -> &WriterStats {
        &self.stats
    }

    /// What the log is of.
    pub fn meta(&self) -> &LogMeta {
        &self.meta
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.disk.path()
    }

    /// The file that is being written.
    pub fn file(&self) -> PathBuf {
        self.disk.path().join(&self.current.name)
    }

    /// Waits for what is in flight, marks the clean end of the log, and gives back the room that is left in the file.
    ///
    /// # Errors
    /// Something was not written; what is durable is so all the same.
    pub fn close(mut self) -> Result<(), LogError> {
        self.healthy()?;
        self.drain()?;
        let mut buffer = AlignedBuffer::new(SECTOR);
        buffer.fill(0);
        self.append(buffer, BLOCK_HEAD, 0, self.end_lsn, SEAL)?;
        self.drain()?;
        step("tlog.sealed");
        let path = self.file();
        self.current
            .file
            .truncate(self.current.at)
            .map_err(|e| LogError::io("truncate", &path, e))?;
        self.current
            .file
            .sync()
            .map_err(|e| LogError::io("sync", &path, e))?;
        Ok(())
    }

    fn drain(&mut self) -> Result<(), LogError> {
        while self.in_flight > 0 {
            self.wait(None)?;
        }
        Ok(())
    }
}

fn encode_header(header: &FileHeader) -> (AlignedBuffer, u32) {
    let bytes = header.encode();
    let crc = u32::from_le_bytes([bytes[4092], bytes[4093], bytes[4094], bytes[4095]]);
    let mut buffer = AlignedBuffer::new(SECTOR);
    buffer.copy_from_slice(&bytes);
    (buffer, crc)
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_nanos() as u64)
}

/// Sees to it that a log can begin at `first_lsn`: nobody else's files, no later incarnation, no leftovers.
fn make_way(disk: &dyn Disk, meta: &LogMeta, first_lsn: u64) -> Result<(), LogError> {
    let path = disk.path();
    let names = disk.list().map_err(|e| LogError::io("list", path, e))?;
    let mut removed = false;
    let mut remove = |name: &str| {
        removed = true;
        disk.remove(name)
            .map_err(|e| LogError::io("remove", path.join(name), e))
    };
    let mut newest = None;
    for name in &names {
        if name.starts_with(PREPARED) {
            remove(name)?;
        } else if let Some((lsn, incarnation, _)) = parse_name(name) {
            newest = newest.max(Some((incarnation, lsn, name)));
        }
    }
    if let Some((incarnation, lsn, name)) = newest {
        let file = path.join(name);
        let head = disk
            .read_head(name)
            .map_err(|e| LogError::io("read", &file, e))?;
        match FileHeader::decode(&head) {
            Ok((header, _)) if header.log_id != meta.log_id => {
                return Err(LogError::Foreign {
                    what: format!(
                        "it belongs to bus {:?}, log {:016x?}",
                        header.bus, header.log_id
                    ),
                    file,
                });
            }
            Ok((header, _)) if incarnation > meta.incarnation => {
                return Err(LogError::Diverged {
                    incarnation,
                    fork_lsn: header.fork_lsn,
                    at: first_lsn,
                });
            }
            Ok(_) => {}
            Err(HeaderFault::Newer(major)) => return Err(LogError::Newer { file, major }),
            Err(HeaderFault::Foreign) => {
                return Err(LogError::Foreign {
                    what: "it has the name of a log file, but not its content".into(),
                    file,
                });
            }
            Err(HeaderFault::Damaged(what)) => {
                return Err(LogError::Damaged {
                    file,
                    lsn,
                    offset: 0,
                    what,
                });
            }
        }
    }
    // From the last to the first, so that what remains after a crash is a log without a gap.
    let mut superseded: Vec<(u64, &String)> = names
        .iter()
        .filter_map(|name| {
            let (lsn, incarnation, compressed) = parse_name(name)?;
            // One that begins right there is replaced when the new one gets its name: until then it says that this
            // incarnation, and this log, has begun.
            let stays = lsn == first_lsn && !compressed;
            (incarnation == meta.incarnation && lsn >= first_lsn && !stays).then_some((lsn, name))
        })
        .collect();
    superseded.sort();
    for (_, name) in superseded.into_iter().rev() {
        step("tlog.supersede");
        remove(name)?;
    }
    if removed {
        disk.sync_dir().map_err(|e| LogError::io("sync", path, e))?;
    }
    Ok(())
}
