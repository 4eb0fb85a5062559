//! A bus's two directories, and the processes that use them. The parent itself touches neither but to remove segments,
//! which is what a reboot does.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::books::Books;
use crate::spawn::Child;

/// No step takes longer, whatever the load of the machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Where a bus and its log are.
#[derive(Debug)]
pub struct Site {
    exe: PathBuf,
    shm: tempfile::TempDir,
    /// Kept after a failure, to be looked at.
    disk: Option<tempfile::TempDir>,
    dir: PathBuf,
}

/// What a checker found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// State hash.
    pub hash: String,
    /// Where the ring ended.
    pub end: u64,
    /// Incarnation.
    pub incarnation: u64,
    /// Where each incarnation began.
    pub forks: Vec<(u64, u64)>,
    /// Number of each page.
    pub pages: BTreeMap<String, u64>,
}

impl Checked {
    /// Where the first incarnation behind `incarnation` began.
    pub fn fork_after(&self, incarnation: u64) -> Option<u64> {
        let later = self.forks.iter().filter(|(of, _)| *of > incarnation);
        later.map(|(_, lsn)| *lsn).min()
    }
}

impl Site {
    /// New directories: the segments' on a tmpfs, the log's under `disk`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(exe: &Path, disk: &Path) -> io::Result<Site> {
        std::fs::create_dir_all(disk)?;
        let disk = tempfile::tempdir_in(disk)?;
        let dir = disk.path().join("log");
        Ok(Site {
            exe: exe.to_owned(),
            shm: tempfile::tempdir_in("/dev/shm")?,
            disk: Some(disk),
            dir,
        })
    }

    /// The same with the log in a directory of somebody else's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn with_log(exe: &Path, dir: &Path) -> io::Result<Site> {
        Ok(Site {
            exe: exe.to_owned(),
            shm: tempfile::tempdir_in("/dev/shm")?,
            disk: None,
            dir: dir.to_owned(),
        })
    }

    /// Directory of the log.
    pub fn disk(&self) -> &Path {
        &self.dir
    }

    /// Directory of the segments.
    pub fn shm(&self) -> &Path {
        self.shm.path()
    }

    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg(role).arg(self.shm.path());
        command
    }

    /// Starts a supervisor. `backend`: `auto`, `plain`, `uring`, or `refused`: `auto` where the kernel refuses io_uring.
    ///
    /// # Errors
    /// The kernel's.
    pub fn supervisor(
        &self,
        backend: &str,
        load: &str,
        armed: Option<(&str, u64)>,
    ) -> io::Result<Supervisor> {
        let (backend, refused) = match backend {
            "refused" => ("auto", true),
            other => (other, false),
        };
        let mut command = Command::new(&self.exe);
        if refused {
            command.arg("no-uring");
        }
        command.arg("supervisor").arg(self.shm.path());
        command.arg(self.disk()).arg(backend).arg(load);
        if let Some((step, skip)) = armed {
            command.arg(step).arg(skip.to_string());
        }
        Ok(Supervisor {
            child: Child::spawn(&mut command)?,
            role: String::new(),
            took_over: false,
            was_standby: false,
            incarnation: 0,
            last: String::new(),
            answers: Vec::new(),
        })
    }

    /// Starts a writer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn writer(
        &self,
        slot: u64,
        seed: u64,
        commits: u64,
        levels: &str,
        timeout: Duration,
        armed: Option<(&str, u64)>,
    ) -> io::Result<Child> {
        let mut command = self.command("writer");
        for number in [slot, seed, commits] {
            command.arg(number.to_string());
        }
        command.arg(levels).arg(timeout.as_millis().to_string());
        if let Some((step, skip)) = armed {
            command.arg(step).arg(skip.to_string());
        }
        Child::spawn(&mut command)
    }

    /// Has everything checked by a process of its own.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<Checked, String> {
        let mut command = self.command("check");
        command.arg(self.disk());
        let mut child = Child::spawn(&mut command).map_err(|e| e.to_string())?;
        let mut checked = Checked::default();
        let begin = Instant::now();
        loop {
            let left = (PATIENCE * 2).saturating_sub(begin.elapsed());
            let line = child
                .receive(left)
                .map_err(|e| format!("the checker: {e}"))?;
            let words: Vec<&str> = line.split(' ').collect();
            let number = |i: usize| {
                words
                    .get(i)
                    .and_then(|w| w.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            match words.as_slice() {
                ["page", name, ..] => {
                    checked.pages.insert((*name).to_owned(), number(2));
                }
                ["checked", hash, _, _, forks] => {
                    checked.hash = (*hash).to_owned();
                    checked.end = number(2);
                    checked.incarnation = number(3);
                    checked.forks = forks
                        .split(',')
                        .filter_map(|f| {
                            let (of, lsn) = f.split_once(':')?;
                            Some((of.parse().ok()?, lsn.parse().ok()?))
                        })
                        .collect();
                    child.finish(PATIENCE).map_err(|e| e.to_string())?;
                    return Ok(checked);
                }
                _ => return Err(line),
            }
        }
    }

    /// What a reboot does to the segments.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reboot(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.shm.path())? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Keeps the log's directory, and says where it is.
    pub fn keep(&mut self) -> PathBuf {
        if let Some(disk) = self.disk.take() {
            let _ = disk.keep();
        }
        self.dir.clone()
    }
}

