//! `scripts/validate`: what MMSB promises, measured, in one table.
//!
//! The figures come from programs that measure one thing each, and that anyone can run alone: `mmsb bench`, the soaks,
//! `divergence`, `scripts/languages`. This one runs them, several times and in turns where that is affordable, and
//! puts the medians beside the targets and, if wanted, beside an earlier run.

mod compare;
mod figure;
mod judge;
mod machine;
mod program;
mod promise;
mod report;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};

use compare::{FORMAT, Run, Verdict};
use judge::{Measured, Row, Status};
use machine::Machine;
use program::{Program, Said, Stop};
use promise::{Lengths, Promise, Source, Tool};

/// Rounds of what is measured several times.
const ROUNDS: usize = 3;
/// Cases of so many bytes take longer than all others together: one round of them has to do.
const LARGE: u64 = 1 << 30;
/// Longest that a round of `mmsb bench` may take: some times what it takes.
const BENCH_LIMIT: Duration = Duration::from_secs(600);
/// The same of `scripts/languages`, which may have to build.
const LANGUAGES_LIMIT: Duration = Duration::from_secs(900);
/// What a soak may take beyond its length.
const SOAK_LIMIT: Duration = Duration::from_secs(240);

const HELP: &str = "\
✓ kept, ✗ missed or failed, – nothing to judge: not built yet, not on this machine, or nothing was promised.

Figures are medians over rounds in which the programs take turns (of cases of 1 GiB there is one round only); the JSON has
the least and the greatest too. Targets are for a quiet machine. Of what fails, the reason stands below the table, and the rest goes on.

With --compare a row is a regression if it is worse than in the baseline by more than the noise of both. Noise is the distance
between the least and the greatest round, as a part of the median: at least 3 % (0.5 % for bytes), and 15 % where
there was one round only. What was measured beside a floor of the same kind is compared in units of that floor, because
machines drift. A baseline of another machine model, or of a run of another length, is not compared with.

Exit codes:
  0  all promises that are built are kept; with --compare: no regression
  1  a promise is missed; with --compare: a regression, or a violation or divergence (a target that is missed as it was
     in the baseline does not count)
  2  wrong usage, or no such baseline
  3  nothing of that, but something could not be measured
  130  interrupted

Examples:
  scripts/validate --quick
  scripts/validate --only classic --only bus/commit
  scripts/validate --save benches/baseline.json
  scripts/validate --compare --json | jq '.rows[] | select(.comparison.verdict == \"worse\")'";

/// Measures what MMSB promises, and prints one table.
#[derive(Debug, Parser)]
#[command(name = "validate", after_long_help = HELP)]
struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// For a short time, one round: to see that it works
    #[arg(long)]
    quick: bool,
    /// Only this row or group (see --list); may be given again
    #[arg(long, value_name = "ROW|GROUP")]
    only: Vec<String>,
    /// Write what was measured to a file, to be compared with later
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Compare with the baseline
    #[arg(long)]
    compare: bool,
    /// The baseline [default: benches/baseline.json]
    #[arg(long, value_name = "FILE", requires = "compare")]
    baseline: Option<PathBuf>,
    /// Only say which rows there are
    #[arg(long, conflicts_with_all = ["save", "compare"])]
    list: bool,
    /// Rounds [default: 3, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: Option<u16>,
    /// Directory on the disk where logs are kept meanwhile [default: tmp in the target directory]
    #[arg(long, value_name = "DIR")]
    disk: Option<PathBuf>,
    /// The root of the repository
    #[arg(long, hide = true, default_value = ".")]
    root: PathBuf,
    /// Directory of the programs [default: that of this one]
    #[arg(long, hide = true, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Only say which programs it takes
    #[arg(long, hide = true)]
    needs: bool,
}

/// What of the programs is wanted.
#[derive(Debug, Default)]
struct Wanted {
    /// Names of cases of `mmsb bench`, without a log and with one.
    cases: [BTreeSet<String>; 2],
    /// Those of them that are measured in the first round only.
    once: BTreeSet<String>,
    tools: Vec<Tool>,
    languages: bool,
}

