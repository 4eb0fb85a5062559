//! Following the ring: by participants, gating or lossy, and by observers, who are always lossy.
//!
//! A follower polls the stamp at its own position; it writes nothing that writers read, except its cursor if it is
//! gating. What it copies it believes only if the overwrite floor is still not past it (PROTOCOL A2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::blocks;
use crate::doorbell::{self, WaitStrategy};
use crate::error::{BusFull, Corrupt, PageError};
use crate::layout::page::BlockRef;
use crate::layout::participant::Cursor;
use crate::layout::ring::{Kind, RecordFlags, RecordHead, SLOT_BYTES, SlotState, Stamp, slots_for};
use crate::names::Cold;
use crate::page::PageId;
use crate::participant::{Holder, Participant, spin_until};
use crate::recovery;
use crate::ring::record::{self, TIME_SHIFT};
use crate::ring::{LSN_MAX, Ring, Seen, gating};
use crate::segment::{Core, Pages};
use crate::stats::Counter;
use crate::sync::{AtomicU32, Ordering, heavy, light, prefetch_read, relax};
use crate::sys::{clock, futex};
use crate::testing::step;

/// Missed records: the follower was overtaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gap {
    /// First LSN that was missed.
    pub from: u64,
    /// Where the follower goes on. Pages hold everything in between: read them again.
    pub to: u64,
}

/// A delta as a follower sees it.
#[derive(Clone, Copy, Debug)]
pub struct Delta<'a> {
    /// Its place in the order.
    pub lsn: u64,
    /// Where its group ends: the LSN of whatever comes after the group.
    pub group_end: u64,
    /// The page. Index 0 generation 0 for sources and marks.
    pub page: PageId,
    /// What it does.
    pub kind: Kind,
    /// Who made it.
    pub source: u16,
    /// CLOCK_REALTIME of the commit in ns, in steps of about a millisecond (and the coarse clock's 1-4 ms).
    pub time_ns: u64,
    /// LSN of the delta that led to it, 0: outside input.
    pub cause: u64,
    /// Whether it belongs to a transaction.
    pub transaction: bool,
    /// First byte it concerns.
    pub offset: u32,
    /// The payload as recorded; see [`Delta::for_each_range`].
    pub payload: &'a [u8],
    /// For a swap: the block that became the page's content.
    block: u64,
}

impl Delta<'_> {
    /// Calls `f(offset, bytes)` for every range of the page that the delta overwrites. Nothing for other kinds.
    pub fn for_each_range(&self, f: impl FnMut(usize, &[u8])) {
        // `None` for kinds without ranges, and for a payload that was found malformed: nothing to visit.
        let _ = record::for_each_range(self.kind, self.offset, self.payload, u64::MAX, f);
    }

    /// Bytes of the page that the delta overwrites, for patches.
    pub fn changed_bytes(&self) -> usize {
        let mut n = 0;
        self.for_each_range(|_, b| n += b.len());
        n
    }

    /// For a creation: size and version slots of the page.
    pub fn created_size(&self) -> Option<(u32, u32)> {
        if self.kind != Kind::Create {
            return None;
        }
        let mut body = self.payload;
        let size = record::take_u32(&mut body)?;
        let shape = record::take_u32(&mut body)?;
        Some((size, (shape >> 8 & 0xff).max(1)))
    }

    /// For a creation or a description: the page's name, schema and metadata from here on. `None` for other kinds, and
    /// for bytes that no writer makes.
    pub fn cold(&self) -> Option<Cold> {
        let bytes = match self.kind {
            Kind::Create => self.payload.get(8..)?,
            Kind::Describe => self.payload,
            _ => return None,
        };
        if bytes.is_empty() {
            return Some(Cold::default());
        }
        Cold::decode(bytes).map(|(_, cold)| cold)
    }
}

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// This many deltas were delivered.
    Deltas(usize),
    /// Nothing new.
    Empty,
    /// Overtaken; the position was moved to `to`.
    Gap(Gap),
    /// A claimed, unfinished record is in the way.
    Waiting {
        /// Its LSN.
        lsn: u64,
    },
}

