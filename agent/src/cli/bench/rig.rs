//! What the processes of a case have in common: the bus, their cores, how they wait for each other, what they check.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use mmsb::{Bus, Page};
use mmsb_benches::lines::{Line, Lines};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;

use crate::cli::exit::Failure;

/// Line by which the first process tells the second where it is.
pub const CONTROL: usize = 0;
/// Line by which the second process answers.
pub const ANSWER: usize = 1;
/// One more line for what the second process says.
pub const EXTRA: usize = 2;

/// The number that ends a conversation.
pub const END: u64 = u64::MAX;

/// What a process of a case is to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name of the case.
    pub case: String,
    /// Bytes of the case.
    pub bytes: usize,
    /// Directory of the bus.
    pub dir: PathBuf,
    /// Name of the bus.
    pub bus: String,
    /// Cores of the first and the second process.
    pub cpus: (usize, usize),
    /// How long to measure.
    pub budget: Duration,
    /// Descriptor of the lines, in a second process.
    pub lines: i32,
    /// Threads that write; 0 where that is not what the case is about.
    pub writers: usize,
    /// Directory on the disk, of this case alone.
    pub disk: Option<PathBuf>,
}

impl Job {
    /// The arguments of the hidden subcommand that runs this job in `role`.
    pub fn arguments(&self, role: &str) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> = vec!["--dir".into(), self.dir.clone().into()];
        let words = [
            "bench-worker".to_owned(),
            role.to_owned(),
            self.case.clone(),
            self.bytes.to_string(),
            self.bus.clone(),
            format!("{},{}", self.cpus.0, self.cpus.1),
            self.budget.as_millis().to_string(),
            self.lines.to_string(),
            getpid().as_raw_nonzero().to_string(),
        ];
        arguments.extend(words.map(Into::into));
        if self.writers > 0 {
            arguments.extend(["--writers".into(), self.writers.to_string().into()]);
        }
        if let Some(disk) = &self.disk {
            arguments.extend(["--disk".into(), disk.clone().into()]);
        }
        arguments
    }

    /// Creates the bus, with default settings.
    ///
    /// # Errors
    ///
    /// As [`mmsb::BusBuilder::create`].
    pub fn create(&self) -> Result<Bus, Failure> {
        Ok(Bus::builder(&self.bus)
            .dir(&self.dir)
            .source("bench")
            .create()?)
    }

    /// Whether there is little time.
    pub fn is_quick(&self) -> bool {
        self.budget.as_millis() < 300
    }

    /// The directory on the disk.
    ///
    /// # Errors
    ///
    /// If the case was given none.
    pub fn disk(&self) -> Result<&Path, Failure> {
        self.disk
            .as_deref()
            .ok_or_else(|| Failure::usage("this case needs --disk"))
    }

    /// Attaches to the bus.
    ///
    /// # Errors
    ///
    /// As [`mmsb::BusBuilder::attach`].
    pub fn attach(&self) -> Result<Bus, Failure> {
        Ok(Bus::builder(&self.bus)
            .dir(&self.dir)
            .source("bench-peer")
            .attach()?)
    }
}

/// Keeps this thread, and those it starts from now on, on one core.
///
/// # Errors
///
/// If the process may not run there.
pub fn pin(cpu: usize) -> Result<(), Failure> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(Failure::usage(format!("there is no core {cpu}")));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|error| Failure::problem(format!("cannot run on core {cpu}: {error}")))
}

/// Sees to it that this process ends with the one that started it: it polls, and would do so for ever.
///
/// # Errors
///
/// If that one is gone already.
pub fn end_with(parent: i32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::problem(error.to_string()))?;
    match getppid() {
        Some(pid) if pid.as_raw_nonzero().get() == parent => Ok(()),
        _ => Err(Failure::problem(
            "the process that started this one is gone",
        )),
    }
}

