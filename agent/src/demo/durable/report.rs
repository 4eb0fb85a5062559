//! What came of the act with a log: the numbers, and what is wrong with them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::cli::table::{bytes, count, duration, escaped};
use crate::demo::message::{Cut, Examined, Excerpt, Latency, Remains};
use crate::demo::model::Cast;

/// What became of the deltas of one promise at a reboot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Toll {
    /// Acknowledged by pipe, since the bus was made: the sum of the greatest numbers of the streams.
    pub acknowledged: u64,
    /// ... of which the rebuilt bus does not have.
    pub lost: u64,
    /// None of these was heard of earlier than so long before the kill.
    pub oldest_lost_ms: f64,
}

/// A cut of the living bus, and what its log says of the same LSN.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Compared {
    /// The LSN.
    pub lsn: u64,
    /// Hash of the living bus.
    pub live: String,
    /// Hash of the state that the log gives.
    pub log: Option<String>,
}

/// Everybody killed, the segments removed, the bus back from its log.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reboot {
    /// Processes killed.
    pub killed: u64,
    /// What the segments of the dead said.
    #[serde(flatten)]
    pub remains: Remains,
    /// Where the log ended, and the rebuilt bus begins.
    pub fork_lsn: u64,
    /// Which incarnation came of it.
    pub incarnation: u64,
    /// Those who wait for the disk: none may be lost.
    pub synced: Toll,
    /// Those who do not wait, but say when it should get there.
    pub buffered: Toll,
    /// Those who do not care.
    pub volatile: Toll,
    /// Pages of the rebuilt bus.
    pub pages: u64,
    /// Hash of the rebuilt bus.
    pub rebuilt_hash: String,
    /// Hash of the log replayed to the same LSN.
    pub replayed_hash: String,
    /// Pages that were found equal one by one, too.
    pub pages_equal: u64,
    /// Cuts that were taken before.
    pub cuts: Vec<Compared>,
    /// Records replayed to verify the whole log.
    pub records: u64,
    /// Checkpoints compared with it.
    pub checkpoints: u64,
    /// Files of the log.
    pub files: u64,
    /// Bytes of them.
    pub log_bytes: u64,
    /// From the start of the agent until all of this was compared.
    pub seconds: f64,
    /// What changed from the first of the cuts to the end.
    #[serde(skip)]
    pub diff: Option<Excerpt>,
}

impl Reboot {
    /// Takes what the examiner found over, and says what is wrong with it.
    pub fn judge(&mut self, cuts: &[Cut], found: Examined, cast: &Cast) -> Vec<String> {
        let mut problems = found.problems;
        let mut problem = |is_one: bool, text: String| {
            if is_one {
                problems.push(text);
            }
        };
        problem(
            self.synced.lost > 0,
            format!(
                "{} Synced deltas that were acknowledged are lost",
                self.synced.lost
            ),
        );
        problem(
            self.synced.acknowledged == 0,
            "no Synced write was acknowledged at all".to_owned(),
        );
        problem(
            found.fork_lsn < self.remains.durable_lsn,
            format!(
                "the log reaches LSN {}, but LSN {} was called durable",
                found.fork_lsn, self.remains.durable_lsn
            ),
        );
        problem(
            found.rebuilt != found.replayed,
            format!(
                "the rebuilt bus has hash {}, its log replayed to LSN {} has {}",
                found.rebuilt, found.fork_lsn, found.replayed
            ),
        );
        let expected = cast.pages().len() as u64;
        problem(
            found.pages != expected || found.equal != expected,
            format!(
                "of {expected} pages {} came back, {} of them as in the log",
                found.pages, found.equal
            ),
        );
        problem(
            !found.different.is_empty(),
            format!(
                "pages that are not as in the log: {}",
                found.different.join(", ")
            ),
        );
        problem(
            !found.torn.is_empty(),
            format!("torn pages: {}", found.torn.join(", ")),
        );
        problem(cuts.is_empty(), "no cut became durable".to_owned());
        for cut in cuts {
            let told = found.cuts.iter().find(|(lsn, _)| *lsn == cut.lsn);
            let told = told.map(|(_, told)| told.clone());
            let told = told.unwrap_or_else(|| Err("it was not looked at".to_owned()));
            problem(
                told.as_ref() != Ok(&cut.hash),
                match &told {
                    Ok(hash) => format!(
                        "at LSN {} the living bus had hash {}, by the log it is {hash}",
                        cut.lsn, cut.hash
                    ),
                    Err(why) => format!("the log has no state at LSN {}: {why}", cut.lsn),
                },
            );
            self.cuts.push(Compared {
                lsn: cut.lsn,
                live: cut.hash.clone(),
                log: told.ok(),
            });
        }
        self.fork_lsn = found.fork_lsn;
        self.incarnation = found.incarnation;
        self.pages = found.pages;
        self.pages_equal = found.equal;
        self.rebuilt_hash = found.rebuilt;
        self.replayed_hash = found.replayed;
        self.records = found.records;
        self.checkpoints = found.checkpoints;
        self.files = found.files;
        self.log_bytes = found.bytes;
        self.diff = found.diff;
        problems
    }
}

