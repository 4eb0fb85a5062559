//! A stranger: it reads pages of a bus and knows nothing of MMSB but `docs/layout.md`. The mapping comes from the
//! `shared_memory` crate, which opens for reading and writing, and in `/dev/shm` only; nothing is ever written.
//!
//! ```text
//! stranger --bus BUS --page NAME --reads N [--dir /dev/shm]
//! ```
//!
//! Reads the page N times and prints what it saw as one line of JSON. A page holds 64-bit words: the first is n, which
//! only grows, word i is n (2 i + 1) + i. A copy that says otherwise is torn. Exit status 0: none was; 1: some were;
//! 2: it could not be tried.

mod bus;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bus::{Bus, Error};

/// So many reads in one go: the clock is looked at once for them, and not for the checks of what they copied.
const BATCH: usize = 16;
/// So many reads between two looks at whether the bus is still the one in use.
const LOOK_EVERY: u64 = 1 << 16;

struct Args {
    bus: String,
    page: String,
    reads: u64,
}

fn args() -> Result<Args, String> {
    let (mut bus, mut page, mut reads) = (None, None, None);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().ok_or(format!("{option} needs a value"))?;
        match option.as_str() {
            "--bus" => bus = Some(value),
            "--page" => page = Some(value),
            "--reads" => {
                let number = value
                    .parse()
                    .map_err(|_| format!("{value:?} is no number"))?;
                reads = Some(number);
            }
            "--dir" if value.trim_end_matches('/') == "/dev/shm" => {}
            "--dir" => return Err(format!("{value}: shm_open knows only /dev/shm")),
            _ => return Err(format!("unknown option {option}")),
        }
    }
    Ok(Args {
        bus: bus.ok_or("--bus is missing")?,
        page: page.ok_or("--page is missing")?,
        reads: reads.ok_or("--reads is missing")?,
    })
}

/// What was seen.
#[derive(Default)]
struct Tally {
    reads: u64,
    retries: u64,
    refused: u64,
    torn: u64,
    /// Time of the reads alone.
    busy: Duration,
}

/// The newest that was seen so far.
#[derive(Default)]
struct Newest {
    n: u64,
    lsn: u64,
}

impl Newest {
    /// Whether the copy keeps the invariant, and is no older than the last one.
    fn accepts(&mut self, words: &[u64], lsn: u64) -> bool {
        let n = words[0];
        let is_whole = (1u64..)
            .zip(&words[1..])
            .all(|(i, word)| *word == n.wrapping_mul(2 * i + 1).wrapping_add(i));
        let is_new = n >= self.n && lsn >= self.lsn;
        // Of a torn copy nothing is believed, or one would make all that follow look old.
        if is_whole && is_new {
            (self.n, self.lsn) = (n, lsn);
        }
        is_whole && is_new
    }
}

fn run(args: &Args) -> Result<bool, Error> {
    let mut bus = Bus::open(&args.bus)?;
    let page = bus.find(&args.page)?;
    if page.size == 0 || !page.size.is_multiple_of(8) {
        return Err(Error::Not(format!(
            "page {:?} has {} bytes, no words",
            args.page, page.size
        )));
    }
    let width = page.size as usize / 8;
    let mut copies = vec![0; width * BATCH];
    let (mut tally, mut newest) = (Tally::default(), Newest::default());
    let mut looked = 0;
    while tally.reads < args.reads {
        if tally.reads >= looked {
            if !bus.is_current()? {
                return Err(Error::Not("the bus was replaced: open it again".into()));
            }
            looked = tally.reads + LOOK_EVERY;
        }
        let wanted = (args.reads - tally.reads).min(BATCH as u64) as usize;
        let mut lsns = [0; BATCH];
        let mut got = 0;
        let mut outcome = Ok(());
        let begin = Instant::now();
        for copy in copies.chunks_exact_mut(width).take(wanted) {
            match bus.read(&page, copy) {
                Ok(read) => {
                    let Some(lsn) = read.lsn else { break };
                    // Not those of a read that was given up: a dead writer must not look like a busy one.
                    tally.retries += u64::from(read.retries);
                    lsns[got] = lsn;
                    got += 1;
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        // A wait for the dead is no read.
        if got == wanted {
            tally.busy += begin.elapsed();
        }
        for (copy, lsn) in copies.chunks_exact(width).zip(&lsns[..got]) {
            tally.torn += u64::from(!newest.accepts(copy, *lsn));
        }
        tally.reads += got as u64;
        match outcome {
            Ok(()) if got < wanted => {
                tally.refused += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(()) => {}
            Err(Error::Grown) => bus = Bus::open(&args.bus)?,
            Err(error) => return Err(error),
        }
    }
    let seconds = tally.busy.as_secs_f64();
    println!(
        "{{\"language\":\"rust\",\"page\":{:?},\"bytes\":{},\"reads\":{},\"retries\":{},\"refused\":{},\"torn\":{},\
         \"seconds\":{seconds:.6},\"ns_per_read\":{:.2}}}",
        args.page,
        page.size,
        tally.reads,
        tally.retries,
        tally.refused,
        tally.torn,
        seconds * 1e9 / args.reads.max(1) as f64
    );
    Ok(tally.torn == 0)
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(why) => {
            eprintln!("stranger: {why}");
            eprintln!("usage: stranger --bus BUS --page NAME --reads N [--dir /dev/shm]");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("stranger: {error}");
            ExitCode::from(2)
        }
    }
}
