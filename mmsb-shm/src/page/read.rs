//! Reading pages: by participants, who can ask a writer for a gap and recover a dead one, and by observers, who can
//! only load.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{PageId, cell, owner, seqlock};
use crate::copy;
use crate::error::{Corrupt, PageError};
use crate::hazard;
use crate::layout::page::{
    BlockHeader, CellHeader, DirectoryEntry, SHAPE_LOANED, VERSIONS_MAX, VersionHeader,
    block_payload, version_stride,
};
use crate::layout::participant::HAZARDS;
use crate::participant::{Holder, Locked, Participant, spin_until};
use crate::recovery;
use crate::segment::{Block, Pages};
use crate::sync::{AtomicU64, Ordering, fence, relax};
use crate::sys::sigbus;
use crate::testing::step;

/// Which state of a page a read saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct PageVersion {
    /// Deltas applied to the page since it was created.
    pub epoch: u64,
    /// LSN of the last of them.
    pub lsn: u64,
}

/// A page, looked up: its id and where its block was last. Cheap to use, private to one thread.
#[derive(Debug)]
pub struct PageRef {
    id: PageId,
    /// [`Pages::id`] of the mapping that the pointers lead into.
    of: u64,
    /// Its word of the directory.
    word: *const AtomicU64,
    entry: Cell<u64>,
    header: Cell<*const BlockHeader>,
    payload: Cell<*mut u8>,
    size: Cell<u32>,
    versions: Cell<u32>,
}

// SAFETY: the pointers lead into a mapping that outlives every use (uses go through the `Pages` they came from:
// `check_own` refuses any other), and everything behind them is accessed atomically; `Cell` keeps it off other threads
// at the same time.
unsafe impl Send for PageRef {}

/// Outcome of one attempt to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The copy is good.
    Done(PageVersion),
    /// A writer is inside: the sequence word is odd.
    Odd(u64),
    /// The page changed during the copy.
    Changed,
}

impl PageRef {
    /// The id.
    pub fn id(&self) -> PageId {
        self.id
    }

    /// Bytes of the page.
    #[inline(always)]
    pub fn size(&self) -> usize {
        self.size.get() as usize
    }

    /// Version slots: 1 for an ordinary page, more for a cell.
    pub fn versions(&self) -> u32 {
        self.versions.get()
    }

    /// Whether the content is an immutable loaned block.
    ///
    /// Read from the block each time: a block may leave the page, be reused and come back to it, loaned the one time and
    /// patched in place the other, and the directory entry is the same then. Certain only for the page's owner, and for
    /// who holds a hazard on the block.
    #[inline(always)]
    pub(crate) fn is_loaned(&self) -> bool {
        // Relaxed: stored before the entry that led here (M1), or advisory.
        self.block().header.shape.load(Ordering::Relaxed) & SHAPE_LOANED != 0
    }

    #[inline(always)]
    pub(crate) fn entry(&self) -> DirectoryEntry {
        DirectoryEntry(self.entry.get())
    }

    /// The directory's word for this page.
    ///
    /// # Safety
    /// The mapping that the handle was resolved in is there: [`Pages::check_own`] of a living one let it pass.
    #[inline(always)]
    unsafe fn word(&self) -> &AtomicU64 {
        // SAFETY: `Pages::resolve` took it from the table of a mapping, which is there by the caller.
        unsafe { &*self.word }
    }

