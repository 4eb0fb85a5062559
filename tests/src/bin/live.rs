//! Writes a page of a live bus without pause, until it is killed: `live DIR BUS PAGE PAUSE_US`.

use std::path::Path;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, bus, page, pause] = arguments.as_slice() else {
        panic!("live DIR BUS PAGE PAUSE_US");
    };
    let pause = Duration::from_micros(pause.parse().expect("microseconds"));
    if let Err(error) = mmsb_tests::live::write_flat_out(Path::new(dir), bus, page, pause) {
        eprintln!("live: {page}: {error}");
        std::process::exit(1);
    }
}
