//! A worker: random operations flat out, until it is told to stop or dies.
//!
//! It says `joined`, then `a N` once the commit of its own page's sequence number N has returned, `blocked E` for an
//! operation that was refused because somebody living was in the way, and `bad CLASS E` for what must never happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mmsb_shm::layout::ring::{SlotState, Stamp};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::testing::{Action, arm};
use mmsb_shm::{
    Change, Core, Delta, Follower, Kind, Options, PageError, Participant, ParticipantConfig, Polled,
};

use super::pages::{PAIRS, Table, WORDS, own_name, pair, seal, unseal};
use crate::scenario::{BUS, named};
use crate::seed::Rng;
use crate::spawn::{orders, say};

/// No operation takes longer, whatever the load of the machine; one that does is stuck.
pub const STUCK: Duration = Duration::from_secs(30);

/// What a worker is told at its start.
pub struct Role {
    /// The bus.
    pub dir: SegmentDir,
    /// Which writer it is: owns `own/SLOT` and `tmp/SLOT/*`.
    pub slot: usize,
    /// Its random numbers.
    pub seed: u64,
    /// Longest wait for a living participant.
    pub timeout: Duration,
    /// A step to die or to stop at: name, times passed before, whether it is a stop.
    pub armed: Option<(String, u64, bool)>,
}

struct Worker {
    p: Participant,
    table: Table,
    rng: Rng,
    slot: usize,
    /// Sequence number of the own page.
    own: u64,
    /// Number of sealed values made by this life, for their writer word.
    made: u64,
    lossy: Option<Follower>,
    temporary: Vec<String>,
}

/// Runs until standard input closes.
///
/// # Panics
/// When the bus cannot be joined.
pub fn run(role: Role) {
    if let Some((step, skip, stop)) = &role.armed {
        let action = if *stop { Action::Stop } else { Action::Kill };
        arm(step, *skip, action);
    }
    let core = Arc::new(Core::attach(&role.dir, BUS).expect("to attach"));
    let config = ParticipantConfig {
        name: format!("writer {}", role.slot),
        timeout: role.timeout,
        ..ParticipantConfig::default()
    };
    let p = Participant::join(core, config).expect("to join");
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        orders().for_each(drop);
        told.store(true, Relaxed);
    });
    let mut worker = Worker {
        table: Table::find(&p.core().pages),
        p,
        rng: Rng::new(role.seed),
        slot: role.slot,
        own: 0,
        made: 0,
        lossy: None,
        temporary: Vec::new(),
    };
    say("joined");
    worker.take_over();
    while !stop.load(Relaxed) {
        let begin = Instant::now();
        let n = worker.rng.below(100);
        worker.report(n, worker_op(n));
        let taken = begin.elapsed();
        if taken > STUCK {
            say(&format!("bad stuck operation {n} took {taken:?}"));
        }
    }
    for name in std::mem::take(&mut worker.temporary) {
        worker.destroy(&name);
    }
}

type Operation = fn(&mut Worker) -> Result<(), PageError>;

/// What is done how often, in percent.
fn worker_op(n: u64) -> Operation {
    match n {
        0..26 => Worker::own,
        26..40 => Worker::raw,
        40..52 => Worker::sealed,
        52..62 => Worker::transaction,
        62..68 => Worker::batch,
        68..74 => Worker::pairs,
        74..80 => Worker::sum,
        80..84 => Worker::loan,
        84..87 => Worker::loan_pair,
        87..92 => Worker::temporary,
        92..95 => Worker::lease,
        95..98 => Worker::follow_lossy,
        98 => Worker::follow_gating,
        _ => Worker::read,
    }
}

