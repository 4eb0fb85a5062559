//! An opt-in guard against SIGBUS while copying from a mapping.
//!
//! Bounds checks cannot protect a reader from somebody with write permission who truncates the object after the
//! check: the touch of a page that is gone raises SIGBUS, which kills the process. With the guard installed, a copy
//! that runs inside [`guarded`] survives it: the handler puts a private page of zeroes where the missing page was, the
//! copy completes, and [`guarded`] returns [`Truncated`] instead of the result.
//!
//! # After a truncation
//! The mapping is **poisoned**: from then on the replaced pages are private zeroes and no longer the object, even if
//! the object grows again. Whatever the copy produced is thrown away, and the bus must be detached (unmapping also
//! removes the private pages).
//!
//! # Other handlers
//! Faults that are not ours go to the handler that was there before: another library's, or the default, which
//! kills as ever. A handler that someone installs later, without calling ours in turn, disables the guard.

use core::sync::atomic::{
    AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst, compiler_fence,
};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{fmt, io, ptr};

use rustix::mm::{MapFlags, ProtFlags};

/// A guarded copy touched a page that the object no longer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated {
    /// First address at which the fault was taken.
    pub addr: usize,
}

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the segment was truncated under its mapping (fault at {:#x})",
            self.addr
        )
    }
}

impl std::error::Error for Truncated {}

/// What the handler needs to know about its thread. Atomics, as the handler interrupts the code that sets them;
/// const-initialised and without a destructor, so that reading it in a handler runs no lazy initialiser.
struct Guard {
    base: AtomicUsize,
    /// One past the guarded range; 0 while nothing is guarded.
    end: AtomicUsize,
    /// First faulting address since the outermost `guarded` began, or 0.
    fault: AtomicUsize,
}

thread_local! {
    static GUARD: Guard = const {
        Guard { base: AtomicUsize::new(0), end: AtomicUsize::new(0), fault: AtomicUsize::new(0) }
    };
}

static INSTALLED: AtomicBool = AtomicBool::new(false);
static PAGE: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler for this process, once; later calls do nothing.
///
/// It applies to all threads and stays for the life of the process. Children inherit it through `fork`.
///
/// # Errors
/// What `sigaction` said.
pub fn install() -> io::Result<()> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _once = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    if installed() {
        return Ok(());
    }
    let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; `previous` is a valid place for the answer.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Before the handler can run, as it reads both. A failed install leaves them set, which harms nobody.
    // SAFETY: the call above succeeded and filled it.
    PREVIOUS.get_or_init(|| unsafe { previous.assume_init() });
    // Relaxed: the sigaction call below comes after it for every thread that can take the signal.
    PAGE.store(rustix::param::page_size(), Relaxed);

    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all-zero is a valid sigaction (default action, empty mask); the fields are then set through it.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    // ONSTACK: the fault may come from a thread that runs on a nearly full stack.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is initialised; its handler is async-signal-safe (see there) and lives as long as the image.
    if unsafe { libc::sigaction(libc::SIGBUS, action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Relaxed: only a hint for callers, the kernel's table is the truth.
    INSTALLED.store(true, Relaxed);
    Ok(())
}

/// Whether [`install`] has succeeded in this process.
#[inline]
pub fn installed() -> bool {
    // Relaxed: see `install`.
    INSTALLED.load(Relaxed)
}

/// Runs `f` with the mapped bytes `range = (base address, length)` guarded in this thread: a touch of a page in
/// it that the object lacks reads zeroes (and swallows stores) instead of killing the process.
///
/// Calls nest; the innermost range counts. Without [`install`] it just runs `f`.
///
/// # Errors
/// [`Truncated`] when that happened; `f` did run to its end, and its result, made of zeroes, was dropped.
///
/// # Safety
/// `range` must lie in one mapping of a file, which stays mapped during the call, and after [`Truncated`] must be
/// treated as poisoned: nobody may rely on its bytes, or on stores to it reaching the object, and it must be unmapped
/// soon. No `&` or `&mut` reference to its bytes may exist.
#[inline]
pub unsafe fn guarded<R>(range: (usize, usize), f: impl FnOnce() -> R) -> Result<R, Truncated> {
    GUARD.with(|guard| {
        let outer = Outer {
            guard,
            base: guard.base.load(Relaxed),
            end: guard.end.load(Relaxed),
            fault: guard.fault.load(Relaxed),
        };
        guard.fault.store(0, Relaxed);
        guard.set(range.0, range.0.saturating_add(range.1));
        let result = f();
        // Before the loads and stores below: the handler, in this thread, sets `fault` during `f`.
        compiler_fence(SeqCst);
        let addr = guard.fault.load(Relaxed);
        drop(outer);
        if addr == 0 {
            Ok(result)
        } else {
            Err(Truncated { addr })
        }
    })
}

impl Guard {
    /// Relaxed and compiler fences are enough: the only other reader is a handler on this very thread.
    #[inline(always)]
    fn set(&self, base: usize, end: usize) {
        compiler_fence(SeqCst);
        self.base.store(base, Relaxed);
        self.end.store(end, Relaxed);
        compiler_fence(SeqCst);
    }
}

/// Puts the enclosing `guarded` call's range back, also when the copy panics.
struct Outer<'a> {
    guard: &'a Guard,
    base: usize,
    end: usize,
    fault: usize,
}

