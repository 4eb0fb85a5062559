//! Writing and reading records: the fixed part, the body across its slots, groups.

use super::Ring;
use crate::PageId;
use crate::copy;
use crate::error::Corrupt;
use crate::layout::ring::{
    CONTINUATION_BYTES, FIRST_BYTES, Kind, RecordFlags, RecordHead, SLOT_BYTES, Slot, SlotState,
    Stamp, slots_for,
};
use crate::sync::Ordering;

/// Time unit of a record: 2^20 ns, about a millisecond.
pub(crate) const TIME_SHIFT: u32 = 20;

/// Writes the record at `lsn` behind its stamp. The slots were claimed by the caller and are not published. Unused
/// bytes of the last slot become zero, so equal deltas are equal bytes in the log.
///
/// `inner`: the record is not the first of its group and gets a stamp of its own.
#[inline(always)]
pub(crate) fn write(
    ring: &Ring<'_>,
    lsn: u64,
    head: &RecordHead,
    body: &[u8],
    owner: u32,
    inner: bool,
) {
    let slot = ring.slot(lsn);
    let words = head.words();
    // Relaxed: the slots are claimed, nobody believes them before READY, which is stored with Release (R1).
    slot.body[0].store(words[0], Ordering::Relaxed);
    slot.body[1].store(words[1], Ordering::Relaxed);
    slot.body[2].store(words[2], Ordering::Relaxed);
    let base = core::ptr::from_ref(slot).cast_mut().cast::<u8>();
    match body.len() {
        // The commonest patches, without a call and without a branch on the length.
        8 => {
            let word = u64::from_ne_bytes([
                body[0], body[1], body[2], body[3], body[4], body[5], body[6], body[7],
            ]);
            slot.body[3].store(word, Ordering::Relaxed);
            slot.body[4].store(0, Ordering::Relaxed);
            slot.body[5].store(0, Ordering::Relaxed);
            slot.body[6].store(0, Ordering::Relaxed);
        }
        // SAFETY: bytes 32..64 of a 64-byte slot that lies in the mapped ring, from a body of 32 bytes; other processes
        // may only read them, through atomics or the copy functions.
        FIRST_BYTES => unsafe { copy::store(base.add(32), body.as_ptr(), FIRST_BYTES) },
        64 => {
            let tag = Stamp::new(ring.lap(lsn), 1, owner, SlotState::Continuation);
            // SAFETY: as above for the first 32 bytes; the claim covers slots_for(64) = 2 slots, which do not wrap, so
            // the second one is in the mapped ring too.
            unsafe {
                copy::store(base.add(32), body.as_ptr(), FIRST_BYTES);
                copy::scatter_slots(base.add(64), tag.0, body.as_ptr().add(FIRST_BYTES), 32);
            }
        }
        _ => write_body(ring, lsn, slot, body, owner),
    }
    if inner {
        let stamp = Stamp::new(
            ring.lap(lsn),
            slots_for(body.len()) as u32,
            owner,
            SlotState::Inner,
        );
        // Relaxed: published with the stamp of the group.
        slot.stamp.store(stamp.0, Ordering::Relaxed);
    }
}

/// A body of any length.
#[inline]
fn write_body(ring: &Ring<'_>, lsn: u64, slot: &Slot, body: &[u8], owner: u32) {
    let base = core::ptr::from_ref(slot).cast_mut().cast::<u8>();
    let first = body.len().min(FIRST_BYTES);
    if first < FIRST_BYTES {
        for word in &slot.body[3..] {
            // Relaxed: as the words of the head.
            word.store(0, Ordering::Relaxed);
        }
    }
    // SAFETY: bytes 32..32+first of a 64-byte slot that lies in the mapped ring; other processes may only read them,
    // through atomics or the copy functions.
    unsafe { copy::store(base.add(32), body.as_ptr(), first) };
    if body.len() > FIRST_BYTES {
        let tag = Stamp::new(ring.lap(lsn), 1, owner, SlotState::Continuation);
        let rest = &body[FIRST_BYTES..];
        debug_assert!(slots_for(body.len()) <= ring.len() - (lsn & (ring.len() - 1)));
        // SAFETY: the claim covers slots_for(body.len()) slots, which do not wrap, so the slots behind the first are in
        // the mapped ring; `rest` is private memory of `rest.len()` bytes.
        unsafe { copy::scatter_slots(base.add(64), tag.0, rest.as_ptr(), rest.len()) };
    }
}

/// Reads the fixed part of the record at `lsn`.
#[inline(always)]
pub(crate) fn read_head(ring: &Ring<'_>, lsn: u64) -> RecordHead {
    let slot = ring.slot(lsn);
    // Relaxed: ordered by the Acquire load of the stamp (R1) and the fence of `is_intact` (R2).
    RecordHead::from_words([
        slot.body[0].load(Ordering::Relaxed),
        slot.body[1].load(Ordering::Relaxed),
        slot.body[2].load(Ordering::Relaxed),
    ])
}

