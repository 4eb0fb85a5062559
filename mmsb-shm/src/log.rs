//! What the log and the bus have to do with each other in shared memory: the log's place in the ring, who supervises,
//! who waits for the disk. The files are none of this crate's business.
//!
//! # The log's place
//! `log_position` is a gating cursor that belongs to the bus, not to a participant: it stays where it is when its
//! supervisor dies, so nothing that is not on disk is overwritten, and the next supervisor goes on there (PROTOCOL D3). A
//! kernel lock of its own says whether anybody supervises; a stopped supervisor holds it and is never
//! replaced.
//!
//! ```text
//! supervisor:  copy groups from the ring    write them    durable_lsn = end    log_position = end    wake waiters
//! ```
//!
//! Death ahead of `durable_lsn = end`: the records are still held in the ring, and the successor writes them again, into
//! a file of its own; the log ends the dead one's file where that begins. Death between the two stores: the successor
//! begins at `durable_lsn`, which is never behind `log_position`.
//!
//! # Waiting for the disk
//! A waiter raises `sync_wanted`, wakes the supervisor if that sleeps, and waits for `durable_lsn`: first without
//! sleeping, for about as long as the disk takes for a small write, then on `durable_bell`. Both sleeps follow the
//! argument of the doorbell.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::blocks;
use crate::doorbell;
use crate::error::{Corrupt, PageError};
use crate::layout::page::BlockRef;
use crate::layout::ring::{Kind, SLOT_BYTES, SlotState, Stamp};
use crate::layout::segment::{LOG_COUNTERS, PagesHeader, STATE_ABANDONED};
use crate::participant::{Locked, Participant, spin_until};
use crate::ring::{Claim, Seen, load_lsn, record};
use crate::segment::{Core, LOCK_SUPERVISOR, Pages};
use crate::sync::{AtomicU64, Ordering, fence, light, relax};
use crate::sys::fork::Description;
use crate::sys::{lock, space};
use crate::testing::step;

/// How a bus's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogState {
    /// The bus has none.
    #[default]
    None,
    /// A supervisor writes it, or did when it died.
    Running,
    /// A write or sync failed with this error number: nothing since is durable.
    Failed(u32),
    /// It was closed in good order; nobody writes it.
    Closed,
    /// A supervisor writes it, but what the bus held ahead of it is not on disk yet: until the first checkpoint is
    /// there, nothing is durable.
    Beginning,
}

/// Index into the counters that the supervisor keeps for outside readers. Numbers are part of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[non_exhaustive]
pub enum LogCounter {
    /// Blocks written.
    Writes = 0,
    /// Bytes written, headers and padding included.
    Bytes = 1,
    /// Records written.
    Records = 2,
    /// Log files begun.
    Files = 3,
    /// Failed writes, syncs and rotations.
    Errors = 4,
    /// Supervisors that took over from a dead one.
    Takeovers = 5,
    /// Checkpoints written.
    Checkpoints = 6,
    /// Sum of the durations of durable writes, in microseconds.
    WriteMicros = 7,
    /// Bytes that the log's files have now.
    LogBytes = 8,
    /// Bytes of the newest checkpoint.
    CheckpointBytes = 9,
    /// Duration of the newest checkpoint, in microseconds.
    CheckpointMicros = 10,
    /// First of [`WRITE_BUCKETS`] counts of durable writes by duration: index i counts those that took less than 2^i
    /// microseconds and not less than half of that.
    WriteTimes = 32,
}

/// Buckets behind [`LogCounter::WriteTimes`]; the last one also counts whatever took longer.
pub const WRITE_BUCKETS: usize = 24;

const _: () = assert!(LogCounter::WriteTimes as usize + WRITE_BUCKETS <= LOG_COUNTERS);

/// The log as an outside reader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LogInfo {
    /// How it is.
    pub state: LogState,
    /// Random id of the log.
    pub log_id: [u64; 2],
    /// Everything ahead of it is on disk.
    pub durable_lsn: u64,
    /// First LSN that it still holds.
    pub from: u64,
    /// Incarnation of the bus.
    pub incarnation: u64,
    /// Where this incarnation begins.
    pub fork_lsn: u64,
    /// LSN that the newest checkpoint holds, 0: none.
    pub checkpoint_lsn: u64,
    /// CLOCK_REALTIME of the newest checkpoint, ns.
    pub checkpoint_ns: u64,
    /// Greatest age of a delta that is not on its way to the disk.
    pub flush: Duration,
    /// Time of one small durable write.
    pub write: Duration,
    /// The counters, indexed by [`LogCounter`].
    pub counters: Vec<u64>,
}

