//! What can be wrong with one bus.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use mmsb::{AttachError, Bus, Error, Inspection, Left, ParticipantStats, Stats, Wreck};

use super::super::exit::{Code, Failure};
use super::super::table::{bytes, count};
use super::system::{ProcessState, own_pid_namespace, process_state};
use super::{Finding, Severity};

/// The check that finds half a bus.
pub const LEFTOVER: &str = "leftover";

/// The check that says what may be done with a bus of somebody else.
const ACCESS: &str = "access";

/// The check that finds what no recovery can finish.
pub const WRECK: &str = "wreck";

/// A commit takes less than a microsecond; who holds the same one for so long is not at work.
const STANDS_STILL: Duration = Duration::from_millis(100);

/// Looks at the bus, without joining it.
pub fn check(name: &str, dir: &Path) -> Vec<Finding> {
    let finding = |check, severity, message: String, advice: &str| {
        vec![Finding::of_bus(name, check, severity, message, advice)]
    };
    let has = |suffix: &str| dir.join(format!("mmsb.{name}.{suffix}")).exists();
    let inspection = match Inspection::of(dir, name) {
        Ok(inspection) => inspection,
        Err(Error::Attach(AttachError::Missing { .. })) if has("ctl") => {
            return finding(
                LEFTOVER,
                Severity::Problem,
                "a control segment without pages: a creation was killed half-way".into(),
                "creating the bus again replaces it; `mmsb doctor --repair` or `mmsb rm` removes it",
            );
        }
        Err(Error::Attach(AttachError::BusGone { .. })) if has("pages") && !has("ctl") => {
            return finding(
                LEFTOVER,
                Severity::Problem,
                "pages without a control segment: a removal was killed half-way".into(),
                "`mmsb doctor --repair` or `mmsb rm` removes the rest",
            );
        }
        // Created or removed while we looked.
        Err(Error::Attach(AttachError::Initialising { .. } | AttachError::Missing { .. })) => {
            return finding(
                "segments",
                Severity::Ok,
                "is being created or removed right now".into(),
                "",
            );
        }
        Err(error) => {
            let is_read_only = is_read_only(&error);
            let failure = Failure::from(error);
            if is_read_only || failure.code == Code::Permission {
                return vec![access(name, dir, is_read_only, failure)];
            }
            let advice = "`mmsb rm --force` removes it, with its contents";
            return finding("segments", Severity::Problem, failure.message, advice);
        }
    };
    let again = unfinished(&inspection.stats).then(|| {
        std::thread::sleep(STANDS_STILL);
        Inspection::of(dir, name).ok().map(|seen| seen.stats)
    });
    let mut findings = participants(name, &inspection.stats, again.flatten().as_ref());
    findings.extend(inspection.wrecks.iter().map(|w| {
        let message = format!("nobody can join, because nobody can finish {}", wreck(w));
        let advice = "`mmsb doctor BUS --abandon` gives that delta up, and says so to subscribers";
        Finding::of_bus(name, WRECK, Severity::Problem, message, advice)
    }));
    findings.extend(room(name, &inspection));
    if findings.is_empty() {
        let stats = &inspection.stats;
        findings.push(Finding::of_bus(
            name,
            "bus",
            Severity::Ok,
            format!(
                "{} pages, {} participants, {} subscriptions, {} recovered so far",
                count(stats.pages),
                stats.participants.len(),
                stats.cursors.len(),
                count(stats.counter("recoveries")),
            ),
            "",
        ));
    }
    findings.extend(elsewhere(name, &inspection.stats));
    findings
}

fn is_read_only(error: &Error) -> bool {
    matches!(error, Error::Attach(AttachError::Io { source, .. }) if source.kind() == ErrorKind::ReadOnlyFilesystem)
}

