//! The checker: a participant that follows the log from its first record, rebuilds every page from it, and reads
//! pages and cuts, as participant and as observer, while the workers work and die.
//!
//! Orders: `own SLOT` (answer `own SLOT N`, the sequence number on the page), `laps`, `settle` (workers are gone:
//! compare everything; answer `settled DELTAS LAPS COUNTERS...`). What is wrong is said as `bad CLASS E`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{BusConfig, Core, Counter, PageError, PageId, PageVersion, Polled};

use super::pages::{Rule, Table, furnish, own_name, unseal};
use super::worker::judge;
use crate::scenario::{self, BUS};
use crate::seed::Rng;
use crate::spawn::{orders, say};
use crate::survey::{Survivor, slabs};

/// What a page held at a version, to be compared once the log is there.
type Watch = HashMap<PageId, (PageVersion, Vec<u8>)>;

struct Checker {
    s: Survivor,
    /// The pages in the participant's mapping.
    table: Table,
    /// The same in the observer's: a handle belongs to one mapping.
    observed: Table,
    watch: Watch,
    rng: Rng,
    bad: u64,
}

/// The bus of the soak.
pub fn config(ring_bytes: u64) -> BusConfig {
    BusConfig {
        bytes_max: 1 << 30,
        pages_max: 1024,
        names_max: 1024,
        ring_bytes,
        participants_max: 40,
        cursors_max: 64,
        sources_max: 64,
        ..BusConfig::default()
    }
}

/// Makes the bus, says `ready`, and checks until standard input closes.
///
/// # Panics
/// When the bus cannot be made.
pub fn run(dir: &SegmentDir, ring_bytes: u64, seed: u64) {
    let core = Arc::new(Core::create(dir, BUS, &config(ring_bytes)).expect("a bus"));
    let mut s = Survivor::join(&core, Duration::from_secs(25));
    let decorator = scenario::join(&core, "decorator");
    furnish(&decorator, || s.drain_raw());
    drop(decorator);
    let mut checker = Checker {
        table: Table::find(&core.pages),
        observed: Table::find(&s.observer),
        s,
        watch: Watch::new(),
        rng: Rng::new(seed),
        bad: 0,
    };
    let (sender, lines) = channel();
    std::thread::spawn(move || orders().for_each(|line| drop(sender.send(line))));
    say("ready");
    loop {
        match lines.try_recv() {
            Ok(order) => checker.obey(&order),
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
            Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
        }
        checker.follow();
        checker.look();
    }
}

impl Checker {
    fn bad(&mut self, class: &str, text: &str) {
        self.bad += 1;
        // One fault can have thousands of effects; the first ones tell.
        if self.bad <= 20 {
            say(&format!("bad {class} {text}"));
        }
    }

    fn table_of(&self, observer: bool) -> &Table {
        if observer {
            &self.observed
        } else {
            &self.table
        }
    }

    /// Takes what is in the ring, and compares pages with what the log says they were.
    fn follow(&mut self) {
        let begin = Instant::now();
        let soon = begin + Duration::from_millis(2);
        if let Err(e) = self.s.p.wait(&mut self.s.follower, Some(soon)) {
            self.bad("stuck", &format!("waiting: {e}"));
        }
        let pages = &self.s.p.core().pages;
        let (replica, watch, table) = (&mut self.s.replica, &mut self.watch, &self.table);
        let mut wrong = None;
        let polled = self.s.p.poll(&mut self.s.follower, 2000, |d| {
            replica.apply(pages, d);
            judge(table, d);
            let Some((version, _)) = watch.get(&d.page) else {
                return;
            };
            let Some(r) = replica.pages.get(&d.page) else {
                watch.remove(&d.page);
                return;
            };
            if r.lsn < version.lsn {
                return;
            }
            if let Some((version, bytes)) = watch.remove(&d.page)
                && r.lsn == version.lsn
                && (r.epoch != version.epoch || r.content != bytes)
            {
                wrong = Some(format!(
                    "page {} at {version:?} is not what the log says (epoch {})",
                    d.page, r.epoch
                ));
            }
        });
        match polled {
            Ok(Polled::Gap(gap)) => self.bad("log", &format!("the gating follower has {gap:?}")),
            Ok(_) => {}
            Err(e) => self.bad("stuck", &format!("following: {e}")),
        }
        if let Some(wrong) = wrong {
            self.bad("log", &wrong);
        }
        if let Some(wrong) = self.s.replica.wrong.take() {
            self.bad("log", &wrong);
        }
        if begin.elapsed() > super::worker::STUCK {
            self.bad("stuck", &format!("following took {:?}", begin.elapsed()));
        }
    }

