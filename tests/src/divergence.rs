//! Whether replaying a log gives what the bus that wrote it holds.
//!
//! Processes write to shared pages and to pages of their own: patches, sparse and masked ones, whole values, cells, loans,
//! batches, transactions, pages made, renamed and destroyed. Checkpoints are written meanwhile. When they have ended, the log is
//! replayed several times over, by different numbers of threads, from its beginning and from each checkpoint. All of the
//! states must be, byte for byte, what the living bus holds, in the same versions and under the same names.

use std::error::Error as StdError;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mmsb::checkpoint;
use mmsb::history::Log;
use mmsb::state::{Heap, Meta, ReplayOptions, State, replay};
use mmsb::supervisor::{CheckpointPolicy, SupervisorConfig};
use mmsb::tlog::{LogReader, OpenOptions};
use mmsb::{Bus, Page, PageSpec};

use crate::durable::check::live_state;
use crate::seed::Rng;
use crate::spawn::{Child, orders, say};

const BUS: &str = "divergence";
const WRITERS: u64 = 3;
/// Pages that everybody writes.
const SHARED: u64 = 24;
/// Every so many pages of these one is a cell.
const CELL_EVERY: u64 = 4;
/// Bytes of a page that loans write: more than one block of the log.
const BIG: usize = 300_000;
/// Pages that a writer has of its own.
const OWN_MAX: usize = 64;
/// Numbers of threads that replay.
const THREADS: [usize; 4] = [1, 2, 3, 8];
/// Replays by each.
const TIMES: usize = 2;
/// A writer's pause after a burst of changes, which bounds the log at some hundred MiB a minute.
const PAUSE: Duration = Duration::from_micros(500);
const BURST: u64 = 64;
/// No step takes longer, whatever the load of the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For how long to write.
    pub seconds: f64,
    /// Where all random choices come from.
    pub seed: u64,
    /// Directory for the log, on a real disk.
    pub disk: PathBuf,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            seconds: 5.0,
            seed: 0,
            disk: crate::durable::soak::Plan::default().disk,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Changes that the writers made.
    pub changes: u64,
    /// Records replayed from the beginning of the log.
    pub records: u64,
    /// Pages of the living bus.
    pub pages: u64,
    /// Replays from the beginning.
    pub replays: u64,
    /// Checkpoints, each loaded and replayed from.
    pub checkpoints: u64,
    /// What was not the same.
    pub bad: Vec<String>,
}

impl Report {
    /// One line of JSON.
    pub fn json(&self, plan: &Plan) -> String {
        serde_json::json!({
            "seed": format!("{:#x}", plan.seed),
            "seconds": plan.seconds,
            "changes": self.changes,
            "records": self.records,
            "pages": self.pages,
            "threads": THREADS,
            "replays": self.replays,
            "checkpoints": self.checkpoints,
            "divergences": self.bad.len(),
            "bad": self.bad,
        })
        .to_string()
    }

    /// Compares a replayed state with the living bus.
    fn compare(&mut self, how: &str, by_log: &State, live: &State, first: Option<&State>) {
        if by_log.hash() != live.hash() || by_log.len() != live.len() {
            let differ = live
                .pages()
                .filter(|page| by_log.page(page.id()).map(|p| p.hash()) != Some(page.hash()))
                .map(|page| page.id().to_string())
                .take(5);
            self.bad.push(format!(
                "{how}: {} pages, the bus has {}; other ones: {}",
                by_log.len(),
                live.len(),
                differ.collect::<Vec<_>>().join(", ")
            ));
        }
        // What the pages do not show.
        let Some(first) = first else { return };
        let (by_log, first) = (unseen(by_log), unseen(first));
        for ((what, is), (_, was)) in by_log.into_iter().zip(first) {
            if is != was {
                self.bad
                    .push(format!("{how}: other {what}: {is}; by one thread {was}"));
            }
        }
    }
}

