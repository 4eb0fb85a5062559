//! `mmsb log export`: records as JSON lines, CSV or Parquet.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, ListBuilder, StringBuilder, TimestampNanosecondBuilder,
    UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use clap::ValueEnum;
use mmsb::Kind;
use mmsb::history::Record;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use super::super::exit::{Code, Failure, io_code};
use super::super::records::{Shown, Which, about_page};
use super::super::watch::changes::hex_digits;
use super::super::watch::kind_name;
use super::super::{Context, json as lines, moments, table};
use super::Where;

const EXAMPLES: &str = "\
One row for each record. Columns of CSV and Parquet:
  lsn              u64        place in the order of the bus
  time             timestamp  of the commit, ns, UTC; in steps of about a millisecond
  kind             text       patch, ranges, masked, swap, create, destroy, describe, source, mark
  page_index       u32        number of the page; null for sources and marks
  page_generation  u32        which of the pages that had this number
  page             text       name of the page at that time; null if it has none
  source           text       name of who made it; null if the log does not say
  source_id        u16        number of who made it
  cause            u64        LSN of the delta that led to it; 0: outside input
  transaction      bool       belongs to a transaction
  group_end        u64        LSN behind its group: records with the same one were committed as one
  size             u32        bytes of the page that is made; null for other kinds
  offset           u32        first byte that it wrote; null where it wrote none
  offsets          list<u32>  first byte of each range that it wrote; in CSV with `;` between
  lengths          list<u32>  bytes of each range
  payload          binary     the bytes of all ranges, one behind the other, or those of a mark; in CSV in hex

JSON lines are those of `mmsb log dump --json`. Parquet is compressed with Snappy and written in row groups of some
64 MiB, so memory stays bounded. The file gets its name when it is whole; `-o -` writes to standard output.

Examples:
  mmsb log export prices --format parquet -o prices.parquet
  mmsb log export prices --format csv --from -1h --page nyse/ibm -o ibm.csv
  mmsb log export --log /backup/prices --format jsonl -o - | zstd > prices.jsonl.zst";

/// Rows in a batch at most.
const BATCH_ROWS: usize = 8192;
/// Bytes of payloads in a batch, beyond which it is written.
const BATCH_BYTES: usize = 16 << 20;
/// Bytes of a row group, beyond which it is written.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// Arguments of `mmsb log export`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Which log
    #[command(flatten)]
    pub log: Where,
    /// What to write
    #[arg(long, value_enum)]
    pub format: Format,
    /// Where to write it; - for standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Which records
    #[command(flatten)]
    pub which: Which,
}

/// Formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A JSON object per line
    Jsonl,
    /// Comma-separated values, with a header (RFC 4180)
    Csv,
    /// Apache Parquet
    Parquet,
}

/// Where records go.
trait Sink {
    fn record(&mut self, record: &Record) -> Result<(), Failure>;
    fn finish(self: Box<Self>) -> Result<(), Failure>;
}

/// Runs it.
///
/// # Errors
///
/// That there is no log, what is wrong with it, or what writing the file gave.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let log = args.log.open()?;
    let (from, to, filter) = args.which.resolve(&log)?;
    let records = log.records(from, to, filter)?;
    let to_stdout = args.output.as_os_str() == "-";
    let part = Part::new(&args.output);
    let out: Box<dyn Write + Send> = if to_stdout {
        Box::new(BufWriter::new(io::stdout()))
    } else {
        let file = File::create(&part.path).map_err(|e| part.failed(&e))?;
        Box::new(BufWriter::with_capacity(1 << 20, file))
    };
    let mut sink: Box<dyn Sink> = match args.format {
        Format::Jsonl => Box::new(Jsonl {
            out,
            shown: Shown::default(),
        }),
        Format::Csv => Box::new(Csv::new(out)?),
        Format::Parquet => Box::new(Parquet::new(out)?),
    };
    let mut rows = 0u64;
    for record in records {
        sink.record(&record?)?;
        rows += 1;
    }
    sink.finish()?;
    if to_stdout {
        return Ok(Code::Ok);
    }
    let bytes = part.complete(&args.output)?;
    if context.json {
        context.document(&json!({
            "file": args.output.display().to_string(),
            "format": args.format.to_possible_value().map(|v| v.get_name().to_owned()),
            "rows": rows,
            "bytes": bytes,
        }))?;
    } else {
        context.line(format!(
            "{} records in {}, {}",
            table::count(rows),
            args.output.display(),
            table::bytes(bytes)
        ))?;
    }
    Ok(Code::Ok)
}

/// The file while it is written, which goes if it does not become whole.
struct Part {
    path: PathBuf,
}

impl Part {
    fn new(output: &Path) -> Part {
        let mut name = output.as_os_str().to_owned();
        name.push(".part");
        Part { path: name.into() }
    }

    fn failed(&self, e: &io::Error) -> Failure {
        Failure::new(
            io_code(e),
            format!("cannot write {}: {e}", self.path.display()),
        )
    }

