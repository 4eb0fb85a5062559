//! The table of handles, its generations, kinds, roots and threads.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::status::mmsb_status::*;

/// The table is the process's, and tests run side by side: each looks at handles of its own only.
struct Thing(u32);

impl Object for Thing {
    const KIND: Kind = Kind::State;
}

struct Other;

impl Object for Other {
    const KIND: Kind = Kind::Log;
}

const OWN: Root = Root::Own { serialised: false };
const SHARED: Root = Root::Own { serialised: true };

fn thing(number: u32, root: Root) -> u64 {
    open(Box::new(Thing(number)), root).unwrap()
}

fn status<T: Object>(handle: u64) -> mmsb_status {
    match held::<T>(handle) {
        Ok(_) => MMSB_OK,
        Err(fault) => fault.status,
    }
}

#[test]
fn chunks_hold_each_index_once() {
    let mut expected = (0, 0);
    for index in 0..100_000 {
        assert_eq!(place(index), expected, "index {index}");
        expected.1 += 1;
        if expected.1 == FIRST << expected.0 {
            expected = (expected.0 + 1, 0);
        }
    }
    let (chunk, at) = place(SLOTS_MAX - 1);
    assert_eq!((chunk, at), (CHUNKS - 1, (FIRST << (CHUNKS - 1)) - 1));
    assert_eq!(place(SLOTS_MAX).0, CHUNKS);
    const { assert!(SLOTS_MAX <= INDEX_MASK + 1, "an index fits its bits") };
    assert!(
        slot(INDEX_MASK).is_none(),
        "beyond the table, or not there yet"
    );
}

#[test]
fn thousands_of_handles_lead_to_their_own_objects() {
    let handles: Vec<u64> = (0..5000).map(|n| thing(n, OWN)).collect();
    for (n, handle) in handles.iter().enumerate() {
        assert_eq!(held::<Thing>(*handle).unwrap().0, n as u32);
    }
    for handle in handles {
        drop(close::<Thing>(handle).unwrap());
        assert_eq!(status::<Thing>(handle), MMSB_STALE_HANDLE);
    }
}

#[test]
fn a_slot_that_is_used_again_does_not_serve_its_old_handles() {
    let mut old = Vec::new();
    for n in 0..100 {
        let handle = thing(n, OWN);
        for stale in &old {
            assert_eq!(status::<Thing>(*stale), MMSB_STALE_HANDLE);
        }
        assert_eq!(held::<Thing>(handle).unwrap().0, n);
        drop(close::<Thing>(handle).unwrap());
        assert!(close::<Thing>(handle).is_err(), "closed twice");
        old.push(handle);
    }
}

#[test]
fn what_was_never_given_out_is_no_handle() {
    let handle = thing(1, OWN);
    for wrong in [
        0,
        1,
        u64::MAX,
        handle & INDEX_MASK,
        handle | 0xff << INDEX_BITS,
        handle + (1 << 40),
        handle | INDEX_MASK,
        0xdead_beef_dead_beef,
    ] {
        assert_eq!(status::<Thing>(wrong), MMSB_BAD_HANDLE, "{wrong:#x}");
        let closed = close::<Thing>(wrong).map(|_| ()).unwrap_err();
        assert_eq!(closed.status, MMSB_BAD_HANDLE, "{wrong:#x}");
    }
    assert_eq!(status::<Other>(handle), MMSB_BAD_HANDLE, "of another kind");
    assert_eq!(status::<Thing>(handle), MMSB_OK);
    drop(close::<Thing>(handle).unwrap());
}

#[test]
fn a_handle_is_its_first_users_until_that_thread_ends() {
    let handle = thing(7, OWN);
    let (go, wait) = mpsc::channel::<()>();
    let (say, used) = mpsc::channel();
    let owner = thread::spawn(move || {
        say.send(status::<Thing>(handle)).unwrap();
        wait.recv().unwrap();
    });
    assert_eq!(used.recv().unwrap(), MMSB_OK);
    assert_eq!(status::<Thing>(handle), MMSB_WRONG_THREAD);
    assert!(close::<Thing>(handle).is_err());
    go.send(()).unwrap();
    owner.join().unwrap();
    assert_eq!(status::<Thing>(handle), MMSB_OK, "taken over");
    let elsewhere = thread::spawn(move || status::<Thing>(handle));
    assert_eq!(elsewhere.join().unwrap(), MMSB_WRONG_THREAD);
    drop(close::<Thing>(handle).unwrap());
}