/// A place in the ring. It belongs to a participant or to an observer, which does the polling.
#[derive(Debug)]
pub struct Follower {
    position: u64,
    /// Index of its cursor in `.ctl`, if it has one.
    cursor: Option<(Arc<CursorOwner>, u32)>,
    gating: bool,
    /// Pages of interest by stripe, for the doorbell.
    mask: u32,
    strategy: WaitStrategy,
    scratch: Vec<u8>,
    missed: u64,
    /// When a claimed record was first met at the present position.
    waiting_since: Option<(u64, Instant)>,
    /// It met these bytes inside a group, and cannot go on.
    broken: Option<Corrupt>,
}

/// Between a follower and its participant, which may leave in another thread: a cursor is moved or given back only while
/// its life lasts. Afterwards somebody else may have it, and a look at its owner word ahead of the store would not do.
///
/// ```text
/// follower:       busy = 1      light barrier     gone = 0?  touch the cursor; busy = 0
/// participant:    gone = 1      heavy barrier     wait for busy = 0; let go of the life
/// ```
///
/// As with a lease: either the follower's look came ahead of the heavy barrier, and so did `busy`, which the participant
/// then waits for; or it came behind, and sees `gone`. Both are threads of one process, which the quick membarrier never
/// misses.
#[derive(Debug, Default)]
pub(crate) struct Tie {
    busy: AtomicU32,
    gone: AtomicU32,
}

impl Tie {
    /// Runs `f` if the participant is still there, and keeps it there meanwhile.
    #[inline]
    fn hold(&self, f: impl FnOnce()) {
        // Relaxed, then the light barrier, then the look: see above.
        self.busy.store(1, Ordering::Relaxed);
        light();
        if self.gone.load(Ordering::Relaxed) == 0 {
            f();
        }
        // Release: what `f` stored is ahead of whatever the participant does once it sees the 0.
        self.busy.store(0, Ordering::Release);
    }

    /// The life of the participant is about to end: no follower of it touches its cursor from here on.
    pub(crate) fn cut(ties: &[Arc<Tie>]) {
        if ties.is_empty() {
            return;
        }
        for tie in ties {
            tie.gone.store(1, Ordering::Relaxed);
        }
        if !heavy() {
            // No membarrier here: a store reaches memory long before that.
            std::thread::sleep(Duration::from_millis(1));
        }
        for tie in ties {
            // Acquire: pairs with the end of `hold`.
            while tie.busy.load(Ordering::Acquire) != 0 {
                std::thread::yield_now();
            }
        }
    }
}

/// Gives a cursor back when its follower goes.
pub(crate) struct CursorOwner {
    core: Arc<Core>,
    index: u32,
    me: u32,
    fork: u64,
    tie: Arc<Tie>,
}

impl std::fmt::Debug for CursorOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cursor {}", self.index)
    }
}

impl Drop for CursorOwner {
    fn drop(&mut self) {
        if crate::sys::fork::generation() != self.fork {
            return;
        }
        let cursor = &self.core.ctl.cursors()[self.index as usize];
        self.tie.hold(|| {
            // Only if it is still this life's: the word may hold anything.
            if cursor.owner.load(Ordering::Acquire) == self.me {
                cursor.gating.store(0, Ordering::Release);
                cursor.owner.store(0, Ordering::Release);
            }
        });
    }
}

impl Follower {
    /// A follower without a cursor, at `position`: what observers use.
    pub fn at(position: u64) -> Follower {
        Follower {
            position: position.min(LSN_MAX),
            cursor: None,
            gating: false,
            mask: u32::MAX,
            strategy: WaitStrategy::default(),
            scratch: Vec::new(),
            missed: 0,
            waiting_since: None,
            broken: None,
        }
    }

