//! What a delta changed, by the page's schema: the fields and elements that lie in its ranges.

use mmsb::schema::{Field, Schema};
use serde_json::{Value, json};

use super::super::value::{shown, value_json};

/// Fields shown in a line.
const FIELDS_SHOWN: usize = 8;
/// Elements of an array shown in a line.
const ELEMENTS_SHOWN: u32 = 6;
/// Bytes shown in hex in a line.
const BYTES_SHOWN: usize = 24;

/// Decodes ranges of a page.
pub(in crate::cli) struct Changes {
    schema: Option<Schema>,
    /// The fields by offset; of an array, the one field that it is.
    fields: Vec<Field>,
}

/// Elements of a field that a range covers whole.
struct Covered<'f> {
    field: &'f Field,
    first: u32,
    count: u32,
}

impl Covered<'_> {
    fn is_all(&self) -> bool {
        self.count == self.field.count
    }

    /// `price`, `bids[2]`, `bids[2..5]`; of an array without a name, `[2..5]`.
    fn name(&self) -> String {
        if self.is_all() && !self.field.name.is_empty() {
            return self.field.name.clone();
        }
        match self.count {
            1 => format!("{}[{}]", self.field.name, self.first),
            n => format!("{}[{}..{}]", self.field.name, self.first, self.first + n),
        }
    }
}

impl Changes {
    pub(in crate::cli) fn new(schema: Option<Schema>) -> Changes {
        let mut fields: Vec<Field> = match &schema {
            None => Vec::new(),
            Some(schema) => match schema.select("") {
                Some(whole) => vec![whole],
                None => schema.fields().to_vec(),
            },
        };
        fields.sort_by_key(|field| field.offset);
        Changes { schema, fields }
    }

    /// Calls `f` with the decoded elements, at most `elements` of each field.
    fn decode(
        &self,
        ranges: &[(u32, Vec<u8>)],
        elements: u32,
        mut f: impl FnMut(&Covered<'_>, mmsb::schema::Value),
    ) {
        let Some(schema) = &self.schema else {
            return;
        };
        for (offset, bytes) in ranges {
            let (from, to) = (u64::from(*offset), u64::from(*offset) + bytes.len() as u64);
            let begin = self.fields.partition_point(|field| field.end() <= from);
            for field in &self.fields[begin..] {
                if u64::from(field.offset) >= to {
                    break;
                }
                let size = field.scalar.size() as u64;
                let base = u64::from(field.offset);
                // Only whole elements: of one that is cut, the other bytes are not in the delta.
                let first = from.saturating_sub(base).div_ceil(size);
                let end = ((to - base) / size).min(u64::from(field.count));
                if first >= end {
                    continue;
                }
                // Both are at most the field's count, which is 32 bits wide.
                let covered = Covered {
                    field,
                    first: first as u32,
                    count: (end - first) as u32,
                };
                // A slice of the range takes the place of the page, and a field at its start that of the field.
                let start = (base + first * size - from) as usize;
                let count = covered.count.min(elements);
                let part = Field {
                    name: String::new(),
                    offset: 0,
                    scalar: field.scalar,
                    count,
                };
                let slice = &bytes[start..start + part.size() as usize];
                if let Ok(value) = schema.read_value(&part, slice) {
                    f(&covered, value);
                }
            }
        }
    }

    /// Ranges `(from, to)` of the page, made to hold the elements that they cut whole; ascending and disjoint.
    pub(in crate::cli) fn whole_elements(&self, ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let mut wide: Vec<(u32, u32)> = Vec::new();
        for (from, to) in ranges {
            let (mut from, mut to) = (u64::from(*from), u64::from(*to));
            for field in &self.fields {
                let (base, size) = (u64::from(field.offset), field.scalar.size() as u64);
                if base <= from && from < field.end() {
                    from -= (from - base) % size;
                }
                if base < to && to <= field.end() {
                    to = base + (to - base).next_multiple_of(size);
                }
            }
            // Within the page, whose size is 32 bits wide.
            let (from, to) = (from as u32, to as u32);
            match wide.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => wide.push((from, to)),
            }
        }
        wide
    }

