//! Replaying a log gives one state, whatever the number of threads, the cuts between its blocks and the machine.

#[path = "common/log.rs"]
mod log;

use log::{Log, RING_SLOTS};
use mmsb::state::{Blocks, Heap, Meta, ReplayOptions, State, StateError, Until, replay};
use mmsb::{Kind, PageId};
use mmsb_shm::wire::{Item, Spec, walk};
use mmsb_shm::{Clock, wire};

fn blocks(log: &Log) -> Blocks {
    log.blocks.iter().cloned().collect()
}

fn replayed(log: &Log, threads: usize, until: Until) -> State {
    let mut state = State::new(Meta::default(), Heap::default());
    let options = ReplayOptions {
        threads,
        until,
        progress: None,
    };
    let done = replay(&mut state, blocks(log), options).unwrap();
    assert_eq!(done.end_lsn, state.lsn());
    state
}

#[test]
fn a_log_gives_the_same_hash_for_any_number_of_threads_and_any_machine() {
    let log = Log::random(7, 4000);
    let alone = replayed(&log, 1, Until::End);
    assert_eq!(alone.lsn(), log.lsn);
    for threads in [2, 3, 5, 16, 0] {
        let together = replayed(&log, threads, Until::End);
        assert_eq!(together.hash(), alone.hash(), "{threads} threads");
        assert_eq!(together.lsn(), alone.lsn());
        assert_eq!(together.time_ns(), alone.time_ns());
        assert_eq!(together.records(), alone.records());
        assert_eq!(together.sources(), alone.sources());
        assert_eq!(together.free_generations(), alone.free_generations());
    }
    // Computed once; another value on another machine, or after a change of the code, is a bug.
    assert_eq!(format!("{:032x}", alone.hash()), EXPECTED);
}

const EXPECTED: &str = "70d8223e6b57e6532eba35862fdfda66";

#[test]
fn a_bound_is_the_prefix_of_the_log() {
    let log = Log::random(8, 600);
    // Record by record, without blocks.
    let mut stepwise = State::new(Meta::default(), Heap::default());
    let mut checked = 0;
    for block in &log.blocks {
        let mut body = block.body.clone();
        let clock = Clock::new(block.created_ns, block.time_ns);
        walk(&mut body, block.first_lsn, RING_SLOTS, clock, &mut |item| {
            stepwise.apply(&item).unwrap();
            let Item::Delta(delta) = item else { return };
            // A transaction is replayed whole.
            let last = !delta.transaction || stepwise_ends(&log, delta.lsn, delta.group_end);
            if last && delta.lsn % 5 == 0 {
                for threads in [1, 2] {
                    let state = replayed(&log, threads, Until::Lsn(delta.lsn));
                    assert_eq!(state.hash(), stepwise.hash(), "at {}", delta.lsn);
                    assert!(state.lsn() > delta.lsn);
                }
                checked += 1;
            }
        })
        .unwrap();
    }
    assert!(checked > 50);
    for (i, (_, time)) in log.records.iter().enumerate().step_by(37) {
        let state = replayed(&log, 2, Until::Time(*time));
        let behind = log.records[i..].iter().find(|(_, t)| t > time);
        let last = behind.map_or(log.lsn, |(lsn, _)| *lsn);
        assert!(state.lsn() <= last && state.lsn() > log.records[i].0);
        assert_eq!(state.hash(), replayed(&log, 1, Until::Lsn(last - 1)).hash());
    }
}

fn stepwise_ends(log: &Log, lsn: u64, group_end: u64) -> bool {
    let next = log.records.iter().find(|(l, _)| *l > lsn);
    next.is_none_or(|(l, _)| *l >= group_end)
}

#[test]
fn half_a_transaction_is_never_a_state() {
    let mut log = Log::new(1);
    let id = log.create(16, 1, "");
    let change = |at| Spec {
        transaction: true,
        ..Spec::new(id, Kind::Patch, at, *b"x")
    };
    let first = log.push(vec![change(0), change(1), change(2)]);
    log.end_block();
    for threads in [1, 2] {
        let before = replayed(&log, threads, Until::Lsn(first - 1));
        assert_eq!(before.page(id).unwrap().epoch(), 0);
        for lsn in first..first + 3 {
            let state = replayed(&log, threads, Until::Lsn(lsn));
            assert_eq!(&state.page(id).unwrap().bytes()[..3], b"xxx");
        }
    }
}

#[test]
fn replaying_goes_on_where_it_stopped_and_refuses_a_gap() {
    let log = Log::random(9, 800);
    let whole = replayed(&log, 2, Until::End);
    let mut state = State::new(Meta::default(), Heap::default());
    for (i, (lsn, _)) in log.records.iter().enumerate().step_by(97) {
        let options = ReplayOptions {
            threads: 1 + i % 3,
            until: Until::Lsn(*lsn),
            progress: None,
        };
        replay(&mut state, blocks(&log), options).unwrap();
    }
    replay(&mut state, blocks(&log), ReplayOptions::default()).unwrap();
    assert_eq!(state.hash(), whole.hash());
    let mut half: Vec<_> = log.blocks.clone();
    let middle = half.len() / 2;
    let at = (middle..).find(|i| half[*i].first_lsn < half[*i].end_lsn);
    let gone = half.remove(at.unwrap());
    for threads in [1, 2] {
        let mut state = State::new(Meta::default(), Heap::default());
        let options = ReplayOptions {
            threads,
            ..Default::default()
        };
        match replay(
            &mut state,
            half.iter().cloned().collect::<Blocks>(),
            options,
        ) {
            Err(StateError::Gap { expected, .. }) => assert!(expected <= gone.end_lsn),
            other => panic!("{other:?}"),
        }
    }
}

