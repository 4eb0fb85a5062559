//! MMSB, the Memory-Mapped State Bus: shared, versioned state between Linux processes.
//!
//! Processes map the same named segments in shared memory. They write **deltas** to **pages**, read pages in place,
//! without a system call, and follow the deltas of others in one order. There is no daemon, and any process may be killed
//! at any instruction: what it committed stays, what it had not committed never was, and whoever meets its remains
//! finishes its work.
//!
//! ```
//! use mmsb::{Bus, Event, From, PageSpec};
//! # let tmp = tempfile::tempdir_in("/dev/shm")?;
//! # let dir = tmp.path();
//!
//! // One process makes the bus and a page. (`dir` is optional: the default is $MMSB_DIR, else /dev/shm.)
//! let bus = Bus::builder("plant").dir(dir).source("controller").open_or_create()?;
//! let tank = bus.open_or_create_page(PageSpec::of::<[f64; 2]>().name("tank/1"))?;
//! tank.set(&[20.5, 1.2])?;
//!
//! // Another one reads it, in any state the writer may be. An observer needs no more than read permission.
//! let observer = Bus::builder("plant").dir(dir).observe()?;
//! assert_eq!(observer.page("tank/1")?.read::<[f64; 2]>()?, [20.5, 1.2]);
//!
//! // A third one follows everything below `tank/`: first what is there, then every change, none twice, none missed.
//! let logger = Bus::builder("plant").dir(dir).source("logger").attach()?;
//! let mut tanks = logger.subscribe().prefix("tank/").from(From::Snapshot).gating(true).build()?;
//! let Event::Image(image) = tanks.next()? else { panic!("a snapshot begins with images") };
//! assert_eq!(image.bytes, tank.to_vec()?);
//!
//! // Several pages change as one: readers of both see all of it or nothing.
//! let valve = bus.create_page(PageSpec::of::<u32>().name("valve/1"))?;
//! bus.transaction(|tx| {
//!     let [temperature, level] = tx.read::<[f64; 2]>(&tank)?;
//!     tx.set(&tank, &[temperature, level + 0.1])?;
//!     tx.set(&valve, &1u32)
//! })?;
//! let Event::Delta(delta) = tanks.next()? else { panic!("a change") };
//! assert!(delta.transaction && delta.page == tank.id());
//! assert_eq!(logger.source_name(delta.source).as_deref(), Some("controller"));
//!
//! Bus::unlink_in(dir, "plant")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where to look
//!
//! | to | use |
//! | --- | --- |
//! | create, attach, size a bus | [`Bus::builder`] |
//! | make and find pages | [`Bus::create_page`], [`PageSpec`], [`Bus::page`] |
//! | read and write bytes, values, fields | [`Page`] |
//! | write much at once | [`Bus::batch`] for speed, [`Bus::transaction`] for all or nothing, [`Page::loan`] for size |
//! | follow changes | [`Bus::subscribe`], and the [`subscription`] module for gaps and waiting |
//! | only look | [`Observer`] |
//! | ask how it is | [`Bus::info`], [`Bus::stats`] |
//!
//! # Participants and threads
//! A [`Bus`] is one participant and belongs to one thread; [`Bus::another`] joins for another thread. A participant is
//! alive as long as its process holds a kernel lock: no heartbeat, no PID. An [`Observer`] is no participant, may be
//! shared by threads, and can neither harm nor delay anybody.
//!
//! # What is promised
//! * A read sees a page before a delta or after it, never between.
//! * Every delta has an LSN, its place in the one order of the bus. The same deltas, in the same order, give the same
//!   bytes.
//! * A write that returned survives the death of every process, but not a reboot: it is volatile.
//! * Nobody waits for ever: the dead are recovered by who waits for them; who is alive but does not move (stopped in a
//!   debugger, say) causes [`PageError::Timeout`] or [`PageError::Backpressure`], which name him. Nothing was changed
//!   then, and the same call may be made again; the closures of [`Page::update`] and [`Bus::transaction`] run again
//!   with it.
//! * Nothing in shared memory is trusted: bytes that no correct participant writes give [`Corrupt`], not a crash. Who
//!   truncates the segments can still cause a SIGBUS, unless [`BusBuilder::sigbus_guard`] is on.
//!
//! # Features
//! `async`: [`Subscription`] is a `futures_core::Stream`, for any runtime and without one.
#![deny(unsafe_code)]

mod batch;
mod builder;
mod bus;
mod catch_up;
pub mod checkpoint;
mod delta;
mod durability;
mod error;
mod field;
mod filter;
pub mod history;
mod inspect;
mod loan;
mod observer;
mod page;
pub mod playback;
mod poll_fd;
mod rebuild;
pub mod state;
mod stats;
#[cfg(feature = "async")]
mod stream;
pub mod subscription;
pub mod supervisor;
pub mod tlog;
mod transaction;

pub use {
    batch::Batch,
    builder::BusBuilder,
    bus::Bus,
    delta::{Event, OwnedDelta, PageImage},
    durability::{Durability, LogStatus},
    error::{Error, Result},
    field::FieldRef,
    inspect::Inspection,
    loan::{Loan, View},
    observer::{ObservedPage, Observer, ObserverSubscription},
    page::{Caused, Page, PageSpec},
    stats::{BusInfo, ClassStats, CursorStats, ParticipantStats, Stats},
    subscription::{Available, From, SubscribeBuilder, Subscription, SubscriptionStats},
    transaction::Transaction,
};

pub use mmsb_shm::log::{LogCounter, LogState, WRITE_BUCKETS};
pub use mmsb_shm::{
    AttachError, BusConfig, BusFull, Cold, Corrupt, Delta, Gap, Kind, Lease, Left, OnFull,
    PageError, PageId, PageInfo, PageVersion, Receipt, RingInfo, SourceInfo, WaitStrategy, Wreck,
    WreckedPage, schema, wire,
};
