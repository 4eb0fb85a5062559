//! What the demo's processes tell their parent: lines on a pipe.
//!
//! The parent never maps the bus. All it knows, it knows from these lines, and an acknowledgement is written only
//! behind the commit that it speaks of. A line is one `write` of at most `PIPE_BUF` bytes where its writer may be
//! killed: it comes whole or not at all.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use super::model::Faults;

/// Percentiles of a histogram, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Values counted.
    pub count: u64,
    /// Half of the values are at most this.
    pub p50_ns: u64,
    /// Nine tenths.
    pub p90_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
    /// The largest.
    pub max_ns: u64,
}

impl From<&hdrhistogram::Histogram<u64>> for Latency {
    fn from(histogram: &hdrhistogram::Histogram<u64>) -> Latency {
        Latency {
            count: histogram.len(),
            p50_ns: histogram.value_at_quantile(0.5),
            p90_ns: histogram.value_at_quantile(0.9),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
        }
    }
}

/// A histogram of 1 ns to a minute, with two significant digits.
///
/// # Errors
///
/// None in practice; the bounds are constants.
pub fn histogram() -> Result<hdrhistogram::Histogram<u64>, hdrhistogram::errors::CreationError> {
    hdrhistogram::Histogram::new_with_bounds(1, 60_000_000_000, 2)
}

/// Recoveries, by what the dead had left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recoveries {
    /// Dead participants recovered, whatever they left.
    pub all: u64,
    /// ... a claim that became padding.
    pub claimed: u64,
    /// ... a committed delta that no page had yet.
    pub ready: u64,
    /// ... a page half-written.
    pub odd: u64,
    /// ... a page locked, and nothing else.
    pub locked: u64,
    /// Recoveries begun again because the recoverer died.
    pub recoverer: u64,
}

impl Recoveries {
    /// Deaths inside a commit.
    pub fn inside_commits(&self) -> u64 {
        self.claimed + self.ready + self.odd + self.locked
    }
}

/// A page as the observer shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Its version.
    pub epoch: u64,
    /// The last delta it holds.
    pub lsn: u64,
    /// A few of its values, decoded by its schema.
    pub text: String,
}

/// What the observer has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Pages read.
    pub reads: u64,
    /// ... that were torn.
    pub torn: u64,
    /// Reads that found no quiet moment.
    pub contended: u64,
    /// Reads given up because a writer stood still inside the page.
    pub stalled: u64,
    /// Repairs counted by the bus.
    pub recoveries: Recoveries,
    /// Pages, in the order of the cast.
    pub pages: Vec<Shown>,
    /// At the end: how far each stream's page is.
    pub last: Vec<u64>,
}

/// What the subscriber has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// Deltas.
    pub deltas: u64,
    /// Bytes they carried.
    pub bytes: u64,
    /// What the model found wrong.
    pub faults: Faults,
    /// From the begin of a write to its delivery.
    pub delivery: Latency,
    /// Next LSN it looks at.
    pub position: u64,
    /// At the end: the last number of each stream.
    pub last: Vec<u64>,
    /// At the end: pages whose bytes are not the model's.
    pub different: Vec<String>,
    /// At the end: pages compared.
    pub compared: u64,
    /// At the end: participants that are dead and not recovered, or hold something.
    pub unfinished: Vec<String>,
}

/// The state of the running bus, between two deltas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// With this delta and all ahead of it. The log has it.
    pub lsn: u64,
    /// Hash of the state, in hex: a number of 128 bits is more than JSON has.
    pub hash: String,
}

/// What the segments say when everybody is dead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remains {
    /// Everything ahead of it is on disk.
    pub durable_lsn: u64,
    /// Where the ring ends.
    pub end_lsn: u64,
}

/// A page in an excerpt of a difference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageChange {
    /// Its name.
    pub page: String,
    /// Ranges of its bytes that differ.
    pub ranges: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Some of them as they were and as they are, by the schema of the page.
    pub lines: Vec<String>,
}

/// What changed between two moments, in part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// The one.
    pub from_lsn: u64,
    /// The other.
    pub to_lsn: u64,
    /// Pages that differ.
    pub pages: u64,
    /// Some of them.
    pub shown: Vec<PageChange>,
}

