//! Names, schemas, metadata: cold records in blocks of their own, found through a flat hash table in `.pages`.
//!
//! A cold block is immutable once a table entry leads to it; a change makes a new one. Every change of the table is one
//! store of one word, made under the name lock, as the effect of a record in the ring: so it is atomic for readers, and
//! whoever recovers the dead does it again. Readers take no lock: they copy the cold block, and believe it if the entry
//! is still the same afterwards.
//!
//! Two entries lead to each cold block: one by the hash of the name (if there is one), one by the hash of the page id.

use std::time::Instant;

use crate::PageId;
use crate::error::{BusFull, Corrupt, PageError};
use crate::layout::page::{
    BlockRef, BlockState, COLD_HEADER, ColdHeader, DirectoryEntry, GENERATION_MAX, NameEntry,
    VERSIONS_MAX, block_payload,
};
use crate::layout::ring::{Kind, RecordFlags};
use crate::layout::{NAME_BYTES_MAX, PAGE_BYTES_MAX, SOURCE_BYTES_MAX};
use crate::page::{PageRef, cell_current, owner};
use crate::participant::{Holder, Locked, Participant, read_name, write_name};
use crate::recovery;
use crate::schema::fnv1a64;
use crate::segment::{Core, Pages};
use crate::sync::{AtomicU64, Ordering, fence, prefetch_read};
use crate::sys::clock;
use crate::testing::step;

/// Longest schema plus metadata, in bytes.
pub const COLD_BYTES_MAX: usize = 64 << 10;

/// What is known about a page beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cold {
    /// Name; empty: none.
    pub name: String,
    /// Hash of the schema; 0: none.
    pub schema_hash: u64,
    /// Encoded schema (see [`crate::schema::Schema`]); empty: none.
    pub schema: Vec<u8>,
    /// Metadata key-values.
    pub meta: Vec<(String, String)>,
}

/// A page to be made.
#[derive(Clone, Debug, Default)]
pub struct NewPage {
    /// Bytes, 1 to 1 GiB.
    pub size: u64,
    /// Version slots: 0 or 1 for an ordinary page, 4 to 64 for a cell.
    pub versions: u32,
    /// Name, schema and metadata, if any.
    pub cold: Cold,
}

/// A page as found in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageInfo {
    /// The id.
    pub id: PageId,
    /// Bytes.
    pub size: u32,
    /// Version slots, 1 for an ordinary page.
    pub versions: u32,
    /// Whether the content is a loaned block.
    pub loaned: bool,
    /// Epoch as last seen.
    pub epoch: u64,
    /// LSN of the last delta as last seen.
    pub lsn: u64,
    /// Name, schema, metadata.
    pub cold: Cold,
}

/// A source of deltas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Its number, as carried by deltas.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// CLOCK_REALTIME of its first use, ns.
    pub since_ns: u64,
}

pub(crate) fn hash_name(name: &str) -> u64 {
    mix(fnv1a64(name.as_bytes()))
}

