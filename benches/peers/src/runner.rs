//! Starts the processes of each measurement, in turn over all contenders, and gathers what they report.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use mmsb_benches::lines::Lines;
use rand::RngExt;

use crate::contender::{Contender, Entry};
use crate::drive::recovery;
use crate::measure::{Round, cdf};
use crate::results::Case;
use crate::task::{ANSWER, CONTROL, EXTRA, Job, Task, now_ns};

/// Begins the name of everything that a run leaves in a directory while it lasts; its process id comes next.
const PREFIX: &str = "mmsb-peers-";

/// Removes what runs that were interrupted left in `base`.
pub fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let Some((pid, _)) = name.split_once('-') else {
            continue;
        };
        let is_gone = pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
        if is_gone {
            // What cannot be removed is somebody else's.
            let _ = match entry.file_type() {
                Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(entry.path()),
                _ => std::fs::remove_file(entry.path()),
            };
        }
    }
}

/// A process may take so long to say something, beyond the time it measures.
const PATIENCE: Duration = Duration::from_secs(40);

/// Points of a distribution that the results keep.
const POINTS: usize = 200;

/// One job in one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The job.
    pub job: Job,
    /// Bytes of one message or value.
    pub bytes: usize,
    /// Threads that commit.
    pub threads: usize,
    /// How long one round measures.
    pub millis: u64,
}

/// All jobs in all sizes, in the order in which they are run.
pub fn plans() -> Vec<Plan> {
    let plan = |job, bytes, threads, millis| Plan {
        job,
        bytes,
        threads,
        millis,
    };
    let mut plans = Vec::new();
    for bytes in [8, 64, 1024, 64 << 10, 1 << 20] {
        plans.push(plan(Job::OneWay, bytes, 1, 400));
    }
    plans.push(plan(Job::Throughput, 64, 1, 500));
    for job in [Job::ReadAlone, Job::UpdateAlone, Job::Contended] {
        for bytes in [64, 1024] {
            plans.push(plan(job, bytes, 1, 300));
        }
    }
    plans.push(plan(Job::Wake, 8, 1, 700));
    plans.push(plan(Job::LateJoin, 64, 1, 0));
    for threads in [1, 8, 64] {
        plans.push(plan(Job::Synced, 64, threads, 1000));
    }
    plans.push(plan(Job::Recovery, 64, 1, 0));
    plans
}

/// What all measurements have in common.
pub struct Runner {
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Measure for a short time only.
    pub quick: bool,
    /// The two cores.
    pub cpus: (usize, usize),
    /// A directory in shared memory.
    pub dir: PathBuf,
    /// A directory on the disk.
    pub disk: PathBuf,
}

impl Runner {
    /// Runs one job in one size, a round of each contender after the other. `said` hears of each round.
    pub fn run(
        &self,
        plan: Plan,
        contenders: &[Contender],
        mut said: impl FnMut(&Contender, &Result<Round, String>),
    ) -> Vec<Case> {
        let mut cases: Vec<(&Contender, Option<Entry>, Case)> = Vec::new();
        for contender in contenders {
            let entry = contender
                .entries
                .iter()
                .find(|entry| entry.job == plan.job && entry.sizes.contains(&plan.bytes));
            let lacks = contender.lacks.iter().find(|(job, _)| *job == plan.job);
            let skipped = match (entry, lacks, (contender.is_here)()) {
                (None, None, _) => continue,
                (None, Some((_, why)), _) => Some((*why).to_owned()),
                (Some(_), _, Err(why)) => Some(why),
                (Some(_), _, Ok(())) => None,
            };
            let case = Case {
                job: plan.job,
                bytes: plan.bytes,
                threads: (plan.job == Job::Synced).then_some(plan.threads),
                contender: contender.name.to_owned(),
                rounds: Vec::new(),
                cdf: Vec::new(),
                skipped,
            };
            cases.push((contender, entry.copied(), case));
        }
        let mut counts = vec![Vec::new(); cases.len()];
        for round in 0..self.rounds {
            for (at, (contender, entry, case)) in cases.iter_mut().enumerate() {
                let (Some(entry), None) = (entry, &case.skipped) else {
                    continue;
                };
                let done = self.round(plan, contender, entry, round);
                let done = done.map_err(|error| format!("{error:#}").replace('\n', " "));
                said(contender, &done);
                match done {
                    Ok(mut round) => {
                        counts[at].append(&mut round.counts);
                        case.rounds.push(round);
                    }
                    Err(why) => {
                        // What failed once is no result, whatever the other rounds gave.
                        case.rounds.clear();
                        case.skipped = Some(format!("failed: {why}"));
                    }
                }
            }
        }
        for ((_, _, case), counts) in cases.iter_mut().zip(counts) {
            if case.skipped.is_none() {
                case.cdf = cdf(&counts, POINTS);
            }
        }
        cases.into_iter().map(|(_, _, case)| case).collect()
    }

