//! The checker: a process that compares live pages with what the log gives, and says what it found.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use mmsb::history::{At, Log};
use mmsb::state::{Heap, Loaded, PageShape, State};
use mmsb::tlog::{self, LogReader, OpenOptions};
use mmsb::wire::{self, Item};
use mmsb::{Bus, Kind, PageId};

use super::{builder, number};
use crate::spawn::say;

/// Checks everything, on a bus that is supervised and that nobody writes.
///
/// Says `page NAME N EPOCH` for each page, then `checked HASH END INCARNATION FORKS`; or `bad WHAT`, and exits with
/// status 1.
pub fn run(shm: &Path, disk: &Path) {
    match check(shm, disk) {
        Ok(line) => say(&line),
        Err(what) => {
            say(&format!("bad {}", what.replace('\n', " ")));
            std::process::exit(1);
        }
    }
}

fn check(shm: &Path, disk: &Path) -> Result<String, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let bus = builder(shm, Duration::from_secs(20))
        .source("checker")
        .attach()
        .map_err(|e| format!("attach: {e}"))?;
    bus.recover().map_err(|e| text(&e))?;
    let end = bus.published_lsn().map_err(|e| text(&e))?;
    bus.wait_durable(end - 1, Duration::from_secs(30))
        .map_err(|e| format!("what is in the ring does not get into the log: {e}"))?;
    pages(&bus)?;
    let live = live_state(&bus)?;
    // Joining made records of its own (the source's name), which are no page's.
    let log = Log::open(disk).map_err(|e| format!("open the log: {e}"))?;
    let by_log = kept(|| {
        log.state_at(At::Lsn(end - 1))
            .map_err(|e| format!("replay: {e}"))
    })?;
    if by_log.hash() != live.hash() {
        return Err(format!(
            "the log gives other pages than memory has: {}",
            difference(&live, &by_log)
        ));
    }
    kept(|| {
        let report = log.verify().map_err(|e| format!("verify: {e}"))?;
        match &report.error {
            Some(e) => Err(format!("verify: {e}")),
            None if !report.is_good() => Err(format!("verify: {report:?}")),
            None => Ok(()),
        }
    })?;
    kept(|| walk_log(disk))?;
    let status = bus.log_status();
    let mut forks = vec![format!("{}:{}", status.incarnation, status.fork_lsn)];
    forks.extend(
        log.meta()
            .forks
            .iter()
            .map(|f| format!("{}:{}", f.incarnation, f.lsn)),
    );
    Ok(format!(
        "checked {:032x} {end} {} {}",
        live.hash(),
        status.incarnation,
        forks.join(",")
    ))
}

