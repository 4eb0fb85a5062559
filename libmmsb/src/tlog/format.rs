//! The bytes of a log file: its header and the headers of its blocks. `docs/tlog-format.md` has the tables.
//!
//! Encoding is infallible; decoding checks everything it returns, and never panics, whatever the bytes.

use mmsb_shm::BusConfig;

/// Major version of the format: another one cannot be read.
pub const MAJOR: u32 = 1;
/// Minor version: additions that older readers may ignore.
pub const MINOR: u32 = 0;
/// Bytes of a file header, and the boundary on which blocks begin.
pub const SECTOR: usize = 4096;
/// Bytes of a block's header.
pub const BLOCK_HEAD: usize = 64;
/// Longest block, its header included.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// A body is a multiple of this.
pub const SLOT: usize = mmsb_shm::wire::SLOT;
/// First bytes of a file.
pub const FILE_MAGIC: [u8; 8] = *b"MMSBTLOG";
/// First bytes of a block.
pub const BLOCK_MAGIC: [u8; 4] = *b"MBLK";
/// Flag of a block: clean end of the file.
pub const SEAL: u32 = 1;
/// Longest bus name.
pub const NAME_MAX: usize = 100;
/// Most forks that a header lists; older ones are left out.
pub const FORKS_MAX: usize = 200;

/// What a bus was made for, in so many numbers.
pub const SIZES: usize = 9;

/// Offsets of the fields of a file header.
pub mod header_at {
    /// [`FILE_MAGIC`](super::FILE_MAGIC).
    pub const MAGIC: usize = 0;
    /// u32.
    pub const MAJOR: usize = 8;
    /// u32.
    pub const MINOR: usize = 12;
    /// Two u64.
    pub const LOG_ID: usize = 16;
    /// u64.
    pub const INCARNATION: usize = 32;
    /// u64.
    pub const FORK_LSN: usize = 40;
    /// u64.
    pub const FIRST_LSN: usize = 48;
    /// u64.
    pub const FILE_ID: usize = 56;
    /// u64.
    pub const CREATED_NS: usize = 64;
    /// u32.
    pub const RING_SLOTS: usize = 72;
    /// u32.
    pub const FORKS: usize = 76;
    /// u32.
    pub const NAME_LEN: usize = 80;
    /// Up to [`NAME_MAX`](super::NAME_MAX) bytes.
    pub const NAME: usize = 84;
    /// u64.
    pub const PREVIOUS_ID: usize = 184;
    /// u64.
    pub const PREVIOUS_BYTES: usize = 192;
    /// u32.
    pub const PREVIOUS_CRC: usize = 200;
    /// Pairs of u64.
    pub const FORK_LIST: usize = 256;
    /// [`SIZES`](super::SIZES) u64.
    pub const SIZES: usize = 3584;
    /// u32.
    pub const CRC: usize = 4092;
}

/// Offsets of the fields of a block header.
pub mod block_at {
    /// [`BLOCK_MAGIC`](super::BLOCK_MAGIC).
    pub const MAGIC: usize = 0;
    /// u32.
    pub const CRC: usize = 4;
    /// u32.
    pub const LEN: usize = 8;
    /// u32.
    pub const PREV: usize = 12;
    /// u64.
    pub const FIRST_LSN: usize = 16;
    /// u64.
    pub const END_LSN: usize = 24;
    /// u64.
    pub const DURABLE_LSN: usize = 32;
    /// u64.
    pub const TIME_NS: usize = 40;
    /// u32.
    pub const RECORDS: usize = 48;
    /// u32.
    pub const FLAGS: usize = 52;
    /// u64.
    pub const FILE_ID: usize = 56;
}

/// A point where the bus began anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The incarnation that began.
    pub incarnation: u64,
    /// Its first LSN.
    pub lsn: u64,
}

/// The file that the same writer filled before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// Its nonce.
    pub file_id: u64,
    /// Bytes of it that belong to the log.
    pub bytes: u64,
    /// Checksum of its last block.
    pub crc: u32,
}

/// Header of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Chosen at random when the log was created.
    pub log_id: [u64; 2],
    /// Incarnation of the bus.
    pub incarnation: u64,
    /// First LSN of this incarnation; 0 for the first.
    pub fork_lsn: u64,
    /// LSN at which this file begins.
    pub first_lsn: u64,
    /// Random nonce of this file, repeated in its blocks.
    pub file_id: u64,
    /// When the bus was created (`CLOCK_REALTIME`), from which its records count.
    pub created_ns: u64,
    /// Ring slots of the bus.
    pub ring_slots: u32,
    /// Past incarnations, oldest first.
    pub forks: Vec<Fork>,
    /// Name of the bus.
    pub bus: String,
    /// The file before, if the same writer filled it.
    pub previous: Option<Previous>,
    /// What the bus was made for: enough to make another one like it.
    pub config: Option<BusConfig>,
}

