//! Memory of pages: slabs, size classes, type-stable blocks.
//!
//! The truth about a block is the `state` word in its header ([`BlockState`]); allocating is the compare-exchange
//! FREE → HELD of that word. The bitmaps of free blocks are hints: a participant takes a whole word of bits at once
//! into its private pool, and a bit may be lost by a death or set for a block that is taken. A lost bit comes back
//! when a sweep rebuilds the bitmap from the headers; a wrong one costs a failed compare-exchange.
//!
//! * M1 a block's header and content are prepared, then its directory entry is stored (Release); who loads the entry
//!   (Acquire) sees them.
//! * M2 a block that leaves its page is not zeroed until it is taken again, and memory stays a block of its class for
//!   the life of the bus, so a stale reader reads some block and its validation tells.
//!
//! Death: the block is noted in the participant slot (`in_hand`) before the compare-exchange, so recovery finds every
//! block that is HELD by the dead and frees it; blocks whose bits were in the dead one's pool are FREE in their
//! headers, and the next sweep lists them again.

use crate::PageId;
use crate::blocks;
use crate::copy;
use crate::error::{BusFull, Corrupt, PageError};
use crate::hazard;
use crate::layout::page::{
    BlockRef, BlockState, CLASSES, RunHeader, RunShape, SlabEntry, class_for, class_payload,
    run_shape,
};
use crate::layout::participant::{CURSOR_JOINING, IN_HAND};
use crate::layout::{PAGE_BYTES_MAX, SLAB_BYTES};
use crate::participant::{Locked, Participant};
use crate::segment::{Block, Core, Pages};
use crate::stats::Counter;
use crate::sync::{AtomicU64, Ordering};
use crate::testing::step;

/// Free blocks whose bits this participant took: at most one bitmap word per class.
pub(crate) struct Pools {
    classes: Vec<Pool>,
    /// Bits of `in_hand` in use.
    hands: u32,
    /// Blocks this participant retired and may reuse once nobody needs them.
    retired: Vec<Retired>,
    /// Page numbers taken: first number and bits.
    indices: (u32, u64),
    /// The word they came from, and those before them.
    indices_from: Option<u32>,
}

#[derive(Clone, Copy, Default)]
struct Pool {
    /// First slab of the run the bits belong to.
    slab: u32,
    /// Word in its bitmap.
    word: u32,
    bits: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct Retired {
    at: BlockRef,
    class: u32,
    page: PageId,
}

impl Default for Pools {
    fn default() -> Pools {
        Pools {
            classes: vec![Pool::default(); CLASSES as usize],
            hands: 0,
            retired: Vec::new(),
            indices: (0, 0),
            indices_from: None,
        }
    }
}

/// What a block that left its page is good for.
enum Use {
    /// Nobody reads it. To be exchanged: the state, which names the LSN of this life, so the exchange fails if the block
    /// had another one meanwhile.
    None(BlockState),
    /// A pin or a gating cursor needs it.
    Needed,
    /// It has another life already.
    Other,
}

/// Largest block that stays with the participant that freed it.
const KEPT_BYTES_MAX: u64 = 64 << 10;

/// Times that somebody who looks for free blocks or numbers lists them, and finds others quicker, before giving up.
const LISTINGS_MAX: u32 = 16;

/// Refills of the private pool that one allocation makes before it calls the bitmaps corrupt.
const REFILLS_MAX: u32 = 1000;

/// A block in hand: allocated, not yet published.
#[derive(Clone, Copy)]
pub(crate) struct Held<'a> {
    pub(crate) block: Block<'a>,
    pub(crate) class: u32,
    hand: u32,
}

/// Use of a size class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassUse {
    /// Payload bytes of its blocks.
    pub payload: u64,
    /// Slabs it has; memory stays in its class.
    pub slabs: u32,
    /// Blocks it has.
    pub blocks: u64,
    /// Blocks that are free by their headers.
    pub free: u64,
    /// Blocks in hand of a participant, or waiting for pins and cursors.
    pub pending: u64,
}

