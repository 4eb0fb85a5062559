//! Processes that are not alike: in other PID namespaces, of other users, forked, stopped, dying while waited for;
//! and what may happen to the objects under them.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use mmsb_shm::sys::{process, space::SegmentDir};
use mmsb_shm::testing::{Action, arm};
use mmsb_shm::{
    AttachError, BusConfig, BusFull, Core, Counter, NewPage, PageError, Pages, Participant,
    ParticipantConfig,
};
use mmsb_tests::scenario::{self, BUS, named};
use mmsb_tests::spawn::Child;
use mmsb_tests::watchdog::{self, Watchdog};

const PATIENCE: Duration = Duration::from_secs(30);

struct Bus {
    core: Arc<Core>,
    p: Participant,
    tmp: tempfile::TempDir,
    _watchdog: Watchdog,
}

fn bus_with(test: &str, config: &BusConfig) -> Bus {
    let watchdog = watchdog::start(test, Duration::from_secs(150));
    let tmp = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let core = Core::create(&SegmentDir::at(tmp.path()), BUS, config).expect("a bus");
    let core = Arc::new(core);
    let p = scenario::join(&core, "test");
    for name in ["plain", "other"] {
        p.create_page(&named(300, name)).expect("a page");
    }
    Bus {
        core,
        p,
        tmp,
        _watchdog: watchdog,
    }
}

fn bus(test: &str, ring_bytes: u64) -> Bus {
    bus_with(test, &scenario::config(ring_bytes))
}

impl Bus {
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_role"));
        command.arg(self.tmp.path());
        command
    }

    fn role(&self) -> Child {
        Child::spawn(&mut self.command()).expect("a child")
    }

    fn joined(&self, name: &str, timeout_ms: u64) -> Child {
        let mut child = self.role();
        ask(&mut child, &format!("join {name} {timeout_ms}"), "joined ");
        child
    }

    fn fill(&self, page: &str, byte: u8) -> Result<u64, PageError> {
        let page = self.p.open_page(page)?;
        self.p.patch(&page, 0, &vec![byte; page.size()])
    }

    fn uniform(&self, page: &str) -> Option<u8> {
        let page = self.p.open_page(page).expect("the page");
        let mut bytes = vec![0; page.size()];
        self.p.read(&page, 0, &mut bytes).expect("to read");
        bytes.iter().all(|b| *b == bytes[0]).then_some(bytes[0])
    }
}

fn ask(child: &mut Child, order: &str, answer: &str) -> String {
    child.send(order).expect("a child that lives");
    child
        .expect(answer, PATIENCE)
        .unwrap_or_else(|e| panic!("{order}: {e}"))
}

fn await_death(child: &mut Child) {
    let status = child.wait(PATIENCE).expect("a death").expect("a death");
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
}

