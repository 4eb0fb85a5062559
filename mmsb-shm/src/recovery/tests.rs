//! Every half-written state, built by hand, recovered, and recovered again: the second time changes nothing.
//!
//! The dead one's steps are made here one at a time, in the order of the commit path, with the functions of that path;
//! then its kernel lock is dropped without a word, as by a SIGKILL.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::*;
use crate::copy;
use crate::layout::page::{DirectoryEntry, NameEntry};
use crate::layout::participant::{CURSOR_JOINING, IN_HAND};
use crate::layout::ring::{RecordFlags, slots_for};
use crate::names::{self, Cold, NewPage};
use crate::page::{PageId, PageRef, cell_current, seqlock};
use crate::participant::{Holder, Participant, ParticipantConfig};
use crate::restore::Restorer;
use crate::ring::gating;
use crate::segment::{BusConfig, Draft, LOCK_SLOT};
use crate::sys::{fork, space::SegmentDir};

struct Bus {
    core: Arc<Core>,
    survivor: Participant,
    _tmp: tempfile::TempDir,
}

const CONTENT: [u8; 64] = [7; 64];

thread_local! {
    /// Whether [`Bus::recover`] repairs ahead of the end of the process, as behind the kernel's mark.
    static MARKED: Cell<bool> = const { Cell::new(false) };
}

/// Every state that a death can leave, met by way of the kernel's mark first.
#[test]
fn every_state_again_while_the_process_is_still_taken_down() {
    MARKED.set(true);
    for test in [
        a_locked_page_is_given_up_untouched as fn(),
        a_claim_becomes_padding_with_or_without_its_hold_and_however_much_was_written,
        a_committed_patch_is_applied_once_from_every_state_of_its_page,
        a_late_redo_does_not_touch_a_page_that_moved_on,
        a_cell_gets_its_version_from_every_state,
        a_group_is_finished_on_the_pages_that_are_still_locked,
        a_swap_is_finished_from_every_state,
        a_block_in_the_hand_of_the_dead_is_free_and_listed_again,
        a_creation_is_finished_with_its_name_from_every_state,
        a_creation_that_was_only_claimed_leaves_nothing,
        a_destruction_is_finished_with_its_name_from_every_state,
        a_rename_is_finished_from_every_state,
        locks_of_the_dead_are_given_up_and_what_they_guard_goes_on,
        cursors_pins_and_leases_of_the_dead_hold_nothing_back,
    ] {
        test();
    }
    MARKED.set(false);
}

impl Bus {
    fn new() -> Bus {
        let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = BusConfig {
            ring_bytes: 8192,
            pages_max: 32,
            names_max: 8,
            participants_max: 4,
            cursors_max: 4,
            bytes_max: 64 << 20,
            ..BusConfig::default()
        };
        let dir = SegmentDir::at(tmp.path());
        let core = Arc::new(Core::create(&dir, "t", &config).unwrap());
        let survivor = join(&core, "survivor");
        Bus {
            core,
            survivor,
            _tmp: tmp,
        }
    }

    /// A page of 64 sevens, one delta old.
    fn page(&self, versions: u32) -> PageRef {
        let new = NewPage {
            size: 64,
            versions,
            ..NewPage::default()
        };
        let id = self.survivor.create_page(&new).unwrap();
        let page = self.core.pages.resolve(id).unwrap();
        self.survivor.patch(&page, 0, &CONTENT).unwrap();
        page
    }

    fn content(&self, page: &PageRef) -> ([u8; 64], u64, u64) {
        let page = self.core.pages.resolve(page.id()).unwrap();
        let mut bytes = [0; 64];
        let version = self.survivor.read(&page, 0, &mut bytes).unwrap();
        (bytes, version.epoch, version.lsn)
    }

    fn owner(&self, page: &PageRef) -> u32 {
        self.core.ctl.owner(page.id().index).load(Ordering::Acquire)
    }

    /// All of `.pages`, but for what counts events and rings bells.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = std::fs::read(self.core.pages.path()).unwrap();
        bytes[1536..4096].fill(0);
        bytes
    }

    /// The survivor recovers the life `dead`. Then the same once more, as after a recoverer that died just before it gave
    /// the slot up (`words`: before it gave up the owner words, too): nothing may change.
    fn recover(&self, dead: Dead) -> [u64; 4] {
        let counters = || {
            [
                Counter::RecoveredClaimed,
                Counter::RecoveredReady,
                Counter::RecoveredOdd,
                Counter::RecoveredLocked,
            ]
            .map(|c| self.core.pages.counter(c))
        };
        let before = counters();
        let slot = &self.core.ctl.participants()[dead.index as usize];
        let owners: Vec<u32> = self
            .core
            .ctl
            .owners()
            .iter()
            .map(|w| w.load(Ordering::Relaxed))
            .collect();
        let hold = slot.hold.load(Ordering::Relaxed);
        let hands: Vec<u64> = slot
            .in_hand
            .iter()
            .map(|h| h.load(Ordering::Relaxed))
            .collect();
        if MARKED.get() {
            self.unblock(&dead);
        }
        assert_eq!(self.survivor.recover_all(), Ok(1));
        let after = counters();
        let once = self.bytes();
        for words in [false, true] {
            for (hand, bits) in slot.in_hand.iter().zip(&hands) {
                hand.store(*bits, Ordering::Relaxed);
            }
            slot.hold.store(hold, Ordering::Relaxed);
            slot.recovering.store(1, Ordering::Relaxed);
            if words {
                for (word, was) in self.core.ctl.owners().iter().zip(&owners) {
                    word.store(*was, Ordering::Relaxed);
                }
            }
            slot.state
                .store(dead.generation << 8 | SLOT_ACTIVE, Ordering::Release);
            assert_eq!(self.survivor.recover_all(), Ok(1), "words {words}");
            assert!(self.bytes() == once, "again, words {words}");
        }
        assert_eq!(self.survivor.recover_all(), Ok(0));
        let state = slot.state.load(Ordering::Acquire);
        assert_eq!(state, (dead.generation + 1) << 8 | SLOT_FREE);
        assert_eq!(slot.hold.load(Ordering::Acquire), 0);
        let life = owner::word(dead.index, dead.generation);
        let held = held_words(&self.core, life).next();
        assert_eq!(held, None, "a word is still held");
        let h = self.core.ctl.header();
        for lock in [&h.limit_lock, &h.names_lock, &h.grow_lock] {
            assert_eq!(lock.load(Ordering::Acquire), 0, "a lock is still held");
        }
        [0, 1, 2, 3].map(|i| after[i] - before[i])
    }

    /// The thread of `dead` died inside an operation, and its process is still being taken down: what it held up is
    /// repaired, and all the rest stays.
    fn unblock(&self, dead: &Dead) {
        let core = &self.core;
        let slot = &core.ctl.participants()[dead.index as usize];
        let byte = LOCK_SLOT + u64::from(dead.index);
        let process = space::reopen(core.ctl.probe().as_fd(), true).unwrap();
        assert!(lock::try_lock(&process, byte).unwrap());
        let recover = || participant(core, &self.survivor.fd, dead.index).unwrap();
        slot.thread.store(4711, Ordering::Relaxed);
        assert!(!recover(), "the kernel did not mark it");
        slot.thread
            .store(4711 | robust::OWNER_DIED, Ordering::Relaxed);
        let life = owner::word(dead.index, dead.generation);
        assert_eq!(core.holder(life), Holder::Dead(dead.index));
        let rest = || {
            let hand = slot.in_hand.iter().chain(&slot.hazards);
            let hand: Vec<u64> = hand.map(|h| h.load(Ordering::Relaxed)).collect();
            let cursors = core.ctl.cursors().iter();
            let cursors: Vec<u32> = cursors.map(|c| c.owner.load(Ordering::Relaxed)).collect();
            (hand, cursors, slot.state.load(Ordering::Relaxed))
        };
        let (before, recoveries) = (rest(), core.pages.counter(Counter::Recoveries));
        assert!(recover());
        assert!(rest() == before, "siblings may still use it");
        assert_eq!(core.pages.counter(Counter::Recoveries), recoveries + 1);
        assert_eq!(held_words(core, life).next(), None, "a word is still held");
        assert_eq!(slot.hold.load(Ordering::Relaxed), 0);
        assert_eq!(slot.recovering.load(Ordering::Relaxed), 0);
        assert_eq!(core.holder(life), Holder::Alive(dead.index));
        let bytes = self.bytes();
        assert!(!recover(), "there is nothing left to repair");
        assert!(self.bytes() == bytes);
        assert_eq!(slot.thread.load(Ordering::Relaxed), UNBLOCKED);
    }

    /// Writing goes on: the page takes a delta, and everything is in one READY prefix.
    fn goes_on(&self, page: &PageRef) {
        let page = self.core.pages.resolve(page.id()).unwrap();
        let (_, epoch, _) = self.content(&page);
        let lsn = self.survivor.patch(&page, 63, &[1]).unwrap();
        let (bytes, after, at) = self.content(&page);
        assert_eq!((bytes[63], after, at), (1, epoch + 1, lsn));
        assert_eq!(
            self.survivor.applied_lsn().unwrap(),
            self.core.pages.end_lsn()
        );
    }
}

