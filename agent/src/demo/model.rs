//! The reference model: pages in private memory, fed with the deltas of the ring and nothing else.
//!
//! Every delta of the demo belongs to one **stream** and carries that stream's next number: a writer's own page, a
//! writer's counter in the shared page, a source's page. So the model knows of each delta whether it is the one that
//! had to come, and after each delta whether the page is whole. At the end its bytes must be those of the bus.

use std::collections::HashMap;

use mmsb::PageId;
use serde::{Deserialize, Serialize};

use super::content::{self, BODY, SEQUENCE, WRITER, word};
use super::sources;

/// Which pages there are, and the numbers of their streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cast {
    /// Writers; each has a page of its own and a counter in the shared one.
    pub writers: usize,
    /// Names of the sources' pages.
    pub sources: Vec<String>,
}

/// What a page of the demo is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A writer's own page.
    Own(usize),
    /// The page that all writers share.
    Shared,
    /// A source's page.
    Source(usize),
}

impl Cast {
    /// This many writers and one of each source.
    pub fn new(writers: usize) -> Cast {
        Cast {
            writers,
            sources: sources::all()
                .iter()
                .map(|source| source.name().to_owned())
                .collect(),
        }
    }

    /// How many streams there are.
    pub fn streams(&self) -> usize {
        2 * self.writers + self.sources.len()
    }

    /// The stream of a writer's own page.
    pub fn own(&self, writer: usize) -> usize {
        writer
    }

    /// The stream of a writer's counter in the shared page.
    pub fn counter(&self, writer: usize) -> usize {
        self.writers + writer
    }

    /// The stream of a source.
    pub fn source(&self, source: usize) -> usize {
        2 * self.writers + source
    }

    /// A stream's name for reports.
    pub fn stream_name(&self, stream: usize) -> String {
        if stream < self.writers {
            content::own_page(stream)
        } else if stream < 2 * self.writers {
            format!("{} counter {}", content::SHARED, stream - self.writers)
        } else {
            self.sources
                .get(stream - 2 * self.writers)
                .cloned()
                .unwrap_or_default()
        }
    }

    /// What the page of this name is, `None` if it is not the demo's.
    pub fn part(&self, name: &str) -> Option<Part> {
        if name == content::SHARED {
            return Some(Part::Shared);
        }
        if let Some(source) = self.sources.iter().position(|source| source == name) {
            return Some(Part::Source(source));
        }
        let writer = name.strip_prefix("demo/writer/")?.parse().ok()?;
        (writer < self.writers).then_some(Part::Own(writer))
    }

    /// Names of all pages.
    pub fn pages(&self) -> Vec<String> {
        let own = (0..self.writers).map(content::own_page);
        own.chain([content::SHARED.to_owned()])
            .chain(self.sources.iter().cloned())
            .collect()
    }

    /// Whether the page's bytes are one write.
    pub fn is_whole(&self, part: Part, page: &[u8]) -> bool {
        match part {
            Part::Own(_) => content::is_whole(page),
            Part::Shared => content::is_whole(page) && content::is_balanced(page, self.writers),
            // A page that was never filled is whole, too.
            Part::Source(_) => sources::is_sealed(page) || page.iter().all(|byte| *byte == 0),
        }
    }

    /// The streams of a page and how far its bytes say they are.
    pub fn positions(&self, part: Part, page: &[u8]) -> Vec<(usize, u64)> {
        match part {
            Part::Own(writer) => vec![(self.own(writer), word(page, SEQUENCE))],
            Part::Shared => (0..self.writers)
                .map(|writer| (self.counter(writer), word(page, BODY + writer)))
                .collect(),
            Part::Source(source) => vec![(self.source(source), word(page, 0))],
        }
    }
}

/// What the model found wrong. All zero is right.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Numbers of a stream that never came.
    pub holes: u64,
    /// Numbers of a stream that came again.
    pub duplicates: u64,
    /// Deltas after which the page was not whole, of those that were looked at.
    pub torn: u64,
    /// Deltas that belong to no stream, or moved more than theirs.
    pub foreign: u64,
}

impl Faults {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        *self == Faults::default()
    }
}

/// Deltas of a page between two looks at all of its bytes: the subscriber shall not be slower than the writers, or
/// these would wait for it most of the time. A delta that lost a part is still found, as checksums add up.
const CHECK_EVERY: u64 = 8;

struct ModelPage {
    name: String,
    part: Part,
    bytes: Vec<u8>,
    deltas: u64,
}

/// Pages as the ring says they are.
pub struct Model {
    cast: Cast,
    pages: HashMap<PageId, ModelPage>,
    /// The last number of each stream.
    last: Vec<u64>,
    faults: Faults,
    deltas: u64,
}

impl Model {
    /// A model without pages.
    pub fn new(cast: Cast) -> Model {
        let last = vec![0; cast.streams()];
        Model {
            cast,
            pages: HashMap::new(),
            last,
            faults: Faults::default(),
            deltas: 0,
        }
    }

    /// A page's content when the model begins, or after it was swapped by a snapshot.
    pub fn image(&mut self, id: PageId, name: &str, bytes: &[u8]) {
        let Some(part) = self.cast.part(name) else {
            return;
        };
        for (stream, number) in self.cast.positions(part, bytes) {
            self.last[stream] = number;
        }
        let page = ModelPage {
            name: name.to_owned(),
            part,
            bytes: bytes.to_vec(),
            deltas: 0,
        };
        self.pages.insert(id, page);
    }

