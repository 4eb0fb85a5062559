//! What `docs/decisions/0007` and `0008` say, measured again:
//! `cargo test --release -p libmmsb --test tlog_measure -- --ignored --nocapture` (`MMSB_DISK=dir` for another disk).

use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mmsb::tlog::{Backend, LogMeta, LogReader, LogWriter, OpenOptions, WriterConfig};

fn disk() -> tempfile::TempDir {
    let dir = std::env::var_os("MMSB_DISK").map_or_else(std::env::temp_dir, PathBuf::from);
    tempfile::tempdir_in(dir).unwrap()
}

fn meta() -> LogMeta {
    LogMeta::new("measure", 0, 64).unwrap()
}

/// Median and 99th percentile.
fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |p: usize| times[times.len() * p / 100].as_nanos() as f64 / 1000.0;
    println!("{what:60} p50 {:8.1} us   p99 {:8.1} us", at(50), at(99));
}

/// Synced 4 KiB writes by a bare loop of system calls.
fn bare(dir: &std::path::Path, direct: bool, written: bool, fdatasync: bool) -> Vec<Duration> {
    const N: usize = 3000;
    let path = dir.join("bare");
    let _ = std::fs::remove_file(&path);
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(flags)
        .open(&path)
        .unwrap();
    let memory = vec![1u8; 8192];
    let buffer = &memory[memory.as_ptr().align_offset(4096)..][..4096];
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::empty(),
        0,
        4096 * N as u64,
    )
    .unwrap();
    if written {
        for i in 0..N {
            rustix::io::pwrite(&file, buffer, 4096 * i as u64).unwrap();
        }
    }
    file.sync_all().unwrap();
    let flags = if fdatasync {
        rustix::io::ReadWriteFlags::empty()
    } else {
        rustix::io::ReadWriteFlags::DSYNC
    };
    (0..N)
        .map(|i| {
            let begun = Instant::now();
            let data = [std::io::IoSlice::new(buffer)];
            rustix::io::pwritev2(&file, &data, 4096 * i as u64, flags).unwrap();
            if fdatasync {
                rustix::fs::fdatasync(&file).unwrap();
            }
            begun.elapsed()
        })
        .collect()
}

fn fill(writer: &mut LogWriter, bytes: usize) -> mmsb::tlog::BlockBuffer {
    loop {
        if let Some(mut block) = writer.begin() {
            let bytes = bytes.min(block.room().len()) / 64 * 64;
            block.room()[..bytes].fill(3);
            block.advance(bytes, 1);
            return block;
        }
        writer.wait(None).unwrap();
    }
}

/// One synced block of 64 bytes after another; `poll`: spinning instead of `wait`.
fn commits(config: WriterConfig, poll: bool) -> Vec<Duration> {
    let dir = disk();
    let mut writer = LogWriter::create(dir.path(), meta(), 64, config).unwrap();
    let mut lsn = 64;
    (0..3000)
        .map(|_| {
            let begun = Instant::now();
            let block = fill(&mut writer, 64);
            lsn += 1;
            writer.submit(block, lsn).unwrap();
            while writer.durable_lsn() < lsn {
                if poll {
                    writer.poll().unwrap();
                } else {
                    writer.wait(None).unwrap();
                }
            }
            begun.elapsed()
        })
        .collect()
}

/// Blocks of `block` bytes, `depth` in flight: bytes a second and blocks a second.
fn stream(config: WriterConfig, block: usize, total: usize) -> (f64, f64) {
    let dir = disk();
    let mut writer = LogWriter::create(dir.path(), meta(), 64, config).unwrap();
    let begun = Instant::now();
    let blocks = total / block;
    for i in 0..blocks {
        let buffer = fill(&mut writer, block - 64);
        writer.submit(buffer, 65 + i as u64).unwrap();
        writer.poll().unwrap();
    }
    while writer.in_flight() > 0 {
        writer.wait(None).unwrap();
    }
    let time = begun.elapsed().as_secs_f64();
    (total as f64 / time, blocks as f64 / time)
}

