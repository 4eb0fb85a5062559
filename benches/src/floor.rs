//! What the machine itself takes: the least that two processes can exchange bytes in, measured without MMSB.
//!
//! A bench measures the floor before and after each case and reports the ratio: two virtual cores are near on one day
//! and far on the next, and a virtual machine is moved between runs.
//!
//! [`one_way_ns`] passes a message to and fro between two pinned processes that poll, over anonymous shared memory.
//! Each direction has its own lines: a word that counts messages, and the payload directly behind it, so that up to
//! [`SAME_LINE`] bytes travel with the word. Every message is written whole and read whole in place, and its contents
//! are checked. Half the round trip is one way. A round's figure is the median of its samples, the result the least of
//! the rounds: noise only ever adds.

use std::hint::black_box;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use rustix::thread::{CpuSet, futex, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Payload bytes that fit into the cache line of the message count.
pub const SAME_LINE: usize = 56;

/// How long to measure. The default takes some 50 ms at 64 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds; the least of their medians is the result.
    pub rounds: usize,
    /// Samples in a round.
    pub samples: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort {
            rounds: 9,
            samples: 301,
        }
    }
}

/// The first two cores this thread may run on.
///
/// # Errors
///
/// `Unsupported` when there is only one: polling processes would take turns.
pub fn two_cpus() -> io::Result<(usize, usize)> {
    let allowed = sched_getaffinity(None)?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu));
    match (cpus.next(), cpus.next()) {
        (Some(first), Some(second)) => Ok((first, second)),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the floor needs two cores",
        )),
    }
}

/// One way between two processes on the first two cores, in nanoseconds; `bytes` of payload, rounded up to 8.
///
/// # Errors
///
/// As [`two_cpus`]; when the kernel refuses memory or a process; when the other process is killed.
pub fn one_way_ns(bytes: usize) -> io::Result<f64> {
    one_way_ns_on(two_cpus()?, bytes, Effort::default())
}

/// As [`one_way_ns`], on the given cores, for as long as wanted.
///
/// # Errors
///
/// As [`one_way_ns`].
pub fn one_way_ns_on(cpus: (usize, usize), bytes: usize, effort: Effort) -> io::Result<f64> {
    let words = bytes.div_ceil(8);
    // Half a page apart besides, so that the two directions do not share their low twelve address bits: x86 compares
    // only those when it looks for a store that a load must wait for.
    let there_and_back = (8 + words * 8).next_multiple_of(4096) + 2048;
    let memory = Shared::new(2 * there_and_back)?;
    let there = Lane {
        base: memory.base,
        words,
    };
    // SAFETY: the memory is twice as long.
    let half = unsafe { memory.base.add(there_and_back) };
    let back = Lane { base: half, words };
    let _pinned = Pinned::to(cpus.0)?;
    let mut peer = Peer::fork(cpus.1, || {
        let mut n = 0;
        loop {
            n += 1;
            let got = loop {
                let got = there.poll();
                if got == n || got == u64::MAX {
                    break got;
                }
            };
            if got == u64::MAX {
                return 0;
            }
            if there.sum() != n.wrapping_mul(words as u64) {
                return 1;
            }
            back.send(n);
        }
    })?;

    // Long enough for the clock's resolution, short enough that an interrupt spoils few samples.
    let batch = (4096 / bytes.max(64)).max(1);
    let mut n = 0;
    let mut best = f64::INFINITY;
    // One round more, to warm up: page faults, clock speed.
    for round in 0..=effort.rounds.max(1) {
        let mut samples = Vec::with_capacity(effort.samples.max(1));
        for _ in 0..effort.samples.max(1) {
            let start = Instant::now();
            for _ in 0..batch {
                n += 1;
                there.send(n);
                peer.wait_until(|| back.poll() == n)?;
                if back.sum() != n.wrapping_mul(words as u64) {
                    return Err(io::Error::other(
                        "the floor read other bytes than were written",
                    ));
                }
            }
            samples.push(start.elapsed().as_secs_f64() * 1e9 / (2 * batch) as f64);
        }
        if round > 0 {
            best = best.min(median(&mut samples));
        }
    }
    there.end();
    peer.finish()?;
    Ok(best)
}

/// Copying `bytes` from one warm private buffer to another, in nanoseconds.
pub fn memcpy_ns(bytes: usize) -> f64 {
    let from = vec![1u8; bytes];
    let mut to = vec![0u8; bytes];
    let batch = (65536 / bytes.max(64)).max(1);
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let mut samples: Vec<f64> = (0..101)
            .map(|_| {
                let start = Instant::now();
                for _ in 0..batch {
                    black_box(&mut to[..]).copy_from_slice(black_box(&from));
                }
                start.elapsed().as_secs_f64() * 1e9 / batch as f64
            })
            .collect();
        best = best.min(median(&mut samples));
    }
    best
}

