//! Observers: read-only, registered nowhere.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytemuck::AnyBitPattern;
use mmsb_shm::schema::{Schema, Value};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{
    Follower, PageError, PageId, PageInfo, PageRef, PageVersion, Pages, Polled, RingInfo,
    WaitStrategy,
};

use crate::bus::{all_pages_of, images, pages_of};
use crate::delta::{Event, PageImage};
use crate::durability::LogStatus;
use crate::error::{Error, Result};
use crate::field;
use crate::filter::{Filter, Reader, Tracker};
use crate::page::{check_size, decode, read_value};
use crate::stats::{BusInfo, counters};

/// A bus mapped read-only.
///
/// An observer needs no write permission, takes no slot, and can neither harm nor delay anybody. What it cannot do is
/// wait for a writer or repair a dead one: under a writer that never pauses, a read may fail with
/// [`PageError::Contended`] (try again, or have the page made a cell); behind a writer that died inside a page it still
/// reads the committed state, put together from the page and the ring.
///
/// ```
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// use mmsb::{Bus, PageSpec};
///
/// let bus = Bus::builder("observed").dir(dir.path()).create()?;
/// bus.create_page(PageSpec::of::<u64>().name("answer"))?.set(&42u64)?;
///
/// let observer = Bus::builder("observed").dir(dir.path()).observe()?;
/// assert_eq!(observer.page("answer")?.read::<u64>()?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Observer {
    name: String,
    dir: PathBuf,
    pages: Pages,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer")
            .field("name", &self.name)
            .field("dir", &self.dir)
            .finish()
    }
}

impl Observer {
    pub(crate) fn open(dir: &SegmentDir, name: &str) -> Result<Observer> {
        Ok(Observer {
            name: name.to_owned(),
            dir: dir.path().to_path_buf(),
            pages: Pages::open(dir, name, false)?,
        })
    }

    /// Name of the bus.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Directory of its segments.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The mapping, for what this crate does not wrap.
    pub fn shared(&self) -> &Pages {
        &self.pages
    }

    /// Geometry, sizes and identity of the bus; what only the control segment knows is 0.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn info(&self) -> Result<BusInfo> {
        BusInfo::of(&self.name, &self.dir, &self.pages, None)
    }

    /// The bus's counters of rare events, by name.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        counters(&self.pages)
    }

    /// How the log of the bus is. Whether somebody supervises it, an observer cannot tell.
    pub fn log_status(&self) -> LogStatus {
        LogStatus::of(&self.pages, None)
    }

    /// The ring in numbers.
    pub fn ring(&self) -> RingInfo {
        self.pages.ring_info()
    }

    /// Looks a page up by name.
    ///
    /// # Errors
    /// [`PageError::NoSuchName`].
    pub fn page(&self, name: &str) -> Result<ObservedPage<'_>> {
        let id = self.pages.find(name)?;
        self.page_by_id(id)
    }

    /// Looks a page up by id.
    ///
    /// # Errors
    /// [`PageError::PageGone`].
    pub fn page_by_id(&self, id: PageId) -> Result<ObservedPage<'_>> {
        Ok(ObservedPage {
            observer: self,
            page: self.pages.resolve(id)?,
        })
    }

    /// The named pages whose name starts with `prefix`, sorted by name.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn pages(&self, prefix: &str) -> Result<Vec<PageInfo>> {
        pages_of(&self.pages, prefix)
    }

    /// All pages, named or not, by index.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn all_pages(&self) -> Result<Vec<PageInfo>> {
        all_pages_of(&self.pages)
    }

    /// Calls `f` with every page there is, in the order of their numbers: id, version, bytes. The quickest way for a
    /// newcomer to the whole state; what a page is called, [`page_info`](Self::page_info) says.
    ///
    /// Each page is whole, as it is at that moment. Together they are no cut (that is [`snapshot`](Self::snapshot)), and
    /// pages that come or go meanwhile may be among them or not.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// use mmsb::{Bus, PageSpec};
    ///
    /// let bus = Bus::builder("state").dir(dir.path()).create()?;
    /// for n in 1..=3u64 {
    ///     bus.create_page(PageSpec::of::<u64>())?.set(&n)?;
    /// }
    /// let observer = Bus::builder("state").dir(dir.path()).observe()?;
    /// let mut sum = 0;
    /// observer.for_each_page(|_id, version, bytes| {
    ///     assert_eq!(version.epoch, 1);
    ///     sum += u64::from(bytes[0]);
    ///     Ok(())
    /// })?;
    /// assert_eq!(sum, 6);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PageError::Contended`] under a writer that never pauses; [`PageError::Corrupt`]; what `f` says, which ends it.
    pub fn for_each_page(
        &self,
        f: impl FnMut(PageId, PageVersion, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.pages
            .for_each_page(|page, bytes| self.pages.observe(page, 0, bytes), f)
    }

    /// All that is known about a page beside its bytes.
    ///
    /// # Errors
    /// [`PageError::PageGone`].
    pub fn page_info(&self, id: PageId) -> Result<PageInfo> {
        Ok(self.pages.info(id)?)
    }

    /// Reads several pages as one cut, whole transactions only.
    ///
    /// # Errors
    /// [`PageError::PageGone`]; [`PageError::Contended`] if no attempt found them all quiet.
    pub fn snapshot(&self, ids: &[PageId]) -> Result<Vec<PageImage>> {
        let pages = ids
            .iter()
            .map(|id| self.pages.resolve(*id))
            .collect::<Result<Vec<PageRef>, _>>()?;
        let cut = self.pages.observe_cut(&pages)?;
        Ok(images(&pages, cut))
    }

    /// Name of a source, from the number that deltas carry.
    pub fn source_name(&self, source: u16) -> Option<String> {
        self.pages.source_name(source)
    }

    /// Where the log ends now.
    pub fn end_lsn(&self) -> u64 {
        self.pages.end_lsn()
    }

    /// Follows every page from now on. Always lossy.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn follow(&self) -> Result<ObserverSubscription<'_>> {
        ObserverSubscription::new(self, Filter::Everything)
    }

    /// Follows the pages whose name starts with `prefix`, also those that get such a name later.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn follow_prefix(&self, prefix: &str) -> Result<ObserverSubscription<'_>> {
        ObserverSubscription::new(self, Filter::Prefix(prefix.to_owned()))
    }

    /// Follows these pages.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn follow_pages(&self, ids: &[PageId]) -> Result<ObserverSubscription<'_>> {
        ObserverSubscription::new(self, Filter::Pages(ids.to_vec()))
    }
}

