//! Finishing what the dead began. Whoever meets a dead participant runs this; nobody has to be running for it.
//!
//! Recovery of a life (slot, generation) runs under a kernel lock of its own (the recovery lock of the slot), so one
//! process does it at a time, and a recoverer that dies drops the lock. Every step can be done again:
//!
//! 1. claims of the dead become padding;
//! 2. the READY group at its `hold` is applied to every page whose owner word is still the dead one's;
//! 3. its owner words are cleared and everybody who waits is woken;
//! 4. blocks in its hand are freed, its cursors and pins dropped;
//! 5. the slot is given up: generation + 1.
//!
//! Owner words stay the dead one's until 3, so nobody touches its pages before they are whole (PROTOCOL B1). A stopped
//! process holds its lock and is never recovered.
//!
//! Steps 1 to 3 are all that others wait for. They need no more than that the *thread* is dead, which the kernel marks at once
//! if it died inside an operation; 4 and 5 touch what siblings in its process may still use, such as cursors of its followers,
//! and wait for the lock.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crate::commit::{GroupRecord, apply_group};
use crate::doorbell;
use crate::error::{Corrupt, PageError};
use crate::layout::page::{BlockRef, BlockState};
use crate::layout::participant::{MOVING, RECOVERING, SLOT_ACTIVE, SLOT_FREE, UNBLOCKED};
use crate::layout::ring::{Kind, RecordFlags, RecordHead, SlotState, Stamp};
use crate::page::{PageId, owner, seqlock};
use crate::participant::read_name;
use crate::ring::{Seen, load_lsn, record};
use crate::segment::{Core, LOCK_RECOVERY};
use crate::stats::Counter;
use crate::sync::{Ordering, fence};
use crate::sys::fork::Description;
use crate::sys::{lock, robust, space};
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

