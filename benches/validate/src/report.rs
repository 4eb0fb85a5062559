//! The table.

use std::fmt::Write;

use crate::compare::{Run, Verdict};
use crate::judge::{Row, Status};
use crate::promise::Promise;

/// What a group is about, by the first word of its rows.
const GROUPS: [(&str, &str); 6] = [
    ("bus", "The bus (`mmsb bench`)"),
    ("durable", "The log (`mmsb bench --durable`)"),
    ("classic", "What MMSB was always meant to reach"),
    ("soak", "Kills"),
    ("languages", "Other languages"),
    ("later", "Not built yet"),
];

fn group(id: &str) -> &str {
    id.split('/').next().unwrap_or(id)
}

/// Lines of cells, each column as wide as its widest cell.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let blanks = width - cell.chars().count() + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', blanks));
        }
        line.truncate(line.trim_end().len());
        line
    };
    rows.iter().map(line).collect()
}

/// How many rows have each end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Promises kept.
    pub kept: usize,
    /// Promises not kept.
    pub missed: usize,
    /// What failed.
    pub failed: usize,
    /// What this machine cannot show.
    pub missing: usize,
    /// What is not there yet.
    pub not_built: usize,
    /// What nothing was promised of.
    pub told: usize,
    /// What got worse than the baseline.
    pub regressions: usize,
    /// What has nothing to be compared with; 0 if nothing was to be.
    pub not_comparable: usize,
}

impl Summary {
    /// Of these rows.
    pub fn of(rows: &[Row]) -> Summary {
        let with = |status| rows.iter().filter(|row| row.status == status).count();
        let verdict = |verdict| {
            let is = |row: &&Row| {
                row.comparison
                    .as_ref()
                    .is_some_and(|c| c.verdict == verdict)
            };
            rows.iter().filter(is).count()
        };
        Summary {
            kept: with(Status::Kept),
            missed: with(Status::Missed),
            failed: with(Status::Failed),
            missing: with(Status::Missing),
            not_built: with(Status::NotBuilt),
            told: with(Status::Told),
            regressions: verdict(Verdict::Worse),
            not_comparable: verdict(Verdict::NotComparable),
        }
    }
}

/// The whole report for people.
pub fn text(run: &Run, compared: bool) -> String {
    let mut out = String::new();
    let mut lines = Vec::new();
    // Where a group begins, by the number of the line in the table.
    let mut heads = Vec::new();
    let mut head = vec!["", "promise", "measured", "target"];
    if compared {
        head.push("against the baseline");
    }
    head.push("command");
    lines.push(head.into_iter().map(str::to_owned).collect());
    for row in &run.rows {
        let of = group(&row.id);
        if heads.last().is_none_or(|(_, last)| *last != of) {
            heads.push((lines.len(), of));
        }
        let mut cells = vec![
            row.status.mark().to_owned(),
            row.promise.clone(),
            row.measured.clone(),
            row.target.clone(),
        ];
        if compared {
            cells.push(
                row.comparison
                    .as_ref()
                    .map(|c| c.shown())
                    .unwrap_or_default(),
            );
        }
        cells.push(row.command.clone());
        lines.push(cells);
    }
    for (at, line) in table(&lines).into_iter().enumerate() {
        if let Some((_, of)) = heads.iter().find(|(line, _)| *line == at) {
            let title = GROUPS.iter().find(|(name, _)| name == of);
            let title = title.map_or(*of, |(_, title)| title);
            out.push_str(&format!("\n{title}\n"));
        }
        out.push_str(&line);
        out.push('\n');
    }
    out.push('\n');
    for row in &run.rows {
        if let Some(note) = &row.note {
            out.push_str(&format!("{}: {note}\n", row.id));
        }
    }
    // The same for all rows, most often: once is enough.
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in &run.rows {
        let Some(why) = row.comparison.as_ref().and_then(|c| c.why.as_deref()) else {
            continue;
        };
        match reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, rows)) => rows.push(&row.id),
            None => reasons.push((why, vec![&row.id])),
        }
    }
    for (why, rows) in reasons {
        let which = match rows.as_slice() {
            [.., _, _, _, _] => format!("{} rows", rows.len()),
            few => few.join(", "),
        };
        out.push_str(&format!("not comparable, {which}: {why}\n"));
    }
    let machine = &run.machine;
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{} cores of {}{}, Linux {}, logs on {}; {}; {} round{}{}",
        machine.cores,
        machine.cpu,
        match &machine.hypervisor {
            Some(by) => format!(" (virtual: {by})"),
            None => String::new(),
        },
        machine.kernel,
        machine.disk.as_deref().unwrap_or("an unknown disk"),
        run.date,
        run.rounds,
        if run.rounds == 1 { "" } else { "s, medians" },
        if run.quick { ", quick" } else { "" },
    );
    if machine.load > 0.5 {
        let _ = writeln!(
            out,
            "The machine was busy with other things (load {:.1}): figures are worse than they could be.",
            machine.load
        );
    }
    out.push_str(
        "`cargo build --release` puts `mmsb` into target/release; `scripts/validate --list` names the rows for --only.\n",
    );
    let Summary {
        kept,
        missed,
        failed,
        missing,
        not_built,
        told,
        regressions,
        not_comparable,
    } = Summary::of(&run.rows);
    let _ = write!(
        out,
        "{kept} kept, {missed} missed, {failed} failed, {missing} not measurable here, {not_built} not built yet, {told} \
         without a target"
    );
    if compared {
        let _ = write!(
            out,
            "; {regressions} worse than the baseline, {not_comparable} not comparable"
        );
    }
    out.push('\n');
    out
}

