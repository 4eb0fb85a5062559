//! Byte-exactness at every length and misalignment, nothing touched outside, whole words under a racing writer.

use super::*;

type Copy = unsafe fn(*mut u8, *const u8, usize);
type Zero = unsafe fn(*mut u8, usize);

const MARGIN: usize = 64;
const LEN_MAX: usize = if cfg!(miri) { 80 } else { 300 };
const SHIFT_STEP: usize = if cfg!(miri) { 5 } else { 1 };

/// Memory that begins at a multiple of 64.
#[repr(align(64))]
struct Aligned<const N: usize>([u8; N]);

fn copies() -> Vec<(&'static str, usize, Copy)> {
    #[allow(unused_mut)] // Only where there are vectors is something added.
    let mut copies: Vec<(&str, usize, Copy)> = vec![
        ("load", 0, load),
        ("store", 0, store),
        ("move", 0, move_shared),
        ("word load", 0, wordwise::load),
        ("word store", 0, wordwise::store),
        ("word move", 0, wordwise::move_shared),
    ];
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    {
        copies.push(("sse2", 64, x86::copy_sse2));
        if std::arch::is_x86_feature_detected!("avx") {
            copies.push(("avx", 128, x86::copy_avx));
        }
    }
    copies
}

fn zeroes() -> Vec<(&'static str, usize, Zero)> {
    #[allow(unused_mut)] // As above.
    let mut zeroes: Vec<(&str, usize, Zero)> =
        vec![("zero", 0, zero), ("word zero", 0, wordwise::zero)];
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    {
        zeroes.push(("sse2", 64, x86::zero_sse2));
        if std::arch::is_x86_feature_detected!("avx") {
            zeroes.push(("avx", 128, x86::zero_avx));
        }
    }
    zeroes
}

fn pattern<const N: usize>() -> Aligned<N> {
    Aligned(std::array::from_fn(|i| (i * 37 + i / 256 * 11 + 1) as u8))
}

/// Whether `dst` is `fill` everywhere but in `[at, at + len)`, where it is `expected`.
fn exact(dst: &[u8], fill: u8, at: usize, expected: &[u8]) -> bool {
    let (before, rest) = dst.split_at(at);
    let (inside, after) = rest.split_at(expected.len());
    inside == expected && before.iter().chain(after).all(|byte| *byte == fill)
}

#[test]
fn copies_are_exact_at_every_length_and_misalignment() {
    const N: usize = MARGIN + 32 + LEN_MAX + MARGIN;
    let src = pattern::<N>();
    let mut dst = Aligned([0u8; N]);
    for (name, least, copy) in copies() {
        for len in least..=LEN_MAX {
            for from in (0..32).step_by(SHIFT_STEP) {
                // All 32 x 32 combinations over four neighbouring lengths, to keep the time in bounds.
                for to in (len % 4..32).step_by(4 * SHIFT_STEP) {
                    dst.0.fill(0xEE);
                    // SAFETY: both arrays have 32 + LEN_MAX + MARGIN bytes from MARGIN on, and are private.
                    unsafe {
                        copy(
                            dst.0.as_mut_ptr().add(MARGIN + to),
                            src.0.as_ptr().add(from),
                            len,
                        )
                    };
                    let expected = &src.0[from..from + len];
                    assert!(
                        exact(&dst.0, 0xEE, MARGIN + to, expected),
                        "{name} {len} from {from} to {to}"
                    );
                }
            }
        }
    }
}

#[test]
fn zero_is_exact_at_every_length_and_misalignment() {
    let mut dst = Aligned([0u8; MARGIN + 32 + LEN_MAX + MARGIN]);
    for (name, least, zero) in zeroes() {
        for len in least..=LEN_MAX {
            for to in (0..32).step_by(SHIFT_STEP) {
                dst.0.fill(0xEE);
                // SAFETY: inside the array, which is private.
                unsafe { zero(dst.0.as_mut_ptr().add(MARGIN + to), len) };
                assert!(
                    exact(&dst.0, 0xEE, MARGIN + to, &vec![0; len]),
                    "{name} {len} to {to}"
                );
            }
        }
    }
}

#[test]
#[cfg(not(miri))]
fn large_copies_are_exact() {
    const N: usize = 70_000;
    let src = vec![0u8; N]
        .iter()
        .enumerate()
        .map(|(i, _)| (i * 31 + i / 251) as u8)
        .collect::<Vec<_>>();
    let mut dst = vec![0xEE; N + 2 * MARGIN];
    for len in [
        301, 1023, 1024, 1025, 4095, 4096, 4097, 8191, 16_384, 16_385, 65_535, 65_536, 69_000,
    ] {
        for (from, to) in [(0, 0), (0, 7), (9, 0), (31, 1), (16, 16), (3, 35)] {
            for (name, _, copy) in copies() {
                dst.fill(0xEE);
                // SAFETY: both vectors have more than 69,000 + 35 bytes and are private.
                unsafe {
                    copy(
                        dst.as_mut_ptr().add(MARGIN + to),
                        src.as_ptr().add(from),
                        len,
                    )
                };
                assert!(
                    exact(&dst, 0xEE, MARGIN + to, &src[from..from + len]),
                    "{name} {len} {from} {to}"
                );
            }
            for (name, _, zero) in zeroes() {
                dst.fill(0xEE);
                // SAFETY: as above.
                unsafe { zero(dst.as_mut_ptr().add(MARGIN + to), len) };
                assert!(
                    exact(&dst, 0xEE, MARGIN + to, &vec![0; len]),
                    "{name} {len} {to}"
                );
            }
        }
    }
}

