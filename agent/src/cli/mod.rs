//! The `mmsb` command: arguments, output, exit codes, and one file for each subcommand.
//!
//! Every subcommand prints tables for people, or JSON with `--json`: one document, or one line per event for `watch`.
//! What goes wrong is one line on standard error, `mmsb: ...`, or with `--json` an error object there; standard output
//! holds a whole answer or none. The exit codes are in [`exit`].

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mmsb::{Bus, BusBuilder};

pub mod bench;
pub mod checkpoint;
pub mod completions;
pub mod create;
pub mod demo;
pub mod diff;
pub mod doctor;
pub mod exit;
pub mod history;
pub mod info;
pub mod json;
pub mod log;
pub mod ls;
pub mod man;
pub mod moments;
pub mod provenance;
pub mod read;
pub mod records;
pub mod repair;
pub mod replay;
pub mod rm;
pub mod signals;
pub mod stats;
pub mod table;
pub mod top;
pub mod units;
pub mod value;
pub mod verify;
pub mod watch;
pub mod write;

use exit::{Code, Failure};
use json::Layout;
use table::Style;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; doctor, demo and bench: nothing wrong was found
  1  a problem was found, a page does not exist, or a failure without a code of its own
  2  the command line makes no sense
  3  the kernel refused access
  4  no such bus
  5  somebody is in the way (timeout, full ring, living participants): try again
  6  no room in the tmpfs, the bus or one of its tables
  7  damaged, cut short, or made by another version
  8  a bus or page of this name exists already

Errors are one line on standard error, `mmsb: ...`; with --json an object there:
  {\"error\":{\"code\":4,\"message\":\"...\",\"name\":\"no_bus\"}}

Environment:
  MMSB_DIR   directory of the buses (default /dev/shm)
  MMSB_LOGS  directory with the logs of all buses, each in a directory named after its bus (default /var/lib/mmsb)
  NO_COLOR   no colours

Examples:
  mmsb create prices --size 256M --pages 'nyse/ibm::quote{price:f64,qty:u32}'
  mmsb write prices nyse/ibm --as fields 'price=101.5,qty=300'
  mmsb read prices nyse/ibm
  mmsb watch prices --prefix nyse/ --from snapshot
  mmsb doctor";

/// Works with MMSB buses: shared, versioned state between the processes of this machine.
#[derive(Debug, Parser)]
#[command(name = "mmsb", version, after_long_help = EXIT_CODES)]
pub struct Cli {
    /// Directory of the buses, on a tmpfs [default: $MMSB_DIR, else /dev/shm]
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON, errors too
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a bus, and pages in it
    Create(create::Args),
    /// List the buses, or the pages of one
    Ls(ls::Args),
    /// Say everything about a bus or a page
    Info(info::Args),
    /// Show the content of a page
    Read(read::Args),
    /// Change the content of a page, by one delta
    Write(write::Args),
    /// Follow the deltas of a bus
    Watch(watch::Args),
    /// Show counters, participants and subscriptions
    Stats(stats::Args),
    /// Show rates, lag and the hottest pages, as they change
    Top(top::Args),
    /// Look for dead participants, leftovers and bad settings
    Doctor(doctor::Args),
    /// Look into the log of a bus: files, records, totals; export it
    Log(log::Args),
    /// Show what changed between two moments
    Diff(diff::Args),
    /// Show who changed a page, when, and how
    History(history::Args),
    /// Show what led to a change
    Provenance(provenance::Args),
    /// Play a recorded range into a bus, or make a past state a bus
    Replay(replay::Args),
    /// Write a checkpoint of a bus now
    Checkpoint(checkpoint::Args),
    /// Check log, checkpoints and bus against each other
    Verify(verify::Args),
    /// Cut a damaged log where the damage begins
    Repair(repair::Args),
    /// Remove buses
    Rm(rm::Args),
    /// Show the bus under real load and real kills, and judge it
    Demo(demo::Args),
    /// Measure MMSB on this machine, against what the machine itself takes
    Bench(bench::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Write the manual pages into a directory
    Man(man::Args),
    /// A process of the demo
    #[command(hide = true)]
    DemoWorker(demo::WorkerArgs),
    /// An agent of the demo
    #[command(hide = true)]
    DemoAgent(demo::AgentArgs),
    /// A process of a bench case
    #[command(hide = true)]
    BenchWorker(bench::WorkerArgs),
}

/// What every subcommand gets.
pub struct Context {
    /// Directory of the buses.
    pub dir: PathBuf,
    /// Whether to print JSON.
    pub json: bool,
    /// How tables look.
    pub style: Style,
    /// Standard output, or in tests a buffer.
    pub out: Box<dyn Write>,
}

impl Context {
    /// A bus of this name in the directory, with this tool as the source of its deltas.
    pub fn bus(&self, name: &str) -> BusBuilder {
        Bus::builder(name).dir(&self.dir).source("mmsb")
    }

    /// Prints a document.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn document(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        json::print(&mut self.out, value, Layout::Pretty)?;
        Ok(())
    }

    /// Prints one line of a stream, at once.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn event(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        json::print(&mut self.out, value, Layout::Line)?;
        self.out.flush()?;
        Ok(())
    }

    /// Prints a table.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn table(&mut self, table: &table::Table) -> Result<(), Failure> {
        table.print(&mut self.out, self.style)?;
        Ok(())
    }

    /// Prints a line.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        writeln!(self.out, "{}", text.as_ref())?;
        Ok(())
    }
}

