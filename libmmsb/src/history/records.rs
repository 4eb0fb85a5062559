//! The records of a log, one after the other.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use mmsb_shm::wire::{self, Item};
use mmsb_shm::{Clock, Cold, Delta, Kind, PageId};

use super::naming::Naming;
use super::{At, HistoryError, Log};
use crate::OwnedDelta;
use crate::checkpoint;
use crate::state::replay::Gate;
use crate::state::{State, StateError, Until};
use crate::tlog::{Begin, Block, LogReader, Survey};

/// Most slots of a group of records.
const GROUP_MAX: u64 = mmsb_shm::layout::ring::RECORD_SLOTS_MAX as u64;

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

impl Filter {
    /// Whether a record may be wanted, as far as its kind and page tell.
    fn may_want(&self, kind: Kind, page: PageId) -> bool {
        self.page.is_none_or(|wanted| wanted == page)
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
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
        if let Some(naming) = Naming::of(delta) {
            self.name(&naming);
        }
    }

    pub(super) fn name(&mut self, naming: &Naming) {
        match naming {
            Naming::Page { id, name, schema } => {
                match name.is_empty() {
                    true => self.pages.remove(id),
                    false => self.pages.insert(*id, Arc::clone(name)),
                };
                match schema.is_empty() {
                    true => self.schemas.remove(id),
                    false => self.schemas.insert(*id, Arc::clone(schema)),
                };
            }
            Naming::Gone(id) => {
                self.pages.remove(id);
                self.schemas.remove(id);
            }
            Naming::Source(id, name) => {
                self.sources.insert(*id, Arc::clone(name));
            }
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
        self.names_in(&self.survey()?, lsn, &|_| true)
    }

    /// The same, of a log that was surveyed just now, and only those that are wanted.
    fn names_in(
        &self,
        found: &Survey,
        lsn: u64,
        wanted: &dyn Fn(&Naming) -> bool,
    ) -> Result<Names, HistoryError> {
        let mut names = Names::default();
        let all = self.checkpoints()?;
        let best = all.iter().find(|c| c.end_lsn <= lsn);
        let birth = found.first_lsn;
        let from = match best.or(all.last()) {
            Some(info) if best.is_some() || !self.reaches_back(birth) => {
                let about = checkpoint::describe(&info.path)?;
                for (shape, _, cold) in about.pages {
                    names.name(&Naming::page(shape.id, &cold));
                }
                for (id, source) in about.sources {
                    names.name(&Naming::Source(id, source.name.as_str().into()));
                }
                info.begin_lsn
            }
            _ => birth,
        };
        if from < lsn {
            self.namings(found, from..lsn, &mut |_, naming| {
                if wanted(naming) {
                    names.name(naming);
                }
            })?;
        }
        Ok(names)
    }

    /// The records from LSN `from` on up to `to` (exclusive; `u64::MAX`: to the end of the log), of which `filter` wants
    /// to hear. `from` need not be the LSN of a record; 0 is the beginning of the log.
    ///
    /// # Errors
    /// [`HistoryError::Gone`] if `from` is not 0 and was removed; [`HistoryError::Log`], [`HistoryError::Checkpoint`].
    pub fn records(&self, from: u64, to: u64, filter: Filter) -> Result<Records, HistoryError> {
        let found = self.survey()?;
        let from = match from {
            0 => found.first_lsn,
            from => from,
        };
        let names = self.names_in(&found, from, &|_| true)?;
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

    /// The record at `lsn`.
    ///
    /// # Errors
    /// [`HistoryError::NoRecord`], [`HistoryError::Gone`], [`HistoryError::Ahead`] and as [`Log::records`].
    pub fn record(&self, lsn: u64) -> Result<Record, HistoryError> {
        let found = self.survey()?;
        if lsn >= found.end.lsn {
            return Err(HistoryError::Ahead {
                wanted: lsn,
                end: found.end.lsn,
            });
        }
        let lsn = lsn.max(1);
        let mut record = [self.finder(lsn)?.find(lsn)?];
        self.complete(&found, &mut record)?;
        let [record] = record;
        Ok(record)
    }

    /// Finds records one by one, from the one at `lsn` on.
    pub(super) fn finder(&self, lsn: u64) -> Result<Finder<'_>, HistoryError> {
        Ok(Finder {
            log: self,
            blocks: self.reader_from(lsn, 0, Begin::Block)?,
            block: Block::default(),
        })
    }

    /// Gives records that were found alone, oldest first, the names that the log says.
    pub(super) fn complete(
        &self,
        found: &Survey,
        records: &mut [Record],
    ) -> Result<(), HistoryError> {
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(());
        };
        let (first, last) = (first.delta.lsn, last.delta.lsn);
        let pages: HashSet<PageId> = records.iter().map(|r| r.delta.page).collect();
        let wanted = |naming: &Naming| naming.page_id().is_none_or(|id| pages.contains(&id));
        let mut names = self.names_in(found, first, &wanted)?;
        let mut due = records.iter_mut().peekable();
        self.namings(found, first..last.saturating_add(1), &mut |lsn, naming| {
            while let Some(record) = due.next_if(|r| r.delta.lsn < lsn) {
                record.name(&names, None);
            }
            let before = due.next_if(|r| r.delta.lsn == lsn);
            let before = before.map(|r| (names.page(r.delta.page), r));
            if wanted(naming) {
                names.name(naming);
            }
            if let Some((before, record)) = before {
                record.name(&names, Some(before));
            }
        })?;
        due.for_each(|record| record.name(&names, None));
        Ok(())
    }
}