impl Worker {
    /// Reads where the last life of this slot came to, and clears up behind it.
    fn take_over(&mut self) {
        let name = own_name(self.slot);
        let page = self.p.open_page(&name).expect("the own page");
        let mut bytes = vec![0; page.size()];
        let begin = Instant::now();
        // Owned meanwhile, so whatever the last life left unfinished is finished.
        while let Err(e) = self.p.update(&page, 0, |now| bytes.copy_from_slice(now)) {
            say(&format!("blocked {e}"));
            assert!(begin.elapsed() < STUCK, "the own page is held: {e}");
        }
        match unseal(&bytes) {
            Some((sequence, _)) => self.own = sequence,
            None => say(&format!("bad torn {name} as its next life finds it")),
        }
        let prefix = format!("tmp/{}/", self.slot);
        let left = self.p.core().pages.list_names(&prefix).unwrap_or_default();
        for (name, _) in left {
            self.destroy(&name);
        }
    }

    fn destroy(&mut self, name: &str) {
        let done = match self.p.core().pages.find(name) {
            Ok(id) => self.p.destroy_page(id),
            Err(e) => Err(e),
        };
        match done {
            Err(PageError::Timeout { .. } | PageError::Backpressure { .. }) => {
                // Still there: later.
                self.temporary.push(name.to_owned());
            }
            Err(PageError::NoSuchName(_)) | Ok(()) => {}
            Err(e) => say(&format!("bad other destroying {name}: {e}")),
        }
    }

    fn report(&mut self, n: u64, operation: Operation) {
        match operation(self) {
            Ok(()) => {}
            Err(e @ (PageError::Timeout { .. } | PageError::Backpressure { .. })) => {
                say(&format!("blocked {e}"));
            }
            Err(e) => say(&format!("bad other operation {n}: {e}")),
        }
    }

    /// A value nobody else makes.
    fn value(&mut self, len: usize) -> Vec<u8> {
        self.made += 1;
        let writer = u64::from(std::process::id()) << 8 | self.slot as u64;
        seal(self.made, writer, len)
    }

    fn any<'a>(&'a self, prefix: &'a str, choice: u64) -> &'a mmsb_shm::PageRef {
        let count = self.table.named(prefix).count() as u64;
        let n = (choice % count) as usize;
        self.table.named(prefix).nth(n).expect("one of them")
    }

    fn own(&mut self) -> Result<(), PageError> {
        let next = self.own + 1;
        let name = own_name(self.slot);
        let page = self.table.page(&name);
        let bytes = seal(next, self.slot as u64 + 1, page.size());
        self.p.patch(page, 0, &bytes)?;
        self.own = next;
        // Only now: what was said to the parent may not be lost.
        say(&format!("a {next}"));
        Ok(())
    }

    fn raw(&mut self) -> Result<(), PageError> {
        let len = 1 + self.rng.below(2000) as usize;
        let at = self.rng.below(4000 - len as u64 + 1) as usize;
        let mut bytes = vec![0; len];
        self.rng.fill(&mut bytes);
        if self.rng.chance(1, 2) {
            // Every word a stamp that somebody might believe: of this lap or its neighbours, READY, CLAIMED, padding.
            let info = self.p.core().pages.ring_info();
            for word in bytes.chunks_exact_mut(8) {
                let lap = (info.end / u64::from(info.slots)) as u32 + self.rng.below(3) as u32 - 1;
                let state = [SlotState::Ready, SlotState::Claimed, SlotState::Padding]
                    [self.rng.below(3) as usize];
                let slots = 1 + self.rng.below(4) as u32;
                let stamp = Stamp::new(lap, slots, 1 + self.rng.below(8) as u32, state);
                word.copy_from_slice(&stamp.0.to_le_bytes());
            }
        }
        let choice = self.rng.next_u64();
        self.p.patch(self.any("raw/", choice), at, &bytes)?;
        Ok(())
    }

