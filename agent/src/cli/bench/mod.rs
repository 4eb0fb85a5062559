//! `mmsb bench`: what an operation takes on this machine, and how that compares with the machine itself.
//!
//! Every case runs on a bus of its own with default settings, through the public API, in processes that do nothing else:
//! one for each side, pinned to a core, polling. Right before and after, the floor is measured in a process of its own,
//! without MMSB. Each case ends by comparing LSNs, epochs and bytes with the commits it made.

mod cases;
mod catalogue;
mod disk;
mod report;
mod rig;
mod runner;
mod samples;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use mmsb_benches::floor;

use super::Context;
use super::exit::{Code, Failure};
use super::signals::Stop;
use cases::Outcome;
use catalogue::{CASES, Case};
use rig::Job;
use runner::Runner;

const EXAMPLES: &str = "\
What is measured: each case on a bus with default settings, made for it and removed afterwards, in processes pinned to
two cores that poll. Quantiles are over blocks of operations (`block` in the JSON), because one of 20 ns is shorter than
a look at the clock. One way is from before the commit in one process to its sight in the other, which answers through a
bare cache line whose time is taken off. The floor is what the machine itself takes, measured right before and after:
cache lines between two processes, memcpy, a futex. Targets are for a quiet machine; whether they are met does not change
the exit code.

With --durable the log is measured instead, on the disk that holds the current directory or --disk, against what the
disk itself takes: small writes, each synced by itself, and large ones.

Each case ends by comparing LSNs, epochs and bytes with the commits it made; a durable one also replays its log.

Exit codes: 0 all of that held, 1 something was wrong.

Examples:
  mmsb bench
  mmsb bench --case commit --case one_way_ring
  mmsb bench --durable --disk /var/lib/mmsb
  mmsb bench --list
  mmsb bench --quick --json | jq -c '[.case, .bytes, .p50_ns, .ratio_to_floor]'";

/// Arguments of `mmsb bench`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Only this case; may be given again
    #[arg(long = "case", value_name = "NAME",
          value_parser = clap::builder::PossibleValuesParser::new(names()))]
    pub cases: Vec<String>,
    /// Measure for a sixth of the time
    #[arg(long)]
    pub quick: bool,
    /// Measure the durable log, on a disk
    #[arg(long)]
    pub durable: bool,
    /// Where the durable cases keep their logs [default: a directory of their own in the current one]
    #[arg(long, value_name = "DIR")]
    pub disk: Option<PathBuf>,
    /// Only say which cases there are, and what is aimed at
    #[arg(long)]
    pub list: bool,
    /// The two cores, such as 0,2 [default: the first two that may be used]
    #[arg(long, value_name = "A,B", value_parser = two_cpus)]
    pub cpus: Option<(usize, usize)>,
}

/// Arguments of a process of a case.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    /// `lead`, `peer` or `floor`
    pub role: String,
    /// Name of the case, or of the floor
    pub case: String,
    /// Its bytes
    pub bytes: usize,
    /// Name of the bus
    pub bus: String,
    /// The cores
    #[arg(value_parser = two_cpus)]
    pub cpus: (usize, usize),
    /// How long to measure
    pub millis: u64,
    /// Descriptor of the lines
    #[arg(allow_negative_numbers = true)]
    pub lines: i32,
    /// The process that started this one
    pub parent: i32,
    /// Threads that write
    #[arg(long, default_value_t = 0)]
    pub writers: usize,
    /// Directory on the disk
    #[arg(long)]
    pub disk: Option<PathBuf>,
}

/// The names of the cases.
fn names() -> BTreeSet<&'static str> {
    CASES.iter().map(|case| case.name).collect()
}

fn two_cpus(text: &str) -> Result<(usize, usize), String> {
    let cpus = text.split_once(',').and_then(|(first, second)| {
        Some((
            first.trim().parse::<usize>().ok()?,
            second.trim().parse::<usize>().ok()?,
        ))
    });
    match cpus {
        Some((first, second)) if first != second => Ok((first, second)),
        Some(_) => Err("two different cores are needed: both sides poll".to_owned()),
        None => Err("two cores look like this: 0,2".to_owned()),
    }
}

