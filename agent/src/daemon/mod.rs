//! `mmsb-agent`: the supervisor of buses whose programs do not supervise them themselves.
//!
//! It makes or adopts the buses of one TOML file, writes their logs and checkpoints, recovers dead participants, watches
//! limits and deleted segments, and says how all of it is: as structured log lines, as OpenMetrics, as a status page, and
//! to systemd. It reaches the buses through the public API only. No bus needs it to work: when it dies, readers and writers
//! go on, and the next one takes over.
//!
//! | file | does |
//! | --- | --- |
//! | `config` | reads and checks the file |
//! | `buses` | one thread for each bus, and what they saw |
//! | `supervise` | the one place that knows the supervisor of the library |
//! | `limits` | what a bus should not grow beyond |
//! | `metrics`, `page`, `http` | answers to GET |
//! | `systemd` | what the service manager is told |

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::cli::exit::{Code, Failure};
use crate::cli::units;

pub mod buses;
pub mod config;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod page;
pub mod supervise;
pub mod systemd;

use buses::{Board, Wards};
use config::{Config, LogLevel};
use http::{Handler, Response, Server};
use systemd::Manager;

/// The configuration, unless another one is named.
pub const CONFIG: &str = "/etc/mmsb/agent.toml";

/// Pause between two looks at whether all buses were looked at, while the agent starts.
const STARTING: Duration = Duration::from_millis(20);
/// Pause between two status lines for the service manager.
const STATUS: Duration = Duration::from_secs(15);
/// The service manager gets a word this often while starting or stopping takes long, and is asked for twice as much.
const PATIENCE: Duration = Duration::from_secs(10);

const NOTES: &str = "\
What it does not do: buses work without it, and readers and writers go on when it ends. Nothing can be changed over HTTP.

Signals: SIGHUP reads the file again; a bad one changes nothing, and is said. SIGTERM and Ctrl-C write what is committed,
close the logs, and end it; the same again ends it at once.

Another agent, or a program that supervises a bus itself, keeps the log: this one waits as standby, and takes over.

With BUS instead of a file, it only adopts these buses and recovers dead participants: no log, no HTTP.

Exit codes: 0 ended as asked, or --check found nothing; 2 the command line or the file is wrong; 5 the HTTP port is in use;
others as those of mmsb, see `mmsb --help`.

Examples:
  mmsb-agent --config agent.toml --check
  mmsb-agent --config agent.toml --log-format json
  mmsb-agent prices arm --interval 5s";

/// Supervises MMSB buses: logs, checkpoints, recovery, limits, metrics.
#[derive(Debug, Parser)]
#[command(name = "mmsb-agent", version, after_long_help = NOTES)]
pub struct Args {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = CONFIG, conflicts_with = "buses")]
    pub config: PathBuf,
    /// Check the configuration, say what would be done, and do nothing
    #[arg(long, conflicts_with = "buses")]
    pub check: bool,
    /// How log lines on standard error look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Log less: only what went wrong
    #[arg(long, short)]
    pub quiet: bool,
    /// Buses to adopt and recover, instead of a configuration
    #[arg(value_name = "BUS")]
    pub buses: Vec<String>,
    /// Directory of these buses, on a tmpfs [default: $MMSB_DIR, else /dev/shm]
    #[arg(long, value_name = "DIR", requires = "buses")]
    pub dir: Option<PathBuf>,
    /// Pause between two looks at these buses
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    pub interval: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object in each line.
    Json,
}

/// Changes how much is logged.
type LevelHandle = reload::Handle<LevelFilter, Registry>;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() {
                Code::Usage
            } else {
                Code::Ok
            };
            // Nobody has to read it.
            let _ = error.print();
            return code.into();
        }
    };
    if args.check {
        return match check(&args.config) {
            Ok(plan) => {
                print!("{plan}");
                Code::Ok.into()
            }
            Err(failure) => {
                eprintln!("mmsb-agent: {}", failure.message);
                failure.code.into()
            }
        };
    }
    let level = start_logging(args.log_format);
    match run(&args, &level) {
        Ok(()) => Code::Ok.into(),
        Err(failure) => {
            tracing::error!("{}", failure.message);
            failure.code.into()
        }
    }
}

