//! What a bus is made for, and where everything lies.

use crate::error::{AttachError, Corrupt};
use crate::layout::SLAB_BYTES;
use crate::layout::participant::SourceEntry;
use crate::layout::ring::{RING_SLOTS_MAX, RING_SLOTS_MIN, SLOT_BYTES};
use crate::layout::segment::PagesHeader;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

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
    pub(super) fn check(&self) -> Result<(), AttachError> {
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

    pub(super) fn geometry(&self) -> Geometry {
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
    pub(super) fn read(h: &PagesHeader, len: u64) -> Result<Geometry, Corrupt> {
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
        if g.len_max > 1 << 41
            || !g.len_max.is_multiple_of(SLAB_BYTES)
            || !g.arena_at.is_multiple_of(SLAB_BYTES)
        {
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
