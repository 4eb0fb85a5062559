//! Ends a test that hangs, and says where.
//!
//! ```
//! let _watchdog = mmsb_tests::watchdog::start("doc", std::time::Duration::from_secs(60));
//! // what may hang
//! ```
//!
//! After the limit the process is aborted: nothing less ends a thread that spins or sleeps in the kernel. The message
//! goes to standard error past the test runner's capturing. Destructors do not run then, so children must notice by
//! themselves: [`crate::ptrace`]'s are killed by the kernel, [`crate::spawn`]'s by
//! [`crate::spawn::exit_when_orphaned`].

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Disarms the watchdog when dropped.
#[derive(Debug)]
#[must_use = "dropping it disarms it"]
pub struct Watchdog {
    /// Never sent through: its end is the news.
    _alive: Sender<()>,
}

/// Aborts this process in `limit` from now, unless the returned guard is dropped before.
///
/// # Panics
///
/// When no thread can be started.
pub fn start(name: &str, limit: Duration) -> Watchdog {
    let (alive, gone) = channel();
    let name = name.to_owned();
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || {
            if gone.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let message = format!(
                    "watchdog: {name} has not ended within {} s; aborting\n{}",
                    limit.as_secs_f64(),
                    threads()
                );
                let _ = std::io::stderr().write_all(message.as_bytes());
                std::process::abort();
            }
        })
        .expect("a thread for the watchdog");
    Watchdog { _alive: alive }
}

/// A line for each thread of this process: name, state, and the kernel function it sleeps in. Whatever /proc does not
/// tell is left out.
fn threads() -> String {
    let mut lines = BTreeMap::new();
    // A listing ends early when the thread it has come to ends just then; of several, one is likely whole.
    for _ in 0..5 {
        for task in std::fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten()
        {
            let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let status = read("status");
            let state = status
                .lines()
                .find_map(|line| line.strip_prefix("State:"))
                .unwrap_or("");
            let line = format!(
                "  thread {} {:?}: {} {} system call {}\n",
                task.file_name().to_string_lossy(),
                read("comm").trim(),
                state.trim(),
                read("wchan").trim(),
                // "running", or the number and arguments, among them a futex's address.
                read("syscall").trim(),
            );
            lines.insert(task.file_name(), line);
        }
    }
    lines.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disarmed_watchdog_ends_its_thread_and_nothing_else() {
        // Were it not disarmed, this process would be gone before the sleep ends.
        drop(start("disarmed", Duration::from_millis(20)));
        std::thread::sleep(Duration::from_millis(100));
    }

    #[test]
    fn the_report_names_this_thread() {
        // Other tests' threads come and go meanwhile: a listing may still be short.
        let report = || {
            (0..20)
                .map(|_| threads())
                .find(|text| text.contains("\"named-by-test\""))
        };
        let named = std::thread::Builder::new()
            .name("named-by-test".into())
            .spawn(report)
            .unwrap();
        assert!(named.join().unwrap().is_some(), "{}", threads());
    }
}
