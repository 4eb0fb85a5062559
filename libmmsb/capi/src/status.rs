//! What calls return: fixed numbers, and a message for people in the calling thread.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bus::checkpoint::CheckpointError;
use bus::history::HistoryError;
use bus::playback::PlaybackError;
use bus::state::StateError;
use bus::tlog::LogError;
use bus::{AttachError, Error, PageError};

/// What a function returns. Numbers are never reused or renumbered; later versions may add some: treat an unknown
/// negative number as a failure. Unless a status says otherwise, nothing was changed.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, clippy::upper_case_acronyms)]
pub enum mmsb_status {
    /// Done.
    MMSB_OK = 0,
    /// Not a failure: nothing to tell yet (no event in time, nothing newer).
    MMSB_NOTHING = 1,
    /// An argument is null, out of its range, or not UTF-8.
    MMSB_INVALID = -1,
    /// Null, no handle at all, or one of another kind.
    MMSB_BAD_HANDLE = -2,
    /// The handle, or its bus, was closed.
    MMSB_STALE_HANDLE = -3,
    /// The handle belongs to another thread, which has not ended.
    MMSB_WRONG_THREAD = -4,
    /// Another thread is inside a call with this serialised handle. Callers must take turns.
    MMSB_BUSY = -5,
    /// The bus was opened for observing only.
    MMSB_READ_ONLY = -6,
    /// The page belongs to another bus, or another attachment of it.
    MMSB_OTHER_BUS = -7,
    /// The program was built against an ABI or options that this library does not know.
    MMSB_ABI_MISMATCH = -8,
    /// The buffer is too small; the size needed is told.
    MMSB_TOO_SMALL = -9,
    /// A defect of the library: an internal error was caught. Please report its message.
    MMSB_INTERNAL = -10,
    /// There is no bus, page, field, log or directory of this name.
    MMSB_MISSING = -20,
    /// The page was destroyed.
    MMSB_PAGE_GONE = -21,
    /// The bus was removed or replaced: attach again.
    MMSB_BUS_GONE = -22,
    /// Something of this name exists already.
    MMSB_EXISTS = -23,
    /// A name that cannot be one.
    MMSB_BAD_NAME = -24,
    /// A value of the configuration is out of range.
    MMSB_BAD_CONFIG = -25,
    /// The kernel refused access, or the segment belongs to a user with no claim to trust.
    MMSB_PERMISSION = -26,
    /// The segment is not MMSB's, of another layout, or truncated.
    MMSB_WRONG_LAYOUT = -27,
    /// Bytes in shared memory that no correct participant writes. `mmsb doctor` looks into it.
    MMSB_CORRUPT = -28,
    /// No room: in the tmpfs, in the bus, or in one of its tables.
    MMSB_FULL = -29,
    /// Somebody is creating the bus right now: try again in a moment.
    MMSB_INITIALISING = -30,
    /// The handle was copied by fork: the child must attach for itself.
    MMSB_FORKED = -31,
    /// A range outside the page, ranges out of order, or lengths that do not match.
    MMSB_OUT_OF_RANGE = -32,
    /// The page's size, schema or field type is not the one asked for.
    MMSB_WRONG_SCHEMA = -33,
    /// Text that is no schema, or no value of the field.
    MMSB_BAD_SCHEMA = -34,
    /// The page has no schema.
    MMSB_NO_SCHEMA = -35,
    /// The delta does not fit the ring.
    MMSB_TOO_LARGE = -36,
    /// A living participant kept something for longer than the timeout. The same call may succeed later.
    MMSB_TIMEOUT = -40,
    /// The ring is full and somebody holds it. The same call may succeed later.
    MMSB_BACKPRESSURE = -41,
    /// As MMSB_BACKPRESSURE: the log holds it, and nobody supervises the bus.
    MMSB_NO_SUPERVISOR = -42,
    /// The delta IS committed and visible, and is not on disk. Do not write it again; wait for it with
    /// mmsb_wait_durable.
    MMSB_NOT_DURABLE = -43,
    /// A page that the transaction read has changed; nothing was written. Begin again.
    MMSB_CONFLICT = -44,
    /// An observer found no quiet moment. Try again, or read as a participant.
    MMSB_CONTENDED = -45,
    /// Nothing moves behind an LSN, and an observer cannot repair it.
    MMSB_STALLED = -46,
    /// The page's content is no loaned block.
    MMSB_NOT_LOANED = -47,
    /// Too many loans, views or leases at once.
    MMSB_TOO_MANY_HELD = -48,
    /// Files of a log are damaged, foreign, or of a newer version.
    MMSB_LOG = -60,
    /// A checkpoint is damaged or foreign.
    MMSB_CHECKPOINT = -61,
    /// The log does not reach back, or not yet, to what was asked for.
    MMSB_NOT_IN_LOG = -62,
    /// An LSN of a past that was given up when the bus was rebuilt.
    MMSB_DIVERGED = -63,
    /// The supervisor of the bus reported a failure.
    MMSB_SUPERVISOR = -64,
    /// The kernel refused something else; the message says what.
    MMSB_IO = -65,
    /// Any other failure; the message says what.
    MMSB_FAILED = -66,
}

