//! Two processes that get into each other's way: one writes a page flat out while the other reads it flat out, or both
//! write, each to its own page.

use std::time::Instant;

use mmsb::{Page, PageSpec, PageVersion};
use mmsb_benches::lines::{Line, Lines};
use serde_json::json;

use super::super::rig::{CONTROL, Job, Peer, check_log, check_page, ensure, say, word};
use super::super::samples::{Measured, blocks, blocks_until};
use crate::cli::exit::Failure;

/// Operations in a block.
const BLOCK: u64 = 64;

/// Version slots of the cells.
const VERSIONS: u32 = 16;

/// Of so many reads one is compared byte by byte; the others only where the last delta was.
const CHECK_EVERY: u64 = 32;

/// How the writer changes its page: delta `n` leaves a state that follows from `n` alone, so that every copy can be
/// checked against the epoch that it claims to be of.
#[derive(Clone, Copy)]
struct Pattern {
    words: u64,
}

impl Pattern {
    fn of(page: &Page<'_>) -> Pattern {
        Pattern {
            words: (page.size() / 8) as u64,
        }
    }

    /// Small pages are written whole, of large ones one word in turn.
    fn is_whole(self) -> bool {
        self.words <= 8
    }

    /// The word at `at` in the state of epoch `n`.
    fn word_at(self, at: u64, n: u64) -> u64 {
        if self.is_whole() {
            return n;
        }
        // The greatest number that is not above `n` and belongs to this word.
        let back = (n % self.words + self.words - at) % self.words;
        n.saturating_sub(back)
    }

    fn bytes(self, n: u64) -> Vec<u8> {
        (0..self.words)
            .flat_map(|at| self.word_at(at, n).to_le_bytes())
            .collect()
    }

    #[inline(always)]
    fn write(self, page: &Page<'_>, n: u64, buffer: &mut [u8; 64]) -> mmsb::Result<u64> {
        if !self.is_whole() {
            return page.patch((n % self.words * 8) as usize, &n.to_le_bytes());
        }
        let buffer = &mut buffer[..self.words as usize * 8];
        for each in buffer.chunks_exact_mut(8) {
            each.copy_from_slice(&n.to_le_bytes());
        }
        page.patch(0, buffer)
    }

    #[inline(always)]
    fn check(self, epoch: u64, bytes: &[u8], wholly: bool) -> Result<(), Failure> {
        let at = (epoch % self.words) as usize * 8;
        let is_good = word(&bytes[at..]) == epoch
            && (!wholly && !self.is_whole() || self.holds(epoch, bytes));
        ensure(is_good, || {
            format!("a copy that claims to be of epoch {epoch} is torn or of another")
        })
    }

    fn holds(self, epoch: u64, bytes: &[u8]) -> bool {
        (0u64..)
            .zip(bytes.chunks_exact(8))
            .all(|(at, each)| word(each) == self.word_at(at, epoch))
    }
}

/// Writes while the second process reads: copies first, then (with `read_if_newer`) new versions only.
pub fn lead(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let mut spec = PageSpec::new(job.bytes as u64).name("contended");
    if job.case == "contended_cell" {
        spec = spec.versions(VERSIONS);
    }
    let page = bus.create_page(spec)?;
    let pattern = Pattern::of(&page);
    let before = bus.stats()?.deltas;
    let lines = Lines::create()?;
    let mut peer = Peer::start(job, &lines)?;
    let control = lines.line(CONTROL);

    let mut buffer = [0; 64];
    let (mut commits, mut last) = (0, 0);
    let mut phases = Vec::new();
    for phase in 0..2 {
        control.store(2 * phase + 1);
        let (samples, calls) = blocks(job.budget, BLOCK, 1, |_| {
            commits += 1;
            last = pattern.write(&page, commits, &mut buffer)?;
            Ok::<_, mmsb::Error>(())
        })?;
        control.store(2 * phase + 2);
        let seen = peer.result()?;
        let (reads, newest) = (seen["reads"].as_u64(), seen["epoch"].as_u64());
        // It may stop a little early or late, but must not have starved.
        ensure(
            reads.is_some_and(|reads| reads > 0) && newest.is_some_and(|epoch| epoch <= commits),
            || format!("the reader saw {seen} of {commits} commits, {calls} of them meanwhile"),
        )?;
        phases.push((samples.measured(), seen));
    }
    peer.finish()?;
    check_page(&page, commits, last, &pattern.bytes(commits))?;
    check_log(&bus, before, commits)?;

    let retries = bus.stats()?.retries;
    let [(writes, copies), (writes_newer, newer)] = &phases[..] else {
        return Err(Failure::problem("two phases were run"));
    };
    let mut measured: Measured = serde_json::from_value(copies["measured"].clone())
        .map_err(|error| Failure::problem(error.to_string()))?;
    measured.per_second = copies["per_second"].as_f64().unwrap_or(0.0);
    Ok(measured
        .with("reads_per_second", copies["per_second"].clone())
        .with("writes_per_second", writes.per_second)
        .with("write_p50_ns", writes.p50_ns)
        .with("reads_if_newer_per_second", newer["per_second"].clone())
        .with(
            "polls_if_newer_per_second",
            newer["polls_per_second"].clone(),
        )
        .with("writes_if_newer_per_second", writes_newer.per_second)
        .with("read_retries", retries))
}

