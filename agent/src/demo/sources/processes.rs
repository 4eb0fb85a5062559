//! `proc/processes`: the processes that use the processors most, from `/proc/<pid>/stat`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mmsb::schema::{Scalar, Schema};

use super::{Page, Source, SourceError, number, read, record};

const ROWS_MAX: usize = 32;
/// Twice the kernel's limit for a program's name: its own threads have longer ones.
const COMM_BYTES: u32 = 32;

/// Samples `/proc/<pid>/stat`: the 32 processes that took the most ticks since the sample before, busiest first.
///
/// In the first sample that is since each process's start. A pid that was reused counts from its new start. Equally
/// busy ones are ordered by their ticks in all, then by pid. `states` holds a letter for each row.
#[derive(Debug)]
pub struct Processes {
    page: Page,
    root: PathBuf,
    page_bytes: u64,
    /// Ticks at the last sample, by pid and start time.
    before: HashMap<(u64, u64), u64>,
}

impl Processes {
    /// A source that has taken no sample yet.
    pub fn new() -> Processes {
        Processes::of(Path::new("/proc"))
    }

    /// A source over another mount of procfs, such as that of a container.
    pub fn of(root: &Path) -> Processes {
        let rows = ROWS_MAX as u32;
        let mut builder = record("processes")
            .field("ticks_per_second", Scalar::U32)
            .field("rows", Scalar::U32)
            .field("omitted", Scalar::U32)
            .text("states", rows)
            .array_field("pid", Scalar::U32, rows)
            .array_field("threads", Scalar::U32, rows);
        for column in ["ticks_delta", "user_ticks", "system_ticks", "rss_bytes"] {
            builder = builder.array_field(column, Scalar::U64, rows);
        }
        for row in 0..ROWS_MAX {
            builder = builder.text(&format!("comm{row}"), COMM_BYTES);
        }
        Processes {
            page: Page::new("proc/processes", builder.build()),
            root: root.to_owned(),
            page_bytes: rustix::param::page_size() as u64,
            before: HashMap::new(),
        }
    }

    /// Every process there is, with its ticks since the last sample.
    fn scan(&mut self) -> Result<Vec<(u64, Process)>, SourceError> {
        let failed = |source| SourceError::Read {
            path: self.root.clone(),
            source,
        };
        let mut ticks = HashMap::with_capacity(self.before.len());
        let mut found = Vec::with_capacity(self.before.len());
        for entry in std::fs::read_dir(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_str().and_then(number).is_none() {
                continue;
            }
            // It may have ended since it was listed, or be hidden from us: then it is not there.
            let Ok(text) = read(&entry.path().join("stat")) else {
                continue;
            };
            let Some(process) = parse(&text) else {
                continue;
            };
            let key = (process.pid, process.start_ticks);
            let before = self.before.get(&key).copied().unwrap_or(0);
            ticks.insert(key, process.ticks());
            found.push((process.ticks().saturating_sub(before), process));
        }
        if found.is_empty() {
            return Err(SourceError::Unexpected {
                path: self.root.clone(),
                what: "process that this one may see",
            });
        }
        self.before = ticks;
        found.sort_unstable_by_key(|(delta, process)| {
            use std::cmp::Reverse;
            (Reverse(*delta), Reverse(process.ticks()), process.pid)
        });
        Ok(found)
    }
}

impl Default for Processes {
    fn default() -> Processes {
        Processes::new()
    }
}

