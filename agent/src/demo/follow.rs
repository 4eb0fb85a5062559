//! The subscriber: gating, so that it sees every delta, and its model of all pages.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mmsb::{Available, Bus, Delta, Event, From, OwnedDelta};

use crate::cli::exit::Failure;

use super::crew::Role;
use super::message::{Followed, Latency, Message, Parent, histogram};
use super::model::{Cast, Model};
use super::worker::{Assignment, now_ns};

/// Pause between two reports.
const REPORT_PAUSE: Duration = Duration::from_millis(200);

struct Follower {
    model: Model,
    delivery: Histogram<u64>,
    bytes: u64,
}

impl Follower {
    fn delta(&mut self, delta: &Delta<'_>) {
        let model = &mut self.model;
        let bytes = &mut self.bytes;
        delta.for_each_range(|offset, range| {
            *bytes += range.len() as u64;
            model.patch(delta.page, offset, range);
        });
        self.end(delta.page);
    }

    fn owned_delta(&mut self, delta: &OwnedDelta) {
        for (offset, range) in &delta.ranges {
            self.bytes += range.len() as u64;
            self.model.patch(delta.page, *offset as usize, range);
        }
        self.end(delta.page);
    }

    fn end(&mut self, page: mmsb::PageId) {
        if let Some(began) = self.model.end_delta(page) {
            self.delivery
                .saturating_record(now_ns().saturating_sub(began).max(1));
        }
    }

    fn report(&self, position: u64) -> Followed {
        Followed {
            deltas: self.model.deltas(),
            bytes: self.bytes,
            faults: self.model.faults().clone(),
            delivery: Latency::from(&self.delivery),
            position,
            ..Followed::default()
        }
    }
}

/// Follows until the parent asks to end, then to the end of the log, and compares.
///
/// # Errors
///
/// What the subscription said: it must not fail, whoever is killed.
pub fn run(assignment: &Assignment, cast: Cast, parent: &mut Parent) -> Result<(), Failure> {
    let bus = assignment.bus(Role::Follow).attach()?;
    let delivery = histogram().map_err(|e| Failure::problem(e.to_string()))?;
    let mut follower = Follower {
        model: Model::new(cast.clone()),
        delivery,
        bytes: 0,
    };
    let mut all = bus.subscribe().from(From::Snapshot).gating(true).build()?;
    parent.send(&Message::Ready {
        resumed: Vec::new(),
    })?;
    let mut reported_at = Instant::now();
    // Set when the parent has asked to end: all writers have ended by then, so the log ends here.
    let mut end = None;
    loop {
        match all.for_each_available(|delta| follower.delta(delta))? {
            Available::Deltas(_) => {}
            Available::Events => {
                while let Some(event) = all.try_next()? {
                    take(&bus, &mut follower, &event)?;
                }
            }
            Available::Empty => {
                if end.is_some_and(|end| all.position() >= end) {
                    break;
                }
                all.wait(Duration::from_millis(20))?;
            }
        }
        if reported_at.elapsed() >= REPORT_PAUSE {
            reported_at = Instant::now();
            parent.send(&Message::Followed(follower.report(all.position())))?;
            if end.is_none() && parent.asks_to_end() {
                end = Some(bus.published_lsn()?);
            }
        }
    }
    let mut report = follower.report(all.position());
    report.last = follower.model.last().to_vec();
    for (id, name, expected) in follower.model.pages() {
        report.compared += 1;
        if bus.page_by_id(id)?.to_vec()? != expected {
            report.different.push(name.to_owned());
        }
    }
    let me = bus.participant().index();
    for participant in bus.stats()?.participants {
        if participant.index != me && (!participant.alive || participant.hold != 0) {
            report.unfinished.push(format!(
                "{} (pid {}, {}, holds LSN {})",
                participant.name,
                participant.pid,
                if participant.alive { "alive" } else { "dead" },
                participant.hold
            ));
        }
    }
    parent.send(&Message::Followed(report))?;
    Ok(())
}

fn take(bus: &Bus, follower: &mut Follower, event: &Event) -> Result<(), Failure> {
    match event {
        Event::Image(image) => {
            let name = bus.page_info(image.id)?.cold.name;
            follower.model.image(image.id, &name, &image.bytes);
        }
        Event::Delta(delta) => follower.owned_delta(delta),
        // The pages are made before the subscription begins and stay; and who is gating misses nothing.
        Event::Gap(gap) => {
            return Err(Failure::problem(format!(
                "a gating subscription missed LSN {} to {}",
                gap.from, gap.to
            )));
        }
        other => {
            return Err(Failure::problem(format!("unexpected event {other:?}")));
        }
    }
    Ok(())
}
