//! Having the kernel say at once that a thread died inside an operation.
//!
//! A byte lock ([`lock`](super::lock)) goes with the last descriptor of its description, behind the teardown of the dead
//! process's whole memory: a millisecond and more. The *robust list* of a thread (`set_robust_list(2)`, made for mutexes
//! that are shared between processes) is walked as the first thing of its exit. Its head has one place for a single entry,
//! `list_op_pending`, meant for the moment in which a mutex is being locked. If that names a futex word which holds the dying
//! thread's id, the kernel puts `FUTEX_OWNER_DIED` in its place.
//!
//! So: a word in shared memory holds the thread's id, and `list_op_pending` names it for as long as an operation lasts: two
//! stores into the thread's own memory, and no system call. What the mark says, and what it does not:
//!
//! - The thread that was inside the operation executes nothing more, and what it stored is ahead of the mark: the kernel sets
//!   it on behalf of that very thread, behind its last instruction, by a compare-exchange that is a full barrier.
//! - Its siblings may run for a moment longer, and the operation may not have been alone in its process. Only the lock
//!   says that all of it is gone.
//! - A thread that ends *between* operations leaves no mark, so a handle may move to another thread.
//! - No mark says nothing: a kernel without robust lists, a C library that registers none (musl, until it needs one), a
//!   seccomp filter, a robust mutex that was locked inside the operation, or memory that the OOM killer took first.
//!   Then the lock says it later.
//!
//! The C library registers the list of each of its threads, and uses `list_op_pending` itself while it locks or unlocks a
//! robust mutex: what stood there before is put back at the end.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};

/// Set by the kernel in a word whose thread died inside an operation.
pub const OWNER_DIED: u32 = libc::FUTEX_OWNER_DIED;

/// A value that is no thread's id, and that the kernel never marks; for who needs to store something else.
pub const NO_THREAD: u32 = libc::FUTEX_TID_MASK;

/// Whether the thread that the word names died inside an operation.
#[inline]
pub fn died_inside(word: &AtomicU32) -> bool {
    // Acquire: pairs with the kernel's full barrier; what the thread stored is seen.
    word.load(Ordering::Acquire) & OWNER_DIED != 0
}

