//! Scripted operations on a bus of known content: what the `worker` does, and dies in.
//!
//! Every scenario begins with the same pages ([`furnish`]), so a run that is not killed tells what every other run may
//! leave behind: the state ahead of the operation, or that behind one of its commits (`Actor::mark`).

use std::sync::Arc;

use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{
    BusConfig, Change, Cold, Core, Follower, NewPage, Options, PageId, PageRef, Participant,
    ParticipantConfig,
};

use crate::ptrace::region_begin;

/// Name of the bus in its own directory.
pub const BUS: &str = "t";

/// The smallest ring: 64 slots.
pub const SMALL_RING: u64 = 4096;

/// A bus for a scenario.
pub fn config(ring_bytes: u64) -> BusConfig {
    BusConfig {
        bytes_max: 1 << 30,
        pages_max: 256,
        names_max: 64,
        ring_bytes,
        participants_max: 12,
        cursors_max: 12,
        sources_max: 16,
        ..BusConfig::default()
    }
}

/// Joins under a name.
///
/// # Panics
/// When the bus refuses.
pub fn join(core: &Arc<Core>, name: &str) -> Participant {
    let config = ParticipantConfig {
        name: name.into(),
        ..ParticipantConfig::default()
    };
    Participant::join(Arc::clone(core), config).expect("to join")
}

/// A named page to be made.
pub fn named(size: u64, name: &str) -> NewPage {
    NewPage {
        size,
        cold: Cold {
            name: name.into(),
            ..Cold::default()
        },
        ..NewPage::default()
    }
}

/// `len` bytes that depend on all of `seed`.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crate::seed::Rng::new(seed).fill(&mut bytes);
    bytes
}

/// Makes the pages that every scenario begins with, calling `drain` after each commit: on the smallest ring somebody
/// has to follow, and a creation that waits for room takes another page number.
///
/// # Panics
/// When the bus refuses.
pub fn furnish(p: &Participant, mut drain: impl FnMut()) {
    let pages = [
        ("plain", 200, 1),
        ("wide", 3000, 1),
        ("cell", 100, 4),
        ("loaned", 5000, 1),
        ("spare", 64, 1),
        ("doomed", 150, 1),
    ];
    for (n, (name, size, versions)) in pages.into_iter().enumerate() {
        let new = NewPage {
            versions,
            ..named(size, name)
        };
        p.create_page(&new).expect("a page");
        drain();
        let page = p.open_page(name).expect("the page");
        // In pieces that fit the smallest ring.
        for (i, piece) in pattern(n as u64, size as usize).chunks(500).enumerate() {
            p.patch(&page, i * 500, piece).expect("a patch");
            drain();
        }
    }
    let page = p.open_page("loaned").expect("the page");
    let mut loan = p.loan(&page).expect("a loan");
    loan.copy_from_slice(&pattern(99, 5000));
    loan.publish(0).expect("to publish");
    drain();
    // The one without a name.
    let id = p
        .create_page(&NewPage {
            size: 77,
            ..NewPage::default()
        })
        .expect("a page");
    let page = p.core().pages.resolve(id).expect("the page");
    p.patch(&page, 0, &pattern(98, 77)).expect("a patch");
    drain();
}

/// The page without a name that [`furnish`] made.
///
/// # Panics
/// When there is none.
pub fn unnamed(core: &Core) -> PageId {
    core.pages
        .list_pages()
        .into_iter()
        .find(|id| core.pages.cold(*id).expect("cold").name.is_empty())
        .expect("a page without a name")
}

/// Who performs an operation.
pub struct Actor<'a> {
    /// The bus.
    pub core: Arc<Core>,
    /// Called between two commits of one operation.
    pub mark: &'a dyn Fn(),
}

impl Actor<'_> {
    fn mark(&self) {
        (self.mark)();
    }
}

/// What an operation finds ready.
pub struct Stage {
    /// The participant, unless joining is the operation.
    pub p: Option<Participant>,
    /// A subscription, where that is what goes away.
    pub follower: Option<Follower>,
}

impl Stage {
    /// The participant.
    ///
    /// # Panics
    /// When joining is the operation.
    pub fn p(&self) -> &Participant {
        self.p.as_ref().expect("a participant")
    }

