//! [`Places`]: where in the files of a log some of its blocks stand, remembered while readers come past them, so that a
//! later seek need not begin at the beginning of a file.
//!
//! A place is what a reader found by going from block to block, each linked to the one before. It is a hint: whoever
//! goes to one looks whether that block is still there, and goes the long way otherwise. Files are told apart by their
//! nonces, so a file that took the name of another has no places yet. Memory is bounded: when there are too many places,
//! every second one is forgotten, and fewer are taken from then on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::format::BlockHead;

/// Most places that are remembered, of 32 bytes each.
const PLACES_MAX: usize = 1 << 16;
/// Least distance of two places in a file, at first.
const SPACING: u64 = 64 << 10;

/// Where a block with records stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its offset in the file.
    pub offset: u64,
    /// LSN of its first record.
    pub first_lsn: u64,
    /// LSN behind its last record.
    pub end_lsn: u64,
    /// Checksum of the block before.
    pub prev: u32,
    /// Its own.
    pub crc: u32,
}

impl Place {
    pub fn of(head: &BlockHead, offset: u64) -> Place {
        Place {
            offset,
            first_lsn: head.first_lsn,
            end_lsn: head.end_lsn,
            prev: head.prev,
            crc: head.crc,
        }
    }

    /// Whether this is the header of the block.
    pub fn is(&self, head: &BlockHead) -> bool {
        *self == Place::of(head, self.offset)
    }
}

#[derive(Debug)]
struct Inner {
    /// By the nonce of the file; in order.
    files: HashMap<u64, Vec<Place>>,
    count: usize,
    count_max: usize,
    spacing: u64,
    /// The last block that was read and checked on the way to the end of the log, and the nonce of its file.
    last: Option<(u64, Place)>,
}

/// Places of blocks, shared by the readers of one log.
#[derive(Debug)]
pub(crate) struct Places(Mutex<Inner>);

impl Default for Places {
    fn default() -> Places {
        Places::new(PLACES_MAX, SPACING)
    }
}

impl Places {
    fn new(count_max: usize, spacing: u64) -> Places {
        Places(Mutex::new(Inner {
            files: HashMap::new(),
            count: 0,
            count_max,
            spacing,
            last: None,
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done by a panic: every place stands for itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, if it is far enough behind the last one of its file. Returns the offset from which on the next one
    /// would be taken.
    pub fn add(&self, file_id: u64, place: Place) -> u64 {
        let mut inner = self.inner();
        let inner = &mut *inner;
        let places = inner.files.entry(file_id).or_default();
        let next = |places: &[Place], spacing| {
            let last = places.last().map_or(0, |p: &Place| p.offset);
            last.saturating_add(spacing)
        };
        let from = next(places, inner.spacing);
        if place.offset < from {
            return from;
        }
        places.push(place);
        let from = next(places, inner.spacing);
        inner.count += 1;
        if inner.count > inner.count_max {
            inner.thin();
        }
        from
    }

    /// The last place in a file of which the block ends at `lsn` or ahead of it.
    pub fn ahead_of(&self, file_id: u64, lsn: u64) -> Option<Place> {
        let inner = self.inner();
        let places = inner.files.get(&file_id)?;
        let at = places.partition_point(|p| p.end_lsn <= lsn);
        places.get(at.checked_sub(1)?).copied()
    }

    /// Forgets the places of a file.
    pub fn forget(&self, file_id: u64) {
        let mut inner = self.inner();
        let gone = inner.files.remove(&file_id).map_or(0, |p| p.len());
        inner.count -= gone;
        inner.last.take_if(|(id, _)| *id == file_id);
    }

    /// Forgets all files but these.
    pub fn keep(&self, file_ids: &[u64]) {
        let mut inner = self.inner();
        if inner.files.len() <= file_ids.len() {
            return;
        }
        inner.files.retain(|id, _| file_ids.contains(id));
        inner.count = inner.files.values().map(Vec::len).sum();
    }

    /// The last block of this file that was read and checked on the way to the end of the log.
    pub fn last(&self, file_id: u64) -> Option<Place> {
        let inner = self.inner();
        inner.last.filter(|(id, _)| *id == file_id).map(|(_, p)| p)
    }

    pub fn set_last(&self, file_id: u64, place: Place) {
        self.inner().last = Some((file_id, place));
    }
}

impl Inner {
    /// Makes room, by forgetting every second place.
    fn thin(&mut self) {
        self.spacing = self.spacing.saturating_mul(2);
        for places in self.files.values_mut() {
            let mut nth = 0u32;
            places.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
        }
        self.count = self.files.values().map(Vec::len).sum();
        if self.count > self.count_max / 4 * 3 {
            // Very many files of one place each.
            self.files.clear();
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u64) -> Place {
        Place {
            offset: n * 4096,
            first_lsn: n * 10,
            end_lsn: n * 10 + 10,
            prev: n as u32,
            crc: n as u32 + 1,
        }
    }

    #[test]
    fn the_nearest_place_ahead_is_found() {
        let places = Places::new(100, 8192);
        for n in 1..10 {
            places.add(7, place(n));
        }
        // Every second one, from 2 on.
        assert_eq!(places.ahead_of(7, 29), None);
        assert_eq!(places.ahead_of(7, 30), Some(place(2)));
        assert_eq!(places.ahead_of(7, 49), Some(place(2)));
        assert_eq!(places.ahead_of(7, 50), Some(place(4)));
        assert_eq!(places.ahead_of(7, u64::MAX), Some(place(8)));
        assert_eq!(places.ahead_of(8, u64::MAX), None);
        places.forget(7);
        assert_eq!(places.ahead_of(7, u64::MAX), None);
    }

    #[test]
    fn a_place_behind_which_another_reader_was_is_not_taken_again() {
        let places = Places::new(100, 4096);
        for n in [1, 2, 3, 2, 1, 4] {
            places.add(7, place(n));
        }
        assert_eq!(places.inner().count, 4);
        assert!(places.inner().files[&7].is_sorted_by_key(|p| p.offset));
    }

    #[test]
    fn there_are_never_more_than_so_many() {
        let places = Places::new(64, 4096);
        for n in 1..10_000 {
            places.add(n / 1000, place(n));
            assert!(places.inner().count <= 64);
        }
        let found = places.ahead_of(9, u64::MAX).unwrap();
        assert!(found.offset > 9_000 * 4096, "{found:?}");
        places.keep(&[9]);
        places.keep(&[9, 10, 11]);
        let inner = places.inner();
        assert_eq!((inner.files.len(), inner.count), (1, inner.files[&9].len()));
    }
}
