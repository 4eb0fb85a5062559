//! The report: a summary, where MMSB is behind, a section for every job, and how everybody was set up.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::markdown::{Align, Table, code, plain, prose};
use super::plots::Plot;
use super::standing::{Entry, Group, REPORTED, Verdict};
use super::units::{self, alone, ratio};
use crate::results::{Figure, Job, Kind, Results, Spread};

/// What stands in the report beside the results.
pub struct Extras<'a> {
    /// Written by hand, by job: goes into the job's section.
    pub notes: &'a BTreeMap<Job, String>,
    /// Written by hand: follows the list of where MMSB is behind.
    pub behind: Option<&'a str>,
    /// All pictures.
    pub plots: &'a [Plot],
    /// From the report to the folder of the pictures.
    pub plots_link: &'a str,
}

/// What a job is called and what is timed, for people.
fn words(job: Job) -> (&'static str, &'static str) {
    match job {
        Job::OneWay => (
            "One way",
            "One process writes a value, another polls until it has it and reads it whole.",
        ),
        Job::Throughput => (
            "Throughput",
            "One producer, one consumer, each message read, none lost.",
        ),
        Job::ReadAlone => (
            "Reading the latest value",
            "One read of the latest value while nobody writes.",
        ),
        Job::UpdateAlone => (
            "Updating a value alone",
            "One update of the latest value while nobody reads. **No job that MMSB exists for**: an update nobody \
             waits for, in no order with others and in no log, is better kept in private memory. It is printed all the same.",
        ),
        Job::Contended => (
            "Latest value under contention",
            "One writer and one reader of one value, both flat out. A contender that is quick at one and starves the \
             other has done half of the job: both are compared.",
        ),
        Job::Wake => (
            "Waking a reader",
            "From before the notification until the reader, who was asleep, has the value.",
        ),
        Job::LateJoin => (
            "Joining late",
            "A fresh process: from the start of attaching until it has read the whole state, 1000 values.",
        ),
        Job::Synced => (
            "Synced commits",
            "Commits that are on the disk when they return, by 1, 8 and 64 threads.",
        ),
        Job::Recovery => (
            "Recovery",
            "From `kill -9` of the writer until a reader has the first value of its successor. *Never*: kills after \
             which that had not happened in ten seconds.",
        ),
    }
}

/// What a job is called, for people.
pub fn title(job: Job) -> &'static str {
    words(job).0
}

/// A figure's name in a heading.
fn heading(job: Job, figure: Figure) -> &'static str {
    match figure {
        Figure::P50 if job == Job::Synced => "p50",
        Figure::P50 => "median",
        Figure::P99 => "p99",
        Figure::Max => "slowest",
        Figure::PerSecond if job == Job::Synced => "commits",
        Figure::PerSecond => "messages",
        Figure::ReadsPerSecond => "reads",
        Figure::WritesPerSecond => "writes",
    }
}

/// Job and size as a row of the summary calls them.
fn setting(group: &Group, figure: Figure) -> String {
    let mut text = units::bytes(group.bytes);
    if group.job == Job::LateJoin {
        text = format!("1000 × {text}");
    }
    match group.threads {
        Some(1) => text.push_str(", 1 thread"),
        Some(threads) => _ = write!(text, ", {threads} threads"),
        None => {}
    }
    if group.job == Job::Contended {
        _ = write!(text, ", {}", heading(group.job, figure));
    }
    text
}

/// As GitHub and others make it of a heading.
fn anchor(heading: &str) -> String {
    let mut text = String::new();
    for character in heading.to_lowercase().chars() {
        match character {
            ' ' | '-' => text.push('-'),
            _ if character.is_alphanumeric() => text.push(character),
            _ => {}
        }
    }
    text
}

fn link(job: Job) -> String {
    format!("[{}](#{})", title(job), anchor(title(job)))
}

fn median(entry: &Entry, figure: Figure) -> String {
    match (entry.spread(figure), entry.case.never()) {
        (Some(spread), Some(count)) if count > 0 => {
            format!("{}, {count} × never", alone(figure, spread.median))
        }
        (Some(spread), _) => alone(figure, spread.median),
        (None, Some(count)) if count > 0 => "never".into(),
        (None, _) => "–".into(),
    }
}

