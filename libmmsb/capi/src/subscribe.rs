//! Following a bus.

use std::ffi::{CStr, c_char};
use std::os::fd::AsRawFd;
use std::ptr::null;

use bus::{Event, From as Begin, ObserverSubscription, PageId, Subscription, WaitStrategy};

use crate::args::{self, Sized32, array, options, out, time};
use crate::attach::{BusObject, Side, enter, mmsb_bus, read_only};
use crate::handle::{self, Kind, Object, held};
use crate::info::{kind_number, mmsb_page_id, mmsb_page_version, mmsb_range};
use crate::list::{Described, mmsb_page_info};
use crate::many::close_child_of_bus;
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};

/// A place in the order of a bus, with a filter. `{0}` is none. It ends with its bus, and belongs to the same thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_subscription {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

/// Flag of `mmsb_subscribe_options`: writers wait for this subscriber; it misses nothing, and if it stops reading, they
/// come to a halt. Without it a subscriber that is overtaken gets `MMSB_EVENT_GAP`.
pub const MMSB_GATING: u32 = 1;
/// Flag of `mmsb_subscribe_options`: images of all pages follow a gap (with `MMSB_FROM_SNAPSHOT` they do anyway).
pub const MMSB_RESYNC: u32 = 2;
/// Flag of `mmsb_subscribe_options`: no images follow a gap.
pub const MMSB_NO_RESYNC: u32 = 4;

/// Begin with the next delta.
pub const MMSB_FROM_NOW: u32 = 0;
/// Begin with an image of each page, then every later delta.
pub const MMSB_FROM_SNAPSHOT: u32 = 1;
/// Begin with the delta at `lsn` of `incarnation`, from the log in `log_dir` as far as it goes, then from the ring.
pub const MMSB_FROM_LSN: u32 = 2;

/// Wait by polling for some 20 µs, then sleeping.
pub const MMSB_WAIT_DEFAULT: u32 = 0;
/// Wait by polling without pause: lowest latency, one core.
pub const MMSB_WAIT_SPIN: u32 = 1;
/// Wait by sleeping at once.
pub const MMSB_WAIT_PARK: u32 = 2;

/// What to follow, and how. All-zero but for `struct_size`: everything, from now on, lossy.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_subscribe_options {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// `MMSB_GATING` and others, or-ed.
    pub flags: u32,
    /// `MMSB_FROM_NOW` or another.
    pub from: u32,
    /// `MMSB_WAIT_DEFAULT` or another.
    pub wait: u32,
    /// Only pages whose name begins with it, those that come later too; null: no such limit.
    pub prefix: *const c_char,
    /// Only these pages; not together with `prefix`.
    pub pages: *const mmsb_page_id,
    /// How many.
    pub pages_count: usize,
    /// With `MMSB_FROM_LSN`: the first delta wanted.
    pub lsn: u64,
    /// With `MMSB_FROM_LSN`: incarnation that the LSN is of; 0: that of the bus now.
    pub incarnation: u64,
    /// With `MMSB_FROM_LSN`: directory of the log; null: this handle supervises the bus, and knows.
    pub log_dir: *const c_char,
}

// SAFETY: numbers and pointers.
unsafe impl Sized32 for mmsb_subscribe_options {
    const NAME: &'static str = "mmsb_subscribe_options";
    const FIRST: usize = 64;
}

