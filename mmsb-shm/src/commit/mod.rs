//! The commit path.
//!
//! ```text
//! owner word      CAS 0 → me                                       who waits for it checks that we live
//! claim           CAS on the stamp where the ring ends
//! hold = lsn      what recovery looks at first
//! record          redo: page, range, bytes
//! READY           the commit point
//! seq odd; copy; lsn; seq even
//! owner word 0; hold 0; doorbell if somebody sleeps
//! ```
//!
//! Death ahead of READY: the claim becomes padding, the page was never touched. Death behind it: the redo is complete
//! and held in the ring, anybody applies it again (post-images, so twice is once). The argument for each step is in
//! `docs/protocols.md`; the crash steps named below are its rows.

mod apply;
mod change;
mod group;
mod loan;
mod patches;
mod room;
mod update;

pub(crate) use apply::{GroupRecord, apply_group};
pub use change::{Change, Options, Receipt};
pub(crate) use group::Attempt;
pub use loan::Loan;

use crate::copy;
use crate::error::{Corrupt, PageError};
use crate::layout::ring::{Kind, RecordHead, slots_for};
use crate::page::{PageRef, cell_current, lease, owner, seqlock};
use crate::participant::{Locked, Participant};
use crate::ring::{Claim, gating, record};
use crate::sync::{AtomicU32, Ordering, prefetch_write};
use crate::testing::step;

/// A panic between claim and unlock would leave the page to nobody while this process lives on.
struct NoUnwind;

impl Drop for NoUnwind {
    fn drop(&mut self) {
        eprintln!("mmsb: panic inside a commit; aborting, so that the others can finish it");
        std::process::abort();
    }
}

/// Slots from the end of a record to the one that is asked for ahead of time.
const PREFETCH_AHEAD: u64 = 8;

/// How a page's owner word is held for one commit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    Locked,
    Leased,
}

impl Participant {
    /// Becomes the writer of a page for one commit.
    #[inline(always)]
    pub(crate) fn enter(&self, index: u32, word: &AtomicU32) -> Result<Entered, PageError> {
        if self.lease_count.get() == 0 {
            self.lock_word(word, index, Locked::Page(index))?;
            return Ok(Entered::Locked);
        }
        self.enter_leased(index, word)
    }

    #[inline]
    fn enter_leased(&self, index: u32, word: &AtomicU32) -> Result<Entered, PageError> {
        // Relaxed: a first look, ahead of the list; `lease::enter` looks again. Nobody else stores this word.
        if word.load(Ordering::Relaxed) == self.me | owner::LEASE
            && lease::enter(word, &self.slot().active, self.me)
        {
            return Ok(Entered::Leased);
        }
        if self.leased(index).is_some() {
            if lease::answer(word, self.me) {
                self.wake_owner_waiters(index);
            }
            // Whoever asked gets the page first; then this is an ordinary commit, and the lease is taken again after.
            self.lock_word(word, index, Locked::Page(index))?;
            return Ok(Entered::Locked);
        }
        self.lock_word(word, index, Locked::Page(index))?;
        Ok(Entered::Locked)
    }

    /// The end of [`Participant::enter`].
    #[inline(always)]
    pub(crate) fn leave_page(&self, index: u32, word: &AtomicU32, entered: Entered) {
        match entered {
            Entered::Leased => {
                lease::leave(&self.slot().active);
            }
            Entered::Locked => {
                if self.lease_count.get() != 0
                    && let Some(id) = self.leased(index)
                {
                    if owner::release(word, self.me) {
                        // Somebody is asking: let it in before taking the lease again.
                    }
                    self.wake_owner_waiters(index);
                    step("lease.let_go");
                    if self.may_lease() {
                        let taken = word.compare_exchange(
                            0,
                            self.me | owner::LEASE,
                            // Acquire: as any taking of an owner word.
                            Ordering::Acquire,
                            Ordering::Relaxed,
                        );
                        if taken.is_ok() {
                            self.end_lease_of_gone(id);
                        }
                    }
                } else {
                    self.unlock_word(word, index);
                }
            }
        }
    }

    /// The end of a commit that may have met corrupt bytes behind its commit point: then the page stays locked.
    pub(crate) fn leave_unless_stranded(&self, index: u32, entered: Entered) {
        if !self.is_stranded() {
            self.leave_page(index, self.owner_word(index), entered);
        }
    }

    /// Claims `n` slots. `None`: the ring is full; let everything go, call `wait_for_room`, start again.
    #[inline(always)]
    pub(crate) fn claim(&self, n: u32) -> Result<Option<u64>, PageError> {
        let ring = self.ring();
        let mut guess = self.guess.get();
        let claim = ring.try_claim(&mut guess, n, self.me);
        self.guess.set(guess);
        match claim {
            Claim::Got(lsn) => {
                step("commit.claimed");
                gating::hold(&self.slot().hold, lsn);
                // Relaxed: for recovery, which sees what this thread stored before it died.
                self.slot().claimed.store(lsn, Ordering::Relaxed);
                step("commit.held");
                Ok(Some(lsn))
            }
            Claim::Full(_) => Ok(None),
            Claim::Bad(lsn) => Err(Corrupt {
                what: "ring stamp",
                offset: lsn,
            }
            .into()),
        }
    }

    /// Makes the claimed record or group visible.
    #[inline(always)]
    pub(crate) fn publish(&self, lsn: u64, slots: u32) {
        step("commit.written");
        let ring = self.ring();
        ring.publish(lsn, slots, self.me);
        // A slot that nobody polls yet comes over while others are written (docs/decisions/0005).
        prefetch_write(ring.slot(lsn + u64::from(slots) + PREFETCH_AHEAD));
        step("commit.ready");
    }

