//! How a bus is: geometry, counts, participants, sources, and whether it still is the one of its name.

use std::ffi::c_char;

use bus::{BusInfo, Stats};

use crate::args::{self, Sized32, give, give_text, out};
use crate::attach::{BusObject, Side, c_text, enter, mmsb_bus};
use crate::handle::Held;
use crate::list::{Items, mmsb_list, open_list};
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};

/// What a bus is. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_bus_info {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// Permission bits of the pages.
    pub mode: u32,
    /// Random, the same for all who have this bus.
    pub bus_id: [u8; 16],
    /// Grows by one at each rebuild from a log; LSNs compare within one.
    pub incarnation: u64,
    /// CLOCK_REALTIME at creation, in ns.
    pub created_ns: u64,
    /// Greatest size, in bytes.
    pub bytes_max: u64,
    /// Size now, in bytes.
    pub len_bytes: u64,
    /// Memory that the kernel has given to it, in bytes.
    pub memory_bytes: u64,
    /// Size of the delta ring, in bytes.
    pub ring_bytes: u64,
    /// Most pages at one time.
    pub pages_max: u32,
    /// Most names at one time.
    pub names_max: u32,
    /// Most participants at one time; 0: an observer does not know.
    pub participants_max: u32,
    /// Most cursors at one time; 0: an observer does not know.
    pub cursors_max: u32,
    /// User that it belongs to.
    pub uid: u32,
    /// Group that it belongs to.
    pub gid: u32,
}

// SAFETY: numbers.
unsafe impl Sized32 for mmsb_bus_info {
    const NAME: &'static str = "mmsb_bus_info";
    const FIRST: usize = 96;
}

/// What the bus is.
///
/// The thread of `bus`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_get_info(bus: mmsb_bus, info: *mut mmsb_bus_info) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(info)? };
        let held = enter(bus)?;
        let found: BusInfo = match held.side()? {
            Side::Bus(bus) => bus.info()?,
            Side::Observer(observer) => observer.info()?,
        };
        let bus_id = u128::from_str_radix(&found.id, 16).unwrap_or_default();
        let told = mmsb_bus_info {
            struct_size: 0,
            mode: found.mode,
            bus_id: bus_id.to_be_bytes(),
            incarnation: found.incarnation,
            created_ns: found.created_ns,
            bytes_max: found.bytes_max,
            len_bytes: found.len_bytes,
            memory_bytes: found.pages_blocks_bytes + found.ctl_blocks_bytes,
            ring_bytes: found.ring_bytes,
            pages_max: found.pages_max,
            names_max: found.names_max,
            participants_max: found.participants_max,
            cursors_max: found.cursors_max,
            uid: found.uid,
            gid: found.gid,
        };
        room.fill(told);
        Ok(MMSB_OK)
    })
}

/// How a bus is: sums over its life, and what is in it now. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_stats {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Pages there are.
    pub pages: u64,
    /// Pages with a name.
    pub names: u64,
    /// Source names in use.
    pub sources: u64,
    /// Participants there are.
    pub participants: u64,
    /// Cursors in use.
    pub cursors: u64,
    /// Everything ahead of this LSN is published.
    pub published_lsn: u64,
    /// Next LSN to be given out.
    pub end_lsn: u64,
    /// Records ahead of this LSN may be overwritten.
    pub floor_lsn: u64,
    /// Deltas committed.
    pub deltas: u64,
    /// Bytes that they wrote.
    pub bytes: u64,
    /// Times that a writer waited.
    pub waits: u64,
    /// Reads and commits that were begun again.
    pub retries: u64,
}

// SAFETY: numbers.
unsafe impl Sized32 for mmsb_stats {
    const NAME: &'static str = "mmsb_stats";
    const FIRST: usize = 104;
}

fn stats(held: &Held<BusObject>) -> Result<Stats, Fault> {
    Ok(held.bus()?.stats()?)
}

