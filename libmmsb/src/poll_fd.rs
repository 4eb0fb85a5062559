//! Descriptors and wakers for subscriptions, fed by one helper thread per process.
//!
//! A futex cannot be waited for with epoll. So one thread of the process sleeps on the doorbells of all buses that
//! somebody here watches, and writes to the eventfd (or wakes the task) of each subscription that has something to take.
//!
//! No wake-up is lost. A subscription that found nothing *arms* its entry and then looks at the ring again; whatever was
//! committed ahead of that look it finds itself. The thread watches a bus from before it last looked at the armed
//! entries (see [`sleep_until_news`]), so what is committed behind the look wakes it. If it does not watch the bus yet, it
//! is kicked.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use mmsb_shm::sys::{fork, futex};
use mmsb_shm::{Ahead, Core, sleep_until_news};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Longest sleep of the helper while somebody is armed: a writer may die between its commit and the bell.
const NAP: Duration = Duration::from_millis(64);
/// Longest sleep while nobody is.
const REST: Duration = Duration::from_secs(3600);
/// A record that stays unfinished this long is a reason to wake the subscriber, which looks after its writer.
const UNFINISHED: Duration = Duration::from_millis(50);
/// Forks behind one another that can still watch.
const FORKS: usize = 16;

/// One helper for each generation of forks: a child must not touch the locks of the thread it has not got.
static HELPERS: [OnceLock<Helper>; FORKS] = [const { OnceLock::new() }; FORKS];

#[derive(Default)]
struct Helper {
    list: Mutex<List>,
    /// Changed to wake the thread for a new entry.
    kick: AtomicU32,
}

#[derive(Default)]
struct List {
    running: bool,
    entries: Vec<Arc<Entry>>,
    /// Buses whose bell the thread hears.
    heard: Vec<Arc<Core>>,
}

struct Entry {
    core: Arc<Core>,
    fd: Option<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The next LSN of the subscription, if it waits for news.
    armed: Option<u64>,
    waker: Option<Waker>,
    unfinished_since: Option<Instant>,
}

/// A lock whose holders never leave anything half-done, so poisoning says nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    /// Whether the subscriber should look.
    fn has_news(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(position) = state.armed else {
            return false;
        };
        match self.core.pages.ahead(position) {
            Ahead::Something => true,
            Ahead::Nothing => {
                state.unfinished_since = None;
                false
            }
            Ahead::Unfinished => {
                state
                    .unfinished_since
                    .get_or_insert_with(Instant::now)
                    .elapsed()
                    >= UNFINISHED
            }
        }
    }

    fn is_armed(&self) -> bool {
        lock(&self.state).armed.is_some()
    }

    fn signal(&self) -> Result<()> {
        if let Some(fd) = &self.fd {
            match rustix::io::write(fd, &1u64.to_ne_bytes()) {
                // AGAIN: the counter is full, so it is readable.
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(e) => return Err(Error::io("write to an eventfd", e)),
            }
        }
        Ok(())
    }

    /// Wakes the subscriber, once until it arms again.
    fn fire(&self) {
        let waker = {
            let mut state = lock(&self.state);
            state.armed = None;
            state.unfinished_since = None;
            state.waker.take()
        };
        // Nobody to tell of an error; the subscriber looks again when it is next called.
        let _ = self.signal();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

fn contains(cores: &[Arc<Core>], core: &Arc<Core>) -> bool {
    cores.iter().any(|c| Arc::ptr_eq(c, core))
}

impl Helper {
    fn get() -> Result<&'static Helper> {
        let generation = usize::try_from(fork::generation()).unwrap_or(usize::MAX);
        let helper = HELPERS
            .get(generation)
            .ok_or_else(|| {
                Error::io(
                    "watch from a process this many forks down",
                    std::io::ErrorKind::Unsupported,
                )
            })?
            .get_or_init(Helper::default);
        let mut list = lock(&helper.list);
        if !list.running {
            std::thread::Builder::new()
                .name("mmsb-poll".into())
                .spawn(|| helper.run())
                .map_err(|e| Error::io("start the poll helper", e))?;
            list.running = true;
        }
        Ok(helper)
    }

    fn run(&self) {
        loop {
            let heard = {
                let mut list = lock(&self.list);
                let mut heard: Vec<Arc<Core>> = Vec::new();
                for entry in &list.entries {
                    if entry.is_armed() && !contains(&heard, &entry.core) {
                        heard.push(Arc::clone(&entry.core));
                    }
                }
                list.heard = heard.clone();
                heard
            };
            let cores: Vec<&Core> = heard.iter().map(|c| &**c).collect();
            let timeout = if cores.is_empty() { REST } else { NAP };
            sleep_until_news(&cores, &self.kick, timeout, || {
                let list = lock(&self.list);
                list.entries.iter().any(|entry| {
                    // Armed since on a bus that is not heard: begin again.
                    entry.is_armed() && !contains(&heard, &entry.core) || entry.has_news()
                })
            });
            let news: Vec<Arc<Entry>> = {
                let list = lock(&self.list);
                list.entries
                    .iter()
                    .filter(|entry| entry.has_news())
                    .cloned()
                    .collect()
            };
            for entry in news {
                entry.fire();
            }
        }
    }

    fn kick(&self) {
        // Release: the new entry is in the list for whoever sees the changed word.
        self.kick.fetch_add(1, Ordering::Release);
        // Fails only for a word that is not memory.
        let _ = futex::wake(&self.kick, 1, u32::MAX);
    }
}

