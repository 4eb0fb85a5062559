//! The content of pages as people write and read it: `mmsb write` and `mmsb read`.
//!
//! | format | written as | read as |
//! | --- | --- | --- |
//! | `hex` | `de ad be ef`, `0xdeadbeef`, `de:ad` | offsets, bytes and ASCII, like `xxd` |
//! | `text` | the bytes of the argument | up to the trailing NULs, control characters escaped |
//! | `raw` | a file's name, `-` for standard input | the bytes |
//! | `u8` … `f64`, `bool`, `char` | `1,2,3` | `[1, 2, 3]` |
//! | `fields` | `price=101.5,bids=[1,2,3],bids[0]=4,host="a,b"` | a line per field |
//!
//! What is written becomes [`Patch`]es: a format that knows no fields gives one, at the offset asked for.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::str::FromStr;

use mmsb::schema::{Field, SIZE_BYTES_MAX, Scalar, Schema, SchemaError, Value};

use super::table::{Align, Style, Table, escaped};

#[cfg(test)]
mod tests;

/// Bytes in a line of a hex dump.
const DUMP_LINE: usize = 16;

/// Why content was refused or could not be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// The name of a format that there is not.
    #[error(
        "no format is called {name:?} (hex, text, raw, fields, or an element type such as f64)"
    )]
    UnknownFormat {
        /// The name given.
        name: String,
    },
    /// A character that is no hexadecimal digit.
    #[error("{found:?} at character {at} is no hexadecimal digit")]
    NotHex {
        /// The character.
        found: char,
        /// Where, in characters from the start, from 0.
        at: usize,
    },
    /// Half a byte.
    #[error("{digits} hexadecimal digits before character {at} are not whole bytes")]
    HalfByte {
        /// Digits in the group.
        digits: usize,
        /// The character after the group, from 0.
        at: usize,
    },
    /// Nothing to write.
    #[error("there is nothing to write")]
    Empty,
    /// Fields were asked for and the page has no schema with fields.
    #[error("the page has no schema with fields: name an element type or use hex")]
    NoFields,
    /// No field has this name.
    #[error("the schema has no field {name:?} (it has {known})")]
    UnknownField {
        /// The name given.
        name: String,
        /// The names there are, for the message.
        known: String,
    },
    /// The assignments could not be parsed.
    #[error("expected {what} at character {at}")]
    Syntax {
        /// What was expected.
        what: &'static str,
        /// Where, in characters from the start, from 0.
        at: usize,
    },
    /// Two assignments write the same bytes.
    #[error("{second:?} writes bytes that {first:?} writes already")]
    WrittenTwice {
        /// The first assignment's field.
        first: String,
        /// The second one's.
        second: String,
    },
    /// A write past the end of the page.
    #[error("the write ends at byte {end}, the page at {len}")]
    OutsidePage {
        /// The byte after the last one written; saturated if it does not fit.
        end: usize,
        /// Bytes in the page.
        len: usize,
    },
    /// Bytes of the page that are no whole element.
    #[error("{len} bytes are not a whole number of {scalar}, {left} are left over")]
    HalfElement {
        /// The element type.
        scalar: Scalar,
        /// Bytes to be read.
        len: usize,
        /// Bytes after the last whole element.
        left: usize,
    },
    /// A file with more bytes than a page can have.
    #[error("{} has more than {max} bytes, which is the largest page", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that a page can have.
        max: u64,
    },
    /// A value that does not suit its field, or a page that does not suit its schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The file to be written could not be read.
    #[error("cannot read {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output could not be written.
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

/// How content is written on the command line or shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Hexadecimal digits; shown as a dump.
    Hex,
    /// UTF-8 text.
    Text,
    /// A file; shown as the bytes themselves.
    Raw,
    /// Elements of one type.
    List(Scalar),
    /// The fields of the page's schema.
    Fields,
}

