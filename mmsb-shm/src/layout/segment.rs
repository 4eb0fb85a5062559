//! Headers of `.pages` and `.ctl`.

use core::mem::{offset_of, size_of};

use crate::sync::{AtomicU32, AtomicU64};

/// [`PagesHeader::state`] and [`CtlHeader::state`]: not usable yet.
pub const STATE_INIT: u32 = 0;
/// Stored last by the creator, Release.
pub const STATE_READY: u32 = 0x5245_4459;
/// The segment was replaced; commits through old mappings give `BusGone`.
pub const STATE_ABANDONED: u32 = 0x474f_4e45;

/// Number of bus counters in [`PagesHeader::counters`].
pub const COUNTERS: usize = 32;
/// Number of log counters in [`PagesHeader::log_counters`].
pub const LOG_COUNTERS: usize = 64;

/// First 4096 bytes of `.pages`. Geometry is written by the creator before `state` and never again.
#[repr(C)]
pub struct PagesHeader {
    /// [`super::PAGES_MAGIC`].
    pub magic: AtomicU64,
    /// [`super::LAYOUT_MAJOR`].
    pub layout_major: AtomicU32,
    /// [`super::LAYOUT_MINOR`].
    pub layout_minor: AtomicU32,
    /// Feature bits; a reader refuses bits it does not know. None defined yet.
    pub features: AtomicU64,
    /// [`super::LAYOUT_HASH`].
    pub layout_hash: AtomicU64,
    /// [`STATE_READY`] once everything else is in place.
    pub state: AtomicU32,
    /// Spare.
    pub reserved0: AtomicU32,
    /// Random id of the bus, the same in both objects.
    pub bus_id: [AtomicU64; 2],
    /// Raised by one at each rebuild from the log; LSNs are comparable within one incarnation only.
    pub incarnation: AtomicU64,
    /// CLOCK_REALTIME at creation, ns. Record times count from here.
    pub created_ns: AtomicU64,
    /// Greatest length the object may reach; participants map this much at once.
    pub len_max: AtomicU64,
    /// Entries in the page directory.
    pub pages_max: AtomicU32,
    /// Entries in the name directory, a power of two.
    pub names_slots: AtomicU32,
    /// Entries in the table of sources.
    pub sources_max: AtomicU32,
    /// Ring slots, a power of two.
    pub ring_slots: AtomicU32,
    /// Offset of the page directory (u64 each).
    pub directory_at: AtomicU64,
    /// Offset of the name directory (u64 each).
    pub names_at: AtomicU64,
    /// Offset of the table of sources.
    pub sources_at: AtomicU64,
    /// Offset of the slab table (u64 each).
    pub slabs_at: AtomicU64,
    /// Offset of the ring.
    pub ring_at: AtomicU64,
    /// Offset of the first slab, a multiple of [`super::SLAB_BYTES`].
    pub arena_at: AtomicU64,
    /// Entries in the slab table.
    pub slabs_max: AtomicU32,
    /// Spare.
    pub reserved1: [AtomicU32; 25],
    /// Name of the bus, NUL padded, for people.
    pub name: [AtomicU64; 32],
    /// Spare.
    pub reserved2: [AtomicU64; 65],
    /// Length of the object that is backed by memory; written by the holder of the grow lock, Release, after
    /// `fallocate` gave the bytes.
    pub len: AtomicU64,
    /// Slabs in use; same writer.
    pub slabs_used: AtomicU32,
    /// Page numbers from here on were never handed out: they have no page, and no owner word of theirs was ever taken for
    /// long. Scans stop here. Rises only, ahead of the use of a number.
    pub indices_used: AtomicU32,
    /// Spare.
    pub reserved3: [AtomicU32; 28],
    /// All records ahead of this LSN are READY or padding; written by the holder of the limit lock, rises only.
    pub published: AtomicU64,
    /// Spare.
    pub reserved4: [AtomicU64; 15],
    /// A recent record boundary, written by writers now and then: a hint for newcomers.
    pub tail_hint: AtomicU64,
    /// Spare.
    pub reserved5: [AtomicU64; 15],
    /// Records ahead of this LSN may be overwritten at any moment; written by the holder of the limit lock before
    /// `claim_limit`, rises only. Whatever was read from the ring is believed only if it is not ahead of the floor
    /// as read *afterwards*.
    pub overwrite_floor: AtomicU64,
    /// Claims must end at or ahead of this LSN; same writer.
    pub claim_limit: AtomicU64,
    /// Spare.
    pub reserved6: [AtomicU64; 14],
    /// Futex word of the doorbell; bumped by whoever wakes sleepers.
    pub doorbell: AtomicU32,
    /// Spare.
    pub reserved7: [AtomicU32; 31],
    /// Event counts of the bus, indexed by [`crate::stats::Counter`]; rare events only.
    pub counters: [AtomicU64; COUNTERS],
    /// Spare.
    pub reserved8: [AtomicU64; 16],
    /// Everything ahead of this LSN is on disk; 0: no log. Written by the supervisor once the writes are done, before
    /// it moves `CtlHeader::log_position`; rises only.
    pub durable_lsn: AtomicU64,
    /// Futex word of those who wait for `durable_lsn`; bumped by the supervisor.
    pub durable_bell: AtomicU32,
    /// How the log is: see [`crate::log::LogState`].
    pub log_state: AtomicU32,
    /// The kernel's error number with which the log failed, 0: none.
    pub log_error: AtomicU32,
    /// Durability that writers give their deltas if they say nothing: 0 volatile, 1 buffered, 2 synced.
    pub durability: AtomicU32,
    /// Greatest age in microseconds of a delta that is not on its way to the disk yet. Lowered by writers who want it
    /// shorter.
    pub flush_us: AtomicU32,
    /// What the disk takes for one small durable write, in microseconds, as the supervisor last saw it: how long it pays
    /// to wait without sleeping.
    pub write_us: AtomicU32,
    /// Spare.
    pub reserved9: [AtomicU64; 12],
    /// Random id of the log, the same in all its files and incarnations; 0: no log.
    pub log_id: [AtomicU64; 2],
    /// Where this incarnation begins: the LSNs of its predecessor from here on are void.
    pub fork_lsn: AtomicU64,
    /// First LSN that the log still holds.
    pub log_from: AtomicU64,
    /// LSN that the newest checkpoint holds, 0: none.
    pub checkpoint_lsn: AtomicU64,
    /// CLOCK_REALTIME of the newest checkpoint, ns.
    pub checkpoint_ns: AtomicU64,
    /// Spare.
    pub reserved10: [AtomicU64; 10],
    /// What the supervisor counts, indexed by [`crate::log::LogCounter`].
    pub log_counters: [AtomicU64; LOG_COUNTERS],
    /// Spare, up to 4096 bytes.
    pub reserved11: [AtomicU64; 160],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<PagesHeader>() == 4096);
    assert!(offset_of!(PagesHeader, magic) == 0 && offset_of!(PagesHeader, layout_major) == 8);
    assert!(offset_of!(PagesHeader, layout_minor) == 12 && offset_of!(PagesHeader, features) == 16);
    assert!(offset_of!(PagesHeader, layout_hash) == 24 && offset_of!(PagesHeader, state) == 32);
    assert!(offset_of!(PagesHeader, bus_id) == 40 && offset_of!(PagesHeader, incarnation) == 56);
    assert!(offset_of!(PagesHeader, created_ns) == 64 && offset_of!(PagesHeader, len_max) == 72);
    assert!(offset_of!(PagesHeader, pages_max) == 80 && offset_of!(PagesHeader, names_slots) == 84);
    assert!(
        offset_of!(PagesHeader, sources_max) == 88 && offset_of!(PagesHeader, ring_slots) == 92
    );
    assert!(
        offset_of!(PagesHeader, directory_at) == 96 && offset_of!(PagesHeader, names_at) == 104
    );
    assert!(offset_of!(PagesHeader, sources_at) == 112 && offset_of!(PagesHeader, slabs_at) == 120);
    assert!(offset_of!(PagesHeader, ring_at) == 128 && offset_of!(PagesHeader, arena_at) == 136);
    assert!(offset_of!(PagesHeader, slabs_max) == 144 && offset_of!(PagesHeader, name) == 248);
    assert!(offset_of!(PagesHeader, len) == 1024 && offset_of!(PagesHeader, slabs_used) == 1032);
    assert!(
        offset_of!(PagesHeader, published) == 1152 && offset_of!(PagesHeader, tail_hint) == 1280
    );
    assert!(
        offset_of!(PagesHeader, overwrite_floor) == 1408
            && offset_of!(PagesHeader, claim_limit) == 1416
    );
    assert!(offset_of!(PagesHeader, doorbell) == 1536 && offset_of!(PagesHeader, counters) == 1664);
    assert!(
        offset_of!(PagesHeader, durable_lsn) == 2048
            && offset_of!(PagesHeader, durable_bell) == 2056
    );
    assert!(offset_of!(PagesHeader, log_id) == 2176 && offset_of!(PagesHeader, fork_lsn) == 2192);
    assert!(offset_of!(PagesHeader, log_counters) == 2304);
};

