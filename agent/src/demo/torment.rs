//! The parent: starts the processes, torments them by a plan, and judges by what it heard through pipes.
//!
//! It never maps the bus. What was acknowledged is in the [`Ledger`]; at the end the subscriber says what the ring
//! delivered and the observer what the pages hold, and both must reach at least as far.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::cli::exit::{Code, Failure};
use crate::cli::signals::Stop;

use super::crew::{Crew, Heard, Ledger, Role, Worker};
use super::message::{Followed, Message, Observed};
use super::model::Cast;
use super::plan::{Act, Plan};
use super::report::{Facts, Report};

/// Processes that share the sources.
pub const PUBLISHERS: usize = 2;
/// Silence of a process that is not stopped, after which it is called stuck.
const STUCK: Duration = Duration::from_secs(20);
/// Processes that may fail before the demo gives up.
const FAILURES_MAX: u64 = 20;
/// Pause between two looks at the processes and two pictures on the screen.
const TICK: Duration = Duration::from_millis(100);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the bus, which must not exist.
    pub bus: String,
    /// Where its segments go.
    pub dir: PathBuf,
    /// How long to go on.
    pub duration: Duration,
    /// Decides what is killed and when.
    pub seed: u64,
    /// Writing processes, 1 to [`super::content::WRITERS_MAX`].
    pub writers: usize,
    /// Kills in a second, on average.
    pub kills_per_second: f64,
    /// Size of the delta ring.
    pub ring_bytes: u64,
    /// Whether the bus stays when the demo ends.
    pub keep: bool,
}

/// The state of the demo as a screen shows it.
#[derive(Debug)]
pub struct Picture<'a> {
    /// What is run.
    pub options: &'a Options,
    /// Since the begin.
    pub elapsed: Duration,
    /// What happened so far.
    pub facts: &'a Facts,
    /// The last that the observer said.
    pub observed: &'a Observed,
    /// The last that the subscriber said.
    pub followed: &'a Followed,
    /// Deltas in a second, of late.
    pub rate: f64,
    /// Payload bytes in a second, of late.
    pub byte_rate: f64,
    /// How long commits take.
    pub commits: super::message::Latency,
    /// The processes and what they are doing.
    pub processes: Vec<(String, &'static str)>,
}

/// Where the state is shown.
pub trait Screen {
    /// Shows the state. `true`: somebody asks for the end.
    ///
    /// # Errors
    ///
    /// What writing gave.
    fn show(&mut self, picture: &Picture<'_>) -> std::io::Result<bool>;
}

struct Tormentor<'a> {
    options: &'a Options,
    cast: Cast,
    crew: Crew,
    ledger: Arc<Ledger>,
    heard: Receiver<Heard>,
    workers: Vec<Worker>,
    /// Whether there is a bus to be removed.
    is_set_up: bool,
    facts: Facts,
    observed: Observed,
    followed: Followed,
    /// Deltas and bytes at moments of the last two seconds.
    history: VecDeque<(Instant, u64, u64)>,
    begin: Instant,
}

/// Runs the demo to its end.
///
/// # Errors
///
/// What kept it from starting, such as a bus of that name. What goes wrong later is in the report.
pub fn run(options: &Options, stop: &Stop, screen: &mut dyn Screen) -> Result<Report, Failure> {
    let cast = Cast::new(options.writers);
    let internal = |e: hdrhistogram::errors::CreationError| Failure::problem(e.to_string());
    let ledger = Arc::new(Ledger::new(cast.streams()).map_err(internal)?);
    let (sender, heard) = channel();
    let begin = Instant::now();
    let program = std::env::current_exe()
        .map_err(|e| Failure::problem(format!("cannot find this program: {e}")))?;
    let arguments = [
        "--dir",
        &options.dir.to_string_lossy(),
        "demo-worker",
        &options.bus,
        &options.writers.to_string(),
        &options.ring_bytes.to_string(),
    ]
    .map(str::to_owned)
    .to_vec();
    let crew = Crew {
        program,
        arguments,
        ledger: Arc::clone(&ledger),
        heard: sender,
        begin,
        next: 0,
    };
    let mut tormentor = Tormentor {
        options,
        cast,
        crew,
        ledger,
        heard,
        workers: Vec::new(),
        is_set_up: false,
        facts: Facts::default(),
        observed: Observed::default(),
        followed: Followed::default(),
        history: VecDeque::new(),
        begin,
    };
    let result = tormentor.run(stop, screen);
    // Whoever is left dies here; then nothing maps the bus any more.
    tormentor.workers.clear();
    if tormentor.is_set_up && !options.keep {
        let removed = mmsb::Bus::unlink_in(&options.dir, &options.bus);
        if result.is_ok() {
            removed?;
        }
    }
    result
}

