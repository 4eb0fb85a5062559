//! `mmsb log list`: the files of a log.

use std::path::Path;

use mmsb::checkpoint;
use mmsb::tlog::{self, Survey};
use serde_json::{Value, json};

use super::super::Context;
use super::super::exit::{Code, Failure};
use super::super::moments;
use super::super::table::{self, Align, Table};
use super::Where;

const EXAMPLES: &str = "\
The files of the log, oldest first, with the LSNs that they hold, and the checkpoints. A log that ends in torn writes of
a crash, or in damage, says so; `mmsb verify` looks at all of it.

Examples:
  mmsb log list /var/lib/mmsb/prices
  mmsb log list prices --json";

/// Arguments of `mmsb log list`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Which log
    #[command(flatten)]
    pub log: Where,
}

/// Runs it.
///
/// # Errors
///
/// That there is no log, or what reading it gave.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let dir = args.log.dir()?;
    let survey = tlog::survey(&dir)?;
    let checkpoints = checkpoint::list_all(&dir)?;
    if survey.files.is_empty() && checkpoints.is_empty() {
        return Err(mmsb::history::HistoryError::NoLog { dir }.into());
    }
    if context.json {
        let checkpoints: Vec<Value> = checkpoints.iter().map(checkpoint_json).collect();
        let mut document = survey_json(&survey);
        document["dir"] = json!(dir.display().to_string());
        document["checkpoints"] = json!(checkpoints);
        context.document(&document)?;
        return Ok(Code::Ok);
    }
    if let Some(meta) = &survey.meta {
        context.line(format!(
            "log of bus {}, {}, LSN {} to {}, incarnation {}, {} on disk",
            table::escaped(&meta.bus),
            log_id(meta.log_id),
            survey.first_lsn,
            survey.end.lsn,
            meta.incarnation,
            table::bytes(survey.bytes()),
        ))?;
    }
    context.line("")?;
    let mut files = Table::new(&[
        ("file", Align::Left),
        ("first lsn", Align::Right),
        ("end lsn", Align::Right),
        ("bytes", Align::Right),
        ("incarnation", Align::Right),
        ("state", Align::Left),
    ]);
    for (i, file) in survey.files.iter().enumerate() {
        let is_last = i + 1 == survey.files.len();
        files.row([
            name_of(&file.path),
            file.first_lsn.to_string(),
            file.end_lsn.to_string(),
            table::bytes(file.bytes),
            file.incarnation.to_string(),
            state_of(&survey, is_last, file.compressed).to_owned(),
        ]);
    }
    context.table(&files)?;
    context.line("")?;
    let mut table = Table::new(&[
        ("checkpoint", Align::Left),
        ("serves from", Align::Right),
        ("time", Align::Left),
        ("pages", Align::Right),
        ("bytes", Align::Right),
        ("incarnation", Align::Right),
    ]);
    let mut unreadable = Vec::new();
    for found in &checkpoints {
        match found {
            Ok(info) => table.row([
                name_of(&info.path),
                info.end_lsn.to_string(),
                moments::shown(info.time_ns),
                info.pages.to_string(),
                table::bytes(info.file_bytes),
                info.incarnation.to_string(),
            ]),
            Err(e) => unreadable.push(e.to_string()),
        }
    }
    if table.is_empty() {
        context.line("no checkpoints")?;
    } else {
        context.table(&table)?;
    }
    for text in unreadable.into_iter().chain(remarks(&survey)) {
        context.line(table::escaped(&text))?;
    }
    Ok(Code::Ok)
}

fn state_of(survey: &Survey, is_last: bool, compressed: bool) -> &'static str {
    match (is_last, compressed) {
        (_, true) => "compressed",
        (false, _) => "complete",
        (true, _) if survey.fault.is_some() => "damaged",
        (true, _) if survey.end.torn.is_some() => "torn",
        (true, _) if survey.end.sealed => "sealed",
        (true, _) => "open",
    }
}