/// Reads the log once more if retention removed what was being read.
fn kept<R>(read: impl Fn() -> Result<R, String>) -> Result<R, String> {
    for _ in 0..50 {
        match read() {
            Err(e) if e.contains("no longer in the log") => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
    read()
}

/// Every page holds what its number says, as often as it was committed, and pairs are whole.
fn pages(bus: &Bus) -> Result<(), String> {
    let mut pairs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for info in bus.all_pages().map_err(|e| e.to_string())? {
        let page = bus.page_by_id(info.id).map_err(|e| e.to_string())?;
        let mut bytes = vec![0; page.size()];
        let version = page.read_into(&mut bytes).map_err(|e| e.to_string())?;
        let n = number(&bytes).ok_or_else(|| format!("{} is torn", info.cold.name))?;
        if n != version.epoch {
            return Err(format!(
                "{} was brought to {n}, and committed {} times",
                info.cold.name, version.epoch
            ));
        }
        if let Some(rest) = info.cold.name.strip_prefix("pair/") {
            let of = rest.split('/').next().unwrap_or("");
            pairs.entry(of.to_owned()).or_default().push(n);
        }
        say(&format!("page {} {n} {}", info.cold.name, version.epoch));
    }
    for (of, numbers) in pairs {
        if numbers.iter().any(|n| *n != numbers[0]) {
            return Err(format!("half a transaction of writer {of}: {numbers:?}"));
        }
    }
    Ok(())
}

/// The live pages as a state, to be hashed like one; of a bus that nobody writes.
///
/// # Errors
/// What cannot be read.
pub fn live_state(bus: &Bus) -> Result<State, String> {
    let pages = &bus.participant().core().pages;
    let meta = mmsb::state::Meta {
        log_id: pages.log_info().log_id,
        bus: bus.name().to_owned(),
        incarnation: pages.incarnation(),
        created_ns: pages.created_ns(),
        ring_slots: pages.ring_info().slots,
    };
    let mut state = State::new(meta, Heap::default());
    for info in bus.all_pages().map_err(|e| e.to_string())? {
        let page = bus.page_by_id(info.id).map_err(|e| e.to_string())?;
        let versions = info.versions;
        let mut bytes = state
            .take_memory(info.id, page.size() as u32, versions)
            .map_err(|e| e.to_string())?;
        let version = page.read_into(&mut bytes).map_err(|e| e.to_string())?;
        let cold = pages.cold(info.id).map_err(|e| e.to_string())?;
        state
            .insert(Loaded {
                shape: PageShape {
                    id: info.id,
                    versions,
                    epoch: version.epoch,
                    lsn: version.lsn,
                },
                cold,
                bytes,
            })
            .map_err(|e| e.to_string())?;
    }
    Ok(state)
}

fn difference(live: &State, by_log: &State) -> String {
    let describe = |state: &State| -> BTreeMap<PageId, String> {
        state
            .pages()
            .map(|p| {
                let what = format!(
                    "{:?} {:?} epoch {} lsn {} number {:?}",
                    p.id(),
                    p.cold().name,
                    p.epoch(),
                    p.lsn(),
                    number(p.bytes())
                );
                (p.id(), what)
            })
            .collect()
    };
    let (live, by_log) = (describe(live), describe(by_log));
    let mut found = Vec::new();
    for id in live.keys().chain(by_log.keys()) {
        if live.get(id) != by_log.get(id) && found.len() < 5 {
            found.push(format!("{:?} / {:?}", live.get(id), by_log.get(id)));
        }
    }
    found.join("; ")
}

/// Reads the log from its first record: LSNs go on without a gap, and the numbers of each page rise by one. So nothing
/// is missing, and nothing is there twice, over all files, takeovers and incarnations.
fn walk_log(dir: &Path) -> Result<(), String> {
    let survey = tlog::survey(dir).map_err(|e| e.to_string())?;
    if let Some(fault) = survey.fault {
        return Err(fault.to_string());
    }
    let mut incarnation = 0;
    for file in &survey.files {
        if file.incarnation < incarnation {
            return Err(format!("incarnations fall: {:?}", survey.files));
        }
        incarnation = file.incarnation;
    }
    let mut reader = LogReader::open(dir, OpenOptions::default()).map_err(|e| e.to_string())?;
    let mut known = 0;
    // Retention may have gone on since the survey.
    let mut first_lsn = 0;
    let mut last_lsn = 0;
    let mut numbers: BTreeMap<PageId, u64> = BTreeMap::new();
    let mut chunks: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut bad = None;
    while let Some(mut block) = reader.next().map_err(|e| e.to_string())? {
        if known > 0 && block.first_lsn > known {
            return Err(format!(
                "the log has a gap from LSN {known} to {}",
                block.first_lsn
            ));
        }
        if known == 0 {
            first_lsn = block.first_lsn;
        }
        let clock = mmsb_shm::Clock::new(block.created_ns, block.time_ns);
        let (first, end, slots) = (block.first_lsn, block.end_lsn, block.ring_slots);
        wire::walk(&mut block.body, first, slots, clock, &mut |item| {
            let delta = match item {
                Item::Chunk(chunk) => {
                    let content = chunks.entry(chunk.lsn).or_default();
                    if chunk.offset == 0 {
                        // Begun anew, by a successor.
                        content.clear();
                    }
                    if content.len() as u64 == chunk.offset {
                        content.extend_from_slice(chunk.bytes);
                    }
                    return;
                }
                Item::Delta(delta) => delta,
            };
            let mut content = Vec::new();
            match delta.kind {
                Kind::Swap => content = chunks.remove(&delta.lsn).unwrap_or_default(),
                _ => delta.for_each_range(|_, bytes| content.extend_from_slice(bytes)),
            }
            if delta.lsn < known {
                // Once more, of a file whose end was given up.
                return;
            }
            if delta.lsn <= last_lsn {
                bad = Some(format!("LSN {} comes behind {last_lsn}", delta.lsn));
            }
            last_lsn = delta.lsn;
            match delta.kind {
                Kind::Create => {
                    numbers.insert(delta.page, 0);
                }
                Kind::Patch | Kind::Swap => {
                    let Some(n) = number(&content) else {
                        if delta.kind == Kind::Swap && delta.lsn == first_lsn {
                            // Its content stood in a file that is no longer kept.
                            return;
                        }
                        bad = Some(format!("LSN {} is torn", delta.lsn));
                        return;
                    };
                    if let Some(before) = numbers.insert(delta.page, n)
                        && n != before + 1
                    {
                        bad = Some(format!(
                            "page {:?} goes from {before} to {n} at LSN {}",
                            delta.page, delta.lsn
                        ));
                    }
                }
                _ => {}
            }
        })
        .map_err(|e| e.to_string())?;
        if let Some(bad) = bad.take() {
            return Err(bad);
        }
        known = known.max(end);
    }
    Ok(())
}
