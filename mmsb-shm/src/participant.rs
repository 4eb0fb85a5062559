//! Participants: joining and leaving, who is alive, waiting for somebody.
//!
//! A participant is one writing thread of one process. It owns a slot in `.ctl` and, on its **own open file
//! description**, a kernel lock (OFD) on that slot's byte. The kernel drops the lock when the process dies, whatever it
//! dies of, and anybody can ask about it, across PID namespaces. Alive means: the lock is held. Nothing else decides.
//! Only who died *inside* an operation, and holds others up, is known a good deal earlier, by the mark of
//! [`robust`]: then what it held up is repaired at once, and the rest once the lock is free.
//!
//! A life is (slot, generation). Owner words and stamps carry it, and a slot is reused only after everything that its
//! last life left behind was finished or cleared (`recovery`).

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::arena::Pools;
use crate::doorbell;
use crate::error::{AttachError, Corrupt, PageError};
use crate::layout::participant::{
    MOVING, ParticipantSlot, SLOT_ACTIVE, SLOT_FREE, SOURCE_NAME_WORDS,
};
use crate::page::{PageId, lease, owner};
use crate::recovery;
use crate::ring::{Guess, Ring, load_lsn};
use crate::segment::{Core, LOCK_LEASE, LOCK_SLOT, owner_position};
use crate::stats::Counter;
use crate::subscribe::Tie;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, relax};
use crate::sys::fork::{self, Description};
use crate::sys::robust::{self, Bond, Inside};
use crate::sys::{barrier, clock, lock, process, space};
use crate::testing::step;

/// What a writer does when the ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnFull {
    /// Waits up to the participant's timeout, then `Backpressure`.
    #[default]
    Wait,
    /// `Backpressure` at once.
    Fail,
}

/// How a participant behaves; private to it.
#[derive(Clone, Debug)]
pub struct ParticipantConfig {
    /// Its name; deltas carry it as their source. Empty: the name of the process.
    pub name: String,
    /// Longest wait for a living participant, or for room in the ring.
    pub timeout: Duration,
    /// What to do when the ring is full.
    pub on_full: OnFull,
}

impl Default for ParticipantConfig {
    fn default() -> ParticipantConfig {
        ParticipantConfig {
            name: String::new(),
            timeout: Duration::from_secs(5),
            on_full: OnFull::Wait,
        }
    }
}

/// One writing thread of one process, attached to a bus. `Send`, not `Sync`: another thread joins for itself.
pub struct Participant {
    pub(crate) core: Arc<Core>,
    /// Own description of `.ctl`: holds the slot lock and, during a recovery, that one's lock. Closed in fork children
    /// by the fork handler, so `drop` must not close it a second time there.
    pub(crate) fd: ManuallyDrop<OwnedFd>,
    pub(crate) index: u32,
    /// Owner word of this life.
    pub(crate) me: u32,
    /// What [`fork::generation`] says in the process that joined; [`STRANDED`] after [`Participant::strand`].
    fork_generation: Cell<u64>,
    stranded: Cell<Option<Corrupt>>,
    pub(crate) guess: Cell<Guess>,
    pub(crate) source: Cell<u16>,
    pub(crate) created_ns: u64,
    pub(crate) config: ParticipantConfig,
    pub(crate) pools: RefCell<Pools>,
    pub(crate) scratch: RefCell<Vec<u8>>,
    /// Pages on lease, at most one for each index.
    pub(crate) leases: RefCell<Vec<PageId>>,
    /// Length of `leases`, for the hot path.
    pub(crate) lease_count: Cell<u32>,
    pub(crate) pins: Cell<u32>,
    /// Its followers, which may be in other threads and outlive it.
    pub(crate) ties: RefCell<Vec<Arc<Tie>>>,
    bond: Bond,
    pub(crate) hot: Hot,
}