/// What there is to be said beside the tables.
pub fn remarks(survey: &Survey) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(fault) = &survey.fault {
        said.push(fault.to_string());
    }
    if let Some(torn) = &survey.end.torn {
        said.push(format!(
            "torn writes behind LSN {} ({} blocks), of which nobody was told that they are durable; the next supervisor \
             goes on there",
            torn.lsn, torn.dropped_blocks
        ));
    }
    for (what, files) in [
        ("given up by a later incarnation", &survey.given_up),
        ("left by a crash, harmless", &survey.leftovers),
        ("kept aside by a repair", &survey.kept_aside),
    ] {
        for file in files {
            said.push(format!("{what}: {}", name_of(file)));
        }
    }
    said
}

/// The last part of a path.
pub fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The id of a log as it is shown.
pub fn log_id(id: [u64; 2]) -> String {
    format!("{:016x}{:016x}", id[0], id[1])
}

fn names(paths: &[std::path::PathBuf]) -> Vec<String> {
    paths.iter().map(|path| name_of(path)).collect()
}

/// Incarnations that went on where another one ended, and the LSNs where they began, oldest first.
pub fn forks_of(survey: &Survey) -> Vec<(u64, u64)> {
    let Some(meta) = &survey.meta else {
        return Vec::new();
    };
    let mut forks: Vec<(u64, u64)> = meta.forks.iter().map(|f| (f.incarnation, f.lsn)).collect();
    if meta.fork_lsn > 0 {
        forks.push((meta.incarnation, meta.fork_lsn));
    }
    // The first incarnation began with the bus, and where no other one ended.
    forks.retain(|(_, lsn)| *lsn > 0);
    forks.sort_unstable();
    forks.dedup();
    forks
}

/// What a survey found.
pub fn survey_json(survey: &Survey) -> Value {
    let files: Vec<Value> = survey
        .files
        .iter()
        .enumerate()
        .map(|(i, file)| {
            let is_last = i + 1 == survey.files.len();
            json!({
                "file": name_of(&file.path),
                "first_lsn": file.first_lsn,
                "end_lsn": file.end_lsn,
                "bytes": file.bytes,
                "incarnation": file.incarnation,
                "compressed": file.compressed,
                // Nobody writes it any more.
                "sealed": !is_last || survey.end.sealed,
                "state": state_of(survey, is_last, file.compressed),
            })
        })
        .collect();
    let meta = survey.meta.as_ref();
    let forks: Vec<Value> = forks_of(survey)
        .into_iter()
        .map(|(incarnation, lsn)| json!({"incarnation": incarnation, "lsn": lsn}))
        .collect();
    json!({
        "bus": meta.map(|meta| &meta.bus),
        "log_id": meta.map(|meta| log_id(meta.log_id)),
        "incarnation": meta.map(|meta| meta.incarnation),
        "created_ns": meta.map(|meta| meta.created_ns),
        "ring_slots": meta.map(|meta| meta.ring_slots),
        "forks": forks,
        "first_lsn": survey.first_lsn,
        "end_lsn": survey.end.lsn,
        "sealed": survey.end.sealed,
        "torn": survey.end.torn.as_ref().map(|torn| json!({
            "file": name_of(&torn.file), "offset": torn.offset, "lsn": torn.lsn, "blocks": torn.dropped_blocks,
        })),
        "fault": survey.fault.as_ref().map(ToString::to_string),
        "bytes": survey.bytes(),
        "files": files,
        "given_up": names(&survey.given_up),
        "leftovers": names(&survey.leftovers),
        "kept_aside": names(&survey.kept_aside),
    })
}

/// A checkpoint, or why it cannot be read.
pub fn checkpoint_json(
    found: &Result<checkpoint::CheckpointInfo, checkpoint::CheckpointError>,
) -> Value {
    match found {
        Ok(info) => json!({
            "file": name_of(&info.path),
            "begin_lsn": info.begin_lsn,
            "end_lsn": info.end_lsn,
            "time": moments::shown(info.time_ns),
            "time_ns": info.time_ns,
            "pages": info.pages,
            "page_bytes": info.page_bytes,
            "bytes": info.file_bytes,
            "incarnation": info.incarnation,
        }),
        Err(e) => json!({"error": e.to_string()}),
    }
}
