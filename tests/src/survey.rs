//! What survivors check: the bus is whole, its log and its memory agree, and everything still works.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{
    Change, Cold, Core, Delta, Follower, Kind, NewPage, Options, PageError, PageId, PageRef, Pages,
    Participant, ParticipantConfig, Polled,
};

use crate::scenario::{self, BUS, named};

/// A page as a reader sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct PageState {
    /// Deltas since creation.
    pub epoch: u64,
    /// Version slots.
    pub versions: u32,
    /// Content.
    pub content: Vec<u8>,
    /// Name, schema, metadata.
    pub cold: Cold,
}

impl std::fmt::Debug for PageState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sum = self
            .content
            .iter()
            .fold(0u32, |s, b| s.rotate_left(5) ^ u32::from(*b));
        write!(
            f,
            "{:?} epoch {} of {} bytes ({sum:08x})",
            self.cold.name,
            self.epoch,
            self.content.len()
        )
    }
}

/// All pages of a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// By id.
    pub pages: BTreeMap<PageId, PageState>,
}

impl World {
    /// Reads everything, as a participant.
    ///
    /// # Errors
    /// The first read that failed.
    pub fn read(p: &Participant) -> Result<World, String> {
        World::collect(&p.core().pages, |page, out| {
            p.read(page, 0, out).map(|v| v.epoch)
        })
    }

    /// Reads everything, as an observer.
    ///
    /// # Errors
    /// The first read that failed.
    pub fn observe(pages: &Pages) -> Result<World, String> {
        World::collect(pages, |page, out| {
            pages.observe(page, 0, out).map(|v| v.epoch)
        })
    }

    fn collect(
        pages: &Pages,
        mut read: impl FnMut(&PageRef, &mut [u8]) -> Result<u64, PageError>,
    ) -> Result<World, String> {
        let mut world = World::default();
        for id in pages.list_pages() {
            let page = pages.resolve(id).map_err(|e| format!("{id}: {e}"))?;
            let mut content = vec![0; page.size()];
            let epoch = read(&page, &mut content).map_err(|e| format!("{id}: {e}"))?;
            let cold = pages.cold(id).map_err(|e| format!("{id}: {e}"))?;
            world.pages.insert(
                id,
                PageState {
                    epoch,
                    versions: page.versions(),
                    content,
                    cold,
                },
            );
        }
        Ok(world)
    }
}

/// A page rebuilt from the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaPage {
    /// Content.
    pub content: Vec<u8>,
    /// Deltas since creation.
    pub epoch: u64,
    /// LSN of the last of them.
    pub lsn: u64,
}

/// The pages of a bus, rebuilt from its log by a gating follower that has seen all of it.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// By id.
    pub pages: BTreeMap<PageId, ReplicaPage>,
    /// LSN of the last delta.
    pub last: u64,
    /// Deltas applied.
    pub deltas: u64,
    /// What was wrong with the log, if anything.
    pub wrong: Option<String>,
}

impl Replica {
    fn complain(&mut self, text: String) {
        self.wrong.get_or_insert(text);
    }

    /// Applies one delta.
    pub fn apply(&mut self, pages: &Pages, d: &Delta<'_>) {
        if d.lsn <= self.last {
            let last = self.last;
            self.complain(format!("LSN {} comes after {last}", d.lsn));
        }
        self.last = d.lsn;
        self.deltas += 1;
        match d.kind {
            Kind::Create => {
                let Some((size, _)) = d.created_size() else {
                    return self.complain(format!("creation at {} has no size", d.lsn));
                };
                let new = ReplicaPage {
                    content: vec![0; size as usize],
                    epoch: 0,
                    lsn: d.lsn,
                };
                if self.pages.insert(d.page, new).is_some() {
                    self.complain(format!("page {} is created twice", d.page));
                }
            }
            Kind::Destroy => {
                if self.pages.remove(&d.page).is_none() {
                    self.complain(format!("page {} is destroyed, but not there", d.page));
                }
            }
            Kind::Patch | Kind::Ranges | Kind::Masked | Kind::Swap => {
                let mut swapped = Vec::new();
                let whole = match d.kind {
                    Kind::Swap => match pages.read_swapped(d, &mut swapped) {
                        Ok(found) => found,
                        Err(e) => return self.complain(format!("swap at {}: {e}", d.lsn)),
                    },
                    _ => true,
                };
                if !whole {
                    return self.complain(format!("the block of the swap at {} is gone", d.lsn));
                }
                let Some(page) = self.pages.get_mut(&d.page) else {
                    return self.complain(format!("a delta at {} to page {}", d.lsn, d.page));
                };
                page.epoch += 1;
                page.lsn = d.lsn;
                let mut outside = false;
                if d.kind == Kind::Swap {
                    outside = swapped.len() != page.content.len();
                    page.content = swapped;
                }
                d.for_each_range(
                    |at, bytes| match page.content.get_mut(at..at + bytes.len()) {
                        Some(target) => target.copy_from_slice(bytes),
                        None => outside = true,
                    },
                );
                if outside {
                    self.complain(format!("the delta at {} is larger than its page", d.lsn));
                }
            }
            _ => {}
        }
    }
}

