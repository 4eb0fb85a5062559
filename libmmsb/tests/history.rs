//! Questions about the past, asked of a log on disk with checkpoints in between.

#[path = "common/log.rs"]
mod log;

use std::path::Path;

use log::{Log as Made, RING_SLOTS, created_ns};
use mmsb::checkpoint::{self, CheckpointInfo};
use mmsb::history::{At, Cause, ChainEnd, Filter, HistoryError, Log};
use mmsb::state::{Blocks, Heap, Meta, ReplayOptions, State, Until, replay};
use mmsb::tlog::{LogMeta, LogWriter, WriterConfig};
use mmsb::{Kind, PageId};

const LOG_ID: [u64; 2] = [7, 8];

fn meta() -> LogMeta {
    LogMeta {
        config: None,
        log_id: LOG_ID,
        incarnation: 1,
        fork_lsn: 0,
        forks: Vec::new(),
        created_ns: created_ns(),
        ring_slots: RING_SLOTS,
        bus: "t".into(),
    }
}

/// Writes the blocks to disk, in small files.
fn store(dir: &Path, made: &Made) {
    let config = WriterConfig {
        segment_bytes: 1 << 20,
        prewrite: false,
        ..WriterConfig::default()
    };
    let first = made.blocks[0].first_lsn;
    let mut writer = LogWriter::create(dir, meta(), first, config).unwrap();
    for block in &made.blocks {
        let mut out = loop {
            match writer.begin() {
                Some(out) => break out,
                None => writer.wait(None).map(drop).unwrap(),
            }
        };
        out.room()[..block.body.len()].copy_from_slice(&block.body);
        out.advance(block.body.len(), 1);
        writer.submit(out, block.end_lsn).unwrap();
    }
    writer.close().unwrap();
}

fn state(made: &Made, until: Until) -> State {
    let meta = Meta {
        log_id: LOG_ID,
        bus: "t".into(),
        incarnation: 1,
        created_ns: created_ns(),
        ring_slots: RING_SLOTS,
    };
    let mut state = State::new(meta, Heap::default());
    let options = ReplayOptions {
        until,
        ..Default::default()
    };
    let blocks: Blocks = made.blocks.iter().cloned().collect();
    replay(&mut state, blocks, options).unwrap();
    state
}

fn checkpoint_at(dir: &Path, made: &Made, lsn: u64) -> CheckpointInfo {
    let state = state(made, Until::Lsn(lsn));
    checkpoint::write(dir, &state, &checkpoint::Options::default(), &|_| Ok(())).unwrap()
}

fn all(log: &Log, filter: Filter) -> Vec<mmsb::history::Record> {
    log.records(0, u64::MAX, filter)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn any_state_of_the_past_comes_back_from_the_nearest_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::random(21, 3000);
    store(dir.path(), &made);
    let n = made.records.len();
    let log = Log::open(dir.path()).unwrap();
    let ask = |log: &Log| {
        for i in [n / 7, n / 3, n / 2, n / 2 + 1, n - 2] {
            let (lsn, time) = made.records[i];
            let at = log.state_at(At::Lsn(lsn)).unwrap();
            assert_eq!(at.hash(), state(&made, Until::Lsn(lsn)).hash());
            assert_eq!(at.sources(), state(&made, Until::Lsn(lsn)).sources());
            let at = log.state_at(At::Time(time)).unwrap();
            assert_eq!(at.hash(), state(&made, Until::Time(time)).hash());
        }
        let end = log.state_at(At::End).unwrap();
        assert_eq!(end.hash(), state(&made, Until::End).hash());
        assert_eq!(end.lsn(), made.lsn);
    };
    ask(&log);
    let infos: Vec<_> = [n / 4, n / 2, 3 * n / 4]
        .iter()
        .map(|i| checkpoint_at(dir.path(), &made, made.records[*i].0))
        .collect();
    ask(&log);
    // A damaged checkpoint is passed over.
    let path = &infos[1].path;
    let mut bytes = std::fs::read(path).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(path, bytes).unwrap();
    ask(&log);
    assert_eq!(log.checkpoints().unwrap().len(), 3);
    match log.state_at(At::Lsn(made.lsn)) {
        Err(HistoryError::Ahead { wanted, end }) => assert_eq!((wanted, end), (made.lsn, made.lsn)),
        other => panic!("{other:?}"),
    }
    let bounds = log.bounds().unwrap();
    assert_eq!(
        (bounds.first_lsn, bounds.oldest_state, bounds.end_lsn),
        (u64::from(RING_SLOTS), u64::from(RING_SLOTS), made.lsn)
    );
}

