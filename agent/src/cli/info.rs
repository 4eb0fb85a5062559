//! `mmsb info`: everything about a bus or a page.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mmsb::schema::Schema;
use mmsb::{BusInfo, Inspection, LogState, LogStatus, PageInfo, Stats};
use serde::Serialize;
use serde_json::{Value, json};

use super::exit::{Code, Failure};
use super::table::{Align, Table, bytes, count, duration};
use super::{Context, value};

const EXAMPLES: &str = "\
Page memory comes in size classes and stays in its class: space that small pages gave back is not used for large ones.

Examples:
  mmsb info prices
  mmsb info prices nyse/ibm
  mmsb info prices --json | jq .bus.pages_blocks_bytes";

/// Arguments of `mmsb info`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The bus
    pub bus: String,
    /// A page of it
    pub page: Option<String>,
}

/// Runs it.
///
/// # Errors
///
/// Why the bus could not be looked at, or that the page does not exist.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    match &args.page {
        Some(page) => page_info(&args.bus, page, context),
        None => bus_info(&args.bus, context),
    }
}

/// What is shown of a bus.
struct Seen {
    info: BusInfo,
    pages: u64,
    names: u64,
    /// Living participants and subscriptions; `None` for who may only observe.
    attached: Option<(usize, usize)>,
    classes: Vec<Class>,
    floor_lsn: u64,
    end_lsn: u64,
    log: Option<LogStatus>,
}

/// Use of one size class of page memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Class {
    /// Payload bytes of a block.
    pub payload: u64,
    /// Slabs of 2 MiB.
    pub slabs: u32,
    /// Blocks in them.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Blocks that wait to be free.
    pub pending: u64,
}

impl Seen {
    /// As a participant would see it, or else as an observer does.
    fn of(bus: &str, context: &Context) -> Result<Seen, Failure> {
        match Inspection::of(&context.dir, bus) {
            Ok(Inspection { info, stats, .. }) => Ok(Seen {
                pages: stats.pages,
                names: stats.names,
                attached: Some((
                    stats.participants.iter().filter(|p| p.alive).count(),
                    stats.cursors.len(),
                )),
                classes: classes_of(&stats),
                floor_lsn: stats.floor_lsn,
                end_lsn: stats.end_lsn,
                // Somebody may have removed it meanwhile; then there is nothing to say of its log.
                log: context.bus(bus).observe().ok().map(|o| o.log_status()),
                info,
            }),
            Err(error) => {
                let failure = Failure::from(error);
                if failure.code != Code::Permission {
                    return Err(failure);
                }
                let observer = context.bus(bus).observe()?;
                let ring = observer.ring();
                let class_use = observer.shared().class_use();
                Ok(Seen {
                    info: observer.info()?,
                    pages: observer.all_pages()?.len() as u64,
                    names: observer.pages("")?.len() as u64,
                    attached: None,
                    classes: class_use
                        .into_iter()
                        .map(|class| Class {
                            payload: class.payload,
                            slabs: class.slabs,
                            blocks: class.blocks,
                            free: class.free,
                            pending: class.pending,
                        })
                        .collect(),
                    floor_lsn: ring.floor,
                    end_lsn: ring.end,
                    log: Some(observer.log_status()),
                })
            }
        }
    }
}

fn bus_info(bus: &str, context: &mut Context) -> Result<Code, Failure> {
    let seen = Seen::of(bus, context)?;
    if context.json {
        let value = json!({
            "bus": bus_json(&seen.info),
            "pages": seen.pages,
            "names": seen.names,
            "participants": seen.attached.map(|(participants, _)| participants),
            "subscriptions": seen.attached.map(|(_, subscriptions)| subscriptions),
            "classes": seen.classes,
            "end_lsn": seen.end_lsn,
            "floor_lsn": seen.floor_lsn,
            "log": seen.log.as_ref().map(log_json),
        });
        context.document(&value)?;
        return Ok(Code::Ok);
    }
    for (name, text) in lines(&seen) {
        context.line(format!("{name:<13} {text}"))?;
    }
    if !seen.classes.is_empty() {
        context.line("")?;
        context.table(&classes_table(&seen.classes))?;
        context.line("Memory stays in its class until a whole slab of 2 MiB is empty.")?;
    }
    Ok(Code::Ok)
}

