//! Moments in the life of a bus as people write them, where its log is, and times as they are shown.
//!
//! | written | means |
//! | --- | --- |
//! | `123456`, `1_000_000` | an LSN |
//! | `2026-11-21T14:05:00Z`, `2026-11-21T15:05:00.250+01:00`, `2026-11-21` | a time; without a zone UTC |
//! | `-5m`, `-250ms` | so long ago |
//! | `now` | this moment |
//! | `start`, `end` | as far as the log goes |

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mmsb::PageId;
use mmsb::history::{At, Filter, Log};

use super::exit::Failure;
use super::{Context, units};

/// For the help of commands that take moments.
pub const MOMENTS: &str = "\
A moment is an LSN (1_000_000), a time (2026-11-21T14:05:00Z, or 2026-11-21 15:05:00+01:00; UTC without a zone), so long
ago (-5m, -250ms), now, start or end. It includes the record at that LSN, or all records that are not younger.";

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Where the log begins.
    Start,
    /// With the record at this LSN.
    Lsn(u64),
    /// CLOCK_REALTIME, ns.
    Time(u64),
    /// Where the log ends.
    End,
}

impl Moment {
    /// As a state is asked for.
    ///
    /// # Errors
    ///
    /// What reading the log gave.
    pub fn at(self, log: &Log) -> Result<At, Failure> {
        Ok(match self {
            Moment::Start => At::Lsn(log.bounds()?.oldest_state),
            Moment::Lsn(lsn) => At::Lsn(lsn),
            Moment::Time(ns) => At::Time(ns),
            Moment::End => At::End,
        })
    }

    /// The first LSN of a range that begins so. 0: that of the log.
    ///
    /// # Errors
    ///
    /// What reading the log gave.
    pub fn first_lsn(self, log: &Log) -> Result<u64, Failure> {
        Ok(match self {
            Moment::Start => 0,
            Moment::Lsn(lsn) => lsn,
            Moment::Time(ns) => log.lsn_at(At::Time(ns.saturating_sub(1)))?,
            Moment::End => log.bounds()?.end_lsn,
        })
    }

    /// The LSN behind a range that ends so.
    ///
    /// # Errors
    ///
    /// What reading the log gave.
    pub fn end_lsn(self, log: &Log) -> Result<u64, Failure> {
        Ok(match self {
            Moment::Start => log.bounds()?.first_lsn,
            Moment::Lsn(lsn) => lsn.saturating_add(1),
            Moment::Time(ns) => log.lsn_at(At::Time(ns))?,
            Moment::End => u64::MAX,
        })
    }
}

/// Parses a moment.
///
/// # Errors
///
/// A sentence that says what a moment looks like.
pub fn moment(text: &str) -> Result<Moment, String> {
    let bad = || {
        format!(
            "{text:?} is no moment: write an LSN, a time such as 2026-11-21T14:05:00Z, so long ago such as -5m, now, \
             start or end"
        )
    };
    match text {
        "now" => return Ok(Moment::Time(now_ns())),
        "start" => return Ok(Moment::Start),
        "end" => return Ok(Moment::End),
        _ => {}
    }
    if let Some(ago) = text.strip_prefix('-') {
        let ago = units::duration(ago).map_err(|_| bad())?;
        let ago = u64::try_from(ago.as_nanos()).map_err(|_| bad())?;
        return Ok(Moment::Time(now_ns().saturating_sub(ago)));
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
        let digits: String = text.chars().filter(|c| *c != '_').collect();
        return digits.parse().map(Moment::Lsn).map_err(|_| bad());
    }
    parse_time(text).map(Moment::Time).ok_or_else(bad)
}

/// Now, in ns of CLOCK_REALTIME.
pub fn now_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last one; 400 of them have 146,097 days.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a day counted from 1970-01-01.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// RFC 3339, with a blank in place of the `T` too, and without a time, without seconds or without a zone.
fn parse_time(text: &str) -> Option<u64> {
    let number = |text: &str, digits: usize| -> Option<i64> {
        let good = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
        good.then(|| text.parse().ok())?
    };
    let date = text.get(..10)?;
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4)?;
    let month = number(parts.next()?, 2)?;
    let day = number(parts.next()?, 2)?;
    if parts.next().is_some() {
        return None;
    }
    let days = days_of(year, month, day);
    if date_of(days) != (year, month, day) {
        return None;
    }
    let rest = &text[10..];
    let (mut seconds, mut ns, mut zone) = (0, 0i64, 0);
    if !rest.is_empty() {
        let rest = rest.strip_prefix(['T', 't', ' '])?;
        let (clock, offset) = match rest.find(['Z', 'z', '+', '-']) {
            Some(at) => rest.split_at(at),
            None => (rest, "Z"),
        };
        let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
        let mut parts = whole.split(':');
        let hour = number(parts.next()?, 2)?;
        let minute = number(parts.next()?, 2)?;
        let second = parts.next().map_or(Some(0), |s| number(s, 2))?;
        if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        seconds = hour * 3600 + minute * 60 + second;
        if fraction.is_empty() || fraction.len() > 9 {
            return None;
        }
        ns = number(fraction, fraction.len())? * 10i64.pow(9 - fraction.len() as u32);
        if !matches!(offset, "Z" | "z") {
            let (hours, minutes) = offset[1..].split_once(':')?;
            let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            zone = hours * 3600 + minutes * 60;
            if offset.starts_with('-') {
                zone = -zone;
            }
        }
    }
    let total = i128::from(days * 86_400 + seconds - zone) * 1_000_000_000 + i128::from(ns);
    u64::try_from(total).ok()
}