#[test]
fn what_retention_removed_is_gone_and_says_from_where_there_is_something() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = Made::random(22, 2000);
    let big = made.create(300_000, 1, "big");
    for i in 0..12u8 {
        made.swap(big, &vec![i; 300_000]);
    }
    for _ in 0..200 {
        made.group();
    }
    made.end_block();
    store(dir.path(), &made);
    let n = made.records.len();
    let info = checkpoint_at(dir.path(), &made, made.records[n - 150].0);
    let mut files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "tlog"))
        .collect();
    files.sort();
    assert!(files.len() > 2);
    std::fs::remove_file(&files[0]).unwrap();
    let log = Log::open(dir.path()).unwrap();
    let end = log.state_at(At::End).unwrap();
    assert_eq!(end.hash(), state(&made, Until::End).hash());
    match log.state_at(At::Lsn(made.records[n / 2].0)) {
        Err(HistoryError::Gone { oldest, .. }) => assert_eq!(oldest, info.end_lsn - 1),
        other => panic!("{other:?}"),
    }
    let oldest = log.state_at(At::Lsn(info.end_lsn - 1)).unwrap();
    assert_eq!(
        oldest.hash(),
        state(&made, Until::Lsn(info.end_lsn - 1)).hash()
    );
    match log.records(made.records[3].0, u64::MAX, Filter::default()) {
        Err(HistoryError::Gone { oldest, .. }) => assert!(oldest > made.records[3].0),
        other => panic!("{other:?}"),
    }
    // Records are there further back than states.
    assert!(all(&log, Filter::default()).len() > 150);
}

#[test]
fn a_diff_tells_what_came_went_and_changed() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = Made::new(3);
    let stays = made.create(100, 1, "stays");
    let goes = made.create(50, 1, "goes");
    let renamed = made.create(50, 1, "before");
    let before = made.patch(stays, 10, b"old");
    made.rename(renamed, "after");
    made.patch(stays, 10, b"new");
    made.patch(stays, 90, b"x");
    made.destroy(goes);
    let comes = made.create(9000, 4, "comes");
    made.patch(comes, 5000, b"hello");
    made.end_block();
    store(dir.path(), &made);
    let log = Log::open(dir.path()).unwrap();
    let diff = log.diff(At::Lsn(before), At::End).unwrap();
    assert_eq!((diff.from_lsn, diff.to_lsn), (before + 1, made.lsn));
    let of = |id| diff.pages.iter().find(|p| p.id == id).unwrap();
    assert_eq!(diff.pages.len(), 4);
    let ranges: Vec<_> = of(stays)
        .ranges
        .iter()
        .map(|r| (r.offset, &r.old[..], &r.new[..]))
        .collect();
    assert_eq!(
        ranges,
        [(10, &b"old"[..], &b"new"[..]), (90, &b"\0"[..], &b"x"[..])]
    );
    assert_eq!(of(renamed).renamed(), Some(("before", "after")));
    assert!(of(renamed).is_redescribed() && of(renamed).ranges.is_empty());
    assert!(of(goes).after.is_none());
    assert!(of(comes).before.is_none());
    assert_eq!(of(comes).ranges[0].new, b"hello");
    assert_eq!(of(comes).after.as_ref().unwrap().versions, 4);
    assert!(log.diff(At::End, At::End).unwrap().pages.is_empty());
}