fn named(entry: &Entry, figure: Figure) -> String {
    format!(
        "{}: {}",
        plain(&entry.contender.label),
        median(entry, figure)
    )
}

fn times(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), ratio)
}

fn judged(verdict: Option<Verdict>) -> String {
    match verdict {
        Some(Verdict::Ahead(Some(factor))) => format!("ahead, {} ×", ratio(factor)),
        Some(Verdict::Ahead(None)) => "ahead: it recovers".into(),
        Some(Verdict::Behind(Some(factor))) => format!("**behind**, {} ×", ratio(factor)),
        Some(Verdict::Behind(None)) => "**behind**: it does not always recover".into(),
        Some(Verdict::Even(_)) => "even".into(),
        None => "–".into(),
    }
}

/// The whole report.
pub fn report(results: &Results, extras: &Extras) -> String {
    let groups = Group::all(results);
    let mut parts = vec![top(results), summary(&groups), behind(&groups)];
    if let Some(text) = extras.behind {
        parts.push(text.trim().to_owned());
    }
    parts.push(method(results));
    for job in REPORTED {
        let of_job: Vec<&Group> = groups.iter().filter(|group| group.job == job).collect();
        if !of_job.is_empty() {
            parts.push(section(job, &of_job, extras));
        }
    }
    parts.push(setups(results));
    let mut text = parts
        .iter()
        .map(|part| part.trim_end())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("\n\n");
    text.push('\n');
    text
}

fn top(results: &Results) -> String {
    let mut text = format!(
        "<!-- Written by `mmsb-peers render`. Do not edit: run the command below, or edit benches/peers/notes. -->\n\n\
         # Beside the peers\n\n\
         The same jobs on MMSB and on what one would take instead, on one machine, in one run. This page is generated by \
         {}; it says where MMSB is [behind](#where-mmsb-is-behind) as it says where it is ahead.\n\n",
        code(&results.command),
    );
    if results.quick {
        text.push_str("> **A quick run**: too short for figures that anybody should quote.\n\n");
    }
    let machine = &results.machine;
    let mut table = Table::new([
        ("measured", Align::Left),
        (results.date.as_str(), Align::Left),
    ]);
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            table.row([name.into(), value]);
        }
    };
    let told = |value: &str| Some(plain(value));
    let typed = |value: &str| (!value.is_empty()).then(|| code(value));
    fact("by", typed(&results.command));
    fact("commit", typed(&results.commit));
    fact("rounds", Some(results.rounds.to_string()));
    let processor = format!("{}, {} cores", plain(&machine.cpu), machine.cores);
    fact("processor", Some(processor));
    fact(
        "CPUs used",
        Some(machine.cpus_used.map(|cpu| cpu.to_string()).join(", ")),
    );
    let [min, median, max] = machine.line_one_way_ns;
    let line = (median > 0.0).then(|| {
        format!(
            "{} one way ({} to {} over the run)",
            alone(Figure::P50, median),
            alone(Figure::P50, min),
            alone(Figure::P50, max)
        )
    });
    fact("cache line between them", line);
    fact("hypervisor", machine.hypervisor.as_deref().and_then(told));
    fact("governor", machine.governor.as_deref().and_then(told));
    let memory = machine.memory_bytes as f64 / f64::from(1 << 30);
    fact(
        "memory",
        (memory > 0.0).then(|| format!("{} GiB", units::number(memory))),
    );
    fact("shared memory", told(&machine.shm));
    fact("disk", told(&machine.disk));
    fact("kernel", told(&machine.kernel));
    text.push_str(&table.to_markdown());
    text
}

