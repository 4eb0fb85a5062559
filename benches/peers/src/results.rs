//! `results.json`: what a run measured, as one file that a report can be made of anywhere.
//!
//! Every figure is optional: a job has some of them, and a contender that cannot do a job has none and says why.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::contender::Contender;
pub use crate::contender::Kind;
pub use crate::measure::Round;
pub use crate::task::Job;

/// The format that this program writes and reads.
pub const FORMAT: u32 = 1;
/// No figure is above this: thirty years in nanoseconds, more a second than any machine can do.
pub const FIGURE_MAX: f64 = 1e18;

/// Why results cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no results of this format.
    #[error("{path} is not results.json")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// The file is of another format.
    #[error("results are of format {found}, this program knows format {FORMAT}")]
    Format {
        /// What the file says.
        found: u32,
    },
    /// Two contenders have one name, so that nobody can say whose a case is.
    #[error("contender {name} is described twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A case is of a contender that is not described.
    #[error("a case of {job} is of {name}, which is not among the contenders")]
    Unknown {
        /// The case's job.
        job: Job,
        /// The name that nobody has.
        name: String,
    },
    /// One contender has two cases where it can have one.
    #[error("{name} has {job}, {bytes} bytes, twice")]
    Repeated {
        /// The case's job.
        job: Job,
        /// Its size.
        bytes: usize,
        /// The contender.
        name: String,
    },
    /// A figure that nothing can take.
    #[error("{name} has a figure that nothing can take in {job}, {bytes} bytes: {value}")]
    Impossible {
        /// The case's job.
        job: Job,
        /// Its size.
        bytes: usize,
        /// The contender.
        name: String,
        /// The figure.
        value: f64,
    },
    /// A case has figures, and says that it was skipped.
    #[error("{name} skipped {job}, {bytes} bytes, and has figures of it")]
    SkippedWithFigures {
        /// The case's job.
        job: Job,
        /// Its size.
        bytes: usize,
        /// The contender.
        name: String,
    },
}

impl Job {
    /// The figures by which contenders are compared, the one that ranks them first.
    pub fn figures(self) -> &'static [Figure] {
        match self {
            Job::Throughput | Job::Synced => &[Figure::PerSecond],
            Job::Contended => &[Figure::ReadsPerSecond, Figure::WritesPerSecond],
            Job::OneWay
            | Job::ReadAlone
            | Job::UpdateAlone
            | Job::Wake
            | Job::LateJoin
            | Job::Recovery => &[Figure::P50],
        }
    }

    /// Whether MMSB exists for it: an update that nobody can see, that is neither ordered nor logged, is of no use to it.
    pub fn is_of_mmsb(self) -> bool {
        self != Job::UpdateAlone
    }
}

/// All that one run measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// When the run began, in UTC.
    pub date: String,
    /// How to do it again.
    pub command: String,
    /// The commit of MMSB, as git shortens it.
    pub commit: String,
    /// Whether this was a short look, whose figures nobody should quote.
    #[serde(default)]
    pub quick: bool,
    /// How often every contender had its turn.
    pub rounds: usize,
    /// On what.
    pub machine: Machine,
    /// Of the systems measured.
    #[serde(default)]
    pub versions: Vec<Version>,
    /// Who was measured, and how each was set up.
    pub contenders: Vec<Who>,
    /// What came out.
    pub cases: Vec<Case>,
}

/// What the figures were measured on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many the system has.
    pub cores: usize,
    /// To which the processes were pinned.
    pub cpus_used: [usize; 2],
    /// Its name and version.
    pub kernel: String,
    /// Of the machine.
    pub memory_bytes: u64,
    /// What holds shared memory.
    pub shm: String,
    /// What holds logs and databases.
    pub disk: String,
    /// Under which the machine runs, if any.
    pub hypervisor: Option<String>,
    /// Of the processor's clock, if the system tells.
    pub governor: Option<String>,
    /// A bare cache line from one CPU to the other: least, median and most over the run.
    pub line_one_way_ns: [f64; 3],
}

