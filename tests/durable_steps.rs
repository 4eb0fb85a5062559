//! Kills who supervises, or rebuilds, at every named step; and writers in their commits while the log is written.
//!
//! Fault model: SIGKILL at a place of our choosing. After each, another process takes over: one that waited for its turn,
//! or one that is started. A parent that never maps the bus compares what it was told through pipes with what a checker
//! finds: nothing acknowledged is missing, nothing is there twice, and the log, replayed, gives the same state hash
//! as memory. Then the segments are removed, as a reboot does, and the bus is rebuilt from its log alone, twice.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use mmsb_tests::durable::books::Books;
use mmsb_tests::durable::site::{Checked, PATIENCE, Site, Supervisor, follow_writer};
use mmsb_tests::watchdog;

fn site() -> Site {
    Site::new(
        Path::new(env!("CARGO_BIN_EXE_durable")),
        Path::new(env!("CARGO_TARGET_TMPDIR")),
    )
    .expect("directories")
}

/// Of a list of steps passed, those worth dying at: of a step passed often, the first two, one in the middle, the last.
fn places(steps: &str, of: &dyn Fn(&str) -> bool) -> Vec<(String, u64)> {
    let mut passed: Vec<(&str, u64)> = Vec::new();
    for step in steps.split(',').filter(|s| !s.is_empty() && of(s)) {
        match passed.iter_mut().find(|(name, _)| *name == step) {
            Some((_, n)) => *n += 1,
            None => passed.push((step, 1)),
        }
    }
    let mut places = Vec::new();
    for (name, n) in passed {
        let mut skips = vec![0, 1, n / 2, n - 1];
        skips.retain(|skip| *skip < n);
        skips.sort_unstable();
        skips.dedup();
        places.extend(skips.into_iter().map(|skip| (name.to_owned(), skip)));
    }
    places
}