impl Pages {
    fn run(&self, slab: u32, shape: &RunShape) -> Result<(&RunHeader, &[AtomicU64]), Corrupt> {
        let offset = self.geometry.arena_at + u64::from(slab) * SLAB_BYTES;
        let words = u64::from(shape.blocks).div_ceil(64);
        let at = self.arena_ptr(offset, 64 + words * 8)?;
        // SAFETY: 64 + words × 8 bytes from a slab's start are inside the backed mapping; all fields are atomics.
        unsafe {
            Ok((
                &*at.cast::<RunHeader>(),
                core::slice::from_raw_parts(at.add(64).cast::<AtomicU64>(), words as usize),
            ))
        }
    }

    /// First slabs of the runs of `class`, checked.
    fn runs(&self, class: u32) -> impl Iterator<Item = u32> + '_ {
        // No run lies behind the end of the object, whatever the table says: this bounds every walk over blocks by the
        // memory there is.
        let len = self.refresh_len();
        let bytes = u64::from(run_shape(class).slabs) * SLAB_BYTES;
        let fits = move |slab: u64| self.geometry.arena_at + slab * SLAB_BYTES + bytes <= len;
        // Acquire: pairs with the Release store in `grow`; the run behind the entry is complete.
        self.slabs()
            .iter()
            .enumerate()
            .filter_map(move |(i, slab)| {
                let entry = SlabEntry(slab.load(Ordering::Acquire));
                (entry.is_used()
                    && entry.class() == class
                    && entry.first_slab() == i as u32
                    && fits(i as u64))
                .then_some(i as u32)
            })
    }

    fn block_at(&self, slab: u32, shape: &RunShape, i: u32) -> BlockRef {
        let run = self.geometry.arena_at + u64::from(slab) * SLAB_BYTES;
        BlockRef::at(run + shape.first + u64::from(i) * shape.stride)
    }

    /// Where a block lies: its class, the first slab of its run, its number in the run.
    fn locate(&self, at: BlockRef) -> Result<(u32, u32, u32), Corrupt> {
        let Some(relative) = at.offset().checked_sub(self.geometry.arena_at) else {
            return Err(Corrupt {
                what: "block position",
                offset: at.offset(),
            });
        };
        let slab = (relative / SLAB_BYTES) as usize;
        let entry = self
            .slabs()
            .get(slab)
            .map(|s| SlabEntry(s.load(Ordering::Acquire)));
        let Some(entry) = entry.filter(|e| e.is_used() && e.class() < CLASSES) else {
            return Err(Corrupt {
                what: "slab of a block",
                offset: at.offset(),
            });
        };
        let shape = run_shape(entry.class());
        let start = u64::from(entry.first_slab()) * SLAB_BYTES + shape.first;
        let i = relative
            .checked_sub(start)
            .map(|r| r / shape.stride)
            .filter(|i| *i < u64::from(shape.blocks));
        let Some(i) = i else {
            return Err(Corrupt {
                what: "block number",
                offset: at.offset(),
            });
        };
        Ok((entry.class(), entry.first_slab(), i as u32))
    }

    /// Sets the free bit of a block.
    fn set_free_bit(&self, at: BlockRef) -> Result<(), Corrupt> {
        let (class, slab, i) = self.locate(at)?;
        let (_, words) = self.run(slab, &run_shape(class))?;
        blocks::give_bits(&words[(i / 64) as usize], 1 << (i % 64));
        Ok(())
    }

    /// Moves a block from `from` to FREE and lists it. False if it was not in that state: somebody did it already.
    pub(crate) fn free_block(&self, at: BlockRef, from: BlockState) -> Result<bool, Corrupt> {
        let block = self.block(at, 0)?;
        let freed = blocks::exchange(&block.header.state, from, BlockState::Free);
        if freed {
            step("arena.freed");
            // Listing is a hint; the block is free already. A slab table that was scrambled must not fail a commit that
            // cannot be taken back.
            let _ = self.set_free_bit(at);
        }
        Ok(freed)
    }

    /// Walks all blocks: what `mmsb info` and sweeps need.
    pub fn class_use(&self) -> Vec<ClassUse> {
        let mut list = Vec::new();
        for class in 0..CLASSES {
            let shape = run_shape(class);
            let mut u = ClassUse {
                payload: class_payload(class),
                slabs: 0,
                blocks: 0,
                free: 0,
                pending: 0,
            };
            for slab in self.runs(class) {
                u.slabs += shape.slabs;
                u.blocks += u64::from(shape.blocks);
                for i in 0..shape.blocks {
                    let Ok(block) = self.block(self.block_at(slab, &shape, i), 0) else {
                        continue;
                    };
                    // Relaxed: a report.
                    match BlockState::from_word(block.header.state.load(Ordering::Relaxed)) {
                        BlockState::Free => u.free += 1,
                        BlockState::Held(_) | BlockState::Retired { .. } => u.pending += 1,
                        _ => {}
                    }
                }
            }
            if u.slabs > 0 {
                list.push(u);
            }
        }
        list
    }
}

