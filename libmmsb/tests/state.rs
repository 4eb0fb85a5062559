//! A state that is replayed from what a gating follower gets equals the live pages: bytes, epochs, LSNs, descriptions.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::TestBus;
use mmsb::schema::Schema;
use mmsb::state::{Heap, Meta, State};
use mmsb::{Bus, Error, PageError, PageId, PageSpec};
use mmsb_shm::wire::{Chunk, Item};
use mmsb_shm::{Follower, Polled};

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1))
            .map(|_| self.next() as u8)
            .collect()
    }
}

/// What may go wrong when two writers choose pages by chance.
fn expected(e: &Error) -> bool {
    e.is_page_gone()
        || e.is_exists()
        || e.full().is_some()
        || matches!(
            e,
            Error::Page(
                PageError::DeltaTooLarge { .. }
                    | PageError::NotLoaned(_)
                    | PageError::WrongSize { .. }
                    | PageError::OutOfRange { .. }
            )
        )
}

fn pick(bus: &Bus, rng: &mut Rng) -> Option<PageId> {
    let ids = bus.participant().core().pages.list_pages();
    (!ids.is_empty()).then(|| ids[rng.below(ids.len())])
}

/// One operation of any kind.
fn operate(bus: &Bus, rng: &mut Rng) -> Result<(), Error> {
    let what = rng.below(20);
    if what < 3 {
        let mut spec = PageSpec::new(1 + rng.below(1500) as u64);
        if rng.below(3) == 0 {
            spec = spec.versions(4);
        }
        if rng.below(2) == 0 {
            spec = spec
                .name(&format!("p/{}", rng.below(40)))
                .meta("unit", "m/s");
        }
        return bus.create_page(spec).map(drop);
    }
    let Some(id) = pick(bus, rng) else {
        return Ok(());
    };
    let page = bus.page_by_id(id)?;
    let at = rng.below(page.size());
    let mut bytes = rng.bytes(200.min(page.size() - at));
    match what {
        3 => bus.destroy(id),
        4 => bus.rename(id, &format!("p/{}", rng.below(40))),
        5 => bus.set_meta(id, &[("key", &format!("{}", rng.below(5)))]),
        6 => bus.set_schema(id, &Schema::parse("q{a:u8}").unwrap()),
        7..9 => page.patch(at, &bytes).map(drop),
        9 => {
            let half = bytes.len() / 2;
            let behind = bytes.split_off(half);
            page.patch_many(&[(at, &bytes), (at + half, &behind)])
                .map(drop)
        }
        10 => {
            let mask: Vec<u8> = bytes.iter().map(|_| (rng.next() & 1) as u8).collect();
            page.write_masked(at, &mask, &bytes).map(drop)
        }
        11 => page
            .update(|all| {
                let end = all.len();
                all[at..end.min(at + 9)].fill(bytes.len() as u8);
            })
            .map(drop),
        12..14 => {
            let mut loan = page.loan()?;
            loan.fill(bytes.len() as u8);
            loan[at] = 77;
            loan.publish_caused(rng.next() % 1000).map(drop)
        }
        14 => page
            .caused_by(1 + rng.next() % 100)
            .patch(at, &bytes)
            .map(drop),
        15 => {
            // Longer than one record: goes through a block.
            let whole: Vec<u8> = (0..page.size()).map(|_| rng.next() as u8).collect();
            page.write(&whole).map(drop)
        }
        16..18 => {
            let mut batch = bus.batch();
            let pages: Vec<_> = (0..3)
                .filter_map(|_| bus.page_by_id(pick(bus, rng)?).ok())
                .collect();
            let byte = [rng.next() as u8];
            for page in &pages {
                batch.patch(page, rng.below(page.size()), &byte);
            }
            batch.patch(&page, at, &bytes);
            batch.commit().map(drop)
        }
        _ => {
            let other = pick(bus, rng).and_then(|id| bus.page_by_id(id).ok());
            bus.transaction(|tx| {
                tx.patch(&page, at, &bytes)?;
                tx.mark(b"here");
                if let Some(other) = &other {
                    tx.patch(other, 0, &[at as u8])?;
                }
                tx.patch(&page, 0, &[1])
            })
            .map(drop)
        }
    }
}

