//! How a bus is named, sized, created and attached.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mmsb_shm::segment::Core;
use mmsb_shm::sys::sigbus;
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{AttachError, BusConfig, OnFull, ParticipantConfig};

use crate::durability::Durability;
use crate::error::{Error, Result};
use crate::state::{PageMemory, State};
use crate::supervisor::{self, Supervisor, SupervisorConfig};
use crate::tlog::LogError;
use crate::{Bus, Observer, rebuild};

/// Ring of a bus with a log, if nothing else is asked for.
const RING_WITH_LOG: u64 = 4 << 20;

/// Settings for creating, attaching or observing a bus; from [`Bus::builder`].
///
/// Sizes and modes are fixed when the bus is created and ignored when it is attached. Address space is reserved for
/// `bytes_max` and costs nothing; memory is taken in slabs of 2 MiB as pages are created.
///
/// ```
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// use std::time::Duration;
///
/// let bus = mmsb::Bus::builder("prices")
///     .dir(dir.path()) // default: $MMSB_DIR, else /dev/shm
///     .source("feed-handler")
///     .timeout(Duration::from_secs(1))
///     .ring_bytes(4 << 20)
///     .pages_max(10_000)
///     .create()?;
/// assert_eq!(bus.info()?.ring_bytes, 4 << 20);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct BusBuilder {
    name: String,
    dir: Option<PathBuf>,
    config: BusConfig,
    ring_bytes: Option<u64>,
    participant: ParticipantConfig,
    durability: Option<Durability>,
    supervisor: Option<SupervisorConfig>,
    sigbus_guard: bool,
}

impl BusBuilder {
    pub(crate) fn new(name: &str) -> BusBuilder {
        BusBuilder {
            name: name.to_owned(),
            dir: None,
            config: BusConfig::default(),
            ring_bytes: None,
            participant: ParticipantConfig::default(),
            durability: None,
            supervisor: None,
            sigbus_guard: false,
        }
    }

