//! Noticing that this process is a fork of the one that made a handle.
//!
//! A fork child has copies of its parent's descriptors and mappings, and through the descriptors a share in its
//! parent's liveness locks: it would keep a dead parent alive, and commit under the parent's name. So a child handler
//! closes the registered descriptors and advances [`generation`], by which every handle knows that it is a copy.
//!
//! The orders below leave no gap for a fork by another thread, because a lock is never held by a description the
//! child would keep:
//!
//! - open, [`close_in_child`], then lock;
//! - unlock, [`forget`], then close. Merely closing would leave the lock to a child that has not run its handler yet,
//!   and closing first could let the child close an unrelated descriptor that has got
//!   the same number.
//!
//! `fork` of the C library runs the handler; a raw `clone` or `vfork` does not. `vfork` children that only `exec`
//! are harmless: all descriptors here are close-on-exec.

use core::sync::atomic::{
    AtomicI32, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// How many descriptors [`close_in_child`] can hold; one per participant, and one bus has at most a few hundred.
pub const TRACKED_MAX: usize = 4096;

static GENERATION: AtomicU64 = AtomicU64::new(0);
/// Descriptor + 1, or 0 for a free entry, so that the table costs no space in the executable.
static TRACKED: [AtomicI32; TRACKED_MAX] = [const { AtomicI32::new(0) }; TRACKED_MAX];
/// No entry at or above this index was ever used: keeps the handler short.
static TRACKED_END: AtomicUsize = AtomicUsize::new(0);

/// Registers the child handler, once per process. `false` when the C library has no memory for it; then forks go
/// unnoticed, and the next call tries no more.
///
/// [`close_in_child`] calls it too.
pub fn install() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    // SAFETY: the handler is a function of this image that only touches atomics and makes system calls, so it may run in
    // a fork child of a threaded process. Should this image be unloaded, the C library drops its handlers.
    *INSTALLED
        .get_or_init(|| unsafe { libc::pthread_atfork(Some(ahead), None, Some(in_child)) } == 0)
}

/// How many forks lie between the process that first loaded this library and this one. A handle stores it when it
/// is made; a different value later means that the handle is a fork's copy.
///
/// It moves only after [`install`].
#[inline(always)]
pub fn generation() -> u64 {
    // Relaxed: it changes only in a child that has a single thread yet, and threads started later see it.
    GENERATION.load(Relaxed)
}

