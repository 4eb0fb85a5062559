//! Containers and users: processes that share a bus and little else.
//!
//! A container here is what `docker run` makes, as far as a bus can tell: mount, PID and IPC namespaces of its own, a
//! `/dev/shm` of its own, and a volume that is mounted where each container likes. Made with `unshare`, as root or, where
//! the kernel lets anybody, in a user namespace; elsewhere these tests say that they are skipped.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mmsb::{Bus, PageSpec};
use mmsb_tests::foreign::{self, Said, say};
use mmsb_tests::live::{self, PATCHED};
use mmsb_tests::scenario;
use mmsb_tests::seed::{Rng, seed};
use mmsb_tests::spawn::Child;
use mmsb_tests::watchdog::{self, Watchdog};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(60);
/// What Docker gives a container that was not told otherwise.
const DOCKER_SHM: u64 = 64 << 20;
/// Some user and some group that are not root's.
const NOBODY: u32 = 65534;
const GROUP: u32 = 54321;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A volume that containers share: a directory on a tmpfs.
struct Volume {
    dir: tempfile::TempDir,
    /// Where containers see it: one folder each.
    mounts: tempfile::TempDir,
    _watchdog: Watchdog,
}

impl Volume {
    /// `None`, having said so, where there can be no containers.
    fn new(test: &str) -> Option<Volume> {
        let volume = Volume {
            dir: tempfile::tempdir_in("/dev/shm").expect("a directory"),
            mounts: tempfile::tempdir().expect("a directory"),
            _watchdog: watchdog::start(test, Duration::from_secs(180)),
        };
        let said = foreign::run(&mut volume.container("probe", DOCKER_SHM, &["true"]), LIMIT);
        if said.code() != Some(0) {
            say(&format!(
                "skipped: no containers here: {}",
                said.err.trim().replace('\n', "; ")
            ));
            return None;
        }
        Some(volume)
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where container `name` mounts the volume.
    fn seen_by(&self, name: &str) -> PathBuf {
        let path = self.mounts.path().join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    }

    /// A command that runs `program` in a container of its own. Its process 1 is a shell, which waits for it: a process 1
    /// cannot even kill itself.
    fn container(&self, name: &str, shm_bytes: u64, program: &[&str]) -> Command {
        let script = "mount --bind \"$1\" \"$2\"
            mount -t tmpfs -o \"size=$3,mode=1777,nosuid,nodev,noexec\" shm /dev/shm
            export MMSB_DIR=\"$2\"
            shift 3
            \"$@\"";
        let mut command = Command::new("unshare");
        if !is_root() {
            command.arg("--map-root-user");
        }
        command
            .args(["--mount", "--pid", "--ipc", "--fork", "--mount-proc"])
            .args(["--kill-child", "sh", "-ec", script, "container"])
            .arg(self.path())
            .arg(self.seen_by(name))
            .arg(shm_bytes.to_string())
            .args(program)
            .env_remove("MMSB_DIR");
        command
    }

    /// Runs a program in a container to its end.
    #[track_caller]
    fn run(&self, name: &str, program: &[&str]) -> Said {
        foreign::run(&mut self.container(name, DOCKER_SHM, program), LIMIT)
    }
}

fn mmsb() -> String {
    foreign::program("mmsb", "mmsb-agent").display().to_string()
}

fn ask(child: &mut Child, order: &str, answer: &str) -> String {
    child.send(order).expect("a child that lives");
    child
        .expect(answer, PATIENCE)
        .unwrap_or_else(|e| panic!("{order}: {e}"))
}

/// The first finding of a check in what `mmsb doctor --json` said.
#[track_caller]
fn finding(said: &Said, check: &str) -> Value {
    let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said}"));
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["check"] == check);
    found
        .unwrap_or_else(|| panic!("no {check}: {report}"))
        .clone()
}

