//! The mapped `.ctl`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use super::{BusConfig, Preamble, check_len, io_error, open_object};
use crate::error::{AttachError, Corrupt};
use crate::layout::CTL_MAGIC;
use crate::layout::participant::{Cursor, ParticipantSlot};
use crate::layout::segment::CtlHeader;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{map::Mapping, space, space::SegmentDir};

/// A mapped `.ctl`.
pub struct Ctl {
    pub(super) map: Mapping,
    pub(super) fd: OwnedFd,
    path: PathBuf,
    header: NonNull<CtlHeader>,
    participants: (u64, u32),
    cursors: (u64, u32),
    pub(super) owners: (u64, u32),
    owner_shift: u32,
    indices: (u64, u32),
}

// SAFETY: as for `Pages`.
unsafe impl Send for Ctl {}
// SAFETY: as for `Pages`.
unsafe impl Sync for Ctl {}

pub(super) struct CtlLayout {
    pub(super) participants_at: u64,
    pub(super) cursors_at: u64,
    pub(super) owners_at: u64,
    pub(super) owners_max: u32,
    pub(super) indices_at: u64,
    pub(super) len: u64,
}

pub(super) fn ctl_layout(config: &BusConfig) -> CtlLayout {
    let line = |at: u64| at.next_multiple_of(128);
    let owners_max = config.pages_max.next_power_of_two().max(16);
    let participants_at = size_of::<CtlHeader>() as u64;
    let cursors_at = line(
        participants_at + u64::from(config.participants_max) * size_of::<ParticipantSlot>() as u64,
    );
    let owners_at = line(cursors_at + u64::from(config.cursors_max) * size_of::<Cursor>() as u64);
    let indices_at = line(owners_at + u64::from(owners_max) * 4);
    let len = (indices_at + u64::from(config.pages_max.div_ceil(64)) * 8).next_multiple_of(4096);
    CtlLayout {
        participants_at,
        cursors_at,
        owners_at,
        owners_max,
        indices_at,
        len,
    }
}

impl Ctl {
    #[inline(always)]
    pub(crate) fn header(&self) -> &CtlHeader {
        // SAFETY: points to the start of the mapping, which is alive as long as self; all fields are atomics.
        unsafe { self.header.as_ref() }
    }

    fn table<T>(&self, (at, count): (u64, u32)) -> &[T] {
        // SAFETY: the pair was checked against the mapped length in `open`; T is made of atomics only.
        unsafe {
            core::slice::from_raw_parts(
                self.map.base().add(at as usize).cast::<T>(),
                count as usize,
            )
        }
    }

    #[inline(always)]
    pub(crate) fn participants(&self) -> &[ParticipantSlot] {
        self.table(self.participants)
    }

    /// Participant slots that were ever used.
    pub(crate) fn participants_used(&self) -> &[ParticipantSlot] {
        // Acquire: pairs with the `fetch_max` of a joining participant.
        let used = self.header().participants_used.load(Ordering::Acquire) as usize;
        &self.participants()[..used.min(self.participants.1 as usize)]
    }

    #[inline]
    pub(crate) fn cursors(&self) -> &[Cursor] {
        self.table(self.cursors)
    }

    pub(crate) fn cursors_used(&self) -> &[Cursor] {
        // Acquire: pairs with the `fetch_max` of a joining cursor.
        let used = self.header().cursors_used.load(Ordering::Acquire) as usize;
        &self.cursors()[..used.min(self.cursors.1 as usize)]
    }

    pub(crate) fn owners(&self) -> &[AtomicU32] {
        self.table(self.owners)
    }

    /// Owner word of a page index below `pages_max`. Neighbouring pages have theirs on different lines: the index's bits
    /// are rotated by four.
    #[inline(always)]
    pub(crate) fn owner(&self, index: u32) -> &AtomicU32 {
        &self.owners()[owner_position(index, self.owner_shift)]
    }

    /// Base-two logarithm of the number of owner words divided by 16.
    pub(crate) fn owner_shift(&self) -> u32 {
        self.owner_shift
    }

    /// The bitmap of free page numbers.
    pub(crate) fn indices(&self) -> &[AtomicU64] {
        self.table(self.indices)
    }

