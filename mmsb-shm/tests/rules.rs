//! Rules of the protocol that only show when several write at once, or when something is kept for somebody slow.
//! `tests/mutants` takes them out one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mmsb_shm::participant::{Participant, ParticipantConfig};
use mmsb_shm::segment::{BusConfig, Core};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{Change, Kind, NewPage, Options, PageError, PageId, PageRef, Polled};

struct Bus {
    core: Arc<Core>,
    _tmp: tempfile::TempDir,
}

fn bus() -> Bus {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let config = BusConfig {
        ring_bytes: 1 << 16,
        pages_max: 64,
        ..BusConfig::default()
    };
    let core = Core::create(&SegmentDir::at(tmp.path()), "t", &config).unwrap();
    Bus {
        core: Arc::new(core),
        _tmp: tmp,
    }
}

impl Bus {
    fn join(&self, name: &str) -> Participant {
        let config = ParticipantConfig {
            name: name.into(),
            ..ParticipantConfig::default()
        };
        Participant::join(Arc::clone(&self.core), config).unwrap()
    }

    fn pages(&self, by: &Participant, count: usize, size: u64) -> Vec<PageId> {
        let new = NewPage {
            size,
            ..NewPage::default()
        };
        (0..count).map(|_| by.create_page(&new).unwrap()).collect()
    }

    fn resolve(&self, id: PageId) -> PageRef {
        self.core.pages.resolve(id).unwrap()
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn lsn_order_is_epoch_order_on_every_page_also_for_batches() {
    // Large enough that a batch is often interrupted in the middle.
    const SIZE: usize = 600;
    const BATCHES: u64 = 100_000;
    let bus = bus();
    let main = bus.join("main");
    let ids = bus.pages(&main, 2, SIZE as u64);
    let mut follower = main.follow(true).unwrap();
    let mut last = [(0u64, [0u8; SIZE]); 2];
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2u64)
            .map(|t| {
                let by = bus.join(&format!("w{t}"));
                let ids = ids.clone();
                let bus = &bus;
                scope.spawn(move || {
                    let pages: Vec<PageRef> = ids.iter().map(|id| bus.resolve(*id)).collect();
                    for i in 0..BATCHES / 2 {
                        let value = [(i << 1 | t) as u8; SIZE];
                        let change = |p: usize| Change::Patch {
                            page: &pages[p],
                            offset: 0,
                            bytes: &value,
                        };
                        // One of the two takes the pages the other way round.
                        let batch = [change(t as usize), change(1 - t as usize)];
                        by.commit(&batch, &Options::default()).unwrap();
                    }
                })
            })
            .collect();
        let mut poll = || {
            main.poll(&mut follower, 1000, |d| {
                // The sources' names are records, too.
                let Some(page) = ids.iter().position(|id| *id == d.page) else {
                    return;
                };
                last[page].0 = d.lsn;
                last[page].1.copy_from_slice(d.payload);
            })
            .unwrap()
        };
        while writers.iter().any(|w| !w.is_finished()) {
            poll();
        }
        while poll() != Polled::Empty {}
    });
    for (id, (lsn, value)) in ids.iter().zip(last) {
        let mut bytes = [0; SIZE];
        let version = main.read(&bus.resolve(*id), 0, &mut bytes).unwrap();
        assert_eq!((version.lsn, version.epoch), (lsn, BATCHES));
        assert_eq!(bytes, value, "the page holds what its last record says");
    }
}

#[test]
fn no_cut_holds_half_a_transaction() {
    let bus = bus();
    let main = bus.join("main");
    let ids = bus.pages(&main, 2, 1024);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let by = bus.join("writer");
        let (bus, ids, stop) = (&bus, &ids, &stop);
        scope.spawn(move || {
            let pages: Vec<PageRef> = ids.iter().map(|id| bus.resolve(*id)).collect();
            let mut value = 0u8;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_add(1);
                let bytes = [value; 1024];
                let change = |p: usize| Change::Patch {
                    page: &pages[p],
                    offset: 0,
                    bytes: &bytes,
                };
                let options = Options {
                    transaction: true,
                    ..Options::default()
                };
                by.commit(&[change(0), change(1)], &options).unwrap();
            }
        });
        // Also when an assertion below fails: the scope waits for the writer.
        let _stop = SetOnDrop(stop);
        let pages: Vec<PageRef> = ids.iter().map(|id| bus.resolve(*id)).collect();
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..3_000_000 {
            if round >= 10_000 && seen.len() > 200 {
                break;
            }
            let cut = main.read_cut(&pages).unwrap();
            let whole = cut.iter().all(|(b, _)| b.iter().all(|x| *x == cut[0].0[0]));
            assert!(whole, "half a transaction");
            assert_eq!(cut[0].1.epoch, cut[1].1.epoch);
            seen.insert(cut[0].1.epoch);
        }
        assert!(
            seen.len() > 200,
            "the writer was hardly seen: {}",
            seen.len()
        );
    });
}

#[test]
fn a_loaned_block_is_kept_for_pins_and_for_gating_cursors() {
    let bus = bus();
    let (a, b) = (bus.join("a"), bus.join("b"));
    let id = bus.pages(&a, 1, 4096)[0];
    let page = bus.resolve(id);
    let publish = |value: u8| {
        let mut loan = a.loan(&page).unwrap();
        loan.fill(value);
        loan.publish(0).unwrap();
    };
    publish(1);
    let seen = bus.resolve(id);
    let view = b.pin(&seen).unwrap();
    for value in 2..20 {
        publish(value);
    }
    assert!(view.iter().all(|x| *x == 1), "a pinned block was reused");
    drop(view);
    let mut follower = b.follow(true).unwrap();
    for value in 20..40 {
        publish(value);
    }
    let mut value = 20;
    b.poll(&mut follower, 100, |d| {
        assert_eq!(d.kind, Kind::Swap);
        let mut content = Vec::new();
        let found = bus.core.pages.read_swapped(d, &mut content).unwrap();
        assert!(found && content == [value; 4096], "{value} was reused");
        value += 1;
    })
    .unwrap();
    assert_eq!(value, 40);
}

#[test]
fn a_handle_that_a_fork_copied_is_refused() {
    let bus = bus();
    let a = bus.join("a");
    let page = bus.resolve(bus.pages(&a, 1, 8)[0]);
    // SAFETY: the child makes one call that touches nothing but the bus, and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let refused = matches!(a.patch(&page, 0, &[1]), Err(PageError::Forked));
        // SAFETY: plain system call.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
    a.patch(&page, 0, &[2]).unwrap();
}
