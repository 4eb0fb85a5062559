//! Files that hold segments: where they live, how they appear and how they get their memory.
//!
//! An object is created without a name, filled, and only then linked ([`create_unnamed`], [`link_named`]), so that
//! nobody can ever open a half-made one. Its length grows with [`allocate`], which fails cleanly when the tmpfs is
//! full, where touching a hole would have raised SIGBUS.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, StatFs};
use rustix::io::{Errno, retry_on_intr};

/// Names an object of a bus: `mmsb.<bus>.<suffix>`.
const PREFIX: &str = "mmsb.";
/// Suffixes by which [`SegmentDir::buses`] recognises a bus.
const SUFFIXES: [&str; 2] = [".pages", ".ctl"];
const DEFAULT_DIR: &str = "/dev/shm";

/// The directory that holds the objects of all buses a process can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentDir {
    path: PathBuf,
}

impl SegmentDir {
    /// `$MMSB_DIR` when it is set and not empty, else `/dev/shm`.
    pub fn from_env() -> SegmentDir {
        Self::from_setting(std::env::var_os("MMSB_DIR").as_deref())
    }

    /// The given directory, which must exist by the time objects are created in it.
    pub fn at(path: impl Into<PathBuf>) -> SegmentDir {
        SegmentDir { path: path.into() }
    }

    fn from_setting(setting: Option<&OsStr>) -> SegmentDir {
        match setting {
            Some(dir) if !dir.is_empty() => Self::at(dir),
            _ => Self::at(DEFAULT_DIR),
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of one object of a bus, `<dir>/mmsb.<bus>.<suffix>`.
    ///
    /// The name is taken as it is: whoever accepts a bus name from outside refuses `/` and NUL first.
    pub fn object(&self, bus: &str, suffix: &str) -> PathBuf {
        self.path.join(format!("{PREFIX}{bus}.{suffix}"))
    }

    /// Names of the buses with at least one object (`.pages` or `.ctl`) here, sorted, each once.
    ///
    /// A name says only that a file of that name exists, not that it is a valid segment. Names that are not UTF-8
    /// are skipped, as no bus can have one.
    ///
    /// # Errors
    /// Those of opening and reading the directory.
    pub fn buses(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let file = entry?.file_name();
            let Some(rest) = file.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
                continue;
            };
            let bus = SUFFIXES.iter().find_map(|suffix| rest.strip_suffix(suffix));
            if let Some(bus) = bus.filter(|bus| !bus.is_empty()) {
                names.push(bus.to_owned());
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}

/// Creates an object without a name in `dir`, readable and writable through the descriptor, with exactly the
/// permission bits of `mode` (the umask does not apply).
///
/// The object disappears with its last descriptor and mapping unless [`link_named`] gives it a name.
///
/// # Errors
/// Kind [`Unsupported`](io::ErrorKind::Unsupported) where the kernel or filesystem has no `O_TMPFILE`;
/// [`NotFound`](io::ErrorKind::NotFound) when `dir` is missing; otherwise what `open` or `fchmod` said.
pub fn create_unnamed(dir: &Path, mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    // Private until the mode is set below, whatever the umask is.
    let fd = rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| no_tmpfile(errno, dir))?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
    Ok(fd)
}

/// One answer for the several ways in which kernels and filesystems say that they have no `O_TMPFILE`.
fn no_tmpfile(errno: Errno, dir: &Path) -> io::Error {
    match errno {
        // A kernel before 3.11 sees O_DIRECTORY with write access (EISDIR) or a nameless create (ENOENT).
        Errno::ISDIR => Errno::OPNOTSUPP.into(),
        Errno::NOENT if dir.is_dir() => Errno::OPNOTSUPP.into(),
        errno => errno.into(),
    }
}

/// Gives an object from [`create_unnamed`] its name. It never replaces anything.
///
/// # Errors
/// [`AlreadyExists`](io::ErrorKind::AlreadyExists) when the name is taken: the normal outcome for the loser of a
/// race to create. Otherwise what `linkat` said.
pub fn link_named(fd: impl AsFd, path: &Path) -> io::Result<()> {
    let fd = fd.as_fd();
    match rustix::fs::linkat(CWD, proc_path(fd), CWD, path, AtFlags::SYMLINK_FOLLOW) {
        // Either /proc is not mounted (a bare container) or the target directory is missing; the second way
        // needs no /proc, but CAP_DAC_READ_SEARCH before Linux 6.10, so it comes second.
        Err(Errno::NOENT) => rustix::fs::linkat(fd, "", CWD, path, AtFlags::EMPTY_PATH)?,
        other => other?,
    }
    Ok(())
}

/// Opens an existing object, for reading or for reading and writing.
///
/// Symbolic links are refused, and so is anything that is not a regular file: the directory may be writable by
/// others, who could have put a fifo, a device or a link there. Opening never blocks.
///
/// # Errors
/// `ELOOP` for a symbolic link; [`InvalidInput`](io::ErrorKind::InvalidInput) for another file type; otherwise
/// what `open` said.
pub fn open_object(path: &Path, write: bool) -> io::Result<OwnedFd> {
    let flags =
        access(write) | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        // What a directory or a socket, or a fifo without a reader, answers before fstat could.
        Err(Errno::ISDIR | Errno::NXIO) => return Err(not_regular(path)),
        Err(errno) => return Err(errno.into()),
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(not_regular(path));
    }
    Ok(fd)
}

/// A new open file description of the object behind `fd`.
///
/// Unlike `dup`, the result shares no offset, no flags and above all no OFD locks with `fd`, which is what a second
/// participant of one process, or a liveness test, needs.
///
/// # Errors
/// [`NotFound`](io::ErrorKind::NotFound) when `/proc` is not mounted; otherwise what `open` said (the
/// object's permission bits are checked anew).
pub fn reopen(fd: BorrowedFd<'_>, write: bool) -> io::Result<OwnedFd> {
    // No NOFOLLOW here: the path is a kernel link to the very object, not something another user could plant.
    let flags = access(write) | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(proc_path(fd), flags, Mode::empty())?)
}

