//! Records outside the ring: the bodies of log blocks, made of ring slots verbatim, and the payloads that were not in
//! the ring.
//!
//! The bytes of a record are the same in the ring, in the log and between machines. Outside the ring there is one thing
//! more: a swap record names a block of shared memory, which nobody elsewhere has, so the bytes of that block travel
//! ahead of the record, in **chunks** (an attachment slot, then the bytes, padded to whole slots).
//!
//! Nothing in a body is trusted: [`walk`] checks every length against the body, every stamp against its position, and
//! stops with [`Corrupt`] at the first that is wrong.

use crate::PageId;
use crate::error::Corrupt;
use crate::layout::ring::{
    CONTINUATION_BYTES, FIRST_BYTES, Kind, RecordFlags, RecordHead, SlotState, Stamp, slots_for,
};
use crate::ring::LSN_MAX;
use crate::ring::record;
use crate::subscribe::{Clock, Delta, delta};

/// Bytes of a slot.
pub const SLOT: usize = crate::layout::ring::SLOT_BYTES as usize;

/// State bits of an attachment slot's stamp; all its other bits are 0.
pub const ATTACHMENT: u64 = 6;

/// Part of the content that a swap gives to its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// LSN of the swap.
    pub lsn: u64,
    /// Where in the page these bytes begin.
    pub offset: u64,
    /// Bytes of the whole content.
    pub total: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// What a body holds.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A record.
    Delta(Delta<'a>),
    /// Content of a swap whose record comes later.
    Chunk(Chunk<'a>),
}

/// Slots that a chunk of `bytes` bytes takes, its attachment slot included.
pub fn chunk_slots(bytes: usize) -> usize {
    1 + bytes.div_ceil(SLOT)
}

/// The attachment slot ahead of a chunk of `bytes` bytes.
pub fn chunk_head(lsn: u64, offset: u64, bytes: u64, total: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    for (at, word) in [ATTACHMENT, lsn, offset, bytes, total]
        .into_iter()
        .enumerate()
    {
        slot[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    slot
}

/// Visits what is in `body`, in order. `first_lsn` is the LSN of its first record, `ring_slots` the length of the ring
/// that it was in. Returns the LSN behind the last record or padding.
///
/// The bodies of records are joined in place, by moving them over the stamps of their further slots, so `body` is of no
/// use for a second walk.
///
/// # Errors
/// [`Corrupt`], its offset the LSN, at the first bytes that no writer makes. What stands ahead of them was visited.
pub fn walk<'a>(
    body: &'a mut [u8],
    first_lsn: u64,
    ring_slots: u32,
    clock: Clock,
    f: &mut dyn FnMut(Item<'a>),
) -> Result<u64, Corrupt> {
    walk_wanted(body, first_lsn, ring_slots, clock, |_, _, _| true, f)
}

/// As [`walk`], but of records only those that `wanted` wants, by their LSN, kind and page. The others are checked as
/// ever, but not joined, which is much quicker, and so can be visited by another walk.
///
/// # Errors
/// As [`walk`].
#[inline]
pub fn walk_wanted<'a>(
    body: &'a mut [u8],
    first_lsn: u64,
    ring_slots: u32,
    clock: Clock,
    wanted: impl Fn(u64, Kind, PageId) -> bool,
    f: &mut dyn FnMut(Item<'a>),
) -> Result<u64, Corrupt> {
    let mut at = first_lsn;
    let mut rest = body;
    let mut group_end = first_lsn;
    let ring = u64::from(ring_slots.max(1));
    while !rest.is_empty() {
        let bad = |what| Corrupt { what, offset: at };
        let word = |i: usize, from: &[u8]| {
            from.get(i * 8..i * 8 + 8)
                .and_then(|b| b.try_into().ok())
                .map(u64::from_le_bytes)
        };
        let stamp = Stamp(word(0, rest).ok_or(bad("cut slot in a log block"))?);
        if stamp.0 == ATTACHMENT {
            let field = |i| word(i, rest).ok_or(bad("cut attachment"));
            let (lsn, offset, bytes, total) = (field(1)?, field(2)?, field(3)?, field(4)?);
            if total > crate::layout::PAGE_BYTES_MAX
                || offset.checked_add(bytes).is_none_or(|end| end > total)
                || group_end != at
            {
                return Err(bad("attachment"));
            }
            let slots = chunk_slots(bytes as usize);
            let (chunk, behind) = rest
                .split_at_mut_checked(slots * SLOT)
                .ok_or(bad("attachment longer than its block"))?;
            let bytes = &chunk[SLOT..SLOT + bytes as usize];
            f(Item::Chunk(Chunk {
                lsn,
                offset,
                total,
                bytes,
            }));
            rest = behind;
            continue;
        }
        if at > LSN_MAX || stamp.lap() != (at / ring) as u32 {
            return Err(bad("lap of a slot in a log block"));
        }
        let slots = u64::from(stamp.slots());
        match stamp.state() {
            SlotState::Padding if at == group_end => {
                let bytes = slots as usize * SLOT;
                rest = rest
                    .split_at_mut_checked(bytes)
                    .filter(|_| slots > 0)
                    .ok_or(bad("padding longer than its block"))?
                    .1;
                at += slots;
                group_end = at;
                continue;
            }
            SlotState::Ready if at == group_end => {
                if slots == 0 || slots as usize * SLOT > rest.len() {
                    return Err(bad("group longer than its block"));
                }
                group_end = at + slots;
            }
            SlotState::Inner if at < group_end => {}
            _ => return Err(bad("stamp in a log block")),
        }
        // What is wrong with a record is found out below, wanted or not.
        if let Some((kind, page, slots)) = record::peek(rest)
            && !wanted(at, kind, page)
            && slots <= group_end - at
            && slots as usize * SLOT <= rest.len()
        {
            rest = &mut rest[slots as usize * SLOT..];
            at += slots;
            continue;
        }
        let taken = record::take_first(rest).ok_or(bad("record longer than its block"))?;
        if taken.slots > group_end - at {
            return Err(bad("record longer than its group"));
        }
        let item = delta(clock, at, group_end, &taken.head, taken.body)
            .ok_or(bad("record in a log block"))?;
        f(Item::Delta(item));
        at += taken.slots;
        rest = taken.rest;
    }
    if at != group_end {
        return Err(Corrupt {
            what: "group cut by the end of its block",
            offset: at,
        });
    }
    Ok(at)
}

/// Calls `f(offset, bytes)` for every range of a page of `size` bytes that a record with these fields overwrites, in
/// order. `None`: the kind has no ranges, the payload is malformed, or a range leaves the page; some ranges may have been
/// visited then, so check with an `f` that does nothing first.
pub fn for_each_range(
    kind: Kind,
    offset: u32,
    payload: &[u8],
    size: u64,
    f: impl FnMut(usize, &[u8]),
) -> Option<()> {
    record::for_each_range(kind, offset, payload, size, f)
}

/// A record to be encoded: for tests, fixtures and tools, which have no ring.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The page; index 0 generation 0 for sources and marks.
    pub page: PageId,
    /// What it does.
    pub kind: Kind,
    /// First byte it concerns.
    pub offset: u32,
    /// Who made it.
    pub source: u16,
    /// Time in units of 2^20 ns since the bus was created, low 32 bits.
    pub time: u32,
    /// LSN of the delta that led to it, 0: outside input.
    pub cause: u64,
    /// Whether it belongs to a transaction.
    pub transaction: bool,
    /// The payload, as [`Delta::payload`] gives it.
    pub payload: Vec<u8>,
}

impl Spec {
    /// A record of `kind` for `page`.
    pub fn new(page: PageId, kind: Kind, offset: u32, payload: impl Into<Vec<u8>>) -> Spec {
        Spec {
            page,
            kind,
            offset,
            source: 0,
            time: 0,
            cause: 0,
            transaction: false,
            payload: payload.into(),
        }
    }
}

/// The slots of one group of records that begins at `lsn`, as a participant writes them into a ring of `ring_slots`.
/// The caller sees to it that the group does not wrap.
///
/// # Panics
/// If `records` is empty, or longer than one group can be.
pub fn encode(records: &[Spec], lsn: u64, ring_slots: u32) -> Vec<u8> {
    const OWNER: u32 = 1;
    let bodies: Vec<(u8, Vec<u8>)> = records.iter().map(body_of).collect();
    let total: u64 = bodies.iter().map(|(_, b)| slots_for(b.len())).sum();
    assert!(
        total > 0 && total <= u64::from(crate::layout::ring::RECORD_SLOTS_MAX),
        "a group of {total} slots"
    );
    let mut out = Vec::with_capacity(total as usize * SLOT);
    let mut at = lsn;
    for (i, (spec, (flags, body))) in records.iter().zip(&bodies).enumerate() {
        let lap = |at: u64| (at / u64::from(ring_slots)) as u32;
        let slots = slots_for(body.len());
        let stamp = if i == 0 {
            Stamp::new(lap(at), total as u32, OWNER, SlotState::Ready)
        } else {
            Stamp::new(lap(at), slots as u32, OWNER, SlotState::Inner)
        };
        let head = RecordHead {
            index: spec.page.index,
            generation: spec.page.generation,
            offset: spec.offset,
            body: body.len() as u32,
            kind: spec.kind as u8,
            flags: *flags,
            source: spec.source,
            time: spec.time,
        };
        out.extend(stamp.0.to_le_bytes());
        for word in head.words() {
            out.extend(word.to_le_bytes());
        }
        let (first, rest) = body.split_at(body.len().min(FIRST_BYTES));
        out.extend(first);
        out.resize(out.len() + FIRST_BYTES - first.len(), 0);
        for piece in rest.chunks(CONTINUATION_BYTES) {
            let tag = Stamp::new(lap(at), 1, OWNER, SlotState::Continuation);
            out.extend(tag.0.to_le_bytes());
            out.extend(piece);
            out.resize(out.len() + CONTINUATION_BYTES - piece.len(), 0);
        }
        at += slots;
    }
    out
}

/// Flags and body of a record.
fn body_of(spec: &Spec) -> (u8, Vec<u8>) {
    let mut flags = 0;
    let mut body = Vec::new();
    if spec.cause != 0 {
        flags |= RecordFlags::CAUSE;
        body.extend(spec.cause.to_le_bytes());
    }
    if spec.transaction {
        flags |= RecordFlags::TRANSACTION;
    }
    if matches!(
        spec.kind,
        Kind::Swap | Kind::Create | Kind::Destroy | Kind::Describe
    ) {
        flags |= RecordFlags::BLOCK;
        body.extend([0; 16]);
    }
    body.extend(&spec.payload);
    (flags, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: PageId = PageId {
        index: 3,
        generation: 1,
    };

    type Seen = Vec<(u64, Kind, Vec<u8>)>;

    fn walked(mut body: Vec<u8>, first: u64) -> (Seen, Result<u64, Corrupt>) {
        let body = &mut body[..];
        let mut seen = Vec::new();
        let end = walk(body, first, 64, Clock::new(0, 0), &mut |item| match item {
            Item::Delta(d) => seen.push((d.lsn, d.kind, d.payload.to_vec())),
            Item::Chunk(c) => seen.push((c.lsn, Kind::Swap, c.bytes.to_vec())),
        });
        (seen, end)
    }

    #[test]
    fn what_was_encoded_is_walked() {
        let long: Vec<u8> = (0..200).collect();
        let mut body = encode(&[Spec::new(PAGE, Kind::Patch, 8, *b"abc")], 64, 64);
        let group = [
            Spec::new(PAGE, Kind::Patch, 0, long.clone()),
            Spec {
                cause: 64,
                transaction: true,
                ..Spec::new(PAGE, Kind::Mark, 0, *b"m")
            },
        ];
        body.extend(chunk_head(70, 0, 5, 5));
        body.extend(b"swap!");
        body.resize(body.len().next_multiple_of(SLOT), 0);
        body.extend(encode(&group, 65, 64));
        let (seen, end) = walked(body, 64);
        assert_eq!(end, Ok(65 + 4 + 1));
        assert_eq!(
            seen,
            [
                (64, Kind::Patch, b"abc".to_vec()),
                (70, Kind::Swap, b"swap!".to_vec()),
                (65, Kind::Patch, long),
                (69, Kind::Mark, b"m".to_vec()),
            ]
        );
    }

    #[test]
    fn records_that_are_not_wanted_are_passed_over_with_the_same_checks() {
        let group = [
            Spec::new(PAGE, Kind::Patch, 0, vec![1; 300]),
            Spec::new(PAGE, Kind::Mark, 0, vec![2; 90]),
            Spec::new(PAGE, Kind::Patch, 0, vec![3; 8]),
        ];
        let body = encode(&group, 64, 64);
        let marks = |mut body: Vec<u8>| {
            let mut seen = Vec::new();
            let end = walk_wanted(
                &mut body[..],
                64,
                64,
                Clock::new(0, 0),
                |_, kind, page| kind == Kind::Mark && page == PAGE,
                &mut |item| match item {
                    Item::Delta(d) => seen.push((d.lsn, d.payload.to_vec())),
                    Item::Chunk(_) => panic!("{item:?}"),
                },
            );
            (seen, end)
        };
        let (all, end) = walked(body.clone(), 64);
        assert_eq!(marks(body.clone()), (vec![(all[1].0, vec![2; 90])], end));
        for cut in 1..body.len() {
            assert!(marks(body[..cut].to_vec()).1.is_err(), "{cut}");
        }
        // A length that reaches behind the group, a stamp and a kind that nobody writes.
        for (at, mask) in [(22, 0xff), (0, 2), (24, 0xf0), (25, 0x80)] {
            let mut bad = body.clone();
            bad[at] ^= mask;
            let (_, by_walk) = walked(bad.clone(), 64);
            assert!(by_walk.is_err(), "{at}");
            assert_eq!(marks(bad).1, by_walk, "{at}");
        }
    }

    #[test]
    fn a_cut_or_misplaced_body_is_refused() {
        let body = encode(&[Spec::new(PAGE, Kind::Patch, 0, vec![7; 100])], 64, 64);
        for cut in 1..body.len() {
            assert!(walked(body[..cut].to_vec(), 64).1.is_err(), "{cut}");
        }
        assert!(walked(body.clone(), 128).1.is_err());
        let mut chunk = chunk_head(64, 10, 10, 15).to_vec();
        chunk.resize(2 * SLOT, 0);
        assert!(walked(chunk, 64).1.is_err());
    }
}
