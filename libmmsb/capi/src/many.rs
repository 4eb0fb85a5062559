//! Many pages at once: batches, transactions, snapshots. And how children of a bus end.

use bus::{Page, PageId, Transaction};

use crate::args::{self, array, bytes, give, out};
use crate::attach::{BusObject, Side, enter, mmsb_bus};
use crate::handle::{self, Closed, Freed, Held, Kind, Object, beside, held};
use crate::info::{mmsb_page_id, mmsb_range, mmsb_receipt};
use crate::list::{Items, mmsb_list, open_list};
use crate::loan::{LeaseObject, LoanObject, ViewObject};
use crate::page::{PageObject, gather, mmsb_page};
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};
use crate::subscribe::SubscriptionObject;

/// Ends a handle that came from a bus, while the bus stays.
pub(crate) fn close_child_of_bus<T: Object>(handle: u64) -> Result<mmsb_status, Fault> {
    let (object, freed) = orphan(handle::close::<T>(handle)?, handle);
    drop(object);
    drop(freed);
    Ok(MMSB_OK)
}

/// The same for who is inside with it.
pub(crate) fn end_held<T: Object>(held: Held<T>, handle: u64) -> Result<mmsb_status, Fault> {
    let (object, freed) = orphan(handle::close_held(held, handle)?, handle);
    drop(object);
    drop(freed);
    Ok(MMSB_OK)
}

/// Takes what was closed off its bus: the object, and what is to be dropped behind it.
pub(crate) fn orphan<T: Object>(closed: Closed<T>, handle: u64) -> (Box<T>, Freed) {
    let bus = closed.root_object::<BusObject>();
    if !bus.is_null() {
        // SAFETY: the root of such a handle is a bus, inside of which the caller is.
        unsafe { &*bus }.forget(handle);
    }
    closed.into_parts()
}

/// Ends a handle that came from a bus which ends itself.
pub(crate) fn end_child(handle: u64) {
    let Some((kind, object)) = handle::close_child(handle) else {
        return;
    };
    // SAFETY: the handle's kind says of which type the box was that `handle::open` took; it was live until just now.
    unsafe {
        match kind {
            Kind::Page => drop(Box::from_raw(object.cast::<PageObject>())),
            Kind::Loan => drop(Box::from_raw(object.cast::<LoanObject>())),
            Kind::View => drop(Box::from_raw(object.cast::<ViewObject>())),
            Kind::Lease => drop(Box::from_raw(object.cast::<LeaseObject>())),
            Kind::Batch => drop(Box::from_raw(object.cast::<BatchObject>())),
            Kind::Transaction => drop(Box::from_raw(object.cast::<TransactionObject>())),
            Kind::Subscription => drop(Box::from_raw(object.cast::<SubscriptionObject>())),
            // None of a bus.
            Kind::Bus | Kind::Log | Kind::State | Kind::List => {}
        }
    }
}

/// Several deltas to be published together: quicker than one by one, each complete in itself, in one piece in the
/// order. `{0}` is none. It ends with its bus, and belongs to the same thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_batch {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

enum Step {
    Patch {
        page: mmsb_page,
        offset: usize,
        at: usize,
        len: usize,
    },
    Many {
        page: mmsb_page,
        /// (offset in the page, place of the bytes, their number)
        ranges: Vec<(usize, usize, usize)>,
    },
    Masked {
        page: mmsb_page,
        offset: usize,
        /// The mask, then the bytes: each of `len`.
        at: usize,
        len: usize,
    },
    Mark {
        at: usize,
        len: usize,
    },
}

/// What an `mmsb_batch` leads to: copies, so that the caller's memory is its own again at once.
#[derive(Default)]
pub(crate) struct BatchObject {
    steps: Vec<Step>,
    bytes: Vec<u8>,
    cause: u64,
}

impl Object for BatchObject {
    const KIND: Kind = Kind::Batch;
}

impl BatchObject {
    fn store(&mut self, bytes: &[u8]) -> (usize, usize) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        (at, bytes.len())
    }
}

/// The page of a call about a batch or transaction.
fn page_of<T>(with: &Held<T>, page: mmsb_page) -> Result<&Page<'static>, Fault> {
    let object = beside::<PageObject, T>(with, page.handle)?;
    // SAFETY: it is of the same root, inside of which the caller is as long as `with` is held.
    unsafe { &*object }.own()
}

