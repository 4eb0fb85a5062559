//! Rows: what was measured of each promise, and whether it is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compare::Comparison;
use crate::figure::{Better, Figure, Spread, count, shown};
use crate::program::Said;
use crate::promise::{Judge, Promise, Source, Tool};

/// What became of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is kept.
    Kept,
    /// It is not.
    Missed,
    /// A program failed, or found something wrong.
    Failed,
    /// This machine lacks something that it takes.
    Missing,
    /// The part that it is about is not there yet.
    NotBuilt,
    /// A figure that nothing was promised of.
    Told,
}

impl Status {
    /// In the first column of the table.
    pub fn mark(self) -> &'static str {
        match self {
            Status::Kept => "✓",
            Status::Missed | Status::Failed => "✗",
            Status::Missing | Status::NotBuilt | Status::Told => "–",
        }
    }
}

/// A row of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub id: String,
    /// What is promised.
    pub promise: String,
    /// Whether it is kept.
    pub status: Status,
    /// The medians, as people read them.
    pub measured: String,
    /// What is aimed at.
    pub target: String,
    /// What anyone runs to get this row.
    pub command: String,
    /// Why it was not measured; what was wrong.
    pub note: Option<String>,
    /// The figures that it is judged by.
    pub figures: Vec<Figure>,
    /// How that is against the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// All that the programs said.
#[derive(Debug, Default)]
pub struct Measured {
    /// Lines of `mmsb bench` by case, one of each round.
    pub cases: BTreeMap<String, Vec<Value>>,
    /// Why it did not end well, if so: of the cases without a log and of those with one.
    pub bench_problems: [Option<String>; 2],
    /// The tools.
    pub tools: Vec<(Tool, Said)>,
    /// `scripts/languages`.
    pub languages: Said,
}

/// What was found of a promise, ahead of its becoming a row.
struct Found {
    status: Status,
    measured: String,
    note: Option<String>,
    figures: Vec<Figure>,
}

impl Found {
    fn without(status: Status, measured: &str, note: Option<String>) -> Found {
        Found {
            status,
            measured: measured.to_owned(),
            note,
            figures: Vec::new(),
        }
    }

    fn failed(why: impl Into<String>) -> Found {
        Found::without(Status::Failed, "not measured", Some(why.into()))
    }

    fn missing(why: impl Into<String>) -> Found {
        Found::without(Status::Missing, "not measured here", Some(why.into()))
    }
}

impl Measured {
    /// The row of a promise.
    pub fn row(&self, promise: &Promise) -> Row {
        let Found {
            status,
            measured,
            note,
            figures,
        } = match &promise.source {
            Source::Case { key, judge } => self.case(key, *judge),
            Source::Tool(tool) => self.tool(*tool),
            Source::Language(language, case, figure, bound) => {
                language_row(&self.languages, language, case, figure, *bound)
            }
            Source::NotBuilt => Found::without(Status::NotBuilt, "not built yet", None),
        };
        Row {
            id: promise.id.clone(),
            promise: promise.text.clone(),
            status,
            measured,
            target: promise.target.clone(),
            command: promise.command.clone(),
            note,
            figures,
            comparison: None,
        }
    }

