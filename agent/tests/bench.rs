//! `mmsb bench` from outside: what it prints, that it checks, and that it leaves nothing behind. What it measures in a
//! build for tests, on a machine with other things to do, means nothing and is not looked at.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn bench(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mmsb"));
    command
        .arg("--dir")
        .arg(dir)
        .args(["bench", "--quick"])
        .args(arguments);
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    bench(dir, arguments).output().unwrap()
}

fn has_two_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() >= 2)
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

fn rows(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Runs cases that must be right, and looks at their lines.
fn check(cases: &[&str], lines: usize) -> Vec<Value> {
    check_with(&[], cases, lines)
}

/// As [`check`], for cases that have to do with the disk.
fn check_durable(cases: &[&str], lines: usize) -> Vec<Value> {
    // On a real file system: a tmpfs has no O_DIRECT.
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = disk.path().to_str().unwrap();
    let rows = check_with(&["--durable", "--disk", path], cases, lines);
    assert!(is_empty(disk.path()), "something was left on the disk");
    rows
}

fn check_with(more: &[&str], cases: &[&str], lines: usize) -> Vec<Value> {
    if !has_two_cores() {
        eprintln!("skipped: one core");
        return Vec::new();
    }
    let dir = directory();
    let mut arguments = vec!["--json"];
    arguments.extend(more);
    for case in cases {
        arguments.extend(["--case", case]);
    }
    let output = run(dir.path(), &arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let rows = rows(&output);
    assert_eq!(rows.len(), lines, "{rows:?}");
    for row in &rows {
        assert!(cases.contains(&row["case"].as_str().unwrap()), "{row}");
        for name in ["bytes", "p50_ns", "p99_ns", "p999_ns", "per_second"] {
            assert!(row[name].is_number(), "{name} in {row}");
        }
        let quantile = |name: &str| row[name].as_f64().unwrap();
        assert!(quantile("p50_ns") <= quantile("p99_ns"), "{row}");
        assert!(quantile("p99_ns") <= quantile("p999_ns"), "{row}");
        assert!(quantile("per_second") > 0.0, "{row}");
        assert!(row["ratio_to_floor"].is_number(), "{row}");
        assert!(row["floor_ns"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["target"].is_string(), "{row}");
        for by in row["judged_by"].as_array().unwrap() {
            let name = by["figure"].as_str().unwrap();
            assert!(row[name].is_number(), "{name} in {row}");
        }
    }
    assert!(is_empty(dir.path()), "something was left behind");
    rows
}

#[test]
fn cases_of_one_process() {
    check(&["read", "commit", "commit_leased", "commit_batch"], 5);
    check(&["alloc_free", "loan_publish", "snapshot", "sparse"], 4);
}

#[test]
fn cases_from_one_process_to_another() {
    let rows = check(&["one_way_page", "one_way_ring", "one_way_ring_leased"], 4);
    for row in &rows {
        let round_trip = row["round_trip_p50_ns"].as_f64().unwrap();
        assert!(row["p50_ns"].as_f64().unwrap() < round_trip, "{row}");
        assert!(row["both_ways_p50_ns"].as_f64().unwrap() > 0.0, "{row}");
    }
    check(&["one_way_large", "wake", "subscribe_throughput"], 3);
    for row in check(&["tick"], 1) {
        has_numbers(&row, &["deltas", "deltas_per_second", "round_trip_p50_ns"]);
    }
}

#[test]
fn cases_of_two_processes_at_once() {
    for row in check(&["contended_page", "contended_cell"], 3) {
        for name in [
            "reads_per_second",
            "writes_per_second",
            "reads_if_newer_per_second",
        ] {
            assert!(row[name].as_f64().unwrap() > 0.0, "{name} in {row}");
        }
    }
    check(&["two_writers"], 1);
}

#[test]
fn a_page_is_taken_over_from_the_dead() {
    for row in check(&["takeover"], 1) {
        assert!(row["recoveries"].as_u64().unwrap() > 0, "{row}");
    }
}

fn has_numbers(row: &Value, names: &[&str]) {
    for name in names {
        assert!(row[name].is_number(), "{name} in {row}");
    }
}

#[test]
fn synced_commits_are_in_the_log() {
    let rows = check_durable(&["synced"], 3);
    let writers: Vec<u64> = rows
        .iter()
        .map(|row| row["writers"].as_u64().unwrap())
        .collect();
    assert!(writers.is_empty() || writers == [1, 8, 64], "{writers:?}");
    for row in &rows {
        has_numbers(row, &["commits_per_write", "log_write_mean_ns"]);
        // One writer is compared with a write, several with what shares them.
        match row["writers"].as_u64() {
            Some(1) => has_numbers(row, &["floor_pwritev2_ns"]),
            _ => has_numbers(row, &["floor_per_second", "write_ns"]),
        }
        assert!(row["meets_target"].is_boolean(), "{row}");
    }
}

#[test]
fn buffered_commits_are_in_the_log() {
    for row in check_durable(&["buffered"], 2) {
        has_numbers(
            &row,
            &[
                "bytes_per_second",
                "disk_bytes_per_second",
                "waits",
                "paced_waits",
            ],
        );
    }
    for row in check_durable(&["log_bytes", "attached_cost"], 2) {
        if row["case"] == "log_bytes" {
            // Two slots, and a share of the header of a block.
            let each = row["log_bytes_each"].as_f64().unwrap();
            assert!(each >= 128.0, "{row}");
        }
    }
}

#[test]
fn logs_are_replayed_and_buses_come_back() {
    for row in check_durable(&["replay"], 2) {
        has_numbers(&row, &["bytes_per_second", "log_bytes_per_second"]);
    }
    for row in check_durable(&["checkpoint", "restart"], 2) {
        has_numbers(&row, &["bytes_per_second", "file_bytes"]);
        if row["case"] == "checkpoint" {
            has_numbers(&row, &["writer_p99_ratio", "disk_bytes_per_second"]);
        }
    }
}

#[test]
fn causes_are_found_in_a_log() {
    for row in check_durable(&["provenance"], 1) {
        has_numbers(
            &row,
            &[
                "depth",
                "deltas",
                "first_ns",
                "by_page_ns",
                "log_file_bytes",
            ],
        );
        assert_eq!(row["depth"], 32, "{row}");
    }
}

#[test]
fn cases_are_listed_without_being_run() {
    let dir = directory();
    let nowhere = dir.path().join("nowhere");
    for durable in [false, true] {
        let mut arguments = vec!["--list", "--json"];
        arguments.extend(durable.then_some("--durable"));
        let output = run(&nowhere, &arguments);
        assert!(output.status.success(), "{output:?}");
        let rows = rows(&output);
        assert!(rows.len() > 8, "{rows:?}");
        for row in rows {
            assert_eq!(row["durable"], durable, "{row}");
            assert!(
                row["target"].is_string() && row["what"].is_string(),
                "{row}"
            );
            let judged = row["judged_by"].as_array().unwrap();
            assert!(!judged.is_empty(), "{row}");
            for by in judged {
                assert!(by["figure"].is_string(), "{row}");
                assert!(by["better"] == "less" || by["better"] == "more", "{row}");
            }
        }
    }
    let table = run(&nowhere, &["--list"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("<= 18 ns"));
}

#[test]
fn a_log_in_memory_is_no_log() {
    let dir = directory();
    let output = bench(dir.path(), &["--durable"])
        .current_dir("/dev/shm")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("tmpfs") && errors.contains("--disk"),
        "{errors}"
    );
}

#[test]
fn people_get_a_table_with_targets() {
    if !has_two_cores() {
        eprintln!("skipped: one core");
        return;
    }
    let dir = directory();
    let output = run(dir.path(), &["--case", "commit_leased"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for word in ["target", "x floor", "commit_leased", "<= 18 ns"] {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

#[test]
fn what_goes_wrong_is_said_and_ends_with_1() {
    if !has_two_cores() {
        eprintln!("skipped: one core");
        return;
    }
    let dir = directory();
    let nowhere = dir.path().join("nowhere");
    let output = run(&nowhere, &["--json", "--case", "read", "--case", "wake"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let rows = rows(&output);
    assert_eq!(rows.len(), 2, "the second is tried as well");
    for row in rows {
        assert!(
            row["failed"].is_string() && row.get("p50_ns").is_none(),
            "{row}"
        );
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("read (64 B): "), "{errors}");
}

#[test]
fn a_case_that_there_is_not_is_a_usage_error() {
    let dir = directory();
    let output = run(dir.path(), &["--case", "frobnicate"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("frobnicate"));
}

#[test]
fn an_interrupted_bench_removes_its_bus_and_ends_its_processes() {
    if !has_two_cores() {
        eprintln!("skipped: one core");
        return;
    }
    let dir = directory();
    let mut child = bench(dir.path(), &["--case", "two_writers", "--case", "takeover"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while is_empty(dir.path()) {
        assert!(Instant::now() < deadline, "no bus was made");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    // Its processes have inherited this pipe: it ends when all of them have.
    let mut said = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        said.push(line.unwrap());
    }
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{said:?}");
    assert!(
        said.iter().any(|line| line.contains("interrupted")),
        "{said:?}"
    );
    assert!(is_empty(dir.path()), "a bus was left behind");
}