/// A participant that lives on, follows everything, and knows an observer.
pub struct Survivor {
    /// The participant.
    pub p: Participant,
    /// Its gating subscription.
    pub follower: Follower,
    /// What the log says.
    pub replica: Replica,
    /// A read-only mapping.
    pub observer: Pages,
}

impl Survivor {
    /// Creates the scenario's bus in `dir`, furnishes it, follows it from its first page on.
    ///
    /// # Panics
    /// When the bus refuses.
    pub fn found(dir: &SegmentDir, ring_bytes: u64) -> Survivor {
        let config = scenario::config(ring_bytes);
        let core = Arc::new(Core::create(dir, BUS, &config).expect("a bus"));
        let mut survivor = Survivor::join(&core, ParticipantConfig::default().timeout);
        let decorator = scenario::join(&core, "decorator");
        scenario::furnish(&decorator, || survivor.drain_raw());
        drop(decorator);
        survivor.drain_raw();
        survivor
    }

    /// Joins a bus that has no page yet.
    ///
    /// # Panics
    /// When the bus refuses.
    pub fn join(core: &Arc<Core>, timeout: Duration) -> Survivor {
        let mut p = scenario::join(core, "survivor");
        p.set_timeout(timeout);
        let follower = p.follow(true).expect("to follow");
        Survivor {
            p,
            follower,
            replica: Replica::default(),
            observer: Pages::open(&core.dir, BUS, false).expect("to observe"),
        }
    }

    /// Follows what is there, repairing nobody.
    ///
    /// # Panics
    /// When the log is corrupt.
    pub fn drain_raw(&mut self) {
        let pages = &self.p.core().pages;
        let replica = &mut self.replica;
        while let Polled::Deltas(_) = self
            .follower
            .poll(pages, 1000, |d| replica.apply(pages, d))
            .expect("a sound log")
        {}
    }

    /// Follows to the end of the ring, finishing what the dead left in the way.
    ///
    /// # Errors
    /// Anything that a survivor must not meet.
    pub fn drain(&mut self) -> Result<(), String> {
        let end = self.p.core().pages.end_lsn();
        while self.follower.position() < end {
            let pages = &self.p.core().pages;
            let replica = &mut self.replica;
            match self
                .p
                .poll(&mut self.follower, 1000, |d| replica.apply(pages, d))
            {
                Ok(Polled::Gap(gap)) => return Err(format!("a gating follower has {gap:?}")),
                Ok(_) => {}
                Err(e) => return Err(format!("following: {e}")),
            }
        }
        match &self.replica.wrong {
            Some(wrong) => Err(format!("the log is wrong: {wrong}")),
            None => Ok(()),
        }
    }

