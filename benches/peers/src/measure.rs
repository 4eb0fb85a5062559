//! Clocks, histograms, and what a process reports of one round.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::task::now_ns;

/// What one round of a measurement gave. What it has no figure for is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Median of the times, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p50_ns: Option<f64>,
    /// 90th percentile.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p90_ns: Option<f64>,
    /// 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p99_ns: Option<f64>,
    /// 99.9th percentile.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p999_ns: Option<f64>,
    /// Mean of the times.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mean_ns: Option<f64>,
    /// The shortest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub min_ns: Option<f64>,
    /// The longest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_ns: Option<f64>,
    /// How many times were taken.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub samples: Option<u64>,
    /// Operations in a second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub per_second: Option<f64>,
    /// Reads in a second, beside the writer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reads_per_second: Option<f64>,
    /// Writes in a second, beside the reader.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub writes_per_second: Option<f64>,
    /// How often it never came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub never: Option<u64>,
    /// Anything that a reader of the figures should know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
    /// Counts by time in nanoseconds: how a process hands its distribution on. Not in the results.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub counts: Vec<(f64, u64)>,
}

impl Round {
    /// A round that has only a rate.
    pub fn rate(per_second: f64) -> Round {
        Round {
            per_second: Some(per_second),
            ..Round::default()
        }
    }

    /// What both sides of a measurement reported, as one.
    pub fn and(self, other: Round) -> Round {
        Round {
            p50_ns: self.p50_ns.or(other.p50_ns),
            p90_ns: self.p90_ns.or(other.p90_ns),
            p99_ns: self.p99_ns.or(other.p99_ns),
            p999_ns: self.p999_ns.or(other.p999_ns),
            mean_ns: self.mean_ns.or(other.mean_ns),
            min_ns: self.min_ns.or(other.min_ns),
            max_ns: self.max_ns.or(other.max_ns),
            samples: self.samples.or(other.samples),
            per_second: self.per_second.or(other.per_second),
            reads_per_second: self.reads_per_second.or(other.reads_per_second),
            writes_per_second: self.writes_per_second.or(other.writes_per_second),
            never: self.never.or(other.never),
            note: self.note.or(other.note),
            counts: if self.counts.is_empty() {
                other.counts
            } else {
                self.counts
            },
        }
    }
}

/// Times of one kind of operation.
pub struct Times {
    histogram: Histogram<u64>,
    /// Nanoseconds of one recorded unit.
    unit: f64,
    sum: f64,
}

impl Times {
    /// Records units of `unit` nanoseconds each.
    pub fn new(unit: f64) -> Times {
        Times {
            // Three digits: one part in a thousand is far below the noise.
            histogram: Histogram::new(3).expect("three digits are a valid precision"),
            unit,
            sum: 0.0,
        }
    }

    /// One time, in units.
    #[inline]
    pub fn record(&mut self, units: u64) {
        // Fails only where a histogram cannot grow.
        let _ = self.histogram.record(units);
        self.sum += units as f64;
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The round that these times make.
    pub fn round(&self) -> Round {
        let samples = self.histogram.len();
        if samples == 0 {
            return Round::default();
        }
        let at = |quantile: f64| {
            // The middle of the bucket: its upper end, which the histogram gives, is always a little too much.
            let value = self.histogram.value_at_quantile(quantile);
            let middle = self.histogram.median_equivalent(value);
            Some(middle as f64 * self.unit)
        };
        let counts = self
            .histogram
            .iter_recorded()
            .map(|each| {
                let middle = self.histogram.median_equivalent(each.value_iterated_to());
                (middle as f64 * self.unit, each.count_at_value())
            })
            .collect();
        Round {
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            mean_ns: Some(self.sum / samples as f64 * self.unit),
            min_ns: Some(self.histogram.min() as f64 * self.unit),
            max_ns: Some(self.histogram.max() as f64 * self.unit),
            samples: Some(samples),
            counts,
            ..Round::default()
        }
    }
}

/// The processor's own counter: the cheapest clock there is, and the same on all cores of the machines this runs on.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    /// Nanoseconds of a tick.
    pub ns: f64,
}

impl Ticks {
    /// Finds out how long a tick is, in some milliseconds.
    pub fn calibrate() -> Ticks {
        let (clock, ticks) = (now_ns(), Ticks::now());
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (clock, ticks) = (now_ns() - clock, Ticks::now() - ticks);
        Ticks {
            ns: clock as f64 / ticks as f64,
        }
    }

