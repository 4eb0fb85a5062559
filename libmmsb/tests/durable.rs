//! A bus with a log: what each durability level keeps, restarts, checkpoints, takeovers.

use std::path::Path;
use std::time::Duration;

use mmsb::supervisor::{CheckpointPolicy, Role, Supervisor, SupervisorConfig};
use mmsb::{Bus, BusBuilder, Durability, Error, LogStatus, PageError, PageSpec, schema::Schema};
use mmsb_shm::log::{LogCounter, LogState};

struct Dirs {
    shm: tempfile::TempDir,
    disk: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Dirs {
        Dirs {
            shm: tempfile::tempdir_in("/dev/shm").unwrap(),
            // On a real file system: a tmpfs has no O_DIRECT.
            disk: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        }
    }

    fn builder(&self) -> BusBuilder {
        Bus::builder("t")
            .dir(self.shm.path())
            .source("test")
            .timeout(Duration::from_secs(20))
            .ring_bytes(1 << 16)
            .pages_max(1024)
    }

    fn durable(&self) -> BusBuilder {
        self.builder().supervise(quiet(self.disk.path()))
    }

    fn reboot(&self) {
        Bus::unlink_in(self.shm.path(), "t").unwrap();
    }
}

/// No checkpoint unless asked for.
fn quiet(dir: &Path) -> SupervisorConfig {
    SupervisorConfig {
        checkpoint: CheckpointPolicy {
            interval: None,
            log_bytes: None,
            ..CheckpointPolicy::default()
        },
        ..SupervisorConfig::new(dir)
    }
}

/// Everything that a rebuild must bring back, in an order of its own.
#[derive(Debug, PartialEq)]
struct Everything {
    pages: Vec<(mmsb::PageInfo, Vec<u8>)>,
    sources: Vec<(u16, String)>,
}

fn everything(bus: &Bus) -> Everything {
    let pages = bus.all_pages().unwrap();
    Everything {
        pages: pages
            .into_iter()
            .map(|mut info| {
                let bytes = bus.page_by_id(info.id).unwrap().to_vec().unwrap();
                // A loan is a way to write; what it wrote is all that lasts.
                info.loaned = false;
                (info, bytes)
            })
            .collect(),
        sources: (0..100)
            .filter_map(|id| Some((id, bus.source_name(id)?)))
            .collect(),
    }
}

/// All kinds of deltas.
fn work(bus: &Bus, seed: u8) {
    let schema = Schema::parse("price:f64,qty:u32").unwrap();
    let plain = bus
        .open_or_create_page(PageSpec::new(300).name("plain").meta("unit", "m"))
        .unwrap();
    plain.patch(7, &[seed; 100]).unwrap();
    plain
        .patch_many(&[(0, &[1, seed]), (200, &[3; 50])])
        .unwrap();
    plain.write_masked(10, &[1, 0, 1], &[9, 9, seed]).unwrap();
    let quote = bus
        .open_or_create_page(PageSpec::with_schema(&schema).name("quote"))
        .unwrap();
    quote.field("price").unwrap().set_text("2.5").unwrap();
    let cell = bus
        .open_or_create_page(PageSpec::new(64).versions(8).name("cell"))
        .unwrap();
    for n in 0..10 {
        cell.write(&[n ^ seed; 64]).unwrap();
    }
    let big = bus
        .open_or_create_page(PageSpec::new(3 << 20).name("big"))
        .unwrap();
    let mut loan = big.loan().unwrap();
    loan.fill(seed);
    loan.publish().unwrap();
    // A patch of a page whose content is a loaned block.
    big.patch(1 << 20, b"patched").unwrap();
    let gone = bus.create_page(PageSpec::new(8).name("gone")).unwrap().id();
    bus.destroy(gone).unwrap();
    let unnamed = bus.create_page(PageSpec::new(40)).unwrap();
    bus.transaction(|tx| {
        tx.patch(&unnamed, 0, &[seed; 8])?;
        tx.patch(&plain, 0, &[seed; 8])
    })
    .unwrap();
    let mut batch = bus.batch();
    for n in 0..50u8 {
        batch.patch(&unnamed, 8, if n % 2 == 0 { b"even" } else { b"odd!" });
    }
    batch.mark(b"here").commit().unwrap();
    bus.rename(unnamed.id(), &format!("named/{seed}")).unwrap();
    bus.set_meta(plain.id(), &[("seed", &seed.to_string())])
        .unwrap();
}

fn sync(bus: &Bus) {
    let end = bus.published_lsn().unwrap();
    bus.wait_durable(end - 1, Duration::from_secs(20)).unwrap();
}

