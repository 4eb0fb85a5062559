//! The agent's one TOML file: read, checked as a whole, and refused with the line that is wrong.
//!
//! A key that is not known is an error, for a setting with a typo would else silently not hold. Sizes are numbers of bytes
//! or text such as `"64MiB"`, durations are text such as `"5ms"` or numbers of seconds. `agent/mmsb-agent.toml` shows
//! every key.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mmsb::{Bus, BusBuilder};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;

use crate::cli::{directory, units};

/// Where metrics are served unless the file says otherwise.
pub const LISTEN: &str = "127.0.0.1:9464";

/// What the agent does.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to answer HTTP; `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// The least severe events that are logged.
    pub log_level: LogLevel,
    /// Pause between two looks at a bus.
    pub interval: Duration,
    /// The buses, by name.
    pub buses: Vec<BusConfig>,
}

/// The least severe events that are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What may fail.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// What was looked at.
    Debug,
}

impl From<LogLevel> for tracing::level_filters::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

/// One bus and what is done for it.
#[derive(Clone, Debug, PartialEq)]
pub struct BusConfig {
    /// Its name.
    pub name: String,
    /// Directory of its segments.
    pub dir: PathBuf,
    /// How to create it if it is not there; `None`: it is adopted when somebody else creates it.
    pub create: Option<Create>,
    /// Its log; `None`: it stays volatile.
    pub log: Option<LogConfig>,
    /// What it should not grow beyond.
    pub limits: Limits,
    /// What to do if its segments are deleted.
    pub on_deleted: OnDeleted,
}

/// Sizes of a bus that is created; what is not given has the default of [`BusBuilder`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// Greatest size of the bus.
    pub size: Option<Size>,
    /// Size of the ring.
    pub ring: Option<Size>,
    /// Most pages.
    pub pages: Option<u32>,
    /// Most pages with a name, schema or metadata.
    pub names: Option<u32>,
    /// Most participants.
    pub participants: Option<u32>,
    /// Most subscriptions with a cursor.
    pub cursors: Option<u32>,
    /// Most source names.
    pub sources: Option<u32>,
    /// Permission bits of the page segment, as octal text.
    pub mode: Option<Mode>,
    /// Permission bits of the control segment.
    pub ctl_mode: Option<Mode>,
}

impl Create {
    /// A builder with these sizes.
    pub fn apply(&self, mut builder: BusBuilder) -> BusBuilder {
        if let Some(size) = self.size {
            builder = builder.bytes_max(size.0);
        }
        if let Some(ring) = self.ring {
            builder = builder.ring_bytes(ring.0);
        }
        if let Some(pages) = self.pages {
            builder = builder.pages_max(pages);
        }
        if let Some(names) = self.names {
            builder = builder.names_max(names);
        }
        if let Some(participants) = self.participants {
            builder = builder.participants_max(participants);
        }
        if let Some(cursors) = self.cursors {
            builder = builder.cursors_max(cursors);
        }
        if let Some(sources) = self.sources {
            builder = builder.sources_max(sources);
        }
        if let Some(mode) = self.mode {
            builder = builder.mode(mode.0);
        }
        if let Some(mode) = self.ctl_mode {
            builder = builder.ctl_mode(mode.0);
        }
        builder
    }
}

/// What writers who say nothing get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultDurability {
    /// A write returns when it is in memory.
    Volatile,
    /// The same, and it is on disk within the interval.
    Buffered,
    /// A write returns when it is on disk.
    Synced,
}

/// How a bus is logged.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// Directory of the log files and checkpoints, for this bus only.
    pub dir: PathBuf,
    /// What writers who say nothing get; `None`: as the bus was made.
    pub durability: Option<DefaultDurability>,
    /// Longest time that a delta waits to be written.
    pub interval: Duration,
    /// Size of one log file.
    pub segment_bytes: u64,
    /// How much is kept.
    pub retention: Retention,
    /// Whether full files are compressed.
    pub compress: bool,
    /// When images of all pages are written.
    pub checkpoint: Checkpoint,
}

/// How much of a log is kept. What the oldest wanted state needs is never removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Files beyond this many bytes are removed.
    pub bytes: Option<Size>,
    /// Files older than this are removed.
    pub age: Option<Period>,
    /// Everything from this LSN on is kept.
    pub keep_from: Option<u64>,
}

