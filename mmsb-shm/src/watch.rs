//! Watching several buses at once, for the one helper thread of a process that feeds its pollable descriptors.

use std::time::Duration;

use crate::doorbell::NAP_WITHOUT_BARRIER;
use crate::ring::Seen;
use crate::segment::{Core, Pages};
use crate::sync::{AtomicU32, Ordering, heavy};
use crate::sys::futex;

/// What a position of the ring holds for somebody who follows from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Nothing: it is the end.
    Nothing,
    /// A record that its writer claimed and has not finished.
    Unfinished,
    /// Something to poll: records, padding, or a gap.
    Something,
}

impl Pages {
    /// What a poll from `position` would meet.
    #[inline]
    pub fn ahead(&self, position: u64) -> Ahead {
        match self.ring().look(position) {
            Seen::Nothing => Ahead::Nothing,
            Seen::Claimed(_) => Ahead::Unfinished,
            _ => Ahead::Something,
        }
    }
}

/// Sleeps until a record is committed to one of `cores`, `kick` is changed and woken by
/// [`futex::wake`](crate::sys::futex::wake), or `timeout` is over; at once if `ready` says so. It may come back for
/// nothing.
///
/// This is the sleeper's side of the doorbell for several bells: the value of each is read, its flag set, then comes
/// one heavy barrier for all, then `ready`, then the sleep. The argument is that of the doorbell, once for each bell.
pub fn sleep_until_news(
    cores: &[&Core],
    kick: &AtomicU32,
    timeout: Duration,
    ready: impl FnOnce() -> bool,
) {
    // Acquire: read ahead of `ready`, so that a kick in between is noticed.
    let mut words = vec![(kick, kick.load(Ordering::Acquire))];
    for core in cores {
        let bell = &core.pages.header().doorbell;
        // Acquire, then SeqCst: as in `doorbell::sleep`.
        words.push((bell, bell.load(Ordering::Acquire)));
        core.ctl
            .header()
            .sleepers
            .fetch_or(u32::MAX, Ordering::SeqCst);
    }
    let timeout = if cores.is_empty() || heavy() {
        timeout
    } else {
        timeout.min(NAP_WITHOUT_BARRIER)
    };
    if ready() {
        return;
    }
    // The kernel takes 128 words; a process on more buses than that looks after the rest with short naps.
    let (words, timeout) = match words.get(..128) {
        Some(first) => (first, timeout.min(NAP_WITHOUT_BARRIER)),
        None => (&words[..], timeout),
    };
    if futex::wait_any(words, Some(timeout)).is_err() {
        // No futex_waitv (Linux before 5.16): one bus is waited for properly, several with short naps.
        let alone = match words {
            [kick] => futex::wait(kick.0, kick.1, Some(timeout), u32::MAX).is_ok(),
            _ => false,
        };
        if !alone {
            std::thread::sleep(timeout.min(Duration::from_millis(2)));
        }
    }
}
