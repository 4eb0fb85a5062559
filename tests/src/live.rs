//! A bus for foreign readers: pages that carry an invariant, written without pause by processes that are killed every
//! few tens of milliseconds.
//!
//! | page | written |
//! | --- | --- |
//! | `s/patched` | in place, one delta a value |
//! | `s/cell` | a cell of [`VERSIONS`] versions |
//! | `s/loaned` | each value a block of its own, swapped in |
//!
//! A page is `W` little-endian 64-bit words. Word 0 is `n`, word `i` is `n (2 i + 1) + i`; `n` only grows, by one a delta,
//! across all writers and their deaths. Whoever sees anything else saw half of two values.
//!
//! The bus is in `/dev/shm` itself, where `shm_open` of any language finds it, under a name of its own, and is removed
//! when [`Live`] is dropped. What a test that was aborted left behind, the next one removes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mmsb::schema::Schema;
use mmsb::{Bus, Page, PageSpec};
use nix::unistd::Pid;

use crate::foreign::{pin, processors};
use crate::seed::Rng;
use crate::spawn::{self, Child};

/// Where the bus is.
pub const DIR: &str = "/dev/shm";
/// The pages.
pub const PATCHED: &str = "s/patched";
/// See [`PATCHED`].
pub const CELL: &str = "s/cell";
/// See [`PATCHED`].
pub const LOANED: &str = "s/loaned";
/// All of them.
pub const PAGES: [&str; 3] = [PATCHED, CELL, LOANED];
/// Version slots of the cell.
pub const VERSIONS: u32 = 4;

/// A writer is killed so long after it began to write, in milliseconds, at random.
const LIFE_MS: std::ops::Range<u64> = 20..50;
/// A writer that has not begun by then never will.
const PATIENCE: Duration = Duration::from_secs(30);
const PREFIX: &str = "strangers-";

/// Fills `words` with value `n`.
pub fn fill(words: &mut [u64], n: u64) {
    for (i, word) in (0u64..).zip(words.iter_mut()) {
        *word = n.wrapping_mul(2 * i + 1).wrapping_add(i);
    }
}

/// The number of the value in `words`, if it is one, whole.
pub fn whole(words: &[u64]) -> Option<u64> {
    let n = *words.first()?;
    (0u64..)
        .zip(words)
        .all(|(i, word)| *word == n.wrapping_mul(2 * i + 1).wrapping_add(i))
        .then_some(n)
}

/// The page, as words.
///
/// # Errors
/// As [`Page::read_into`].
pub fn words(page: &Page<'_>) -> mmsb::Result<Vec<u64>> {
    let bytes = page.to_vec()?;
    let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("8 bytes"));
    Ok(bytes.chunks_exact(8).map(word).collect())
}

/// Creates bus `name` in `dir` with pages of `bytes` bytes, each holding value 1.
///
/// # Panics
/// When it cannot: a test without a bus is none.
pub fn create(dir: &Path, name: &str, bytes: u64) -> Bus {
    let bus = Bus::builder(name)
        .dir(dir)
        .source("harness")
        .timeout(PATIENCE)
        .create()
        .unwrap_or_else(|e| panic!("create {name}: {e}"));
    let schema = Schema::parse(&format!("u64[{}]", bytes / 8)).expect("a schema of words");
    let mut first = vec![0; bytes as usize / 8];
    fill(&mut first, 1);
    for page in PAGES {
        let mut spec = PageSpec::new(bytes).name(page).schema(&schema);
        if page == CELL {
            spec = spec.versions(VERSIONS);
        }
        let made = bus.create_page(spec).expect("a page");
        write(&made, page == LOANED, &first).expect("its first value");
    }
    bus
}

/// Writes value `n` to a page of such a bus, as its name says.
///
/// # Errors
/// Those of writing.
pub fn write_value(page: &Page<'_>, name: &str, n: u64) -> mmsb::Result<u64> {
    let mut words = vec![0; page.size() / 8];
    fill(&mut words, n);
    write(page, name == LOANED, &words)
}

fn write(page: &Page<'_>, loaned: bool, words: &[u64]) -> mmsb::Result<u64> {
    let bytes = bytes_of(words);
    if loaned {
        let mut loan = page.loan()?;
        loan.copy_from_slice(bytes);
        loan.publish()
    } else {
        page.write(bytes)
    }
}

