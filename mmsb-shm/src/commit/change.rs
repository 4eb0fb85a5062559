//! What a group is made of, how it is committed, and what comes of it.

use crate::error::PageError;
use crate::layout::ring::Kind;
use crate::page::PageRef;

/// One delta of a group.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Change<'a> {
    /// Overwrite one range.
    Patch {
        /// The page.
        page: &'a PageRef,
        /// First byte.
        offset: u32,
        /// New bytes.
        bytes: &'a [u8],
    },
    /// Overwrite several ranges, ascending and disjoint: one delta, one epoch.
    Ranges {
        /// The page.
        page: &'a PageRef,
        /// `(offset, length)` of each range.
        ranges: &'a [(u32, u32)],
        /// The bytes of all ranges, one behind the other.
        bytes: &'a [u8],
    },
    /// Overwrite the bytes whose mask byte is not 0.
    Masked {
        /// The page.
        page: &'a PageRef,
        /// First byte.
        offset: u32,
        /// One byte per payload byte.
        mask: &'a [u8],
        /// New bytes.
        bytes: &'a [u8],
    },
    /// A mark in the order of the bus; changes nothing.
    Mark {
        /// Whatever the user wants to find there.
        bytes: &'a [u8],
    },
}

impl<'a> Change<'a> {
    pub(super) fn page(&self) -> Option<&'a PageRef> {
        match *self {
            Change::Patch { page, .. }
            | Change::Ranges { page, .. }
            | Change::Masked { page, .. } => Some(page),
            Change::Mark { .. } => None,
        }
    }

    pub(super) fn check(&self) -> Result<(), PageError> {
        match *self {
            Change::Patch {
                page,
                offset,
                bytes,
            } => page.check_range(offset.into(), bytes.len() as u64),
            Change::Ranges {
                page,
                ranges,
                bytes,
            } => {
                let mut end = 0u64;
                let mut total = 0u64;
                for (i, (offset, len)) in ranges.iter().enumerate() {
                    let (offset, len) = (u64::from(*offset), u64::from(*len));
                    if offset < end {
                        return Err(PageError::Overlap { index: i, offset });
                    }
                    page.check_range(offset, len)?;
                    end = offset + len;
                    total += len;
                }
                if total != bytes.len() as u64 {
                    return Err(PageError::MaskLength {
                        mask: total as usize,
                        payload: bytes.len(),
                    });
                }
                Ok(())
            }
            Change::Masked {
                page,
                offset,
                mask,
                bytes,
            } => {
                if mask.len() != bytes.len() {
                    return Err(PageError::MaskLength {
                        mask: mask.len(),
                        payload: bytes.len(),
                    });
                }
                page.check_range(offset.into(), bytes.len() as u64)
            }
            Change::Mark { .. } => Ok(()),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Change::Patch { .. } => Kind::Patch,
            Change::Ranges { .. } => Kind::Ranges,
            Change::Masked { .. } => Kind::Masked,
            Change::Mark { .. } => Kind::Mark,
        }
    }

    pub(super) fn offset(&self) -> u32 {
        match *self {
            Change::Patch { offset, .. } | Change::Masked { offset, .. } => offset,
            Change::Ranges { ranges, .. } => ranges.first().map_or(0, |r| r.0),
            Change::Mark { .. } => 0,
        }
    }

    /// Appends the payload as the record holds it.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Change::Patch { bytes, .. } | Change::Mark { bytes } => out.extend_from_slice(bytes),
            Change::Ranges { ranges, bytes, .. } => {
                out.extend((ranges.len() as u32).to_le_bytes());
                out.extend(0u32.to_le_bytes());
                for (offset, len) in ranges {
                    out.extend(offset.to_le_bytes());
                    out.extend(len.to_le_bytes());
                }
                out.extend_from_slice(bytes);
            }
            Change::Masked { mask, bytes, .. } => {
                out.extend((bytes.len() as u32).to_le_bytes());
                out.extend(0u32.to_le_bytes());
                for chunk in mask.chunks(8) {
                    out.push(
                        chunk
                            .iter()
                            .enumerate()
                            .fold(0, |b, (i, m)| b | u8::from(*m != 0) << i),
                    );
                }
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// How a group is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// LSN of the delta that led to this one; 0: outside input.
    pub cause: u64,
    /// All or nothing for readers of several pages too, not only in the log.
    pub transaction: bool,
}

/// Where a group stands in the order of the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// LSN of its first delta.
    pub first: u64,
    /// LSN of its last delta; 0: the group was empty.
    pub last: u64,
    /// LSN of whatever comes next.
    pub end: u64,
}