    /// Next LSN it will look at.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Does something to its cursor, as long as it is its own: not in a fork child, and not after its participant left.
    #[inline]
    fn with_cursor(&self, f: impl FnOnce(&Cursor)) {
        let Some((owner, index)) = self.cursor.as_ref() else {
            return;
        };
        if crate::sys::fork::generation() != owner.fork {
            return;
        }
        let Some(cursor) = owner.core.ctl.cursors().get(*index as usize) else {
            return;
        };
        owner.tie.hold(|| {
            // Relaxed: ours until our participant's life ends, which the tie holds off.
            if cursor.owner.load(Ordering::Relaxed) == owner.me {
                step("follow.moving");
                f(cursor);
            }
        });
    }

    /// How it waits.
    pub fn set_strategy(&mut self, strategy: WaitStrategy) {
        self.strategy = strategy;
    }

    /// How it waits.
    pub fn strategy(&self) -> WaitStrategy {
        self.strategy
    }

    /// Says which pages can wake it: those whose index modulo 32 is a set bit.
    pub fn set_mask(&mut self, mask: u32) {
        self.mask = if mask == 0 { u32::MAX } else { mask };
    }

    /// Whether writers wait for it.
    pub fn is_gating(&self) -> bool {
        self.gating
    }

    /// LSNs it missed by being overtaken.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Delivers up to about `max` deltas (whole groups) that are there already.
    ///
    /// # Errors
    /// [`PageError::Corrupt`] for bytes that no writer makes.
    #[inline]
    pub fn poll(
        &mut self,
        pages: &Pages,
        max: usize,
        mut f: impl FnMut(&Delta<'_>),
    ) -> Result<Polled, PageError> {
        if let Some(corrupt) = self.broken {
            return Err(corrupt.into());
        }
        let ring = pages.ring();
        let mut delivered = 0;
        let mut clock = None;
        let begin = self.position;
        let result = loop {
            if delivered >= max {
                break Polled::Deltas(delivered);
            }
            match ring.look(self.position) {
                Seen::Ready(stamp) => {
                    match self.take_group(pages, &ring, stamp, &mut clock, &mut f)? {
                        Some(n) => delivered += n,
                        None => break self.lapped(&ring)?,
                    }
                }
                Seen::Padding(stamp) => {
                    // The floor is looked at as for any record: a stale lap's padding must not move us astray.
                    if !ring.is_intact(self.position) {
                        break self.lapped(&ring)?;
                    }
                    self.position += u64::from(stamp.slots());
                }
                Seen::Nothing => {
                    break if delivered > 0 {
                        Polled::Deltas(delivered)
                    } else {
                        Polled::Empty
                    };
                }
                Seen::Claimed(_) if delivered > 0 => break Polled::Deltas(delivered),
                Seen::Claimed(_) => break Polled::Waiting { lsn: self.position },
                Seen::Lapped => break self.lapped(&ring)?,
                Seen::Bad => {
                    if ring.is_intact(self.position) {
                        return Err(Corrupt {
                            what: "ring stamp",
                            offset: self.position,
                        }
                        .into());
                    }
                    break self.lapped(&ring)?;
                }
            }
        };
        if self.position != begin {
            self.waiting_since = None;
            self.with_cursor(|cursor| {
                // Release: everything ahead of it was read. Writers read it when they need room.
                cursor.position.store(self.position, Ordering::Release);
            });
        }
        match result {
            // A gap behind deltas is told by the next poll.
            Polled::Gap(gap) if delivered > 0 => {
                self.position = gap.from;
                self.missed -= gap.to - gap.from;
                Ok(Polled::Deltas(delivered))
            }
            other => Ok(other),
        }
    }

    /// Copies the group at the position, validates the copy, delivers it. `None`: it was overwritten meanwhile.
    #[inline]
    fn take_group(
        &mut self,
        pages: &Pages,
        ring: &Ring<'_>,
        stamp: Stamp,
        clock: &mut Option<Clock>,
        f: &mut impl FnMut(&Delta<'_>),
    ) -> Result<Option<usize>, PageError> {
        let lsn = self.position;
        let slots = u64::from(stamp.slots());
        let end = lsn + slots;
        // Most groups are one record. Its length is believed only if it is the stamp's, which fits the ring; then
        // its body is joined while it is copied.
        let head = record::read_head(ring, lsn);
        let long = slots >= LONG_GROUP;
        if slots_for(head.body as usize) == slots {
            if long {
                prefetch_read(ring.slot(end));
            }
            self.scratch.clear();
            record::read_body(ring, lsn, &head, &mut self.scratch);
            if !ring.is_intact(lsn) {
                return Ok(None);
            }
            let clock = *clock.get_or_insert_with(|| Clock::read(pages));
            let Some(delta) = delta(clock, lsn, end, &head, &self.scratch) else {
                return Err(Corrupt {
                    what: "record",
                    offset: lsn,
                }
                .into());
            };
            f(&delta);
            self.position = end;
            return Ok(Some(1));
        }
        let needed = slots as usize * SLOT_BYTES as usize;
        if self.scratch.len() < needed {
            self.scratch.resize(needed, 0);
        }
        let copied = self.scratch.get_mut(..needed).unwrap_or_default();
        if long {
            prefetch_read(ring.slot(end));
        }
        record::read_slots(ring, lsn, copied);
        if !ring.is_intact(lsn) {
            return Ok(None);
        }
        // While this group is delivered, the lines of the next one come over, if it is there already. Never lines that are
        // not READY: they are their writer's.
        let mut ahead = 0..0;
        if long && let Seen::Ready(next) = ring.look(end) {
            ahead = end + 1..end + u64::from(next.slots());
        }
        let mut rest = copied;
        let (mut at, mut count) = (lsn, 0);
        let corrupt = loop {
            let bad = |what| Corrupt { what, offset: at };
            let Some(taken) = record::take_first(rest) else {
                break bad("record longer than its group");
            };
            if at != lsn
                && (taken.stamp.state() != SlotState::Inner || taken.stamp.lap() != ring.lap(at))
            {
                break bad("stamp inside a group");
            }
            for lsn in ahead.by_ref().take(taken.slots as usize) {
                prefetch_read(ring.slot(lsn));
            }
            let clock = *clock.get_or_insert_with(|| Clock::read(pages));
            let Some(delta) = delta(clock, at, end, &taken.head, taken.body) else {
                break bad("record");
            };
            f(&delta);
            (at, rest, count) = (at + taken.slots, taken.rest, count + 1);
            if at == end {
                self.position = end;
                return Ok(Some(count));
            }
        };
        // What stands ahead of corrupt bytes in a group was delivered, and is not delivered again.
        self.broken = (count > 0).then_some(corrupt);
        Err(corrupt.into())
    }

    /// What stood at the position is overwritten, or so the floor says: goes on near the end of the ring.
    #[cold]
    #[inline(never)]
    fn lapped(&mut self, ring: &Ring<'_>) -> Result<Polled, Corrupt> {
        let from = self.position;
        // Acquire (R2): with the floor comes the `published` that allowed it, which is no less.
        ring.floor.load(Ordering::Acquire);
        let to = ring.recent_boundary();
        if to <= from {
            // Nothing is overwritten ahead of being published. A gap of no length would be told again and again.
            return Err(Corrupt {
                what: "overwrite floor, or stamp, ahead of what is published",
                offset: from,
            });
        }
        self.missed += to - from;
        self.position = to;
        self.with_cursor(|cursor| cursor.missed.store(self.missed, Ordering::Relaxed));
        Ok(Polled::Gap(Gap { from, to }))
    }

    /// Whether there is something to poll.
    #[inline]
    fn is_ready(&self, pages: &Pages) -> bool {
        !matches!(
            pages.ring().look(self.position),
            Seen::Nothing | Seen::Claimed(_)
        )
    }

    /// Waits until there is something to poll, or until `deadline`, as an observer: with timed sleeps, because it can
    /// tell nobody that it sleeps.
    ///
    /// # Errors
    /// [`PageError::Stalled`] if a claimed record stays unfinished for 100 ms: its writer is dead or stopped, and an
    /// observer cannot repair it.
    pub fn wait_observing(
        &mut self,
        pages: &Pages,
        deadline: Option<Instant>,
    ) -> Result<bool, PageError> {
        let spin = self.strategy.spin();
        if spin.is_none_or(|d| !d.is_zero())
            && spin_until(spin.unwrap_or(Duration::from_millis(1)), || {
                self.is_ready(pages)
            })
        {
            return Ok(true);
        }
        let mut nap = Duration::from_micros(200);
        loop {
            let bell = pages.header().doorbell.load(Ordering::Acquire);
            if self.is_ready(pages) {
                return Ok(true);
            }
            if let Seen::Claimed(_) = pages.ring().look(self.position) {
                match self.waiting_since {
                    Some((at, since)) if at == self.position => {
                        if since.elapsed() > Duration::from_millis(100) {
                            return Err(PageError::Stalled { lsn: self.position });
                        }
                    }
                    _ => self.waiting_since = Some((self.position, Instant::now())),
                }
            }
            if pages.is_abandoned() {
                return Err(PageError::BusGone);
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return Ok(false);
            }
            if spin.is_none() {
                relax();
                continue;
            }
            let left = deadline.map_or(nap, |d| {
                d.saturating_duration_since(Instant::now()).min(nap)
            });
            if futex::wait(&pages.header().doorbell, bell, Some(left), u32::MAX).is_err() {
                std::thread::sleep(left);
            }
            nap = (nap * 2).min(Duration::from_millis(10));
        }
    }
}

/// Slots from which on the lines of the group behind are asked for ahead of time.
const LONG_GROUP: u64 = 16;

/// What makes a record's time whole, read once for all that one poll delivers.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    created: u64,
    /// Now, in units since the bus was created.
    now: u64,
}

impl Clock {
    /// For records of a bus created at `created_ns` that were all committed within 26 days of `near_ns` (both
    /// CLOCK_REALTIME, ns).
    #[inline]
    pub fn new(created_ns: u64, near_ns: u64) -> Clock {
        Clock {
            created: created_ns,
            now: near_ns.saturating_sub(created_ns) >> TIME_SHIFT,
        }
    }

