//! What the disk itself takes, measured without MMSB: the least that a durable commit can cost.
//!
//! Everything is written into a file that was filled with zeros ahead, past the page cache (`O_DIRECT`): [`write_ns`] is
//! one small synced write (`RWF_DSYNC`), by a plain call and through io_uring; [`group_commit`] is what some threads get
//! that share such writes, one in flight; [`sequential_write`] is the bandwidth of large writes. Where the file system
//! has no `O_DIRECT` (a tmpfs), the page cache is used and [`Scratch::is_direct`] says so.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};
use rustix::fs::{Advice, FallocateFlags, OFlags};
use rustix::io::ReadWriteFlags;

/// Bytes of a small write, and what buffers and offsets are aligned to.
pub const SECTOR: usize = 4096;
/// Bytes of a large write.
pub const LARGE: usize = 1 << 20;
/// Bytes that small writes go round in.
pub const AREA: u64 = 16 << 20;

/// Memory that `O_DIRECT` takes.
pub struct Buffer {
    base: NonNull<u8>,
    layout: Layout,
}

impl Buffer {
    /// So many zeros, at least a [`SECTOR`].
    ///
    /// # Errors
    ///
    /// If there cannot be so many.
    pub fn new(bytes: usize) -> io::Result<Buffer> {
        let layout = Layout::from_size_align(bytes.max(SECTOR), SECTOR)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        match NonNull::new(base) {
            Some(base) => Ok(Buffer { base, layout }),
            None => handle_alloc_error(layout),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `base` is an allocation of that many bytes, initialised, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and freed only here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

// SAFETY: memory of its own, used through borrows like a `Vec<u8>`.
unsafe impl Send for Buffer {}

/// A file without a name, gone with this value.
pub struct Scratch {
    file: File,
    bytes: u64,
    is_direct: bool,
}

impl Scratch {
    /// A file of `bytes` in `dir`, its blocks allocated; `filled`: and written with zeros, so that a later write changes
    /// no metadata.
    ///
    /// # Errors
    ///
    /// What the file system said.
    pub fn new(dir: &Path, bytes: u64, filled: bool) -> io::Result<Scratch> {
        let path = dir.join(format!("floor-{}", std::process::id()));
        let open = |flags: OFlags| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .custom_flags(flags.bits() as i32)
                .open(&path)
        };
        let direct = open(OFlags::DIRECT);
        let is_direct = direct.is_ok();
        let file = match direct {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::empty())?,
            Err(error) => return Err(error),
        };
        std::fs::remove_file(&path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        let scratch = Scratch {
            file,
            bytes,
            is_direct,
        };
        if filled {
            let zeros = Buffer::new(LARGE)?;
            let mut at = 0;
            while at < bytes {
                let len = (bytes - at).min(LARGE as u64) as usize;
                scratch.write(&zeros[..len], at, ReadWriteFlags::empty())?;
                at += len as u64;
            }
        }
        scratch.file.sync_all()?;
        Ok(scratch)
    }

    /// Whether it is written past the page cache.
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn write(&self, bytes: &[u8], at: u64, flags: ReadWriteFlags) -> io::Result<()> {
        let written = rustix::io::pwritev2(self.file.as_fd(), &[IoSlice::new(bytes)], at, flags)?;
        if written == bytes.len() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("{written} of {} bytes were written", bytes.len()),
        ))
    }
}

/// How long operations took, and how many there were.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// Median in nanoseconds.
    pub p50_ns: f64,
    /// 99th percentile in nanoseconds.
    pub p99_ns: f64,
    /// Operations in a second.
    pub per_second: f64,
}

impl Times {
    fn of(mut samples: Vec<f64>, elapsed: Duration) -> io::Result<Times> {
        if samples.is_empty() {
            return Err(io::Error::other("the disk did nothing in the time"));
        }
        samples.sort_unstable_by(f64::total_cmp);
        let at = |part: f64| samples[((samples.len() - 1) as f64 * part) as usize];
        Ok(Times {
            p50_ns: at(0.5),
            p99_ns: at(0.99),
            per_second: samples.len() as f64 / elapsed.as_secs_f64().max(1e-9),
        })
    }
}

