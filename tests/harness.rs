//! The harness against children that are easy to judge (`src/bin/steps.rs`): a kill that misses, a signal that gets lost
//! or a watchdog that sleeps would make every crash test pass.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mmsb_tests::ptrace::{self, Step, StepOutcome, Stepper};
use mmsb_tests::seed::{Rng, seed};
use mmsb_tests::spawn::Child;
use mmsb_tests::watchdog;

const SOON: Duration = Duration::from_secs(20);

fn steps(role: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steps"));
    command.arg(role);
    command
}

fn steps_on(role: &str, file: &Path) -> Command {
    let mut command = steps(role);
    command.arg(file);
    command
}

/// The three words that the child `count` adds to.
fn words(file: &Path) -> [u64; 3] {
    let bytes = std::fs::read(file).unwrap();
    std::array::from_fn(|n| u64::from_ne_bytes(bytes[n * 8..n * 8 + 8].try_into().unwrap()))
}

/// One of the sweeping functions, given `make` and `after_kill`.
type Driver = fn(
    &mut dyn FnMut(u64) -> Command,
    &mut dyn FnMut(u64) -> Result<(), String>,
) -> Result<ptrace::Sweep, String>;

/// Sweeps the child `count` and checks what each kill left.
fn sweep_count(driver: Driver) -> ptrace::Sweep {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words");
    let clear = || std::fs::write(&file, [0u8; 24]).unwrap();
    let mut seen = Vec::new();
    let sweep = driver(
        &mut |_| {
            clear();
            steps_on("count", &file)
        },
        &mut |step| {
            seen.push((step, words(&file)));
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(sweep.kills, sweep.steps);
    assert_eq!(seen.len() as u64, sweep.kills);
    assert!(
        seen.iter()
            .enumerate()
            .all(|(n, &(step, _))| n as u64 == step)
    );
    // One instruction after another: the words change in order, and no state between is missed.
    assert!(
        seen.windows(2).all(|pair| pair[0].1 <= pair[1].1),
        "{seen:?}"
    );
    let states: BTreeSet<[u64; 3]> = seen.iter().map(|&(_, words)| words).collect();
    assert_eq!(
        states,
        BTreeSet::from([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]),
        "each of them, and nothing else"
    );
    assert!(sweep.places.len() > 6, "{} places", sweep.places.len());
    // The child that got through was not killed.
    assert_eq!(words(&file), [1, 1, 1]);
    sweep
}

#[test]
fn a_sweep_kills_at_every_instruction_and_leaves_every_state() {
    let _watchdog = watchdog::start("ptrace sweep", Duration::from_secs(120));
    sweep_count(|make, after_kill| ptrace::at_every_instruction(make, 1, after_kill));
}

#[test]
fn a_recorded_sweep_kills_where_a_stepped_one_does() {
    let _watchdog = watchdog::start("ptrace recorded sweep", Duration::from_secs(120));
    let stepped = sweep_count(|make, after_kill| ptrace::at_every_instruction(make, 1, after_kill));
    let recorded =
        sweep_count(|make, after_kill| ptrace::at_every_recorded_instruction(make, 1, after_kill));
    assert_eq!(recorded.kills, stepped.kills);
    // Otherwise no two runs have an address in common.
    if addresses_are_fixed() {
        assert_eq!(recorded.places, stepped.places);
    }
}

/// Does the kernel let the harness switch off randomisation?
fn addresses_are_fixed() -> bool {
    let ip = || {
        let stepper = Stepper::start(&mut steps("spin")).unwrap();
        stepper.ip().unwrap()
    };
    ip() == ip()
}

#[test]
fn a_long_loop_is_cut_at_the_iteration_asked_for() {
    let _watchdog = watchdog::start("ptrace loop", Duration::from_secs(120));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words");
    let clear = || std::fs::write(&file, vec![0u8; 256]).unwrap();
    let make = || {
        clear();
        steps_on("fill", &file)
    };
    let trace = ptrace::Trace::record(&mut make()).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), [1u8; 256]);
    // Bytes filled by a child killed there: the same whether it was stepped all the way or run up to the loop.
    let filled = || {
        std::fs::read(&file)
            .unwrap()
            .iter()
            .filter(|&&byte| byte == 1)
            .count()
    };
    let mut counts = BTreeSet::new();
    for step in (0..trace.steps()).step_by(trace.steps() as usize / 12) {
        ptrace::kill_at(&mut make(), step).unwrap();
        let stepped = filled();
        assert!(matches!(
            trace.kill_at(make, step).unwrap(),
            StepOutcome::Killed { .. }
        ));
        assert_eq!(filled(), stepped, "step {step}");
        counts.insert(stepped);
    }
    assert!(counts.len() > 6, "{counts:?}");
    assert_eq!(
        trace.kill_at(make, trace.steps() + 1).unwrap(),
        StepOutcome::Finished
    );
}