fn access(write: bool) -> OFlags {
    if write { OFlags::RDWR } else { OFlags::RDONLY }
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn not_regular(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{} is not a regular file", path.display()),
    )
}

/// What the filesystem says about an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectStat {
    /// Length in bytes. Touching a mapping beyond it raises SIGBUS.
    pub len: u64,
    /// Memory really taken, in bytes: less than `len` where there are holes.
    pub blocks_bytes: u64,
    /// Owning user.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// File type and permission bits as in `st_mode`.
    pub mode: u32,
    /// Number of names; 0 after an unlink, or before [`link_named`].
    pub nlink: u64,
    /// Inode number, unique within `dev`: tells a recreated object from the one that is mapped.
    pub ino: u64,
    /// Device number of the filesystem.
    pub dev: u64,
}

impl ObjectStat {
    /// Whether both describe the same object, however it was opened or is named.
    pub fn same_object(&self, other: &ObjectStat) -> bool {
        self.dev == other.dev && self.ino == other.ino
    }

    fn of(meta: &std::fs::Metadata) -> ObjectStat {
        ObjectStat {
            len: meta.size(),
            // st_blocks counts 512-byte units on every filesystem, whatever its block size.
            blocks_bytes: meta.blocks().saturating_mul(512),
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode(),
            nlink: meta.nlink(),
            ino: meta.ino(),
            dev: meta.dev(),
        }
    }
}

/// `fstat` of an open object.
///
/// # Errors
/// What `fstat` said; `EBADF` is the only likely one.
#[allow(clippy::unnecessary_cast)] // The widths of these fields differ per target.
pub fn stat(fd: impl AsFd) -> io::Result<ObjectStat> {
    let raw = rustix::fs::fstat(fd)?;
    Ok(ObjectStat {
        len: raw.st_size as u64,
        blocks_bytes: (raw.st_blocks as u64).saturating_mul(512),
        uid: raw.st_uid,
        gid: raw.st_gid,
        mode: raw.st_mode as u32,
        nlink: raw.st_nlink as u64,
        ino: raw.st_ino as u64,
        dev: raw.st_dev as u64,
    })
}

/// `lstat` of a path: a symbolic link describes itself.
///
/// # Errors
/// [`NotFound`](io::ErrorKind::NotFound) when nothing has that name; otherwise what `lstat` said.
pub fn stat_path(path: &Path) -> io::Result<ObjectStat> {
    Ok(ObjectStat::of(&std::fs::symlink_metadata(path)?))
}

