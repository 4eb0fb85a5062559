//! `proc/sched`: how busy the scheduler is, from `/proc/loadavg`, `uptime`, `stat`, `schedstat`, `pressure/cpu`.

use std::path::Path;

use mmsb::schema::{Scalar, Schema};

use super::cpu::{self, CPUS_MAX};
use super::{Page, Source, SourceError, columns, fraction, number, read, record, unexpected};

const LOADAVG: &str = "/proc/loadavg";
const UPTIME: &str = "/proc/uptime";

/// Samples load, uptime and, where the kernel offers them, run-queue times of each processor and CPU pressure.
///
/// `has_schedstat` and `has_pressure` say whether those fields mean anything; without, they are 0.
#[derive(Debug)]
pub struct Sched {
    page: Page,
}

impl Sched {
    /// A source that has taken no sample yet.
    pub fn new() -> Sched {
        let mut builder = record("sched");
        for field in ["load_1min", "load_5min", "load_15min", "uptime_s", "idle_s"] {
            builder = builder.field(field, Scalar::F64);
        }
        builder = builder.field("context_switches", Scalar::U64);
        for field in ["runnable", "threads", "last_pid", "running", "blocked"] {
            builder = builder.field(field, Scalar::U32);
        }
        builder = builder
            .field("has_schedstat", Scalar::Bool)
            .field("has_pressure", Scalar::Bool);
        for which in ["some", "full"] {
            for window in ["10s", "60s", "300s"] {
                builder = builder.field(&format!("pressure_{which}_{window}"), Scalar::F64);
            }
            builder = builder.field(&format!("pressure_{which}_us"), Scalar::U64);
        }
        for field in ["run_ns", "wait_ns", "timeslices"] {
            builder = builder.array_field(field, Scalar::U64, CPUS_MAX as u32);
        }
        Sched {
            page: Page::new("proc/sched", builder.build()),
        }
    }
}

impl Default for Sched {
    fn default() -> Sched {
        Sched::new()
    }
}

impl Source for Sched {
    fn name(&self) -> &'static str {
        self.page.name
    }

    fn schema(&self) -> Schema {
        self.page.schema.clone()
    }

    fn sample(&mut self, out: &mut [u8]) -> Result<(), SourceError> {
        let load = parse_loadavg(&read(Path::new(LOADAVG))?)?;
        let (uptime_s, idle_s) = parse_uptime(&read(Path::new(UPTIME))?)?;
        let stat = cpu::parse(&read(Path::new("/proc/stat"))?)?;
        // Both depend on how the kernel was built and booted: whatever the reason, they are not there.
        let schedstat = read(Path::new("/proc/schedstat")).ok();
        let schedstat = schedstat.and_then(|text| parse_schedstat(&text));
        let pressure = read(Path::new("/proc/pressure/cpu")).ok();
        let pressure = pressure.and_then(|text| parse_pressure(&text));
        self.page.fill(out, |page| {
            page.float("load_1min", load.averages[0])?;
            page.float("load_5min", load.averages[1])?;
            page.float("load_15min", load.averages[2])?;
            page.float("uptime_s", uptime_s)?;
            page.float("idle_s", idle_s)?;
            page.number("context_switches", stat.context_switches)?;
            page.number("runnable", load.runnable)?;
            page.number("threads", load.threads)?;
            page.number("last_pid", load.last_pid)?;
            page.number("running", stat.running)?;
            page.number("blocked", stat.blocked)?;
            page.truth("has_schedstat", schedstat.is_some())?;
            page.truth("has_pressure", pressure.is_some())?;
            for (which, stall) in ["some", "full"]
                .into_iter()
                .zip(pressure.unwrap_or_default())
            {
                for (window, average) in ["10s", "60s", "300s"].into_iter().zip(stall.percent) {
                    page.float(&format!("pressure_{which}_{window}"), average)?;
                }
                page.number(&format!("pressure_{which}_us"), stall.total_us)?;
            }
            let cpus = schedstat.unwrap_or_default();
            for (i, field) in ["run_ns", "wait_ns", "timeslices"].into_iter().enumerate() {
                page.numbers(field, cpus.iter().map(|cpu| cpu[i]))?;
            }
            Ok(())
        })
    }
}

#[derive(Debug, PartialEq)]
struct Load {
    averages: [f64; 3],
    runnable: u64,
    threads: u64,
    last_pid: u64,
}

fn parse_loadavg(text: &str) -> Result<Load, SourceError> {
    let mut words = text.split_whitespace();
    let averages = [(); 3].map(|()| fraction(words.next()));
    let Some((runnable, threads)) = words.next().and_then(|word| word.split_once('/')) else {
        return Err(unexpected(LOADAVG, "runnable/threads"));
    };
    Ok(Load {
        averages,
        runnable: number(runnable).unwrap_or(0),
        threads: number(threads).unwrap_or(0),
        last_pid: words.next().and_then(number).unwrap_or(0),
    })
}

/// Seconds since boot, and seconds that all processors together were idle.
fn parse_uptime(text: &str) -> Result<(f64, f64), SourceError> {
    let mut words = text.split_whitespace();
    let Some(uptime) = words.next() else {
        return Err(unexpected(UPTIME, "seconds"));
    };
    Ok((fraction(Some(uptime)), fraction(words.next())))
}