/// When images of all pages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// After this time, if anything changed; zero: never by time. Default: an hour.
    pub interval: Option<Period>,
    /// After this much log; zero: never by size. Default: 1 GiB.
    pub log_bytes: Option<Size>,
    /// How many are kept. Default: 2.
    pub keep: Option<u32>,
}

/// What a bus should not grow beyond. Going beyond is allowed, and said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory of its page segment.
    pub bytes: Option<Size>,
    /// Pages.
    pub pages: Option<u64>,
    /// Participants.
    pub participants: Option<u64>,
}

/// What to do if the segments of a bus are deleted while it is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDeleted {
    /// Say so, and stay with those who still use them.
    #[default]
    Report,
    /// Say so, and create the bus again: from its log if it has one, else empty.
    Recreate,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

/// Permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(pub u32);

/// Takes text by `parse`, and whole numbers too if `number` makes something of them.
struct Text<T> {
    what: &'static str,
    parse: fn(&str) -> Result<T, String>,
    number: fn(u64) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.number)(number)
            .ok_or_else(|| E::invalid_type(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        u64::try_from(number)
            .ok()
            .and_then(self.number)
            .ok_or_else(|| E::invalid_type(de::Unexpected::Signed(number), &self))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        deserializer.deserialize_any(Text {
            what: "a size such as \"64MiB\"",
            parse: |text| units::size(text).map(Size),
            number: |bytes| Some(Size(bytes)),
        })
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
        deserializer.deserialize_any(Text {
            what: "a duration such as \"5ms\"",
            parse: |text| units::duration(text).map(Period),
            number: |seconds| Some(Period(Duration::from_secs(seconds))),
        })
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mode, D::Error> {
        deserializer.deserialize_any(Text {
            what: "octal permission bits as text, such as \"0640\"",
            parse: |text| units::mode(text).map(Mode),
            // 640 in TOML is a decimal number, and not what was meant.
            number: |_| None,
        })
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    agent: AgentTable,
    #[serde(default, rename = "bus")]
    buses: Vec<Spanned<BusTable>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentTable {
    http: Option<Spanned<String>>,
    #[serde(default)]
    listen_public: bool,
    #[serde(default)]
    log_level: LogLevel,
    interval: Option<Spanned<Period>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BusTable {
    name: Spanned<String>,
    dir: Option<PathBuf>,
    create: Option<Create>,
    log: Option<Spanned<PathBuf>>,
    durability: Option<Spanned<DefaultDurability>>,
    interval: Option<Spanned<Period>>,
    segment_bytes: Option<Spanned<Size>>,
    retention: Option<Spanned<Retention>>,
    compress: Option<Spanned<bool>>,
    checkpoint: Option<Spanned<Checkpoint>>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    on_deleted: OnDeleted,
}

/// Why a file was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}: {why}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// It says something that makes no sense.
    #[error("{path}:{line}: {why}", path = path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there, in one line.
        why: String,
    },
}

/// Something wrong at a place of the text.
struct Wrong {
    span: Range<usize>,
    why: String,
}

impl Wrong {
    fn at(span: Range<usize>, why: impl Into<String>) -> Wrong {
        Wrong {
            span,
            why: why.into(),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// The line that is wrong, and why.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.to_owned(),
            why: error.to_string(),
        })?;
        Config::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for errors.
    ///
    /// # Errors
    ///
    /// As [`Config::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        parse(text).map_err(|wrong| {
            let before = &text.as_bytes()[..wrong.span.start.min(text.len())];
            ConfigError::Wrong {
                path: path.to_owned(),
                line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
                why: wrong.why.replace('\n', " "),
            }
        })
    }

    /// Buses that are only adopted and recovered, without a file.
    pub fn of_names(names: &[String], dir: Option<PathBuf>, interval: Duration) -> Config {
        let dir = directory(dir);
        let mut buses: Vec<BusConfig> = Vec::new();
        for name in names {
            // Named twice is looked after once.
            if !buses.iter().any(|bus| bus.name == *name) {
                buses.push(BusConfig {
                    name: name.clone(),
                    dir: dir.clone(),
                    create: None,
                    log: None,
                    limits: Limits::default(),
                    on_deleted: OnDeleted::Report,
                });
            }
        }
        Config {
            http: None,
            log_level: LogLevel::Info,
            interval,
            buses,
        }
    }
}