/// Gives the object real memory for `len` bytes from `offset`, and extends its length to cover them.
///
/// What was there stays; new bytes are zero. On success no later touch of the range can fail for lack of space; on
/// failure tmpfs gives back what it had taken.
///
/// # Errors
/// [`StorageFull`](io::ErrorKind::StorageFull) when the tmpfs, or its quota, is full; `ENOMEM` when a memory
/// cgroup is; [`InvalidInput`](io::ErrorKind::InvalidInput) for `len` 0; `EFBIG` beyond the file size limit.
pub fn allocate(fd: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    let fd = fd.as_fd();
    // A signal makes tmpfs undo and answer EINTR; a profiler's timer would otherwise look like a full bus.
    Ok(retry_on_intr(|| {
        rustix::fs::fallocate(fd, FallocateFlags::empty(), offset, len)
    })?)
}

/// How much room the filesystem of an object has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsSpace {
    /// Size in bytes; `u64::MAX` for a tmpfs mounted without a limit.
    pub total: u64,
    /// Bytes an unprivileged process can still take; `u64::MAX` for a tmpfs mounted without a limit.
    pub available: u64,
    /// Whether it is memory at all: a bus on a disk filesystem works but is written back to the disk.
    pub is_tmpfs: bool,
}

impl FsSpace {
    #[allow(clippy::unnecessary_cast)] // The widths of these fields differ per target.
    fn of(fs: &StatFs) -> FsSpace {
        let is_tmpfs = fs.f_type as u64 == libc::TMPFS_MAGIC as u64;
        let unit = if fs.f_frsize > 0 {
            fs.f_frsize
        } else {
            fs.f_bsize
        } as u64;
        // `mount -o size=0` means "no limit" and is reported as zero blocks.
        let unlimited = is_tmpfs && fs.f_blocks == 0;
        let bytes = |blocks: u64| {
            if unlimited {
                u64::MAX
            } else {
                blocks.saturating_mul(unit)
            }
        };
        FsSpace {
            total: bytes(fs.f_blocks as u64),
            available: bytes(fs.f_bavail as u64),
            is_tmpfs,
        }
    }
}

/// Room on the filesystem of an open object.
///
/// # Errors
/// What `fstatfs` said.
pub fn fs_space(fd: impl AsFd) -> io::Result<FsSpace> {
    let fd = fd.as_fd();
    Ok(FsSpace::of(&retry_on_intr(|| rustix::fs::fstatfs(fd))?))
}

/// Room on the filesystem of a path.
///
/// # Errors
/// What `statfs` said.
pub fn fs_space_at(path: &Path) -> io::Result<FsSpace> {
    Ok(FsSpace::of(&retry_on_intr(|| rustix::fs::statfs(path))?))
}

