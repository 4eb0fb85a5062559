//! The two objects of a bus: creating, attaching, observing, growing, unlinking.
//!
//! An object is made without a name (`O_TMPFILE`), filled completely, and only then linked, so nobody ever meets a
//! half-made one. `.ctl` is linked first, `.pages` second; both carry one random bus id, which attach compares. A
//! creator that dies between the two leaves a `.ctl` alone, which the next creator removes under a kernel lock.
//!
//! Geometry is read once, checked against the length that fstat gives, and kept in private memory ([`Geometry`]);
//! nothing in shared memory is asked about it again.

mod config;
mod create;
mod ctl;
mod pages;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

pub use config::{BUS_NAME_MAX, BusConfig, Geometry, check_bus_name};
pub use create::{Draft, Start, unlink};
pub use ctl::Ctl;
pub(crate) use ctl::owner_position;
pub(crate) use pages::Block;
pub use pages::Pages;

use crate::error::{AttachError, BusFull, Corrupt};
use crate::layout::ring::SLOT_BYTES;
use crate::layout::segment::{CtlHeader, PagesHeader, STATE_ABANDONED, STATE_READY};
use crate::layout::{LAYOUT_HASH, LAYOUT_MAJOR, LAYOUT_MINOR};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{lock, space, space::SegmentDir};

/// Byte of `.ctl` whose kernel lock says "being created, or being removed as a leftover".
pub(crate) const LOCK_CREATE: u64 = 1 << 40;
/// First byte of the participants' liveness locks.
pub(crate) const LOCK_SLOT: u64 = 1 << 41;
/// First byte of the recovery locks, one for each participant slot.
pub(crate) const LOCK_RECOVERY: u64 = 1 << 42;
/// Byte whose kernel lock the supervisor holds.
pub(crate) const LOCK_SUPERVISOR: u64 = (1 << 40) + 1;
/// First byte of the locks held by whoever takes a lease from the participant of a slot.
pub(crate) const LOCK_LEASE: u64 = 1 << 43;

/// Both objects, attached.
pub struct Core {
    /// Name of the bus.
    pub name: String,
    /// Directory of its objects.
    pub dir: SegmentDir,
    /// `.pages`.
    pub pages: Pages,
    /// `.ctl`.
    pub ctl: Ctl,
}

