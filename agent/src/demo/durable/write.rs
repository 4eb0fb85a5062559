//! Processes that write to a bus with a log: each keeps one promise, and acknowledges behind the call that gave it.

use std::time::{Duration, Instant};

use mmsb::{Bus, LogState};

use crate::cli::exit::{Code, Failure};
use crate::demo::content::{self, BODY, SHARED, own_page};
use crate::demo::crew::Role;
use crate::demo::message::{Message, Parent};
use crate::demo::model::{Cast, Part};
use crate::demo::worker::{Assignment, make_pages, now_ns};

use super::{Promise, STUCK, promise_of};

/// Writes of those who do not wait for the disk, for each pause of a millisecond: the log shall hold seconds of this, not
/// gigabytes.
const BURST: u64 = 4;
/// The pause.
const PAUSE: Duration = Duration::from_millis(1);
/// Rounds for each write to the shared page.
const SHARED_EVERY: u64 = 4;
/// Of so many writes one is of the whole page.
const WHOLE_EVERY: u64 = 64;

/// Joins the bus once somebody writes its log.
///
/// # Errors
///
/// That nobody did for too long.
pub fn join(assignment: &Assignment, role: Role) -> Result<Bus, Failure> {
    let deadline = Instant::now() + STUCK;
    let mut why = String::from("nobody supervises it");
    while Instant::now() < deadline {
        match assignment.bus(role).attach() {
            Ok(bus) => {
                let status = bus.log_status();
                if status.state == LogState::Running && status.supervised == Some(true) {
                    return Ok(bus);
                }
            }
            Err(e) => why = e.to_string(),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Failure::new(
        Code::NoBus,
        format!("there is no bus with a log after {STUCK:?}: {why}"),
    ))
}

/// Makes the pages, in the bus that an agent made.
///
/// # Errors
///
/// That there is no such bus, or no room in it.
pub fn set_up(assignment: &Assignment, cast: &Cast) -> Result<(), Failure> {
    let bus = join(assignment, Role::Setup)?;
    make_pages(&bus, assignment, cast)?;
    bus.wait_durable(bus.published_lsn()?.saturating_sub(1), STUCK)?;
    Ok(())
}

/// Writes to its own page, and now and then to the shared one, by its promise.
///
/// # Errors
///
/// Why it could not go on.
pub fn write(
    assignment: &Assignment,
    cast: &Cast,
    writer: usize,
    parent: &mut Parent,
) -> Result<(), Failure> {
    let role = Role::Write(writer);
    let promise = promise_of(role);
    let bus = assignment.bus(role).attach()?;
    bus.set_durability(promise.durability());
    let own = bus.page(&own_page(writer))?;
    let shared = bus.page(SHARED)?;
    let mut image = own.to_vec()?;
    if !cast.is_whole(Part::Own(writer), &image) {
        return Err(Failure::new(
            Code::Corrupt,
            "found a torn page at its start",
        ));
    }
    let counter = cast.counter(writer);
    parent.send(&Message::Ready {
        resumed: cast.positions(Part::Own(writer), &image),
    })?;
    let is_synced = promise == Promise::Synced;
    let mut round = 0u64;
    loop {
        round += 1;
        let mut ns = 0;
        for _ in 0..if is_synced { 1 } else { BURST } {
            let words = content::next_own(&mut image, writer, now_ns());
            let number = content::word(&image, content::SEQUENCE);
            let started = Instant::now();
            if number.is_multiple_of(WHOLE_EVERY) {
                own.write(&image)?;
            } else if content::is_of_whole_page(number) {
                // Changed at its end, too.
                own.update(|page| page.copy_from_slice(&image))?;
            } else {
                let head = (0, &image[..BODY * 8]);
                let body = (words.start * 8, &image[words.start * 8..words.end * 8]);
                own.patch_many(&[head, body])?;
            }
            if is_synced {
                ns = (started.elapsed().as_nanos() as u64).max(1);
            }
        }
        let number = content::word(&image, content::SEQUENCE);
        parent.ack(cast.own(writer), number, ns)?;
        if round.is_multiple_of(SHARED_EVERY) {
            let (number, _) =
                shared.update(|page| content::next_shared(page, writer, cast.writers, now_ns()))?;
            parent.ack(counter, number, 0)?;
        }
        if parent.asks_to_end() {
            return Ok(());
        }
        if !is_synced {
            std::thread::sleep(PAUSE);
        }
    }
}
