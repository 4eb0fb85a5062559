//! `mmsb demo`: see [`crate::demo`].

use std::io::IsTerminal;
use std::time::Duration;

use super::exit::{Code, Failure};
use super::signals::Stop;
use super::{Context, units};
use crate::demo::content::WRITERS_MAX;
use crate::demo::torment::{self, Options, Screen};
use crate::demo::view::{Progress, Terminal};
use crate::demo::worker;

const EXAMPLES: &str = "\
What runs: two publishers with live data of this machine, writers without any pause, a gating subscriber that rebuilds
every page from the deltas, a read-only observer that looks for torn pages, and their parent, which kills publishers and
writers at random, starts others in their place, stops some for a while, and judges by what was acknowledged through
pipes. It is right only if no page was torn, no acknowledged delta lost, nobody stuck, and every page equal to the
subscriber's copy.

Exit codes: 0 all of that holds, 1 something was wrong.

Examples:
  mmsb demo
  mmsb demo --seconds 60 --seed 7 --writers 4 --kills-per-second 50
  mmsb demo --json | jq .recoveries";

/// Arguments of `mmsb demo`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// How long to go on
    #[arg(long, value_name = "TIME", default_value = "20", value_parser = units::duration)]
    pub seconds: Duration,
    /// Decides what is killed and when [default: from the clock]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Writing processes at one time
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(1..=WRITERS_MAX as i64))]
    pub writers: u8,
    /// Kills in a second, on average
    #[arg(long, value_name = "N", default_value_t = 20.0)]
    pub kills_per_second: f64,
    /// Size of the delta ring
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = units::size)]
    pub ring: u64,
    /// Name of the bus [default: demo- and the process id]
    #[arg(long, value_name = "NAME")]
    pub bus: Option<String>,
    /// Leave the bus for a look at it
    #[arg(long)]
    pub keep: bool,
    /// Lines instead of the live view, also on a terminal
    #[arg(long)]
    pub plain: bool,
}

/// Arguments of a process of the demo.
#[derive(Debug, clap::Args)]
pub struct WorkerArgs {
    /// The bus
    pub bus: String,
    /// Writers there are
    #[arg(value_parser = clap::value_parser!(u8).range(1..=WRITERS_MAX as i64))]
    pub writers: u8,
    /// Size of the delta ring
    pub ring: u64,
    /// What to do
    pub role: String,
    /// Which of its kind
    #[arg(default_value_t = 0)]
    pub number: usize,
}

/// Runs the demo.
///
/// # Errors
///
/// What kept it from starting or going on.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    if !args.kills_per_second.is_finite() || args.kills_per_second < 0.0 {
        return Err(Failure::usage(
            "--kills-per-second takes a number from 0 on",
        ));
    }
    let clock = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_secs() % 1_000_000)
    };
    let options = Options {
        bus: match &args.bus {
            Some(bus) => bus.clone(),
            None => format!("demo-{}", std::process::id()),
        },
        dir: context.dir.clone(),
        duration: args.seconds,
        seed: args.seed.unwrap_or_else(clock),
        writers: usize::from(args.writers),
        kills_per_second: args.kills_per_second,
        ring_bytes: args.ring,
        keep: args.keep,
    };
    // Ahead of all threads, and of the view: its panic hook must find the terminal as it was.
    let stop = Stop::on_signals()?;
    let is_live = !args.plain && !context.json && std::io::stdout().is_terminal();
    let report = {
        let mut screen: Box<dyn Screen> = if is_live {
            Box::new(Terminal::new()?)
        } else {
            Box::new(Progress::default())
        };
        torment::run(&options, &stop, screen.as_mut())?
    };
    if context.json {
        let value = serde_json::to_value(&report).map_err(|e| Failure::problem(e.to_string()))?;
        context.document(&value)?;
    } else {
        report.print(&mut context.out, context.style)?;
        if args.keep {
            context.line(format!(
                "the bus stays: mmsb ls {}; mmsb rm {}",
                options.bus, options.bus
            ))?;
        }
    }
    Ok(if report.ok { Code::Ok } else { Code::Problem })
}

/// Runs a process of the demo.
///
/// # Errors
///
/// Why it could not go on; its parent was told.
pub fn work(args: &WorkerArgs, context: &mut Context) -> Result<Code, Failure> {
    let assignment = worker::Assignment {
        bus: args.bus.clone(),
        dir: context.dir.clone(),
        writers: usize::from(args.writers),
        ring_bytes: args.ring,
        role: args.role.clone(),
        number: args.number,
    };
    worker::run(&assignment)?;
    Ok(Code::Ok)
}