impl Source for Processes {
    fn name(&self) -> &'static str {
        self.page.name
    }

    fn schema(&self) -> Schema {
        self.page.schema.clone()
    }

    fn sample(&mut self, out: &mut [u8]) -> Result<(), SourceError> {
        let found = self.scan()?;
        let page_bytes = self.page_bytes;
        let top = &found[..found.len().min(ROWS_MAX)];
        let each = || top.iter().map(|(_, process)| process);
        self.page.fill(out, |page| {
            page.number("ticks_per_second", rustix::param::clock_ticks_per_second())?;
            page.rows(found.len(), ROWS_MAX)?;
            page.text(
                "states",
                &each().map(|process| process.state).collect::<String>(),
            )?;
            page.numbers("pid", each().map(|process| process.pid))?;
            page.numbers("threads", each().map(|process| process.threads))?;
            page.numbers("ticks_delta", top.iter().map(|(delta, _)| *delta))?;
            page.numbers("user_ticks", each().map(|process| process.user_ticks))?;
            page.numbers("system_ticks", each().map(|process| process.system_ticks))?;
            let rss = each().map(|process| process.rss_pages.saturating_mul(page_bytes));
            page.numbers("rss_bytes", rss)?;
            for (row, process) in each().enumerate() {
                page.text(&format!("comm{row}"), &process.comm)?;
            }
            Ok(())
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    pid: u64,
    comm: String,
    /// One ASCII character, so that the text of states has one byte for each row.
    state: char,
    user_ticks: u64,
    system_ticks: u64,
    threads: u64,
    start_ticks: u64,
    rss_pages: u64,
}

impl Process {
    fn ticks(&self) -> u64 {
        self.user_ticks.saturating_add(self.system_ticks)
    }
}

/// Parses `/proc/<pid>/stat`; `None` if it is not one.
fn parse(text: &str) -> Option<Process> {
    // The name is whatever the program likes, parentheses and blanks too; it ends at the last parenthesis, because
    // only numbers follow the state.
    let (pid, rest) = text.split_once('(')?;
    let (comm, rest) = rest.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words
        .next()?
        .chars()
        .next()
        .filter(char::is_ascii_graphic)?;
    // proc_pid_stat(5) counts from 1, and pid, name and state are taken.
    let columns: Vec<u64> = words.map(|word| number(word).unwrap_or(0)).collect();
    let column = |n: usize| columns.get(n - 4).copied().unwrap_or(0);
    Some(Process {
        pid: number(pid.trim())?,
        comm: comm.to_owned(),
        state,
        user_ticks: column(14),
        system_ticks: column(15),
        threads: column(20),
        start_ticks: column(22),
        rss_pages: column(24),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::sources::is_sealed;
    use crate::demo::sources::tests::{mangled, value};

    const SAMPLE: &str = "4557 (cat) R 4546 4546 3330 0 -1 4194304 98 0 0 0 12 34 0 0 20 0 3 0 113179 3133440 362 \
        18446744073709551615 94252208795648 94252208815529 0 0 0 17 0 0 0\n";

    #[test]
    fn the_columns_of_stat_are_found() {
        let process = Process {
            pid: 4557,
            comm: "cat".into(),
            state: 'R',
            user_ticks: 12,
            system_ticks: 34,
            threads: 3,
            start_ticks: 113179,
            rss_pages: 362,
        };
        assert_eq!(parse(SAMPLE), Some(process));
    }

    #[test]
    fn names_may_hold_blanks_and_parentheses() {
        for comm in [
            "tmux: server",
            "a) R 1 (b",
            "((",
            "",
            "(sd-pam)",
            "kworker/0:1H-events_highpri",
            "ü \u{fffd}",
        ] {
            let text = SAMPLE.replace("cat", comm);
            let process = parse(&text).unwrap();
            assert_eq!(
                (process.comm.as_str(), process.pid, process.threads),
                (comm, 4557, 3)
            );
        }
    }

    #[test]
    fn odd_lines_are_none_or_zero() {
        for text in [
            "",
            "1",
            "1 (a",
            "1 (a)",
            "x (a) R 1",
            "1 a) R 1",
            "1 (a) é 1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        let short = parse("1 (a) Z 0 1 99").unwrap();
        assert_eq!((short.pid, short.state, short.ticks()), (1, 'Z', 0));
        let huge = "9".repeat(30);
        let text = SAMPLE
            .replace(" 12 34 ", &format!(" {huge} {huge} "))
            .replace(" 362 ", " -362 ");
        let process = parse(&text).unwrap();
        assert_eq!((process.ticks(), process.rss_pages), (u64::MAX, 0));
        for text in mangled(SAMPLE) {
            assert!(
                parse(&text).is_none_or(|process| process.state.is_ascii()),
                "{text}"
            );
        }
    }

    /// A folder that looks like procfs.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn put(&self, pid: u32, comm: &str, ticks: u64, start: u64) {
            let dir = self.0.path().join(pid.to_string());
            std::fs::create_dir_all(&dir).unwrap();
            let text = format!(
                "{pid} ({comm}) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {start} 0 2 0\n"
            );
            std::fs::write(dir.join("stat"), text).unwrap();
        }
    }

    #[test]
    fn the_busiest_since_the_last_sample_come_first() {
        let fake = Fake(tempfile::tempdir().unwrap());
        std::fs::create_dir(fake.0.path().join("sys")).unwrap();
        // Ended between the listing and the read.
        std::fs::create_dir(fake.0.path().join("77")).unwrap();
        for pid in 1..=40 {
            fake.put(pid, "idle", 1000 + u64::from(pid), 5);
        }
        let mut source = Processes::of(fake.0.path());
        let schema = source.schema();
        let mut page = vec![0; schema.size()];
        source.sample(&mut page).unwrap();
        let field = |page: &[u8], path: &str| value(&schema, page, path).to_string();
        assert_eq!(
            (field(&page, "rows"), field(&page, "omitted")),
            ("32".into(), "8".into())
        );
        assert_eq!(field(&page, "pid[0]"), "40");

        fake.put(3, "busy (really)", 1503, 5);
        // The same pid, another process: all its ticks are new.
        fake.put(2, "reborn", 400, 900);
        std::fs::remove_dir_all(fake.0.path().join("40")).unwrap();
        source.sample(&mut page).unwrap();
        assert!(is_sealed(&page));
        assert_eq!(
            (field(&page, "pid[0]"), field(&page, "ticks_delta[0]")),
            ("3".into(), "500".into())
        );
        assert_eq!(
            (field(&page, "pid[1]"), field(&page, "ticks_delta[1]")),
            ("2".into(), "400".into())
        );
        assert_eq!(
            (field(&page, "pid[2]"), field(&page, "ticks_delta[2]")),
            ("39".into(), "0".into())
        );
        assert_eq!(field(&page, "comm0"), "busy (really)");
        assert_eq!(field(&page, "states"), "S".repeat(32));
        let page_bytes = rustix::param::page_size();
        assert_eq!(field(&page, "rss_bytes[0]"), (2 * page_bytes).to_string());
    }

    #[test]
    fn a_folder_without_processes_is_refused() {
        let fake = Fake(tempfile::tempdir().unwrap());
        let mut source = Processes::of(fake.0.path());
        let mut page = vec![0; source.schema().size()];
        assert!(matches!(
            source.sample(&mut page),
            Err(SourceError::Unexpected { .. })
        ));
        let mut missing = Processes::of(&fake.0.path().join("missing"));
        assert!(matches!(
            missing.sample(&mut page),
            Err(SourceError::Read { .. })
        ));
    }
}
