//! Commits that are on disk when they return: by one thread, or by threads of four processes.

use std::time::{Duration, Instant};

use mmsb::{Bus, Durability, Page, PageSpec};
use mmsb_benches::lines::{Line, Lines};
use serde_json::json;

use super::super::super::rig::{CONTROL, Job, Peer, check_page, ensure, say};
use super::super::super::samples::{Measured, Samples, blocks};
use super::{check, counters, create};
use crate::cli::exit::Failure;

/// Processes that several writers are spread over.
const PROCESSES: usize = 4;

/// What the first process tells the others: nothing yet, write, write and measure, end.
const WRITE: u64 = 1;
const MEASURE: u64 = 2;
const STOP: u64 = 3;

/// Measures, or has the others measure; supervises in any case.
pub fn lead(job: &Job) -> Result<Measured, Failure> {
    let bus = create(job)?;
    let (samples, commits, per_second, before) = if job.writers == 1 {
        alone(job, &bus)?
    } else {
        together(job, &bus)?
    };
    check(&bus, job.disk()?, before, commits, commits)?;
    let log = counters(&bus)?;
    let mut measured = samples.measured();
    measured.per_second = per_second;
    Ok(measured
        .with(
            "commits_per_write",
            commits as f64 / log.writes.max(1) as f64,
        )
        .with(
            "log_write_mean_ns",
            1000.0 * log.latency_sum_us as f64 / log.writes.max(1) as f64,
        ))
}

type Figures = (Samples, u64, f64, u64);

fn alone(job: &Job, bus: &Bus) -> Result<Figures, Failure> {
    let page = bus.create_page(PageSpec::new(job.bytes as u64))?;
    let before = bus.stats()?.deltas;
    let mut writer = Writer::new(bus, &page);
    let (samples, commits) = blocks(2 * job.budget, 1, 1, |_| writer.commit())?;
    writer.check()?;
    let per_second = samples.per_second();
    Ok((samples, commits, per_second, before))
}

fn together(job: &Job, bus: &Bus) -> Result<Figures, Failure> {
    let lines = Lines::create()?;
    let mut peers = Vec::new();
    for _ in 0..PROCESSES {
        peers.push(Peer::start(job, &lines)?);
    }
    let before = bus.stats()?.deltas;
    let control = lines.line(CONTROL);
    control.store(WRITE);
    std::thread::sleep(job.budget / 2);
    let begin = Instant::now();
    control.store(MEASURE);
    std::thread::sleep(2 * job.budget);
    let elapsed = begin.elapsed();
    control.store(STOP);
    let mut samples = Samples::new(1)?;
    let (mut commits, mut counted) = (0, 0);
    for mut peer in peers {
        let said = peer.result()?;
        commits += said["commits"].as_u64().unwrap_or(0);
        counted += said["counted"].as_u64().unwrap_or(0);
        let words: Vec<u64> = said["samples"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(serde_json::Value::as_u64)
            .collect();
        samples.add_words(&words);
        peer.finish()?;
    }
    let per_second = counted as f64 / elapsed.as_secs_f64();
    Ok((samples, commits, per_second, before))
}

/// One thread's writer and its page.
struct Writer<'a> {
    bus: &'a Bus,
    page: &'a Page<'a>,
    content: Vec<u8>,
    commits: u64,
    last: u64,
}

impl<'a> Writer<'a> {
    fn new(bus: &'a Bus, page: &'a Page<'a>) -> Writer<'a> {
        bus.set_durability(Durability::Synced);
        Writer {
            bus,
            content: vec![0x3c; page.size()],
            page,
            commits: 0,
            last: 0,
        }
    }

    #[inline(always)]
    fn commit(&mut self) -> Result<(), Failure> {
        self.commits += 1;
        self.content[..8].copy_from_slice(&self.commits.to_le_bytes());
        let lsn = self.page.patch(0, &self.content)?;
        let durable = self.bus.durable_lsn();
        ensure(lsn > self.last && durable > lsn, || {
            format!(
                "the write at LSN {lsn}, after LSN {}, returned while LSN {durable} was durable",
                self.last
            )
        })?;
        self.last = lsn;
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        check_page(self.page, self.commits, self.last, &self.content)
    }
}

/// The threads of one of the other processes.
pub fn peer(job: &Job, lines: &Lines) -> Result<(), Failure> {
    let bus = job.attach()?;
    let control = lines.line(CONTROL);
    let threads = job.writers / PROCESSES;
    let ready = std::sync::Barrier::new(threads + 1);
    let results = std::thread::scope(|scope| {
        let threads = (0..threads).map(|_| {
            let bus = bus.another("bench-writer");
            scope.spawn(|| {
                // Whatever it is, nobody may wait for this thread.
                let bus = bus.map_err(Failure::from);
                let page = bus.as_ref().map(|bus| {
                    bus.create_page(PageSpec::new(job.bytes as u64))
                        .map_err(Failure::from)
                });
                ready.wait();
                match page {
                    Ok(page) => write(&page?, bus.as_ref().map_err(again)?, control),
                    Err(failure) => Err(again(failure)),
                }
            })
        });
        let threads: Vec<_> = threads.collect();
        ready.wait();
        say("ready")?;
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => Err(Failure::problem("a writer panicked")),
            })
            .collect::<Result<Vec<_>, Failure>>()
    })?;
    let (mut samples, mut commits, mut counted) = (Samples::new(1)?, 0, 0);
    for (its, its_commits) in results {
        counted += its.measured().blocks;
        samples.add_words(&its.to_words());
        commits += its_commits;
    }
    say(&json!({"commits": commits, "counted": counted, "samples": samples.to_words()}).to_string())
}

fn again(failure: &Failure) -> Failure {
    Failure::problem(failure.message.clone())
}

fn write(page: &Page<'_>, bus: &Bus, control: &Line) -> Result<(Samples, u64), Failure> {
    let mut writer = Writer::new(bus, page);
    let mut samples = Samples::new(1)?;
    while control.load() < WRITE {
        std::thread::sleep(Duration::from_millis(1));
    }
    loop {
        let phase = control.load();
        if phase >= STOP {
            break;
        }
        let start = Instant::now();
        writer.commit()?;
        if phase == MEASURE {
            samples.add(start.elapsed());
        }
    }
    writer.check()?;
    Ok((samples, writer.commits))
}
