//! The log's files through the public interface, on a real file system.

use std::path::Path;
use std::time::Duration;

use mmsb::tlog::{
    Backend, Block, LogError, LogMeta, LogReader, LogWriter, OpenOptions, WriterConfig,
};

const SLOT: u64 = 64;

fn meta() -> LogMeta {
    LogMeta {
        config: None,
        log_id: [11, 22],
        incarnation: 1,
        fork_lsn: 0,
        forks: Vec::new(),
        created_ns: 1_000,
        ring_slots: 64,
        bus: "test".into(),
    }
}

fn config(backend: Backend) -> WriterConfig {
    WriterConfig {
        segment_bytes: 256 << 10,
        block_bytes: 64 << 10,
        depth: 4,
        backend,
        prewrite: true,
    }
}

/// Bytes that only this LSN has.
fn slot(lsn: u64) -> [u8; SLOT as usize] {
    let mut bytes = [0; SLOT as usize];
    for (i, word) in bytes.chunks_mut(8).enumerate() {
        word.copy_from_slice(
            &(lsn * 8 + i as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes(),
        );
    }
    bytes
}

/// Submits a block of `slots` slots.
fn put(writer: &mut LogWriter, slots: u64) {
    let mut block = loop {
        match writer.begin() {
            Some(block) => break block,
            None => writer.wait(None).map(drop).unwrap(),
        }
    };
    let first = writer.end_lsn();
    for lsn in first..first + slots {
        block.room()[..SLOT as usize].copy_from_slice(&slot(lsn));
        block.advance(SLOT as usize, 1);
    }
    writer.submit(block, first + slots).unwrap();
}

fn drain(writer: &mut LogWriter) -> u64 {
    while writer.in_flight() > 0 {
        writer.wait(None).unwrap();
    }
    writer.durable_lsn()
}

fn check(block: &Block) {
    assert_eq!(
        block.body.len() as u64,
        (block.end_lsn - block.first_lsn) * SLOT
    );
    for (i, bytes) in block.body.chunks(SLOT as usize).enumerate() {
        assert_eq!(bytes, slot(block.first_lsn + i as u64));
    }
}

/// Reads all there is from `from` on and checks it; the LSNs at which it began and ended.
fn read(dir: &Path, from: u64) -> Result<(u64, u64), LogError> {
    let options = OpenOptions {
        from_lsn: from,
        ..OpenOptions::default()
    };
    let mut reader = LogReader::open(dir, options)?;
    let mut range = None;
    while let Some(block) = reader.next()? {
        check(&block);
        let (begin, end) = range.get_or_insert((block.first_lsn, block.first_lsn));
        assert_eq!(block.first_lsn, *end, "from {begin}");
        *end = block.end_lsn;
    }
    Ok(range.unwrap_or((reader.lsn(), reader.lsn())))
}

fn backends() -> Vec<Backend> {
    let dir = tempfile::tempdir().unwrap();
    match LogWriter::create(dir.path(), meta(), 64, config(Backend::Uring)) {
        Ok(_) => vec![Backend::Uring, Backend::Plain],
        Err(e) => {
            eprintln!("skipped: no io_uring here ({e})");
            vec![Backend::Plain]
        }
    }
}

#[test]
fn what_was_written_is_read_over_many_files() {
    for backend in backends() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::create(dir.path(), meta(), 64, config(backend)).unwrap();
        for i in 0..400 {
            put(&mut writer, 1 + i * 37 % 900);
        }
        let end = drain(&mut writer);
        assert_eq!(end, writer.end_lsn());
        assert!(writer.stats().files > 10, "{:?}", writer.stats());
        assert_eq!(read(dir.path(), 0).unwrap(), (64, end));
        writer.close().unwrap();
        assert_eq!(read(dir.path(), 0).unwrap(), (64, end));
        let mut reader = LogReader::open(dir.path(), OpenOptions::default()).unwrap();
        while reader.next().unwrap().is_some() {}
        let tail = reader.end().unwrap();
        assert!(
            tail.sealed && tail.torn.is_none() && tail.lsn == end,
            "{tail:?}"
        );
        for from in (64..end).step_by(997) {
            let (begin, stop) = read(dir.path(), from).unwrap();
            assert!(
                begin <= from && begin + 2 * 1024 > from && stop == end,
                "{from}: {begin}"
            );
        }
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| !n.ends_with(".tlog"))
            .collect();
        assert_eq!(left, ["lock"]);
    }
}