    #[inline]
    fn read(pages: &Pages) -> Clock {
        let created = pages.header().created_ns.load(Ordering::Relaxed);
        Clock::new(created, clock::coarse_realtime_ns())
    }

    /// The low 32 bits of a time count units of 2^20 ns since the bus was created; the rest follows from now, because
    /// no record is 26 days old or from the future.
    #[inline(always)]
    fn full(self, low: u32) -> u64 {
        let near = self.now & !0xffff_ffff | u64::from(low);
        let units = if near > self.now + (1 << 31) {
            near.saturating_sub(1 << 32)
        } else {
            near
        };
        self.created.wrapping_add(units << TIME_SHIFT)
    }
}

/// The delta of the record at `at`. `None`: no writer makes such a record.
#[inline(always)]
pub(crate) fn delta<'a>(
    clock: Clock,
    at: u64,
    group_end: u64,
    head: &RecordHead,
    body: &'a [u8],
) -> Option<Delta<'a>> {
    let kind = Kind::from_byte(head.kind)?;
    let parts = record::parts(head, body)?;
    Some(Delta {
        lsn: at,
        group_end,
        page: PageId {
            index: head.index,
            generation: head.generation,
        },
        kind,
        source: head.source,
        time_ns: clock.full(head.time),
        cause: parts.cause,
        transaction: head.flags & RecordFlags::TRANSACTION != 0,
        offset: head.offset,
        payload: parts.payload,
        block: parts.new_block,
    })
}