impl Reader for Observer {
    fn shared(&self) -> &Pages {
        &self.pages
    }

    fn read_page(&self, page: &PageRef, dst: &mut [u8]) -> Result<PageVersion, PageError> {
        self.pages.observe(page, 0, dst)
    }
}

/// A page as an observer sees it. Every read may fail with [`PageError::Contended`] and [`PageError::PageGone`].
pub struct ObservedPage<'o> {
    observer: &'o Observer,
    page: PageRef,
}

impl std::fmt::Debug for ObservedPage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObservedPage")
            .field("id", &self.id())
            .field("size", &self.size())
            .finish()
    }
}

impl ObservedPage<'_> {
    /// The id.
    pub fn id(&self) -> PageId {
        self.page.id()
    }

    /// Its bytes.
    pub fn size(&self) -> usize {
        self.page.size()
    }

    /// Its name; empty if it has none.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn name(&self) -> Result<String> {
        Ok(self.observer.pages.cold(self.id())?.name)
    }

    /// All that is known about it beside its bytes.
    ///
    /// # Errors
    /// [`PageError::PageGone`].
    pub fn info(&self) -> Result<PageInfo> {
        self.observer.page_info(self.id())
    }

    /// What its bytes mean, if it has a schema.
    ///
    /// # Errors
    /// [`Error::Schema`] if what is stored is none.
    pub fn schema(&self) -> Result<Option<Schema>> {
        decode(&self.observer.pages.cold(self.id())?)
    }

    /// Checks that the page has this very schema.
    ///
    /// # Errors
    /// [`PageError::WrongSchema`].
    pub fn expect_schema(&self, schema: &Schema) -> Result<()> {
        let (expected, found) = (
            schema.hash(),
            self.observer.pages.cold(self.id())?.schema_hash,
        );
        if found == expected {
            return Ok(());
        }
        Err(PageError::WrongSchema {
            page: self.id(),
            expected,
            found,
        }
        .into())
    }

    /// Epoch and LSN now.
    ///
    /// # Errors
    /// As any read.
    pub fn version(&self) -> Result<PageVersion> {
        self.read_range(0, &mut [])
    }

    /// Copies the whole page into `dst`.
    ///
    /// # Errors
    /// [`PageError::WrongSize`]; as any read.
    pub fn read_into(&self, dst: &mut [u8]) -> Result<PageVersion> {
        check_size(&self.page, dst.len())?;
        self.read_range(0, dst)
    }

    /// Copies `dst.len()` bytes from `offset` on.
    ///
    /// # Errors
    /// [`PageError::OutOfRange`]; as any read.
    pub fn read_range(&self, offset: usize, dst: &mut [u8]) -> Result<PageVersion> {
        Ok(self.observer.pages.observe(&self.page, offset, dst)?)
    }

    /// The whole page in a vector of its own.
    ///
    /// # Errors
    /// As any read.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.size()];
        self.read_range(0, &mut bytes)?;
        Ok(bytes)
    }

    /// The page as one value.
    ///
    /// # Errors
    /// [`PageError::WrongSize`]; as any read.
    pub fn read<T: AnyBitPattern>(&self) -> Result<T> {
        self.read_versioned().map(|(value, _)| value)
    }

    /// As [`ObservedPage::read`], with the version read.
    ///
    /// # Errors
    /// As [`ObservedPage::read`].
    pub fn read_versioned<T: AnyBitPattern>(&self) -> Result<(T, PageVersion)> {
        check_size(&self.page, size_of::<T>())?;
        read_value(&RefCell::default(), |dst| self.read_range(0, dst))
    }

    /// Copies the whole page into `dst` if it has changed since `known`; one load if it has not.
    ///
    /// # Errors
    /// As [`ObservedPage::read_into`].
    pub fn read_if_newer(&self, known: PageVersion, dst: &mut [u8]) -> Result<Option<PageVersion>> {
        check_size(&self.page, dst.len())?;
        if !self.observer.pages.may_be_newer(&self.page, known)? {
            return Ok(None);
        }
        let version = self.read_range(0, dst)?;
        Ok((version.epoch != known.epoch).then_some(version))
    }

    /// The value of a field by its path, such as `price` or `bids[3]`.
    ///
    /// # Errors
    /// [`Error::NoSchema`], [`Error::NoSuchField`], [`Error::Schema`]; as any read.
    pub fn field(&self, path: &str) -> Result<Value> {
        let schema = self.schema()?.ok_or(Error::NoSchema(self.id()))?;
        let selected = field::select(&schema, path, self.id(), self.size())?;
        field::read_field(&schema, &selected, |offset, dst| {
            self.read_range(offset, dst).map(|_| ())
        })
    }
}

