//! Blocks, directory entries, runs of blocks and cold records.

use core::mem::{offset_of, size_of};
use std::sync::OnceLock;

use super::{BLOCK_UNIT, PAGE_BYTES_MAX, SLAB_BYTES};
use crate::sync::{AtomicU32, AtomicU64};

/// Bits of a page generation. An index whose generation would wrap is retired.
pub const GENERATION_BITS: u32 = 28;
/// Largest generation.
pub const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;
const REF_BITS: u32 = 36;

/// Position of a block in `.pages`, in units of [`BLOCK_UNIT`]; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct BlockRef(u64);

impl BlockRef {
    /// No block.
    pub const NONE: BlockRef = BlockRef(0);

    /// The block at a byte offset that is a multiple of [`BLOCK_UNIT`].
    #[inline]
    pub fn at(offset: u64) -> BlockRef {
        BlockRef((offset / BLOCK_UNIT) & ((1 << REF_BITS) - 1))
    }

    /// From the low 36 bits of a word.
    #[inline]
    pub fn from_bits(bits: u64) -> BlockRef {
        BlockRef(bits & ((1 << REF_BITS) - 1))
    }

    /// Byte offset of the block header in `.pages`.
    #[inline]
    pub fn offset(self) -> u64 {
        self.0 * BLOCK_UNIT
    }

    /// The stored form.
    #[inline]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether this names no block.
    #[inline]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// A word of the page directory: `generation << 36 | block`. Block 0: the index is free, and the generation is the
/// last one used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectoryEntry(pub u64);

impl DirectoryEntry {
    /// Packs one.
    #[inline]
    pub fn new(generation: u32, block: BlockRef) -> DirectoryEntry {
        DirectoryEntry(u64::from(generation & GENERATION_MAX) << REF_BITS | block.bits())
    }
    /// The generation.
    #[inline]
    pub fn generation(self) -> u32 {
        (self.0 >> REF_BITS) as u32
    }
    /// The block, or none.
    #[inline]
    pub fn block(self) -> BlockRef {
        BlockRef::from_bits(self.0)
    }
}

/// Header directly ahead of a page's payload.
#[repr(C)]
pub struct BlockHeader {
    /// `epoch << 1 | in_progress`; the page's writer.
    pub seq: AtomicU64,
    /// LSN of the last delta applied; the page's writer, before `seq` turns even.
    pub lsn: AtomicU64,
    /// Allocation truth, see [`BlockState`]; allocation is the compare-exchange of this word.
    pub state: AtomicU64,
    /// Bytes of the page; fixed while the block is live.
    pub size: AtomicU32,
    /// `class | versions << 8 | flags << 16`; fixed while the block is live. 0: the block was never used.
    pub shape: AtomicU32,
}

/// Bytes of [`BlockHeader`].
pub const BLOCK_HEADER: u64 = size_of::<BlockHeader>() as u64;

/// In [`BlockHeader::shape`]: the content is immutable; a change goes to a fresh block.
pub const SHAPE_LOANED: u32 = 1 << 16;

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<BlockHeader>() == 32 && align_of::<BlockHeader>() == 8);
    assert!(offset_of!(BlockHeader, seq) == 0 && offset_of!(BlockHeader, lsn) == 8);
    assert!(offset_of!(BlockHeader, state) == 16 && offset_of!(BlockHeader, size) == 24);
    assert!(offset_of!(BlockHeader, shape) == 28);
};

/// Directly behind the [`BlockHeader`] of a page with K > 1 version slots.
#[repr(C)]
pub struct CellHeader {
    /// Publications so far; version `head % K` is current. The page's writer, Release, after the slot is whole.
    pub head: AtomicU64,
    /// Spare.
    pub reserved: [AtomicU64; 3],
}