/// What a state holds beside its pages, each with its name.
fn unseen(state: &State) -> [(&'static str, String); 4] {
    // Since when is told by a record to a millisecond, and by a checkpoint as it was.
    let names = state.sources().iter().map(|(n, source)| (n, &source.name));
    [
        ("position", state.lsn().to_string()),
        ("time", state.time_ns().to_string()),
        ("sources", format!("{:?}", names.collect::<Vec<_>>())),
        ("free numbers", format!("{:?}", state.free_generations())),
    ]
}

type Failed = Box<dyn StdError>;

fn text(e: impl Display) -> Failed {
    e.to_string().into()
}

fn builder(shm: &Path) -> mmsb::BusBuilder {
    Bus::builder(BUS)
        .dir(shm)
        .timeout(PATIENCE)
        .pages_max(8192)
        .bytes_max(1 << 30)
}

/// Writes, replays and compares.
///
/// # Errors
/// That it could not be done; a divergence is none.
pub fn run(plan: &Plan) -> Result<Report, Failed> {
    std::fs::create_dir_all(&plan.disk)?;
    let shm = tempfile::tempdir_in("/dev/shm")?;
    let disk = tempfile::tempdir_in(&plan.disk)?;
    let dir = disk.path().join("log");
    let config = SupervisorConfig {
        checkpoint: CheckpointPolicy {
            interval: None,
            log_bytes: None,
            keep: 8,
            ..CheckpointPolicy::default()
        },
        ..SupervisorConfig::new(&dir)
    };
    let bus = builder(shm.path())
        .source("parent")
        .supervise(config)
        .create()?;
    for n in 0..SHARED {
        let spec = PageSpec::new(size_of(n)).name(&format!("shared/{n}"));
        let versions = if n % CELL_EVERY == 0 { 4 } else { 1 };
        bus.create_page(spec.versions(versions))?;
    }
    let mut report = Report::default();
    let rng = Rng::new(plan.seed);
    let exe = std::env::current_exe()?;
    let mut writers = Vec::new();
    for slot in 0..WRITERS {
        let mut command = Command::new(&exe);
        command
            .args(["writer".into(), shm.path().as_os_str().to_owned()])
            .args([slot.to_string(), rng.fork(slot).next_u64().to_string()]);
        writers.push(Child::spawn(&mut command)?);
    }
    let begin = Instant::now();
    let supervisor = bus.supervisor().ok_or("the bus has no supervisor")?;
    for part in 1..=4 {
        let until = Duration::from_secs_f64(plan.seconds * f64::from(part) / 4.0);
        std::thread::sleep(until.saturating_sub(begin.elapsed()));
        if part < 4 {
            supervisor.checkpoint()?;
        }
    }
    for writer in &mut writers {
        writer.close_input();
    }
    for mut writer in writers {
        report.changes += writer.expect("made ", PATIENCE)?.parse::<u64>()?;
        writer.finish(PATIENCE)?;
    }

    let end = bus.published_lsn()?;
    bus.wait_durable(end - 1, PATIENCE)?;
    let live = live_state(&bus)?;
    let log = Log::open(&dir)?;
    let images = checkpoint::images(&bus, 1)?;
    let by_library = log.verify_live(images.as_ref())?;
    report.pages = live.len() as u64;
    if by_library.equal != report.pages || !by_library.different.is_empty() {
        report.bad.push(format!("verify_live: {by_library:?}"));
    }
    drop(images);
    if !log.verify()?.is_good() {
        report.bad.push("verify: not good".to_owned());
    }
    let options = |from_lsn| OpenOptions {
        from_lsn,
        durable_at_least: bus.durable_lsn(),
        ..OpenOptions::default()
    };
    let mut first: Option<State> = None;
    for threads in THREADS.into_iter().cycle().take(THREADS.len() * TIMES) {
        let mut state = State::new(Meta::default(), Heap::default());
        let by = ReplayOptions {
            threads,
            ..ReplayOptions::default()
        };
        let reader = LogReader::open(&dir, options(0))?;
        let done = replay(&mut state, reader, by).map_err(text)?;
        report.compare(
            &format!("by {threads} threads"),
            &state,
            &live,
            first.as_ref(),
        );
        report.records = done.records;
        report.replays += 1;
        first.get_or_insert(state);
    }
    for (threads, info) in [1, 4, 2].into_iter().cycle().zip(log.checkpoints()?) {
        let mut state = checkpoint::load(&info.path, Heap::default())?;
        let how = ReplayOptions {
            threads,
            ..ReplayOptions::default()
        };
        let reader = LogReader::open(&dir, options(state.lsn()))?;
        replay(&mut state, reader, how).map_err(text)?;
        let from = format!(
            "from the checkpoint at {} by {threads} threads",
            info.end_lsn
        );
        report.compare(&from, &state, &live, first.as_ref());
        report.checkpoints += 1;
    }
    Ok(report)
}

/// Bytes of a shared page.
fn size_of(n: u64) -> u64 {
    [8, 64, 200, 1024, 5000, 40_000][(n % 6) as usize]
}

/// In a writer: changes pages until the parent closes the pipe, then says `made N`.
///
/// # Panics
/// When a change fails; the parent sees the exit status.
pub fn write(shm: &Path, slot: u64, seed: u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        orders().for_each(drop);
        // Relaxed: a flag that stands for nothing but itself.
        told.store(true, Ordering::Relaxed);
    });
    let bus = builder(shm)
        .source(&format!("writer {slot}"))
        .attach()
        .expect("the bus of the parent");
    let mut writer = Writer::new(&bus, slot, Rng::new(seed)).expect("pages");
    let mut made = 0u64;
    // Relaxed: as above.
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            writer.change(made).expect("a change");
            made += 1;
        }
        std::thread::sleep(PAUSE);
    }
    say(&format!("made {made}"));
}

