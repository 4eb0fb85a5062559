//! What the bytes of a page mean, written so that any language can decode them.
//!
//! A [`Schema`] is either a plain array of one element type, or a record with a field table: name, offset,
//! element type and count of each field. It is pure data: nothing here touches shared memory. The bus stores the
//! encoding as a cold record, and a reader in C, Julia or Python decodes pages from it.
//!
//! All values in a page are **little-endian**. A [`Scalar::Char`] field is UTF-8 text, padded with NUL bytes.
//!
//! # Encoding
//!
//! Every number is little-endian, nothing is padded, and one schema has exactly one encoding: bytes that
//! [`Schema::decode`] accepts are the bytes [`Schema::encode`] gives back. [`Schema::hash`] is taken over them.
//!
//! | offset | type | content |
//! | --- | --- | --- |
//! | 0 | u32 | magic, the bytes `MSCH` |
//! | 4 | u16 | version, 1 |
//! | 6 | u16 | kind: 1 array, 2 record |
//! | 8 | u32 | size of the described bytes |
//! | 12 | u32 | array: elements; record: fields |
//! | 16 | u16 | array: scalar code; record: 0 |
//! | 18 | u16 | length of the record's name, 0 for an array |
//! | 20 | bytes | the record's name |
//!
//! then, for a record, one entry per field: offset u32, count u32, scalar code u16, name length u16, name bytes.
//!
//! # Text form
//!
//! ```text
//! f64[128]                                       an array
//! price:f64,qty:u32,bids:f64[10],host:char[16]   a record; fields at natural alignment, like repr(C)
//! quote{price:f64,qty:u32@16,@32}                a named record; a field at offset 16; 32 bytes in all
//! ```
//!
//! # Example
//!
//! ```
//! use mmsb_shm::schema::{Scalar, Schema, Value};
//!
//! # fn main() -> Result<(), mmsb_shm::schema::SchemaError> {
//! let schema = Schema::record("quote").field("price", Scalar::F64).text("host", 4).build()?;
//! let mut page = vec![0; schema.size()];
//! let price = schema.field("price").expect("declared above");
//! page[..8].copy_from_slice(&schema.write_value(price, "101.5")?);
//! assert_eq!(schema.read_value(price, &page)?, Value::F64(101.5));
//! assert_eq!(Schema::decode(&schema.encode())?, schema);
//! assert_eq!(Schema::parse("quote{price:f64,host:char[4]}")?, schema);
//! # Ok(())
//! # }
//! ```

use std::collections::HashSet;
use std::str::FromStr;

mod encoding;
mod text;
mod value;

#[cfg(test)]
mod tests;

pub use value::Value;

/// First four bytes of an encoding: `MSCH` read as a little-endian `u32`.
pub const SCHEMA_MAGIC: u32 = u32::from_le_bytes(*b"MSCH");
/// Version of the encoding that this build reads and writes.
pub const SCHEMA_VERSION: u16 = 1;
/// Most fields that a record may have.
pub const FIELDS_MAX: usize = 4096;
/// Longest name of a record or field, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;
/// Largest number of bytes that a schema may describe: 1 GiB, the largest page.
pub const SIZE_BYTES_MAX: u64 = 1 << 30;

/// The 64-bit FNV-1a hash of `bytes`: what [`Schema::hash`] is, and small enough to write in any language.
///
/// It finds torn or mixed bytes; it does not resist somebody who forges them.
pub fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The type of one element of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scalar {
    /// Unsigned, 1 byte.
    U8,
    /// Signed, 1 byte.
    I8,
    /// Unsigned, 2 bytes.
    U16,
    /// Signed, 2 bytes.
    I16,
    /// Unsigned, 4 bytes.
    U32,
    /// Signed, 4 bytes.
    I32,
    /// Unsigned, 8 bytes.
    U64,
    /// Signed, 8 bytes.
    I64,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// One byte: 0 is false, anything else is true; writers store 1.
    Bool,
    /// One byte of UTF-8 text; a field of `n` of them holds up to `n` bytes, padded with NUL.
    Char,
}

