//! Subscriptions that begin at an LSN: from the log into the ring, while writers run; and LSNs of a past that was given up.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mmsb::supervisor::{CheckpointPolicy, SupervisorConfig};
use mmsb::tlog::WriterConfig;
use mmsb::{Bus, BusBuilder, Durability, Error, Event, From, PageSpec, Subscription};

const PATIENCE: Duration = Duration::from_secs(30);

struct Dirs {
    shm: tempfile::TempDir,
    disk: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Dirs {
        Dirs {
            shm: tempfile::tempdir_in("/dev/shm").unwrap(),
            disk: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        }
    }

    fn builder(&self) -> BusBuilder {
        Bus::builder("t")
            .dir(self.shm.path())
            .timeout(PATIENCE)
            .ring_bytes(1 << 14)
            .pages_max(1024)
    }

    fn open(&self) -> Bus {
        self.builder()
            .supervise(config(self.disk.path()))
            .open_or_create()
            .unwrap()
    }
}

/// Small files and blocks: many of them.
fn config(dir: &Path) -> SupervisorConfig {
    SupervisorConfig {
        writer: WriterConfig {
            segment_bytes: 128 << 10,
            block_bytes: 16 << 10,
            ..WriterConfig::default()
        },
        checkpoint: CheckpointPolicy {
            interval: None,
            log_bytes: None,
            ..CheckpointPolicy::default()
        },
        compress: true,
        ..SupervisorConfig::new(dir)
    }
}

/// Takes deltas of a page whose every delta writes a number, until `last`: each number once, in order.
fn numbers(sub: &mut Subscription<'_>, first: u64, last: u64, gaps: bool) -> u64 {
    let begin = Instant::now();
    let mut next = first;
    let mut missed = 0;
    while next <= last {
        assert!(begin.elapsed() < PATIENCE, "at {next} of {last}");
        let Some(event) = sub.next_timeout(Duration::from_millis(100)).unwrap() else {
            continue;
        };
        match event {
            Event::Delta(delta) => {
                let bytes = &delta.ranges[0].1;
                let n = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                assert!(n >= next, "{n} comes again, behind {}", next - 1);
                assert!(gaps && missed > 0 || n == next, "{n} comes, not {next}");
                next = n + 1;
            }
            Event::Gap(_) => {
                assert!(gaps, "a gap behind {next}");
                missed += 1;
            }
            _ => {}
        }
    }
    missed
}

/// Ends the writer when the test fails, too: a scope waits for its threads.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn follow(gating: bool, prefix: bool) {
    let dirs = Dirs::new();
    // In a full ring blocks of the log end where the ring does; in a large one anywhere.
    let ring = if gating && !prefix { 1 << 20 } else { 1 << 14 };
    let bus = dirs
        .builder()
        .ring_bytes(ring)
        .supervise(config(dirs.disk.path()))
        .open_or_create()
        .unwrap();
    let page = bus.create_page(PageSpec::of::<u64>().name("a/n")).unwrap();
    let big = bus
        .create_page(PageSpec::new(30_000).name("b/big"))
        .unwrap();
    let (id, big_id, from) = (page.id(), big.id(), bus.end_lsn());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let bus = dirs.builder().attach().unwrap();
            let (page, big) = (bus.page_by_id(id).unwrap(), bus.page_by_id(big_id).unwrap());
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                page.set(&n).unwrap();
                if n.is_multiple_of(500) {
                    big.loan().unwrap().publish().unwrap();
                    // A reader of the files that is slower than the writer would never get to the ring.
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            n
        });
        let running = Stop(&stop);
        // Far more than the ring holds: it begins in files that are long done.
        while bus.end_lsn() < from + 6000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let other = dirs.builder().attach().unwrap();
        for round in 0..6u64 {
            // Joins the ring at another moment of the supervisor's each time.
            let sub = other.subscribe().log(dirs.disk.path()).from(From::Lsn {
                incarnation: 1,
                lsn: from,
            });
            let sub = if prefix {
                sub.prefix("a/")
            } else {
                sub.page(id)
            };
            let mut sub = sub.gating(gating).build().unwrap();
            numbers(&mut sub, 1, 7000 + round * 500, !gating);
        }
        // From where the disk is just now: the change from the files to the ring comes at once, in the middle of a block.
        for _ in 0..100 {
            let lsn = other.durable_lsn();
            let sub = other
                .subscribe()
                .log(dirs.disk.path())
                .from(From::Lsn {
                    incarnation: 1,
                    lsn,
                })
                .page(id)
                .gating(gating);
            let mut sub = sub.build().unwrap();
            let first = loop {
                if let Some(Event::Delta(delta)) = sub.next_timeout(PATIENCE).unwrap() {
                    break u64::from_le_bytes(delta.ranges[0].1[..8].try_into().unwrap());
                }
            };
            numbers(&mut sub, first + 1, first + 200, !gating);
        }
        drop(running);
        let last = writer.join().unwrap();
        let mut sub = other
            .subscribe()
            .page(id)
            .log(dirs.disk.path())
            .from(From::Lsn {
                incarnation: 1,
                lsn: from,
            })
            .build()
            .unwrap();
        // Nobody writes: a lossy one gets everything, too.
        numbers(&mut sub, 1, last, false);
    });
}

