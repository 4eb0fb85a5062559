//! Kills a worker at every named step of every operation, and lets survivors look at what it left.
//!
//! Fault model: SIGKILL of one process at a place of our choosing (and of the one that recovers it, at every step of
//! the recovery). Survivors were there before the death, so nothing is repaired by somebody joining. They check:
//!
//! * I1: a page, a batch, a transaction is in the state ahead of a commit or behind it, for observers even unrepaired;
//! * I2: the log, followed from the first page on, gives the same bytes, epochs and LSNs as memory;
//! * I4: every lock, the ring, names and memory go on, within a watchdog's patience;
//! * a second recovery finds nobody and changes nothing; memory, page numbers and cursors do not leak.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::{AttachError, Core, Counter, NewPage, segment};
use mmsb_tests::scenario::{self, BUS, OPS, named, op};
use mmsb_tests::spawn::Child;
use mmsb_tests::survey::{Survivor, World, live_blocks, slabs};
use mmsb_tests::watchdog;

const PATIENCE: Duration = Duration::from_secs(20);

struct Dir {
    tmp: tempfile::TempDir,
    dir: SegmentDir,
}

fn fresh_dir() -> Dir {
    let tmp = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let dir = SegmentDir::at(tmp.path());
    Dir { tmp, dir }
}

impl Dir {
    fn worker(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        command.arg(self.tmp.path()).args(arguments);
        Child::spawn(&mut command).expect("a worker")
    }
}

/// The steps worth dying at, as (name, times passed before): of a step passed often, the first two and the last.
fn places(steps: &str, prefix: &str) -> Vec<(String, usize)> {
    let mut passed: Vec<(&str, usize)> = Vec::new();
    for step in steps
        .split(',')
        .filter(|s| !s.is_empty() && s.starts_with(prefix))
    {
        match passed.iter_mut().find(|(name, _)| *name == step) {
            Some((_, n)) => *n += 1,
            None => passed.push((step, 1)),
        }
    }
    let mut places = Vec::new();
    for (name, n) in passed {
        places.extend(
            (0..n)
                .filter(|i| *i < 2 || *i == n - 1)
                .map(|i| (name.to_owned(), i)),
        );
    }
    places
}

/// Runs the operation through: its steps, and the states it goes through.
fn trace(name: &str) -> (Vec<(String, usize)>, Vec<World>) {
    let dir = fresh_dir();
    let op = op(name);
    let mut survivor = Survivor::found(&dir.dir, op.ring_bytes);
    let mut worlds = vec![World::read(&survivor.p).expect("the first state")];
    let mut worker = dir.worker(&[name, "trace"]);
    let mut steps = String::new();
    let begin = Instant::now();
    loop {
        survivor.drain_raw();
        match worker.try_receive().expect("a worker that lives") {
            Some(line) if line == "stage" => {
                worlds.push(World::read(&survivor.p).expect("a state"));
                worker.send("on").expect("a worker that lives");
            }
            Some(line) if line == "done" => break,
            Some(line) => steps = line.strip_prefix("steps ").unwrap_or("").to_owned(),
            None => std::thread::sleep(Duration::from_micros(100)),
        }
        assert!(begin.elapsed() < PATIENCE, "{name} does not end");
    }
    worker.finish(PATIENCE).expect("a worker that succeeds");
    // Nothing but the worker's own traces may differ for a run without a death.
    survivor.use_everything().expect("a bus in order");
    survivor.compare(&worlds).expect("a bus in order");
    let places = places(&steps, op.steps);
    assert!(!places.is_empty(), "{name} has no steps: {steps:?}");
    (places, worlds)
}

/// Waits for the death, following the log meanwhile without repairing anything.
fn await_death(worker: &mut Child, survivor: &mut Survivor) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        survivor.drain_raw();
        match worker.wait(Duration::from_millis(1)) {
            Ok(Some(status)) if status.signal() == Some(libc::SIGKILL) => return Ok(()),
            Ok(Some(status)) => return Err(format!("the worker was to be killed: {status}")),
            Ok(None) if begin.elapsed() < PATIENCE => {}
            other => return Err(format!("the worker does not die: {other:?}")),
        }
    }
}

