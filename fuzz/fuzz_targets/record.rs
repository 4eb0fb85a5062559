//! Arbitrary bytes as the record of a dead participant, under followers, an observer and recovery.
#![no_main]

use libfuzzer_sys::fuzz_target;

// Input: length in ring slots, state, then what follows the stamp.
fuzz_target!(|data: &[u8]| {
    let [slots, state, body @ ..] = data else {
        return;
    };
    let dir = tempfile::tempdir_in("/dev/shm").expect("temporary directory");
    entry::record(dir.path(), u32::from(*slots), state & 1 == 1, body);
});