    /// The descriptor that never holds a lock: the one to ask about liveness.
    pub(crate) fn probe(&self) -> &OwnedFd {
        &self.fd
    }

    /// Path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Most participants at one time.
    pub fn participants_max(&self) -> u32 {
        self.participants.1
    }

    /// Most subscriptions with a cursor at one time.
    pub fn cursors_max(&self) -> u32 {
        self.cursors.1
    }

    /// What the kernel says about the object.
    pub fn stat(&self) -> io::Result<space::ObjectStat> {
        space::stat(self.fd.as_fd())
    }

    pub(super) fn open(dir: &SegmentDir, bus: &str) -> Result<Ctl, AttachError> {
        let path = dir.object(bus, "ctl");
        let (fd, _) = open_object(dir, bus, &path, true, size_of::<CtlHeader>())?;
        Ctl::from_fd(fd, path, bus)
    }

    /// Maps an object of at least a header's length.
    pub(super) fn from_fd(fd: OwnedFd, path: PathBuf, bus: &str) -> Result<Ctl, AttachError> {
        let head = size_of::<CtlHeader>() as u64;
        let stat = space::stat(fd.as_fd()).map_err(|e| io_error("stat", &path, e))?;
        check_len(&path, head, stat.len)?;
        let map = Mapping::new(fd.as_fd(), stat.len as usize, true)
            .map_err(|e| io_error("map", &path, e))?;
        let header = NonNull::new(map.base().cast::<CtlHeader>()).ok_or(Corrupt {
            what: "mapping",
            offset: 0,
        })?;
        // SAFETY: at least 4096 bytes are mapped and backed; all fields are atomics.
        let h = unsafe { header.as_ref() };
        Preamble::from(h).version().check(bus, &path, CTL_MAGIC)?;
        let len = h.len.load(Ordering::Relaxed);
        check_len(&path, len, stat.len)?;
        // Relaxed: written before `state`, which was read with Acquire.
        let r = |a: &AtomicU32| a.load(Ordering::Relaxed);
        let at = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let owners_max = r(&h.owners_max);
        let tables = [
            (
                at(&h.participants_at),
                r(&h.participants_max),
                size_of::<ParticipantSlot>(),
                "participant slots",
            ),
            (
                at(&h.cursors_at),
                r(&h.cursors_max),
                size_of::<Cursor>(),
                "cursors",
            ),
            (at(&h.owners_at), owners_max, 4, "owner words"),
            (
                at(&h.indices_at),
                r(&h.indices_words),
                8,
                "free page numbers",
            ),
        ];
        let mut end = head;
        for (offset, count, bytes, what) in tables {
            let size = u64::from(count) * bytes as u64;
            if offset % 64 != 0
                || offset < end
                || offset
                    .checked_add(size)
                    .is_none_or(|e| e > stat.len.min(len))
            {
                return Err(Corrupt { what, offset }.into());
            }
            end = offset + size;
        }
        if owners_max < 16
            || !owners_max.is_power_of_two()
            || tables[0].1 == 0
            || tables[0].1 > 1022
        {
            return Err(Corrupt {
                what: "sizes in the control header",
                offset: owners_max.into(),
            }
            .into());
        }
        Ok(Ctl {
            map,
            fd,
            path,
            header,
            participants: (tables[0].0, tables[0].1),
            cursors: (tables[1].0, tables[1].1),
            owners: (tables[2].0, tables[2].1),
            owner_shift: (owners_max / 16).trailing_zeros(),
            indices: (tables[3].0, tables[3].1),
        })
    }
}

/// Where the owner word of a page index stands among 2^(shift + 4) words.
#[inline(always)]
pub(crate) fn owner_position(index: u32, shift: u32) -> usize {
    (((index & ((1 << shift) - 1)) << 4) | (index >> shift)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pages_share_an_owner_word_and_none_stays_unused() {
        for shift in [0, 1, 6, 16] {
            let mut positions: Vec<usize> = (0..(16u32 << shift))
                .map(|index| owner_position(index, shift))
                .collect();
            positions.sort_unstable();
            assert!(positions.iter().copied().eq(0..(16 << shift)));
        }
    }
}