/// Polls all there is into the state.
fn drain(bus: &Bus, follower: &mut Follower, state: &mut State) {
    let pages = &bus.participant().core().pages;
    let mut content = Vec::new();
    loop {
        let polled = bus.participant().poll(follower, 64, |delta| {
            if delta.kind == mmsb::Kind::Swap {
                assert!(pages.read_swapped(delta, &mut content).unwrap());
                // In two chunks, as a long one would come.
                let half = content.len() / 2;
                for (offset, bytes) in [(0, &content[..half]), (half, &content[half..])] {
                    let chunk = Chunk {
                        lsn: delta.lsn,
                        offset: offset as u64,
                        total: content.len() as u64,
                        bytes,
                    };
                    state.apply(&Item::Chunk(chunk)).unwrap();
                }
            }
            state.apply(&Item::Delta(*delta)).unwrap();
            // Once more is no more.
            state.apply(&Item::Delta(*delta)).unwrap();
        });
        match polled.unwrap() {
            Polled::Deltas(_) => {}
            Polled::Empty | Polled::Waiting { .. } => break,
            other => panic!("a gating follower got {other:?}"),
        }
    }
    state.advance_to(follower.position());
}

fn compare(bus: &Bus, state: &State) {
    let live = bus.all_pages().unwrap();
    assert_eq!(state.len(), live.len());
    for info in live {
        let page = state.page(info.id).unwrap();
        let handle = bus.page_by_id(info.id).unwrap();
        let version = handle.version().unwrap();
        assert_eq!(
            (page.size(), page.versions(), page.epoch(), page.lsn()),
            (info.size, info.versions, version.epoch, version.lsn),
            "{}",
            info.id
        );
        assert_eq!(*page.cold(), info.cold);
        assert_eq!(page.bytes(), handle.to_vec().unwrap());
        if !info.cold.name.is_empty() {
            assert_eq!(state.page_named(&info.cold.name).unwrap().id(), info.id);
        }
    }
    for (index, generation) in state.free_generations() {
        let next = PageId {
            index,
            generation: generation + 1,
        };
        assert!(bus.page_by_id(next).unwrap_err().is_page_gone());
    }
}

#[test]
fn a_replayed_state_is_the_live_one_after_every_operation() {
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let bus = TestBus::small();
        let logger = bus.another("logger").unwrap();
        let mut follower = logger.participant().follow(true).unwrap();
        let late = bus.another("comes later").unwrap();
        let mut state = State::new(Meta::default(), Heap::default());
        for i in 0..150 {
            match operate(if i % 3 == 0 { &late } else { &bus }, &mut rng) {
                Err(e) if !expected(&e) => panic!("{e}"),
                _ => {}
            }
            drain(&logger, &mut follower, &mut state);
            if i % 10 == 0 {
                compare(&bus, &state);
            }
        }
        compare(&bus, &state);
        assert_eq!(state.lsn(), bus.end_lsn());
        assert!(
            state.sources().values().any(|s| s.name == "comes later"),
            "the source record was seen"
        );
    }
}

#[test]
fn a_replayed_state_is_the_live_one_behind_writers_that_raced() {
    let bus = TestBus::new();
    let logger = bus.another("logger").unwrap();
    let mut follower = logger.participant().follow(true).unwrap();
    let mut state = State::new(Meta::default(), Heap::default());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u64)
            .map(|n| {
                let bus = bus.another(&format!("writer {n}")).unwrap();
                scope.spawn(move || {
                    let mut rng = Rng(1000 + n);
                    for _ in 0..4000 {
                        match operate(&bus, &mut rng) {
                            Err(e) if !expected(&e) => panic!("{e}"),
                            _ => {}
                        }
                    }
                })
            })
            .collect();
        let done = &done;
        scope.spawn(move || {
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            drain(&logger, &mut follower, &mut state);
        }
    });
    drain(&logger, &mut follower, &mut state);
    compare(&bus, &state);
}
