//! Strangers: programs of other languages that read a live bus, whose writers never pause and are killed all the time.
//! None may ever accept half a value; and each, with its check taken out, must be caught at it, or the test would prove
//! nothing.
//!
//! What a reader must be: see `tests/strangers/`. `cargo test -p mmsb-tests --test strangers` shows what each measured.
//! `MMSB_STRANGERS_READS=N` multiplies the numbers of reads by N / 100.

use std::ffi::OsString;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mmsb_tests::foreign::{self, Said, can_run, root, say};
use mmsb_tests::live::{self, CELL, LOANED, Live, PATCHED, Still};
use mmsb_tests::seed::{Rng, seed};
use mmsb_tests::watchdog;
use serde_json::Value;

/// No single program takes so long.
const LIMIT: Duration = Duration::from_secs(120);

/// One live bus at a time: its writers and its reader want a processor each.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A reader of some language, ready to be started.
struct Stranger {
    language: &'static str,
    command: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    /// A plan is read in so many rounds at least: each costs the start of the program.
    rounds: u64,
    /// The folder of its copy, if it is one.
    _copy: Option<tempfile::TempDir>,
}

/// Takes the check out of a reader: in `file`, on a line with the tag, `old` becomes `new`.
struct Edit {
    file: &'static str,
    old: &'static str,
    new: &'static str,
}

/// The tag of the lines that decide whether a copy is good.
const TAG: &str = "validated:";

const RUST: &[Edit] = &[
    Edit {
        file: "tests/strangers/rust/src/bus.rs",
        old: "now == seen && after == before;",
        new: "now == seen && after == before || true;",
    },
    Edit {
        file: "tests/strangers/rust/src/bus.rs",
        old: "passed <= versions - 2;",
        new: "passed <= versions - 2 || true;",
    },
];

const C: &[Edit] = &[
    Edit {
        file: "libmmsb/include/mmsb_reader.h",
        old: "mmsb_rd_acquire64(page->word) == entry && mmsb_rd_relaxed64(&page->block->seq) == seq;",
        new: "1;",
    },
    Edit {
        file: "libmmsb/include/mmsb_reader.h",
        old: "mmsb_rd_acquire64(page->word) == entry && mmsb_rd_relaxed64(head_at) - head <= most;",
        new: "1;",
    },
];

const PYTHON: &[Edit] = &[
    Edit {
        file: "libmmsb/python/mmsb_reader.py",
        old: "if not seq & 1 and words[entry_at] == entry and words[header_at] == seq:",
        new: "if True:",
    },
    Edit {
        file: "libmmsb/python/mmsb_reader.py",
        old: "if words[entry_at] == entry and words[head_at] - head & _M64 <= versions - 2:",
        new: "if True:",
    },
];

const JULIA: &[Edit] = &[
    Edit {
        file: "libmmsb/julia/src/observer.jl",
        old: "good = there & (word(base, at) - head <= UInt64(versions - 2)) #",
        new: "good = true #",
    },
    Edit {
        file: "libmmsb/julia/src/observer.jl",
        old: "good = there & (word(base, at - BLOCK_HEADER) == seq) #",
        new: "good = true #",
    },
];

