//! What the fuzz targets and `mmsb-shm/tests/hostile_bytes.rs` run: a live bus, bytes of it replaced by whatever the
//! caller says, and then everybody who can meet them: attached participants, newcomers, observers, followers, recovery
//! and the scans of `mmsb doctor`.
//!
//! Each call must end with a value or a typed error. Whoever runs this watches for panics, signals and endless loops;
//! what the calls return is not looked at, because bytes that were replaced may mean anything.

use std::mem::{offset_of, size_of};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mmsb_shm::layout::page::{BLOCK_HEADER, DirectoryEntry};
use mmsb_shm::layout::participant::{Cursor, ParticipantSlot, SourceEntry};
use mmsb_shm::layout::ring::{SLOT_BYTES, SlotState, Stamp};
use mmsb_shm::layout::segment::{CtlHeader, PagesHeader};
use mmsb_shm::participant::{Participant, ParticipantConfig};
use mmsb_shm::segment::{BusConfig, Core};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{
    Change, Cold, Follower, NewPage, OnFull, Options, PageId, PageRef, Pages, WaitStrategy,
};

/// Pages of the bus, so few that random numbers hit them.
const PAGES_MAX: u32 = 16;
/// A participant slot that nobody uses: in it the dead are made up.
const DEAD: u32 = 5;
const DEAD_GENERATION: u64 = 3;

/// SplitMix64: a seed in a report means the same run for ever.
pub struct Rng(pub u64);

impl Rng {
    /// Next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The owner word of a life, as docs/layout.md has it.
fn owner_word(index: u32, generation: u64) -> u32 {
    (generation as u32) << 11 | (index + 1)
}

/// A bus with a little of everything, and those who live on it.
pub struct Live {
    dir: SegmentDir,
    core: Arc<Core>,
    a: Participant,
    b: Participant,
    observer: Pages,
    ids: Vec<PageId>,
    followers: Vec<Follower>,
    watcher: Follower,
}

fn config() -> BusConfig {
    BusConfig {
        bytes_max: 64 << 20,
        pages_max: PAGES_MAX,
        names_max: 8,
        ring_bytes: 4096,
        participants_max: 8,
        cursors_max: 4,
        sources_max: 8,
        ..BusConfig::default()
    }
}

fn join(core: &Arc<Core>, name: &str) -> Option<Participant> {
    let config = ParticipantConfig {
        name: name.into(),
        timeout: Duration::from_millis(3),
        on_full: OnFull::Wait,
    };
    Participant::join(Arc::clone(core), config).ok()
}

impl Live {
    /// Makes the bus in `dir`, which is empty.
    pub fn new(dir: &Path) -> Live {
        let dir = SegmentDir::at(dir);
        let core = Arc::new(Core::create(&dir, "t", &config()).expect("create"));
        let a = join(&core, "a").expect("join");
        let b = join(&core, "b").expect("join");
        let page = |size, versions, name: &str| NewPage {
            size,
            versions,
            cold: Cold {
                name: name.into(),
                schema: if name == "cell" {
                    vec![1, 2, 3]
                } else {
                    vec![]
                },
                meta: vec![("k".into(), "v".into()); usize::from(name == "big")],
                ..Cold::default()
            },
        };
        let ids: Vec<PageId> = [
            page(8, 1, "small"),
            page(700, 1, "big"),
            page(64, 4, "cell"),
            page(300, 1, ""),
            page(5000, 1, "loaned"),
        ]
        .iter()
        .map(|new| a.create_page(new).expect("create page"))
        .collect();
        let loaned = core.pages.resolve(ids[4]).expect("resolve");
        a.loan(&loaned).expect("loan").publish(0).expect("publish");
        let followers = vec![
            a.follow(true).expect("follow"),
            b.follow(false).expect("follow"),
        ];
        for (i, id) in ids.iter().enumerate() {
            let page = core.pages.resolve(*id).expect("resolve");
            for n in 0..3 {
                b.patch(&page, n, &[i as u8; 5]).expect("patch");
            }
        }
        let observer = Pages::open(&dir, "t", false).expect("observe");
        let watcher = Follower::at(observer.floor_lsn());
        Live {
            dir,
            core,
            a,
            b,
            observer,
            ids,
            followers,
            watcher,
        }
    }

    fn object(&self, suffix: &str) -> PathBuf {
        self.dir.object("t", suffix)
    }