fn join(core: &Arc<Core>, name: &str) -> Participant {
    let config = ParticipantConfig {
        name: name.into(),
        ..ParticipantConfig::default()
    };
    Participant::join(Arc::clone(core), config).unwrap()
}

struct Dead {
    index: u32,
    generation: u64,
}

/// The kernel lock goes, everything else stays as it is.
fn die(mut participant: Participant) -> Dead {
    let index = participant.index();
    let generation = participant.slot().state.load(Ordering::Relaxed) >> 8;
    fork::forget(participant.fd.as_raw_fd());
    // SAFETY: dropped once, here: the participant itself is forgotten.
    unsafe { ManuallyDrop::drop(&mut participant.fd) };
    std::mem::forget(participant);
    Dead { index, generation }
}

fn lock(p: &Participant, page: &PageRef) {
    assert!(owner::try_acquire(p.owner_word(page.id().index), p.me).is_ok());
}

fn unlock(p: &Participant, page: &PageRef) {
    owner::release(p.owner_word(page.id().index), p.me);
}

fn head(id: PageId, kind: Kind, flags: u8, offset: u32, body: &[u8]) -> RecordHead {
    RecordHead {
        index: id.index,
        generation: id.generation,
        offset,
        body: body.len() as u32,
        kind: kind as u8,
        flags,
        source: 0,
        time: 0,
    }
}

/// Claims and writes one record, not READY.
fn write(
    p: &Participant,
    id: PageId,
    kind: Kind,
    flags: u8,
    offset: u32,
    body: &[u8],
) -> (u64, u32) {
    let slots = slots_for(body.len()) as u32;
    let lsn = p.claim(slots).unwrap().unwrap();
    let head = head(id, kind, flags, offset, body);
    record::write(&p.ring(), lsn, &head, body, p.me, false);
    (lsn, slots)
}

/// The same, READY.
fn commit(p: &Participant, id: PageId, kind: Kind, flags: u8, offset: u32, body: &[u8]) -> u64 {
    let (lsn, slots) = write(p, id, kind, flags, offset, body);
    p.publish(lsn, slots);
    lsn
}

fn store(page: &PageRef, offset: usize, bytes: &[u8]) {
    // SAFETY: inside the page, whose block holds 64 bytes; the tests are its only writers here.
    unsafe {
        copy::store(
            page.block().payload.add(offset),
            bytes.as_ptr(),
            bytes.len(),
        )
    };
}

const PATCH: [u8; 40] = [9; 40];

fn patched() -> [u8; 64] {
    let mut bytes = CONTENT;
    bytes[10..50].copy_from_slice(&PATCH);
    bytes
}

#[test]
fn a_locked_page_is_given_up_untouched() {
    let bus = Bus::new();
    let page = bus.page(1);
    let d = join(&bus.core, "d");
    lock(&d, &page);
    assert_eq!(bus.recover(die(d)), [0, 0, 0, 1]);
    assert_eq!(bus.content(&page).0, CONTENT);
    bus.goes_on(&page);
}

#[test]
fn a_claim_becomes_padding_with_or_without_its_hold_and_however_much_was_written() {
    for state in 0..3 {
        let bus = Bus::new();
        let page = bus.page(1);
        let d = join(&bus.core, "d");
        lock(&d, &page);
        let lsn = match state {
            0 => {
                let lsn = d.claim(2).unwrap().unwrap();
                gating::unhold(&d.slot().hold);
                lsn
            }
            1 => d.claim(2).unwrap().unwrap(),
            _ => write(&d, page.id(), Kind::Patch, 0, 10, &PATCH).0,
        };
        // Somebody else's record behind it must not wait.
        let other = bus.page(1);
        assert_eq!(bus.recover(die(d)), [1, 0, 0, 0], "state {state}");
        let seen = bus.core.pages.ring().look(lsn);
        assert!(matches!(seen, Seen::Padding(s) if s.slots() == 2));
        assert_eq!(bus.content(&page), (CONTENT, 1, bus.content(&page).2));
        bus.goes_on(&page);
        bus.goes_on(&other);
    }
}

