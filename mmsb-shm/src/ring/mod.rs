//! The delta ring: one total order, any number of writers, any number of readers, nobody in charge.
//!
//! The position of a record is its LSN; `LSN / slots` is its lap, carried by every stamp, so a slot says by itself
//! whether what it holds is this lap's. A writer claims by one compare-exchange on the stamp of the slot where it
//! believes the ring ends. If the slot already belongs to this lap, its stamp says where the next record starts, and
//! the writer hops on: record boundaries never move, so a guess that was a boundary once is one for ever.
//!
//! Ordering, by pair:
//!
//! * R1 `publish` (Release) with `look` (Acquire): a reader that sees READY sees the record.
//! * R2 `raise_limit` stores the floor, then the limit (Release); a claimer reads the limit (Acquire), passes a Release
//!   fence after its claim, and only then overwrites; a reader copies, passes an Acquire fence and reads the floor.
//!   So a reader that copied a single overwritten byte finds a floor past the record, and drops the copy.
//! * R3 the claim itself (AcqRel): of several claimers of one slot exactly one succeeds, and whoever sees its claim
//!   sees the length.
//!
//! A stalled claimer is harmless: it compares against a stamp of an earlier lap, and every claim of the slot changes
//! the stamp. A slot that another record covers as a continuation can never be a boundary of the same lap.

pub(crate) mod gating;
#[cfg(all(test, loom))]
mod loom_ring;
#[cfg(not(loom))]
pub(crate) mod record;

use std::ops::Range;

use crate::layout::ring::{Slot, SlotState, Stamp};
use crate::sync::{AtomicU64, Ordering, fence};

/// Greatest LSN that is believed: a bus that commits a billion deltas a second gets there after a century.
pub(crate) const LSN_MAX: u64 = 1 << 62;

/// Loads an LSN that any process may have stored. Clamped, so that sums of positions and lengths cannot overflow.
#[inline(always)]
pub(crate) fn load_lsn(word: &AtomicU64, order: Ordering) -> u64 {
    word.load(order).min(LSN_MAX)
}

/// What stands at an LSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// No record of this lap yet: the ring ends here.
    Nothing,
    /// Claimed, not committed.
    Claimed(Stamp),
    /// A committed record or group.
    Ready(Stamp),
    /// Skipped.
    Padding(Stamp),
    /// A later lap: what stood here is overwritten.
    Lapped,
    /// Not a record boundary, or bits nobody writes.
    Bad,
}

/// Outcome of an attempt to claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Claim {
    /// The slots are ours.
    Got(u64),
    /// The claim limit is in the way, at this LSN.
    Full(u64),
    /// A stamp that nobody writes stands at this LSN.
    Bad(u64),
}

/// A view of the ring and its control words.
#[derive(Clone, Copy)]
pub(crate) struct Ring<'a> {
    pub(crate) slots: &'a [Slot],
    pub(crate) shift: u32,
    pub(crate) published: &'a AtomicU64,
    pub(crate) tail_hint: &'a AtomicU64,
    pub(crate) floor: &'a AtomicU64,
    pub(crate) limit: &'a AtomicU64,
}

/// A writer's private memory of the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guess {
    /// A boundary: where the ring ended when last looked at.
    pub(crate) tail: u64,
    /// Claim limit as last read; the true one is never behind it.
    pub(crate) limit: u64,
    /// Everything from here to the tail was claimed by this writer.
    pub(crate) since: u64,
}

impl Guess {
    /// Moves the tail past what others claimed, or may have.
    pub(crate) fn move_to(&mut self, tail: u64) {
        (self.tail, self.since) = (tail, tail);
    }

    /// Between two commits all of this is READY, or padding.
    pub(crate) fn own(&self) -> Range<u64> {
        self.since..self.tail
    }
}

impl<'a> Ring<'a> {
    /// Number of slots.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Most slots one record or group may take: a quarter of the ring.
    #[inline]
    pub(crate) fn record_slots_max(&self) -> u64 {
        (self.len() / 4).min(u64::from(crate::layout::ring::RECORD_SLOTS_MAX))
    }

    #[inline(always)]
    pub(crate) fn lap(&self, lsn: u64) -> u32 {
        (lsn >> self.shift) as u32
    }

