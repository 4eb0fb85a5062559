//! The records of a log that name something, remembered: the names at an LSN follow from them, and finding them takes
//! reading all the log there is up to that.

use std::ops::Range;
use std::sync::Arc;

use mmsb_shm::wire::Item;
use mmsb_shm::{Cold, Delta, Kind, PageId};

use super::records::visit;
use super::{HistoryError, Log};
use crate::tlog::{Begin, Block, Survey};

/// Bytes of names that are remembered at most. What stands behind is read anew for each question.
const BYTES_MAX: usize = 32 << 20;

/// What a record does to a name.
#[derive(Debug, Clone)]
pub(super) enum Naming {
    /// A page was created, or described anew. Empty: it has none.
    Page {
        id: PageId,
        name: Arc<str>,
        schema: Arc<[u8]>,
    },
    /// A page was destroyed.
    Gone(PageId),
    /// A source got its number.
    Source(u16, Arc<str>),
}

impl Naming {
    /// Whether records of a kind name something.
    pub fn is_in(kind: Kind) -> bool {
        use Kind::{Create, Describe, Destroy, Source};
        matches!(kind, Create | Describe | Destroy | Source)
    }

    pub fn of(delta: &Delta<'_>) -> Option<Naming> {
        match delta.kind {
            Kind::Create | Kind::Describe => Some(Naming::page(delta.page, &delta.cold()?)),
            Kind::Destroy => Some(Naming::Gone(delta.page)),
            Kind::Source => {
                let id = u32::from_le_bytes(*delta.payload.first_chunk()?);
                let name = std::str::from_utf8(delta.payload.get(8..)?).ok()?;
                Some(Naming::Source(u16::try_from(id).ok()?, name.into()))
            }
            _ => None,
        }
    }

    pub fn page(id: PageId, cold: &Cold) -> Naming {
        Naming::Page {
            id,
            name: cold.name.as_str().into(),
            schema: cold.schema.as_slice().into(),
        }
    }

    /// The page that it is about; `None`: it is about a source.
    pub fn page_id(&self) -> Option<PageId> {
        match self {
            Naming::Page { id, .. } | Naming::Gone(id) => Some(*id),
            Naming::Source(..) => None,
        }
    }

    fn bytes(&self) -> usize {
        size_of::<(u64, Naming)>()
            + match self {
                Naming::Page { name, schema, .. } => 32 + name.len() + schema.len(),
                Naming::Gone(_) => 0,
                Naming::Source(_, name) => 16 + name.len(),
            }
    }
}

/// What was read of a block.
struct Read {
    /// Nonce and first LSN of its file.
    file: (u64, u64),
    lsns: Range<u64>,
    found: Vec<(u64, Naming)>,
}

/// All that name something in a range of the log.
#[derive(Debug, Default)]
pub(super) struct Namings {
    /// By LSN.
    found: Vec<(u64, Naming)>,
    from: u64,
    to: u64,
    /// Nonce and first LSN of the files that were read, oldest first.
    files: Vec<(u64, u64)>,
    bytes: usize,
}

impl Namings {
    /// Forgets what is no longer in the log, which a repair may have cut, or a new incarnation or another writer continued
    /// from somewhere ahead of its end. What retention removed stays true.
    fn check(&mut self, found: &Survey) {
        let mut to = self.to.min(found.end.lsn);
        for (id, first_lsn) in &self.files {
            if *first_lsn >= found.first_lsn && !found.file_ids.contains(id) {
                to = to.min(*first_lsn);
            }
        }
        for (id, file) in found.file_ids.iter().zip(&found.files) {
            if file.end_lsn > self.from && !self.files.iter().any(|(known, _)| known == id) {
                to = to.min(file.first_lsn);
            }
        }
        self.cut(to);
    }

    fn cut(&mut self, to: u64) {
        if to >= self.to {
            return;
        }
        if to < self.from {
            *self = Namings::default();
            return;
        }
        self.to = to;
        self.found
            .truncate(self.found.partition_point(|(lsn, _)| *lsn < to));
        self.files.retain(|(_, first_lsn)| *first_lsn < to);
        self.bytes = self.found.iter().map(|(_, naming)| naming.bytes()).sum();
    }

    /// Takes what a block says. `false`: that was as much as is remembered.
    fn add(&mut self, read: Read) -> bool {
        // A block that begins ahead of what was read is of another writer, who went on from there.
        self.cut(read.lsns.start.max(self.from));
        if !self.files.contains(&read.file) {
            self.files.push(read.file);
        }
        for (lsn, naming) in read.found {
            if lsn >= self.to {
                self.bytes += naming.bytes();
                self.found.push((lsn, naming));
            }
        }
        self.to = self.to.max(read.lsns.end);
        !self.is_full()
    }

    fn is_full(&self) -> bool {
        self.bytes >= BYTES_MAX
    }

    fn each(&self, lsns: &Range<u64>, f: &mut dyn FnMut(u64, &Naming)) {
        let at = |end: u64| self.found.partition_point(|(lsn, _)| *lsn < end);
        for (lsn, naming) in &self.found[at(lsns.start)..at(lsns.end.max(lsns.start))] {
            f(*lsn, naming);
        }
    }
}

