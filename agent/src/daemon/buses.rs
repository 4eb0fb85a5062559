//! One thread for each bus: it opens the bus, recovers the dead, supervises the log, watches limits, and writes down what
//! it saw where HTTP finds it.
//!
//! A bus that stands still holds up no other one. A round of looking takes a fraction of a millisecond on a small bus; on
//! a large one the tables are read less often, so that looking never takes more than a quarter per cent of a core.
//!
//! Nobody outside this thread touches the bus. What others want to know is in a [`BusView`], what they want is an order.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mmsb::{Bus, BusInfo, Stats};
use serde_json::{Value, json};

use super::config::{BusConfig, Config, OnDeleted};
use super::limits::{self, Standing, Use};
use super::supervise::{self, LogSeen, LogState, Role, Supervised, Supervision};
use crate::cli::doctor;
use crate::cli::exit::Failure;
use crate::sampling::{HotPage, HotPages, Log2Micros};

/// How much of the past a view holds.
const HISTORY: Duration = Duration::from_secs(600);
/// Pause between two samples of the past.
const SAMPLE: Duration = Duration::from_secs(1);
/// Pages in a view.
const HOT_PAGES: usize = 20;
/// The tables of a bus are read for at most one part in so many of the time.
const SHARE: u32 = 400;
/// Longest wait for a sample of how long a commit takes to be durable.
const PROBE: Duration = Duration::from_millis(200);
/// Deltas that wait so long for the disk are held up by more than a slow disk.
const STALLED: Duration = Duration::from_secs(30);
/// A bus that was not looked at for so long beyond its interval is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// What is wrong with a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What kind it is, for programs.
    pub kind: &'static str,
    /// What of that kind, so that each is said once.
    pub subject: String,
    /// One sentence.
    pub message: String,
}

impl Problem {
    fn new(kind: &'static str, subject: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem {
            kind,
            subject: subject.into(),
            message: message.into(),
        }
    }
}

/// Where the agent is with a bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It is opened, or rebuilt.
    #[default]
    Opening,
    /// It is not there, or cannot be joined.
    Away,
    /// The agent is a participant of it.
    Attached,
    /// Its segments have no name any more, but some may still use them.
    Deleted,
}

impl Phase {
    /// The name in JSON and on pages.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Opening => "opening",
            Phase::Away => "away",
            Phase::Attached => "attached",
            Phase::Deleted => "deleted",
        }
    }
}

/// A bus at one moment of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// CLOCK_REALTIME, ms.
    pub at_ms: u64,
    /// Deltas a second.
    pub delta_rate: f64,
    /// How far the slowest cursor was behind, in ring slots.
    pub cursor_lag: u64,
    /// Age in seconds of the oldest delta that was not durable; `None` without a log.
    pub durable_lag_s: Option<f64>,
    /// Median time of durable writes since the sample before, in seconds.
    pub write_p50_s: Option<f64>,
    /// 99th percentile of them.
    pub write_p99_s: Option<f64>,
}

/// What is known about a bus.
#[derive(Clone, Debug, Default)]
pub struct BusView {
    /// Its name.
    pub name: String,
    /// Directory of its segments.
    pub dir: PathBuf,
    /// Directory of its log, if it shall have one.
    pub log_dir: Option<PathBuf>,
    /// Where the agent is with it.
    pub phase: Phase,
    /// Geometry and identity.
    pub info: Option<BusInfo>,
    /// Counters and tables.
    pub stats: Option<Stats>,
    /// The pages that change most.
    pub hot: Vec<HotPage>,
    /// Deltas a second.
    pub delta_rate: f64,
    /// Everything ahead of it is committed.
    pub published_lsn: u64,
    /// Its log as any process sees it.
    pub log: LogSeen,
    /// Its log as its supervisor sees it.
    pub supervised: Option<Supervised>,
    /// Age of the oldest delta that is not durable.
    pub durable_lag: Duration,
    /// How long a moment's last commit took to be durable, by samples.
    pub commit_to_durable: Log2Micros,
    /// Limits and how it stands to them.
    pub limits: Vec<Standing>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Dead participants that the agent recovered.
    pub recovered: u64,
    /// Times its segments were deleted under the agent.
    pub deletions: u64,
    /// Times the agent made it again.
    pub recreations: u64,
    /// Looks so far.
    pub rounds: u64,
    /// The last minutes, oldest first.
    pub history: VecDeque<Sample>,
}

