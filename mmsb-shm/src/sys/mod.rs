//! Every call of this crate into the operating system, and nothing else.
//!
//! The modules below hide flags, retries and platform quirks; they hold no protocol. Functions return
//! [`std::io::Result`] with the errno preserved, so that a caller can tell "full" from "forbidden" and say so.
//! Linux only: open-file-description locks, `O_TMPFILE` and shared futexes have no portable spelling.

pub mod barrier;
pub mod clock;
pub mod fork;
pub mod futex;
pub mod lock;
pub mod map;
pub mod process;
pub mod robust;
pub mod sigbus;
pub mod space;
