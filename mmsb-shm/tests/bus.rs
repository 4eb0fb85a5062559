//! One process, several participants: the operations one by one.

use std::sync::Arc;

use mmsb_shm::participant::{Participant, ParticipantConfig};
use mmsb_shm::segment::{self, BusConfig, Core};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{Change, Cold, Kind, NewPage, Options, PageError, Pages, Polled};

struct TestBus {
    dir: SegmentDir,
    core: Arc<Core>,
    _tmp: tempfile::TempDir,
}

fn bus_with(config: &BusConfig) -> TestBus {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    let core = Arc::new(Core::create(&dir, "t", config).unwrap());
    TestBus {
        dir,
        core,
        _tmp: tmp,
    }
}

fn bus() -> TestBus {
    bus_with(&BusConfig {
        ring_bytes: 1 << 16,
        pages_max: 256,
        ..BusConfig::default()
    })
}

impl TestBus {
    fn join(&self, name: &str) -> Participant {
        Participant::join(
            Arc::clone(&self.core),
            ParticipantConfig {
                name: name.into(),
                ..Default::default()
            },
        )
        .unwrap()
    }
}

fn page(size: u64) -> NewPage {
    NewPage {
        size,
        ..NewPage::default()
    }
}

fn named(size: u64, name: &str) -> NewPage {
    NewPage {
        size,
        cold: Cold {
            name: name.into(),
            ..Cold::default()
        },
        ..NewPage::default()
    }
}

#[test]
fn a_patch_is_seen_by_another_participant_and_by_an_observer() {
    let bus = bus();
    let (a, b) = (bus.join("a"), bus.join("b"));
    let id = a.create_page(&named(100, "x/y")).unwrap();
    let page = a.open_page("x/y").unwrap();
    assert_eq!(page.id(), id);
    let lsn = a.patch(&page, 10, b"hello").unwrap();
    let seen = b.open_page("x/y").unwrap();
    let mut out = [0u8; 5];
    let version = b.read(&seen, 10, &mut out).unwrap();
    assert_eq!((&out, version.epoch, version.lsn), (b"hello", 1, lsn));
    let observer = Pages::open(&bus.dir, "t", false).unwrap();
    let page = observer.resolve(observer.find("x/y").unwrap()).unwrap();
    assert_eq!(observer.observe(&page, 10, &mut out).unwrap(), version);
    assert_eq!(&out, b"hello");
}

#[test]
fn every_size_of_patch_survives_a_small_ring_many_times_over() {
    let bus = bus_with(&BusConfig {
        ring_bytes: 4096,
        pages_max: 16,
        ..BusConfig::default()
    });
    let a = bus.join("a");
    let b = bus.join("b");
    let id = a.create_page(&page(3000)).unwrap();
    let pa = a.core().pages.resolve(id).unwrap();
    let pb = b.core().pages.resolve(id).unwrap();
    let mut model = vec![0u8; 3000];
    let mut follower = b.follow(true).unwrap();
    let mut replica = vec![0u8; 3000];
    for i in 0..20_000usize {
        let len = (i * 37) % 800;
        let at = (i * 101) % (3000 - len);
        let bytes: Vec<u8> = (0..len).map(|j| (i + j) as u8).collect();
        model[at..at + len].copy_from_slice(&bytes);
        a.patch(&pa, at, &bytes).unwrap();
        let mut swapped = None;
        b.poll(&mut follower, 100, |d| {
            d.for_each_range(|at, bytes| replica[at..at + bytes.len()].copy_from_slice(bytes));
            if d.kind == Kind::Swap {
                let mut content = Vec::new();
                assert!(b.core().pages.read_swapped(d, &mut content).unwrap());
                swapped = Some(content);
            }
        })
        .unwrap();
        if let Some(content) = swapped {
            replica = content;
        }
        if i % 97 == 0 {
            let mut out = vec![0u8; 3000];
            let v = b.read(&pb, 0, &mut out).unwrap();
            assert_eq!(v.epoch, i as u64 + 1);
            assert!(out == model && replica == model, "at {i}");
        }
    }
}

