//! Arbitrary bytes as the files of a log, under the reader, survey, repair and the next writer.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/tlog_entry.rs"]
mod tlog_entry;

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir_in("/dev/shm").expect("temporary directory");
    tlog_entry::tlog_reader(dir.path(), data);
});