#[test]
fn the_history_of_bytes_names_who_changed_them_from_what_to_what_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = Made::new(4);
    for id in 0..4 {
        made.source(id, &format!("source {id}"));
    }
    let page = made.create(100, 1, "a/page");
    let other = made.create(100, 1, "b/other");
    let outside = made.patch(other, 0, b"outside");
    let first = made.patch_caused(page, 10, b"abcdef", outside);
    made.patch(page, 50, b"elsewhere");
    let middle = made.records[made.records.len() - 1].0;
    let swap = made.swap(page, &[9; 100]);
    made.rename(page, "a/renamed");
    made.tick();
    let last = made.patch_caused(page, 12, b"Z", first);
    let gone = made.destroy(page);
    made.end_block();
    store(dir.path(), &made);
    let log = Log::open(dir.path()).unwrap();
    let check = |log: &Log| {
        let changes = log.history(page, 11..14, 0..u64::MAX).unwrap();
        let told: Vec<_> = changes.iter().map(|c| (c.lsn, c.kind)).collect();
        assert_eq!(told[0].1, Kind::Create);
        assert_eq!(
            told[1..],
            [
                (first, Kind::Patch),
                (swap, Kind::Swap),
                (last, Kind::Patch),
                (gone, Kind::Destroy)
            ]
        );
        let patch = &changes[1];
        assert_eq!(patch.ranges[0].old.as_deref(), Some(&[0u8; 3][..]));
        assert_eq!(
            (patch.ranges[0].offset, &patch.ranges[0].new[..]),
            (11, &b"bcd"[..])
        );
        assert_eq!(patch.cause, outside);
        assert_eq!(
            patch.source_name.as_deref(),
            Some(&*format!("source {}", first % 4))
        );
        assert_eq!(changes[2].ranges[0].old.as_deref(), Some(&b"bcd"[..]));
        assert_eq!(changes[3].ranges[0].old.as_deref(), Some(&[9u8][..]));
        assert_eq!(
            changes.iter().map(|c| c.epoch).collect::<Vec<_>>(),
            [0, 1, 3, 4, 4].map(Some)
        );
        assert!(changes[3].time_ns > changes[2].time_ns);
        // From the middle on, the old bytes come from the state there.
        let late = log.history(page, 0..100, middle..u64::MAX).unwrap();
        assert_eq!(late.len(), 4);
        assert_eq!(late[1].ranges[0].old.as_ref().unwrap()[10..16], *b"abcdef");
        assert!(log.history(page, 0..0, 0..u64::MAX).unwrap().len() == 2);
    };
    check(&log);
    checkpoint_at(dir.path(), &made, first);
    check(&log);

    let why = log.provenance(Cause::Lsn(last), 10).unwrap();
    let chain: Vec<_> = why.chain.iter().map(|r| r.delta.lsn).collect();
    assert_eq!(
        (chain, why.end),
        (vec![last, first, outside], ChainEnd::Outside)
    );
    assert_eq!(&*why.chain[0].page_name, "a/renamed");
    assert_eq!(&*why.chain[1].page_name, "a/page");
    let page_then = Cause::Page(page, At::Lsn(last));
    assert_eq!(log.provenance(page_then, 10).unwrap().chain.len(), 3);
    let short = log.provenance(page_then, 2).unwrap();
    assert_eq!(
        (short.chain.len(), short.end),
        (2, ChainEnd::TooLong { lsn: outside })
    );
    match log.provenance(Cause::Page(page, At::End), 10) {
        Err(HistoryError::NoPage { page: p }) => assert_eq!(p, page),
        other => panic!("{other:?}"),
    }
    // In the middle of a record is none.
    match log.provenance(Cause::Lsn(last - 1), 10) {
        Err(HistoryError::NoRecord { lsn }) => assert_eq!(lsn, last - 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn chains_of_causes_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = Made::new(5);
    let page = made.create(10, 1, "p");
    let itself = made.lsn;
    made.patch_caused(page, 0, b"x", itself);
    let later = made.lsn;
    made.patch_caused(page, 0, b"x", later + 1);
    let early = made.patch_caused(page, 0, b"x", 5);
    let inside = {
        let long = made.patch(page, 0, b"0123456789");
        let three = made.create(10, 1, &"n".repeat(200));
        assert!(made.lsn > long + 3 && three != page);
        made.lsn - 1
    };
    let nowhere = made.patch_caused(page, 0, b"x", inside);
    made.end_block();
    store(dir.path(), &made);
    let log = Log::open(dir.path()).unwrap();
    let end = |lsn| log.provenance(Cause::Lsn(lsn), 100).unwrap().end;
    assert_eq!(end(itself), ChainEnd::NotEarlier { lsn: itself });
    assert_eq!(end(later), ChainEnd::NotEarlier { lsn: later + 1 });
    let oldest = u64::from(RING_SLOTS);
    assert_eq!(end(early), ChainEnd::Gone { lsn: 5, oldest });
    assert_eq!(end(nowhere), ChainEnd::NoRecord { lsn: inside });
}

#[test]
fn records_are_filtered_by_name_source_kind_and_page() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::random(23, 1500);
    store(dir.path(), &made);
    let log = Log::open(dir.path()).unwrap();
    let everything = all(&log, Filter::default());
    let lsns: Vec<_> = everything.iter().map(|r| r.delta.lsn).collect();
    let expected: Vec<_> = made.records.iter().map(|(lsn, _)| *lsn).collect();
    assert_eq!(lsns, expected);
    for (record, (_, time)) in everything.iter().zip(&made.records) {
        assert_eq!(record.delta.time_ns, *time);
        if record.delta.kind == Kind::Swap {
            assert_eq!(record.delta.ranges.len(), 1);
            assert!(!record.delta.ranges[0].1.is_empty());
        }
    }
    let kinds = |kinds: &[Kind]| Filter {
        kinds: kinds.to_vec(),
        ..Filter::default()
    };
    let swaps = all(&log, kinds(&[Kind::Swap, Kind::Mark]));
    assert!(swaps.iter().any(|r| r.delta.mark == b"mark"));
    assert_eq!(
        swaps.len(),
        everything
            .iter()
            .filter(|r| matches!(r.delta.kind, Kind::Swap | Kind::Mark))
            .count()
    );
    let source = all(
        &log,
        Filter {
            source: Some("source 2".into()),
            ..Filter::default()
        },
    );
    assert!(source.len() > 100 && source.iter().all(|r| r.delta.source == 2));
    let prefix = |from: u64| {
        let filter = Filter {
            prefix: Some("renamed/".into()),
            ..Filter::default()
        };
        log.records(from, u64::MAX, filter)
            .unwrap()
            .map(|r| r.unwrap().delta.lsn)
            .collect::<Vec<_>>()
    };
    let from_start = prefix(0);
    assert!(from_start.len() > 50);
    let middle = expected[expected.len() / 2];
    checkpoint_at(dir.path(), &made, expected[expected.len() / 3]);
    // The names at the middle are known, with a checkpoint behind it as well as from the beginning.
    let late: Vec<_> = from_start.into_iter().filter(|l| *l >= middle).collect();
    assert_eq!(prefix(middle), late);
    let id = everything
        .iter()
        .find(|r| !r.page_name.is_empty())
        .unwrap()
        .delta
        .page;
    let page = all(
        &log,
        Filter {
            page: Some(id),
            ..Filter::default()
        },
    );
    assert!(page.iter().all(|r| r.delta.page == id) && !page.is_empty());
    let some: Vec<_> = log
        .records(expected[10], expected[20], Filter::default())
        .unwrap()
        .map(|r| r.unwrap().delta.lsn)
        .collect();
    assert_eq!(some, expected[10..20]);
}