/// Nanoseconds run, nanoseconds waited, and time slices of each processor; `None` without a line for any.
///
/// They are the last three of the nine columns that every version since 15 has.
fn parse_schedstat(text: &str) -> Option<[[u64; 3]; CPUS_MAX]> {
    let mut cpus = [[0; 3]; CPUS_MAX];
    let mut any = false;
    for line in text.lines() {
        let Some((key, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some(index) = key.strip_prefix("cpu").and_then(number) else {
            continue;
        };
        any = true;
        let cpu = usize::try_from(index).ok().and_then(|i| cpus.get_mut(i));
        if let Some(cpu) = cpu {
            let [_, _, _, _, _, _, run, wait, slices] = columns(rest);
            *cpu = [run, wait, slices];
        }
    }
    any.then_some(cpus)
}

/// Share of time in which tasks waited for a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Stall {
    /// Over the last 10, 60, 300 seconds.
    percent: [f64; 3],
    total_us: u64,
}

/// Stalls of some and of all tasks; `None` if the text has neither.
fn parse_pressure(text: &str) -> Option<[Stall; 2]> {
    let mut stalls = [Stall::default(); 2];
    let mut any = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let stall = match words.next() {
            Some("some") => &mut stalls[0],
            Some("full") => &mut stalls[1],
            _ => continue,
        };
        any = true;
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => stall.percent[0] = fraction(Some(value)),
                "avg60" => stall.percent[1] = fraction(Some(value)),
                "avg300" => stall.percent[2] = fraction(Some(value)),
                "total" => stall.total_us = number(value).unwrap_or(0),
                _ => {}
            }
        }
    }
    any.then_some(stalls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::sources::tests::mangled;

    const LOAD: &str = "0.50 0.15 0.05 3/113 4554\n";
    const SCHEDSTAT: &str = "version 17\ntimestamp 4295223\n\
        cpu0 0 0 1 2 3 4 7654321 123456 999\ndomain0 MC 3 10 0 0\n\
        cpu1 0 0 1 2 3 4 1 2 3\ncpu16 0 0 0 0 0 0 1 1 1\ncpu2 0 0 1\n";
    const PRESSURE: &str = "some avg10=0.39 avg60=0.38 avg300=0.41 total=5151175\n\
        full avg10=0.00 avg60=0.10 avg300=0.00 total=7\n";

    #[test]
    fn load_and_uptime_are_read() {
        let load = parse_loadavg(LOAD).unwrap();
        assert_eq!(load.averages, [0.5, 0.15, 0.05]);
        assert_eq!((load.runnable, load.threads, load.last_pid), (3, 113, 4554));
        assert_eq!(
            parse_uptime("1131.78 2196.46\n").unwrap(),
            (1131.78, 2196.46)
        );
    }

    #[test]
    fn odd_numbers_are_zero_or_the_largest() {
        let load = parse_loadavg("nan inf -1 99999999999999999999/x").unwrap();
        assert_eq!(load.averages, [0.0; 3]);
        assert_eq!(
            (load.runnable, load.threads, load.last_pid),
            (u64::MAX, 0, 0)
        );
        assert_eq!(parse_uptime("x").unwrap(), (0.0, 0.0));
        assert!(parse_loadavg("0.1 0.2 0.3").is_err());
        assert!(parse_uptime(" \n").is_err());
    }

    #[test]
    fn what_the_kernel_lacks_is_none() {
        let cpus = parse_schedstat(SCHEDSTAT).unwrap();
        assert_eq!(cpus[0], [7654321, 123456, 999]);
        assert_eq!(cpus[1], [1, 2, 3]);
        assert_eq!(cpus[2..], [[0; 3]; CPUS_MAX - 2]);
        assert_eq!(parse_schedstat("version 17\n"), None);

        let [some, full] = parse_pressure(PRESSURE).unwrap();
        assert_eq!((some.percent, some.total_us), ([0.39, 0.38, 0.41], 5151175));
        assert_eq!((full.percent, full.total_us), ([0.0, 0.1, 0.0], 7));
        // Kernels before 5.13 have no line for all tasks.
        let [some, full] = parse_pressure("some avg10=1 total= avg60=x\n").unwrap();
        assert_eq!(
            (some.percent, some.total_us, full),
            ([1.0, 0.0, 0.0], 0, Stall::default())
        );
        assert_eq!(parse_pressure("nothing\n"), None);
    }

    #[test]
    fn no_text_panics_or_gives_a_number_that_is_none() {
        for text in mangled(LOAD) {
            if let Ok(load) = parse_loadavg(&text) {
                assert!(
                    load.averages.iter().all(|average| average.is_finite()),
                    "{text}"
                );
            }
        }
        for text in mangled(SCHEDSTAT) {
            assert!(
                parse_schedstat(&text).is_none_or(|cpus| cpus[3] == [0; 3]),
                "{text}"
            );
        }
        for text in mangled(PRESSURE) {
            let stalls = parse_pressure(&text).unwrap_or_default();
            assert!(
                stalls
                    .iter()
                    .flat_map(|stall| stall.percent)
                    .all(f64::is_finite),
                "{text}"
            );
        }
    }
}
