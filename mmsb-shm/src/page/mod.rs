//! Pages: identity, resolution of an id to its block, reads, several pages as one cut, pinned views.
//!
//! A read is valid if the page's sequence word is even and the same before and after the copy, **and** the directory
//! entry is the same (PROTOCOL C2): memory is type-stable, so the copy itself is harmless whatever it copied.

pub(crate) mod cell;
pub(crate) mod lease;
#[cfg(all(test, loom))]
mod loom_page;
pub(crate) mod owner;
pub(crate) mod seqlock;

#[cfg(not(loom))]
mod read;

#[cfg(not(loom))]
pub use read::{Lease, PageRef, PageVersion, PinnedView};
#[cfg(not(loom))]
pub(crate) use read::{Outcome, cell_current};

/// Names one page for ever: an index into the page directory and the generation of that index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PageId {
    /// Index into the page directory.
    pub index: u32,
    /// Which of the pages that had this index, from 1 on.
    pub generation: u32,
}

impl PageId {
    /// As one number: `generation << 32 | index`.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// From [`PageId::to_u64`].
    pub fn from_u64(bits: u64) -> PageId {
        PageId {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

impl std::fmt::Display for PageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

impl std::str::FromStr for PageId {
    type Err = std::num::ParseIntError;

    /// Parses what `Display` prints: `index.generation`.
    fn from_str(text: &str) -> Result<PageId, Self::Err> {
        let (index, generation) = text.split_once('.').unwrap_or((text, ""));
        Ok(PageId {
            index: index.parse()?,
            generation: generation.parse()?,
        })
    }
}
