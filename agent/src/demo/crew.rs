//! The demo's processes as their parent holds them: spawned, heard, stopped, killed, waited for.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::message::{Latency, Line, Message, histogram};

/// What a process of the demo does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Creates the bus and its pages, and ends.
    Setup,
    /// The gating subscriber with the reference model.
    Follow,
    /// The read-only observer.
    Observe,
    /// Writer of this number.
    Write(usize),
    /// Publisher of the sources whose number has this remainder.
    Publish(usize),
    /// Says now and then what the state of the running bus is, by hash.
    Witness,
    /// Reads from the segments of a bus whose processes are all dead how far its log was.
    Coroner,
    /// Compares a bus that was rebuilt with its log.
    Examine,
}

impl Role {
    /// The arguments that say it.
    pub fn arguments(self) -> Vec<String> {
        match self {
            Role::Setup => vec!["setup".into()],
            Role::Follow => vec!["follow".into()],
            Role::Observe => vec!["observe".into()],
            Role::Write(n) => vec!["write".into(), n.to_string()],
            Role::Publish(n) => vec!["publish".into(), n.to_string()],
            Role::Witness => vec!["witness".into()],
            Role::Coroner => vec!["coroner".into()],
            Role::Examine => vec!["examine".into()],
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Role::Setup => f.write_str("setup"),
            Role::Follow => f.write_str("subscriber"),
            Role::Observe => f.write_str("observer"),
            Role::Write(n) => write!(f, "writer {n}"),
            Role::Publish(n) => write!(f, "publisher {n}"),
            Role::Witness => f.write_str("witness"),
            Role::Coroner => f.write_str("coroner"),
            Role::Examine => f.write_str("examiner"),
        }
    }
}

/// What was acknowledged by pipe. Nothing here comes from the bus.
#[derive(Debug)]
pub struct Ledger {
    acked: Vec<AtomicU64>,
    lines: AtomicU64,
    strange: AtomicU64,
    regressed: AtomicU64,
    commits: Mutex<Histogram<u64>>,
}

impl Ledger {
    /// Nothing acknowledged on any stream.
    ///
    /// # Errors
    ///
    /// None in practice; the histogram's bounds are constants.
    pub fn new(streams: usize) -> Result<Ledger, hdrhistogram::errors::CreationError> {
        Ok(Ledger {
            acked: (0..streams).map(|_| AtomicU64::new(0)).collect(),
            lines: AtomicU64::new(0),
            strange: AtomicU64::new(0),
            regressed: AtomicU64::new(0),
            commits: Mutex::new(histogram()?),
        })
    }

    fn ack(&self, stream: usize, number: u64, ns: u64) {
        match self.acked.get(stream) {
            // Relaxed: read by the parent once it has joined the thread that stores here.
            Some(acked) => acked.fetch_max(number, Ordering::Relaxed),
            None => self.strange.fetch_add(1, Ordering::Relaxed),
        };
        self.lines.fetch_add(1, Ordering::Relaxed);
        if ns > 0 {
            let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
            commits.saturating_record(ns);
        }
    }

    #[cfg(test)]
    pub(super) fn ack_for_test(&self, stream: usize, number: u64) {
        self.ack(stream, number, 0);
    }

    /// Compares where a worker goes on with what its predecessors had acknowledged when it was started.
    fn resume(&self, before: &[u64], resumed: &[(usize, u64)]) {
        for (stream, number) in resumed {
            let acked = before.get(*stream).copied().unwrap_or(u64::MAX);
            self.regressed
                .fetch_add(acked.saturating_sub(*number), Ordering::Relaxed);
        }
    }

    /// Acknowledged deltas that a successor did not find.
    pub fn regressed(&self) -> u64 {
        self.regressed.load(Ordering::Relaxed)
    }

    /// The greatest number acknowledged on each stream.
    pub fn acked(&self) -> Vec<u64> {
        let load = |acked: &AtomicU64| acked.load(Ordering::Relaxed);
        self.acked.iter().map(load).collect()
    }

    /// Acknowledgements received.
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }

    /// Lines that no worker writes.
    pub fn strange(&self) -> u64 {
        self.strange.load(Ordering::Relaxed)
    }

    /// How long commits took, as their writers measured.
    pub fn commits(&self) -> Latency {
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        Latency::from(&*commits)
    }
}

/// A message and the worker it came from.
#[derive(Debug)]
pub struct Heard {
    /// Number of the worker; each process has another.
    pub worker: u64,
    /// What it said.
    pub message: Message,
}

/// How to start workers.
#[derive(Debug)]
pub struct Crew {
    /// The program: this one.
    pub program: PathBuf,
    /// Arguments ahead of the role: the hidden subcommand, the bus, the cast.
    pub arguments: Vec<String>,
    /// Where acknowledgements go.
    pub ledger: Arc<Ledger>,
    /// Where messages go.
    pub heard: Sender<Heard>,
    /// When the demo began.
    pub begin: Instant,
    /// Number of the next worker.
    pub next: u64,
}

