//! Playing a recorded range of a log into a live bus: its pages come, change and go there as they did when they were
//! recorded, at the recorded pace, faster, or as fast as it goes.
//!
//! A [`Player`] writes as participants of the target bus, under the names of the recorded sources, so whoever follows the
//! target sees the deltas as those who followed the original did: groups stay groups, transactions transactions, whole-page
//! swaps swaps, causes the LSNs that they have now. Only LSNs, times and page numbers are new.
//!
//! # Pages
//! A page keeps its recorded name, size, version slots, schema and metadata. Where the target has a page of that name and
//! shape it is used, and made what the recording says it was; otherwise it is made. A range that begins in the middle
//! begins with the pages as they were [then](Log::state_at).
//!
//! ```no_run
//! use mmsb::Bus;
//! use mmsb::history::Log;
//! use mmsb::playback::{Player, Range, Speed};
//!
//! let log = Log::open("/var/lib/mmsb/plant")?;
//! let bus = Bus::open_or_create("rehearsal")?;
//! let range = Range { speed: Speed::Times(10.0), ..Range::default() };
//! let played = Player::new(&bus).play(&log, &range, &|| false)?;
//! println!("{} records, of {:?}", played.records, played.recorded);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mmsb_shm::{Change, Kind, NewPage, Options, PageError, PageId, PageRef};

use crate::history::{At, Filter, HistoryError, Log, Record};
use crate::state::{PageState, State};
use crate::{AttachError, Bus, Cold, Error, OwnedDelta};

/// Recorded LSNs whose new ones are remembered, for causes.
const CAUSES_KEPT: usize = 1 << 18;
/// Sources that get a participant of their own; the others' deltas are the player's.
const SOURCES_MAX: usize = 32;
/// Longest sleep ahead of a look whether to stop.
const NAP: Duration = Duration::from_millis(20);

/// Why playing stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaybackError {
    /// The log cannot be read there.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The target did not take it.
    #[error("playing the record at LSN {lsn}: {source}")]
    Bus {
        /// The recorded LSN; 0: ahead of the first.
        lsn: u64,
        /// What the target said.
        source: Error,
    },
    /// The target has a page of that name and another shape.
    #[error(
        "page {name:?} was recorded with {recorded} bytes and {recorded_versions} version slots, the target's has {size} \
         and {versions}; play into another bus, or leave the page out"
    )]
    Unlike {
        /// Its name.
        name: String,
        /// Bytes, recorded.
        recorded: u32,
        /// Version slots, recorded.
        recorded_versions: u32,
        /// Bytes, in the target.
        size: u32,
        /// Version slots, in the target.
        versions: u32,
    },
}

/// How fast to play.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Speed {
    /// So many times as fast as it was recorded. Record times go in steps of about a millisecond.
    Times(f64),
    /// Without pauses.
    #[default]
    Max,
}

/// What to play. The default: everything that the log still holds, as fast as it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// First LSN; 0: the oldest of which the state is known.
    pub from: u64,
    /// LSN behind the last one.
    pub to: u64,
    /// Only these. A prefix or a page leaves all else out, marks too; a source leaves out what others did to its pages
    /// within the range.
    pub filter: Filter,
    /// How fast.
    pub speed: Speed,
    /// Whether deltas are made under the names of the recorded sources, or all under that of the player.
    pub keep_sources: bool,
}

impl Default for Range {
    fn default() -> Range {
        Range {
            from: 0,
            to: u64::MAX,
            filter: Filter::default(),
            speed: Speed::Max,
            keep_sources: true,
        }
    }
}

/// What was played.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Played {
    /// Recorded LSN where it began.
    pub from_lsn: u64,
    /// Recorded LSN where it ended.
    pub to_lsn: u64,
    /// Records.
    pub records: u64,
    /// Groups of them: transactions, batches and single records.
    pub groups: u64,
    /// Bytes of pages that they wrote.
    pub bytes: u64,
    /// Pages made in the target, those of the beginning too.
    pub created: u64,
    /// Pages of the target that took the part of a recorded one.
    pub adopted: u64,
    /// Pages destroyed in the target.
    pub destroyed: u64,
    /// Records left out because nothing is known of their page: the log does not reach back to it, and the target has no
    /// such page.
    pub skipped: u64,
    /// Time between the first and the last record, as recorded.
    pub recorded: Duration,
    /// Time that playing took.
    pub took: Duration,
    /// How far it was behind the recorded pace at worst.
    pub late: Duration,
    /// Whether it was stopped ahead of the end.
    pub stopped: bool,
}

