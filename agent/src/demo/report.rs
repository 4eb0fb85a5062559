//! The demo's verdict: what happened, what was found wrong, and whether that is nothing.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::cli::table::{Align, Style, Table, byte_rate, bytes, count, duration, rate};

use super::crew::Ledger;
use super::durable::report::Durable;
use super::message::{Followed, Latency, Observed, Recoveries};
use super::model::{Cast, Faults};
use super::torment::Options;

/// What the parent did and met.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Processes started.
    pub processes: u64,
    /// Writers killed.
    pub kills_of_writers: u64,
    /// Publishers killed.
    pub kills_of_publishers: u64,
    /// Writers stopped for a while.
    pub stops: u64,
    /// Processes that said nothing for too long, or did not end.
    pub stuck: Vec<String>,
    /// Errors of processes, and ends that nobody asked for; each kind once.
    pub failures: Vec<String>,
    /// How many of them there were.
    pub failure_count: u64,
    /// Acknowledged deltas that the successor of a killed process did not find.
    pub regressed: u64,
    /// Lines that no process writes.
    pub strange_lines: u64,
    /// Whether somebody asked for the end before its time.
    pub ended_early: bool,
    /// How long it went on.
    pub seconds: f64,
    /// How long its end took.
    pub ending_seconds: f64,
}

impl Facts {
    /// Notes an error.
    pub fn fail(&mut self, message: String) {
        self.failure_count += 1;
        if !self.failures.contains(&message) {
            self.failures.push(message);
        }
    }

    /// Processes killed.
    pub fn kills(&self) -> u64 {
        self.kills_of_writers + self.kills_of_publishers
    }
}

/// The verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether nothing was found wrong.
    pub ok: bool,
    /// What was found wrong, in sentences.
    pub problems: Vec<String>,
    /// The seed of the plan.
    pub seed: u64,
    /// How long it went on.
    pub seconds: f64,
    /// How long its end took.
    pub ending_seconds: f64,
    /// Whether somebody asked for the end before its time.
    pub ended_early: bool,
    /// Writers at work at one time.
    pub writers: usize,
    /// Processes started.
    pub processes: u64,
    /// Processes killed.
    pub kills: u64,
    /// ... of which were writers.
    pub kills_of_writers: u64,
    /// ... of which were publishers.
    pub kills_of_publishers: u64,
    /// Writers stopped for a while.
    pub stops: u64,
    /// Repairs, by what the dead had left.
    pub recoveries: Recoveries,
    /// Deaths inside a commit.
    pub kills_inside_commits: u64,
    /// Deltas delivered to the model.
    pub deltas: u64,
    /// Payload bytes they carried.
    pub bytes: u64,
    /// Deltas in a second.
    pub deltas_per_second: f64,
    /// Payload bytes in a second.
    pub bytes_per_second: f64,
    /// Deltas acknowledged by pipe, over all streams.
    pub acknowledged: u64,
    /// ... of which the ring or a page does not have.
    pub lost: u64,
    /// Numbers that came twice, did not come, or tore the model.
    pub faults: Faults,
    /// Pages read by the observer.
    pub reads: u64,
    /// ... of which were torn.
    pub torn: u64,
    /// Reads of the observer that found no quiet moment or a stopped writer.
    pub reads_given_up: u64,
    /// Processes that got stuck.
    pub stuck: u64,
    /// Pages compared with the model at the end.
    pub pages_compared: u64,
    /// ... of which differ from it.
    pub pages_different: Vec<String>,
    /// How long commits took, as their writers measured.
    pub commit_latency: Latency,
    /// From the begin of a write to its delivery to the subscriber.
    pub delivery_latency: Latency,
    /// What came of the act with a log; `None`: it was left out.
    pub durable: Option<Durable>,
}