/// One small synced write after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SmallWrites {
    /// By `pwritev2` with `RWF_DSYNC`.
    pub plain: Times,
    /// By io_uring, which submits and waits in one call; `None` where it is refused.
    pub uring: Option<Times>,
}

impl SmallWrites {
    /// The quicker of the two medians, in nanoseconds.
    pub fn least_ns(&self) -> f64 {
        let uring = self.uring.map_or(f64::INFINITY, |times| times.p50_ns);
        self.plain.p50_ns.min(uring)
    }
}

/// Writes 4 KiB after 4 KiB, each synced by itself, for about `budget`: in turns by both ways, so that both meet the same
/// disk.
///
/// # Errors
///
/// What the file system said.
pub fn write_ns(dir: &Path, budget: Duration) -> io::Result<SmallWrites> {
    let scratch = Scratch::new(dir, AREA, true)?;
    let mut buffer = Buffer::new(SECTOR)?;
    let mut ring = IoUring::new(1).ok();
    let (mut plain, mut uring) = (Vec::new(), Vec::new());
    let mut times = (Duration::ZERO, Duration::ZERO);
    let (begin, mut n) = (Instant::now(), 0u64);
    // Some writes to warm up.
    for _ in 0..16 {
        scratch.write(&buffer, 0, ReadWriteFlags::DSYNC)?;
    }
    loop {
        let turn = Instant::now();
        for _ in 0..32 {
            n += 1;
            buffer[..8].copy_from_slice(&n.to_le_bytes());
            let start = Instant::now();
            scratch.write(&buffer, n * SECTOR as u64 % AREA, ReadWriteFlags::DSYNC)?;
            plain.push(start.elapsed().as_secs_f64() * 1e9);
        }
        times.0 += turn.elapsed();
        if let Some(ring) = &mut ring {
            let turn = Instant::now();
            for _ in 0..32 {
                n += 1;
                buffer[..8].copy_from_slice(&n.to_le_bytes());
                let start = Instant::now();
                write_through(ring, &scratch, &buffer, n * SECTOR as u64 % AREA)?;
                uring.push(start.elapsed().as_secs_f64() * 1e9);
            }
            times.1 += turn.elapsed();
        }
        if begin.elapsed() >= budget {
            break;
        }
    }
    Ok(SmallWrites {
        plain: Times::of(plain, times.0)?,
        uring: ring.map(|_| Times::of(uring, times.1)).transpose()?,
    })
}

/// One synced write through a ring with nothing else in it.
fn write_through(ring: &mut IoUring, scratch: &Scratch, bytes: &[u8], at: u64) -> io::Result<()> {
    let file = types::Fd(scratch.file.as_raw_fd());
    let entry = opcode::Write::new(file, bytes.as_ptr(), bytes.len() as u32)
        .offset(at)
        .rw_flags(ReadWriteFlags::DSYNC.bits() as i32)
        .build();
    // SAFETY: the bytes are borrowed until the write has completed, which is awaited below whatever happens.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    loop {
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                // The kernel may hold the buffer: nothing may go on here.
                eprintln!("io_uring failed with a write in flight: {error}");
                std::process::abort();
            }
            _ => {}
        }
        if let Some(entry) = ring.completion().next() {
            return match entry.result() {
                written if written == bytes.len() as i32 => Ok(()),
                error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
                _ => Err(io::ErrorKind::WriteZero.into()),
            };
        }
    }
}

/// Where the committers of [`group_commit`] meet.
#[derive(Default)]
struct Group {
    /// Records put in so far.
    entered: u64,
    /// Records that are on disk.
    durable: u64,
    /// Somebody writes.
    is_writing: bool,
    /// Where the next write goes.
    at: u64,
    failed: Option<io::ErrorKind>,
    /// What the writes took, in nanoseconds.
    writes: Vec<f64>,
}

/// Commits that shared their writes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupCommits {
    /// The commits.
    pub commits: Times,
    /// The writes.
    pub writes: Times,
}

