//! A log made up from a seed: records of every kind, in groups, with padding and the contents of swaps.

#![allow(dead_code)] // Every test file uses its part.

use std::collections::BTreeMap;

use mmsb::tlog::Block;
use mmsb::{Kind, PageId};
use mmsb_shm::wire::{self, SLOT, Spec};

/// SplitMix64.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

pub const RING_SLOTS: u32 = 1 << 16;
/// When the bus was created: a little while ago, because a record's time is told from when its block was written.
pub fn created_ns() -> u64 {
    static CREATED: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_nanos() as u64 - 3_600_000_000_000
    });
    *CREATED
}

pub struct Log {
    pub rng: Rng,
    pub lsn: u64,
    pub blocks: Vec<Block>,
    /// LSN of every record, with its time.
    pub records: Vec<(u64, u64)>,
    pub live: Vec<(PageId, u32)>,
    generations: BTreeMap<u32, u32>,
    body: Vec<u8>,
    first: u64,
    time: u32,
}

impl Log {
    pub fn new(seed: u64) -> Log {
        let lsn = u64::from(RING_SLOTS);
        Log {
            rng: Rng(seed),
            lsn,
            blocks: Vec::new(),
            records: Vec::new(),
            live: Vec::new(),
            generations: BTreeMap::new(),
            body: Vec::new(),
            first: lsn,
            time: 1,
        }
    }

    /// A log of about `groups` groups.
    pub fn random(seed: u64, groups: usize) -> Log {
        let mut log = Log::new(seed);
        for name in 1..4u32 {
            log.source(name, &format!("source {name}"));
        }
        for _ in 0..groups {
            log.group();
        }
        log.end_block();
        log
    }

    pub fn time_ns(&self) -> u64 {
        created_ns() + (u64::from(self.time) << 20)
    }

    pub fn source(&mut self, id: u32, name: &str) {
        let payload = [&id.to_le_bytes()[..], &[0; 4], name.as_bytes()].concat();
        let none = PageId {
            index: 0,
            generation: 0,
        };
        self.push(vec![Spec::new(none, Kind::Source, 0, payload)]);
    }

    pub fn push(&mut self, mut specs: Vec<Spec>) -> u64 {
        for spec in &mut specs {
            spec.time = self.time;
            spec.source = (self.lsn % 4) as u16;
        }
        let first = self.lsn;
        for spec in &specs {
            self.records.push((self.lsn, self.time_ns()));
            let body = usize::from(spec.cause != 0) * 8
                + usize::from((4..8).contains(&(spec.kind as u8))) * 16
                + spec.payload.len();
            self.lsn += ((body + 79) / 56) as u64;
        }
        self.body.extend(wire::encode(&specs, first, RING_SLOTS));
        if self.body.len() > 40_000 {
            self.end_block();
        }
        first
    }

    pub fn end_block(&mut self) {
        let block = Block {
            first_lsn: self.first,
            end_lsn: self.lsn,
            time_ns: self.time_ns(),
            incarnation: 1,
            created_ns: created_ns(),
            ring_slots: RING_SLOTS,
            body: std::mem::take(&mut self.body),
            ..Block::default()
        };
        self.first = self.lsn;
        self.blocks.push(block);
    }

    pub fn create(&mut self, size: u32, versions: u32, name: &str) -> PageId {
        let index = self.rng.below(60) as u32 * 7;
        let index = if self.live.iter().any(|(id, _)| id.index == index) {
            self.generations
                .keys()
                .max()
                .map_or(1000, |max| max.max(&1000) + 1)
        } else {
            index
        };
        let generation = self.generations.entry(index).or_default();
        *generation += 1;
        let id = PageId {
            index,
            generation: *generation,
        };
        let mut payload = size.to_le_bytes().to_vec();
        payload.extend((versions << 8 | 3).to_le_bytes());
        if !name.is_empty() {
            payload.extend(cold(id, name, b"", &[("k", "v")]));
        }
        self.push(vec![Spec::new(id, Kind::Create, 0, payload)]);
        self.live.push((id, size));
        id
    }

    pub fn patch(&mut self, id: PageId, offset: u32, bytes: &[u8]) -> u64 {
        self.push(vec![Spec::new(id, Kind::Patch, offset, bytes)])
    }

    pub fn patch_caused(&mut self, id: PageId, offset: u32, bytes: &[u8], cause: u64) -> u64 {
        self.push(vec![Spec {
            cause,
            ..Spec::new(id, Kind::Patch, offset, bytes)
        }])
    }

    pub fn rename(&mut self, id: PageId, name: &str) -> u64 {
        self.push(vec![Spec::new(
            id,
            Kind::Describe,
            0,
            cold(id, name, b"", &[]),
        )])
    }

