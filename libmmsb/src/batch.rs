//! Batches: several deltas in one publication.

use mmsb_shm::{Change, Options, PageRef, Receipt};

use crate::error::Result;
use crate::page::{Gathered, gather, offset32};
use crate::{Bus, Page};

enum Op<'a> {
    Patch {
        page: &'a PageRef,
        offset: u32,
        bytes: &'a [u8],
    },
    Ranges {
        page: &'a PageRef,
        gathered: Gathered,
    },
    Masked {
        page: &'a PageRef,
        offset: u32,
        mask: &'a [u8],
        bytes: &'a [u8],
    },
    Mark(&'a [u8]),
}

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
    ops: Vec<Op<'a>>,
    cause: u64,
    /// The first thing that was wrong; `commit` says it.
    refused: Option<crate::Error>,
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("deltas", &self.ops.len())
            .finish()
    }
}

impl<'a> Batch<'a> {
    pub(crate) fn new(bus: &'a Bus) -> Batch<'a> {
        Batch {
            bus,
            ops: Vec::new(),
            cause: 0,
            refused: None,
        }
    }

    fn push(&mut self, op: Result<Op<'a>>) -> &mut Batch<'a> {
        match op {
            Ok(op) => self.ops.push(op),
            Err(e) => {
                self.refused.get_or_insert(e);
            }
        }
        self
    }

    /// Adds [`Page::patch`].
    pub fn patch(&mut self, page: &'a Page<'_>, offset: usize, bytes: &'a [u8]) -> &mut Batch<'a> {
        let op = self.bus.own(page).and_then(|page| {
            Ok(Op::Patch {
                page,
                offset: offset32(page, offset, bytes.len())?,
                bytes,
            })
        });
        self.push(op)
    }

    /// Adds [`Page::patch_many`].
    pub fn patch_many(&mut self, page: &'a Page<'_>, ranges: &[(usize, &[u8])]) -> &mut Batch<'a> {
        let op = self.bus.own(page).and_then(|page| {
            Ok(Op::Ranges {
                page,
                gathered: gather(page, ranges)?,
            })
        });
        self.push(op)
    }

    /// Adds [`Page::write_masked`].
    pub fn write_masked(
        &mut self,
        page: &'a Page<'_>,
        offset: usize,
        mask: &'a [u8],
        bytes: &'a [u8],
    ) -> &mut Batch<'a> {
        let op = self.bus.own(page).and_then(|page| {
            Ok(Op::Masked {
                page,
                offset: offset32(page, offset, bytes.len())?,
                mask,
                bytes,
            })
        });
        self.push(op)
    }

    /// Adds a mark: bytes of your own in the order of the bus, which subscribers to everything are told of.
    pub fn mark(&mut self, bytes: &'a [u8]) -> &mut Batch<'a> {
        self.push(Ok(Op::Mark(bytes)))
    }

    /// Says that the delta at `lsn` led to all deltas of this batch.
    pub fn cause(&mut self, lsn: u64) -> &mut Batch<'a> {
        self.cause = lsn;
        self
    }

    /// Deltas so far.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Commits the deltas, in the order in which they were added; each raises its page's epoch by one. The batch is empty
    /// afterwards, also after an error. An empty batch commits nothing and gets a receipt of zeros.
    ///
    /// # Errors
    /// The first thing wrong with what was added; [`PageError::DeltaTooLarge`](crate::PageError::DeltaTooLarge) if the
    /// batch does not fit a quarter of the ring; as any write. Nothing was changed then.
    pub fn commit(&mut self) -> Result<Receipt> {
        let ops = std::mem::take(&mut self.ops);
        if let Some(e) = self.refused.take() {
            return Err(e);
        }
        let changes: Vec<Change<'_>> = ops
            .iter()
            .map(|op| match op {
                Op::Patch {
                    page,
                    offset,
                    bytes,
                } => Change::Patch {
                    page,
                    offset: *offset,
                    bytes,
                },
                Op::Ranges { page, gathered } => Change::Ranges {
                    page,
                    ranges: &gathered.ranges,
                    bytes: &gathered.bytes,
                },
                Op::Masked {
                    page,
                    offset,
                    mask,
                    bytes,
                } => Change::Masked {
                    page,
                    offset: *offset,
                    mask,
                    bytes,
                },
                Op::Mark(bytes) => Change::Mark { bytes },
            })
            .collect();
        let options = Options {
            cause: std::mem::take(&mut self.cause),
            transaction: false,
        };
        Ok(self.bus.participant().commit(&changes, &options)?)
    }
}

impl Bus {
    /// The page, if it was looked up through this bus (or another participant on the same mapping): one of another bus
    /// leads to other memory.
    pub(crate) fn own<'p>(&self, page: &'p Page<'_>) -> Result<&'p PageRef> {
        if std::sync::Arc::ptr_eq(self.core(), page.bus.core()) {
            return Ok(&page.page);
        }
        Err(crate::Error::OtherBus(page.id()))
    }
}
