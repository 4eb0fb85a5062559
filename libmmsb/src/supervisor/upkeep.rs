//! What a supervisor does beside the log, in a thread of its own: checkpoints, retention, compression.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mmsb_shm::log::{LogCounter, LogState, LogTap};
use mmsb_shm::{Participant, ParticipantConfig};

use super::{LiveImages, Shared, SupervisorConfig, locked};
use crate::checkpoint::{self, CheckpointInfo, Options, Progress};
use crate::error::Result;
use crate::tlog::{self, Retention};

/// Longest that a checkpoint waits for the log to get to where its images are.
const LOG_TIMEOUT: Duration = Duration::from_secs(60);
/// When the first checkpoint of a log is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often full files are looked for.
const TIDY: Duration = Duration::from_secs(10);

/// What a round of upkeep did.
struct Done {
    ticket: u64,
    checkpoint: Option<std::result::Result<CheckpointInfo, String>>,
    took: Duration,
    log_bytes: u64,
    log_from: Option<u64>,
    trouble: Option<String>,
}

pub(super) struct Upkeep {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<Done>>,
    /// The last checkpoint that was begun or, ahead of the first, the opening of the log.
    since: Instant,
    /// Bytes that the log had grown by then.
    bytes_then: u64,
    lsn_then: u64,
    tickets_served: u64,
    urgent: bool,
    /// When an urgent one that failed is tried again.
    not_before: Instant,
    next_tidy: Instant,
    files_seen: u64,
    write_us: u64,
}

impl Upkeep {
    pub(super) fn new(shared: &Arc<Shared>) -> Upkeep {
        Upkeep {
            shared: Arc::clone(shared),
            worker: None,
            since: Instant::now(),
            bytes_then: 0,
            lsn_then: 0,
            tickets_served: 0,
            urgent: false,
            not_before: Instant::now(),
            next_tidy: Instant::now() + TIDY,
            files_seen: 0,
            write_us: 100,
        }
    }

    /// The log was opened. `urgent`: without a checkpoint it is of no use.
    pub(super) fn opened(&mut self, tap: &LogTap, urgent: bool) {
        self.since = Instant::now();
        self.bytes_then = 0;
        self.urgent |= urgent;
        self.next_tidy = Instant::now();
        let dir = locked(&self.shared.config).dir.clone();
        if let Ok(list) = checkpoint::list(&dir)
            && let Some(newest) = list.first()
        {
            tap.set_checkpoint(newest.end_lsn, newest.time_ns);
            self.lsn_then = newest.end_lsn;
            let newest = newest.clone();
            self.shared.say(|s| s.last_checkpoint = Some(newest));
        }
    }

    /// Time of one small durable write in microseconds.
    pub(super) fn write_us(&self) -> u64 {
        self.write_us
    }

    /// The mean of some writes.
    pub(super) fn saw_write(&mut self, tap: &LogTap, mean_us: u64) {
        self.write_us = (self.write_us * 3 + mean_us.clamp(10, 2000)) / 4;
        tap.set_write_time(Duration::from_micros(self.write_us));
    }

    /// Begins what is due, and notes what is done. `bytes`: how much the log has written since it was opened.
    pub(super) fn look(&mut self, tap: &LogTap, bytes: u64) {
        if let Some(worker) = self.worker.take_if(|w| w.is_finished()) {
            self.finish(tap, worker);
        }
        if self.worker.is_some() {
            return;
        }
        let wanted = self.shared.checkpoints_wanted.load(Ordering::Acquire);
        let now = Instant::now();
        let (policy, files) = {
            let config = locked(&self.shared.config);
            let files = locked(&self.shared.status).log.files;
            (config.checkpoint.clone(), files)
        };
        let grown = bytes.saturating_sub(self.bytes_then);
        let moved = self.shared.core.pages.durable_lsn() > self.lsn_then;
        let due = self.urgent && now >= self.not_before
            || wanted > self.tickets_served
            || policy.log_bytes.is_some_and(|n| grown >= n)
            || moved && policy.interval.is_some_and(|d| self.since.elapsed() >= d);
        let tidy = now >= self.next_tidy && files != self.files_seen;
        if !due && !tidy {
            return;
        }
        self.next_tidy = now + TIDY;
        self.files_seen = files;
        if due {
            self.since = now;
            self.bytes_then = bytes;
            self.urgent = false;
        }
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new()
            .name("mmsb-upkeep".into())
            .spawn(move || work(&shared, wanted, due));
        match spawned {
            Ok(worker) => self.worker = Some(worker),
            Err(e) => self
                .shared
                .say(|s| s.last_upkeep_error = Some(format!("start a thread: {e}"))),
        }
    }

