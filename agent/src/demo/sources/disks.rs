//! `proc/disks`: what block devices have done since boot, from `/proc/diskstats`.

use std::path::Path;

use mmsb::schema::{Scalar, Schema};

use super::{Page, Source, SourceError, columns, number, read, record};

const DISKSTATS: &str = "/proc/diskstats";
const ROWS_MAX: usize = 16;
/// The kernel's limit for a device's name, with its NUL.
const NAME_BYTES: u32 = 32;

/// Samples `/proc/diskstats`: a row for each device or partition that has done anything, in the kernel's order.
///
/// Devices without a single read or write are left out: a machine has many loop devices that nobody uses. A sector
/// is 512 bytes, whatever the device's own are.
#[derive(Debug)]
pub struct Disks {
    page: Page,
}

impl Disks {
    /// A source that has taken no sample yet.
    pub fn new() -> Disks {
        let mut builder = record("disks")
            .field("rows", Scalar::U32)
            .field("omitted", Scalar::U32);
        for column in [
            "reads",
            "sectors_read",
            "writes",
            "sectors_written",
            "in_flight",
            "io_ms",
        ] {
            builder = builder.array_field(column, Scalar::U64, ROWS_MAX as u32);
        }
        for row in 0..ROWS_MAX {
            builder = builder.text(&format!("name{row}"), NAME_BYTES);
        }
        Disks {
            page: Page::new("proc/disks", builder.build()),
        }
    }
}

impl Default for Disks {
    fn default() -> Disks {
        Disks::new()
    }
}

impl Source for Disks {
    fn name(&self) -> &'static str {
        self.page.name
    }

    fn schema(&self) -> Schema {
        self.page.schema.clone()
    }

    fn sample(&mut self, out: &mut [u8]) -> Result<(), SourceError> {
        let disks = parse(&read(Path::new(DISKSTATS))?);
        self.page.fill(out, |page| {
            page.rows(disks.len(), ROWS_MAX)?;
            page.numbers("reads", disks.iter().map(|disk| disk.reads))?;
            page.numbers("sectors_read", disks.iter().map(|disk| disk.sectors_read))?;
            page.numbers("writes", disks.iter().map(|disk| disk.writes))?;
            page.numbers(
                "sectors_written",
                disks.iter().map(|disk| disk.sectors_written),
            )?;
            page.numbers("in_flight", disks.iter().map(|disk| disk.in_flight))?;
            page.numbers("io_ms", disks.iter().map(|disk| disk.io_ms))?;
            for (row, disk) in disks.iter().take(ROWS_MAX).enumerate() {
                page.text(&format!("name{row}"), &disk.name)?;
            }
            Ok(())
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Disk {
    name: String,
    reads: u64,
    sectors_read: u64,
    writes: u64,
    sectors_written: u64,
    in_flight: u64,
    io_ms: u64,
}

/// The devices that have done anything. A machine may have none: an empty file is no error.
fn parse(text: &str) -> Vec<Disk> {
    let disk = |line: &str| {
        let mut words = line.split_whitespace();
        // Major and minor number tell a device's line from anything else.
        number(words.next()?)?;
        number(words.next()?)?;
        let name = words.next()?.to_owned();
        let rest: Vec<&str> = words.collect();
        let [
            reads,
            _,
            sectors_read,
            _,
            writes,
            _,
            sectors_written,
            _,
            in_flight,
            io_ms,
        ] = columns(&rest.join(" "));
        Some(Disk {
            name,
            reads,
            sectors_read,
            writes,
            sectors_written,
            in_flight,
            io_ms,
        })
    };
    text.lines()
        .filter_map(disk)
        .filter(|disk| disk.reads != 0 || disk.writes != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::sources::tests::{mangled, value};

    const SAMPLE: &str = "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 254       0 vda 9018 5356 3399930 8231 1955 18141 980184 1891 2 3268 10408 3387 15 50672 277 134 7
 253       0 zram0 0 0 0 0 1 0 8 0 0 0 0
";

    #[test]
    fn devices_that_did_something_are_rows() {
        let disks = parse(SAMPLE);
        assert_eq!(disks.len(), 2);
        let vda = Disk {
            name: "vda".into(),
            reads: 9018,
            sectors_read: 3399930,
            writes: 1955,
            sectors_written: 980184,
            in_flight: 2,
            io_ms: 3268,
        };
        assert_eq!(disks[0], vda);
        assert_eq!((disks[1].name.as_str(), disks[1].writes), ("zram0", 1));
    }

    #[test]
    fn odd_lines_do_not_disturb_the_others() {
        let text = "\n8 0\n8 0 sda\n8 1 sda1 5\nx 0 bad 1 1 1 1\n\
                    8 16 cciss!c0d0 99999999999999999999 0 zz 0 3 0 4\n";
        let disks = parse(text);
        assert_eq!(disks.len(), 2);
        assert_eq!(
            (disks[0].name.as_str(), disks[0].reads, disks[0].io_ms),
            ("sda1", 5, 0)
        );
        assert_eq!((disks[1].reads, disks[1].sectors_read), (u64::MAX, 0));
        assert_eq!((disks[1].writes, disks[1].sectors_written), (3, 4));
        assert_eq!(parse(""), []);
        for text in mangled(SAMPLE) {
            assert!(parse(&text).len() <= 4, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted_and_cut() {
        let text: String = (0..20)
            .map(|i| format!("8 {i} {}{i} 1 0 {i}\n", "ü".repeat(15)))
            .collect();
        let disks = parse(&text);
        let mut source = Disks::new();
        let mut page = vec![0; source.schema().size()];
        source
            .page
            .fill(&mut page, |page| {
                page.rows(disks.len(), ROWS_MAX)?;
                page.numbers("sectors_read", disks.iter().map(|disk| disk.sectors_read))?;
                page.text("name15", &disks[15].name)?;
                page.text("name14", &"ü".repeat(17))
            })
            .unwrap();
        let field = |path: &str| value(&source.schema(), &page, path).to_string();
        assert_eq!((field("rows"), field("omitted")), ("16".into(), "4".into()));
        assert_eq!(field("sectors_read[15]"), "15");
        assert_eq!(field("name15"), format!("{}15", "ü".repeat(15)));
        assert_eq!(field("name14"), "ü".repeat(16));
    }
}
