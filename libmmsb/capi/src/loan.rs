//! Large values without copies, and pages that are kept for long.

use bus::{Lease, Loan, Page, View};

use crate::args::{give, out};
use crate::attach::BusObject;
use crate::handle::{self, Kind, Object};
use crate::info::mmsb_page_version;
use crate::many::{close_child_of_bus, orphan};
use crate::page::{PageObject, mmsb_page};
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};

/// A fresh block for the next content of a page, to be filled in place. `{0}` is none. It ends with its publication, or
/// with its bus, and belongs to the same thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_loan {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

/// A published loan that is looked at in place. `{0}` is none. It ends with its bus, and belongs to the same thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_view {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

/// A page that is kept for many writes. `{0}` is none. It ends with its bus, and belongs to the same thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_lease {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

/// Something of a page that lives on when the page's handle is closed: it has a page of its own.
pub(crate) struct OfPage<T> {
    /// Dropped first: it borrows from `page`.
    thing: Option<T>,
    page: *mut Page<'static>,
}

impl<T> Drop for OfPage<T> {
    fn drop(&mut self) {
        self.thing = None;
        // SAFETY: `of_page` leaked it, and what borrowed from it is gone.
        drop(unsafe { Box::from_raw(self.page) });
    }
}

pub(crate) struct LoanObject(OfPage<Loan<'static>>);
pub(crate) struct ViewObject(#[allow(dead_code)] OfPage<View<'static>>);
pub(crate) struct LeaseObject(#[allow(dead_code)] OfPage<Lease<'static>>);

impl Object for LoanObject {
    const KIND: Kind = Kind::Loan;
}

impl Object for ViewObject {
    const KIND: Kind = Kind::View;
}

impl Object for LeaseObject {
    const KIND: Kind = Kind::Lease;
}

fn of_page<T>(
    root: &BusObject,
    page: &PageObject,
    make: impl FnOnce(&'static Page<'static>) -> Result<T, bus::Error>,
) -> Result<OfPage<T>, Fault> {
    page.own()?;
    let page = Box::into_raw(Box::new(root.bus()?.page_by_id(page.id())?));
    let mut of = OfPage { thing: None, page };
    // SAFETY: it stays where it is until `of` is dropped, which drops the borrower first.
    of.thing = Some(make(unsafe { &*page })?);
    Ok(of)
}

/// Opens something of a page as a child of its bus.
fn open<T: Object>(
    page: mmsb_page,
    make: impl FnOnce(&BusObject, &PageObject) -> Result<T, Fault>,
) -> Result<(u64, handle::Held<PageObject>), Fault> {
    let (held, root) = handle::with_root::<PageObject, BusObject>(page.handle)?;
    let object = make(root, &held)?;
    let handle = root.adopt_of(page.handle, Box::new(object))?;
    Ok((handle, held))
}

/// Begins a new content of a page: `data` gets a block of the page's size to fill, in shared memory, not yet visible to
/// anybody. Its bytes are undefined until they are written.
///
/// The thread of its bus. `MMSB_FULL`, `MMSB_TOO_MANY_HELD`, `MMSB_READ_ONLY`, `MMSB_PAGE_GONE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_loan_begin(
    page: mmsb_page,
    loan: *mut mmsb_loan,
    data: *mut *mut u8,
    size: *mut usize,
) -> mmsb_status {
    call(|| {
        let (loan, data) = (out(loan, "loan")?, out(data, "data")?);
        let mut block = (std::ptr::null_mut(), 0);
        let (handle, _held) = open(page, |root, page| {
            let mut of = of_page(root, page, |page| page.loan())?;
            if let Some(loan) = &mut of.thing {
                block = (loan.as_mut_ptr(), loan.len());
            }
            Ok(LoanObject(of))
        })?;
        // SAFETY: checked above, and by the caller.
        unsafe {
            loan.write(mmsb_loan { handle });
            data.write(block.0);
            give(size, block.1);
        }
        Ok(MMSB_OK)
    })
}

/// Makes the block the page's content, without a copy. The handle is stale afterwards whatever is returned, and the
/// block must not be written any more. `cause`: LSN of the delta that caused it, or 0. `lsn` may be null.
///
/// The thread of its bus. `MMSB_PAGE_GONE`; as `mmsb_page_write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_loan_publish(
    loan: mmsb_loan,
    cause: u64,
    lsn: *mut u64,
) -> mmsb_status {
    call(|| {
        let (mut object, freed) = orphan(handle::close::<LoanObject>(loan.handle)?, loan.handle);
        let done = object.0.thing.take().map(|loan| loan.publish_caused(cause));
        drop(object);
        drop(freed);
        let done = done.ok_or_else(Fault::bug)??;
        // SAFETY: by the caller.
        unsafe { give(lsn, done) };
        Ok(MMSB_OK)
    })
}

/// Gives the block back; the page stays as it is.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_loan_abandon(loan: mmsb_loan) -> mmsb_status {
    call(|| close_child_of_bus::<LoanObject>(loan.handle))
}

/// Looks at a page's published loan in place: `data` gets bytes that do not change until the view is closed, even if
/// the page moves on.
///
/// The thread of its bus. `MMSB_NOT_LOANED` (copy it instead), `MMSB_TOO_MANY_HELD`, `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_view_open(
    page: mmsb_page,
    view: *mut mmsb_view,
    data: *mut *const u8,
    size: *mut usize,
    version: *mut mmsb_page_version,
) -> mmsb_status {
    call(|| {
        let (view, data) = (out(view, "view")?, out(data, "data")?);
        let mut seen = (std::ptr::null(), 0, mmsb_page_version::default());
        let (handle, _held) = open(page, |root, page| {
            let of = of_page(root, page, |page| page.view())?;
            if let Some(view) = &of.thing {
                seen = (view.as_ptr(), view.len(), view.version().into());
            }
            Ok(ViewObject(of))
        })?;
        // SAFETY: checked above, and by the caller.
        unsafe {
            view.write(mmsb_view { handle });
            data.write(seen.0);
            give(size, seen.1);
            give(version, seen.2);
        }
        Ok(MMSB_OK)
    })
}

/// Ends a view; its bytes must not be read any more.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_view_close(view: mmsb_view) -> mmsb_status {
    call(|| close_child_of_bus::<ViewObject>(view.handle))
}

/// Keeps a page for many writes of this participant, which are quicker as long as the lease is open. Another writer may
/// ask for the page; it is handed over between two writes, and taken again by the next one.
///
/// The thread of its bus. `MMSB_TIMEOUT`, `MMSB_TOO_MANY_HELD`, `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_lease_open(page: mmsb_page, lease: *mut mmsb_lease) -> mmsb_status {
    call(|| {
        let place = out(lease, "lease")?;
        let (handle, _held) = open(page, |root, page| {
            Ok(LeaseObject(of_page(root, page, |page| page.lease())?))
        })?;
        // SAFETY: checked above.
        unsafe { place.write(mmsb_lease { handle }) };
        Ok(MMSB_OK)
    })
}

/// Ends a lease.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_lease_close(lease: mmsb_lease) -> mmsb_status {
    call(|| close_child_of_bus::<LeaseObject>(lease.handle))
}