    fn page(&self, name: &str) -> PageRef {
        self.p().open_page(name).expect("the page")
    }
}

/// A scripted operation.
pub struct Op {
    /// Its name, as the worker's argument.
    pub name: &'static str,
    /// Size of the ring.
    pub ring_bytes: u64,
    /// Only steps that start with this are of interest; empty: all.
    pub steps: &'static str,
    act: fn(&Actor<'_>, &mut Stage),
}

const RING: u64 = 1 << 16;

macro_rules! ops {
    ($($name:ident ($ring:expr, $steps:expr) $act:expr;)*) => {
        /// All operations.
        pub const OPS: &[Op] = &[$(Op { name: stringify!($name), ring_bytes: $ring, steps: $steps, act: $act }),*];
    };
}

ops! {
    join (RING, "") |a, s| s.p = Some(join(&a.core, "newcomer"));
    leave (RING, "") |_, s| drop(s.p.take());
    create_unnamed (RING, "") |_, s| {
        s.p().create_page(&NewPage { size: 120, ..NewPage::default() }).expect("a page");
    };
    create_named (RING, "") |_, s| {
        let mut new = named(120, "made/by/worker");
        new.cold.schema_hash = 7;
        new.cold.schema = b"a schema".to_vec();
        new.cold.meta = vec![("unit".into(), "m/s".into())];
        s.p().create_page(&new).expect("a page");
    };
    create_cell (RING, "") |_, s| {
        s.p().create_page(&NewPage { versions: 5, ..named(50, "made/cell") }).expect("a page");
    };
    create_with_growth (RING, "") |_, s| {
        s.p().create_page(&named(3 << 20, "made/large")).expect("a page");
    };
    destroy_unnamed (RING, "") |a, s| s.p().destroy_page(unnamed(&a.core)).expect("to destroy");
    destroy_named (RING, "") |a, s| {
        s.p().destroy_page(a.core.pages.find("doomed").expect("it")).expect("to destroy");
    };
    destroy_loaned (RING, "") |a, s| {
        s.p().destroy_page(a.core.pages.find("loaned").expect("it")).expect("to destroy");
    };
    patch (RING, "") |_, s| {
        let (page, bytes) = (s.page("plain"), pattern(1000, 16));
        region_begin();
        s.p().patch(&page, 20, &bytes).expect("a patch");
    };
    patch_of_many_slots (RING, "") |_, s| {
        s.p().patch(&s.page("wide"), 100, &pattern(1001, 2000)).expect("a patch");
    };
    patch_larger_than_a_record (SMALL_RING, "") |_, s| {
        s.p().patch(&s.page("wide"), 100, &pattern(1002, 2000)).expect("a patch");
    };
    patch_cell (RING, "") |_, s| {
        s.p().patch(&s.page("cell"), 20, &pattern(1003, 16)).expect("a patch");
    };
    patch_loaned (RING, "") |_, s| {
        s.p().patch(&s.page("loaned"), 4000, &pattern(1004, 300)).expect("a patch");
    };
    batch (RING, "") |_, s| group(s, &["plain", "wide", "wide", "cell"], false);
    batch_out_of_order (RING, "") |_, s| group(s, &["cell", "plain", "wide", "plain"], false);
    batch_with_loaned (RING, "") |_, s| group(s, &["loaned", "plain", "loaned"], false);
    transaction (RING, "") |_, s| group(s, &["plain", "wide"], true);
    transaction_with_cell_and_loaned (RING, "") |_, s| {
        group(s, &["loaned", "cell", "plain", "cell", "wide"], true);
    };
    masked (RING, "") |_, s| {
        let mask: Vec<u8> = (0..100).map(|i| u8::from(i % 3 == 0)).collect();
        let page = s.page("plain");
        let change = Change::Masked { page: &page, offset: 50, mask: &mask, bytes: &pattern(1005, 100) };
        s.p().commit(&[change], &Options::default()).expect("a masked delta");
    };
    ranges (RING, "") |_, s| {
        let page = s.page("plain");
        let change = Change::Ranges { page: &page, ranges: &[(3, 10), (100, 20)], bytes: &pattern(1006, 30) };
        s.p().commit(&[change], &Options { cause: 5, transaction: false }).expect("ranges");
    };
    update (RING, "") |_, s| {
        s.p().update(&s.page("wide"), 0, |bytes| {
            bytes[5] ^= 1;
            bytes[2000] ^= 1;
        }).expect("an update");
    };
    loan (RING, "") |_, s| loan(s, "wide", 1007);
    loan_again (RING, "") |_, s| loan(s, "loaned", 1008);
    loan_given_back (RING, "") |_, s| drop(s.p().loan(&s.page("wide")).expect("a loan"));
    pin (RING, "") |_, s| {
        let page = s.page("loaned");
        let view = s.p().pin(&page).expect("a view");
        assert_eq!(view.len(), 5000);
    };
    rename (RING, "") |a, s| {
        let id = a.core.pages.find("plain").expect("it");
        s.p().describe_page(id, |mut cold| { cold.name = "plainer".into(); cold }).expect("to rename");
    };
    name_given (RING, "") |a, s| {
        let id = unnamed(&a.core);
        s.p().describe_page(id, |mut cold| { cold.name = "not unnamed".into(); cold }).expect("to name");
    };
    name_taken_away (RING, "") |a, s| {
        let id = a.core.pages.find("doomed").expect("it");
        s.p().describe_page(id, |_| Cold::default()).expect("to take its name");
    };
    lease (RING, "") |a, s| {
        let page = s.page("plain");
        let lease = s.p().lease(&page).expect("a lease");
        for n in 0..2u64 {
            s.p().patch(&page, 8, &pattern(1010 + n, 24)).expect("a patch");
            a.mark();
        }
        drop(lease);
    };
    follow_gating (RING, "") |_, s| s.follower = Some(s.p().follow(true).expect("a follower"));
    follow_lossy (RING, "") |_, s| s.follower = Some(s.p().follow(false).expect("a follower"));
    move_the_limit (SMALL_RING, "limit.") |a, s| {
        let page = s.page("plain");
        for n in 0..80u64 {
            s.p().patch(&page, 8, &pattern(2000 + n, 24)).expect("a patch");
            a.mark();
        }
    };
}

fn group(s: &Stage, names: &[&str], transaction: bool) {
    let pages: Vec<PageRef> = names.iter().map(|name| s.page(name)).collect();
    let bytes: Vec<Vec<u8>> = (0..names.len())
        .map(|n| pattern(3000 + n as u64, 30 + n * 9))
        .collect();
    let changes: Vec<Change<'_>> = pages
        .iter()
        .zip(&bytes)
        .enumerate()
        .map(|(n, (page, bytes))| Change::Patch {
            page,
            offset: n as u32 * 4,
            bytes,
        })
        .collect();
    let options = Options {
        cause: 0,
        transaction,
    };
    region_begin();
    s.p().commit(&changes, &options).expect("a group");
}

fn loan(s: &Stage, name: &str, seed: u64) {
    let page = s.page(name);
    let bytes = pattern(seed, page.size());
    region_begin();
    let mut loan = s.p().loan(&page).expect("a loan");
    loan.copy_from_slice(&bytes);
    loan.publish(3).expect("to publish");
}

/// The operation of this name.
///
/// # Panics
/// When there is none.
pub fn op(name: &str) -> &'static Op {
    OPS.iter()
        .find(|op| op.name == name)
        .unwrap_or_else(|| panic!("no operation {name:?}"))
}

impl Op {
    /// What comes ahead of the operation: joins, unless that is it.
    pub fn prepare(&self, core: &Arc<Core>) -> Stage {
        Stage {
            p: (self.name != "join").then(|| join(core, "worker")),
            follower: None,
        }
    }

    /// Whether it calls [`region_begin`] itself, with everything at hand.
    pub fn begins_itself(&self) -> bool {
        ["patch", "loan", "transaction"].contains(&self.name)
    }

    /// The operation.
    pub fn act(&self, actor: &Actor<'_>, stage: &mut Stage) {
        (self.act)(actor, stage);
    }
}

/// Attaches to the scenario's bus.
///
/// # Panics
/// When it cannot.
pub fn attach(dir: &SegmentDir) -> Arc<Core> {
    Arc::new(Core::attach(dir, BUS).expect("to attach"))
}
