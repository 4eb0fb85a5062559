//! Batches: several deltas in one publication.

use mmsb_shm::{Change, Options, PageRef, Receipt};

use crate::error::Result;
use crate::page::{Gathered, gather, offset32};
use crate::{Bus, Page};

/// Several deltas to be committed as one group; from [`Bus::batch`].
///
/// A batch has one place in the order and is all or nothing for crashes and for the log: one claim, one publication, so
/// many small writes cost little each. Readers of several pages may see a part of it for a moment; use
/// [`Bus::transaction`] where they must not.
///
/// ```
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// # let bus = mmsb::Bus::builder("batch").dir(dir.path()).create()?;
/// # let page = bus.create_page(mmsb::PageSpec::new(16))?;
/// let receipt = bus
///     .batch()
///     .patch(&page, 0, b"one")
///     .patch(&page, 8, b"two")
///     .mark(b"both there")
///     .commit()?;
/// assert!(receipt.first < receipt.last && receipt.last < receipt.end);
/// assert_eq!(page.version()?.epoch, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Batch<'a> {
    bus: &'a Bus,
    /// In order. One of [`Page::patch_many`] is here without its ranges, which are in `gathered`.
    changes: Vec<Change<'a>>,
    /// Sparse deltas: their places in `changes`, ascending, and what belongs there.
    gathered: Vec<(usize, Gathered)>,
    cause: u64,
    /// The first thing that was wrong; `commit` says it.
    refused: Option<crate::Error>,
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("deltas", &self.changes.len())
            .finish()
    }
}

impl<'a> Batch<'a> {
    pub(crate) fn new(bus: &'a Bus) -> Batch<'a> {
        Batch {
            bus,
            changes: Vec::new(),
            gathered: Vec::new(),
            cause: 0,
            refused: None,
        }
    }

    #[cold]
    fn refuse(&mut self, e: crate::Error) {
        self.refused.get_or_insert(e);
    }

    /// Adds [`Page::patch`].
    #[inline]
    pub fn patch(&mut self, page: &'a Page<'_>, offset: usize, bytes: &'a [u8]) -> &mut Batch<'a> {
        let offset = self
            .bus
            .own(page)
            .and_then(|page| Ok((page, offset32(page, offset, bytes.len())?)));
        match offset {
            Ok((page, offset)) => self.changes.push(Change::Patch {
                page,
                offset,
                bytes,
            }),
            Err(e) => self.refuse(e),
        }
        self
    }

    /// Adds [`Page::patch_many`].
    pub fn patch_many(&mut self, page: &'a Page<'_>, ranges: &[(usize, &[u8])]) -> &mut Batch<'a> {
        match self
            .bus
            .own(page)
            .and_then(|page| Ok((page, gather(page, ranges)?)))
        {
            Ok((page, gathered)) => {
                self.gathered.push((self.changes.len(), gathered));
                self.changes.push(Change::Ranges {
                    page,
                    ranges: &[],
                    bytes: &[],
                });
            }
            Err(e) => self.refuse(e),
        }
        self
    }

    /// Adds [`Page::write_masked`].
    pub fn write_masked(
        &mut self,
        page: &'a Page<'_>,
        offset: usize,
        mask: &'a [u8],
        bytes: &'a [u8],
    ) -> &mut Batch<'a> {
        match self
            .bus
            .own(page)
            .and_then(|page| Ok((page, offset32(page, offset, bytes.len())?)))
        {
            Ok((page, offset)) => self.changes.push(Change::Masked {
                page,
                offset,
                mask,
                bytes,
            }),
            Err(e) => self.refuse(e),
        }
        self
    }

    /// Adds a mark: bytes of your own in the order of the bus, which subscribers to everything are told of.
    pub fn mark(&mut self, bytes: &'a [u8]) -> &mut Batch<'a> {
        self.changes.push(Change::Mark { bytes });
        self
    }

    /// Says that the delta at `lsn` led to all deltas of this batch.
    pub fn cause(&mut self, lsn: u64) -> &mut Batch<'a> {
        self.cause = lsn;
        self
    }

    /// Deltas so far.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Commits the deltas, in the order in which they were added; each raises its page's epoch by one. The batch is empty
    /// afterwards, also after an error. An empty batch commits nothing and gets a receipt of zeros.
    ///
    /// # Errors
    /// The first thing wrong with what was added; [`PageError::DeltaTooLarge`](crate::PageError::DeltaTooLarge) if the
    /// batch does not fit a quarter of the ring; as any write. Nothing was changed then.
    pub fn commit(&mut self) -> Result<Receipt> {
        let options = Options {
            cause: std::mem::take(&mut self.cause),
            transaction: false,
        };
        let result = match self.refused.take() {
            Some(e) => Err(e),
            None if self.gathered.is_empty() => self.commit_now(&self.changes, &options),
            None => self.commit_gathered(&options),
        };
        // The memory stays, for the next round.
        self.changes.clear();
        self.gathered.clear();
        result
    }

    fn commit_now(&self, changes: &[Change<'_>], options: &Options) -> Result<Receipt> {
        let receipt = self.bus.participant().commit(changes, options)?;
        if receipt.last != 0 {
            self.bus.settle(receipt.last)?;
        }
        Ok(receipt)
    }

    #[cold]
    fn commit_gathered(&self, options: &Options) -> Result<Receipt> {
        let mut changes: Vec<Change<'_>> = self.changes.clone();
        for (at, gathered) in &self.gathered {
            if let Some(Change::Ranges { ranges, bytes, .. }) = changes.get_mut(*at) {
                (*ranges, *bytes) = (&gathered.ranges, &gathered.bytes);
            }
        }
        self.commit_now(&changes, options)
    }
}

impl Bus {
    /// The page, if it was looked up through this bus (or another participant on the same mapping): one of another bus
    /// leads to other memory.
    #[inline]
    pub(crate) fn own<'p>(&self, page: &'p Page<'_>) -> Result<&'p PageRef> {
        if std::sync::Arc::ptr_eq(self.core(), page.bus.core()) {
            return Ok(&page.page);
        }
        Err(crate::Error::OtherBus(page.id()))
    }
}
