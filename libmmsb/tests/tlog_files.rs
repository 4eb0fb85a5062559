//! Logs that were damaged, cut, mixed up, kept and compressed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mmsb::tlog::format::{BLOCK_HEAD, BlockHead, FileHeader, SECTOR, header_at};
use mmsb::tlog::{
    Backend, Block, LogEnd, LogError, LogMeta, LogReader, LogWriter, OpenOptions, Retention,
    WriterConfig, compress_sealed, repair, retain, survey,
};
use proptest::prelude::*;

const SLOT: usize = 64;
const FIRST: u64 = 64;

fn meta(incarnation: u64, fork_lsn: u64) -> LogMeta {
    LogMeta {
        config: None,
        log_id: [11, 22],
        incarnation,
        fork_lsn,
        forks: Vec::new(),
        created_ns: 1_000,
        ring_slots: 64,
        bus: "test".into(),
    }
}

fn config() -> WriterConfig {
    WriterConfig {
        segment_bytes: 32 << 10,
        block_bytes: 8 << 10,
        depth: 4,
        backend: Backend::Plain,
        prewrite: true,
    }
}

fn slot(lsn: u64) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    for (i, word) in bytes.chunks_mut(8).enumerate() {
        let word_of = (lsn * 8 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&word_of.to_le_bytes());
    }
    bytes
}

fn put(writer: &mut LogWriter, slots: u64) {
    let mut block = writer.begin().unwrap();
    let first = writer.end_lsn();
    for lsn in first..first + slots {
        block.room()[..SLOT].copy_from_slice(&slot(lsn));
        block.advance(SLOT, 1);
    }
    writer.submit(block, first + slots).unwrap();
    writer.wait(None).unwrap();
}

/// A log of `blocks` blocks of 50 slots.
fn log(dir: &Path, blocks: u64, close: bool) -> u64 {
    let mut writer = LogWriter::create(dir, meta(1, 0), FIRST, config()).unwrap();
    for _ in 0..blocks {
        put(&mut writer, 50);
    }
    let end = writer.durable_lsn();
    if close {
        writer.close().unwrap();
    }
    end
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.to_string_lossy().contains(".tlog"))
        .collect();
    files.sort();
    files
}

fn check(block: &Block) {
    for (i, bytes) in block.body.chunks(SLOT).enumerate() {
        assert_eq!(
            bytes,
            slot(block.first_lsn + i as u64),
            "{}",
            block.first_lsn
        );
    }
}

/// Reads everything: how far, and how that ends.
fn read(dir: &Path) -> (u64, Result<LogEnd, LogError>) {
    let mut reader = match LogReader::open(dir, OpenOptions::default()) {
        Ok(reader) => reader,
        Err(e) => return (FIRST, Err(e)),
    };
    loop {
        match reader.next() {
            Ok(Some(block)) => check(&block),
            Ok(None) => return (reader.lsn(), Ok(reader.end().unwrap())),
            Err(e) => {
                // It stays so.
                assert!(reader.next().is_err());
                return (reader.lsn(), Err(e));
            }
        }
    }
}

fn flip(path: &Path, offset: usize, mask: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= mask;
    std::fs::write(path, bytes).unwrap();
}

/// Where the blocks of a file stand: offset, length, first LSN.
fn blocks(path: &Path) -> Vec<(usize, usize, u64)> {
    let bytes = std::fs::read(path).unwrap();
    let mut at = SECTOR;
    let mut blocks = Vec::new();
    while let Some(head) = bytes.get(at..).and_then(BlockHead::decode) {
        blocks.push((at, head.len as usize, head.first_lsn));
        at += head.padded() as usize;
    }
    blocks
}