    /// The block as last resolved.
    #[inline(always)]
    pub(crate) fn block(&self) -> Block<'_> {
        Block {
            at: self.entry().block(),
            // SAFETY: `Pages::resolve` set it from a block that lies inside the mapping.
            header: unsafe { &*self.header.get() },
            payload: self.payload.get(),
            room: block_payload(self.size.get(), self.versions.get()),
        }
    }

    /// The caller, who owns the page, has just published `block` as its content: spares the look at the directory, which
    /// says the same.
    #[inline]
    pub(crate) fn moved_to(&self, block: &Block<'_>) {
        self.entry
            .set(DirectoryEntry::new(self.id.generation, block.at).0);
        self.header.set(block.header);
        self.payload.set(block.payload);
    }

    #[inline(always)]
    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<(), PageError> {
        if offset
            .checked_add(len)
            .is_some_and(|end| end <= u64::from(self.size.get()))
        {
            return Ok(());
        }
        Err(PageError::OutOfRange {
            page: self.id,
            offset,
            len,
            size: self.size.get().into(),
        })
    }
}

/// Header of a cell and its current version slot: `(head, slot header, payload)`.
#[inline(always)]
pub(crate) fn cell_current<'a>(
    block: &Block<'a>,
    size: u32,
    versions: u32,
    ahead: u64,
) -> (&'a CellHeader, u64, &'a VersionHeader, *mut u8) {
    // SAFETY: the block's room was checked against `block_payload(size, versions)` when it was resolved, so the cell
    // header and every version slot lie inside the mapping; all header fields are atomics.
    unsafe {
        let cell = &*block.payload.cast::<CellHeader>();
        let head = cell::current(&cell.head);
        let slot = head.wrapping_add(ahead) % u64::from(versions);
        let at = block
            .payload
            .add(size_of::<CellHeader>() + (slot * version_stride(size)) as usize);
        (
            cell,
            head,
            &*at.cast::<VersionHeader>(),
            at.add(size_of::<VersionHeader>()),
        )
    }
}

impl Pages {
    /// Looks a page up.
    pub fn resolve(&self, id: PageId) -> Result<PageRef, PageError> {
        let word = self.entry(id.index).ok_or(PageError::PageGone(id))?;
        let page = PageRef {
            id,
            of: self.id(),
            word,
            entry: Cell::new(0),
            header: Cell::new(core::ptr::null()),
            payload: Cell::new(core::ptr::null_mut()),
            size: Cell::new(0),
            versions: Cell::new(1),
        };
        self.refresh(&page)?;
        Ok(page)
    }

    /// Brings a handle up to its directory entry. The handle is this mapping's.
    #[cold]
    fn refresh(&self, page: &PageRef) -> Result<(), PageError> {
        for _ in 0..1000 {
            let entry = self
                .load_entry(page.id.index)
                .ok_or(PageError::PageGone(page.id))?;
            if entry.generation() != page.id.generation || entry.block().is_none() {
                return Err(PageError::PageGone(page.id));
            }
            let block = self.block(entry.block(), 0)?;
            // Relaxed: prepared before the entry was stored (M1).
            let size = block.header.size.load(Ordering::Relaxed);
            let shape = block.header.shape.load(Ordering::Relaxed);
            let versions = (shape >> 8 & 0xff).max(1);
            // Acquire fence and a second look: the block may have left the page, and then these are another page's.
            fence(Ordering::Acquire);
            if self.load_entry(page.id.index) != Some(entry) {
                continue;
            }
            // A page keeps its size: callers have checked their ranges against the one that the handle knows.
            let known = (page.size.get(), page.versions.get());
            let changed = known.0 != 0 && known != (size, versions);
            if size == 0 || versions > VERSIONS_MAX || versions == 2 || versions == 3 || changed {
                return Err(Corrupt {
                    what: "page size",
                    offset: block.at.offset(),
                }
                .into());
            }
            let block = self.block(entry.block(), block_payload(size, versions))?;
            page.entry.set(entry.0);
            page.header.set(block.header);
            page.payload.set(block.payload);
            page.size.set(size);
            page.versions.set(versions);
            return Ok(());
        }
        Err(PageError::Contended(page.id))
    }