#[test]
fn a_committed_patch_is_applied_once_from_every_state_of_its_page() {
    // How far the dead one got behind READY; what recovery counts.
    let states = [
        ("ready", [0, 1, 0, 0]),
        ("odd", [0, 0, 1, 0]),
        ("half copied", [0, 0, 1, 0]),
        ("copied", [0, 0, 1, 0]),
        ("lsn", [0, 0, 1, 0]),
        ("even", [0, 0, 0, 1]),
        ("unlocked", [0, 0, 0, 0]),
    ];
    for (reached, (state, counted)) in states.into_iter().enumerate() {
        let bus = Bus::new();
        let page = bus.page(1);
        let d = join(&bus.core, "d");
        lock(&d, &page);
        let lsn = commit(&d, page.id(), Kind::Patch, 0, 10, &PATCH);
        let header = page.block().header;
        let even = header.seq.load(Ordering::Relaxed);
        if reached >= 1 {
            assert_eq!(seqlock::write_begin(&header.seq), even);
        }
        if reached >= 2 {
            store(&page, 10, &PATCH[..17]);
        }
        if reached >= 3 {
            store(&page, 10, &PATCH);
        }
        if reached >= 4 {
            header.lsn.store(lsn, Ordering::Relaxed);
        }
        if reached >= 5 {
            seqlock::write_end(&header.seq, even, 1);
        }
        if reached >= 6 {
            unlock(&d, &page);
        }
        assert_eq!(bus.recover(die(d)), counted, "{state}");
        assert_eq!(bus.content(&page), (patched(), 2, lsn), "{state}");
        bus.goes_on(&page);
    }
}

#[test]
fn a_late_redo_does_not_touch_a_page_that_moved_on() {
    let bus = Bus::new();
    let page = bus.page(1);
    let d = join(&bus.core, "d");
    lock(&d, &page);
    let lsn = commit(&d, page.id(), Kind::Patch, 0, 10, &PATCH);
    let even = seqlock::write_begin(&page.block().header.seq);
    store(&page, 10, &PATCH);
    page.block().header.lsn.store(lsn, Ordering::Relaxed);
    seqlock::write_end(&page.block().header.seq, even, 1);
    unlock(&d, &page);
    // Its hold still stands; the next writer is in the middle of its own commit.
    let e = join(&bus.core, "e");
    lock(&e, &page);
    let later = commit(&e, page.id(), Kind::Patch, 0, 0, &[1; 64]);
    seqlock::write_begin(&page.block().header.seq);
    store(&page, 0, &[1; 32]);
    assert_eq!(bus.recover(die(d)), [0, 0, 0, 0]);
    let mut bytes = [0; 64];
    // SAFETY: the page's 64 bytes; no writer runs.
    unsafe { copy::load(bytes.as_mut_ptr(), page.block().payload, 64) };
    assert_eq!((&bytes[..32], &bytes[50..]), (&[1; 32][..], &CONTENT[50..]));
    assert_eq!(bus.recover(die(e)), [0, 0, 1, 0]);
    assert_eq!(bus.content(&page), ([1; 64], 3, later));
    bus.goes_on(&page);
}

#[test]
fn a_cell_gets_its_version_from_every_state() {
    for reached in 0..4 {
        let bus = Bus::new();
        let page = bus.page(4);
        let d = join(&bus.core, "d");
        lock(&d, &page);
        let lsn = commit(&d, page.id(), Kind::Patch, 0, 10, &PATCH);
        let block = page.block();
        let (cell, now, current, from) = cell_current(&block, 64, 4, 0);
        let (_, _, next, to) = cell_current(&block, 64, 4, 1);
        if reached >= 1 {
            // SAFETY: two different version slots of 64 bytes; the test is the only writer.
            unsafe {
                copy::move_shared(to, from, 64);
                copy::store(to.add(10), PATCH.as_ptr(), 20);
            }
        }
        if reached >= 2 {
            // SAFETY: as above.
            unsafe { copy::store(to.add(10), PATCH.as_ptr(), 40) };
            next.lsn.store(lsn, Ordering::Relaxed);
            let epoch = current.epoch.load(Ordering::Relaxed) + 1;
            next.epoch.store(epoch, Ordering::Relaxed);
        }
        if reached >= 3 {
            crate::page::cell::publish(&cell.head, now);
        }
        let counted = bus.recover(die(d));
        assert_eq!(counted[1], u64::from(reached < 3), "state {reached}");
        assert_eq!(bus.content(&page), (patched(), 2, lsn), "state {reached}");
        assert_eq!(block.header.seq.load(Ordering::Relaxed), 4);
        bus.goes_on(&page);
    }
}

/// A group of two patches, one of each page, READY.
fn commit_group(d: &Participant, pages: [&PageRef; 2], flags: u8) -> [u64; 2] {
    let first = d.claim(4).unwrap().unwrap();
    for (i, page) in pages.iter().enumerate() {
        let head = head(page.id(), Kind::Patch, flags, 10, &PATCH);
        let at = first + 2 * i as u64;
        record::write(&d.ring(), at, &head, &PATCH, d.me, i > 0);
    }
    d.publish(first, 4);
    [first, first + 2]
}

#[test]
fn a_group_is_finished_on_the_pages_that_are_still_locked() {
    for transaction in [false, true] {
        for reached in 0..5 {
            let bus = Bus::new();
            let pages = [bus.page(1), bus.page(1)];
            let d = join(&bus.core, "d");
            for page in &pages {
                lock(&d, page);
            }
            let flags = if transaction {
                RecordFlags::TRANSACTION
            } else {
                0
            };
            let lsns = commit_group(&d, [&pages[0], &pages[1]], flags);
            let seqs = [0, 1].map(|i: usize| &pages[i].block().header.seq);
            if transaction && reached >= 1 {
                seqlock::write_begin(seqs[0]);
            }
            if transaction && reached >= 2 {
                seqlock::write_begin(seqs[1]);
            }
            if reached >= 3 {
                let even = seqlock::write_begin(seqs[0]);
                store(&pages[0], 10, &PATCH);
                pages[0]
                    .block()
                    .header
                    .lsn
                    .store(lsns[0], Ordering::Relaxed);
                seqlock::write_end(seqs[0], even, 1);
            }
            if reached >= 4 {
                // Not what the path does, but what a recoverer leaves that dies between two words.
                unlock(&d, &pages[0]);
            }
            bus.recover(die(d));
            for (page, lsn) in pages.iter().zip(lsns) {
                let state = format!("transaction {transaction}, state {reached}");
                assert_eq!(bus.content(page), (patched(), 2, lsn), "{state}");
                bus.goes_on(page);
            }
        }
    }
}

