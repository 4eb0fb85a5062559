//! The state of a bus at one LSN, in memory that no participant maps: what replaying a log gives.
//!
//! A [`State`] holds every page with its bytes, epoch, LSN and description, and the names of the sources. It is equal,
//! byte for byte, epoch for epoch and LSN for LSN, to what the live bus held when it had applied the same records, and
//! its [hash](State::hash) is the same on every machine.
//!
//! # Replaying
//! [`State::apply`] takes one record, [`replay()`] a whole log, in parallel. A record is applied once: what is ahead of
//! [`State::lsn`] is in already, and a page skips the records that its image held when it was loaded from a checkpoint.
//! Such a state is [fuzzy](State::is_consistent) until it is past everything that the images held.
//!
//! Nothing in a record is trusted: what no writer makes is a [`StateError`] with its LSN, and the state is then the one
//! ahead of that record (of that block, with several threads), to be dropped.
//!
//! # Memory
//! The bytes of pages are where a [`PageMemory`] puts them: on the [heap](Heap), or, for a bus that is being rebuilt,
//! in its new segments.
//!
//! ```
//! use mmsb::state::{Heap, Meta, State};
//! use mmsb_shm::{Kind, PageId, wire};
//!
//! let page = PageId { index: 0, generation: 1 };
//! let mut size_and_shape = 16u32.to_le_bytes().to_vec();
//! size_and_shape.extend(0u32.to_le_bytes());
//! let mut body = wire::encode(&[wire::Spec::new(page, Kind::Create, 0, size_and_shape)], 64, 64);
//! body.extend(wire::encode(&[wire::Spec::new(page, Kind::Patch, 4, *b"hello")], 65, 64));
//!
//! let mut state = State::new(Meta::default(), Heap::default());
//! let mut failed = Ok(());
//! wire::walk(&mut body, 64, 64, wire_clock(), &mut |item| {
//!     if failed.is_ok() {
//!         failed = state.apply(&item);
//!     }
//! })?;
//! failed?;
//! let page = state.page(page).unwrap();
//! assert_eq!((page.epoch(), page.lsn(), &page.bytes()[4..9]), (1, 65, &b"hello"[..]));
//! # fn wire_clock() -> mmsb_shm::Clock { mmsb_shm::Clock::new(0, 0) }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod apply;
mod memory;
pub mod replay;
mod table;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mmsb_shm::{Cold, Corrupt, PageId};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::tlog::LogError;
use apply::Pending;
use table::Shard;

pub use memory::{Heap, MemoryError, PageMemory};
pub use replay::{BlockSource, Blocks, ReplayOptions, Replayed, Until, replay};

/// Why a record could not be applied, or a log not be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Bytes that no writer makes.
    #[error("corrupt record at LSN {lsn}: {what}")]
    Corrupt {
        /// Its LSN.
        lsn: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The record is about a page that is not there.
    #[error("the record at LSN {lsn} is about page {page}, which does not exist there")]
    NoPage {
        /// Its LSN.
        lsn: u64,
        /// The page.
        page: PageId,
    },
    /// The record leaves its page.
    #[error(
        "the record at LSN {lsn} reaches past the {size} bytes of page {page}, or is malformed"
    )]
    BadRange {
        /// Its LSN.
        lsn: u64,
        /// The page.
        page: PageId,
        /// Bytes of the page.
        size: u32,
    },
    /// The content of a swap did not come ahead of its record, or not whole.
    #[error("the swap at LSN {lsn} of page {page} comes with {found} of {size} bytes of content")]
    NoContent {
        /// Its LSN.
        lsn: u64,
        /// The page.
        page: PageId,
        /// Bytes that came.
        found: u64,
        /// Bytes of the page.
        size: u32,
    },
    /// What the state needs next is not in the log.
    #[error("the log goes on at LSN {found}, but LSN {expected} is needed next")]
    Gap {
        /// Where the state ends.
        expected: u64,
        /// Where the log goes on.
        found: u64,
    },
    /// No memory for a page.
    #[error("no memory for the {size} bytes of page {page}: {source}")]
    Memory {
        /// The page.
        page: PageId,
        /// Its bytes.
        size: u32,
        /// Why.
        source: MemoryError,
    },
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl From<Corrupt> for StateError {
    fn from(corrupt: Corrupt) -> StateError {
        StateError::Corrupt {
            lsn: corrupt.offset,
            what: corrupt.what,
        }
    }
}

