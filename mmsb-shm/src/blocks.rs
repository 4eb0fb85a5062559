//! What is allocated: the state word in each block's header is the truth, bitmaps of free blocks are hints.
//!
//! * F1 freeing stores FREE (AcqRel), then sets the bit (Release); taking swaps the bits out (Acquire), then exchanges
//!   FREE for HELD (Acquire): the taker sees the block's last life ended. A bit that is set for a block which is not
//!   FREE costs a failed exchange; a block that is FREE without a bit is found by the next sweep.
//! * F2 the Release fence of `hold` pairs with the Acquire fence ahead of a reader's second look at the directory
//!   ([`crate::page::seqlock::still_there`]).

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

/// Takes a block for the holder of the owner word `me`. False: it was not in the state `from`.
#[inline]
pub(crate) fn hold(state: &AtomicU64, from: BlockState, me: u32) -> bool {
    let held = exchange(state, from, BlockState::Held(me));
    // Release fence (F2): that the block left its page is visible no later than the first byte of its new life, so a
    // reader that copied such a byte finds another directory entry when it looks again.
    fence(Ordering::Release);
    held
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
