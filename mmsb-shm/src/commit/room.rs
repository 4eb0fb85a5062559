//! Flow control: moving `published`, the overwrite floor and the claim limit; waiting for room; telling who is in the
//! way.
//!
//! What holds the floor: the end of the READY prefix, every gating cursor, and every participant's unfinished commit
//! (`hold`). The mover reads `published` first and the holds after it: a record counts as published only once its
//! READY was seen, and its hold was stored before that (A3). A joining cursor stores JOINING, passes a fence, and then
//! reads where to start (A5); the mover's fence below is the other half.

use std::time::{Duration, Instant};

use crate::error::{Corrupt, PageError};
use crate::layout::participant::CURSOR_JOINING;
use crate::page::owner;
use crate::participant::{Holder, OnFull, Participant};
use crate::recovery;
use crate::ring::gating::{self, Needs};
use crate::ring::load_lsn;
use crate::sync::{Ordering, fence};
use crate::testing::step;

/// Rounds of a wait for room that only yield; from then on it sleeps, and is content with what it needs.
const PATIENCE: u32 = 64;

/// What keeps the floor where it is.
enum Blocker {
    /// Nothing: there is room.
    None,
    /// The writer of an unfinished record.
    Writer { index: u32, lsn: u64 },
    /// A gating cursor.
    Cursor { index: u32, lsn: u64 },
    /// The log.
    Log { lsn: u64 },
    /// Whoever moves the limit right now.
    Mover { index: u32, lsn: u64 },
    /// A slot that says it was never claimed, ahead of records that were: in a sound ring a glimpse of the past.
    Hole { lsn: u64 },
}

