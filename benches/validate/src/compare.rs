//! Whether something got worse than it was when the baseline was saved, beyond what the rounds of both differ anyway.
//!
//! The **noise** of a figure is the distance between its least and its greatest round, as a part of their median: at least 3 %,
//! 0.5 % for a number of bytes, and 15 % where there was one round only. A figure is worse if it is worse than the
//! baseline's by more than the noise of both together.
//!
//! Machines drift from hour to hour, and most with what MMSB cannot change: how far the cores are from each other, how
//! fast the disk is. So whatever was measured beside a floor that is slow and fast with it is compared in units of that
//! floor, and only the rest as it is.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::figure::{Better, Figure, Spread};
use crate::judge::{Row, Status};
use crate::machine::Machine;

/// Version of the file of a baseline, which is the same as the output of `--json`.
pub const FORMAT: u32 = 1;

/// The least noise of several rounds.
const NOISE_MIN: f64 = 0.03;
/// The same of a number of bytes, which hardly depends on chance.
const NOISE_BYTES: f64 = 0.005;
/// The noise of one round, of which nothing else is known.
const NOISE_ONE: f64 = 0.15;

/// How a row is against the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No other than noise explains.
    Same,
    /// Better than that.
    Better,
    /// Worse than that: a regression.
    Worse,
    /// There is nothing to compare it with.
    NotComparable,
}

/// What the comparison of a row gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// How it is.
    pub verdict: Verdict,
    /// By which part it is worse; below 0: better.
    pub worse_by: Option<f64>,
    /// What was taken for noise.
    pub noise: Option<f64>,
    /// Whether in units of the floor.
    pub by_floor: bool,
    /// Why it cannot be compared.
    pub why: Option<String>,
}

impl Comparison {
    fn not_comparable(why: impl Into<String>) -> Comparison {
        Comparison {
            verdict: Verdict::NotComparable,
            worse_by: None,
            noise: None,
            by_floor: false,
            why: Some(why.into()),
        }
    }

    /// In the table.
    pub fn shown(&self) -> String {
        let (Some(worse_by), Some(noise)) = (self.worse_by, self.noise) else {
            return "not comparable".to_owned();
        };
        let percent = 100.0 * worse_by.abs();
        let which = if worse_by > 0.0 { "worse" } else { "better" };
        let which = match self.verdict {
            Verdict::Worse => "WORSE",
            _ => which,
        };
        format!("{percent:.0} % {which} (noise {:.0} %)", 100.0 * noise)
    }
}

/// A run, as `--json` prints it and `--save` keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// When it ended, in UTC.
    pub date: String,
    /// What was measured.
    pub commit: Option<String>,
    /// Whether for a short time only.
    pub quick: bool,
    /// Rounds of what was measured several times.
    pub rounds: usize,
    /// On what.
    pub machine: Machine,
    /// All rows.
    pub rows: Vec<Row>,
}

impl Run {
    /// Reads a baseline.
    ///
    /// # Errors
    ///
    /// Why it is none, in a sentence.
    pub fn load(path: &Path) -> Result<Run, String> {
        let about = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| about(error.to_string()))?;
        // The version first: of another one nothing else is known.
        let format = serde_json::from_str::<serde_json::Value>(&text)
            .map_err(|error| about(format!("no baseline: {error}")))?["format"]
            .as_u64();
        if format != Some(u64::from(FORMAT)) {
            let format = format.map_or("none".to_owned(), |format| format.to_string());
            return Err(about(format!(
                "a baseline of format {format}; this program reads format {FORMAT}"
            )));
        }
        serde_json::from_str(&text).map_err(|error| about(format!("no baseline: {error}")))
    }

    /// Compares each row with that of a baseline.
    pub fn compare_with(&mut self, baseline: &Run) {
        let other = self.machine.is_other_than(&baseline.machine);
        let length = |quick| if quick { "a quick run" } else { "a full one" };
        let other = other.or_else(|| {
            (self.quick != baseline.quick).then(|| {
                format!(
                    "the baseline is {}, this is {}",
                    length(baseline.quick),
                    length(self.quick)
                )
            })
        });
        for row in &mut self.rows {
            // Nothing that could be worse: a count of violations, or nothing at all.
            if row.figures.is_empty() && row.status != Status::Failed {
                continue;
            }
            row.comparison = Some(match &other {
                Some(why) => Comparison::not_comparable(why.as_str()),
                None => compare(row, baseline.rows.iter().find(|of| of.id == row.id)),
            });
        }
    }
}

