//! How long operations took.
//!
//! An operation of 20 ns is shorter than a look at the clock, so blocks of operations are timed, and the quantiles are
//! over blocks: each is a block's time divided by its operations.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cli::exit::Failure;

/// Longest block, in picoseconds.
const PS_MAX: u64 = 1_000_000_000_000_000;

/// Times of blocks.
pub struct Samples {
    /// Picoseconds per operation.
    ps: Histogram<u64>,
    block: u64,
    operations: u64,
    elapsed: Duration,
}

/// What a case has to say, on its way from the process that measured it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Median in nanoseconds.
    pub p50_ns: f64,
    /// 99th percentile in nanoseconds.
    pub p99_ns: f64,
    /// 99.9th percentile in nanoseconds.
    pub p999_ns: f64,
    /// Operations in a second.
    pub per_second: f64,
    /// Operations in a block.
    pub block: u64,
    /// Blocks timed.
    pub blocks: u64,
    /// What the case measured in place of the floor, in nanoseconds.
    #[serde(default)]
    pub floor_ns: Option<f64>,
    /// Bytes of an operation, where the floor is the time for one.
    #[serde(default)]
    pub floor_bytes: Option<f64>,
    /// More figures, by name.
    #[serde(default)]
    pub more: Map<String, Value>,
}

impl Samples {
    /// None yet; of so many operations each.
    ///
    /// # Errors
    ///
    /// None in practice; the histogram's bounds are constants.
    pub fn new(block: u64) -> Result<Samples, Failure> {
        let ps = Histogram::new_with_bounds(1, PS_MAX, 3)
            .map_err(|error| Failure::problem(error.to_string()))?;
        Ok(Samples {
            ps,
            block,
            operations: 0,
            elapsed: Duration::ZERO,
        })
    }

    /// One block more.
    pub fn add(&mut self, took: Duration) {
        let ps = took.as_nanos().saturating_mul(1000) / u128::from(self.block.max(1));
        self.ps
            .saturating_record(u64::try_from(ps).unwrap_or(PS_MAX));
        self.operations += self.block;
        self.elapsed += took;
    }

    /// As words, for a process that puts several together.
    pub fn to_words(&self) -> Vec<u64> {
        self.ps
            .iter_recorded()
            .flat_map(|at| [at.value_iterated_to(), at.count_at_value()])
            .collect()
    }

    /// Adds what another process made of its samples by [`Samples::to_words`]; its operations were timed one by one.
    pub fn add_words(&mut self, words: &[u64]) {
        for pair in words.chunks_exact(2) {
            self.ps.saturating_record_n(pair[0], pair[1]);
            self.operations += pair[1] * self.block;
            self.elapsed += Duration::from_nanos(pair[0] / 1000 * pair[1] * self.block);
        }
    }

    /// Blocks so far.
    pub fn count(&self) -> u64 {
        self.ps.len()
    }

    /// A quantile in nanoseconds.
    pub fn quantile(&self, at: f64) -> f64 {
        self.ps.value_at_quantile(at) as f64 / 1000.0
    }

    /// Operations in a second, over all blocks.
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// All of it.
    pub fn measured(&self) -> Measured {
        Measured {
            p50_ns: self.quantile(0.5),
            p99_ns: self.quantile(0.99),
            p999_ns: self.quantile(0.999),
            per_second: self.per_second(),
            block: self.block,
            blocks: self.ps.len(),
            floor_ns: None,
            floor_bytes: None,
            more: Map::new(),
        }
    }
}

impl Measured {
    /// With one figure more.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Measured {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// One of the further figures.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.more.get(name).and_then(Value::as_f64)
    }
}