impl Participant {
    /// Makes room for `slots` slots at the end of the ring, waiting as configured. No owner word is held meanwhile.
    #[cold]
    pub(crate) fn wait_for_room(&self, slots: u64) -> Result<(), PageError> {
        self.yield_leases();
        let begin = Instant::now();
        let ring = self.ring();
        let mut rounds = 0u32;
        loop {
            let guess = self.guess.get();
            // The record may need padding ahead of it.
            let room = ring.len() - (guess.tail & (ring.len() - 1));
            let need = guess.tail + if slots > room { room + slots } else { slots };
            // Who had to wait once waits a moment for more: room for one record at a time would make it and the follower in
            // its way fetch each other's lines for every record.
            let patient = (1..PATIENCE).contains(&rounds) && self.config.on_full != OnFull::Fail;
            let wanted = if patient { need + ring.len() / 8 } else { need };
            let has = |wanted| load_lsn(ring.limit, Ordering::Acquire) >= wanted;
            if has(wanted) {
                return Ok(());
            }
            let blocker = self.move_limit(wanted)?;
            if has(wanted) {
                return Ok(());
            }
            let waited = begin.elapsed();
            if rounds > 0 && (self.config.on_full == OnFull::Fail || waited >= self.config.timeout)
            {
                if has(need) {
                    return Ok(());
                }
                return Err(self.no_room(blocker, waited));
            }
            if let Blocker::None = blocker {
                // Everything up to the end is committed and applied, and still there is no room.
                return Err(self.no_room(blocker, waited));
            }
            if let Blocker::Log { .. } = blocker {
                self.kick();
            }
            if rounds == 0 {
                Self::bump(&self.slot().waits, 1);
            }
            rounds += 1;
            // Subscribers do not wake writers: a poll this seldom costs little, and a full ring is no hot path.
            if rounds < PATIENCE {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(if rounds < 256 { 50 } else { 500 }));
            }
        }
    }

    fn no_room(&self, blocker: Blocker, waited: Duration) -> PageError {
        let mut no_supervisor = false;
        let (blocker, lsn) = match blocker {
            Blocker::None => {
                return Corrupt {
                    what: "claim limit",
                    offset: load_lsn(self.ring().limit, Ordering::Acquire),
                }
                .into();
            }
            Blocker::Writer { index, lsn } => (
                format!("unfinished commit of {}", self.core.describe(index)),
                lsn,
            ),
            Blocker::Cursor { index, lsn } => (
                format!("gating cursor of {}", self.core.describe(index)),
                lsn,
            ),
            Blocker::Mover { index, lsn } => (
                format!("limit lock, held by {},", self.core.describe(index)),
                lsn,
            ),
            Blocker::Log { lsn } => {
                no_supervisor = !self.core.is_supervised();
                let trouble = self
                    .core
                    .log_trouble()
                    .unwrap_or_else(|| format!("the log of {}", self.core.describe_supervisor()));
                (trouble, lsn)
            }
            Blocker::Hole { lsn } => ("an unclaimed slot (corrupt?)".into(), lsn),
        };
        PageError::Backpressure {
            blocker,
            lsn,
            waited,
            no_supervisor,
        }
    }

    /// One attempt to raise the limit to `need`; who is in the way if that was not enough. Recovers the dead it meets.
    fn move_limit(&self, need: u64) -> Result<Blocker, PageError> {
        let lock = &self.core.ctl.header().limit_lock;
        if let Err(found) = owner::try_acquire(lock, self.me) {
            return Ok(match self.core.holder(found) {
                Holder::Alive(index) => Blocker::Mover {
                    index,
                    lsn: load_lsn(self.core.pages.ring().limit, Ordering::Acquire),
                },
                Holder::Dead(index) => {
                    recovery::participant(&self.core, &self.fd, index)?;
                    Blocker::Mover { index, lsn: 0 }
                }
                Holder::Nobody => {
                    // The life ended between the two looks, or the word is garbage.
                    if lock.load(Ordering::Relaxed) == found {
                        owner::clear_if(lock, owner::holder(found));
                    }
                    Blocker::Mover {
                        index: self.index,
                        lsn: 0,
                    }
                }
            });
        }
        step("limit.locked");
        let result = self.move_limit_locked(need);
        owner::release(lock, self.me);
        match result? {
            (Blocker::Writer { index, lsn }, true) | (Blocker::Cursor { index, lsn }, true) => {
                // Dead: finish its work, now that the limit lock is free.
                recovery::participant(&self.core, &self.fd, index)?;
                Ok(Blocker::Writer { index, lsn })
            }
            (blocker, _) => Ok(blocker),
        }
    }

    /// The second value: the blocker is dead.
    fn move_limit_locked(&self, need: u64) -> Result<(Blocker, bool), PageError> {
        let core = &self.core;
        let ring = core.pages.ring();
        if load_lsn(ring.limit, Ordering::Acquire) >= need {
            return Ok((Blocker::None, false));
        }
        if core.pages.is_abandoned() {
            return Err(PageError::BusGone);
        }
        let mut claimed_by = None;
        let published = ring
            .ready_prefix(self.guess.get().own(), |lsn, stamp| {
                claimed_by = Some((stamp.owner_index(), lsn));
                false
            })
            .map_err(|offset| Corrupt {
                what: "ring stamp",
                offset,
            })?;
        ring.raise_published(published);
        step("limit.published");
        let holds = core.ctl.participants_used().iter().map(|s| &s.hold);
        // SeqCst fence (G1): ahead of the look at how many cursors there are, too.
        fence(Ordering::SeqCst);
        let log = &core.ctl.header().log_position;
        let (least, needs) = gating::least_needed(published, log, core.ctl.cursors_used(), holds);
        let blocker = match (needs, claimed_by) {
            (Some(Needs::Log { position }), _) => Blocker::Log { lsn: position },
            (Some(Needs::Cursor { owner, position }), _) => Blocker::Cursor {
                index: owner::index(owner).unwrap_or(u32::MAX),
                lsn: if position == CURSOR_JOINING {
                    0
                } else {
                    position
                },
            },
            (Some(Needs::Commit { index, lsn }), _) | (None, Some((index, lsn))) => {
                Blocker::Writer { index, lsn }
            }
            (None, None) => Blocker::None,
        };
        ring.raise_limit(least, need);
        step("limit.raised");
        if load_lsn(ring.limit, Ordering::Acquire) >= need {
            return Ok((Blocker::None, false));
        }
        let index = match blocker {
            Blocker::Writer { index, .. } | Blocker::Cursor { index, .. } => index,
            log @ Blocker::Log { .. } => return Ok((log, false)),
            // Everything is READY as far as anybody knows, and still `need` is out of reach.
            _ => return Ok((Blocker::Hole { lsn: published }, false)),
        };
        let state = core
            .ctl
            .participants()
            .get(index as usize)
            .map_or(0, |s| s.state.load(Ordering::Acquire));
        let dead = index != self.index && state & 0xff == 1 && core.has_stopped(index, state >> 8);
        Ok((blocker, dead))
    }

    /// Brings `published` up to date, for those who ask where the log ends.
    pub fn refresh_published(&self) -> Result<u64, PageError> {
        self.check_fork()?;
        let _inside = self.operation();
        let ring = self.ring();
        let lock = &self.core.ctl.header().limit_lock;
        if owner::try_acquire(lock, self.me).is_ok() {
            let prefix = ring.ready_prefix(self.guess.get().own(), |_, _| false);
            if let Ok(published) = prefix {
                ring.raise_published(published);
            }
            owner::release(lock, self.me);
            return prefix.map_err(|offset| {
                Corrupt {
                    what: "ring stamp",
                    offset,
                }
                .into()
            });
        }
        Ok(load_lsn(ring.published, Ordering::Acquire))
    }

    /// The greatest LSN such that every delta ahead of it is applied to its page (PROTOCOL A3, D1).
    pub fn applied_lsn(&self) -> Result<u64, PageError> {
        let published = self.refresh_published()?;
        // SeqCst fence: as in the mover.
        fence(Ordering::SeqCst);
        let least = self
            .core
            .ctl
            .participants_used()
            .iter()
            .map(|s| load_lsn(&s.hold, Ordering::Acquire))
            .filter(|h| *h != 0)
            .min();
        Ok(least.map_or(published, |h| h.min(published)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::names::NewPage;
    use crate::participant::ParticipantConfig;
    use crate::segment::{BusConfig, Core};
    use crate::sys::space::SegmentDir;

    #[test]
    fn a_wait_for_room_behind_a_hole_ends_and_names_it() {
        let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = SegmentDir::at(tmp.path());
        let config = BusConfig {
            ring_bytes: 4096,
            ..BusConfig::default()
        };
        let core = Arc::new(Core::create(&dir, "t", &config).unwrap());
        let join = || {
            let config = ParticipantConfig {
                timeout: Duration::from_millis(50),
                ..ParticipantConfig::default()
            };
            Participant::join(Arc::clone(&core), config).unwrap()
        };
        let (a, b) = (join(), join());
        let new = NewPage {
            size: 8,
            ..NewPage::default()
        };
        let page = core.pages.resolve(a.create_page(&new).unwrap()).unwrap();
        let hole = a.patch(&page, 0, &[1; 8]).unwrap();
        b.patch(&page, 0, &[2; 8]).unwrap();
        // As if nobody had ever claimed it, ahead of a record that somebody did.
        let stamp = &core.pages.ring().slot(hole).stamp;
        stamp.store(0, Ordering::Relaxed);
        let full = (0..1000).find_map(|_| b.patch(&page, 0, &[3; 8]).err());
        match full {
            Some(PageError::Backpressure { blocker, lsn, .. }) => {
                assert!(blocker.contains("unclaimed"), "{blocker}");
                assert_eq!(lsn, hole);
            }
            other => panic!("{other:?}"),
        }
    }
}
