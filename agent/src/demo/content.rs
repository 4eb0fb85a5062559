//! What the demo's writers put into pages, so that a page can be judged by its bytes alone.
//!
//! Both kinds of page are 64-bit little-endian words:
//!
//! | word | `demo/writer/N` | `demo/shared` |
//! | --- | --- | --- |
//! | 0 | sequence number of the last write | sum of the counters |
//! | 1 | checksum | checksum |
//! | 2 | the writer, from 0 | who wrote last |
//! | 3 | CLOCK_MONOTONIC when the write began, ns | the same |
//! | 4.. | payload | a counter for each writer, then payload |
//!
//! The checksum is the sum, modulo 2^64, of every other word times an odd constant of its own: a page made of two
//! writes fails it, and one word can be changed without adding up all others. A page of zeros passes.

use mmsb::schema::{Scalar, Schema, SchemaError};

/// Words in a writer's own page: 16 KiB, 256 cache lines, so that a copy takes long enough to be killed in.
pub const OWN_WORDS: usize = 2048;
/// Bytes in a writer's own page.
pub const OWN_BYTES: usize = OWN_WORDS * 8;
/// Words in the shared page: few, as all writers wait for each other there.
pub const SHARED_WORDS: usize = 128;
/// Bytes in the shared page.
pub const SHARED_BYTES: usize = SHARED_WORDS * 8;
/// Most writers: each has a counter in the shared page.
pub const WRITERS_MAX: usize = 32;

/// Sequence number, or sum of the counters.
pub const SEQUENCE: usize = 0;
/// The checksum.
pub const CHECKSUM: usize = 1;
/// Who wrote last.
pub const WRITER: usize = 2;
/// When the write began.
pub const STAMP: usize = 3;
/// First word of the payload, or of the counters.
pub const BODY: usize = 4;

/// Name of the page that all writers share.
pub const SHARED: &str = "demo/shared";

/// Name of a writer's own page.
pub fn own_page(writer: usize) -> String {
    format!("demo/writer/{writer}")
}

/// Schema of a writer's own page.
///
/// # Errors
///
/// None in practice; the fields are constants.
pub fn own_schema() -> Result<Schema, SchemaError> {
    Schema::record("demo_writer")
        .field("sequence", Scalar::U64)
        .field("checksum", Scalar::U64)
        .field("writer", Scalar::U64)
        .field("stamp_ns", Scalar::U64)
        .array_field("payload", Scalar::U64, (OWN_WORDS - BODY) as u32)
        .build()
}

/// Schema of the shared page.
///
/// # Errors
///
/// None for 1 to [`WRITERS_MAX`] writers.
pub fn shared_schema(writers: usize) -> Result<Schema, SchemaError> {
    Schema::record("demo_shared")
        .field("total", Scalar::U64)
        .field("checksum", Scalar::U64)
        .field("last_writer", Scalar::U64)
        .field("stamp_ns", Scalar::U64)
        .array_field("counters", Scalar::U64, writers as u32)
        .array_field(
            "payload",
            Scalar::U64,
            (SHARED_WORDS - BODY - writers) as u32,
        )
        .build()
}

/// The odd constant of a word: splitmix64 of its index.
const fn weight(index: usize) -> u64 {
    let mut z = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) | 1
}

const WEIGHTS: [u64; OWN_WORDS] = {
    let mut weights = [0; OWN_WORDS];
    let mut i = 0;
    while i < OWN_WORDS {
        weights[i] = weight(i);
        i += 1;
    }
    // The checksum does not cover itself.
    weights[CHECKSUM] = 0;
    weights
};