#[test]
fn a_flipped_byte_anywhere_is_found_or_harmless() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let end = log(dir.path(), 5, true);
    let file = files(dir.path())[0].clone();
    let good = std::fs::read(&file).unwrap();
    let blocks = blocks(&file);
    for offset in 0..good.len() {
        let mut bytes = good.clone();
        bytes[offset] ^= 1 << (offset % 8);
        std::fs::write(&file, &bytes).unwrap();
        let (lsn, result) = read(dir.path());
        let hit = blocks
            .iter()
            .position(|(at, len, _)| (*at..at + len).contains(&offset));
        match (hit, result) {
            (
                None,
                Err(LogError::Damaged {
                    offset: at, lsn, ..
                }),
            ) if offset < SECTOR => {
                assert_eq!((at, lsn), (0, FIRST), "byte {offset}");
            }
            // Zeros behind a block.
            (None, Ok(tail)) if offset >= SECTOR => {
                assert!(
                    tail.sealed && tail.torn.is_none() && lsn == end,
                    "byte {offset}"
                );
            }
            // The seal, or the last block, of which nothing later says that it was durable but the seal.
            (Some(block), Ok(tail)) if block == blocks.len() - 1 => {
                let torn = tail.torn.unwrap();
                assert_eq!((torn.offset, torn.lsn), (blocks[block].0 as u64, end));
                assert!(lsn == end && !tail.sealed, "byte {offset}");
            }
            (
                Some(block),
                Err(LogError::Damaged {
                    file: name,
                    lsn: at,
                    offset: o,
                    ..
                }),
            ) => {
                assert_eq!(name, file);
                assert_eq!(
                    (o, at),
                    (blocks[block].0 as u64, blocks[block].2),
                    "byte {offset}"
                );
                assert_eq!(lsn, at);
            }
            (_, result) => panic!("byte {offset}: {result:?}"),
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_torn_or_damaged() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let end = log(dir.path(), 3, true);
    let file = files(dir.path())[0].clone();
    let good = std::fs::read(&file).unwrap();
    let seal = blocks(&file).last().unwrap().0;
    for cut in (0..good.len()).step_by(61) {
        std::fs::write(&file, &good[..cut]).unwrap();
        let (lsn, result) = read(dir.path());
        match result {
            Ok(tail) => {
                // The zeros behind the seal are no loss.
                assert!(cut >= SECTOR && lsn <= end && tail.sealed == (cut >= seal + BLOCK_HEAD));
                // A caller who knows better.
                let options = OpenOptions {
                    durable_at_least: end,
                    ..OpenOptions::default()
                };
                let mut reader = LogReader::open(dir.path(), options).unwrap();
                let told = loop {
                    match reader.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break true,
                        Err(LogError::Damaged { lsn: at, .. }) => {
                            assert_eq!(at, lsn);
                            break false;
                        }
                        Err(e) => panic!("{e}"),
                    }
                };
                assert_eq!(told, lsn == end, "cut at {cut}");
            }
            Err(LogError::Damaged { .. } | LogError::Foreign { .. }) => assert!(cut < SECTOR),
            Err(e) => panic!("cut at {cut}: {e}"),
        }
    }
}

