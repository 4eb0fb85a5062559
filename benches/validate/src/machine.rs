//! The machine that was measured, and when.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What of the machine matters to the figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of its processor.
    pub cpu: String,
    /// Processors that may be used.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// What virtualises it, if anything is known to.
    pub hypervisor: Option<String>,
    /// File system of the log, and what it is on.
    pub disk: Option<String>,
    /// Processes that wanted to run in the minute before.
    pub load: f64,
}

fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The value of `key` in lines of `key : value`.
fn field(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// File system and source of the mount that holds `path`, of the lines of `/proc/self/mountinfo`.
fn mount_of(path: &Path, mounts: &str) -> Option<String> {
    let of_line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        // Blanks in a path are written so there.
        let point = left.split(' ').nth(4)?.replace("\\040", " ");
        let mut right = right.split(' ');
        let (kind, source) = (right.next()?, right.next()?);
        path.starts_with(&point)
            .then(|| (point.len(), format!("{kind} on {source}")))
    };
    // Of several on one point the last covers the others.
    let deepest = mounts.lines().filter_map(of_line).max_by_key(|(n, _)| *n);
    deepest.map(|(_, what)| what)
}

impl Machine {
    /// This one, with its logs in `disk`.
    pub fn this(disk: &Path) -> Machine {
        let cpu = read("/proc/cpuinfo").unwrap_or_default();
        let memory = read("/proc/meminfo").and_then(|text| field(&text, "MemTotal"));
        let kib = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let is_virtual =
            field(&cpu, "flags").is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor"));
        let vendor =
            || read("/sys/class/dmi/id/sys_vendor").or_else(|| read("/sys/hypervisor/type"));
        let absolute = std::path::absolute(disk).unwrap_or_else(|_| disk.to_owned());
        Machine {
            cpu: field(&cpu, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
            memory_bytes: kib.unwrap_or(0) * 1024,
            hypervisor: is_virtual.then(|| vendor().unwrap_or_else(|| "yes".to_owned())),
            disk: read("/proc/self/mountinfo").and_then(|mounts| mount_of(&absolute, &mounts)),
            load: read("/proc/loadavg")
                .and_then(|text| text.split(' ').next()?.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// Why figures of `self` and `other` say nothing about each other; `None` if they do.
    pub fn is_other_than(&self, other: &Machine) -> Option<String> {
        if self.cpu != other.cpu || self.cores != other.cores {
            return Some(format!(
                "the baseline is of {} cores of {}, this is {} of {}",
                other.cores, other.cpu, self.cores, self.cpu
            ));
        }
        None
    }
}

/// The commit that is checked out in `root`, if git can say.
pub fn commit(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        let done = command.arg("-C").arg(root).args(arguments).output();
        let done = done.ok().filter(|done| done.status.success())?;
        Some(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    Some(match changed.is_some_and(|changed| !changed.is_empty()) {
        true => format!("{commit}, changed"),
        false => commit,
    })
}

/// The date and time in UTC.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH);
    date(seconds.map_or(0, |seconds| seconds.as_secs()))
}

/// Seconds since 1970 as a date: years are counted from March, so that the day that leap years have more is their last.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, year) = (day - (153 * month + 2) / 5 + 1, year + era * 400);
    let (month, year) = match month {
        0..10 => (month + 3, year),
        _ => (month - 9, year + 1),
    };
    let (hours, minutes) = (rest / 3600, rest / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{:02}Z",
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_dates() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_795_291_201), "2026-11-21T20:00:01Z");
        assert_eq!(date(1_798_761_599), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn the_deepest_mount_holds_a_path() {
        let mounts = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      30 22 0:26 / /dev/shm rw - tmpfs tmpfs rw\n\
                      31 22 0:27 / /mnt/a\\040b rw - xfs /dev/vdb rw";
        let of = |path: &str| mount_of(Path::new(path), mounts).unwrap();
        assert_eq!(of("/home/x"), "ext4 on /dev/vda");
        assert_eq!(of("/dev/shm/x"), "tmpfs on tmpfs");
        assert_eq!(of("/mnt/a b/c"), "xfs on /dev/vdb");
        assert_eq!(mount_of(Path::new("/x"), ""), None);
    }

    #[test]
    fn another_model_is_another_machine_and_another_kernel_is_not() {
        let this = Machine::this(Path::new("."));
        assert!(this.cores > 0);
        let kernel = Machine {
            kernel: "0".to_owned(),
            load: 9.0,
            ..this.clone()
        };
        assert_eq!(this.is_other_than(&kernel), None);
        let cpu = Machine {
            cpu: "Abacus".to_owned(),
            ..this.clone()
        };
        assert!(this.is_other_than(&cpu).unwrap().contains("Abacus"));
    }
}
