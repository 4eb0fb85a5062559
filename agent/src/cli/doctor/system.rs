//! What can be wrong with the machine: the tmpfs, memory that lost its name, systemd's RemoveIPC, processes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use super::super::table::bytes;
use super::{Finding, Severity};

/// `f_type` of a tmpfs.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// Containers get 64 MiB unless told otherwise, which the first large bus fills.
const SMALL: u64 = 128 << 20;
/// Users from here on are people, whose IPC objects logind removes when they log out.
const FIRST_USER: u32 = 1000;

/// What the kernel says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// Runs, sleeps or waits.
    Alive,
    /// Stopped by a signal or a tracer.
    Stopped,
    /// Ended, not yet waited for; threads of it may go on.
    Zombie,
    /// There is no such process.
    Gone,
    /// It cannot be told from here.
    Unknown,
}

/// The state in the text of `/proc/PID/stat`. The name in it may hold blanks and parentheses.
pub fn state_of(stat: &str) -> ProcessState {
    let letter = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    match letter {
        Some('T' | 't') => ProcessState::Stopped,
        Some('Z' | 'X') => ProcessState::Zombie,
        Some('R' | 'S' | 'D' | 'I' | 'W' | 'P' | 'K') => ProcessState::Alive,
        _ => ProcessState::Unknown,
    }
}

/// The state of a process of this PID namespace.
pub fn process_state(pid: u32) -> ProcessState {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => state_of(&String::from_utf8_lossy(&stat)),
        // Under hidepid, other people's processes look gone, too; without /proc, all do.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && is_proc_open() => ProcessState::Gone,
        Err(_) => ProcessState::Unknown,
    }
}

/// Whether `/proc` shows the processes of others.
fn is_proc_open() -> bool {
    fs::metadata("/proc/1").is_ok()
}

/// Inode of this process's PID namespace; 0 if `/proc` does not say.
pub fn own_pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino())
}

/// Looks at the machine under the buses in `dir`.
pub fn check(dir: &Path) -> Vec<Finding> {
    let mut findings = vec![tmpfs(dir)];
    findings.extend(mount(dir));
    findings.extend(deleted(dir));
    findings.extend(remove_ipc(dir));
    findings
}

fn tmpfs(dir: &Path) -> Finding {
    let (kind, space) = match (rustix::fs::statfs(dir), rustix::fs::statvfs(dir)) {
        (Ok(kind), Ok(space)) => (kind.f_type as u64, space),
        (Err(e), _) | (_, Err(e)) => {
            return Finding::of_system(
                "tmpfs",
                Severity::Problem,
                format!("cannot look at {}: {e}", dir.display()),
                "make the directory, or set MMSB_DIR or --dir to another one",
            );
        }
    };
    let total = space.f_blocks.saturating_mul(space.f_frsize);
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    judge_tmpfs(dir, kind == TMPFS_MAGIC, total, free)
}

fn judge_tmpfs(dir: &Path, is_tmpfs: bool, total: u64, free: u64) -> Finding {
    let shown = dir.display();
    let enlarge = format!(
        "enlarge it (mount -o remount,size=4G {shown}; docker run --shm-size 4g), or set MMSB_DIR to a larger one"
    );
    let of = |severity, message: String, advice: String| {
        Finding::of_system("tmpfs", severity, message, advice)
    };
    if !is_tmpfs {
        return of(
            Severity::Problem,
            format!("{shown} is no tmpfs: the kernel writes all changes to a disk"),
            "use /dev/shm or another tmpfs".into(),
        );
    }
    // A tmpfs with size=0 has no limit and says 0.
    let room = format!("{} of {} free in {shown}", bytes(free), bytes(total));
    if total == 0 {
        return of(
            Severity::Ok,
            format!("{shown} is a tmpfs without a limit"),
            String::new(),
        );
    }
    if free < total / 20 {
        return of(Severity::Problem, format!("only {room}"), enlarge);
    }
    if total < SMALL {
        return of(Severity::Warning, format!("a small tmpfs: {room}"), enlarge);
    }
    of(Severity::Ok, room, String::new())
}

/// How the file system is mounted, where that is worth a word.
fn mount(dir: &Path) -> Option<Finding> {
    let flags = rustix::fs::statvfs(dir).ok()?.f_flag;
    judge_mount(dir, flags)
}