#[track_caller]
fn says(finding: &Value, severity: &str, words: &[&str]) {
    assert_eq!(finding["severity"], severity, "{finding}");
    let text = format!("{} / {}", finding["message"], finding["advice"]);
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[test]
fn who_dies_in_one_container_is_recovered_from_another() {
    let Some(volume) = Volume::new("containers") else {
        return;
    };
    let bus = Bus::builder(scenario::BUS)
        .dir(volume.path())
        .create()
        .expect("a bus");
    let page = bus
        .create_page(PageSpec::new(300).name("plain"))
        .expect("a page");
    let role = |name: &str| {
        let seen = volume.seen_by(name).display().to_string();
        let program = [env!("CARGO_BIN_EXE_role"), &seen];
        let mut child =
            Child::spawn(&mut volume.container(name, DOCKER_SHM, &program)).expect("a container");
        child.expect("here", PATIENCE).expect("it starts");
        child
    };
    let mut waiter = role("b");
    let of_b = ask(&mut waiter, "join b 20000", "joined ");
    for (round, step) in ["commit.held", "commit.ready", "commit.copied"]
        .iter()
        .enumerate()
    {
        let mut victim = role("a");
        let of_a = ask(&mut victim, "join a 20000", "joined ");
        let (namespace, pid) = of_a.split_once(' ').expect("two numbers");
        assert_ne!(of_b.split_once(' ').expect("two numbers").0, namespace);
        // Doctor looks from a third one: it knows the numbers to be those of other namespaces.
        let said = volume.run("c", &[&mmsb(), "doctor", "--json"]);
        assert_eq!(said.code(), Some(0), "{said}");
        let who = format!("a (pid {pid} in {namespace})");
        says(
            &finding(&said, "namespaces"),
            "ok",
            &[&who, "other PID namespaces"],
        );
        let stats = volume
            .run("c", &[&mmsb(), "stats", scenario::BUS])
            .succeeded();
        assert!(stats.out.contains(&format!("{pid} in {namespace}")));
        ask(&mut victim, &format!("arm {step} 0 kill"), "armed");
        victim.send("patch plain 5").expect("a child that lives");
        victim.wait(PATIENCE).expect("an end").expect("an end");
        // Seen as dead from everywhere, though its number may be somebody else's there.
        let said = volume.run("c", &[&mmsb(), "doctor", "--json"]);
        assert_eq!(said.code(), Some(1), "{said}");
        says(
            &finding(&said, "dead"),
            "problem",
            &[&format!("a (pid {pid} in PID namespace {namespace}")],
        );
        ask(&mut waiter, "patch plain 6", "ok ");
        assert_eq!(page.to_vec().expect("to read"), [6; 300], "{step}");
        let stats = bus.stats().expect("stats");
        assert_eq!(stats.counter("recoveries"), round as u64 + 1, "{step}");
    }
}

#[test]
fn writers_of_two_containers_take_turns_at_dying() {
    let Some(volume) = Volume::new("container soak") else {
        return;
    };
    let mut rng = Rng::new(seed("container soak"));
    // Attached all the time: whoever waits repairs.
    let bus = live::create(volume.path(), "soak", 1024);
    let page = bus.page(PATCHED).expect("the page");
    let mut newest = 1;
    let mut values = 0;
    for round in 0..20 {
        let name = if round % 2 == 0 { "a" } else { "b" };
        let seen = volume.seen_by(name).display().to_string();
        let program = [env!("CARGO_BIN_EXE_live"), &seen, "soak", PATCHED, "0"];
        let mut command = volume.container(name, DOCKER_SHM, &program);
        let mut writer = Child::spawn(&mut command).expect("a container");
        let line = writer.expect("writing ", PATIENCE).expect("it writes");
        let began: u64 = line.parse().expect("a number");
        assert!(
            began >= newest,
            "round {round}: {began} was {newest} already"
        );
        let end = Instant::now() + Duration::from_millis(10 + rng.below(20));
        while Instant::now() < end {
            let words = live::words(&page).expect("to read");
            let n = live::whole(&words).unwrap_or_else(|| panic!("torn: {words:?}"));
            assert!(n >= newest, "round {round}: from {newest} back to {n}");
            newest = n;
            values += 1;
        }
        // The whole container, wherever its writer is.
        writer.kill().expect("SIGKILL");
    }
    let recovered = bus.stats().expect("stats").counter("recoveries");
    say(&format!(
        "containers: 20 killed, {recovered} recovered so far, {values} reads, last value {newest}"
    ));
    assert!(newest > 20);
}

#[test]
fn a_docker_sized_shm_is_full_with_an_error_that_says_what_to_do() {
    let Some(volume) = Volume::new("docker shm") else {
        return;
    };
    // The default directory, not the volume; reports go there.
    let script = "reports=$MMSB_DIR; unset MMSB_DIR
        \"$1\" \"$3\"
        set +e
        \"$2\" create large --ring 128MiB 2>\"$reports/large\"; echo \"create $?\"
        \"$2\" doctor --json >\"$reports/small\"; echo \"doctor $?\"
        cat /dev/zero >/dev/shm/hog 2>/dev/null
        \"$2\" doctor --json >\"$reports/full\"; echo \"doctor $?\"";
    let (mmsb, bytes) = (mmsb(), DOCKER_SHM.to_string());
    let tenant = env!("CARGO_BIN_EXE_tenant");
    let said = volume.run("a", &["sh", "-ec", script, "sh", tenant, &mmsb, &bytes]);
    assert_eq!(said.code(), Some(0), "{said}");
    let lines: Vec<&str> = said.out.lines().collect();
    let [too_large, grew, "whole", "create 6", "doctor 0", "doctor 1"] = lines.as_slice() else {
        panic!("{said}");
    };
    let report = |name: &str| std::fs::read_to_string(volume.path().join(name)).expect("a report");
    for text in [*too_large, *grew, &report("large")] {
        for word in [
            "67108864",
            "remount,size=",
            "docker run --shm-size",
            "MMSB_DIR",
        ] {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
    }
    say(grew);
    for (name, severity, words) in [
        ("small", "warning", "a small tmpfs"),
        ("full", "problem", "only 0 B of 64.0 MiB free"),
    ] {
        let said = Said {
            status: None,
            out: report(name),
            err: String::new(),
        };
        let words = [words, "docker run --shm-size", "MMSB_DIR"];
        says(&finding(&said, "tmpfs"), severity, &words);
        says(&finding(&said, "mount"), "ok", &["noexec", "no harm"]);
    }
}

/// A volume as the owner of a bus sees it, and others.
struct Users {
    volume: Volume,
    /// The folder of our programs, where others can reach it, too.
    programs: PathBuf,
    mmsb: PathBuf,
}

impl Users {
    fn new(test: &str) -> Option<Users> {
        if !is_root() {
            say("skipped: only root can become somebody else");
            return None;
        }
        let mmsb = foreign::program("mmsb", "mmsb-agent");
        let volume = Volume::new(test)?;
        let open = |path: &Path| {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path, mode).expect("chmod");
        };
        open(volume.path());
        open(volume.mounts.path());
        let programs = volume.seen_by("programs");
        Some(Users {
            volume,
            programs,
            mmsb,
        })
    }

    /// Runs `mmsb` as that user and group, in no other. The build directory may be closed to them, so it is mounted
    /// elsewhere, in a namespace of its own.
    #[track_caller]
    fn mmsb(&self, uid: u32, gid: u32, arguments: &[&str]) -> Said {
        self.as_user(uid, gid, &self.mmsb, arguments)
    }

    #[track_caller]
    fn as_user(&self, uid: u32, gid: u32, program: &Path, arguments: &[&str]) -> Said {
        let script = "mount --bind \"$1\" \"$2\"
            program=$2/$3 uid=$4 gid=$5
            shift 5
            exec setpriv --reuid \"$uid\" --regid \"$gid\" --clear-groups \"$program\" \"$@\"";
        let folder = program.parent().expect("a folder");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-ec", script, "sh"])
            .args([folder, &self.programs])
            .arg(program.file_name().expect("a name"))
            .args([uid.to_string(), gid.to_string()])
            .args(arguments)
            .env("MMSB_DIR", self.volume.path());
        foreign::run(&mut command, LIMIT)
    }

    fn bus(&self, mode: u32, ctl_mode: u32, gid: u32) -> Bus {
        let _ = Bus::unlink_in(self.volume.path(), "b");
        let bus = Bus::builder("b").dir(self.volume.path());
        let bus = bus.mode(mode).ctl_mode(ctl_mode).create().expect("a bus");
        let page = bus.create_page(PageSpec::new(8).name("p")).expect("a page");
        page.set(&7u64).expect("to write");
        for suffix in ["pages", "ctl"] {
            let path = self.volume.path().join(format!("mmsb.b.{suffix}"));
            std::os::unix::fs::chown(path, None, Some(gid)).expect("chown");
        }
        bus
    }
}

#[test]
fn others_observe_what_the_mode_lets_them_and_write_nothing() {
    let Some(users) = Users::new("users") else {
        return;
    };
    let read = ["read", "b", "p", "--as", "u64"];
    let write = ["write", "b", "p", "--as", "u64", "8"];
    // Mode of the pages, group of the segments, and whether a stranger with group GROUP may look.
    for (mode, gid, may_read) in [
        (0o644, 0, true),
        (0o640, GROUP, true),
        (0o640, 0, false),
        (0o600, GROUP, false),
    ] {
        let bus = users.bus(mode, 0o600, gid);
        let said = users.mmsb(NOBODY, GROUP, &read);
        let doctor = users.mmsb(NOBODY, GROUP, &["doctor", "--json"]);
        assert_eq!(doctor.code(), Some(0), "{mode:o}: {doctor}");
        let me = format!("you are uid {NOBODY}, gid {GROUP}");
        if may_read {
            assert_eq!((said.code(), said.out.trim()), (Some(0), "[7]"), "{said}");
            let words = [
                "can be observed, not written",
                "mode 0600",
                &me,
                "--ctl-mode",
            ];
            says(&finding(&doctor, "access"), "ok", &words);
            users.mmsb(NOBODY, GROUP, &["info", "b"]).succeeded();
        } else {
            assert_eq!(said.code(), Some(3), "{mode:o}: {said}");
            assert!(said.err.contains("permission denied"), "{said}");
            let words = ["permission denied", &me, "--mode 644"];
            says(&finding(&doctor, "access"), "warning", &words);
        }
        let said = users.mmsb(NOBODY, GROUP, &write);
        assert_eq!(said.code(), Some(3), "{mode:o}: {said}");
        assert!(
            said.err.contains("permission denied") && said.err.contains("--mode"),
            "{said}"
        );
        let page = bus.page("p").expect("the page");
        assert_eq!(page.read::<u64>().expect("to read"), 7);
        assert_eq!(bus.stats().expect("stats").participants.len(), 1);
    }
}

#[test]
fn a_group_writes_together_when_both_modes_say_so() {
    let Some(users) = Users::new("group") else {
        return;
    };
    let write = ["write", "b", "p", "--as", "u64", "8"];
    let bus = users.bus(0o660, 0o660, GROUP);
    users.mmsb(NOBODY, GROUP, &write).succeeded();
    let page = bus.page("p").expect("the page");
    assert_eq!(page.read::<u64>().expect("to read"), 8);
    // The same user outside of the group.
    assert_eq!(users.mmsb(NOBODY, NOBODY, &write).code(), Some(3));
    // And doctor sees the bus as its members do.
    let doctor = users.mmsb(NOBODY, GROUP, &["doctor", "--json"]);
    assert_eq!(doctor.code(), Some(0), "{doctor}");
    says(&finding(&doctor, "bus"), "ok", &["1 participants"]);
}

#[test]
fn a_read_only_volume_is_for_observers() {
    let Some(volume) = Volume::new("read-only") else {
        return;
    };
    let bus = Bus::builder("b")
        .dir(volume.path())
        .create()
        .expect("a bus");
    let page = bus.create_page(PageSpec::new(8).name("p")).expect("a page");
    page.set(&7u64).expect("to write");
    let mmsb = mmsb();
    let script = "mount -o remount,bind,ro \"$MMSB_DIR\" && exec \"$@\"";
    let run = |arguments: &[&str]| {
        let program = [&["sh", "-ec", script, "sh", &mmsb], arguments].concat();
        volume.run("ro", &program)
    };
    let said = run(&["read", "b", "p", "--as", "u64"]).succeeded();
    assert_eq!(said.out.trim(), "[7]");
    for arguments in [
        &["write", "b", "p", "--as", "u64", "8"][..],
        &["create", "c"],
    ] {
        let said = run(arguments);
        assert_eq!(said.code(), Some(1), "{said}");
        assert!(said.err.contains("Read-only file system"), "{said}");
    }
    let doctor = run(&["doctor", "--json"]);
    assert_eq!(doctor.code(), Some(0), "{doctor}");
    says(
        &finding(&doctor, "mount"),
        "warning",
        &["mounted read-only", "observed"],
    );
    says(
        &finding(&doctor, "access"),
        "ok",
        &["can be observed, not written"],
    );
    // A directory that is no tmpfs at all.
    let said = volume.run("disk", &[&mmsb, "--dir", "/proc", "doctor", "--json"]);
    says(
        &finding(&said, "tmpfs"),
        "problem",
        &["no tmpfs", "/dev/shm"],
    );
    assert_eq!(page.read::<u64>().expect("to read"), 7);
}
