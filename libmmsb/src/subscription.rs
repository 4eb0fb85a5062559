//! Subscriptions: following the deltas of a bus.
//!
//! # Gating and lossy
//! The ring is finite. Writers wait for a **gating** subscriber: it never misses a delta, and if it stops reading, all
//! writers come to a halt, first waiting, then with `Backpressure` that names it. A **lossy** one never delays anybody;
//! if it is overtaken it gets [`Event::Gap`] and goes on at the end of the gap. State is in the pages, so nothing is
//! lost but the steps: with [`From::Snapshot`] (or [`SubscribeBuilder::resync`]) fresh images of its pages follow the
//! gap.
//!
//! # Crashes
//! A subscriber that dies takes its cursor along: whoever meets it drops it. A writer that dies inside a record holds
//! nobody up: the subscriber finishes its work. A writer that is stopped there, but alive, is waited for; after the
//! timeout of the bus [`Subscription::next`] returns [`PageError::Timeout`], which names it.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mmsb_shm::{
    Ahead, Delta, Follower, PageError, PageId, PageRef, PageVersion, Pages, Polled, WaitStrategy,
};

use crate::Bus;
use crate::catch_up::CatchUp;
use crate::delta::Event;
use crate::error::{Error, Result};
use crate::filter::{Filter, Reader, Tracker};
use crate::poll_fd::Watch;

/// Deltas that one poll takes at most, but for the rest of a group.
const BATCH: usize = 128;

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum From {
    /// With the next delta.
    #[default]
    Now,
    /// With an image of each page, then every later delta of it, without gap or duplicate.
    Snapshot,
    /// With the delta at this LSN, then every later one, without gap or duplicate: from the log as far as that goes, then
    /// from the ring. The bus needs a log, and the subscription its [directory](SubscribeBuilder::log).
    ///
    /// LSNs compare within one incarnation of the bus ([`BusInfo::incarnation`](crate::BusInfo)). One of an earlier
    /// incarnation is good up to where the next one began; beyond, [`Error::Diverged`] says where
    /// that was.
    Lsn {
        /// Incarnation that the LSN is of.
        incarnation: u64,
        /// First delta wanted.
        lsn: u64,
    },
}

/// Settings of a subscription; from [`Bus::subscribe`].
#[derive(Clone, Debug)]
pub struct SubscribeBuilder<'b> {
    bus: &'b Bus,
    filter: Filter,
    from: From,
    gating: bool,
    resync: Option<bool>,
    strategy: WaitStrategy,
    log: Option<PathBuf>,
}

impl<'b> SubscribeBuilder<'b> {
    pub(crate) fn new(bus: &'b Bus) -> SubscribeBuilder<'b> {
        SubscribeBuilder {
            bus,
            filter: Filter::Everything,
            from: From::Now,
            gating: false,
            resync: None,
            strategy: WaitStrategy::default(),
            log: None,
        }
    }

    /// Directory of the log, for [`From::Lsn`]. Default: that of this process's supervisor.
    pub fn log(mut self, dir: impl Into<PathBuf>) -> SubscribeBuilder<'b> {
        self.log = Some(dir.into());
        self
    }