    /// Reads something and judges it.
    fn look(&mut self) {
        let n = self.rng.below(self.table.pages.len() as u64) as usize;
        let as_observer = self.rng.chance(1, 2);
        let (page, rule, name) = &self.table_of(as_observer).pages[n];
        let mut bytes = vec![0; page.size()];
        let read = if as_observer {
            self.s.observer.observe(page, 0, &mut bytes)
        } else {
            self.s.p.read(page, 0, &mut bytes)
        };
        let who = if as_observer {
            "observer"
        } else {
            "participant"
        };
        match read {
            Ok(version) => {
                if !rule.holds(&bytes) {
                    let text = format!("{name} at {version:?}, read by the {who}");
                    return self.bad("torn", &text);
                }
                let id = page.id();
                let r = self.s.replica.pages.get(&id);
                if let Some(r) = r.filter(|r| r.lsn == version.lsn) {
                    if r.content != bytes || r.epoch != version.epoch {
                        let text = format!(
                            "{name} at {version:?}, read by the {who}, is not what the log says (epoch {})",
                            r.epoch
                        );
                        self.bad("log", &text);
                    }
                } else if r.is_some_and(|r| r.lsn < version.lsn) {
                    self.watch.insert(id, (version, bytes));
                }
            }
            Err(PageError::Contended(_)) if as_observer => {}
            Err(e) => {
                let text = format!("{name}, read by the {who}: {e}");
                self.bad("stuck", &text);
            }
        }
        if self.rng.chance(1, 4) {
            self.cut(as_observer);
        }
    }

    /// Pages that are only written together are the same in every cut.
    fn cut(&mut self, as_observer: bool) {
        let pages = if as_observer {
            &self.s.observer
        } else {
            &self.s.p.core().pages
        };
        let together: Vec<_> = self
            .table
            .pages
            .iter()
            .filter(|(_, rule, _)| *rule == Rule::Together)
            .map(|(page, ..)| pages.resolve(page.id()).expect("a lasting page"))
            .collect();
        let cut = if as_observer {
            self.s.observer.observe_cut(&together)
        } else {
            self.s.p.read_cut(&together)
        };
        match cut {
            Ok(cut) => {
                let words: Vec<_> = cut.iter().map(|(bytes, _)| unseal(bytes)).collect();
                if words.iter().any(|w| w.is_none() || *w != words[0]) {
                    let text = format!("a cut (observer: {as_observer}) holds {words:?}: {cut:?}");
                    self.bad("torn", &text);
                }
            }
            Err(PageError::Contended(_)) if as_observer => {}
            Err(e) => self.bad("stuck", &format!("a cut: {e}")),
        }
    }

    fn obey(&mut self, order: &str) {
        if let Some(slot) = order.strip_prefix("own ") {
            let page = self.s.p.open_page(&own_name(slot.parse().expect("a slot")));
            let page = page.expect("the writer's page");
            let mut bytes = vec![0; page.size()];
            let found = self
                .s
                .p
                .read(&page, 0, &mut bytes)
                .map_err(|e| e.to_string())
                .and_then(|_| unseal(&bytes).ok_or_else(|| "torn".into()));
            match found {
                Ok((sequence, _)) => say(&format!("own {slot} {sequence}")),
                Err(e) => {
                    self.bad("torn", &format!("page of writer {slot}: {e}"));
                    say(&format!("own {slot} 0"));
                }
            }
            return;
        }
        assert_eq!(order, "settle");
        self.settle();
    }

    /// Nobody else is left: everything must add up.
    fn settle(&mut self) {
        let begin = Instant::now();
        if let Err(e) = self.lock_everything() {
            self.bad("stuck", &format!("after the workers: {e}"));
        }
        match self.s.settle() {
            Ok(world) => {
                for (page, rule, name) in &self.table.pages {
                    let state = world.pages.get(&page.id());
                    if !state.is_some_and(|s| rule.holds(&s.content)) {
                        say(&format!("bad torn {name} at the end"));
                    }
                }
            }
            Err(e) => self.bad("log", &e),
        }
        let (pages, info) = (&self.s.observer, self.s.observer.ring_info());
        let counters: Vec<String> = [
            Counter::Recoveries,
            Counter::RecoveredClaimed,
            Counter::RecoveredReady,
            Counter::RecoveredOdd,
            Counter::RecoveredLocked,
            Counter::RecoveredRecoverer,
        ]
        .iter()
        .map(|c| pages.counter(*c).to_string())
        .collect();
        say(&format!(
            "settled {} {} {} {} {}",
            self.s.replica.deltas,
            (info.end - pages.first_lsn()) / u64::from(info.slots),
            slabs(pages),
            begin.elapsed().as_millis(),
            counters.join(" ")
        ));
    }

    /// By waiting, not by an explicit recovery: every page, then the names and memory.
    fn lock_everything(&mut self) -> Result<(), String> {
        let pages = self.s.p.core().pages.list_pages();
        for id in pages {
            let Ok(page) = self.s.p.core().pages.resolve(id) else {
                continue;
            };
            match self.s.p.update(&page, 0, |_| ()) {
                Ok((_, None)) | Err(PageError::PageGone(_)) => {}
                Ok((_, Some(r))) => return Err(format!("an empty update committed {r:?}")),
                Err(e) => return Err(format!("locking page {id}: {e}")),
            }
        }
        let new = scenario::named(100, "last");
        let id = self.s.p.create_page(&new).map_err(|e| e.to_string())?;
        self.s.p.destroy_page(id).map_err(|e| e.to_string())?;
        self.s.drain()
    }
}
