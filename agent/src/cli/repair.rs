//! `mmsb repair`: cuts a damaged log where the damage begins.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use mmsb::checkpoint;
use mmsb::tlog::{self, Block, LogError, LogReader, OpenOptions, Repaired};
use serde_json::{Value, json};

use super::exit::{Code, Failure};
use super::log::name_of;
use super::{Context, moments, table};

const EXAMPLES: &str = "\
Without --yes it shows what is damaged and what would be lost, and asks, if somebody is there to answer; otherwise it
exits with 1. Deltas behind the damage are lost, also those that were called durable, so restore the file from a copy if
there is one. What is cut off stays beside the log, as <file>.damaged-<offset>. A torn end is no damage and needs no
repair.

The supervisor must not run meanwhile, and a bus whose segments are alive has more than the log then: see
docs/operating.md.

Examples:
  mmsb repair --log /var/lib/mmsb/prices
  mmsb repair --log /var/lib/mmsb/prices --yes --json";

/// Arguments of `mmsb repair`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Directory of the log
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// Do it without asking
    #[arg(long, short)]
    pub yes: bool,
}

/// Damage, and what goes with it.
struct Damage {
    file: PathBuf,
    offset: u64,
    lsn: u64,
    what: &'static str,
    /// LSN behind what is lost, as far as the files tell.
    lost_end: u64,
    /// Bytes that are kept aside.
    bytes: u64,
    /// Files behind it, which go as a whole.
    files: Vec<String>,
    /// Checkpoints that hold records behind it, and are of no use then.
    checkpoints: Vec<String>,
}

/// Runs it.
///
/// # Errors
///
/// That there is no log, that a supervisor runs, or what the disk said.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let dir = moments::log_dir(Some(&args.log), None)?;
    if tlog_files(&dir)? == 0 {
        return Err(mmsb::history::HistoryError::NoLog { dir }.into());
    }
    let Some(damage) = look(&dir)? else {
        if context.json {
            context.document(&json!({"damaged": false, "repaired": false}))?;
        } else {
            context.line("the log is not damaged; nothing to repair")?;
        }
        return Ok(Code::Ok);
    };
    if !args.yes {
        if context.json {
            let mut document = damage_json(&damage);
            document["repaired"] = json!(false);
            context.document(&document)?;
            return Ok(Code::Problem);
        }
        tell(&damage, context)?;
        if !asked(context)? {
            context.line("nothing was changed; --yes cuts the log there")?;
            return Ok(Code::Problem);
        }
    } else if !context.json {
        tell(&damage, context)?;
    }
    let mut repaired = tlog::repair(&dir)?;
    if let Some(meta) = tlog::survey(&dir)?.meta {
        // They prove that more was durable than there is now: nobody could rebuild the bus beside them.
        let aside = checkpoint::set_aside_beyond(&dir, &meta, repaired.end_lsn)?;
        repaired.kept_aside.extend(aside);
    }
    if context.json {
        let mut document = damage_json(&damage);
        document["repaired"] = json!(true);
        document["cuts"] = cuts_json(&repaired);
        document["end_lsn"] = json!(repaired.end_lsn);
        let aside: Vec<String> = repaired.kept_aside.iter().map(|f| name_of(f)).collect();
        document["kept_aside"] = json!(aside);
        context.document(&document)?;
        return Ok(Code::Ok);
    }
    for cut in &repaired.cuts {
        context.line(format!(
            "cut {} at byte {}: LSN {} to {} are lost",
            name_of(&cut.file),
            cut.offset,
            cut.lsn,
            cut.lost_end
        ))?;
    }
    for file in &repaired.kept_aside {
        context.line(format!("kept aside: {}", name_of(file)))?;
    }
    context.line(format!("the log ends at LSN {} now", repaired.end_lsn))?;
    Ok(Code::Ok)
}