/// Word `index` of a page; 0 behind its end.
pub fn word(page: &[u8], index: usize) -> u64 {
    page.get(index * 8..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Changes a word and keeps the checksum right. The page has that word.
pub fn set_word(page: &mut [u8], index: usize, value: u64) {
    let change = value.wrapping_sub(word(page, index));
    let sum = word(page, CHECKSUM).wrapping_add(change.wrapping_mul(WEIGHTS[index]));
    page[index * 8..index * 8 + 8].copy_from_slice(&value.to_le_bytes());
    page[CHECKSUM * 8..CHECKSUM * 8 + 8].copy_from_slice(&sum.to_le_bytes());
}

/// Whether the page is one write, not parts of two. Anything that is as long as neither page is not.
pub fn is_whole(page: &[u8]) -> bool {
    if page.len() != OWN_BYTES && page.len() != SHARED_BYTES {
        return false;
    }
    let mut sum = 0u64;
    for (word, weight) in page.chunks_exact(8).zip(WEIGHTS) {
        let word = word.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        sum = sum.wrapping_add(word.wrapping_mul(weight));
    }
    sum == word(page, CHECKSUM)
}

/// Which words of the payload the write with this number changes: few, as what a writer spends on its content is time in
/// which a kill hits no commit.
pub fn stretch(sequence: u64, first: usize, end: usize) -> std::ops::Range<usize> {
    let room = end - first;
    let noise = weight(sequence as usize) >> 16;
    let len = 1 + (noise % 12) as usize;
    let start = first + (noise >> 8) as usize % (room - len + 1);
    start..start + len
}

/// Whether the write with this number is of the whole page, changed or not: a record of many slots, and a long copy to
/// be killed in.
pub fn is_of_whole_page(sequence: u64) -> bool {
    sequence.is_multiple_of(8)
}

/// Overwrites words of the payload with something that depends on the number, and keeps the checksum right.
fn fill(page: &mut [u8], words: std::ops::Range<usize>, number: u64) {
    let mut change = 0u64;
    let weights = &WEIGHTS[words.clone()];
    let payload = page[words.start * 8..words.end * 8].chunks_exact_mut(8);
    for ((bytes, weight), index) in payload.zip(weights).zip(words) {
        let before = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let after = number ^ (index as u64) << 48;
        bytes.copy_from_slice(&after.to_le_bytes());
        change = change.wrapping_add(after.wrapping_sub(before).wrapping_mul(*weight));
    }
    let sum = word(page, CHECKSUM).wrapping_add(change);
    page[CHECKSUM * 8..CHECKSUM * 8 + 8].copy_from_slice(&sum.to_le_bytes());
}

/// Makes the next write of a writer's own page in `page`, which holds the last one. Returns the words of the payload
/// that changed; the first [`BODY`] words always do, and the last one in a write of the whole page.
pub fn next_own(page: &mut [u8], writer: usize, stamp_ns: u64) -> std::ops::Range<usize> {
    let sequence = word(page, SEQUENCE) + 1;
    set_word(page, SEQUENCE, sequence);
    set_word(page, WRITER, writer as u64);
    set_word(page, STAMP, stamp_ns);
    let words = stretch(sequence, BODY, OWN_WORDS);
    fill(page, words.clone(), sequence);
    if is_of_whole_page(sequence) {
        // Also the end, so that a copy which stops anywhere leaves a torn page.
        set_word(page, OWN_WORDS - 1, sequence);
    }
    words
}

/// Makes a writer's next write of the shared page in `page`. Returns the writer's counter.
pub fn next_shared(page: &mut [u8], writer: usize, writers: usize, stamp_ns: u64) -> u64 {
    let counter = word(page, BODY + writer) + 1;
    set_word(page, BODY + writer, counter);
    set_word(page, SEQUENCE, word(page, SEQUENCE) + 1);
    set_word(page, WRITER, writer as u64);
    set_word(page, STAMP, stamp_ns);
    fill(
        page,
        stretch(counter, BODY + writers, SHARED_WORDS),
        counter,
    );
    counter
}

/// Whether the sum in the shared page is that of its counters.
pub fn is_balanced(page: &[u8], writers: usize) -> bool {
    let counters = (0..writers).map(|writer| word(page, BODY + writer));
    counters.fold(0, u64::wrapping_add) == word(page, SEQUENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_leaves_a_whole_page() {
        let mut own = vec![0; OWN_BYTES];
        let mut shared = vec![0; SHARED_BYTES];
        assert!(is_whole(&own));
        for i in 0..500 {
            let words = next_own(&mut own, 3, 1000 + i);
            assert!(words.start >= BODY && words.end <= OWN_WORDS && !words.is_empty());
            assert!(is_whole(&own), "{i}");
            assert_eq!(word(&own, SEQUENCE), i + 1);
            next_shared(&mut shared, (i % 2) as usize, 2, i);
            assert!(is_whole(&shared) && is_balanced(&shared, 2), "{i}");
        }
        assert_eq!((word(&shared, BODY), word(&shared, BODY + 1)), (250, 250));
    }

    #[test]
    fn a_page_of_two_writes_is_not_whole() {
        let mut before = vec![0; OWN_BYTES];
        for _ in 0..16 {
            next_own(&mut before, 0, 7);
        }
        let mut after = before.clone();
        next_own(&mut after, 0, 9);
        // Every place where the copy could have stopped, from either end, but for those where nothing differs.
        for cut in 0..=OWN_WORDS {
            let mut torn = after[..cut * 8].to_vec();
            torn.extend_from_slice(&before[cut * 8..]);
            let same = torn == before || torn == after;
            assert_eq!(is_whole(&torn), same, "{cut}");
            let mut torn = before[..cut * 8].to_vec();
            torn.extend_from_slice(&after[cut * 8..]);
            let same = torn == before || torn == after;
            assert_eq!(is_whole(&torn), same, "{cut}");
        }
        assert!(!is_whole(&after[..OWN_BYTES - 8]));
    }

    #[test]
    fn schemas_are_as_long_as_the_pages() {
        assert_eq!(own_schema().unwrap().size(), OWN_BYTES);
        for writers in [1, 2, WRITERS_MAX] {
            assert_eq!(shared_schema(writers).unwrap().size(), SHARED_BYTES);
        }
    }
}
