//! The two objects of a bus: creating, attaching, observing, growing, unlinking.
//!
//! An object is made without a name (`O_TMPFILE`), filled completely, and only then linked, so nobody ever meets a
//! half-made one. `.ctl` is linked first, `.pages` second; both carry one random bus id, which attach compares. A
//! creator that dies between the two leaves a `.ctl` alone, which the next creator removes under a kernel lock.
//!
//! Geometry is read once, checked against the length that fstat gives, and kept in private memory ([`Geometry`]);
//! nothing in shared memory is asked about it again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use crate::error::{AttachError, BusFull, Corrupt};
use crate::layout::page::{BLOCK_HEADER, BlockHeader, BlockRef, DirectoryEntry};
use crate::layout::participant::{Cursor, ParticipantSlot, SourceEntry};
use crate::layout::ring::{RING_SLOTS_MAX, RING_SLOTS_MIN, SLOT_BYTES, Slot};
use crate::layout::segment::{CtlHeader, PagesHeader, STATE_ABANDONED, STATE_READY};
use crate::layout::{CTL_MAGIC, LAYOUT_HASH, LAYOUT_MAJOR, LAYOUT_MINOR, PAGES_MAGIC, SLAB_BYTES};
use crate::ring::Ring;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{clock, lock, map::Mapping, space, space::SegmentDir};
use crate::testing::step;

/// Byte of `.ctl` whose kernel lock says "being created, or being removed as a leftover".
pub(crate) const LOCK_CREATE: u64 = 1 << 40;
/// First byte of the participants' liveness locks.
pub(crate) const LOCK_SLOT: u64 = 1 << 41;
/// First byte of the recovery locks, one for each participant slot.
pub(crate) const LOCK_RECOVERY: u64 = 1 << 42;

/// Longest bus name, in bytes.
pub const BUS_NAME_MAX: usize = 100;

/// What a bus is made for. Fixed at creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusConfig {
    /// Greatest size of `.pages` in bytes; address space only until used.
    pub bytes_max: u64,
    /// Most pages at one time.
    pub pages_max: u32,
    /// Most pages with a name, schema or metadata.
    pub names_max: u32,
    /// Size of the delta ring in bytes, rounded up to a power of two; 4 KiB to 1 GiB.
    pub ring_bytes: u64,
    /// Most participants at one time, at most 1022.
    pub participants_max: u32,
    /// Most subscriptions of participants at one time.
    pub cursors_max: u32,
    /// Most source names.
    pub sources_max: u32,
    /// Permission bits of `.pages`; readable for whoever may observe.
    pub mode: u32,
    /// Permission bits of `.ctl`; only who may write to the bus.
    pub ctl_mode: u32,
}

impl Default for BusConfig {
    fn default() -> BusConfig {
        BusConfig {
            bytes_max: 64 << 30,
            pages_max: 65_536,
            names_max: 16_384,
            ring_bytes: 1 << 20,
            participants_max: 128,
            cursors_max: 128,
            sources_max: 1024,
            mode: 0o600,
            ctl_mode: 0o600,
        }
    }
}

/// Where everything is, in private memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes mapped of `.pages`.
    pub len_max: u64,
    /// Entries of the page directory.
    pub pages_max: u32,
    /// Entries of the name directory, a power of two.
    pub names_slots: u32,
    /// Entries of the source table.
    pub sources_max: u32,
    /// Ring slots, a power of two.
    pub ring_slots: u32,
    /// Entries of the slab table.
    pub slabs_max: u32,
    /// Offsets in `.pages`.
    pub directory_at: u64,
    /// Offset of the name directory.
    pub names_at: u64,
    /// Offset of the source table.
    pub sources_at: u64,
    /// Offset of the slab table.
    pub slabs_at: u64,
    /// Offset of the ring.
    pub ring_at: u64,
    /// Offset of the arena.
    pub arena_at: u64,
}