fn tlog_files(dir: &Path) -> Result<usize, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(
            super::exit::io_code(&e),
            format!("cannot read {}: {e}", dir.display()),
        )
    };
    let mut count = 0;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        count += usize::from(tlog::format::parse_name(&name.to_string_lossy()).is_some());
    }
    Ok(count)
}

/// The first damage there is.
fn look(dir: &Path) -> Result<Option<Damage>, Failure> {
    let (file, lsn, offset, what) = match read_all(dir) {
        Ok(()) => return Ok(None),
        Err(LogError::Damaged {
            file,
            lsn,
            offset,
            what,
        }) => (file, lsn, offset, what),
        Err(e) => return Err(e.into()),
    };
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |about| about.len());
    let mut bytes = size(&file).saturating_sub(offset);
    let mut files = Vec::new();
    let mut lost_end = lsn;
    let failed = |e| {
        Failure::from(LogError::Io {
            what: "list",
            path: dir.to_owned(),
            source: e,
        })
    };
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = name_of(&path);
        if let Some((first_lsn, _, _)) = tlog::format::parse_name(&name)
            && name > name_of(&file)
        {
            lost_end = lost_end.max(first_lsn);
            bytes += size(&path);
            files.push(name);
        }
    }
    files.sort();
    if let Ok(survey) = tlog::survey(dir) {
        lost_end = lost_end.max(survey.end.lsn);
    }
    let checkpoints = checkpoint::list(dir)?
        .into_iter()
        .filter(|info| info.end_lsn > lsn)
        .map(|info| name_of(&info.path))
        .collect();
    Ok(Some(Damage {
        file,
        offset,
        lsn,
        what,
        lost_end,
        bytes,
        files,
        checkpoints,
    }))
}

fn read_all(dir: &Path) -> Result<(), LogError> {
    // Records ahead of the end of a checkpoint were durable once.
    let known = tlog::survey(dir).ok().and_then(|survey| survey.meta);
    let checkpoints = checkpoint::of_log(dir, known.as_ref()).unwrap_or_default();
    let options = OpenOptions {
        durable_at_least: checkpoints.iter().map(|c| c.end_lsn).max().unwrap_or(0),
        ..OpenOptions::default()
    };
    let mut reader = LogReader::open(dir, options)?;
    let mut block = Block::default();
    while reader.next_into(&mut block)? {}
    Ok(())
}

fn tell(damage: &Damage, context: &mut Context) -> Result<(), Failure> {
    context.line(format!(
        "{} is damaged at byte {}: {}",
        damage.file.display(),
        damage.offset,
        damage.what
    ))?;
    let end = match damage.lost_end > damage.lsn {
        true => format!("LSN {} to at least {}", damage.lsn, damage.lost_end),
        false => format!("everything from LSN {} on", damage.lsn),
    };
    context.line(format!(
        "lost by a cut there: {end}, {} of files (kept aside)",
        table::bytes(damage.bytes)
    ))?;
    for file in &damage.files {
        context.line(format!("  with it goes {file}"))?;
    }
    for name in &damage.checkpoints {
        context.line(format!(
            "  checkpoint {name} holds what is lost, and is of no use then"
        ))?;
    }
    Ok(())
}

/// Asks whether to go on. Nobody there to answer: no.
fn asked(context: &mut Context) -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(false);
    }
    write!(context.out, "Cut the log there? [y/N] ")?;
    context.out.flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn damage_json(damage: &Damage) -> Value {
    json!({
        "damaged": true,
        "file": name_of(&damage.file),
        "offset": damage.offset,
        "lsn": damage.lsn,
        "what": damage.what,
        "lost_end_at_least": damage.lost_end,
        "bytes": damage.bytes,
        "files": damage.files,
        "checkpoints": damage.checkpoints,
    })
}

fn cuts_json(repaired: &Repaired) -> Value {
    repaired
        .cuts
        .iter()
        .map(|cut| {
            json!({
                "file": name_of(&cut.file), "offset": cut.offset, "lsn": cut.lsn,
                "lost_end": cut.lost_end, "what": cut.what,
            })
        })
        .collect()
}
