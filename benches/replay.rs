//! Replaying a log from the page cache, and writing and loading a checkpoint: each in one go, because a log is replayed
//! once. `cargo bench -p mmsb-benches --bench replay [-- DIR [CASE]]`; DIR is on the disk that is to be measured,
//! CASE is `64`, `1024` or `checkpoint`.
//!
//! The floors are in the same run: a plain read of the same files, and a plain sequential write of as many bytes past
//! the page cache.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use mmsb::checkpoint;
use mmsb::state::{Heap, Meta, ReplayOptions, State, replay};
use mmsb::tlog::{LogMeta, LogReader, LogWriter, OpenOptions, WriterConfig};
use mmsb::wire::{self, Spec};
use mmsb::{Kind, PageId};

/// Slots of the ring that the log is said to come from.
const RING_SLOTS: u32 = 1 << 24;

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// Deltas, or pages.
    pub count: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Figure {
    fn print(&self, what: &str) {
        println!(
            "{what:<44} {:>8.3} s  {:>8.2} M/s  {:>7.2} GB/s",
            self.seconds,
            self.count as f64 / self.seconds / 1e6,
            self.bytes as f64 / self.seconds / 1e9
        );
    }
}

/// Writes a log of `deltas` patches of `bytes` bytes to `pages` pages, in turn.
pub fn make_log(dir: &Path, pages: u32, bytes: usize, deltas: u64) -> u64 {
    let meta = LogMeta::new("replay", 0, RING_SLOTS).expect("random numbers");
    let mut lsn = u64::from(RING_SLOTS);
    let config = WriterConfig {
        prewrite: false,
        ..WriterConfig::default()
    };
    let mut writer = LogWriter::create(dir, meta, lsn, config).expect("a log");
    let id = |n: u64| PageId {
        index: (n % u64::from(pages)) as u32,
        generation: 1,
    };
    let size = (bytes as u32).max(4096);
    let create = [size.to_le_bytes(), 0u32.to_le_bytes()].concat();
    let mut groups = (0..u64::from(pages))
        .map(|n| Spec::new(id(n), Kind::Create, 0, create.clone()))
        .chain((0..deltas).map(|n| {
            let at = (n / u64::from(pages) * bytes as u64) % u64::from(size) / bytes as u64;
            Spec::new(
                id(n),
                Kind::Patch,
                at as u32 * bytes as u32,
                vec![n as u8; bytes],
            )
        }))
        .peekable();
    while groups.peek().is_some() {
        let Some(mut block) = writer.begin() else {
            writer.wait(None).expect("a write");
            continue;
        };
        while let Some(spec) = groups.peek() {
            let slots = wire::encode(std::slice::from_ref(spec), lsn, RING_SLOTS);
            if block.room().len() < slots.len() {
                break;
            }
            block.room()[..slots.len()].copy_from_slice(&slots);
            block.advance(slots.len(), 1);
            lsn += (slots.len() / wire::SLOT) as u64;
            groups.next();
        }
        writer.submit(block, lsn).expect("a write");
    }
    writer.close().expect("the end of the log");
    lsn
}

/// Reads every file of `dir`.
pub fn read_all(dir: &Path) -> u64 {
    let mut buffer = vec![0; 1 << 20];
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).expect("the directory").flatten() {
        let mut file = File::open(entry.path()).expect("a file");
        loop {
            match file.read(&mut buffer).expect("a read") {
                0 => break,
                n => sum += n as u64,
            }
        }
    }
    sum
}

/// Replays the log in `dir`.
pub fn replay_log(dir: &Path, threads: usize) -> (State, Figure) {
    let mut state = State::new(Meta::default(), Heap::default());
    let begin = Instant::now();
    let reader = LogReader::open(dir, OpenOptions::default()).expect("the log");
    let options = ReplayOptions {
        threads,
        ..ReplayOptions::default()
    };
    let done = replay(&mut state, reader, options).expect("a replay");
    let figure = Figure {
        count: done.records,
        bytes: 0,
        seconds: begin.elapsed().as_secs_f64(),
    };
    (state, figure)
}