#[test]
fn batches_transactions_ranges_masks_and_cells_give_what_they_say() {
    let bus = bus();
    let a = bus.join("a");
    let ids: Vec<_> = (0..4)
        .map(|i| {
            a.create_page(&NewPage {
                size: 200,
                versions: if i == 3 { 4 } else { 1 },
                ..page(0)
            })
            .unwrap()
        })
        .collect();
    let p: Vec<_> = ids
        .iter()
        .map(|id| a.core().pages.resolve(*id).unwrap())
        .collect();
    for transaction in [false, true] {
        let changes = [
            Change::Patch {
                page: &p[3],
                offset: 0,
                bytes: b"cell",
            },
            Change::Ranges {
                page: &p[0],
                ranges: &[(0, 2), (100, 3)],
                bytes: b"abcde",
            },
            Change::Masked {
                page: &p[1],
                offset: 5,
                mask: &[1, 0, 1],
                bytes: b"xyz",
            },
            Change::Patch {
                page: &p[0],
                offset: 1,
                bytes: b"Z",
            },
            Change::Patch {
                page: &p[3],
                offset: 4,
                bytes: b"!",
            },
            Change::Mark { bytes: b"mark" },
        ];
        let r = a
            .commit(
                &changes,
                &Options {
                    cause: 7,
                    transaction,
                },
            )
            .unwrap();
        assert!(r.first > 0 && r.last > r.first && r.end > r.last);
        let cut = a
            .read_cut(
                &p.iter()
                    .map(|p| a.core().pages.resolve(p.id()).unwrap())
                    .collect::<Vec<_>>(),
            )
            .unwrap();
        assert_eq!(&cut[0].0[..2], b"aZ");
        assert_eq!(&cut[0].0[100..103], b"cde");
        assert_eq!(&cut[1].0[5..8], b"x\0z");
        assert_eq!(&cut[3].0[..5], b"cell!");
    }
    assert_eq!(a.core().pages.version(&p[0]).unwrap().epoch, 4);
    assert_eq!(a.core().pages.version(&p[3]).unwrap().epoch, 4);
    let overlap = Change::Ranges {
        page: &p[0],
        ranges: &[(0, 2), (1, 1)],
        bytes: b"abc",
    };
    assert!(matches!(
        a.commit(&[overlap], &Options::default()),
        Err(PageError::Overlap {
            index: 1,
            offset: 1
        })
    ));
}

#[test]
fn a_loan_is_published_pinned_copied_on_write_and_reused() {
    let bus = bus();
    let a = bus.join("a");
    let b = bus.join("b");
    let id = a.create_page(&page(1 << 20)).unwrap();
    let pa = a.core().pages.resolve(id).unwrap();
    let pb = b.core().pages.resolve(id).unwrap();
    for round in 1..=20u8 {
        let mut loan = a.loan(&pa).unwrap();
        loan.fill(round);
        loan.publish(0).unwrap();
        let view = b.pin(&pb).unwrap();
        assert!(view.iter().all(|x| *x == round));
        assert_eq!(view.version().epoch, u64::from(round));
    }
    let view = b.pin(&pb).unwrap();
    a.patch(&pa, 3, b"patch").unwrap();
    assert!(view.iter().all(|x| *x == 20), "a pinned view is immutable");
    let mut out = [0u8; 10];
    assert_eq!(b.read(&pb, 0, &mut out).unwrap().epoch, 21);
    assert_eq!(&out, b"\x14\x14\x14patch\x14\x14");
    assert!(matches!(b.pin(&pb), Err(PageError::NotLoaned(_))));
    drop(view);
    let slabs: u32 = bus.core.pages.class_use().iter().map(|c| c.slabs).sum();
    assert!(slabs <= 8, "blocks are reused: {slabs}");
}

#[test]
fn a_block_that_comes_back_loaned_is_not_patched_in_place() {
    let bus = bus();
    let (a, b) = (bus.join("a"), bus.join("b"));
    let id = a.create_page(&page(5000)).unwrap();
    let pa = a.core().pages.resolve(id).unwrap();
    let pb = b.core().pages.resolve(id).unwrap();
    // The handle of b now knows the first block as one that is patched in place.
    b.patch(&pb, 0, &[1]).unwrap();
    for fill in [2, 3] {
        // Away to another block, and back to the first one, which was retired meanwhile.
        let mut loan = a.loan(&pa).unwrap();
        loan.fill(fill);
        loan.publish(0).unwrap();
    }
    let view = a.pin(&pa).unwrap();
    b.patch(&pb, 100, &[9; 50]).unwrap();
    assert!(
        view.iter().all(|x| *x == 3),
        "a pinned view moved under its reader"
    );
    let mut out = [0; 50];
    a.read(&pa, 100, &mut out).unwrap();
    assert_eq!(out, [9; 50]);
}

