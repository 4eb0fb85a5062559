//! Named crash steps. Only with the feature `testing`; otherwise `step` is empty and costs nothing.
//!
//! Every place at which the death of a process leaves a different state has a name. A test arms one of them for the
//! calling thread, or for whatever thread of the process gets there, and the thread dies, stops or parks when the step
//! is passed for the n-th time.

/// Passes a named step of the protocol. Public for the crates above, which have steps of their own.
#[cfg(not(feature = "testing"))]
#[doc(hidden)]
#[inline(always)]
pub fn step(_name: &'static str) {}

#[cfg(feature = "testing")]
pub use armed::*;

#[cfg(feature = "testing")]
mod armed {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, Sender};
    use std::sync::{Mutex, MutexGuard};

    /// What happens at an armed step.
    #[derive(Debug)]
    pub enum Action {
        /// SIGKILL to the own process.
        Kill,
        /// SIGSTOP to the own process; it goes on after SIGCONT.
        Stop,
        /// Says so on the sender, then blocks the thread until the receiver hears something or hangs up.
        Park(Sender<()>, Receiver<()>),
    }

    struct Armed {
        name: String,
        skip: u64,
        action: Action,
    }

    thread_local! {
        static ARMED: RefCell<Option<Armed>> = const { RefCell::new(None) };
        static TRACE: RefCell<Option<Vec<&'static str>>> = const { RefCell::new(None) };
    }

    /// Of all threads of the process.
    struct Process {
        armed: Option<Armed>,
        trace: Option<Vec<&'static str>>,
    }

    /// Whether there is anything in `PROCESS`: threads that nobody watches do not meet at its lock.
    static WATCHED: AtomicBool = AtomicBool::new(false);
    static PROCESS: Mutex<Process> = Mutex::new(Process {
        armed: None,
        trace: None,
    });

    fn process() -> MutexGuard<'static, Process> {
        // Relaxed: armed ahead of the threads that are to see it.
        WATCHED.store(true, Ordering::Relaxed);
        PROCESS.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// As [`arm`], for whichever thread of this process passes the step then.
    pub fn arm_process(name: &str, skip: u64, action: Action) {
        process().armed = Some(Armed {
            name: name.to_owned(),
            skip,
            action,
        });
    }

    /// From now on, notes the steps that any thread passes. Returns those noted since the last call.
    pub fn trace_process() -> Vec<&'static str> {
        process().trace.replace(Vec::new()).unwrap_or_default()
    }

    /// Arms the step `name` for this thread: it acts when the thread gets there after passing it `skip` times.
    /// The empty name arms whatever step comes then.
    pub fn arm(name: &str, skip: u64, action: Action) {
        ARMED.with(|a| {
            *a.borrow_mut() = Some(Armed {
                name: name.to_owned(),
                skip,
                action,
            })
        });
    }

    /// Disarms this thread.
    pub fn disarm() {
        ARMED.with(|a| *a.borrow_mut() = None);
    }

    /// Runs `f` and returns the steps that this thread passed in it.
    pub fn trace<R>(f: impl FnOnce() -> R) -> (R, Vec<&'static str>) {
        TRACE.with(|t| *t.borrow_mut() = Some(Vec::new()));
        let result = f();
        (
            result,
            TRACE.with(|t| t.borrow_mut().take()).unwrap_or_default(),
        )
    }

    fn due(armed: &mut Option<Armed>, name: &str) -> Option<Action> {
        let it = armed.as_mut()?;
        if !it.name.is_empty() && it.name != name {
            return None;
        }
        if it.skip > 0 {
            it.skip -= 1;
            return None;
        }
        armed.take().map(|armed| armed.action)
    }

    /// Passes a named step of the protocol.
    #[doc(hidden)]
    pub fn step(name: &'static str) {
        TRACE.with(|t| {
            if let Some(list) = t.borrow_mut().as_mut() {
                list.push(name);
            }
        });
        let mut action = ARMED.with(|a| due(&mut a.borrow_mut(), name));
        if action.is_none() && WATCHED.load(Ordering::Relaxed) {
            let mut process = process();
            if let Some(list) = process.trace.as_mut() {
                list.push(name);
            }
            action = due(&mut process.armed, name);
        }
        match action {
            None => {}
            // SAFETY: raise has no preconditions.
            Some(Action::Kill) => unsafe {
                libc::kill(libc::getpid(), libc::SIGKILL);
            },
            // SAFETY: as above.
            Some(Action::Stop) => unsafe {
                libc::kill(libc::getpid(), libc::SIGSTOP);
            },
            Some(Action::Park(said, go_on)) => {
                let _ = said.send(());
                let _ = go_on.recv();
            }
        }
    }
}
