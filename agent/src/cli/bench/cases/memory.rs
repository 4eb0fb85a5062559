//! A million pages in a gibibyte.

use std::time::Instant;

use mmsb::{Bus, PageId, PageSpec};

use super::super::rig::{Job, check_log, ensure, word};
use super::super::samples::Samples;
use super::Outcome;
use crate::cli::exit::Failure;

/// Pages.
const PAGES: u32 = 1_000_000;
/// What the pages take at most, with the ring and all tables.
pub const BYTES_MAX: u64 = 1 << 30;
/// Pages created in one block.
const BLOCK: usize = 64;

/// Creates the pages and writes to each. Times are those of creating one.
pub fn lead(job: &Job) -> Result<Outcome, Failure> {
    let space = rustix::fs::statvfs(&job.dir).map_err(std::io::Error::from)?;
    let free = space.f_bavail * space.f_frsize;
    if free < BYTES_MAX {
        let mib = |bytes: u64| bytes >> 20;
        return Ok(Outcome::Skipped(format!(
            "{} has {} MiB free, {} are needed",
            job.dir.display(),
            mib(free),
            mib(BYTES_MAX)
        )));
    }
    let bus = Bus::builder(&job.bus)
        .dir(&job.dir)
        .source("bench")
        .bytes_max(2 << 30)
        .ring_bytes(2 << 20)
        .pages_max(PAGES)
        .names_max(1024)
        .participants_max(32)
        .create()?;
    let mut samples = Samples::new(BLOCK as u64)?;
    let mut ids: Vec<PageId> = Vec::with_capacity(PAGES as usize);
    let mut deltas = 0;
    let before = bus.stats()?.deltas;
    while ids.len() < PAGES as usize {
        let start = Instant::now();
        let mut created = Vec::with_capacity(BLOCK);
        for _ in 0..BLOCK.min(PAGES as usize - ids.len()) {
            created.push(bus.create_page(PageSpec::new(job.bytes as u64))?);
        }
        samples.add(start.elapsed());
        for page in created {
            ids.push(page.id());
            page.patch(job.bytes - 8, &page.id().to_u64().to_le_bytes())?;
            deltas += 2;
        }
    }
    check_log(&bus, before, deltas)?;
    // Every one, or the first and the last block of a shared one would be found out by nobody.
    let mut buffer = vec![0; job.bytes];
    for id in &ids {
        let version = bus.page_by_id(*id)?.read_into(&mut buffer)?;
        let (zeros, number) = buffer.split_at(job.bytes - 8);
        ensure(
            version.epoch == 1 && word(number) == id.to_u64() && zeros.iter().all(|b| *b == 0),
            || format!("page {id} at {version:?} does not hold what was committed to it"),
        )?;
    }
    let info = bus.info()?;
    let taken = info.pages_blocks_bytes + info.ctl_blocks_bytes;
    let pages = bus.stats()?.pages;
    ensure(pages == u64::from(PAGES), || {
        format!("the bus has {pages} pages")
    })?;
    let measured = samples
        .measured()
        .with("pages", pages)
        .with("memory_bytes", taken)
        .with("memory_bytes_per_page", taken as f64 / f64::from(PAGES));
    Ok(Outcome::Measured(Box::new(measured)))
}