fn start_logging(format: LogFormat) -> LevelHandle {
    let (filter, level) = reload::Layer::new(LevelFilter::INFO);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_target(false).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => registry
            .with(layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())))
            .init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
    level
}

/// Runs the agent with this configuration, and log lines for people, until a signal asks it to end.
///
/// # Errors
///
/// As [`run`]; it is logged, too.
pub fn serve(config: &Path) -> Result<(), Failure> {
    let level = start_logging(LogFormat::Text);
    let args = Args {
        config: config.to_owned(),
        check: false,
        log_format: LogFormat::Text,
        quiet: false,
        buses: Vec::new(),
        dir: None,
        interval: Duration::from_secs(1),
    };
    run(&args, &level).inspect_err(|failure| tracing::error!("{}", failure.message))
}

/// What the agent would do with this file, line by line.
///
/// # Errors
///
/// What is wrong with the file.
pub fn check(path: &Path) -> Result<String, Failure> {
    let config = Config::read(path).map_err(|error| Failure::usage(error.to_string()))?;
    let mut plan = format!("{} is good\n", path.display());
    plan += &match config.http {
        Some(address) => format!("http: metrics, health and status pages at http://{address}/\n"),
        None => "http: off\n".to_owned(),
    };
    for bus in &config.buses {
        plan += &format!("bus {}: {}\n", bus.name, bus.plan());
    }
    if config.buses.is_empty() {
        plan += "no buses\n";
    }
    Ok(plan)
}

/// Runs the agent until a signal asks it to end.
///
/// # Errors
///
/// What is wrong with the configuration, or what the kernel said to listening and to taking signals. Trouble with a bus is
/// logged, and tried again.
pub fn run(args: &Args, level: &LevelHandle) -> Result<(), Failure> {
    let signals = signals()?;
    let manager = Manager::of_environment();
    let config = if args.buses.is_empty() {
        Config::read(&args.config).map_err(|error| Failure::usage(error.to_string()))?
    } else {
        Config::of_names(&args.buses, args.dir.clone(), args.interval)
    };
    let mut agent = Agent {
        args,
        level,
        manager,
        board: Arc::new(Board::default()),
        config,
        server: None,
    };
    agent.set_level();
    agent.server = agent.listen(&agent.config)?;
    let mut wards = Wards::new(Arc::clone(&agent.board));
    wards.apply(&agent.config);
    agent.attend(&mut wards, &signals);
    tracing::info!("asked to end");
    agent.manager.stopping();
    let mut said_at = Instant::now();
    wards.stop_all(&mut || {
        if said_at.elapsed() >= PATIENCE {
            said_at = Instant::now();
            agent.manager.still_at_it(PATIENCE * 2);
        }
    });
    drop(agent.server.take());
    tracing::info!("ended");
    Ok(())
}

/// What somebody outside wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Reload,
    End,
}

/// Takes the signals of this process from now on.
fn signals() -> Result<Receiver<Wish>, Failure> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let (wishes, inbox) = channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut is_ending = false;
            for signal in signals.forever() {
                let wish = match signal {
                    SIGHUP => Wish::Reload,
                    // For somebody who cannot wait: the next agent finishes what this one leaves.
                    _ if is_ending => std::process::exit(130),
                    _ => {
                        is_ending = true;
                        Wish::End
                    }
                };
                if wishes.send(wish).is_err() {
                    return;
                }
            }
        })?;
    Ok(inbox)
}

struct Agent<'a> {
    args: &'a Args,
    level: &'a LevelHandle,
    manager: Manager,
    board: Arc<Board>,
    config: Config,
    server: Option<Server>,
}