fn die_at_every_step(name: &str) {
    let _watchdog = watchdog::start(name, Duration::from_secs(150));
    let (places, worlds) = trace(name);
    let mut kills = 0;
    for (step, skip) in &places {
        let dir = fresh_dir();
        let mut survivor = Survivor::found(&dir.dir, op(name).ring_bytes);
        let mut worker = dir.worker(&[name, "kill", step, &skip.to_string()]);
        let result = await_death(&mut worker, &mut survivor)
            .and_then(|()| survivor.observe_unrepaired(&worlds, !name.starts_with("batch")))
            .and_then(|()| survivor.use_everything())
            .and_then(|()| survivor.compare(&worlds));
        if let Err(e) = result {
            panic!("{name}, killed at {step} (passed {skip} times before): {e}");
        }
        kills += 1;
    }
    println!("{name}: {kills} kills, {} states", worlds.len());
}

/// What lingered is gone now, with the last copy of the lock, and is recovered.
fn end_of_process(victim: &mut Child, survivor: &mut Survivor) -> Result<(), String> {
    victim.close_input();
    let begin = Instant::now();
    while survivor.p.core().participants().len() > 1 {
        survivor.p.recover_all().map_err(|e| e.to_string())?;
        if begin.elapsed() > PATIENCE {
            return Err("somebody lingers for ever".into());
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// As [`die_at_every_step`], but as far as the kernel lock goes the process is alive: the survivors go on because of the mark
/// that the kernel set, and everything else waits for the lock.
fn linger_at_every_step(name: &str) {
    let _watchdog = watchdog::start(name, Duration::from_secs(150));
    let (places, worlds) = trace(name);
    let mut marked = 0;
    for (step, skip) in &places {
        let dir = fresh_dir();
        let mut survivor = Survivor::found(&dir.dir, op(name).ring_bytes);
        let mut worker = dir.worker(&[name, "linger", step, &skip.to_string()]);
        let recoveries = |survivor: &Survivor| survivor.observer.counter(Counter::Recoveries);
        let result = await_death(&mut worker, &mut survivor)
            .and_then(|()| survivor.observe_unrepaired(&worlds, !name.starts_with("batch")))
            .and_then(|()| survivor.use_everything())
            .and_then(|()| {
                let all = survivor.p.core().participants();
                if all.len() != 2 || !all.iter().all(|p| p.alive) {
                    return Err(format!("nobody lingers: {all:?}"));
                }
                marked += recoveries(&survivor);
                end_of_process(&mut worker, &mut survivor)?;
                match recoveries(&survivor) {
                    1 => Ok(()),
                    n => Err(format!("one death, {n} recoveries")),
                }
            })
            .and_then(|()| survivor.use_everything())
            .and_then(|()| survivor.compare(&worlds));
        if let Err(e) = result {
            panic!("{name}, lingering at {step} (passed {skip} times before): {e}");
        }
    }
    println!(
        "{name}: {marked} of {} repaired by the kernel's mark",
        places.len()
    );
    assert!(marked > 0, "no mark was of any use");
}

macro_rules! each_step {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            die_at_every_step(stringify!($name));
        })*

        #[test]
        fn every_operation_has_its_test() {
            let listed = [$(stringify!($name)),*];
            for op in OPS {
                assert!(listed.contains(&op.name), "{} is not tested", op.name);
            }
        }
    };
}

each_step! {
    join leave create_unnamed create_named create_cell create_with_growth destroy_unnamed destroy_named destroy_loaned
    patch patch_of_many_slots patch_larger_than_a_record patch_cell patch_loaned batch batch_out_of_order
    batch_with_loaned transaction transaction_with_cell_and_loaned masked ranges update loan loan_again loan_given_back
    pin rename name_given name_taken_away lease follow_gating follow_lossy move_the_limit
}

macro_rules! lingering {
    ($($test:ident: $op:ident;)*) => {
        $(#[test]
        fn $test() {
            linger_at_every_step(stringify!($op));
        })*
    };
}

