//! `mmsb verify`: whether log, checkpoints and bus agree.

use std::path::PathBuf;
use std::time::Duration;

use mmsb::checkpoint;
use mmsb::history::{LiveReport, Log, Mismatch, Report};
use mmsb::tlog::{Block, LogReader, OpenOptions};
use serde_json::{Value, json};

use super::exit::{Code, Failure};
use super::log::{name_of, remarks};
use super::table::{count, escaped};
use super::{Context, moments};

const EXAMPLES: &str = "\
Reads every block of the log and checks its checksum and its place, reads every checkpoint, replays the log and compares
the pages with each checkpoint on the way, and, if a bus is named, compares its pages with the log while it runs.

Exits with 1 if something is wrong. Torn writes at the end are not: nobody was told that they are durable.

Examples:
  mmsb verify --log /var/lib/mmsb/prices
  mmsb verify --log /var/lib/mmsb/prices prices
  mmsb verify --log /backup/prices --quick --json";

/// Participants that read the live bus.
const READERS: usize = 1;
/// How long the log is given to hold what the bus holds.
const SETTLE: Duration = Duration::from_secs(5);

/// Arguments of `mmsb verify`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Directory of the log
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The living bus to compare with
    pub bus: Option<String>,
    /// Check the files only: do not replay
    #[arg(long)]
    pub quick: bool,
}

/// What reading all blocks found.
#[derive(Default)]
struct Blocks {
    blocks: u64,
    records: u64,
    bytes: u64,
    end_lsn: u64,
}

/// Runs it.
///
/// # Errors
///
/// That there is no log, or that it cannot be read for another reason than damage.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let dir = moments::log_dir(Some(&args.log), None)?;
    let mut problems: Vec<String> = Vec::new();
    let mut notes = Vec::new();
    match mmsb::tlog::survey(&dir) {
        Ok(survey) if survey.files.is_empty() => {
            return Err(mmsb::history::HistoryError::NoLog { dir }.into());
        }
        // What is wrong with its last file is found below too.
        Ok(survey) => notes = remarks(&survey),
        Err(e) => add(&mut problems, e)?,
    }
    let mut read = Blocks::default();
    if let Err(e) = read_all(&dir, &mut read) {
        add(&mut problems, e)?;
    }
    notes.retain(|note| !problems.contains(note));
    let found = checkpoint::list_all(&dir)?;
    let checkpoints = found.len();
    problems.extend(
        found
            .into_iter()
            .filter_map(Result::err)
            .map(|e| e.to_string()),
    );
    let mut report = None;
    let mut live = None;
    if problems.is_empty() {
        let log = Log::open(&dir)?;
        if !args.quick {
            let found = log.verify()?;
            judge(&found, &mut problems);
            report = Some(found);
        }
        if let Some(name) = &args.bus {
            live = Some(compare(&log, name, context, &mut problems)?);
        }
    } else if args.bus.is_some() {
        notes.push("the bus was not compared: the log is not whole".to_owned());
    }
    let good = problems.is_empty();
    if context.json {
        context.document(&json!({
            "good": good,
            "dir": dir.display().to_string(),
            "blocks": read.blocks,
            "records": read.records,
            "bytes": read.bytes,
            "end_lsn": read.end_lsn,
            "checkpoints": checkpoints,
            "replay": report.as_ref().map(report_json),
            "live": live.as_ref().map(|(name, live)| json!({
                "bus": name,
                "equal": live.equal,
                "different": live.different.iter().map(mismatch_json).collect::<Vec<_>>(),
                "ahead": live.ahead.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "end_lsn": live.end_lsn,
            })),
            "problems": problems,
            "notes": notes,
        }))?;
        return Ok(if good { Code::Ok } else { Code::Problem });
    }
    context.line(format!(
        "log: {} records in {} blocks, to LSN {}",
        count(read.records),
        count(read.blocks),
        read.end_lsn
    ))?;
    if let Some(report) = &report {
        context.line(format!(
            "replay: {} records from LSN {} to {}, hash {:032x}",
            count(report.records),
            report.from_lsn,
            report.end_lsn,
            report.hash
        ))?;
        for check in &report.checkpoints {
            let compared = match check.compared {
                true => format!("{} pages compared", check.pages),
                false => "read; replaying began here".to_owned(),
            };
            context.line(format!(
                "checkpoint {}: {compared}",
                name_of(&check.info.path)
            ))?;
        }
    }
    if let Some((name, live)) = &live {
        context.line(format!(
            "bus {name}: {} pages are as in the log, {} have newer deltas than the log",
            live.equal,
            live.ahead.len()
        ))?;
    }
    for note in &notes {
        context.line(escaped(note))?;
    }
    for problem in &problems {
        context.line(escaped(&format!("wrong: {problem}")))?;
    }
    if good {
        context.line("all is as it should be")?;
        return Ok(Code::Ok);
    }
    Ok(Code::Problem)
}

