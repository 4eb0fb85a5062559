//! The one place where the agent meets the supervisor of the `mmsb` crate.
//!
//! Everything else of the daemon knows a log as the plain values here: [`LogSeen`] is what any process reads about it from
//! the segments, [`Supervised`] what this process knows as its supervisor.

use std::time::Duration;

use mmsb::supervisor::{CheckpointPolicy, Role as Library, Supervisor, SupervisorConfig};
use mmsb::tlog::{Retention, WriterConfig};
use mmsb::{
    Bus, BusBuilder, Durability, Error, LogCounter, LogState as State, LogStatus, Observer,
};

use super::config::{DefaultDurability, LogConfig};
use crate::sampling::Log2Micros;

/// How a log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogState {
    /// The bus is volatile.
    #[default]
    None,
    /// Deltas go to disk.
    Running,
    /// The kernel refused a write or a sync, with this error number: nothing since is durable.
    Failed {
        /// The error number.
        errno: i32,
    },
    /// The last supervisor ended in order.
    Closed,
}

impl LogState {
    /// The name in metrics, JSON and on pages.
    pub fn name(self) -> &'static str {
        match self {
            LogState::None => "none",
            LogState::Running => "running",
            LogState::Failed { .. } => "failed",
            LogState::Closed => "closed",
        }
    }
}

/// What any process can see of the log of a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSeen {
    /// How it is.
    pub state: LogState,
    /// Whether somebody supervises the bus now; `None`: an observer cannot tell.
    pub supervised: Option<bool>,
    /// Everything ahead of it is on disk.
    pub durable_lsn: u64,
    /// First LSN that the log still holds.
    pub from_lsn: u64,
    /// LSN that the newest checkpoint holds; 0: none.
    pub checkpoint_lsn: u64,
    /// CLOCK_REALTIME of the newest checkpoint, ns; 0: none.
    pub checkpoint_ns: u64,
    /// Bytes of the newest checkpoint.
    pub checkpoint_bytes: u64,
    /// How long the newest checkpoint took.
    pub checkpoint_took: Duration,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Durable writes.
    pub writes: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Writes, syncs and new files that failed.
    pub errors: u64,
    /// Supervisors that took over from a dead one.
    pub takeovers: u64,
    /// Log files begun.
    pub files: u64,
    /// Bytes that the log has on disk.
    pub disk_bytes: u64,
    /// How long each write took.
    pub write_times: Log2Micros,
}

impl LogSeen {
    fn of(status: &LogStatus) -> LogSeen {
        let counter = |which| status.counter(which);
        LogSeen {
            state: match status.state {
                State::None => LogState::None,
                State::Failed(errno) => LogState::Failed {
                    errno: i32::try_from(errno).unwrap_or(0),
                },
                // Who waits for the first checkpoint sees that nothing is durable yet, from the lag.
                State::Running | State::Beginning => LogState::Running,
                State::Closed => LogState::Closed,
            },
            supervised: status.supervised,
            durable_lsn: status.durable_lsn,
            from_lsn: status.from_lsn,
            checkpoint_lsn: status.checkpoint_lsn,
            checkpoint_ns: status.checkpoint_ns,
            checkpoint_bytes: counter(LogCounter::CheckpointBytes),
            checkpoint_took: Duration::from_micros(counter(LogCounter::CheckpointMicros)),
            checkpoints: counter(LogCounter::Checkpoints),
            writes: counter(LogCounter::Writes),
            bytes: counter(LogCounter::Bytes),
            records: counter(LogCounter::Records),
            errors: counter(LogCounter::Errors),
            takeovers: counter(LogCounter::Takeovers),
            files: counter(LogCounter::Files),
            disk_bytes: counter(LogCounter::LogBytes),
            write_times: Log2Micros {
                counts: status.write_times().to_vec(),
                sum_us: counter(LogCounter::WriteMicros),
            },
        }
    }
}

/// Who this process is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is not known yet.
    Starting,
    /// It writes the log.
    Active,
    /// Another process writes it; this one takes over when that ends.
    Standby,
    /// It has the bus, and its log failed.
    Failed,
    /// It has ended.
    Stopped,
}

impl Role {
    /// The name in metrics, JSON and on pages.
    pub fn name(self) -> &'static str {
        match self {
            Role::Starting => "starting",
            Role::Active => "active",
            Role::Standby => "standby",
            Role::Failed => "failed",
            Role::Stopped => "stopped",
        }
    }
}

/// What this process knows as a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervised {
    /// Who it is.
    pub role: Role,
    /// Writes on their way to the disk.
    pub in_flight: u64,
    /// What went wrong, if the log does not work now.
    pub error: Option<String>,
    /// What went wrong with the last checkpoint or with keeping the directory in order.
    pub upkeep_error: Option<String>,
    /// Bytes of the checkpoint under way that are written, and how many there will be.
    pub checkpoint_progress: Option<(u64, u64)>,
    /// Rounds of its thread.
    pub rounds: u64,
}

/// A supervisor of one bus in this process.
#[derive(Debug)]
pub enum Supervision {
    /// Started on a bus that was there.
    Own(Supervisor),
    /// The bus was made with it, so that the log has everything from the first record on.
    OfBus,
}