/// Asks the kernel to wake one sleeper of the word when it marks it: the value to expect there. `None`: there is nothing to
/// wait for, since the word is marked already or its thread has no robust list.
pub fn watch(word: &AtomicU32) -> Option<u32> {
    // Relaxed, both: the value is compared again by who sleeps. Whoever owns the word may store another id at any time; then
    // nobody is woken, and a sleeper's nap ends.
    let found = word.load(Ordering::Relaxed);
    let thread = found & libc::FUTEX_TID_MASK;
    if thread == 0 || thread == NO_THREAD || found & OWNER_DIED != 0 {
        return None;
    }
    let watched = found | libc::FUTEX_WAITERS;
    let set = found == watched
        || word
            .compare_exchange(found, watched, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
    set.then_some(watched)
}

/// What a handle remembers of the thread that used it last. Addresses as numbers: it moves between threads.
#[derive(Debug)]
pub struct Bond {
    /// Thread pointer of that thread; 0: none yet.
    thread: Cell<usize>,
    /// Address of its `list_op_pending`, or of `nowhere`.
    place: Cell<usize>,
    /// What to store there.
    entry: Cell<usize>,
    /// Where threads without a robust list store.
    nowhere: Box<Cell<usize>>,
}

impl Default for Bond {
    fn default() -> Bond {
        let nowhere = Box::new(Cell::new(0));
        Bond {
            thread: Cell::new(0),
            place: Cell::new((&raw const *nowhere).expose_provenance()),
            entry: Cell::new(0),
            nowhere,
        }
    }
}

impl Bond {
    /// Begins an operation of the calling thread; dropping the answer ends it. `word` is always the same one, aligned in
    /// shared memory that stays mapped for as long as the answer lives.
    #[inline(always)]
    pub fn begin(&self, word: &AtomicU32) -> Inside<'_> {
        if self.thread.get() != thread_pointer() {
            self.bind(word);
        }
        let place = std::ptr::with_exposed_provenance_mut(self.place.get());
        // SAFETY: `place` is the word of this very thread that `bind` found, or `nowhere`, which `self` keeps.
        let before = unsafe { std::ptr::read_volatile(place) };
        // An operation of the same handle inside another one comes last in that, so nothing is lost by ending both at once.
        // And whoever left one in the middle (a `longjmp`) is not inside it for ever: the next one ends it.
        let before = if before == self.entry.get() {
            0
        } else {
            before
        };
        // SAFETY: as above. The C library looks at it only inside its own calls, none of which is under way in this thread.
        unsafe { std::ptr::write_volatile(place, self.entry.get()) };
        // The kernel looks on behalf of this thread, so order within the thread is all it takes.
        compiler_fence(Ordering::SeqCst);
        Inside {
            place,
            before,
            _bond: PhantomData,
        }
    }

    /// Whether an operation of the calling thread is under way, as far as the kernel knows.
    #[cfg(test)]
    pub(crate) fn is_inside(&self) -> bool {
        let place = std::ptr::with_exposed_provenance::<usize>(self.place.get());
        // SAFETY: as in `begin`, behind the look at the thread.
        self.thread.get() == thread_pointer()
            && unsafe { std::ptr::read_volatile(place) } == self.entry.get()
    }

    /// Meets a thread. It may have the address of one that ended, with another id: then the kernel finds that the word is
    /// not its own, and marks nothing.
    #[cold]
    fn bind(&self, word: &AtomicU32) {
        let (place, entry, thread) = match robust_head() {
            Some(head) => {
                // SAFETY: the kernel was told of this head by the calling thread's C library; it lies in that thread's own
                // memory for as long as the thread lives. Only the offset is read.
                let offset = unsafe { (&raw const (*head).futex_offset).read() };
                // SAFETY: no access, the address of a field.
                let place = unsafe { &raw mut (*head).list_op_pending }.expose_provenance();
                // The kernel adds the offset to find the word.
                let entry = word.as_ptr().addr().wrapping_sub(offset as usize);
                (place, entry, thread_id())
            }
            None => ((&raw const *self.nowhere).expose_provenance(), 0, 0),
        };
        // Relaxed: the kernel looks on behalf of this thread; others look for the mark alone.
        word.store(thread, Ordering::Relaxed);
        self.place.set(place);
        self.entry.set(entry);
        self.thread.set(thread_pointer());
    }
}

/// An operation that the calling thread is inside of. It does not leave the thread.
#[derive(Debug)]
pub struct Inside<'a> {
    place: *mut usize,
    before: usize,
    _bond: PhantomData<&'a Bond>,
}

impl Drop for Inside<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // All stores of the operation are ahead of it.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `begin`; still the same thread, for this type is not `Send`.
        unsafe { std::ptr::write_volatile(self.place, self.before) };
    }
}

/// Ahead of a fork and in the child: nobody is inside of anything. The child has a copy of the head, registered with the
/// kernel ahead of any handler, and in a new PID namespace its id may be the one in its parent's word. (The parent is not
/// marked if it dies later in the operation in which it forked; then the lock says it.) Async-signal-safe.
pub fn forget() {
    if let Some(head) = robust_head() {
        // SAFETY: as in `bind`; `fork` of the C library is not inside a mutex of its own when handlers run.
        unsafe { (&raw mut (*head).list_op_pending).write_volatile(0) };
    }
}

/// `struct robust_list_head` of `linux/futex.h`.
#[repr(C)]
struct Head {
    list: usize,
    futex_offset: libc::c_long,
    list_op_pending: usize,
}

/// The calling thread's, if its C library registered one.
fn robust_head() -> Option<*mut Head> {
    let (mut head, mut len) = (std::ptr::null_mut::<Head>(), 0usize);
    // SAFETY: asks for the calling thread's own, with valid places for the answers.
    let answer =
        unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) };
    (answer == 0 && !head.is_null() && len == size_of::<Head>()).then_some(head)
}

fn thread_id() -> u32 {
    // SAFETY: takes nothing, and always succeeds.
    unsafe { libc::gettid() as u32 }
}

/// What tells threads that live at the same time apart, at the cost of one load; 0 where there is no cheap way.
#[inline(always)]
fn thread_pointer() -> usize {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
    {
        let pointer: usize;
        // SAFETY: the ABI has the thread pointer at its own address.
        unsafe {
            std::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(nostack, preserves_flags, readonly));
        }
        pointer
    }
    #[cfg(all(target_arch = "aarch64", target_os = "linux", not(miri)))]
    {
        let pointer: usize;
        // SAFETY: reads a register that user space may read.
        unsafe {
            std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem));
        }
        pointer
    }
    #[cfg(not(all(
        any(target_arch = "x86_64", target_arch = "aarch64"),
        target_os = "linux",
        not(miri)
    )))]
    {
        0
    }
}