impl Wanted {
    fn by(promises: &[Promise], cases: &[Value]) -> Wanted {
        let mut wanted = Wanted::default();
        for promise in promises {
            match &promise.source {
                Source::Case { key, .. } => {
                    let is_it = |case: &&Value| promise::case_key(case).as_ref() == Some(key);
                    if let Some(case) = cases.iter().find(is_it)
                        && let Some(name) = case["case"].as_str()
                    {
                        let which = usize::from(case["durable"] == true);
                        wanted.cases[which].insert(name.to_owned());
                        if case["bytes"].as_u64() >= Some(LARGE) {
                            wanted.once.insert(name.to_owned());
                        }
                    }
                }
                Source::Tool(tool) if !wanted.tools.contains(tool) => wanted.tools.push(*tool),
                Source::Language(..) => wanted.languages = true,
                Source::Tool(_) | Source::NotBuilt => {}
            }
        }
        wanted
    }

    /// In words for the script, which builds what is needed.
    fn needs(&self) -> String {
        let mut words = Vec::new();
        if !self.tools.is_empty() {
            words.push("tests");
        }
        if self.languages {
            words.push("languages");
        }
        words.join(" ")
    }
}

/// Runs the programs.
struct Bench<'a> {
    args: &'a Args,
    programs: PathBuf,
    disk: PathBuf,
    lengths: Lengths,
    rounds: usize,
    stop: &'a Stop,
    begin: Instant,
}

impl Bench<'_> {
    /// Says on standard error what is done now: the table comes at the end.
    fn says(&self, what: &str) {
        eprintln!("{:4} s  {what}", self.begin.elapsed().as_secs());
    }

    fn run(&self, path: PathBuf, arguments: &[&str], limit: Duration) -> Said {
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        let program = Program {
            path,
            arguments,
            limit,
        };
        program.run(self.stop)
    }

    fn bench(&self, cases: &BTreeSet<&str>, durable: bool) -> Said {
        let disk = self.disk.to_string_lossy();
        let mut arguments = vec!["bench", "--json"];
        if durable {
            arguments.extend(["--durable", "--disk", &disk]);
        }
        if self.args.quick {
            arguments.push("--quick");
        }
        for case in cases {
            arguments.extend(["--case", case]);
        }
        self.run(self.programs.join("mmsb"), &arguments, BENCH_LIMIT)
    }

    fn tool(&self, tool: Tool) -> Said {
        let disk = self.disk.to_string_lossy();
        let seconds = match tool {
            Tool::Soak | Tool::DurableSoak => self.lengths.soak,
            Tool::Divergence => self.lengths.divergence,
        };
        let limit = Duration::from_secs(seconds) + SOAK_LIMIT;
        let seconds = seconds.to_string();
        let (name, mut arguments) = match tool {
            Tool::Soak => ("mmsb-soak", vec![]),
            Tool::DurableSoak => ("durable", vec!["soak", "--disk", &disk]),
            Tool::Divergence => ("divergence", vec!["--disk", &disk]),
        };
        self.says(&format!("{name}, {seconds} s"));
        arguments.extend(["--json", "--seconds", &seconds]);
        self.run(self.programs.join(name), &arguments, limit)
    }

    /// Everything that is wanted.
    fn measure(&self, wanted: &Wanted) -> Measured {
        let mut measured = Measured::default();
        // In turns, so that a minute in which the machine is slow is not one case's only.
        for round in 1..=self.rounds {
            for (which, cases) in wanted.cases.iter().enumerate() {
                let cases: BTreeSet<&str> = cases
                    .iter()
                    .filter(|name| round == 1 || !wanted.once.contains(*name))
                    .map(String::as_str)
                    .collect();
                if cases.is_empty() {
                    continue;
                }
                let durable = which == 1;
                let of_the_log = if durable { " --durable" } else { "" };
                let rounds = self.rounds;
                self.says(&format!(
                    "mmsb bench{of_the_log}, round {round} of {rounds}"
                ));
                let said = self.bench(&cases, durable);
                for row in said.lines {
                    if let Some(key) = promise::case_key(&row) {
                        measured.cases.entry(key).or_default().push(row);
                    }
                }
                if let Some(why) = said.problem {
                    self.says(&format!("mmsb bench{of_the_log}: {why}"));
                    measured.bench_problems[which].get_or_insert(why);
                }
            }
        }
        if wanted.languages {
            self.says("scripts/languages");
            let script = self.args.root.join("scripts/languages");
            measured.languages = self.run(script, &["--json"], LANGUAGES_LIMIT);
        }
        // Last, because they leave a machine with much to write back.
        for tool in Tool::ALL {
            if wanted.tools.contains(&tool) {
                measured.tools.push((tool, self.tool(tool)));
            }
        }
        measured
    }
}

