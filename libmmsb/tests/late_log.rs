//! Logs that begin late, end early, or fail at first: what must not be taken for durable, or for the state of the bus.

use std::path::Path;
use std::time::Duration;

use mmsb::supervisor::{CheckpointPolicy, Role, Supervisor, SupervisorConfig};
use mmsb::tlog::{LogMeta, LogWriter, WriterConfig};
use mmsb::{Bus, BusBuilder, Durability, PageSpec, checkpoint};

struct Dirs {
    shm: tempfile::TempDir,
    disk: tempfile::TempDir,
    /// What a power cut would have left.
    image: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Dirs {
        let disk = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Dirs {
            shm: tempfile::tempdir_in("/dev/shm").unwrap(),
            disk: disk(),
            image: disk(),
        }
    }

    fn builder(&self) -> BusBuilder {
        Bus::builder("t")
            .dir(self.shm.path())
            .source("test")
            .timeout(Duration::from_secs(20))
            .ring_bytes(1 << 16)
    }

    fn durable(&self) -> BusBuilder {
        self.builder().supervise(quiet(self.disk.path()))
    }

    /// Another bus, from the copy.
    fn rebuilt(&self) -> mmsb::Result<Bus> {
        self.builder()
            .supervise(quiet(self.image.path()))
            .open_or_create()
    }

    fn take_image(&self) {
        for entry in std::fs::read_dir(self.disk.path()).unwrap() {
            let entry = entry.unwrap();
            // What is renamed or removed meanwhile is there or not.
            let _ = std::fs::copy(entry.path(), self.image.path().join(entry.file_name()));
        }
    }

    fn reboot(&self) {
        Bus::unlink_in(self.shm.path(), "t").unwrap();
    }
}

fn quiet(dir: &Path) -> SupervisorConfig {
    SupervisorConfig {
        checkpoint: CheckpointPolicy {
            interval: None,
            log_bytes: None,
            keep: 1,
            ..CheckpointPolicy::default()
        },
        ..SupervisorConfig::new(dir)
    }
}

fn only_log_file(dir: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|p| p.extension().is_some_and(|e| e == "tlog"))
        .collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[test]
fn a_first_open_that_fails_leaves_the_bus_as_it_was_and_can_be_tried_again() {
    let dirs = Dirs::new();
    let lock = dirs.disk.path().join("lock");
    std::fs::create_dir(&lock).unwrap();
    dirs.durable().open_or_create().unwrap_err();
    // Without a log nothing holds the ring.
    let bus = dirs.builder().attach().unwrap();
    let page = bus.create_page(PageSpec::of::<u64>().name("n")).unwrap();
    for n in 0..5000u64 {
        page.set(&n).unwrap();
    }
    std::fs::remove_dir(&lock).unwrap();
    let logged = dirs.durable().open_or_create().unwrap();
    let page = logged.page("n").unwrap();
    logged
        .with_durability(Durability::Synced, || page.set(&7u64))
        .unwrap();
}

#[test]
fn who_says_nothing_is_as_durable_after_a_rebuild_as_before() {
    let dirs = Dirs::new();
    let open = || {
        dirs.durable()
            .durability(Durability::Synced)
            .open_or_create()
    };
    let bus = open().unwrap();
    let other = || dirs.builder().attach().unwrap().durability();
    assert_eq!(other(), Durability::Synced);
    drop(bus);
    dirs.reboot();
    let _bus = open().unwrap();
    assert_eq!(other(), Durability::Synced);
}

#[test]
fn a_checkpoint_beyond_the_end_of_the_log_is_damage_and_not_passed_over() {
    let dirs = Dirs::new();
    let bus = dirs
        .durable()
        .durability(Durability::Synced)
        .open_or_create()
        .unwrap();
    let page = bus.create_page(PageSpec::of::<u64>().name("v")).unwrap();
    for n in 0..50u64 {
        page.set(&n).unwrap();
    }
    bus.supervisor().unwrap().checkpoint().unwrap();
    dirs.take_image();
    drop(bus);
    dirs.reboot();
    let file = only_log_file(dirs.image.path());
    let mut bytes = std::fs::read(&file).unwrap();
    let used = bytes
        .chunks(4096)
        .rposition(|block| block.iter().any(|b| *b != 0))
        .unwrap();
    bytes[(used - 10) * 4096..].fill(0);
    std::fs::write(&file, bytes).unwrap();
    let error = dirs.rebuilt().unwrap_err();
    assert!(error.to_string().contains("mmsb repair"), "{error}");
    // Whoever gives up what is lost can go on, and the next checkpoints are kept.
    let repaired = mmsb::tlog::repair(dirs.image.path()).unwrap();
    let meta = mmsb::tlog::survey(dirs.image.path()).unwrap().meta.unwrap();
    let aside = checkpoint::set_aside_beyond(dirs.image.path(), &meta, repaired.end_lsn).unwrap();
    assert_eq!(aside.len(), 1);
    let bus = dirs.rebuilt().unwrap();
    assert!(bus.page("v").unwrap().read::<u64>().unwrap() < 49);
    let info = bus.supervisor().unwrap().checkpoint().unwrap();
    assert!(info.path.exists());
}

