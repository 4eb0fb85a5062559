//! The parent: starts, kills and stops the others, and keeps the books. It never maps the bus, so what it calls
//! acknowledged came by pipe and owes nothing to what is being tested.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use mmsb_shm::sys::process;

use super::WRITERS;
use super::worker::STUCK;
use crate::scenario::SMALL_RING;
use crate::seed::Rng;
use crate::spawn::Child;

/// The default ring.
pub const DEFAULT_RING: u64 = 1 << 20;

/// What to do, and how hard.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For how long, all phases together.
    pub seconds: f64,
    /// Where all random choices come from.
    pub seed: u64,
    /// Deaths per second that the parent causes; armed steps come on top.
    pub kills_per_second: f64,
    /// Bytes of the ring; `None`: the default and the smallest one in turn.
    pub ring: Option<u64>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Workers killed from outside.
    pub kills: u64,
    /// Workers that died at an armed step.
    pub armed: u64,
    /// SIGSTOPs, from outside.
    pub stops: u64,
    /// Workers started.
    pub workers: u64,
    /// Commits acknowledged.
    pub acknowledged: u64,
    /// Deltas in the logs.
    pub deltas: u64,
    /// Laps of the smallest ring.
    pub laps_small: u64,
    /// Buses used.
    pub buses: u64,
    /// Deaths during which nobody joined: recovered by waiters.
    pub waiters_only: u64,
    /// Writers stopped for over a lap.
    pub over_a_lap: u64,
    /// `Recoveries`, then those of a CLAIMED record, a READY one, an odd page, a lock, a recoverer.
    pub recoveries: [u64; 6],
    /// Violations by class: torn, lost, stuck, log, other.
    pub bad: BTreeMap<String, u64>,
}

const CLASSES: [&str; 5] = ["torn", "lost", "stuck", "log", "other"];

impl Report {
    /// Violations of all classes.
    pub fn violations(&self) -> u64 {
        self.bad.values().sum()
    }

    /// One line of JSON.
    pub fn json(&self, plan: &Plan) -> String {
        let mut fields = vec![
            format!("\"seed\":\"{:#x}\"", plan.seed),
            format!("\"seconds\":{}", plan.seconds),
        ];
        let names = [
            "recoveries",
            "claimed",
            "ready",
            "odd",
            "locked",
            "recoverer",
        ];
        let counts = [
            ("kills", self.kills),
            ("armed_deaths", self.armed),
            ("stops", self.stops),
            ("workers", self.workers),
            ("acknowledged", self.acknowledged),
            ("deltas", self.deltas),
            ("laps_small", self.laps_small),
            ("buses", self.buses),
            ("waiters_only", self.waiters_only),
            ("over_a_lap", self.over_a_lap),
        ];
        let classes = CLASSES.map(|c| (c, self.bad.get(c).copied().unwrap_or(0)));
        let recoveries = names.into_iter().zip(self.recoveries);
        fields.push(format!("\"violations\":{}", self.violations()));
        for (name, n) in counts.into_iter().chain(recoveries).chain(classes) {
            fields.push(format!("\"{name}\":{n}"));
        }
        format!("{{{}}}", fields.join(","))
    }
}

/// A worker as the parent knows it.
struct Writer {
    child: Child,
    armed: bool,
    stopped_until: Option<Instant>,
    joined: bool,
    /// When it was last heard of.
    heard: Instant,
    /// Acknowledgements of this life.
    acks: u64,
    /// Lives before this one, since the last acknowledgement, that may have committed one more and died before they
    /// could say so.
    unsaid: u64,
    /// What it said it was blocked by.
    blocked: Vec<String>,
}

struct Phase<'a> {
    report: &'a mut Report,
    rng: Rng,
    dir: tempfile::TempDir,
    checker: Child,
    writers: Vec<Option<Writer>>,
    /// Last acknowledged sequence number of each slot.
    acknowledged: [u64; WRITERS],
    /// Lives of each slot since then: each may have committed one more.
    unsaid: [u64; WRITERS],
    ring: u64,
    timeout: Duration,
    /// Slots in use.
    slots: usize,
}

