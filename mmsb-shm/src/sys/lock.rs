//! Byte locks that say who lives.
//!
//! Each participant holds an open-file-description (OFD) write lock on its own byte of `.ctl`. The kernel drops the
//! lock with the last descriptor of that description, so at the latest at death, and anybody can test it across
//! containers and PID namespaces. Traps, each of them measured:
//!
//! - The lock belongs to the *description*, not to the process or thread. Through the holder's own description the
//!   byte looks free: [`is_locked`] must be asked through one that never holds a lock
//!   ([`space::reopen`](super::space::reopen)).
//! - `dup` and `fork` share the description: a child keeps a dead parent's lock until it closes its copy
//!   ([`fork::close_in_child`](super::fork::close_in_child)).
//! - A read lock needs only a read-only descriptor. It keeps [`try_lock`] from succeeding, but [`is_locked`]
//!   does not count it: one who can only read must not be able to pose as a living participant.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Takes the write lock of one byte, without waiting. `false` when another description holds it (or a read lock).
///
/// Locking again through the same description succeeds and changes nothing.
///
/// # Errors
/// `EBADF` when `fd` is not open for writing; `ENOLCK` when the kernel has no room for locks; `EINVAL` when `byte`
/// exceeds `i64::MAX`.
pub fn try_lock(fd: impl AsFd, byte: u64) -> io::Result<bool> {
    match fcntl(fd, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, byte)?)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Releases the lock of one byte, for every copy of the description. Releasing what is not held is fine.
///
/// # Errors
/// `EINVAL` when `byte` exceeds `i64::MAX`; `EBADF`; `ENOLCK`.
pub fn unlock(fd: impl AsFd, byte: u64) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, byte)?))?;
    Ok(())
}

/// Whether another description holds the write lock of the byte.
///
/// Ask through a description that never holds a lock: through the holder's own it answers `false`. The answer
/// may be outdated at once, except that a dead holder stays dead.
///
/// # Errors
/// `EINVAL` when `byte` exceeds `i64::MAX`; `EBADF`.
pub fn is_locked(fd: impl AsFd, byte: u64) -> io::Result<bool> {
    // Asking "could I read-lock it?" conflicts with write locks alone, so read locks of observers do not count.
    // The kernel does not look at how `fd` was opened for a mere question.
    let mut probe = range(libc::F_RDLCK, byte)?;
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut probe))?;
    Ok(i32::from(probe.l_type) != libc::F_UNLCK)
}

fn range(kind: libc::c_int, byte: u64) -> io::Result<libc::flock> {
    let start =
        libc::off_t::try_from(byte).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: 1,
        // Must be 0 for OFD locks.
        l_pid: 0,
    })
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::sys::space::{create_unnamed, reopen};
    use std::os::fd::{AsFd, OwnedFd};
    use std::path::Path;

    fn descriptions() -> [OwnedFd; 3] {
        let first = create_unnamed(Path::new("/dev/shm"), 0o600).unwrap();
        let second = reopen(first.as_fd(), true).unwrap();
        let probe = reopen(first.as_fd(), false).unwrap();
        [first, second, probe]
    }

    /// Whether the byte becomes free. Children that other tests fork hold copies of every descriptor for a moment.
    fn becomes_free(probe: &OwnedFd, byte: u64) -> bool {
        let start = std::time::Instant::now();
        while is_locked(probe, byte).unwrap() {
            if start.elapsed().as_secs() > 20 {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    #[test]
    fn one_description_wins_and_its_end_frees_the_byte() {
        let [first, second, probe] = descriptions();
        assert!(!is_locked(&probe, 7).unwrap());
        assert!(try_lock(&first, 7).unwrap());
        assert!(try_lock(&first, 7).unwrap(), "locking twice is one lock");
        assert!(!try_lock(&second, 7).unwrap());
        assert!(is_locked(&probe, 7).unwrap());
        assert!(
            !is_locked(&first, 7).unwrap(),
            "the holder's own description does not see its lock"
        );
        assert!(try_lock(&second, 8).unwrap(), "neighbours are independent");
        drop(first);
        assert!(becomes_free(&probe, 7));
        assert!(try_lock(&second, 7).unwrap());
        unlock(&second, 7).unwrap();
        assert!(!is_locked(&probe, 7).unwrap());
        assert!(is_locked(&probe, 8).unwrap());
    }

    #[test]
    fn duplicate_keeps_the_lock_until_it_is_closed_or_unlocked() {
        let [first, second, probe] = descriptions();
        assert!(try_lock(&first, 0).unwrap());
        let copy = first.try_clone().unwrap();
        drop(first);
        assert!(
            is_locked(&probe, 0).unwrap(),
            "the copy is the same description"
        );
        unlock(&copy, 0).unwrap();
        assert!(try_lock(&second, 0).unwrap());
    }

    #[test]
    fn read_lock_of_an_observer_is_no_sign_of_life() {
        let [writer, _, probe] = descriptions();
        let observer = reopen(writer.as_fd(), false).unwrap();
        fcntl(
            &observer,
            FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, 3).unwrap()),
        )
        .unwrap();
        assert!(!is_locked(&probe, 3).unwrap());
        assert!(!try_lock(&writer, 3).unwrap());
    }

    #[test]
    fn read_only_descriptor_cannot_hold_and_absurd_bytes_are_refused() {
        let [writer, _, probe] = descriptions();
        assert_eq!(
            try_lock(&probe, 0).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
        assert_eq!(
            try_lock(&writer, u64::MAX).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
        // Bytes need not exist in the object.
        assert!(try_lock(&writer, i64::MAX as u64 - 1).unwrap());
    }
}