impl Core {
    /// Whether a block that left the page `page` may be used again.
    fn use_of(&self, block: &Block<'_>, page: u32) -> Use {
        // Acquire: the lsn below is that of this life, or 0, of a later one, and then the exchange fails.
        let state = BlockState::from_word(block.header.state.load(Ordering::Acquire));
        if !matches!(state, BlockState::Retired { page: of, .. } if of == page) {
            return Use::Other;
        }
        // The block left its page before this point.
        hazard::reclaim_fence();
        // Relaxed: a live block's lsn was stored before it was published.
        let published = block.header.lsn.load(Ordering::Relaxed);
        for slot in self.ctl.participants_used() {
            if hazard::is_named(&slot.hazards, block.at.bits()) {
                return Use::Needed;
            }
        }
        // Acquire: a swap is in the log before the log's place passes it (PROTOCOL C3).
        let log = self.ctl.header().log_position.load(Ordering::Acquire);
        if log != 0 && log <= published {
            return Use::Needed;
        }
        for cursor in self.ctl.cursors_used() {
            if cursor.owner.load(Ordering::Acquire) == 0
                || cursor.gating.load(Ordering::Relaxed) == 0
            {
                continue;
            }
            let position = cursor.position.load(Ordering::Acquire);
            if position == CURSOR_JOINING || position <= published {
                return Use::Needed;
            }
        }
        step("arena.unneeded");
        Use::None(state)
    }

    /// Lists every free block of a class again, and frees retired ones that nobody needs. The caller holds the grow
    /// lock. Returns how many it listed.
    fn sweep(&self, class: u32) -> Result<u64, Corrupt> {
        let h = self.ctl.header();
        // AcqRel: a death after this sets the bit again.
        h.sweep_due.fetch_and(!(1 << class), Ordering::AcqRel);
        let shape = run_shape(class);
        let mut found = 0;
        for slab in self.pages.runs(class) {
            for i in 0..shape.blocks {
                let at = self.pages.block_at(slab, &shape, i);
                let block = self.pages.block(at, 0)?;
                match BlockState::from_word(block.header.state.load(Ordering::Acquire)) {
                    BlockState::Free => {
                        let (_, words) = self.pages.run(slab, &shape)?;
                        if blocks::give_bits(&words[(i / 64) as usize], 1 << (i % 64)) != 0 {
                            found += 1;
                        }
                    }
                    BlockState::Retired { page, .. } => {
                        match self.use_of(&block, page) {
                            Use::None(state) => {
                                found += u64::from(self.pages.free_block(at, state)?);
                            }
                            Use::Needed => {
                                // Look again next time.
                                h.sweep_due.fetch_or(1 << class, Ordering::AcqRel);
                            }
                            Use::Other => {}
                        }
                    }
                    _ => {}
                }
            }
        }
        self.pages.count(Counter::Swept, found);
        Ok(found)
    }

    /// Says that blocks of `class` may be free without being listed.
    pub(crate) fn mark_sweep(&self, class: u32) {
        if class < CLASSES {
            self.ctl
                .header()
                .sweep_due
                .fetch_or(1 << class, Ordering::AcqRel);
        }
    }

    /// Says so of every class, and of page numbers.
    pub(crate) fn mark_sweep_all(&self) {
        self.ctl
            .header()
            .sweep_due
            .fetch_or((1 << CLASSES) - 1, Ordering::AcqRel);
        self.ctl.header().sweep_indices.store(1, Ordering::Release);
    }