/// Somebody else's bus, or one on a read-only mount, is no fault of it: what can be done with it from here.
fn access(name: &str, dir: &Path, is_read_only: bool, failure: Failure) -> Finding {
    let owner = |suffix: &str| match fs::symlink_metadata(dir.join(format!("mmsb.{name}.{suffix}")))
    {
        Ok(metadata) => format!(
            "uid {}, gid {}, mode {:04o}",
            metadata.uid(),
            metadata.gid(),
            metadata.mode() & 0o7777
        ),
        Err(_) => "unknown".into(),
    };
    let me = format!(
        "you are uid {}, gid {}",
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw()
    );
    let of =
        |severity, message, advice: &str| Finding::of_bus(name, ACCESS, severity, message, advice);
    match Bus::builder(name).dir(dir).observe() {
        Ok(_) if is_read_only => of(
            Severity::Ok,
            "can be observed, not written: it is on a read-only mount".into(),
            "",
        ),
        Ok(_) => of(
            Severity::Ok,
            format!(
                "can be observed, not written: its control segment is of {}, and {me}",
                owner("ctl")
            ),
            "to write it, run as its owner; or have it created with --mode 660 --ctl-mode 660 and a group that you are in",
        ),
        Err(_) => of(
            Severity::Warning,
            format!(
                "{}; its pages are of {}, and {me}",
                failure.message,
                owner("pages")
            ),
            "to observe it, have it created with --mode 644, or 640 and a group that you are in; or look as its owner",
        ),
    }
}

/// Participants whose process numbers mean nothing here.
fn elsewhere(name: &str, stats: &Stats) -> Option<Finding> {
    let namespace = own_pid_namespace();
    let others: Vec<String> = stats
        .participants
        .iter()
        .filter(|p| p.pid_namespace != namespace)
        .map(|p| format!("{} (pid {} in {})", p.name, p.pid, p.pid_namespace))
        .collect();
    (!others.is_empty() && namespace != 0).then(|| {
        let message = format!(
            "in other PID namespaces than this one ({namespace}): {}; the kernel's locks tell here, too, whether they live",
            others.join(", ")
        );
        let advice = "whether one is stopped is seen from its own container, or from the host";
        Finding::of_bus(name, "namespaces", Severity::Ok, message, advice)
    })
}

/// Exactly what is lost.
pub fn wreck(wreck: &Wreck) -> String {
    let pages: Vec<String> = wreck
        .pages
        .iter()
        .map(|page| {
            let left = match page.left {
                Left::Nothing => "not there",
                Left::Before => "as before the delta",
                Left::Behind => "as after the delta",
                Left::Torn => "half written",
            };
            format!("page {} ({left})", page.id)
        })
        .collect();
    let pages = if pages.is_empty() {
        "no page".into()
    } else {
        pages.join(", ")
    };
    let lsn = match wreck.lsn {
        0 => "what it held".into(),
        lsn => format!("the delta at LSN {lsn}"),
    };
    let names = if wreck.names {
        "; a creation, removal or renaming may be half done"
    } else {
        ""
    };
    format!(
        "{lsn} of the dead {} (pid {}, participant {}): {}; it held {pages}{names}",
        wreck.name, wreck.pid, wreck.index, wreck.corrupt
    )
}

fn unfinished(stats: &Stats) -> bool {
    stats.participants.iter().any(|p| p.hold != 0)
}