/// A problem, if that is what the error tells of.
fn add(problems: &mut Vec<String>, e: mmsb::tlog::LogError) -> Result<(), Failure> {
    let text = e.to_string();
    let failure = Failure::from(e);
    match failure.code {
        Code::Corrupt | Code::Problem => {
            if !problems.contains(&text) {
                problems.push(text);
            }
            Ok(())
        }
        _ => Err(failure),
    }
}

fn read_all(dir: &std::path::Path, read: &mut Blocks) -> Result<(), mmsb::tlog::LogError> {
    let mut reader = LogReader::open(dir, OpenOptions::default())?;
    let mut block = Block::default();
    while reader.next_into(&mut block)? {
        read.blocks += 1;
        read.records += u64::from(block.records);
        read.bytes += block.body.len() as u64;
        read.end_lsn = block.end_lsn;
    }
    Ok(())
}

fn judge(report: &Report, problems: &mut Vec<String>) {
    problems.extend(report.error.iter().map(ToString::to_string));
    for check in &report.checkpoints {
        problems.extend(check.damage.iter().map(ToString::to_string));
        let name = name_of(&check.info.path);
        problems.extend(
            check
                .different
                .iter()
                .map(|d| format!("checkpoint {name}: {}", told(d, "the checkpoint"))),
        );
    }
}

fn told(mismatch: &Mismatch, other: &str) -> String {
    let side = |of: &Option<(u64, u64, u128)>| match of {
        Some((epoch, lsn, hash)) => format!("epoch {epoch}, LSN {lsn}, hash {hash:032x}"),
        None => "nothing".to_owned(),
    };
    format!(
        "page {} is {} by the log, {} by {other}",
        mismatch.page,
        side(&mismatch.by_log),
        side(&mismatch.found)
    )
}

fn compare(
    log: &Log,
    name: &str,
    context: &Context,
    problems: &mut Vec<String>,
) -> Result<(String, LiveReport), Failure> {
    let bus = context.bus(name).attach()?;
    moments::same_log(log, &bus, context)?;
    // So that the log has what the pages have, if somebody writes it; what it does not have is told.
    let _ = bus.wait_durable(bus.published_lsn()?.saturating_sub(1), SETTLE);
    let images = checkpoint::images(&bus, READERS)?;
    let live = log.verify_live(images.as_ref())?;
    problems.extend(
        live.different
            .iter()
            .map(|d| format!("bus {name}: {}", told(d, "the bus"))),
    );
    Ok((name.to_owned(), live))
}

fn mismatch_json(mismatch: &Mismatch) -> Value {
    let side = |of: &Option<(u64, u64, u128)>| {
        of.map(|(epoch, lsn, hash)| json!({"epoch": epoch, "lsn": lsn, "hash": format!("{hash:032x}")}))
    };
    json!({
        "page": mismatch.page.to_string(),
        "by_log": side(&mismatch.by_log),
        "found": side(&mismatch.found),
    })
}

fn report_json(report: &Report) -> Value {
    let checks: Vec<Value> = report
        .checkpoints
        .iter()
        .map(|check| {
            json!({
                "file": name_of(&check.info.path),
                "end_lsn": check.info.end_lsn,
                "compared": check.compared,
                "pages": check.pages,
                "damage": check.damage.as_ref().map(ToString::to_string),
                "different": check.different.iter().map(mismatch_json).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "from_lsn": report.from_lsn,
        "end_lsn": report.end_lsn,
        "records": report.records,
        "hash": format!("{:032x}", report.hash),
        "checkpoints": checks,
        "error": report.error.as_ref().map(ToString::to_string),
    })
}