impl Machine {
    /// Of these times.
    pub fn set_lines(&mut self, lines: &[f64]) {
        if let Some(Spread { median, min, max }) = Spread::of(lines.iter().copied()) {
            self.line_one_way_ns = [min, median, max];
        }
    }
}

/// A system, and which release of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its name.
    pub system: String,
    /// Its release.
    pub version: String,
}

/// One way to do jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Short and unique, as on the command line.
    pub name: String,
    /// Whose it is.
    pub system: String,
    /// What it is.
    pub kind: Kind,
    /// For people.
    pub label: String,
    /// How it was set up, and where its documentation says so.
    pub config: String,
}

/// One contender in one job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// What was done.
    pub job: Job,
    /// With how much.
    pub bytes: usize,
    /// By how many, where that varies.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Whose it is, by [`Who::name`].
    pub contender: String,
    /// One for each turn; empty if skipped.
    #[serde(default)]
    pub rounds: Vec<Round>,
    /// Nanoseconds, and the share of all samples that took no longer.
    #[serde(default)]
    pub cdf: Vec<(f64, f64)>,
    /// Why there is nothing, in one sentence.
    #[serde(default)]
    pub skipped: Option<String>,
}

/// One of a round's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Figure {
    /// [`Round::p50_ns`].
    P50,
    /// [`Round::p99_ns`].
    P99,
    /// [`Round::max_ns`].
    Max,
    /// [`Round::per_second`].
    PerSecond,
    /// [`Round::reads_per_second`].
    ReadsPerSecond,
    /// [`Round::writes_per_second`].
    WritesPerSecond,
}

impl Figure {
    /// Its value in a round.
    pub fn of(self, round: &Round) -> Option<f64> {
        match self {
            Figure::P50 => round.p50_ns,
            Figure::P99 => round.p99_ns,
            Figure::Max => round.max_ns,
            Figure::PerSecond => round.per_second,
            Figure::ReadsPerSecond => round.reads_per_second,
            Figure::WritesPerSecond => round.writes_per_second,
        }
    }

    /// Whether more of it is better: true of rates, not of times.
    pub fn more_is_better(self) -> bool {
        matches!(
            self,
            Figure::PerSecond | Figure::ReadsPerSecond | Figure::WritesPerSecond
        )
    }
}

/// A figure over several rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; between the two middle ones of an even number.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these values; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            f64::midpoint(values[half - 1], values[half])
        };
        Some(Spread { median, min, max })
    }

    /// Whether a value lies within.
    pub fn holds(&self, value: f64) -> bool {
        (self.min..=self.max).contains(&value)
    }
}

impl Case {
    /// A figure over all rounds that have it.
    pub fn spread(&self, figure: Figure) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| figure.of(round)))
    }

    /// Kills after which nothing came, over all rounds; `None` if no round counted them.
    pub fn never(&self) -> Option<u64> {
        let mut counts = self
            .rounds
            .iter()
            .filter_map(|round| round.never)
            .peekable();
        counts.peek()?;
        Some(counts.fold(0, u64::saturating_add))
    }

    /// What the rounds say beside figures, each once, in their order.
    pub fn notes(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        self.rounds
            .iter()
            .filter_map(|round| round.note.as_deref())
            .filter(|note| seen.insert(*note))
            .collect()
    }
}

