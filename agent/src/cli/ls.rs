//! `mmsb ls`: the buses, or the pages of one.

use serde_json::{Value, json};

use super::Context;
use super::exit::{Code, Failure};
use super::info::{age, bus_json, page_json, schema_of};
use super::table::{Align, Table, bytes, count};

const EXAMPLES: &str = "\
Examples:
  mmsb ls
  mmsb ls prices
  mmsb ls prices nyse/
  mmsb ls prices --all --json";

/// Arguments of `mmsb ls`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The bus whose pages to list
    pub bus: Option<String>,
    /// Only pages whose name starts so
    #[arg(default_value = "", conflicts_with = "all", hide_default_value = true)]
    pub prefix: String,
    /// Pages without a name, too
    #[arg(long, short, requires = "bus")]
    pub all: bool,
}

/// Runs it.
///
/// # Errors
///
/// Why the directory or the bus could not be read. A bus that cannot be looked at is listed with the reason.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    match &args.bus {
        Some(bus) => pages(bus, args, context),
        None => buses(context),
    }
}

fn buses(context: &mut Context) -> Result<Code, Failure> {
    let names = mmsb::Bus::list_in(&context.dir)?;
    let mut table = Table::new(&[
        ("bus", Align::Left),
        ("pages", Align::Right),
        ("memory", Align::Right),
        ("ring", Align::Right),
        ("created", Align::Left),
        ("state", Align::Left),
    ]);
    let mut documents: Vec<Value> = Vec::new();
    for name in names {
        let seen = context.bus(&name).observe().and_then(|observer| {
            let info = observer.info()?;
            let pages = observer.all_pages()?.len() as u64;
            Ok((info, pages))
        });
        match seen {
            Ok((info, pages)) => {
                table.row([
                    name.as_str(),
                    &count(pages),
                    &bytes(info.pages_blocks_bytes),
                    &bytes(info.ring_bytes),
                    &age(info.created_ns),
                    "ok",
                ]);
                documents.push(
                    json!({"name": name, "state": "ok", "pages": pages, "bus": bus_json(&info)}),
                );
            }
            Err(error) => {
                let failure = Failure::from(error);
                table.row([name.as_str(), "", "", "", "", &failure.message]);
                documents.push(json!({
                    "name": name, "state": failure.code.name(), "message": failure.message,
                }));
            }
        }
    }
    if context.json {
        context.document(&documents.into())?;
    } else if table.is_empty() {
        context.line(format!("no buses in {}", context.dir.display()))?;
    } else {
        context.table(&table)?;
    }
    Ok(Code::Ok)
}

fn pages(bus: &str, args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let observer = context.bus(bus).observe()?;
    let pages = if args.all {
        observer.all_pages()?
    } else {
        observer.pages(&args.prefix)?
    };
    if context.json {
        let value: Vec<Value> = pages.iter().map(page_json).collect();
        context.document(&value.into())?;
        return Ok(Code::Ok);
    }
    let mut table = Table::new(&[
        ("page", Align::Left),
        ("id", Align::Left),
        ("size", Align::Right),
        ("versions", Align::Right),
        ("epoch", Align::Right),
        ("lsn", Align::Right),
        ("schema", Align::Left),
    ]);
    for page in &pages {
        let schema = schema_of(page).map_or(String::new(), |schema| schema.to_string());
        table.row([
            page.cold.name.as_str(),
            &page.id.to_string(),
            &bytes(page.size.into()),
            &page.versions.to_string(),
            &count(page.epoch),
            &page.lsn.to_string(),
            &schema,
        ]);
    }
    if table.is_empty() {
        context.line(format!("no such pages on {bus}"))?;
    } else {
        context.table(&table)?;
    }
    Ok(Code::Ok)
}
