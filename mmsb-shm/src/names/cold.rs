//! What is known about a page beside its bytes, and how it is stored.

use crate::PageId;
use crate::error::PageError;
use crate::layout::NAME_BYTES_MAX;
use crate::layout::page::COLD_HEADER;

/// Longest schema plus metadata, in bytes.
pub const COLD_BYTES_MAX: usize = 64 << 10;

/// What is known about a page beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cold {
    /// Name; empty: none.
    pub name: String,
    /// Hash of the schema; 0: none.
    pub schema_hash: u64,
    /// Encoded schema (see [`crate::schema::Schema`]); empty: none.
    pub schema: Vec<u8>,
    /// Metadata key-values.
    pub meta: Vec<(String, String)>,
}

impl Cold {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.name.is_empty() && self.schema.is_empty() && self.meta.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), PageError> {
        check_page_name(&self.name)?;
        let bytes = self.schema.len()
            + self
                .meta
                .iter()
                .map(|(k, v)| k.len() + v.len() + 8)
                .sum::<usize>();
        if bytes > COLD_BYTES_MAX {
            return Err(PageError::TooLong {
                what: "schema and metadata",
                bytes,
                max: COLD_BYTES_MAX,
            });
        }
        Ok(())
    }

    /// The payload of a cold block.
    pub(super) fn encode(&self, id: PageId) -> Vec<u8> {
        let mut meta = Vec::new();
        for (key, value) in &self.meta {
            meta.extend((key.len() as u32).to_le_bytes());
            meta.extend((value.len() as u32).to_le_bytes());
            meta.extend(key.as_bytes());
            meta.extend(value.as_bytes());
        }
        let mut out =
            Vec::with_capacity(COLD_HEADER + self.name.len() + self.schema.len() + meta.len());
        out.extend(id.index.to_le_bytes());
        out.extend(id.generation.to_le_bytes());
        out.extend(self.schema_hash.to_le_bytes());
        for len in [self.name.len(), self.schema.len(), meta.len(), 0] {
            out.extend((len as u32).to_le_bytes());
        }
        out.extend(self.name.as_bytes());
        out.extend(&self.schema);
        out.extend(meta);
        out
    }

    /// The reverse, from bytes that may be anything.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(PageId, Cold)> {
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let id = PageId {
            index: u32_at(0)?,
            generation: u32_at(4)?,
        };
        let schema_hash = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
        let (name_len, schema_len, meta_len) = (
            u32_at(16)? as usize,
            u32_at(20)? as usize,
            u32_at(24)? as usize,
        );
        let mut rest = bytes.get(COLD_HEADER..)?;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let name = String::from_utf8(take(name_len)?.to_vec()).ok()?;
        let schema = take(schema_len)?.to_vec();
        let mut encoded = take(meta_len)?;
        let mut meta = Vec::new();
        while !encoded.is_empty() {
            let (head, tail) = encoded.split_at_checked(8)?;
            let key_len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
            let value_len = u32::from_le_bytes(head[4..].try_into().ok()?) as usize;
            let (key, tail) = tail.split_at_checked(key_len)?;
            let (value, tail) = tail.split_at_checked(value_len)?;
            meta.push((
                String::from_utf8(key.to_vec()).ok()?,
                String::from_utf8(value.to_vec()).ok()?,
            ));
            encoded = tail;
        }
        Some((
            id,
            Cold {
                name,
                schema_hash,
                schema,
                meta,
            },
        ))
    }
}

/// Checks a page name: at most 255 bytes of UTF-8 without control characters; empty means no name.
pub fn check_page_name(name: &str) -> Result<(), PageError> {
    let bad = |why| {
        Err(PageError::BadName {
            name: name.to_owned(),
            why,
        })
    };
    if name.len() > NAME_BYTES_MAX {
        return bad("it is longer than 255 bytes");
    }
    if name.chars().any(char::is_control) {
        return bad("it has control characters");
    }
    Ok(())
}