fn method(results: &Results) -> String {
    let cpus = results
        .machine
        .cpus_used
        .map(|cpu| cpu.to_string())
        .join(" and ");
    format!(
        "## How it is measured\n\n\
         * **In turns.** Every contender of a job has one turn in each of {} rounds (A B C, A B C, ...), so that a machine that \
         drifts does so for all. Processes are pinned, to the CPUs {cpus}; committers, who are more than these, are not.\n\
         * **Whole payloads.** Every byte is written, and read where it arrives. One way is from before the first \
         byte is written until after the last one is read, by the processor's counter, which both cores share; the answer that \
         lets the next message go is a bare cache line for all. Rounds take turns in which core sends.\n\
         * **Figures** are medians over the rounds, of each round's own median where times are measured. *Spread* is the \
         least and the most of the rounds. *p99* is the median over the rounds, too.\n\
         * **Floor**: the machine doing the same without any system: a bare cache line, bare memory, a bare futex, a bare disk. \
         *× floor* divides by the best floor of the same job and size, *× MMSB* by MMSB's best contender; of times less \
         is better, of rates more.\n\
         * **Best**: MMSB's and the peers' best contender of a job and size, chosen after the fact on both sides. Where a job \
         has two figures, one of MMSB's contenders (of the best product) stands for both, beside the best peer for each.\n\
         * **Even**: each median lies within the spread of the other. The factors beside *ahead* and *behind* are how \
         many times better the better one is.\n\
         * Each peer is set up as its own documentation advises: [set-ups](#set-ups).",
        results.rounds,
    )
}

fn summary(groups: &[Group]) -> String {
    let mut table = Table::new([
        ("job", Align::Left),
        ("", Align::Left),
        ("MMSB's best", Align::Left),
        ("best peer", Align::Left),
        ("floor", Align::Left),
        ("× floor", Align::Right),
        ("MMSB is", Align::Left),
    ]);
    let mut foreign = false;
    for group in groups {
        for figure in group.job.figures() {
            let show = |entry: Option<&Entry>| {
                entry.map_or_else(|| "–".into(), |entry| named(entry, *figure))
            };
            let (mmsb, peer) = (group.mmsb(), group.best_by(Kind::Peer, *figure));
            let times_floor = mmsb.and_then(|mmsb| group.times_floor(mmsb, *figure));
            let verdict = match (mmsb, peer) {
                (None, _) => "not measured".into(),
                (_, None) => "no peer beside it".into(),
                (_, Some(peer)) => judged(group.verdict(peer, *figure)),
            };
            let mut job = link(group.job);
            if !group.job.is_of_mmsb() {
                foreign = true;
                job.push_str(" †");
            }
            table.row([
                job,
                setting(group, *figure),
                show(mmsb),
                show(peer),
                show(group.best_by(Kind::Floor, *figure)),
                times(times_floor),
                verdict,
            ]);
        }
    }
    let mut text = format!("## Summary\n\n{}", table.to_markdown());
    if foreign {
        text.push_str("\n† No job that MMSB exists for; printed all the same.\n");
    }
    text
}

/// All rows in which some peer is not behind MMSB: ahead, or too close to call with the better median.
fn behind(groups: &[Group]) -> String {
    let columns = || {
        Table::new([
            ("job", Align::Left),
            ("", Align::Left),
            ("peer", Align::Left),
            ("MMSB's best", Align::Left),
            ("factor", Align::Right),
        ])
    };
    let (mut ahead, mut close, mut foreign) = (columns(), columns(), columns());
    let mut unmeasured = Vec::new();
    for group in groups {
        for figure in group.job.figures() {
            let Some(mmsb) = group.mmsb() else {
                if group.of(Kind::Peer).next().is_some() {
                    unmeasured.push(format!("{}, {}", link(group.job), setting(group, *figure)));
                }
                continue;
            };
            for peer in group.of(Kind::Peer) {
                let (table, factor) = match group.verdict(peer, *figure) {
                    Some(Verdict::Behind(factor)) if group.job.is_of_mmsb() => (&mut ahead, factor),
                    Some(Verdict::Behind(factor)) => (&mut foreign, factor),
                    Some(Verdict::Even(factor)) if factor < 1.0 => (&mut close, Some(1.0 / factor)),
                    _ => continue,
                };
                table.row([
                    link(group.job),
                    setting(group, *figure),
                    named(peer, *figure),
                    named(mmsb, *figure),
                    times(factor),
                ]);
            }
        }
    }
    let mut text = String::from("## Where MMSB is behind\n\n");
    let has_peers = groups
        .iter()
        .any(|group| group.of(Kind::Peer).next().is_some());
    if !has_peers {
        text.push_str("In this run no peer was measured.\n");
    } else if ahead.is_empty() {
        text.push_str("In this run no peer was ahead in a job that MMSB exists for.\n");
    } else {
        text.push_str(
            "Every peer that was ahead of MMSB's best, in every job, size and figure:\n\n",
        );
        text.push_str(&ahead.to_markdown());
    }
    if !close.is_empty() {
        text.push_str("\nToo close to call, with the better median on the peer's side:\n\n");
        text.push_str(&close.to_markdown());
    }
    if !foreign.is_empty() {
        text.push_str("\nIn what is no job that MMSB exists for:\n\n");
        text.push_str(&foreign.to_markdown());
    }
    if !unmeasured.is_empty() {
        _ = writeln!(
            text,
            "\nMeasured on peers, and not on MMSB: {}.",
            unmeasured.join("; ")
        );
    }
    text
}

