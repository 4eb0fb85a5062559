//! The mapped `.pages`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use super::{Geometry, Preamble, allocate, check_bus_name, check_len, io_error, open_object};
use crate::error::{AttachError, BusFull, Corrupt};
use crate::layout::PAGES_MAGIC;
use crate::layout::page::{BLOCK_HEADER, BlockHeader, BlockRef, DirectoryEntry};
use crate::layout::participant::SourceEntry;
use crate::layout::ring::Slot;
use crate::layout::segment::{PagesHeader, STATE_ABANDONED};
use crate::ring::Ring;
use crate::sync::{AtomicU64, Ordering, prefetch_read};
use crate::sys::{map::Mapping, space, space::SegmentDir};
use crate::testing::step;

/// A mapped `.pages`: all that an observer has, and the reading half of a participant.
pub struct Pages {
    pub(super) map: Mapping,
    fd: OwnedFd,
    path: PathBuf,
    /// The geometry, checked.
    pub geometry: Geometry,
    header: NonNull<PagesHeader>,
    /// Bytes known to be backed by memory; only grows. Private to this process.
    len_known: AtomicU64,
    writable: bool,
    id: u64,
}

/// Number of the next mapping of this process; never used twice.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

// SAFETY: the mapping stays where it is until drop, and every access goes through atomics or the copy functions, which
// tolerate concurrent access by design.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

/// A block that was checked against the mapped length.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub(crate) at: BlockRef,
    pub(crate) header: &'a BlockHeader,
    pub(crate) payload: *mut u8,
    /// Bytes of payload that are certainly inside the mapping.
    pub(crate) room: u64,
}

impl Pages {
    /// The header.
    #[inline(always)]
    pub(crate) fn header(&self) -> &PagesHeader {
        // SAFETY: points to the start of the mapping, at least 4096 bytes, alive as long as self; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    pub(crate) fn table<T>(&self, at: u64, count: u32) -> &[T] {
        // SAFETY: `at` and `count` come from `self.geometry`, which `Geometry::read` checked against the mapped length
        // and for alignment; T is one of the shared structs, made of atomics only.
        unsafe {
            core::slice::from_raw_parts(
                self.map.base().add(at as usize).cast::<T>(),
                count as usize,
            )
        }
    }

    #[inline(always)]
    pub(crate) fn directory(&self) -> &[AtomicU64] {
        self.table(self.geometry.directory_at, self.geometry.pages_max)
    }

    pub(crate) fn names(&self) -> &[AtomicU64] {
        self.table(self.geometry.names_at, self.geometry.names_slots)
    }

    pub(crate) fn sources(&self) -> &[SourceEntry] {
        self.table(self.geometry.sources_at, self.geometry.sources_max)
    }

    pub(crate) fn slabs(&self) -> &[AtomicU64] {
        self.table(self.geometry.slabs_at, self.geometry.slabs_max)
    }