fn await_stop(child: &Child) {
    let begin = std::time::Instant::now();
    while process::state(child.id()) != Some('T') {
        assert!(begin.elapsed() < PATIENCE, "the child does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn liveness_holds_across_pid_namespaces() {
    let works = Command::new("unshare")
        .args(["-p", "-f", "--mount-proc", "true"])
        .status();
    if !works.is_ok_and(|s| s.success()) {
        eprintln!("skipped: no PID namespaces here (unshare -p needs root)");
        return;
    }
    let bus = bus("namespaces", 1 << 16);
    // The shell is process 1 of the namespace: a process 1 could not send itself SIGKILL.
    let spawn = || {
        let mut command = Command::new("unshare");
        command
            .args(["-p", "-f", "--kill-child", "--mount-proc", "sh", "-c"])
            .args(["\"$@\"; true", "sh", env!("CARGO_BIN_EXE_role")])
            .arg(bus.tmp.path());
        Child::spawn(&mut command).expect("a child")
    };
    let (mut a, mut b) = (spawn(), spawn());
    let of_a = ask(&mut a, "join a 20000", "joined ");
    let of_b = ask(&mut b, "join b 20000", "joined ");
    let split = |text: &str| {
        let (namespace, pid) = text.split_once(' ').expect("two numbers");
        (namespace.to_owned(), pid.to_owned())
    };
    let (of_a, of_b) = (split(&of_a), split(&of_b));
    assert_ne!(of_a.0, of_b.0, "two namespaces");
    assert_eq!(of_a.1, of_b.1, "the same pid in both");
    let people = ask(&mut b, "people", "people ");
    assert_eq!(people, "a:true b:true test:true");
    ask(&mut a, "arm commit.copied 0 kill", "armed");
    a.send("patch plain 5").expect("a child that lives");
    // Its pid is alive here all the same: that of b.
    let shell = a.wait(PATIENCE).expect("an end").expect("an end");
    assert!(shell.success(), "only the role dies: {shell}");
    ask(&mut b, "patch plain 6", "ok ");
    let people = ask(&mut b, "people", "people ");
    assert_eq!(people, "b:true test:true");
    assert_eq!(bus.uniform("plain"), Some(6));
    assert_eq!(bus.core.pages.counter(Counter::RecoveredOdd), 1);
    let page = bus.p.open_page("plain").expect("the page");
    let version = bus.core.pages.version(&page).expect("a version");
    assert_eq!(version.epoch, 2, "the dead one's delta, and b's");
}

/// A copy of the child that everybody may run: the build directory may be closed to others.
fn public_copy(bus: &Bus) -> std::path::PathBuf {
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod")
    };
    open(bus.tmp.path(), 0o755);
    let copy = bus.tmp.path().join("role");
    std::fs::copy(env!("CARGO_BIN_EXE_role"), &copy).expect("a copy");
    open(&copy, 0o755);
    copy
}

#[test]
fn an_observer_of_another_user_reads_all_and_harms_nothing() {
    if !is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    const NOBODY: u32 = 65534;
    for (mode, gid, allowed) in [
        (0o644, NOBODY, true),
        (0o640, 0, true),
        (0o640, NOBODY, false),
        (0o600, 0, false),
    ] {
        let config = BusConfig {
            mode,
            ..scenario::config(1 << 16)
        };
        let bus = bus_with("users", &config);
        bus.p.create_page(&named(3 << 20, "large")).expect("a page");
        bus.fill("plain", 9).expect("a patch");
        let mut command = Command::new(public_copy(&bus));
        command.arg(bus.tmp.path()).uid(NOBODY).gid(gid);
        let mut child = Child::spawn(&mut command).expect("a child");
        if !allowed {
            let text = ask(&mut child, "observe", "err ");
            assert!(text.contains("permission denied"), "{mode:o}: {text}");
            continue;
        }
        ask(&mut child, "observe", "observing");
        assert_eq!(ask(&mut child, "read plain", "bytes "), "9 1");
        assert_eq!(ask(&mut child, "read large", "bytes "), "0 0");
        assert_eq!(ask(&mut child, "intrude", "intruded"), " ", "mode {mode:o}");
        let blocks = || {
            let path = bus.core.pages.path();
            std::fs::metadata(path).expect("the object").blocks()
        };
        let before = blocks();
        ask(&mut child, "touch", "touched ");
        assert_eq!(blocks(), before, "reading took memory");
        // And it follows: what is written now is seen.
        bus.fill("plain", 10).expect("a patch");
        assert_eq!(ask(&mut child, "read plain", "bytes "), "10 2");
        child.finish(PATIENCE).expect("a quiet end");
    }
}

#[test]
fn a_forked_child_cannot_use_its_parents_handle_and_does_not_keep_it_alive() {
    let bus = bus("fork", 1 << 16);
    let mut parent = bus.joined("parent", 20_000);
    let answer = ask(&mut parent, "fork", "child ");
    let (child, result) = answer.split_once(' ').expect("a pid and a result");
    assert_eq!(result, "forked");
    // The parent's handle is as good as before.
    ask(&mut parent, "patch plain 1", "ok ");
    ask(&mut parent, "arm commit.copied 0 kill", "armed");
    parent.send("patch plain 2").expect("a child that lives");
    await_death(&mut parent);
    let child: u32 = child.parse().expect("a pid");
    assert!(
        process::state(child).is_some_and(|s| s != 'Z'),
        "the grandchild lives"
    );
    bus.fill("plain", 3).expect("the dead one is recovered");
    assert_eq!(bus.core.pages.counter(Counter::RecoveredOdd), 1);
    assert!(process::state(child).is_some());
    // SAFETY: a process that this test had started; it sleeps and cannot have been reaped by anybody but init.
    unsafe { libc::kill(child.cast_signed(), libc::SIGKILL) };
}

#[test]
fn a_thread_parked_inside_a_commit_is_not_recovered_by_its_sibling() {
    for (step, counted) in [("commit.held", "claimed"), ("commit.copied", "odd")] {
        let bus = bus("threads", 1 << 16);
        let (said, parked) = channel();
        let (go, wait) = channel();
        let parked_thread = scenario::join(&bus.core, "parked");
        std::thread::scope(|s| {
            let thread = s.spawn(move || {
                let page = parked_thread.open_page("plain").expect("the page");
                arm(step, 0, Action::Park(said, wait));
                parked_thread.patch(&page, 0, &[4; 300])
            });
            parked.recv_timeout(PATIENCE).expect("it parks");
            let config = ParticipantConfig {
                name: "sibling".into(),
                timeout: Duration::from_millis(200),
                ..ParticipantConfig::default()
            };
            let sibling = Participant::join(Arc::clone(&bus.core), config).expect("to join");
            let page = sibling.open_page("plain").expect("the page");
            let error = sibling.patch(&page, 0, &[5; 300]).expect_err("it is held");
            let text = error.to_string();
            assert!(matches!(error, PageError::Timeout { .. }), "{text}");
            assert!(text.contains("\"parked\""), "{text}");
            let other = sibling.open_page("other").expect("the page");
            sibling.patch(&other, 0, &[6; 300]).expect("another page");
            assert_eq!(sibling.recover_all().expect("nobody is dead"), 0);
            assert_eq!(bus.core.pages.counter(Counter::Recoveries), 0, "{counted}");
            go.send(()).expect("it is parked");
            thread.join().expect("no panic").expect("its patch");
            sibling.patch(&page, 0, &[7; 300]).expect("it is free");
        });
        assert_eq!(bus.uniform("plain"), Some(7));
    }
}

#[test]
fn a_stopped_writer_is_named_and_waited_for_but_never_repaired() {
    for step in ["commit.held", "commit.ready", "commit.copied"] {
        let bus = bus("stopped", scenario::SMALL_RING);
        let mut stopped = bus.joined("stopped", 20_000);
        let mut other = bus.joined("hasty", 200);
        ask(&mut stopped, &format!("arm {step} 0 stop"), "armed");
        stopped.send("patch plain 1").expect("a child that lives");
        await_stop(&stopped);
        let named = format!("(\"stopped\", pid {})", stopped.id());
        // Its page now.
        let text = ask(&mut other, "patch plain 2", "err ");
        assert!(
            text.contains("page 0") && text.contains(&named),
            "{step}: {text}"
        );
        // Everybody after a lap.
        let mut commits = 0;
        let text = loop {
            other.send("patch other 3").expect("a child that lives");
            let answer = other.receive(PATIENCE).expect("an answer");
            match answer.strip_prefix("err ") {
                Some(text) => break text.to_owned(),
                None => commits += 1,
            }
            assert!(commits < 100, "{step}: it does not hold the ring");
        };
        assert!(
            text.contains("ring is full") && text.contains(&named),
            "{step}: {text}"
        );
        // A reader: of a page that nobody writes at once, of its page the state ahead or a timeout.
        assert_eq!(
            ask(&mut other, "read other", "bytes "),
            format!("3 {commits}")
        );
        other.send("read plain").expect("a child that lives");
        let answer = other.receive(PATIENCE).expect("an answer");
        if step == "commit.copied" {
            assert!(
                answer.starts_with("err ") && answer.contains(&named),
                "{answer}"
            );
        } else {
            assert_eq!(answer, "bytes 0 0");
        }
        assert_eq!(bus.core.pages.counter(Counter::Recoveries), 0, "{step}");
        stopped.resume().expect("SIGCONT");
        stopped.expect("ok ", PATIENCE).expect("its commit");
        ask(&mut other, "patch plain 4", "ok ");
        assert_eq!(bus.uniform("plain"), Some(4), "{step}");
        let page = bus.p.open_page("plain").expect("the page");
        let version = bus.core.pages.version(&page).expect("a version");
        assert_eq!(version.epoch, 2, "{step}: both patches, once");
    }
}

#[test]
fn who_waits_for_an_owner_that_dies_finishes_its_work() {
    for (step, epoch) in [
        ("commit.locked", 1),
        ("commit.held", 1),
        ("commit.copied", 2),
    ] {
        let bus = bus("waiting", 1 << 16);
        let mut owner = bus.joined("owner", 20_000);
        // Far longer than the test's patience: only the death can be what ends the wait.
        let mut waiter = bus.joined("waiter", 600_000);
        ask(&mut owner, &format!("arm {step} 0 stop"), "armed");
        owner.send("patch plain 1").expect("a child that lives");
        await_stop(&owner);
        waiter.send("patch plain 2").expect("a child that lives");
        assert!(
            waiter.receive(Duration::from_millis(100)).is_err(),
            "{step}"
        );
        owner.kill().expect("SIGKILL");
        waiter.expect("ok ", PATIENCE).expect("its commit");
        assert_eq!(bus.uniform("plain"), Some(2));
        let page = bus.p.open_page("plain").expect("the page");
        let version = bus.core.pages.version(&page).expect("a version");
        assert_eq!(version.epoch, epoch, "{step}");
        assert_eq!(bus.core.pages.counter(Counter::Recoveries), 1);
    }
}

#[test]
fn a_bus_that_grows_while_it_is_opened_is_not_called_truncated() {
    let bus = bus("growing", 1 << 16);
    let (said, parked) = channel();
    let (go, wait) = channel();
    std::thread::scope(|s| {
        let opener = s.spawn(|| {
            arm("open.stat", 0, Action::Park(said, wait));
            Pages::open(&bus.core.dir, BUS, false).map(drop)
        });
        parked.recv_timeout(PATIENCE).expect("it parks");
        bus.p.create_page(&named(5 << 20, "large")).expect("a page");
        go.send(()).expect("it is parked");
        opener.join().expect("no panic").expect("a whole bus");
    });
}

#[test]
fn a_truncated_segment_is_an_error_with_the_guard_and_fatal_without() {
    for guarded in [true, false] {
        let bus = bus("truncation", 1 << 16);
        // The last thing in the object, so that cutting its end leaves everything else.
        bus.p.create_page(&named(8 << 20, "large")).expect("a page");
        let mut child = bus.role();
        if guarded {
            ask(&mut child, "guard", "guarded");
        }
        ask(&mut child, "observe", "observing");
        assert_eq!(ask(&mut child, "read large", "bytes "), "0 0");
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(bus.core.pages.path())
            .expect("the object");
        let len = file.metadata().expect("its length").len();
        file.set_len(len - (6 << 20)).expect("to cut it");
        if guarded {
            let text = ask(&mut child, "read large", "err ");
            assert!(text.contains("truncated"), "{text}");
            assert_eq!(ask(&mut child, "read plain", "bytes "), "0 0");
            let text = ask(&mut child, "observe", "err ");
            assert!(text.contains("truncated"), "{text}");
            child.finish(PATIENCE).expect("a quiet end");
        } else {
            child.send("read large").expect("a child that lives");
            let status = child.wait(PATIENCE).expect("a death").expect("a death");
            assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}");
        }
    }
}

