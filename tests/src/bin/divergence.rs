//! Whether replaying a log gives what the bus that wrote it holds, in whatever way it is replayed; see
//! [`mmsb_tests::divergence`]. Exit status 0 only without a divergence.

use std::path::Path;
use std::process::ExitCode;

use mmsb_tests::divergence::{self, Plan};
use mmsb_tests::seed;

const USAGE: &str = "\
usage: divergence [--seconds S] [--seed N] [--disk DIR] [--json]

Writers of several processes make changes of every kind for S seconds (default 5), on a bus with a log and checkpoints.
Then the log is replayed twice by each of several numbers of threads, and from each checkpoint, and every state is
compared with the living bus. --disk: where the log is kept meanwhile. --json: one line of JSON at the end. Exit status
0 only without a divergence.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["writer", shm, slot, seed] = words.as_slice() {
        let number = |text: &str| text.parse().expect("a number");
        divergence::write(Path::new(shm), number(slot), number(seed));
        return ExitCode::SUCCESS;
    }
    let Some((plan, json)) = parse(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match divergence::run(&plan) {
        Ok(report) => {
            if json {
                println!("{}", report.json(&plan));
            } else {
                println!("{report:#?}");
            }
            if report.bad.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("divergence: {error}");
            ExitCode::from(3)
        }
    }
}

fn parse(words: &[&str]) -> Option<(Plan, bool)> {
    let mut plan = Plan::default();
    let (mut given, mut json) = (None, false);
    let mut rest = words.iter();
    while let Some(option) = rest.next() {
        match *option {
            "--json" => json = true,
            "--seconds" => plan.seconds = rest.next()?.parse().ok()?,
            "--disk" => plan.disk = rest.next()?.into(),
            "--seed" => {
                let text = rest.next()?;
                given = Some(match text.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16).ok()?,
                    None => text.parse().ok()?,
                });
            }
            _ => return None,
        }
    }
    plan.seed = match given {
        Some(seed) => seed,
        None => seed::seed("divergence"),
    };
    Some((plan, json))
}
