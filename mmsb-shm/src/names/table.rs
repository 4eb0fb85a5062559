//! The table of names: how entries are found, linked and unlinked, and how readers follow them.

use super::{COLD_BYTES_MAX, Cold, check_page_name};
use crate::PageId;
use crate::error::{Corrupt, PageError};
use crate::layout::NAME_BYTES_MAX;
use crate::layout::page::{BlockRef, BlockState, COLD_HEADER, ColdHeader, NameEntry};
use crate::schema::fnv1a64;
use crate::segment::{Core, Pages};
use crate::sync::{AtomicU64, Ordering, fence, prefetch_read};
use crate::testing::step;

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

/// Entries from the start of a probe to its end.
fn probe(table: &[AtomicU64], hash: u64) -> impl Iterator<Item = &AtomicU64> {
    let mask = table.len() - 1;
    (0..table.len()).map(move |i| &table[(hash as usize).wrapping_add(i) & mask])
}

/// Whether `entries` new entries find room.
pub(super) fn has_room(table: &[AtomicU64], hash: u64, entries: usize) -> bool {
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
    pub(super) fn prefetch_cold(&self, id: PageId) {
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
}