/// The cases of `mmsb bench`.
fn cases(programs: &Path, stop: &Stop) -> Result<Vec<Value>, String> {
    let mut cases = Vec::new();
    for durable in [false, true] {
        let mut arguments = vec!["bench", "--list", "--json"];
        arguments.extend(durable.then_some("--durable"));
        let program = Program {
            path: programs.join("mmsb"),
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            limit: Duration::from_secs(60),
        };
        let said = program.run(stop);
        if let Some(why) = said.problem {
            return Err(format!("mmsb bench --list: {why}"));
        }
        cases.extend(said.lines);
    }
    Ok(cases)
}

/// The rows that were asked for.
fn chosen(all: Vec<Promise>, only: &[String]) -> Result<Vec<Promise>, String> {
    for wanted in only {
        if !all.iter().any(|p| promise::is_wanted(&p.id, wanted)) {
            return Err(format!(
                "there is no row or group {wanted:?}; --list names them"
            ));
        }
    }
    let is_chosen = |promise: &Promise| {
        only.is_empty()
            || only
                .iter()
                .any(|wanted| promise::is_wanted(&promise.id, wanted))
    };
    Ok(all.into_iter().filter(is_chosen).collect())
}

/// See [`HELP`].
fn exit_code(rows: &[Row], compared: bool) -> u8 {
    let is_missed = |row: &Row| {
        let verdict = row.comparison.as_ref().map(|comparison| comparison.verdict);
        let was_so = matches!(verdict, Some(Verdict::Same | Verdict::Better));
        // A count has no noise: whether it was the same in the baseline does not matter. And what could not be compared
        // is judged by itself.
        row.status == Status::Missed && (row.figures.is_empty() || !compared || !was_so)
    };
    let is_worse = |row: &Row| {
        let verdict = row.comparison.as_ref().map(|comparison| comparison.verdict);
        verdict == Some(Verdict::Worse)
    };
    if rows.iter().any(|row| is_missed(row) || is_worse(row)) {
        return 1;
    }
    if rows.iter().any(|row| row.status == Status::Failed) {
        return 3;
    }
    0
}

fn save(path: &Path, run: &Run) -> Result<(), String> {
    let about = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = serde_json::to_string_pretty(run).map_err(|error| error.to_string())?;
    // Aside first: a file that is half a baseline is none.
    let aside = path.with_extension("json.new");
    std::fs::write(&aside, text + "\n").map_err(about)?;
    std::fs::rename(&aside, path).map_err(about)
}

fn print(text: &str) {
    // Whoever closed standard output does not want it.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn validate(args: &Args) -> Result<u8, String> {
    let stop = Stop::on_signals().map_err(|error| error.to_string())?;
    let programs = match &args.programs {
        Some(dir) => dir.clone(),
        None => {
            let exe = std::env::current_exe().map_err(|error| error.to_string())?;
            exe.parent().map(Path::to_owned).unwrap_or_default()
        }
    };
    let lengths = match args.quick {
        true => Lengths {
            soak: 10,
            divergence: 2,
        },
        false => Lengths {
            soak: 60,
            divergence: 5,
        },
    };
    let cases = cases(&programs, &stop)?;
    let promises = chosen(promise::promises(&cases, lengths), &args.only)?;
    let wanted = Wanted::by(&promises, &cases);
    if args.needs {
        print(&(wanted.needs() + "\n"));
        return Ok(0);
    }
    if args.list {
        if args.json {
            for promise in &promises {
                let row = json!({"id": promise.id, "promise": promise.text, "target": promise.target,
                                 "command": promise.command,
                                 "built": promise.source != Source::NotBuilt});
                print(&format!("{row}\n"));
            }
        } else {
            print(&report::list(&promises));
        }
        return Ok(0);
    }
    let default = || args.root.join("benches/baseline.json");
    // Ahead of ten minutes of measuring.
    let baseline = match args.compare {
        true => Some(
            Run::load(&args.baseline.clone().unwrap_or_else(default))
                .map_err(|why| format!("{why}; `scripts/validate --save FILE` makes a baseline"))?,
        ),
        false => None,
    };
    let disk = match &args.disk {
        Some(disk) => disk.clone(),
        None => programs.join("../tmp"),
    };
    std::fs::create_dir_all(&disk).map_err(|error| format!("{}: {error}", disk.display()))?;
    let machine = Machine::this(&disk);
    let bench = Bench {
        args,
        programs,
        disk,
        lengths,
        rounds: match (args.rounds, args.quick) {
            (Some(rounds), _) => usize::from(rounds),
            (None, true) => 1,
            (None, false) => ROUNDS,
        },
        stop: &stop,
        begin: Instant::now(),
    };
    let measured = bench.measure(&wanted);
    bench.says("done");
    let mut run = Run {
        format: FORMAT,
        date: machine::now(),
        commit: machine::commit(&args.root),
        quick: args.quick,
        rounds: bench.rounds,
        machine,
        rows: promises
            .iter()
            .map(|promise| measured.row(promise))
            .collect(),
    };
    if let Some(baseline) = &baseline {
        run.compare_with(baseline);
    }
    if args.json {
        let mut value = serde_json::to_value(&run).map_err(|error| error.to_string())?;
        value["summary"] = json!(report::Summary::of(&run.rows));
        let text = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
        print(&(text + "\n"));
    } else {
        print(&report::text(&run, baseline.is_some()));
    }
    if stop.is_requested() {
        return Ok(130);
    }
    if let Some(path) = &args.save {
        save(path, &run)?;
        eprintln!("saved to {}", path.display());
    }
    Ok(exit_code(&run.rows, baseline.is_some()))
}

