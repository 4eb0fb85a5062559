//! Creating and unlinking: the only places where names of objects come and go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::ctl::ctl_layout;
use super::{
    BusConfig, Core, Ctl, LOCK_CREATE, Pages, Preamble, allocate, check_bus_name, io_error,
};
use crate::error::AttachError;
use crate::layout::ring::{SLOT_BYTES, SlotState, Stamp};
use crate::layout::segment::{CtlHeader, PagesHeader, STATE_READY};
use crate::layout::{CTL_MAGIC, PAGES_MAGIC};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::fork::Description;
use crate::sys::{clock, lock, map::Mapping, space, space::SegmentDir};
use crate::testing::step;

impl Core {
    /// Creates both objects and attaches to them.
    ///
    /// # Errors
    /// [`AttachError::Exists`] if there is a bus of this name, whether or not anybody lives on it;
    /// [`AttachError::Full`] if the tmpfs has no room for the tables; nothing is left behind then.
    pub fn create(dir: &SegmentDir, bus: &str, config: &BusConfig) -> Result<Core, AttachError> {
        Draft::new(dir, bus, config, None)?.link()?;
        Core::attach(dir, bus)
    }
}

/// Where the incarnation of a rebuilt bus begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Number of the incarnation, one more than that of its predecessor.
    pub incarnation: u64,
    /// Its first LSN.
    pub lsn: u64,
    /// CLOCK_REALTIME in ns from which record times count; that of the predecessor.
    pub created_ns: u64,
}

/// Both objects of a bus, filled and without a name: nobody can reach them yet, and they are gone with this process.
pub struct Draft {
    dir: SegmentDir,
    bus: String,
    ctl: CreationLock,
    pages: OwnedFd,
}

impl Draft {
    /// Makes both objects. `start`: of a bus that takes up where a log ends.
    ///
    /// # Errors
    /// [`AttachError::BadConfig`]; [`AttachError::Full`] if the tmpfs has no room for the tables.
    pub fn new(
        dir: &SegmentDir,
        bus: &str,
        config: &BusConfig,
        start: Option<Start>,
    ) -> Result<Draft, AttachError> {
        check_bus_name(bus)?;
        config.check()?;
        let (pages_path, ctl_path) = (dir.object(bus, "pages"), dir.object(bus, "ctl"));
        let id = random_id();
        let ctl_fd = make_ctl(dir, &ctl_path, config, id)?;
        step("create.ctl_made");
        // Held until both names are linked: says that the half-made bus has a living creator.
        let ctl = CreationLock::of_new(ctl_fd, &ctl_path)?;
        let pages = make_pages(dir, bus, &pages_path, config, id, start)?;
        step("create.pages_made");
        Ok(Draft {
            dir: dir.clone(),
            bus: bus.to_owned(),
            ctl,
            pages,
        })
    }

    /// Maps the objects, for whoever fills them.
    ///
    /// # Errors
    /// [`AttachError::Io`].
    pub fn core(&self) -> Result<Core, AttachError> {
        let (pages_path, ctl_path) = (
            self.dir.object(&self.bus, "pages"),
            self.dir.object(&self.bus, "ctl"),
        );
        let reopen = |fd: &OwnedFd, path: &Path| {
            space::reopen(fd.as_fd(), true).map_err(|e| io_error("reopen", path, e))
        };
        let ctl = Ctl::from_fd(reopen(&self.ctl.0, &ctl_path)?, ctl_path, &self.bus)?;
        let pages = Pages::from_fd(
            reopen(&self.pages, &pages_path)?,
            pages_path,
            &self.bus,
            true,
        )?;
        Ok(Core {
            name: self.bus.clone(),
            dir: self.dir.clone(),
            pages,
            ctl,
        })
    }

