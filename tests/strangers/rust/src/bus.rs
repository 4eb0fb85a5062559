//! A bus, read from the outside. Everything here is written after `docs/layout.md`, section by section.
//!
//! Nothing in the mapping is trusted: every offset, length and count is loaded once, checked against the bytes that are
//! mapped, and then used. Loads are whole, aligned 8-byte words; the payloads' too.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use shared_memory::{Shmem, ShmemConf};

// PagesHeader.
const MAGIC: u64 = u64::from_le_bytes(*b"MMSBPAGE");
const MAJOR: u64 = 1;
const MINOR: u64 = 1;
/// Of layout 1.1; a greater minor has another one, and is read all the same.
const HASH: u64 = 0x429d_e5ea_2d1f_6554;
const READY: u64 = 0x5245_4459;
const ABANDONED: u64 = 0x474f_4e45;
const HEADER_BYTES: u64 = 4096;

// BlockHeader, CellHeader, VersionHeader, ColdHeader.
const BLOCK_HEADER_BYTES: u64 = 32;
const CELL_HEADER_BYTES: u64 = 32;
const VERSION_HEADER_BYTES: u64 = 16;
const COLD_HEADER_BYTES: u64 = 32;

/// A page has at most so many bytes.
const PAGE_BYTES_MAX: u64 = 1 << 30;
/// Attempts at one read before it is given up: the writer inside is dead or stopped. A few milliseconds.
const ATTEMPTS_MAX: u32 = 100_000;

/// Why a bus or page could not be read.
#[derive(Debug)]
pub enum Error {
    /// It cannot be mapped.
    Map(String),
    /// It is not what this program can read.
    Not(String),
    /// Bytes that make no sense: what, and where.
    Corrupt(&'static str, u64),
    /// There is no page of this name.
    NoPage(String),
    /// The page is gone.
    Gone,
    /// The bus has grown beyond what is mapped: open it again.
    Grown,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Map(why) | Error::Not(why) => f.write_str(why),
            Error::Corrupt(what, at) => write!(f, "corrupt segment: {what} at offset {at}"),
            Error::NoPage(name) => write!(f, "no page named {name:?}"),
            Error::Gone => f.write_str("the page is gone"),
            Error::Grown => f.write_str("the bus has grown: open it again"),
        }
    }
}

impl std::error::Error for Error {}

/// The mapped page object of a bus.
pub struct Bus {
    memory: Shmem,
    /// Bytes that are safe to touch: the header's `len`, clamped to the length of the object.
    len: u64,
    pages_max: u64,
    names_slots: u64,
    directory_at: u64,
    names_at: u64,
    /// Page memory begins here: tables are ahead of it, blocks behind.
    arena_at: u64,
}

/// A page that was found.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    index: u64,
    generation: u64,
    /// Its bytes.
    pub size: u64,
}

/// What one call of [`Bus::read`] came to.
pub struct Read {
    /// LSN of the last delta in the copy; `None`: the read was given up.
    pub lsn: Option<u64>,
    /// Attempts that found a writer inside, or that were disturbed.
    pub retries: u32,
}

/// Outcome of one attempt.
enum Attempt {
    Good(u64),
    Again,
}

/// What a look at the name directory came to.
enum Probe {
    Page(u64, u64),
    /// With the words that it met.
    None(Vec<u64>),
    Again,
}

/// What a cold block is about.
enum Cold {
    Page(u64, u64),
    Other,
    Changed,
}

/// A block of page memory, inside the mapping with all its payload.
struct Block {
    at: u64,
    size: u64,
    shape: u64,
}

impl Block {
    /// Version slots; 0 or 1: the payload is the page.
    fn versions(&self) -> u64 {
        self.shape >> 8 & 0xff
    }
}

impl Bus {
    /// Maps bus `name`, which must be in `/dev/shm`: `shm_open` knows no other place.
    pub fn open(name: &str) -> Result<Bus, Error> {
        if name.is_empty() || name.contains(['/', '\0']) {
            return Err(Error::Not(format!("bad bus name {name:?}")));
        }
        let id = format!("/mmsb.{name}.pages");
        // An empty object cannot be mapped, and the crate would say only that.
        let memory = ShmemConf::new().os_id(&id).open().map_err(|error| {
            Error::Map(format!(
                "cannot map {id} (is there such a bus, may you write it?): {error}"
            ))
        })?;
        let mut bus = Bus {
            len: memory.len() as u64,
            memory,
            pages_max: 0,
            names_slots: 0,
            directory_at: 0,
            names_at: 0,
            arena_at: 0,
        };
        bus.check_header()?;
        Ok(bus)
    }

