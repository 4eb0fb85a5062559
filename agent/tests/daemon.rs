//! `mmsb-agent` with a configuration, from outside: what it refuses, serves, says to systemd, and survives; and `mmsb top`.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Buses, Said, finish, until, wait};
use mmsb::{From, PageSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const AGENT: &str = env!("CARGO_BIN_EXE_mmsb-agent");

/// Runs the agent to its end.
#[track_caller]
fn run(buses: &Buses, args: &[&str]) -> Said {
    finish(buses.command_of(AGENT, args).spawn().unwrap())
}

/// Writes a configuration with these lines below `[agent]`, and these buses.
fn configure(buses: &Buses, agent: &str, more: &str) -> PathBuf {
    let path = buses.path().join("agent.toml");
    let text = format!("[agent]\ninterval = \"20ms\"\n{agent}\n{more}");
    std::fs::write(&path, text).unwrap();
    path
}

/// A free port: nobody gets it until the listener is dropped, and few afterwards.
const ANY: &str = "http = \"127.0.0.1:0\"";

/// The agent at work, its log lines as they come.
struct Daemon {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    fn start(buses: &Buses, config: &Path) -> Daemon {
        Daemon::start_with(buses, config, |_| {})
    }

    fn start_with(buses: &Buses, config: &Path, change: impl FnOnce(&mut Command)) -> Daemon {
        let args = ["--config", config.to_str().unwrap()];
        let mut command = buses.command_of(AGENT, &args);
        command.stdout(Stdio::null());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (to, stderr) = (Arc::clone(&lines), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { return };
                to.lock().unwrap().push(line);
            }
        });
        Daemon { child, lines }
    }

    fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for a line with this text.
    #[track_caller]
    fn says(&mut self, text: &str) {
        until(text, || {
            if self.log().contains(text) {
                return true;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{status}, without {text:?}: {}", self.log());
            }
            false
        });
    }

    /// Where it answers, as of its last word on that.
    #[track_caller]
    fn address(&mut self) -> SocketAddr {
        self.says("answers HTTP");
        let log = self.log();
        let line = log.lines().rfind(|l| l.contains("answers HTTP")).unwrap();
        let address = line.split("address=").nth(1).unwrap();
        address.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Asks it to end, which it must do in order.
    #[track_caller]
    fn end(self) -> String {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits for its end, which must be in order.
    #[track_caller]
    fn ended(mut self) -> String {
        let status = wait(&mut self.child);
        assert_eq!(status.code(), Some(0), "{}", self.log());
        until("its last line", || self.log().contains("ended"));
        self.log()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an HTTP server said.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

fn ask(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path)
}

/// A bus `plant` with pages, traffic and a subscription, for as long as this lives.
struct Plant {
    stop: Arc<Mutex<bool>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Plant {
    fn start(buses: &Buses) -> Plant {
        let bus = buses
            .bus("plant")
            .source("controller")
            .open_or_create()
            .unwrap();
        let stop = Arc::new(Mutex::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let spec = |name: &str| PageSpec::of::<u64>().name(name);
            let hot = bus.open_or_create_page(spec("tank/<hot>")).unwrap();
            let cold = bus.open_or_create_page(spec("tank/cold")).unwrap();
            let reader = bus.another("logger").unwrap();
            let mut slow = reader.subscribe().from(From::Now).gating(false).build();
            let mut n = 0u64;
            while !*stopped.lock().unwrap() {
                hot.set(&n).unwrap();
                if n.is_multiple_of(10) {
                    cold.set(&n).unwrap();
                }
                if let (Ok(slow), true) = (&mut slow, n.is_multiple_of(100)) {
                    let _ = slow.for_each_available(|_| {});
                }
                n += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Plant {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        *self.stop.lock().unwrap() = true;
        let _ = self.thread.take().unwrap().join();
    }
}

/// One line of an exposition.
struct Point {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads OpenMetrics text as strictly as the format is: anything that is not in it is a panic.
fn parse_metrics(text: &str) -> Vec<Point> {
    let is_name = |name: &str| {
        let mut chars = name.chars();
        chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    assert!(text.ends_with("# EOF\n"), "no end: {text}");
    let lines: Vec<&str> = text.lines().collect();
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut family = String::new();
    let mut seen = BTreeSet::new();
    let mut points = Vec::new();
    let mut buckets: Option<(String, f64, f64)> = None;
    for (number, line) in lines.iter().enumerate() {
        let bad = |why: &str| -> ! { panic!("line {}: {why}: {line}", number + 1) };
        if *line == "# EOF" {
            assert_eq!(number, lines.len() - 1, "text behind the end");
            break;
        }
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name, rest) = (words.next(), words.next(), words.next());
            let (Some(kind), Some(name), Some(rest)) = (kind, name, rest) else {
                bad("half a comment");
            };
            if !is_name(name) {
                bad("no name");
            }
            match kind {
                "TYPE" => {
                    if !["counter", "gauge", "histogram", "info"].contains(&rest) {
                        bad("unknown type");
                    }
                    if types.insert(name.to_owned(), rest.to_owned()).is_some() {
                        bad("a family twice");
                    }
                    family = name.to_owned();
                }
                "UNIT" if !name.ends_with(&format!("_{rest}")) => bad("a unit not in the name"),
                "HELP" | "UNIT" => {
                    if !family.is_empty() && kind == "UNIT" && name != family {
                        bad("a unit of another family");
                    }
                }
                _ => bad("unknown comment"),
            }
            continue;
        }
        let end = line.find(['{', ' ']).unwrap_or_else(|| bad("no value"));
        let (name, rest) = line.split_at(end);
        if !is_name(name) {
            bad("no name");
        }
        let (labels, value) = parse_labels(rest).unwrap_or_else(|| bad("bad labels"));
        let value: f64 = value.parse().unwrap_or_else(|_| bad("no number"));
        let kind = types.get(&family).map(String::as_str);
        let suffix = name
            .strip_prefix(family.as_str())
            .unwrap_or_else(|| bad("outside its family"));
        let fits = match kind {
            Some("counter") => suffix == "_total" && value >= 0.0,
            Some("gauge") => suffix.is_empty(),
            Some("histogram") => ["_sum", "_count", "_bucket"].contains(&suffix),
            Some("info") => suffix == "_info" && value == 1.0,
            _ => false,
        };
        if !fits {
            bad("does not fit the type of its family");
        }
        if suffix == "_bucket" {
            let mut others = labels.clone();
            let le = others.remove("le").unwrap_or_else(|| bad("no bound"));
            let bound: f64 = if le == "+Inf" {
                f64::INFINITY
            } else {
                le.parse().unwrap_or_else(|_| bad("no bound"))
            };
            let key = format!("{name}{others:?}");
            if let Some((of, before, count)) = &buckets
                && *of == key
                && (*before >= bound || *count > value)
            {
                bad("buckets go down");
            }
            buckets = Some((key, bound, value));
        } else if let Some((_, bound, _)) = buckets.take()
            && bound != f64::INFINITY
        {
            bad("a histogram without its last bucket");
        }
        if !seen.insert(format!("{name}{labels:?}")) {
            bad("a point twice");
        }
        points.push(Point {
            name: name.to_owned(),
            labels,
            value,
        });
    }
    points
}

/// `{a="b",c="d"} 1` as labels and the text of the value.
fn parse_labels(text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    let Some(mut rest) = text.strip_prefix('{') else {
        return Some((labels, text.strip_prefix(' ')?));
    };
    loop {
        let (name, value) = rest.split_once("=\"")?;
        let mut out = String::new();
        let mut chars = value.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => out.push(match chars.next()?.1 {
                    'n' => '\n',
                    c @ ('"' | '\\') => c,
                    _ => return None,
                }),
                (_, c) => out.push(c),
            }
        };
        if labels.insert(name.to_owned(), out).is_some() {
            return None;
        }
        rest = &value[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some((labels, rest.strip_prefix("} ")?)),
        }
    }
}

fn value(points: &[Point], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |point: &&Point| {
        point.name == name
            && labels
                .iter()
                .all(|(k, v)| point.labels.get(*k).is_some_and(|value| value == v))
    };
    points.iter().find(fits).map(|point| point.value)
}

#[test]
fn a_wrong_configuration_is_refused_with_its_line() {
    let buses = Buses::new();
    for (agent, more, line, why) in [
        ("htpp = \"off\"", "", 3, "htpp"),
        ("http = \"0.0.0.0:0\"", "", 3, "listen_public"),
        (
            "",
            "[[bus]]\nname = \"b\"\nlimits = { bytes = \"1Q\" }",
            6,
            "is no size",
        ),
        (
            "",
            "[[bus]]\nname = \"b\"\n[[bus]]\nname = \"b\"",
            7,
            "twice",
        ),
        (
            "",
            "[[bus]]\nname = \"b\"\nretention = { age = \"1d\" }",
            6,
            "has no log",
        ),
    ] {
        let path = configure(&buses, agent, more);
        let path = path.to_str().unwrap();
        for args in [&["--config", path, "--check"][..], &["--config", path]] {
            let said = run(&buses, args).exits(2);
            let place = format!("agent.toml:{line}: ");
            assert!(said.err.contains(&place), "{args:?}: {}", said.err);
            assert!(said.err.contains(why), "{args:?}: {}", said.err);
        }
    }
    let said = run(&buses, &["--config", "/nowhere/agent.toml"]).exits(2);
    assert!(said.err.contains("cannot read /nowhere"), "{}", said.err);
}

#[test]
fn the_sample_configuration_is_good_and_its_plan_is_said() {
    let buses = Buses::new();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/mmsb-agent.toml");
    let said = run(&buses, &["--config", sample, "--check"]).exits(0);
    for expected in [
        "is good",
        "http://127.0.0.1:9464/",
        "bus prices: ",
        "/var/lib/mmsb/prices",
        "bus arm: wait until somebody creates it",
    ] {
        assert!(said.out.contains(expected), "{expected}: {}", said.out);
    }
    // Nothing was done.
    assert_eq!(buses.files(), [""; 0]);
}

#[test]
fn a_port_in_use_is_a_clear_error() {
    let buses = Buses::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let path = configure(&buses, &format!("http = \"{address}\""), "");
    let said = run(&buses, &["--config", path.to_str().unwrap()]).exits(5);
    let expected = format!("{address} is in use");
    assert!(said.err.contains(&expected), "{}", said.err);
}

#[test]
fn metrics_are_openmetrics_and_agree_with_the_bus() {
    let buses = Buses::new();
    let config = configure(
        &buses,
        ANY,
        "[[bus]]\nname = \"plant\"\ncreate = { ring = \"64K\", mode = \"0640\" }\nlimits = { pages = 100 }\n[[bus]]\nname = \"away\"\n",
    );
    let mut daemon = Daemon::start(&buses, &config);
    let address = daemon.address();
    daemon.says("ready");
    let _plant = Plant::start(&buses);
    let bus = [("bus", "plant")];
    let scrape = || {
        let answer = get(address, "/metrics");
        assert_eq!(answer.status, 200);
        let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(answer.head.contains(kind), "{}", answer.head);
        parse_metrics(&answer.body)
    };
    until("deltas", || {
        value(&scrape(), "mmsb_deltas_total", &bus).is_some_and(|n| n > 50.0)
    });
    until("a cursor", || {
        let lag = [
            ("bus", "plant"),
            ("participant", "logger"),
            ("kind", "lossy"),
        ];
        value(&scrape(), "mmsb_cursor_lag_lsn", &lag).is_some()
    });
    let points = scrape();
    assert_eq!(value(&points, "mmsb_bus_up", &bus), Some(1.0));
    assert_eq!(value(&points, "mmsb_bus_up", &[("bus", "away")]), Some(0.0));
    assert_eq!(value(&points, "mmsb_pages", &bus), Some(2.0));
    assert_eq!(
        value(
            &points,
            "mmsb_limit_exceeded",
            &[("bus", "plant"), ("limit", "pages")]
        ),
        Some(0.0)
    );
    assert_eq!(
        value(
            &points,
            "mmsb_participants",
            &[("bus", "plant"), ("state", "alive")]
        ),
        Some(3.0)
    );
    assert!(value(&points, "mmsb_arena_used_bytes", &bus).unwrap() > 0.0);
    assert_eq!(value(&points, "mmsb_recoveries_total", &bus), Some(0.0));
    let missing = [("bus", "away"), ("kind", "missing")];
    assert_eq!(value(&points, "mmsb_bus_problem", &missing), Some(1.0));
    assert_eq!(value(&points, "mmsb_agent_healthy", &[]), Some(0.0));
    // Where it was created as asked.
    let info = &buses.json(&["info", "plant"])["bus"];
    assert_eq!(
        (&info["ring_bytes"], &info["mode"]),
        (&65536.into(), &0o640.into())
    );
    let health = get(address, "/healthz");
    let document: Value = serde_json::from_str(&health.body).unwrap();
    assert_eq!(health.status, 503);
    assert_eq!(document["reasons"][0]["bus"], "away");
    assert_eq!(document["reasons"][0]["kind"], "missing");
    assert_eq!(document["buses"]["plant"]["healthy"], true);
    // The bus comes, and all is well.
    buses.mmsb(&["create", "away"]).exits(0);
    until("health", || get(address, "/healthz").status == 200);
    let document: Value = serde_json::from_str(&get(address, "/healthz").body).unwrap();
    assert_eq!(document["status"], "ok");
    daemon.end();
}

#[test]
fn nothing_but_get_and_head_is_answered() {
    let buses = Buses::new();
    let config = configure(&buses, ANY, "[[bus]]\nname = \"b\"\ncreate = {}\n");
    let mut daemon = Daemon::start(&buses, &config);
    let address = daemon.address();
    daemon.says("ready");
    for path in ["/", "/metrics", "/healthz", "/bus/b"] {
        assert_eq!(get(address, path).status, 200, "{path}");
        let head = ask(address, "HEAD", path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let refused = ask(address, method, path);
            assert_eq!(refused.status, 405, "{method} {path}");
            assert!(refused.head.contains("Allow: GET, HEAD"));
        }
    }
    assert_eq!(get(address, "/bus/none").status, 404);
    assert_eq!(get(address, "/etc/passwd").status, 404);
    assert_eq!(get(address, &format!("/{}", "x".repeat(3000))).status, 414);
    daemon.end();
}

#[test]
fn sighup_adds_changes_and_removes_buses_and_a_bad_file_changes_nothing() {
    let buses = Buses::new();
    let bus =
        |name: &str, more: &str| format!("[[bus]]\nname = \"{name}\"\ncreate = {{}}\n{more}\n");
    let config = configure(&buses, ANY, &bus("a", ""));
    let mut daemon = Daemon::start(&buses, &config);
    let address = daemon.address();
    daemon.says("ready");
    let names = || {
        let document: Value = serde_json::from_str(&get(address, "/healthz").body).unwrap();
        let keys = document["buses"].as_object().unwrap().keys().cloned();
        keys.collect::<Vec<String>>().join(" ")
    };
    assert_eq!(names(), "a");
    configure(
        &buses,
        ANY,
        &(bus("a", "limits = { participants = 0 }") + &bus("c", "")),
    );
    daemon.signal(Signal::SIGHUP);
    until("the new bus", || names() == "a c");
    until("the limit", || get(address, "/healthz").status == 503);
    assert!(get(address, "/healthz").body.contains("the limit is 0"));
    // A file that is wrong, and one whose address is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = format!("http = \"{}\"", taken.local_addr().unwrap());
    for (agent, said) in [("http = 7", "agent.toml:3"), (&taken_address, "is in use")] {
        configure(&buses, agent, "");
        daemon.signal(Signal::SIGHUP);
        daemon.says(said);
        until("the refusal", || {
            get(address, "/healthz").body.contains(said)
        });
        assert_eq!(names(), "a c");
        assert!(get(address, "/").body.contains("was not reloaded"));
    }
    // The agent leaves a bus, which stays.
    configure(&buses, ANY, &bus("c", ""));
    daemon.signal(Signal::SIGHUP);
    until("the removal", || names() == "c");
    until("health", || get(address, "/healthz").status == 200);
    assert!(
        buses
            .bus("a")
            .attach()
            .unwrap()
            .stats()
            .unwrap()
            .participants
            .len()
            == 1
    );
    let points = parse_metrics(&get(address, "/metrics").body);
    let reloads = |result| value(&points, "mmsb_agent_reloads_total", &[("result", result)]);
    assert_eq!((reloads("ok"), reloads("refused")), (Some(2.0), Some(2.0)));
    // Somewhere else from now on.
    configure(&buses, "http = \"[::1]:0\"", &bus("c", ""));
    if TcpListener::bind("[::1]:0").is_ok() {
        daemon.signal(Signal::SIGHUP);
        until("the new address", || {
            TcpStream::connect(address).is_err() && daemon.address().is_ipv6()
        });
        assert_eq!(get(daemon.address(), "/healthz").status, 200);
    }
    daemon.end();
}

#[test]
fn deleted_segments_are_said_and_made_again_by_rule() {
    let buses = Buses::new();
    let config = configure(
        &buses,
        ANY,
        "[[bus]]\nname = \"kept\"\ncreate = {}\non_deleted = \"recreate\"\n[[bus]]\nname = \"told\"\ncreate = {}\n",
    );
    let mut daemon = Daemon::start(&buses, &config);
    let address = daemon.address();
    daemon.says("ready");
    for name in ["kept", "told"] {
        mmsb::Bus::unlink_in(buses.path(), name).unwrap();
    }
    daemon.says("its segments were deleted while it is in use");
    let count = |name, bus| {
        value(
            &parse_metrics(&get(address, "/metrics").body),
            name,
            &[("bus", bus)],
        )
    };
    until("kept", || {
        count("mmsb_bus_recreations_total", "kept") == Some(1.0)
    });
    until("told", || {
        count("mmsb_segments_deleted", "told") == Some(1.0)
    });
    assert_eq!(count("mmsb_segment_deletions_total", "kept"), Some(1.0));
    assert_eq!(count("mmsb_bus_recreations_total", "told"), Some(0.0));
    let health = get(address, "/healthz");
    assert_eq!(health.status, 503);
    assert!(health.body.contains("\"deleted\""), "{}", health.body);
    // Somebody makes it again: the agent goes on with that.
    buses.mmsb(&["create", "told"]).exits(0);
    until("health", || get(address, "/healthz").status == 200);
    buses.bus("kept").attach().unwrap();
    daemon.end();
}

#[test]
fn systemd_is_told_and_sigterm_ends_it_in_order() {
    let buses = Buses::new();
    let config = configure(
        &buses,
        "http = \"off\"",
        "[[bus]]\nname = \"b\"\ncreate = {}\n",
    );
    let path = buses.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut daemon = Daemon::start_with(&buses, &config, |command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "200000")
            .env_remove("WATCHDOG_PID");
    });
    let hear = |wanted: &str| {
        let mut buffer = [0u8; 4096];
        loop {
            let n = socket
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("no {wanted}: {e}"));
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if text.lines().any(|line| line.starts_with(wanted)) {
                return text;
            }
        }
    };
    let ready = hear("READY=1");
    assert!(ready.contains("STATUS=1 of 1 buses attached"), "{ready}");
    for _ in 0..3 {
        hear("WATCHDOG=1");
    }
    daemon.signal(Signal::SIGHUP);
    let reloading = hear("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    hear("READY=1");
    daemon.says("read again");
    let log = {
        daemon.signal(Signal::SIGTERM);
        hear("STOPPING=1");
        daemon.ended()
    };
    assert!(log.contains("asked to end"), "{log}");
    let stats = buses.json(&["stats", "b"]);
    assert_eq!(stats["participants"], Value::Array(Vec::new()));
}

#[test]
fn json_log_lines_are_objects() {
    let buses = Buses::new();
    let config = configure(
        &buses,
        "http = \"off\"",
        "[[bus]]\nname = \"b\"\ncreate = {}\n",
    );
    let mut daemon = Daemon::start_with(&buses, &config, |command| {
        command.args(["--log-format", "json"]);
    });
    daemon.says("ready");
    let log = daemon.end();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let created = lines.iter().find(|line| line["message"] == "created");
    assert_eq!(created.unwrap()["bus"], "b", "{log}");
    assert!(lines.iter().all(|line| line["level"].is_string()));
}

#[test]
fn slow_and_silent_clients_hold_up_nobody() {
    let buses = Buses::new();
    let config = configure(&buses, ANY, "[[bus]]\nname = \"b\"\ncreate = {}\n");
    let mut daemon = Daemon::start(&buses, &config);
    let address = daemon.address();
    daemon.says("ready");
    let silent: Vec<TcpStream> = (0..16)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut half = TcpStream::connect(address).unwrap();
    half.write_all(b"GET / HT").unwrap();
    assert_eq!(get(address, "/healthz").status, 200);
    let mut said = String::new();
    // It is told when its time is over.
    half.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    drop(silent);
    daemon.end();
}

/// A logged bus `plant`, made and kept by the agent.
fn logged(log: &Path, more: &str) -> String {
    format!(
        "[[bus]]\nname = \"plant\"\nlog = {:?}\ninterval = \"2ms\"\nsegment_bytes = \"1MiB\"\n{more}\n",
        log.display()
    )
}

/// What the agent at `address` says of `plant`.
fn role(address: SocketAddr) -> String {
    let document: Value = serde_json::from_str(&get(address, "/healthz").body).unwrap();
    document["buses"]["plant"]["role"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_logged_bus_survives_the_loss_of_its_segments_and_its_numbers_are_served() {
    let (buses, log) = (Buses::new(), tempfile::tempdir().unwrap());
    let config = configure(&buses, ANY, &logged(log.path(), "durability = \"synced\""));
    let mut daemon = Daemon::start(&buses, &config);
    let address = daemon.address();
    daemon.says("supervises it");
    daemon.says("ready");
    {
        let bus = buses.bus("plant").attach().unwrap();
        // As configured, without a word by the writer.
        assert_eq!(bus.durability(), mmsb::Durability::Synced);
        let page = bus
            .create_page(PageSpec::of::<u64>().name("count"))
            .unwrap();
        for n in 1..=200u64 {
            let lsn = page.set(&n).unwrap();
            assert!(bus.durable_lsn() > lsn);
        }
    }
    let bus = [("bus", "plant")];
    let scrape = || parse_metrics(&get(address, "/metrics").body);
    until("the writes", || {
        value(&scrape(), "mmsb_log_write_seconds_count", &bus).is_some_and(|n| n >= 200.0)
    });
    let points = scrape();
    assert_eq!(value(&points, "mmsb_durable_lag_lsn", &bus), Some(0.0));
    assert_eq!(value(&points, "mmsb_supervisor_active", &bus), Some(1.0));
    assert_eq!(value(&points, "mmsb_log_errors_total", &bus), Some(0.0));
    let durable = value(&points, "mmsb_durable_lsn", &bus).unwrap();
    assert!(durable >= 200.0, "{durable}");
    let mut running = [("bus", "plant"), ("state", "running")];
    assert_eq!(value(&points, "mmsb_log_state", &running), Some(1.0));
    running[1].1 = "failed";
    assert_eq!(value(&points, "mmsb_log_state", &running), None);
    assert!(get(address, "/bus/plant").body.contains("plot-latency"));
    let top = buses.json(&["top", "plant", "--once", "-i", "50ms"]);
    assert_eq!(top["buses"][0]["log"], "running");
    assert_eq!(top["buses"][0]["durable_lag"], 0);
    let said = daemon.end();
    assert!(said.contains("its log is closed"), "{said}");
    // A reboot.
    mmsb::Bus::unlink_in(buses.path(), "plant").unwrap();
    let said = run(&buses, &["--config", config.to_str().unwrap(), "--check"]).exits(0);
    assert!(said.out.contains("rebuild it from its log"), "{}", said.out);
    let mut daemon = Daemon::start(&buses, &config);
    daemon.says("rebuilt from its log");
    daemon.says("ready");
    let address = daemon.address();
    assert_eq!(get(address, "/healthz").status, 200);
    let bus = buses.bus("plant").attach().unwrap();
    assert_eq!(bus.page("count").unwrap().read::<u64>().unwrap(), 200);
    daemon.end();
}

#[test]
fn segments_that_are_deleted_under_writers_come_back_with_every_commit() {
    let (buses, log) = (Buses::new(), tempfile::tempdir().unwrap());
    let config = configure(
        &buses,
        ANY,
        &logged(log.path(), "on_deleted = \"recreate\""),
    );
    let mut daemon = Daemon::start(&buses, &config);
    daemon.says("ready");
    let bus = buses.bus("plant").attach().unwrap();
    let page = bus
        .create_page(PageSpec::of::<u64>().name("count"))
        .unwrap();
    mmsb::Bus::unlink_in(buses.path(), "plant").unwrap();
    // Until it is told that the bus is gone, whatever is written counts.
    let mut last = 0u64;
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = loop {
        match page.set(&(last + 1)) {
            Ok(_) => last += 1,
            Err(error) => break error,
        }
        assert!(Instant::now() < deadline, "{}", daemon.log());
        std::thread::sleep(Duration::from_micros(200));
    };
    assert!(
        matches!(error, mmsb::Error::Page(mmsb::PageError::BusGone)),
        "{error}"
    );
    daemon.says("rebuilt from its log");
    let again = buses.bus("plant").attach().unwrap();
    assert_eq!(again.page("count").unwrap().read::<u64>().unwrap(), last);
    let address = daemon.address();
    until("health", || get(address, "/healthz").status == 200);
    daemon.end();
}

#[test]
fn a_second_agent_waits_as_standby_and_takes_over_from_a_killed_one() {
    let (buses, log) = (Buses::new(), tempfile::tempdir().unwrap());
    let config = configure(&buses, ANY, &logged(log.path(), ""));
    let mut first = Daemon::start(&buses, &config);
    first.says("supervises it");
    let mut second = Daemon::start(&buses, &config);
    second.says("is standby: another process supervises it");
    let address = second.address();
    second.says("ready");
    // Waiting is no fault.
    assert_eq!(get(address, "/healthz").status, 200);
    assert_eq!(role(address), "standby");
    let bus = buses.bus("plant").attach().unwrap();
    let page = bus
        .create_page(PageSpec::of::<u64>().name("count"))
        .unwrap();
    page.set(&1u64).unwrap();
    first.signal(Signal::SIGKILL);
    wait(&mut first.child);
    until("the takeover", || role(address) == "active");
    let lsn = page.set(&2u64).unwrap();
    bus.wait_durable(lsn, Duration::from_secs(30)).unwrap();
    assert_eq!(get(address, "/healthz").status, 200);
    drop(bus);
    second.end();
}

#[test]
fn a_log_that_nobody_writes_is_a_reason_to_be_unhealthy() {
    let (buses, log) = (Buses::new(), tempfile::tempdir().unwrap());
    let open = || {
        let bus = buses.bus("plant").durable(log.path()).open_or_create();
        bus.unwrap()
    };
    drop(open());
    // The agent only adopts it: the log is its program's, which is gone.
    let config = configure(&buses, ANY, "[[bus]]\nname = \"plant\"\n");
    let mut daemon = Daemon::start(&buses, &config);
    let address = daemon.address();
    daemon.says("nobody supervises it");
    let health = get(address, "/healthz");
    assert_eq!(health.status, 503);
    assert!(health.body.contains("no_supervisor"), "{}", health.body);
    let _program = open();
    until("health", || get(address, "/healthz").status == 200);
    daemon.end();
    // A directory that holds the log of another bus is not touched.
    let config = configure(&buses, ANY, &logged(log.path(), ""));
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("\"plant\"", "\"other\"")).unwrap();
    buses.mmsb(&["create", "other"]).exits(0);
    let mut daemon = Daemon::start(&buses, &config);
    daemon.says("problem=\"no_supervisor\"");
    let address = daemon.address();
    until("the reason", || get(address, "/healthz").status == 503);
    daemon.end();
}

/// Clock ticks that a process has used.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_agent_with_nothing_to_do_takes_no_processor_time() {
    let buses = Buses::new();
    let path = buses.path().join("agent.toml");
    // With the interval that holds without one.
    let log = tempfile::tempdir().unwrap();
    let text = format!(
        "[agent]\nhttp = \"127.0.0.1:0\"\n[[bus]]\nname = \"a\"\ncreate = {{}}\n{}",
        logged(log.path(), "")
    );
    std::fs::write(&path, text).unwrap();
    let mut daemon = Daemon::start(&buses, &path);
    daemon.says("ready");
    // A second is enough for a spinning thread; the number itself is for the measurement, which takes longer.
    let seconds = std::env::var("MMSB_IDLE_SECONDS").map_or(3.0, |s| s.parse().unwrap());
    let (begin, before) = (Instant::now(), ticks(daemon.child.id()));
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let used = (ticks(daemon.child.id()) - before) as f64 / 100.0;
    let share = used / begin.elapsed().as_secs_f64();
    println!("idle: {:.3} % of a core over {seconds} s", share * 100.0);
    // On a loaded machine a tick or two go astray; a loop that polls takes far more.
    assert!(share < 0.03, "{share}");
    daemon.end();
}

/// Runs headless Chromium, which prints what it made of the page; `None` if there is none on this machine.
fn chromium(args: &[&str]) -> Option<String> {
    let candidates = ["chromium", "chromium-browser", "google-chrome"];
    let profile = tempfile::tempdir().unwrap();
    for program in candidates {
        let mut command = Command::new(program);
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => return Some(finish(child).exits(0).out),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{program}: {error}"),
        }
    }
    if std::env::var_os("MMSB_REQUIRE_CHROMIUM").is_some_and(|value| value == "1") {
        panic!("there is no chromium, and MMSB_REQUIRE_CHROMIUM=1");
    }
    println!("skipped: no chromium");
    None
}

#[test]
fn a_real_browser_shows_the_status_pages() {
    let buses = Buses::new();
    let log = tempfile::tempdir().unwrap();
    let config = configure(&buses, ANY, &logged(log.path(), ""));
    let mut daemon = Daemon::start(&buses, &config);
    let address = daemon.address();
    daemon.says("ready");
    let _plant = Plant::start(&buses);
    until("history", || {
        let page = get(address, "/bus/plant").body;
        page.matches("<path").count() >= 2 && page.contains('L') && page.contains("hot")
    });
    let Some(index) = chromium(&["--dump-dom", &format!("http://{address}/")]) else {
        return;
    };
    for expected in [
        "<svg",
        "plot-rate",
        "plot-lag",
        ">plant</a>",
        "healthy",
        "id=\"buses\"",
    ] {
        assert!(index.contains(expected), "{expected}: {index}");
    }
    let page = chromium(&["--dump-dom", &format!("http://{address}/bus/plant")]).unwrap();
    for expected in [
        "tank/&lt;hot&gt;",
        "tank/cold",
        "controller",
        "logger",
        "mmsb-agent",
        "class=\"plot plot-rate\"",
        "class=\"plot plot-latency\"",
        "class=\"plot plot-durable\"",
        "id=\"log\"",
        "id=\"cursors\"",
        "id=\"participants\"",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    for text in [&index, &page] {
        assert!(text.contains("http-equiv=\"refresh\""));
        assert!(!text.contains("NaN") && !text.contains("ERR_"), "{text}");
        assert!(!text.contains("<script"), "{text}");
        assert!(!text.contains("Problems"), "{text}");
    }
    // For whoever wants to see it: where to put the pictures, and how long to gather history first.
    if let Ok(dir) = std::env::var("MMSB_SCREENSHOTS") {
        let seconds = std::env::var("MMSB_SCREENSHOT_SECONDS").map_or(0, |s| s.parse().unwrap());
        std::thread::sleep(Duration::from_secs(seconds));
        for (name, path) in [("index", "/"), ("bus", "/bus/plant")] {
            let picture = format!("--screenshot={dir}/{name}.png");
            let url = format!("http://{address}{path}");
            chromium(&["--window-size=1300,1500", &picture, &url]);
        }
    }
    daemon.end();
}

#[test]
fn top_looks_from_outside() {
    let buses = Buses::new();
    let refused = buses.mmsb(&["top"]).fails(2);
    assert!(refused.contains("--once"), "{refused}");
    assert!(
        buses
            .mmsb(&["top", "--once"])
            .exits(0)
            .out
            .contains("no buses")
    );
    buses.mmsb(&["top", "none", "--once"]).fails(4);
    let _plant = Plant::start(&buses);
    buses.mmsb(&["create", "quiet"]).exits(0);
    let document = buses.json(&["top", "--once", "--interval", "300ms"]);
    let plant = &document["buses"][0];
    assert_eq!(plant["name"], "plant");
    assert!(plant["delta_rate"].as_f64().unwrap() > 10.0, "{plant}");
    assert_eq!(plant["hot_pages"][0]["name"], "tank/<hot>");
    assert!(plant["hot_pages"][0]["rate"].as_f64().unwrap() > 10.0);
    assert_eq!(plant["participants"].as_array().unwrap().len(), 2);
    assert_eq!(plant["cursors"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&plant["log"], &plant["state"]),
        (&"none".into(), &"ok".into())
    );
    assert_eq!(document["buses"][1]["name"], "quiet");
    // It joined nothing and left nothing.
    assert!(buses.json(&["stats", "quiet"])["counters"]["joins"] == 1);
    let table = buses.mmsb(&["top", "--once", "-i", "200ms"]).exits(0).out;
    assert!(
        table.contains("tank/<hot>") && table.contains("volatile"),
        "{table}"
    );
    // A line for each look, until it is told to end.
    let mut running = buses.start(&["top", "plant", "--json", "--interval", "50ms"]);
    for _ in 0..3 {
        assert_eq!(running.event()["buses"][0]["name"], "plant");
    }
    running.signal(Signal::SIGTERM);
    running.end().exits(0);
}
