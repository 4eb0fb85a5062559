//! Models of the ring: claims, publication, laps, the overwrite floor, cursors and holds. Rings of two and four slots,
//! the code that runs.
//!
//! A model's first thread only sets up and looks at what came out: loom 0.7 does not set its steps against those of
//! threads that have not begun.

use loom::sync::Arc;
use loom::thread;

use super::gating::{self, Needs};
use super::{Claim, Guess, Ring, Seen};
use crate::layout::participant::Cursor;
use crate::layout::ring::{Slot, SlotState, Stamp};
use crate::page::owner;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

struct Heap {
    slots: Vec<Slot>,
    shift: u32,
    published: AtomicU64,
    tail_hint: AtomicU64,
    floor: AtomicU64,
    limit: AtomicU64,
}

impl Heap {
    /// A fresh ring of `1 << shift` slots, as `make_pages` leaves it.
    fn new(shift: u32) -> Heap {
        let len = 1u64 << shift;
        let word = || AtomicU64::new(0);
        Heap {
            slots: (0..len)
                .map(|_| Slot {
                    stamp: word(),
                    body: [0; 7].map(|_: i32| word()),
                })
                .collect(),
            shift,
            published: AtomicU64::new(len),
            tail_hint: AtomicU64::new(len),
            floor: AtomicU64::new(len),
            limit: AtomicU64::new(2 * len),
        }
    }

    fn ring(&self) -> Ring<'_> {
        Ring {
            slots: &self.slots,
            shift: self.shift,
            published: &self.published,
            tail_hint: &self.tail_hint,
            floor: &self.floor,
            limit: &self.limit,
        }
    }

    fn guess(&self) -> Guess {
        let tail = self.published.load(Ordering::Acquire);
        Guess {
            tail,
            limit: self.limit.load(Ordering::Acquire),
            since: tail,
        }
    }

    /// Writes the two words of a record that the models look at, and commits it.
    fn fill_and_publish(&self, lsn: u64, slots: u32, owner: u32) {
        let ring = self.ring();
        for word in &ring.slot(lsn).body[..2] {
            // Relaxed, as `record::write` does it.
            word.store(lsn << 8 | u64::from(owner), Ordering::Relaxed);
        }
        ring.publish(lsn, slots, owner);
    }

    /// Claims and commits one record; `None`: the ring is full.
    fn commit(&self, guess: &mut Guess, slots: u32, owner: u32) -> Option<u64> {
        match self.ring().try_claim(guess, slots, owner) {
            Claim::Got(lsn) => {
                self.fill_and_publish(lsn, slots, owner);
                Some(lsn)
            }
            Claim::Full(_) => None,
            Claim::Bad(lsn) => panic!("bad stamp at {lsn}"),
        }
    }

    /// Reads the record at `lsn` as a follower does. `None`: nothing committed there, or overwritten.
    fn read(&self, lsn: u64) -> Option<(Stamp, [u64; 2])> {
        let ring = self.ring();
        let Seen::Ready(stamp) = ring.look(lsn) else {
            return None;
        };
        let slot = ring.slot(lsn);
        let copy = [0, 1].map(|i| slot.body[i].load(Ordering::Relaxed));
        ring.is_intact(lsn).then_some((stamp, copy))
    }

    fn check(&self, lsn: u64) -> Option<u32> {
        let (stamp, copy) = self.read(lsn)?;
        let owner = stamp.owner_index() + 1;
        assert_eq!(
            copy,
            [lsn << 8 | u64::from(owner); 2],
            "torn record at {lsn}"
        );
        Some(owner)
    }
}

fn cursor() -> Cursor {
    Cursor {
        owner: AtomicU32::new(0),
        gating: AtomicU32::new(0),
        // What an earlier life left there: it must hold nothing.
        position: AtomicU64::new(1000),
        missed: AtomicU64::new(0),
        reserved: [0; 5].map(|_: i32| AtomicU64::new(0)),
    }
}