impl BusView {
    /// How much is committed and not durable, in LSNs: ring slots of 64 bytes.
    pub fn durable_lag_lsn(&self) -> u64 {
        if self.log.state == LogState::None {
            return 0;
        }
        self.published_lsn.saturating_sub(self.log.durable_lsn)
    }

    /// How far the slowest cursor is behind.
    pub fn cursor_lag(&self) -> u64 {
        let cursors = self.stats.iter().flat_map(|stats| &stats.cursors);
        cursors.map(|cursor| cursor.lag).max().unwrap_or(0)
    }

    /// Living participants.
    pub fn participants(&self) -> u64 {
        let all = self.stats.iter().flat_map(|stats| &stats.participants);
        all.filter(|p| p.alive).count() as u64
    }

    /// Bytes of page memory in blocks that hold something.
    pub fn arena_used(&self) -> u64 {
        let classes = self.stats.iter().flat_map(|stats| &stats.classes);
        classes
            .map(|c| c.blocks.saturating_sub(c.free + c.pending) * c.payload)
            .sum()
    }

    /// The state in words, such as `attached, standby`.
    pub fn state(&self) -> String {
        let mut words = self.phase.name().to_owned();
        if let Some(supervised) = &self.supervised {
            words.push_str(", ");
            words.push_str(supervised.role.name());
        }
        words
    }
}

/// When a bus was looked at last.
#[derive(Clone, Copy, Debug)]
struct Beat {
    at: Instant,
    /// It is being opened or closed, which may take as long as a log is large.
    is_long: bool,
}

/// Where the thread of a bus leaves what it saw.
#[derive(Debug)]
pub struct Post {
    view: Mutex<BusView>,
    beat: Mutex<Beat>,
}

/// The posts of all buses, and what is known about the agent itself.
#[derive(Debug)]
pub struct Board {
    posts: Mutex<BTreeMap<String, Arc<Post>>>,
    agent: Mutex<AgentView>,
}

/// What is known about the agent.
#[derive(Clone, Debug)]
pub struct AgentView {
    /// When it started.
    pub started_at: SystemTime,
    /// Pause between two looks at a bus.
    pub interval: Duration,
    /// Times the file was read again, and was good.
    pub reloads: u64,
    /// Times it was not.
    pub reloads_failed: u64,
    /// Why the file was refused when it was read last; the settings before hold.
    pub reload_error: Option<String>,
}

/// Takes a lock. Values behind it are whole at any time: a thread that panicked left the last ones.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Board {
    fn default() -> Board {
        Board {
            posts: Mutex::default(),
            agent: Mutex::new(AgentView {
                started_at: SystemTime::now(),
                interval: SAMPLE,
                reloads: 0,
                reloads_failed: 0,
                reload_error: None,
            }),
        }
    }
}

impl Board {
    /// All buses now, by name.
    pub fn views(&self) -> Vec<BusView> {
        let posts: Vec<Arc<Post>> = lock(&self.posts).values().cloned().collect();
        posts.iter().map(|post| post.view()).collect()
    }

    /// One bus.
    pub fn view(&self, name: &str) -> Option<BusView> {
        let post = lock(&self.posts).get(name).cloned();
        post.map(|post| post.view())
    }

    /// The agent itself.
    pub fn agent(&self) -> AgentView {
        lock(&self.agent).clone()
    }

    /// Notes that the file was read again.
    pub fn reloaded(&self, error: Option<String>) {
        let mut agent = lock(&self.agent);
        match &error {
            None => agent.reloads += 1,
            Some(_) => agent.reloads_failed += 1,
        }
        agent.reload_error = error;
    }

    /// Whether every bus was looked at at least once.
    pub fn is_ready(&self) -> bool {
        let posts = lock(&self.posts);
        posts.values().all(|post| lock(&post.view).rounds > 0)
    }

