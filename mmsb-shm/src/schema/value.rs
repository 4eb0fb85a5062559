//! Values of fields: from a page's bytes, and from text to bytes.

use std::fmt;

use super::{Field, Scalar, Schema, SchemaError};

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// An unsigned number of any width.
    U64(u64),
    /// A signed number of any width.
    I64(i64),
    /// A 32-bit float. Apart from [`Value::F64`], so that it prints as `0.1`, not as `0.10000000149011612`.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// Text up to the first NUL; bytes that are not UTF-8 show as U+FFFD.
    Text(String),
    /// The elements of a field whose count is not 1.
    List(Vec<Value>),
}

/// As [`Schema::write_value`] takes it back: floats with all their digits, lists as `[1, 2]`, text bare.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U64(value) => value.fmt(f),
            Value::I64(value) => value.fmt(f),
            // Debug of a float is the shortest text that parses back to it, and never a hundred zeros long.
            Value::F32(value) => fmt::Debug::fmt(value, f),
            Value::F64(value) => fmt::Debug::fmt(value, f),
            Value::Bool(value) => value.fmt(f),
            Value::Text(text) => text.fmt(f),
            Value::List(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    value.fmt(f)?;
                }
                f.write_str("]")
            }
        }
    }
}

impl Schema {
    /// The value of `field` in `page`: one value for a count of 1, text for [`Scalar::Char`], else a list.
    ///
    /// The field may come from [`Schema::field`], [`Schema::select`] or the caller: it is checked against the page.
    ///
    /// # Errors
    ///
    /// [`SchemaError::PageTooSmall`] if the page ends before the field.
    pub fn read_value(&self, field: &Field, page: &[u8]) -> Result<Value, SchemaError> {
        let too_small = || SchemaError::PageTooSmall {
            name: field.name.clone(),
            end: field.end(),
            len: page.len(),
        };
        let start = usize::try_from(field.offset).map_err(|_| too_small())?;
        let end = usize::try_from(field.end()).map_err(|_| too_small())?;
        let bytes = page.get(start..end).ok_or_else(too_small)?;
        if field.scalar == Scalar::Char {
            let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
            return Ok(Value::Text(String::from_utf8_lossy(text).into_owned()));
        }
        let mut values = bytes
            .chunks_exact(field.scalar.size())
            .map(|bytes| element(field.scalar, bytes));
        if field.count == 1 {
            // `bytes` is exactly one element long.
            return values.next().ok_or_else(too_small);
        }
        Ok(Value::List(values.collect()))
    }

    /// The bytes that store `text` in `field`, to be put at the field's offset.
    ///
    /// Numbers are decimal or `0x` hexadecimal, `_` between digits is skipped; truth values are `true`, `false`, `1`,
    /// `0`; several values are separated by commas, brackets around them are optional. Text is padded with NUL.
    ///
    /// # Errors
    ///
    /// [`SchemaError::BadValue`], [`SchemaError::OutOfRange`], [`SchemaError::WrongCount`],
    /// [`SchemaError::TextTooLong`]; [`SchemaError::TooLarge`] for a field larger than a page.
    pub fn write_value(&self, field: &Field, text: &str) -> Result<Vec<u8>, SchemaError> {
        let size = super::page_size(field.size())? as usize;
        if field.scalar == Scalar::Char {
            if text.len() > size {
                return Err(SchemaError::TextTooLong {
                    name: field.name.clone(),
                    max: field.count,
                    found: text.len(),
                });
            }
            if text.contains('\0') {
                // It would read back as less than was written.
                return Err(bad_value(field, text));
            }
            let mut out = text.as_bytes().to_vec();
            out.resize(size, 0);
            return Ok(out);
        }
        let list = text.trim();
        let list = match list.strip_prefix('[') {
            None => list,
            Some(inner) => inner
                .strip_suffix(']')
                .ok_or_else(|| bad_value(field, text))?,
        };
        let found = list.split(',').count();
        if found != field.count as usize {
            return Err(SchemaError::WrongCount {
                name: field.name.clone(),
                expected: field.count,
                found,
            });
        }
        let mut out = Vec::with_capacity(size);
        for item in list.split(',') {
            push_element(&mut out, field, item.trim())?;
        }
        Ok(out)
    }
}

