//! `libmmsb/include/mmsb_reader.h` says what the structs say: every offset, size and constant that the C reader asserts
//! or uses is compared with the Rust layout, so that neither changes alone.

use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

use mmsb_shm::layout::page::{
    BlockHeader, BlockRef, CellHeader, ColdHeader, DirectoryEntry, SHAPE_LOANED, VERSIONS_MAX,
    VersionHeader,
};
use mmsb_shm::layout::participant::SourceEntry;
use mmsb_shm::layout::ring::{
    CONTINUATION_BYTES, FIRST_BYTES, Kind, RECORD_HEADER, RECORD_SLOTS_MAX, RING_SLOTS_MAX,
    RING_SLOTS_MIN, RecordFlags, SLOT_BYTES, Slot, SlotState,
};
use mmsb_shm::layout::segment::{PagesHeader, STATE_ABANDONED, STATE_READY};
use mmsb_shm::layout::{
    BLOCK_UNIT, LAYOUT_HASH, LAYOUT_MAJOR, LAYOUT_MINOR, NAME_BYTES_MAX, PAGE_BYTES_MAX,
    PAGES_MAGIC, SLAB_BYTES,
};
use mmsb_shm::schema::{FIELDS_MAX, SCHEMA_MAGIC, SCHEMA_VERSION, Scalar};
use mmsb_shm::segment::BUS_NAME_MAX;

const HEADER: &str = include_str!("../../libmmsb/include/mmsb_reader.h");

/// Arguments of the one-line uses of a macro, such as `MMSB_READER_FIELD(Slot, stamp, 0, 8);`.
fn uses(name: &str) -> Vec<Vec<&'static str>> {
    HEADER
        .lines()
        .filter_map(|line| {
            let inside = line.strip_prefix(name)?.strip_prefix('(')?;
            let inside = inside.strip_suffix(");")?;
            Some(inside.split(',').map(str::trim).collect())
        })
        .collect()
}

fn number(text: &str) -> u64 {
    let digits = text.trim_end_matches('u');
    let parsed = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// `#define MMSB_READER_NAME number`, without the results of functions.
fn constants() -> BTreeMap<&'static str, u64> {
    HEADER
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("#define MMSB_READER_")?;
            let (name, rest) = rest.split_once(' ')?;
            let value = rest.split_whitespace().next()?;
            // Results are plain or negative; everything of the layout is unsigned.
            (value.ends_with('u') && value.starts_with(|c: char| c.is_ascii_digit()))
                .then(|| (name, number(value)))
        })
        .collect()
}

#[test]
fn every_offset_of_the_header_is_that_of_the_struct() {
    let mut code = BTreeMap::new();
    macro_rules! fields {
        ($($type:ident: $($field:ident $bytes:literal),*;)*) => {$($({
            code.insert((stringify!($type), stringify!($field)), (offset_of!($type, $field), $bytes));
            // The bytes given here are those of the field.
            let probe: fn(&$type) -> usize = |s| size_of_val(&s.$field);
            // SAFETY: the structs are made of atomics only, for which zeroes are a value.
            let zeroed: Box<$type> = unsafe { Box::new(std::mem::zeroed()) };
            assert_eq!(probe(&zeroed), $bytes, "{}.{}", stringify!($type), stringify!($field));
        })*)*};
    }
    fields! {
        PagesHeader: magic 8, layout_major 4, layout_minor 4, features 8, layout_hash 8, state 4, bus_id 16,
            incarnation 8, created_ns 8, len_max 8, pages_max 4, names_slots 4, sources_max 4, ring_slots 4,
            directory_at 8, names_at 8, sources_at 8, slabs_at 8, ring_at 8, arena_at 8, slabs_max 4, len 8,
            published 8, overwrite_floor 8, durable_lsn 8;
        BlockHeader: seq 8, lsn 8, state 8, size 4, shape 4;
        CellHeader: head 8;
        VersionHeader: lsn 8, epoch 8;
        ColdHeader: index 4, generation 4, schema_hash 8, name_len 4, schema_len 4, meta_len 4;
        SourceEntry: len 4, since_ns 8, name 48;
        Slot: stamp 8, body 56;
    }
    for found in uses("MMSB_READER_FIELD") {
        let [name, field, offset, bytes] = found[..] else {
            panic!("{found:?}")
        };
        let key = code.keys().find(|k| **k == (name, field)).copied();
        let key = key.unwrap_or_else(|| panic!("{name}.{field} is unknown here"));
        let wanted = (number(offset) as usize, number(bytes) as usize);
        assert_eq!(code.remove(&key), Some(wanted), "{name}.{field}");
    }
    assert!(code.is_empty(), "not asserted in the header: {code:?}");
    let sizes: BTreeMap<&str, usize> = [
        ("PagesHeader", size_of::<PagesHeader>()),
        ("BlockHeader", size_of::<BlockHeader>()),
        ("CellHeader", size_of::<CellHeader>()),
        ("VersionHeader", size_of::<VersionHeader>()),
        ("ColdHeader", size_of::<ColdHeader>()),
        ("SourceEntry", size_of::<SourceEntry>()),
        ("Slot", size_of::<Slot>()),
    ]
    .into();
    let found: BTreeMap<&str, usize> = uses("MMSB_READER_SIZE")
        .into_iter()
        .map(|u| (u[0], number(u[1]) as usize))
        .collect();
    assert_eq!(found, sizes);
}