#[test]
fn reader_follows_a_running_writer_and_a_takeover() {
    for backend in backends() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::create(dir.path(), meta(), 64, config(backend)).unwrap();
        let mut reader = LogReader::open(dir.path(), OpenOptions::default()).unwrap();
        let mut seen = 64;
        let mut catch_up = |reader: &mut LogReader, to: u64| {
            while let Some(block) = reader.next().unwrap() {
                check(&block);
                assert!(block.first_lsn <= seen);
                seen = seen.max(block.end_lsn);
            }
            assert!(seen >= to, "{seen} {to}");
            assert!(!reader.end().unwrap().sealed);
        };
        for round in 0..30 {
            for _ in 0..5 {
                put(&mut writer, 100 * (1 + round % 4));
            }
            let durable = drain(&mut writer);
            catch_up(&mut reader, durable);
        }
        // Killed, and what it had written last was never called durable.
        let taken_over = writer.durable_lsn();
        put(&mut writer, 10);
        put(&mut writer, 10);
        drain(&mut writer);
        drop(writer);
        catch_up(&mut reader, taken_over + 20);
        let mut writer =
            LogWriter::create(dir.path(), meta(), taken_over, config(backend)).unwrap();
        put(&mut writer, 15);
        put(&mut writer, 15);
        let durable = drain(&mut writer);
        catch_up(&mut reader, durable);
        assert_eq!(read(dir.path(), 0).unwrap(), (64, durable));
    }
}

#[test]
fn content_of_a_record_may_be_longer_than_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::create(dir.path(), meta(), 64, config(Backend::Auto)).unwrap();
    put(&mut writer, 3);
    let total = 3 << 20;
    let mut done = 0;
    while done < total {
        let Some(mut block) = writer.begin() else {
            writer.wait(None).unwrap();
            continue;
        };
        let chunk = block.push_chunk(67, total, done, usize::MAX);
        chunk.fill(7);
        done += chunk.len() as u64;
        let end = writer.end_lsn();
        writer.submit(block, end).unwrap();
    }
    put(&mut writer, 1000);
    put(&mut writer, 1000);
    let end = drain(&mut writer);
    writer.close().unwrap();
    // Wherever in the record's block one begins: all of its content comes first.
    for from in [0, 66, 67, 68, 1000] {
        let options = OpenOptions {
            from_lsn: from,
            durable_at_least: end,
            verify_crc: true,
        };
        let mut reader = LogReader::open(dir.path(), options).unwrap();
        let mut bytes = 0;
        while let Some(block) = reader.next().unwrap() {
            if block.first_lsn == block.end_lsn {
                assert_eq!(block.first_lsn, 67);
                let mut body = block.body;
                let clock = mmsb_shm::Clock::new(0, 0);
                mmsb_shm::wire::walk(&mut body, 67, 64, clock, &mut |item| {
                    let mmsb_shm::wire::Item::Chunk(chunk) = item else {
                        panic!("{item:?}")
                    };
                    assert_eq!(chunk.offset, bytes);
                    bytes += chunk.bytes.len() as u64;
                })
                .unwrap();
            }
        }
        assert_eq!(bytes, total, "{from}");
        assert_eq!(reader.lsn(), end);
    }
}

#[test]
fn one_writer_at_a_time_and_only_of_its_own_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = || config(Backend::Plain);
    let writer = LogWriter::create(dir.path(), meta(), 64, config()).unwrap();
    let locked = LogWriter::create(dir.path(), meta(), 64, config());
    assert!(matches!(locked, Err(LogError::Locked { .. })));
    drop(writer);
    let other = LogMeta {
        log_id: [1, 1],
        ..meta()
    };
    let foreign = LogWriter::create(dir.path(), other, 64, config());
    assert!(matches!(foreign, Err(LogError::Foreign { .. })));
    let next = LogMeta {
        incarnation: 2,
        fork_lsn: 64,
        ..meta()
    };
    drop(LogWriter::create(dir.path(), next, 64, config()).unwrap());
    let late = LogWriter::create(dir.path(), meta(), 64, config());
    assert!(matches!(late, Err(LogError::Diverged { .. })));
}

#[test]
fn waiting_without_anything_in_flight_returns_at_once() {
    for backend in backends() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::create(dir.path(), meta(), 64, config(backend)).unwrap();
        assert_eq!(writer.wait(None).unwrap(), 64);
        put(&mut writer, 1);
        while writer.in_flight() > 0 {
            writer.wait(Some(Duration::from_millis(1))).unwrap();
        }
        assert_eq!(writer.poll().unwrap(), 65);
    }
}
