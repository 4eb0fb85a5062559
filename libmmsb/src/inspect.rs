//! Looking at a bus without joining it.

use std::path::Path;

use mmsb_shm::segment::Core;
use mmsb_shm::sys::space::SegmentDir;

use crate::error::Result;
use crate::stats::{BusInfo, Stats};

/// What a bus says about itself to somebody who does not take part.
///
/// [Attaching](crate::Bus::attach) repairs what the dead left, so a participant never sees it. This maps both segments,
/// looks, and lets go: the dead are still listed as dead, with what they hold. It needs the permissions of a participant.
///
/// ```
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// use mmsb::{Bus, Inspection};
///
/// let bus = Bus::builder("inspected").dir(dir.path()).source("feed").create()?;
/// let seen = Inspection::of(dir.path(), "inspected")?;
/// assert_eq!(seen.stats.participants.len(), 1);
/// assert!(seen.stats.participants[0].alive);
/// assert_eq!(seen.info.id, bus.info()?.id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// Geometry, sizes, modes and identity.
    pub info: BusInfo,
    /// Counters and tables, the dead included.
    pub stats: Stats,
}

impl Inspection {
    /// Looks at bus `name` in directory `dir`.
    ///
    /// # Errors
    /// As [`BusBuilder::attach`](crate::BusBuilder::attach), but for what only joining can meet.
    pub fn of(dir: impl AsRef<Path>, name: &str) -> Result<Inspection> {
        let dir = SegmentDir::at(dir.as_ref());
        let core = Core::attach(&dir, name)?;
        Ok(Inspection {
            info: BusInfo::of(name, dir.path(), &core.pages, Some(&core.ctl))?,
            stats: Stats::of(&core)?,
        })
    }
}