impl Results {
    /// Without figures.
    pub fn begin(contenders: &[Contender], machine: Machine) -> Results {
        let mut versions: Vec<Version> = Vec::new();
        for each in contenders {
            if !versions.iter().any(|known| known.system == each.system) {
                versions.push(Version {
                    system: each.system.to_owned(),
                    version: (each.version)(),
                });
            }
        }
        let who = |each: &Contender| Who {
            name: each.name.to_owned(),
            system: each.system.to_owned(),
            kind: each.kind,
            label: each.label.to_owned(),
            config: each.config.to_owned(),
        };
        Results {
            format: FORMAT,
            date: String::new(),
            command: String::new(),
            commit: String::new(),
            quick: false,
            rounds: 0,
            machine,
            versions,
            contenders: contenders.iter().map(who).collect(),
            cases: Vec::new(),
        }
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Results, ResultsError> {
        let text = fs::read(path).map_err(|source| ResultsError::Read {
            path: path.to_owned(),
            source,
        })?;
        // The format first: what else a file of another one holds, nobody knows.
        let parse = |source| ResultsError::Parse {
            path: path.to_owned(),
            source,
        };
        let Format { format } = serde_json::from_slice(&text).map_err(parse)?;
        if format != FORMAT {
            return Err(ResultsError::Format { found: format });
        }
        let results: Results = serde_json::from_slice(&text).map_err(parse)?;
        results.check()?;
        Ok(results)
    }

    /// Writes a file, which is whole or not there. Nothing is checked: what took so long to measure is not thrown away.
    pub fn save(&self, path: &Path) -> Result<(), ResultsError> {
        let write = |source| ResultsError::Write {
            path: path.to_owned(),
            source,
        };
        let mut text = serde_json::to_vec(self)
            .map_err(io::Error::from)
            .map_err(write)?;
        text.push(b'\n');
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        fs::write(&partial, text).map_err(write)?;
        fs::rename(&partial, path).map_err(write)
    }

    /// The contender of this name.
    pub fn contender(&self, name: &str) -> Option<&Who> {
        self.contenders
            .iter()
            .find(|contender| contender.name == name)
    }

    /// Whether a report can be made of it.
    pub fn check(&self) -> Result<(), ResultsError> {
        if self.format != FORMAT {
            return Err(ResultsError::Format { found: self.format });
        }
        let mut names = HashSet::new();
        for contender in &self.contenders {
            if !names.insert(contender.name.as_str()) {
                return Err(ResultsError::Twice {
                    name: contender.name.clone(),
                });
            }
        }
        let mut keys = HashSet::new();
        for case in &self.cases {
            let (job, bytes, name) = (case.job, case.bytes, &case.contender);
            if !names.contains(name.as_str()) {
                return Err(ResultsError::Unknown {
                    job,
                    name: name.clone(),
                });
            }
            if !keys.insert((job, bytes, case.threads, name)) {
                return Err(ResultsError::Repeated {
                    job,
                    bytes,
                    name: name.clone(),
                });
            }
            if case.skipped.is_some() && !case.rounds.is_empty() {
                return Err(ResultsError::SkippedWithFigures {
                    job,
                    bytes,
                    name: name.clone(),
                });
            }
            let cdf = case.cdf.iter().flat_map(|(ns, share)| [*ns, *share]);
            let impossible = |value: &f64| !(0.0..=FIGURE_MAX).contains(value);
            if let Some(value) = case.rounds.iter().flat_map(all).chain(cdf).find(impossible) {
                return Err(ResultsError::Impossible {
                    job,
                    bytes,
                    name: name.clone(),
                    value,
                });
            }
        }
        Ok(())
    }
}

fn all(round: &Round) -> impl Iterator<Item = f64> {
    [
        round.p50_ns,
        round.p90_ns,
        round.p99_ns,
        round.p999_ns,
        round.mean_ns,
        round.min_ns,
        round.max_ns,
        round.per_second,
        round.reads_per_second,
        round.writes_per_second,
    ]
    .into_iter()
    .flatten()
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// A round in some words.
pub fn brief(round: &Round) -> String {
    let mut words = Vec::new();
    if let Some(ns) = round.p50_ns {
        words.push(format!("p50 {ns:.1} ns"));
    }
    if let Some(ns) = round.p99_ns {
        words.push(format!("p99 {ns:.0}"));
    }
    if let Some(rate) = round.per_second {
        words.push(format!("{:.3} M/s", rate / 1e6));
    }
    if let Some(rate) = round.reads_per_second {
        words.push(format!("{:.3} M reads/s", rate / 1e6));
    }
    if let Some(rate) = round.writes_per_second {
        words.push(format!("{:.3} M writes/s", rate / 1e6));
    }
    if let Some(never) = round.never.filter(|never| *never > 0) {
        words.push(format!("never: {never}"));
    }
    if let Some(note) = &round.note {
        words.push(note.clone());
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up() -> Results {
        Results {
            format: FORMAT,
            date: "2001-02-03T04:05:06Z".into(),
            command: "made up".into(),
            commit: "0000000".into(),
            quick: false,
            rounds: 3,
            machine: Machine::default(),
            versions: Vec::new(),
            contenders: vec![Who {
                name: "a/b".into(),
                system: "A".into(),
                kind: Kind::Peer,
                label: "A, b".into(),
                config: "made up".into(),
            }],
            cases: vec![Case {
                job: Job::OneWay,
                bytes: 64,
                threads: None,
                contender: "a/b".into(),
                rounds: vec![Round {
                    p50_ns: Some(75.0),
                    ..Round::default()
                }],
                cdf: vec![(70.0, 0.1), (80.0, 1.0)],
                skipped: None,
            }],
        }
    }

    #[test]
    fn a_median_lies_in_the_middle() {
        let odd = Spread::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.min, odd.median, odd.max), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of([]), None);
        assert!(odd.holds(3.0) && !odd.holds(3.1));
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        made_up().save(&path).unwrap();
        assert_eq!(Results::load(&path).unwrap(), made_up());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no partial file is left"
        );
    }