/// Recovers every dead participant. Returns how many there were, without those who only died inside an operation so far:
/// what they held up is repaired, too.
pub(crate) fn all_dead(core: &Core, fd: &OwnedFd) -> Result<u32, PageError> {
    let mut count = 0;
    for index in 0..core.ctl.participants_used().len() as u32 {
        let state = core.ctl.participants()[index as usize]
            .state
            .load(Ordering::Acquire);
        if state & 0xff != SLOT_ACTIVE {
            continue;
        }
        if core.is_dead(index, state >> 8) {
            count += u32::from(participant(core, fd, index)?);
        } else if core.died_inside(index, state >> 8) {
            match participant(core, fd, index) {
                // Whoever needs those pages hears of it; until its process is gone there is no giving them up.
                Ok(_) | Err(PageError::Corrupt(_)) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(count)
}

/// Recovers the participant in slot `index` if it is dead, or repairs what it held up if it died inside an operation. `fd` is
/// the caller's own description of `.ctl`. False: it was neither, or somebody else is at it (the caller looks again).
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
    let generation = state >> 8;
    if state & 0xff != SLOT_ACTIVE {
        return Ok(false);
    }
    if core.is_dead(index, generation) {
        finish(core, index, generation)?;
    } else if core.died_inside(index, generation) {
        unblock(core, index, generation)?;
        let slot = &core.ctl.participants()[index as usize];
        // The hold is for the redo, and that is done.
        slot.hold.store(0, Ordering::Release);
        step("recovery.let_go");
        core.pages.count(Counter::Recoveries, 1);
        // Release: who does not see the mark any more sees what was repaired.
        slot.thread.store(UNBLOCKED, Ordering::Release);
        slot.recovering.store(0, Ordering::Relaxed);
        step("recovery.unblocked");
    } else {
        return Ok(false);
    }
    drop(guard);
    wake_all(core);
    Ok(true)
}

/// Steps 1 to 5, under the recovery lock of the slot.
fn finish(core: &Core, index: u32, generation: u64) -> Result<(), Corrupt> {
    unblock(core, index, generation)?;
    free_hand(core, index, owner::word(index, generation))?;
    step("recovery.freed");
    let slot = &core.ctl.participants()[index as usize];
    // Each life once, unless its recoverer dies right behind this. Relaxed: only recoverers store it now, under the lock.
    if slot.thread.load(Ordering::Relaxed) != UNBLOCKED {
        core.pages.count(Counter::Recoveries, 1);
    }
    slot.recovering.store(0, Ordering::Relaxed);
    vacate(core, index, generation);
    step("recovery.vacated");
    Ok(())
}

/// Steps 1 to 3, under the recovery lock of the slot: all that others wait for.
fn unblock(core: &Core, index: u32, generation: u64) -> Result<(), Corrupt> {
    let slot = &core.ctl.participants()[index as usize];
    step("recovery.begin");
    // Relaxed: only recoverers touch it, under the lock, or the slot's own life at its end. One died here before us.
    if slot.recovering.load(Ordering::Relaxed) == RECOVERING {
        core.pages.count(Counter::RecoveredRecoverer, 1);
    }
    slot.recovering.store(RECOVERING, Ordering::Relaxed);
    let life = owner::word(index, generation);
    core.mark_sweep_all();
    step("recovery.sweep_noted");
    let claimed = pad_claims(core, life)?;
    step("recovery.padded");
    let (ready, odd) = redo(core, life, load_lsn(&slot.hold, Ordering::Acquire))?;
    step("recovery.redone");
    // Nobody else takes a word of the dead one's, except what was leased between two commits: one look finds them.
    let held: Vec<u32> = held_words(core, life).collect();
    let torn = |index: &&u32| left(core, life, **index, 0) == Some(Left::Torn);
    if let Some(index) = held.iter().find(torn) {
        // Pages are odd only behind READY, so the record should have named it.
        return Err(Corrupt {
            what: "record of a page that is half written",
            offset: u64::from(*index),
        });
    }
    let counters = [
        (Counter::RecoveredClaimed, claimed),
        (Counter::RecoveredReady, ready),
        (Counter::RecoveredOdd, odd),
        (
            Counter::RecoveredLocked,
            u64::from(!held.is_empty() && claimed == 0 && ready == 0 && odd == 0),
        ),
    ];
    release_words(core, life, &held);
    step("recovery.released");
    for (counter, n) in counters {
        core.pages.count(counter, n);
    }
    Ok(())
}

/// What a dead participant left that cannot be finished, because the record of it is corrupt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wreck {
    /// Slot index.
    pub index: u32,
    /// Generation of the slot.
    pub generation: u64,
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Why its work cannot be finished.
    pub corrupt: Corrupt,
    /// LSN of the record that is corrupt; 0: what is corrupt is something else that it left.
    pub lsn: u64,
    /// The pages that it was writing, and what it left of them. A page that it was making is listed with the generation
    /// of the one before.
    pub pages: Vec<WreckedPage>,
    /// Whether it held the name directory: a creation, removal or renaming may be half done.
    pub names: bool,
}

/// A page whose writer died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WreckedPage {
    /// The page.
    pub id: PageId,
    /// What was left.
    pub left: Left,
}

/// What a dead writer left of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// There is no page, or not yet.
    Nothing,
    /// The state ahead of the delta.
    Before,
    /// The state behind the delta, or the page was not part of it.
    Behind,
    /// Possibly some bytes of both.
    Torn,
}

impl Core {
    /// What the dead left that no recovery can finish. Looks only; recoveries meanwhile may make it wrong.
    pub fn wrecks(&self) -> Vec<Wreck> {
        let slots = self.ctl.participants_used().iter().enumerate();
        slots
            .filter_map(|(index, slot)| {
                let (index, state) = (index as u32, slot.state.load(Ordering::Acquire));
                let generation = state >> 8;
                if state & 0xff != SLOT_ACTIVE || !self.is_dead(index, generation) {
                    return None;
                }
                let life = owner::word(index, generation);
                let hold = load_lsn(&slot.hold, Ordering::Acquire);
                let corrupt = check_redo(self, life, hold).err()?;
                Some(wreck(self, index, generation, corrupt, true))
            })
            .collect()
    }

