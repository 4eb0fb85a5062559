//! `mmsb diff`: what changed between two moments.

use std::path::PathBuf;

use mmsb::history::{Diff, PageDiff, PageSummary};
use mmsb::schema::Schema;
use mmsb::state::State;
use serde_json::{Value, json};

use super::Context;
use super::exit::{Code, Failure};
use super::moments::{self, Moment};
use super::table::escaped;
use super::watch::changes::{Changes, hex_digits};

const EXAMPLES: &str = "\
Compares the states of the bus at two moments: pages that came, went, were described anew, or hold other bytes, by
their schemas, else in hex.

Examples:
  mmsb diff --log /var/lib/mmsb/prices 1_000_000 1_001_000
  mmsb diff --log /var/lib/mmsb/prices -- -5m now
  mmsb diff --log /var/lib/mmsb/prices 2026-11-21T14:00:00Z end --prefix nyse/ --json";

/// Arguments of `mmsb diff`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("{}\n\n{EXAMPLES}", moments::MOMENTS))]
pub struct Args {
    /// Directory of the log
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The one moment
    #[arg(value_name = "A", value_parser = moments::moment, allow_hyphen_values = true)]
    pub a: Moment,
    /// The other
    #[arg(value_name = "B", value_parser = moments::moment, allow_hyphen_values = true)]
    pub b: Moment,
    /// Only pages whose name starts so, at either moment
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
}

/// Runs it.
///
/// # Errors
///
/// That the log does not hold one of the states, or what is wrong with it.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let log = moments::open(&args.log)?;
    let from = log.state_at(args.a.at(&log)?)?;
    let to = log.state_at(args.b.at(&log)?)?;
    let mut diff = Diff::of(&from, &to);
    if let Some(prefix) = &args.prefix {
        let has = |side: &Option<PageSummary>| {
            side.as_ref()
                .is_some_and(|page| page.cold.name.starts_with(prefix))
        };
        diff.pages
            .retain(|page| has(&page.before) || has(&page.after));
    }
    if context.json {
        context.document(&diff_json(&diff, &from, &to))?;
        return Ok(Code::Ok);
    }
    context.line(format!(
        "from LSN {} to LSN {}: {} pages differ",
        diff.from_lsn,
        diff.to_lsn,
        diff.pages.len()
    ))?;
    for page in &diff.pages {
        for line in lines(page, &from, &to) {
            context.line(escaped(&line))?;
        }
    }
    Ok(Code::Ok)
}

/// Name of the page, its id if it has none.
pub(crate) fn title(page: &PageDiff) -> String {
    let summary = page.after.as_ref().or(page.before.as_ref());
    match summary.map_or("", |s| &s.cold.name) {
        "" => page.id.to_string(),
        name => name.to_owned(),
    }
}

fn change_of(page: &PageDiff) -> &'static str {
    match (&page.before, &page.after) {
        (None, _) => "created",
        (_, None) => "destroyed",
        _ if page.ranges.is_empty() => "described",
        _ => "changed",
    }
}

fn schema_of(side: Option<&PageSummary>) -> Option<Schema> {
    Schema::decode(&side?.cold.schema).ok()
}

/// A heading, and behind it what the bytes that differ were and are.
pub(crate) fn lines(page: &PageDiff, from: &State, to: &State) -> Vec<String> {
    let mut head = format!("{}: {}", title(page), change_of(page));
    if let (Some(before), Some(after)) = (&page.before, &page.after) {
        head = format!(
            "{head}, epoch {} to {}, LSN {} to {}",
            before.epoch, after.epoch, before.lsn, after.lsn
        );
    }
    let mut lines = vec![head];
    if let Some((old, new)) = page.renamed() {
        lines.push(format!("    was called {old:?}, is called {new:?}"));
    } else if page.is_redescribed() {
        lines.push("    has another schema or other metadata".to_owned());
    }
    for (old, new) in decoded(page, from, to, |changes, range| changes.text(&[range])) {
        lines.extend(old.map(|old| format!("  - {old}")));
        lines.push(format!("  + {new}"));
    }
    lines
}

/// What `f` makes of the bytes that differ, as they were, if the page was there, and as they are. Elements that differ
/// in a part are shown whole.
fn decoded<R>(
    page: &PageDiff,
    from: &State,
    to: &State,
    f: impl Fn(&Changes, (u32, Vec<u8>)) -> R,
) -> Vec<(Option<R>, R)> {
    let after = schema_of(page.after.as_ref());
    // Bytes that mean something else than before are shown by what each of them meant.
    let before = schema_of(page.before.as_ref()).or_else(|| after.clone());
    let (before, after) = (Changes::new(before), Changes::new(after));
    let cut: Vec<(u32, u32)> = page
        .ranges
        .iter()
        .map(|r| (r.offset, r.offset + r.new.len() as u32))
        .collect();
    let bytes_in = |state: &State, range: &(u32, u32)| {
        let bytes = state.page(page.id)?.bytes();
        let bytes = bytes.get(range.0 as usize..range.1 as usize)?;
        Some((range.0, bytes.to_vec()))
    };
    let ranges = after.whole_elements(&cut);
    ranges
        .iter()
        .filter_map(|range| {
            let old = bytes_in(from, range).map(|old| f(&before, old));
            Some((old, f(&after, bytes_in(to, range)?)))
        })
        .collect()
}

fn summary_json(side: Option<&PageSummary>) -> Value {
    let Some(page) = side else {
        return Value::Null;
    };
    let meta = page.cold.meta.iter().map(|(k, v)| (k.clone(), json!(v)));
    json!({
        "name": page.cold.name,
        "size": page.size,
        "versions": page.versions,
        "epoch": page.epoch,
        "lsn": page.lsn,
        "schema": schema_of(side).map(|schema| schema.to_string()),
        "meta": Value::Object(meta.collect()),
    })
}

fn diff_json(diff: &Diff, from: &State, to: &State) -> Value {
    let pages: Vec<Value> = diff
        .pages
        .iter()
        .map(|page| {
            let ranges: Vec<Value> = page
                .ranges
                .iter()
                .map(|r| {
                    json!({
                        "offset": r.offset, "len": r.new.len(),
                        "old": hex_digits(&r.old), "new": hex_digits(&r.new),
                    })
                })
                .collect();
            let has_schema = schema_of(page.after.as_ref()).is_some();
            let values: Vec<Value> = decoded(page, from, to, |changes, r| changes.json(&[r]))
                .into_iter()
                .filter(|_| has_schema)
                .map(|(old, new)| json!({"old": old, "new": new}))
                .collect();
            json!({
                "page": title(page),
                "id": page.id.to_string(),
                "change": change_of(page),
                "before": summary_json(page.before.as_ref()),
                "after": summary_json(page.after.as_ref()),
                "ranges": ranges,
                "values": has_schema.then_some(values),
            })
        })
        .collect();
    json!({"from_lsn": diff.from_lsn, "to_lsn": diff.to_lsn, "pages": pages})
}
