//! Bare cache lines that two processes share: what an answer travels by when only the way there is MMSB's.
//!
//! One process [creates](Lines::create) them and starts the other, which inherits the descriptor and
//! [opens](Lines::inherited) them by its number. Everything is an atomic word, so a stranger who writes to them can
//! confuse a measurement but nothing else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Lines in one [`Lines`].
pub const COUNT: usize = 8;

/// Distance of two lines: each on a page of its own, and at another place in its page, because x86 compares only the
/// low twelve address bits when it looks for a store that a load must wait for.
const STRIDE: usize = 4096 + 320;

/// Bytes of the mapping.
const LEN: usize = (COUNT * STRIDE).next_multiple_of(4096);

/// One cache line: eight words, which cross together as long as one side writes and the other reads.
#[repr(C, align(64))]
pub struct Line {
    words: [AtomicU64; 8],
}

impl Line {
    /// Stores the first word, and so publishes whatever was stored before, in this line and elsewhere.
    #[inline(always)]
    pub fn store(&self, value: u64) {
        // Release: pairs with the Acquire in `load`.
        self.words[0].store(value, Ordering::Release);
    }

    /// Loads the first word; who sees a value sees what its writer had stored before it.
    #[inline(always)]
    pub fn load(&self) -> u64 {
        // Acquire: pairs with the Release in `store`.
        self.words[0].load(Ordering::Acquire)
    }

    /// Stores word `at` (1 to 7), which the next [`store`](Line::store) publishes.
    #[inline(always)]
    pub fn put(&self, at: usize, value: u64) {
        // Relaxed: published by `store`.
        self.words[at].store(value, Ordering::Relaxed);
    }

    /// Loads word `at` (1 to 7); good for what [`load`](Line::load) has seen the end of.
    #[inline(always)]
    pub fn get(&self, at: usize) -> u64 {
        // Relaxed: ordered by the `load` before it.
        self.words[at].load(Ordering::Relaxed)
    }
}

/// Some lines in a memory file, all zero at first.
pub struct Lines {
    file: OwnedFd,
    base: *mut u8,
}

// SAFETY: `base` points to a mapping that belongs to this value alone and is only ever used as atomics.
unsafe impl Send for Lines {}
// SAFETY: as above; atomics may be shared.
unsafe impl Sync for Lines {}

impl Lines {
    /// New lines. Processes started from now on inherit the descriptor.
    ///
    /// # Errors
    ///
    /// What the kernel said to making or mapping the file.
    pub fn create() -> io::Result<Lines> {
        let file = memfd_create("mmsb-lines", MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, LEN as u64)?;
        // Nobody can cut it short any more, so touching the mapping cannot fault.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
        Lines::map(file)
    }

    /// The lines of the process that started this one, which had them as descriptor `number`.
    ///
    /// # Errors
    ///
    /// If there is no such descriptor, or it is something else.
    pub fn inherited(number: i32) -> io::Result<Lines> {
        let path = format!("/proc/self/fd/{number}");
        let file: File = OpenOptions::new().read(true).write(true).open(path)?;
        let is_ours = fstat(&file)?.st_size == LEN as i64
            && fcntl_get_seals(&file)?.contains(SealFlags::SHRINK);
        if !is_ours {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("descriptor {number} has no lines in it"),
            ));
        }
        Lines::map(file.into())
    }

    fn map(file: OwnedFd) -> io::Result<Lines> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping where the kernel likes; nothing existing is replaced.
        let base = unsafe { mmap(ptr::null_mut(), LEN, access, flags, &file, 0) }?;
        Ok(Lines {
            file,
            base: base.cast(),
        })
    }

    /// The number of the descriptor, for [`inherited`](Lines::inherited).
    pub fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Line `index`.
    ///
    /// # Panics
    ///
    /// From [`COUNT`] on.
    pub fn line(&self, index: usize) -> &Line {
        assert!(index < COUNT, "there are {COUNT} lines");
        // SAFETY: the mapping is LEN bytes long, which holds COUNT strides, and lives as long as `self`; it starts on a
        // page and the stride is a multiple of 64, so the line is aligned; all bytes are atomics, valid whatever they are,
        // and the seal keeps the file from becoming shorter.
        unsafe { &*self.base.add(index * STRIDE).cast::<Line>() }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`; references into it live no longer than this.
        let _ = unsafe { munmap(self.base.cast(), LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_show_the_same_lines() {
        let mine = Lines::create().unwrap();
        let other = Lines::inherited(mine.number()).unwrap();
        for index in 0..COUNT {
            assert_eq!(other.line(index).load(), 0);
            mine.line(index).put(7, 100 + index as u64);
            mine.line(index).store(index as u64);
        }
        for index in 0..COUNT {
            assert_eq!(other.line(index).load(), index as u64);
            assert_eq!(other.line(index).get(7), 100 + index as u64);
        }
    }

    #[test]
    fn another_file_is_refused() {
        let file = memfd_create("other", MemfdFlags::CLOEXEC).unwrap();
        assert!(Lines::inherited(file.as_raw_fd()).is_err());
        assert!(Lines::inherited(-1).is_err());
    }
}
