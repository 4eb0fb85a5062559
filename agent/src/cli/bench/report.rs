//! What came out: one JSON object for each case, or a table.

use std::time::Duration;

use serde_json::{Value, json};

use super::catalogue::{Case, Target};
use super::runner::FloorFigures;
use super::samples::Measured;
use crate::cli::table::{self, Align, Table};

/// The floors around a case.
#[derive(Clone, Debug, Default)]
pub struct Floors {
    /// What the case is compared with, right before it.
    pub before: Option<FloorFigures>,
    /// And right after.
    pub after: Option<FloorFigures>,
    /// What its answers take, right before it.
    pub line_before: Option<FloorFigures>,
    /// And right after.
    pub line_after: Option<FloorFigures>,
}

/// How a case went.
#[derive(Clone, Debug)]
pub enum Result {
    /// Figures; everything was checked.
    Measured(Measured),
    /// It cannot be measured here.
    Skipped(String),
    /// Something was wrong.
    Failed(String),
}

/// A case and what became of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The case.
    pub case: &'static Case,
    /// The floors around it.
    pub floors: Floors,
    /// How it went; one-way times are one-way already.
    pub result: Result,
}

/// Mean of before and after, in nanoseconds.
fn mean(before: &Option<FloorFigures>, after: &Option<FloorFigures>) -> Option<f64> {
    Some((before.as_ref()?.ns + after.as_ref()?.ns) / 2.0)
}

/// To a hundredth: the clock knows no more.
fn rounded(ns: f64) -> Value {
    json!((ns * 100.0).round() / 100.0)
}

impl Row {
    /// Takes the way back off the round trips of a case that has them.
    pub fn new(case: &'static Case, mut floors: Floors, mut result: Result) -> Row {
        if let (Result::Measured(measured), Some(before), Some(after)) =
            (&mut result, &mut floors.before, &mut floors.after)
        {
            // The floor was measured for a byte, and is that of an operation.
            if let Some(bytes) = measured.floor_bytes {
                before.ns *= bytes;
                after.ns *= bytes;
            }
            for (name, figure) in &before.more {
                let after = after.more.get(name).unwrap_or(figure);
                let mean = (figure + after) / 2.0;
                measured.more.insert(name.clone(), rounded(mean));
            }
        }
        let line = mean(&floors.line_before, &floors.line_after);
        if let (Result::Measured(measured), Some(line)) = (&mut result, line) {
            let round_trip = measured.p50_ns;
            measured
                .more
                .insert("round_trip_p50_ns".to_owned(), rounded(round_trip));
            for ns in [
                &mut measured.p50_ns,
                &mut measured.p99_ns,
                &mut measured.p999_ns,
            ] {
                *ns -= line;
            }
        }
        Row {
            case,
            floors,
            result,
        }
    }

    /// What it is compared with: the mean of before and after, else what the case measured itself.
    fn floor(&self) -> Option<f64> {
        let own = match &self.result {
            Result::Measured(measured) => measured.floor_ns,
            _ => None,
        };
        own.or_else(|| mean(&self.floors.before, &self.floors.after))
    }

    fn ratio(&self) -> Option<f64> {
        match (&self.result, self.floor()) {
            (Result::Measured(measured), Some(floor)) => Some(measured.p50_ns / floor),
            _ => None,
        }
    }

    fn is_met(&self) -> Option<bool> {
        match &self.result {
            Result::Measured(measured) => self.case.target.is_met(measured, self.ratio()),
            _ => None,
        }
    }

    /// One object.
    pub fn to_json(&self) -> Value {
        let mut row = about(self.case);
        let ns = |floor: &Option<FloorFigures>| match floor {
            Some(floor) => rounded(floor.ns),
            None => Value::Null,
        };
        let Some(fields) = row.as_object_mut() else {
            return row;
        };
        let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        match &self.result {
            Result::Measured(measured) => {
                add("p50_ns", rounded(measured.p50_ns));
                add("p99_ns", rounded(measured.p99_ns));
                add("p999_ns", rounded(measured.p999_ns));
                add("per_second", json!(measured.per_second.round()));
                let ratio = self.ratio().map(|ratio| (ratio * 1000.0).round() / 1000.0);
                add("ratio_to_floor", json!(ratio));
                add("floor_ns", self.floor().map_or(Value::Null, rounded));
                add("floor_before_ns", ns(&self.floors.before));
                add("floor_after_ns", ns(&self.floors.after));
                add("meets_target", json!(self.is_met()));
                add("block", json!(measured.block));
                add("blocks", json!(measured.blocks));
                if let Some((name, figure)) = self.case.target.derived(measured) {
                    add(name, rounded(figure));
                }
                for (name, value) in &measured.more {
                    let value = match value.as_f64() {
                        Some(number) if value.is_f64() => rounded(number),
                        _ => value.clone(),
                    };
                    add(name, value);
                }
            }
            Result::Skipped(why) => {
                add("skipped", json!(why));
            }
            Result::Failed(why) => {
                add("failed", json!(why));
            }
        }
        row
    }
}

