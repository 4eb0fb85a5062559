//! Small structs that travel both ways.

use bus::{PageId, PageVersion, Receipt};

/// Names one page for ever. Generations count from 1: all-zero names none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_page_id {
    /// Index into the page directory.
    pub index: u32,
    /// Which of the pages that had this index.
    pub generation: u32,
}

/// State of a page: how often it was written, and by which delta last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_page_version {
    /// Deltas since the page was made.
    pub epoch: u64,
    /// LSN of the last one; 0: none.
    pub lsn: u64,
}

/// Where a commit is in the order of the bus.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_receipt {
    /// LSN of its first delta.
    pub first: u64,
    /// LSN of its last delta; 0: it was empty.
    pub last: u64,
    /// LSN of whatever comes next.
    pub end: u64,
}

/// Bytes of a page to overwrite.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_range {
    /// First byte in the page.
    pub offset: usize,
    /// What to write there.
    pub bytes: *const u8,
    /// How many.
    pub len: usize,
}

/// Kind of a delta: one range was overwritten.
pub const MMSB_KIND_PATCH: i32 = 1;
/// Kind of a delta: several ranges were.
pub const MMSB_KIND_RANGES: i32 = 2;
/// Kind of a delta: bytes under a mask were.
pub const MMSB_KIND_MASKED: i32 = 3;
/// Kind of a delta: the whole content was replaced by a published loan.
pub const MMSB_KIND_SWAP: i32 = 4;
/// Kind of a delta: the page was made.
pub const MMSB_KIND_CREATE: i32 = 5;
/// Kind of a delta: the page was destroyed.
pub const MMSB_KIND_DESTROY: i32 = 6;
/// Kind of a delta: its name, schema or metadata changed.
pub const MMSB_KIND_DESCRIBE: i32 = 7;
/// Kind of a delta: a source got its number.
pub const MMSB_KIND_SOURCE: i32 = 8;
/// Kind of a delta: a mark of the user in the order.
pub const MMSB_KIND_MARK: i32 = 9;

const _: () = {
    assert!(
        MMSB_KIND_PATCH == bus::Kind::Patch as i32 && MMSB_KIND_RANGES == bus::Kind::Ranges as i32
    );
    assert!(
        MMSB_KIND_MASKED == bus::Kind::Masked as i32 && MMSB_KIND_SWAP == bus::Kind::Swap as i32
    );
    assert!(
        MMSB_KIND_CREATE == bus::Kind::Create as i32
            && MMSB_KIND_DESTROY == bus::Kind::Destroy as i32
    );
    assert!(
        MMSB_KIND_DESCRIBE == bus::Kind::Describe as i32
            && MMSB_KIND_SOURCE == bus::Kind::Source as i32
    );
    assert!(MMSB_KIND_MARK == bus::Kind::Mark as i32);
};

/// Number of a kind of record, in structs of both directions.
pub(crate) fn kind_number(kind: bus::Kind) -> i32 {
    kind as i32
}

impl From<PageId> for mmsb_page_id {
    fn from(id: PageId) -> mmsb_page_id {
        mmsb_page_id {
            index: id.index,
            generation: id.generation,
        }
    }
}

impl From<mmsb_page_id> for PageId {
    fn from(id: mmsb_page_id) -> PageId {
        PageId {
            index: id.index,
            generation: id.generation,
        }
    }
}

impl From<PageVersion> for mmsb_page_version {
    fn from(version: PageVersion) -> mmsb_page_version {
        mmsb_page_version {
            epoch: version.epoch,
            lsn: version.lsn,
        }
    }
}

impl From<mmsb_page_version> for PageVersion {
    fn from(version: mmsb_page_version) -> PageVersion {
        PageVersion {
            epoch: version.epoch,
            lsn: version.lsn,
        }
    }
}

impl From<Receipt> for mmsb_receipt {
    fn from(receipt: Receipt) -> mmsb_receipt {
        mmsb_receipt {
            first: receipt.first,
            last: receipt.last,
            end: receipt.end,
        }
    }
}
