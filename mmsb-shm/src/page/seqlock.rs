//! The seqlock of a page: `epoch << 1 | in_progress`.
//!
//! * S1 `write_end` (Release) pairs with `read_begin` (Acquire): a reader that starts at an even value sees every byte
//!   written ahead of it.
//! * S2 the Release fence of `write_begin` pairs with the Acquire fence of `still`: a reader that copied a byte
//!   written behind the odd store sees the odd value, or a later one, when it looks again.
//!
//! After Hans-J. Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012.

use crate::sync::{AtomicU64, Ordering, fence};

/// Value to validate against; odd: a writer is inside.
#[inline(always)]
pub(crate) fn read_begin(seq: &AtomicU64) -> u64 {
    // Acquire (S1): pairs with the store in `write_end`.
    seq.load(Ordering::Acquire)
}

/// Whether nothing was written since `read_begin` gave `begin`.
#[inline(always)]
pub(crate) fn still(seq: &AtomicU64, begin: u64) -> bool {
    // Acquire fence (S2): the copy's loads are done before the look below.
    fence(Ordering::Acquire);
    // Relaxed: the fence orders it; equality is all that is asked.
    seq.load(Ordering::Relaxed) == begin
}

/// Whether the page still has the block that was read: its directory word `entry` is what it was. Call it between the
/// copy and [`still`]. A block that left its page meanwhile may be another page's now, and its sequence word proves
/// nothing (PROTOCOL C2); whoever takes a block passes a Release fence before the first byte ([`crate::blocks::hold`]).
///
/// Ahead of [`still`], because a loaned block may be filled again and come back to its page under the same entry: the
/// bytes of the new filling are written while the entry is another, and whoever sees the entry that follows them sees
/// the sequence word that goes with it. The other way round, the old sequence word and the new entry might be met.
#[inline(always)]
pub(crate) fn still_there(entry: &AtomicU64, seen: u64) -> bool {
    // Acquire fence (F2): the copy's loads are done before the look below.
    fence(Ordering::Acquire);
    // Acquire (M1): with the entry, what was stored in the block ahead of it.
    entry.load(Ordering::Acquire) == seen
}

/// Marks the page as changing and returns the even value it had. Only the page's owner may call this; a value that
/// is odd already was left by a dead owner and counts as begun.
#[inline(always)]
pub(crate) fn write_begin(seq: &AtomicU64) -> u64 {
    // Relaxed: only the owner of the page writes this word, and taking ownership synchronised with the one before.
    let now = seq.load(Ordering::Relaxed);
    seq.store(now | 1, Ordering::Relaxed);
    // Release fence (S2): the odd value is visible no later than any byte of the change.
    fence(Ordering::Release);
    now & !1
}

/// Ends a change that applied `deltas` deltas to the page whose even value was `even`.
#[inline(always)]
pub(crate) fn write_end(seq: &AtomicU64, even: u64, deltas: u64) {
    // Release (S1): every byte of the change is visible with the new epoch.
    seq.store(even.wrapping_add(deltas << 1), Ordering::Release);
}
