//! The log: putting a block together, scanning and replaying a log that is in the page cache, and one commit that is on
//! disk when it returns, next to the bare write that it needs.
//!
//! Files are in the directory that `MMSB_BENCH_DIR` names, else in the current one: it should be on a disk.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mmsb::state::{Heap, Meta, ReplayOptions, State, replay};
use mmsb::supervisor::{CheckpointPolicy, Supervisor, SupervisorConfig};
use mmsb::tlog::format::BlockHead;
use mmsb::tlog::{Block, LogReader, OpenOptions};
use mmsb::{Bus, Durability, PageSpec};
use mmsb_benches::disk;

/// Bytes of patches in a log that is scanned and replayed.
const LOG_BYTES: u64 = 64 << 20;

fn on_disk() -> tempfile::TempDir {
    let dir = std::env::var_os("MMSB_BENCH_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    tempfile::tempdir_in(dir).expect("a directory")
}

fn bus() -> (tempfile::TempDir, Bus) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on the tmpfs");
    let bus = Bus::builder("tlog").dir(dir.path()).create();
    (dir, bus.expect("a bus"))
}

fn supervise(bus: &Bus, log: &tempfile::TempDir) -> Supervisor {
    let config = SupervisorConfig {
        checkpoint: CheckpointPolicy {
            interval: None,
            log_bytes: None,
            ..CheckpointPolicy::default()
        },
        ..SupervisorConfig::new(log.path())
    };
    Supervisor::start(bus, config).expect("a supervisor")
}

/// The header of a block, whose checksum is over all of it.
fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("tlog/encode a block");
    for bytes in [4 << 10, 64 << 10, 1 << 20] {
        let mut block = vec![7u8; bytes];
        let head = BlockHead {
            crc: 0,
            len: bytes as u32,
            prev: 1,
            first_lsn: 100,
            end_lsn: 100 + bytes as u64 / 64,
            durable_lsn: 100,
            time_ns: 1,
            records: 1,
            flags: 0,
            file_id: 3,
        };
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| head.encode(black_box(&mut block)));
        });
    }
    group.finish();
}

/// A log of patches of `bytes` bytes to 64 pages. Returns how many there are.
fn make_log(log: &tempfile::TempDir, bytes: usize) -> u64 {
    let (_dir, bus) = bus();
    let supervisor = supervise(&bus, log);
    let new = |_| bus.create_page(PageSpec::new(bytes as u64));
    let pages: Vec<_> = (0..64)
        .map(new)
        .collect::<Result<_, _>>()
        .expect("the pages");
    let patches = LOG_BYTES / bytes as u64;
    let content = vec![5u8; bytes];
    for n in 0..patches {
        let page = &pages[n as usize % pages.len()];
        page.patch(0, &content).expect("a commit");
    }
    supervisor.stop().expect("the end of the log");
    patches
}

fn open(log: &tempfile::TempDir, verify_crc: bool) -> LogReader {
    let options = OpenOptions {
        verify_crc,
        ..OpenOptions::default()
    };
    LogReader::open(log.path(), options).expect("the log")
}

fn reading(c: &mut Criterion) {
    for bytes in [64, 1024] {
        let log = on_disk();
        let patches = make_log(&log, bytes);
        let mut group = c.benchmark_group(format!("tlog/{bytes} B"));
        group.sample_size(10);
        group.throughput(Throughput::Elements(patches));
        for (name, verify) in [("scan", true), ("scan without checksums", false)] {
            group.bench_function(name, |b| {
                let mut block = Block::default();
                b.iter(|| {
                    let mut reader = open(&log, verify);
                    let mut records = 0;
                    while reader.next_into(&mut block).expect("a block") {
                        records += u64::from(block.records);
                    }
                    assert!(records >= patches, "{records} of {patches}");
                });
            });
        }
        for (name, threads) in [("replay by one thread", 1), ("replay by all cores", 0)] {
            group.bench_function(name, |b| {
                b.iter(|| {
                    let mut state = State::new(Meta::default(), Heap::default());
                    let options = ReplayOptions {
                        threads,
                        ..ReplayOptions::default()
                    };
                    let done = replay(&mut state, open(&log, true), options).expect("a replay");
                    assert!(done.records >= patches, "{done:?} of {patches}");
                    state
                });
            });
        }
        group.finish();
    }
}

fn synced(c: &mut Criterion) {
    let log = on_disk();
    // The floor is timed by itself: it goes round in a file that is there already.
    let floor = disk::write_ns(log.path(), Duration::from_secs(1)).expect("the floor");
    println!(
        "one bare synced write of 4 KiB: p50 {:.1} us by pwritev2, {:.1} us by io_uring",
        floor.plain.p50_ns / 1e3,
        floor.uring.map_or(f64::NAN, |times| times.p50_ns) / 1e3
    );
    let (_dir, bus) = bus();
    let supervisor = supervise(&bus, &log);
    let page = bus.create_page(PageSpec::new(64)).expect("a page");
    let mut group = c.benchmark_group("tlog/commit 64 B");
    for (name, durability) in [
        ("volatile", Durability::Volatile),
        ("buffered", Durability::Buffered(Duration::from_millis(100))),
        ("synced", Durability::Synced),
    ] {
        bus.set_durability(durability);
        group.bench_function(name, |b| {
            b.iter(|| page.patch(0, black_box(&[7; 64])).expect("a commit"));
        });
    }
    group.finish();
    supervisor.stop().expect("the end of the log");
}

criterion_group!(benches, encode, reading, synced);
criterion_main!(benches);
