//! `mmsb demo`: real processes on one bus, killed at random while they work, and a verdict that trusts nobody.
//!
//! | process | what it does |
//! | --- | --- |
//! | publishers | live data of this machine, a page for each of the [`sources`] |
//! | writers | no pause: their own pages and one that all share ([`content`]) |
//! | subscriber | gating; feeds the reference [`model`] from the ring |
//! | observer | maps the bus read-only, decodes by schema, looks for torn pages |
//! | parent | [`torment`]: kills, stops, replaces; hears acknowledgements by pipe; never maps the bus |
//!
//! A delta counts as acknowledged when its writer has said so on its pipe, behind the call that committed it. At the end
//! the ring and the pages must hold at least what was acknowledged, every stream of numbers must be without a hole or a
//! repetition, and every page must equal the model's.
//!
//! Then, on a second bus, the same with a log and reboots: see [`durable`].

pub mod content;
pub mod crew;
pub mod durable;
pub mod follow;
pub mod message;
pub mod model;
pub mod observe;
pub mod plan;
pub mod report;
pub mod sources;
pub mod torment;
pub mod view;
pub mod worker;
