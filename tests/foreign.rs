//! The suites of the other languages, as tests: each a script that says nothing when it is content, and what is wrong
//! when it is not. They can be run by hand; here they only are never forgotten.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mmsb_tests::foreign::{self, can_run, root, say};

/// The slowest compiles many programs, with sanitizers, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(1200);

/// Runs a script of the repository, if the machine has these programs, with the arguments that `arguments` makes of the path
/// of our command `mmsb`, which makes the buses.
fn suite(script: &str, needs: &[&str], arguments: impl FnOnce(&Path) -> Vec<std::path::PathBuf>) {
    if !needs.iter().all(|program| can_run(program)) {
        return;
    }
    let mmsb = foreign::program("mmsb", "mmsb-agent");
    let begin = Instant::now();
    let mut command = Command::new("bash");
    command
        .arg(root().join(script))
        .args(arguments(&mmsb))
        .current_dir(root())
        .env("MMSB_BIN", &mmsb);
    let said = foreign::run(&mut command, LIMIT);
    assert_eq!(said.code(), Some(0), "{script}: {said}");
    let last = said.out.lines().last().unwrap_or_default();
    say(&format!(
        "{script}: {:.1} s, {last}",
        begin.elapsed().as_secs_f64()
    ));
}

#[test]
fn the_c_reader_keeps_its_word() {
    suite("tests/c/reader/run.sh", &["gcc", "clang", "g++"], |mmsb| {
        vec![mmsb.into()]
    });
}

#[test]
fn the_c_abi_keeps_its_word() {
    let needs = ["gcc", "clang", "g++", "cmake", "pkg-config"];
    suite("tests/c/abi/run.sh", &needs, |mmsb| {
        vec![foreign::library(), mmsb.into()]
    });
}

#[test]
fn the_python_reader_keeps_its_word() {
    suite("libmmsb/python/tests/run.sh", &["python3"], |mmsb| {
        vec![mmsb.into()]
    });
}

#[test]
fn the_julia_package_keeps_its_word() {
    suite("libmmsb/julia/test/run.sh", &["julia"], |mmsb| {
        vec![mmsb.into(), foreign::library().join("libmmsb.so")]
    });
}