    /// One page; called again, one page more.
    pub fn page(self, id: PageId) -> SubscribeBuilder<'b> {
        self.pages(&[id])
    }

    /// These pages, beside those named already.
    pub fn pages(mut self, ids: &[PageId]) -> SubscribeBuilder<'b> {
        let mut all = match self.filter {
            Filter::Pages(ids) => ids,
            _ => Vec::new(),
        };
        all.extend(ids);
        let mut seen = HashSet::new();
        all.retain(|id| seen.insert(*id));
        self.filter = Filter::Pages(all);
        self
    }

    /// All pages whose name starts with `prefix`, also those that get such a name later.
    pub fn prefix(mut self, prefix: &str) -> SubscribeBuilder<'b> {
        self.filter = Filter::Prefix(prefix.to_owned());
        self
    }

    /// Where to begin. Default: [`From::Now`].
    pub fn from(mut self, from: From) -> SubscribeBuilder<'b> {
        self.from = from;
        self
    }

    /// Whether writers wait for this subscriber. Default: no.
    pub fn gating(mut self, gating: bool) -> SubscribeBuilder<'b> {
        self.gating = gating;
        self
    }

    /// Whether fresh images follow a gap. Default: with [`From::Snapshot`] only.
    pub fn resync(mut self, resync: bool) -> SubscribeBuilder<'b> {
        self.resync = Some(resync);
        self
    }

    /// How to wait. Default: poll for some 20 µs, then sleep.
    pub fn strategy(mut self, strategy: WaitStrategy) -> SubscribeBuilder<'b> {
        self.strategy = strategy;
        self
    }

    /// Starts the subscription.
    ///
    /// # Errors
    /// [`PageError::PageGone`] for a page that does not exist; [`PageError::Full`] with `Cursors` if all cursors are
    /// taken; with [`From::Snapshot`], [`PageError::Timeout`] if a stopped writer leaves a committed delta unapplied.
    pub fn build(self) -> Result<Subscription<'b>> {
        let bus = self.bus;
        if let From::Lsn { incarnation, lsn } = self.from {
            return self.build_logged(incarnation, lsn);
        }
        let images = self.resync.unwrap_or(self.from == From::Snapshot);
        let snapshot = self.from == From::Snapshot;
        if let Filter::Pages(ids) = &self.filter {
            for id in ids {
                bus.shared().resolve(*id)?;
            }
        }
        let mut follower = bus.participant().follow(self.gating)?;
        follower.set_strategy(self.strategy);
        if let (Filter::Pages(ids), false) = (&self.filter, self.gating) {
            // Only records of these pages wake it. A gating one wakes for all: its cursor holds everybody's ring.
            follower.set_mask(ids.iter().fold(0, |mask, id| mask | 1 << (id.index & 31)));
        }
        let mut tracker = Tracker::new(self.filter, images);
        if snapshot {
            // The log leads the pages: what it said ahead of our position must be in the images.
            bus.wait_applied(follower.position(), bus.participant().config().timeout)?;
        }
        tracker.begin(bus.shared(), snapshot)?;
        Ok(Subscription {
            bus,
            follower,
            tracker,
            resync_to: None,
            watch: None,
            catch_up: None,
        })
    }

    /// With the log first.
    fn build_logged(self, incarnation: u64, lsn: u64) -> Result<Subscription<'b>> {
        let bus = self.bus;
        let dir = self
            .log
            .or_else(|| bus.supervisor().map(|s| s.dir()))
            .ok_or_else(|| {
                Error::Supervisor(
                    "to begin at an LSN, a subscription needs the directory of the log".into(),
                )
            })?;
        let catch_up = CatchUp::new(bus, &dir, incarnation, lsn, self.gating)?;
        // Nothing is polled from it before the log has been read to the end.
        let mut follower = Follower::at(lsn);
        follower.set_strategy(self.strategy);
        let mut tracker = Tracker::new(self.filter, self.resync.unwrap_or(false));
        tracker.begin_with(catch_up.pages_at(&dir, tracker.prefix())?);
        Ok(Subscription {
            bus,
            follower,
            tracker,
            resync_to: None,
            watch: None,
            catch_up: Some(catch_up),
        })
    }
}

/// What [`Subscription::for_each_available`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Available {
    /// This many deltas were handed over.
    Deltas(usize),
    /// Nothing new.
    Empty,
    /// Events that are no plain deltas are in the way: take them with [`Subscription::try_next`] until it returns
    /// `None`.
    Events,
}

/// Numbers of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct SubscriptionStats {
    /// Next LSN it will look at.
    pub position: u64,
    /// Ring slots between there and the end.
    pub lag: u64,
    /// LSNs it missed.
    pub missed: u64,
    /// Gaps it was told of.
    pub gaps: u64,
    /// Deltas it took.
    pub deltas: u64,
    /// Images it took.
    pub images: u64,
    /// Images in place of a swap that came too late.
    pub conflated: u64,
}

/// A place in the order of a bus, with a filter; from [`Bus::subscribe`].
///
/// ```
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// # let bus = mmsb::Bus::builder("subscribe").dir(dir.path()).create()?;
/// use mmsb::{Event, From, PageSpec};
///
/// let joints = bus.create_page(PageSpec::new(8).name("robot/joints"))?;
/// let mut robot = bus.subscribe().prefix("robot/").from(From::Snapshot).gating(true).build()?;
/// joints.patch(0, b"now")?;
///
/// let Event::Image(image) = robot.next()? else { panic!("the snapshot comes first") };
/// assert_eq!(image.id, joints.id());
/// let mut copy = image.bytes;
/// while let Some(event) = robot.try_next()? {
///     if let Event::Delta(delta) = event {
///         delta.apply(&mut copy);
///     }
/// }
/// assert_eq!(copy, joints.to_vec()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// As an iterator it blocks and never ends; an error is an item, and the next call tries again.
///
/// See the [module](crate::subscription) for gating, gaps and crashes.
#[derive(Debug)]
pub struct Subscription<'b> {
    bus: &'b Bus,
    follower: Follower,
    tracker: Tracker,
    /// A gap was told of that ended here; its images wait until everything ahead is applied.
    resync_to: Option<u64>,
    pub(crate) watch: Option<Watch>,
    /// The log comes first.
    catch_up: Option<CatchUp>,
}

