//! A live bus as a source of checkpoint images.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mmsb_shm::segment::Core;
use mmsb_shm::{BusConfig, PageError, PageId, Participant, ParticipantConfig};

use crate::checkpoint::{Image, ImageSource, OtherError};
use crate::error::Result;
use crate::state::{Meta, PageShape, Source};

/// Reads pages as several participants, one for each thread: so no writer, however busy, keeps it from a page for long.
pub(crate) struct LiveImages {
    core: Arc<Core>,
    readers: Vec<Mutex<Participant>>,
}

impl LiveImages {
    pub(crate) fn new(core: &Arc<Core>, source: &str, threads: usize) -> Result<LiveImages> {
        let config = ParticipantConfig {
            name: source.to_owned(),
            ..ParticipantConfig::default()
        };
        let readers = (0..threads.max(1))
            .map(|_| {
                Ok(Mutex::new(Participant::join(
                    Arc::clone(core),
                    config.clone(),
                )?))
            })
            .collect::<Result<_>>()?;
        Ok(LiveImages {
            core: Arc::clone(core),
            readers,
        })
    }

    /// Runs `f` as one of the participants that is free.
    fn with<R>(&self, f: impl FnOnce(&Participant) -> R) -> R {
        for reader in &self.readers {
            match reader.try_lock() {
                Ok(reader) => return f(&reader),
                Err(TryLockError::Poisoned(reader)) => return f(&reader.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        let reader = &self.readers[0];
        f(&reader.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

impl ImageSource for LiveImages {
    fn meta(&self) -> std::result::Result<Meta, OtherError> {
        let pages = &self.core.pages;
        Ok(Meta {
            log_id: pages.log_info().log_id,
            bus: self.core.name.clone(),
            incarnation: pages.incarnation(),
            created_ns: pages.created_ns(),
            ring_slots: pages.ring_info().slots,
        })
    }

    fn config(&self) -> Option<BusConfig> {
        Some(self.core.config())
    }

    fn begin_lsn(&self) -> std::result::Result<u64, OtherError> {
        // The log must hold what comes behind it.
        let from = self.core.pages.log_info().from;
        let begin = Instant::now();
        loop {
            let applied = self.with(Participant::applied_lsn)?;
            if applied >= from {
                return Ok(applied);
            }
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(PageError::Timeout {
                    what: format!("the deltas ahead of LSN {from}"),
                    holder: "a writer that does not finish its commit".into(),
                    waited: begin.elapsed(),
                }
                .into());
            }
            self.with(Participant::recover_all)?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pages(&self) -> std::result::Result<Vec<PageId>, OtherError> {
        Ok(self.core.pages.list_pages())
    }

    fn image(
        &self,
        id: PageId,
        bytes: &mut Vec<u8>,
    ) -> std::result::Result<Option<Image>, OtherError> {
        let pages = &self.core.pages;
        let mut image = || {
            let page = pages.resolve(id)?;
            bytes.resize(page.size(), 0);
            let version = self.with(|by| by.read(&page, 0, bytes))?;
            // Behind the bytes: a description of a page is applied ahead of any later delta of it.
            let cold = pages.cold(id)?;
            // Still there, so the description was that of the page.
            pages.resolve(id)?;
            Ok(Image {
                shape: PageShape {
                    id,
                    versions: page.versions(),
                    epoch: version.epoch,
                    lsn: version.lsn,
                },
                cold,
            })
        };
        match image() {
            Ok(image) => Ok(Some(image)),
            Err(PageError::PageGone(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn generations(&self) -> std::result::Result<Vec<(u32, u32)>, OtherError> {
        // Also of numbers in use: a page that was made behind the listing has no image, and its predecessor, gone by then,
        // none either. Records of that one stand in the log behind the checkpoint's beginning.
        Ok(self.core.pages.gone_generations())
    }

    fn sources(&self) -> std::result::Result<Vec<(u16, Source)>, OtherError> {
        let sources: BTreeMap<u16, Source> = self
            .core
            .pages
            .list_sources()
            .into_iter()
            .map(|s| {
                let source = Source {
                    name: s.name,
                    since_ns: s.since_ns,
                };
                (s.id, source)
            })
            .collect();
        Ok(sources.into_iter().collect())
    }

    fn end_lsn(&self) -> std::result::Result<(u64, u64), OtherError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok((self.core.pages.end_lsn(), now.as_nanos() as u64))
    }
}