/// Has fork children close this descriptor before they run anything else. Each call is undone by one [`forget`].
///
/// # Errors
/// `EBADF` for a negative number, `EMFILE` when [`TRACKED_MAX`] descriptors are registered, `ENOMEM` when the child
/// handler could not be installed.
pub fn close_in_child(fd: RawFd) -> io::Result<()> {
    if fd < 0 || fd == RawFd::MAX {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    if !install() {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    for (index, entry) in TRACKED.iter().enumerate() {
        // Relaxed for the look: the exchange decides.
        if entry.load(Relaxed) != 0 {
            continue;
        }
        // The end goes up before the entry is filled, so that a handler that sees the entry's thread forked
        // cannot miss it. Release/Acquire (F1): with the handler; within one thread fork itself orders.
        TRACKED_END.fetch_max(index + 1, Release);
        // Release (F1): as above. A failure means that another thread took the entry.
        if entry.compare_exchange(0, fd + 1, Release, Relaxed).is_ok() {
            return Ok(());
        }
    }
    Err(io::Error::from_raw_os_error(libc::EMFILE))
}

/// Undoes one [`close_in_child`], before the descriptor is closed. Unknown numbers are ignored.
/// Whether it was known: in a child it is not, the descriptor was closed there.
pub fn forget(fd: RawFd) -> bool {
    if fd < 0 || fd == RawFd::MAX {
        return false;
    }
    // Acquire (F1): the entry to find was published before the end that covers it.
    let end = TRACKED_END.load(Acquire).min(TRACKED_MAX);
    for entry in &TRACKED[..end] {
        // Relaxed on failure: not our number. Release on success: whoever reuses the entry comes after.
        if entry.compare_exchange(fd + 1, 0, Release, Relaxed).is_ok() {
            return true;
        }
    }
    false
}

/// A descriptor that fork children close. Forgotten and closed on drop, unless it is kept. Whoever locks through it
/// unlocks ahead of the drop.
#[derive(Debug)]
pub struct Description(ManuallyDrop<OwnedFd>);

impl Description {
    /// Registers the descriptor, which holds no lock yet.
    ///
    /// # Errors
    /// Those of [`close_in_child`]; the descriptor is closed then.
    pub fn new(fd: OwnedFd) -> io::Result<Description> {
        close_in_child(fd.as_raw_fd())?;
        Ok(Description(ManuallyDrop::new(fd)))
    }

    /// For an owner that forgets and closes it itself.
    pub fn keep(self) -> ManuallyDrop<OwnedFd> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: taken once, out of a value that is not dropped.
        ManuallyDrop::new(unsafe { ManuallyDrop::take(&mut this.0) })
    }
}

impl std::ops::Deref for Description {
    type Target = OwnedFd;

    fn deref(&self) -> &OwnedFd {
        &self.0
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // In a fork child it is not known any more: the handler closed it, and the number may be another file's.
        if forget(self.0.as_raw_fd()) {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

/// Runs in the thread that forks.
extern "C" fn ahead() {
    super::robust::forget();
}

/// Runs in the child, before `fork` returns there. Async-signal-safe: another thread may have held any lock.
extern "C" fn in_child() {
    // Relaxed: this is the child's only thread.
    GENERATION.fetch_add(1, Relaxed);
    // Acquire (F1): see `close_in_child`.
    let end = TRACKED_END.load(Acquire).min(TRACKED_MAX);
    for entry in &TRACKED[..end] {
        // Acquire (F1): as above.
        let tracked = entry.swap(0, Acquire);
        if tracked != 0 {
            // SAFETY: the number was open in the parent at the fork, for `forget` precedes the close, so it is this
            // child's copy; the handles that know the number see the new generation and do not use it.
            unsafe { libc::close(tracked - 1) };
        }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::sys::{lock, space};
    use std::os::fd::{AsFd, AsRawFd};
    use std::path::Path;

    /// Runs `child` in a fork and returns its exit code. The child may only do async-signal-safe things.
    fn in_fork(child: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child calls only the given closure, which keeps to system calls and atomics, and _exit.
        match unsafe { libc::fork() } {
            // SAFETY: _exit ends the child without running the test harness's destructors.
            0 => unsafe { libc::_exit(child()) },
            pid => {
                assert!(pid > 0, "fork: {}", io::Error::last_os_error());
                let mut status = 0;
                // SAFETY: waits for the child just made, with a valid place for the status.
                assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
                assert!(libc::WIFEXITED(status), "status {status}");
                libc::WEXITSTATUS(status)
            }
        }
    }

    fn is_open(fd: RawFd) -> bool {
        // SAFETY: F_GETFD takes any number and touches no memory.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    }

    #[test]
    fn child_sees_a_new_generation_and_the_parent_does_not() {
        assert!(install());
        let before = generation();
        let code = in_fork(|| {
            let inner = in_fork(|| i32::from(generation() == before + 2));
            i32::from(generation() == before + 1) + inner
        });
        assert_eq!(code, 2);
        assert_eq!(generation(), before);
    }

    #[test]
    fn tracked_descriptors_are_closed_in_the_child_only() {
        let kept = space::create_unnamed(Path::new("/dev/shm"), 0o600).unwrap();
        let tracked = kept.try_clone().unwrap();
        let forgotten = kept.try_clone().unwrap();
        let numbers = [&kept, &tracked, &forgotten].map(|fd| fd.as_raw_fd());
        close_in_child(tracked.as_raw_fd()).unwrap();
        close_in_child(forgotten.as_raw_fd()).unwrap();
        forget(forgotten.as_raw_fd());
        let code = in_fork(|| {
            numbers
                .iter()
                .fold(0, |bits, fd| bits << 1 | i32::from(is_open(*fd)))
        });
        assert_eq!(code, 0b101);
        assert!(numbers.iter().all(|fd| is_open(*fd)));
        forget(tracked.as_raw_fd());
    }

    #[test]
    fn child_does_not_keep_the_parents_lock() {
        let holder = space::create_unnamed(Path::new("/dev/shm"), 0o600).unwrap();
        let probe = space::reopen(holder.as_fd(), false).unwrap();
        close_in_child(holder.as_raw_fd()).unwrap();
        assert!(lock::try_lock(&holder, 5).unwrap());
        // A pipe whose write end only the parent has: the child lives until the parent has let go.
        let (read, write) = io::pipe().unwrap();
        // SAFETY: the child only reads from a pipe and exits.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let mut byte = 0u8;
            // SAFETY: closes and reads descriptors of this child; `byte` outlives the call.
            unsafe {
                libc::close(write.as_raw_fd());
                libc::read(read.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::_exit(0);
            }
        }
        assert!(pid > 0);
        assert!(lock::is_locked(&probe, 5).unwrap());
        forget(holder.as_raw_fd());
        drop(holder);
        // The child's handler runs some time after fork has returned here.
        let start = std::time::Instant::now();
        let mut freed = false;
        while !freed && start.elapsed().as_secs() < 20 {
            freed = !lock::is_locked(&probe, 5).unwrap();
            std::thread::yield_now();
        }
        drop(write);
        // SAFETY: waits for the child made above; a null status is allowed.
        assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
        assert!(
            freed,
            "the living child shares the description of its parent"
        );
    }

    #[test]
    fn absurd_numbers_are_refused() {
        for fd in [-1, RawFd::MIN, RawFd::MAX] {
            assert_eq!(
                close_in_child(fd).unwrap_err().raw_os_error(),
                Some(libc::EBADF)
            );
            forget(fd);
        }
    }
}