    #[test]
    fn figures_that_are_null_or_absent_are_none() {
        let json = r#"{"job":"recovery","bytes":64,"threads":null,"contender":"a",
            "rounds":[{"p50_ns":null,"never":2},{"never":1,"max_ns":5,"note":"x"},{"note":"x"}],"cdf":[],"skipped":null}"#;
        let case: Case = serde_json::from_str(json).unwrap();
        assert_eq!(case.spread(Figure::P50), None);
        assert_eq!(case.spread(Figure::Max).unwrap().median, 5.0);
        assert_eq!(case.never(), Some(3));
        assert_eq!(case.notes(), ["x"]);
    }

    #[test]
    fn another_format_is_refused_before_anything_else_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        fs::write(&path, r#"{"format": 2}"#).unwrap();
        assert!(matches!(
            Results::load(&path),
            Err(ResultsError::Format { found: 2 })
        ));
        fs::write(&path, "[]").unwrap();
        assert!(matches!(
            Results::load(&path),
            Err(ResultsError::Parse { .. })
        ));
        let nowhere = dir.path().join("nowhere");
        assert!(matches!(
            Results::load(&nowhere),
            Err(ResultsError::Read { .. })
        ));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |change: fn(&mut Results)| {
            let mut results = made_up();
            change(&mut results);
            results.check().unwrap_err()
        };
        let twice = refused(|r| r.contenders.push(r.contenders[0].clone()));
        assert!(matches!(twice, ResultsError::Twice { .. }));
        let unknown = refused(|r| r.cases[0].contender = "nobody".into());
        assert!(matches!(unknown, ResultsError::Unknown { .. }));
        let repeated = refused(|r| r.cases.push(r.cases[0].clone()));
        assert!(matches!(repeated, ResultsError::Repeated { .. }));
        let negative = refused(|r| r.cases[0].rounds[0].p50_ns = Some(-1.0));
        assert!(matches!(negative, ResultsError::Impossible { .. }));
        let infinite = refused(|r| r.cases[0].cdf[0].0 = f64::NAN);
        assert!(matches!(infinite, ResultsError::Impossible { .. }));
        let skipped = refused(|r| r.cases[0].skipped = Some("tired".into()));
        assert!(matches!(skipped, ResultsError::SkippedWithFigures { .. }));
    }

    #[test]
    fn a_job_is_called_the_same_everywhere() {
        for job in Job::ALL {
            assert_eq!(serde_json::to_string(&job).unwrap(), format!("\"{job}\""));
        }
    }
}