#[test]
fn counting_agrees_with_killing() {
    let _watchdog = watchdog::start("ptrace count", Duration::from_secs(60));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words");
    std::fs::write(&file, [0u8; 24]).unwrap();
    let length = ptrace::count_steps(&mut steps_on("count", &file), 100_000).unwrap();
    assert!(length > 6);
    let last = ptrace::kill_at(&mut steps_on("count", &file), length).unwrap();
    assert!(
        matches!(last, StepOutcome::Killed { at_ip } if at_ip > 0),
        "{last:?}"
    );
    assert_eq!(
        ptrace::kill_at(&mut steps_on("count", &file), length + 1).unwrap(),
        StepOutcome::Finished
    );
    // The same command is usable again, and its addresses are those of the first run.
    let mut command = steps_on("count", &file);
    let first = ptrace::kill_at(&mut command, length / 2).unwrap();
    let second = ptrace::kill_at(&mut command, length / 2).unwrap();
    assert!(
        second == first || !addresses_are_fixed(),
        "{first:?} {second:?}"
    );
}

#[test]
fn a_complaint_names_the_step_and_ends_the_sweep() {
    let _watchdog = watchdog::start("ptrace complaint", Duration::from_secs(60));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words");
    std::fs::write(&file, [0u8; 24]).unwrap();
    let complaint = ptrace::at_every_instruction(
        |_| steps_on("count", &file),
        3,
        |step| {
            if step < 6 {
                Ok(())
            } else {
                Err("half a delta".into())
            }
        },
    )
    .unwrap_err();
    assert!(
        complaint.contains("step 6") && complaint.contains("half a delta"),
        "{complaint}"
    );
}

#[test]
fn a_held_child_keeps_its_lock_and_a_killed_one_loses_it() {
    let _watchdog = watchdog::start("ptrace lock", Duration::from_secs(60));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locked");
    let file = File::create_new(&path).unwrap();
    let is_free = || {
        let mut lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 1,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
        libc::c_int::from(lock.l_type) == libc::F_UNLCK
    };
    for step in [0, 5, 20] {
        let mut stepper = Stepper::start(&mut steps_on("lock", &path)).unwrap();
        assert_eq!(stepper.step_by(step).unwrap(), Step::Stepped);
        assert_eq!(stepper.steps(), step);
        assert!(stepper.ip().unwrap() > 0);
        assert!(!is_free(), "held at step {step}");
        stepper.kill().unwrap();
        assert!(is_free(), "killed at step {step}");
    }
    // Released instead, it does its work; dropped, it is killed.
    let mut stepper = Stepper::start(&mut steps_on("lock", &path)).unwrap();
    stepper.step_by(5).unwrap();
    assert!(stepper.finish().unwrap().success());
    assert_eq!(std::fs::read(&path).unwrap(), b"x");
    drop(Stepper::start(&mut steps_on("lock", &path)).unwrap());
    assert!(is_free());
}

#[test]
fn signals_in_the_region_are_delivered_and_stops_are_not() {
    let _watchdog = watchdog::start("ptrace signals", Duration::from_secs(60));
    // Exit status 0 only when both handlers ran.
    let length = ptrace::count_steps(&mut steps("signals"), 1_000_000).unwrap();
    assert!(length > 20);
    assert!(
        Stepper::start(&mut steps("signals"))
            .unwrap()
            .finish()
            .unwrap()
            .success()
    );
}

#[test]
fn a_child_that_ends_by_itself_is_an_error_not_a_kill() {
    let _watchdog = watchdog::start("ptrace early end", Duration::from_secs(60));
    for (role, place) in [
        ("early", "before its region"),
        ("inside", "into its region"),
    ] {
        let error = ptrace::kill_at(&mut steps(role), 1_000_000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains(place), "{error}");
    }
    let error = ptrace::kill_at(&mut steps("after"), 1_000_000).unwrap_err();
    assert!(error.to_string().contains("exit status: 9"), "{error}");
    assert!(ptrace::at_every_instruction(|_| steps("early"), 1, |_| Ok(())).is_err());
}

#[test]
fn an_endless_region_is_found_by_its_length() {
    let _watchdog = watchdog::start("ptrace endless", Duration::from_secs(60));
    let error = ptrace::count_steps(&mut steps("spin"), 2000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(matches!(
        ptrace::kill_at(&mut steps("spin"), 2000).unwrap(),
        StepOutcome::Killed { .. }
    ));
}

#[test]
fn the_markers_do_nothing_without_the_harness() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words");
    std::fs::write(&file, [0u8; 24]).unwrap();
    assert!(steps_on("count", &file).status().unwrap().success());
    assert_eq!(words(&file), [1, 1, 1]);
}

