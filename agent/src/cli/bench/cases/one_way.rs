//! From a commit in one process to its sight in another, by the page or by the ring.
//!
//! The answer comes back through a bare cache line, whose time, the floor's, is taken off by the parent. Then the same
//! with the answer as a commit too.

use mmsb::{Available, Bus, Lease, Page, PageSpec, PageVersion, Subscription};
use mmsb_benches::lines::Lines;
use serde_json::json;

use super::super::rig::{ANSWER, END, Job, Peer, check_log, check_page, ensure, say, word};
use super::super::samples::{Measured, blocks};
use crate::cli::exit::Failure;

/// Round trips in a block.
const BLOCK: u64 = 64;

/// Longest message.
const BYTES_MAX: usize = 64;

/// How messages are received.
struct Receiver<'b> {
    page: Page<'b>,
    /// By the ring, else by the page.
    ring: Option<Subscription<'b>>,
    known: PageVersion,
    buffer: Vec<u8>,
    received: u64,
    last_lsn: u64,
}

impl<'b> Receiver<'b> {
    fn new(bus: &'b Bus, name: &str, by_ring: bool) -> Result<Receiver<'b>, Failure> {
        let page = bus.page(name)?;
        let ring = by_ring
            .then(|| bus.subscribe().page(page.id()).build())
            .transpose()?;
        Ok(Receiver {
            ring,
            known: page.version()?,
            buffer: vec![0; page.size()],
            page,
            received: 0,
            last_lsn: 0,
        })
    }

    /// The number of the next message, if there is one; its bytes and its place are checked.
    #[inline(always)]
    fn poll(&mut self) -> Result<Option<u64>, Failure> {
        if let Some(ring) = &mut self.ring {
            let (buffer, last) = (&mut self.buffer, &mut self.last_lsn);
            let mut are_good = true;
            let available = ring.for_each_available(|delta| {
                are_good &= delta.lsn > *last;
                *last = delta.lsn;
                delta.for_each_range(|offset, bytes| {
                    are_good &= offset == 0 && bytes.len() == buffer.len();
                    if are_good {
                        buffer.copy_from_slice(bytes);
                    }
                });
            })?;
            match available {
                Available::Empty => return Ok(None),
                Available::Deltas(1) if are_good => {}
                other => {
                    return Err(Failure::problem(format!(
                        "one delta was committed, and {other:?} came (in order and whole: {are_good})"
                    )));
                }
            }
        } else {
            let Some(version) = self.page.read_if_newer(self.known, &mut self.buffer)? else {
                return Ok(None);
            };
            ensure(
                version.epoch == self.known.epoch + 1 && version.lsn > self.last_lsn,
                || format!("the page went from {:?} to {version:?}", self.known),
            )?;
            self.known = version;
            self.last_lsn = version.lsn;
        }
        self.received += 1;
        let n = word(&self.buffer);
        ensure(
            self.buffer.chunks_exact(8).all(|each| word(each) == n),
            || format!("message {n} is torn"),
        )?;
        Ok(Some(n))
    }
}

/// How messages are sent.
struct Sender<'p, 'b> {
    page: &'p Page<'b>,
    _lease: Option<Lease<'p>>,
    buffer: [u8; BYTES_MAX],
    last_lsn: u64,
}

impl<'p, 'b> Sender<'p, 'b> {
    fn new(page: &'p Page<'b>, leased: bool) -> Result<Sender<'p, 'b>, Failure> {
        Ok(Sender {
            page,
            _lease: leased.then(|| page.lease()).transpose()?,
            buffer: [0; BYTES_MAX],
            last_lsn: 0,
        })
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<(), Failure> {
        let buffer = &mut self.buffer[..self.page.size()];
        for each in buffer.chunks_exact_mut(8) {
            each.copy_from_slice(&n.to_le_bytes());
        }
        self.last_lsn = self.page.patch(0, buffer)?;
        Ok(())
    }
}

fn by_ring(job: &Job) -> bool {
    job.case != "one_way_page"
}

fn is_leased(job: &Job) -> bool {
    job.case == "one_way_ring_leased"
}

/// Sends, and waits for the answers.
pub fn lead(job: &Job) -> Result<Measured, Failure> {
    let bus = job.create()?;
    let there = bus.create_page(PageSpec::new(job.bytes as u64).name("there"))?;
    let back = bus.create_page(PageSpec::new(job.bytes as u64).name("back"))?;
    let before = bus.stats()?.deltas;
    let lines = Lines::create()?;
    let mut peer = Peer::start(job, &lines)?;
    let answer = lines.line(ANSWER);

    let mut sender = Sender::new(&there, is_leased(job))?;
    let (samples, sent) = blocks(job.budget, BLOCK, 1, |n| {
        sender.send(n)?;
        peer.wait(answer, n)
    })?;
    sender.send(END)?;
    peer.wait(answer, END)?;

    let mut receiver = Receiver::new(&bus, "back", by_ring(job))?;
    let (both, answered) = blocks(job.budget / 2, BLOCK, 1, |n| {
        sender.send(n)?;
        loop {
            for _ in 0..1 << 22 {
                if let Some(got) = receiver.poll()? {
                    return ensure(got == n, || format!("{got} came in answer to {n}"));
                }
            }
            peer.look()?;
        }
    })?;
    sender.send(END)?;
    let last = sender.last_lsn;
    drop(sender);

    let seen = peer.result()?;
    peer.finish()?;
    let commits = sent + answered + 2;
    let said = json!({"received": commits, "received_lsn": last,
                      "sent": answered, "sent_lsn": receiver.last_lsn});
    ensure(seen == said, || {
        format!("the second process saw {seen}, and {said} is right")
    })?;
    check_page(&there, commits, last, &vec![0xff; job.bytes])?;
    let words = answered.to_le_bytes().repeat(job.bytes / 8);
    check_page(&back, answered, receiver.last_lsn, &words)?;
    check_log(&bus, before, commits + answered)?;
    Ok(samples
        .measured()
        .with("both_ways_p50_ns", both.quantile(0.5) / 2.0))
}

/// Answers: by the line until the first [`END`], by the other page until the second.
pub fn peer(job: &Job, lines: &Lines) -> Result<(), Failure> {
    let bus = job.attach()?;
    let mut receiver = Receiver::new(&bus, "there", by_ring(job))?;
    let back = bus.page("back")?;
    let answer = lines.line(ANSWER);
    say("ready")?;

    let mut expected = 1;
    loop {
        let Some(n) = receiver.poll()? else { continue };
        answer.store(n);
        if n == END {
            break;
        }
        ensure(n == expected, || format!("{n} came in place of {expected}"))?;
        expected += 1;
    }

    let mut sender = Sender::new(&back, is_leased(job))?;
    let mut expected = 1;
    loop {
        let Some(n) = receiver.poll()? else { continue };
        if n == END {
            break;
        }
        sender.send(n)?;
        ensure(n == expected, || format!("{n} came in place of {expected}"))?;
        expected += 1;
    }
    let last = sender.last_lsn;
    drop(sender);
    let seen = json!({"received": receiver.received, "received_lsn": receiver.last_lsn,
                      "sent": expected - 1, "sent_lsn": last});
    say(&seen.to_string())
}
