//! Models of a page: sequence word and directory entry, cells, owner words, leases. The first thread
//! of each model does nothing that matters, see `loom_ring`.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::owner::{self, LEASE, REQUEST};
use super::{cell, lease, seqlock};
use crate::blocks;
use crate::layout::page::BlockState;
use crate::sync::{AtomicU32, AtomicU64, Ordering, heavy};

/// A page's block: header words and two payload words.
struct Block {
    seq: AtomicU64,
    lsn: AtomicU64,
    state: AtomicU64,
    payload: [AtomicU64; 2],
}

impl Block {
    fn new(value: u64) -> Block {
        Block {
            seq: AtomicU64::new(0),
            lsn: AtomicU64::new(0),
            state: AtomicU64::new(BlockState::Live(0).word()),
            payload: [value, value].map(AtomicU64::new),
        }
    }

    /// One delta, as the commit path applies it.
    fn patch(&self, value: u64) {
        let even = seqlock::write_begin(&self.seq);
        self.fill(value);
        self.lsn.store(value, Ordering::Relaxed);
        seqlock::write_end(&self.seq, even, 1);
    }

    fn fill(&self, value: u64) {
        for word in &self.payload {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// One attempt to read: `(epoch, lsn, payload)`.
    fn try_read(&self) -> Option<(u64, u64, [u64; 2])> {
        let begin = seqlock::read_begin(&self.seq);
        if begin & 1 == 1 {
            return None;
        }
        let copy = [0, 1].map(|i| self.payload[i].load(Ordering::Relaxed));
        let lsn = self.lsn.load(Ordering::Relaxed);
        seqlock::still(&self.seq, begin).then_some((begin >> 1, lsn, copy))
    }
}

#[test]
fn a_read_is_one_state_of_the_page() {
    loom::model(|| {
        let block = Arc::new(Block::new(0));
        let writer = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                block.patch(1);
                block.patch(2);
            })
        };
        let reader = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                if let Some((epoch, lsn, copy)) = block.try_read() {
                    assert_eq!((epoch, copy), (lsn, [lsn; 2]));
                }
            })
        };
        reader.join().unwrap();
        writer.join().unwrap();
        assert_eq!(block.try_read(), Some((2, 2, [2, 2])));
    });
}

#[test]
fn a_cut_holds_all_of_a_transaction_or_nothing() {
    loom::model(|| {
        let pages = Arc::new([Block::new(0), Block::new(0)]);
        let writer = {
            let pages = Arc::clone(&pages);
            thread::spawn(move || {
                // As `apply_group`: every page odd before the first one changes.
                for page in pages.iter() {
                    seqlock::write_begin(&page.seq);
                }
                for page in pages.iter() {
                    page.patch(1);
                }
            })
        };
        // As `try_cut`.
        let reader = thread::spawn(move || {
            let begins = [0, 1].map(|i: usize| seqlock::read_begin(&pages[i].seq));
            if begins.iter().all(|b| b & 1 == 0) {
                let copies = [0, 1].map(|i: usize| pages[i].payload[0].load(Ordering::Relaxed));
                if (0..2).all(|i| seqlock::still(&pages[i].seq, begins[i])) {
                    assert_eq!(copies[0], copies[1], "half a transaction");
                }
            }
        });
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn a_block_that_left_its_page_is_not_taken_for_it() {
    const ENTRY_OLD: u64 = 1;
    const ENTRY_GONE: u64 = 2;
    loom::model(|| {
        let block = Arc::new(Block::new(10));
        let entry = Arc::new(AtomicU64::new(ENTRY_OLD));
        let destroyer = {
            let (block, entry) = (Arc::clone(&block), Arc::clone(&entry));
            thread::spawn(move || {
                // Release, as `apply_destroy`.
                entry.store(ENTRY_GONE, Ordering::Release);
                assert!(blocks::exchange(
                    &block.state,
                    BlockState::Live(0),
                    BlockState::Free
                ));
            })
        };
        let creator = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                if blocks::hold(&block.state, &block.lsn, BlockState::Free, 7) {
                    // Another page's content; its sequence word starts at zero, as that of the page before did.
                    block.fill(20);
                    block.seq.store(0, Ordering::Relaxed);
                }
            })
        };
        let reader = thread::spawn(move || {
            let seen = entry.load(Ordering::Acquire);
            if let Some((_, _, copy)) = block.try_read() {
                if seen == ENTRY_OLD && seqlock::still_there(&entry, seen) {
                    assert_eq!(copy, [10, 10], "another page's bytes");
                }
            }
        });
        reader.join().unwrap();
        destroyer.join().unwrap();
        creator.join().unwrap();
    });
}

#[test]
fn a_block_that_was_taken_again_is_not_the_content_of_its_delta() {
    const LSN: u64 = 5;
    loom::model(|| {
        let block = Arc::new(Block::new(10));
        block.lsn.store(LSN, Ordering::Relaxed);
        let retired = BlockState::retired(0, LSN);
        block.state.store(retired.word(), Ordering::Relaxed);
        let taker = {
            let block = Arc::clone(&block);
            thread::spawn(move || {
                assert!(blocks::hold(&block.state, &block.lsn, retired, 7));
                block.fill(20);
            })
        };
        let reader = thread::spawn(move || {
            // As `read_swapped`.
            if block.lsn.load(Ordering::Acquire) == LSN {
                let copy = [0, 1].map(|i| block.payload[i].load(Ordering::Relaxed));
                if blocks::still_of(&block.lsn, LSN) {
                    assert_eq!(copy, [10, 10], "bytes of the next filling");
                }
            }
        });
        reader.join().unwrap();
        taker.join().unwrap();
    });
}

