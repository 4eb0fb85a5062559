//! Forks, deaths and full filesystems: what is refused is typed, what was committed stays, and all goes on.

mod common;

use std::time::Duration;

use common::TestBus;
use mmsb::{Bus, BusFull, Error, PageError, PageSpec, WaitStrategy};

/// Forks, runs `child` there, and checks that it returned true.
fn in_fork(child: impl FnOnce() -> bool) {
    // SAFETY: the child runs code of this crate, which takes no lock that another thread of this process could have
    // held at the fork but for those of the allocator, and glibc makes that one usable in children.
    match unsafe { libc::fork() } {
        0 => {
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: ends the child without running the test harness's exit handlers.
            unsafe { libc::_exit(i32::from(!matches!(ok, Ok(true)))) }
        }
        pid => {
            assert!(pid > 0, "fork: {}", std::io::Error::last_os_error());
            let mut status = 0;
            // SAFETY: waits for the child just made, with a valid place for the status.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert_eq!(status, 0, "the child found something that works");
        }
    }
}

#[test]
fn after_a_fork_the_childs_handles_are_refused_and_it_can_attach_for_itself() {
    let t = TestBus::new();
    let mut page = t.create_page(PageSpec::new(8).name("p")).unwrap();
    page.loan().unwrap().publish().unwrap();
    let mut sub = t.subscribe().gating(true).build().unwrap();
    sub.pollable().unwrap();
    in_fork(|| {
        let forked = [
            page.to_vec().map(drop),
            page.patch(0, b"x").map(drop),
            page.set(&1u64).map(drop),
            page.update(|b| b[0] = 1).map(drop),
            page.patch_many(&[(0, b"x")]).map(drop),
            page.read_if_newer(Default::default(), &mut [0; 8])
                .map(drop),
            page.loan().map(drop),
            page.view().map(drop),
            page.lease().map(drop),
            t.batch().patch(&page, 0, b"x").commit().map(drop),
            t.transaction(|tx| tx.patch(&page, 0, b"x")).map(drop),
            t.create_page(PageSpec::new(8)).map(drop),
            t.destroy(page.id()),
            t.rename(page.id(), "q"),
            t.page("p").map(drop),
            t.pages("").map(drop),
            t.snapshot(&[page.id()]).map(drop),
            t.subscribe().build().map(drop),
            t.another("child").map(drop),
            t.recover().map(drop),
            sub.try_next().map(drop),
            sub.next_timeout(Duration::ZERO).map(drop),
            sub.for_each_available(|_| ()).map(drop),
            sub.pollable().map(drop),
        ];
        let refused = forked
            .iter()
            .all(|r| r.as_ref().is_err_and(Error::is_forked));
        // The child's own attachment, with a subscription and a helper thread of its own.
        let own = t.builder().source("child").attach().unwrap();
        let mine = own.page("p").unwrap();
        let mut news = own
            .subscribe()
            .strategy(WaitStrategy::Park)
            .build()
            .unwrap();
        news.pollable().unwrap();
        mine.patch(0, b"child").unwrap();
        let told = news
            .next_timeout(Duration::from_secs(10))
            .unwrap()
            .is_some();
        drop(news);
        own.detach();
        refused && told
    });
    // Nothing of the parent's was given up by the child's exit or drops.
    assert_eq!(t.stats().unwrap().participants.len(), 1);
    assert_eq!(t.stats().unwrap().cursors.len(), 1);
    assert_eq!(&page.to_vec().unwrap()[..5], b"child");
    page.patch(0, b"parent").unwrap();
    let mut events = 0;
    while sub.try_next().unwrap().is_some() {
        events += 1;
    }
    assert!(events == 2);
    page = t.page("p").unwrap();
    assert_eq!(&page.to_vec().unwrap()[..6], b"parent");
}

#[test]
fn a_killed_participant_is_recovered_by_whoever_meets_it() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8).name("p")).unwrap();
    // SAFETY: as in `in_fork`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let bus = t.builder().source("victim").attach().unwrap();
        let page = bus.page("p").unwrap();
        // It dies with a gating cursor, a lease and a loan in its hands.
        let _sub = bus.subscribe().gating(true).build().unwrap();
        let _lease = page.lease().unwrap();
        let _loan = page.loan().unwrap();
        page.patch(0, b"last").unwrap();
        // SAFETY: kills the calling process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
    let mut status = 0;
    // SAFETY: waits for the child made above, with a valid place for the status.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFSIGNALED(status), "status {status}");
    assert_eq!(
        &page.to_vec().unwrap()[..4],
        b"last",
        "what was committed stays"
    );
    // Far more than the ring holds: the dead cursor is dropped by the first writer it stops.
    for i in 0..5000u64 {
        page.set(&i).unwrap();
    }
    t.recover().unwrap();
    let stats = t.stats().unwrap();
    assert_eq!(stats.counter("recoveries"), 1);
    assert_eq!((stats.participants.len(), stats.cursors.len()), (1, 0));
    assert_eq!(stats.classes.iter().map(|c| c.pending).sum::<u64>(), 0);
    assert_eq!(t.recover().unwrap(), 0);
}