// It is behind a box in any case.
#[allow(clippy::large_enum_variant)]
enum Follower {
    Own(Subscription<'static>),
    Observer(ObserverSubscription<'static>),
}

/// What an `mmsb_subscription` leads to.
pub(crate) struct SubscriptionObject {
    follower: Follower,
    /// What the last event pointed at.
    event: Option<Event>,
    ranges: Vec<mmsb_range>,
    described: Option<Described>,
    source: Option<(u16, Box<CStr>)>,
}

impl Object for SubscriptionObject {
    const KIND: Kind = Kind::Subscription;
}

fn strategy(number: u32) -> Result<WaitStrategy, Fault> {
    match number {
        MMSB_WAIT_DEFAULT => Ok(WaitStrategy::SpinThenPark),
        MMSB_WAIT_SPIN => Ok(WaitStrategy::Spin),
        MMSB_WAIT_PARK => Ok(WaitStrategy::Park),
        other => Err(Fault::invalid(format!("{other} is no way to wait"))),
    }
}

/// # Safety
/// The pointers in the options are null or valid.
unsafe fn follow(held: &BusObject, options: &mmsb_subscribe_options) -> Result<Follower, Fault> {
    // SAFETY: by the caller.
    let (prefix, pages, log) = unsafe {
        (
            args::optional_text(options.prefix, "prefix")?,
            array(options.pages, options.pages_count, "pages")?,
            args::optional_text(options.log_dir, "log_dir")?,
        )
    };
    let pages: Vec<PageId> = pages.iter().map(|id| (*id).into()).collect();
    if prefix.is_some() && !pages.is_empty() {
        return Err(Fault::invalid("a prefix and pages: one of them at a time"));
    }
    let known = MMSB_GATING | MMSB_RESYNC | MMSB_NO_RESYNC;
    if options.flags & !known != 0 {
        return Err(Fault::new(
            MMSB_ABI_MISMATCH,
            format!("flags {:#x} are not known", options.flags & !known),
        ));
    }
    let wait = strategy(options.wait)?;
    match held.side()? {
        Side::Observer(observer) => {
            if options.from != MMSB_FROM_NOW || options.flags != 0 {
                return Err(Fault::new(
                    MMSB_READ_ONLY,
                    "an observer follows from now on, and lossy: attach for anything else",
                ));
            }
            let mut follower = match prefix {
                Some(prefix) => observer.follow_prefix(prefix)?,
                None if pages.is_empty() => observer.follow()?,
                None => observer.follow_pages(&pages)?,
            };
            follower.set_strategy(wait);
            Ok(Follower::Observer(follower))
        }
        Side::Bus(bus) => {
            let mut builder = bus.subscribe().strategy(wait);
            if let Some(prefix) = prefix {
                builder = builder.prefix(prefix);
            } else if !pages.is_empty() {
                builder = builder.pages(&pages);
            }
            builder = builder.gating(options.flags & MMSB_GATING != 0);
            if options.flags & (MMSB_RESYNC | MMSB_NO_RESYNC) != 0 {
                builder = builder.resync(options.flags & MMSB_RESYNC != 0);
            }
            builder = match options.from {
                MMSB_FROM_NOW => builder.from(Begin::Now),
                MMSB_FROM_SNAPSHOT => builder.from(Begin::Snapshot),
                MMSB_FROM_LSN => {
                    if let Some(log) = log {
                        builder = builder.log(log);
                    } else if bus.supervisor().is_none() {
                        return Err(Fault::invalid(
                            "log_dir is null, and this handle supervises no log: say where the log is",
                        ));
                    }
                    let current = bus.log_status().incarnation;
                    let incarnation = match options.incarnation {
                        0 => current,
                        n if n > current => {
                            return Err(Fault::invalid(format!(
                                "incarnation {n} is to come: the bus is in {current}"
                            )));
                        }
                        n => n,
                    };
                    builder.from(Begin::Lsn {
                        incarnation,
                        lsn: options.lsn,
                    })
                }
                other => return Err(Fault::invalid(format!("{other} is no beginning"))),
            };
            Ok(Follower::Own(builder.build()?))
        }
    }
}

/// Begins to follow a bus. `options` may be null.
///
/// The thread of `bus`. `MMSB_FULL` (cursors), `MMSB_PAGE_GONE`, `MMSB_TIMEOUT` (a stopped writer is in the way of a
/// snapshot), `MMSB_INVALID`, `MMSB_ABI_MISMATCH` (options); with `MMSB_FROM_LSN` `MMSB_DIVERGED`, `MMSB_NOT_IN_LOG`,
/// `MMSB_LOG`, `MMSB_MISSING` (the log); observers: `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_subscribe(
    bus: mmsb_bus,
    options: *const mmsb_subscribe_options,
    subscription: *mut mmsb_subscription,
) -> mmsb_status {
    call(|| {
        let place = out(subscription, "subscription")?;
        let held = enter(bus)?;
        // SAFETY: by the caller.
        let follower = unsafe { follow(&held, &self::options(options)?)? };
        let object = SubscriptionObject {
            follower,
            event: None,
            ranges: Vec::new(),
            described: None,
            source: None,
        };
        let handle = held.adopt(bus, Box::new(object))?;
        // SAFETY: checked above.
        unsafe { place.write(mmsb_subscription { handle }) };
        Ok(MMSB_OK)
    })
}

/// Event: a copy of a page, in `bytes`.
pub const MMSB_EVENT_IMAGE: u32 = 1;
/// Event: a delta. Its bytes are in `ranges` (a mark's in `bytes`).
pub const MMSB_EVENT_DELTA: u32 = 2;
/// Event: a page was made; `info` describes it.
pub const MMSB_EVENT_CREATED: u32 = 3;
/// Event: a page got a name with the prefix; an image of it follows.
pub const MMSB_EVENT_ENTERED: u32 = 4;
/// Event: name, schema or metadata of a page changed; `info` describes it.
pub const MMSB_EVENT_DESCRIBED: u32 = 5;
/// Event: a page lost the name with the prefix; no more is heard of it.
pub const MMSB_EVENT_LEFT: u32 = 6;
/// Event: a page was destroyed.
pub const MMSB_EVENT_DESTROYED: u32 = 7;
/// Event: deltas from `gap_from` on and ahead of `gap_to` were missed; pages hold what they did.
pub const MMSB_EVENT_GAP: u32 = 8;

/// What a subscription tells. Set `struct_size` before the call. Pointers live until the next call with the same
/// subscription.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_event {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// `MMSB_EVENT_DELTA` or another; treat an unknown one as nothing.
    pub event: u32,
    /// About which page; all-zero: none.
    pub page: mmsb_page_id,
    /// Of an image: its state. Of a delta: its LSN (epoch 0).
    pub version: mmsb_page_version,
    /// Of a delta: `MMSB_KIND_PATCH` or another.
    pub kind: i32,
    /// Of a delta: number of its source.
    pub source: u32,
    /// Of a delta: CLOCK_REALTIME, in ns, exact to about a millisecond.
    pub time_ns: u64,
    /// Of a delta: LSN of the one that caused it; 0: none was named.
    pub cause: u64,
    /// Of a delta: 1 if it is part of a transaction.
    pub in_transaction: u32,
    /// 0.
    pub reserved: u32,
    /// Of a delta: what it wrote.
    pub ranges: *const mmsb_range,
    /// How many ranges.
    pub ranges_count: usize,
    /// Of an image: the page; of a mark: its bytes.
    pub bytes: *const u8,
    /// How many bytes.
    pub len: usize,
    /// Of a delta: name of its source, empty if unknown.
    pub source_name: *const c_char,
    /// Of a gap: first LSN that was missed.
    pub gap_from: u64,
    /// Of a gap: where it ends.
    pub gap_to: u64,
    /// Of MMSB_EVENT_CREATED, _ENTERED and _DESCRIBED: what the page is, without its metadata.
    pub info: mmsb_page_info,
}