/// Times `operation` in blocks of `block` calls for `budget`, after a fifth of that to warm up. A call counts as
/// `weight` operations, and gets its number, from 1 on. Returns the samples and how many calls there were, those of the
/// warm-up included.
///
/// # Errors
///
/// The first error of `operation`.
#[inline(always)]
pub fn blocks<E: Into<Failure>>(
    budget: Duration,
    block: u64,
    weight: u64,
    mut operation: impl FnMut(u64) -> Result<(), E>,
) -> Result<(Samples, u64), Failure> {
    let mut samples = Samples::new(block * weight)?;
    let begin = Instant::now();
    let (warm, end) = (begin + budget / 5, begin + budget / 5 + budget);
    let mut calls = 0;
    loop {
        let start = Instant::now();
        for _ in 0..block {
            calls += 1;
            operation(calls).map_err(Into::into)?;
        }
        let took = start.elapsed();
        if start >= warm {
            samples.add(took);
            if start >= end {
                return Ok((samples, calls));
            }
        }
    }
}

/// As [`blocks`], from the first block until `is_over`, which is asked between blocks.
///
/// # Errors
///
/// As [`blocks`].
#[inline(always)]
pub fn blocks_until<E: Into<Failure>>(
    is_over: impl Fn() -> bool,
    block: u64,
    mut operation: impl FnMut(u64) -> Result<(), E>,
) -> Result<(Samples, u64), Failure> {
    let mut samples = Samples::new(block)?;
    let mut calls = 0;
    while !is_over() {
        let start = Instant::now();
        for _ in 0..block {
            calls += 1;
            operation(calls).map_err(Into::into)?;
        }
        samples.add(start.elapsed());
    }
    Ok((samples, calls))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_counts_for_its_operations() {
        let mut samples = Samples::new(64).unwrap();
        for _ in 0..999 {
            samples.add(Duration::from_nanos(6400));
        }
        samples.add(Duration::from_micros(640));
        let measured = samples.measured();
        assert!((measured.p50_ns - 100.0).abs() < 0.2, "{measured:?}");
        assert!((measured.p99_ns - 100.0).abs() < 0.2, "{measured:?}");
        assert!(samples.quantile(1.0) > 9_900.0);
        let seconds = 999.0 * 6.4e-6 + 640e-6;
        assert!((measured.per_second - 64_000.0 / seconds).abs() < 10.0);
        assert_eq!((measured.block, measured.blocks), (64, 1000));
    }

    #[test]
    fn calls_are_numbered_from_one_and_errors_end_them() {
        let mut last = 0;
        let (samples, calls) = blocks(Duration::from_millis(2), 8, 4, |n| {
            assert_eq!(n, last + 1);
            last = n;
            Ok::<_, Failure>(())
        })
        .unwrap();
        assert_eq!((calls, calls % 8), (last, 0));
        assert_eq!(samples.block, 32);
        assert!(!samples.ps.is_empty());
        let failed = blocks(Duration::from_secs(9), 1, 1, |_| {
            Err(Failure::problem("no"))
        });
        assert_eq!(failed.err().unwrap().message, "no");
    }

    #[test]
    fn samples_of_several_processes_come_together() {
        let (mut one, mut all) = (Samples::new(1).unwrap(), Samples::new(1).unwrap());
        for micros in 1..=100 {
            one.add(Duration::from_micros(micros));
        }
        all.add_words(&one.to_words());
        all.add_words(&one.to_words());
        assert_eq!(all.measured().blocks, 200);
        let (one, all) = (one.quantile(0.5), all.quantile(0.5));
        assert!((one - all).abs() < 0.002 * one, "{one} {all}");
    }

    #[test]
    fn what_was_measured_survives_the_pipe() {
        let measured = Measured {
            p50_ns: 1.25,
            floor_ns: Some(3.0),
            ..Measured::default()
        }
        .with("reads_per_second", 12.5);
        let text = serde_json::to_string(&measured).unwrap();
        let again: Measured = serde_json::from_str(&text).unwrap();
        assert_eq!(again, measured);
        assert_eq!(again.number("reads_per_second"), Some(12.5));
    }
}