fn parse(text: &str) -> Result<Config, Wrong> {
    let file: File = toml::from_str(text)
        .map_err(|error| Wrong::at(error.span().unwrap_or(0..0), error.message()))?;
    let interval = match file.agent.interval {
        None => Duration::from_secs(1),
        Some(period) if period.get_ref().0 < Duration::from_millis(10) => {
            return Err(Wrong::at(
                period.span(),
                "the agent looks at most every 10 ms",
            ));
        }
        Some(period) => period.get_ref().0,
    };
    let mut config = Config {
        http: listen(file.agent.http, file.agent.listen_public)?,
        log_level: file.agent.log_level,
        interval,
        buses: Vec::new(),
    };
    for bus in file.buses {
        let (span, bus) = (bus.span(), bus.into_inner());
        let name_span = bus.name.span();
        let bus = bus_of(bus, span)?;
        for other in &config.buses {
            if other.name == bus.name {
                let why = format!("bus {:?} is there twice", bus.name);
                return Err(Wrong::at(name_span, why));
            }
            let dir = |bus: &BusConfig| bus.log.as_ref().map(|log| log.dir.clone());
            if dir(&bus).is_some() && dir(&bus) == dir(other) {
                let why = format!(
                    "buses {:?} and {:?} have the same log directory",
                    other.name, bus.name
                );
                return Err(Wrong::at(name_span, why));
            }
        }
        config.buses.push(bus);
    }
    Ok(config)
}

/// Where to listen; only a loopback address unless the file says that strangers are welcome.
fn listen(http: Option<Spanned<String>>, public: bool) -> Result<Option<SocketAddr>, Wrong> {
    let (span, text) = match http {
        Some(http) => (http.span(), http.into_inner()),
        None => (0..0, LISTEN.to_owned()),
    };
    if text == "off" {
        return Ok(None);
    }
    let bad = |why: String| {
        Wrong::at(
            span.clone(),
            format!("{text:?} is no address: {why}; write such as {LISTEN:?} or \"off\""),
        )
    };
    let address = text
        .to_socket_addrs()
        .map_err(|error| bad(error.to_string()))?
        .next()
        .ok_or_else(|| bad("nothing is known of it".to_owned()))?;
    if !address.ip().is_loopback() && !public {
        let why = format!(
            "{text:?} can be reached from other machines, and who asks is not authenticated: \
             add listen_public = true if that is wanted"
        );
        return Err(Wrong::at(span, why));
    }
    Ok(Some(address))
}

fn bus_of(bus: BusTable, span: Range<usize>) -> Result<BusConfig, Wrong> {
    let name = bus.name.get_ref().clone();
    if name.is_empty() || name.contains('/') || name.contains(char::is_whitespace) {
        return Err(Wrong::at(
            bus.name.span(),
            format!("{name:?} is no name of a bus"),
        ));
    }
    let log = match &bus.log {
        Some(dir) => Some(log_of(dir.get_ref(), dir.span(), &bus)?),
        None => {
            // Each of them needs a log.
            let spans = [
                ("durability", bus.durability.as_ref().map(Spanned::span)),
                ("interval", bus.interval.as_ref().map(Spanned::span)),
                (
                    "segment_bytes",
                    bus.segment_bytes.as_ref().map(Spanned::span),
                ),
                ("retention", bus.retention.as_ref().map(Spanned::span)),
                ("compress", bus.compress.as_ref().map(Spanned::span)),
                ("checkpoint", bus.checkpoint.as_ref().map(Spanned::span)),
            ];
            if let Some((key, Some(span))) = spans.into_iter().find(|(_, span)| span.is_some()) {
                let why = format!(
                    "{key} says how bus {name:?} is logged, but it has no log: add log = \"DIR\""
                );
                return Err(Wrong::at(span, why));
            }
            None
        }
    };
    if bus.on_deleted == OnDeleted::Recreate && bus.create.is_none() && log.is_none() {
        let why = format!(
            "bus {name:?} shall be created again when it is deleted, but not how: add create = {{}}"
        );
        return Err(Wrong::at(span, why));
    }
    Ok(BusConfig {
        dir: directory(bus.dir),
        create: bus.create,
        log,
        limits: bus.limits,
        on_deleted: bus.on_deleted,
        name,
    })
}