#[test]
fn a_released_handle_is_the_next_ones() {
    let handle = thing(7, OWN);
    assert_eq!(status::<Thing>(handle), MMSB_OK);
    release(handle, Kind::State).unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let (say, used) = mpsc::channel();
    let next = thread::spawn(move || {
        say.send(status::<Thing>(handle)).unwrap();
        wait.recv().unwrap();
        drop(close::<Thing>(handle).unwrap());
    });
    assert_eq!(used.recv().unwrap(), MMSB_OK);
    assert_eq!(
        release(handle, Kind::State).unwrap_err().status,
        MMSB_WRONG_THREAD
    );
    go.send(()).unwrap();
    next.join().unwrap();
    assert_eq!(status::<Thing>(handle), MMSB_STALE_HANDLE);
}

#[test]
fn of_two_threads_one_is_inside_a_serialised_root() {
    let root = thing(0, SHARED);
    let child = open(Box::new(Other), Root::Of(root)).unwrap();
    let inside = Arc::new(AtomicUsize::new(0));
    let entered = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let (inside, entered) = (Arc::clone(&inside), Arc::clone(&entered));
            thread::spawn(move || {
                for _ in 0..20_000 {
                    let found = if n % 2 == 0 {
                        held::<Thing>(root).map(|held| drop_inside(held, &inside))
                    } else {
                        held::<Other>(child).map(|held| drop_inside(held, &inside))
                    };
                    match found {
                        Ok(()) => drop(entered.fetch_add(1, Ordering::Relaxed)),
                        Err(fault) => assert_eq!(fault.status, MMSB_BUSY),
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(entered.load(Ordering::Relaxed) > 0);
    assert!(close_child(child).is_some());
    drop(close::<Thing>(root).unwrap());
}

fn drop_inside<T>(held: Held<T>, inside: &AtomicUsize) {
    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "alone");
    std::hint::spin_loop();
    inside.fetch_sub(1, Ordering::SeqCst);
    drop(held);
}

#[test]
fn who_comes_with_a_closed_handle_lets_nobody_else_in() {
    // One thread closes serialised roots and opens others in their slots; the others keep coming with whatever was
    // last.
    let current = Arc::new(AtomicU64::new(thing(0, SHARED)));
    let inside = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let comers: Vec<_> = (0..3)
        .map(|_| {
            let (current, inside, done) =
                (Arc::clone(&current), Arc::clone(&inside), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    match held::<Thing>(current.load(Ordering::Relaxed)) {
                        Ok(held) => drop_inside(held, &inside),
                        Err(fault) => {
                            assert!(matches!(fault.status, MMSB_BUSY | MMSB_STALE_HANDLE));
                        }
                    }
                }
            })
        })
        .collect();
    for n in 1..20_000 {
        let old = current.load(Ordering::Relaxed);
        while close::<Thing>(old).is_err() {
            thread::yield_now();
        }
        current.store(thing(n, SHARED), Ordering::Relaxed);
    }
    done.store(true, Ordering::Relaxed);
    for comer in comers {
        comer.join().unwrap();
    }
    drop(close::<Thing>(current.load(Ordering::Relaxed)).unwrap());
}

#[test]
fn a_handle_of_another_root_is_refused_beside() {
    let (one, two) = (thing(1, OWN), thing(2, OWN));
    let child = open(Box::new(Other), Root::Of(two)).unwrap();
    let held = held::<Thing>(one).unwrap();
    assert_eq!(
        beside::<Other, _>(&held, child).unwrap_err().status,
        MMSB_OTHER_BUS
    );
    assert_eq!(
        beside::<Other, _>(&held, two).unwrap_err().status,
        MMSB_BAD_HANDLE
    );
    drop(held);
    let held = super::held::<Thing>(two).unwrap();
    assert!(beside::<Other, _>(&held, child).is_ok());
    drop(held);
    assert!(close_child(child).is_some() && close_child(child).is_none());
    for handle in [one, two] {
        drop(close::<Thing>(handle).unwrap());
    }
}

#[test]
fn a_child_of_fork_finds_the_table_free() {
    // Threads that open and close all the time, so that a fork falls into the middle of it.
    let done = Arc::new(AtomicBool::new(false));
    let busy: Vec<_> = (0..2)
        .map(|n| {
            let done = Arc::clone(&done);
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    drop(close::<Thing>(thing(n, OWN)).unwrap());
                }
            })
        })
        .collect();
    for _ in 0..100 {
        // SAFETY: the child opens and closes a handle, which takes the lock that is asked about, and ends at once.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: ends a child that hangs, and one that does not.
            unsafe {
                libc::alarm(20);
                let good = close::<Thing>(thing(9, OWN)).is_ok();
                libc::_exit(i32::from(!good));
            }
        }
        let mut status = 0;
        // SAFETY: waits for the child made just now.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert_eq!(status, 0, "the child ended in good order");
    }
    done.store(true, Ordering::Relaxed);
    for thread in busy {
        thread.join().unwrap();
    }
}