    /// Refuses a handle that was resolved in another mapping, of another bus or of this one: its pointers lead there, or
    /// nowhere any more, and the page of that number here is another. (An address would not tell: a mapping may get that of
    /// one that is gone.)
    #[inline(always)]
    pub(crate) fn check_own(&self, page: &PageRef) -> Result<(), PageError> {
        if page.of == self.id() {
            Ok(())
        } else {
            Err(PageError::PageGone(page.id))
        }
    }

    /// Whether the handle is this mapping's and still leads to the page's block; refreshes it if not.
    #[inline(always)]
    pub(crate) fn ensure_fresh(&self, page: &PageRef) -> Result<(), PageError> {
        self.check_own(page)?;
        // SAFETY: checked just above.
        unsafe { self.ensure_own_fresh(page) }
    }

    /// As [`Self::ensure_fresh`], for a handle that was checked before.
    ///
    /// # Safety
    /// [`Self::check_own`] let the handle pass.
    #[inline(always)]
    pub(crate) unsafe fn ensure_own_fresh(&self, page: &PageRef) -> Result<(), PageError> {
        // SAFETY: the handle is of this mapping, by the caller.
        let word = unsafe { page.word() };
        // Acquire (M1): who sees the entry sees the block behind it.
        if word.load(Ordering::Acquire) == page.entry.get() {
            Ok(())
        } else {
            self.refresh(page)
        }
    }

    /// One attempt to copy `len` bytes from `offset` of the page to `dst`.
    ///
    /// # Safety
    /// `dst` has room for `len` bytes, and `offset + len` is at most the size of the page ([`PageRef::check_range`]).
    #[inline(always)]
    pub(crate) unsafe fn try_read(
        &self,
        page: &PageRef,
        offset: usize,
        dst: *mut u8,
        len: usize,
    ) -> Result<Outcome, PageError> {
        self.ensure_fresh(page)?;
        let mut result = Ok(());
        // SAFETY: `ensure_fresh` let the handle pass; the range lies in the page, whose block was checked; `dst` by the
        // caller.
        let outcome = unsafe {
            self.attempt(page, |payload| {
                result = self.copy_out(dst, payload.add(offset), len);
            })
        };
        result.map(|()| outcome)
    }

    /// One attempt to read, through the block that the handle knows: `copy` gets the payload of the page, or of the
    /// current version of a cell.
    ///
    /// # Safety
    /// [`Self::check_own`] let the handle pass.
    #[inline(always)]
    unsafe fn attempt(&self, page: &PageRef, copy: impl FnOnce(*const u8)) -> Outcome {
        let entry = page.entry.get();
        // SAFETY: by the caller.
        if unsafe { page.word() }.load(Ordering::Acquire) != entry {
            return Outcome::Changed;
        }
        let block = page.block();
        if page.versions.get() == 1 {
            let begin = seqlock::read_begin(&block.header.seq);
            if begin & 1 == 1 {
                return Outcome::Odd(begin);
            }
            copy(block.payload);
            // Relaxed: validated with the rest.
            let lsn = block.header.lsn.load(Ordering::Relaxed);
            // The entry first: if the block left and came back since, the sequence word is another.
            // SAFETY: by the caller.
            let there = unsafe { self.is_still_there(page, entry) };
            if !there || !seqlock::still(&block.header.seq, begin) {
                return Outcome::Changed;
            }
            let epoch = begin >> 1;
            Outcome::Done(PageVersion { epoch, lsn })
        } else {
            let versions = page.versions.get();
            let (cell, head, version, payload) = cell_current(&block, page.size.get(), versions, 0);
            copy(payload);
            let seen = PageVersion {
                epoch: version.epoch.load(Ordering::Relaxed),
                lsn: version.lsn.load(Ordering::Relaxed),
            };
            // SAFETY: by the caller.
            let there = unsafe { self.is_still_there(page, entry) };
            if !there || !cell::still(&cell.head, head, versions.into()) {
                return Outcome::Changed;
            }
            Outcome::Done(seen)
        }
    }

