//! A tick: a delta for each of 10,000 pages, in a few batches, until a gating subscriber in the other process has read the
//! last.
//!
//! The answer comes back through a bare cache line, whose time is taken off by the parent.

use mmsb::{Available, Page, PageSpec};
use mmsb_benches::lines::Lines;
use serde_json::json;

use super::super::rig::{ANSWER, CONTROL, END, Job, Peer, check_log, ensure, say, word};
use super::super::samples::{Measured, blocks};
use crate::cli::exit::Failure;

/// Pages, and deltas in a tick.
const DELTAS: u64 = 10_000;
/// Different ticks there are.
const ROUNDS: u64 = 4;
/// Deltas in a batch, which may take a quarter of the ring: two slots each.
const BATCH: usize = 2000;

/// The payload of the delta for page `at` in tick `tick`, counted from 0.
fn payload(bytes: usize, tick: u64, at: u64) -> impl Iterator<Item = u8> {
    let number = tick % ROUNDS * DELTAS + at;
    (0..bytes as u64 / 8).flat_map(move |word| (number ^ word << 32).to_le_bytes())
}

/// Commits ticks, and waits for each to have been read.
pub fn lead(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let new = |_| bus.create_page(PageSpec::new(job.bytes as u64));
    let pages: Vec<Page<'_>> = (0..DELTAS).map(new).collect::<mmsb::Result<_>>()?;
    let before = bus.stats()?.deltas;
    let lines = Lines::create()?;
    let mut peer = Peer::start(job, &lines)?;
    let answer = lines.line(ANSWER);
    let payloads: Vec<Vec<Vec<u8>>> = (0..ROUNDS)
        .map(|tick| {
            let each = |at| payload(job.bytes, tick, at).collect();
            (0..DELTAS).map(each).collect()
        })
        .collect();
    let mut last = 0;
    let mut batch = bus.batch();
    let (samples, ticks) = blocks(job.budget, 1, 1, |n| {
        let payloads = &payloads[((n - 1) % ROUNDS) as usize];
        for (pages, payloads) in pages.chunks(BATCH).zip(payloads.chunks(BATCH)) {
            for (page, payload) in pages.iter().zip(payloads) {
                batch.patch(page, 0, payload);
            }
            last = batch.commit()?.last;
        }
        peer.wait(answer, n)
    })?;
    lines.line(CONTROL).store(END);
    let seen = peer.result()?;
    peer.finish()?;
    let said = json!({"deltas": ticks * DELTAS, "lsn": last, "missed": 0});
    ensure(seen == said, || {
        format!("the subscriber received {seen}, and {said} is right")
    })?;
    let mut held = vec![0; job.bytes];
    for (page, payload) in pages.iter().zip(&payloads[((ticks - 1) % ROUNDS) as usize]) {
        let version = page.read_into(&mut held)?;
        ensure(version.epoch == ticks && held == *payload, || {
            format!(
                "page {} at {version:?} does not hold what was committed",
                page.id()
            )
        })?;
    }
    check_log(&bus, before, ticks * DELTAS)?;
    let measured = samples.measured();
    let per_second = DELTAS as f64 * measured.per_second;
    Ok(measured
        .with("deltas", DELTAS)
        .with("deltas_per_second", per_second))
}

/// Reads everything, and answers after the last delta of each tick.
pub fn peer(job: &Job, lines: &Lines) -> Result<(), Failure> {
    let bus = job.attach()?;
    let mut stream = bus.subscribe().gating(true).build()?;
    let (control, answer) = (lines.line(CONTROL), lines.line(ANSWER));
    let (mut deltas, mut last) = (0u64, 0);
    let mut are_good = true;
    let mut buffer = vec![0; job.bytes];
    say("ready")?;
    loop {
        let available = stream.for_each_available(|delta| {
            are_good &= delta.lsn > last;
            last = delta.lsn;
            delta.for_each_range(|offset, bytes| {
                are_good &= offset == 0 && bytes.len() == buffer.len();
                if are_good {
                    buffer.copy_from_slice(bytes);
                }
            });
            let number = deltas % (ROUNDS * DELTAS);
            let is_word = |(at, each): (u64, &[u8])| word(each) == number ^ at << 32;
            are_good &= (0..).zip(buffer.chunks_exact(8)).all(is_word);
            deltas += 1;
            if are_good && deltas.is_multiple_of(DELTAS) {
                answer.store(deltas / DELTAS);
            }
        })?;
        ensure(are_good, || {
            format!("delta {deltas} at LSN {last} is not the one that was committed there")
        })?;
        match available {
            Available::Deltas(_) => {}
            Available::Empty if control.load() == END => break,
            Available::Empty => {}
            Available::Events => return Err(Failure::problem("an event came that is no delta")),
        }
    }
    let missed = stream.missed();
    say(&json!({"deltas": deltas, "lsn": last, "missed": missed}).to_string())
}