    /// Replaces bytes of `.pages` (or `.ctl`); what lies behind its end is left out.
    pub fn write(&self, suffix: &str, offset: u64, bytes: &[u8]) {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.object(suffix))
            .expect("open for writing");
        let len = file.metadata().expect("metadata").len();
        let room = len.saturating_sub(offset).min(bytes.len() as u64) as usize;
        file.write_all_at(&bytes[..room], offset).expect("write");
    }

    fn read(&self, suffix: &str, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        let file = std::fs::File::open(self.object(suffix)).expect("open");
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => 0,
        }
    }

    fn ctl_table(&self, field: usize) -> u64 {
        self.read("ctl", field as u64)
    }

    /// A word of shared memory that means something: object, offset, bytes (4 or 8).
    fn some_word(&self, rng: &mut Rng) -> (&'static str, u64, usize) {
        let g = self.core.pages.geometry.clone();
        let participants = self.ctl_table(offset_of!(CtlHeader, participants_at));
        let cursors = self.ctl_table(offset_of!(CtlHeader, cursors_at));
        let owners = self.ctl_table(offset_of!(CtlHeader, owners_at));
        let indices = self.ctl_table(offset_of!(CtlHeader, indices_at));
        // What is in use of a table: its words that are not zero.
        let used = |rng: &mut Rng, at: u64, words: u64| {
            let start = rng.below(words);
            (0..words)
                .map(|i| at + (start + i) % words * 8)
                .find(|at| self.read("pages", *at) != 0)
                .unwrap_or(at)
        };
        match rng.below(16) {
            0 => ("pages", rng.below(40) * 4, 4),
            1 => {
                let fields = [
                    offset_of!(PagesHeader, published),
                    offset_of!(PagesHeader, tail_hint),
                    offset_of!(PagesHeader, overwrite_floor),
                    offset_of!(PagesHeader, claim_limit),
                    offset_of!(PagesHeader, len),
                    offset_of!(PagesHeader, slabs_used),
                    offset_of!(PagesHeader, created_ns),
                    offset_of!(PagesHeader, doorbell),
                ];
                ("pages", fields[rng.below(8) as usize] as u64, 8)
            }
            2 | 3 => ("pages", g.directory_at + rng.below(6) * 8, 8),
            4 => ("pages", used(rng, g.names_at, g.names_slots.into()), 8),
            5 => {
                let source = rng.below(4) * size_of::<SourceEntry>() as u64;
                ("pages", g.sources_at + source + rng.below(3) * 4, 4)
            }
            6 => ("pages", g.slabs_at + rng.below(12) * 8, 8),
            7 | 8 => {
                let word = if rng.below(2) == 0 { 0 } else { rng.below(8) };
                let slot = rng.below(g.ring_slots.into());
                ("pages", g.ring_at + slot * SLOT_BYTES + word * 8, 8)
            }
            9 | 10 => {
                // The header of a block that a page or a name leads to, or the first words of its payload.
                let table = if rng.below(3) == 0 {
                    used(rng, g.names_at, g.names_slots.into())
                } else {
                    g.directory_at + rng.below(6) * 8
                };
                let block = DirectoryEntry(self.read("pages", table)).block().offset();
                let at = if rng.below(3) == 0 {
                    BLOCK_HEADER + rng.below(16) * 4
                } else {
                    rng.below(8) * 4
                };
                ("pages", block + at, if at % 8 == 0 { 8 } else { 4 })
            }
            11 => {
                // A run's header and bitmap.
                let slab = rng.below(8) * (2 << 20);
                ("pages", g.arena_at + slab + rng.below(24) * 4, 4)
            }
            12 => {
                let fields = [
                    offset_of!(CtlHeader, limit_lock),
                    offset_of!(CtlHeader, names_lock),
                    offset_of!(CtlHeader, grow_lock),
                    offset_of!(CtlHeader, owner_bell),
                    offset_of!(CtlHeader, sleepers),
                    offset_of!(CtlHeader, owner_sleepers),
                    offset_of!(CtlHeader, participants_used),
                    offset_of!(CtlHeader, cursors_used),
                    offset_of!(CtlHeader, sweep_due),
                    offset_of!(CtlHeader, sweep_indices),
                    offset_of!(CtlHeader, index_hint),
                ];
                let at = if rng.below(4) == 0 {
                    rng.below(28) * 4
                } else {
                    fields[rng.below(11) as usize] as u64
                };
                ("ctl", at, 4)
            }
            13 => {
                let slot = participants + rng.below(7) * size_of::<ParticipantSlot>() as u64;
                let fields = [
                    offset_of!(ParticipantSlot, state),
                    offset_of!(ParticipantSlot, name),
                    offset_of!(ParticipantSlot, hold),
                    offset_of!(ParticipantSlot, active),
                    offset_of!(ParticipantSlot, in_hand),
                    offset_of!(ParticipantSlot, hazards),
                ];
                ("ctl", slot + fields[rng.below(6) as usize] as u64, 8)
            }
            14 => {
                let cursor = cursors + rng.below(4) * size_of::<Cursor>() as u64;
                ("ctl", cursor + rng.below(6) * 4, 4)
            }
            _ => match rng.below(3) {
                0 => ("ctl", indices, 8),
                _ => ("ctl", owners + rng.below(PAGES_MAX.into()) * 4, 4),
            },
        }
    }

    /// A value that somebody may take for what it should be.
    fn some_value(&self, rng: &mut Rng, old: u64) -> u64 {
        let g = &self.core.pages.geometry;
        match rng.below(14) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX - rng.below(300),
            3 => rng.below(100),
            4 => rng.next(),
            5 => rng.next() >> rng.below(64),
            6 => 1 << rng.below(64),
            7 => old.wrapping_add(rng.below(9)).wrapping_sub(4),
            8 => {
                let owner = owner_word(rng.below(7) as u32, rng.below(4));
                u64::from(owner) | rng.below(4) << 30
            }
            9 => self.observer.floor_lsn().wrapping_add(rng.below(200)),
            10 => {
                // A block position, right or nearly so, with some generation.
                let entry = self.read("pages", g.directory_at + rng.below(6) * 8);
                entry.wrapping_add(rng.below(4) * rng.below(40)) ^ rng.below(3) << 36
            }
            11 => {
                let state = [SlotState::Ready, SlotState::Claimed, SlotState::Padding]
                    [rng.below(3) as usize];
                let lap = 1 + rng.below(3) as u32;
                let owner = owner_word(rng.below(7) as u32, rng.below(4));
                Stamp::new(lap, rng.below(70) as u32, owner, state).0
            }
            _ => old ^ 1 << rng.below(64),
        }
    }

    /// Replaces one to twelve words.
    pub fn scramble(&self, rng: &mut Rng) {
        for _ in 0..=rng.below(12) {
            let (object, offset, bytes) = self.some_word(rng);
            let value = self.some_value(rng, self.read(object, offset));
            self.write(object, offset, &value.to_le_bytes()[..bytes]);
        }
    }

    /// Makes up a participant that died: its slot, a hold at `hold`, blocks in hand, owner words of pages.
    pub fn forge_dead(&self, hold: u64, in_hand: &[u64], pages: &[u32]) {
        let participants = self.ctl_table(offset_of!(CtlHeader, participants_at));
        let slot = participants + u64::from(DEAD) * size_of::<ParticipantSlot>() as u64;
        let put = |at: usize, value: u64| self.write("ctl", slot + at as u64, &value.to_le_bytes());
        put(offset_of!(ParticipantSlot, state), DEAD_GENERATION << 8 | 1);
        put(offset_of!(ParticipantSlot, hold), hold);
        for (i, block) in in_hand.iter().take(16).enumerate() {
            put(offset_of!(ParticipantSlot, in_hand) + i * 8, *block);
        }
        let word = owner_word(DEAD, DEAD_GENERATION).to_le_bytes();
        let owners = self.ctl_table(offset_of!(CtlHeader, owners_at));
        for page in pages {
            // 16 owner words, so each row has one.
            self.write(
                "ctl",
                owners + u64::from(page % PAGES_MAX) * 16 % 64 * 4,
                &word,
            );
            self.write("ctl", owners + u64::from(page % PAGES_MAX) * 4, &word);
        }
        let used = offset_of!(CtlHeader, participants_used) as u64;
        self.write("ctl", used, &8u32.to_le_bytes());
    }

    /// Makes the made-up dead one's last record: `body` behind a stamp that says it is committed. Returns its LSN.
    pub fn forge_record(&self, slots: u32, state: SlotState, body: &[u8]) -> u64 {
        let g = &self.core.pages.geometry;
        let lsn = self.core.pages.end_lsn();
        let slot = lsn % u64::from(g.ring_slots);
        let at = g.ring_at + slot * SLOT_BYTES;
        let lap = (lsn / u64::from(g.ring_slots)) as u32;
        let stamp = Stamp::new(lap, slots, owner_word(DEAD, DEAD_GENERATION), state);
        let room = (u64::from(g.ring_slots) - slot) * SLOT_BYTES - 8;
        let body = &body[..body.len().min(room as usize)];
        self.write("pages", at + 8, body);
        self.write("pages", at, &stamp.0.to_le_bytes());
        lsn
    }

    fn page(&self, rng: &mut Rng) -> Option<PageRef> {
        let id = self.ids[rng.below(self.ids.len() as u64) as usize];
        self.core.pages.resolve(id).ok()
    }

    /// Everything that anybody may do on the bus, in some order.
    pub fn exercise(&mut self, rng: &mut Rng) {
        for _ in 0..24 {
            self.step(rng);
        }
        // The scans of `doctor` and `info`.
        let _ = self.core.participants();
        let _ = self.core.cursors();
        let pages = &self.observer;
        let _ = pages.class_use();
        let _ = pages.ring_info();
        let _ = pages.list_sources();
        let _ = pages.list_names("");
        for id in pages.list_pages() {
            let _ = pages.info(id);
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        let mut buffer = vec![0u8; 900];
        let page = self.page(rng);
        let by = if rng.below(2) == 0 { &self.a } else { &self.b };
        match rng.below(24) {
            0..=3 => {
                if let Some(p) = page {
                    let len = rng.below(p.size() as u64 + 1) as usize;
                    let bytes = &buffer[..len.min(buffer.len())];
                    let _ = by.patch(&p, rng.below(9) as usize, bytes);
                }
            }
            4..=6 => {
                if let Some(p) = page {
                    let len = p.size().min(buffer.len());
                    let _ = by.read(&p, 0, &mut buffer[..len]);
                    let _ = self.observer.resolve(p.id()).and_then(|p| {
                        let len = p.size().min(buffer.len());
                        self.observer.observe(&p, 0, &mut buffer[..len])
                    });
                }
            }
            7 => {
                let pages: Vec<PageRef> = (0..3).filter_map(|_| self.page(rng)).collect();
                let _ = by.read_cut(&pages);
                // A handle belongs to one mapping.
                let resolve = |p: &PageRef| self.observer.resolve(p.id()).ok();
                let observed: Vec<PageRef> = pages.iter().filter_map(resolve).collect();
                let _ = self.observer.observe_cut(&observed);
            }
            8 | 9 => {
                let (p, q) = (self.page(rng), self.page(rng));
                if let (Some(p), Some(q)) = (p, q) {
                    let changes = [
                        Change::Patch {
                            page: &p,
                            offset: 0,
                            bytes: &buffer[..8],
                        },
                        Change::Ranges {
                            page: &q,
                            ranges: &[(0, 1), (4, 2)],
                            bytes: &buffer[..3],
                        },
                        Change::Mark {
                            bytes: &buffer[..40],
                        },
                    ];
                    let options = Options {
                        cause: rng.below(2),
                        transaction: rng.below(2) == 0,
                    };
                    let _ = by.commit(&changes, &options);
                }
            }
            10 => {
                if let Some(p) = page {
                    let _ = by.update(&p, 0, |bytes| {
                        if let Some(b) = bytes.first_mut() {
                            *b = b.wrapping_add(1);
                        }
                    });
                }
            }
            11 => {
                if let Some(p) = page
                    && let Ok(mut loan) = by.loan(&p)
                {
                    if let Some(b) = loan.first_mut() {
                        *b = 1;
                    }
                    let _ = loan.publish(0);
                }
            }
            12 => {
                if let Some(p) = page {
                    let seen = by
                        .pin(&p)
                        .map(|v| v.iter().map(|b| u64::from(*b)).sum::<u64>());
                    let _ = seen;
                }
            }
            13 => {
                if let Some(p) = page {
                    let lease = by.lease(&p);
                    let _ = by.patch(&p, 0, &buffer[..1]);
                    drop(lease);
                }
            }
            14 => {
                let new = NewPage {
                    size: 1 + rng.below(600),
                    versions: [1, 4][rng.below(2) as usize],
                    cold: Cold {
                        name: ["", "new", "other"][rng.below(3) as usize].into(),
                        ..Cold::default()
                    },
                };
                if let Ok(id) = by.create_page(&new) {
                    self.ids.push(id);
                }
            }
            15 => {
                let id = self.ids[rng.below(self.ids.len() as u64) as usize];
                let _ = by.destroy_page(id);
            }
            16 => {
                let id = self.ids[rng.below(self.ids.len() as u64) as usize];
                let _ = by.describe_page(id, |mut cold| {
                    cold.name.push('x');
                    cold
                });
            }
            17 => {
                let _ = by.recover_all();
                let _ = by.applied_lsn();
            }
            18 | 19 => {
                for follower in &mut self.followers {
                    for _ in 0..4 {
                        let _ = by.poll(follower, 100, |d| {
                            let _ = (d.changed_bytes(), d.created_size());
                            let _ = by.core().pages.read_swapped(d, &mut Vec::new());
                        });
                    }
                    let soon = Instant::now() + Duration::from_millis(1);
                    follower.set_strategy(WaitStrategy::Park);
                    let _ = by.wait(follower, Some(soon));
                }
            }
            20 => {
                for _ in 0..4 {
                    let _ = self.watcher.poll(&self.observer, 100, |d| {
                        let _ = d.changed_bytes();
                    });
                }
                let soon = Instant::now() + Duration::from_millis(1);
                let _ = self.watcher.wait_observing(&self.observer, Some(soon));
            }
            21 => {
                // A newcomer, with whatever geometry the header has by now.
                if let Ok(core) = Core::attach(&self.dir, "t") {
                    let core = Arc::new(core);
                    if let Some(c) = join(&core, "c") {
                        if let Ok(p) = c.open_page("small") {
                            let _ = c.patch(&p, 0, &[1]);
                        }
                        let _ = c.follow(true);
                    }
                }
            }
            22 => {
                if let Ok(pages) = Pages::open(&self.dir, "t", false) {
                    for name in ["small", "big", "cell", "loaned"] {
                        if let Ok(p) = pages.find(name).and_then(|id| pages.resolve(id)) {
                            let len = p.size().min(buffer.len());
                            let _ = pages.observe(&p, 0, &mut buffer[..len]);
                        }
                    }
                    let mut follower = Follower::at(pages.floor_lsn());
                    let _ = follower.poll(&pages, 100, |d| {
                        let _ = d.changed_bytes();
                    });
                }
            }
            _ => {
                if let Ok(follower) = by.follow(rng.below(2) == 0)
                    && self.followers.len() < 3
                {
                    self.followers.push(follower);
                }
            }
        }
    }
}