    /// Whether the page has the block that was just copied from.
    ///
    /// # Safety
    /// [`Self::check_own`] let the handle pass.
    #[inline(always)]
    unsafe fn is_still_there(&self, page: &PageRef, entry: u64) -> bool {
        // SAFETY: the handle is of this mapping, by the caller.
        seqlock::still_there(unsafe { page.word() }, entry)
    }

    /// Copies from the mapping, behind the SIGBUS guard if the process asked for it.
    ///
    /// # Safety
    /// `src..src+len` lies in this mapping, `dst` has room for `len` bytes.
    #[inline(always)]
    pub(crate) unsafe fn copy_out(
        &self,
        dst: *mut u8,
        src: *const u8,
        len: usize,
    ) -> Result<(), PageError> {
        if sigbus::installed() {
            let (base, mapped) = self.mapping();
            // SAFETY: by the caller; the range is this mapping's.
            return unsafe {
                sigbus::guarded((base as usize, mapped), || copy::load(dst, src, len))
            }
            .map_err(|_| PageError::Truncated);
        }
        // SAFETY: by the caller.
        unsafe { copy::load(dst, src, len) };
        Ok(())
    }

    /// Epoch and LSN of the page now, without its content.
    pub fn version(&self, page: &PageRef) -> Result<PageVersion, PageError> {
        for _ in 0..100_000 {
            let nowhere = core::ptr::NonNull::dangling().as_ptr();
            // SAFETY: no bytes are copied.
            let outcome = unsafe { self.try_read(page, 0, nowhere, 0)? };
            if let Outcome::Done(v) = outcome {
                return Ok(v);
            }
            relax();
        }
        Err(PageError::Contended(page.id))
    }

    /// Whether the page may have changed since `known`: one load of the line that says so, nothing of the content.
    #[inline(always)]
    pub fn may_be_newer(&self, page: &PageRef, known: PageVersion) -> Result<bool, PageError> {
        self.ensure_fresh(page)?;
        let block = page.block();
        if page.versions.get() == 1 {
            // Relaxed: a hint; the read that follows validates.
            return Ok(block.header.seq.load(Ordering::Relaxed) != known.epoch << 1);
        }
        let (_, _, version, _) = cell_current(&block, page.size.get(), page.versions.get(), 0);
        Ok(version.epoch.load(Ordering::Relaxed) != known.epoch)
    }

