//! Where the bytes of pages are.

use std::sync::{Mutex, PoisonError};

use mmsb_shm::PageId;

use super::StateError;

/// Why there is no memory for a page.
pub type MemoryError = Box<dyn std::error::Error + Send + Sync>;

/// Gives a [`State`](super::State) memory for the bytes of its pages.
pub trait PageMemory: Send {
    /// The bytes of one page, exclusively the state's until it gives them back.
    type Bytes: AsRef<[u8]> + AsMut<[u8]> + Send + Sync;

    /// Memory of `size` bytes for a page, **all zero**. It comes from the log or a checkpoint, so `size` (1 byte to
    /// 1 GiB) is plausible, but may be more than there is. For a cell this is its current version; the other slots are
    /// the memory's own business.
    ///
    /// # Errors
    /// Whatever it is that keeps the page from being made; replay ends then.
    fn take(&mut self, id: PageId, size: u32, versions: u32) -> Result<Self::Bytes, MemoryError>;

    /// The page was destroyed.
    fn give_back(&mut self, id: PageId, bytes: Self::Bytes) {
        let _ = (id, bytes);
    }
}

/// Private memory.
#[derive(Debug, Clone)]
pub struct Heap {
    limit: u64,
    used: u64,
}

impl Default for Heap {
    /// Without a limit.
    fn default() -> Heap {
        Heap::with_limit(u64::MAX)
    }
}

impl Heap {
    /// At most `limit` bytes of pages at one time.
    pub fn with_limit(limit: u64) -> Heap {
        Heap { limit, used: 0 }
    }

    /// Bytes of pages that are taken.
    pub fn used(&self) -> u64 {
        self.used
    }
}

impl PageMemory for Heap {
    type Bytes = Box<[u8]>;

    fn take(&mut self, _: PageId, size: u32, _: u32) -> Result<Box<[u8]>, MemoryError> {
        let used = self.used + u64::from(size);
        if used > self.limit {
            return Err(format!("the limit is {} bytes of pages", self.limit).into());
        }
        self.used = used;
        // Untouched pages of a large allocation cost nothing yet.
        Ok(vec![0; size as usize].into_boxed_slice())
    }

    fn give_back(&mut self, _: PageId, bytes: Box<[u8]>) {
        self.used = self.used.saturating_sub(bytes.len() as u64);
    }
}

/// Takes memory, and looks at what was given.
pub(super) fn take<M: PageMemory>(
    memory: &Mutex<M>,
    id: PageId,
    size: u32,
    versions: u32,
) -> Result<M::Bytes, StateError> {
    let no = |source| StateError::Memory {
        page: id,
        size,
        source,
    };
    let bytes = memory
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take(id, size, versions)
        .map_err(no)?;
    if bytes.as_ref().len() != size as usize {
        return Err(no(format!(
            "{} bytes were given instead",
            bytes.as_ref().len()
        )
        .into()));
    }
    Ok(bytes)
}