/// What every commit touches, resolved once at attach.
#[derive(Clone, Copy)]
pub(crate) struct Hot {
    pub(crate) ring: Ring<'static>,
    slot: &'static ParticipantSlot,
    owners: &'static [AtomicU32],
    owner_shift: u32,
    sleepers: &'static AtomicU32,
    owner_sleepers: &'static AtomicU32,
}

impl Hot {
    fn new(core: &Arc<Core>, index: u32) -> Hot {
        // SAFETY: everything borrowed from `core` lies in its mappings, which stay in place until the last `Arc` is
        // gone; the participant that holds this struct holds an `Arc` as well, and hands the references out with its
        // own lifetime only.
        let core: &'static Core = unsafe { &*Arc::as_ptr(core) };
        let h = core.ctl.header();
        Hot {
            ring: core.pages.ring(),
            slot: &core.ctl.participants()[index as usize],
            owners: core.ctl.owners(),
            owner_shift: core.ctl.owner_shift(),
            sleepers: &h.sleepers,
            owner_sleepers: &h.owner_sleepers,
        }
    }
}

/// Who an owner word names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody (any more).
    Nobody,
    /// A living participant.
    Alive(u32),
    /// A dead one, or one that died inside an operation, as far as its process goes.
    Dead(u32),
}

/// A participant as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParticipantInfo {
    /// Slot index.
    pub index: u32,
    /// Generation of the slot.
    pub generation: u64,
    /// Name.
    pub name: String,
    /// Process id, in the PID namespace `pid_namespace`.
    pub pid: u32,
    /// Start time of the process in clock ticks since boot.
    pub start_time: u64,
    /// Inode of its PID namespace.
    pub pid_namespace: u64,
    /// CLOCK_REALTIME when it joined, ns.
    pub joined_ns: u64,
    /// Whether its kernel lock is held.
    pub alive: bool,
    /// LSN of its unfinished commit, 0: none.
    pub hold: u64,
    /// Deltas it committed.
    pub deltas: u64,
    /// Payload bytes it committed.
    pub bytes: u64,
    /// Times it had to wait.
    pub waits: u64,
    /// Reads it had to repeat.
    pub retries: u64,
}

/// Sums over all participants that ever were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Deltas committed.
    pub deltas: u64,
    /// Payload bytes committed.
    pub bytes: u64,
    /// Waits for owner words or the ring.
    pub waits: u64,
    /// Reads repeated.
    pub retries: u64,
}

impl Core {
    /// Whether life `generation` of slot `index` is over: its lock is free and nobody recovered it yet.
    pub(crate) fn is_dead(&self, index: u32, generation: u64) -> bool {
        let Some(slot) = self.ctl.participants().get(index as usize) else {
            return false;
        };
        // An error of the kernel is no proof of death.
        let locked =
            lock::is_locked(self.ctl.probe().as_fd(), LOCK_SLOT + u64::from(index)).unwrap_or(true);
        // Acquire: looked at after the lock, so a life that ended and was recovered in between shows its successor.
        !locked && slot.state.load(Ordering::Acquire) == generation << 8 | SLOT_ACTIVE
    }

    /// Whether the thread of life `generation` of slot `index` died inside an operation that nobody has repaired yet. Its
    /// process may be there for a while longer; what it began, nobody goes on with.
    pub(crate) fn died_inside(&self, index: u32, generation: u64) -> bool {
        let Some(slot) = self.ctl.participants().get(index as usize) else {
            return false;
        };
        // Acquire, three times: the life is looked at ahead of the mark, since a life clears what the last one left ahead of its
        // own state; and behind it, since the mark may be of the next life.
        let is_life = || slot.state.load(Ordering::Acquire) == generation << 8 | SLOT_ACTIVE;
        is_life() && robust::died_inside(&slot.thread) && is_life()
    }

    /// Whether nobody goes on with what life `generation` of slot `index` began, and nobody has repaired it yet.
    pub(crate) fn has_stopped(&self, index: u32, generation: u64) -> bool {
        self.died_inside(index, generation) || self.is_dead(index, generation)
    }