/// How many rows there are in which a peer is ahead.
fn count_behind(groups: &[Group]) -> usize {
    let of_mmsb = groups.iter().filter(|group| group.job.is_of_mmsb());
    let rows = of_mmsb.flat_map(|group| {
        group
            .job
            .figures()
            .iter()
            .map(move |figure| (group, *figure))
    });
    rows.filter(|(group, figure)| {
        // Where MMSB was to have a figure and has none, any peer's is ahead of it.
        let has_failed = group.without.iter().any(|entry| {
            let why = entry.case.skipped.as_deref().unwrap_or_default();
            entry.contender.kind == Kind::Mmsb && why.starts_with("failed")
        }) && group.of(Kind::Mmsb).next().is_none();
        group.of(Kind::Peer).any(|peer| {
            has_failed || matches!(group.verdict(peer, *figure), Some(Verdict::Behind(_)))
        })
    })
    .count()
}

fn section(job: Job, groups: &[&Group], extras: &Extras) -> String {
    let (title, what) = words(job);
    let mut text = format!("## {title}\n\n{what}\n");
    for plot in extras
        .plots
        .iter()
        .filter(|plot| plot.job == job && plot.svg.is_some())
    {
        let address = format!("{}/{}", extras.plots_link, plot.file);
        _ = write!(text, "\n![{}]({})\n", plot.alt, target(&address));
    }
    for group in groups {
        if groups.len() > 1 {
            _ = write!(text, "\n### {title}, {}\n", size_of(group));
        }
        _ = write!(text, "\n{}", table(group));
        let remarks = remarks(group);
        if !remarks.is_empty() {
            _ = write!(text, "\n{}\n", remarks.join("\n"));
        }
    }
    let without = without(groups);
    if !without.is_empty() {
        _ = write!(
            text,
            "\nNot in this job, or not in all of it:\n\n{}\n",
            without.join("\n")
        );
    }
    if let Some(note) = extras.notes.get(&job) {
        _ = write!(text, "\n{}\n", note.trim());
    }
    text
}

fn size_of(group: &Group) -> String {
    match group.threads {
        Some(1) => "1 thread".into(),
        Some(threads) => format!("{threads} threads"),
        None => units::bytes(group.bytes),
    }
}

/// In angle brackets where an address has what would end it.
fn target(address: &str) -> String {
    if address.contains([' ', '(', ')']) {
        format!("<{address}>")
    } else {
        address.to_owned()
    }
}

/// The columns of a job: figures with their spread, figures alone, and whether kills without recovery are counted.
fn columns(job: Job) -> (&'static [Figure], &'static [Figure], bool) {
    match job {
        Job::Contended | Job::Throughput => (job.figures(), &[], false),
        Job::Synced => (job.figures(), &[Figure::P50, Figure::P99], false),
        Job::Recovery => (job.figures(), &[Figure::Max], true),
        _ => (job.figures(), &[Figure::P99], false),
    }
}