fn fails(specs: Vec<Spec>) -> StateError {
    let mut errors = Vec::new();
    for threads in [1, 3] {
        let mut log = Log::new(1);
        let id = log.create(16, 1, "there");
        assert_eq!((id.generation, id.index % 7), (1, 0));
        let mine: Vec<Spec> = specs
            .iter()
            .map(|s| {
                let mut s = s.clone();
                if s.page.index == u32::MAX {
                    s.page = id;
                }
                s
            })
            .collect();
        log.push(mine);
        log.end_block();
        let mut state = State::new(Meta::default(), Heap::with_limit(1 << 20));
        let options = ReplayOptions {
            threads,
            ..Default::default()
        };
        let result = replay(&mut state, blocks(&log), options);
        errors.push(result.unwrap_err());
        assert!(state.page(id).is_none_or(|p| p.epoch() == 0));
    }
    assert_eq!(errors[0].to_string(), errors[1].to_string());
    errors.remove(0)
}

#[test]
fn what_no_writer_makes_is_an_error_with_its_lsn() {
    let here = PageId {
        index: u32::MAX,
        generation: 1,
    };
    let nowhere = PageId {
        index: 5,
        generation: 1,
    };
    let create = |id, size: u32, shape: u32| {
        let payload = [size.to_le_bytes(), shape.to_le_bytes()].concat();
        vec![Spec::new(id, Kind::Create, 0, payload)]
    };
    let lsn = |e: StateError| match e {
        StateError::Corrupt { lsn, .. }
        | StateError::NoPage { lsn, .. }
        | StateError::BadRange { lsn, .. }
        | StateError::NoContent { lsn, .. } => lsn,
        other => panic!("{other}"),
    };
    let past = fails(vec![Spec::new(here, Kind::Patch, 10, [1; 7])]);
    assert!(
        matches!(past, StateError::BadRange { size: 16, .. }),
        "{past}"
    );
    assert!(lsn(past) > u64::from(RING_SLOTS));
    lsn(fails(vec![Spec::new(here, Kind::Patch, u32::MAX, [1; 7])]));
    lsn(fails(vec![Spec::new(here, Kind::Ranges, 0, [255; 12])]));
    lsn(fails(vec![Spec::new(here, Kind::Masked, 0, [255; 12])]));
    lsn(fails(vec![Spec::new(nowhere, Kind::Patch, 0, [1])]));
    lsn(fails(vec![Spec::new(nowhere, Kind::Destroy, 0, [])]));
    lsn(fails(vec![Spec::new(nowhere, Kind::Describe, 0, [])]));
    lsn(fails(vec![Spec::new(here, Kind::Describe, 0, [1; 9])]));
    lsn(fails(vec![Spec::new(here, Kind::Swap, 0, [])]));
    lsn(fails(vec![Spec::new(here, Kind::Source, 0, [7; 9])]));
    lsn(fails(create(here, 16, 0)));
    lsn(fails(create(nowhere, 0, 0)));
    lsn(fails(create(nowhere, u32::MAX, 0)));
    lsn(fails(create(nowhere, 16, 65 << 8)));
    for id in [
        PageId {
            index: 1 << 28,
            generation: 1,
        },
        PageId {
            index: 3,
            generation: 0,
        },
    ] {
        lsn(fails(create(id, 16, 0)));
    }
    let large = fails(create(nowhere, 2 << 20, 0));
    assert!(matches!(large, StateError::Memory { .. }), "{large}");
}

#[test]
fn bodies_with_flipped_bits_are_replayed_or_refused() {
    let log = Log::random(11, 150);
    let mut rng = log::Rng(3);
    for _ in 0..400 {
        let mut flipped = blocks(&log);
        let n = flipped.0.len();
        let body = &mut flipped.0[rng.below(n)].body;
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(body.len());
            if let Some(byte) = body.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        let mut state = State::new(Meta::default(), Heap::with_limit(64 << 20));
        let options = ReplayOptions {
            threads: 1 + rng.below(2),
            ..Default::default()
        };
        // Whatever comes of it, nobody panics. (The checksums of blocks find this ahead of it.)
        let _ = replay(&mut state, flipped, options);
    }
}

#[test]
fn a_successor_logs_the_content_of_a_swap_again() {
    let id = PageId {
        index: 0,
        generation: 1,
    };
    let mut log = Log::new(1);
    let payload = [16u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
    log.push(vec![Spec::new(id, Kind::Create, 0, payload)]);
    log.end_block();
    // A predecessor got no further than half of the content.
    let mut half = log.blocks[0].clone();
    half.first_lsn = log.lsn;
    half.end_lsn = log.lsn;
    half.body = wire::chunk_head(log.lsn, 0, 8, 16).to_vec();
    half.body.extend([9; 8]);
    half.body.resize(128, 0);
    log.blocks.push(half);
    log.swap(id, &[5; 16]);
    log.end_block();
    for threads in [1, 2] {
        let state = replayed(&log, threads, Until::End);
        assert_eq!(state.page(id).unwrap().bytes(), [5; 16]);
    }
}