    /// Gives both objects their names: from here on it is a bus like any other.
    ///
    /// # Errors
    /// [`AttachError::Exists`] if there is a bus of this name.
    pub fn link(self) -> Result<(), AttachError> {
        let Draft {
            dir,
            bus,
            ctl: ctl_fd,
            pages: pages_fd,
        } = self;
        let (dir, bus) = (&dir, bus.as_str());
        let (pages_path, ctl_path) = (dir.object(bus, "pages"), dir.object(bus, "ctl"));
        let exists = || AttachError::Exists {
            name: bus.to_owned(),
            dir: dir.path().to_path_buf(),
        };
        let mut linked = false;
        for _ in 0..100 {
            match space::link_named(&*ctl_fd.0, &ctl_path) {
                Ok(()) => {
                    linked = true;
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    if !remove_leftover(dir, bus)? {
                        return Err(exists());
                    }
                }
                Err(e) => return Err(io_error("link", &ctl_path, e)),
            }
        }
        if !linked {
            return Err(exists());
        }
        step("create.ctl_linked");
        match space::link_named(pages_fd.as_fd(), &pages_path) {
            Ok(()) => {}
            Err(e) => {
                let _ = space::unlink(&ctl_path);
                if e.kind() == io::ErrorKind::AlreadyExists {
                    return Err(exists());
                }
                return Err(io_error("link", &pages_path, e));
            }
        }
        step("create.pages_linked");
        Ok(())
    }
}

/// The creation lock of a `.ctl`. While somebody holds that of the object named so, nobody else links or removes either
/// name of the bus. Given back on drop; fork children do not keep it.
struct CreationLock(Description);

impl CreationLock {
    /// `None`: somebody else has it.
    fn take(fd: OwnedFd, path: &Path) -> Result<Option<CreationLock>, AttachError> {
        // Registered ahead of the lock, so that no fork child keeps it.
        let fd = Description::new(fd).map_err(|e| io_error("register for fork", path, e))?;
        let taken =
            lock::try_lock(fd.as_fd(), LOCK_CREATE).map_err(|e| io_error("lock", path, e))?;
        Ok(taken.then(|| CreationLock(fd)))
    }

    /// Of an object that has no name yet, so that nobody else can have its lock.
    fn of_new(fd: OwnedFd, path: &Path) -> Result<CreationLock, AttachError> {
        CreationLock::take(fd, path)?.ok_or_else(|| {
            let odd = io::Error::other("an object without a name is locked");
            io_error("lock", path, odd)
        })
    }

    /// Whether `path` names the object. Then it does so until the lock is given back.
    fn is_of(&self, path: &Path) -> bool {
        match (space::stat(self.0.as_fd()), space::stat_path(path)) {
            (Ok(a), Ok(b)) => a.same_object(&b),
            _ => false,
        }
    }
}

impl Drop for CreationLock {
    fn drop(&mut self) {
        // A child that is being forked right now may hold a copy: the lock goes for all of them.
        let _ = lock::unlock(self.0.as_fd(), LOCK_CREATE);
    }
}

