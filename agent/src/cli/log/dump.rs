//! `mmsb log dump` and `mmsb log tail`: the records of a log.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use mmsb::history::{Filter, Log, Record};
use mmsb::tlog;

use super::super::exit::{Code, Failure};
use super::super::records::{Shown, Which};
use super::super::signals::Stop;
use super::super::{Context, json, moments};
use super::Where;

const DUMP_EXAMPLES: &str = "\
A line for each record: LSN, time in UTC, page, kind, source, and what it changed, decoded by the schema that the page had
then, else in hex. A prefix or a page leaves out marks and sources. With --json a JSON object per line, with all bytes.

Examples:
  mmsb log dump prices --from -5m
  mmsb log dump --log /backup/prices --from 1_000_000 --to 1_001_000 --json
  mmsb log dump prices --page nyse/ibm --source feed --kind patch,swap
  mmsb log dump prices --from 2026-11-21T14:00:00Z --prefix nyse/ --limit 100";

const TAIL_EXAMPLES: &str = "\
With --follow it goes on with what the supervisor writes, until Ctrl-C: deltas come when they are on disk.

Examples:
  mmsb log tail prices
  mmsb log tail prices -n 100 --prefix nyse/
  mmsb log tail prices -f --json";

/// How long it waits before it looks whether there is more.
const NAP: Duration = Duration::from_millis(50);

/// Arguments of `mmsb log dump`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("{}\n\n{DUMP_EXAMPLES}", moments::MOMENTS))]
pub struct Args {
    /// Which log
    #[command(flatten)]
    pub log: Where,
    /// Which records
    #[command(flatten)]
    pub which: Which,
    /// End after so many records
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
}

/// Arguments of `mmsb log tail`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = TAIL_EXAMPLES)]
pub struct TailArgs {
    /// Which log
    #[command(flatten)]
    pub log: Where,
    /// Go on with what is written from now on
    #[arg(long, short)]
    pub follow: bool,
    /// So many of the records that are there
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    pub lines: usize,
    /// Only pages whose name started so at that time
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// Only what this source did
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
}

/// Runs `dump`.
///
/// # Errors
///
/// That there is no log, what is wrong with it, or what writing gave.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let log = args.log.open()?;
    let (from, to, filter) = args.which.resolve(&log)?;
    let mut shown = Shown::default();
    let limit = usize::try_from(args.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    for record in log.records(from, to, filter)?.take(limit) {
        show(&record?, &mut shown, context)?;
    }
    Ok(Code::Ok)
}

/// Runs `tail`.
///
/// # Errors
///
/// As [`run`].
pub fn tail(args: &TailArgs, context: &mut Context) -> Result<Code, Failure> {
    let stop = Stop::on_signals()?;
    let log = args.log.open()?;
    let filter = Filter {
        prefix: args.prefix.clone(),
        source: args.source.clone(),
        ..Filter::default()
    };
    let mut shown = Shown::default();
    let (last, mut records) = last_records(&log, args.lines, &filter)?;
    for record in &last {
        show(record, &mut shown, context)?;
    }
    context.out.flush()?;
    while args.follow && !stop.is_requested() {
        let mut any = false;
        for record in records.by_ref() {
            let record = record?;
            if !stop.may_write() {
                return Ok(Code::Ok);
            }
            show(&record, &mut shown, context)?;
            any = true;
        }
        if any {
            context.out.flush()?;
        }
        std::thread::sleep(NAP);
    }
    Ok(Code::Ok)
}

/// The last `n` records that the filter wants, and where the log goes on behind them.
fn last_records(
    log: &Log,
    n: usize,
    filter: &Filter,
) -> Result<(VecDeque<Record>, mmsb::history::Records), Failure> {
    let survey = tlog::survey(log.dir())?;
    // From the last file on backwards, until there are enough.
    for (i, file) in survey.files.iter().enumerate().rev() {
        let mut records = log.records(file.first_lsn, u64::MAX, filter.clone())?;
        let mut last = VecDeque::new();
        for record in records.by_ref() {
            if last.len() == n {
                last.pop_front();
            }
            if n > 0 {
                last.push_back(record?);
            }
        }
        if last.len() >= n || i == 0 {
            return Ok((last, records));
        }
    }
    let records = log.records(0, u64::MAX, filter.clone())?;
    Ok((VecDeque::new(), records))
}

fn show(record: &Record, shown: &mut Shown, context: &mut Context) -> Result<(), Failure> {
    if context.json {
        let value = shown.json(record);
        json::print(&mut context.out, &value, json::Layout::Line)?;
        return Ok(());
    }
    shown.line(record, context)
}
