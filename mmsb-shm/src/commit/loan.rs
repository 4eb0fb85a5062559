//! Large values without a copy: the writer fills a fresh block and publishes it by swapping the directory entry.
//!
//! A published block is immutable until it is reclaimed, and it is reclaimed once no hazard names it and every gating
//! cursor is past the record that published it (PROTOCOL C3). The cost of publishing does not depend on the size.

use super::{Attempt, Entered, NoUnwind, Options, Receipt};
use crate::arena::Held;
use crate::copy;
use crate::error::PageError;
use crate::layout::page::SHAPE_LOANED;
use crate::layout::ring::{Kind, RecordFlags};
use crate::page::PageRef;
use crate::participant::Participant;
use crate::sync::Ordering;
use crate::testing::step;

/// A block to fill. Its content is zero, or an earlier version of the same page. Dropping it gives it back unpublished.
pub struct Loan<'p> {
    by: &'p Participant,
    page: &'p PageRef,
    held: Option<Held<'p>>,
    len: usize,
}

impl std::fmt::Debug for Loan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loan")
            .field("page", &self.page.id())
            .field("len", &self.len)
            .finish()
    }
}

impl std::ops::Deref for Loan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let at = self
            .held
            .as_ref()
            .map_or(core::ptr::NonNull::dangling().as_ptr(), |h| h.block.payload);
        let len = if self.held.is_some() { self.len } else { 0 };
        // SAFETY: the block was checked to hold `len` bytes, is HELD by this participant, and no other participant
        // touches it before it is published (trust level T0).
        unsafe { core::slice::from_raw_parts(at, len) }
    }
}

impl std::ops::DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let at = self
            .held
            .as_ref()
            .map_or(core::ptr::NonNull::dangling().as_ptr(), |h| h.block.payload);
        let len = if self.held.is_some() { self.len } else { 0 };
        // SAFETY: as above; `&mut self` makes it the only reference in this process.
        unsafe { core::slice::from_raw_parts_mut(at, len) }
    }
}

impl Loan<'_> {
    /// Makes the block the content of its page: one delta, whatever the size.
    ///
    /// # Errors
    /// As [`Participant::patch`]. The loan is given back then, and its content is lost.
    pub fn publish(mut self, cause: u64) -> Result<Receipt, PageError> {
        let Some(held) = self.held.take() else {
            return Ok(Receipt::default());
        };
        let by = self.by;
        by.check_fork()?;
        let _inside = by.operation();
        let index = self.page.id().index;
        let word = by.owner_word(index);
        loop {
            let entered = match by.enter(index, word) {
                Ok(entered) => entered,
                Err(e) => {
                    by.give_back(&held)?;
                    return Err(e);
                }
            };
            let attempt = by
                .core
                .pages
                .ensure_fresh(self.page)
                .and_then(|()| by.publish_held(self.page, &held, cause));
            by.leave_unless_stranded(index, entered);
            match attempt {
                Ok(Attempt::Done(receipt, bytes)) => {
                    by.finish(1, bytes);
                    by.ring_bell(crate::doorbell::bit(index));
                    return Ok(receipt);
                }
                Ok(Attempt::Full(slots)) => {
                    if let Err(e) = by.wait_for_room(slots) {
                        by.give_back(&held)?;
                        return Err(e);
                    }
                }
                Err(e) => {
                    by.give_back(&held)?;
                    return Err(e);
                }
            }
        }
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take()
            && self.by.check_fork().is_ok()
        {
            // A corrupt slab table is all that could fail here; the block is then found by a sweep, if ever.
            let _ = self.by.give_back(&held);
        }
    }
}

impl Participant {
    /// Lends a block of the page's size, to be filled and [published](Loan::publish).
    ///
    /// # Errors
    /// [`PageError::NotLoaned`] for a cell (its versions already spare readers the wait); [`PageError::Full`];
    /// [`PageError::TooManyHeld`].
    pub fn loan<'p>(&'p self, page: &'p PageRef) -> Result<Loan<'p>, PageError> {
        self.check_fork()?;
        self.core.pages.ensure_fresh(page)?;
        if page.versions() > 1 {
            return Err(PageError::NotLoaned(page.id()));
        }
        let _inside = self.operation();
        let held = self.allocate(page.size() as u64, Some(page.id()))?;
        let loan = Loan {
            by: self,
            page,
            held: Some(held),
            len: page.size(),
        };
        step("loan.filled");
        Ok(loan)
    }

