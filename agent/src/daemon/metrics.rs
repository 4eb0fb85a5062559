//! What the agent knows, as OpenMetrics text.
//!
//! The numbers are those of the buses themselves, read at the last look; nothing is counted twice, and a restart of the
//! agent resets only what the agent itself did. `docs/agent.md` lists the metrics.

use std::collections::BTreeSet;
use std::fmt;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::buses::{AgentView, BusView, Phase, realtime_ms};
use super::supervise::{LogState, Role};
use crate::sampling::{Log2Micros, upper_seconds};

/// What `/metrics` is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The agent and its buses at one moment.
#[derive(Debug)]
pub struct Exposition {
    /// The agent.
    pub agent: AgentView,
    /// Whether all is well.
    pub is_healthy: bool,
    /// The buses.
    pub buses: Vec<BusView>,
}

type Labels = Vec<(&'static str, String)>;

/// A number with its labels.
type Point = (Labels, f64);

impl Exposition {
    /// The text.
    ///
    /// # Errors
    ///
    /// None that a string gives.
    pub fn render(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("mmsb");
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }

    /// One point for each bus for which there is a value.
    fn each(&self, value: impl Fn(&BusView) -> Option<f64>) -> Vec<Point> {
        let point = |bus: &BusView| value(bus).map(|value| (labels(bus, &[]), value));
        self.buses.iter().filter_map(point).collect()
    }

    /// Points of each bus, with labels of their own.
    fn every(
        &self,
        points: impl Fn(&BusView) -> Vec<(Vec<(&'static str, String)>, f64)>,
    ) -> Vec<Point> {
        let all = self.buses.iter().flat_map(|bus| {
            points(bus)
                .into_iter()
                .map(|(more, value)| (labels(bus, &more), value))
        });
        all.collect()
    }
}

fn labels(bus: &BusView, more: &[(&'static str, String)]) -> Labels {
    let mut labels = vec![("bus", bus.name.clone())];
    labels.extend_from_slice(more);
    labels
}

fn yes(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

/// Writes families; one that has no points is left out.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn numbers(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        points: &[Point],
    ) -> fmt::Result {
        if points.is_empty() {
            return Ok(());
        }
        let is_counter = matches!(kind, MetricType::Counter);
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        // The same labels twice would be no OpenMetrics: names of participants need not differ, but their indices do.
        let mut seen = BTreeSet::new();
        for (labels, value) in points {
            if !seen.insert(labels.clone()) {
                continue;
            }
            let put = |point: &mut MetricEncoder<'_>| {
                if is_counter {
                    point.encode_counter(value, None::<&Exemplar<NoLabelSet, f64>>)
                } else {
                    point.encode_gauge(value)
                }
            };
            // Braces around nothing are for nobody.
            if labels.is_empty() {
                put(&mut metric)?;
            } else {
                put(&mut metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, points: &[Point]) -> fmt::Result {
        self.numbers(name, help, None, MetricType::Gauge, points)
    }

    fn bytes(&mut self, name: &str, help: &str, points: &[Point]) -> fmt::Result {
        self.numbers(name, help, Some(Unit::Bytes), MetricType::Gauge, points)
    }

    fn seconds(&mut self, name: &str, help: &str, points: &[Point]) -> fmt::Result {
        self.numbers(name, help, Some(Unit::Seconds), MetricType::Gauge, points)
    }

    fn counter(&mut self, name: &str, help: &str, points: &[Point]) -> fmt::Result {
        self.numbers(name, help, None, MetricType::Counter, points)
    }

    fn counter_bytes(&mut self, name: &str, help: &str, points: &[Point]) -> fmt::Result {
        self.numbers(name, help, Some(Unit::Bytes), MetricType::Counter, points)
    }

    fn times(&mut self, name: &str, help: &str, points: &[(Labels, &Log2Micros)]) -> fmt::Result {
        if points.is_empty() {
            return Ok(());
        }
        let seconds = Unit::Seconds;
        let mut metric =
            self.0
                .encode_descriptor(name, help, Some(&seconds), MetricType::Histogram)?;
        for (labels, times) in points {
            let mut point: MetricEncoder<'_> = metric.encode_family(labels)?;
            // 1 µs to 17 s, the same buckets always, so that they can be added up over buses and agents.
            let mut buckets: Vec<(f64, u64)> = (0..25)
                .map(|i| {
                    let count = times.counts.get(i).copied().unwrap_or(0);
                    (upper_seconds(i), count)
                })
                .collect();
            let beyond = times.counts.iter().skip(25).sum();
            buckets.push((f64::INFINITY, beyond));
            let sum = times.sum_us as f64 * 1e-6;
            point.encode_histogram::<NoLabelSet>(sum, times.total(), &buckets, None)?;
        }
        Ok(())
    }
}

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.agent(&mut families)?;
        self.size(&mut families)?;
        self.traffic(&mut families)?;
        self.log(&mut families)
    }
}

impl Exposition {
    fn agent(&self, to: &mut Families<'_>) -> fmt::Result {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        to.gauge("agent_build", "Version of the agent", &[(version, 1.0)])?;
        let started = self.agent.started_at.duration_since(UNIX_EPOCH);
        let started = started.map_or(0.0, |at| at.as_secs_f64());
        to.seconds(
            "agent_start_time",
            "When the agent started, since 1970",
            &[(Vec::new(), started)],
        )?;
        to.gauge(
            "agent_healthy",
            "1: /healthz answers 200",
            &[(Vec::new(), yes(self.is_healthy))],
        )?;
        let result = |name: &str, n: u64| (vec![("result", name.to_owned())], n as f64);
        to.counter(
            "agent_reloads",
            "Times the configuration was read again",
            &[
                result("ok", self.agent.reloads),
                result("refused", self.agent.reloads_failed),
            ],
        )
    }

    fn size(&self, to: &mut Families<'_>) -> fmt::Result {
        let up = self.each(|bus| Some(yes(bus.phase == Phase::Attached)));
        to.gauge("bus_up", "1: the agent is attached to the bus", &up)?;
        let info = self.every(|bus| {
            let info = bus.info.iter();
            info.map(|info| {
                let more = vec![
                    ("id", info.id.clone()),
                    ("incarnation", info.incarnation.to_string()),
                ];
                (more, 1.0)
            })
            .collect()
        });
        to.gauge("bus_identity", "Which bus it is", &info)?;
        let problems = self.every(|bus| {
            let kinds: BTreeSet<&str> = bus.problems.iter().map(|p| p.kind).collect();
            let kinds = kinds.into_iter();
            kinds
                .map(|kind| (vec![("kind", kind.to_owned())], 1.0))
                .collect()
        });
        to.gauge("bus_problem", "What is wrong with the bus", &problems)?;
        let stat = |f: fn(&mmsb::Stats) -> u64| {
            self.each(move |bus| bus.stats.as_ref().map(|stats| f(stats) as f64))
        };
        let info = |f: fn(&mmsb::BusInfo) -> u64| {
            self.each(move |bus| bus.info.as_ref().map(|info| f(info) as f64))
        };
        to.gauge("pages", "Pages", &stat(|s| s.pages))?;
        to.gauge("pages_max", "Most pages", &info(|i| i.pages_max.into()))?;
        to.gauge("page_names", "Pages with a name", &stat(|s| s.names))?;
        to.bytes(
            "segment_memory",
            "Memory of the page segment",
            &info(|i| i.pages_blocks_bytes),
        )?;
        to.bytes(
            "segment_size",
            "Length of the page segment",
            &info(|i| i.len_bytes),
        )?;
        to.bytes(
            "segment_size_max",
            "Greatest length of the page segment",
            &info(|i| i.bytes_max),
        )?;
        let arena = self.each(|bus| bus.stats.as_ref().map(|_| bus.arena_used() as f64));
        to.bytes("arena_used", "Page memory that holds something", &arena)?;
        let blocks = self.every(|bus| {
            let classes = bus.stats.iter().flat_map(|stats| &stats.classes);
            classes
                .flat_map(|class| {
                    let used = class.blocks.saturating_sub(class.free + class.pending);
                    let states = [
                        ("used", used),
                        ("free", class.free),
                        ("pending", class.pending),
                    ];
                    states.map(|(state, n)| {
                        let more = vec![
                            ("class", class.payload.to_string()),
                            ("state", state.to_owned()),
                        ];
                        (more, n as f64)
                    })
                })
                .collect()
        });
        to.gauge("arena_blocks", "Blocks of page memory", &blocks)?;
        let participants = self.every(|bus| {
            let Some(stats) = &bus.stats else {
                return Vec::new();
            };
            let alive = bus.participants() as f64;
            let dead = stats.participants.len() as f64 - alive;
            vec![
                (vec![("state", "alive".to_owned())], alive),
                (vec![("state", "dead".to_owned())], dead),
            ]
        });
        to.gauge("participants", "Participants", &participants)?;
        to.gauge(
            "participants_max",
            "Most participants",
            &info(|i| i.participants_max.into()),
        )?;
        let limits = |value: fn(&super::limits::Standing) -> f64| {
            self.every(move |bus| {
                let limits = bus.limits.iter();
                limits
                    .map(|s| (vec![("limit", s.what.name().to_owned())], value(s)))
                    .collect()
            })
        };
        to.gauge("limit", "Configured limits", &limits(|s| s.limit as f64))?;
        to.gauge(
            "limit_exceeded",
            "1: the bus is beyond its limit",
            &limits(|s| yes(s.is_exceeded)),
        )?;
        to.gauge(
            "segments_deleted",
            "1: the segments have no name any more",
            &self.each(|bus| Some(yes(bus.phase == Phase::Deleted))),
        )?;
        to.counter(
            "segment_deletions",
            "Times the segments were deleted under the agent",
            &self.each(|bus| Some(bus.deletions as f64)),
        )?;
        to.counter(
            "bus_recreations",
            "Times the agent made the bus again",
            &self.each(|bus| Some(bus.recreations as f64)),
        )
    }

    fn traffic(&self, to: &mut Families<'_>) -> fmt::Result {
        let stat = |f: fn(&mmsb::Stats) -> u64| {
            self.each(move |bus| bus.stats.as_ref().map(|stats| f(stats) as f64))
        };
        to.counter("deltas", "Deltas committed", &stat(|s| s.deltas))?;
        to.counter_bytes("delta_payload", "Payload committed", &stat(|s| s.bytes))?;
        to.counter(
            "waits",
            "Waits for a page or for room in the ring",
            &stat(|s| s.waits),
        )?;
        to.counter("read_retries", "Reads repeated", &stat(|s| s.retries))?;
        to.counter(
            "recoveries",
            "Dead participants recovered, by anybody",
            &stat(|s| s.counter("recoveries")),
        )?;
        to.counter(
            "agent_recoveries",
            "Dead participants recovered by the agent",
            &self.each(|bus| Some(bus.recovered as f64)),
        )?;
        let events = self.every(|bus| {
            let counters = bus.stats.iter().flat_map(|stats| &stats.counters);
            counters
                .filter(|(name, _)| !matches!(*name, "deltas" | "bytes" | "waits" | "retries"))
                .map(|(name, n)| (vec![("event", (*name).to_owned())], *n as f64))
                .collect()
        });
        to.counter("events", "Rare events of the bus", &events)?;
        to.gauge(
            "published_lsn",
            "Everything ahead of it is committed",
            &self.each(|bus| bus.stats.as_ref().map(|_| bus.published_lsn as f64)),
        )?;
        to.gauge("end_lsn", "Where the ring ends", &stat(|s| s.end_lsn))?;
        to.gauge(
            "floor_lsn",
            "Records ahead of it may be gone from the ring",
            &stat(|s| s.floor_lsn),
        )?;
        let cursors = |f: fn(&mmsb::CursorStats) -> u64| {
            self.every(move |bus| {
                let Some(stats) = &bus.stats else {
                    return Vec::new();
                };
                let cursors = stats.cursors.iter().map(|cursor| {
                    let owner = stats
                        .participants
                        .iter()
                        .find(|p| p.index == cursor.participant);
                    let kind = if cursor.gating { "gating" } else { "lossy" };
                    let more = vec![
                        ("cursor", cursor.index.to_string()),
                        (
                            "participant",
                            owner.map_or(String::new(), |p| p.name.clone()),
                        ),
                        ("kind", kind.to_owned()),
                    ];
                    (more, f(cursor) as f64)
                });
                cursors.collect()
            })
        };
        to.gauge(
            "cursor_lag_lsn",
            "How far a subscription is behind, in LSNs (ring slots of 64 bytes)",
            &cursors(|c| c.lag),
        )?;
        to.counter(
            "cursor_missed_lsn",
            "LSNs that a lossy subscription missed",
            &cursors(|c| c.missed),
        )
    }

    fn log(&self, to: &mut Families<'_>) -> fmt::Result {
        let states = self.every(|bus| {
            let state = bus.log.state.name().to_owned();
            vec![(vec![("state", state)], 1.0)]
        });
        to.gauge("log_state", "How the log is", &states)?;
        let roles = self.every(|bus| {
            let supervised = bus.supervised.iter();
            supervised
                .map(|s| (vec![("role", s.role.name().to_owned())], 1.0))
                .collect()
        });
        to.gauge("supervisor_role", "What the agent is to the log", &roles)?;
        let standby = |bus: &BusView| {
            let s = bus.supervised.as_ref()?;
            Some(yes(s.role == Role::Active))
        };
        to.gauge(
            "supervisor_active",
            "1: the agent writes the log",
            &self.each(standby),
        )?;
        let log = |f: fn(&BusView) -> f64| {
            self.each(move |bus| (bus.log.state != LogState::None).then(|| f(bus)))
        };
        to.gauge(
            "supervised",
            "1: somebody writes the log",
            &log(|bus| yes(bus.log.supervised == Some(true))),
        )?;
        to.gauge(
            "durable_lsn",
            "Everything ahead of it is on disk",
            &log(|bus| bus.log.durable_lsn as f64),
        )?;
        to.gauge(
            "durable_lag_lsn",
            "Committed and not on disk, in LSNs",
            &log(|bus| bus.durable_lag_lsn() as f64),
        )?;
        to.seconds(
            "durable_lag",
            "Age of the oldest delta that is not on disk, to the interval of the agent",
            &log(|bus| bus.durable_lag.as_secs_f64()),
        )?;
        to.gauge(
            "checkpoint_lsn",
            "LSN that the newest checkpoint holds",
            &log(|bus| bus.log.checkpoint_lsn as f64),
        )?;
        let age = self.each(|bus| {
            let at = bus.log.checkpoint_ns;
            (at > 0).then(|| realtime_ms().saturating_sub(at / 1_000_000) as f64 * 1e-3)
        });
        to.seconds("checkpoint_age", "Age of the newest checkpoint", &age)?;
        to.counter(
            "log_writes",
            "Durable writes",
            &log(|bus| bus.log.writes as f64),
        )?;
        to.counter_bytes(
            "log_written",
            "Bytes of durable writes",
            &log(|bus| bus.log.bytes as f64),
        )?;
        to.counter(
            "log_records",
            "Records of durable writes",
            &log(|bus| bus.log.records as f64),
        )?;
        to.counter(
            "log_errors",
            "Writes, syncs and new log files that failed",
            &log(|bus| bus.log.errors as f64),
        )?;
        to.counter(
            "log_takeovers",
            "Supervisors that took over from a dead one",
            &log(|bus| bus.log.takeovers as f64),
        )?;
        to.counter(
            "log_files",
            "Log files begun",
            &log(|bus| bus.log.files as f64),
        )?;
        to.bytes(
            "log_disk",
            "Bytes of the log files now",
            &log(|bus| bus.log.disk_bytes as f64),
        )?;
        to.gauge(
            "log_from_lsn",
            "First LSN that the log still holds",
            &log(|bus| bus.log.from_lsn as f64),
        )?;
        to.counter(
            "checkpoints",
            "Checkpoints written",
            &log(|bus| bus.log.checkpoints as f64),
        )?;
        to.bytes(
            "checkpoint_size",
            "Bytes of the newest checkpoint",
            &log(|bus| bus.log.checkpoint_bytes as f64),
        )?;
        to.seconds(
            "checkpoint_took",
            "How long the newest checkpoint took",
            &log(|bus| bus.log.checkpoint_took.as_secs_f64()),
        )?;
        let flight = self.each(|bus| bus.supervised.as_ref().map(|s| s.in_flight as f64));
        to.gauge(
            "log_writes_in_flight",
            "Writes on their way to the disk",
            &flight,
        )?;
        let times = |f: fn(&BusView) -> &Log2Micros| {
            let logged = self.buses.iter().filter(|b| b.log.state != LogState::None);
            logged
                .map(|bus| (labels(bus, &[]), f(bus)))
                .collect::<Vec<_>>()
        };
        to.times(
            "log_write",
            "Time of durable writes (write and sync)",
            &times(|bus| &bus.log.write_times),
        )?;
        to.times(
            "commit_to_durable",
            "Time until the last commit of a moment is on disk, by one sample in each look",
            &times(|bus| &bus.commit_to_durable),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::daemon::supervise::LogSeen;

    #[test]
    fn a_logged_bus_has_histograms_and_strange_names_are_escaped() {
        let mut write_times = Log2Micros::default();
        write_times.add(Duration::from_micros(30));
        write_times.add(Duration::from_secs(100));
        let bus = BusView {
            name: "a\"b\\c\nd".to_owned(),
            published_lsn: 150,
            log: LogSeen {
                state: LogState::Running,
                durable_lsn: 100,
                write_times,
                ..LogSeen::default()
            },
            ..BusView::default()
        };
        let agent = AgentView {
            started_at: SystemTime::now(),
            interval: Duration::from_secs(1),
            reloads: 1,
            reloads_failed: 0,
            reload_error: None,
        };
        let exposition = Exposition {
            agent,
            is_healthy: true,
            buses: vec![bus],
        };
        let text = exposition.render().unwrap();
        let line = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .unwrap_or_else(|| panic!("{start}: {text}"))
        };
        assert_eq!(
            line("mmsb_durable_lag_lsn{"),
            r#"mmsb_durable_lag_lsn{bus="a\"b\\c\nd"} 50.0"#
        );
        assert!(line("mmsb_log_write_seconds_count{").ends_with(" 2"));
        assert!(line("mmsb_log_write_seconds_bucket{le=\"+Inf\"").ends_with(" 2"));
        assert!(line("mmsb_agent_reloads_total{result=\"ok\"}").ends_with(" 1.0"));
        assert!(text.ends_with("# EOF\n"));
    }
}