#[test]
fn a_patch_of_a_loaned_page_that_just_fits_a_record_goes_through_a_block() {
    let bus = bus_with(&BusConfig {
        ring_bytes: 4096,
        pages_max: 16,
        ..BusConfig::default()
    });
    let a = bus.join("a");
    let id = a.create_page(&page(2000)).unwrap();
    let p = a.core().pages.resolve(id).unwrap();
    for len in 800..1000 {
        a.loan(&p).unwrap().publish(0).unwrap();
        a.patch(&p, 7, &vec![5; len]).unwrap();
    }
}

#[test]
fn pages_come_and_go_and_their_numbers_and_names_are_reused() {
    let bus = bus();
    let a = bus.join("a");
    let mut last = None;
    for i in 0..2000u32 {
        let id = a
            .create_page(&named(64 + u64::from(i % 1000), &format!("n/{i}")))
            .unwrap();
        let p = a.open_page(&format!("n/{i}")).unwrap();
        let mut out = vec![9u8; p.size()];
        a.read(&p, 0, &mut out).unwrap();
        assert!(out.iter().all(|b| *b == 0), "zeroed when it changes page");
        a.patch(&p, 0, &vec![0xff; p.size()]).unwrap();
        if let Some((old, name)) = last.replace((id, format!("n/{i}"))) {
            let stale = a.core().pages.resolve(old).unwrap();
            a.destroy_page(old).unwrap();
            assert!(matches!(
                a.read(&stale, 0, &mut [0]),
                Err(PageError::PageGone(_))
            ));
            assert!(matches!(
                a.patch(&stale, 0, &[0]),
                Err(PageError::PageGone(_))
            ));
            assert!(matches!(a.open_page(&name), Err(PageError::NoSuchName(_))));
        }
    }
    assert_eq!(a.core().pages.list_names("n/").unwrap().len(), 1);
    let id = last.unwrap().0;
    a.describe_page(id, |mut c| {
        c.name = "other".into();
        c.meta.push(("k".into(), "v".into()));
        c
    })
    .unwrap();
    assert_eq!(a.core().pages.find("other").unwrap(), id);
    assert!(a.core().pages.find("n/1999").is_err());
    assert_eq!(
        a.core().pages.cold(id).unwrap().meta,
        [("k".to_owned(), "v".to_owned())]
    );
}

#[test]
fn a_lease_is_handed_over_and_taken_again() {
    let bus = bus();
    let a = bus.join("a");
    let b = bus.join("b");
    let id = a.create_page(&page(64)).unwrap();
    let pa = a.core().pages.resolve(id).unwrap();
    let pb = b.core().pages.resolve(id).unwrap();
    let lease = a.lease(&pa).unwrap();
    a.patch(&pa, 0, &[1]).unwrap();
    b.patch(&pb, 1, &[2]).unwrap();
    a.patch(&pa, 2, &[3]).unwrap();
    b.patch(&pb, 3, &[4]).unwrap();
    drop(lease);
    let mut out = [0; 4];
    assert_eq!(a.read(&pa, 0, &mut out).unwrap().epoch, 4);
    assert_eq!(out, [1, 2, 3, 4]);
}

#[test]
fn update_sends_what_changed() {
    let bus = bus();
    let a = bus.join("a");
    let id = a.create_page(&page(1000)).unwrap();
    let p = a.core().pages.resolve(id).unwrap();
    let mut follower = a.follow(false).unwrap();
    let (n, receipt) = a
        .update(&p, 0, |bytes| {
            bytes[3] = 1;
            bytes[700] = 2;
            42
        })
        .unwrap();
    assert_eq!(n, 42);
    assert!(receipt.is_some());
    let mut seen = Vec::new();
    let polled = a
        .poll(&mut follower, 10, |d| {
            d.for_each_range(|at, b| seen.push((at, b.to_vec())))
        })
        .unwrap();
    assert_eq!(polled, Polled::Deltas(1));
    assert_eq!(seen, [(3, vec![1]), (700, vec![2])]);
    assert_eq!(a.update(&p, 0, |_| ()).unwrap().1, None);
}

#[test]
fn eight_threads_on_one_page_and_a_small_ring_lose_nothing() {
    let bus = bus_with(&BusConfig {
        ring_bytes: 4096,
        pages_max: 16,
        ..BusConfig::default()
    });
    let a = bus.join("a");
    let id = a.create_page(&page(64)).unwrap();
    std::thread::scope(|s| {
        for t in 0..8usize {
            let p = bus.join(&format!("t{t}"));
            s.spawn(move || {
                let page = p.core().pages.resolve(id).unwrap();
                for i in 0..5000u64 {
                    p.patch(&page, t * 8, &i.to_le_bytes()).unwrap();
                }
            });
        }
    });
    let page = a.core().pages.resolve(id).unwrap();
    let mut out = [0u8; 64];
    let version = a.read(&page, 0, &mut out).unwrap();
    assert_eq!(version.epoch, 40_000);
    assert!(out.chunks(8).all(|c| c == 4999u64.to_le_bytes()));
}