impl Scalar {
    /// Every element type, in the order of the codes.
    pub const ALL: [Scalar; 12] = [
        Scalar::U8,
        Scalar::I8,
        Scalar::U16,
        Scalar::I16,
        Scalar::U32,
        Scalar::I32,
        Scalar::U64,
        Scalar::I64,
        Scalar::F32,
        Scalar::F64,
        Scalar::Bool,
        Scalar::Char,
    ];

    /// The code in an encoded schema. Codes are never reused or renumbered.
    pub const fn code(self) -> u32 {
        match self {
            Scalar::U8 => 1,
            Scalar::I8 => 2,
            Scalar::U16 => 3,
            Scalar::I16 => 4,
            Scalar::U32 => 5,
            Scalar::I32 => 6,
            Scalar::U64 => 7,
            Scalar::I64 => 8,
            Scalar::F32 => 9,
            Scalar::F64 => 10,
            Scalar::Bool => 11,
            Scalar::Char => 12,
        }
    }

    /// Bytes of one element, which is its natural alignment too.
    pub const fn size(self) -> usize {
        match self {
            Scalar::U8 | Scalar::I8 | Scalar::Bool | Scalar::Char => 1,
            Scalar::U16 | Scalar::I16 => 2,
            Scalar::U32 | Scalar::I32 | Scalar::F32 => 4,
            Scalar::U64 | Scalar::I64 | Scalar::F64 => 8,
        }
    }

    /// The name in the text form, such as `f64`.
    pub const fn name(self) -> &'static str {
        match self {
            Scalar::U8 => "u8",
            Scalar::I8 => "i8",
            Scalar::U16 => "u16",
            Scalar::I16 => "i16",
            Scalar::U32 => "u32",
            Scalar::I32 => "i32",
            Scalar::U64 => "u64",
            Scalar::I64 => "i64",
            Scalar::F32 => "f32",
            Scalar::F64 => "f64",
            Scalar::Bool => "bool",
            Scalar::Char => "char",
        }
    }
}

impl TryFrom<u32> for Scalar {
    type Error = SchemaError;

    fn try_from(code: u32) -> Result<Scalar, SchemaError> {
        Scalar::ALL
            .into_iter()
            .find(|scalar| scalar.code() == code)
            .ok_or(SchemaError::UnknownScalar { code })
    }
}

impl FromStr for Scalar {
    type Err = SchemaError;