#[test]
fn damage_ahead_of_the_tail_is_passed_by_repair_only() {
    for compressed in [false, true] {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let end = log(dir.path(), 60, true);
        assert!(files(dir.path()).len() > 3);
        if compressed {
            compress_sealed(dir.path(), 1).unwrap();
        }
        let before = read(dir.path());
        assert_eq!(before.0, end);
        assert_eq!(repair(dir.path()).unwrap().cuts, [], "nothing to do");
        let target = files(dir.path())[1].clone();
        let (offset, lsn) = if compressed {
            // Decompress, change, compress.
            let mut bytes = zstd::decode_all(std::fs::File::open(&target).unwrap()).unwrap();
            bytes[SECTOR * 2 + 100] ^= 1;
            let head = BlockHead::decode(&bytes[SECTOR * 2..]).unwrap();
            std::fs::write(&target, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
            (SECTOR * 2, head.first_lsn)
        } else {
            let (at, _, lsn) = blocks(&target)[1];
            flip(&target, at + 100, 1);
            (at, lsn)
        };
        let (reached, result) = read(dir.path());
        let Err(LogError::Damaged {
            file,
            lsn: at,
            offset: o,
            ..
        }) = result
        else {
            panic!("{result:?}")
        };
        assert_eq!(
            (file, at, o, reached),
            (target.clone(), lsn, offset as u64, lsn)
        );
        let repaired = repair(dir.path()).unwrap();
        let cut = &repaired.cuts[0];
        assert_eq!((cut.lsn, cut.lost_end, repaired.end_lsn), (lsn, end, lsn));
        assert_eq!(
            (cut.file.clone(), cut.offset),
            (target.clone(), offset as u64)
        );
        assert!(repaired.kept_aside.iter().all(|p| p.exists()));
        assert!(repaired.kept_aside.len() > 2);
        let (reached, result) = read(dir.path());
        assert!(reached == lsn && result.unwrap().torn.is_none());
        assert_eq!(repair(dir.path()).unwrap().cuts, [], "twice is once");
        let found = survey(dir.path()).unwrap();
        assert_eq!(
            (found.end.lsn, found.kept_aside.len()),
            (lsn, repaired.kept_aside.len())
        );
        // The log goes on.
        let mut writer = LogWriter::create(dir.path(), meta(2, lsn), lsn, config()).unwrap();
        put(&mut writer, 7);
        writer.close().unwrap();
        assert_eq!(read(dir.path()).0, lsn + 7);
    }
}

#[test]
fn a_past_that_was_given_up_does_not_come_back_by_repair() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    log(dir.path(), 60, false);
    // A rebuild from an old state: everything behind was given up.
    let fork = FIRST + 100;
    let mut writer = LogWriter::create(dir.path(), meta(2, fork), fork, config()).unwrap();
    put(&mut writer, 50);
    writer.close().unwrap();
    let found = survey(dir.path()).unwrap();
    assert!(found.files.len() == 2 && !found.given_up.is_empty());
    assert_eq!(read(dir.path()).0, fork + 50);
    flip(&found.files[1].path, 20, 1);
    let repaired = repair(dir.path()).unwrap();
    assert_eq!((repaired.end_lsn, repaired.cuts[0].lsn), (fork, fork));
    assert_eq!(read(dir.path()).0, fork);
}

#[test]
fn missing_file_is_damage_and_an_older_lsn_is_gone() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    log(dir.path(), 60, true);
    let all = files(dir.path());
    std::fs::remove_file(&all[0]).unwrap();
    let options = OpenOptions {
        from_lsn: FIRST,
        ..OpenOptions::default()
    };
    let gone = LogReader::open(dir.path(), options).err().unwrap();
    let LogError::Gone {
        wanted: FIRST,
        oldest,
    } = gone
    else {
        panic!("{gone}")
    };
    assert_eq!(survey(dir.path()).unwrap().first_lsn, oldest);
    std::fs::remove_file(&all[2]).unwrap();
    let (lsn, result) = read(dir.path());
    let Err(LogError::Damaged { lsn: at, .. }) = result else {
        panic!("{result:?}")
    };
    assert_eq!(at, lsn);
}

#[test]
fn foreign_and_newer_files_are_refused_by_everybody() {
    let make = |change: &dyn Fn(&mut Vec<u8>)| {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        log(dir.path(), 60, true);
        let last = files(dir.path()).pop().unwrap();
        let mut bytes = std::fs::read(&last).unwrap();
        change(&mut bytes);
        std::fs::write(&last, bytes).unwrap();
        let errors = [
            read(dir.path()).1.unwrap_err(),
            survey(dir.path()).unwrap_err(),
            repair(dir.path()).unwrap_err(),
            LogWriter::create(dir.path(), meta(1, 0), 1 << 40, config())
                .err()
                .unwrap(),
        ];
        (dir, errors)
    };
    let resum = |bytes: &mut [u8]| {
        let crc = crc32c::crc32c(&bytes[..header_at::CRC]);
        bytes[header_at::CRC..SECTOR].copy_from_slice(&crc.to_le_bytes());
    };
    let (_dir, errors) = make(&|bytes| {
        bytes[header_at::MAJOR] = 9;
        resum(bytes);
    });
    for e in errors {
        assert!(matches!(e, LogError::Newer { major: 9, .. }), "{e}");
        assert!(e.to_string().contains("newer MMSB"), "{e}");
    }
    let (_dir, errors) = make(&|bytes| {
        bytes[header_at::LOG_ID] ^= 1;
        resum(bytes);
    });
    for e in errors {
        assert!(matches!(e, LogError::Foreign { .. }), "{e}");
    }
    let (_dir, errors) = make(&|bytes| *bytes = b"notes of somebody".repeat(1000));
    for e in errors {
        assert!(matches!(e, LogError::Foreign { .. }), "{e}");
    }
}