impl Supervision {
    /// Starts writing the log of `bus`, or waits as standby while somebody else does.
    ///
    /// # Errors
    ///
    /// Why the log cannot be written.
    pub fn start(bus: &Bus, log: &LogConfig) -> Result<Supervision, Error> {
        Supervisor::start(bus, config_of(log)).map(Supervision::Own)
    }

    /// The one that came with a bus from [`durable`].
    pub fn of(bus: &Bus) -> Option<Supervision> {
        bus.supervisor().map(|_| Supervision::OfBus)
    }

    fn supervisor<'a>(&'a self, bus: &'a Bus) -> Option<&'a Supervisor> {
        match self {
            Supervision::Own(supervisor) => Some(supervisor),
            Supervision::OfBus => bus.supervisor(),
        }
    }

    /// How it is going.
    pub fn state(&self, bus: &Bus) -> Supervised {
        let status = self
            .supervisor(bus)
            .map(Supervisor::status)
            .unwrap_or_default();
        Supervised {
            role: match status.role {
                Library::Starting => Role::Starting,
                Library::Active => Role::Active,
                Library::Standby => Role::Standby,
                Library::Failed => Role::Failed,
                Library::Stopped => Role::Stopped,
            },
            in_flight: status.in_flight as u64,
            error: status.last_error,
            upkeep_error: status.last_upkeep_error,
            checkpoint_progress: status.checkpoint_progress,
            rounds: status.rounds,
        }
    }

    /// Goes on with other settings, and opens the log again if it failed.
    pub fn reload(&self, bus: &Bus, log: &LogConfig) {
        if let Some(supervisor) = self.supervisor(bus) {
            supervisor.reload(config_of(log));
            if supervisor.status().role == Library::Failed {
                supervisor.reopen();
            }
        }
    }

    /// Writes what is committed, seals the log, ends; then leaves the bus.
    ///
    /// # Errors
    ///
    /// What could not be written.
    pub fn stop(self, bus: Bus) -> Result<(), Error> {
        match self {
            Supervision::Own(supervisor) => supervisor.stop(),
            Supervision::OfBus => bus.close(),
        }
    }
}

fn config_of(log: &LogConfig) -> SupervisorConfig {
    let usual = CheckpointPolicy::default();
    let checkpoint = &log.checkpoint;
    SupervisorConfig {
        interval: log.interval,
        writer: WriterConfig {
            segment_bytes: log.segment_bytes,
            ..WriterConfig::default()
        },
        retention: Retention {
            bytes: log.retention.bytes.map(|size| size.0),
            age: log.retention.age.map(|age| age.0),
            keep_from: log.retention.keep_from,
        },
        compress: log.compress,
        checkpoint: CheckpointPolicy {
            // Zero: not by this rule.
            interval: checkpoint
                .interval
                .map_or(usual.interval, |time| (!time.0.is_zero()).then_some(time.0)),
            log_bytes: checkpoint
                .log_bytes
                .map_or(usual.log_bytes, |size| (size.0 > 0).then_some(size.0)),
            keep: checkpoint.keep.unwrap_or(usual.keep),
            ..usual
        },
        source: "mmsb-agent log".to_owned(),
        ..SupervisorConfig::new(&log.dir)
    }
}

fn durability_of(log: &LogConfig) -> Option<Durability> {
    log.durability.map(|durability| match durability {
        DefaultDurability::Volatile => Durability::Volatile,
        DefaultDurability::Buffered => Durability::Buffered(log.interval),
        DefaultDurability::Synced => Durability::Synced,
    })
}

/// A builder that makes the bus with a supervisor, and rebuilds it from its log if there is one.
pub fn durable(builder: BusBuilder, log: &LogConfig) -> BusBuilder {
    let builder = builder.supervise(config_of(log));
    match durability_of(log) {
        Some(durability) => builder.durability(durability),
        None => builder,
    }
}

/// Gives writers who attach from now on, and say nothing, the durability of the configuration, if it has one.
pub fn set_durability(bus: &Bus, log: &LogConfig) {
    if let Some(durability) = durability_of(log) {
        bus.set_default_durability(durability);
    }
}

/// What a participant sees of the log.
pub fn log_of(bus: &Bus) -> LogSeen {
    LogSeen::of(&bus.log_status())
}

/// What an observer sees of the log.
pub fn log_of_observer(observer: &Observer) -> LogSeen {
    LogSeen::of(&observer.log_status())
}

/// Waits until everything ahead of `end` is on disk; `false` if that takes longer than `timeout`, or the log failed.
pub fn wait_durable(bus: &Bus, end: u64, timeout: Duration) -> bool {
    bus.wait_durable(end.saturating_sub(1), timeout).is_ok()
}

/// Ends a bus whose segments lost their names, for all who are attached: their next commit answers that the bus is gone, and
/// everything that was committed is still written to the log.
///
/// # Errors
///
/// That a living writer stands still inside a commit.
pub fn abandon(bus: &Bus) -> Result<(), Error> {
    Ok(bus.participant().abandon_bus()?)
}