    fn check_header(&mut self) -> Result<(), Error> {
        if self.len < HEADER_BYTES {
            return Err(Error::Not(format!(
                "{} bytes are too few for a bus",
                self.len
            )));
        }
        let magic = self.u64(0)?;
        if magic != MAGIC {
            return Err(Error::Not(format!("not a bus: magic {magic:#018x}")));
        }
        let major = self.u32(8)?;
        if major != MAJOR {
            return Err(Error::Not(format!(
                "layout {major}, and this program reads layout {MAJOR}"
            )));
        }
        let features = self.u64(16)?;
        if features != 0 {
            return Err(Error::Not(format!("unknown features {features:#x}")));
        }
        let (minor, hash) = (self.u32(12)?, self.u64(24)?);
        if minor < MINOR || minor == MINOR && hash != HASH {
            return Err(Error::Not(format!(
                "layout {major}.{minor} with hash {hash:#018x}, and this program reads {MAJOR}.{MINOR} with {HASH:#018x}"
            )));
        }
        match self.u32(32)? {
            READY => {}
            ABANDONED => return Err(Error::Not("the bus was replaced: open it again".into())),
            state => return Err(Error::Not(format!("the bus is not ready: {state:#x}"))),
        }
        // The object may have grown since it was mapped, and its header may say anything.
        self.len = self.u64(1024)?.min(self.len);
        self.arena_at = self.u64(136)?;
        if self.arena_at < HEADER_BYTES || self.arena_at > self.len {
            return Err(Error::Corrupt("the place of page memory", 136));
        }
        self.pages_max = self.u32(80)?;
        self.names_slots = self.u32(84)?;
        self.directory_at = self.table("page directory", 96, self.pages_max)?;
        self.names_at = self.table("name directory", 104, self.names_slots)?;
        if !self.names_slots.is_power_of_two() {
            return Err(Error::Corrupt("slots of the name directory", 84));
        }
        Ok(())
    }

    /// Whether the bus is still in use: a rebuild from a log makes a new one, and leaves this one behind.
    pub fn is_current(&self) -> Result<bool, Error> {
        Ok(self.u32(32)? == READY)
    }

    /// The offset of a table of `count` words, as the header has it at `at`.
    fn table(&self, what: &'static str, at: u64, count: u64) -> Result<u64, Error> {
        let offset = self.u64(at)?;
        let end = count.checked_mul(8).and_then(|n| offset.checked_add(n));
        match end {
            Some(end)
                if offset.is_multiple_of(64) && offset >= HEADER_BYTES && end <= self.arena_at =>
            {
                Ok(offset)
            }
            _ => Err(Error::Corrupt(what, at)),
        }
    }

    /// The word at `at`, which must be aligned and inside what is mapped.
    fn word(&self, at: u64) -> Result<&AtomicU64, Error> {
        let inside = at.checked_add(8).is_some_and(|end| end <= self.len);
        if !inside || !at.is_multiple_of(8) {
            return Err(Error::Corrupt("a word outside of the bus", at));
        }
        // SAFETY: inside the mapping and aligned, as just checked (a mapping begins on a page); the mapping lives as
        // long as `self`; other processes write these bytes, and atomics may be written by others.
        Ok(unsafe { &*self.memory.as_ptr().add(at as usize).cast::<AtomicU64>() })
    }

    fn u64(&self, at: u64) -> Result<u64, Error> {
        Ok(self.word(at)?.load(Ordering::Acquire))
    }

    /// The 4 bytes at `at`, by way of the word they are in.
    fn u32(&self, at: u64) -> Result<u64, Error> {
        let word = self.u64(at & !7)?;
        Ok(if at & 4 == 0 { word } else { word >> 32 } & 0xffff_ffff)
    }

    /// `count` words from `at` on, inside what is mapped.
    fn words(&self, at: u64, count: usize) -> Result<&[AtomicU64], Error> {
        if count == 0 {
            return Ok(&[]);
        }
        let first = self.word(at)?;
        let bytes = (count as u64)
            .checked_mul(8)
            .ok_or(Error::Corrupt("a length", at))?;
        let end = at.checked_add(bytes).filter(|end| *end <= self.len);
        end.ok_or(Error::Corrupt("words outside of the bus", at))?;
        // SAFETY: the first word is good, the last one ends inside the mapping, too; otherwise as in `word`.
        Ok(unsafe { std::slice::from_raw_parts(first, count) })
    }

    fn bytes(&self, at: u64, len: u64) -> Result<Vec<u8>, Error> {
        let words = self.words(at, len.div_ceil(8) as usize)?;
        let mut bytes: Vec<u8> = words
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        bytes.truncate(len as usize);
        Ok(bytes)
    }

