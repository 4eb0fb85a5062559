//! What `/proc` says about a process: for people who read a participant table, never to decide who is dead.
//!
//! A PID means nothing across PID namespaces and is reused; liveness is decided by [`lock`](super::lock) alone.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// Id of this process in its own PID namespace.
pub fn pid() -> u32 {
    std::process::id()
}

/// When a process started, in clock ticks since boot; with the PID it names one incarnation of a process. `None`
/// when there is no such process, or `/proc` hides it.
pub fn start_time(pid: u32) -> Option<u64> {
    // Field 22 of the file.
    field(&stat(pid)?, 22)?.parse().ok()
}

/// State letter of a process: `R` running, `S` sleeping, `D` in the kernel, `T` stopped, `t` traced, `Z` zombie, ...
pub fn state(pid: u32) -> Option<char> {
    field(&stat(pid)?, 3)?.chars().next()
}

/// Short name of a process (at most 15 bytes), bytes that are not UTF-8 replaced.
pub fn comm(pid: u32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Inode number of this process's PID namespace, 0 if unknown. Two processes with different numbers must not
/// compare PIDs.
pub fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

fn stat(pid: u32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/stat")).ok()
}

/// Field `number` (as proc(5) counts, from 3 on) of a stat line.
fn field(stat: &[u8], number: usize) -> Option<&str> {
    // Field 2 is the name in parentheses and may hold spaces, parentheses and any byte; nothing after it can hold a
    // parenthesis, so the last one ends it.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn fields_survive_hostile_names() {
        let line = b"42 (a) R (\xff) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20\n";
        assert_eq!(field(line, 3), Some("S"));
        assert_eq!(field(line, 22), Some("777"));
        assert_eq!(field(line, 24), None);
        assert_eq!(field(b"42 no name", 3), None);
        assert_eq!(field(line, 2), None);
    }

    #[test]
    fn this_process_is_alive_and_started_before_its_child() {
        let own = start_time(pid()).unwrap();
        assert!(matches!(state(pid()), Some('R' | 'S')));
        assert_ne!(pid_namespace(), 0);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let started = start_time(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(started >= own);
        assert_eq!(start_time(child.id()), None);
        assert_eq!((state(child.id()), comm(child.id())), (None, None));
    }

    #[test]
    fn name_is_that_of_the_kernel() {
        let name = comm(pid()).unwrap();
        assert!(
            !name.is_empty() && name.len() <= 15 && !name.contains('\n'),
            "{name:?}"
        );
    }
}
