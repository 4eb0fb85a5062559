//! The kill-and-stop soak; see [`mmsb_tests::soak`]. Exit status 0 only without a violation.

use std::process::ExitCode;
use std::time::Duration;

use mmsb_shm::sys::space::SegmentDir;
use mmsb_tests::seed;
use mmsb_tests::soak::{checker, parent, worker};

const USAGE: &str = "\
usage: mmsb-soak [--seconds S] [--seed N] [--kills-per-second K] [--ring BYTES] [--json]

Workers under load are killed and stopped from a printed seed while survivors check that nothing is torn, lost or
stuck, and that the log gives the same pages as memory. --ring: one size instead of the default and the smallest in
turn. --json: one line of JSON at the end. Exit status 0 only without a violation.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match words.as_slice() {
        ["worker", dir, slot, seed, timeout, armed @ ..] => {
            worker::run(worker::Role {
                dir: SegmentDir::at(dir),
                slot: number(slot) as usize,
                seed: number(seed),
                timeout: Duration::from_millis(number(timeout)),
                armed: match armed {
                    [step, skip, action] => {
                        Some(((*step).to_owned(), number(skip), *action == "stop"))
                    }
                    _ => None,
                },
            });
            ExitCode::SUCCESS
        }
        ["checker", dir, ring, seed] => {
            checker::run(&SegmentDir::at(dir), number(ring), number(seed));
            ExitCode::SUCCESS
        }
        options => match parse(options) {
            Some((plan, json)) => soak(&plan, json),
            None => {
                eprintln!("{USAGE}");
                ExitCode::from(2)
            }
        },
    }
}

fn parse(options: &[&str]) -> Option<(parent::Plan, bool)> {
    let mut plan = parent::Plan {
        seconds: 10.0,
        seed: 0,
        kills_per_second: 20.0,
        ring: None,
    };
    let mut json = false;
    let mut given = None;
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        match *option {
            "--json" => json = true,
            "--seconds" => plan.seconds = rest.next()?.parse().ok()?,
            "--kills-per-second" => plan.kills_per_second = rest.next()?.parse().ok()?,
            "--ring" => plan.ring = Some(rest.next()?.parse().ok()?),
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
        Some(seed) => {
            eprintln!("mmsb-soak: {}={seed:#x}", seed::ENV);
            seed
        }
        None => seed::seed("mmsb-soak"),
    };
    Some((plan, json))
}

fn soak(plan: &parent::Plan, json: bool) -> ExitCode {
    match parent::run(plan) {
        Ok(report) => {
            if json {
                println!("{}", report.json(plan));
            } else {
                println!("{report:#?}");
            }
            if report.violations() == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(1)
            }
        }
        Err(e) => {
            eprintln!("mmsb-soak: {e}");
            ExitCode::from(1)
        }
    }
}
