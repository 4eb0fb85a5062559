//! Filling a bus that nobody can reach yet with the state of another one: pages with their numbers, generations, epochs
//! and LSNs, names, sources.
//!
//! All of it happens in a [`Draft`], whose objects have no name, so there is no other participant, no reader, and nothing
//! to recover: a death takes the objects with it. What is given out as page memory is plain memory until the draft is
//! linked.

use std::sync::Arc;

use crate::PageId;
use crate::error::{AttachError, PageError};
use crate::layout::PAGE_BYTES_MAX;
use crate::layout::page::{
    BlockRef, BlockState, DirectoryEntry, GENERATION_MAX, VERSIONS_MAX, block_payload,
};
use crate::names::{self, Cold};
use crate::page::cell_current;
use crate::participant::{Participant, ParticipantConfig, write_name};
use crate::segment::{Core, Draft};
use crate::sync::Ordering;

/// Memory for the content of one page, zeroed. It is nobody else's until the page is [placed](Restorer::place).
pub struct PageBytes {
    /// Keeps the mapping.
    _core: Arc<Core>,
    at: BlockRef,
    class: u32,
    versions: u32,
    bytes: *mut u8,
    len: u32,
}

// SAFETY: the memory belongs to this value alone: its block was taken for it, and the segment has no name yet.
unsafe impl Send for PageBytes {}
// SAFETY: shared references only read.
unsafe impl Sync for PageBytes {}

impl std::fmt::Debug for PageBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageBytes")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl std::ops::Deref for PageBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes of a checked block, initialised, alive as long as `core`, written through this value only.
        unsafe { std::slice::from_raw_parts(self.bytes, self.len as usize) }
    }
}

impl AsRef<[u8]> for PageBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for PageBytes {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl std::ops::DerefMut for PageBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.bytes, self.len as usize) }
    }
}

/// Fills a draft.
pub struct Restorer {
    core: Arc<Core>,
    participant: Participant,
}

impl Restorer {
    /// Maps the draft.
    ///
    /// # Errors
    /// [`AttachError::Io`].
    pub fn new(draft: &Draft) -> Result<Restorer, AttachError> {
        let core = Arc::new(draft.core()?);
        let config = ParticipantConfig {
            name: "rebuild".into(),
            ..ParticipantConfig::default()
        };
        Ok(Restorer {
            participant: Participant::join_silently(Arc::clone(&core), config)?,
            core,
        })
    }

    /// Enters a source.
    ///
    /// # Errors
    /// [`PageError::Full`] if the bus has no such number.
    pub fn source(&mut self, id: u16, name: &str, since_ns: u64) -> Result<(), PageError> {
        let sources = self.core.pages.sources();
        let Some(source) = sources.get(id as usize) else {
            return Err(crate::error::BusFull::Sources {
                max: sources.len() as u32,
            }
            .into());
        };
        // Relaxed: nobody looks before the draft is linked.
        let len = write_name(&source.name, name);
        source.since_ns.store(since_ns, Ordering::Relaxed);
        source.len.store(len as u32, Ordering::Release);
        Ok(())
    }

    /// Memory for a page of `size` bytes.
    ///
    /// # Errors
    /// [`PageError::Full`] if the tmpfs or the bus has no room; [`PageError::BadSize`].
    pub fn take(&mut self, size: u32, versions: u32) -> Result<PageBytes, PageError> {
        let core = Arc::clone(&self.core);
        let participant = &self.participant;
        let versions = versions.max(1);
        let payload = block_payload(size, versions);
        if size == 0 || payload > PAGE_BYTES_MAX || versions > VERSIONS_MAX {
            return Err(PageError::BadSize { bytes: payload });
        }
        let _inside = participant.operation();
        let held = participant.allocate(payload, None)?;
        // Nobody else is here, so nobody has to find it after a death.
        participant.published(&held);
        let block = held.block;
        let bytes = if versions > 1 {
            cell_current(&block, size, versions, 0).3
        } else {
            block.payload
        };
        Ok(PageBytes {
            at: block.at,
            class: held.class,
            versions,
            bytes,
            len: size,
            _core: core,
        })
    }