pub(crate) fn hash_id(id: PageId) -> u64 {
    mix(id.to_u64() ^ 0x9e37_79b9_7f4a_7c15)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): the low bits choose the entry, the high ones the tag.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Cold {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.name.is_empty() && self.schema.is_empty() && self.meta.is_empty()
    }

    fn check(&self) -> Result<(), PageError> {
        check_page_name(&self.name)?;
        let bytes = self.schema.len()
            + self
                .meta
                .iter()
                .map(|(k, v)| k.len() + v.len() + 8)
                .sum::<usize>();
        if bytes > COLD_BYTES_MAX {
            return Err(PageError::TooLong {
                what: "schema and metadata",
                bytes,
                max: COLD_BYTES_MAX,
            });
        }
        Ok(())
    }

    /// The payload of a cold block.
    fn encode(&self, id: PageId) -> Vec<u8> {
        let mut meta = Vec::new();
        for (key, value) in &self.meta {
            meta.extend((key.len() as u32).to_le_bytes());
            meta.extend((value.len() as u32).to_le_bytes());
            meta.extend(key.as_bytes());
            meta.extend(value.as_bytes());
        }
        let mut out =
            Vec::with_capacity(COLD_HEADER + self.name.len() + self.schema.len() + meta.len());
        out.extend(id.index.to_le_bytes());
        out.extend(id.generation.to_le_bytes());
        out.extend(self.schema_hash.to_le_bytes());
        for len in [self.name.len(), self.schema.len(), meta.len(), 0] {
            out.extend((len as u32).to_le_bytes());
        }
        out.extend(self.name.as_bytes());
        out.extend(&self.schema);
        out.extend(meta);
        out
    }

    /// The reverse, from bytes that may be anything.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(PageId, Cold)> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let id = PageId {
            index: u32_at(0)?,
            generation: u32_at(4)?,
        };
        let schema_hash = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
        let (name_len, schema_len, meta_len) = (
            u32_at(16)? as usize,
            u32_at(20)? as usize,
            u32_at(24)? as usize,
        );
        let mut rest = bytes.get(COLD_HEADER..)?;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let name = String::from_utf8(take(name_len)?.to_vec()).ok()?;
        let schema = take(schema_len)?.to_vec();
        let mut encoded = take(meta_len)?;
        let mut meta = Vec::new();
        while !encoded.is_empty() {
            let (head, tail) = encoded.split_at_checked(8)?;
            let key_len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
            let value_len = u32::from_le_bytes(head[4..].try_into().ok()?) as usize;
            let (key, tail) = tail.split_at_checked(key_len)?;
            let (value, tail) = tail.split_at_checked(value_len)?;
            meta.push((
                String::from_utf8(key.to_vec()).ok()?,
                String::from_utf8(value.to_vec()).ok()?,
            ));
            encoded = tail;
        }
        Some((
            id,
            Cold {
                name,
                schema_hash,
                schema,
                meta,
            },
        ))
    }
}

/// Checks a page name: at most 255 bytes of UTF-8 without control characters; empty means no name.
pub fn check_page_name(name: &str) -> Result<(), PageError> {
    let bad = |why| {
        Err(PageError::BadName {
            name: name.to_owned(),
            why,
        })
    };
    if name.len() > NAME_BYTES_MAX {
        return bad("it is longer than 255 bytes");
    }
    if name.chars().any(char::is_control) {
        return bad("it has control characters");
    }
    Ok(())
}

/// Entries from the start of a probe to its end.
fn probe(table: &[AtomicU64], hash: u64) -> impl Iterator<Item = &AtomicU64> {
    let mask = table.len() - 1;
    (0..table.len()).map(move |i| &table[(hash as usize).wrapping_add(i) & mask])
}

/// Whether `entries` new entries find room.
fn has_room(table: &[AtomicU64], hash: u64, entries: usize) -> bool {
    probe(table, hash)
        .filter(|e| !NameEntry(e.load(Ordering::Relaxed)).is_live())
        .nth(entries - 1)
        .is_some()
}

/// Stores an entry; nothing if it is there already. The caller holds the name lock, or recovers one who does.
pub(crate) fn insert(table: &[AtomicU64], hash: u64, entry: NameEntry) -> bool {
    let mut free = None;
    for e in probe(table, hash) {
        // Relaxed: only holders of the name lock write.
        let now = NameEntry(e.load(Ordering::Relaxed));
        if now == entry {
            return false;
        }
        if !now.is_live() && free.is_none() {
            free = Some(e);
        }
        if now == NameEntry::EMPTY {
            break;
        }
    }
    if let Some(e) = free {
        // Release: the cold block is whole for whoever sees the entry.
        e.store(entry.0, Ordering::Release);
    }
    true
}

/// Removes an entry, if it is there.
pub(crate) fn remove(table: &[AtomicU64], hash: u64, entry: NameEntry) {
    let mask = table.len() - 1;
    for i in 0..table.len() {
        let at = (hash as usize).wrapping_add(i) & mask;
        let now = NameEntry(table[at].load(Ordering::Relaxed));
        if now == NameEntry::EMPTY {
            return;
        }
        if now == entry {
            table[at].store(NameEntry::TOMBSTONE.0, Ordering::Release);
            step("names.removed");
            // Removed entries ahead of an empty one are of no use to any probe.
            let mut at = at;
            while NameEntry(table[(at + 1) & mask].load(Ordering::Relaxed)) == NameEntry::EMPTY
                && NameEntry(table[at].load(Ordering::Relaxed)) == NameEntry::TOMBSTONE
            {
                table[at].store(NameEntry::EMPTY.0, Ordering::Release);
                at = at.wrapping_sub(1) & mask;
            }
            return;
        }
    }
}