    /// Ahead of any repair: an observer reads a state that there was, or an error that says why not. `cuts`: so do
    /// cuts over all pages (a batch that is no transaction may be seen in part).
    ///
    /// # Errors
    /// What an observer must not see.
    pub fn observe_unrepaired(&self, worlds: &[World], cuts: bool) -> Result<(), String> {
        let pages = &self.observer;
        let mut all = Vec::new();
        for id in pages.list_pages() {
            let page = match pages.resolve(id) {
                Ok(page) => page,
                Err(PageError::PageGone(_)) => continue,
                Err(e) => return Err(format!("observer: page {id}: {e}")),
            };
            let mut content = vec![0; page.size()];
            match pages.observe(&page, 0, &mut content) {
                Ok(version) => {
                    let known = worlds.iter().any(|w| {
                        w.pages
                            .get(&id)
                            .is_some_and(|s| s.content == content && s.epoch == version.epoch)
                    });
                    if !known {
                        return Err(format!(
                            "an observer sees page {id} in a state that never was: {version:?}"
                        ));
                    }
                }
                Err(PageError::Contended(_) | PageError::PageGone(_)) => {}
                Err(e) => return Err(format!("observer: page {id}: {e}")),
            }
            pages
                .cold(id)
                .map_err(|e| format!("observer: cold of {id}: {e}"))?;
            all.push(page);
        }
        match pages.observe_cut(&all) {
            Ok(cut) => {
                let whole = worlds.iter().any(|w| {
                    all.iter().zip(&cut).all(|(page, (content, version))| {
                        w.pages
                            .get(&page.id())
                            .is_none_or(|s| s.content == *content && s.epoch == version.epoch)
                    })
                });
                if cuts && !whole {
                    return Err("an observer's cut is no state that ever was".into());
                }
            }
            Err(PageError::Contended(_)) => {}
            Err(e) => return Err(format!("observer: cut: {e}")),
        }
        let mut follower = Follower::at(pages.floor_lsn());
        loop {
            match follower.poll(pages, 1000, |_| ()) {
                Ok(Polled::Deltas(_)) => {}
                Ok(Polled::Empty) => return Ok(()),
                Ok(Polled::Waiting { lsn }) => {
                    let soon = Instant::now() + Duration::from_secs(5);
                    return match follower.wait_observing(pages, Some(soon)) {
                        Err(PageError::Stalled { lsn: at }) if at == lsn => Ok(()),
                        other => Err(format!("observer behind a dead claim: {other:?}")),
                    };
                }
                Ok(Polled::Gap(gap)) => return Err(format!("observer: {gap:?} on a quiet ring")),
                Err(e) => return Err(format!("observer: following: {e}")),
            }
        }
    }

    /// Everything that a survivor can want, without anybody else's help and without an explicit recovery: every lock,
    /// every name, memory, the ring.
    ///
    /// # Errors
    /// What did not work.
    pub fn use_everything(&mut self) -> Result<(), String> {
        let p = &self.p;
        let e = |what: &'static str| move |e: PageError| format!("{what}: {e}");
        for id in p.core().pages.list_pages() {
            let page = match p.core().pages.resolve(id) {
                Err(PageError::PageGone(_)) => continue,
                other => other.map_err(e("resolve"))?,
            };
            match p.update(&page, 0, |_| ()) {
                Ok((_, None)) | Err(PageError::PageGone(_)) => {}
                Ok((_, Some(r))) => return Err(format!("an empty update committed {r:?}")),
                Err(error) => return Err(format!("locking page {id}: {error}")),
            }
        }
        self.drain()?;
        let p = &self.p;
        let id = p.create_page(&named(700, "post")).map_err(e("create"))?;
        let page = p.open_page("post").map_err(e("open"))?;
        let mut out = vec![1; 700];
        p.read(&page, 0, &mut out).map_err(e("read"))?;
        if page.id() != id || out.iter().any(|b| *b != 0) {
            return Err("a fresh page is not the one, or not zero".into());
        }
        p.describe_page(id, |mut cold| {
            cold.name = "later".into();
            cold
        })
        .map_err(e("rename"))?;
        let spare = p.open_page("spare").map_err(e("open"))?;
        let before = {
            let mut bytes = [0; 64];
            p.read(&spare, 0, &mut bytes).map_err(e("read"))?;
            bytes
        };
        let changes = [
            Change::Patch {
                page: &page,
                offset: 3,
                bytes: &[7; 30],
            },
            Change::Patch {
                page: &spare,
                offset: 0,
                bytes: &[8; 64],
            },
        ];
        let options = Options {
            cause: 0,
            transaction: true,
        };
        p.commit(&changes, &options).map_err(e("transaction"))?;
        let mut loan = p.loan(&page).map_err(e("loan"))?;
        loan.fill(9);
        loan.publish(0).map_err(e("publish"))?;
        p.destroy_page(id).map_err(e("destroy"))?;
        if p.open_page("post").is_ok() || p.open_page("later").is_ok() {
            return Err("a destroyed page has a name".into());
        }
        let plain = p
            .create_page(&NewPage {
                size: 3000,
                ..NewPage::default()
            })
            .map_err(e("create"))?;
        p.destroy_page(plain).map_err(e("destroy"))?;
        // Round the ring, twice; the follower is this thread's too.
        let laps = (2 * self.observer.ring_info().slots).min(300);
        for n in 0..laps {
            let (p, spare) = (&self.p, &spare);
            p.patch(spare, 0, &n.to_le_bytes()).map_err(e("patch"))?;
            self.drain()?;
        }
        self.p.patch(&spare, 0, &before).map_err(e("patch"))?;
        drop(self.p.follow(true).map_err(e("follow"))?);
        self.drain()
    }