#[test]
fn a_gating_one_by_page_gets_everything_once() {
    follow(true, false);
}

#[test]
fn a_gating_one_by_prefix_gets_everything_once() {
    follow(true, true);
}

#[test]
fn a_lossy_one_is_told_of_gaps_and_gets_nothing_twice() {
    follow(false, false);
    follow(false, true);
}

#[test]
fn whole_pages_come_with_their_content() {
    let dirs = Dirs::new();
    let bus = dirs.open();
    let big = bus.create_page(PageSpec::new(30_000)).unwrap();
    let from = bus.end_lsn();
    for n in 1..40u8 {
        let mut loan = big.loan().unwrap();
        loan.fill(n);
        loan.publish().unwrap();
    }
    let mut sub = bus
        .subscribe()
        .page(big.id())
        .gating(true)
        .from(From::Lsn {
            incarnation: 1,
            lsn: from,
        })
        .build()
        .unwrap();
    for n in 1..40u8 {
        match sub.next_timeout(PATIENCE).unwrap() {
            Some(Event::Delta(delta)) => {
                assert_eq!(delta.ranges, [(0, vec![n; 30_000])], "{n}");
            }
            other => panic!("{other:?} at {n}"),
        }
    }
}

#[test]
fn an_lsn_of_a_past_that_was_given_up_is_refused() {
    let dirs = Dirs::new();
    let bus = dirs.open();
    let page = bus.create_page(PageSpec::of::<u64>().name("n")).unwrap();
    let id = page.id();
    bus.with_durability(Durability::Synced, || page.set(&1u64))
        .unwrap();
    let durable = bus.durable_lsn();
    // The log ends here as at a power cut: what follows is in the ring only, and somebody sees it.
    let cut = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for entry in std::fs::read_dir(dirs.disk.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), cut.path().join(entry.file_name())).unwrap();
    }
    let mut seen = 0;
    let mut sub = bus.subscribe().page(id).build().unwrap();
    for n in 2..10u64 {
        page.set(&n).unwrap();
        if let Some(Event::Delta(delta)) = sub.next_timeout(PATIENCE).unwrap() {
            seen = delta.lsn;
        }
    }
    assert!(seen >= durable + 7, "{seen}");
    drop(sub);
    drop(bus);
    Bus::unlink_in(dirs.shm.path(), "t").unwrap();
    let bus = dirs
        .builder()
        .supervise(config(cut.path()))
        .open_or_create()
        .unwrap();
    let page = bus.page("n").unwrap();
    assert_eq!(page.read::<u64>().unwrap(), 1);
    let fork = bus.log_status().fork_lsn;
    assert!(durable <= fork && fork <= seen);
    // The same numbers again, for something else.
    while bus.end_lsn() <= seen {
        page.set(&77u64).unwrap();
    }
    let from = |incarnation, lsn| {
        bus.subscribe()
            .page(id)
            .gating(true)
            .from(From::Lsn { incarnation, lsn })
            .build()
    };
    match from(1, seen + 1) {
        Err(Error::Diverged {
            lsn,
            incarnation,
            fork_lsn,
        }) => assert_eq!((lsn, incarnation, fork_lsn), (seen + 1, 1, fork)),
        other => panic!("{other:?}"),
    }
    // Up to the fork the past is the same.
    assert!(from(1, fork).is_ok());
    let mut sub = from(2, fork).unwrap();
    match sub.next_timeout(PATIENCE).unwrap() {
        Some(Event::Delta(delta)) => assert_eq!(delta.ranges[0].1, 77u64.to_le_bytes()),
        other => panic!("{other:?}"),
    }
}