    fn case(&self, key: &str, judge: Judge) -> Found {
        let rounds = self.cases.get(key).map(Vec::as_slice).unwrap_or_default();
        if let Some(why) = rounds.iter().find_map(|row| row["failed"].as_str()) {
            return Found::failed(why);
        }
        if let Some(why) = rounds.iter().find_map(|row| row["skipped"].as_str()) {
            return Found::missing(why);
        }
        let problem = self.bench_problems.iter().flatten().next();
        let Some(first) = rounds.first() else {
            let why = problem.map_or("mmsb bench said nothing of it", String::as_str);
            return Found::failed(why);
        };
        // A bench that died, and was not just unhappy with a case, has fewer rounds than it was to have.
        let mut lines = self.cases.values().flatten();
        if let Some(why) = problem
            && lines.all(|row| row["failed"].is_null())
        {
            return Found::failed(why);
        }
        let figures: Option<Vec<Figure>> = match judge {
            Judge::Own => judged_by(first)
                .map(|(name, better)| {
                    let value = |row: &Value| row[name].as_f64();
                    figure(name, better, rounds, value)
                })
                .collect(),
            Judge::Figure {
                name,
                less_bytes,
                better,
                ..
            } => {
                let value = |row: &Value| {
                    let bytes = row["bytes"].as_f64().filter(|_| less_bytes);
                    Some(row[name].as_f64()? - bytes.unwrap_or(0.0))
                };
                figure(name, better, rounds, value).map(|figure| vec![figure])
            }
        };
        let Some(figures) = figures.filter(|figures| !figures.is_empty()) else {
            return Found::failed("mmsb bench left out the figure that it is judged by");
        };
        let status = match judge {
            // Of an odd number of rounds most reach a target if, and only if, their median does.
            Judge::Own => {
                let met: Option<Vec<bool>> = rounds
                    .iter()
                    .map(|row| row["meets_target"].as_bool())
                    .collect();
                match met {
                    None => Status::Told,
                    Some(met) => kept(2 * met.iter().filter(|met| **met).count() > met.len()),
                }
            }
            Judge::Figure { better, bound, .. } => {
                let is = figures[0].measured.median;
                kept(match better {
                    Better::Less => is <= bound,
                    Better::More => is >= bound,
                })
            }
        };
        let texts = figures.iter().map(|f| shown(&f.name, f.measured.median));
        let mut measured = texts.collect::<Vec<_>>().join(", ");
        // How long that is here.
        if figures[0].name == "ratio_to_floor"
            && let Some(p50) = figure("p50_ns", Better::Less, rounds, |row| row["p50_ns"].as_f64())
        {
            measured += &format!(" ({})", shown("p50_ns", p50.measured.median));
        }
        let waits = rounds.iter().filter_map(|row| row["paced_waits"].as_u64());
        let waits = waits.max().filter(|waits| *waits > 0);
        Found {
            status,
            measured,
            note: waits.map(|waits| format!("writers had to wait {waits} times")),
            figures,
        }
    }

    fn tool(&self, tool: Tool) -> Found {
        let Some((_, said)) = self.tools.iter().find(|(of, _)| *of == tool) else {
            return Found::failed("it was not run");
        };
        let problem = || said.problem.clone();
        let Some(report) = said.lines.last() else {
            return Found::failed(problem().unwrap_or_else(|| "it said nothing".to_owned()));
        };
        let Some(found) = report[tool.judged_by()].as_u64() else {
            return Found::failed(format!("it did not count {}", tool.judged_by()));
        };
        // Nothing that was never put to the test was found to hold.
        let untested = tool
            .needs()
            .iter()
            .find(|(name, _)| report[*name].as_u64().unwrap_or(0) == 0)
            .map(|(_, word)| format!("there were no {word}"));
        let tells = tool.tells().iter().filter_map(|(name, word)| {
            let number = report[*name].as_u64()?;
            Some(format!("{} {word}", count(number)))
        });
        let mut texts = vec![format!("{found} {}", tool.judged_by())];
        texts.extend(tells);
        // The rest below the table, which is wide enough.
        let rest = texts.split_off(texts.len().min(3)).join(", ");
        let bad = report["bad"].as_array().into_iter().flatten();
        let bad: Vec<&str> = bad.filter_map(Value::as_str).collect();
        let seed = report["seed"].as_str().unwrap_or("unknown");
        let (status, note) = match (found, problem().or(untested)) {
            (0, None) => (Status::Kept, (!rest.is_empty()).then_some(rest)),
            (0, Some(why)) => (Status::Failed, Some(why)),
            (_, _) if bad.is_empty() => (Status::Missed, Some(format!("seed {seed}"))),
            (_, _) => (
                Status::Missed,
                Some(format!("seed {seed}: {}", bad.join("; "))),
            ),
        };
        Found {
            status,
            measured: texts.join(", "),
            note,
            figures: Vec::new(),
        }
    }
}

fn kept(is_kept: bool) -> Status {
    if is_kept {
        Status::Kept
    } else {
        Status::Missed
    }
}

/// The figures that a case is judged by, and which way they get better.
fn judged_by(row: &Value) -> impl Iterator<Item = (&str, Better)> {
    let by = row["judged_by"].as_array().into_iter().flatten();
    by.filter_map(|by| {
        let better = match by["better"].as_str()? {
            "more" => Better::More,
            _ => Better::Less,
        };
        Some((by["figure"].as_str()?, better))
    })
}

