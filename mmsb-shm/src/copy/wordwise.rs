//! The portable form: relaxed atomics of one word where the shared side is aligned, of one byte at its edges.

use super::{SLOT, SLOT_PAYLOAD, TAG};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::Release, fence};

const WORD: usize = 8;

// Relaxed throughout: the callers' fences and validation order the copies, see the module.

unsafe fn byte<'a>(p: *const u8) -> &'a AtomicU8 {
    // SAFETY: the caller's byte of shared memory, accessed by atomics only.
    unsafe { AtomicU8::from_ptr(p.cast_mut()) }
}

unsafe fn word<'a>(p: *const u8) -> &'a AtomicU64 {
    // SAFETY: as above, for an aligned word.
    unsafe { AtomicU64::from_ptr(p.cast_mut().cast()) }
}

/// Calls `one(i)` for single bytes and `eight(i)` for aligned words, which together cover `[0, len)` in order.
fn pieces(shared: *const u8, len: usize, mut one: impl FnMut(usize), mut eight: impl FnMut(usize)) {
    let mut i = 0;
    while i < len {
        if len - i >= WORD && (shared as usize + i).is_multiple_of(WORD) {
            eight(i);
            i += WORD;
        } else {
            one(i);
            i += 1;
        }
    }
}

pub unsafe fn load(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: `pieces` stays inside `[0, len)` of both ranges and calls for words only where `src` is aligned.
    unsafe {
        pieces(
            src,
            len,
            |i| dst.add(i).write(byte(src.add(i)).load(Relaxed)),
            |i| {
                dst.add(i)
                    .cast::<u64>()
                    .write_unaligned(word(src.add(i)).load(Relaxed))
            },
        );
    }
}

pub unsafe fn store(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: as in `load`, with the sides exchanged.
    unsafe {
        pieces(
            dst,
            len,
            |i| byte(dst.add(i)).store(src.add(i).read(), Relaxed),
            |i| word(dst.add(i)).store(src.add(i).cast::<u64>().read_unaligned(), Relaxed),
        );
    }
}

pub unsafe fn move_shared(dst: *mut u8, src: *const u8, len: usize) {
    if !(dst as usize).abs_diff(src as usize).is_multiple_of(WORD) {
        // No word is aligned on both sides.
        for i in 0..len {
            // SAFETY: inside both ranges.
            unsafe { byte(dst.add(i)).store(byte(src.add(i)).load(Relaxed), Relaxed) };
        }
        return;
    }
    // SAFETY: as in `load`; both sides are aligned at the same places.
    unsafe {
        pieces(
            src,
            len,
            |i| byte(dst.add(i)).store(byte(src.add(i)).load(Relaxed), Relaxed),
            |i| word(dst.add(i)).store(word(src.add(i)).load(Relaxed), Relaxed),
        );
    }
}

pub unsafe fn zero(dst: *mut u8, len: usize) {
    // SAFETY: as in `store`.
    unsafe {
        pieces(
            dst,
            len,
            |i| byte(dst.add(i)).store(0, Relaxed),
            |i| word(dst.add(i)).store(0, Relaxed),
        );
    }
}

pub unsafe fn scatter_slots(slot: *mut u8, tag: u64, src: *const u8, len: usize) {
    for (n, from) in (0..len).step_by(SLOT_PAYLOAD).enumerate() {
        let part = SLOT_PAYLOAD.min(len - from);
        // SAFETY: slot `n` of the caller's `len.div_ceil(56)`, and `part` bytes from `from` on inside `[0, len)`.
        unsafe {
            let slot = slot.add(n * SLOT);
            word(slot).store(tag, Relaxed);
            // Release: the tag before the payload, for a reader that copies the payload, fences (Acquire) and then
            // looks at the tag again.
            fence(Release);
            store(slot.add(TAG), src.add(from), part);
            zero(slot.add(TAG + part), SLOT_PAYLOAD - part);
        }
    }
}

pub unsafe fn gather_slots(dst: *mut u8, slot: *const u8, len: usize) {
    for (n, from) in (0..len).step_by(SLOT_PAYLOAD).enumerate() {
        let part = SLOT_PAYLOAD.min(len - from);
        // SAFETY: as in `scatter_slots`.
        unsafe { load(dst.add(from), slot.add(n * SLOT + TAG), part) };
    }
}