/// Compares a row with that of the baseline: the figure that got worst counts.
fn compare(row: &Row, baseline: Option<&Row>) -> Comparison {
    let Some(baseline) = baseline else {
        return Comparison::not_comparable("it is not in the baseline");
    };
    if row.figures.is_empty() {
        return Comparison::not_comparable("it was not measured");
    }
    let all = row.figures.iter().map(|figure| {
        let was = baseline.figures.iter().find(|of| of.name == figure.name);
        match was {
            Some(was) => of_figure(figure, was),
            None => Comparison::not_comparable("the baseline has no such figure"),
        }
    });
    let badness = |of: &Comparison| match of.verdict {
        Verdict::Worse => 3,
        Verdict::NotComparable => 2,
        Verdict::Same => 1,
        Verdict::Better => 0,
    };
    let worst = all.max_by(|a, b| {
        let by = badness(a).cmp(&badness(b));
        let worse_by = |of: &Comparison| of.worse_by.unwrap_or(0.0);
        by.then(worse_by(a).total_cmp(&worse_by(b)))
    });
    worst.unwrap_or_else(|| Comparison::not_comparable("it has no figures"))
}

/// By how much the rounds differ, as a part of their median.
fn noise(name: &str, of: &Spread) -> f64 {
    let is_bytes = name.contains("bytes") && !name.contains("per_second");
    match (is_bytes, of.rounds) {
        (true, _) => ((of.max - of.min) / of.median).max(NOISE_BYTES),
        (false, 0 | 1) => NOISE_ONE,
        (false, _) => ((of.max - of.min) / of.median).max(NOISE_MIN),
    }
}