    fn sealed(&mut self) -> Result<(), PageError> {
        let choice = self.rng.next_u64();
        let prefix = if choice % 3 == 0 { "cell/" } else { "sealed/" };
        let size = self.any(prefix, choice >> 8).size();
        let bytes = self.value(size);
        match self.p.patch(self.any(prefix, choice >> 8), 0, &bytes) {
            Ok(_) => Ok(()),
            // A cell is written through the ring only, and the smallest one is too small for this value.
            Err(PageError::DeltaTooLarge { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn transaction(&mut self) -> Result<(), PageError> {
        self.made += 1;
        let writer = u64::from(std::process::id()) << 8 | self.slot as u64;
        let pages: Vec<_> = self.table.named("together/").collect();
        let values: Vec<Vec<u8>> = pages
            .iter()
            .map(|page| seal(self.made, writer, page.size()))
            .collect();
        let changes: Vec<Change<'_>> = pages
            .iter()
            .zip(&values)
            .map(|(page, bytes)| Change::Patch {
                page,
                offset: 0,
                bytes,
            })
            .collect();
        let options = Options {
            cause: 0,
            transaction: true,
        };
        self.p.commit(&changes, &options)?;
        Ok(())
    }

    fn batch(&mut self) -> Result<(), PageError> {
        let bytes = [self.value(40), self.value(200), self.value(40)];
        let word = pair(self.rng.next_u64());
        let cell = self.rng.below(PAIRS as u64) as u32 * 16;
        let (a, b) = (self.table.page("sealed/0"), self.table.page("sealed/1"));
        let pairs = self.table.page("pairs");
        let patch = |page, offset, bytes| Change::Patch {
            page,
            offset,
            bytes,
        };
        let changes = [
            patch(a, 0, &bytes[0][..]),
            patch(pairs, cell, &word[..]),
            patch(b, 0, &bytes[1][..]),
            patch(a, 0, &bytes[2][..]),
        ];
        self.p.commit(&changes, &Options::default())?;
        Ok(())
    }

    fn pairs(&mut self) -> Result<(), PageError> {
        let page = self.table.page("pairs");
        let first = self.rng.below(PAIRS as u64 - 4) as usize;
        let bytes: Vec<u8> = (0..4).flat_map(|_| pair(self.rng.next_u64())).collect();
        let cells = [first as u32 * 16, first as u32 * 16 + 32];
        let change = if self.rng.chance(1, 2) {
            let mask: Vec<u8> = (0..4)
                .flat_map(|_| [u8::from(self.rng.chance(1, 2)); 16])
                .collect();
            let change = Change::Masked {
                page,
                offset: cells[0],
                mask: &mask,
                bytes: &bytes,
            };
            return self.p.commit(&[change], &Options::default()).map(drop);
        } else {
            Change::Ranges {
                page,
                ranges: &[(cells[0], 16), (cells[1], 16)],
                bytes: &bytes[..32],
            }
        };
        self.p.commit(&[change], &Options::default()).map(drop)
    }

    fn sum(&mut self) -> Result<(), PageError> {
        let (from, to) = (self.rng.below(WORDS as u64), self.rng.below(WORDS as u64));
        let amount = self.rng.next_u64();
        let page = self.table.page("sum");
        let add = |bytes: &mut [u8], at: u64, amount: u64| {
            let word = &mut bytes[at as usize * 8..][..8];
            let now = u64::from_le_bytes(word.try_into().unwrap_or_default());
            word.copy_from_slice(&now.wrapping_add(amount).to_le_bytes());
        };
        self.p.update(page, 0, |bytes| {
            add(bytes, from, amount.wrapping_neg());
            add(bytes, to, amount);
        })?;
        Ok(())
    }

    fn loan(&mut self) -> Result<(), PageError> {
        let choice = self.rng.next_u64();
        let word = pair(self.rng.next_u64());
        let size = self.any("loan/", choice).size();
        let value = self.value(size - 16);
        let page = self.any("loan/", choice);
        let mut loan = self.p.loan(page)?;
        loan[..16].copy_from_slice(&word);
        loan[16..].copy_from_slice(&value);
        if choice & 1 << 40 != 0 {
            // Given back.
            return Ok(());
        }
        loan.publish(0)?;
        match self.p.pin(page) {
            Ok(view) => {
                if unseal(&view[16..]).is_none() {
                    say("bad torn a pinned view");
                }
                Ok(())
            }
            Err(PageError::NotLoaned(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn loan_pair(&mut self) -> Result<(), PageError> {
        let choice = self.rng.next_u64();
        let word = pair(choice);
        self.p.patch(self.any("loan/", choice), 0, &word)?;
        Ok(())
    }

    fn temporary(&mut self) -> Result<(), PageError> {
        if self.temporary.len() > 3 {
            let name = self.temporary.remove(0);
            self.destroy(&name);
            return Ok(());
        }
        self.made += 1;
        let name = format!("tmp/{}/{}-{}", self.slot, std::process::id(), self.made);
        let size = 1 + self.rng.below(5000);
        let id = self.p.create_page(&named(size, &name))?;
        self.temporary.push(name.clone());
        let page = self.p.open_page(&name)?;
        let mut bytes = vec![1; size as usize];
        self.p.read(&page, 0, &mut bytes)?;
        if page.id() != id || bytes.iter().any(|b| *b != 0) {
            say(&format!("bad other {name} is not fresh"));
        }
        self.rng.fill(&mut bytes);
        self.p.patch(&page, 0, &bytes)?;
        if self.rng.chance(1, 4) {
            self.p.describe_page(id, |mut cold| {
                cold.meta.push(("size".into(), size.to_string()));
                cold
            })?;
        }
        Ok(())
    }

    fn lease(&mut self) -> Result<(), PageError> {
        let values: Vec<Vec<u8>> = (0..4).map(|_| self.value(200)).collect();
        let page = self.table.page("sealed/1");
        let lease = self.p.lease(page)?;
        for value in &values {
            self.p.patch(page, 0, value)?;
        }
        drop(lease);
        Ok(())
    }

    fn follow_lossy(&mut self) -> Result<(), PageError> {
        let mut follower = match self.lossy.take() {
            Some(follower) => follower,
            None => match self.p.follow(false) {
                Err(PageError::Full(_)) => return Ok(()),
                other => other?,
            },
        };
        let table = &self.table;
        let polled = self.p.poll(&mut follower, 300, |d| judge(table, d));
        // Sometimes given back, sometimes kept, to be overtaken.
        if self.rng.chance(3, 4) {
            self.lossy = Some(follower);
        }
        polled.map(drop)
    }

    fn follow_gating(&mut self) -> Result<(), PageError> {
        // Nothing is written meanwhile: the room it waited for would be its own to make.
        let mut follower = match self.p.follow(true) {
            Err(PageError::Full(_)) => return Ok(()),
            other => other?,
        };
        let until = Instant::now() + Duration::from_millis(self.rng.below(4));
        let table = &self.table;
        loop {
            if let Polled::Gap(gap) = self.p.poll(&mut follower, 100, |d| judge(table, d))? {
                say(&format!("bad other a gating follower has {gap:?}"));
            }
            if !self.p.wait(&mut follower, Some(until))? {
                return Ok(());
            }
            if Instant::now() > until {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> Result<(), PageError> {
        let n = self.rng.below(self.table.pages.len() as u64) as usize;
        let (page, rule, name) = &self.table.pages[n];
        let mut bytes = vec![0; page.size()];
        let version = self.p.read(page, 0, &mut bytes)?;
        if !rule.holds(&bytes) {
            say(&format!("bad torn {name} at {version:?}"));
        }
        Ok(())
    }
}

/// A sealed page is overwritten whole, so its deltas are sealed too: a record read in part is found out.
pub fn judge(table: &Table, d: &Delta<'_>) {
    use super::pages::Rule;
    if d.kind != Kind::Patch {
        return;
    }
    if let Some((Rule::Sealed | Rule::Together, size)) = table.rule(d.page) {
        d.for_each_range(|at, bytes| {
            if at != 0 || bytes.len() != size || unseal(bytes).is_none() {
                say(&format!("bad torn the record at {}", d.lsn));
            }
        });
    }
}
