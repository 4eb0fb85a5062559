//! Observers: read-only, registered nowhere, unable to harm or to be waited for.
//!
//! An observer behind a writer that died inside a page cannot repair it. It copies the unmoving odd page, finds the
//! committed delta in the ring, and lays it over its copy (PROTOCOL B6): the redo is a post-image, so the result is the
//! state behind the delta whatever the dead writer had done.

use std::time::{Duration, Instant};

use crate::copy;
use crate::error::PageError;
use crate::layout::ring::{Kind, RecordFlags, SLOT_BYTES};
use crate::page::{Outcome, PageRef, PageVersion};
use crate::participant::spin_until;
use crate::ring::{Seen, load_lsn, record};
use crate::segment::{BusConfig, Core, Pages};
use crate::sync::{Ordering, fence, relax};
use crate::sys::space::ObjectStat;

/// How often an observer tries before it says `Contended`.
const TRIES: u32 = 20_000;

/// How long it looks at a page that stands odd, and of which the ring does not say what it should hold.
const ODD_MAX: Duration = Duration::from_millis(250);

/// The ring in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingInfo {
    /// Slots.
    pub slots: u32,
    /// Bytes.
    pub bytes: u64,
    /// All records ahead of it are committed or skipped, as last noted.
    pub published: u64,
    /// Where the ring ends.
    pub end: u64,
    /// Records ahead of it may be gone.
    pub floor: u64,
    /// Claims end ahead of it.
    pub limit: u64,
}

/// A subscription as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorInfo {
    /// Index of the cursor.
    pub index: u32,
    /// Index of its participant.
    pub participant: u32,
    /// Whether writers wait for it.
    pub gating: bool,
    /// Next LSN it needs.
    pub position: u64,
    /// How far it is behind, in ring slots. Only gating cursors and those that poll keep it up to date.
    pub lag: u64,
    /// LSNs it missed.
    pub missed: u64,
}

impl Pages {
    /// Copies `dst.len()` bytes from `offset` of the page, with loads only.
    ///
    /// # Errors
    /// [`PageError::Contended`] if the page changed during every attempt.
    #[inline]
    pub fn observe(
        &self,
        page: &PageRef,
        offset: usize,
        dst: &mut [u8],
    ) -> Result<PageVersion, PageError> {
        page.check_range(offset as u64, dst.len() as u64)?;
        let mut odd: Option<(u64, Instant)> = None;
        for _ in 0..TRIES {
            // SAFETY: the range was checked, the buffer is `dst`.
            match unsafe { self.try_read(page, offset, dst.as_mut_ptr(), dst.len())? } {
                Outcome::Done(version) => return Ok(version),
                Outcome::Changed => relax(),
                Outcome::Odd(seq) => {
                    let header = page.block().header;
                    if spin_until(Duration::from_micros(50), || {
                        header.seq.load(Ordering::Acquire) != seq
                    }) {
                        continue;
                    }
                    match odd {
                        Some((before, since)) if before == seq => {
                            if since.elapsed() > Duration::from_millis(2) {
                                if let Some(version) = self.overlay(page, seq, offset, dst)? {
                                    return Ok(version);
                                }
                                if since.elapsed() > ODD_MAX {
                                    return Err(PageError::Contended(page.id()));
                                }
                                std::thread::sleep(Duration::from_micros(200));
                            }
                        }
                        _ => odd = Some((seq, Instant::now())),
                    }
                }
            }
        }
        Err(PageError::Contended(page.id()))
    }

    /// The state behind the committed delta whose writer stands still inside the page.
    fn overlay(
        &self,
        page: &PageRef,
        seq: u64,
        offset: usize,
        dst: &mut [u8],
    ) -> Result<Option<PageVersion>, PageError> {
        let block = page.block();
        // Ahead of the copy, and looked at again behind it: the copy holds all of that delta, whatever somebody who goes
        // on meanwhile adds to it.
        let held = load_lsn(&block.header.lsn, Ordering::Acquire);
        let mut whole = vec![0u8; page.size()];
        // SAFETY: the whole page lies in its checked block; the buffer has its size.
        unsafe { self.copy_out(whole.as_mut_ptr(), block.payload, whole.len())? };
        let ring = self.ring();
        let Some(begin) = self.boundary_near(held) else {
            return Ok(None);
        };
        let mut start = begin;
        let mut last = None;
        let mut count = 0u64;
        // Deltas to the page in the group that made it what it holds, and whether a later one is in a fresh block.
        let mut count_held = 0u64;
        let mut elsewhere = false;
        let mut buffer = Vec::new();
        for _ in 0..ring.len() {
            match ring.look(start) {
                Seen::Ready(stamp) => {
                    let end = start + u64::from(stamp.slots());
                    let holds = (start..end).contains(&held);
                    let mut lsn = start;
                    while lsn < end {
                        let head = record::read_head(&ring, lsn);
                        let Ok(slots) = record::checked_slots(&head, lsn, end - lsn) else {
                            return Ok(None);
                        };
                        let here = head.index == page.id().index
                            && head.generation == page.id().generation;
                        count_held += u64::from(here && holds && lsn <= held);
                        if here && lsn > held && head.flags & RecordFlags::BLOCK != 0 {
                            elsewhere = true;
                        } else if here && lsn > held {
                            buffer.clear();
                            record::read_body(&ring, lsn, &head, &mut buffer);
                            let (Some(kind), Some(parts)) =
                                (Kind::from_byte(head.kind), record::parts(&head, &buffer))
                            else {
                                return Ok(None);
                            };
                            let size = whole.len() as u64;
                            record::for_each_range(
                                kind,
                                head.offset,
                                parts.payload,
                                size,
                                |at, bytes| {
                                    whole[at..at + bytes.len()].copy_from_slice(bytes);
                                },
                            );
                            last = Some(lsn);
                            count += 1;
                        }
                        lsn += slots;
                    }
                    start = end;
                }
                Seen::Padding(s) | Seen::Claimed(s) => start += u64::from(s.slots()),
                _ => break,
            }
        }
        // The page must not have moved, and nothing that was read may have been overwritten.
        fence(Ordering::Acquire);
        let same_entry = self.load_entry(page.id().index) == Some(page.entry());
        let moved = block.header.seq.load(Ordering::Relaxed) != seq
            || block.header.lsn.load(Ordering::Relaxed) != held;
        if moved || !same_entry || !ring.is_intact(begin) {
            return Ok(None);
        }
        dst.copy_from_slice(&whole[offset..offset + dst.len()]);
        let deltas = match last {
            Some(_) => count,
            // A transaction marked the page and was to swap in a fresh block: this one is the state ahead of it.
            None if elsewhere => 0,
            // The writer died between the page's lsn and the even store: the bytes are whole as they are.
            None => count_held.max(1),
        };
        Ok(Some(PageVersion {
            epoch: (seq >> 1) + deltas,
            lsn: last.unwrap_or(held),
        }))
    }