/// Records that share their writes, whoever commits them: who comes while no write is in flight writes for all that have
/// come by then, the others wait for a wake-all.
pub struct Sharing {
    scratch: Scratch,
    bytes: usize,
    group: Mutex<Group>,
    done: Condvar,
}

impl Sharing {
    /// Records of `bytes`, in a file in `dir`.
    ///
    /// # Errors
    ///
    /// What the file system said.
    pub fn new(dir: &Path, bytes: usize) -> io::Result<Sharing> {
        Ok(Sharing {
            scratch: Scratch::new(dir, AREA, true)?,
            bytes,
            group: Mutex::new(Group::default()),
            done: Condvar::new(),
        })
    }

    /// What each of so many committers writes from.
    ///
    /// # Errors
    ///
    /// If it cannot be so large.
    pub fn buffer(&self, committers: usize) -> io::Result<Buffer> {
        Buffer::new((committers * self.bytes).next_multiple_of(SECTOR))
    }

    /// Commits one record; on disk when it returns.
    ///
    /// # Errors
    ///
    /// What the file system said, to this committer or another.
    pub fn commit(&self, buffer: &mut Buffer) -> io::Result<()> {
        let mut now = locked(&self.group);
        now.entered += 1;
        let mine = now.entered;
        loop {
            if let Some(kind) = now.failed {
                return Err(kind.into());
            }
            if now.durable >= mine {
                return Ok(());
            }
            if now.is_writing {
                now = self.done.wait(now).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            now.is_writing = true;
            let (end, records) = (now.entered, (now.entered - now.durable) as usize);
            let len = (records * self.bytes).next_multiple_of(SECTOR);
            let at = if now.at + len as u64 > AREA {
                0
            } else {
                now.at
            };
            now.at = at + len as u64;
            drop(now);
            buffer[..8].copy_from_slice(&end.to_le_bytes());
            let start = Instant::now();
            let written = self
                .scratch
                .write(&buffer[..len], at, ReadWriteFlags::DSYNC);
            let took = start.elapsed().as_secs_f64() * 1e9;
            now = locked(&self.group);
            now.writes.push(took);
            now.is_writing = false;
            match &written {
                Ok(()) => now.durable = end,
                Err(error) => now.failed = Some(error.kind()),
            }
            self.done.notify_all();
            written?;
        }
    }
}

/// What `threads` threads get that each commit one record of `bytes` after the other and share their writes: see
/// [`Sharing`].
///
/// # Errors
///
/// What the file system said.
pub fn group_commit(
    dir: &Path,
    threads: usize,
    bytes: usize,
    budget: Duration,
) -> io::Result<GroupCommits> {
    let sharing = Sharing::new(dir, bytes)?;
    let stop = AtomicBool::new(false);
    let one = || -> io::Result<Vec<f64>> {
        let mut buffer = sharing.buffer(threads)?;
        let mut samples = Vec::new();
        // Relaxed: a flag that stands for nothing but itself.
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            sharing.commit(&mut buffer)?;
            samples.push(start.elapsed().as_secs_f64() * 1e9);
        }
        Ok(samples)
    };
    let begin = Instant::now();
    let commits = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(one)).collect();
        std::thread::sleep(budget);
        // Relaxed: as above.
        stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(samples) => all.extend(samples?),
                Err(_) => return Err(io::Error::other("a committer panicked")),
            }
        }
        Times::of(all, begin.elapsed())
    })?;
    let writes = std::mem::take(&mut locked(&sharing.group).writes);
    Ok(GroupCommits {
        commits,
        writes: Times::of(writes, begin.elapsed())?,
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data, whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bandwidth of the disk for one large file, in bytes per second: writes of 1 MiB into allocated blocks, with a sync at
/// the end; the better of one write in flight and four.
///
/// # Errors
///
/// What the file system said.
pub fn sequential_write(dir: &Path, bytes: u64) -> io::Result<f64> {
    let bytes = bytes.next_multiple_of(LARGE as u64);
    let mut best = 0f64;
    for depth in [1, 4] {
        let scratch = Scratch::new(dir, bytes, false)?;
        let start = Instant::now();
        match (depth, IoUring::new(depth)) {
            (1, _) | (_, Err(_)) => {
                let buffer = Buffer::new(LARGE)?;
                for at in (0..bytes).step_by(LARGE) {
                    scratch.write(&buffer, at, ReadWriteFlags::empty())?;
                }
            }
            (_, Ok(ring)) => write_deep(ring, &scratch, depth as usize)?,
        }
        scratch.file.sync_data()?;
        best = best.max(bytes as f64 / start.elapsed().as_secs_f64().max(1e-9));
    }
    Ok(best)
}

/// Writes the whole file with `depth` writes in flight.
fn write_deep(mut ring: IoUring, scratch: &Scratch, depth: usize) -> io::Result<()> {
    // One buffer for all: what is written does not matter, and nobody changes it.
    let buffer = Buffer::new(LARGE)?;
    let file = types::Fd(scratch.file.as_raw_fd());
    let (mut at, mut in_flight, mut failed) = (0, 0, None);
    loop {
        while in_flight < depth && at < scratch.bytes && failed.is_none() {
            let entry = opcode::Write::new(file, buffer.as_ptr(), LARGE as u32)
                .offset(at)
                .build();
            // SAFETY: the buffer outlives all writes: they are awaited below, also after a failure.
            unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
            at += LARGE as u64;
            in_flight += 1;
        }
        if in_flight == 0 {
            return failed.map_or(Ok(()), Err);
        }
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                // The kernel may hold the buffer: it must not be freed.
                std::mem::forget(buffer);
                return Err(error);
            }
            _ => {}
        }
        while let Some(entry) = ring.completion().next() {
            in_flight -= 1;
            match entry.result() {
                written if written == LARGE as i32 => {}
                error if error < 0 => failed = Some(io::Error::from_raw_os_error(-error)),
                _ => failed = Some(io::ErrorKind::WriteZero.into()),
            }
        }
    }
}