#[test]
fn two_claimers_lose_and_double_nothing_and_a_reader_sees_whole_records() {
    loom::model(|| {
        let heap = Arc::new(Heap::new(2));
        let writer = |owner: u32, slots: u32| {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                let mut guess = heap.guess();
                heap.commit(&mut guess, slots, owner)
                    .expect("room for both")
            })
        };
        let (one, two) = (writer(1, 1), writer(2, 2));
        let reader = {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                heap.check(4);
                heap.check(5);
            })
        };
        reader.join().unwrap();
        let (one, two) = (one.join().unwrap(), two.join().unwrap());
        assert!(
            (one, two) == (4, 5) || (one, two) == (6, 4),
            "claims overlap: {one} and {two}"
        );
        assert_eq!((heap.check(one), heap.check(two)), (Some(1), Some(2)));
        let end = heap.ring().ready_prefix(0..0, |_, _| false);
        assert_eq!(end, Ok(7), "both records are in the prefix");
    });
}

#[test]
fn a_claim_that_would_wrap_is_preceded_by_padding_once() {
    loom::model(|| {
        let heap = Arc::new(Heap::new(2));
        // Two records, so that two slots are left ahead of the wrap; all of the next lap may be claimed.
        let mut guess = heap.guess();
        assert_eq!(heap.commit(&mut guess, 2, 3), Some(4));
        heap.ring().raise_published(6);
        heap.ring().raise_limit(6, 10);
        let writer = |owner: u32| {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                let mut guess = heap.guess();
                heap.commit(&mut guess, 3, owner)
            })
        };
        let (one, two) = (writer(1), writer(2));
        let got = [one.join().unwrap(), two.join().unwrap()];
        // Padding of two, then three slots would end at 11: the limit is 10, so nobody gets in.
        assert_eq!(got, [None, None]);
        assert!(matches!(heap.ring().look(6), Seen::Padding(s) if s.slots() == 2));
        heap.ring().raise_published(8);
        heap.ring().raise_limit(8, 11);
        assert_eq!(heap.commit(&mut heap.guess(), 3, 1), Some(8));
        assert_eq!(heap.ring().end(), 11);
    });
}

#[test]
fn a_reader_that_is_lapped_never_accepts_a_torn_record() {
    loom::model(|| {
        let heap = Arc::new(Heap::new(1));
        let mut guess = heap.guess();
        for lsn in [2, 3] {
            assert_eq!(heap.commit(&mut guess, 1, 1), Some(lsn));
        }
        let mover = {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                heap.ring().raise_published(4);
                heap.ring().raise_limit(4, 5);
            })
        };
        let writer = {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                // Overwrites LSN 2 with LSN 4, if the mover let it.
                heap.commit(&mut guess, 1, 2)
            })
        };
        let reader = {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                if let Some(owner) = heap.check(2) {
                    assert_eq!(owner, 1);
                }
            })
        };
        reader.join().unwrap();
        mover.join().unwrap();
        if let Some(lsn) = writer.join().unwrap() {
            assert_eq!(lsn, 4);
            assert_eq!(heap.read(2).map(|(s, _)| s.lap()), None);
            assert_eq!(heap.check(4), Some(2));
        }
    });
}

#[test]
fn writers_claim_across_a_lap_while_the_limit_moves() {
    loom::model(|| {
        let heap = Arc::new(Heap::new(1));
        let mut guess = heap.guess();
        assert_eq!(heap.commit(&mut guess, 1, 3), Some(2));
        let writer = |owner: u32| {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                let mut guess = heap.guess();
                heap.commit(&mut guess, 1, owner)
            })
        };
        let (one, two) = (writer(1), writer(2));
        let mover = {
            let heap = Arc::clone(&heap);
            // What is READY now may be overwritten.
            thread::spawn(move || {
                let published = heap.ring().ready_prefix(0..0, |_, _| false).unwrap();
                heap.ring().raise_published(published);
                heap.ring().raise_limit(published, published + 1);
            })
        };
        mover.join().unwrap();
        let mut got: Vec<u64> = [one, two]
            .into_iter()
            .filter_map(|t| t.join().unwrap())
            .collect();
        got.sort_unstable();
        assert!(got == [3] || got == [3, 4], "{got:?}");
        assert_eq!(heap.ring().end(), 3 + got.len() as u64);
        for lsn in got {
            heap.check(lsn).expect("nothing has overwritten it");
        }
    });
}