impl Report {
    /// Judges.
    pub fn new(
        options: &Options,
        cast: &Cast,
        facts: Facts,
        ledger: &Ledger,
        observed: &Observed,
        followed: &Followed,
    ) -> Report {
        let acked = ledger.acked();
        let mut lost = facts.regressed;
        let mut problems = Vec::new();
        let mut problem = |is_one: bool, text: String| {
            if is_one {
                problems.push(text);
            }
        };
        for (stream, acked) in acked.iter().enumerate() {
            let reached = |last: &[u64]| last.get(stream).copied().unwrap_or(0);
            let (ring, page) = (reached(&followed.last), reached(&observed.last));
            let missing = acked.saturating_sub(ring.min(page));
            lost += missing;
            problem(
                missing > 0,
                format!(
                    "{}: acknowledged up to {acked}, the ring delivered up to {ring}, the page holds {page}",
                    cast.stream_name(stream)
                ),
            );
        }
        let faults = followed.faults.clone();
        problem(
            facts.regressed > 0,
            format!(
                "successors of the killed did not find {} acknowledged deltas",
                facts.regressed
            ),
        );
        problem(
            observed.torn > 0,
            format!("the observer read {} torn pages", observed.torn),
        );
        problem(
            !faults.is_clean(),
            format!(
                "the ring had {} holes, {} duplicates, {} torn and {} foreign deltas",
                faults.holes, faults.duplicates, faults.torn, faults.foreign
            ),
        );
        problem(
            !followed.different.is_empty(),
            format!(
                "pages that differ from the model: {}",
                followed.different.join(", ")
            ),
        );
        problem(
            followed.compared != cast.pages().len() as u64,
            format!(
                "{} of {} pages were compared with the model",
                followed.compared,
                cast.pages().len()
            ),
        );
        problem(
            !followed.unfinished.is_empty(),
            format!("left unfinished: {}", followed.unfinished.join(", ")),
        );
        problem(
            facts.strange_lines > 0,
            format!("{} lines on the pipes make no sense", facts.strange_lines),
        );
        for who in &facts.stuck {
            problem(true, format!("{who} was stuck"));
        }
        for failure in &facts.failures {
            problem(true, failure.clone());
        }
        let per_second = |n: u64| n as f64 / facts.seconds.max(1e-9);
        Report {
            ok: problems.is_empty(),
            problems,
            seed: options.seed,
            seconds: facts.seconds,
            ending_seconds: facts.ending_seconds,
            ended_early: facts.ended_early,
            writers: options.writers,
            processes: facts.processes,
            kills: facts.kills(),
            kills_of_writers: facts.kills_of_writers,
            kills_of_publishers: facts.kills_of_publishers,
            stops: facts.stops,
            recoveries: observed.recoveries,
            kills_inside_commits: observed.recoveries.inside_commits(),
            deltas: followed.deltas,
            bytes: followed.bytes,
            deltas_per_second: per_second(followed.deltas),
            bytes_per_second: per_second(followed.bytes),
            acknowledged: acked.iter().sum(),
            lost,
            faults,
            reads: observed.reads,
            torn: observed.torn,
            reads_given_up: observed.contended + observed.stalled,
            stuck: facts.stuck.len() as u64,
            pages_compared: followed.compared,
            pages_different: followed.different.clone(),
            commit_latency: ledger.commits(),
            delivery_latency: followed.delivery,
            durable: None,
        }
    }

    /// Takes the verdict on the act with a log in.
    pub fn add(&mut self, durable: Durable) {
        self.ok &= durable.ok;
        let problems = durable.problems.iter();
        self.problems
            .extend(problems.map(|problem| format!("with a log: {problem}")));
        self.ended_early |= durable.ended_early;
        self.durable = Some(durable);
    }

    /// Writes it for people.
    ///
    /// # Errors
    ///
    /// What writing to `out` gave.
    pub fn print(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let early = if self.ended_early {
            ", ended early"
        } else {
            ""
        };
        writeln!(
            out,
            "{} writers, {} processes in all, {}{early}; seed {}",
            self.writers,
            self.processes,
            duration(Duration::from_secs_f64(self.seconds)),
            self.seed
        )?;
        let r = &self.recoveries;
        let rows = [
            (
                "deltas",
                format!(
                    "{} ({}), {} ({})",
                    count(self.deltas),
                    rate(self.deltas_per_second),
                    bytes(self.bytes),
                    byte_rate(self.bytes_per_second)
                ),
            ),
            (
                "acknowledged",
                format!("{}, lost {}", count(self.acknowledged), self.lost),
            ),
            (
                "killed",
                format!(
                    "{} ({} writers, {} publishers), {} inside a commit; stopped {}",
                    self.kills,
                    self.kills_of_writers,
                    self.kills_of_publishers,
                    self.kills_inside_commits,
                    self.stops
                ),
            ),
            (
                "recovered",
                format!(
                    "{}: CLAIMED {}, READY {}, odd {}, locked {}; recoverers {}",
                    r.all, r.claimed, r.ready, r.odd, r.locked, r.recoverer
                ),
            ),
            (
                "read",
                format!(
                    "{} pages by the observer, torn {}, given up {}",
                    count(self.reads),
                    self.torn,
                    self.reads_given_up
                ),
            ),
            (
                "model",
                format!(
                    "holes {}, duplicates {}, torn {}; {} of {} pages equal the bus",
                    self.faults.holes,
                    self.faults.duplicates,
                    self.faults.torn,
                    self.pages_compared
                        .saturating_sub(self.pages_different.len() as u64),
                    self.pages_compared
                ),
            ),
            ("stuck", self.stuck.to_string()),
        ];
        for (name, value) in rows {
            writeln!(out, "  {name:<13} {value}")?;
        }
        latencies(&[
            ("commit", self.commit_latency),
            ("delivery", self.delivery_latency),
        ])
        .print(out, style)?;
        if let Some(durable) = &self.durable {
            durable.print(out)?;
        }
        if self.ok {
            let durable = match &self.durable {
                Some(durable) if !durable.reboots.is_empty() => {
                    "; nothing acknowledged as Synced was lost by a reboot"
                }
                _ => "",
            };
            writeln!(out, "nothing torn, nothing lost, nobody stuck{durable}")
        } else {
            for problem in &self.problems {
                writeln!(out, "WRONG: {problem}")?;
            }
            Ok(())
        }
    }
}