/// Steps of every commit: a death leaves a claim, a READY record, an odd page, a lock.
const COMMIT_STEPS: &[&str] = &[
    "commit.claimed",
    "commit.held",
    "commit.written",
    "commit.ready",
    "commit.ready",
    "commit.odd",
    "commit.copied",
    "commit.lsn",
    "commit.locked",
    "transaction.odd",
];

/// Steps at which a death leaves something else, or less often.
const STEPS: &[&str] = &[
    "commit.locked",
    "commit.claimed",
    "commit.held",
    "commit.written",
    "commit.ready",
    "commit.odd",
    "commit.copied",
    "commit.lsn",
    "commit.even",
    "commit.unlocked",
    "group.odd",
    "group.copied",
    "group.lsn",
    "group.locked_one",
    "transaction.odd",
    "apply.odd",
    "apply.copied",
    "apply.lsn",
    "group.page",
    "cell.filled",
    "cell.published",
    "swap.live",
    "swap.entry",
    "create.index",
    "create.header",
    "create.entry",
    "names.cold",
    "names.by_id",
    "names.by_name",
    "destroy.entry",
    "destroy.names",
    "arena.noted",
    "arena.held",
    "grow.allocated",
    "limit.locked",
    "limit.raised",
    "follow.joining",
    "join.active",
    "lease.locked",
    "describe.attached",
];

const RECOVERY_STEPS: &[&str] = &[
    "recovery.begin",
    "recovery.sweep_noted",
    "recovery.padded",
    "recovery.redone",
    "recovery.freed_one",
    "recovery.freed",
    "recovery.released_one",
    "recovery.released",
    "recovery.let_go",
    "recovery.unblocked",
    "recovery.vacated",
];