    /// The block with this number. What it says of itself is checked against the mapping, and against nothing else: it
    /// may have been given to another page meanwhile.
    fn block(&self, number: u64) -> Result<Block, Error> {
        let at = number
            .checked_mul(32)
            .filter(|at| *at >= self.arena_at)
            .ok_or(Error::Corrupt("a block number", number))?;
        let (size, shape) = (self.u32(at + 24)?, self.u32(at + 28)?);
        let block = Block { at, size, shape };
        if !(1..=PAGE_BYTES_MAX).contains(&size) || !matches!(block.versions(), 0 | 1 | 4..=64) {
            return Err(Error::Corrupt("the size or shape of a block", at + 24));
        }
        Ok(block)
    }

    /// The entry of the page directory for page index `index`.
    fn entry(&self, index: u64) -> Result<&AtomicU64, Error> {
        if index >= self.pages_max {
            return Err(Error::Corrupt("a page index", index));
        }
        self.word(self.directory_at + index * 8)
    }

    /// Finds a page by its name.
    pub fn find(&self, name: &str) -> Result<Page, Error> {
        let hash = mix(fnv1a(name.as_bytes()));
        let mut before = None;
        // What changes while it is looked at: somebody renames, creates or destroys pages just now.
        for _ in 0..ATTEMPTS_MAX {
            match self.probe(hash, name)? {
                Probe::Page(index, generation) => match self.page(index, generation) {
                    Err(Error::Gone) => {}
                    found => return found,
                },
                // An entry that is replaced may have moved to a place that the probe had passed: only two probes that
                // met the same words have seen everything.
                Probe::None(words) if before.as_ref() == Some(&words) => {
                    return Err(Error::NoPage(name.to_owned()));
                }
                Probe::None(words) => before = Some(words),
                Probe::Again => before = None,
            }
        }
        Err(Error::Corrupt(
            "a name directory without rest",
            self.names_at,
        ))
    }

    fn probe(&self, hash: u64, name: &str) -> Result<Probe, Error> {
        let tag = hash >> 37;
        let mut words = Vec::new();
        // A full table has no end of a probe: once around is enough.
        for step in 0..self.names_slots {
            let slot = hash.wrapping_add(step) & (self.names_slots - 1);
            let entry = self.word(self.names_at + slot * 8)?;
            let seen = entry.load(Ordering::Acquire);
            words.push(seen);
            if seen == 0 {
                break;
            }
            let is_by_id = seen >> 63 == 1;
            if seen == 1 || is_by_id || seen >> 36 & 0x07ff_ffff != tag {
                continue;
            }
            match self.cold(entry, seen, name)? {
                Cold::Page(index, generation) => return Ok(Probe::Page(index, generation)),
                Cold::Other => {}
                Cold::Changed => return Ok(Probe::Again),
            }
        }
        Ok(Probe::None(words))
    }

    /// What the cold block of a name entry is about.
    fn cold(&self, entry: &AtomicU64, seen: u64, name: &str) -> Result<Cold, Error> {
        let header = (seen & 0x000f_ffff_ffff) * 32;
        if header < self.arena_at {
            return Err(Error::Corrupt("a cold block", header));
        }
        let at = header + BLOCK_HEADER_BYTES;
        let (lsn, state) = (self.word(header + 8)?, self.word(header + 16)?);
        let before = (state.load(Ordering::Acquire), lsn.load(Ordering::Relaxed));
        let (index, generation) = (self.u32(at)?, self.u32(at + 4)?);
        let found = match self.u32(at + 16)? == name.len() as u64 {
            true => self
                .bytes(at + COLD_HEADER_BYTES, name.len() as u64)
                .map(Some),
            false => Ok(None),
        };
        fence(Ordering::Acquire);
        let after = (state.load(Ordering::Acquire), lsn.load(Ordering::Acquire));
        // Believed only if all three are the same: the block may have been freed, filled and linked again under the very
        // same word. Before that, errors are no news either.
        if after != before || entry.load(Ordering::Relaxed) != seen {
            return Ok(Cold::Changed);
        }
        Ok(match found? {
            Some(found) if found == name.as_bytes() => Cold::Page(index, generation),
            _ => Cold::Other,
        })
    }

    fn page(&self, index: u64, generation: u64) -> Result<Page, Error> {
        let entry = self.entry(index)?;
        for _ in 0..ATTEMPTS_MAX {
            let seen = entry.load(Ordering::Acquire);
            let block = self.block(self.number_in(seen, generation)?);
            fence(Ordering::Acquire);
            if entry.load(Ordering::Relaxed) == seen {
                return Ok(Page {
                    index,
                    generation,
                    size: block?.size,
                });
            }
        }
        Err(Error::Corrupt("an entry without rest", index))
    }