impl Core {
    /// Maps both objects of an existing bus.
    pub fn attach(dir: &SegmentDir, bus: &str) -> Result<Core, AttachError> {
        check_bus_name(bus)?;
        for attempt in 0.. {
            let ctl = match Ctl::open(dir, bus) {
                Ok(ctl) => ctl,
                Err(AttachError::Missing { .. })
                    if space::stat_path(&dir.object(bus, "pages")).is_ok() =>
                {
                    // `.pages` without `.ctl`: a removal, or a hand, stopped half-way.
                    if attempt < 20 {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                        continue;
                    }
                    return Err(AttachError::BusGone {
                        name: bus.to_owned(),
                    });
                }
                // Empty: the stand-in of a remover that found `.pages` alone.
                Err(AttachError::Truncated { found: 0, .. }) if attempt < 20 => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    continue;
                }
                Err(AttachError::Truncated { found: 0, .. })
                    if space::stat_path(&dir.object(bus, "pages")).is_err() =>
                {
                    return Err(AttachError::Missing {
                        name: bus.to_owned(),
                        dir: dir.path().to_path_buf(),
                    });
                }
                Err(e) => return Err(e),
            };
            let pages = match Pages::open(dir, bus, true) {
                Ok(pages) => pages,
                Err(AttachError::Missing { .. }) => {
                    let creating = lock::is_locked(ctl.fd.as_fd(), LOCK_CREATE).unwrap_or(false);
                    if creating && attempt < 100 {
                        std::thread::sleep(std::time::Duration::from_millis(2));
                        continue;
                    }
                    if creating {
                        return Err(AttachError::Initialising {
                            name: bus.to_owned(),
                        });
                    }
                    return Err(AttachError::Missing {
                        name: bus.to_owned(),
                        dir: dir.path().to_path_buf(),
                    });
                }
                Err(e) => return Err(e),
            };
            // Relaxed: written before READY in both objects.
            let ctl_id = [0, 1].map(|i| ctl.header().bus_id[i].load(Ordering::Relaxed));
            if ctl_id != pages.bus_id() {
                // Removed and created again between the two opens.
                if attempt < 100 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    continue;
                }
                return Err(Corrupt {
                    what: "bus ids of .pages and .ctl differ",
                    offset: 40,
                }
                .into());
            }
            if ctl.owners.1 < pages.geometry.pages_max {
                return Err(Corrupt {
                    what: "owner words for all pages",
                    offset: ctl.owners.1.into(),
                }
                .into());
            }
            let ring = pages.geometry.ring_at as usize;
            let _ = pages.map.populate_write(
                ring,
                pages.geometry.ring_slots as usize * SLOT_BYTES as usize,
            );
            let _ = ctl.map.populate_write(0, ctl.map.len());
            return Ok(Core {
                name: bus.to_owned(),
                dir: dir.clone(),
                pages,
                ctl,
            });
        }
        Err(AttachError::BusGone {
            name: bus.to_owned(),
        })
    }

    /// Whether the name still leads to the objects mapped here.
    pub fn is_named(&self) -> bool {
        let same =
            |path: &Path, here: io::Result<space::ObjectStat>| match (space::stat_path(path), here)
            {
                (Ok(a), Ok(b)) => a.ino == b.ino && a.dev == b.dev,
                _ => false,
            };
        same(self.pages.path(), self.pages.stat()) && same(self.ctl.path(), self.ctl.stat())
    }
}

/// The fields with which both headers begin.
struct Preamble<'a> {
    magic: &'a AtomicU64,
    layout_major: &'a AtomicU32,
    layout_minor: &'a AtomicU32,
    layout_hash: &'a AtomicU64,
    features: &'a AtomicU64,
    state: &'a AtomicU32,
    bus_id: &'a [AtomicU64; 2],
}

macro_rules! preamble {
    ($header:ty) => {
        impl<'a> From<&'a $header> for Preamble<'a> {
            fn from(h: &'a $header) -> Preamble<'a> {
                Preamble {
                    magic: &h.magic,
                    layout_major: &h.layout_major,
                    layout_minor: &h.layout_minor,
                    layout_hash: &h.layout_hash,
                    features: &h.features,
                    state: &h.state,
                    bus_id: &h.bus_id,
                }
            }
        }
    };
}

preamble!(PagesHeader);
preamble!(CtlHeader);

impl Preamble<'_> {
    /// Fills a header that nobody can reach yet, but for its state.
    fn fill(&self, magic: u64, id: [u64; 2]) {
        // Relaxed: published by the state, which is stored last.
        self.magic.store(magic, Ordering::Relaxed);
        self.layout_major.store(LAYOUT_MAJOR, Ordering::Relaxed);
        self.layout_minor.store(LAYOUT_MINOR, Ordering::Relaxed);
        self.layout_hash.store(LAYOUT_HASH, Ordering::Relaxed);
        for (word, half) in self.bus_id.iter().zip(id) {
            word.store(half, Ordering::Relaxed);
        }
    }

    fn version(&self) -> Version {
        Version {
            magic: self.magic.load(Ordering::Relaxed),
            major: self.layout_major.load(Ordering::Relaxed),
            minor: self.layout_minor.load(Ordering::Relaxed),
            hash: self.layout_hash.load(Ordering::Relaxed),
            features: self.features.load(Ordering::Relaxed),
            // Acquire: pairs with the store that ends a creation.
            state: self.state.load(Ordering::Acquire),
        }
    }
}

