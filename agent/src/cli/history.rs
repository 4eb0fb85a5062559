//! `mmsb history`: who changed a page, when, and how.

use std::ops::Range;
use std::path::PathBuf;

use mmsb::Kind;
use mmsb::history::Change;
use mmsb::schema::Schema;
use serde_json::{Value, json};

use super::Context;
use super::exit::{Code, Failure};
use super::moments::{self, Moment};
use super::table::escaped;
use super::watch::changes::{Changes, hex_digits};
use super::watch::kind_name;

const EXAMPLES: &str = "\
Every delta that wrote bytes of the page, or of a range of it, oldest first: LSN, time, source, kind, and the bytes ahead
of it and behind it, by the page's schema, else in hex. A page that is gone is found by its last name, or by its id.

Examples:
  mmsb history --log /var/lib/mmsb/prices nyse/ibm
  mmsb history --log /var/lib/mmsb/prices nyse/ibm --range 0..8 --from -5m
  mmsb history --log /var/lib/mmsb/prices nyse/ibm --field price --json
  mmsb history --log /var/lib/mmsb/prices 3.1 --to 1_000_000";

/// Arguments of `mmsb history`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("{}\n\n{EXAMPLES}", moments::MOMENTS))]
pub struct Args {
    /// Directory of the log
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The page: a name, or an id such as 3.1
    pub page: String,
    /// Only bytes FROM..TO of the page
    #[arg(long, value_name = "FROM..TO", value_parser = range)]
    pub range: Option<Range<u32>>,
    /// Only this field of the page's schema
    #[arg(long, value_name = "FIELD", conflicts_with = "range")]
    pub field: Option<String>,
    /// From this moment on
    #[arg(long, value_name = "MOMENT", value_parser = moments::moment, allow_hyphen_values = true)]
    pub from: Option<Moment>,
    /// Up to this moment
    #[arg(long, value_name = "MOMENT", value_parser = moments::moment, allow_hyphen_values = true)]
    pub to: Option<Moment>,
}

/// Parses `FROM..TO`, in bytes; either may be left out.
///
/// # Errors
///
/// A sentence that says what a range looks like.
pub fn range(text: &str) -> Result<Range<u32>, String> {
    let bad = || format!("{text:?} is no range: write FROM..TO, such as 0..8, in bytes");
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    let number = |text: &str, default: u32| match text.trim() {
        "" => Ok(default),
        text => text.parse().map_err(|_| bad()),
    };
    let range = number(from, 0)?..number(to, u32::MAX)?;
    if range.start >= range.end {
        return Err(bad());
    }
    Ok(range)
}

/// Runs it.
///
/// # Errors
///
/// That there is no such page, or what is wrong with the log.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let log = moments::open(&args.log)?;
    let from = args.from.map_or(Ok(0), |m| m.first_lsn(&log))?;
    let to = args.to.map_or(Ok(u64::MAX), |m| m.end_lsn(&log))?;
    let end = to.min(log.bounds()?.end_lsn);
    let page = moments::page(&log, &args.page, to)?;
    // A page that is gone by then has the schema that it had last.
    let schema = match log.names_at(end)?.schema(page) {
        Some(schema) => Some(schema),
        None => last_schema(&log, page, end)?,
    };
    let schema = schema.and_then(|schema| Schema::decode(&schema).ok());
    let range = match (&args.range, &args.field) {
        (Some(range), _) => range.clone(),
        (None, Some(field)) => {
            let schema = schema.as_ref().ok_or(super::value::ValueError::NoFields)?;
            let field = super::value::select(schema, field)?;
            // Within a page, whose size is 32 bits wide.
            field.offset..field.end() as u32
        }
        (None, None) => 0..u32::MAX,
    };
    let changes = log.history(page, range.clone(), from..to)?;
    let decode = Changes::new(schema);
    if context.json {
        let list: Vec<Value> = changes.iter().map(|c| change_json(c, &decode)).collect();
        context.document(&json!({
            "page": args.page,
            "id": page.to_string(),
            "range": {"from": range.start, "to": range.end},
            "changes": list,
        }))?;
        return Ok(Code::Ok);
    }
    for change in &changes {
        let line = text(change, &decode);
        context.line(escaped(&line))?;
    }
    if changes.is_empty() {
        context.line("nothing was written there")?;
    }
    Ok(Code::Ok)
}

/// The schema that a page had at its last description ahead of `end`.
fn last_schema(
    log: &mmsb::history::Log,
    page: mmsb::PageId,
    end: u64,
) -> Result<Option<std::sync::Arc<[u8]>>, Failure> {
    let filter = mmsb::history::Filter {
        page: Some(page),
        kinds: vec![Kind::Create, Kind::Describe],
        ..mmsb::history::Filter::default()
    };
    let mut schema = None;
    for record in log.records(0, end, filter)? {
        schema = record?.schema;
    }
    Ok(schema)
}

fn source(change: &Change) -> String {
    match &change.source_name {
        Some(name) => name.to_string(),
        None => format!("#{}", change.source),
    }
}

fn text(change: &Change, decode: &Changes) -> String {
    let epoch = match change.epoch {
        Some(epoch) => format!("epoch {epoch}"),
        None => "epoch ?".to_owned(),
    };
    let mut line = format!(
        "{:>12}  {}  {epoch}  {}  {}",
        change.lsn,
        moments::shown(change.time_ns),
        source(change),
        kind_name(change.kind),
    );
    if change.cause != 0 {
        line = format!("{line} because of {}", change.cause);
    }
    for range in &change.ranges {
        let new = decode.text(&[(range.offset, range.new.clone())]);
        match &range.old {
            Some(old) => {
                let old = decode.text(&[(range.offset, old.clone())]);
                line = format!("{line}  {old} -> {new}");
            }
            None => line = format!("{line}  ? -> {new}"),
        }
    }
    line
}

fn change_json(change: &Change, decode: &Changes) -> Value {
    let ranges: Vec<Value> = change
        .ranges
        .iter()
        .map(|range| {
            let values = |bytes: &Vec<u8>| decode.json(&[(range.offset, bytes.clone())]);
            json!({
                "offset": range.offset,
                "len": range.new.len(),
                "old": range.old.as_deref().map(hex_digits),
                "new": hex_digits(&range.new),
                "old_values": range.old.as_ref().map(values),
                "new_values": values(&range.new),
            })
        })
        .collect();
    json!({
        "lsn": change.lsn,
        "time": moments::shown(change.time_ns),
        "time_ns": change.time_ns,
        "kind": kind_name(change.kind),
        "epoch": change.epoch,
        "source": change.source_name.as_deref(),
        "source_id": change.source,
        "cause": change.cause,
        "transaction": change.transaction,
        "ranges": ranges,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_from_and_to() {
        assert_eq!(range("0..8"), Ok(0..8));
        assert_eq!(range("4.."), Ok(4..u32::MAX));
        assert_eq!(range("..4"), Ok(0..4));
        for text in ["", "8", "8..8", "9..8", "a..b", "0..5000000000"] {
            assert!(range(text).is_err(), "{text}");
        }
    }
}
