//! A subscription that begins in the log: records from the files, as far as these go, then from the ring.
//!
//! No gap and no duplicate: once the files are read to their end, the follower joins at the end of the ring, at an LSN
//! that is a record boundary, and from there on it holds the ring if it is gating. Then the files are read on to exactly
//! that LSN, for which the supervisor is asked to write at once. A reader far behind holds up nobody: until it has read the
//! files to their end, it has no cursor.

use std::path::Path;

use mmsb_shm::wire::{self, Item};
use mmsb_shm::{Clock, Follower, Kind, PageId};

use crate::Bus;
use crate::error::{Error, Result};
use crate::filter::Tracker;
use crate::history::{At, Log};
use crate::tlog::{self, Block, LogError, LogReader, OpenOptions};

pub(crate) struct CatchUp {
    reader: LogReader,
    block: Block,
    /// Next LSN to be delivered.
    next: u64,
    gating: bool,
    /// Where the ring takes over, once that is decided.
    until: Option<u64>,
    /// Content of swaps whose record comes later.
    contents: Vec<(u64, Vec<u8>)>,
}

impl std::fmt::Debug for CatchUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CatchUp")
            .field("next", &self.next)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl CatchUp {
    pub(crate) fn new(
        bus: &Bus,
        dir: &Path,
        incarnation: u64,
        lsn: u64,
        gating: bool,
    ) -> Result<CatchUp> {
        let status = bus.log_status();
        let survey = tlog::survey(dir)?;
        let meta = survey.meta.filter(|m| m.log_id == status.log_id);
        let Some(meta) = meta else {
            return Err(LogError::Foreign {
                file: dir.to_owned(),
                what: "it does not hold the log of this bus".into(),
            }
            .into());
        };
        // From the first fork behind the incarnation on, its LSNs are void.
        let forks = meta.forks.iter().map(|f| (f.incarnation, f.lsn));
        let fork = forks
            .chain([(status.incarnation, status.fork_lsn)])
            .filter(|(of, _)| *of > incarnation)
            .map(|(_, lsn)| lsn)
            .min();
        if let Some(fork_lsn) = fork.filter(|fork| lsn > *fork) {
            return Err(Error::Diverged {
                lsn,
                incarnation,
                fork_lsn,
            });
        }
        let reader = LogReader::open(
            dir,
            OpenOptions {
                from_lsn: lsn,
                ..OpenOptions::default()
            },
        )?;
        Ok(CatchUp {
            reader,
            block: Block::default(),
            next: lsn,
            gating,
            until: None,
            contents: Vec::new(),
        })
    }

    /// The pages that a prefix covered where this begins. `None`: no prefix was asked for.
    pub(crate) fn pages_at(&self, dir: &Path, prefix: Option<&str>) -> Result<Option<Vec<PageId>>> {
        let Some(prefix) = prefix else {
            return Ok(None);
        };
        let state = Log::open(dir)?.state_at(At::Lsn(self.next.saturating_sub(1)))?;
        let named = state
            .pages()
            .filter(|p| !p.cold().name.is_empty() && p.cold().name.starts_with(prefix));
        Ok(Some(named.map(|p| p.id()).collect()))
    }

    /// Next LSN to be delivered.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Reads one block, or takes the step towards the ring. `false`: from here on the ring has everything.
    pub(crate) fn step(
        &mut self,
        bus: &Bus,
        follower: &mut Follower,
        tracker: &mut Tracker,
    ) -> Result<bool> {
        if self.until.is_some_and(|until| self.next >= until) {
            return Ok(false);
        }
        // Ahead of the look at the files: what is durable by now they must show.
        let durable = bus.durable_lsn();
        let mut block = std::mem::take(&mut self.block);
        let found = self.reader.next_into(&mut block);
        self.block = block;
        if found? {
            return self.deliver(bus, tracker).map(|()| true);
        }
        let Some(until) = self.until else {
            // At the end of the files: from here on it holds its place in the ring.
            let mut joined = bus.participant().follow(self.gating)?;
            joined.set_strategy(follower.strategy());
            self.until = Some(joined.position());
            *follower = joined;
            return Ok(true);
        };
        if durable < until {
            bus.wait_durable(until - 1, bus.participant().config().timeout)?;
            return Ok(true);
        }
        // The files end here, and nothing but padding stands between.
        self.next = until;
        Ok(false)
    }

    fn deliver(&mut self, bus: &Bus, tracker: &mut Tracker) -> Result<()> {
        let block = &mut self.block;
        let clock = Clock::new(block.created_ns, block.time_ns);
        let (next, until) = (self.next, self.until.unwrap_or(u64::MAX));
        let contents = &mut self.contents;
        wire::walk(
            &mut block.body,
            block.first_lsn,
            block.ring_slots,
            clock,
            &mut |item| match item {
                Item::Chunk(chunk) => {
                    if !contents.iter().any(|(lsn, _)| *lsn == chunk.lsn) {
                        contents.push((chunk.lsn, Vec::new()));
                    }
                    let Some((_, bytes)) = contents.iter_mut().find(|(lsn, _)| *lsn == chunk.lsn)
                    else {
                        return;
                    };
                    if chunk.offset == 0 {
                        // Begun anew, by a successor of its writer; behind a fork it may be another swap's.
                        bytes.clear();
                    }
                    if bytes.len() as u64 == chunk.offset {
                        bytes.extend_from_slice(chunk.bytes);
                    }
                }
                Item::Delta(delta) => {
                    let content = match delta.kind {
                        Kind::Swap => contents
                            .iter()
                            .position(|(lsn, _)| *lsn == delta.lsn)
                            .map(|at| contents.swap_remove(at).1),
                        _ => None,
                    };
                    if (next..until).contains(&delta.lsn) {
                        tracker.record_logged(bus, &delta, content);
                    }
                }
            },
        )?;
        self.next = self.next.max(block.end_lsn);
        Ok(())
    }
}