/// A small tmpfs for one test. `None`, with a message, where this process may not mount.
struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    fn mount(bytes: u64) -> Option<Tmpfs> {
        let dir = tempfile::tempdir().unwrap();
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no permission to mount a tmpfs");
            return None;
        }
        Some(Tmpfs { dir })
    }

    fn free(&self) -> u64 {
        let s = rustix::fs::statvfs(self.dir.path()).unwrap();
        s.f_bavail * s.f_frsize
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.dir.path())
            .status();
    }
}

#[test]
fn a_full_tmpfs_is_told_at_creation_and_leaves_nothing() {
    let Some(tmpfs) = Tmpfs::mount(1 << 20) else {
        return;
    };
    let before = tmpfs.free();
    let error = Bus::builder("u")
        .dir(tmpfs.dir.path())
        .ring_bytes(8 << 20)
        .create()
        .unwrap_err();
    assert!(
        matches!(error.full(), Some(BusFull::Tmpfs { total, .. }) if *total == 1 << 20),
        "{error}"
    );
    assert!(error.to_string().contains("remount"), "{error}");
    assert_eq!(Bus::list_in(tmpfs.dir.path()).unwrap(), [""; 0]);
    assert_eq!(tmpfs.free(), before);
}

#[test]
fn a_full_tmpfs_is_told_at_page_creation_and_growth_and_all_goes_on() {
    let Some(tmpfs) = Tmpfs::mount(24 << 20) else {
        return;
    };
    let bus = Bus::builder("u")
        .dir(tmpfs.dir.path())
        .pages_max(1024)
        .names_max(64)
        .ring_bytes(1 << 16)
        .create()
        .unwrap();
    let first = bus.create_page(PageSpec::new(1000).name("first")).unwrap();
    // Somebody else fills the filesystem.
    let filler = tmpfs.dir.path().join("filler");
    let fill = || {
        let mut file = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[1; 65536]).is_ok() {}
    };
    let growth = |what: &str, error: Error| {
        assert!(
            matches!(error.full(), Some(BusFull::Tmpfs { .. })),
            "{what}: {error}"
        );
    };
    fill();
    // Another size class needs a slab of its own.
    growth(
        "create_page",
        bus.create_page(PageSpec::new(100_000)).unwrap_err(),
    );
    // The page's class runs out.
    let mut made = 0;
    let error = loop {
        match bus.create_page(PageSpec::new(1000)) {
            Ok(_) => made += 1,
            Err(e) => break e,
        }
    };
    if !matches!(error.full(), Some(BusFull::Pages { .. })) {
        growth("growth", error);
    }
    assert!(made > 0, "the slab at hand still serves");
    // All that needs no memory still works, from every participant.
    for i in 0..2000u32 {
        first.patch(0, &i.to_le_bytes()).unwrap();
    }
    let other = bus.another("other").unwrap();
    assert_eq!(
        other.page("first").unwrap().to_vec().unwrap()[..4],
        1999u32.to_le_bytes()
    );
    std::fs::remove_file(&filler).unwrap();
    // And with memory again, so does the rest.
    if bus.stats().unwrap().pages == 1024 {
        bus.destroy(first.id()).unwrap();
    }
    let large = bus.create_page(PageSpec::new(100_000)).unwrap();
    let mut loan = large.loan().unwrap();
    loan.fill(3);
    loan.publish().unwrap();
    fill();
    // Loans of a class that is used up fail as well, and leave the page as it is.
    let mut loans = Vec::new();
    let error = loop {
        match large.loan() {
            Ok(loan) => loans.push(loan),
            Err(e) => break e,
        }
    };
    assert!(
        matches!(error, Error::Page(PageError::TooManyHeld { .. })) || error.full().is_some(),
        "{error}"
    );
    drop(loans);
    assert_eq!(large.to_vec().unwrap(), vec![3; 100_000]);
    assert_eq!(large.version().unwrap().epoch, 1);
}