fn main() -> ExitCode {
    match validate(&Args::parse()) {
        Ok(code) => code.into(),
        Err(why) => {
            eprintln!("validate: {why}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Comparison;
    use crate::figure::{Better, Figure, Spread};

    fn row(status: Status, has_figure: bool, verdict: Option<Verdict>) -> Row {
        let figure = Figure {
            name: "p50_ns".to_owned(),
            better: Better::Less,
            measured: Spread::of(&[1.0]).unwrap(),
            by_floor: None,
        };
        Row {
            id: "bus/x".to_owned(),
            promise: String::new(),
            status,
            measured: String::new(),
            target: String::new(),
            command: String::new(),
            note: None,
            figures: has_figure.then_some(figure).into_iter().collect(),
            comparison: verdict.map(|verdict| Comparison {
                verdict,
                worse_by: None,
                noise: None,
                by_floor: false,
                why: None,
            }),
        }
    }

    #[test]
    fn exit_codes_are_as_the_help_says() {
        let kept = || row(Status::Kept, true, None);
        let code = |with: Row, compared| exit_code(&[kept(), with], compared);
        assert_eq!(code(kept(), false), 0);
        assert_eq!(code(row(Status::NotBuilt, false, None), false), 0);
        assert_eq!(code(row(Status::Missing, false, None), false), 0);
        assert_eq!(code(row(Status::Missed, true, None), false), 1);
        assert_eq!(code(row(Status::Failed, false, None), false), 3);
        // As it was in the baseline.
        let same = row(Status::Missed, true, Some(Verdict::Same));
        assert_eq!(code(same, true), 0);
        assert_eq!(code(row(Status::Missed, false, None), true), 1);
        assert_eq!(code(row(Status::Kept, true, Some(Verdict::Worse)), true), 1);
        let missed = row(Status::Missed, true, None);
        let failed = row(Status::Failed, false, None);
        assert_eq!(exit_code(&[missed, failed], false), 1);
    }

    #[test]
    fn only_what_is_asked_for_is_run() {
        let cases = [
            json!({"case": "commit", "bytes": 8, "durable": false, "what": "", "target": ""}),
            json!({"case": "commit", "bytes": 64, "durable": false, "what": "", "target": ""}),
            json!({"case": "replay", "bytes": 1024, "durable": true, "what": "", "target": ""}),
        ];
        let lengths = Lengths {
            soak: 1,
            divergence: 1,
        };
        let wanted = |only: &str| {
            let all = promise::promises(&cases, lengths);
            Wanted::by(&chosen(all, &[only.to_owned()]).unwrap(), &cases)
        };
        assert!(wanted("durable").once.is_empty());
        let commit = wanted("classic/deltas_single");
        assert_eq!(commit.cases[0].len(), 1);
        assert!(commit.cases[1].is_empty() && commit.tools.is_empty());
        assert_eq!(commit.needs(), "");
        assert_eq!(wanted("durable").cases[1].len(), 1);
        assert_eq!(wanted("soak").needs(), "tests");
        assert_eq!(wanted("languages").needs(), "languages");
        assert_eq!(wanted("later").needs(), "");
        let all = promise::promises(&cases, lengths);
        assert!(
            chosen(all, &["frob".to_owned()])
                .unwrap_err()
                .contains("frob")
        );
    }

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        let parse = |words: &[&str]| Args::try_parse_from([&["validate"], words].concat());
        assert!(parse(&["--baseline", "x"]).is_err());
        assert!(parse(&["--list", "--save", "x"]).is_err());
        assert!(parse(&["--rounds", "0"]).is_err());
        assert!(parse(&["--quick", "--only", "bus", "--only", "soak"]).is_ok());
    }
}
