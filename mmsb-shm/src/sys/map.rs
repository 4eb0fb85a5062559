//! Shared mappings, longer than the object behind them.
//!
//! A segment's address space is reserved once, at its maximum length, so that addresses never move while the object
//! grows. Bytes beyond the object's present length exist as addresses only: touching them raises SIGBUS. Whoever
//! resolves offsets into a mapping checks them against the object's length, not against [`Mapping::len`].

use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};

/// A shared mapping of an object from its first byte. Unmapped when dropped.
///
/// The bytes are shared with other processes: they are reached through [`base`](Self::base) by atomics or by the
/// functions of [`crate::copy`], never as `&[u8]`.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    write: bool,
}

// SAFETY: the fields are an address, a length and a flag that do not change; the mapping belongs to the process, not
// to a thread, and `Mapping` itself never dereferences the address.
unsafe impl Send for Mapping {}
// SAFETY: as above; all methods take `&self` and only ask the kernel about the range.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `fd`, which may be far more than the object has now. Read-only unless `write`.
    ///
    /// No memory is taken or reserved for the part that is not there yet.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for `len` 0,
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) when `write` asks for more than `fd` was opened for,
    /// [`OutOfMemory`](io::ErrorKind::OutOfMemory) when the address space (or `RLIMIT_AS`) has no room.
    pub fn new(fd: impl AsFd, len: usize, write: bool) -> io::Result<Mapping> {
        let mut prot = ProtFlags::READ;
        prot.set(ProtFlags::WRITE, write);
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a null hint without MAP_FIXED lets the kernel choose free addresses, so no memory that anybody
        // refers to is replaced. Nothing here creates a reference to the mapped bytes.
        let addr = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0)? };
        // The kernel never places a mapping at 0 without MAP_FIXED, but a wrong assumption must not become UB.
        let base = NonNull::new(addr.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, len, write })
    }

    /// The same mapping with another length, at another address. What is in the page table stays there, which is cheaper than
    /// a second mapping.
    ///
    /// # Errors
    /// As [`Mapping::new`]; the mapping is gone then.
    pub fn resized(self, len: usize) -> io::Result<Mapping> {
        // SAFETY: the range is this mapping's, which nobody else refers to: `self` was handed in, and is not used again if
        // this succeeds.
        let addr =
            unsafe { rustix::mm::mremap(self.base().cast(), self.len, len, MremapFlags::MAYMOVE)? };
        let base = NonNull::new(addr.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let write = self.write;
        std::mem::forget(self);
        Ok(Mapping { base, len, write })
    }

    /// Address of byte 0 of the object; page-aligned, constant for the life of the mapping.
    #[inline]
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Mapped length in bytes: the bound of the addresses, not of the object.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // A mapping of no bytes cannot be made.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether stores are possible.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.write
    }

    /// Brings the pages of a range into memory and into this process's page table, writable, so that no later
    /// store there faults (a first touch costs microseconds).
    ///
    /// A kernel before 5.14 does not know how and is left to fault later: that is `Ok`.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) when the range leaves the mapping,
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) on a read-only mapping; `EFAULT` when the object is
    /// shorter than the range, `ENOMEM` when there is no memory.
    pub fn populate_write(&self, offset: usize, len: usize) -> io::Result<()> {
        if !self.write {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.advise(offset, len, Advice::LinuxPopulateWrite)
    }

    /// Like [`populate_write`](Self::populate_write), for loads only. On tmpfs it allocates holes, so ask only for
    /// what the object is known to hold.
    ///
    /// # Errors
    /// As [`populate_write`](Self::populate_write), but it works on a read-only mapping.
    pub fn populate_read(&self, offset: usize, len: usize) -> io::Result<()> {
        self.advise(offset, len, Advice::LinuxPopulateRead)
    }

    fn advise(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        if len == 0 {
            return Ok(());
        }
        // madvise wants a page-aligned start. The end needs no care: the kernel rounds it up, within the last page
        // of the mapping.
        let start = offset & !(rustix::param::page_size() - 1);
        let addr = self.base().wrapping_add(start).cast::<c_void>();
        // SAFETY: `start..end` lies inside the mapping (checked above), and populating changes no byte of it.
        let advised = retry_on_intr(|| unsafe { rustix::mm::madvise(addr, end - start, advice) });
        match advised {
            // The range and alignment are right, so EINVAL can only mean "advice unknown".
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` come from the mmap in `new`, or the mremap in `resized`, and are unmapped only here. Owners of offsets into
        // the mapping keep it alive, so no address in it is used after this.
        let unmapped = unsafe { rustix::mm::munmap(self.base().cast(), self.len) };
        // It fails only when the arguments are wrong, or when a split would pass the map count, which unmapping a
        // whole mapping cannot.
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::sys::space;
    use std::io::ErrorKind;
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    const PAGE: usize = 4096;

    fn object(bytes: u64) -> OwnedFd {
        let fd = space::create_unnamed(Path::new("/dev/shm"), 0o600).unwrap();
        space::allocate(&fd, 0, bytes).unwrap();
        fd
    }

    fn word(map: &Mapping, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= map.len());
        // SAFETY: aligned and inside the mapping (asserted); the tests below touch only what the object holds.
        unsafe { AtomicU64::from_ptr(map.base().add(offset).cast()) }
    }

    #[test]
    fn mapping_outreaches_the_object_and_sees_it_grow_in_place() {
        let fd = object(PAGE as u64);
        let writer = Mapping::new(&fd, 1 << 36, true).unwrap();
        let reader = Mapping::new(&fd, 1 << 36, false).unwrap();
        assert_eq!(writer.len(), 1 << 36);
        word(&writer, 8).store(7, Relaxed);
        assert_eq!(word(&reader, 8).load(Relaxed), 7);

        space::allocate(&fd, PAGE as u64, 8 << 20).unwrap();
        word(&writer, 8 << 20).store(9, Relaxed);
        assert_eq!(word(&reader, 8 << 20).load(Relaxed), 9);
        let stat = space::stat(&fd).unwrap();
        assert_eq!(stat.len, (8 << 20) + PAGE as u64);
    }

    #[test]
    fn a_resized_mapping_is_the_same_object_with_other_bounds() {
        let fd = object(PAGE as u64);
        let writer = Mapping::new(&fd, PAGE, true).unwrap();
        let reader = Mapping::new(&fd, PAGE, false).unwrap();
        let writer = writer.resized(1 << 36).unwrap();
        assert!(writer.is_writable());
        assert_eq!(writer.len(), 1 << 36);
        space::allocate(&fd, PAGE as u64, PAGE as u64).unwrap();
        word(&writer, 8).store(7, Relaxed);
        word(&writer, PAGE).store(9, Relaxed);
        let reader = reader.resized(2 * PAGE).unwrap();
        assert!(!reader.is_writable());
        assert_eq!(word(&reader, 8).load(Relaxed), 7);
        assert_eq!(word(&reader, PAGE).load(Relaxed), 9);
        assert!(reader.resized(0).is_err());
    }

    #[test]
    fn populate_checks_its_range_and_its_right() {
        let fd = object(4 * PAGE as u64);
        let map = Mapping::new(&fd, 64 * PAGE, true).unwrap();
        map.populate_write(100, 3 * PAGE).unwrap();
        map.populate_read(0, 4 * PAGE).unwrap();
        map.populate_write(64 * PAGE, 0).unwrap();
        for (offset, len) in [(64 * PAGE, 1), (1, 64 * PAGE), (usize::MAX, 2)] {
            let error = map.populate_write(offset, len).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{offset} {len}");
        }
        // Beyond the object: an error, where a store would have been a SIGBUS.
        assert_eq!(
            map.populate_write(0, 8 * PAGE).unwrap_err().raw_os_error(),
            Some(libc::EFAULT)
        );

        let reader = Mapping::new(&fd, PAGE, false).unwrap();
        assert!(!reader.is_writable());
        assert_eq!(
            reader.populate_write(0, 1).unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
        reader.populate_read(0, PAGE).unwrap();
    }

    #[test]
    fn read_only_descriptor_gives_no_writable_mapping() {
        use std::os::fd::AsFd;
        let fd = object(PAGE as u64);
        let reader = space::reopen(fd.as_fd(), false).unwrap();
        assert_eq!(
            Mapping::new(&reader, PAGE, true).unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
        Mapping::new(&reader, PAGE, false).unwrap();
        assert_eq!(
            Mapping::new(&fd, 0, true).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}
