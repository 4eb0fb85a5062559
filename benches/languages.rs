//! What reading and writing cost from other languages, beside Rust, in one run: `scripts/languages` builds the programs
//! and runs this. Lines of `case nanoseconds` come from each program, in turns with the Rust loops here; the table shows
//! medians. With `--json` a line of JSON for each case, with the least and the greatest.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use mmsb::{Bus, PageSpec, schema::Schema};
use serde_json::json;

/// Turns of the compiled programs.
const ROUNDS: usize = 9;
/// Turns of those that take long to start.
const SLOW_ROUNDS: usize = 3;

/// The languages beside Rust, and where `scripts/languages` says what runs each: first the compiled ones.
const PROGRAMS: [(&str, &str); 4] = [
    ("c-header", "MMSB_C_READER"),
    ("c", "MMSB_C_ABI"),
    ("julia", "MMSB_JULIA"),
    ("python", "MMSB_PYTHON"),
];

type Samples = BTreeMap<(&'static str, String), Vec<f64>>;

fn time(n: u32, mut f: impl FnMut()) -> f64 {
    for _ in 0..n / 10 {
        f();
    }
    let begin = Instant::now();
    for _ in 0..n {
        f();
    }
    begin.elapsed().as_nanos() as f64 / f64::from(n)
}

/// The same loops as in the other languages.
fn rust(dir: &Path, samples: &mut Samples) -> mmsb::Result<()> {
    let bus = Bus::builder("languages").dir(dir).source("rust").attach()?;
    let observer = Bus::builder("languages").dir(dir).observe()?;
    let mut add = |case: &str, ns| samples.entry(("rust", case.into())).or_default().push(ns);
    for (case, name, n) in [
        ("read_64", "read/64", 2_000_000),
        ("read_1024", "read/1024", 500_000),
    ] {
        let page = bus.page(name)?;
        let mut to = vec![0u8; page.size()];
        let ns = time(n, || {
            black_box(page.read_into(black_box(&mut to))).expect("nobody writes");
        });
        add(case, ns);
        let page = observer.page(name)?;
        let ns = time(n, || {
            black_box(page.read_into(black_box(&mut to))).expect("nobody writes");
        });
        add(&format!("observe{}", &case[4..]), ns);
    }
    let page = bus.page("commit/64")?;
    let bytes = [7u8; 64];
    let ns = time(1_000_000, || {
        black_box(page.patch(0, black_box(&bytes))).expect("a commit");
    });
    add("commit_64", ns);
    Ok(())
}

/// What a program says, a line for each case.
fn program(
    language: &'static str,
    mut command: Command,
    samples: &mut Samples,
) -> Result<(), String> {
    let done = command.output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&done.stdout);
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{}: {}", done.status, why.trim()));
    }
    for line in said.lines() {
        let mut words = line.split_whitespace();
        if let (Some(case), Some(Ok(ns))) = (words.next(), words.next().map(str::parse)) {
            let of = samples.entry((language, case.to_owned())).or_default();
            of.push(ns);
        }
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tmp = tempfile::tempdir_in("/dev/shm")?;
    let bus = Bus::builder("languages").dir(tmp.path()).create()?;
    for (name, words) in [("read/64", 8), ("read/1024", 128), ("commit/64", 8)] {
        let schema = Schema::parse(&format!("u64[{words}]"))?;
        bus.create_page(PageSpec::with_schema(&schema).name(name))?;
    }
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("languages");
    let mut samples = Samples::new();
    let mut problems = Vec::new();
    for round in 0..ROUNDS {
        rust(tmp.path(), &mut samples)?;
        let mut all: Vec<(&'static str, Command)> = Vec::new();
        for (language, variable) in &PROGRAMS[..2] {
            all.extend(env(variable).map(|program| (*language, Command::new(program))));
        }
        if round < SLOW_ROUNDS {
            for ((language, variable), script) in PROGRAMS[2..].iter().zip(["bench.jl", "bench.py"])
            {
                all.extend(env(variable).map(|program| {
                    let mut command = Command::new(program);
                    command.arg(root.join(script));
                    (*language, command)
                }));
            }
        }
        for (language, mut command) in all {
            command.arg(tmp.path()).arg("languages");
            if let Err(e) = program(language, command, &mut samples)
                && !problems.contains(&(language, e.clone()))
            {
                problems.push((language, e));
            }
        }
    }
    let medians: BTreeMap<_, f64> = samples
        .iter_mut()
        .map(|(k, v)| (k.clone(), median(v)))
        .collect();
    if std::env::args().any(|argument| argument == "--json") {
        print_json(&samples, &medians);
        for (language, variable) in PROGRAMS {
            if env(variable).is_none() {
                println!("{}", json!({"language": language, "missing": true}));
            }
        }
        for (language, problem) in &problems {
            println!("{}", json!({"language": language, "failed": problem}));
        }
    } else {
        print_table(&medians);
    }
    for (language, problem) in &problems {
        eprintln!("{language}: {problem}");
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err("some programs failed".into())
    }
}

type Medians = BTreeMap<(&'static str, String), f64>;

fn rust_of(medians: &Medians, case: &str) -> Option<f64> {
    medians.get(&("rust", case.to_owned())).copied()
}

/// A line for each case.
fn print_json(samples: &Samples, medians: &Medians) {
    for ((language, case), ns) in medians {
        // Sorted when the median was taken.
        let all = samples.get(&(*language, case.clone()));
        let all = all.map(Vec::as_slice).unwrap_or_default();
        let mut row = json!({"language": language, "case": case, "ns": ns,
                             "min_ns": all.first(), "max_ns": all.last(), "rounds": all.len()});
        if let Some(rust) = rust_of(medians, case) {
            row["rust_ns"] = json!(rust);
            row["times_rust"] = json!(ns / rust);
            row["over_rust_ns"] = json!(ns - rust);
        }
        println!("{row}");
    }
}

fn print_table(medians: &Medians) {
    println!(
        "{:10} {:16} {:>12} {:>10} {:>12}",
        "language", "case", "ns", "x rust", "ns over it"
    );
    for ((language, case), ns) in medians {
        let rust = rust_of(medians, case).unwrap_or(*ns);
        println!(
            "{language:10} {case:16} {ns:12.1} {:10.2} {:12.1}",
            ns / rust,
            ns - rust
        );
    }
}
