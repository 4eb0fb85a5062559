//! Ring slots, stamps and the fixed part of a record.
//!
//! A record is one or more 64-byte ring slots. **Every** slot starts with a stamp, so the first word of a slot is
//! never user payload and no payload can be taken for a stamp (see docs/decisions/0001). The first slot holds the
//! 32-byte fixed part and 32 bytes of body; each further slot holds its stamp and 56 bytes of body.

use core::mem::size_of;

use crate::sync::AtomicU64;

/// Bytes of a ring slot.
pub const SLOT_BYTES: u64 = 64;
/// Bytes of the fixed part of a record, its stamp included.
pub const RECORD_HEADER: usize = 32;
/// Body bytes in a record's first slot.
pub const FIRST_BYTES: usize = 32;
/// Body bytes in each further slot.
pub const CONTINUATION_BYTES: usize = 56;
/// Most ring slots one record or group may have.
pub const RECORD_SLOTS_MAX: u32 = (1 << 13) - 1;
/// Fewest ring slots a bus can have.
pub const RING_SLOTS_MIN: u32 = 64;
/// Most ring slots a bus can have (1 GiB).
pub const RING_SLOTS_MAX: u32 = 1 << 24;

/// One ring slot.
#[repr(C, align(64))]
pub struct Slot {
    /// See [`Stamp`].
    pub stamp: AtomicU64,
    /// Fixed part and body.
    pub body: [AtomicU64; 7],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 64);

/// Ring slots a body of `bytes` needs.
#[inline]
pub fn slots_for(bytes: usize) -> u64 {
    // 1 + ⌈(bytes - 32) / 56⌉, and 1 up to 32: one multiplication, no branch.
    ((bytes + (2 * CONTINUATION_BYTES - 1 - FIRST_BYTES)) / CONTINUATION_BYTES) as u64
}

/// State of a ring slot, the low 3 bits of its stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum SlotState {
    /// Never used.
    Empty = 0,
    /// Claimed: its writer is filling it.
    Claimed = 1,
    /// Committed.
    Ready = 2,
    /// Skipped by everybody.
    Padding = 3,
    /// Not the first slot of its record.
    Continuation = 4,
    /// First slot of a record that is not the first of its group.
    Inner = 5,
    /// Bits no participant writes.
    Bad = 7,
}

/// The first word of a ring slot: `lap:32 | length:13 | owner index:10 | owner generation:6 | state:3`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Packs one. `owner` is an owner word.
    #[inline(always)]
    pub fn new(lap: u32, slots: u32, owner: u32, state: SlotState) -> Stamp {
        Stamp(
            u64::from(lap) << 32
                | u64::from(slots & 0x1fff) << 19
                | u64::from(Self::owner_bits(owner)) << 3
                | state as u64,
        )
    }

    /// The 16 bits of an owner word that a stamp carries: 10 of the slot index, 6 of the generation.
    #[inline(always)]
    pub fn owner_bits(owner: u32) -> u32 {
        let index = (owner & 0x7ff).wrapping_sub(1) & 0x3ff;
        let generation = (owner >> 11) & 0x3f;
        index << 6 | generation
    }

    /// The lap: LSN / ring slots, its low 32 bits.
    #[inline(always)]
    pub fn lap(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// Slots of the record or group.
    #[inline(always)]
    pub fn slots(self) -> u32 {
        (self.0 >> 19) as u32 & 0x1fff
    }
    /// Whether it was made by the holder of this owner word.
    #[inline(always)]
    pub fn is_by(self, owner: u32) -> bool {
        (self.0 >> 3) as u32 & 0xffff == Self::owner_bits(owner)
    }
    /// Index of the participant slot that made it.
    #[inline(always)]
    pub fn owner_index(self) -> u32 {
        (self.0 >> 9) as u32 & 0x3ff
    }
    /// The state.
    #[inline(always)]
    pub fn state(self) -> SlotState {
        match self.0 & 7 {
            0 => SlotState::Empty,
            1 => SlotState::Claimed,
            2 => SlotState::Ready,
            3 => SlotState::Padding,
            4 => SlotState::Continuation,
            5 => SlotState::Inner,
            _ => SlotState::Bad,
        }
    }
    /// The same stamp in another state.
    #[inline(always)]
    pub fn with(self, state: SlotState) -> Stamp {
        Stamp(self.0 & !7 | state as u64)
    }
}