impl Format {
    /// What suits a page of this schema best when nothing was asked for: fields, elements, or else hex.
    pub fn suited_to(schema: Option<&Schema>) -> Format {
        match schema {
            None => Format::Hex,
            Some(schema) => match schema.element() {
                Some((Scalar::Char, _)) => Format::Text,
                Some((scalar, _)) => Format::List(scalar),
                None => Format::Fields,
            },
        }
    }
}

impl FromStr for Format {
    type Err = ValueError;

    fn from_str(name: &str) -> Result<Format, ValueError> {
        match name {
            "hex" => Ok(Format::Hex),
            "text" => Ok(Format::Text),
            "raw" => Ok(Format::Raw),
            "fields" => Ok(Format::Fields),
            _ => name
                .parse()
                .map(Format::List)
                .map_err(|_| ValueError::UnknownFormat {
                    name: name.to_owned(),
                }),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Format::Hex => "hex",
            Format::Text => "text",
            Format::Raw => "raw",
            Format::List(scalar) => scalar.name(),
            Format::Fields => "fields",
        })
    }
}

/// Bytes and where in the page they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Bytes from the start of the page.
    pub offset: usize,
    /// What to write there.
    pub bytes: Vec<u8>,
}

impl Patch {
    /// The byte after the last one written; saturated, which no page reaches.
    pub fn end(&self) -> usize {
        self.offset.saturating_add(self.bytes.len())
    }
}

/// Turns an argument of `mmsb write` into patches. `offset` says where the content starts in the page; fields know
/// that themselves and are given in `schema`.
///
/// # Errors
///
/// Says what in the text is wrong, or why the file could not be read.
pub fn parse(
    format: Format,
    schema: Option<&Schema>,
    offset: usize,
    text: &str,
) -> Result<Vec<Patch>, ValueError> {
    let bytes = match format {
        Format::Hex => parse_hex(text)?,
        Format::Text => text.as_bytes().to_vec(),
        Format::Raw => read_file(PathBuf::from(text), SIZE_BYTES_MAX)?,
        Format::List(scalar) => parse_list(scalar, text)?,
        Format::Fields => return parse_fields(schema.ok_or(ValueError::NoFields)?, text),
    };
    if bytes.is_empty() {
        return Err(ValueError::Empty);
    }
    Ok(vec![Patch { offset, bytes }])
}

/// Checks that every patch ends inside a page of `len` bytes, before any of them is written.
///
/// # Errors
///
/// [`ValueError::OutsidePage`] for the first that does not.
pub fn check_fits(patches: &[Patch], len: usize) -> Result<(), ValueError> {
    match patches.iter().find(|patch| patch.end() > len) {
        None => Ok(()),
        Some(patch) => Err(ValueError::OutsidePage {
            end: patch.end(),
            len,
        }),
    }
}

/// Parses hexadecimal bytes. Spaces, colons, commas and dashes separate groups; each may start with `0x` and must
/// hold whole bytes.
///
/// # Errors
///
/// [`ValueError::NotHex`] or [`ValueError::HalfByte`], with the place.
pub fn parse_hex(text: &str) -> Result<Vec<u8>, ValueError> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut digits = 0usize;
    let mut high = 0u8;
    let mut chars = text.chars().enumerate().peekable();
    let mut at = 0;
    while let Some((i, c)) = chars.next() {
        at = i + 1;
        if c.is_whitespace() || matches!(c, ':' | ',' | '-') {
            if digits % 2 == 1 {
                return Err(ValueError::HalfByte { digits, at: i });
            }
            digits = 0;
        } else if digits == 0 && c == '0' && matches!(chars.peek(), Some((_, 'x' | 'X'))) {
            chars.next();
        } else {
            let Some(digit) = c.to_digit(16) else {
                return Err(ValueError::NotHex { found: c, at: i });
            };
            // A hexadecimal digit is below 16.
            let digit = digit as u8;
            digits += 1;
            if digits % 2 == 1 {
                high = digit;
            } else {
                out.push(high << 4 | digit);
            }
        }
    }
    if digits % 2 == 1 {
        return Err(ValueError::HalfByte { digits, at });
    }
    Ok(out)
}