#[test]
fn a_worker_answers_stops_resumes_and_finishes() {
    let _watchdog = watchdog::start("spawn echo", Duration::from_secs(60));
    let mut worker = Child::spawn(&mut steps("echo")).unwrap();
    assert_eq!(worker.receive(SOON).unwrap(), "ready");
    worker.send("one").unwrap();
    worker.send("two").unwrap();
    assert_eq!(
        worker.expect("echo t", SOON).unwrap(),
        "wo",
        "the line before is skipped"
    );
    worker.stop().unwrap();
    worker.send("three").unwrap();
    assert_eq!(
        worker
            .receive(Duration::from_millis(100))
            .unwrap_err()
            .kind(),
        ErrorKind::TimedOut
    );
    assert!(worker.try_receive().unwrap().is_none());
    worker.resume().unwrap();
    assert_eq!(worker.receive(SOON).unwrap(), "echo three");
    assert!(worker.wait(Duration::from_millis(10)).unwrap().is_none());
    worker.finish(SOON).unwrap();
}

#[test]
fn what_a_killed_worker_said_is_not_lost_and_half_a_line_is_not_believed() {
    let _watchdog = watchdog::start("spawn kill", Duration::from_secs(60));
    let mut rng = Rng::new(seed("spawn kill"));
    for _ in 0..5 {
        let mut worker = Child::spawn(&mut steps("flood")).unwrap();
        assert_eq!(worker.receive(SOON).unwrap(), "0");
        std::thread::sleep(Duration::from_micros(rng.below(20_000)));
        let status = worker.kill().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        // From 1 on without a gap.
        for (line, n) in worker.last_lines().iter().zip(1u64..) {
            assert_eq!(*line, n.to_string());
        }
        assert_eq!(
            worker.receive(SOON).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
        assert_eq!(
            worker
                .signal(nix::sys::signal::SIGTERM)
                .unwrap_err()
                .raw_os_error(),
            Some(libc::ESRCH)
        );
        assert!(worker.stop().is_err());
    }
    let mut worker = Child::spawn(&mut steps("torn")).unwrap();
    assert_eq!(worker.receive(SOON).unwrap(), "whole");
    std::thread::sleep(Duration::from_millis(50));
    worker.kill().unwrap();
    assert_eq!(worker.last_lines(), Vec::<String>::new());
}

#[test]
fn a_dropped_worker_is_dead_and_an_orphan_ends_by_itself() {
    let _watchdog = watchdog::start("spawn drop", Duration::from_secs(60));
    let mut worker = Child::spawn(&mut steps("echo")).unwrap();
    worker.receive(SOON).unwrap();
    let id = nix::unistd::Pid::from_raw(worker.id().cast_signed());
    drop(worker);
    assert_eq!(
        nix::sys::signal::kill(id, None),
        Err(nix::errno::Errno::ESRCH)
    );

    let mut orphan = Child::spawn(&mut steps("orphan")).unwrap();
    orphan.receive(SOON).unwrap();
    assert!(orphan.wait(Duration::from_millis(50)).unwrap().is_none());
    orphan.close_input();
    assert_eq!(orphan.wait(SOON).unwrap().unwrap().code(), Some(3));
}

#[test]
fn a_worker_that_fails_does_not_finish() {
    let worker = Child::spawn(&mut steps("early")).unwrap();
    let error = worker.finish(SOON).unwrap_err();
    assert!(error.to_string().contains("exit status: 7"), "{error}");
}

#[test]
fn the_watchdog_aborts_a_hanging_process_and_says_where_it_hangs() {
    let mut child = steps("hang").stderr(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    assert!(text.contains("a test of the watchdog"), "{text}");
    assert!(
        text.contains("\"steps\""),
        "the thread that hangs is listed: {text}"
    );
}

#[test]
fn a_seed_from_the_environment_is_taken_and_printed() {
    let run = |value: Option<&str>| {
        let mut command = steps("seed");
        command.env_remove("MMSB_SEED");
        if let Some(value) = value {
            command.env("MMSB_SEED", value);
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    assert_eq!(
        run(Some("0xBEE")),
        (true, "0xbee".into(), "child: MMSB_SEED=0xbee".into())
    );
    let (_, first, printed) = run(None);
    assert_eq!(printed, format!("child: MMSB_SEED={first}"));
    assert_ne!(run(None).1, first);
    assert!(!run(Some("often")).0, "a typing error is not a random seed");
}
