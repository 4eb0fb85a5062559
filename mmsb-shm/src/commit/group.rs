//! Batches and transactions: several deltas, one claim, one publication.
//!
//! All pages are locked in index order **before** the claim (PROTOCOL A4), so LSN order is epoch order on every page.
//! In a transaction every page is odd before the first one changes, so that no cut of several pages holds half of it.

use super::{Entered, GroupRecord, NoUnwind, apply};
use crate::copy;
use crate::error::PageError;
use crate::layout::ring::{Kind, RecordFlags, RecordHead, slots_for};
use crate::page::{PageRef, PageVersion, cell_current, owner, seqlock};
use crate::participant::{Locked, Participant};
use crate::ring::record::{self, Parts};
use crate::sync::Ordering;
use crate::testing::step;

/// One delta of a group.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Change<'a> {
    /// Overwrite one range.
    Patch {
        /// The page.
        page: &'a PageRef,
        /// First byte.
        offset: u32,
        /// New bytes.
        bytes: &'a [u8],
    },
    /// Overwrite several ranges, ascending and disjoint: one delta, one epoch.
    Ranges {
        /// The page.
        page: &'a PageRef,
        /// `(offset, length)` of each range.
        ranges: &'a [(u32, u32)],
        /// The bytes of all ranges, one behind the other.
        bytes: &'a [u8],
    },
    /// Overwrite the bytes whose mask byte is not 0.
    Masked {
        /// The page.
        page: &'a PageRef,
        /// First byte.
        offset: u32,
        /// One byte per payload byte.
        mask: &'a [u8],
        /// New bytes.
        bytes: &'a [u8],
    },
    /// A mark in the order of the bus; changes nothing.
    Mark {
        /// Whatever the user wants to find there.
        bytes: &'a [u8],
    },
}

impl<'a> Change<'a> {
    fn page(&self) -> Option<&'a PageRef> {
        match *self {
            Change::Patch { page, .. }
            | Change::Ranges { page, .. }
            | Change::Masked { page, .. } => Some(page),
            Change::Mark { .. } => None,
        }
    }

    fn check(&self) -> Result<(), PageError> {
        match *self {
            Change::Patch {
                page,
                offset,
                bytes,
            } => page.check_range(offset.into(), bytes.len() as u64),
            Change::Ranges {
                page,
                ranges,
                bytes,
            } => {
                let mut end = 0u64;
                let mut total = 0u64;
                for (i, (offset, len)) in ranges.iter().enumerate() {
                    let (offset, len) = (u64::from(*offset), u64::from(*len));
                    if offset < end {
                        return Err(PageError::Overlap { index: i, offset });
                    }
                    page.check_range(offset, len)?;
                    end = offset + len;
                    total += len;
                }
                if total != bytes.len() as u64 {
                    return Err(PageError::MaskLength {
                        mask: total as usize,
                        payload: bytes.len(),
                    });
                }
                Ok(())
            }
            Change::Masked {
                page,
                offset,
                mask,
                bytes,
            } => {
                if mask.len() != bytes.len() {
                    return Err(PageError::MaskLength {
                        mask: mask.len(),
                        payload: bytes.len(),
                    });
                }
                page.check_range(offset.into(), bytes.len() as u64)
            }
            Change::Mark { .. } => Ok(()),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Change::Patch { .. } => Kind::Patch,
            Change::Ranges { .. } => Kind::Ranges,
            Change::Masked { .. } => Kind::Masked,
            Change::Mark { .. } => Kind::Mark,
        }
    }

    fn offset(&self) -> u32 {
        match *self {
            Change::Patch { offset, .. } | Change::Masked { offset, .. } => offset,
            Change::Ranges { ranges, .. } => ranges.first().map_or(0, |r| r.0),
            Change::Mark { .. } => 0,
        }
    }

    /// Appends the payload as the record holds it.
    fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Change::Patch { bytes, .. } | Change::Mark { bytes } => out.extend_from_slice(bytes),
            Change::Ranges { ranges, bytes, .. } => {
                out.extend((ranges.len() as u32).to_le_bytes());
                out.extend(0u32.to_le_bytes());
                for (offset, len) in ranges {
                    out.extend(offset.to_le_bytes());
                    out.extend(len.to_le_bytes());
                }
                out.extend_from_slice(bytes);
            }
            Change::Masked { mask, bytes, .. } => {
                out.extend((bytes.len() as u32).to_le_bytes());
                out.extend(0u32.to_le_bytes());
                for chunk in mask.chunks(8) {
                    out.push(
                        chunk
                            .iter()
                            .enumerate()
                            .fold(0, |b, (i, m)| b | u8::from(*m != 0) << i),
                    );
                }
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// How a group is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// LSN of the delta that led to this one; 0: outside input.
    pub cause: u64,
    /// All or nothing for readers of several pages too, not only in the log.
    pub transaction: bool,
}