#[test]
fn a_bus_comes_back_from_its_log_with_everything() {
    let dirs = Dirs::new();
    let mut bus = dirs.durable().open_or_create().unwrap();
    work(&bus, 1);
    for generation in 1..4u64 {
        sync(&bus);
        let before = everything(&bus);
        let lsn = bus.durable_lsn();
        drop(bus);
        dirs.reboot();
        let bus2 = dirs.durable().open_or_create().unwrap();
        assert_eq!(everything(&bus2), before, "generation {generation}");
        let status = bus2.log_status();
        assert_eq!(status.incarnation, generation + 1);
        assert!(status.fork_lsn >= lsn && status.state == LogState::Running);
        work(&bus2, generation as u8 + 1);
        bus = bus2;
    }
    // The last of them, with the segments alive: attached again, nothing is replayed.
    let before = everything(&bus);
    drop(bus);
    let bus = dirs.durable().open_or_create().unwrap();
    assert_eq!(everything(&bus), before);
    assert_eq!(bus.log_status().incarnation, 4);
    // Whatever sizes are asked for, the bus keeps those that it was made with: the log says which.
    drop(bus);
    dirs.reboot();
    let bus = dirs
        .durable()
        .pages_max(2)
        .ring_bytes(4096)
        .open_or_create()
        .unwrap();
    assert_eq!(everything(&bus), before);
    let info = bus.info().unwrap();
    assert_eq!((info.ring_bytes, info.pages_max), (1 << 16, 1024));
}

#[test]
fn a_bus_comes_back_from_a_checkpoint_and_the_rest_of_the_log() {
    let dirs = Dirs::new();
    let bus = dirs.durable().open_or_create().unwrap();
    work(&bus, 1);
    let info = bus.supervisor().unwrap().checkpoint().unwrap();
    assert!(info.pages >= 5 && bus.durable_lsn() >= info.end_lsn);
    assert_eq!(bus.log_status().checkpoint_lsn, info.end_lsn);
    work(&bus, 2);
    sync(&bus);
    let before = everything(&bus);
    drop(bus);
    dirs.reboot();
    let bus = dirs.durable().open_or_create().unwrap();
    assert_eq!(everything(&bus), before);
    // Another geometry was asked for; the bus keeps the one it was made with.
    drop(bus);
    dirs.reboot();
    let bus = dirs.durable().pages_max(64).open_or_create().unwrap();
    assert_eq!(everything(&bus), before);
}

