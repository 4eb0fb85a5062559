//! Creating, describing and destroying pages.

use std::time::Instant;

use super::Cold;
use super::table::{has_room, hash_id};
use crate::PageId;
use crate::error::{BusFull, PageError};
use crate::layout::PAGE_BYTES_MAX;
use crate::layout::page::{DirectoryEntry, GENERATION_MAX, VERSIONS_MAX, block_payload};
use crate::layout::ring::{Kind, RecordFlags};
use crate::page::{PageRef, PageVersion, cell_current, owner};
use crate::participant::{Holder, Locked, Participant};
use crate::recovery;
use crate::segment::Pages;
use crate::sync::Ordering;
use crate::testing::step;

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

impl Pages {
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

    /// Page numbers that were used before, with the last generation that is gone: for free numbers their last one, for
    /// those in use the one ahead of it, if there was one. Each number is looked at once.
    pub fn gone_generations(&self) -> Vec<(u32, u32)> {
        let entries = self.directory().iter().enumerate();
        entries
            .filter_map(|(index, e)| {
                let e = DirectoryEntry(e.load(Ordering::Acquire));
                let gone = e
                    .generation()
                    .saturating_sub(u32::from(!e.block().is_none()));
                (gone > 0).then_some((index as u32, gone))
            })
            .collect()
    }

    /// Ids of all pages, named or not, in index order.
    pub fn list_pages(&self) -> Vec<PageId> {
        (0..self.indices_used())
            .filter_map(|index| self.page_at(index))
            .collect()
    }

    /// The page that has this number now.
    fn page_at(&self, index: u32) -> Option<PageId> {
        let entry = self.load_entry(index)?;
        let generation = entry.generation();
        (!entry.block().is_none()).then_some(PageId { index, generation })
    }

    /// Goes through all pages in the order of their numbers: `read` copies one, `f` gets it. Each is whole by itself, as it is
    /// at that moment; together they are no cut. Pages that come or go meanwhile may be among them or not.
    ///
    /// What comes next is asked for ahead of its turn, so this takes a fraction of looking the pages up one by one.
    ///
    /// # Errors
    /// Those of `read` and `f`, at the first that is not [`PageError::PageGone`] of `read`.
    pub fn for_each_page<E: From<PageError>>(
        &self,
        mut read: impl FnMut(&PageRef, &mut [u8]) -> Result<PageVersion, PageError>,
        mut f: impl FnMut(PageId, PageVersion, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut bytes = Vec::new();
        for index in 0..self.indices_used() {
            if let Some(ahead) = self.load_entry(index + PAGES_AHEAD) {
                self.prefetch_block(ahead.block());
            }
            let Some(id) = self.page_at(index) else {
                continue;
            };
            let seen = self.resolve(id).and_then(|page| {
                bytes.resize(page.size(), 0);
                read(&page, &mut bytes)
            });
            match seen {
                Ok(version) => f(id, version, &bytes)?,
                Err(PageError::PageGone(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// How many numbers ahead [`Pages::for_each_page`] asks for what it will read: a line that another core wrote takes as
/// long as some ten small pages do.
const PAGES_AHEAD: u32 = 12;

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
        let _inside = self.operation();
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
        let _inside = self.operation();
        let names = &self.core.ctl.header().names_lock;
        // Owner words of numbers that no page ever had stay untouched: recovery does not look there.
        if self.core.pages.page_at(id.index) != Some(id) {
            return Err(PageError::PageGone(id));
        }
        let word = self.owner_word(id.index);
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
        if self.core.pages.page_at(id.index) != Some(id) {
            return Err(PageError::PageGone(id));
        }
        let _inside = self.operation();
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
