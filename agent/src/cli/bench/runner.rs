//! Runs a case: the floor, the processes, the floor again; and cleans up, whatever happens.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mmsb::{AttachError, Bus, Error};
use mmsb_benches::disk;
use mmsb_benches::floor::{self, Effort};
use serde::{Deserialize, Serialize};

use super::catalogue::{Case, Floor};
use super::report::{Floors, Result as RowResult, Row};
use super::rig::Job;
use super::samples::Measured;
use crate::cli::exit::Failure;
use crate::cli::signals::Stop;

/// Longest that a process of a case may take: far more than any does, also on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs cases.
pub struct Runner {
    /// Directory of the buses.
    pub dir: PathBuf,
    /// Cores of the two processes.
    pub cpus: (usize, usize),
    /// Whether to be quick about it.
    pub quick: bool,
    /// Whether somebody wants an end.
    pub stop: Stop,
    /// Directory on the disk; for cases that have to do with it.
    pub disk: Option<PathBuf>,
}

/// Name of the bus that a case with a log compares itself with.
pub fn unlogged(bus: &str) -> String {
    format!("{bus}-unlogged")
}

/// Removes the bus of a case, and its log, when dropped.
struct Leftovers<'r> {
    dir: &'r PathBuf,
    bus: String,
    disk: Option<PathBuf>,
}

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        for bus in [&self.bus, &unlogged(&self.bus)] {
            match Bus::unlink_in(self.dir, bus) {
                // It never came to be.
                Ok(()) | Err(Error::Attach(AttachError::Missing { .. })) => {}
                Err(error) => eprintln!("mmsb: bus {bus} could not be removed: {error}"),
            }
        }
        if let Some(disk) = &self.disk
            && let Err(error) = std::fs::remove_dir_all(disk)
        {
            eprintln!("mmsb: {} could not be removed: {error}", disk.display());
        }
    }
}

/// A process of a case. Killed when dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Runner {
    /// Measures a case, and the floor around it.
    ///
    /// # Errors
    ///
    /// Only what ends the whole run: that somebody interrupted it, or that the floor cannot be measured.
    pub fn run(&self, case: &'static Case) -> Result<Row, Failure> {
        let job = self.job(case);
        let mut floors = Floors::default();
        let _leftovers = Leftovers {
            dir: &self.dir,
            bus: job.bus.clone(),
            disk: job.disk.clone(),
        };
        if let Some(disk) = &job.disk {
            std::fs::create_dir(disk)?;
        }
        self.floors(case, &mut floors.before, &mut floors.line_before)?;
        let result = self.worker(&job, "lead");
        let result = match result {
            Ok(line) => match line.strip_prefix("skipped ") {
                Some(why) => RowResult::Skipped(why.to_owned()),
                None => match serde_json::from_str::<Measured>(&line) {
                    Ok(measured) => RowResult::Measured(measured),
                    Err(_) => RowResult::Failed(format!("the process said {line:?}")),
                },
            },
            Err(failure) if self.stop.is_requested() => return Err(failure),
            Err(failure) => RowResult::Failed(failure.message),
        };
        if matches!(result, RowResult::Measured(_)) {
            if let Some(disk) = &job.disk {
                // What the case wrote is thrown away first: the disk has nothing else to do then.
                std::fs::remove_dir_all(disk)?;
                std::fs::create_dir(disk)?;
            }
            self.floors(case, &mut floors.after, &mut floors.line_after)?;
        }
        Ok(Row::new(case, floors, result))
    }

    fn job(&self, case: &Case) -> Job {
        let bus = format!("bench-{}-{}-{}", std::process::id(), case.name, case.bytes);
        let disk = self.disk.as_ref().filter(|_| case.is_durable);
        // Of what is large, a sixty-fourth is enough to see that it works.
        let bytes = match self.quick && case.is_durable && case.bytes >= 1 << 30 {
            true => case.bytes / 64,
            false => case.bytes,
        };
        Job {
            case: case.name.to_owned(),
            bytes,
            dir: self.dir.clone(),
            disk: disk.map(|disk| disk.join(&bus)),
            bus,
            writers: case.writers.unwrap_or(0),
            cpus: self.cpus,
            budget: Duration::from_millis(if self.quick { 100 } else { 600 }),
            lines: -1,
        }
    }

    /// The floor of the case, and for one that answers by a line, what the line takes.
    fn floors(
        &self,
        case: &Case,
        floor: &mut Option<FloorFigures>,
        line: &mut Option<FloorFigures>,
    ) -> Result<(), Failure> {
        let measure = |floor: Floor| -> Result<Option<FloorFigures>, Failure> {
            let (name, bytes, writers) = match floor {
                Floor::Line(bytes) => ("line", bytes, 0),
                Floor::Copy(bytes) => ("copy", bytes, 0),
                Floor::Wake => ("wake", 0, 0),
                Floor::DiskWrite => ("disk_write", 0, 0),
                Floor::GroupCommit(threads) => ("disk_group", case.bytes, threads),
                Floor::DiskStream => ("disk_stream", self.job(case).bytes, 0),
                Floor::Teardown | Floor::Unlogged | Floor::ReadCached | Floor::ReadDisk => {
                    return Ok(None);
                }
            };
            let job = Job {
                case: name.to_owned(),
                bytes,
                writers,
                ..self.job(case)
            };
            let text = self.worker(&job, "floor")?;
            match serde_json::from_str::<FloorFigures>(&text) {
                Ok(figures) if figures.ns > 0.0 => Ok(Some(figures)),
                _ => Err(Failure::problem(format!("the floor said {text:?}"))),
            }
        };
        *floor = measure(case.floor)?;
        *line = match case.floor {
            _ if !case.is_one_way => None,
            Floor::Line(8) => floor.clone(),
            _ => measure(Floor::Line(8))?,
        };
        Ok(())
    }

    /// Runs a process, and returns its last line.
    fn worker(&self, job: &Job, role: &str) -> Result<String, Failure> {
        let child = Command::new(std::env::current_exe()?)
            .args(job.arguments(role))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut worker = Worker(child);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if self.stop.is_requested() {
                return Err(interrupted());
            }
            if let Some(status) = worker.0.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                return Err(Failure::problem(format!(
                    "it did not end in {} s",
                    PATIENCE.as_secs()
                )));
            }
            // Wakes up on one of its cores, so seldom.
            std::thread::sleep(Duration::from_millis(10));
        };
        // Ctrl-C goes to all processes of the terminal; this one's thread may not have come to note it yet.
        if matches!(status.signal(), Some(1 | 2 | 15)) {
            self.stop.request();
            return Err(interrupted());
        }
        let mut said = String::new();
        if let Some(stdout) = &mut worker.0.stdout {
            stdout.read_to_string(&mut said)?;
        }
        // Whoever says more than a line and a half of figures would have filled the pipe and not ended.
        let line = said.lines().last().unwrap_or_default();
        match line.strip_prefix("failed ") {
            Some(why) => Err(Failure::problem(why)),
            None if status.success() && !line.is_empty() => Ok(line.to_owned()),
            None => Err(Failure::problem(format!("its process ended: {status}"))),
        }
    }
}