/// The verdict on the act.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Durable {
    /// Whether nothing was found wrong.
    pub ok: bool,
    /// What was found wrong, in sentences.
    pub problems: Vec<String>,
    /// Directory of the log.
    pub log: PathBuf,
    /// Its file system.
    pub file_system: String,
    /// Whether that outlasts the power; if not, all of this proves less.
    pub on_disk: bool,
    /// How long all of it took.
    pub seconds: f64,
    /// Whether somebody asked for the end before its time.
    pub ended_early: bool,
    /// Agents killed while writers went on.
    pub agents_killed: u64,
    /// Longest time from the death of an agent until writers who wait for the disk had got on.
    pub longest_wait_ms: f64,
    /// How long there was no agent at all.
    pub unsupervised_ms: f64,
    /// Writes of the volatile writer meanwhile.
    pub unsupervised_writes: u64,
    /// How long `Synced` commits took, as their writers measured.
    pub synced_commit: Latency,
    /// The reboots.
    pub reboots: Vec<Reboot>,
    /// What changed between two moments.
    pub diff: Option<Excerpt>,
}

impl Durable {
    /// Writes it for people.
    ///
    /// # Errors
    ///
    /// What writing to `out` gave.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let ms = |ms: f64| duration(Duration::from_secs_f64(ms.max(0.0) / 1e3));
        writeln!(
            out,
            "with a log in {} ({}{}), {}",
            escaped(&self.log.to_string_lossy()),
            self.file_system,
            if self.on_disk {
                ""
            } else {
                ": in memory, so this tells nothing of a power cut"
            },
            duration(Duration::from_secs_f64(self.seconds))
        )?;
        let mut row = |name: &str, value: String| writeln!(out, "  {name:<13} {value}");
        row(
            "agents",
            format!(
                "{} killed; Synced writers waited at most {}; none at all for {}: {} volatile writes meanwhile",
                self.agents_killed,
                ms(self.longest_wait_ms),
                ms(self.unsupervised_ms),
                count(self.unsupervised_writes)
            ),
        )?;
        let time = |ns: u64| duration(Duration::from_nanos(ns));
        row(
            "synced commit",
            format!(
                "p50 {}, p99 {}, max {} of {}",
                time(self.synced_commit.p50_ns),
                time(self.synced_commit.p99_ns),
                time(self.synced_commit.max_ns),
                count(self.synced_commit.count)
            ),
        )?;
        for (i, reboot) in self.reboots.iter().enumerate() {
            row(
                &format!("reboot {}", i + 1),
                format!(
                    "{} processes killed, segments removed; durable LSN {}, ring to {}; back to LSN {} as incarnation {}",
                    reboot.killed,
                    reboot.remains.durable_lsn,
                    reboot.remains.end_lsn,
                    reboot.fork_lsn,
                    reboot.incarnation
                ),
            )?;
            row(
                "",
                format!(
                    "acknowledged and lost: Synced {} of {}",
                    reboot.synced.lost,
                    count(reboot.synced.acknowledged)
                ),
            )?;
            for (name, toll) in [("Buffered", reboot.buffered), ("Volatile", reboot.volatile)] {
                let age = match toll.lost {
                    0 => String::new(),
                    _ => format!(", none older than {}", ms(toll.oldest_lost_ms)),
                };
                let (lost, all) = (count(toll.lost), count(toll.acknowledged));
                row(
                    "",
                    format!("                       {name} {lost} of {all}{age}"),
                )?;
            }
            row(
                "",
                format!(
                    "hash of {} pages, rebuilt  {}",
                    reboot.pages, reboot.rebuilt_hash
                ),
            )?;
            row(
                "",
                format!(
                    "by its log at LSN {}  {}",
                    reboot.fork_lsn, reboot.replayed_hash
                ),
            )?;
            let equal = reboot
                .cuts
                .iter()
                .filter(|c| c.log.as_ref() == Some(&c.live));
            row(
                "",
                format!(
                    "{} of {} hashes of the living bus, taken before, are those of its log",
                    equal.count(),
                    reboot.cuts.len()
                ),
            )?;
            row(
                "",
                format!(
                    "verified: {} records, {} checkpoints; {} in {} files; all in {}",
                    count(reboot.records),
                    reboot.checkpoints,
                    bytes(reboot.log_bytes),
                    reboot.files,
                    duration(Duration::from_secs_f64(reboot.seconds))
                ),
            )?;
        }
        if let Some(diff) = &self.diff {
            row(
                "diff",
                format!(
                    "from LSN {} to LSN {}: {} pages differ",
                    diff.from_lsn, diff.to_lsn, diff.pages
                ),
            )?;
            for page in &diff.shown {
                row(
                    "",
                    format!(
                        "{}: {} in {} ranges",
                        escaped(&page.page),
                        bytes(page.bytes),
                        page.ranges
                    ),
                )?;
                for line in &page.lines {
                    row("", format!("  {}", escaped(line)))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::durable::WRITERS;

    fn judged(change: impl FnOnce(&mut Reboot, &mut Vec<Cut>, &mut Examined)) -> Vec<String> {
        let cast = Cast::new(WRITERS);
        let pages = cast.pages().len() as u64;
        let mut reboot = Reboot {
            remains: Remains {
                durable_lsn: 90,
                end_lsn: 100,
            },
            synced: Toll {
                acknowledged: 10,
                ..Toll::default()
            },
            ..Reboot::default()
        };
        let mut cuts = vec![Cut {
            lsn: 50,
            hash: "aa".into(),
        }];
        let mut found = Examined {
            fork_lsn: 95,
            pages,
            equal: pages,
            rebuilt: "bb".into(),
            replayed: "bb".into(),
            cuts: vec![(50, Ok("aa".into()))],
            ..Examined::default()
        };
        change(&mut reboot, &mut cuts, &mut found);
        reboot.judge(&cuts, found, &cast)
    }

    #[test]
    fn each_fault_alone_spoils_the_verdict() {
        assert_eq!(judged(|_, _, _| {}), [""; 0]);
        // Who did not ask for the disk may lose.
        assert_eq!(judged(|reboot, _, _| reboot.buffered.lost = 3), [""; 0]);
        type Change = fn(&mut Reboot, &mut Vec<Cut>, &mut Examined);
        let changes: [Change; 12] = [
            |reboot, _, _| reboot.synced.lost = 1,
            |reboot, _, _| reboot.synced.acknowledged = 0,
            |reboot, _, _| reboot.remains.durable_lsn = 96,
            |_, _, found| found.rebuilt = "cc".into(),
            |_, _, found| found.pages -= 1,
            |_, _, found| found.equal -= 1,
            |_, _, found| found.different.push("1.1".into()),
            |_, _, found| found.torn.push("demo/shared".into()),
            |_, cuts, _| cuts[0].hash = "dd".into(),
            |_, _, found| found.cuts[0].1 = Err("gone".into()),
            |_, _, found| found.cuts.clear(),
            |_, _, found| found.problems.push("damaged".into()),
        ];
        for (i, change) in changes.into_iter().enumerate() {
            assert_eq!(judged(change).len(), 1, "change {i}");
        }
    }
}