/// Ahead of each version's payload in a cell.
#[repr(C)]
pub struct VersionHeader {
    /// LSN of the last delta in this version.
    pub lsn: AtomicU64,
    /// Epoch of the page in this version.
    pub epoch: AtomicU64,
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<CellHeader>() == 32 && offset_of!(CellHeader, head) == 0);
    assert!(size_of::<VersionHeader>() == 16 && offset_of!(VersionHeader, epoch) == 8);
};

/// Most version slots a cell can have.
pub const VERSIONS_MAX: u32 = 64;

/// Bytes from one version slot of a cell to the next.
#[inline]
pub fn version_stride(size: u32) -> u64 {
    (u64::from(size) + size_of::<VersionHeader>() as u64).next_multiple_of(64)
}

/// Payload bytes a block needs for a page of `size` bytes with `versions` version slots.
#[inline]
pub fn block_payload(size: u32, versions: u32) -> u64 {
    if versions <= 1 {
        u64::from(size)
    } else {
        size_of::<CellHeader>() as u64 + u64::from(versions) * version_stride(size)
    }
}

/// State of a block: `value << 8 | kind`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockState {
    /// Nobody's. Zeroed memory is this.
    Free,
    /// In the hands of the participant with this owner word.
    Held(u32),
    /// Content of this page index.
    Live(u32),
    /// Was content of this page; reusable once no pin and no gating cursor needs it.
    Retired {
        /// The page index.
        page: u32,
        /// Low 24 bits of the LSN of its content, so that who looked whether it is still needed reclaims what it
        /// looked at, not a later life of the same block on the same page.
        life: u32,
    },
    /// Cold record of this page index.
    Cold(u32),
    /// Bits no participant writes.
    Bad,
}

/// Bits of an LSN in [`BlockState::Retired`].
const LIFE_MASK: u32 = 0xff_ffff;

impl BlockState {
    /// The state of a block that left its page with the content of `lsn`.
    #[inline]
    pub fn retired(page: u32, lsn: u64) -> BlockState {
        BlockState::Retired {
            page,
            life: lsn as u32 & LIFE_MASK,
        }
    }

    /// The stored word.
    #[inline]
    pub fn word(self) -> u64 {
        match self {
            BlockState::Free => 0,
            BlockState::Held(v) => u64::from(v) << 8 | 1,
            BlockState::Live(v) => u64::from(v) << 8 | 2,
            BlockState::Retired { page, life } => {
                u64::from(life & LIFE_MASK) << 40 | u64::from(page) << 8 | 3
            }
            BlockState::Cold(v) => u64::from(v) << 8 | 4,
            BlockState::Bad => u64::MAX,
        }
    }

    /// From a stored word.
    #[inline]
    pub fn from_word(word: u64) -> BlockState {
        let value = (word >> 8) as u32;
        match word & 0xff {
            0 if word == 0 => BlockState::Free,
            1 => BlockState::Held(value),
            2 => BlockState::Live(value),
            3 => BlockState::Retired {
                page: value,
                life: (word >> 40) as u32,
            },
            4 => BlockState::Cold(value),
            _ => BlockState::Bad,
        }
    }
}

/// Start of a run: slabs of one size class. The bitmap of free blocks follows (u64 words, bit 1 = free), then,
/// 64-byte aligned, the blocks.
#[repr(C)]
pub struct RunHeader {
    /// Size class of the blocks.
    pub class: AtomicU32,
    /// How many blocks.
    pub blocks: AtomicU32,
    /// Spare.
    pub reserved: [AtomicU64; 7],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<RunHeader>() == 64);

/// Number of size classes.
pub const CLASSES: u32 = 50;

/// Largest payload of a size class: 32, 64, 96, then 2^n and 1.5 × 2^n up to 1 GiB, then the largest cell.
pub fn class_payload(class: u32) -> u64 {
    match class {
        0 => 32,
        1 => 64,
        2 => 96,
        _ => {
            let step = class - 3;
            let base = 128u64 << (step / 2);
            if step % 2 == 1 { base + base / 2 } else { base }
        }
    }
}