impl LogInfo {
    /// One counter.
    pub fn counter(&self, which: LogCounter) -> u64 {
        self.counters.get(which as usize).copied().unwrap_or(0)
    }

    /// Durable writes by duration, see [`LogCounter::WriteTimes`].
    pub fn write_times(&self) -> &[u64] {
        let first = LogCounter::WriteTimes as usize;
        self.counters
            .get(first..first + WRITE_BUCKETS)
            .unwrap_or_default()
    }
}

impl Pages {
    /// The log of the bus.
    pub fn log_info(&self) -> LogInfo {
        let h = self.header();
        // Relaxed: a report; each number stands for itself.
        let r64 = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let micros = |n: u32| Duration::from_micros(n.into());
        LogInfo {
            state: log_state(h),
            log_id: [r64(&h.log_id[0]), r64(&h.log_id[1])],
            durable_lsn: self.durable_lsn(),
            from: r64(&h.log_from),
            incarnation: r64(&h.incarnation),
            fork_lsn: r64(&h.fork_lsn),
            checkpoint_lsn: r64(&h.checkpoint_lsn),
            checkpoint_ns: r64(&h.checkpoint_ns),
            flush: micros(h.flush_us.load(Ordering::Relaxed)),
            write: micros(h.write_us.load(Ordering::Relaxed)),
            counters: h.log_counters.iter().map(r64).collect(),
        }
    }

    /// Everything ahead of this LSN is on disk; 0: the bus has no log.
    #[inline]
    pub fn durable_lsn(&self) -> u64 {
        // Acquire: a report may follow it to what the disk holds.
        load_lsn(&self.header().durable_lsn, Ordering::Acquire)
    }

    /// The durability that writers give their deltas if they say nothing: 0 volatile, 1 buffered, 2 synced.
    pub fn default_durability(&self) -> u32 {
        self.header().durability.load(Ordering::Relaxed)
    }

    /// Sets it for everybody who asks from now on.
    pub fn set_default_durability(&self, durability: u32) {
        self.header()
            .durability
            .store(durability, Ordering::Relaxed);
    }
}

fn log_state(h: &PagesHeader) -> LogState {
    // Acquire: the error was stored ahead of the state.
    match h.log_state.load(Ordering::Acquire) {
        1 => LogState::Running,
        2 => LogState::Failed(h.log_error.load(Ordering::Relaxed)),
        3 => LogState::Closed,
        4 => LogState::Beginning,
        _ => LogState::None,
    }
}

impl Core {
    /// Whether somebody supervises the bus: holds its supervisor lock. A supervisor that is stopped does.
    pub fn is_supervised(&self) -> bool {
        // An error of the kernel is no proof of absence.
        lock::is_locked(self.ctl.probe().as_fd(), LOCK_SUPERVISOR).unwrap_or(true)
    }

    /// Who supervises, or did last, for messages.
    pub fn describe_supervisor(&self) -> String {
        let word = self.ctl.header().supervisor.load(Ordering::Relaxed);
        crate::page::owner::index(word).map_or_else(|| "nobody".into(), |i| self.describe(i))
    }

    /// Why the log does not move, if there is a reason.
    pub(crate) fn log_trouble(&self) -> Option<String> {
        match log_state(self.pages.header()) {
            LogState::Failed(errno) => Some(format!(
                "the log failed: {}",
                std::io::Error::from_raw_os_error(errno as i32)
            )),
            _ if !self.is_supervised() => {
                Some("nobody supervises the bus, so nothing gets into its log".into())
            }
            _ => None,
        }
    }
}

impl Participant {
    /// Has everything up to and including the delta at `lsn` written soon, and waits until it is on disk.
    ///
    /// # Errors
    /// [`PageError::NotDurable`] if there is no log, or it failed, or nobody supervises and nobody takes over within the
    /// participant's timeout, or the disk takes longer than that. The delta is committed and visible all the same.
    pub fn wait_durable(&self, lsn: u64, timeout: Duration) -> Result<(), PageError> {
        self.wait_for_log(lsn, timeout, false)
    }

    /// As [`Participant::wait_durable`], for the first checkpoint of a log, which makes the rest durable: waits until the
    /// log is on disk, whether or not that is of any use yet.
    ///
    /// # Errors
    /// As [`Participant::wait_durable`].
    pub fn wait_logged(&self, lsn: u64, timeout: Duration) -> Result<(), PageError> {
        self.wait_for_log(lsn, timeout, true)
    }