fn lines(seen: &Seen) -> Vec<(&'static str, String)> {
    let info = &seen.info;
    let mut lines = vec![
        ("bus", format!("{} in {}", info.name, info.dir.display())),
        (
            "id",
            format!("{}, incarnation {}", info.id, info.incarnation),
        ),
        ("created", age(info.created_ns)),
        (
            "pages",
            format!(
                "{} of {}, {} of {} names",
                count(seen.pages),
                count(info.pages_max.into()),
                count(seen.names),
                count(info.names_max.into())
            ),
        ),
        (
            "size",
            format!("{} of {}", bytes(info.len_bytes), bytes(info.bytes_max)),
        ),
        (
            "memory",
            format!(
                "{} pages, {} control (st_blocks)",
                bytes(info.pages_blocks_bytes),
                bytes(info.ctl_blocks_bytes)
            ),
        ),
        (
            "ring",
            format!(
                "{}, {} slots of 64 B; LSN {} to {}",
                bytes(info.ring_bytes),
                count(info.ring_slots.into()),
                seen.floor_lsn,
                seen.end_lsn
            ),
        ),
        (
            "mode",
            format!(
                "{:04o} pages, {:04o} control; uid {}, gid {}",
                info.mode, info.ctl_mode, info.uid, info.gid
            ),
        ),
    ];
    lines.extend(seen.log.as_ref().map(|log| ("log", log_text(log))));
    if let Some((participants, subscriptions)) = seen.attached {
        lines.push((
            "participants",
            format!("{participants} of {}", info.participants_max),
        ));
        lines.push((
            "subscriptions",
            format!("{subscriptions} of {}", info.cursors_max),
        ));
    }
    lines
}

/// Page memory by size class.
pub fn classes_of(stats: &Stats) -> Vec<Class> {
    let classes = stats.classes.iter().map(|class| Class {
        payload: class.payload,
        slabs: class.slabs,
        blocks: class.blocks,
        free: class.free,
        pending: class.pending,
    });
    classes.collect()
}

/// Page memory by size class, as a table.
pub fn classes_table(classes: &[Class]) -> Table {
    let mut table = Table::new(&[
        ("class", Align::Right),
        ("slabs", Align::Right),
        ("memory", Align::Right),
        ("blocks", Align::Right),
        ("used", Align::Right),
        ("free", Align::Right),
        ("pending", Align::Right),
    ]);
    for class in classes {
        table.row([
            bytes(class.payload),
            class.slabs.to_string(),
            bytes(u64::from(class.slabs) << 21),
            count(class.blocks),
            count(class.blocks.saturating_sub(class.free + class.pending)),
            count(class.free),
            count(class.pending),
        ]);
    }
    table
}

fn page_info(bus: &str, page: &str, context: &mut Context) -> Result<Code, Failure> {
    let observer = context.bus(bus).observe()?;
    let info = observer.page(page)?.info()?;
    let schema = schema_of(&info);
    if context.json {
        let mut value = page_json(&info);
        let fields = schema.as_ref().map(|schema| {
            let fields = schema.fields().iter().map(|field| {
                json!({
                    "name": field.name, "offset": field.offset,
                    "type": field.scalar.name(), "count": field.count,
                })
            });
            fields.collect::<Vec<_>>()
        });
        value["fields"] = json!(fields);
        value["meta"] = info
            .cold
            .meta
            .iter()
            .map(|(key, value)| (key.clone(), Value::from(value.clone())))
            .collect::<serde_json::Map<_, _>>()
            .into();
        context.document(&value)?;
        return Ok(Code::Ok);
    }
    let versions = match info.versions {
        1 => String::new(),
        n => format!(", {n} version slots"),
    };
    let loaned = if info.loaned {
        ", content is a loaned block"
    } else {
        ""
    };
    context.line(format!("{:<13} {}", "page", info.cold.name))?;
    context.line(format!("{:<13} {}", "id", info.id))?;
    context.line(format!(
        "{:<13} {}{versions}{loaned}",
        "size",
        bytes(info.size.into())
    ))?;
    context.line(format!(
        "{:<13} epoch {}, last delta at LSN {}",
        "version",
        count(info.epoch),
        info.lsn
    ))?;
    for (key, text) in &info.cold.meta {
        let text = format!("{key}={text}");
        context.line(format!("{:<13} {}", "meta", super::table::escaped(&text)))?;
    }
    let Some(schema) = schema else {
        return context
            .line(format!("{:<13} none", "schema"))
            .map(|()| Code::Ok);
    };
    context.line(format!("{:<13} {schema}", "schema"))?;
    if !schema.fields().is_empty() {
        let mut table = Table::new(&[
            ("field", Align::Left),
            ("type", Align::Left),
            ("offset", Align::Right),
        ]);
        for field in schema.fields() {
            let described = match field.count {
                1 => field.scalar.name().to_owned(),
                n => format!("{}[{n}]", field.scalar),
            };
            table.row([&field.name, &described, &field.offset.to_string()]);
        }
        context.line("")?;
        context.table(&table)?;
    }
    Ok(Code::Ok)
}

