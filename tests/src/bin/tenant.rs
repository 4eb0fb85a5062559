//! A program in a container whose `/dev/shm` is small: `tenant BYTES`, what Docker gave it. Makes a bus that does not fit,
//! makes one that does, grows it until there is no room, and goes on with what is there. Says a line for each; whatever
//! is not as it should be ends it.

use std::path::Path;

use mmsb::{Bus, BusFull, Error, PageSpec};
use mmsb_tests::live;
use mmsb_tests::spawn::say;

/// Pages that the bus is filled with.
const LARGE: u64 = 1 << 20;
const DIR: &str = "/dev/shm";

/// The error must be the tmpfs's, of this size.
fn full(error: &Error, total_bytes: u64) -> String {
    match error.full() {
        Some(BusFull::Tmpfs { total, dir, .. }) => {
            assert_eq!((*total, dir.as_path()), (total_bytes, Path::new(DIR)));
            error.to_string()
        }
        _ => panic!("{error}"),
    }
}

fn main() {
    let bytes: u64 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .expect("tenant BYTES");
    let large = Bus::builder("large").dir(DIR).ring_bytes(2 * bytes);
    let error = large.create().expect_err("it is larger than /dev/shm");
    say(&format!("too large: {}", full(&error, bytes)));
    let left = std::fs::read_dir(DIR).expect("a directory").count();
    assert_eq!(left, 0, "something of it is left");

    let bus = live::create(Path::new(DIR), "small", 1024);
    let mut pages = Vec::new();
    let error = loop {
        match bus.create_page(PageSpec::new(LARGE)) {
            Ok(page) => {
                page.patch(LARGE as usize - 8, &(pages.len() as u64).to_le_bytes())
                    .expect("room in a page that is there");
                pages.push(page);
            }
            Err(error) => break error,
        }
        assert!((pages.len() as u64) < bytes / LARGE, "more than there is");
    };
    say(&format!("grew by {}: {}", pages.len(), full(&error, bytes)));

    // Everything is there, and everything can be written: every byte of every page, and loans.
    for (n, page) in (0u64..).zip(&pages) {
        let content = page.to_vec().expect("to read");
        assert_eq!(content[LARGE as usize - 8..], n.to_le_bytes());
        assert!(content[..LARGE as usize - 8].iter().all(|byte| *byte == 0));
        page.write(&vec![n as u8; LARGE as usize])
            .map(drop)
            // A page that is replaced whole needs a second block for a moment: refused, not half done.
            .unwrap_or_else(|error| drop(full(&error, bytes)));
    }
    for name in live::PAGES {
        let page = bus.page(name).expect("the page");
        for n in 2..2000 {
            live::write_value(&page, name, n).expect("to write");
            let words = live::words(&page).expect("to read");
            assert_eq!(live::whole(&words), Some(n), "{name}");
        }
    }
    // Room that is given back is there for others.
    let first = pages.remove(0).id();
    bus.destroy(first).expect("to destroy");
    bus.create_page(PageSpec::new(LARGE)).expect("its room");
    say("whole");
}
