//! Checkpoints of a live bus, by somebody who does not supervise it.

use std::path::Path;
use std::time::Duration;

use super::{CheckpointInfo, ImageSource, Options};
use crate::Bus;
use crate::error::{Error, Result};
use crate::supervisor::LiveImages;
use crate::tlog::{self, LogError};

/// The pages of a live bus as a source of images, read by `threads` participants of their own beside the writers.
///
/// # Errors
/// [`AttachError::TooManyParticipants`](crate::AttachError::TooManyParticipants).
pub fn images(bus: &Bus, threads: usize) -> Result<Box<dyn ImageSource>> {
    Ok(Box::new(LiveImages::new(bus.core(), "images", threads)?))
}

/// Writes a checkpoint of a bus that somebody supervises, this process or another one, into the directory of its log. It
/// gets its name when the log is durable as far as the images go, within `timeout`. The supervisor keeps and prunes it
/// with its own.
///
/// ```
/// # let dir = tempfile::tempdir_in("/dev/shm")?;
/// # let log = tempfile::tempdir()?;
/// use std::time::Duration;
///
/// use mmsb::{Bus, PageSpec, checkpoint};
///
/// let bus = Bus::builder("plant").dir(dir.path()).durable(log.path()).open_or_create()?;
/// bus.create_page(PageSpec::of::<u64>().name("level"))?.set(&7u64)?;
/// let info = checkpoint::of_bus(&bus, log.path(), &checkpoint::Options::default(), Duration::from_secs(10))?;
/// assert!(bus.durable_lsn() >= info.end_lsn);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Log`] if the directory holds no log, or that of another bus; [`Error::Checkpoint`];
/// [`AttachError::TooManyParticipants`](crate::AttachError::TooManyParticipants).
pub fn of_bus(
    bus: &Bus,
    dir: &Path,
    options: &Options<'_>,
    timeout: Duration,
) -> Result<CheckpointInfo> {
    let expected = bus.log_status().log_id;
    let found = tlog::survey(dir)?.meta.map(|meta| meta.log_id);
    if found != Some(expected) {
        let what = match found {
            _ if expected == [0; 2] => format!("the bus {:?} has no log", bus.name()),
            None => format!(
                "it holds no log; that of the bus {:?} is elsewhere",
                bus.name()
            ),
            Some(_) => format!("it holds the log of another bus than {:?}", bus.name()),
        };
        return Err(LogError::Foreign {
            file: dir.to_owned(),
            what,
        }
        .into());
    }
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(4, |n| n.get().max(4)),
        n => n,
    };
    let images = LiveImages::new(bus.core(), "checkpoint", threads)?;
    let options = Options {
        threads,
        ..*options
    };
    super::write(dir, &images, &options, &|lsn| {
        if lsn > bus.durable_lsn() {
            bus.wait_durable(lsn - 1, timeout)?;
        }
        Ok(())
    })
    .map_err(Error::from)
}
