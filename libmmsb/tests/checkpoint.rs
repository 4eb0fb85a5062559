//! Checkpoints: whole or none at every death, every flipped bit found, and the same state as replaying from the
//! beginning.

#[path = "common/log.rs"]
mod log;

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use log::{Log, Rng};
use mmsb::checkpoint::{
    self, CheckpointError, CheckpointInfo, Image, ImageSource, Options, OtherError, Step,
};
use mmsb::state::{Blocks, Heap, Meta, ReplayOptions, Source, State, Until, replay};
use mmsb::{BusConfig, PageId};

fn state(log: &Log, until: Until) -> State {
    let meta = Meta {
        log_id: [1, 2],
        bus: "t".into(),
        incarnation: 1,
        created_ns: log::created_ns(),
        ring_slots: log::RING_SLOTS,
    };
    let mut state = State::new(meta, Heap::default());
    let options = ReplayOptions {
        until,
        ..Default::default()
    };
    let blocks: Blocks = log.blocks.iter().cloned().collect();
    replay(&mut state, blocks, options).unwrap();
    state
}

fn write(dir: &Path, source: &dyn ImageSource) -> CheckpointInfo {
    checkpoint::write(dir, source, &Options::default(), &|_| Ok(())).unwrap()
}

fn same(a: &State, b: &State) {
    assert_eq!(a.hash(), b.hash());
    assert_eq!(a.free_generations(), b.free_generations());
    assert_eq!(a.sources(), b.sources());
    assert_eq!(a.lsn(), b.lsn());
}

#[test]
fn what_is_written_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::random(1, 3000);
    // One that takes several chunks, and one that is as large as a chunk.
    for size in [5_000_001u32, 1 << 20, (1 << 20) - 64, 1] {
        let id = log.create(size, 1, &format!("large/{size}"));
        log.patch(id, size - 1, b"x");
        log.patch(id, size / 2, b"y");
    }
    log.end_block();
    let original = state(&log, Until::End);
    for (threads, direct) in [(1, true), (3, false), (0, true)] {
        let (seen, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let options = Options {
            threads,
            direct,
            progress: Some(&|p| {
                seen.fetch_max(p.pages, Ordering::Relaxed);
                bytes.fetch_max(p.bytes, Ordering::Relaxed);
                assert!(p.pages <= p.pages_total);
            }),
        };
        let durable = AtomicU64::new(0);
        let info = checkpoint::write(dir.path(), &original, &options, &|lsn| {
            durable.store(lsn, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
        assert_eq!(durable.into_inner(), original.lsn());
        assert!(bytes.into_inner() > 1 << 20, "progress was told");
        assert_eq!(
            (info.begin_lsn, info.end_lsn, info.pages),
            (original.lsn(), original.lsn(), original.len() as u64)
        );
        assert_eq!(
            checkpoint::list(dir.path()).unwrap()[..],
            *std::slice::from_ref(&info)
        );
        for threads in [0, 1, 4] {
            let loaded = checkpoint::load_with(&info.path, Heap::default(), threads).unwrap();
            same(&loaded, &original);
            assert_eq!(loaded.meta(), original.meta());
            assert_eq!(loaded.time_ns(), original.time_ns());
            assert!(loaded.is_consistent());
        }
    }
}

/// A live bus: each image is taken at a later LSN than the one before.
struct Moving<'l> {
    log: &'l Log,
    /// LSNs at which things are looked at, in this order.
    at: Vec<u64>,
    next: AtomicUsize,
}

impl Moving<'_> {
    fn now(&self) -> State {
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        state(self.log, Until::Lsn(self.at[i.min(self.at.len() - 1)]))
    }
}

impl ImageSource for Moving<'_> {
    fn meta(&self) -> Result<Meta, OtherError> {
        Ok(Meta::default())
    }
    fn config(&self) -> Option<BusConfig> {
        Some(BusConfig::default())
    }
    fn begin_lsn(&self) -> Result<u64, OtherError> {
        Ok(self.now().lsn())
    }
    fn pages(&self) -> Result<Vec<PageId>, OtherError> {
        ImageSource::pages(&self.now())
    }
    fn image(&self, id: PageId, bytes: &mut Vec<u8>) -> Result<Option<Image>, OtherError> {
        self.now().image(id, bytes)
    }
    fn generations(&self) -> Result<Vec<(u32, u32)>, OtherError> {
        self.now().generations()
    }
    fn sources(&self) -> Result<Vec<(u16, Source)>, OtherError> {
        ImageSource::sources(&self.now())
    }
    fn end_lsn(&self) -> Result<(u64, u64), OtherError> {
        let now = self.now();
        Ok((now.lsn(), now.time_ns()))
    }
}