    fn from_str(name: &str) -> Result<Scalar, SchemaError> {
        Scalar::ALL
            .into_iter()
            .find(|scalar| scalar.name() == name)
            .ok_or_else(|| SchemaError::UnknownScalarName {
                name: name.to_owned(),
            })
    }
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Why a schema or a value was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The encoding ends before what it promises.
    #[error("the schema ends at byte {len}, but {what} needs {needed}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes that the encoding must have at least.
        needed: usize,
        /// Bytes that it has.
        len: usize,
    },
    /// The bytes are not an encoded schema.
    #[error("not a schema: magic {found:#010x}, expected {:#010x}", SCHEMA_MAGIC)]
    BadMagic {
        /// The first four bytes.
        found: u32,
    },
    /// The encoding is of another version.
    #[error("schema version {found}, this build reads {expected}")]
    UnsupportedVersion {
        /// The version this build reads.
        expected: u16,
        /// The version found.
        found: u16,
    },
    /// The encoding contradicts itself.
    #[error("corrupt schema at byte {offset}: {what}")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
        /// Where, in bytes from the start of the encoding.
        offset: usize,
    },
    /// No element type has this code.
    #[error("no element type has the code {code}")]
    UnknownScalar {
        /// The code found.
        code: u32,
    },
    /// No element type has this name.
    #[error("no element type is called {name:?} (u8 to u64, i8 to i64, f32, f64, bool, char)")]
    UnknownScalarName {
        /// The name found.
        name: String,
    },
    /// A record without fields, or a field or array of no elements.
    #[error("{name:?} has no elements")]
    Empty {
        /// The record or field; empty for an array.
        name: String,
    },
    /// More fields than a record may have.
    #[error("{found} fields, a record has at most {}", FIELDS_MAX)]
    TooManyFields {
        /// How many there are.
        found: usize,
    },
    /// A name that is empty, too long, or holds a character that the text form needs.
    #[error(
        "bad name {name:?}: 1 to 255 bytes without spaces, control characters or any of : , = @ [ ] {{ }} \""
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// Two fields with one name.
    #[error("two fields are called {name:?}")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// More bytes than a page can have.
    #[error("{size} bytes, a page has at most {}", SIZE_BYTES_MAX)]
    TooLarge {
        /// The size asked for, in bytes; saturated if it does not fit.
        size: u64,
    },
    /// A field that reaches past the end of its record.
    #[error("field {name:?} ends at byte {end}, its record at {size}")]
    OutsideRecord {
        /// The field.
        name: String,
        /// The byte after its last one.
        end: u64,
        /// The size of the record.
        size: u64,
    },
    /// Two fields that share bytes.
    #[error("fields {first:?} and {second:?} overlap")]
    Overlap {
        /// The one that starts first.
        first: String,
        /// The one that starts inside it.
        second: String,
    },
    /// The text form could not be parsed.
    #[error("bad schema text at character {at}: {what}")]
    Syntax {
        /// What was expected.
        what: &'static str,
        /// Where, in characters from the start, from 0.
        at: usize,
    },
    /// The page ends before the field does.
    #[error("field {name:?} ends at byte {end}, the page at {len}")]
    PageTooSmall {
        /// The field.
        name: String,
        /// The byte after the field's last one.
        end: u64,
        /// Bytes in the page.
        len: usize,
    },
    /// Text that is not a value of the field's element type.
    #[error("{text:?} is not a value of {name:?}, which is {scalar}")]
    BadValue {
        /// The field.
        name: String,
        /// Its element type.
        scalar: Scalar,
        /// The text.
        text: String,
    },
    /// A number that the field's element type cannot hold.
    #[error("{text} does not fit in {name:?}, which is {scalar}")]
    OutOfRange {
        /// The field.
        name: String,
        /// Its element type.
        scalar: Scalar,
        /// The text.
        text: String,
    },
    /// The wrong number of values for an array.
    #[error("{name:?} takes {expected} values, not {found}")]
    WrongCount {
        /// The field.
        name: String,
        /// Elements of the field.
        expected: u32,
        /// Values given.
        found: usize,
    },
    /// Text with more bytes than the field.
    #[error("the text has {found} bytes, {name:?} holds {max}")]
    TextTooLong {
        /// The field.
        name: String,
        /// Bytes of the field.
        max: u32,
        /// Bytes of the text.
        found: usize,
    },
}

/// One field of a record: `count` elements of `scalar`, one after another from `offset`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// The name, unique in its record.
    pub name: String,
    /// Bytes from the start of the page.
    pub offset: u32,
    /// The type of each element.
    pub scalar: Scalar,
    /// How many elements; 1 for a plain value, the bytes of text for [`Scalar::Char`].
    pub count: u32,
}

impl Field {
    /// Bytes of the whole field. Computed in 64 bits, where it cannot overflow.
    pub fn size(&self) -> u64 {
        self.scalar.size() as u64 * u64::from(self.count)
    }

    /// The byte after the field's last one.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + self.size()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Shape {
    Array { scalar: Scalar, count: u32 },
    Record { name: String, fields: Vec<Field> },
}

/// What the bytes of a page mean. See the [module](self) for the encoding and the text form.
///
/// A value of this type is always valid: fields lie inside the size, do not overlap, and have unique names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schema {
    size: u32,
    shape: Shape,
}

impl Schema {
    /// `count` elements of one type, without a field table.
    ///
    /// # Errors
    ///
    /// [`SchemaError::Empty`] for no elements, [`SchemaError::TooLarge`] for more than 1 GiB of them.
    pub fn array(scalar: Scalar, count: u32) -> Result<Schema, SchemaError> {
        if count == 0 {
            return Err(SchemaError::Empty {
                name: String::new(),
            });
        }
        let size = page_size(scalar.size() as u64 * u64::from(count))?;
        Ok(Schema {
            size,
            shape: Shape::Array { scalar, count },
        })
    }

