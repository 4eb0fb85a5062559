//! From two looks at a bus to what happened between them: page by page, and in quantiles.
//!
//! Both who watches from inside (the daemon) and from outside (`mmsb top`) use it. Nothing is followed delta by delta:
//! epochs are compared, so that watching costs the same whatever the traffic is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mmsb::PageInfo;
use serde::Serialize;

/// A page and how often it changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HotPage {
    /// Its name; its id if it has none.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Bytes.
    pub size: u32,
    /// Its epoch now.
    pub epoch: u64,
    /// LSN of its last delta.
    pub lsn: u64,
    /// Deltas a second since the look before.
    pub rate: f64,
}

/// Remembers the epochs of the pages of one bus.
#[derive(Debug, Default)]
pub struct HotPages {
    epochs: HashMap<(u32, u32), u64>,
    looked_at: Option<Instant>,
    rate: f64,
}

impl HotPages {
    /// Deltas a second of all pages together, between the last two looks.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Takes in what the pages are now; returns the `most` that changed most often since the look before, then by name.
    pub fn look(&mut self, pages: &[PageInfo], now: Instant, most: usize) -> Vec<HotPage> {
        let passed = self
            .looked_at
            .map_or(0.0, |at| now.duration_since(at).as_secs_f64());
        let is_first = self.looked_at.replace(now).is_none();
        let mut epochs = HashMap::with_capacity(pages.len());
        let mut hot: Vec<(f64, &PageInfo)> = Vec::with_capacity(pages.len());
        for page in pages {
            let key = (page.id.index, page.id.generation);
            // A page that is new was created since: its first deltas count.
            let before = self.epochs.get(&key).copied().unwrap_or(0);
            let rate = if is_first || passed <= 0.0 {
                0.0
            } else {
                page.epoch.saturating_sub(before) as f64 / passed
            };
            epochs.insert(key, page.epoch);
            hot.push((rate, page));
        }
        self.epochs = epochs;
        self.rate = hot.iter().map(|(rate, _)| rate).sum();
        hot.sort_by(|(a, x), (b, y)| {
            b.total_cmp(a)
                .then_with(|| x.cold.name.cmp(&y.cold.name))
                .then_with(|| x.id.index.cmp(&y.id.index))
        });
        hot.truncate(most);
        hot.into_iter()
            .map(|(rate, page)| HotPage {
                name: if page.cold.name.is_empty() {
                    page.id.to_string()
                } else {
                    page.cold.name.clone()
                },
                id: page.id.to_string(),
                size: page.size,
                epoch: page.epoch,
                lsn: page.lsn,
                rate,
            })
            .collect()
    }
}

/// Counts of durations by their size: element `i` counts those of at most 2^i µs that are longer than those of the
/// element before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Log2Micros {
    /// The counts.
    pub counts: Vec<u64>,
    /// Sum of all durations in µs.
    pub sum_us: u64,
}

impl Log2Micros {
    /// Counts one duration.
    pub fn add(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        let bucket = micros.next_power_of_two().trailing_zeros().min(39) as usize;
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(micros);
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Log2Micros) -> Log2Micros {
        let counts = self.counts.iter().enumerate().map(|(i, n)| {
            let old = before.counts.get(i).copied().unwrap_or(0);
            n.saturating_sub(old)
        });
        Log2Micros {
            counts: counts.collect(),
            sum_us: self.sum_us.saturating_sub(before.sum_us),
        }
    }

    /// Upper bound in seconds of the bucket that holds the quantile `q` (0 to 1); `None` if there are none.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.total();
        let rank = (q * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(i, n)| {
            seen += n;
            (*n > 0 && seen >= rank).then(|| upper_seconds(i))
        })
    }
}

/// Upper bound of a bucket in seconds.
pub fn upper_seconds(bucket: usize) -> f64 {
    2f64.powi(bucket.min(63) as i32) * 1e-6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_bounds_of_their_buckets() {
        let mut times = Log2Micros::default();
        assert_eq!(times.quantile(0.5), None);
        for micros in [1, 3, 4, 100] {
            times.add(Duration::from_micros(micros));
        }
        assert_eq!((times.total(), times.sum_us), (4, 108));
        assert_eq!(times.counts[2], 2);
        assert_eq!(times.quantile(0.5), Some(4e-6));
        assert_eq!(times.quantile(1.0), Some(128e-6));
        let before = times.clone();
        times.add(Duration::from_micros(100));
        assert_eq!(times.since(&before).total(), 1);
        assert_eq!(times.since(&before).quantile(0.0), Some(128e-6));
    }

    #[test]
    fn the_page_that_changes_most_comes_first() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir_in("/dev/shm")?;
        let bus = mmsb::Bus::builder("hot").dir(dir.path()).create()?;
        let spec = |name: &str| mmsb::PageSpec::of::<u64>().name(name);
        let (a, b) = (bus.create_page(spec("a"))?, bus.create_page(spec("b"))?);
        let mut hot = HotPages::default();
        let begin = Instant::now();
        a.set(&1u64)?;
        // Nothing is known of the time before the first look.
        assert_eq!(hot.look(&bus.all_pages()?, begin, 9)[0].rate, 0.0);
        for n in 0..4u64 {
            b.set(&n)?;
        }
        let seen = hot.look(&bus.all_pages()?, begin + Duration::from_secs(2), 1);
        assert_eq!((seen.len(), seen[0].name.as_str()), (1, "b"));
        assert_eq!(seen[0].rate, 2.0);
        Ok(())
    }
}
