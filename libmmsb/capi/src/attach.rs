//! Buses: making, attaching, observing, leaving.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::c_char;
use std::path::Path;

use bus::{Bus, BusBuilder, Durability, Observer, OnFull};

use crate::args::{self, Sized32, optional_text, options, out, text, time};
use crate::handle::{self, Held, Kind, Object, Root, held};
use crate::list::{Items, mmsb_list, open_list};
use crate::status::{Fault, call, mmsb_status, mmsb_status::*};

/// A bus: one participant, or an observer. `{0}` is none.
///
/// It and everything that comes from it (pages, batches, subscriptions, …) belongs to the thread that uses it first,
/// until that thread ends; then to the next one. With `MMSB_SERIALISED` any thread may use it, one at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub struct mmsb_bus {
    /// A number that means nothing outside this process.
    pub handle: u64,
}

/// Flag of `mmsb_bus_options`: calls come from any thread, one at a time. Two at once: the later one gets `MMSB_BUSY`.
/// A call that waits is a call all that time.
pub const MMSB_SERIALISED: u32 = 1;
/// Flag of `mmsb_bus_options`: copying the bytes of a page that somebody has cut off the segment gives `MMSB_BUS_GONE`,
/// not a SIGBUS. (What is cut off ahead of the pages, the directory and the ring, can still cause one.) It installs a
/// handler for SIGBUS in this process, which calls the one that was there for whatever is not MMSB's.
pub const MMSB_SIGBUS_GUARD: u32 = 2;
/// Flag of `mmsb_bus_options`: writers get `MMSB_BACKPRESSURE` at once when the ring is full, and do not wait.
pub const MMSB_FAIL_WHEN_FULL: u32 = 4;

/// Durability: what the bus says by default.
pub const MMSB_DURABILITY_DEFAULT: u32 = 0;
/// Durability: a write that returned survives every process, not a reboot.
pub const MMSB_VOLATILE: u32 = 1;
/// Durability: a write is on its way to the disk within `flush_ns`.
pub const MMSB_BUFFERED: u32 = 2;
/// Durability: a write that returned is on disk.
pub const MMSB_SYNCED: u32 = 3;

