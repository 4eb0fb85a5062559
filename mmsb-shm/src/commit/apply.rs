//! Applying records to pages. The same code runs in a live commit and in recovery, and applying twice is applying once:
//! a record is a post-image, and every step asks first whether it was done.

use super::next_version;
use crate::blocks;
use crate::copy;
use crate::error::Corrupt;
use crate::layout::page::{
    BLOCK_HEADER, BlockRef, BlockState, DirectoryEntry, SHAPE_LOANED, VERSIONS_MAX, block_payload,
};
use crate::layout::ring::{Kind, RecordFlags, RecordHead};
use crate::names;
use crate::page::{cell, cell_current, seqlock};
use crate::ring::record::{self, Parts};
use crate::segment::{Block, Core};
use crate::sync::Ordering;
use crate::testing::step;

/// One record of a group, taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupRecord<'a> {
    pub(crate) lsn: u64,
    pub(crate) head: RecordHead,
    pub(crate) kind: Kind,
    pub(crate) parts: Parts<'a>,
}

/// What recovery found when it applied a group again, for its counters.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Applied {
    /// Pages that were not begun.
    pub(crate) fresh: u32,
    /// Pages left odd.
    pub(crate) odd: u32,
}

/// Fills the next version slot of a cell and makes it current.
#[inline(always)]
pub(crate) fn publish_version(
    block: &Block<'_>,
    size: u32,
    versions: u32,
    lsn: u64,
    deltas: u64,
    change: impl FnOnce(*mut u8),
    whole: bool,
) {
    let (cell_header, head, current, from) = cell_current(block, size, versions, 0);
    let (_, _, next, to) = next_version(block, size, versions);
    cell::begin_fill();
    if !whole {
        // SAFETY: both are version slots of `size` bytes of one checked block, and different ones (K ≥ 4).
        unsafe { copy::move_shared(to, from, size as usize) };
    }
    change(to);
    step("cell.filled");
    // Relaxed: only the owner writes them; published by `head`.
    let epoch = current.epoch.load(Ordering::Relaxed).wrapping_add(deltas);
    next.lsn.store(lsn, Ordering::Relaxed);
    next.epoch.store(epoch, Ordering::Relaxed);
    step("cell.described");
    cell::publish(&cell_header.head, head);
    step("cell.published");
    finish_version(block, lsn, epoch);
}

/// Header words of a cell, for cuts and reports.
#[inline(always)]
fn finish_version(block: &Block<'_>, lsn: u64, epoch: u64) {
    block.header.lsn.store(lsn, Ordering::Relaxed);
    // Release: as any end of a change.
    block.header.seq.store(epoch << 1, Ordering::Release);
}

