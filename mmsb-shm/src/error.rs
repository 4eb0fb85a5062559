//! Errors of the shared-memory core, one enum for each family of operations.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::PageId;

/// Bytes in a segment that no correct participant can have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("corrupt segment: {what} at offset {offset}; stop all participants and run `mmsb doctor`")]
pub struct Corrupt {
    /// What was being read.
    pub what: &'static str,
    /// Byte offset from the start of the object it was read from, or the offending value.
    pub offset: u64,
}

/// Why a bus could not be created, attached, observed or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The name cannot be a bus name.
    #[error("bad bus name {name:?}: {why}")]
    BadName {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No bus of this name.
    #[error("no bus named {name:?} in {dir}; create it with `mmsb create {name}`")]
    Missing {
        /// The bus.
        name: String,
        /// The directory searched.
        dir: PathBuf,
    },
    /// Somebody is creating the bus right now and has not finished.
    #[error("bus {name:?} is still being created; try again in a moment")]
    Initialising {
        /// The bus.
        name: String,
    },
    /// `create` found a bus of this name.
    #[error(
        "bus {name:?} already exists in {dir}; attach to it, or remove it with `mmsb rm {name}`"
    )]
    Exists {
        /// The bus.
        name: String,
        /// Its directory.
        dir: PathBuf,
    },
    /// The object is not an MMSB segment.
    #[error("{path} is not an MMSB segment: magic {found:#018x} instead of {expected:#018x}")]
    WrongMagic {
        /// The file.
        path: PathBuf,
        /// The eight bytes it should start with.
        expected: u64,
        /// The eight bytes it starts with.
        found: u64,
    },
    /// The segment has another layout than this build.
    #[error(
        "{path} has layout {found_major}.{found_minor} (hash {found_hash:#018x}), this build speaks \
         {expected_major}.{expected_minor} (hash {expected_hash:#018x}); use the same MMSB version on both sides, \
         or recreate the bus"
    )]
    WrongVersion {
        /// The file.
        path: PathBuf,
        /// Layout major version in the segment.
        found_major: u32,
        /// Layout minor version in the segment.
        found_minor: u32,
        /// Layout hash in the segment.
        found_hash: u64,
        /// Layout major version of this build.
        expected_major: u32,
        /// Layout minor version of this build.
        expected_minor: u32,
        /// Layout hash of this build.
        expected_hash: u64,
    },
    /// The object is shorter than its header says.
    #[error(
        "{path} is truncated: {found} bytes where its header needs {expected}; remove it with `mmsb rm`"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes its header promises.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// The kernel refused access.
    #[error("permission denied on {path}: {hint}")]
    PermissionDenied {
        /// The file.
        path: PathBuf,
        /// What to do about it.
        hint: String,
    },
    /// The segment belongs to a user that this process has no reason to trust with its memory.
    #[error("{path} belongs to uid {owner}, not to you or root; observe it, or join its group")]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// All participant slots are taken by living participants.
    #[error(
        "all {max} participant slots are taken by living participants; create the bus with more"
    )]
    TooManyParticipants {
        /// How many slots there are.
        max: u32,
    },
    /// A value in the configuration is out of range.
    #[error("bad configuration: {0}")]
    BadConfig(String),
    /// The bus was removed or replaced under this participant.
    #[error("bus {name:?} is gone: its segments were removed or replaced; attach again")]
    BusGone {
        /// The bus.
        name: String,
    },
    /// The tmpfs has no room.
    #[error(transparent)]
    Full(#[from] BusFull),
    /// Bytes that make no sense.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The participants of this process cannot be recovered without waiting for others.
    #[error("recovery of dead participants did not finish: {0}")]
    Recovery(String),
    /// Any other answer of the kernel.
    #[error("{what} {path}: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// No room: in the tmpfs, in the address space of the bus, or in one of its tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BusFull {
    /// The tmpfs refused more memory.
    #[error(
        "the tmpfs is full: {wanted} bytes wanted, {available} of {total} free; enlarge it \
         (mount -o remount,size=... {dir}; docker run --shm-size=...) or set MMSB_DIR to a larger one"
    )]
    Tmpfs {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes the filesystem still has.
        available: u64,
        /// Its size in bytes.
        total: u64,
        /// Where it is mounted.
        dir: PathBuf,
    },
    /// The bus reached the size it was created for.
    #[error(
        "the bus is full: {wanted} bytes wanted, its maximum is {max}; create it with a larger `bytes_max`"
    )]
    Bytes {
        /// Bytes asked for.
        wanted: u64,
        /// Its maximum length in bytes.
        max: u64,
    },
    /// All page numbers are in use.
    #[error("the page directory is full: {max} pages; create the bus with a larger `pages_max`")]
    Pages {
        /// Entries in the directory.
        max: u32,
    },
    /// The name directory is full.
    #[error("the name directory is full: {max} entries; create the bus with a larger `names_max`")]
    Names {
        /// Entries it was made for.
        max: u32,
    },
    /// The table of sources is full.
    #[error("the table of sources is full: {max} entries; reuse source names")]
    Sources {
        /// Entries it was made for.
        max: u32,
    },
    /// The cursor table is full.
    #[error(
        "all {max} cursors are in use; drop a subscription or create the bus with a larger `cursors_max`"
    )]
    Cursors {
        /// Entries it was made for.
        max: u32,
    },
}