impl Pages {
    /// Content of the block that a swap made the page's, if it is still that. `false`: it was reused; read the page.
    ///
    /// Gating followers always find it, unless they are past the delta.
    pub fn read_swapped(&self, delta: &Delta<'_>, out: &mut Vec<u8>) -> Result<bool, PageError> {
        if delta.kind != Kind::Swap {
            return Ok(false);
        }
        let block = self.block(BlockRef::from_bits(delta.block), 0)?;
        let size = u64::from(block.header.size.load(Ordering::Acquire));
        if size > block.room || block.header.lsn.load(Ordering::Acquire) != delta.lsn {
            return Ok(false);
        }
        out.resize(size as usize, 0);
        // SAFETY: `size` ≤ the room of the block; the buffer was just sized.
        unsafe { self.copy_out(out.as_mut_ptr(), block.payload, size as usize)? };
        // The state would not tell: a block whose delta is READY and not yet applied is still in its writer's hand.
        Ok(blocks::still_of(&block.header.lsn, delta.lsn))
    }

    /// Where the ring ends now: what follows from here is new.
    pub fn end_lsn(&self) -> u64 {
        self.ring().end()
    }

    /// The oldest LSN that may still be followed from: the first record boundary that is not ahead of the floor, which
    /// itself may lie anywhere. The end of the ring where writers overtake every look.
    pub fn floor_lsn(&self) -> u64 {
        let ring = self.ring();
        for _ in 0..100 {
            // Lapped or not, whatever is a boundary once is one for ever; it only has to be still there.
            if let Some(at) = self.boundary_near(0)
                && ring.is_intact(at)
            {
                return at;
            }
        }
        ring.end()
    }
}

