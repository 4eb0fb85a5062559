//! A log in trouble: writers that die in their commits while it is written, a full disk, a directory that is gone,
//! io_uring refused, a supervisor that is only stopped, one that dies with several writes in flight, page numbers that
//! are used again while a checkpoint is written.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use mmsb::PageSpec;
use mmsb::tlog::Backend;
use mmsb_shm::testing::{Action, arm_process};
use mmsb_tests::durable::books::Books;
use mmsb_tests::durable::site::{PATIENCE, Site, Supervisor, follow_writer};
use mmsb_tests::durable::{builder, pattern, supervisor_config};
use mmsb_tests::spawn::Child;
use mmsb_tests::watchdog;

fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_durable"))
}

fn disk() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn active(site: &Site, backend: &str) -> Supervisor {
    let mut supervisor = site
        .supervisor(backend, "quiet", None)
        .expect("a supervisor");
    assert!(
        supervisor.await_role("Active", PATIENCE),
        "{}",
        supervisor.last
    );
    supervisor
}

/// What there is, and the same after a reboot.
fn look_and_reboot(site: &Site, mut supervisor: Supervisor, books: &mut Books) {
    let before = site.check().expect("a bus in order");
    books.nothing_lost(&before.pages).expect("all of it");
    supervisor.child.kill().expect("a death");
    site.reboot().expect("a reboot");
    let _supervisor = active(site, "auto");
    let after = site.check().expect("a rebuilt bus");
    assert_eq!(after.hash, before.hash);
    let fork = after.fork_after(before.incarnation).expect("a fork");
    books
        .exactly_a_prefix(&after.pages, fork)
        .expect("a prefix");
}

/// Takes a writer's lines until `enough`.
fn listen(
    writer: &mut Child,
    books: &mut Books,
    what: &str,
    mut enough: impl FnMut(&Books) -> bool,
) {
    let begin = Instant::now();
    while !enough(books) {
        match writer.receive(Duration::from_millis(100)) {
            Ok(line) => {
                books.take(&line);
            }
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {}
            Err(e) => panic!("{what}: {e}"),
        }
        assert!(begin.elapsed() < PATIENCE, "no {what}: {books:?}");
    }
}

#[test]
fn writers_die_in_their_commits_while_the_log_is_written() {
    let _watchdog = watchdog::start("writers", Duration::from_secs(300));
    let steps = [
        "commit.locked",
        "commit.claimed",
        "commit.held",
        "commit.written",
        "commit.ready",
        "commit.odd",
        "commit.copied",
        "commit.lsn",
        "transaction.odd",
        "apply.copied",
        "loan.prepared",
        "swap.live",
        "swap.entry",
        "swap.retired",
        "create.entry",
        "destroy.entry",
    ];
    let (mut kills, mut both) = (0, 0);
    for (i, step) in steps.iter().enumerate() {
        let site = Site::new(exe(), disk()).expect("directories");
        let mut supervisor = active(&site, "auto");
        let mut books = Books::default();
        let timeout = Duration::from_secs(20);
        let mut victim = site
            .writer(1, 5, 60, "synced", timeout, Some((step, 2 + i as u64 % 3)))
            .expect("a writer");
        let mut other = site
            .writer(2, 6, 40, "synced", timeout, None)
            .expect("a writer");
        let died = !follow_writer(&mut victim, &mut books).expect("a death, or an end");
        if died && i % 2 == 0 {
            // Both: nobody has seen to what the writer left.
            supervisor.child.kill().expect("a death");
            supervisor = active(&site, "auto");
            both += 1;
        }
        kills += u64::from(died);
        assert!(
            follow_writer(&mut other, &mut books).expect("a writer that lives"),
            "{step}"
        );
        look_and_reboot(&site, supervisor, &mut books);
    }
    println!("{kills} writers killed, {both} of them with the supervisor");
    assert!(kills >= 10 && both >= 4, "{kills} {both}");
}

