//! Transactions: writes staged in private memory, committed all or nothing.

use std::cell::RefCell;
use std::time::Instant;

use bytemuck::{AnyBitPattern, NoUninit};
use mmsb_shm::{Change, Options, PageError, PageId, PageRef, PageVersion, Receipt};

use crate::error::{Error, Result, timed_out};
use crate::page::{Gathered, check_size, gather, offset32, read_value};
use crate::{Bus, Page};

/// A page that the transaction touched.
struct Touched {
    page: PageRef,
    /// Its version at the first read; all reads see that one, and the commit checks it.
    read: Option<PageVersion>,
}

/// A staged change of bytes: ranges of `bytes`, ascending and disjoint.
struct Staged {
    touched: usize,
    gathered: Gathered,
}

enum Op {
    Write(Staged),
    Mark(Vec<u8>),
}

/// What a transaction's closure works on; from [`Bus::transaction`].
///
/// Nothing of it is visible to anybody until the closure returns `Ok`. Reads see the transaction's own writes, and
/// otherwise one state of each page; if that state is gone when the closure ends, it runs again.
pub struct Transaction<'b> {
    bus: &'b Bus,
    touched: Vec<Touched>,
    ops: Vec<Op>,
    cause: u64,
    /// A read met a page that had moved on: whatever the closure returns, it runs again.
    conflict: bool,
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction")
            .field("pages", &self.touched.len())
            .field("deltas", &self.ops.len())
            .finish()
    }
}

