//! Named crash steps. Only with the feature `testing`; otherwise `step` is empty and costs nothing.
//!
//! Every place at which the death of a process leaves a different state has a name. A test arms one of them for the
//! calling thread, and the thread dies, stops or parks when it gets there for the n-th time.

/// Passes a named step of the protocol.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) fn step(_name: &'static str) {}

#[cfg(feature = "testing")]
pub use armed::*;

#[cfg(feature = "testing")]
mod armed {
    use std::cell::RefCell;
    use std::sync::mpsc::{Receiver, Sender};

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

    /// Passes a named step of the protocol.
    pub(crate) fn step(name: &'static str) {
        TRACE.with(|t| {
            if let Some(list) = t.borrow_mut().as_mut() {
                list.push(name);
            }
        });
        let action = ARMED.with(|a| {
            let mut a = a.borrow_mut();
            let armed = a.as_mut()?;
            if !armed.name.is_empty() && armed.name != name {
                return None;
            }
            if armed.skip > 0 {
                armed.skip -= 1;
                return None;
            }
            a.take().map(|armed| armed.action)
        });
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
