//! How a bus is named, sized, created and attached.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mmsb_shm::segment::Core;
use mmsb_shm::sys::sigbus;
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{AttachError, BusConfig, OnFull, ParticipantConfig};

use crate::error::{Error, Result};
use crate::{Bus, Observer};

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
    participant: ParticipantConfig,
    sigbus_guard: bool,
}

impl BusBuilder {
    pub(crate) fn new(name: &str) -> BusBuilder {
        BusBuilder {
            name: name.to_owned(),
            dir: None,
            config: BusConfig::default(),
            participant: ParticipantConfig::default(),
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

    /// Size of the delta ring in bytes, rounded up to a power of two; 4 KiB to 1 GiB. Default: 1 MiB. A larger ring gives
    /// subscribers more slack, one larger than the L2 cache is slower.
    pub fn ring_bytes(mut self, bytes: u64) -> BusBuilder {
        self.config.ring_bytes = bytes;
        self
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
        let core = Core::create(&self.segment_dir(), &self.name, &self.config)?;
        Bus::join(Arc::new(core), self.participant)
    }

    /// Attaches to an existing bus, repairing first what dead participants left behind.
    ///
    /// # Errors
    /// [`AttachError::Missing`], [`AttachError::WrongVersion`], [`AttachError::PermissionDenied`],
    /// [`AttachError::TooManyParticipants`] and the other variants of [`AttachError`].
    pub fn attach(self) -> Result<Bus> {
        self.guard()?;
        let core = Core::attach(&self.segment_dir(), &self.name)?;
        Bus::join(Arc::new(core), self.participant)
    }

    /// Attaches to the bus, or creates it. Of several processes that do this at once, one creates.
    ///
    /// # Errors
    /// As [`create`](BusBuilder::create) and [`attach`](BusBuilder::attach), but neither `Exists` nor `Missing`.
    pub fn open_or_create(self) -> Result<Bus> {
        self.guard()?;
        let dir = self.segment_dir();
        let mut last = None;
        // Every round but the last means that somebody created or removed the bus between our two attempts.
        for _ in 0..100 {
            match Core::attach(&dir, &self.name) {
                Ok(core) => return Bus::join(Arc::new(core), self.participant),
                Err(AttachError::Missing { .. }) => {}
                Err(e) => return Err(e.into()),
            }
            match Core::create(&dir, &self.name, &self.config) {
                Ok(core) => return Bus::join(Arc::new(core), self.participant),
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
