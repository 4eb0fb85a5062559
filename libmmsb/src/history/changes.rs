//! Who changed a page, and why.

use std::ops::Range;
use std::sync::Arc;

use mmsb_shm::{Kind, PageId};

use super::{At, Filter, HistoryError, Log, Record};
use crate::state::State;

/// A range of bytes that a record wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedRange {
    /// First byte.
    pub offset: u32,
    /// What was there; `None` where the log does not reach back to say.
    pub old: Option<Vec<u8>>,
    /// What was written.
    pub new: Vec<u8>,
}

/// A record of a page, as far as it concerns the bytes that were asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its LSN.
    pub lsn: u64,
    /// What it does. [`Kind::Create`] and [`Kind::Destroy`] have no ranges; [`Kind::Describe`] is left out.
    pub kind: Kind,
    /// When: CLOCK_REALTIME in ns.
    pub time_ns: u64,
    /// Number of who made it.
    pub source: u16,
    /// Name of who made it, if the log says.
    pub source_name: Option<Arc<str>>,
    /// LSN of the delta that led to it; 0: outside input.
    pub cause: u64,
    /// Whether it belongs to a transaction.
    pub transaction: bool,
    /// The page's epoch with it; `None` where the log does not reach back to say.
    pub epoch: Option<u64>,
    /// What it wrote of the bytes that were asked about.
    pub ranges: Vec<ChangedRange>,
}

/// Why something happened: a record, what led to it, what led to that, and so on.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// The records, each caused by the one behind it.
    pub chain: Vec<Record>,
    /// Why there are no more.
    pub end: ChainEnd,
}

/// Why a chain of causes ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainEnd {
    /// Nothing on the bus caused the last one: it came from outside.
    Outside,
    /// Retention removed the cause.
    Gone {
        /// Its LSN.
        lsn: u64,
        /// LSN of the oldest record there is.
        oldest: u64,
    },
    /// There is no record at the LSN that was given as the cause.
    NoRecord {
        /// The LSN.
        lsn: u64,
    },
    /// The cause is said to be the record itself or one behind it, which cannot be. It is not followed, so that no chain
    /// is a ring.
    NotEarlier {
        /// The LSN.
        lsn: u64,
    },
    /// It goes on, but was to be no longer.
    TooLong {
        /// LSN of the next cause.
        lsn: u64,
    },
}

/// What a chain of causes is asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The record at an LSN.
    Lsn(u64),
    /// The last record that changed the bytes of a page at a moment.
    Page(PageId, At),
}