    /// Who holds `word`.
    pub(crate) fn holder(&self, word: u32) -> Holder {
        let Some(index) = owner::index(word) else {
            return Holder::Nobody;
        };
        let Some(slot) = self.ctl.participants().get(index as usize) else {
            return Holder::Nobody;
        };
        // Acquire: pairs with the end of a recovery, which raises the generation.
        let state = slot.state.load(Ordering::Acquire);
        if state & 0xff != SLOT_ACTIVE || !owner::is_life(word, state >> 8) {
            return Holder::Nobody;
        }
        if self.has_stopped(index, state >> 8) {
            Holder::Dead(index)
        } else {
            Holder::Alive(index)
        }
    }

    /// Name and pid of a participant slot, for messages.
    pub(crate) fn describe(&self, index: u32) -> String {
        match self.ctl.participants().get(index as usize) {
            Some(slot) => format!(
                "participant {index} ({:?}, pid {})",
                read_name(&slot.name),
                slot.pid.load(Ordering::Relaxed)
            ),
            None => format!("participant {index}"),
        }
    }

    /// What the living and the gone did, nobody's twice. Somebody who is stopped in the middle of leaving may be missing
    /// for so long.
    pub fn totals(&self) -> Totals {
        let counters = [
            Counter::Deltas,
            Counter::Bytes,
            Counter::Waits,
            Counter::Retries,
        ];
        let mut totals = [0; 4];
        // A leaver's sums vanish from its slot, and then appear in the counters. If they vanished ahead of our look at the
        // slots, and appeared behind the first look at the counters, then either they are still moving behind the look at the
        // slots (N1), or the counters have changed by then (N2). None is met twice: who appears has vanished (N1).
        for attempt in 0..1000 {
            let gone = counters.map(|c| self.pages.counter(c));
            fence(Ordering::Acquire);
            totals = gone;
            for slot in self.ctl.participants_used() {
                let sums = [&slot.deltas, &slot.bytes, &slot.waits, &slot.retries];
                if slot.state.load(Ordering::Acquire) & 0xff == SLOT_ACTIVE {
                    for (total, sum) in totals.iter_mut().zip(sums) {
                        *total = total.wrapping_add(sum.load(Ordering::Relaxed));
                    }
                }
            }
            fence(Ordering::Acquire);
            let slots = self.ctl.participants_used();
            let moving = |s: &ParticipantSlot| s.recovering.load(Ordering::Acquire) == MOVING;
            if !slots.iter().any(moving) && counters.map(|c| self.pages.counter(c)) == gone {
                break;
            }
            if attempt < 100 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        let [deltas, bytes, waits, retries] = totals;
        Totals {
            deltas,
            bytes,
            waits,
            retries,
        }
    }

    /// Everybody in a slot, dead or alive.
    pub fn participants(&self) -> Vec<ParticipantInfo> {
        let mut list = Vec::new();
        for (index, slot) in self.ctl.participants_used().iter().enumerate() {
            // Relaxed below: a report, not a decision.
            let state = slot.state.load(Ordering::Acquire);
            if state & 0xff != SLOT_ACTIVE {
                continue;
            }
            let index = index as u32;
            let r = |a: &AtomicU64| a.load(Ordering::Relaxed);
            list.push(ParticipantInfo {
                index,
                generation: state >> 8,
                name: read_name(&slot.name),
                pid: slot.pid.load(Ordering::Relaxed),
                start_time: r(&slot.start_time),
                pid_namespace: r(&slot.pid_namespace),
                joined_ns: r(&slot.joined_ns),
                alive: !self.is_dead(index, state >> 8),
                hold: r(&slot.hold),
                deltas: r(&slot.deltas),
                bytes: r(&slot.bytes),
                waits: r(&slot.waits),
                retries: r(&slot.retries),
            });
        }
        list
    }
}

/// Text from NUL-padded words.
pub(crate) fn read_name(words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes())
        .collect();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Stores text into NUL-padded words, cut at a character boundary.
pub(crate) fn write_name(words: &[AtomicU64], name: &str) -> usize {
    let mut end = name.len().min(words.len() * 8 - 1);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = name.as_bytes()[..end].to_vec();
    bytes.resize(words.len() * 8, 0);
    for (word, chunk) in words.iter().zip(bytes.chunks_exact(8)) {
        // Relaxed: published by what the caller stores last.
        word.store(
            u64::from_le_bytes(chunk.try_into().unwrap_or_default()),
            Ordering::Relaxed,
        );
    }
    end
}

impl Participant {
    /// Joins the bus: recovers whoever is dead, takes a slot.
    ///
    /// # Errors
    /// [`AttachError::TooManyParticipants`] when every slot belongs to a living participant.
    pub fn join(core: Arc<Core>, config: ParticipantConfig) -> Result<Participant, AttachError> {
        let participant = Participant::join_silently(core, config)?;
        let source = participant
            .source_id(&participant.config.name)
            .map_err(|e| match e {
                PageError::Full(full) => AttachError::Full(full),
                PageError::Corrupt(c) => AttachError::Corrupt(c),
                other => AttachError::Recovery(other.to_string()),
            })?;
        participant.source.set(source);
        Ok(participant)
    }