/// What a record does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// Overwrite one range of the page.
    Patch = 1,
    /// Overwrite several ranges: body is `count u32, 0 u32, (offset u32, length u32) × count`, then their bytes.
    Ranges = 2,
    /// Overwrite the bytes whose mask bit is set: body is `ceil(length/8)` mask bytes, then `length` bytes.
    Masked = 3,
    /// Replace the whole page by a block: body is [`BlockPair`](RecordFlags::BLOCK).
    Swap = 4,
    /// A page comes into being: body is the block pair (block, cold block), size u32, shape u32, cold bytes.
    Create = 5,
    /// A page goes: body is the block pair (block, cold block).
    Destroy = 6,
    /// Name, schema or metadata change: body is the block pair (new cold block, old cold block), cold bytes.
    Describe = 7,
    /// A source got its number: body is the name.
    Source = 8,
    /// A user's mark in the order: body is free.
    Mark = 9,
}

impl Kind {
    /// From its stored byte.
    #[inline]
    pub fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Patch,
            2 => Kind::Ranges,
            3 => Kind::Masked,
            4 => Kind::Swap,
            5 => Kind::Create,
            6 => Kind::Destroy,
            7 => Kind::Describe,
            8 => Kind::Source,
            9 => Kind::Mark,
            _ => return None,
        })
    }
}

/// Flag bits of a record.
pub struct RecordFlags;

impl RecordFlags {
    /// The body starts with the LSN of the delta that led to this one (u64).
    pub const CAUSE: u8 = 1;
    /// The body (after the cause) has a block pair: new block ref u64, old block ref u64. Opaque to replay.
    pub const BLOCK: u8 = 2;
    /// The record belongs to a transaction: its group is seen on the pages whole or not at all.
    pub const TRANSACTION: u8 = 4;
    /// All bits defined.
    pub const ALL: u8 = 7;
}

/// The fixed part of a record behind the stamp, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// Page index.
    pub index: u32,
    /// Page generation.
    pub generation: u32,
    /// First byte of the range.
    pub offset: u32,
    /// Bytes of the body.
    pub body: u32,
    /// Kind byte.
    pub kind: u8,
    /// [`RecordFlags`].
    pub flags: u8,
    /// Source number.
    pub source: u16,
    /// Time of the commit in units of 2^20 ns since the bus was created, its low 32 bits.
    pub time: u32,
}

impl RecordHead {
    /// The three words behind the stamp.
    #[inline(always)]
    pub fn words(&self) -> [u64; 3] {
        [
            u64::from(self.generation) << 32 | u64::from(self.index),
            u64::from(self.body) << 32 | u64::from(self.offset),
            u64::from(self.time) << 32
                | u64::from(self.source) << 16
                | u64::from(self.flags) << 8
                | u64::from(self.kind),
        ]
    }

    /// From the three words behind the stamp.
    #[inline(always)]
    pub fn from_words(w: [u64; 3]) -> RecordHead {
        RecordHead {
            index: w[0] as u32,
            generation: (w[0] >> 32) as u32,
            offset: w[1] as u32,
            body: (w[1] >> 32) as u32,
            kind: w[2] as u8,
            flags: (w[2] >> 8) as u8,
            source: (w[2] >> 16) as u16,
            time: (w[2] >> 32) as u32,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_gives_back_its_parts() {
        let owner = 5 << 11 | 1023;
        let s = Stamp::new(0xdead_beef, 8191, owner, SlotState::Claimed);
        assert_eq!(
            (s.lap(), s.slots(), s.state()),
            (0xdead_beef, 8191, SlotState::Claimed)
        );
        assert!(s.is_by(owner) && !s.is_by(owner + 1) && !s.is_by(owner + (1 << 11)));
        assert_eq!(s.owner_index(), 1022);
        assert_eq!(s.with(SlotState::Ready).state(), SlotState::Ready);
    }

    #[test]
    fn a_head_gives_back_its_parts() {
        let head = RecordHead {
            index: 1,
            generation: 2,
            offset: 3,
            body: 4,
            kind: 5,
            flags: 6,
            source: 7,
            time: 8,
        };
        assert_eq!(RecordHead::from_words(head.words()), head);
    }

    #[test]
    fn slots_cover_the_body() {
        assert_eq!([0, 32, 33, 88, 89].map(slots_for), [1, 1, 2, 2, 3]);
    }
}
