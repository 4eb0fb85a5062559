//! The durable soak: writers, a supervisor and a standby are killed and stopped from a printed seed, sometimes all of
//! them, sometimes followed by the loss of the segments; a checker looks at what is left, and the parent compares that
//! with what was acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::books::Books;
use super::site::{Checked, PATIENCE, Site, Supervisor};
use crate::seed::Rng;
use crate::spawn::Child;

const WRITERS: usize = 4;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For how long, and always for three generations.
    pub seconds: f64,
    /// Where all random choices come from.
    pub seed: u64,
    /// Directory for the logs, on a real disk.
    pub disk: PathBuf,
    /// The program with the roles.
    pub exe: PathBuf,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            seconds: 10.0,
            seed: 0,
            disk: std::env::var_os("CARGO_TARGET_DIR")
                .map_or_else(|| "target".into(), PathBuf::from)
                .join("tmp"),
            exe: std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Commits that somebody was told of.
    pub commits: u64,
    /// Of them, acknowledged as durable.
    pub synced: u64,
    /// Commits that were not durable in time.
    pub not_durable: u64,
    /// Refusals because nobody supervised.
    pub no_supervisor: u64,
    /// Writers killed.
    pub writers_killed: u64,
    /// Active supervisors killed.
    pub supervisors_killed: u64,
    /// Standbys killed.
    pub standbys_killed: u64,
    /// Supervisors that died at an armed step.
    pub armed: u64,
    /// Processes stopped, and let go on.
    pub stops: u64,
    /// Active supervisors stopped for longer than a takeover takes.
    pub supervisors_stopped: u64,
    /// Standbys that became active.
    pub takeovers: u64,
    /// Times that everybody was killed at once.
    pub all_killed: u64,
    /// Rebuilds out of the log.
    pub rebuilds: u64,
    /// Checkpoints asked for and written.
    pub checkpoints: u64,
    /// Looks of a checker.
    pub checks: u64,
    /// Greatest incarnation.
    pub incarnation: u64,
    /// What was wrong.
    pub bad: Vec<String>,
}

impl Report {
    /// What never happened.
    pub fn idle(&self) -> Vec<&'static str> {
        [
            ("synced", self.synced),
            ("not_durable", self.not_durable),
            ("no_supervisor", self.no_supervisor),
            ("writers_killed", self.writers_killed),
            ("supervisors_killed", self.supervisors_killed),
            ("standbys_killed", self.standbys_killed),
            ("armed", self.armed),
            ("stops", self.stops),
            ("supervisors_stopped", self.supervisors_stopped),
            ("takeovers", self.takeovers),
            ("all_killed", self.all_killed),
            ("rebuilds", self.rebuilds),
            ("checkpoints", self.checkpoints),
        ]
        .into_iter()
        .filter_map(|(name, n)| (n == 0).then_some(name))
        .collect()
    }
}

impl Report {
    /// One line of JSON.
    pub fn json(&self, plan: &Plan) -> String {
        serde_json::json!({
            "seed": format!("{:#x}", plan.seed),
            "seconds": plan.seconds,
            "commits": self.commits,
            "synced": self.synced,
            "not_durable": self.not_durable,
            "no_supervisor": self.no_supervisor,
            "kills": self.writers_killed + self.supervisors_killed + self.standbys_killed,
            "writers_killed": self.writers_killed,
            "supervisors_killed": self.supervisors_killed,
            "standbys_killed": self.standbys_killed,
            "armed_deaths": self.armed,
            "stops": self.stops,
            "supervisors_stopped": self.supervisors_stopped,
            "takeovers": self.takeovers,
            "all_killed": self.all_killed,
            "rebuilds": self.rebuilds,
            "checkpoints": self.checkpoints,
            "checks": self.checks,
            "incarnation": self.incarnation,
            "idle": self.idle(),
            "violations": self.bad.len(),
            "bad": self.bad,
        })
        .to_string()
    }
}

/// Steps at which a supervisor's death leaves something of its own.
const STEPS: &[&str] = &[
    "log.locked",
    "log.written",
    "log.durable",
    "log.moved",
    "supervisor.file",
    "supervisor.filled",
    "supervisor.submitted",
    "supervisor.chunk",
    "tlog.prepare",
    "tlog.prepared",
    "tlog.name",
    "tlog.named",
    "tlog.rotated",
    "tlog.supersede",
    "tlog.compressed",
    "tlog.both_forms",
    "tlog.removed",
    "checkpoint.create",
    "checkpoint.chunk",
    "checkpoint.durable",
    "checkpoint.rename",
    "checkpoint.renamed",
    "checkpoint.pruned",
];