/// A figure over all rounds; `None` if one of them has it not.
fn figure(
    name: &str,
    better: Better,
    rounds: &[Value],
    value: impl Fn(&Value) -> Option<f64>,
) -> Option<Figure> {
    let values: Vec<f64> = rounds.iter().map(value).collect::<Option<_>>()?;
    let by_floor: Option<Vec<f64>> = rounds
        .iter()
        .zip(&values)
        .map(|(row, value)| in_floors(name, *value, row))
        .collect();
    Some(Figure {
        name: name.to_owned(),
        better,
        measured: Spread::of(&values)?,
        by_floor: by_floor.as_deref().and_then(Spread::of),
    })
}

/// The figure in units of the floor of its round, where the case is slow and fast with that.
fn in_floors(name: &str, value: f64, row: &Value) -> Option<f64> {
    let floor = row["floor_ns"].as_f64().filter(|ns| *ns > 0.0)?;
    if row["follows_floor"] != true {
        return None;
    }
    match name {
        _ if name.ends_with("per_second") => Some(value * floor),
        _ if name.ends_with("_ns") => Some(value / floor),
        // A ratio, or bytes.
        _ => None,
    }
}

fn language_row(said: &Said, language: &str, case: &str, name: &str, bound: f64) -> Found {
    let of_language = || said.lines.iter().filter(|row| row["language"] == language);
    if let Some(why) = of_language().find_map(|row| row["failed"].as_str()) {
        return Found::failed(why);
    }
    if of_language().any(|row| row["missing"] == true) {
        return Found::missing(format!("no {language} here (scripts/test installs it)"));
    }
    let problem = || match &said.problem {
        Some(why) => Found::failed(why.as_str()),
        None => Found::failed("scripts/languages said nothing of it"),
    };
    let Some(row) = of_language().find(|row| row["case"] == case) else {
        return problem();
    };
    let number = |name: &str| row[name].as_f64();
    let rust = number("rust_ns").filter(|ns| *ns > 0.0);
    let all = [number("min_ns"), number("ns"), number("max_ns")];
    let (Some(all), Some(rust)) = (all.into_iter().collect::<Option<Vec<f64>>>(), rust) else {
        return problem();
    };
    let of = |ns: &f64| match name {
        "times_rust" => ns / rust,
        "over_rust_ns" => ns - rust,
        _ => *ns,
    };
    let rounds = row["rounds"].as_u64().map_or(1, |rounds| rounds as usize);
    let spread = |values: Vec<f64>| Spread {
        min: values[0],
        median: values[1],
        max: values[2],
        rounds,
    };
    let figure = Figure {
        name: name.to_owned(),
        better: Better::Less,
        measured: spread(all.iter().map(of).collect()),
        by_floor: Some(spread(all.iter().map(|ns| ns / rust).collect())),
    };
    Found {
        status: kept(figure.measured.median <= bound),
        measured: match name {
            "ns" => shown("ns", all[1]),
            _ => format!(
                "{} ({})",
                shown(name, figure.measured.median),
                shown("ns", all[1])
            ),
        },
        note: None,
        figures: vec![figure],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn commit(p50_ns: f64, met: bool) -> Value {
        json!({"case": "commit", "bytes": 64, "p50_ns": p50_ns, "floor_ns": 10.0, "follows_floor": true,
               "judged_by": [{"figure": "p50_ns", "better": "less"}], "meets_target": met})
    }

    fn measured(rounds: Vec<Value>) -> Measured {
        Measured {
            cases: BTreeMap::from([("commit/64".to_owned(), rounds)]),
            ..Measured::default()
        }
    }

    #[test]
    fn the_median_is_judged_and_shown() {
        let rounds = vec![commit(20.0, true), commit(90.0, false), commit(30.0, true)];
        let found = measured(rounds.clone()).case("commit/64", Judge::Own);
        assert_eq!(
            (found.status, found.measured.as_str()),
            (Status::Kept, "30.0 ns")
        );
        let figure = &found.figures[0];
        assert_eq!((figure.measured.min, figure.measured.max), (20.0, 90.0));
        assert_eq!(figure.by_floor.unwrap().median, 3.0);
        let judge = |bound| Judge::Figure {
            name: "p50_ns",
            less_bytes: false,
            better: Better::Less,
            bound,
        };
        let status = |bound| {
            measured(rounds.clone())
                .case("commit/64", judge(bound))
                .status
        };
        assert_eq!(status(30.0), Status::Kept);
        assert_eq!(status(29.0), Status::Missed);
        let less = Judge::Figure {
            name: "p50_ns",
            less_bytes: true,
            better: Better::Less,
            bound: 0.0,
        };
        let found = measured(vec![commit(80.0, true)]).case("commit/64", less);
        assert_eq!(
            (found.status, found.measured.as_str()),
            (Status::Missed, "16.0 ns")
        );
    }

    #[test]
    fn what_fails_in_one_round_has_failed_and_what_is_skipped_is_missing() {
        let failed = json!({"case": "commit", "bytes": 64, "failed": "torn"});
        let found = measured(vec![commit(20.0, true), failed]).case("commit/64", Judge::Own);
        assert_eq!(
            (found.status, found.note.as_deref()),
            (Status::Failed, Some("torn"))
        );
        let skipped = json!({"case": "commit", "bytes": 64, "skipped": "no room"});
        let found = measured(vec![skipped]).case("commit/64", Judge::Own);
        assert_eq!(found.status, Status::Missing);
        let mut nothing = Measured::default();
        assert_eq!(nothing.case("commit/64", Judge::Own).status, Status::Failed);
        nothing.bench_problems[1] = Some("one core".to_owned());
        let found = nothing.case("commit/64", Judge::Own);
        assert_eq!(found.note.as_deref(), Some("one core"));
        let null = json!({"case": "commit", "bytes": 64, "p50_ns": 1.0, "meets_target": null,
                          "judged_by": [{"figure": "p50_ns", "better": "less"}]});
        let found = measured(vec![null]).case("commit/64", Judge::Own);
        assert_eq!(found.status, Status::Told);
    }

    #[test]
    fn violations_are_counted_and_said() {
        let with = |line: Value, problem: Option<&str>| Measured {
            tools: vec![(
                Tool::Soak,
                Said {
                    lines: vec![line],
                    problem: problem.map(str::to_owned),
                },
            )],
            ..Measured::default()
        };
        let good = json!({"seed": "0x7", "violations": 0, "kills": 1234, "armed_deaths": 5, "stops": 6,
                   "recoveries": 7, "acknowledged": 8});
        let found = with(good.clone(), None).tool(Tool::Soak);
        assert_eq!(found.status, Status::Kept);
        assert_eq!(
            found.measured,
            "0 violations, 1,234 kills, 5 deaths at named steps"
        );
        assert_eq!(
            found.note.as_deref(),
            Some("6 stops, 7 recoveries, 8 commits")
        );
        let idle = json!({"violations": 0, "kills": 0, "recoveries": 0, "acknowledged": 9});
        let found = with(idle, None).tool(Tool::Soak);
        assert_eq!(
            (found.status, found.note.as_deref()),
            (Status::Failed, Some("there were no kills"))
        );
        let found = with(good, Some("nothing happened of: stops")).tool(Tool::Soak);
        assert_eq!(found.status, Status::Failed);
        let bad = json!({"seed": "0x7", "violations": 1, "bad": ["torn"]});
        let found = with(bad, Some("exit code 1")).tool(Tool::Soak);
        assert_eq!(
            (found.status, found.note.as_deref()),
            (Status::Missed, Some("seed 0x7: torn"))
        );
        assert_eq!(Measured::default().tool(Tool::Soak).status, Status::Failed);
    }

    #[test]
    fn languages_are_compared_with_rust() {
        let said = |problem: Option<&str>| Said {
            lines: vec![
                json!({"language": "c", "case": "commit_64", "ns": 33.0, "min_ns": 32.0, "max_ns": 40.0,
                       "rounds": 9, "rust_ns": 30.0}),
                json!({"language": "julia", "missing": true}),
                json!({"language": "python", "failed": "no module"}),
            ],
            problem: problem.map(str::to_owned),
        };
        let row = |language, case, name, bound| {
            language_row(&said(Some("some failed")), language, case, name, bound)
        };
        let found = row("c", "commit_64", "over_rust_ns", 10.0);
        assert_eq!(
            (found.status, found.measured.as_str()),
            (Status::Kept, "+3.0 ns to Rust (33.0 ns)")
        );
        assert_eq!(found.figures[0].by_floor.unwrap().median, 1.1);
        assert_eq!(
            row("c", "commit_64", "times_rust", 1.0).status,
            Status::Missed
        );
        assert_eq!(row("julia", "read_1024", "ns", 1.0).status, Status::Missing);
        let found = row("python", "read_64", "ns", 1.0);
        assert_eq!(
            (found.status, found.note.as_deref()),
            (Status::Failed, Some("no module"))
        );
        let found = row("c-header", "read_64", "times_rust", 1.5);
        assert_eq!(found.note.as_deref(), Some("some failed"));
    }
}
