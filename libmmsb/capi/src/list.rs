//! Results of unknown length: lists, whose items are read one by one.

use std::ffi::{CStr, c_char};
use std::ptr::null;

use bus::history::{Change, Diff, Record};
use bus::{PageImage, PageInfo, Stats};

use crate::args::{self, Sized32, out};
use crate::attach::c_text;
use crate::handle::{self, Kind, Object, Root, held};
use crate::info::{kind_number, mmsb_page_id, mmsb_page_version};
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};

/// A result of many items, of one kind. It is a copy: it stays as it is whatever the bus does, and lives until
/// `mmsb_list_close`. Pointers that come out of it live as long. It belongs to the thread that uses it first, until
/// that ends; one of a serialised bus to any thread, one at a time. Asked for an item of another kind, it is
/// `MMSB_BAD_HANDLE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_list {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

/// A page with its text as C wants it.
pub(crate) struct Described {
    pub(crate) info: PageInfo,
    name: Box<CStr>,
    schema: Box<CStr>,
    meta: Vec<(Box<CStr>, Box<CStr>)>,
}

impl Described {
    pub(crate) fn new(info: PageInfo) -> Described {
        let cold = &info.cold;
        // A schema of a later version has no text here; its bytes are given all the same.
        let schema = bus::schema::Schema::decode(&cold.schema);
        let schema = schema.map_or(String::new(), |schema| schema.to_string());
        Described {
            name: c_text(&cold.name),
            schema: c_text(&schema),
            meta: cold
                .meta
                .iter()
                .map(|(k, v)| (c_text(k), c_text(v)))
                .collect(),
            info,
        }
    }

    pub(crate) fn told(&self) -> mmsb_page_info {
        let info = &self.info;
        mmsb_page_info {
            struct_size: 0,
            size: info.size,
            id: info.id.into(),
            versions: info.versions,
            is_loaned: info.loaned.into(),
            version: mmsb_page_version {
                epoch: info.epoch,
                lsn: info.lsn,
            },
            name: self.name.as_ptr(),
            schema: self.schema.as_ptr(),
            schema_bytes: info.cold.schema.as_ptr(),
            schema_len: info.cold.schema.len(),
            schema_hash: info.cold.schema_hash,
            meta_count: self.meta.len(),
        }
    }
}

pub(crate) struct Participant {
    stats: bus::ParticipantStats,
    name: Box<CStr>,
}

pub(crate) struct Recorded {
    record: Record,
    source: Box<CStr>,
    page: Box<CStr>,
}

/// What a list holds.
pub(crate) enum Items {
    Names(Vec<Box<CStr>>),
    Pages(Vec<Described>),
    Images(Vec<PageImage>),
    Participants(Vec<Participant>),
    Counters(Vec<(Box<CStr>, u64)>),
    Changes(Vec<(Change, Box<CStr>)>),
    Records(Vec<Recorded>),
    Diff(Diff),
}

impl Items {
    pub(crate) fn pages(pages: Vec<PageInfo>) -> Items {
        Items::Pages(pages.into_iter().map(Described::new).collect())
    }

    pub(crate) fn participants(stats: Stats) -> Items {
        let all = stats.participants.into_iter().map(|stats| Participant {
            name: c_text(&stats.name),
            stats,
        });
        Items::Participants(all.collect())
    }

    pub(crate) fn changes(changes: Vec<Change>) -> Items {
        let named = changes.into_iter().map(|change| {
            let name = c_text(change.source_name.as_deref().unwrap_or_default());
            (change, name)
        });
        Items::Changes(named.collect())
    }

    pub(crate) fn records(records: Vec<Record>) -> Items {
        let all = records.into_iter().map(|record| Recorded {
            source: c_text(record.source_name.as_deref().unwrap_or_default()),
            page: c_text(&record.page_name),
            record,
        });
        Items::Records(all.collect())
    }

    fn len(&self) -> usize {
        match self {
            Items::Names(items) => items.len(),
            Items::Pages(items) => items.len(),
            Items::Images(items) => items.len(),
            Items::Participants(items) => items.len(),
            Items::Counters(items) => items.len(),
            Items::Changes(items) => items.len(),
            Items::Records(items) => items.len(),
            Items::Diff(diff) => diff.pages.len(),
        }
    }
}

impl Object for Items {
    const KIND: Kind = Kind::List;
}

/// `serialised`: it comes from a bus that is.
pub(crate) fn open_list(items: Items, serialised: bool) -> Result<mmsb_list, Fault> {
    let handle = handle::open(Box::new(items), Root::Own { serialised })?;
    Ok(mmsb_list { handle })
}

