//! Durability: what writes promise, waiting for it, checkpoints.

use std::ffi::c_char;
use std::path::Path;

use bus::checkpoint::{self, CheckpointInfo};
use bus::{Durability, LogState, LogStatus};

use crate::args::{self, Sized32, optional_text, out, time};
use crate::attach::{Side, durability, enter, mmsb_bus};
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};

/// What the later writes through this handle promise when they return: `MMSB_VOLATILE`, `MMSB_BUFFERED` (on its way to
/// the disk within `flush_ns`; 0: 10 ms) or `MMSB_SYNCED`. To write one delta in another way, set it and set it back.
///
/// The thread of `bus`. `MMSB_INVALID`, `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_bus_set_durability(bus: mmsb_bus, level: u32, flush_ns: u64) -> mmsb_status {
    call(|| {
        let level = said(level, flush_ns)?;
        enter(bus)?.bus()?.set_durability(level);
        Ok(MMSB_OK)
    })
}

/// What writers promise who say nothing themselves, of those who attach from now on, in whatever process.
///
/// The thread of `bus`. `MMSB_INVALID`, `MMSB_READ_ONLY`, `MMSB_FORKED`.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_bus_set_default_durability(
    bus: mmsb_bus,
    level: u32,
    flush_ns: u64,
) -> mmsb_status {
    call(|| {
        let level = said(level, flush_ns)?;
        enter(bus)?.bus()?.set_default_durability(level);
        Ok(MMSB_OK)
    })
}

fn said(level: u32, flush_ns: u64) -> Result<Durability, Fault> {
    durability(level, flush_ns)?
        .ok_or_else(|| Fault::invalid("MMSB_DURABILITY_DEFAULT is for options"))
}

/// Waits until the delta at `lsn`, and all ahead of it, are on disk.
///
/// The thread of `bus`. `MMSB_NOT_DURABLE` (its message says what is in the way), `MMSB_READ_ONLY`, `MMSB_FORKED`.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_wait_durable(bus: mmsb_bus, lsn: u64, timeout_ns: u64) -> mmsb_status {
    call(|| {
        enter(bus)?.bus()?.wait_durable(lsn, time(timeout_ns))?;
        Ok(MMSB_OK)
    })
}

/// State of a log: the bus has none.
pub const MMSB_LOG_NONE: u32 = 0;
/// State of a log: a supervisor writes it, or did when it died.
pub const MMSB_LOG_RUNNING: u32 = 1;
/// State of a log: a write or sync failed (`error`); nothing since is durable.
pub const MMSB_LOG_FAILED: u32 = 2;
/// State of a log: it was closed in good order.
pub const MMSB_LOG_CLOSED: u32 = 3;
/// State of a log: nothing is durable before its first checkpoint.
pub const MMSB_LOG_BEGINNING: u32 = 4;

/// How the log of a bus is. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_log_status {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// `MMSB_LOG_RUNNING` or another.
    pub state: u32,
    /// Error number of a failed log.
    pub error: u32,
    /// 1: somebody supervises the bus; 0: nobody; 2: an observer does not know.
    pub is_supervised: u32,
    /// Everything ahead of this LSN is on disk.
    pub durable_lsn: u64,
    /// Next LSN to be given out.
    pub end_lsn: u64,
    /// First LSN that the log still holds.
    pub from_lsn: u64,
    /// Incarnation of the bus.
    pub incarnation: u64,
    /// Where the incarnation begins.
    pub fork_lsn: u64,
    /// LSN that the newest checkpoint holds; 0: none.
    pub checkpoint_lsn: u64,
    /// CLOCK_REALTIME of the newest checkpoint, in ns.
    pub checkpoint_ns: u64,
}

// SAFETY: numbers.
unsafe impl Sized32 for mmsb_log_status {
    const NAME: &'static str = "mmsb_log_status";
    const FIRST: usize = 72;
}

