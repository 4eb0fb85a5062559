//! Nothing in shared memory is trusted (DESIGN I6): whatever bytes stand there, everybody on the bus gets a value or a
//! typed error, never a panic, a signal or an endless loop.
//!
//! The same entry functions as in `fuzz/`, on seeded random input. Each round runs in a forked child under an alarm;
//! its exit status is looked at, and the seed of a bad round is printed. `MMSB_SEED` fixes the first seed,
//! `MMSB_ROUNDS` the number of rounds.

#[path = "../../fuzz/src/entry.rs"]
mod entry;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A child that is silent for so long is in an endless loop.
const ALARM_SECONDS: u32 = 30;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    Some(parsed.unwrap_or_else(|| panic!("{name}={text:?} is not a number")))
}

fn first_seed() -> u64 {
    number("MMSB_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        entry::Rng(now.as_nanos() as u64).next() >> 16
    })
}

/// A word that a child shares with the test.
fn shared_word() -> &'static AtomicU64 {
    // SAFETY: a fresh anonymous mapping of one page; never unmapped.
    unsafe {
        let at = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(at, libc::MAP_FAILED);
        &*at.cast::<AtomicU64>()
    }
}

/// Runs `round` for `count` seeds in forked children; after a bad one the next child goes on behind it.
fn rounds(name: &str, count: u64, round: fn(&Path, u64)) {
    let count = number("MMSB_ROUNDS").unwrap_or(count);
    let first = first_seed();
    let now_at = shared_word();
    let mut bad = Vec::new();
    let mut next = 0;
    while next < count && bad.len() < 5 {
        let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
        // SAFETY: the child runs the rounds and leaves by `_exit`; glibc keeps its allocator usable across fork.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let code = child(tmp.path(), first, next, count, now_at, round);
            // SAFETY: plain system call.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
            break;
        }
        let at = now_at.load(Ordering::SeqCst);
        let how = match libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)) {
            Some(libc::SIGALRM) => "an endless loop".into(),
            Some(signal) => format!("signal {signal}"),
            None => "a panic".into(),
        };
        bad.push(format!("MMSB_SEED={:#x} MMSB_ROUNDS=1: {how}", first + at));
        next = at + 1;
    }
    assert!(bad.is_empty(), "{name}:\n{}", bad.join("\n"));
}

fn child(
    dir: &Path,
    first: u64,
    from: u64,
    count: u64,
    now_at: &AtomicU64,
    round: fn(&Path, u64),
) -> i32 {
    for i in from..count {
        now_at.store(i, Ordering::SeqCst);
        let dir = dir.join(i.to_string());
        std::fs::create_dir(&dir).unwrap();
        // SAFETY: plain system call; SIGALRM kills, as nobody handles it.
        unsafe { libc::alarm(ALARM_SECONDS) };
        if std::panic::catch_unwind(|| round(&dir, first + i)).is_err() {
            return 1;
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
    0
}

#[test]
fn a_live_bus_with_scrambled_words_gives_values_or_typed_errors() {
    rounds("live bus", 100, entry::live_bus);
}

#[test]
fn scrambled_headers_are_refused_or_harmless() {
    rounds("headers", 40, |dir, seed| {
        let mut rng = entry::Rng(seed);
        let live = dir.join("model");
        std::fs::create_dir(&live).unwrap();
        drop(entry::Live::new(&live));
        let read = |suffix| {
            let mut bytes = std::fs::read(live.join(format!("mmsb.t.{suffix}"))).unwrap();
            bytes.truncate(4096);
            bytes
        };
        let (mut pages, mut ctl) = (read("pages"), read("ctl"));
        for _ in 0..=rng.below(4) {
            let bytes = if rng.below(2) == 0 {
                &mut pages
            } else {
                &mut ctl
            };
            // The fields lie in the first 256 bytes, but for the few that change.
            let reach = if rng.below(3) == 0 { 4096 } else { 256 };
            let at = rng.below(reach) as usize & !3;
            let value = match rng.below(4) {
                0 => u32::MAX,
                1 => rng.below(70_000) as u32,
                2 => 1 << rng.below(32),
                _ => rng.next() as u32,
            };
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let bus = dir.join("bus");
        std::fs::create_dir(&bus).unwrap();
        // Its own id, so that both objects still agree.
        entry::segment_attach(&bus, &pages, &ctl, seed);
    });
}

#[test]
fn a_dead_participants_record_may_hold_anything() {
    rounds("record", 150, |dir, seed| {
        let mut rng = entry::Rng(seed);
        let mut body: Vec<u8> = (0..rng.below(900)).map(|_| rng.next() as u8).collect();
        if rng.below(8) != 0 && body.len() >= 24 {
            // A head that leads somewhere: page, generation, offset, length, kind, flags.
            body[..4].copy_from_slice(&(rng.below(7) as u32).to_le_bytes());
            body[4..8].copy_from_slice(&(rng.below(3) as u32).to_le_bytes());
            body[8..12].copy_from_slice(&(rng.below(800) as u32).to_le_bytes());
            body[12..16].copy_from_slice(&(rng.below(900) as u32).to_le_bytes());
            body[16] = 1 + rng.below(9) as u8;
            body[17] = rng.below(8) as u8;
        }
        let slots = match rng.below(4) {
            0 => rng.below(70) as u32,
            _ => 1 + rng.below(16) as u32,
        };
        entry::record(dir, slots, rng.below(6) == 0, &body);
    });
}