/// A process of the demo.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub number: u64,
    /// What it does.
    pub role: Role,
    /// Whether it has said that it is at work.
    pub is_ready: bool,
    /// Until when it is stopped.
    pub stopped_until: Option<Instant>,
    child: Child,
    stdin: Option<ChildStdin>,
    reader: Option<JoinHandle<()>>,
    /// Milliseconds from the begin of the demo to its last line.
    last_line_ms: Arc<AtomicU64>,
}

impl Crew {
    /// Starts a worker, and a thread that reads what it says until its end.
    ///
    /// # Errors
    ///
    /// What the kernel said to starting either.
    pub fn start(&mut self, role: Role) -> std::io::Result<Worker> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args(role.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let number = self.next;
        self.next += 1;
        // The reader of its predecessor has ended, so this is that one's last word.
        let before = self.ledger.acked();
        let last_line_ms = Arc::new(AtomicU64::new(self.begin.elapsed().as_millis() as u64));
        let reader = child.stdout.take().map(|stdout| {
            let (ledger, heard) = (Arc::clone(&self.ledger), self.heard.clone());
            let (last, begin) = (Arc::clone(&last_line_ms), self.begin);
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stdout);
                let mut line = String::new();
                while matches!(lines.read_line(&mut line), Ok(n) if n > 0) {
                    // Relaxed: only looked at to see whether it moves.
                    last.store(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
                    match Line::parse(line.trim_end_matches('\n')) {
                        Some(Line::Ack { stream, number, ns }) => ledger.ack(stream, number, ns),
                        Some(Line::Message(message)) => {
                            if let Message::Ready { resumed } = &*message {
                                ledger.resume(&before, resumed);
                            }
                            // The parent listens until all workers have ended; if not, nobody cares.
                            let _ = heard.send(Heard {
                                worker: number,
                                message: *message,
                            });
                        }
                        None => {
                            ledger.strange.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    line.clear();
                }
            })
        });
        Ok(Worker {
            number,
            role,
            is_ready: false,
            stopped_until: None,
            stdin: child.stdin.take(),
            child,
            reader,
            last_line_ms,
        })
    }
}

impl Worker {
    fn signal(&self, signal: Signal) -> bool {
        // The child is not reaped before `end`, so its number is still its own.
        i32::try_from(self.child.id()).is_ok_and(|pid| kill(Pid::from_raw(pid), signal).is_ok())
    }

    /// Stops it until then.
    pub fn stop(&mut self, until: Instant) {
        if self.signal(Signal::SIGSTOP) {
            self.stopped_until = Some(until);
        }
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.signal(Signal::SIGCONT);
        self.stopped_until = None;
    }

    /// Sends it SIGKILL, and does not wait for what comes of it.
    pub fn strike(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Kills it, and returns once it is dead and everything that it said was heard.
    pub fn kill(mut self) {
        // Fails only for a child that is dead already.
        let _ = self.child.kill();
        self.finish();
    }

    /// Asks it to end, by closing the pipe.
    pub fn ask_to_end(&mut self) {
        self.stdin = None;
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end, for at most so long. `None`: it did not end, and was killed.
    pub fn wait(mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.ended() {
                self.finish();
                return Some(status);
            }
            if Instant::now() >= deadline {
                self.kill();
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// How long it has said nothing.
    pub fn silent_for(&self, begin: Instant) -> Duration {
        let last = Duration::from_millis(self.last_line_ms.load(Ordering::Relaxed));
        begin.elapsed().saturating_sub(last)
    }

    /// Marks it as heard now, after a time in which it could not speak.
    pub fn forgive(&self, begin: Instant) {
        self.last_line_ms
            .store(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn finish(&mut self) {
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// No process outlives the demo, whatever ends it.
impl Drop for Worker {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.child.kill();
            self.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_keeps_the_greatest_number_of_each_stream() {
        let ledger = Ledger::new(2).unwrap();
        ledger.ack(0, 5, 100);
        ledger.ack(0, 3, 0);
        ledger.ack(1, 1, 200);
        ledger.ack(7, 1, 0);
        assert_eq!(ledger.acked(), [5, 1]);
        assert_eq!((ledger.lines(), ledger.strange()), (4, 1));
        assert_eq!(ledger.commits().count, 2);
        ledger.resume(&[5, 1], &[(0, 5), (1, 2)]);
        assert_eq!(ledger.regressed(), 0);
        ledger.resume(&[5, 1], &[(0, 3)]);
        assert_eq!(ledger.regressed(), 2);
    }
}
