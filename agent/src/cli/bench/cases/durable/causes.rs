//! What led to a delta, found in a log of real size.

use std::time::Instant;

use mmsb::Error;
use mmsb::history::{At, Cause, ChainEnd, Log};
use mmsb::supervisor::Supervisor;

use super::super::super::rig::{Job, check_log, ensure};
use super::super::super::samples::{Measured, Samples};
use super::{Turns, config, log_files, sync};
use crate::cli::exit::Failure;

/// Pages that are written in turn.
const PAGES: usize = 4096;
/// Deltas of a chain, each led to by the one before.
const DEPTH: usize = 32;
/// Deltas in all, which take about a second.
const DELTAS: u64 = 1 << 20;
/// Chains, spread over the whole log.
const CHAINS: usize = 16;

/// Time to find a chain from its last delta, the log being open and asked once before. How long that first question took
/// is told beside.
pub fn provenance(job: &Job) -> Result<Measured, Failure> {
    let disk = job.disk()?;
    let bus = job.create()?;
    let supervisor = Supervisor::start(&bus, config(disk))?;
    let mut turns = Turns::new(&bus, PAGES, job.bytes)?;
    let before = bus.stats()?.deltas;
    // Oldest first.
    let mut chains = vec![Vec::new(); CHAINS];
    let every = DELTAS / (DEPTH * CHAINS) as u64;
    for n in 0..DELTAS {
        let link = (n / every) as usize;
        if n % every != 0 || link >= DEPTH * CHAINS {
            turns.write()?;
            continue;
        }
        let chain = &mut chains[link % CHAINS];
        match chain.last() {
            Some(cause) => turns.write_caused(*cause)?,
            None => turns.write()?,
        }
        chain.push(turns.last);
    }
    turns.check()?;
    check_log(&bus, before, DELTAS)?;
    sync(&bus)?;
    supervisor.stop()?;

    let start = Instant::now();
    let log = Log::open(disk).map_err(Error::from)?;
    let open_ns = start.elapsed().as_nanos() as f64;
    let mut times = Samples::new(1)?;
    let mut first_ns = None;
    let begin = Instant::now();
    for chain in chains.iter().cycle().skip(CHAINS / 2) {
        let newest = chain.last().copied().unwrap_or_default();
        let start = Instant::now();
        let found = log
            .provenance(Cause::Lsn(newest), DEPTH)
            .map_err(Error::from)?;
        // The first one reads the log, which the others remember.
        match first_ns {
            None => first_ns = Some(start.elapsed().as_nanos() as f64),
            Some(_) => times.add(start.elapsed()),
        }
        let lsns: Vec<u64> = found.chain.iter().rev().map(|r| r.delta.lsn).collect();
        ensure(lsns == *chain && found.end == ChainEnd::Outside, || {
            format!("{lsns:?} was found to have led to LSN {newest}, and {chain:?} did")
        })?;
        if begin.elapsed() >= job.budget && times.count() >= 5 {
            break;
        }
    }
    // Which delta of the page was the last has to be found first.
    let page = turns.pages[turns.done as usize % PAGES].id();
    let start = Instant::now();
    let found = log
        .provenance(Cause::Page(page, At::End), DEPTH)
        .map_err(Error::from)?;
    let by_page_ns = start.elapsed().as_nanos() as f64;
    ensure(
        found.chain.first().is_some_and(|r| r.delta.page == page),
        || format!("another page than {page} was found"),
    )?;

    let bytes: u64 = log_files(disk)?
        .iter()
        .filter_map(|file| std::fs::metadata(file).ok())
        .map(|about| about.len())
        .sum();
    Ok(times
        .measured()
        .with("depth", DEPTH)
        .with("deltas", DELTAS)
        .with("log_file_bytes", bytes)
        .with("open_ns", open_ns)
        .with("first_ns", first_ns.unwrap_or_default())
        .with("by_page_ns", by_page_ns))
}
