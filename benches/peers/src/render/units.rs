//! Numbers as people read them: three digits that mean something, and a unit that suits the table.

use crate::results::Figure;

/// What a column's numbers are multiples of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit {
    /// As printed behind the number.
    pub name: &'static str,
    /// In nanoseconds, or a second.
    pub scale: f64,
}

const TIMES: [Unit; 4] = [
    Unit {
        name: "ns",
        scale: 1.0,
    },
    Unit {
        name: "µs",
        scale: 1e3,
    },
    Unit {
        name: "ms",
        scale: 1e6,
    },
    Unit {
        name: "s",
        scale: 1e9,
    },
];

const RATES: [Unit; 3] = [
    Unit {
        name: "/s",
        scale: 1.0,
    },
    Unit {
        name: "k/s",
        scale: 1e3,
    },
    Unit {
        name: "M/s",
        scale: 1e6,
    },
];

impl Unit {
    /// The number without its unit.
    pub fn number(self, value: f64) -> String {
        number(value / self.scale)
    }

    /// The number with its unit.
    pub fn with(self, value: f64) -> String {
        format!("{} {}", self.number(value), self.name)
    }
}

/// The unit for a column: of times the largest that leaves the least at one or more, so that no digit of it is lost; of rates
/// the one of the middle, because a starved reader would make the others unreadable.
pub fn unit_for(figure: Figure, values: impl IntoIterator<Item = f64>) -> Unit {
    let mut values: Vec<f64> = values.into_iter().filter(|value| *value > 0.0).collect();
    values.sort_by(f64::total_cmp);
    let (units, typical) = if figure.more_is_better() {
        (&RATES[..], values.get(values.len() / 2))
    } else {
        (&TIMES[..], values.first())
    };
    let typical = typical.copied().unwrap_or(1.0);
    // What rounds to a whole unit is one.
    let fits = |unit: &&Unit| typical >= 0.9995 * unit.scale;
    units.iter().rev().find(fits).copied().unwrap_or(units[0])
}

/// One value in the unit that suits it alone.
pub fn alone(figure: Figure, value: f64) -> String {
    unit_for(figure, [value]).with(value)
}

/// A number in three digits, or all those before the point.
pub fn number(value: f64) -> String {
    if value >= 999.5 {
        return thousands(value);
    }
    if value <= 0.0 {
        return "0".into();
    }
    // Rounded first: 9.999 has two digits before the point, not one.
    let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
    let before = rounded.log10().floor();
    let decimals = (2.0 - before).clamp(0.0, 9.0) as usize;
    format!("{rounded:.decimals$}")
}

/// How many times something is something else.
pub fn ratio(value: f64) -> String {
    match value {
        value if !value.is_finite() => "∞".into(),
        value if (0.095..9.995).contains(&value) => format!("{value:.2}"),
        value if value > 0.0 && value < 0.095 => two_digits(value),
        value => number(value),
    }
}

fn two_digits(value: f64) -> String {
    let decimals = (1.0 - value.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{value:.decimals$}")
}

/// A number of bytes: `64 B`, `1 KiB`.
pub fn bytes(count: usize) -> String {
    match count {
        _ if count > 0 && count.is_multiple_of(1 << 30) => format!("{} GiB", count >> 30),
        _ if count > 0 && count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        _ if count > 0 && count.is_multiple_of(1 << 10) => format!("{} KiB", count >> 10),
        _ => format!("{count} B"),
    }
}

/// A whole number with a comma before every three digits.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_or_all_before_the_point() {
        let cases = [
            (0.0, "0"),
            (0.01234, "0.0123"),
            (1.7, "1.70"),
            (9.999, "10.0"),
            (75.04, "75.0"),
            (99.96, "100"),
            (245.4, "245"),
            (999.7, "1,000"),
            (50_000.0, "50,000"),
            (1_234_567.0, "1,234,567"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_column_has_the_unit_of_its_least_time_and_its_middle_rate() {
        assert_eq!(unit_for(Figure::P50, [75.0, 50_000.0]).name, "ns");
        assert_eq!(unit_for(Figure::P50, [29_000.0, 41_000.0]).name, "µs");
        assert_eq!(unit_for(Figure::P50, []).name, "ns");
        let starved = unit_for(Figure::ReadsPerSecond, [500.0, 3e6, 11e6]);
        assert_eq!(starved.with(500.0), "0.000500 M/s");
        assert_eq!(alone(Figure::PerSecond, 6900.0), "6.90 k/s");
        assert_eq!(alone(Figure::P50, 884.0), "884 ns");
        assert_eq!(alone(Figure::P50, 999.9), "1.00 µs");
    }

    #[test]
    fn ratios_are_short() {
        assert_eq!(ratio(1.1249), "1.12");
        assert_eq!(ratio(666.7), "667");
        assert_eq!(ratio(0.00123), "0.0012");
        assert_eq!(ratio(f64::INFINITY), "∞");
    }

    #[test]
    fn sizes_are_whole() {
        let names = [8, 64, 1024, 65536, 1 << 20, 1500].map(bytes);
        assert_eq!(names, ["8 B", "64 B", "1 KiB", "64 KiB", "1 MiB", "1500 B"]);
    }
}