impl Tormentor<'_> {
    fn run(&mut self, stop: &Stop, screen: &mut dyn Screen) -> Result<Report, Failure> {
        self.set_up()?;
        // Each is awaited before the next one starts: the model must see the first delta.
        for role in [Role::Follow, Role::Observe] {
            self.start(role)?;
            self.await_ready(stop)?;
        }
        let publishers = (0..PUBLISHERS).map(Role::Publish);
        let writers = (0..self.options.writers).map(Role::Write);
        for role in publishers.chain(writers) {
            self.start(role)?;
        }
        let started = Instant::now();
        self.torment(started, stop, screen)?;
        self.facts.seconds = started.elapsed().as_secs_f64();
        let end = Instant::now();
        self.end_of(|role| matches!(role, Role::Write(_) | Role::Publish(_)));
        self.end_of(|role| role == Role::Follow);
        self.end_of(|role| role == Role::Observe);
        self.facts.ending_seconds = end.elapsed().as_secs_f64();
        self.facts.strange_lines = self.ledger.strange();
        self.facts.regressed = self.ledger.regressed();
        Ok(Report::new(
            self.options,
            &self.cast,
            std::mem::take(&mut self.facts),
            &self.ledger,
            &self.observed,
            &self.followed,
        ))
    }

    fn set_up(&mut self) -> Result<(), Failure> {
        let worker = self.spawn(Role::Setup)?;
        let status = worker.wait(STUCK);
        if status.is_some_and(|status| status.success()) {
            self.is_set_up = true;
            return Ok(());
        }
        self.listen();
        let message = match self.facts.failures.pop() {
            Some(message) => message,
            None => format!("the process that makes the bus ended with {status:?}"),
        };
        let code = match status.and_then(|status| status.code()) {
            Some(code) => Code::ALL.into_iter().find(|known| *known as i32 == code),
            None => None,
        };
        Err(Failure::new(code.unwrap_or(Code::Problem), message))
    }

    fn spawn(&mut self, role: Role) -> Result<Worker, Failure> {
        self.facts.processes += 1;
        self.crew
            .start(role)
            .map_err(|e| Failure::problem(format!("cannot start {role}: {e}")))
    }

    fn start(&mut self, role: Role) -> Result<(), Failure> {
        let worker = self.spawn(role)?;
        self.workers.push(worker);
        Ok(())
    }

    /// Waits until all are at work.
    fn await_ready(&mut self, stop: &Stop) -> Result<(), Failure> {
        let deadline = Instant::now() + STUCK;
        while self.workers.iter().any(|worker| !worker.is_ready) {
            if let Ok(heard) = self.heard.recv_timeout(TICK) {
                self.take(heard);
            }
            if let Some(message) = self.facts.failures.first() {
                return Err(Failure::problem(message.clone()));
            }
            if stop.is_requested() {
                return Err(Failure::problem("stopped before it began"));
            }
            if Instant::now() > deadline {
                return Err(Failure::new(Code::Busy, "a process did not start in time"));
            }
        }
        Ok(())
    }

    fn torment(
        &mut self,
        started: Instant,
        stop: &Stop,
        screen: &mut dyn Screen,
    ) -> Result<(), Failure> {
        let deadline = started + self.options.duration;
        let mut plan = Plan::new(self.options.seed, self.options.kills_per_second);
        let mut coming = plan.next();
        let mut act_at = coming.map(|(pause, _)| Instant::now() + pause);
        let mut tick_at = Instant::now();
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok(());
            }
            if stop.is_requested() {
                self.facts.ended_early = true;
                return Ok(());
            }
            for worker in &mut self.workers {
                if worker.stopped_until.is_some_and(|until| until <= now) {
                    worker.resume();
                    worker.forgive(self.begin);
                }
            }
            if let (Some((_, act)), Some(at)) = (coming, act_at)
                && at <= now
            {
                self.perform(act, now)?;
                coming = plan.next();
                act_at = coming.map(|(pause, _)| now + pause);
            }
            if tick_at <= now {
                self.look_after()?;
                self.remember(now);
                if screen.show(&self.picture(started))? {
                    self.facts.ended_early = true;
                    return Ok(());
                }
                tick_at = now + TICK;
            }
            let resumes = self
                .workers
                .iter()
                .filter_map(|worker| worker.stopped_until);
            let next = resumes.chain(act_at).chain([tick_at, deadline]).min();
            let pause = next.map_or(TICK, |next| next.saturating_duration_since(Instant::now()));
            match self.heard.recv_timeout(pause) {
                Ok(heard) => self.take(heard),
                // `self.crew` holds a sender, so the channel is never closed.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    fn perform(&mut self, act: Act, now: Instant) -> Result<(), Failure> {
        let (pick, is_target): (u64, fn(&Worker) -> bool) = match act {
            Act::KillWriter { pick } => (pick, |w| matches!(w.role, Role::Write(_))),
            Act::KillPublisher { pick } => (pick, |w| matches!(w.role, Role::Publish(_))),
            Act::StopWriter { pick, .. } => (pick, |w| {
                matches!(w.role, Role::Write(_)) && w.stopped_until.is_none()
            }),
        };
        let targets: Vec<usize> = (0..self.workers.len())
            .filter(|i| is_target(&self.workers[*i]))
            .collect();
        if targets.is_empty() {
            return Ok(());
        }
        let target = targets[(pick % targets.len() as u64) as usize];
        if let Act::StopWriter { stopped, .. } = act {
            self.workers[target].stop(now + stopped);
            self.facts.stops += 1;
            return Ok(());
        }
        let role = self.workers[target].role;
        self.workers.swap_remove(target).kill();
        match role {
            Role::Publish(_) => self.facts.kills_of_publishers += 1,
            _ => self.facts.kills_of_writers += 1,
        }
        self.start(role)
    }

    /// Finds the stuck and the failed, and puts others in their place.
    fn look_after(&mut self) -> Result<(), Failure> {
        let mut gone = Vec::new();
        for (i, worker) in self.workers.iter_mut().enumerate() {
            if let Some(status) = worker.ended() {
                gone.push((i, format!("{} ended by itself: {status}", worker.role)));
            } else if worker.stopped_until.is_none() && worker.silent_for(self.begin) > STUCK {
                self.facts.stuck.push(worker.role.to_string());
                gone.push((i, String::new()));
            }
        }
        for (i, why) in gone.into_iter().rev() {
            let worker = self.workers.swap_remove(i);
            let role = worker.role;
            worker.kill();
            self.listen();
            if !why.is_empty() {
                self.facts.fail(why);
            }
            if matches!(role, Role::Follow | Role::Observe)
                || self.facts.failure_count > FAILURES_MAX
            {
                return Err(Failure::problem(format!(
                    "the demo cannot go on: {}",
                    self.facts.failures.join("; ")
                )));
            }
            self.start(role)?;
        }
        Ok(())
    }

    /// Asks those to end, all at once, and waits for them.
    fn end_of(&mut self, is_one: fn(Role) -> bool) {
        let mut ending = Vec::new();
        let mut i = 0;
        while i < self.workers.len() {
            if is_one(self.workers[i].role) {
                let mut worker = self.workers.swap_remove(i);
                worker.resume();
                worker.ask_to_end();
                ending.push(worker);
            } else {
                i += 1;
            }
        }
        for worker in ending {
            let role = worker.role;
            match worker.wait(STUCK) {
                None => self.facts.stuck.push(role.to_string()),
                Some(status) if !status.success() => {
                    self.facts
                        .failures
                        .push(format!("{role} ended with {status}"));
                }
                Some(_) => {}
            }
            self.listen();
        }
    }

    /// Takes what was heard already.
    fn listen(&mut self) {
        while let Ok(heard) = self.heard.try_recv() {
            self.take(heard);
        }
    }

    fn take(&mut self, heard: Heard) {
        let worker = self
            .workers
            .iter_mut()
            .find(|worker| worker.number == heard.worker);
        match heard.message {
            Message::Ready { .. } => {
                // `None`: it was killed meanwhile.
                if let Some(worker) = worker {
                    worker.is_ready = true;
                }
            }
            Message::Failed { message } => self.facts.fail(message),
            Message::Observed(observed) => self.observed = observed,
            Message::Followed(followed) => self.followed = followed,
            // Nobody of this crew says so.
            Message::Cut(_) | Message::Remains(_) | Message::Examined(_) => {}
        }
    }

    fn remember(&mut self, now: Instant) {
        let sample = (now, self.followed.deltas, self.followed.bytes);
        self.history.push_back(sample);
        while self.history.len() > 2
            && now.duration_since(self.history[0].0) > Duration::from_secs(2)
        {
            self.history.pop_front();
        }
    }

    fn picture(&self, started: Instant) -> Picture<'_> {
        let (mut rate, mut byte_rate) = (0.0, 0.0);
        if let (Some(first), Some(last)) = (self.history.front(), self.history.back()) {
            let seconds = last.0.duration_since(first.0).as_secs_f64();
            if seconds > 0.0 {
                rate = last.1.saturating_sub(first.1) as f64 / seconds;
                byte_rate = last.2.saturating_sub(first.2) as f64 / seconds;
            }
        }
        let processes = self.workers.iter().map(|worker| {
            let doing = match (worker.stopped_until, worker.is_ready) {
                (Some(_), _) => "stopped",
                (None, true) => "at work",
                (None, false) => "attaching",
            };
            (worker.role.to_string(), doing)
        });
        let mut processes: Vec<_> = processes.collect();
        processes.sort();
        Picture {
            options: self.options,
            elapsed: started.elapsed(),
            facts: &self.facts,
            observed: &self.observed,
            followed: &self.followed,
            rate,
            byte_rate,
            commits: self.ledger.commits(),
            processes,
        }
    }
}
