//! The child of the harness's own tests (`tests/harness.rs`): one role per first argument.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memmap2::MmapRaw;
use mmsb_tests::ptrace::{region_begin, region_end};
use mmsb_tests::spawn;

/// Runs of the SIGUSR1 handler.
static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn handler(_signal: libc::c_int) {
    // Relaxed: read by the same thread.
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let role = arguments.first().map_or("", String::as_str);
    let path = arguments.get(1).map_or("", String::as_str);
    match role {
        "count" => count(path),
        "fill" => fill(path),
        "lock" => lock(path),
        "signals" => return signals(),
        "spin" => {
            region_begin();
            loop {
                std::hint::spin_loop();
            }
        }
        "early" => return ExitCode::from(7),
        "inside" => {
            region_begin();
            std::process::exit(8);
        }
        "after" => {
            region_begin();
            region_end();
            return ExitCode::from(9);
        }
        "echo" => {
            spawn::say("ready");
            spawn::orders().for_each(|line| spawn::say(&format!("echo {line}")));
        }
        "flood" => {
            spawn::exit_when_orphaned();
            for n in 0u64.. {
                spawn::say(&n.to_string());
            }
        }
        "orphan" => {
            spawn::exit_when_orphaned();
            spawn::say("ready");
            std::thread::sleep(Duration::from_secs(600));
        }
        "torn" => {
            spawn::say("whole");
            std::io::stdout()
                .write_all(b"cut off")
                .and_then(|()| std::io::stdout().flush())
                .expect("a parent");
            std::thread::sleep(Duration::from_secs(600));
        }
        "hang" => {
            let _watchdog =
                mmsb_tests::watchdog::start("a test of the watchdog", Duration::from_millis(100));
            std::thread::sleep(Duration::from_secs(600));
        }
        "seed" => println!("{:#x}", mmsb_tests::seed::seed("child")),
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

/// Maps the file, of 24 bytes or more, and in the region adds 1 to each of its first three words, one after another.
fn count(path: &str) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file to count in");
    let map = MmapRaw::map_raw(&file).expect("a mapping of it");
    assert!(map.len() >= 24);
    let words = map.as_mut_ptr().cast::<AtomicU64>();
    // SAFETY: the mapping is page-aligned, holds at least three words and outlives the slice; others touch it through
    // atomics or as a file.
    let words = unsafe { std::slice::from_raw_parts(words, 3) };
    region_begin();
    for word in words {
        // Relaxed: one thread, and a kill keeps program order.
        word.fetch_add(1, Ordering::Relaxed);
    }
    region_end();
}

/// Maps the file and in the region sets its bytes to 1, one after another, in a loop.
fn fill(path: &str) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file to fill");
    let map = MmapRaw::map_raw(&file).expect("a mapping of it");
    region_begin();
    for n in 0..map.len() {
        // SAFETY: within the mapping. Volatile, so that the loop stays one.
        unsafe { map.as_mut_ptr().add(n).write_volatile(1) };
    }
    region_end();
}

/// Holds an open-file-description lock on the first byte of the file during the region.
fn lock(path: &str) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file to lock");
    take_lock(&file);
    region_begin();
    let written = rustix::io::pwrite(&file, b"x", 0);
    region_end();
    assert_eq!(written, Ok(1));
}

fn take_lock(file: &std::fs::File) {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole)).expect("the lock is free");
}

/// In the region, signals itself: with a handler, and with a stop, neither of which may end the trace.
fn signals() -> ExitCode {
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(handler),
        nix::sys::signal::SaFlags::SA_RESTART,
        nix::sys::signal::SigSet::empty(),
    );
    // SAFETY: the handler only touches an atomic.
    unsafe { nix::sys::signal::sigaction(nix::sys::signal::Signal::SIGUSR1, &action) }
        .expect("a handler");
    region_begin();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR1).expect("SIGUSR1");
    // From elsewhere, as far as the harness can tell: `kill` is not `tgkill`.
    nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGSTOP)
        .expect("SIGSTOP");
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR1).expect("SIGUSR1");
    region_end();
    // Relaxed: written by this thread.
    if HANDLED.load(Ordering::Relaxed) == 2 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}