/// Removes both names of a bus. Whoever is attached goes on with what it has mapped. Missing halves are no error;
/// [`AttachError::Missing`] if there was neither.
///
/// # Errors
/// [`AttachError::Initialising`] while somebody else creates or removes it.
pub fn unlink(dir: &SegmentDir, bus: &str) -> Result<(), AttachError> {
    check_bus_name(bus)?;
    let (pages_path, ctl_path) = (dir.object(bus, "pages"), dir.object(bus, "ctl"));
    // The lock keeps others from replacing either name between the steps, so only one bus is removed: provided that the
    // object is still the one named so under the lock.
    let (ctl, stand_in) = loop {
        let fd = match space::open_object(&ctl_path, true) {
            Ok(fd) => fd,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if space::stat_path(&pages_path).is_err() {
                    return Err(AttachError::Missing {
                        name: bus.to_owned(),
                        dir: dir.path().to_path_buf(),
                    });
                }
                // `.pages` alone: there is no lock to take, so an empty stand-in brings one. It keeps creators out.
                let fd = space::create_unnamed(dir.path(), 0o600)
                    .map_err(|e| io_error("create", &ctl_path, e))?;
                let ctl = CreationLock::of_new(fd, &ctl_path)?;
                match space::link_named(&*ctl.0, &ctl_path) {
                    Ok(()) => break (ctl, true),
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(e) => return Err(io_error("link", &ctl_path, e)),
                }
            }
            // Whom the object refuses could not tell its bus from the next one.
            Err(e) => return Err(io_error("open", &ctl_path, e)),
        };
        step("unlink.opened");
        let Some(ctl) = CreationLock::take(fd, &ctl_path)? else {
            return Err(AttachError::Initialising {
                name: bus.to_owned(),
            });
        };
        if ctl.is_of(&ctl_path) {
            break (ctl, false);
        }
    };
    step("unlink.locked");
    let remove = |path: &Path| match space::unlink(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("unlink", path, e)),
        _ => Ok(()),
    };
    // `.pages` first, the reverse of creation: a death in between leaves a lone `.ctl`, which creation removes.
    let removed = remove(&pages_path);
    if removed.is_err() && !stand_in {
        return removed;
    }
    step("unlink.pages");
    let ctl_removed = remove(&ctl_path);
    drop(ctl);
    removed.and(ctl_removed)
}

/// Removes a `.ctl` whose creator died before it could link `.pages`. True if the way is free now.
fn remove_leftover(dir: &SegmentDir, bus: &str) -> Result<bool, AttachError> {
    let (pages_path, path) = (dir.object(bus, "pages"), dir.object(bus, "ctl"));
    if space::stat_path(&pages_path).is_ok() {
        return Ok(false);
    }
    let fd = match space::open_object(&path, true) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(io_error("open", &path, e)),
    };
    let Some(ctl) = CreationLock::take(fd, &path)? else {
        // A living creator: it will link `.pages` in a moment.
        return Ok(false);
    };
    // Under the lock: is it still this object, and still alone? Creators link `.pages` only while they hold it.
    if ctl.is_of(&path) && space::stat_path(&pages_path).is_err() {
        step("create.leftover");
        let _ = space::unlink(&path);
    }
    Ok(true)
}

fn random_id() -> [u64; 2] {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer has 16 bytes.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), 16, 0) };
    if got != 16 {
        // No entropy source at all: time and pid still tell two buses apart.
        bytes[..8].copy_from_slice(&clock::realtime_ns().to_le_bytes());
        bytes[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    }
    let half = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap_or_default());
    [half(&bytes[..8]), half(&bytes[8..])]
}

fn make_object(
    dir: &SegmentDir,
    path: &Path,
    mode: u32,
    len: u64,
) -> Result<(OwnedFd, Mapping), AttachError> {
    let fd = space::create_unnamed(dir.path(), mode).map_err(|e| io_error("create", path, e))?;
    allocate(&fd, path, 0, len)?;
    let map = Mapping::new(fd.as_fd(), len as usize, true).map_err(|e| io_error("map", path, e))?;
    Ok((fd, map))
}