/// Parses `1,2,3` or `[1,2,3]` into little-endian elements; of [`Scalar::Char`], the text as it is.
///
/// # Errors
///
/// [`ValueError::Schema`], saying which value does not fit the type; [`ValueError::Empty`] for no values.
pub fn parse_list(scalar: Scalar, text: &str) -> Result<Vec<u8>, ValueError> {
    let count = if scalar == Scalar::Char {
        text.len()
    } else {
        // An empty pair of brackets is no list of one bad value.
        let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
        if inner.trim().is_empty() {
            return Err(ValueError::Empty);
        }
        text.split(',').count()
    };
    if count == 0 {
        return Err(ValueError::Empty);
    }
    let schema = Schema::array(scalar, u32::try_from(count).unwrap_or(u32::MAX))?;
    let field = schema.select("").ok_or(ValueError::NoFields)?;
    Ok(schema.write_value(&field, text)?)
}

/// Parses `name=value,...` into one patch for each assignment, in the order given.
///
/// A name is a field or one element of it, `bids[2]`. A list goes in brackets. Text may be quoted, and must be if
/// it holds commas or quotes; in quotes, `\"`, `\\`, `\n`, `\t` stand for those characters.
///
/// # Errors
///
/// [`ValueError::UnknownField`], [`ValueError::WrittenTwice`], [`ValueError::Syntax`], or what is wrong with a value.
pub fn parse_fields(schema: &Schema, text: &str) -> Result<Vec<Patch>, ValueError> {
    let mut patches: Vec<(Field, Patch)> = Vec::new();
    for (name, value) in assignments(text)? {
        let field = select(schema, name)?;
        let bytes = schema.write_value(&field, &value)?;
        // The schema keeps offsets below 1 GiB.
        let offset = field.offset as usize;
        let patch = Patch { offset, bytes };
        let overlaps = |other: &Patch| patch.offset < other.end() && other.offset < patch.end();
        if let Some((first, _)) = patches.iter().find(|(_, other)| overlaps(other)) {
            return Err(ValueError::WrittenTwice {
                first: first.name.clone(),
                second: field.name,
            });
        }
        patches.push((field, patch));
    }
    if patches.is_empty() {
        return Err(ValueError::Empty);
    }
    Ok(patches.into_iter().map(|(_, patch)| patch).collect())
}

/// The field or element called `name`, or an error that lists the names there are.
///
/// # Errors
///
/// [`ValueError::UnknownField`].
pub fn select(schema: &Schema, name: &str) -> Result<Field, ValueError> {
    schema.select(name).ok_or_else(|| {
        const SHOWN: usize = 12;
        let fields = schema.fields();
        let mut known: Vec<String> = fields.iter().take(SHOWN).map(Field::to_string).collect();
        if fields.len() > SHOWN {
            known.push(format!("{} more", fields.len() - SHOWN));
        }
        if fields.is_empty() {
            known.push(format!("only elements of {schema}, such as [0]"));
        }
        ValueError::UnknownField {
            name: name.to_owned(),
            known: known.join(", "),
        }
    })
}

/// Splits `a=1,b=[2,3],c="x,y"` at the commas outside of brackets and quotes.
fn assignments(text: &str) -> Result<Vec<(&str, String)>, ValueError> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    // Errors count characters, not bytes, as the user sees them.
    let at = |rest: &str| text[..text.len() - rest.len()].chars().count();
    while !rest.is_empty() {
        let Some((name, after)) = rest.split_once('=') else {
            return Err(ValueError::Syntax {
                what: "name=value",
                at: at(rest),
            });
        };
        let after = after.trim_start();
        let (value, left) = match after.chars().next() {
            Some('"') => quoted(after).ok_or_else(|| ValueError::Syntax {
                what: "text that ends with an unescaped quote",
                at: at(after),
            })?,
            Some('[') => {
                let end = after.find(']').ok_or_else(|| ValueError::Syntax {
                    what: "a list that ends with ']'",
                    at: at(after),
                })?;
                let (list, left) = after.split_at(end + 1);
                (list.to_owned(), left)
            }
            _ => {
                let (value, left) = after.split_at(after.find(',').unwrap_or(after.len()));
                (value.trim_end().to_owned(), left)
            }
        };
        out.push((name.trim(), value));
        let left = left.trim_start();
        rest = match left.strip_prefix(',') {
            Some(next) => {
                let next = next.trim_start();
                if next.is_empty() {
                    return Err(ValueError::Syntax {
                        what: "name=value after the comma",
                        at: at(next),
                    });
                }
                next
            }
            None if left.is_empty() => left,
            None => {
                return Err(ValueError::Syntax {
                    what: "',' or the end",
                    at: at(left),
                });
            }
        };
    }
    Ok(out)
}