#[test]
fn a_fuzzy_checkpoint_and_the_tail_are_the_state() {
    for seed in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::random(100 + seed, 700);
        let lsns: Vec<u64> = log.records.iter().map(|(lsn, _)| *lsn).collect();
        let mut rng = Rng(seed);
        let mut at: Vec<u64> = (0..60)
            .map(|_| lsns[lsns.len() / 4 + rng.below(lsns.len() / 2)])
            .collect();
        at.sort_unstable();
        let moving = Moving {
            log: &log,
            at,
            next: AtomicUsize::new(0),
        };
        let options = Options {
            threads: 1,
            ..Options::default()
        };
        let info = checkpoint::write(dir.path(), &moving, &options, &|_| Ok(())).unwrap();
        assert!(info.begin_lsn < info.end_lsn);
        assert_eq!(info.config, Some(BusConfig::default()));
        for until in [Until::Lsn(info.end_lsn - 1), Until::End] {
            for threads in [1, 2] {
                let mut loaded = checkpoint::load(&info.path, Heap::default()).unwrap();
                assert!(!loaded.is_consistent());
                let blocks: Blocks = log.blocks.iter().cloned().collect();
                let options = ReplayOptions {
                    threads,
                    until,
                    progress: None,
                };
                replay(&mut loaded, blocks, options).unwrap();
                assert!(loaded.is_consistent());
                let straight = state(&log, until);
                same(&loaded, &straight);
            }
        }
    }
}

#[test]
fn a_death_at_any_step_leaves_the_whole_checkpoint_or_none() {
    let log = Log::random(2, 1500);
    let end = log.records.len();
    let before = state(&log, Until::Lsn(log.records[end / 2].0));
    let after = state(&log, Until::End);
    let steps = [
        Step::Create,
        Step::Chunk,
        Step::Index,
        Step::Header,
        Step::Sync,
        Step::Durable,
        Step::Rename,
        Step::SyncDirectory,
        Step::Done,
    ];
    for step in steps {
        for skip in 0..if step == Step::Chunk { 3 } else { 1 } {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &before);
            let passed = AtomicUsize::new(0);
            let options = Options {
                threads: 1,
                ..Options::default()
            };
            let died =
                checkpoint::write_stepwise(dir.path(), &after, &options, &|_| Ok(()), &|s| {
                    s != step || passed.fetch_add(1, Ordering::Relaxed) < skip
                });
            let expected = if matches!(step, Step::SyncDirectory | Step::Done) {
                &after
            } else {
                &before
            };
            match died {
                Err(CheckpointError::Stopped(s)) => assert_eq!(s, step),
                // It has no such chunk.
                Ok(_) if step == Step::Chunk => continue,
                other => panic!("{other:?}"),
            }
            // Twice: looking changes nothing.
            for _ in 0..2 {
                let newest = checkpoint::newest(dir.path(), None).unwrap().unwrap();
                let loaded = checkpoint::load(&newest.path, Heap::default()).unwrap();
                same(&loaded, expected);
            }
            write(dir.path(), &after);
            let left: Vec<_> = std::fs::read_dir(dir.path())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .filter(|n| n.ends_with(".tmp"))
                .collect();
            assert!(left.is_empty(), "{left:?}");
            assert_eq!(checkpoint::list(dir.path()).unwrap().len(), 2);
        }
    }
}

