//! What travels: deltas, images, events.

use mmsb_shm::{Delta, Gap, Kind, PageId, PageInfo, PageVersion};

/// The content of one page at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageImage {
    /// The page.
    pub id: PageId,
    /// Which of its states this is: all deltas to `version.lsn` and none behind it.
    pub version: PageVersion,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A delta in memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedDelta {
    /// Its place in the one order of the bus.
    pub lsn: u64,
    /// The page; index 0, generation 0 for marks.
    pub page: PageId,
    /// What it does.
    pub kind: Kind,
    /// Number of who made it; [`Bus::source_name`](crate::Bus::source_name) knows the name.
    pub source: u16,
    /// CLOCK_REALTIME of the commit in ns, in steps of about a millisecond (and the coarse clock's 1-4 ms).
    pub time_ns: u64,
    /// LSN of the delta that led to it; 0: outside input.
    pub cause: u64,
    /// Whether it belongs to a transaction. The deltas of one transaction have consecutive places in the order.
    pub transaction: bool,
    /// The ranges it overwrites, as `(offset, new bytes)`. A whole-page swap has one range: the page.
    pub ranges: Vec<(u32, Vec<u8>)>,
    /// The bytes of a mark; empty for all else.
    pub mark: Vec<u8>,
}

impl OwnedDelta {
    /// Copies a delta. A [`Kind::Swap`] has no ranges here: its content is a block, not in the record.
    pub fn of(delta: &Delta<'_>) -> OwnedDelta {
        let mut ranges = Vec::new();
        delta.for_each_range(|offset, bytes| ranges.push((offset as u32, bytes.to_vec())));
        OwnedDelta {
            lsn: delta.lsn,
            page: delta.page,
            kind: delta.kind,
            source: delta.source,
            time_ns: delta.time_ns,
            cause: delta.cause,
            transaction: delta.transaction,
            ranges,
            mark: if delta.kind == Kind::Mark {
                delta.payload.to_vec()
            } else {
                Vec::new()
            },
        }
    }

    /// Applies the delta to a copy of its page: `state × delta → state′`. Ranges past the end of `page` are left out.
    pub fn apply(&self, page: &mut [u8]) {
        for (offset, bytes) in &self.ranges {
            let at = *offset as usize;
            if let Some(target) = page.get_mut(at..at + bytes.len()) {
                target.copy_from_slice(bytes);
            }
        }
    }
}

/// What a subscription delivers, in the order of the bus.
///
/// To keep a copy of the subscribed pages: on `Image`, replace what is known of the page; on `Created`, start with as
/// many zeros as the page has bytes; on `Delta`, [apply](OwnedDelta::apply) it; on `Destroyed` and `Left`, forget the
/// page.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The present content of a page: at the start of a snapshot, when a page enters the filter, after a gap, and in
    /// place of a whole-page swap whose block was reused before a lossy subscriber got to it. Deltas that the image holds
    /// are not delivered again.
    Image(PageImage),
    /// A change of a page's bytes, or a mark.
    Delta(OwnedDelta),
    /// A page came into being (all bytes zero), or was found after a gap (its image follows if the subscription resyncs).
    Created(PageInfo),
    /// A page got a name that the filter covers; with a snapshot its image follows.
    Entered(PageInfo),
    /// A page of the filter has another name, schema or metadata.
    Described(PageInfo),
    /// A page got a name that the filter does not cover; nothing more is heard of it.
    Left(PageId),
    /// A page is gone.
    Destroyed(PageId),
    /// The subscriber was overtaken and missed the LSNs between; only lossy subscriptions and observers.
    Gap(Gap),
}

impl Event {
    /// The page it is about; `None` for gaps and marks.
    pub fn page(&self) -> Option<PageId> {
        match self {
            Event::Image(image) => Some(image.id),
            Event::Delta(delta) if delta.kind == Kind::Mark => None,
            Event::Delta(delta) => Some(delta.page),
            Event::Created(info) | Event::Entered(info) | Event::Described(info) => Some(info.id),
            Event::Left(id) | Event::Destroyed(id) => Some(*id),
            Event::Gap(_) => None,
        }
    }
}