fn log_of(dir: &Path, span: Range<usize>, bus: &BusTable) -> Result<LogConfig, Wrong> {
    if !dir.is_absolute() {
        let why = format!(
            "log {:?} is no absolute path",
            dir.as_os_str().to_string_lossy()
        );
        return Err(Wrong::at(span, why));
    }
    let segment_bytes = bus
        .segment_bytes
        .as_ref()
        .map_or(64 << 20, |size| size.get_ref().0);
    if !(1 << 20..=1 << 40).contains(&segment_bytes) {
        let span = bus.segment_bytes.as_ref().map_or(0..0, Spanned::span);
        return Err(Wrong::at(span, "segment_bytes is 1MiB to 1TiB"));
    }
    let interval = bus
        .interval
        .as_ref()
        .map_or(Duration::from_millis(5), |period| period.get_ref().0);
    if !(Duration::from_micros(10)..=Duration::from_secs(60)).contains(&interval) {
        let span = bus.interval.as_ref().map_or(0..0, Spanned::span);
        return Err(Wrong::at(span, "interval is 10us to 60s"));
    }
    let checkpoint = bus.checkpoint.as_ref().map(|c| *c.get_ref());
    if let (Some(Checkpoint { keep: Some(0), .. }), Some(spanned)) = (checkpoint, &bus.checkpoint) {
        return Err(Wrong::at(spanned.span(), "at least one checkpoint is kept"));
    }
    Ok(LogConfig {
        dir: dir.to_owned(),
        durability: bus.durability.as_ref().map(|d| *d.get_ref()),
        interval,
        segment_bytes,
        retention: bus
            .retention
            .as_ref()
            .map_or_else(Default::default, |r| *r.get_ref()),
        compress: bus.compress.as_ref().is_some_and(|c| *c.get_ref()),
        checkpoint: checkpoint.unwrap_or_default(),
    })
}

impl BusConfig {
    /// A builder for this bus, with the agent as its participant.
    pub fn builder(&self) -> BusBuilder {
        let builder = Bus::builder(&self.name).dir(&self.dir).source("mmsb-agent");
        match &self.create {
            Some(create) => create.apply(builder),
            None => builder,
        }
    }

    /// Whether the agent makes the bus if it is not there.
    pub fn is_made(&self) -> bool {
        self.create.is_some() || self.log.is_some()
    }

    /// Whether `other` is reached without leaving the bus and joining it again.
    pub fn is_same_place(&self, other: &BusConfig) -> bool {
        let place = |bus: &BusConfig| {
            let log = bus.log.as_ref();
            (bus.dir.clone(), log.map(|log| log.dir.clone()))
        };
        self.name == other.name && place(self) == place(other)
    }

