//! Waiting and waking: one futex word for subscribers, the owner words themselves for writers.
//!
//! The lost wake-up. A sleeper S and a waker W share a condition C (a record is READY; an owner word is free), a flag
//! F and the futex word X.
//!
//! ```text
//! S: x = load X      set F      heavy barrier      look at C      futex_wait(X, x)
//! W: make C true     light barrier      look at F; if set: clear F, X += 1, futex_wake
//! ```
//!
//! The heavy barrier (membarrier, or its fence) makes every other thread pass a full barrier. If W's look at F came
//! before that, W's store to C came before too, and S sees C. If it came after, W sees F and wakes; S either sleeps
//! already and is woken, or finds X changed and does not sleep. A second sleeper whose F is wiped by W's clear read X
//! before, so the increment that follows the clear keeps it awake. A waker that dies between clear and wake, or a
//! kernel without membarrier, or one that missed a running thread (docs/decisions/0003), costs at most one nap: every
//! sleep is timed and looks again (PROTOCOL A7).
//!
//! Flags are never counts: a sleeper that dies leaves a set bit, which costs one needless wake and is gone.

use std::time::{Duration, Instant};

#[cfg(not(loom))]
use crate::sync::fence;
use crate::sync::{AtomicU32, Ordering, heavy, light};
#[cfg(not(loom))]
use crate::sys::futex;

/// Longest sleep without looking again. The first nap is short, each next one twice as long.
pub(crate) const NAP: Duration = Duration::from_millis(64);
const FIRST_NAP: Duration = Duration::from_millis(2);
/// Longest sleep where the kernel has no membarrier.
pub(crate) const NAP_WITHOUT_BARRIER: Duration = Duration::from_millis(1);

/// How a subscriber waits for the next delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WaitStrategy {
    /// Polls without pause: lowest latency, one core.
    Spin,
    /// Polls for some 20 µs, then sleeps.
    #[default]
    SpinThenPark,
    /// Sleeps at once.
    Park,
}

impl WaitStrategy {
    /// How long to poll before the first sleep; `None`: for ever.
    pub(crate) fn spin(self) -> Option<Duration> {
        match self {
            WaitStrategy::Spin => None,
            WaitStrategy::SpinThenPark => Some(Duration::from_micros(20)),
            WaitStrategy::Park => Some(Duration::ZERO),
        }
    }
}

/// One round of the sleeper: the order that the argument above needs. `barrier` is the sleeper's half of it. `wait` is
/// given what the word was before the flag was set, and whether the heavy barrier worked; it must not block once the word
/// is another. Returns what `ready` said last.
pub(crate) fn sleep_once(
    word: &AtomicU32,
    flags: &AtomicU32,
    mask: u32,
    barrier: impl Fn() -> bool,
    ready: &mut impl FnMut() -> bool,
    wait: impl FnOnce(u32, bool) -> bool,
) -> Slept {
    // Acquire: read before the flag is set, so that a wake in between is noticed.
    let seen = word.load(Ordering::Acquire);
    // SeqCst: first half of the argument above.
    flags.fetch_or(mask, Ordering::SeqCst);
    let barrier = barrier();
    if ready() {
        return Slept::Ready;
    }
    if !wait(seen, barrier) {
        return Slept::Expired;
    }
    if ready() { Slept::Ready } else { Slept::Again }
}

/// How a round of sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slept {
    /// The condition holds.
    Ready,
    /// Woken, or the nap is over.
    Again,
    /// There is no time left.
    Expired,
}

/// A real fence in place of the heavy barrier, for sleepers whose wakers [look with one as well](is_asleep_fenced):
/// where there are many sleepers and waking is no hot path. It interrupts nobody.
#[cfg(not(loom))]
fn fenced() -> bool {
    fence(Ordering::SeqCst);
    true
}

/// As [`is_asleep`], for sleepers that [sleep behind a fence](sleep_fenced).
#[cfg(not(loom))]
pub(crate) fn is_asleep_fenced(flags: &AtomicU32, mask: u32) -> bool {
    // SeqCst fence: the condition was stored ahead of it, the flags are read behind it; the sleeper's fence is the other
    // half.
    fence(Ordering::SeqCst);
    flags.load(Ordering::Relaxed) & mask != 0
}

