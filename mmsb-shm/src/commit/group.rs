//! Batches and transactions: several deltas, one claim, one publication.
//!
//! All pages are locked in index order **before** the claim (PROTOCOL A4), so LSN order is epoch order on every page.
//! In a transaction every page is odd before the first one changes, so that no cut of several pages holds half of it.

use super::patches::Run;
use super::{Change, Entered, GroupRecord, NoUnwind, Options, Receipt, apply};
use crate::copy;
use crate::error::PageError;
use crate::layout::ring::{Kind, RecordFlags, RecordHead, slots_for};
use crate::page::{PageRef, PageVersion, owner};
use crate::participant::{Locked, Participant};
use crate::ring::record::{self, Parts};
use crate::sync::Ordering;
use crate::testing::step;

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

impl Participant {
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
            let _inside = self.operation();
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
        let _inside = self.operation();
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

    pub(super) fn commit_locked(
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
