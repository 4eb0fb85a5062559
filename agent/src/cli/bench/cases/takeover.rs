//! How long a page stays locked whose owner is killed: from the kill to the commit of a writer who waits for the page,
//! against the time the kernel needs to take the dead process down.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mmsb::{Page, PageSpec};
use mmsb_benches::lines::Lines;

use super::super::rig::{Job, Peer, check_log, check_page, ensure, pin, say};
use super::super::samples::{Measured, Samples};
use crate::cli::exit::Failure;

/// Memory that the victim has of its own.
const TOUCHED: usize = 64 << 20;

/// How long the writer waits before the kill.
const WAITING: Duration = Duration::from_millis(10);

/// Kills a victim a round.
pub fn lead(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let page = bus.create_page(PageSpec::new(job.bytes as u64).name("locked"))?;
    let before = bus.stats()?.deltas;
    let lines = Lines::create()?;
    let (mut takeovers, mut teardowns) = (Samples::new(1)?, Samples::new(1)?);
    let end = Instant::now() + 2 * job.budget;
    let mut rounds = 0u64;
    while rounds < 5 || Instant::now() < end {
        rounds += 1;
        let (takeover, teardown) = round(job, &page, &lines, rounds)?;
        takeovers.add(takeover);
        teardowns.add(teardown);
    }
    check_log(&bus, before, rounds)?;
    let mut measured = takeovers.measured();
    measured.floor_ns = Some(teardowns.quantile(0.5));
    let recoveries = bus.stats()?.counter("recoveries");
    Ok(measured
        .with("teardown_p99_ns", teardowns.quantile(0.99))
        .with("victim_bytes", TOUCHED)
        .with("recoveries", recoveries))
}

fn round(
    job: &Job,
    page: &Page<'_>,
    lines: &Lines,
    number: u64,
) -> Result<(Duration, Duration), Failure> {
    // Ready once it is inside, with the page locked.
    let mut victim = Peer::start(job, lines)?;
    let cpu = job.cpus.1;
    let content = number.to_le_bytes().repeat(job.bytes / 8);
    std::thread::scope(|scope| {
        let killer = scope.spawn(move || {
            // The waiting writer has this thread's core.
            pin(cpu)?;
            std::thread::sleep(WAITING);
            let killed = Instant::now();
            victim.child().kill()?;
            victim.child().wait()?;
            Ok::<_, Failure>((killed, killed.elapsed()))
        });
        let lsn = page.write(&content);
        let committed = Instant::now();
        let (killed, teardown) = match killer.join() {
            Ok(result) => result?,
            Err(_) => return Err(Failure::problem("the killing thread panicked")),
        };
        let lsn = lsn?;
        let takeover = committed.checked_duration_since(killed).ok_or_else(|| {
            Failure::problem("the writer got the page from an owner who was alive")
        })?;
        check_page(page, number, lsn, &content)?;
        Ok((takeover, teardown))
    })
}

/// Locks the page, half changes it, and waits for its end.
pub fn victim(job: &Job) -> Result<(), Failure> {
    let mut memory = vec![0u8; TOUCHED];
    for at in (0..TOUCHED).step_by(4096) {
        memory[at] = 1;
    }
    let bus = job.attach()?;
    let page = bus.page("locked")?;
    let mut said = Ok(());
    page.update(|bytes| {
        bytes[..job.bytes / 2].fill(0xee);
        said = say("ready");
        // The parent's death is this process's, too.
        while said.is_ok() {
            std::thread::sleep(Duration::from_secs(1));
            black_box(&memory);
        }
    })?;
    ensure(false, || "the victim of a takeover lived on".to_owned())
}