impl Reader for Bus {
    fn shared(&self) -> &Pages {
        Bus::shared(self)
    }

    fn read_page(&self, page: &PageRef, dst: &mut [u8]) -> Result<PageVersion, PageError> {
        self.participant().read(page, 0, dst)
    }
}

impl Subscription<'_> {
    /// The next event, waiting for it as long as it takes.
    ///
    /// # Errors
    /// [`PageError::Timeout`] if a living writer leaves a record unfinished for the timeout of the bus: wait again, or
    /// see to it; [`PageError::Corrupt`], [`PageError::Forked`].
    #[allow(clippy::should_implement_trait)] // `Iterator` is implemented too, with the error inside the item.
    pub fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.next_until(None)? {
                return Ok(event);
            }
        }
    }

    /// The next event, or `None` after `timeout`.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        self.next_until(Instant::now().checked_add(timeout))
    }

    /// The next event, if there is one already.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.tracker.pop() {
                return Ok(Some(event));
            }
            if !self.fill()? {
                if self.rearm()? {
                    continue;
                }
                return Ok(None);
            }
        }
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            if !self.bus.participant().wait(&mut self.follower, deadline)?
                && deadline.is_some_and(|d| Instant::now() >= d)
            {
                return self.try_next();
            }
        }
    }

    /// Images that are due, the aftermath of a gap, records: whatever comes first. False: nothing new.
    fn fill(&mut self) -> Result<bool> {
        if self.prepare()? {
            return Ok(true);
        }
        Ok(self.poll(BATCH, &mut |_| false)? != Polled::Empty || self.tracker.has_events())
    }

    /// What comes ahead of polling. True: look at the events first.
    fn prepare(&mut self) -> Result<bool> {
        self.bus.participant().check_fork()?;
        self.tracker.take_error()?;
        if let Some(catch_up) = &mut self.catch_up {
            while !self.tracker.has_events() {
                if catch_up.step(self.bus, &mut self.follower, &mut self.tracker)? {
                    continue;
                }
                self.catch_up = None;
                return Ok(self.tracker.has_events());
            }
            return Ok(true);
        }
        if let Some(to) = self.resync_to {
            self.bus
                .wait_applied(to, self.bus.participant().config().timeout)?;
            self.tracker.resync(self.bus.shared())?;
            self.resync_to = None;
        }
        Ok(self.tracker.has_events() || self.tracker.take_due(self.bus)?)
    }

    fn poll(&mut self, max: usize, fast: &mut impl FnMut(&Delta<'_>) -> bool) -> Result<Polled> {
        let Subscription {
            bus,
            follower,
            tracker,
            ..
        } = self;
        let polled = bus
            .participant()
            .poll(follower, max, |delta| tracker.record(*bus, delta, fast))?;
        match polled {
            Polled::Gap(gap) => {
                self.tracker.gap(gap);
                self.resync_to = Some(gap.to);
                Ok(polled)
            }
            // Unfinished: as good as nothing yet; its writer was looked at.
            Polled::Waiting { .. } => Ok(Polled::Empty),
            other => Ok(other),
        }
    }

    /// The fast path: hands every plain delta (a change of bytes, or a mark) that is there already to `f`, straight from
    /// the ring's copy, without an allocation per delta. Whole-page swaps, created and destroyed pages, gaps and images
    /// are events: they wait, and everything behind them waits in order, for [`Subscription::try_next`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("fast-path").dir(dir.path()).create()?;
    /// # let page = bus.create_page(mmsb::PageSpec::new(8))?;
    /// use mmsb::Available;
    ///
    /// let mut all = bus.subscribe().build()?;
    /// page.patch(0, b"a")?;
    /// page.patch(1, b"b")?;
    /// let mut bytes = 0;
    /// assert_eq!(all.for_each_available(|delta| bytes += delta.changed_bytes())?, Available::Deltas(2));
    /// assert_eq!(bytes, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub fn for_each_available(&mut self, f: impl FnMut(&Delta<'_>)) -> Result<Available> {
        self.hand_over(BATCH, f)
    }

    /// As [`for_each_available`](Subscription::for_each_available), but no further than the next group that the filter
    /// covers: one delta, or the deltas of one batch or transaction. Nothing behind it is looked at, which costs whoever
    /// commits next the time in which a cache line crosses: the quickest way to answer a delta by a commit of one's own.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub fn for_each_in_group(&mut self, f: impl FnMut(&Delta<'_>)) -> Result<Available> {
        self.hand_over(1, f)
    }

    #[inline]
    fn hand_over(&mut self, max: usize, mut f: impl FnMut(&Delta<'_>)) -> Result<Available> {
        if self.prepare()? {
            return Ok(Available::Events);
        }
        let mut delivered = 0;
        loop {
            let polled = self.poll(max, &mut |delta| {
                delivered += 1;
                f(delta);
                true
            })?;
            if delivered > 0 {
                return Ok(Available::Deltas(delivered));
            }
            if self.tracker.has_events() {
                return Ok(Available::Events);
            }
            self.tracker.take_error()?;
            if polled == Polled::Empty && !self.rearm()? {
                return Ok(Available::Empty);
            }
        }
    }

    /// Sleeps until there is something to take, or `timeout` is over; for use with
    /// [`for_each_available`](Subscription::for_each_available).
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        if self.is_due() {
            return Ok(true);
        }
        let deadline = Instant::now().checked_add(timeout);
        Ok(self.bus.participant().wait(&mut self.follower, deadline)?)
    }

    /// Whether something is to be delivered that is not in the ring.
    fn is_due(&self) -> bool {
        self.catch_up.is_some()
            || self.resync_to.is_some()
            || self.tracker.has_due()
            || self.tracker.has_events()
    }

    /// Nothing is left: lets the helper thread watch from here. True: something came meanwhile.
    fn rearm(&mut self) -> Result<bool> {
        let Some(watch) = &self.watch else {
            return Ok(false);
        };
        let position = self.follower.position();
        watch.arm(position)?;
        Ok(self.bus.shared().ahead(position) == Ahead::Something)
    }

    /// A descriptor for `poll`, `epoll` and event loops: readable while there is something to take. One helper thread
    /// per process, started by the first call, watches all such subscriptions. Do not read from it; take events until
    /// [`try_next`](Subscription::try_next) returns `None`, which makes it unreadable again.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("pollable").dir(dir.path()).create()?;
    /// # let page = bus.create_page(mmsb::PageSpec::new(8))?;
    /// use rustix::event::{PollFd, PollFlags, poll};
    ///
    /// let mut all = bus.subscribe().build()?;
    /// all.pollable()?;
    /// page.patch(0, b"news")?;
    /// let fd = all.pollable()?;
    /// assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap(), 1);
    /// assert!(all.try_next()?.is_some() && all.try_next()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel has no descriptor or thread to give.
    pub fn pollable(&mut self) -> Result<BorrowedFd<'_>> {
        self.bus.participant().check_fork()?;
        if self.watch.as_ref().is_none_or(|w| !w.has_fd()) {
            let watch = Watch::with_fd(self.bus.core())?;
            let position = self.follower.position();
            watch.arm(position)?;
            if self.is_due() || self.bus.shared().ahead(position) == Ahead::Something {
                watch.signal()?;
            }
            self.watch = Some(watch);
        }
        match self.watch.as_ref().and_then(Watch::fd) {
            Some(fd) => Ok(fd),
            // Just made with one.
            None => Err(crate::Error::io(
                "make a descriptor",
                std::io::ErrorKind::Other,
            )),
        }
    }

    /// With [`From::Snapshot`], once all images are delivered: the greatest LSN of an image. Who has taken every event to
    /// this LSN holds one consistent state of all its pages. `None` before, and without images.
    pub fn consistent_at(&self) -> Option<u64> {
        self.tracker.consistent_at()
    }

    /// Next LSN to be delivered, as far as is known.
    pub fn position(&self) -> u64 {
        self.tracker
            .first_lsn()
            .or_else(|| self.catch_up.as_ref().map(CatchUp::position))
            .unwrap_or_else(|| self.follower.position())
    }

    /// LSNs missed by being overtaken.
    pub fn missed(&self) -> u64 {
        self.follower.missed()
    }

    /// Whether writers wait for it.
    pub fn is_gating(&self) -> bool {
        self.follower.is_gating()
    }

    /// Numbers of this subscription.
    pub fn stats(&self) -> SubscriptionStats {
        SubscriptionStats {
            position: self.position(),
            lag: self.bus.end_lsn().saturating_sub(self.position()),
            missed: self.missed(),
            gaps: self.tracker.gaps,
            deltas: self.tracker.deltas,
            images: self.tracker.images_delivered,
            conflated: self.tracker.conflated,
        }
    }

    /// The bus it follows.
    pub fn bus(&self) -> &Bus {
        self.bus
    }
}

impl Iterator for Subscription<'_> {
    type Item = Result<Event>;

    /// Blocks for the next event. Never `None`.
    fn next(&mut self) -> Option<Result<Event>> {
        Some(Subscription::next(self))
    }
}