    /// Whether every bus is looked at: what the watchdog of the service manager wants to know.
    pub fn makes_progress(&self) -> bool {
        let interval = self.agent().interval;
        let now = Instant::now();
        let posts: Vec<Arc<Post>> = lock(&self.posts).values().cloned().collect();
        posts.iter().all(|post| !post.is_stuck(now, interval))
    }

    /// The answer for `/healthz`: whether all is well, and a document.
    pub fn health(&self) -> (bool, Value) {
        let interval = self.agent().interval;
        let now = Instant::now();
        let posts: Vec<Arc<Post>> = lock(&self.posts).values().cloned().collect();
        let mut reasons = Vec::new();
        let mut buses = serde_json::Map::new();
        for post in posts {
            let view = post.view();
            let mut problems = view.problems.clone();
            if post.is_stuck(now, interval) {
                let message = "its thread does not come back from a look at it";
                problems.push(Problem::new("stuck", "", message));
            }
            for problem in &problems {
                reasons.push(json!({
                    "bus": view.name, "kind": problem.kind, "message": problem.message,
                }));
            }
            buses.insert(
                view.name.clone(),
                json!({
                    "phase": view.phase.name(),
                    "role": view.supervised.as_ref().map(|s| s.role.name()),
                    "log": view.log.state.name(),
                    "healthy": problems.is_empty(),
                }),
            );
        }
        let agent = self.agent();
        let is_healthy = reasons.is_empty();
        let document = json!({
            "status": if is_healthy { "ok" } else { "unhealthy" },
            "reasons": reasons,
            "buses": buses,
            "reload_error": agent.reload_error,
        });
        (is_healthy, document)
    }

    /// One line about all buses.
    pub fn summary(&self) -> String {
        let views = self.views();
        let with = |holds: &dyn Fn(&BusView) -> bool| views.iter().filter(|v| holds(v)).count();
        let role = |role| move |v: &BusView| v.supervised.as_ref().is_some_and(|s| s.role == role);
        let mut text = format!(
            "{} of {} buses attached",
            with(&|v| v.phase == Phase::Attached),
            views.len()
        );
        let standby = with(&role(Role::Standby));
        if standby > 0 {
            text += &format!(", {standby} as standby");
        }
        let wrong = with(&|v| !v.problems.is_empty());
        if wrong > 0 {
            text += &format!(", {wrong} with problems");
        }
        text
    }
}

impl Post {
    fn new(config: &BusConfig) -> Post {
        let view = BusView {
            name: config.name.clone(),
            dir: config.dir.clone(),
            log_dir: config.log.as_ref().map(|log| log.dir.clone()),
            ..BusView::default()
        };
        Post {
            view: Mutex::new(view),
            beat: Mutex::new(Beat {
                at: Instant::now(),
                is_long: true,
            }),
        }
    }

    fn view(&self) -> BusView {
        lock(&self.view).clone()
    }

    fn beat(&self, is_long: bool) {
        *lock(&self.beat) = Beat {
            at: Instant::now(),
            is_long,
        };
    }

    fn is_stuck(&self, now: Instant, interval: Duration) -> bool {
        let beat = *lock(&self.beat);
        !beat.is_long && now.duration_since(beat.at) > STUCK + interval
    }
}

/// What the thread of a bus is asked to do.
enum Order {
    Reload(Box<BusConfig>, Duration),
    Stop,
}

/// A thread with a bus.
struct Ward {
    config: BusConfig,
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

/// The threads of all buses.
pub struct Wards {
    board: Arc<Board>,
    wards: BTreeMap<String, Ward>,
}

impl Wards {
    /// None yet.
    pub fn new(board: Arc<Board>) -> Wards {
        Wards {
            board,
            wards: BTreeMap::new(),
        }
    }

