//! What the service manager is told: ready, reloading, stopping, alive.
//!
//! Without `NOTIFY_SOCKET` nothing is said to anybody. That is not a failure, and neither is a manager that does not listen:
//! the agent's work does not depend on it.

use std::time::Duration;

use sd_notify::NotifyState;

/// Says how the agent is.
#[derive(Debug)]
pub struct Manager {
    watchdog: Option<Duration>,
}

impl Manager {
    /// The manager that started this process, if one did.
    pub fn of_environment() -> Manager {
        Manager {
            watchdog: sd_notify::watchdog_enabled().filter(|period| !period.is_zero()),
        }
    }

    /// How often it wants to hear that the agent is alive, halved so that one word may be late.
    pub fn watchdog_pause(&self) -> Option<Duration> {
        self.watchdog.map(|period| period / 2)
    }

    /// Every bus was looked at, HTTP is answered.
    pub fn ready(&self, status: &str) {
        say(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The file is read again; [`ready`](Manager::ready) follows.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => say(&[NotifyState::Reloading, now]),
            Err(_) => say(&[NotifyState::Reloading]),
        }
    }

    /// The agent ends.
    pub fn stopping(&self) {
        say(&[NotifyState::Stopping]);
    }

    /// One line for `systemctl status`.
    pub fn status(&self, status: &str) {
        say(&[NotifyState::Status(status)]);
    }

    /// The agent made progress.
    pub fn alive(&self) {
        say(&[NotifyState::Watchdog]);
    }

    /// Starting or stopping takes longer than usual, and goes on.
    pub fn still_at_it(&self, another: Duration) {
        let micros = u32::try_from(another.as_micros()).unwrap_or(u32::MAX);
        say(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}