impl Transaction<'_> {
    fn touch(&mut self, page: &Page<'_>) -> Result<usize> {
        let id = self.bus.own(page)?.id();
        if let Some(at) = self.touched.iter().position(|t| t.page.id() == id) {
            return Ok(at);
        }
        self.touched.push(Touched {
            page: self.bus.shared().resolve(id)?,
            read: None,
        });
        Ok(self.touched.len() - 1)
    }

    fn stage(&mut self, page: &Page<'_>, ranges: &[(usize, &[u8])]) -> Result<()> {
        let touched = self.touch(page)?;
        let page = &self.touched[touched].page;
        let gathered = gather(page, ranges)?;
        let mut end = 0;
        for (index, (offset, len)) in gathered.ranges.iter().enumerate() {
            let (offset, len) = (u64::from(*offset), u64::from(*len));
            if offset < end {
                return Err(PageError::Overlap { index, offset }.into());
            }
            end = offset + len;
            if end > page.size() as u64 {
                return Err(PageError::OutOfRange {
                    page: page.id(),
                    offset,
                    len,
                    size: page.size() as u64,
                }
                .into());
            }
        }
        self.ops.push(Op::Write(Staged { touched, gathered }));
        Ok(())
    }

    /// Stages [`Page::patch`].
    ///
    /// # Errors
    /// [`PageError::OutOfRange`], [`PageError::PageGone`], [`Error::OtherBus`].
    pub fn patch(&mut self, page: &Page<'_>, offset: usize, bytes: &[u8]) -> Result<()> {
        self.stage(page, &[(offset, bytes)])
    }

    /// Stages [`Page::write`].
    ///
    /// # Errors
    /// [`PageError::WrongSize`]; as [`Transaction::patch`].
    pub fn write(&mut self, page: &Page<'_>, bytes: &[u8]) -> Result<()> {
        check_size(&page.page, bytes.len())?;
        self.stage(page, &[(0, bytes)])
    }

    /// Stages [`Page::set`].
    ///
    /// # Errors
    /// As [`Transaction::write`].
    pub fn set<T: NoUninit>(&mut self, page: &Page<'_>, value: &T) -> Result<()> {
        self.write(page, bytemuck::bytes_of(value))
    }

    /// Stages [`Page::patch_many`].
    ///
    /// # Errors
    /// [`PageError::Overlap`]; as [`Transaction::patch`].
    pub fn patch_many(&mut self, page: &Page<'_>, ranges: &[(usize, &[u8])]) -> Result<()> {
        self.stage(page, ranges)
    }

    /// Stages [`Page::write_masked`].
    ///
    /// # Errors
    /// [`PageError::MaskLength`]; as [`Transaction::patch`].
    pub fn write_masked(
        &mut self,
        page: &Page<'_>,
        offset: usize,
        mask: &[u8],
        bytes: &[u8],
    ) -> Result<()> {
        if mask.len() != bytes.len() {
            return Err(PageError::MaskLength {
                mask: mask.len(),
                payload: bytes.len(),
            }
            .into());
        }
        offset32(&page.page, offset, bytes.len())?;
        let mut ranges = Vec::new();
        let mut at = 0;
        for run in mask.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
            if run[0] != 0 {
                ranges.push((offset + at, &bytes[at..at + run.len()]));
            }
            at += run.len();
        }
        // A mask that ends in zeros still says how far it reaches.
        ranges.push((offset + at, &[]));
        self.stage(page, &ranges)
    }

    /// Adds a mark in the order of the bus.
    pub fn mark(&mut self, bytes: &[u8]) {
        self.ops.push(Op::Mark(bytes.to_vec()));
    }

    /// Says that the delta at `lsn` led to all deltas of this transaction.
    pub fn cause(&mut self, lsn: u64) {
        self.cause = lsn;
    }

    /// The page as one value, with what this transaction staged.
    ///
    /// # Errors
    /// [`PageError::WrongSize`]; as any read; [`Error::Conflict`], which means that the closure will run again: return it.
    pub fn read<T: AnyBitPattern>(&mut self, page: &Page<'_>) -> Result<T> {
        check_size(&page.page, size_of::<T>())?;
        read_value(&RefCell::default(), |dst| self.read_range(page, 0, dst))
            .map(|(value, ())| value)
    }

    /// The whole page, with what this transaction staged.
    ///
    /// # Errors
    /// As [`Transaction::read`].
    pub fn read_all(&mut self, page: &Page<'_>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; page.size()];
        self.read_range(page, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies `dst.len()` bytes from `offset` on, with what this transaction staged.
    ///
    /// # Errors
    /// [`PageError::OutOfRange`]; as [`Transaction::read`].
    pub fn read_range(&mut self, page: &Page<'_>, offset: usize, dst: &mut [u8]) -> Result<()> {
        let at = self.touch(page)?;
        let touched = &mut self.touched[at];
        let version = self.bus.participant().read(&touched.page, offset, dst)?;
        let first = *touched.read.get_or_insert(version);
        if first.epoch != version.epoch {
            self.conflict = true;
            return Err(Error::Conflict(touched.page.id()));
        }
        for op in &self.ops {
            match op {
                Op::Write(staged) if staged.touched == at => lay_over(staged, offset, dst),
                _ => {}
            }
        }
        Ok(())
    }

    /// Changes a copy of the page with `f` and stages what differs.
    ///
    /// # Errors
    /// As [`Transaction::read`].
    pub fn update<R>(&mut self, page: &Page<'_>, f: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
        let old = self.read_all(page)?;
        let mut new = old.clone();
        let result = f(&mut new);
        let mut ranges = Vec::new();
        mmsb_shm::diff::changed_ranges(&old, &new, 8, &mut ranges);
        if !ranges.is_empty() {
            let ranges: Vec<(usize, &[u8])> = ranges
                .iter()
                .map(|(at, len)| {
                    let at = *at as usize;
                    (at, &new[at..at + *len as usize])
                })
                .collect();
            self.stage(page, &ranges)?;
        }
        Ok(result)
    }

    /// Deltas staged so far.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether nothing is staged.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Commits what is staged, once; for who cannot use a closure, see [`Bus::begin`].
    ///
    /// # Errors
    /// [`Error::Conflict`]: a page that it read has changed, nothing was written, and it is to be begun again. As
    /// [`Bus::transaction`].
    pub fn try_commit(self) -> Result<Receipt> {
        if !self.conflict
            && let Some(receipt) = self.commit()?
        {
            return Ok(receipt);
        }
        let first = self.touched.iter().find(|t| t.read.is_some());
        let nowhere = PageId {
            index: 0,
            generation: 0,
        };
        let page = first.map_or(nowhere, |t| t.page.id());
        Err(Error::Conflict(page))
    }

    /// Tries to commit. `None`: what was read has changed.
    /// Commits what is staged, as durably as the bus promises. `None`: a page that was read has changed.
    fn commit(&self) -> Result<Option<Receipt>> {
        let changes: Vec<Change<'_>> = self
            .ops
            .iter()
            .map(|op| match op {
                Op::Mark(bytes) => Change::Mark { bytes },
                Op::Write(staged) => {
                    let page = &self.touched[staged.touched].page;
                    let Gathered { ranges, bytes } = &staged.gathered;
                    match ranges.as_slice() {
                        [(offset, _)] => Change::Patch {
                            page,
                            offset: *offset,
                            bytes,
                        },
                        ranges => Change::Ranges {
                            page,
                            ranges,
                            bytes,
                        },
                    }
                }
            })
            .collect();
        let expected: Vec<(&PageRef, PageVersion)> = self
            .touched
            .iter()
            .filter_map(|t| Some((&t.page, t.read?)))
            .collect();
        let options = Options {
            cause: self.cause,
            transaction: true,
        };
        let done = self
            .bus
            .participant()
            .commit_if(&changes, &options, &expected)?;
        if let Some(receipt) = &done
            && receipt.last != 0
        {
            self.bus.settle(receipt.last)?;
        }
        Ok(done)
    }

    fn first_page(&self) -> Option<PageId> {
        self.touched.first().map(|t| t.page.id())
    }
}

/// Copies what `staged` says about `offset..offset + dst.len()` into `dst`.
fn lay_over(staged: &Staged, offset: usize, dst: &mut [u8]) {
    let mut bytes = staged.gathered.bytes.as_slice();
    for (at, len) in &staged.gathered.ranges {
        let (now, rest) = bytes.split_at(*len as usize);
        bytes = rest;
        let at = *at as usize;
        let begin = at.max(offset);
        let end = (at + now.len()).min(offset + dst.len());
        if begin < end {
            dst[begin - offset..end - offset].copy_from_slice(&now[begin - at..end - at]);
        }
    }
}

pub(crate) fn begin(bus: &Bus) -> Result<Transaction<'_>> {
    bus.participant().check_fork()?;
    Ok(Transaction {
        bus,
        touched: Vec::new(),
        ops: Vec::new(),
        cause: 0,
        conflict: false,
    })
}

pub(crate) fn run<R>(
    bus: &Bus,
    mut f: impl FnMut(&mut Transaction<'_>) -> Result<R>,
) -> Result<(R, Receipt)> {
    let start = Instant::now();
    let mut rounds = 0u32;
    loop {
        let mut transaction = begin(bus)?;
        let result = f(&mut transaction);
        if !transaction.conflict {
            let result = result?;
            if let Some(receipt) = transaction.commit()? {
                return Ok((result, receipt));
            }
        }
        // Somebody else's commit made this one's reads stale, so the bus as a whole goes on.
        let waited = start.elapsed();
        if waited >= bus.participant().config().timeout {
            return Err(timed_out(
                format_args!(
                    "a quiet moment for the transaction on page {}",
                    transaction
                        .first_page()
                        .map_or_else(|| "?".to_owned(), |id| id.to_string())
                ),
                format_args!("other writers ({} attempts)", rounds + 1),
                waited,
            ));
        }
        rounds += 1;
        // A pause that differs between participants, so that two of them do not keep meeting.
        for _ in 0..(rounds.min(16) * (1 + bus.participant().index() % 7) * 8) {
            std::hint::spin_loop();
        }
        if rounds > 8 {
            std::thread::yield_now();
        }
    }
}