    fn round(&self, plan: Plan, contender: &Contender, entry: &Entry, at: usize) -> Result<Round> {
        match plan.job {
            Job::LateJoin => {
                let joins = if self.quick { 5 } else { 15 };
                self.scene(plan, contender, at, |scene| scene.late_join(entry, joins))
            }
            Job::Recovery => {
                let kills = if self.quick { 3 } else { 8 };
                let mut times = Vec::new();
                let (mut never, mut note) = (0, None);
                for _ in 0..kills {
                    let round = self.scene(plan, contender, at, |scene| scene.recovery(entry))?;
                    times.extend(round.p50_ns);
                    never += round.never.unwrap_or(0);
                    note = note.or(round.note);
                    // Ten seconds each: once is enough to know.
                    if never > 0 {
                        break;
                    }
                }
                Ok(Round {
                    never: Some(never),
                    note,
                    ..summary(&mut times)
                })
            }
            _ => self.scene(plan, contender, at, |scene| scene.pair(entry)),
        }
    }

    /// Makes the directories of one measurement, starts the server if there is one, and takes it all down afterwards.
    fn scene(
        &self,
        plan: Plan,
        contender: &Contender,
        at: usize,
        play: impl FnOnce(&mut Scene) -> Result<Round>,
    ) -> Result<Round> {
        let place = |base: &Path| {
            tempfile::Builder::new()
                .prefix(&format!("{PREFIX}{}-", std::process::id()))
                .tempdir_in(base)
                .with_context(|| format!("no directory in {}", base.display()))
        };
        let (dir, disk) = (place(&self.dir)?, place(&self.disk)?);
        let lines = Lines::create()?;
        let name = dir
            .path()
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        // Even rounds one way, odd ones the other: no core is on one side only.
        let cpus = match at % 2 {
            0 => self.cpus,
            _ => (self.cpus.1, self.cpus.0),
        };
        let task = Task {
            job: plan.job,
            bytes: plan.bytes,
            threads: plan.threads,
            contender: contender.name.to_owned(),
            name,
            dir: dir.path().to_owned(),
            disk: disk.path().to_owned(),
            cpus,
            millis: if self.quick {
                (plan.millis / 4).max(100)
            } else {
                plan.millis
            },
            lines: lines.number(),
            parent: std::process::id() as i32,
        };
        let server = match contender.server {
            Some(_) => {
                let mut server = Process::start("server", &task)?;
                server.expect("ready", PATIENCE)?;
                Some(server)
            }
            None => None,
        };
        let mut scene = Scene { task, lines };
        let done = play(&mut scene);
        drop(server);
        self.sweep(&scene.task.name);
        done
    }
}