    /// The counter.
    #[inline(always)]
    pub fn now() -> u64 {
        // SAFETY: every x86-64 processor has the instruction.
        unsafe { _rdtsc() }
    }

    /// The counter once everything that was loaded before has come: without that, the processor looks at its clock while
    /// bytes whose use it has guessed are still on their way.
    #[inline(always)]
    pub fn behind_loads() -> u64 {
        // SAFETY: every x86-64 processor has both instructions.
        unsafe {
            _mm_lfence();
            _rdtsc()
        }
    }

    /// So long, in ticks.
    pub fn of(self, time: Duration) -> u64 {
        (time.as_nanos() as f64 / self.ns) as u64
    }
}

/// Runs `op`, which is told how often it ran before, in blocks until `budget` is over; the times are those of one of a
/// block, and the rate is theirs.
///
/// # Errors
///
/// What `op` failed of.
pub fn blocks<E>(
    budget: Duration,
    block: u64,
    mut op: impl FnMut(u64) -> Result<(), E>,
) -> Result<Round, E> {
    let ticks = Ticks::calibrate();
    // A hundredth of a tick, so that an operation of a few is not rounded to whole ones.
    let mut times = Times::new(ticks.ns / 100.0);
    let mut done = 0;
    // The first tenth warms the caches and the clock of the core up.
    for is_counted in [false, true] {
        let share = if is_counted { 10 } else { 1 };
        let start = Ticks::now();
        let end = start + ticks.of(budget * share / 11);
        let mut before = start;
        while before < end {
            for _ in 0..block {
                op(done)?;
                done += 1;
            }
            let now = Ticks::now();
            if is_counted {
                times.record((now - before) * 100 / block);
            }
            before = now;
        }
    }
    let mut round = times.round();
    round.per_second = round.mean_ns.map(|ns| 1e9 / ns);
    Ok(round)
}

/// At most `points` points of the distribution that all these counts make: times, and the fraction that took no longer.
pub fn cdf(counts: &[(f64, u64)], points: usize) -> Vec<(f64, f64)> {
    // By tenths of nanoseconds, because the rounds' buckets are not exactly the same.
    let mut all: BTreeMap<u64, u64> = BTreeMap::new();
    for (ns, count) in counts {
        *all.entry((ns * 10.0) as u64).or_default() += count;
    }
    let total: u64 = all.values().sum();
    let (mut below, mut said) = (0, -1.0);
    let mut out = Vec::new();
    for (tenths, count) in all {
        below += count;
        let fraction = below as f64 / total as f64;
        // Evenly by fraction up to 90 %, then ten times finer, because the tail is what such plots are for.
        let step = match fraction {
            ..0.9 => 1.2 / points as f64,
            ..0.99 => 0.2 / points as f64,
            _ => 0.02 / points as f64,
        };
        if fraction - said >= step || below == total {
            out.push((tenths as f64 / 10.0, fraction));
            said = fraction;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_quantiles() {
        let mut times = Times::new(0.5);
        for units in 1..=1000 {
            times.record(units);
        }
        let round = times.round();
        assert_eq!(round.samples, Some(1000));
        assert!((round.p50_ns.unwrap() - 250.0).abs() < 1.0);
        assert!((round.p99_ns.unwrap() - 495.0).abs() < 1.0);
        assert_eq!((round.min_ns, round.max_ns), (Some(0.5), Some(500.0)));
        assert_eq!(Times::new(1.0).round(), Round::default());
    }

    #[test]
    fn a_distribution_ends_at_all() {
        let counts: Vec<_> = (1..=5000).map(|ns| (f64::from(ns), 1)).collect();
        let points = cdf(&counts, 200);
        assert!(points.len() <= 400, "{}", points.len());
        assert_eq!(points.last(), Some(&(5000.0, 1.0)));
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
        assert!(cdf(&[], 200).is_empty());
    }

    #[test]
    fn both_sides_make_one_round() {
        let lead = Round {
            writes_per_second: Some(2.0),
            ..Round::default()
        };
        let peer = Round {
            reads_per_second: Some(3.0),
            ..Round::default()
        };
        let both = lead.and(peer);
        assert_eq!(both.writes_per_second, Some(2.0));
        assert_eq!(both.reads_per_second, Some(3.0));
    }
}
