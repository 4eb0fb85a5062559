//! `mmsb rm`: remove buses.

use mmsb::{Bus, Inspection};
use serde_json::json;

use super::Context;
use super::exit::{Code, Failure};

const EXAMPLES: &str = "\
Refuses while processes are attached, unless --force: those go on with memory that has lost its name, and nobody can
attach to it any more. Observers are not counted; they see no more changes.

Examples:
  mmsb rm prices
  mmsb rm --force prices arm";

/// Arguments of `mmsb rm`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The buses
    #[arg(required = true, value_name = "BUS")]
    pub buses: Vec<String>,
    /// Also while processes are attached, or if the bus is damaged
    #[arg(long, short)]
    pub force: bool,
}

/// Runs it.
///
/// # Errors
///
/// For the first bus that was not removed: that it does not exist, or who is attached.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let mut removed = Vec::new();
    let mut failed = None;
    for bus in &args.buses {
        match remove(bus, args.force, context) {
            Ok(()) => removed.push(bus.as_str()),
            Err(failure) => {
                failed.get_or_insert(failure);
            }
        }
    }
    if context.json {
        context.document(&json!({"removed": removed}))?;
    } else {
        for bus in removed {
            context.line(format!("removed {bus}"))?;
        }
    }
    match failed {
        None => Ok(Code::Ok),
        Some(failure) => Err(failure),
    }
}

fn remove(bus: &str, force: bool, context: &Context) -> Result<(), Failure> {
    if !force {
        match Inspection::of(&context.dir, bus) {
            Ok(inspection) => {
                let living: Vec<String> = inspection
                    .stats
                    .participants
                    .iter()
                    .filter(|p| p.alive)
                    .map(|p| format!("{} (pid {})", p.name, p.pid))
                    .collect();
                if !living.is_empty() {
                    return Err(Failure::new(
                        Code::Busy,
                        format!(
                            "{bus} is in use by {}; end them, or use --force",
                            living.join(", ")
                        ),
                    ));
                }
            }
            Err(error) => {
                let failure = Failure::from(error);
                // A lone `.ctl` counts as no bus, but is there to be removed.
                if failure.code == Code::Corrupt {
                    return Err(Failure::new(
                        failure.code,
                        format!("{}; --force removes it all the same", failure.message),
                    ));
                }
                if failure.code != Code::NoBus {
                    return Err(failure);
                }
            }
        }
    }
    Ok(Bus::unlink_in(&context.dir, bus)?)
}