/// Where a group stands in the order of the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// LSN of its first delta.
    pub first: u64,
    /// LSN of its last delta; 0: the group was empty.
    pub last: u64,
    /// LSN of whatever comes next.
    pub end: u64,
}

/// Owner words held by this participant; gives them back when dropped.
pub(crate) struct LockedPages<'p> {
    by: &'p Participant,
    indices: Vec<u32>,
}

impl Drop for LockedPages<'_> {
    fn drop(&mut self) {
        if self.by.is_stranded() {
            return;
        }
        for index in &self.indices {
            self.by.unlock_word(self.by.owner_word(*index), *index);
            step("group.unlocked_one");
        }
    }
}

struct Encoded {
    lsn_offset: u64,
    start: usize,
    len: usize,
    flags: u8,
    new_block: u64,
    old_block: u64,
}

/// A batch of plain patches of one page: the quickest group.
struct Run<'a> {
    page: &'a PageRef,
    changes: &'a [Change<'a>],
    slots: u64,
    bytes: u64,
}

impl<'a> Run<'a> {
    /// `None`: some other group.
    ///
    /// # Errors
    /// [`PageError::OutOfRange`].
    #[inline]
    fn of(changes: &'a [Change<'a>], options: &Options) -> Result<Option<Run<'a>>, PageError> {
        let Some(Change::Patch { page, .. }) = changes.first() else {
            return Ok(None);
        };
        if options.transaction || options.cause != 0 {
            return Ok(None);
        }
        let (mut slots, mut bytes) = (0, 0);
        for change in changes {
            match *change {
                Change::Patch {
                    page: p,
                    offset,
                    bytes: b,
                } if core::ptr::eq(p, *page) => {
                    page.check_range(offset.into(), b.len() as u64)?;
                    slots += slots_for(b.len());
                    bytes += b.len() as u64;
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(Run {
            page,
            changes,
            slots,
            bytes,
        }))
    }
}

impl Participant {
    /// Commits a run under one owner word, one claim and one odd phase.
    fn commit_run(&self, run: &Run<'_>) -> Result<Receipt, PageError> {
        let ring = self.ring();
        let max = ring.record_slots_max();
        if run.slots > max {
            return Err(PageError::DeltaTooLarge {
                slots: run.slots,
                max,
            });
        }
        self.core.pages.check_own(run.page)?;
        let index = run.page.id().index;
        let word = self.owner_word(index);
        loop {
            let entered = self.enter(index, word)?;
            step("group.locked");
            // The entry may have changed before we became the owner (C2).
            let attempt = match self.core.pages.ensure_fresh(run.page) {
                Err(e) => Err(e),
                Ok(()) if run.page.is_loaned() => {
                    self.commit_locked(run.changes, &Options::default())
                }
                Ok(()) => self.commit_run_locked(run),
            };
            if !self.is_stranded() {
                self.leave_page(index, word, entered);
            }
            match attempt? {
                Attempt::Done(receipt, bytes) => {
                    self.finish(run.changes.len() as u64, bytes);
                    self.ring_bell(crate::doorbell::bit(index));
                    return Ok(receipt);
                }
                Attempt::Full(slots) => self.wait_for_room(slots)?,
            }
        }
    }

