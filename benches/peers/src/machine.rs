//! The machine that was measured on.

use std::fs;
use std::path::Path;

use anyhow::Result;
use mmsb_benches::floor::{Effort, one_way_ns_on};

use crate::results::Machine;
use crate::runner::Runner;

/// The first value of this key in a file of `key : value` lines.
fn value_of(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// What holds this path: the file system, and the device.
fn mount_of(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (device, at, kind) = (words.next()?, words.next()?, words.next()?);
            path.starts_with(at)
                .then(|| (at.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(len, _)| *len)
        .map(|(_, mount)| mount)
}

/// What a command says in its first line; empty if there is no such command, or it fails.
fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    let text = output.ok().filter(|output| output.status.success());
    let text = text.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.and_then(|text| text.lines().next().map(|line| line.trim().to_owned()))
        .unwrap_or_default()
}

/// Now, in UTC.
pub fn date() -> String {
    said_by("date", &["-u", "+%FT%TZ"])
}

/// What was built, as far as git knows: the repository is looked for where this is run.
pub fn commit() -> String {
    said_by("git", &["describe", "--always", "--dirty"])
}

/// What can be read off it.
pub fn describe(runner: &Runner) -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib =
        value_of(&meminfo, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let uname = rustix::system::uname();
    let shm = rustix::fs::statvfs(&runner.dir).ok();
    let governor = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    let is_virtual = value_of(&cpuinfo, "flags")
        .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let vendor = fs::read_to_string("/sys/class/dmi/id/sys_vendor").ok();
    Machine {
        cpu: value_of(&cpuinfo, "model name").unwrap_or_else(|| "unknown".to_owned()),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        cpus_used: [runner.cpus.0, runner.cpus.1],
        kernel: format!(
            "{} {}",
            uname.sysname().to_string_lossy(),
            uname.release().to_string_lossy()
        ),
        memory_bytes: memory_kib.unwrap_or(0) * 1024,
        shm: shm.map_or_else(
            || "unknown".to_owned(),
            |shm| format!("tmpfs, {} GiB", (shm.f_blocks * shm.f_frsize) >> 30),
        ),
        disk: mount_of(&runner.disk).unwrap_or_else(|| "unknown".to_owned()),
        hypervisor: is_virtual.then(|| {
            vendor
                .map(|vendor| vendor.trim().to_owned())
                .filter(|vendor| !vendor.is_empty())
                .unwrap_or_else(|| "virtual".to_owned())
        }),
        governor: fs::read_to_string(governor)
            .ok()
            .map(|text| text.trim().to_owned()),
        line_one_way_ns: [0.0; 3],
    }
}

/// One way of a bare cache line between the two cores, now.
///
/// # Errors
///
/// What the kernel refused.
pub fn line_ns(cpus: (usize, usize)) -> Result<f64> {
    let effort = Effort {
        rounds: 5,
        ..Effort::default()
    };
    Ok(one_way_ns_on(cpus, 8, effort)?)
}
