//! Finishing what the dead began. Whoever meets a dead participant runs this; nobody has to be running for it.
//!
//! Recovery of a life (slot, generation) runs under a kernel lock of its own (the recovery lock of the slot), so one
//! process does it at a time, and a recoverer that dies drops the lock. Every step can be done again:
//!
//! 1. claims of the dead become padding;
//! 2. the READY group at its `hold` is applied to every page whose owner word is still the dead one's;
//! 3. blocks in its hand are freed, its cursors and pins dropped;
//! 4. its owner words are cleared and everybody who waits is woken;
//! 5. the slot is given up: generation + 1.
//!
//! Owner words stay the dead one's until 4, so nobody touches its pages before they are whole (PROTOCOL B1). A stopped
//! process holds its lock and is never recovered.

use std::os::fd::{AsFd, OwnedFd};

use crate::commit::{GroupRecord, apply_group};
use crate::doorbell;
use crate::error::{Corrupt, PageError};
use crate::layout::page::{BlockRef, BlockState};
use crate::layout::participant::{SLOT_ACTIVE, SLOT_FREE};
use crate::layout::ring::{Kind, RecordHead, SlotState, Stamp};
use crate::page::owner;
use crate::ring::{Seen, load_lsn, record};
use crate::segment::{Core, LOCK_RECOVERY};
use crate::stats::Counter;
use crate::sync::Ordering;
use crate::sys::lock;
use crate::testing::step;

/// Holds the recovery lock of a slot.
struct RecoveryLock<'a> {
    fd: &'a OwnedFd,
    byte: u64,
}

impl Drop for RecoveryLock<'_> {
    fn drop(&mut self) {
        let _ = lock::unlock(self.fd.as_fd(), self.byte);
    }
}

/// Recovers every dead participant. Returns how many there were.
pub(crate) fn all_dead(core: &Core, fd: &OwnedFd) -> Result<u32, PageError> {
    let mut count = 0;
    for index in 0..core.ctl.participants_used().len() as u32 {
        let state = core.ctl.participants()[index as usize]
            .state
            .load(Ordering::Acquire);
        if state & 0xff == SLOT_ACTIVE && core.is_dead(index, state >> 8) {
            count += u32::from(participant(core, fd, index)?);
        }
    }
    Ok(count)
}

/// Recovers the participant in slot `index` if it is dead. `fd` is the caller's own description of `.ctl`. False: it
/// was not dead, or somebody else is at it (the caller looks again).
pub(crate) fn participant(core: &Core, fd: &OwnedFd, index: u32) -> Result<bool, PageError> {
    let Some(slot) = core.ctl.participants().get(index as usize) else {
        return Ok(false);
    };
    let byte = LOCK_RECOVERY + u64::from(index);
    if !lock::try_lock(fd.as_fd(), byte).map_err(|e| PageError::io("lock for recovery", e))? {
        // Somebody else recovers it, or died doing so a moment ago.
        std::thread::sleep(std::time::Duration::from_micros(100));
        return Ok(false);
    }
    let guard = RecoveryLock { fd, byte };
    // Acquire: under the lock, so what the last recoverer did is seen.
    let state = slot.state.load(Ordering::Acquire);
    if state & 0xff != SLOT_ACTIVE || !core.is_dead(index, state >> 8) {
        return Ok(false);
    }
    step("recovery.begin");
    // Relaxed: only recoverers touch it, under the lock. Not 0: one died here before us.
    if slot.recovering.load(Ordering::Relaxed) != 0 {
        core.pages.count(Counter::RecoveredRecoverer, 1);
    }
    slot.recovering.store(1, Ordering::Relaxed);
    let life = owner::word(index, state >> 8);
    core.mark_sweep_all();
    step("recovery.sweep_noted");
    let claimed = pad_claims(core, life)?;
    step("recovery.padded");
    let (ready, odd) = redo(core, life, load_lsn(&slot.hold, Ordering::Acquire))?;
    step("recovery.redone");
    let held_words = count_words(core, life);
    let counters = [
        (Counter::RecoveredClaimed, claimed),
        (Counter::RecoveredReady, ready),
        (Counter::RecoveredOdd, odd),
        (
            Counter::RecoveredLocked,
            u64::from(held_words && claimed == 0 && ready == 0 && odd == 0),
        ),
    ];
    free_hand(core, index, life)?;
    step("recovery.freed");
    release_words(core, life);
    step("recovery.released");
    for (counter, n) in counters {
        core.pages.count(counter, n);
    }
    core.pages.count(Counter::Recoveries, 1);
    slot.recovering.store(0, Ordering::Relaxed);
    vacate(core, index, state >> 8);
    step("recovery.vacated");
    drop(guard);
    wake_all(core);
    Ok(true)
}

/// Step 1. Walks from `published` to the end of the ring; a claim's length stays, so record boundaries do too.
fn pad_claims(core: &Core, life: u32) -> Result<u64, Corrupt> {
    let ring = core.pages.ring();
    let mut at = load_lsn(ring.published, Ordering::Acquire);
    let mut padded = 0;
    let end = at.saturating_add(ring.len());
    while at < end {
        match ring.look(at) {
            Seen::Claimed(s) => {
                if s.is_by(life) && ring.pad(at, s) {
                    padded += 1;
                    step("recovery.padded_one");
                }
                at += u64::from(s.slots());
            }
            Seen::Ready(s) | Seen::Padding(s) => at += u64::from(s.slots()),
            Seen::Nothing => break,
            // The floor moved on: nothing of the dead can be there, its claim would have held it.
            Seen::Lapped => at = load_lsn(ring.published, Ordering::Acquire).max(at + 1),
            Seen::Bad => {
                return Err(Corrupt {
                    what: "ring stamp",
                    offset: at,
                });
            }
        }
    }
    Ok(padded)
}