/// Which log a state comes from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    /// Random number of the log, the same for all its files.
    pub log_id: [u64; 2],
    /// Name of the bus.
    pub bus: String,
    /// How often the bus was rebuilt: of the last record that was applied.
    pub incarnation: u64,
    /// CLOCK_REALTIME of the creation of the bus, ns.
    pub created_ns: u64,
    /// Slots of its ring.
    pub ring_slots: u32,
}

/// A source of deltas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// When it was first used: CLOCK_REALTIME in ns, as exact as its record.
    pub since_ns: u64,
}

/// A page of a [`State`].
#[derive(Debug)]
pub struct PageState<B = Box<[u8]>> {
    id: PageId,
    versions: u32,
    epoch: u64,
    lsn: u64,
    cold: Option<Box<Cold>>,
    bytes: B,
}

static NO_COLD: Cold = Cold {
    name: String::new(),
    schema_hash: 0,
    schema: Vec::new(),
    meta: Vec::new(),
};

impl<B: AsRef<[u8]>> PageState<B> {
    /// Its id.
    pub fn id(&self) -> PageId {
        self.id
    }

    /// Bytes of the page.
    pub fn size(&self) -> u32 {
        // At most 1 GiB, checked where the page came into being.
        self.bytes().len() as u32
    }

    /// Version slots: 1 for an ordinary page, more for a cell.
    pub fn versions(&self) -> u32 {
        self.versions
    }

    /// Deltas applied since it was created.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// LSN of the last of them, or of its creation.
    pub fn lsn(&self) -> u64 {
        self.lsn
    }

    /// Name, schema and metadata.
    pub fn cold(&self) -> &Cold {
        self.cold.as_deref().unwrap_or(&NO_COLD)
    }

    /// Its content.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Its content, as the memory that it was given.
    pub fn into_bytes(self) -> B {
        self.bytes
    }

    /// Hash of everything about the page: id, size, version slots, epoch, LSN, description and bytes. The same on every
    /// machine.
    pub fn hash(&self) -> u128 {
        page_hash(
            &PageShape {
                id: self.id,
                versions: self.versions,
                epoch: self.epoch,
                lsn: self.lsn,
            },
            self.cold(),
            self.bytes(),
        )
    }
}

/// The fixed part of what a page hash covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageShape {
    /// The page.
    pub id: PageId,
    /// Version slots.
    pub versions: u32,
    /// Its epoch.
    pub epoch: u64,
    /// LSN of its last delta.
    pub lsn: u64,
}

/// The hash that [`PageState::hash`] gives a page with this shape, description and content: for live pages, images and
/// tools.
pub fn page_hash(shape: &PageShape, cold: &Cold, bytes: &[u8]) -> u128 {
    // One pass over few bytes: a hash that is fed piece by piece costs more than all of a small page.
    const PLAIN: usize = 84;
    let mut described;
    let mut plain = [0u8; PLAIN];
    let mut put = Fields {
        to: &mut plain,
        at: 0,
    };
    if !cold.is_empty() {
        let pairs = cold.meta.iter().map(|(k, v)| 16 + k.len() + v.len());
        let more = cold.name.len() + cold.schema.len() + pairs.sum::<usize>();
        described = vec![0; PLAIN + more];
        put.to = &mut described;
    }
    put.bytes(&shape.id.index.to_le_bytes());
    put.bytes(&shape.id.generation.to_le_bytes());
    put.bytes(&shape.versions.to_le_bytes());
    put.bytes(&shape.epoch.to_le_bytes());
    put.bytes(&shape.lsn.to_le_bytes());
    put.bytes(&cold.schema_hash.to_le_bytes());
    put.text(cold.name.as_bytes());
    put.text(&cold.schema);
    put.bytes(&(cold.meta.len() as u64).to_le_bytes());
    for (key, value) in &cold.meta {
        put.text(key.as_bytes());
        put.text(value.as_bytes());
    }
    put.bytes(&(bytes.len() as u64).to_le_bytes());
    put.bytes(&xxh3_128(bytes).to_le_bytes());
    debug_assert_eq!(put.at, put.to.len());
    xxh3_128(put.to)
}