const REBUILD_STEPS: &[&str] = &[
    "rebuild.locked",
    "rebuild.filled",
    "rebuild.said",
    "create.ctl_linked",
    "create.pages_linked",
    "rebuild.linked",
    "rebuild.closed",
    "supervisor.file",
];

struct Writer {
    child: Child,
    go_on: Option<Instant>,
}

struct Round<'a> {
    site: Site,
    books: Books,
    rng: Rng,
    report: &'a mut Report,
    writers: Vec<Option<Writer>>,
    supervisors: Vec<Supervisor>,
    incarnation: u64,
    /// The writers were told to come to their end.
    ending: bool,
}

/// Runs the soak.
///
/// # Panics
/// When processes cannot be started.
pub fn run(plan: &Plan) -> Report {
    let mut report = Report::default();
    let rng = Rng::new(plan.seed);
    let end = Instant::now() + Duration::from_secs_f64(plan.seconds);
    let mut bus = 0;
    while bus == 0 || Instant::now() < end {
        let site = Site::new(&plan.exe, Path::new(&plan.disk)).expect("directories");
        let mut round = Round {
            site,
            books: Books::default(),
            rng: rng.fork(bus),
            report: &mut report,
            writers: (0..WRITERS).map(|_| None).collect(),
            supervisors: Vec::new(),
            incarnation: 1,
            ending: false,
        };
        let mut generation = 0;
        let result = loop {
            let left = end.saturating_duration_since(Instant::now());
            if generation >= 3 && (left.is_zero() || generation >= 12) {
                break Ok(());
            }
            let time = Duration::from_millis(round.rng.below(1200) + 700);
            if let Err(e) = round.generation(time) {
                break Err(e);
            }
            generation += 1;
        };
        if let Err(e) = result {
            let dir = round.site.keep();
            let e = format!("bus {bus}, generation {generation}: {e}; its log is in {dir:?}");
            eprintln!("durable soak: {e}");
            report.bad.push(e);
            break;
        }
        bus += 1;
    }
    report
}

