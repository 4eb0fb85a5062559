//! The bytes of both segments: `repr(C)` structs, their asserted offsets, versions. No algorithm.
//!
//! `docs/layout.md` describes the same bytes in words; a test holds the two together. All numbers are little-endian
//! 32- or 64-bit words, every field is an atomic, and every position is an offset from the start of its object.

pub mod page;
pub mod participant;
pub mod ring;
pub mod segment;

/// First eight bytes of `.pages`.
pub const PAGES_MAGIC: u64 = u64::from_le_bytes(*b"MMSBPAGE");
/// First eight bytes of `.ctl`.
pub const CTL_MAGIC: u64 = u64::from_le_bytes(*b"MMSBCTRL");
/// Raised when old readers would misread new bytes.
pub const LAYOUT_MAJOR: u32 = 1;
/// Raised when old readers may go on, ignoring what is new.
pub const LAYOUT_MINOR: u32 = 2;

/// Growth unit and alignment of the arena, in bytes.
pub const SLAB_BYTES: u64 = 2 << 20;
/// Granularity of block positions, in bytes: a [`page::BlockRef`] counts these.
pub const BLOCK_UNIT: u64 = 32;
/// Largest page, in bytes.
pub const PAGE_BYTES_MAX: u64 = 1 << 30;
/// Longest page name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest participant or source name that is kept, in bytes.
pub const SOURCE_BYTES_MAX: usize = 46;

const fn fnv(mut hash: u64, value: u64) -> u64 {
    let mut i = 0;
    while i < 8 {
        hash = (hash ^ ((value >> (i * 8)) & 0xff)).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// A hash over the sizes and offsets of every shared struct: two builds with the same hash agree on every byte.
pub const LAYOUT_HASH: u64 = {
    use core::mem::{offset_of, size_of};
    let values = [
        LAYOUT_MAJOR as u64,
        SLAB_BYTES,
        BLOCK_UNIT,
        size_of::<segment::PagesHeader>() as u64,
        offset_of!(segment::PagesHeader, state) as u64,
        offset_of!(segment::PagesHeader, ring_at) as u64,
        offset_of!(segment::PagesHeader, len) as u64,
        offset_of!(segment::PagesHeader, indices_used) as u64,
        offset_of!(segment::PagesHeader, published) as u64,
        offset_of!(segment::PagesHeader, overwrite_floor) as u64,
        offset_of!(segment::PagesHeader, claim_limit) as u64,
        offset_of!(segment::PagesHeader, durable_lsn) as u64,
        offset_of!(segment::PagesHeader, log_counters) as u64,
        size_of::<segment::CtlHeader>() as u64,
        offset_of!(segment::CtlHeader, sleepers) as u64,
        offset_of!(segment::CtlHeader, log_position) as u64,
        offset_of!(segment::CtlHeader, sync_wanted) as u64,
        size_of::<page::BlockHeader>() as u64,
        offset_of!(page::BlockHeader, lsn) as u64,
        offset_of!(page::BlockHeader, state) as u64,
        offset_of!(page::BlockHeader, size) as u64,
        size_of::<page::CellHeader>() as u64,
        size_of::<page::RunHeader>() as u64,
        size_of::<page::ColdHeader>() as u64,
        size_of::<participant::ParticipantSlot>() as u64,
        offset_of!(participant::ParticipantSlot, thread) as u64,
        offset_of!(participant::ParticipantSlot, hold) as u64,
        offset_of!(participant::ParticipantSlot, claimed) as u64,
        offset_of!(participant::ParticipantSlot, in_hand) as u64,
        size_of::<participant::Cursor>() as u64,
        size_of::<participant::SourceEntry>() as u64,
        size_of::<ring::Slot>() as u64,
        ring::RECORD_HEADER as u64,
        ring::CONTINUATION_BYTES as u64,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < values.len() {
        hash = fnv(hash, values[i]);
        i += 1;
    }
    hash
};
