//! The past: logs, states, differences, histories, replay.

use std::ffi::c_char;

use bus::history::{At, Cause, ChainEnd, Diff, Log};
use bus::playback::{Player, Range, Speed};
use bus::state::State;

use crate::args::{self, Sized32, give, out, text};
use crate::attach::{Side, builder, enter, mmsb_bus, mmsb_bus_options, open_bus};
use crate::handle::{self, Kind, Object, Root, held};
use crate::info::{mmsb_page_id, mmsb_page_version};
use crate::list::{Items, mmsb_image, mmsb_list, open_list};
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};

/// The log of a bus, as files: it needs no bus, and may be a copy. `{0}` is none. It belongs to the thread that uses it
/// first, until that ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_log {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

/// The pages of a bus at one moment, in memory of this process. `{0}` is none. It belongs to the thread that uses it
/// first, until that ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_state {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

struct LogObject(Log);

impl Object for LogObject {
    const KIND: Kind = Kind::Log;
}

struct StateObject(State);

impl Object for StateObject {
    const KIND: Kind = Kind::State;
}

/// A moment: the state behind the delta at an LSN.
pub const MMSB_AT_LSN: u32 = 0;
/// A moment: CLOCK_REALTIME in ns; deltas are stamped to about a millisecond.
pub const MMSB_AT_TIME: u32 = 1;
/// A moment: the end of the log; the value is not looked at.
pub const MMSB_AT_END: u32 = 2;

/// A moment in the past of a bus.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(non_camel_case_types)]
pub struct mmsb_at {
    /// `MMSB_AT_LSN` or another.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// LSN, or ns.
    pub value: u64,
}

fn at(moment: mmsb_at) -> Result<At, Fault> {
    match moment.kind {
        MMSB_AT_LSN => Ok(At::Lsn(moment.value)),
        MMSB_AT_TIME => Ok(At::Time(moment.value)),
        MMSB_AT_END => Ok(At::End),
        other => Err(Fault::invalid(format!("{other} is no kind of moment"))),
    }
}

/// Opens the log in a directory. Nothing is changed there, and a supervisor may go on writing it.
///
/// Any thread. `MMSB_MISSING`, `MMSB_LOG`, `MMSB_IO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_log_open(dir: *const c_char, log: *mut mmsb_log) -> mmsb_status {
    call(|| {
        let place = out(log, "log")?;
        // SAFETY: by the caller.
        let opened = Log::open(unsafe { text(dir, "dir")? })?;
        let root = Root::Own { serialised: false };
        let handle = handle::open(Box::new(LogObject(opened)), root)?;
        // SAFETY: checked above.
        unsafe { place.write(mmsb_log { handle }) };
        Ok(MMSB_OK)
    })
}

/// Ends a handle. Lists and states from it stay.
///
/// The thread of `log`.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_log_close(log: mmsb_log) -> mmsb_status {
    call(|| {
        drop(handle::close::<LogObject>(log.handle)?);
        Ok(MMSB_OK)
    })
}

/// What a log covers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(non_camel_case_types)]
pub struct mmsb_log_bounds {
    /// LSN of the oldest record.
    pub first_lsn: u64,
    /// The oldest LSN of which the state can be rebuilt.
    pub oldest_state: u64,
    /// LSN behind the last record.
    pub end_lsn: u64,
}

/// What the log covers.
///
/// The thread of `log`. `MMSB_LOG`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_log_get_bounds(
    log: mmsb_log,
    bounds: *mut mmsb_log_bounds,
) -> mmsb_status {
    call(|| {
        let place = out(bounds, "bounds")?;
        let found = held::<LogObject>(log.handle)?.0.bounds()?;
        let told = mmsb_log_bounds {
            first_lsn: found.first_lsn,
            oldest_state: found.oldest_state,
            end_lsn: found.end_lsn,
        };
        // SAFETY: checked above.
        unsafe { place.write(told) };
        Ok(MMSB_OK)
    })
}