/// How to make or attach to a bus. Set `struct_size` and `abi`, and leave 0 what shall be as it is by default; or use
/// `MMSB_BUS_OPTIONS_INIT`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types)]
pub struct mmsb_bus_options {
    /// `sizeof` this struct.
    pub struct_size: u32,
    /// `MMSB_ABI_VERSION`.
    pub abi: u32,
    /// `MMSB_SERIALISED` and others, or-ed.
    pub flags: u32,
    /// Of writes through this handle: `MMSB_SYNCED` and others.
    pub durability: u32,
    /// Directory of the segments; null: `$MMSB_DIR`, else `/dev/shm`.
    pub dir: *const c_char,
    /// Name of this participant, of which 46 bytes are kept; its deltas carry it as their source. Null: `pid N`.
    pub source: *const c_char,
    /// Directory of the log: the bus gets one, and this process supervises it unless another one does. Null: none.
    pub log_dir: *const c_char,
    /// Longest wait for a living participant, or for room in the ring, in ns; 0: 5 s.
    pub timeout_ns: u64,
    /// With `MMSB_BUFFERED`: greatest age of a delta that is not on its way to the disk, in ns.
    pub flush_ns: u64,
    /// Only when the bus is made: greatest size in bytes, address space only until used.
    pub bytes_max: u64,
    /// Only when the bus is made: size of the delta ring in bytes.
    pub ring_bytes: u64,
    /// Only when the bus is made: most pages at one time.
    pub pages_max: u32,
    /// Only when the bus is made: most pages with a name, schema or metadata.
    pub names_max: u32,
    /// Only when the bus is made: most participants at one time.
    pub participants_max: u32,
    /// Only when the bus is made: most subscriptions of participants at one time.
    pub cursors_max: u32,
    /// Only when the bus is made: most source names.
    pub sources_max: u32,
    /// Only when the bus is made: permission bits for those who may observe, such as 0644.
    pub mode: u32,
    /// Only when the bus is made: permission bits for those who may write, such as 0660.
    pub ctl_mode: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: numbers and pointers.
unsafe impl Sized32 for mmsb_bus_options {
    const NAME: &'static str = "mmsb_bus_options";
    const FIRST: usize = 104;
}

/// One side of a bus.
pub(crate) enum Side {
    /// A participant.
    Bus(&'static Bus),
    /// An observer.
    Observer(&'static Observer),
}

/// What an `mmsb_bus` leads to.
pub(crate) struct BusObject {
    side: Side,
    /// Handles that end with this one.
    children: RefCell<HashSet<u64>>,
    serialised: bool,
}

impl Object for BusObject {
    const KIND: Kind = Kind::Bus;
}

impl BusObject {
    /// The participant.
    #[inline]
    pub(crate) fn bus(&self) -> Result<&'static Bus, Fault> {
        match self.side()? {
            Side::Bus(bus) => Ok(bus),
            Side::Observer(_) => Err(read_only()),
        }
    }

    /// Whatever it is, and no copy that a fork made.
    #[inline]
    pub(crate) fn side(&self) -> Result<&Side, Fault> {
        if let Side::Bus(bus) = self.side {
            bus.participant().check_fork()?;
        }
        Ok(&self.side)
    }

    /// Whether what comes from it may be used by any thread.
    pub(crate) fn serialised(&self) -> bool {
        self.serialised
    }

    /// Makes a handle that ends with this one.
    pub(crate) fn adopt<T: Object>(&self, of: mmsb_bus, child: Box<T>) -> Result<u64, Fault> {
        self.adopt_of(of.handle, child)
    }

    /// Makes a handle beside another one that came from this bus.
    pub(crate) fn adopt_of<T: Object>(&self, sibling: u64, child: Box<T>) -> Result<u64, Fault> {
        let handle = handle::open(child, Root::Of(sibling))?;
        self.children.borrow_mut().insert(handle);
        Ok(handle)
    }

    pub(crate) fn forget(&self, child: u64) {
        self.children.borrow_mut().remove(&child);
    }

    /// Ends everything that came from the bus, then the bus.
    fn end(self) -> Result<(), Fault> {
        for child in self.children.into_inner() {
            crate::many::end_child(child);
        }
        match self.side {
            Side::Bus(bus) => {
                let is_copy = bus.participant().check_fork().is_err();
                if is_copy && bus.supervisor().is_some() {
                    // The supervisor's thread is the parent's: it cannot be ended from here, nor its state be freed.
                    return Ok(());
                }
                // SAFETY: `leak` made it from a box, and whatever borrowed from it has ended just now.
                let bus = unsafe { Box::from_raw(std::ptr::from_ref(bus).cast_mut()) };
                Ok(bus.close()?)
            }
            Side::Observer(observer) => {
                // SAFETY: as above.
                drop(unsafe { Box::from_raw(std::ptr::from_ref(observer).cast_mut()) });
                Ok(())
            }
        }
    }
}

#[cold]
pub(crate) fn read_only() -> Fault {
    Fault::new(
        MMSB_READ_ONLY,
        "the bus was opened for observing: attach to it to write, subscribe as a participant or wait",
    )
}

/// The bus of a handle.
#[inline]
pub(crate) fn enter(bus: mmsb_bus) -> Result<Held<BusObject>, Fault> {
    held(bus.handle)
}

pub(crate) fn open_bus(side: Side, serialised: bool) -> Result<mmsb_bus, Fault> {
    let object = BusObject {
        side,
        children: RefCell::default(),
        serialised,
    };
    let handle = handle::open(Box::new(object), Root::Own { serialised })?;
    Ok(mmsb_bus { handle })
}

pub(crate) fn durability(level: u32, flush_ns: u64) -> Result<Option<Durability>, Fault> {
    Ok(match level {
        MMSB_DURABILITY_DEFAULT => None,
        MMSB_VOLATILE => Some(Durability::Volatile),
        MMSB_BUFFERED => Some(Durability::Buffered(match flush_ns {
            0 => std::time::Duration::from_millis(10),
            ns => time(ns),
        })),
        MMSB_SYNCED => Some(Durability::Synced),
        other => return Err(Fault::invalid(format!("{other} is no durability"))),
    })
}

/// What the options say to the builder.
///
/// # Safety
/// The strings in the options are null or NUL-terminated.
pub(crate) unsafe fn builder(
    name: &str,
    options: &mmsb_bus_options,
) -> Result<(BusBuilder, bool), Fault> {
    if options.struct_size != 0 {
        args::check_abi(options.abi)?;
    }
    let known = MMSB_SERIALISED | MMSB_SIGBUS_GUARD | MMSB_FAIL_WHEN_FULL;
    if options.flags & !known != 0 || options.reserved != 0 {
        return Err(Fault::new(
            MMSB_ABI_MISMATCH,
            format!("flags {:#x} are not known", options.flags & !known),
        ));
    }
    // SAFETY: by the caller.
    let (dir, source, log) = unsafe {
        (
            optional_text(options.dir, "dir")?,
            optional_text(options.source, "source")?,
            optional_text(options.log_dir, "log_dir")?,
        )
    };
    let mut builder = Bus::builder(name);
    if let Some(dir) = dir {
        builder = builder.dir(dir);
    }
    if let Some(source) = source {
        builder = builder.source(source);
    }
    if let Some(log) = log {
        builder = builder.durable(log);
    }
    if let Some(durability) = durability(options.durability, options.flush_ns)? {
        builder = builder.durability(durability);
    }
    if options.timeout_ns != 0 {
        builder = builder.timeout(time(options.timeout_ns));
    }
    if options.flags & MMSB_FAIL_WHEN_FULL != 0 {
        builder = builder.on_full(OnFull::Fail);
    }
    if options.flags & MMSB_SIGBUS_GUARD != 0 {
        builder = builder.sigbus_guard(true);
    }
    macro_rules! set {
        ($($field:ident),*) => {
            $(if options.$field != 0 { builder = builder.$field(options.$field); })*
        };
    }
    set!(
        bytes_max,
        ring_bytes,
        pages_max,
        names_max,
        participants_max,
        cursors_max,
        sources_max,
        mode,
        ctl_mode
    );
    Ok((builder, options.flags & MMSB_SERIALISED != 0))
}

unsafe fn open_with(
    name: *const c_char,
    given: *const mmsb_bus_options,
    bus: *mut mmsb_bus,
    how: impl FnOnce(BusBuilder) -> Result<Side, bus::Error>,
) -> mmsb_status {
    call(|| {
        let place = out(bus, "bus")?;
        // SAFETY: the callers' callers give valid pointers or null.
        let (builder, serialised) = unsafe {
            let name = text(name, "name")?;
            builder(name, &options(given)?)?
        };
        let opened = open_bus(how(builder)?, serialised)?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}

fn leak(bus: Bus) -> Side {
    Side::Bus(Box::leak(Box::new(bus)))
}

/// Makes a bus that does not exist, and attaches to it.
///
/// Any thread. `MMSB_EXISTS`, `MMSB_BAD_NAME`, `MMSB_BAD_CONFIG`, `MMSB_FULL`, `MMSB_PERMISSION`, and what the log
/// says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_create(
    name: *const c_char,
    options: *const mmsb_bus_options,
    bus: *mut mmsb_bus,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe { open_with(name, options, bus, |builder| Ok(leak(builder.create()?))) }
}

/// Attaches to a bus that exists, as a participant that may read and write.
///
/// Any thread. `MMSB_MISSING`, `MMSB_INITIALISING`, `MMSB_PERMISSION`, `MMSB_WRONG_LAYOUT`, `MMSB_FULL` (all
/// participant slots are taken), `MMSB_BUS_GONE`, `MMSB_CORRUPT` (what a dead participant left: `mmsb doctor` helps),
/// `MMSB_TIMEOUT`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_attach(
    name: *const c_char,
    options: *const mmsb_bus_options,
    bus: *mut mmsb_bus,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe { open_with(name, options, bus, |builder| Ok(leak(builder.attach()?))) }
}

/// Attaches to a bus, or makes it, or brings it back from its log. Whoever else does the same at the same moment gets
/// the same bus.
///
/// Any thread. As `mmsb_bus_create` and `mmsb_bus_attach`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_open_or_create(
    name: *const c_char,
    options: *const mmsb_bus_options,
    bus: *mut mmsb_bus,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe {
        open_with(name, options, bus, |builder| {
            Ok(leak(builder.open_or_create()?))
        })
    }
}

/// Opens a bus for reading only: needs no more than read permission, takes no participant's slot, can neither harm nor
/// delay anybody.
///
/// Any thread. As `mmsb_bus_attach`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_observe(
    name: *const c_char,
    options: *const mmsb_bus_options,
    bus: *mut mmsb_bus,
) -> mmsb_status {
    // SAFETY: by the caller.
    unsafe {
        open_with(name, options, bus, |builder| {
            Ok(Side::Observer(Box::leak(Box::new(builder.observe()?))))
        })
    }
}

