//! Programs of other languages in tests: finding what runs them, building what they need, and what it means when a
//! machine has no such thing.
//!
//! A test whose language is missing says `skipped: no julia` and passes. With [`REQUIRE`] set, as continuous integration
//! does, it fails instead: there, a language that nobody tests is a mistake.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The environment variable that turns a skipped test into a failed one: set, and neither empty nor `0`.
pub const REQUIRE: &str = "MMSB_REQUIRE_FOREIGN";

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package is in the workspace's folder")
}

/// Whether the program is in the search path.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| {
        let file = dir.join(program);
        file.is_file() && rustix::fs::access(&file, rustix::fs::Access::EXEC_OK).is_ok()
    })
}

/// Whether a test that needs this program can run; if not, says that it is skipped.
///
/// # Panics
/// When it cannot, and [`REQUIRE`] is set.
pub fn can_run(program: &str) -> bool {
    if has(program) {
        return true;
    }
    skip(&format!("no {program}"));
    false
}

/// Says that the test is skipped, and why.
///
/// # Panics
/// When [`REQUIRE`] is set.
pub fn skip(why: &str) {
    let required = std::env::var_os(REQUIRE).is_some_and(|value| !value.is_empty() && value != "0");
    assert!(!required, "{why}, and {REQUIRE} is set");
    say(&format!("skipped: {why}"));
}

/// Writes a line to standard error past the test runner's capturing: what a run measured is to be seen when it passed.
pub fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit status; `None`: it had to be killed.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Its exit code, if it ended by itself.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// It must have ended with success.
    ///
    /// # Panics
    /// When it has not; the message has all that it said.
    #[track_caller]
    pub fn succeeded(self) -> Said {
        assert_eq!(self.code(), Some(0), "{self}");
        self
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => writeln!(f, "{status}")?,
            None => writeln!(f, "killed: it had not ended in time")?,
        }
        write!(f, "stdout:\n{}\nstderr:\n{}", self.out, self.err)
    }
}

/// Runs a program to its end, or kills it after `limit`, with everything it started.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Said {
    run_on(command, None, limit)
}

/// As [`run`], on this processor only, if one is given.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn run_on(command: &mut Command, processor: Option<usize>, limit: Duration) -> Said {
    let (out, err) = (scratch(), scratch());
    let file = |file: &File| Stdio::from(file.try_clone().expect("a descriptor"));
    // Into files: a program that leaves a child behind keeps a pipe open, and we would wait for its end.
    let child = command
        .stdin(Stdio::null())
        .stdout(file(&out))
        .stderr(file(&err))
        .process_group(0)
        .spawn();
    let mut child =
        child.unwrap_or_else(|e| panic!("{}: {e}", command.get_program().to_string_lossy()));
    let group = Pid::from_raw(child.id().cast_signed());
    if let Some(processor) = processor {
        pin(group, &[processor]);
    }
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    let status = loop {
        match child.try_wait().expect("a child of ours") {
            Some(status) => break Some(status),
            None if Instant::now() >= end => {
                let _ = killpg(group, Signal::SIGKILL);
                let _ = child.wait();
                break None;
            }
            None => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(10));
    };
    Said {
        status,
        out: content(out),
        err: content(err),
    }
}

/// The processors that this process may use.
pub fn processors() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|n| set.is_set(*n).unwrap_or(false))
        .collect()
}

/// Keeps a process on these processors, where the kernel lets us: it is a matter of how much a test sees, not of what.
pub fn pin(pid: Pid, processors: &[usize]) {
    let mut set = CpuSet::new();
    for processor in processors {
        let _ = set.set(*processor);
    }
    let _ = sched_setaffinity(pid, &set);
}

fn scratch() -> File {
    tempfile::tempfile().expect("a temporary file")
}

fn content(mut file: File) -> String {
    use std::io::Seek as _;
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .expect("to read what was written");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A file that `cargo build` made.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The crate's target it belongs to.
    pub target: String,
    /// The file.
    pub path: PathBuf,
}

