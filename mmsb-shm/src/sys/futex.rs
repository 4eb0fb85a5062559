//! Sleeping on a shared 32-bit word, and waking sleepers in any process.
//!
//! The futexes are shared ones (never `FUTEX_PRIVATE`): the kernel keys them by object and offset, so processes that
//! map the segment at different addresses, or read-only, meet on the same word. A wake-up is a hint: every sleeper
//! checks its condition again, and sleeps with a timeout, because a waker may die between its store and its wake.

use core::num::NonZeroU32;
use core::sync::atomic::AtomicU32;
use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Why [`wait`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Somebody woke us, or the kernel did for no reason: check the condition again.
    Woken,
    /// The word was no longer `expected`; nothing was waited for.
    Changed,
    /// The timeout passed.
    TimedOut,
    /// A signal handler ran in this thread.
    Interrupted,
}

/// Sleeps while `word` is `expected`, until a [`wake`] with a common bit in `bitset`, at most for `timeout` (`None`:
/// for ever). The comparison and falling asleep are one step towards [`wake`].
///
/// The word may lie in a read-only mapping.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for an empty `bitset`, which nobody could wake; `EFAULT` when the
/// word is not backed by memory; `ENOSYS` or `EPERM` under a sandbox that forbids futexes.
pub fn wait(
    word: &AtomicU32,
    expected: u32,
    timeout: Option<Duration>,
    bitset: u32,
) -> io::Result<Wake> {
    let bitset = NonZeroU32::new(bitset).ok_or(io::ErrorKind::InvalidInput)?;
    // An absolute deadline, so that a wait resumed by the kernel after a stop does not start anew.
    let deadline = timeout.and_then(deadline_after);
    match futex::wait_bitset(word, Flags::empty(), expected, deadline.as_ref(), bitset) {
        Ok(()) => Ok(Wake::Woken),
        Err(Errno::AGAIN) => Ok(Wake::Changed),
        Err(Errno::TIMEDOUT) => Ok(Wake::TimedOut),
        Err(Errno::INTR) => Ok(Wake::Interrupted),
        Err(errno) => Err(errno.into()),
    }
}

/// As [`wait`] on several words at once, each with the value it is expected to have: the first wake-up or change of any
/// of them ends it.
///
/// # Errors
/// As [`wait`]; `ENOSYS` ahead of Linux 5.16.
pub fn wait_any(words: &[(&AtomicU32, u32)], timeout: Option<Duration>) -> io::Result<Wake> {
    let waits: Vec<Wait> = words
        .iter()
        .map(|(word, expected)| {
            let mut wait = Wait::new();
            wait.val = u64::from(*expected);
            wait.uaddr = WaitPtr::new(core::ptr::from_ref(*word).cast_mut().cast());
            wait.flags = WaitFlags::SIZE_U32;
            wait
        })
        .collect();
    let deadline = timeout.and_then(deadline_after);
    match futex::waitv(
        &waits,
        WaitvFlags::empty(),
        deadline.as_ref(),
        ClockId::Monotonic,
    ) {
        Ok(_) => Ok(Wake::Woken),
        Err(Errno::AGAIN) => Ok(Wake::Changed),
        Err(Errno::TIMEDOUT) => Ok(Wake::TimedOut),
        Err(Errno::INTR) => Ok(Wake::Interrupted),
        Err(errno) => Err(errno.into()),
    }
}

/// Wakes at most `count` sleepers of `word` whose bitset has a bit in common with `bitset`; returns how many.
///
/// The word must lie in a writable mapping only if the caller also stores to it.
///
/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) for an empty `bitset`; `EFAULT` when the word is not backed by memory.
pub fn wake(word: &AtomicU32, count: u32, bitset: u32) -> io::Result<usize> {
    let bitset = NonZeroU32::new(bitset).ok_or(io::ErrorKind::InvalidInput)?;
    // The kernel takes a signed count and would read u32::MAX ("all") as one.
    let count = count.min(i32::MAX as u32);
    if count == 0 {
        // The kernel would wake one: it counts after waking.
        return Ok(0);
    }
    Ok(futex::wake_bitset(word, Flags::empty(), count, bitset)?)
}

