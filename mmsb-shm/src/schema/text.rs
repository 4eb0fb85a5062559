//! The text form of a schema: `parse` and `Display` are each other's inverse.

use std::fmt;

use super::{FIELDS_MAX, Field, Scalar, Schema, SchemaError, Shape, natural_size};

pub(super) fn parse(text: &str) -> Result<Schema, SchemaError> {
    let mut cursor = Cursor { rest: text, at: 0 };
    cursor.skip_spaces();
    let first = cursor.word();
    cursor.skip_spaces();
    match cursor.peek() {
        Some(':') => record(cursor, "", first, false),
        Some('{') => {
            cursor.bump();
            cursor.skip_spaces();
            let word = cursor.word();
            record(cursor, first, word, true)
        }
        _ => {
            let scalar: Scalar = if first.is_empty() {
                return Err(cursor.expected("an element type, or name:type"));
            } else {
                first.parse()?
            };
            let count = cursor.count()?;
            cursor.skip_spaces();
            if cursor.peek().is_some() {
                return Err(cursor.expected("the end, or name:type for a record"));
            }
            Schema::array(scalar, count)
        }
    }
}

/// `word` is the first field's name, already read; `braces` says whether a brace was opened before it.
fn record<'a>(
    mut cursor: Cursor<'a>,
    name: &str,
    mut word: &'a str,
    braces: bool,
) -> Result<Schema, SchemaError> {
    let mut builder = Schema::record(name);
    let mut found = 0usize;
    loop {
        cursor.skip_spaces();
        if word.is_empty() && cursor.peek() == Some('@') && found > 0 {
            cursor.bump();
            builder = builder.size(cursor.number()?);
            cursor.skip_spaces();
            break;
        }
        if word.is_empty() {
            return Err(cursor.expected("a field's name"));
        }
        if cursor.peek() != Some(':') {
            return Err(cursor.expected("':' and the field's type"));
        }
        cursor.bump();
        cursor.skip_spaces();
        let scalar = cursor.word();
        if scalar.is_empty() {
            return Err(cursor.expected("the field's type"));
        }
        let scalar: Scalar = scalar.parse()?;
        let count = cursor.count()?;
        cursor.skip_spaces();
        builder = if cursor.peek() == Some('@') {
            cursor.bump();
            builder.field_at(word, scalar, count, cursor.number()?)
        } else {
            builder.array_field(word, scalar, count)
        };
        found += 1;
        // Text is as long as its sender likes: stop here, not after millions of fields.
        if found > FIELDS_MAX {
            return Err(SchemaError::TooManyFields { found });
        }
        cursor.skip_spaces();
        if cursor.peek() != Some(',') {
            break;
        }
        cursor.bump();
        cursor.skip_spaces();
        word = cursor.word();
    }
    if braces {
        if cursor.peek() != Some('}') {
            return Err(cursor.expected("',' or '}'"));
        }
        cursor.bump();
        cursor.skip_spaces();
    }
    if cursor.peek().is_some() {
        return Err(cursor.expected("',' or the end"));
    }
    builder.build()
}

struct Cursor<'a> {
    rest: &'a str,
    /// Characters before `rest`.
    at: usize,
}

impl<'a> Cursor<'a> {
    fn expected(&self, what: &'static str) -> SchemaError {
        SchemaError::Syntax { what, at: self.at }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) {
        let mut chars = self.rest.chars();
        if chars.next().is_some() {
            self.at += 1;
        }
        self.rest = chars.as_str();
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.at += taken.chars().count();
        taken
    }

    fn skip_spaces(&mut self) {
        self.take_while(char::is_whitespace);
    }

    /// A name or type, possibly empty; whether it is a good name is the builder's business.
    fn word(&mut self) -> &'a str {
        self.take_while(|c| !c.is_whitespace() && !":,=@[]{}\"".contains(c))
    }

    fn number(&mut self) -> Result<u32, SchemaError> {
        self.skip_spaces();
        let at = self.at;
        let digits = self.take_while(|c| c.is_ascii_digit());
        digits.parse().map_err(|_| SchemaError::Syntax {
            what: "a number that fits in 32 bits",
            at,
        })
    }

    /// `[n]`, or nothing for one element.
    fn count(&mut self) -> Result<u32, SchemaError> {
        self.skip_spaces();
        if self.peek() != Some('[') {
            return Ok(1);
        }
        self.bump();
        let count = self.number()?;
        self.skip_spaces();
        if self.peek() != Some(']') {
            return Err(self.expected("']'"));
        }
        self.bump();
        Ok(count)
    }
}

/// The text form, such that [`Schema::parse`] gives the schema back.
impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, fields) = match &self.shape {
            Shape::Array { scalar, count } => return element(f, *scalar, *count),
            Shape::Record { name, fields } => (name, fields),
        };
        if !name.is_empty() {
            write!(f, "{name}{{")?;
        }
        let mut natural = 0u64;
        for (i, field) in fields.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{field}")?;
            if u64::from(field.offset) != natural.next_multiple_of(field.scalar.size() as u64) {
                write!(f, "@{}", field.offset)?;
            }
            natural = field.end();
        }
        if u64::from(self.size) != natural_size(fields, 0) {
            write!(f, ",@{}", self.size)?;
        }
        if !name.is_empty() {
            f.write_str("}")?;
        }
        Ok(())
    }
}

/// Name, type and count, as in `bids:f64[10]`; without the offset.
impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.name)?;
        element(f, self.scalar, self.count)
    }
}

fn element(f: &mut fmt::Formatter<'_>, scalar: Scalar, count: u32) -> fmt::Result {
    if count == 1 {
        write!(f, "{scalar}")
    } else {
        write!(f, "{scalar}[{count}]")
    }
}
