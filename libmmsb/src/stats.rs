//! What a bus says about itself.

use std::path::{Path, PathBuf};

use mmsb_shm::segment::{Core, Ctl};
use mmsb_shm::{Counter, Pages};
use serde::Serialize;

use crate::error::{Error, Result};

/// Geometry, sizes, modes and identity of a bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BusInfo {
    /// Name.
    pub name: String,
    /// Directory of the segments.
    pub dir: PathBuf,
    /// Random id, 32 hexadecimal digits.
    pub id: String,
    /// LSNs are comparable within one incarnation.
    pub incarnation: u64,
    /// CLOCK_REALTIME of the creation, ns.
    pub created_ns: u64,
    /// Greatest length of the page segment in bytes.
    pub bytes_max: u64,
    /// Length of the page segment in bytes.
    pub len_bytes: u64,
    /// Memory that the page segment takes, in bytes.
    pub pages_blocks_bytes: u64,
    /// Length of the control segment in bytes; 0 as an observer.
    pub ctl_len_bytes: u64,
    /// Memory that the control segment takes, in bytes; 0 as an observer.
    pub ctl_blocks_bytes: u64,
    /// Permission bits of the page segment.
    pub mode: u32,
    /// Permission bits of the control segment; 0 as an observer.
    pub ctl_mode: u32,
    /// Owner of the page segment.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Most pages at one time.
    pub pages_max: u32,
    /// Most pages with a name, schema or metadata.
    pub names_max: u32,
    /// Most source names.
    pub sources_max: u32,
    /// Slots of the ring, 64 bytes each.
    pub ring_slots: u32,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Most participants; 0 as an observer.
    pub participants_max: u32,
    /// Most subscriptions with a cursor; 0 as an observer.
    pub cursors_max: u32,
}

impl BusInfo {
    pub(crate) fn of(name: &str, dir: &Path, pages: &Pages, ctl: Option<&Ctl>) -> Result<BusInfo> {
        let stat = pages.stat().map_err(|e| Error::io("stat .pages", e))?;
        let ctl_stat = ctl
            .map(|ctl| ctl.stat().map_err(|e| Error::io("stat .ctl", e)))
            .transpose()?;
        let ctl_stat = ctl_stat.as_ref();
        let [high, low] = pages.bus_id();
        let g = &pages.geometry;
        Ok(BusInfo {
            name: name.to_owned(),
            dir: dir.to_path_buf(),
            id: format!("{high:016x}{low:016x}"),
            incarnation: pages.incarnation(),
            created_ns: pages.created_ns(),
            bytes_max: g.len_max,
            len_bytes: pages.len_bytes(),
            pages_blocks_bytes: stat.blocks_bytes,
            ctl_len_bytes: ctl_stat.map_or(0, |s| s.len),
            ctl_blocks_bytes: ctl_stat.map_or(0, |s| s.blocks_bytes),
            mode: stat.mode & 0o777,
            ctl_mode: ctl_stat.map_or(0, |s| s.mode & 0o777),
            uid: stat.uid,
            gid: stat.gid,
            pages_max: g.pages_max,
            names_max: g.names_slots / 4,
            sources_max: g.sources_max,
            ring_slots: g.ring_slots,
            ring_bytes: u64::from(g.ring_slots) * 64,
            participants_max: ctl.map_or(0, Ctl::participants_max),
            cursors_max: ctl.map_or(0, Ctl::cursors_max),
        })
    }
}

/// Use of one size class of page memory. Memory stays in its class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClassStats {
    /// Payload bytes of one block.
    pub payload: u64,
    /// Slabs of 2 MiB.
    pub slabs: u32,
    /// Blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Blocks in somebody's hand, or waiting for views and cursors.
    pub pending: u64,
}