#[test]
fn a_dead_claim_is_padded_by_one_recoverer_and_then_passed() {
    loom::model(|| {
        let heap = Arc::new(Heap::new(2));
        let mut guess = heap.guess();
        // The dead one's claim of two slots, and a live record behind it.
        assert_eq!(heap.ring().try_claim(&mut guess, 2, 7), Claim::Got(4));
        assert_eq!(heap.commit(&mut guess, 1, 1), Some(6));
        let recover = || {
            let heap = Arc::clone(&heap);
            thread::spawn(move || match heap.ring().look(4) {
                Seen::Claimed(s) => heap.ring().pad(4, s),
                Seen::Padding(_) => false,
                other => panic!("{other:?}"),
            })
        };
        let (one, two) = (recover(), recover());
        let walker = {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                heap.ring().ready_prefix(0..0, |lsn, stamp| {
                    assert_eq!((lsn, stamp.owner_index()), (4, 6));
                    false
                })
            })
        };
        let prefix = walker.join().unwrap();
        assert!(prefix == Ok(4) || prefix == Ok(7), "{prefix:?}");
        let padded = [one.join().unwrap(), two.join().unwrap()];
        assert_eq!(padded.iter().filter(|p| **p).count(), 1);
        assert_eq!(heap.ring().ready_prefix(0..0, |_, _| false), Ok(7));
        let stamp = Stamp(heap.slots[0].stamp.load(Ordering::Relaxed));
        assert_eq!((stamp.state(), stamp.slots()), (SlotState::Padding, 2));
    });
}

/// What the mover of the limit does, from `published` on: as `move_limit_locked`.
fn move_limit(
    heap: &Heap,
    need: u64,
    cursors: &[Cursor],
    holds: &[AtomicU64],
) -> (u64, Option<Needs>) {
    let ring = heap.ring();
    let published = ring.ready_prefix(0..0, |_, _| false).unwrap();
    ring.raise_published(published);
    let (least, needs) = gating::least_needed(published, &AtomicU64::new(0), cursors, holds.iter());
    ring.raise_limit(least, need);
    (least, needs)
}

#[test]
fn a_joining_cursor_holds_the_floor_or_starts_behind_it() {
    loom::model(|| {
        let heap = Arc::new(Heap::new(1));
        let cursors = Arc::new([cursor()]);
        let mut guess = heap.guess();
        for lsn in [2, 3] {
            assert_eq!(heap.commit(&mut guess, 1, 1), Some(lsn));
        }
        move_limit(&heap, 5, &[], &[]);
        let writer = {
            let (heap, cursors) = (Arc::clone(&heap), Arc::clone(&cursors));
            thread::spawn(move || {
                assert_eq!(heap.commit(&mut guess, 1, 1), Some(4));
                // All there is may be overwritten, but for the cursor.
                move_limit(&heap, 7, &*cursors, &[]);
            })
        };
        let joiner = {
            let (heap, cursors) = (Arc::clone(&heap), Arc::clone(&cursors));
            thread::spawn(move || {
                let me = owner::word(0, 1);
                cursors[0].owner.store(me, Ordering::Release);
                gating::announce(&cursors[0], true);
                gating::start(&cursors[0], &heap.ring())
            })
        };
        let position = joiner.join().unwrap();
        assert!(position == 4 || position == 5);
        writer.join().unwrap();
        let floor = heap.floor.load(Ordering::Acquire);
        assert!(floor <= position, "floor {floor}, cursor at {position}");
    });
}

#[test]
fn a_committed_record_is_held_until_it_is_applied() {
    loom::model(|| {
        let heap = Arc::new(Heap::new(1));
        let holds = Arc::new([AtomicU64::new(0)]);
        let page = Arc::new(AtomicU64::new(0));
        let writer = {
            let (heap, holds, page) = (Arc::clone(&heap), Arc::clone(&holds), Arc::clone(&page));
            thread::spawn(move || {
                let mut guess = heap.guess();
                let Claim::Got(lsn) = heap.ring().try_claim(&mut guess, 1, 1) else {
                    panic!("an empty ring is full");
                };
                gating::hold(&holds[0], lsn);
                heap.fill_and_publish(lsn, 1, 1);
                // The page, applied; then the record is not needed any more.
                page.store(lsn, Ordering::Relaxed);
                gating::unhold(&holds[0]);
            })
        };
        let mover = thread::spawn(move || {
            let (least, needs) = move_limit(&heap, 5, &[], &*holds);
            if least > 2 {
                assert_eq!(
                    page.load(Ordering::Relaxed),
                    2,
                    "overwritable and not applied"
                );
            } else {
                assert!(needs.is_none() || needs == Some(Needs::Commit { index: 0, lsn: 2 }));
            }
        });
        mover.join().unwrap();
        writer.join().unwrap();
    });
}
