//! Cases of one process.

use std::hint::black_box;

use mmsb::{Bus, PageId, PageSpec};

use super::super::rig::{Job, check_log, check_page, ensure, word};
use super::super::samples::{Measured, blocks};
use crate::cli::exit::Failure;

/// Operations in a block of short operations.
const BLOCK: u64 = 64;

/// Deltas in a batch.
pub const BATCH: usize = 64;

/// Reading a whole page that nobody writes to.
pub fn read(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let page = bus.create_page(PageSpec::new(job.bytes as u64))?;
    let content: Vec<u8> = (0..job.bytes).map(|at| at as u8 ^ 0x5a).collect();
    let lsn = page.write(&content)?;
    let mut buffer = vec![0; job.bytes];
    let mut sum = 0u64;
    let (samples, reads) = blocks(job.budget, 4 * BLOCK, 1, |_| {
        let version = page.read_into(black_box(&mut buffer))?;
        // Both, so that neither the bytes nor the version may be left out.
        sum = sum.wrapping_add(word(&buffer) ^ version.lsn);
        Ok::<_, mmsb::Error>(())
    })?;
    ensure(
        sum == (word(&content) ^ lsn).wrapping_mul(reads) && buffer == content,
        || "a read delivered other bytes or another version than the page's".to_owned(),
    )?;
    check_page(&page, 1, lsn, &content)?;
    Ok(samples.measured())
}

/// One patch of a whole small page, with or without a lease on it.
pub fn commit(job: &Job, leased: bool) -> Result<Measured, Failure> {
    commit_on(&job.create()?, job.bytes, job.budget, leased)
}

fn commit_on(
    bus: &Bus,
    bytes: usize,
    budget: std::time::Duration,
    leased: bool,
) -> Result<Measured, Failure> {
    let page = bus.create_page(PageSpec::new(bytes as u64))?;
    let before = bus.stats()?.deltas;
    let lease = leased.then(|| page.lease()).transpose()?;
    let mut content = vec![0xc3; bytes];
    let mut last = bus.end_lsn() - 1;
    let (samples, commits) = blocks(budget, BLOCK, 1, |n| {
        content[..8].copy_from_slice(&n.to_le_bytes());
        let lsn = page.patch(0, black_box(&content))?;
        ensure(lsn > last, || {
            format!("LSN {lsn} was given out after {last}")
        })?;
        last = lsn;
        Ok::<_, Failure>(())
    })?;
    drop(lease);
    check_page(&page, commits, last, &content)?;
    check_log(bus, before, commits)?;
    Ok(samples.measured())
}

/// Batches of [`BATCH`] patches to one page. Times are those of one delta.
pub fn commit_batch(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let page = bus.create_page(PageSpec::new((BATCH * job.bytes) as u64))?;
    let before = bus.stats()?.deltas;
    // The batches borrow their bytes; there are enough of them that each differs from the ones before.
    let contents: Vec<Vec<u8>> = (0..16u8)
        .map(|round| {
            let each = |at: usize| (at as u8).wrapping_mul(31) ^ round;
            (0..BATCH * job.bytes).map(each).collect()
        })
        .collect();
    let mut last = bus.end_lsn() - 1;
    let mut batch = bus.batch();
    let (samples, batches) = blocks(job.budget, 4, BATCH as u64, |n| {
        let content = &contents[n as usize % contents.len()];
        for (at, bytes) in content.chunks_exact(job.bytes).enumerate() {
            batch.patch(&page, at * job.bytes, bytes);
        }
        let receipt = batch.commit()?;
        ensure(
            receipt.first > last && receipt.last - receipt.first >= BATCH as u64 - 1,
            || format!("the receipt {receipt:?} follows LSN {last}"),
        )?;
        last = receipt.last;
        Ok::<_, Failure>(())
    })?;
    let commits = batches * BATCH as u64;
    check_page(
        &page,
        commits,
        last,
        &contents[batches as usize % contents.len()],
    )?;
    check_log(&bus, before, commits)?;
    Ok(samples.measured())
}

