//! `mmsb read`: the content of a page.

use mmsb::{PageError, PageVersion};
use serde_json::json;

use super::Context;
use super::exit::{Code, Failure};
use super::info::{format_for, schema_of};
use super::value::{self, Format};

const EXAMPLES: &str = "\
Reads as an observer: the bus is mapped read-only, and nobody is disturbed. The whole page is one version of it.

Formats: hex, text, raw (the bytes themselves), fields (by the page's schema), or an element type: u8 to u64, i8 to i64,
f32, f64, bool, char. Without --as, what suits the schema, else hex.

Examples:
  mmsb read prices nyse/ibm
  mmsb read prices nyse/ibm --field price
  mmsb read prices arm --as f64 --offset 16 --len 64
  mmsb read prices blob --as raw > blob.bin";

/// Arguments of `mmsb read`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The bus
    pub bus: String,
    /// The page
    pub page: String,
    /// How to show it
    #[arg(long = "as", value_name = "FORMAT")]
    pub format: Option<Format>,
    /// First byte
    #[arg(long, value_name = "BYTES", value_parser = super::units::size, default_value = "0")]
    pub offset: u64,
    /// How many bytes [default: to the end]
    #[arg(long, value_name = "BYTES", value_parser = super::units::size)]
    pub len: Option<u64>,
    /// Only this field, or element of a field.
    #[arg(long, conflicts_with_all = ["format", "offset", "len"],
          help = "Only this field, or element of a field: price, bids[2]")]
    pub field: Option<String>,
}

/// Runs it.
///
/// # Errors
///
/// That the page does not exist, or why it could not be read or shown.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let observer = context.bus(&args.bus).observe()?;
    let page = observer.page(&args.page)?;
    let info = page.info()?;
    let schema = schema_of(&info);
    let mut bytes = vec![0; info.size as usize];
    let version = match page.read_into(&mut bytes) {
        Ok(version) => version,
        // A writer without pause, or one that stands still: a participant gets through, and repairs the dead.
        Err(mmsb::Error::Page(PageError::Contended(_) | PageError::Stalled { .. })) => {
            let bus = context.bus(&args.bus).attach()?;
            bus.page(&args.page)?.read_into(&mut bytes)?
        }
        Err(e) => return Err(e.into()),
    };
    if let Some(path) = &args.field {
        let schema = schema.ok_or(value::ValueError::NoFields)?;
        let field = value::select(&schema, path)?;
        let found = schema
            .read_value(&field, &bytes)
            .map_err(value::ValueError::from)?;
        if context.json {
            let mut document = head(args, &info.id.to_string(), version);
            document["field"] = json!(path);
            document["value"] = value::value_json(&found);
            context.document(&document)?;
        } else {
            context.line(value::shown(&found))?;
        }
        return Ok(Code::Ok);
    }
    let format = format_for(args.format, schema.as_ref());
    let start = usize::try_from(args.offset).unwrap_or(usize::MAX);
    let end = match args.len {
        Some(len) => start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)),
        None => bytes.len().max(start),
    };
    let shown = bytes
        .get(start..end)
        .ok_or(value::ValueError::OutsidePage {
            end,
            len: bytes.len(),
        })?;
    if format == Format::Fields && (start, end) != (0, bytes.len()) {
        return Err(Failure::usage(
            "fields are read from whole pages: leave out --offset and --len, or use --field",
        ));
    }
    if context.json {
        let mut document = head(args, &info.id.to_string(), version);
        document["offset"] = json!(start);
        document["len"] = json!(shown.len());
        document["format"] = json!(format.to_string());
        document["value"] = value::to_json(format, schema.as_ref(), shown)?;
        context.document(&document)?;
    } else {
        value::print(
            &mut context.out,
            format,
            schema.as_ref(),
            start,
            shown,
            context.style,
        )?;
    }
    Ok(Code::Ok)
}

fn head(args: &Args, id: &str, version: PageVersion) -> serde_json::Value {
    json!({
        "page": args.page,
        "id": id,
        "epoch": version.epoch,
        "lsn": version.lsn,
    })
}
