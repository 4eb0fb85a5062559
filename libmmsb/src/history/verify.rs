//! Whether what is recorded in several places is the same everywhere: in the log, in checkpoints, on the live bus.

use std::collections::HashMap;

use mmsb_shm::PageId;
use mmsb_shm::wire::Item;
use xxhash_rust::xxh3::xxh3_128;

use super::records::each;
use super::{At, HistoryError, Log};
use crate::checkpoint::{self, CheckpointError, CheckpointInfo, ImageSource};
use crate::state::{Heap, PageMemory, PageShape, PageState, State};
use crate::tlog::Block;

/// A page that is not the same in two places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The page.
    pub page: PageId,
    /// Its epoch and LSN by the log, and its hash; `None`: by the log there is no such page.
    pub by_log: Option<(u64, u64, u128)>,
    /// The same by the checkpoint or the bus.
    pub found: Option<(u64, u64, u128)>,
}

/// What became of one checkpoint.
#[derive(Debug)]
pub struct CheckpointCheck {
    /// The checkpoint.
    pub info: CheckpointInfo,
    /// Whether its file could be read whole.
    pub damage: Option<CheckpointError>,
    /// Whether there was a state to compare it with: not for the oldest, where the log does not reach back to the
    /// creation of the bus.
    pub compared: bool,
    /// Pages that were compared.
    pub pages: u64,
    /// Those that differ from what replaying gives.
    pub different: Vec<Mismatch>,
}

/// What a verification found.
#[derive(Debug, Default)]
pub struct Report {
    /// Where replaying began.
    pub from_lsn: u64,
    /// How far it came.
    pub end_lsn: u64,
    /// Records that were replayed.
    pub records: u64,
    /// Hash of the state there.
    pub hash: u128,
    /// Every checkpoint, oldest first.
    pub checkpoints: Vec<CheckpointCheck>,
    /// What ended it ahead of the end of the log.
    pub error: Option<HistoryError>,
}

impl Report {
    /// Whether all is as it should be.
    pub fn is_good(&self) -> bool {
        self.error.is_none()
            && self
                .checkpoints
                .iter()
                .all(|c| c.damage.is_none() && c.different.is_empty())
    }
}

/// How a live bus compares with its log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveReport {
    /// Pages that are the same at the same epoch and LSN.
    pub equal: u64,
    /// Pages that are not.
    pub different: Vec<Mismatch>,
    /// Pages whose last delta was not in the log yet.
    pub ahead: Vec<PageId>,
    /// How far the log came.
    pub end_lsn: u64,
}

type Hashes = HashMap<PageId, (u64, u64, u128)>;

fn hashes<M: PageMemory>(state: &State<M>) -> Hashes {
    state
        .pages()
        .map(|p| (p.id(), (p.epoch(), p.lsn(), p.hash())))
        .collect()
}

impl Log {
    /// Replays the log from its beginning, or from its oldest checkpoint, and compares the state with every checkpoint
    /// on the way, page by page: as the checkpoint gives it, its tail replayed, at the first LSN that it serves.
    ///
    /// # Errors
    /// [`HistoryError::Log`] or [`HistoryError::Checkpoint`] if the directory cannot be read. What is wrong with the
    /// files is in the report.
    pub fn verify(&self) -> Result<Report, HistoryError> {
        let bounds = self.bounds()?;
        let mut report = Report::default();
        let mut state = self
            .reaches_back(bounds.first_lsn)
            .then(|| State::new(self.state_meta(), Heap::default()));
        report.from_lsn = bounds.first_lsn;
        for info in self.checkpoints()?.into_iter().rev() {
            let mut check = CheckpointCheck {
                info,
                damage: None,
                compared: false,
                pages: 0,
                different: Vec::new(),
            };
            let result = self.check(&mut check, &mut state);
            // Its supervisor has removed it since it was listed, for a newer one.
            if check
                .damage
                .as_ref()
                .is_some_and(CheckpointError::is_missing)
            {
                continue;
            }
            if report.checkpoints.is_empty()
                && let Some(state) = &state
                && !self.reaches_back(bounds.first_lsn)
            {
                report.from_lsn = state.lsn();
            }
            report.checkpoints.push(check);
            if let Err(e) = result {
                report.error = Some(e);
                break;
            }
        }
        if let Some(state) = &mut state {
            if report.error.is_none() {
                report.error = self.go_on(state, At::End, 0).err();
            }
            report.end_lsn = state.lsn();
            report.records = state.records();
            report.hash = state.hash();
        }
        Ok(report)
    }