/// What a rebuilt bus and its log look like, one beside the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examined {
    /// How often the bus was built, with the first time.
    pub incarnation: u64,
    /// Where the log ended, and the rebuilt bus begins.
    pub fork_lsn: u64,
    /// Pages of the bus.
    pub pages: u64,
    /// Hash of the rebuilt bus, read from its pages.
    pub rebuilt: String,
    /// Hash of the state that replaying the log up to the same LSN gives.
    pub replayed: String,
    /// Pages that `Log::verify_live` found equal.
    pub equal: u64,
    /// ... and those that it found different.
    pub different: Vec<String>,
    /// Pages that are parts of two writes.
    pub torn: Vec<String>,
    /// How far each stream's page is.
    pub last: Vec<u64>,
    /// The hash that the log gives at the LSN of each cut, or why it gives none.
    pub cuts: Vec<(u64, Result<String, String>)>,
    /// Records that were replayed to verify the log from its beginning.
    pub records: u64,
    /// Checkpoints that were compared with it.
    pub checkpoints: u64,
    /// What that found wrong.
    pub problems: Vec<String>,
    /// Files of the log.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What changed between the first of the cuts and the end.
    pub diff: Option<Excerpt>,
}

/// A line that is no acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// Attached and at work.
    Ready {
        /// Streams that it goes on with, and where it found them.
        resumed: Vec<(usize, u64)>,
    },
    /// It cannot go on.
    Failed {
        /// Why.
        message: String,
    },
    /// From the observer, now and then and at the end.
    Observed(Observed),
    /// From the subscriber, now and then and at the end.
    Followed(Followed),
    /// From the witness.
    Cut(Cut),
    /// From the coroner.
    Remains(Remains),
    /// From the examiner.
    Examined(Box<Examined>),
}

/// A line of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// `a STREAM NUMBER NS`: that number was committed; the commit took so long.
    Ack {
        /// The stream.
        stream: usize,
        /// Its number.
        number: u64,
        /// Duration of the commit in ns, 0: not measured.
        ns: u64,
    },
    /// Anything else.
    Message(Box<Message>),
}

impl Line {
    /// Reads a line; `None` for what no worker writes.
    pub fn parse(line: &str) -> Option<Line> {
        if let Some(rest) = line.strip_prefix("a ") {
            let mut numbers = rest.split(' ').map(|n| n.parse::<u64>().ok());
            let mut next = || numbers.next().flatten();
            return Some(Line::Ack {
                stream: usize::try_from(next()?).ok()?,
                number: next()?,
                ns: next()?,
            });
        }
        serde_json::from_str(line)
            .ok()
            .map(|message| Line::Message(Box::new(message)))
    }
}

/// The worker's end: standard output to the parent, standard input from it.
#[derive(Debug, Default)]
pub struct Parent {
    line: Vec<u8>,
}

impl Parent {
    /// Acknowledges a commit that has returned.
    ///
    /// # Errors
    ///
    /// What writing gave: the parent is gone.
    pub fn ack(&mut self, stream: usize, number: u64, ns: u64) -> io::Result<()> {
        use std::io::Write;
        self.line.clear();
        writeln!(self.line, "a {stream} {number} {ns}")?;
        write_all(io::stdout().as_fd(), &self.line)
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// What writing gave: the parent is gone.
    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, message)?;
        self.line.push(b'\n');
        write_all(io::stdout().as_fd(), &self.line)
    }

    /// Whether the parent asks to end: it closed its end of the pipe, or is gone.
    pub fn asks_to_end(&self) -> bool {
        let stdin = io::stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(n) if n > 0)
    }
}

/// Not through `Stdout`, whose buffer would split a line where it is full.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_were_sent() {
        assert_eq!(
            Line::parse("a 3 17 250"),
            Some(Line::Ack {
                stream: 3,
                number: 17,
                ns: 250
            })
        );
        for bad in ["", "a", "a 1", "a 1 2", "a x 2 3", "{}", "b 1 2 3"] {
            assert_eq!(Line::parse(bad), None, "{bad:?}");
        }
        let messages = [
            Message::Ready {
                resumed: vec![(0, 5)],
            },
            Message::Failed {
                message: "a\nb".into(),
            },
            Message::Observed(Observed::default()),
            Message::Followed(Followed::default()),
            Message::Cut(Cut::default()),
            Message::Remains(Remains::default()),
            Message::Examined(Box::new(Examined {
                cuts: vec![(1, Ok("ab".into())), (2, Err("gone".into()))],
                diff: Some(Excerpt::default()),
                ..Examined::default()
            })),
        ];
        for message in messages {
            let line = serde_json::to_string(&message).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(Line::parse(&line), Some(Line::Message(Box::new(message))));
        }
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut values = histogram().unwrap();
        for i in 1..=1000 {
            values.saturating_record(i * 10);
        }
        let latency = Latency::from(&values);
        assert_eq!(latency.count, 1000);
        assert!((4950..5100).contains(&latency.p50_ns), "{}", latency.p50_ns);
        assert!(latency.p50_ns < latency.p90_ns && latency.p99_ns <= latency.max_ns);
    }
}