    /// Gives up what the dead participant in slot `index` did not finish, if that cannot be finished: its record becomes
    /// padding, a half-written page keeps the bytes it has and counts one delta more, everything it held is free.
    /// `None`: nothing was given up, because it is not dead, or was recovered like any other.
    ///
    /// This loses a committed delta, so nobody does it unasked. Whoever asks tells the others (a mark), and writes
    /// the pages again, so that the log says what they hold.
    ///
    /// # Errors
    /// [`PageError::Corrupt`] if the ring itself is damaged, [`PageError::Timeout`] if somebody else stands in the middle of
    /// recovering it.
    pub fn abandon_dead(&self, index: u32) -> Result<Option<Wreck>, PageError> {
        let Some(slot) = self.ctl.participants().get(index as usize) else {
            return Ok(None);
        };
        let fd = space::reopen(self.ctl.probe().as_fd(), true)
            .and_then(Description::new)
            .map_err(|e| PageError::io("reopen the control segment", e))?;
        let begin = Instant::now();
        let byte = LOCK_RECOVERY + u64::from(index);
        while !lock::try_lock(fd.as_fd(), byte)
            .map_err(|e| PageError::io("lock for recovery", e))?
        {
            if begin.elapsed() > Duration::from_secs(1) {
                return Err(PageError::Timeout {
                    what: format!("the recovery of {}", self.describe(index)),
                    holder: "whoever recovers it".into(),
                    waited: begin.elapsed(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let guard = RecoveryLock { fd: &fd, byte };
        // Acquire: under the lock, as in `participant`.
        let state = slot.state.load(Ordering::Acquire);
        let generation = state >> 8;
        if state & 0xff != SLOT_ACTIVE || !self.is_dead(index, generation) {
            return Ok(None);
        }
        let Err(corrupt) = finish(self, index, generation) else {
            drop(guard);
            wake_all(self);
            return Ok(None);
        };
        let life = owner::word(index, generation);
        // The ring as such must be whole: a claim that nobody finds would stop all who follow.
        pad_claims(self, life)?;
        // Not the record's fault if only what comes behind the redo failed.
        let hold = load_lsn(&slot.hold, Ordering::Acquire);
        let torn = held_pages(self, life).any(|page| page.left == Left::Torn);
        let lost = torn || redo(self, life, hold).is_err();
        let wreck = wreck(self, index, generation, corrupt, lost);
        self.pages.count(Counter::Abandoned, 1);
        step("abandon.counted");
        for page in wreck.pages.iter().filter(|p| p.left == Left::Torn) {
            if let Some(entry) = self.pages.load_entry(page.id.index) {
                let header = self.pages.block(entry.block(), 0)?.header;
                // Not the even value it had: a reader that began ahead of the death must not believe its copy.
                let even = header.seq.load(Ordering::Relaxed) & !1;
                seqlock::write_end(&header.seq, even, 1);
            }
        }
        step("abandon.even");
        // Behind the pages: until here who does this again finds the same record. From here on the recovery has nothing
        // to redo.
        if wreck.lsn != 0
            && let Seen::Ready(stamp) = self.pages.ring().look(wreck.lsn)
        {
            self.pages.ring().pad(wreck.lsn, stamp);
        }
        slot.hold.store(0, Ordering::Release);
        step("abandon.padded");
        for hand in &slot.in_hand {
            let at = BlockRef::from_bits(hand.load(Ordering::Acquire));
            if !at.is_none() && self.pages.free_block(at, BlockState::Held(life)).is_err() {
                // No block stands there: nothing to give back.
                hand.store(0, Ordering::Release);
            }
        }
        slot.recovering.store(0, Ordering::Relaxed);
        let finished = finish(self, index, generation);
        drop(guard);
        wake_all(self);
        finished?;
        Ok(Some(wreck))
    }
}

fn wreck(core: &Core, index: u32, generation: u64, corrupt: Corrupt, lost: bool) -> Wreck {
    let slot = &core.ctl.participants()[index as usize];
    let life = owner::word(index, generation);
    let hold = load_lsn(&slot.hold, Ordering::Acquire);
    let names = &core.ctl.header().names_lock;
    Wreck {
        index,
        generation,
        name: read_name(&slot.name),
        pid: slot.pid.load(Ordering::Relaxed),
        corrupt,
        lsn: ready_group(core, life, hold)
            .filter(|_| lost)
            .map_or(0, |_| hold),
        pages: held_pages(core, life).collect(),
        names: owner::holder(names.load(Ordering::Acquire)) == life,
    }
}

/// Numbers of the pages whose owner word names the life.
fn held_words(core: &Core, life: u32) -> impl Iterator<Item = u32> {
    (0..core.pages.indices_used()).filter(move |index| {
        // Acquire: with the word, what its holder did.
        owner::holder(core.ctl.owner(*index).load(Ordering::Acquire)) == life
    })
}

/// What a dead writer whose unfinished commit is at `hold` left of a page. `None`: there is no entry for it, or somebody
/// else took it meanwhile, as a lease of the dead may be taken.
fn left(core: &Core, life: u32, index: u32, hold: u64) -> Option<Left> {
    let entry = core.pages.load_entry(index)?;
    let left = match core.pages.block(entry.block(), 0) {
        _ if entry.block().is_none() => Left::Nothing,
        Err(_) => Left::Nothing,
        Ok(block) if block.header.seq.load(Ordering::Acquire) & 1 == 1 => Left::Torn,
        Ok(block) if load_lsn(&block.header.lsn, Ordering::Relaxed) < hold => Left::Before,
        Ok(_) => Left::Behind,
    };
    // Acquire fence: the word is looked at behind the page, which is the dead one's only if the word still is. (A page that
    // the dead one left odd is not taken: it was locked, or `active` says that a leased commit was under way.)
    fence(Ordering::Acquire);
    let word = core.ctl.owner(index).load(Ordering::Relaxed);
    (owner::holder(word) == life).then_some(left)
}

/// Pages whose owner word names the life.
fn held_pages(core: &Core, life: u32) -> impl Iterator<Item = WreckedPage> {
    let slot = owner::index(life).and_then(|i| core.ctl.participants().get(i as usize));
    let hold = slot.map_or(0, |slot| load_lsn(&slot.hold, Ordering::Acquire));
    held_words(core, life).filter_map(move |index| {
        let left = left(core, life, index, hold)?;
        let generation = core.pages.load_entry(index)?.generation();
        Some(WreckedPage {
            id: PageId { index, generation },
            left,
        })
    })
}

/// Step 1. Walks to the end of the ring from `published`, or from the last claim that the dead one noted, since a later one
/// stands behind it; a claim's length stays, so record boundaries do too.
fn pad_claims(core: &Core, life: u32) -> Result<u64, Corrupt> {
    let ring = core.pages.ring();
    let published = load_lsn(ring.published, Ordering::Acquire);
    let slot = owner::index(life).and_then(|i| core.ctl.participants().get(i as usize));
    // Acquire: the life is over.
    let claimed = slot.map_or(0, |slot| load_lsn(&slot.claimed, Ordering::Acquire));
    let mut at = published.max(claimed);
    let mut padded = 0;
    let end = published.saturating_add(ring.len());
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

/// The stamp of the group that the life committed at `hold` and may not have applied.
fn ready_group(core: &Core, life: u32, hold: u64) -> Option<Stamp> {
    let ring = core.pages.ring();
    // The hold keeps the floor where it is; a value outside the ring is no hold.
    if hold < ring.floor.load(Ordering::Acquire) || hold >= ring.limit.load(Ordering::Acquire) {
        return None;
    }
    match ring.look(hold) {
        Seen::Ready(stamp) if stamp.is_by(life) => Some(stamp),
        _ => None,
    }
}

/// The records of a loaded group, taken apart.
fn take_apart(group: &[Loaded]) -> Result<Vec<GroupRecord<'_>>, Corrupt> {
    let mut records = Vec::with_capacity(group.len());
    for r in group {
        let bad = Corrupt {
            what: "record",
            offset: r.lsn,
        };
        records.push(GroupRecord {
            lsn: r.lsn,
            head: r.head,
            kind: Kind::from_byte(r.head.kind).ok_or(bad)?,
            parts: record::parts(&r.head, &r.body).ok_or(bad)?,
        });
    }
    Ok(records)
}

/// Step 2. Returns 1 for (not begun, left odd).
fn redo(core: &Core, life: u32, hold: u64) -> Result<(u64, u64), Corrupt> {
    let Some(stamp) = ready_group(core, life, hold) else {
        return Ok((0, 0));
    };
    let group = load_group(core, hold, stamp.slots())?;
    let records = take_apart(&group)?;
    let pages_max = core.pages.geometry.pages_max;
    let applied = apply_group(core, &records, |index| {
        // Acquire: a word that is still the dead one's says that the page was not given back.
        index < pages_max && owner::holder(core.ctl.owner(index).load(Ordering::Acquire)) == life
    })?;
    Ok((u64::from(applied.fresh > 0), u64::from(applied.odd > 0)))
}

/// Whether the redo will find what it needs, as far as a look can tell.
fn check_redo(core: &Core, life: u32, hold: u64) -> Result<(), Corrupt> {
    let group = match ready_group(core, life, hold) {
        Some(stamp) => load_group(core, hold, stamp.slots())?,
        None => Vec::new(),
    };
    let records = take_apart(&group)?;
    for page in held_pages(core, life) {
        let of_page = |r: &&GroupRecord<'_>| r.head.index == page.id.index;
        if page.left == Left::Torn && !records.iter().any(|r| of_page(&r)) {
            return Err(Corrupt {
                what: "record of a page that is half written",
                offset: page.id.index.into(),
            });
        }
        for r in records.iter().filter(of_page) {
            let in_place = r.head.flags & RecordFlags::BLOCK == 0;
            match r.kind {
                Kind::Patch | Kind::Ranges | Kind::Masked if in_place => {
                    let Some(entry) = core.pages.load_entry(page.id.index) else {
                        continue;
                    };
                    if entry.generation() != r.head.generation || entry.block().is_none() {
                        continue;
                    }
                    let block = core.pages.block(entry.block(), 0)?;
                    let size = block.header.size.load(Ordering::Relaxed);
                    let payload = r.parts.payload;
                    record::for_each_range(r.kind, r.head.offset, payload, size.into(), |_, _| {})
                        .ok_or(Corrupt {
                            what: "range of a record",
                            offset: r.lsn,
                        })?;
                }
                _ => {
                    for bits in [r.parts.new_block, r.parts.old_block] {
                        let at = BlockRef::from_bits(bits);
                        if !at.is_none() {
                            core.pages.block(at, 0)?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Part of step 4, and of a clean leave.
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

/// Step 3.
fn release_words(core: &Core, life: u32, held: &[u32]) {
    for index in held {
        if owner::clear_if(core.ctl.owner(*index), life) {
            step("recovery.released_one");
        }
    }
    let h = core.ctl.header();
    for word in [&h.limit_lock, &h.names_lock, &h.grow_lock] {
        owner::clear_if(word, life);
    }
}

/// Steps 4 and 5, and the end of a clean leave: the slot belongs to nobody.
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
    // Who adds up the living and the gone meanwhile would miss what is under way (`Core::totals`).
    slot.recovering.store(MOVING, Ordering::Relaxed);
    for (counter, n) in sums {
        // Release fences (N1): who sees a sum gone sees that sums are moving, and who sees it added sees it gone.
        fence(Ordering::Release);
        let n = n.swap(0, Ordering::Relaxed);
        step("leave.counting");
        fence(Ordering::Release);
        core.pages.count(counter, n);
    }
    // Release (N2): who sees that it is over sees the counters.
    slot.recovering.store(0, Ordering::Release);
    // Release: everything above is done; the slot may be taken.
    slot.state
        .store((generation + 1) << 8 | SLOT_FREE, Ordering::Release);
}

const _: () = assert!(UNBLOCKED == robust::NO_THREAD);

/// Wakes everybody: a dead writer may have been about to.
fn wake_all(core: &Core) {
    let h = core.ctl.header();
    doorbell::wake(&h.owner_bell, &h.owner_sleepers, u32::MAX);
    doorbell::wake(&core.pages.header().doorbell, &h.sleepers, u32::MAX);
}

#[cfg(test)]
mod tests;