fn sizes_of(c: &BusConfig) -> [u64; SIZES] {
    [
        c.bytes_max,
        c.pages_max.into(),
        c.names_max.into(),
        c.ring_bytes,
        c.participants_max.into(),
        c.cursors_max.into(),
        c.sources_max.into(),
        c.mode.into(),
        c.ctl_mode.into(),
    ]
}

/// `None` for what no bus can be made for. Whether a bus can be made so is looked at when one is.
fn config_of(sizes: [u64; SIZES]) -> Option<BusConfig> {
    let small = |i: usize| u32::try_from(sizes[i]).ok();
    (sizes[0] != 0).then_some(())?;
    Some(BusConfig {
        bytes_max: sizes[0],
        pages_max: small(1)?,
        names_max: small(2)?,
        ring_bytes: sizes[3],
        participants_max: small(4)?,
        cursors_max: small(5)?,
        sources_max: small(6)?,
        mode: small(7)?,
        ctl_mode: small(8)?,
    })
}

/// Why bytes are no header of this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Nothing like a log file.
    Foreign,
    /// A whole header of another major version.
    Newer(u32),
    /// A header that was changed.
    Damaged(&'static str),
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(b.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let b = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(b.try_into().ok()?))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

impl FileHeader {
    /// The header's bytes. A name longer than [`NAME_MAX`] is cut, and forks beyond [`FORKS_MAX`] are left out.
    pub fn encode(&self) -> [u8; SECTOR] {
        use header_at as at;
        let mut b = [0; SECTOR];
        put(&mut b, at::MAGIC, &FILE_MAGIC);
        put(&mut b, at::MAJOR, &MAJOR.to_le_bytes());
        put(&mut b, at::MINOR, &MINOR.to_le_bytes());
        put(&mut b, at::LOG_ID, &self.log_id[0].to_le_bytes());
        put(&mut b, at::LOG_ID + 8, &self.log_id[1].to_le_bytes());
        put(&mut b, at::INCARNATION, &self.incarnation.to_le_bytes());
        put(&mut b, at::FORK_LSN, &self.fork_lsn.to_le_bytes());
        put(&mut b, at::FIRST_LSN, &self.first_lsn.to_le_bytes());
        put(&mut b, at::FILE_ID, &self.file_id.to_le_bytes());
        put(&mut b, at::CREATED_NS, &self.created_ns.to_le_bytes());
        put(&mut b, at::RING_SLOTS, &self.ring_slots.to_le_bytes());
        let forks = &self.forks[self.forks.len().saturating_sub(FORKS_MAX)..];
        put(&mut b, at::FORKS, &(forks.len() as u32).to_le_bytes());
        for (i, fork) in forks.iter().enumerate() {
            let fork_at = at::FORK_LIST + i * 16;
            put(&mut b, fork_at, &fork.incarnation.to_le_bytes());
            put(&mut b, fork_at + 8, &fork.lsn.to_le_bytes());
        }
        let mut name = self.bus.len().min(NAME_MAX);
        while !self.bus.is_char_boundary(name) {
            name -= 1;
        }
        put(&mut b, at::NAME_LEN, &(name as u32).to_le_bytes());
        put(&mut b, at::NAME, &self.bus.as_bytes()[..name]);
        if let Some(previous) = self.previous {
            put(&mut b, at::PREVIOUS_ID, &previous.file_id.to_le_bytes());
            put(&mut b, at::PREVIOUS_BYTES, &previous.bytes.to_le_bytes());
            put(&mut b, at::PREVIOUS_CRC, &previous.crc.to_le_bytes());
        }
        if let Some(config) = &self.config {
            for (i, size) in sizes_of(config).into_iter().enumerate() {
                put(&mut b, at::SIZES + i * 8, &size.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c(&b[..at::CRC]);
        put(&mut b, at::CRC, &crc.to_le_bytes());
        b
    }

    /// Reads a header, and its checksum, with which the first block is linked.
    ///
    /// # Errors
    /// [`HeaderFault`] says what the bytes are instead.
    pub fn decode(bytes: &[u8]) -> Result<(FileHeader, u32), HeaderFault> {
        use header_at as at;
        let damaged = HeaderFault::Damaged;
        let Some(bytes) = bytes.get(..SECTOR) else {
            let known = bytes.len().min(8);
            return Err(if bytes[..known] == FILE_MAGIC[..known] {
                damaged("the file header is cut")
            } else {
                HeaderFault::Foreign
            });
        };
        let crc = crc32c::crc32c(&bytes[..at::CRC]);
        let stored = u32_at(bytes, at::CRC);
        if bytes[..8] != FILE_MAGIC {
            // A log whose first bytes were changed is damaged, not foreign: the rest still sums up.
            let rest = crc32c::crc32c_append(crc32c::crc32c(&FILE_MAGIC), &bytes[8..at::CRC]);
            return Err(if stored == Some(rest) {
                damaged("the first bytes of the file header")
            } else {
                HeaderFault::Foreign
            });
        }
        if stored != Some(crc) {
            return Err(damaged("the checksum of the file header"));
        }
        let word = |at| u64_at(bytes, at).ok_or(damaged("a field of the file header"));
        let half = |at| u32_at(bytes, at).ok_or(damaged("a field of the file header"));
        // Magic, major version and checksum stay where they are in every version to come.
        let major = half(at::MAJOR)?;
        if major != MAJOR {
            return Err(HeaderFault::Newer(major));
        }
        let name = half(at::NAME_LEN)? as usize;
        let forks = half(at::FORKS)? as usize;
        if name > NAME_MAX || forks > FORKS_MAX {
            return Err(damaged("a length in the file header"));
        }
        let bus = std::str::from_utf8(&bytes[at::NAME..at::NAME + name])
            .map_err(|_| damaged("the bus name in the file header"))?
            .to_owned();
        let forks = (0..forks)
            .map(|i| {
                Ok(Fork {
                    incarnation: word(at::FORK_LIST + i * 16)?,
                    lsn: word(at::FORK_LIST + i * 16 + 8)?,
                })
            })
            .collect::<Result<_, HeaderFault>>()?;
        let previous = Previous {
            file_id: word(at::PREVIOUS_ID)?,
            bytes: word(at::PREVIOUS_BYTES)?,
            crc: half(at::PREVIOUS_CRC)?,
        };
        let mut sizes = [0; SIZES];
        for (i, size) in sizes.iter_mut().enumerate() {
            *size = word(at::SIZES + i * 8)?;
        }
        let header = FileHeader {
            config: config_of(sizes),
            log_id: [word(at::LOG_ID)?, word(at::LOG_ID + 8)?],
            incarnation: word(at::INCARNATION)?,
            fork_lsn: word(at::FORK_LSN)?,
            first_lsn: word(at::FIRST_LSN)?,
            file_id: word(at::FILE_ID)?,
            created_ns: word(at::CREATED_NS)?,
            ring_slots: half(at::RING_SLOTS)?,
            forks,
            bus,
            previous: (previous.file_id != 0).then_some(previous),
        };
        Ok((header, crc))
    }
}

/// Header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHead {
    /// Checksum of everything behind it, up to `len`.
    pub crc: u32,
    /// Bytes of the block, this header included, the zeros behind it not.
    pub len: u32,
    /// Checksum of the block before, or of the file header.
    pub prev: u32,
    /// LSN of its first record.
    pub first_lsn: u64,
    /// LSN behind its last record.
    pub end_lsn: u64,
    /// What was durable when it was submitted.
    pub durable_lsn: u64,
    /// When it was submitted (`CLOCK_REALTIME`).
    pub time_ns: u64,
    /// Records in it.
    pub records: u32,
    /// [`SEAL`] or 0.
    pub flags: u32,
    /// Nonce of its file.
    pub file_id: u64,
}

impl BlockHead {
    /// Writes the header in front of the body that `block` (header and body) holds, and returns its checksum.
    ///
    /// # Panics
    /// If `block` is shorter than a header.
    pub fn encode(&self, block: &mut [u8]) -> u32 {
        use block_at as at;
        put(block, at::MAGIC, &BLOCK_MAGIC);
        put(block, at::LEN, &(block.len() as u32).to_le_bytes());
        put(block, at::PREV, &self.prev.to_le_bytes());
        put(block, at::FIRST_LSN, &self.first_lsn.to_le_bytes());
        put(block, at::END_LSN, &self.end_lsn.to_le_bytes());
        put(block, at::DURABLE_LSN, &self.durable_lsn.to_le_bytes());
        put(block, at::TIME_NS, &self.time_ns.to_le_bytes());
        put(block, at::RECORDS, &self.records.to_le_bytes());
        put(block, at::FLAGS, &self.flags.to_le_bytes());
        put(block, at::FILE_ID, &self.file_id.to_le_bytes());
        let crc = crc32c::crc32c(&block[at::LEN..]);
        put(block, at::CRC, &crc.to_le_bytes());
        crc
    }

    /// Reads a header whose fields make sense by themselves. The checksum is for [`BlockHead::verify`].
    pub fn decode(bytes: &[u8]) -> Option<BlockHead> {
        use block_at as at;
        if bytes.len() < BLOCK_HEAD || bytes[..4] != BLOCK_MAGIC {
            return None;
        }
        let head = BlockHead {
            crc: u32_at(bytes, at::CRC)?,
            len: u32_at(bytes, at::LEN)?,
            prev: u32_at(bytes, at::PREV)?,
            first_lsn: u64_at(bytes, at::FIRST_LSN)?,
            end_lsn: u64_at(bytes, at::END_LSN)?,
            durable_lsn: u64_at(bytes, at::DURABLE_LSN)?,
            time_ns: u64_at(bytes, at::TIME_NS)?,
            records: u32_at(bytes, at::RECORDS)?,
            flags: u32_at(bytes, at::FLAGS)?,
            file_id: u64_at(bytes, at::FILE_ID)?,
        };
        let len = head.len as usize;
        let sane = (BLOCK_HEAD..=BLOCK_BYTES_MAX).contains(&len)
            && len.is_multiple_of(SLOT)
            && head.end_lsn >= head.first_lsn
            && head.flags & !SEAL == 0;
        sane.then_some(head)
    }

    /// Whether `head` (the 64 bytes) and `body` have the checksum they say.
    pub fn verify(&self, head: &[u8], body: &[u8]) -> bool {
        let crc = crc32c::crc32c(&head[block_at::LEN..BLOCK_HEAD]);
        crc32c::crc32c_append(crc, body) == self.crc
    }

    /// It is the clean end of its file.
    pub fn is_seal(&self) -> bool {
        self.flags & SEAL != 0
    }

    /// Bytes up to where the next block begins.
    pub fn padded(&self) -> u64 {
        u64::from(self.len).next_multiple_of(SECTOR as u64)
    }
}

/// Name of a file that begins at `first_lsn`.
pub fn file_name(first_lsn: u64, incarnation: u64) -> String {
    format!("{first_lsn:020}-{incarnation:010}.tlog")
}

/// What the name of a log file says: first LSN, incarnation, and whether it is compressed.
pub fn parse_name(name: &str) -> Option<(u64, u64, bool)> {
    let (stem, compressed) = match name.strip_suffix(".tlog") {
        Some(stem) => (stem, false),
        None => (name.strip_suffix(".tlog.zst")?, true),
    };
    let (lsn, incarnation) = stem.split_once('-')?;
    // An incarnation of more than ten digits makes the name longer.
    if lsn.len() != 20 || incarnation.len() < 10 {
        return None;
    }
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !digits(lsn) || !digits(incarnation) {
        return None;
    }
    Some((lsn.parse().ok()?, incarnation.parse().ok()?, compressed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FileHeader {
        FileHeader {
            config: Some(BusConfig::default()),
            log_id: [1, 2],
            incarnation: 3,
            fork_lsn: 4,
            first_lsn: 5,
            file_id: 6,
            created_ns: 7,
            ring_slots: 8,
            forks: (0..250)
                .map(|i| Fork {
                    incarnation: i,
                    lsn: i * 10,
                })
                .collect(),
            bus: "plant".into(),
            previous: Some(Previous {
                file_id: 9,
                bytes: 10,
                crc: 11,
            }),
        }
    }

    #[test]
    fn header_comes_back_without_its_oldest_forks() {
        let bytes = header().encode();
        let (back, _) = FileHeader::decode(&bytes).unwrap();
        let mut want = header();
        want.forks.drain(..50);
        assert_eq!(back, want);
    }

    #[test]
    fn every_bit_of_a_header_is_guarded() {
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            let fault = FileHeader::decode(&changed).unwrap_err();
            assert!(matches!(fault, HeaderFault::Damaged(_)), "{bit}: {fault:?}");
        }
        for cut in 0..bytes.len() {
            assert!(FileHeader::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn foreign_and_newer_headers_are_told_apart() {
        assert_eq!(FileHeader::decode(&[7; SECTOR]), Err(HeaderFault::Foreign));
        let mut newer = header().encode();
        newer[header_at::MAJOR] = 2;
        let crc = crc32c::crc32c(&newer[..header_at::CRC]);
        newer[header_at::CRC..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FileHeader::decode(&newer), Err(HeaderFault::Newer(2)));
    }

    #[test]
    fn names_say_where_a_file_begins() {
        let name = file_name(u64::MAX, 7);
        assert_eq!(parse_name(&name), Some((u64::MAX, 7, false)));
        assert_eq!(parse_name(&(name + ".zst")), Some((u64::MAX, 7, true)));
        for other in [
            "lock",
            "1-1.tlog",
            "x.tlog",
            "00000000000000000001-000000000+.tlog",
        ] {
            assert_eq!(parse_name(other), None);
        }
    }
}
