//! `proc/network`: what network interfaces have carried, from `/proc/net/dev`.

use std::path::Path;

use mmsb::schema::{Scalar, Schema};

use super::{Page, Source, SourceError, columns, read, record, unexpected};

const NET_DEV: &str = "/proc/net/dev";
const ROWS_MAX: usize = 16;
/// The kernel's limit for an interface's name, with its NUL.
const NAME_BYTES: u32 = 16;
/// The arrays of the page, and which column after the name each holds.
const COLUMNS: [(&str, usize); 8] = [
    ("rx_bytes", 0),
    ("rx_packets", 1),
    ("rx_errors", 2),
    ("rx_dropped", 3),
    ("tx_bytes", 8),
    ("tx_packets", 9),
    ("tx_errors", 10),
    ("tx_dropped", 11),
];

/// Samples `/proc/net/dev`: a row for each interface of this process's network namespace, in the kernel's order.
#[derive(Debug)]
pub struct Network {
    page: Page,
}

impl Network {
    /// A source that has taken no sample yet.
    pub fn new() -> Network {
        let mut builder = record("network")
            .field("rows", Scalar::U32)
            .field("omitted", Scalar::U32);
        for (field, _) in COLUMNS {
            builder = builder.array_field(field, Scalar::U64, ROWS_MAX as u32);
        }
        for row in 0..ROWS_MAX {
            builder = builder.text(&format!("name{row}"), NAME_BYTES);
        }
        Network {
            page: Page::new("proc/network", builder.build()),
        }
    }
}

impl Default for Network {
    fn default() -> Network {
        Network::new()
    }
}

impl Source for Network {
    fn name(&self) -> &'static str {
        self.page.name
    }

    fn schema(&self) -> Schema {
        self.page.schema.clone()
    }

    fn sample(&mut self, out: &mut [u8]) -> Result<(), SourceError> {
        let interfaces = parse(&read(Path::new(NET_DEV))?)?;
        self.page.fill(out, |page| {
            page.rows(interfaces.len(), ROWS_MAX)?;
            for (field, column) in COLUMNS {
                page.numbers(
                    field,
                    interfaces.iter().map(|(_, counters)| counters[column]),
                )?;
            }
            for (row, (name, _)) in interfaces.iter().take(ROWS_MAX).enumerate() {
                page.text(&format!("name{row}"), name)?;
            }
            Ok(())
        })
    }
}

/// Name and counters of each interface.
fn parse(text: &str) -> Result<Vec<(String, [u64; 16])>, SourceError> {
    // A namespace may have no interface; the headings are always there.
    if !text.starts_with("Inter-") {
        return Err(unexpected(NET_DEV, "headings"));
    }
    let interfaces = text.lines().filter(|line| !line.contains('|'));
    // The last colon: aliases have one in their names, and numbers have none. Older kernels put no blank after it.
    Ok(interfaces
        .filter_map(|line| line.rsplit_once(':'))
        .map(|(name, counters)| (name.trim().to_owned(), columns(counters)))
        .filter(|(name, _)| !name.is_empty())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::sources::tests::mangled;

    const SAMPLE: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0
  eth0: 61765424    3485    1    2    0     0          0         0   336925    2506    3    4    0     0       0          0
";

    #[test]
    fn each_interface_is_a_row() {
        let interfaces = parse(SAMPLE).unwrap();
        assert_eq!(interfaces.len(), 2);
        let (name, counters) = &interfaces[1];
        let shown: Vec<u64> = COLUMNS
            .iter()
            .map(|(_, column)| counters[*column])
            .collect();
        assert_eq!(name, "eth0");
        assert_eq!(shown, [61765424, 3485, 1, 2, 336925, 2506, 3, 4]);
    }

    #[test]
    fn odd_lines_do_not_disturb_the_others() {
        let text = "Inter-| Receive\n face |bytes\neth0:1:5 6\nwlan0:18446744073709551616 -2 x 4\n: 1 2\nnothing\n\n";
        let interfaces = parse(text).unwrap();
        assert_eq!(interfaces.len(), 2);
        assert_eq!(
            (interfaces[0].0.as_str(), &interfaces[0].1[..3]),
            ("eth0:1", &[5, 6, 0][..])
        );
        assert_eq!(
            (interfaces[1].0.as_str(), &interfaces[1].1[..4]),
            ("wlan0", &[u64::MAX, 0, 0, 4][..])
        );
    }

    #[test]
    fn another_file_is_refused_and_none_panics() {
        assert!(matches!(
            parse("lo: 1 2 3\n"),
            Err(SourceError::Unexpected { .. })
        ));
        assert!(matches!(parse(""), Err(SourceError::Unexpected { .. })));
        for text in mangled(SAMPLE) {
            if let Ok(interfaces) = parse(&text) {
                assert!(interfaces.len() <= 3, "{text}");
            }
        }
    }
}
