//! Aeron IPC: its C media driver and its C client, by the crates rusteron-media-driver and rusteron-client.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rusteron_client::{
    Aeron, AeronContext, AeronExclusivePublication, AeronFragmentClosureAssembler, AeronHeader,
    AeronImage, AeronOfferError, AeronSubscription, Handlers, IntoCString,
};
use rusteron_media_driver::bindings::aeron_threading_mode_t;
use rusteron_media_driver::{AeronDriver, AeronDriverContext, AeronIdleStrategyKind};

use crate::contender::{Contender, Entry, Kind, is_built_in};
use crate::drive::latest::Value;
use crate::drive::one_way::{self, Link};
use crate::drive::recovery;
use crate::drive::throughput::{self, Stream};
use crate::task::{Job, Side, Task, fill, number, say};

/// The channel: shared memory, terms and windows of the default length.
const CHANNEL: &CStr = c"aeron:ipc";
/// The same for messages that take several fragments, in the lengths that were quickest: that of the samples for IPC up
/// to 64 KiB, so that a receiver reads the first while the sender writes the next, and beyond it the longest there is.
const LONG_CHANNEL: &CStr = c"aeron:ipc?mtu=8192";
const LONGEST_CHANNEL: &CStr = c"aeron:ipc?mtu=65504";
/// From the lead to the peer, and the only stream where one is enough.
const THERE: i32 = 1;
/// From the peer to the lead.
const BACK: i32 = 2;
/// Fragments of one poll: what the samples take.
const FRAGMENTS: usize = 10;
/// A driver, a publication and an image are there much sooner.
const PATIENCE: Duration = Duration::from_secs(20);

const NO_STATE: &str = "messages only: nothing keeps the latest value for whoever asks";

const fn aeron(
    name: &'static str,
    label: &'static str,
    config: &'static str,
    entries: &'static [Entry],
    lacks: &'static [(Job, &'static str)],
) -> Contender {
    Contender {
        name,
        system: "Aeron",
        kind: Kind::Peer,
        label,
        config,
        server: Some(driver),
        entries,
        lacks,
        is_here: is_built_in,
        version,
    }
}

/// The ways to use Aeron.
pub const CONTENDERS: &[Contender] = &[
    aeron(
        "aeron/offer",
        "Aeron IPC, offer",
        "A C media driver in a process of its own, which no message passes through: threading mode SHARED and term \
         buffers that are not sparse, as in Aeron's sample script ipc-c-media-driver; idle strategy backoff, the \
         default, in place of that script's spin, which would take one of the two cores. Clients touch the buffers \
         ahead and poll without a pause, and their conductors are threads with default settings, as in the sample \
         embedded_ping_pong of rusteron-client. aeron:ipc with default lengths of terms; an exclusive publication for \
         each direction, AeronExclusivePublication::offer; the image is polled, at most 10 fragments at a time, as in \
         the samples (neither shorter terms nor longer polls were quicker). From 64 KiB on a fragment assembler makes \
         whole messages, as the client's documentation asks for above the MTU, which is 8 KiB for 64 KiB, as in the \
         sample script embedded-exclusive-ipc-throughput, and 65504 for 1 MiB: each the quickest of 1408, 8192, 16384 \
         and 65504.",
        &[
            one_way::entry::<Talk<false>>(&[8, 64, 1024]),
            one_way::entry::<Long>(&[64 << 10, 1 << 20]),
            throughput::entry::<Flow<false>>(&[64]),
            recovery::entry::<Newest>(),
        ],
        &[
            (Job::ReadAlone, NO_STATE),
            (Job::UpdateAlone, NO_STATE),
            (Job::Contended, NO_STATE),
            (
                Job::Wake,
                "receivers poll: none can sleep in the kernel until a message comes",
            ),
            (
                Job::LateJoin,
                "messages only: whoever comes later has what is sent from then on (Aeron Archive, another product, \
                 replays a recording)",
            ),
            (
                Job::Synced,
                "nothing is written to the disk (Aeron Archive, another product, records)",
            ),
        ],
    ),
    aeron(
        "aeron/claim",
        "Aeron IPC, claim",
        "As aeron/offer, but the message is written in place: AeronExclusivePublication::try_claim_owned and commit, as \
         in the sample zero_copy_claim of rusteron-client. A claim is no longer than the MTU.",
        &[
            one_way::entry::<Talk<true>>(&[8, 64, 1024]),
            throughput::entry::<Flow<true>>(&[64]),
        ],
        &[],
    ),
];

fn version() -> String {
    Aeron::version_text().to_owned()
}

fn dir(task: &Task) -> String {
    task.dir.join("aeron").to_string_lossy().into_owned()
}