/// Why an operation on a page did not happen. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// No page of this name.
    #[error("no page named {0:?}")]
    NoSuchName(String),
    /// The name is taken.
    #[error("a page named {0:?} exists already")]
    NameTaken(String),
    /// The name cannot be a page name.
    #[error("bad page name {name:?}: {why}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The page was destroyed, or the id never named one.
    #[error("page {0} is gone")]
    PageGone(PageId),
    /// A page of this size cannot be made.
    #[error("a page of {bytes} bytes cannot be made: sizes are 1 byte to 1 GiB")]
    BadSize {
        /// The size asked for.
        bytes: u64,
    },
    /// A range reaches past the end of the page.
    #[error("bytes {offset}..{end} are outside page {page}, which has {size}", end = .offset.saturating_add(*.len))]
    OutOfRange {
        /// The page.
        page: PageId,
        /// First byte of the range.
        offset: u64,
        /// Its length.
        len: u64,
        /// Size of the page.
        size: u64,
    },
    /// Two ranges of one delta overlap or are out of order.
    #[error("range {index} of the delta starts at {offset}, before the end of the one ahead of it")]
    Overlap {
        /// Which range.
        index: usize,
        /// Where it starts.
        offset: u64,
    },
    /// A mask and its payload differ in length.
    #[error("the mask has {mask} bytes and the payload {payload}; they must have the same length")]
    MaskLength {
        /// Length of the mask.
        mask: usize,
        /// Length of the payload.
        payload: usize,
    },
    /// A typed access whose type does not fit the page.
    #[error("the type has {wanted} bytes, page {page} has {size}")]
    WrongSize {
        /// The page.
        page: PageId,
        /// Size of the type.
        wanted: usize,
        /// Size of the page.
        size: usize,
    },
    /// The page's schema is not the one asked for.
    #[error("page {page} has schema {found:#018x}, not {expected:#018x}")]
    WrongSchema {
        /// The page.
        page: PageId,
        /// Hash asked for.
        expected: u64,
        /// Hash found (0: the page has none).
        found: u64,
    },
    /// The delta does not fit the ring.
    #[error(
        "the delta needs {slots} ring slots, at most {max} fit one record; split it, write the page whole, or create \
         the bus with a larger ring"
    )]
    DeltaTooLarge {
        /// Slots needed.
        slots: u64,
        /// Slots one record may have.
        max: u64,
    },
    /// The ring is full and stayed so for the time allowed. Closures of `update` and `transaction` run again when
    /// the call is repeated.
    #[error("the delta ring is full after {waited:?}: {blocker} holds LSN {lsn}")]
    Backpressure {
        /// Who keeps the ring from moving on.
        blocker: String,
        /// The LSN it holds.
        lsn: u64,
        /// How long the writer waited.
        waited: Duration,
        /// It is the log that holds it, and nobody supervises the bus.
        no_supervisor: bool,
    },
    /// The delta is committed and visible, and not on disk. Doing it again would apply it twice.
    #[error(
        "the delta at LSN {lsn} is committed but not on disk after {waited:?}: {why}; do not repeat it, wait for it again"
    )]
    NotDurable {
        /// The delta.
        lsn: u64,
        /// What is in the way.
        why: String,
        /// How long the caller waited.
        waited: Duration,
    },
    /// A living participant kept something locked for the whole time allowed.
    #[error(
        "{what} is held by {holder} for over {waited:?}; it is alive (stopped?), so it is not repaired"
    )]
    Timeout {
        /// What is locked.
        what: String,
        /// Who holds it.
        holder: String,
        /// How long the caller waited.
        waited: Duration,
    },
    /// An observer could not get a quiet moment. Participants never see this.
    #[error(
        "page {0} changed during every one of the reads tried; try again, or read as a participant"
    )]
    Contended(PageId),
    /// Nothing moves behind this LSN, and an observer cannot repair it.
    #[error(
        "the ring stands still at LSN {lsn}: its writer is dead or stopped; any participant's next commit repairs it"
    )]
    Stalled {
        /// The LSN that is not finished.
        lsn: u64,
    },
    /// The operation needs a page whose content is a loaned block.
    #[error("page {0} holds no loaned block; publish a loan first, or read a copy")]
    NotLoaned(PageId),
    /// Too many blocks, pins or leases held at once by one participant.
    #[error("one participant can hold {max} {what} at once")]
    TooManyHeld {
        /// What is counted.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// This handle was copied by fork; the child must attach for itself.
    #[error("this handle belongs to the parent process: attach again after fork")]
    Forked,
    /// The bus was removed or replaced.
    #[error("the bus is gone: its segments were removed or replaced; attach again")]
    BusGone,
    /// The metadata or schema is too long.
    #[error("{what} has {bytes} bytes, at most {max} are stored")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The object was cut short under the mapping (only with the SIGBUS guard installed).
    #[error("the segment was truncated under this process; detach and recreate the bus")]
    Truncated,
    /// No room.
    #[error(transparent)]
    Full(#[from] BusFull),
    /// Bytes that make no sense.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// A system call failed.
    #[error("{what}: {message}")]
    Io {
        /// The operation.
        what: &'static str,
        /// The kernel's answer.
        message: String,
    },
}

impl PageError {
    pub(crate) fn io(what: &'static str, e: io::Error) -> PageError {
        PageError::Io {
            what,
            message: e.to_string(),
        }
    }
}