lingering! {
    lingering_in_patch: patch;
    lingering_in_patch_of_many_slots: patch_of_many_slots;
    lingering_in_patch_larger_than_a_record: patch_larger_than_a_record;
    lingering_in_patch_cell: patch_cell;
    lingering_in_patch_loaned: patch_loaned;
    lingering_in_batch: batch;
    lingering_in_transaction: transaction_with_cell_and_loaned;
    lingering_in_update: update;
    lingering_in_loan: loan;
    lingering_in_create_named: create_named;
    lingering_in_destroy_named: destroy_named;
    lingering_in_rename: rename;
    lingering_in_lease: lease;
    lingering_in_move_the_limit: move_the_limit;
}

/// Kills the recoverer of a death at every step of the recovery; a third one has to make do.
fn recoverer_dies(name: &str, how: &str, at: &str, skip: usize) {
    let _watchdog = watchdog::start(at, Duration::from_secs(150));
    let (_, worlds) = trace(name);
    let dir = fresh_dir();
    let mut survivor = Survivor::found(&dir.dir, op(name).ring_bytes);
    let mut recoverer = dir.worker(&["recover", "trace"]);
    recoverer.expect("joined", PATIENCE).expect("to join");
    let mut victim = dir.worker(&[name, how, at, &skip.to_string()]);
    await_death(&mut victim, &mut survivor).expect("a death");
    recoverer.send("go").expect("a recoverer that lives");
    let steps = recoverer.expect("steps ", PATIENCE).expect("its steps");
    recoverer
        .finish(PATIENCE)
        .expect("a recoverer that succeeds");
    end_of_process(&mut victim, &mut survivor).expect("its end");
    survivor.compare(&worlds).expect("a recovered bus");
    survivor.use_everything().expect("a recovered bus");
    let places = places(&steps, "");
    assert!(places.len() >= 6, "{steps}");
    for (step, times) in &places {
        let dir = fresh_dir();
        let mut survivor = Survivor::found(&dir.dir, op(name).ring_bytes);
        let mut recoverer = dir.worker(&["recover", "kill", step, &times.to_string()]);
        recoverer.expect("joined", PATIENCE).expect("to join");
        let mut victim = dir.worker(&[name, how, at, &skip.to_string()]);
        let result = await_death(&mut victim, &mut survivor)
            .and_then(|()| recoverer.send("go").map_err(|e| e.to_string()))
            .and_then(|()| await_death(&mut recoverer, &mut survivor))
            .and_then(|()| survivor.observe_unrepaired(&worlds, !name.starts_with("batch")))
            .and_then(|()| survivor.use_everything())
            .and_then(|()| end_of_process(&mut victim, &mut survivor))
            .and_then(|()| survivor.compare(&worlds));
        if let Err(e) = result {
            panic!("{name}, {how} at {at}, its recoverer at {step} ({times}): {e}");
        }
        let count = survivor.observer.counter(Counter::Recoveries);
        assert!(count >= 2, "victim and recoverer are recovered: {count}");
    }
    println!("{name} at {at}: {} recoverers killed", places.len());
}

macro_rules! recoverers {
    ($($test:ident: $op:ident, $how:literal at $step:literal, $skip:literal;)*) => {
        $(#[test]
        fn $test() {
            recoverer_dies(stringify!($op), $how, $step, $skip);
        })*
    };
}

recoverers! {
    recoverer_of_a_claim: patch, "kill" at "commit.held", 0;
    recoverer_of_a_ready_patch: patch, "kill" at "commit.ready", 0;
    recoverer_of_a_half_copied_patch: patch_of_many_slots, "kill" at "commit.copied", 0;
    recoverer_of_a_lock: patch, "kill" at "commit.locked", 0;
    recoverer_of_a_cell: patch_cell, "kill" at "cell.described", 0;
    recoverer_of_a_transaction: transaction_with_cell_and_loaned, "kill" at "transaction.odd", 1;
    recoverer_of_a_batch: batch, "kill" at "group.even", 0;
    recoverer_of_a_loan: loan, "kill" at "swap.live", 0;
    recoverer_of_a_creation: create_named, "kill" at "names.by_id", 0;
    recoverer_of_a_held_block: create_named, "kill" at "arena.held", 1;
    recoverer_of_a_destruction: destroy_named, "kill" at "destroy.entry", 0;
    recoverer_of_a_rename: rename, "kill" at "describe.attached", 0;
    recoverer_of_a_lease: lease, "kill" at "commit.odd", 1;
    recoverer_of_a_joining_cursor: follow_gating, "kill" at "follow.joining", 0;
    recoverer_of_a_claim_that_lingers: patch, "linger" at "commit.held", 0;
    recoverer_of_a_half_copied_patch_that_lingers: patch_of_many_slots, "linger" at "commit.copied", 0;
    recoverer_of_a_transaction_that_lingers: transaction, "linger" at "transaction.odd", 1;
    recoverer_of_a_creation_that_lingers: create_named, "linger" at "names.by_id", 0;
}