    /// Gives memory back that no page needs.
    ///
    /// # Errors
    /// [`PageError::Corrupt`].
    pub fn give_back(&mut self, bytes: PageBytes) -> Result<(), PageError> {
        let held = BlockState::Held(self.participant.me);
        let freed = self.core.pages.free_block(bytes.at, held)?;
        debug_assert!(freed);
        Ok(())
    }

    /// Makes the page `id` of what was filled in.
    ///
    /// # Errors
    /// [`PageError::Full`] if the bus has no such page number or no room for its name; [`PageError::PageGone`] for an id
    /// that no page can have, or that has one.
    pub fn place(
        &mut self,
        id: PageId,
        bytes: PageBytes,
        epoch: u64,
        lsn: u64,
        cold: &Cold,
    ) -> Result<(), PageError> {
        self.check_id(id)?;
        let (core, participant) = (&self.core, &self.participant);
        let entry = core.pages.entry(id.index).ok_or(PageError::PageGone(id))?;
        let block = core
            .pages
            .block(bytes.at, block_payload(bytes.len, bytes.versions))?;
        // Relaxed: nobody looks before the draft is linked.
        let header = block.header;
        header.size.store(bytes.len, Ordering::Relaxed);
        header
            .shape
            .store(bytes.class | bytes.versions << 8, Ordering::Relaxed);
        header.seq.store(epoch << 1, Ordering::Relaxed);
        header.lsn.store(lsn, Ordering::Relaxed);
        if bytes.versions > 1 {
            let (_, _, version, _) = cell_current(&block, bytes.len, bytes.versions, 0);
            version.lsn.store(lsn, Ordering::Relaxed);
            version.epoch.store(epoch, Ordering::Relaxed);
        }
        header
            .state
            .store(BlockState::Live(id.index).word(), Ordering::Release);
        entry.store(
            DirectoryEntry::new(id.generation, bytes.at).0,
            Ordering::Release,
        );
        if !cold.is_empty() {
            let (held, _) = participant.prepare_cold(id, cold)?;
            held.block.header.lsn.store(lsn, Ordering::Relaxed);
            participant.published(&held);
            names::attach_cold(core, id.index, id.generation, held.block.at)?;
        }
        self.take_number(id.index);
        Ok(())
    }

    /// Says which generation of a free page number was the last.
    ///
    /// # Errors
    /// As [`Restorer::place`].
    pub fn free_number(&mut self, index: u32, generation: u32) -> Result<(), PageError> {
        let id = PageId { index, generation };
        self.check_id(id)?;
        let entry = self
            .core
            .pages
            .entry(index)
            .ok_or(PageError::PageGone(id))?;
        entry.store(
            DirectoryEntry::new(generation, BlockRef::NONE).0,
            Ordering::Release,
        );
        Ok(())
    }

    fn check_id(&self, id: PageId) -> Result<(), PageError> {
        let max = self.core.pages.geometry.pages_max;
        if id.index >= max {
            return Err(crate::error::BusFull::Pages { max }.into());
        }
        match self.core.pages.load_entry(id.index) {
            Some(entry) if entry == DirectoryEntry(0) && id.generation <= GENERATION_MAX => Ok(()),
            _ => Err(PageError::PageGone(id)),
        }
    }

    fn take_number(&self, index: u32) {
        if let Some(word) = self.core.ctl.indices().get(index as usize / 64) {
            word.fetch_and(!(1 << (index % 64)), Ordering::AcqRel);
        }
        self.core.pages.raise_indices_used(index + 1);
    }

    /// Gives the log its place: everything ahead of `lsn` is on disk.
    pub fn attach_log(&mut self, log_id: [u64; 2], lsn: u64) {
        let h = self.core.pages.header();
        for (word, half) in h.log_id.iter().zip(log_id) {
            word.store(half, Ordering::Relaxed);
        }
        h.log_state.store(3, Ordering::Relaxed);
        h.durable_lsn.store(lsn, Ordering::Release);
        self.core
            .ctl
            .header()
            .log_position
            .store(lsn, Ordering::Release);
    }
}