/// From the store before `FUTEX_WAKE` in one process to the return from `FUTEX_WAIT` in another, on the first two
/// cores: the median in nanoseconds. The sleeper's core has then been idle for 50 µs.
///
/// # Errors
///
/// As [`one_way_ns`].
pub fn futex_wake_ns() -> io::Result<f64> {
    futex_wake_ns_on(two_cpus()?, 1001)
}

/// As [`futex_wake_ns`], on the given cores, over so many wakes.
///
/// # Errors
///
/// As [`one_way_ns`].
pub fn futex_wake_ns_on(cpus: (usize, usize), wakes: u32) -> io::Result<f64> {
    let memory = Shared::new(4096)?;
    // SAFETY: each lies within the page, on a line of its own, aligned, and is only ever used as this atomic.
    let (word, parking, woken_at, awake) = unsafe {
        (
            &*memory.base.cast::<AtomicU32>(),
            &*memory.base.add(128).cast::<AtomicU32>(),
            &*memory.base.add(256).cast::<AtomicU64>(),
            &*memory.base.add(384).cast::<AtomicU32>(),
        )
    };
    let wakes = wakes.max(1);
    let _pinned = Pinned::to(cpus.0)?;
    let mut peer = Peer::fork(cpus.1, || {
        for n in 1..=wakes {
            // Release and Acquire throughout: each store publishes what was written before it to the other side's poll.
            parking.store(n, Ordering::Release);
            while word.load(Ordering::Acquire) != n {
                // Returns at once when the word has already changed; the loop looks again whatever it says.
                let _ = futex::wait(word, futex::Flags::empty(), n - 1, None);
            }
            woken_at.store(now_ns(), Ordering::Release);
            awake.store(n, Ordering::Release);
        }
        0
    })?;
    let mut samples = Vec::new();
    for n in 1..=wakes {
        peer.wait_until(|| parking.load(Ordering::Acquire) == n)?;
        let asleep = now_ns() + 50_000;
        while now_ns() < asleep {
            std::hint::spin_loop();
        }
        let start = now_ns();
        word.store(n, Ordering::Release);
        let slept = futex::wake(word, futex::Flags::empty(), 1)?;
        peer.wait_until(|| awake.load(Ordering::Acquire) == n)?;
        // A sleeper that had not come to sleep yet was not woken.
        if slept == 1 {
            samples.push(woken_at.load(Ordering::Acquire).saturating_sub(start) as f64);
        }
    }
    peer.finish()?;
    if samples.is_empty() {
        return Err(io::Error::other("the other process never came to sleep"));
    }
    Ok(median(&mut samples))
}

/// Writes a message whole: what the sender of the floor does with its payload.
#[inline]
pub fn fill(payload: &mut [u64], n: u64) {
    payload.fill(n);
}

/// Reads a message whole: what the receiver of the floor does with its payload.
#[inline]
pub fn sum(payload: &[u64]) -> u64 {
    payload
        .iter()
        .fold(0, |sum: u64, word| sum.wrapping_add(*word))
}

/// The clock all processes share.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// One direction: the message count, then the payload.
#[derive(Clone, Copy)]
struct Lane {
    /// At least `8 + 8 * words` bytes, page-aligned or half a page further.
    base: *mut u8,
    words: usize,
}

impl Lane {
    fn count(&self) -> &AtomicU64 {
        // SAFETY: aligned and within the mapping, which outlives every lane; only ever used as an atomic.
        unsafe { &*self.base.cast::<AtomicU64>() }
    }

    fn send(&self, n: u64) {
        // SAFETY: the payload is this side's from when it saw the other's answer until it stores the count below.
        let payload =
            unsafe { std::slice::from_raw_parts_mut(self.base.add(8).cast::<u64>(), self.words) };
        fill(payload, n);
        // Release: pairs with the Acquire in `poll`; who sees the count sees the payload.
        self.count().store(n, Ordering::Release);
    }

    fn poll(&self) -> u64 {
        // Acquire: pairs with the Release in `send`. No pause instruction: its length would be measured too.
        self.count().load(Ordering::Acquire)
    }

    /// Reads the whole payload, in place.
    fn sum(&self) -> u64 {
        // SAFETY: the count was seen, and the sender does not write again before it has been answered.
        let payload =
            unsafe { std::slice::from_raw_parts(self.base.add(8).cast::<u64>(), self.words) };
        sum(payload)
    }