/// A time of CLOCK_REALTIME as RFC 3339 in UTC, in milliseconds: records are no more exact.
pub fn shown(time_ns: u64) -> String {
    let ms = time_ns / 1_000_000;
    let (seconds, ms) = (ms / 1000, ms % 1000);
    // At most 2^64 / 10^9 / 86,400 days.
    let (year, month, day) = date_of((seconds / 86_400) as i64);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Where the log is: `--log`, else the operand, a directory or the name of a bus in `$MMSB_LOGS` or `/var/lib/mmsb`.
///
/// # Errors
///
/// That neither was given, or that there is no such directory.
pub fn log_dir(option: Option<&Path>, operand: Option<&str>) -> Result<PathBuf, Failure> {
    let dir = match (option, operand) {
        (Some(dir), _) => dir.to_owned(),
        (None, None) => {
            return Err(Failure::usage(
                "say where the log is: --log DIR, the directory of one bus's log",
            ));
        }
        (None, Some(text)) if text.contains('/') || Path::new(text).is_dir() => text.into(),
        (None, Some(bus)) => {
            let logs = std::env::var_os("MMSB_LOGS").filter(|dir| !dir.is_empty());
            let logs = logs.map_or_else(|| PathBuf::from("/var/lib/mmsb"), PathBuf::from);
            let dir = logs.join(bus);
            if !dir.is_dir() {
                return Err(Failure::problem(format!(
                    "{bus:?} is no directory, and {} is none either; say where the log of the bus is with --log DIR",
                    dir.display()
                )));
            }
            dir
        }
    };
    match std::fs::metadata(&dir) {
        Ok(about) if about.is_dir() => Ok(dir),
        Ok(_) => Err(Failure::problem(format!(
            "{} is a file; name the directory of the log, with all its files",
            dir.display()
        ))),
        Err(e) => Err(Failure::new(
            super::exit::io_code(&e),
            format!("cannot open {}: {e}", dir.display()),
        )),
    }
}

/// Opens the log in a directory, which must be there.
///
/// # Errors
///
/// That there is none, or what is wrong with it.
pub fn open(dir: &Path) -> Result<Log, Failure> {
    Ok(Log::open(log_dir(Some(dir), None)?)?)
}

/// The page of this name, or with this id (`3.1`), as of the LSN `end`; if it is gone by then, the last one that was
/// called so.
///
/// # Errors
///
/// That no page was called so as far as the log tells.
pub fn page(log: &Log, text: &str, end: u64) -> Result<PageId, Failure> {
    let end = end.min(log.bounds()?.end_lsn);
    if let Some(id) = log.names_at(end)?.find(text) {
        return Ok(id);
    }
    let filter = Filter {
        kinds: vec![mmsb::Kind::Create, mmsb::Kind::Describe],
        prefix: Some(text.to_owned()),
        ..Filter::default()
    };
    let mut found = None;
    for record in log.records(0, end, filter)? {
        let record = record?;
        if *record.page_name == *text {
            found = Some(record.delta.page);
        }
    }
    match (found, text.parse::<PageId>()) {
        (Some(id), _) => Ok(id),
        (None, Ok(id)) if text.contains('.') => Ok(id),
        _ => Err(Failure::problem(format!(
            "no page was called {text:?} as far as the log tells; `mmsb log stat` lists those that changed"
        ))),
    }
}

/// Checks that a bus is the one that the log is of, if it has a log at all.
///
/// # Errors
///
/// That it is another one.
pub fn same_log(log: &Log, bus: &mmsb::Bus, context: &Context) -> Result<(), Failure> {
    let found = bus.log_status().log_id;
    if found == log.meta().log_id {
        return Ok(());
    }
    let what = if found == [0; 2] {
        "has no log"
    } else {
        "has another log"
    };
    Err(Failure::problem(format!(
        "{} holds the log of a bus {:?}, but {} in {} {what}",
        log.dir().display(),
        log.meta().bus,
        bus.name(),
        context.dir.display(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_shown_alike() {
        for (text, ns) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01", 0),
            ("2000-02-29T12:00:00Z", 951_825_600_000_000_000),
            ("2026-11-21T14:05:00.25Z", 1_795_269_900_250_000_000),
            ("2026-11-21T15:05:00.250+01:00", 1_795_269_900_250_000_000),
            ("2026-11-21 14:05", 1_795_269_900_000_000_000),
            (
                "2026-11-21t09:05:00.000000001-05:00",
                1_795_269_900_000_000_001,
            ),
        ] {
            assert_eq!(moment(text), Ok(Moment::Time(ns)), "{text}");
        }
        assert_eq!(shown(1_795_269_900_250_999_999), "2026-11-21T14:05:00.250Z");
        assert_eq!(shown(0), "1970-01-01T00:00:00.000Z");
        for days in (0..200_000).step_by(17) {
            let (y, m, d) = date_of(days);
            assert_eq!(days_of(y, m, d), days);
        }
    }

    #[test]
    fn lsns_and_distances_are_moments_and_nonsense_is_not() {
        assert_eq!(moment("1_000"), Ok(Moment::Lsn(1000)));
        assert_eq!(moment("end"), Ok(Moment::End));
        let Ok(Moment::Time(ago)) = moment("-5m") else {
            panic!("a time");
        };
        assert!(now_ns() - ago >= 300_000_000_000);
        for text in [
            "",
            "-",
            "2026-13-01",
            "2026-02-29",
            "2026-11-21T25:00:00Z",
            "2026-11-21T14:05:00+1",
            "2026-11-21T14:05:00.Z",
            "yesterday",
            "99999999999999999999",
            "äöü-11-21ü",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
