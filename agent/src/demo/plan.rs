//! What the tormentor does and when: a sequence that the seed alone decides.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Longest time a process is kept stopped.
const STOP_MAX: Duration = Duration::from_millis(200);

/// One deed. `pick` chooses among the processes there are, by its remainder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// SIGKILL to a writer.
    KillWriter {
        /// Chooses the writer.
        pick: u64,
    },
    /// SIGKILL to a publisher.
    KillPublisher {
        /// Chooses the publisher.
        pick: u64,
    },
    /// SIGSTOP to a writer, and SIGCONT some time later.
    StopWriter {
        /// Chooses the writer.
        pick: u64,
        /// How long it stays stopped.
        stopped: Duration,
    },
}

/// An endless sequence of deeds and the pauses ahead of them.
#[derive(Debug)]
pub struct Plan {
    rng: StdRng,
    per_second: f64,
}

impl Plan {
    /// The sequence of this seed, with so many kills in a second on average; none at all for 0.
    pub fn new(seed: u64, kills_per_second: f64) -> Plan {
        Plan {
            rng: StdRng::seed_from_u64(seed),
            per_second: if kills_per_second.is_finite() {
                kills_per_second.clamp(0.0, 1000.0)
            } else {
                0.0
            },
        }
    }
}

impl Iterator for Plan {
    type Item = (Duration, Act);

    fn next(&mut self) -> Option<(Duration, Act)> {
        if self.per_second <= 0.0 {
            return None;
        }
        // Exponential pauses: the next kill does not depend on when the last one was.
        let noise: f64 = self.rng.random();
        let pause = (-(1.0 - noise).ln() / self.per_second).min(10.0);
        let kind: f64 = self.rng.random();
        let pick = self.rng.random();
        let stopped = STOP_MAX.mul_f64(self.rng.random::<f64>());
        let act = if kind < 0.85 {
            Act::KillWriter { pick }
        } else if kind < 0.95 {
            Act::KillPublisher { pick }
        } else {
            Act::StopWriter { pick, stopped }
        };
        Some((Duration::from_secs_f64(pause), act))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_sequence_and_the_rate_asked_for() {
        let first: Vec<_> = Plan::new(7, 20.0).take(2000).collect();
        let again: Vec<_> = Plan::new(7, 20.0).take(2000).collect();
        let other: Vec<_> = Plan::new(8, 20.0).take(2000).collect();
        assert_eq!(first, again);
        assert_ne!(first, other);
        let total: Duration = first.iter().map(|(pause, _)| *pause).sum();
        assert!((80.0..120.0).contains(&total.as_secs_f64()), "{total:?}");
        let has = |f: fn(&Act) -> bool| first.iter().any(|(_, act)| f(act));
        assert!(has(|act| matches!(act, Act::KillWriter { .. })));
        assert!(has(|act| matches!(act, Act::KillPublisher { .. })));
        assert!(has(|act| matches!(act, Act::StopWriter { .. })));
    }

    #[test]
    fn no_kills_means_none() {
        assert_eq!(Plan::new(1, 0.0).next(), None);
        assert_eq!(Plan::new(1, f64::NAN).next(), None);
    }
}