#[test]
fn a_swap_is_finished_from_every_state() {
    for reached in 0..4 {
        let bus = Bus::new();
        let page = bus.page(1);
        let d = join(&bus.core, "d");
        let held = d.allocate(64, Some(page.id())).unwrap();
        let old = page.entry().block();
        // SAFETY: the block holds 64 bytes and is in the dead one's hand.
        unsafe { copy::store(held.block.payload, [5u8; 64].as_ptr(), 64) };
        let new = held.block.header;
        new.size.store(64, Ordering::Relaxed);
        new.shape.store(
            held.class | crate::layout::page::SHAPE_LOANED,
            Ordering::Relaxed,
        );
        new.seq.store(4, Ordering::Relaxed);
        lock(&d, &page);
        let body = [held.block.at.bits().to_le_bytes(), old.bits().to_le_bytes()].concat();
        let (lsn, slots) = write(&d, page.id(), Kind::Swap, RecordFlags::BLOCK, 0, &body);
        new.lsn.store(lsn, Ordering::Relaxed);
        d.publish(lsn, slots);
        let index = page.id().index;
        if reached >= 1 {
            let live = BlockState::Live(index).word();
            new.state.store(live, Ordering::Release);
        }
        if reached >= 2 {
            let entry = DirectoryEntry::new(page.id().generation, held.block.at);
            let word = bus.core.pages.entry(index).unwrap();
            word.store(entry.0, Ordering::Release);
        }
        let old_state = &bus.core.pages.block(old, 0).unwrap().header.state;
        if reached >= 3 {
            let lsn = page.block().header.lsn.load(Ordering::Relaxed);
            let retired = BlockState::retired(index, lsn).word();
            old_state.store(retired, Ordering::Release);
        }
        let at = held.block.at;
        bus.recover(die(d));
        assert_eq!(bus.content(&page), ([5; 64], 2, lsn), "state {reached}");
        let state = |at| {
            let block = bus.core.pages.block(at, 0).unwrap();
            BlockState::from_word(block.header.state.load(Ordering::Acquire))
        };
        assert_eq!(state(at), BlockState::Live(index));
        assert!(matches!(state(old), BlockState::Retired { page, .. } if page == index));
    }
}

#[test]
fn a_block_in_the_hand_of_the_dead_is_free_and_listed_again() {
    let bus = Bus::new();
    bus.page(1);
    let free = || {
        let uses = bus.core.pages.class_use();
        uses.iter().map(|u| (u.free, u.pending)).collect::<Vec<_>>()
    };
    let before = free();
    let d = join(&bus.core, "d");
    let held = d.allocate(64, None).unwrap();
    let hand = d.slot().in_hand[IN_HAND - 1].load(Ordering::Relaxed);
    assert_eq!(hand, 0);
    assert_ne!(free(), before);
    let at = held.block.at;
    bus.recover(die(d));
    assert_eq!(free(), before, "block {at:?} is free by its header");
    // The dead one took a word of hints with it. A sweep lists them again before the class grows.
    let slabs: u32 = bus.core.pages.class_use().iter().map(|u| u.slabs).sum();
    for _ in 0..20 {
        bus.page(1);
    }
    let now: u32 = bus.core.pages.class_use().iter().map(|u| u.slabs).sum();
    assert_eq!(now, slabs);
}

/// What a creation of a named page leaves in the ring: READY, nothing applied.
fn commit_create(bus: &Bus, d: &Participant) -> (PageId, BlockRef, BlockRef, u64) {
    let index = d.next_index().unwrap();
    let id = PageId {
        index,
        generation: 1,
    };
    assert!(owner::try_acquire(&bus.core.ctl.header().names_lock, d.me).is_ok());
    assert!(owner::try_acquire(d.owner_word(index), d.me).is_ok());
    let held = d.allocate(64, None).unwrap();
    let named = Cold {
        name: "made".into(),
        ..Cold::default()
    };
    let (cold, bytes) = d.prepare_cold(id, &named).unwrap();
    let mut body = Vec::new();
    body.extend(held.block.at.bits().to_le_bytes());
    body.extend(cold.block.at.bits().to_le_bytes());
    body.extend(64u32.to_le_bytes());
    body.extend((held.class | 1 << 8).to_le_bytes());
    body.extend(bytes);
    let lsn = commit(d, id, Kind::Create, RecordFlags::BLOCK, 0, &body);
    (id, held.block.at, cold.block.at, lsn)
}

#[test]
fn a_creation_is_finished_with_its_name_from_every_state() {
    for reached in 0..6 {
        let bus = Bus::new();
        let other = bus.page(1);
        let d = join(&bus.core, "d");
        let (id, at, cold, lsn) = commit_create(&bus, &d);
        let pages = &bus.core.pages;
        let header = pages.block(at, 64).unwrap().header;
        if reached >= 1 {
            header.size.store(64, Ordering::Relaxed);
            header.lsn.store(lsn, Ordering::Relaxed);
        }
        if reached >= 2 {
            let class = bus.core.class_of(at).unwrap();
            header.shape.store(class | 1 << 8, Ordering::Relaxed);
            let live = BlockState::Live(id.index).word();
            header.state.store(live, Ordering::Release);
        }
        if reached >= 3 {
            let entry = DirectoryEntry::new(1, at);
            let word = pages.entry(id.index).unwrap();
            word.store(entry.0, Ordering::Release);
        }
        if reached >= 4 {
            let state = &pages.block(cold, 0).unwrap().header.state;
            state.store(BlockState::Cold(id.index).word(), Ordering::Release);
        }
        if reached >= 5 {
            let by_id = names::hash_id(id);
            names::insert(pages.names(), by_id, NameEntry::by_id(by_id, cold));
        }
        bus.recover(die(d));
        assert_eq!(pages.find("made").unwrap(), id, "state {reached}");
        assert_eq!(pages.cold(id).unwrap().name, "made");
        assert_eq!(pages.list_names("").unwrap().len(), 1);
        let made = pages.resolve(id).unwrap();
        assert_eq!(bus.content(&made), ([0; 64], 0, lsn), "state {reached}");
        bus.goes_on(&made);
        bus.goes_on(&other);
    }
}

