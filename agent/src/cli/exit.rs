//! Exit codes of `mmsb`, and the error that carries one.
//!
//! The codes are stable; scripts may rely on them.
//!
//! | code | name | meaning |
//! | --- | --- | --- |
//! | 0 | `ok` | done; for `doctor`, `demo` and `bench`: nothing wrong was found |
//! | 1 | `problem` | a problem was found, a page does not exist, or any failure without a code of its own |
//! | 2 | `usage` | the command line or a value on it makes no sense |
//! | 3 | `permission` | the kernel refused access |
//! | 4 | `no_bus` | no such bus, or it was removed meanwhile |
//! | 5 | `busy` | a timeout, a full ring, a living participant in the way: trying again may help |
//! | 6 | `full` | no room: in the tmpfs, in the bus or in one of its tables |
//! | 7 | `corrupt` | damaged, cut short, or made by another version |
//! | 8 | `exists` | a bus or page of this name is there already |

use std::io;

use mmsb::checkpoint::CheckpointError;
use mmsb::history::HistoryError;
use mmsb::playback::PlaybackError;
use mmsb::state::StateError;
use mmsb::tlog::LogError;
use mmsb::{AttachError, Error, PageError};
use serde_json::{Value, json};

use super::value::ValueError;

/// What a run of `mmsb` ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// Done, and nothing wrong was found.
    Ok = 0,
    /// Something is wrong or not there.
    Problem = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Access was refused.
    Permission = 3,
    /// No such bus.
    NoBus = 4,
    /// Somebody is in the way; trying again may help.
    Busy = 5,
    /// No room.
    Full = 6,
    /// Damaged, or of another version.
    Corrupt = 7,
    /// The name is taken.
    Exists = 8,
}

impl Code {
    /// All of them, by number.
    pub const ALL: [Code; 9] = [
        Code::Ok,
        Code::Problem,
        Code::Usage,
        Code::Permission,
        Code::NoBus,
        Code::Busy,
        Code::Full,
        Code::Corrupt,
        Code::Exists,
    ];

    /// The name used in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Code::Ok => "ok",
            Code::Problem => "problem",
            Code::Usage => "usage",
            Code::Permission => "permission",
            Code::NoBus => "no_bus",
            Code::Busy => "busy",
            Code::Full => "full",
            Code::Corrupt => "corrupt",
            Code::Exists => "exists",
        }
    }
}

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> std::process::ExitCode {
        std::process::ExitCode::from(code as u8)
    }
}

/// Why a command stopped: a code for scripts and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// One line: what is wrong, and what to do about it. Empty if there is nobody left to tell.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
        }
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Code::Usage, message)
    }

    /// Something is wrong or not there.
    pub fn problem(message: impl Into<String>) -> Failure {
        Failure::new(Code::Problem, message)
    }

    /// `{"error": {"code": 4, "name": "no_bus", "message": "..."}}`
    pub fn to_json(&self) -> Value {
        json!({"error": {
            "code": self.code as u8,
            "name": self.code.name(),
            "message": self.message,
        }})
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match &error {
            Error::Attach(e) => attach_code(e),
            Error::Page(e) => page_code(e),
            Error::Schema(_) => Code::Usage,
            Error::Log(e) => log_code(e),
            Error::State(e) => state_code(e),
            Error::Checkpoint(e) => checkpoint_code(e),
            Error::History(e) => history_code(e),
            Error::Io { source, .. } => io_code(source),
            _ if error.is_backpressure() => Code::Busy,
            _ => Code::Problem,
        };
        Failure::new(code, explained(&error))
    }
}