    /// Tries once to read several pages as one cut: all sequence words even, all copies, all sequence words the same.
    /// Because a transaction makes every one of its pages odd before it changes the first, no cut holds half of one.
    pub(crate) fn try_cut(
        &self,
        pages: &[PageRef],
        out: &mut [Vec<u8>],
        versions: &mut [PageVersion],
    ) -> Result<bool, PageError> {
        let mut begins = Vec::with_capacity(pages.len());
        for page in pages {
            self.ensure_fresh(page)?;
            let begin = seqlock::read_begin(&page.block().header.seq);
            if begin & 1 == 1 {
                return Ok(false);
            }
            // A cell's version changes ahead of its sequence word, so it is looked at twice as well.
            let head = match page.versions.get() {
                1 => 0,
                k => cell_current(&page.block(), page.size.get(), k, 0).1,
            };
            begins.push((begin, head, page.entry.get()));
        }
        for ((page, buffer), version) in pages.iter().zip(out.iter_mut()).zip(versions.iter_mut()) {
            buffer.resize(page.size(), 0);
            let block = page.block();
            let (source, lsn, epoch) = if page.versions.get() == 1 {
                (block.payload, &block.header.lsn, None)
            } else {
                let (_, _, v, payload) =
                    cell_current(&block, page.size.get(), page.versions.get(), 0);
                (payload, &v.lsn, Some(&v.epoch))
            };
            // SAFETY: the whole page lies in its checked block; the buffer was just sized.
            unsafe { self.copy_out(buffer.as_mut_ptr(), source, page.size())? };
            step("cut.copied_one");
            version.lsn = lsn.load(Ordering::Relaxed);
            version.epoch = epoch.map_or(0, |e| e.load(Ordering::Relaxed));
        }
        // Acquire fence (S2): all copies are done before the second looks.
        fence(Ordering::Acquire);
        for ((page, (begin, head, entry)), version) in
            pages.iter().zip(&begins).zip(versions.iter_mut())
        {
            // The entry first, as in `try_read`.
            // SAFETY: `ensure_fresh` let every handle pass, above.
            let same_entry = unsafe { self.is_still_there(page, *entry) };
            let block = page.block();
            if !same_entry || block.header.seq.load(Ordering::Relaxed) != *begin {
                return Ok(false);
            }
            match page.versions.get() {
                1 => version.epoch = begin >> 1,
                k if cell_current(&block, page.size.get(), k, 0).1 != *head => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }
}

/// Reads that fail this often ask the writer for a gap.
const TRIES_BEFORE_REQUEST: u32 = 4;

impl Participant {
    /// Copies `dst.len()` bytes from `offset` of the page. Never fails for contention; waits for a living writer inside
    /// the page up to the timeout, and finishes the work of a dead one.
    #[inline(always)]
    pub fn read(
        &self,
        page: &PageRef,
        offset: usize,
        dst: &mut [u8],
    ) -> Result<PageVersion, PageError> {
        let pages = &self.core.pages;
        // What nearly every read is: nothing stands in the way, and no error has to be put together.
        let in_range = offset
            .checked_add(dst.len())
            .is_some_and(|end| end <= page.size());
        let quick = in_range && page.of == pages.id() && !sigbus::installed();
        if quick {
            // SAFETY: the handle is of this mapping; the range lies in the page, whose block was checked; the buffer is
            // `dst`.
            let outcome = unsafe {
                pages.attempt(page, |payload| {
                    copy::load(dst.as_mut_ptr(), payload.add(offset), dst.len());
                })
            };
            if let Outcome::Done(version) = outcome {
                return Ok(version);
            }
        }
        self.read_slow(page, offset, dst, quick)
    }

    #[cold]
    #[inline(never)]
    fn read_slow(
        &self,
        page: &PageRef,
        offset: usize,
        dst: &mut [u8],
        tried: bool,
    ) -> Result<PageVersion, PageError> {
        page.check_range(offset as u64, dst.len() as u64)?;
        self.check_fork()?;
        self.core.pages.ensure_fresh(page)?;
        Self::bump(&self.slot().retries, u64::from(tried));
        let word = self.core.ctl.owner(page.id.index);
        let mut begin = None;
        let mut tries = 0u32;
        let mut requested = false;
        let result = loop {
            // SAFETY: the range was checked, the buffer is `dst`; a page keeps its size.
            let outcome = unsafe {
                self.core
                    .pages
                    .try_read(page, offset, dst.as_mut_ptr(), dst.len())
            };
            match outcome {
                Err(e) => break Err(e),
                Ok(Outcome::Done(version)) => break Ok(version),
                Ok(Outcome::Odd(seq)) => {
                    let header = page.block().header;
                    let moved = spin_until(Duration::from_micros(20), || {
                        header.seq.load(Ordering::Acquire) != seq
                    });
                    if moved {
                        begin = None;
                    } else {
                        let begin = *begin.get_or_insert_with(Instant::now);
                        if let Err(e) = self.unstick(page, begin) {
                            break Err(e);
                        }
                    }
                }
                Ok(Outcome::Changed) => {
                    tries += 1;
                    if tries > TRIES_BEFORE_REQUEST {
                        // Ask for a gap, again each time: the writer's plain unlock may have wiped the request.
                        // AcqRel: only the bit matters; the writer's next lock attempt meets it.
                        requested = true;
                        let before = word.fetch_or(owner::REQUEST, Ordering::AcqRel);
                        if before & owner::LEASE == 0 && before & !owner::REQUEST == 0 {
                            // Nobody is inside and the next writer waits for us: read now.
                        } else {
                            spin_until(Duration::from_micros(1), || {
                                owner::holder(word.load(Ordering::Relaxed)) == 0
                            });
                        }
                    }
                }
            }
            Self::bump(&self.slot().retries, 1);
        };
        if requested {
            // Release: the gap is over. Only a request that nobody owns is ours to clear.
            let _ = word.compare_exchange(owner::REQUEST, 0, Ordering::Release, Ordering::Relaxed);
        }
        result
    }

    /// A page is odd and does not move: recover its writer if it is dead, give up on a living one after the timeout.
    fn unstick(&self, page: &PageRef, begin: Instant) -> Result<(), PageError> {
        self.yield_leases();
        let found = self.core.ctl.owner(page.id.index).load(Ordering::Acquire);
        match self.core.holder(found) {
            Holder::Dead(index) => {
                let recovered = recovery::participant(&self.core, &self.fd, index)?;
                if !recovered && begin.elapsed() >= self.config.timeout {
                    // Whoever is recovering it may be stopped: bounded like any other wait (I4).
                    return Err(PageError::Timeout {
                        what: Locked::Page(page.id.index).to_string(),
                        holder: format!(
                            "dead {}, whose recoverer does not finish",
                            self.core.describe(index)
                        ),
                        waited: begin.elapsed(),
                    });
                }
                Ok(())
            }
            Holder::Nobody => {
                if begin.elapsed() >= self.config.timeout {
                    // Writers leave a page even before they leave it, recoverers too.
                    return Err(Corrupt {
                        what: "sequence word of a page that nobody writes",
                        offset: page.entry().block().offset(),
                    }
                    .into());
                }
                std::thread::yield_now();
                Ok(())
            }
            Holder::Alive(index) => {
                if begin.elapsed() >= self.config.timeout {
                    return Err(PageError::Timeout {
                        what: Locked::Page(page.id.index).to_string(),
                        holder: self.core.describe(index),
                        waited: begin.elapsed(),
                    });
                }
                std::thread::sleep(Duration::from_micros(200));
                Ok(())
            }
        }
    }

    /// Reads several pages as one cut: the state of page memory at one instant, whole transactions only. After some
    /// failed attempts it stops the writers of these pages for the time of the copy.
    pub fn read_cut(&self, pages: &[PageRef]) -> Result<Vec<(Vec<u8>, PageVersion)>, PageError> {
        self.check_fork()?;
        let mut out = vec![Vec::new(); pages.len()];
        let mut versions = vec![PageVersion::default(); pages.len()];
        let done = |out: Vec<Vec<u8>>, versions: Vec<PageVersion>| {
            Ok(out.into_iter().zip(versions).collect())
        };
        for attempt in 0..64 {
            if self.core.pages.try_cut(pages, &mut out, &mut versions)? {
                return done(out, versions);
            }
            Self::bump(&self.slot().retries, 1);
            if attempt > 8 {
                spin_until(Duration::from_micros(2), || false);
            }
        }
        let mut indices: Vec<u32> = pages.iter().map(|p| p.id.index).collect();
        indices.sort_unstable();
        indices.dedup();
        let _inside = self.operation();
        let locked = self.lock_pages(&indices)?;
        let result = self.core.pages.try_cut(pages, &mut out, &mut versions);
        drop(locked);
        if result? {
            return done(out, versions);
        }
        Err(Corrupt {
            what: "a page changes while its owner word is held",
            offset: indices[0].into(),
        }
        .into())
    }

    /// Pins the loaned block of a page, so that it can be looked at without a copy.
    ///
    /// # Errors
    /// [`PageError::NotLoaned`] if the page's content is patched in place.
    pub fn pin(&self, page: &PageRef) -> Result<PinnedView<'_>, PageError> {
        self.check_fork()?;
        let hand = (!self.pins.get()).trailing_zeros();
        if hand as usize >= HAZARDS {
            return Err(PageError::TooManyHeld {
                what: "pinned views",
                max: HAZARDS,
            });
        }
        let hazard = &self.slot().hazards[hand as usize];
        loop {
            if let Err(e) = self.core.pages.ensure_fresh(page) {
                hazard::unpin(hazard);
                return Err(e);
            }
            let entry = page.entry();
            // SAFETY: `ensure_fresh` let the handle pass.
            let word = unsafe { page.word() };
            if !hazard::pin(hazard, entry.block().bits(), word, entry.0) {
                continue;
            }
            // Behind the hazard the block is not reused, so what it is now it stays.
            if page.is_loaned() {
                break;
            }
            hazard::unpin(hazard);
            return Err(PageError::NotLoaned(page.id));
        }
        self.pins.set(self.pins.get() | 1 << hand);
        let block = page.block();
        let version = PageVersion {
            epoch: block.header.seq.load(Ordering::Acquire) >> 1,
            lsn: block.header.lsn.load(Ordering::Relaxed),
        };
        Ok(PinnedView {
            by: self,
            hand,
            at: block.payload,
            len: page.size(),
            version,
        })
    }

    /// Takes the page's owner word for many commits: they skip its compare-exchange. Another writer may ask for it;
    /// it is handed over between two commits and taken again by the next one.
    pub fn lease(&self, page: &PageRef) -> Result<Lease<'_>, PageError> {
        self.check_fork()?;
        self.core.pages.check_own(page)?;
        self.take_lease(page)?;
        Ok(Lease {
            by: self,
            id: page.id,
        })
    }