fn bad_value(field: &Field, text: &str) -> SchemaError {
    SchemaError::BadValue {
        name: field.name.clone(),
        scalar: field.scalar,
        text: text.to_owned(),
    }
}

/// One element from exactly `scalar.size()` bytes.
fn element(scalar: Scalar, bytes: &[u8]) -> Value {
    let mut raw = [0; 8];
    for (to, from) in raw.iter_mut().zip(bytes) {
        *to = *from;
    }
    // Zero-extended little-endian: truncation gives each narrower type back.
    let word = u64::from_le_bytes(raw);
    match scalar {
        Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64 => Value::U64(word),
        Scalar::I8 => Value::I64(i64::from(word as i8)),
        Scalar::I16 => Value::I64(i64::from(word as i16)),
        Scalar::I32 => Value::I64(i64::from(word as i32)),
        Scalar::I64 => Value::I64(word as i64),
        Scalar::F32 => Value::F32(f32::from_bits(word as u32)),
        Scalar::F64 => Value::F64(f64::from_bits(word)),
        Scalar::Bool => Value::Bool(word != 0),
        Scalar::Char => Value::Text(String::from_utf8_lossy(bytes).into_owned()),
    }
}

fn push_element(out: &mut Vec<u8>, field: &Field, text: &str) -> Result<(), SchemaError> {
    match field.scalar {
        Scalar::U8 => out.extend(integer::<u8>(field, text)?.to_le_bytes()),
        Scalar::I8 => out.extend(integer::<i8>(field, text)?.to_le_bytes()),
        Scalar::U16 => out.extend(integer::<u16>(field, text)?.to_le_bytes()),
        Scalar::I16 => out.extend(integer::<i16>(field, text)?.to_le_bytes()),
        Scalar::U32 => out.extend(integer::<u32>(field, text)?.to_le_bytes()),
        Scalar::I32 => out.extend(integer::<i32>(field, text)?.to_le_bytes()),
        Scalar::U64 => out.extend(integer::<u64>(field, text)?.to_le_bytes()),
        Scalar::I64 => out.extend(integer::<i64>(field, text)?.to_le_bytes()),
        Scalar::F32 => {
            let value: f32 = text.parse().map_err(|_| bad_value(field, text))?;
            finite_unless_said(field, text, value.is_infinite())?;
            out.extend(value.to_le_bytes());
        }
        Scalar::F64 => {
            let value: f64 = text.parse().map_err(|_| bad_value(field, text))?;
            finite_unless_said(field, text, value.is_infinite())?;
            out.extend(value.to_le_bytes());
        }
        Scalar::Bool => out.push(match text {
            "true" | "1" => 1,
            "false" | "0" => 0,
            _ => return Err(bad_value(field, text)),
        }),
        // `write_value` stores text as a whole.
        Scalar::Char => return Err(bad_value(field, text)),
    }
    Ok(())
}

/// `1e400` parses as infinity; only `inf` may be stored as one.
fn finite_unless_said(field: &Field, text: &str, infinite: bool) -> Result<(), SchemaError> {
    if infinite && text.bytes().any(|byte| byte.is_ascii_digit()) {
        return Err(out_of_range(field, text));
    }
    Ok(())
}

fn out_of_range(field: &Field, text: &str) -> SchemaError {
    SchemaError::OutOfRange {
        name: field.name.clone(),
        scalar: field.scalar,
        text: text.to_owned(),
    }
}

fn integer<T: TryFrom<i128>>(field: &Field, text: &str) -> Result<T, SchemaError> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(digits) => (16, digits),
        None => (10, digits),
    };
    let mut value: i128 = 0;
    let mut any = false;
    for c in digits.chars() {
        if c == '_' && any {
            continue;
        }
        let digit = c.to_digit(radix).ok_or_else(|| bad_value(field, text))?;
        any = true;
        // Saturates far beyond every type, so that the rest of the text is still checked.
        value = value
            .saturating_mul(i128::from(radix))
            .saturating_add(i128::from(digit));
    }
    if !any {
        return Err(bad_value(field, text));
    }
    let value = if negative { -value } else { value };
    T::try_from(value).map_err(|_| out_of_range(field, text))
}
