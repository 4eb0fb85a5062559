//! A large value, written whole and read whole in place, from one process to another. The floor runs the same loops on
//! bare shared memory.

use mmsb::PageSpec;
use mmsb_benches::floor;
use mmsb_benches::lines::Lines;
use serde_json::json;

use super::super::rig::{ANSWER, CONTROL, Job, Peer, check_log, ensure, say};
use super::super::samples::{Measured, blocks};
use crate::cli::exit::Failure;

/// Fills loans and publishes them.
pub fn lead(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let page = bus.create_page(PageSpec::new(job.bytes as u64).name("large"))?;
    // A view needs a loaned block to look at.
    page.loan()?.publish()?;
    let before = bus.stats()?.deltas;
    let lines = Lines::create()?;
    let mut peer = Peer::start(job, &lines)?;
    let answer = lines.line(ANSWER);
    let mut last = 0;
    let (samples, publications) = blocks(job.budget, 1, 1, |n| {
        let mut loan = page.loan()?;
        floor::fill(bytemuck::cast_slice_mut(&mut loan), n);
        last = loan.publish()?;
        peer.wait(answer, n)
    })?;
    lines.line(CONTROL).store(1);
    let seen = peer.result()?;
    peer.finish()?;
    ensure(
        seen == json!({"received": publications, "lsn": last}),
        || format!("the second process saw {seen} of {publications} to LSN {last}"),
    )?;
    let version = page.version()?;
    ensure(
        (version.epoch, version.lsn) == (publications + 1, last),
        || format!("the page is at {version:?} after {publications} publications to LSN {last}"),
    )?;
    check_log(&bus, before, publications)?;
    Ok(samples.measured())
}

/// Reads every publication in place.
pub fn peer(job: &Job, lines: &Lines) -> Result<(), Failure> {
    let bus = job.attach()?;
    let page = bus.page("large")?;
    let (control, answer) = (lines.line(CONTROL), lines.line(ANSWER));
    let words = (job.bytes / 8) as u64;
    let (mut received, mut last) = (0u64, 0);
    say("ready")?;
    while control.load() == 0 {
        // The first epoch is the one that was there before.
        if page.version()?.epoch != received + 2 {
            continue;
        }
        let view = page.view()?;
        let bytes = view
            .values::<u64>()
            .ok_or_else(|| Failure::problem("the block is not made of aligned words"))?;
        let (sum, version) = (floor::sum(bytes), view.version());
        received += 1;
        ensure(version.epoch == received + 1 && version.lsn > last, || {
            format!("publication {received} is at {version:?}, after LSN {last}")
        })?;
        ensure(sum == received.wrapping_mul(words), || {
            format!("publication {received} is torn")
        })?;
        last = version.lsn;
        drop(view);
        answer.store(received);
    }
    say(&json!({"received": received, "lsn": last}).to_string())
}
