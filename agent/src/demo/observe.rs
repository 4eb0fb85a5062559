//! The observer: maps the bus read-only, reads pages without a pause, judges each by its bytes, decodes some.

use std::time::{Duration, Instant};

use mmsb::schema::{Schema, Value};
use mmsb::{Error, Observer, PageError, PageId};

use crate::cli::exit::Failure;
use crate::cli::value::shown;

use super::crew::Role;
use super::message::{Message, Observed, Parent, Recoveries, Shown};
use super::model::{Cast, Part};
use super::worker::Assignment;

/// Pause between two reports.
const REPORT_PAUSE: Duration = Duration::from_millis(200);
/// Reads of a page in a round.
const READS: usize = 16;
/// Pause between two rounds: on a small machine, the processor time is the writers', whose commits shall be hit.
const NAP: Duration = Duration::from_micros(500);
/// The source pages change some fifty times a second; the writers' ones without a pause.
const SOURCES_EVERY: u64 = 16;

struct Page {
    id: PageId,
    name: String,
    part: Part,
    schema: Schema,
    bytes: Vec<u8>,
    shown: Shown,
}

/// Reads until the parent asks to end, then all pages once more.
///
/// # Errors
///
/// What the bus said, but for reads that found no quiet moment: those are counted.
pub fn run(assignment: &Assignment, cast: Cast, parent: &mut Parent) -> Result<(), Failure> {
    let observer = assignment.bus(Role::Observe).observe()?;
    let mut pages = Vec::new();
    for name in cast.pages() {
        let page = observer.page(&name)?;
        let (Some(schema), Some(part)) = (page.schema()?, cast.part(&name)) else {
            return Err(Failure::problem(format!("page {name} has no schema")));
        };
        pages.push(Page {
            id: page.id(),
            part,
            schema,
            bytes: vec![0; page.size()],
            shown: Shown {
                name: name.clone(),
                ..Shown::default()
            },
            name,
        });
    }
    parent.send(&Message::Ready {
        resumed: Vec::new(),
    })?;
    let mut observed = Observed::default();
    let mut reported_at = Instant::now();
    let mut round = 0u64;
    loop {
        round += 1;
        for page in &mut pages {
            let is_source = matches!(page.part, Part::Source(_));
            if is_source && !round.is_multiple_of(SOURCES_EVERY) {
                continue;
            }
            let times = if is_source { 1 } else { READS };
            for _ in 0..times {
                read(&observer, &cast, page, &mut observed)?;
            }
        }
        if reported_at.elapsed() < REPORT_PAUSE {
            std::thread::sleep(NAP);
            continue;
        }
        reported_at = Instant::now();
        for page in &mut pages {
            page.shown.text = decoded(&page.schema, &page.bytes);
        }
        observed.pages = pages.iter().map(|page| page.shown.clone()).collect();
        observed.recoveries = recoveries(&observer);
        let is_last = parent.asks_to_end();
        if is_last {
            observed.last = vec![0; cast.streams()];
            for page in &mut pages {
                read(&observer, &cast, page, &mut observed)?;
                for (stream, number) in cast.positions(page.part, &page.bytes) {
                    observed.last[stream] = number;
                }
            }
        }
        parent.send(&Message::Observed(observed.clone()))?;
        if is_last {
            return Ok(());
        }
    }
}

fn read(
    observer: &Observer,
    cast: &Cast,
    page: &mut Page,
    observed: &mut Observed,
) -> Result<(), Failure> {
    // Looked up again each time: a loaned block takes the place of the last one.
    let read = observer
        .page_by_id(page.id)
        .and_then(|found| found.read_into(&mut page.bytes));
    match read {
        Ok(version) => {
            observed.reads += 1;
            page.shown.epoch = version.epoch;
            page.shown.lsn = version.lsn;
            if !cast.is_whole(page.part, &page.bytes) {
                observed.torn += 1;
            }
        }
        Err(Error::Page(PageError::Contended(_))) => observed.contended += 1,
        Err(Error::Page(PageError::Stalled { .. })) => observed.stalled += 1,
        Err(e) => {
            let mut failure = Failure::from(e);
            failure.message = format!("page {}: {}", page.name, failure.message);
            return Err(failure);
        }
    }
    Ok(())
}

fn recoveries(observer: &Observer) -> Recoveries {
    let counters = observer.counters();
    let counter = |name: &str| {
        let found = counters.iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, n)| *n)
    };
    Recoveries {
        all: counter("recoveries"),
        claimed: counter("recovered_claimed"),
        ready: counter("recovered_ready"),
        odd: counter("recovered_odd"),
        locked: counter("recovered_locked"),
        recoverer: counter("recovered_recoverer"),
    }
}

/// The first fields behind the checksum, and of arrays the first elements.
fn decoded(schema: &Schema, bytes: &[u8]) -> String {
    let mut parts = Vec::new();
    for field in schema.fields() {
        if matches!(
            field.name.as_str(),
            "checksum" | "samples" | "payload" | "stamp_ns"
        ) {
            continue;
        }
        let Ok(value) = schema.read_value(field, bytes) else {
            continue;
        };
        let text = match value {
            Value::List(values) => {
                let first: Vec<String> = values.iter().take(4).map(shown).collect();
                format!("[{}]", first.join(" "))
            }
            other => shown(&other),
        };
        parts.push(format!("{} {text}", field.name));
        if parts.len() == 6 {
            break;
        }
    }
    parts.join("  ")
}