/// Fields, one behind the other.
struct Fields<'b> {
    to: &'b mut [u8],
    at: usize,
}

impl Fields<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.to[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn text(&mut self, bytes: &[u8]) {
        self.bytes(&(bytes.len() as u64).to_le_bytes());
        self.bytes(bytes);
    }
}

/// A page as it is put into a state that is being loaded.
#[derive(Debug)]
pub struct Loaded<B> {
    /// Id, version slots, epoch and LSN.
    pub shape: PageShape,
    /// Name, schema and metadata.
    pub cold: Cold,
    /// Its content, from [`State::take_memory`].
    pub bytes: B,
}

/// The pages of a bus at one LSN.
#[derive(Debug)]
pub struct State<M: PageMemory = Heap> {
    meta: Meta,
    memory: Mutex<M>,
    shards: Vec<Shard<M::Bytes>>,
    sources: BTreeMap<u16, Source>,
    /// Everything ahead of it is in.
    next: u64,
    /// Images held records ahead of this LSN.
    fuzzy_until: u64,
    time_ns: u64,
    pending: Pending,
    records: u64,
}

/// Parts of a state, by page index, that threads may work on at the same time.
const SHARDS: usize = 16;

impl<M: PageMemory> State<M> {
    /// An empty state, ahead of every record, with `memory` for the bytes of its pages.
    pub fn new(meta: Meta, memory: M) -> State<M> {
        State {
            meta,
            memory: Mutex::new(memory),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            sources: BTreeMap::new(),
            next: 0,
            fuzzy_until: 0,
            time_ns: 0,
            pending: Pending::default(),
            records: 0,
        }
    }

    /// Every record ahead of this LSN is in, and none from it on (see [`State::is_consistent`] for the exception).
    pub fn lsn(&self) -> u64 {
        self.next
    }

    /// Time of the last record applied: CLOCK_REALTIME in ns, in steps of about a millisecond. It never goes back.
    pub fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// Incarnation of the bus that the last record came from.
    pub fn incarnation(&self) -> u64 {
        self.meta.incarnation
    }

    /// Which log it comes from.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Records that were looked at so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether this is the state at one LSN. A state loaded from a checkpoint is not until all is replayed that the
    /// images held: they were taken one after the other, while writers went on.
    pub fn is_consistent(&self) -> bool {
        self.next >= self.fuzzy_until
    }

    /// From which LSN on it is [consistent](State::is_consistent).
    pub fn consistent_from(&self) -> u64 {
        self.fuzzy_until
    }

    /// A page.
    pub fn page(&self, id: PageId) -> Option<&PageState<M::Bytes>> {
        let (shard, at) = table::place(id.index);
        self.shards[shard]
            .get(at)?
            .page
            .as_ref()
            .filter(|p| p.id == id)
    }

    /// The page of this name. Every page is looked at.
    pub fn page_named(&self, name: &str) -> Option<&PageState<M::Bytes>> {
        if name.is_empty() {
            return None;
        }
        self.unsorted().find(|p| p.cold().name == name)
    }

    /// All pages, by index.
    pub fn pages(&self) -> impl Iterator<Item = &PageState<M::Bytes>> {
        let mut pages: Vec<_> = self.unsorted().collect();
        pages.sort_unstable_by_key(|p| p.id);
        pages.into_iter()
    }

    fn unsorted(&self) -> impl Iterator<Item = &PageState<M::Bytes>> {
        self.shards
            .iter()
            .flat_map(Shard::iter)
            .filter_map(|(_, slot)| slot.page.as_ref())
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.unsorted().count()
    }