/// Joins a bus once more, for another thread, which may be the one that uses `other` first. `source` is its name, or
/// null for that of `bus`.
///
/// The thread of `bus`. `MMSB_FULL`, `MMSB_READ_ONLY` (open an observer for each thread).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_another(
    bus: mmsb_bus,
    source: *const c_char,
    other: *mut mmsb_bus,
) -> mmsb_status {
    call(|| {
        let place = out(other, "other")?;
        let held = enter(bus)?;
        // SAFETY: by the caller.
        let source = unsafe { optional_text(source, "source")? };
        let one = held.bus()?;
        let own = one.participant().config().name.clone();
        let joined = one.another(source.unwrap_or(&own))?;
        let serialised = held.serialised;
        drop(held);
        // SAFETY: checked above.
        unsafe { place.write(open_bus(leak(joined), serialised)?) };
        Ok(MMSB_OK)
    })
}

/// Lets the next thread that uses it have a bus and everything that came from it, while this one lives on: the program
/// says so to the other thread by means of its own. Nothing changes for a serialised bus.
///
/// The thread of `bus`.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_bus_release(bus: mmsb_bus) -> mmsb_status {
    call(|| {
        handle::release(bus.handle, Kind::Bus)?;
        Ok(MMSB_OK)
    })
}

/// Closes everything that came from the bus, but lists, and leaves it; ends its supervisor if no other handle of this
/// process has it: writes what is in the ring and seals the log. The handle is stale afterwards, also with
/// `MMSB_SUPERVISOR`. In a child of fork it frees memory and nothing else: the bus is the parent's.
///
/// The thread of `bus`. `MMSB_SUPERVISOR`: the log could not be ended in good order.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_bus_close(bus: mmsb_bus) -> mmsb_status {
    call(|| {
        let (object, freed) = handle::close::<BusObject>(bus.handle)?.into_parts();
        let result = object.end();
        drop(freed);
        result.map(|()| MMSB_OK)
    })
}