/// What an observer follows; from [`Observer::follow`]. Always lossy: overtaken, it delivers [`Event::Gap`] and goes on.
///
/// After a gap, read the pages again, and mind that the log leads the pages: a delta ahead of the end of the gap may be
/// applied some nanoseconds later than you read. A participant's subscription with a snapshot takes care of that.
#[derive(Debug)]
pub struct ObserverSubscription<'o> {
    observer: &'o Observer,
    follower: Follower,
    tracker: Tracker,
    resync: bool,
}

impl<'o> ObserverSubscription<'o> {
    fn new(observer: &'o Observer, filter: Filter) -> Result<ObserverSubscription<'o>> {
        let follower = Follower::at(observer.pages.end_lsn());
        let mut tracker = Tracker::new(filter, false);
        tracker.begin(&observer.pages, false)?;
        Ok(ObserverSubscription {
            observer,
            follower,
            tracker,
            resync: false,
        })
    }

    /// How it waits. Default: poll for some 20 µs, then sleep (never longer than 10 ms at a time: writers do not know of
    /// observers and do not wake them).
    pub fn set_strategy(&mut self, strategy: WaitStrategy) {
        self.follower.set_strategy(strategy);
    }

    /// The next event, if there is one already.
    ///
    /// # Errors
    /// [`PageError::Corrupt`], [`PageError::Contended`].
    pub fn try_next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.tracker.pop() {
                return Ok(Some(event));
            }
            self.tracker.take_error()?;
            if self.resync {
                self.tracker.resync(&self.observer.pages)?;
                self.resync = false;
                continue;
            }
            let ObserverSubscription {
                observer,
                follower,
                tracker,
                ..
            } = self;
            let polled = follower.poll(&observer.pages, 128, |delta| {
                tracker.record(*observer, delta, &mut |_| false);
            })?;
            match polled {
                Polled::Gap(gap) => {
                    self.tracker.gap(gap);
                    self.resync = true;
                }
                Polled::Deltas(_) => {}
                Polled::Empty | Polled::Waiting { .. } if self.tracker.has_events() => {}
                Polled::Empty | Polled::Waiting { .. } => return Ok(None),
            }
        }
    }

    /// The next event, waiting for it as long as it takes.
    ///
    /// # Errors
    /// [`PageError::Stalled`] if a record stays unfinished for 100 ms: its writer is dead or stopped, and only a
    /// participant can repair that; trying again is fine. As [`ObserverSubscription::try_next`].
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
    /// As [`ObserverSubscription::next`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        self.next_until(Instant::now().checked_add(timeout))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            if !self
                .follower
                .wait_observing(&self.observer.pages, deadline)?
            {
                return self.try_next();
            }
        }
    }

    /// Next LSN to be delivered, as far as is known.
    pub fn position(&self) -> u64 {
        self.tracker
            .first_lsn()
            .unwrap_or_else(|| self.follower.position())
    }

    /// LSNs missed by being overtaken.
    pub fn missed(&self) -> u64 {
        self.follower.missed()
    }
}

impl Iterator for ObserverSubscription<'_> {
    type Item = Result<Event>;

    /// Blocks for the next event. Never `None`.
    fn next(&mut self) -> Option<Result<Event>> {
        Some(ObserverSubscription::next(self))
    }
}
