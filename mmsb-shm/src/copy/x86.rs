//! Inline assembly on the shared side: overlapping words and vectors inline up to 128 bytes, loops beyond.
//!
//! `rep movsb` was measured and left out: with fast short copies announced it wins a tenth from 4 KiB on when both
//! sides are aligned alike, loses below, and does not say in which pieces it moves.

use super::{SLOT, SLOT_PAYLOAD, TAG};
use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_setzero_si128};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// How one side of a copy is accessed. Pointers need no alignment; each is valid for the width named.
trait Side {
    unsafe fn get8(p: *const u8) -> u8;
    unsafe fn get16(p: *const u8) -> u16;
    unsafe fn get32(p: *const u8) -> u32;
    unsafe fn get64(p: *const u8) -> u64;
    unsafe fn get128(p: *const u8) -> __m128i;
    unsafe fn put8(p: *mut u8, v: u8);
    unsafe fn put16(p: *mut u8, v: u16);
    unsafe fn put32(p: *mut u8, v: u32);
    unsafe fn put64(p: *mut u8, v: u64);
    unsafe fn put128(p: *mut u8, v: __m128i);
}

/// Memory that only this thread accesses: the compiler sees the accesses and may keep values in registers.
struct Private;
/// Memory that others may access at the same time: one machine instruction per access.
struct Shared;

macro_rules! access {
    ($($get:ident $put:ident $ty:ty, $class:ident, $load:literal, $store:literal;)*) => {
        impl Side for Private {$(
            #[inline(always)]
            unsafe fn $get(p: *const u8) -> $ty {
                // SAFETY: the caller's pointer is valid for the width; alignment is not needed.
                unsafe { p.cast::<$ty>().read_unaligned() }
            }
            #[inline(always)]
            unsafe fn $put(p: *mut u8, v: $ty) {
                // SAFETY: as above.
                unsafe { p.cast::<$ty>().write_unaligned(v) }
            }
        )*}
        impl Side for Shared {$(
            #[inline(always)]
            unsafe fn $get(p: *const u8) -> $ty {
                let v: $ty;
                // SAFETY: one load of the width for which the caller's pointer is valid. Not `pure`: each call
                // is an access of its own, which the compiler may not merge with another.
                unsafe {
                    asm!($load, p = in(reg) p, v = out($class) v, options(nostack, preserves_flags, readonly));
                }
                v
            }
            #[inline(always)]
            unsafe fn $put(p: *mut u8, v: $ty) {
                // SAFETY: one store of the width for which the caller's pointer is valid.
                unsafe {
                    asm!($store, p = in(reg) p, v = in($class) v, options(nostack, preserves_flags));
                }
            }
        )*}
    };
}

access! {
    get8 put8 u8, reg_byte, "mov {v}, byte ptr [{p}]", "mov byte ptr [{p}], {v}";
    get16 put16 u16, reg, "movzx {v:e}, word ptr [{p}]", "mov word ptr [{p}], {v:x}";
    get32 put32 u32, reg, "mov {v:e}, dword ptr [{p}]", "mov dword ptr [{p}], {v:e}";
    get64 put64 u64, reg, "mov {v:r}, qword ptr [{p}]", "mov qword ptr [{p}], {v:r}";
    get128 put128 __m128i, xmm_reg, "movups {v}, xmmword ptr [{p}]", "movups xmmword ptr [{p}], {v}";
}

#[inline(always)]
pub unsafe fn load(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: `load`'s contract: `src` shared, `dst` private.
    unsafe { copy::<Shared, Private>(dst, src, len) }
}

#[inline(always)]
pub unsafe fn store(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: `store`'s contract: `src` private, `dst` shared.
    unsafe { copy::<Private, Shared>(dst, src, len) }
}

#[inline(always)]
pub unsafe fn move_shared(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: `move_shared`'s contract: both shared.
    unsafe { copy::<Shared, Shared>(dst, src, len) }
}