/// What every run does: a supervisor starts; a writer commits, synced; a checkpoint; more commits; the supervisor is
/// told to stop. Returns how the supervisor ended (`true`: by itself), and the steps that it passed.
fn script(
    site: &Site,
    supervisor: &mut Supervisor,
    standby: &mut Option<Supervisor>,
    books: &mut Books,
    backend: &str,
) -> Result<(bool, String), String> {
    let mut spare = None;
    // Whoever of them is there, and whoever has to be started in their place.
    let mut writer = |slot: u64, commits: u64, supervisor: &mut Supervisor| {
        let mut writer = site
            .writer(
                slot,
                slot + 7,
                commits,
                "synced",
                Duration::from_secs(20),
                None,
            )
            .map_err(|e| e.to_string())?;
        if standby.is_none() && spare.is_none() {
            // Without a standby somebody notices the death, and starts another.
            loop {
                match writer.receive(Duration::from_millis(5)) {
                    Ok(line) if line == "done" => return Ok(()),
                    Ok(line) => {
                        books.take(&line);
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {}
                    Err(e) => return Err(format!("a writer: {e}")),
                }
                if supervisor
                    .child
                    .wait(Duration::ZERO)
                    .map_err(|e| e.to_string())?
                    .is_some()
                {
                    spare = Some(
                        site.supervisor(backend, "quiet", None)
                            .map_err(|e| e.to_string())?,
                    );
                    break;
                }
            }
        }
        match follow_writer(&mut writer, books)? {
            true => Ok(()),
            false => Err("the writer was killed".into()),
        }
    };
    writer(1, 12, supervisor)?;
    // It may be dead by now.
    let _ = supervisor.ask("checkpoint", "checkpoint ");
    writer(2, 30, supervisor)?;
    let _ = supervisor.ask("checkpoint", "checkpoint ");
    writer(1, 6, supervisor)?;
    let steps = supervisor.ask("stop", "steps ");
    let status = supervisor.child.wait(PATIENCE).map_err(|e| e.to_string())?;
    let status = status.ok_or("the supervisor does not end")?;
    match (status.signal(), status.code()) {
        (Some(libc::SIGKILL), _) => {}
        (_, Some(0)) => {}
        _ => return Err(format!("the supervisor ended: {status}")),
    }
    // Somebody has to be there for the checker.
    if let Some(mut standby) = standby.take() {
        if !standby.await_role("Active", PATIENCE) {
            return Err(format!("the standby does not take over: {}", standby.last));
        }
        *supervisor = standby;
    } else {
        *supervisor = match spare {
            Some(spare) => spare,
            None => site
                .supervisor(backend, "quiet", None)
                .map_err(|e| e.to_string())?,
        };
        if !supervisor.await_role("Active", PATIENCE) {
            return Err(format!(
                "the next one does not supervise: {}",
                supervisor.last
            ));
        }
    }
    Ok((status.success(), steps.unwrap_or_default()))
}

/// The bus as it is, then after a reboot, then after another.
fn look_three_times(
    site: &Site,
    mut supervisor: Supervisor,
    books: &mut Books,
) -> Result<(), String> {
    let before = site.check()?;
    books.nothing_lost(&before.pages)?;
    let mut incarnation = before.incarnation;
    for _ in 0..2 {
        supervisor.child.kill().map_err(|e| e.to_string())?;
        site.reboot().map_err(|e| e.to_string())?;
        supervisor = site
            .supervisor("auto", "quiet", None)
            .map_err(|e| e.to_string())?;
        if !supervisor.await_role("Active", PATIENCE) {
            return Err(format!("no rebuild: {}", supervisor.last));
        }
        let after = site.check()?;
        same(&before, &after)?;
        books.exactly_a_prefix(&after.pages, after.fork_after(incarnation).unwrap_or(0))?;
        if after.incarnation <= incarnation {
            return Err(format!(
                "incarnation {} after {incarnation}",
                after.incarnation
            ));
        }
        incarnation = after.incarnation;
    }
    Ok(())
}

fn same(before: &Checked, after: &Checked) -> Result<(), String> {
    if before.hash != after.hash {
        return Err(format!("another state: {before:?} / {after:?}"));
    }
    Ok(())
}

/// One death, and everything behind it.
fn die_at(step: &str, skip: u64, with_standby: bool, backend: &str) -> Result<bool, String> {
    let mut site = site();
    let result = (|| {
        let armed = Some((step, skip));
        let mut supervisor = site
            .supervisor(backend, "quiet", armed)
            .map_err(|e| e.to_string())?;
        // Who writes to a bus that has no log yet is told so; here somebody must have begun one.
        let active = supervisor.await_role("Active", PATIENCE);
        let mut standby = None;
        if with_standby || !active {
            let mut other = site
                .supervisor(backend, "quiet", None)
                .map_err(|e| e.to_string())?;
            let role = if active { "Standby" } else { "Active" };
            if !other.await_role(role, PATIENCE) && !other.is_active() {
                return Err(format!("the next one is not {role}: {}", other.last));
            }
            standby = Some(other);
        }
        let mut books = Books::default();
        let (alive, _) = script(&site, &mut supervisor, &mut standby, &mut books, backend)?;
        if books.synced < 20 {
            return Err(format!(
                "only {} of {} commits were durable: {}",
                books.synced, books.commits, books.last_why
            ));
        }
        look_three_times(&site, supervisor, &mut books)?;
        Ok(!alive)
    })();
    result.map_err(|e: String| {
        format!(
            "killed at {step} ({skip}): {e}; the log is in {:?}",
            site.keep()
        )
    })
}

fn die_at_every_step(name: &str, backend: &str, of: &dyn Fn(&str) -> bool) {
    let _watchdog = watchdog::start(name, Duration::from_secs(500));
    let steps = {
        let site = site();
        let mut supervisor = site
            .supervisor(backend, "quiet", None)
            .expect("a supervisor");
        assert!(supervisor.await_role("Active", PATIENCE));
        let mut books = Books::default();
        let (alive, steps) = script(&site, &mut supervisor, &mut None, &mut books, backend)
            .expect("a run without a death");
        assert!(alive && books.acks.len() > 30, "{steps}");
        look_three_times(&site, supervisor, &mut books).expect("a bus in order");
        steps
    };
    let places = places(&steps, of);
    assert!(places.len() >= 4, "{name}: {steps}");
    let (mut kills, mut bad) = (0, Vec::new());
    for (i, (step, skip)) in places.iter().enumerate() {
        match die_at(step, *skip, i % 2 == 0, backend) {
            Ok(died) => kills += u64::from(died),
            Err(e) => bad.push(e),
        }
    }
    println!("{name}: {kills} kills at {} places", places.len());
    assert!(
        bad.is_empty(),
        "{} of {}:\n{}",
        bad.len(),
        places.len(),
        bad.join("\n")
    );
    // How often a step is passed depends on timing, so the last of a kind may not be reached again.
    assert!(kills * 2 > places.len() as u64, "{kills} kills: {places:?}");
}

#[test]
fn a_supervisor_dies_at_every_step_of_opening_and_writing_the_log() {
    die_at_every_step("log", "auto", &|s| s.starts_with("log."));
}

#[test]
fn a_supervisor_dies_at_every_step_of_a_block() {
    die_at_every_step("supervisor", "auto", &|s| s.starts_with("supervisor."));
}

#[test]
fn a_supervisor_dies_at_every_step_of_a_block_without_io_uring() {
    die_at_every_step("plain", "plain", &|s| s.starts_with("supervisor."));
}

#[test]
fn a_supervisor_dies_at_every_step_of_its_files() {
    die_at_every_step("tlog", "auto", &|s| s.starts_with("tlog."));
}

#[test]
fn a_supervisor_dies_at_every_step_of_a_checkpoint() {
    die_at_every_step("checkpoint", "auto", &|s| s.starts_with("checkpoint."));
}

#[test]
fn who_rebuilds_dies_at_every_step() {
    let _watchdog = watchdog::start("rebuild", Duration::from_secs(300));
    // One bus with a log, its last writers and supervisor killed; then one rebuild after another.
    let mut places: Vec<(String, u64)> = Vec::new();
    let mut kills = 0;
    let site = site();
    let mut supervisor = site
        .supervisor("auto", "quiet", None)
        .expect("a supervisor");
    assert!(supervisor.await_role("Active", PATIENCE));
    let mut books = Books::default();
    let mut round = 0u64;
    loop {
        let mut writer = site
            .writer(1, round, 12, "synced", Duration::from_secs(20), None)
            .expect("a writer");
        assert!(follow_writer(&mut writer, &mut books).expect("an end"));
        if round % 3 == 1 {
            supervisor
                .ask("checkpoint", "checkpoint ")
                .expect("a checkpoint");
        }
        let before = site.check().expect("a bus in order");
        supervisor.child.kill().expect("a death");
        site.reboot().expect("a reboot");
        if round > 0 {
            let Some((step, skip)) = places.pop() else {
                break;
            };
            let mut victim = site
                .supervisor("auto", "quiet", Some((&step, skip)))
                .expect("a supervisor");
            // If it does not get there, it is active.
            if !victim.await_role("Active", PATIENCE) {
                kills += 1;
            }
            let _ = victim.child.kill();
            // Nobody may have seen the bus: then it is as if nothing had been rebuilt.
        }
        supervisor = site
            .supervisor("auto", "quiet", None)
            .expect("a supervisor");
        assert!(
            supervisor.await_role("Active", PATIENCE),
            "round {round}: {}",
            supervisor.last
        );
        let after = site
            .check()
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        same(&before, &after).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let fork = after.fork_after(before.incarnation).expect("a fork");
        books
            .exactly_a_prefix(&after.pages, fork)
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        books.rebuilt(&after.pages);
        assert!(after.incarnation > before.incarnation, "{after:?}");
        if round == 0 {
            let steps = supervisor.ask("steps", "steps ").expect("its steps");
            places = self::places(&steps, &|s| {
                ["rebuild.", "create.", "tlog.", "log.", "supervisor.file"]
                    .iter()
                    .any(|of| s.starts_with(of))
            });
            places.retain(|(step, skip)| *skip < 3 && step != "tlog.rotated");
            assert!(places.len() >= 10, "{steps}");
        }
        round += 1;
    }
    println!("rebuild: {kills} kills in {round} rounds");
    assert!(kills >= 10, "{kills}");
}