    fn complete(self, output: &Path) -> Result<u64, Failure> {
        let bytes = std::fs::metadata(&self.path)
            .and_then(|about| std::fs::rename(&self.path, output).map(|()| about.len()));
        bytes.map_err(|e| self.failed(&e))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It has its name by now, or is of no use.
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Jsonl {
    out: Box<dyn Write + Send>,
    shown: Shown,
}

impl Sink for Jsonl {
    fn record(&mut self, record: &Record) -> Result<(), Failure> {
        let value = self.shown.json(record);
        lines::print(&mut self.out, &value, lines::Layout::Line)?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

/// What a record wrote: the bytes that go into the column `payload`.
fn payload(record: &Record) -> Vec<u8> {
    if record.delta.kind == Kind::Mark {
        return record.delta.mark.clone();
    }
    let bytes = record.delta.ranges.iter().flat_map(|(_, bytes)| bytes);
    bytes.copied().collect()
}

struct Csv {
    out: Box<dyn Write + Send>,
}

impl Csv {
    fn new(mut out: Box<dyn Write + Send>) -> Result<Csv, Failure> {
        let names: Vec<String> = columns()
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .collect();
        write!(out, "{}\r\n", names.join(","))?;
        Ok(Csv { out })
    }
}

/// A field of CSV, in quotes where it needs them.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

impl Sink for Csv {
    fn record(&mut self, record: &Record) -> Result<(), Failure> {
        let delta = &record.delta;
        let number = |n: Option<u32>| n.map_or_else(String::new, |n| n.to_string());
        let list = |numbers: Vec<String>| numbers.join(";");
        let page = about_page(delta.kind).then_some(delta.page);
        let cells = [
            delta.lsn.to_string(),
            rfc3339_ns(delta.time_ns),
            kind_name(delta.kind).to_owned(),
            number(page.map(|id| id.index)),
            number(page.map(|id| id.generation)),
            quoted(&record.page_name),
            quoted(record.source_name.as_deref().unwrap_or_default()),
            delta.source.to_string(),
            delta.cause.to_string(),
            delta.transaction.to_string(),
            record.group_end.to_string(),
            number(record.created.map(|(size, _)| size)),
            number(delta.ranges.first().map(|(offset, _)| *offset)),
            list(delta.ranges.iter().map(|(o, _)| o.to_string()).collect()),
            list(
                delta
                    .ranges
                    .iter()
                    .map(|(_, b)| b.len().to_string())
                    .collect(),
            ),
            hex_digits(&payload(record)),
        ];
        write!(self.out, "{}\r\n", cells.join(","))?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

/// As [`moments::shown`], with all nine digits.
fn rfc3339_ns(time_ns: u64) -> String {
    let text = moments::shown(time_ns);
    format!("{}{:06}Z", text.trim_end_matches('Z'), time_ns % 1_000_000)
}

/// The columns of CSV and Parquet.
fn columns() -> SchemaRef {
    let numbers = DataType::List(Arc::new(Field::new("item", DataType::UInt32, true)));
    let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("lsn", DataType::UInt64, false),
        Field::new("time", utc, false),
        Field::new("kind", DataType::Utf8, false),
        Field::new("page_index", DataType::UInt32, true),
        Field::new("page_generation", DataType::UInt32, true),
        Field::new("page", DataType::Utf8, true),
        Field::new("source", DataType::Utf8, true),
        Field::new("source_id", DataType::UInt16, false),
        Field::new("cause", DataType::UInt64, false),
        Field::new("transaction", DataType::Boolean, false),
        Field::new("group_end", DataType::UInt64, false),
        Field::new("size", DataType::UInt32, true),
        Field::new("offset", DataType::UInt32, true),
        Field::new("offsets", numbers.clone(), false),
        Field::new("lengths", numbers, false),
        Field::new("payload", DataType::Binary, false),
    ]))
}

/// A column for each of [`columns`], as it grows.
struct Builders {
    lsn: UInt64Builder,
    time: TimestampNanosecondBuilder,
    kind: StringBuilder,
    page_index: UInt32Builder,
    page_generation: UInt32Builder,
    page: StringBuilder,
    source: StringBuilder,
    source_id: UInt16Builder,
    cause: UInt64Builder,
    transaction: BooleanBuilder,
    group_end: UInt64Builder,
    size: UInt32Builder,
    offset: UInt32Builder,
    offsets: ListBuilder<UInt32Builder>,
    lengths: ListBuilder<UInt32Builder>,
    payload: BinaryBuilder,
    rows: usize,
    bytes: usize,
}

impl Builders {
    fn new() -> Builders {
        Builders {
            lsn: UInt64Builder::new(),
            time: TimestampNanosecondBuilder::new().with_timezone("UTC"),
            kind: StringBuilder::new(),
            page_index: UInt32Builder::new(),
            page_generation: UInt32Builder::new(),
            page: StringBuilder::new(),
            source: StringBuilder::new(),
            source_id: UInt16Builder::new(),
            cause: UInt64Builder::new(),
            transaction: BooleanBuilder::new(),
            group_end: UInt64Builder::new(),
            size: UInt32Builder::new(),
            offset: UInt32Builder::new(),
            offsets: ListBuilder::new(UInt32Builder::new()),
            lengths: ListBuilder::new(UInt32Builder::new()),
            payload: BinaryBuilder::new(),
            rows: 0,
            bytes: 0,
        }
    }

    fn record(&mut self, record: &Record) {
        let delta = &record.delta;
        let page = about_page(delta.kind).then_some(delta.page);
        self.lsn.append_value(delta.lsn);
        // Until the year 2262.
        self.time
            .append_value(i64::try_from(delta.time_ns).unwrap_or(i64::MAX));
        self.kind.append_value(kind_name(delta.kind));
        self.page_index.append_option(page.map(|id| id.index));
        self.page_generation
            .append_option(page.map(|id| id.generation));
        let name = Some(&*record.page_name).filter(|name| !name.is_empty());
        self.page.append_option(name);
        self.source.append_option(record.source_name.as_deref());
        self.source_id.append_value(delta.source);
        self.cause.append_value(delta.cause);
        self.transaction.append_value(delta.transaction);
        self.group_end.append_value(record.group_end);
        self.size
            .append_option(record.created.map(|(size, _)| size));
        self.offset
            .append_option(delta.ranges.first().map(|(offset, _)| *offset));
        for (offset, bytes) in &delta.ranges {
            self.offsets.values().append_value(*offset);
            // No page has more than 1 GiB.
            self.lengths.values().append_value(bytes.len() as u32);
        }
        self.offsets.append(true);
        self.lengths.append(true);
        let bytes = payload(record);
        self.rows += 1;
        self.bytes += bytes.len();
        self.payload.append_value(bytes);
    }

    fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    /// What was added since the last batch.
    fn batch(&mut self) -> Result<RecordBatch, ArrowError> {
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.lsn.finish()),
            Arc::new(self.time.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.page_index.finish()),
            Arc::new(self.page_generation.finish()),
            Arc::new(self.page.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.source_id.finish()),
            Arc::new(self.cause.finish()),
            Arc::new(self.transaction.finish()),
            Arc::new(self.group_end.finish()),
            Arc::new(self.size.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.offsets.finish()),
            Arc::new(self.lengths.finish()),
            Arc::new(self.payload.finish()),
        ];
        (self.rows, self.bytes) = (0, 0);
        RecordBatch::try_new(columns(), arrays)
    }
}

struct Parquet {
    writer: ArrowWriter<Box<dyn Write + Send>>,
    builders: Builders,
}

fn parquet_failed(e: impl Into<ParquetError>) -> Failure {
    let e = e.into();
    if let ParquetError::External(inner) = &e
        && let Some(io) = inner.downcast_ref::<io::Error>()
    {
        return Failure::new(io_code(io), format!("cannot write Parquet: {io}"));
    }
    Failure::problem(format!("cannot write Parquet: {e}"))
}

impl Parquet {
    fn new(out: Box<dyn Write + Send>) -> Result<Parquet, Failure> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(format!("mmsb {}", env!("CARGO_PKG_VERSION")))
            .build();
        let writer =
            ArrowWriter::try_new(out, columns(), Some(properties)).map_err(parquet_failed)?;
        Ok(Parquet {
            writer,
            builders: Builders::new(),
        })
    }

