//! Seeks with places that other readers remembered, compared with reading from the beginning.

use std::path::Path;
use std::sync::Arc;

use super::format::{SECTOR, SLOT};
use super::places::Places;
use super::reader::line;
use super::{
    Backend, Begin, Block, LogError, LogMeta, LogReader, LogWriter, OpenOptions, Retention,
    WriterConfig, compress_sealed, repair, retain, survey, survey_from,
};

const FIRST: u64 = 64;

fn config() -> WriterConfig {
    WriterConfig {
        segment_bytes: 640 << 10,
        block_bytes: 8 << 10,
        depth: 4,
        backend: Backend::Plain,
        prewrite: true,
    }
}

fn writer(dir: &Path, first: u64) -> LogWriter {
    let meta = LogMeta {
        config: None,
        log_id: [3, 4],
        incarnation: 1,
        fork_lsn: 0,
        forks: Vec::new(),
        created_ns: 0,
        ring_slots: 64,
        bus: "seek".into(),
    };
    LogWriter::create(dir, meta, first, config()).unwrap()
}

/// A block of so many records of one slot, behind so many slots of content; it may end behind its last record.
fn put(writer: &mut LogWriter, records: u64, content: usize, gap: u64) {
    let mut block = writer.begin().unwrap();
    let first = writer.end_lsn();
    block.room()[..SLOT * (content + records as usize)].fill(first as u8 | 1);
    block.advance(SLOT * (content + records as usize), records as u32);
    writer.submit(block, first + records + gap).unwrap();
    while writer.durable_lsn() < writer.end_lsn() {
        writer.wait(None).unwrap();
    }
}

/// Several files, with blocks of content alone, and LSNs that no record has.
fn fill(writer: &mut LogWriter, blocks: u64) {
    for n in 0..blocks {
        match n % 7 {
            3 => put(writer, 0, 60, 0),
            5 => put(writer, 30, 10, 40),
            _ => put(writer, 20 + n % 11, 0, 0),
        }
    }
}

fn all(dir: &Path) -> Vec<Block> {
    let mut reader = LogReader::open(dir, OpenOptions::default()).unwrap();
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

fn from(dir: &Path, lsn: u64, begin: Begin, places: Option<&Arc<Places>>) -> LogReader {
    let options = OpenOptions {
        from_lsn: lsn,
        ..OpenOptions::default()
    };
    LogReader::open_from(dir, options, begin, places.cloned()).unwrap()
}

/// LSNs all over the log, out of order.
fn lsns(all: &[Block]) -> Vec<u64> {
    let end = all[all.len() - 1].end_lsn;
    let first = all[0].first_lsn;
    let count = end - first;
    (0..400).map(|n| first + n * 7919 % count).collect()
}

/// Compares every way to get to an LSN with the block that holds it.
fn compare(dir: &Path, places: &Arc<Places>) {
    let all = all(dir);
    let mut going = from(dir, all[0].first_lsn, Begin::Block, Some(places));
    for lsn in lsns(&all) {
        let holds = |b: &&Block| b.first_lsn <= lsn && lsn < b.end_lsn;
        let want = all.iter().find(holds).unwrap();
        going.go_to(lsn).unwrap();
        assert_eq!(going.next().unwrap().as_ref(), Some(want), "LSN {lsn}");
        let mut block = from(dir, lsn, Begin::Block, Some(places));
        assert_eq!(block.next().unwrap().as_ref(), Some(want), "LSN {lsn}");
        let mut plain = from(dir, lsn, Begin::Contents, None);
        let mut by_place = from(dir, lsn, Begin::Contents, Some(places));
        assert_eq!(by_place.position(), plain.position(), "LSN {lsn}");
        assert_eq!(by_place.next().unwrap(), plain.next().unwrap());
        // It goes on from there.
        assert_eq!(by_place.next().unwrap(), plain.next().unwrap());
    }
}

fn count(places: &Arc<Places>, dir: &Path) -> usize {
    let ids = survey(dir).unwrap().file_ids;
    ids.iter()
        .filter(|id| places.ahead_of(**id, u64::MAX).is_some())
        .count()
}

#[test]
fn a_seek_by_places_comes_to_where_one_without_does() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut writer = writer(dir.path(), FIRST);
    fill(&mut writer, 600);
    writer.close().unwrap();
    assert!(line(dir.path()).unwrap().0.len() > 2);
    let places = Arc::new(Places::default());
    compare(dir.path(), &places);
    // All files have some, the first one for every 64 KiB.
    assert!(count(&places, dir.path()) > 2);
    compare(dir.path(), &places);
    compress_sealed(dir.path(), 1).unwrap();
    compare(dir.path(), &places);
}

#[test]
fn a_survey_goes_on_from_the_last_one() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let places = Arc::new(Places::default());
    let mut writer = writer(dir.path(), FIRST);
    for blocks in [1, 30, 3, 150, 150, 1, 1] {
        fill(&mut writer, blocks);
        for _ in 0..2 {
            let found = survey_from(dir.path(), Some(&places)).unwrap();
            let want = survey(dir.path()).unwrap();
            assert_eq!((found.end.lsn, &found.files), (want.end.lsn, &want.files));
            assert_eq!(found.end.lsn, writer.end_lsn());
        }
    }
    writer.close().unwrap();
    let found = survey_from(dir.path(), Some(&places)).unwrap();
    assert_eq!(found.end, survey(dir.path()).unwrap().end);
    assert!(found.end.sealed);
}

