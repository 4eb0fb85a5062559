//! The demo with a log: the agent is killed, then everybody, and the segments are removed as a reboot would.
//!
//! | process | what it does |
//! | --- | --- |
//! | agents | `mmsb-agent`: one supervises the bus, the next one waits as standby |
//! | writers, publishers | two and one `Synced`, one and one `Buffered`, one `Volatile` ([`promise_of`]) |
//! | witness | cuts of the running bus, and their state hashes, once they are durable |
//! | coroner | reads `durable_lsn` from the segments of the dead |
//! | examiner | the rebuilt bus beside its log: state hashes, positions, verification, a difference |
//! | parent | kills, removes, restarts; hears acknowledgements by pipe; never maps the bus |
//!
//! It holds that nothing acknowledged was lost if, behind every reboot, every `Synced` write that was acknowledged through
//! a pipe is in its page, the log goes at least to the `durable_lsn` of the dead, and three states have one hash each at
//! one LSN: the rebuilt bus and the log replayed to its end; every cut of the living bus and the log replayed to the LSN
//! of that cut.

pub mod agents;
pub mod examine;
pub mod report;
pub mod witness;
pub mod write;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use mmsb::{Bus, Durability, checkpoint};
use nix::sys::signal::Signal;

use crate::cli::exit::{Code, Failure, io_code};
use crate::cli::signals::Stop;
use crate::cli::table::duration;

use self::agents::{Agent, Site};
use self::report::{Durable, Reboot};
use super::crew::{Crew, Heard, Ledger, Role, Worker};
use super::message::{Cut, Examined, Message, Remains};
use super::model::Cast;
use super::torment::PUBLISHERS;

/// Writers: two `Synced`, one `Buffered`, one `Volatile`.
pub const WRITERS: usize = 4;
/// Age at which a `Buffered` delta is on its way to the disk.
pub const AGE: Duration = Duration::from_millis(20);
/// How long anything may take that should take milliseconds.
pub const STUCK: Duration = Duration::from_secs(20);
/// Agents killed while others stand by.
const KILLS: u32 = 3;
/// How long there is no agent at all.
const ORPHANED: Duration = Duration::from_millis(150);
/// Pause between two looks at everything.
const TICK: Duration = Duration::from_millis(10);
/// How much of the past is kept to tell how old a lost delta was.
const PAST: Duration = Duration::from_secs(5);
/// Cuts that are compared behind each reboot.
const CUTS: usize = 6;

/// What a writing process promises to those that it acknowledges to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// On disk.
    Synced,
    /// On its way to the disk soon.
    Buffered,
    /// None.
    Volatile,
}

impl Promise {
    /// As the library calls it.
    pub fn durability(self) -> Durability {
        match self {
            Promise::Synced => Durability::Synced,
            Promise::Buffered => Durability::Buffered(AGE),
            Promise::Volatile => Durability::Volatile,
        }
    }
}

/// What a process of this act promises.
pub fn promise_of(role: Role) -> Promise {
    match role {
        Role::Write(0 | 1) | Role::Publish(0) => Promise::Synced,
        Role::Write(2) | Role::Publish(_) => Promise::Buffered,
        _ => Promise::Volatile,
    }
}

/// The promise of whoever writes this stream.
fn promise_of_stream(cast: &Cast, stream: usize) -> Promise {
    promise_of(if stream < 2 * WRITERS {
        Role::Write(stream % WRITERS)
    } else {
        Role::Publish((stream - cast.source(0)) % PUBLISHERS)
    })
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the bus, which must not exist.
    pub bus: String,
    /// Where its segments go.
    pub dir: PathBuf,
    /// Where the log goes, below which a directory is made; `None`: where there is a disk.
    pub log: Option<PathBuf>,
    /// How long processes are at work, over all generations.
    pub duration: Duration,
    /// Size of the ring.
    pub ring_bytes: u64,
    /// Whether the bus and its log stay when it ends.
    pub keep: bool,
    /// Loses the last file of the log at the first reboot, which must be found out.
    pub lose_last_file: bool,
}