fn me() -> Command {
    Command::new(std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe")))
}

/// Runs the soak.
///
/// # Errors
/// When a process cannot be started.
pub fn run(plan: &Plan) -> io::Result<Report> {
    let mut report = Report::default();
    let rng = Rng::new(plan.seed);
    let end = Instant::now() + Duration::from_secs_f64(plan.seconds);
    let slice = Duration::from_secs_f64((plan.seconds / 8.0).clamp(1.0, 15.0));
    let mut round = 0u64;
    while Instant::now() < end {
        let left = end.saturating_duration_since(Instant::now());
        let small = plan.ring.map_or(round / 3 % 2 == 1, |ring| ring < 65_536);
        let ring = plan
            .ring
            .unwrap_or(if small { SMALL_RING } else { DEFAULT_RING });
        let rng = rng.fork(round);
        match round % 3 {
            0 => {
                let mut phase = Phase::start(&mut report, rng, ring, 8, Duration::from_secs(20))?;
                phase.mixed(slice.min(left), plan.kills_per_second)?;
                phase.finish()?;
            }
            1 => {
                let mut phase =
                    Phase::start(&mut report, rng, ring, WRITERS, Duration::from_secs(20))?;
                phase.waiters_only(slice.min(left) / 3)?;
                phase.finish()?;
            }
            _ => {
                // A lap of the default ring takes too long on a loaded machine to be worth the wait.
                let ring = plan.ring.unwrap_or(SMALL_RING);
                let mut phase =
                    Phase::start(&mut report, rng, ring, 5, Duration::from_millis(300))?;
                phase.stopped_over_a_lap()?;
                phase.finish()?;
            }
        }
        round += 1;
    }
    Ok(report)
}

impl<'a> Phase<'a> {
    fn start(
        report: &'a mut Report,
        mut rng: Rng,
        ring: u64,
        slots: usize,
        timeout: Duration,
    ) -> io::Result<Phase<'a>> {
        let dir = tempfile::tempdir_in("/dev/shm")?;
        let mut checker = Child::spawn(
            me().arg("checker")
                .arg(dir.path())
                .arg(ring.to_string())
                .arg(rng.next_u64().to_string()),
        )?;
        checker.expect("ready", STUCK)?;
        report.buses += 1;
        Ok(Phase {
            report,
            rng,
            dir,
            checker,
            writers: (0..WRITERS).map(|_| None).collect(),
            acknowledged: [0; WRITERS],
            unsaid: [0; WRITERS],
            ring,
            timeout,
            slots,
        })
    }

    fn bad(&mut self, class: &str, text: &str) {
        eprintln!("mmsb-soak: {class}: {text} (ring of {} bytes)", self.ring);
        *self.report.bad.entry(class.to_owned()).or_default() += 1;
    }

    fn spawn(&mut self, slot: usize, armed: Option<(&str, u64, &str)>) -> io::Result<()> {
        let mut command = me();
        command
            .arg("worker")
            .arg(self.dir.path())
            .arg(slot.to_string())
            .arg(self.rng.next_u64().to_string())
            .arg(self.timeout.as_millis().to_string());
        if let Some((step, skip, action)) = armed {
            command.arg(step).arg(skip.to_string()).arg(action);
        }
        self.report.workers += 1;
        self.writers[slot] = Some(Writer {
            child: Child::spawn(&mut command)?,
            armed: armed.is_some_and(|(.., action)| action == "kill"),
            stopped_until: None,
            joined: false,
            heard: Instant::now(),
            acks: 0,
            unsaid: self.unsaid[slot],
            blocked: Vec::new(),
        });
        Ok(())
    }

    /// A worker, perhaps with a step to die or stop at.
    fn spawn_any(&mut self, slot: usize) -> io::Result<()> {
        let pick = |rng: &mut Rng, from: &[&'static str]| *rng.pick(from).unwrap_or(&"");
        let armed = match self.rng.below(12) {
            0..4 => Some((
                pick(&mut self.rng, COMMIT_STEPS),
                self.rng.below(60),
                "kill",
            )),
            4..6 => Some((pick(&mut self.rng, STEPS), self.rng.below(300), "kill")),
            6..9 => Some((
                pick(&mut self.rng, RECOVERY_STEPS),
                self.rng.below(2),
                "kill",
            )),
            9 => Some(("", self.rng.below(20_000), "kill")),
            10 => Some((pick(&mut self.rng, STEPS), self.rng.below(300), "stop")),
            _ => None,
        };
        self.spawn(slot, armed)
    }

    /// What has been said since the last time.
    fn listen(&mut self) {
        let mut complaints = Vec::new();
        for (slot, writer) in self.writers.iter_mut().enumerate() {
            let Some(writer) = writer else { continue };
            while let Ok(Some(line)) = writer.child.try_receive() {
                writer.heard = Instant::now();
                take_line(
                    &line,
                    slot,
                    writer,
                    &mut self.acknowledged,
                    self.report,
                    &mut complaints,
                );
            }
        }
        while let Ok(Some(line)) = self.checker.try_receive() {
            match line.strip_prefix("bad ") {
                Some(bad) => complaints.push(bad.to_owned()),
                None => complaints.push(format!("other the checker says {line:?}")),
            }
        }
        for complaint in complaints {
            let (class, text) = complaint.split_once(' ').unwrap_or((&complaint, ""));
            self.bad(class, text);
        }
    }

    /// Everything that a worker now dead has said, and whether its page agrees.
    fn bury(&mut self, slot: usize) -> io::Result<()> {
        let Some(mut writer) = self.writers[slot].take() else {
            return Ok(());
        };
        writer.child.kill()?;
        let mut complaints = Vec::new();
        for line in writer.child.last_lines() {
            take_line(
                &line,
                slot,
                &mut writer,
                &mut self.acknowledged,
                self.report,
                &mut complaints,
            );
        }
        for complaint in complaints {
            let (class, text) = complaint.split_once(' ').unwrap_or((&complaint, ""));
            self.bad(class, text);
        }
        self.unsaid[slot] = writer.unsaid + 1;
        self.check_own(slot)
    }

    /// Asks the checker for a writer's page.
    fn check_own(&mut self, slot: usize) -> io::Result<()> {
        let acknowledged = self.acknowledged[slot];
        let prefix = format!("own {slot} ");
        self.checker.send(&format!("own {slot}"))?;
        let found = self.answer(&prefix)?;
        let found: u64 = found.parse().unwrap_or(0);
        if found < acknowledged {
            let text = format!("writer {slot} committed {acknowledged}, its page says {found}");
            self.bad("lost", &text);
        }
        // Each life since may have committed one more and not said so.
        if self.writers[slot].is_none() && found > acknowledged + self.unsaid[slot] {
            let text = format!("writer {slot} said {acknowledged}, its page says {found}");
            self.bad("other", &text);
        }
        Ok(())
    }

    /// The checker's answer; its complaints on the way are counted.
    fn answer(&mut self, prefix: &str) -> io::Result<String> {
        let begin = Instant::now();
        loop {
            let line = match self.checker.receive(Duration::from_millis(20)) {
                Ok(line) => line,
                Err(e) if e.kind() == io::ErrorKind::TimedOut && begin.elapsed() < 2 * STUCK => {
                    // The checker may be waiting for somebody stopped.
                    for writer in self.writers.iter_mut().flatten() {
                        let _ = writer.child.resume();
                    }
                    continue;
                }
                Err(e) => {
                    self.bad("stuck", &format!("the checker: {e}"));
                    return Err(e);
                }
            };
            if let Some(rest) = line.strip_prefix(prefix) {
                return Ok(rest.to_owned());
            }
            if let Some(bad) = line.strip_prefix("bad ") {
                let (class, text) = bad.split_once(' ').unwrap_or((bad, ""));
                self.bad(class, text);
            }
        }
    }

    /// Workers that ended by themselves, as armed or as a fault; those silent for too long.
    fn look_after(&mut self) -> io::Result<()> {
        for slot in 0..self.slots {
            let Some(writer) = &mut self.writers[slot] else {
                continue;
            };
            if writer.stopped_until.is_some_and(|t| Instant::now() > t) {
                writer.stopped_until = None;
                writer.heard = Instant::now();
                let _ = writer.child.resume();
            }
            match writer.child.wait(Duration::ZERO)? {
                Some(status) => {
                    let armed = writer.armed;
                    self.bury(slot)?;
                    use std::os::unix::process::ExitStatusExt;
                    if status.signal() == Some(libc::SIGKILL) && armed {
                        self.report.armed += 1;
                    } else {
                        self.bad("other", &format!("writer {slot} ended: {status}"));
                    }
                }
                None if writer.heard.elapsed() > STUCK && writer.stopped_until.is_none() => {
                    let text = format!(
                        "writer {slot} (pid {}) is silent for {:?}, state {:?}",
                        writer.child.id(),
                        writer.heard.elapsed(),
                        process::state(writer.child.id())
                    );
                    self.bury(slot)?;
                    self.bad("stuck", &text);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Random kills and stops; whoever died is replaced.
    fn mixed(&mut self, time: Duration, kills_per_second: f64) -> io::Result<()> {
        let end = Instant::now() + time;
        let pause = Duration::from_secs_f64(1.0 / kills_per_second.max(0.1));
        let mut next_kill = Instant::now() + pause;
        let mut next_resume = Instant::now();
        while Instant::now() < end {
            self.listen();
            self.look_after()?;
            for slot in 0..self.slots {
                if self.writers[slot].is_none() {
                    self.spawn_any(slot)?;
                }
            }
            if Instant::now() >= next_kill {
                // Between half and one and a half of the pause: no rhythm to hide from.
                next_kill =
                    Instant::now() + pause.mul_f64(0.5 + self.rng.below(1000) as f64 / 1000.0);
                let slot = self.rng.below(self.slots as u64) as usize;
                if self.rng.chance(1, 3) {
                    let time = Duration::from_millis(1 + self.rng.below(40));
                    if let Some(writer) = &mut self.writers[slot]
                        && writer
                            .child
                            .signal(nix::sys::signal::Signal::SIGSTOP)
                            .is_ok()
                    {
                        writer.stopped_until = Some(Instant::now() + time);
                        self.report.stops += 1;
                    }
                } else if self.writers[slot].is_some() {
                    self.report.kills += 1;
                    self.bury(slot)?;
                }
            }
            if Instant::now() >= next_resume {
                // Those that stopped themselves, at a step.
                next_resume = Instant::now() + Duration::from_millis(50);
                for writer in self.writers.iter_mut().flatten() {
                    if writer.stopped_until.is_none() {
                        let _ = writer.child.resume();
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Until every worker has acknowledged something new.
    fn await_progress(&mut self, what: &str) -> io::Result<()> {
        let before: Vec<Option<u64>> = self
            .writers
            .iter()
            .map(|w| w.as_ref().map(|w| w.acks))
            .collect();
        let begin = Instant::now();
        loop {
            self.listen();
            // An armed one may come to its step meanwhile; no progress is expected of it.
            self.look_after()?;
            let waiting = self.writers.iter().zip(&before).position(
                |(w, before)| matches!((w, before), (Some(w), Some(before)) if w.acks == *before),
            );
            let Some(slot) = waiting else { return Ok(()) };
            if begin.elapsed() > STUCK {
                self.bad("stuck", &format!("{what}: writer {slot} commits nothing"));
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// Everybody is there; then one after the other dies, and nobody comes: only those who wait recover.
    fn waiters_only(&mut self, time: Duration) -> io::Result<()> {
        for slot in 0..self.slots {
            // Two live on; of the others, half die at a step, which comes once they are told to go on.
            let armed = (slot >= 2 && slot % 2 == 0).then(|| {
                let step = *self.rng.pick(STEPS).unwrap_or(&"");
                (step, 200 + self.rng.below(20_000), "kill")
            });
            self.spawn(slot, armed.filter(|(step, ..)| *step != "join.active"))?;
        }
        let begin = Instant::now();
        while self.writers.iter().flatten().any(|w| !w.joined) {
            self.listen();
            self.look_after()?;
            if begin.elapsed() > STUCK {
                self.bad("stuck", "workers do not join");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let pause = time / self.slots as u32;
        for slot in 2..self.slots {
            std::thread::sleep(pause);
            self.listen();
            self.look_after()?;
            if self.writers[slot].is_some() {
                self.report.kills += 1;
                self.bury(slot)?;
            }
            self.report.waiters_only += 1;
            self.await_progress("with nobody but waiters to recover")?;
        }
        Ok(())
    }

    /// A writer stopped inside a commit for over a lap: the others are told who it is, and go on after it does.
    fn stopped_over_a_lap(&mut self) -> io::Result<()> {
        for step in ["commit.held", "commit.ready"] {
            for slot in 1..self.slots {
                self.spawn(slot, None)?;
            }
            self.await_progress("at the start")?;
            self.spawn(0, Some((step, 30, "stop")))?;
            let pid = self.writers[0].as_ref().map_or(0, |w| w.child.id());
            let begin = Instant::now();
            while process::state(pid) != Some('T') {
                self.listen();
                if begin.elapsed() > STUCK {
                    self.bad("stuck", &format!("writer 0 does not come to {step}"));
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            self.report.stops += 1;
            for writer in self.writers.iter_mut().flatten() {
                writer.blocked.clear();
            }
            let begin = Instant::now();
            let named = format!("pid {pid})");
            loop {
                self.listen();
                let told = self.writers[1..self.slots]
                    .iter()
                    .flatten()
                    .all(|w| w.blocked.iter().any(|text| text.contains(&named)));
                if told {
                    break;
                }
                if begin.elapsed() > Duration::from_secs(15) {
                    let heard: Vec<_> = self.writers[1..self.slots]
                        .iter()
                        .flatten()
                        .map(|w| w.blocked.last().cloned())
                        .collect();
                    let text =
                        format!("not everybody is told of {named} stopped at {step}: {heard:?}");
                    self.bad("stuck", &text);
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            if let Some(writer) = &mut self.writers[0] {
                writer.child.resume()?;
            }
            self.report.over_a_lap += 1;
            self.await_progress("after SIGCONT")?;
            for slot in 0..self.slots {
                self.report.kills += 1;
                self.bury(slot)?;
            }
        }
        Ok(())
    }

    /// The workers end, half of them by a kill; the checker adds everything up.
    fn finish(mut self) -> io::Result<()> {
        for slot in 0..self.slots {
            if self.writers[slot].is_none() {
                continue;
            }
            if slot % 2 == 0 {
                self.report.kills += 1;
                self.bury(slot)?;
            } else if let Some(writer) = &mut self.writers[slot] {
                let _ = writer.child.resume();
                writer.child.close_input();
            }
        }
        for slot in (1..self.slots).step_by(2) {
            let Some(writer) = &mut self.writers[slot] else {
                continue;
            };
            let armed = writer.armed;
            let begin = Instant::now();
            let mut ended = None;
            // An armed stop may come on the way out.
            while ended.is_none() && begin.elapsed() < STUCK {
                let _ = writer.child.resume();
                ended = writer.child.wait(Duration::from_millis(20))?;
            }
            self.bury(slot)?;
            match ended {
                Some(status) if status.success() => {}
                Some(_) if armed => self.report.armed += 1,
                Some(status) => self.bad("other", &format!("writer {slot} ended: {status}")),
                None => self.bad("stuck", &format!("writer {slot} does not end")),
            }
        }
        for slot in 0..self.slots {
            self.check_own(slot)?;
        }
        self.checker.send("settle")?;
        let settled = self.answer("settled ")?;
        let numbers: Vec<u64> = settled.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [deltas, laps, _slabs, _ms, recoveries @ ..] = numbers.as_slice() else {
            return Err(io::Error::other(settled));
        };
        self.report.deltas += deltas;
        if self.ring == SMALL_RING {
            self.report.laps_small += laps;
        }
        for (sum, n) in self.report.recoveries.iter_mut().zip(recoveries) {
            *sum += n;
        }
        self.listen();
        self.checker.finish(STUCK)
    }
}

/// One line of a worker.
fn take_line(
    line: &str,
    slot: usize,
    writer: &mut Writer,
    acknowledged: &mut [u64; WRITERS],
    report: &mut Report,
    complaints: &mut Vec<String>,
) {
    match line.split_once(' ').unwrap_or((line, "")) {
        ("joined", _) => writer.joined = true,
        ("a", n) => {
            let n: u64 = n.parse().unwrap_or(0);
            // Each life before may have committed one more than it said.
            let next = acknowledged[slot] + 1;
            if !(next..=next + writer.unsaid).contains(&n) {
                let before = acknowledged[slot];
                complaints.push(format!("lost writer {slot} said {before}, then {n}"));
            }
            acknowledged[slot] = n;
            writer.unsaid = 0;
            writer.acks += 1;
            report.acknowledged += 1;
        }
        ("blocked", text) => {
            if writer.blocked.len() < 100 {
                writer.blocked.push(text.to_owned());
            }
        }
        ("bad", text) => complaints.push(text.to_owned()),
        _ => complaints.push(format!("other writer {slot} says {line:?}")),
    }
}