/// Begins a batch.
///
/// The thread of `bus`. `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_batch_open(bus: mmsb_bus, batch: *mut mmsb_batch) -> mmsb_status {
    call(|| {
        let place = out(batch, "batch")?;
        let held = enter(bus)?;
        held.bus()?;
        let handle = held.adopt(bus, Box::<BatchObject>::default())?;
        // SAFETY: checked above.
        unsafe { place.write(mmsb_batch { handle }) };
        Ok(MMSB_OK)
    })
}

/// Adds a patch of one range. The bytes are copied.
///
/// The thread of its bus. `MMSB_STALE_HANDLE` (of the page), `MMSB_OTHER_BUS`. Ranges are checked by the commit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_batch_patch(
    batch: mmsb_batch,
    page: mmsb_page,
    offset: usize,
    data: *const u8,
    len: usize,
) -> mmsb_status {
    call(|| {
        let mut held = held::<BatchObject>(batch.handle)?;
        page_of(&held, page)?;
        // SAFETY: by the caller.
        let (at, len) = held.store(unsafe { bytes(data, len, "data")? });
        held.steps.push(Step::Patch {
            page,
            offset,
            at,
            len,
        });
        Ok(MMSB_OK)
    })
}

/// Adds a patch of several ranges of one page. The bytes are copied.
///
/// The thread of its bus. As `mmsb_batch_patch`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_batch_patch_many(
    batch: mmsb_batch,
    page: mmsb_page,
    ranges: *const mmsb_range,
    count: usize,
) -> mmsb_status {
    call(|| {
        let mut held = held::<BatchObject>(batch.handle)?;
        page_of(&held, page)?;
        // SAFETY: by the caller.
        let gathered = unsafe { gather(ranges, count)? };
        let ranges = gathered.iter().map(|(offset, bytes)| {
            let (at, len) = held.store(bytes);
            (*offset, at, len)
        });
        let ranges = ranges.collect();
        held.steps.push(Step::Many { page, ranges });
        Ok(MMSB_OK)
    })
}

/// Adds a masked write, as `mmsb_page_write_masked`. Mask and bytes are copied.
///
/// The thread of its bus. As `mmsb_batch_patch`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_batch_write_masked(
    batch: mmsb_batch,
    page: mmsb_page,
    offset: usize,
    mask: *const u8,
    data: *const u8,
    len: usize,
) -> mmsb_status {
    call(|| {
        let mut held = held::<BatchObject>(batch.handle)?;
        page_of(&held, page)?;
        // SAFETY: by the caller.
        let (mask, data) = unsafe { (bytes(mask, len, "mask")?, bytes(data, len, "data")?) };
        let (at, len) = held.store(mask);
        held.store(data);
        held.steps.push(Step::Masked {
            page,
            offset,
            at,
            len,
        });
        Ok(MMSB_OK)
    })
}

/// Adds a mark: bytes that belong to no page, at their place in the order.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_batch_mark(
    batch: mmsb_batch,
    data: *const u8,
    len: usize,
) -> mmsb_status {
    call(|| {
        let mut held = held::<BatchObject>(batch.handle)?;
        // SAFETY: by the caller.
        let (at, len) = held.store(unsafe { bytes(data, len, "data")? });
        held.steps.push(Step::Mark { at, len });
        Ok(MMSB_OK)
    })
}

/// Names the earlier delta that the deltas of the next commit are caused by.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_batch_cause(batch: mmsb_batch, lsn: u64) -> mmsb_status {
    call(|| {
        held::<BatchObject>(batch.handle)?.cause = lsn;
        Ok(MMSB_OK)
    })
}

/// Publishes what was added, and empties the batch, also if it fails. `receipt` may be null.
///
/// The thread of its bus. As `mmsb_page_patch`; `MMSB_STALE_HANDLE` if a page was closed since: nothing is published
/// then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_batch_commit(
    batch: mmsb_batch,
    receipt: *mut mmsb_receipt,
) -> mmsb_status {
    call(|| {
        let (mut held, root) = handle::with_root::<BatchObject, BusObject>(batch.handle)?;
        let BatchObject {
            steps,
            bytes,
            cause,
        } = std::mem::take(&mut *held);
        let mut deltas = root.bus()?.batch();
        for step in &steps {
            match step {
                Step::Patch {
                    page,
                    offset,
                    at,
                    len,
                } => {
                    let page = page_of(&held, *page)?;
                    deltas.patch(page, *offset, &bytes[*at..at + len]);
                }
                Step::Many { page, ranges } => {
                    let page = page_of(&held, *page)?;
                    let ranges = ranges
                        .iter()
                        .map(|(o, at, len)| (*o, &bytes[*at..at + len]));
                    deltas.patch_many(page, &ranges.collect::<Vec<_>>());
                }
                Step::Masked {
                    page,
                    offset,
                    at,
                    len,
                } => {
                    let page = page_of(&held, *page)?;
                    let (mask, rest) = bytes[*at..].split_at(*len);
                    deltas.write_masked(page, *offset, mask, &rest[..*len]);
                }
                Step::Mark { at, len } => {
                    deltas.mark(&bytes[*at..at + len]);
                }
            }
        }
        if cause != 0 {
            deltas.cause(cause);
        }
        let done = deltas.commit()?;
        drop(deltas);
        // Their memory serves the next round.
        let (mut steps, mut bytes) = (steps, bytes);
        steps.clear();
        bytes.clear();
        (held.steps, held.bytes) = (steps, bytes);
        // SAFETY: by the caller.
        unsafe { give(receipt, done.into()) };
        Ok(MMSB_OK)
    })
}

