//! The supervisor's thread: from the ring to the disk.
//!
//! ```text
//! somebody waits for the disk, or deltas are old enough, or a good part of the ring is full:
//!     copy whole groups from the ring into a block; submit it
//! writes are done, in order:                                      durable_lsn, log_position, wake who waits
//! ```
//!
//! While a write is in flight, whoever commits meanwhile shares the next block (group commit). With a lot to write,
//! several blocks are in flight.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use mmsb_shm::log::{LogCounter, LogState, LogTap, Tapped};
use mmsb_shm::testing::step;
use mmsb_shm::{PageError, Participant};

use super::upkeep::Upkeep;
use super::{Role, Shared, SupervisorConfig, locked};
use crate::checkpoint;
use crate::error::{Error, Result};
use crate::tlog::{self, BlockBuffer, Fork, LogError, LogMeta, LogWriter};

/// How often a standby looks whether the bus is without a supervisor.
const STANDBY: Duration = Duration::from_millis(100);
/// Longest nap when nothing happens.
const DEEP_NAP: Duration = Duration::from_millis(100);
/// How long a directory that is still locked is waited for.
const LOCKED: Duration = Duration::from_secs(2);
/// How often the dead are looked for.
const RECOVERY: Duration = Duration::from_secs(1);
/// How often the status is refreshed.
const STATUS: Duration = Duration::from_millis(200);

/// The thread.
pub(super) fn run(shared: &Arc<Shared>, participant: Participant, first: &Sender<Result<()>>) {
    let mut standby = false;
    while !shared.stopping() {
        let tap = match LogTap::open(&participant) {
            Ok(tap) => tap,
            Err(e) => {
                shared.say(|s| s.last_error = Some(e.to_string()));
                let _ = first.try_send(Err(e.into()));
                break;
            }
        };
        let Some(tap) = tap else {
            if !standby {
                standby = true;
                shared.set_role(Role::Standby);
                let _ = first.try_send(Ok(()));
            }
            std::thread::sleep(STANDBY);
            continue;
        };
        let mut active = Active::new(shared, &participant, tap);
        match active.open(standby) {
            Ok(()) => {
                let _ = first.try_send(Ok(()));
            }
            Err(e) => {
                // Whoever starts us is told, and decides. A standby goes on trying, like any failed log.
                let starting = first.try_send(Err(error_again(&e))).is_ok();
                active.fail(&e);
                if starting && !standby {
                    break;
                }
            }
        }
        active.supervise();
        break;
    }
    shared.say(|s| {
        s.role = Role::Stopped;
        s.in_flight = 0;
    });
    shared.settled.notify_all();
    shared.checkpoint_said.notify_all();
}

/// The same error once more, for whoever is told of it.
fn error_again(e: &Error) -> Error {
    match e {
        Error::Page(e) => Error::Page(e.clone()),
        e => Error::Supervisor(e.to_string()),
    }
}

/// A block that is being filled, and what it reaches to.
struct Filling {
    block: BlockBuffer,
    end: u64,
}

/// Swap content that did not fit the last block.
struct Content {
    lsn: u64,
    total: u64,
    done: u64,
}

struct Active<'a> {
    shared: &'a Arc<Shared>,
    participant: &'a Participant,
    tap: LogTap,
    writer: Option<LogWriter>,
    upkeep: Upkeep,
    content: Option<Content>,
    /// Since when there may be deltas that are not on their way.
    oldest: Option<Instant>,
    /// Nap until the next look at the ring.
    nap: Duration,
    quiet_since: Instant,
    last_sync: Instant,
    next_recovery: Instant,
    next_status: Instant,
    /// When to open the log again.
    retry_at: Option<Instant>,
    recovered: u64,
    rounds: u64,
    /// Writes and their times as of the last look at the writer's counters.
    counted: tlog::WriterStats,
    /// Since when a claimed record is in the way.
    claimed: Option<(u64, Instant)>,
    /// Where the blocks in flight end, and how many groups of records they hold.
    flights: VecDeque<(u64, u64)>,
    /// Slots and groups that the last writes made durable: whoever waited for them may be back soon.
    expected: (u64, u64),
    /// Since when more are waited for.
    gathering: Option<Instant>,
}

