//! Runs a case: the floor, the processes, the floor again; and cleans up, whatever happens.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mmsb::{AttachError, Bus, Error};
use mmsb_benches::floor::{self, Effort};

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
}

/// Removes the bus of a case when dropped.
struct Leftovers<'r> {
    dir: &'r PathBuf,
    bus: String,
}

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        match Bus::unlink_in(self.dir, &self.bus) {
            // It never came to be.
            Ok(()) | Err(Error::Attach(AttachError::Missing { .. })) => {}
            Err(error) => eprintln!("mmsb: bus {} could not be removed: {error}", self.bus),
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
        self.floors(case, &mut floors.before, &mut floors.line_before)?;
        let result = {
            let _leftovers = Leftovers {
                dir: &self.dir,
                bus: job.bus.clone(),
            };
            self.worker(&job, "lead")
        };
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
            self.floors(case, &mut floors.after, &mut floors.line_after)?;
        }
        Ok(Row::new(case, floors, result))
    }

    fn job(&self, case: &Case) -> Job {
        Job {
            case: case.name.to_owned(),
            bytes: case.bytes,
            dir: self.dir.clone(),
            bus: format!("bench-{}-{}-{}", std::process::id(), case.name, case.bytes),
            cpus: self.cpus,
            budget: Duration::from_millis(if self.quick { 100 } else { 600 }),
            lines: -1,
        }
    }

    /// The floor of the case, and for one that answers by a line, what the line takes.
    fn floors(
        &self,
        case: &Case,
        floor: &mut Option<f64>,
        line: &mut Option<f64>,
    ) -> Result<(), Failure> {
        let measure = |floor: Floor| -> Result<Option<f64>, Failure> {
            let (name, bytes) = match floor {
                Floor::Line(bytes) => ("line", bytes),
                Floor::Copy(bytes) => ("copy", bytes),
                Floor::Wake => ("wake", 0),
                Floor::Teardown => return Ok(None),
            };
            let job = Job {
                case: name.to_owned(),
                bytes,
                ..self.job(case)
            };
            let text = self.worker(&job, "floor")?;
            match text.parse::<f64>() {
                Ok(ns) if ns > 0.0 => Ok(Some(ns)),
                _ => Err(Failure::problem(format!("the floor said {text:?}"))),
            }
        };
        *floor = measure(case.floor)?;
        *line = match case.floor {
            _ if !case.is_one_way => None,
            Floor::Line(8) => *floor,
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

/// Measures a floor, in nanoseconds.
///
/// # Errors
///
/// As [`floor::one_way_ns_on`].
pub fn floor(job: &Job) -> Result<f64, Failure> {
    // Large messages take long enough one by one.
    let (rounds, samples) = match (job.bytes > 4096, job.budget.as_millis() < 300) {
        (true, true) => (2, 31),
        (true, false) => (5, 61),
        (false, true) => (3, 101),
        (false, false) => (9, 301),
    };
    Ok(match job.case.as_str() {
        "line" => floor::one_way_ns_on(job.cpus, job.bytes, Effort { rounds, samples })?,
        "wake" => floor::futex_wake_ns_on(job.cpus, 10 * samples as u32)?,
        "copy" => {
            super::rig::pin(job.cpus.0)?;
            floor::memcpy_ns(job.bytes)
        }
        other => return Err(Failure::usage(format!("there is no floor {other:?}"))),
    })
}