    /// Starts a record; `name` may be empty.
    pub fn record(name: &str) -> RecordBuilder {
        RecordBuilder {
            name: name.to_owned(),
            fields: Vec::new(),
            cursor: 0,
            end: 0,
            size: None,
            error: None,
        }
    }

    /// Parses the text form, such as `price:f64,bids:f64[10]` or `f64[128]`. Spaces between tokens are skipped.
    ///
    /// # Errors
    ///
    /// [`SchemaError::Syntax`] with the place, or what is wrong with the schema that the text describes.
    pub fn parse(text: &str) -> Result<Schema, SchemaError> {
        text::parse(text)
    }

    /// Bytes that the schema describes. The page may be larger.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// The record's name; empty for an unnamed record and for an array.
    pub fn name(&self) -> &str {
        match &self.shape {
            Shape::Array { .. } => "",
            Shape::Record { name, .. } => name,
        }
    }

    /// The fields in the order they were declared; none for an array, see [`Schema::element`].
    pub fn fields(&self) -> &[Field] {
        match &self.shape {
            Shape::Array { .. } => &[],
            Shape::Record { fields, .. } => fields,
        }
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().iter().find(|field| field.name == name)
    }

    /// The element type and count of an array; `None` for a record.
    pub fn element(&self) -> Option<(Scalar, u32)> {
        match &self.shape {
            Shape::Array { scalar, count } => Some((*scalar, *count)),
            Shape::Record { .. } => None,
        }
    }

    /// Finds what a path names: `price`, `bids`, one element `bids[3]`; of an array, the whole of it under the
    /// empty path or one element `[3]`.
    ///
    /// A selected element is a field of count 1, named by the path. `None` if there is no such field or element.
    pub fn select(&self, path: &str) -> Option<Field> {
        let (name, index) = match path.split_once('[') {
            None => (path, None),
            Some((name, rest)) => {
                let digits = rest.strip_suffix(']')?;
                // `parse` alone would let a sign through.
                if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                (name, Some(digits.parse::<u32>().ok()?))
            }
        };
        let whole = match &self.shape {
            Shape::Array { scalar, count } if name.is_empty() => Field {
                name: String::new(),
                offset: 0,
                scalar: *scalar,
                count: *count,
            },
            Shape::Array { .. } => return None,
            Shape::Record { .. } => self.field(name)?.clone(),
        };
        let Some(index) = index else {
            return Some(whole);
        };
        if index >= whole.count {
            return None;
        }
        // Inside the field, whose end is at most 1 GiB: no overflow.
        let offset = whole.offset + index * whole.scalar.size() as u32;
        Some(Field {
            name: path.to_owned(),
            offset,
            scalar: whole.scalar,
            count: 1,
        })
    }

    /// FNV-1a over the encoding: equal schemas have equal hashes, in every build and language.
    pub fn hash(&self) -> u64 {
        fnv1a64(&self.encode())
    }
}

fn page_size(size: u64) -> Result<u32, SchemaError> {
    if size > SIZE_BYTES_MAX {
        return Err(SchemaError::TooLarge { size });
    }
    u32::try_from(size).map_err(|_| SchemaError::TooLarge { size })
}