impl<'a> Active<'a> {
    fn new(shared: &'a Arc<Shared>, participant: &'a Participant, tap: LogTap) -> Active<'a> {
        let now = Instant::now();
        Active {
            upkeep: Upkeep::new(shared),
            shared,
            participant,
            tap,
            writer: None,
            content: None,
            oldest: None,
            nap: Duration::from_millis(1),
            quiet_since: now,
            last_sync: now - Duration::from_secs(1),
            next_recovery: now,
            next_status: now,
            retry_at: None,
            recovered: 0,
            rounds: 0,
            counted: tlog::WriterStats::default(),
            claimed: None,
            flights: VecDeque::new(),
            expected: (0, 0),
            gathering: None,
        }
    }

    fn config(&self) -> SupervisorConfig {
        locked(&self.shared.config).clone()
    }

    /// Opens the log, in a new file at the durable LSN.
    fn open(&mut self, takeover: bool) -> Result<()> {
        let mut attached = false;
        let result = self.open_files(takeover, &mut attached);
        if attached && self.writer.is_none() {
            // There is no file: the bus is as it was, and may get its log at the next try.
            self.tap.undo_attach();
        }
        result
    }

    fn open_files(&mut self, takeover: bool, attached: &mut bool) -> Result<()> {
        let mut config = self.config();
        // The longest record must fit a block.
        let longest = (self.tap.ring_slots() as usize / 4 * 64 + 4096).min(1 << 20);
        config.writer.block_bytes = config.writer.block_bytes.max(longest);
        let core = &self.shared.core;
        std::fs::create_dir_all(&config.dir).map_err(|e| LogError::io("create", &config.dir, e))?;
        let survey = tlog::survey(&config.dir)?;
        let mut whole = true;
        if let Some(fault) = survey.fault {
            return Err(fault.into());
        }
        let forks = survey.meta.as_ref().map_or(&[][..], |m| &m.forks);
        // Set once there is a file.
        let begun = core.pages.log_info().from != 0;
        let meta = match (self.tap.log_id(), survey.meta.as_ref().map(|m| m.log_id)) {
            (Some(id), Some(found)) if id == found => {
                // What was called durable must be there, whoever wrote it.
                let durable = core.pages.durable_lsn();
                if survey.end.lsn < durable {
                    return Err(LogError::Foreign {
                        file: config.dir.clone(),
                        what: format!(
                            "the log ends at LSN {}, and the bus was durable up to {durable}",
                            survey.end.lsn
                        ),
                    }
                    .into());
                }
                meta(self.shared, id, forks)
            }
            (Some(_), None) if begun => {
                return Err(LogError::Foreign {
                    file: config.dir.clone(),
                    what: "the bus has a log, and it is not here".into(),
                }
                .into());
            }
            (None, Some(_)) | (Some(_), Some(_)) => {
                return Err(LogError::Foreign {
                    file: config.dir.clone(),
                    what: "it holds the log of another bus".into(),
                }
                .into());
            }
            // Also if its first supervisor died ahead of the first file, wherever that was.
            (_, None) => {
                let fresh =
                    LogMeta::new(&core.name, core.pages.created_ns(), self.tap.ring_slots())?;
                let begin = self.tap.attach(self.participant, fresh.log_id)?;
                *attached = true;
                whole = begin.whole;
                meta(self.shared, fresh.log_id, &[])
            }
        };
        self.tap.rewind();
        self.flights.clear();
        self.content = None;
        // The predecessor may have died ahead of the checkpoint that its log needs.
        whole &= self.is_whole(&config, &survey)?;
        let begin = Instant::now();
        let writer = loop {
            // The lock of a directory goes with its owner's descriptors, one by one, not at the same time as that of the bus.
            match LogWriter::create(
                &config.dir,
                meta.clone(),
                self.tap.position(),
                config.writer.clone(),
            ) {
                Err(LogError::Locked { .. }) if begin.elapsed() < LOCKED => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => break result?,
            }
        };
        step("supervisor.file");
        self.writer = Some(writer);
        self.counted = tlog::WriterStats::default();
        self.tap.set_flush(config.interval);
        let from = survey.files.first().map(|f| f.first_lsn);
        self.tap.set_from(from.unwrap_or(self.tap.position()));
        self.tap.set_state(if whole {
            LogState::Running
        } else {
            LogState::Beginning
        });
        if takeover {
            self.tap.count(LogCounter::Takeovers, 1);
        }
        self.retry_at = None;
        self.upkeep.opened(&self.tap, !whole);
        self.shared.say(|s| s.last_error = None);
        self.shared.set_role(Role::Active);
        Ok(())
    }

    /// Whether the bus can be rebuilt from what the directory holds: the log from its birth, or a checkpoint.
    fn is_whole(&self, config: &SupervisorConfig, survey: &tlog::Survey) -> Result<bool> {
        if survey.files.is_empty() || survey.first_lsn <= self.tap.ring_slots().into() {
            return Ok(true);
        }
        Ok(checkpoint::of_log(&config.dir, survey.meta.as_ref())?
            .iter()
            .any(|c| c.begin_lsn >= survey.first_lsn))
    }

    /// The log does not work: says so to everybody, and notes when to try again.
    fn fail(&mut self, error: &Error) {
        if let Some(writer) = &self.writer {
            // What was done ahead of the failure is durable, and a next file must not begin ahead of it.
            let durable = writer.durable_lsn();
            self.note_durable(durable);
        }
        self.writer = None;
        self.content = None;
        let (errno, retry) = match error {
            Error::Log(e) => {
                // Whoever holds the directory will have an end.
                let passing = e.is_full() || matches!(e, LogError::Locked { .. });
                (e.errno().unwrap_or(libc_eio()), passing)
            }
            _ => (libc_eio(), false),
        };
        self.tap.set_state(LogState::Failed(errno as u32));
        self.tap.count(LogCounter::Errors, 1);
        self.retry_at = self
            .config()
            .retry
            .filter(|_| retry)
            .map(|after| Instant::now() + after);
        self.shared.say(|s| s.last_error = Some(error.to_string()));
        self.shared.set_role(Role::Failed);
    }

    /// Until it is told to stop.
    fn supervise(&mut self) {
        loop {
            self.rounds += 1;
            let stopping = self.shared.stopping();
            if self.writer.is_none() {
                if stopping {
                    break;
                }
                self.while_failed();
                continue;
            }
            match self.round(stopping) {
                Ok(true) => {}
                Ok(false) => break,
                Err(e) => {
                    self.fail(&e);
                    if stopping {
                        break;
                    }
                }
            }
        }
        self.upkeep.end(&self.tap);
        if let Some(writer) = self.writer.take() {
            match writer.close() {
                Ok(()) => {
                    step("supervisor.closed");
                    self.tap.set_state(LogState::Closed);
                }
                Err(e) => self.fail(&e.into()),
            }
        }
        self.say_status();
    }

    fn while_failed(&mut self) {
        self.look_around();
        let again = self.shared.reopen.swap(false, Ordering::AcqRel)
            || self.retry_at.is_some_and(|at| Instant::now() >= at);
        if again {
            if let Err(e) = self.open(false) {
                self.fail(&e);
            }
            return;
        }
        self.tap.sleep(STANDBY, false);
    }

    /// One round: reaps, submits, or waits. `false`: everything is written, and it is time to stop.
    fn round(&mut self, stopping: bool) -> Result<bool> {
        self.look_around();
        self.reap()?;
        let asked = self.tap.wanted().map_or(0, |lsn| lsn - self.tap.position());
        let wanted = asked > 0;
        let pending = self.tap.pending();
        let ready = self.tap.is_ready();
        let (depth, in_flight) = (self.depth(), self.in_flight());
        if ready && self.oldest.is_none() {
            self.oldest = Some(Instant::now());
        }
        let due = self
            .oldest
            .is_some_and(|since| since.elapsed() + self.nap / 2 >= self.tap.flush());
        let many = pending >= u64::from(self.tap.ring_slots()) / 4;
        if wanted {
            self.last_sync = Instant::now();
        }
        if wanted && !many && self.gathers(asked) {
            self.reap()?;
            std::thread::yield_now();
            return Ok(true);
        }
        if (ready || self.content.is_some())
            && in_flight < depth
            && (wanted || due || many || stopping)
        {
            self.quiet_since = Instant::now();
            return self.write_block().map(|()| true);
        }
        if in_flight > 0 {
            self.wait_for_disk()?;
            return Ok(true);
        }
        // A checkpoint under way waits for the disk, so the log ends behind it.
        if stopping && !ready && !self.upkeep.is_busy() {
            // A record that is claimed and not finished was not committed; whoever commits from here on is on its own.
            return Ok(false);
        }
        self.rest(pending, wanted && !ready);
        Ok(true)
    }

    /// Whether to wait a moment for more who wait for the disk: those whom the last write let go come back together, and
    /// one write for all of them beats one for each. `asked`: slots that are waited for by now.
    fn gathers(&mut self, asked: u64) -> bool {
        // The length of the last record is not part of it.
        let (slots, groups) = self.expected;
        if asked + slots / groups.max(1) >= slots {
            self.gathering = None;
            return false;
        }
        let write = Duration::from_micros(self.upkeep.write_us());
        let since = *self.gathering.get_or_insert_with(Instant::now);
        if since.elapsed() < write / 2 {
            return true;
        }
        // They do not come: not so many the next time.
        self.expected = (asked, 1);
        self.gathering = None;
        false
    }

    fn depth(&self) -> usize {
        locked(&self.shared.config).writer.depth.max(1)
    }

    fn in_flight(&self) -> usize {
        self.writer.as_ref().map_or(0, LogWriter::in_flight)
    }

    fn writer(&mut self) -> Result<&mut LogWriter> {
        self.writer
            .as_mut()
            .ok_or_else(|| Error::Supervisor("the log is not open".into()))
    }

    /// Reaps what the disk has done.
    fn reap(&mut self) -> Result<()> {
        let durable = self.writer()?.poll()?;
        self.note_durable(durable);
        Ok(())
    }

    fn note_durable(&mut self, durable: u64) {
        let before = self.shared.core.pages.durable_lsn();
        if durable > before {
            self.tap.set_durable(durable);
            let mut groups = 0;
            while let Some((end, n)) = self.flights.front()
                && *end <= durable
            {
                groups += n;
                self.flights.pop_front();
            }
            self.expected = (durable - before, groups);
        }
    }

    /// Nothing to submit: waits for a write that is in flight.
    fn wait_for_disk(&mut self) -> Result<()> {
        // Who waits for the disk alone commits nothing meanwhile: then the blocking call, which costs least. Otherwise what
        // comes meanwhile goes into the next block, in flight together with this one.
        let alone = self.last_sync.elapsed() < Duration::from_millis(1) && !self.tap.has_sleepers();
        let patience = (!alone).then_some(self.nap.min(Duration::from_millis(1)));
        let durable = self.writer()?.wait(patience)?;
        self.note_durable(durable);
        Ok(())
    }

    /// Fills one block and submits it.
    fn write_block(&mut self) -> Result<()> {
        let Some(block) = self.writer()?.begin() else {
            return self.wait_for_disk();
        };
        let mut filling = Filling {
            end: self.tap.position(),
            block,
        };
        let mut records = 0;
        loop {
            if self.content.is_some() && !self.write_content(&mut filling)? {
                break;
            }
            // A quarter of the ring at most, so that some blocks are in flight while the next quarter fills. No group is
            // longer.
            let left =
                (self.tap.ring_slots() as usize * 16).saturating_sub(filling.block.body_len());
            let room = filling.block.room();
            let room = room.len().min(left);
            match self.tap.copy(&mut filling.block.room()[..room])? {
                Tapped::Slots {
                    bytes,
                    records: n,
                    end,
                    cut,
                } => {
                    filling.block.advance(bytes, n);
                    filling.end = end;
                    records += u64::from(n);
                    self.claimed = None;
                    if cut {
                        break;
                    }
                }
                Tapped::Content { lsn, total } => {
                    self.content = Some(Content {
                        lsn,
                        total,
                        done: 0,
                    });
                }
                Tapped::Full => {
                    if filling.block.is_empty() {
                        return Err(PageError::DeltaTooLarge {
                            slots: filling.block.room().len() as u64 / 64 + 1,
                            max: filling.block.room().len() as u64 / 64,
                        }
                        .into());
                    }
                    break;
                }
                Tapped::Nothing => {
                    self.oldest = None;
                    break;
                }
                Tapped::Claimed(lsn) => {
                    self.unblock(lsn)?;
                    break;
                }
            }
        }
        if filling.block.is_empty() && filling.end == self.last_end() {
            return Ok(());
        }
        self.tap.count(LogCounter::Records, records);
        let Filling { block, end } = filling;
        step("supervisor.filled");
        self.writer()?.submit(block, end)?;
        self.flights.push_back((end, records));
        step("supervisor.submitted");
        if self.in_flight() >= 4 {
            step("supervisor.four_in_flight");
        }
        self.reap()
    }

    /// Where the last submitted block ends.
    fn last_end(&self) -> u64 {
        self.writer.as_ref().map_or(0, LogWriter::end_lsn)
    }

    /// Logs content of a swap ahead of its record. `false`: the block is full.
    fn write_content(&mut self, filling: &mut Filling) -> Result<bool> {
        let Some(content) = self.content.as_mut() else {
            return Ok(true);
        };
        while content.done < content.total {
            let chunk =
                filling
                    .block
                    .push_chunk(content.lsn, content.total, content.done, usize::MAX);
            if chunk.is_empty() {
                return Ok(false);
            }
            self.tap.content(content.done, chunk)?;
            content.done += chunk.len() as u64;
            step("supervisor.chunk");
        }
        self.content = None;
        self.tap.content_logged();
        Ok(true)
    }

    /// A claimed record is in the way: its writer is quick, dead, or stopped.
    fn unblock(&mut self, lsn: u64) -> Result<()> {
        match self.claimed {
            Some((at, since)) if at == lsn => {
                if since.elapsed() > Duration::from_millis(1) {
                    self.recovered += u64::from(self.participant.recover_all()?);
                    self.claimed = Some((lsn, Instant::now()));
                }
            }
            _ => self.claimed = Some((lsn, Instant::now())),
        }
        Ok(())
    }

    /// Nothing in flight and nothing to write now. `stuck`: somebody waits for a record that is not finished.
    fn rest(&mut self, pending: u64, stuck: bool) {
        if stuck {
            let lsn = self.tap.position();
            if let Err(e) = self.unblock(lsn) {
                self.fail(&e);
            }
            std::thread::sleep(Duration::from_micros(20));
            return;
        }
        let write = Duration::from_micros(self.upkeep.write_us());
        // Who waited for the disk a moment ago will do so again: sleeping and waking costs more than a write's time.
        if self.last_sync.elapsed() < write * 2 && self.tap.spin(write * 2) {
            return;
        }
        let flush = self.tap.flush();
        let deep = self.oldest.is_none() && self.quiet_since.elapsed() > Duration::from_secs(1);
        let slots = u64::from(self.tap.ring_slots());
        let nap = if deep {
            DEEP_NAP
        } else {
            // So long that an eighth to a quarter of the ring fills meanwhile.
            if pending > slots / 4 {
                self.nap /= 2;
            } else if pending < slots / 8 {
                self.nap = self.nap * 5 / 4;
            }
            let left = self
                .oldest
                .map_or(flush, |since| flush.saturating_sub(since.elapsed()));
            self.nap = self.nap.clamp(
                Duration::from_micros(50),
                flush.max(Duration::from_micros(50)),
            );
            self.nap.min(left).max(Duration::from_micros(20))
        };
        self.tap.sleep(nap, deep);
    }

    /// What is done now and then, whatever the log does.
    fn look_around(&mut self) {
        if !self.rounds.is_multiple_of(64) && self.writer.is_some() && self.in_flight() > 0 {
            return;
        }
        let now = Instant::now();
        if now >= self.next_recovery {
            self.next_recovery = now + RECOVERY;
            match self.participant.recover_all() {
                Ok(n) => self.recovered += u64::from(n),
                Err(e) => self
                    .shared
                    .say(|s| s.last_upkeep_error = Some(e.to_string())),
            }
        }
        if now >= self.next_status {
            self.next_status = now + STATUS;
            self.say_status();
        }
        if self.writer.is_some() {
            self.upkeep.look(&self.tap, self.counted.bytes);
        }
    }

    fn say_status(&mut self) {
        let stats = self.writer.as_ref().map(|w| w.stats().clone());
        if let Some(stats) = &stats {
            self.count(stats);
        }
        let in_flight = self.in_flight();
        let (durable, position) = (self.shared.core.pages.durable_lsn(), self.tap.position());
        let (recovered, rounds) = (self.recovered, self.rounds);
        self.shared.say(|s| {
            s.durable_lsn = durable;
            s.position = position;
            s.in_flight = in_flight;
            s.recovered = recovered;
            s.rounds = rounds;
            if let Some(stats) = stats {
                s.log = stats;
            }
        });
    }

    /// Brings the counters in the segment up to date.
    fn count(&mut self, now: &tlog::WriterStats) {
        let before = std::mem::replace(&mut self.counted, now.clone());
        let add = |which, now: u64, before: u64| self.tap.count(which, now.saturating_sub(before));
        add(LogCounter::Writes, now.writes, before.writes);
        add(LogCounter::Bytes, now.bytes, before.bytes);
        add(LogCounter::Files, now.files, before.files);
        add(
            LogCounter::WriteMicros,
            now.latency_sum_us,
            before.latency_sum_us,
        );
        for (i, (now, before)) in now.latency.iter().zip(before.latency).enumerate() {
            self.tap.count_writes(i + 1, now.saturating_sub(before));
        }
        let writes = now.writes.saturating_sub(before.writes);
        let micros = now.latency_sum_us.saturating_sub(before.latency_sum_us);
        if let Some(mean) = micros.checked_div(writes) {
            self.upkeep.saw_write(&self.tap, mean);
        }
    }
}

fn libc_eio() -> i32 {
    rustix::io::Errno::IO.raw_os_error()
}

/// What the headers of this log's files say.
fn meta(shared: &Shared, log_id: [u64; 2], forks: &[Fork]) -> LogMeta {
    let pages = &shared.core.pages;
    let incarnation = pages.incarnation();
    LogMeta {
        config: Some(shared.core.config()),
        log_id,
        incarnation,
        fork_lsn: if incarnation > 1 {
            pages.first_lsn()
        } else {
            0
        },
        forks: forks
            .iter()
            .filter(|f| f.incarnation < incarnation)
            .cloned()
            .collect(),
        created_ns: pages.created_ns(),
        ring_slots: pages.ring_info().slots,
        bus: shared.core.name.clone(),
    }
}