/// Applies the payload records `records` (all of one page, in order) to the page's block.
///
/// Every range was checked by the caller against `size`, which the block holds.
pub(crate) fn apply_payload(
    block: &Block<'_>,
    size: u32,
    versions: u32,
    records: &[GroupRecord<'_>],
) -> Result<Applied, Corrupt> {
    let Some(last) = records.last() else {
        return Ok(Applied::default());
    };
    let k = records.len() as u64;
    for r in records {
        record::for_each_range(
            r.kind,
            r.head.offset,
            r.parts.payload,
            size.into(),
            |_, _| {},
        )
        .ok_or(Corrupt {
            what: "range of a record",
            offset: r.lsn,
        })?;
    }
    let write = |payload: *mut u8| {
        for r in records {
            record::for_each_range(
                r.kind,
                r.head.offset,
                r.parts.payload,
                size.into(),
                |at, bytes| {
                    // SAFETY: at + len ≤ size was checked by `for_each_range`, and `payload` holds `size` bytes.
                    unsafe { copy::store(payload.add(at), bytes.as_ptr(), bytes.len()) };
                },
            );
        }
    };
    // Acquire: whoever repairs must see what the dead wrote.
    let seq = block.header.seq.load(Ordering::Acquire);
    let mut applied = Applied::default();
    if versions > 1 {
        let (_, _, current, _) = cell_current(block, size, versions, 0);
        if current.lsn.load(Ordering::Relaxed) >= last.lsn {
            finish_version(
                block,
                current.lsn.load(Ordering::Relaxed),
                current.epoch.load(Ordering::Relaxed),
            );
        } else {
            applied.fresh = 1;
            publish_version(block, size, versions, last.lsn, k, write, false);
        }
        applied.odd = u32::from(seq & 1 == 1);
        return Ok(applied);
    }
    if block.header.lsn.load(Ordering::Relaxed) >= last.lsn {
        if seq & 1 == 1 {
            // Died between the page's lsn and the even store: the bytes are whole.
            applied.odd = 1;
            seqlock::write_end(&block.header.seq, seq & !1, k);
        }
        return Ok(applied);
    }
    if seq & 1 == 1 {
        applied.odd = 1;
    } else {
        applied.fresh = 1;
    }
    let even = seqlock::write_begin(&block.header.seq);
    step("apply.odd");
    write(block.payload);
    step("apply.copied");
    // Relaxed: inside the odd phase.
    block.header.lsn.store(last.lsn, Ordering::Relaxed);
    step("apply.lsn");
    seqlock::write_end(&block.header.seq, even, k);
    Ok(applied)
}

/// The block left its page. Whoever does this owns the page, so the block's lsn does not change meanwhile; a block that
/// is retired already, or has another life by now, stays what it is.
fn retire(block: &Block<'_>, index: u32) {
    let lsn = block.header.lsn.load(Ordering::Relaxed);
    let retired = BlockState::retired(index, lsn);
    blocks::exchange(&block.header.state, BlockState::Live(index), retired);
}

/// Makes `new` the content of the page, whose block was `old`. `new` is whole: its header says epoch, lsn and size.
pub(crate) fn apply_swap(
    core: &Core,
    index: u32,
    generation: u32,
    new: BlockRef,
    old: BlockRef,
) -> Result<bool, Corrupt> {
    let entry = core.pages.entry(index).ok_or(Corrupt {
        what: "page index of a record",
        offset: index.into(),
    })?;
    let now = DirectoryEntry(entry.load(Ordering::Acquire));
    let mut fresh = false;
    if now == DirectoryEntry::new(generation, old) {
        fresh = true;
        core.pages
            .block(new, 0)?
            .header
            .state
            .store(BlockState::Live(index).word(), Ordering::Release);
        step("swap.live");
        // Release (M1): the block is whole for whoever sees the entry.
        entry.store(DirectoryEntry::new(generation, new).0, Ordering::Release);
        step("swap.entry");
    }
    let old_block = core.pages.block(old, 0)?;
    // The page left the block; who reclaims it looks at the hazards behind a fence.
    retire(&old_block, index);
    step("swap.retired");
    Ok(fresh)
}

fn apply_create(core: &Core, r: &GroupRecord<'_>) -> Result<bool, Corrupt> {
    let bad = Corrupt {
        what: "create record",
        offset: r.lsn,
    };
    let (index, generation) = (r.head.index, r.head.generation);
    let mut body = r.parts.payload;
    let size = record::take_u32(&mut body).ok_or(bad)?;
    let shape = record::take_u32(&mut body).ok_or(bad)?;
    let versions = (shape >> 8 & 0xff).max(1);
    let entry = core.pages.entry(index).ok_or(bad)?;
    let (at, cold) = (
        BlockRef::from_bits(r.parts.new_block),
        BlockRef::from_bits(r.parts.old_block),
    );
    let now = DirectoryEntry(entry.load(Ordering::Acquire));
    let mut fresh = false;
    if now.generation() < generation {
        if size == 0 || versions > VERSIONS_MAX {
            return Err(bad);
        }
        fresh = true;
        let block = core.pages.block(at, block_payload(size, versions))?;
        block.header.size.store(size, Ordering::Relaxed);
        block.header.shape.store(shape, Ordering::Relaxed);
        block.header.seq.store(0, Ordering::Relaxed);
        block.header.lsn.store(r.lsn, Ordering::Relaxed);
        if versions > 1 {
            let (_, _, current, _) = cell_current(&block, size, versions, 0);
            current.lsn.store(r.lsn, Ordering::Relaxed);
        }
        step("create.header");
        block
            .header
            .state
            .store(BlockState::Live(index).word(), Ordering::Release);
        step("create.live");
        // Release (M1).
        entry.store(DirectoryEntry::new(generation, at).0, Ordering::Release);
        step("create.entry");
    }
    if !cold.is_none() {
        names::attach_cold(core, index, generation, cold)?;
    }
    Ok(fresh)
}

fn apply_destroy(core: &Core, r: &GroupRecord<'_>) -> Result<bool, Corrupt> {
    let bad = Corrupt {
        what: "destroy record",
        offset: r.lsn,
    };
    let (index, generation) = (r.head.index, r.head.generation);
    let entry = core.pages.entry(index).ok_or(bad)?;
    let (at, cold) = (
        BlockRef::from_bits(r.parts.new_block),
        BlockRef::from_bits(r.parts.old_block),
    );
    let now = DirectoryEntry(entry.load(Ordering::Acquire));
    let fresh = now == DirectoryEntry::new(generation, at);
    if fresh {
        // Release: readers that see the new entry know the page is gone.
        entry.store(
            DirectoryEntry::new(generation, BlockRef::NONE).0,
            Ordering::Release,
        );
        step("destroy.entry");
    }
    if !cold.is_none() {
        names::detach_cold(core, index, generation, cold)?;
        step("destroy.names");
    }
    let block = core.pages.block(at, 0)?;
    if block.header.shape.load(Ordering::Relaxed) & SHAPE_LOANED == 0 {
        // Listed by the caller; after a death, by the sweep that its recovery asks for.
        blocks::exchange(
            &block.header.state,
            BlockState::Live(index),
            BlockState::Free,
        );
        step("arena.freed");
    } else {
        retire(&block, index);
    }
    step("destroy.block");
    Ok(fresh)
}

fn apply_describe(core: &Core, r: &GroupRecord<'_>) -> Result<bool, Corrupt> {
    let (index, generation) = (r.head.index, r.head.generation);
    let (new, old) = (
        BlockRef::from_bits(r.parts.new_block),
        BlockRef::from_bits(r.parts.old_block),
    );
    let mut fresh = false;
    if !new.is_none() {
        fresh = names::attach_cold(core, index, generation, new)?;
        step("describe.attached");
    }
    if !old.is_none() {
        names::detach_cold(core, index, generation, old)?;
        step("describe.detached");
    }
    Ok(fresh)
}

/// Applies the records of one group to those of their pages that `mine` names (live: all that were locked; recovery:
/// those whose owner word is still the dead one's).
pub(crate) fn apply_group(
    core: &Core,
    records: &[GroupRecord<'_>],
    mut mine: impl FnMut(u32) -> bool,
) -> Result<Applied, Corrupt> {
    let mut total = Applied::default();
    if let [r] = records {
        // The commonest group, without the bookkeeping.
        if !mine(r.head.index) {
            return Ok(total);
        }
        if !matches!(r.kind, Kind::Patch | Kind::Ranges | Kind::Masked) {
            total.fresh = u32::from(apply_structural(core, r)?);
            return Ok(total);
        }
    }
    let is_payload = |k: Kind| matches!(k, Kind::Patch | Kind::Ranges | Kind::Masked);
    let mut order: Vec<usize> = (0..records.len())
        .filter(|i| is_payload(records[*i].kind))
        .collect();
    order.sort_by_key(|i| records[*i].head.index);
    let transaction = records
        .first()
        .is_some_and(|r| r.head.flags & RecordFlags::TRANSACTION != 0);
    let mut pages: Vec<(u32, Vec<GroupRecord<'_>>)> = Vec::new();
    for i in order {
        let r = records[i];
        match pages.last_mut() {
            Some((index, list)) if *index == r.head.index => list.push(r),
            _ => pages.push((r.head.index, vec![r])),
        }
    }
    pages.retain(|(index, _)| mine(*index));
    let target = |list: &[GroupRecord<'_>]| -> Result<Option<(Block<'_>, u32, u32)>, Corrupt> {
        let head = &list[0].head;
        let Some(entry) = core.pages.load_entry(head.index) else {
            return Err(Corrupt {
                what: "page index of a record",
                offset: head.index.into(),
            });
        };
        if entry.generation() != head.generation || entry.block().is_none() {
            return Ok(None);
        }
        let block = core.pages.block(entry.block(), 0)?;
        let size = block.header.size.load(Ordering::Relaxed);
        let versions = (block.header.shape.load(Ordering::Relaxed) >> 8 & 0xff).max(1);
        if versions > VERSIONS_MAX || block_payload(size, versions) > block.room {
            return Err(Corrupt {
                what: "page size",
                offset: block.at.offset() - BLOCK_HEADER,
            });
        }
        Ok(Some((block, size, versions)))
    };
    if transaction {
        // Every page odd before the first one changes, so that no cut sees half (pages already done stay done).
        for (_, list) in &pages {
            if let Some((block, ..)) = target(list)? {
                let last = list[list.len() - 1].lsn;
                if block.header.lsn.load(Ordering::Relaxed) < last {
                    seqlock::write_begin(&block.header.seq);
                    step("transaction.odd");
                }
            }
        }
    }
    for (index, list) in &pages {
        // A record with a block pair was prepared in a fresh block, complete with all deltas of the group.
        let applied = if list[0].head.flags & RecordFlags::BLOCK != 0 {
            let p = &list[0].parts;
            let (new, old) = (
                BlockRef::from_bits(p.new_block),
                BlockRef::from_bits(p.old_block),
            );
            let fresh = apply_swap(core, *index, list[0].head.generation, new, old)?;
            Applied {
                fresh: fresh.into(),
                odd: 0,
            }
        } else {
            match target(list)? {
                Some((block, size, versions)) => apply_payload(&block, size, versions, list)?,
                None => Applied::default(),
            }
        };
        total.fresh += applied.fresh;
        total.odd += applied.odd;
        step("group.page");
    }
    for r in records {
        if mine(r.head.index) {
            total.fresh += u32::from(apply_structural(core, r)?);
        }
    }
    Ok(total)
}

/// Applies a record that changes which block, name or page there is.
fn apply_structural(core: &Core, r: &GroupRecord<'_>) -> Result<bool, Corrupt> {
    match r.kind {
        Kind::Swap => {
            let (new, old) = (
                BlockRef::from_bits(r.parts.new_block),
                BlockRef::from_bits(r.parts.old_block),
            );
            apply_swap(core, r.head.index, r.head.generation, new, old)
        }
        Kind::Create => apply_create(core, r),
        Kind::Destroy => apply_destroy(core, r),
        Kind::Describe => apply_describe(core, r),
        _ => Ok(false),
    }
}