    /// The block that a directory entry leads to, if it is still the page of this generation.
    fn number_in(&self, entry: u64, generation: u64) -> Result<u64, Error> {
        let number = entry & 0x000f_ffff_ffff;
        if number == 0 || entry >> 36 != generation {
            return Err(Error::Gone);
        }
        Ok(number)
    }

    /// Reads the page into `words`, which is exactly as large. Whatever the kind of page: the block says which.
    pub fn read(&self, page: &Page, words: &mut [u64]) -> Result<Read, Error> {
        for retries in 0..ATTEMPTS_MAX {
            match self.attempt(page, words) {
                Ok(Attempt::Good(lsn)) => {
                    return Ok(Read {
                        lsn: Some(lsn),
                        retries,
                    });
                }
                Ok(Attempt::Again) => std::hint::spin_loop(),
                // Offsets may have led into memory that came later.
                Err(Error::Corrupt(..)) if self.u64(1024)? > self.memory.len() as u64 => {
                    return Err(Error::Grown);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Read {
            lsn: None,
            retries: ATTEMPTS_MAX,
        })
    }

    fn attempt(&self, page: &Page, words: &mut [u64]) -> Result<Attempt, Error> {
        let entry = self.entry(page.index)?;
        let seen = entry.load(Ordering::Acquire);
        let number = self.number_in(seen, page.generation)?;
        let attempt = self.block(number).and_then(|block| {
            if block.size != page.size {
                // Either the block is another page's by now, or it never was as large.
                Err(Error::Corrupt("the size of a page", block.at + 24))
            } else if block.versions() > 1 {
                self.attempt_cell(entry, seen, &block, words)
            } else {
                self.attempt_block(entry, seen, &block, words)
            }
        });
        match attempt {
            // What a block that the page has left says is no news.
            Err(_) if entry.load(Ordering::Acquire) != seen => Ok(Attempt::Again),
            attempt => attempt,
        }
    }

    /// A page that is patched in place, or swapped for a loaned block.
    fn attempt_block(
        &self,
        entry: &AtomicU64,
        seen: u64,
        block: &Block,
        words: &mut [u64],
    ) -> Result<Attempt, Error> {
        let seq = self.word(block.at)?;
        let before = seq.load(Ordering::Acquire);
        if before & 1 == 1 {
            return Ok(Attempt::Again);
        }
        let payload = self.words(block.at + BLOCK_HEADER_BYTES, words.len())?;
        copy(payload, words);
        let lsn = self.word(block.at + 8)?.load(Ordering::Relaxed);
        // Pairs with the writer's release of `seq`: whatever of a later delta the copy holds, `seq` or the entry tells.
        fence(Ordering::Acquire);
        // The entry first. A block that left the page may be filled again and come back, under the same entry: whoever
        // sees it there, by the acquire, sees its new `seq` too. The other way round, the old `seq` could be seen, then
        // the block come back, and the copy be of one half filled.
        let now = entry.load(Ordering::Acquire);
        let after = seq.load(Ordering::Relaxed);
        let unchanged = now == seen && after == before; // validated: the entry and seq are unchanged
        Ok(if unchanged {
            Attempt::Good(lsn)
        } else {
            Attempt::Again
        })
    }

    /// A cell: the copy is good as long as the writer has not come round to its version slot.
    fn attempt_cell(
        &self,
        entry: &AtomicU64,
        seen: u64,
        block: &Block,
        words: &mut [u64],
    ) -> Result<Attempt, Error> {
        let versions = block.versions();
        let cell = block.at + BLOCK_HEADER_BYTES;
        let stride = (VERSION_HEADER_BYTES + block.size).next_multiple_of(64);
        let head = self.word(cell)?;
        let before = head.load(Ordering::Acquire);
        let slot = cell + CELL_HEADER_BYTES + before % versions * stride;
        let payload = self.words(slot + VERSION_HEADER_BYTES, words.len())?;
        copy(payload, words);
        let lsn = self.word(slot)?.load(Ordering::Relaxed);
        // Pairs with the writer's release of `head`.
        fence(Ordering::Acquire);
        // A page that is gone may have left its block to another one.
        if entry.load(Ordering::Acquire) != seen {
            return Ok(Attempt::Again);
        }
        let passed = head.load(Ordering::Relaxed).wrapping_sub(before);
        let unchanged = passed <= versions - 2; // validated: the writer has not come round to this version slot
        Ok(if unchanged {
            Attempt::Good(lsn)
        } else {
            Attempt::Again
        })
    }
}

fn copy(from: &[AtomicU64], to: &mut [u64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = from.load(Ordering::Relaxed);
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