    fn wait_for_log(&self, lsn: u64, timeout: Duration, beginning: bool) -> Result<(), PageError> {
        self.check_fork()?;
        let pages = &self.core.pages;
        let (h, c) = (pages.header(), self.core.ctl.header());
        // Acquire, the LSN first: a log that begins is said to before its LSN is there.
        let done = || {
            pages.durable_lsn() > lsn
                && (beginning || h.log_state.load(Ordering::Acquire) != BEGINNING)
        };
        if done() {
            return Ok(());
        }
        let begin = Instant::now();
        let not_durable = |why: String| PageError::NotDurable {
            lsn,
            why,
            waited: begin.elapsed(),
        };
        if log_state(h) == LogState::None {
            return Err(not_durable("the bus has no log".into()));
        }
        if lsn >= pages.end_lsn() {
            return Err(not_durable("there is no such delta yet".into()));
        }
        // SeqCst: ahead of the look at whether the supervisor sleeps (`kick`).
        c.sync_wanted
            .fetch_max(lsn.saturating_add(1), Ordering::SeqCst);
        self.kick();
        // Who waits alone does not sleep for about as long as the disk takes: a wake takes 20 µs and more. Several waiters
        // would only keep each other, and the supervisor, from their cores. Relaxed: only speed depends on it; a waiter that
        // died here is forgotten with the next one.
        let alone = c.sync_latest.swap(self.me, Ordering::Relaxed) == 0;
        let mine = || c.sync_latest.load(Ordering::Relaxed) == self.me;
        let spin = Duration::from_micros(u64::from(h.write_us.load(Ordering::Relaxed)).min(1000));
        if alone {
            spin_until(spin * 2, || done() || !mine());
        }
        // Longer than a clock can count is for ever.
        let result = self.sleep_until_durable(begin.checked_add(timeout), done);
        if mine() {
            c.sync_latest.store(0, Ordering::Relaxed);
        }
        result.map_err(not_durable)
    }