/// Rebuilds all pages as they were at a moment: from the checkpoint before it, and the deltas since.
///
/// The thread of `log`. `MMSB_NOT_IN_LOG`, `MMSB_LOG` (damage: the message says where), `MMSB_CHECKPOINT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_log_state_at(
    log: mmsb_log,
    moment: mmsb_at,
    state: *mut mmsb_state,
) -> mmsb_status {
    call(|| {
        let place = out(state, "state")?;
        let rebuilt = held::<LogObject>(log.handle)?.0.state_at(at(moment)?)?;
        let root = Root::Own { serialised: false };
        let handle = handle::open(Box::new(StateObject(rebuilt)), root)?;
        // SAFETY: checked above.
        unsafe { place.write(mmsb_state { handle }) };
        Ok(MMSB_OK)
    })
}

/// Ends a state. Images from it must not be read any more.
///
/// The thread of `state`.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_state_close(state: mmsb_state) -> mmsb_status {
    call(|| {
        drop(handle::close::<StateObject>(state.handle)?);
        Ok(MMSB_OK)
    })
}

/// What a state is. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_state_info {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// LSN behind the last delta in it.
    pub lsn: u64,
    /// CLOCK_REALTIME of that, in ns.
    pub time_ns: u64,
    /// Incarnation that it is of.
    pub incarnation: u64,
    /// Pages in it.
    pub pages: u64,
    /// Hash of all of it: equal for equal states, on every machine.
    pub hash: [u8; 16],
}

// SAFETY: numbers.
unsafe impl Sized32 for mmsb_state_info {
    const NAME: &'static str = "mmsb_state_info";
    const FIRST: usize = 56;
}

/// What the state is. It hashes all pages.
///
/// The thread of `state`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_state_get_info(
    state: mmsb_state,
    info: *mut mmsb_state_info,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(info)? };
        let held = held::<StateObject>(state.handle)?;
        let told = mmsb_state_info {
            struct_size: 0,
            reserved: 0,
            lsn: held.0.lsn(),
            time_ns: held.0.time_ns(),
            incarnation: held.0.incarnation(),
            pages: held.0.len() as u64,
            hash: held.0.hash().to_be_bytes(),
        };
        room.fill(told);
        Ok(MMSB_OK)
    })
}

/// Lists the pages of a state. Read them with `mmsb_list_page`.
///
/// The thread of `state`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_state_pages(state: mmsb_state, list: *mut mmsb_list) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let held = held::<StateObject>(state.handle)?;
        let pages = held.0.pages().map(|page| bus::PageInfo {
            id: page.id(),
            size: page.size(),
            versions: page.versions(),
            loaned: false,
            epoch: page.epoch(),
            lsn: page.lsn(),
            cold: page.cold().clone(),
        });
        let items = Items::pages(pages.collect());
        // SAFETY: checked above.
        unsafe { place.write(open_list(items, false)?) };
        Ok(MMSB_OK)
    })
}

fn image(state: &State, page: Option<bus::PageId>, what: &str) -> Result<mmsb_image, Fault> {
    let page = page.and_then(|id| state.page(id));
    let page = page.ok_or_else(|| Fault::new(MMSB_MISSING, format!("there was no page {what}")))?;
    Ok(mmsb_image {
        id: page.id().into(),
        version: mmsb_page_version {
            epoch: page.epoch(),
            lsn: page.lsn(),
        },
        bytes: page.bytes().as_ptr(),
        size: page.bytes().len(),
    })
}

/// A page of a state, by its name then. The bytes live as long as the state.
///
/// The thread of `state`. `MMSB_MISSING`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_state_page(
    state: mmsb_state,
    name: *const c_char,
    page: *mut mmsb_image,
) -> mmsb_status {
    call(|| {
        let place = out(page, "page")?;
        let held = held::<StateObject>(state.handle)?;
        // SAFETY: by the caller.
        let name = unsafe { text(name, "name")? };
        let id = held.0.page_named(name).map(|page| page.id());
        let told = image(&held.0, id, &format!("{name:?}"))?;
        // SAFETY: checked above.
        unsafe { place.write(told) };
        Ok(MMSB_OK)
    })
}