fn judge_mount(dir: &Path, flags: StatVfsMountFlags) -> Option<Finding> {
    let shown = dir.display();
    if flags.contains(StatVfsMountFlags::RDONLY) {
        return Some(Finding::of_system(
            "mount",
            Severity::Warning,
            format!(
                "{shown} is mounted read-only: buses there can be observed, not written or created"
            ),
            "right for a container that only observes; otherwise mount it writable (docker run -v VOLUME:DIR, without :ro)",
        ));
    }
    // Containers have it so, and who sees it there wonders.
    flags.contains(StatVfsMountFlags::NOEXEC).then(|| {
        let message =
            format!("{shown} is mounted noexec, which does no harm: nothing in a bus is executed");
        Finding::of_system("mount", Severity::Ok, message, "")
    })
}

/// A mapping of a segment whose name is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    /// The segment.
    path: PathBuf,
    /// Bytes of address space.
    len: u64,
}

/// The mappings of deleted segments in the text of a `/proc/PID/maps`.
fn deleted_in(maps: &str, dir: &Path) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in maps.lines() {
        let Some(line) = line.strip_suffix(" (deleted)") else {
            continue;
        };
        let mut words = line.splitn(6, ' ');
        let (Some(range), Some(path)) = (words.next(), words.nth(4)) else {
            continue;
        };
        let path = Path::new(path.trim_start());
        let is_segment = path.parent() == Some(dir)
            && path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("mmsb."));
        if !is_segment {
            continue;
        }
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let len = range
            .split_once('-')
            .and_then(|(from, to)| Some(hex(to)?.saturating_sub(hex(from)?)))
            .unwrap_or(0);
        match found.iter_mut().find(|mapping| mapping.path == path) {
            Some(mapping) => mapping.len += len,
            None => found.push(Mapping {
                path: path.to_owned(),
                len,
            }),
        }
    }
    found
}

fn deleted(dir: &Path) -> Vec<Finding> {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let mut findings = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else {
        return findings;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        // Other people's processes cannot be looked into; theirs is not our memory.
        let Ok(maps) = fs::read(process.path().join("maps")) else {
            continue;
        };
        let mappings = deleted_in(&String::from_utf8_lossy(&maps), &dir);
        if mappings.is_empty() {
            continue;
        }
        let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        let names: Vec<String> = mappings
            .iter()
            .filter_map(|mapping| mapping.path.file_name()?.to_str().map(str::to_owned))
            .collect();
        findings.push(Finding::of_system(
            "deleted",
            Severity::Problem,
            format!(
                "{} (pid {pid}) maps segments that were removed: {}",
                comm.trim_end(),
                names.join(", ")
            ),
            "it works on a bus that nobody else can find, and keeps its memory: let it attach again, or end it",
        ));
    }
    findings
}

/// The last setting of `RemoveIPC` in the texts, in the order in which systemd reads them.
fn remove_ipc_in<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<bool> {
    let mut setting = None;
    for text in texts {
        let mut in_section = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                in_section = line == "[Login]";
            } else if let (true, Some((key, value))) = (in_section, line.split_once('='))
                && key.trim() == "RemoveIPC"
            {
                setting = match value.trim().to_ascii_lowercase().as_str() {
                    "no" | "false" | "off" | "0" => Some(false),
                    "yes" | "true" | "on" | "1" => Some(true),
                    // An empty value takes earlier ones back; systemd ignores others.
                    "" => None,
                    _ => setting,
                };
            }
        }
    }
    setting
}