#[test]
fn a_creator_killed_at_any_step_leaves_a_whole_bus_or_none() {
    let _watchdog = watchdog::start("create", Duration::from_secs(60));
    let steps = {
        let dir = fresh_dir();
        let mut worker = dir.worker(&["create", "trace"]);
        let steps = worker.expect("steps ", PATIENCE).expect("its steps");
        worker.finish(PATIENCE).expect("a bus");
        steps
    };
    let places = places(&steps, "");
    assert!(places.len() >= 4, "{steps}");
    for (step, skip) in places {
        // Once on clean ground, once on what the one before left: a lone `.ctl`.
        for leftover in [false, true] {
            let dir = fresh_dir();
            if leftover {
                let mut first = dir.worker(&["create", "kill", "create.ctl_linked", "0"]);
                assert!(first.wait(PATIENCE).expect("a death").is_some());
            }
            let mut worker = dir.worker(&["create", "kill", &step, &skip.to_string()]);
            let status = worker.wait(PATIENCE).expect("a death").expect("a death");
            assert_eq!(status.signal(), Some(libc::SIGKILL), "{step}");
            let whole = match Core::attach(&dir.dir, BUS) {
                Ok(_) => true,
                Err(AttachError::Missing { .. }) => false,
                Err(e) => panic!("killed at {step}: {e}"),
            };
            // Linked, it is whole; the creator then attaches like anybody.
            let linked = ["create.pages_linked", "open.stat"].contains(&step.as_str());
            assert_eq!(whole, linked, "{step}");
            if whole {
                segment::unlink(&dir.dir, BUS).expect("to remove it");
            }
            let mut survivor = Survivor::found(&dir.dir, scenario::SMALL_RING);
            survivor.use_everything().expect("a new bus");
            drop(survivor);
            let left: Vec<_> = std::fs::read_dir(dir.tmp.path())
                .expect("a directory")
                .map(|e| e.expect("an entry").file_name())
                .collect();
            assert_eq!(left.len(), 2, "killed at {step}: {left:?}");
        }
    }
}

#[test]
fn a_remover_killed_half_way_leaves_nothing_in_the_way() {
    let _watchdog = watchdog::start("unlink", Duration::from_secs(60));
    let dir = fresh_dir();
    let mut old = Survivor::found(&dir.dir, 1 << 16);
    let mut worker = dir.worker(&["unlink", "kill", "unlink.pages", "0"]);
    await_death(&mut worker, &mut old).expect("a death");
    assert!(!old.p.core().is_named());
    assert!(matches!(
        Core::attach(&dir.dir, BUS),
        Err(AttachError::Missing { .. })
    ));
    old.use_everything()
        .expect("who is attached goes on with what it has mapped");
    let mut new = Survivor::found(&dir.dir, 1 << 16);
    new.use_everything().expect("a new bus of the same name");
    assert_ne!(old.observer.bus_id(), new.observer.bus_id());
    segment::unlink(&dir.dir, BUS).expect("to remove it");
    assert!(
        std::fs::read_dir(dir.tmp.path())
            .expect("a directory")
            .next()
            .is_none()
    );
}

#[test]
fn a_remover_killed_at_half_a_bus_leaves_nothing_in_the_way() {
    let _watchdog = watchdog::start("unlink of a half", Duration::from_secs(60));
    for step in ["unlink.locked", "unlink.pages"] {
        let dir = fresh_dir();
        let config = scenario::config(1 << 16);
        drop(Core::create(&dir.dir, BUS, &config).expect("a bus"));
        std::fs::remove_file(dir.dir.object(BUS, "ctl")).expect("half a bus");
        let mut worker = dir.worker(&["unlink", "kill", step, "0"]);
        let status = worker.wait(PATIENCE).expect("a death").expect("a death");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{step}");
        if step == "unlink.locked" {
            assert!(Core::attach(&dir.dir, BUS).is_err());
            let made = Core::create(&dir.dir, BUS, &config);
            assert!(matches!(made, Err(AttachError::Exists { .. })));
            segment::unlink(&dir.dir, BUS).expect("to remove it");
        }
        assert!(matches!(
            Core::attach(&dir.dir, BUS),
            Err(AttachError::Missing { .. })
        ));
        drop(Core::create(&dir.dir, BUS, &config).expect("a new bus"));
    }
}

