//! Numbers with units, as people write them on a command line: `64M`, `1.5GiB`, `250ms`, `0640`.

use std::time::Duration;

/// Parses a size in bytes: `4096`, `64K`, `64KiB`, `1.5G`, `16 MB`. Units are powers of 1024, with or without `iB`
/// or `B`, in either case.
///
/// # Errors
///
/// A sentence that says what a size looks like.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size: write bytes or a unit, such as 4096, 64K or 1.5GiB");
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let digits: String = number.chars().filter(|c| *c != '_').collect();
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    let value: f64 = digits.parse().map_err(|_| bad())?;
    let bytes = value * (1u64 << shift) as f64;
    if !bytes.is_finite() || bytes < 0.0 || bytes >= u64::MAX as f64 || bytes.fract() != 0.0 {
        return Err(bad());
    }
    Ok(bytes as u64)
}

/// Parses a count: `65536`, `1_000_000`, `64K` and `1M` (powers of 1024).
///
/// # Errors
///
/// A sentence that says what a count looks like.
pub fn count(text: &str) -> Result<u32, String> {
    size(text)
        .ok()
        .and_then(|value| u32::try_from(value).ok())
        .ok_or_else(|| format!("{text:?} is no count below 2^32, such as 65536 or 64K"))
}

/// Parses a duration: `5`, `5s`, `250ms`, `10us`, `2m`, `1h`, `7d`. A bare number is seconds.
///
/// # Errors
///
/// A sentence that says what a duration looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || {
        format!("{text:?} is no duration: write seconds or a unit, such as 5, 0.5s, 250ms or 2m")
    };
    let (number, unit) = split(text);
    let scale = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(bad()),
    };
    let value: f64 = number.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(value * scale).map_err(|_| bad())
}

/// Parses permission bits in octal, `0640` or `640`. Bits for everybody are allowed for reading only.
///
/// # Errors
///
/// A sentence that says which modes there are.
pub fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode & !0o777 == 0 => Ok(mode),
        _ => Err(format!(
            "{text:?} is no mode: write octal permission bits such as 0600 or 0640"
        )),
    }
}

/// The number and what follows it, without the blanks between them.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '_'))
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1_000", 1000),
            ("64K", 64 << 10),
            ("64kib", 64 << 10),
            ("2 MB", 2 << 20),
            ("1.5GiB", 3 << 29),
            ("1T", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "1.5",
            "1e3",
            "64X",
            "1 2",
            "99999999999999999999",
            "17000000T",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(count("64K"), Ok(65536));
        assert!(count("4G").is_err());
    }

    #[test]
    fn durations_are_seconds_unless_they_say_otherwise() {
        for (text, millis) in [
            ("5", 5000),
            ("0.5s", 500),
            ("250ms", 250),
            ("2m", 120_000),
            ("1 h", 3_600_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("10us"), Ok(Duration::from_micros(10)));
        for text in ["", "s", "-1", "5x", "1..2"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode("0640"), Ok(0o640));
        assert_eq!(mode("600"), Ok(0o600));
        assert!(mode("888").is_err() && mode("1777").is_err() && mode("rw").is_err());
    }
}