    /// As [`Participant::join`], without a number for its name, so without a record: for who commits nothing.
    pub(crate) fn join_silently(
        core: Arc<Core>,
        mut config: ParticipantConfig,
    ) -> Result<Participant, AttachError> {
        if config.name.is_empty() {
            config.name = process::comm(process::pid()).unwrap_or_else(|| "unnamed".into());
        }
        fork::install();
        barrier::register();
        let path = core.ctl.path().to_path_buf();
        let io = |what, source| AttachError::Io {
            what,
            path: path.clone(),
            source,
        };
        // Registered ahead of its first lock, so that no fork child keeps one.
        let fd = Description::new(
            space::reopen(core.ctl.probe().as_fd(), true).map_err(|e| io("reopen", e))?,
        )
        .map_err(|e| io("register for fork", e))?;
        recovery::all_dead(&core, &fd).map_err(|e| AttachError::Recovery(e.to_string()))?;
        let slots = core.ctl.participants();
        let mut taken = None;
        for _ in 0..2 {
            for (index, slot) in slots.iter().enumerate() {
                let index = index as u32;
                // Acquire: FREE is stored after the last life was cleared up.
                if slot.state.load(Ordering::Acquire) & 0xff != SLOT_FREE {
                    continue;
                }
                let byte = LOCK_SLOT + u64::from(index);
                if !lock::try_lock(fd.as_fd(), byte).map_err(|e| io("lock", e))? {
                    continue;
                }
                // Under the lock: somebody may have come and died in between; then it is recovery's.
                let state = slot.state.load(Ordering::Acquire);
                if state & 0xff == SLOT_FREE {
                    taken = Some((index, state >> 8));
                    break;
                }
                lock::unlock(fd.as_fd(), byte).map_err(|e| io("unlock", e))?;
            }
            if taken.is_some() {
                break;
            }
            recovery::all_dead(&core, &fd).map_err(|e| AttachError::Recovery(e.to_string()))?;
        }
        let (index, generation) = taken.ok_or(AttachError::TooManyParticipants {
            max: slots.len() as u32,
        })?;
        step("join.locked");
        let slot = &slots[index as usize];
        let pid = process::pid();
        // Relaxed: the slot is ours, and `state` below publishes.
        slot.pid.store(pid, Ordering::Relaxed);
        slot.start_time
            .store(process::start_time(pid).unwrap_or(0), Ordering::Relaxed);
        slot.pid_namespace
            .store(process::pid_namespace(), Ordering::Relaxed);
        slot.joined_ns
            .store(clock::realtime_ns(), Ordering::Relaxed);
        write_name(&slot.name, &config.name);
        for word in [
            &slot.hold,
            &slot.claimed,
            &slot.deltas,
            &slot.bytes,
            &slot.waits,
            &slot.retries,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        slot.active.store(0, Ordering::Relaxed);
        slot.thread.store(0, Ordering::Relaxed);
        // AcqRel: scans that see the new count see the slot.
        core.ctl
            .header()
            .participants_used
            .fetch_max(index + 1, Ordering::AcqRel);
        step("join.described");
        // Release: everything above is in place.
        slot.state
            .store(generation << 8 | SLOT_ACTIVE, Ordering::Release);
        step("join.active");
        let ring = core.pages.ring();
        let tail = ring.recent_boundary();
        let guess = Guess {
            tail,
            since: tail,
            limit: load_lsn(ring.limit, Ordering::Acquire),
        };
        core.pages.count(Counter::Joins, 1);
        let created_ns = core.pages.header().created_ns.load(Ordering::Relaxed);
        let hot = Hot::new(&core, index);
        Ok(Participant {
            hot,
            bond: Bond::default(),
            core,
            fd: fd.keep(),
            index,
            me: owner::word(index, generation),
            fork_generation: Cell::new(fork::generation()),
            stranded: Cell::new(None),
            guess: Cell::new(guess),
            source: Cell::new(0),
            created_ns,
            config,
            pools: RefCell::new(Pools::default()),
            scratch: RefCell::new(Vec::new()),
            leases: RefCell::new(Vec::new()),
            lease_count: Cell::new(0),
            pins: Cell::new(0),
            ties: RefCell::new(Vec::new()),
        })
    }

    /// The bus.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Index of its slot.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Number of the source its deltas carry.
    pub fn source(&self) -> u16 {
        self.source.get()
    }

    /// Its configuration.
    pub fn config(&self) -> &ParticipantConfig {
        &self.config
    }

    /// Changes the longest wait.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.config.timeout = timeout;
    }