struct Writer<'b> {
    bus: &'b Bus,
    slot: u64,
    rng: Rng,
    shared: Vec<Page<'b>>,
    big: Page<'b>,
    /// Made by this writer, and not destroyed yet.
    own: Vec<Page<'b>>,
    bytes: Vec<u8>,
    last: u64,
}

impl<'b> Writer<'b> {
    fn new(bus: &'b Bus, slot: u64, rng: Rng) -> mmsb::Result<Writer<'b>> {
        let shared = (0..SHARED).map(|n| bus.page(&format!("shared/{n}")));
        Ok(Writer {
            bus,
            slot,
            rng,
            shared: shared.collect::<mmsb::Result<_>>()?,
            big: bus.create_page(PageSpec::new(BIG as u64).name(&format!("big/{slot}")))?,
            own: Vec::new(),
            bytes: vec![0; 8192],
            last: 0,
        })
    }

    /// A page, an offset in it, and so many bytes from there.
    fn place(&mut self) -> (usize, usize, usize) {
        let at = self.rng.below(SHARED) as usize;
        let size = self.shared[at].size();
        let offset = self.rng.below(size as u64) as usize;
        let most = (size - offset).min(256) as u64;
        (at, offset, self.rng.below(most) as usize + 1)
    }

    fn change(&mut self, n: u64) -> mmsb::Result<()> {
        let (at, offset, length) = self.place();
        let (other, other_offset, other_length) = self.place();
        let mut bytes = std::mem::take(&mut self.bytes);
        self.rng.fill(&mut bytes[..512]);
        let (one, two) = (&bytes[..length], &bytes[256..256 + other_length]);
        match self.rng.below(64) {
            0..24 => self.last = self.shared[at].patch(offset, one)?,
            24..30 => self.last = self.shared[at].caused_by(self.last).patch(offset, one)?,
            30..36 => {
                let page = &self.shared[at];
                let half = page.size() / 2;
                let (low, high) = (one.len().min(half), two.len().min(page.size() - half));
                let ranges = [(0, &one[..low]), (half, &two[..high])];
                let ranges: Vec<_> = ranges.into_iter().filter(|r| !r.1.is_empty()).collect();
                self.last = page.patch_many(&ranges)?;
            }
            36..40 => {
                let mask = &bytes[128..128 + length];
                self.last = self.shared[at].write_masked(offset, mask, one)?;
            }
            40..48 => {
                self.bus
                    .batch()
                    .patch(&self.shared[at], offset, one)
                    .patch(&self.shared[other], other_offset, two)
                    .mark(&n.to_le_bytes())
                    .commit()?;
            }
            48..56 => {
                self.bus.transaction(|tx| {
                    tx.patch(&self.shared[at], offset, one)?;
                    tx.patch(&self.shared[other], other_offset, two)
                })?;
            }
            56..59 => {
                self.shared[at].update(|page| page[offset] = page[offset].wrapping_add(1))?;
            }
            59..61 if n.is_multiple_of(16) => {
                let mut loan = self.big.loan()?;
                loan.fill(n as u8);
                loan[offset..offset + length].copy_from_slice(one);
                self.last = loan.publish()?;
            }
            59..62 if self.own.len() < OWN_MAX => {
                let name = format!("own/{}/{n}", self.slot);
                let page = self
                    .bus
                    .create_page(PageSpec::new(length as u64).name(&name))?;
                page.write(one)?;
                if n.is_multiple_of(3) {
                    self.bus.rename(page.id(), &format!("{name}/renamed"))?;
                }
                if n.is_multiple_of(5) {
                    self.bus.set_meta(page.id(), &[("made", &name)])?;
                }
                self.own.push(page);
            }
            _ if self.own.is_empty() => {}
            _ => {
                let gone = self.rng.below(self.own.len() as u64) as usize;
                let page = self.own.swap_remove(gone);
                self.bus.destroy(page.id())?;
            }
        }
        self.bytes = bytes;
        Ok(())
    }
}
