//! Hazard slots: a participant names the block it looks at in place, and nobody reuses a block that is named.
//!
//! ```text
//! pinner:     hazard = block       SeqCst fence    look at the directory again: still this block?
//! reclaimer:  directory ≠ block    SeqCst fence    look at all hazards: none names it?     reuse
//! ```
//!
//! Store, fence, look on both sides: at least one sees the other's store. If it is the pinner, it tries again with the
//! page's new block; if it is the reclaimer, the block stays.
//!
//! * H1 `unpin` (Release) pairs with the Acquire loads of `is_named`: all reads of the block are done before its bytes
//!   change.

use crate::sync::{AtomicU64, Ordering, fence};
use crate::testing::step;

/// Names `block` in `hazard`. True: the directory word `entry` still is `seen`, so the block is safe until
/// [`unpin`]. False: it moved; name another.
#[inline]
pub(crate) fn pin(hazard: &AtomicU64, block: u64, entry: &AtomicU64, seen: u64) -> bool {
    // Release: reads through an earlier use of this slot are over.
    hazard.store(block, Ordering::Release);
    step("pin.hazard");
    // SeqCst fence: see above.
    fence(Ordering::SeqCst);
    // Acquire: the block behind the entry is whole.
    entry.load(Ordering::Acquire) == seen
}

/// Ends a pin.
#[inline]
pub(crate) fn unpin(hazard: &AtomicU64) {
    // Release (H1).
    hazard.store(0, Ordering::Release);
}

/// The reclaimer's fence, between the look at the directory (or whatever said that the block left its page) and
/// [`is_named`].
#[inline]
pub(crate) fn reclaim_fence() {
    // SeqCst fence: see above.
    fence(Ordering::SeqCst);
}

/// Whether one of these hazards names the block.
#[inline]
pub(crate) fn is_named(hazards: &[AtomicU64], block: u64) -> bool {
    // Acquire (H1).
    hazards.iter().any(|h| h.load(Ordering::Acquire) == block)
}