/// Flips every byte of the first 4096 of an object, one after another, under a reader that is attached.
fn flip_under_a_reader(suffix: &str) {
    let bus = bus(suffix, scenario::SMALL_RING);
    bus.fill("plain", 1).expect("a patch");
    let mut child = bus.joined("reader", 300);
    ask(&mut child, "observe", "observing");
    ask(&mut child, "everything", "looked");
    let path = SegmentDir::at(bus.tmp.path()).object(BUS, suffix);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the object");
    for at in 0..4096u64 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte");
        for flip in [0xff, 0x01] {
            file.write_all_at(&[byte[0] ^ flip], at)
                .expect("to flip it");
            child.send("everything").expect("a child that lives");
            let answer = child.receive(PATIENCE);
            assert!(
                answer.as_deref().is_ok_and(|a| a == "looked"),
                "byte {at} of {suffix} ^ {flip:#x}: {answer:?}"
            );
            file.write_all_at(&byte, at).expect("to mend it");
        }
    }
    assert!(ask(&mut child, "read plain", "bytes ").starts_with("1 "));
}

#[test]
fn no_byte_of_the_pages_header_can_crash_or_hang_a_reader() {
    flip_under_a_reader("pages");
}

#[test]
fn no_byte_of_the_control_header_can_crash_or_hang_a_reader() {
    flip_under_a_reader("ctl");
}