    /// Class of a block by the slab it lies in.
    pub(crate) fn class_of(&self, at: BlockRef) -> Option<u32> {
        let slab = at.offset().checked_sub(self.pages.geometry.arena_at)? / SLAB_BYTES;
        let entry = SlabEntry(
            self.pages
                .slabs()
                .get(slab as usize)?
                .load(Ordering::Acquire),
        );
        (entry.is_used() && entry.class() < CLASSES).then(|| entry.class())
    }
}

impl Participant {
    /// Takes a free block for `payload` bytes. `zero`: its first `payload` bytes are zero; otherwise they may be what
    /// an earlier version of `page` left there, never another page's.
    pub(crate) fn allocate(
        &self,
        payload: u64,
        reuse_of: Option<PageId>,
    ) -> Result<Held<'_>, PageError> {
        let class = class_for(payload).ok_or(PageError::BadSize {
            bytes: payload.min(PAGE_BYTES_MAX + 1),
        })?;
        let hand = self.take_hand()?;
        let result = self.allocate_in(class, payload, hand, reuse_of);
        if result.is_err() {
            self.free_hand(hand);
        }
        result
    }

    fn allocate_in(
        &self,
        class: u32,
        payload: u64,
        hand: u32,
        reuse_of: Option<PageId>,
    ) -> Result<Held<'_>, PageError> {
        if let Some(page) = reuse_of
            && let Some(block) = self.reuse_retired(class, page, hand)?
        {
            return Ok(Held { block, class, hand });
        }
        let shape = run_shape(class);
        // A listed block that is taken costs a try; so many in a row, when every refill lists free ones, are no race.
        let mut refills = 0;
        loop {
            let Some((slab, i)) = self.next_bit(class) else {
                refills += 1;
                if refills > REFILLS_MAX {
                    return Err(Corrupt {
                        what: "free blocks of a class that are none",
                        offset: class.into(),
                    }
                    .into());
                }
                self.refill(class, &shape)?;
                continue;
            };
            if i >= shape.blocks {
                continue;
            }
            let block = self.core.pages.block(
                self.core.pages.block_at(slab, &shape, i),
                class_payload(class),
            )?;
            if !self.hold_block(&block, hand, BlockState::Free) {
                continue;
            }
            // Relaxed: the block is ours; publication (M1) releases it.
            let fresh = block.header.shape.load(Ordering::Relaxed) == 0;
            // Never 0 from here on, not for class 0 either: that would say that nobody ever wrote to it.
            block.header.shape.store(class | 1 << 8, Ordering::Relaxed);
            if !fresh {
                // SAFETY: `payload` ≤ the class's payload, which lies inside the mapping; the block is ours.
                unsafe {
                    copy::zero(
                        block.payload,
                        payload.next_multiple_of(32).min(class_payload(class)) as usize,
                    )
                };
            }
            return Ok(Held { block, class, hand });
        }
    }

    /// Notes the block, then takes it.
    fn hold_block(&self, block: &Block<'_>, hand: u32, from: BlockState) -> bool {
        // Release: noted before it is taken, so that recovery finds it.
        self.slot().in_hand[hand as usize].store(block.at.bits(), Ordering::Release);
        step("arena.noted");
        let held = blocks::hold(&block.header.state, &block.header.lsn, from, self.me);
        step("arena.held");
        held
    }

    fn take_hand(&self) -> Result<u32, PageError> {
        let mut pools = self.pools.borrow_mut();
        let hand = (!pools.hands).trailing_zeros();
        if hand as usize >= IN_HAND {
            return Err(PageError::TooManyHeld {
                what: "unpublished blocks",
                max: IN_HAND,
            });
        }
        pools.hands |= 1 << hand;
        Ok(hand)
    }

    fn free_hand(&self, hand: u32) {
        // Release: after whatever was done with the block.
        self.slot().in_hand[hand as usize].store(0, Ordering::Release);
        self.pools.borrow_mut().hands &= !(1 << hand);
    }

    /// The block was published: it is in nobody's hand any more.
    pub(crate) fn published(&self, held: &Held<'_>) {
        self.free_hand(held.hand);
    }

    /// Gives an unpublished block back.
    pub(crate) fn give_back(&self, held: &Held<'_>) -> Result<(), PageError> {
        if self.is_stranded() {
            // A committed record names it.
            return Ok(());
        }
        let freed = self
            .core
            .pages
            .free_block(held.block.at, BlockState::Held(self.me));
        self.free_hand(held.hand);
        freed?;
        Ok(())
    }

    /// Lists a block that a commit of this participant made FREE. It stays in the private pool if it is of the word there:
    /// then it is the next one to be taken, while its bytes are still in the cache. A large one, which the cache does not
    /// hold anyway, is listed for all: others would grow the bus beside it.
    pub(crate) fn list_free(&self, at: BlockRef) {
        // As in `free_block`: the block is free already.
        let Ok((class, slab, i)) = self.core.pages.locate(at) else {
            return;
        };
        let mut pools = self.pools.borrow_mut();
        match pools.classes.get_mut(class as usize) {
            Some(pool)
                if (pool.slab, pool.word) == (slab, i / 64)
                    && class_payload(class) <= KEPT_BYTES_MAX =>
            {
                pool.bits |= 1 << (i % 64);
            }
            _ => drop(self.core.pages.set_free_bit(at)),
        }
    }

    fn next_bit(&self, class: u32) -> Option<(u32, u32)> {
        let mut pools = self.pools.borrow_mut();
        let pool = &mut pools.classes[class as usize];
        if pool.bits == 0 {
            return None;
        }
        let bit = pool.bits.trailing_zeros();
        pool.bits &= pool.bits - 1;
        Some((pool.slab, pool.word * 64 + bit))
    }

    /// Takes a word of free bits, after a sweep or growth if there is none.
    #[cold]
    fn refill(&self, class: u32, shape: &RunShape) -> Result<(), PageError> {
        if self.take_bits(class, shape)? {
            return Ok(());
        }
        self.reclaim_retired()?;
        let lock = &self.core.ctl.header().grow_lock;
        self.lock_word(lock, 31, Locked::Growth)?;
        let result = self.refill_locked(class, shape);
        self.unlock_word(lock, 31);
        result
    }

    fn refill_locked(&self, class: u32, shape: &RunShape) -> Result<(), PageError> {
        // Bits are taken without the lock: others may be quicker to what was listed here.
        for _ in 0..LISTINGS_MAX {
            // Somebody else may have grown or freed meanwhile.
            if self.take_bits(class, shape)? {
                return Ok(());
            }
            // Acquire: set by recoveries and leavers.
            if self.core.ctl.header().sweep_due.load(Ordering::Acquire) >> class & 1 == 1 {
                self.core.sweep(class)?;
                if self.take_bits(class, shape)? {
                    return Ok(());
                }
            }
            match self.grow(class, shape) {
                Ok(()) => {}
                Err(full) => {
                    // The last chance: blocks that went unlisted without a note.
                    if self.core.sweep(class)? == 0 {
                        return Err(full);
                    }
                }
            }
        }
        if self.take_bits(class, shape)? {
            return Ok(());
        }
        Err(Corrupt {
            what: "bitmap of a fresh run",
            offset: class.into(),
        }
        .into())
    }

    fn take_bits(&self, class: u32, shape: &RunShape) -> Result<bool, PageError> {
        let start = self.pools.borrow().classes[class as usize].slab;
        let pages = &self.core.pages;
        // From the run used last onwards, then from the first: two passes over the runs at most.
        for pass in 0..2 {
            for slab in pages.runs(class).filter(|s| (*s >= start) == (pass == 0)) {
                let (_, words) = pages.run(slab, shape)?;
                for (i, word) in words.iter().enumerate() {
                    let bits = blocks::take_bits(word);
                    if bits != 0 {
                        step("arena.bits_taken");
                        self.pools.borrow_mut().classes[class as usize] = Pool {
                            slab,
                            word: i as u32,
                            bits,
                        };
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Adds a run. The caller holds the grow lock. A death at any point leaves a state that the next growth completes:
    /// the run counts only once the entry of its first slab is stored.
    fn grow(&self, class: u32, shape: &RunShape) -> Result<(), PageError> {
        let pages = &self.core.pages;
        let header = pages.header();
        let slabs = pages.slabs();
        // Relaxed: only the holder of the grow lock writes it.
        let mut first = header.slabs_used.load(Ordering::Relaxed);
        // A grower that died after its first entry left a complete run behind the count.
        while let Some(entry) = slabs
            .get(first as usize)
            .map(|s| SlabEntry(s.load(Ordering::Acquire)))
        {
            if !entry.is_used() || entry.first_slab() != first || entry.class() >= CLASSES {
                break;
            }
            first += run_shape(entry.class()).slabs;
        }
        let from = pages.geometry.arena_at + u64::from(first) * SLAB_BYTES;
        let to = from + u64::from(shape.slabs) * SLAB_BYTES;
        if first as usize + shape.slabs as usize > slabs.len() {
            return Err(BusFull::Bytes {
                wanted: to - from,
                max: pages.geometry.len_max,
            }
            .into());
        }
        pages.grow(from, to)?;
        step("grow.allocated");
        // Release: pairs with the Acquire in `refresh_len`; the memory is there.
        header.len.fetch_max(to, Ordering::Release);
        pages.refresh_len();
        step("grow.len");
        // A grower that died ahead of its first entry may have left a longer bitmap where this run has blocks.
        let dirty = run_shape(0).first;
        let at = pages.arena_ptr(from, dirty)?;
        // SAFETY: `dirty` bytes from the start of the slab are inside the mapping; no run is there yet.
        unsafe { copy::zero(at, dirty as usize) };
        let (run, words) = pages.run(first, shape)?;
        // Relaxed: published by the first slab's entry below.
        run.class.store(class, Ordering::Relaxed);
        run.blocks.store(shape.blocks, Ordering::Relaxed);
        for (i, word) in words.iter().enumerate() {
            let bits = (shape.blocks - i as u32 * 64).min(64);
            word.store(
                if bits == 64 {
                    u64::MAX
                } else {
                    (1 << bits) - 1
                },
                Ordering::Relaxed,
            );
        }
        step("grow.listed");
        let entry = SlabEntry::new(class, first);
        for slab in (first..first + shape.slabs).rev() {
            // Release, the first slab last: the run is found only when it is complete.
            slabs[slab as usize].store(entry.0, Ordering::Release);
            step("grow.slab");
        }
        header
            .slabs_used
            .store(first + shape.slabs, Ordering::Release);
        step("grow.done");
        Ok(())
    }

    /// Remembers a block that this participant just took off a page.
    pub(crate) fn retire(&self, at: BlockRef, class: u32, page: PageId) {
        let mut pools = self.pools.borrow_mut();
        if pools.retired.len() < 64 {
            pools.retired.push(Retired { at, class, page });
        } else {
            self.core.mark_sweep(class);
        }
    }

    /// Takes back a retired version of the same page, unzeroed, if nobody reads it any more.
    fn reuse_retired(
        &self,
        class: u32,
        page: PageId,
        hand: u32,
    ) -> Result<Option<Block<'_>>, PageError> {
        let mut pools = self.pools.borrow_mut();
        let mut i = 0;
        while i < pools.retired.len() {
            let r = pools.retired[i];
            if r.class == class && r.page == page {
                let block = self.core.pages.block(r.at, class_payload(class))?;
                match self.core.use_of(&block, page.index) {
                    Use::None(state) => {
                        pools.retired.swap_remove(i);
                        if self.hold_block(&block, hand, state) {
                            return Ok(Some(block));
                        }
                        continue;
                    }
                    Use::Other => {
                        pools.retired.swap_remove(i);
                        continue;
                    }
                    Use::Needed => {}
                }
            }
            i += 1;
        }
        Ok(None)
    }

    /// Frees retired blocks that nobody reads any more.
    pub(crate) fn reclaim_retired(&self) -> Result<(), PageError> {
        let mut pools = self.pools.borrow_mut();
        let mut kept = Vec::new();
        for r in std::mem::take(&mut pools.retired) {
            let block = self.core.pages.block(r.at, 0)?;
            match self.core.use_of(&block, r.page.index) {
                Use::None(state) => drop(self.core.pages.free_block(r.at, state)?),
                Use::Needed => kept.push(r),
                Use::Other => {}
            }
        }
        pools.retired = kept;
        Ok(())
    }

    /// Returns bits, numbers and retired blocks before leaving.
    pub(crate) fn give_back_blocks(&self) {
        let _ = self.reclaim_retired();
        let pools = std::mem::take(&mut *self.pools.borrow_mut());
        for (class, pool) in pools.classes.iter().enumerate() {
            if pool.bits != 0
                && let Ok((_, words)) = self.core.pages.run(pool.slab, &run_shape(class as u32))
                && let Some(word) = words.get(pool.word as usize)
            {
                blocks::give_bits(word, pool.bits);
            }
        }
        for r in pools.retired {
            self.core.mark_sweep(r.class);
        }
        let (first, bits) = pools.indices;
        if let Some(word) = self.core.ctl.indices().get(first as usize / 64) {
            blocks::give_bits(word, bits);
        }
    }

    /// A page number that is probably free; the caller locks its owner word and looks at the entry. Generations tell one
    /// page of a number from the next, and a number that has used them all up is not listed again.
    pub(crate) fn next_index(&self) -> Result<u32, PageError> {
        let pages_max = self.core.pages.geometry.pages_max;
        for round in 0..LISTINGS_MAX {
            {
                let mut pools = self.pools.borrow_mut();
                if pools.indices.1 != 0 {
                    let bit = pools.indices.1.trailing_zeros();
                    pools.indices.1 &= pools.indices.1 - 1;
                    let index = pools.indices.0 + bit;
                    if index < pages_max {
                        return Ok(index);
                    }
                    continue;
                }
            }
            if self.take_indices() {
                continue;
            }
            // Acquire: set by recoveries, and by sweeps that found something: others may be quicker to it.
            if round == 0 || self.core.ctl.header().sweep_indices.load(Ordering::Acquire) != 0 {
                self.sweep_indices();
            }
        }
        Err(BusFull::Pages { max: pages_max }.into())
    }

    fn take_indices(&self) -> bool {
        let words = self.core.ctl.indices();
        let hint = &self.core.ctl.header().index_hint;
        // The word that was used last: its numbers, and all that belongs to them, are in the cache. A newcomer begins
        // where nobody else is. Relaxed: a starting point.
        let start = match self.pools.borrow().indices_from {
            Some(word) => word as usize,
            None => hint.load(Ordering::Relaxed) as usize,
        } % words.len().max(1);
        for i in (start..words.len()).chain(0..start) {
            let bits = blocks::take_bits(&words[i]);
            if bits != 0 {
                self.core.pages.raise_indices_used(i as u32 * 64 + 64);
                step("index.bits_taken");
                hint.store(i as u32 + 1, Ordering::Relaxed);
                let mut pools = self.pools.borrow_mut();
                pools.indices = (i as u32 * 64, bits);
                pools.indices_from = Some(i as u32);
                return true;
            }
        }
        false
    }

    /// Lists page numbers that are free by their entries.
    fn sweep_indices(&self) {
        let due = &self.core.ctl.header().sweep_indices;
        due.store(0, Ordering::Release);
        let words = self.core.ctl.indices();
        let mut found = false;
        for (i, entry) in self.core.pages.directory().iter().enumerate() {
            let entry = crate::layout::page::DirectoryEntry(entry.load(Ordering::Acquire));
            if entry.block().is_none()
                && entry.generation() < crate::layout::page::GENERATION_MAX
                && let Some(word) = words.get(i / 64)
            {
                blocks::give_bits(word, 1 << (i % 64));
                found = true;
            }
        }
        if found {
            due.store(1, Ordering::Release);
        }
    }

    /// Lists a page number as free.
    pub(crate) fn free_index(&self, index: u32) {
        let mut pools = self.pools.borrow_mut();
        if pools.indices_from == Some(index / 64) {
            // The first number of the word, also where the pool is empty.
            pools.indices = (index / 64 * 64, pools.indices.1 | 1 << (index % 64));
            return;
        }
        if let Some(word) = self.core.ctl.indices().get(index as usize / 64) {
            blocks::give_bits(word, 1 << (index % 64));
        }
    }
}
