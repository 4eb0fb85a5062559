//! The processes that the parent starts: what they have in common, and those that write.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mmsb::{Bus, BusBuilder, PageSpec};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::Signal as DeathSignal;
use rustix::time::{ClockId, clock_gettime};

use crate::cli::exit::{Code, Failure};

use super::content::{self, BODY, SHARED, own_page};
use super::crew::Role;
use super::message::{Message, Parent};
use super::model::{Cast, Part};
use super::torment::PUBLISHERS;
use super::{durable, follow, observe, sources};

/// A writer may have to wait for one that is stopped, or for a ring that a busy machine does not empty.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Rounds for each acknowledgement: a line costs as much as some ten commits, and kills shall hit commits.
const ACK_EVERY: u64 = 8;
/// Deltas to its own page that a writer makes for each one to the shared page, where it may have to wait.
const OWN_PER_ROUND: u64 = 6;
/// Pause between two samples of a source.
const SAMPLE_PAUSE: Duration = Duration::from_millis(20);

/// What a process is told.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The bus.
    pub bus: String,
    /// Where its segments are.
    pub dir: PathBuf,
    /// Writers there are.
    pub writers: usize,
    /// Size of the ring, for the one that makes the bus.
    pub ring_bytes: u64,
    /// `setup`, `follow`, `observe`, `write`, `publish`, `witness`, `coroner` or `examine`.
    pub role: String,
    /// Which of its kind.
    pub number: usize,
    /// Directory of the log, if the bus has one.
    pub log: Option<PathBuf>,
    /// LSNs of cuts, for the examiner.
    pub at: Vec<u64>,
}

impl Assignment {
    /// The bus, under the name of this process's role.
    pub fn bus(&self, role: Role) -> BusBuilder {
        Bus::builder(&self.bus)
            .dir(&self.dir)
            .source(&role.to_string())
            .timeout(TIMEOUT)
    }

    fn role(&self) -> Result<Role, Failure> {
        Ok(match self.role.as_str() {
            "setup" => Role::Setup,
            "follow" => Role::Follow,
            "observe" => Role::Observe,
            "write" if self.number < self.writers => Role::Write(self.number),
            "publish" if self.number < PUBLISHERS => Role::Publish(self.number),
            "witness" => Role::Witness,
            "coroner" => Role::Coroner,
            "examine" => Role::Examine,
            _ => {
                return Err(Failure::usage(format!(
                    "no {} {} in the demo",
                    self.role, self.number
                )));
            }
        })
    }
}

/// Does what was assigned, until the parent asks to end.
///
/// # Errors
///
/// Why it could not go on. The parent was told.
pub fn run(assignment: &Assignment) -> Result<(), Failure> {
    // Ctrl-C on a terminal goes to all processes; when to end is the parent's to say.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .map_err(|e| Failure::problem(e.to_string()))?;
    // No worker outlives the parent. One that died before this call has closed the pipe, which ends us as well.
    rustix::process::set_parent_process_death_signal(Some(DeathSignal::KILL))
        .map_err(|e| Failure::problem(e.to_string()))?;
    let mut parent = Parent::default();
    let role = assignment.role()?;
    let cast = Cast::new(assignment.writers);
    let result = match role {
        Role::Setup if assignment.log.is_some() => durable::write::set_up(assignment, &cast),
        Role::Setup => set_up(assignment, &cast),
        Role::Write(writer) if assignment.log.is_some() => {
            durable::write::write(assignment, &cast, writer, &mut parent)
        }
        Role::Follow => follow::run(assignment, cast, &mut parent),
        Role::Observe => observe::run(assignment, cast, &mut parent),
        Role::Write(writer) => write(assignment, &cast, writer, &mut parent),
        Role::Publish(publisher) => publish(assignment, &cast, publisher, &mut parent),
        Role::Witness => durable::witness::run(assignment, &mut parent),
        Role::Coroner => durable::examine::remains(assignment, &mut parent),
        Role::Examine => durable::examine::run(assignment, &cast, &mut parent),
    };
    let mut told = |failure: &Failure| {
        let message = format!("{role}: {}", failure.message);
        parent.send(&Message::Failed { message }).is_ok()
    };
    match result {
        // The parent will say it; two voices would say it twice.
        Err(failure) if told(&failure) => Err(Failure::new(failure.code, "")),
        result => result,
    }
}

fn set_up(assignment: &Assignment, cast: &Cast) -> Result<(), Failure> {
    let bus = assignment
        .bus(Role::Setup)
        .ring_bytes(assignment.ring_bytes)
        .bytes_max(1 << 30)
        .pages_max(1024)
        .names_max(1024)
        .create()?;
    make_pages(&bus, assignment, cast).inspect_err(|_| {
        // Half a bus is of no use; that it cannot be removed is the smaller trouble.
        let _ = Bus::unlink_in(&assignment.dir, &assignment.bus);
    })
}