/// `now + timeout` on the monotonic clock; `None`, which is for ever, when the clock cannot express it.
fn deadline_after(timeout: Duration) -> Option<Timespec> {
    let now = clock_gettime(ClockId::Monotonic);
    let nanos = now.tv_nsec + i64::from(timeout.subsec_nanos());
    let secs = i64::try_from(timeout.as_secs()).ok()?;
    let secs = now
        .tv_sec
        .checked_add(secs)?
        .checked_add(nanos / 1_000_000_000)?;
    Some(Timespec {
        tv_sec: secs,
        tv_nsec: nanos % 1_000_000_000,
    })
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::sys::{map::Mapping, space};
    use std::path::Path;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Instant;

    const ALL: u32 = u32::MAX;
    const LONG: Option<Duration> = Some(Duration::from_secs(20));

    #[test]
    fn changed_word_and_timeout_are_told_apart() {
        let word = AtomicU32::new(1);
        assert_eq!(wait(&word, 0, LONG, ALL).unwrap(), Wake::Changed);
        let start = Instant::now();
        let short = Duration::from_millis(20);
        assert_eq!(wait(&word, 1, Some(short), ALL).unwrap(), Wake::TimedOut);
        assert!(start.elapsed() >= short);
        assert_eq!(
            wait(&word, 1, Some(Duration::ZERO), ALL).unwrap(),
            Wake::TimedOut
        );
    }

    #[test]
    fn empty_bitset_is_refused() {
        let word = AtomicU32::new(0);
        assert_eq!(
            wait(&word, 0, LONG, 0).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            wake(&word, 1, 0).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(wake(&word, 0, ALL).unwrap(), 0);
    }

    #[test]
    fn endless_timeouts_become_no_timeout() {
        assert!(deadline_after(Duration::MAX).is_none());
        assert!(deadline_after(Duration::from_secs(i64::MAX as u64)).is_none());
        let soon = deadline_after(Duration::new(3, 999_999_999)).unwrap();
        assert!((0..1_000_000_000).contains(&soon.tv_nsec));
    }

    #[test]
    fn read_only_sleeper_is_woken_through_another_mapping_by_its_bit_only() {
        let fd = space::create_unnamed(Path::new("/dev/shm"), 0o600).unwrap();
        space::allocate(&fd, 0, 4096).unwrap();
        let writable = Mapping::new(&fd, 4096, true).unwrap();
        let readonly = Mapping::new(&fd, 4096, false).unwrap();
        // SAFETY: offset 64 of a 4096-byte mapping, 4-byte aligned, backed by the allocated object.
        let there = unsafe { AtomicU32::from_ptr(writable.base().add(64).cast()) };
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                // SAFETY: as above; through this reference nothing is stored.
                let here = unsafe { AtomicU32::from_ptr(readonly.base().add(64).cast()) };
                wait(here, 0, LONG, 0b10).unwrap()
            });
            // Repeated, because nobody can see from outside when the sleeper has fallen asleep.
            let mut woken = 0;
            while woken == 0 {
                assert_eq!(
                    wake(there, u32::MAX, 0b01).unwrap(),
                    0,
                    "a foreign bit wakes nobody"
                );
                std::thread::yield_now();
                woken = wake(there, u32::MAX, 0b11).unwrap();
                assert!(
                    woken == 1 || !sleeper.is_finished(),
                    "it slept or woke without us"
                );
            }
            assert_eq!(sleeper.join().unwrap(), Wake::Woken);
        });
        there.store(1, SeqCst);
        // SAFETY: as above.
        let here = unsafe { AtomicU32::from_ptr(readonly.base().add(64).cast()) };
        assert_eq!(wait(here, 0, LONG, ALL).unwrap(), Wake::Changed);
    }
}