impl Round<'_> {
    fn spawn_writer(&mut self, slot: usize) {
        let seed = self.rng.next_u64();
        // Who never waits for the disk fills the ring when nobody supervises.
        let (levels, timeout) = match slot {
            0 => ("volatile", Duration::from_millis(150)),
            _ => ("mixed", Duration::from_secs(2)),
        };
        let child = self
            .site
            .writer(slot as u64, seed, 0, levels, timeout, None)
            .expect("a writer");
        self.writers[slot] = Some(Writer { child, go_on: None });
    }

    fn spawn_supervisor(&mut self, steps: &[&'static str]) {
        let backend = match self.rng.below(3) {
            0 => "plain",
            _ => "auto",
        };
        let step = *self.rng.pick(steps).unwrap_or(&"");
        let armed = (self.rng.chance(1, 3) && !step.is_empty()).then(|| {
            (
                step,
                self.rng
                    .below(if step.starts_with("rebuild") { 1 } else { 6 }),
            )
        });
        let made = self.site.supervisor(backend, "busy", armed);
        self.supervisors.push(made.expect("a supervisor"));
    }

    /// What has been said; supervisors that died by themselves are buried.
    fn listen(&mut self) -> Result<(), String> {
        for slot in 0..WRITERS {
            let Some(writer) = &mut self.writers[slot] else {
                continue;
            };
            loop {
                match writer.child.try_receive() {
                    Ok(Some(line)) => {
                        self.books.take(&line);
                    }
                    Ok(None) => break,
                    Err(_) if self.ending => break,
                    Err(_) => {
                        let status = writer.child.wait(PATIENCE);
                        return Err(format!("writer {slot} ended by itself: {status:?}"));
                    }
                }
            }
            if writer.go_on.is_some_and(|at| Instant::now() > at) {
                writer.go_on = None;
                writer.child.resume().map_err(|e| e.to_string())?;
            }
        }
        let mut at = 0;
        while at < self.supervisors.len() {
            let supervisor = &mut self.supervisors[at];
            supervisor.listen();
            if std::mem::take(&mut supervisor.took_over) {
                self.report.takeovers += 1;
            }
            if supervisor.role == "Failed" || supervisor.last.starts_with("failed") {
                return Err(format!("a supervisor: {}", supervisor.last));
            }
            match supervisor.child.wait(Duration::ZERO) {
                Ok(None) => at += 1,
                Ok(Some(status)) => {
                    use std::os::unix::process::ExitStatusExt;
                    if status.signal() != Some(libc::SIGKILL) {
                        let last = supervisor.child.last_lines();
                        return Err(format!("a supervisor ended: {status}: {last:?}"));
                    }
                    self.report.armed += 1;
                    self.supervisors.remove(at);
                }
                Err(e) => return Err(e.to_string()),
            }
        }
        Ok(())
    }

    fn kill_writer(&mut self, slot: usize) {
        if let Some(mut writer) = self.writers[slot].take() {
            let _ = writer.child.kill();
            for line in writer.child.last_lines() {
                self.books.take(&line);
            }
            self.report.writers_killed += 1;
        }
    }

    fn active(&mut self) -> Option<usize> {
        self.supervisors.iter_mut().position(Supervisor::is_active)
    }

    fn kill_supervisor(&mut self, at: usize) {
        let mut supervisor = self.supervisors.remove(at);
        let active = supervisor.is_active();
        self.report.takeovers += u64::from(supervisor.took_over);
        let _ = supervisor.child.kill();
        if active {
            self.report.supervisors_killed += 1;
        } else {
            self.report.standbys_killed += 1;
        }
    }

    fn kill_all(&mut self) {
        // Nobody is reaped ahead of the last kill: as close to one moment as a parent gets.
        for writer in self.writers.iter_mut().flatten() {
            let _ = writer.child.signal(nix::sys::signal::Signal::SIGKILL);
        }
        for supervisor in &mut self.supervisors {
            let _ = supervisor.child.signal(nix::sys::signal::Signal::SIGKILL);
        }
        for slot in 0..WRITERS {
            self.kill_writer(slot);
        }
        while !self.supervisors.is_empty() {
            self.kill_supervisor(0);
        }
        self.report.all_killed += 1;
    }

    fn some_writer(&mut self) -> usize {
        self.rng.below(WRITERS as u64) as usize
    }

    /// Chaos for a while, then a look at everything, and perhaps a reboot.
    fn generation(&mut self, time: Duration) -> Result<(), String> {
        let begin = Instant::now();
        let mut reboot = self.rng.chance(2, 3);
        while begin.elapsed() < time {
            for slot in 0..WRITERS {
                if self.writers[slot].is_none() {
                    self.spawn_writer(slot);
                }
            }
            while self.supervisors.len() < 2 {
                self.spawn_supervisor(STEPS);
            }
            let time = self.rng.below(200) + 30;
            self.pause(Duration::from_millis(time))?;
            match self.rng.below(12) {
                0..3 => {
                    let slot = self.some_writer();
                    self.kill_writer(slot);
                }
                3..6 => {
                    // Mostly with somebody there to take over.
                    let standby = self.supervisors.iter().any(|s| s.role == "Standby");
                    if let Some(at) = self.active()
                        && (standby || self.rng.chance(1, 4))
                    {
                        self.kill_supervisor(at);
                        self.pause(Duration::from_millis(150))?;
                    }
                }
                6 => {
                    if let Some(at) = (0..self.supervisors.len())
                        .find(|at| self.supervisors[*at].role == "Standby")
                    {
                        self.kill_supervisor(at);
                    }
                }
                7 => {
                    let slot = self.some_writer();
                    if let Some(writer) = &mut self.writers[slot]
                        && writer.go_on.is_none()
                    {
                        writer.child.stop().map_err(|e| e.to_string())?;
                        writer.go_on = Some(Instant::now() + Duration::from_millis(300));
                        self.report.stops += 1;
                    }
                }
                8 => self.stop_supervisor()?,
                9 => {
                    while !self.supervisors.is_empty() {
                        self.kill_supervisor(0);
                    }
                    let time = self.rng.below(600) + 100;
                    self.pause(Duration::from_millis(time))?;
                }
                10 => {
                    if let Some(at) = self.active()
                        && let Ok(answer) = self.supervisors[at].ask("checkpoint", "checkpoint ")
                    {
                        // A death at an armed step is none of its failures.
                        if answer.starts_with("failed") {
                            return Err(format!("checkpoint: {answer}"));
                        }
                        self.report.checkpoints += 1;
                    }
                }
                _ => {
                    self.kill_all();
                    if self.rng.chance(1, 2) {
                        reboot = true;
                        break;
                    }
                }
            }
            self.listen()?;
        }
        if self.rng.chance(1, 3) {
            self.kill_all();
        }
        if self.writers.iter().any(Option::is_some) {
            // Somebody goes on: the segments live, and everything that was said must be there.
            self.end_writers()?;
            let before = self.look(false)?;
            if reboot {
                while !self.supervisors.is_empty() {
                    self.kill_supervisor(0);
                }
                self.site.reboot().map_err(|e| e.to_string())?;
                let after = self.look(true)?;
                // What joined since then wrote no page.
                if after.hash != before.hash {
                    return Err(format!("rebuilt as another state: {before:?} / {after:?}"));
                }
            }
        } else {
            // Everybody is dead.
            if reboot {
                self.site.reboot().map_err(|e| e.to_string())?;
            }
            self.look(reboot)?;
        }
        Ok(())
    }

    fn pause(&mut self, time: Duration) -> Result<(), String> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            self.listen()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// A supervisor that is stopped is never replaced.
    fn stop_supervisor(&mut self) -> Result<(), String> {
        self.listen()?;
        let Some(at) = self.active() else {
            return Ok(());
        };
        let active: Vec<bool> = self
            .supervisors
            .iter_mut()
            .map(Supervisor::is_active)
            .collect();
        if self.supervisors[at].child.stop().is_err() {
            // It died at its armed step.
            return Ok(());
        }
        self.report.stops += 1;
        std::thread::sleep(Duration::from_millis(350));
        for (i, supervisor) in self.supervisors.iter_mut().enumerate() {
            if i != at && supervisor.is_active() && !active[i] {
                return Err("a standby took over from a supervisor that is only stopped".into());
            }
        }
        self.report.supervisors_stopped += 1;
        if self.rng.chance(1, 3) {
            self.kill_supervisor(at);
        } else {
            let resumed = self.supervisors[at].child.resume();
            resumed.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Lets the writers come to their end.
    fn end_writers(&mut self) -> Result<(), String> {
        self.ending = true;
        for writer in self.writers.iter_mut().flatten() {
            let _ = writer.child.resume();
            writer.go_on = None;
            writer.child.close_input();
        }
        let begin = Instant::now();
        for slot in 0..WRITERS {
            let Some(mut writer) = self.writers[slot].take() else {
                continue;
            };
            loop {
                self.sure_supervisor(STEPS);
                match writer.child.receive(Duration::from_millis(20)) {
                    Ok(line) => {
                        self.books.take(&line);
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {}
                    Err(_) => break,
                }
                if begin.elapsed() > PATIENCE {
                    return Err(format!("writer {slot} does not end"));
                }
                self.listen()?;
            }
            let status = writer.child.wait(PATIENCE).map_err(|e| e.to_string())?;
            if !status.is_some_and(|s| s.success()) {
                return Err(format!("writer {slot} ended: {status:?}"));
            }
        }
        self.ending = false;
        Ok(())
    }

    fn sure_supervisor(&mut self, steps: &[&'static str]) {
        if self.supervisors.is_empty() {
            self.spawn_supervisor(steps);
        }
    }

    /// Sees to it that somebody supervises, and has everything checked.
    fn look(&mut self, rebuilt: bool) -> Result<Checked, String> {
        let begin = Instant::now();
        loop {
            if begin.elapsed() > PATIENCE {
                return Err("nobody gets to supervise".into());
            }
            let steps: &[&'static str] = match begin.elapsed().as_secs() {
                0..5 if rebuilt => REBUILD_STEPS,
                0..5 => STEPS,
                _ => &[],
            };
            self.sure_supervisor(steps);
            self.listen()?;
            if self.active().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut checked = self.site.check();
        for _ in 0..10 {
            // The supervisor may die at its step meanwhile, and nobody take over.
            if checked.is_ok() || self.supervisors.len() > 1 {
                break;
            }
            self.listen()?;
            if !self.supervisors.is_empty() {
                break;
            }
            self.spawn_supervisor(&[]);
            checked = self.site.check();
        }
        let checked = checked?;
        self.report.checks += 1;
        let found: &BTreeMap<String, u64> = &checked.pages;
        self.count_books();
        match checked.fork_after(self.incarnation) {
            Some(fork) => {
                if !rebuilt {
                    return Err(format!(
                        "incarnation {} though nobody removed the segments",
                        checked.incarnation
                    ));
                }
                self.books.exactly_a_prefix(found, fork)?;
                self.report.rebuilds += checked.incarnation - self.incarnation;
                self.books.rebuilt(found);
            }
            None if rebuilt => return Err(format!("the incarnation does not rise: {checked:?}")),
            None => self.books.nothing_lost(found)?,
        }
        self.incarnation = checked.incarnation;
        self.report.incarnation = self.report.incarnation.max(self.incarnation);
        Ok(checked)
    }

    fn count_books(&mut self) {
        let books = &mut self.books;
        self.report.commits += std::mem::take(&mut books.commits);
        self.report.synced += std::mem::take(&mut books.synced);
        self.report.not_durable += std::mem::take(&mut books.not_durable);
        self.report.no_supervisor += std::mem::take(&mut books.no_supervisor);
    }
}
