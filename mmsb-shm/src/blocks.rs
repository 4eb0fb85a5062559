//! What is allocated: the state word in each block's header is the truth, bitmaps of free blocks are hints.
//!
//! * F1 freeing stores FREE (AcqRel), then sets the bit (Release); taking swaps the bits out (Acquire), then exchanges
//!   FREE for HELD (Acquire): the taker sees the block's last life ended. A bit that is set for a block which is not
//!   FREE costs a failed exchange; a block that is FREE without a bit is found by the next sweep.
//! * F2 the Release fence of `hold` pairs with the Acquire fence ahead of a reader's second look at the directory
//!   ([`crate::page::seqlock::still_there`]), or at the block's lsn (`read_swapped`).

use crate::layout::page::BlockState;
use crate::sync::{AtomicU64, Ordering, fence};

/// Exchanges one state of a block for another. False: it was not in that state. Of several callers one wins.
#[inline]
pub(crate) fn exchange(state: &AtomicU64, from: BlockState, to: BlockState) -> bool {
    // AcqRel (F1): sees the block's last life ended, or ends it for the next.
    state
        .compare_exchange(from.word(), to.word(), Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

/// Takes a block, whose content was that of `lsn`, for the holder of the owner word `me`. False: it was not in the
/// state `from`.
#[inline]
pub(crate) fn hold(state: &AtomicU64, lsn: &AtomicU64, from: BlockState, me: u32) -> bool {
    let held = exchange(state, from, BlockState::Held(me));
    if held {
        // Relaxed: the fence below orders it.
        lsn.store(0, Ordering::Relaxed);
    }
    // Release fence (F2): that the block left its page, and that it holds no delta's content any more, is visible no
    // later than the first byte of its new life; a reader that copied such a byte finds another directory entry, or
    // another lsn, when it looks again.
    fence(Ordering::Release);
    held
}

/// Whether a block still holds what the delta at `of` made of it: nobody took it ahead of the copy that the caller just
/// made.
#[inline]
pub(crate) fn still_of(lsn: &AtomicU64, of: u64) -> bool {
    // Acquire fence (F2): the copy's loads are done before the look below (PROTOCOL C3).
    fence(Ordering::Acquire);
    // Relaxed: the fence orders it; equality is all that is asked.
    lsn.load(Ordering::Relaxed) == of
}

/// Takes all bits of a bitmap word; they are the caller's hints from now on.
#[inline]
pub(crate) fn take_bits(word: &AtomicU64) -> u64 {
    // Relaxed: only to skip empty words without a locked instruction.
    if word.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    // Acquire (F1).
    word.swap(0, Ordering::Acquire)
}

/// Sets bits of a bitmap word. The bits that were new.
#[inline]
pub(crate) fn give_bits(word: &AtomicU64, bits: u64) -> u64 {
    // Release (F1).
    bits & !word.fetch_or(bits, Ordering::Release)
}