/// Links a prepared cold block to its page. True if it was not linked.
pub(crate) fn attach_cold(
    core: &Core,
    index: u32,
    generation: u32,
    at: BlockRef,
) -> Result<bool, Corrupt> {
    let bad = Corrupt {
        what: "cold record",
        offset: at.offset(),
    };
    let (id, cold) = core.pages.read_cold(at)?.ok_or(bad)?;
    if id != (PageId { index, generation }) {
        return Err(bad);
    }
    let block = core.pages.block(at, 0)?;
    block
        .header
        .state
        .store(BlockState::Cold(index).word(), Ordering::Release);
    step("names.cold");
    let table = core.pages.names();
    let by_id = hash_id(id);
    let fresh = insert(table, by_id, NameEntry::by_id(by_id, at));
    step("names.by_id");
    if !cold.name.is_empty() {
        let by_name = hash_name(&cold.name);
        insert(table, by_name, NameEntry::by_name(by_name, at));
        step("names.by_name");
    }
    Ok(fresh)
}

/// Unlinks a cold block and frees it. Does nothing the second time.
pub(crate) fn detach_cold(
    core: &Core,
    index: u32,
    generation: u32,
    at: BlockRef,
) -> Result<(), Corrupt> {
    let block = core.pages.block(at, 0)?;
    // Acquire: freed by somebody who did all of this.
    if BlockState::from_word(block.header.state.load(Ordering::Acquire)) != BlockState::Cold(index)
    {
        return Ok(());
    }
    let bad = Corrupt {
        what: "cold record",
        offset: at.offset(),
    };
    let (id, cold) = core.pages.read_cold(at)?.ok_or(bad)?;
    if id != (PageId { index, generation }) {
        return Ok(());
    }
    let table = core.pages.names();
    if !cold.name.is_empty() {
        let by_name = hash_name(&cold.name);
        remove(table, by_name, NameEntry::by_name(by_name, at));
    }
    let by_id = hash_id(id);
    remove(table, by_id, NameEntry::by_id(by_id, at));
    step("names.unlinked");
    core.pages.free_block(at, BlockState::Cold(index))?;
    Ok(())
}