    /// Overwrites a range of a page, without a verdict: further ranges of the delta may follow.
    pub fn patch(&mut self, id: PageId, offset: usize, bytes: &[u8]) {
        let target = self.pages.get_mut(&id).and_then(|page| {
            page.bytes
                .get_mut(offset..offset.saturating_add(bytes.len()))
        });
        match target {
            Some(target) => target.copy_from_slice(bytes),
            None => self.faults.foreign += 1,
        }
    }

    /// Ends a delta: judges the page, and returns when the write began, if its bytes say so.
    pub fn end_delta(&mut self, id: PageId) -> Option<u64> {
        self.deltas += 1;
        let Some(page) = self.pages.get_mut(&id) else {
            self.faults.foreign += 1;
            return None;
        };
        page.deltas += 1;
        let bytes = &page.bytes;
        if page.deltas % CHECK_EVERY == 1 && !self.cast.is_whole(page.part, bytes) {
            self.faults.torn += 1;
        }
        let (stream, number) = match page.part {
            Part::Own(writer) => (self.cast.own(writer), word(bytes, SEQUENCE)),
            Part::Source(source) => (self.cast.source(source), word(bytes, 0)),
            Part::Shared => {
                let writer = word(bytes, WRITER) as usize;
                if writer >= self.cast.writers {
                    self.faults.foreign += 1;
                    return None;
                }
                (self.cast.counter(writer), word(bytes, BODY + writer))
            }
        };
        let expected = self.last[stream] + 1;
        if number > expected {
            self.faults.holes += number - expected;
        } else if number < expected {
            self.faults.duplicates += 1;
        }
        self.last[stream] = self.last[stream].max(number);
        match page.part {
            Part::Source(_) => None,
            _ => Some(word(bytes, content::STAMP)),
        }
    }

    /// Deltas so far.
    pub fn deltas(&self) -> u64 {
        self.deltas
    }

    /// What is wrong so far.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The last number of each stream.
    pub fn last(&self) -> &[u64] {
        &self.last
    }

    /// Ids, names and bytes of all pages.
    pub fn pages(&self) -> impl Iterator<Item = (PageId, &str, &[u8])> {
        self.pages
            .iter()
            .map(|(id, page)| (*id, page.name.as_str(), page.bytes.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::content::{OWN_BYTES, SHARED_BYTES, next_own, next_shared};
    use super::*;

    fn id(index: u32) -> PageId {
        PageId {
            index,
            generation: 1,
        }
    }

    fn model() -> Model {
        let mut model = Model::new(Cast::new(2));
        model.image(id(1), "demo/writer/0", &[0; OWN_BYTES]);
        model.image(id(2), content::SHARED, &[0; SHARED_BYTES]);
        model
    }

    fn deliver(model: &mut Model, id: PageId, bytes: &[u8]) -> Option<u64> {
        model.patch(id, 0, bytes);
        model.end_delta(id)
    }

    #[test]
    fn deltas_in_order_are_clean_and_give_the_bytes() {
        let mut model = model();
        let mut own = vec![0; OWN_BYTES];
        let mut shared = vec![0; SHARED_BYTES];
        for i in 1..=100u64 {
            next_own(&mut own, 0, i);
            assert_eq!(deliver(&mut model, id(1), &own), Some(i));
            next_shared(&mut shared, (i % 2) as usize, 2, i);
            deliver(&mut model, id(2), &shared);
        }
        assert!(model.faults().is_clean(), "{:?}", model.faults());
        assert_eq!(model.last()[..4], [100, 0, 50, 50]);
        assert_eq!(model.deltas(), 200);
        let own_page = model.pages().find(|(page, ..)| *page == id(1));
        assert_eq!(own_page, Some((id(1), "demo/writer/0", own.as_slice())));
    }

    #[test]
    fn a_lost_delta_is_a_hole_and_a_repeated_one_a_duplicate() {
        let mut model = model();
        let mut own = vec![0; OWN_BYTES];
        next_own(&mut own, 0, 1);
        deliver(&mut model, id(1), &own);
        deliver(&mut model, id(1), &own);
        next_own(&mut own, 0, 1);
        next_own(&mut own, 0, 1);
        next_own(&mut own, 0, 1);
        deliver(&mut model, id(1), &own);
        let faults = model.faults();
        assert_eq!((faults.holes, faults.duplicates, faults.torn), (2, 1, 0));
    }

    #[test]
    fn half_a_delta_tears_the_page_and_a_strange_one_is_foreign() {
        let mut model = model();
        let mut own = vec![0; OWN_BYTES];
        next_own(&mut own, 0, 1);
        model.patch(id(1), 0, &own[..24]);
        model.end_delta(id(1));
        assert_eq!(model.faults().torn, 1);
        model.patch(id(9), 0, &own);
        model.patch(id(1), OWN_BYTES, &[1]);
        assert_eq!(model.faults().foreign, 2);
    }

    #[test]
    fn every_page_has_a_part_and_every_stream_a_name() {
        let cast = Cast::new(3);
        for name in cast.pages() {
            assert!(cast.part(&name).is_some(), "{name}");
        }
        assert_eq!(cast.part("demo/writer/3"), None);
        assert_eq!(cast.part("other"), None);
        let names: std::collections::HashSet<String> =
            (0..cast.streams()).map(|s| cast.stream_name(s)).collect();
        assert_eq!(names.len(), cast.streams());
        assert!(!names.contains(""));
    }
}