use mmsb_status::*;

/// A failure on its way out.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) status: mmsb_status,
    message: String,
}

impl Fault {
    pub(crate) fn new(status: mmsb_status, message: impl Into<String>) -> Fault {
        Fault {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Fault {
        Fault::new(MMSB_INVALID, message)
    }

    pub(crate) fn bug() -> Fault {
        Fault::new(MMSB_INTERNAL, "a handle leads nowhere")
    }
}

fn of_attach(e: &AttachError) -> mmsb_status {
    match e {
        AttachError::BadName { .. } => MMSB_BAD_NAME,
        AttachError::Missing { .. } => MMSB_MISSING,
        AttachError::Initialising { .. } => MMSB_INITIALISING,
        AttachError::Exists { .. } => MMSB_EXISTS,
        AttachError::WrongMagic { .. }
        | AttachError::WrongVersion { .. }
        | AttachError::Truncated { .. } => MMSB_WRONG_LAYOUT,
        AttachError::PermissionDenied { .. } | AttachError::ForeignOwner { .. } => MMSB_PERMISSION,
        AttachError::TooManyParticipants { .. } | AttachError::Full(_) => MMSB_FULL,
        AttachError::BadConfig(_) => MMSB_BAD_CONFIG,
        AttachError::BusGone { .. } => MMSB_BUS_GONE,
        AttachError::Corrupt(_) => MMSB_CORRUPT,
        AttachError::Recovery(_) => MMSB_TIMEOUT,
        AttachError::Io { .. } => MMSB_IO,
        _ => MMSB_FAILED,
    }
}

fn of_page(e: &PageError) -> mmsb_status {
    match e {
        PageError::NoSuchName(_) => MMSB_MISSING,
        PageError::NameTaken(_) => MMSB_EXISTS,
        PageError::BadName { .. } => MMSB_BAD_NAME,
        PageError::PageGone(_) => MMSB_PAGE_GONE,
        PageError::BadSize { .. } => MMSB_BAD_CONFIG,
        PageError::OutOfRange { .. }
        | PageError::Overlap { .. }
        | PageError::MaskLength { .. }
        | PageError::TooLong { .. } => MMSB_OUT_OF_RANGE,
        PageError::WrongSize { .. } | PageError::WrongSchema { .. } => MMSB_WRONG_SCHEMA,
        PageError::DeltaTooLarge { .. } => MMSB_TOO_LARGE,
        PageError::Backpressure {
            no_supervisor: true,
            ..
        } => MMSB_NO_SUPERVISOR,
        PageError::Backpressure { .. } => MMSB_BACKPRESSURE,
        PageError::NotDurable { .. } => MMSB_NOT_DURABLE,
        PageError::Timeout { .. } => MMSB_TIMEOUT,
        PageError::Contended(_) => MMSB_CONTENDED,
        PageError::Stalled { .. } => MMSB_STALLED,
        PageError::NotLoaned(_) => MMSB_NOT_LOANED,
        PageError::TooManyHeld { .. } => MMSB_TOO_MANY_HELD,
        PageError::Forked => MMSB_FORKED,
        PageError::BusGone | PageError::Truncated => MMSB_BUS_GONE,
        PageError::Full(_) => MMSB_FULL,
        PageError::Corrupt(_) => MMSB_CORRUPT,
        PageError::Io { .. } => MMSB_IO,
        _ => MMSB_FAILED,
    }
}

fn of_log(e: &LogError) -> mmsb_status {
    match e {
        LogError::Gone { .. } => MMSB_NOT_IN_LOG,
        LogError::Io { source, .. } => of_io(source),
        LogError::Full { .. } => MMSB_FULL,
        _ => MMSB_LOG,
    }
}

fn of_io(e: &std::io::Error) -> mmsb_status {
    match e.kind() {
        std::io::ErrorKind::NotFound => MMSB_MISSING,
        std::io::ErrorKind::PermissionDenied => MMSB_PERMISSION,
        _ => MMSB_IO,
    }
}

fn of_checkpoint(e: &CheckpointError) -> mmsb_status {
    match e {
        CheckpointError::Io { source, .. } => of_io(source),
        _ => MMSB_CHECKPOINT,
    }
}

fn of_state(e: &StateError) -> mmsb_status {
    match e {
        StateError::Log(e) => of_log(e),
        _ => MMSB_LOG,
    }
}

fn of_history(e: &HistoryError) -> mmsb_status {
    match e {
        HistoryError::Gone { .. } | HistoryError::Ahead { .. } | HistoryError::NoRecord { .. } => {
            MMSB_NOT_IN_LOG
        }
        HistoryError::NoLog { .. } | HistoryError::NoPage { .. } => MMSB_MISSING,
        HistoryError::Log(e) => of_log(e),
        HistoryError::State(e) => of_state(e),
        HistoryError::Checkpoint(e) => of_checkpoint(e),
        _ => MMSB_LOG,
    }
}

impl From<Error> for Fault {
    #[cold]
    fn from(e: Error) -> Fault {
        let status = match &e {
            Error::Attach(e) => of_attach(e),
            Error::Page(e) => of_page(e),
            Error::Schema(_) => MMSB_BAD_SCHEMA,
            Error::NoSchema(_) => MMSB_NO_SCHEMA,
            Error::NoSuchField { .. } => MMSB_MISSING,
            Error::OtherBus(_) => MMSB_OTHER_BUS,
            Error::Conflict(_) => MMSB_CONFLICT,
            Error::Log(e) => of_log(e),
            Error::State(e) => of_state(e),
            Error::Checkpoint(e) => of_checkpoint(e),
            Error::History(e) => of_history(e),
            Error::Supervisor(_) => MMSB_SUPERVISOR,
            Error::Diverged { .. } => MMSB_DIVERGED,
            Error::Io { .. } => MMSB_IO,
            _ => MMSB_FAILED,
        };
        Fault::new(status, e.to_string())
    }
}

impl From<PageError> for Fault {
    #[cold]
    fn from(e: PageError) -> Fault {
        Error::from(e).into()
    }
}

impl From<HistoryError> for Fault {
    #[cold]
    fn from(e: HistoryError) -> Fault {
        Error::from(e).into()
    }
}

impl From<CheckpointError> for Fault {
    #[cold]
    fn from(e: CheckpointError) -> Fault {
        Error::from(e).into()
    }
}

impl From<PlaybackError> for Fault {
    #[cold]
    fn from(e: PlaybackError) -> Fault {
        match e {
            PlaybackError::History(e) => e.into(),
            PlaybackError::Bus { source, .. } => source.into(),
            other => Fault::new(MMSB_FAILED, other.to_string()),
        }
    }
}

thread_local! {
    static LAST: RefCell<Option<CString>> = const { RefCell::new(None) };
}

/// Stores the message for the calling thread.
#[cold]
fn fail(fault: Fault) -> mmsb_status {
    let mut bytes = fault.message.into_bytes();
    bytes.retain(|byte| *byte != 0);
    let text = CString::new(bytes).unwrap_or_default();
    // While the thread ends there may be nowhere to put it; the status says enough.
    let _ = LAST.try_with(|last| last.replace(Some(text)));
    fault.status
}

/// Runs the body of an entry point. Panics end here.
#[inline]
pub(crate) fn call(body: impl FnOnce() -> Result<mmsb_status, Fault>) -> mmsb_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(status)) => status,
        Ok(Err(fault)) => fail(fault),
        Err(panic) => fail(caught(&*panic)),
    }
}