/// The media driver, until it is killed.
fn driver(task: &Task) -> Result<()> {
    let context = AeronDriverContext::new()?;
    context.set_dir(&dir(task).into_c_string())?;
    context.set_dir_delete_on_start(true)?;
    context.set_threading_mode(aeron_threading_mode_t::AERON_THREADING_MODE_SHARED)?;
    context.set_shared_idle_strategy_kind(AeronIdleStrategyKind::Backoff)?;
    context.set_term_buffer_sparse_file(false)?;
    let driver = AeronDriver::new(&context)?;
    driver.start(true)?;
    say("ready")?;
    loop {
        driver.main_idle_strategy(driver.main_do_work()?);
    }
}

/// A client of the driver. What is made with it keeps it.
fn client(task: &Task) -> Result<Aeron> {
    let context = AeronContext::new()?;
    context.set_dir(&dir(task).into_c_string())?;
    context.set_error_handler(Some(|code: i32, text: &str| {
        eprintln!("aeron: error {code}: {text}")
    }))?;
    context.set_pre_touch_mapped_memory(true)?;
    let aeron = Aeron::new(&context)?;
    aeron.start()?;
    Ok(aeron)
}

fn publication(aeron: &Aeron, channel: &CStr, stream: i32) -> Result<AeronExclusivePublication> {
    Ok(aeron.add_exclusive_publication(channel, stream, PATIENCE)?)
}

fn subscription(aeron: &Aeron, channel: &CStr, stream: i32) -> Result<AeronSubscription> {
    Ok(aeron.add_subscription(channel, stream, Handlers::NONE, Handlers::NONE, PATIENCE)?)
}