/// One record of a group in private memory.
struct Loaded {
    lsn: u64,
    head: RecordHead,
    body: Vec<u8>,
}

/// Copies the group at `lsn`, whose stamp says `slots`.
fn load_group(core: &Core, lsn: u64, slots: u32) -> Result<Vec<Loaded>, Corrupt> {
    let ring = core.pages.ring();
    let mut group = Vec::new();
    let mut at = lsn;
    let end = lsn + u64::from(slots);
    while at < end {
        let head = record::read_head(&ring, at);
        let n = record::checked_slots(&head, at, end - at)?;
        let mut body = Vec::new();
        record::read_body(&ring, at, &head, &mut body);
        group.push(Loaded {
            lsn: at,
            head,
            body,
        });
        at += n;
        if at < end {
            // Relaxed: behind the Acquire load of the group's stamp.
            let stamp = Stamp(ring.slot(at).stamp.load(Ordering::Relaxed));
            if stamp.state() != SlotState::Inner || stamp.lap() != ring.lap(at) {
                return Err(Corrupt {
                    what: "stamp inside a group",
                    offset: at,
                });
            }
        }
    }
    Ok(group)
}

/// Step 2. Returns 1 for (not begun, left odd).
fn redo(core: &Core, life: u32, hold: u64) -> Result<(u64, u64), Corrupt> {
    let ring = core.pages.ring();
    // The hold keeps the floor where it is; a value outside the ring is no hold.
    if hold < ring.floor.load(Ordering::Acquire) || hold >= ring.limit.load(Ordering::Acquire) {
        return Ok((0, 0));
    }
    let Seen::Ready(stamp) = ring.look(hold) else {
        return Ok((0, 0));
    };
    if !stamp.is_by(life) {
        return Ok((0, 0));
    }
    let group = load_group(core, hold, stamp.slots())?;
    let mut records = Vec::with_capacity(group.len());
    for r in &group {
        let bad = Corrupt {
            what: "record",
            offset: r.lsn,
        };
        let kind = Kind::from_byte(r.head.kind).ok_or(bad)?;
        let parts = record::parts(&r.head, &r.body).ok_or(bad)?;
        records.push(GroupRecord {
            lsn: r.lsn,
            head: r.head,
            kind,
            parts,
        });
    }
    let pages_max = core.pages.geometry.pages_max;
    let applied = apply_group(core, &records, |index| {
        // Acquire: a word that is still the dead one's says that the page was not given back.
        index < pages_max && owner::holder(core.ctl.owner(index).load(Ordering::Acquire)) == life
    })?;
    Ok((u64::from(applied.fresh > 0), u64::from(applied.odd > 0)))
}

/// Step 3, and part of a clean leave.
pub(crate) fn free_hand(core: &Core, index: u32, life: u32) -> Result<(), Corrupt> {
    let slot = &core.ctl.participants()[index as usize];
    for hand in &slot.in_hand {
        let at = BlockRef::from_bits(hand.load(Ordering::Acquire));
        // A block that was published is LIVE or COLD by now, and stays.
        if !at.is_none() && core.pages.free_block(at, BlockState::Held(life))? {
            core.pages.count(Counter::RecoveredBlocks, 1);
        }
        step("recovery.freed_one");
    }
    Ok(())
}

fn count_words(core: &Core, life: u32) -> bool {
    core.ctl
        .owners()
        .iter()
        .any(|w| owner::holder(w.load(Ordering::Relaxed)) == life)
}

/// Step 4.
fn release_words(core: &Core, life: u32) {
    for word in core.ctl.owners() {
        // Relaxed: `clear_if` compares again.
        if word.load(Ordering::Relaxed) != 0 && owner::clear_if(word, life) {
            step("recovery.released_one");
        }
    }
    let h = core.ctl.header();
    for word in [&h.limit_lock, &h.names_lock, &h.grow_lock] {
        owner::clear_if(word, life);
    }
}

/// Step 5, and the end of a clean leave: the slot belongs to nobody.
pub(crate) fn vacate(core: &Core, index: u32, generation: u64) {
    let slot = &core.ctl.participants()[index as usize];
    for word in slot.in_hand.iter().chain(&slot.hazards) {
        word.store(0, Ordering::Release);
    }
    let life = owner::word(index, generation);
    // All of them: a life that ended between taking a cursor and counting it in `cursors_used` left one further on.
    for cursor in core.ctl.cursors() {
        if cursor.owner.load(Ordering::Acquire) == life {
            cursor.gating.store(0, Ordering::Release);
            cursor.owner.store(0, Ordering::Release);
        }
    }
    slot.hold.store(0, Ordering::Release);
    slot.active.store(0, Ordering::Release);
    let sums = [
        (Counter::Deltas, &slot.deltas),
        (Counter::Bytes, &slot.bytes),
        (Counter::Waits, &slot.waits),
        (Counter::Retries, &slot.retries),
    ];
    for (counter, n) in sums {
        core.pages.count(counter, n.swap(0, Ordering::AcqRel));
    }
    // Release: everything above is done; the slot may be taken.
    slot.state
        .store((generation + 1) << 8 | SLOT_FREE, Ordering::Release);
}

/// Wakes everybody: a dead writer may have been about to.
fn wake_all(core: &Core) {
    let h = core.ctl.header();
    doorbell::wake(&h.owner_bell, &h.owner_sleepers, u32::MAX);
    doorbell::wake(&core.pages.header().doorbell, &h.sleepers, u32::MAX);
}

#[cfg(test)]
mod tests;