/// The smallest class whose payload is at least `bytes`, if there is one.
pub fn class_for(bytes: u64) -> Option<u32> {
    if bytes <= 128 {
        return Some((bytes.max(1).div_ceil(32) - 1) as u32);
    }
    if bytes > PAGE_BYTES_MAX {
        return None;
    }
    // 2^n < bytes <= 2^(n+1), n >= 7
    let n = 63 - (bytes - 1).leading_zeros();
    let base = 1u64 << n;
    let class = 3 + (n - 7) * 2 + if bytes <= base + base / 2 { 1 } else { 2 };
    Some(class)
}

/// How a class is laid out in its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunShape {
    /// Bytes from one block header to the next.
    pub stride: u64,
    /// Slabs of one run.
    pub slabs: u32,
    /// Blocks of one run.
    pub blocks: u32,
    /// Offset of the first block from the start of the run.
    pub first: u64,
}

/// Shape of the runs of a class; worked out once, because every allocation asks for it.
pub fn run_shape(class: u32) -> RunShape {
    static SHAPES: OnceLock<[RunShape; CLASSES as usize]> = OnceLock::new();
    let shapes = SHAPES.get_or_init(|| std::array::from_fn(|class| shape_of(class as u32)));
    match shapes.get(class as usize) {
        Some(shape) => *shape,
        None => shape_of(class),
    }
}

/// As many slabs as keep the waste at or under an eighth, eight at most for classes
/// of several blocks, otherwise as many as one block needs.
fn shape_of(class: u32) -> RunShape {
    let stride = class_payload(class) + BLOCK_HEADER;
    let mut best: Option<RunShape> = None;
    for slabs in 1..=8u32 {
        let bytes = u64::from(slabs) * SLAB_BYTES;
        let mut blocks = (bytes - 64) / stride;
        let first = |blocks: u64| (64 + blocks.div_ceil(64) * 8).next_multiple_of(64);
        while blocks > 0 && first(blocks) + blocks * stride > bytes {
            blocks -= 1;
        }
        if blocks == 0 {
            continue;
        }
        let shape = RunShape {
            stride,
            slabs,
            blocks: blocks as u32,
            first: first(blocks),
        };
        if (bytes - blocks * stride) * 8 <= bytes {
            return shape;
        }
        if best.is_none_or(|b| u64::from(b.blocks) * u64::from(slabs) < blocks * u64::from(b.slabs))
        {
            best = Some(shape);
        }
    }
    best.unwrap_or_else(|| {
        let slabs = (stride + 128).div_ceil(SLAB_BYTES);
        RunShape {
            stride,
            slabs: slabs as u32,
            blocks: 1,
            first: 128,
        }
    })
}

/// A word of the slab table: bit 63 set, `class << 32 | first slab of the run`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlabEntry(pub u64);

impl SlabEntry {
    /// Packs one.
    pub fn new(class: u32, first_slab: u32) -> SlabEntry {
        SlabEntry(1 << 63 | u64::from(class) << 32 | u64::from(first_slab))
    }
    /// Whether the slab is in use.
    pub fn is_used(self) -> bool {
        self.0 >> 63 == 1
    }
    /// The class.
    pub fn class(self) -> u32 {
        (self.0 >> 32) as u32 & 0x7fff_ffff
    }
    /// First slab of the run this slab belongs to.
    pub fn first_slab(self) -> u32 {
        self.0 as u32
    }
}

/// Payload of a cold block: name, schema and metadata of a page. Immutable once a name directory entry points to it.
#[repr(C)]
pub struct ColdHeader {
    /// Page index.
    pub index: AtomicU32,
    /// Page generation.
    pub generation: AtomicU32,
    /// Hash of the schema, 0: none.
    pub schema_hash: AtomicU64,
    /// Bytes of the name, which follows this header.
    pub name_len: AtomicU32,
    /// Bytes of the encoded schema, which follows the name.
    pub schema_len: AtomicU32,
    /// Bytes of the encoded metadata, which follows the schema.
    pub meta_len: AtomicU32,
    /// Spare.
    pub reserved: AtomicU32,
}

