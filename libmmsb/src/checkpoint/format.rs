//! The bytes of a checkpoint file, as docs/checkpoint-format.md has them.

use std::path::Path;

use mmsb_shm::{BusConfig, Cold, PageId};

use super::{CheckpointError, CheckpointInfo};
use crate::state::PageShape;

/// First bytes of a checkpoint file.
pub(super) const MAGIC: &[u8; 8] = b"MMSBCKPT";
/// Files of another major version are refused.
pub(super) const MAJOR: u32 = 1;
/// Of the writer; readers ignore it.
pub(super) const MINOR: u32 = 0;
/// What every chunk begins at a multiple of.
pub(super) const ALIGN: usize = 4096;
/// Bytes of the file header.
pub(super) const HEADER: usize = ALIGN;
/// Most bytes of a chunk that a writer makes.
pub(super) const CHUNK: usize = 1 << 20;
/// Most bytes of a chunk that a reader takes.
pub(super) const CHUNK_MAX: u32 = 16 << 20;
/// Bytes ahead of a page's description and content.
pub(super) const RECORD: usize = 64;
/// Bytes of an entry of the index.
pub(super) const ENTRY: usize = 24;

/// Memory that begins at a multiple of [`ALIGN`].
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn new(len: usize) -> Aligned {
        let memory = vec![0u8; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Aligned { memory, start, len }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Pages = 1,
    Generations = 2,
    Sources = 3,
}

/// An entry of the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) at: u64,
    /// Without the zeros up to the next multiple of [`ALIGN`].
    pub(super) len: u32,
    /// crc32c of the chunk with these zeros.
    pub(super) crc: u32,
    pub(super) holds: u32,
    pub(super) records: u32,
}

impl Entry {
    /// Bytes that it takes in the file.
    pub(super) fn padded(&self) -> usize {
        (self.len as usize).next_multiple_of(ALIGN)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.at.to_le_bytes());
        for word in [self.len, self.crc, self.holds, self.records] {
            out.extend(word.to_le_bytes());
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Entry> {
        Some(Entry {
            at: u64_at(bytes, 0)?,
            len: u32_at(bytes, 8)?,
            crc: u32_at(bytes, 12)?,
            holds: u32_at(bytes, 16)?,
            records: u32_at(bytes, 20)?,
        })
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..at.checked_add(8)?)?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)
}

/// Where the index is, and what it must hash to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IndexAt {
    pub(super) at: u64,
    pub(super) entries: u64,
    pub(super) crc: u32,
}

impl IndexAt {
    pub(super) fn bytes(&self) -> Option<u64> {
        self.entries.checked_mul(ENTRY as u64)
    }

    /// Length of a file whose index this is.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        self.at
            .checked_add(self.bytes()?.checked_next_multiple_of(ALIGN as u64)?)
    }
}

pub(super) fn encode_header(info: &CheckpointInfo, index: &IndexAt, out: &mut [u8]) {
    out.fill(0);
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, MAGIC);
    put(8, &MAJOR.to_le_bytes());
    put(12, &MINOR.to_le_bytes());
    let words = [
        info.log_id[0],
        info.log_id[1],
        info.incarnation,
        info.begin_lsn,
        info.end_lsn,
        info.time_ns,
        info.created_ns,
        info.pages,
        info.page_bytes,
        index.at,
        index.entries,
    ];
    for (i, word) in words.iter().enumerate() {
        put(16 + i * 8, &word.to_le_bytes());
    }
    put(104, &index.crc.to_le_bytes());
    put(108, &info.ring_slots.to_le_bytes());
    if let Some(c) = &info.config {
        put(112, &c.bytes_max.to_le_bytes());
        put(120, &c.ring_bytes.to_le_bytes());
        let words = [
            c.pages_max,
            c.names_max,
            c.participants_max,
            c.cursors_max,
            c.sources_max,
            c.mode,
            c.ctl_mode,
        ];
        for (i, word) in words.iter().enumerate() {
            put(128 + i * 4, &word.to_le_bytes());
        }
    }
    let name = &info.bus.as_bytes()[..info.bus.len().min(100)];
    put(156, &(name.len() as u32).to_le_bytes());
    put(160, name);
    let crc = crc32c::crc32c(&out[..HEADER - 4]);
    out[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
}