    /// A record boundary from which a walk meets every record behind `lsn` that the ring still has: the start of the
    /// group that holds `lsn`, or the first boundary behind the floor.
    pub(crate) fn boundary_near(&self, lsn: u64) -> Option<u64> {
        let ring = self.ring();
        let floor = load_lsn(ring.floor, Ordering::Acquire);
        // First slots say so in their stamps. Further slots carry stamps of their own kind, or (behind padding left for
        // the dead) of an earlier lap; both are passed over.
        let is_first = |at: &u64| {
            matches!(
                ring.look(*at),
                Seen::Ready(_) | Seen::Padding(_) | Seen::Claimed(_)
            )
        };
        let reach = ring.record_slots_max();
        if lsn >= floor {
            (lsn.saturating_sub(reach).max(floor)..=lsn)
                .rev()
                .find(is_first)
        } else {
            (floor..=floor.saturating_add(reach)).find(is_first)
        }
    }

    /// Reads several pages as one cut.
    ///
    /// # Errors
    /// [`PageError::Contended`] if no attempt found them all quiet.
    pub fn observe_cut(&self, pages: &[PageRef]) -> Result<Vec<(Vec<u8>, PageVersion)>, PageError> {
        let mut out = vec![Vec::new(); pages.len()];
        let mut versions = vec![PageVersion::default(); pages.len()];
        for attempt in 0..TRIES {
            if self.try_cut(pages, &mut out, &mut versions)? {
                return Ok(out.into_iter().zip(versions).collect());
            }
            if attempt % 64 == 63 {
                std::thread::yield_now();
            }
        }
        let id = pages.first().map_or(
            crate::PageId {
                index: 0,
                generation: 0,
            },
            PageRef::id,
        );
        Err(PageError::Contended(id))
    }

    /// The ring in numbers.
    pub fn ring_info(&self) -> RingInfo {
        let ring = self.ring();
        RingInfo {
            slots: self.geometry.ring_slots,
            bytes: ring.len() * 64,
            published: load_lsn(ring.published, Ordering::Acquire),
            end: ring.end(),
            floor: ring.floor.load(Ordering::Acquire),
            limit: ring.limit.load(Ordering::Acquire),
        }
    }

    /// Incarnation of the bus: LSNs are comparable within one.
    pub fn incarnation(&self) -> u64 {
        self.header().incarnation.load(Ordering::Relaxed)
    }

    /// CLOCK_REALTIME of the creation, ns.
    pub fn created_ns(&self) -> u64 {
        self.header().created_ns.load(Ordering::Relaxed)
    }

    /// LSN of the first delta of this incarnation.
    pub fn first_lsn(&self) -> u64 {
        // Relaxed: written before READY.
        load_lsn(&self.header().fork_lsn, Ordering::Relaxed)
    }

    /// Bytes of `.pages` in use.
    pub fn len_bytes(&self) -> u64 {
        self.refresh_len()
    }
}

impl Core {
    /// What the bus was made for: enough to make another one like it.
    pub fn config(&self) -> BusConfig {
        let g = &self.pages.geometry;
        // Without an answer of the kernel: for the owner alone.
        let mode = |stat: std::io::Result<ObjectStat>| stat.map_or(0o600, |s| s.mode & 0o777);
        BusConfig {
            bytes_max: g.len_max,
            pages_max: g.pages_max,
            names_max: g.names_slots / 4,
            ring_bytes: u64::from(g.ring_slots) * SLOT_BYTES,
            participants_max: self.ctl.participants_max(),
            cursors_max: self.ctl.cursors_max(),
            sources_max: g.sources_max,
            mode: mode(self.pages.stat()),
            ctl_mode: mode(self.ctl.stat()),
        }
    }

    /// All subscriptions with a cursor.
    pub fn cursors(&self) -> Vec<CursorInfo> {
        let end = self.pages.end_lsn();
        self.ctl
            .cursors_used()
            .iter()
            .enumerate()
            .filter_map(|(index, c)| {
                let participant = crate::page::owner::index(c.owner.load(Ordering::Acquire))?;
                let position = c.position.load(Ordering::Acquire);
                Some(CursorInfo {
                    index: index as u32,
                    participant,
                    gating: c.gating.load(Ordering::Relaxed) == 1,
                    position,
                    lag: end.saturating_sub(position),
                    missed: c.missed.load(Ordering::Relaxed),
                })
            })
            .collect()
    }
}

const _: unsafe fn(*mut u8, *const u8, usize) = copy::load;
