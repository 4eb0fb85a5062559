//! MMSB, by its public API and with default settings.

use std::sync::Mutex;

use anyhow::{Result, bail, ensure};
use mmsb::supervisor::{CheckpointPolicy, SupervisorConfig};
use mmsb::{
    Available, Bus, Durability, Event, Lease, Page, PageSpec, PageVersion, Subscription,
    WaitStrategy,
};

use crate::contender::{Contender, Entry, Kind, is_built_in};
use crate::drive::late_join::{self, State, VALUES};
use crate::drive::latest::{self, Value};
use crate::drive::one_way::{self, Link};
use crate::drive::recovery;
use crate::drive::synced::{self, Engine};
use crate::drive::throughput::{self, Stream};
use crate::drive::wake::{self, Bell};
use crate::task::{Side, Task, fill, number};

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

const fn mmsb(
    name: &'static str,
    label: &'static str,
    config: &'static str,
    entries: &'static [Entry],
) -> Contender {
    Contender {
        name,
        system: "MMSB",
        kind: Kind::Mmsb,
        label,
        config,
        server: None,
        entries,
        lacks: &[],
        is_here: is_built_in,
        version,
    }
}

/// The ways to use MMSB.
pub const CONTENDERS: &[Contender] = &[
    mmsb(
        "mmsb/page",
        "MMSB, page",
        "A bus and pages with default settings. Written with Page::patch, whole: each write is a delta with its place in \
         the bus's order and its record in the ring. Read with Page::read_if_newer (messages), Page::read_into, \
         or all of them with Observer::for_each_page (late joiner).",
        &[
            one_way::entry::<ByPage>(&[8, 64, 1024]),
            latest::read_alone::<Plain>(&[64, 1024]),
            latest::update_alone::<Plain>(&[64, 1024]),
            latest::contended::<Plain>(&[64, 1024]),
            late_join::entry::<Pages>(),
            recovery::entry::<Plain>(),
        ],
    ),
    mmsb(
        "mmsb/cell",
        "MMSB, cell",
        "As mmsb/page, with 16 versions of the page (PageSpec::versions), which is for values that are written all the \
         time.",
        &[
            latest::read_alone::<Cell>(&[64, 1024]),
            latest::update_alone::<Cell>(&[64, 1024]),
            latest::contended::<Cell>(&[64, 1024]),
            recovery::entry::<Cell>(),
        ],
    ),
    mmsb(
        "mmsb/ring",
        "MMSB, ring",
        "As mmsb/page, received with a subscription: every delta, in order (Subscription::for_each_in_group). For \
         throughput the writer commits batches of 64 patches and the subscriber is gating (the \
         writer waits for it) and takes all that is there (Subscription::for_each_available).",
        &[
            one_way::entry::<ByRing<false>>(&[8, 64, 1024]),
            throughput::entry::<Deltas>(&[64]),
        ],
    ),
    mmsb(
        "mmsb/leased",
        "MMSB, ring, leased",
        "As mmsb/ring, and each writer holds a lease on its page (Page::lease).",
        &[one_way::entry::<ByRing<true>>(&[8, 64, 1024])],
    ),
    mmsb(
        "mmsb/chunks",
        "MMSB, ring, in chunks",
        "Pages with default settings, patched in chunks of 8 KiB, each a delta of its own, which a gating subscriber applies \
         to a copy (Subscription::for_each_in_group) while the next is being written; read when the last one has come. A reader of the page could see \
         it between two chunks.",
        &[one_way::entry::<ByChunks>(&[64 << 10, 1 << 20])],
    ),
    mmsb(
        "mmsb/loan",
        "MMSB, loan",
        "Pages with default settings; the payload is written in place into a loan (Page::loan), published by a swap, and \
         read in place (Page::view).",
        &[one_way::entry::<ByLoan>(&[1024, 64 << 10, 1 << 20])],
    ),
    mmsb(
        "mmsb/doorbell",
        "MMSB, doorbell",
        "A subscription with WaitStrategy::Park sleeps; the writer calls Page::patch.",
        &[wake::entry::<Doorbell>()],
    ),
    mmsb(
        "mmsb/log",
        "MMSB, log",
        "A bus with a log on the disk (BusBuilder::supervise, default settings, no checkpoints), Durability::Synced: \
         Page::patch returns when the delta is on disk. A page, and an attachment to the bus, for each thread.",
        &[synced::entry::<Log>()],
    ),
];