pub(super) fn decode_header(
    path: &Path,
    header: &[u8],
) -> Result<(CheckpointInfo, IndexAt), CheckpointError> {
    let damaged = |what| CheckpointError::Damaged {
        path: path.to_owned(),
        offset: 0,
        what,
    };
    if header.get(..8) != Some(MAGIC) {
        return Err(CheckpointError::Foreign {
            path: path.to_owned(),
            what: "it does not begin as a checkpoint does",
        });
    }
    let u32_of = |at| u32_at(header, at).ok_or(damaged("header is cut"));
    let u64_of = |at| u64_at(header, at).ok_or(damaged("header is cut"));
    let whole = header
        .get(..HEADER - 4)
        .is_some_and(|h| Some(crc32c::crc32c(h)) == u32_at(header, HEADER - 4));
    // A newer format may keep its checksum elsewhere, so the version comes first; one that was only flipped into being
    // newer is refused all the same.
    let major = u32_of(8)?;
    if major != MAJOR {
        return Err(CheckpointError::Newer {
            path: path.to_owned(),
            found: major,
            supported: MAJOR,
        });
    }
    if !whole {
        return Err(damaged("checksum of the header"));
    }
    let bytes_max = u64_of(112)?;
    let config = if bytes_max == 0 {
        None
    } else {
        Some(BusConfig {
            bytes_max,
            ring_bytes: u64_of(120)?,
            pages_max: u32_of(128)?,
            names_max: u32_of(132)?,
            participants_max: u32_of(136)?,
            cursors_max: u32_of(140)?,
            sources_max: u32_of(144)?,
            mode: u32_of(148)?,
            ctl_mode: u32_of(152)?,
        })
    };
    let name_len = u32_of(156)? as usize;
    let bus = header
        .get(160..160 + name_len.min(100))
        .filter(|_| name_len <= 100)
        .and_then(|name| std::str::from_utf8(name).ok())
        .ok_or(damaged("name of the bus"))?
        .to_owned();
    let index = IndexAt {
        at: u64_of(88)?,
        entries: u64_of(96)?,
        crc: u32_of(104)?,
    };
    let info = CheckpointInfo {
        path: path.to_owned(),
        log_id: [u64_of(16)?, u64_of(24)?],
        incarnation: u64_of(32)?,
        begin_lsn: u64_of(40)?,
        end_lsn: u64_of(48)?,
        time_ns: u64_of(56)?,
        created_ns: u64_of(64)?,
        pages: u64_of(72)?,
        page_bytes: u64_of(80)?,
        ring_slots: u32_of(108)?,
        config,
        bus,
        file_bytes: index.file_bytes().ok_or(damaged("length of the index"))?,
    };
    if info.begin_lsn > info.end_lsn {
        return Err(damaged("LSNs of the header"));
    }
    Ok((info, index))
}

/// One page, or a part of it.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) shape: PageShape,
    pub(super) size: u32,
    pub(super) hash: u128,
    pub(super) offset: u32,
    pub(super) cold: &'a [u8],
    pub(super) bytes: &'a [u8],
}

/// Bytes that a record takes in its chunk.
pub(super) fn record_bytes(cold: usize, bytes: usize) -> usize {
    RECORD + (cold + bytes).next_multiple_of(8)
}

impl<'a> Record<'a> {
    pub(super) fn encode(&self, out: &mut [u8]) -> usize {
        let total = record_bytes(self.cold.len(), self.bytes.len());
        let out = &mut out[..total];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.shape.id.index.to_le_bytes());
        put(4, &self.shape.id.generation.to_le_bytes());
        put(8, &self.size.to_le_bytes());
        put(12, &self.shape.versions.to_le_bytes());
        put(16, &self.shape.epoch.to_le_bytes());
        put(24, &self.shape.lsn.to_le_bytes());
        put(32, &self.hash.to_le_bytes());
        put(48, &self.offset.to_le_bytes());
        put(52, &(self.bytes.len() as u32).to_le_bytes());
        put(56, &(self.cold.len() as u32).to_le_bytes());
        put(60, &[0; 4]);
        put(RECORD, self.cold);
        put(RECORD + self.cold.len(), self.bytes);
        out[RECORD + self.cold.len() + self.bytes.len()..].fill(0);
        total
    }

    /// Takes the first record off `chunk`.
    pub(super) fn decode(chunk: &mut &'a [u8]) -> Option<Record<'a>> {
        let (bytes, cold) = (u32_at(chunk, 52)? as usize, u32_at(chunk, 56)? as usize);
        let record = chunk.get(..record_bytes(cold, bytes))?;
        *chunk = &chunk[record.len()..];
        Some(Record {
            shape: PageShape {
                id: PageId {
                    index: u32_at(record, 0)?,
                    generation: u32_at(record, 4)?,
                },
                versions: u32_at(record, 12)?,
                epoch: u64_at(record, 16)?,
                lsn: u64_at(record, 24)?,
            },
            size: u32_at(record, 8)?,
            hash: u128::from(u64_at(record, 32)?) | u128::from(u64_at(record, 40)?) << 64,
            offset: u32_at(record, 48)?,
            cold: record.get(RECORD..RECORD + cold)?,
            bytes: record.get(RECORD + cold..RECORD + cold + bytes)?,
        })
    }
}

/// Empty for a page without name, schema and metadata.
pub(super) fn encode_cold(cold: &Cold) -> Vec<u8> {
    let mut out = Vec::new();
    if cold.is_empty() && cold.schema_hash == 0 {
        return out;
    }
    out.extend(cold.schema_hash.to_le_bytes());
    for len in [cold.name.len(), cold.schema.len(), cold.meta.len()] {
        out.extend((len as u32).to_le_bytes());
    }
    out.extend(cold.name.as_bytes());
    out.extend(&cold.schema);
    for (key, value) in &cold.meta {
        out.extend((key.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
        out.extend(key.as_bytes());
        out.extend(value.as_bytes());
    }
    out
}

pub(super) fn decode_cold(bytes: &[u8]) -> Option<Cold> {
    if bytes.is_empty() {
        return Some(Cold::default());
    }
    let (name, schema, pairs) = (
        u32_at(bytes, 8)? as usize,
        u32_at(bytes, 12)? as usize,
        u32_at(bytes, 16)? as usize,
    );
    let mut rest = bytes.get(20..)?;
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head)
    };
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let name = text(take(name)?)?;
    let schema = take(schema)?.to_vec();
    let mut meta = Vec::new();
    for _ in 0..pairs {
        let lens = take(8)?;
        let (key, value) = (u32_at(lens, 0)? as usize, u32_at(lens, 4)? as usize);
        meta.push((text(take(key)?)?, text(take(value)?)?));
    }
    rest.is_empty().then_some(Cold {
        name,
        schema_hash: u64_at(bytes, 0)?,
        schema,
        meta,
    })
}
