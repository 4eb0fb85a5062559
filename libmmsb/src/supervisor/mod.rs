//! The supervisor of a bus: a thread that writes its log, checkpoints it, and keeps the log's directory in order.
//!
//! One supervisor per bus, by a kernel lock in the control segment. A program gets one with
//! [`BusBuilder::durable`](crate::BusBuilder::durable); `mmsb-agent` runs one for each of its buses. Any further one is a
//! **standby**: it takes over when the lock is free, so when the active one is dead or has left, and never when that is
//! only stopped.
//!
//! # What a death leaves
//! The log's place in the ring belongs to the bus, so nothing that is not on disk is overwritten while nobody supervises;
//! writers go on until the ring is full. A successor never writes into a file of its predecessor: it begins a new one at
//! the durable LSN, which ends the old one there, so whatever the kernel still finishes of the dead one's writes is
//! neither lost nor there twice.
//!
//! # Failures
//! After a failed write or sync nothing is called durable until the log is opened again, in a new file: at once
//! when there is room again after "no space left", and by [`Supervisor::reopen`] otherwise. Until then who waits for the
//! disk gets [`PageError::NotDurable`](crate::PageError::NotDurable), and writers
//! [`PageError::Backpressure`](crate::PageError::Backpressure) once the ring is full.

mod images;
mod upkeep;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mmsb_shm::segment::Core;
use mmsb_shm::{Participant, ParticipantConfig};

use crate::Bus;
use crate::checkpoint::{self, CheckpointInfo};
use crate::error::{Error, Result};
use crate::tlog::{Retention, WriterConfig, WriterStats};

pub(crate) use images::LiveImages;

/// When checkpoints are written, and how many are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointPolicy {
    /// At the latest so long after the last one, if anything was logged since.
    pub interval: Option<Duration>,
    /// Whenever the log has grown by so many bytes.
    pub log_bytes: Option<u64>,
    /// Checkpoints kept, at least 1.
    pub keep: u32,
    /// Threads that write one.
    pub threads: usize,
}

impl Default for CheckpointPolicy {
    fn default() -> CheckpointPolicy {
        CheckpointPolicy {
            interval: Some(Duration::from_secs(3600)),
            log_bytes: Some(1 << 30),
            keep: 2,
            threads: 2,
        }
    }
}

/// How a bus is supervised.
#[derive(Clone, Debug)]
pub struct SupervisorConfig {
    /// Directory of the log and the checkpoints, of this bus alone. Made if it is not there.
    pub dir: PathBuf,
    /// Greatest age of a delta that is not on its way to the disk; writers may ask for less.
    pub interval: Duration,
    /// The files.
    pub writer: WriterConfig,
    /// What may be removed. Whatever the oldest kept checkpoint needs stays; without a checkpoint everything does.
    pub retention: Retention,
    /// Whether files that are full are compressed.
    pub compress: bool,
    /// Checkpoints.
    pub checkpoint: CheckpointPolicy,
    /// How long to wait before the log is opened again after the disk was full. `None`: only
    /// [`Supervisor::reopen`] does.
    pub retry: Option<Duration>,
    /// Name of the supervisor among the participants of the bus.
    pub source: String,
}

impl SupervisorConfig {
    /// The defaults, for a log in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> SupervisorConfig {
        SupervisorConfig {
            dir: dir.into(),
            interval: Duration::from_millis(5),
            writer: WriterConfig::default(),
            retention: Retention::default(),
            compress: false,
            checkpoint: CheckpointPolicy::default(),
            retry: Some(Duration::from_secs(1)),
            source: "supervisor".into(),
        }
    }
}

/// What a supervisor is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It has not got so far.
    #[default]
    Starting,
    /// Another one supervises; it waits for its turn.
    Standby,
    /// It writes the log.
    Active,
    /// It has the bus, and its log failed.
    Failed,
    /// It has ended.
    Stopped,
}

/// What a supervisor says about itself.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SupervisorStatus {
    /// What it is doing.
    pub role: Role,
    /// Everything ahead of it is on disk.
    pub durable_lsn: u64,
    /// Next LSN that goes to the disk.
    pub position: u64,
    /// Blocks on their way to the disk.
    pub in_flight: usize,
    /// What went wrong last, if the log does not work now.
    pub last_error: Option<String>,
    /// What went wrong with the last checkpoint or with the upkeep of the directory, if it did.
    pub last_upkeep_error: Option<String>,
    /// The newest checkpoint.
    pub last_checkpoint: Option<CheckpointInfo>,
    /// Bytes of the checkpoint under way that are written, and how many there will be.
    pub checkpoint_progress: Option<(u64, u64)>,
    /// The files.
    pub log: WriterStats,
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// Dead participants that this supervisor recovered.
    pub recovered: u64,
    /// Rounds of its loop: who watches it sees that it moves.
    pub rounds: u64,
}

