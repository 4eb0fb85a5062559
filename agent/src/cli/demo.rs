//! `mmsb demo`: see [`crate::demo`].

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::SigSet;

use super::exit::{Code, Failure};
use super::signals::Stop;
use super::{Context, units};
use crate::demo::content::WRITERS_MAX;
use crate::demo::durable;
use crate::demo::torment::{self, Options, Screen};
use crate::demo::view::{Progress, Terminal};
use crate::demo::worker;

const EXAMPLES: &str = "\
What runs: two publishers with live data of this machine, writers without any pause, a gating subscriber that rebuilds
every page from the deltas, a read-only observer that looks for torn pages, and their parent, which kills publishers and
writers at random, starts others in their place, stops some for a while, and judges by what was acknowledged through
pipes. It is right only if no page was torn, no acknowledged delta lost, nobody stuck, and every page equal to the
subscriber's copy.

Then a second bus, NAME-durable, with a log on disk that mmsb-agent writes, for a third of --seconds but at most 6 s:
agents are killed while Synced, Buffered and volatile writers go on, others take over; everybody is killed at once, the
segments are removed as a reboot would, an agent rebuilds the bus, and the same again. It is right only if every Synced
write that was acknowledged is there, and one state hash is that of the rebuilt bus and of its log, another that of the
living bus, taken before, and of its log at that LSN. At the end: what changed between two moments.

Exit codes: 0 all of that holds, 1 something was wrong.

Examples:
  mmsb demo
  mmsb demo --seconds 60 --seed 7 --writers 4 --kills-per-second 50
  mmsb demo --json | jq .recoveries
  mmsb demo --seconds 3 --kills-per-second 0 --log /mnt/disk --json | jq .durable
  mmsb demo --no-log";

/// How long the act with a log takes, at least: shorter, there would be nothing to lose.
const DURABLE_MIN: Duration = Duration::from_millis(1200);
/// ... and at most.
const DURABLE_MAX: Duration = Duration::from_secs(6);

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
    /// Leave the buses, and the log, for a look at them
    #[arg(long)]
    pub keep: bool,
    /// Where the log goes, into a directory of its own that is removed at the end
    /// [default: $TMPDIR or beside this program, whichever is on a disk]
    #[arg(long, value_name = "DIR", conflicts_with = "no_log")]
    pub log: Option<PathBuf>,
    /// Leave the log and the reboots out
    #[arg(long)]
    pub no_log: bool,
    /// Lose a file of the log at the first reboot: the demo must find that out
    #[arg(long, hide = true)]
    pub lose_last_file: bool,
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
    /// Directory of the log, if the bus has one
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// LSN of a cut, for the examiner
    #[arg(long)]
    pub at: Vec<u64>,
}

/// Arguments of an agent of the demo.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// Its configuration
    pub config: PathBuf,
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
    let second = durable::Options {
        bus: format!("{}-durable", options.bus),
        dir: options.dir.clone(),
        log: args.log.clone(),
        duration: (args.seconds / 3).clamp(DURABLE_MIN, DURABLE_MAX),
        ring_bytes: args.ring,
        keep: args.keep,
        lose_last_file: args.lose_last_file,
    };
    let root = match args.no_log {
        true => None,
        false => Some(durable::prepare(&second)?),
    };
    // Ahead of all threads, and of the view: its panic hook must find the terminal as it was.
    let stop = Stop::on_signals()?;
    let is_live = !args.plain && !context.json && std::io::stdout().is_terminal();
    let mut report = {
        let mut screen: Box<dyn Screen> = if is_live {
            Box::new(Terminal::new()?)
        } else {
            Box::new(Progress::default())
        };
        torment::run(&options, &stop, screen.as_mut())?
    };
    if let Some(root) = root
        && !report.ended_early
    {
        // To standard error, as everything that is said on the way; nobody has to listen.
        let mut say = |text: &str| {
            let _ = writeln!(std::io::stderr(), "log: {text}");
        };
        report.add(durable::run(&second, root, &stop, &mut say)?);
    }
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
            if let Some(durable) = &report.durable {
                let (bus, log) = (&second.bus, durable.log.display());
                context.line(format!(
                    "so does the other one, and its log: mmsb verify --log {log}; mmsb rm {bus}"
                ))?;
            }
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
        log: args.log.clone(),
        at: args.at.clone(),
    };
    worker::run(&assignment)?;
    Ok(Code::Ok)
}

/// Runs an agent of the demo: `mmsb-agent` with a configuration, but one that dies with its parent.
///
/// # Errors
///
/// As [`crate::daemon::serve`]; it was logged.
pub fn supervise(args: &AgentArgs) -> Result<Code, Failure> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|e| Failure::problem(e.to_string()))?;
    // The demo takes signals by another way, which blocks them, and children inherit that.
    SigSet::all()
        .thread_unblock()
        .map_err(|e| Failure::problem(e.to_string()))?;
    let ended = crate::daemon::serve(&args.config);
    ended.map_err(|failure| Failure::new(failure.code, ""))?;
    Ok(Code::Ok)
}