/// logind's configuration files, in the order in which they are read.
fn logind_files() -> Vec<PathBuf> {
    let main = ["/usr/lib/systemd", "/run/systemd", "/etc/systemd"]
        .map(|dir| PathBuf::from(dir).join("logind.conf"));
    // Of the main files, only the strongest counts.
    let mut files: Vec<PathBuf> = main
        .into_iter()
        .rev()
        .find(|file| file.exists())
        .into_iter()
        .collect();
    let mut drop_ins: Vec<PathBuf> = ["/usr/lib/systemd", "/run/systemd", "/etc/systemd"]
        .iter()
        .filter_map(|dir| fs::read_dir(Path::new(dir).join("logind.conf.d")).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .collect();
    // By name, whatever directory they are in.
    drop_ins.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    files.extend(drop_ins);
    files
}

fn remove_ipc(dir: &Path) -> Option<Finding> {
    // Only POSIX shared memory is removed, and only where logind runs.
    if dir != Path::new("/dev/shm") || !Path::new("/run/systemd/system").exists() {
        return None;
    }
    let uid = rustix::process::geteuid().as_raw();
    let texts: Vec<String> = logind_files()
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect();
    let setting = remove_ipc_in(texts.iter().map(String::as_str));
    Some(judge_remove_ipc(uid, setting))
}

fn judge_remove_ipc(uid: u32, setting: Option<bool>) -> Finding {
    // It is on unless it was turned off.
    if uid < FIRST_USER || setting == Some(false) {
        let why = if setting == Some(false) {
            "it is off"
        } else {
            "it spares system users"
        };
        return Finding::of_system(
            "remove_ipc",
            Severity::Ok,
            format!("RemoveIPC does no harm: {why}"),
            "",
        );
    }
    Finding::of_system(
        "remove_ipc",
        Severity::Warning,
        format!("systemd removes the buses of user {uid} when the last session ends (RemoveIPC)"),
        "set RemoveIPC=no in /etc/systemd/logind.conf, run as a system user, or `loginctl enable-linger`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_behind_the_last_parenthesis() {
        assert_eq!(state_of("7 (a) b) T 1 7"), ProcessState::Stopped);
        assert_eq!(state_of("7 (x) Z 1"), ProcessState::Zombie);
        assert_eq!(state_of("7 (T) S 1"), ProcessState::Alive);
        assert_eq!(state_of(""), ProcessState::Unknown);
        assert_eq!(process_state(std::process::id()), ProcessState::Alive);
        // Beyond the kernel's greatest pid.
        assert_eq!(process_state(u32::MAX), ProcessState::Gone);
    }

    #[test]
    fn only_deleted_segments_of_the_directory_are_found() {
        let maps = "\
7f00-7f10 rw-s 00000000 00:19 5 /dev/shm/mmsb.a b.pages (deleted)
7f10-7f20 rw-s 00000000 00:19 5 /dev/shm/mmsb.a b.pages (deleted)
7f20-7f30 rw-s 00000000 00:19 6 /dev/shm/mmsb.c.pages
7f30-7f40 rw-s 00000000 00:19 7 /tmp/mmsb.d.pages (deleted)
7f40-7f50 rw-s 00000000 00:19 8 /dev/shm/other (deleted)
junk (deleted)
";
        let found = deleted_in(maps, Path::new("/dev/shm"));
        assert_eq!(
            found,
            [Mapping {
                path: "/dev/shm/mmsb.a b.pages".into(),
                len: 0x20
            }]
        );
    }

    #[test]
    fn a_tmpfs_is_judged_by_its_size_and_its_free_space() {
        let dir = Path::new("/dev/shm");
        let severity = |is_tmpfs, total, free| judge_tmpfs(dir, is_tmpfs, total, free).severity;
        assert_eq!(severity(true, 8 << 30, 4 << 30), Severity::Ok);
        assert_eq!(severity(true, 64 << 20, 60 << 20), Severity::Warning);
        assert_eq!(severity(true, 8 << 30, 1 << 20), Severity::Problem);
        assert_eq!(severity(false, 8 << 30, 4 << 30), Severity::Problem);
        assert_eq!(severity(true, 0, 0), Severity::Ok);
    }

    #[test]
    fn a_read_only_mount_is_a_warning_and_noexec_is_none() {
        let judged = |flags| judge_mount(Path::new("/dev/shm"), flags).map(|found| found.severity);
        let (rdonly, noexec) = (StatVfsMountFlags::RDONLY, StatVfsMountFlags::NOEXEC);
        assert_eq!(judged(rdonly | noexec), Some(Severity::Warning));
        assert_eq!(judged(noexec), Some(Severity::Ok));
        assert_eq!(judged(StatVfsMountFlags::NOSUID), None);
    }

    #[test]
    fn remove_ipc_is_the_last_setting_in_its_section() {
        assert_eq!(remove_ipc_in([]), None);
        assert_eq!(remove_ipc_in(["[Login]\n#RemoveIPC=no\n"]), None);
        assert_eq!(remove_ipc_in(["[Login]\nRemoveIPC = no\n"]), Some(false));
        assert_eq!(
            remove_ipc_in(["[Login]\nRemoveIPC=no\n", "[Login]\nRemoveIPC=yes\n"]),
            Some(true)
        );
        assert_eq!(remove_ipc_in(["[Other]\nRemoveIPC=no\n"]), None);
        assert_eq!(judge_remove_ipc(1000, None).severity, Severity::Warning);
        assert_eq!(judge_remove_ipc(1000, Some(false)).severity, Severity::Ok);
        assert_eq!(judge_remove_ipc(0, None).severity, Severity::Ok);
    }
}