/// Slots of the record with this head, if it fits `room` slots.
#[inline(always)]
pub(crate) fn checked_slots(head: &RecordHead, lsn: u64, room: u64) -> Result<u64, Corrupt> {
    let slots = slots_for(head.body as usize);
    if slots > room {
        return Err(Corrupt {
            what: "record longer than its group",
            offset: lsn,
        });
    }
    Ok(slots)
}

/// Copies whole slots from `lsn` on, stamps and all, until `out` is full.
///
/// # Panics
/// If the slots wrap: the caller has the stamp's length from [`Ring::look`], which leaves none that does.
#[inline(always)]
pub(crate) fn read_slots(ring: &Ring<'_>, lsn: u64, out: &mut [u8]) {
    let room = ring.len() - (lsn & (ring.len() - 1));
    assert!(out.len() as u64 <= room * SLOT_BYTES);
    let base = core::ptr::from_ref(ring.slot(lsn)).cast::<u8>();
    // SAFETY: so many bytes lie between the slot and the end of the mapped ring; torn bytes are still initialised bytes.
    unsafe { copy::load(out.as_mut_ptr(), base, out.len()) }
}

/// The first record of copied slots.
pub(crate) struct First<'a> {
    pub(crate) stamp: Stamp,
    pub(crate) head: RecordHead,
    pub(crate) body: &'a [u8],
    /// How many slots it takes.
    pub(crate) slots: u64,
    /// The slots behind it.
    pub(crate) rest: &'a mut [u8],
}

/// Kind, page and slots of the first record of copied slots. `None`: it is none that [`parts`] could split.
#[inline(always)]
pub(crate) fn peek(copied: &[u8]) -> Option<(Kind, PageId, u64)> {
    let first = copied.first_chunk::<{ SLOT_BYTES as usize }>()?;
    let word = |i: usize| u64::from_le_bytes(*first[i * 8..].first_chunk().unwrap_or(&[0; 8]));
    let head = RecordHead::from_words([word(1), word(2), word(3)]);
    let has = |flag| u32::from(head.flags & flag != 0);
    let fields = has(RecordFlags::CAUSE) * 8 + has(RecordFlags::BLOCK) * 16;
    let sound = head.flags & !RecordFlags::ALL == 0 && fields <= head.body;
    let kind = Kind::from_byte(head.kind)?;
    let page = PageId {
        index: head.index,
        generation: head.generation,
    };
    sound.then_some((kind, page, slots_for(head.body as usize)))
}

/// Takes the first record off slots that [`read_slots`] copied, and joins its body by moving it over the stamps of the
/// further slots. `None`: it says that it is longer than all of them.
#[inline(always)]
pub(crate) fn take_first(copied: &mut [u8]) -> Option<First<'_>> {
    const SLOT: usize = SLOT_BYTES as usize;
    let first = copied.first_chunk::<SLOT>()?;
    let word = |i: usize| u64::from_le_bytes(*first[i * 8..].first_chunk().unwrap_or(&[0; 8]));
    let stamp = Stamp(word(0));
    let head = RecordHead::from_words([word(1), word(2), word(3)]);
    let slots = slots_for(head.body as usize) as usize;
    let (record, rest) = copied.split_at_mut_checked(slots * SLOT)?;
    for i in 1..slots {
        let (from, to) = (i * SLOT + 8, SLOT + (i - 1) * CONTINUATION_BYTES);
        record.copy_within(from..from + CONTINUATION_BYTES, to);
    }
    Some(First {
        stamp,
        head,
        body: record
            .get(SLOT - FIRST_BYTES..)?
            .get(..head.body as usize)?,
        slots: slots as u64,
        rest,
    })
}

/// Appends the body of the record at `lsn` to `out`. `head.body` was checked by [`checked_slots`] against slots that
/// do not wrap.
#[inline(always)]
pub(crate) fn read_body(ring: &Ring<'_>, lsn: u64, head: &RecordHead, out: &mut Vec<u8>) {
    let len = head.body as usize;
    out.reserve(len);
    let base = core::ptr::from_ref(ring.slot(lsn)).cast::<u8>();
    // SAFETY: `reserve` made room for `len` bytes behind the present length; the source slots lie in the mapped ring
    // (see above), and torn bytes are still initialised bytes.
    unsafe {
        let dst = out.as_mut_ptr().add(out.len());
        copy::load(dst, base.add(32), len.min(FIRST_BYTES));
        if len > FIRST_BYTES {
            copy::gather_slots(dst.add(FIRST_BYTES), base.add(64), len - FIRST_BYTES);
        }
        out.set_len(out.len() + len);
    }
    const _: () = assert!(CONTINUATION_BYTES == 56);
}