impl Drop for Outer<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.guard.set(self.base, self.end);
        self.guard.fault.store(self.fault, Relaxed);
    }
}

/// Async-signal-safe: thread-local and static atomics, an initialised `OnceLock`, mmap by system call (rustix makes it
/// without touching errno), and the previous handler.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo to a SA_SIGINFO handler.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code == libc::BUS_ADRERR && replace_page(addr) {
        return;
    }
    chain(PREVIOUS.get(), signal, code, info, context);
}

/// Puts a page of zeroes at a fault inside this thread's guarded range.
fn replace_page(addr: usize) -> bool {
    // A thread whose locals are gone cannot be inside `guarded`.
    GUARD
        .try_with(|guard| {
            // Relaxed: set by this thread before the access that faulted.
            let (base, end) = (guard.base.load(Relaxed), guard.end.load(Relaxed));
            if addr < base || addr >= end {
                return false;
            }
            let page = PAGE.load(Relaxed);
            let start = addr & !(page - 1);
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            // SAFETY: the page lies in the file mapping that the caller of `guarded` named, where nobody holds
            // references and which it agreed to have poisoned; the object has no byte in this page, else the access
            // would not have raised BUS_ADRERR, so nothing is lost.
            let zeroes = unsafe {
                rustix::mm::mmap_anonymous(
                    start as *mut c_void,
                    page,
                    ProtFlags::READ | ProtFlags::WRITE,
                    flags,
                )
            };
            if zeroes.is_ok() && guard.fault.load(Relaxed) == 0 {
                guard.fault.store(addr, Relaxed);
            }
            zeroes.is_ok()
        })
        .unwrap_or(false)
}

/// Does what would have been done without us.
fn chain(
    previous: Option<&libc::sigaction>,
    signal: c_int,
    code: c_int,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    type Plain = extern "C" fn(c_int);
    type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
    let handler = previous.map_or(libc::SIG_DFL, |action| action.sa_sigaction);
    // A sent signal can be ignored, a fault cannot: the kernel would kill too.
    let sent = code <= 0;
    match (handler, previous) {
        (libc::SIG_IGN, _) if sent => {}
        (libc::SIG_DFL | libc::SIG_IGN, _) | (_, None) => die(signal, sent),
        (handler, Some(action)) if action.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the flag says that whoever installed it gave a three-argument handler.
            let handler = unsafe { std::mem::transmute::<usize, WithInfo>(handler) };
            handler(signal, info, context);
        }
        (handler, Some(_)) => {
            // SAFETY: without the flag it is a one-argument handler, and not one of the special values above.
            let handler = unsafe { std::mem::transmute::<usize, Plain>(handler) };
            handler(signal);
        }
    }
}