#[test]
fn retention_takes_whole_files_from_the_front_and_never_the_last() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let end = log(dir.path(), 60, true);
    let all = survey(dir.path()).unwrap().files;
    assert_eq!(retain(dir.path(), &Retention::default()).unwrap(), []);
    let old = Retention {
        age: Some(Duration::from_secs(3600)),
        ..Retention::default()
    };
    assert_eq!(retain(dir.path(), &old).unwrap(), []);
    // The LSN stands in the middle of the third file.
    let keep = Retention {
        bytes: Some(0),
        keep_from: Some(all[2].first_lsn + 3),
        ..Retention::default()
    };
    let removed = retain(dir.path(), &keep).unwrap();
    assert_eq!(removed.len(), 2);
    assert_eq!(removed[1].end_lsn, all[2].first_lsn);
    let half = Retention {
        bytes: Some(survey(dir.path()).unwrap().bytes() / 2),
        ..Retention::default()
    };
    assert!(!retain(dir.path(), &half).unwrap().is_empty());
    assert!(survey(dir.path()).unwrap().bytes() <= half.bytes.unwrap());
    let all_but_last = Retention {
        keep_from: Some(u64::MAX),
        ..Retention::default()
    };
    retain(dir.path(), &all_but_last).unwrap();
    let left = survey(dir.path()).unwrap();
    assert_eq!((left.files.len(), left.end.lsn), (1, end));
    assert_eq!(read(dir.path()).0, end);
}

#[test]
fn compressed_files_read_the_same() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let end = log(dir.path(), 60, true);
    let before = survey(dir.path()).unwrap();
    let done = compress_sealed(dir.path(), 3).unwrap();
    assert_eq!(done.len(), before.files.len() - 1);
    assert_eq!(compress_sealed(dir.path(), 3).unwrap(), []);
    let after = survey(dir.path()).unwrap();
    assert!(after.files[..done.len()].iter().all(|f| f.compressed));
    assert_eq!(after.end, before.end);
    assert_eq!(read(dir.path()).0, end);
    for from in (FIRST..end).step_by(333) {
        let options = OpenOptions {
            from_lsn: from,
            ..OpenOptions::default()
        };
        let mut reader = LogReader::open(dir.path(), options).unwrap();
        let block = reader.next().unwrap().unwrap();
        check(&block);
        assert!(block.first_lsn <= from && from < block.end_lsn + 50);
    }
    // Cut or changed: damage, in the file that it is in.
    let target = &after.files[1].path;
    let good = std::fs::read(target).unwrap();
    for at in (0..good.len()).step_by(97) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        std::fs::write(target, bytes).unwrap();
        match read(dir.path()) {
            (lsn, Err(LogError::Damaged { file, .. } | LogError::Foreign { file, .. })) => {
                assert!(file == *target && lsn <= after.files[1].end_lsn);
            }
            (lsn, Ok(_)) => assert_eq!(lsn, end, "byte {at}"),
            (_, Err(e)) => panic!("byte {at}: {e}"),
        }
        std::fs::write(target, &good[..at]).unwrap();
        let (_, result) = read(dir.path());
        assert!(result.is_err(), "cut at {at}");
    }
}

#[test]
fn leftovers_of_a_crash_are_harmless_and_cleared_away() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let end = log(dir.path(), 20, false);
    std::fs::write(dir.path().join("prepared-0123"), b"zeros").unwrap();
    // A compression that was cut short before the original went.
    let first = &files(dir.path())[0];
    let whole = std::fs::read(first).unwrap();
    let twin = first.with_extension("tlog.zst");
    std::fs::write(&twin, zstd::encode_all(&whole[..], 1).unwrap()).unwrap();
    assert!(!survey(dir.path()).unwrap().leftovers.is_empty());
    assert_eq!(read(dir.path()).0, end);
    LogWriter::create(dir.path(), meta(1, 0), end, config())
        .unwrap()
        .close()
        .unwrap();
    assert!(survey(dir.path()).unwrap().leftovers.is_empty());
    compress_sealed(dir.path(), 1).unwrap();
    assert!(twin.exists() && !first.exists());
    assert_eq!(read(dir.path()).0, end);
}