/// Builds a package of this workspace in the profile that the tests were built in, and lists the files of it and of
/// what it depends on. Quick when there is nothing to do.
///
/// `cargo test` builds the programs of packages with tests of their own only; other programs are built by whoever runs
/// them.
///
/// # Panics
/// When it does not build.
pub fn build(package: &str) -> Vec<Artifact> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["build", "--package", package, "--message-format", "json"]);
    if let Some(profile) = profile() {
        command.args(["--profile", profile]);
    }
    // Those that cargo sets for a test of this package make build scripts of others believe that something has changed.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let said = run(&mut command, Duration::from_secs(900));
    assert_eq!(
        said.code(),
        Some(0),
        "{package} does not build:\n{}",
        said.err
    );
    let mut artifacts = Vec::new();
    for line in said.out.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        if message["reason"] != "compiler-artifact" {
            continue;
        }
        let target = message["target"]["name"].as_str().unwrap_or_default();
        for file in message["filenames"].as_array().into_iter().flatten() {
            artifacts.push(Artifact {
                target: target.to_owned(),
                path: file.as_str().unwrap_or_default().into(),
            });
        }
    }
    artifacts
}

/// The file of that target with that extension (none: a program).
///
/// # Panics
/// When there is none.
#[track_caller]
pub fn artifact(artifacts: &[Artifact], target: &str, extension: &str) -> PathBuf {
    let has_it = |artifact: &&Artifact| {
        artifact.target == target
            && artifact
                .path
                .extension()
                .and_then(OsStr::to_str)
                .unwrap_or_default()
                == extension
    };
    let found = artifacts.iter().find(has_it);
    let found = found.unwrap_or_else(|| panic!("no {target} with {extension:?}: {artifacts:?}"));
    found.path.clone()
}

/// A program of another package of this workspace: as `cargo test --workspace` built it, or built now.
///
/// # Panics
/// When it does not build.
#[track_caller]
pub fn program(name: &str, package: &str) -> PathBuf {
    let made = build_dir().join(name);
    if made.is_file() {
        return made;
    }
    artifact(&build(package), name, "")
}

/// The folder that has `libmmsb.so` and `libmmsb.a`: as `cargo build --workspace` made them, or built now if they are not
/// there, or older than the sources.
///
/// # Panics
/// When they do not build.
#[track_caller]
pub fn library() -> PathBuf {
    let newest = ["mmsb-shm/src", "libmmsb/src", "libmmsb/capi/src"]
        .iter()
        .filter_map(|folder| newest_in(&root().join(folder)))
        .max();
    let is_current = |path: PathBuf| {
        let made = path.metadata().and_then(|about| about.modified());
        made.is_ok_and(|made| Some(made) > newest)
    };
    let made = build_dir();
    if ["libmmsb.so", "libmmsb.a"]
        .iter()
        .all(|name| is_current(made.join(name)))
    {
        return made;
    }
    let built = artifact(&build("libmmsb-c"), "mmsb", "so");
    built.parent().expect("a folder").to_owned()
}

/// When a file below a folder was changed last.
fn newest_in(folder: &Path) -> Option<std::time::SystemTime> {
    let entries = std::fs::read_dir(folder).ok()?;
    let times = entries.flatten().filter_map(|entry| {
        let about = entry.metadata().ok()?;
        if about.is_dir() {
            return newest_in(&entry.path());
        }
        about.modified().ok()
    });
    times.max()
}

/// The folder of this build: `target/debug`, or what it is called here.
pub fn build_dir() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    let deps = program.parent().expect("a folder");
    // Tests are in `deps`, the programs that they start beside it.
    if deps.ends_with("deps") {
        deps.parent().expect("a folder").to_owned()
    } else {
        deps.to_owned()
    }
}

/// The profile to ask cargo for to get the same build; `None` for the default one.
fn profile() -> Option<&'static str> {
    build_dir().ends_with("release").then_some("release")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_search_path_only() {
        assert!(has("sh"));
        assert!(!has("no-such-program-anywhere"));
        assert!(!has("/"));
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_with_its_children() {
        let said = run(
            Command::new("sh").args(["-c", "echo out; echo err >&2; sleep 600 & sleep 600"]),
            Duration::from_millis(300),
        );
        assert!(said.status.is_none());
        assert_eq!((said.out.as_str(), said.err.as_str()), ("out\n", "err\n"));
        let said = run(
            Command::new("sh").args(["-c", "exit 3"]),
            Duration::from_secs(20),
        );
        assert_eq!(said.code(), Some(3));
    }
}