#[test]
fn retention_under_a_reader_with_places_leaves_the_rest() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut writer = writer(dir.path(), FIRST);
    fill(&mut writer, 600);
    writer.close().unwrap();
    let places = Arc::new(Places::default());
    compare(dir.path(), &places);
    let mut old = from(dir.path(), FIRST, Begin::Block, Some(&places));
    let files = line(dir.path()).unwrap().0;
    let keep = Retention {
        keep_from: Some(files[1].first_lsn + 1),
        ..Retention::default()
    };
    retain(dir.path(), &keep).unwrap();
    let oldest = line(dir.path()).unwrap().0[0].first_lsn;
    assert!(oldest > files[0].first_lsn);
    compare(dir.path(), &places);
    // One that listed the directory before says so.
    for lsn in [files[1].first_lsn + 5, FIRST] {
        match old.go_to(lsn).and_then(|()| old.next()) {
            Err(LogError::Gone { wanted, oldest: o }) => assert_eq!((wanted, o), (lsn, oldest)),
            // The file that it has open is still there for it.
            Ok(Some(block)) => assert!(block.first_lsn <= lsn && lsn < block.end_lsn),
            other => panic!("{other:?}"),
        }
    }
    survey_from(dir.path(), Some(&places)).unwrap();
    compare(dir.path(), &places);
}

#[test]
fn a_torn_tail_and_what_another_writer_wrote_instead_are_seen_behind_places() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut first = writer(dir.path(), FIRST);
    fill(&mut first, 200);
    first.close().unwrap();
    let places = Arc::new(Places::default());
    compare(dir.path(), &places);
    let found = survey_from(dir.path(), Some(&places)).unwrap();
    // A byte of the last blocks is lost.
    let last = line(dir.path()).unwrap().0.pop().unwrap();
    let mut bytes = std::fs::read(&last.path).unwrap();
    let at = bytes.len() - 3 * SECTOR + 100;
    bytes[at] ^= 1;
    std::fs::write(&last.path, &bytes).unwrap();
    let again = survey_from(dir.path(), Some(&places)).unwrap();
    let plain = survey(dir.path()).unwrap();
    assert_eq!(again.end.lsn, plain.end.lsn);
    assert!(again.end.lsn < found.end.lsn);
    // Behind it nothing is given out, by whatever way.
    let mut reader = from(dir.path(), FIRST, Begin::Block, Some(&places));
    for lsn in again.end.lsn..found.end.lsn {
        reader.go_to(lsn).unwrap();
        match reader.next() {
            Ok(None) | Err(LogError::Damaged { .. }) => {}
            Ok(Some(block)) => assert!(block.end_lsn <= lsn || block.first_lsn > again.end.lsn),
            Err(e) => panic!("{e}"),
        }
    }
    // Another writer goes on, from well ahead of that.
    let from_lsn = all_until(dir.path(), again.end.lsn - 300);
    let mut second = writer(dir.path(), from_lsn);
    fill(&mut second, 100);
    second.close().unwrap();
    compare(dir.path(), &places);
    let found = survey_from(dir.path(), Some(&places)).unwrap();
    assert_eq!(found.end, survey(dir.path()).unwrap().end);
}

/// Where the last block begins that ends ahead of `lsn`.
fn all_until(dir: &Path, lsn: u64) -> u64 {
    let mut reader = LogReader::open(dir, OpenOptions::default()).unwrap();
    let mut last = FIRST;
    while let Some(block) = reader.next().unwrap() {
        if block.end_lsn > lsn {
            break;
        }
        last = block.first_lsn;
    }
    last
}

#[test]
fn damage_is_found_and_what_a_repair_cut_is_no_place_any_more() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut writer = writer(dir.path(), FIRST);
    fill(&mut writer, 600);
    writer.close().unwrap();
    let places = Arc::new(Places::default());
    compare(dir.path(), &places);
    survey_from(dir.path(), Some(&places)).unwrap();
    let files = line(dir.path()).unwrap().0;
    let target = &files[1];
    let whole = std::fs::read(&target.path).unwrap();
    let mut bytes = whole.clone();
    let at = bytes.len() / 2 / SECTOR * SECTOR;
    // The magic of a block, or bytes of its body.
    bytes[at..at + 200].fill(0x55);
    std::fs::write(&target.path, &bytes).unwrap();
    let mut found = 0;
    let limit = target.limit.unwrap();
    let mut reader = from(dir.path(), FIRST, Begin::Block, Some(&places));
    for lsn in (target.first_lsn..limit).step_by(9) {
        reader.go_to(lsn).unwrap();
        match reader.next() {
            Err(LogError::Damaged { file, .. }) => {
                assert_eq!(file, target.path);
                found += 1;
            }
            Ok(Some(block)) => assert!(block.first_lsn <= lsn && lsn < block.end_lsn),
            other => panic!("{other:?}"),
        }
    }
    assert!(found > 0);
    repair(dir.path()).unwrap();
    let end = survey(dir.path()).unwrap().end.lsn;
    assert!(end < limit);
    assert_eq!(survey_from(dir.path(), Some(&places)).unwrap().end.lsn, end);
    compare(dir.path(), &places);
}
