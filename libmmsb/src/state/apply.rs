//! What each kind of record does to a state. It mirrors what a live commit does to shared pages
//! (`mmsb-shm/src/commit/apply.rs`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mmsb_shm::layout::page::VERSIONS_MAX;
use mmsb_shm::wire::{self, Chunk, Item};
use mmsb_shm::{Cold, Delta, Kind, PageId};

use super::table::{INDEX_MAX, Shard, place};
use super::{PageMemory, PageShape, PageState, Source, State, StateError, memory};

pub(super) use mmsb_shm::layout::PAGE_BYTES_MAX;

/// Most bytes of swaps whose record did not come yet: a page of the greatest size, and as much for those behind it.
const PENDING_BYTES_MAX: u64 = 2 * PAGE_BYTES_MAX;

/// A piece of a block's body, kept as long as it is needed.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) body: Arc<Vec<u8>>,
    pub(super) at: usize,
    pub(super) len: usize,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        self.body
            .get(self.at..self.at + self.len)
            .unwrap_or_default()
    }
}

/// The content of a swap, as far as it came.
#[derive(Debug, Default)]
pub(super) struct Content {
    total: u64,
    found: u64,
    pieces: Vec<Piece>,
}

/// Contents whose record did not come yet, by its LSN.
#[derive(Debug, Default)]
pub(super) struct Pending {
    swaps: BTreeMap<u64, Content>,
    bytes: u64,
}

impl Pending {
    /// Keeps a chunk. One at offset 0 begins anew: a successor logs the content again, of whose record its predecessor
    /// got no further than that.
    pub(super) fn add(&mut self, chunk: &Chunk<'_>, piece: Piece) -> Result<(), StateError> {
        let bad = |what| StateError::Corrupt {
            lsn: chunk.lsn,
            what,
        };
        let content = self.swaps.entry(chunk.lsn).or_default();
        if chunk.offset == 0 {
            self.bytes -= content.found;
            *content = Content {
                total: chunk.total,
                ..Content::default()
            };
        }
        if chunk.offset != content.found || chunk.total != content.total {
            return Err(bad("order of the chunks of a swap"));
        }
        content.found += piece.len as u64;
        self.bytes += piece.len as u64;
        if content.found > content.total || self.bytes > PENDING_BYTES_MAX {
            return Err(bad("more content of swaps than there can be"));
        }
        content.pieces.push(piece);
        Ok(())
    }

    /// Takes the content of the swap at `lsn`; what belongs ahead of it is of no use any more.
    pub(super) fn take(&mut self, lsn: u64) -> Content {
        if self.swaps.is_empty() {
            return Content::default();
        }
        let behind = self.swaps.split_off(&(lsn + 1));
        let mut ahead = std::mem::replace(&mut self.swaps, behind);
        let content = ahead.remove(&lsn).unwrap_or_default();
        self.bytes = self.swaps.values().map(|c| c.found).sum();
        content
    }
}

/// What a record does to its page.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// Overwrites ranges.
    Bytes {
        kind: Kind,
        offset: u32,
        payload: &'a [u8],
    },
    /// Anything else.
    Rare(Rare),
}

/// What seldom happens, in memory of its own.
#[derive(Debug)]
pub(super) enum Rare {
    Swap(Content),
    Create {
        size: u32,
        versions: u32,
        cold: Cold,
    },
    Destroy,
    Describe(Cold),
}

/// What applying needs beside the shard of the page.
pub(super) struct Context<'m, M> {
    pub(super) memory: &'m Mutex<M>,
    pub(super) fuzzy_until: u64,
}

pub(super) fn boxed(cold: Cold) -> Option<Box<Cold>> {
    (!cold.is_empty() || cold.schema_hash != 0).then(|| Box::new(cold))
}

/// What a delta does to a page; `None`: it is about no page.
pub(super) fn step_of<'a>(
    delta: &Delta<'a>,
    pending: &mut Pending,
) -> Result<Option<Step<'a>>, StateError> {
    let bad = |what| StateError::Corrupt {
        lsn: delta.lsn,
        what,
    };
    Ok(Some(match delta.kind {
        Kind::Patch | Kind::Ranges | Kind::Masked => Step::Bytes {
            kind: delta.kind,
            offset: delta.offset,
            payload: delta.payload,
        },
        Kind::Swap => Step::Rare(Rare::Swap(pending.take(delta.lsn))),
        Kind::Create => {
            let (size, versions) = delta.created_size().ok_or(bad("creation of a page"))?;
            Step::Rare(Rare::Create {
                size,
                versions,
                cold: delta.cold().ok_or(bad("description of a page"))?,
            })
        }
        Kind::Destroy => Step::Rare(Rare::Destroy),
        Kind::Describe => Step::Rare(Rare::Describe(
            delta.cold().ok_or(bad("description of a page"))?,
        )),
        Kind::Source | Kind::Mark => return Ok(None),
        _ => return Err(bad("kind of a record")),
    }))
}

