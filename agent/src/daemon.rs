//! `mmsb-agent`: a participant of some buses that looks for dead ones.
//!
//! No bus needs it: whoever joins or has to wait recovers the dead. It is for buses on which nobody does for a long time,
//! so that cursors and memory of the dead come back at once, and for a log of who died.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use mmsb::{Bus, Error};

use crate::cli::exit::{Code, Failure};
use crate::cli::signals::Stop;
use crate::cli::{directory, units};

const NOTES: &str = "\
What it does not do: buses work without it, nothing waits for it, and it writes nothing to disk. Neither pages nor deltas
survive a reboot because of it.

A bus that does not exist, or was removed, is looked for again. SIGTERM and Ctrl-C end it.

Exit codes: as those of mmsb, see `mmsb --help`.

Examples:
  mmsb-agent prices arm
  mmsb-agent --interval 5s prices";

/// Recovers dead participants of MMSB buses, once a second, and logs it.
#[derive(Debug, Parser)]
#[command(name = "mmsb-agent", version, after_long_help = NOTES)]
pub struct Args {
    /// The buses
    #[arg(required = true, value_name = "BUS")]
    pub buses: Vec<String>,
    /// Directory of the buses, on a tmpfs [default: $MMSB_DIR, else /dev/shm]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Pause between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    pub interval: Duration,
    /// Log less: only what went wrong
    #[arg(long, short)]
    pub quiet: bool,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() {
                Code::Usage
            } else {
                Code::Ok
            };
            // Nobody has to read it.
            let _ = error.print();
            return code.into();
        }
    };
    let level = if args.quiet {
        tracing::Level::WARN
    } else {
        tracing::Level::INFO
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    match run(&args) {
        Ok(()) => Code::Ok.into(),
        Err(failure) => {
            tracing::error!("{}", failure.message);
            failure.code.into()
        }
    }
}

/// A bus that is looked after.
struct Ward {
    name: String,
    bus: Option<Bus>,
    /// The last complaint, so that each is made once.
    complaint: String,
}

/// Looks after the buses until a signal asks to end.
///
/// # Errors
///
/// What the kernel said to taking signals. Trouble with a bus is logged, and tried again.
pub fn run(args: &Args) -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    let dir = directory(args.dir.clone());
    let mut wards: Vec<Ward> = args
        .buses
        .iter()
        .map(|name| Ward {
            name: name.clone(),
            bus: None,
            complaint: String::new(),
        })
        .collect();
    tracing::info!(
        "looking after {} in {}",
        args.buses.join(", "),
        dir.display()
    );
    while !stop.is_requested() {
        for ward in &mut wards {
            ward.look(&dir);
        }
        let next = Instant::now() + args.interval;
        while !stop.is_requested() && Instant::now() < next {
            let left = next.saturating_duration_since(Instant::now());
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
    tracing::info!("asked to end");
    Ok(())
}

impl Ward {
    fn look(&mut self, dir: &std::path::Path) {
        match self.try_look(dir) {
            Ok(()) => self.complaint.clear(),
            Err(error) => {
                let complaint = error.to_string();
                if complaint != self.complaint {
                    tracing::warn!(bus = self.name, "{complaint}");
                    self.complaint = complaint;
                }
            }
        }
    }

    fn try_look(&mut self, dir: &std::path::Path) -> Result<(), Error> {
        // Somebody removed it, and may have made another one of its name.
        if self.bus.as_ref().is_some_and(|bus| !bus.is_named()) {
            tracing::warn!(bus = self.name, "was removed");
            self.bus = None;
        }
        let bus = match &self.bus {
            Some(bus) => bus,
            None => {
                let bus = Bus::builder(&self.name)
                    .dir(dir)
                    .source("mmsb-agent")
                    .attach()?;
                tracing::info!(bus = self.name, "attached");
                self.bus.insert(bus)
            }
        };
        let recovered = bus.recover()?;
        if recovered > 0 {
            tracing::info!(bus = self.name, recovered, "recovered dead participants");
        }
        Ok(())
    }
}