/// Some words of a live bus are replaced, and replaced again while it is used.
pub fn live_bus(dir: &Path, seed: u64) {
    let mut rng = Rng(seed);
    let mut live = Live::new(dir);
    for _ in 0..2 {
        live.scramble(&mut rng);
        live.exercise(&mut rng);
    }
}

/// The headers of both objects are `pages` and `ctl` from their first bytes on (empty: left as they are); then somebody
/// attaches and somebody observes.
pub fn segment_attach(dir: &Path, pages: &[u8], ctl: &[u8], seed: u64) {
    let mut live = Live::new(dir);
    live.write("pages", 0, &pages[..pages.len().min(4096)]);
    live.write("ctl", 0, &ctl[..ctl.len().min(4096)]);
    let mut rng = Rng(seed);
    if let Ok(core) = Core::attach(&live.dir, "t") {
        drop(join(&Arc::new(core), "c"));
    }
    if let Ok(pages) = Pages::open(&live.dir, "t", false) {
        let mut watcher = Follower::at(pages.floor_lsn());
        let _ = watcher.poll(&pages, 100, |_| ());
        let _ = pages.list_names("");
    }
    live.exercise(&mut rng);
}

/// The last record of a dead participant is `body` (what follows its stamp): followed, observed, and applied by
/// recovery.
pub fn record(dir: &Path, slots: u32, claimed: bool, body: &[u8]) {
    let mut live = Live::new(dir);
    let state = if claimed {
        SlotState::Claimed
    } else {
        SlotState::Ready
    };
    let lsn = live.forge_record(slots, state, body);
    live.forge_dead(lsn, &[], &[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut watcher = Follower::at(lsn);
    let _ = watcher.poll(&live.observer, 10, |d| {
        let _ = (d.changed_bytes(), d.created_size());
        let _ = live.observer.read_swapped(d, &mut Vec::new());
    });
    for follower in &mut live.followers {
        let _ = live.a.poll(follower, 100, |d| {
            let _ = d.changed_bytes();
        });
    }
    let _ = live.b.recover_all();
    let _ = live.a.recover_all();
    live.exercise(&mut Rng(lsn ^ u64::from(slots)));
}