impl Participant {
    /// Starts following at the end of the ring.
    ///
    /// # Errors
    /// [`BusFull::Cursors`].
    pub fn follow(&self, gating: bool) -> Result<Follower, PageError> {
        self.check_fork()?;
        let core = &self.core;
        let Some(index) = core.ctl.cursors().iter().position(|c| {
            // AcqRel: the cursor is ours before it says anything.
            c.owner
                .compare_exchange(0, self.me, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        }) else {
            return Err(BusFull::Cursors {
                max: core.ctl.cursors().len() as u32,
            }
            .into());
        };
        step("follow.taken");
        let cursor = &core.ctl.cursors()[index];
        cursor.missed.store(0, Ordering::Relaxed);
        gating::announce(cursor, gating);
        core.ctl
            .header()
            .cursors_used
            .fetch_max(index as u32 + 1, Ordering::AcqRel);
        let position = gating::start(cursor, &core.pages.ring());
        step("follow.joined");
        let tie = Arc::new(Tie::default());
        let mut ties = self.ties.borrow_mut();
        // Followers that are gone, and done with their cursors.
        ties.retain(|tie| Arc::strong_count(tie) > 1);
        ties.push(Arc::clone(&tie));
        drop(ties);
        let owner = CursorOwner {
            core: Arc::clone(core),
            index: index as u32,
            me: self.me,
            fork: crate::sys::fork::generation(),
            tie,
        };
        let mut follower = Follower::at(position);
        follower.cursor = Some((Arc::new(owner), index as u32));
        follower.gating = gating;
        Ok(follower)
    }

    /// Waits until the follower has something to poll, or until `deadline`. Recovers a dead writer in the way.
    ///
    /// # Errors
    /// [`PageError::Timeout`] if a living writer leaves a claimed record unfinished for the participant's timeout.
    pub fn wait(
        &self,
        follower: &mut Follower,
        deadline: Option<Instant>,
    ) -> Result<bool, PageError> {
        self.check_fork()?;
        let pages = &self.core.pages;
        loop {
            match follower.strategy.spin() {
                None => {
                    if spin_until(Duration::from_millis(1), || follower.is_ready(pages)) {
                        return Ok(true);
                    }
                }
                Some(spin) => {
                    if !spin.is_zero() && spin_until(spin, || follower.is_ready(pages)) {
                        return Ok(true);
                    }
                    self.yield_leases();
                    let h = self.core.ctl.header();
                    let nap = Instant::now() + Duration::from_millis(100);
                    let until = deadline.map_or(nap, |d| d.min(nap));
                    if doorbell::sleep(
                        &pages.header().doorbell,
                        &h.sleepers,
                        follower.mask,
                        Some(until),
                        || {
                            // A claim is a reason to look closer, not to sleep on: its writer may be dead.
                            !matches!(pages.ring().look(follower.position), Seen::Nothing)
                        },
                    ) && follower.is_ready(pages)
                    {
                        return Ok(true);
                    }
                }
            }
            if follower.is_ready(pages) {
                return Ok(true);
            }
            if pages.is_abandoned() {
                return Err(PageError::BusGone);
            }
            self.look_at_claim(follower)?;
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return Ok(follower.is_ready(pages));
            }
        }
    }