/// A tmpfs of its own, unmounted when it goes.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(options: &str) -> Option<Mount> {
        let dir = tempfile::tempdir().expect("a directory");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(dir.path())
            .status();
        status.is_ok_and(|s| s.success()).then_some(Mount(dir))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: mappings may still be there.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_tmpfs_is_an_error_and_no_sigbus() {
    let _watchdog = watchdog::start("full", Duration::from_secs(60));
    let Some(mount) = Mount::new("size=24m") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let dir = SegmentDir::at(mount.0.path());
    let config = scenario::config(1 << 16);
    let core = Arc::new(Core::create(&dir, BUS, &config).expect("a bus"));
    let p = scenario::join(&core, "test");
    let small = p.create_page(&named(200, "small")).expect("a page");
    let new = NewPage {
        size: 1 << 20,
        ..NewPage::default()
    };
    let mut pages = Vec::new();
    let error = loop {
        match p.create_page(&new) {
            Ok(id) => pages.push(id),
            Err(e) => break e,
        }
        assert!(pages.len() < 24, "more than there is");
    };
    assert!(pages.len() >= 5, "{error}");
    let PageError::Full(BusFull::Tmpfs { total, .. }) = &error else {
        panic!("{error}");
    };
    assert_eq!(*total, 24 << 20);
    assert!(error.to_string().contains("remount,size="), "{error}");
    // What is there works, every byte of it.
    for id in &pages {
        let page = core.pages.resolve(*id).expect("the page");
        let mut loan_or_patch = vec![3; 4000];
        p.patch(&page, (1 << 20) - 4000, &loan_or_patch)
            .expect("a patch");
        p.read(&page, (1 << 20) - 4000, &mut loan_or_patch)
            .expect("to read");
    }
    let page = core.pages.resolve(small).expect("the page");
    p.patch(&page, 0, &[1; 200]).expect("a patch");
    // A page that goes makes room for one that comes.
    p.destroy_page(pages[0]).expect("to destroy");
    p.create_page(&new).expect("its room");
    assert!(p.create_page(&new).is_err());
    // No second bus, and nothing left of the attempt.
    let large = BusConfig {
        ring_bytes: 64 << 20,
        ..config
    };
    match Core::create(&dir, "second", &large) {
        Err(AttachError::Full(BusFull::Tmpfs { .. })) => {}
        other => panic!("{:?}", other.map(|c| c.name)),
    }
    let left = std::fs::read_dir(mount.0.path()).expect("a directory");
    assert_eq!(left.count(), 2);
    assert!(Pages::open(&dir, BUS, false).is_ok());
}