/// Says one line to the process that started this one.
///
/// # Errors
///
/// If nobody listens.
pub fn say(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// The second process of a case. Killed when dropped.
pub struct Peer {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// What kept it from that.
    pub fn start(job: &Job, lines: &Lines) -> Result<Peer, Failure> {
        let job = Job {
            lines: lines.number(),
            ..job.clone()
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(job.arguments("peer"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let Some(stdout) = child.stdout.take() else {
            return Err(Failure::problem("the second process has no output"));
        };
        let mut peer = Peer {
            child,
            stdout: BufReader::new(stdout),
        };
        let said = peer.hear()?;
        ensure(said == "ready", || {
            format!("the second process said {said:?}")
        })?;
        Ok(peer)
    }

    /// Its next line.
    ///
    /// # Errors
    ///
    /// What it failed of, or that it ended.
    pub fn hear(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            let status = self.child.wait()?;
            return Err(Failure::problem(format!(
                "the second process ended: {status}"
            )));
        }
        match line.strip_prefix("failed ") {
            Some(why) => Err(Failure::problem(format!("the second process: {why}"))),
            None => Ok(line.to_owned()),
        }
    }

    /// Its next line, which is JSON.
    ///
    /// # Errors
    ///
    /// As [`Peer::hear`], or that it is none.
    pub fn result(&mut self) -> Result<Value, Failure> {
        let line = self.hear()?;
        serde_json::from_str(&line)
            .map_err(|_| Failure::problem(format!("the second process said {line:?}")))
    }

    /// Polls until the line holds `value`.
    ///
    /// # Errors
    ///
    /// As [`Peer::hear`], if it ended or failed meanwhile.
    #[inline(always)]
    pub fn wait(&mut self, line: &Line, value: u64) -> Result<(), Failure> {
        loop {
            // Some milliseconds between two looks at whether the other side lives. No pause instruction: its length
            // would be measured too.
            for _ in 0..1 << 22 {
                if line.load() == value {
                    return Ok(());
                }
            }
            self.look()?;
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// As [`Peer::hear`], if not.
    #[cold]
    pub fn look(&mut self) -> Result<(), Failure> {
        if self.child.try_wait()?.is_none() {
            return Ok(());
        }
        // What it had to say about it.
        let said = self.hear()?;
        Err(Failure::problem(format!(
            "the second process ended after {said:?}"
        )))
    }

    /// Waits for its end, once it has nothing more to say. Only then is it certain to have left the bus: while somebody
    /// leaves, the bus may count that one's deltas twice.
    ///
    /// # Errors
    ///
    /// As [`Peer::hear`], if it failed after all.
    pub fn finish(mut self) -> Result<(), Failure> {
        let mut rest = String::new();
        self.stdout.read_line(&mut rest)?;
        let status = self.child.wait()?;
        ensure(status.success() && rest.is_empty(), || {
            format!("the second process ended: {status} {rest}")
        })
    }

    /// The process itself, for somebody who wants to kill it.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails with a sentence unless it is so.
///
/// # Errors
///
/// The sentence.
#[inline(always)]
pub fn ensure(is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if is_so {
        return Ok(());
    }
    Err(wrong(otherwise()))
}

#[cold]
fn wrong(what: String) -> Failure {
    Failure::problem(what)
}

/// Fails unless the page is in the state that its commits must have led to.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_page(page: &Page<'_>, epoch: u64, lsn: u64, bytes: &[u8]) -> Result<(), Failure> {
    let mut held = vec![0; page.size()];
    let version = page.read_into(&mut held)?;
    ensure((version.epoch, version.lsn) == (epoch, lsn), || {
        format!(
            "page {} is at epoch {} and LSN {}, and its commits ended at epoch {epoch} and LSN {lsn}",
            page.id(),
            version.epoch,
            version.lsn
        )
    })?;
    ensure(held == bytes, || {
        format!("page {} does not hold what was committed", page.id())
    })
}

/// Fails unless the log, at rest, is whole, applied, and has exactly `deltas` more than when `before` was counted.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_log(bus: &Bus, before: u64, deltas: u64) -> Result<(), Failure> {
    let (end, published, applied) = (bus.end_lsn(), bus.published_lsn()?, bus.applied_lsn()?);
    ensure((published, applied) == (end, end), || {
        format!("the log ends at {end}, is published to {published} and applied to {applied}")
    })?;
    let counted = bus.stats()?.deltas - before;
    ensure(counted == deltas, || {
        format!("the bus counted {counted} deltas, and {deltas} were committed")
    })
}

/// The number in the first eight bytes.
#[inline(always)]
pub fn word(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => 0,
    }
}