#[cold]
fn caught(panic: &(dyn Any + Send)) -> Fault {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "of an unknown kind".to_owned());
    Fault::new(MMSB_INTERNAL, format!("internal error: {text}"))
}

/// What the last call of this thread that failed had to say, for people: in English, and what to do about it. Never
/// null; empty if nothing failed. It lives until the next failure in this thread.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_last_error() -> *const c_char {
    let found = LAST.try_with(|last| last.borrow().as_ref().map(|text| text.as_ptr()));
    found.ok().flatten().unwrap_or(c"".as_ptr())
}

/// Name of a status, such as `MMSB_TIMEOUT`; `MMSB_?` for a number that this library does not know. Never null, lives
/// for ever.
///
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn mmsb_status_name(status: i32) -> *const c_char {
    let found = NAMES.iter().find(|(known, _)| *known as i32 == status);
    found.map_or(c"MMSB_?", |(_, name)| *name).as_ptr()
}

macro_rules! names {
    ($($name:ident)*) => {
        /// Every status with its name.
        const NAMES: &[(mmsb_status, &CStr)] = &[$(($name, {
            const NAME: &[u8] = concat!(stringify!($name), "\0").as_bytes();
            match CStr::from_bytes_with_nul(NAME) {
                Ok(name) => name,
                Err(_) => panic!("an identifier holds no NUL"),
            }
        })),*];
    };
}