/// First 4096 bytes of `.ctl`.
#[repr(C)]
pub struct CtlHeader {
    /// [`super::CTL_MAGIC`].
    pub magic: AtomicU64,
    /// [`super::LAYOUT_MAJOR`].
    pub layout_major: AtomicU32,
    /// [`super::LAYOUT_MINOR`].
    pub layout_minor: AtomicU32,
    /// Feature bits, as in `.pages`.
    pub features: AtomicU64,
    /// [`super::LAYOUT_HASH`].
    pub layout_hash: AtomicU64,
    /// [`STATE_READY`] once everything else is in place.
    pub state: AtomicU32,
    /// Spare.
    pub reserved0: AtomicU32,
    /// Random id of the bus, the same in both objects.
    pub bus_id: [AtomicU64; 2],
    /// Length of this object, fixed.
    pub len: AtomicU64,
    /// Participant slots.
    pub participants_max: AtomicU32,
    /// Cursor slots.
    pub cursors_max: AtomicU32,
    /// Owner words (a power of two, at least 16 and `pages_max`). That of page index i stands at
    /// `(i mod owners_max/16) × 16 + i / (owners_max/16)`.
    pub owners_max: AtomicU32,
    /// Words of the bitmap of free page numbers.
    pub indices_words: AtomicU32,
    /// Offset of the participant slots.
    pub participants_at: AtomicU64,
    /// Offset of the cursors.
    pub cursors_at: AtomicU64,
    /// Offset of the owner words (u32 each).
    pub owners_at: AtomicU64,
    /// Offset of the bitmap of free page numbers.
    pub indices_at: AtomicU64,
    /// Spare.
    pub reserved2: [AtomicU64; 50],
    /// Owner word of the limit lock: who moves `published`, the floor and the claim limit.
    pub limit_lock: AtomicU32,
    /// Spare.
    pub reserved3: [AtomicU32; 31],
    /// Owner word of the name lock: who changes names, cold records, sources.
    pub names_lock: AtomicU32,
    /// Spare.
    pub reserved4: [AtomicU32; 31],
    /// Owner word of the grow lock: who takes slabs and sweeps.
    pub grow_lock: AtomicU32,
    /// Futex word of everybody who waits for an owner word; bumped by whoever wakes them.
    pub owner_bell: AtomicU32,
    /// Spare.
    pub reserved5: [AtomicU32; 30],
    /// Bit `page index % 32` is set while a subscriber of such pages may be asleep. Set by sleepers, cleared by the
    /// writer that wakes them.
    pub sleepers: AtomicU32,
    /// Bit `page index % 32` is set while somebody may be asleep for the owner word of such a page. Same rule.
    pub owner_sleepers: AtomicU32,
    /// Participant slots ever used: scans stop here.
    pub participants_used: AtomicU32,
    /// Cursor slots ever used.
    pub cursors_used: AtomicU32,
    /// Spare.
    pub reserved6: [AtomicU32; 28],
    /// Bit per size class: a death or a detach may have left free blocks unlisted.
    pub sweep_due: AtomicU64,
    /// The same for page numbers (0 or 1).
    pub sweep_indices: AtomicU32,
    /// Where a newcomer's search for free page numbers starts, so that each begins where nobody else is.
    pub index_hint: AtomicU32,
    /// Spare.
    pub reserved7: [AtomicU64; 14],
    /// The log's place in the ring: the next LSN that is not on disk; 0: no log. It holds the overwrite floor, and belongs
    /// to the bus: it stays when its supervisor dies. Only the holder of the supervisor lock writes it.
    pub log_position: AtomicU64,
    /// Owner word of the supervisor's participant, for people; the kernel lock says whether anybody supervises.
    pub supervisor: AtomicU32,
    /// Spare.
    pub reserved8: [AtomicU32; 29],
    /// Somebody waits until everything ahead of this LSN is on disk.
    pub sync_wanted: AtomicU64,
    /// Futex word that the supervisor sleeps on; bumped by who wants something of it.
    pub log_bell: AtomicU32,
    /// 1 while the supervisor may be asleep.
    pub log_asleep: AtomicU32,
    /// 1 while somebody may be asleep for `durable_lsn`.
    pub sync_sleepers: AtomicU32,
    /// Owner word of whoever began to wait for `durable_lsn` last, 0: it is done. Who waits alone may do so without
    /// sleeping.
    pub sync_latest: AtomicU32,
    /// Spare.
    pub reserved9: [AtomicU32; 26],
    /// Spare, up to 4096 bytes.
    pub reserved10: [AtomicU64; 336],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<CtlHeader>() == 4096);
    assert!(offset_of!(CtlHeader, bus_id) == 40 && offset_of!(CtlHeader, len) == 56);
    assert!(
        offset_of!(CtlHeader, participants_max) == 64
            && offset_of!(CtlHeader, participants_at) == 80
    );
    assert!(offset_of!(CtlHeader, limit_lock) == 512 && offset_of!(CtlHeader, names_lock) == 640);
    assert!(offset_of!(CtlHeader, grow_lock) == 768 && offset_of!(CtlHeader, sleepers) == 896);
    assert!(offset_of!(CtlHeader, sweep_due) == 1024);
    assert!(
        offset_of!(CtlHeader, log_position) == 1152 && offset_of!(CtlHeader, sync_wanted) == 1280
    );
};