    /// What the agent would do for it, in one line.
    pub fn plan(&self) -> String {
        let list = Bus::list_in(&self.dir).unwrap_or_default();
        let is_there = list.contains(&self.name);
        let has_log = self.log.as_ref().is_some_and(|log| {
            std::fs::read_dir(&log.dir).is_ok_and(|mut files| files.next().is_some())
        });
        let first = match (is_there, self.is_made(), has_log) {
            (true, _, _) => "adopt it",
            (false, _, true) => "rebuild it from its log",
            (false, true, false) => "create it",
            (false, false, false) => "wait until somebody creates it",
        };
        let mut plan = format!("{first} in {}", self.dir.display());
        if let Some(log) = &self.log {
            plan += &format!(
                ", log it to {} within {:?}",
                log.dir.display(),
                log.interval
            );
        }
        let limits = &self.limits;
        if limits.bytes.is_some() || limits.pages.is_some() || limits.participants.is_some() {
            plan += ", watch its limits";
        }
        if self.on_deleted == OnDeleted::Recreate {
            plan += ", make it again when it is deleted";
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, String) {
        match Config::parse(text, Path::new("f")) {
            Err(ConfigError::Wrong { line, why, .. }) => (line, why),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_empty_file_is_an_agent_without_buses() {
        let config = Config::parse("", Path::new("f")).unwrap();
        assert_eq!(config.http, Some(LISTEN.parse().unwrap()));
        assert_eq!(
            (config.interval, config.buses.len()),
            (Duration::from_secs(1), 0)
        );
    }

    #[test]
    fn every_key_is_understood() {
        let text = r#"
            [agent]
            http = "[::1]:0"
            log_level = "debug"
            interval = "100ms"
            [[bus]]
            name = "prices"
            dir = "/dev/shm"
            create = { size = "1GiB", ring = 65536, pages = 10, names = 5, participants = 3, cursors = 2, sources = 7, mode = "0640", ctl_mode = "600" }
            log = "/var/lib/mmsb/prices"
            durability = "buffered"
            interval = "5ms"
            segment_bytes = "128MiB"
            retention = { bytes = "10G", age = "7d", keep_from = 5 }
            compress = true
            checkpoint = { interval = "1h", log_bytes = "1G", keep = 2 }
            limits = { bytes = "512M", pages = 8, participants = 2 }
            on_deleted = "recreate"
        "#;
        let config = Config::parse(text, Path::new("f")).unwrap();
        let bus = &config.buses[0];
        let create = bus.create.as_ref().unwrap();
        assert_eq!(
            (create.size, create.mode),
            (Some(Size(1 << 30)), Some(Mode(0o640)))
        );
        let log = bus.log.as_ref().unwrap();
        assert_eq!(log.segment_bytes, 128 << 20);
        assert_eq!(log.durability, Some(DefaultDurability::Buffered));
        let week = Duration::from_secs(7 * 86400);
        assert_eq!(log.retention.age, Some(Period(week)));
        assert_eq!(log.checkpoint.keep, Some(2));
        assert_eq!(bus.limits.bytes, Some(Size(512 << 20)));
        assert_eq!(bus.on_deleted, OnDeleted::Recreate);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let (line, why) = wrong("[agent]\nhttpp = \"off\"\n");
        assert_eq!(line, 2);
        assert!(why.contains("httpp"), "{why}");
        let (line, why) = wrong("[[bus]]\nname = \"b\"\nlimits = { bytes = \"many\" }\n");
        assert_eq!(line, 3);
        assert!(why.contains("is no size"), "{why}");
        let (line, why) = wrong("[[bus]]\nname = \"b\"\n[[bus]]\n\nname = \"b\"\n");
        assert_eq!(line, 5);
        assert!(why.contains("twice"), "{why}");
        let (line, why) = wrong("[agent]\n\nhttp = \"0.0.0.0:9464\"\n");
        assert_eq!(line, 3);
        assert!(why.contains("listen_public"), "{why}");
        for (text, expected) in [
            ("[[bus]]\nname = \"b\"\ninterval = \"5ms\"", "has no log"),
            ("[[bus]]\nname = \"b\"\nlog = \"rel\"", "absolute"),
            ("[[bus]]\nname = \"a/b\"", "no name"),
            ("[[bus]]\ndir = \"/dev/shm\"", "name"),
            ("[agent]\nhttp = \"here\"", "no address"),
            ("[agent]\ninterval = \"1ms\"", "10 ms"),
            ("[[bus]]\nname = \"b\"\ncreate = { mode = 640 }", "octal"),
            ("[[bus]]\nname = \"b\"\non_deleted = \"recreate\"", "create"),
            (
                "[[bus]]\nname = \"b\"\nlog = \"/l\"\nsegment_bytes = 5",
                "1MiB",
            ),
            (
                "[[bus]]\nname = \"b\"\nlog = \"/l\"\n[[bus]]\nname = \"c\"\nlog = \"/l\"",
                "same log",
            ),
            ("[agent", "]"),
        ] {
            let (_, why) = wrong(text);
            assert!(why.contains(expected), "{text}: {why}");
        }
        let public = "[agent]\nhttp = \"0.0.0.0:0\"\nlisten_public = true\n";
        assert!(Config::parse(public, Path::new("f")).is_ok());
    }
}
