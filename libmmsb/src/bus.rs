//! A bus as its participants see it.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mmsb_shm::schema::Schema;
use mmsb_shm::segment::{self, Core};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{
    OnFull, PageError, PageId, PageInfo, PageRef, PageVersion, Pages, Participant,
    ParticipantConfig, Receipt, Wreck,
};

use crate::Observer;
use crate::batch::Batch;
use crate::builder::BusBuilder;
use crate::delta::PageImage;
use crate::durability::{Durability, LogStatus};
use crate::error::{Error, Result, timed_out};
use crate::page::{Page, PageSpec};
use crate::stats::{BusInfo, Stats};
use crate::subscription::SubscribeBuilder;
use crate::supervisor::Supervisor;
use crate::transaction::{self, Transaction};

/// A bus, attached: one participant, for one thread.
///
/// A `Bus` can be sent to another thread but not shared; [`Bus::another`] joins once more for another thread. Every
/// handle made from it borrows it.
///
/// # Crashes
/// A participant may be killed at any instruction. What it had committed stays, what it had not is as if it had never
/// begun, and whoever meets its remains finishes its work. Nobody has to be running for that, and the segments stay when
/// all processes are gone: the next [attach](BusBuilder::attach) repairs and goes on. A process that is stopped but
/// alive is waited for up to the [timeout](BusBuilder::timeout).
///
/// # Forks
/// After `fork`, every handle of the parent answers [`PageError::Forked`] in the child. Attach again there.
///
/// ```
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// use mmsb::{Bus, PageSpec};
///
/// let bus = Bus::builder("hello").dir(dir.path()).create()?;
/// let page = bus.create_page(PageSpec::new(64).name("greeting"))?;
/// page.patch(0, b"hello")?;
/// assert_eq!(&page.to_vec()?[..5], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Bus {
    participant: Participant,
    /// What its writes wait for.
    durability: Cell<Durability>,
    /// Who writes the log, if this handle does.
    supervisor: Option<Arc<Supervisor>>,
    /// For typed reads of values too large for the stack.
    pub(crate) scratch: RefCell<Vec<u8>>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("name", &self.name())
            .field("participant", &self.participant.index())
            .finish()
    }
}

impl Bus {
    /// Settings for creating, attaching or observing the bus `name`.
    pub fn builder(name: &str) -> BusBuilder {
        BusBuilder::new(name)
    }

    /// Creates a bus with the defaults of [`BusBuilder`].
    ///
    /// # Errors
    /// As [`BusBuilder::create`].
    pub fn create(name: &str) -> Result<Bus> {
        Bus::builder(name).create()
    }

    /// Attaches to an existing bus.
    ///
    /// # Errors
    /// As [`BusBuilder::attach`].
    pub fn attach(name: &str) -> Result<Bus> {
        Bus::builder(name).attach()
    }

    /// Attaches to a bus, or creates it.
    ///
    /// # Errors
    /// As [`BusBuilder::open_or_create`].
    pub fn open_or_create(name: &str) -> Result<Bus> {
        Bus::builder(name).open_or_create()
    }

    /// Maps a bus read-only.
    ///
    /// # Errors
    /// As [`BusBuilder::observe`].
    pub fn observe(name: &str) -> Result<Observer> {
        Bus::builder(name).observe()
    }

    /// Removes a bus from `$MMSB_DIR` or `/dev/shm`. Who is attached goes on with what it has mapped; the memory is
    /// free when the last of them is gone.
    ///
    /// # Errors
    /// [`AttachError::Missing`](crate::AttachError::Missing) if there is none of this name.
    pub fn unlink(name: &str) -> Result<()> {
        Ok(segment::unlink(&SegmentDir::from_env(), name)?)
    }