/// Waits for the line to reach `value`.
fn until(line: &Line, value: u64) {
    while line.load() < value {
        std::hint::spin_loop();
    }
}

/// Reads, and checks what it read.
pub fn peer(job: &Job, lines: &Lines) -> Result<(), Failure> {
    let bus = job.attach()?;
    let page = bus.page("contended")?;
    let pattern = Pattern::of(&page);
    let control = lines.line(CONTROL);
    let mut buffer = vec![0; page.size()];
    let mut known = PageVersion::default();
    let follows = |known: PageVersion, version: PageVersion| {
        ensure(
            version.epoch >= known.epoch && version.lsn >= known.lsn,
            || format!("the page went back from {known:?} to {version:?}"),
        )
    };
    say("ready")?;

    until(control, 1);
    let start = Instant::now();
    let (samples, reads) = blocks_until(
        || control.load() >= 2,
        BLOCK,
        |n| {
            let version = page.read_into(&mut buffer)?;
            follows(known, version)?;
            known = version;
            // Before the first delta all words are zero, which is what epoch 0 stands for.
            pattern.check(version.epoch, &buffer, n.is_multiple_of(CHECK_EVERY))
        },
    )?;
    let per_second = reads as f64 / start.elapsed().as_secs_f64();
    let measured = serde_json::to_value(samples.measured())
        .map_err(|error| Failure::problem(error.to_string()))?;
    let seen = json!({"reads": reads, "epoch": known.epoch, "per_second": per_second,
                      "measured": measured});
    say(&seen.to_string())?;

    until(control, 3);
    let start = Instant::now();
    let mut newer = 0u64;
    let (_, polls) = blocks_until(
        || control.load() >= 4,
        BLOCK,
        |_| {
            let Some(version) = page.read_if_newer(known, &mut buffer)? else {
                return Ok(());
            };
            follows(known, version)?;
            ensure(version.epoch != known.epoch, || {
                format!("{version:?} was delivered as newer than itself")
            })?;
            known = version;
            newer += 1;
            pattern.check(version.epoch, &buffer, newer.is_multiple_of(CHECK_EVERY))
        },
    )?;
    let seconds = start.elapsed().as_secs_f64();
    let seen = json!({"reads": newer, "epoch": known.epoch, "per_second": newer as f64 / seconds,
                      "polls_per_second": polls as f64 / seconds});
    say(&seen.to_string())
}

/// Writes to one page while the second process writes to another.
pub fn two_writers(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let mine = bus.create_page(PageSpec::new(job.bytes as u64).name("first"))?;
    let theirs = bus.create_page(PageSpec::new(job.bytes as u64).name("second"))?;
    let before = bus.stats()?.deltas;
    let lines = Lines::create()?;
    let mut peer = Peer::start(job, &lines)?;
    let control = lines.line(CONTROL);
    control.store(1);
    let mut last = 0;
    let (samples, commits) = blocks(job.budget, BLOCK, 1, |n| {
        last = mine.patch(0, &n.to_le_bytes())?;
        Ok::<_, mmsb::Error>(())
    })?;
    control.store(2);
    let seen = peer.result()?;
    peer.finish()?;
    let number = |name: &str| seen[name].as_u64().unwrap_or(0);
    let (their_commits, their_last) = (number("commits"), number("lsn"));
    check_page(&mine, commits, last, &commits.to_le_bytes())?;
    check_page(
        &theirs,
        their_commits,
        their_last,
        &their_commits.to_le_bytes(),
    )?;
    ensure(last != their_last && their_commits > 0, || {
        format!("both writers ended at LSN {last}")
    })?;
    check_log(&bus, before, commits + their_commits)?;
    let mut measured = samples.measured();
    let theirs = seen["per_second"].as_f64().unwrap_or(0.0);
    let each = json!([measured.per_second.round(), theirs.round()]);
    measured.per_second += theirs;
    Ok(measured.with("each_per_second", each))
}

/// The other writer.
pub fn second_writer(job: &Job, lines: &Lines) -> Result<(), Failure> {
    let bus = job.attach()?;
    let page = bus.page("second")?;
    let control = lines.line(CONTROL);
    let mut last = 0;
    say("ready")?;
    until(control, 1);
    let (samples, commits) = blocks_until(
        || control.load() >= 2,
        BLOCK,
        |n| {
            let lsn = page.patch(0, &n.to_le_bytes())?;
            ensure(lsn > last, || {
                format!("LSN {lsn} was given out after {last}")
            })?;
            last = lsn;
            Ok::<_, Failure>(())
        },
    )?;
    let seen = json!({"commits": commits, "lsn": last, "per_second": samples.per_second()});
    say(&seen.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_from_their_epoch() {
        let pattern = Pattern { words: 128 };
        let mut bytes = vec![0u8; 1024];
        for n in 1..1000u64 {
            let at = (n % 128 * 8) as usize;
            bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
            assert_eq!(pattern.bytes(n), bytes, "{n}");
            assert!(pattern.check(n, &bytes, true).is_ok());
            assert!(pattern.check(n + 1, &bytes, false).is_err());
        }
        bytes[8] ^= 1;
        assert!(pattern.check(999, &bytes, true).is_err());
        let whole = Pattern { words: 8 };
        assert_eq!(whole.bytes(7), 7u64.to_le_bytes().repeat(8));
        let mut torn = whole.bytes(7);
        torn[63] = 1;
        assert!(whole.check(7, &torn, false).is_err());
    }
}