/// Writes `bytes` bytes in order, 1 MiB at a time past the page cache, with a sync: what a disk gives to one writer.
pub fn write_floor(dir: &Path, bytes: u64, threads: u64) -> f64 {
    let path = dir.join("floor");
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(true).write(true);
    let direct = rustix::fs::OFlags::DIRECT.bits() as i32;
    let file = options
        .clone()
        .custom_flags(direct)
        .open(&path)
        .or_else(|_| options.open(&path))
        .expect("a file");
    let begin = Instant::now();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).expect("room");
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let file = &file;
            scope.spawn(move || {
                let memory = vec![7u8; (1 << 20) + 4096];
                let start = memory.as_ptr().align_offset(4096);
                let mut at = thread << 20;
                while at < bytes {
                    file.write_all_at(&memory[start..start + (1 << 20)], at)
                        .expect("a write");
                    at += threads << 20;
                }
            });
        }
    });
    file.sync_all().expect("a sync");
    let seconds = begin.elapsed().as_secs_f64();
    std::fs::remove_file(&path).expect("removed");
    seconds
}

fn replay_case(dir: &Path, pages: u32, bytes: usize, deltas: u64) {
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    make_log(dir.path(), pages, bytes, deltas);
    read_all(dir.path());
    let begin = Instant::now();
    let log_bytes = read_all(dir.path());
    let floor = Figure {
        count: deltas,
        bytes: log_bytes,
        seconds: begin.elapsed().as_secs_f64(),
    };
    floor.print(&format!("floor: read the log of {bytes} B deltas"));
    let mut hash = None;
    for threads in [1, 2, 2] {
        let (state, mut figure) = replay_log(dir.path(), threads);
        figure.bytes = deltas * bytes as u64;
        figure.print(&format!(
            "replay {bytes} B, {pages} pages, {threads} applying"
        ));
        let now = state.hash();
        assert_eq!(*hash.get_or_insert(now), now, "one log, one state");
    }
}

fn checkpoint_case(dir: &Path, pages: u32, size: u32) {
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    let mut state = State::new(Meta::default(), Heap::default());
    for index in 0..pages {
        let id = PageId {
            index,
            generation: 1,
        };
        let mut bytes = state.take_memory(id, size, 1).expect("memory");
        bytes.fill(index as u8);
        let shape = mmsb::state::PageShape {
            id,
            versions: 1,
            epoch: 0,
            lsn: 0,
        };
        let cold = mmsb::Cold::default();
        state
            .insert(mmsb::state::Loaded { shape, cold, bytes })
            .expect("a page");
    }
    state.advance_to(1);
    let total = u64::from(pages) * u64::from(size);
    let figure = |seconds| Figure {
        count: u64::from(pages),
        bytes: total,
        seconds,
    };
    for threads in [1, 4] {
        figure(write_floor(dir.path(), total, threads)).print(&format!(
            "floor: write {} MiB, {threads} threads",
            total >> 20
        ));
    }
    for (direct, threads) in [(true, 1), (true, 2), (true, 4), (false, 2), (true, 4)] {
        let options = checkpoint::Options {
            direct,
            threads,
            progress: None,
        };
        let begin = Instant::now();
        checkpoint::write(dir.path(), &state, &options, &|_| Ok(())).expect("a checkpoint");
        figure(begin.elapsed().as_secs_f64()).print(&format!(
            "checkpoint, {pages} pages of {size}, {threads} threads{}",
            if direct { "" } else { ", cached" }
        ));
    }
    let path = &checkpoint::list(dir.path()).expect("a list")[0].path;
    for what in ["load (cold)", "load (cached)"] {
        let begin = Instant::now();
        let loaded = checkpoint::load(path, Heap::default()).expect("a state");
        figure(begin.elapsed().as_secs_f64()).print(what);
        assert_eq!(loaded.len(), pages as usize);
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let dir = args.next().map_or_else(std::env::temp_dir, Into::into);
    let only = args.next();
    let wanted = |case: &str| only.as_deref().is_none_or(|only| only == case);
    if wanted("64") {
        replay_case(&dir, 1000, 64, 8_000_000);
        replay_case(&dir, 100_000, 64, 4_000_000);
    }
    if wanted("1024") {
        replay_case(&dir, 1000, 1024, 1_000_000);
    }
    if wanted("checkpoint") {
        checkpoint_case(&dir, 16_384, 65_536);
        checkpoint_case(&dir, 1 << 20, 1024);
    }
}