names! {
    MMSB_OK MMSB_NOTHING MMSB_INVALID MMSB_BAD_HANDLE MMSB_STALE_HANDLE MMSB_WRONG_THREAD MMSB_BUSY
    MMSB_READ_ONLY MMSB_OTHER_BUS MMSB_ABI_MISMATCH MMSB_TOO_SMALL MMSB_INTERNAL MMSB_MISSING MMSB_PAGE_GONE
    MMSB_BUS_GONE MMSB_EXISTS MMSB_BAD_NAME MMSB_BAD_CONFIG MMSB_PERMISSION MMSB_WRONG_LAYOUT MMSB_CORRUPT
    MMSB_FULL MMSB_INITIALISING MMSB_FORKED MMSB_OUT_OF_RANGE MMSB_WRONG_SCHEMA MMSB_BAD_SCHEMA MMSB_NO_SCHEMA
    MMSB_TOO_LARGE MMSB_TIMEOUT MMSB_BACKPRESSURE MMSB_NO_SUPERVISOR MMSB_NOT_DURABLE MMSB_CONFLICT
    MMSB_CONTENDED MMSB_STALLED MMSB_NOT_LOANED MMSB_TOO_MANY_HELD MMSB_LOG MMSB_CHECKPOINT MMSB_NOT_IN_LOG
    MMSB_DIVERGED MMSB_SUPERVISOR MMSB_IO MMSB_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: a string that lives until the next failure of this thread.
        unsafe { CStr::from_ptr(mmsb_last_error()) }
            .to_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn a_panic_ends_at_the_boundary_as_a_status_and_a_message() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let statuses = [
            call(|| panic!("a plain one")),
            call(|| panic!("one of {}", 7)),
            call(|| std::panic::panic_any(7u8)),
        ];
        std::panic::set_hook(hook);
        assert_eq!(statuses, [MMSB_INTERNAL; 3]);
        assert_eq!(last(), "internal error: of an unknown kind");
        let status = call(|| Err(Fault::invalid("a NUL\0 inside")));
        assert_eq!((status, last().as_str()), (MMSB_INVALID, "a NUL inside"));
        assert_eq!(call(|| Ok(MMSB_NOTHING)), MMSB_NOTHING);
        assert_eq!(last(), "a NUL inside", "what succeeds leaves it");
    }

    #[test]
    fn a_panic_with_a_thing_in_hand_lets_go_of_it() {
        struct Inside<'a>(&'a std::cell::Cell<bool>);
        impl Drop for Inside<'_> {
            fn drop(&mut self) {
                self.0.set(false);
            }
        }
        let is_inside = std::cell::Cell::new(true);
        let status = call(|| {
            let _inside = Inside(&is_inside);
            panic!("inside");
        });
        assert_eq!((status, is_inside.get()), (MMSB_INTERNAL, false));
    }

    #[test]
    fn every_status_has_its_name_once() {
        for (at, (status, name)) in NAMES.iter().enumerate() {
            assert_eq!(format!("{status:?}"), name.to_str().unwrap());
            assert!(NAMES[..at].iter().all(|(s, _)| s != status));
            // SAFETY: a constant.
            let told = unsafe { CStr::from_ptr(mmsb_status_name(*status as i32)) };
            assert_eq!(told, *name);
        }
    }
}
