//! `docs/layout.md` says what the structs say: every row is compared with `offset_of!` and the field's size.

use std::collections::BTreeMap;
use std::mem::offset_of;

use mmsb_shm::layout::page::{BlockHeader, CellHeader, ColdHeader, RunHeader, VersionHeader};
use mmsb_shm::layout::participant::{Cursor, ParticipantSlot, SourceEntry};
use mmsb_shm::layout::ring::Slot;
use mmsb_shm::layout::segment::{CtlHeader, PagesHeader};

/// `(struct, field) -> (offset, bytes)` for the named fields.
macro_rules! fields {
    ($map:ident, $type:ident: $($field:ident),* $(,)?) => {
        $(
            fn $field(s: &$type) -> usize { size_of_val(&s.$field) }
            $map.insert((stringify!($type), stringify!($field)), (offset_of!($type, $field), {
                // SAFETY: the structs are made of atomics only, for which zeroes are a value.
                let zeroed: Box<$type> = unsafe { Box::new(std::mem::zeroed()) };
                $field(&zeroed)
            }));
        )*
    };
}

fn from_code() -> BTreeMap<(&'static str, &'static str), (usize, usize)> {
    let mut map = BTreeMap::new();
    {
        fields!(map, PagesHeader: magic, layout_major, layout_minor, features, layout_hash, state, bus_id,
            incarnation, created_ns, len_max, pages_max, names_slots, sources_max, ring_slots, directory_at, names_at,
            sources_at, slabs_at, ring_at, arena_at, slabs_max, name, len, slabs_used, indices_used, published, tail_hint,
            overwrite_floor, claim_limit, doorbell, counters, durable_lsn, durable_bell, log_state, log_error,
            durability, flush_us, write_us, log_id, fork_lsn, log_from, checkpoint_lsn, checkpoint_ns, log_counters);
    }
    {
        fields!(map, CtlHeader: magic, layout_major, layout_minor, features, layout_hash, state, bus_id, len,
            participants_max, cursors_max, owners_max, indices_words, participants_at, cursors_at, owners_at,
            indices_at, limit_lock, names_lock, grow_lock, owner_bell, sleepers, owner_sleepers, participants_used,
            cursors_used, sweep_due, sweep_indices, index_hint, log_position, supervisor, sync_wanted, log_bell,
            log_asleep, sync_sleepers, sync_latest);
    }
    {
        fields!(map, BlockHeader: seq, lsn, state, size, shape);
    }
    {
        fields!(map, CellHeader: head);
    }
    {
        fields!(map, VersionHeader: lsn, epoch);
    }
    {
        fields!(map, RunHeader: class, blocks);
    }
    {
        fields!(map, ColdHeader: index, generation, schema_hash, name_len, schema_len, meta_len);
    }
    {
        fields!(map, SourceEntry: len, since_ns, name);
    }
    {
        fields!(map, Slot: stamp, body);
    }
    {
        fields!(map, ParticipantSlot: state, pid, source, start_time, pid_namespace, joined_ns, thread, name, hold,
            deltas, bytes, waits, retries, active, recovering, claimed, in_hand, hazards);
    }
    {
        fields!(map, Cursor: owner, gating, position, missed);
    }
    map
}

#[test]
fn every_row_of_the_page_is_true_and_none_is_missing() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/layout.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mut code = from_code();
    let mut heading = String::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            heading = title.trim().to_owned();
        } else if line.starts_with('#') {
            heading.clear();
        }
        let cells: Vec<&str> = line
            .trim_matches('|')
            .splitn(4, '|')
            .map(str::trim)
            .collect();
        let [offset, bytes, field, _] = cells[..] else {
            continue;
        };
        let (Ok(offset), Ok(bytes)) = (offset.parse::<usize>(), bytes.parse::<usize>()) else {
            continue;
        };
        let key = code
            .keys()
            .find(|(s, f)| *s == heading && *f == field)
            .copied();
        let key = key.unwrap_or_else(|| {
            panic!("{heading}.{field} is in docs/layout.md but not in the code")
        });
        assert_eq!(
            code.remove(&key),
            Some((offset, bytes)),
            "{heading}.{field}: (offset, bytes)"
        );
    }
    assert!(code.is_empty(), "not in docs/layout.md: {:?}", code.keys());
}