/// Each branch covers a range of lengths by accesses from the front and from the end that overlap in the middle;
/// with a constant length only one branch remains.
#[inline(always)]
unsafe fn copy<S: Side, D: Side>(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: every access below is at `[i, i + width)` or `[len - i - width, len - i)` with the branch's lower
    // bound on `len` making both lie in `[0, len)`, for which the caller vouches.
    unsafe {
        if len == 8 {
            return D::put64(dst, S::get64(src));
        }
        if len > 128 {
            return copy_large(dst, src, len);
        }
        if len <= 16 {
            if len >= 8 {
                let (a, b) = (S::get64(src), S::get64(src.add(len - 8)));
                D::put64(dst, a);
                D::put64(dst.add(len - 8), b);
            } else if len >= 4 {
                let (a, b) = (S::get32(src), S::get32(src.add(len - 4)));
                D::put32(dst, a);
                D::put32(dst.add(len - 4), b);
            } else if len >= 2 {
                let (a, b) = (S::get16(src), S::get16(src.add(len - 2)));
                D::put16(dst, a);
                D::put16(dst.add(len - 2), b);
            } else if len == 1 {
                D::put8(dst, S::get8(src));
            }
            return;
        }
        // 17 to 128: one, two or four vectors from the front and as many up to the end.
        let (src_end, dst_end) = (src.add(len), dst.add(len));
        if len <= 32 {
            let (a, b) = (S::get128(src), S::get128(src_end.sub(16)));
            D::put128(dst, a);
            D::put128(dst_end.sub(16), b);
        } else if len <= 64 {
            let (a, b) = (S::get128(src), S::get128(src.add(16)));
            let (c, d) = (S::get128(src_end.sub(32)), S::get128(src_end.sub(16)));
            D::put128(dst, a);
            D::put128(dst.add(16), b);
            D::put128(dst_end.sub(32), c);
            D::put128(dst_end.sub(16), d);
        } else {
            let (a, b) = (S::get128(src), S::get128(src.add(16)));
            let (c, d) = (S::get128(src.add(32)), S::get128(src.add(48)));
            let (e, f) = (S::get128(src_end.sub(64)), S::get128(src_end.sub(48)));
            let (g, h) = (S::get128(src_end.sub(32)), S::get128(src_end.sub(16)));
            D::put128(dst, a);
            D::put128(dst.add(16), b);
            D::put128(dst.add(32), c);
            D::put128(dst.add(48), d);
            D::put128(dst_end.sub(64), e);
            D::put128(dst_end.sub(48), f);
            D::put128(dst_end.sub(32), g);
            D::put128(dst_end.sub(16), h);
        }
    }
}

#[inline(always)]
pub unsafe fn zero(dst: *mut u8, len: usize) {
    // SAFETY: as in `copy`, for `dst` alone. The intrinsic needs SSE2, which x86-64 always has.
    unsafe {
        if len > 128 {
            return zero_large(dst, len);
        }
        if len <= 16 {
            if len >= 8 {
                Shared::put64(dst, 0);
                Shared::put64(dst.add(len - 8), 0);
            } else if len >= 4 {
                Shared::put32(dst, 0);
                Shared::put32(dst.add(len - 4), 0);
            } else if len >= 2 {
                Shared::put16(dst, 0);
                Shared::put16(dst.add(len - 2), 0);
            } else if len == 1 {
                Shared::put8(dst, 0);
            }
            return;
        }
        let zero = _mm_setzero_si128();
        let end = dst.add(len);
        Shared::put128(dst, zero);
        Shared::put128(end.sub(16), zero);
        if len > 32 {
            Shared::put128(dst.add(16), zero);
            Shared::put128(end.sub(32), zero);
        }
        if len > 64 {
            Shared::put128(dst.add(32), zero);
            Shared::put128(dst.add(48), zero);
            Shared::put128(end.sub(64), zero);
            Shared::put128(end.sub(48), zero);
        }
    }
}

const UNKNOWN: u8 = 0;
const SSE2: u8 = 1;
const AVX: u8 = 2;
/// What the processor and the kernel support; found out once.
static LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);

#[inline(always)]
fn has_avx() -> bool {
    // Relaxed: the value depends on nothing else, and finding it out twice gives the same.
    match LEVEL.load(Relaxed) {
        AVX => true,
        SSE2 => false,
        _ => detect(),
    }
}

#[cold]
#[inline(never)]
fn detect() -> bool {
    let avx = std::arch::is_x86_feature_detected!("avx");
    // Relaxed: see `has_avx`.
    LEVEL.store(if avx { AVX } else { SSE2 }, Relaxed);
    avx
}

// Out of line: the calling convention then keeps no vector register alive across the assembly.
#[inline(never)]
unsafe fn copy_large(dst: *mut u8, src: *const u8, len: usize) {
    // SAFETY: the caller's ranges; `len` > 128 (every caller checks), and AVX only where it was detected.
    unsafe {
        if has_avx() {
            copy_avx(dst, src, len)
        } else {
            copy_sse2(dst, src, len)
        }
    }
}

#[inline(never)]
unsafe fn zero_large(dst: *mut u8, len: usize) {
    // SAFETY: as in `copy_large`.
    unsafe {
        if has_avx() {
            zero_avx(dst, len)
        } else {
            zero_sse2(dst, len)
        }
    }
}