    /// Whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.unsorted().next().is_none()
    }

    /// Free page numbers that were used, with the generation of the last page that had them, by number. The next page
    /// with such a number has the next generation.
    pub fn free_generations(&self) -> Vec<(u32, u32)> {
        let mut free: Vec<(u32, u32)> = self
            .shards
            .iter()
            .enumerate()
            .flat_map(|(shard, s)| s.iter().map(move |(at, slot)| (shard, at, slot)))
            .filter(|(_, _, slot)| slot.page.is_none() && slot.generation > 0)
            .map(|(shard, at, slot)| (table::index(shard, at), slot.generation))
            .collect();
        free.sort_unstable();
        free
    }

    /// The sources, by number.
    pub fn sources(&self) -> &BTreeMap<u16, Source> {
        &self.sources
    }

    /// Hash of all pages (see [`PageState::hash`]). The same pages give the same hash on every machine, in whatever way
    /// they came about; sources and free numbers are not in it.
    pub fn hash(&self) -> u128 {
        let mut hash = Xxh3::new();
        let mut count = 0u64;
        for page in self.pages() {
            hash.update(&page.hash().to_le_bytes());
            count += 1;
        }
        hash.update(&count.to_le_bytes());
        hash.digest128()
    }

    /// The pages in the order of [`State::pages`], with their bytes, and the memory. What is not wanted is dropped, not
    /// [given back](PageMemory::give_back).
    pub fn into_parts(self) -> (Vec<PageState<M::Bytes>>, M) {
        let mut pages: Vec<_> = self
            .shards
            .into_iter()
            .flat_map(Shard::into_slots)
            .filter_map(|slot| slot.page)
            .collect();
        pages.sort_unstable_by_key(|p| p.id);
        let memory = self
            .memory
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        (pages, memory)
    }

    /// Says that the images in it may hold records ahead of `until`, and that replay goes on at `begin`.
    pub fn set_position(&mut self, begin: u64, until: u64, time_ns: u64) {
        self.next = begin;
        self.fuzzy_until = until.max(begin);
        self.time_ns = time_ns;
    }

    /// Takes zeroed memory for a page that is to be [inserted](State::insert). Threads may do so at the same time.
    ///
    /// # Errors
    /// [`StateError::Memory`].
    pub fn take_memory(
        &self,
        id: PageId,
        size: u32,
        versions: u32,
    ) -> Result<M::Bytes, StateError> {
        memory::take(&self.memory, id, size, versions)
    }

    /// Puts a page in, in place of what its number had.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] if no page has this id, or memory for it another size.
    pub fn insert(&mut self, page: Loaded<M::Bytes>) -> Result<(), StateError> {
        let Loaded { shape, cold, bytes } = page;
        let bad = |what| StateError::Corrupt {
            lsn: shape.lsn,
            what,
        };
        if shape.id.index >= table::INDEX_MAX || shape.id.generation == 0 {
            return Err(bad("page id"));
        }
        if bytes.as_ref().is_empty() || bytes.as_ref().len() as u64 > apply::PAGE_BYTES_MAX {
            return Err(bad("page size"));
        }
        let (shard, at) = table::place(shape.id.index);
        let slot = self.shards[shard].get_or_make(at);
        slot.generation = slot.generation.max(shape.id.generation);
        slot.page = Some(PageState {
            id: shape.id,
            versions: shape.versions.max(1),
            epoch: shape.epoch,
            lsn: shape.lsn,
            cold: apply::boxed(cold),
            bytes,
        });
        Ok(())
    }

    /// Says which generation the last page with this free number had.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] for a number that no page can have.
    pub fn set_generation(&mut self, index: u32, generation: u32) -> Result<(), StateError> {
        if index >= table::INDEX_MAX {
            return Err(StateError::Corrupt {
                lsn: 0,
                what: "free page number",
            });
        }
        let (shard, at) = table::place(index);
        let slot = self.shards[shard].get_or_make(at);
        if slot.page.is_none() {
            slot.generation = slot.generation.max(generation);
        }
        Ok(())
    }

    /// Names a source.
    pub fn set_source(&mut self, id: u16, source: Source) {
        self.sources.insert(id, source);
    }

    /// Says that nothing stands between here and `lsn`: the rest of a block is padding.
    pub fn advance_to(&mut self, lsn: u64) {
        self.next = self.next.max(lsn);
    }
}