/// Removes a bus: its names go at once, its memory when the last one who has it mapped leaves. `dir` may be null.
///
/// Any thread. `MMSB_MISSING`, `MMSB_PERMISSION`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_unlink(dir: *const c_char, name: *const c_char) -> mmsb_status {
    call(|| {
        // SAFETY: by the caller.
        let (dir, name) = unsafe { (optional_text(dir, "dir")?, text(name, "name")?) };
        match dir {
            Some(dir) => Bus::unlink_in(dir, name)?,
            None => Bus::unlink(name)?,
        }
        Ok(MMSB_OK)
    })
}

/// Lists the names of the buses in a directory (null: the default one). Read them with `mmsb_list_name`.
///
/// Any thread. `MMSB_IO`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmsb_bus_list(dir: *const c_char, list: *mut mmsb_list) -> mmsb_status {
    call(|| {
        let place = out(list, "list")?;
        // SAFETY: by the caller.
        let names = match unsafe { optional_text(dir, "dir")? } {
            Some(dir) => Bus::list_in(Path::new(dir))?,
            None => Bus::list()?,
        };
        let names = Items::Names(names.iter().map(|name| c_text(name)).collect());
        let opened = open_list(names, false)?;
        // SAFETY: checked above.
        unsafe { place.write(opened) };
        Ok(MMSB_OK)
    })
}

/// Text as C has it. A NUL inside, which no name has, ends it.
pub(crate) fn c_text(text: &str) -> Box<std::ffi::CStr> {
    let text = text.split('\0').next().unwrap_or_default();
    std::ffi::CString::new(text)
        .unwrap_or_default()
        .into_boxed_c_str()
}
