//! Sources: the names that deltas carry as numbers.

use crate::PageId;
use crate::error::{BusFull, PageError};
use crate::layout::SOURCE_BYTES_MAX;
use crate::layout::ring::Kind;
use crate::participant::{Locked, Participant, read_name, write_name};
use crate::segment::Pages;
use crate::sync::Ordering;
use crate::sys::clock;
use crate::testing::step;

/// A source of deltas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Its number, as carried by deltas.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// CLOCK_REALTIME of its first use, ns.
    pub since_ns: u64,
}

impl Pages {
    /// All sources.
    pub fn list_sources(&self) -> Vec<SourceInfo> {
        self.sources()
            .iter()
            .enumerate()
            .filter(|(_, s)| s.len.load(Ordering::Acquire) != 0)
            .map(|(id, s)| SourceInfo {
                id: id as u16,
                name: read_name(&s.name),
                since_ns: s.since_ns.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Name of a source.
    pub fn source_name(&self, id: u16) -> Option<String> {
        let source = self.sources().get(id as usize)?;
        (source.len.load(Ordering::Acquire) != 0).then(|| read_name(&source.name))
    }
}

/// Number of a source, registering it under the name lock.
pub(crate) fn source_id(by: &Participant, name: &str) -> Result<u16, PageError> {
    let mut end = name.len().min(SOURCE_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name = if end == 0 { "unnamed" } else { &name[..end] };
    let find = || {
        by.core
            .pages
            .list_sources()
            .into_iter()
            .find(|s| s.name == name)
            .map(|s| s.id)
    };
    if let Some(id) = find() {
        return Ok(id);
    }
    let _inside = by.operation();
    let lock = &by.core.ctl.header().names_lock;
    loop {
        by.lock_word(lock, 30, Locked::Names)?;
        let result = (|| -> Result<Option<(u16, Option<u64>)>, PageError> {
            if let Some(id) = find() {
                return Ok(Some((id, None)));
            }
            let sources = by.core.pages.sources();
            let Some(id) = sources
                .iter()
                .position(|s| s.len.load(Ordering::Acquire) == 0)
            else {
                return Err(BusFull::Sources {
                    max: sources.len() as u32,
                }
                .into());
            };
            let body = [&(id as u32).to_le_bytes()[..], &[0; 4], name.as_bytes()].concat();
            let none = PageId {
                index: 0,
                generation: 0,
            };
            let lsn = by.commit_record(none, Kind::Source, 0, &body, |_| {
                let s = &sources[id];
                write_name(&s.name, name);
                s.since_ns.store(clock::realtime_ns(), Ordering::Relaxed);
                step("source.described");
                // Release: the name is whole. Ahead of READY, so that the record never names an unknown source; a death
                // in between leaves a source without a record, which harms nobody.
                s.len.store(name.len() as u32, Ordering::Release);
            })?;
            Ok(lsn.map(|lsn| (id as u16, Some(lsn))))
        })();
        by.unlock_unless_stranded(lock, 30);
        match result? {
            Some((id, lsn)) => {
                if lsn.is_some() {
                    by.finish(0, 0);
                    by.ring_bell(u32::MAX);
                }
                return Ok(id);
            }
            None => by.wait_for_room(crate::layout::ring::slots_for(8 + name.len()))?,
        }
    }
}
