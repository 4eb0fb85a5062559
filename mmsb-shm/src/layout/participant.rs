//! Participant slots, cursors and the table of sources.

use core::mem::{offset_of, size_of};

use crate::sync::{AtomicU32, AtomicU64};

/// Participant slot states, the low 8 bits of [`ParticipantSlot::state`]; the generation is above.
pub const SLOT_FREE: u64 = 0;
/// In use by a participant that holds the slot's kernel lock, or by one that died.
pub const SLOT_ACTIVE: u64 = 1;

/// [`ParticipantSlot::recovering`]: a recovery of the slot is under way.
pub const RECOVERING: u32 = 1;
/// [`ParticipantSlot::recovering`]: a life ends, and its sums move to the counters of the bus.
pub const MOVING: u32 = 2;

/// [`ParticipantSlot::thread`]: its thread died inside an operation, and nobody waits for it any more. Like a thread id, but
/// larger than any: without the kernel's mark, and without the bit that says that somebody waits.
pub const UNBLOCKED: u32 = 0x3fff_ffff;

/// Words of a source or participant name.
pub const SOURCE_NAME_WORDS: usize = 6;

/// Blocks a participant can hold between allocation and publication.
pub const IN_HAND: usize = 16;
/// Blocks a participant can have pinned.
pub const HAZARDS: usize = 16;

/// What a participant says about itself. Only its owner writes it, except for `state` at the end of a recovery.
#[repr(C)]
pub struct ParticipantSlot {
    /// `generation << 8 | state`; the generation rises when a slot is given up, so an owner word names one life.
    pub state: AtomicU64,
    /// Process id in its own PID namespace, for people.
    pub pid: AtomicU32,
    /// Source id that its deltas carry.
    pub source: AtomicU32,
    /// Start time of the process, clock ticks since boot, for people.
    pub start_time: AtomicU64,
    /// Inode of its PID namespace, for people.
    pub pid_namespace: AtomicU64,
    /// CLOCK_REALTIME when it joined, ns.
    pub joined_ns: AtomicU64,
    /// Id, in its own PID namespace, of the thread that used it last. The kernel marks it when that thread dies inside an
    /// operation ([`robust`](crate::sys::robust)); [`UNBLOCKED`] once what that held up was repaired.
    pub thread: AtomicU32,
    /// Spare.
    pub reserved0: AtomicU32,
    /// Its name, NUL padded.
    pub name: [AtomicU64; 6],
    /// Spare.
    pub reserved1: [AtomicU64; 4],
    /// The LSN of its unfinished commit, 0: none. Stored between claim and READY, cleared after unlock; holds the
    /// overwrite floor, so that the redo is there when somebody else has to finish.
    pub hold: AtomicU64,
    /// Deltas committed.
    pub deltas: AtomicU64,
    /// Payload bytes committed.
    pub bytes: AtomicU64,
    /// Waits for an owner word or for the ring.
    pub waits: AtomicU64,
    /// Reads repeated because the page changed.
    pub retries: AtomicU64,
    /// 1 while a leased commit is under way.
    pub active: AtomicU32,
    /// [`RECOVERING`] while a recovery of this slot is under way; found by the next recoverer, it says that one died.
    /// [`MOVING`] at the end of a life.
    pub recovering: AtomicU32,
    /// The LSN of its last claim, stored with `hold` and never cleared: recovery looks for claims from there on.
    pub claimed: AtomicU64,
    /// Spare.
    pub reserved2: [AtomicU64; 9],
    /// Blocks between allocation and publication; stored before the block is taken.
    pub in_hand: [AtomicU64; IN_HAND],
    /// Blocks this participant looks at in place: store, SeqCst fence, look at the directory again.
    pub hazards: [AtomicU64; HAZARDS],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<ParticipantSlot>() == 512);
    assert!(offset_of!(ParticipantSlot, thread) == 40);
    assert!(offset_of!(ParticipantSlot, name) == 48 && offset_of!(ParticipantSlot, hold) == 128);
    assert!(offset_of!(ParticipantSlot, claimed) == 176);
    assert!(
        offset_of!(ParticipantSlot, active) == 168 && offset_of!(ParticipantSlot, in_hand) == 256
    );
    assert!(offset_of!(ParticipantSlot, hazards) == 384);
};

/// [`Cursor::position`] of a cursor whose owner is about to read where to start: holds the floor.
pub const CURSOR_JOINING: u64 = 1;

/// A subscriber's place in the ring.
#[repr(C)]
pub struct Cursor {
    /// Owner word of its participant; 0: free.
    pub owner: AtomicU32,
    /// 1: writers wait for it; 0: it can be lapped.
    pub gating: AtomicU32,
    /// Next LSN it needs; [`CURSOR_JOINING`] while it joins.
    pub position: AtomicU64,
    /// Records it lost by being lapped.
    pub missed: AtomicU64,
    /// Spare.
    pub reserved: [AtomicU64; 5],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Cursor>() == 64 && offset_of!(Cursor, position) == 8);

/// A named source of deltas, in `.pages`; its number is its index. Written under the name lock, `len` last.
#[repr(C)]
pub struct SourceEntry {
    /// Bytes of the name; 0: free.
    pub len: AtomicU32,
    /// Spare.
    pub reserved: AtomicU32,
    /// CLOCK_REALTIME of the first use, ns.
    pub since_ns: AtomicU64,
    /// The name, NUL padded.
    pub name: [AtomicU64; 6],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<SourceEntry>() == 64 && offset_of!(SourceEntry, name) == 16);