    /// Gives up what dead participants left and what cannot be finished because the record of it is corrupt: until then
    /// nobody can join. Each such record is skipped from here on, a page that was half written keeps the bytes it has,
    /// and locks and blocks are free. Returns what was given up; the dead that left nothing corrupt are recovered.
    ///
    /// A committed delta is lost, so only a person should decide this. Followers are told by a mark, and the pages are
    /// written again with what they hold, so that whoever rebuilds them from the log has the same.
    ///
    /// # Errors
    /// As [`BusBuilder::attach`](crate::BusBuilder::attach); [`PageError::Corrupt`] if the ring itself is damaged.
    pub fn abandon_dead_in(dir: impl AsRef<Path>, name: &str) -> Result<Vec<Wreck>> {
        crate::inspect::abandon_dead(dir.as_ref(), name)
    }

    /// As [`Bus::unlink`], from another directory.
    ///
    /// # Errors
    /// As [`Bus::unlink`].
    pub fn unlink_in(dir: impl AsRef<Path>, name: &str) -> Result<()> {
        Ok(segment::unlink(&SegmentDir::at(dir.as_ref()), name)?)
    }

    /// Names of the buses in `$MMSB_DIR` or `/dev/shm`, sorted.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be read.
    pub fn list() -> Result<Vec<String>> {
        list(&SegmentDir::from_env())
    }

    /// As [`Bus::list`], in another directory.
    ///
    /// # Errors
    /// As [`Bus::list`].
    pub fn list_in(dir: impl AsRef<Path>) -> Result<Vec<String>> {
        list(&SegmentDir::at(dir.as_ref()))
    }

    pub(crate) fn join(
        core: Arc<Core>,
        config: ParticipantConfig,
        durability: Option<Durability>,
    ) -> Result<Bus> {
        let durability =
            durability.unwrap_or_else(|| Durability::from_word(core.pages.default_durability()));
        Ok(Bus {
            participant: Participant::join(core, config)?,
            durability: Cell::new(durability),
            supervisor: None,
            scratch: RefCell::new(Vec::new()),
        })
    }

    /// One more participant on the same mapping, for another thread of this process. It has the timeout of this one.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// use mmsb::{Bus, PageSpec};
    ///
    /// let bus = Bus::builder("threads").dir(dir.path()).create()?;
    /// let id = bus.create_page(PageSpec::new(8))?.id();
    /// let other = bus.another("worker")?;
    /// std::thread::spawn(move || other.page_by_id(id)?.set(&7u64)).join().unwrap()?;
    /// assert_eq!(bus.page_by_id(id)?.read::<u64>()?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AttachError::TooManyParticipants`](crate::AttachError::TooManyParticipants); [`PageError::Forked`].
    pub fn another(&self, source: &str) -> Result<Bus> {
        self.participant.check_fork()?;
        let config = ParticipantConfig {
            name: source.to_owned(),
            ..self.participant.config().clone()
        };
        let durability = Some(self.durability.get());
        let mut bus = Bus::join(Arc::clone(self.core()), config, durability)?;
        bus.supervisor = self.supervisor.clone();
        Ok(bus)
    }

    /// The participant, for what this crate does not wrap.
    pub fn participant(&self) -> &Participant {
        &self.participant
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        self.participant.core()
    }

    pub(crate) fn shared(&self) -> &Pages {
        &self.participant.core().pages
    }

