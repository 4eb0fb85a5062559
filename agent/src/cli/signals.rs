//! Ctrl-C and SIGTERM as a flag: a command ends where it would end anyway, and leaves the bus in order.
//!
//! The signals are blocked before any other thread starts and taken by one thread with `sigwait`; nothing runs in a
//! signal handler. A second signal ends the process at once, for somebody who cannot wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec};

/// Whether somebody asked the process to end.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    signals: Arc<AtomicU32>,
}

impl Stop {
    /// Takes SIGINT, SIGTERM and SIGHUP of this process from now on. To be called before other threads are started:
    /// they inherit the mask.
    ///
    /// # Errors
    ///
    /// What the kernel said to blocking the signals or starting the thread.
    pub fn on_signals() -> io::Result<Stop> {
        let stop = Stop::default();
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let signals = Arc::clone(&stop.signals);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                while set.wait().is_ok() {
                    // Relaxed: a flag that stands for nothing but itself.
                    if signals.fetch_add(1, Ordering::Relaxed) > 0 {
                        std::process::exit(130);
                    }
                }
            })?;
        Ok(stop)
    }

    /// Asks from inside the process, as a signal would.
    pub fn request(&self) {
        // Relaxed: see `on_signals`.
        self.signals.fetch_max(1, Ordering::Relaxed);
    }

    /// Waits until standard output takes more, so that writing to it cannot outlast a request to end: whoever reads may
    /// have stopped reading, and a `write` is not interrupted by a blocked signal. `false`: it is time to end.
    ///
    /// Holds for writes of at most `PIPE_BUF` (4096) bytes; longer ones may still wait.
    pub fn may_write(&self) -> bool {
        let stdout = io::stdout();
        let pause = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        while !self.is_requested() {
            let mut fds = [PollFd::new(&stdout, PollFlags::OUT)];
            // An error or a closed pipe is for the write to report.
            if rustix::event::poll(&mut fds, Some(&pause)) != Ok(0) {
                return true;
            }
        }
        false
    }

    /// Whether it is time to end.
    pub fn is_requested(&self) -> bool {
        // Relaxed: see `on_signals`.
        self.signals.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_seen_by_every_copy() {
        let stop = Stop::default();
        let copy = stop.clone();
        assert!(!copy.is_requested());
        stop.request();
        assert!(copy.is_requested());
    }
}
