//! The binary form of a schema, in the layout that the parent module gives.

use super::{
    FIELDS_MAX, Field, SCHEMA_MAGIC, SCHEMA_VERSION, Scalar, Schema, SchemaError, Shape,
    checked_record,
};

const KIND_ARRAY: u16 = 1;
const KIND_RECORD: u16 = 2;
pub(super) const HEADER_BYTES: usize = 20;
/// A field without its name.
const FIELD_BYTES: usize = 12;

impl Schema {
    /// The bytes of this schema, in the layout that the [module](super) gives.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, count, scalar, name) = match &self.shape {
            Shape::Array { scalar, count } => (KIND_ARRAY, *count, scalar.code() as u16, ""),
            Shape::Record { name, fields } => (KIND_RECORD, fields.len() as u32, 0, name.as_str()),
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + name.len() + self.fields().len() * 24);
        out.extend(SCHEMA_MAGIC.to_le_bytes());
        out.extend(SCHEMA_VERSION.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend(scalar.to_le_bytes());
        out.extend((name.len() as u16).to_le_bytes());
        out.extend(name.as_bytes());
        for field in self.fields() {
            out.extend(field.offset.to_le_bytes());
            out.extend(field.count.to_le_bytes());
            out.extend((field.scalar.code() as u16).to_le_bytes());
            out.extend((field.name.len() as u16).to_le_bytes());
            out.extend(field.name.as_bytes());
        }
        out
    }

    /// Reads back what [`Schema::encode`] wrote. `bytes` may be anything: it is checked, and never panics.
    ///
    /// # Errors
    ///
    /// Says what is wrong and where; bytes after the end of the schema are an error too.
    pub fn decode(bytes: &[u8]) -> Result<Schema, SchemaError> {
        let mut reader = Reader { bytes, at: 0 };
        let found = reader.u32("the magic")?;
        if found != SCHEMA_MAGIC {
            return Err(SchemaError::BadMagic { found });
        }
        let found = reader.u16("the version")?;
        if found != SCHEMA_VERSION {
            return Err(SchemaError::UnsupportedVersion {
                expected: SCHEMA_VERSION,
                found,
            });
        }
        let kind = reader.u16("the kind")?;
        let size = reader.u32("the size")?;
        let count = reader.u32("the count")?;
        let code = reader.u16("the element type")?;
        let name = reader.name()?;
        let schema = match kind {
            KIND_ARRAY => {
                let schema = Schema::array(Scalar::try_from(u32::from(code))?, count)?;
                if schema.size != size {
                    return Err(corrupt("the size is not that of the elements", 8));
                }
                if !name.is_empty() {
                    return Err(corrupt("an array has a name", 18));
                }
                schema
            }
            KIND_RECORD => {
                if code != 0 {
                    return Err(corrupt("a record has an element type", 16));
                }
                let found = count as usize;
                if found > FIELDS_MAX {
                    return Err(SchemaError::TooManyFields { found });
                }
                // Believe the count only if the bytes are there, so that a lie allocates nothing.
                reader.need("the field table", found * FIELD_BYTES)?;
                let mut fields = Vec::with_capacity(found);
                for _ in 0..found {
                    fields.push(Field {
                        offset: reader.u32("a field's offset")?,
                        count: reader.u32("a field's count")?,
                        scalar: Scalar::try_from(u32::from(reader.u16("a field's type")?))?,
                        name: reader.name()?.to_owned(),
                    });
                }
                checked_record(name.to_owned(), fields, u64::from(size))?
            }
            _ => return Err(corrupt("unknown kind", 6)),
        };
        if reader.at != bytes.len() {
            return Err(corrupt("bytes after the end", reader.at));
        }
        Ok(schema)
    }
}

fn corrupt(what: &'static str, offset: usize) -> SchemaError {
    SchemaError::Corrupt { what, offset }
}

/// Takes an encoding apart, never past its end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn need(&self, what: &'static str, len: usize) -> Result<(), SchemaError> {
        let needed = self.at.saturating_add(len);
        if needed > self.bytes.len() {
            let len = self.bytes.len();
            return Err(SchemaError::Truncated { what, needed, len });
        }
        Ok(())
    }

    fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], SchemaError> {
        self.need(what, len)?;
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, SchemaError> {
        let taken = self.take(what, 2)?;
        Ok(u16::from_le_bytes([taken[0], taken[1]]))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, SchemaError> {
        let taken = self.take(what, 4)?;
        Ok(u32::from_le_bytes([taken[0], taken[1], taken[2], taken[3]]))
    }

    fn name(&mut self) -> Result<&'a str, SchemaError> {
        let len = self.u16("a name's length")?;
        let offset = self.at;
        let taken = self.take("a name", usize::from(len))?;
        std::str::from_utf8(taken).map_err(|_| corrupt("a name is not UTF-8", offset))
    }
}