/// The page's schema, if it has one that can be decoded.
pub fn schema_of(info: &PageInfo) -> Option<Schema> {
    if info.cold.schema.is_empty() {
        return None;
    }
    Schema::decode(&info.cold.schema).ok()
}

fn log_state(log: &LogStatus) -> String {
    match log.state {
        LogState::None => "none".to_owned(),
        LogState::Running => "running".to_owned(),
        LogState::Closed => "closed".to_owned(),
        LogState::Beginning => "beginning".to_owned(),
        LogState::Failed(_) => "failed".to_owned(),
    }
}

/// How the log is, for people.
fn log_text(log: &LogStatus) -> String {
    let state = match log.state {
        LogState::None => return "none: what is in it lasts until a reboot".to_owned(),
        LogState::Failed(errno) => format!(
            "failed: {}",
            std::io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(0))
        ),
        LogState::Running | LogState::Closed | LogState::Beginning => log_state(log),
    };
    let checkpoint = match log.checkpoint_lsn {
        0 => "no checkpoint".to_owned(),
        lsn => format!("checkpoint at LSN {lsn}, {}", age(log.checkpoint_ns)),
    };
    let lag = match log.lag() {
        0 => String::new(),
        lag => format!(" ({} slots behind)", count(lag)),
    };
    format!(
        "{state}; durable up to LSN {}{lag}; {checkpoint}",
        log.durable_lsn
    )
}

fn log_json(log: &LogStatus) -> Value {
    json!({
        "state": log_state(log),
        "errno": match log.state {
            LogState::Failed(errno) => Some(errno),
            _ => None,
        },
        "durable_lsn": log.durable_lsn,
        "from_lsn": log.from_lsn,
        "lag": log.lag(),
        "incarnation": log.incarnation,
        "fork_lsn": log.fork_lsn,
        "checkpoint_lsn": log.checkpoint_lsn,
        "checkpoint_ns": log.checkpoint_ns,
        "log_id": super::log::log_id(log.log_id),
    })
}

/// A bus for programs.
pub fn bus_json(info: &BusInfo) -> Value {
    // A struct of numbers and text; the path becomes text.
    serde_json::to_value(info).unwrap_or(Value::Null)
}

/// A page for programs.
pub fn page_json(info: &PageInfo) -> Value {
    json!({
        "name": info.cold.name,
        "id": info.id.to_string(),
        "index": info.id.index,
        "generation": info.id.generation,
        "size": info.size,
        "versions": info.versions,
        "loaned": info.loaned,
        "epoch": info.epoch,
        "lsn": info.lsn,
        "schema": schema_of(info).map(|schema| schema.to_string()),
        "schema_hash": format!("{:016x}", info.cold.schema_hash),
    })
}

/// How long ago a moment was, for people.
pub fn age(realtime_ns: u64) -> String {
    let then = UNIX_EPOCH + Duration::from_nanos(realtime_ns);
    match SystemTime::now().duration_since(then) {
        Ok(age) => format!("{} ago", duration(age)),
        Err(_) => "in the future (did the clock change?)".to_owned(),
    }
}

/// The format that suits the page, unless one was asked for.
pub fn format_for(asked: Option<value::Format>, schema: Option<&Schema>) -> value::Format {
    asked.unwrap_or_else(|| value::Format::suited_to(schema))
}