fn check_name(name: &str) -> Result<(), SchemaError> {
    let good = |c: char| !c.is_control() && !c.is_whitespace() && !":,=@[]{}\"".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(good) {
        return Err(SchemaError::BadName {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// Bytes of a record of these fields when nothing else is said: its end, rounded up to its largest alignment.
fn natural_size(fields: &[Field], end: u64) -> u64 {
    let end = fields.iter().map(Field::end).fold(end, u64::max);
    let align = fields.iter().map(|field| field.scalar.size() as u64).max();
    end.checked_next_multiple_of(align.unwrap_or(1))
        .unwrap_or(u64::MAX)
}

/// The one place where a record becomes a `Schema`, whether built, parsed or decoded.
fn checked_record(name: String, fields: Vec<Field>, size: u64) -> Result<Schema, SchemaError> {
    if !name.is_empty() {
        check_name(&name)?;
    }
    if fields.is_empty() {
        return Err(SchemaError::Empty { name });
    }
    if fields.len() > FIELDS_MAX {
        return Err(SchemaError::TooManyFields {
            found: fields.len(),
        });
    }
    let page = page_size(size)?;
    let mut names = HashSet::with_capacity(fields.len());
    for field in &fields {
        check_name(&field.name)?;
        if field.count == 0 {
            return Err(SchemaError::Empty {
                name: field.name.clone(),
            });
        }
        if field.end() > size {
            return Err(SchemaError::OutsideRecord {
                name: field.name.clone(),
                end: field.end(),
                size,
            });
        }
        if !names.insert(field.name.as_str()) {
            return Err(SchemaError::DuplicateName {
                name: field.name.clone(),
            });
        }
    }
    let mut by_offset: Vec<&Field> = fields.iter().collect();
    by_offset.sort_by_key(|field| field.offset);
    for pair in by_offset.windows(2) {
        if pair[0].end() > u64::from(pair[1].offset) {
            return Err(SchemaError::Overlap {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
            });
        }
    }
    Ok(Schema {
        size: page,
        shape: Shape::Record { name, fields },
    })
}

/// Lays out a record field by field; from [`Schema::record`].
///
/// Mistakes are kept and reported by [`RecordBuilder::build`].
#[derive(Clone, Debug)]
pub struct RecordBuilder {
    name: String,
    fields: Vec<Field>,
    /// Where the next field starts, before alignment. 64 bits and saturating: `build` refuses what is too large.
    cursor: u64,
    /// The furthest that a field or padding reached.
    end: u64,
    size: Option<u64>,
    error: Option<SchemaError>,
}

impl RecordBuilder {
    /// Adds one value after the last field, at its natural alignment.
    pub fn field(self, name: &str, scalar: Scalar) -> RecordBuilder {
        self.array_field(name, scalar, 1)
    }

    /// Adds `count` values after the last field, at the natural alignment of one.
    pub fn array_field(self, name: &str, scalar: Scalar, count: u32) -> RecordBuilder {
        let aligned = self.cursor.checked_next_multiple_of(scalar.size() as u64);
        let offset = aligned.unwrap_or(u64::MAX);
        self.push(name, scalar, count, offset)
    }

    /// Adds up to `bytes` bytes of UTF-8 text.
    pub fn text(self, name: &str, bytes: u32) -> RecordBuilder {
        self.array_field(name, Scalar::Char, bytes)
    }

    /// Adds a field at an offset of your own, for structs that repr(C) does not describe. Later fields follow it.
    pub fn field_at(self, name: &str, scalar: Scalar, count: u32, offset: u32) -> RecordBuilder {
        self.push(name, scalar, count, u64::from(offset))
    }

    /// Leaves `bytes` bytes unnamed.
    pub fn padding(mut self, bytes: u32) -> RecordBuilder {
        self.cursor = self.cursor.saturating_add(u64::from(bytes));
        self.end = self.end.max(self.cursor);
        self
    }

    /// Sets the size in bytes, instead of the end rounded up to the largest alignment of a field.
    pub fn size(mut self, bytes: u32) -> RecordBuilder {
        self.size = Some(u64::from(bytes));
        self
    }

    fn push(mut self, name: &str, scalar: Scalar, count: u32, offset: u64) -> RecordBuilder {
        // An offset that does not fit is remembered as the error, the rest of the layout no longer matters.
        match u32::try_from(offset) {
            Ok(offset) => self.fields.push(Field {
                name: name.to_owned(),
                offset,
                scalar,
                count,
            }),
            Err(_) => {
                self.error
                    .get_or_insert(SchemaError::TooLarge { size: offset });
            }
        }
        self.cursor = offset.saturating_add(scalar.size() as u64 * u64::from(count));
        self.end = self.end.max(self.cursor);
        self
    }

    /// The finished schema.
    ///
    /// # Errors
    ///
    /// Bad or repeated names, no fields or too many, overlaps, more than 1 GiB.
    pub fn build(self) -> Result<Schema, SchemaError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let size = self
            .size
            .unwrap_or_else(|| natural_size(&self.fields, self.end));
        checked_record(self.name, self.fields, size)
    }
}
