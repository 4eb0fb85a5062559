//! Live data of this machine from `/proc`, as pages that any language can decode.
//!
//! A [`Source`] has a fixed schema and fills a buffer of its size, again and again. Every page starts with two
//! fields of its own:
//!
//! | offset | field | content |
//! | --- | --- | --- |
//! | 0 | `samples: u64` | how many samples this source has taken |
//! | 8 | `checksum: u64` | FNV-1a 64 of all other bytes of the page, in order |
//!
//! so that anybody who reads a page can tell that it is whole: a page torn between two samples fails
//! [`is_sealed`], as does one that was never filled.
//!
//! Tables (disks, interfaces, processes) have a fixed number of rows. Numbers of a column lie in one array,
//! `reads: u64[16]`; texts are a field for each row, `name0` to `name15`. `rows` says how many are in use and
//! `omitted` how many did not fit; unused rows are zero.
//!
//! What `/proc` says is parsed leniently: a column that a kernel lacks is 0, a number too large for 64 bits is the
//! largest one. Only a file that is not what its name says is an error.
//!
//! # Example
//!
//! ```
//! use mmsb_agent::demo::sources::{all, is_sealed};
//!
//! # fn main() -> Result<(), mmsb_agent::demo::sources::SourceError> {
//! for mut source in all() {
//!     let mut page = vec![0; source.schema().size()];
//!     source.sample(&mut page)?;
//!     assert!(is_sealed(&page), "{}", source.name());
//! }
//! # Ok(())
//! # }
//! ```

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mmsb::schema::{RecordBuilder, Scalar, Schema, SchemaError, fnv1a64};

mod cpu;
mod disks;
mod memory;
mod network;
mod processes;
mod sched;

pub use cpu::Cpu;
pub use disks::Disks;
pub use memory::Memory;
pub use network::Network;
pub use processes::Processes;
pub use sched::Sched;

/// Where the checksum lies; the eight bytes before it are the sample counter.
const CHECKSUM: std::ops::Range<usize> = 8..16;

/// Why a sample could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{} has no {what}", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The buffer is not of the schema's size.
    #[error("{page} takes {expected} bytes, the buffer has {found}")]
    WrongSize {
        /// The source's name.
        page: &'static str,
        /// The size of its schema.
        expected: usize,
        /// Bytes of the buffer.
        found: usize,
    },
    /// A source filled a field that its schema does not have.
    #[error("the schema has no field {name:?} for this value")]
    NoField {
        /// The field's name.
        name: String,
    },
}

/// Something that can fill a page over and over.
pub trait Source: Send {
    /// The page's name, such as `proc/cpu`.
    fn name(&self) -> &'static str;

    /// What the page's bytes mean. Always the same for one kind of source.
    fn schema(&self) -> Schema;

    /// Takes a sample and fills all of `out`, sealed. After an error, `out` holds nothing of use.
    ///
    /// # Errors
    ///
    /// [`SourceError::WrongSize`] unless `out` is as long as the schema says; [`SourceError::Read`] and
    /// [`SourceError::Unexpected`] when `/proc` does not have what the source needs.
    fn sample(&mut self, out: &mut [u8]) -> Result<(), SourceError>;
}

/// One of each source. None touches `/proc` before it is sampled.
pub fn all() -> Vec<Box<dyn Source>> {
    vec![
        Box::new(Cpu::new()),
        Box::new(Memory::new()),
        Box::new(Disks::new()),
        Box::new(Network::new()),
        Box::new(Sched::new()),
        Box::new(Processes::new()),
    ]
}