/// The bus of this measurement. It is not left before the process ends: pages and subscriptions borrow it.
fn bus(task: &Task, side: Side) -> Result<&'static Bus> {
    let builder = Bus::builder("peers").dir(&task.dir);
    let bus = match side {
        Side::Lead => builder.source("lead").create()?,
        Side::Peer => builder.source("peer").attach()?,
    };
    Ok(Box::leak(Box::new(bus)))
}

fn page(
    bus: &'static Bus,
    name: &str,
    spec: PageSpec,
    side: Side,
) -> Result<&'static Page<'static>> {
    let page = match side {
        Side::Lead => bus.create_page(spec.name(name))?,
        Side::Peer => bus.page(name)?,
    };
    Ok(Box::leak(Box::new(page)))
}

/// The pages of both directions: the one to write, the one to read.
fn ways(task: &Task, side: Side) -> Result<(&'static Bus, [&'static Page<'static>; 2])> {
    let bus = bus(task, side)?;
    let spec = || PageSpec::new(task.bytes as u64);
    let mut pages = [
        page(bus, "there", spec(), side)?,
        page(bus, "back", spec(), side)?,
    ];
    if side == Side::Peer {
        pages.reverse();
    }
    Ok((bus, pages))
}

/// Messages by pages.
struct ByPage {
    there: &'static Page<'static>,
    back: &'static Page<'static>,
    known: PageVersion,
    out: Vec<u8>,
    into: Vec<u8>,
}

impl Link for ByPage {
    fn open(task: &Task, side: Side) -> Result<ByPage> {
        let (_, [there, back]) = ways(task, side)?;
        Ok(ByPage {
            there,
            back,
            known: back.version()?,
            out: vec![0; task.bytes],
            into: vec![0; task.bytes],
        })
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        fill(&mut self.out, n);
        self.there.patch(0, &self.out)?;
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        let Some(version) = self.back.read_if_newer(self.known, &mut self.into)? else {
            return Ok(None);
        };
        self.known = version;
        number(&self.into).map(Some)
    }
}

/// Messages by the ring.
struct ByRing<const LEASED: bool> {
    there: &'static Page<'static>,
    _lease: Option<Lease<'static>>,
    back: Subscription<'static>,
    out: Vec<u8>,
}

impl<const LEASED: bool> Link for ByRing<LEASED> {
    fn open(task: &Task, side: Side) -> Result<Self> {
        let (bus, [there, back]) = ways(task, side)?;
        Ok(ByRing {
            there,
            _lease: LEASED.then(|| there.lease()).transpose()?,
            back: bus.subscribe().page(back.id()).build()?,
            out: vec![0; task.bytes],
        })
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        fill(&mut self.out, n);
        self.there.patch(0, &self.out)?;
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        let mut got = Ok(0);
        let available = self.back.for_each_in_group(|delta| {
            delta.for_each_range(|_, bytes| got = number(bytes));
        })?;
        match available {
            Available::Empty => Ok(None),
            Available::Deltas(1) => got.map(Some),
            other => bail!("one delta was committed, and {other:?} came"),
        }
    }
}

/// Bytes of a chunk.
const CHUNK: usize = 8 << 10;

/// Long messages by the ring, a part at a time.
struct ByChunks {
    there: &'static Page<'static>,
    /// Longer messages than the ring: the writer must wait, but not for itself.
    back: Option<Subscription<'static>>,
    out: Vec<u8>,
    into: Vec<u8>,
}

impl Link for ByChunks {
    fn open(task: &Task, side: Side) -> Result<ByChunks> {
        let (bus, [there, back]) = ways(task, side)?;
        let back = match side {
            Side::Lead => None,
            Side::Peer => Some(bus.subscribe().page(back.id()).gating(true).build()?),
        };
        Ok(ByChunks {
            there,
            back,
            out: vec![0; task.bytes],
            into: vec![0; task.bytes],
        })
    }