#[test]
fn nothing_is_durable_before_the_first_checkpoint_of_a_late_log() {
    let dirs = Dirs::new();
    let bus = dirs.builder().create().unwrap();
    for _ in 0..50 {
        bus.create_page(PageSpec::new(1 << 20)).unwrap();
    }
    let page = bus.create_page(PageSpec::of::<u64>().name("v")).unwrap();
    for n in 0..5000u64 {
        page.set(&n).unwrap();
    }
    let supervisor = Supervisor::start(&bus, quiet(dirs.disk.path())).unwrap();
    bus.set_durability(Durability::Synced);
    page.set(&77777u64).unwrap();
    dirs.take_image();
    drop((supervisor, bus));
    dirs.reboot();
    let bus = dirs.rebuilt().unwrap();
    assert_eq!(bus.all_pages().unwrap().len(), 51);
    assert_eq!(bus.page("v").unwrap().read::<u64>().unwrap(), 77777);
}

#[test]
fn a_log_that_does_not_reach_back_is_no_state_without_its_checkpoint() {
    let dirs = Dirs::new();
    let bus = dirs.builder().create().unwrap();
    let page = bus.create_page(PageSpec::of::<u64>().name("old")).unwrap();
    for n in 0..5000u64 {
        page.set(&n).unwrap();
    }
    let supervisor = Supervisor::start(&bus, quiet(dirs.disk.path())).unwrap();
    bus.set_durability(Durability::Synced);
    bus.create_page(PageSpec::of::<u64>().name("new")).unwrap();
    dirs.take_image();
    for info in checkpoint::list(dirs.image.path()).unwrap() {
        std::fs::remove_file(info.path).unwrap();
    }
    drop((supervisor, bus));
    dirs.reboot();
    let error = dirs.rebuilt().unwrap_err();
    assert!(
        error.to_string().contains("no longer in the log"),
        "{error}"
    );
}

#[test]
fn a_late_log_begins_behind_loans_whose_blocks_are_gone() {
    let dirs = Dirs::new();
    let bus = dirs.builder().create().unwrap();
    let page = bus.create_page(PageSpec::new(8192).name("v")).unwrap();
    let publish = |n: u8| {
        let mut loan = page.loan().unwrap();
        loan.fill(n);
        loan.publish().unwrap()
    };
    for n in 0..200 {
        publish(n);
    }
    let supervisor = Supervisor::start(&bus, quiet(dirs.disk.path())).unwrap();
    bus.set_durability(Durability::Synced);
    publish(7);
    assert_eq!(supervisor.status().role, Role::Active);
}

#[test]
fn a_wait_for_a_delta_that_does_not_exist_ends_at_once_and_keeps_nobody_busy() {
    let dirs = Dirs::new();
    let bus = dirs.durable().open_or_create().unwrap();
    for lsn in [u64::MAX, bus.end_lsn() + 1_000_000, bus.end_lsn()] {
        let error = bus.wait_durable(lsn, Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("no such delta"), "{error}");
    }
}

#[test]
fn a_file_is_replaced_and_never_missing() {
    let dirs = Dirs::new();
    let meta = LogMeta::new("t", 0, 1024).unwrap();
    let create = || {
        LogWriter::create(
            dirs.disk.path(),
            meta.clone(),
            1024,
            WriterConfig::default(),
        )
    };
    drop(create().unwrap());
    let path = dirs.disk.path();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let looks = s.spawn(|| {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let mut entries = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path());
                // A listing may miss a name that is being replaced; the name itself is always there.
                if !entries.any(|p| p.extension().is_some_and(|e| e == "tlog")) {
                    let name = mmsb::tlog::format::file_name(1024, 1);
                    assert!(path.join(name).exists());
                }
                looks += 1;
            }
            looks
        });
        for _ in 0..5 {
            drop(create().unwrap());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(looks.join().unwrap() > 0);
    });
}