    /// Changes the longest wait for a living participant or for room in the ring.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.participant.set_timeout(timeout);
    }

    /// Changes what happens on a full ring.
    pub fn set_on_full(&mut self, on_full: OnFull) {
        self.participant.set_on_full(on_full);
    }

    /// Name of the bus.
    pub fn name(&self) -> &str {
        &self.core().name
    }

    /// Directory of its segments.
    pub fn dir(&self) -> &Path {
        self.core().dir.path()
    }

    /// Geometry, sizes, modes and identity of the bus.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel does not answer.
    pub fn info(&self) -> Result<BusInfo> {
        BusInfo::of(
            self.name(),
            self.core().dir.path(),
            self.shared(),
            Some(&self.core().ctl),
        )
    }

    /// Makes a page, all bytes zero.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("create-page").dir(dir.path()).create()?;
    /// use mmsb::{PageSpec, schema::Schema};
    ///
    /// let schema = Schema::parse("quote{price:f64,qty:u32}")?;
    /// let page = bus.create_page(PageSpec::with_schema(&schema).name("nyse/ibm").meta("unit", "USD"))?;
    /// assert_eq!(page.size(), 16);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PageError::BadSize`], [`PageError::BadName`], [`PageError::NameTaken`], [`PageError::TooLong`],
    /// [`PageError::Full`]. Nothing is left behind. A death in the middle leaves the page either made or not.
    pub fn create_page(&self, spec: PageSpec) -> Result<Page<'_>> {
        let id = self.participant.create_page(&spec.new)?;
        self.settle_last()?;
        self.page_by_id(id)
    }

    /// Looks a page up by name.
    ///
    /// # Errors
    /// [`PageError::NoSuchName`].
    pub fn page(&self, name: &str) -> Result<Page<'_>> {
        self.participant.check_fork()?;
        Ok(Page::new(self, self.participant.open_page(name)?))
    }

    /// Looks a page up by id.
    ///
    /// # Errors
    /// [`PageError::PageGone`], also for an id of another generation.
    pub fn page_by_id(&self, id: PageId) -> Result<Page<'_>> {
        self.participant.check_fork()?;
        Ok(Page::new(self, self.shared().resolve(id)?))
    }

    /// The named page of `spec`, made if there is none.
    ///
    /// # Errors
    /// [`PageError::WrongSize`] or [`PageError::WrongSchema`] if a page of this name exists and differs;
    /// [`PageError::BadName`] for a `spec` without a name; otherwise as [`Bus::create_page`].
    pub fn open_or_create_page(&self, spec: PageSpec) -> Result<Page<'_>> {
        let new = spec.new;
        if new.cold.name.is_empty() {
            return Err(PageError::BadName {
                name: String::new(),
                why: "a page that is to be found again needs a name",
            }
            .into());
        }
        loop {
            match self.page(&new.cold.name) {
                Ok(page) => {
                    if page.size() as u64 != new.size {
                        return Err(PageError::WrongSize {
                            page: page.id(),
                            wanted: new.size as usize,
                            size: page.size(),
                        }
                        .into());
                    }
                    if new.cold.schema_hash != 0 {
                        page.expect_schema_hash(new.cold.schema_hash)?;
                    }
                    return Ok(page);
                }
                Err(Error::Page(PageError::NoSuchName(_) | PageError::PageGone(_))) => {}
                Err(e) => return Err(e),
            }
            match self.participant.create_page(&new) {
                Ok(id) => {
                    self.settle_last()?;
                    return self.page_by_id(id);
                }
                // Somebody was quicker.
                Err(PageError::NameTaken(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Removes a page and its name. Handles to it answer [`PageError::PageGone`] from then on; its id never comes back.
    ///
    /// # Errors
    /// [`PageError::PageGone`] if it is gone already; [`PageError::Timeout`], [`PageError::Backpressure`].
    pub fn destroy(&self, id: PageId) -> Result<()> {
        self.participant.destroy_page(id)?;
        self.settle_last()
    }

    /// Gives a page another name; an empty one takes its name away.
    ///
    /// # Errors
    /// [`PageError::NameTaken`], [`PageError::BadName`], [`PageError::PageGone`].
    pub fn rename(&self, id: PageId, name: &str) -> Result<()> {
        self.participant.describe_page(id, |mut cold| {
            cold.name = name.to_owned();
            cold
        })?;
        self.settle_last()
    }

    /// Says what the bytes of a page mean.
    ///
    /// # Errors
    /// [`PageError::WrongSize`] if the page is smaller than the schema describes; [`PageError::TooLong`],
    /// [`PageError::PageGone`].
    pub fn set_schema(&self, id: PageId, schema: &Schema) -> Result<()> {
        let page = self.page_by_id(id)?;
        if page.size() < schema.size() {
            return Err(PageError::WrongSize {
                page: id,
                wanted: schema.size(),
                size: page.size(),
            }
            .into());
        }
        self.participant.describe_page(id, |mut cold| {
            cold.schema = schema.encode();
            cold.schema_hash = schema.hash();
            cold
        })?;
        self.settle_last()
    }

    /// Sets metadata of a page; other keys stay. An empty value removes its key.
    ///
    /// # Errors
    /// [`PageError::TooLong`], [`PageError::PageGone`].
    pub fn set_meta(&self, id: PageId, meta: &[(&str, &str)]) -> Result<()> {
        self.participant.describe_page(id, |mut cold| {
            for (key, value) in meta {
                cold.meta.retain(|(k, _)| k != key);
                if !value.is_empty() {
                    cold.meta.push(((*key).to_owned(), (*value).to_owned()));
                }
            }
            cold
        })?;
        self.settle_last()
    }

    /// Calls `f` with every page there is, in the order of their numbers: id, version, bytes. As
    /// [`Observer::for_each_page`](crate::Observer::for_each_page), which has an example, but as a participant, who
    /// waits for writers where an observer gives up, and repairs what the dead left.
    ///
    /// # Errors
    /// [`PageError::Timeout`] if a living writer stands still inside a page; [`PageError::Corrupt`]; [`PageError::Forked`];
    /// what `f` says, which ends it.
    pub fn for_each_page(
        &self,
        f: impl FnMut(PageId, PageVersion, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let by = &self.participant;
        let pages = &by.core().pages;
        pages.for_each_page(|page, bytes| by.read(page, 0, bytes), f)
    }

    /// All that is known about a page beside its bytes.
    ///
    /// # Errors
    /// [`PageError::PageGone`].
    pub fn page_info(&self, id: PageId) -> Result<PageInfo> {
        self.participant.check_fork()?;
        Ok(self.shared().info(id)?)
    }

    /// The named pages whose name starts with `prefix`, sorted by name.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn pages(&self, prefix: &str) -> Result<Vec<PageInfo>> {
        self.participant.check_fork()?;
        pages_of(self.shared(), prefix)
    }

    /// All pages, named or not, by index.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn all_pages(&self) -> Result<Vec<PageInfo>> {
        self.participant.check_fork()?;
        all_pages_of(self.shared())
    }

    /// Reads several pages as one cut: page memory at one instant, whole transactions only.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("snapshot").dir(dir.path()).create()?;
    /// # use mmsb::PageSpec;
    /// let (a, b) = (bus.create_page(PageSpec::new(8))?, bus.create_page(PageSpec::new(8))?);
    /// bus.transaction(|tx| {
    ///     tx.set(&a, &1u64)?;
    ///     tx.set(&b, &1u64)
    /// })?;
    /// let cut = bus.snapshot(&[a.id(), b.id()])?;
    /// assert_eq!(cut[0].bytes, cut[1].bytes);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PageError::PageGone`]; [`PageError::Timeout`] if a living writer stands still inside one of the pages.
    pub fn snapshot(&self, ids: &[PageId]) -> Result<Vec<PageImage>> {
        self.participant.check_fork()?;
        let pages = ids
            .iter()
            .map(|id| self.shared().resolve(*id))
            .collect::<Result<Vec<PageRef>, _>>()?;
        let cut = self.participant.read_cut(&pages)?;
        Ok(images(&pages, cut))
    }

    /// As [`Bus::snapshot`], but not before the delta at `lsn` and everything ahead of it are applied.
    ///
    /// # Errors
    /// [`PageError::Timeout`] if that takes longer than `timeout`; as [`Bus::snapshot`].
    pub fn cut_at(&self, lsn: u64, ids: &[PageId], timeout: Duration) -> Result<Vec<PageImage>> {
        self.wait_applied(lsn.saturating_add(1), timeout)?;
        self.snapshot(ids)
    }

    /// Starts a batch: several deltas with one place in the order, in one publication.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Runs `f` and commits what it staged, all or nothing: for the log, for crashes, and for everybody who reads several
    /// pages as one cut. What `f` read is checked at the commit; if another writer changed it, `f` runs again. So `f`
    /// must have no effects outside the transaction, or be able to repeat them.
    ///
    /// If `f` returns an error, nothing is committed: [`Error::abort`] is the way to give up on purpose. After
    /// [`PageError::Backpressure`] nothing was committed either, and calling `transaction` again runs `f` again.
    ///
    /// A transaction that staged nothing returns a [`Receipt`] with `last` = 0, and its reads were consistent.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("transfer").dir(dir.path()).create()?;
    /// use mmsb::{Error, PageSpec};
    ///
    /// let (from, to) = (bus.create_page(PageSpec::of::<i64>())?, bus.create_page(PageSpec::of::<i64>())?);
    /// from.set(&100i64)?;
    /// let (left, receipt) = bus.transaction(|tx| {
    ///     let (a, b) = (tx.read::<i64>(&from)?, tx.read::<i64>(&to)?);
    ///     if a < 30 {
    ///         return Err(Error::abort("not enough"));
    ///     }
    ///     tx.set(&from, &(a - 30))?;
    ///     tx.set(&to, &(b + 30))?;
    ///     Ok(a - 30)
    /// })?;
    /// assert_eq!((left, to.read::<i64>()?), (70, 30));
    /// assert!(receipt.last > receipt.first);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What `f` returns; [`PageError::DeltaTooLarge`] if the transaction does not fit the ring;
    /// [`PageError::Timeout`] if other writers got in its way for the whole timeout; [`PageError::Backpressure`].
    pub fn transaction<R>(
        &self,
        f: impl FnMut(&mut Transaction<'_>) -> Result<R>,
    ) -> Result<(R, Receipt)> {
        transaction::run(self, f)
    }

    /// Begins a transaction that its maker commits with [`Transaction::try_commit`], and begins again after a conflict;
    /// [`Bus::transaction`] does that by itself.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let bus = mmsb::Bus::builder("begin").dir(dir.path()).create()?;
    /// # let page = bus.create_page(mmsb::PageSpec::of::<u64>())?;
    /// let mut tx = bus.begin()?;
    /// let seen: u64 = tx.read(&page)?;
    /// page.set(&(seen + 1))?; // somebody else is quicker
    /// tx.set(&page, &(seen + 2))?;
    /// assert!(matches!(tx.try_commit(), Err(mmsb::Error::Conflict(id)) if id == page.id()));
    /// assert_eq!(page.read::<u64>()?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PageError::Forked`].
    pub fn begin(&self) -> Result<Transaction<'_>> {
        transaction::begin(self)
    }

    /// Starts a subscription: by default to everything, from now on, lossy.
    pub fn subscribe(&self) -> SubscribeBuilder<'_> {
        SubscribeBuilder::new(self)
    }

    /// Counters and tables of the bus. It walks all blocks: milliseconds on a large bus.
    ///
    /// # Errors
    /// [`PageError::Corrupt`], [`Error::Io`].
    pub fn stats(&self) -> Result<Stats> {
        Stats::of(self.core())
    }

    /// Repairs whatever dead participants left; returns how many there were. Nobody has to call this: whoever meets the
    /// dead repairs them.
    ///
    /// # Errors
    /// [`PageError::Corrupt`], [`PageError::Io`].
    pub fn recover(&self) -> Result<u32> {
        Ok(self.participant.recover_all()?)
    }

    /// Everything ahead of this LSN is applied to its page.
    ///
    /// # Errors
    /// [`PageError::Corrupt`], [`PageError::Forked`].
    pub fn applied_lsn(&self) -> Result<u64> {
        Ok(self.participant.applied_lsn()?)
    }

    /// Everything ahead of this LSN is committed, or skipped for ever.
    ///
    /// # Errors
    /// [`PageError::Corrupt`], [`PageError::Forked`].
    pub fn published_lsn(&self) -> Result<u64> {
        Ok(self.participant.refresh_published()?)
    }

    /// Where the log ends now, unfinished claims included: what follows from here is new.
    pub fn end_lsn(&self) -> u64 {
        self.shared().end_lsn()
    }

    /// What the writes of this handle wait for from here on.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let log = tempfile::tempdir()?;
    /// use mmsb::{Bus, Durability, PageSpec};
    ///
    /// let bus = Bus::builder("orders").dir(dir.path()).durable(log.path()).open_or_create()?;
    /// let page = bus.create_page(PageSpec::of::<u64>())?;
    /// page.set(&1u64)?; // volatile: survives every process, not a reboot
    /// bus.set_durability(Durability::Synced);
    /// let lsn = page.set(&2u64)?; // on disk when this returns
    /// assert!(bus.durable_lsn() > lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_durability(&self, durability: Durability) {
        self.durability.set(durability);
    }

    /// What the writes of this handle wait for.
    pub fn durability(&self) -> Durability {
        self.durability.get()
    }

    /// Runs `f`, whose writes through this handle have another durability than the others.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let log = tempfile::tempdir()?;
    /// # use mmsb::{Bus, Durability, PageSpec};
    /// # let bus = Bus::builder("orders").dir(dir.path()).durable(log.path()).open_or_create()?;
    /// # let page = bus.create_page(PageSpec::of::<u64>())?;
    /// let lsn = bus.with_durability(Durability::Synced, || page.set(&7u64))?;
    /// assert!(bus.durable_lsn() > lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_durability<R>(&self, durability: Durability, f: impl FnOnce() -> R) -> R {
        struct Back<'a>(&'a Cell<Durability>, Durability);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.set(self.1);
            }
        }
        let _back = Back(&self.durability, self.durability.replace(durability));
        f()
    }

    /// Sets the durability of writers that say nothing themselves: of those who attach from now on.
    pub fn set_default_durability(&self, durability: Durability) {
        self.shared().set_default_durability(durability.to_word());
    }

    /// Everything ahead of this LSN is on disk; 0: the bus has no log.
    pub fn durable_lsn(&self) -> u64 {
        self.shared().durable_lsn()
    }

    /// Waits until the delta at `lsn`, and everything ahead of it, is on disk. It is written at once, not at the end of the
    /// interval.
    ///
    /// # Errors
    /// [`PageError::NotDurable`]: it is committed and visible all the same, so nobody should write it again.
    pub fn wait_durable(&self, lsn: u64, timeout: Duration) -> Result<()> {
        Ok(self.participant.wait_durable(lsn, timeout)?)
    }

    /// How the log of the bus is.
    pub fn log_status(&self) -> LogStatus {
        LogStatus::of(self.shared(), Some(self.core().is_supervised()))
    }

    /// The supervisor of this process, if the bus was opened with [`BusBuilder::durable`](crate::BusBuilder::durable).
    pub fn supervisor(&self) -> Option<&Supervisor> {
        self.supervisor.as_deref()
    }

    pub(crate) fn set_supervisor(&mut self, supervisor: Supervisor) {
        self.supervisor = Some(Arc::new(supervisor));
    }

    /// Does for the delta at `lsn` what its durability asks for.
    #[inline(always)]
    pub(crate) fn settle(&self, lsn: u64) -> Result<u64> {
        match self.durability.get() {
            Durability::Volatile => Ok(lsn),
            durability => self.settle_slow(lsn, durability),
        }
    }

    #[inline(never)]
    fn settle_slow(&self, lsn: u64, durability: Durability) -> Result<u64> {
        match durability {
            Durability::Volatile => {}
            Durability::Buffered(age) => self.participant.want_flush_within(age),
            Durability::Synced => {
                let timeout = self.participant.config().timeout;
                self.participant.wait_durable(lsn, timeout)?;
            }
        }
        Ok(lsn)
    }

    #[inline]
    pub(crate) fn settle_update<R>(
        &self,
        done: (R, Option<Receipt>),
    ) -> Result<(R, Option<Receipt>)> {
        if let Some(receipt) = &done.1 {
            self.settle(receipt.last)?;
        }
        Ok(done)
    }

    /// The same for a delta of which nobody said the LSN: for whatever this handle committed last.
    fn settle_last(&self) -> Result<()> {
        if self.durability.get() != Durability::Volatile {
            self.settle(self.participant.committed_end().saturating_sub(1))?;
        }
        Ok(())
    }

    /// Name of a source, from the number that deltas carry.
    pub fn source_name(&self, source: u16) -> Option<String> {
        self.shared().source_name(source)
    }

    /// Whether the name of this bus still leads to the segments attached here; `false` after an unlink.
    pub fn is_named(&self) -> bool {
        self.core().is_named()
    }

    /// Leaves the bus. Dropping does the same.
    pub fn detach(self) {}

    /// Leaves the bus, and ends its [supervisor](Bus::supervisor) if no other handle of this process has it: writes what is
    /// in the ring and seals the log. Dropping does the same and cannot say what went wrong.
    ///
    /// # Errors
    /// [`Error::Supervisor`] with the log's failure, if not everything could be written.
    pub fn close(mut self) -> Result<()> {
        let supervisor = self.supervisor.take();
        drop(self);
        match supervisor.map(Arc::try_unwrap) {
            Some(Ok(supervisor)) => supervisor.stop(),
            _ => Ok(()),
        }
    }

    /// Waits until everything ahead of `end` is applied, finishing the work of the dead.
    pub(crate) fn wait_applied(&self, end: u64, timeout: Duration) -> Result<()> {
        let begin = Instant::now();
        let mut rounds = 0u32;
        loop {
            if self.applied_lsn()? >= end {
                return Ok(());
            }
            let waited = begin.elapsed();
            if waited >= timeout {
                let holder = self
                    .core()
                    .participants()
                    .into_iter()
                    .filter(|p| p.hold != 0)
                    .min_by_key(|p| p.hold)
                    .map_or("nobody (it is not committed)".into(), |p| {
                        format!("participant {} ({:?}, pid {})", p.index, p.name, p.pid)
                    });
                return Err(timed_out(
                    format_args!("the delta ahead of LSN {end}"),
                    holder,
                    waited,
                ));
            }
            rounds += 1;
            if rounds < 100 {
                std::thread::yield_now();
                continue;
            }
            if rounds.is_multiple_of(64) {
                self.participant.recover_all()?;
            }
            std::thread::sleep(Duration::from_micros(if rounds < 1000 { 50 } else { 1000 }));
        }
    }
}

fn list(dir: &SegmentDir) -> Result<Vec<String>> {
    dir.buses()
        .map_err(|e| Error::io("read the directory of buses", e))
}

pub(crate) fn images(
    pages: &[PageRef],
    cut: Vec<(Vec<u8>, mmsb_shm::PageVersion)>,
) -> Vec<PageImage> {
    pages
        .iter()
        .zip(cut)
        .map(|(page, (bytes, version))| PageImage {
            id: page.id(),
            version,
            bytes,
        })
        .collect()
}

/// Drops the pages that went away between listing and looking.
fn present(infos: impl Iterator<Item = Result<PageInfo, PageError>>) -> Result<Vec<PageInfo>> {
    let mut list = Vec::new();
    for info in infos {
        match info {
            Ok(info) => list.push(info),
            Err(PageError::PageGone(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(list)
}

pub(crate) fn pages_of(pages: &Pages, prefix: &str) -> Result<Vec<PageInfo>> {
    let names = pages.list_names(prefix)?;
    present(names.into_iter().map(|(_, id)| pages.info(id)))
}

pub(crate) fn all_pages_of(pages: &Pages) -> Result<Vec<PageInfo>> {
    present(pages.list_pages().into_iter().map(|id| pages.info(id)))
}