    /// The commit is applied and its locks are given back.
    #[inline(always)]
    pub(crate) fn finish(&self, deltas: u64, bytes: u64) {
        let slot = self.slot();
        step("commit.unlocked");
        gating::unhold(&slot.hold);
        Self::bump(&slot.deltas, deltas);
        Self::bump(&slot.bytes, bytes);
        step("commit.done");
    }

    /// Overwrites `bytes.len()` bytes of the page from `offset` on: one delta. Returns its LSN.
    ///
    /// A delta too large for the ring goes through a fresh block instead, at the cost of copying the page once.
    ///
    /// # Errors
    /// [`PageError::OutOfRange`], [`PageError::PageGone`]; [`PageError::Timeout`] if a living writer keeps the page;
    /// [`PageError::Backpressure`] if the ring stays full. Nothing was changed then.
    #[inline]
    pub fn patch(&self, page: &PageRef, offset: usize, bytes: &[u8]) -> Result<u64, PageError> {
        page.check_range(offset as u64, bytes.len() as u64)?;
        self.check_fork()?;
        self.core.pages.check_own(page)?;
        let ring = self.ring();
        let n = slots_for(bytes.len());
        if n > ring.record_slots_max() {
            return self.patch_through_block(page, offset, bytes, 0);
        }
        let _inside = self.operation();
        let index = page.id().index;
        let word = self.owner_word(index);
        if n > 1 {
            // Nobody polls the second line: it comes over while the page is being locked. Not the first one, which
            // would be polled away again before the claim (docs/decisions/0005).
            prefetch_write(ring.slot(self.guess.get().tail + 1));
        }
        // Read ahead of the compare-exchanges: it runs while the stores of the last commit drain.
        let head = RecordHead {
            index,
            generation: page.id().generation,
            offset: offset as u32,
            body: bytes.len() as u32,
            kind: Kind::Patch as u8,
            flags: 0,
            source: self.source(),
            time: self.record_time(),
        };
        loop {
            let entered = self.enter(index, word)?;
            step("commit.locked");
            // The entry may have changed before we became the owner (C2).
            // SAFETY: `check_own` let the handle pass, above.
            if let Err(e) = unsafe { self.core.pages.ensure_own_fresh(page) } {
                self.leave_page(index, word, entered);
                return Err(e);
            }
            if page.is_loaned() {
                self.leave_page(index, word, entered);
                let change = Change::Patch {
                    page,
                    offset: offset as u32,
                    bytes,
                };
                return match self.commit(&[change], &Options::default()) {
                    // With the names of both blocks it is just too long for a record.
                    Err(PageError::DeltaTooLarge { .. }) => {
                        self.patch_through_block(page, offset, bytes, 0)
                    }
                    other => other.map(|r| r.last),
                };
            }
            let lsn = match self.claim(n as u32) {
                Ok(Some(lsn)) => lsn,
                Ok(None) => {
                    self.leave_page(index, word, entered);
                    self.wait_for_room(n)?;
                    continue;
                }
                Err(e) => {
                    self.leave_page(index, word, entered);
                    return Err(e);
                }
            };
            let bomb = NoUnwind;
            record::write(&ring, lsn, &head, bytes, self.me, false);
            self.publish(lsn, n as u32);
            let block = page.block();
            if page.versions() == 1 {
                let even = seqlock::write_begin(&block.header.seq);
                step("commit.odd");
                // SAFETY: offset + len ≤ size was checked above, and the block holds `size` bytes; we own the page.
                unsafe { copy::store(block.payload.add(offset), bytes.as_ptr(), bytes.len()) };
                step("commit.copied");
                // Relaxed: inside the odd phase; published by the even store.
                block.header.lsn.store(lsn, Ordering::Relaxed);
                step("commit.lsn");
                seqlock::write_end(&block.header.seq, even, 1);
            } else {
                self.publish_version(
                    page,
                    lsn,
                    1,
                    |payload| {
                        // SAFETY: as above; `payload` is a version slot of `size` bytes.
                        unsafe { copy::store(payload.add(offset), bytes.as_ptr(), bytes.len()) };
                    },
                    offset == 0 && bytes.len() == page.size(),
                );
            }
            step("commit.even");
            self.leave_page(index, word, entered);
            self.finish(1, bytes.len() as u64);
            core::mem::forget(bomb);
            self.ring_bell(crate::doorbell::bit(index));
            return Ok(lsn);
        }
    }

    /// Fills the next version slot of a cell from the current one plus `change`, and makes it current. `whole`: the
    /// change overwrites everything, so the current version need not be copied first.
    #[inline(always)]
    pub(crate) fn publish_version(
        &self,
        page: &PageRef,
        lsn: u64,
        deltas: u64,
        change: impl FnOnce(*mut u8),
        whole: bool,
    ) {
        apply::publish_version(
            &page.block(),
            page.size() as u32,
            page.versions(),
            lsn,
            deltas,
            change,
            whole,
        );
    }
}

#[inline(always)]
fn next_version<'a>(
    block: &crate::segment::Block<'a>,
    size: u32,
    versions: u32,
) -> (
    &'a crate::layout::page::CellHeader,
    u64,
    &'a crate::layout::page::VersionHeader,
    *mut u8,
) {
    cell_current(block, size, versions, 1)
}