/// Plays recorded deltas into a bus.
pub struct Player<'b> {
    bus: &'b Bus,
    /// Participants under the names of recorded sources.
    voices: HashMap<Arc<str>, Option<Rc<Bus>>>,
    /// Recorded pages, and what they are in the target; `None`: nothing is known of it.
    pages: HashMap<PageId, Option<PageId>>,
    /// Recorded and new LSNs, ascending.
    causes: VecDeque<(u64, u64)>,
    played: Played,
}

impl std::fmt::Debug for Player<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Player")
            .field("bus", &self.bus.name())
            .field("pages", &self.pages.len())
            .finish_non_exhaustive()
    }
}

/// Records with one place in the order.
struct Group {
    end: u64,
    records: Vec<Record>,
}

/// When which record is due.
struct Pace {
    times: f64,
    begin: Instant,
    first_ns: u64,
}

impl Pace {
    fn due(&self, time_ns: u64) -> Instant {
        let recorded = time_ns.saturating_sub(self.first_ns) as f64 / 1e9;
        // No slower than once in a century.
        let after = (recorded / self.times).clamp(0.0, 3e9);
        self.begin + Duration::from_secs_f64(after)
    }
}

impl<'b> Player<'b> {
    /// A player into `bus`.
    pub fn new(bus: &'b Bus) -> Player<'b> {
        Player {
            bus,
            voices: HashMap::new(),
            pages: HashMap::new(),
            causes: VecDeque::new(),
            played: Played::default(),
        }
    }

    /// What a recorded page is in the target.
    pub fn target_of(&self, recorded: PageId) -> Option<PageId> {
        self.pages.get(&recorded).copied().flatten()
    }

    /// Plays a range of a log. `stop` is asked ahead of every group, and some fifty times a second while it waits.
    ///
    /// # Errors
    /// [`PlaybackError`]; everything ahead of that record is played then.
    pub fn play(
        &mut self,
        log: &Log,
        range: &Range,
        stop: &dyn Fn() -> bool,
    ) -> Result<Played, PlaybackError> {
        let begin = Instant::now();
        self.played = Played::default();
        let from = self.begin_at(log, range)?;
        self.played.from_lsn = from;
        self.played.to_lsn = from;
        let mut records = log.records(from, range.to, range.filter.clone())?;
        let mut pace: Option<Pace> = None;
        let mut group = Group {
            end: 0,
            records: Vec::new(),
        };
        let mut first_ns = None;
        loop {
            let next = records.next().transpose()?;
            if let Some(record) = &next
                && !group.records.is_empty()
                && record.group_end == group.end
            {
                group.records.extend(next);
                continue;
            }
            if let Some(first) = group.records.first() {
                let time_ns = first.delta.time_ns;
                let first_ns = *first_ns.get_or_insert(time_ns);
                self.played.recorded = Duration::from_nanos(time_ns.saturating_sub(first_ns));
                if let Speed::Times(times) = range.speed {
                    let pace = pace.get_or_insert_with(|| Pace {
                        times: times.max(1e-6),
                        begin: Instant::now(),
                        first_ns: time_ns,
                    });
                    self.wait(pace.due(time_ns), stop);
                }
                if stop() {
                    self.played.stopped = true;
                    break;
                }
                self.group(log, &group.records, range.keep_sources)?;
                self.played.to_lsn = group.end;
            }
            group.records.clear();
            let Some(record) = next else { break };
            group.end = record.group_end;
            group.records.push(record);
        }
        self.played.took = begin.elapsed();
        Ok(self.played.clone())
    }

    /// Makes the pages as they were where the range begins. Returns that LSN.
    fn begin_at(&mut self, log: &Log, range: &Range) -> Result<u64, PlaybackError> {
        let bounds = log.bounds()?;
        let from = range.from.max(bounds.first_lsn);
        // A fresh ring begins with its second lap: a log that begins there begins with nothing.
        let is_whole = bounds.first_lsn <= u64::from(log.meta().ring_slots);
        if is_whole && from == bounds.first_lsn {
            return Ok(from);
        }
        let at = match range.from {
            0 => bounds.oldest_state,
            from => from - 1,
        };
        if range.from == 0 && at >= bounds.end_lsn {
            return Ok(from);
        }
        match log.state_at(At::Lsn(at)) {
            Ok(state) => {
                self.pages_of(&state, &range.filter)?;
                Ok(from.max(state.lsn()))
            }
            // Pages that are not known are looked for when they are heard of.
            Err(HistoryError::Gone { .. }) => Ok(from),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes the pages of a state that the filter covers.
    fn pages_of(&mut self, state: &State, filter: &Filter) -> Result<(), PlaybackError> {
        for page in state.pages() {
            let wanted = filter.page.is_none_or(|id| id == page.id())
                && filter
                    .prefix
                    .as_ref()
                    .is_none_or(|prefix| page.cold().name.starts_with(&**prefix));
            if wanted {
                self.materialise(page)?;
            }
        }
        Ok(())
    }

    /// Makes a page what it was.
    fn materialise(&mut self, page: &PageState) -> Result<PageId, PlaybackError> {
        let id = self.page_like(self.bus, page.size(), page.versions(), page.cold(), 0)?;
        let at = |source| PlaybackError::Bus { lsn: 0, source };
        let target = self.bus.page_by_id(id).map_err(at)?;
        if target.to_vec().map_err(at)? != page.bytes() {
            write_whole(self.bus, &target.page, page.bytes(), 0).map_err(at)?;
        }
        self.pages.insert(page.id(), Some(id));
        Ok(id)
    }

    /// A page of this name and shape, made unless there is one.
    fn page_like(
        &mut self,
        by: &Bus,
        size: u32,
        versions: u32,
        cold: &Cold,
        lsn: u64,
    ) -> Result<PageId, PlaybackError> {
        let at = |source| PlaybackError::Bus { lsn, source };
        if !cold.name.is_empty() {
            match self.bus.page(&cold.name).and_then(|page| page.info()) {
                Ok(info) => {
                    if info.size != size || info.versions != versions {
                        return Err(PlaybackError::Unlike {
                            name: cold.name.clone(),
                            recorded: size,
                            recorded_versions: versions,
                            size: info.size,
                            versions: info.versions,
                        });
                    }
                    if info.cold != *cold {
                        let describe = by.participant().describe_page(info.id, |_| cold.clone());
                        describe.map_err(|e| at(e.into()))?;
                    }
                    self.played.adopted += 1;
                    return Ok(info.id);
                }
                Err(e) if e.is_missing() => {}
                Err(e) => return Err(at(e)),
            }
        }
        let new = NewPage {
            size: u64::from(size),
            versions,
            cold: cold.clone(),
        };
        let id = by.participant().create_page(&new);
        let id = id.map_err(|e| at(e.into()))?;
        self.played.created += 1;
        Ok(id)
    }

    /// The page that is to have a name: this one, or one of the target's that has it already and takes the other's
    /// part.
    fn give_way(&mut self, id: PageId, name: &str, lsn: u64) -> Result<PageId, PlaybackError> {
        let at = |source| PlaybackError::Bus { lsn, source };
        let named = match self.bus.page(name) {
            _ if name.is_empty() => return Ok(id),
            Ok(named) if named.id() == id => return Ok(id),
            Ok(named) => named,
            Err(e) if e.is_missing() => return Ok(id),
            Err(e) => return Err(at(e)),
        };
        let page = self.bus.page_by_id(id).map_err(at)?;
        let (has, wants) = (named.info().map_err(at)?, page.info().map_err(at)?);
        if (has.size, has.versions) != (wants.size, wants.versions) {
            return Err(PlaybackError::Unlike {
                name: name.to_owned(),
                recorded: wants.size,
                recorded_versions: wants.versions,
                size: has.size,
                versions: has.versions,
            });
        }
        let bytes = page.to_vec().map_err(at)?;
        write_whole(self.bus, &named.page, &bytes, 0).map_err(at)?;
        self.bus.destroy(id).map_err(at)?;
        self.played.adopted += 1;
        Ok(has.id)
    }

    fn wait(&mut self, due: Instant, stop: &dyn Fn() -> bool) {
        loop {
            let now = Instant::now();
            if now >= due {
                self.played.late = self.played.late.max(now - due);
                return;
            }
            if stop() {
                return;
            }
            std::thread::sleep((due - now).min(NAP));
        }
    }

    /// What a recorded page is in the target, found out if need be.
    fn page(&mut self, log: &Log, record: &Record) -> Result<Option<PageId>, PlaybackError> {
        let recorded = record.delta.page;
        if let Some(known) = self.pages.get(&recorded) {
            return Ok(*known);
        }
        let before = record.delta.lsn.saturating_sub(1);
        match log.page_at(recorded, At::Lsn(before)) {
            Ok(state) => {
                if let Some(page) = state.page(recorded) {
                    return self.materialise(page).map(Some);
                }
            }
            Err(HistoryError::Gone { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        // The log does not say what it was; a page of that name is the best there is.
        let found = match self.bus.page(&record.page_name) {
            _ if record.page_name.is_empty() => None,
            Ok(page) => {
                self.played.adopted += 1;
                Some(page.id())
            }
            Err(_) => None,
        };
        self.pages.insert(recorded, found);
        Ok(found)
    }

    /// Plays a group.
    fn group(
        &mut self,
        log: &Log,
        records: &[Record],
        keep_sources: bool,
    ) -> Result<(), PlaybackError> {
        let Some(first) = records.first() else {
            return Ok(());
        };
        let lsn = first.delta.lsn;
        let at = |source: Error| PlaybackError::Bus { lsn, source };
        let voice = match &first.source_name {
            Some(name) if keep_sources => self.voice(name).map_err(at)?,
            _ => None,
        };
        let by: &Bus = voice.as_deref().unwrap_or(self.bus);
        let mut targets = Vec::new();
        for record in records {
            let target = match record.delta.kind {
                Kind::Patch | Kind::Ranges | Kind::Masked | Kind::Swap => {
                    match self.page(log, record)? {
                        Some(id) => Some(self.bus.shared().resolve(id).map_err(|e| at(e.into()))?),
                        None => {
                            self.played.skipped += 1;
                            continue;
                        }
                    }
                }
                Kind::Mark => None,
                // One record, never in a group with others.
                _ => {
                    self.page_record(log, record, by)?;
                    continue;
                }
            };
            targets.push((record, target));
        }
        if targets.is_empty() {
            return Ok(());
        }
        let cause = self.new_lsn(first.delta.cause);
        let done = commit(by, &targets, cause).map_err(at)?;
        self.played.groups += 1;
        self.played.records += targets.len() as u64;
        self.played.bytes += targets
            .iter()
            .flat_map(|(record, _)| &record.delta.ranges)
            .map(|(_, bytes)| bytes.len() as u64)
            .sum::<u64>();
        self.remember(&targets, done);
        Ok(())
    }

    /// The participant that has the name of a source, if it is not to be the player.
    fn voice(&mut self, name: &Arc<str>) -> Result<Option<Rc<Bus>>, Error> {
        if let Some(voice) = self.voices.get(name) {
            return Ok(voice.clone());
        }
        let voice = match self.bus.another(name) {
            _ if self.voices.len() >= SOURCES_MAX => None,
            Ok(bus) => Some(Rc::new(bus)),
            Err(Error::Attach(AttachError::TooManyParticipants { .. })) => None,
            Err(e) => return Err(e),
        };
        self.voices.insert(Arc::clone(name), voice.clone());
        Ok(voice)
    }

    /// Plays a record that makes, unmakes or describes a page.
    fn page_record(&mut self, log: &Log, record: &Record, by: &Bus) -> Result<(), PlaybackError> {
        let delta = &record.delta;
        let at = |source: Error| PlaybackError::Bus {
            lsn: delta.lsn,
            source,
        };
        match (delta.kind, &record.cold) {
            (Kind::Create, Some(cold)) => {
                let (size, versions) = record.created.unwrap_or((0, 1));
                let id = self.page_like(by, size, versions, cold, delta.lsn)?;
                let page = self.bus.page_by_id(id).map_err(at)?;
                // One that was there already begins anew.
                if page.version().map_err(at)?.epoch > 0 {
                    let zeros = vec![0; page.size()];
                    write_whole(by, &page.page, &zeros, 0).map_err(at)?;
                }
                self.pages.insert(delta.page, Some(id));
            }
            (Kind::Destroy, _) => {
                // One that was never heard of need not be found to be unmade.
                if let Some(id) = self.pages.remove(&delta.page).flatten() {
                    by.destroy(id).map_err(at)?;
                    self.played.destroyed += 1;
                }
            }
            (Kind::Describe, Some(cold)) => match self.page(log, record)? {
                Some(id) => {
                    let id = self.give_way(id, &cold.name, delta.lsn)?;
                    self.pages.insert(delta.page, Some(id));
                    let described = by.participant().describe_page(id, |_| cold.clone());
                    described.map_err(|e| at(e.into()))?;
                }
                None => {
                    self.played.skipped += 1;
                    return Ok(());
                }
            },
            // A source gets its number in the target when it first writes there.
            _ => return Ok(()),
        }
        self.played.records += 1;
        self.played.groups += 1;
        Ok(())
    }

    /// The LSN that a recorded delta has now; 0 if it is not known.
    fn new_lsn(&self, recorded: u64) -> u64 {
        if recorded == 0 {
            return 0;
        }
        let found = self
            .causes
            .binary_search_by_key(&recorded, |(recorded, _)| *recorded);
        found.map_or(0, |i| self.causes[i].1)
    }

    fn remember(&mut self, targets: &[(&Record, Option<PageRef>)], lsns: Vec<u64>) {
        for ((record, _), lsn) in targets.iter().zip(lsns) {
            if self.causes.len() == CAUSES_KEPT {
                self.causes.pop_front();
            }
            self.causes.push_back((record.delta.lsn, lsn));
        }
    }
}

/// Replaces the whole page, by a loan where it takes one. Returns the LSN.
fn write_whole(by: &Bus, page: &PageRef, bytes: &[u8], cause: u64) -> Result<u64, Error> {
    let participant = by.participant();
    if page.versions() > 1 {
        return Ok(participant.patch_caused(page, 0, bytes, cause)?);
    }
    let mut loan = participant.loan(page)?;
    if loan.len() != bytes.len() {
        return Err(PageError::WrongSize {
            page: page.id(),
            wanted: bytes.len(),
            size: loan.len(),
        }
        .into());
    }
    loan.copy_from_slice(bytes);
    Ok(loan.publish(cause)?.last)
}

/// A sparse delta as a record has it: the table, and the bytes of its ranges.
fn sparse(delta: &OwnedDelta) -> (Vec<(u32, u32)>, Vec<u8>) {
    let table = delta.ranges.iter().map(|(o, b)| (*o, b.len() as u32));
    let bytes = delta.ranges.iter().flat_map(|(_, b)| b).copied();
    (table.collect(), bytes.collect())
}

/// Commits a group. Returns the LSN of each of its deltas; fewer, where they are not known.
fn commit(by: &Bus, targets: &[(&Record, Option<PageRef>)], cause: u64) -> Result<Vec<u64>, Error> {
    if let [(record, Some(page))] = targets {
        let delta = &record.delta;
        let lsn = match (delta.kind, &delta.ranges[..]) {
            (Kind::Swap, [(_, bytes)]) => write_whole(by, page, bytes, cause)?,
            // Through a block, if the ring of the target is too small for a record of it.
            (Kind::Patch, [(offset, bytes)]) => {
                let participant = by.participant();
                participant.patch_caused(page, *offset as usize, bytes, cause)?
            }
            _ => return together(by, targets, cause),
        };
        return Ok(vec![lsn]);
    }
    match together(by, targets, cause) {
        // A batch may come in pieces, if the ring of the target is too small for it; a transaction may not.
        Err(Error::Page(PageError::DeltaTooLarge { .. }))
            if targets.len() > 1 && targets.iter().all(|(r, _)| !r.delta.transaction) =>
        {
            let (a, b) = targets.split_at(targets.len() / 2);
            let mut lsns = commit(by, a, cause)?;
            lsns.extend(commit(by, b, cause)?);
            Ok(lsns)
        }
        other => other,
    }
}

fn together(
    by: &Bus,
    targets: &[(&Record, Option<PageRef>)],
    cause: u64,
) -> Result<Vec<u64>, Error> {
    let sparse: Vec<_> = targets.iter().map(|(r, _)| sparse(&r.delta)).collect();
    let mut changes = Vec::with_capacity(targets.len());
    for ((record, page), (table, bytes)) in targets.iter().zip(&sparse) {
        let delta = &record.delta;
        changes.push(match (page, &delta.ranges[..]) {
            (None, _) => Change::Mark { bytes: &delta.mark },
            (Some(page), [(offset, bytes)]) => Change::Patch {
                page,
                offset: *offset,
                bytes,
            },
            (Some(page), _) => Change::Ranges {
                page,
                ranges: table,
                bytes,
            },
        });
    }
    let transaction = targets.iter().any(|(r, _)| r.delta.transaction);
    let receipt = by
        .participant()
        .commit(&changes, &Options { cause, transaction })?;
    let (Some((first, _)), Some((last, _))) = (targets.first(), targets.last()) else {
        return Ok(Vec::new());
    };
    // Laid out as it was recorded, so each delta is where it was in the group.
    let (first, last) = (first.delta.lsn, last.delta.lsn);
    if last - first == receipt.last - receipt.first {
        let place = |r: &Record| receipt.first + (r.delta.lsn - first);
        return Ok(targets.iter().map(|(r, _)| place(r)).collect());
    }
    Ok(vec![receipt.first])
}