#[test]
fn a_version_of_a_cell_is_read_whole_or_not_believed() {
    const K: u64 = 4;
    loom::model(|| {
        let head = Arc::new(AtomicU64::new(0));
        let slots: Arc<[[AtomicU64; 2]; K as usize]> =
            Arc::new([0, 1, 2, 3].map(|_: u64| [0, 0].map(AtomicU64::new)));
        let writer = {
            let (head, slots) = (Arc::clone(&head), Arc::clone(&slots));
            thread::spawn(move || {
                for version in 1..=K {
                    cell::begin_fill();
                    for word in &slots[(version % K) as usize] {
                        word.store(version, Ordering::Relaxed);
                    }
                    cell::publish(&head, version - 1);
                }
            })
        };
        let reader = thread::spawn(move || {
            let seen = cell::current(&head);
            let copy = [0, 1].map(|i: usize| slots[(seen % K) as usize][i].load(Ordering::Relaxed));
            if cell::still(&head, seen, K) {
                assert_eq!(copy, [seen; 2], "version {seen}");
            }
        });
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

/// What an owner word guards: plain memory, so that loom reports two at once, or one that does not see the other.
struct Guarded {
    word: AtomicU32,
    data: UnsafeCell<u32>,
}

impl Guarded {
    fn new(word: u32) -> Arc<Guarded> {
        Arc::new(Guarded {
            word: AtomicU32::new(word),
            data: UnsafeCell::new(0),
        })
    }

    fn change(&self) {
        // SAFETY: the model checks exactly this: that the word's holder is alone here.
        self.data.with_mut(|d| unsafe { *d += 1 });
    }
}

#[test]
fn an_owner_word_excludes_also_while_a_reader_asks_for_a_gap() {
    loom::model(|| {
        let page = Guarded::new(0);
        let writer = |index: u32| {
            let page = Arc::clone(&page);
            thread::spawn(move || {
                let me = owner::word(index, 1);
                for _ in 0..2 {
                    if owner::try_acquire(&page.word, me).is_ok()
                        || owner::try_acquire_requested(&page.word, me)
                    {
                        page.change();
                        owner::release(&page.word, me);
                        return 1;
                    }
                }
                0
            })
        };
        let (one, two) = (writer(0), writer(1));
        let reader = {
            let page = Arc::clone(&page);
            // As `read_slow`: ask, then take the request back if nobody owns the word.
            thread::spawn(move || {
                page.word.fetch_or(REQUEST, Ordering::AcqRel);
                let _ =
                    page.word
                        .compare_exchange(REQUEST, 0, Ordering::Release, Ordering::Relaxed);
            })
        };
        reader.join().unwrap();
        let changes = one.join().unwrap() + two.join().unwrap();
        // Not what the word is now: loom may order the plain store of `release` ahead of an exchange that read the value
        // before it, which no machine does.
        // SAFETY: all writers are joined.
        page.data.with(|d| assert_eq!(unsafe { *d }, changes));
    });
}

#[test]
fn a_recoverer_clears_the_words_of_its_dead_only() {
    loom::model(|| {
        let dead = owner::word(0, 1);
        let page = Guarded::new(dead);
        let writer = {
            let page = Arc::clone(&page);
            thread::spawn(move || {
                let me = owner::word(1, 1);
                if owner::try_acquire(&page.word, me).is_ok() {
                    page.change();
                    owner::release(&page.word, me);
                }
            })
        };
        let first = {
            let page = Arc::clone(&page);
            thread::spawn(move || {
                // The repair; then the word is given up, by two who both think that it is theirs to do.
                page.change();
                let second = {
                    let page = Arc::clone(&page);
                    thread::spawn(move || owner::clear_if(&page.word, dead))
                };
                (owner::clear_if(&page.word, dead), second)
            })
        };
        let (first, second) = first.join().unwrap();
        let second = second.join().unwrap();
        writer.join().unwrap();
        assert!(first != second, "of two, one clears it");
        assert_eq!(page.word.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_lease_is_taken_only_between_two_commits() {
    loom::model(|| {
        let holder = owner::word(0, 1);
        let page = Guarded::new(holder | LEASE);
        let active = Arc::new(AtomicU32::new(0));
        let committing = {
            let (page, active) = (Arc::clone(&page), Arc::clone(&active));
            thread::spawn(move || {
                for _ in 0..2 {
                    if !lease::enter(&page.word, &active, holder) {
                        owner::clear_if(&page.word, holder);
                        return;
                    }
                    page.change();
                    lease::leave(&active);
                }
            })
        };
        let requester = thread::spawn(move || {
            let me = owner::word(1, 1);
            let asked = lease::ask(&page.word, holder | LEASE).expect("nobody else asks");
            heavy();
            if lease::take(&page.word, &active, asked, me) {
                page.change();
                owner::release(&page.word, me);
            }
        });
        requester.join().unwrap();
        committing.join().unwrap();
    });
}