    fn write(&mut self) -> Result<(), Failure> {
        let batch = self.builders.batch().map_err(parquet_failed)?;
        self.writer.write(&batch).map_err(parquet_failed)?;
        if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
            self.writer.flush().map_err(parquet_failed)?;
        }
        Ok(())
    }
}

impl Sink for Parquet {
    fn record(&mut self, record: &Record) -> Result<(), Failure> {
        self.builders.record(record);
        if self.builders.is_full() {
            self.write()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        self.write()?;
        let mut out = self.writer.into_inner().map_err(parquet_failed)?;
        Ok(out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_column_and_no_other() {
        let listed: Vec<&str> = EXAMPLES
            .lines()
            .skip(1)
            .take_while(|line| line.starts_with("  "))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let columns = columns();
        let there: Vec<&str> = columns.fields().iter().map(|f| f.name().as_str()).collect();
        assert_eq!(listed, there);
    }

    #[test]
    fn a_batch_without_rows_is_one() {
        let batch = Builders::new().batch().unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (0, 16));
    }

    #[test]
    fn text_that_would_break_a_line_is_quoted() {
        assert_eq!(quoted("a/b"), "a/b");
        assert_eq!(quoted("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        assert_eq!(
            rfc3339_ns(1_795_269_900_250_000_999),
            "2026-11-21T14:05:00.250000999Z"
        );
    }
}