    fn finish(&mut self, tap: &LogTap, worker: JoinHandle<Done>) {
        let Ok(done) = worker.join() else {
            self.shared
                .say(|s| s.last_upkeep_error = Some("the upkeep's thread panicked".into()));
            return;
        };
        self.shared.say(|s| {
            s.checkpoint_progress = None;
            s.last_upkeep_error = done.trouble;
            s.log_bytes = done.log_bytes;
        });
        tap.set_count(LogCounter::LogBytes, done.log_bytes);
        if let Some(from) = done.log_from {
            tap.set_from(from);
        }
        let Some(result) = done.checkpoint else {
            return;
        };
        if tap.is_beginning() {
            match &result {
                // From here on the log is enough to rebuild the bus, so what is on disk is durable.
                Ok(_) => tap.set_state(LogState::Running),
                Err(_) => {
                    self.urgent = true;
                    self.not_before = Instant::now() + AGAIN;
                }
            }
        }
        if let Ok(info) = &result {
            self.lsn_then = info.end_lsn;
            tap.set_checkpoint(info.end_lsn, info.time_ns);
            tap.count(LogCounter::Checkpoints, 1);
            tap.set_count(LogCounter::CheckpointBytes, info.file_bytes);
            tap.set_count(LogCounter::CheckpointMicros, done.took.as_micros() as u64);
            let info = info.clone();
            self.shared.say(|s| s.last_checkpoint = Some(info));
        }
        self.tickets_served = done.ticket;
        *locked(&self.shared.checkpoint_done) = Some((done.ticket, result));
        self.shared.checkpoint_said.notify_all();
    }

    /// Waits for what is under way; it is done by whoever needs the log, which must still be there.
    pub(super) fn is_busy(&self) -> bool {
        self.worker.as_ref().is_some_and(|w| !w.is_finished())
    }

    /// Waits for its end.
    pub(super) fn end(&mut self, tap: &LogTap) {
        if let Some(worker) = self.worker.take() {
            self.finish(tap, worker);
        }
    }
}

/// The upkeep's thread: once through everything.
fn work(shared: &Arc<Shared>, ticket: u64, with_checkpoint: bool) -> Done {
    let config = locked(&shared.config).clone();
    let begin = Instant::now();
    let mut trouble = None;
    let checkpoint = with_checkpoint.then(|| {
        let result = checkpoint_now(shared, &config).map_err(|e| e.to_string());
        trouble = result.as_ref().err().cloned();
        result
    });
    let took = begin.elapsed();
    let mut log_bytes = 0;
    let mut log_from = None;
    if let Err(e) = tidy(&config, &mut log_bytes, &mut log_from) {
        trouble = trouble.or(Some(e.to_string()));
    }
    Done {
        ticket,
        checkpoint,
        took,
        log_bytes,
        log_from,
        trouble,
    }
}

/// Writes a checkpoint, and removes the oldest ones.
fn checkpoint_now(shared: &Arc<Shared>, config: &SupervisorConfig) -> Result<CheckpointInfo> {
    let threads = config.checkpoint.threads.max(1);
    let images = LiveImages::new(&shared.core, &config.source, threads)?;
    let waiter = Participant::join(
        Arc::clone(&shared.core),
        ParticipantConfig {
            name: config.source.clone(),
            ..ParticipantConfig::default()
        },
    )?;
    let total = shared.core.pages.len_bytes();
    let progress = |p: Progress| {
        shared.say(|s| s.checkpoint_progress = Some((p.bytes, total.max(p.bytes))));
    };
    let options = Options {
        threads,
        direct: true,
        progress: Some(&progress),
    };
    let info = checkpoint::write(&config.dir, &images, &options, &|lsn| {
        if lsn > shared.core.pages.durable_lsn() {
            waiter.wait_logged(lsn - 1, LOG_TIMEOUT)?;
        }
        Ok(())
    })?;
    checkpoint::prune(&config.dir, config.checkpoint.keep.max(1) as usize)?;
    Ok(info)
}

/// Removes and compresses what the configuration says.
fn tidy(config: &SupervisorConfig, log_bytes: &mut u64, log_from: &mut Option<u64>) -> Result<()> {
    let limited = config.retention.bytes.is_some()
        || config.retention.age.is_some()
        || config.retention.keep_from.is_some();
    let meta = match limited {
        true => tlog::survey(&config.dir)?.meta,
        false => None,
    };
    // Not those of a past that was given up: what they need is of no use.
    let needed = checkpoint::of_log(&config.dir, meta.as_ref())?
        .iter()
        .map(|c| c.begin_lsn)
        .min();
    // Without a checkpoint the bus can only be rebuilt from the whole log.
    if let (Some(needed), true) = (needed, limited) {
        let keep_from = config.retention.keep_from.unwrap_or(u64::MAX).min(needed);
        tlog::retain(
            &config.dir,
            &Retention {
                keep_from: Some(keep_from),
                ..config.retention.clone()
            },
        )?;
    }
    if config.compress {
        tlog::compress_sealed(&config.dir, 0)?;
    }
    (*log_bytes, *log_from) = tlog::extent(&config.dir)?;
    Ok(())
}