    /// Somebody claimed the next record and did not finish: dead, stopped, or just slow.
    fn look_at_claim(&self, follower: &mut Follower) -> Result<(), PageError> {
        let Seen::Claimed(stamp) = self.core.pages.ring().look(follower.position) else {
            return Ok(());
        };
        let index = stamp.owner_index();
        let slot = self.core.ctl.participants().get(index as usize);
        let state = slot.map_or(0, |s| s.state.load(Ordering::Acquire));
        let word = crate::page::owner::word(index, state >> 8);
        let since = match follower.waiting_since {
            Some((at, since)) if at == follower.position => since,
            _ => {
                let now = Instant::now();
                follower.waiting_since = Some((follower.position, now));
                now
            }
        };
        // A claim of an ended life: its recovery padded all there were, so this is what nobody writes.
        let holder = if stamp.is_by(word) {
            self.core.holder(word)
        } else {
            Holder::Nobody
        };
        match holder {
            Holder::Nobody if since.elapsed() >= self.config.timeout => {
                return Err(Corrupt {
                    what: "claim of nobody",
                    offset: follower.position,
                }
                .into());
            }
            Holder::Dead(index) => {
                let recovered = recovery::participant(&self.core, &self.fd, index)?;
                if !recovered && since.elapsed() >= self.config.timeout {
                    // Whoever is recovering it may be stopped: bounded like any other wait (I4).
                    return Err(PageError::Timeout {
                        what: format!("the record at LSN {}", follower.position),
                        holder: format!(
                            "dead {}, whose recoverer does not finish",
                            self.core.describe(index)
                        ),
                        waited: since.elapsed(),
                    });
                }
            }
            Holder::Alive(index) if since.elapsed() >= self.config.timeout => {
                return Err(PageError::Timeout {
                    what: format!("the record at LSN {}", follower.position),
                    holder: self.core.describe(index),
                    waited: since.elapsed(),
                });
            }
            _ => std::thread::sleep(Duration::from_micros(50)),
        }
        Ok(())
    }

    /// Polls, and finishes the work of a dead writer that is in the way.
    #[inline]
    pub fn poll(
        &self,
        follower: &mut Follower,
        max: usize,
        f: impl FnMut(&Delta<'_>),
    ) -> Result<Polled, PageError> {
        self.check_fork()?;
        let polled = follower.poll(&self.core.pages, max, f)?;
        if let Polled::Deltas(_) = polled {
            // Right behind records of this ring stands a boundary of it: the next claim need not walk over what was
            // polled. (Other positions are only what somebody said, and a claim must not trust them.)
            let mut guess = self.guess.get();
            if follower.position > guess.tail {
                // Others claimed what lies ahead of it, and not all of that was polled: a follower that begins at the end
                // of the ring begins behind records that are only claimed.
                guess.move_to(follower.position);
                self.guess.set(guess);
            }
        }
        match polled {
            Polled::Waiting { .. }
                // Most claims are finished within nanoseconds; look closer only at one that stays.
                if !spin_until(Duration::from_micros(20), || {
                    follower.is_ready(&self.core.pages)
                }) => {
                    self.look_at_claim(follower)?;
                }
            Polled::Gap(_) => self.core.pages.count(Counter::Gaps, 1),
            _ => {}
        }
        Ok(polled)
    }
}

#[cfg(test)]
mod tests;
