//! `mmsb provenance`: what led to a change.

use std::path::PathBuf;

use mmsb::history::{Cause, ChainEnd};
use serde_json::{Value, json};

use super::Context;
use super::exit::{Code, Failure};
use super::moments::{self, Moment};
use super::records::Shown;

const EXAMPLES: &str = "\
Writers say which delta led to theirs (its cause). This shows the delta in question, the one that led to it, and so on,
to the one that came from outside.

A number is an LSN; anything else is a page, of which the last delta is meant, or that at --at.

Examples:
  mmsb provenance --log /var/lib/mmsb/prices 1_000_123
  mmsb provenance --log /var/lib/mmsb/prices alarms/high
  mmsb provenance --log /var/lib/mmsb/prices alarms/high --at -10m --json";

/// Arguments of `mmsb provenance`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Directory of the log
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// A page (name, or id such as 3.1) or an LSN
    #[arg(value_name = "PAGE|LSN")]
    pub of: String,
    /// The last delta of the page at this moment
    #[arg(long, value_name = "MOMENT", value_parser = moments::moment, allow_hyphen_values = true)]
    pub at: Option<Moment>,
    /// Follow at most so many causes
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub longest: usize,
}

/// Runs it.
///
/// # Errors
///
/// That there is no such page or record, or what is wrong with the log.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let log = moments::open(&args.log)?;
    let cause = match (moments::moment(&args.of), args.at) {
        (Ok(Moment::Lsn(lsn)), None) => Cause::Lsn(lsn),
        _ => {
            let moment = args.at.unwrap_or(Moment::End);
            let page = moments::page(&log, &args.of, moment.end_lsn(&log)?)?;
            Cause::Page(page, moment.at(&log)?)
        }
    };
    let found = log.provenance(cause, args.longest.max(1))?;
    let mut shown = Shown::default();
    if context.json {
        let chain: Vec<Value> = found.chain.iter().map(|r| shown.json(r)).collect();
        let (end, lsn) = match found.end {
            ChainEnd::Outside => ("outside", None),
            ChainEnd::Gone { lsn, .. } => ("gone", Some(lsn)),
            ChainEnd::NoRecord { lsn } => ("no_record", Some(lsn)),
            ChainEnd::NotEarlier { lsn } => ("not_earlier", Some(lsn)),
            ChainEnd::TooLong { lsn } => ("too_long", Some(lsn)),
        };
        context.document(&json!({"chain": chain, "end": end, "next_lsn": lsn}))?;
        return Ok(Code::Ok);
    }
    for record in &found.chain {
        shown.line(record, context)?;
    }
    context.line(match found.end {
        ChainEnd::Outside => "which came from outside".to_owned(),
        ChainEnd::Gone { lsn, oldest } => {
            format!("led to by LSN {lsn}, which is no longer in the log; it begins at LSN {oldest}")
        }
        ChainEnd::NoRecord { lsn } => {
            format!("said to be led to by LSN {lsn}, where there is no record")
        }
        ChainEnd::NotEarlier { lsn } => {
            format!("said to be led to by LSN {lsn}, which is not ahead of it")
        }
        ChainEnd::TooLong { lsn } => {
            format!("and so on, from LSN {lsn}; --longest shows more")
        }
    })?;
    Ok(Code::Ok)
}