/// What is known of a case before it is run: the beginning of its line.
pub fn about(case: &Case) -> Value {
    let judged = case.target.figures().iter().map(|(name, more)| {
        let better = if *more { "more" } else { "less" };
        json!({"figure": name, "better": better})
    });
    let mut row = json!({
        "case": case.name,
        "bytes": case.bytes,
        "what": case.what,
        "durable": case.is_durable,
        "floor": case.floor.name(),
        "follows_floor": case.follows_floor,
        "target": case.target.name(),
        "judged_by": judged.collect::<Vec<_>>(),
    });
    if let (Some(writers), Some(fields)) = (case.writers, row.as_object_mut()) {
        fields.insert("writers".to_owned(), json!(writers));
    }
    row
}

/// The cases, and what is aimed at.
pub fn list<'c>(cases: impl Iterator<Item = &'c Case>) -> Table {
    let mut table = Table::new(&[
        ("case", Align::Left),
        ("bytes", Align::Right),
        ("what", Align::Left),
        ("floor", Align::Left),
        ("target", Align::Left),
    ]);
    for case in cases {
        table.row([
            case.label(),
            case.bytes.to_string(),
            case.what.to_owned(),
            case.floor.name(),
            case.target.name(),
        ]);
    }
    table
}

/// Nanoseconds as people read them: with a digit behind the point as long as one matters.
fn nanos(ns: f64) -> String {
    if ns < 1000.0 {
        return format!("{ns:.1} ns");
    }
    table::duration(Duration::from_nanos(ns as u64))
}

/// Says on standard error that a case is done: the table comes at the end.
pub fn progress(row: &Row) {
    let what = match &row.result {
        Result::Measured(measured) => nanos(measured.p50_ns),
        Result::Skipped(why) => format!("skipped: {why}"),
        Result::Failed(why) => format!("FAILED: {why}"),
    };
    let Case {
        bytes, what: does, ..
    } = row.case;
    eprintln!("{} ({bytes} B: {does}): {what}", row.case.label());
}

/// All cases.
pub fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("case", Align::Left),
        ("bytes", Align::Right),
        ("p50", Align::Right),
        ("p99", Align::Right),
        ("p99.9", Align::Right),
        ("rate", Align::Right),
        ("floor", Align::Right),
        ("x floor", Align::Right),
        ("target", Align::Left),
        ("met", Align::Left),
    ]);
    for row in rows {
        let mut cells = vec![row.case.label(), row.case.bytes.to_string()];
        match &row.result {
            Result::Measured(measured) => {
                cells.extend([measured.p50_ns, measured.p99_ns, measured.p999_ns].map(nanos));
                cells.push(table::rate(measured.per_second));
                cells.push(row.floor().map_or_else(String::new, nanos));
                let ratio = row.ratio().map(|ratio| format!("{ratio:.2}"));
                cells.push(ratio.unwrap_or_default());
            }
            Result::Skipped(_) => cells.extend(["skipped", "", "", "", "", ""].map(str::to_owned)),
            Result::Failed(_) => cells.extend(["FAILED", "", "", "", "", ""].map(str::to_owned)),
        }
        cells.push(row.case.target.name());
        let met = match row.is_met() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        cells.push(met.to_owned());
        table.row(cells);
    }
    table
}

