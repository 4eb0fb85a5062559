//! Which bytes two versions of a page differ in: the step from "here is the new page" to a small patch.

/// A block of this many bytes is compared at a time; its differences are the bits of a `u64`.
const BLOCK: usize = 64;

/// Finds where `old` and `new` differ, as `(offset, length)` ranges in bytes: ascending, not overlapping, each beginning
/// and ending with a differing byte. Differences with at most `merge_gap` equal bytes between them become one range,
/// because a range of its own costs more than carrying a few equal bytes. `out` is cleared first.
///
/// # Panics
/// When the lengths differ or exceed `u32::MAX`.
pub fn changed_ranges(old: &[u8], new: &[u8], merge_gap: usize, out: &mut Vec<(u32, u32)>) {
    assert_eq!(old.len(), new.len(), "versions of one page have one length");
    assert!(
        u32::try_from(old.len()).is_ok(),
        "pages are shorter than 4 GiB"
    );
    let mut ranges = Ranges {
        out,
        merge_gap,
        open: None,
    };
    ranges.out.clear();
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2 (just asked), and the lengths are equal (asserted).
        unsafe { avx2::scan(old, new, &mut ranges) };
        return ranges.close();
    }
    scan_words(old, new, &mut ranges);
    ranges.close();
}

/// Collects differing bytes into ranges.
struct Ranges<'a> {
    out: &'a mut Vec<(u32, u32)>,
    merge_gap: usize,
    /// The range that may still grow, as start and end.
    open: Option<(usize, usize)>,
}

impl Ranges<'_> {
    /// Adds the block at `offset`: bit `i` of `mask` says that byte `offset + i` differs.
    #[inline(always)]
    fn block(&mut self, offset: usize, mut mask: u64) {
        let mut at = offset;
        while mask != 0 {
            let equal = mask.trailing_zeros();
            mask >>= equal;
            let differing = mask.trailing_ones();
            let start = at + equal as usize;
            at = start + differing as usize;
            self.add(start, at);
            // A shift by 64 is what remains of a block that differs throughout.
            mask = mask.checked_shr(differing).unwrap_or(0);
        }
    }

    #[inline(always)]
    fn add(&mut self, start: usize, end: usize) {
        match &mut self.open {
            Some((_, open_end)) if start - *open_end <= self.merge_gap => *open_end = end,
            _ => {
                self.flush();
                self.open = Some((start, end));
            }
        }
    }

    #[inline(always)]
    fn flush(&mut self) {
        if let Some((start, end)) = self.open.take() {
            // Both fit: offsets are below a length that was asserted to.
            self.out.push((start as u32, (end - start) as u32));
        }
    }

    fn close(mut self) {
        self.flush();
    }
}

/// Without vectors: eight words make a block.
fn scan_words(old: &[u8], new: &[u8], ranges: &mut Ranges<'_>) {
    let (old_blocks, old_rest) = old.as_chunks::<BLOCK>();
    let (new_blocks, new_rest) = new.as_chunks::<BLOCK>();
    for (i, (a, b)) in old_blocks.iter().zip(new_blocks).enumerate() {
        if a != b {
            ranges.block(i * BLOCK, mask_words(a, b));
        }
    }
    ranges.block(old_blocks.len() * BLOCK, mask_rest(old_rest, new_rest));
}

/// The difference mask of up to one block.
fn mask_words(old: &[u8], new: &[u8]) -> u64 {
    let (old, _) = old.as_chunks::<8>();
    let (new, _) = new.as_chunks::<8>();
    let words = old.iter().zip(new).enumerate();
    words.fold(0, |mask, (i, (a, b))| {
        let differing = differing_bytes(u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b));
        mask | differing << (8 * i)
    })
}

/// The difference mask of less than one block.
fn mask_rest(old: &[u8], new: &[u8]) -> u64 {
    let words = old.len() & !7;
    let bytes = old[words..].iter().zip(&new[words..]).enumerate();
    bytes.fold(mask_words(old, new), |mask, (i, (a, b))| {
        mask | u64::from(a != b) << (words + i)
    })
}