    /// Makes the threads those of `config`: stops some, starts some, tells the others.
    pub fn apply(&mut self, config: &Config) {
        lock(&self.board.agent).interval = config.interval;
        let stays = |ward: &Ward| {
            let same = |bus: &&BusConfig| bus.is_same_place(&ward.config);
            config.buses.iter().find(same)
        };
        let gone: Vec<String> = self
            .wards
            .iter()
            .filter(|(_, ward)| stays(ward).is_none())
            .map(|(name, _)| name.clone())
            .collect();
        self.stop(&gone, &mut || {});
        for bus in &config.buses {
            match self.wards.get_mut(&bus.name) {
                Some(ward) => {
                    ward.config = bus.clone();
                    // A thread that is gone is seen by its beat.
                    let _ = ward
                        .orders
                        .send(Order::Reload(Box::new(bus.clone()), config.interval));
                }
                None => self.start(bus, config.interval),
            }
        }
    }

    fn start(&mut self, bus: &BusConfig, interval: Duration) {
        let post = Arc::new(Post::new(bus));
        lock(&self.board.posts).insert(bus.name.clone(), Arc::clone(&post));
        let (orders, inbox) = channel();
        let mut keeper = Keeper::new(bus.clone(), interval, post);
        let spawned = std::thread::Builder::new()
            .name(format!("bus {}", bus.name))
            .spawn(move || keeper.run(&inbox));
        match spawned {
            Ok(thread) => {
                let ward = Ward {
                    config: bus.clone(),
                    orders,
                    thread,
                };
                self.wards.insert(bus.name.clone(), ward);
            }
            Err(error) => {
                tracing::error!(bus = bus.name, %error, "no thread for it");
                let problem = Problem::new("thread", "", format!("no thread for it: {error}"));
                if let Some(post) = lock(&self.board.posts).get(&bus.name) {
                    let mut view = lock(&post.view);
                    view.rounds = 1;
                    view.problems = vec![problem];
                }
            }
        }
    }

    /// Stops all: what is committed goes to disk, logs are sealed. `patience` is called now and then until they are.
    pub fn stop_all(&mut self, patience: &mut dyn FnMut()) {
        let names: Vec<String> = self.wards.keys().cloned().collect();
        self.stop(&names, patience);
    }

    fn stop(&mut self, names: &[String], patience: &mut dyn FnMut()) {
        let stopped: Vec<(String, Ward)> = names
            .iter()
            .filter_map(|name| self.wards.remove_entry(name))
            .collect();
        for (_, ward) in &stopped {
            // A thread that is gone has stopped.
            let _ = ward.orders.send(Order::Stop);
        }
        for (name, ward) in stopped {
            while !ward.thread.is_finished() {
                std::thread::sleep(Duration::from_millis(5));
                patience();
            }
            if ward.thread.join().is_err() {
                tracing::error!(bus = name, "its thread panicked");
            }
            lock(&self.board.posts).remove(&name);
        }
    }
}

/// The thread's own: the bus and what is remembered from look to look.
struct Keeper {
    config: BusConfig,
    interval: Duration,
    post: Arc<Post>,
    bus: Option<Bus>,
    supervision: Option<Supervision>,
    role: Option<Role>,
    hot: HotPages,
    /// What the look at the tables saw last.
    tables_at: Option<Instant>,
    tables_due: Instant,
    sample_due: Instant,
    deltas: u64,
    write_times: Log2Micros,
    /// Rounds of the supervisor's thread, and since when there are so many.
    rounds: Option<(u64, Instant)>,
    /// When the log was seen to end where, oldest first: what is not durable of it.
    published: VecDeque<(Instant, u64)>,
    /// Whether the loss of the name was said.
    is_deletion_said: bool,
    /// What went wrong in this look.
    problems: Vec<Problem>,
}

impl Keeper {
    fn new(config: BusConfig, interval: Duration, post: Arc<Post>) -> Keeper {
        let now = Instant::now();
        Keeper {
            config,
            interval,
            post,
            bus: None,
            supervision: None,
            role: None,
            hot: HotPages::default(),
            tables_at: None,
            tables_due: now,
            sample_due: now,
            deltas: 0,
            write_times: Log2Micros::default(),
            rounds: None,
            published: VecDeque::new(),
            is_deletion_said: false,
            problems: Vec::new(),
        }
    }

