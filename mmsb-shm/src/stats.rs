//! Counts of rare events, kept in the header of `.pages`, where any tool can read them.

use crate::segment::Pages;
use crate::sync::Ordering;

/// Index into the bus counters. Numbers are part of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[non_exhaustive]
pub enum Counter {
    /// Dead participants recovered.
    Recoveries = 0,
    /// ... of which had a claim that was turned into padding.
    RecoveredClaimed = 1,
    /// ... of which had a committed delta that was not applied at all.
    RecoveredReady = 2,
    /// ... of which left a page half-written (odd).
    RecoveredOdd = 3,
    /// ... of which held an owner word and nothing else.
    RecoveredLocked = 4,
    /// Recoveries begun again after a recoverer died.
    RecoveredRecoverer = 5,
    /// Deltas committed by participants that are gone.
    Deltas = 6,
    /// Payload bytes committed by participants that are gone.
    Bytes = 7,
    /// Waits of participants that are gone.
    Waits = 8,
    /// Read retries of participants that are gone.
    Retries = 9,
    /// Doorbell wake-ups that went to the kernel.
    Wakes = 10,
    /// Blocks given back by sweeps.
    Swept = 11,
    /// Leases taken away from a living holder.
    LeasesYielded = 12,
    /// Gaps that lossy subscribers were told of.
    Gaps = 13,
    /// Participants that ever joined.
    Joins = 14,
    /// Blocks in the hand of the dead that were given back.
    RecoveredBlocks = 15,
    /// Dead participants whose committed delta was given up, because its record was corrupt.
    Abandoned = 16,
}

impl Counter {
    /// All, in order.
    pub const ALL: [(Counter, &'static str); 17] = [
        (Counter::Recoveries, "recoveries"),
        (Counter::RecoveredClaimed, "recovered_claimed"),
        (Counter::RecoveredReady, "recovered_ready"),
        (Counter::RecoveredOdd, "recovered_odd"),
        (Counter::RecoveredLocked, "recovered_locked"),
        (Counter::RecoveredRecoverer, "recovered_recoverer"),
        (Counter::Deltas, "deltas"),
        (Counter::Bytes, "bytes"),
        (Counter::Waits, "waits"),
        (Counter::Retries, "retries"),
        (Counter::Wakes, "wakes"),
        (Counter::Swept, "swept"),
        (Counter::LeasesYielded, "leases_yielded"),
        (Counter::Gaps, "gaps"),
        (Counter::Joins, "joins"),
        (Counter::RecoveredBlocks, "recovered_blocks"),
        (Counter::Abandoned, "abandoned"),
    ];
}

impl Pages {
    /// Adds to a counter. Participants only.
    pub(crate) fn count(&self, counter: Counter, n: u64) {
        if n > 0 {
            // Relaxed: a statistic.
            self.header().counters[counter as usize].fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Value of a counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        // Relaxed: a statistic.
        self.header().counters[counter as usize].load(Ordering::Relaxed)
    }
}