fn table(group: &Group) -> String {
    let (main, others, never) = columns(group.job);
    let medians = |figure: Figure| {
        let spreads = group
            .entries
            .iter()
            .filter_map(move |entry| entry.spread(figure));
        spreads.map(|spread| spread.median)
    };
    let others: Vec<Figure> = others
        .iter()
        .copied()
        .filter(|figure| medians(*figure).next().is_some())
        .collect();
    let unit = |figure: Figure| units::unit_for(figure, medians(figure));
    let mut heads = vec![("contender".to_owned(), Align::Left)];
    for figure in main {
        let name = heading(group.job, *figure);
        heads.push((format!("{name}, {}", unit(*figure).name), Align::Right));
        heads.push(("spread".into(), Align::Right));
    }
    for figure in &others {
        let name = heading(group.job, *figure);
        heads.push((format!("{name}, {}", unit(*figure).name), Align::Right));
    }
    if never {
        heads.push(("never".into(), Align::Right));
    }
    for reference in ["× floor", "× MMSB"] {
        for figure in main {
            let name = heading(group.job, *figure);
            let several = if main.len() > 1 {
                format!(", {name}")
            } else {
                String::new()
            };
            heads.push((format!("{reference}{several}"), Align::Right));
        }
    }
    let mut table = Table::new(heads);
    let cell = |value: Option<String>| value.unwrap_or_else(|| "–".into());
    for entry in &group.entries {
        let label = plain(&entry.contender.label);
        let mut row = vec![match entry.contender.kind {
            Kind::Mmsb => format!("**{label}**"),
            Kind::Floor => format!("*{label}* (floor)"),
            Kind::Peer => label,
        }];
        for figure in main {
            let spread = entry.spread(*figure);
            row.push(cell(
                spread.map(|spread| unit(*figure).number(spread.median)),
            ));
            row.push(cell(spread.map(|spread| range(spread, unit(*figure)))));
        }
        for figure in &others {
            let spread = entry.spread(*figure);
            // Of the slowest of each round, the slowest; of all others, the median.
            let value = spread.map(|spread| match figure {
                Figure::Max => spread.max,
                _ => spread.median,
            });
            row.push(cell(value.map(|value| unit(*figure).number(value))));
        }
        if never {
            row.push(cell(entry.case.never().map(|count| count.to_string())));
        }
        row.extend(
            main.iter()
                .map(|figure| times(group.times_floor(entry, *figure))),
        );
        row.extend(
            main.iter()
                .map(|figure| times(group.times_mmsb(entry, *figure))),
        );
        table.row(row);
    }
    if table.is_empty() {
        return "Nobody has figures.\n".into();
    }
    table.to_markdown()
}

fn range(spread: Spread, unit: units::Unit) -> String {
    format!("{} – {}", unit.number(spread.min), unit.number(spread.max))
}

fn remarks(group: &Group) -> Vec<String> {
    let mut remarks = Vec::new();
    for entry in &group.entries {
        let notes: Vec<String> = entry.case.notes().into_iter().map(prose).collect();
        if !notes.is_empty() {
            let label = plain(&entry.contender.label);
            remarks.push(format!("* {label}: {}", notes.join("; ")));
        }
    }
    remarks
}

/// Who has no figures and why: one line for a contender and its reason, with the sizes unless it is all of them.
fn without(groups: &[&Group]) -> Vec<String> {
    let mut sizes: BTreeMap<(&str, &str, &str), Vec<String>> = BTreeMap::new();
    for group in groups {
        for entry in &group.without {
            let reason = entry
                .case
                .skipped
                .as_deref()
                .unwrap_or("no figures came of it");
            let contender = entry.contender;
            sizes
                .entry((&contender.system, &contender.label, reason))
                .or_default()
                .push(size_of(group));
        }
    }
    sizes
        .into_iter()
        .map(|((_, label, reason), sizes)| {
            let where_ = if sizes.len() == groups.len() {
                String::new()
            } else {
                format!(" ({})", sizes.join(", "))
            };
            format!("* {}{where_}: {}", plain(label), prose(reason))
        })
        .collect()
}

fn setups(results: &Results) -> String {
    let mut text = String::from("## Set-ups\n\n");
    let used: BTreeSet<&str> = results
        .cases
        .iter()
        .map(|case| case.contender.as_str())
        .collect();
    for kind in [Kind::Mmsb, Kind::Peer, Kind::Floor] {
        for contender in results
            .contenders
            .iter()
            .filter(|contender| contender.kind == kind)
        {
            if used.contains(contender.name.as_str()) {
                _ = writeln!(
                    text,
                    "* **{}** ({}): {}",
                    plain(&contender.label),
                    code(&contender.name),
                    prose(&contender.config)
                );
            }
        }
    }
    if !results.versions.is_empty() {
        let mut table = Table::new([("system", Align::Left), ("version", Align::Left)]);
        for version in &results.versions {
            table.row([plain(&version.system), plain(&version.version)]);
        }
        _ = write!(text, "\n## Versions\n\n{}", table.to_markdown());
    }
    text
}

