//! What a write promises when it returns, and how the log that keeps the promise is.

use std::time::Duration;

use mmsb_shm::Pages;
use mmsb_shm::log::{LogCounter, LogInfo, LogState};

/// What a write promises when it returns. Deltas of all kinds share one order and one log: a later one is never durable
/// without the earlier ones.
///
/// | | the death of every process | a power cut, a reboot |
/// | --- | --- | --- |
/// | `Volatile` | survived | lost, unless it was in the log by chance |
/// | `Buffered(age)` | survived | survived if it happens later than `age` after the write |
/// | `Synced` | survived | survived |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing about the disk. If the bus has a log, the delta gets there with the others.
    #[default]
    Volatile,
    /// The delta is on its way to the disk within this time; the write does not wait for it. An age longer than the
    /// interval of the supervisor is the supervisor's.
    Buffered(Duration),
    /// The delta is on disk. The write waits for it, and fails with
    /// [`PageError::NotDurable`](crate::PageError::NotDurable) if that does not come about.
    Synced,
}

impl Durability {
    pub(crate) fn from_word(word: u32) -> Durability {
        match word {
            1 => Durability::Buffered(Duration::MAX),
            2 => Durability::Synced,
            _ => Durability::Volatile,
        }
    }

    pub(crate) fn to_word(self) -> u32 {
        match self {
            Durability::Volatile => 0,
            Durability::Buffered(_) => 1,
            Durability::Synced => 2,
        }
    }
}

/// The log of a bus, as anybody sees it who can read the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStatus {
    /// How it is.
    pub state: LogState,
    /// Whether somebody supervises the bus; `None`: an observer cannot tell.
    pub supervised: Option<bool>,
    /// Everything ahead of it is on disk; 0: the bus has no log.
    pub durable_lsn: u64,
    /// Where the ring ends.
    pub end_lsn: u64,
    /// First LSN that the log still holds.
    pub from_lsn: u64,
    /// Incarnation of the bus.
    pub incarnation: u64,
    /// Where this incarnation begins.
    pub fork_lsn: u64,
    /// LSN that the newest checkpoint holds; 0: none.
    pub checkpoint_lsn: u64,
    /// CLOCK_REALTIME of the newest checkpoint, ns.
    pub checkpoint_ns: u64,
    /// Random id of the log.
    pub log_id: [u64; 2],
    /// Greatest age of a delta that is not on its way to the disk.
    pub flush: Duration,
    /// Time of one small durable write, as last seen.
    pub write: Duration,
    info: LogInfo,
}

impl LogStatus {
    pub(crate) fn of(pages: &Pages, supervised: Option<bool>) -> LogStatus {
        let info = pages.log_info();
        LogStatus {
            state: info.state,
            supervised,
            durable_lsn: info.durable_lsn,
            end_lsn: pages.end_lsn(),
            from_lsn: info.from,
            incarnation: info.incarnation,
            fork_lsn: info.fork_lsn,
            checkpoint_lsn: info.checkpoint_lsn,
            checkpoint_ns: info.checkpoint_ns,
            log_id: info.log_id,
            flush: info.flush,
            write: info.write,
            info,
        }
    }

    /// LSNs between the disk and the end of the ring.
    pub fn lag(&self) -> u64 {
        match self.state {
            LogState::None => 0,
            _ => self.end_lsn.saturating_sub(self.durable_lsn),
        }
    }

    /// One of the supervisor's counters.
    pub fn counter(&self, which: LogCounter) -> u64 {
        self.info.counter(which)
    }

    /// Durable writes by duration: the i-th number counts those that took less than 2^i microseconds and not less than
    /// half of that; the last one also whatever took longer.
    pub fn write_times(&self) -> &[u64] {
        self.info.write_times()
    }
}