/// A page of a state, by its id. The bytes live as long as the state.
///
/// The thread of `state`. `MMSB_MISSING`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_state_page_by_id(
    state: mmsb_state,
    id: mmsb_page_id,
    page: *mut mmsb_image,
) -> mmsb_status {
    call(|| {
        let place = out(page, "page")?;
        let held = held::<StateObject>(state.handle)?;
        let id = bus::PageId::from(id);
        let told = image(&held.0, Some(id), &id.to_string())?;
        // SAFETY: checked above.
        unsafe { place.write(told) };
        Ok(MMSB_OK)
    })
}

/// Makes a bus with the pages of a state, and attaches to it: the past, to be looked at with every tool. `options` must
/// not name a log.
///
/// The thread of `state`. As `mmsb_bus_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_state_create_bus(
    state: mmsb_state,
    name: *const c_char,
    options: *const mmsb_bus_options,
    bus: *mut mmsb_bus,
) -> mmsb_status {
    call(|| {
        let place = out(bus, "bus")?;
        let held = held::<StateObject>(state.handle)?;
        // SAFETY: by the caller.
        let (builder, serialised) =
            unsafe { builder(text(name, "name")?, &args::options(options)?)? };
        let made = builder.create_from(&held.0)?;
        let opened = open_bus(Side::Bus(Box::leak(Box::new(made))), serialised)?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}

/// What is different between two moments. Read it with `mmsb_list_diff` and `mmsb_list_change_range`.
///
/// The thread of `log`. As `mmsb_log_state_at`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_log_diff(
    log: mmsb_log,
    from: mmsb_at,
    to: mmsb_at,
    list: *mut mmsb_list,
) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let diff = held::<LogObject>(log.handle)?.0.diff(at(from)?, at(to)?)?;
        // SAFETY: checked above.
        unsafe { place.write(open_list(Items::Diff(diff), false)?) };
        Ok(MMSB_OK)
    })
}

/// What is different between two states, which need not be of one log: from `from`, whose thread calls, to `to`.
///
/// The thread of both. Read it as that of `mmsb_log_diff`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_state_diff(
    from: mmsb_state,
    to: mmsb_state,
    list: *mut mmsb_list,
) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let (from, to) = (
            held::<StateObject>(from.handle)?,
            held::<StateObject>(to.handle)?,
        );
        let diff = Diff::of(&from.0, &to.0);
        // SAFETY: checked above.
        unsafe { place.write(open_list(Items::Diff(diff), false)?) };
        Ok(MMSB_OK)
    })
}

/// Who wrote what to `len` bytes of a page from `offset` on (0, UINT32_MAX: all of it), from LSN `from` (0: the
/// beginning) to ahead of LSN `to` (UINT64_MAX: the end), oldest first. Read it with `mmsb_list_change` and
/// `mmsb_list_change_range`.
///
/// The thread of `log`. `MMSB_LOG`, `MMSB_CHECKPOINT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_log_history(
    log: mmsb_log,
    page: mmsb_page_id,
    offset: u32,
    len: u32,
    from: u64,
    to: u64,
    list: *mut mmsb_list,
) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let held = held::<LogObject>(log.handle)?;
        let range = offset..offset.saturating_add(len);
        let changes = held.0.history(page.into(), range, from..to)?;
        // SAFETY: checked above.
        unsafe { place.write(open_list(Items::changes(changes), false)?) };
        Ok(MMSB_OK)
    })
}

/// A chain ends here: nothing on the bus caused it.
pub const MMSB_CHAIN_OUTSIDE: u32 = 0;
/// A chain ends here: retention removed the next cause.
pub const MMSB_CHAIN_GONE: u32 = 1;
/// A chain ends here: there is no record where the next cause should be.
pub const MMSB_CHAIN_NO_RECORD: u32 = 2;
/// A chain ends here: the cause named is not earlier than the record.
pub const MMSB_CHAIN_NOT_EARLIER: u32 = 3;
/// A chain goes on, but was to be no longer.
pub const MMSB_CHAIN_TOO_LONG: u32 = 4;