#[test]
fn a_creation_that_was_only_claimed_leaves_nothing() {
    let bus = Bus::new();
    let other = bus.page(1);
    let before = bus.core.pages.class_use();
    let d = join(&bus.core, "d");
    let index = d.next_index().unwrap();
    let id = PageId {
        index,
        generation: 1,
    };
    assert!(owner::try_acquire(d.owner_word(index), d.me).is_ok());
    let held = d.allocate(64, None).unwrap();
    let body = [held.block.at.bits().to_le_bytes(), [0; 8], [0; 8]].concat();
    write(&d, id, Kind::Create, RecordFlags::BLOCK, 0, &body);
    assert_eq!(bus.recover(die(d))[0], 1);
    assert_eq!(bus.core.pages.list_pages(), [other.id()]);
    assert_eq!(bus.core.pages.class_use(), before);
}

#[test]
fn a_destruction_is_finished_with_its_name_from_every_state() {
    for reached in 0..6 {
        let bus = Bus::new();
        let cold = Cold {
            name: "doomed".into(),
            ..Cold::default()
        };
        let new = NewPage {
            size: 64,
            cold,
            ..NewPage::default()
        };
        let id = bus.survivor.create_page(&new).unwrap();
        let pages = &bus.core.pages;
        let page = pages.resolve(id).unwrap();
        let at = page.entry().block();
        let (_, cold) = pages.find_cold(id).unwrap().unwrap();
        let d = join(&bus.core, "d");
        assert!(owner::try_acquire(&bus.core.ctl.header().names_lock, d.me).is_ok());
        lock(&d, &page);
        let body = [at.bits().to_le_bytes(), cold.bits().to_le_bytes()].concat();
        commit(&d, id, Kind::Destroy, RecordFlags::BLOCK, 0, &body);
        if reached >= 1 {
            let gone = DirectoryEntry::new(1, BlockRef::NONE);
            let word = pages.entry(id.index).unwrap();
            word.store(gone.0, Ordering::Release);
        }
        let (by_name, by_id) = (names::hash_name("doomed"), names::hash_id(id));
        if reached >= 2 {
            names::remove(pages.names(), by_name, NameEntry::by_name(by_name, cold));
        }
        if reached >= 3 {
            names::remove(pages.names(), by_id, NameEntry::by_id(by_id, cold));
        }
        if reached >= 4 {
            assert!(pages.free_block(cold, BlockState::Cold(id.index)).unwrap());
        }
        if reached >= 5 {
            assert!(pages.free_block(at, BlockState::Live(id.index)).unwrap());
        }
        bus.recover(die(d));
        assert!(pages.find("doomed").is_err(), "state {reached}");
        assert!(pages.resolve(id).is_err() && pages.list_pages().is_empty());
        let used = |u: &crate::arena::ClassUse| u.free == u.blocks && u.pending == 0;
        assert!(pages.class_use().iter().all(used), "state {reached}");
        // Number and name can be used again, and the number's next page is another one.
        let again = bus.survivor.create_page(&new).unwrap();
        assert_ne!(again, id);
        assert_eq!(pages.find("doomed").unwrap(), again);
    }
}

#[test]
fn a_rename_is_finished_from_every_state() {
    for reached in 0..4 {
        let bus = Bus::new();
        let name = |name: &str| Cold {
            name: name.into(),
            ..Cold::default()
        };
        let new = NewPage {
            size: 64,
            cold: name("before"),
            ..NewPage::default()
        };
        let id = bus.survivor.create_page(&new).unwrap();
        let pages = &bus.core.pages;
        let page = pages.resolve(id).unwrap();
        let (_, old) = pages.find_cold(id).unwrap().unwrap();
        let d = join(&bus.core, "d");
        assert!(owner::try_acquire(&bus.core.ctl.header().names_lock, d.me).is_ok());
        lock(&d, &page);
        let (held, bytes) = d.prepare_cold(id, &name("after")).unwrap();
        let at = held.block.at;
        let refs = [at.bits().to_le_bytes(), old.bits().to_le_bytes()].concat();
        let body = [refs, bytes].concat();
        commit(&d, id, Kind::Describe, RecordFlags::BLOCK, 0, &body);
        if reached >= 1 {
            let by_id = names::hash_id(id);
            names::insert(pages.names(), by_id, NameEntry::by_id(by_id, at));
        }
        if reached >= 2 {
            names::attach_cold(&bus.core, id.index, 1, at).unwrap();
        }
        if reached >= 3 {
            let by_name = names::hash_name("before");
            names::remove(pages.names(), by_name, NameEntry::by_name(by_name, old));
        }
        bus.recover(die(d));
        assert_eq!(pages.find("after").unwrap(), id, "state {reached}");
        assert!(pages.find("before").is_err(), "state {reached}");
        assert_eq!(pages.cold(id).unwrap(), name("after"));
        let state = |at| {
            let block = pages.block(at, 0).unwrap();
            BlockState::from_word(block.header.state.load(Ordering::Acquire))
        };
        assert_eq!(state(at), BlockState::Cold(id.index));
        assert_eq!(state(old), BlockState::Free);
    }
}

#[test]
fn locks_of_the_dead_are_given_up_and_what_they_guard_goes_on() {
    let bus = Bus::new();
    let page = bus.page(1);
    let d = join(&bus.core, "d");
    let h = bus.core.ctl.header();
    for lock in [&h.limit_lock, &h.names_lock, &h.grow_lock] {
        assert!(owner::try_acquire(lock, d.me).is_ok());
    }
    // It died between the floor and the limit.
    let ring = bus.core.pages.ring();
    let floor = ring.floor.load(Ordering::Relaxed);
    ring.raise_published(ring.end());
    ring.floor.store(floor + 16, Ordering::Release);
    bus.recover(die(d));
    for i in 0..500u32 {
        bus.survivor.patch(&page, 0, &i.to_le_bytes()).unwrap();
    }
    assert!(
        ring.floor.load(Ordering::Relaxed) > floor + 16,
        "the floor moves on"
    );
    bus.goes_on(&page);
}

