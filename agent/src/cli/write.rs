//! `mmsb write`: change the content of a page, by one delta.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::exit::{Code, Failure, io_code};
use super::info::{format_for, schema_of};
use super::value::{self, Format, Patch};
use super::{Context, units};

const EXAMPLES: &str = "\
All that one call writes is one delta: readers see all of it or nothing. The content is the argument, or a file with
--from, where - is standard input. With --as raw, the bytes of the file are written as they are.

Without --as, what suits the page's schema: fields, elements or text; hex for pages without one.

Examples:
  mmsb write prices nyse/ibm 'price=101.5,qty=300'
  mmsb write prices nyse/ibm --field price 101.75
  mmsb write prices arm --as f64 --offset 16 1.5,2.5
  mmsb write prices blob --as hex 'de ad be ef'
  mmsb write prices blob --as raw --from image.bin
  date | mmsb write prices now --as text --from -";

/// Arguments of `mmsb write`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The bus
    pub bus: String,
    /// The page
    pub page: String,
    /// What to write
    #[arg(
        required_unless_present = "from",
        conflicts_with = "from",
        allow_hyphen_values = true
    )]
    pub content: Option<String>,
    /// Take the content from this file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// How the content is written: hex, text, raw, fields or an element type
    #[arg(long = "as", value_name = "FORMAT")]
    pub format: Option<Format>,
    /// First byte to write
    #[arg(long, value_name = "BYTES", value_parser = units::size, default_value = "0")]
    pub offset: u64,
    /// Write this field, or element of a field.
    #[arg(long, conflicts_with_all = ["format", "offset"],
          help = "Write this field, or element of a field: price, bids[2]")]
    pub field: Option<String>,
    /// LSN of the delta that led to this one
    #[arg(long, value_name = "LSN", default_value_t = 0)]
    pub cause: u64,
    /// Longest wait for another writer or for room in the ring
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::duration)]
    pub timeout: Duration,
}

/// Runs it.
///
/// # Errors
///
/// What is wrong with the content, that the page does not exist, or why it could not be written. Nothing was changed
/// then.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let bus = context.bus(&args.bus).timeout(args.timeout).attach()?;
    let page = bus.page(&args.page)?;
    let info = page.info()?;
    let schema = schema_of(&info);
    let patches = match &args.field {
        Some(path) => {
            let schema = schema.as_ref().ok_or(value::ValueError::NoFields)?;
            let field = value::select(schema, path)?;
            let text = text_of(args)?;
            let bytes = schema
                .write_value(&field, text.trim_end_matches('\n'))
                .map_err(value::ValueError::from)?;
            vec![Patch {
                offset: field.offset as usize,
                bytes,
            }]
        }
        None => {
            let format = format_for(args.format, schema.as_ref());
            let offset = usize::try_from(args.offset).unwrap_or(usize::MAX);
            if format == Format::Raw {
                let path = match (&args.from, &args.content) {
                    (Some(path), _) => path.to_string_lossy().into_owned(),
                    (None, Some(path)) => path.clone(),
                    (None, None) => "-".to_owned(),
                };
                value::parse(format, None, offset, &path)?
            } else {
                let text = text_of(args)?;
                // A file of text ends with a newline that its author did not mean.
                let text = match (&args.from, format) {
                    (Some(_), Format::Text) => text.as_str(),
                    _ => text.trim_end_matches('\n'),
                };
                value::parse(format, schema.as_ref(), offset, text)?
            }
        }
    };
    value::check_fits(&patches, page.size())?;
    let mut patches = patches;
    patches.sort_by_key(|patch| patch.offset);
    let ranges: Vec<(usize, &[u8])> = patches
        .iter()
        .map(|patch| (patch.offset, patch.bytes.as_slice()))
        .collect();
    let page = page.caused_by(args.cause);
    let lsn = match ranges.as_slice() {
        [(offset, bytes)] => page.patch(*offset, bytes)?,
        _ => page.patch_many(&ranges)?,
    };
    let written: usize = ranges.iter().map(|(_, bytes)| bytes.len()).sum();
    if context.json {
        let value = json!({
            "page": args.page, "id": info.id.to_string(), "lsn": lsn,
            "ranges": ranges.len(), "bytes": written,
        });
        context.document(&value)?;
    } else {
        context.line(format!(
            "{}: {written} bytes in {} {} at LSN {lsn}",
            args.page,
            ranges.len(),
            if ranges.len() == 1 { "range" } else { "ranges" },
        ))?;
    }
    Ok(Code::Ok)
}

/// The content as text, from the argument or the file.
fn text_of(args: &Args) -> Result<String, Failure> {
    let Some(path) = &args.from else {
        return Ok(args.content.clone().unwrap_or_default());
    };
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|e| Failure::new(io_code(&e), format!("cannot read {}: {e}", path.display())))?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage(format!(
            "{} is no UTF-8 text; --as raw writes any bytes",
            path.display()
        ))
    })
}