/// Reads each file once from beginning to end, by large reads of one thread. Returns the bytes and the time.
///
/// # Errors
///
/// What the file system said.
pub fn read_all<P: AsRef<Path>>(paths: &[P]) -> io::Result<(u64, Duration)> {
    let mut buffer = vec![0; LARGE];
    let (start, mut bytes) = (Instant::now(), 0);
    for path in paths {
        let mut file = File::open(path)?;
        rustix::fs::fadvise(&file, 0, None, Advice::Sequential)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => bytes += n as u64,
            }
        }
    }
    Ok((bytes, start.elapsed()))
}

/// Puts the files out of the page cache, as far as they are on disk.
///
/// # Errors
///
/// What the file system said.
pub fn forget<P: AsRef<Path>>(paths: &[P]) -> io::Result<()> {
    for path in paths {
        let file = File::open(path)?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    #[test]
    fn small_writes_take_time() {
        let dir = dir();
        let times = write_ns(dir.path(), Duration::from_millis(20)).unwrap();
        assert!(times.plain.p50_ns > 0.0 && times.plain.p50_ns <= times.plain.p99_ns);
        assert!(times.least_ns() <= times.plain.p50_ns);
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    }

    #[test]
    fn committers_share_writes() {
        let dir = dir();
        for threads in [1, 5] {
            let times = group_commit(dir.path(), threads, 128, Duration::from_millis(50)).unwrap();
            let (commits, writes) = (times.commits, times.writes);
            assert!(commits.p50_ns > 0.0 && writes.p50_ns > 0.0, "{times:?}");
            assert!(commits.per_second >= writes.per_second, "{times:?}");
        }
    }

    #[test]
    fn large_files_are_written_and_read_whole() {
        let dir = dir();
        assert!(sequential_write(dir.path(), (3 << 20) + 5).unwrap() > 0.0);
        let paths = [dir.path().join("a"), dir.path().join("b")];
        std::fs::write(&paths[0], vec![1; LARGE + 1]).unwrap();
        std::fs::write(&paths[1], b"x").unwrap();
        forget(&paths).unwrap();
        assert_eq!(read_all(&paths).unwrap().0, LARGE as u64 + 2);
    }
}
