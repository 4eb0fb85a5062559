//! Models of the store-then-look protocols: doorbell, hazards, block states. The first
//! thread of each model does nothing that matters, see `ring::loom_ring`.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::blocks;
use crate::doorbell::{self, Slept};
use crate::hazard;
use crate::layout::page::BlockState;
use crate::sync::{AtomicU32, AtomicU64, Ordering, heavy};

/// The kernel's futex: compares and blocks as one step. Its sleep has no time limit, so a lost wake-up is a deadlock,
/// which loom reports.
struct Futex {
    queue: Mutex<()>,
    roused: Condvar,
}

impl Futex {
    fn wait(&self, word: &AtomicU32, seen: u32) {
        let guard = self.queue.lock().unwrap();
        // Relaxed: under the queue's lock, as in the kernel.
        if word.load(Ordering::Relaxed) == seen {
            drop(self.roused.wait(guard).unwrap());
        }
    }

    fn wake(&self) {
        drop(self.queue.lock().unwrap());
        self.roused.notify_all();
    }
}

struct Bell {
    word: AtomicU32,
    flags: AtomicU32,
    /// The conditions slept for: a record is READY.
    ready: [AtomicU32; 2],
    futex: Futex,
}

const STRIPE: u32 = 1;

impl Bell {
    fn new() -> Arc<Bell> {
        Arc::new(Bell {
            word: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            ready: [0, 0].map(AtomicU32::new),
            futex: Futex {
                queue: Mutex::new(()),
                roused: Condvar::new(),
            },
        })
    }

    fn sleep(&self, condition: usize) {
        let mut ready = || self.ready[condition].load(Ordering::Acquire) != 0;
        loop {
            let slept = doorbell::sleep_once(
                &self.word,
                &self.flags,
                STRIPE,
                heavy,
                &mut ready,
                |seen, _| {
                    self.futex.wait(&self.word, seen);
                    true
                },
            );
            match slept {
                Slept::Ready => return,
                Slept::Again => {}
                Slept::Expired => unreachable!("this sleeper has all the time there is"),
            }
        }
    }

    fn make_ready(&self, condition: usize) {
        // Release, as READY.
        self.ready[condition].store(1, Ordering::Release);
        if doorbell::is_asleep(&self.flags, STRIPE) {
            doorbell::wake_with(&self.word, &self.flags, STRIPE, |_| self.futex.wake());
        }
    }
}

#[test]
fn a_sleeper_is_woken_whatever_it_was_about_to_do() {
    loom::model(|| {
        let bell = Bell::new();
        let sleeper = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || bell.sleep(0))
        };
        let waker = thread::spawn(move || bell.make_ready(0));
        waker.join().unwrap();
        sleeper.join().unwrap();
    });
}

#[test]
fn a_sleeper_whose_flag_another_waker_wiped_is_woken_all_the_same() {
    loom::model(|| {
        let bell = Bell::new();
        let sleepers = [0, 1].map(|condition| {
            let bell = Arc::clone(&bell);
            thread::spawn(move || bell.sleep(condition))
        });
        // Two records one after the other; each is what one of the two sleeps for, under the same flag.
        let waker = thread::spawn(move || {
            bell.make_ready(0);
            bell.make_ready(1);
        });
        waker.join().unwrap();
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    });
}

/// Plain memory, so that loom reports two accesses that nothing orders.
struct Block {
    entry: AtomicU64,
    state: AtomicU64,
    lsn: AtomicU64,
    free: AtomicU64,
    content: UnsafeCell<u64>,
}

impl Block {
    fn new(state: BlockState) -> Arc<Block> {
        Arc::new(Block {
            entry: AtomicU64::new(1),
            state: AtomicU64::new(state.word()),
            lsn: AtomicU64::new(0),
            free: AtomicU64::new(0),
            content: UnsafeCell::new(0),
        })
    }

    fn write(&self) {
        // SAFETY: the model checks exactly this: that whoever took the block is alone in it.
        self.content.with_mut(|c| unsafe { *c += 1 });
    }
}

#[test]
fn a_pinned_block_is_not_reused() {
    loom::model(|| {
        let block = Block::new(BlockState::Live(0));
        let hazards = Arc::new([AtomicU64::new(0)]);
        let reclaimer = {
            let (block, hazards) = (Arc::clone(&block), Arc::clone(&hazards));
            thread::spawn(move || {
                // The page moves on to another block; then this one may be reused unless it is pinned.
                block.entry.store(2, Ordering::Release);
                hazard::reclaim_fence();
                if !hazard::is_named(&*hazards, 1) {
                    block.write();
                }
            })
        };
        let pinner = thread::spawn(move || {
            if hazard::pin(&hazards[0], 1, &block.entry, 1) {
                // SAFETY: pinned; the model checks that nobody writes meanwhile.
                block.content.with(|c| assert_eq!(unsafe { *c }, 0));
                hazard::unpin(&hazards[0]);
            }
        });
        pinner.join().unwrap();
        reclaimer.join().unwrap();
    });
}

#[test]
fn a_block_has_one_taker_at_a_time_whatever_the_hints_say() {
    loom::model(|| {
        let block = Block::new(BlockState::Free);
        blocks::give_bits(&block.free, 1);
        let taker = |me: u32| {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                if blocks::take_bits(&block.free) & 1 == 0 {
                    return 0;
                }
                if !blocks::hold(&block.state, &block.lsn, BlockState::Free, me) {
                    return 0;
                }
                block.write();
                assert!(blocks::exchange(
                    &block.state,
                    BlockState::Held(me),
                    BlockState::Free
                ));
                blocks::give_bits(&block.free, 1);
                1
            })
        };
        let (one, two) = (taker(1), taker(2));
        // A sweep that saw the block FREE a moment ago lists it although it may be taken.
        let sweeper = {
            let block = Arc::clone(&block);
            thread::spawn(move || blocks::give_bits(&block.free, 1))
        };
        sweeper.join().unwrap();
        let uses = one.join().unwrap() + two.join().unwrap();
        assert!(uses >= 1);
        // SAFETY: all takers are joined.
        block.content.with(|c| assert_eq!(unsafe { *c }, uses));
        assert_eq!(block.state.load(Ordering::Relaxed), BlockState::Free.word());
    });
}