impl From<PageError> for Failure {
    fn from(error: PageError) -> Failure {
        Failure::new(page_code(&error), error.to_string())
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Failure {
        Failure::new(attach_code(&error), error.to_string())
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Failure {
        Failure::from(Error::Log(error))
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        Failure::from(Error::State(error))
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Failure {
        Failure::from(Error::Checkpoint(error))
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Failure {
        match error {
            HistoryError::Log(e) => Failure::from(e),
            HistoryError::State(e) => Failure::from(e),
            HistoryError::Checkpoint(e) => Failure::from(e),
            other => Failure::from(Error::History(other)),
        }
    }
}

impl From<PlaybackError> for Failure {
    fn from(error: PlaybackError) -> Failure {
        let text = error.to_string();
        match error {
            PlaybackError::History(e) => Failure::from(e),
            PlaybackError::Bus { source, .. } => {
                let advice = match &source {
                    Error::Page(PageError::DeltaTooLarge { .. }) => {
                        "; make the target with a larger ring: `mmsb create BUS --ring SIZE`"
                    }
                    _ => "",
                };
                Failure::new(Failure::from(source).code, format!("{text}{advice}"))
            }
            PlaybackError::Unlike { .. } => Failure::new(Code::Exists, text),
            _ => Failure::problem(text),
        }
    }
}

impl From<ValueError> for Failure {
    fn from(error: ValueError) -> Failure {
        match error {
            ValueError::Output(e) => Failure::from(e),
            ValueError::ReadFile { path, source } => Failure::new(
                io_code(&source),
                format!("cannot read {}: {source}", path.display()),
            ),
            other => Failure::usage(other.to_string()),
        }
    }
}

/// Errors of writing the output. Whoever closed the pipe has read enough: that is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::new(Code::Ok, "");
        }
        Failure::new(io_code(&error), error.to_string())
    }
}

/// The code for an answer of the kernel.
pub fn io_code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Code::Permission,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::Full,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::ResourceBusy => {
            Code::Busy
        }
        _ => Code::Problem,
    }
}

fn attach_code(error: &AttachError) -> Code {
    match error {
        AttachError::BadName { .. } | AttachError::BadConfig(_) => Code::Usage,
        AttachError::Missing { .. } | AttachError::BusGone { .. } => Code::NoBus,
        AttachError::Exists { .. } => Code::Exists,
        AttachError::WrongMagic { .. }
        | AttachError::WrongVersion { .. }
        | AttachError::Truncated { .. }
        | AttachError::Corrupt(_) => Code::Corrupt,
        AttachError::PermissionDenied { .. } | AttachError::ForeignOwner { .. } => Code::Permission,
        AttachError::Initialising { .. }
        | AttachError::TooManyParticipants { .. }
        | AttachError::Recovery(_) => Code::Busy,
        AttachError::Full(_) => Code::Full,
        AttachError::Io { source, .. } => io_code(source),
        _ => Code::Problem,
    }
}

fn log_code(error: &LogError) -> Code {
    match error {
        LogError::Io { source, .. } => io_code(source),
        LogError::Full { .. } => Code::Full,
        LogError::Damaged { .. } | LogError::Newer { .. } => Code::Corrupt,
        LogError::Locked { .. } => Code::Busy,
        _ => Code::Problem,
    }
}

fn state_code(error: &StateError) -> Code {
    match error {
        StateError::Log(e) => log_code(e),
        StateError::Memory { .. } => Code::Full,
        _ => Code::Corrupt,
    }
}

fn checkpoint_code(error: &CheckpointError) -> Code {
    match error {
        CheckpointError::Io { source, .. } => io_code(source),
        CheckpointError::Damaged { .. }
        | CheckpointError::Foreign { .. }
        | CheckpointError::Newer { .. } => Code::Corrupt,
        CheckpointError::State(e) => state_code(e),
        // The supervisor may be slow, or about to be started.
        CheckpointError::NotDurable { .. } => Code::Busy,
        _ => Code::Problem,
    }
}

fn history_code(error: &HistoryError) -> Code {
    match error {
        HistoryError::Log(e) => log_code(e),
        HistoryError::State(e) => state_code(e),
        HistoryError::Checkpoint(e) => checkpoint_code(e),
        HistoryError::Short { .. } => Code::Corrupt,
        _ => Code::Problem,
    }
}

fn page_code(error: &PageError) -> Code {
    match error {
        PageError::BadName { .. }
        | PageError::BadSize { .. }
        | PageError::OutOfRange { .. }
        | PageError::Overlap { .. }
        | PageError::MaskLength { .. }
        | PageError::WrongSize { .. }
        | PageError::WrongSchema { .. }
        | PageError::DeltaTooLarge { .. }
        | PageError::TooLong { .. } => Code::Usage,
        PageError::NameTaken(_) => Code::Exists,
        PageError::BusGone => Code::NoBus,
        PageError::Backpressure { .. }
        | PageError::Timeout { .. }
        | PageError::Contended(_)
        | PageError::Stalled { .. }
        | PageError::TooManyHeld { .. } => Code::Busy,
        PageError::Full(_) => Code::Full,
        PageError::Corrupt(_) | PageError::Truncated => Code::Corrupt,
        _ => Code::Problem,
    }
}