    #[inline(always)]
    pub(crate) fn ring(&self) -> Ring<'_> {
        let h = self.header();
        Ring {
            slots: self.table::<Slot>(self.geometry.ring_at, self.geometry.ring_slots),
            shift: self.geometry.ring_slots.trailing_zeros(),
            published: &h.published,
            tail_hint: &h.tail_hint,
            floor: &h.overwrite_floor,
            limit: &h.claim_limit,
        }
    }

    /// Bytes backed by memory, at least `wanted` if the object has that many.
    #[inline]
    pub(crate) fn len_at_least(&self, wanted: u64) -> u64 {
        // Relaxed: private, monotone.
        let known = self.len_known.load(Ordering::Relaxed);
        if known >= wanted {
            known
        } else {
            self.refresh_len()
        }
    }

    /// Looks at the header's length again, clamped to what the object really has.
    #[cold]
    pub(crate) fn refresh_len(&self) -> u64 {
        // Acquire: pairs with the Release store after `fallocate` in `grow`.
        let claimed = self
            .header()
            .len
            .load(Ordering::Acquire)
            .min(self.geometry.len_max);
        let real = space::stat(self.fd.as_fd()).map(|s| s.len).unwrap_or(0);
        let len = claimed.min(real);
        // Relaxed: private, monotone.
        self.len_known.fetch_max(len, Ordering::Relaxed).max(len)
    }

    /// The block at `at`, with `payload` bytes inside the mapping.
    #[inline(always)]
    pub(crate) fn block(&self, at: BlockRef, payload: u64) -> Result<Block<'_>, Corrupt> {
        let offset = at.offset();
        let end = offset + BLOCK_HEADER + payload;
        let len = self.len_at_least(end);
        if offset < self.geometry.arena_at || end > len {
            return Err(Corrupt {
                what: "block position",
                offset,
            });
        }
        // SAFETY: offset and end were checked against the backed length just above; offset is a multiple of 32.
        unsafe {
            let base = self.map.base().add(offset as usize);
            Ok(Block {
                at,
                header: &*base.cast::<BlockHeader>(),
                payload: base.add(BLOCK_HEADER as usize),
                room: len - offset - BLOCK_HEADER,
            })
        }
    }

    /// Asks for the first lines of a block, if it lies in the mapping.
    #[inline]
    pub(crate) fn prefetch_block(&self, at: BlockRef) {
        const LINES: usize = 2;
        let offset = at.offset() as usize;
        if !at.is_none() && offset + LINES * 64 <= self.map.len() {
            for line in 0..LINES {
                // SAFETY: an address inside the mapping, looked at just above; nothing is read.
                let at = unsafe { self.map.base().add(offset + line * 64) };
                prefetch_read(at);
            }
        }
    }

    /// Directory entry of a page index.
    #[inline(always)]
    pub(crate) fn entry(&self, index: u32) -> Option<&AtomicU64> {
        self.directory().get(index as usize)
    }

    #[inline]
    pub(crate) fn load_entry(&self, index: u32) -> Option<DirectoryEntry> {
        // Acquire: pairs with the Release store of the entry after its block was prepared.
        self.entry(index)
            .map(|e| DirectoryEntry(e.load(Ordering::Acquire)))
    }

    /// Bytes of the mapping from `offset` on, for tables inside the arena that the caller has checked.
    pub(crate) fn arena_ptr(&self, offset: u64, bytes: u64) -> Result<*mut u8, Corrupt> {
        let end = offset.checked_add(bytes).ok_or(Corrupt {
            what: "arena position",
            offset,
        })?;
        if offset < self.geometry.arena_at || end > self.len_at_least(end) {
            return Err(Corrupt {
                what: "arena position",
                offset,
            });
        }
        // SAFETY: inside the backed part of the mapping, checked above.
        Ok(unsafe { self.map.base().add(offset as usize) })
    }

    /// Path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the kernel says about the object.
    pub fn stat(&self) -> io::Result<space::ObjectStat> {
        space::stat(self.fd.as_fd())
    }

    /// Start and length of the mapping, for the SIGBUS guard and for proofs that it is read-only.
    pub fn mapping(&self) -> (*mut u8, usize) {
        (self.map.base(), self.map.len())
    }

    /// Tells this mapping from every other one that this process ever had.
    #[inline(always)]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether this process may write to it.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Random id of the bus.
    pub fn bus_id(&self) -> [u64; 2] {
        // Relaxed: written before READY.
        [0, 1].map(|i| self.header().bus_id[i].load(Ordering::Relaxed))
    }

    /// Whether a rebuild replaced this segment.
    pub fn is_abandoned(&self) -> bool {
        self.header().state.load(Ordering::Acquire) == STATE_ABANDONED
    }

    /// Opens and maps an existing `.pages`.
    pub fn open(dir: &SegmentDir, bus: &str, write: bool) -> Result<Pages, AttachError> {
        check_bus_name(bus)?;
        let path = dir.object(bus, "pages");
        let (fd, _) = open_object(dir, bus, &path, write, size_of::<PagesHeader>())?;
        step("open.stat");
        Pages::from_fd(fd, path, bus, write)
    }

    /// Maps an object of at least a header's length.
    pub(super) fn from_fd(
        fd: OwnedFd,
        path: PathBuf,
        bus: &str,
        write: bool,
    ) -> Result<Pages, AttachError> {
        let head = size_of::<PagesHeader>();
        let probe = Mapping::new(fd.as_fd(), head, write).map_err(|e| io_error("map", &path, e))?;
        // SAFETY: 4096 bytes are mapped and backed (length checked), all fields are atomics.
        let h = unsafe { &*probe.base().cast::<PagesHeader>() };
        Preamble::from(h).version().check(bus, &path, PAGES_MAGIC)?;
        let len = h.len.load(Ordering::Acquire);
        // Asked again: the bus may have grown since, and the object does so ahead of its header.
        let stat = space::stat(fd.as_fd()).map_err(|e| io_error("stat", &path, e))?;
        check_len(&path, len, stat.len)?;
        let geometry = Geometry::read(h, stat.len)?;
        if len < geometry.arena_at {
            return Err(Corrupt {
                what: "length in the header",
                offset: len,
            }
            .into());
        }
        let map = probe
            .resized(geometry.len_max as usize)
            .map_err(|e| io_error("map", &path, e))?;
        Pages::of(fd, path, geometry, map)
    }

    fn of(
        fd: OwnedFd,
        path: PathBuf,
        geometry: Geometry,
        map: Mapping,
    ) -> Result<Pages, AttachError> {
        let header = NonNull::new(map.base().cast::<PagesHeader>()).ok_or(Corrupt {
            what: "mapping",
            offset: 0,
        })?;
        let pages = Pages {
            writable: map.is_writable(),
            map,
            fd,
            path,
            geometry,
            header,
            len_known: AtomicU64::new(0),
            // Relaxed: only uniqueness matters.
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        };
        pages.refresh_len();
        Ok(pages)
    }

    /// Page numbers below `end` are handed out from now on.
    pub(crate) fn raise_indices_used(&self, end: u32) {
        // AcqRel: whoever sees an owner word taken for one of them, or a page, sees that it is among those to look at.
        self.header().indices_used.fetch_max(end, Ordering::AcqRel);
    }

    /// No page has a number from here on.
    pub(crate) fn indices_used(&self) -> u32 {
        // Acquire: pairs with the `fetch_max` above.
        let used = self.header().indices_used.load(Ordering::Acquire);
        used.min(self.geometry.pages_max)
    }

    /// Extends the backed part to `len` bytes. The caller holds the grow lock. Doing it twice is harmless.
    pub(crate) fn grow(&self, from: u64, to: u64) -> Result<(), BusFull> {
        if to > self.geometry.len_max {
            return Err(BusFull::Bytes {
                wanted: to - from,
                max: self.geometry.len_max,
            });
        }
        step("grow.allocate");
        allocate(&self.fd, &self.path, from, to - from)?;
        // Populated here, so that the first touch in a commit is no page fault. Failing is only slower.
        let _ = self.map.populate_write(from as usize, (to - from) as usize);
        Ok(())
    }
}