fn of_figure(now: &Figure, was: &Figure) -> Comparison {
    let (is, before, by_floor) = match (&now.by_floor, &was.by_floor) {
        (Some(is), Some(before)) => (is, before, true),
        _ => (&now.measured, &was.measured, false),
    };
    if is.median <= 0.0 || before.median <= 0.0 {
        return Comparison::not_comparable("a figure is not above 0");
    }
    let times = match now.better {
        Better::Less => is.median / before.median,
        Better::More => before.median / is.median,
    };
    let noise = noise(&now.name, is) + noise(&now.name, before);
    Comparison {
        verdict: match times {
            _ if times - 1.0 > noise => Verdict::Worse,
            _ if 1.0 / times - 1.0 > noise => Verdict::Better,
            _ => Verdict::Same,
        },
        // As much better as the other one was worse.
        worse_by: Some(if times >= 1.0 {
            times - 1.0
        } else {
            1.0 - 1.0 / times
        }),
        noise: Some(noise),
        by_floor,
        why: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, better: Better, values: &[f64], by_floor: Option<&[f64]>) -> Figure {
        Figure {
            name: name.to_owned(),
            better,
            measured: Spread::of(values).unwrap(),
            by_floor: by_floor.and_then(Spread::of),
        }
    }

    fn row(figures: Vec<Figure>) -> Row {
        Row {
            id: "bus/commit/64".to_owned(),
            promise: "commit".to_owned(),
            status: Status::Kept,
            measured: String::new(),
            target: String::new(),
            command: String::new(),
            note: None,
            figures,
            comparison: None,
        }
    }

    fn run(rows: Vec<Row>) -> Run {
        Run {
            format: FORMAT,
            date: String::new(),
            commit: None,
            quick: false,
            rounds: 3,
            machine: Machine::default(),
            rows,
        }
    }

    fn time(values: &[f64]) -> Figure {
        figure("p50_ns", Better::Less, values, None)
    }

    #[test]
    fn noise_comes_from_the_rounds_of_both() {
        // 4 % and the least, 3 %.
        let was = time(&[98.0, 100.0, 102.0]);
        let verdict = |values: &[f64]| of_figure(&time(values), &was).verdict;
        assert_eq!(verdict(&[106.0, 106.0, 107.0]), Verdict::Same);
        assert_eq!(verdict(&[108.0, 108.0, 108.0]), Verdict::Worse);
        assert_eq!(verdict(&[92.0, 92.0, 92.0]), Verdict::Better);
        // A run that was disturbed itself proves nothing.
        assert_eq!(verdict(&[100.0, 110.0, 125.0]), Verdict::Same);
        // Nor does one round, unless it is far off.
        assert_eq!(verdict(&[115.0]), Verdict::Same);
        assert_eq!(verdict(&[130.0]), Verdict::Worse);
    }

    #[test]
    fn rates_get_worse_downwards_and_bytes_have_little_noise() {
        let rate = |values: &[f64]| figure("per_second", Better::More, values, None);
        let found = of_figure(&rate(&[50.0, 50.0]), &rate(&[100.0, 100.0]));
        assert_eq!((found.verdict, found.worse_by), (Verdict::Worse, Some(1.0)));
        assert_eq!(found.shown(), "100 % WORSE (noise 6 %)");
        let found = of_figure(&rate(&[100.0, 100.0]), &rate(&[50.0, 50.0]));
        assert_eq!(
            (found.verdict, found.worse_by),
            (Verdict::Better, Some(-1.0))
        );
        let bytes = |value: f64| figure("memory_bytes", Better::Less, &[value], None);
        assert_eq!(
            of_figure(&bytes(1020.0), &bytes(1000.0)).verdict,
            Verdict::Worse
        );
    }

    #[test]
    fn a_machine_that_drifted_is_no_regression() {
        let of =
            |values: &[f64], floors: &[f64]| figure("p50_ns", Better::Less, values, Some(floors));
        let (was, is) = (
            of(&[80.0, 80.0], &[1.1, 1.1]),
            of(&[240.0, 240.0], &[1.1, 1.1]),
        );
        let found = of_figure(&is, &was);
        assert_eq!((found.verdict, found.by_floor), (Verdict::Same, true));
        let slower = of(&[80.0, 80.0], &[1.3, 1.3]);
        assert_eq!(of_figure(&slower, &was).verdict, Verdict::Worse);
        // Where one side has no floor, the times themselves are left.
        let bare = of_figure(&time(&[240.0, 240.0]), &was);
        assert_eq!((bare.verdict, bare.by_floor), (Verdict::Worse, false));
    }

    #[test]
    fn the_worst_figure_of_a_row_counts() {
        let reads = |v: f64| figure("reads_per_second", Better::More, &[v, v], None);
        let writes = |v: f64| figure("writes_per_second", Better::More, &[v, v], None);
        let was = row(vec![reads(10.0), writes(10.0)]);
        let is = row(vec![reads(20.0), writes(5.0)]);
        assert_eq!(compare(&is, Some(&was)).verdict, Verdict::Worse);
        let without = row(vec![reads(10.0)]);
        assert_eq!(compare(&is, Some(&without)).verdict, Verdict::NotComparable);
        assert_eq!(compare(&is, None).verdict, Verdict::NotComparable);
    }

    #[test]
    fn other_machines_and_other_lengths_are_not_compared() {
        let rows = vec![row(vec![time(&[100.0, 100.0])])];
        let verdict = |is: &Run| is.rows[0].comparison.as_ref().map(|c| c.verdict);
        let was = run(rows.clone());
        let mut same = run(rows.clone());
        same.compare_with(&was);
        assert_eq!(verdict(&same), Some(Verdict::Same));
        let mut elsewhere = run(rows.clone());
        elsewhere.machine.cpu = "Abacus".to_owned();
        elsewhere.compare_with(&was);
        assert_eq!(verdict(&elsewhere), Some(Verdict::NotComparable));
        let found = elsewhere.rows[0].comparison.clone().unwrap();
        assert!(found.why.unwrap().contains("Abacus"));
        let mut quick = run(rows);
        quick.quick = true;
        quick.compare_with(&was);
        assert_eq!(verdict(&quick), Some(Verdict::NotComparable));
    }

    #[test]
    fn a_file_of_another_format_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("baseline.json");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Run::load(&path).map(|_| ()).unwrap_err()
        };
        assert!(load("{").contains("no baseline"));
        assert!(load("{}").contains("format none"));
        assert!(load("{\"format\": 2}").contains("reads format 1"));
        assert!(load("{\"format\": 1}").contains("no baseline"));
        let whole = serde_json::to_string(&run(vec![row(vec![time(&[1.0])])])).unwrap();
        std::fs::write(&path, whole).unwrap();
        assert_eq!(Run::load(&path).unwrap().rows.len(), 1);
        assert!(Run::load(&dir.path().join("nowhere")).is_err());
    }
}
