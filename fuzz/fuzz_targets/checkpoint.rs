//! Arbitrary bytes as a checkpoint file, under everybody who reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/checkpoint_entry.rs"]
mod checkpoint_entry;

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir_in("/dev/shm").expect("temporary directory");
    checkpoint_entry::checkpoint(dir.path(), data);
});