#[cfg(all(test, not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    /// A word that fork children share.
    fn shared_word() -> &'static AtomicU32 {
        // SAFETY: a fresh anonymous mapping; never unmapped.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        // SAFETY: zeroed, aligned, shared.
        unsafe { &*at.cast::<AtomicU32>() }
    }

    /// Forks a child that does `f` and then ends.
    fn in_fork(f: impl FnOnce()) {
        // SAFETY: the child keeps to what `f` does: stores, system calls, threads of a process that had one.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            f();
            // SAFETY: ends the child without the harness's destructors.
            unsafe { libc::_exit(0) };
        }
        // SAFETY: the child just made; no status asked for.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }

    fn die() -> ! {
        // SAFETY: sends this process a signal that ends it.
        unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
    }

    #[test]
    fn death_inside_is_marked_and_death_outside_is_not() {
        let (inside, behind) = (shared_word(), shared_word());
        in_fork(|| {
            let bond = Bond::default();
            let _inside = bond.begin(inside);
            die();
        });
        in_fork(|| {
            let bond = Bond::default();
            drop(bond.begin(behind));
            die();
        });
        assert!(died_inside(inside));
        assert_ne!(behind.load(Ordering::Relaxed), 0, "it was bound");
        assert!(!died_inside(behind));
    }

    #[test]
    fn an_operation_inside_another_gives_the_place_back() {
        let (outer, inner) = (shared_word(), shared_word());
        in_fork(|| {
            let (a, b) = (Bond::default(), Bond::default());
            let _outer = a.begin(outer);
            drop(b.begin(inner));
            die();
        });
        assert!(died_inside(outer) && !died_inside(inner));
    }

    #[test]
    fn an_operation_that_was_left_in_the_middle_ends_with_the_next_one() {
        let (word, nested) = (shared_word(), shared_word());
        in_fork(|| {
            let bond = Bond::default();
            // As by a `longjmp`.
            std::mem::forget(bond.begin(word));
            drop(bond.begin(word));
            die();
        });
        assert!(!died_inside(word));
        in_fork(|| {
            let bond = Bond::default();
            let _outer = bond.begin(nested);
            let _inner = bond.begin(nested);
            die();
        });
        assert!(died_inside(nested));
    }

    #[test]
    fn a_word_is_watched_only_while_its_thread_may_be_marked() {
        let word = AtomicU32::new(0);
        for unmarkable in [0, NO_THREAD, 17 | OWNER_DIED] {
            word.store(unmarkable, Ordering::Relaxed);
            assert_eq!(watch(&word), None);
            assert_eq!(word.load(Ordering::Relaxed), unmarkable);
        }
        word.store(17, Ordering::Relaxed);
        let watched = watch(&word);
        assert_eq!(watched, Some(17 | libc::FUTEX_WAITERS));
        assert_eq!(watch(&word), watched);
        assert_eq!(Some(word.load(Ordering::Relaxed)), watched);
    }

    #[test]
    fn a_thread_that_ends_between_operations_leaves_no_mark_and_the_next_one_is_bound() {
        let word = shared_word();
        let bond = std::thread::scope(|s| {
            s.spawn(|| {
                let bond = Bond::default();
                drop(bond.begin(word));
                bond
            })
            .join()
            .unwrap()
        });
        let ended = word.load(Ordering::Relaxed);
        assert!(ended != 0 && !died_inside(word));
        drop(bond.begin(word));
        assert_eq!(word.load(Ordering::Relaxed), thread_id());
    }

    #[test]
    fn a_fork_inside_an_operation_is_inside_nothing() {
        let word = shared_word();
        assert!(crate::sys::fork::install());
        let bond = Bond::default();
        let inside = bond.begin(word);
        in_fork(|| {
            // As if it had its parent's id, as the first process of a PID namespace may.
            word.store(thread_id(), Ordering::Relaxed);
            die();
        });
        assert!(!died_inside(word));
        drop(inside);
    }
}