/// Number and name that a source record gives.
pub(super) fn source_of(delta: &Delta<'_>) -> Result<(u16, Source), StateError> {
    let bad = StateError::Corrupt {
        lsn: delta.lsn,
        what: "name of a source",
    };
    let (Some(id), Some(name)) = (
        delta
            .payload
            .first_chunk()
            .map(|id| u32::from_le_bytes(*id))
            .and_then(|id| u16::try_from(id).ok()),
        delta
            .payload
            .get(8..)
            .and_then(|n| std::str::from_utf8(n).ok()),
    ) else {
        return Err(bad);
    };
    if name.len() > mmsb_shm::layout::SOURCE_BYTES_MAX {
        return Err(bad);
    }
    let source = Source {
        name: name.to_owned(),
        since_ns: delta.time_ns,
    };
    Ok((id, source))
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Shard<B> {
    /// Applies what the record at `lsn` does to the page `id`, which belongs into this shard.
    #[inline]
    pub(super) fn apply<M: PageMemory<Bytes = B>>(
        &mut self,
        context: &Context<'_, M>,
        lsn: u64,
        id: PageId,
        step: Step<'_>,
    ) -> Result<(), StateError> {
        match step {
            Step::Bytes {
                kind,
                offset,
                payload,
            } => {
                let Some(page) = self.find(context.fuzzy_until, lsn, id)? else {
                    return Ok(());
                };
                overwrite(page, lsn, kind, offset, payload)
            }
            Step::Rare(rare) => self.apply_rare(context, lsn, id, rare),
        }
    }

    /// The page of a record that is to be applied. `None`: the images, or the table of free numbers, were taken behind
    /// the record, and say that the page went.
    #[inline]
    fn find(
        &mut self,
        fuzzy_until: u64,
        lsn: u64,
        id: PageId,
    ) -> Result<Option<&mut PageState<B>>, StateError> {
        let missing = StateError::NoPage { lsn, page: id };
        let Some(slot) = self.get_mut(place(id.index).1) else {
            return Err(missing);
        };
        match &mut slot.page {
            Some(page) if page.id == id => Ok(Some(page)),
            _ if slot.generation >= id.generation && lsn < fuzzy_until => Ok(None),
            _ => Err(missing),
        }
    }

    #[cold]
    fn apply_rare<M: PageMemory<Bytes = B>>(
        &mut self,
        context: &Context<'_, M>,
        lsn: u64,
        id: PageId,
        rare: Rare,
    ) -> Result<(), StateError> {
        let bad = |what| StateError::Corrupt { lsn, what };
        if let Rare::Create {
            size,
            versions,
            cold,
        } = rare
        {
            if id.index >= INDEX_MAX || id.generation == 0 {
                return Err(bad("id of a new page"));
            }
            if size == 0 || u64::from(size) > PAGE_BYTES_MAX || versions > VERSIONS_MAX {
                return Err(bad("size of a new page"));
            }
            let slot = self.get_or_make(place(id.index).1);
            if slot.generation >= id.generation {
                return if lsn < context.fuzzy_until {
                    Ok(())
                } else {
                    Err(bad("creation of a page that was there before"))
                };
            }
            if slot.page.is_some() {
                return Err(bad("creation of a page whose number is taken"));
            }
            let bytes = memory::take(context.memory, id, size, versions)?;
            slot.generation = id.generation;
            slot.page = Some(PageState {
                id,
                versions,
                epoch: 0,
                lsn,
                cold: boxed(cold),
                bytes,
            });
            return Ok(());
        }
        let Some(page) = self.find(context.fuzzy_until, lsn, id)? else {
            return Ok(());
        };
        match rare {
            Rare::Swap(content) if lsn > page.lsn => {
                let bytes = page.bytes.as_mut();
                if content.found != bytes.len() as u64 || content.total != content.found {
                    return Err(StateError::NoContent {
                        lsn,
                        page: id,
                        found: content.found,
                        size: bytes.len() as u32,
                    });
                }
                let mut rest = bytes;
                for piece in &content.pieces {
                    let (target, behind) = rest.split_at_mut(piece.bytes().len().min(rest.len()));
                    target.copy_from_slice(&piece.bytes()[..target.len()]);
                    rest = behind;
                }
                page.epoch = page.epoch.wrapping_add(1);
                page.lsn = lsn;
            }
            Rare::Describe(cold) => page.cold = boxed(cold),
            Rare::Destroy => {
                if let Some(slot) = self.get_mut(place(id.index).1)
                    && let Some(page) = slot.page.take()
                {
                    context
                        .memory
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .give_back(id, page.bytes);
                }
            }
            Rare::Swap(_) | Rare::Create { .. } => {}
        }
        Ok(())
    }
}

/// Applies a record with ranges to its page, unless an image holds it.
#[inline]
fn overwrite<B: AsRef<[u8]> + AsMut<[u8]>>(
    page: &mut PageState<B>,
    lsn: u64,
    kind: Kind,
    offset: u32,
    payload: &[u8],
) -> Result<(), StateError> {
    if lsn <= page.lsn {
        return Ok(());
    }
    let bytes = page.bytes.as_mut();
    let bad = StateError::BadRange {
        lsn,
        page: page.id,
        size: bytes.len() as u32,
    };
    let start = offset as usize;
    if kind == Kind::Patch {
        match bytes.get_mut(start..start.saturating_add(payload.len())) {
            Some(target) => target.copy_from_slice(payload),
            None => return Err(bad),
        }
    } else {
        let size = bytes.len() as u64;
        let all = |f: &mut dyn FnMut(usize, &[u8])| {
            wire::for_each_range(kind, offset, payload, size, |at, part| f(at, part))
        };
        all(&mut |_, _| {}).ok_or(bad)?;
        // Checked by the first pass.
        all(&mut |at, part| bytes[at..at + part.len()].copy_from_slice(part));
    }
    page.epoch = page.epoch.wrapping_add(1);
    page.lsn = lsn;
    Ok(())
}

impl<M: PageMemory> State<M> {
    /// Applies one record, or keeps a chunk of a swap for its record. What is ahead of [`State::lsn`] is in already and
    /// is skipped, so applying twice is applying once.
    ///
    /// # Errors
    /// All but [`StateError::Gap`] and [`StateError::Log`]. The page of the record is unchanged then.
    pub fn apply(&mut self, item: &Item<'_>) -> Result<(), StateError> {
        let delta = match item {
            Item::Chunk(chunk) if chunk.lsn < self.next => return Ok(()),
            Item::Chunk(chunk) => {
                let piece = Piece {
                    body: Arc::new(chunk.bytes.to_vec()),
                    at: 0,
                    len: chunk.bytes.len(),
                };
                return self.pending.add(chunk, piece);
            }
            Item::Delta(delta) => delta,
        };
        if delta.lsn < self.next {
            return Ok(());
        }
        self.records += 1;
        match step_of(delta, &mut self.pending)? {
            Some(step) => {
                let context = Context {
                    memory: &self.memory,
                    fuzzy_until: self.fuzzy_until,
                };
                let shard = &mut self.shards[place(delta.page.index).0];
                shard.apply(&context, delta.lsn, delta.page, step)?;
            }
            None if delta.kind == Kind::Source => {
                let (id, source) = source_of(delta)?;
                self.sources.entry(id).or_insert(source);
            }
            None => {}
        }
        self.time_ns = self.time_ns.max(delta.time_ns);
        self.next = delta.lsn + 1;
        Ok(())
    }
}

impl<M: PageMemory> State<M> {
    /// A record of a page that is not kept: what was gathered for it is of no use.
    pub(crate) fn forget_contents_to(&mut self, delta: &Delta<'_>) {
        if delta.kind == Kind::Swap {
            self.pending.take(delta.lsn);
        }
        self.time_ns = self.time_ns.max(delta.time_ns);
    }
}

impl<B> PageState<B> {
    /// Id, version slots, epoch and LSN.
    pub fn shape(&self) -> PageShape {
        PageShape {
            id: self.id,
            versions: self.versions,
            epoch: self.epoch,
            lsn: self.lsn,
        }
    }
}