#[test]
fn verifying_finds_checkpoints_that_are_damaged_or_of_another_past() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::random(24, 2000);
    store(dir.path(), &made);
    let n = made.records.len();
    let infos: Vec<_> = [n / 5, n / 2, 4 * n / 5]
        .iter()
        .map(|i| checkpoint_at(dir.path(), &made, made.records[*i].0))
        .collect();
    let log = Log::open(dir.path()).unwrap();
    let report = log.verify().unwrap();
    assert!(report.is_good(), "{report:?}");
    assert_eq!(report.checkpoints.len(), 3);
    assert!(report.checkpoints.iter().all(|c| c.compared && c.pages > 3));
    assert_eq!(report.end_lsn, made.lsn);
    assert_eq!(report.hash, state(&made, Until::End).hash());
    // One with another byte in a page, well written.
    let mut other = state(&made, Until::Lsn(made.records[n / 2].0));
    let shape = other.pages().next().unwrap().shape();
    let page = other.page(shape.id).unwrap();
    let (mut bytes, cold) = (page.bytes().to_vec(), page.cold().clone());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    other
        .insert(mmsb::state::Loaded {
            shape,
            cold,
            bytes: bytes.into_boxed_slice(),
        })
        .unwrap();
    let options = checkpoint::Options::default();
    checkpoint::write(dir.path(), &other, &options, &|_| Ok(())).unwrap();
    let report = log.verify().unwrap();
    assert!(!report.is_good() && report.error.is_none());
    let bad = &report.checkpoints[1];
    assert_eq!(bad.different.len(), 1);
    assert_eq!(bad.different[0].page, shape.id);
    assert!(report.checkpoints[2].different.is_empty());
    // One whose bytes are not what was written.
    let mut bytes = std::fs::read(&infos[1].path).unwrap();
    bytes[6000] ^= 4;
    std::fs::write(&infos[1].path, bytes).unwrap();
    let report = log.verify().unwrap();
    assert!(report.checkpoints[1].damage.is_some() && !report.is_good());
    assert!(report.checkpoints[2].different.is_empty());
}

