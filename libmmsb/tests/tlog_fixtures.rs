//! Logs of format version 1 as they were written once, kept for ever: every later version reads them.
//!
//! `fixtures/v1/whole` (three files, of which the first is compressed; a takeover; a second incarnation), `torn` (the
//! last block is half there), `damaged` (a byte of a block that was durable).
//! `cargo test -p libmmsb --test tlog_fixtures -- --ignored` makes them again, for a new version beside the old ones.

use std::path::{Path, PathBuf};

use mmsb::PageId;
use mmsb::tlog::{
    Backend, Fork, LogEnd, LogError, LogMeta, LogReader, LogWriter, OpenOptions, WriterConfig,
    compress_sealed, survey,
};
use mmsb_shm::wire::{self, Item, Spec};
use mmsb_shm::{Clock, Kind};

const RING: u32 = 64;
const FIRST: u64 = 64;
const PAGE: PageId = PageId {
    index: 3,
    generation: 1,
};

fn fixtures(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(version)
}

fn meta(incarnation: u64, fork_lsn: u64, forks: &[Fork]) -> LogMeta {
    LogMeta {
        config: None,
        log_id: [0x6d6d_7362, 0x746c_6f67],
        incarnation,
        fork_lsn,
        forks: forks.to_vec(),
        created_ns: 1_700_000_000_000_000_000,
        ring_slots: RING,
        bus: "fixture".into(),
    }
}

/// The record at `lsn`: one of one slot, of two slots, or a swap.
fn record(lsn: u64) -> Spec {
    match lsn % 5 {
        0 => Spec::new(PAGE, Kind::Patch, 16, vec![lsn as u8; 100]),
        1 => Spec {
            cause: lsn - 1,
            source: 7,
            ..Spec::new(PAGE, Kind::Patch, 4, *b"abcd")
        },
        _ => Spec::new(PAGE, Kind::Patch, 8, lsn.to_le_bytes()),
    }
}

/// Writes up to `to`, which no record crosses, a few records a block.
fn write(writer: &mut LogWriter, to: u64) {
    while writer.end_lsn() < to {
        let mut block = writer.begin().unwrap();
        let mut lsn = writer.end_lsn();
        if lsn == 64 {
            block.push_chunk(64, 9, 0, 99).copy_from_slice(b"swapped-!");
            let slots = wire::encode(&[Spec::new(PAGE, Kind::Swap, 0, Vec::new())], lsn, RING);
            block.room()[..slots.len()].copy_from_slice(&slots);
            block.advance(slots.len(), 1);
            lsn += 1;
        }
        while lsn < to && block.body_len() < 1500 {
            let slots = wire::encode(&[record(lsn)], lsn, RING);
            block.room()[..slots.len()].copy_from_slice(&slots);
            block.advance(slots.len(), 1);
            lsn += (slots.len() / wire::SLOT) as u64;
        }
        writer.submit(block, lsn).unwrap();
        writer.wait(None).unwrap();
    }
}

/// Every record as text, and how the log ends.
fn read(dir: &Path) -> (Vec<String>, Result<LogEnd, LogError>) {
    let mut reader = LogReader::open(dir, OpenOptions::default()).unwrap();
    let mut records = Vec::new();
    let end = loop {
        match reader.next() {
            Ok(Some(mut block)) => {
                let clock = Clock::new(block.created_ns, block.time_ns);
                let incarnation = block.incarnation;
                let end = wire::walk(
                    &mut block.body,
                    block.first_lsn,
                    block.ring_slots,
                    clock,
                    &mut |item| {
                        records.push(match item {
                            Item::Delta(d) => format!(
                                "{incarnation}:{} {:?} {} at {} from {} cause {} {:02x?}",
                                d.lsn,
                                d.kind,
                                d.page,
                                d.offset,
                                d.source,
                                d.cause,
                                &d.payload[..d.payload.len().min(8)]
                            ),
                            Item::Chunk(c) => {
                                format!("{incarnation}:{} content {:?}", c.lsn, c.bytes)
                            }
                        });
                    },
                );
                assert_eq!(end, Ok(block.end_lsn));
            }
            Ok(None) => break Ok(reader.end().unwrap()),
            Err(e) => break Err(e),
        }
    };
    (records, end)
}