/// Takes the quoted text at the start of `text`; `None` if it does not end or escapes another character.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.chars();
    chars.next();
    loop {
        match chars.next()? {
            '"' => return Some((out, chars.as_str())),
            '\\' => out.push(match chars.next()? {
                'n' => '\n',
                't' => '\t',
                c @ ('"' | '\\') => c,
                _ => return None,
            }),
            c => out.push(c),
        }
    }
}

/// The whole of a file of at most `max` bytes; of `-`, what standard input gives.
fn read_file(path: PathBuf, max: u64) -> Result<Vec<u8>, ValueError> {
    let mut bytes = Vec::new();
    // One byte more than fits tells a file that is too large from one that just fits.
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(max + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(&path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes))
    };
    match read {
        Err(source) => Err(ValueError::ReadFile { path, source }),
        Ok(len) if len as u64 > max => Err(ValueError::FileTooLarge { path, max }),
        Ok(_) => Ok(bytes),
    }
}

/// Shows `bytes` of a page, which start at `offset` in it. [`Format::Fields`] takes a whole page.
///
/// # Errors
///
/// What does not suit the format, or what writing to `out` gave.
pub fn print(
    out: &mut dyn Write,
    format: Format,
    schema: Option<&Schema>,
    offset: usize,
    bytes: &[u8],
    style: Style,
) -> Result<(), ValueError> {
    match format {
        Format::Hex => dump(out, offset, bytes)?,
        Format::Text => writeln!(out, "{}", text_of(bytes))?,
        Format::Raw => out.write_all(bytes)?,
        Format::List(scalar) => writeln!(out, "{}", shown(&read_list(scalar, bytes)?))?,
        Format::Fields => {
            let schema = schema.ok_or(ValueError::NoFields)?;
            fields_table(schema, bytes)?.print(out, style)?;
        }
    }
    Ok(())
}

/// The same for programs: hex digits as a string, text, numbers, lists, and an object of the fields.
///
/// JSON has no NaN and no infinity: they become the strings `NaN`, `inf`, `-inf`.
///
/// # Errors
///
/// What does not suit the format.
pub fn to_json(
    format: Format,
    schema: Option<&Schema>,
    bytes: &[u8],
) -> Result<serde_json::Value, ValueError> {
    Ok(match format {
        Format::Hex | Format::Raw => hex_digits(bytes).into(),
        Format::Text => String::from_utf8_lossy(trimmed(bytes)).into_owned().into(),
        Format::List(scalar) => value_json(&read_list(scalar, bytes)?),
        Format::Fields => {
            let schema = schema.ok_or(ValueError::NoFields)?;
            if let Some(whole) = schema.select("") {
                return Ok(value_json(&schema.read_value(&whole, bytes)?));
            }
            let mut object = serde_json::Map::new();
            for field in schema.fields() {
                let value = schema.read_value(field, bytes)?;
                object.insert(field.name.clone(), value_json(&value));
            }
            object.into()
        }
    })
}