impl BusConfig {
    fn check(&self) -> Result<(), AttachError> {
        let bad = |why: String| Err(AttachError::BadConfig(why));
        if self.pages_max == 0 || self.pages_max > 1 << 28 {
            return bad(format!(
                "pages_max is {}, must be 1 to {}",
                self.pages_max,
                1u32 << 28
            ));
        }
        if self.names_max > 1 << 26 {
            return bad(format!(
                "names_max is {}, at most {}",
                self.names_max,
                1u32 << 26
            ));
        }
        if self.participants_max == 0 || self.participants_max > 1022 {
            return bad(format!(
                "participants_max is {}, must be 1 to 1022",
                self.participants_max
            ));
        }
        if self.cursors_max > 65_536 {
            return bad(format!(
                "cursors_max is {}, at most 65536",
                self.cursors_max
            ));
        }
        if self.sources_max == 0 || self.sources_max > 65_535 {
            return bad(format!(
                "sources_max is {}, must be 1 to 65535",
                self.sources_max
            ));
        }
        let ring_max = u64::from(RING_SLOTS_MAX) * SLOT_BYTES;
        if self.ring_bytes < u64::from(RING_SLOTS_MIN) * SLOT_BYTES || self.ring_bytes > ring_max {
            return bad(format!(
                "ring_bytes is {}, must be 4096 to {ring_max}",
                self.ring_bytes
            ));
        }
        for (what, mode) in [("mode", self.mode), ("ctl_mode", self.ctl_mode)] {
            if mode & !0o777 != 0 || mode & 0o600 != 0o600 || mode & 0o111 != 0 {
                return bad(format!(
                    "{what} is {mode:o}: the owner needs read and write, nobody needs execute"
                ));
            }
        }
        if self.mode & 0o002 != 0 || self.ctl_mode & 0o006 != 0 {
            return bad(format!(
                "mode {:o} / ctl_mode {:o}: a bus is never writable for everybody, and its control object is not \
                 readable for everybody",
                self.mode, self.ctl_mode
            ));
        }
        let geometry = self.geometry();
        if geometry.len_max < geometry.arena_at + SLAB_BYTES || geometry.len_max > 1 << 41 {
            return bad(format!(
                "bytes_max is {}, must be at least {} for these tables and at most {}",
                self.bytes_max,
                geometry.arena_at + SLAB_BYTES,
                1u64 << 41
            ));
        }
        Ok(())
    }

    fn geometry(&self) -> Geometry {
        let ring_slots = (self.ring_bytes / SLOT_BYTES).next_power_of_two() as u32;
        let names_slots = (self.names_max.max(4) * 4).next_power_of_two();
        let len_max = self.bytes_max.next_multiple_of(SLAB_BYTES);
        let slabs_max = (len_max / SLAB_BYTES) as u32;
        let line = |at: u64| at.next_multiple_of(128);
        let directory_at = size_of::<PagesHeader>() as u64;
        let names_at = line(directory_at + u64::from(self.pages_max) * 8);
        let sources_at = line(names_at + u64::from(names_slots) * 8);
        let slabs_at =
            line(sources_at + u64::from(self.sources_max) * size_of::<SourceEntry>() as u64);
        let ring_at = (slabs_at + u64::from(slabs_max) * 8).next_multiple_of(4096);
        let arena_at = (ring_at + u64::from(ring_slots) * SLOT_BYTES).next_multiple_of(SLAB_BYTES);
        Geometry {
            len_max,
            pages_max: self.pages_max,
            names_slots,
            sources_max: self.sources_max,
            ring_slots,
            slabs_max,
            directory_at,
            names_at,
            sources_at,
            slabs_at,
            ring_at,
            arena_at,
        }
    }
}

impl Geometry {
    /// Reads it from a header that may hold anything, and checks that every table lies inside `len` bytes.
    fn read(h: &PagesHeader, len: u64) -> Result<Geometry, Corrupt> {
        // Relaxed: written before `state`, which was read with Acquire.
        let r64 = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let r32 = |a: &AtomicU32| a.load(Ordering::Relaxed);
        let g = Geometry {
            len_max: r64(&h.len_max),
            pages_max: r32(&h.pages_max),
            names_slots: r32(&h.names_slots),
            sources_max: r32(&h.sources_max),
            ring_slots: r32(&h.ring_slots),
            slabs_max: r32(&h.slabs_max),
            directory_at: r64(&h.directory_at),
            names_at: r64(&h.names_at),
            sources_at: r64(&h.sources_at),
            slabs_at: r64(&h.slabs_at),
            ring_at: r64(&h.ring_at),
            arena_at: r64(&h.arena_at),
        };
        let bad = |what, offset| Err(Corrupt { what, offset });
        if g.len_max > 1 << 41 || g.len_max % SLAB_BYTES != 0 || g.arena_at % SLAB_BYTES != 0 {
            return bad("geometry: maximum length", g.len_max);
        }
        if g.arena_at > len || g.arena_at > g.len_max {
            return bad("geometry: start of the arena", g.arena_at);
        }
        if !g.ring_slots.is_power_of_two()
            || !(RING_SLOTS_MIN..=RING_SLOTS_MAX).contains(&g.ring_slots)
        {
            return bad("geometry: ring slots", g.ring_slots.into());
        }
        if !g.names_slots.is_power_of_two() || g.pages_max == 0 || g.sources_max == 0 {
            return bad("geometry: table sizes", g.names_slots.into());
        }
        if u64::from(g.slabs_max) * SLAB_BYTES < g.len_max {
            return bad("geometry: slab table", g.slabs_max.into());
        }
        let tables = [
            (
                g.directory_at,
                u64::from(g.pages_max) * 8,
                "geometry: page directory",
            ),
            (
                g.names_at,
                u64::from(g.names_slots) * 8,
                "geometry: name directory",
            ),
            (
                g.sources_at,
                u64::from(g.sources_max) * size_of::<SourceEntry>() as u64,
                "geometry: sources",
            ),
            (
                g.slabs_at,
                u64::from(g.slabs_max) * 8,
                "geometry: slab table",
            ),
            (
                g.ring_at,
                u64::from(g.ring_slots) * SLOT_BYTES,
                "geometry: ring",
            ),
        ];
        let mut end = size_of::<PagesHeader>() as u64;
        for (at, bytes, what) in tables {
            if at % 64 != 0 || at < end || at.checked_add(bytes).is_none_or(|e| e > g.arena_at) {
                return bad(what, at);
            }
            end = at + bytes;
        }
        Ok(g)
    }
}