fn make_ctl(
    dir: &SegmentDir,
    path: &Path,
    config: &BusConfig,
    id: [u64; 2],
) -> Result<OwnedFd, AttachError> {
    let l = ctl_layout(config);
    let (fd, map) = make_object(dir, path, config.ctl_mode, l.len)?;
    // SAFETY: the object has at least 4096 bytes, all backed; all fields are atomics.
    let h = unsafe { &*map.base().cast::<CtlHeader>() };
    // Relaxed everywhere: nobody can reach the object before it is linked, and `state` is stored with Release.
    let s64 = |a: &AtomicU64, v: u64| a.store(v, Ordering::Relaxed);
    let s32 = |a: &AtomicU32, v: u32| a.store(v, Ordering::Relaxed);
    Preamble::from(h).fill(CTL_MAGIC, id);
    s64(&h.len, l.len);
    s32(&h.participants_max, config.participants_max);
    s32(&h.cursors_max, config.cursors_max);
    s32(&h.owners_max, l.owners_max);
    s64(&h.participants_at, l.participants_at);
    s64(&h.cursors_at, l.cursors_at);
    s64(&h.owners_at, l.owners_at);
    s64(&h.indices_at, l.indices_at);
    s32(&h.indices_words, config.pages_max.div_ceil(64));
    for word in 0..config.pages_max.div_ceil(64) {
        let bits = (config.pages_max - word * 64).min(64);
        let free = if bits == 64 {
            u64::MAX
        } else {
            (1 << bits) - 1
        };
        // SAFETY: `l.len` covers div_ceil(pages_max, 64) words from `indices_at`, which is 128-byte aligned.
        let cell = unsafe {
            &*map
                .base()
                .add((l.indices_at + u64::from(word) * 8) as usize)
                .cast::<AtomicU64>()
        };
        s64(cell, free);
    }
    h.state.store(STATE_READY, Ordering::Release);
    Ok(fd)
}

fn make_pages(
    dir: &SegmentDir,
    bus: &str,
    path: &Path,
    config: &BusConfig,
    id: [u64; 2],
    start: Option<Start>,
) -> Result<OwnedFd, AttachError> {
    let g = config.geometry();
    let start = start.unwrap_or(Start {
        incarnation: 1,
        lsn: u64::from(g.ring_slots),
        created_ns: clock::realtime_ns(),
    });
    let (fd, map) = make_object(dir, path, config.mode, g.arena_at)?;
    // SAFETY: the object has at least 4096 bytes, all backed; all fields are atomics.
    let h = unsafe { &*map.base().cast::<PagesHeader>() };
    // Relaxed everywhere: as in `make_ctl`.
    let s64 = |a: &AtomicU64, v: u64| a.store(v, Ordering::Relaxed);
    let s32 = |a: &AtomicU32, v: u32| a.store(v, Ordering::Relaxed);
    Preamble::from(h).fill(PAGES_MAGIC, id);
    s64(&h.incarnation, start.incarnation);
    s64(&h.created_ns, start.created_ns);
    s64(&h.fork_lsn, start.lsn);
    s64(&h.len_max, g.len_max);
    s32(&h.pages_max, g.pages_max);
    s32(&h.names_slots, g.names_slots);
    s32(&h.sources_max, g.sources_max);
    s32(&h.ring_slots, g.ring_slots);
    s64(&h.directory_at, g.directory_at);
    s64(&h.names_at, g.names_at);
    s64(&h.sources_at, g.sources_at);
    s64(&h.slabs_at, g.slabs_at);
    s64(&h.ring_at, g.ring_at);
    s64(&h.arena_at, g.arena_at);
    s32(&h.slabs_max, g.slabs_max);
    for (word, chunk) in h.name.iter().zip(bus.as_bytes().chunks(8)) {
        let mut bytes = [0u8; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        s64(word, u64::from_le_bytes(bytes));
    }
    s64(&h.len, g.arena_at);
    let (first, slots) = (start.lsn, u64::from(g.ring_slots));
    if first != slots {
        // Zeroed memory is an earlier lap of the first one only: laps wrap.
        for lsn in first..first + slots {
            let at = g.ring_at + (lsn & (slots - 1)) * SLOT_BYTES;
            let lap = ((lsn >> slots.trailing_zeros()) as u32).wrapping_sub(1);
            // SAFETY: the ring lies inside the object; the slot begins with its stamp.
            let stamp = unsafe { &*map.base().add(at as usize).cast::<AtomicU64>() };
            s64(stamp, Stamp::new(lap, 1, 0, SlotState::Empty).0);
        }
    }
    s64(&h.published, first);
    s64(&h.tail_hint, first);
    s64(&h.overwrite_floor, first);
    s64(&h.claim_limit, first + slots);
    h.state.store(STATE_READY, Ordering::Release);
    Ok(fd)
}