    fn take_lease(&self, page: &PageRef) -> Result<(), PageError> {
        let id = page.id;
        let word = self.core.ctl.owner(id.index);
        if self.leased(id.index) == Some(id)
            && word.load(Ordering::Relaxed) == self.me | owner::LEASE
        {
            return Ok(());
        }
        let _inside = self.operation();
        self.lock_word(word, id.index, Locked::Page(id.index))?;
        step("lease.locked");
        if let Err(e) = self.core.pages.ensure_fresh(page) {
            self.unlock_word(word, id.index);
            return Err(e);
        }
        let mut leases = self.leases.borrow_mut();
        // An earlier page of this number is gone, and its lease with it.
        leases.retain(|l| l.index != id.index);
        leases.push(id);
        self.lease_count.set(leases.len() as u32);
        drop(leases);
        if self.may_lease() {
            // Release: ours already; others may ask for it from now on. A request that came in is answered next time.
            word.store(self.me | owner::LEASE, Ordering::Release);
        } else {
            // The next commit takes it.
            self.unlock_word(word, id.index);
        }
        Ok(())
    }

    /// The page with this index that is on lease.
    #[inline]
    pub(crate) fn leased(&self, index: u32) -> Option<PageId> {
        let leases = self.leases.borrow();
        leases.iter().find(|id| id.index == index).copied()
    }