/// A subscription's place at the helper thread.
pub(crate) struct Watch {
    helper: &'static Helper,
    entry: Arc<Entry>,
    fork: u64,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("fd", &self.entry.fd).finish()
    }
}

impl Watch {
    /// One with a descriptor.
    pub(crate) fn with_fd(core: &Arc<Core>) -> Result<Watch> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::io("make an eventfd", e))?;
        Watch::new(core, Some(fd))
    }

    pub(crate) fn new(core: &Arc<Core>, fd: Option<OwnedFd>) -> Result<Watch> {
        let entry = Arc::new(Entry {
            core: Arc::clone(core),
            fd,
            state: Mutex::default(),
        });
        let helper = Helper::get()?;
        lock(&helper.list).entries.push(Arc::clone(&entry));
        Ok(Watch {
            helper,
            entry,
            fork: fork::generation(),
        })
    }

    pub(crate) fn has_fd(&self) -> bool {
        self.entry.fd.is_some()
    }

    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.entry.fd.as_ref().map(AsFd::as_fd)
    }

    /// Makes the descriptor readable.
    pub(crate) fn signal(&self) -> Result<()> {
        self.entry.signal()
    }

    /// Has the task woken at the next news.
    #[cfg(feature = "async")]
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let mut state = lock(&self.entry.state);
        if state.waker.as_ref().is_none_or(|w| !w.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
    }

    /// Nothing is left to take ahead of `position`: the descriptor becomes unreadable until there is. The caller looks at
    /// the ring once more behind this.
    pub(crate) fn arm(&self, position: u64) -> Result<()> {
        if let Some(fd) = &self.entry.fd {
            let mut count = [0u8; 8];
            match rustix::io::read(fd, &mut count) {
                Ok(_) | Err(Errno::AGAIN) => {}
                Err(e) => return Err(Error::io("read from an eventfd", e)),
            }
        }
        let heard = {
            // The list first, as the helper does.
            let list = lock(&self.helper.list);
            lock(&self.entry.state).armed = Some(position);
            contains(&list.heard, &self.entry.core)
        };
        if !heard {
            self.helper.kick();
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if fork::generation() != self.fork {
            // The helper and the state of its locks are the parent's.
            return;
        }
        let mut list = lock(&self.helper.list);
        list.entries.retain(|e| !Arc::ptr_eq(e, &self.entry));
        if !list
            .entries
            .iter()
            .any(|e| Arc::ptr_eq(&e.core, &self.entry.core))
        {
            list.heard.retain(|c| !Arc::ptr_eq(c, &self.entry.core));
        }
        drop(list);
        // The helper lets go of the mapping.
        self.helper.kick();
    }
}
