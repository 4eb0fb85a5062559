//! A new state computed from the old one.

use super::{Attempt, Change, Options, Receipt};
use crate::error::PageError;
use crate::page::{PageRef, cell_current};
use crate::participant::Participant;

impl Participant {
    /// A new state computed from the old one: `f` gets a copy of the page and changes it; the ranges that differ are
    /// committed as one sparse delta. The page is owned meanwhile, so nothing comes in between. If `f` panics or the
    /// page did not change, nothing is committed (`None`). `f` runs again when the ring was full and the page had to be
    /// let go.
    pub fn update<R>(
        &self,
        page: &PageRef,
        cause: u64,
        mut f: impl FnMut(&mut [u8]) -> R,
    ) -> Result<(R, Option<Receipt>), PageError> {
        self.check_fork()?;
        self.core.pages.check_own(page)?;
        let _inside = self.operation();
        let index = page.id().index;
        loop {
            let locked = self.lock_pages(&[index])?;
            self.core.pages.ensure_fresh(page)?;
            let mut old = vec![0u8; page.size()];
            let block = page.block();
            let source = if page.versions() > 1 {
                cell_current(&block, page.size() as u32, page.versions(), 0).3
            } else {
                block.payload
            };
            // SAFETY: the page's bytes lie in its checked block; we own it, so nobody writes.
            unsafe {
                self.core
                    .pages
                    .copy_out(old.as_mut_ptr(), source, page.size())?
            };
            let mut new = old.clone();
            let result = f(&mut new);
            let mut ranges = Vec::new();
            crate::diff::changed_ranges(&old, &new, 8, &mut ranges);
            let bytes: Vec<u8>;
            let change = match ranges.as_slice() {
                [] => return Ok((result, None)),
                [(offset, len)] => {
                    let at = *offset as usize;
                    Change::Patch {
                        page,
                        offset: *offset,
                        bytes: &new[at..at + *len as usize],
                    }
                }
                _ => {
                    bytes = ranges
                        .iter()
                        .flat_map(|(o, l)| &new[*o as usize..(*o + *l) as usize])
                        .copied()
                        .collect();
                    Change::Ranges {
                        page,
                        ranges: &ranges,
                        bytes: &bytes,
                    }
                }
            };
            let attempt = match self.commit_locked(
                &[change],
                &Options {
                    cause,
                    transaction: false,
                },
            ) {
                Err(PageError::DeltaTooLarge { .. }) if page.versions() == 1 => self
                    .prepare_block(page, 0, &new)
                    .and_then(|held| self.publish_block(page, held, cause)),
                other => other,
            };
            drop(locked);
            match attempt? {
                Attempt::Done(receipt, bytes) => {
                    self.finish(1, bytes);
                    self.ring_bell(crate::doorbell::bit(index));
                    return Ok((result, Some(receipt)));
                }
                Attempt::Full(slots) => self.wait_for_room(slots)?,
            }
        }
    }
}