/// Bytes of [`ColdHeader`].
pub const COLD_HEADER: usize = size_of::<ColdHeader>();

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<ColdHeader>() == 32);
    assert!(offset_of!(ColdHeader, schema_hash) == 8 && offset_of!(ColdHeader, name_len) == 16);
    assert!(offset_of!(ColdHeader, schema_len) == 20 && offset_of!(ColdHeader, meta_len) == 24);
};

/// A word of the name directory: `kind << 63 | tag << 36 | cold block`. 0 ends a probe; 1 is a removed entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameEntry(pub u64);

impl NameEntry {
    /// Never used: a probe ends here.
    pub const EMPTY: NameEntry = NameEntry(0);
    /// Removed: a probe goes on.
    pub const TOMBSTONE: NameEntry = NameEntry(1);
    const TAG_BITS: u32 = 27;

    /// Found by the hash of the page's name.
    pub fn by_name(hash: u64, cold: BlockRef) -> NameEntry {
        NameEntry((hash >> (64 - Self::TAG_BITS)) << REF_BITS | cold.bits())
    }
    /// Found by the hash of the page's id.
    pub fn by_id(hash: u64, cold: BlockRef) -> NameEntry {
        NameEntry(1 << 63 | (hash >> (64 - Self::TAG_BITS)) << REF_BITS | cold.bits())
    }
    /// Whether this is a by-id entry.
    pub fn is_by_id(self) -> bool {
        self.0 >> 63 == 1
    }
    /// Whether it leads to a cold block.
    pub fn is_live(self) -> bool {
        self.0 > 1
    }
    /// The cold block.
    pub fn cold(self) -> BlockRef {
        BlockRef::from_bits(self.0)
    }
    /// Equal but for the cold block.
    pub fn same_key(self, other: NameEntry) -> bool {
        self.0 >> REF_BITS == other.0 >> REF_BITS
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_size_fits_its_class_and_no_smaller_one() {
        for bytes in (1..5000).chain([1 << 20, (1 << 20) + 1, 3 << 20, 1 << 30, (1 << 30) - 1]) {
            let class = class_for(bytes).unwrap();
            assert!(class < CLASSES && class_payload(class) >= bytes, "{bytes}");
            assert!(class == 0 || class_payload(class - 1) < bytes, "{bytes}");
        }
        assert_eq!(class_for((1 << 30) + 1), None);
        assert_eq!(class_payload(CLASSES - 1), 1 << 30);
    }

    #[test]
    fn a_run_holds_its_blocks() {
        for class in 0..CLASSES {
            let s = run_shape(class);
            assert!(s.blocks >= 1 && s.first.is_multiple_of(64) && s.stride.is_multiple_of(32));
            assert!(s.first >= 64 + u64::from(s.blocks).div_ceil(64) * 8);
            assert!(
                s.first + u64::from(s.blocks) * s.stride <= u64::from(s.slabs) * SLAB_BYTES,
                "{class} {s:?}"
            );
        }
        assert_eq!(run_shape(class_for(1024).unwrap()).blocks, 1985);
    }

    #[test]
    fn packed_words_give_back_what_was_packed() {
        let b = BlockRef::at(0xabc0 * BLOCK_UNIT);
        let e = DirectoryEntry::new(77, b);
        assert_eq!((e.generation(), e.block()), (77, b));
        for s in [
            BlockState::Free,
            BlockState::Held(9),
            BlockState::Live(u32::MAX),
            BlockState::Cold(3),
        ] {
            assert_eq!(BlockState::from_word(s.word()), s);
        }
        assert_eq!(BlockState::from_word(0xff), BlockState::Bad);
        assert_eq!(BlockState::from_word(0x100), BlockState::Bad);
    }
}