/// Waits until somebody receives what is published.
fn connected(publication: &AeronExclusivePublication) -> Result<()> {
    let start = Instant::now();
    while !publication.is_connected() {
        if start.elapsed() > PATIENCE {
            bail!("nobody subscribes");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits for somebody who publishes.
fn image(subscription: &AeronSubscription) -> Result<AeronImage> {
    let start = Instant::now();
    loop {
        if let Some(image) = subscription.image_at_index(0) {
            return Ok(image);
        }
        if start.elapsed() > PATIENCE {
            bail!("nobody publishes");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Publishes message `n`, if there is room.
#[inline(always)]
fn publish<const CLAIM: bool>(
    publication: &AeronExclusivePublication,
    out: &mut [u8],
    n: u64,
) -> Result<bool> {
    let done = if CLAIM {
        match publication.try_claim_owned(out.len()) {
            Ok(mut claim) => {
                fill(claim.data(), n);
                claim.commit()?;
                Ok(())
            }
            Err(error) => Err(error),
        }
    } else {
        fill(out, n);
        publication.offer(out).map(drop)
    };
    match done {
        Ok(()) => Ok(true),
        Err(error) => no_room(error),
    }
}

/// A full window and the end of a term pass; everything else does not.
#[cold]
fn no_room(error: AeronOfferError) -> Result<bool> {
    if error.is_retryable() {
        Ok(false)
    } else {
        Err(error.into())
    }
}

/// Both directions.
struct Ends {
    there: AeronExclusivePublication,
    back: AeronSubscription,
}

impl Ends {
    fn open(task: &Task, side: Side, channel: &CStr) -> Result<Ends> {
        let aeron = client(task)?;
        let (there, back) = match side {
            Side::Lead => (THERE, BACK),
            Side::Peer => (BACK, THERE),
        };
        Ok(Ends {
            there: publication(&aeron, channel, there)?,
            back: subscription(&aeron, channel, back)?,
        })
    }
}

/// Messages of one fragment.
struct Talk<const CLAIM: bool> {
    // Ahead of the subscription, which must outlive it.
    image: Option<AeronImage>,
    ends: Ends,
    out: Vec<u8>,
}

impl<const CLAIM: bool> Link for Talk<CLAIM> {
    fn open(task: &Task, side: Side) -> Result<Self> {
        Ok(Talk {
            image: None,
            ends: Ends::open(task, side, CHANNEL)?,
            out: vec![0; task.bytes],
        })
    }

    fn connect(&mut self) -> Result<()> {
        connected(&self.ends.there)?;
        self.image = Some(image(&self.ends.back)?);
        Ok(())
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        while !publish::<CLAIM>(&self.ends.there, &mut self.out, n)? {
            std::hint::spin_loop();
        }
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        let image = self.image.as_ref().context("not connected")?;
        let mut got = None;
        image.poll_fn(|payload, _| got = Some(number(payload)), FRAGMENTS)?;
        got.transpose()
    }
}

/// Messages of several fragments.
struct Long {
    assembler: AeronFragmentClosureAssembler,
    ends: Ends,
    out: Vec<u8>,
}

impl Link for Long {
    fn open(task: &Task, side: Side) -> Result<Self> {
        let channel = match task.bytes {
            ..=0x10000 => LONG_CHANNEL,
            _ => LONGEST_CHANNEL,
        };
        Ok(Long {
            assembler: AeronFragmentClosureAssembler::new()?,
            ends: Ends::open(task, side, channel)?,
            out: vec![0; task.bytes],
        })
    }

    fn connect(&mut self) -> Result<()> {
        connected(&self.ends.there)?;
        image(&self.ends.back).map(drop)
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        while !publish::<false>(&self.ends.there, &mut self.out, n)? {
            std::hint::spin_loop();
        }
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        fn take(got: &mut Option<Result<u64>>, payload: &[u8], _: AeronHeader) {
            *got = Some(number(payload));
        }
        let mut got = None;
        self.assembler
            .poll(&self.ends.back, &mut got, take, FRAGMENTS)?;
        got.transpose()
    }
}

/// A stream of messages. None is lost: a publication whose window is full takes no more.
struct Flow<const CLAIM: bool> {
    image: Option<AeronImage>,
    there: Option<AeronExclusivePublication>,
    back: Option<AeronSubscription>,
    out: Vec<u8>,
}

impl<const CLAIM: bool> Stream for Flow<CLAIM> {
    fn open(task: &Task, side: Side) -> Result<Self> {
        let aeron = client(task)?;
        let (mut there, mut back) = (None, None);
        match side {
            Side::Lead => there = Some(publication(&aeron, CHANNEL, THERE)?),
            Side::Peer => back = Some(subscription(&aeron, CHANNEL, THERE)?),
        }
        Ok(Flow {
            image: None,
            there,
            back,
            out: vec![0; task.bytes],
        })
    }

    fn connect(&mut self) -> Result<()> {
        if let Some(there) = &self.there {
            connected(there)?;
        }
        if let Some(back) = &self.back {
            self.image = Some(image(back)?);
        }
        Ok(())
    }

    #[inline(always)]
    fn send(&mut self, next: u64) -> Result<u64> {
        let there = self.there.as_ref().context("the receiver does not send")?;
        publish::<CLAIM>(there, &mut self.out, next).map(u64::from)
    }

    #[inline(always)]
    fn receive(&mut self, next: u64) -> Result<u64> {
        let image = self.image.as_ref().context("the sender does not receive")?;
        let (mut expected, mut done) = (next, Ok(()));
        image.poll_fn(
            |payload, _| {
                let got = number(payload).and_then(|got| throughput::expect(got, expected));
                if let Err(error) = got {
                    done = Err(error);
                }
                expected += 1;
            },
            FRAGMENTS,
        )?;
        done?;
        Ok(expected - next)
    }
}

/// The newest message of a stream that several publish to: each has a log of its own, and who dies leaves the others'
/// alone.
struct Newest {
    there: Option<AeronExclusivePublication>,
    back: Option<AeronSubscription>,
    out: Vec<u8>,
    newest: u64,
}

impl Value for Newest {
    const STANDBY: bool = true;

    fn open(task: &Task, side: Side) -> Result<Self> {
        let aeron = client(task)?;
        let (mut there, mut back) = (None, None);
        match side {
            Side::Lead => there = Some(publication(&aeron, CHANNEL, THERE)?),
            Side::Peer => back = Some(subscription(&aeron, CHANNEL, THERE)?),
        }
        Ok(Newest {
            there,
            back,
            out: vec![0; task.bytes],
            newest: 0,
        })
    }

    fn inherit(task: &Task) -> Result<Self> {
        let mut heir = Self::open(task, Side::Lead)?;
        heir.connect()?;
        Ok(heir)
    }

    fn connect(&mut self) -> Result<()> {
        match &self.there {
            Some(there) => connected(there),
            None => Ok(()),
        }
    }

    fn write(&mut self, n: u64) -> Result<()> {
        let there = self.there.as_ref().context("the reader does not write")?;
        while !publish::<false>(there, &mut self.out, n)? {
            // The heir would wait for ever once the reader has seen enough.
            ensure!(there.is_connected(), "nobody subscribes");
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn read(&mut self) -> Result<u64> {
        let back = self.back.as_ref().context("the writer does not read")?;
        let (mut newest, mut done) = (self.newest, Ok(()));
        back.poll_fn(
            |payload, _| match number(payload) {
                Ok(n) => newest = newest.max(n),
                Err(error) => done = Err(error),
            },
            FRAGMENTS,
        )?;
        done?;
        self.newest = newest;
        Ok(newest)
    }
}
