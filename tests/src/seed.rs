//! Seeds that a failing run can be repeated from.
//!
//! [`seed`] takes `MMSB_SEED` when it is set, a random number otherwise, and always prints which, past the capturing of
//! test output, so that it is there after an abort too. [`Rng`] is a fixed generator (SplitMix64) and not a crate's: a
//! seed in an old bug report means the same run for ever.
//!
//! ```
//! let mut rng = mmsb_tests::seed::Rng::new(mmsb_tests::seed::seed("doc"));
//! assert!(rng.below(6) < 6);
//! ```

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// The environment variable that fixes the seed: decimal, or hexadecimal after `0x`.
pub const ENV: &str = "MMSB_SEED";

/// The seed of the test called `name`, printed to standard error.
///
/// # Panics
///
/// When `MMSB_SEED` is set and not a number: a typing error must not become a random run.
pub fn seed(name: &str) -> u64 {
    let seed = match std::env::var(ENV) {
        Ok(text) => parse(&text).unwrap_or_else(|| panic!("{ENV}={text:?} is not a 64-bit number")),
        Err(_) => random(),
    };
    // Not `eprintln!`: that is captured by the test runner, and lost when the process aborts.
    let _ = writeln!(std::io::stderr(), "{name}: {ENV}={seed:#x}");
    seed
}

/// A number as `MMSB_SEED` may have it.
fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A number nobody has seen before. `RandomState` is keyed from the kernel's random numbers once per thread and counts
/// up from there; the time tells apart what that leaves alike.
fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    hasher.write_u128(now.as_nanos());
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// SplitMix64: 64 bits of state, every seed as good as any other.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The generator for this seed.
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed }
    }

    /// An independent generator, for instance for worker `n`: what one of them draws does not shift the others.
    pub fn fork(&self, n: u64) -> Rng {
        let mut child = Rng {
            state: self.state ^ n.wrapping_mul(0xd1b5_4a32_d192_ed03),
        };
        child.state = child.next_u64();
        child
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `bound - 1`; its bias is below `bound` / 2^64.
    ///
    /// # Panics
    ///
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True `numerator` times out of `denominator`.
    ///
    /// # Panics
    ///
    /// When `denominator` is 0.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// One of the elements; `None` of an empty slice.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            return None;
        }
        from.get(self.below(from.len() as u64) as usize)
    }

    /// Fills the buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_read_in_decimal_and_hexadecimal() {
        assert_eq!(parse("42"), Some(42));
        assert_eq!(parse(" 0xfF\n"), Some(255));
        assert_eq!(parse("0xffffffffffffffff"), Some(u64::MAX));
        assert_eq!(parse("18446744073709551616"), None);
        assert_eq!(parse("0x"), None);
        assert_eq!(parse("soon"), None);
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // The first outputs of SplitMix64 for seed 1234567, as its reference implementation prints them.
        let mut rng = Rng::new(1_234_567);
        let first = [rng.next_u64(), rng.next_u64(), rng.next_u64()];
        assert_eq!(
            first,
            [
                6457827717110365317,
                3203168211198807973,
                9817491932198370423
            ]
        );
    }

    #[test]
    fn random_seeds_differ() {
        assert_ne!(random(), random());
    }

    #[test]
    fn numbers_below_a_bound_reach_all_of_it_and_no_further() {
        let mut rng = Rng::new(7);
        let mut seen = [0u32; 5];
        for _ in 0..5000 {
            seen[rng.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
    }

    #[test]
    fn forks_do_not_follow_their_parent_or_each_other() {
        let parent = Rng::new(1);
        let mut all = vec![parent.clone().next_u64()];
        all.extend((0..4).map(|n| parent.fork(n).next_u64()));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 5);
        assert_eq!(parent.fork(3).next_u64(), parent.fork(3).next_u64());
    }

    #[test]
    fn a_buffer_is_filled_to_its_last_byte() {
        let mut rng = Rng::new(3);
        let mut last = [0u8; 64];
        for _ in 0..64 {
            let mut buffer = [0u8; 13];
            rng.fill(&mut buffer);
            last[(buffer[12] & 63) as usize] = 1;
        }
        assert!(last.iter().filter(|&&seen| seen == 1).count() > 20);
    }
}