/// The chain of causes of the last change of a page at a moment, or of the record at LSN `moment` if `page` is
/// all-zero: the record, what caused it, and so on, at most `longest` records. `end` (may be null) gets why it ends:
/// `MMSB_CHAIN_OUTSIDE` or another. Read it with `mmsb_list_change`.
///
/// The thread of `log`. `MMSB_NOT_IN_LOG`, `MMSB_MISSING`, `MMSB_LOG`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_log_provenance(
    log: mmsb_log,
    page: mmsb_page_id,
    moment: mmsb_at,
    longest: usize,
    list: *mut mmsb_list,
    end: *mut u32,
) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let held = held::<LogObject>(log.handle)?;
        let of = match (page.generation, at(moment)?) {
            (0, At::Lsn(lsn)) => Cause::Lsn(lsn),
            (0, _) => return Err(Fault::invalid("without a page, the moment is an LSN")),
            (_, moment) => Cause::Page(page.into(), moment),
        };
        let found = held.0.provenance(of, longest)?;
        let why = match found.end {
            ChainEnd::Outside => MMSB_CHAIN_OUTSIDE,
            ChainEnd::Gone { .. } => MMSB_CHAIN_GONE,
            ChainEnd::NoRecord { .. } => MMSB_CHAIN_NO_RECORD,
            ChainEnd::NotEarlier { .. } => MMSB_CHAIN_NOT_EARLIER,
            ChainEnd::TooLong { .. } => MMSB_CHAIN_TOO_LONG,
        };
        let opened = open_list(Items::records(found.chain), false)?;
        // SAFETY: checked above, and by the caller.
        unsafe {
            place.write(opened);
            give(end, why);
        }
        Ok(MMSB_OK)
    })
}

/// What a replay did. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_replayed {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Recorded LSN where it began.
    pub from_lsn: u64,
    /// Recorded LSN where it ended.
    pub to_lsn: u64,
    /// Records.
    pub records: u64,
    /// Bytes of pages that they wrote.
    pub bytes: u64,
    /// Pages made.
    pub created: u64,
    /// Records left out because nothing is known of their page.
    pub skipped: u64,
}

// SAFETY: numbers.
unsafe impl Sized32 for mmsb_replayed {
    const NAME: &'static str = "mmsb_replayed";
    const FIRST: usize = 56;
}

/// Plays the records of a log into a living bus, as new deltas: from LSN `from` (0: the oldest that can be) to ahead of
/// LSN `to` (UINT64_MAX: the end); at `speed` times the recorded pace, or as fast as it goes (0). `prefix` (null: all)
/// limits it to pages. `replayed` may be null.
///
/// The thread of `log` and `bus`. `MMSB_INVALID` (speed), what the log says, what writing to the bus says; everything
/// ahead is played then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_log_play(
    log: mmsb_log,
    bus: mmsb_bus,
    from: u64,
    to: u64,
    speed: f64,
    prefix: *const c_char,
    replayed: *mut mmsb_replayed,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::optional_room(replayed)? };
        let (log, held) = (held::<LogObject>(log.handle)?, enter(bus)?);
        if !speed.is_finite() || speed < 0.0 {
            return Err(Fault::invalid(format!("{speed} is no speed")));
        }
        // SAFETY: by the caller.
        let prefix = unsafe { args::optional_text(prefix, "prefix")? };
        let mut range = Range {
            from,
            to,
            speed: if speed == 0.0 {
                Speed::Max
            } else {
                Speed::Times(speed)
            },
            ..Range::default()
        };
        range.filter.prefix = prefix.map(str::to_owned);
        let done = Player::new(held.bus()?).play(&log.0, &range, &|| false)?;
        if let Some(room) = room {
            let told = mmsb_replayed {
                struct_size: 0,
                reserved: 0,
                from_lsn: done.from_lsn,
                to_lsn: done.to_lsn,
                records: done.records,
                bytes: done.bytes,
                created: done.created,
                skipped: done.skipped,
            };
            room.fill(told);
        }
        Ok(MMSB_OK)
    })
}
