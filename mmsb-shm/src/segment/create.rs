//! Creating and unlinking: the only places where names of objects come and go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::ctl::ctl_layout;
use super::{BusConfig, Core, LOCK_CREATE, allocate, check_bus_name, io_error};
use crate::error::AttachError;
use crate::layout::segment::{CtlHeader, PagesHeader, STATE_READY};
use crate::layout::{CTL_MAGIC, LAYOUT_HASH, LAYOUT_MAJOR, LAYOUT_MINOR, PAGES_MAGIC};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{clock, lock, map::Mapping, space, space::SegmentDir};
use crate::testing::step;

impl Core {
    /// Creates both objects and attaches to them.
    ///
    /// # Errors
    /// [`AttachError::Exists`] if there is a bus of this name, whether or not anybody lives on it;
    /// [`AttachError::Full`] if the tmpfs has no room for the tables; nothing is left behind then.
    pub fn create(dir: &SegmentDir, bus: &str, config: &BusConfig) -> Result<Core, AttachError> {
        check_bus_name(bus)?;
        config.check()?;
        let (pages_path, ctl_path) = (dir.object(bus, "pages"), dir.object(bus, "ctl"));
        let id = random_id();
        let ctl_fd = make_ctl(dir, bus, &ctl_path, config, id)?;
        step("create.ctl_made");
        // Held until both names are linked: says that the half-made bus has a living creator.
        lock::try_lock(ctl_fd.as_fd(), LOCK_CREATE).map_err(|e| io_error("lock", &ctl_path, e))?;
        let pages_fd = make_pages(dir, bus, &pages_path, config, id)?;
        step("create.pages_made");
        let exists = || AttachError::Exists {
            name: bus.to_owned(),
            dir: dir.path().to_path_buf(),
        };
        let mut linked = false;
        for _ in 0..100 {
            match space::link_named(ctl_fd.as_fd(), &ctl_path) {
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
        drop(ctl_fd);
        drop(pages_fd);
        Core::attach(dir, bus)
    }
}

/// Removes both names of a bus. Whoever is attached goes on with what it has mapped. Missing halves are no error;
/// [`AttachError::Missing`] if there was neither.
pub fn unlink(dir: &SegmentDir, bus: &str) -> Result<(), AttachError> {
    check_bus_name(bus)?;
    let (pages_path, ctl_path) = (dir.object(bus, "pages"), dir.object(bus, "ctl"));
    // The lock keeps others from replacing `.ctl` between the two steps, so only this bus is removed: provided that it is
    // still this one under the lock.
    let ctl = loop {
        let Ok(fd) = space::open_object(&ctl_path, true) else {
            break None;
        };
        step("unlink.opened");
        if !lock::try_lock(fd.as_fd(), LOCK_CREATE).map_err(|e| io_error("lock", &ctl_path, e))? {
            return Err(AttachError::Initialising {
                name: bus.to_owned(),
            });
        }
        let same = match (space::stat(fd.as_fd()), space::stat_path(&ctl_path)) {
            (Ok(a), Ok(b)) => a.same_object(&b),
            _ => false,
        };
        if same {
            break Some(fd);
        }
    };
    let remove = |path: &Path| match space::unlink(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(io_error("unlink", path, e)),
    };
    // `.pages` first, the reverse of creation: a death in between leaves a lone `.ctl`, which creation removes.
    let mut found = remove(&pages_path)?;
    step("unlink.pages");
    let same = match (
        ctl.as_ref().map(|fd| space::stat(fd.as_fd())),
        space::stat_path(&ctl_path),
    ) {
        (Some(Ok(a)), Ok(b)) => a.ino == b.ino && a.dev == b.dev,
        // Not ours to open: the kernel will say whether we may unlink it.
        (None, Ok(_)) => true,
        _ => false,
    };
    if same {
        found |= remove(&ctl_path)?;
    }
    if found {
        Ok(())
    } else {
        Err(AttachError::Missing {
            name: bus.to_owned(),
            dir: dir.path().to_path_buf(),
        })
    }
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
    if !lock::try_lock(fd.as_fd(), LOCK_CREATE).map_err(|e| io_error("lock", &path, e))? {
        // A living creator: it will link `.pages` in a moment.
        return Ok(false);
    }
    // Under the lock: is it still this object, and still alone? Creators link `.pages` only while they hold it.
    let same = match (space::stat(fd.as_fd()), space::stat_path(&path)) {
        (Ok(a), Ok(b)) => a.ino == b.ino && a.dev == b.dev,
        _ => false,
    };
    if same && space::stat_path(&pages_path).is_err() {
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
    bus: &str,
    path: &Path,
    config: &BusConfig,
    id: [u64; 2],
) -> Result<OwnedFd, AttachError> {
    let _ = bus;
    let l = ctl_layout(config);
    let (fd, map) = make_object(dir, path, config.ctl_mode, l.len)?;
    // SAFETY: the object has at least 4096 bytes, all backed; all fields are atomics.
    let h = unsafe { &*map.base().cast::<CtlHeader>() };
    // Relaxed everywhere: nobody can reach the object before it is linked, and `state` is stored with Release.
    let s64 = |a: &AtomicU64, v: u64| a.store(v, Ordering::Relaxed);
    let s32 = |a: &AtomicU32, v: u32| a.store(v, Ordering::Relaxed);
    s64(&h.magic, CTL_MAGIC);
    s32(&h.layout_major, LAYOUT_MAJOR);
    s32(&h.layout_minor, LAYOUT_MINOR);
    s64(&h.layout_hash, LAYOUT_HASH);
    s64(&h.bus_id[0], id[0]);
    s64(&h.bus_id[1], id[1]);
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
) -> Result<OwnedFd, AttachError> {
    let g = config.geometry();
    let (fd, map) = make_object(dir, path, config.mode, g.arena_at)?;
    // SAFETY: the object has at least 4096 bytes, all backed; all fields are atomics.
    let h = unsafe { &*map.base().cast::<PagesHeader>() };
    // Relaxed everywhere: as in `make_ctl`.
    let s64 = |a: &AtomicU64, v: u64| a.store(v, Ordering::Relaxed);
    let s32 = |a: &AtomicU32, v: u32| a.store(v, Ordering::Relaxed);
    s64(&h.magic, PAGES_MAGIC);
    s32(&h.layout_major, LAYOUT_MAJOR);
    s32(&h.layout_minor, LAYOUT_MINOR);
    s64(&h.layout_hash, LAYOUT_HASH);
    s64(&h.bus_id[0], id[0]);
    s64(&h.bus_id[1], id[1]);
    s64(&h.incarnation, 1);
    s64(&h.created_ns, clock::realtime_ns());
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
    let first = u64::from(g.ring_slots);
    s64(&h.published, first);
    s64(&h.tail_hint, first);
    s64(&h.overwrite_floor, first);
    s64(&h.claim_limit, 2 * first);
    h.state.store(STATE_READY, Ordering::Release);
    Ok(fd)
}