    /// Changes what happens when the ring is full.
    pub fn set_on_full(&mut self, on_full: OnFull) {
        self.config.on_full = on_full;
    }

    #[inline(always)]
    pub(crate) fn slot(&self) -> &ParticipantSlot {
        self.hot.slot
    }

    /// Begins an operation that others may have to wait for: should this thread die before the answer is dropped, they are
    /// told at once. Every owner word that is taken and every claim lies inside of one, except that leases go on
    /// between operations.
    #[inline(always)]
    pub(crate) fn operation(&self) -> Inside<'_> {
        self.bond.begin(&self.slot().thread)
    }

    /// The ring.
    #[inline(always)]
    pub(crate) fn ring(&self) -> Ring<'_> {
        self.hot.ring
    }

    /// Owner word of a page.
    #[inline(always)]
    pub(crate) fn owner_word(&self, index: u32) -> &AtomicU32 {
        &self.hot.owners[owner_position(index, self.hot.owner_shift)]
    }

    /// Refuses a handle that a fork copied: its slot and lock are the parent's. Refuses one that met corrupt bytes
    /// behind a commit point, too: it can write no more.
    ///
    /// # Errors
    /// [`PageError::Forked`]; [`PageError::Corrupt`].
    #[inline(always)]
    pub fn check_fork(&self) -> Result<(), PageError> {
        if fork::generation() == self.fork_generation.get() {
            Ok(())
        } else {
            Err(self.refusal())
        }
    }

    #[cold]
    fn refusal(&self) -> PageError {
        self.stranded
            .get()
            .map_or(PageError::Forked, PageError::Corrupt)
    }

    /// Corrupt bytes were met behind the commit point: the record can neither be applied nor taken back. The owner words
    /// and the hold of the commit stay as they are, so that nobody takes the pages for whole and nothing overwrites the
    /// record; this handle does nothing more. Others are told that it holds the page, and, once it is dropped or its
    /// process ends, what is corrupt.
    #[cold]
    pub(crate) fn strand(&self, corrupt: Corrupt) -> PageError {
        self.stranded.set(Some(corrupt));
        self.fork_generation.set(STRANDED);
        corrupt.into()
    }

    /// Whether [`Self::strand`] was called: then nothing is given back.
    #[inline]
    pub(crate) fn is_stranded(&self) -> bool {
        self.fork_generation.get() == STRANDED
    }

    /// Adds to one of the slot's own counters.
    #[inline(always)]
    pub(crate) fn bump(counter: &AtomicU64, n: u64) {
        // Relaxed: only this participant writes it.
        counter.store(
            counter.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Takes an owner word; waits for a living holder, recovers a dead one, asks a leaseholder to let go.
    #[inline(always)]
    pub(crate) fn lock_word(
        &self,
        word: &AtomicU32,
        stripe: u32,
        what: Locked,
    ) -> Result<(), PageError> {
        #[cfg(test)]
        assert!(
            self.bond.is_inside(),
            "a word is taken outside of an operation"
        );
        match owner::try_acquire(word, self.me) {
            Ok(()) => Ok(()),
            Err(_) => self.lock_word_slow(word, stripe, what),
        }
    }

    #[cold]
    fn lock_word_slow(&self, word: &AtomicU32, stripe: u32, what: Locked) -> Result<(), PageError> {
        // Whoever waits holds nothing that it could be waited for: no cycle of leases.
        self.yield_leases();
        let begin = Instant::now();
        let mut waited = false;
        let mut rounds = 0u32;
        let mut asked = false;
        loop {
            // Relaxed: acted on by compare-exchange only.
            let found = word.load(Ordering::Relaxed);
            if found == 0 {
                if owner::try_acquire(word, self.me).is_ok() {
                    return Ok(());
                }
                continue;
            }
            if found == owner::REQUEST {
                // A reader asks for a gap: let it have one, bounded, then go on. If it was us who asked a leaseholder,
                // the word is ours to take.
                let given = !asked
                    && spin_until(Duration::from_micros(8), || {
                        word.load(Ordering::Relaxed) != owner::REQUEST
                    });
                if !given && owner::try_acquire_requested(word, self.me) {
                    return Ok(());
                }
                continue;
            }
            if owner::holder(found) == self.me {
                // A word of this very life: a lock this thread takes twice is a bug of this crate.
                return Err(Corrupt {
                    what: "owner word held twice",
                    offset: found.into(),
                }
                .into());
            }
            rounds += 1;
            if rounds < 200 {
                relax();
                continue;
            }
            if !waited {
                waited = true;
                Self::bump(&self.slot().waits, 1);
            }
            if found & owner::LEASE != 0 {
                asked = true;
                if self.take_from_leaseholder(word, found) {
                    return Ok(());
                }
                if word.load(Ordering::Relaxed) & owner::LEASE == 0 {
                    continue;
                }
            }
            match self.core.holder(found) {
                Holder::Dead(index) => {
                    if recovery::participant(&self.core, &self.fd, index)? {
                        rounds = 0;
                    } else if begin.elapsed() >= self.config.timeout {
                        // Whoever is recovering it may be stopped: bounded like any other wait (I4).
                        return Err(PageError::Timeout {
                            what: what.to_string(),
                            holder: format!(
                                "dead {}, whose recoverer does not finish",
                                self.core.describe(index)
                            ),
                            waited: begin.elapsed(),
                        });
                    }
                    continue;
                }
                Holder::Nobody => {
                    // The life ended between the two looks, or the word is garbage: it guards nothing now.
                    if word.load(Ordering::Relaxed) == found {
                        owner::clear_if(word, owner::holder(found));
                    }
                    continue;
                }
                Holder::Alive(index) => {
                    let elapsed = begin.elapsed();
                    if elapsed >= self.config.timeout {
                        return Err(PageError::Timeout {
                            what: what.to_string(),
                            holder: self.core.describe(index),
                            waited: elapsed,
                        });
                    }
                    // Death outside an operation, or of a whole machine's worth of memory, wakes nobody: look again
                    // soon at first, seldom later.
                    let nap = if elapsed < Duration::from_millis(200) {
                        (elapsed / 2).clamp(FIRST_LOOK, Duration::from_millis(1))
                    } else {
                        Duration::from_millis(5)
                    };
                    let h = self.core.ctl.header();
                    let until = Instant::now() + nap;
                    let thread = &self.core.ctl.participants()[index as usize].thread;
                    doorbell::sleep_beside(
                        robust::watch(thread).map(|value| (thread, value)),
                        &h.owner_bell,
                        &h.owner_sleepers,
                        doorbell::bit(stripe),
                        until,
                        || word.load(Ordering::Relaxed) != found || robust::died_inside(thread),
                    );
                }
            }
        }
    }

    /// Asks the holder of a lease to let go, and takes the word if it is not inside a commit.
    fn take_from_leaseholder(&self, word: &AtomicU32, found: u32) -> bool {
        let Some(asked) = lease::ask(word, found) else {
            return false;
        };
        // The heavy barrier of `lease`. The quick membarrier will not do: after a thread exit it may miss a running sibling
        // (docs/decisions/0003); the slow one takes some 10 ms and misses nobody. A busy holder answers the request
        // itself long before that.
        if spin_until(Duration::from_micros(50), || {
            word.load(Ordering::Relaxed) != asked
        }) {
            return false;
        }
        let Some((holder, slot)) = owner::index(found)
            .and_then(|i| Some((i, self.core.ctl.participants().get(i as usize)?)))
        else {
            return false;
        };
        // The kernel lock keeps the holder from taking a lease again (`may_lease`) between our look at `active` and the
        // exchange: the word would be the same, and it might be inside a commit by then. Our death ends the lock.
        let byte = LOCK_LEASE + u64::from(holder);
        if !lock::try_lock(self.fd.as_fd(), byte).unwrap_or(false) {
            return false;
        }
        // SeqCst fence: the other half of the one in `may_lease`. Relaxed: `take` compares again.
        fence(Ordering::SeqCst);
        let taken = word.load(Ordering::Relaxed) == asked
            && barrier::membarrier_slow()
            && lease::take(word, &slot.active, asked, self.me);
        let _ = lock::unlock(self.fd.as_fd(), byte);
        if taken {
            self.core.pages.count(Counter::LeasesYielded, 1);
        }
        taken
    }

    /// Whether an owner word may become a lease now: not while somebody is taking one from this participant.
    pub(crate) fn may_lease(&self) -> bool {
        // SeqCst fence: the word was given back, or taken, ahead of the look at the lock; who takes a lease locks, and
        // then looks at the word. Either we see the lock, or it sees that the lease it knew is over.
        fence(Ordering::SeqCst);
        // An error of the kernel is no permission.
        !lock::is_locked(
            self.core.ctl.probe().as_fd(),
            LOCK_LEASE + u64::from(self.index),
        )
        .unwrap_or(true)
    }

    /// Gives an owner word back and wakes who waits for it.
    #[inline(always)]
    pub(crate) fn unlock_word(&self, word: &AtomicU32, stripe: u32) {
        owner::release(word, self.me);
        self.wake_owner_waiters(stripe);
    }

    /// As [`Self::unlock_word`], but a stranded participant keeps what it holds.
    pub(crate) fn unlock_unless_stranded(&self, word: &AtomicU32, stripe: u32) {
        if !self.is_stranded() {
            self.unlock_word(word, stripe);
        }
    }

    #[inline(always)]
    pub(crate) fn wake_owner_waiters(&self, stripe: u32) {
        if doorbell::is_asleep(self.hot.owner_sleepers, doorbell::bit(stripe)) {
            self.wake_owner_waiters_slow(stripe);
        }
    }

    #[cold]
    fn wake_owner_waiters_slow(&self, stripe: u32) {
        let h = self.core.ctl.header();
        doorbell::wake(&h.owner_bell, &h.owner_sleepers, doorbell::bit(stripe));
    }

    /// Wakes subscribers that sleep for a page of these stripes.
    #[inline(always)]
    pub(crate) fn ring_bell(&self, mask: u32) {
        if doorbell::is_asleep(self.hot.sleepers, mask) {
            self.ring_bell_slow(mask);
        }
    }

    #[cold]
    fn ring_bell_slow(&self, mask: u32) {
        self.core.pages.count(Counter::Wakes, 1);
        doorbell::wake(
            &self.core.pages.header().doorbell,
            &self.core.ctl.header().sleepers,
            mask,
        );
    }

    /// Now, in the unit of a record.
    #[inline(always)]
    pub(crate) fn record_time(&self) -> u32 {
        (clock::coarse_realtime_ns().saturating_sub(self.created_ns)
            >> crate::ring::record::TIME_SHIFT) as u32
    }

    /// Repairs whatever dead participants left. Returns how many there were.
    pub fn recover_all(&self) -> Result<u32, PageError> {
        self.check_fork()?;
        recovery::all_dead(&self.core, &self.fd)
    }

    /// Number of the source `name`, registering it if it is new.
    pub(crate) fn source_id(&self, name: &str) -> Result<u16, PageError> {
        crate::names::source_id(self, name)
    }

    /// Leaves the bus: gives back all that this life holds. Dropping does the same.
    pub fn leave(self) {}
}

impl Drop for Participant {
    fn drop(&mut self) {
        if self.is_stranded() {
            // Leaves like the dead: its slot and all it holds are for recovery, which finds what is corrupt. (In a fork
            // child the handler closed the descriptor.)
            Tie::cut(self.ties.get_mut());
            if fork::forget(self.fd.as_raw_fd()) {
                // SAFETY: dropped once, here; closing the description releases the slot lock.
                unsafe { ManuallyDrop::drop(&mut self.fd) };
            }
            return;
        }
        if fork::generation() != self.fork_generation.get() {
            // The fork handler closed the descriptor; the slot is the parent's. (If the parent is dead, whoever meets
            // it recovers it.)
            return;
        }
        self.yield_leases();
        self.give_back_blocks();
        Tie::cut(self.ties.get_mut());
        step("leave.begin");
        // Loans that were forgotten, not dropped: nobody else would ever find their blocks.
        let _ = recovery::free_hand(&self.core, self.index, self.me);
        let generation = self.slot().state.load(Ordering::Relaxed) >> 8;
        // A clean leaver leaves nothing behind but its slot; the same code clears it as for the dead.
        recovery::vacate(&self.core, self.index, generation);
        step("leave.vacated");
        // A child that is being forked right now may hold a copy: the lock goes for all of them.
        let _ = lock::unlock(self.fd.as_fd(), LOCK_SLOT + u64::from(self.index));
        fork::forget(self.fd.as_raw_fd());
        // SAFETY: dropped once, here; closing the description releases the slot lock.
        unsafe { ManuallyDrop::drop(&mut self.fd) };
    }
}

/// How long a waiter sleeps before its first second look at a holder that was alive.
const FIRST_LOOK: Duration = Duration::from_micros(20);

/// No generation of a process: forks are counted from 0.
const STRANDED: u64 = u64::MAX;

/// What is waited for, for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Locked {
    Page(u32),
    Names,
    Growth,
    Limit,
}

impl std::fmt::Display for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Locked::Page(index) => write!(f, "page {index}"),
            Locked::Names => write!(f, "the name directory"),
            Locked::Growth => write!(f, "the growth of the bus"),
            Locked::Limit => write!(f, "the claim limit of the ring"),
        }
    }
}

/// Polls until `done` or for `at_most`; what `done` said last.
pub(crate) fn spin_until(at_most: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        for _ in 0..32 {
            if done() {
                return true;
            }
            relax();
        }
        if begin.elapsed() >= at_most {
            return done();
        }
    }
}

const _: () = assert!(SOURCE_NAME_WORDS * 8 > crate::layout::SOURCE_BYTES_MAX);