/// A mapped `.pages`: all that an observer has, and the reading half of a participant.
pub struct Pages {
    map: Mapping,
    fd: OwnedFd,
    path: PathBuf,
    /// The geometry, checked.
    pub geometry: Geometry,
    header: NonNull<PagesHeader>,
    /// Bytes known to be backed by memory; only grows. Private to this process.
    len_known: AtomicU64,
    writable: bool,
}

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
        let fd = open(dir, bus, &path, write)?;
        let stat = space::stat(fd.as_fd()).map_err(|e| io_error("stat", &path, e))?;
        if write {
            check_owner(&path, &stat)?;
        }
        let head = size_of::<PagesHeader>() as u64;
        if stat.len < head {
            return Err(AttachError::Truncated {
                path,
                expected: head,
                found: stat.len,
            });
        }
        let probe = Mapping::new(fd.as_fd(), head as usize, false)
            .map_err(|e| io_error("map", &path, e))?;
        // SAFETY: 4096 bytes are mapped and backed (length checked), all fields are atomics.
        let h = unsafe { &*probe.base().cast::<PagesHeader>() };
        let version = Version {
            magic: h.magic.load(Ordering::Relaxed),
            major: h.layout_major.load(Ordering::Relaxed),
            minor: h.layout_minor.load(Ordering::Relaxed),
            hash: h.layout_hash.load(Ordering::Relaxed),
            features: h.features.load(Ordering::Relaxed),
            state: h.state.load(Ordering::Acquire),
        };
        version.check(bus, &path, PAGES_MAGIC)?;
        let len = h.len.load(Ordering::Acquire);
        if stat.len < len {
            return Err(AttachError::Truncated {
                path,
                expected: len,
                found: stat.len,
            });
        }
        let geometry = Geometry::read(h, stat.len)?;
        if len < geometry.arena_at {
            return Err(Corrupt {
                what: "length in the header",
                offset: len,
            }
            .into());
        }
        drop(probe);
        Pages::map(fd, path, geometry, write)
    }

    fn map(
        fd: OwnedFd,
        path: PathBuf,
        geometry: Geometry,
        write: bool,
    ) -> Result<Pages, AttachError> {
        let map = Mapping::new(fd.as_fd(), geometry.len_max as usize, write)
            .map_err(|e| io_error("map", &path, e))?;
        let header = NonNull::new(map.base().cast::<PagesHeader>()).ok_or(Corrupt {
            what: "mapping",
            offset: 0,
        })?;
        let pages = Pages {
            map,
            fd,
            path,
            geometry,
            header,
            len_known: AtomicU64::new(0),
            writable: write,
        };
        pages.refresh_len();
        Ok(pages)
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

/// Asks the filesystem for memory; says how much there is when it refuses.
fn allocate(fd: &OwnedFd, path: &Path, offset: u64, len: u64) -> Result<(), BusFull> {
    space::allocate(fd.as_fd(), offset, len).map_err(|_| {
        let space = space::fs_space(fd.as_fd()).ok();
        BusFull::Tmpfs {
            wanted: len,
            available: space.as_ref().map_or(0, |s| s.available),
            total: space.as_ref().map_or(0, |s| s.total),
            dir: path.parent().map(Path::to_path_buf).unwrap_or_default(),
        }
    })
}

/// A mapped `.ctl`.
pub struct Ctl {
    map: Mapping,
    fd: OwnedFd,
    path: PathBuf,
    header: NonNull<CtlHeader>,
    participants: (u64, u32),
    cursors: (u64, u32),
    owners: (u64, u32),
    owner_shift: u32,
    indices: (u64, u32),
}

// SAFETY: as for `Pages`.
unsafe impl Send for Ctl {}
// SAFETY: as for `Pages`.
unsafe impl Sync for Ctl {}

struct CtlLayout {
    participants_at: u64,
    cursors_at: u64,
    owners_at: u64,
    owners_max: u32,
    indices_at: u64,
    len: u64,
}

fn ctl_layout(config: &BusConfig) -> CtlLayout {
    let line = |at: u64| at.next_multiple_of(128);
    let owners_max = config.pages_max.next_power_of_two().max(16);
    let participants_at = size_of::<CtlHeader>() as u64;
    let cursors_at = line(
        participants_at + u64::from(config.participants_max) * size_of::<ParticipantSlot>() as u64,
    );
    let owners_at = line(cursors_at + u64::from(config.cursors_max) * size_of::<Cursor>() as u64);
    let indices_at = line(owners_at + u64::from(owners_max) * 4);
    let len = (indices_at + u64::from(config.pages_max.div_ceil(64)) * 8).next_multiple_of(4096);
    CtlLayout {
        participants_at,
        cursors_at,
        owners_at,
        owners_max,
        indices_at,
        len,
    }
}

impl Ctl {
    #[inline(always)]
    pub(crate) fn header(&self) -> &CtlHeader {
        // SAFETY: points to the start of the mapping, which is alive as long as self; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    fn table<T>(&self, (at, count): (u64, u32)) -> &[T] {
        // SAFETY: the pair was checked against the mapped length in `open`; T is made of atomics only.
        unsafe {
            core::slice::from_raw_parts(
                self.map.base().add(at as usize).cast::<T>(),
                count as usize,
            )
        }
    }

    #[inline(always)]
    pub(crate) fn participants(&self) -> &[ParticipantSlot] {
        self.table(self.participants)
    }

    /// Participant slots that were ever used.
    pub(crate) fn participants_used(&self) -> &[ParticipantSlot] {
        // Acquire: pairs with the `fetch_max` of a joining participant.
        let used = self.header().participants_used.load(Ordering::Acquire) as usize;
        &self.participants()[..used.min(self.participants.1 as usize)]
    }

    #[inline]
    pub(crate) fn cursors(&self) -> &[Cursor] {
        self.table(self.cursors)
    }

    pub(crate) fn cursors_used(&self) -> &[Cursor] {
        // Acquire: pairs with the `fetch_max` of a joining cursor.
        let used = self.header().cursors_used.load(Ordering::Acquire) as usize;
        &self.cursors()[..used.min(self.cursors.1 as usize)]
    }

    pub(crate) fn owners(&self) -> &[AtomicU32] {
        self.table(self.owners)
    }

    /// Owner word of a page index below `pages_max`. Neighbouring pages have theirs on different lines: the index's bits
    /// are rotated by four.
    #[inline(always)]
    pub(crate) fn owner(&self, index: u32) -> &AtomicU32 {
        &self.owners()[owner_position(index, self.owner_shift)]
    }

    /// Base-two logarithm of the number of owner words divided by 16.
    pub(crate) fn owner_shift(&self) -> u32 {
        self.owner_shift
    }

    /// The bitmap of free page numbers.
    pub(crate) fn indices(&self) -> &[AtomicU64] {
        self.table(self.indices)
    }

    /// The descriptor that never holds a lock: the one to ask about liveness.
    pub(crate) fn probe(&self) -> &OwnedFd {
        &self.fd
    }

    /// Path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Most participants at one time.
    pub fn participants_max(&self) -> u32 {
        self.participants.1
    }

    /// Most subscriptions with a cursor at one time.
    pub fn cursors_max(&self) -> u32 {
        self.cursors.1
    }

    /// What the kernel says about the object.
    pub fn stat(&self) -> io::Result<space::ObjectStat> {
        space::stat(self.fd.as_fd())
    }

    fn open(dir: &SegmentDir, bus: &str) -> Result<Ctl, AttachError> {
        let path = dir.object(bus, "ctl");
        let fd = open(dir, bus, &path, true)?;
        let stat = space::stat(fd.as_fd()).map_err(|e| io_error("stat", &path, e))?;
        check_owner(&path, &stat)?;
        let head = size_of::<CtlHeader>() as u64;
        if stat.len < head {
            return Err(AttachError::Truncated {
                path,
                expected: head,
                found: stat.len,
            });
        }
        let map = Mapping::new(fd.as_fd(), stat.len as usize, true)
            .map_err(|e| io_error("map", &path, e))?;
        let header = NonNull::new(map.base().cast::<CtlHeader>()).ok_or(Corrupt {
            what: "mapping",
            offset: 0,
        })?;
        // SAFETY: at least 4096 bytes are mapped and backed; all fields are atomics.
        let h = unsafe { header.as_ref() };
        let version = Version {
            magic: h.magic.load(Ordering::Relaxed),
            major: h.layout_major.load(Ordering::Relaxed),
            minor: h.layout_minor.load(Ordering::Relaxed),
            hash: h.layout_hash.load(Ordering::Relaxed),
            features: h.features.load(Ordering::Relaxed),
            state: h.state.load(Ordering::Acquire),
        };
        version.check(bus, &path, CTL_MAGIC)?;
        let len = h.len.load(Ordering::Relaxed);
        if stat.len < len {
            return Err(AttachError::Truncated {
                path,
                expected: len,
                found: stat.len,
            });
        }
        // Relaxed: written before `state`, which was read with Acquire.
        let r = |a: &AtomicU32| a.load(Ordering::Relaxed);
        let at = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let owners_max = r(&h.owners_max);
        let tables = [
            (
                at(&h.participants_at),
                r(&h.participants_max),
                size_of::<ParticipantSlot>(),
                "participant slots",
            ),
            (
                at(&h.cursors_at),
                r(&h.cursors_max),
                size_of::<Cursor>(),
                "cursors",
            ),
            (at(&h.owners_at), owners_max, 4, "owner words"),
            (
                at(&h.indices_at),
                r(&h.indices_words),
                8,
                "free page numbers",
            ),
        ];
        let mut end = head;
        for (offset, count, bytes, what) in tables {
            let size = u64::from(count) * bytes as u64;
            if offset % 64 != 0
                || offset < end
                || offset
                    .checked_add(size)
                    .is_none_or(|e| e > stat.len.min(len))
            {
                return Err(Corrupt { what, offset }.into());
            }
            end = offset + size;
        }
        if owners_max < 16
            || !owners_max.is_power_of_two()
            || tables[0].1 == 0
            || tables[0].1 > 1022
        {
            return Err(Corrupt {
                what: "sizes in the control header",
                offset: owners_max.into(),
            }
            .into());
        }
        Ok(Ctl {
            map,
            fd,
            path,
            header,
            participants: (tables[0].0, tables[0].1),
            cursors: (tables[1].0, tables[1].1),
            owners: (tables[2].0, tables[2].1),
            owner_shift: (owners_max / 16).trailing_zeros(),
            indices: (tables[3].0, tables[3].1),
        })
    }
}

/// Where the owner word of a page index stands among 2^(shift + 4) words.
#[inline(always)]
pub(crate) fn owner_position(index: u32, shift: u32) -> usize {
    (((index & ((1 << shift) - 1)) << 4) | (index >> shift)) as usize
}

/// Both objects, attached.
pub struct Core {
    /// Name of the bus.
    pub name: String,
    /// Directory of its objects.
    pub dir: SegmentDir,
    /// `.pages`.
    pub pages: Pages,
    /// `.ctl`.
    pub ctl: Ctl,
}

impl Core {
    /// Creates both objects and attaches to them.
    ///
    /// # Errors
    /// [`AttachError::Exists`] if there is a bus of this name, whether or not anybody lives on it;
    /// [`AttachError::Full`] if the tmpfs has no room for the tables; nothing is left behind then.
    pub fn create(dir: &SegmentDir, bus: &str, config: &BusConfig) -> Result<Core, AttachError> {
        check_bus_name(bus)?;
        config.check()?;
        let (pages_path, ctl_path) = (dir.object(bus, "pages"), dir.object(bus, "ctl"));
        let id = random_id();
        let ctl_fd = make_ctl(dir, bus, &ctl_path, config, id)?;
        step("create.ctl_made");
        // Held until both names are linked: says that the half-made bus has a living creator.
        lock::try_lock(ctl_fd.as_fd(), LOCK_CREATE).map_err(|e| io_error("lock", &ctl_path, e))?;
        let pages_fd = make_pages(dir, bus, &pages_path, config, id)?;
        step("create.pages_made");
        let exists = || AttachError::Exists {
            name: bus.to_owned(),
            dir: dir.path().to_path_buf(),
        };
        let mut linked = false;
        for _ in 0..100 {
            match space::link_named(ctl_fd.as_fd(), &ctl_path) {
                Ok(()) => {
                    linked = true;
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    if !remove_leftover(dir, bus)? {
                        return Err(exists());
                    }
                }
                Err(e) => return Err(io_error("link", &ctl_path, e)),
            }
        }
        if !linked {
            return Err(exists());
        }
        step("create.ctl_linked");
        match space::link_named(pages_fd.as_fd(), &pages_path) {
            Ok(()) => {}
            Err(e) => {
                let _ = space::unlink(&ctl_path);
                if e.kind() == io::ErrorKind::AlreadyExists {
                    return Err(exists());
                }
                return Err(io_error("link", &pages_path, e));
            }
        }
        step("create.pages_linked");
        drop(ctl_fd);
        drop(pages_fd);
        Core::attach(dir, bus)
    }

    /// Maps both objects of an existing bus.
    pub fn attach(dir: &SegmentDir, bus: &str) -> Result<Core, AttachError> {
        check_bus_name(bus)?;
        for attempt in 0.. {
            let ctl = match Ctl::open(dir, bus) {
                Ok(ctl) => ctl,
                Err(AttachError::Missing { .. })
                    if space::stat_path(&dir.object(bus, "pages")).is_ok() =>
                {
                    // `.pages` without `.ctl`: a removal, or a hand, stopped half-way.
                    if attempt < 20 {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                        continue;
                    }
                    return Err(AttachError::BusGone {
                        name: bus.to_owned(),
                    });
                }
                Err(e) => return Err(e),
            };
            let pages = match Pages::open(dir, bus, true) {
                Ok(pages) => pages,
                Err(AttachError::Missing { .. }) => {
                    let creating = lock::is_locked(ctl.fd.as_fd(), LOCK_CREATE).unwrap_or(false);
                    if creating && attempt < 100 {
                        std::thread::sleep(std::time::Duration::from_millis(2));
                        continue;
                    }
                    if creating {
                        return Err(AttachError::Initialising {
                            name: bus.to_owned(),
                        });
                    }
                    return Err(AttachError::Missing {
                        name: bus.to_owned(),
                        dir: dir.path().to_path_buf(),
                    });
                }
                Err(e) => return Err(e),
            };
            // Relaxed: written before READY in both objects.
            let ctl_id = [0, 1].map(|i| ctl.header().bus_id[i].load(Ordering::Relaxed));
            if ctl_id != pages.bus_id() {
                // Removed and created again between the two opens.
                if attempt < 100 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    continue;
                }
                return Err(Corrupt {
                    what: "bus ids of .pages and .ctl differ",
                    offset: 40,
                }
                .into());
            }
            if ctl.owners.1 < pages.geometry.pages_max {
                return Err(Corrupt {
                    what: "owner words for all pages",
                    offset: ctl.owners.1.into(),
                }
                .into());
            }
            let ring = pages.geometry.ring_at as usize;
            let _ = pages.map.populate_write(
                ring,
                pages.geometry.ring_slots as usize * SLOT_BYTES as usize,
            );
            let _ = ctl.map.populate_write(0, ctl.map.len());
            return Ok(Core {
                name: bus.to_owned(),
                dir: dir.clone(),
                pages,
                ctl,
            });
        }
        Err(AttachError::BusGone {
            name: bus.to_owned(),
        })
    }

    /// Whether the name still leads to the objects mapped here.
    pub fn is_named(&self) -> bool {
        let same =
            |path: &Path, here: io::Result<space::ObjectStat>| match (space::stat_path(path), here)
            {
                (Ok(a), Ok(b)) => a.ino == b.ino && a.dev == b.dev,
                _ => false,
            };
        same(self.pages.path(), self.pages.stat()) && same(self.ctl.path(), self.ctl.stat())
    }
}

