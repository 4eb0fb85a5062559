//! A gating subscriber in the other process, which reads every payload, behind a writer of batches.

use std::time::Instant;

use mmsb::{Available, PageSpec};
use mmsb_benches::lines::Lines;
use serde_json::json;

use super::super::rig::{ANSWER, CONTROL, Job, Peer, check_log, check_page, ensure, say, word};
use super::super::samples::{Measured, blocks};
use super::local::BATCH;
use crate::cli::exit::Failure;

/// Different batches there are.
const ROUNDS: u64 = 16;

/// Sum of the words of a payload.
#[inline(always)]
fn sum_of(bytes: &[u8]) -> u64 {
    bytes
        .chunks_exact(8)
        .fold(0, |sum, each| sum.wrapping_add(word(each)))
}

/// Commits batches until the time is over and all was received. Times are the writer's, of one delta.
pub fn lead(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let page = bus.create_page(PageSpec::new(job.bytes as u64).name("stream"))?;
    let before = bus.stats()?.deltas;
    let lines = Lines::create()?;
    let mut peer = Peer::start(job, &lines)?;
    // Each payload starts with its number; the numbers go round.
    let payloads: Vec<Vec<u8>> = (0..ROUNDS * BATCH as u64)
        .map(|number| {
            let each = |at: u64| {
                number
                    .wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15))
                    .to_le_bytes()
            };
            (0..job.bytes as u64 / 8).flat_map(each).collect()
        })
        .collect();
    let batches: Vec<(&[Vec<u8>], u64)> = payloads
        .chunks_exact(BATCH)
        .map(|batch| {
            let sum = |sum: u64, payload: &Vec<u8>| sum.wrapping_add(sum_of(payload));
            (batch, batch.iter().fold(0, sum))
        })
        .collect();
    let (mut last, mut sum) = (0, 0u64);
    let mut batch = bus.batch();
    let start = Instant::now();
    let (samples, calls) = blocks(job.budget, 4, BATCH as u64, |n| {
        let (payloads, its_sum) = &batches[((n - 1) % ROUNDS) as usize];
        for payload in *payloads {
            batch.patch(&page, 0, payload);
        }
        last = batch.commit()?.last;
        sum = sum.wrapping_add(*its_sum);
        Ok::<_, mmsb::Error>(())
    })?;
    let deltas = calls * BATCH as u64;
    lines.line(CONTROL).store(deltas);
    peer.wait(lines.line(ANSWER), deltas)?;
    let seconds = start.elapsed().as_secs_f64();
    let seen = peer.result()?;
    peer.finish()?;
    let said = json!({"deltas": deltas, "lsn": last, "sum": sum, "missed": 0});
    ensure(seen == said, || {
        format!("the subscriber received {seen}, and {said} is right")
    })?;
    let newest = &payloads[((deltas - 1) % payloads.len() as u64) as usize];
    check_page(&page, deltas, last, newest)?;
    check_log(&bus, before, deltas)?;
    let mut measured = samples.measured();
    measured.per_second = deltas as f64 / seconds;
    Ok(measured)
}

/// Receives everything.
pub fn peer(job: &Job, lines: &Lines) -> Result<(), Failure> {
    let bus = job.attach()?;
    let id = bus.page("stream")?.id();
    let mut stream = bus.subscribe().page(id).gating(true).build()?;
    let (control, answer) = (lines.line(CONTROL), lines.line(ANSWER));
    let (mut deltas, mut last, mut sum) = (0u64, 0, 0u64);
    let mut are_good = true;
    say("ready")?;
    loop {
        let available = stream.for_each_available(|delta| {
            are_good &= delta.lsn > last && delta.page == id;
            last = delta.lsn;
            delta.for_each_range(|offset, bytes| {
                are_good &= offset == 0
                    && bytes.len() == job.bytes
                    && word(bytes) == deltas % (ROUNDS * BATCH as u64);
                sum = sum.wrapping_add(sum_of(bytes));
                deltas += 1;
            });
        })?;
        ensure(are_good, || {
            format!("delta {deltas} at LSN {last} is not the one that was committed there")
        })?;
        match available {
            Available::Deltas(_) => {}
            // Zero until the writer has ended.
            Available::Empty if control.load() == deltas && deltas > 0 => break,
            Available::Empty => {}
            Available::Events => return Err(Failure::problem("an event came that is no delta")),
        }
    }
    answer.store(deltas);
    let missed = stream.missed();
    say(&json!({"deltas": deltas, "lsn": last, "sum": sum, "missed": missed}).to_string())
}