struct Version {
    magic: u64,
    major: u32,
    minor: u32,
    hash: u64,
    features: u64,
    state: u32,
}

impl Version {
    fn check(&self, bus: &str, path: &Path, magic: u64) -> Result<(), AttachError> {
        if self.magic != magic {
            return Err(AttachError::WrongMagic {
                path: path.to_path_buf(),
                expected: magic,
                found: self.magic,
            });
        }
        if self.major != LAYOUT_MAJOR || self.hash != LAYOUT_HASH || self.features != 0 {
            return Err(AttachError::WrongVersion {
                path: path.to_path_buf(),
                found_major: self.major,
                found_minor: self.minor,
                found_hash: self.hash,
                expected_major: LAYOUT_MAJOR,
                expected_minor: LAYOUT_MINOR,
                expected_hash: LAYOUT_HASH,
            });
        }
        match self.state {
            STATE_READY => Ok(()),
            STATE_ABANDONED => Err(AttachError::BusGone {
                name: bus.to_owned(),
            }),
            0 => Err(AttachError::Initialising {
                name: bus.to_owned(),
            }),
            other => Err(Corrupt {
                what: "state in the header",
                offset: other.into(),
            }
            .into()),
        }
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> AttachError {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return AttachError::PermissionDenied {
            path: path.to_path_buf(),
            hint: "ask its owner for a group mode (see `mmsb create --mode`), or observe it if it is readable".into(),
        };
    }
    AttachError::Io {
        what,
        path: path.to_path_buf(),
        source,
    }
}

fn open(dir: &SegmentDir, bus: &str, path: &Path, write: bool) -> Result<OwnedFd, AttachError> {
    space::open_object(path, write).map_err(|e| {
        if e.kind() == io::ErrorKind::NotFound {
            AttachError::Missing {
                name: bus.to_owned(),
                dir: dir.path().to_path_buf(),
            }
        } else {
            io_error("open", path, e)
        }
    })
}

/// Opens an object that has at least a header of `head` bytes.
fn open_object(
    dir: &SegmentDir,
    bus: &str,
    path: &Path,
    write: bool,
    head: usize,
) -> Result<(OwnedFd, space::ObjectStat), AttachError> {
    let fd = open(dir, bus, path, write)?;
    let stat = space::stat(fd.as_fd()).map_err(|e| io_error("stat", path, e))?;
    if write {
        check_owner(path, &stat)?;
    }
    check_len(path, head as u64, stat.len)?;
    Ok((fd, stat))
}

fn check_len(path: &Path, expected: u64, found: u64) -> Result<(), AttachError> {
    if found >= expected {
        return Ok(());
    }
    Err(AttachError::Truncated {
        path: path.to_path_buf(),
        expected,
        found,
    })
}

/// A segment that somebody else owns could be cut short under us at any time; only ours, root's, or one that our group
/// was given is mapped for writing.
fn check_owner(path: &Path, stat: &space::ObjectStat) -> Result<(), AttachError> {
    let me = rustix::process::geteuid().as_raw();
    if stat.uid == me || stat.uid == 0 || me == 0 || stat.mode & 0o020 != 0 {
        return Ok(());
    }
    Err(AttachError::ForeignOwner {
        path: path.to_path_buf(),
        owner: stat.uid,
    })
}

/// Asks the filesystem for memory; says how much there is when it refuses.
fn allocate(fd: &OwnedFd, path: &Path, offset: u64, len: u64) -> Result<(), BusFull> {
    space::allocate(fd.as_fd(), offset, len).map_err(|_| {
        let space = space::fs_space(fd.as_fd()).ok();
        BusFull::Tmpfs {
            wanted: len,
            available: space.as_ref().map_or(0, |s| s.available),
            total: space.as_ref().map_or(0, |s| s.total),
            dir: path.parent().map(Path::to_path_buf).unwrap_or_default(),
        }
    })
}