    pub fn destroy(&mut self, id: PageId) -> u64 {
        self.live.retain(|(i, _)| *i != id);
        self.push(vec![Spec::new(id, Kind::Destroy, 0, [])])
    }

    pub fn swap(&mut self, id: PageId, bytes: &[u8]) -> u64 {
        let lsn = self.lsn;
        let part = bytes.len().div_ceil(3);
        for (i, chunk) in bytes.chunks(part).enumerate() {
            let head = wire::chunk_head(
                lsn,
                (i * part) as u64,
                chunk.len() as u64,
                bytes.len() as u64,
            );
            self.body.extend(head);
            self.body.extend(chunk);
            self.body.resize(self.body.len().next_multiple_of(SLOT), 0);
            if self.rng.below(5) == 0 {
                // The rest comes in another block, and this one may be of chunks only.
                self.end_block();
            }
        }
        self.push(vec![Spec::new(id, Kind::Swap, 0, [])])
    }

    pub fn tick(&mut self) {
        self.time += 1;
    }

    fn change(&mut self) -> Spec {
        let (id, size) = self.live[self.rng.below(self.live.len())];
        let at = self.rng.below(size as usize) as u32;
        let n = 1 + self.rng.below((size - at).min(150) as usize);
        let bytes = self.rng.bytes(n);
        match self.rng.below(3) {
            0 => Spec::new(id, Kind::Patch, at, bytes),
            1 => {
                let half = n / 2;
                let mut payload = Vec::new();
                for word in [2, 0, at, half as u32, at + half as u32, (n - half) as u32] {
                    payload.extend(word.to_le_bytes());
                }
                payload.extend(bytes);
                Spec::new(id, Kind::Ranges, 0, payload)
            }
            _ => {
                let mut payload = [(n as u32).to_le_bytes(), [0; 4]].concat();
                payload.extend(self.rng.bytes(n.div_ceil(8)));
                payload.extend(bytes);
                Spec::new(id, Kind::Masked, at, payload)
            }
        }
    }

    pub fn group(&mut self) {
        if self.rng.below(4) == 0 {
            self.tick();
        }
        if self.live.len() < 3 {
            let size = 1 + self.rng.below(3000) as u32;
            self.create(size, 1, "");
            return;
        }
        let pick = self.rng.below(self.live.len());
        let (id, size) = self.live[pick];
        match self.rng.below(24) {
            0 => {
                let size = 1 + self.rng.below(3000) as u32;
                let versions = [1, 1, 4][self.rng.below(3)];
                let name = format!("n/{}", self.lsn);
                self.create(
                    size,
                    versions,
                    if size.is_multiple_of(2) { &name } else { "" },
                );
            }
            1 if self.live.len() > 5 => {
                self.destroy(id);
            }
            2 => {
                let name = format!("renamed/{}", self.lsn);
                self.rename(id, &name);
            }
            3 => {
                let bytes = self.rng.bytes(size as usize);
                self.swap(id, &bytes);
            }
            4 => {
                let none = PageId {
                    index: 0,
                    generation: 0,
                };
                self.push(vec![Spec::new(none, Kind::Mark, 0, *b"mark")]);
            }
            5 => {
                // Padding, in the block or left out of it.
                if self.rng.below(2) == 0 {
                    self.lsn += 9;
                    self.end_block();
                } else {
                    let lap = self.lsn / u64::from(RING_SLOTS);
                    let stamp = lap << 32 | 2 << 19 | 3;
                    self.body.extend(stamp.to_le_bytes());
                    self.body.resize(self.body.len() + 2 * SLOT - 8, 0);
                    self.lsn += 2;
                }
            }
            6..9 => {
                let n = 2 + self.rng.below(3);
                let transaction = self.rng.below(2) == 0;
                let specs = (0..n)
                    .map(|_| Spec {
                        transaction,
                        ..self.change()
                    })
                    .collect();
                self.push(specs);
            }
            _ => {
                let spec = self.change();
                self.push(vec![spec]);
            }
        }
    }
}

/// A description, as `mmsb-shm` stores it.
pub fn cold(id: PageId, name: &str, schema: &[u8], meta: &[(&str, &str)]) -> Vec<u8> {
    let mut pairs = Vec::new();
    for (key, value) in meta {
        pairs.extend((key.len() as u32).to_le_bytes());
        pairs.extend((value.len() as u32).to_le_bytes());
        pairs.extend(key.as_bytes());
        pairs.extend(value.as_bytes());
    }
    let mut out = Vec::new();
    out.extend(id.index.to_le_bytes());
    out.extend(id.generation.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    for len in [name.len(), schema.len(), pairs.len(), 0] {
        out.extend((len as u32).to_le_bytes());
    }
    out.extend(name.as_bytes());
    out.extend(schema);
    out.extend(pairs);
    out
}