/// Judges everybody in a slot. `later`: the same a moment later, to tell who stands still.
fn participants(name: &str, stats: &Stats, later: Option<&Stats>) -> Vec<Finding> {
    let namespace = own_pid_namespace();
    let mut findings = Vec::new();
    // The most that anybody has to wait for a gating cursor is what it lags behind.
    let mut lags: HashMap<u32, u64> = HashMap::new();
    for cursor in stats.cursors.iter().filter(|cursor| cursor.gating) {
        let lag = lags.entry(cursor.participant).or_default();
        *lag = cursor.lag.max(*lag);
    }
    let ring_slots = stats.ring_bytes / 64;
    for p in &stats.participants {
        let is_here = p.pid_namespace == namespace;
        let whose = if is_here {
            String::new()
        } else {
            format!(" in PID namespace {}", p.pid_namespace)
        };
        let who = format!("{} (pid {}{whose}, participant {})", p.name, p.pid, p.index);
        let mut push = |check, severity, message: String, advice: String| {
            findings.push(Finding::of_bus(name, check, severity, message, advice));
        };
        if !p.alive {
            let left = match p.hold {
                0 => String::new(),
                lsn => format!(", with a commit at LSN {lsn} unfinished"),
            };
            push(
                "dead",
                Severity::Problem,
                format!("{who} is dead{left}"),
                "the next participant that joins or waits repairs it; `mmsb doctor --repair` does now"
                    .into(),
            );
            continue;
        }
        let state = if is_here {
            process_state(p.pid)
        } else {
            ProcessState::Unknown
        };
        let stands_still = p.hold != 0
            && later.is_some_and(|later| {
                later
                    .participants
                    .iter()
                    .any(|q| is_same_life(p, q) && q.hold == p.hold)
            });
        let lag = lags.get(&p.index).copied().unwrap_or(0);
        let holds = match (stands_still, lag) {
            (true, _) => Some(format!("the unfinished commit at LSN {}", p.hold)),
            (false, lag) if lag > 0 => Some(format!("{lag} ring slots as a gating subscriber")),
            _ => None,
        };
        match (state, holds) {
            (ProcessState::Stopped, Some(holds)) => push(
                "stopped",
                Severity::Problem,
                format!("{who} is stopped and holds {holds}"),
                format!(
                    "others wait for it: let it go on (kill -CONT {}), or end it (kill -KILL {})",
                    p.pid, p.pid
                ),
            ),
            (ProcessState::Stopped, None) => push(
                "stopped",
                Severity::Warning,
                format!("{who} is stopped"),
                String::new(),
            ),
            (ProcessState::Zombie, holds) => push(
                "zombie",
                Severity::Problem,
                format!(
                    "{who} is a zombie, but its lock is held{}",
                    holds.map_or(String::new(), |holds| format!(" and so is {holds}"))
                ),
                "its other threads are still ending, or a child has a copy of its descriptors: end those"
                    .into(),
            ),
            (ProcessState::Gone, holds) => push(
                "gone",
                Severity::Problem,
                format!(
                    "{who} is gone, but its lock is held{}",
                    holds.map_or(String::new(), |holds| format!(" and so is {holds}"))
                ),
                "a child of it has a copy of its descriptors; find it with `fuser` on the control segment, and end it"
                    .into(),
            ),
            (_, Some(_)) if stands_still => push(
                "unfinished",
                Severity::Warning,
                format!("{who} holds the commit at LSN {} for over 0.1 s", p.hold),
                "it may be starved of processor time".into(),
            ),
            (_, Some(_)) if ring_slots > 0 && lag > ring_slots / 2 => push(
                "lag",
                Severity::Warning,
                format!("{who} is {lag} of {ring_slots} ring slots behind, and writers wait for it"),
                "give the bus a larger ring, or subscribe without gating".into(),
            ),
            _ => {}
        }
    }
    findings
}

fn is_same_life(a: &ParticipantStats, b: &ParticipantStats) -> bool {
    (a.index, a.generation) == (b.index, b.generation)
}

/// Tables of the bus that are nearly full.
fn room(name: &str, inspection: &Inspection) -> Vec<Finding> {
    let (info, stats) = (&inspection.info, &inspection.stats);
    let tables = [
        ("pages", stats.pages, u64::from(info.pages_max), "pages-max"),
        ("names", stats.names, u64::from(info.names_max), "names-max"),
        (
            "source names",
            stats.sources,
            u64::from(info.sources_max),
            "sources-max",
        ),
        (
            "participant slots",
            stats.participants.len() as u64,
            u64::from(info.participants_max),
            "participants-max",
        ),
        (
            "cursors",
            stats.cursors.len() as u64,
            u64::from(info.cursors_max),
            "cursors-max",
        ),
    ];
    let mut findings = Vec::new();
    let mut push = |message: String, option: &str| {
        findings.push(Finding::of_bus(
            name,
            "room",
            Severity::Warning,
            message,
            format!("create the bus again with a larger --{option}"),
        ));
    };
    for (what, used, max, option) in tables {
        if used * 10 > max * 9 {
            push(format!("{used} of {max} {what} are in use"), option);
        }
    }
    if info.len_bytes / 9 > info.bytes_max / 10 {
        push(
            format!(
                "{} of {} are in use",
                bytes(info.len_bytes),
                bytes(info.bytes_max)
            ),
            "size",
        );
    }
    findings
}
