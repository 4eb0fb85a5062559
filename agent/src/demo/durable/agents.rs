//! `mmsb-agent` as the demo runs it: a child process of this program, with a configuration and log lines in files.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// What the agents are told about the one bus.
#[derive(Debug)]
pub struct Site {
    /// This program.
    pub program: PathBuf,
    /// Directory of everything.
    pub root: PathBuf,
    /// The bus.
    pub bus: String,
    /// Directory of its segments.
    pub segments: PathBuf,
    /// Size of its ring.
    pub ring_bytes: u64,
}

impl Site {
    /// Directory of the log.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    fn config(&self) -> PathBuf {
        self.root.join("agent.toml")
    }

    /// Writes the configuration: short files and many checkpoints, so that a few seconds show all of it.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn write_config(&self) -> io::Result<()> {
        // Text of JSON is text of TOML.
        let path = |path: &Path| json!(path.to_string_lossy());
        let text = format!(
            "[agent]\nhttp = \"off\"\ninterval = \"50ms\"\n\n[[bus]]\nname = {name}\ndir = {dir}\n\
             create = {{ size = \"1GiB\", ring = {ring}, pages = 1024, names = 1024 }}\nlog = {log}\ninterval = \"5ms\"\n\
             segment_bytes = \"8MiB\"\ncheckpoint = {{ interval = \"300ms\", log_bytes = \"1MiB\", keep = 3 }}\n",
            name = json!(self.bus),
            dir = path(&self.segments),
            ring = self.ring_bytes,
            log = path(&self.log()),
        );
        std::fs::write(self.config(), text)
    }

    /// Starts an agent.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn start(&self, number: u64) -> io::Result<Agent> {
        let said = self.root.join(format!("agent-{number}.txt"));
        let child = Command::new(&self.program)
            .arg("demo-agent")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said)?)
            // Ctrl-C on a terminal is for the demo: agents die when it wants.
            .process_group(0)
            .spawn()?;
        Ok(Agent { child, said })
    }
}

/// A running agent. Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    said: PathBuf,
}

impl Agent {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // Not reaped yet, so its number is still its own.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Kills it as `kill -9` does, and returns once it is dead.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end, for at most so long. `None`: it did not end, and was killed.
    pub fn wait(mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }

    /// Its last lines, for who has to find out what was wrong.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.said).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file system that forgets everything with the power.
const VOLATILE: [&str; 2] = ["tmpfs", "ramfs"];

/// The kind of file system of a directory.
pub fn file_system(dir: &Path) -> String {
    let Ok(found) = rustix::fs::statfs(dir) else {
        return "unknown".to_owned();
    };
    // The numbers of linux/magic.h have 32 bits; the field is as wide as the machine's words, and may have a sign.
    let name = match found.f_type as u32 {
        0x0102_1994 => VOLATILE[0],
        0x8584_58f6 => VOLATILE[1],
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0x794c_7630 => "overlayfs",
        0x6969 => "nfs",
        other => return format!("{other:#x}"),
    };
    name.to_owned()
}

/// Whether a directory is on something that outlasts the power.
pub fn is_on_disk(file_system: &str) -> bool {
    !VOLATILE.contains(&file_system)
}

/// Makes a new directory for the log: below `wanted`, else where there is a disk: in `$TMPDIR`, beside this program, in
/// `/var/tmp`, or here. Only if none of these will do, in memory.
///
/// # Errors
///
/// Why it could not be made.
pub fn make_root(wanted: Option<&Path>, name: &str) -> io::Result<PathBuf> {
    if let Some(wanted) = wanted {
        std::fs::create_dir_all(wanted)?;
        // The configuration names it, and the agent may be somewhere else.
        let root = wanted.canonicalize()?.join(name);
        std::fs::create_dir(&root)?;
        return Ok(root);
    }
    let program = std::env::current_exe().ok();
    let places = [
        std::env::var_os("TMPDIR").map(PathBuf::from),
        program.and_then(|program| Some(program.parent()?.to_owned())),
        Some(PathBuf::from("/var/tmp")),
        std::env::current_dir().ok(),
    ];
    let memory = Some(std::env::temp_dir());
    let name = format!("mmsb-{name}");
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for (place, must_be_disk) in places
        .into_iter()
        .map(|place| (place, true))
        .chain([(memory, false)])
    {
        let Some(place) = place.and_then(|place| place.canonicalize().ok()) else {
            continue;
        };
        if must_be_disk && !is_on_disk(&file_system(&place)) {
            continue;
        }
        let root = place.join(&name);
        match std::fs::create_dir(&root) {
            Ok(()) => return Ok(root),
            Err(e) => last = e,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::Config;

    #[test]
    fn the_configuration_is_one_that_the_agent_takes() {
        let dir = tempfile::tempdir().unwrap();
        let site = Site {
            program: PathBuf::from("/bin/false"),
            root: dir.path().join("a \"quoted\" name"),
            bus: "demo-1".into(),
            segments: PathBuf::from("/dev/shm"),
            ring_bytes: 1 << 20,
        };
        std::fs::create_dir(&site.root).unwrap();
        site.write_config().unwrap();
        let config = Config::read(&site.config()).unwrap();
        let bus = &config.buses[0];
        assert_eq!(bus.log.as_ref().unwrap().dir, site.log());
        assert_eq!((config.http, bus.name.as_str()), (None, "demo-1"));
    }

    #[test]
    fn a_place_in_memory_is_told_from_a_disk() {
        assert_eq!(file_system(Path::new("/dev/shm")), "tmpfs");
        assert!(!is_on_disk("tmpfs") && is_on_disk("ext4"));
        let dir = tempfile::tempdir().unwrap();
        let root = make_root(Some(&dir.path().join("a/b")), "demo-1").unwrap();
        assert!(root.is_absolute() && root.ends_with("a/b/demo-1"));
        // What is there is not taken for one's own.
        assert!(make_root(Some(&dir.path().join("a/b")), "demo-1").is_err());
    }
}