    fn run(&mut self, inbox: &Receiver<Order>) {
        loop {
            let begin = Instant::now();
            self.look();
            if !self.is_log_stuck() {
                self.post.beat(false);
            }
            let pause = self.interval.saturating_sub(begin.elapsed());
            match inbox.recv_timeout(pause) {
                Ok(Order::Reload(config, interval)) => self.reload(*config, interval),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.post.beat(true);
        self.leave("stopped");
    }

    fn reload(&mut self, config: BusConfig, interval: Duration) {
        self.interval = interval;
        if let (Some(bus), Some(supervision), Some(log)) =
            (&self.bus, &self.supervision, &config.log)
        {
            supervision.reload(bus, log);
            if self.role == Some(Role::Active) {
                supervise::set_durability(bus, log);
            }
        }
        self.config = config;
    }

    /// Whether the thread that writes the log does nothing, although there is something to write: only a restart helps.
    fn is_log_stuck(&self) -> bool {
        let is_still = self
            .rounds
            .is_some_and(|(_, since)| since.elapsed() > STALLED);
        let is_behind = self
            .published
            .front()
            .is_some_and(|(at, _)| at.elapsed() > STALLED);
        self.role == Some(Role::Active) && is_still && is_behind
    }

    /// Stops supervising, and leaves the bus.
    fn leave(&mut self, why: &str) {
        let Some(bus) = self.bus.take() else { return };
        if let Some(supervision) = self.supervision.take() {
            match supervision.stop(bus) {
                Ok(()) => tracing::info!(bus = self.config.name, why, "its log is closed"),
                Err(error) => {
                    tracing::error!(bus = self.config.name, why, %error, "its log was not closed in order");
                }
            }
        }
        self.role = None;
        tracing::info!(bus = self.config.name, why, "left");
        self.hot = HotPages::default();
        self.tables_at = None;
        self.rounds = None;
        self.published.clear();
        self.is_deletion_said = false;
    }

    /// One look: everything that is due is done, and written down.
    fn look(&mut self) {
        self.problems.clear();
        self.follow_the_name();
        if self.bus.is_none() {
            self.open();
        }
        self.recover();
        self.supervise();
        self.see();
        self.settle();
    }

    /// Joins the bus, or makes it if that is wanted.
    fn open(&mut self) {
        let builder = self.config.builder().sigbus_guard(true).timeout(SAMPLE);
        self.post.beat(true);
        let was_there =
            Bus::list_in(&self.config.dir).is_ok_and(|names| names.contains(&self.config.name));
        let opened = match &self.config.log {
            _ if was_there => builder.attach(),
            // Rebuilt from its log, if there is one.
            Some(log) => supervise::durable(builder, log).open_or_create(),
            None if self.config.is_made() => builder.open_or_create(),
            None => builder.attach(),
        };
        self.post.beat(false);
        match opened {
            Ok(bus) => {
                let incarnation = bus.info().map_or(0, |info| info.incarnation);
                let how = match (was_there, incarnation) {
                    (true, _) => "attached",
                    (false, ..2) => "created",
                    (false, _) => "rebuilt from its log",
                };
                let dir = self.config.dir.display();
                tracing::info!(bus = self.config.name, %dir, incarnation, "{how}");
                self.supervision = Supervision::of(&bus);
                let mut view = lock(&self.post.view);
                if view.deletions > 0 && !was_there {
                    view.recreations += 1;
                }
                drop(view);
                self.bus = Some(bus);
            }
            Err(error) => {
                let failure = Failure::from(error);
                let mut message = failure.message;
                // Half a bus, perhaps: whoever looks from outside sees which half.
                let found = doctor::bus::check(&self.config.name, &self.config.dir);
                let kind = match found.iter().find(|f| f.check == doctor::bus::LEFTOVER) {
                    Some(leftover) => {
                        message = format!("{}; {}", leftover.message, leftover.advice);
                        "leftover"
                    }
                    None if failure.code == crate::cli::exit::Code::NoBus => "missing",
                    None => "attach",
                };
                let subject = failure.code.name();
                self.problems.push(Problem::new(kind, subject, message));
            }
        }
    }

    /// Somebody may have deleted the segments, and may have made another bus of the same name.
    fn follow_the_name(&mut self) {
        let Some(bus) = &self.bus else { return };
        if bus.is_named() {
            return;
        }
        let name = self.config.name.clone();
        if !self.is_deletion_said {
            self.is_deletion_said = true;
            lock(&self.post.view).deletions += 1;
            tracing::error!(
                bus = name,
                "its segments were deleted while it is in use: who is attached goes on, nobody can join, and the memory \
                 is gone when the last of them is"
            );
        }
        let another = Bus::list_in(&self.config.dir)
            .is_ok_and(|names| names.contains(&name))
            .then_some("somebody made another bus of this name");
        let again = (self.config.on_deleted == OnDeleted::Recreate).then_some("it is made again");
        if let Some(why) = another.or(again) {
            self.post.beat(true);
            // Writers must not go on where nobody looks any more. The log takes what the old segments still hold before the
            // new ones are filled from it.
            let ended = match another {
                Some(_) => Ok(()),
                None => supervise::abandon(bus),
            };
            match ended {
                Ok(()) => {
                    tracing::warn!(bus = name, "{why}");
                    self.leave(why);
                }
                Err(error) => {
                    let message = format!(
                        "its segments were deleted, and it cannot be made again yet: {error}"
                    );
                    self.problems.push(Problem::new("deleted", "", message));
                }
            }
            self.post.beat(false);
            return;
        }
        let message = "its segments were deleted; who is attached still uses them, nobody can join";
        self.problems.push(Problem::new("deleted", "", message));
    }

    fn recover(&mut self) {
        let Some(bus) = &self.bus else { return };
        match bus.recover() {
            Ok(0) => {}
            Ok(recovered) => {
                tracing::info!(
                    bus = self.config.name,
                    recovered,
                    "recovered dead participants"
                );
                lock(&self.post.view).recovered += u64::from(recovered);
            }
            Err(error) => {
                let failure = Failure::from(error);
                let problem = Problem::new("recovery", failure.code.name(), failure.message);
                self.problems.push(problem);
            }
        }
    }

    fn supervise(&mut self) {
        let Some(bus) = &self.bus else { return };
        let Some(log) = &self.config.log else { return };
        if self.supervision.is_none() {
            match Supervision::start(bus, log) {
                Ok(supervision) => self.supervision = Some(supervision),
                Err(error) => {
                    let problem = Problem::new("no_supervisor", "start", error.to_string());
                    self.problems.push(problem);
                }
            }
        }
        let Some(supervision) = &self.supervision else {
            return;
        };
        let state = supervision.state(bus);
        if self.role != Some(state.role) {
            let name = &self.config.name;
            match state.role {
                Role::Active => {
                    tracing::info!(bus = name, log = %log.dir.display(), "supervises it");
                    supervise::set_durability(bus, log);
                }
                Role::Standby => {
                    tracing::info!(bus = name, "is standby: another process supervises it");
                }
                Role::Failed | Role::Stopped => tracing::error!(bus = name, "its log stopped"),
                Role::Starting => {}
            }
            self.role = Some(state.role);
        }
        if matches!(state.role, Role::Failed | Role::Stopped) {
            let why = state.error.as_deref().unwrap_or("it does not say why");
            let problem = Problem::new("log_failed", "", format!("its log stopped: {why}"));
            self.problems.push(problem);
        }
        if let Some(error) = &state.upkeep_error {
            let message = format!("no checkpoint, or no room made in its log: {error}");
            self.problems.push(Problem::new("upkeep", "", message));
        }
        if self.rounds.is_none_or(|(rounds, _)| rounds != state.rounds) {
            self.rounds = Some((state.rounds, Instant::now()));
        }
    }

    /// Reads what there is to know, the large tables only when they are due.
    fn see(&mut self) {
        let now = Instant::now();
        let Some(bus) = &self.bus else { return };
        let log = supervise::log_of(bus);
        let published = bus.published_lsn().unwrap_or_else(|_| bus.end_lsn());
        let has_log = log.state != LogState::None;
        if has_log {
            let is_new = self
                .published
                .back()
                .is_none_or(|(_, lsn)| *lsn < published);
            if is_new && published > log.durable_lsn {
                self.published.push_back((now, published));
            }
            while self
                .published
                .front()
                .is_some_and(|(_, lsn)| *lsn <= log.durable_lsn)
            {
                self.published.pop_front();
            }
        }
        let mut durable_lag = self
            .published
            .front()
            .map_or(Duration::ZERO, |(at, _)| now.duration_since(*at));
        if has_log && log.state == LogState::Running && published > log.durable_lsn {
            let waited = Instant::now();
            if supervise::wait_durable(bus, published, PROBE) {
                lock(&self.post.view)
                    .commit_to_durable
                    .add(waited.elapsed());
            }
            // What is shorter than an interval is seen only this way.
            durable_lag = durable_lag.max(waited.elapsed());
        }
        if has_log && log.supervised == Some(false) {
            let message = "nobody supervises it: its deltas do not reach the disk, and writers wait when the ring is full";
            self.problems
                .push(Problem::new("no_supervisor", "", message));
        }
        if let LogState::Failed { errno } = log.state {
            let error = std::io::Error::from_raw_os_error(errno);
            let message = format!("its log failed, and nothing since is durable: {error}");
            if !self.problems.iter().any(|p| p.kind == "log_failed") {
                self.problems.push(Problem::new("log_failed", "", message));
            }
        }
        if durable_lag > STALLED && log.state == LogState::Running {
            let message = format!(
                "its log stands still at LSN {} for {durable_lag:.0?}",
                log.durable_lsn
            );
            self.problems.push(Problem::new("log_stalled", "", message));
        }
        let tables = (now >= self.tables_due).then(|| {
            let begin = thread_time();
            let stats = bus.stats();
            let info = bus.info();
            let hot = bus
                .all_pages()
                .map(|pages| self.hot.look(&pages, now, HOT_PAGES));
            let took = thread_time().saturating_sub(begin);
            let pause = (took * SHARE).max(self.interval.min(SAMPLE));
            self.tables_due = now + pause.min(Duration::from_secs(60));
            (stats, info, hot)
        });
        let mut view = lock(&self.post.view);
        view.published_lsn = published;
        view.durable_lag = durable_lag;
        view.supervised = self.supervision.as_ref().map(|s| s.state(bus));
        match tables {
            None => {}
            Some((Ok(stats), Ok(info), Ok(hot))) => {
                if let Some(at) = self.tables_at {
                    let passed = now.duration_since(at).as_secs_f64().max(1e-6);
                    view.delta_rate = stats.deltas.saturating_sub(self.deltas) as f64 / passed;
                }
                self.deltas = stats.deltas;
                self.tables_at = Some(now);
                view.stats = Some(stats);
                view.info = Some(info);
                view.hot = hot;
            }
            Some((stats, info, hot)) => {
                let errors = [stats.err(), info.err(), hot.err()];
                let error = errors.into_iter().flatten().next();
                let message = error.map_or_else(String::new, |error| error.to_string());
                self.problems.push(Problem::new("look", "", message));
            }
        }
        let used = Use {
            bytes: view.info.as_ref().map_or(0, |info| info.pages_blocks_bytes),
            pages: view.stats.as_ref().map_or(0, |stats| stats.pages),
            participants: view.participants(),
        };
        view.limits = limits::check(&self.config.limits, used, &view.limits);
        for standing in view.limits.iter().filter(|s| s.is_exceeded) {
            let name = standing.what.name();
            self.problems
                .push(Problem::new("limit", name, standing.sentence()));
        }
        if now >= self.sample_due {
            self.sample_due = now + SAMPLE;
            let writes = log.write_times.since(&self.write_times);
            self.write_times = log.write_times.clone();
            let sample = Sample {
                at_ms: realtime_ms(),
                delta_rate: view.delta_rate,
                cursor_lag: view.cursor_lag(),
                durable_lag_s: has_log.then_some(durable_lag.as_secs_f64()),
                write_p50_s: writes.quantile(0.5),
                write_p99_s: writes.quantile(0.99),
            };
            view.history.push_back(sample);
            let oldest = sample.at_ms.saturating_sub(HISTORY.as_millis() as u64);
            while view.history.front().is_some_and(|s| s.at_ms < oldest) {
                view.history.pop_front();
            }
        }
        view.log = log;
    }

    /// Says what is new, and lets others see it.
    fn settle(&mut self) {
        let mut view = lock(&self.post.view);
        let is_in = |list: &[Problem], p: &Problem| {
            list.iter()
                .any(|q| (q.kind, &q.subject) == (p.kind, &p.subject))
        };
        for problem in &self.problems {
            if !is_in(&view.problems, problem) {
                tracing::warn!(
                    bus = self.config.name,
                    problem = problem.kind,
                    "{}",
                    problem.message
                );
            }
        }
        for problem in &view.problems {
            if !is_in(&self.problems, problem) {
                let kind = problem.kind;
                tracing::info!(bus = self.config.name, problem = kind, "is over");
            }
        }
        view.problems = self.problems.clone();
        view.phase = match &self.bus {
            None => Phase::Away,
            Some(_) if self.is_deletion_said => Phase::Deleted,
            Some(_) => Phase::Attached,
        };
        if self.bus.is_none() {
            view.stats = None;
            view.info = None;
            view.hot.clear();
            view.delta_rate = 0.0;
            view.supervised = None;
            view.log = LogSeen::default();
        }
        view.rounds += 1;
    }
}

/// Processor time of this thread. What it waited for a core is not its cost.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// CLOCK_REALTIME in milliseconds.
pub fn realtime_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(dir: &Path, more: &str) -> Config {
        let text = format!(
            "[agent]\ninterval = \"10ms\"\n[[bus]]\nname = \"b\"\ndir = {:?}\n{more}",
            dir.display()
        );
        Config::parse(&text, Path::new("f")).unwrap()
    }

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kinds(board: &Board) -> Vec<&'static str> {
        let view = board.view("b").unwrap();
        view.problems.iter().map(|p| p.kind).collect()
    }