impl Record {
    /// Of a delta, without names.
    fn of(delta: &Delta<'_>, content: Option<Vec<u8>>) -> Record {
        let mut owned = OwnedDelta::of(delta);
        if let Some(content) = content {
            owned.ranges = vec![(0, content)];
        }
        Record {
            delta: owned,
            group_end: delta.group_end,
            source_name: None,
            page_name: Arc::default(),
            created: delta.created_size(),
            cold: delta.cold(),
            schema: None,
        }
    }

    /// Sets the names, as they are with this record. `before`: what the page was called ahead of it, if it says something
    /// about that.
    fn name(&mut self, names: &Names, before: Option<Arc<str>>) {
        self.page_name = match (self.delta.kind, before) {
            (Kind::Source | Kind::Mark, _) => Arc::default(),
            (Kind::Destroy, Some(before)) => before,
            _ => names.page(self.delta.page),
        };
        self.source_name = names.source(self.delta.source);
        self.schema = names.schema(self.delta.page);
    }
}

/// Finds records by their LSN. See [`Log::finder`].
pub(super) struct Finder<'l> {
    log: &'l Log,
    blocks: LogReader,
    /// The block that was read last.
    block: Block,
}

impl Finder<'_> {
    /// The record at `lsn`, without names.
    ///
    /// # Errors
    /// [`HistoryError::NoRecord`], [`HistoryError::Gone`], and what is wrong with the block.
    pub(super) fn find(&mut self, lsn: u64) -> Result<Record, HistoryError> {
        if !(self.block.first_lsn..self.block.end_lsn).contains(&lsn) {
            self.block.end_lsn = 0;
            self.blocks.go_to(lsn)?;
            loop {
                if self.blocks.lsn() > lsn || !self.blocks.next_into(&mut self.block)? {
                    self.block.end_lsn = 0;
                    return Err(HistoryError::NoRecord { lsn });
                }
                if self.block.end_lsn > lsn {
                    break;
                }
            }
        }
        let mut record = None;
        // Another record of the same block can be had afterwards: this joins none but its own.
        visit(&mut self.block, |at, _, _| at == lsn, &mut |item| {
            match item {
                Item::Delta(delta) if delta.lsn == lsn => record = Some(Record::of(&delta, None)),
                _ => {}
            }
            Ok(())
        })?;
        let record = record.ok_or(HistoryError::NoRecord { lsn })?;
        if record.delta.kind != Kind::Swap {
            return Ok(record);
        }
        // Its content stands in blocks ahead.
        let filter = Filter::default();
        let mut records = self
            .log
            .records_named(Names::default(), lsn, lsn + 1, filter)?;
        records.next().ok_or(HistoryError::NoRecord { lsn })?
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
        let (filter, ready) = (&self.filter, &mut self.ready);
        // The contents of swaps are kept up to their records.
        let wanted = |_, kind, page| {
            kind == Kind::Swap || Naming::is_in(kind) || filter.may_want(kind, page)
        };
        visit(&mut self.block, wanted, &mut |item| {
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
            if let Some(record) = pick(filter, names, before, &delta, content) {
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
    if !filter.may_want(delta.kind, delta.page) {
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
    if let Some(source) = &filter.source
        && names.source(delta.source).as_deref() != Some(source)
    {
        return None;
    }
    let mut record = Record::of(delta, content);
    record.name(names, Some(before));
    Some(record)
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
    visit(block, |_, _, _| true, f)
}

/// The same, but of records only those that are wanted, by their LSN, kind and page.
pub(super) fn visit(
    block: &mut Block,
    wanted: impl Fn(u64, Kind, PageId) -> bool,
    f: &mut dyn FnMut(Item<'_>) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let clock = Clock::new(block.created_ns, block.time_ns);
    let mut failed = Ok(());
    let walked = wire::walk_wanted(
        &mut block.body,
        block.first_lsn,
        block.ring_slots,
        clock,
        wanted,
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
    // Of other pages, those that have to do with where it ends: all if that is a time, and else the transaction there.
    let matters = |lsn: u64| match until {
        Until::End => false,
        Until::Lsn(end) => lsn.saturating_add(GROUP_MAX) > end,
        Until::Time(_) => true,
    };
    while gate.closed_at().is_none() && blocks.next_into(&mut block)? {
        let end = block.end_lsn;
        let wanted = |lsn, kind, of| of == page || kind == Kind::Swap || matters(lsn);
        visit(&mut block, wanted, &mut |item| match &item {
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