/// Ends a batch; what was not committed never was.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_batch_close(batch: mmsb_batch) -> mmsb_status {
    call(|| close_child_of_bus::<BatchObject>(batch.handle))
}

/// Changes of several pages, all or nothing, for every reader at once. `{0}` is none. It ends with its commit, or with
/// its bus, and belongs to the same thread.
///
/// It locks nothing before it commits: if another writer changed a page that it read, the commit returns
/// `MMSB_CONFLICT`, and the program begins again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_transaction {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

/// What an `mmsb_transaction` leads to.
pub(crate) struct TransactionObject(Transaction<'static>);

impl Object for TransactionObject {
    const KIND: Kind = Kind::Transaction;
}

fn of_transaction(transaction: mmsb_transaction) -> Result<Held<TransactionObject>, Fault> {
    let (held, root) = handle::with_root::<TransactionObject, BusObject>(transaction.handle)?;
    root.bus()?;
    Ok(held)
}

/// Begins a transaction.
///
/// The thread of `bus`. `MMSB_READ_ONLY`, `MMSB_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_transaction_begin(
    bus: mmsb_bus,
    transaction: *mut mmsb_transaction,
) -> mmsb_status {
    call(|| {
        let place = out(transaction, "transaction")?;
        let held = enter(bus)?;
        let begun = TransactionObject(held.bus()?.begin()?);
        let handle = held.adopt(bus, Box::new(begun))?;
        // SAFETY: checked above.
        unsafe { place.write(mmsb_transaction { handle }) };
        Ok(MMSB_OK)
    })
}

/// Copies `len` bytes of a page from `offset` on, with what this transaction changed. All reads of a page see one state
/// of it.
///
/// The thread of its bus. `MMSB_CONFLICT` (begin again), `MMSB_OUT_OF_RANGE`, `MMSB_OTHER_BUS`; as `mmsb_page_read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_transaction_read(
    transaction: mmsb_transaction,
    page: mmsb_page,
    offset: usize,
    buffer: *mut u8,
    len: usize,
) -> mmsb_status {
    call(|| {
        let mut held = of_transaction(transaction)?;
        let page: *const Page<'static> = page_of(&held, page)?;
        // SAFETY: the page is another object of the same root, which lives as long as `held` does.
        let page = unsafe { &*page };
        // SAFETY: by the caller.
        let dst = unsafe { args::buffer(buffer, len, "buffer")? };
        held.0.read_range(page, offset, dst)?;
        Ok(MMSB_OK)
    })
}

/// Changes `len` bytes of a page from `offset` on, once it commits. The bytes are copied.
///
/// The thread of its bus. `MMSB_OUT_OF_RANGE`, `MMSB_PAGE_GONE`, `MMSB_OTHER_BUS`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_transaction_patch(
    transaction: mmsb_transaction,
    page: mmsb_page,
    offset: usize,
    data: *const u8,
    len: usize,
) -> mmsb_status {
    call(|| {
        let mut held = of_transaction(transaction)?;
        let page: *const Page<'static> = page_of(&held, page)?;
        // SAFETY: as in `mmsb_transaction_read`.
        let page = unsafe { &*page };
        // SAFETY: by the caller.
        let data = unsafe { bytes(data, len, "data")? };
        held.0.patch(page, offset, data)?;
        Ok(MMSB_OK)
    })
}

/// Changes several ranges of a page, once it commits. The bytes are copied.
///
/// The thread of its bus. As `mmsb_transaction_patch`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_transaction_patch_many(
    transaction: mmsb_transaction,
    page: mmsb_page,
    ranges: *const mmsb_range,
    count: usize,
) -> mmsb_status {
    call(|| {
        let mut held = of_transaction(transaction)?;
        let page: *const Page<'static> = page_of(&held, page)?;
        // SAFETY: as in `mmsb_transaction_read`.
        let page = unsafe { &*page };
        // SAFETY: by the caller.
        let ranges = unsafe { gather(ranges, count)? };
        held.0.patch_many(page, &ranges)?;
        Ok(MMSB_OK)
    })
}