    #[inline(always)]
    pub(crate) fn slot(&self, lsn: u64) -> &'a Slot {
        // The length is a power of two, so the mask keeps the index inside.
        &self.slots[(lsn & (self.len() - 1)) as usize]
    }

    /// Looks at an LSN that is a record boundary.
    #[inline(always)]
    pub(crate) fn look(&self, lsn: u64) -> Seen {
        // Acquire (R1): READY shows the whole record; (R3) a claim shows its length.
        let stamp = Stamp(self.slot(lsn).stamp.load(Ordering::Acquire));
        self.judge(lsn, stamp)
    }

    #[inline(always)]
    fn judge(&self, lsn: u64, stamp: Stamp) -> Seen {
        let ahead = stamp.lap().wrapping_sub(self.lap(lsn)) as i32;
        if ahead < 0 {
            return Seen::Nothing;
        }
        if ahead > 0 {
            return Seen::Lapped;
        }
        // The length was written by another process: it must keep the walk inside this lap.
        let room = self.len() - (lsn & (self.len() - 1));
        let slots = u64::from(stamp.slots());
        if slots == 0 || slots > room {
            return Seen::Bad;
        }
        match stamp.state() {
            SlotState::Ready => Seen::Ready(stamp),
            SlotState::Padding => Seen::Padding(stamp),
            SlotState::Claimed => Seen::Claimed(stamp),
            _ => Seen::Bad,
        }
    }

    /// Claims `n` slots (at most [`Self::record_slots_max`]) at the end of the ring, with padding ahead of them where
    /// the record would wrap.
    #[inline(always)]
    pub(crate) fn try_claim(&self, guess: &mut Guess, n: u32, owner: u32) -> Claim {
        loop {
            let at = guess.tail;
            let room = (self.len() - (at & (self.len() - 1))) as u32;
            let (slots, state) = if n <= room {
                (n, SlotState::Claimed)
            } else {
                (room, SlotState::Padding)
            };
            if at.wrapping_add(slots.into()) > guess.limit {
                // Acquire (R2): what is overwritten below was released by the mover of the limit.
                guess.limit = load_lsn(self.limit, Ordering::Acquire);
                if at + u64::from(slots) > guess.limit {
                    // The guess may be far behind; look before saying that the ring is full.
                    match self.hop(guess) {
                        // No ring ends so far out: waiting for room there would be for ever.
                        Hop::End if at >= LSN_MAX => return Claim::Bad(at),
                        Hop::End => return Claim::Full(at),
                        Hop::On => continue,
                        Hop::Bad => return Claim::Bad(at),
                    }
                }
            }
            let word = &self.slot(at).stamp;
            // Relaxed: the compare-exchange below decides; a stale value only makes it fail.
            let old = Stamp(word.load(Ordering::Relaxed));
            if (old.lap().wrapping_sub(self.lap(at)) as i32) < 0 {
                let new = Stamp::new(self.lap(at), slots, owner, state);
                // AcqRel (R3). Acquire on failure: the stamp found tells where to go on.
                if word
                    .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok()
                {
                    guess.tail = at.wrapping_add(slots.into());
                    if state == SlotState::Claimed {
                        // Release fence (R2): the floor that allowed this claim is visible no later than the first
                        // byte written into it.
                        fence(Ordering::Release);
                        return Claim::Got(at);
                    }
                    continue;
                }
            }
            match self.hop(guess) {
                Hop::End | Hop::On => {}
                Hop::Bad => return Claim::Bad(at),
            }
        }
    }

    /// Moves the guess over one record of somebody else, or back into the ring if it was lapped.
    fn hop(&self, guess: &mut Guess) -> Hop {
        match self.look(guess.tail) {
            Seen::Nothing => Hop::End,
            Seen::Claimed(s) | Seen::Ready(s) | Seen::Padding(s) => {
                guess.move_to(guess.tail.wrapping_add(s.slots().into()));
                // Relaxed: a hint; every boundary ever stored there is one for ever.
                let hint = load_lsn(self.tail_hint, Ordering::Relaxed);
                if hint > guess.tail && self.is_near(hint) {
                    guess.move_to(hint);
                }
                Hop::On
            }
            Seen::Lapped => {
                let before = guess.tail;
                guess.move_to(self.recent_boundary());
                if guess.tail > before {
                    Hop::On
                } else {
                    Hop::Bad
                }
            }
            Seen::Bad => Hop::Bad,
        }
    }

    /// Whether an LSN lies between floor and limit. A hint outside is stale, or corrupt, and is not followed.
    fn is_near(&self, lsn: u64) -> bool {
        // Acquire on both: they only rise, so a value in between was a possible position at that time.
        lsn >= self.floor.load(Ordering::Acquire) && lsn <= self.limit.load(Ordering::Acquire)
    }

    /// A record boundary not far behind the end.
    pub(crate) fn recent_boundary(&self) -> u64 {
        // Acquire: `published` was stored after the records ahead of it were seen READY.
        let published = load_lsn(self.published, Ordering::Acquire);
        let hint = load_lsn(self.tail_hint, Ordering::Relaxed);
        if hint > published && self.is_near(hint) {
            hint
        } else {
            published
        }
    }

    /// The boundary at which the ring ends now, claims included.
    pub(crate) fn end(&self) -> u64 {
        let mut at = self.recent_boundary();
        for _ in 0..=self.len() {
            match self.look(at) {
                Seen::Claimed(s) | Seen::Ready(s) | Seen::Padding(s) => {
                    at = at.wrapping_add(s.slots().into());
                }
                Seen::Lapped => at = self.recent_boundary().max(at),
                Seen::Nothing | Seen::Bad => break,
            }
        }
        at
    }

    /// Commits the record or group at `lsn`: from here it has an LSN, it is in the log, subscribers see it.
    #[inline(always)]
    pub(crate) fn publish(&self, lsn: u64, slots: u32, owner: u32) {
        let stamp = Stamp::new(self.lap(lsn), slots, owner, SlotState::Ready);
        // Release (R1): the record is visible with READY. Not an exchange: who goes to sleep pays for the barrier.
        self.slot(lsn).stamp.store(stamp.0, Ordering::Release);
        let end = lsn.wrapping_add(slots.into());
        if (lsn ^ end) & !63 != 0 {
            // Relaxed: a hint for newcomers, a boundary of the ring whatever its age.
            self.tail_hint.store(end, Ordering::Relaxed);
        }
    }

    /// Turns a claim of a dead writer (or of ourselves, given up) into padding. Idempotent.
    pub(crate) fn pad(&self, lsn: u64, claimed: Stamp) -> bool {
        let padding = claimed.with(SlotState::Padding);
        // AcqRel: nobody but the dead writer and recoverers touch a claimed stamp; one of them wins.
        self.slot(lsn)
            .stamp
            .compare_exchange(claimed.0, padding.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Where the prefix of READY records and padding ends, from `published` on. `unblock` is asked about each claim
    /// in the way, and says whether to look again. What lies in `own`, a range from one record boundary to another, is
    /// known to be READY or padding and is not looked at.
    pub(crate) fn ready_prefix(
        &self,
        own: Range<u64>,
        mut unblock: impl FnMut(u64, Stamp) -> bool,
    ) -> Result<u64, u64> {
        // Acquire: pairs with the store in `raise_published`.
        let mut at = load_lsn(self.published, Ordering::Acquire);
        let end = at + self.len();
        while at < end {
            if own.contains(&at) {
                at = own.end;
                continue;
            }
            match self.look(at) {
                // Most records are one slot long: saying so lets the processor run ahead of the loads.
                Seen::Ready(s) if s.slots() == 1 => at += 1,
                Seen::Ready(s) | Seen::Padding(s) => at = at.saturating_add(s.slots().into()),
                Seen::Claimed(s) => {
                    if !unblock(at, s) {
                        break;
                    }
                }
                Seen::Nothing => break,
                // Somebody else raised `published` and the floor meanwhile.
                Seen::Lapped => {
                    let now = load_lsn(self.published, Ordering::Acquire);
                    if now <= at {
                        return Err(at);
                    }
                    return Ok(now);
                }
                Seen::Bad => return Err(at),
            }
        }
        Ok(at)
    }

    /// Raises `published`. Only the holder of the limit lock calls this.
    pub(crate) fn raise_published(&self, to: u64) {
        if to > self.published.load(Ordering::Relaxed) {
            // Release: whoever reads it may walk from there.
            self.published.store(to, Ordering::Release);
        }
    }

    /// Raises floor and limit so that claims up to `need` fit, an eighth of the ring at a time, but never past what
    /// `needed_from` (the least LSN that anybody still needs) allows. Only the holder of the limit lock calls this.
    pub(crate) fn raise_limit(&self, needed_from: u64, need: u64) -> bool {
        // Relaxed: only the holder of the limit lock writes it.
        let limit = load_lsn(self.limit, Ordering::Relaxed);
        let want = (limit + self.len() / 8).max(need);
        let new = want.min(needed_from.saturating_add(self.len()));
        if new <= limit {
            return false;
        }
        // Release, floor first (R2): no claim beyond the old limit can begin before the floor is visible. A mover that died
        // in between may have left a higher floor, which stays.
        let floor = new.saturating_sub(self.len());
        let floor = floor.max(self.floor.load(Ordering::Relaxed));
        self.floor.store(floor, Ordering::Release);
        self.limit.store(new, Ordering::Release);
        true
    }

    /// Whether a copy taken at `lsn` may be believed. Call it after the copy.
    #[inline(always)]
    pub(crate) fn is_intact(&self, lsn: u64) -> bool {
        // Acquire fence (R2): the copy's loads are done before the look at the floor.
        fence(Ordering::Acquire);
        self.floor.load(Ordering::Relaxed) <= lsn
    }
}

enum Hop {
    On,
    End,
    Bad,
}