/// Between the handle and the threads.
struct Shared {
    core: Arc<Core>,
    config: Mutex<SupervisorConfig>,
    status: Mutex<SupervisorStatus>,
    /// The thread has said whether it is active, standby or failed.
    settled: Condvar,
    stop: AtomicBool,
    reopen: AtomicBool,
    /// Checkpoints asked for, and done.
    checkpoints_wanted: AtomicU64,
    checkpoint_done: Mutex<Option<(u64, std::result::Result<CheckpointInfo, String>)>>,
    checkpoint_said: Condvar,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is plain data, whole after every statement.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Shared {
    fn stopping(&self) -> bool {
        // Acquire: pairs with `Supervisor::end`.
        self.stop.load(Ordering::Acquire)
    }

    fn say(&self, f: impl FnOnce(&mut SupervisorStatus)) {
        f(&mut locked(&self.status));
    }

    fn set_role(&self, role: Role) {
        self.say(|s| s.role = role);
        self.settled.notify_all();
    }
}

/// A thread that supervises a bus, or waits for its turn to. Dropping it stops it, as [`Supervisor::stop`] does.
pub struct Supervisor {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("bus", &self.shared.core.name)
            .field("role", &self.status().role)
            .finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Begins to supervise the bus, as a participant of its own, or to wait for its turn. Returns once it is known which.
    ///
    /// A bus that has no log gets one. If it is not new, a checkpoint is written at once: the log alone would not tell
    /// what it held before.
    ///
    /// # Errors
    /// [`Error::Log`] if the directory holds the log of another bus, is damaged, or cannot be written;
    /// [`AttachError::TooManyParticipants`](crate::AttachError::TooManyParticipants).
    pub fn start(bus: &Bus, config: SupervisorConfig) -> Result<Supervisor> {
        Supervisor::start_on(Arc::clone(bus.core()), config)
    }

    pub(crate) fn start_on(core: Arc<Core>, config: SupervisorConfig) -> Result<Supervisor> {
        let participant = Participant::join(
            Arc::clone(&core),
            ParticipantConfig {
                name: config.source.clone(),
                timeout: Duration::from_secs(1),
                ..ParticipantConfig::default()
            },
        )?;
        let shared = Arc::new(Shared {
            core,
            config: Mutex::new(config),
            status: Mutex::default(),
            settled: Condvar::new(),
            stop: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            checkpoints_wanted: AtomicU64::new(0),
            checkpoint_done: Mutex::new(None),
            checkpoint_said: Condvar::new(),
        });
        let of = Arc::clone(&shared);
        let (first, outcome) = crossbeam_channel::bounded(1);
        let thread = std::thread::Builder::new()
            .name("mmsb-supervisor".into())
            .spawn(move || writing::run(&of, participant, &first))
            .map_err(|e| Error::io("start the supervisor's thread", e))?;
        let supervisor = Supervisor {
            shared,
            thread: Mutex::new(Some(thread)),
        };
        match outcome.recv() {
            Ok(Ok(())) => Ok(supervisor),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::io(
                "start the supervisor's thread",
                std::io::Error::other("it ended"),
            )),
        }
    }

    /// What it is doing.
    pub fn status(&self) -> SupervisorStatus {
        locked(&self.shared.status).clone()
    }

    /// Directory of the log.
    pub fn dir(&self) -> PathBuf {
        locked(&self.shared.config).dir.clone()
    }

    /// Waits until it is [active](Role::Active).
    ///
    /// Returns whether it is, after at most `timeout`.
    pub fn wait_active(&self, timeout: Duration) -> bool {
        let begin = Instant::now();
        let mut status = locked(&self.shared.status);
        while status.role != Role::Active {
            let Some(left) = timeout.checked_sub(begin.elapsed()) else {
                return false;
            };
            status = self
                .shared
                .settled
                .wait_timeout(status, left.min(Duration::from_millis(50)))
                .map_or_else(|e| e.into_inner().0, |(s, _)| s);
        }
        true
    }

    /// Writes a checkpoint now, and waits until it is in its place.
    ///
    /// # Errors
    /// [`Error::Checkpoint`]; [`Error::Supervisor`] if it is not active, or ends meanwhile.
    pub fn checkpoint(&self) -> Result<CheckpointInfo> {
        // SeqCst: the thread is woken behind it.
        let ticket = self
            .shared
            .checkpoints_wanted
            .fetch_add(1, Ordering::SeqCst)
            + 1;
        self.shared.core.wake_supervisor();
        let mut done = locked(&self.shared.checkpoint_done);
        loop {
            if let Some((n, result)) = &*done
                && *n >= ticket
            {
                return result.clone().map_err(Error::Supervisor);
            }
            let role = self.status().role;
            if !matches!(role, Role::Active | Role::Starting) {
                return Err(Error::Supervisor(format!(
                    "no checkpoint: this supervisor is {role:?}, not active"
                )));
            }
            done = self
                .shared
                .checkpoint_said
                .wait_timeout(done, Duration::from_millis(100))
                .map_or_else(|e| e.into_inner().0, |(d, _)| d);
        }
    }

    /// Takes another configuration. The directory stays what it is; sizes of files and backends count from the next file
    /// on, or from the next opening of the log.
    pub fn reload(&self, config: SupervisorConfig) {
        let mut now = locked(&self.shared.config);
        let dir = now.dir.clone();
        *now = SupervisorConfig { dir, ..config };
        drop(now);
        self.shared.core.wake_supervisor();
    }

    /// Opens the log again after a failure, at the durable LSN.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.shared.core.wake_supervisor();
    }

    /// Writes what is in the ring, seals the log, and ends. Nothing that was committed by then is lost.
    ///
    /// # Errors
    /// [`Error::Supervisor`] with the log's failure, if it could not write everything.
    pub fn stop(self) -> Result<()> {
        self.end();
        let status = self.status();
        match status.last_error {
            Some(error) => Err(Error::Supervisor(error)),
            None => Ok(()),
        }
    }

    fn end(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.core.wake_supervisor();
        if let Some(thread) = locked(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether `dir` holds a log.
pub(crate) fn has_log(dir: &Path) -> Result<bool> {
    if !dir.exists() {
        return Ok(false);
    }
    Ok(!crate::tlog::survey(dir)?.files.is_empty() || !checkpoint::list(dir)?.is_empty())
}