/// Removes both names of a bus. Whoever is attached goes on with what it has mapped. Missing halves are no error;
/// [`AttachError::Missing`] if there was neither.
pub fn unlink(dir: &SegmentDir, bus: &str) -> Result<(), AttachError> {
    check_bus_name(bus)?;
    let (pages_path, ctl_path) = (dir.object(bus, "pages"), dir.object(bus, "ctl"));
    // The lock keeps a creator from replacing `.ctl` between the two steps, so only this bus is removed.
    let ctl = space::open_object(&ctl_path, true).ok();
    if let Some(fd) = &ctl {
        if !lock::try_lock(fd.as_fd(), LOCK_CREATE).map_err(|e| io_error("lock", &ctl_path, e))? {
            return Err(AttachError::Initialising {
                name: bus.to_owned(),
            });
        }
    }
    let remove = |path: &Path| match space::unlink(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_error("unlink", path, e)),
    };
    // `.pages` first, the reverse of creation: a death in between leaves a lone `.ctl`, which creation removes.
    let mut found = remove(&pages_path)?;
    step("unlink.pages");
    let same = match (
        ctl.as_ref().map(|fd| space::stat(fd.as_fd())),
        space::stat_path(&ctl_path),
    ) {
        (Some(Ok(a)), Ok(b)) => a.ino == b.ino && a.dev == b.dev,
        // Not ours to open: the kernel will say whether we may unlink it.
        (None, Ok(_)) => true,
        _ => false,
    };
    if same {
        found |= remove(&ctl_path)?;
    }
    if found {
        Ok(())
    } else {
        Err(AttachError::Missing {
            name: bus.to_owned(),
            dir: dir.path().to_path_buf(),
        })
    }
}

