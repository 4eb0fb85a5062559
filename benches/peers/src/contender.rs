//! Who is measured, at what, and how it was set up.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::measure::Round;
use crate::task::{Job, Task};

/// What a contender is in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// MMSB.
    Mmsb,
    /// Somebody else.
    Peer,
    /// The machine itself.
    Floor,
}

/// A process of a measurement: does its part, and reports.
pub type Part = fn(&Task) -> Result<Round>;

/// What a contender does in one job.
#[derive(Clone, Copy)]
pub struct Entry {
    /// The job.
    pub job: Job,
    /// In which sizes.
    pub sizes: &'static [usize],
    /// The first process.
    pub lead: Part,
    /// The second; where there is none, the first does everything.
    pub peer: Option<Part>,
    /// The third, where one is needed: whoever is killed.
    pub victim: Option<Part>,
}

/// One way to use one system.
#[derive(Clone, Copy)]
pub struct Contender {
    /// Its name in the results and on the command line.
    pub name: &'static str,
    /// The system: several contenders may be of the same.
    pub system: &'static str,
    /// What it is in the comparison.
    pub kind: Kind,
    /// Its name for people.
    pub label: &'static str,
    /// How it is set up, and who says so.
    pub config: &'static str,
    /// A process that must be there before all others; says `ready` by [`crate::task::say`], and then waits to be killed.
    pub server: Option<fn(&Task) -> Result<()>>,
    /// What it does.
    pub entries: &'static [Entry],
    /// What it does not do, and why, where people would expect it.
    pub lacks: &'static [(Job, &'static str)],
    /// Whether it can run here: otherwise why not.
    pub is_here: fn() -> std::result::Result<(), String>,
    /// The version of the system.
    pub version: fn() -> String,
}

/// All that were built in.
pub fn all() -> Vec<Contender> {
    let mut all = Vec::new();
    all.extend(crate::systems::bare::CONTENDERS);
    all.extend(crate::systems::uring::CONTENDERS);
    all.extend(crate::systems::mmsb::CONTENDERS);
    #[cfg(feature = "iceoryx2")]
    all.extend(crate::systems::iceoryx2::CONTENDERS);
    #[cfg(feature = "aeron")]
    all.extend(crate::systems::aeron::CONTENDERS);
    #[cfg(feature = "lmdb")]
    all.extend(crate::systems::lmdb::CONTENDERS);
    #[cfg(feature = "redis")]
    all.extend(crate::systems::redis::CONTENDERS);
    #[cfg(feature = "rocksdb")]
    all.extend(crate::systems::rocksdb::CONTENDERS);
    #[cfg(feature = "fjall")]
    all.extend(crate::systems::fjall::CONTENDERS);
    #[cfg(feature = "sqlite")]
    all.extend(crate::systems::sqlite::CONTENDERS);
    all
}

/// Of the contenders that need nothing but what they were built with.
pub fn is_built_in() -> std::result::Result<(), String> {
    Ok(())
}
