//! Who still needs what stands in the ring: gating cursors and unfinished commits hold the overwrite floor.
//!
//! * G1 a joining cursor stores JOINING (holds the floor), passes a SeqCst fence, and only then reads where to start; the
//!   mover stores `published`, passes a SeqCst fence, and then looks at the cursors. Either the mover sees the cursor
//!   (PROTOCOL A5), or the cursor sees `published` as the mover stored it, and the mover raises the limit only so far
//!   that nothing from `published` on is overwritten.
//! * G2 a writer stores its hold before READY (Release); the mover counts a record as published only once it saw READY
//!   (Acquire), and looks at the holds after that: it sees the hold, or the 0 behind the unlock (PROTOCOL A3).

use super::{Ring, load_lsn};
use crate::layout::participant::{CURSOR_JOINING, Cursor};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::testing::step;

/// Who holds the floor where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Needs {
    /// A gating cursor, of the participant with this owner word, at this position (or [`CURSOR_JOINING`]).
    Cursor { owner: u32, position: u64 },
    /// The unfinished commit of a participant slot.
    Commit { index: u32, lsn: u64 },
    /// The log: everything from here on is not on disk yet.
    Log { position: u64 },
}

/// A claimed record at `lsn` must not be overwritten before it is applied. Stored between claim and READY.
#[inline(always)]
pub(crate) fn hold(word: &AtomicU64, lsn: u64) {
    // Relaxed: READY is stored with Release behind it, so whoever sees READY sees the hold (G2).
    word.store(lsn, Ordering::Relaxed);
}

/// The record is applied, and its pages are given back.
#[inline(always)]
pub(crate) fn unhold(word: &AtomicU64) {
    // Release (G2): everything that the redo would repair is done.
    word.store(0, Ordering::Release);
}

/// First half of joining: from here on the cursor holds the floor. The caller owns it, and made it visible to scans.
pub(crate) fn announce(cursor: &Cursor, gating: bool) {
    // Release, position first: whoever sees the cursor gating sees that it is joining.
    cursor.position.store(CURSOR_JOINING, Ordering::Release);
    cursor.gating.store(u32::from(gating), Ordering::Release);
}

/// Second half: reads where the ring ends, and takes that as its position, which is returned.
pub(crate) fn start(cursor: &Cursor, ring: &Ring<'_>) -> u64 {
    // SeqCst fence (G1).
    fence(Ordering::SeqCst);
    step("follow.joining");
    let position = ring.end();
    // Release: as any move of a cursor.
    cursor.position.store(position, Ordering::Release);
    position
}

/// The least LSN that the log (`log`, 0: there is none), a gating cursor or an unfinished commit needs, at most `published`, which the caller has just
/// [raised](Ring::raise_published) to what it saw READY; and who needs it.
pub(crate) fn least_needed<'a>(
    published: u64,
    log: &AtomicU64,
    cursors: &[Cursor],
    holds: impl Iterator<Item = &'a AtomicU64>,
) -> (u64, Option<Needs>) {
    // SeqCst fence (G1).
    fence(Ordering::SeqCst);
    let mut least = published;
    let mut who = None;
    // Acquire: what is ahead of it is on disk. It is set for the first time under the lock that the caller holds.
    let position = load_lsn(log, Ordering::Acquire);
    if position != 0 && position < least {
        least = position;
        who = Some(Needs::Log { position });
    }
    for cursor in cursors {
        let owner = cursor.owner.load(Ordering::Acquire);
        if owner == 0 || cursor.gating.load(Ordering::Acquire) == 0 {
            continue;
        }
        // Acquire: the reads of what is ahead of it are done.
        let position = load_lsn(&cursor.position, Ordering::Acquire);
        if position < least {
            least = position;
            who = Some(Needs::Cursor { owner, position });
        }
    }
    for (index, hold) in holds.enumerate() {
        // Acquire (G2): 0 says that the commit is applied.
        let lsn = load_lsn(hold, Ordering::Acquire);
        if lsn != 0 && lsn < least {
            least = lsn;
            let index = index as u32;
            who = Some(Needs::Commit { index, lsn });
        }
    }
    (least, who)
}