/// How the log of the bus is.
///
/// The thread of `bus`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_log_status(
    bus: mmsb_bus,
    status: *mut mmsb_log_status,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::room(status)? };
        let held = enter(bus)?;
        let found: LogStatus = match held.side()? {
            Side::Bus(bus) => bus.log_status(),
            Side::Observer(observer) => observer.log_status(),
        };
        let (state, error) = match found.state {
            LogState::None => (MMSB_LOG_NONE, 0),
            LogState::Running => (MMSB_LOG_RUNNING, 0),
            LogState::Failed(error) => (MMSB_LOG_FAILED, error),
            LogState::Closed => (MMSB_LOG_CLOSED, 0),
            LogState::Beginning => (MMSB_LOG_BEGINNING, 0),
        };
        let told = mmsb_log_status {
            struct_size: 0,
            state,
            error,
            is_supervised: found.supervised.map_or(2, u32::from),
            durable_lsn: found.durable_lsn,
            end_lsn: found.end_lsn,
            from_lsn: found.from_lsn,
            incarnation: found.incarnation,
            fork_lsn: found.fork_lsn,
            checkpoint_lsn: found.checkpoint_lsn,
            checkpoint_ns: found.checkpoint_ns,
        };
        room.fill(told);
        Ok(MMSB_OK)
    })
}

/// A checkpoint. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_checkpoint_info {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// Replay begins here.
    pub begin_lsn: u64,
    /// It serves the states from here on.
    pub end_lsn: u64,
    /// CLOCK_REALTIME when it was done, in ns.
    pub time_ns: u64,
    /// Pages in it.
    pub pages: u64,
    /// Bytes of the pages.
    pub page_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

// SAFETY: numbers.
unsafe impl Sized32 for mmsb_checkpoint_info {
    const NAME: &'static str = "mmsb_checkpoint_info";
    const FIRST: usize = 56;
}

pub(crate) fn told(info: &CheckpointInfo) -> mmsb_checkpoint_info {
    mmsb_checkpoint_info {
        struct_size: 0,
        reserved: 0,
        begin_lsn: info.begin_lsn,
        end_lsn: info.end_lsn,
        time_ns: info.time_ns,
        pages: info.pages,
        page_bytes: info.page_bytes,
        file_bytes: info.file_bytes,
    }
}

/// Writes a checkpoint beside the log of the bus, while writers run: restarts replay only what is behind it. `log_dir`:
/// where the log is; null: this handle supervises the bus, and knows. `info` may be null.
///
/// The thread of `bus`. `MMSB_LOG`, `MMSB_CHECKPOINT`, `MMSB_SUPERVISOR`, `MMSB_NOT_DURABLE` (the log does not get on
/// within `timeout_ns`), `MMSB_INVALID` (null, and no supervisor here), `MMSB_READ_ONLY`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_checkpoint(
    bus: mmsb_bus,
    log_dir: *const c_char,
    timeout_ns: u64,
    info: *mut mmsb_checkpoint_info,
) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let room = unsafe { args::optional_room(info)? };
        let held = enter(bus)?;
        let bus = held.bus()?;
        // SAFETY: by the caller.
        let done = match (
            unsafe { optional_text(log_dir, "log_dir")? },
            bus.supervisor(),
        ) {
            (Some(dir), _) => {
                let options = checkpoint::Options::default();
                checkpoint::of_bus(bus, Path::new(dir), &options, time(timeout_ns))?
            }
            (None, Some(supervisor)) => supervisor.checkpoint()?,
            (None, None) => {
                return Err(Fault::invalid(
                    "log_dir is null, and this handle supervises no log: say where the log is",
                ));
            }
        };
        if let Some(room) = room {
            room.fill(told(&done));
        }
        Ok(MMSB_OK)
    })
}

/// Everything ahead of this LSN is on disk. Cheap enough to ask all the time.
///
/// The thread of `bus`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_durable_lsn(bus: mmsb_bus, lsn: *mut u64) -> mmsb_status {
    call(|| {
        let place = out(lsn, "lsn")?;
        let held = enter(bus)?;
        let found = match held.side()? {
            Side::Bus(bus) => bus.durable_lsn(),
            Side::Observer(observer) => observer.log_status().durable_lsn,
        };
        // SAFETY: checked above.
        unsafe { place.write(found) };
        Ok(MMSB_OK)
    })
}