impl Pages {
    /// Copies a cold block. `None`: it is not well-formed (which a stale reader may meet; it then looks again).
    fn read_cold(&self, at: BlockRef) -> Result<Option<(PageId, Cold)>, Corrupt> {
        let block = self.block(at, COLD_HEADER as u64)?;
        // SAFETY: COLD_HEADER bytes of payload are inside the mapping, 32-byte aligned; all fields are atomics.
        let header = unsafe { &*block.payload.cast::<ColdHeader>() };
        let len = [&header.name_len, &header.schema_len, &header.meta_len]
            .iter()
            .map(|l| u64::from(l.load(Ordering::Relaxed)))
            .sum::<u64>()
            + COLD_HEADER as u64;
        if len > block.room || len > (COLD_BYTES_MAX + NAME_BYTES_MAX + COLD_HEADER) as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0u8; len as usize];
        // SAFETY: `len` ≤ the room of the block; the buffer has `len` bytes.
        if unsafe { self.copy_out(bytes.as_mut_ptr(), block.payload, bytes.len()) }.is_err() {
            return Ok(None);
        }
        Ok(Cold::decode(&bytes))
    }

    /// Copies the cold block that the entry `e`, last seen as `now`, leads to. `None`: it moved meanwhile.
    #[allow(clippy::type_complexity)]
    fn read_entry(
        &self,
        e: &AtomicU64,
        now: NameEntry,
    ) -> Result<Option<Option<(PageId, Cold)>>, Corrupt> {
        let block = self.block(now.cold(), COLD_HEADER as u64)?;
        // A block may be freed, filled again and linked again under the very same word; then its lsn is another. Acquire, the
        // state first: it is stored behind the lsn.
        let stamp = || {
            let state = block.header.state.load(Ordering::Acquire);
            (state, block.header.lsn.load(Ordering::Relaxed))
        };
        let before = stamp();
        let cold = self.read_cold(now.cold())?;
        // Acquire fence: the copy is done before the second looks.
        fence(Ordering::Acquire);
        let same = stamp() == before && e.load(Ordering::Relaxed) == now.0;
        Ok(same.then_some(cold))
    }

    fn look_up<T>(
        &self,
        hash: u64,
        key: NameEntry,
        mut accept: impl FnMut(PageId, Cold, BlockRef) -> Option<T>,
    ) -> Result<Option<T>, PageError> {
        // An entry that is replaced may move to a place that the probe has passed. So what is missing was looked for twice,
        // and the words of the probe were the same.
        let mut missed = None;
        for _ in 0..1000 {
            let mut moved = false;
            let mut words = 0u64;
            for e in probe(self.names(), hash) {
                // Acquire: pairs with the Release store in `insert`.
                let now = NameEntry(e.load(Ordering::Acquire));
                words = mix(words.rotate_left(1) ^ now.0);
                if now == NameEntry::EMPTY {
                    break;
                }
                if !now.is_live() || !now.same_key(key) {
                    continue;
                }
                let Some(cold) = self.read_entry(e, now)? else {
                    moved = true;
                    continue;
                };
                let Some((id, cold)) = cold else {
                    return Err(Corrupt {
                        what: "cold record",
                        offset: now.cold().offset(),
                    }
                    .into());
                };
                if let Some(found) = accept(id, cold, now.cold()) {
                    return Ok(Some(found));
                }
            }
            if !moved && missed == Some(words) {
                return Ok(None);
            }
            missed = (!moved).then_some(words);
        }
        Ok(None)
    }

    /// Finds a page by name.
    pub fn find(&self, name: &str) -> Result<PageId, PageError> {
        check_page_name(name)?;
        let hash = hash_name(name);
        let key = NameEntry::by_name(hash, BlockRef::NONE);
        self.look_up(hash, key, |id, cold, _| (cold.name == name).then_some(id))?
            .ok_or_else(|| PageError::NoSuchName(name.to_owned()))
    }

    /// Asks for the line at which [`Self::find_cold`] will look first.
    fn prefetch_cold(&self, id: PageId) {
        if let Some(entry) = probe(self.names(), hash_id(id)).next() {
            prefetch_read(entry);
        }
    }

    pub(crate) fn find_cold(&self, id: PageId) -> Result<Option<(Cold, BlockRef)>, PageError> {
        let hash = hash_id(id);
        self.look_up(
            hash,
            NameEntry::by_id(hash, BlockRef::NONE),
            |found, cold, at| (found == id).then_some((cold, at)),
        )
    }

    /// Name, schema and metadata of a page.
    pub fn cold(&self, id: PageId) -> Result<Cold, PageError> {
        Ok(self
            .find_cold(id)?
            .map(|(cold, _)| cold)
            .unwrap_or_default())
    }

    /// All named pages whose name starts with `prefix`, sorted by name.
    pub fn list_names(&self, prefix: &str) -> Result<Vec<(String, PageId)>, PageError> {
        let mut list = Vec::new();
        for e in self.names() {
            for _ in 0..1000 {
                let now = NameEntry(e.load(Ordering::Acquire));
                if !now.is_live() || now.is_by_id() {
                    break;
                }
                let Some(cold) = self.read_entry(e, now)? else {
                    continue;
                };
                if let Some((id, cold)) = cold
                    && cold.name.starts_with(prefix)
                {
                    list.push((cold.name, id));
                }
                break;
            }
        }
        list.sort_unstable();
        // A rename shows the page under both names for a moment, under one name it is never twice.
        list.dedup();
        Ok(list)
    }

    /// All that is known about a page.
    pub fn info(&self, id: PageId) -> Result<PageInfo, PageError> {
        let page = self.resolve(id)?;
        let version = self.version(&page).unwrap_or_default();
        Ok(PageInfo {
            id,
            size: page.size() as u32,
            versions: page.versions(),
            loaned: page.is_loaned(),
            epoch: version.epoch,
            lsn: version.lsn,
            cold: self.cold(id)?,
        })
    }

    /// Ids of all pages, named or not, in index order.
    pub fn list_pages(&self) -> Vec<PageId> {
        self.directory()
            .iter()
            .enumerate()
            .filter_map(|(index, e)| {
                let e = DirectoryEntry(e.load(Ordering::Acquire));
                (!e.block().is_none()).then_some(PageId {
                    index: index as u32,
                    generation: e.generation(),
                })
            })
            .collect()
    }

    /// All sources.
    pub fn list_sources(&self) -> Vec<SourceInfo> {
        self.sources()
            .iter()
            .enumerate()
            .filter(|(_, s)| s.len.load(Ordering::Acquire) != 0)
            .map(|(id, s)| SourceInfo {
                id: id as u16,
                name: read_name(&s.name),
                since_ns: s.since_ns.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Name of a source.
    pub fn source_name(&self, id: u16) -> Option<String> {
        let source = self.sources().get(id as usize)?;
        (source.len.load(Ordering::Acquire) != 0).then(|| read_name(&source.name))
    }
}

/// Number of a source, registering it under the name lock.
pub(crate) fn source_id(by: &Participant, name: &str) -> Result<u16, PageError> {
    let mut end = name.len().min(SOURCE_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name = if end == 0 { "unnamed" } else { &name[..end] };
    let find = || {
        by.core
            .pages
            .list_sources()
            .into_iter()
            .find(|s| s.name == name)
            .map(|s| s.id)
    };
    if let Some(id) = find() {
        return Ok(id);
    }
    let lock = &by.core.ctl.header().names_lock;
    loop {
        by.lock_word(lock, 30, Locked::Names)?;
        let result = (|| -> Result<Option<(u16, Option<u64>)>, PageError> {
            if let Some(id) = find() {
                return Ok(Some((id, None)));
            }
            let sources = by.core.pages.sources();
            let Some(id) = sources
                .iter()
                .position(|s| s.len.load(Ordering::Acquire) == 0)
            else {
                return Err(BusFull::Sources {
                    max: sources.len() as u32,
                }
                .into());
            };
            let body = [&(id as u32).to_le_bytes()[..], &[0; 4], name.as_bytes()].concat();
            let none = PageId {
                index: 0,
                generation: 0,
            };
            let lsn = by.commit_record(none, Kind::Source, 0, &body, |_| {
                let s = &sources[id];
                write_name(&s.name, name);
                s.since_ns.store(clock::realtime_ns(), Ordering::Relaxed);
                step("source.described");
                // Release: the name is whole. Ahead of READY, so that the record never names an unknown source; a death
                // in between leaves a source without a record, which harms nobody.
                s.len.store(name.len() as u32, Ordering::Release);
            })?;
            Ok(lsn.map(|lsn| (id as u16, Some(lsn))))
        })();
        by.unlock_unless_stranded(lock, 30);
        match result? {
            Some((id, lsn)) => {
                if lsn.is_some() {
                    by.finish(0, 0);
                    by.ring_bell(u32::MAX);
                }
                return Ok(id);
            }
            None => by.wait_for_room(crate::layout::ring::slots_for(8 + name.len()))?,
        }
    }
}

impl Participant {
    /// Makes a page, zeroed, with its name, schema and metadata if any.
    ///
    /// # Errors
    /// [`PageError::BadSize`], [`PageError::BadName`], [`PageError::NameTaken`], [`PageError::Full`]. Nothing is left
    /// behind. A death in the middle leaves the page either made or not.
    pub fn create_page(&self, new: &NewPage) -> Result<PageId, PageError> {
        self.check_fork()?;
        if new.size == 0 || new.size > PAGE_BYTES_MAX {
            return Err(PageError::BadSize { bytes: new.size });
        }
        let versions = new.versions.max(1);
        if versions > VERSIONS_MAX || versions == 2 || versions == 3 {
            return Err(PageError::TooManyHeld {
                what: "version slots (1, or 4 to 64)",
                max: VERSIONS_MAX as usize,
            });
        }
        new.cold.check()?;
        let payload = block_payload(new.size as u32, versions);
        if payload > PAGE_BYTES_MAX {
            return Err(PageError::BadSize { bytes: payload });
        }
        let names = &self.core.ctl.header().names_lock;
        let named = !new.cold.is_empty();
        loop {
            if named {
                self.lock_word(names, 30, Locked::Names)?;
            }
            let attempt = self.create_locked(new, versions, payload);
            if named {
                self.unlock_unless_stranded(names, 30);
            }
            match attempt? {
                Ok(id) => {
                    self.finish(1, 0);
                    self.ring_bell(crate::doorbell::bit(id.index));
                    return Ok(id);
                }
                Err(slots) => self.wait_for_room(slots)?,
            }
        }
    }

    fn create_locked(
        &self,
        new: &NewPage,
        versions: u32,
        payload: u64,
    ) -> Result<Result<PageId, u64>, PageError> {
        let pages = &self.core.pages;
        if !new.cold.name.is_empty() && pages.find(&new.cold.name).is_ok() {
            return Err(PageError::NameTaken(new.cold.name.clone()));
        }
        let (id, word) = self.lock_free_index()?;
        let result = self.create_in(id, new, versions, payload);
        self.unlock_unless_stranded(word, id.index);
        if !matches!(result, Ok(Ok(_))) {
            self.free_index(id.index);
        }
        result
    }

    /// Locks the owner word of a page number that is free.
    fn lock_free_index(&self) -> Result<(PageId, &crate::sync::AtomicU32), PageError> {
        // A look at the clock costs as much as all the rest.
        let mut begin = None;
        loop {
            let index = self.next_index()?;
            let word = self.owner_word(index);
            if let Err(found) = owner::try_acquire(word, self.me)
                && !(found == owner::REQUEST && owner::try_acquire_requested(word, self.me))
            {
                // In somebody's hands right now: a hint gone stale, or the last free numbers are with creators that are
                // not done. Look at it again at the next sweep.
                self.core
                    .ctl
                    .header()
                    .sweep_indices
                    .store(1, Ordering::Release);
                let holder = match self.core.holder(found) {
                    Holder::Nobody => {
                        // Of a life that ended meanwhile, or garbage: it guards nothing.
                        owner::clear_if(word, owner::holder(found));
                        self.index
                    }
                    Holder::Alive(holder) => holder,
                    Holder::Dead(holder) => {
                        recovery::participant(&self.core, &self.fd, holder)?;
                        holder
                    }
                };
                // Bounded like any other wait (I4).
                let waited = begin.get_or_insert_with(Instant::now).elapsed();
                if waited >= self.config.timeout {
                    return Err(PageError::Timeout {
                        what: Locked::Page(index).to_string(),
                        holder: self.core.describe(holder),
                        waited,
                    });
                }
                continue;
            }
            let entry = self
                .core
                .pages
                .load_entry(index)
                .unwrap_or(DirectoryEntry(0));
            if entry.block().is_none() && entry.generation() < GENERATION_MAX {
                step("create.index");
                return Ok((
                    PageId {
                        index,
                        generation: entry.generation() + 1,
                    },
                    word,
                ));
            }
            self.unlock_word(word, index);
        }
    }

    fn create_in(
        &self,
        id: PageId,
        new: &NewPage,
        versions: u32,
        payload: u64,
    ) -> Result<Result<PageId, u64>, PageError> {
        let held = self.allocate(payload, None)?;
        let cold = if new.cold.is_empty() {
            None
        } else {
            Some(self.prepare_cold(id, &new.cold))
        };
        let cold = match cold.transpose() {
            Ok(cold) => cold,
            Err(e) => {
                self.give_back(&held)?;
                return Err(e);
            }
        };
        let mut plain = [0u8; 24];
        let mut whole = Vec::new();
        let body = match &cold {
            None => &mut plain[..],
            Some((_, bytes)) => {
                whole.resize(24, 0);
                whole.extend_from_slice(bytes);
                &mut whole[..]
            }
        };
        body[..8].copy_from_slice(&held.block.at.bits().to_le_bytes());
        body[8..16].copy_from_slice(
            &cold
                .as_ref()
                .map_or(0, |(h, _)| h.block.at.bits())
                .to_le_bytes(),
        );
        body[16..20].copy_from_slice(&(new.size as u32).to_le_bytes());
        body[20..24].copy_from_slice(&(held.class | versions << 8).to_le_bytes());
        let body = &*body;
        let block = held.block;
        let cold_header = cold.as_ref().map(|(held, _)| held.block.header);
        let lsn = self.commit_record(id, Kind::Create, RecordFlags::BLOCK, body, |lsn| {
            if let Some(header) = cold_header {
                // Relaxed: behind it come READY, and the state of the block (see `read_entry`).
                header.lsn.store(lsn, Ordering::Relaxed);
            }
            if versions > 1 {
                let (_, _, version, _) = cell_current(&block, new.size as u32, versions, 0);
                version.lsn.store(lsn, Ordering::Relaxed);
            }
        });
        let done = matches!(lsn, Ok(Some(_)));
        for held in [Some(&held), cold.as_ref().map(|(h, _)| h)]
            .into_iter()
            .flatten()
        {
            if done {
                self.published(held)
            } else {
                self.give_back(held)?
            }
        }
        Ok(match lsn? {
            Some(_) => Ok(id),
            None => Err(crate::layout::ring::slots_for(body.len())),
        })
    }

    pub(crate) fn prepare_cold(
        &self,
        id: PageId,
        cold: &Cold,
    ) -> Result<(crate::arena::Held<'_>, Vec<u8>), PageError> {
        let table = self.core.pages.names();
        // One entry by id, one by name.
        if !has_room(table, hash_id(id), 1 + usize::from(!cold.name.is_empty())) {
            return Err(BusFull::Names {
                max: table.len() as u32 / 4,
            }
            .into());
        }
        let bytes = cold.encode(id);
        let held = self.allocate(bytes.len() as u64, None)?;
        // SAFETY: the block was allocated for these many bytes and is in our hand.
        unsafe { crate::copy::store(held.block.payload, bytes.as_ptr(), bytes.len()) };
        held.block
            .header
            .size
            .store(bytes.len() as u32, Ordering::Relaxed);
        step("names.prepared");
        Ok((held, bytes))
    }

    /// Removes a page and its name. Readers that are looking at it get [`PageError::PageGone`].
    pub fn destroy_page(&self, id: PageId) -> Result<(), PageError> {
        self.check_fork()?;
        let names = &self.core.ctl.header().names_lock;
        let word = match self.core.pages.entry(id.index) {
            Some(_) => self.owner_word(id.index),
            None => return Err(PageError::PageGone(id)),
        };
        // The line that says whether it has a name, schema or metadata comes over while the page is being locked.
        self.core.pages.prefetch_cold(id);
        let mut named = false;
        loop {
            if named {
                self.lock_word(names, 30, Locked::Names)?;
            }
            if self.leased(id.index).is_some() {
                self.yield_leases();
            }
            let locked = self.lock_word(word, id.index, Locked::Page(id.index));
            let attempt = locked.and_then(|()| {
                let attempt = self.destroy_locked(id, named);
                self.unlock_unless_stranded(word, id.index);
                attempt
            });
            if named {
                self.unlock_unless_stranded(names, 30);
            }
            match attempt? {
                Destroyed::Done => {
                    self.forget_lease(id);
                    self.finish(1, 0);
                    step("destroy.index");
                    self.free_index(id.index);
                    self.ring_bell(crate::doorbell::bit(id.index));
                    return Ok(());
                }
                Destroyed::Named => named = true,
                Destroyed::Full => self.wait_for_room(1)?,
            }
        }
    }

    fn destroy_locked(&self, id: PageId, named: bool) -> Result<Destroyed, PageError> {
        let page = self.core.pages.resolve(id)?;
        let cold = self.core.pages.find_cold(id)?;
        if cold.is_some() && !named {
            return Ok(Destroyed::Named);
        }
        // Ahead of the commit: afterwards the block may be somebody else's.
        let loaned = page.is_loaned();
        let mut body = [0u8; 16];
        body[..8].copy_from_slice(&page.entry().block().bits().to_le_bytes());
        body[8..].copy_from_slice(&cold.as_ref().map_or(0, |(_, at)| at.bits()).to_le_bytes());
        let done = self
            .commit_record(id, Kind::Destroy, RecordFlags::BLOCK, &body, |_| {})?
            .is_some();
        if !done {
            return Ok(Destroyed::Full);
        }
        let at = page.entry().block();
        if !loaned {
            self.list_free(at);
        } else if let Some(class) = self.core.class_of(at) {
            self.retire(at, class, id);
        }
        Ok(Destroyed::Done)
    }

    /// Gives a page another name, schema or metadata: `change` gets what is there and returns what shall be.
    pub fn describe_page(
        &self,
        id: PageId,
        change: impl Fn(Cold) -> Cold,
    ) -> Result<(), PageError> {
        self.check_fork()?;
        if self.core.pages.entry(id.index).is_none() {
            return Err(PageError::PageGone(id));
        }
        let names = &self.core.ctl.header().names_lock;
        loop {
            self.lock_word(names, 30, Locked::Names)?;
            // Given back also if `change` panics.
            let locked_names = NamesLock(self);
            let attempt = self.lock_pages(&[id.index]).and_then(|locked| {
                let attempt = self.describe_locked(id, &change);
                drop(locked);
                attempt
            });
            drop(locked_names);
            match attempt? {
                None => return Ok(()),
                Some(0) => {
                    self.finish(1, 0);
                    self.ring_bell(crate::doorbell::bit(id.index));
                    return Ok(());
                }
                Some(slots) => self.wait_for_room(slots)?,
            }
        }
    }

    /// `None`: nothing to change; `Some(0)`: done; `Some(n)`: the ring has no room for n slots.
    fn describe_locked(
        &self,
        id: PageId,
        change: impl Fn(Cold) -> Cold,
    ) -> Result<Option<u64>, PageError> {
        self.core.pages.resolve(id)?;
        let old = self.core.pages.find_cold(id)?;
        let before = old.as_ref().map(|(c, _)| c.clone()).unwrap_or_default();
        let after = change(before.clone());
        if after == before {
            return Ok(None);
        }
        after.check()?;
        if !after.name.is_empty()
            && after.name != before.name
            && self.core.pages.find(&after.name).is_ok()
        {
            return Err(PageError::NameTaken(after.name));
        }
        let cold = if after.is_empty() {
            None
        } else {
            Some(self.prepare_cold(id, &after)?)
        };
        let mut body = [0u8; 16].to_vec();
        body[..8].copy_from_slice(
            &cold
                .as_ref()
                .map_or(0, |(h, _)| h.block.at.bits())
                .to_le_bytes(),
        );
        body[8..16].copy_from_slice(&old.as_ref().map_or(0, |(_, at)| at.bits()).to_le_bytes());
        if let Some((_, bytes)) = &cold {
            body.extend_from_slice(bytes);
        }
        let lsn = self.commit_record(id, Kind::Describe, RecordFlags::BLOCK, &body, |lsn| {
            if let Some((held, _)) = &cold {
                // Relaxed: behind it come READY, and the state of the block (see `read_entry`).
                held.block.header.lsn.store(lsn, Ordering::Relaxed);
            }
        });
        if let Some((held, _)) = &cold {
            if matches!(lsn, Ok(Some(_))) {
                self.published(held)
            } else {
                self.give_back(held)?
            }
        }
        Ok(Some(if lsn?.is_some() {
            0
        } else {
            crate::layout::ring::slots_for(body.len())
        }))
    }

    /// Looks a page up by name.
    pub fn open_page(&self, name: &str) -> Result<PageRef, PageError> {
        self.core.pages.resolve(self.core.pages.find(name)?)
    }
}

/// The name lock, given back when dropped.
struct NamesLock<'p>(&'p Participant);

impl Drop for NamesLock<'_> {
    fn drop(&mut self) {
        let names = &self.0.core.ctl.header().names_lock;
        self.0.unlock_unless_stranded(names, 30);
    }
}

enum Destroyed {
    Done,
    Named,
    Full,
}