/// What there is, for `--list`.
pub fn list(promises: &[Promise]) -> String {
    let row = |promise: &Promise| {
        let target = match promise.source {
            crate::promise::Source::NotBuilt => "not built yet".to_owned(),
            _ => promise.target.clone(),
        };
        vec![
            promise.id.clone(),
            promise.text.clone(),
            target,
            promise.command.clone(),
        ]
    };
    let mut lines = vec![
        ["row", "promise", "target", "command"]
            .map(str::to_owned)
            .to_vec(),
    ];
    lines.extend(promises.iter().map(row));
    table(&lines).join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Comparison, FORMAT};
    use crate::machine::Machine;

    fn row(id: &str, status: Status, note: Option<&str>) -> Row {
        Row {
            id: id.to_owned(),
            promise: format!("promise of {id}"),
            status,
            measured: "30 ns".to_owned(),
            target: "<= 32 ns".to_owned(),
            command: "mmsb bench".to_owned(),
            note: note.map(str::to_owned),
            figures: Vec::new(),
            comparison: None,
        }
    }

    fn run(rows: Vec<Row>) -> Run {
        Run {
            format: FORMAT,
            date: "2026-11-21T20:00:01Z".to_owned(),
            commit: None,
            quick: false,
            rounds: 3,
            machine: Machine::default(),
            rows,
        }
    }

    #[test]
    fn rows_stand_under_their_groups_in_columns() {
        let run = run(vec![
            row("bus/a", Status::Kept, None),
            row("bus/long", Status::Missed, None),
            row("later/gpu", Status::NotBuilt, None),
            row("soak/kill", Status::Failed, Some("it hangs")),
        ]);
        let text = text(&run, false);
        let lines: Vec<&str> = text.lines().collect();
        let of = |start: &str| *lines.iter().find(|line| line.starts_with(start)).unwrap();
        assert_eq!(
            of("✓"),
            "✓  promise of bus/a      30 ns     <= 32 ns  mmsb bench"
        );
        assert!(of("–").contains("later/gpu"));
        assert!(of("The bus").contains("mmsb bench"));
        assert!(text.contains("soak/kill: it hangs"));
        assert!(
            text.contains("1 kept, 1 missed, 1 failed, 0 not measurable here, 1 not built yet")
        );
        assert!(!text.contains("baseline"));
    }

    #[test]
    fn a_reason_that_holds_for_many_is_said_once() {
        let mut rows: Vec<Row> = (0..5)
            .map(|n| row(&format!("bus/{n}"), Status::Kept, None))
            .collect();
        for row in &mut rows {
            row.comparison = Some(Comparison {
                verdict: Verdict::NotComparable,
                worse_by: None,
                noise: None,
                by_floor: false,
                why: Some("another machine".to_owned()),
            });
        }
        let text = text(&run(rows), true);
        assert_eq!(text.matches("another machine").count(), 1);
        assert!(text.contains("not comparable, 5 rows: another machine"));
        assert!(text.contains("0 worse than the baseline, 5 not comparable"));
    }
}