/// Runs the cases.
///
/// # Errors
///
/// That something was wrong in one of them; what kept them from starting.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    // Those that were asked for by name; else all that have to do with the disk, or all others.
    let is_wanted = |case: &&Case| match args.cases.is_empty() {
        true => case.is_durable == args.durable,
        false => {
            args.cases.iter().any(|name| name == case.name) && (case.is_durable || !args.durable)
        }
    };
    if args.list {
        return list(CASES.iter().filter(is_wanted), context);
    }
    let cpus = match args.cpus {
        Some(cpus) => cpus,
        None => {
            floor::two_cpus().map_err(|error| Failure::problem(format!("mmsb bench: {error}")))?
        }
    };
    let needs_disk = CASES.iter().any(|case| case.is_durable && is_wanted(&case));
    let disk = needs_disk
        .then(|| disk::Directory::new(args.disk.as_deref()))
        .transpose()?;
    // Ahead of all threads, and of the first bus.
    let stop = Stop::on_signals()?;
    let runner = Runner {
        dir: context.dir.clone(),
        cpus,
        quick: args.quick,
        stop,
        disk: disk.as_ref().map(|disk| disk.path().to_owned()),
    };
    if cfg!(debug_assertions) {
        eprintln!("mmsb: this is a debug build: the figures mean nothing");
    }
    let mut rows = Vec::new();
    let mut wrong = Vec::new();
    for case in CASES.iter().filter(is_wanted) {
        let row = runner.run(case)?;
        if let report::Result::Failed(why) = &row.result {
            wrong.push(format!("{} ({} B): {why}", case.label(), case.bytes));
        }
        if context.json {
            context.event(&row.to_json())?;
        } else {
            report::progress(&row);
        }
        rows.push(row);
    }
    if !context.json {
        context.table(&report::table(&rows))?;
        for line in report::notes(&rows, cpus) {
            context.line(line)?;
        }
    }
    if wrong.is_empty() {
        return Ok(Code::Ok);
    }
    Err(Failure::problem(wrong.join("; ")))
}

/// Says which cases there are.
fn list<'c>(cases: impl Iterator<Item = &'c Case>, context: &mut Context) -> Result<Code, Failure> {
    if !context.json {
        context.table(&report::list(cases))?;
        return Ok(Code::Ok);
    }
    for case in cases {
        context.event(&report::about(case))?;
    }
    Ok(Code::Ok)
}

/// Runs a process of a case.
///
/// # Errors
///
/// Why it could not go on; its parent was told.
pub fn work(args: &WorkerArgs, context: &mut Context) -> Result<Code, Failure> {
    let job = Job {
        case: args.case.clone(),
        bytes: args.bytes,
        dir: context.dir.clone(),
        bus: args.bus.clone(),
        cpus: args.cpus,
        budget: Duration::from_millis(args.millis),
        lines: args.lines,
        writers: args.writers,
        disk: args.disk.clone(),
    };
    // Cases that have to do with the disk have more threads than cores, and pin those that must not move themselves.
    let pin = |cpu| match job.disk {
        Some(_) => Ok(()),
        None => rig::pin(cpu),
    };
    rig::end_with(args.parent)?;
    let done = match args.role.as_str() {
        "lead" => pin(job.cpus.0)
            .and_then(|()| cases::lead(&job))
            .and_then(|outcome| match outcome {
                Outcome::Measured(measured) => serde_json::to_string(&measured)
                    .map_err(|error| Failure::problem(error.to_string())),
                Outcome::Skipped(why) => Ok(format!("skipped {why}")),
            })
            .and_then(|line| rig::say(&line)),
        "peer" => pin(job.cpus.1).and_then(|()| cases::peer(&job)),
        "floor" => runner::floor(&job)
            .and_then(|figures| {
                serde_json::to_string(&figures).map_err(|error| Failure::problem(error.to_string()))
            })
            .and_then(|line| rig::say(&line)),
        other => Err(Failure::usage(format!("there is no role {other:?}"))),
    };
    if let Err(failure) = done {
        // One line, whatever it is made of.
        let message = failure.message.replace('\n', " ");
        rig::say(&format!("failed {message}"))?;
        return Ok(Code::Problem);
    }
    Ok(Code::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_two_and_different() {
        assert_eq!(two_cpus("0,2"), Ok((0, 2)));
        assert_eq!(two_cpus("3, 1"), Ok((3, 1)));
        for bad in ["", "1", "1,1", "a,b", "1,2,3"] {
            assert!(two_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_job_is_understood_by_the_process_it_is_given_to() {
        use clap::Parser;
        let job = Job {
            case: "wake".to_owned(),
            bytes: 8,
            dir: "/dev/shm".into(),
            bus: "bench-1".to_owned(),
            cpus: (1, 0),
            budget: Duration::from_millis(250),
            lines: -1,
            writers: 8,
            disk: Some("/var/tmp/x y".into()),
        };
        let mut arguments = vec!["mmsb".into()];
        arguments.extend(job.arguments("peer"));
        let cli = crate::cli::Cli::try_parse_from(arguments).unwrap();
        let crate::cli::Command::BenchWorker(args) = cli.command else {
            panic!("another subcommand");
        };
        assert_eq!((args.role.as_str(), args.case.as_str()), ("peer", "wake"));
        assert_eq!((args.bytes, args.cpus, args.lines), (8, (1, 0), -1));
        assert_eq!(args.millis, 250);
        assert_eq!(args.writers, 8);
        assert_eq!(args.disk.as_deref(), Some("/var/tmp/x y".as_ref()));
        assert_eq!(args.parent, i32::try_from(std::process::id()).unwrap());
    }
}
