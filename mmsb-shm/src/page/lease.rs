//! Leases: a participant keeps a page's owner word between commits, and others may take it away while no commit is
//! under way (PROTOCOL B4).
//!
//! ```text
//! holder H:     active = 1        light barrier     look at the word: still mine, nobody asks?  commit; active = 0
//! requester R:  word |= REQUEST   heavy barrier     look at active: 0?                          word = R
//! ```
//!
//! One of the two looks meets the other's store: if H's look came before R's heavy barrier, H's store of `active` came
//! before it too, and R sees it (or the 0 that ended that very commit, whose Release then shows R the whole page); if
//! it came after, H sees the request and keeps out.
//!
//! * B4a `leave` (Release) pairs with the Acquire load in `take`: the page is whole for the requester.
//! * O1 (see [`super::owner`]) for the word itself.

use super::owner::{LEASE, REQUEST};
use crate::sync::{AtomicU32, Ordering, light};
use crate::testing::step;

/// Begins a commit under a lease. False: somebody asks for the page, or took it; hand it back.
#[inline(always)]
pub(crate) fn enter(word: &AtomicU32, active: &AtomicU32, me: u32) -> bool {
    // Relaxed, then the light barrier, then the look: the first half of the argument above.
    active.store(1, Ordering::Relaxed);
    light();
    if word.load(Ordering::Relaxed) == me | LEASE {
        return true;
    }
    // Release: nothing of a commit is under way.
    leave(active);
    false
}

/// Ends a commit under a lease.
#[inline(always)]
pub(crate) fn leave(active: &AtomicU32) {
    // Release (B4a).
    active.store(0, Ordering::Release);
}

/// Hands a leased word back because somebody asks for it: the request stays, so that whoever takes the word next gives
/// a waiting reader its gap first. False: it is not ours any more.
pub(crate) fn answer(word: &AtomicU32, me: u32) -> bool {
    // Release (O1): what was written under the lease is visible to the next owner.
    word.compare_exchange(
        me | LEASE | REQUEST,
        REQUEST,
        Ordering::Release,
        Ordering::Relaxed,
    )
    .is_ok()
}

/// Asks the holder of the lease `found` to let go. The word as it is now, to be given to [`take`]; `None`: it moved on.
pub(crate) fn ask(word: &AtomicU32, found: u32) -> Option<u32> {
    let asked = found | REQUEST;
    // AcqRel: the request is set before the barrier and the look at `active`.
    if found & REQUEST == 0
        && word
            .compare_exchange(found, asked, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
    {
        return None;
    }
    Some(asked)
}

/// Takes a leased word that was [asked](ask) for, unless its holder is inside a commit. The caller passed the heavy
/// barrier in between.
pub(crate) fn take(word: &AtomicU32, active: &AtomicU32, asked: u32, me: u32) -> bool {
    // Acquire (B4a).
    if active.load(Ordering::Acquire) != 0 {
        return false;
    }
    step("lease.idle");
    // AcqRel (O1): the holder may hand it back, or another requester take it, at the same moment.
    word.compare_exchange(asked, me, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}