/// Stores the checksum of the rest of the page. A page below 16 bytes has no room for it and stays as it is.
pub fn seal(out: &mut [u8]) {
    if let Some(sum) = checksum(out) {
        out[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Whether the page's checksum is that of its bytes: it was sealed, and is not torn between two samples.
///
/// `bytes` is the whole page, no more and no less: as long as its schema says.
pub fn is_sealed(bytes: &[u8]) -> bool {
    checksum(bytes).is_some_and(|sum| bytes[CHECKSUM] == sum.to_le_bytes())
}

fn checksum(page: &[u8]) -> Option<u64> {
    let (head, rest) = page.split_at_checked(CHECKSUM.end)?;
    Some(fnv1a64(&[&head[..CHECKSUM.start], rest].concat()))
}

/// A record that starts with the counter and the checksum.
fn record(name: &str) -> RecordBuilder {
    Schema::record(name)
        .field("samples", Scalar::U64)
        .field("checksum", Scalar::U64)
}

/// What every source has: its name, its schema, its counter.
#[derive(Debug)]
struct Page {
    name: &'static str,
    schema: Schema,
    samples: u64,
}

impl Page {
    fn new(name: &'static str, schema: Result<Schema, SchemaError>) -> Page {
        Page {
            name,
            // The schemas here depend on nothing outside this file's folder, and a test builds each of them.
            schema: schema.expect("a source's own schema is valid"),
            samples: 0,
        }
    }

    /// Zeroes `out`, lets `fill` write the fields, then counts and seals.
    fn fill(
        &mut self,
        out: &mut [u8],
        fill: impl FnOnce(&mut Filler<'_>) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        if out.len() != self.schema.size() {
            return Err(SourceError::WrongSize {
                page: self.name,
                expected: self.schema.size(),
                found: out.len(),
            });
        }
        out.fill(0);
        let mut filler = Filler {
            schema: &self.schema,
            out,
        };
        fill(&mut filler)?;
        self.samples += 1;
        filler.numbers("samples", [self.samples])?;
        seal(out);
        Ok(())
    }
}

/// Writes fields of a page by name. Numbers larger than a field's type are stored as its largest.
struct Filler<'a> {
    schema: &'a Schema,
    out: &'a mut [u8],
}

impl Filler<'_> {
    /// The bytes of a field of one of these types, and the size of an element.
    fn bytes(
        &mut self,
        name: &str,
        scalars: &[Scalar],
    ) -> Result<(Scalar, &mut [u8]), SourceError> {
        let no_field = || SourceError::NoField {
            name: name.to_owned(),
        };
        let field = self.schema.field(name).ok_or_else(no_field)?;
        if !scalars.contains(&field.scalar) {
            return Err(no_field());
        }
        let end = field.offset as usize + field.size() as usize;
        let bytes = self.out.get_mut(field.offset as usize..end);
        Ok((field.scalar, bytes.ok_or_else(no_field)?))
    }

    /// Stores numbers in the first elements; those beyond the field's count are dropped.
    fn numbers(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = u64>,
    ) -> Result<(), SourceError> {
        let (scalar, bytes) = self.bytes(name, &[Scalar::U64, Scalar::U32])?;
        for (element, value) in bytes.chunks_exact_mut(scalar.size()).zip(values) {
            match scalar {
                Scalar::U64 => element.copy_from_slice(&value.to_le_bytes()),
                _ => {
                    let value = u32::try_from(value).unwrap_or(u32::MAX);
                    element.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
        Ok(())
    }

    fn number(&mut self, name: &str, value: u64) -> Result<(), SourceError> {
        self.numbers(name, [value])
    }

    fn float(&mut self, name: &str, value: f64) -> Result<(), SourceError> {
        let (_, bytes) = self.bytes(name, &[Scalar::F64])?;
        if let Some(element) = bytes.first_chunk_mut() {
            *element = value.to_le_bytes();
        }
        Ok(())
    }

    fn truth(&mut self, name: &str, value: bool) -> Result<(), SourceError> {
        let (_, bytes) = self.bytes(name, &[Scalar::Bool])?;
        if let Some(element) = bytes.first_mut() {
            *element = u8::from(value);
        }
        Ok(())
    }

    /// Stores as many whole characters as fit. A NUL in the text would end it early and becomes a blank.
    fn text(&mut self, name: &str, text: &str) -> Result<(), SourceError> {
        let (_, bytes) = self.bytes(name, &[Scalar::Char])?;
        let mut end = text.len().min(bytes.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        for (to, from) in bytes.iter_mut().zip(text[..end].bytes()) {
            *to = if from == 0 { b' ' } else { from };
        }
        Ok(())
    }

    /// Stores how many of `found` rows the page shows.
    fn rows(&mut self, found: usize, max: usize) -> Result<(), SourceError> {
        self.number("rows", found.min(max) as u64)?;
        self.number("omitted", found.saturating_sub(max) as u64)
    }
}

/// The text of a file under `/proc`. Names in it may hold any bytes: those that are not UTF-8 become U+FFFD.
fn read(path: &Path) -> Result<String, SourceError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(|source| SourceError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

fn unexpected(path: &str, what: &'static str) -> SourceError {
    SourceError::Unexpected {
        path: PathBuf::from(path),
        what,
    }
}

/// A decimal number, the largest one if it has too many digits; `None` for anything else.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// The numbers of a line's columns; 0 for those that are missing or no number.
fn columns<const N: usize>(text: &str) -> [u64; N] {
    let mut columns = [0; N];
    for (to, word) in columns.iter_mut().zip(text.split_whitespace()) {
        *to = number(word).unwrap_or(0);
    }
    columns
}

/// A finite, not negative decimal fraction; 0 for anything else.
fn fraction(text: Option<&str>) -> f64 {
    text.and_then(|text| text.parse().ok())
        .filter(|value: &f64| value.is_finite() && *value >= 0.0)
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests;
