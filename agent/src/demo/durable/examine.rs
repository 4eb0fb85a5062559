//! Those who look at what is left: the coroner at the segments of the dead, the examiner at a bus that was rebuilt.

use mmsb::history::{At, Diff, Log};
use mmsb::state::State;

use crate::cli::diff::{lines, title};
use crate::cli::exit::Failure;
use crate::demo::crew::Role;
use crate::demo::message::{Examined, Excerpt, Message, PageChange, Parent, Remains};
use crate::demo::model::Cast;
use crate::demo::worker::Assignment;

use super::witness::{Copier, hash};
use super::write::join;

/// Pages in an excerpt.
const PAGES_SHOWN: usize = 5;
/// Lines of each.
const LINES_SHOWN: usize = 2;
/// Characters of each.
const LINE: usize = 100;

/// Says how far the log was when everybody died. It only reads: the remains are nobody's to repair.
///
/// # Errors
///
/// That there are no remains.
pub fn remains(assignment: &Assignment, parent: &mut Parent) -> Result<(), Failure> {
    let status = assignment.bus(Role::Coroner).observe()?.log_status();
    parent.send(&Message::Remains(Remains {
        durable_lsn: status.durable_lsn,
        end_lsn: status.end_lsn,
    }))?;
    Ok(())
}

/// Compares the rebuilt bus with its log, and the log with the cuts that were taken before.
///
/// # Errors
///
/// That the bus did not come back, or cannot be read. What is different is told, not an error.
pub fn run(assignment: &Assignment, cast: &Cast, parent: &mut Parent) -> Result<(), Failure> {
    let Some(dir) = &assignment.log else {
        return Err(Failure::usage("the examiner needs the log"));
    };
    let bus = join(assignment, Role::Examine)?;
    let fork_lsn = bus.log_status().fork_lsn;
    let copier = Copier::new(&bus)?;
    let (rebuilt, _) = copier.copy()?;
    let log = Log::open(dir)?;
    let replayed = log.state_at(At::Lsn(fork_lsn.saturating_sub(1)))?;
    let live = log.verify_live(copier.images())?;
    let verified = log.verify()?;
    let survey = mmsb::tlog::survey(dir)?;
    let mut found = Examined {
        incarnation: bus.info()?.incarnation,
        fork_lsn,
        pages: rebuilt.len() as u64,
        rebuilt: hash(&rebuilt),
        replayed: hash(&replayed),
        equal: live.equal,
        different: live.different.iter().map(|d| d.page.to_string()).collect(),
        last: vec![0; cast.streams()],
        records: verified.records,
        files: survey.files.len() as u64,
        bytes: survey.bytes(),
        ..Examined::default()
    };
    for page in rebuilt.pages() {
        let name = &page.cold().name;
        let Some(part) = cast.part(name) else {
            found.problems.push(format!("a page {name:?} came up"));
            continue;
        };
        if !cast.is_whole(part, page.bytes()) {
            found.torn.push(name.clone());
        }
        for (stream, number) in cast.positions(part, page.bytes()) {
            found.last[stream] = number;
        }
    }
    found
        .problems
        .extend(verified.error.iter().map(ToString::to_string));
    for check in &verified.checkpoints {
        found.checkpoints += u64::from(check.compared);
        found
            .problems
            .extend(check.damage.iter().map(ToString::to_string));
        if !check.different.is_empty() {
            let (path, n) = (check.info.path.display(), check.different.len());
            found
                .problems
                .push(format!("{n} pages of {path} are not as in the log"));
        }
    }
    let mut first = None;
    for lsn in &assignment.at {
        let state = log.state_at(At::Lsn(*lsn));
        let told = match &state {
            Ok(state) => Ok(hash(state)),
            Err(e) => Err(e.to_string()),
        };
        found.cuts.push((*lsn, told));
        first = first.or(state.ok());
    }
    found.diff = first.map(|first| excerpt(&first, &replayed));
    parent.send(&Message::Examined(Box::new(found)))?;
    Ok(())
}

/// Some of what changed: live data of this machine first, without the numbers that prove it whole.
fn excerpt(from: &State, to: &State) -> Excerpt {
    let diff = Diff::of(from, to);
    let told = |line: &str| cut(line.trim_start());
    let is_proof = |line: &String| {
        line.trim_start_matches(['-', '+', ' '])
            .starts_with("samples=")
    };
    let shown = diff.pages.iter().map(|page| PageChange {
        page: title(page),
        ranges: page.ranges.len() as u64,
        bytes: page.ranges.iter().map(|range| range.new.len() as u64).sum(),
        lines: lines(page, from, to)
            .iter()
            .skip(1)
            .map(|line| told(line))
            .filter(|line| !line.is_empty() && !is_proof(line))
            .take(LINES_SHOWN)
            .collect(),
    });
    let mut shown: Vec<PageChange> = shown.filter(|page| !page.lines.is_empty()).collect();
    shown.sort_by_key(|page| (page.page.starts_with("demo/"), page.page.clone()));
    shown.truncate(PAGES_SHOWN);
    Excerpt {
        from_lsn: diff.from_lsn,
        to_lsn: diff.to_lsn,
        pages: diff.pages.len() as u64,
        shown,
    }
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
