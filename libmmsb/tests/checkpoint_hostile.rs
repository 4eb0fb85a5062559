//! A checkpoint file with whatever bytes: everybody who reads it gets a value or a typed error, never a panic or an
//! endless loop. The same function as in `fuzz/`, on seeded random input; `MMSB_SEED` fixes the first seed, `MMSB_ROUNDS`
//! the number of rounds.

#[path = "../../fuzz/src/checkpoint_entry.rs"]
mod checkpoint_entry;
#[path = "common/log.rs"]
mod log;

use log::Rng;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is no number")),
    )
}

#[test]
fn whatever_a_checkpoint_holds_nobody_panics() {
    let first = number("MMSB_SEED").unwrap_or_else(|| log::created_ns() >> 16);
    for seed in first..first + number("MMSB_ROUNDS").unwrap_or(600) {
        let mut rng = Rng(seed);
        let mut data = vec![rng.next() as u8];
        if data[0] & 1 == 0 {
            let n = rng.below(12_000);
            data.extend(b"MMSBCKPT\x01\0\0\0");
            data.extend(rng.bytes(n));
        } else {
            for _ in 0..1 + rng.below(4) {
                // Mostly where fields are: in the header, in records, in the index.
                let at = match rng.below(4) {
                    0 => rng.below(260),
                    1 => 4096 + rng.below(200),
                    2 => 9216 + rng.below(12_000),
                    _ => rng.below(1 << 16),
                };
                data.extend((at as u16).to_le_bytes());
                let what = match rng.below(4) {
                    0 => u32::MAX,
                    1 => rng.below(5000) as u32,
                    2 => 1 << rng.below(32),
                    _ => rng.next() as u32,
                };
                data.extend(what.to_le_bytes());
            }
        }
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let run = std::panic::catch_unwind(|| checkpoint_entry::checkpoint(dir.path(), &data));
        assert!(run.is_ok(), "MMSB_SEED={seed} MMSB_ROUNDS=1");
    }
}

#[test]
fn the_model_is_good_with_its_checksums_made_anew() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let good = checkpoint_entry::model(dir.path());
    let mut again = good.clone();
    checkpoint_entry::make_checksums_right(&mut again);
    assert!(again == good, "so the fuzzer gets past them");
}