/// How the bus is. It walks all blocks: milliseconds on a large bus.
///
/// The thread of `bus`. `MMSB_READ_ONLY`, `MMSB_CORRUPT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_get_stats(bus: mmsb_bus, stats: *mut mmsb_stats) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(stats)? };
        let held = enter(bus)?;
        let found = self::stats(&held)?;
        let told = mmsb_stats {
            struct_size: 0,
            reserved: 0,
            pages: found.pages,
            names: found.names,
            sources: found.sources,
            participants: found.participants.len() as u64,
            cursors: found.cursors.len() as u64,
            published_lsn: found.published_lsn,
            end_lsn: found.end_lsn,
            floor_lsn: found.floor_lsn,
            deltas: found.deltas,
            bytes: found.bytes,
            waits: found.waits,
            retries: found.retries,
        };
        room.fill(told);
        Ok(MMSB_OK)
    })
}

/// Lists the participants of a bus. Read them with `mmsb_list_participant`.
///
/// The thread of `bus`. `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_participants(bus: mmsb_bus, list: *mut mmsb_list) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let held = enter(bus)?;
        let items = Items::participants(stats(&held)?);
        let opened = open_list(items, held.serialised())?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}

/// Lists the event counters of a bus. Read them with `mmsb_list_counter`.
///
/// The thread of `bus`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_counters(bus: mmsb_bus, list: *mut mmsb_list) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        let held = enter(bus)?;
        let counters = match held.side()? {
            Side::Bus(bus) => bus.stats()?.counters,
            Side::Observer(observer) => observer.counters(),
        };
        let counters = counters.into_iter().map(|(name, n)| (c_text(name), n));
        let opened = open_list(Items::Counters(counters.collect()), held.serialised())?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}

/// Finishes the work of participants that died. Nobody has to: whoever waits for them does it. `recovered` may be null.
///
/// The thread of `bus`. `MMSB_READ_ONLY`, `MMSB_CORRUPT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_recover(bus: mmsb_bus, recovered: *mut u32) -> mmsb_status {
    call(|| {
        let n = enter(bus)?.bus()?.recover()?;
        // SAFETY: by the caller.
        unsafe { give(recovered, n) };
        Ok(MMSB_OK)
    })
}

/// Whether the name of the bus still leads here: `MMSB_OK`, or `MMSB_BUS_GONE` once it was removed or replaced.
///
/// The thread of `bus`. `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_bus_check(bus: mmsb_bus) -> mmsb_status {
    call(|| {
        if enter(bus)?.bus()?.is_named() {
            return Ok(MMSB_OK);
        }
        Err(Fault::new(
            MMSB_BUS_GONE,
            "the bus was removed or replaced: attach again",
        ))
    })
}

/// Where the order of the bus ends now, unfinished deltas included: what follows from here is new. Cheap enough to ask
/// all the time.
///
/// The thread of `bus`. `MMSB_FORKED`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_end_lsn(bus: mmsb_bus, lsn: *mut u64) -> mmsb_status {
    call(|| {
        let place = out(lsn, "lsn")?;
        let held = enter(bus)?;
        let found = match held.side()? {
            Side::Bus(bus) => bus.end_lsn(),
            Side::Observer(observer) => observer.end_lsn(),
        };
        // SAFETY: checked above.
        unsafe { place.write(found) };
        Ok(MMSB_OK)
    })
}

/// Name of a source, from the number that deltas carry. `needed` (may be null) gets the bytes that it takes with its
/// NUL.
///
/// The thread of `bus`. `MMSB_MISSING`, `MMSB_TOO_SMALL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_source_name(
    bus: mmsb_bus,
    source: u16,
    buffer: *mut c_char,
    size: usize,
    needed: *mut usize,
) -> mmsb_status {
    call(|| {
        let held = enter(bus)?;
        let name = match held.side()? {
            Side::Bus(bus) => bus.source_name(source),
            Side::Observer(observer) => observer.source_name(source),
        };
        let Some(name) = name else {
            return Err(Fault::new(
                MMSB_MISSING,
                format!("there is no source {source}"),
            ));
        };
        // SAFETY: by the caller.
        unsafe { give_text(&name, buffer, size, needed) }
    })
}