/// A supervisor as the parent knows it.
#[derive(Debug)]
pub struct Supervisor {
    /// The process.
    pub child: Child,
    /// What it said of itself last: `Active`, `Standby`, `Failed`.
    pub role: String,
    /// It waited for its turn, and got it.
    pub took_over: bool,
    was_standby: bool,
    /// Incarnation of the bus as it found it; 0: it is not up.
    pub incarnation: u64,
    /// Its last words.
    pub last: String,
    answers: Vec<String>,
}

impl Supervisor {
    fn take(&mut self, line: String) {
        if let Some(rest) = line.strip_prefix("role ") {
            self.role = rest.split(' ').next().unwrap_or("").to_owned();
            self.was_standby |= self.role == "Standby";
            self.took_over |= self.was_standby && self.role == "Active";
        } else if let Some(rest) = line.strip_prefix("up ") {
            self.incarnation = rest
                .split(' ')
                .next()
                .and_then(|w| w.parse().ok())
                .unwrap_or(0);
        } else {
            self.answers.push(line.clone());
        }
        self.last = line;
    }

    /// Takes what it has said.
    pub fn listen(&mut self) {
        while let Ok(Some(line)) = self.child.try_receive() {
            self.take(line);
        }
    }

    /// Whether it is active, as far as it has said.
    pub fn is_active(&mut self) -> bool {
        self.listen();
        self.role == "Active"
    }

    /// Waits until it has this role. `false`: it died, or it takes too long.
    pub fn await_role(&mut self, role: &str, patience: Duration) -> bool {
        let begin = Instant::now();
        loop {
            self.listen();
            if self.role == role {
                return true;
            }
            let left = patience.saturating_sub(begin.elapsed());
            match self.child.receive(left) {
                Ok(line) => self.take(line),
                Err(_) => return self.role == role,
            }
        }
    }

    /// Gives an order, and waits for an answer that begins like this.
    ///
    /// # Errors
    /// When it dies, or takes too long.
    pub fn ask(&mut self, order: &str, prefix: &str) -> io::Result<String> {
        self.child.send(order)?;
        let begin = Instant::now();
        loop {
            if let Some(at) = self.answers.iter().position(|a| a.starts_with(prefix)) {
                return Ok(self.answers.swap_remove(at)[prefix.len()..].to_owned());
            }
            let left = PATIENCE.saturating_sub(begin.elapsed());
            let line = self.child.receive(left)?;
            self.take(line);
        }
    }
}

/// A writer's lines, until it ends or dies.
///
/// # Errors
/// When it takes too long, or panics.
pub fn follow_writer(writer: &mut Child, books: &mut Books) -> Result<bool, String> {
    let begin = Instant::now();
    loop {
        match writer.receive(PATIENCE) {
            Ok(line) if line == "done" => return Ok(true),
            Ok(line) => {
                books.take(&line);
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                use std::os::unix::process::ExitStatusExt;
                let status = writer.wait(PATIENCE).map_err(|e| e.to_string())?;
                return match status.and_then(|s| s.signal()) {
                    Some(libc::SIGKILL) => Ok(false),
                    _ => Err(format!("a writer ended: {status:?}")),
                };
            }
            Err(e) => return Err(format!("a writer: {e}")),
        }
        if begin.elapsed() > PATIENCE * 2 {
            return Err("a writer does not get on".into());
        }
    }
}