#[test]
fn a_growth_that_stopped_half_way_is_completed_by_the_next_one() {
    for reached in 0..4 {
        let bus = Bus::new();
        let page = bus.page(1);
        let d = join(&bus.core, "d");
        let pages = &bus.core.pages;
        let h = pages.header();
        assert!(owner::try_acquire(&bus.core.ctl.header().grow_lock, d.me).is_ok());
        let first = h.slabs_used.load(Ordering::Relaxed);
        let from = pages.geometry.arena_at + u64::from(first) * crate::layout::SLAB_BYTES;
        let to = from + crate::layout::SLAB_BYTES;
        pages.grow(from, to).unwrap();
        if reached >= 1 {
            h.len.fetch_max(to, Ordering::Release);
        }
        // A run of two slabs: the entry of the second is stored first.
        let class = (0..crate::layout::page::CLASSES)
            .find(|c| crate::layout::page::run_shape(*c).slabs == 2)
            .unwrap();
        let entry = crate::layout::page::SlabEntry::new(class, first);
        if reached >= 2 {
            pages.slabs()[first as usize + 1].store(entry.0, Ordering::Release);
        }
        if reached >= 3 {
            let to = to + crate::layout::SLAB_BYTES;
            pages.grow(from, to).unwrap();
            h.len.fetch_max(to, Ordering::Release);
            pages.slabs()[first as usize].store(entry.0, Ordering::Release);
        }
        bus.recover(die(d));
        let new = NewPage {
            size: 100_000,
            ..NewPage::default()
        };
        for _ in 0..3 {
            let id = bus.survivor.create_page(&new).unwrap();
            let big = pages.resolve(id).unwrap();
            bus.survivor.patch(&big, 99_999, &[1]).unwrap();
        }
        let mut bytes = [0; 64];
        bus.survivor.read(&page, 0, &mut bytes).unwrap();
        assert_eq!(bytes, CONTENT, "state {reached}");
    }
}

#[test]
fn cursors_pins_and_leases_of_the_dead_hold_nothing_back() {
    let bus = Bus::new();
    let page = bus.page(1);
    let d = join(&bus.core, "d");
    let joined = d.follow(true).unwrap();
    std::mem::forget(joined);
    let cursor = &bus.core.ctl.cursors()[1];
    assert!(owner::try_acquire(&cursor.owner, d.me).is_ok());
    cursor.gating.store(1, Ordering::Release);
    cursor.position.store(CURSOR_JOINING, Ordering::Release);
    bus.core
        .ctl
        .header()
        .cursors_used
        .fetch_max(2, Ordering::AcqRel);
    // One it took, and died before it was counted.
    let uncounted = &bus.core.ctl.cursors()[3];
    assert!(owner::try_acquire(&uncounted.owner, d.me).is_ok());
    d.slot().hazards[0].store(page.entry().block().bits(), Ordering::Release);
    std::mem::forget(d.lease(&page).unwrap());
    d.slot().active.store(1, Ordering::Release);
    bus.recover(die(d));
    assert_eq!(bus.owner(&page), 0);
    assert!(
        bus.core
            .ctl
            .cursors()
            .iter()
            .all(|c| c.owner.load(Ordering::Acquire) == 0)
    );
    for i in 0..500u32 {
        bus.survivor.patch(&page, 0, &i.to_le_bytes()).unwrap();
    }
    bus.goes_on(&page);
}

#[test]
fn the_living_are_not_recovered_whatever_they_hold() {
    let bus = Bus::new();
    let page = bus.page(1);
    let d = join(&bus.core, "d");
    lock(&d, &page);
    let lsn = commit(&d, page.id(), Kind::Patch, 0, 10, &PATCH);
    seqlock::write_begin(&page.block().header.seq);
    assert_eq!(bus.survivor.recover_all(), Ok(0));
    assert!(matches!(
        participant(&bus.core, &bus.survivor.fd, d.index()),
        Ok(false)
    ));
    assert_eq!(page.block().header.seq.load(Ordering::Relaxed) & 1, 1);
    assert_eq!(bus.owner(&page), d.me);
    bus.recover(die(d));
    assert_eq!(bus.content(&page), (patched(), 2, lsn));
}

#[test]
fn a_claim_in_the_way_is_padded_by_whoever_waits_for_it() {
    let bus = Bus::new();
    let page = bus.page(1);
    let d = join(&bus.core, "d");
    let follower = bus.survivor.follow(true);
    let mut follower = follower.unwrap();
    d.claim(3).unwrap().unwrap();
    let dead = die(d);
    let lsn = bus.survivor.patch(&page, 0, &[1]).unwrap();
    assert!(bus.survivor.wait(&mut follower, None).unwrap());
    let mut seen = Vec::new();
    bus.survivor
        .poll(&mut follower, 10, |delta| seen.push(delta.lsn))
        .unwrap();
    assert_eq!(seen, [lsn]);
    let slot = &bus.core.ctl.participants()[dead.index as usize];
    assert_eq!(slot.state.load(Ordering::Acquire) & 0xff, SLOT_FREE);
}

#[test]
fn a_corrupt_redo_is_reported_and_its_page_stays_locked() {
    let bus = Bus::new();
    let page = bus.page(1);
    let d = join(&bus.core, "d");
    lock(&d, &page);
    // Reaches past the end of the page.
    commit(&d, page.id(), Kind::Patch, 0, 60, &PATCH);
    let me = d.me;
    die(d);
    for _ in 0..2 {
        let result = bus.survivor.recover_all();
        assert!(matches!(result, Err(PageError::Corrupt(_))), "{result:?}");
        assert_eq!(bus.owner(&page), me);
        let header = page.block().header;
        assert_eq!(header.seq.load(Ordering::Relaxed), 2, "untouched");
    }
}

#[test]
fn a_claim_of_the_living_is_not_padded_for_the_dead() {
    let bus = Bus::new();
    let page = bus.page(1);
    let (d, alive) = (join(&bus.core, "d"), join(&bus.core, "alive"));
    lock(&d, &page);
    let lsn = alive.claim(1).unwrap().unwrap();
    d.claim(1).unwrap().unwrap();
    die(d);
    assert_eq!(bus.survivor.recover_all(), Ok(1));
    let seen = bus.core.pages.ring().look(lsn);
    assert!(matches!(seen, Seen::Claimed(s) if s.is_by(alive.me)));
    let seen = bus.core.pages.ring().look(lsn + 1);
    assert!(matches!(seen, Seen::Padding(_)));
}

#[test]
fn every_slot_of_a_record_carries_a_stamp_of_its_lap() {
    let bus = Bus::new();
    let new = NewPage {
        size: 400,
        ..NewPage::default()
    };
    let page = bus.survivor.create_page(&new).unwrap();
    let page = bus.core.pages.resolve(page).unwrap();
    // Bytes that would be a stamp: READY, one slot, of this lap.
    let ring = bus.core.pages.ring();
    let lap = ring.lap(ring.end());
    let forged = Stamp::new(lap, 1, bus.survivor.me, SlotState::Ready);
    for words in [8, 40] {
        let body = forged.0.to_le_bytes().repeat(words);
        let lsn = bus.survivor.patch(&page, 0, &body).unwrap();
        for at in lsn + 1..lsn + slots_for(body.len()) {
            let stamp = Stamp(ring.slot(at).stamp.load(Ordering::Relaxed));
            assert_eq!((stamp.lap(), stamp.state()), (lap, SlotState::Continuation));
            assert_eq!(ring.look(at), Seen::Bad, "no boundary inside a record");
        }
    }
}