    /// One line for people.
    pub(in crate::cli) fn text(&self, ranges: &[(u32, Vec<u8>)]) -> String {
        let mut parts: Vec<String> = Vec::new();
        let mut more = 0;
        // Text is worth showing whole; numbers are cut below.
        self.decode(ranges, 256, |covered, value| {
            if parts.len() >= FIELDS_SHOWN {
                more += 1;
                return;
            }
            let value = match value {
                mmsb::schema::Value::List(values) => {
                    let kept = values.len().min(ELEMENTS_SHOWN as usize);
                    let list: Vec<String> = values[..kept].iter().map(shown).collect();
                    let dots = if kept < covered.count as usize {
                        ", …"
                    } else {
                        ""
                    };
                    format!("[{}{dots}]", list.join(", "))
                }
                other => shown(&other),
            };
            parts.push(format!("{}={value}", covered.name()));
        });
        if more > 0 {
            parts.push(format!("and {more} more"));
        }
        if parts.is_empty() {
            parts = ranges.iter().take(4).map(hex).collect();
            if ranges.len() > 4 {
                parts.push(format!("and {} more", ranges.len() - 4));
            }
        }
        parts.join(" ")
    }

    /// An object of the changed fields, or a list of ranges in hex for a page without a schema.
    pub(in crate::cli) fn json(&self, ranges: &[(u32, Vec<u8>)]) -> Value {
        if self.schema.is_none() {
            return ranges
                .iter()
                .map(|(offset, bytes)| json!({"offset": offset, "hex": hex_digits(bytes)}))
                .collect();
        }
        let mut values = serde_json::Map::new();
        self.decode(ranges, u32::MAX, |covered, value| {
            values.insert(covered.name(), value_json(&value));
        });
        values.into()
    }
}

pub(in crate::cli) fn hex_digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex((offset, bytes): &(u32, Vec<u8>)) -> String {
    let kept = bytes.len().min(BYTES_SHOWN);
    let dots = if kept < bytes.len() { "…" } else { "" };
    format!(
        "{offset}..{}: {}{dots}",
        *offset as usize + bytes.len(),
        hex_digits(&bytes[..kept])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(schema: &str) -> Changes {
        Changes::new(Some(Schema::parse(schema).unwrap()))
    }

    fn f64s(values: &[f64]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn fields_and_elements_in_the_ranges_are_decoded() {
        let changes = changes("price:f64,qty:u32,bids:f64[4],host:char[8]");
        // price 0..8, qty 8..12, bids 16..48, host 48..56
        let ranges = [(0, f64s(&[101.5])), (24, f64s(&[1.0, 2.0]))];
        assert_eq!(changes.text(&ranges), "price=101.5 bids[1..3]=[1.0, 2.0]");
        assert_eq!(
            changes.json(&ranges),
            json!({"price": 101.5, "bids[1..3]": [1.0, 2.0]})
        );
        assert_eq!(changes.text(&[(8, vec![7, 0, 0, 0])]), "qty=7");
        assert_eq!(
            changes.text(&[(48, b"abc\0\0\0\0\0".to_vec())]),
            "host=\"abc\""
        );
    }

    #[test]
    fn ranges_are_widened_to_whole_elements() {
        let changes = changes("price:f64,qty:u32,bids:f64[4],host:char[8]");
        assert_eq!(changes.whole_elements(&[(6, 8)]), [(0, 8)]);
        assert_eq!(
            changes.whole_elements(&[(6, 7), (9, 10), (30, 31), (35, 36)]),
            [(0, 12), (24, 40)]
        );
        assert_eq!(Changes::new(None).whole_elements(&[(6, 8)]), [(6, 8)]);
    }

    #[test]
    fn an_element_that_is_cut_is_not_guessed() {
        let changes = changes("bids:f64[4]");
        // From the middle of element 0 to the middle of element 2: only element 1 is whole.
        let mut bytes = f64s(&[5.0, 6.0, 7.0])[4..20].to_vec();
        assert_eq!(changes.json(&[(4, bytes.clone())]), json!({"bids[1]": 6.0}));
        bytes.truncate(3);
        assert_eq!(changes.json(&[(4, bytes.clone())]), json!({}));
        assert_eq!(changes.text(&[(4, bytes)]), "4..7: 000014");
    }

    #[test]
    fn arrays_and_pages_without_a_schema_have_a_form_too() {
        let array = changes("u16[100]");
        let bytes: Vec<u8> = (0u16..10).flat_map(u16::to_le_bytes).collect();
        assert_eq!(array.text(&[(4, bytes)]), "[2..12]=[0, 1, 2, 3, 4, 5, …]");
        let plain = Changes::new(None);
        assert_eq!(plain.text(&[(1, vec![0xab, 0xcd])]), "1..3: abcd");
        assert_eq!(
            plain.json(&[(1, vec![0xab])]),
            json!([{"offset": 1, "hex": "ab"}])
        );
    }
}