/// One bit for each byte of `x` that is not zero; bit 0 for the lowest.
fn differing_bytes(x: u64) -> u64 {
    const LOW7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    // The top bit of each byte: set if any of its lower seven is (by the carry), or itself.
    let top = (((x & LOW7) + LOW7) | x) & !LOW7;
    // Each of the bits, at 8i once shifted, is moved to 56 + i by one term of the product; the others meet no bit.
    ((top >> 7).wrapping_mul(0x0102_0408_1020_4080)) >> 56
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod avx2 {
    use super::{BLOCK, Ranges, mask_rest};
    use core::arch::x86_64::{
        __m256i, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8,
    };

    /// # Safety
    /// The processor has AVX2 and the slices have one length.
    #[target_feature(enable = "avx2")]
    pub unsafe fn scan(old: &[u8], new: &[u8], ranges: &mut Ranges<'_>) {
        let len = old.len();
        let mut at = 0;
        // Two blocks at a time while nothing changes, which is most of a page.
        while at + 2 * BLOCK <= len {
            // SAFETY: 128 bytes from `at` on lie inside both slices (the loop's condition, equal lengths).
            let equal = unsafe {
                [
                    equal(old, new, at),
                    equal(old, new, at + 32),
                    equal(old, new, at + 64),
                    equal(old, new, at + 96),
                ]
            };
            let all = _mm256_and_si256(
                _mm256_and_si256(equal[0], equal[1]),
                _mm256_and_si256(equal[2], equal[3]),
            );
            if _mm256_movemask_epi8(all) != -1 {
                ranges.block(at, differing(equal[0], equal[1]));
                ranges.block(at + BLOCK, differing(equal[2], equal[3]));
            }
            at += 2 * BLOCK;
        }
        if at + BLOCK <= len {
            // SAFETY: 64 bytes from `at` on lie inside both slices.
            let (low, high) = unsafe { (equal(old, new, at), equal(old, new, at + 32)) };
            ranges.block(at, differing(low, high));
            at += BLOCK;
        }
        ranges.block(at, mask_rest(&old[at..], &new[at..]));
    }

    /// # Safety
    /// 32 bytes from `at` on lie inside both slices.
    #[target_feature(enable = "avx2")]
    unsafe fn equal(old: &[u8], new: &[u8], at: usize) -> __m256i {
        // SAFETY: in bounds by the caller's word; the loads need no alignment.
        unsafe {
            let a = _mm256_loadu_si256(old.as_ptr().add(at).cast());
            let b = _mm256_loadu_si256(new.as_ptr().add(at).cast());
            _mm256_cmpeq_epi8(a, b)
        }
    }

    #[target_feature(enable = "avx2")]
    fn differing(low: __m256i, high: __m256i) -> u64 {
        let low = _mm256_movemask_epi8(low) as u32;
        let high = _mm256_movemask_epi8(high) as u32;
        !(u64::from(high) << 32 | u64::from(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Byte by byte, as the documentation says it.
    fn naive(old: &[u8], new: &[u8], merge_gap: usize) -> Vec<(u32, u32)> {
        let mut out: Vec<(u32, u32)> = Vec::new();
        for i in (0..old.len()).filter(|i| old[*i] != new[*i]) {
            match out.last_mut() {
                Some((start, len)) if i - (*start + *len) as usize <= merge_gap => {
                    *len = i as u32 + 1 - *start
                }
                _ => out.push((i as u32, 1)),
            }
        }
        out
    }

    fn words_only(old: &[u8], new: &[u8], merge_gap: usize) -> Vec<(u32, u32)> {
        let mut out = Vec::new();
        let mut ranges = Ranges {
            out: &mut out,
            merge_gap,
            open: None,
        };
        scan_words(old, new, &mut ranges);
        ranges.close();
        out
    }

    #[test]
    fn ranges_merge_at_the_gap_and_not_beyond() {
        let old = [0u8; 200];
        let mut new = old;
        for i in [0, 1, 5, 63, 64, 65, 130, 199] {
            new[i] = 1;
        }
        let mut out = vec![(7, 7)];
        changed_ranges(&old, &new, 0, &mut out);
        assert_eq!(out, [(0, 2), (5, 1), (63, 3), (130, 1), (199, 1)]);
        changed_ranges(&old, &new, 2, &mut out);
        assert_eq!(out[..2], [(0, 2), (5, 1)], "three equal bytes between");
        changed_ranges(&old, &new, 3, &mut out);
        assert_eq!(out, [(0, 6), (63, 3), (130, 1), (199, 1)]);
        changed_ranges(&old, &new, usize::MAX, &mut out);
        assert_eq!(out, [(0, 200)]);
    }

    #[test]
    fn equal_empty_and_wholly_different_pages() {
        let mut out = vec![(1, 1)];
        changed_ranges(&[], &[], 8, &mut out);
        assert_eq!(out, []);
        changed_ranges(&[3; 1000], &[3; 1000], 8, &mut out);
        assert_eq!(out, []);
        for len in [1, 8, 63, 64, 65, 127, 128, 129, 1000] {
            changed_ranges(&vec![0; len], &vec![0xff; len], 0, &mut out);
            assert_eq!(out, [(0, len as u32)]);
        }
    }

    #[test]
    #[should_panic(expected = "one length")]
    fn lengths_must_agree() {
        changed_ranges(&[0], &[], 0, &mut Vec::new());
    }

    #[test]
    fn every_bit_of_every_byte_counts() {
        for bit in 0..64 {
            assert_eq!(differing_bytes(1 << bit), 1 << (bit / 8));
            assert_eq!(
                differing_bytes(!(0xff << (bit & !7))),
                0xff & !(1 << (bit / 8))
            );
        }
        assert_eq!(differing_bytes(0), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 512 }, ..Default::default() })]

        #[test]
        fn agrees_with_the_naive_scan(
            old in prop::collection::vec(any::<u8>(), 0..700),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 1usize..40, any::<u8>()), 0..24),
            skip in 0usize..32,
            merge_gap in prop_oneof![Just(0usize), 0usize..40, Just(usize::MAX)],
        ) {
            let mut new = old.clone();
            if !new.is_empty() {
                for (at, len, mask) in changes {
                    let start = at.index(new.len());
                    let end = (start + len).min(new.len());
                    // Some masks are 0: bytes that were written and did not change.
                    new[start..end].iter_mut().for_each(|byte| *byte ^= mask & 0x11);
                }
            }
            // Differently aligned slices too.
            let skip = skip.min(old.len());
            let (old, new) = (&old[skip..], &new[skip..]);
            let expected = naive(old, new, merge_gap);
            let mut out = Vec::new();
            changed_ranges(old, new, merge_gap, &mut out);
            prop_assert_eq!(&out, &expected);
            prop_assert_eq!(words_only(old, new, merge_gap), expected);
        }
    }
}
