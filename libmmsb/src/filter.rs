//! Which records a subscriber is told of, and how: the part that participants and observers share.

use std::collections::{HashMap, HashSet, VecDeque};

use mmsb_shm::{Delta, Gap, Kind, PageError, PageId, PageInfo, PageRef, PageVersion, Pages};

use crate::delta::{Event, OwnedDelta, PageImage};
use crate::error::Result;

/// Reads whole pages, as a participant or as an observer.
pub(crate) trait Reader {
    fn shared(&self) -> &Pages;
    fn read_page(&self, page: &PageRef, dst: &mut [u8]) -> Result<PageVersion, PageError>;
}

/// The page now; `None`: it is gone.
pub(crate) fn image(reader: &impl Reader, id: PageId) -> Result<Option<PageImage>, PageError> {
    let read = || {
        let page = reader.shared().resolve(id)?;
        let mut bytes = vec![0; page.size()];
        let version = reader.read_page(&page, &mut bytes)?;
        Ok(PageImage { id, version, bytes })
    };
    match read() {
        Ok(image) => Ok(Some(image)),
        Err(PageError::PageGone(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    Everything,
    Pages(Vec<PageId>),
    Prefix(String),
}

/// A filter at work.
#[derive(Debug)]
pub(crate) struct Tracker {
    filter: Filter,
    /// Pages that enter the filter, and those found after a gap, are delivered with an image.
    images: bool,
    /// The pages that the filter covers now. For `Everything` only kept with images, to tell after a gap who is gone.
    known: HashSet<PageId>,
    /// One of `known`: the page of the last delta that was covered. Streams are bursts of few pages.
    recent: Option<PageId>,
    /// An image holds all deltas of its page to this LSN.
    held: HashMap<PageId, u64>,
    /// Pages whose image is due, ahead of everything else.
    due: VecDeque<PageId>,
    events: VecDeque<Event>,
    /// Content of the swap at this LSN, from the log.
    logged: Option<(u64, Vec<u8>)>,
    /// What went wrong while a record was looked at.
    error: Option<PageError>,
    pub(crate) deltas: u64,
    pub(crate) images_delivered: u64,
    pub(crate) gaps: u64,
    pub(crate) conflated: u64,
    /// The greatest LSN of an image.
    greatest: Option<u64>,
}

impl Tracker {
    pub(crate) fn new(filter: Filter, images: bool) -> Tracker {
        Tracker {
            filter,
            images,
            known: HashSet::new(),
            recent: None,
            held: HashMap::new(),
            due: VecDeque::new(),
            events: VecDeque::new(),
            logged: None,
            error: None,
            deltas: 0,
            images_delivered: 0,
            gaps: 0,
            conflated: 0,
            greatest: None,
        }
    }

    /// The pages that the filter covers at present.
    fn present(&self, pages: &Pages) -> Result<Vec<PageId>, PageError> {
        Ok(match &self.filter {
            Filter::Everything => pages.list_pages(),
            Filter::Pages(ids) => ids
                .iter()
                .copied()
                .filter(|id| pages.resolve(*id).is_ok())
                .collect(),
            Filter::Prefix(prefix) => pages
                .list_names(prefix)?
                .into_iter()
                .map(|(_, id)| id)
                .collect(),
        })
    }

    /// Looks up what the filter covers when following starts; with `snapshot`, images of all of it are due.
    pub(crate) fn begin(&mut self, pages: &Pages, snapshot: bool) -> Result<(), PageError> {
        if self.filter == Filter::Everything && !self.images {
            return Ok(());
        }
        let present = self.present(pages)?;
        if snapshot {
            self.due.extend(&present);
        }
        self.known.extend(present);
        Ok(())
    }

    /// The prefix asked for, if it is one.
    pub(crate) fn prefix(&self) -> Option<&str> {
        match &self.filter {
            Filter::Prefix(prefix) => Some(prefix),
            _ => None,
        }
    }

    /// Says which pages the filter covers where following starts; `None`: those that were named, if any.
    pub(crate) fn begin_with(&mut self, pages: Option<Vec<PageId>>) {
        match (pages, &self.filter) {
            (Some(pages), _) => self.known.extend(pages),
            (None, Filter::Pages(ids)) => self.known.extend(ids),
            (None, _) => {}
        }
    }

    /// A record from the log; `content`: what its swap gives to its page.
    pub(crate) fn record_logged<R: Reader>(
        &mut self,
        reader: &R,
        delta: &Delta<'_>,
        content: Option<Vec<u8>>,
    ) {
        self.logged = content.map(|content| (delta.lsn, content));
        self.record(reader, delta, &mut |_| false);
        self.logged = None;
    }

    /// Tells of a gap.
    pub(crate) fn gap(&mut self, gap: Gap) {
        self.gaps += 1;
        // Held back records are behind us: the follower goes on at the end of the gap.
        self.held.retain(|_, held| *held >= gap.to);
        self.events.push_back(Event::Gap(gap));
    }

    /// After a gap: who came and went meanwhile, and images of all if asked for. Everything ahead of the end of the gap
    /// must be applied by now.
    pub(crate) fn resync(&mut self, pages: &Pages) -> Result<(), PageError> {
        if self.filter == Filter::Everything && !self.images {
            return Ok(());
        }
        let present = self.present(pages)?;
        let now: HashSet<PageId> = present.iter().copied().collect();
        let mut gone: Vec<PageId> = self.known.difference(&now).copied().collect();
        gone.sort_unstable();
        for id in gone {
            self.events.push_back(if pages.resolve(id).is_ok() {
                Event::Left(id)
            } else {
                Event::Destroyed(id)
            });
        }
        for id in &present {
            if !self.known.contains(id) {
                match pages.info(*id) {
                    Ok(info) => self.events.push_back(Event::Created(info)),
                    Err(PageError::PageGone(_)) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        if self.images {
            // What was due before the gap is due again or gone.
            self.due = present.into();
        }
        self.known = now;
        self.recent = None;
        Ok(())
    }

    /// Reads one image that is due. Deltas it holds will not be delivered again.
    pub(crate) fn take_due(&mut self, reader: &impl Reader) -> Result<bool, PageError> {
        let Some(id) = self.due.front().copied() else {
            return Ok(false);
        };
        // Taken off the list only behind the read: after an error it is tried again.
        let image = image(reader, id)?;
        self.due.pop_front();
        match image {
            Some(image) => self.push_image(image),
            // Gone before its image was read: nobody could apply its last deltas to anything. Its end will be told.
            None => {
                self.held.insert(id, u64::MAX);
            }
        }
        Ok(true)
    }

    fn push_image(&mut self, image: PageImage) {
        self.held.insert(image.id, image.version.lsn);
        self.greatest = self.greatest.max(Some(image.version.lsn));
        self.images_delivered += 1;
        self.events.push_back(Event::Image(image));
    }

    /// The greatest LSN of an image, once all that were due are delivered.
    pub(crate) fn consistent_at(&self) -> Option<u64> {
        let pending =
            !self.due.is_empty() || self.events.iter().any(|e| matches!(e, Event::Image(_)));
        self.greatest.filter(|_| !pending)
    }

    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// LSN of the first event that waits.
    pub(crate) fn first_lsn(&self) -> Option<u64> {
        self.events.iter().find_map(|event| match event {
            Event::Delta(delta) => Some(delta.lsn),
            Event::Gap(gap) => Some(gap.from),
            _ => None,
        })
    }

    pub(crate) fn take_error(&mut self) -> Result<(), PageError> {
        self.error.take().map_or(Ok(()), Err)
    }

    fn covers(&self, id: PageId) -> bool {
        self.filter == Filter::Everything || self.known.contains(&id)
    }

    /// As [`Tracker::covers`], for a stream of deltas.
    #[inline]
    fn covers_delta(&mut self, id: PageId) -> bool {
        if self.recent == Some(id) {
            return true;
        }
        let covers = self.covers(id);
        // Not for `Everything`, whose pages are not taken off any list.
        if covers && self.filter != Filter::Everything {
            self.recent = Some(id);
        }
        covers
    }

    fn forget(&mut self, id: PageId) {
        self.known.remove(&id);
        self.held.remove(&id);
        self.recent = self.recent.filter(|recent| *recent != id);
    }

    /// Whether an image that was delivered holds this record already.
    #[inline]
    fn is_held(&mut self, delta: &Delta<'_>) -> bool {
        if self.held.is_empty() {
            return false;
        }
        match self.held.get(&delta.page) {
            Some(held) if *held >= delta.lsn => true,
            Some(_) => {
                // LSNs only rise, so the image has done its work.
                self.held.remove(&delta.page);
                false
            }
            None => false,
        }
    }

    /// Looks at one record. What the filter covers goes to `fast` if it is a plain delta and nothing waits ahead of it,
    /// else to the events.
    #[inline]
    pub(crate) fn record<R: Reader>(
        &mut self,
        reader: &R,
        delta: &Delta<'_>,
        fast: &mut impl FnMut(&Delta<'_>) -> bool,
    ) {
        match delta.kind {
            Kind::Patch | Kind::Ranges | Kind::Masked => {
                if !self.covers_delta(delta.page) || self.is_held(delta) {
                    return;
                }
            }
            Kind::Mark => {
                if self.filter != Filter::Everything {
                    return;
                }
            }
            Kind::Source => return,
            _ => {
                if let Err(e) = self.structural(reader, delta) {
                    self.error.get_or_insert(e);
                }
                return;
            }
        }
        self.deltas += 1;
        if self.events.is_empty() && fast(delta) {
            return;
        }
        self.events.push_back(Event::Delta(OwnedDelta::of(delta)));
    }

    #[cold]
    fn structural<R: Reader>(&mut self, reader: &R, delta: &Delta<'_>) -> Result<(), PageError> {
        let id = delta.page;
        match delta.kind {
            Kind::Swap => {
                if !self.covers(id) || self.is_held(delta) {
                    return Ok(());
                }
                self.deltas += 1;
                let mut content = Vec::new();
                let logged = self.logged.take().filter(|(lsn, _)| *lsn == delta.lsn);
                let found = match logged {
                    Some((_, logged)) => {
                        content = logged;
                        true
                    }
                    None => reader.shared().read_swapped(delta, &mut content)?,
                };
                if found {
                    let mut owned = OwnedDelta::of(delta);
                    owned.ranges.push((0, content));
                    self.events.push_back(Event::Delta(owned));
                } else if let Some(image) = image(reader, id)? {
                    // Only lossy followers come too late for the block; the page has moved on, and so do they.
                    self.conflated += 1;
                    self.push_image(image);
                }
            }
            Kind::Create => {
                let cold = delta.cold().unwrap_or_default();
                let wanted = match &self.filter {
                    Filter::Everything => true,
                    Filter::Pages(ids) => ids.contains(&id),
                    Filter::Prefix(prefix) => {
                        !cold.name.is_empty() && cold.name.starts_with(prefix.as_str())
                    }
                };
                if !wanted {
                    return Ok(());
                }
                if self.filter != Filter::Everything || self.images {
                    self.known.insert(id);
                }
                if self.is_held(delta) {
                    return Ok(());
                }
                let (size, versions) = delta.created_size().unwrap_or_default();
                self.events.push_back(Event::Created(PageInfo {
                    id,
                    size,
                    versions,
                    loaned: false,
                    epoch: 0,
                    lsn: delta.lsn,
                    cold,
                }));
            }
            Kind::Describe => self.described(reader, delta)?,
            Kind::Destroy => {
                if self.covers(id) {
                    self.events.push_back(Event::Destroyed(id));
                }
                self.forget(id);
            }
            _ => {}
        }
        Ok(())
    }

    fn described<R: Reader>(&mut self, reader: &R, delta: &Delta<'_>) -> Result<(), PageError> {
        let id = delta.page;
        let cold = delta.cold().unwrap_or_default();
        let before = self.covers(id);
        let after = match &self.filter {
            Filter::Prefix(prefix) => {
                !cold.name.is_empty() && cold.name.starts_with(prefix.as_str())
            }
            _ => before,
        };
        if !after {
            if before {
                self.forget(id);
                self.events.push_back(Event::Left(id));
            }
            return Ok(());
        }
        let info = match reader.shared().info(id) {
            Ok(info) => PageInfo { cold, ..info },
            // Gone since; its end is a record too.
            Err(PageError::PageGone(_)) => {
                self.known.insert(id);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        if before {
            self.events.push_back(Event::Described(info));
            return Ok(());
        }
        self.known.insert(id);
        self.events.push_back(Event::Entered(info));
        if self.images {
            // A description is committed under the page's owner word, so all earlier deltas of the page are applied.
            if let Some(image) = image(reader, id)? {
                self.push_image(image);
            }
        }
        Ok(())
    }
}