    fn sleep_until_durable(
        &self,
        deadline: Option<Instant>,
        done: impl Fn() -> bool,
    ) -> Result<(), String> {
        if done() {
            return Ok(());
        }
        let pages = &self.core.pages;
        let (h, c) = (pages.header(), self.core.ctl.header());
        self.yield_leases();
        let failed = || matches!(log_state(h), LogState::Failed(_));
        loop {
            let nap = Instant::now() + Duration::from_millis(100);
            let nap = deadline.map_or(nap, |deadline| nap.min(deadline));
            doorbell::sleep_fenced(&h.durable_bell, &c.sync_sleepers, 1, Some(nap), || {
                done() || failed()
            });
            if done() {
                return Ok(());
            }
            if failed() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let why = self.core.log_trouble().unwrap_or_else(|| {
                    let at = pages.durable_lsn();
                    match pages.ring().look(at) {
                        Seen::Claimed(stamp) => format!(
                            "the record at LSN {at} of {} is not finished",
                            self.core.describe(stamp.owner_index())
                        ),
                        _ => format!(
                            "the log of {} has not got there",
                            self.core.describe_supervisor()
                        ),
                    }
                });
                return Err(why);
            }
            self.kick();
        }
    }

    /// Ends the bus as it is mapped here: for a supervisor whose segments lost their names and who carries the state over
    /// into new ones. Behind it every commit answers [`PageError::BusGone`], and everything committed is applied.
    ///
    /// The state in the headers says so first; from then on nobody raises the claim limit, and what room is left below it
    /// is claimed here and turned into padding. So no commit is lost between the two mappings: it has its place ahead of
    /// that padding, or none.
    ///
    /// # Errors
    /// [`PageError::Timeout`] if a living writer does not finish its commit.
    pub fn abandon_bus(&self) -> Result<(), PageError> {
        self.check_fork()?;
        let _inside = self.operation();
        let core = &self.core;
        core.pages
            .header()
            .state
            .store(STATE_ABANDONED, Ordering::SeqCst);
        core.ctl
            .header()
            .state
            .store(STATE_ABANDONED, Ordering::SeqCst);
        step("abandon_bus.said");
        // Whoever looked ahead of that, and raises the limit, has it.
        let lock = &core.ctl.header().limit_lock;
        self.lock_word(lock, 31, Locked::Limit)?;
        self.unlock_word(lock, 31);
        let ring = self.ring();
        let mut n = ring.record_slots_max() as u32;
        loop {
            let mut guess = self.guess.get();
            let claim = ring.try_claim(&mut guess, n, self.me);
            self.guess.set(guess);
            match claim {
                Claim::Got(lsn) => {
                    let stamp = Stamp::new(ring.lap(lsn), n, self.me, SlotState::Claimed);
                    ring.pad(lsn, stamp);
                }
                Claim::Full(_) if n > 1 => n /= 2,
                Claim::Full(_) => break,
                Claim::Bad(lsn) => {
                    return Err(Corrupt {
                        what: "ring stamp",
                        offset: lsn,
                    }
                    .into());
                }
            }
        }
        step("abandon_bus.full");
        let end = ring.end();
        let begin = Instant::now();
        while self.applied_lsn()? < end {
            self.recover_all()?;
            if begin.elapsed() >= self.config().timeout {
                return Err(PageError::Timeout {
                    what: format!("the delta ahead of LSN {end}"),
                    holder: "a writer that does not finish its commit".into(),
                    waited: begin.elapsed(),
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Wakes the supervisor, if it sleeps.
    #[inline]
    pub(crate) fn kick(&self) {
        let c = self.core.ctl.header();
        if doorbell::is_asleep_fenced(&c.log_asleep, 1) {
            doorbell::wake(&c.log_bell, &c.log_asleep, 1 | DEEP);
        }
    }

    /// An LSN behind everything that this participant committed, and not far behind it.
    pub fn committed_end(&self) -> u64 {
        self.guess.get().tail
    }

    /// Asks that no delta waits longer than `age` for its way to the disk, from now on.
    #[inline]
    pub fn want_flush_within(&self, age: Duration) {
        let wanted = age.as_micros().min(u128::from(u32::MAX)) as u32;
        let word = &self.core.pages.header().flush_us;
        // Relaxed: a number for the supervisor; almost always it is short enough already.
        if word.load(Ordering::Relaxed) > wanted {
            word.fetch_min(wanted.max(1), Ordering::Relaxed);
            self.kick();
            return;
        }
        // A supervisor that saw nothing for long naps longer than the age.
        let c = self.core.ctl.header();
        if doorbell::is_asleep(&c.log_asleep, DEEP) {
            doorbell::wake(&c.log_bell, &c.log_asleep, 1 | DEEP);
        }
    }
}

/// What a copy from the ring found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tapped {
    /// Whole groups were copied: `bytes` bytes, `records` groups, up to `end`. `cut`: a long padding was left out behind
    /// them, so the block has to end here.
    Slots {
        /// Bytes copied.
        bytes: usize,
        /// Groups among them.
        records: u32,
        /// LSN behind them.
        end: u64,
        /// Whether `end` lies behind something that was not copied.
        cut: bool,
    },
    /// The next group has a swap whose content must be logged first: [`LogTap::content`], then
    /// [`LogTap::content_logged`].
    Content {
        /// LSN of the swap.
        lsn: u64,
        /// Bytes of the content.
        total: u64,
    },
    /// The next group does not fit.
    Full,
    /// Nothing more, at the moment.
    Nothing,
    /// The next record is claimed and not committed.
    Claimed(u64),
}

/// [`LogState::Beginning`] as it is stored.
const BEGINNING: u32 = 4;

/// Bit of `log_asleep`: the supervisor sleeps for longer than deltas may wait.
const DEEP: u32 = 2;

/// Longest padding that is copied, in slots.
const PADDING_COPIED: u64 = 8;

/// The supervisor's end of the ring. Holds the supervisor lock; dropping it gives that up and leaves the log's place where
/// it is.
pub struct LogTap {
    core: Arc<Core>,
    /// Own description of `.ctl`, which holds the lock.
    lock: Description,
    fork: u64,
    /// Next LSN to copy.
    position: u64,
    /// Content up to (not including) the swap at this LSN has been logged.
    content_done: u64,
    /// The swap whose content comes next: its LSN and block.
    content: Option<(u64, BlockRef)>,
}

impl std::fmt::Debug for LogTap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogTap")
            .field("bus", &self.core.name)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Drop for LogTap {
    fn drop(&mut self) {
        if crate::sys::fork::generation() != self.fork {
            // The child handler closed the descriptor.
            return;
        }
        self.core
            .ctl
            .header()
            .supervisor
            .store(0, Ordering::Relaxed);
        let _ = lock::unlock(self.lock.as_fd(), LOCK_SUPERVISOR);
    }
}

/// Where a log begins on a bus that had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// First LSN that will be logged.
    pub lsn: u64,
    /// Whether that is everything that ever happened on the bus. If not, the log is of no use without a checkpoint.
    pub whole: bool,
}

impl LogTap {
    /// Takes the supervisor lock. `None`: somebody else has it.
    ///
    /// # Errors
    /// [`PageError::Io`]; [`PageError::Forked`].
    pub fn open(by: &Participant) -> Result<Option<LogTap>, PageError> {
        by.check_fork()?;
        let core = Arc::clone(by.core());
        let fd: OwnedFd = space::reopen(core.ctl.probe().as_fd(), true)
            .map_err(|e| PageError::io("reopen the control segment", e))?;
        let fd = Description::new(fd).map_err(|e| PageError::io("register for fork", e))?;
        if !lock::try_lock(fd.as_fd(), LOCK_SUPERVISOR)
            .map_err(|e| PageError::io("take the supervisor lock", e))?
        {
            return Ok(None);
        }
        step("log.locked");
        let c = core.ctl.header();
        c.supervisor.store(by.me, Ordering::Relaxed);
        // What the last one may have left; nobody sleeps as supervisor now.
        c.log_asleep.store(0, Ordering::SeqCst);
        // Acquire: with it comes what its writer did before. It is never behind the position, see above.
        let position = core
            .pages
            .durable_lsn()
            .max(load_lsn(&c.log_position, Ordering::Acquire));
        Ok(Some(LogTap {
            core,
            lock: fd,
            fork: crate::sys::fork::generation(),
            position,
            content_done: 0,
            content: None,
        }))
    }

    /// Whether the bus has a log already, and which.
    pub fn log_id(&self) -> Option<[u64; 2]> {
        let h = self.core.pages.header();
        let held = load_lsn(&self.core.ctl.header().log_position, Ordering::Acquire);
        let id = [0, 1].map(|i| h.log_id[i].load(Ordering::Relaxed));
        (held != 0 && id != [0, 0]).then_some(id)
    }

    /// Gives the bus a log: from here on the ring keeps what is not on disk.
    ///
    /// # Errors
    /// [`PageError::Timeout`] if somebody who is stopped holds the limit lock.
    pub fn attach(&mut self, by: &Participant, log_id: [u64; 2]) -> Result<Begin, PageError> {
        let ring = self.core.pages.ring();
        let (h, c) = (self.core.pages.header(), self.core.ctl.header());
        let _inside = by.operation();
        // Nobody moves the floor meanwhile.
        by.lock_word(&c.limit_lock, 31, Locked::Limit)?;
        let floor = load_lsn(ring.floor, Ordering::Acquire);
        let first = self.core.pages.first_lsn();
        for (word, half) in h.log_id.iter().zip(log_id) {
            word.store(half, Ordering::Relaxed);
        }
        // Release: who sees it sees the id. From here on the floor stays, and so do blocks of swaps.
        c.log_position.store(first, Ordering::Release);
        step("log.attaching");
        // SeqCst fence, ahead of the look at the ring: who reclaims the block of a swap that is not found there has its own
        // between the swap and the look at `log_position` (`hazard::reclaim_fence`), and sees it.
        fence(Ordering::SeqCst);
        // A record is overwritten only once the floor has passed it, so a floor that never moved says that all are there. The
        // block of an earlier swap may have had its next life, though.
        // A bus that was made from the state of another one held pages ahead of its first record.
        let whole = floor == first && first == ring.len() && !self.has_swaps(first).unwrap_or(true);
        let lsn = if whole {
            first
        } else {
            // Where the ring ends, claims included: whatever is ahead of it is in the images that come later, and no swap from
            // here on has lost its block.
            ring.end()
        };
        if !whole {
            // Release, ahead of the LSN: who sees that sees that it does not count yet.
            h.log_state.store(BEGINNING, Ordering::Release);
        }
        h.durable_lsn.store(lsn, Ordering::Release);
        c.log_position.store(lsn, Ordering::Release);
        step("log.attached");
        by.unlock_word(&c.limit_lock, 31);
        let begin = Begin { lsn, whole };
        self.position = begin.lsn;
        Ok(begin)
    }

    /// Whether some record of the ring from `at` on is a swap.
    fn has_swaps(&self, mut at: u64) -> Result<bool, PageError> {
        let ring = self.core.pages.ring();
        let end = at + ring.len();
        while at < end {
            match ring.look(at) {
                Seen::Ready(stamp) => {
                    let slots = u64::from(stamp.slots());
                    if self.next_swap(at, slots)?.is_some() {
                        return Ok(true);
                    }
                    at += slots;
                }
                Seen::Padding(stamp) | Seen::Claimed(stamp) => at += u64::from(stamp.slots()),
                _ => break,
            }
        }
        Ok(false)
    }

    /// Takes back what [`LogTap::attach`] did: no file came about.
    pub fn undo_attach(&mut self) {
        let (h, c) = (self.core.pages.header(), self.core.ctl.header());
        c.log_position.store(0, Ordering::Release);
        h.durable_lsn.store(0, Ordering::Release);
        for word in &h.log_id {
            word.store(0, Ordering::Relaxed);
        }
        h.log_state.store(0, Ordering::Release);
        self.position = 0;
    }

    /// Next LSN to copy.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes back to what is on disk: for a new file after a failure.
    pub fn rewind(&mut self) {
        self.position = self.core.pages.durable_lsn();
        self.content = None;
        self.content_done = 0;
    }

    /// LSNs between the disk and what the ring has surely got, a number that lags a little.
    pub fn pending(&self) -> u64 {
        self.core
            .pages
            .ring()
            .recent_boundary()
            .saturating_sub(self.position)
    }

    /// Slots of the ring.
    pub fn ring_slots(&self) -> u32 {
        self.core.pages.geometry.ring_slots
    }

    /// Copies whole groups into `out`, as many as are there and fit.
    ///
    /// # Errors
    /// [`PageError::Corrupt`] for bytes that no writer makes. The log cannot pass them.
    pub fn copy(&mut self, out: &mut [u8]) -> Result<Tapped, PageError> {
        let ring = self.core.pages.ring();
        let (mut filled, mut records) = (0, 0);
        let mut cut = false;
        let why = loop {
            let at = self.position;
            let room = (out.len() - filled) as u64 / SLOT_BYTES;
            match ring.look(at) {
                Seen::Ready(stamp) => {
                    let slots = u64::from(stamp.slots());
                    if slots > room {
                        break Tapped::Full;
                    }
                    if let Some((lsn, block)) = self.next_swap(at, slots)? {
                        let header = self.core.pages.block(block, 0)?.header;
                        self.content = Some((lsn, block));
                        break Tapped::Content {
                            lsn,
                            total: header.size.load(Ordering::Acquire).into(),
                        };
                    }
                    let bytes = (slots * SLOT_BYTES) as usize;
                    // Gating: nothing is overwritten ahead of `log_position`.
                    record::read_slots(&ring, at, &mut out[filled..filled + bytes]);
                    filled += bytes;
                    records += 1;
                    self.position = at + slots;
                }
                Seen::Padding(stamp) => {
                    let slots = u64::from(stamp.slots());
                    if slots > PADDING_COPIED {
                        self.position = at + slots;
                        cut = true;
                        break Tapped::Nothing;
                    }
                    if slots > room {
                        break Tapped::Full;
                    }
                    let bytes = (slots * SLOT_BYTES) as usize;
                    // What a dead writer left behind its claim is nobody's business.
                    out[filled..filled + bytes].fill(0);
                    out[filled..filled + 8].copy_from_slice(&stamp.0.to_le_bytes());
                    filled += bytes;
                    self.position = at + slots;
                }
                Seen::Nothing => break Tapped::Nothing,
                Seen::Claimed(_) => break Tapped::Claimed(at),
                Seen::Lapped | Seen::Bad => {
                    return Err(Corrupt {
                        what: "ring stamp at the log's place",
                        offset: at,
                    }
                    .into());
                }
            }
        };
        if filled > 0 || cut {
            return Ok(Tapped::Slots {
                bytes: filled,
                records,
                end: self.position,
                cut,
            });
        }
        Ok(why)
    }

    /// Whether something can be copied right now.
    pub fn is_ready(&self) -> bool {
        matches!(
            self.core.pages.ring().look(self.position),
            Seen::Ready(_) | Seen::Padding(_)
        )
    }

    /// The next swap of the group at `at` whose content was not logged. Checks the heads of the whole group, so that
    /// nothing gets into the log that could not be read back.
    fn next_swap(&self, group: u64, slots: u64) -> Result<Option<(u64, BlockRef)>, Corrupt> {
        let ring = self.core.pages.ring();
        let end = group + slots;
        let mut at = group;
        while at < end {
            let head = record::read_head(&ring, at);
            let n = record::checked_slots(&head, at, end - at)?;
            let kind = Kind::from_byte(head.kind).ok_or(Corrupt {
                what: "record",
                offset: at,
            })?;
            if kind == Kind::Swap && at >= self.content_done {
                let mut body = Vec::new();
                record::read_body(&ring, at, &head, &mut body);
                let parts = record::parts(&head, &body).ok_or(Corrupt {
                    what: "record",
                    offset: at,
                })?;
                return Ok(Some((at, BlockRef::from_bits(parts.new_block))));
            }
            at += n;
            if at < end {
                // Relaxed: behind the Acquire load of the group's stamp.
                let stamp = Stamp(ring.slot(at).stamp.load(Ordering::Relaxed));
                if stamp.state() != SlotState::Inner || stamp.lap() != ring.lap(at) {
                    return Err(Corrupt {
                        what: "stamp inside a group",
                        offset: at,
                    });
                }
            }
        }
        Ok(None)
    }

    /// Copies content of the swap that [`LogTap::copy`] stopped at, from `offset` on.
    ///
    /// # Errors
    /// [`PageError::Corrupt`] if the block is not the swap's any more, which no correct participant brings about while the
    /// log holds its place.
    pub fn content(&self, offset: u64, out: &mut [u8]) -> Result<(), PageError> {
        let bad = |at| Corrupt {
            what: "block of a swap that is not logged yet",
            offset: at,
        };
        let (lsn, at) = self.content.ok_or(bad(0))?;
        let end = offset.checked_add(out.len() as u64).ok_or(bad(lsn))?;
        let block = self.core.pages.block(at, end)?;
        if block.header.lsn.load(Ordering::Acquire) != lsn
            || end > u64::from(block.header.size.load(Ordering::Relaxed))
        {
            return Err(bad(lsn).into());
        }
        // SAFETY: `end` bytes of payload lie inside the mapping, checked above; `out` is as long as what is copied.
        unsafe {
            self.core.pages.copy_out(
                out.as_mut_ptr(),
                block.payload.add(offset as usize),
                out.len(),
            )?;
        }
        if blocks::still_of(&block.header.lsn, lsn) {
            Ok(())
        } else {
            Err(bad(lsn).into())
        }
    }

    /// The content of that swap is on its way; its record comes next.
    pub fn content_logged(&mut self) {
        if let Some((lsn, _)) = self.content.take() {
            self.content_done = lsn + 1;
        }
    }

    /// Everything ahead of `lsn` is on disk.
    pub fn set_durable(&self, lsn: u64) {
        let (h, c) = (self.core.pages.header(), self.core.ctl.header());
        step("log.written");
        // Release, this one first: a successor begins at the greater of the two, and the ring keeps what is not ahead of the
        // smaller.
        h.durable_lsn.store(lsn, Ordering::Release);
        step("log.durable");
        c.log_position.store(lsn, Ordering::Release);
        step("log.moved");
        self.wake_waiters();
    }

    fn wake_waiters(&self) {
        let (h, c) = (self.core.pages.header(), self.core.ctl.header());
        if doorbell::is_asleep_fenced(&c.sync_sleepers, 1) {
            doorbell::wake(&h.durable_bell, &c.sync_sleepers, 1);
        }
    }

    /// Says how the log is.
    pub fn set_state(&self, state: LogState) {
        let h = self.core.pages.header();
        let (word, errno) = match state {
            LogState::None => (0, 0),
            LogState::Running => (1, 0),
            LogState::Failed(errno) => (2, errno),
            LogState::Closed => (3, 0),
            LogState::Beginning => (4, 0),
        };
        h.log_error.store(errno, Ordering::Relaxed);
        // Release: the error is there with the state.
        h.log_state.store(word, Ordering::Release);
        self.wake_waiters();
    }

    /// Whether the log waits for its first checkpoint.
    pub fn is_beginning(&self) -> bool {
        log_state(self.core.pages.header()) == LogState::Beginning
    }

    /// Sets what [`LogInfo`] tells: the first LSN that the log holds.
    pub fn set_from(&self, lsn: u64) {
        self.core
            .pages
            .header()
            .log_from
            .store(lsn, Ordering::Relaxed);
    }

    /// The newest checkpoint.
    pub fn set_checkpoint(&self, lsn: u64, time_ns: u64) {
        let h = self.core.pages.header();
        h.checkpoint_ns.store(time_ns, Ordering::Relaxed);
        h.checkpoint_lsn.store(lsn, Ordering::Relaxed);
    }

    /// Time of one small durable write.
    pub fn set_write_time(&self, time: Duration) {
        let us = time.as_micros().clamp(1, 1_000_000) as u32;
        self.core
            .pages
            .header()
            .write_us
            .store(us, Ordering::Relaxed);
    }

    /// Sets the greatest age of a delta that is not on its way; writers may lower it.
    pub fn set_flush(&self, age: Duration) {
        let us = age.as_micros().clamp(1, u128::from(u32::MAX)) as u32;
        self.core
            .pages
            .header()
            .flush_us
            .store(us, Ordering::Relaxed);
    }

    /// The age as it stands.
    pub fn flush(&self) -> Duration {
        let us = self.core.pages.header().flush_us.load(Ordering::Relaxed);
        Duration::from_micros(us.max(1).into())
    }

    /// Adds to a counter.
    pub fn count(&self, which: LogCounter, n: u64) {
        self.bump(which as usize, n);
    }

    /// Sets a counter that is a level, not a sum.
    pub fn set_count(&self, which: LogCounter, n: u64) {
        if let Some(word) = self.core.pages.header().log_counters.get(which as usize) {
            word.store(n, Ordering::Relaxed);
        }
    }

    /// Counts `n` durable writes that took less than 2^`bucket` microseconds and not less than half of that.
    pub fn count_writes(&self, bucket: usize, n: u64) {
        if n > 0 {
            self.bump(
                LogCounter::WriteTimes as usize + bucket.min(WRITE_BUCKETS - 1),
                n,
            );
        }
    }

    fn bump(&self, index: usize, n: u64) {
        if let Some(word) = self.core.pages.header().log_counters.get(index) {
            // Relaxed: only the holder of the supervisor lock writes it.
            word.store(
                word.load(Ordering::Relaxed).wrapping_add(n),
                Ordering::Relaxed,
            );
        }
    }

    /// The LSN that somebody waits for, if it is not on its way yet: everything ahead of it should be written now.
    #[inline]
    pub fn wanted(&self) -> Option<u64> {
        let wanted = load_lsn(&self.core.ctl.header().sync_wanted, Ordering::Acquire);
        if wanted <= self.position {
            return None;
        }
        // Anybody can store anything there.
        let wanted = wanted.min(self.core.pages.end_lsn());
        (wanted > self.position).then_some(wanted)
    }

    /// Polls for at most `time` whether somebody waits for the disk. Lets others have the core in between, unless there is
    /// only one who waits.
    pub fn spin(&self, time: Duration) -> bool {
        let begin = Instant::now();
        loop {
            for _ in 0..64 {
                if self.wanted().is_some() {
                    return true;
                }
                relax();
            }
            if begin.elapsed() >= time {
                return false;
            }
            if self.has_sleepers() {
                std::thread::yield_now();
            }
        }
    }

    /// Whether several wait for the disk, or did a moment ago.
    pub fn has_sleepers(&self) -> bool {
        self.core.ctl.header().sync_sleepers.load(Ordering::Relaxed) != 0
    }

    /// Sleeps until somebody waits for the disk, or is held up by the log, or [`wake_supervisor`](Core::wake_supervisor)
    /// is called, or `time` is over. `deep`: writers whose deltas may not wait so long wake it, too.
    pub fn sleep(&self, time: Duration, deep: bool) {
        let mask = if deep { 1 | DEEP } else { 1 };
        let c = self.core.ctl.header();
        let seen = c.log_bell.load(Ordering::Acquire);
        let deadline = Instant::now() + time;
        // Buffered writers look whether it is deep asleep on their hot path, so then the sleeper pays for both.
        let sleep = if deep {
            doorbell::sleep
        } else {
            doorbell::sleep_fenced
        };
        sleep(&c.log_bell, &c.log_asleep, mask, Some(deadline), || {
            self.wanted().is_some()
                || c.log_bell.load(Ordering::Acquire) != seen
                || deep && self.is_ready()
        });
        light();
        c.log_asleep.store(0, Ordering::Relaxed);
    }
}

impl Core {
    /// Wakes whoever supervises.
    pub fn wake_supervisor(&self) {
        let c = self.ctl.header();
        doorbell::wake(&c.log_bell, &c.log_asleep, 1 | DEEP);
    }
}