    #[inline(always)]
    fn commit_run_locked(&self, run: &Run<'_>) -> Result<Attempt, PageError> {
        let ring = self.ring();
        let mut head = RecordHead {
            index: run.page.id().index,
            generation: run.page.id().generation,
            offset: 0,
            body: 0,
            kind: Kind::Patch as u8,
            flags: 0,
            source: self.source(),
            time: self.record_time(),
        };
        let Some(first) = self.claim(run.slots as u32)? else {
            return Ok(Attempt::Full(run.slots));
        };
        let bomb = NoUnwind;
        let (mut lsn, mut last) = (first, first);
        for change in run.changes {
            if let Change::Patch { offset, bytes, .. } = *change {
                head.offset = offset;
                head.body = bytes.len() as u32;
                record::write(&ring, lsn, &head, bytes, self.me, lsn != first);
                last = lsn;
                lsn += slots_for(bytes.len());
            }
        }
        self.publish(first, run.slots as u32);
        let patches = run.changes.iter().filter_map(|c| match *c {
            Change::Patch {
                page,
                offset,
                bytes,
            } => Some((page, offset, bytes)),
            _ => None,
        });
        self.apply_run(patches, run.changes.len() as u64, last);
        core::mem::forget(bomb);
        Ok(Attempt::Done(
            Receipt {
                first,
                last,
                end: first + run.slots,
            },
            run.bytes,
        ))
    }