/// One participant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ParticipantStats {
    /// Slot.
    pub index: u32,
    /// Which life of the slot.
    pub generation: u64,
    /// Name.
    pub name: String,
    /// Process id in its own PID namespace.
    pub pid: u32,
    /// Inode of its PID namespace.
    pub pid_namespace: u64,
    /// CLOCK_REALTIME when it joined, ns.
    pub joined_ns: u64,
    /// Whether it lives. The dead stay listed until somebody recovers them.
    pub alive: bool,
    /// LSN of its unfinished commit; 0: none.
    pub hold: u64,
    /// Deltas it committed.
    pub deltas: u64,
    /// Payload bytes it committed.
    pub bytes: u64,
    /// Times it waited for an owner word or for the ring.
    pub waits: u64,
    /// Reads it repeated.
    pub retries: u64,
}

/// One subscription with a cursor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CursorStats {
    /// Index of the cursor.
    pub index: u32,
    /// Index of its participant.
    pub participant: u32,
    /// Whether writers wait for it.
    pub gating: bool,
    /// Next LSN it needs.
    pub position: u64,
    /// How far it is behind, in ring slots.
    pub lag: u64,
    /// LSNs it missed.
    pub missed: u64,
}

/// Counters and tables of a bus at about one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Pages now.
    pub pages: u64,
    /// Named pages now.
    pub names: u64,
    /// Source names.
    pub sources: u64,
    /// Length of the page segment in bytes.
    pub len_bytes: u64,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Everything ahead of it is committed or skipped, as last noted by a writer that needed to know.
    pub published_lsn: u64,
    /// Where the log ends.
    pub end_lsn: u64,
    /// Records ahead of it may be gone.
    pub floor_lsn: u64,
    /// Deltas committed since the creation, by the living and the gone.
    pub deltas: u64,
    /// Payload bytes committed.
    pub bytes: u64,
    /// Waits for owner words or the ring.
    pub waits: u64,
    /// Reads repeated.
    pub retries: u64,
    /// Page memory by size class.
    pub classes: Vec<ClassStats>,
    /// Everybody in a slot.
    pub participants: Vec<ParticipantStats>,
    /// All subscriptions with a cursor.
    pub cursors: Vec<CursorStats>,
    /// The bus's counters of rare events, such as `recoveries`, by name.
    pub counters: Vec<(&'static str, u64)>,
}

pub(crate) fn counters(pages: &Pages) -> Vec<(&'static str, u64)> {
    Counter::ALL
        .iter()
        .map(|(counter, name)| (*name, pages.counter(*counter)))
        .collect()
}

impl Stats {
    pub(crate) fn of(core: &Core) -> Result<Stats> {
        let pages = &core.pages;
        let ring = pages.ring_info();
        let participants: Vec<ParticipantStats> = core
            .participants()
            .into_iter()
            .map(|p| ParticipantStats {
                index: p.index,
                generation: p.generation,
                name: p.name,
                pid: p.pid,
                pid_namespace: p.pid_namespace,
                joined_ns: p.joined_ns,
                alive: p.alive,
                hold: p.hold,
                deltas: p.deltas,
                bytes: p.bytes,
                waits: p.waits,
                retries: p.retries,
            })
            .collect();
        let totals = core.totals();
        Ok(Stats {
            pages: pages.list_pages().len() as u64,
            names: pages.list_names("")?.len() as u64,
            sources: pages.list_sources().len() as u64,
            len_bytes: pages.len_bytes(),
            ring_bytes: ring.bytes,
            published_lsn: ring.published,
            end_lsn: ring.end,
            floor_lsn: ring.floor,
            deltas: totals.deltas,
            bytes: totals.bytes,
            waits: totals.waits,
            retries: totals.retries,
            classes: pages
                .class_use()
                .into_iter()
                .map(|c| ClassStats {
                    payload: c.payload,
                    slabs: c.slabs,
                    blocks: c.blocks,
                    free: c.free,
                    pending: c.pending,
                })
                .collect(),
            participants,
            cursors: core
                .cursors()
                .into_iter()
                .map(|c| CursorStats {
                    index: c.index,
                    participant: c.participant,
                    gating: c.gating,
                    position: c.position,
                    lag: c.lag,
                    missed: c.missed,
                })
                .collect(),
            counters: counters(pages),
        })
    }

    /// One of the counters by name; 0 if there is none.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |(_, value)| *value)
    }
}
