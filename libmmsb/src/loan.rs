//! Large values without copies: loans to fill, views to look at.

use bytemuck::AnyBitPattern;
use mmsb_shm::{PageVersion, PinnedView};

use crate::Bus;
use crate::error::Result;

/// A block to fill, and then to make the content of its page; from [`Page::loan`](crate::Page::loan).
///
/// It derefs to the bytes of the page to be. Dropping it gives the block back unpublished; so does a crash.
#[derive(Debug)]
pub struct Loan<'p> {
    bus: &'p Bus,
    inner: mmsb_shm::Loan<'p>,
}

impl<'p> Loan<'p> {
    pub(crate) fn new(bus: &'p Bus, inner: mmsb_shm::Loan<'p>) -> Loan<'p> {
        Loan { bus, inner }
    }

    /// Makes the block the content of its page: one delta, whatever the size. Returns the LSN.
    ///
    /// # Errors
    /// As [`Page::patch`](crate::Page::patch). The content of the loan is lost then.
    pub fn publish(self) -> Result<u64> {
        self.publish_caused(0)
    }

    /// As [`Loan::publish`], with the LSN of the delta that led to this one.
    ///
    /// # Errors
    /// As [`Loan::publish`].
    pub fn publish_caused(self, cause: u64) -> Result<u64> {
        let lsn = self.inner.publish(cause)?.last;
        self.bus.settle(lsn)
    }
}

impl std::ops::Deref for Loan<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.inner
    }
}

impl std::ops::DerefMut for Loan<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.inner
    }
}

/// A published loan, looked at in place; from [`Page::view`](crate::Page::view).
///
/// The block stays as it is while the view lives; the page may move on. A view costs no copy and keeps no writer
/// waiting, only its own block from being reused.
#[derive(Debug)]
pub struct View<'p> {
    inner: PinnedView<'p>,
}

impl<'p> View<'p> {
    pub(crate) fn new(inner: PinnedView<'p>) -> View<'p> {
        View { inner }
    }

    /// Which state of the page it is.
    pub fn version(&self) -> PageVersion {
        self.inner.version()
    }

    /// The bytes as values, in place. `None` if the length is no multiple of the size of `T`, or if `T` needs a greater
    /// alignment than blocks have (32 bytes).
    pub fn values<T: AnyBitPattern>(&self) -> Option<&[T]> {
        bytemuck::try_cast_slice(&self.inner).ok()
    }
}

impl std::ops::Deref for View<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.inner
    }
}