#[test]
fn a_live_bus_is_compared_at_the_lsn_of_each_page() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::random(25, 1000);
    store(dir.path(), &made);
    let n = made.records.len();
    let log = Log::open(dir.path()).unwrap();
    // As it was some time ago: the log went on.
    let live = state(&made, Until::Lsn(made.records[3 * n / 4].0));
    let report = log.verify_live(&live).unwrap();
    assert_eq!(
        (report.equal, report.different.len()),
        (live.len() as u64, 0)
    );
    assert_eq!(report.ahead, []);
    checkpoint_at(dir.path(), &made, made.records[n / 2].0);
    let report = log.verify_live(&live).unwrap();
    assert_eq!(
        (report.equal, report.different.len()),
        (live.len() as u64, 0)
    );
    // With a byte that nobody logged, and a page that is ahead of the log.
    let mut live = state(&made, Until::End);
    let shapes: Vec<_> = live.pages().take(2).map(|p| p.shape()).collect();
    for (i, mut shape) in shapes.iter().copied().enumerate() {
        let page = live.page(shape.id).unwrap();
        let (mut bytes, cold) = (page.bytes().to_vec(), page.cold().clone());
        bytes[0] ^= 1;
        if i == 1 {
            shape.lsn = made.lsn + 5;
        }
        let bytes = bytes.into_boxed_slice();
        live.insert(mmsb::state::Loaded { shape, cold, bytes })
            .unwrap();
    }
    let report = log.verify_live(&live).unwrap();
    assert_eq!(report.different.len(), 1);
    assert_eq!(report.different[0].page, shapes[0].id);
    assert_eq!(report.ahead, [shapes[1].id]);
}

#[test]
fn one_page_alone_is_as_in_the_whole_state() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::random(26, 1200);
    store(dir.path(), &made);
    let n = made.records.len();
    let log = Log::open(dir.path()).unwrap();
    for round in 0..2 {
        for i in [n / 3, 2 * n / 3, n - 2] {
            let at = At::Lsn(made.records[i].0);
            let whole = log.state_at(at).unwrap();
            for page in whole.pages().step_by(3) {
                let alone = log.page_at(page.id(), at).unwrap();
                assert_eq!(alone.len(), 1);
                assert_eq!(alone.page(page.id()).unwrap().hash(), page.hash());
            }
        }
        if round == 0 {
            checkpoint_at(dir.path(), &made, made.records[n / 2].0);
        }
    }
    let never = PageId {
        index: 1,
        generation: 77,
    };
    assert!(log.page_at(never, At::End).unwrap().is_empty());
}

#[test]
fn a_directory_without_a_log_is_said_to_have_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Log::open(dir.path()),
        Err(HistoryError::NoLog { .. })
    ));
    assert!(Log::open(dir.path().join("nowhere")).is_err());
}

/// Every record, by one reader that comes past them all.
fn by_lsn(log: &Log) -> std::collections::BTreeMap<u64, mmsb::history::Record> {
    let all = all(log, Filter::default());
    all.into_iter().map(|r| (r.delta.lsn, r)).collect()
}