/// One vector unaligned, then four at a time to aligned addresses, then four unaligned up to the very end.
macro_rules! large {
    ($copy:ident, $zero:ident, $width:literal, $mov:literal, $clear:literal, $done:literal,
     $a:literal, $b:literal, $c:literal, $d:literal) => {
        /// # Safety
        /// As `store`, `len` is at least four vectors, and the processor has the instructions.
        pub(super) unsafe fn $copy(dst: *mut u8, src: *const u8, len: usize) {
            debug_assert!(len >= 4 * $width);
            // 1 to one whole vector, so that `d` is aligned and progress was made.
            let head = $width - (dst as usize & ($width - 1));
            // SAFETY: the first vector lies in the ranges as `len` >= 4 vectors. The loop runs only while
            // `d < tail`, so its four vectors end before the end. The tail is the last four vectors of the ranges;
            // `d >= tail` by then, so nothing is left out.
            unsafe {
                asm!(
                    concat!($mov, " ", $a, ", [{src}]"),
                    concat!($mov, " [{dst}], ", $a),
                    "cmp {d}, {dst_tail}",
                    "jae 3f",
                    ".p2align 4",
                    "2:",
                    concat!($mov, " ", $a, ", [{s}]"),
                    concat!($mov, " ", $b, ", [{s} + {w}]"),
                    concat!($mov, " ", $c, ", [{s} + 2 * {w}]"),
                    concat!($mov, " ", $d, ", [{s} + 3 * {w}]"),
                    concat!($mov, " [{d}], ", $a),
                    concat!($mov, " [{d} + {w}], ", $b),
                    concat!($mov, " [{d} + 2 * {w}], ", $c),
                    concat!($mov, " [{d} + 3 * {w}], ", $d),
                    "add {s}, 4 * {w}",
                    "add {d}, 4 * {w}",
                    "cmp {d}, {dst_tail}",
                    "jb 2b",
                    "3:",
                    concat!($mov, " ", $a, ", [{src_tail}]"),
                    concat!($mov, " ", $b, ", [{src_tail} + {w}]"),
                    concat!($mov, " ", $c, ", [{src_tail} + 2 * {w}]"),
                    concat!($mov, " ", $d, ", [{src_tail} + 3 * {w}]"),
                    concat!($mov, " [{dst_tail}], ", $a),
                    concat!($mov, " [{dst_tail} + {w}], ", $b),
                    concat!($mov, " [{dst_tail} + 2 * {w}], ", $c),
                    concat!($mov, " [{dst_tail} + 3 * {w}], ", $d),
                    $done,
                    w = const $width,
                    src = in(reg) src,
                    dst = in(reg) dst,
                    src_tail = in(reg) src.add(len - 4 * $width),
                    dst_tail = in(reg) dst.add(len - 4 * $width),
                    s = inout(reg) src.add(head) => _,
                    d = inout(reg) dst.add(head) => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    // vzeroupper clears the upper half of every register.
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
        }

        /// # Safety
        /// As `zero`, `len` is at least four vectors, and the processor has the instructions.
        pub(super) unsafe fn $zero(dst: *mut u8, len: usize) {
            debug_assert!(len >= 4 * $width);
            let head = $width - (dst as usize & ($width - 1));
            // SAFETY: as in the copy.
            unsafe {
                asm!(
                    $clear,
                    concat!($mov, " [{dst}], ", $a),
                    "cmp {d}, {tail}",
                    "jae 3f",
                    ".p2align 4",
                    "2:",
                    concat!($mov, " [{d}], ", $a),
                    concat!($mov, " [{d} + {w}], ", $a),
                    concat!($mov, " [{d} + 2 * {w}], ", $a),
                    concat!($mov, " [{d} + 3 * {w}], ", $a),
                    "add {d}, 4 * {w}",
                    "cmp {d}, {tail}",
                    "jb 2b",
                    "3:",
                    concat!($mov, " [{tail}], ", $a),
                    concat!($mov, " [{tail} + {w}], ", $a),
                    concat!($mov, " [{tail} + 2 * {w}], ", $a),
                    concat!($mov, " [{tail} + 3 * {w}], ", $a),
                    $done,
                    w = const $width,
                    dst = in(reg) dst,
                    tail = in(reg) dst.add(len - 4 * $width),
                    d = inout(reg) dst.add(head) => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nostack),
                );
            }
        }
    };
}

large!(
    copy_sse2,
    zero_sse2,
    16,
    "movups",
    "xorps xmm0, xmm0",
    "",
    "xmm0",
    "xmm1",
    "xmm2",
    "xmm3"
);
large!(
    copy_avx,
    zero_avx,
    32,
    "vmovdqu",
    "vpxor xmm0, xmm0, xmm0",
    "vzeroupper",
    "ymm0",
    "ymm1",
    "ymm2",
    "ymm3"
);

#[inline(always)]
pub unsafe fn scatter_slots(mut slot: *mut u8, tag: u64, mut src: *const u8, len: usize) {
    let (whole, rest) = (len / SLOT_PAYLOAD, len % SLOT_PAYLOAD);
    // SAFETY: the caller's ranges: `whole` slots of 64 bytes and payloads of 56, then one slot more if `rest`.
    unsafe {
        if whole > 2 {
            scatter_whole(slot, tag, src, whole);
        } else if whole > 0 {
            scatter_one(slot, tag, src);
            if whole == 2 {
                scatter_one(slot.add(SLOT), tag, src.add(SLOT_PAYLOAD));
            }
        }
        if rest > 0 {
            (slot, src) = (slot.add(whole * SLOT), src.add(whole * SLOT_PAYLOAD));
            Shared::put64(slot, tag);
            let zero = _mm_setzero_si128();
            Shared::put128(slot.add(TAG), zero);
            Shared::put128(slot.add(TAG + 16), zero);
            Shared::put128(slot.add(TAG + 32), zero);
            Shared::put128(slot.add(SLOT - 16), zero);
            copy::<Private, Shared>(slot.add(TAG), src, rest);
        }
    }
}

#[inline(always)]
pub unsafe fn gather_slots(dst: *mut u8, slot: *const u8, len: usize) {
    let (whole, rest) = (len / SLOT_PAYLOAD, len % SLOT_PAYLOAD);
    // SAFETY: as in `scatter_slots`.
    unsafe {
        if whole > 2 {
            gather_whole(dst, slot, whole);
        } else if whole > 0 {
            copy::<Shared, Private>(dst, slot.add(TAG), SLOT_PAYLOAD);
            if whole == 2 {
                copy::<Shared, Private>(dst.add(SLOT_PAYLOAD), slot.add(SLOT + TAG), SLOT_PAYLOAD);
            }
        }
        if rest > 0 {
            let (slot, dst) = (slot.add(whole * SLOT), dst.add(whole * SLOT_PAYLOAD));
            copy::<Shared, Private>(dst, slot.add(TAG), rest);
        }
    }
}

#[inline(always)]
unsafe fn scatter_one(slot: *mut u8, tag: u64, src: *const u8) {
    // SAFETY: the caller's slot and its 56 payload bytes. Assembly with effects stays in order, so the tag is first.
    unsafe {
        Shared::put64(slot, tag);
        copy::<Private, Shared>(slot.add(TAG), src, SLOT_PAYLOAD);
    }
}

#[inline(never)]
pub(super) unsafe fn scatter_whole(slot: *mut u8, tag: u64, src: *const u8, slots: usize) {
    // SAFETY: the caller's `slots` slots and payloads, at least one; AVX only where it was detected.
    unsafe {
        if !has_avx() {
            for i in 0..slots {
                scatter_one(slot.add(i * SLOT), tag, src.add(i * SLOT_PAYLOAD));
            }
            return;
        }
        // 56 bytes as two vectors that share 8 bytes; the second store is aligned, neither leaves the line.
        asm!(
            ".p2align 4",
            "2:",
            "vmovdqu ymm0, [{src}]",
            "vmovdqu ymm1, [{src} + 24]",
            "mov [{slot}], {tag}",
            "vmovdqu [{slot} + 8], ymm0",
            "vmovdqu [{slot} + 32], ymm1",
            "add {src}, 56",
            "add {slot}, 64",
            "dec {slots}",
            "jnz 2b",
            "vzeroupper",
            src = inout(reg) src => _,
            slot = inout(reg) slot => _,
            slots = inout(reg) slots => _,
            tag = in(reg) tag,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
}

#[inline(never)]
pub(super) unsafe fn gather_whole(dst: *mut u8, slot: *const u8, slots: usize) {
    // SAFETY: as in `scatter_whole`.
    unsafe {
        if !has_avx() {
            for i in 0..slots {
                let (slot, dst) = (slot.add(i * SLOT), dst.add(i * SLOT_PAYLOAD));
                copy::<Shared, Private>(dst, slot.add(TAG), SLOT_PAYLOAD);
            }
            return;
        }
        asm!(
            ".p2align 4",
            "2:",
            "vmovdqu ymm0, [{slot} + 8]",
            "vmovdqu ymm1, [{slot} + 32]",
            "vmovdqu [{dst}], ymm0",
            "vmovdqu [{dst} + 24], ymm1",
            "add {slot}, 64",
            "add {dst}, 56",
            "dec {slots}",
            "jnz 2b",
            "vzeroupper",
            slot = inout(reg) slot => _,
            dst = inout(reg) dst => _,
            slots = inout(reg) slots => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
}
