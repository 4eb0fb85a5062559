//! A subscriber that sleeps until there is something for it, against a bare shared futex.

use std::time::Duration;

use mmsb::{Available, PageSpec, WaitStrategy};
use mmsb_benches::lines::Lines;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::super::rig::{ANSWER, END, EXTRA, Job, Peer, check_log, check_page, ensure, say, word};
use super::super::samples::{Measured, Samples};
use crate::cli::exit::Failure;

/// How long the sleeper sleeps, as in the floor.
const ASLEEP_NS: u64 = 50_000;

/// The clock all processes share.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Wakes the sleeper again and again.
pub fn lead(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let page = bus.create_page(PageSpec::new(job.bytes as u64).name("bed"))?;
    let before = bus.stats()?.deltas;
    let lines = Lines::create()?;
    let mut peer = Peer::start(job, &lines)?;
    let (parking, woken) = (lines.line(ANSWER), lines.line(EXTRA));
    let (mut wakes, mut commits) = (Samples::new(1)?, Samples::new(1)?);
    let end = now_ns() + job.budget.as_nanos() as u64;
    let (mut n, mut last) = (0, 0);
    while n == 0 || now_ns() < end {
        n += 1;
        peer.wait(parking, n)?;
        let asleep = now_ns() + ASLEEP_NS;
        while now_ns() < asleep {
            std::hint::spin_loop();
        }
        let start = now_ns();
        last = page.patch(0, &n.to_le_bytes())?;
        commits.add(Duration::from_nanos(now_ns() - start));
        peer.wait(woken, n)?;
        wakes.add(Duration::from_nanos(woken.get(1).saturating_sub(start)));
    }
    peer.wait(parking, n + 1)?;
    let ended = page.patch(0, &END.to_le_bytes())?;
    let seen = peer.result()?;
    peer.finish()?;
    ensure(seen == json!({"woken": n, "lsn": ended}), || {
        format!("the sleeper saw {seen} of {n} wakes to LSN {ended}, the last at {last}")
    })?;
    check_page(&page, n + 1, ended, &END.to_le_bytes())?;
    check_log(&bus, before, n + 1)?;
    let mut measured = wakes.measured();
    measured.per_second = 1e9 / wakes.quantile(0.5).max(1.0);
    Ok(measured.with("waking_commit_p50_ns", commits.quantile(0.5)))
}

/// Sleeps, and says when it woke.
pub fn peer(job: &Job, lines: &Lines) -> Result<(), Failure> {
    let bus = job.attach()?;
    let id = bus.page("bed")?.id();
    let mut bed = bus
        .subscribe()
        .page(id)
        .strategy(WaitStrategy::Park)
        .build()?;
    let (parking, woken) = (lines.line(ANSWER), lines.line(EXTRA));
    say("ready")?;
    for n in 1u64.. {
        parking.store(n);
        while !bed.wait(Duration::from_secs(1))? {}
        let at = now_ns();
        let (mut number, mut lsn) = (0, 0);
        let available = bed.for_each_available(|delta| {
            lsn = delta.lsn;
            delta.for_each_range(|_, bytes| number = word(bytes));
        })?;
        ensure(
            available == Available::Deltas(1) && (number == n || number == END),
            || format!("{available:?} with number {number} came in place of {n}"),
        )?;
        if number == END {
            return say(&json!({"woken": n - 1, "lsn": lsn}).to_string());
        }
        woken.put(1, at);
        woken.store(n);
    }
    Ok(())
}