impl Runner {
    /// Removes what killed processes left in shared memory under the name of the measurement.
    fn sweep(&self, name: &str) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return;
        };
        for entry in entries.flatten() {
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && entry.file_name().to_string_lossy().contains(name) {
                // Gone already, then.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Median, and the like, of times that are too few for a histogram.
fn summary(times: &mut [f64]) -> Round {
    times.sort_unstable_by(f64::total_cmp);
    let at = |quantile: f64| times.get(((times.len() as f64 - 1.0) * quantile).round() as usize);
    Round {
        p50_ns: at(0.5).copied(),
        p90_ns: at(0.9).copied(),
        min_ns: times.first().copied(),
        max_ns: times.last().copied(),
        samples: Some(times.len() as u64),
        counts: times.iter().map(|ns| (*ns, 1)).collect(),
        ..Round::default()
    }
}

/// The place of one measurement.
struct Scene {
    task: Task,
    lines: Lines,
}

impl Scene {
    /// A first and perhaps a second process, which run until they have reported.
    fn pair(&mut self, entry: &Entry) -> Result<Round> {
        let mut lead = Process::start("lead", &self.task)?;
        lead.expect("ready", PATIENCE)?;
        let mut peer = None;
        if entry.peer.is_some() {
            let mut process = Process::start("peer", &self.task)?;
            process.expect("ready", PATIENCE)?;
            process.go()?;
            peer = Some(process);
        }
        lead.go()?;
        let time = self.task.budget() + PATIENCE;
        let Some(mut peer) = peer else {
            return lead.report(time);
        };
        // Whichever fails first says why; the other would wait for it in vain.
        let (lead_said, peer_said) = hear_both(&mut lead, &mut peer, time)?;
        let round = lead_said.and(peer_said);
        lead.finish()?;
        peer.finish()?;
        Ok(round)
    }

    /// A host of the state, and processes that come later, one after the other.
    fn late_join(&mut self, entry: &Entry, joins: usize) -> Result<Round> {
        if entry.peer.is_none() {
            bail!("nobody would join");
        }
        let mut host = Process::start("lead", &self.task)?;
        host.expect("ready", PATIENCE)?;
        host.go()?;
        let mut times = Vec::new();
        for _ in 0..joins {
            let mut peer = Process::start("peer", &self.task)?;
            peer.expect("ready", PATIENCE)?;
            peer.go()?;
            times.extend(peer.report(PATIENCE)?.p50_ns);
            peer.finish()?;
        }
        self.lines.line(CONTROL).store(1);
        host.report(PATIENCE)?;
        host.finish()?;
        Ok(summary(&mut times))
    }

    /// A writer that is killed, its heir, and a reader.
    fn recovery(&mut self, entry: &Entry) -> Result<Round> {
        if entry.victim.is_none() {
            bail!("nobody would be killed");
        }
        let mut victim = Process::start("victim", &self.task)?;
        victim.expect("ready", PATIENCE)?;
        let mut reader = Process::start("peer", &self.task)?;
        reader.expect("ready", PATIENCE)?;
        let mut heir = Process::start("lead", &self.task)?;
        heir.expect("ready", PATIENCE)?;
        heir.go()?;
        reader.go()?;
        victim.go()?;
        let mut waited = 0;
        while self.lines.line(EXTRA).load() == 0 {
            std::thread::sleep(Duration::from_millis(1));
            waited += 1;
            if waited > 20_000 || victim.child.try_wait()?.is_some() {
                let why = victim.report(Duration::ZERO).err();
                return Err(why.unwrap_or_else(|| anyhow!("the writer did not get to write")));
            }
        }
        // At any instruction: of a writer that does nothing else.
        let micros = rand::rng().random_range(5_000..30_000);
        std::thread::sleep(Duration::from_micros(micros));
        let killed = now_ns();
        victim.child.kill()?;
        // Not before: the heir would begin beside a writer that lives.
        self.lines.line(CONTROL).store(killed);
        // Nothing of it is left, not even its entry in the list of processes.
        victim.child.wait()?;
        let time = recovery::PATIENCE * 2;
        let (heir_said, reader_said) = hear_both(&mut heir, &mut reader, time)?;
        let is_never = self.lines.line(ANSWER).load() == u64::MAX;
        let round = heir_said.and(reader_said);
        if !is_never && round.p50_ns.is_none() {
            bail!("nobody saw the heir's value, and nobody gave up");
        }
        Ok(round)
    }
}

/// What both report, whoever is first; the first failure at once.
fn hear_both(a: &mut Process, b: &mut Process, time: Duration) -> Result<(Round, Round)> {
    let end = std::time::Instant::now() + time;
    let (mut from_a, mut from_b) = (None, None);
    while from_a.is_none() || from_b.is_none() {
        for (process, said) in [(&mut *a, &mut from_a), (&mut *b, &mut from_b)] {
            if said.is_some() {
                continue;
            }
            *said = process.try_report(Duration::from_millis(2))?;
        }
        if std::time::Instant::now() > end {
            bail!("no result after {time:?}");
        }
    }
    Ok((from_a.unwrap_or_default(), from_b.unwrap_or_default()))
}

/// A process of a measurement. Killed when dropped.
struct Process {
    role: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    fn start(role: &'static str, task: &Task) -> Result<Process> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["role", role, &serde_json::to_string(task)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("a process without output")?;
        let stdin = child.stdin.take();
        let (sender, lines) = mpsc::channel();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Process {
            role,
            child,
            stdin,
            lines,
        })
    }

    /// Its next line, if it comes in time; what it failed of is an error.
    fn hear(&mut self, time: Duration) -> Result<Option<String>> {
        match self.lines.recv_timeout(time) {
            Ok(line) => match line.strip_prefix("failed ") {
                Some(why) => bail!("{}: {why}", self.role),
                None => Ok(Some(line)),
            },
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                // It may only have closed its output.
                self.child.kill()?;
                let status = self.child.wait()?;
                bail!("{}: ended, {status}", self.role)
            }
        }
    }

    fn expect(&mut self, what: &str, time: Duration) -> Result<()> {
        match self.hear(time)? {
            Some(said) if said == what => Ok(()),
            Some(said) => bail!("{}: said {said:?}", self.role),
            None => bail!("{}: not {what} after {time:?}", self.role),
        }
    }

    fn go(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("a process without input")?;
        writeln!(stdin, "go").context("a process is gone before it began")
    }

    fn try_report(&mut self, time: Duration) -> Result<Option<Round>> {
        let Some(line) = self.hear(time)? else {
            return Ok(None);
        };
        let round =
            serde_json::from_str(&line).with_context(|| format!("{}: said {line:?}", self.role))?;
        Ok(Some(round))
    }

    fn report(&mut self, time: Duration) -> Result<Round> {
        self.try_report(time)?
            .with_context(|| format!("{}: no result after {time:?}", self.role))
    }

    /// Waits for its end.
    fn finish(mut self) -> Result<()> {
        for _ in 0..5_000 {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("{}: ended, {status}", self.role);
                }
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("{}: does not end", self.role)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_run_left_is_removed_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        // No process has this id.
        let gone = format!("{PREFIX}4194305-x");
        let mine = format!("{PREFIX}{}-x", std::process::id());
        let kept = [mine.as_str(), "mmsb-peers-x", "mmsb-peers-4194305", "else"];
        for name in kept.iter().copied().chain([gone.as_str()]) {
            std::fs::create_dir(base.path().join(name)).unwrap();
            std::fs::write(base.path().join(name).join("inside"), "").unwrap();
        }
        std::fs::write(base.path().join(format!("{gone}_service")), "").unwrap();
        sweep(base.path());
        let mut left: Vec<_> = std::fs::read_dir(base.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut kept: Vec<_> = kept.map(str::to_owned).into();
        kept.sort();
        assert_eq!(left, kept);
    }

    #[test]
    fn every_job_is_planned_once_in_each_size() {
        let plans = plans();
        for (at, plan) in plans.iter().enumerate() {
            assert_eq!(plans.iter().position(|other| other == plan), Some(at));
            assert!(plan.bytes % 8 == 0 && plan.threads > 0);
        }
        for job in Job::ALL {
            assert!(plans.iter().any(|plan| plan.job == job), "{job}");
        }
    }

    #[test]
    fn a_few_times_have_a_median() {
        let round = summary(&mut [3.0, 1.0, 2.0]);
        assert_eq!((round.p50_ns, round.max_ns), (Some(2.0), Some(3.0)));
        assert_eq!(summary(&mut []).p50_ns, None);
    }
}
