//! Runs the programs that measure: with a limit, and ended with this one.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// How long a program that is told to end may clean up.
const GRACE: Duration = Duration::from_secs(5);

/// Whether somebody wants an end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes SIGINT, SIGTERM and SIGHUP from now on; the second ends this process at once.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn on_signals() -> std::io::Result<Stop> {
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop.0))?;
            signal_hook::flag::register(signal, Arc::clone(&stop.0))?;
        }
        Ok(stop)
    }

    /// Whether it came.
    pub fn is_requested(&self) -> bool {
        // Relaxed: a flag that stands for nothing but itself.
        self.0.load(Ordering::Relaxed)
    }
}

/// A program and what it is told.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Longest that it may take.
    pub limit: Duration,
}

/// What came of a program.
#[derive(Debug, Default)]
pub struct Said {
    /// The lines of its output that are JSON.
    pub lines: Vec<Value>,
    /// Why it did not end well.
    pub problem: Option<String>,
}

/// The process group of a program. Killed when dropped.
struct Group(Child);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // Fails only when all of it has ended.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Asks it to end, and makes it.
    fn end(&mut self) {
        self.signal(Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < GRACE && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Reads a pipe to its end, in a thread of its own: a full pipe would stop the program.
fn drain(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is still worth reading.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// How it ended, in words.
fn ending(status: ExitStatus, errors: &str) -> Option<String> {
    if status.success() {
        return None;
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    };
    let last = errors.lines().rev().find(|line| !line.trim().is_empty());
    Some(match last.map(reason) {
        Some(why) => format!("{why} ({how})"),
        None => how,
    })
}

/// A line of standard error; `mmsb --json` says it in an object.
fn reason(line: &str) -> String {
    let object = serde_json::from_str::<Value>(line).ok();
    let message = object.and_then(|value| Some(value["error"]["message"].as_str()?.to_owned()));
    message.unwrap_or_else(|| line.trim().to_owned())
}

impl Program {
    /// Runs it to its end.
    pub fn run(&self, stop: &Stop) -> Said {
        let failed = |problem: String| Said {
            problem: Some(problem),
            ..Said::default()
        };
        let name = self.path.display();
        if stop.is_requested() {
            return failed("interrupted".to_owned());
        }
        let child = Command::new(&self.path)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that all of its processes can be ended at once.
            .process_group(0)
            .spawn();
        let mut group = match child {
            Ok(child) => Group(child),
            Err(error) => return failed(format!("{name}: {error}")),
        };
        let output = drain(group.0.stdout.take());
        let errors = drain(group.0.stderr.take());
        let begin = Instant::now();
        let ended = loop {
            match group.0.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Ok(None) if stop.is_requested() => break Err("interrupted".to_owned()),
                Ok(None) if begin.elapsed() >= self.limit => {
                    break Err(format!("it did not end in {} s", self.limit.as_secs()));
                }
                // Wakes up on a core that is being measured, so seldom.
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                Err(error) => break Err(error.to_string()),
            }
        };
        if ended.is_err() {
            group.end();
        }
        // Whatever is left of it holds the pipes open.
        drop(group);
        let (output, errors) = (output.join(), errors.join());
        let (output, errors) = (output.unwrap_or_default(), errors.unwrap_or_default());
        let lines = output
            .lines()
            .filter(|line| line.starts_with('{'))
            .filter_map(|line| serde_json::from_str(line).ok());
        Said {
            lines: lines.collect(),
            problem: match ended {
                Ok(status) => ending(status, &errors),
                Err(why) => Some(why),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Program {
        Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            limit,
        }
    }

    #[test]
    fn what_a_program_says_is_read_also_if_it_fails() {
        let stop = Stop::default();
        let script = "echo noise; echo '{\"a\":1}'; echo why not >&2; exit 3";
        let said = shell(script, Duration::from_secs(60)).run(&stop);
        assert_eq!(said.lines, [serde_json::json!({"a": 1})]);
        assert_eq!(said.problem.as_deref(), Some("why not (exit code 3)"));
        let said = shell("echo '{}'", Duration::from_secs(60)).run(&stop);
        assert_eq!((said.lines.len(), said.problem), (1, None));
        let error = "{\"error\":{\"code\":1,\"message\":\"no room\"}}";
        assert_eq!(reason(error), "no room");
    }

    #[test]
    fn a_program_that_does_not_end_is_ended_with_its_children() {
        let stop = Stop::default();
        // The second process keeps the pipe open.
        let said = shell("sleep 1000 & sleep 1000", Duration::from_millis(50)).run(&stop);
        assert_eq!(said.problem.as_deref(), Some("it did not end in 0 s"));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let program = Program {
            path: "/nowhere/mmsb".into(),
            arguments: Vec::new(),
            limit: Duration::from_secs(1),
        };
        let said = program.run(&Stop::default());
        assert!(said.problem.unwrap().contains("/nowhere/mmsb"));
        let stop = Stop::default();
        stop.0.store(true, Ordering::Relaxed);
        let said = shell("true", Duration::from_secs(1)).run(&stop);
        assert_eq!(said.problem.as_deref(), Some("interrupted"));
    }
}