    /// Directory of the segments, on a tmpfs. Default: `$MMSB_DIR`, else `/dev/shm`.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> BusBuilder {
        self.dir = Some(dir.into());
        self
    }

    /// Name of this participant, which its deltas carry as their source; 46 bytes are kept. Default: the name of the
    /// process.
    pub fn source(mut self, name: &str) -> BusBuilder {
        self.participant.name = name.to_owned();
        self
    }

    /// Longest wait for a living participant or for room in the ring. Default: 5 s. The dead are not waited for.
    pub fn timeout(mut self, timeout: Duration) -> BusBuilder {
        self.participant.timeout = timeout;
        self
    }

    /// What a writer does on a full ring. Default: it waits for the timeout.
    pub fn on_full(mut self, on_full: OnFull) -> BusBuilder {
        self.participant.on_full = on_full;
        self
    }

    /// Greatest size of the bus in bytes. Default: 64 GiB of address space.
    pub fn bytes_max(mut self, bytes: u64) -> BusBuilder {
        self.config.bytes_max = bytes;
        self
    }

    /// Most pages at one time. Default: 65,536. Costs 12 bytes each.
    pub fn pages_max(mut self, pages: u32) -> BusBuilder {
        self.config.pages_max = pages;
        self
    }

    /// Most pages with a name, schema or metadata. Default: 16,384.
    pub fn names_max(mut self, names: u32) -> BusBuilder {
        self.config.names_max = names;
        self
    }

    /// Size of the delta ring in bytes, rounded up to a power of two; 4 KiB to 1 GiB. Default: 1 MiB, and 4 MiB for a bus
    /// [with a log](BusBuilder::durable): what is on its way to the disk stays in the ring, so the ring bounds how much
    /// that can be. A larger ring gives subscribers more slack, one larger than the L2 cache is slower.
    pub fn ring_bytes(mut self, bytes: u64) -> BusBuilder {
        self.ring_bytes = Some(bytes);
        self
    }

    /// The sizes as they stand.
    fn sizes(&self) -> BusConfig {
        let mut config = self.config.clone();
        match (self.ring_bytes, &self.supervisor) {
            (Some(bytes), _) => config.ring_bytes = bytes,
            (None, Some(_)) => config.ring_bytes = RING_WITH_LOG,
            (None, None) => {}
        }
        config
    }

    /// Most participants (writing threads) at one time, 1 to 1022. Default: 128.
    pub fn participants_max(mut self, participants: u32) -> BusBuilder {
        self.config.participants_max = participants;
        self
    }

    /// Most subscriptions of participants at one time. Default: 128.
    pub fn cursors_max(mut self, cursors: u32) -> BusBuilder {
        self.config.cursors_max = cursors;
        self
    }

    /// Most source names. Default: 1024.
    pub fn sources_max(mut self, sources: u32) -> BusBuilder {
        self.config.sources_max = sources;
        self
    }

    /// Permission bits of the page segment: whoever may read it may observe. Default: 0600.
    pub fn mode(mut self, mode: u32) -> BusBuilder {
        self.config.mode = mode;
        self
    }

    /// Permission bits of the control segment: whoever may write it may participate. Default: 0600.
    pub fn ctl_mode(mut self, mode: u32) -> BusBuilder {
        self.config.ctl_mode = mode;
        self
    }

    /// Keeps a log of the bus in `dir`, a directory for this bus alone on a real disk, by a [`Supervisor`] thread of this
    /// process. If another one supervises the bus already, this one waits for its turn.
    ///
    /// [`open_or_create`](BusBuilder::open_or_create) then rebuilds the bus from its log when its segments are gone, as
    /// after a reboot: with all pages, names, schemas, metadata and sources, up to the last durable delta.
    ///
    /// ```
    /// # let dir = tempfile::tempdir_in("/dev/shm")?;
    /// # let log = tempfile::tempdir()?;
    /// use mmsb::{Bus, Durability, PageSpec};
    ///
    /// let open = || {
    ///     Bus::builder("orders")
    ///         .dir(dir.path())
    ///         .durable(log.path())
    ///         .durability(Durability::Synced)
    ///         .open_or_create()
    /// };
    /// let bus = open()?;
    /// bus.create_page(PageSpec::of::<u64>().name("last"))?.set(&42u64)?;
    /// drop(bus);
    /// Bus::unlink_in(dir.path(), "orders")?; // as a reboot does
    ///
    /// let bus = open()?;
    /// assert_eq!(bus.page("last")?.read::<u64>()?, 42);
    /// assert_eq!(bus.info()?.incarnation, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn durable(mut self, dir: impl Into<PathBuf>) -> BusBuilder {
        let dir = dir.into();
        match &mut self.supervisor {
            Some(config) => config.dir = dir,
            none => *none = Some(SupervisorConfig::new(dir)),
        }
        self
    }

    /// As [`durable`](BusBuilder::durable), with everything else of the supervisor.
    pub fn supervise(mut self, config: SupervisorConfig) -> BusBuilder {
        self.supervisor = Some(config);
        self
    }

    /// What the writes of this handle wait for. If the bus is created here, also what those of others wait for who say
    /// nothing. Default: what the bus was created with, otherwise [`Durability::Volatile`].
    pub fn durability(mut self, durability: Durability) -> BusBuilder {
        self.durability = Some(durability);
        self
    }

    /// Installs a process-wide SIGBUS handler, so that somebody who truncates the segment under this process causes
    /// [`PageError::Truncated`](crate::PageError::Truncated) and not its death. Off by default: handlers are the program's.
    pub fn sigbus_guard(mut self, install: bool) -> BusBuilder {
        self.sigbus_guard = install;
        self
    }

    fn segment_dir(&self) -> SegmentDir {
        self.dir
            .as_ref()
            .map_or_else(SegmentDir::from_env, SegmentDir::at)
    }

    fn guard(&self) -> Result<()> {
        if self.sigbus_guard {
            sigbus::install().map_err(|e| Error::io("install the SIGBUS guard", e))?;
        }
        Ok(())
    }

    /// Creates the bus and attaches to it.
    ///
    /// # Errors
    /// [`AttachError::Exists`] if there is one of this name, living or left over: its contents are still good, attach to
    /// it. [`AttachError::BadName`], [`AttachError::BadConfig`], [`AttachError::Full`],
    /// [`AttachError::PermissionDenied`]. A creator that dies half-way leaves nothing that stands in the way of the next.
    pub fn create(self) -> Result<Bus> {
        self.guard()?;
        self.refuse_log()?;
        let core = Core::create(&self.segment_dir(), &self.name, &self.sizes())?;
        self.join(core, true)
    }

    /// Creates the bus with the pages, names, schemas, metadata and sources of `state`, a past state of this bus or of
    /// another one, and attaches to it. Its LSNs go on where the state ends.
    ///
    /// # Errors
    /// As [`create`](BusBuilder::create); [`PageError::Full`](crate::PageError::Full) if the state does not fit the sizes
    /// that were asked for.
    pub fn create_from<M: PageMemory>(self, state: &State<M>) -> Result<Bus> {
        self.guard()?;
        self.refuse_log()?;
        let dir = self.segment_dir();
        rebuild::create_from(&dir, &self.name, &self.sizes(), state, 1)?;
        let core = Core::attach(&dir, &self.name)?;
        self.join(core, true)
    }

    fn refuse_log(&self) -> Result<()> {
        match &self.supervisor {
            Some(config) if supervisor::has_log(&config.dir)? => Err(LogError::Foreign {
                file: config.dir.clone(),
                what: "it holds a log; `open_or_create` rebuilds the bus from it".into(),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// Joins, and supervises if that was asked for. `made`: the bus is new.
    fn join(self, core: Core, made: bool) -> Result<Bus> {
        if made && let Some(durability) = self.durability {
            core.pages.set_default_durability(durability.to_word());
        }
        let core = Arc::new(core);
        // First of all, so that the log has everything from the first record on.
        let supervisor = self
            .supervisor
            .map(|config| Supervisor::start_on(Arc::clone(&core), config))
            .transpose()?;
        let mut bus = Bus::join(core, self.participant, self.durability)?;
        if let Some(supervisor) = supervisor {
            bus.set_supervisor(supervisor);
        }
        Ok(bus)
    }

    /// Attaches to an existing bus, repairing first what dead participants left behind.
    ///
    /// # Errors
    /// [`AttachError::Missing`], [`AttachError::WrongVersion`], [`AttachError::PermissionDenied`],
    /// [`AttachError::TooManyParticipants`] and the other variants of [`AttachError`].
    pub fn attach(self) -> Result<Bus> {
        self.guard()?;
        let core = Core::attach(&self.segment_dir(), &self.name)?;
        self.join(core, false)
    }

    /// Attaches to the bus, or rebuilds it from its log ([`durable`](BusBuilder::durable)), or creates it. Of several
    /// processes that do this at once, one creates.
    ///
    /// # Errors
    /// As [`create`](BusBuilder::create) and [`attach`](BusBuilder::attach), but neither `Exists` nor `Missing`;
    /// [`Error::Log`], [`Error::Checkpoint`] or [`Error::State`] if the bus cannot be rebuilt as it was.
    pub fn open_or_create(self) -> Result<Bus> {
        self.guard()?;
        let dir = self.segment_dir();
        let mut last = None;
        let mut made = false;
        // Every round but the last means that somebody created or removed the bus between our two attempts.
        for _ in 0..100 {
            match Core::attach(&dir, &self.name) {
                // The default durability is in the segments only: whoever rebuilds says it again.
                Ok(core) => return self.join(core, made),
                Err(AttachError::Missing { .. }) => {}
                Err(e) => return Err(e.into()),
            }
            if let Some(config) = &self.supervisor
                && supervisor::has_log(&config.dir)?
            {
                made = true;
                match rebuild::rebuild(&dir, &self.name, &self.sizes(), &config.dir) {
                    // Somebody else is at it, or was quicker.
                    Ok(_) | Err(Error::Attach(AttachError::Exists { .. })) => {}
                    Err(Error::Log(LogError::Locked { .. })) => {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    Err(e) => return Err(e),
                }
                continue;
            }
            match Core::create(&dir, &self.name, &self.sizes()) {
                Ok(core) => return self.join(core, true),
                Err(e @ AttachError::Exists { .. }) => last = Some(e),
                Err(e) => return Err(e.into()),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(last
            .unwrap_or(AttachError::Initialising { name: self.name })
            .into())
    }

    /// Maps the bus read-only. An observer registers nothing and can neither harm nor delay anybody.
    ///
    /// # Errors
    /// [`AttachError::Missing`], [`AttachError::PermissionDenied`] and the other variants of [`AttachError`].
    pub fn observe(self) -> Result<Observer> {
        self.guard()?;
        Observer::open(&self.segment_dir(), &self.name)
    }
}