/// What else a case that has to do with the disk measured.
fn of_the_disk(measured: &Measured) -> String {
    let words = measured.more.iter().map(|(name, value)| {
        let number = value.as_f64().unwrap_or(f64::NAN);
        let name = name.replace('_', " ");
        if let Some(name) = name.strip_suffix(" ns") {
            format!("{name} {}", nanos(number))
        } else if let Some(name) = name.strip_suffix("bytes per second") {
            format!("{name}{:.2} GB/s", number / 1e9)
        } else if let Some(name) = name.strip_suffix("per second") {
            format!("{name}{}", table::rate(number))
        } else if number.fract() == 0.0 {
            format!("{name} {number}")
        } else {
            format!("{name} {number:.2}")
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

/// What does not fit the columns.
pub fn notes(rows: &[Row], cpus: (usize, usize)) -> Vec<String> {
    let mut notes = vec![
        String::new(),
        format!(
            "cores {} and {}; quantiles are over blocks of operations; one way = round trip less the way back",
            cpus.0, cpus.1
        ),
    ];
    for row in rows {
        let name = format!("{} ({} B)", row.case.label(), row.case.bytes);
        match &row.result {
            Result::Measured(measured) => {
                let rate = |key: &str| table::rate(measured.number(key).unwrap_or(f64::NAN));
                let ns = |key: &str| nanos(measured.number(key).unwrap_or(f64::NAN));
                let more = match row.case.target {
                    _ if measured.more.contains_key("reads_per_second") => format!(
                        "{} reads (copies), {} writes; {} new versions by read_if_newer; writer p50 {}",
                        rate("reads_per_second"),
                        rate("writes_per_second"),
                        rate("reads_if_newer_per_second"),
                        ns("write_p50_ns")
                    ),
                    Target::Memory(_) => format!(
                        "{} for {} pages, all tables and the ring included",
                        table::bytes(measured.number("memory_bytes").unwrap_or(0.0) as u64),
                        table::count(measured.number("pages").unwrap_or(0.0) as u64)
                    ),
                    Target::Commits(_) => {
                        format!(
                            "a commit of 64 B in the same run: {}",
                            ns("commit_64_p50_ns")
                        )
                    }
                    _ if row.case.is_durable => of_the_disk(measured),
                    _ if measured.more.contains_key("both_ways_p50_ns") => format!(
                        "half of a round trip with both ways through the bus: {}",
                        ns("both_ways_p50_ns")
                    ),
                    _ => continue,
                };
                notes.push(format!("{name}: {more}"));
            }
            Result::Skipped(why) => notes.push(format!("{name}: skipped: {why}")),
            Result::Failed(why) => notes.push(format!("{name}: FAILED: {why}")),
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::CASES;
    use super::*;

    fn case(name: &str) -> &'static Case {
        CASES.iter().find(|case| case.name == name).unwrap()
    }

    fn measured(p50_ns: f64) -> Result {
        Result::Measured(Measured {
            p50_ns,
            p99_ns: 2.0 * p50_ns,
            p999_ns: 3.0 * p50_ns,
            per_second: 1e9 / p50_ns,
            block: 64,
            blocks: 10,
            ..Measured::default()
        })
    }

    #[test]
    fn one_way_is_the_round_trip_less_the_way_back() {
        let floors = Floors {
            before: Some(90.0.into()),
            after: Some(110.0.into()),
            line_before: Some(90.0.into()),
            line_after: Some(110.0.into()),
        };
        let row = Row::new(case("one_way_page"), floors, measured(230.0)).to_json();
        assert_eq!(row["p50_ns"], 130.0);
        assert_eq!(row["p99_ns"], 360.0);
        assert_eq!(row["ratio_to_floor"], 1.3);
        assert_eq!(row["round_trip_p50_ns"], 230.0);
        assert_eq!(row["meets_target"], true);
        assert_eq!(
            (&row["floor_before_ns"], &row["floor_after_ns"]),
            (&json!(90.0), &json!(110.0))
        );
    }

    #[test]
    fn every_line_names_its_case_and_a_failure_is_not_a_figure() {
        let floors = Floors::default();
        let failed = Row::new(
            case("read"),
            floors.clone(),
            Result::Failed("torn".to_owned()),
        );
        let row = failed.to_json();
        assert_eq!((&row["case"], &row["bytes"]), (&json!("read"), &json!(64)));
        assert_eq!(row["failed"], "torn");
        assert!(row.get("p50_ns").is_none());
        let skipped = Row::new(
            case("memory"),
            floors.clone(),
            Result::Skipped("small".to_owned()),
        );
        assert_eq!(skipped.to_json()["skipped"], "small");
        let rows = [
            failed,
            skipped,
            Row::new(case("commit"), floors, measured(20.0)),
        ];
        assert_eq!(table(&rows).len(), 3);
        let notes = notes(&rows, (0, 1)).join("\n");
        assert!(notes.contains("FAILED: torn") && notes.contains("skipped: small"));
    }

    #[test]
    fn a_floor_of_the_cases_own_goes_first() {
        let Result::Measured(figures) = measured(30.0) else {
            panic!("it has figures");
        };
        let figures = Measured {
            floor_ns: Some(20.0),
            ..figures
        };
        let row = Row::new(
            case("takeover"),
            Floors::default(),
            Result::Measured(figures),
        );
        assert_eq!(row.to_json()["ratio_to_floor"], 1.5);
    }
}
