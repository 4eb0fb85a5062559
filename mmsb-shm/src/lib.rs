//! The shared-memory core of MMSB, the Memory-Mapped State Bus: everything that touches shared bytes.
//!
//! Two objects make a bus: `.pages` (header, page directory, delta ring, page memory), which observers map read-only,
//! and `.ctl` (participant slots, owner words, cursors), which only participants map. The protocols, step by step, with
//! what a death at each step leaves and who repairs it, are in `docs/protocols.md`; the bytes are in `docs/layout.md`.
//!
//! Programs use the `mmsb` crate; this one is the layer underneath, with few comforts.
//!
//! From the ground up: [`sys`] (the only system calls), `layout` (the only `repr(C)` structs), `ring`, `page` and
//! `arena` (algorithms without policy), [`segment`] and [`participant`] (who is there), `commit`, `names`, and
//! `recovery` (everything that finishes what the dead began).

#![cfg_attr(loom, allow(dead_code, unused_imports))]

#[cfg(not(loom))]
pub mod copy;
#[cfg(not(loom))]
pub mod diff;
#[cfg(not(loom))]
pub mod schema;
#[cfg(not(loom))]
pub mod sys;

#[cfg(not(loom))]
pub mod error;
pub mod layout;
mod page;
mod ring;
mod sync;
pub mod testing;

#[cfg(not(loom))]
mod arena;
mod blocks;
#[cfg(not(loom))]
mod commit;
mod doorbell;
mod hazard;
#[cfg(not(loom))]
pub mod log;
#[cfg(all(test, loom))]
mod loom_words;
#[cfg(not(loom))]
mod names;
#[cfg(not(loom))]
mod observe;
#[cfg(not(loom))]
pub mod participant;
#[cfg(not(loom))]
mod recovery;
#[cfg(not(loom))]
pub mod restore;
#[cfg(not(loom))]
pub mod segment;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod subscribe;
#[cfg(not(loom))]
mod watch;
#[cfg(not(loom))]
pub mod wire;

#[cfg(not(loom))]
pub use {
    arena::ClassUse,
    commit::{Change, Loan, Options, Receipt},
    doorbell::WaitStrategy,
    error::{AttachError, BusFull, Corrupt, PageError},
    layout::ring::Kind,
    names::{Cold, NewPage, PageInfo, SourceInfo},
    observe::{CursorInfo, RingInfo},
    page::{Lease, PageId, PageRef, PageVersion, PinnedView},
    participant::{OnFull, Participant, ParticipantConfig, ParticipantInfo, Totals},
    recovery::{Left, Wreck, WreckedPage},
    segment::{BusConfig, Core, Geometry, Pages},
    stats::Counter,
    subscribe::{Clock, Delta, Follower, Gap, Polled},
    watch::{Ahead, sleep_until_news},
};