/// Removes a `.ctl` whose creator died before it could link `.pages`. True if the way is free now.
fn remove_leftover(dir: &SegmentDir, bus: &str) -> Result<bool, AttachError> {
    let (pages_path, path) = (dir.object(bus, "pages"), dir.object(bus, "ctl"));
    if space::stat_path(&pages_path).is_ok() {
        return Ok(false);
    }
    let fd = match space::open_object(&path, true) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(io_error("open", &path, e)),
    };
    if !lock::try_lock(fd.as_fd(), LOCK_CREATE).map_err(|e| io_error("lock", &path, e))? {
        // A living creator: it will link `.pages` in a moment.
        return Ok(false);
    }
    // Under the lock: is it still this object, and still alone? Creators link `.pages` only while they hold it.
    let same = match (space::stat(fd.as_fd()), space::stat_path(&path)) {
        (Ok(a), Ok(b)) => a.ino == b.ino && a.dev == b.dev,
        _ => false,
    };
    if same && space::stat_path(&pages_path).is_err() {
        step("create.leftover");
        let _ = space::unlink(&path);
    }
    Ok(true)
}

struct Version {
    magic: u64,
    major: u32,
    minor: u32,
    hash: u64,
    features: u64,
    state: u32,
}

impl Version {
    fn check(&self, bus: &str, path: &Path, magic: u64) -> Result<(), AttachError> {
        if self.magic != magic {
            return Err(AttachError::WrongMagic {
                path: path.to_path_buf(),
                expected: magic,
                found: self.magic,
            });
        }
        if self.major != LAYOUT_MAJOR || self.hash != LAYOUT_HASH || self.features != 0 {
            return Err(AttachError::WrongVersion {
                path: path.to_path_buf(),
                found_major: self.major,
                found_minor: self.minor,
                found_hash: self.hash,
                expected_major: LAYOUT_MAJOR,
                expected_minor: LAYOUT_MINOR,
                expected_hash: LAYOUT_HASH,
            });
        }
        match self.state {
            STATE_READY => Ok(()),
            STATE_ABANDONED => Err(AttachError::BusGone {
                name: bus.to_owned(),
            }),
            0 => Err(AttachError::Initialising {
                name: bus.to_owned(),
            }),
            other => Err(Corrupt {
                what: "state in the header",
                offset: other.into(),
            }
            .into()),
        }
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> AttachError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return AttachError::PermissionDenied {
            path: path.to_path_buf(),
            hint: "ask its owner for a group mode (see `mmsb create --mode`), or observe it if it is readable".into(),
        };
    }
    AttachError::Io {
        what,
        path: path.to_path_buf(),
        source,
    }
}