impl Log {
    /// Every record from LSN `lsns.start` on and ahead of `lsns.end` (`u64::MAX`: to the end of the log) that made or
    /// unmade the page or wrote some of its bytes in `range`, oldest first, with old and new bytes.
    ///
    /// # Errors
    /// As [`Log::records`].
    pub fn history(
        &self,
        page: PageId,
        range: Range<u32>,
        lsns: Range<u64>,
    ) -> Result<Vec<Change>, HistoryError> {
        let filter = Filter {
            page: Some(page),
            ..Filter::default()
        };
        let from = match lsns.start {
            0 => self.bounds()?.first_lsn,
            from => from,
        };
        let mut state = match from
            .checked_sub(1)
            .map(|at| self.page_at(page, At::Lsn(at)))
        {
            Some(Ok(state)) => Known::At(Box::new(state)),
            // The log is whole, and begins here.
            _ if self.reaches_back(from) => Known::Nothing,
            None | Some(Err(HistoryError::Gone { .. } | HistoryError::Ahead { .. })) => {
                Known::Unknown
            }
            Some(Err(e)) => return Err(e),
        };
        let mut changes = Vec::new();
        let mut bytes = state.take(page);
        for record in self.records(from, lsns.end, filter)? {
            let record = record?;
            let delta = &record.delta;
            match delta.kind {
                Kind::Create => {
                    let size = record.created.map_or(0, |(size, _)| size);
                    bytes = Some((vec![0; size as usize], 0));
                }
                Kind::Describe => continue,
                _ => {}
            }
            let mut ranges = Vec::new();
            for (offset, new) in &delta.ranges {
                let end = u64::from(*offset) + new.len() as u64;
                let from = (*offset).max(range.start);
                let to = end.min(u64::from(range.end));
                if u64::from(from) < to {
                    let part = (from - offset) as usize..(to - u64::from(*offset)) as usize;
                    let there = from as usize..to as usize;
                    let old = bytes.as_ref().and_then(|(b, _)| b.get(there));
                    ranges.push(ChangedRange {
                        offset: from,
                        old: old.map(<[u8]>::to_vec),
                        new: new[part].to_vec(),
                    });
                }
            }
            let changes_bytes = matches!(
                delta.kind,
                Kind::Patch | Kind::Ranges | Kind::Masked | Kind::Swap
            );
            if let Some((bytes, epoch)) = &mut bytes
                && changes_bytes
            {
                delta.apply(bytes);
                *epoch += 1;
            }
            let epoch = bytes.as_ref().map(|(_, epoch)| *epoch);
            if delta.kind == Kind::Destroy {
                bytes = None;
            }
            if !ranges.is_empty() || !changes_bytes {
                changes.push(Change {
                    lsn: delta.lsn,
                    kind: delta.kind,
                    time_ns: delta.time_ns,
                    source: delta.source,
                    source_name: record.source_name.clone(),
                    cause: delta.cause,
                    transaction: delta.transaction,
                    epoch,
                    ranges,
                });
            }
        }
        Ok(changes)
    }

    /// Why something is as it is: the record in question, what led to it, and so on, `longest` records at most.
    ///
    /// # Errors
    /// [`HistoryError::NoPage`], [`HistoryError::NoRecord`], and as [`Log::state_at`].
    pub fn provenance(&self, of: Cause, longest: usize) -> Result<Provenance, HistoryError> {
        let mut lsn = match of {
            Cause::Lsn(lsn) => lsn,
            Cause::Page(page, at) => self
                .page_at(page, at)?
                .page(page)
                .ok_or(HistoryError::NoPage { page })?
                .lsn(),
        };
        let survey = self.survey()?;
        if lsn >= survey.end.lsn {
            return Err(HistoryError::Ahead {
                wanted: lsn,
                end: survey.end.lsn,
            });
        }
        if longest == 0 {
            return Ok(Provenance {
                chain: Vec::new(),
                end: ChainEnd::TooLong { lsn },
            });
        }
        let mut finder = self.finder(lsn)?;
        let mut chain: Vec<Record> = Vec::new();
        let end = loop {
            if chain.len() >= longest {
                break ChainEnd::TooLong { lsn };
            }
            let record = match finder.find(lsn) {
                Ok(record) => record,
                Err(e) if chain.is_empty() => return Err(e),
                Err(HistoryError::NoRecord { lsn }) => break ChainEnd::NoRecord { lsn },
                Err(HistoryError::Gone { oldest, .. }) => break ChainEnd::Gone { lsn, oldest },
                Err(e) => return Err(e),
            };
            let cause = record.delta.cause;
            chain.push(record);
            if cause == 0 {
                break ChainEnd::Outside;
            }
            if cause >= lsn {
                break ChainEnd::NotEarlier { lsn: cause };
            }
            lsn = cause;
        };
        // Causes are earlier than what they cause.
        chain.reverse();
        self.complete(&survey, &mut chain)?;
        chain.reverse();
        Ok(Provenance { chain, end })
    }
}

/// What is known of a page where its history begins.
enum Known {
    At(Box<State>),
    /// It did not exist, nor anything else.
    Nothing,
    Unknown,
}

impl Known {
    /// Its bytes and epoch.
    fn take(&mut self, page: PageId) -> Option<(Vec<u8>, u64)> {
        match self {
            Known::At(state) => state.page(page).map(|p| (p.bytes().to_vec(), p.epoch())),
            Known::Nothing | Known::Unknown => None,
        }
    }
}