fn bare_stream(depth: usize) -> f64 {
    const TOTAL: usize = 512 << 20;
    let dir = disk();
    std::thread::scope(|s| {
        let begun = Instant::now();
        for t in 0..depth {
            let path = dir.path().join(format!("s{t}"));
            s.spawn(move || {
                let file = std::fs::File::options()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .custom_flags(libc::O_DIRECT)
                    .open(&path)
                    .unwrap();
                let memory = vec![1u8; (1 << 20) + 4096];
                let buffer = &memory[memory.as_ptr().align_offset(4096)..][..1 << 20];
                for i in 0..(TOTAL / depth) >> 20 {
                    rustix::io::pwrite(&file, buffer, (i as u64) << 20).unwrap();
                }
                file.sync_all().unwrap();
            });
        }
        begun
    })
    .elapsed()
    .as_secs_f64()
    .recip()
        * TOTAL as f64
}

#[test]
#[ignore = "takes a minute, and says something only on a quiet machine"]
fn measure() {
    let dir = disk();
    for round in 0..3 {
        println!("round {round}");
        print(
            "bare O_DIRECT + DSYNC, written before",
            bare(dir.path(), true, true, false),
        );
        print(
            "bare O_DIRECT + DSYNC, allocated only",
            bare(dir.path(), true, false, false),
        );
        print(
            "bare O_DIRECT, then fdatasync, written before",
            bare(dir.path(), true, true, true),
        );
        print(
            "bare buffered + DSYNC, written before",
            bare(dir.path(), false, true, false),
        );
        for backend in [Backend::Plain, Backend::Uring] {
            for prewrite in [true, false] {
                let config = || WriterConfig {
                    backend,
                    prewrite,
                    ..WriterConfig::default()
                };
                let what =
                    |s: &str| format!("commit of 64 B, {backend:?}, prewrite {prewrite}, {s}");
                print(&what("wait"), commits(config(), false));
                print(&what("poll"), commits(config(), true));
            }
        }
    }
    println!(
        "bare O_DIRECT, 1 MiB, 1 at a time: {:6.0} MB/s",
        bare_stream(1) / 1e6
    );
    println!(
        "bare O_DIRECT, 1 MiB, 4 at a time: {:6.0} MB/s",
        bare_stream(4) / 1e6
    );
    for prewrite in [true, false] {
        for (backend, depth) in [
            (Backend::Plain, 1),
            (Backend::Uring, 1),
            (Backend::Uring, 4),
            (Backend::Uring, 8),
            (Backend::Uring, 16),
        ] {
            let config = |segment| WriterConfig {
                backend,
                prewrite,
                depth,
                segment_bytes: segment,
                ..WriterConfig::default()
            };
            let (_, small) = stream(config(64 << 20), 4096, 48 << 20);
            let (large, _) = stream(config(64 << 20), 1 << 20, 1 << 30);
            println!(
                "{backend:?} depth {depth} prewrite {prewrite}: {small:8.0} blocks of 4 KiB/s, {:6.0} MB/s in blocks of 1 MiB",
                large / 1e6
            );
        }
    }
}

#[test]
#[ignore = "takes half a minute, and says something only on a quiet machine"]
fn measure_reading() {
    for (block, what) in [(4096, "4 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB")] {
        let dir = disk();
        let config = WriterConfig::default();
        let mut writer = LogWriter::create(dir.path(), meta(), 64, config).unwrap();
        let blocks = (256 << 20) / block;
        for i in 0..blocks {
            let buffer = fill(&mut writer, block - 64);
            writer.submit(buffer, 65 + i as u64).unwrap();
        }
        writer.close().unwrap();
        for verify_crc in [true, true, false] {
            let options = OpenOptions {
                verify_crc,
                ..OpenOptions::default()
            };
            let begun = Instant::now();
            let mut reader = LogReader::open(dir.path(), options).unwrap();
            let mut block = mmsb::tlog::Block::default();
            let mut bytes = 0;
            while reader.next_into(&mut block).unwrap() {
                bytes += block.body.len() + 64;
            }
            let rate = bytes as f64 / begun.elapsed().as_secs_f64() / 1e9;
            println!("reading blocks of {what}, checksums {verify_crc}: {rate:.2} GB/s");
        }
    }
}
