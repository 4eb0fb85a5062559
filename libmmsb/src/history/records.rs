//! The records of a log, one after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use mmsb_shm::wire::{self, Item};
use mmsb_shm::{Clock, Cold, Delta, Kind, PageId};

use super::{At, HistoryError, Log};
use crate::OwnedDelta;
use crate::checkpoint;
use crate::state::replay::Gate;
use crate::state::{State, StateError, Until};
use crate::tlog::{Block, LogReader};

/// A record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it does. A swap has one range: the page.
    pub delta: OwnedDelta,
    /// LSN behind its group.
    pub group_end: u64,
    /// Name of who made it, if the log says.
    pub source_name: Option<Arc<str>>,
    /// Name of the page at that time, for a rename the new one; empty: none, or not known.
    pub page_name: Arc<str>,
    /// For a creation: size and version slots.
    pub created: Option<(u32, u32)>,
    /// For a creation or a description: name, schema and metadata from here on.
    pub cold: Option<Cold>,
    /// Encoded schema of the page, if it had one and the log says which.
    pub schema: Option<Arc<[u8]>>,
}

/// Which records are wanted. The default: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of pages whose name begins so, at that time.
    pub prefix: Option<String>,
    /// Only by the source of this name.
    pub source: Option<String>,
    /// Only of these kinds; empty: of any.
    pub kinds: Vec<Kind>,
    /// Only of this page.
    pub page: Option<PageId>,
}

/// Names of pages and sources, as of one LSN.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pages: HashMap<PageId, Arc<str>>,
    schemas: HashMap<PageId, Arc<[u8]>>,
    sources: BTreeMap<u16, Arc<str>>,
}

impl Names {
    /// The page of this name.
    pub fn find(&self, name: &str) -> Option<PageId> {
        let mut pages = self.pages.iter();
        pages.find(|(_, n)| ***n == *name).map(|(id, _)| *id)
    }

    /// Encoded schema of a page.
    pub fn schema(&self, id: PageId) -> Option<Arc<[u8]>> {
        self.schemas.get(&id).cloned()
    }

    /// Name of a page; empty: none.
    pub fn page(&self, id: PageId) -> Arc<str> {
        self.pages.get(&id).cloned().unwrap_or_default()
    }

    /// Name of a source.
    pub fn source(&self, id: u16) -> Option<Arc<str>> {
        self.sources.get(&id).cloned()
    }

    fn apply(&mut self, delta: &Delta<'_>) {
        match delta.kind {
            Kind::Create | Kind::Describe => {
                if let Some(cold) = delta.cold() {
                    self.describe(delta.page, &cold);
                }
            }
            Kind::Destroy => {
                self.pages.remove(&delta.page);
                self.schemas.remove(&delta.page);
            }
            Kind::Source => {
                let id = delta.payload.first_chunk().map(|b| u32::from_le_bytes(*b));
                let name = delta
                    .payload
                    .get(8..)
                    .and_then(|n| std::str::from_utf8(n).ok());
                if let (Some(Ok(id)), Some(name)) = (id.map(u16::try_from), name) {
                    self.sources.insert(id, name.into());
                }
            }
            _ => {}
        }
    }

    fn describe(&mut self, page: PageId, cold: &Cold) {
        if cold.name.is_empty() {
            self.pages.remove(&page);
        } else {
            self.pages.insert(page, cold.name.as_str().into());
        }
        if cold.schema.is_empty() {
            self.schemas.remove(&page);
        } else {
            self.schemas.insert(page, cold.schema.as_slice().into());
        }
    }
}