#[test]
fn blocks_that_were_only_hints_of_the_dead_are_swept_before_the_bus_grows() {
    let bus = Bus::new();
    let new = NewPage {
        size: 1 << 20,
        ..NewPage::default()
    };
    // All blocks of the run are in one word of hints, which the dead one took.
    let d = join(&bus.core, "d");
    let id = d.create_page(&new).unwrap();
    let slabs = || {
        bus.core
            .pages
            .class_use()
            .iter()
            .map(|u| u.slabs)
            .sum::<u32>()
    };
    let before = slabs();
    bus.recover(die(d));
    bus.survivor.create_page(&new).unwrap();
    bus.survivor.destroy_page(id).unwrap();
    assert_eq!(slabs(), before);
}

#[test]
fn a_live_commit_that_meets_corrupt_bytes_keeps_what_it_holds_until_they_are_repaired() {
    let bus = Bus::new();
    let page = bus.page(1);
    let mut d = join(&bus.core, "d");
    d.set_timeout(std::time::Duration::from_millis(20));
    let ours = bus.core.pages.resolve(page.id()).unwrap();
    let header = page.block().header;
    header.size.store(8, Ordering::Release);
    let change = crate::Change::Ranges {
        page: &ours,
        ranges: &[(0, 2), (50, 2)],
        bytes: &[1, 2, 3, 4],
    };
    let lsn = bus.core.pages.end_lsn();
    let result = d.commit(&[change], &crate::Options::default());
    assert!(matches!(result, Err(PageError::Corrupt(_))), "{result:?}");
    // It does nothing more, and gives nothing back: not even to those who wait.
    let again = d.patch(&ours, 0, &[1]);
    assert!(matches!(again, Err(PageError::Corrupt(_))), "{again:?}");
    assert_eq!(bus.owner(&page), d.me);
    assert_eq!(d.slot().hold.load(Ordering::Acquire), lsn);
    assert_eq!(bus.survivor.recover_all(), Ok(0), "it lives");
    drop(d);
    let result = bus.survivor.recover_all();
    assert!(matches!(result, Err(PageError::Corrupt(_))), "{result:?}");
    // Once the bytes are right, the committed record is applied.
    header.size.store(64, Ordering::Release);
    assert_eq!(bus.survivor.recover_all(), Ok(1));
    let (bytes, epoch, at) = bus.content(&page);
    assert_eq!((&bytes[..2], &bytes[50..52]), (&[1, 2][..], &[3, 4][..]));
    assert_eq!((epoch, at), (2, lsn));
    bus.goes_on(&page);
}

#[test]
fn a_garbage_owner_word_of_the_last_free_page_number_does_not_stop_creation() {
    let bus = Bus::new();
    let new = NewPage {
        size: 8,
        ..NewPage::default()
    };
    for _ in 0..31 {
        bus.survivor.create_page(&new).unwrap();
    }
    let free = (0..32)
        .find(|i| bus.core.pages.load_entry(*i).unwrap().block().is_none())
        .unwrap();
    // A life of a participant slot that was never used, under a lease.
    let garbage = owner::word(3, 77) | owner::LEASE;
    bus.core.ctl.owner(free).store(garbage, Ordering::Release);
    assert_eq!(bus.survivor.create_page(&new).unwrap().index, free);
}

#[test]
fn positions_at_the_end_of_numbers_end_in_typed_errors() {
    for value in [u64::MAX, u64::MAX - 70, 1 << 62, (1 << 62) - 5] {
        for which in 0..6 {
            let bus = Bus::new();
            let page = bus.page(1);
            let mut d = join(&bus.core, "d");
            let mut alive = join(&bus.core, "alive");
            for p in [&mut d, &mut alive] {
                p.set_timeout(std::time::Duration::from_millis(2));
            }
            let mut follower = alive.follow(true).unwrap();
            let h = bus.core.pages.header();
            let words = [
                &h.published,
                &h.tail_hint,
                &h.overwrite_floor,
                &h.claim_limit,
                &d.slot().hold,
                &bus.core.ctl.cursors()[0].position,
            ];
            words[which].store(value, Ordering::Release);
            // Sums that overflow would panic here; what the calls return is theirs to say.
            for i in 0..3u8 {
                let _ = alive.patch(&page, 0, &[i; 60]);
                let _ = alive.poll(&mut follower, 100, |_| ());
                let _ = alive.applied_lsn();
                let _ = bus.core.pages.ring_info();
                let _ = bus.core.cursors();
            }
            let mut watcher = crate::Follower::at(value);
            let _ = watcher.poll(&bus.core.pages, 10, |_| ());
            die(d);
            let _ = alive.recover_all();
            let newcomer = ParticipantConfig::default();
            drop(Participant::join(Arc::clone(&bus.core), newcomer));
        }
    }
}

/// Bytes that no writer makes, over head and body of a record.
fn scramble(core: &Core, lsn: u64) {
    for word in &core.pages.ring().slot(lsn).body {
        word.store(u64::MAX, Ordering::Relaxed);
    }
}

