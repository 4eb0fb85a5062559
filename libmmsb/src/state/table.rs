//! Pages by index, in shards, so that threads can work on different pages without meeting.

use super::{PageState, SHARDS};

/// No page has this index or a greater one (the directory of a bus has at most 2^28 entries).
pub(super) const INDEX_MAX: u32 = 1 << 28;

/// Slots of a piece of the table. A forged index costs one piece, and not a table up to it.
const PIECE: usize = 256;

/// A page number.
#[derive(Debug)]
pub(super) struct Slot<B> {
    /// Of the page, or of the last one that had the number. 0: never used.
    pub(super) generation: u32,
    pub(super) page: Option<PageState<B>>,
}

/// The pages whose index has the same remainder.
#[derive(Debug)]
pub(super) struct Shard<B> {
    pieces: Vec<Option<Box<[Slot<B>]>>>,
}

impl<B> Default for Shard<B> {
    fn default() -> Shard<B> {
        Shard { pieces: Vec::new() }
    }
}

/// Shard of a page index, and its place there.
#[inline(always)]
pub(super) fn place(index: u32) -> (usize, usize) {
    (index as usize % SHARDS, index as usize / SHARDS)
}

/// The reverse.
pub(super) fn index(shard: usize, at: usize) -> u32 {
    (at * SHARDS + shard) as u32
}

impl<B> Shard<B> {
    #[inline(always)]
    pub(super) fn get(&self, at: usize) -> Option<&Slot<B>> {
        self.pieces.get(at / PIECE)?.as_ref()?.get(at % PIECE)
    }

    #[inline(always)]
    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Slot<B>> {
        self.pieces
            .get_mut(at / PIECE)?
            .as_mut()?
            .get_mut(at % PIECE)
    }

    /// The caller checked the index against [`INDEX_MAX`].
    pub(super) fn get_or_make(&mut self, at: usize) -> &mut Slot<B> {
        let piece = at / PIECE;
        if self.pieces.len() <= piece {
            self.pieces.resize_with(piece + 1, || None);
        }
        let slots = self.pieces[piece].get_or_insert_with(|| {
            (0..PIECE)
                .map(|_| Slot {
                    generation: 0,
                    page: None,
                })
                .collect()
        });
        &mut slots[at % PIECE]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Slot<B>)> {
        self.pieces
            .iter()
            .enumerate()
            .filter_map(|(i, piece)| Some((i, piece.as_ref()?)))
            .flat_map(|(i, piece)| {
                piece
                    .iter()
                    .enumerate()
                    .map(move |(j, slot)| (i * PIECE + j, slot))
            })
    }

    pub(super) fn into_slots(self) -> impl Iterator<Item = Slot<B>> {
        self.pieces.into_iter().flatten().flatten()
    }
}