    #[test]
    fn a_bus_is_missed_adopted_limited_deleted_and_made_again() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let board = Arc::new(Board::default());
        let mut wards = Wards::new(Arc::clone(&board));
        wards.apply(&config(dir.path(), ""));
        until("missing", || kinds(&board) == ["missing"]);
        assert!(!board.health().0);
        let bus = Bus::builder("b").dir(dir.path()).create().unwrap();
        until("adopted", || {
            board.view("b").unwrap().phase == Phase::Attached && board.health().0
        });
        assert!(board.is_ready() && board.makes_progress());
        wards.apply(&config(dir.path(), "limits = { participants = 1 }\n"));
        until("the limit", || kinds(&board) == ["limit"]);
        wards.apply(&config(dir.path(), ""));
        Bus::unlink_in(dir.path(), "b").unwrap();
        until("deleted", || kinds(&board) == ["deleted"]);
        assert_eq!(board.view("b").unwrap().deletions, 1);
        wards.apply(&config(
            dir.path(),
            "create = { ring = \"64K\" }\non_deleted = \"recreate\"\n",
        ));
        until("made again", || board.view("b").unwrap().recreations == 1);
        until("healthy", || board.health().0);
        assert!(!bus.is_named());
        let bus = Bus::builder("b").dir(dir.path()).attach().unwrap();
        assert_eq!(bus.info().unwrap().ring_bytes, 64 << 10);
        wards.stop_all(&mut || {});
        assert!(board.views().is_empty());
        assert_eq!(bus.stats().unwrap().participants.len(), 1);
    }

    #[test]
    fn a_thread_that_does_not_come_back_is_stuck_unless_it_opens_a_bus() {
        let dir = PathBuf::from("/dev/shm");
        let config = Config::of_names(&["b".to_owned()], Some(dir), SAMPLE);
        let post = Post::new(&config.buses[0]);
        let later = Instant::now() + STUCK + SAMPLE * 3;
        assert!(!post.is_stuck(later, SAMPLE));
        post.beat(false);
        assert!(post.is_stuck(later, SAMPLE));
        assert!(!post.is_stuck(Instant::now(), SAMPLE));
    }
}