/// The three rows that say most, for the README: fixed jobs and sizes, never the three that look best.
///
/// One way at 64 bytes, the latest value of 64 bytes under contention, and synced commits by 8 threads, or recovery where
/// nothing was committed. A row that was not measured is left out.
pub fn telling_rows(results: &Results) -> Vec<[String; 4]> {
    let groups = Group::all(results);
    let find = |job: Job, threads: Option<usize>| {
        groups.iter().find(|group| {
            group.job == job
                && group.bytes == 64
                && group.threads == threads
                && group.mmsb().is_some()
        })
    };
    let durable = find(Job::Synced, Some(8)).or_else(|| find(Job::Recovery, None));
    let rows = [find(Job::OneWay, None), find(Job::Contended, None), durable];
    rows.into_iter().flatten().map(telling_row).collect()
}

fn telling_row(group: &Group) -> [String; 4] {
    let figures = group.job.figures();
    let all = |entry: &Entry| {
        let figures = figures.iter().map(|figure| match group.job {
            Job::Contended => format!("{} {}", median(entry, *figure), heading(group.job, *figure)),
            _ => median(entry, *figure),
        });
        figures.collect::<Vec<_>>().join(" + ")
    };
    let labelled = |entry: &Entry| format!("{}: {}", plain(&entry.contender.label), all(entry));
    let what = match group.job {
        Job::OneWay => "one way, 64 bytes, written and read whole",
        Job::Contended => "latest value of 64 bytes, one writer and one reader flat out",
        Job::Synced => "commits of 64 bytes that are on the disk, 8 threads",
        _ => "from `kill -9` of the writer to its successor's first value",
    };
    // One for each system: its best. They are in order, so that the first is.
    let mut systems = BTreeSet::new();
    let peers = group
        .of(Kind::Peer)
        .filter(|entry| systems.insert(entry.contender.system.as_str()));
    let peers: Vec<String> = peers.map(labelled).collect();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
    [
        what.into(),
        or_dash(group.mmsb().map(labelled)),
        or_dash(Some(peers.join("; ")).filter(|text| !text.is_empty())),
        or_dash(group.of(Kind::Floor).next().map(labelled)),
    ]
}

