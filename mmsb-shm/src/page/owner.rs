//! Owner words: who is writing a page, or holds one of the bus's locks. One u32 in `.ctl`.
//!
//! `0` nobody, else `generation:19 << 11 | participant index + 1`. Bit 31 is a **request**: a reader that cannot
//! get through asks the next writer for a gap, and a writer asks a leaseholder to let go. Bit 30 marks a **lease**: the
//! holder keeps the word between commits, and may lose it to a requester while it is not inside one.
//!
//! * O1 `release` (Release) pairs with `try_acquire` (Acquire): the new owner sees all that the old one wrote.
//!
//! An owner word is cleared by its holder, or by recovery once the holder is dead; so while a word names a life of a
//! participant, nobody else changes what it guards.

use crate::sync::{AtomicU32, Ordering};

/// The request bit.
pub(crate) const REQUEST: u32 = 1 << 31;
/// The lease bit.
pub(crate) const LEASE: u32 = 1 << 30;
const INDEX_BITS: u32 = 11;
/// Generations repeat after this many lives of one slot. All words of a life are cleared before the slot is reused.
const GENERATION_MASK: u32 = (1 << 19) - 1;

/// The word of participant `index` in its life `generation`.
#[inline]
pub(crate) fn word(index: u32, generation: u64) -> u32 {
    ((generation as u32) & GENERATION_MASK) << INDEX_BITS | (index + 1)
}

/// The word without its request and lease bits.
#[inline(always)]
pub(crate) fn holder(word: u32) -> u32 {
    word & !(REQUEST | LEASE)
}

/// Participant index of a word that is not 0.
#[inline]
pub(crate) fn index(word: u32) -> Option<u32> {
    (word & ((1 << INDEX_BITS) - 1)).checked_sub(1)
}

/// Whether `word` names life `generation` of its participant.
#[inline]
pub(crate) fn is_life(word: u32, generation: u64) -> bool {
    holder(word) >> INDEX_BITS == (generation as u32) & GENERATION_MASK
}

/// Tries to become the owner. On failure, the word found.
#[inline(always)]
pub(crate) fn try_acquire(lock: &AtomicU32, me: u32) -> Result<(), u32> {
    // Acquire (O1): sees what the last owner wrote. Relaxed on failure: the word found is only looked at.
    match lock.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
        Ok(_) => Ok(()),
        Err(found) => Err(found),
    }
}

/// Takes a free word with the request bit set (the gap was given, or the leaseholder let go).
#[inline]
pub(crate) fn try_acquire_requested(lock: &AtomicU32, me: u32) -> bool {
    // Acquire (O1), as above.
    lock.compare_exchange(REQUEST, me, Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
}

/// Gives the word back. Returns true when a request came in meanwhile and is still pending: it stays set.
#[inline(always)]
pub(crate) fn release(lock: &AtomicU32, me: u32) -> bool {
    // Relaxed: our own word; only the request bit can differ, and missing it for one round is harmless, since whoever
    // asks keeps asking.
    if lock.load(Ordering::Relaxed) == me {
        // Release (O1): all that was written under the word is visible to the next owner.
        lock.store(0, Ordering::Release);
        false
    } else {
        // Release (O1); clears the owner, keeps the request.
        lock.fetch_and(REQUEST, Ordering::Release) & REQUEST != 0
    }
}

/// Clears the word if this life of a participant still holds it, as owner or by lease. For recovery, and for handing
/// back a lease. Idempotent.
pub(crate) fn clear_if(lock: &AtomicU32, life: u32) -> bool {
    loop {
        // Relaxed: compared before it is acted on.
        let found = lock.load(Ordering::Relaxed);
        if found == 0 || holder(found) != life {
            return false;
        }
        // Release (O1): what was repaired or written is visible to the next owner.
        if lock
            .compare_exchange(found, 0, Ordering::Release, Ordering::Relaxed)
            .is_ok()
        {
            return true;
        }
    }
}