#[test]
fn a_supervisor_dies_with_four_writes_in_flight() {
    let _watchdog = watchdog::start("in flight", Duration::from_secs(200));
    let mut kills = 0;
    for skip in [0, 1, 3, 7, 20] {
        let site = Site::new(exe(), disk()).expect("directories");
        let mut victim = site
            .supervisor("uring", "quiet", Some(("supervisor.four_in_flight", skip)))
            .expect("a supervisor");
        if !victim.await_role("Active", PATIENCE) && victim.last.contains("io_uring") {
            eprintln!("skipped: no io_uring here");
            return;
        }
        let mut standby = site.supervisor("auto", "quiet", None).expect("a standby");
        let mut books = Books::default();
        let mut writers: Vec<Child> = (0..3)
            .map(|slot| {
                site.writer(slot, slot, 1500, "volatile", Duration::from_secs(20), None)
                    .expect("a writer")
            })
            .collect();
        for writer in &mut writers {
            assert!(follow_writer(writer, &mut books).expect("an end"));
        }
        let status = victim.child.wait(Duration::ZERO).expect("a status");
        let died = status.and_then(|s| s.signal()) == Some(libc::SIGKILL);
        kills += u64::from(died);
        let supervisor = if died {
            assert!(standby.await_role("Active", PATIENCE), "{}", standby.last);
            standby
        } else {
            victim
        };
        look_and_reboot(&site, supervisor, &mut books);
    }
    println!("{kills} deaths with at least four writes in flight");
    assert!(kills >= 2, "{kills}");
}

#[test]
fn a_stopped_supervisor_is_not_replaced() {
    let _watchdog = watchdog::start("stopped", Duration::from_secs(100));
    let site = Site::new(exe(), disk()).expect("directories");
    let mut first = active(&site, "auto");
    let mut second = site.supervisor("auto", "quiet", None).expect("a standby");
    assert!(second.await_role("Standby", PATIENCE));
    let mut books = Books::default();
    let timeout = Duration::from_millis(500);
    let mut writer = site
        .writer(1, 1, 0, "synced", timeout, None)
        .expect("a writer");
    listen(&mut writer, &mut books, "commits", |b| b.synced > 5);
    first.child.stop().expect("a stop");
    let begin = Instant::now();
    listen(&mut writer, &mut books, "trouble", |b| b.not_durable > 1);
    while begin.elapsed() < Duration::from_secs(2) {
        assert!(!second.is_active(), "it took over from a living one");
        std::thread::sleep(Duration::from_millis(20));
    }
    // It says who stands still.
    assert!(books.last_why.contains("supervisor"), "{}", books.last_why);
    let synced = books.synced;
    first.child.resume().expect("to go on");
    listen(&mut writer, &mut books, "commits again", |b| {
        b.synced > synced + 5
    });
    assert!(first.is_active() && !second.is_active());
    let _ = first.child.kill();
    assert!(second.await_role("Active", PATIENCE));
    let synced = books.synced;
    listen(&mut writer, &mut books, "commits with the second", |b| {
        b.synced > synced + 5
    });
    let _ = writer.kill();
    for line in writer.last_lines() {
        books.take(&line);
    }
    look_and_reboot(&site, second, &mut books);
}

#[test]
fn writers_without_a_supervisor_are_told_so_and_go_on_later() {
    let _watchdog = watchdog::start("nobody", Duration::from_secs(100));
    let site = Site::new(exe(), disk()).expect("directories");
    let mut first = active(&site, "auto");
    let mut books = Books::default();
    let mut writer = site
        .writer(1, 1, 0, "volatile", Duration::from_millis(300), None)
        .expect("a writer");
    listen(&mut writer, &mut books, "commits", |b| b.commits > 5);
    first.child.kill().expect("a death");
    listen(&mut writer, &mut books, "backpressure", |b| {
        b.no_supervisor > 1
    });
    let commits = books.commits;
    let second = active(&site, "auto");
    listen(&mut writer, &mut books, "commits again", |b| {
        b.commits > commits + 300
    });
    let _ = writer.kill();
    for line in writer.last_lines() {
        books.take(&line);
    }
    look_and_reboot(&site, second, &mut books);
}

/// A file system of its own, of so few bytes. `None` where mounting is not allowed.
struct Small(PathBuf);

