//! The whole program, with programs in place of the real ones that say what they are told to.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A directory with programs that print fixed lines, and a place for logs.
struct Site(tempfile::TempDir);

/// Name, bytes, whether it has a log, target.
type Case = (&'static str, u64, bool, &'static str);

const CASES: [Case; 3] = [
    ("commit", 64, false, "<= 32 ns"),
    ("two_writers", 8, false, ">= 22 M/s"),
    ("replay", 1024, true, ">= 2 GB/s"),
];

impl Site {
    /// Commits take so long, and the soak finds so many violations.
    fn new(commit_ns: f64, violations: u64) -> Site {
        let site = Site(tempfile::tempdir().unwrap());
        site.says(commit_ns, violations);
        site
    }

    fn says(&self, commit_ns: f64, violations: u64) {
        let about = |case: &Case| {
            let (figure, better) = match case.0 {
                "commit" => ("p50_ns", "less"),
                "replay" => ("bytes_per_second", "more"),
                _ => ("per_second", "more"),
            };
            json!({"case": case.0, "bytes": case.1, "durable": case.2, "target": case.3, "what": "it works",
                   "judged_by": [{"figure": figure, "better": better}]})
        };
        let line = |case: &Case| {
            let mut line = about(case);
            let figures = json!({"p50_ns": commit_ns, "per_second": 1e9 / commit_ns, "bytes_per_second": 3e9,
                                 "meets_target": commit_ns <= 32.0});
            let figures = figures.as_object().unwrap().clone();
            line.as_object_mut().unwrap().extend(figures);
            line.to_string()
        };
        let of = |durable: bool, line: &dyn Fn(&Case) -> String| {
            let cases = CASES.iter().filter(|case| case.2 == durable);
            cases.map(line).collect::<Vec<_>>().join("\n")
        };
        let listed = |case: &Case| about(case).to_string();
        let script = format!(
            "case \"$*\" in\n*--list*--durable*) cat <<'E'\n{}\nE\n;;\n*--list*) cat <<'E'\n{}\nE\n;;\n\
             *--durable*) cat <<'E'\n{}\nE\n;;\n*) cat <<'E'\n{}\nE\n;;\nesac",
            of(true, &listed),
            of(false, &listed),
            of(true, &line),
            of(false, &line),
        );
        self.program("mmsb", &script);
        let soak = json!({"seed": "0x1", "kills": 12, "recoveries": 9, "acknowledged": 99, "violations": violations});
        self.program("mmsb-soak", &format!("echo '{soak}'"));
        self.program("divergence", "echo broken >&2; exit 3");
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.0.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn file(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let dir: &Path = self.0.path();
        Command::new(env!("CARGO_BIN_EXE_mmsb-validate"))
            .args(["--programs".as_ref(), dir.as_os_str()])
            .args(["--root".as_ref(), dir.as_os_str()])
            .args(["--disk".as_ref(), dir.join("disk").as_os_str()])
            .args(arguments)
            .output()
            .unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn rows_are_listed_with_the_targets_of_the_cases() {
    let output = Site::new(20.0, 0).run(&["--list"]);
    let text = text(&output);
    assert!(output.status.success(), "{}", errors(&output));
    for word in [
        "bus/commit/64",
        "<= 32 ns",
        "classic/deltas_single",
        "soak/kill",
        "not built yet",
    ] {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

#[test]
fn what_is_kept_and_what_is_missed_stands_in_one_table() {
    let site = Site::new(20.0, 0);
    let output = site.run(&["--only", "bus", "--only", "soak/kill", "--only", "later"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let text = text(&output);
    assert!(text.contains("✓  commit, 64 B: it works"), "{text}");
    assert!(text.contains("0 violations, 12 kills"), "{text}");
    assert!(text.contains("3 kept, 0 missed, 0 failed"), "{text}");
    site.says(50.0, 1);
    let output = site.run(&["--only", "bus", "--only", "soak/kill"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("soak/kill: seed 0x1"));
}

#[test]
fn one_that_fails_does_not_keep_the_others_from_being_measured() {
    let site = Site::new(20.0, 0);
    let only = ["--only", "classic/divergence", "--only", "classic/replay"];
    let output = site.run(&[&only[..], &["--json", "--rounds", "2"]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |id: &str| {
        let mut rows = run["rows"].as_array().unwrap().iter();
        rows.find(|row| row["id"] == id).unwrap().clone()
    };
    let failed = row("classic/divergence");
    assert_eq!(failed["status"], "failed");
    assert!(
        failed["note"].as_str().unwrap().contains("broken"),
        "{failed}"
    );
    let replay = row("classic/replay");
    assert_eq!(replay["status"], "kept");
    assert_eq!(replay["figures"][0]["median"], 3e9);
    assert_eq!(replay["figures"][0]["rounds"], 2);
    assert_eq!(run["summary"]["failed"], 1);
    assert!(run["machine"]["cores"].as_u64().unwrap() > 0);
}

#[test]
fn a_regression_is_found_against_what_was_saved() {
    let site = Site::new(20.0, 0);
    let baseline = site.file("baseline.json");
    let rounds = ["--only", "bus", "--rounds", "3"];
    let output = site.run(&[&rounds[..], &["--save", &baseline]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let compare = [&rounds[..], &["--compare", "--baseline", &baseline]].concat();
    let output = site.run(&compare);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(text(&output).contains("0 worse than the baseline"));
    site.says(25.0, 0);
    let output = site.run(&compare);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("25 % WORSE (noise 6 %)"));
    // Of another machine.
    let saved = std::fs::read_to_string(&baseline).unwrap();
    let mut other: Value = serde_json::from_str(&saved).unwrap();
    other["machine"]["cpu"] = json!("Abacus");
    std::fs::write(&baseline, other.to_string()).unwrap();
    let output = site.run(&compare);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(
        text(&output).contains("cores of Abacus"),
        "{}",
        text(&output)
    );
}

#[test]
fn what_is_not_there_is_a_usage_error() {
    let site = Site::new(20.0, 0);
    let output = site.run(&["--only", "frobnicate"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("frobnicate"));
    let output = site.run(&["--compare"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("--save"), "{}", errors(&output));
}