#[cold]
fn wrong(what: &str) -> Fault {
    Fault::new(MMSB_BAD_HANDLE, format!("the list holds no {what}"))
}

#[cold]
fn beyond(index: usize, len: usize) -> Fault {
    Fault::new(
        MMSB_OUT_OF_RANGE,
        format!("item {index} is asked for, the list has {len}"),
    )
}

fn item<T>(items: &[T], index: usize) -> Result<&T, Fault> {
    items.get(index).ok_or_else(|| beyond(index, items.len()))
}

/// How many items a list has.
///
/// The thread of `list`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_len(list: mmsb_list, len: *mut usize) -> mmsb_status {
    call(|| {
        let place = out(len, "len")?;
        let items = held::<Items>(list.handle)?;
        // SAFETY: by the caller.
        unsafe { place.write(items.len()) };
        Ok(MMSB_OK)
    })
}

/// Ends a list.
///
/// The thread of `list`.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_list_close(list: mmsb_list) -> mmsb_status {
    call(|| {
        let (items, freed) = handle::close::<Items>(list.handle)?.into_parts();
        drop(items);
        drop(freed);
        Ok(MMSB_OK)
    })
}

/// An item of a list of names.
///
/// The thread of `list`. `MMSB_OUT_OF_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_name(
    list: mmsb_list,
    index: usize,
    name: *mut *const c_char,
) -> mmsb_status {
    call(|| {
        let place = out(name, "name")?;
        let Items::Names(names) = &*held::<Items>(list.handle)? else {
            return Err(wrong("names"));
        };
        // SAFETY: by the caller.
        unsafe { place.write(item(names, index)?.as_ptr()) };
        Ok(MMSB_OK)
    })
}

/// What a page is. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_page_info {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// Bytes of the page.
    pub size: u32,
    /// Its id.
    pub id: mmsb_page_id,
    /// Version slots: 1 for an ordinary page, more for a cell.
    pub versions: u32,
    /// 1: its content is a published loan.
    pub is_loaned: u32,
    /// As last seen.
    pub version: mmsb_page_version,
    /// Its name; empty: none.
    pub name: *const c_char,
    /// Its schema in the text form, such as `price:f64,bids:f64[10]`; empty: none.
    pub schema: *const c_char,
    /// The encoded schema, as docs/layout.md has it.
    pub schema_bytes: *const u8,
    /// Bytes of that.
    pub schema_len: usize,
    /// Hash of the schema; 0: none.
    pub schema_hash: u64,
    /// Metadata entries: `mmsb_list_meta` reads them.
    pub meta_count: usize,
}

// SAFETY: numbers and pointers.
unsafe impl Sized32 for mmsb_page_info {
    const NAME: &'static str = "mmsb_page_info";
    const FIRST: usize = 88;
}

/// An item of a list of pages.
///
/// The thread of `list`. `MMSB_OUT_OF_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_page(
    list: mmsb_list,
    index: usize,
    info: *mut mmsb_page_info,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(info)? };
        let Items::Pages(pages) = &*held::<Items>(list.handle)? else {
            return Err(wrong("pages"));
        };
        room.fill(item(pages, index)?.told());
        Ok(MMSB_OK)
    })
}

/// Metadata entry `entry` of page `index` of a list of pages.
///
/// The thread of `list`. `MMSB_OUT_OF_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_meta(
    list: mmsb_list,
    index: usize,
    entry: usize,
    key: *mut *const c_char,
    value: *mut *const c_char,
) -> mmsb_status {
    call(|| {
        let (key, value) = (out(key, "key")?, out(value, "value")?);
        let Items::Pages(pages) = &*held::<Items>(list.handle)? else {
            return Err(wrong("pages"));
        };
        let found = item(&item(pages, index)?.meta, entry)?;
        // SAFETY: by the caller.
        unsafe {
            key.write(found.0.as_ptr());
            value.write(found.1.as_ptr());
        }
        Ok(MMSB_OK)
    })
}

/// A copy of a page.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_image {
    /// Of which page.
    pub id: mmsb_page_id,
    /// In which state.
    pub version: mmsb_page_version,
    /// Its bytes.
    pub bytes: *const u8,
    /// How many.
    pub size: usize,
}