#[test]
fn full_disk_is_an_error_and_the_log_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(dir.path())
        .status();
    if !mounted.is_ok_and(|s| s.success()) {
        eprintln!("skipped: only root may mount a small tmpfs");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let mut writer = LogWriter::create(dir.path(), meta(1, 0), FIRST, config()).unwrap();
        let failed = loop {
            let mut block = writer.begin().unwrap();
            let first = writer.end_lsn();
            for lsn in first..first + 50 {
                block.room()[..SLOT].copy_from_slice(&slot(lsn));
                block.advance(SLOT, 1);
            }
            let result = writer.submit(block, first + 50);
            if let Err(e) = result.and_then(|()| writer.wait(None).map(drop)) {
                break e;
            }
        };
        assert!(failed.is_full(), "{failed}");
        let durable = writer.durable_lsn();
        assert!(matches!(writer.poll(), Err(LogError::Poisoned { .. })));
        drop(writer);
        let full = LogWriter::create(dir.path(), meta(1, 0), durable, config())
            .err()
            .unwrap();
        assert!(full.is_full(), "{full}");
        let some = Retention {
            bytes: Some(512 << 10),
            ..Retention::default()
        };
        assert!(!retain(dir.path(), &some).unwrap().is_empty());
        let mut writer = LogWriter::create(dir.path(), meta(1, 0), durable, config()).unwrap();
        put(&mut writer, 50);
        writer.close().unwrap();
        assert_eq!(read(dir.path()).0, durable + 50);
    });
    let _ = std::process::Command::new("umount")
        .arg(dir.path())
        .status();
    outcome.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_read(
        sizes in proptest::collection::vec((0u64..120, 0u64..3, 0usize..9000), 1..40),
        depth in 1usize..6,
        from in 0u64..3000,
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let config = WriterConfig { depth, ..config() };
        let mut writer = LogWriter::create(dir.path(), meta(1, 0), FIRST, config).unwrap();
        let mut want = Vec::new();
        for (slots, gap, chunk) in sizes {
            let mut block = loop {
                match writer.begin() {
                    Some(block) => break block,
                    None => writer.wait(None).map(drop).unwrap(),
                }
            };
            let first = writer.end_lsn();
            block.push_chunk(first, chunk as u64, 0, chunk).fill(9);
            let mut slots = slots;
            for lsn in first..first + slots {
                if block.room().len() < SLOT {
                    slots = lsn - first;
                    break;
                }
                block.room()[..SLOT].copy_from_slice(&slot(lsn));
                block.advance(SLOT, 1);
            }
            let body = block.body_len();
            let end = first + slots + gap;
            if !block.is_empty() || end > first {
                want.push((first, end, body));
            }
            writer.submit(block, end).unwrap();
        }
        writer.close().unwrap();
        let options = OpenOptions { from_lsn: 0, ..OpenOptions::default() };
        let mut reader = LogReader::open(dir.path(), options).unwrap();
        let mut have = Vec::new();
        while let Some(block) = reader.next().unwrap() {
            have.push((block.first_lsn, block.end_lsn, block.body.len()));
        }
        prop_assert_eq!(&have, &want);
        prop_assert!(reader.end().unwrap().sealed);
        if from >= FIRST {
            let options = OpenOptions { from_lsn: from, ..OpenOptions::default() };
            let mut reader = LogReader::open(dir.path(), options).unwrap();
            let mut have = Vec::new();
            while let Some(block) = reader.next().unwrap() {
                have.push((block.first_lsn, block.end_lsn, block.body.len()));
            }
            // A suffix, with everything that ends behind `from`, and all content of its first record.
            prop_assert!(want.ends_with(&have));
            let needed = want.iter().find(|b| b.1 > from).map(|b| b.0);
            let begin = have.first().map_or(u64::MAX, |b| b.0);
            prop_assert!(needed.is_none_or(|n| begin <= n));
            if let Some(n) = needed {
                let content = want.iter().filter(|b| b.0 == n).count();
                prop_assert_eq!(have.iter().filter(|b| b.0 == n).count(), content);
            }
        }
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let _ = FileHeader::decode(&bytes);
        let _ = BlockHead::decode(&bytes);
        prop_assert!(bytes.len() < BLOCK_HEAD || BlockHead::decode(&bytes).is_none());
    }
}