    /// Compares one checkpoint with the state that was replayed up to it.
    fn check(
        &self,
        check: &mut CheckpointCheck,
        state: &mut Option<State>,
    ) -> Result<(), HistoryError> {
        let info = &check.info;
        let at = At::Lsn(info.end_lsn.saturating_sub(1));
        let mut loaded = match checkpoint::load(&info.path, Heap::default()) {
            Ok(loaded) => loaded,
            Err(e) => {
                check.damage = Some(e);
                return Ok(());
            }
        };
        self.go_on(&mut loaded, at, 0)?;
        let Some(replayed) = state else {
            *state = Some(loaded);
            return Ok(());
        };
        let mut found = hashes(&loaded);
        // One state at a time is enough.
        drop(loaded);
        self.go_on(replayed, at, 0)?;
        check.compared = true;
        for (page, by_log) in hashes(replayed) {
            check.pages += 1;
            let found = found.remove(&page);
            if found != Some(by_log) {
                check.different.push(Mismatch {
                    page,
                    by_log: Some(by_log),
                    found,
                });
            }
        }
        check
            .different
            .extend(found.into_iter().map(|(page, f)| Mismatch {
                page,
                by_log: None,
                found: Some(f),
            }));
        check.different.sort_unstable_by_key(|d| d.page);
        Ok(())
    }

    /// Compares a live bus with its log: images of all pages are taken first, then the log is replayed, and each page is
    /// compared when it is at the epoch and LSN of its image. Writers may go on meanwhile. Descriptions are not
    /// compared: they change without an epoch.
    ///
    /// # Errors
    /// As [`Log::state_at`]; [`CheckpointError::Source`] if an image cannot be taken.
    pub fn verify_live(&self, live: &dyn ImageSource) -> Result<LiveReport, HistoryError> {
        let mut bytes = Vec::new();
        let mut images: HashMap<PageId, (PageShape, u128)> = HashMap::new();
        let source = |e| HistoryError::Checkpoint(CheckpointError::Source(e));
        for id in live.pages().map_err(source)? {
            if let Some(image) = live.image(id, &mut bytes).map_err(source)? {
                images.insert(id, (image.shape, xxh3_128(&bytes)));
            }
        }
        let (mut state, _) = self.begin(At::End, &Heap::default, 0, None)?;
        let mut report = LiveReport::default();
        let ids: Vec<PageId> = images.keys().copied().collect();
        for id in ids {
            if let Some(page) = state.page(id) {
                compare(page, &mut images, &mut report);
            }
        }
        let mut blocks = self.reader(state.lsn(), state.consistent_from())?;
        let mut block = Block::default();
        while !images.is_empty() && blocks.next_into(&mut block)? {
            let end = block.end_lsn;
            each(&mut block, &mut |item| {
                state.apply(&item)?;
                if let Item::Delta(delta) = item
                    && let Some(page) = state.page(delta.page)
                {
                    compare(page, &mut images, &mut report);
                }
                Ok(())
            })?;
            state.advance_to(end);
        }
        report.end_lsn = state.lsn();
        for (page, (shape, hash)) in images {
            if shape.lsn < state.lsn() {
                let by_log = state.page(page);
                report.different.push(Mismatch {
                    page,
                    by_log: by_log.map(|p| (p.epoch(), p.lsn(), xxh3_128(p.bytes()))),
                    found: Some((shape.epoch, shape.lsn, hash)),
                });
            } else {
                report.ahead.push(page);
            }
        }
        report.different.sort_unstable_by_key(|d| d.page);
        report.ahead.sort_unstable();
        Ok(report)
    }
}

/// Compares a page with its image, once they are at the same LSN.
fn compare<B: AsRef<[u8]>>(
    page: &PageState<B>,
    images: &mut HashMap<PageId, (PageShape, u128)>,
    report: &mut LiveReport,
) {
    let Some((shape, hash)) = images.get(&page.id()).copied() else {
        return;
    };
    if shape.lsn != page.lsn() {
        return;
    }
    images.remove(&page.id());
    let now = xxh3_128(page.bytes());
    if page.shape() == shape && now == hash {
        report.equal += 1;
    } else {
        report.different.push(Mismatch {
            page: page.id(),
            by_log: Some((page.epoch(), page.lsn(), now)),
            found: Some((shape.epoch, shape.lsn, hash)),
        });
    }
}