/// Makes all pages of the cast.
///
/// # Errors
///
/// That there is no room, or that they are there.
pub fn make_pages(bus: &Bus, assignment: &Assignment, cast: &Cast) -> Result<(), Failure> {
    let own = content::own_schema().map_err(mmsb::Error::from)?;
    // A delta of a page with version slots must fit into a quarter of the ring; others may go through a block.
    let fits = assignment.ring_bytes / 4 > 2 * content::OWN_BYTES as u64;
    for writer in 0..cast.writers {
        // Every other one has version slots: readers and recovery take another way there.
        let spec = PageSpec::with_schema(&own).name(&own_page(writer));
        bus.create_page(if fits && writer % 2 == 1 {
            spec.versions(4)
        } else {
            spec
        })?;
    }
    let shared = content::shared_schema(cast.writers).map_err(mmsb::Error::from)?;
    bus.create_page(PageSpec::with_schema(&shared).name(SHARED))?;
    for source in sources::all() {
        bus.create_page(PageSpec::with_schema(&source.schema()).name(source.name()))?;
    }
    Ok(())
}

/// CLOCK_MONOTONIC in ns, which all processes of the machine share.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative for this clock.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Writes without a pause, to its own page and to the shared one.
fn write(
    assignment: &Assignment,
    cast: &Cast,
    writer: usize,
    parent: &mut Parent,
) -> Result<(), Failure> {
    // Joining finishes what the predecessor left, so its pages say where to go on.
    let bus = assignment.bus(Role::Write(writer)).attach()?;
    let own = bus.page(&own_page(writer))?;
    let shared = bus.page(SHARED)?;
    let mut image = own.to_vec()?;
    let shared_now = shared.to_vec()?;
    if !cast.is_whole(Part::Own(writer), &image) || !cast.is_whole(Part::Shared, &shared_now) {
        return Err(Failure::new(
            Code::Corrupt,
            "found a torn page at its start",
        ));
    }
    let counter = cast.counter(writer);
    let positions = cast.positions(Part::Shared, &shared_now);
    let mut resumed = cast.positions(Part::Own(writer), &image);
    resumed.extend(
        positions
            .into_iter()
            .filter(|(stream, _)| *stream == counter),
    );
    parent.send(&Message::Ready { resumed })?;
    let mut round = 0u64;
    loop {
        round += 1;
        let is_ack = round.is_multiple_of(ACK_EVERY);
        for turn in 1..=OWN_PER_ROUND {
            let words = content::next_own(&mut image, writer, now_ns());
            let started = (is_ack && turn == OWN_PER_ROUND).then(Instant::now);
            if content::is_of_whole_page(content::word(&image, content::SEQUENCE)) {
                own.write(&image)?;
            } else {
                let head = (0, &image[..BODY * 8]);
                let body = (words.start * 8, &image[words.start * 8..words.end * 8]);
                own.patch_many(&[head, body])?;
            }
            if let Some(started) = started {
                let ns = (started.elapsed().as_nanos() as u64).max(1);
                let number = content::word(&image, content::SEQUENCE);
                parent.ack(cast.own(writer), number, ns)?;
            }
        }
        let (number, _) =
            shared.update(|page| content::next_shared(page, writer, cast.writers, now_ns()))?;
        if is_ack {
            // Not measured: the closure's own work is in it.
            parent.ack(counter, number, 0)?;
            if parent.asks_to_end() {
                return Ok(());
            }
        }
    }
}

/// Publishes samples, alternately whole, as a change of the page, and through a loaned block.
fn publish(
    assignment: &Assignment,
    cast: &Cast,
    publisher: usize,
    parent: &mut Parent,
) -> Result<(), Failure> {
    let bus = assignment.bus(Role::Publish(publisher)).attach()?;
    let mut is_measured = true;
    if assignment.log.is_some() {
        let promise = durable::promise_of(Role::Publish(publisher));
        bus.set_durability(promise.durability());
        is_measured = promise == durable::Promise::Synced;
    }
    let mut mine = Vec::new();
    let mut resumed = Vec::new();
    for (number, source) in sources::all().into_iter().enumerate() {
        if number % PUBLISHERS != publisher {
            continue;
        }
        let page = bus.page(source.name())?;
        let bytes = page.to_vec()?;
        if !cast.is_whole(Part::Source(number), &bytes) {
            return Err(Failure::new(
                Code::Corrupt,
                "found a torn page at its start",
            ));
        }
        resumed.extend(cast.positions(Part::Source(number), &bytes));
        let samples = content::word(&bytes, 0);
        mine.push((cast.source(number), source, page, samples));
    }
    parent.send(&Message::Ready { resumed })?;
    let mut bytes = Vec::new();
    while !parent.asks_to_end() {
        for (stream, source, page, samples) in &mut mine {
            bytes.clear();
            bytes.resize(page.size(), 0);
            source
                .sample(&mut bytes)
                .map_err(|e| Failure::problem(e.to_string()))?;
            // The source counts its own samples; the stream goes on where the predecessor stopped.
            *samples += 1;
            bytes[..8].copy_from_slice(&samples.to_le_bytes());
            sources::seal(&mut bytes);
            let started = Instant::now();
            match *samples % 3 {
                0 => {
                    page.write(&bytes)?;
                }
                1 => {
                    page.update(|page| page.copy_from_slice(&bytes))?;
                }
                _ => {
                    let mut loan = page.loan()?;
                    loan.copy_from_slice(&bytes);
                    loan.publish()?;
                }
            }
            let ns = (started.elapsed().as_nanos() as u64).max(1);
            parent.ack(*stream, *samples, if is_measured { ns } else { 0 })?;
        }
        std::thread::sleep(SAMPLE_PAUSE);
    }
    Ok(())
}