#[test]
fn every_constant_of_the_header_is_that_of_the_code() {
    let mut found = constants();
    let mut expect = |name: &str, value: u64| {
        assert_eq!(found.remove(name), Some(value), "MMSB_READER_{name}");
    };
    expect("PAGES_MAGIC", PAGES_MAGIC);
    expect("LAYOUT_MAJOR", LAYOUT_MAJOR.into());
    expect("LAYOUT_MINOR", LAYOUT_MINOR.into());
    expect("LAYOUT_HASH", LAYOUT_HASH);
    expect("STATE_READY", STATE_READY.into());
    expect("STATE_ABANDONED", STATE_ABANDONED.into());
    expect("SLAB_BYTES", SLAB_BYTES);
    expect("BLOCK_UNIT", BLOCK_UNIT);
    // An entry of generation 1 whose block is at 0: the bits of a reference lie below.
    let one = DirectoryEntry::new(1, BlockRef::NONE).0;
    expect("REF_BITS", one.trailing_zeros().into());
    expect("PAGE_BYTES_MAX", PAGE_BYTES_MAX);
    expect("VERSIONS_MAX", VERSIONS_MAX.into());
    expect("SHAPE_LOANED", SHAPE_LOANED.into());
    expect("BUS_NAME_MAX", BUS_NAME_MAX as u64);
    expect("NAME_BYTES_MAX", NAME_BYTES_MAX as u64);
    expect("SOURCE_NAME_BYTES", 48);
    expect("RING_SLOTS_MIN", RING_SLOTS_MIN.into());
    expect("RING_SLOTS_MAX", RING_SLOTS_MAX.into());
    expect("RECORD_SLOTS_MAX", RECORD_SLOTS_MAX.into());
    expect("SLOT_BYTES", SLOT_BYTES);
    expect("RECORD_HEADER", RECORD_HEADER as u64);
    expect("FIRST_BYTES", FIRST_BYTES as u64);
    expect("CONTINUATION_BYTES", CONTINUATION_BYTES as u64);
    expect("SLOT_CLAIMED", SlotState::Claimed as u64);
    expect("SLOT_READY", SlotState::Ready as u64);
    expect("SLOT_PADDING", SlotState::Padding as u64);
    expect("FLAG_CAUSE", RecordFlags::CAUSE.into());
    expect("FLAG_BLOCK", RecordFlags::BLOCK.into());
    expect("FLAG_TRANSACTION", RecordFlags::TRANSACTION.into());
    expect("FLAG_ALL", RecordFlags::ALL.into());
    expect("SCHEMA_MAGIC", SCHEMA_MAGIC.into());
    expect("SCHEMA_VERSION", SCHEMA_VERSION.into());
    expect("SCHEMA_FIELDS_MAX", FIELDS_MAX as u64);
    let kinds = [
        ("PATCH", Kind::Patch),
        ("RANGES", Kind::Ranges),
        ("MASKED", Kind::Masked),
        ("SWAP", Kind::Swap),
        ("CREATE", Kind::Create),
        ("DESTROY", Kind::Destroy),
        ("DESCRIBE", Kind::Describe),
        ("SOURCE", Kind::Source),
        ("MARK", Kind::Mark),
    ];
    for (name, kind) in kinds {
        expect(&format!("KIND_{name}"), kind as u64);
    }
    assert_eq!(Kind::from_byte(Kind::Mark as u8 + 1), None, "a new kind");
    for scalar in Scalar::ALL {
        let name = format!("TYPE_{}", scalar.name().to_uppercase());
        expect(&name, scalar.code().into());
    }
    // Private to the crate: compared with the lines that say so.
    let of_source = |name: &str, source: &str, line: &str, value: u64| {
        assert!(source.contains(line), "{name} is not `{line}` any more");
        (name.to_owned(), value)
    };
    for (name, value) in [
        of_source(
            "COLD_BYTES_MAX",
            include_str!("../src/names/cold.rs"),
            "COLD_BYTES_MAX: usize = 64 << 10;",
            64 << 10,
        ),
        of_source(
            "TIME_SHIFT",
            include_str!("../src/ring/record.rs"),
            "TIME_SHIFT: u32 = 20;",
            20,
        ),
        of_source(
            "BYTES_MAX",
            include_str!("../src/segment/config.rs"),
            "g.len_max > 1 << 41",
            1 << 41,
        ),
    ] {
        expect(&name, value);
    }
    assert!(found.is_empty(), "in the header only: {found:?}");
}