impl Log {
    /// The names as they were ahead of the record at `lsn`. Where the log does not reach back to that, the names of the
    /// oldest checkpoint stand in.
    ///
    /// # Errors
    /// [`HistoryError::Log`], [`HistoryError::Checkpoint`].
    pub fn names_at(&self, lsn: u64) -> Result<Names, HistoryError> {
        let mut names = Names::default();
        let all = self.checkpoints()?;
        let best = all.iter().find(|c| c.end_lsn <= lsn);
        let birth = self.bounds()?.first_lsn;
        let from = match best.or(all.last()) {
            Some(info) if best.is_some() || !self.reaches_back(birth) => {
                let about = checkpoint::describe(&info.path)?;
                for (shape, _, cold) in about.pages {
                    names.describe(shape.id, &cold);
                }
                for (id, source) in about.sources {
                    names.sources.insert(id, source.name.as_str().into());
                }
                info.begin_lsn
            }
            _ => birth,
        };
        if from < lsn {
            let mut blocks = self.reader(from, 0)?;
            let mut block = Block::default();
            while blocks.lsn() < lsn && blocks.next_into(&mut block)? {
                each(&mut block, &mut |item| {
                    if let Item::Delta(delta) = item
                        && delta.lsn >= from
                        && delta.lsn < lsn
                    {
                        names.apply(&delta);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(names)
    }

    /// The records from LSN `from` on up to `to` (exclusive; `u64::MAX`: to the end of the log), of which `filter` wants
    /// to hear. `from` need not be the LSN of a record; 0 is the beginning of the log.
    ///
    /// # Errors
    /// [`HistoryError::Gone`] if `from` is not 0 and was removed; [`HistoryError::Log`], [`HistoryError::Checkpoint`].
    pub fn records(&self, from: u64, to: u64, filter: Filter) -> Result<Records, HistoryError> {
        let from = match from {
            0 => self.bounds()?.first_lsn,
            from => from,
        };
        let names = self.names_at(from)?;
        self.records_named(names, from, to, filter)
    }

    fn records_named(
        &self,
        names: Names,
        from: u64,
        to: u64,
        filter: Filter,
    ) -> Result<Records, HistoryError> {
        Ok(Records {
            names,
            blocks: self.reader(from, 0)?,
            block: Block::default(),
            from,
            to,
            filter,
            only: None,
            contents: HashMap::new(),
            ready: VecDeque::new(),
            failed: false,
        })
    }

    /// LSN behind the last record that is in the state at a moment. For a time ahead of the oldest record that is the
    /// LSN of that record.
    ///
    /// # Errors
    /// [`HistoryError::Log`], [`HistoryError::Checkpoint`].
    pub fn lsn_at(&self, at: At) -> Result<u64, HistoryError> {
        let bounds = self.bounds()?;
        let ns = match at {
            At::Lsn(lsn) => return Ok(lsn.saturating_add(1)),
            At::End => return Ok(bounds.end_lsn),
            At::Time(ns) => ns,
        };
        let checkpoints = self.checkpoints()?;
        let usable = checkpoints
            .iter()
            .find(|c| c.time_ns <= ns && c.begin_lsn >= bounds.first_lsn);
        let mut blocks = self.reader(usable.map_or(bounds.first_lsn, |c| c.begin_lsn), 0)?;
        let mut block = Block::default();
        let mut end = bounds.first_lsn;
        while blocks.next_into(&mut block)? {
            // A block is written behind all its records.
            if block.time_ns > ns {
                let mut younger = None;
                each(&mut block, &mut |item| {
                    match item {
                        Item::Delta(delta) if delta.time_ns > ns => {
                            younger.get_or_insert(delta.lsn);
                        }
                        _ => {}
                    }
                    Ok(())
                })?;
                if let Some(lsn) = younger {
                    return Ok(lsn);
                }
            }
            end = end.max(block.end_lsn);
        }
        Ok(end)
    }

    /// The records at these LSNs, oldest first.
    pub(super) fn records_at(&self, lsns: BTreeSet<u64>) -> Result<Vec<Record>, HistoryError> {
        let (Some(first), Some(last)) = (lsns.first().copied(), lsns.last().copied()) else {
            return Ok(Vec::new());
        };
        let mut records = self.records(first, last + 1, Filter::default())?;
        records.only = Some(lsns);
        records.collect()
    }

    /// The cause of the record at `lsn`, without the names, which take reading from the last checkpoint on.
    pub(super) fn cause_of(&self, lsn: u64) -> Result<u64, HistoryError> {
        let names = Names::default();
        let mut records = self.records_named(names, lsn, lsn + 1, Filter::default())?;
        match records.next() {
            Some(record) => Ok(record?.delta.cause),
            None => Err(HistoryError::NoRecord { lsn }),
        }
    }

    /// The record at `lsn`.
    ///
    /// # Errors
    /// [`HistoryError::NoRecord`], [`HistoryError::Gone`], [`HistoryError::Ahead`] and as [`Log::records`].
    pub fn record(&self, lsn: u64) -> Result<Record, HistoryError> {
        let bounds = self.bounds()?;
        if lsn >= bounds.end_lsn {
            return Err(HistoryError::Ahead {
                wanted: lsn,
                end: bounds.end_lsn,
            });
        }
        let mut records = self.records(lsn.max(1), lsn + 1, Filter::default())?;
        match records.next() {
            Some(record) => record,
            None => Err(HistoryError::NoRecord { lsn }),
        }
    }
}

/// The records of a log, see [`Log::records`]. At the end of the log it gives `None`; asked again later, it goes on with
/// what was logged since. After an error it ends for good.
pub struct Records {
    blocks: LogReader,
    block: Block,
    names: Names,
    from: u64,
    to: u64,
    filter: Filter,
    /// Only those at these LSNs.
    only: Option<BTreeSet<u64>>,
    /// Contents of swaps that are to come.
    contents: HashMap<u64, Vec<u8>>,
    ready: VecDeque<Record>,
    failed: bool,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Records")
            .field("position", &self.position())
            .field("to", &self.to)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

impl Records {
    /// Where it is: every record ahead of this LSN was looked at.
    pub fn position(&self) -> u64 {
        self.ready.front().map_or(self.from, |r| r.delta.lsn)
    }

    /// Takes the next block apart. `false`: there is none.
    fn advance(&mut self) -> Result<bool, HistoryError> {
        if self.from >= self.to || !self.blocks.next_into(&mut self.block)? {
            return Ok(false);
        }
        let (from, to) = (self.from, self.to);
        let (names, contents) = (&mut self.names, &mut self.contents);
        let (filter, only, ready) = (&self.filter, &self.only, &mut self.ready);
        each(&mut self.block, &mut |item| {
            let delta = match item {
                Item::Delta(delta) => delta,
                Item::Chunk(chunk) if chunk.lsn >= from && chunk.lsn < to => {
                    let content = contents.entry(chunk.lsn).or_default();
                    if chunk.offset == 0 {
                        content.clear();
                    }
                    if chunk.offset != content.len() as u64 {
                        return Err(StateError::Corrupt {
                            lsn: chunk.lsn,
                            what: "order of the chunks of a swap",
                        });
                    }
                    content.extend_from_slice(chunk.bytes);
                    return Ok(());
                }
                Item::Chunk(_) => return Ok(()),
            };
            if delta.lsn < from || delta.lsn >= to {
                return Ok(());
            }
            let before = names.page(delta.page);
            names.apply(&delta);
            let content = match delta.kind {
                Kind::Swap => contents.remove(&delta.lsn),
                _ => None,
            };
            if only.as_ref().is_none_or(|only| only.contains(&delta.lsn))
                && let Some(record) = pick(filter, names, before, &delta, content)
            {
                ready.push_back(record);
            }
            Ok(())
        })?;
        self.from = self.from.max(self.block.end_lsn);
        Ok(true)
    }
}

/// The record, if it is wanted.
fn pick(
    filter: &Filter,
    names: &Names,
    before: Arc<str>,
    delta: &Delta<'_>,
    content: Option<Vec<u8>>,
) -> Option<Record> {
    if filter.page.is_some_and(|page| page != delta.page)
        || (!filter.kinds.is_empty() && !filter.kinds.contains(&delta.kind))
    {
        return None;
    }
    let about_page = !matches!(delta.kind, Kind::Source | Kind::Mark);
    let page_name = match delta.kind {
        _ if !about_page => Arc::default(),
        Kind::Destroy => Arc::clone(&before),
        _ => names.page(delta.page),
    };
    if let Some(prefix) = &filter.prefix
        // A page that gets another name is heard of under both.
        && (!about_page || !(page_name.starts_with(&**prefix) || before.starts_with(&**prefix)))
    {
        return None;
    }
    let source_name = names.source(delta.source);
    if let Some(source) = &filter.source
        && source_name.as_deref() != Some(source)
    {
        return None;
    }
    let mut owned = OwnedDelta::of(delta);
    if let Some(content) = content {
        owned.ranges = vec![(0, content)];
    }
    Some(Record {
        delta: owned,
        group_end: delta.group_end,
        source_name,
        page_name,
        created: delta.created_size(),
        cold: delta.cold(),
        schema: names.schema(delta.page),
    })
}

impl Iterator for Records {
    type Item = Result<Record, HistoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(Ok(record));
            }
            if self.failed {
                return None;
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => {
                    self.failed = true;
                    return Some(Err(e));
                }
            }
        }
    }
}

/// Visits what is in a block, until `f` fails.
pub(super) fn each(
    block: &mut Block,
    f: &mut dyn FnMut(Item<'_>) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let clock = Clock::new(block.created_ns, block.time_ns);
    let mut failed = Ok(());
    let walked = wire::walk(
        &mut block.body,
        block.first_lsn,
        block.ring_slots,
        clock,
        &mut |item| {
            if failed.is_ok() {
                failed = f(item);
            }
        },
    );
    failed?;
    walked?;
    Ok(())
}

/// Replays what is about one page, and passes over all else.
pub(super) fn follow_page(
    state: &mut State,
    blocks: &mut LogReader,
    page: PageId,
    until: Until,
) -> Result<(), HistoryError> {
    let mut gate = Gate::new(until);
    let mut block = Block::default();
    while gate.closed_at().is_none() && blocks.next_into(&mut block)? {
        let end = block.end_lsn;
        each(&mut block, &mut |item| match &item {
            Item::Delta(delta) if delta.lsn < state.lsn() => Ok(()),
            Item::Delta(delta) if !gate.admits(delta) => Ok(()),
            Item::Delta(delta) if delta.page != page => {
                state.forget_contents_to(delta);
                Ok(())
            }
            _ => state.apply(&item),
        })?;
        state.advance_to(gate.closed_at().unwrap_or(end));
    }
    Ok(())
}