/// What `scatter_slots` must leave behind, from its description.
fn slots_of(payload: &[u8], tag: u64) -> Vec<u8> {
    let mut slots = Vec::new();
    for part in payload.chunks(SLOT_PAYLOAD) {
        slots.extend(tag.to_ne_bytes());
        slots.extend(part);
        slots.resize(slots.len().next_multiple_of(SLOT), 0);
    }
    slots
}

#[test]
fn slots_scatter_and_gather_exactly() {
    const LEN: usize = if cfg!(miri) { 130 } else { 1200 };
    const SLOTS: usize = 1200_usize.div_ceil(SLOT_PAYLOAD) * SLOT;
    type Scatter = unsafe fn(*mut u8, u64, *const u8, usize);
    let forms: [(&str, Scatter, Copy); 2] = [
        ("imp", scatter_slots, gather_slots),
        ("word", wordwise::scatter_slots, wordwise::gather_slots),
    ];
    let tag = 0x8877_6655_4433_2211;
    let src = pattern::<1264>();
    for (name, scatter, gather) in forms {
        for len in 0..=LEN {
            let shift = len * 7 % 32;
            let mut ring = Aligned([0xEE; SLOTS + 2 * MARGIN]);
            let payload = &src.0[shift..shift + len];
            // SAFETY: `ring` is 64-byte aligned and has room for the slots of LEN bytes after MARGIN, which is a
            // multiple of 64.
            unsafe { scatter(ring.0.as_mut_ptr().add(MARGIN), tag, payload.as_ptr(), len) };
            assert!(
                exact(&ring.0, 0xEE, MARGIN, &slots_of(payload, tag)),
                "{name} scatter {len}"
            );

            let mut back = [0xDD; 1264 + 2 * MARGIN];
            // SAFETY: as above; `back` has room for LEN bytes after MARGIN + 31.
            unsafe {
                gather(
                    back.as_mut_ptr().add(MARGIN + shift),
                    ring.0.as_ptr().add(MARGIN),
                    len,
                )
            };
            assert!(
                exact(&back, 0xDD, MARGIN + shift, payload),
                "{name} gather {len}"
            );
        }
    }
}

#[cfg(not(miri))]
mod with_the_os {
    use super::*;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    const PAGE: usize = 4096;

    /// Two usable pages between two that fault when touched. Never unmapped: a few kilobytes for one test.
    fn fenced() -> *mut u8 {
        // SAFETY: new anonymous pages where the kernel likes; the outer two lose all access before anyone uses them.
        unsafe {
            let usable = ProtFlags::READ | ProtFlags::WRITE;
            let base =
                mmap_anonymous(std::ptr::null_mut(), 4 * PAGE, usable, MapFlags::PRIVATE).unwrap();
            mprotect(base, PAGE, MprotectFlags::empty()).unwrap();
            mprotect(base.add(3 * PAGE), PAGE, MprotectFlags::empty()).unwrap();
            base.cast::<u8>().add(PAGE)
        }
    }

    #[test]
    fn nothing_outside_the_ranges_is_even_read() {
        let (a, b) = (fenced(), fenced());
        let lens = (0..=1200).chain([2048, 4095, 4096, 8191, 8192]);
        for len in lens {
            // Against the fence in front, and against the one behind.
            let ends = [0, 2 * PAGE - len];
            for (at_a, at_b) in ends.iter().flat_map(|a| ends.iter().map(move |b| (*a, *b))) {
                // SAFETY: `len` bytes from either place lie in the two usable pages. A touch beyond would crash.
                unsafe {
                    for (_, least, copy) in copies() {
                        if len >= least {
                            copy(a.add(at_a), b.add(at_b), len);
                        }
                    }
                    for (_, least, zero) in zeroes() {
                        if len >= least {
                            zero(a.add(at_a), len);
                        }
                    }
                }
            }
            let slots = len.div_ceil(SLOT_PAYLOAD) * SLOT;
            if slots <= 2 * PAGE {
                for at in ends {
                    // SAFETY: as above; 2 * PAGE - slots is a multiple of 64, like the page.
                    unsafe {
                        scatter_slots(a.add(2 * PAGE - slots), 1, b.add(at), len);
                        gather_slots(b.add(at), a.add(2 * PAGE - slots), len);
                    }
                }
            }
        }
    }

    #[test]
    fn aligned_words_are_never_torn() {
        const WORDS: usize = 160;
        for len in [8, 16, 24, 64, 72, 128, 136, 1024, 1280] {
            let shared: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
            let base = shared.as_ptr().cast_mut().cast::<u8>();
            let address = base.expose_provenance();
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let values = [vec![0u8; len], vec![0xFF; len]];
                    for value in values.iter().cycle() {
                        // SAFETY: `len` <= 8 * WORDS bytes of the array, which both threads access through this module.
                        unsafe {
                            store(
                                std::ptr::with_exposed_provenance_mut(address),
                                value.as_ptr(),
                                len,
                            )
                        };
                        if stop.load(Relaxed) {
                            break;
                        }
                    }
                });
                let mut seen = [0usize; 2];
                for _ in 0..20_000 {
                    let mut copy = [0u64; WORDS];
                    // SAFETY: as above; `copy` is private.
                    unsafe { load(copy.as_mut_ptr().cast(), base, len) };
                    for word in &copy[..len / 8] {
                        match *word {
                            0 => seen[0] += 1,
                            u64::MAX => seen[1] += 1,
                            torn => {
                                stop.store(true, Relaxed);
                                panic!("{len}: {torn:#x}");
                            }
                        }
                    }
                }
                stop.store(true, Relaxed);
                assert_eq!(seen[0] + seen[1], 20_000 * len / 8);
            });
        }
    }
}