/// A body taken apart.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) cause: u64,
    pub(crate) new_block: u64,
    pub(crate) old_block: u64,
    pub(crate) payload: &'a [u8],
}

fn take<'a>(body: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = body.split_at_checked(n)?;
    *body = rest;
    Some(head)
}

/// Next little-endian u64 of a body.
pub(crate) fn take_u64(body: &mut &[u8]) -> Option<u64> {
    take(body, 8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()))
}

/// Next little-endian u32 of a body.
pub(crate) fn take_u32(body: &mut &[u8]) -> Option<u32> {
    take(body, 4).map(|b| u32::from_le_bytes(b.try_into().unwrap_or_default()))
}

/// Splits the optional fields from the payload.
pub(crate) fn parts<'a>(head: &RecordHead, mut body: &'a [u8]) -> Option<Parts<'a>> {
    let mut parts = Parts::default();
    if head.flags & !RecordFlags::ALL != 0 {
        return None;
    }
    if head.flags & RecordFlags::CAUSE != 0 {
        parts.cause = take_u64(&mut body)?;
    }
    if head.flags & RecordFlags::BLOCK != 0 {
        parts.new_block = take_u64(&mut body)?;
        parts.old_block = take_u64(&mut body)?;
    }
    parts.payload = body;
    Some(parts)
}

/// Calls `f(offset in page, bytes)` for each range that a payload overwrites, in order. `None`: the payload is
/// malformed, or reaches past `size`; some ranges may have been visited then, so check with a no-op first.
pub(crate) fn for_each_range(
    kind: Kind,
    offset: u32,
    payload: &[u8],
    size: u64,
    mut f: impl FnMut(usize, &[u8]),
) -> Option<()> {
    let inside = |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= size);
    match kind {
        Kind::Patch => {
            inside(u64::from(offset), payload.len() as u64).then_some(())?;
            f(offset as usize, payload);
        }
        Kind::Ranges => {
            let mut rest = payload;
            let count = take_u32(&mut rest)? as usize;
            take_u32(&mut rest)?;
            let mut table = take(&mut rest, count.checked_mul(8)?)?;
            while !table.is_empty() {
                let at = take_u32(&mut table)?;
                let len = take_u32(&mut table)?;
                let bytes = take(&mut rest, len as usize)?;
                inside(u64::from(at), u64::from(len)).then_some(())?;
                f(at as usize, bytes);
            }
            rest.is_empty().then_some(())?;
        }
        Kind::Masked => {
            let mut rest = payload;
            let len = take_u32(&mut rest)? as usize;
            take_u32(&mut rest)?;
            let mask = take(&mut rest, len.div_ceil(8))?;
            if rest.len() != len {
                return None;
            }
            inside(u64::from(offset), len as u64).then_some(())?;
            let set = |i: usize| mask[i / 8] >> (i % 8) & 1 == 1;
            let mut i = 0;
            while i < len {
                if !set(i) {
                    i += 1;
                    continue;
                }
                let start = i;
                while i < len && set(i) {
                    i += 1;
                }
                f(offset as usize + start, &rest[start..i]);
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(kind: Kind, offset: u32, payload: &[u8], size: u64) -> Option<Vec<(usize, Vec<u8>)>> {
        let mut out = Vec::new();
        for_each_range(kind, offset, payload, size, |at, b| {
            out.push((at, b.to_vec()))
        })?;
        Some(out)
    }

    #[test]
    fn a_malformed_payload_is_refused_whatever_it_says() {
        assert_eq!(ranges(Kind::Patch, 10, &[1, 2], 11), None);
        assert_eq!(ranges(Kind::Patch, u32::MAX, &[1, 2], 1 << 30), None);
        assert_eq!(ranges(Kind::Ranges, 0, &u32::MAX.to_le_bytes(), 100), None);
        let mut p = vec![];
        for v in [1u32, 0, 4, 9] {
            p.extend(v.to_le_bytes());
        }
        assert_eq!(ranges(Kind::Ranges, 0, &p, 100), None);
        p.extend([7; 9]);
        assert_eq!(ranges(Kind::Ranges, 0, &p, 13), Some(vec![(4, vec![7; 9])]));
        assert_eq!(ranges(Kind::Ranges, 0, &p, 12), None);
        assert_eq!(
            ranges(Kind::Masked, 0, &[9, 0, 0, 0, 0, 0, 0, 0, 1], 100),
            None
        );
    }

    #[test]
    fn a_mask_yields_its_runs() {
        let mut p = vec![];
        p.extend(5u32.to_le_bytes());
        p.extend(0u32.to_le_bytes());
        p.push(0b10110);
        p.extend([10, 11, 12, 13, 14]);
        assert_eq!(
            ranges(Kind::Masked, 3, &p, 8),
            Some(vec![(4, vec![11, 12]), (7, vec![14])])
        );
    }
}
