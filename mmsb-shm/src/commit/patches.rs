//! The quick ways through a batch of plain patches of pages that are patched in place: records straight from the caller's
//! bytes, and the changes to one page under one odd phase.

use super::{Attempt, Change, NoUnwind, Options, Receipt};
use crate::copy;
use crate::error::PageError;
use crate::layout::ring::{Kind, RecordHead, slots_for};
use crate::page::{PageRef, seqlock};
use crate::participant::Participant;
use crate::ring::record;
use crate::sync::Ordering;
use crate::testing::step;

/// A batch of plain patches of one page: the quickest group.
pub(super) struct Run<'a> {
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
    pub(super) fn of(
        changes: &'a [Change<'a>],
        options: &Options,
    ) -> Result<Option<Run<'a>>, PageError> {
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
    pub(super) fn commit_run(&self, run: &Run<'_>) -> Result<Receipt, PageError> {
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
            self.leave_unless_stranded(index, entered);
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

    /// The quick way through a batch of plain patches of pages that are patched in place: records straight from the
    /// caller's bytes, and runs of changes to one page under one odd phase.
    pub(super) fn commit_patches<'a>(&self, changes: &[Change<'a>]) -> Result<Attempt, PageError> {
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
}
