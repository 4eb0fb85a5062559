//! What is different between two moments.

use mmsb_shm::diff::changed_ranges;
use mmsb_shm::{Cold, PageId};

use super::{At, HistoryError, Log};
use crate::state::{PageMemory, PageState, State};

/// Differences with fewer equal bytes between them are told as one.
const MERGE_GAP: usize = 8;

/// A page at one moment, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSummary {
    /// Bytes.
    pub size: u32,
    /// Version slots.
    pub versions: u32,
    /// Deltas applied since it was created.
    pub epoch: u64,
    /// LSN of the last of them.
    pub lsn: u64,
    /// Name, schema and metadata.
    pub cold: Cold,
}

impl PageSummary {
    fn of<B: AsRef<[u8]>>(page: &PageState<B>) -> PageSummary {
        PageSummary {
            size: page.size(),
            versions: page.versions(),
            epoch: page.epoch(),
            lsn: page.lsn(),
            cold: page.cold().clone(),
        }
    }
}

/// A range of a page that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeDiff {
    /// First byte.
    pub offset: u32,
    /// What it was; zeros for a page that was created since.
    pub old: Vec<u8>,
    /// What it is.
    pub new: Vec<u8>,
}

/// A page that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageDiff {
    /// The page.
    pub id: PageId,
    /// As it was; `None`: it was created since.
    pub before: Option<PageSummary>,
    /// As it is; `None`: it was destroyed since.
    pub after: Option<PageSummary>,
    /// Where its bytes differ, in order. None for a page that was destroyed.
    pub ranges: Vec<RangeDiff>,
}

impl PageDiff {
    /// Whether name, schema or metadata differ, of a page that is in both.
    pub fn is_redescribed(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => before.cold != after.cold,
            _ => false,
        }
    }

    /// The old and the new name, of a page that is in both and has another one.
    pub fn renamed(&self) -> Option<(&str, &str)> {
        let (before, after) = self.before.as_ref().zip(self.after.as_ref())?;
        (before.cold.name != after.cold.name).then_some((&before.cold.name, &after.cold.name))
    }
}

/// What is different between two moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    /// LSN of the one state.
    pub from_lsn: u64,
    /// LSN of the other.
    pub to_lsn: u64,
    /// The pages that differ, by id. A page that was changed back to what it was is among them, without ranges.
    pub pages: Vec<PageDiff>,
}

impl Diff {
    /// Compares two states.
    pub fn of<A: PageMemory, B: PageMemory>(from: &State<A>, to: &State<B>) -> Diff {
        let mut pages = Vec::new();
        let mut changed = Vec::new();
        for old in from.pages() {
            let Some(new) = to.page(old.id()) else {
                pages.push(PageDiff {
                    id: old.id(),
                    before: Some(PageSummary::of(old)),
                    after: None,
                    ranges: Vec::new(),
                });
                continue;
            };
            if old.shape() == new.shape() && old.cold() == new.cold() && old.bytes() == new.bytes()
            {
                continue;
            }
            changed.clear();
            if old.size() == new.size() {
                changed_ranges(old.bytes(), new.bytes(), MERGE_GAP, &mut changed);
            }
            pages.push(PageDiff {
                id: old.id(),
                before: Some(PageSummary::of(old)),
                after: Some(PageSummary::of(new)),
                ranges: ranges(Some(old.bytes()), new.bytes(), &changed),
            });
        }
        let zeros = vec![0u8; 4096];
        for new in to.pages().filter(|p| from.page(p.id()).is_none()) {
            changed.clear();
            let mut piece = Vec::new();
            for (i, bytes) in new.bytes().chunks(zeros.len()).enumerate() {
                changed_ranges(&zeros[..bytes.len()], bytes, MERGE_GAP, &mut piece);
                let base = (i * zeros.len()) as u32;
                changed.extend(piece.iter().map(|(at, len)| (base + at, *len)));
            }
            pages.push(PageDiff {
                id: new.id(),
                before: None,
                after: Some(PageSummary::of(new)),
                ranges: ranges(None, new.bytes(), &changed),
            });
        }
        pages.sort_unstable_by_key(|p| p.id);
        Diff {
            from_lsn: from.lsn(),
            to_lsn: to.lsn(),
            pages,
        }
    }
}

fn ranges(old: Option<&[u8]>, new: &[u8], changed: &[(u32, u32)]) -> Vec<RangeDiff> {
    changed
        .iter()
        .map(|(offset, len)| {
            let range = *offset as usize..*offset as usize + *len as usize;
            RangeDiff {
                offset: *offset,
                old: old.map_or_else(|| vec![0; range.len()], |old| old[range.clone()].to_vec()),
                new: new[range].to_vec(),
            }
        })
        .collect()
}

impl Log {
    /// What changed between two moments: pages that came and went, were described anew, or hold other bytes.
    ///
    /// # Errors
    /// As [`Log::state_at`].
    pub fn diff(&self, from: At, to: At) -> Result<Diff, HistoryError> {
        let from = self.state_at(from)?;
        let to = self.state_at(to)?;
        Ok(Diff::of(&from, &to))
    }
}
