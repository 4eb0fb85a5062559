//! `mmsb doctor`: looks for what is wrong with buses and with the machine under them.
//!
//! It looks without taking part: joining a bus would repair it before anything could be seen. With `--repair` it joins,
//! and looks again.

use mmsb::{Bus, Error, Inspection};
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::exit::{Code, Failure};

pub mod bus;
pub mod system;

const EXAMPLES: &str = "\
Looks at one bus, or at all buses in the directory, and at the machine: dead participants and what they left, processes
that are stopped or half dead and hold something, leftovers of creations and removals, memory that lost its name, the
tmpfs, and systemd's RemoveIPC. Nobody needs --repair to go on: whoever meets the dead repairs them.

If the log record of a dead participant is corrupt, nobody can finish its commit, and nobody can join. --abandon gives up
that one delta: pages keep the bytes they have, half of the delta possibly. It says which pages and which LSN, and tells
subscribers by a mark.

Exit codes: 0 no problem, or all repaired; 1 problems are left. Warnings do not count.

Examples:
  mmsb doctor
  mmsb doctor prices --repair
  mmsb doctor --json | jq '.findings[] | select(.severity == \"problem\")'";

/// Arguments of `mmsb doctor`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Only this bus
    pub bus: Option<String>,
    /// Recover the dead and remove leftovers
    #[arg(long)]
    pub repair: bool,
    /// Also give up commits of the dead whose log record is corrupt: loses them
    #[arg(long, requires = "bus")]
    pub abandon: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Looked at, nothing wrong.
    Ok,
    /// May become a problem.
    Warning,
    /// Is one.
    Problem,
    /// Was one, until now.
    Repaired,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of check found it.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The bus; `None`: the machine.
    pub bus: Option<String>,
    /// What was found.
    pub message: String,
    /// What to do about it; empty if nothing.
    pub advice: String,
}

impl Finding {
    /// A finding about the machine.
    pub fn of_system(
        check: &'static str,
        severity: Severity,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            check,
            severity,
            bus: None,
            message: message.into(),
            advice: advice.into(),
        }
    }

    /// A finding about a bus.
    pub fn of_bus(
        bus: &str,
        check: &'static str,
        severity: Severity,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        Finding {
            bus: Some(bus.to_owned()),
            ..Finding::of_system(check, severity, message, advice)
        }
    }
}

/// Runs it.
///
/// # Errors
///
/// That the bus asked for does not exist, or that the directory cannot be read.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let names = Bus::list_in(&context.dir)?;
    let names = match &args.bus {
        None => names,
        Some(bus) if names.contains(bus) => vec![bus.clone()],
        // For the error that says so.
        Some(bus) => {
            Inspection::of(&context.dir, bus)?;
            vec![bus.clone()]
        }
    };
    let mut findings = system::check(&context.dir);
    for name in &names {
        findings.extend(check_bus(name, args, context));
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let (problems, warnings, repaired) = (
        count(Severity::Problem),
        count(Severity::Warning),
        count(Severity::Repaired),
    );
    if context.json {
        let document = json!({
            "findings": findings, "buses": names.len(),
            "problems": problems, "warnings": warnings, "repaired": repaired,
        });
        context.document(&document)?;
    } else {
        for finding in &findings {
            let mark = match finding.severity {
                Severity::Ok => "ok      ",
                Severity::Warning => "warning ",
                Severity::Problem => "PROBLEM ",
                Severity::Repaired => "repaired",
            };
            let subject = finding.bus.as_deref().unwrap_or("machine");
            let text = format!("{mark}  {subject}: {}", finding.message);
            context.line(super::table::escaped(&text))?;
            if !finding.advice.is_empty() {
                context.line(format!("          {}", finding.advice))?;
            }
        }
        context.line(format!(
            "{} buses: {problems} problems, {warnings} warnings, {repaired} repaired",
            names.len()
        ))?;
    }
    Ok(if problems == 0 {
        Code::Ok
    } else {
        Code::Problem
    })
}

fn check_bus(name: &str, args: &Args, context: &Context) -> Vec<Finding> {
    let findings = bus::check(name, &context.dir);
    let is_problem = |finding: &Finding| finding.severity == Severity::Problem;
    let repair = args.repair || args.abandon;
    if !repair || !findings.iter().any(is_problem) {
        return findings;
    }
    let mut abandoned = Vec::new();
    let result = if findings.iter().any(|f| f.check == bus::LEFTOVER) {
        Bus::unlink_in(&context.dir, name)
    } else if args.abandon {
        Bus::abandon_dead_in(&context.dir, name).map(|wrecks| abandoned = wrecks)
    } else {
        // Joining recovers the dead.
        context
            .bus(name)
            .attach()
            .and_then(|bus| bus.recover())
            .map(|_| ())
    };
    if let Err(error) = result {
        return with_failure(findings, name, error);
    }
    let is_there = Bus::list_in(&context.dir).is_ok_and(|names| names.iter().any(|n| n == name));
    let left = if is_there {
        bus::check(name, &context.dir)
    } else {
        Vec::new()
    };
    let mut all: Vec<Finding> = findings
        .into_iter()
        .filter(|old| is_problem(old) && !left.iter().any(|new| is_problem(new) && same(old, new)))
        // Said below, as it was done.
        .filter(|old| abandoned.is_empty() || old.check != bus::WRECK)
        .map(|mut finding| {
            finding.severity = Severity::Repaired;
            finding.advice = String::new();
            finding
        })
        .collect();
    // What was lost is said whatever was said ahead of it.
    all.extend(abandoned.iter().map(|wreck| {
        let message = format!("gave up {}", bus::wreck(wreck));
        let advice = "write what these pages should hold, from where it came from";
        Finding::of_bus(name, bus::WRECK, Severity::Repaired, message, advice)
    }));
    all.extend(left);
    all
}

fn same(old: &Finding, new: &Finding) -> bool {
    old.check == new.check && old.message == new.message
}

fn with_failure(mut findings: Vec<Finding>, name: &str, error: Error) -> Vec<Finding> {
    findings.push(Finding::of_bus(
        name,
        "repair",
        Severity::Problem,
        format!("the repair failed: {error}"),
        "end the processes that are named; give up what is corrupt with `mmsb doctor BUS --abandon`; or remove the bus with `mmsb rm --force`",
    ));
    findings
}