fn open(dir: &SegmentDir, bus: &str, path: &Path, write: bool) -> Result<OwnedFd, AttachError> {
    space::open_object(path, write).map_err(|e| {
        if e.kind() == io::ErrorKind::NotFound {
            AttachError::Missing {
                name: bus.to_owned(),
                dir: dir.path().to_path_buf(),
            }
        } else {
            io_error("open", path, e)
        }
    })
}

/// A segment that somebody else owns could be cut short under us at any time; only ours, root's, or one that our group
/// was given is mapped for writing.
fn check_owner(path: &Path, stat: &space::ObjectStat) -> Result<(), AttachError> {
    let me = rustix::process::geteuid().as_raw();
    if stat.uid == me || stat.uid == 0 || me == 0 || stat.mode & 0o020 != 0 {
        return Ok(());
    }
    Err(AttachError::ForeignOwner {
        path: path.to_path_buf(),
        owner: stat.uid,
    })
}

/// Checks a bus name: 1 to 100 bytes of letters, digits, `-`, `_`, `.`, not starting with a dot.
pub fn check_bus_name(bus: &str) -> Result<(), AttachError> {
    let bad = |why| {
        Err(AttachError::BadName {
            name: bus.to_owned(),
            why,
        })
    };
    if bus.is_empty() {
        return bad("it is empty");
    }
    if bus.len() > BUS_NAME_MAX {
        return bad("it is longer than 100 bytes");
    }
    if bus.starts_with('.') {
        return bad("it starts with a dot");
    }
    if !bus
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return bad("only letters, digits, '-', '_' and '.' are allowed");
    }
    Ok(())
}