/// One sparse delta: words in places far from each other.
pub fn sparse(job: &Job) -> Result<Measured, Failure> {
    /// Bytes of the page.
    const PAGE: usize = 1024;
    let bus = job.create()?;
    let page = bus.create_page(PageSpec::new(PAGE as u64))?;
    let before = bus.stats()?.deltas;
    let words = job.bytes / 8;
    let places: Vec<usize> = (0..words).map(|at| at * (PAGE / words)).collect();
    let mut last = 0;
    let (samples, commits) = blocks(job.budget, BLOCK, 1, |n| {
        let bytes = n.to_le_bytes();
        let ranges = places.iter().map(|at| (*at, &bytes[..]));
        // Put together anew each time, as a user does.
        last = page.patch_many(&ranges.collect::<Vec<_>>())?;
        Ok::<_, mmsb::Error>(())
    })?;
    let mut content = vec![0; PAGE];
    for at in places {
        content[at..at + 8].copy_from_slice(&commits.to_le_bytes());
    }
    check_page(&page, commits, last, &content)?;
    check_log(&bus, before, commits)?;
    Ok(samples.measured())
}

/// Creating a page and destroying it again.
pub fn alloc_free(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let mut last = PageId {
        index: 0,
        generation: 0,
    };
    let (samples, _) = blocks(job.budget, 16, 1, |_| {
        let id = bus.create_page(PageSpec::new(job.bytes as u64))?.id();
        ensure(id != last, || format!("page id {id} was given out twice"))?;
        last = id;
        bus.destroy(id)?;
        Ok::<_, Failure>(())
    })?;
    ensure(
        bus.page_by_id(last)
            .is_err_and(|error| error.is_page_gone()),
        || format!("page {last} was destroyed and is still there"),
    )?;
    let stats = bus.stats()?;
    let in_use: u64 = stats
        .classes
        .iter()
        .map(|class| class.blocks - class.free - class.pending)
        .sum();
    ensure((stats.pages, in_use) == (0, 0), || {
        format!("{} pages and {in_use} blocks are left of none", stats.pages)
    })?;
    Ok(samples.measured())
}

/// Publishing a large value that was put together in place; filling it is not timed, because nothing of it is MMSB's.
pub fn loan_publish(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let small = commit_on(&bus, 64, job.budget / 2, false)?;
    let page = bus.create_page(PageSpec::new(job.bytes as u64))?;
    let before = bus.stats()?.deltas;
    let mut last = 0;
    let (samples, publications) = blocks(job.budget, 16, 1, |n| {
        let mut loan = page.loan()?;
        loan[..8].copy_from_slice(&n.to_le_bytes());
        let lsn = loan.publish()?;
        ensure(lsn > last, || {
            format!("LSN {lsn} was given out after {last}")
        })?;
        last = lsn;
        Ok::<_, Failure>(())
    })?;
    let view = page.view()?;
    ensure(
        word(&view) == publications
            && view.version() == page.version()?
            && (view.version().epoch, view.version().lsn) == (publications, last),
        || {
            format!(
                "the page holds number {} at {:?} after publication {publications} at LSN {last}",
                word(&view),
                view.version()
            )
        },
    )?;
    drop(view);
    check_log(&bus, before, publications)?;
    Ok(samples.measured().with("commit_64_p50_ns", small.p50_ns))
}

/// One consistent cut through four pages.
pub fn snapshot(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let size = job.bytes / 4;
    let mut ids = Vec::new();
    let mut expected = Vec::new();
    for at in 0..4u8 {
        let page = bus.create_page(PageSpec::new(size as u64))?;
        let content = vec![at + 1; size];
        let lsn = page.write(&content)?;
        ids.push(page.id());
        expected.push((page.id(), lsn, content));
    }
    let mut last = Vec::new();
    let (samples, _) = blocks(job.budget, 16, 1, |_| {
        last = bus.snapshot(black_box(&ids))?;
        Ok::<_, mmsb::Error>(())
    })?;
    let seen: Vec<_> = last
        .into_iter()
        .map(|image| (image.id, image.version.lsn, image.bytes))
        .collect();
    ensure(seen == expected, || {
        "the cut is not what the pages hold".to_owned()
    })?;
    Ok(samples.measured())
}