impl Small {
    fn mount(bytes: u64) -> Option<Small> {
        let dir = tempfile::tempdir_in(disk()).ok()?.keep();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(&dir)
            .status();
        if mounted.as_ref().is_ok_and(|status| status.success()) {
            return Some(Small(dir));
        }
        eprintln!("skipped: no small file system to be had: {mounted:?}");
        let _ = std::fs::remove_dir(&dir);
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_full_disk_is_said_and_the_log_goes_on_when_there_is_room() {
    let _watchdog = watchdog::start("full", Duration::from_secs(100));
    let Some(small) = Small::mount(32 << 20) else {
        return;
    };
    let filler = small.0.join("filler");
    // Most of it, so that there is room for long once it is gone: the writer goes on for as long as nobody looks.
    std::fs::write(&filler, vec![1; (32 << 20) - (3 << 19)]).expect("a file in the way");
    let site = Site::with_log(exe(), &small.0.join("log")).expect("directories");
    let mut supervisor = active(&site, "auto");
    let mut books = Books::default();
    let mut writer = site
        .writer(1, 1, 0, "synced", Duration::from_secs(5), None)
        .expect("a writer");
    listen(&mut writer, &mut books, "full disk", |b| b.not_durable > 0);
    assert!(books.last_why.contains("No space"), "{}", books.last_why);
    assert!(supervisor.await_role("Failed", PATIENCE));
    // What is durable is so: the log alone says as much.
    let status = supervisor.ask("status", "status ").expect("a status");
    let durable: u64 = status
        .split(' ')
        .nth(1)
        .and_then(|w| w.parse().ok())
        .expect("an LSN");
    let end = mmsb::tlog::survey(site.disk()).expect("a log").end.lsn;
    assert!(end >= durable, "{status}, and the log ends at {end}");
    assert!(books.acks.iter().all(|a| !a.synced || a.lsn < durable));
    let synced = books.synced;
    std::fs::remove_file(&filler).expect("room");
    listen(&mut writer, &mut books, "commits again", |b| {
        b.synced > synced + 10
    });
    let _ = writer.kill();
    assert!(supervisor.await_role("Active", PATIENCE));
    for line in writer.last_lines() {
        books.take(&line);
    }
    look_and_reboot(&site, supervisor, &mut books);
}

#[test]
fn a_log_that_failed_stays_so_until_it_is_reopened() {
    let _watchdog = watchdog::start("failed", Duration::from_secs(100));
    let site = Site::new(exe(), disk()).expect("directories");
    let mut supervisor = active(&site, "auto");
    let mut books = Books::default();
    let mut writer = site
        .writer(1, 1, 0, "synced", Duration::from_secs(5), None)
        .expect("a writer");
    listen(&mut writer, &mut books, "commits", |b| b.synced > 5);
    // No next file can be made where the directory is not.
    let aside = site.disk().with_extension("aside");
    std::fs::rename(site.disk(), &aside).expect("to move the directory");
    listen(&mut writer, &mut books, "a failure", |b| b.not_durable > 0);
    assert!(supervisor.await_role("Failed", PATIENCE));
    if site.disk().exists() {
        std::fs::remove_dir_all(site.disk()).expect("to remove what was made in its place");
    }
    std::fs::rename(&aside, site.disk()).expect("to move it back");
    let synced = books.synced;
    std::thread::sleep(Duration::from_millis(600));
    supervisor.listen();
    assert_eq!(supervisor.role, "Failed", "not by itself");
    supervisor.ask("reopen", "reopening").expect("an answer");
    listen(&mut writer, &mut books, "commits again", |b| {
        b.synced > synced + 10
    });
    assert!(supervisor.await_role("Active", PATIENCE));
    let _ = writer.kill();
    for line in writer.last_lines() {
        books.take(&line);
    }
    look_and_reboot(&site, supervisor, &mut books);
}

#[test]
fn where_io_uring_is_refused_the_log_works_all_the_same() {
    let _watchdog = watchdog::start("refused", Duration::from_secs(100));
    let site = Site::new(exe(), disk()).expect("directories");
    let mut supervisor = active(&site, "refused");
    let mut books = Books::default();
    let mut writer = site
        .writer(1, 1, 60, "synced", PATIENCE, None)
        .expect("a writer");
    assert!(follow_writer(&mut writer, &mut books).expect("an end"));
    let status = supervisor.ask("status", "status ").expect("a status");
    assert!(status.contains("pwritev2"), "{status}");
    assert!(books.synced > 30 && books.not_durable == 0, "{books:?}");
    look_and_reboot(&site, supervisor, &mut books);
}

#[test]
fn a_page_number_is_used_again_while_a_checkpoint_is_written() {
    let _watchdog = watchdog::start("checkpoint", Duration::from_secs(100));
    let shm = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let log = tempfile::tempdir_in(disk()).expect("a directory");
    let open = || {
        builder(shm.path(), Duration::from_secs(20))
            .pages_max(64)
            .supervise(supervisor_config(log.path(), Backend::Auto, false))
            .open_or_create()
            .expect("a bus")
    };
    let bus = open();
    let first = bus.create_page(PageSpec::new(64)).expect("a page");
    let id = first.id();
    let park = |step: &str| {
        let (said, arrived) = channel();
        let (go_on, wait) = channel();
        arm_process(step, 0, Action::Park(said, wait));
        (arrived, go_on)
    };
    let (begun, after_begun) = park("checkpoint.begun");
    let info = std::thread::scope(|scope| {
        let supervisor = bus.supervisor().expect("a supervisor");
        let checkpoint = scope.spawn(|| supervisor.checkpoint());
        begun.recv().expect("a checkpoint that begins");
        // In the log behind the checkpoint's beginning; no image of it will be there.
        first.patch(0, b"last words").expect("a commit");
        bus.destroy(id).expect("to destroy it");
        let (imaged, after_imaged) = park("checkpoint.imaged");
        after_begun.send(()).expect("to go on");
        imaged.recv().expect("a checkpoint with images");
        // Until its number is in use again, by a page that was not listed.
        let mut made = 0;
        while bus
            .create_page(PageSpec::new(64))
            .expect("a page")
            .id()
            .index
            != id.index
        {
            made += 1;
            assert!(made < 64, "the number does not come again");
        }
        after_imaged.send(()).expect("to go on");
        checkpoint.join().expect("no panic")
    })
    .expect("a checkpoint");
    bus.wait_durable(bus.end_lsn() - 1, PATIENCE)
        .expect("a log");
    let pages = bus.all_pages().expect("pages").len();
    drop(bus);
    std::fs::read_dir(shm.path())
        .expect("segments")
        .for_each(|e| std::fs::remove_file(e.expect("an entry").path()).expect("a reboot"));
    let bus = open();
    assert_eq!(bus.all_pages().expect("pages").len(), pages);
    assert!(info.pages < pages as u64, "it had no image of it");
}

#[test]
fn a_bus_older_than_its_log_gets_its_checkpoint_from_whoever_lives() {
    let _watchdog = watchdog::start("older", Duration::from_secs(100));
    for step in ["log.attached", "supervisor.file", "checkpoint.rename"] {
        let site = Site::new(exe(), disk()).expect("directories");
        {
            let bus = builder(site.shm(), PATIENCE).create().expect("a bus");
            let page = bus
                .create_page(PageSpec::new(200).name("own/1"))
                .expect("a page");
            // More than the ring holds.
            for n in 1..600 {
                page.write(&pattern(n, 200)).expect("a commit");
            }
        }
        let mut victim = site
            .supervisor("auto", "quiet", Some((step, 0)))
            .expect("a supervisor");
        let died = victim.child.wait(PATIENCE).expect("a status");
        assert_eq!(died.and_then(|s| s.signal()), Some(libc::SIGKILL), "{step}");
        let supervisor = active(&site, "auto");
        let mut books = Books::default();
        let mut writer = site
            .writer(1, 1, 20, "synced", PATIENCE, None)
            .expect("a writer");
        assert!(follow_writer(&mut writer, &mut books).expect("an end"));
        let begin = Instant::now();
        while !std::fs::read_dir(site.disk()).expect("a log").any(|e| {
            e.expect("an entry")
                .path()
                .extension()
                .is_some_and(|e| e == "ckpt")
        }) {
            assert!(begin.elapsed() < PATIENCE, "no checkpoint after {step}");
            std::thread::sleep(Duration::from_millis(5));
        }
        look_and_reboot(&site, supervisor, &mut books);
    }
}