fn random_id() -> [u64; 2] {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer has 16 bytes.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), 16, 0) };
    if got != 16 {
        // No entropy source at all: time and pid still tell two buses apart.
        bytes[..8].copy_from_slice(&clock::realtime_ns().to_le_bytes());
        bytes[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    }
    let half = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap_or_default());
    [half(&bytes[..8]), half(&bytes[8..])]
}

fn make_object(
    dir: &SegmentDir,
    path: &Path,
    mode: u32,
    len: u64,
) -> Result<(OwnedFd, Mapping), AttachError> {
    let fd = space::create_unnamed(dir.path(), mode).map_err(|e| io_error("create", path, e))?;
    allocate(&fd, path, 0, len)?;
    let map = Mapping::new(fd.as_fd(), len as usize, true).map_err(|e| io_error("map", path, e))?;
    Ok((fd, map))
}

fn make_ctl(
    dir: &SegmentDir,
    bus: &str,
    path: &Path,
    config: &BusConfig,
    id: [u64; 2],
) -> Result<OwnedFd, AttachError> {
    let _ = bus;
    let l = ctl_layout(config);
    let (fd, map) = make_object(dir, path, config.ctl_mode, l.len)?;
    // SAFETY: the object has at least 4096 bytes, all backed; all fields are atomics.
    let h = unsafe { &*map.base().cast::<CtlHeader>() };
    // Relaxed everywhere: nobody can reach the object before it is linked, and `state` is stored with Release.
    let s64 = |a: &AtomicU64, v: u64| a.store(v, Ordering::Relaxed);
    let s32 = |a: &AtomicU32, v: u32| a.store(v, Ordering::Relaxed);
    s64(&h.magic, CTL_MAGIC);
    s32(&h.layout_major, LAYOUT_MAJOR);
    s32(&h.layout_minor, LAYOUT_MINOR);
    s64(&h.layout_hash, LAYOUT_HASH);
    s64(&h.bus_id[0], id[0]);
    s64(&h.bus_id[1], id[1]);
    s64(&h.len, l.len);
    s32(&h.participants_max, config.participants_max);
    s32(&h.cursors_max, config.cursors_max);
    s32(&h.owners_max, l.owners_max);
    s64(&h.participants_at, l.participants_at);
    s64(&h.cursors_at, l.cursors_at);
    s64(&h.owners_at, l.owners_at);
    s64(&h.indices_at, l.indices_at);
    s32(&h.indices_words, config.pages_max.div_ceil(64));
    for word in 0..config.pages_max.div_ceil(64) {
        let bits = (config.pages_max - word * 64).min(64);
        let free = if bits == 64 {
            u64::MAX
        } else {
            (1 << bits) - 1
        };
        // SAFETY: `l.len` covers div_ceil(pages_max, 64) words from `indices_at`, which is 128-byte aligned.
        let cell = unsafe {
            &*map
                .base()
                .add((l.indices_at + u64::from(word) * 8) as usize)
                .cast::<AtomicU64>()
        };
        s64(cell, free);
    }
    h.state.store(STATE_READY, Ordering::Release);
    Ok(fd)
}

