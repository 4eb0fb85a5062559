//! Real files: O_DIRECT where the file system has it, and the plain engine, which writes with `pwritev2(RWF_DSYNC)`.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::{AlignedBuffer, Backend, Completion, Disk, DiskFile, Engine, Patience, Write};
use crate::tlog::format::SECTOR;

/// Written at once when a file is filled with zeros.
const ZEROS: usize = 1 << 20;
/// `FALLOC_FL_WRITE_ZEROES` (Linux 6.17): the device makes the zeros, and the extents count as written.
const WRITE_ZEROES: u32 = 0x80;

/// A directory of a real file system.
pub(crate) struct RealDisk {
    dir: PathBuf,
    handle: File,
}

impl RealDisk {
    pub fn open(dir: &Path) -> io::Result<RealDisk> {
        Ok(RealDisk {
            handle: File::open(dir)?,
            dir: dir.to_owned(),
        })
    }
}

impl Disk for RealDisk {
    fn path(&self) -> &Path {
        &self.dir
    }

    fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn read_head(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = File::open(self.dir.join(name))?;
        if name.ends_with(".zst") {
            return io::Read::bytes(zstd::Decoder::new(file)?)
                .take(SECTOR)
                .collect();
        }
        let mut head = vec![0; SECTOR];
        let mut have = 0;
        while have < SECTOR {
            match file.read_at(&mut head[have..], have as u64)? {
                0 => break,
                n => have += n,
            }
        }
        head.truncate(have);
        Ok(head)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        let open = |direct: OFlags| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o640);
            options.custom_flags(direct.bits() as i32);
            options.open(&path)
        };
        let file = match open(OFlags::DIRECT) {
            // The name is there already when the file system refuses the flag only after creating it.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                let _ = std::fs::remove_file(&path);
                open(OFlags::empty())?
            }
            other => other?,
        };
        Ok(Arc::new(RealFile {
            file,
            dsync: AtomicBool::new(true),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn engine(
        &self,
        depth: usize,
        buffers: &mut [AlignedBuffer],
        backend: Backend,
    ) -> io::Result<Box<dyn Engine>> {
        if backend != Backend::Plain {
            match super::uring::UringEngine::new(depth, buffers) {
                Ok(engine) => return Ok(Box::new(engine)),
                Err(e) if backend == Backend::Uring => return Err(e),
                // Refused by seccomp or a sysctl, too old a kernel, no memory to lock: the plain calls do as well.
                Err(_) => {}
            }
        }
        Ok(Box::new(PlainEngine {
            queued: VecDeque::new(),
        }))
    }
}

/// A file opened by [`RealDisk`].
pub(super) struct RealFile {
    pub file: File,
    /// Whether a write can be synced by itself; otherwise `fdatasync` follows it.
    dsync: AtomicBool,
}

impl RealFile {
    /// The real file behind what the writer holds.
    pub fn of(file: &dyn DiskFile) -> io::Result<&RealFile> {
        file.as_any()
            .downcast_ref()
            .ok_or_else(|| io::Error::other("a file of another disk"))
    }

    /// Whether one write call is all it takes.
    pub fn has_dsync(&self) -> bool {
        // Relaxed: a hint; `write_synced` finds out for itself.
        self.dsync.load(Ordering::Relaxed)
    }

    /// Writes a part of `bytes`, at least one sector of it, durably.
    fn write_some(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let data = [IoSlice::new(bytes)];
        let fd = self.file.as_fd();
        if self.has_dsync() {
            match rustix::io::pwritev2(fd, &data, at, ReadWriteFlags::DSYNC) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.dsync.store(false, Ordering::Relaxed),
                other => return Ok(other?),
            }
        }
        let written = rustix::io::pwrite(fd, bytes, at)?;
        rustix::fs::fdatasync(fd)?;
        Ok(written)
    }
}

/// What remains to be written after a call took `written` of `len` bytes: O_DIRECT goes on at a sector.
pub(super) fn go_on(written: usize, len: usize) -> io::Result<usize> {
    if written >= len {
        return Ok(len);
    }
    match written / SECTOR * SECTOR {
        0 => Err(io::Error::new(
            io::ErrorKind::WriteZero,
            "the disk took less than a sector",
        )),
        whole => Ok(whole),
    }
}

impl DiskFile for RealFile {
    fn allocate(&self, len: u64, written: bool) -> io::Result<()> {
        if written {
            let flags = FallocateFlags::from_bits_retain(WRITE_ZEROES);
            match rustix::fs::fallocate(&self.file, flags, 0, len) {
                Ok(()) => return Ok(()),
                Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO)) => {
                    return Err(e.into());
                }
                // An older kernel, or a file system or device that cannot.
                Err(_) => {}
            }
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(len)?,
            Err(e) => return Err(e.into()),
        }
        if written {
            let zeros = AlignedBuffer::new(ZEROS.min(len as usize));
            let mut at = 0;
            while at < len {
                let n = (len - at).min(zeros.len() as u64) as usize;
                match self.file.write_at(&zeros[..n], at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => at += n as u64,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    fn write_synced(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.write_some(&bytes[done..], at + done as u64) {
                Ok(n) => done += go_on(n, bytes.len() - done)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Writes inside [`Engine::reap`], one at a time.
struct PlainEngine {
    queued: VecDeque<Write>,
}

impl Engine for PlainEngine {
    fn submit(&mut self, write: Write) {
        self.queued.push_back(write);
    }

    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, _: Patience, out: &mut Vec<Completion>) -> io::Result<()> {
        while let Some(write) = self.queued.pop_front() {
            let result = write
                .file
                .write_synced(&write.buffer[..write.len], write.at);
            out.push(Completion {
                tag: write.tag,
                buffer: write.buffer,
                result,
            });
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        "pwritev2"
    }
}
