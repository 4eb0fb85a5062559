//! Arbitrary bytes in the directory of a log: values or typed errors, never a panic or an endless loop.
//!
//! The same function as in `fuzz/`, on seeded random input. `MMSB_SEED` is a seed from a report, `MMSB_ROUNDS` how often.

#[path = "../../fuzz/src/tlog_entry.rs"]
mod tlog_entry;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[test]
fn any_bytes_are_read_or_refused() {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let rounds = number("MMSB_ROUNDS").unwrap_or(400);
    let seeds = number("MMSB_SEED").map_or(0..rounds, |seed| seed..seed + 1);
    for seed in seeds {
        let mut rng = Rng(seed);
        let patches = (rng.next() % 6) as usize;
        let len = match seed % 4 {
            3 => 6 * patches,
            _ => (rng.next() % 20_000) as usize,
        };
        let mut data = vec![(seed % 8) as u8];
        data.extend(rng.next().to_le_bytes());
        for _ in 0..len {
            // Small numbers pass more checks.
            let byte = rng.next();
            data.push(if byte >> 60 < 5 {
                (byte % 4) as u8
            } else {
                byte as u8
            });
        }
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let run = std::panic::catch_unwind(|| tlog_entry::tlog_reader(dir.path(), &data));
        assert!(run.is_ok(), "MMSB_SEED={seed}");
    }
}
