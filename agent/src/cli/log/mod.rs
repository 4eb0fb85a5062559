//! `mmsb log`: what is in the log of a bus.

use std::path::PathBuf;

use mmsb::Kind;

use super::Context;
use super::exit::{Code, Failure};

mod dump;
mod export;
mod list;
mod stat;

pub use list::{checkpoint_json, log_id, name_of, remarks};

const EXAMPLES: &str = "\
The log of a bus is a directory. Name it with --log, or as the operand: a path, or the name of a bus whose log is in
$MMSB_LOGS (default /var/lib/mmsb). All of these read beside a running supervisor, and after the bus is gone.

Examples:
  mmsb log list /var/lib/mmsb/prices
  mmsb log dump prices --from -5m --prefix nyse/
  mmsb log tail prices -f --json
  mmsb log stat prices
  mmsb log export prices --format parquet -o prices.parquet";

/// Arguments of `mmsb log`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands of `mmsb log`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List files and checkpoints
    List(list::Args),
    /// Print records
    Dump(dump::Args),
    /// Print the last records, and follow the log
    Tail(dump::TailArgs),
    /// Show totals by page, source and kind
    Stat(stat::Args),
    /// Write records to a file: JSON lines, CSV or Parquet
    Export(export::Args),
}

/// Which log.
#[derive(Clone, Debug, clap::Args)]
pub struct Where {
    /// Directory of the log, or the name of a bus whose log is in $MMSB_LOGS
    #[arg(value_name = "DIR|BUS", required_unless_present = "log")]
    pub log_or_bus: Option<String>,
    /// Directory of the log
    #[arg(long, value_name = "DIR", conflicts_with = "log_or_bus")]
    pub log: Option<PathBuf>,
}

impl Where {
    /// The directory.
    ///
    /// # Errors
    ///
    /// That there is none.
    pub fn dir(&self) -> Result<PathBuf, Failure> {
        super::moments::log_dir(self.log.as_deref(), self.log_or_bus.as_deref())
    }

    /// The log in it.
    ///
    /// # Errors
    ///
    /// That there is none, or what is wrong with it.
    pub fn open(&self) -> Result<mmsb::history::Log, Failure> {
        super::moments::open(&self.dir()?)
    }
}

/// Runs it.
///
/// # Errors
///
/// That there is no log, what is wrong with it, or what writing gave.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    match &args.command {
        Command::List(args) => list::run(args, context),
        Command::Dump(args) => dump::run(args, context),
        Command::Tail(args) => dump::tail(args, context),
        Command::Stat(args) => stat::run(args, context),
        Command::Export(args) => export::run(args, context),
    }
}

/// Whether records of this kind change bytes of a page.
fn changes_bytes(kind: Kind) -> bool {
    matches!(kind, Kind::Patch | Kind::Ranges | Kind::Masked | Kind::Swap)
}