    /// Publishes a filled block under the page's owner word.
    fn publish_held(
        &self,
        page: &PageRef,
        held: &Held<'_>,
        cause: u64,
    ) -> Result<Attempt, PageError> {
        let old = page.entry().block();
        let header = held.block.header;
        let even = page.block().header.seq.load(Ordering::Relaxed) & !1;
        // Relaxed, all of them: published with the directory entry (M1).
        header.size.store(page.size() as u32, Ordering::Relaxed);
        header
            .shape
            .store(held.class | SHAPE_LOANED, Ordering::Relaxed);
        header.seq.store(even.wrapping_add(2), Ordering::Relaxed);
        let mut body = [0u8; 24];
        let (mut flags, mut at) = (RecordFlags::BLOCK, 0);
        if cause != 0 {
            flags |= RecordFlags::CAUSE;
            body[..8].copy_from_slice(&cause.to_le_bytes());
            at = 8;
        }
        body[at..at + 8].copy_from_slice(&held.block.at.bits().to_le_bytes());
        body[at + 8..at + 16].copy_from_slice(&old.bits().to_le_bytes());
        step("loan.prepared");
        let before = |lsn| header.lsn.store(lsn, Ordering::Relaxed);
        let Some(lsn) =
            self.commit_record(page.id(), Kind::Swap, flags, &body[..at + 16], before)?
        else {
            return Ok(Attempt::Full(1));
        };
        self.published(held);
        if let Some(class) = self.core.class_of(old) {
            self.retire(old, class, page.id());
        }
        page.moved_to(&held.block);
        Ok(Attempt::Done(
            Receipt {
                first: lsn,
                last: lsn,
                end: lsn + 1,
            },
            page.size() as u64,
        ))
    }

    /// A fresh block with the page's content (unless `bytes` covers all of it) and `bytes` at `offset`. The caller owns
    /// the page.
    pub(crate) fn prepare_block(
        &self,
        page: &PageRef,
        offset: usize,
        bytes: &[u8],
    ) -> Result<Held<'_>, PageError> {
        let held = self.allocate(page.size() as u64, Some(page.id()))?;
        // SAFETY: both blocks hold `size` bytes, are different, and this participant owns the one and the page of the
        // other; offset + len ≤ size was checked by the caller.
        unsafe {
            if bytes.len() != page.size() {
                copy::move_shared(held.block.payload, page.block().payload, page.size());
            }
            copy::store(held.block.payload.add(offset), bytes.as_ptr(), bytes.len());
        }
        Ok(held)
    }

    /// Publishes a prepared block; gives it back if that fails. The caller owns the page.
    pub(crate) fn publish_block(
        &self,
        page: &PageRef,
        held: Held<'_>,
        cause: u64,
    ) -> Result<Attempt, PageError> {
        let attempt = self.publish_held(page, &held, cause);
        if !matches!(attempt, Ok(Attempt::Done(..))) {
            self.give_back(&held)?;
        }
        attempt
    }

    /// A patch too large for one record: the page is copied into a fresh block, patched there, and swapped.
    #[cold]
    pub(crate) fn patch_through_block(
        &self,
        page: &PageRef,
        offset: usize,
        bytes: &[u8],
        cause: u64,
    ) -> Result<u64, PageError> {
        self.core.pages.ensure_fresh(page)?;
        if page.versions() > 1 {
            // A version of a cell is written through the ring only.
            let slots = crate::layout::ring::slots_for(bytes.len());
            return Err(PageError::DeltaTooLarge {
                slots,
                max: self.core.pages.ring().record_slots_max(),
            });
        }
        let _inside = self.operation();
        let index = page.id().index;
        let word = self.owner_word(index);
        loop {
            let entered: Entered = self.enter(index, word)?;
            let attempt = self
                .core
                .pages
                .ensure_fresh(page)
                .and_then(|()| self.prepare_block(page, offset, bytes))
                .and_then(|held| self.publish_block(page, held, cause));
            self.leave_unless_stranded(index, entered);
            match attempt? {
                Attempt::Done(receipt, bytes) => {
                    self.finish(1, bytes);
                    self.ring_bell(crate::doorbell::bit(index));
                    return Ok(receipt.last);
                }
                Attempt::Full(slots) => self.wait_for_room(slots)?,
            }
        }
    }

    /// As [`Participant::patch`], with the LSN of the delta that led to this one.
    pub fn patch_caused(
        &self,
        page: &PageRef,
        offset: usize,
        bytes: &[u8],
        cause: u64,
    ) -> Result<u64, PageError> {
        if cause == 0 {
            return self.patch(page, offset, bytes);
        }
        page.check_range(offset as u64, bytes.len() as u64)?;
        self.check_fork()?;
        let slots = crate::layout::ring::slots_for(bytes.len() + 24);
        if slots > self.core.pages.ring().record_slots_max() {
            return self.patch_through_block(page, offset, bytes, cause);
        }
        let change = super::Change::Patch {
            page,
            offset: offset as u32,
            bytes,
        };
        self.commit(
            &[change],
            &Options {
                cause,
                transaction: false,
            },
        )
        .map(|r| r.last)
    }
}

const _: () = assert!(core::mem::size_of::<NoUnwind>() == 0);
