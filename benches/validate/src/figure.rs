//! Figures: what several rounds gave, and how people read it.

use serde::{Deserialize, Serialize};

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// The smaller, the better.
    Less,
    /// The greater, the better.
    More,
}

/// What several rounds gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// Of an even number of rounds, the mean of the two in the middle.
    pub median: f64,
    /// The greatest.
    pub max: f64,
    /// How many rounds there were.
    pub rounds: usize,
}

impl Spread {
    /// Of at least one finite number; others are left out.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        let rounds = values.len();
        Some(Spread {
            min,
            median,
            max,
            rounds,
        })
    }
}

/// A figure of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name in the output of the program that measured it.
    pub name: String,
    /// Which way it gets better.
    pub better: Better,
    /// As it was measured.
    #[serde(flatten)]
    pub measured: Spread,
    /// In units of the floor that was measured around it, where it is slow and fast with that: a time divided by the
    /// floor's, a rate multiplied by it.
    pub by_floor: Option<Spread>,
}

/// A number with three digits that matter.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// With the greatest of the units that leaves something before the point.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let fits = |(size, _): &&(f64, &str)| value.abs() >= *size;
    let last = units.last().copied().unwrap_or((1.0, ""));
    let (size, unit) = units.iter().find(fits).copied().unwrap_or(last);
    format!("{} {unit}", digits(value / size))
}

const TIMES: [(f64, &str); 4] = [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")];
const RATES: [(f64, &str); 3] = [(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")];
const BANDWIDTHS: [(f64, &str); 2] = [(1e9, "GB/s"), (1e6, "MB/s")];
const SIZES: [(f64, &str); 2] = [(1_048_576.0, "MiB"), (1.0, "B")];

/// A figure as people read it; what it is follows from its name.
pub fn shown(name: &str, value: f64) -> String {
    match name {
        "ratio_to_floor" => format!("{} x floor", digits(value)),
        "times_a_commit" => format!("{} x commit", digits(value)),
        "times_rust" => format!("{} x Rust", digits(value)),
        "over_rust_ns" => format!("{value:+.1} ns to Rust"),
        "writer_p99_ratio" => format!("writers' p99 {} x", digits(value)),
        "per_second_at_100_us" => format!("{} at 0.1 ms a write", scaled(value, &RATES)),
        "reads_per_second" => format!("{} reads", scaled(value, &RATES)),
        "writes_per_second" => format!("{} writes", scaled(value, &RATES)),
        _ if name.ends_with("bytes_per_second") => scaled(value, &BANDWIDTHS),
        _ if name.ends_with("per_second") => scaled(value, &RATES),
        _ if name.ends_with("ns") => scaled(value, &TIMES),
        _ if name.contains("bytes") => scaled(value, &SIZES),
        _ => digits(value),
    }
}

/// Whole numbers in groups of three.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_and_nothing_is_made_of_nothing() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of(&[4.0, 2.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of(&[f64::NAN, 5.0]).unwrap().rounds, 1);
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[f64::INFINITY]), None);
    }

    #[test]
    fn figures_are_read_with_their_units() {
        assert_eq!(shown("p50_ns", 25.13), "25.1 ns");
        assert_eq!(shown("p50_ns", 4_400_000.0), "4.40 ms");
        assert_eq!(shown("ratio_to_floor", 1.234), "1.23 x floor");
        assert_eq!(shown("reads_per_second", 12.3e6), "12.3 M/s reads");
        assert_eq!(shown("bytes_per_second", 2.9e9), "2.90 GB/s");
        assert_eq!(shown("bytes_per_second", 1e5), "0.10 MB/s");
        assert_eq!(shown("memory_bytes", 1_071_644_672.0), "1022 MiB");
        assert_eq!(shown("memory_bytes_per_page", 47.6), "47.6 B");
        assert_eq!(shown("over_rust_ns", 1.4), "+1.4 ns to Rust");
        assert_eq!(shown("p50_ns", 0.5), "0.50 ns");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn a_figure_survives_a_file() {
        let figure = Figure {
            name: "p50_ns".to_owned(),
            better: Better::Less,
            measured: Spread::of(&[1.0, 2.0, 4.0]).unwrap(),
            by_floor: None,
        };
        let text = serde_json::to_string(&figure).unwrap();
        assert!(text.contains("\"better\":\"less\"") && text.contains("\"median\":2.0"));
        assert_eq!(serde_json::from_str::<Figure>(&text).unwrap(), figure);
    }
}