    /// Takes the page off the list of leases; whether it was there. The word, if it is still held, is the caller's to give
    /// back.
    pub(crate) fn forget_lease(&self, id: PageId) -> bool {
        let mut leases = self.leases.borrow_mut();
        let before = leases.len();
        leases.retain(|l| *l != id);
        self.lease_count.set(leases.len() as u32);
        leases.len() < before
    }

    /// Ends the lease on a page that was destroyed, so that its number is free. The caller has just got the word back:
    /// while it is held, the entry stays what it is.
    #[cold]
    pub(crate) fn end_lease_of_gone(&self, id: PageId) {
        let there = self
            .core
            .pages
            .load_entry(id.index)
            .is_some_and(|e| e.generation() == id.generation && !e.block().is_none());
        if !there {
            self.forget_lease(id);
            self.hand_back(id.index);
        }
    }

    /// Hands every lease back. Whoever is about to wait does this first (B4).
    pub(crate) fn yield_leases(&self) {
        // Relaxed: our own. Inside a leased commit (which may wait for memory) the page is no one else's, as it would be
        // under an ordinary lock; what is waited for there never waits for pages.
        if self.lease_count.get() == 0 || self.slot().active.load(Ordering::Relaxed) != 0 {
            return;
        }
        // They stay listed: the next commit on such a page takes the word again.
        for id in self.leases.borrow().iter() {
            self.hand_back(id.index);
        }
    }