/// A hundred deaths of one kind on one bus: neither memory nor page numbers nor cursors nor slots run out.
fn a_hundred_deaths(name: &str, step: &str, skip: usize) {
    let _watchdog = watchdog::start(name, Duration::from_secs(120));
    let dir = fresh_dir();
    let mut survivor = Survivor::found(&dir.dir, 1 << 16);
    let mut after_ten = None;
    for n in 0..100 {
        let mut worker = dir.worker(&[name, "kill", step, &skip.to_string()]);
        await_death(&mut worker, &mut survivor)
            .unwrap_or_else(|e| panic!("{name} at {step}, {n}: {e}"));
        // Not by joining: the next worker would repair everything ahead of every check.
        survivor.p.recover_all().expect("a recovery");
        survivor.drain().expect("a sound log");
        for made in ["made/by/worker", "made/cell"] {
            if let Ok(id) = survivor.observer.find(made) {
                survivor.p.destroy_page(id).expect("to destroy it");
            }
        }
        if survivor.observer.find("doomed").is_err() {
            survivor
                .p
                .create_page(&named(150, "doomed"))
                .expect("a page");
        }
        survivor.drain().expect("a sound log");
        let used = (live_blocks(&survivor.observer), slabs(&survivor.observer));
        if n == 10 {
            after_ten = Some(used);
        }
        if let Some(before) = after_ten {
            assert_eq!(used, before, "{name} at {step}: leaks after {n} deaths");
        }
    }
    survivor.use_everything().expect("a bus in order");
}

macro_rules! hundreds {
    ($($test:ident: $op:ident, $step:literal, $skip:literal;)*) => {
        $(#[test]
        fn $test() {
            a_hundred_deaths(stringify!($op), $step, $skip);
        })*
    };
}

hundreds! {
    a_hundred_noted_blocks: create_named, "arena.noted", 1;
    a_hundred_held_blocks: create_named, "arena.held", 0;
    a_hundred_prepared_names: create_named, "names.prepared", 0;
    a_hundred_created_pages: create_named, "commit.ready", 0;
    a_hundred_destroyed_pages: destroy_named, "destroy.entry", 0;
    a_hundred_filled_loans: loan, "loan.prepared", 0;
    a_hundred_published_loans: loan_again, "swap.entry", 0;
    a_hundred_cursors: follow_gating, "follow.taken", 0;
    a_hundred_joins: join, "join.active", 0;
}

#[test]
fn a_page_number_held_by_the_dead_is_not_waited_for_for_ever() {
    let _watchdog = watchdog::start("last page number", Duration::from_secs(60));
    let dir = fresh_dir();
    let mut survivor = Survivor::found(&dir.dir, 1 << 16);
    // All numbers but the one that the dead will hold.
    let mut pages = Vec::new();
    let free = 256 - survivor.observer.list_pages().len() - 1;
    let new = NewPage {
        size: 1,
        ..NewPage::default()
    };
    for _ in 0..free {
        pages.push(survivor.p.create_page(&new).expect("a page"));
        survivor.drain_raw();
    }
    let mut worker = dir.worker(&["create_unnamed", "kill", "create.index", "0"]);
    // The worker finds its number only if the survivor's private pool does not hold it.
    let died = await_death(&mut worker, &mut survivor);
    assert!(died.is_ok(), "{died:?}");
    let last = survivor.p.create_page(&new).expect("the last number");
    survivor.drain().expect("a sound log");
    assert!(survivor.p.create_page(&new).is_err(), "256 pages are all");
    pages.push(last);
    for id in pages {
        survivor.p.destroy_page(id).expect("to destroy");
        survivor.drain_raw();
    }
}