fn make_pages(
    dir: &SegmentDir,
    bus: &str,
    path: &Path,
    config: &BusConfig,
    id: [u64; 2],
) -> Result<OwnedFd, AttachError> {
    let g = config.geometry();
    let (fd, map) = make_object(dir, path, config.mode, g.arena_at)?;
    // SAFETY: the object has at least 4096 bytes, all backed; all fields are atomics.
    let h = unsafe { &*map.base().cast::<PagesHeader>() };
    // Relaxed everywhere: as in `make_ctl`.
    let s64 = |a: &AtomicU64, v: u64| a.store(v, Ordering::Relaxed);
    let s32 = |a: &AtomicU32, v: u32| a.store(v, Ordering::Relaxed);
    s64(&h.magic, PAGES_MAGIC);
    s32(&h.layout_major, LAYOUT_MAJOR);
    s32(&h.layout_minor, LAYOUT_MINOR);
    s64(&h.layout_hash, LAYOUT_HASH);
    s64(&h.bus_id[0], id[0]);
    s64(&h.bus_id[1], id[1]);
    s64(&h.incarnation, 1);
    s64(&h.created_ns, clock::realtime_ns());
    s64(&h.len_max, g.len_max);
    s32(&h.pages_max, g.pages_max);
    s32(&h.names_slots, g.names_slots);
    s32(&h.sources_max, g.sources_max);
    s32(&h.ring_slots, g.ring_slots);
    s64(&h.directory_at, g.directory_at);
    s64(&h.names_at, g.names_at);
    s64(&h.sources_at, g.sources_at);
    s64(&h.slabs_at, g.slabs_at);
    s64(&h.ring_at, g.ring_at);
    s64(&h.arena_at, g.arena_at);
    s32(&h.slabs_max, g.slabs_max);
    for (word, chunk) in h.name.iter().zip(bus.as_bytes().chunks(8)) {
        let mut bytes = [0u8; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        s64(word, u64::from_le_bytes(bytes));
    }
    s64(&h.len, g.arena_at);
    let first = u64::from(g.ring_slots);
    s64(&h.published, first);
    s64(&h.tail_hint, first);
    s64(&h.overwrite_floor, first);
    s64(&h.claim_limit, 2 * first);
    h.state.store(STATE_READY, Ordering::Release);
    Ok(fd)
}
