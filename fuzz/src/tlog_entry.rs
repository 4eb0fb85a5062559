//! What the fuzz target `tlog_reader` and `libmmsb/tests/tlog_hostile.rs` run: a directory of a log with whatever bytes
//! the caller says, then everybody who reads it.
//!
//! Each call must end with a value or a typed error. Whoever runs this watches for panics and endless loops.

use std::path::Path;

use mmsb::tlog::format::{BlockHead, FileHeader, SECTOR, block_at, file_name, header_at};
use mmsb::tlog::{
    Backend, Block, LogError, LogMeta, LogReader, LogWriter, OpenOptions, WriterConfig, repair,
    survey,
};
use mmsb_shm::wire::{self, Spec};
use mmsb_shm::{Clock, Kind, PageId};

const RING: u32 = 64;

fn meta(incarnation: u64) -> LogMeta {
    LogMeta {
        config: None,
        log_id: [1, 2],
        incarnation,
        fork_lsn: 0,
        forks: Vec::new(),
        created_ns: 0,
        ring_slots: RING,
        bus: "fuzz".into(),
    }
}

fn config() -> WriterConfig {
    WriterConfig {
        segment_bytes: 24 << 10,
        block_bytes: 8 << 10,
        depth: 1,
        backend: Backend::Plain,
        prewrite: false,
    }
}

/// A log of three files, written by the real writer.
fn good(dir: &Path) {
    let mut writer = LogWriter::create(dir, meta(1), 64, config()).expect("create");
    let page = PageId {
        index: 1,
        generation: 1,
    };
    for n in 0..10u8 {
        let mut block = writer.begin().expect("a buffer");
        let mut lsn = writer.end_lsn();
        if n == 4 {
            block.push_chunk(lsn, 30, 0, 30).fill(4);
        }
        for _ in 0..=n {
            let slots = wire::encode(&[Spec::new(page, Kind::Patch, 0, vec![n; 90])], lsn, RING);
            block.room()[..slots.len()].copy_from_slice(&slots);
            block.advance(slots.len(), 1);
            lsn += (slots.len() / wire::SLOT) as u64;
        }
        writer.submit(block, lsn).expect("submit");
        writer.wait(None).expect("wait");
    }
    if let Err(e) = writer.close() {
        panic!("close: {e}");
    }
}

fn log_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("directory")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "tlog"))
        .collect();
    files.sort();
    files
}

/// Makes the checksums of a file fit again, so that what is behind them is reached.
fn sum_up(bytes: &mut [u8]) {
    if bytes.len() < SECTOR {
        return;
    }
    let crc = crc32c::crc32c(&bytes[..header_at::CRC]);
    bytes[header_at::CRC..SECTOR].copy_from_slice(&crc.to_le_bytes());
    let mut prev = crc;
    let mut at = SECTOR;
    while let Some(head) = bytes.get(at..).and_then(BlockHead::decode) {
        let Some(block) = bytes.get_mut(at..at + head.len as usize) else {
            return;
        };
        block[block_at::PREV..block_at::PREV + 4].copy_from_slice(&prev.to_le_bytes());
        prev = crc32c::crc32c(&block[block_at::LEN..]);
        block[block_at::CRC..block_at::CRC + 4].copy_from_slice(&prev.to_le_bytes());
        at += head.padded() as usize;
    }
}

/// Reads everything there is, and every body.
fn read(dir: &Path, options: OpenOptions) -> Result<u64, LogError> {
    let mut reader = LogReader::open(dir, options)?;
    let mut block = Block::default();
    let mut blocks = 0;
    while reader.next_into(&mut block)? {
        blocks += 1;
        assert!(blocks < 10_000, "endless log");
        let clock = Clock::new(block.created_ns, block.time_ns);
        let _ = wire::walk(
            &mut block.body,
            block.first_lsn,
            block.ring_slots,
            clock,
            &mut |_| (),
        );
    }
    Ok(reader.lsn())
}

/// Runs everybody over a directory made of `data`: a byte says how, eight are where to begin and what was durable, the
/// rest are bytes of a file, or patches (two bytes where, of 16, then four bytes).
pub fn tlog_reader(dir: &Path, data: &[u8]) {
    let Some(([mode, from @ ..], rest)) = data.split_first_chunk::<9>() else {
        return;
    };
    let seed = u64::from_le_bytes(*from);
    match mode % 4 {
        0 => std::fs::write(dir.join(file_name(64, 1)), rest).expect("write"),
        1 => std::fs::write(dir.join(file_name(64, 1) + ".zst"), rest).expect("write"),
        2 => {
            let header = FileHeader {
                config: None,
                log_id: [1, 2],
                incarnation: 1,
                fork_lsn: 0,
                first_lsn: 64,
                file_id: 7,
                created_ns: 0,
                ring_slots: RING,
                forks: Vec::new(),
                bus: "fuzz".into(),
                previous: None,
            };
            let mut bytes = header.encode().to_vec();
            bytes.extend(rest);
            sum_up(&mut bytes);
            std::fs::write(dir.join(file_name(64, 1)), bytes).expect("write");
        }
        _ => {
            good(dir);
            let files = log_files(dir);
            for patch in rest.chunks_exact(6).take(20) {
                let at = usize::from(u16::from_le_bytes([patch[0], patch[1]]));
                let file = &files[at % files.len()];
                let mut bytes = std::fs::read(file).expect("read");
                let at = at / files.len() * 4;
                // Most of a block's length says nothing; its head does.
                let at = if at & 4 == 0 {
                    at / 4096 % (bytes.len() / 4096) * 4096 + at % 64
                } else {
                    at % (bytes.len() - 4)
                };
                bytes[at..at + 4].copy_from_slice(&patch[2..]);
                if mode & 4 == 0 {
                    sum_up(&mut bytes);
                }
                std::fs::write(file, bytes).expect("write");
            }
        }
    }
    let whole = OpenOptions::default();
    let some = OpenOptions {
        from_lsn: seed % 300,
        durable_at_least: seed >> 16 & 255,
        verify_crc: seed >> 63 == 0,
    };
    let _ = read(dir, some);
    let _ = survey(dir);
    let before = read(dir, whole.clone());
    if let Ok(repaired) = repair(dir) {
        // What a repair leaves can be read, and the log goes on behind it.
        let after = read(dir, whole.clone()).expect("a repaired log");
        assert_eq!(after, repaired.end_lsn);
        if let Ok(before) = before {
            assert_eq!(before, after, "a log that was whole");
        }
        if let Ok(writer) = LogWriter::create(dir, meta(2), after, config()) {
            drop(writer.close());
            assert_eq!(read(dir, whole).expect("a log that goes on"), after);
        }
    }
}