/// Restores the default action. A fault repeats when the handler returns, and kills with its own address and a
/// core dump; a signal that was sent does not, so it is sent again (and delivered on return, as it is blocked now).
fn die(signal: c_int, sent: bool) {
    // SAFETY: all-zero is the default action with an empty mask; signal, sigaction and raise are
    // async-signal-safe.
    unsafe {
        let default = MaybeUninit::<libc::sigaction>::zeroed();
        libc::sigaction(signal, default.as_ptr(), ptr::null_mut());
        if sent {
            libc::raise(signal);
        }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use crate::sys::{map::Mapping, space};
    use std::os::fd::OwnedFd;
    use std::path::Path;

    const PAGE_BYTES: usize = 4096;

    /// An object of `pages` pages of 0xA5, mapped whole, then cut to `left` pages.
    fn truncated(pages: usize, left: usize) -> (OwnedFd, Mapping) {
        let fd = space::create_unnamed(Path::new("/dev/shm"), 0o600).unwrap();
        rustix::io::pwrite(&fd, &vec![0xA5; pages * PAGE_BYTES], 0).unwrap();
        let map = Mapping::new(&fd, pages * PAGE_BYTES, true).unwrap();
        rustix::fs::ftruncate(&fd, (left * PAGE_BYTES) as u64).unwrap();
        (fd, map)
    }

    /// The first byte of each page, read as a foreign reader would.
    unsafe fn first_bytes(map: &Mapping) -> Vec<u8> {
        let pages = (0..map.len()).step_by(PAGE_BYTES);
        // SAFETY: inside the mapping; whether the object reaches so far is what the tests are about.
        pages
            .map(|offset| unsafe { map.base().add(offset).read_volatile() })
            .collect()
    }

    fn range(map: &Mapping) -> (usize, usize) {
        (map.base() as usize, map.len())
    }

    #[test]
    fn truncated_object_reads_as_zeroes_and_is_reported() {
        install().unwrap();
        install().unwrap();
        assert!(installed());
        let (_fd, map) = truncated(8, 3);
        let mut copy = Vec::new();
        // SAFETY: the range is this mapping, which is dropped at the end of the test.
        let outcome = unsafe { guarded(range(&map), || copy = first_bytes(&map)) };
        let fault = map.base() as usize + 3 * PAGE_BYTES;
        assert_eq!(outcome, Err(Truncated { addr: fault }));
        assert_eq!(copy, [0xA5, 0xA5, 0xA5, 0, 0, 0, 0, 0]);
        // SAFETY: as above. The pages are private zeroes now, so nothing faults.
        let again = unsafe { guarded(range(&map), || first_bytes(&map)) };
        assert_eq!(again, Ok(copy));
    }

    #[test]
    fn stores_beyond_the_end_are_swallowed_and_reported() {
        install().unwrap();
        let (fd, map) = truncated(2, 1);
        // SAFETY: the range is this mapping; the store lies inside it.
        let outcome = unsafe {
            guarded(range(&map), || {
                map.base().add(PAGE_BYTES + 9).write_volatile(1)
            })
        };
        assert!(outcome.unwrap_err().to_string().contains("truncated"));
        assert_eq!(space::stat(&fd).unwrap().len, PAGE_BYTES as u64);
    }

    #[test]
    fn nested_guards_report_to_the_innermost_and_restore_the_outer() {
        install().unwrap();
        let ((_fd, outer), (_fd2, inner)) = (truncated(2, 1), truncated(2, 1));
        // SAFETY: both ranges are mappings of this test.
        let outcome = unsafe {
            guarded(range(&outer), || {
                assert!(guarded(range(&inner), || first_bytes(&inner)).is_err());
                assert!(guarded(range(&inner), || ()).is_ok());
            })
        };
        assert_eq!(outcome, Ok(()), "the inner fault is not the outer one's");
        // SAFETY: as above; a panic inside must not leave the range behind.
        let caught =
            std::panic::catch_unwind(|| unsafe { guarded(range(&outer), || panic!("inside")) });
        assert!(caught.is_err());
        assert_eq!(GUARD.with(|guard| guard.end.load(Relaxed)), 0);
    }

    /// Runs `act` in a fork and returns the signal that killed it (0: none).
    fn killed_by(act: impl FnOnce()) -> i32 {
        // SAFETY: the child only touches memory and makes system calls, then exits without destructors.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: plain system calls; no core file of a death that is expected.
            unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
            act();
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        assert!(pid > 0);
        let mut status = 0;
        // SAFETY: waits for the child just made.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        if libc::WIFSIGNALED(status) {
            libc::WTERMSIG(status)
        } else {
            0
        }
    }

    #[test]
    fn faults_outside_the_range_and_sent_signals_still_kill() {
        install().unwrap();
        let (_fd, map) = truncated(4, 1);
        let read = |page: usize| {
            // SAFETY: inside the mapping; the fault is the point.
            std::hint::black_box(unsafe { map.base().add(page * PAGE_BYTES).read_volatile() });
        };
        assert_eq!(killed_by(|| read(0)), 0);
        assert_eq!(killed_by(|| read(2)), libc::SIGBUS, "unguarded");
        let first = (map.base() as usize, 2 * PAGE_BYTES);
        let guarded_read = |page: usize| {
            // SAFETY: the range is a part of this test's mapping, in a child that ends right after.
            let _: Result<(), Truncated> = unsafe { guarded(first, || read(page)) };
        };
        assert_eq!(killed_by(|| guarded_read(1)), 0);
        assert_eq!(
            killed_by(|| guarded_read(2)),
            libc::SIGBUS,
            "outside the guarded range"
        );
        // The standard library's handler, to which ours passes it on, takes the first one as a reason to step aside.
        let sent = || {
            // SAFETY: raise is async-signal-safe.
            unsafe {
                libc::raise(libc::SIGBUS);
                libc::raise(libc::SIGBUS);
            }
        };
        assert_eq!(killed_by(sent), libc::SIGBUS, "sent");
    }

    static CHAINED: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn with_info(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        assert!(signal == libc::SIGBUS && info.is_null());
        CHAINED.fetch_add(1, Relaxed);
    }

    extern "C" fn plain(signal: c_int) {
        assert_eq!(signal, libc::SIGBUS);
        CHAINED.fetch_add(10, Relaxed);
    }

    #[test]
    fn an_earlier_handler_gets_what_is_not_ours() {
        let previous = |handler: usize, sa_flags: c_int| {
            // SAFETY: all-zero is a valid sigaction.
            let zeroed = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
            libc::sigaction {
                sa_sigaction: handler,
                sa_flags,
                ..zeroed
            }
        };
        let pass = |previous: Option<&libc::sigaction>, code: c_int| {
            chain(
                previous,
                libc::SIGBUS,
                code,
                ptr::null_mut(),
                ptr::null_mut(),
            );
        };
        pass(
            Some(&previous(with_info as *const () as usize, libc::SA_SIGINFO)),
            libc::BUS_ADRERR,
        );
        assert_eq!(CHAINED.load(Relaxed), 1);
        pass(
            Some(&previous(plain as *const () as usize, 0)),
            libc::BUS_ADRERR,
        );
        assert_eq!(CHAINED.load(Relaxed), 11);
        // Ignoring works for a sent signal only; the default kills for one.
        pass(Some(&previous(libc::SIG_IGN, 0)), libc::SI_USER);
        let ignored = previous(libc::SIG_IGN, 0);
        assert_eq!(killed_by(|| pass(Some(&ignored), libc::SI_USER)), 0);
        assert_eq!(
            killed_by(|| pass(Some(&previous(libc::SIG_DFL, 0)), libc::SI_USER)),
            libc::SIGBUS
        );
        assert_eq!(killed_by(|| pass(None, libc::SI_USER)), libc::SIGBUS);
        // After a fault the default action is back, and the repeated access kills.
        let repeated = || {
            pass(Some(&ignored), libc::BUS_ADRERR);
            // SAFETY: async-signal-safe.
            unsafe { libc::raise(libc::SIGBUS) };
        };
        assert_eq!(killed_by(repeated), libc::SIGBUS);
    }
}