/// Changes, once it commits, those of `len` bytes from `offset` on whose byte in `mask` is not 0. Mask and bytes are
/// copied.
///
/// The thread of its bus. As `mmsb_transaction_patch`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_transaction_write_masked(
    transaction: mmsb_transaction,
    page: mmsb_page,
    offset: usize,
    mask: *const u8,
    data: *const u8,
    len: usize,
) -> mmsb_status {
    call(|| {
        let mut held = of_transaction(transaction)?;
        let page: *const Page<'static> = page_of(&held, page)?;
        // SAFETY: as in `mmsb_transaction_read`.
        let page = unsafe { &*page };
        // SAFETY: by the caller.
        let (mask, data) = unsafe { (bytes(mask, len, "mask")?, bytes(data, len, "data")?) };
        held.0.write_masked(page, offset, mask, data)?;
        Ok(MMSB_OK)
    })
}

/// Adds a mark: bytes that belong to no page, at their place in the order.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_transaction_mark(
    transaction: mmsb_transaction,
    data: *const u8,
    len: usize,
) -> mmsb_status {
    call(|| {
        let mut held = of_transaction(transaction)?;
        // SAFETY: by the caller.
        held.0.mark(unsafe { bytes(data, len, "data")? });
        Ok(MMSB_OK)
    })
}

/// Names the earlier delta that this transaction is caused by.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_transaction_cause(transaction: mmsb_transaction, lsn: u64) -> mmsb_status {
    call(|| {
        of_transaction(transaction)?.0.cause(lsn);
        Ok(MMSB_OK)
    })
}

/// Commits a transaction. The handle is stale afterwards whatever is returned. `receipt` may be null.
///
/// The thread of its bus. `MMSB_CONFLICT` (nothing was written: begin again), `MMSB_TOO_LARGE`; as `mmsb_page_write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_transaction_commit(
    transaction: mmsb_transaction,
    receipt: *mut mmsb_receipt,
) -> mmsb_status {
    call(|| {
        let closed = handle::close::<TransactionObject>(transaction.handle)?;
        let (object, freed) = orphan(closed, transaction.handle);
        let done = object.0.try_commit();
        drop(freed);
        let done = done?;
        // SAFETY: by the caller.
        unsafe { give(receipt, done.into()) };
        Ok(MMSB_OK)
    })
}

/// Ends a transaction without a trace.
///
/// The thread of its bus.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_transaction_abandon(transaction: mmsb_transaction) -> mmsb_status {
    call(|| close_child_of_bus::<TransactionObject>(transaction.handle))
}

/// Copies several pages as one consistent cut: no transaction is half in it. Read them with `mmsb_list_image`, in the
/// order of `ids`.
///
/// The thread of `bus`. `MMSB_PAGE_GONE`, `MMSB_TIMEOUT`, observers: `MMSB_CONTENDED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_snapshot(
    bus: mmsb_bus,
    ids: *const mmsb_page_id,
    count: usize,
    list: *mut mmsb_list,
) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let held = enter(bus)?;
        // SAFETY: by the caller.
        let ids = unsafe { array(ids, count, "ids")? };
        let ids: Vec<PageId> = ids.iter().map(|id| (*id).into()).collect();
        let images = match held.side()? {
            Side::Bus(bus) => bus.snapshot(&ids)?,
            Side::Observer(observer) => observer.snapshot(&ids)?,
        };
        let opened = open_list(Items::Images(images), held.serialised())?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}

/// As `mmsb_bus_snapshot`, but not before the delta at `lsn`, and everything ahead of it, is in its page.
///
/// The thread of `bus`. `MMSB_TIMEOUT` if that takes longer than `timeout_ns`, `MMSB_READ_ONLY`; as
/// `mmsb_bus_snapshot`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_snapshot_at(
    bus: mmsb_bus,
    lsn: u64,
    timeout_ns: u64,
    ids: *const mmsb_page_id,
    count: usize,
    list: *mut mmsb_list,
) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let held = enter(bus)?;
        // SAFETY: by the caller.
        let ids = unsafe { array(ids, count, "ids")? };
        let ids: Vec<PageId> = ids.iter().map(|id| (*id).into()).collect();
        let images = held.bus()?.cut_at(lsn, &ids, args::time(timeout_ns))?;
        let opened = open_list(Items::Images(images), held.serialised())?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}
