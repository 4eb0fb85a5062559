//! MMSB, the Memory-Mapped State Bus: shared, versioned state between Linux processes.
#![deny(unsafe_code)]

mod batch;
mod builder;
mod bus;
mod delta;
mod error;
mod field;
mod filter;
mod inspect;
mod loan;
mod observer;
mod page;
mod poll_fd;
mod stats;
#[cfg(feature = "async")]
mod stream;
pub mod subscription;
mod transaction;

pub use {
    batch::Batch,
    builder::BusBuilder,
    bus::Bus,
    delta::{Event, OwnedDelta, PageImage},
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

pub use mmsb_shm::{
    AttachError, BusConfig, BusFull, Cold, Corrupt, Delta, Gap, Kind, Lease, OnFull, PageError,
    PageId, PageInfo, PageVersion, Receipt, RingInfo, SourceInfo, WaitStrategy, schema,
};
