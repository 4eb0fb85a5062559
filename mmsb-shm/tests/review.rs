//! Interleavings that once tore a page, lost a place in the ring, or leaked memory.
#![cfg(feature = "testing")]

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::time::Duration;

use mmsb_shm::error::AttachError;
use mmsb_shm::participant::{Participant, ParticipantConfig};
use mmsb_shm::segment::{self, BusConfig, Core};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::testing::{Action, arm};
use mmsb_shm::{Change, Kind, NewPage, Options, PageError, PageVersion, Polled};

struct TestBus {
    core: Arc<Core>,
    _tmp: tempfile::TempDir,
}

fn bus() -> TestBus {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    let config = BusConfig {
        ring_bytes: 1 << 14,
        pages_max: 256,
        ..BusConfig::default()
    };
    TestBus {
        core: Arc::new(Core::create(&dir, "t", &config).unwrap()),
        _tmp: tmp,
    }
}

impl TestBus {
    fn join(&self, name: &str, timeout_ms: u64) -> Participant {
        Participant::join(
            Arc::clone(&self.core),
            ParticipantConfig {
                name: name.into(),
                timeout: Duration::from_millis(timeout_ms),
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

/// How often the participant "a" had to wait.
fn waits(core: &Core) -> u64 {
    let list = core.participants();
    list.iter().find(|i| i.name == "a").map_or(0, |i| i.waits)
}

#[test]
fn a_leased_page_stays_its_holders_while_a_commit_waits_for_memory() {
    let bus = bus();
    let a = bus.join("a", 600);
    // One block fills its run, so every further block needs growth.
    let id = a.create_page(&page(1536 << 10)).unwrap();
    let p = a.core().pages.resolve(id).unwrap();
    // Nothing retired may be reused.
    let _gate = a.follow(true).unwrap();
    a.loan(&p).unwrap().publish(0).unwrap();
    let (at_growth, parked) = channel();
    let (go_on, gone_on) = channel();
    let b = bus.join("b", 5000);
    let (core_b, core_c) = (Arc::clone(&bus.core), Arc::clone(&bus.core));
    let grower = std::thread::spawn(move || {
        arm("grow.allocate", 0, Action::Park(at_growth, gone_on));
        b.create_page(&page(40_000)).unwrap();
        drop(core_b);
    });
    parked.recv().unwrap();
    // Everything that is free, but for growth; the last one waits in vain.
    let mut loans: Vec<_> = (0..16).map_while(|_| a.loan(&p).ok()).collect();
    assert!(loans.len() < 16);
    loans.pop().unwrap().publish(0).unwrap();
    let _lease = a.lease(&p).unwrap();
    let before = waits(&bus.core);
    let other = std::thread::spawn(move || {
        let c = Participant::join(
            Arc::clone(&core_c),
            ParticipantConfig {
                name: "c".into(),
                timeout: Duration::from_millis(200),
                ..Default::default()
            },
        )
        .unwrap();
        let begin = std::time::Instant::now();
        while waits(&core_c) == before && begin.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let p = core_c.pages.resolve(id).unwrap();
        c.lease(&p).map(|_| ())
    });
    // Copies the loaned block into a fresh one, inside the leased commit.
    let change = Change::Patch {
        page: &p,
        offset: 0,
        bytes: b"x",
    };
    let last = a.commit(&[change], &Options::default());
    let stolen = other.join().unwrap();
    go_on.send(()).unwrap();
    grower.join().unwrap();
    assert!(
        matches!(last, Err(PageError::Timeout { .. })),
        "{last:?}: it never waited"
    );
    assert!(
        matches!(stolen, Err(PageError::Timeout { .. })),
        "two owners inside one page"
    );
}

#[test]
fn a_handle_from_before_a_block_came_back_does_not_patch_a_loaned_one() {
    let bus = bus();
    let (a, b) = (bus.join("a", 1000), bus.join("b", 1000));
    let id = a.create_page(&page(100)).unwrap();
    let (pa, pb) = (
        a.core().pages.resolve(id).unwrap(),
        b.core().pages.resolve(id).unwrap(),
    );
    // Away from the first block, and back to it as a loaned one.
    for byte in [1, 2] {
        let mut loan = a.loan(&pa).unwrap();
        loan.fill(byte);
        loan.publish(0).unwrap();
    }
    let view = a.pin(&pa).unwrap();
    assert_eq!(view[0], 2);
    b.patch(&pb, 0, &[9; 100]).unwrap();
    assert_eq!(view[0], 2, "a pinned view changed");
    drop(view);
    // And the other way round: what a stale handle takes for a loaned block is patched in place by now.
    a.loan(&pa).unwrap().publish(0).unwrap();
    b.core().pages.version(&pb).unwrap();
    let stale = b.core().pages.resolve(id).unwrap();
    assert!(b.pin(&stale).is_ok());
    for _ in 0..2 {
        a.patch(&pa, 0, &[4; 100]).unwrap();
        a.loan(&pa).unwrap().publish(0).unwrap();
        a.patch(&pa, 0, &[5; 100]).unwrap();
        if let Ok(view) = b.pin(&stale) {
            let before = view[0];
            a.patch(&pa, 0, &[6; 100]).unwrap();
            assert_eq!(view[0], before);
        }
    }
}

#[test]
fn a_block_that_is_being_filled_again_is_not_the_old_delta() {
    let bus = bus();
    let a = bus.join("a", 1000);
    let id = a.create_page(&page(100)).unwrap();
    let p = a.core().pages.resolve(id).unwrap();
    let mut follower = a.follow(false).unwrap();
    let publish = |byte| {
        let mut loan = a.loan(&p).unwrap();
        loan.fill(byte);
        loan.publish(0).unwrap();
    };
    publish(1);
    let mut seen = Vec::new();
    let polled = a.poll(&mut follower, 10, |d| {
        publish(2);
        // The block of delta 1 is taken again and being filled.
        let mut loan = a.loan(&p).unwrap();
        loan.fill(3);
        let mut out = Vec::new();
        seen.push((a.core().pages.read_swapped(d, &mut out).unwrap(), out));
        drop(loan);
    });
    assert!(matches!(polled, Ok(Polled::Deltas(_))));
    let (whole, bytes) = &seen[0];
    assert!(!whole || bytes[0] == 1, "believed {:?}", &bytes[..4]);
}

#[test]
fn a_gating_follower_finds_the_content_of_a_swap_that_is_ready_and_not_yet_applied() {
    let bus = bus();
    let a = bus.join("a", 1000);
    let id = a.create_page(&page(100)).unwrap();
    let b = bus.join("b", 1000);
    let mut follower = b.follow(true).unwrap();
    for at in ["commit.ready", "swap.live", "swap.entry", "swap.retired"] {
        let (parked, is_parked) = channel();
        let (go_on, gone_on) = channel();
        std::thread::scope(|scope| {
            let core = Arc::clone(&bus.core);
            let publisher = scope.spawn(move || {
                let config = ParticipantConfig {
                    name: "c".into(),
                    ..Default::default()
                };
                let c = Participant::join(core, config).unwrap();
                let p = c.core().pages.resolve(id).unwrap();
                let mut loan = c.loan(&p).unwrap();
                loan.fill(7);
                arm(at, 0, Action::Park(parked, gone_on));
                loan.publish(0).unwrap();
            });
            let go_on = go_on;
            is_parked.recv().unwrap();
            let mut seen = Vec::new();
            let polled = b.poll(&mut follower, 10, |d| {
                let mut out = Vec::new();
                if d.kind != Kind::Swap {
                    return;
                }
                seen.push((bus.core.pages.read_swapped(d, &mut out).unwrap(), out));
            });
            assert!(matches!(polled, Ok(Polled::Deltas(_))), "{polled:?}");
            assert_eq!(seen, [(true, vec![7; 100])], "parked at {at}");
            go_on.send(()).unwrap();
            publisher.join().unwrap();
        });
    }
}

#[test]
fn a_block_that_lived_again_is_not_reclaimed_on_an_old_look() {
    let bus = bus();
    let a = bus.join("a", 1000);
    // Few blocks of this size fit in a run.
    let size = 1536 << 10;
    let id = a.create_page(&page(size)).unwrap();
    let p = a.core().pages.resolve(id).unwrap();
    let publish = |byte| {
        let mut loan = a.loan(&p).unwrap();
        let at = loan.as_ptr();
        loan.fill(byte);
        loan.publish(0).unwrap();
        at
    };
    publish(0);
    let first = publish(1);
    // A leaver that could not reclaim what it retired asks for a sweep.
    let x = bus.join("x", 1000);
    let other = x.create_page(&page(size)).unwrap();
    let other = x.core().pages.resolve(other).unwrap();
    let gate = a.follow(true).unwrap();
    for _ in 0..2 {
        x.loan(&other).unwrap().publish(0).unwrap();
    }
    drop(x);
    drop(gate);
    publish(2);
    let (looked, has_looked) = channel();
    let (go_on, gone_on) = channel();
    std::thread::scope(|scope| {
        let core = Arc::clone(&bus.core);
        let sweeper = scope.spawn(move || {
            let config = ParticipantConfig {
                name: "s".into(),
                ..Default::default()
            };
            let s = Participant::join(core, config).unwrap();
            arm("arena.unneeded", 0, Action::Park(looked, gone_on));
            // Sweeps once what is listed as free is used up.
            for _ in 0..20 {
                s.create_page(&page(size)).unwrap();
            }
        });
        let go_on = go_on;
        has_looked.recv().unwrap();
        // The block that the sweeper looked at is taken, published and retired again, and this time a gating follower
        // needs it.
        let mut follower = a.follow(true).unwrap();
        let third = publish(3);
        assert_eq!(third, first, "the test needs this block");
        publish(4);
        go_on.send(()).unwrap();
        sweeper.join().unwrap();
        let mut seen = Vec::new();
        a.poll(&mut follower, 10, |d| {
            let mut out = Vec::new();
            if d.page == id {
                let found = bus.core.pages.read_swapped(d, &mut out).unwrap();
                seen.push((found, out[0], out[size as usize - 1]));
            }
        })
        .unwrap();
        assert_eq!(seen, [(true, 3, 3), (true, 4, 4)]);
    });
}

#[test]
fn a_follower_outliving_its_participant_moves_nobody_elses_cursor() {
    let bus = bus();
    let a = bus.join("a", 300);
    let old = bus.join("old", 300);
    let mut left = old.follow(true).unwrap();
    drop(old);
    let b = bus.join("b", 300);
    let held = b.follow(true).unwrap();
    let id = a.create_page(&page(8)).unwrap();
    let p = a.core().pages.resolve(id).unwrap();
    for i in 0u64..100 {
        a.patch(&p, 0, &i.to_le_bytes()).unwrap();
    }
    left.poll(&bus.core.pages, 1000, |_| {}).unwrap();
    let cursor = bus.core.cursors().into_iter().find(|c| c.gating).unwrap();
    assert_eq!(cursor.position, held.position());
}

#[test]
fn a_lease_that_was_given_back_and_taken_again_is_not_stolen_on_an_old_look() {
    let bus = bus();
    let a = bus.join("a", 2000);
    let id = a.create_page(&page(64)).unwrap();
    let p = a.core().pages.resolve(id).unwrap();
    let _lease = a.lease(&p).unwrap();
    let core = Arc::clone(&bus.core);
    let (looked, has_looked) = channel();
    let (go_on, gone_on) = channel();
    let thief = std::thread::spawn(move || {
        let b = Participant::join(
            core,
            ParticipantConfig {
                name: "b".into(),
                ..Default::default()
            },
        )
        .unwrap();
        let p = b.core().pages.resolve(id).unwrap();
        // Parks between the look at `active` and the exchange.
        arm("lease.idle", 0, Action::Park(looked, gone_on));
        b.patch(&p, 0, &[1; 8]).unwrap();
    });
    has_looked.recv().unwrap();
    // Gives it back, commits, and would take the lease again.
    a.patch(&p, 0, &[2; 8]).unwrap();
    let word_is_leased = bus.core.pages.resolve(id).is_ok();
    assert!(word_is_leased);
    // Inside the next leased commit somebody asks, and the thief goes on.
    let core = Arc::clone(&bus.core);
    let (inside, is_inside) = channel();
    let (finish, finished) = channel();
    let asker = std::thread::spawn(move || {
        is_inside.recv().unwrap();
        let c = Participant::join(
            core,
            ParticipantConfig {
                name: "c".into(),
                timeout: Duration::from_millis(50),
                ..Default::default()
            },
        )
        .unwrap();
        let p = c.core().pages.resolve(id).unwrap();
        let _ = c.patch(&p, 0, &[3; 8]);
        go_on.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let mut out = [0u8; 8];
        let seen = c.read(&p, 0, &mut out).map(|_| out);
        finish.send(()).unwrap();
        seen
    });
    arm("commit.odd", 0, Action::Park(inside, finished));
    a.patch(&p, 0, &[4; 8]).unwrap();
    let seen = asker.join().unwrap();
    thief.join().unwrap();
    assert!(
        seen.is_err(),
        "{seen:?}: somebody else wrote the page in the middle of a commit"
    );
}

#[test]
fn a_growth_cut_short_leaves_no_dirt_in_headers() {
    let bus = bus();
    // SAFETY: the child kills itself inside.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let core = Core::attach(&bus.core.dir, "t").map(Arc::new);
        if let Ok(core) = core
            && let Ok(a) = Participant::join(core, ParticipantConfig::default())
        {
            arm("grow.listed", 0, Action::Kill);
            let _ = a.create_page(&page(32));
        }
        // SAFETY: plain system call.
        unsafe { libc::_exit(1) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFSIGNALED(status));
    let a = bus.join("a", 1000);
    a.create_page(&page(1024)).unwrap();
    let class = bus
        .core
        .pages
        .class_use()
        .into_iter()
        .find(|c| c.payload == 1024)
        .unwrap();
    assert_eq!(class.blocks - class.free, 1, "{class:?}");
}

#[test]
fn a_cut_of_cells_is_one_instant() {
    let bus = bus();
    let a = bus.join("a", 1000);
    let cell = || {
        a.create_page(&NewPage {
            size: 8,
            versions: 4,
            ..NewPage::default()
        })
        .unwrap()
    };
    let ids = [cell(), cell()];
    let (copied, has_copied) = channel();
    let (go_on, gone_on) = channel();
    let core = Arc::clone(&bus.core);
    let reader = std::thread::spawn(move || {
        let r = Participant::join(core, ParticipantConfig::default()).unwrap();
        let pages = ids.map(|id| r.core().pages.resolve(id).unwrap());
        arm("cut.copied_one", 0, Action::Park(copied, gone_on));
        let cut = r.read_cut(&pages).unwrap();
        (cut[0].0[0], cut[1].0[0])
    });
    has_copied.recv().unwrap();
    // The first cell is published, then the second; both writers stand ahead of the sequence word.
    let mut writers = Vec::new();
    for id in ids {
        let (published, is_published) = channel();
        let (finish, finished) = channel();
        let core = Arc::clone(&bus.core);
        let writer = std::thread::spawn(move || {
            let w = Participant::join(core, ParticipantConfig::default()).unwrap();
            let p = w.core().pages.resolve(id).unwrap();
            arm("cell.published", 0, Action::Park(published, finished));
            w.patch(&p, 0, &[1; 8]).unwrap();
        });
        is_published.recv().unwrap();
        writers.push((writer, finish));
    }
    go_on.send(()).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    for (writer, finish) in writers {
        finish.send(()).unwrap();
        writer.join().unwrap();
    }
    assert_ne!(
        reader.join().unwrap(),
        (0, 1),
        "the second is never newer than the first"
    );
}

#[test]
fn a_page_whose_description_changes_is_found_all_the_time() {
    let bus = bus();
    let a = bus.join("a", 1000);
    let named = |name: &str| NewPage {
        size: 8,
        cold: mmsb_shm::Cold {
            name: name.into(),
            ..Default::default()
        },
        ..NewPage::default()
    };
    let id = a.create_page(&named("x")).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let core = Arc::clone(&bus.core);
    let stopped = Arc::clone(&stop);
    let reader = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            assert_eq!(core.pages.find("x").unwrap(), id);
            let cold = core.pages.cold(id).unwrap();
            if let Some((_, value)) = cold.meta.first() {
                let first = value.as_bytes()[0];
                assert!(value.bytes().all(|b| b == first), "torn: {value}");
            }
        }
    });
    for i in 0..20_000u32 {
        let value = char::from(b'a' + (i % 26) as u8).to_string().repeat(500);
        a.describe_page(id, |mut cold| {
            cold.meta = vec![("k".into(), value.clone())];
            cold
        })
        .unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    reader.join().unwrap();
}

#[test]
fn removing_a_bus_that_was_replaced_meanwhile_leaves_no_half() {
    let bus = bus();
    let dir = bus.core.dir.clone();
    let (opened, is_opened) = channel();
    let (go_on, gone_on) = channel();
    let other = dir.clone();
    let remover = std::thread::spawn(move || {
        arm("unlink.opened", 0, Action::Park(opened, gone_on));
        segment::unlink(&other, "t")
    });
    is_opened.recv().unwrap();
    segment::unlink(&dir, "t").unwrap();
    drop(Core::create(&dir, "t", &BusConfig::default()).unwrap());
    go_on.send(()).unwrap();
    remover.join().unwrap().unwrap();
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(left == 0 || left == 2, "{left} of two objects");
}

#[test]
fn a_handle_of_one_mapping_is_refused_by_another() {
    let (one, two) = (bus(), bus());
    let (a, b) = (one.join("a", 300), two.join("b", 300));
    // The same number, generation and block on both; and a number that there is on the first one only.
    let id = a.create_page(&page(8)).unwrap();
    assert_eq!(b.create_page(&page(8)).unwrap(), id);
    let pa = one.core.pages.resolve(id).unwrap();
    let mut out = [0u8; 8];
    let gone = |e: Result<(), PageError>| matches!(e, Err(PageError::PageGone(_)));
    let patch = [Change::Patch {
        page: &pa,
        offset: 0,
        bytes: &[7; 8],
    }];
    let patches = [patch[0], patch[0]];
    let transaction = Options {
        transaction: true,
        ..Options::default()
    };
    let known = PageVersion::default();
    assert!(gone(b.patch(&pa, 0, &[7; 8]).map(drop)));
    assert!(gone(b.commit(&patch, &Options::default()).map(drop)));
    assert!(gone(b.commit(&patches, &transaction).map(drop)));
    assert!(gone(
        b.commit_if(&[], &Options::default(), &[(&pa, known)])
            .map(drop)
    ));
    assert!(gone(b.update(&pa, 0, |bytes| bytes.fill(7)).map(drop)));
    assert!(gone(b.loan(&pa).map(drop)));
    assert!(gone(b.lease(&pa).map(drop)));
    assert!(gone(b.pin(&pa).map(drop)));
    assert!(gone(b.read(&pa, 0, &mut out).map(drop)));
    assert!(gone(b.read_cut(std::slice::from_ref(&pa)).map(drop)));
    assert!(gone(two.core.pages.may_be_newer(&pa, known).map(drop)));
    a.read(&pa, 0, &mut out).unwrap();
    assert_eq!(out, [0; 8], "written from the other bus");
    // Nor by another mapping of the same bus.
    let again = Core::attach(&one.core.dir, "t").unwrap();
    assert!(gone(again.pages.observe(&pa, 0, &mut out).map(drop)));
    // Nor does the handle lead into a mapping that is gone, whatever has its address now.
    drop((a, one));
    for _ in 0..20 {
        let next = bus();
        assert_eq!(next.join("c", 300).create_page(&page(8)).unwrap(), id);
        assert!(gone(next.core.pages.observe(&pa, 0, &mut out).map(drop)));
    }
}

/// A fork that outlives its parent; killed on drop.
struct Orphan(libc::pid_t);

impl Drop for Orphan {
    fn drop(&mut self) {
        // SAFETY: plain system call, on a process that this test made.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }
}

/// A process stands in the middle of `act`, at `step`; it forks, and is killed. Returns the fork, which lives on.
fn die_behind_a_fork(dir: &SegmentDir, step: &'static str, act: fn(&SegmentDir)) -> Orphan {
    let (mut read, mut write) = std::io::pipe().unwrap();
    // SAFETY: the child kills itself inside; it allocates, which the C library allows behind its fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let (parked, is_parked) = channel();
        let (_go_on, gone_on) = channel();
        let dir = dir.clone();
        std::thread::spawn(move || {
            arm(step, 0, Action::Park(parked, gone_on));
            act(&dir);
        });
        if is_parked.recv().is_ok() {
            // SAFETY: plain system calls; the fork does nothing but wait to be killed.
            unsafe {
                let fork = libc::fork();
                if fork == 0 {
                    loop {
                        libc::pause();
                    }
                }
                let _ = write.write_all(&fork.to_le_bytes());
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
        }
        // SAFETY: plain system call.
        unsafe { libc::_exit(1) };
    }
    let mut fork = [0; 4];
    read.read_exact(&mut fork).unwrap();
    let mut status = 0;
    // SAFETY: waits for the child just made.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFSIGNALED(status));
    Orphan(libc::pid_t::from_le_bytes(fork))
}

#[test]
fn a_fork_in_the_middle_of_a_creation_or_removal_does_not_keep_its_lock() {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    let create = |dir: &SegmentDir| Core::create(dir, "t", &BusConfig::default()).map(drop);
    let fork = die_behind_a_fork(&dir, "create.ctl_linked", |dir| {
        let _ = Core::create(dir, "t", &BusConfig::default());
    });
    // The child's handler runs some time after fork has returned in the parent.
    let soon = |mut act: Box<dyn FnMut() -> Result<(), AttachError> + '_>| {
        let begin = std::time::Instant::now();
        loop {
            match act() {
                Err(_) if begin.elapsed() < Duration::from_secs(2) => std::thread::yield_now(),
                other => return other,
            }
        }
    };
    soon(Box::new(|| create(&dir))).expect("a leftover in nobody's hands");
    drop(fork);
    let _fork = die_behind_a_fork(&dir, "unlink.locked", |dir| {
        let _ = segment::unlink(dir, "t");
    });
    soon(Box::new(|| segment::unlink(&dir, "t"))).expect("nobody else removes it");
    create(&dir).unwrap();
}

#[test]
fn who_removes_half_a_bus_leaves_the_next_one_whole() {
    let bus = bus();
    let dir = bus.core.dir.clone();
    for step in ["unlink.locked", "unlink.pages"] {
        if !bus.core.is_named() {
            drop(Core::create(&dir, "t", &BusConfig::default()).unwrap());
        }
        std::fs::remove_file(dir.object("t", "ctl")).unwrap();
        let (parked, is_parked) = channel();
        let (go_on, gone_on) = channel();
        let other = dir.clone();
        let remover = std::thread::spawn(move || {
            arm(step, 0, Action::Park(parked, gone_on));
            segment::unlink(&other, "t")
        });
        is_parked.recv().unwrap();
        let made = Core::create(&dir, "t", &BusConfig::default());
        let removed = segment::unlink(&dir, "t");
        assert!(matches!(made, Err(AttachError::Exists { .. })), "at {step}");
        assert!(
            matches!(removed, Err(AttachError::Initialising { .. })),
            "at {step}: {removed:?}"
        );
        go_on.send(()).unwrap();
        remover.join().unwrap().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_lease_ends_with_its_page() {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let config = BusConfig {
        pages_max: 4,
        ..BusConfig::default()
    };
    let bus = TestBus {
        core: Arc::new(Core::create(&SegmentDir::at(tmp.path()), "t", &config).unwrap()),
        _tmp: tmp,
    };
    let (a, b) = (bus.join("a", 300), bus.join("b", 300));
    let use_every_number = |by: &Participant| {
        let ids: Vec<_> = (0..4).map(|_| by.create_page(&page(8)).unwrap()).collect();
        for id in ids {
            by.destroy_page(id).unwrap();
        }
    };
    let yielded = || bus.core.pages.counter(mmsb_shm::Counter::LeasesYielded);
    // Destroyed by somebody else; the holder goes on writing.
    let id = a.create_page(&page(8)).unwrap();
    let p = bus.core.pages.resolve(id).unwrap();
    let lease = a.lease(&p).unwrap();
    b.destroy_page(id).unwrap();
    assert!(matches!(
        a.patch(&p, 0, &[1; 8]),
        Err(PageError::PageGone(_))
    ));
    use_every_number(&b);
    assert!(matches!(a.lease(&p), Err(PageError::PageGone(_))));
    use_every_number(&b);
    drop(lease);
    // Destroyed by the holder; the next page of that number is not on lease.
    let id = a.create_page(&page(8)).unwrap();
    let p = bus.core.pages.resolve(id).unwrap();
    let lease = a.lease(&p).unwrap();
    a.destroy_page(id).unwrap();
    let ids: Vec<_> = (0..4).map(|_| a.create_page(&page(8)).unwrap()).collect();
    let before = yielded();
    for id in &ids {
        let p = bus.core.pages.resolve(*id).unwrap();
        a.patch(&p, 0, &[1; 8]).unwrap();
        b.patch(&p, 0, &[2; 8]).unwrap();
    }
    assert_eq!(yielded(), before, "leases that nobody took");
    // One that somebody took stays when the old one is dropped.
    let again = ids.iter().find(|other| other.index == id.index).unwrap();
    let p = bus.core.pages.resolve(*again).unwrap();
    let _again = a.lease(&p).unwrap();
    drop(lease);
    b.patch(&p, 0, &[3; 8]).unwrap();
    assert_eq!(yielded(), before + 1, "a lease of its own");
    for id in ids {
        a.destroy_page(id).unwrap();
    }
    // Destroyed between the end of a commit and the moment the lease is taken again.
    let id = b.create_page(&page(8)).unwrap();
    let (said, says) = channel();
    let (order, orders) = channel::<()>();
    let (parked, is_parked) = channel();
    let (go_on, gone_on) = channel();
    std::thread::scope(|scope| {
        let core = Arc::clone(&bus.core);
        scope.spawn(move || {
            let c = Participant::join(core, ParticipantConfig::default()).unwrap();
            let p = c.core().pages.resolve(id).unwrap();
            let _lease = c.lease(&p).unwrap();
            said.send(()).unwrap();
            orders.recv().unwrap();
            arm("lease.let_go", 0, Action::Park(parked, gone_on));
            c.patch(&p, 0, &[1; 8]).unwrap();
            said.send(()).unwrap();
            // The lease lives on until the main thread has looked.
            let _ = orders.recv();
        });
        let (order, go_on) = (order, go_on);
        says.recv().unwrap();
        let p = bus.core.pages.resolve(id).unwrap();
        // Takes the lease away, so that the next commit of its holder is an ordinary one.
        b.patch(&p, 0, &[2; 8]).unwrap();
        order.send(()).unwrap();
        is_parked.recv().unwrap();
        b.destroy_page(id).unwrap();
        go_on.send(()).unwrap();
        says.recv().unwrap();
        use_every_number(&b);
    });
}

/// The mover of the limit does not look at what it claimed itself. Another's claim is none of that, however the mover got
/// behind it.
fn a_claim_stays_in_the_way(get_behind: impl FnOnce(&Participant, &mut dyn FnMut())) {
    let bus = bus();
    let a = bus.join("a", 1000);
    let (theirs, mine) = (
        a.create_page(&page(8)).unwrap(),
        a.create_page(&page(8)).unwrap(),
    );
    let mine = bus.core.pages.resolve(mine).unwrap();
    let c = bus.join("c", 1000);
    let b = bus.join("b", 1000);
    a.patch(&mine, 0, &[1; 8]).unwrap();
    let claim = bus.core.pages.end_lsn();
    let (parked, is_parked) = channel();
    let (go_on, gone_on) = channel();
    std::thread::scope(|scope| {
        let core = Arc::clone(&bus.core);
        let writer = scope.spawn(move || {
            let p = core.pages.resolve(theirs).unwrap();
            arm("commit.claimed", 0, Action::Park(parked, gone_on));
            b.patch(&p, 0, &[1; 8]).unwrap()
        });
        let go_on = go_on;
        is_parked.recv().unwrap();
        get_behind(&a, &mut || {
            c.patch(&mine, 0, &[2; 8]).unwrap();
        });
        // What is not READY is not published, whoever asks: recovery looks for claims of the dead from there on, and
        // nothing else keeps this one from being overwritten.
        assert_eq!(a.refresh_published(), Ok(claim));
        let full = (0..1000).find_map(|_| a.patch(&mine, 0, &[3; 8]).err());
        assert!(
            matches!(&full, Some(PageError::Backpressure { blocker, .. }) if blocker.contains("\"b\"")),
            "{full:?}"
        );
        go_on.send(()).unwrap();
        assert_eq!(writer.join().unwrap(), claim);
    });
}

#[test]
fn a_claim_that_a_follower_began_behind_is_not_taken_for_ready() {
    a_claim_stays_in_the_way(|a, commit| {
        let mut follower = a.follow(false).unwrap();
        commit();
        assert_eq!(a.poll(&mut follower, 10, |_| ()), Ok(Polled::Deltas(1)));
    });
}

#[test]
fn a_claim_that_a_writer_hopped_over_is_not_taken_for_ready() {
    a_claim_stays_in_the_way(|a, _| {
        let p = a.create_page(&page(8)).unwrap();
        a.destroy_page(p).unwrap();
    });
}

#[test]
fn small_memory_changes_page_zeroed_too() {
    let bus = bus();
    let a = bus.join("a", 1000);
    let size = 16;
    let id = a.create_page(&page(size)).unwrap();
    let p = bus.core.pages.resolve(id).unwrap();
    for byte in 1..=100 {
        // Given back unpublished.
        a.loan(&p).unwrap().fill(byte);
    }
    // A patch of a loaned page goes to a fresh block, which is patched in place from then on.
    a.loan(&p).unwrap().publish(0).unwrap();
    a.patch(&p, 0, &[0xaa; 16]).unwrap();
    a.patch(&p, 0, &[0xbb; 16]).unwrap();
    a.destroy_page(id).unwrap();
    for i in 0..200 {
        let id = a.create_page(&page(size)).unwrap();
        let p = bus.core.pages.resolve(id).unwrap();
        let mut out = [1; 16];
        a.read(&p, 0, &mut out).unwrap();
        assert_eq!(out, [0; 16], "page {i} shows what another left");
    }
}

#[test]
fn a_large_block_that_was_freed_is_anybodys() {
    let bus = bus();
    let (a, b) = (bus.join("a", 1000), bus.join("b", 1000));
    let size = 16 << 20;
    let slabs = || -> u32 { bus.core.pages.class_use().iter().map(|u| u.slabs).sum() };
    let id = a.create_page(&page(size)).unwrap();
    let before = slabs();
    a.destroy_page(id).unwrap();
    b.create_page(&page(size)).unwrap();
    assert_eq!(slabs(), before, "the bus grew beside free memory");
}

#[test]
fn who_grows_the_bus_and_finds_another_quicker_grows_it_again() {
    let bus = bus();
    let (a, b) = (bus.join("a", 1000), bus.join("b", 1000));
    // One block in a run.
    let size = 16 << 20;
    let (parked, is_parked) = channel();
    let (go_on, gone_on) = channel();
    std::thread::scope(|scope| {
        let grower = scope.spawn(move || {
            arm("grow.done", 0, Action::Park(parked, gone_on));
            b.create_page(&page(size)).map(drop)
        });
        let go_on = go_on;
        is_parked.recv().unwrap();
        a.create_page(&page(size)).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(grower.join().unwrap(), Ok(()));
    });
}

#[test]
fn no_number_is_missing_while_others_look_for_one() {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    let config = BusConfig {
        pages_max: 64,
        ..BusConfig::default()
    };
    let core = Arc::new(Core::create(&dir, "t", &config).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let p = Participant::join(Arc::clone(&core), ParticipantConfig::default());
                    let p = p.unwrap();
                    let ids: Vec<_> = (0..4).map(|_| p.create_page(&page(64)).unwrap()).collect();
                    for id in ids {
                        p.destroy_page(id).unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn a_follower_whose_participant_leaves_meanwhile_moves_nobody_elses_cursor() {
    let bus = bus();
    let a = bus.join("a", 300);
    let old = bus.join("old", 300);
    let mut left = old.follow(true).unwrap();
    let id = a.create_page(&page(8)).unwrap();
    let p = bus.core.pages.resolve(id).unwrap();
    let (parked, is_parked) = channel();
    let (go_on, gone_on) = channel();
    std::thread::scope(|scope| {
        let core = Arc::clone(&bus.core);
        let poller = scope.spawn(move || {
            // Parks between the look whether the cursor is its own and the store.
            arm("follow.moving", 0, Action::Park(parked, gone_on));
            left.poll(&core.pages, 1000, |_| {}).unwrap();
        });
        let go_on = go_on;
        is_parked.recv().unwrap();
        let leaver = scope.spawn(move || drop(old));
        std::thread::sleep(Duration::from_millis(100));
        for i in 0u64..10 {
            a.patch(&p, 0, &i.to_le_bytes()).unwrap();
        }
        let b = bus.join("b", 300);
        let held = b.follow(true).unwrap();
        go_on.send(()).unwrap();
        poller.join().unwrap();
        leaver.join().unwrap();
        let cursors = bus.core.cursors();
        assert_eq!(cursors.len(), 1, "{cursors:?}");
        assert_eq!(cursors[0].participant, b.index());
        assert_eq!(cursors[0].position, held.position());
    });
}

#[test]
fn between_two_pages_of_a_transaction_there_is_no_cut() {
    let bus = bus();
    let a = bus.join("a", 1000);
    let ids = [0, 1].map(|_| a.create_page(&page(8)).unwrap());
    let (parked, is_parked) = channel();
    let (go_on, gone_on) = channel();
    std::thread::scope(|scope| {
        let core = Arc::clone(&bus.core);
        let writer = scope.spawn(move || {
            let pages = ids.map(|id| core.pages.resolve(id).unwrap());
            let changes = [0, 1].map(|i| Change::Patch {
                page: &pages[i],
                offset: 0,
                bytes: &[7; 8],
            });
            let options = Options {
                transaction: true,
                ..Options::default()
            };
            // The first page is done, the second one is not.
            arm("group.page", 0, Action::Park(parked, gone_on));
            a.commit(&changes, &options).unwrap();
        });
        let go_on = go_on;
        is_parked.recv().unwrap();
        let pages = ids.map(|id| bus.core.pages.resolve(id).unwrap());
        let cut = bus.core.pages.observe_cut(&pages);
        assert!(matches!(cut, Err(PageError::Contended(_))), "{cut:?}");
        go_on.send(()).unwrap();
        writer.join().unwrap();
        let cut = bus.core.pages.observe_cut(&pages).unwrap();
        assert!(cut.iter().all(|(bytes, _)| bytes == &[7; 8]), "{cut:?}");
    });
}

#[test]
fn who_leaves_is_counted_once() {
    let bus = bus();
    let id = bus.join("first", 300).create_page(&page(8)).unwrap();
    let totals = || bus.core.totals();
    let before = totals();
    // In the middle of leaving, its sum is neither here nor there; the count waits.
    let (parked, is_parked) = channel();
    let (go_on, gone_on) = channel();
    std::thread::scope(|scope| {
        let core = Arc::clone(&bus.core);
        scope.spawn(move || {
            let p = Participant::join(core, ParticipantConfig::default()).unwrap();
            let page = p.core().pages.resolve(id).unwrap();
            for _ in 0..5 {
                p.patch(&page, 0, &[1; 8]).unwrap();
            }
            arm("leave.counting", 0, Action::Park(parked, gone_on));
        });
        is_parked.recv().unwrap();
        let counted = scope.spawn(totals);
        std::thread::sleep(Duration::from_millis(20));
        go_on.send(()).unwrap();
        let after = counted.join().unwrap();
        assert_eq!(
            (after.deltas, after.bytes),
            (before.deltas + 5, before.bytes + 40)
        );
    });
    // And however the looks fall.
    let finished = AtomicU64::new(before.deltas + 5);
    let begun = AtomicU64::new(before.deltas + 5);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3000 {
                let p = bus.join("leaver", 300);
                let page = p.core().pages.resolve(id).unwrap();
                begun.fetch_add(1, SeqCst);
                p.patch(&page, 0, &[1; 8]).unwrap();
                finished.fetch_add(1, SeqCst);
            }
            stop.store(true, SeqCst);
        });
        while !stop.load(SeqCst) {
            let least = finished.load(SeqCst);
            let found = totals().deltas;
            let most = begun.load(SeqCst);
            assert!(
                (least..=most).contains(&found),
                "{found} of {least} to {most}"
            );
        }
    });
}

#[test]
fn a_group_waits_for_each_of_its_pages_ahead_of_its_claim() {
    let bus = bus();
    let a = bus.join("a", 100);
    let ids = [0, 1].map(|_| a.create_page(&page(8)).unwrap());
    let pages = ids.map(|id| bus.core.pages.resolve(id).unwrap());
    for held in [0, 1] {
        let (parked, is_parked) = channel();
        let (go_on, gone_on) = channel();
        std::thread::scope(|scope| {
            let b = bus.join("b", 1000);
            let core = Arc::clone(&bus.core);
            let writer = scope.spawn(move || {
                let page = core.pages.resolve(ids[held]).unwrap();
                arm("commit.locked", 0, Action::Park(parked, gone_on));
                b.patch(&page, 0, &[1; 8]).unwrap();
            });
            let go_on = go_on;
            is_parked.recv().unwrap();
            let end = bus.core.pages.end_lsn();
            let changes = [0, 1].map(|i| Change::Patch {
                page: &pages[i],
                offset: 0,
                bytes: &[7; 8],
            });
            for transaction in [false, true] {
                let options = Options {
                    transaction,
                    ..Options::default()
                };
                let refused = a.commit(&changes, &options);
                assert!(
                    matches!(refused, Err(PageError::Timeout { .. })),
                    "{refused:?}"
                );
            }
            assert_eq!(bus.core.pages.end_lsn(), end, "something was claimed");
            go_on.send(()).unwrap();
            writer.join().unwrap();
        });
    }
}

#[test]
fn a_cut_that_a_transaction_overtakes_is_taken_again() {
    let bus = bus();
    let a = bus.join("a", 1000);
    let ids = [0, 1].map(|_| a.create_page(&page(8)).unwrap());
    let (copied, has_copied) = channel();
    let (go_on, gone_on) = channel();
    std::thread::scope(|scope| {
        let core = Arc::clone(&bus.core);
        let reader = scope.spawn(move || {
            let pages = ids.map(|id| core.pages.resolve(id).unwrap());
            // The first page is copied, the second one is not.
            arm("cut.copied_one", 0, Action::Park(copied, gone_on));
            core.pages.observe_cut(&pages).unwrap()
        });
        let go_on = go_on;
        has_copied.recv().unwrap();
        let pages = ids.map(|id| bus.core.pages.resolve(id).unwrap());
        let changes = [0, 1].map(|i| Change::Patch {
            page: &pages[i],
            offset: 0,
            bytes: &[7; 8],
        });
        let options = Options {
            transaction: true,
            ..Options::default()
        };
        a.commit(&changes, &options).unwrap();
        go_on.send(()).unwrap();
        let cut = reader.join().unwrap();
        assert!(cut.iter().all(|(bytes, _)| bytes == &[7; 8]), "{cut:?}");
    });
}
