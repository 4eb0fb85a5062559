//! `mmsb stats`: counters, participants, subscriptions.

use mmsb::{Inspection, Stats};

use super::Context;
use super::doctor::system::own_pid_namespace;
use super::exit::{Code, Failure};
use super::info::{age, classes_of, classes_table};
use super::table::{Align, Table, bytes, count};

const EXAMPLES: &str = "\
Looks without taking part: dead participants are shown, not repaired. Lag is in ring slots of 64 bytes.

Examples:
  mmsb stats prices
  mmsb stats prices --json | jq '.participants[] | select(.alive | not)'
  watch -n1 mmsb stats prices";

/// Arguments of `mmsb stats`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The bus
    pub bus: String,
}

/// Runs it.
///
/// # Errors
///
/// Why the bus could not be looked at.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let Inspection { info, stats, .. } = Inspection::of(&context.dir, &args.bus)?;
    if context.json {
        let mut value =
            serde_json::to_value(&stats).map_err(|e| Failure::problem(e.to_string()))?;
        // A map is easier to ask than a list of pairs.
        value["counters"] = stats
            .counters
            .iter()
            .map(|(name, n)| ((*name).to_owned(), serde_json::Value::from(*n)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        value["bus"] = super::info::bus_json(&info);
        context.document(&value)?;
        return Ok(Code::Ok);
    }
    context.line(format!(
        "{}: {} pages, {} deltas of {}, LSN {} to {}",
        args.bus,
        count(stats.pages),
        count(stats.deltas),
        bytes(stats.bytes),
        stats.floor_lsn,
        stats.end_lsn
    ))?;
    context.line("")?;
    if stats.participants.is_empty() {
        context.line("no participants")?;
    } else {
        context.table(&participants(&stats))?;
    }
    if !stats.cursors.is_empty() {
        context.line("")?;
        context.table(&cursors(&stats))?;
    }
    if !stats.classes.is_empty() {
        context.line("")?;
        context.table(&classes_table(&classes_of(&stats)))?;
    }
    let mut counters = Table::new(&[("counter", Align::Left), ("value", Align::Right)]);
    let sums = [("waits", stats.waits), ("retries", stats.retries)];
    // Counted in the header only when a participant leaves; the sums are over all.
    let rare = stats
        .counters
        .iter()
        .filter(|(name, _)| !matches!(*name, "deltas" | "bytes" | "waits" | "retries"))
        .copied();
    for (name, n) in sums.into_iter().chain(rare).filter(|(_, n)| *n > 0) {
        counters.row([name, &count(n)]);
    }
    if !counters.is_empty() {
        context.line("")?;
        context.table(&counters)?;
    }
    Ok(Code::Ok)
}

fn participants(stats: &Stats) -> Table {
    let mut table = Table::new(&[
        ("participant", Align::Left),
        ("pid", Align::Right),
        ("state", Align::Left),
        ("joined", Align::Left),
        ("deltas", Align::Right),
        ("bytes", Align::Right),
        ("waits", Align::Right),
        ("retries", Align::Right),
        ("holds LSN", Align::Right),
    ]);
    let namespace = own_pid_namespace();
    for p in &stats.participants {
        let hold = match p.hold {
            0 => String::new(),
            lsn => lsn.to_string(),
        };
        // A number of another PID namespace is another process's here, or nobody's.
        let pid = if p.pid_namespace == namespace {
            p.pid.to_string()
        } else {
            format!("{} in {}", p.pid, p.pid_namespace)
        };
        table.row([
            p.name.as_str(),
            &pid,
            if p.alive { "alive" } else { "dead" },
            &age(p.joined_ns),
            &count(p.deltas),
            &bytes(p.bytes),
            &count(p.waits),
            &count(p.retries),
            &hold,
        ]);
    }
    table
}

fn cursors(stats: &Stats) -> Table {
    let mut table = Table::new(&[
        ("subscription", Align::Left),
        ("of", Align::Left),
        ("kind", Align::Left),
        ("position", Align::Right),
        ("lag", Align::Right),
        ("missed", Align::Right),
    ]);
    for cursor in &stats.cursors {
        let of = stats
            .participants
            .iter()
            .find(|p| p.index == cursor.participant)
            .map_or("", |p| p.name.as_str());
        table.row([
            format!("#{}", cursor.index).as_str(),
            of,
            if cursor.gating { "gating" } else { "lossy" },
            &cursor.position.to_string(),
            &count(cursor.lag),
            &count(cursor.missed),
        ]);
    }
    table
}
