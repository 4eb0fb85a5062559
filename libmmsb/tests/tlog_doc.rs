//! `docs/tlog-format.md` says what the code says: every row is compared with the constant, and fields do not overlap.

use std::collections::BTreeMap;

use mmsb::tlog::format::{
    BLOCK_HEAD, FORKS_MAX, MAJOR, MINOR, NAME_MAX, SECTOR, block_at, header_at,
};

fn rows(heading: &str) -> BTreeMap<String, (usize, usize)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tlog-format.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.starts_with(&format!("# The log on disk, version {MAJOR}.{MINOR}\n")));
    let table = text.split(&format!("### {heading}\n")).nth(1).unwrap();
    let table = table
        .trim_start()
        .split("\n\n")
        .find(|p| p.starts_with('|'))
        .unwrap();
    table
        .lines()
        .skip(2)
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let number = |i: usize| cells[i].parse::<usize>().unwrap();
            (cells[3].to_owned(), (number(1), number(2)))
        })
        .collect()
}

fn compare(heading: &str, size: usize, code: &[(&str, usize, usize)]) {
    let mut rows = rows(heading);
    let mut end = 0;
    for (field, offset, bytes) in code {
        assert_eq!(
            rows.remove(*field),
            Some((*offset, *bytes)),
            "{heading}.{field}"
        );
        assert!(*offset >= end, "{heading}.{field} overlaps");
        end = offset + bytes;
    }
    assert!(end <= size);
    assert!(rows.is_empty(), "not in the code: {rows:?}");
}

#[test]
fn tables_of_the_log_format_are_those_of_the_code() {
    use header_at as h;
    compare(
        "FileHeader",
        SECTOR,
        &[
            ("magic", h::MAGIC, 8),
            ("major", h::MAJOR, 4),
            ("minor", h::MINOR, 4),
            ("log_id", h::LOG_ID, 16),
            ("incarnation", h::INCARNATION, 8),
            ("fork_lsn", h::FORK_LSN, 8),
            ("first_lsn", h::FIRST_LSN, 8),
            ("file_id", h::FILE_ID, 8),
            ("created_ns", h::CREATED_NS, 8),
            ("ring_slots", h::RING_SLOTS, 4),
            ("forks", h::FORKS, 4),
            ("name_len", h::NAME_LEN, 4),
            ("name", h::NAME, NAME_MAX),
            ("previous_id", h::PREVIOUS_ID, 8),
            ("previous_bytes", h::PREVIOUS_BYTES, 8),
            ("previous_crc", h::PREVIOUS_CRC, 4),
            ("fork_list", h::FORK_LIST, FORKS_MAX * 16),
            ("sizes", h::SIZES, 72),
            ("crc", h::CRC, 4),
        ],
    );
    use block_at as b;
    compare(
        "BlockHeader",
        BLOCK_HEAD,
        &[
            ("magic", b::MAGIC, 4),
            ("crc", b::CRC, 4),
            ("len", b::LEN, 4),
            ("prev", b::PREV, 4),
            ("first_lsn", b::FIRST_LSN, 8),
            ("end_lsn", b::END_LSN, 8),
            ("durable_lsn", b::DURABLE_LSN, 8),
            ("time_ns", b::TIME_NS, 8),
            ("records", b::RECORDS, 4),
            ("flags", b::FLAGS, 4),
            ("file_id", b::FILE_ID, 8),
        ],
    );
}
