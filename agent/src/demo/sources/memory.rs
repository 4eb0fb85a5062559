//! `proc/memory`: how memory is used, from `/proc/meminfo`.

use std::path::Path;

use mmsb::schema::{Scalar, Schema};

use super::{Page, Source, SourceError, number, read, record, unexpected};

const MEMINFO: &str = "/proc/meminfo";

/// Field of the page, key of `/proc/meminfo`.
const FIELDS: [(&str, &str); 16] = [
    ("mem_total", "MemTotal"),
    ("mem_free", "MemFree"),
    ("mem_available", "MemAvailable"),
    ("buffers", "Buffers"),
    ("cached", "Cached"),
    ("active", "Active"),
    ("inactive", "Inactive"),
    ("swap_total", "SwapTotal"),
    ("swap_free", "SwapFree"),
    ("dirty", "Dirty"),
    ("writeback", "Writeback"),
    ("anon_pages", "AnonPages"),
    ("mapped", "Mapped"),
    ("shmem", "Shmem"),
    ("slab", "Slab"),
    ("page_tables", "PageTables"),
];

/// Samples `/proc/meminfo`; every field is in bytes.
#[derive(Debug)]
pub struct Memory {
    page: Page,
}

impl Memory {
    /// A source that has taken no sample yet.
    pub fn new() -> Memory {
        let mut builder = record("memory");
        for (field, _) in FIELDS {
            builder = builder.field(field, Scalar::U64);
        }
        Memory {
            page: Page::new("proc/memory", builder.build()),
        }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new()
    }
}

impl Source for Memory {
    fn name(&self) -> &'static str {
        self.page.name
    }

    fn schema(&self) -> Schema {
        self.page.schema.clone()
    }

    fn sample(&mut self, out: &mut [u8]) -> Result<(), SourceError> {
        let values = parse(&read(Path::new(MEMINFO))?)?;
        self.page.fill(out, |page| {
            for ((field, _), value) in FIELDS.into_iter().zip(values) {
                page.number(field, value)?;
            }
            Ok(())
        })
    }
}

/// The values of [`FIELDS`], in bytes.
fn parse(text: &str) -> Result<[u64; FIELDS.len()], SourceError> {
    let mut values = [0; FIELDS.len()];
    let mut has_total = false;
    for line in text.lines() {
        let Some((key, rest)) = line.split_once(':') else {
            continue;
        };
        let Some(i) = FIELDS.iter().position(|(_, wanted)| *wanted == key) else {
            continue;
        };
        let mut words = rest.split_whitespace();
        let Some(value) = words.next().and_then(number) else {
            continue;
        };
        let unit = if words.next() == Some("kB") { 1024 } else { 1 };
        values[i] = value.saturating_mul(unit);
        has_total |= key == "MemTotal";
    }
    if !has_total {
        return Err(unexpected(MEMINFO, "MemTotal"));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::sources::tests::mangled;

    const SAMPLE: &str = "\
MemTotal:       24684084 kB
MemFree:        23752556 kB
MemAvailable:   24255956 kB
Buffers:           10312 kB
Cached:           683628 kB
SwapCached:            0 kB
Active:           136012 kB
Active(anon):       1556 kB
Dirty:            163884 kB
HugePages_Total:       3
";

    fn field(values: &[u64], name: &str) -> u64 {
        values[FIELDS.iter().position(|(field, _)| *field == name).unwrap()]
    }

    #[test]
    fn kilobytes_become_bytes() {
        let values = parse(SAMPLE).unwrap();
        assert_eq!(field(&values, "mem_total"), 24684084 * 1024);
        assert_eq!(field(&values, "cached"), 683628 * 1024);
        // Not Active(anon), and what is missing is 0.
        assert_eq!(field(&values, "active"), 136012 * 1024);
        assert_eq!(field(&values, "slab"), 0);
    }

    #[test]
    fn odd_lines_do_not_disturb_the_others() {
        let text = "MemTotal: 99999999999999999999 kB\nMemFree 7 kB\nCached:\nDirty: -1 kB\nSlab: 5\nMapped: 2 kB x\n";
        let values = parse(text).unwrap();
        assert_eq!(field(&values, "mem_total"), u64::MAX);
        assert_eq!(field(&values, "mem_free"), 0);
        assert_eq!(field(&values, "dirty"), 0);
        assert_eq!(field(&values, "slab"), 5);
        assert_eq!(field(&values, "mapped"), 2048);
    }

    #[test]
    fn another_file_is_refused_and_none_panics() {
        for text in ["", "cpu 1 2 3\n", "MemTotal:\n", "MemTotal: x kB\n"] {
            assert!(
                matches!(parse(text), Err(SourceError::Unexpected { .. })),
                "{text:?}"
            );
        }
        for text in mangled(SAMPLE) {
            if parse(&text).is_ok() {
                assert!(text.contains("MemTotal:"), "{text}");
            }
        }
    }
}