#[test]
fn without_a_durable_log_there_is_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(&Log::random(3, 50), Until::End);
    let refused = checkpoint::write(dir.path(), &state, &Options::default(), &|_| {
        Err("the disk is full".into())
    });
    match refused {
        Err(CheckpointError::NotDurable { lsn, .. }) => assert_eq!(lsn, state.lsn()),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut log = Log::random(4, 60);
    log.create(9000, 1, "more than a sector");
    log.end_block();
    let original = state(&log, Until::End);
    let info = write(dir.path(), &original);
    let good = std::fs::read(&info.path).unwrap();
    assert_eq!(good.len() as u64, info.file_bytes);
    let load = || checkpoint::load_with(&info.path, Heap::with_limit(1 << 20), 1);
    let mut rng = Rng(1);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << rng.below(8);
        std::fs::write(&info.path, &bad).unwrap();
        match load() {
            Err(
                CheckpointError::Damaged { .. }
                | CheckpointError::Foreign { .. }
                | CheckpointError::Newer { .. },
            ) => {}
            Err(e) => panic!("byte {at}: {e}"),
            Ok(_) => panic!("byte {at}: not found"),
        }
    }
    for len in (0..good.len()).step_by(777).chain([good.len() - 1]) {
        std::fs::write(&info.path, &good[..len]).unwrap();
        assert!(load().is_err(), "cut at {len}");
    }
    let longer = [&good[..], &[0; 4096]].concat();
    std::fs::write(&info.path, longer).unwrap();
    assert!(load().is_err());
    std::fs::write(&info.path, &good).unwrap();
    same(&load().unwrap(), &original);
}

#[test]
fn what_is_no_checkpoint_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("{:020}-{:010}.ckpt", 1, 1));
    let load = || checkpoint::load(&path, Heap::default()).map(|_| ());
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(load(), Err(CheckpointError::Foreign { .. })));
    std::fs::write(&path, vec![b'x'; 10_000]).unwrap();
    assert!(matches!(load(), Err(CheckpointError::Foreign { .. })));
    let info = write(dir.path(), &state(&Log::random(5, 20), Until::End));
    let mut newer = std::fs::read(&info.path).unwrap();
    newer[8] = 2;
    std::fs::write(&path, &newer).unwrap();
    match load() {
        Err(CheckpointError::Newer {
            found, supported, ..
        }) => assert_eq!((found, supported), (2, 1)),
        other => panic!("{other:?}"),
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(load().is_err());
    // None of this is listed, all of it is told.
    assert_eq!(checkpoint::list(dir.path()).unwrap(), [info]);
    assert_eq!(checkpoint::list_all(dir.path()).unwrap().len(), 2);
    assert!(checkpoint::list(Path::new("/nowhere")).is_err());
}

#[test]
fn pruning_keeps_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::random(6, 400);
    let lsns: Vec<u64> = log.records.iter().map(|(lsn, _)| *lsn).collect();
    for i in 1..6 {
        write(dir.path(), &state(&log, Until::Lsn(lsns[i * 60])));
    }
    let all = checkpoint::list(dir.path()).unwrap();
    assert!(all.windows(2).all(|w| w[0].end_lsn > w[1].end_lsn));
    let found = checkpoint::newest(dir.path(), Some(all[2].end_lsn + 1)).unwrap();
    assert_eq!(found.as_ref(), Some(&all[2]));
    assert_eq!(
        checkpoint::newest(dir.path(), Some(all[4].end_lsn - 1)).unwrap(),
        None
    );
    assert_eq!(checkpoint::prune(dir.path(), 2).unwrap(), all[2..]);
    assert_eq!(checkpoint::list(dir.path()).unwrap(), all[..2]);
    assert_eq!(checkpoint::prune(dir.path(), 0).unwrap(), all[1..2]);
}
