//! Kills a worker at every instruction of one commit, one loan, one transaction and one recovery; survivors check what
//! `crash_steps` checks.
//!
//! `MMSB_PTRACE_STRIDE=1` takes every instruction and minutes; without it each sweep takes about [`KILLS`] of them,
//! spread evenly, with a start that differs from run to run (`MMSB_SEED`).

use std::cell::RefCell;
use std::process::{Command, Stdio};
use std::time::Duration;

use mmsb_shm::sys::space::SegmentDir;
use mmsb_tests::ptrace::{Sweep, Trace, at_every_recorded_instruction};
use mmsb_tests::scenario::op;
use mmsb_tests::seed::{Rng, seed};
use mmsb_tests::spawn::Child;
use mmsb_tests::survey::{Survivor, World};
use mmsb_tests::watchdog;

/// Kills of each sweep unless a stride is given.
const KILLS: u64 = 150;

const PATIENCE: Duration = Duration::from_secs(20);

struct Stage {
    survivor: Survivor,
    tmp: tempfile::TempDir,
}

fn stage(name: &str) -> Stage {
    let tmp = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let survivor = Survivor::found(&SegmentDir::at(tmp.path()), op(name).ring_bytes);
    Stage { survivor, tmp }
}

fn worker(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.arg(stage.tmp.path()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The states ahead of the operation and behind it, from a run that nobody disturbs.
fn worlds(name: &str) -> Vec<World> {
    let mut stage = stage(name);
    let before = World::read(&stage.survivor.p).expect("a state");
    // No step has this name, so nothing happens at it.
    let status = worker(&stage, &[name, "kill", "no such step", "0"]).status();
    assert!(status.expect("a worker").success());
    stage.survivor.drain().expect("a sound log");
    vec![before, World::read(&stage.survivor.p).expect("a state")]
}

/// `MMSB_PTRACE_STRIDE`, or what gives about [`KILLS`] kills.
fn stride(command: &mut Command) -> u64 {
    if let Ok(text) = std::env::var("MMSB_PTRACE_STRIDE") {
        return text.parse().expect("MMSB_PTRACE_STRIDE is a number");
    }
    let steps = Trace::record(command).expect("a run").steps();
    // Not a round number: loops have round lengths.
    let least = (steps / KILLS).max(1);
    least + Rng::new(seed("ptrace stride")).below(1 + least / 8)
}

fn sweep(name: &str, at_least: u64) -> Sweep {
    let _watchdog = watchdog::start(name, Duration::from_secs(900));
    let worlds = worlds(name);
    assert_ne!(worlds[0], worlds[1], "{name} changes something");
    let stride = stride(&mut worker(&stage(name), &[name, "ptrace"]));
    let now = RefCell::new(None);
    let result = at_every_recorded_instruction(
        |_| {
            let fresh = stage(name);
            let command = worker(&fresh, &[name, "ptrace"]);
            now.replace(Some(fresh));
            command
        },
        stride,
        |_| {
            let mut stage = now.take().expect("a bus");
            stage.survivor.observe_unrepaired(&worlds, true)?;
            stage.survivor.use_everything()?;
            stage.survivor.compare(&worlds)
        },
    );
    let sweep = result.unwrap_or_else(|e| panic!("{name}: {e}"));
    println!(
        "{name}: {} kills at {} places in {} instructions",
        sweep.kills,
        sweep.places.len(),
        sweep.steps
    );
    assert!(sweep.steps >= at_least, "{name} is too short: {sweep:?}");
    sweep
}

#[test]
fn a_patch_killed_at_any_instruction() {
    sweep("patch", 200);
}

#[test]
fn a_loan_killed_at_any_instruction() {
    sweep("loan", 500);
}

#[test]
fn a_transaction_killed_at_any_instruction() {
    sweep("transaction", 500);
}

#[test]
fn a_recovery_killed_at_any_instruction() {
    let _watchdog = watchdog::start("recovery", Duration::from_secs(900));
    let name = "transaction";
    let worlds = worlds(name);
    // A victim that leaves as much to do as there is: a transaction in the middle of its pages.
    let victim_dies = |stage: &mut Stage| {
        let mut victim = Child::spawn(
            Command::new(env!("CARGO_BIN_EXE_worker"))
                .arg(stage.tmp.path())
                .args([name, "kill", "apply.odd", "0"]),
        )
        .expect("a victim");
        let status = victim.wait(PATIENCE).expect("a death");
        assert!(status.is_some_and(|s| !s.success()), "{status:?}");
    };
    // The recoverer repairs on joining, which is therefore its region.
    let prepare = || {
        let mut fresh = stage(name);
        victim_dies(&mut fresh);
        let command = worker(&fresh, &["join", "ptrace"]);
        (fresh, command)
    };
    let (first, mut command) = prepare();
    let stride = stride(&mut command);
    drop(first);
    let now = RefCell::new(None);
    let result = at_every_recorded_instruction(
        |_| {
            let (fresh, command) = prepare();
            now.replace(Some(fresh));
            command
        },
        stride,
        |_| {
            let mut stage = now.take().expect("a bus");
            stage.survivor.observe_unrepaired(&worlds, true)?;
            stage.survivor.use_everything()?;
            stage.survivor.compare(&worlds)
        },
    );
    let sweep = result.unwrap_or_else(|e| panic!("recovery: {e}"));
    println!(
        "recovery: {} kills at {} places in {} instructions",
        sweep.kills,
        sweep.places.len(),
        sweep.steps
    );
    assert!(sweep.kills >= 50, "{sweep:?}");
}