struct Stage<'a> {
    options: &'a Options,
    stop: &'a Stop,
    say: &'a mut dyn FnMut(&str),
    cast: Cast,
    site: Site,
    ledger: Arc<Ledger>,
    crew: Crew,
    heard: Receiver<Heard>,
    /// The first one supervises, or is about to.
    agents: Vec<Agent>,
    agents_started: u64,
    workers: Vec<Worker>,
    /// What was acknowledged at moments of the last few seconds.
    past: VecDeque<(Instant, Vec<u64>)>,
    cuts: Vec<Cut>,
    remains: Option<Remains>,
    examined: Option<Examined>,
    durable: Durable,
}

/// The directory of everything that this act writes. Dropping it removes it, unless there was an act and what it wrote
/// shall be kept.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    keep: bool,
}

impl Drop for Root {
    fn drop(&mut self) {
        if !self.keep {
            // Whoever looks for it finds it by the name of the bus.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Sees whether there is room for the bus and its log, ahead of all that takes long.
///
/// # Errors
///
/// That there is such a bus, or that no directory for the log can be made.
pub fn prepare(options: &Options) -> Result<Root, Failure> {
    let Options { bus, dir, .. } = options;
    // It would be adopted, and removed at the end.
    if Bus::list_in(dir).is_ok_and(|names| names.contains(bus)) {
        return Err(Failure::new(
            Code::Exists,
            format!("bus {bus:?} exists already: remove it, or name another one with --bus"),
        ));
    }
    let path = agents::make_root(options.log.as_deref(), bus).map_err(|e| {
        let place = options.log.as_ref();
        let place = place.map_or(String::new(), |dir| format!(" in {}", dir.display()));
        Failure::new(
            io_code(&e),
            format!("cannot make a directory for the log{place}: {e}"),
        )
    })?;
    Ok(Root { path, keep: false })
}

/// Runs it to its end. `say` hears what happens, a line at a time.
///
/// # Errors
///
/// What kept it from starting. What goes wrong later is in the report.
pub fn run(
    options: &Options,
    mut root: Root,
    stop: &Stop,
    say: &mut dyn FnMut(&str),
) -> Result<Durable, Failure> {
    root.keep = options.keep;
    let cast = Cast::new(WRITERS);
    let program = std::env::current_exe()
        .map_err(|e| Failure::problem(format!("cannot find this program: {e}")))?;
    let file_system = agents::file_system(&root.path);
    let site = Site {
        program,
        root: root.path.clone(),
        bus: options.bus.clone(),
        segments: options.dir.clone(),
        ring_bytes: options.ring_bytes,
    };
    let begin = Instant::now();
    let (ledger, crew, heard) = crew(&site, &cast)?;
    let mut stage = Stage {
        options,
        stop,
        say,
        cast,
        ledger,
        crew,
        heard,
        agents: Vec::new(),
        agents_started: 0,
        workers: Vec::new(),
        past: VecDeque::new(),
        cuts: Vec::new(),
        remains: None,
        examined: None,
        durable: Durable {
            log: site.log(),
            on_disk: agents::is_on_disk(&file_system),
            file_system,
            ..Durable::default()
        },
        site,
    };
    let result = stage.run();
    if let Err(failure) = &result {
        let mut message = failure.message.clone();
        if let Some(agent) = stage.agents.first() {
            message = format!("{message}; the agent's last words: {}", agent.last_words());
        }
        stage.durable.problems.push(message);
    }
    // Whoever is left dies here; then nothing maps the bus any more.
    stage.workers.clear();
    stage.agents.clear();
    let mut durable = std::mem::take(&mut stage.durable);
    if !options.keep {
        // It is not there if it never was, or was not rebuilt; the segments of a test must not stay either way.
        if Bus::list_in(&options.dir).is_ok_and(|names| names.contains(&options.bus)) {
            Bus::unlink_in(&options.dir, &options.bus)?;
        }
    }
    drop(root);
    durable.seconds = begin.elapsed().as_secs_f64();
    durable.ok = durable.problems.is_empty();
    Ok(durable)
}

/// Those who start processes and hear them, for one generation.
fn crew(site: &Site, cast: &Cast) -> Result<(Arc<Ledger>, Crew, Receiver<Heard>), Failure> {
    let internal = |e: hdrhistogram::errors::CreationError| Failure::problem(e.to_string());
    let ledger = Arc::new(Ledger::new(cast.streams()).map_err(internal)?);
    let (sender, heard) = channel();
    let crew = Crew {
        program: site.program.clone(),
        arguments: arguments(site, &[]),
        ledger: Arc::clone(&ledger),
        heard: sender,
        begin: Instant::now(),
        next: 0,
    };
    Ok((ledger, crew, heard))
}

/// Arguments of a process ahead of its role.
fn arguments(site: &Site, at: &[u64]) -> Vec<String> {
    let mut arguments = vec![
        "--dir".to_owned(),
        site.segments.to_string_lossy().into_owned(),
        "demo-worker".to_owned(),
        "--log".to_owned(),
        site.log().to_string_lossy().into_owned(),
    ];
    for lsn in at {
        arguments.extend(["--at".to_owned(), lsn.to_string()]);
    }
    arguments.extend([
        site.bus.clone(),
        WRITERS.to_string(),
        site.ring_bytes.to_string(),
    ]);
    arguments
}

impl Stage<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        self.site.write_config()?;
        self.start_agent()?;
        self.wait_for(Role::Setup)?;
        self.start_agent()?;
        self.crowd()?;
        let part = self.options.duration / (KILLS + 4);
        for _ in 0..KILLS {
            self.go_on(part)?;
            if self.stop.is_requested() {
                break;
            }
            self.kill_agent()?;
        }
        self.go_on(part)?;
        if !self.stop.is_requested() {
            self.orphan()?;
        }
        // Also if somebody is in a hurry: what was written by now is to be found again.
        self.go_on(part)?;
        self.reboot()?;
        if !self.stop.is_requested() {
            // What was rebuilt is written on, and lost again.
            let (ledger, crew, heard) = crew(&self.site, &self.cast)?;
            (self.ledger, self.crew, self.heard) = (ledger, crew, heard);
            self.past.clear();
            self.crowd()?;
            self.go_on(part * 2)?;
            self.reboot()?;
        }
        self.durable.ended_early = self.stop.is_requested();
        for agent in self.agents.drain(..) {
            agent.signal(Signal::SIGTERM);
            match agent.wait(STUCK) {
                Some(status) if status.success() => {}
                Some(status) => self.durable.problems.push(format!("an agent: {status}")),
                None => self
                    .durable
                    .problems
                    .push("an agent did not end at SIGTERM".to_owned()),
            }
        }
        Ok(())
    }

    fn start_agent(&mut self) -> Result<(), Failure> {
        self.agents_started += 1;
        let agent = self.site.start(self.agents_started);
        let agent = agent.map_err(|e| Failure::problem(format!("cannot start an agent: {e}")))?;
        self.agents.push(agent);
        Ok(())
    }

    fn spawn(&mut self, role: Role) -> Result<Worker, Failure> {
        self.crew
            .start(role)
            .map_err(|e| Failure::problem(format!("cannot start {role}: {e}")))
    }

    /// Runs a process to its end.
    fn wait_for(&mut self, role: Role) -> Result<(), Failure> {
        let worker = self.spawn(role)?;
        let status = worker.wait(STUCK * 2);
        let before = self.durable.problems.len();
        self.listen();
        match status {
            Some(status) if status.success() => Ok(()),
            // It said why.
            Some(_) if self.durable.problems.len() > before => {
                let why = self.durable.problems.pop().unwrap_or_default();
                Err(Failure::problem(why))
            }
            Some(status) => Err(Failure::problem(format!("{role} ended with {status}"))),
            None => Err(Failure::problem(format!("{role} was stuck"))),
        }
    }

    /// Starts everybody who works on the bus, and waits until they do.
    fn crowd(&mut self) -> Result<(), Failure> {
        let writers = (0..WRITERS).map(Role::Write);
        let publishers = (0..PUBLISHERS).map(Role::Publish);
        for role in writers.chain(publishers).chain([Role::Witness]) {
            let worker = self.spawn(role)?;
            self.workers.push(worker);
        }
        let deadline = Instant::now() + STUCK;
        while self.workers.iter().any(|worker| !worker.is_ready) {
            self.look()?;
            if Instant::now() > deadline {
                return Err(Failure::problem("a process did not start in time"));
            }
        }
        Ok(())
    }

    /// Lets them work.
    fn go_on(&mut self, time: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && !self.stop.is_requested() {
            self.look()?;
        }
        Ok(())
    }

    /// Listens for a moment, and sees whether all are well.
    fn look(&mut self) -> Result<(), Failure> {
        if let Ok(heard) = self.heard.recv_timeout(TICK) {
            self.take(heard);
            self.listen();
        }
        let now = Instant::now();
        self.past.push_back((now, self.ledger.acked()));
        while self.past.len() > 2 && now.duration_since(self.past[1].0) > PAST {
            self.past.pop_front();
        }
        for worker in &mut self.workers {
            if let Some(status) = worker.ended() {
                let role = worker.role;
                self.listen();
                return Err(Failure::problem(format!(
                    "{role} ended by itself: {status}"
                )));
            }
        }
        for agent in &mut self.agents {
            if let Some(status) = agent.ended() {
                return Err(Failure::problem(format!(
                    "an agent ended by itself: {status}: {}",
                    agent.last_words()
                )));
            }
        }
        Ok(())
    }

    fn listen(&mut self) {
        while let Ok(heard) = self.heard.try_recv() {
            self.take(heard);
        }
    }

    fn take(&mut self, heard: Heard) {
        let is_it = |worker: &&mut Worker| worker.number == heard.worker;
        match heard.message {
            Message::Ready { .. } => {
                if let Some(worker) = self.workers.iter_mut().find(is_it) {
                    worker.is_ready = true;
                }
            }
            Message::Failed { message } => self.durable.problems.push(message),
            Message::Cut(cut) => self.cuts.push(cut),
            Message::Remains(remains) => self.remains = Some(remains),
            Message::Examined(examined) => self.examined = Some(*examined),
            Message::Observed(_) | Message::Followed(_) => {}
        }
    }

    /// Waits until every writer of `Synced` had two writes acknowledged since `before`: the second of them began after
    /// it.
    fn await_synced(&mut self, before: &[u64]) -> Result<(), Failure> {
        let deadline = Instant::now() + STUCK;
        let own: Vec<usize> = (0..WRITERS)
            .filter(|writer| promise_of(Role::Write(*writer)) == Promise::Synced)
            .map(|writer| self.cast.own(writer))
            .collect();
        loop {
            let now = self.ledger.acked();
            if own.iter().all(|stream| now[*stream] >= before[*stream] + 2) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::problem(format!(
                    "no Synced write got through within {STUCK:?} behind the death of an agent"
                )));
            }
            self.look()?;
        }
    }

    /// Kills the agent that supervises; the standby takes over.
    fn kill_agent(&mut self) -> Result<(), Failure> {
        let died = Instant::now();
        self.agents.remove(0).kill();
        let before = self.ledger.acked();
        self.await_synced(&before)?;
        self.took_over(died, "another one took over");
        self.start_agent()
    }

    /// Kills all agents, and starts one a little later.
    fn orphan(&mut self) -> Result<(), Failure> {
        let died = Instant::now();
        for agent in &self.agents {
            agent.signal(Signal::SIGKILL);
        }
        self.durable.agents_killed += self.agents.len() as u64 - 1;
        self.agents.clear();
        let before = self.ledger.acked();
        self.go_on(ORPHANED)?;
        let after = self.ledger.acked();
        self.durable.unsupervised_ms = died.elapsed().as_secs_f64() * 1e3;
        let own = self.cast.own(WRITERS - 1);
        self.durable.unsupervised_writes = after[own] - before[own];
        self.start_agent()?;
        self.await_synced(&before)?;
        self.took_over(died, "there was none for a while");
        Ok(())
    }

    fn took_over(&mut self, died: Instant, how: &str) {
        let waited = died.elapsed();
        self.durable.agents_killed += 1;
        let longest = &mut self.durable.longest_wait_ms;
        *longest = longest.max(waited.as_secs_f64() * 1e3);
        (self.say)(&format!(
            "agent killed: {how}; Synced writes go on after {}",
            duration(waited)
        ));
    }

    /// Kills everybody, removes the segments, starts an agent, and examines what it made of the log.
    fn reboot(&mut self) -> Result<(), Failure> {
        // There must be something to lose: acknowledgements since the last change of agents, and a cut to compare.
        let before = self.ledger.acked();
        self.await_synced(&before)?;
        let deadline = Instant::now() + STUCK;
        while self.cuts.is_empty() && Instant::now() < deadline {
            self.look()?;
        }
        let struck = Instant::now();
        for worker in &self.workers {
            worker.strike();
        }
        for agent in &self.agents {
            agent.signal(Signal::SIGKILL);
        }
        let killed = self.workers.len() + self.agents.len();
        for worker in self.workers.drain(..) {
            worker.kill();
        }
        self.agents.clear();
        self.listen();
        let acked = self.ledger.acked();
        if self.durable.reboots.is_empty() {
            self.durable.synced_commit = self.ledger.commits();
        }
        self.wait_for(Role::Coroner)?;
        let Some(remains) = self.remains.take() else {
            return Err(Failure::problem("the coroner said nothing"));
        };
        Bus::unlink_in(&self.options.dir, &self.options.bus)?;
        if self.options.lose_last_file && self.durable.reboots.is_empty() {
            self.lose_last_file()?;
        }
        let begin = Instant::now();
        self.start_agent()?;
        let cuts = self.cuts.split_off(self.cuts.len().saturating_sub(CUTS));
        self.cuts.clear();
        let at: Vec<u64> = cuts.iter().map(|cut| cut.lsn).collect();
        self.crew.arguments = arguments(&self.site, &at);
        let outcome = self.wait_for(Role::Examine);
        self.crew.arguments = arguments(&self.site, &[]);
        outcome?;
        let Some(examined) = self.examined.take() else {
            return Err(Failure::problem("the examiner said nothing"));
        };
        let mut reboot = Reboot {
            killed: killed as u64,
            remains,
            seconds: begin.elapsed().as_secs_f64(),
            ..Reboot::default()
        };
        for (stream, acked) in acked.iter().enumerate() {
            let last = examined.last.get(stream).copied().unwrap_or(0);
            let missing = acked.saturating_sub(last);
            let toll = match promise_of_stream(&self.cast, stream) {
                Promise::Synced => &mut reboot.synced,
                Promise::Buffered => &mut reboot.buffered,
                Promise::Volatile => &mut reboot.volatile,
            };
            toll.acknowledged += acked;
            toll.lost += missing;
            if missing > 0 {
                // The last time when everything that was heard of is there: nothing lost is older than that.
                let seen = self.past.iter().rfind(|(_, acked)| acked[stream] <= last);
                let age = seen.map_or(PAST, |(at, _)| struck.duration_since(*at));
                toll.oldest_lost_ms = toll.oldest_lost_ms.max(age.as_secs_f64() * 1e3);
            }
        }
        let number = self.durable.reboots.len() + 1;
        for problem in reboot.judge(&cuts, examined, &self.cast) {
            self.durable
                .problems
                .push(format!("reboot {number}: {problem}"));
        }
        (self.say)(&format!(
            "all {killed} processes killed, segments removed, bus back from its log after {}: LSN {}",
            duration(begin.elapsed()),
            reboot.fork_lsn
        ));
        if self.durable.diff.is_none() {
            self.durable.diff = reboot.diff.take();
        }
        self.durable.reboots.push(reboot);
        Ok(())
    }

    /// The fault that the proof has to find: a disk as it was a moment ago. The checkpoints that hold what is lost go with
    /// it, or the library itself would find it out, and refuse.
    fn lose_last_file(&self) -> Result<(), Failure> {
        let dir = self.site.log();
        let survey = mmsb::tlog::survey(&dir)?;
        // Two, if there are: the last one may have been begun so late that nobody had anything acknowledged from it.
        let mut written = survey.files.iter().filter(|f| f.end_lsn > f.first_lsn);
        let last = written.next_back();
        let Some(lost_lsn) = written.next_back().or(last).map(|file| file.first_lsn) else {
            return Ok(());
        };
        let files = survey.files.iter().filter(|f| f.first_lsn >= lost_lsn);
        let checkpoints = checkpoint::list(&dir)?;
        let checkpoints = checkpoints.iter().filter(|c| c.end_lsn > lost_lsn);
        for path in files.map(|f| &f.path).chain(checkpoints.map(|c| &c.path)) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_is_kept_by_somebody_and_every_stream_has_one() {
        let cast = Cast::new(WRITERS);
        let promises: Vec<Promise> = (0..cast.streams())
            .map(|stream| promise_of_stream(&cast, stream))
            .collect();
        for writer in 0..WRITERS {
            let promise = promise_of(Role::Write(writer));
            assert_eq!(promises[cast.own(writer)], promise);
            assert_eq!(promises[cast.counter(writer)], promise);
        }
        assert_eq!(promises[cast.source(1)], promise_of(Role::Publish(1)));
        for promise in [Promise::Synced, Promise::Buffered, Promise::Volatile] {
            assert!(promises.contains(&promise), "{promise:?}");
        }
    }
}