    fn end(&self) {
        // Release as in `send`; there is no payload.
        self.count().store(u64::MAX, Ordering::Release);
    }
}

/// Anonymous memory that a forked child shares.
struct Shared {
    base: *mut u8,
    len: usize,
}

impl Shared {
    fn new(len: usize) -> io::Result<Shared> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping where the kernel likes; nothing existing is replaced.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        }?;
        Ok(Shared {
            base: base.cast(),
            len,
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; references into it live no longer than this.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// Keeps this thread on one core while it lives.
struct Pinned(CpuSet);

impl Pinned {
    fn to(cpu: usize) -> io::Result<Pinned> {
        let before = sched_getaffinity(None)?;
        sched_setaffinity(None, &only(cpu))?;
        Ok(Pinned(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// The forked process at the other end. Killed and reaped when dropped.
struct Peer {
    pid: Option<Pid>,
}

impl Peer {
    /// Runs `body` in a fork of this process, pinned; what it returns is the exit status. It must not allocate, lock or
    /// panic: of a process with threads, a fork inherits their locks but not them.
    fn fork(cpu: usize, body: impl FnOnce() -> i32) -> io::Result<Peer> {
        let set = only(cpu);
        let parent = rustix::process::getpid();
        // SAFETY: the child only makes system calls and runs `body`, see above, and never returns from here.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // Polls for ever otherwise, should the parent be killed; also when that has happened already.
                let watched = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                let orphan = rustix::process::getppid() != Some(parent);
                let status = if watched.is_err() || orphan || sched_setaffinity(None, &set).is_err()
                {
                    2
                } else {
                    body()
                };
                // SAFETY: ends the process without the parent's exit handlers, whose state it has a copy of.
                unsafe { libc::_exit(status) }
            }
            pid => Ok(Peer {
                pid: Pid::from_raw(pid),
            }),
        }
    }

    /// Polls, without a pause, until `arrived`.
    fn wait_until(&mut self, arrived: impl Fn() -> bool) -> io::Result<()> {
        loop {
            // Some milliseconds between two looks at whether the peer lives.
            for _ in 0..1 << 20 {
                if arrived() {
                    return Ok(());
                }
            }
            if let Some(pid) = self.pid
                && let Some((_, status)) = waitpid(Some(pid), WaitOptions::NOHANG)?
            {
                self.pid = None;
                // It may have answered and ended between the last look and this one.
                if arrived() {
                    return Ok(());
                }
                return Err(io::Error::other(format!(
                    "the other process ended: {status:?}"
                )));
            }
        }
    }

    /// Waits for the peer's own end.
    fn finish(mut self) -> io::Result<()> {
        let Some(pid) = self.pid.take() else {
            return Ok(());
        };
        match waitpid(Some(pid), WaitOptions::empty())? {
            Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
            status => Err(io::Error::other(format!(
                "the other process failed: {status:?}"
            ))),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Effort = Effort {
        rounds: 2,
        samples: 5,
    };

    #[test]
    fn messages_of_all_shapes_arrive_whole() {
        let Ok(cpus) = two_cpus() else {
            eprintln!("skipped: one core");
            return;
        };
        let before = sched_getaffinity(None).unwrap();
        for bytes in [0, 1, 8, SAME_LINE, 64, 1000, 65536] {
            let ns = one_way_ns_on(cpus, bytes, SHORT).unwrap();
            assert!(ns.is_finite() && ns > 0.0, "{bytes} bytes: {ns} ns");
        }
        assert_eq!(
            sched_getaffinity(None).unwrap(),
            before,
            "the thread is free again"
        );
    }

    #[test]
    fn a_sleeper_is_woken() {
        let Ok(cpus) = two_cpus() else {
            eprintln!("skipped: one core");
            return;
        };
        // A system call and a switch take longer than a cache line does.
        assert!(futex_wake_ns_on(cpus, 20).unwrap() > 100.0);
    }

    #[test]
    fn a_peer_that_dies_is_an_error_not_a_hang() {
        let Ok((_, cpu)) = two_cpus() else {
            eprintln!("skipped: one core");
            return;
        };
        let mut peer = Peer::fork(cpu, || 5).unwrap();
        assert!(
            peer.wait_until(|| false)
                .unwrap_err()
                .to_string()
                .contains("ended")
        );
        assert!(Peer::fork(cpu, || 5).unwrap().finish().is_err());
        assert!(Peer::fork(cpu, || 0).unwrap().finish().is_ok());
    }

    #[test]
    fn copying_more_takes_longer() {
        assert!(memcpy_ns(1 << 20) > memcpy_ns(64));
    }
}