/// Removes a name. Whoever has the object mapped keeps it.
///
/// # Errors
/// [`NotFound`](io::ErrorKind::NotFound) when the name is already gone; otherwise what `unlink` said.
pub fn unlink(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::unlink(path)?)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    fn object(dir: &tempfile::TempDir, mode: u32) -> OwnedFd {
        create_unnamed(dir.path(), mode).expect("the temporary directory supports O_TMPFILE")
    }

    #[test]
    fn directory_comes_from_the_setting_unless_it_is_empty() {
        assert_eq!(SegmentDir::from_setting(None).path(), Path::new("/dev/shm"));
        assert_eq!(
            SegmentDir::from_setting(Some(OsStr::new(""))).path(),
            Path::new("/dev/shm")
        );
        let dir = SegmentDir::from_setting(Some(OsStr::new("/run/bus")));
        assert_eq!(dir, SegmentDir::at("/run/bus"));
        assert_eq!(
            dir.object("arm.left", "pages"),
            Path::new("/run/bus/mmsb.arm.left.pages")
        );
    }

    #[test]
    fn buses_are_listed_once_and_strangers_skipped() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SegmentDir::at(tmp.path());
        for name in [
            "mmsb.b.pages",
            "mmsb.b.ctl",
            "mmsb.a.x.ctl",
            "mmsb..ctl",
            "mmsb.c.log",
            "other.d.pages",
        ] {
            std::fs::write(tmp.path().join(name), b"").unwrap();
        }
        assert_eq!(dir.buses().unwrap(), ["a.x", "b"]);
        let missing = SegmentDir::at(tmp.path().join("none"));
        assert_eq!(missing.buses().unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn unnamed_object_gets_its_exact_mode_and_then_a_name_once() {
        let tmp = tempfile::tempdir().unwrap();
        // 0o666 has bits that every usual umask would clear.
        let fd = object(&tmp, 0o666);
        let before = stat(&fd).unwrap();
        assert_eq!(
            (before.mode & 0o7777, before.nlink, before.len),
            (0o666, 0, 0)
        );

        let path = tmp.path().join("mmsb.x.pages");
        link_named(&fd, &path).unwrap();
        let named = stat_path(&path).unwrap();
        assert_eq!(named.nlink, 1);
        assert!(named.same_object(&before));

        let rival = object(&tmp, 0o600);
        assert_eq!(
            link_named(&rival, &path).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert!(
            stat_path(&path).unwrap().same_object(&before),
            "the loser replaced nothing"
        );

        unlink(&path).unwrap();
        assert_eq!(unlink(&path).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(stat(&fd).unwrap().nlink, 0);
    }

    #[test]
    fn missing_directory_is_not_called_unsupported() {
        let error = create_unnamed(Path::new("/nonexistent/dir"), 0o600).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        for errno in [Errno::OPNOTSUPP, Errno::ISDIR, Errno::NOENT] {
            let error = no_tmpfile(errno, Path::new("/"));
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{errno}");
        }
        assert_eq!(
            no_tmpfile(Errno::ACCESS, Path::new("/")).kind(),
            ErrorKind::PermissionDenied
        );
    }

    #[test]
    fn open_refuses_links_fifos_and_directories() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("file");
        std::fs::write(&file, b"abc").unwrap();
        assert_eq!(stat(open_object(&file, true).unwrap()).unwrap().len, 3);

        let link = tmp.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(
            open_object(&link, false).unwrap_err().raw_os_error(),
            Some(libc::ELOOP)
        );

        let fifo = tmp.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for write in [false, true] {
            assert_eq!(
                open_object(&fifo, write).unwrap_err().kind(),
                ErrorKind::InvalidInput
            );
            assert_eq!(
                open_object(tmp.path(), write).unwrap_err().kind(),
                ErrorKind::InvalidInput
            );
        }
        let none = tmp.path().join("none");
        assert_eq!(
            open_object(&none, false).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn reopened_read_only_object_is_the_same_but_not_writable() {
        let tmp = tempfile::tempdir().unwrap();
        let fd = object(&tmp, 0o600);
        let again = reopen(fd.as_fd(), false).unwrap();
        assert!(stat(&again).unwrap().same_object(&stat(&fd).unwrap()));
        assert_eq!(rustix::io::write(&again, b"x").unwrap_err(), Errno::BADF);
        let writer = reopen(fd.as_fd(), true).unwrap();
        assert_eq!(rustix::io::write(&writer, b"xy").unwrap(), 2);
        // A shared description would have moved this offset too.
        assert_eq!(rustix::fs::tell(&fd).unwrap(), 0);
    }

    #[test]
    fn allocate_takes_real_memory_and_keeps_contents() {
        let tmp = tempfile::tempdir().unwrap();
        let fd = object(&tmp, 0o600);
        allocate(&fd, 0, 64 << 10).unwrap();
        rustix::io::pwrite(&fd, b"kept", 100).unwrap();
        allocate(&fd, 64 << 10, 64 << 10).unwrap();
        allocate(&fd, 0, 128 << 10).unwrap();
        let stat = stat(&fd).unwrap();
        assert_eq!(stat.len, 128 << 10);
        assert!(stat.blocks_bytes >= 128 << 10, "{stat:?}");
        let mut kept = [0; 4];
        rustix::io::pread(&fd, &mut kept, 100).unwrap();
        assert_eq!(&kept, b"kept");
        assert_eq!(
            allocate(&fd, 0, 0).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }

    #[test]
    fn space_agrees_between_path_and_descriptor_and_full_is_an_error() {
        let shm = Path::new(DEFAULT_DIR);
        let fd = create_unnamed(shm, 0o600).unwrap();
        let space = fs_space(&fd).unwrap();
        assert!(space.is_tmpfs && space.available <= space.total && space.total > 0);
        assert_eq!(space.total, fs_space_at(shm).unwrap().total);
        assert!(!fs_space_at(Path::new("/proc")).unwrap().is_tmpfs);
        if space.total < u64::MAX >> 2 {
            let error = allocate(&fd, 0, space.total + (1 << 20)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StorageFull);
            assert_eq!(stat(&fd).unwrap().blocks_bytes, 0);
        }
    }
}