impl Log {
    /// Calls `f` for what the records at `lsns` name, in order, of a log that was surveyed just now.
    pub(super) fn namings(
        &self,
        found: &Survey,
        lsns: Range<u64>,
        f: &mut dyn FnMut(u64, &Naming),
    ) -> Result<(), HistoryError> {
        let mut known = self.memory.namings();
        known.check(found);
        // Behind as much as can be remembered, there is nothing to be gained by forgetting that.
        if lsns.start < known.from || (lsns.start > known.to && !known.is_full()) {
            *known = Namings {
                from: lsns.start,
                to: lsns.start,
                ..Namings::default()
            };
        }
        if known.to < lsns.end && !known.is_full() {
            self.read_namings(known.to..lsns.end, &mut |read| Ok(known.add(read)))?;
        }
        let to = known.to.clamp(lsns.start, lsns.end.max(lsns.start));
        known.each(&(lsns.start..to), f);
        let is_full = known.is_full();
        drop(known);
        if is_full && to < lsns.end {
            self.read_namings(to..lsns.end, &mut |read| {
                let inside = |lsn: &u64| *lsn >= to && *lsn < lsns.end;
                for (lsn, naming) in read.found.iter().filter(|(lsn, _)| inside(lsn)) {
                    f(*lsn, naming);
                }
                Ok(true)
            })?;
        }
        Ok(())
    }

    /// Reads the blocks that hold `lsns`, until `f` wants no more.
    fn read_namings(
        &self,
        lsns: Range<u64>,
        f: &mut dyn FnMut(Read) -> Result<bool, HistoryError>,
    ) -> Result<(), HistoryError> {
        // What a page holds does not matter here.
        let mut blocks = self.reader_from(lsns.start, 0, Begin::Block)?;
        let mut block = Block::default();
        while blocks.lsn() < lsns.end && blocks.next_into(&mut block)? {
            let mut read = Read {
                file: blocks.header().map_or((0, 0), |h| (h.file_id, h.first_lsn)),
                lsns: block.first_lsn..block.end_lsn,
                found: Vec::new(),
            };
            let wanted = |_, kind, _| Naming::is_in(kind);
            visit(&mut block, wanted, &mut |item| {
                if let Item::Delta(delta) = item
                    && let Some(naming) = Naming::of(&delta)
                {
                    read.found.push((delta.lsn, naming));
                }
                Ok(())
            })?;
            if !f(read)? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::tlog::{LogEnd, LogFile};

    fn survey(files: &[(u64, u64, u64)]) -> Survey {
        Survey {
            meta: None,
            files: files
                .iter()
                .map(|(_, first_lsn, end_lsn)| LogFile {
                    path: PathBuf::new(),
                    first_lsn: *first_lsn,
                    end_lsn: *end_lsn,
                    bytes: 0,
                    incarnation: 1,
                    compressed: false,
                })
                .collect(),
            file_ids: files.iter().map(|(id, ..)| *id).collect(),
            given_up: Vec::new(),
            leftovers: Vec::new(),
            kept_aside: Vec::new(),
            first_lsn: files[0].1,
            end: LogEnd {
                lsn: files[files.len() - 1].2,
                sealed: true,
                torn: None,
            },
            fault: None,
        }
    }

    fn read(file: (u64, u64), lsns: Range<u64>) -> Read {
        let id = PageId {
            index: 1,
            generation: 1,
        };
        Read {
            file,
            found: lsns.clone().map(|lsn| (lsn, Naming::Gone(id))).collect(),
            lsns,
        }
    }

    fn known() -> Namings {
        let mut known = Namings {
            from: 15,
            to: 15,
            ..Namings::default()
        };
        for (file, lsns) in [((1, 10), 10..20), ((2, 20), 20..30), ((3, 30), 30..40)] {
            assert!(known.add(read(file, lsns)));
        }
        known
    }

    fn lsns(known: &Namings) -> Vec<u64> {
        known.found.iter().map(|(lsn, _)| *lsn).collect()
    }

    #[test]
    fn what_stays_in_the_log_or_left_it_by_retention_stays_known() {
        let mut known = known();
        assert_eq!(lsns(&known), (15..40).collect::<Vec<_>>());
        known.check(&survey(&[
            (9, 5, 10),
            (1, 10, 20),
            (2, 20, 30),
            (3, 30, 55),
            (4, 55, 60),
        ]));
        assert_eq!((known.from, known.to), (15, 40));
        known.check(&survey(&[(3, 30, 55), (4, 55, 60)]));
        assert_eq!((known.from, known.to), (15, 40));
        assert_eq!(lsns(&known).len(), 25);
    }

    #[test]
    fn what_another_writer_wrote_instead_is_not_taken_for_known() {
        let mut cut = known();
        cut.check(&survey(&[(1, 10, 20), (2, 20, 25), (7, 25, 50)]));
        assert_eq!((cut.to, lsns(&cut).len()), (25, 10));
        // The end was cut off, and nothing has come in its place yet.
        let mut cut = known();
        cut.check(&survey(&[(1, 10, 20), (2, 20, 30), (3, 30, 33)]));
        assert_eq!((cut.to, lsns(&cut).len()), (33, 18));
        // Under the name of the one before.
        let mut cut = known();
        cut.check(&survey(&[(1, 10, 20), (7, 20, 50)]));
        assert_eq!((cut.to, lsns(&cut).len()), (20, 5));
        let mut cut = known();
        cut.check(&survey(&[(8, 10, 50)]));
        assert_eq!((cut.from, cut.to, cut.found.len()), (0, 0, 0));
        // While it is being read.
        let mut repeated = known();
        assert!(repeated.add(read((7, 35), 35..37)));
        assert_eq!(repeated.to, 37);
        assert_eq!(lsns(&repeated), (15..37).collect::<Vec<_>>());
        assert!(repeated.files.contains(&(3, 30)) && repeated.files.contains(&(7, 35)));
    }
}