#[test]
fn a_stuck_gating_cursor_is_named_and_a_lossy_one_is_told_of_its_gap() {
    let bus = bus_with(&BusConfig {
        ring_bytes: 4096,
        pages_max: 16,
        ..BusConfig::default()
    });
    let mut a = bus.join("a");
    let b = bus.join("slowpoke");
    a.set_timeout(std::time::Duration::from_millis(50));
    let id = a.create_page(&page(8)).unwrap();
    let p = a.core().pages.resolve(id).unwrap();
    let mut lossy = b.follow(false).unwrap();
    let mut gating = b.follow(true).unwrap();
    let mut n = 0u64;
    let error = loop {
        match a.patch(&p, 0, &n.to_le_bytes()) {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
    };
    assert!((32..=64).contains(&n), "{n}");
    assert!(
        matches!(&error, PageError::Backpressure { blocker, .. } if blocker.contains("slowpoke")),
        "{error}"
    );
    let mut seen = 0;
    while b.poll(&mut gating, 1000, |_| seen += 1).unwrap() != Polled::Empty {}
    assert_eq!(seen, n);
    for i in 0..200u64 {
        a.patch(&p, 0, &i.to_le_bytes()).unwrap();
        b.poll(&mut gating, 1000, |_| ()).unwrap();
    }
    assert!(matches!(b.poll(&mut lossy, 10, |_| ()).unwrap(), Polled::Gap(g) if g.to > g.from));
    drop(gating);
    segment::unlink(&bus.dir, "t").unwrap();
    assert!(!bus.core.is_named());
}

#[test]
fn a_busy_leaseholder_and_a_writer_share_a_page_and_lose_nothing() {
    let bus = bus();
    let a = bus.join("leaser");
    let id = a.create_page(&page(64)).unwrap();
    std::thread::scope(|s| {
        for (t, leased) in [(0usize, true), (1, true), (2, false)] {
            let p = bus.join(&format!("t{t}"));
            s.spawn(move || {
                let page = p.core().pages.resolve(id).unwrap();
                let lease = leased.then(|| p.lease(&page).unwrap());
                for i in 0..3000u64 {
                    p.patch(&page, t * 8, &i.to_le_bytes()).unwrap();
                }
                drop(lease);
            });
        }
    });
    let page = a.core().pages.resolve(id).unwrap();
    let mut out = [0u8; 24];
    assert_eq!(a.read(&page, 0, &mut out).unwrap().epoch, 9000);
    assert!(out.chunks(8).all(|c| c == 2999u64.to_le_bytes()));
}

#[test]
fn every_page_number_of_an_odd_count_can_be_used_and_used_again() {
    let bus = bus_with(&BusConfig {
        pages_max: 1001,
        ..BusConfig::default()
    });
    let a = bus.join("a");
    for _ in 0..3 {
        let ids: Vec<_> = (0..1001)
            .map(|_| a.create_page(&page(8)).unwrap())
            .collect();
        assert!(matches!(a.create_page(&page(8)), Err(PageError::Full(_))));
        assert_eq!(ids.iter().map(|id| id.index).max(), Some(1000));
        for id in ids {
            a.destroy_page(id).unwrap();
        }
    }
}

#[test]
fn an_id_that_no_directory_has_is_a_page_that_is_gone() {
    let bus = bus();
    let a = bus.join("a");
    let id = mmsb_shm::PageId {
        index: u32::MAX,
        generation: 1,
    };
    assert_eq!(
        a.describe_page(id, |cold| cold),
        Err(PageError::PageGone(id))
    );
    assert_eq!(a.destroy_page(id), Err(PageError::PageGone(id)));
    assert!(a.core().pages.resolve(id).is_err());
    a.create_page(&named(8, "the name lock is free")).unwrap();
}

#[test]
fn observers_may_open_a_bus_while_it_grows() {
    let bus = bus_with(&BusConfig {
        bytes_max: 1 << 30,
        ..BusConfig::default()
    });
    let a = bus.join("a");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                Pages::open(&bus.dir, "t", false).unwrap();
            }
        });
        for _ in 0..60 {
            a.create_page(&page(1 << 20)).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
