//! `mmsb log stat`: what a log consists of.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use mmsb::history::Record;
use mmsb::{PageId, tlog};
use serde_json::{Value, json};

use super::super::exit::{Code, Failure};
use super::super::records::{about_page, page_name, source_name};
use super::super::table::{self, Align, Table};
use super::super::watch::kind_name;
use super::super::{Context, moments};
use super::list::{forks_of, survey_json};
use super::{Where, changes_bytes};
use crate::cli::records::Which;

const EXAMPLES: &str = "\
Reads the records asked for once, and counts them. Bytes are those that deltas wrote into pages; what the log takes on
disk is more by headers and less by compression.

Examples:
  mmsb log stat prices
  mmsb log stat prices --from -1h --prefix nyse/
  mmsb log stat --log /backup/prices --top 100 --json";

/// Arguments of `mmsb log stat`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Which log
    #[command(flatten)]
    pub log: Where,
    /// Which records
    #[command(flatten)]
    pub which: Which,
    /// So many pages at most, those with the most records first
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub top: usize,
}

/// What was counted of something.
#[derive(Clone, Debug, Default)]
struct Count {
    records: u64,
    deltas: u64,
    bytes: u64,
}

impl Count {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        if changes_bytes(record.delta.kind) {
            self.deltas += 1;
            let bytes = record.delta.ranges.iter().map(|(_, b)| b.len() as u64);
            self.bytes += bytes.sum::<u64>();
        }
    }

    fn per_delta(&self) -> f64 {
        if self.deltas == 0 {
            return 0.0;
        }
        self.bytes as f64 / self.deltas as f64
    }

    fn json(&self, name: &str) -> Value {
        json!({"name": name, "records": self.records, "bytes": self.bytes, "bytes_per_delta": self.per_delta()})
    }

    fn cells(&self, name: &str) -> [String; 4] {
        [
            name.to_owned(),
            table::count(self.records),
            table::bytes(self.bytes),
            format!("{:.1}", self.per_delta()),
        ]
    }
}

/// Runs it.
///
/// # Errors
///
/// That there is no log, or what is wrong with it.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let log = args.log.open()?;
    let (from, to, filter) = args.which.resolve(&log)?;
    let mut all = Count::default();
    let mut pages: HashMap<PageId, (String, Count)> = HashMap::new();
    let mut sources: BTreeMap<String, Count> = BTreeMap::new();
    let mut kinds: BTreeMap<&str, Count> = BTreeMap::new();
    let (mut groups, mut group_end, mut transactions) = (0u64, 0, 0u64);
    let mut times: Option<(u64, u64)> = None;
    let mut lsns: Option<(u64, u64)> = None;
    for record in log.records(from, to, filter)? {
        let record = record?;
        let delta = &record.delta;
        all.add(&record);
        if about_page(delta.kind) {
            let (name, count) = pages.entry(delta.page).or_default();
            // A page is called as it was last.
            *name = page_name(&record);
            count.add(&record);
        }
        sources
            .entry(source_name(&record))
            .or_default()
            .add(&record);
        kinds.entry(kind_name(delta.kind)).or_default().add(&record);
        if record.group_end != group_end {
            group_end = record.group_end;
            groups += 1;
            transactions += u64::from(delta.transaction);
        }
        let (first, _) = times.unwrap_or((delta.time_ns, 0));
        times = Some((first, delta.time_ns));
        let (first, _) = lsns.unwrap_or((delta.lsn, 0));
        lsns = Some((first, delta.lsn));
    }
    let (first_ns, last_ns) = times.unwrap_or_default();
    let span = Duration::from_nanos(last_ns.saturating_sub(first_ns));
    let per_second = |n: u64| match span.as_secs_f64() {
        s if s > 0.0 => Some(n as f64 / s),
        _ => None,
    };
    let page_count = pages.len();
    let mut pages: Vec<(PageId, String, Count)> =
        pages.into_iter().map(|(id, (n, c))| (id, n, c)).collect();
    pages.sort_by(|a, b| b.2.records.cmp(&a.2.records).then(a.0.cmp(&b.0)));
    pages.truncate(args.top);
    let survey = tlog::survey(log.dir())?;
    if context.json {
        let list = |counts: &BTreeMap<String, Count>| -> Vec<Value> {
            counts.iter().map(|(name, c)| c.json(name)).collect()
        };
        let pages: Vec<Value> = pages
            .iter()
            .map(|(id, name, count)| {
                let mut value = count.json(name);
                value["id"] = json!(id.to_string());
                value
            })
            .collect();
        let kinds: Vec<Value> = kinds.iter().map(|(name, c)| c.json(name)).collect();
        let mut survey = survey_json(&survey);
        let document = json!({
            "dir": log.dir().display().to_string(),
            "bus": survey["bus"].take(),
            "log_id": survey["log_id"].take(),
            "incarnation": survey["incarnation"].take(),
            "forks": survey["forks"].take(),
            "disk_bytes": survey["bytes"].take(),
            "first_lsn": lsns.map(|l| l.0),
            "last_lsn": lsns.map(|l| l.1),
            "first_time": times.map(|t| moments::shown(t.0)),
            "last_time": times.map(|t| moments::shown(t.1)),
            "seconds": span.as_secs_f64(),
            "records": all.records,
            "groups": groups,
            "transactions": transactions,
            "bytes": all.bytes,
            "bytes_per_delta": all.per_delta(),
            "records_per_second": per_second(all.records),
            "bytes_per_second": per_second(all.bytes),
            "page_count": page_count,
            "pages": pages,
            "sources": list(&sources),
            "kinds": kinds,
        });
        context.document(&document)?;
        return Ok(Code::Ok);
    }
    if let Some(meta) = &survey.meta {
        context.line(format!(
            "log of bus {}, incarnation {}, {} on disk",
            table::escaped(&meta.bus),
            meta.incarnation,
            table::bytes(survey.bytes()),
        ))?;
        for (incarnation, lsn) in forks_of(&survey) {
            context.line(format!("incarnation {incarnation} began at LSN {lsn}"))?;
        }
    }
    if let (Some(lsns), Some(times)) = (lsns, times) {
        context.line(format!(
            "LSN {} to {}, {} to {} ({})",
            lsns.0,
            lsns.1,
            moments::shown(times.0),
            moments::shown(times.1),
            table::duration(span),
        ))?;
    }
    let rate = |n| per_second(n).unwrap_or(f64::NAN);
    context.line(format!(
        "{} records in {} groups ({} transactions), {} of pages, {:.1} bytes per delta; {}, {}",
        table::count(all.records),
        table::count(groups),
        table::count(transactions),
        table::bytes(all.bytes),
        all.per_delta(),
        table::rate(rate(all.records)),
        table::byte_rate(rate(all.bytes)),
    ))?;
    let with = |name| {
        Table::new(&[
            (name, Align::Left),
            ("records", Align::Right),
            ("bytes", Align::Right),
            ("bytes/delta", Align::Right),
        ])
    };
    let mut by_kind = with("kind");
    for (name, count) in &kinds {
        by_kind.row(count.cells(name));
    }
    let mut by_source = with("source");
    for (name, count) in &sources {
        by_source.row(count.cells(name));
    }
    let mut by_page = with("page");
    for (_, name, count) in &pages {
        by_page.row(count.cells(name));
    }
    for table in [by_kind, by_source, by_page] {
        context.line("")?;
        context.table(&table)?;
    }
    if page_count > args.top {
        context.line(format!(
            "and {} more pages; --top shows them",
            page_count - args.top
        ))?;
    }
    Ok(Code::Ok)
}