/// A copy of what `folders` of the repository hold, with the edits made in it.
fn broken_copy(folders: &[&str], edits: &[Edit]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    for folder in folders {
        copy_tree(&root().join(folder), &copy.path().join(folder));
    }
    for edit in edits {
        let file = copy.path().join(edit.file);
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", edit.file));
        let is_it = |line: &&str| line.contains(edit.old) && line.contains(TAG);
        let found = text.lines().filter(is_it).count();
        assert_eq!(
            found, 1,
            "{}: lines with {TAG:?} and {:?}",
            edit.file, edit.old
        );
        let lines = text.lines().map(|line| match is_it(&line) {
            true => line.replace(edit.old, edit.new),
            false => line.to_owned(),
        });
        let text = lines.collect::<Vec<_>>().join("\n") + "\n";
        std::fs::write(&file, text).expect("to write the copy");
    }
    copy
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    let entries = std::fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    for entry in entries {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// What a reader printed.
#[derive(Debug)]
struct Report {
    value: Value,
    code: Option<i32>,
}

impl Report {
    #[track_caller]
    fn number(&self, name: &str) -> f64 {
        let number = self.value[name].as_f64();
        number.unwrap_or_else(|| panic!("no {name} in {}", self.value))
    }

    fn retries_percent(&self) -> f64 {
        100.0 * self.number("retries") / self.number("reads").max(1.0)
    }

    /// As `line`, of a run that followed the ring.
    fn follow_line(&self) -> String {
        format!(
            "{:>7} {:<9} {:>5} B {:>9} deltas in {:.2} s, {} gaps, {} torn",
            self.value["language"].as_str().unwrap_or("?"),
            self.value["page"].as_str().unwrap_or("?"),
            self.number("bytes"),
            self.number("deltas"),
            self.number("seconds"),
            self.number("gaps"),
            self.number("torn"),
        )
    }

    fn line(&self) -> String {
        format!(
            "{:>7} {:<9} {:>5} B {:>9} reads {:>8.1} ns each, {:>6.2} % retries, {} refused, {} torn",
            self.value["language"].as_str().unwrap_or("?"),
            self.value["page"].as_str().unwrap_or("?"),
            self.number("bytes"),
            self.number("reads"),
            self.number("ns_per_read"),
            self.retries_percent(),
            self.number("refused"),
            self.number("torn"),
        )
    }
}

impl Stranger {
    #[track_caller]
    fn read(&self, bus: &Live, page: &str, reads: u64) -> Report {
        self.start(bus, page, "--reads", reads)
    }

    #[track_caller]
    fn start(&self, bus: &Live, page: &str, what: &str, count: u64) -> Report {
        let said = self.run(bus.name(), page, what, count);
        assert!(
            matches!(said.code(), Some(0 | 1)),
            "{} on {page}: {said}",
            self.language
        );
        let line = said.out.trim();
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {said}"));
        let report = Report {
            value,
            code: said.code(),
        };
        assert_eq!(report.value["language"], self.language);
        assert_eq!(report.value["page"], page);
        // The status and the count say the same.
        assert_eq!(
            report.code == Some(0),
            report.number("torn") == 0.0,
            "{said}"
        );
        report
    }

    #[track_caller]
    fn run(&self, bus: &str, page: &str, what: &str, count: u64) -> Said {
        let [program, arguments @ ..] = self.command.as_slice() else {
            panic!("no program");
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["--dir", live::DIR, "--bus", bus, "--page", page])
            .args([what, &count.to_string()])
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        // The writers have the others.
        let processor = match foreign::processors().as_slice() {
            [first, _, ..] => Some(*first),
            _ => None,
        };
        foreign::run_on(&mut command, processor, LIMIT)
    }
}

fn worker() -> PathBuf {
    env!("CARGO_BIN_EXE_live").into()
}

/// A bus whose writers of `pages` never pause.
fn live(name: &str, bytes: u64, pages: &[&str]) -> Live {
    let rng = Rng::new(seed(name));
    Live::start(&worker(), bytes, pages, Duration::ZERO, rng)
}

/// Numbers of reads, longer or shorter runs by hand.
fn times(reads: u64) -> u64 {
    let percent = std::env::var("MMSB_STRANGERS_READS").map_or(100, |text| {
        text.parse::<u64>()
            .expect("MMSB_STRANGERS_READS is a number")
    });
    (reads * percent / 100).max(1)
}

/// Of the reads of a patched page, so many percent must have been disturbed.
const RETRIES_PERCENT: f64 = 1.0;
/// A page that stays quiet for so long was never a test.
const QUIET_FOR: Duration = Duration::from_secs(90);

/// The reader reads so many values of each page, while that page's writer never pauses.
///
/// A machine that is busy with something else may keep the writer from writing. So a patched page is read in rounds, and
/// rounds in which the reader was hardly disturbed do not count.
fn reads_no_torn_value(stranger: &Stranger, plan: &[(u64, &str, u64)]) {
    let _turn = turn();
    for (bytes, page, reads) in plan {
        let wanted = times(*reads);
        let round = if *page == PATCHED {
            wanted.div_ceil(stranger.rounds)
        } else {
            wanted
        };
        let bus = live(stranger.language, *bytes, &[page]);
        let begin = Instant::now();
        let (mut all, mut counted) = (Sum::default(), Sum::default());
        while counted.reads < wanted as f64 {
            assert!(
                begin.elapsed() < QUIET_FOR,
                "{} {page}: the page was too quiet: {all:?}, of which counted {counted:?}",
                stranger.language
            );
            let report = stranger.read(&bus, page, round);
            assert_eq!(report.number("torn"), 0.0, "{}", report.value);
            assert_eq!(report.number("reads"), round as f64);
            assert_eq!(report.number("bytes"), *bytes as f64);
            all.add(&report);
            if *page != PATCHED || report.retries_percent() >= RETRIES_PERCENT {
                counted.add(&report);
            }
        }
        let outcome = bus.end();
        say(&format!(
            "{:>7} {page:<9} {bytes:>5} B: {counted}; {} of {} reads were not counted",
            stranger.language,
            all.reads - counted.reads,
            all.reads
        ));
        say(&format!("        {outcome}"));
        assert!(outcome.kills > 0 && outcome.values > 0, "{outcome}");
    }
}

/// Reads over several rounds.
#[derive(Debug, Default)]
struct Sum {
    reads: f64,
    retries: f64,
    refused: f64,
    ns: f64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.reads += report.number("reads");
        self.retries += report.number("retries");
        self.refused += report.number("refused");
        self.ns += report.number("reads") * report.number("ns_per_read");
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reads = self.reads.max(1.0);
        write!(
            f,
            "{} reads, {:.1} ns each, {:.2} % retries, {} refused",
            self.reads,
            self.ns / reads,
            100.0 * self.retries / reads,
            self.refused
        )
    }
}

/// So many runs at most, until a reader without its check is caught.
const ROUNDS: u32 = 10;

/// A reader without its check is caught, whatever the page.
fn is_caught(stranger: &Stranger, plan: &[(u64, &str, u64)]) {
    let _turn = turn();
    for (bytes, page, reads) in plan {
        // All three writers: readers are interrupted in their copies more often than they would be otherwise.
        let bus = live(stranger.language, *bytes, &live::PAGES);
        let mut torn = 0.0;
        for _ in 0..ROUNDS {
            let report = stranger.read(&bus, page, times(*reads));
            say(&format!("{}, without its check", report.line()));
            torn += report.number("torn");
            if torn > 0.0 {
                break;
            }
        }
        bus.end();
        assert!(torn > 0.0, "{} {page}: it is not caught", stranger.language);
    }
}

/// The Rust reader; `edits`: of a copy of it.
fn rust(edits: &[Edit]) -> Stranger {
    let made = foreign::build("mmsb-stranger");
    if edits.is_empty() {
        return Stranger {
            language: "rust",
            command: vec![foreign::artifact(&made, "stranger", "").into()],
            environment: Vec::new(),
            rounds: 10,
            _copy: None,
        };
    }
    let copy = broken_copy(&["tests/strangers/rust"], edits);
    let program = copy.path().join("stranger");
    // Not cargo: the copy is in no workspace, and its dependency is built already.
    let library = foreign::artifact(&made, "shared_memory", "rlib");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command
        .args(["--edition", "2024", "-O", "--crate-name", "stranger", "-o"])
        .arg(&program)
        .arg(copy.path().join("tests/strangers/rust/src/main.rs"))
        .arg("--extern")
        .arg(format!("shared_memory={}", library.display()))
        .arg("-L")
        .arg(format!(
            "dependency={}",
            foreign::build_dir().join("deps").display()
        ));
    foreign::run(&mut command, LIMIT).succeeded();
    Stranger {
        language: "rust",
        command: vec![program.into()],
        environment: Vec::new(),
        rounds: 10,
        _copy: Some(copy),
    }
}

/// The C reader, made by this compiler.
fn c(compiler: &str, edits: &[Edit]) -> Stranger {
    let copy = broken_copy(&["tests/strangers", "libmmsb/include"], edits);
    let program = copy.path().join("stranger");
    let mut command = Command::new(compiler);
    command
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-I"])
        .arg(copy.path().join("libmmsb/include"))
        .arg(copy.path().join("tests/strangers/stranger.c"))
        .arg("-o")
        .arg(&program);
    if edits.is_empty() {
        command.args(["-Werror", "-pedantic"]);
    }
    foreign::run(&mut command, LIMIT).succeeded();
    Stranger {
        language: "c",
        command: vec![program.into()],
        environment: Vec::new(),
        rounds: 10,
        _copy: Some(copy),
    }
}

/// The Python reader; `edits`: of a copy of it.
fn python(edits: &[Edit]) -> Stranger {
    let copy = broken_copy(&["tests/strangers", "libmmsb/python"], edits);
    Stranger {
        language: "python",
        command: vec![
            "python3".into(),
            copy.path().join("tests/strangers/stranger.py").into(),
        ],
        environment: Vec::new(),
        rounds: 10,
        _copy: Some(copy),
    }
}

/// The Julia reader; `edits`: of a copy of it.
fn julia(edits: &[Edit]) -> Stranger {
    let script = "tests/strangers/stranger.jl";
    // What is compiled of this tree must not be mixed up with that of another one, which may have the same name and be
    // written just now.
    let depot = foreign::build_dir().join("julia");
    let environment = |depot: PathBuf| vec![("JULIA_DEPOT_PATH", depot.into_os_string())];
    // Debian's julia dies at its first exception unless it is started so.
    let julia = root().join("libmmsb/julia/test/julia.sh");
    let start = |tree: &Path| {
        let program = julia.clone().into_os_string();
        vec![
            program,
            "--startup-file=no".into(),
            tree.join(script).into(),
        ]
    };
    if edits.is_empty() {
        return Stranger {
            language: "julia",
            command: start(root()),
            environment: environment(depot),
            rounds: 4,
            _copy: None,
        };
    }
    let copy = broken_copy(&["tests/strangers", "libmmsb/julia"], edits);
    Stranger {
        language: "julia",
        command: start(copy.path()),
        environment: environment(copy.path().join("depot")),
        rounds: 1,
        _copy: Some(copy),
    }
}

/// The reader follows each page for so many deltas, under writers that never pause: it is overtaken, and begins anew.
///
/// A loaned block is reused soon after the next one was published, and a follower far behind finds nothing of what the
/// ring tells of it. So those writers rest a little after each value.
fn follows_and_sees_no_torn_value(stranger: &Stranger, plan: &[(u64, &str, u64)]) {
    let _turn = turn();
    for (bytes, page, deltas) in plan {
        let pause = Duration::from_millis(if *page == LOANED { 1 } else { 0 });
        let rng = Rng::new(seed(stranger.language));
        let bus = Live::start(&worker(), *bytes, &[page], pause, rng);
        let report = stranger.start(&bus, page, "--follow", times(*deltas));
        let outcome = bus.end();
        assert!(outcome.values > 0, "{outcome}");
        say(&report.follow_line());
        say(&format!("        {outcome}"));
        assert_eq!(report.number("torn"), 0.0, "{}", report.value);
        assert!(report.number("deltas") >= times(*deltas) as f64);
    }
}

/// Enough of the patched page to be sure, and of the others.
const PLAN_NATIVE: &[(u64, &str, u64)] = &[
    (256, PATCHED, 10_000_000),
    (1024, PATCHED, 10_000_000),
    (256, CELL, 5_000_000),
    (1024, LOANED, 10_000_000),
];
const PLAN_NATIVE_BROKEN: &[(u64, &str, u64)] = &[
    (256, PATCHED, 1_000_000),
    (1024, CELL, 2_000_000),
    (1024, LOANED, 2_000_000),
];
const PLAN_FOLLOW: &[(u64, &str, u64)] = &[
    (256, PATCHED, 50_000),
    (256, CELL, 20_000),
    (1024, LOANED, 1_000),
];

/// The same for languages that take a thousand times as long.
const PLAN_PYTHON: &[(u64, &str, u64)] = &[
    (256, PATCHED, 100_000),
    (1024, PATCHED, 30_000),
    (256, CELL, 20_000),
    (1024, LOANED, 50_000),
];
const PLAN_PYTHON_BROKEN: &[(u64, &str, u64)] = &[
    (256, PATCHED, 20_000),
    (1024, CELL, 20_000),
    (1024, LOANED, 20_000),
];
const PLAN_PYTHON_FOLLOW: &[(u64, &str, u64)] = &[
    (256, PATCHED, 5_000),
    (256, CELL, 2_000),
    (1024, LOANED, 300),
];

/// And for one that takes seconds to start.
const PLAN_JULIA: &[(u64, &str, u64)] = &[
    (1024, PATCHED, 1_000_000),
    (256, CELL, 500_000),
    (1024, LOANED, 500_000),
];
const PLAN_JULIA_BROKEN: &[(u64, &str, u64)] = &[
    (1024, PATCHED, 1_000_000),
    (1024, CELL, 1_000_000),
    (1024, LOANED, 1_000_000),
];

/// What may have happened to the object of a bus that nobody writes; each is an error, told in words, and soon.
fn says_what_is_wrong(stranger: &Stranger, flips: u32) {
    let _turn = turn();
    let mut rng = Rng::new(seed(stranger.language));
    let refuses = |said: &Said, what: &str| {
        let language = stranger.language;
        assert_eq!(said.code(), Some(2), "{language}, {what}: {said}");
        assert!(!said.err.trim().is_empty(), "{language}, {what}: {said}");
    };
    let bus = Still::new(256);
    let said = stranger.run(bus.name(), PATCHED, "--reads", 100);
    assert_eq!(said.code(), Some(0), "{}: {said}", stranger.language);
    refuses(
        &stranger.run("no-such-bus", PATCHED, "--reads", 1),
        "no bus",
    );
    refuses(&stranger.run(bus.name(), "s/none", "--reads", 1), "no page");
    refuses(
        &stranger.run(bus.name(), PATCHED, "--reeds", 1),
        "a typing error",
    );
    let path = bus.pages_path();
    let whole = std::fs::read(&path).expect("the object");
    let file = || {
        let file = std::fs::OpenOptions::new().write(true).open(&path);
        file.expect("the object")
    };
    for len in [0, 100, 4096, whole.len() as u64 / 2] {
        file().set_len(len).expect("to cut it");
        refuses(
            &stranger.run(bus.name(), PATCHED, "--reads", 1),
            &format!("cut to {len}"),
        );
    }
    let mend = || file().write_all_at(&whole, 0).expect("to mend it");
    mend();
    // Magic, layout_major, features, state, and the tables' sizes and places, after docs/layout.md.
    for (at, bytes) in [
        (0, 8),
        (8, 4),
        (16, 8),
        (32, 4),
        (80, 4),
        (84, 4),
        (96, 8),
        (104, 8),
        (1024, 8),
    ] {
        file()
            .write_all_at(&vec![0xff; bytes], at)
            .expect("to damage it");
        let said = stranger.run(bus.name(), PATCHED, "--reads", 1);
        // A length that says too much is clamped to the object's.
        if at != 1024 {
            refuses(&said, &format!("{bytes} bytes at {at}"));
        }
        assert!(
            said.code().is_some(),
            "{} at {at}: {said}",
            stranger.language
        );
        mend();
    }
    // Anything, anywhere that a reader looks: it need not notice, but it has to end by itself.
    for _ in 0..flips {
        let place = match rng.below(3) {
            0 => rng.below(4096),
            1 => rng.below(64 << 10),
            _ => whole.len() as u64 - 1 - rng.below(whole.len() as u64 / 2),
        };
        let bit = 1u8 << rng.below(8);
        let byte = whole[place as usize] ^ bit;
        file().write_all_at(&[byte], place).expect("to flip it");
        let page = live::PAGES[rng.below(3) as usize];
        let said = stranger.run(bus.name(), page, "--reads", 100);
        assert!(
            matches!(said.code(), Some(0..=2)),
            "{}, {page}, bit {bit} of byte {place}: {said}",
            stranger.language
        );
        file()
            .write_all_at(&whole[place as usize..][..1], place)
            .expect("to mend it");
    }
}

#[test]
fn strangers_say_what_is_wrong_with_a_bus() {
    let _watchdog = watchdog::start("strangers and damage", Duration::from_secs(300));
    says_what_is_wrong(&rust(&[]), 100);
    if can_run("gcc") {
        says_what_is_wrong(&c("gcc", &[]), 100);
    }
    if can_run("python3") {
        says_what_is_wrong(&python(&[]), 10);
    }
    if can_run("julia") {
        says_what_is_wrong(&julia(&[]), 0);
    }
}

#[test]
fn the_rust_stranger_reads_no_torn_value() {
    let _watchdog = watchdog::start("rust stranger", Duration::from_secs(300));
    reads_no_torn_value(&rust(&[]), PLAN_NATIVE);
}

#[test]
fn the_rust_stranger_without_its_check_is_caught() {
    let _watchdog = watchdog::start("broken rust stranger", Duration::from_secs(300));
    is_caught(&rust(RUST), PLAN_NATIVE_BROKEN);
}

#[test]
fn the_c_stranger_reads_no_torn_value() {
    let _watchdog = watchdog::start("c stranger", Duration::from_secs(300));
    if can_run("gcc") {
        reads_no_torn_value(&c("gcc", &[]), PLAN_NATIVE);
    }
}

#[test]
fn the_c_stranger_by_clang_reads_no_torn_value() {
    let _watchdog = watchdog::start("c stranger by clang", Duration::from_secs(300));
    if can_run("clang") {
        reads_no_torn_value(&c("clang", &[]), PLAN_NATIVE);
    }
}

#[test]
fn the_c_stranger_without_its_check_is_caught() {
    let _watchdog = watchdog::start("broken c stranger", Duration::from_secs(300));
    for compiler in ["gcc", "clang"] {
        if can_run(compiler) {
            is_caught(&c(compiler, C), PLAN_NATIVE_BROKEN);
        }
    }
}

#[test]
fn the_c_stranger_follows_and_sees_no_torn_value() {
    let _watchdog = watchdog::start("following c stranger", Duration::from_secs(300));
    if can_run("gcc") {
        follows_and_sees_no_torn_value(&c("gcc", &[]), PLAN_FOLLOW);
    }
}

#[test]
fn the_python_stranger_reads_no_torn_value() {
    let _watchdog = watchdog::start("python stranger", Duration::from_secs(300));
    if can_run("python3") {
        reads_no_torn_value(&python(&[]), PLAN_PYTHON);
    }
}

#[test]
fn the_python_stranger_without_its_check_is_caught() {
    let _watchdog = watchdog::start("broken python stranger", Duration::from_secs(300));
    if can_run("python3") {
        is_caught(&python(PYTHON), PLAN_PYTHON_BROKEN);
    }
}

#[test]
fn the_python_stranger_follows_and_sees_no_torn_value() {
    let _watchdog = watchdog::start("following python stranger", Duration::from_secs(300));
    if can_run("python3") {
        follows_and_sees_no_torn_value(&python(&[]), PLAN_PYTHON_FOLLOW);
    }
}

#[test]
fn the_julia_stranger_reads_no_torn_value() {
    let _watchdog = watchdog::start("julia stranger", Duration::from_secs(300));
    if can_run("julia") {
        reads_no_torn_value(&julia(&[]), PLAN_JULIA);
    }
}

#[test]
fn the_julia_stranger_without_its_check_is_caught() {
    let _watchdog = watchdog::start("broken julia stranger", Duration::from_secs(300));
    if can_run("julia") {
        is_caught(&julia(JULIA), PLAN_JULIA_BROKEN);
    }
}

#[test]
fn the_julia_stranger_follows_and_sees_no_torn_value() {
    let _watchdog = watchdog::start("following julia stranger", Duration::from_secs(300));
    if can_run("julia") {
        follows_and_sees_no_torn_value(&julia(&[]), PLAN_FOLLOW);
    }
}