/// `--dir`, else `$MMSB_DIR`, else `/dev/shm`.
pub fn directory(argument: Option<PathBuf>) -> PathBuf {
    let set = || std::env::var_os("MMSB_DIR").filter(|dir| !dir.is_empty());
    argument
        .or_else(|| set().map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("/dev/shm"))
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let wants_json = arguments.iter().any(|argument| argument == "--json");
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return report(&usage(&error), wants_json),
        Err(help) => {
            // Help and version go to standard output; whoever closed it does not want them.
            let _ = help.print();
            return Code::Ok.into();
        }
    };
    let mut context = Context {
        dir: directory(cli.dir),
        json: cli.json,
        style: Style::of_stdout(),
        out: Box::new(BufWriter::new(io::stdout())),
    };
    let result = run(cli.command, &mut context)
        .and_then(|code| context.out.flush().map(|()| code).map_err(Failure::from));
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            // What was printed ahead of the failure stays; nothing is left to be written by drop.
            let _ = context.out.flush();
            report(&failure, wants_json)
        }
    }
}

/// Runs one subcommand.
///
/// # Errors
///
/// Why it stopped, with its exit code.
pub fn run(command: Command, context: &mut Context) -> Result<Code, Failure> {
    match command {
        Command::Create(args) => create::run(&args, context),
        Command::Ls(args) => ls::run(&args, context),
        Command::Info(args) => info::run(&args, context),
        Command::Read(args) => read::run(&args, context),
        Command::Write(args) => write::run(&args, context),
        Command::Watch(args) => watch::run(&args, context),
        Command::Stats(args) => stats::run(&args, context),
        Command::Top(args) => top::run(&args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Log(args) => log::run(&args, context),
        Command::Diff(args) => diff::run(&args, context),
        Command::History(args) => history::run(&args, context),
        Command::Provenance(args) => provenance::run(&args, context),
        Command::Replay(args) => replay::run(&args, context),
        Command::Checkpoint(args) => checkpoint::run(&args, context),
        Command::Verify(args) => verify::run(&args, context),
        Command::Repair(args) => repair::run(&args, context),
        Command::Rm(args) => rm::run(&args, context),
        Command::Demo(args) => demo::run(&args, context),
        Command::Bench(args) => bench::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
        Command::Man(args) => man::run(&args, context),
        Command::DemoWorker(args) => demo::work(&args, context),
        Command::DemoAgent(args) => demo::supervise(&args),
        Command::BenchWorker(args) => bench::work(&args, context),
    }
}

/// What clap found, in one line: its first paragraph, and where to read more.
fn usage(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let told: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect();
    let told = told.join(" ");
    let told = told.strip_prefix("error: ").unwrap_or(&told);
    if told.is_empty() {
        return Failure::usage("a subcommand is needed; see `mmsb --help`");
    }
    Failure::usage(format!("{told}; see `mmsb --help`"))
}

/// Says why it stopped, on standard error.
fn report(failure: &Failure, as_json: bool) -> ExitCode {
    if !failure.message.is_empty() {
        let mut stderr = io::stderr().lock();
        // Nobody may be listening; the exit code still says it.
        let _ = if as_json {
            json::print(&mut stderr, &failure.to_json(), Layout::Line)
        } else {
            writeln!(stderr, "mmsb: {}", table::escaped(&failure.message))
        };
    }
    failure.code.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_agree_with_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_examples_in_its_help() {
        let command = Cli::command();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let help = sub.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", sub.get_name());
            assert!(help.contains("mmsb "), "{}", sub.get_name());
        }
    }

    #[test]
    fn help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for code in Code::ALL {
            assert!(help.contains(&format!("  {}  ", code as u8)), "{code:?}");
        }
    }

    #[test]
    fn usage_errors_are_one_line() {
        let error = Cli::try_parse_from(["mmsb", "read", "bus"]).unwrap_err();
        let failure = usage(&error);
        assert_eq!(failure.code, Code::Usage);
        assert!(!failure.message.contains('\n'));
        assert!(failure.message.contains("<PAGE>"), "{}", failure.message);
        let error = Cli::try_parse_from(["mmsb", "frobnicate"]).unwrap_err();
        assert!(usage(&error).message.contains("frobnicate"));
    }
}