/// [`telling_rows`] as a table, with where the rest is; `link` leads to the report.
pub fn telling(results: &Results, link: &str) -> String {
    let mut table = Table::new([
        ("beside the peers", Align::Left),
        ("MMSB", Align::Left),
        ("peers, each at its best", Align::Left),
        ("the bare machine", Align::Left),
    ]);
    for row in telling_rows(results) {
        table.row(row);
    }
    let groups = Group::all(results);
    let has_peers = groups
        .iter()
        .any(|group| group.of(Kind::Peer).next().is_some());
    let behind = match count_behind(&groups) {
        _ if !has_peers => "No peer was measured".into(),
        0 => "In no job was a peer ahead".into(),
        1 => "In one row a peer is ahead".into(),
        count => format!("In {count} rows a peer is ahead"),
    };
    let day = match results.date.split('T').next() {
        Some(day) if !day.is_empty() => format!("Measured {} on", plain(day)),
        _ => "Measured on".into(),
    };
    let quick = if results.quick {
        ", in a quick run that nobody should quote"
    } else {
        ""
    };
    format!(
        "{}\n{day} {}, all in one run{quick}. {behind}: [all jobs, sizes and set-ups]({}).\n",
        table.to_markdown(),
        plain(&results.machine.cpu),
        target(link),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::made_up;

    fn rendered(results: &Results) -> String {
        let notes = BTreeMap::from([(Job::Throughput, "Written by hand.\n".to_owned())]);
        let plots = super::super::plots::all(results);
        let extras = Extras {
            notes: &notes,
            behind: Some("Explained by hand."),
            plots: &plots,
            plots_link: "performance",
        };
        report(results, &extras)
    }

    fn line<'a>(text: &'a str, start: &str) -> &'a str {
        let found = text.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no line begins with {start:?} in\n{text}"))
    }

    fn cells(line: &str) -> Vec<&str> {
        line.trim_matches('|').split('|').map(str::trim).collect()
    }

    #[test]
    fn the_summary_has_best_against_best() {
        let text = rendered(&made_up::results());
        let row = cells(line(&text, "| [One way](#one-way)"));
        let expected = [
            "[One way](#one-way)",
            "64 B",
            "MMSB, cell: 100 ns",
            "A, offer: 80.0 ns",
            "bare line: 70.0 ns",
            "1.43",
            "**behind**, 1.25 ×",
        ];
        assert_eq!(row, expected);
    }

    #[test]
    fn every_peer_that_is_ahead_is_listed() {
        let text = rendered(&made_up::results());
        let section = text
            .split("## ")
            .find(|part| part.starts_with("Where MMSB is behind"));
        let section = section.unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| ["));
        let rows: Vec<(&str, &str)> = rows.map(|row| (cells(row)[1], cells(row)[2])).collect();
        let expected = [
            ("64 B", "A, offer: 80.0 ns"),
            ("1 KiB", "A, offer: 1.04 µs"),
            ("64 B", "A, offer: 70.0 M/s"),
            ("64 B, writes", "B, queue: 20.0 M/s"),
            ("64 B", "B, queue: 3.00 ns"),
        ];
        assert_eq!(rows, expected);
        let foreign = section.find("no job that MMSB exists for").unwrap();
        assert!(foreign < section.find("Updating a value alone").unwrap());
        assert!(text.contains("Explained by hand."));
    }

    #[test]
    fn what_is_too_close_to_call_is_listed_apart() {
        let mut results = made_up::results();
        results
            .cases
            .retain(|case| case.job == Job::OneWay && case.bytes == 64);
        made_up::set(&mut results, Job::OneWay, "a/offer", &[90.0, 95.0, 103.0]);
        made_up::set(
            &mut results,
            Job::OneWay,
            "mmsb/cell",
            &[94.0, 100.0, 101.0],
        );
        let text = rendered(&results);
        assert!(text.contains("In this run no peer was ahead"));
        assert!(text.contains("Too close to call, with the better median on the peer's side"));
        assert!(line(&text, "| [One way]").contains("even"));
    }

    #[test]
    fn mmsb_without_a_figure_is_not_passed_over() {
        let mut results = made_up::results();
        results
            .cases
            .retain(|case| !case.contender.starts_with("mmsb/") || case.job != Job::Throughput);
        let text = rendered(&results);
        assert!(line(&text, "| [Throughput]").contains("not measured"));
        assert!(
            text.contains("Measured on peers, and not on MMSB: [Throughput](#throughput), 64 B.")
        );
    }

    #[test]
    fn a_section_has_all_contenders_and_why_others_are_not_there() {
        let text = rendered(&made_up::results());
        assert_eq!(
            cells(line(&text, "| *bare line* (floor) |")),
            [
                "*bare line* (floor)",
                "70.0",
                "69.8 – 70.5",
                "140",
                "1.00",
                "0.70"
            ]
        );
        assert!(text.contains("* C: it has no notification\n"));
        assert!(text.contains("Written by hand."));
        assert!(text.contains("* A, offer: killed while it wrote"));
        let recovery = text.split("## Recovery").nth(1).unwrap();
        let recovery = cells(line(recovery, "| A, offer "));
        assert_eq!(recovery, ["A, offer", "–", "–", "–", "3", "–", "–"]);
    }

    #[test]
    fn telling_rows_are_three_with_the_peers_beside() {
        let rows = telling_rows(&made_up::results());
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0][1], "MMSB, cell: 100 ns");
        assert_eq!(rows[0][2], "A, offer: 80.0 ns; B, queue: 250 ns");
        assert_eq!(rows[1][1], "MMSB, cell: 6.00 M/s reads + 10.0 M/s writes");
        assert_eq!(rows[2][2], "C: 21.0 k/s");
        let text = telling(&made_up::results(), "docs/performance.md");
        assert!(text.contains("In 4 rows a peer is ahead"));
    }

    #[test]
    fn recovery_stands_in_for_commits_that_were_not_measured() {
        let mut results = made_up::results();
        results.cases.retain(|case| case.job != Job::Synced);
        let rows = telling_rows(&results);
        assert_eq!(rows[2][2], "B, queue: 5.00 s; A, offer: never");
    }

    #[test]
    fn nothing_measured_is_still_a_report() {
        let mut results = made_up::results();
        results.cases.clear();
        assert!(rendered(&results).contains("In this run no peer was measured."));
        assert!(telling_rows(&results).is_empty());
    }
}
