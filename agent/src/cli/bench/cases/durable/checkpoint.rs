//! Checkpoints while somebody writes, and the way back from one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mmsb::checkpoint::{self, CheckpointInfo};
use mmsb::state::{Heap, ReplayOptions, replay};
use mmsb::supervisor::Supervisor;
use mmsb::tlog::{LogReader, OpenOptions};
use mmsb::{Bus, Error, PageId, PageVersion};
use mmsb_benches::disk::{forget, read_all};

use super::super::super::rig::{Job, check_log, ensure};
use super::super::super::samples::{Measured, Samples};
use super::{PATIENCE, Turns, check_state, config, log_files, sync};
use crate::cli::exit::Failure;

/// Bytes of a page.
const PAGE: usize = 32 << 10;
/// Commits of the writer at a time, and the time between.
const BURST: u64 = 64;
const TICK: Duration = Duration::from_millis(1);

/// Pages of a bus of so many bytes, each written once, without a log.
fn fill<'b>(job: &Job, bus: &'b Bus) -> Result<Turns<'b>, Failure> {
    let mut turns = Turns::new(bus, job.bytes / PAGE, PAGE)?;
    for _ in 0..turns.pages.len() {
        turns.write()?;
    }
    turns.check()?;
    Ok(turns)
}

/// Supervises a bus that has no log yet. It is not new, so a checkpoint is written at once: waits for that.
fn supervise(bus: &Bus, disk: &Path) -> Result<(Supervisor, CheckpointInfo), Failure> {
    let supervisor = Supervisor::start(bus, config(disk))?;
    let begin = Instant::now();
    loop {
        if let Some(info) = supervisor.status().last_checkpoint {
            return Ok((supervisor, info));
        }
        ensure(begin.elapsed() < PATIENCE, || {
            format!("no checkpoint came: {:?}", supervisor.status())
        })?;
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes a few times a millisecond until `is_over`, each commit timed.
fn write(
    turns: &mut Turns<'_>,
    samples: &mut Samples,
    is_over: impl Fn() -> bool,
) -> Result<(), Failure> {
    while !is_over() {
        for _ in 0..BURST {
            let start = Instant::now();
            turns.write()?;
            samples.add(start.elapsed());
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// Time of a checkpoint of everything, beside a writer.
pub fn checkpoint(job: &Job) -> Result<Measured, Failure> {
    let disk = job.disk()?;
    let bus = job.create()?;
    let filled = fill(job, &bus)?;
    let mut turns = Turns::new(&bus, 16, 64)?;
    let (supervisor, _) = supervise(&bus, disk)?;
    let before = bus.stats()?.deltas;

    let (mut calm, mut busy) = (Samples::new(1)?, Samples::new(1)?);
    let mut times = Samples::new(1)?;
    let mut file_bytes = 0;
    for _ in 0..if job.is_quick() { 1 } else { 3 } {
        let end = Instant::now() + job.budget;
        write(&mut turns, &mut calm, || Instant::now() >= end)?;
        let done = AtomicBool::new(false);
        let (took, info) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let start = Instant::now();
                let info = supervisor.checkpoint();
                let took = start.elapsed();
                // Relaxed: a flag that stands for nothing but itself.
                done.store(true, Ordering::Relaxed);
                Ok::<_, Error>((took, info?))
            });
            // Relaxed: as above.
            let written = write(&mut turns, &mut busy, || done.load(Ordering::Relaxed));
            match thread.join() {
                Ok(result) => written.and(result.map_err(Failure::from)),
                Err(_) => Err(Failure::problem("the thread with the checkpoint panicked")),
            }
        })?;
        times.add(took);
        file_bytes = info.file_bytes;
        ensure(info.page_bytes as usize >= job.bytes, || {
            format!("the checkpoint has {} bytes of pages", info.page_bytes)
        })?;
    }
    turns.check()?;
    filled.check()?;
    check_log(&bus, before, turns.done)?;
    sync(&bus)?;
    let newest = checkpoint::newest(disk, None).map_err(Error::from)?;
    let newest = newest.ok_or_else(|| Failure::problem("no checkpoint is left"))?;
    let mut state = checkpoint::load(&newest.path, Heap::default()).map_err(Error::from)?;
    let options = OpenOptions {
        from_lsn: state.lsn(),
        durable_at_least: bus.durable_lsn(),
        ..OpenOptions::default()
    };
    let reader = LogReader::open(disk, options).map_err(Error::from)?;
    replay(&mut state, reader, ReplayOptions::default()).map_err(Error::from)?;
    check_state(&bus, &state, filled.done + turns.done)?;
    supervisor.stop()?;

    let mut measured = times.measured();
    measured.floor_bytes = Some(file_bytes as f64);
    let per_second = file_bytes as f64 * 1e9 / measured.p50_ns;
    let (calm_p99, busy_p99) = (calm.quantile(0.99), busy.quantile(0.99));
    Ok(measured
        .with("bytes_per_second", per_second)
        .with("file_bytes", file_bytes)
        .with("writer_p99_without_ns", calm_p99)
        .with("writer_p99_ns", busy_p99)
        .with("writer_p999_without_ns", calm.quantile(0.999))
        .with("writer_p999_ns", busy.quantile(0.999))
        .with("writer_p99_ratio", busy_p99 / calm_p99.max(1.0)))
}

/// What a page held: id, version, and a number that follows from its bytes.
type Held = (PageId, PageVersion, u64);

fn held(bus: &Bus) -> Result<Vec<Held>, Failure> {
    let mut bytes = Vec::new();
    let mut held = Vec::new();
    for info in bus.all_pages()? {
        let page = bus.page_by_id(info.id)?;
        bytes.resize(page.size(), 0);
        let version = page.read_into(&mut bytes)?;
        let digest = bytes.chunks(8).fold(0u64, |sum, each| {
            let mut word = [0; 8];
            word[..each.len()].copy_from_slice(each);
            (sum ^ u64::from_le_bytes(word))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        });
        held.push((info.id, version, digest));
    }
    held.sort_unstable_by_key(|held| held.0);
    Ok(held)
}

/// Time from opening a bus whose segments are gone to the first read of a page.
pub fn restart(job: &Job) -> Result<Measured, Failure> {
    let disk = job.disk()?;
    let (expected, id) = {
        let bus = job.create()?;
        let turns = fill(job, &bus)?;
        let (supervisor, _) = supervise(&bus, disk)?;
        let before = bus.stats()?.deltas;
        // As many bytes behind it.
        let patches = (job.bytes / 1024) as u64;
        let mut content = vec![0x77; 1024];
        for n in 0..patches {
            content[..8].copy_from_slice(&n.to_le_bytes());
            let page = &turns.pages[n as usize * 7 % turns.pages.len()];
            page.patch(n as usize * 1024 % PAGE, &content)?;
        }
        check_log(&bus, before, patches)?;
        sync(&bus)?;
        supervisor.stop()?;
        (held(&bus)?, turns.pages[0].id())
    };
    let mut paths = log_files(disk)?;
    let newest = checkpoint::newest(disk, None).map_err(Error::from)?;
    paths.extend(newest.map(|info| info.path));
    let (mut times, mut opens) = (Samples::new(1)?, Samples::new(1)?);
    let mut floors = Samples::new(1)?;
    let mut cached = Samples::new(1)?;
    let mut bytes = 0;
    // The last one with the files in the page cache.
    let rounds = if job.is_quick() { 1 } else { 3 };
    for round in 0..=rounds {
        Bus::unlink_in(&job.dir, &job.bus)?;
        forget(&paths)?;
        let (read, took) = read_all(&paths)?;
        floors.add(took);
        bytes = read;
        if round < rounds {
            forget(&paths)?;
        }
        let start = Instant::now();
        let bus = Bus::builder(&job.bus)
            .dir(&job.dir)
            .source("bench")
            .supervise(config(disk))
            .open_or_create()?;
        let opened = start.elapsed();
        let mut first = vec![0; PAGE];
        bus.page_by_id(id)?.read_into(&mut first)?;
        let took = start.elapsed();
        if round < rounds {
            times.add(took);
            opens.add(opened);
        } else {
            cached.add(took);
        }
        let held = held(&bus)?;
        ensure(held == expected, || {
            let differ = held.iter().zip(&expected).filter(|(is, was)| is != was);
            format!(
                "{} pages came back of {}, and {} of them are not as they were",
                held.len(),
                expected.len(),
                differ.count()
            )
        })?;
    }
    let mut measured = times.measured();
    measured.floor_ns = Some(floors.quantile(0.5));
    let per_second = bytes as f64 * 1e9 / measured.p50_ns;
    Ok(measured
        .with("bytes_per_second", per_second)
        .with("file_bytes", bytes)
        .with("open_ns", opens.quantile(0.5))
        .with("cached_ns", cached.quantile(0.5)))
}