#[test]
fn a_record_that_is_looked_up_is_as_in_the_whole_log() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::random(31, 20_000);
    store(dir.path(), &made);
    let want = by_lsn(&Log::open(dir.path()).unwrap());
    let lsns: Vec<u64> = want.keys().copied().collect();
    let log = Log::open(dir.path()).unwrap();
    let ask = |log: &Log| {
        let n = lsns.len();
        for lsn in (0..400).map(|i| lsns[n - 1 - i * 7919 % n]) {
            assert_eq!(log.record(lsn).unwrap(), want[&lsn]);
            if !want.contains_key(&(lsn + 1)) {
                match log.record(lsn + 1) {
                    Err(HistoryError::NoRecord { .. } | HistoryError::Ahead { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    };
    ask(&log);
    // One that remembers nothing yet, asked for a record in the middle.
    for lsn in [lsns[lsns.len() / 2], lsns[0], lsns[lsns.len() - 1]] {
        let log = Log::open(dir.path()).unwrap();
        assert_eq!(log.record(lsn).unwrap(), want[&lsn]);
    }
    let middle = made.records[made.records.len() / 3].0;
    checkpoint_at(dir.path(), &made, middle);
    ask(&log);
    ask(&Log::open(dir.path()).unwrap());
    let files = mmsb::tlog::survey(dir.path()).unwrap().files;
    mmsb::tlog::compress_sealed(dir.path(), 1).unwrap();
    ask(&log);
    // Retention, under a log that is open. The names ahead of the checkpoint are gone with it.
    assert!(files.len() > 2 && files[0].end_lsn < middle);
    let path = files[0].path.display().to_string();
    std::fs::remove_file(format!("{path}.zst")).unwrap();
    for lsn in lsns.iter().rev().step_by(97) {
        let fresh = Log::open(dir.path()).unwrap();
        match (log.record(*lsn), fresh.record(*lsn)) {
            (Ok(record), Ok(same)) => assert_eq!(record, same),
            (
                Err(HistoryError::Gone { oldest, .. }),
                Err(HistoryError::Gone { oldest: same, .. }),
            ) => {
                assert!(oldest == same && *lsn < oldest);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_chain_through_several_files_has_the_names_of_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = Made::random(32, 500);
    let page = made.create(400, 1, "first");
    let big = made.create(200_000, 1, "big");
    let mut want = Vec::new();
    let mut cause = 0;
    for i in 0..40 {
        let bytes = [i as u8; 100];
        cause = match cause {
            0 => made.patch(page, 0, &bytes),
            cause => made.patch_caused(page, 0, &bytes, cause),
        };
        want.push((
            cause,
            if i == 0 {
                "first".to_owned()
            } else {
                format!("page/{i}")
            },
        ));
        if i % 5 == 0 {
            made.swap(big, &vec![i as u8; 200_000]);
        }
        for _ in 0..50 {
            let (id, _) = made.live[made.rng.below(3)];
            if id != page {
                made.patch(id, 0, b"x");
            }
        }
        made.rename(page, &format!("page/{}", i + 1));
    }
    made.end_block();
    store(dir.path(), &made);
    want.reverse();
    let ask = |log: &Log| {
        for (skip, longest) in [(0, 40), (7, 33), (0, 12), (39, 5)] {
            let (newest, _) = want[skip];
            let found = log.provenance(Cause::Lsn(newest), longest).unwrap();
            let chain = found.chain.iter();
            let chain: Vec<_> = chain
                .map(|r| (r.delta.lsn, r.page_name.to_string()))
                .collect();
            let len = longest.min(want.len() - skip);
            assert_eq!(chain, want[skip..skip + len]);
            match want.get(skip + len) {
                None => assert_eq!(found.end, ChainEnd::Outside),
                Some((lsn, _)) => assert_eq!(found.end, ChainEnd::TooLong { lsn: *lsn }),
            }
            let whole = by_lsn(log);
            assert!(found.chain.iter().all(|r| *r == whole[&r.delta.lsn]));
        }
        let of_page = log.provenance(Cause::Page(page, At::End), 1).unwrap();
        assert_eq!(of_page.chain[0].delta.lsn, want[0].0);
    };
    let log = Log::open(dir.path()).unwrap();
    ask(&log);
    ask(&log);
    ask(&log.clone());
    checkpoint_at(dir.path(), &made, want[20].0);
    ask(&log);
    ask(&Log::open(dir.path()).unwrap());
}

#[test]
fn a_log_that_is_open_follows_what_is_written_and_what_is_written_instead() {
    let dir = tempfile::tempdir().unwrap();
    let made = Made::random(33, 1500);
    let mut log = None;
    // As if the log were written piece by piece: the same files, longer and longer.
    for part in [3, 2, 1] {
        let mut short = Made::random(33, 1500);
        short.blocks.truncate(made.blocks.len() / part);
        let end = short.blocks[short.blocks.len() - 1].end_lsn;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        store(dir.path(), &short);
        let log = log.get_or_insert_with(|| Log::open(dir.path()).unwrap());
        let fresh = Log::open(dir.path()).unwrap();
        assert_eq!(log.bounds().unwrap().end_lsn, end);
        let want = by_lsn(&fresh);
        for (lsn, record) in want.iter().rev().step_by(17) {
            assert_eq!(log.record(*lsn).unwrap(), *record);
        }
    }
}