/// A table of percentiles.
pub fn latencies(rows: &[(&str, Latency)]) -> Table {
    let mut table = Table::new(&[
        ("latency", Align::Left),
        ("p50", Align::Right),
        ("p90", Align::Right),
        ("p99", Align::Right),
        ("p99.9", Align::Right),
        ("max", Align::Right),
        ("values", Align::Right),
    ]);
    let time = |ns: u64| duration(Duration::from_nanos(ns));
    for (name, latency) in rows {
        table.row([
            (*name).to_owned(),
            time(latency.p50_ns),
            time(latency.p90_ns),
            time(latency.p99_ns),
            time(latency.p999_ns),
            time(latency.max_ns),
            count(latency.count),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn options() -> Options {
        Options {
            bus: "demo".into(),
            dir: PathBuf::from("/dev/shm"),
            duration: Duration::from_secs(1),
            seed: 1,
            writers: 1,
            kills_per_second: 1.0,
            ring_bytes: 1 << 20,
            keep: false,
        }
    }

    /// A run in which all is well.
    fn clean(cast: &Cast) -> (Facts, Observed, Followed) {
        let last = vec![10; cast.streams()];
        let facts = Facts {
            seconds: 1.0,
            ..Facts::default()
        };
        let observed = Observed {
            last: last.clone(),
            ..Observed::default()
        };
        let followed = Followed {
            last,
            compared: cast.pages().len() as u64,
            ..Followed::default()
        };
        (facts, observed, followed)
    }

    fn judge(change: impl FnOnce(&mut Facts, &mut Observed, &mut Followed)) -> Report {
        let cast = Cast::new(1);
        let ledger = Ledger::new(cast.streams()).unwrap();
        for stream in 0..cast.streams() {
            ledger.ack_for_test(stream, 10);
        }
        let (mut facts, mut observed, mut followed) = clean(&cast);
        change(&mut facts, &mut observed, &mut followed);
        Report::new(&options(), &cast, facts, &ledger, &observed, &followed)
    }

    #[test]
    fn a_clean_run_is_ok_and_says_so() {
        let report = judge(|_, _, _| {});
        assert!(report.ok, "{:?}", report.problems);
        assert_eq!(report.lost, 0);
        let mut out = Vec::new();
        report.print(&mut out, Style::PLAIN).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("nothing torn, nothing lost"), "{text}");
        assert!(serde_json::to_value(&report).unwrap()["ok"] == true);
    }

    #[test]
    fn what_is_wrong_with_the_log_spoils_the_verdict() {
        let mut report = judge(|_, _, _| {});
        report.add(Durable {
            problems: vec!["a reboot lost something".into()],
            ..Durable::default()
        });
        assert!(!report.ok);
        let mut out = Vec::new();
        report.print(&mut out, Style::PLAIN).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("WRONG: with a log: a reboot lost something"),
            "{text}"
        );
        let mut report = judge(|_, _, _| {});
        report.add(Durable {
            ok: true,
            ..Durable::default()
        });
        assert!(report.ok);
    }

    #[test]
    fn each_fault_alone_spoils_the_verdict() {
        type Change = fn(&mut Facts, &mut Observed, &mut Followed);
        let changes: [Change; 12] = [
            |_, _, followed| followed.last[0] = 9,
            |_, observed, _| observed.last[2] = 9,
            |facts, _, _| facts.regressed = 1,
            |facts, _, _| facts.stuck.push("writer 0".into()),
            |facts, _, _| facts.fail("writer 0 ended".into()),
            |facts, _, _| facts.strange_lines = 1,
            |_, observed, _| observed.torn = 1,
            |_, _, followed| followed.faults.holes = 1,
            |_, _, followed| followed.faults.torn = 1,
            |_, _, followed| followed.different.push("demo/shared".into()),
            |_, _, followed| followed.compared = 0,
            |_, _, followed| followed.unfinished.push("participant 3".into()),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            let report = judge(change);
            assert!(!report.ok && !report.problems.is_empty(), "change {i}");
        }
        assert_eq!(judge(|_, _, followed| followed.last[0] = 9).lost, 1);
        assert_eq!(judge(|_, observed, _| observed.last.clear()).lost, 80);
    }
}