    /// After recovery: memory is one of `worlds`, and all that [`Survivor::settle`] says.
    ///
    /// # Errors
    /// What is wrong.
    pub fn compare(&mut self, worlds: &[World]) -> Result<(), String> {
        let mut known = self.settle()?;
        // The checks of `use_everything` leave the spare page's bytes as they were and its epoch where they took it.
        let of_spare = |w: &World| {
            w.pages
                .iter()
                .find(|(_, s)| s.cold.name == "spare")
                .map(|(id, s)| (*id, s.epoch))
        };
        if let (Some((id, _)), Some((_, epoch))) = (of_spare(&known), of_spare(&worlds[0]))
            && let Some(state) = known.pages.get_mut(&id)
        {
            state.epoch = epoch;
        }
        if worlds.contains(&known) {
            return Ok(());
        }
        Err(format!(
            "a state that never was:\n{known:#?}\nknown states:\n{worlds:#?}"
        ))
    }

    /// Recovers who is dead. On a bus where nobody else is at work: the log agrees with memory, an observer sees the
    /// same, recovering again changes nothing, no block is lost.
    ///
    /// # Errors
    /// What is wrong.
    pub fn settle(&mut self) -> Result<World, String> {
        self.p.recover_all().map_err(|e| format!("recovery: {e}"))?;
        self.drain()?;
        let now = World::read(&self.p)?;
        self.agree(&now)?;
        if World::observe(&self.observer)? != now {
            return Err("an observer sees another world".into());
        }
        let again = self.p.recover_all().map_err(|e| e.to_string())?;
        if again != 0 || World::read(&self.p)? != now {
            return Err(format!("a second recovery found {again} dead"));
        }
        let used = live_blocks(&self.observer);
        let colds = now.pages.values().filter(|s| !s.cold.is_empty()).count() as u64;
        let wanted = now.pages.len() as u64 + colds;
        if used != wanted {
            return Err(format!(
                "{used} blocks are in use, for {wanted} pages and names"
            ));
        }
        Ok(now)
    }

    fn agree(&self, world: &World) -> Result<(), String> {
        let ids = |it: &mut dyn Iterator<Item = &PageId>| it.copied().collect::<BTreeSet<_>>();
        let (here, there) = (
            ids(&mut world.pages.keys()),
            ids(&mut self.replica.pages.keys()),
        );
        if here != there {
            return Err(format!("pages are {here:?}, the log says {there:?}"));
        }
        for (id, state) in &world.pages {
            let r = &self.replica.pages[id];
            if r.content != state.content || r.epoch != state.epoch {
                return Err(format!(
                    "page {id} is {state:?}, by the log it has epoch {} ({})",
                    r.epoch,
                    if r.content == state.content {
                        "same bytes"
                    } else {
                        "other bytes"
                    }
                ));
            }
            let page = self.observer.resolve(*id).map_err(|e| e.to_string())?;
            let lsn = self.observer.version(&page).map_err(|e| e.to_string())?.lsn;
            if lsn != r.lsn {
                return Err(format!("page {id} has LSN {lsn}, by the log {}", r.lsn));
            }
        }
        let names = self
            .observer
            .list_names("")
            .map_err(|e| format!("names: {e}"))?;
        let wanted: BTreeSet<(String, PageId)> = world
            .pages
            .iter()
            .filter(|(_, s)| !s.cold.name.is_empty())
            .map(|(id, s)| (s.cold.name.clone(), *id))
            .collect();
        if names.iter().cloned().collect::<BTreeSet<_>>() != wanted || names.len() != wanted.len() {
            return Err(format!("names are {names:?}, by the pages {wanted:?}"));
        }
        for (name, id) in &names {
            if self.observer.find(name).as_ref() != Ok(id) {
                return Err(format!("{name:?} is not found as {id}"));
            }
        }
        Ok(())
    }
}

/// Blocks that belong to a page or hold a cold record.
pub fn live_blocks(pages: &Pages) -> u64 {
    pages
        .class_use()
        .iter()
        .map(|c| c.blocks - c.free - c.pending)
        .sum()
}

/// Slabs in use.
pub fn slabs(pages: &Pages) -> u32 {
    pages.class_use().iter().map(|c| c.slabs).sum()
}