/// An item of a list of page images.
///
/// The thread of `list`. `MMSB_OUT_OF_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_image(
    list: mmsb_list,
    index: usize,
    image: *mut mmsb_image,
) -> mmsb_status {
    call(|| {
        let place = out(image, "image")?;
        let Items::Images(images) = &*held::<Items>(list.handle)? else {
            return Err(wrong("images"));
        };
        let found = item(images, index)?;
        let told = mmsb_image {
            id: found.id.into(),
            version: found.version.into(),
            bytes: found.bytes.as_ptr(),
            size: found.bytes.len(),
        };
        // SAFETY: by the caller.
        unsafe { place.write(told) };
        Ok(MMSB_OK)
    })
}

/// A participant of a bus. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_participant {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// Its slot.
    pub index: u32,
    /// Its process, as numbered in its own PID namespace.
    pub pid: u32,
    /// 1: alive; 0: dead, and not recovered yet.
    pub is_alive: u32,
    /// Inode of its PID namespace.
    pub pid_namespace: u64,
    /// CLOCK_REALTIME when it joined, in ns.
    pub joined_ns: u64,
    /// LSN of its unfinished commit; 0: none.
    pub hold_lsn: u64,
    /// Deltas that it committed.
    pub deltas: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Times that it waited.
    pub waits: u64,
    /// Times that it began again.
    pub retries: u64,
    /// Its name.
    pub name: *const c_char,
}

// SAFETY: numbers and a pointer.
unsafe impl Sized32 for mmsb_participant {
    const NAME: &'static str = "mmsb_participant";
    const FIRST: usize = 80;
}

/// An item of a list of participants.
///
/// The thread of `list`. `MMSB_OUT_OF_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_participant(
    list: mmsb_list,
    index: usize,
    participant: *mut mmsb_participant,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(participant)? };
        let Items::Participants(all) = &*held::<Items>(list.handle)? else {
            return Err(wrong("participants"));
        };
        let Participant { stats, name } = item(all, index)?;
        let told = mmsb_participant {
            struct_size: 0,
            index: stats.index,
            pid: stats.pid,
            is_alive: stats.alive.into(),
            pid_namespace: stats.pid_namespace,
            joined_ns: stats.joined_ns,
            hold_lsn: stats.hold,
            deltas: stats.deltas,
            bytes: stats.bytes,
            waits: stats.waits,
            retries: stats.retries,
            name: name.as_ptr(),
        };
        room.fill(told);
        Ok(MMSB_OK)
    })
}

/// An item of a list of counters.
///
/// The thread of `list`. `MMSB_OUT_OF_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_counter(
    list: mmsb_list,
    index: usize,
    name: *mut *const c_char,
    count: *mut u64,
) -> mmsb_status {
    call(|| {
        let (name, count) = (out(name, "name")?, out(count, "count")?);
        let Items::Counters(counters) = &*held::<Items>(list.handle)? else {
            return Err(wrong("counters"));
        };
        let found = item(counters, index)?;
        // SAFETY: by the caller.
        unsafe {
            name.write(found.0.as_ptr());
            count.write(found.1);
        }
        Ok(MMSB_OK)
    })
}

/// What changed a page, as its log tells, or a record of a chain of causes. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_change {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// `MMSB_KIND_PATCH` or another.
    pub kind: i32,
    /// Its place in the order.
    pub lsn: u64,
    /// CLOCK_REALTIME, in ns, exact to about a millisecond.
    pub time_ns: u64,
    /// LSN of the delta that caused it; 0: none was named.
    pub cause: u64,
    /// Of which page.
    pub page: mmsb_page_id,
    /// Number of its source.
    pub source: u32,
    /// 1: part of a transaction.
    pub in_transaction: u32,
    /// Name of its source; empty: unknown.
    pub source_name: *const c_char,
    /// Name of the page; empty: none, or the list is about one page.
    pub page_name: *const c_char,
    /// Ranges that it wrote: `mmsb_list_change_range` reads them.
    pub ranges: usize,
}

// SAFETY: numbers and pointers.
unsafe impl Sized32 for mmsb_change {
    const NAME: &'static str = "mmsb_change";
    const FIRST: usize = 72;
}