#[test]
fn what_a_corrupt_record_keeps_from_being_finished_can_be_given_up() {
    for (reached, left) in [(0, Left::Before), (1, Left::Torn), (2, Left::Behind)] {
        let bus = Bus::new();
        let (page, other) = (bus.page(1), bus.page(1));
        let mut follower = bus.survivor.follow(true).unwrap();
        let d = join(&bus.core, "d");
        // Something else in its hand, too.
        let held = std::mem::ManuallyDrop::new(d.allocate(64, None).unwrap());
        lock(&d, &page);
        let lsn = commit(&d, page.id(), Kind::Patch, 0, 10, &PATCH);
        let header = page.block().header;
        if reached >= 1 {
            seqlock::write_begin(&header.seq);
            store(&page, 10, &PATCH[..17]);
        }
        if reached >= 2 {
            header.lsn.store(lsn, Ordering::Relaxed);
            seqlock::write_end(&header.seq, 2, 1);
        }
        let at = held.block.at;
        scramble(&bus.core, lsn);
        let dead = die(d);
        let generation = dead.generation;
        // Nobody finishes it, nobody loses anything by trying.
        for _ in 0..2 {
            let refused = bus.survivor.recover_all();
            assert!(matches!(refused, Err(PageError::Corrupt(_))), "{refused:?}");
        }
        let newcomer = Participant::join(Arc::clone(&bus.core), ParticipantConfig::default());
        assert!(newcomer.is_err());
        let seen = bus.core.wrecks();
        assert_eq!(seen.len(), 1);
        let wreck = bus.core.abandon_dead(dead.index).unwrap().unwrap();
        assert_eq!(wreck, seen[0], "what is said ahead is what is done");
        assert_eq!((wreck.lsn, wreck.generation), (lsn, generation));
        assert_eq!((wreck.name.as_str(), wreck.names), ("d", false));
        let id = page.id();
        assert_eq!(wreck.pages, [WreckedPage { id, left }]);
        // The second time there is nothing.
        assert_eq!(bus.core.abandon_dead(dead.index), Ok(None));
        assert!(bus.core.wrecks().is_empty());
        assert_eq!(bus.core.pages.counter(Counter::Abandoned), 1);
        assert_eq!(bus.survivor.recover_all(), Ok(0));
        let state = bus
            .core
            .pages
            .block(at, 0)
            .unwrap()
            .header
            .state
            .load(Ordering::Acquire);
        assert_eq!(BlockState::from_word(state), BlockState::Free);
        let (bytes, epoch, _) = bus.content(&page);
        let mut expected = CONTENT;
        if reached >= 1 {
            expected[10..27].copy_from_slice(&PATCH[..17]);
        }
        assert_eq!((bytes, epoch), (expected, 1 + u64::from(reached > 0)));
        bus.goes_on(&page);
        bus.goes_on(&other);
        // The log goes on without it.
        let mut lsns = Vec::new();
        let polled = bus.survivor.poll(&mut follower, 100, |d| {
            if d.kind == Kind::Patch {
                lsns.push(d.lsn);
            }
        });
        assert!(matches!(polled, Ok(crate::Polled::Deltas(_))), "{polled:?}");
        assert_eq!((lsns.len(), lsns.contains(&lsn)), (2, false));
        assert_eq!(follower.position(), bus.core.pages.end_lsn());
        drop(join(&bus.core, "newcomer"));
    }
}

#[test]
fn a_record_that_names_another_page_does_not_free_the_one_left_odd() {
    let bus = Bus::new();
    let (page, other) = (bus.page(1), bus.page(1));
    let d = join(&bus.core, "d");
    lock(&d, &page);
    commit(&d, other.id(), Kind::Patch, 0, 10, &PATCH);
    seqlock::write_begin(&page.block().header.seq);
    store(&page, 10, &PATCH[..17]);
    let dead = die(d);
    assert!(matches!(
        bus.survivor.recover_all(),
        Err(PageError::Corrupt(_))
    ));
    assert_eq!(bus.core.wrecks().len(), 1);
    let wreck = bus.core.abandon_dead(dead.index).unwrap().unwrap();
    assert_eq!(wreck.pages[0].left, Left::Torn);
    assert_eq!(bus.content(&other).0, CONTENT);
    bus.goes_on(&page);
}

#[test]
fn only_what_cannot_be_finished_is_given_up() {
    let bus = Bus::new();
    let page = bus.page(1);
    // The living, and nobody.
    let index = bus.survivor.index();
    assert_eq!(bus.core.abandon_dead(index), Ok(None));
    assert_eq!(bus.core.abandon_dead(3), Ok(None));
    assert_eq!(bus.core.abandon_dead(9999), Ok(None));
    // Stopped in the middle of a commit is not dead.
    let d = join(&bus.core, "d");
    lock(&d, &page);
    let lsn = commit(&d, page.id(), Kind::Patch, 0, 10, &PATCH);
    scramble(&bus.core, lsn);
    assert_eq!(bus.core.abandon_dead(d.index()), Ok(None));
    assert!(bus.core.wrecks().is_empty());
    assert_eq!(bus.owner(&page), d.me);
    bus.core.abandon_dead(die(d).index).unwrap().unwrap();
    // Dead, and whole: recovered like any other.
    let d = join(&bus.core, "d");
    lock(&d, &page);
    let lsn = commit(&d, page.id(), Kind::Patch, 0, 10, &PATCH);
    let dead = die(d);
    assert!(bus.core.wrecks().is_empty());
    assert_eq!(bus.core.abandon_dead(dead.index), Ok(None));
    assert_eq!(bus.content(&page), (patched(), 2, lsn));
    assert_eq!(bus.core.pages.counter(Counter::Abandoned), 1);
}

#[test]
fn a_page_that_came_from_elsewhere_is_repaired_like_any_other() {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    let config = BusConfig {
        ring_bytes: 8192,
        pages_max: 1000,
        participants_max: 4,
        bytes_max: 64 << 20,
        ..BusConfig::default()
    };
    let draft = Draft::new(&dir, "t", &config, None).unwrap();
    let mut restorer = Restorer::new(&draft).unwrap();
    let bytes = restorer.take(64, 1).unwrap();
    let (index, generation) = (777, 5);
    let id = PageId { index, generation };
    let lsn = draft.core().unwrap().pages.first_lsn() - 1;
    restorer.place(id, bytes, 3, lsn, &Cold::default()).unwrap();
    drop(restorer);
    draft.link().unwrap();
    let core = Arc::new(Core::attach(&dir, "t").unwrap());
    let survivor = join(&core, "survivor");
    let d = join(&core, "d");
    let page = core.pages.resolve(id).unwrap();
    lock(&d, &page);
    let lsn = commit(&d, id, Kind::Patch, 0, 10, &PATCH);
    seqlock::write_begin(&page.block().header.seq);
    die(d);
    assert_eq!(survivor.recover_all(), Ok(1));
    assert_eq!(core.ctl.owner(index).load(Ordering::Acquire), 0);
    let mut bytes = [0; 64];
    let version = survivor.read(&page, 0, &mut bytes).unwrap();
    assert_eq!((version.epoch, version.lsn), (4, lsn));
    assert_eq!(bytes[10..10 + PATCH.len()], PATCH);
}

#[test]
fn a_mark_of_the_last_life_says_nothing_about_the_next_one() {
    let bus = Bus::new();
    let d = join(&bus.core, "d");
    let (index, slot) = (d.index(), &bus.core.ctl.participants()[d.index() as usize]);
    let dead = die(d);
    slot.thread
        .store(4711 | robust::OWNER_DIED, Ordering::Relaxed);
    assert!(bus.core.died_inside(index, dead.generation));
    assert!(!bus.core.died_inside(index, dead.generation + 1));
    assert_eq!(bus.survivor.recover_all(), Ok(1));
    // Ahead of its first operation.
    let next = Participant::join_silently(Arc::clone(&bus.core), ParticipantConfig::default());
    let next = next.unwrap();
    assert_eq!(next.index(), index);
    assert_eq!(bus.core.holder(next.me), Holder::Alive(index));
    assert_eq!(bus.survivor.recover_all(), Ok(0));
}