    fn send(&mut self, n: u64) -> Result<()> {
        fill(&mut self.out, n);
        for (at, chunk) in (0..).step_by(CHUNK).zip(self.out.chunks(CHUNK)) {
            self.there.patch(at, chunk)?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<u64>> {
        let Some(back) = &mut self.back else {
            bail!("the sender has nothing to receive");
        };
        let (into, mut end) = (&mut self.into, 0);
        let available = back.for_each_in_group(|delta| {
            delta.for_each_range(|at, bytes| {
                into[at..at + bytes.len()].copy_from_slice(bytes);
                end = at + bytes.len();
            });
        })?;
        ensure!(
            available != Available::Events,
            "an event came that is no delta"
        );
        match end == self.into.len() {
            true => number(&self.into).map(Some),
            false => Ok(None),
        }
    }
}

/// Messages by loans.
struct ByLoan {
    there: &'static Page<'static>,
    back: &'static Page<'static>,
    known: u64,
}

impl Link for ByLoan {
    fn open(task: &Task, side: Side) -> Result<ByLoan> {
        let (_, [there, back]) = ways(task, side)?;
        if side == Side::Lead {
            // A view needs a loaned block to look at.
            there.loan()?.publish()?;
            back.loan()?.publish()?;
        }
        Ok(ByLoan {
            there,
            back,
            known: 1,
        })
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        let mut loan = self.there.loan()?;
        fill(&mut loan, n);
        loan.publish()?;
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        if self.back.version()?.epoch == self.known {
            return Ok(None);
        }
        let view = self.back.view()?;
        let n = number(&view)?;
        self.known = view.version().epoch;
        Ok(Some(n))
    }
}

/// Patches of a batch.
const BATCH: usize = 64;

/// Deltas of one page, in batches, to a subscriber that the writer waits for.
struct Deltas {
    bus: &'static Bus,
    page: &'static Page<'static>,
    from: Option<Subscription<'static>>,
    payloads: Vec<[u8; 64]>,
}

impl Stream for Deltas {
    fn open(task: &Task, side: Side) -> Result<Deltas> {
        let bus = bus(task, side)?;
        let page = page(bus, "stream", PageSpec::new(task.bytes as u64), side)?;
        let from = match side {
            Side::Lead => None,
            Side::Peer => Some(bus.subscribe().page(page.id()).gating(true).build()?),
        };
        Ok(Deltas {
            bus,
            page,
            from,
            payloads: vec![[0; 64]; BATCH],
        })
    }

    #[inline(always)]
    fn send(&mut self, next: u64) -> Result<u64> {
        let mut batch = self.bus.batch();
        for (n, payload) in (next..).zip(&mut self.payloads) {
            fill(payload, n);
        }
        for payload in &self.payloads {
            batch.patch(self.page, 0, payload);
        }
        batch.commit()?;
        Ok(BATCH as u64)
    }

    #[inline(always)]
    fn receive(&mut self, next: u64) -> Result<u64> {
        let Some(from) = &mut self.from else {
            bail!("the sender has nothing to receive");
        };
        let (mut expected, mut done) = (next, Ok(()));
        let available = from.for_each_available(|delta| {
            delta.for_each_range(|_, bytes| {
                let got = number(bytes).and_then(|got| throughput::expect(got, expected));
                if let Err(error) = got {
                    done = Err(error);
                }
                expected += 1;
            });
        })?;
        done?;
        ensure!(
            available != Available::Events,
            "an event came that is no delta"
        );
        Ok(expected - next)
    }
}

/// The latest value: a page.
struct Latest<const VERSIONS: u32> {
    page: &'static Page<'static>,
    buffer: Vec<u8>,
}

/// A page with one version.
type Plain = Latest<1>;
/// A page with many.
type Cell = Latest<16>;

impl<const VERSIONS: u32> Value for Latest<VERSIONS> {
    const STANDBY: bool = true;

    fn open(task: &Task, side: Side) -> Result<Self> {
        let spec = match VERSIONS {
            1 => PageSpec::new(task.bytes as u64),
            _ => PageSpec::new(task.bytes as u64).versions(VERSIONS),
        };
        Ok(Latest {
            page: page(bus(task, side)?, "value", spec, side)?,
            buffer: vec![0; task.bytes],
        })
    }

    fn inherit(task: &Task) -> Result<Self> {
        Self::open(task, Side::Peer)
    }

    #[inline(always)]
    fn write(&mut self, n: u64) -> Result<()> {
        fill(&mut self.buffer, n);
        self.page.patch(0, &self.buffer)?;
        Ok(())
    }

    #[inline(always)]
    fn read(&mut self) -> Result<u64> {
        self.page.read_into(&mut self.buffer)?;
        number(&self.buffer)
    }
}

/// A page whose subscriber sleeps.
struct Doorbell {
    page: &'static Page<'static>,
    bed: Option<Subscription<'static>>,
}

impl Bell for Doorbell {
    fn open(task: &Task, side: Side) -> Result<Doorbell> {
        let bus = bus(task, side)?;
        let page = page(bus, "bed", PageSpec::new(task.bytes as u64), side)?;
        let bed = match side {
            Side::Lead => None,
            Side::Peer => Some(
                bus.subscribe()
                    .page(page.id())
                    .strategy(WaitStrategy::Park)
                    .build()?,
            ),
        };
        Ok(Doorbell { page, bed })
    }

    fn ring(&mut self, n: u64) -> Result<()> {
        self.page.patch(0, &n.to_ne_bytes())?;
        Ok(())
    }

    fn wait(&mut self) -> Result<u64> {
        let Some(bed) = &mut self.bed else {
            bail!("the writer does not sleep");
        };
        match bed.next()? {
            Event::Delta(delta) => {
                let mut value = [0; 8];
                delta.apply(&mut value);
                Ok(u64::from_ne_bytes(value))
            }
            other => bail!("an event came that is no delta: {other:?}"),
        }
    }
}

/// Many pages.
struct Pages;

impl State for Pages {
    fn host(task: &Task) -> Result<Pages> {
        let bus = bus(task, Side::Lead)?;
        let mut value = vec![0; task.bytes];
        for at in 0..VALUES {
            let page =
                bus.create_page(PageSpec::new(task.bytes as u64).name(&format!("value/{at}")))?;
            fill(&mut value, at as u64 + 1);
            page.write(&value)?;
        }
        Ok(Pages)
    }

    fn join(task: &Task, take: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        // Who only wants to know the state need not take part.
        let bus = Bus::builder("peers").dir(&task.dir).observe()?;
        let (mut at, mut taken) = (0, Ok(()));
        bus.for_each_page(|_, _, value| {
            if taken.is_ok() {
                taken = take(at, value);
            }
            at += 1;
            Ok(())
        })?;
        taken
    }
}

/// A bus with a log.
struct Log {
    task: Task,
    /// Keeps the log.
    _keeper: Mutex<Bus>,
}

/// What a thread has of its own.
struct Committer {
    bus: &'static Bus,
    page: &'static Page<'static>,
}

impl Engine for Log {
    type Session<'e> = Committer;

    fn open(task: &Task) -> Result<Log> {
        let config = SupervisorConfig {
            checkpoint: CheckpointPolicy {
                interval: None,
                log_bytes: None,
                ..CheckpointPolicy::default()
            },
            ..SupervisorConfig::new(task.disk.join("log"))
        };
        let keeper = Bus::builder("peers")
            .dir(&task.dir)
            .supervise(config)
            .create()?;
        Ok(Log {
            task: task.clone(),
            _keeper: Mutex::new(keeper),
        })
    }

    fn session(&self, thread: usize) -> Result<Committer> {
        let bus = bus(&self.task, Side::Peer)?;
        bus.set_durability(Durability::Synced);
        let name = format!("thread/{thread}");
        let page = page(
            bus,
            &name,
            PageSpec::new(self.task.bytes as u64),
            Side::Lead,
        )?;
        Ok(Committer { bus, page })
    }

    fn commit(&self, session: &mut Committer, payload: &[u8]) -> Result<()> {
        let lsn = session.page.patch(0, payload)?;
        ensure!(session.bus.durable_lsn() > lsn, "LSN {lsn} is not durable");
        Ok(())
    }

    fn newest(&self, session: &mut Committer) -> Result<Vec<u8>> {
        Ok(session.page.to_vec()?)
    }
}