    /// Locks pages, given in ascending order, each once.
    pub(crate) fn lock_pages(&self, indices: &[u32]) -> Result<LockedPages<'_>, PageError> {
        self.yield_leases();
        let mut locked = LockedPages {
            by: self,
            indices: Vec::with_capacity(indices.len()),
        };
        for index in indices {
            self.lock_word(self.owner_word(*index), *index, Locked::Page(*index))?;
            locked.indices.push(*index);
            step("group.locked_one");
        }
        Ok(locked)
    }

    /// Commits several deltas as one group: one place in the order, all or nothing. Each delta raises its page's epoch
    /// by one. With [`Options::transaction`], readers of several pages see all of it or nothing.
    ///
    /// # Errors
    /// As [`Participant::patch`]; [`PageError::DeltaTooLarge`] if the group does not fit the ring. Nothing was changed
    /// then.
    pub fn commit(&self, changes: &[Change<'_>], options: &Options) -> Result<Receipt, PageError> {
        // Nothing is expected, so nothing can differ.
        self.commit_if(changes, options, &[])
            .map(Option::unwrap_or_default)
    }

    /// As [`Participant::commit`], if every page in `expected` still has the epoch given with it: looked at under the
    /// locks of all pages, those that are only expected too. `None`: one differs, and nothing was changed.
    ///
    /// # Errors
    /// As [`Participant::commit`].
    pub fn commit_if(
        &self,
        changes: &[Change<'_>],
        options: &Options,
        expected: &[(&PageRef, PageVersion)],
    ) -> Result<Option<Receipt>, PageError> {
        self.check_fork()?;
        if changes.is_empty() && expected.is_empty() {
            return Ok(Some(Receipt::default()));
        }
        if expected.is_empty()
            && let Some(run) = Run::of(changes, options)?
        {
            return self.commit_run(&run).map(Some);
        }
        for change in changes {
            change.check()?;
        }
        // Ahead of the locks: an owner word of this bus is no business of another bus's page.
        for page in changes.iter().filter_map(Change::page) {
            self.core.pages.check_own(page)?;
        }
        for (page, _) in expected {
            self.core.pages.check_own(page)?;
        }
        let mut indices: Vec<u32> = changes
            .iter()
            .filter_map(|c| c.page().map(|p| p.id().index))
            .chain(expected.iter().map(|(p, _)| p.id().index))
            .collect();
        if !indices.is_sorted() {
            indices.sort_unstable();
        }
        indices.dedup();
        loop {
            let single = match indices.as_slice() {
                [index] => Some((*index, self.enter(*index, self.owner_word(*index))?)),
                _ => None,
            };
            let locked = if single.is_none() {
                Some(self.lock_pages(&indices)?)
            } else {
                None
            };
            step("group.locked");
            // Nobody writes to the pages now, and who died in one was recovered before its lock was ours.
            let differs = expected.iter().try_fold(false, |differs, (page, version)| {
                Ok(differs || self.core.pages.version(page)?.epoch != version.epoch)
            });
            let result = match differs {
                Ok(false) if !changes.is_empty() => self.commit_locked(changes, options).map(Some),
                Ok(false) => Ok(Some(Attempt::Done(Receipt::default(), 0))),
                Ok(true) => Ok(None),
                Err(e) => Err(e),
            };
            if let Some((index, entered)) = single {
                self.leave_unless_stranded(index, entered);
            }
            drop(locked);
            let Some(attempt) = result? else {
                return Ok(None);
            };
            match attempt {
                Attempt::Done(receipt, bytes) => {
                    self.finish(changes.len() as u64, bytes);
                    let mask = if changes.iter().any(|c| c.page().is_none()) {
                        u32::MAX
                    } else {
                        indices.iter().fold(0, |m, i| m | crate::doorbell::bit(*i))
                    };
                    self.ring_bell(mask);
                    return Ok(Some(receipt));
                }
                Attempt::Full(slots) => self.wait_for_room(slots)?,
            }
        }
    }

    fn commit_locked(
        &self,
        changes: &[Change<'_>],
        options: &Options,
    ) -> Result<Attempt, PageError> {
        let pages = &self.core.pages;
        for page in changes.iter().filter_map(Change::page) {
            // The entry may have changed before we became the owner (C2).
            pages.ensure_fresh(page)?;
        }
        let plain = |c: &Change<'_>| matches!(c, Change::Patch { page, .. } if !page.is_loaned());
        if !options.transaction && options.cause == 0 && changes.iter().all(plain) {
            return self.commit_patches(changes);
        }
        let transaction = if options.transaction {
            RecordFlags::TRANSACTION
        } else {
            0
        };
        let cause = if options.cause != 0 {
            RecordFlags::CAUSE
        } else {
            0
        };
        // Pages whose content is an immutable loaned block go on in a fresh one, prepared with all their deltas.
        let mut fresh = Vec::new();
        for page in changes.iter().filter_map(Change::page) {
            if page.is_loaned()
                && !fresh
                    .iter()
                    .any(|(p, _): &(&PageRef, _)| p.id() == page.id())
            {
                match self.copy_for_write(page, changes) {
                    Ok(held) => fresh.push((page, held)),
                    Err(e) => {
                        for (_, held) in &fresh {
                            self.give_back(held)?;
                        }
                        return Err(e);
                    }
                }
            }
        }
        let give_back = |fresh: &[(&PageRef, crate::arena::Held<'_>)]| -> Result<(), PageError> {
            fresh.iter().try_for_each(|(_, held)| self.give_back(held))
        };
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        let mut encoded: Vec<Encoded> = Vec::with_capacity(changes.len());
        let mut slots = 0u64;
        for change in changes {
            let swap = change
                .page()
                .and_then(|p| fresh.iter().find(|(f, _)| f.id() == p.id()));
            let mut e = Encoded {
                lsn_offset: slots,
                start: scratch.len(),
                len: 0,
                flags: transaction | cause,
                new_block: 0,
                old_block: 0,
            };
            if cause != 0 {
                scratch.extend(options.cause.to_le_bytes());
            }
            if let Some((page, held)) = swap {
                e.flags |= RecordFlags::BLOCK;
                e.new_block = held.block.at.bits();
                e.old_block = page.entry().block().bits();
                scratch.extend(e.new_block.to_le_bytes());
                scratch.extend(e.old_block.to_le_bytes());
            }
            change.encode(&mut scratch);
            e.len = scratch.len() - e.start;
            slots += slots_for(e.len);
            encoded.push(e);
        }
        let ring = self.ring();
        let max = ring.record_slots_max();
        if slots > max {
            give_back(&fresh)?;
            return Err(PageError::DeltaTooLarge { slots, max });
        }
        let first = match self.claim(slots as u32) {
            Ok(Some(lsn)) => lsn,
            Ok(None) => {
                give_back(&fresh)?;
                return Ok(Attempt::Full(slots));
            }
            Err(e) => {
                give_back(&fresh)?;
                return Err(e);
            }
        };
        let bomb = NoUnwind;
        let time = self.record_time();
        let source = self.source();
        let head_of = |change: &Change<'_>, e: &Encoded| RecordHead {
            index: change.page().map_or(0, |p| p.id().index),
            generation: change.page().map_or(0, |p| p.id().generation),
            offset: change.offset(),
            body: e.len as u32,
            kind: change.kind() as u8,
            flags: e.flags,
            source,
            time,
        };
        for (i, (change, e)) in changes.iter().zip(&encoded).enumerate() {
            let body = &scratch[e.start..e.start + e.len];
            record::write(
                &ring,
                first + e.lsn_offset,
                &head_of(change, e),
                body,
                self.me,
                i > 0,
            );
        }
        for (page, held) in &fresh {
            let of_page = |c: &Change<'_>| c.page().is_some_and(|p| p.id() == page.id());
            let k = changes.iter().filter(|c| of_page(c)).count() as u64;
            let last = changes
                .iter()
                .zip(&encoded)
                .rev()
                .find(|(c, _)| of_page(c))
                .map_or(0, |(_, e)| e.lsn_offset);
            let even = page.block().header.seq.load(Ordering::Relaxed) & !1;
            // Relaxed: published with the directory entry (M1).
            held.block.header.lsn.store(first + last, Ordering::Relaxed);
            held.block
                .header
                .seq
                .store(even.wrapping_add(k << 1), Ordering::Relaxed);
        }
        self.publish(first, slots as u32);
        {
            let records: Vec<GroupRecord<'_>> = changes
                .iter()
                .zip(&encoded)
                .map(|(change, e)| {
                    let head = head_of(change, e);
                    let skip = usize::from(cause != 0) * 8
                        + usize::from(e.flags & RecordFlags::BLOCK != 0) * 16;
                    GroupRecord {
                        lsn: first + e.lsn_offset,
                        head,
                        kind: change.kind(),
                        parts: Parts {
                            cause: options.cause,
                            new_block: e.new_block,
                            old_block: e.old_block,
                            payload: &scratch[e.start + skip..e.start + e.len],
                        },
                    }
                })
                .collect();
            let applied = apply::apply_group(&self.core, &records, |_| true);
            if let Err(corrupt) = applied {
                core::mem::forget(bomb);
                return Err(self.strand(corrupt));
            }
        }
        for (page, held) in &fresh {
            let class = self.core.class_of(page.entry().block());
            self.published(held);
            if let Some(class) = class {
                self.retire(page.entry().block(), class, page.id());
            }
        }
        let last = encoded.last().map_or(0, |e| e.lsn_offset);
        let bytes = encoded.iter().map(|e| e.len as u64).sum();
        core::mem::forget(bomb);
        Ok(Attempt::Done(
            Receipt {
                first,
                last: first + last,
                end: first + slots,
            },
            bytes,
        ))
    }

    /// The quick way through a batch of plain patches of pages that are patched in place: records straight from the
    /// caller's bytes, and runs of changes to one page under one odd phase.
    fn commit_patches<'a>(&self, changes: &[Change<'a>]) -> Result<Attempt, PageError> {
        let ring = self.ring();
        let parts = |c: &Change<'a>| match *c {
            Change::Patch {
                page,
                offset,
                bytes,
            } => Some((page, offset, bytes)),
            _ => None,
        };
        let slots: u64 = changes
            .iter()
            .filter_map(parts)
            .map(|(_, _, bytes)| slots_for(bytes.len()))
            .sum();
        let max = ring.record_slots_max();
        if slots > max {
            return Err(PageError::DeltaTooLarge { slots, max });
        }
        let time = self.record_time();
        let source = self.source();
        let Some(first) = self.claim(slots as u32)? else {
            return Ok(Attempt::Full(slots));
        };
        let bomb = NoUnwind;
        let mut lsn = first;
        let mut last = first;
        let mut total = 0u64;
        for (page, offset, bytes) in changes.iter().filter_map(parts) {
            let head = RecordHead {
                index: page.id().index,
                generation: page.id().generation,
                offset,
                body: bytes.len() as u32,
                kind: Kind::Patch as u8,
                flags: 0,
                source,
                time,
            };
            record::write(&ring, lsn, &head, bytes, self.me, lsn != first);
            last = lsn;
            total += bytes.len() as u64;
            lsn += slots_for(bytes.len());
        }
        self.publish(first, slots as u32);
        let index = |c: &Change<'_>| c.page().map_or(0, |p| p.id().index);
        if changes.is_sorted_by_key(index) {
            let mut lsn = first;
            for run in changes.chunk_by(|a, b| index(a) == index(b)) {
                let (sizes, tail) = run
                    .iter()
                    .filter_map(parts)
                    .fold((0, 0), |(sum, _), (_, _, b)| {
                        (sum + slots_for(b.len()), slots_for(b.len()))
                    });
                self.apply_run(
                    run.iter().filter_map(parts),
                    run.len() as u64,
                    lsn + sizes - tail,
                );
                lsn += sizes;
            }
        } else {
            let mut at = first;
            let mut order: Vec<(u32, u64, &Change<'_>)> = Vec::with_capacity(changes.len());
            for change in changes {
                order.push((index(change), at, change));
                at += parts(change).map_or(0, |(_, _, b)| slots_for(b.len()));
            }
            // Stable: deltas of one page stay in order.
            order.sort_by_key(|(index, ..)| *index);
            for run in order.chunk_by(|a, b| a.0 == b.0) {
                self.apply_run(
                    run.iter().filter_map(|(_, _, c)| parts(c)),
                    run.len() as u64,
                    run[run.len() - 1].1,
                );
            }
        }
        core::mem::forget(bomb);
        Ok(Attempt::Done(
            Receipt {
                first,
                last,
                end: first + slots,
            },
            total,
        ))
    }

    /// Applies `count` patches of one page, the last of which has LSN `last`.
    #[inline(always)]
    fn apply_run<'a>(
        &self,
        mut run: impl Iterator<Item = (&'a PageRef, u32, &'a [u8])>,
        count: u64,
        last: u64,
    ) {
        let Some(one) = run.next() else { return };
        let page = one.0;
        let block = page.block();
        let write = |payload: *mut u8| {
            let (_, mut offset, mut bytes) = one;
            let put = |offset: u32, bytes: &[u8]| {
                // SAFETY: checked against the page's size by `Change::check` or `Run::of`; the block holds that many
                // bytes and we own the page.
                unsafe { copy::store(payload.add(offset as usize), bytes.as_ptr(), bytes.len()) };
            };
            for (_, next, new) in run {
                // Nobody sees the page between two deltas of one odd phase, so what the next one overwrites whole need
                // not be stored. The records hold all of them.
                let covered = next <= offset
                    && u64::from(offset) + bytes.len() as u64 <= u64::from(next) + new.len() as u64;
                if !covered {
                    put(offset, bytes);
                }
                (offset, bytes) = (next, new);
            }
            put(offset, bytes);
        };
        if page.versions() > 1 {
            self.publish_version(page, last, count, write, false);
            return;
        }
        let even = seqlock::write_begin(&block.header.seq);
        step("group.odd");
        write(block.payload);
        step("group.copied");
        // Relaxed: inside the odd phase.
        block.header.lsn.store(last, Ordering::Relaxed);
        step("group.lsn");
        seqlock::write_end(&block.header.seq, even, count);
        step("group.even");
    }

    /// A fresh block with the page's content and all of its deltas in `changes`. The caller owns the page.
    fn copy_for_write(
        &self,
        page: &PageRef,
        changes: &[Change<'_>],
    ) -> Result<crate::arena::Held<'_>, PageError> {
        let held = self.allocate(page.size() as u64, Some(page.id()))?;
        let block = page.block();
        // SAFETY: both blocks hold `size` bytes and are different; the source is immutable, the target ours.
        unsafe { copy::move_shared(held.block.payload, block.payload, page.size()) };
        let mut payload = Vec::new();
        for change in changes
            .iter()
            .filter(|c| c.page().is_some_and(|p| p.id() == page.id()))
        {
            payload.clear();
            change.encode(&mut payload);
            record::for_each_range(
                change.kind(),
                change.offset(),
                &payload,
                page.size() as u64,
                |at, bytes| {
                    // SAFETY: inside `size`, checked by `for_each_range`.
                    unsafe { copy::store(held.block.payload.add(at), bytes.as_ptr(), bytes.len()) };
                },
            );
        }
        // Relaxed: published with the directory entry.
        held.block
            .header
            .size
            .store(page.size() as u32, Ordering::Relaxed);
        held.block
            .header
            .shape
            .store(held.class | 1 << 8, Ordering::Relaxed);
        step("group.prepared");
        Ok(held)
    }

    /// Commits a prepared record of any kind under locks that the caller holds. `None`: the ring is full.
    pub(crate) fn commit_record(
        &self,
        id: crate::PageId,
        kind: Kind,
        flags: u8,
        body: &[u8],
        before_ready: impl FnOnce(u64),
    ) -> Result<Option<u64>, PageError> {
        let ring = self.ring();
        let slots = slots_for(body.len());
        let max = ring.record_slots_max();
        if slots > max {
            return Err(PageError::DeltaTooLarge { slots, max });
        }
        let Some(lsn) = self.claim(slots as u32)? else {
            return Ok(None);
        };
        let bomb = NoUnwind;
        let head = RecordHead {
            index: id.index,
            generation: id.generation,
            offset: 0,
            body: body.len() as u32,
            kind: kind as u8,
            flags,
            source: self.source(),
            time: self.record_time(),
        };
        record::write(&ring, lsn, &head, body, self.me, false);
        before_ready(lsn);
        self.publish(lsn, slots as u32);
        if let Some(parts) = record::parts(&head, body) {
            let applied = apply::apply_group(
                &self.core,
                &[GroupRecord {
                    lsn,
                    head,
                    kind,
                    parts,
                }],
                |_| true,
            );
            if let Err(corrupt) = applied {
                core::mem::forget(bomb);
                return Err(self.strand(corrupt));
            }
        }
        core::mem::forget(bomb);
        Ok(Some(lsn))
    }

    /// A new state computed from the old one: `f` gets a copy of the page and changes it; the ranges that differ are
    /// committed as one sparse delta. The page is owned meanwhile, so nothing comes in between. If `f` panics or the
    /// page did not change, nothing is committed (`None`). `f` runs again when the ring was full and the page had to be
    /// let go.
    pub fn update<R>(
        &self,
        page: &PageRef,
        cause: u64,
        mut f: impl FnMut(&mut [u8]) -> R,
    ) -> Result<(R, Option<Receipt>), PageError> {
        self.check_fork()?;
        self.core.pages.check_own(page)?;
        let index = page.id().index;
        loop {
            let locked = self.lock_pages(&[index])?;
            self.core.pages.ensure_fresh(page)?;
            let mut old = vec![0u8; page.size()];
            let block = page.block();
            let source = if page.versions() > 1 {
                cell_current(&block, page.size() as u32, page.versions(), 0).3
            } else {
                block.payload
            };
            // SAFETY: the page's bytes lie in its checked block; we own it, so nobody writes.
            unsafe {
                self.core
                    .pages
                    .copy_out(old.as_mut_ptr(), source, page.size())?
            };
            let mut new = old.clone();
            let result = f(&mut new);
            let mut ranges = Vec::new();
            crate::diff::changed_ranges(&old, &new, 8, &mut ranges);
            let bytes: Vec<u8>;
            let change = match ranges.as_slice() {
                [] => return Ok((result, None)),
                [(offset, len)] => {
                    let at = *offset as usize;
                    Change::Patch {
                        page,
                        offset: *offset,
                        bytes: &new[at..at + *len as usize],
                    }
                }
                _ => {
                    bytes = ranges
                        .iter()
                        .flat_map(|(o, l)| &new[*o as usize..(*o + *l) as usize])
                        .copied()
                        .collect();
                    Change::Ranges {
                        page,
                        ranges: &ranges,
                        bytes: &bytes,
                    }
                }
            };
            let attempt = match self.commit_locked(
                &[change],
                &Options {
                    cause,
                    transaction: false,
                },
            ) {
                Err(PageError::DeltaTooLarge { .. }) if page.versions() == 1 => self
                    .prepare_block(page, 0, &new)
                    .and_then(|held| self.publish_block(page, held, cause)),
                other => other,
            };
            drop(locked);
            match attempt? {
                Attempt::Done(receipt, bytes) => {
                    self.finish(1, bytes);
                    self.ring_bell(crate::doorbell::bit(index));
                    return Ok((result, Some(receipt)));
                }
                Attempt::Full(slots) => self.wait_for_room(slots)?,
            }
        }
    }
}

/// Outcome of a commit under locks.
pub(crate) enum Attempt {
    Done(Receipt, u64),
    Full(u64),
}

const _: () = {
    // `Entered` has no other ways in; `commit` must give back what `enter` took.
    assert!(core::mem::size_of::<Entered>() == 1 && owner::REQUEST != owner::LEASE);
};