/// One value for JSON; see [`to_json`] for floats that JSON does not have.
pub fn value_json(value: &Value) -> serde_json::Value {
    match value {
        Value::U64(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::Bool(value) => (*value).into(),
        Value::Text(text) => text.clone().into(),
        Value::List(values) => values.iter().map(value_json).collect(),
        // Through the shortest text, so that 0.1 of 32 bits is 0.1 in JSON too.
        Value::F32(number) if number.is_finite() => number.to_string().parse().map_or_else(
            |_| serde_json::Value::from(f64::from(*number)),
            |wide: f64| wide.into(),
        ),
        Value::F64(number) if number.is_finite() => (*number).into(),
        other => other.to_string().into(),
    }
}

/// A value for a terminal: text quoted and its control characters escaped, numbers as they are.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Text(text) => {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{}\"", escaped(&text))
        }
        other => other.to_string(),
    }
}

/// A row for each field: name, type, offset, value. An array is one row.
///
/// # Errors
///
/// [`SchemaError::PageTooSmall`] if the page ends before a field.
pub fn fields_table(schema: &Schema, page: &[u8]) -> Result<Table, ValueError> {
    let mut table = Table::new(&[
        ("field", Align::Left),
        ("type", Align::Left),
        ("offset", Align::Right),
        ("value", Align::Left),
    ]);
    let whole = schema.select("");
    for field in whole.iter().chain(schema.fields()) {
        let value = schema.read_value(field, page)?;
        let described = match field.count {
            1 => field.scalar.name().to_owned(),
            count => format!("{}[{count}]", field.scalar),
        };
        table.row([
            field.name.as_str(),
            &described,
            &field.offset.to_string(),
            &shown(&value),
        ]);
    }
    Ok(table)
}

/// All elements of `bytes`, always as a list; as text for [`Scalar::Char`].
///
/// # Errors
///
/// [`ValueError::HalfElement`] if bytes are left over.
pub fn read_list(scalar: Scalar, bytes: &[u8]) -> Result<Value, ValueError> {
    let left = bytes.len() % scalar.size();
    if left != 0 {
        return Err(ValueError::HalfElement {
            scalar,
            len: bytes.len(),
            left,
        });
    }
    if bytes.is_empty() {
        return Ok(Value::List(Vec::new()));
    }
    let count = u32::try_from(bytes.len() / scalar.size()).unwrap_or(u32::MAX);
    let schema = Schema::array(scalar, count)?;
    let field = schema.select("").ok_or(ValueError::NoFields)?;
    Ok(match schema.read_value(&field, bytes)? {
        list @ (Value::List(_) | Value::Text(_)) => list,
        one => Value::List(vec![one]),
    })
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    &bytes[..end]
}

/// Text for a terminal: without the NULs at the end, line breaks kept, other control characters escaped.
fn text_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(trimmed(bytes));
    let lines: Vec<String> = text.split('\n').map(escaped).collect();
    lines.join("\n")
}

fn hex_digits(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    out
}

/// Writes `bytes` like `xxd`: offset, bytes in pairs, ASCII. Lines that repeat the one before are a single `*`.
///
/// # Errors
///
/// What writing to `out` gave.
pub fn dump(out: &mut dyn Write, offset: usize, bytes: &[u8]) -> io::Result<()> {
    let mut previous: Option<&[u8]> = None;
    let mut starred = false;
    let lines = bytes.len().div_ceil(DUMP_LINE);
    for (i, line) in bytes.chunks(DUMP_LINE).enumerate() {
        // The last line is always shown, so that the dump says where the bytes end.
        if previous == Some(line) && i + 1 < lines {
            if !starred {
                writeln!(out, "*")?;
            }
            starred = true;
            continue;
        }
        starred = false;
        previous = Some(line);
        let mut pairs = String::new();
        for pair in line.chunks(2) {
            pairs.push_str(&hex_digits(pair));
            pairs.push(' ');
        }
        let ascii: String = line
            .iter()
            .map(|&byte| match byte {
                b' '..=b'~' => char::from(byte),
                _ => '.',
            })
            .collect();
        let at = offset.saturating_add(i * DUMP_LINE);
        writeln!(out, "{at:08x}: {pairs:<40} {ascii}")?;
    }
    Ok(())
}