fn interrupted() -> Failure {
    Failure::problem("interrupted")
}

/// What a floor is, on its way from the process that measured it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FloorFigures {
    /// One operation, in nanoseconds.
    pub ns: f64,
    /// More figures of it, by name.
    #[serde(default)]
    pub more: BTreeMap<String, f64>,
}

impl FloorFigures {
    fn with(mut self, name: &str, figure: f64) -> FloorFigures {
        self.more.insert(name.to_owned(), figure);
        self
    }
}

impl From<f64> for FloorFigures {
    fn from(ns: f64) -> FloorFigures {
        FloorFigures {
            ns,
            more: BTreeMap::new(),
        }
    }
}

/// Measures a floor.
///
/// # Errors
///
/// As [`floor::one_way_ns_on`], and the functions of [`disk`].
pub fn floor(job: &Job) -> Result<FloorFigures, Failure> {
    // Large messages take long enough one by one.
    let is_quick = job.is_quick();
    let (rounds, samples) = match (job.bytes > 4096, is_quick) {
        (true, true) => (2, 31),
        (true, false) => (5, 61),
        (false, true) => (3, 101),
        (false, false) => (9, 301),
    };
    Ok(match job.case.as_str() {
        "line" => floor::one_way_ns_on(job.cpus, job.bytes, Effort { rounds, samples })?.into(),
        "wake" => floor::futex_wake_ns_on(job.cpus, 10 * samples as u32)?.into(),
        "copy" => {
            super::rig::pin(job.cpus.0)?;
            floor::memcpy_ns(job.bytes).into()
        }
        "disk_write" => disk_write(job)?,
        "disk_group" => {
            // A slot of header and the payload: what the log has of a patch.
            let times = disk::group_commit(
                job.disk()?,
                job.writers,
                64 + job.bytes.next_multiple_of(64),
                job.budget,
            )?;
            // Noise only ever adds.
            let write = times.writes.p50_ns.min(disk_write(job)?.ns);
            FloorFigures::from(times.commits.p50_ns)
                .with("floor_per_second", times.commits.per_second)
                .with("write_ns", write)
        }
        "disk_stream" => {
            // As large as what is measured, at least where that is given.
            let bytes = match (is_quick, job.bytes as u64) {
                (true, _) => 16 << 20,
                (false, bytes @ 0x1000_0000..) => bytes,
                (false, _) => 1 << 30,
            };
            let rate = disk::sequential_write(job.disk()?, bytes)?;
            FloorFigures::from(1e9 / rate).with("disk_bytes_per_second", rate)
        }
        other => return Err(Failure::usage(format!("there is no floor {other:?}"))),
    })
}

fn disk_write(job: &Job) -> Result<FloorFigures, Failure> {
    let writes = disk::write_ns(job.disk()?, job.budget)?;
    let figures = FloorFigures::from(writes.least_ns())
        .with("floor_pwritev2_ns", writes.plain.p50_ns)
        .with("floor_p99_ns", writes.plain.p99_ns);
    Ok(match writes.uring {
        Some(uring) => figures.with("floor_io_uring_ns", uring.p50_ns),
        None => figures,
    })
}