/// The words as bytes; little-endian, as this machine is, which is checked at compile time.
fn bytes_of(words: &[u64]) -> &[u8] {
    const { assert!(cfg!(target_endian = "little")) };
    // SAFETY: any bytes are u8, the length is that of the words, and the borrow is the same.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// In a worker: writes the page without end, on from what it holds. Says `writing N` when it begins.
///
/// # Errors
/// Those of attaching and writing: with none but the dead around, there is none to expect.
pub fn write_flat_out(dir: &Path, bus: &str, page: &str, pause: Duration) -> mmsb::Result<()> {
    spawn::exit_when_orphaned();
    // Attaching repairs what the one before left, its last delta included.
    let bus = Bus::builder(bus)
        .dir(dir)
        .source(page)
        .timeout(PATIENCE)
        .attach()?;
    let loaned = page == LOANED;
    let page = bus.page(page)?;
    let mut words = words(&page)?;
    let mut n = whole(&words).unwrap_or_else(|| panic!("half a value was left: {words:?}"));
    spawn::say(&format!("writing {n}"));
    loop {
        n += 1;
        fill(&mut words, n);
        write(&page, loaned, &words)?;
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

/// What has happened on the bus so far.
#[derive(Debug, Default)]
struct Counts {
    kills: AtomicU64,
    /// Why the harness gave up.
    failed: AtomicBool,
}

/// A bus in [`DIR`] with pages as in [`create`], which nobody writes. Dropping it removes it.
#[derive(Debug)]
pub struct Still {
    name: String,
}

impl Still {
    /// Makes one with pages of `bytes` bytes.
    ///
    /// # Panics
    /// As [`create`].
    pub fn new(bytes: u64) -> Still {
        sweep();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let still = Still { name };
        // A participant belongs to its thread; this one only has to make the bus.
        drop(create(Path::new(DIR), &still.name, bytes));
        still
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object that readers map.
    pub fn pages_path(&self) -> PathBuf {
        Path::new(DIR).join(format!("mmsb.{}.pages", self.name))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        let _ = Bus::unlink_in(DIR, &self.name);
        // A bus that a test has damaged is removed only so.
        for suffix in ["pages", "ctl"] {
            let _ =
                std::fs::remove_file(Path::new(DIR).join(format!("mmsb.{}.{suffix}", self.name)));
        }
    }
}

/// A live bus. Dropping it kills its writers and removes it.
#[derive(Debug)]
pub struct Live {
    bus: Still,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    harness: Option<JoinHandle<Result<Outcome, String>>>,
}

/// What a live bus went through.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Writers that were killed.
    pub kills: u64,
    /// Values written, over all pages.
    pub values: u64,
    /// Dead writers that left something to finish: a claim, a committed delta, a page half written.
    pub recovered: HashMap<&'static str, u64>,
    /// How long it lived.
    pub seconds: f64,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |name| self.recovered.get(name).copied().unwrap_or(0);
        write!(
            f,
            "{:.1} s, {} writers killed ({} recovered: {} claimed, {} ready, {} inside the page), {:.2} million values/s",
            self.seconds,
            self.kills,
            of("recoveries"),
            of("recovered_claimed"),
            of("recovered_ready"),
            of("recovered_odd"),
            self.values as f64 / self.seconds / 1e6
        )
    }
}

impl Live {
    /// Starts a bus with pages of `bytes` bytes, and a writer for each of `pages` (`worker DIR BUS PAGE PAUSE_US`), which
    /// are killed and replaced from now on. `pause`: between two values; zero for flat out.
    ///
    /// # Panics
    /// When there can be no bus.
    pub fn start(worker: &Path, bytes: u64, pages: &[&str], pause: Duration, rng: Rng) -> Live {
        let bus = Still::new(bytes);
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Counts::default());
        let name = bus.name.clone();
        let mut live = Live {
            bus,
            stop: Arc::clone(&stop),
            counts: Arc::clone(&counts),
            harness: None,
        };
        let crew = Crew {
            worker: worker.to_owned(),
            bus: name,
            pages: pages.iter().map(|page| (*page).to_owned()).collect(),
            pause,
            rng,
            stop,
            counts,
        };
        let harness = std::thread::Builder::new().name("live".into());
        let harness = harness.spawn(move || {
            let counts = Arc::clone(&crew.counts);
            let outcome = crew.run();
            counts.failed.store(outcome.is_err(), Ordering::Relaxed);
            outcome
        });
        live.harness = Some(harness.expect("a thread"));
        live.await_kills(1);
        live
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.bus.name()
    }

    /// Waits until so many writers have been killed, so that the bus is under way.
    fn await_kills(&self, kills: u64) {
        let begin = Instant::now();
        while self.counts.kills.load(Ordering::Relaxed) < kills
            && !self.counts.failed.load(Ordering::Relaxed)
        {
            assert!(begin.elapsed() < PATIENCE, "no writer was killed");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it, and says what it went through.
    ///
    /// # Panics
    /// When a writer failed by itself, or a page does not hold a whole value at the end.
    pub fn end(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let harness = self.harness.take().expect("it is ended once");
        match harness.join() {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(why)) => panic!("the live bus: {why}"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(harness) = self.harness.take() {
            let _ = harness.join();
        }
    }
}

/// The thread that keeps the writers alive and kills them.
struct Crew {
    worker: PathBuf,
    bus: String,
    pages: Vec<String>,
    pause: Duration,
    rng: Rng,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
}

impl Crew {
    fn writer(&self, page: &str) -> Result<Child, String> {
        let mut command = Command::new(&self.worker);
        command.args([DIR, &self.bus, page]);
        command.arg(self.pause.as_micros().to_string());
        let child = Child::spawn(&mut command);
        let child = child.map_err(|e| format!("{}: {e}", self.worker.display()))?;
        // The first one is the reader's: side by side on one processor, reader and writer would take turns, and hardly a
        // copy would be disturbed. Several writers may go everywhere, and keep the reader from running now and then.
        if let ([_], [_, writers @ ..]) = (self.pages.as_slice(), processors().as_slice())
            && !writers.is_empty()
        {
            pin(Pid::from_raw(child.id().cast_signed()), writers);
        }
        Ok(child)
    }

    fn run(mut self) -> Result<Outcome, String> {
        let text = |e: mmsb::Error| e.to_string();
        let bus = Bus::builder(&self.bus).dir(DIR).source("harness");
        let bus = bus.timeout(PATIENCE).attach().map_err(text)?;
        let begin = Instant::now();
        let mut writers = Vec::new();
        for page in &self.pages {
            writers.push((self.writer(page)?, None));
        }
        while !self.stop.load(Ordering::Relaxed) {
            let mut rest = Duration::from_millis(5);
            for (page, (writer, end)) in self.pages.iter().zip(&mut writers) {
                // Its time runs from its first value on, so that each writer writes.
                if end.is_none() {
                    match writer.try_receive() {
                        Ok(Some(_)) => {
                            let life = self.rng.below(LIFE_MS.end - LIFE_MS.start) + LIFE_MS.start;
                            *end = Some(Instant::now() + Duration::from_millis(life));
                        }
                        Ok(None) => rest = Duration::from_micros(500),
                        Err(_) => return Err(format!("a writer of {page} failed")),
                    }
                }
                let Some(time) = *end else { continue };
                if let Some(left) = time.checked_duration_since(Instant::now()) {
                    rest = rest.min(left);
                    continue;
                }
                let status = writer.kill().map_err(|e| e.to_string())?;
                if status.code().is_some() {
                    return Err(format!("a writer of {page} ended by itself: {status}"));
                }
                self.counts.kills.fetch_add(1, Ordering::Relaxed);
                // Sometimes the next writer meets the dead one's remains, sometimes somebody else.
                if self.rng.chance(1, 2) {
                    bus.recover().map_err(text)?;
                }
                (*writer, *end) = (self.writer(page)?, None);
            }
            std::thread::sleep(rest);
        }
        drop(writers);
        bus.recover().map_err(text)?;
        let mut outcome = Outcome {
            kills: self.counts.kills.load(Ordering::Relaxed),
            seconds: begin.elapsed().as_secs_f64(),
            ..Outcome::default()
        };
        for name in PAGES {
            let words = words(&bus.page(name).map_err(text)?).map_err(text)?;
            let n = whole(&words).ok_or_else(|| format!("{name} holds half a value: {words:?}"))?;
            outcome.values += n - 1;
        }
        let stats = bus.stats().map_err(text)?;
        for name in [
            "recoveries",
            "recovered_claimed",
            "recovered_ready",
            "recovered_odd",
        ] {
            outcome.recovered.insert(name, stats.counter(name));
        }
        Ok(outcome)
    }
}

/// Removes buses of test processes that are no more.
fn sweep() {
    for name in Bus::list_in(DIR).unwrap_or_default() {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = Bus::unlink_in(DIR, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_of_two_values_is_not_whole() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        fill(&mut a, 7);
        fill(&mut b, 8);
        assert_eq!((whole(&a), whole(&b)), (Some(7), Some(8)));
        for cut in 1..32 {
            let mut mixed = a;
            mixed[cut..].copy_from_slice(&b[cut..]);
            assert_eq!(whole(&mixed), None, "cut at {cut}");
        }
        assert_eq!(whole(&[]), None);
    }
}