/// What the records of `from..to` read as.
fn expected(incarnation: u64, from: u64, to: u64) -> Vec<String> {
    let mut lsn = from;
    let mut records = Vec::new();
    while lsn < to {
        let (cause, source, at, payload, slots) = match lsn % 5 {
            _ if lsn == 64 => {
                records.push(format!("{incarnation}:64 content {:?}", b"swapped-!"));
                records.push(format!(
                    "{incarnation}:64 Swap {PAGE} at 0 from 0 cause 0 []"
                ));
                lsn += 1;
                continue;
            }
            0 => (0, 0, 16, vec![lsn as u8; 8], 3),
            1 => (lsn - 1, 7, 4, b"abcd".to_vec(), 1),
            _ => (0, 0, 8, lsn.to_le_bytes().to_vec(), 1),
        };
        records.push(format!(
            "{incarnation}:{lsn} Patch {PAGE} at {at} from {source} cause {cause} {payload:02x?}"
        ));
        lsn += slots;
    }
    records
}

#[test]
fn whole_log_of_version_1_is_read() {
    let dir = fixtures("v1").join("whole");
    let (records, end) = read(&dir);
    let mut want = expected(1, 64, 400);
    want.extend(expected(2, 400, 450));
    assert!(records == want, "{} records", records.len());
    let end = end.unwrap();
    assert_eq!((end.lsn, end.sealed, end.torn), (450, true, None));
    let found = survey(&dir).unwrap();
    assert!(found.files[0].compressed && !found.files[2].compressed);
    let meta = found.meta.unwrap();
    assert_eq!(
        meta,
        self::meta(
            2,
            400,
            &[Fork {
                incarnation: 1,
                lsn: 0
            }]
        )
    );
}

#[test]
fn torn_log_of_version_1_is_cut() {
    let dir = fixtures("v1").join("torn");
    let (records, end) = read(&dir);
    let end = end.unwrap();
    let torn = end.torn.unwrap();
    assert!(
        records == expected(1, 64, end.lsn),
        "{} records",
        records.len()
    );
    assert_eq!(
        (torn.offset, torn.dropped_blocks, end.sealed),
        (4096 * 4, 1, false)
    );
}

#[test]
fn damaged_log_of_version_1_is_refused() {
    let dir = fixtures("v1").join("damaged");
    let (records, end) = read(&dir);
    let Err(LogError::Damaged { lsn, offset, .. }) = end else {
        panic!("{end:?}")
    };
    assert_eq!(offset, 4096 * 3);
    assert!(records == expected(1, 64, lsn), "{} records", records.len());
}

#[test]
#[ignore = "overwrites the fixtures of the present version"]
fn make_fixtures() {
    let all = fixtures(&format!("v{}", mmsb::tlog::format::MAJOR));
    let config = || WriterConfig {
        segment_bytes: 60 << 10,
        block_bytes: 4 << 10,
        depth: 2,
        backend: Backend::Plain,
        prewrite: false,
    };
    let fresh = |name: &str| {
        let dir = all.join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    };
    let files = |dir: &Path| {
        let _ = std::fs::remove_file(dir.join("lock"));
        survey(dir).unwrap().files
    };

    let dir = fresh("whole");
    let mut writer = LogWriter::create(&dir, meta(1, 0, &[]), FIRST, config()).unwrap();
    write(&mut writer, 160);
    let durable = writer.durable_lsn();
    drop(writer);
    let mut writer = LogWriter::create(&dir, meta(1, 0, &[]), durable, config()).unwrap();
    write(&mut writer, 400);
    drop(writer);
    compress_sealed(&dir, 3).unwrap();
    let forks = [Fork {
        incarnation: 1,
        lsn: 0,
    }];
    let mut writer = LogWriter::create(&dir, meta(2, 400, &forks), 400, config()).unwrap();
    write(&mut writer, 450);
    writer.close().unwrap();
    println!(
        "{:?} ends at {}",
        files(&dir),
        survey(&dir).unwrap().end.lsn
    );

    let dir = fresh("torn");
    let mut writer = LogWriter::create(&dir, meta(1, 0, &[]), FIRST, config()).unwrap();
    write(&mut writer, 160);
    drop(writer);
    let file = files(&dir)[0].path.clone();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.truncate(4096 * 5);
    bytes[4096 * 4 + 512..].fill(0);
    std::fs::write(&file, bytes).unwrap();

    let dir = fresh("damaged");
    let mut writer = LogWriter::create(&dir, meta(1, 0, &[]), FIRST, config()).unwrap();
    write(&mut writer, 250);
    drop(writer);
    let file = files(&dir)[0].path.clone();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4096 * 3 + 200] ^= 4;
    std::fs::write(&file, bytes).unwrap();
}
