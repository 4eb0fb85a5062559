//! Looking at a bus without joining it, and giving up what keeps everybody from joining.

use std::path::Path;

use mmsb_shm::segment::Core;
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{Change, Options, PageError, PageId, Wreck};

use crate::bus::Bus;
use crate::error::{Error, Result};
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
    /// What the dead left that no recovery can finish; see [`Bus::abandon_dead_in`](crate::Bus::abandon_dead_in).
    pub wrecks: Vec<Wreck>,
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
            wrecks: core.wrecks(),
        })
    }
}

/// Bytes of a page that are written again in one delta.
const AGAIN: usize = 4096;

/// See [`Bus::abandon_dead_in`].
pub(crate) fn abandon_dead(dir: &Path, name: &str) -> Result<Vec<Wreck>> {
    let core = Core::attach(&SegmentDir::at(dir), name)?;
    let mut wrecks = Vec::new();
    for dead in core.participants().iter().filter(|p| !p.alive) {
        wrecks.extend(core.abandon_dead(dead.index)?);
    }
    if wrecks.is_empty() {
        return Ok(wrecks);
    }
    // Nothing keeps anybody from joining now.
    let bus = Bus::builder(name).dir(dir).source("abandon").attach()?;
    for wreck in &wrecks {
        bus.batch().mark(mark_of(wreck).as_bytes()).commit()?;
        for page in &wreck.pages {
            match write_again(&bus, page.id) {
                // Of a page that is gone there is nothing to say.
                Ok(()) | Err(Error::Page(PageError::PageGone(_))) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(wrecks)
}

/// What followers are told.
fn mark_of(wreck: &Wreck) -> String {
    let pages: Vec<String> = wreck.pages.iter().map(|p| p.id.to_string()).collect();
    format!(
        "mmsb: abandoned LSN {} of {} (pid {}), pages {}",
        wreck.lsn,
        wreck.name,
        wreck.pid,
        pages.join(" ")
    )
}

/// Commits what the page holds, piece by piece, so that the log says what memory says.
fn write_again(bus: &Bus, id: PageId) -> Result<()> {
    let p = bus.participant();
    let page = p.core().pages.resolve(id)?;
    let mut bytes = vec![0; page.size().min(AGAIN)];
    for offset in (0..page.size()).step_by(AGAIN) {
        let piece = &mut bytes[..(page.size() - offset).min(AGAIN)];
        loop {
            let version = p.read(&page, offset, piece)?;
            let change = Change::Patch {
                page: &page,
                offset: offset as u32,
                bytes: piece,
            };
            // Not over what somebody else wrote meanwhile.
            if p.commit_if(&[change], &Options::default(), &[(&page, version)])?
                .is_some()
            {
                break;
            }
        }
    }
    Ok(())
}
