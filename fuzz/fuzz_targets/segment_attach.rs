//! Arbitrary header bytes of both objects, then attach, observe, read, follow.
#![no_main]

use libfuzzer_sys::fuzz_target;

// Input: eight bytes of seed, then patches of six bytes: where (top bit: in `.ctl`) and a 32-bit value. Whole headers
// would rarely get past the magic number.
fuzz_target!(|data: &[u8]| {
    let Some((seed, patches)) = data.split_first_chunk::<8>() else {
        return;
    };
    let dir = tempfile::tempdir_in("/dev/shm").expect("temporary directory");
    let model = dir.path().join("model");
    let bus = dir.path().join("bus");
    for made in [&model, &bus] {
        std::fs::create_dir(made).expect("directory");
    }
    drop(entry::Live::new(&model));
    let read = |suffix: &str| {
        let mut bytes = std::fs::read(model.join(format!("mmsb.t.{suffix}"))).expect("read");
        bytes.truncate(4096);
        bytes
    };
    let (mut pages, mut ctl) = (read("pages"), read("ctl"));
    for patch in patches.chunks_exact(6).take(16) {
        let at = u16::from_le_bytes([patch[0], patch[1]]);
        let header = if at >> 15 == 0 { &mut pages } else { &mut ctl };
        let at = usize::from(at) % 4096 & !3;
        header[at..at + 4].copy_from_slice(&patch[2..]);
    }
    entry::segment_attach(&bus, &pages, &ctl, u64::from_le_bytes(*seed));
});