impl Agent<'_> {
    fn set_level(&self) {
        let level = if self.args.quiet {
            LogLevel::Warn
        } else {
            self.config.log_level
        };
        if let Err(error) = self.level.modify(|filter| *filter = level.into()) {
            tracing::warn!(%error, "the log level stays as it was");
        }
    }

    /// Answers HTTP where `config` says.
    fn listen(&self, config: &Config) -> Result<Option<Server>, Failure> {
        let Some(address) = config.http else {
            return Ok(None);
        };
        let board = Arc::clone(&self.board);
        let handler: Arc<Handler> = Arc::new(move |path: &str| respond(path, &board));
        match Server::start(address, handler) {
            Ok(server) => {
                tracing::info!(address = %server.address(), "answers HTTP");
                Ok(Some(server))
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(Failure::new(
                Code::Busy,
                format!(
                    "{address} is in use, perhaps by another mmsb-agent: set another `http` in [agent], or http = \"off\""
                ),
            )),
            Err(error) => Err(Failure::new(
                crate::cli::exit::io_code(&error),
                format!("cannot listen at {address}: {error}"),
            )),
        }
    }

    /// Waits for signals, and tells the service manager how it is, until the end is asked for.
    fn attend(&mut self, wards: &mut Wards, wishes: &Receiver<Wish>) {
        let now = Instant::now();
        let (mut alive_due, mut status_due, mut extend_due) = (now, now, now + PATIENCE);
        let mut is_ready = false;
        loop {
            let now = Instant::now();
            if !is_ready && self.board.is_ready() {
                is_ready = true;
                let summary = self.board.summary();
                tracing::info!("ready: {summary}");
                self.manager.ready(&summary);
                status_due = now + STATUS;
            }
            if !is_ready && now >= extend_due {
                extend_due = now + PATIENCE;
                self.manager.still_at_it(PATIENCE * 2);
            }
            if is_ready && now >= status_due {
                status_due = now + STATUS;
                self.manager.status(&self.board.summary());
            }
            let mut next = if is_ready { status_due } else { now + STARTING };
            if let Some(pause) = self.manager.watchdog_pause() {
                if now >= alive_due {
                    alive_due = now + pause;
                    // Silence is what makes the service manager act.
                    if self.board.makes_progress() {
                        self.manager.alive();
                    } else {
                        tracing::error!(
                            "a bus is stuck: the service manager is not told that the agent is alive"
                        );
                    }
                }
                next = next.min(alive_due);
            }
            match wishes.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Wish::Reload) => {
                    self.manager.reloading();
                    self.reload(wards);
                    self.manager.ready(&self.board.summary());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Wish::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Reads the file again. A bad one, or an address that cannot be had, changes nothing.
    fn reload(&mut self, wards: &mut Wards) {
        if !self.args.buses.is_empty() {
            tracing::warn!("there is no configuration to read again");
            return;
        }
        let read = Config::read(&self.args.config).map_err(|error| error.to_string());
        let prepared = read.and_then(|config| {
            let moves = config.http != self.config.http;
            let server = if moves {
                self.listen(&config)
            } else {
                Ok(None)
            };
            server
                .map(|server| (config, moves, server))
                .map_err(|failure| failure.message)
        });
        match prepared {
            Ok((config, moves, server)) => {
                if moves {
                    self.server = server;
                }
                self.config = config;
                self.set_level();
                wards.apply(&self.config);
                self.board.reloaded(None);
                tracing::info!(
                    buses = self.config.buses.len(),
                    "the configuration was read again"
                );
            }
            Err(why) => {
                tracing::error!("the configuration was refused, the one before still holds: {why}");
                self.board.reloaded(Some(why));
            }
        }
    }
}

/// The answer for a path.
fn respond(path: &str, board: &Board) -> Response {
    match path {
        "/" => {
            let page = page::index(&board.agent(), board.health().0, &board.views());
            Response::new(200, page::CONTENT_TYPE, page)
        }
        "/metrics" => {
            let exposition = metrics::Exposition {
                agent: board.agent(),
                is_healthy: board.health().0,
                buses: board.views(),
            };
            match exposition.render() {
                Ok(text) => Response::new(200, metrics::CONTENT_TYPE, text),
                Err(error) => Response::new(500, "text/plain; charset=utf-8", error.to_string()),
            }
        }
        "/healthz" => {
            let (is_healthy, document) = board.health();
            let status = if is_healthy { 200 } else { 503 };
            Response::new(status, "application/json", format!("{document}\n"))
        }
        _ => {
            let view = path.strip_prefix("/bus/").and_then(|name| board.view(name));
            match view {
                Some(view) => Response::new(200, page::CONTENT_TYPE, page::bus(&view)),
                None => Response::new(
                    404,
                    "text/plain; charset=utf-8",
                    "404 Not Found: there are /, /bus/NAME, /metrics and /healthz\n",
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_agree_with_each_other() {
        Args::command().debug_assert();
    }
}