/// The error's sentence, with what to do where the error itself does not say it.
fn explained(error: &Error) -> String {
    let advice = match error {
        Error::Page(PageError::NoSuchName(_)) => "`mmsb ls BUS` lists the pages there are",
        Error::Page(PageError::Backpressure { .. }) => {
            "`mmsb stats BUS` shows the subscriptions; stop the one that lags, or wait"
        }
        Error::Page(PageError::Timeout { .. }) => "`mmsb doctor BUS` looks at the process",
        Error::Page(PageError::Corrupt(_)) | Error::Attach(AttachError::Corrupt(_)) => {
            "`mmsb doctor BUS` says more; `mmsb rm BUS` removes the bus"
        }
        Error::Page(PageError::NotDurable { .. }) => {
            "the delta is committed, so do not write it again; `mmsb info BUS` and the supervisor's messages say how the \
             log is"
        }
        Error::State(StateError::Corrupt { .. } | StateError::Gap { .. })
        | Error::Checkpoint(CheckpointError::Damaged { .. }) => {
            "`mmsb verify --log DIR` says what else is wrong"
        }
        Error::Checkpoint(CheckpointError::Newer { .. }) => "use a newer MMSB",
        Error::Checkpoint(CheckpointError::NotDurable { .. }) => {
            "is the supervisor running? `mmsb info BUS` shows the log, `mmsb stats BUS` who is there"
        }
        Error::History(HistoryError::NoLog { .. }) => {
            "name the directory of one bus's log, with its .tlog files"
        }
        Error::History(HistoryError::Gone { .. }) => {
            "`mmsb log list --log DIR` shows what there is"
        }
        _ => "",
    };
    if advice.is_empty() {
        error.to_string()
    } else {
        format!("{error}; {advice}")
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mmsb::BusFull;

    use super::*;

    #[test]
    fn codes_are_the_documented_numbers() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
        }
        let names = [
            "ok",
            "problem",
            "usage",
            "permission",
            "no_bus",
            "busy",
            "full",
            "corrupt",
            "exists",
        ];
        assert_eq!(Code::ALL.map(Code::name), names);
    }

    #[test]
    fn errors_of_the_bus_have_the_code_that_their_kind_promises() {
        let missing = AttachError::Missing {
            name: "b".into(),
            dir: PathBuf::from("/dev/shm"),
        };
        assert_eq!(Failure::from(Error::from(missing)).code, Code::NoBus);
        let cases = [
            (PageError::NoSuchName("p".into()), Code::Problem),
            (PageError::NameTaken("p".into()), Code::Exists),
            (PageError::BadSize { bytes: 0 }, Code::Usage),
            (PageError::BusGone, Code::NoBus),
            (PageError::Stalled { lsn: 1 }, Code::Busy),
            (
                PageError::Backpressure {
                    blocker: "cursor 1".into(),
                    lsn: 7,
                    waited: std::time::Duration::from_secs(1),
                    no_supervisor: false,
                },
                Code::Busy,
            ),
            (PageError::Full(BusFull::Pages { max: 1 }), Code::Full),
            (PageError::Truncated, Code::Corrupt),
        ];
        for (error, code) in cases {
            assert_eq!(Failure::from(Error::from(error.clone())).code, code);
            assert_eq!(Failure::from(error).code, code);
        }
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(Failure::from(refused).code, Code::Permission);
    }

    #[test]
    fn errors_of_the_log_have_the_code_that_their_kind_promises() {
        let path = PathBuf::from("/log");
        let damaged = LogError::Damaged {
            file: path.clone(),
            lsn: 7,
            offset: 4096,
            what: "checksum",
        };
        let failure = Failure::from(HistoryError::Log(damaged));
        assert_eq!(failure.code, Code::Corrupt);
        assert!(failure.message.contains("mmsb repair"));
        let locked = LogError::Locked { dir: path.clone() };
        assert_eq!(Failure::from(locked).code, Code::Busy);
        let failure = Failure::from(HistoryError::NoLog { dir: path.clone() });
        assert_eq!(failure.code, Code::Problem);
        let newer = CheckpointError::Newer {
            path,
            found: 9,
            supported: 1,
        };
        let failure = Failure::from(newer);
        assert_eq!(failure.code, Code::Corrupt);
        assert!(failure.message.contains("newer MMSB"));
    }

    #[test]
    fn a_reader_who_has_seen_enough_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.code, failure.message.as_str()), (Code::Ok, ""));
        let failure = Failure::from(ValueError::Output(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(failure.code, Code::Ok);
    }

    #[test]
    fn a_missing_page_says_how_to_find_the_others() {
        let failure = Failure::from(Error::from(PageError::NoSuchName("p".into())));
        assert!(failure.message.contains("mmsb ls"), "{}", failure.message);
        assert_eq!(failure.to_json()["error"]["name"], "problem");
        assert_eq!(failure.to_json()["error"]["code"], 1);
    }
}