// SAFETY: numbers and pointers.
unsafe impl Sized32 for mmsb_event {
    const NAME: &'static str = "mmsb_event";
    const FIRST: usize = 208;
}

impl SubscriptionObject {
    /// Keeps an event, and says it as C has it.
    fn tell(&mut self, event: Event, of: &Side) -> mmsb_event {
        // SAFETY: numbers and pointers, of which all-zero is a value.
        let mut told: mmsb_event = unsafe { std::mem::zeroed() };
        told.source_name = c"".as_ptr();
        told.page = event.page().map_or(mmsb_page_id::default(), Into::into);
        self.ranges.clear();
        self.described = None;
        match self.event.insert(event) {
            Event::Image(image) => {
                told.event = MMSB_EVENT_IMAGE;
                told.version = image.version.into();
                (told.bytes, told.len) = (image.bytes.as_ptr(), image.bytes.len());
            }
            Event::Delta(delta) => {
                told.event = MMSB_EVENT_DELTA;
                told.version.lsn = delta.lsn;
                told.kind = kind_number(delta.kind);
                told.source = delta.source.into();
                told.time_ns = delta.time_ns;
                told.cause = delta.cause;
                told.in_transaction = delta.transaction.into();
                self.ranges
                    .extend(delta.ranges.iter().map(|(offset, bytes)| mmsb_range {
                        offset: *offset as usize,
                        bytes: bytes.as_ptr(),
                        len: bytes.len(),
                    }));
                (told.ranges, told.ranges_count) = match self.ranges.len() {
                    0 => (null(), 0),
                    n => (self.ranges.as_ptr(), n),
                };
                if !delta.mark.is_empty() {
                    (told.bytes, told.len) = (delta.mark.as_ptr(), delta.mark.len());
                }
                let source = delta.source;
                if self
                    .source
                    .as_ref()
                    .is_none_or(|(known, _)| *known != source)
                {
                    let name = match of {
                        Side::Bus(bus) => bus.source_name(source),
                        Side::Observer(observer) => observer.source_name(source),
                    };
                    self.source = name.map(|name| (source, crate::attach::c_text(&name)));
                }
                if let Some((_, name)) = &self.source {
                    told.source_name = name.as_ptr();
                }
            }
            Event::Created(info) => {
                (told.event, told.info) = (MMSB_EVENT_CREATED, describe(&mut self.described, info))
            }
            Event::Entered(info) => {
                (told.event, told.info) = (MMSB_EVENT_ENTERED, describe(&mut self.described, info))
            }
            Event::Described(info) => {
                (told.event, told.info) =
                    (MMSB_EVENT_DESCRIBED, describe(&mut self.described, info))
            }
            Event::Left(_) => told.event = MMSB_EVENT_LEFT,
            Event::Destroyed(_) => told.event = MMSB_EVENT_DESTROYED,
            Event::Gap(gap) => {
                told.event = MMSB_EVENT_GAP;
                (told.gap_from, told.gap_to) = (gap.from, gap.to);
            }
            // Of a later version of the library below, which comes with a later version of this one.
            _ => {}
        }
        told
    }
}

