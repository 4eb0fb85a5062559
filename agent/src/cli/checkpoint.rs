//! `mmsb checkpoint`: a checkpoint of a bus, now.

use std::path::PathBuf;
use std::time::Duration;

use mmsb::checkpoint::{self, CheckpointInfo, Options};
use mmsb::history::Log;
use mmsb::supervisor::{CheckpointPolicy, Supervisor, SupervisorConfig};

use super::exit::{Code, Failure};
use super::log::checkpoint_json;
use super::{Context, moments, table, units};

const EXAMPLES: &str = "\
Writes images of all pages into the directory of the log, beside the writers, so that a restart begins there. The
supervisor keeps and removes it with its own. If nobody supervises the bus, this does it for as long as it takes.

Examples:
  mmsb checkpoint prices --log /var/lib/mmsb/prices
  mmsb checkpoint prices --log /var/lib/mmsb/prices --timeout 5m --json";

/// Arguments of `mmsb checkpoint`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The bus
    pub bus: String,
    /// Directory of its log
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// Wait at most so long for the log to hold what the images hold
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "60")]
    pub timeout: Duration,
}

/// Runs it.
///
/// # Errors
///
/// That there is no such bus or log, or why there is no checkpoint.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let dir = moments::log_dir(Some(&args.log), None)?;
    let bus = context.bus(&args.bus).attach()?;
    moments::same_log(&Log::open(&dir)?, &bus, context)?;
    let info = match bus.log_status().supervised {
        Some(false) => alone(&bus, args, dir)?,
        _ => checkpoint::of_bus(&bus, &dir, &Options::default(), args.timeout)?,
    };
    if context.json {
        context.document(&checkpoint_json(&Ok(info)))?;
        return Ok(Code::Ok);
    }
    context.line(format!(
        "{}: {} pages, {}, serves states from LSN {} on",
        info.path.display(),
        info.pages,
        table::bytes(info.file_bytes),
        info.end_lsn
    ))?;
    Ok(Code::Ok)
}

/// Supervises the bus for one checkpoint.
fn alone(bus: &mmsb::Bus, args: &Args, dir: PathBuf) -> Result<CheckpointInfo, Failure> {
    let config = SupervisorConfig {
        checkpoint: CheckpointPolicy {
            interval: None,
            log_bytes: None,
            // Which of them go is for the bus's own supervisor to say.
            keep: u32::MAX,
            ..CheckpointPolicy::default()
        },
        ..SupervisorConfig::new(dir.clone())
    };
    let supervisor = Supervisor::start(bus, config)?;
    let info = if supervisor.wait_active(Duration::from_millis(500)) {
        supervisor.checkpoint()?
    } else {
        // Somebody else was quicker.
        checkpoint::of_bus(bus, &dir, &Options::default(), args.timeout)?
    };
    supervisor.stop()?;
    Ok(info)
}