#[test]
fn what_was_synced_is_on_disk_when_the_write_returns() {
    let dirs = Dirs::new();
    let bus = dirs.durable().open_or_create().unwrap();
    let page = bus.create_page(PageSpec::of::<u64>().name("n")).unwrap();
    for n in 0..50u64 {
        let lsn = bus
            .with_durability(Durability::Synced, || page.set(&n))
            .unwrap();
        assert!(bus.durable_lsn() > lsn);
    }
    bus.set_durability(Durability::Buffered(Duration::from_millis(1)));
    let lsn = page.set(&99u64).unwrap();
    let begin = std::time::Instant::now();
    while bus.durable_lsn() <= lsn {
        assert!(begin.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
    let status = bus.log_status();
    assert_eq!((status.lag(), status.supervised), (0, Some(true)));
}

#[test]
fn without_a_log_synced_is_an_error_that_says_so() {
    let dirs = Dirs::new();
    let bus = dirs.builder().open_or_create().unwrap();
    let page = bus.create_page(PageSpec::of::<u64>()).unwrap();
    bus.set_durability(Durability::Synced);
    let error = page.set(&1u64).unwrap_err();
    assert!(error.is_not_durable(), "{error}");
    assert!(error.to_string().contains("no log"), "{error}");
    assert_eq!(page.read::<u64>().unwrap(), 1, "committed all the same");
    assert_eq!(bus.log_status().state, LogState::None);
}

#[test]
fn a_second_supervisor_waits_and_takes_over() {
    let dirs = Dirs::new();
    let bus = dirs.durable().open_or_create().unwrap();
    let page = bus.create_page(PageSpec::of::<u64>().name("n")).unwrap();
    page.set(&1u64).unwrap();
    let other = dirs.builder().attach().unwrap();
    let standby = Supervisor::start(&other, quiet(dirs.disk.path())).unwrap();
    assert_eq!(standby.status().role, Role::Standby);
    assert!(standby.checkpoint().is_err(), "not by a standby");
    drop(bus);
    assert!(standby.wait_active(Duration::from_secs(10)));
    let page = other.page("n").unwrap();
    other
        .with_durability(Durability::Synced, || page.set(&2u64))
        .unwrap();
    assert_eq!(other.log_status().counter(LogCounter::Takeovers), 1);
    standby.stop().unwrap();
    drop(other);
    dirs.reboot();
    let bus = dirs.durable().open_or_create().unwrap();
    assert_eq!(bus.page("n").unwrap().read::<u64>().unwrap(), 2);
}

#[test]
fn a_bus_that_was_there_before_its_log_gets_a_checkpoint_at_once() {
    let dirs = Dirs::new();
    let bus = dirs.builder().open_or_create().unwrap();
    for seed in 1..20 {
        work(&bus, seed);
    }
    let supervisor = Supervisor::start(&bus, quiet(dirs.disk.path())).unwrap();
    let begin = std::time::Instant::now();
    while bus.log_status().checkpoint_lsn == 0 {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    work(&bus, 20);
    sync(&bus);
    let before = everything(&bus);
    supervisor.stop().unwrap();
    drop(bus);
    dirs.reboot();
    let bus = dirs.durable().open_or_create().unwrap();
    assert_eq!(everything(&bus), before);
}

#[test]
fn the_log_of_another_bus_is_refused() {
    let dirs = Dirs::new();
    drop(dirs.durable().open_or_create().unwrap());
    let bus = Bus::builder("other")
        .dir(dirs.shm.path())
        .open_or_create()
        .unwrap();
    let error = Supervisor::start(&bus, quiet(dirs.disk.path())).unwrap_err();
    assert!(error.to_string().contains("another bus"), "{error}");
    let error = dirs.durable().create().unwrap_err();
    assert!(matches!(error, Error::Log(_)), "{error:?}");
    drop(bus);
}

#[test]
fn a_directory_that_is_locked_for_a_moment_is_waited_for() {
    let dirs = Dirs::new();
    drop(dirs.durable().open_or_create().unwrap());
    let lock = mmsb::tlog::DirLock::take(dirs.disk.path()).unwrap();
    let other = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(lock);
    });
    let bus = dirs.durable().attach().unwrap();
    assert_eq!(bus.supervisor().unwrap().status().role, Role::Active);
    other.join().unwrap();
    // For longer, it is a failure; a standby gets over that as well.
    let other = dirs.builder().attach().unwrap();
    let standby = Supervisor::start(&other, quiet(dirs.disk.path())).unwrap();
    let meanwhile = Bus::builder("t")
        .dir(dirs.shm.path())
        .source("test")
        .attach()
        .unwrap();
    drop(bus);
    let lock = loop {
        // Between the end of the one and the beginning of the other.
        if let Ok(lock) = mmsb::tlog::DirLock::take(dirs.disk.path()) {
            break Some(lock);
        }
        if standby.status().role == Role::Active {
            break None;
        }
    };
    if let Some(lock) = lock {
        let begin = std::time::Instant::now();
        while standby.status().role != Role::Failed {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(lock);
    }
    assert!(standby.wait_active(Duration::from_secs(20)));
    let page = meanwhile.create_page(PageSpec::of::<u64>()).unwrap();
    meanwhile
        .with_durability(Durability::Synced, || page.set(&1u64))
        .unwrap();
}

#[test]
fn writers_without_a_supervisor_go_on_until_the_ring_is_full() {
    let dirs = Dirs::new();
    let bus = dirs.durable().open_or_create().unwrap();
    let mut other = dirs.builder().attach().unwrap();
    other.set_timeout(Duration::from_millis(100));
    let id = bus
        .create_page(PageSpec::of::<u64>().name("n"))
        .unwrap()
        .id();
    drop(bus);
    let page = other.page_by_id(id).unwrap();
    let mut n = 0u64;
    let error = loop {
        match page.set(&n) {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
    };
    assert!(n > 500, "{n}");
    assert!(
        matches!(
            &error,
            Error::Page(PageError::Backpressure {
                no_supervisor: true,
                ..
            })
        ),
        "{error:?}"
    );
    let error = other
        .with_durability(Durability::Synced, || {
            other.wait_durable(other.end_lsn() - 1, Duration::from_millis(100))
        })
        .unwrap_err();
    assert!(error.is_not_durable(), "{error}");
    // The next supervisor writes what was left in the ring.
    let bus = dirs.durable().attach().unwrap();
    page.set(&77u64).unwrap();
    sync(&bus);
    let status: LogStatus = bus.log_status();
    assert_eq!(status.lag(), 0);
    drop((bus, other));
    dirs.reboot();
    let bus = dirs.durable().open_or_create().unwrap();
    assert_eq!(bus.page("n").unwrap().read::<u64>().unwrap(), 77);
}