/// An item of a list of changes: a history, or a chain of causes.
///
/// The thread of `list`. `MMSB_OUT_OF_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_change(
    list: mmsb_list,
    index: usize,
    change: *mut mmsb_change,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(change)? };
        let items = held::<Items>(list.handle)?;
        let told = match &*items {
            Items::Changes(changes) => {
                let (found, source) = item(changes, index)?;
                mmsb_change {
                    struct_size: 0,
                    kind: kind_number(found.kind),
                    lsn: found.lsn,
                    time_ns: found.time_ns,
                    cause: found.cause,
                    page: mmsb_page_id::default(),
                    source: found.source.into(),
                    in_transaction: found.transaction.into(),
                    source_name: source.as_ptr(),
                    page_name: c"".as_ptr(),
                    ranges: found.ranges.len(),
                }
            }
            Items::Records(records) => {
                let found = item(records, index)?;
                let delta = &found.record.delta;
                mmsb_change {
                    struct_size: 0,
                    kind: kind_number(delta.kind),
                    lsn: delta.lsn,
                    time_ns: delta.time_ns,
                    cause: delta.cause,
                    page: delta.page.into(),
                    source: delta.source.into(),
                    in_transaction: delta.transaction.into(),
                    source_name: found.source.as_ptr(),
                    page_name: found.page.as_ptr(),
                    ranges: delta.ranges.len(),
                }
            }
            _ => return Err(wrong("changes")),
        };
        room.fill(told);
        Ok(MMSB_OK)
    })
}

/// Bytes before and after.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_changed_range {
    /// First byte in the page.
    pub offset: u32,
    /// 0.
    pub reserved: u32,
    /// What was there; null: unknown, or the page was not there.
    pub old_bytes: *const u8,
    /// How many.
    pub old_len: usize,
    /// What is there since; null: the page is gone.
    pub new_bytes: *const u8,
    /// How many.
    pub new_len: usize,
}

fn pointer(bytes: &[u8]) -> *const u8 {
    if bytes.is_empty() {
        null()
    } else {
        bytes.as_ptr()
    }
}

/// Range `range` of change `index`.
///
/// The thread of `list`. `MMSB_OUT_OF_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_change_range(
    list: mmsb_list,
    index: usize,
    range: usize,
    changed: *mut mmsb_changed_range,
) -> mmsb_status {
    call(|| {
        let place = out(changed, "changed")?;
        let items = held::<Items>(list.handle)?;
        let (offset, old, new): (u32, &[u8], &[u8]) = match &*items {
            Items::Changes(changes) => {
                let found = item(&item(changes, index)?.0.ranges, range)?;
                (
                    found.offset,
                    found.old.as_deref().unwrap_or_default(),
                    &found.new,
                )
            }
            Items::Records(records) => {
                let found = item(&item(records, index)?.record.delta.ranges, range)?;
                (found.0, &[], &found.1)
            }
            Items::Diff(diff) => {
                let found = item(&item(&diff.pages, index)?.ranges, range)?;
                (found.offset, &found.old, &found.new)
            }
            _ => return Err(wrong("changes")),
        };
        let told = mmsb_changed_range {
            offset,
            reserved: 0,
            old_bytes: pointer(old),
            old_len: old.len(),
            new_bytes: pointer(new),
            new_len: new.len(),
        };
        // SAFETY: by the caller.
        unsafe { place.write(told) };
        Ok(MMSB_OK)
    })
}

/// A page that is not the same at two moments. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_page_diff {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// 1: it was there at the earlier moment.
    pub is_before: u32,
    /// 1: it is there at the later one.
    pub is_after: u32,
    /// 1: its name, schema or metadata are others.
    pub is_redescribed: u32,
    /// Its id.
    pub id: mmsb_page_id,
    /// Its state at the earlier moment.
    pub before: mmsb_page_version,
    /// Its state at the later one.
    pub after: mmsb_page_version,
    /// Ranges that differ: `mmsb_list_change_range` reads them.
    pub ranges: usize,
}

// SAFETY: numbers.
unsafe impl Sized32 for mmsb_page_diff {
    const NAME: &'static str = "mmsb_page_diff";
    const FIRST: usize = 64;
}

/// An item of a difference.
///
/// The thread of `list`. `MMSB_OUT_OF_RANGE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_list_diff(
    list: mmsb_list,
    index: usize,
    page: *mut mmsb_page_diff,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(page)? };
        let Items::Diff(diff) = &*held::<Items>(list.handle)? else {
            return Err(wrong("difference"));
        };
        let found = item(&diff.pages, index)?;
        let version = |summary: &Option<bus::history::PageSummary>| {
            summary
                .as_ref()
                .map_or(mmsb_page_version::default(), |s| mmsb_page_version {
                    epoch: s.epoch,
                    lsn: s.lsn,
                })
        };
        let told = mmsb_page_diff {
            struct_size: 0,
            is_before: found.before.is_some().into(),
            is_after: found.after.is_some().into(),
            is_redescribed: found.is_redescribed().into(),
            id: found.id.into(),
            before: version(&found.before),
            after: version(&found.after),
            ranges: found.ranges.len(),
        };
        room.fill(told);
        Ok(MMSB_OK)
    })
}