    pub(crate) fn hand_back(&self, index: u32) {
        let word = self.core.ctl.owner(index);
        if word.load(Ordering::Relaxed) & owner::LEASE != 0 {
            owner::clear_if(word, self.me);
            self.wake_owner_waiters(index);
        }
    }
}

/// A loaned block looked at in place. While it exists the block is not reused; the page itself may move on.
#[derive(Debug)]
pub struct PinnedView<'p> {
    by: &'p Participant,
    hand: u32,
    at: *mut u8,
    len: usize,
    version: PageVersion,
}

impl PinnedView<'_> {
    /// Which state of the page this is.
    pub fn version(&self) -> PageVersion {
        self.version
    }
}

impl std::ops::Deref for PinnedView<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes of a checked block; a published loaned block is immutable until it is reclaimed, and the
        // hazard keeps it from being reclaimed while self lives (cooperating participants, trust level T0).
        unsafe { core::slice::from_raw_parts(self.at, self.len) }
    }
}

impl Drop for PinnedView<'_> {
    fn drop(&mut self) {
        if self.by.check_fork().is_err() {
            return;
        }
        hazard::unpin(&self.by.slot().hazards[self.hand as usize]);
        self.by.pins.set(self.by.pins.get() & !(1 << self.hand));
    }
}

impl std::fmt::Debug for Participant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Participant")
            .field("bus", &self.core.name)
            .field("index", &self.index)
            .finish()
    }
}

/// A lease on a page; dropping it gives the owner word back. It ends when the page is destroyed.
#[derive(Debug)]
pub struct Lease<'p> {
    by: &'p Participant,
    id: PageId,
}

impl Lease<'_> {
    /// The page.
    pub fn id(&self) -> PageId {
        self.id
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if self.by.check_fork().is_err() {
            return;
        }
        // Not listed: the page is gone, and its number may be on lease as another page.
        if self.by.forget_lease(self.id) {
            self.by.hand_back(self.id.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::names::NewPage;
    use crate::participant::ParticipantConfig;
    use crate::segment::{BusConfig, Core};
    use crate::sys::space::SegmentDir;

    #[test]
    fn a_page_keeps_its_size() {
        let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = SegmentDir::at(tmp.path());
        let core = Arc::new(Core::create(&dir, "t", &BusConfig::default()).unwrap());
        let p = Participant::join(Arc::clone(&core), ParticipantConfig::default()).unwrap();
        let new = NewPage {
            size: 4096,
            ..NewPage::default()
        };
        let id = p.create_page(&new).unwrap();
        let known = core.pages.resolve(id).unwrap();
        // Another block, whose header says another size: scrambled as whoever can write to the mapping could.
        let own = core.pages.resolve(id).unwrap();
        let mut loan = p.loan(&own).unwrap();
        loan.fill(1);
        loan.publish(0).unwrap();
        let now = core.pages.resolve(id).unwrap();
        now.block().header.size.store(8, Ordering::Relaxed);
        let mut out = [0; 4096];
        // The range was fine by the size that the handle knows; the block behind it may be shorter.
        assert!(matches!(
            p.read(&known, 0, &mut out),
            Err(PageError::Corrupt(_))
        ));
        assert!(matches!(
            p.patch(&known, 4000, &[1; 96]),
            Err(PageError::Corrupt(_))
        ));
    }
}
