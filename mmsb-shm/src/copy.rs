//! The audited copies between private memory and bytes that another process may be writing.
//!
//! A seqlock reader copies bytes that a writer may change under it, and throws the copy away when validation says so.
//! In Rust's memory model a plain read racing with a write is undefined behaviour, not merely a torn value: the
//! compiler may reread, invent or elide it. Relaxed atomics are the portable way out, but the compiler keeps each of
//! them a separate instruction, and word by word a 1 KiB page costs several times what vectors do. So on x86-64 the
//! shared side is accessed by **inline assembly**: the compiler knows nothing of what such an access sees or stores, so
//! it can assume nothing, and the machine defines it: a racing load yields some mix of old and new bytes. Under Miri,
//! under loom and on other machines the same functions go word by word through relaxed atomics.
//!
//! # What the copies promise
//! - The result is exact wherever nobody else writes; nothing outside the given ranges is read or written.
//! - An aligned 8-byte word is moved whole when source and destination are 8-byte aligned and the length is a multiple
//!   of 8: readers in other languages rely on whole words. A copy of exactly 8 bytes is one access. (A vector is moved
//!   in aligned pieces of at least 8 bytes by every x86-64 processor; only those of up to 16 bytes are vouched for.)
//! - A byte may be accessed twice: sizes that are no multiple of a vector are covered by overlapping vectors. A torn
//!   copy may so hold bytes of more than two moments.
//! - They are not ordered towards other memory operations of other threads beyond what the machine does by itself;
//!   callers put the fences and acquire or release operations around them.

/// Payload bytes in a 64-byte ring slot whose first word is a tag.
pub const SLOT_PAYLOAD: usize = SLOT - TAG;
const SLOT: usize = 64;
const TAG: usize = 8;

#[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
use wordwise as imp;
#[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
use x86 as imp;

/// Copies `len` bytes from shared to private memory.
///
/// # Safety
/// `src` is valid for reads of `len` bytes and, while others may write them, only written by atomics or by this module
/// (or by another process). `dst` is valid for writes of `len` bytes that nobody else accesses. They do not overlap.
#[inline(always)]
pub unsafe fn load(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the same contract, in the same words.
    unsafe { imp::load(dst, src, len) }
}

/// Copies `len` bytes from private to shared memory.
///
/// # Safety
/// `dst` is valid for writes of `len` bytes and, while others may access them, only accessed by atomics or by this
/// module (or by another process). `src` is valid for reads of `len` bytes that nobody writes. They do not overlap.
#[inline(always)]
pub unsafe fn store(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the same contract, in the same words.
    unsafe { imp::store(dst, src, len) }
}

/// Copies `len` bytes from shared to shared memory.
///
/// # Safety
/// As [`load`] for `src` and as [`store`] for `dst`.
#[inline(always)]
pub unsafe fn move_shared(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the same contract, in the same words.
    unsafe { imp::move_shared(dst, src, len) }
}

/// Zeroes `len` bytes of shared memory.
///
/// # Safety
/// As [`store`] for `dst`.
#[inline(always)]
pub unsafe fn zero(dst: *mut u8, len: usize) {
    // SAFETY: the same contract, in the same words.
    unsafe { imp::zero(dst, len) }
}

/// Writes `len` payload bytes into consecutive 64-byte ring slots: each begins with `tag` (native-endian) and holds 56
/// bytes of payload; the unused rest of the last one is zeroed. No slot is touched for `len` 0.
///
/// In each slot the tag is stored before any payload byte, so a reader that finds the old tag *after* copying the
/// payload has not copied anything newer.
///
/// # Safety
/// `slot` is 64-byte aligned and as [`store`]'s `dst` for `len.div_ceil(56) * 64` bytes; `src` as in [`store`].
#[inline(always)]
pub unsafe fn scatter_slots(slot: *mut u8, tag: u64, src: *const u8, len: usize) {
    debug_assert!((slot as usize).is_multiple_of(SLOT));
    // SAFETY: the same contract, in the same words.
    unsafe { imp::scatter_slots(slot, tag, src, len) }
}

/// Reads `len` payload bytes out of consecutive 64-byte ring slots, skipping the 8-byte tag of each: the inverse of
/// [`scatter_slots`]. The tags are not read; checking them, before and after, is the caller's part.
///
/// # Safety
/// `slot` is 64-byte aligned and as [`load`]'s `src` for `len.div_ceil(56) * 64` bytes; `dst` as in [`load`].
#[inline(always)]
pub unsafe fn gather_slots(dst: *mut u8, slot: *const u8, len: usize) {
    debug_assert!((slot as usize).is_multiple_of(SLOT));
    // SAFETY: the same contract, in the same words.
    unsafe { imp::gather_slots(dst, slot, len) }
}

#[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
mod x86;

#[cfg(any(test, not(all(target_arch = "x86_64", not(miri), not(loom)))))]
mod wordwise;

#[cfg(test)]
mod tests;
