//! `proc/cpu`: time of each processor, from `/proc/stat`.

use std::path::Path;

use mmsb::schema::{Scalar, Schema};

use super::{Page, Source, SourceError, columns, number, read, record, unexpected};

const STAT: &str = "/proc/stat";
/// Processors with a column of their own; the totals count all of them.
pub(super) const CPUS_MAX: usize = 16;
/// The columns of `/proc/stat`, in its order.
const KINDS: [&str; 8] = [
    "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal",
];

/// Samples `/proc/stat`: ticks since boot that each processor spent in each state.
///
/// Element `i` of an array is processor `i`; one that is offline is 0.
#[derive(Debug)]
pub struct Cpu {
    page: Page,
}

impl Cpu {
    /// A source that has taken no sample yet.
    pub fn new() -> Cpu {
        let mut builder = record("cpu")
            .field("ticks_per_second", Scalar::U32)
            .field("cpus", Scalar::U32)
            .field("omitted", Scalar::U32)
            .field("running", Scalar::U32)
            .field("blocked", Scalar::U32)
            .field("context_switches", Scalar::U64)
            .field("forks", Scalar::U64)
            .field("boot_time_s", Scalar::U64);
        for kind in KINDS {
            builder = builder.field(&format!("{kind}_total"), Scalar::U64);
        }
        for kind in KINDS {
            builder = builder.array_field(kind, Scalar::U64, CPUS_MAX as u32);
        }
        Cpu {
            page: Page::new("proc/cpu", builder.build()),
        }
    }
}

impl Default for Cpu {
    fn default() -> Cpu {
        Cpu::new()
    }
}

impl Source for Cpu {
    fn name(&self) -> &'static str {
        self.page.name
    }

    fn schema(&self) -> Schema {
        self.page.schema.clone()
    }

    fn sample(&mut self, out: &mut [u8]) -> Result<(), SourceError> {
        let stat = parse(&read(Path::new(STAT))?)?;
        self.page.fill(out, |page| {
            page.number("ticks_per_second", rustix::param::clock_ticks_per_second())?;
            page.number("cpus", stat.cpus)?;
            page.number("omitted", stat.omitted)?;
            page.number("running", stat.running)?;
            page.number("blocked", stat.blocked)?;
            page.number("context_switches", stat.context_switches)?;
            page.number("forks", stat.forks)?;
            page.number("boot_time_s", stat.boot_time_s)?;
            for (i, kind) in KINDS.into_iter().enumerate() {
                page.number(&format!("{kind}_total"), stat.total[i])?;
                page.numbers(kind, stat.each.iter().map(|cpu| cpu[i]))?;
            }
            Ok(())
        })
    }
}

/// What `/proc/stat` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    total: [u64; KINDS.len()],
    each: [[u64; KINDS.len()]; CPUS_MAX],
    /// Lines that name a processor.
    cpus: u64,
    /// Those of them that `each` has no room for.
    omitted: u64,
    pub(super) context_switches: u64,
    forks: u64,
    boot_time_s: u64,
    pub(super) running: u64,
    pub(super) blocked: u64,
}

pub(super) fn parse(text: &str) -> Result<Stat, SourceError> {
    let mut stat = Stat::default();
    let mut has_total = false;
    for line in text.lines() {
        let (key, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let single = || columns::<1>(rest)[0];
        match key {
            "cpu" => {
                stat.total = columns(rest);
                has_total = true;
            }
            "ctxt" => stat.context_switches = single(),
            "processes" => stat.forks = single(),
            "btime" => stat.boot_time_s = single(),
            "procs_running" => stat.running = single(),
            "procs_blocked" => stat.blocked = single(),
            _ => {
                let Some(index) = key.strip_prefix("cpu").and_then(number) else {
                    continue;
                };
                stat.cpus += 1;
                let cpu = usize::try_from(index)
                    .ok()
                    .and_then(|i| stat.each.get_mut(i));
                match cpu {
                    Some(cpu) => *cpu = columns(rest),
                    None => stat.omitted += 1,
                }
            }
        }
    }
    if !has_total {
        return Err(unexpected(STAT, "line that starts with \"cpu \""));
    }
    Ok(stat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::sources::tests::mangled;

    const SAMPLE: &str = "\
cpu  4163 0 1757 219645 264 0 29 12 0 0
cpu0 1979 0 762 110136 31 0 11 4 0 0
cpu1 2184 0 994 109509 232 0 17 7 0 0
intr 147052 0 0 0 0 13 0 0
ctxt 216542
btime 1795244825
processes 4579
procs_running 4
procs_blocked 1
softirq 74814 0 15517 5
";

    #[test]
    fn each_processor_and_the_totals_are_read() {
        let stat = parse(SAMPLE).unwrap();
        assert_eq!(stat.total, [4163, 0, 1757, 219645, 264, 0, 29, 12]);
        assert_eq!(stat.each[1], [2184, 0, 994, 109509, 232, 0, 17, 7]);
        assert_eq!(stat.each[2], [0; 8]);
        assert_eq!((stat.cpus, stat.omitted), (2, 0));
        assert_eq!((stat.running, stat.blocked), (4, 1));
        assert_eq!((stat.context_switches, stat.forks), (216542, 4579));
        assert_eq!(stat.boot_time_s, 1795244825);
    }

    #[test]
    fn odd_lines_do_not_disturb_the_others() {
        // An old kernel without steal, a hole where processor 1 is offline, more processors than columns, a number of
        // more than 64 bits, and a line that only looks like a processor.
        let text = "cpu  1 2 3 4\ncpu0 99999999999999999999 x -1 4\ncpu2 5\ncpu15 6\ncpu16 7\n\
                    cpu99999999999999999999 8\ncpux 9\ncpu-1 9\n\nprocs_running\n";
        let stat = parse(text).unwrap();
        assert_eq!(stat.total, [1, 2, 3, 4, 0, 0, 0, 0]);
        assert_eq!(stat.each[0], [u64::MAX, 0, 0, 4, 0, 0, 0, 0]);
        assert_eq!(
            (stat.each[1][0], stat.each[2][0], stat.each[15][0]),
            (0, 5, 6)
        );
        assert_eq!((stat.cpus, stat.omitted), (5, 2));
        assert_eq!(stat.running, 0);
    }

    #[test]
    fn another_file_is_refused_and_none_panics() {
        for text in ["", "MemTotal: 1 kB\n", "cpu0 1 2 3\n"] {
            assert!(
                matches!(parse(text), Err(SourceError::Unexpected { .. })),
                "{text:?}"
            );
        }
        // A changed line can lose its own numbers, not invent a total.
        let has_total = |text: &str| {
            text.lines()
                .any(|line| line.split_whitespace().next() == Some("cpu"))
        };
        for text in mangled(SAMPLE) {
            if parse(&text).is_ok() {
                assert!(has_total(&text), "{text}");
            }
        }
    }
}