fn describe(place: &mut Option<Described>, info: &bus::PageInfo) -> mmsb_page_info {
    let mut told = place.insert(Described::new(info.clone())).told();
    told.struct_size = size_of::<mmsb_page_info>() as u32;
    told.meta_count = 0;
    told
}

/// The next event, waiting for it at most `timeout_ns` (0: not at all; UINT64_MAX: for ever): `MMSB_OK`, or
/// `MMSB_NOTHING` if there was none.
///
/// The thread of its bus. `MMSB_TIMEOUT` (a living writer leaves a record unfinished), `MMSB_STALLED` (observers),
/// `MMSB_CORRUPT`, `MMSB_FORKED`; with `MMSB_FROM_LSN` what the log says. The same call may be made again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_subscription_next(
    subscription: mmsb_subscription,
    timeout_ns: u64,
    event: *mut mmsb_event,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(event)? };
        let (mut held, root) =
            handle::with_root::<SubscriptionObject, BusObject>(subscription.handle)?;
        let found = match (&mut held.follower, timeout_ns) {
            (Follower::Own(own), 0) => own.try_next()?,
            (Follower::Own(own), ns) => own.next_timeout(time(ns))?,
            (Follower::Observer(observer), 0) => observer.try_next()?,
            (Follower::Observer(observer), ns) => observer.next_timeout(time(ns))?,
        };
        let Some(found) = found else {
            return Ok(MMSB_NOTHING);
        };
        let told = held.tell(found, root.side()?);
        room.fill(told);
        Ok(MMSB_OK)
    })
}

/// A descriptor that poll, select and epoll call readable when there may be an event: then call
/// `mmsb_subscription_next` until it returns `MMSB_NOTHING`. It belongs to the subscription: do not read or close it.
/// The first call starts a thread, one for the whole process.
///
/// The thread of its bus. `MMSB_IO`, `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_subscription_fd(
    subscription: mmsb_subscription,
    fd: *mut i32,
) -> mmsb_status {
    call(|| {
        let place = out(fd, "fd")?;
        let mut held = held::<SubscriptionObject>(subscription.handle)?;
        let Follower::Own(own) = &mut held.follower else {
            return Err(read_only());
        };
        let found = own.pollable()?.as_raw_fd();
        // SAFETY: checked above.
        unsafe { place.write(found) };
        Ok(MMSB_OK)
    })
}

/// How a subscription is. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_subscription_stats {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// 1: writers wait for it.
    pub is_gating: u32,
    /// Next LSN that it will look at.
    pub position: u64,
    /// LSNs that it missed.
    pub missed: u64,
    /// Ring slots between its position and the end; 0 for observers.
    pub lag: u64,
    /// Gaps; 0 for observers.
    pub gaps: u64,
    /// Deltas that it took; 0 for observers.
    pub deltas: u64,
    /// Images that it took; 0 for observers.
    pub images: u64,
    /// Images in the place of a loan that was gone already; 0 for observers.
    pub conflated: u64,
    /// With `MMSB_FROM_SNAPSHOT`, once all images are delivered: the greatest LSN of an image. Who has taken every
    /// event to this LSN holds one consistent state of all pages. 0: not yet, or no images.
    pub consistent_lsn: u64,
}

// SAFETY: numbers.
unsafe impl Sized32 for mmsb_subscription_stats {
    const NAME: &'static str = "mmsb_subscription_stats";
    const FIRST: usize = 48;
}

/// How a subscription is.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_subscription_get_stats(
    subscription: mmsb_subscription,
    stats: *mut mmsb_subscription_stats,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(stats)? };
        let (held, root) = handle::with_root::<SubscriptionObject, BusObject>(subscription.handle)?;
        root.side()?;
        let told = match &held.follower {
            Follower::Own(own) => {
                let found = own.stats();
                mmsb_subscription_stats {
                    struct_size: 0,
                    is_gating: own.is_gating().into(),
                    position: found.position,
                    missed: found.missed,
                    lag: found.lag,
                    gaps: found.gaps,
                    deltas: found.deltas,
                    images: found.images,
                    conflated: found.conflated,
                    consistent_lsn: own.consistent_at().unwrap_or_default(),
                }
            }
            Follower::Observer(observer) => mmsb_subscription_stats {
                struct_size: 0,
                is_gating: 0,
                position: observer.position(),
                missed: observer.missed(),
                lag: 0,
                gaps: 0,
                deltas: 0,
                images: 0,
                conflated: 0,
                consistent_lsn: 0,
            },
        };
        room.fill(told);
        Ok(MMSB_OK)
    })
}

/// Ends a subscription.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_subscription_close(subscription: mmsb_subscription) -> mmsb_status {
    call(|| close_child_of_bus::<SubscriptionObject>(subscription.handle))
}