/// Whether somebody may be asleep for `mask`: the waker's look, behind whatever made the condition true.
#[inline(always)]
pub(crate) fn is_asleep(flags: &AtomicU32, mask: u32) -> bool {
    // The light barrier: the condition was stored ahead of it, the flags are read behind it.
    light();
    // Relaxed: ordered by the barrier.
    flags.load(Ordering::Relaxed) & mask != 0
}

/// Wakes the sleepers whose flags are in `mask`; the caller saw some of them set. `rouse` makes the kernel's call.
pub(crate) fn wake_with(
    word: &AtomicU32,
    flags: &AtomicU32,
    mask: u32,
    rouse: impl FnOnce(&AtomicU32),
) {
    // SeqCst: clear, then bump, then wake, see above.
    flags.fetch_and(!mask, Ordering::SeqCst);
    word.fetch_add(1, Ordering::SeqCst);
    rouse(word);
}

/// Sleeps until `ready` or `deadline`. `mask` are the flag bits this sleeper answers to. Returns what `ready` said
/// last.
#[cfg(not(loom))]
pub(crate) fn sleep(
    word: &AtomicU32,
    flags: &AtomicU32,
    mask: u32,
    deadline: Option<Instant>,
    ready: impl FnMut() -> bool,
) -> bool {
    sleep_behind(heavy, word, flags, mask, deadline, ready)
}

/// As [`sleep`], for wakers that look with [`is_asleep_fenced`].
#[cfg(not(loom))]
pub(crate) fn sleep_fenced(
    word: &AtomicU32,
    flags: &AtomicU32,
    mask: u32,
    deadline: Option<Instant>,
    ready: impl FnMut() -> bool,
) -> bool {
    sleep_behind(fenced, word, flags, mask, deadline, ready)
}

/// As [`sleep`], once: until a wake, the deadline, or a change or wake of another word that has the value given with it.
#[cfg(not(loom))]
pub(crate) fn sleep_beside(
    also: Option<(&AtomicU32, u32)>,
    word: &AtomicU32,
    flags: &AtomicU32,
    mask: u32,
    deadline: Instant,
    mut ready: impl FnMut() -> bool,
) -> bool {
    let Some(also) = also else {
        return sleep(word, flags, mask, Some(deadline), ready);
    };
    let wait = |seen, barrier| {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            return false;
        };
        let left = if barrier {
            left
        } else {
            left.min(NAP_WITHOUT_BARRIER)
        };
        if futex::wait_any(&[(word, seen), also], Some(left)).is_err()
            // Ahead of Linux 5.16.
            && futex::wait(word, seen, Some(left), mask).is_err()
        {
            std::thread::sleep(left.min(NAP_WITHOUT_BARRIER));
        }
        true
    };
    let slept = sleep_once(word, flags, mask, heavy, &mut ready, wait);
    slept == Slept::Ready
}

#[cfg(not(loom))]
fn sleep_behind(
    barrier: fn() -> bool,
    word: &AtomicU32,
    flags: &AtomicU32,
    mask: u32,
    deadline: Option<Instant>,
    mut ready: impl FnMut() -> bool,
) -> bool {
    let mut nap = FIRST_NAP;
    loop {
        let wait = |seen, barrier| {
            nap = if barrier {
                (nap * 2).min(NAP)
            } else {
                NAP_WITHOUT_BARRIER
            };
            let left = match deadline {
                None => nap,
                Some(d) => match d.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => left.min(nap),
                    _ => return false,
                },
            };
            // An error here (a kernel that refuses futex) must not become a busy loop.
            if futex::wait(word, seen, Some(left), mask).is_err() {
                std::thread::sleep(left.min(NAP_WITHOUT_BARRIER));
            }
            true
        };
        match sleep_once(word, flags, mask, barrier, &mut ready, wait) {
            Slept::Ready => return true,
            Slept::Expired => return false,
            Slept::Again => {}
        }
    }
}

/// Wakes the sleepers whose flags are in `mask`; the caller saw some of them set.
#[cfg(not(loom))]
#[cold]
pub(crate) fn wake(word: &AtomicU32, flags: &AtomicU32, mask: u32) {
    wake_with(word, flags, mask, |word| {
        let _ = futex::wake(word, u32::MAX >> 1, mask);
    });
}

/// Flag bit of a page index.
#[inline(always)]
pub(crate) fn bit(index: u32) -> u32 {
    1 << (index & 31)
}
