//! The head of a cell: which of K version slots is current, and how long a copy of one may be believed.
//!
//! The writer of version h + 1 fills slot (h + 1) mod K while the head is h, then publishes h + 1.
//!
//! * V1 `publish` (Release) pairs with `current` (Acquire): a reader that sees a head sees the whole version.
//! * V2 the Release fence of `begin_fill` pairs with the Acquire fence of `still`: a reader that copied a byte written
//!   for version n finds a head of at least n − 1 when it looks again. Its own slot is next written for version
//!   `seen + K`, so its copy is good while the head is at most `seen + K − 2`.

use crate::sync::{AtomicU64, Ordering, fence};

/// The current version number.
#[inline(always)]
pub(crate) fn current(head: &AtomicU64) -> u64 {
    // Acquire (V1).
    head.load(Ordering::Acquire)
}

/// Call it before the first byte of the next version slot is written. Only the page's owner does.
#[inline(always)]
pub(crate) fn begin_fill() {
    // Release fence (V2): the head as stored last is visible no later than the bytes written from here on.
    fence(Ordering::Release);
}

/// Makes the version after `now` current. Only the page's owner does.
#[inline(always)]
pub(crate) fn publish(head: &AtomicU64, now: u64) {
    // Release (V1): the version is whole for whoever sees the new head.
    head.store(now.wrapping_add(1), Ordering::Release);
}

/// Whether a copy of version `seen`, one of `versions` slots, may be believed. Call it after the copy.
#[inline(always)]
pub(crate) fn still(head: &AtomicU64, seen: u64, versions: u64) -> bool {
    // Acquire fence (V2): the copy's loads are done before the look below.
    fence(Ordering::Acquire);
    // Relaxed: the fence orders it.
    let now = head.load(Ordering::Relaxed);
    // A cell has at least four slots; fewer are bits nobody writes, and then no copy is good.
    now.wrapping_sub(seen) <= versions.saturating_sub(2)
}
