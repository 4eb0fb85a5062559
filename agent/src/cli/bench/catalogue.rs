//! Which cases there are, what each is compared with, and what is aimed at.

use super::samples::Measured;

/// What a case is compared with. Measured without MMSB, in processes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// One way between two polling processes, with so many bytes.
    Line(usize),
    /// Copying so many bytes.
    Copy(usize),
    /// A bare shared futex wakes a sleeper.
    Wake,
    /// The kernel takes a killed process down; the case measures it.
    Teardown,
    /// One synced write of 4 KiB past the page cache.
    DiskWrite,
    /// So many threads commit by such writes, which they share, one in flight.
    GroupCommit(usize),
    /// The bytes of an operation, at the bandwidth of the disk for large writes.
    DiskStream,
    /// The same commits on a bus without a log; the case measures it.
    Unlogged,
    /// Reading the same bytes out of the page cache, nothing else; the case measures it.
    ReadCached,
    /// Reading the same bytes from the disk, nothing else; the case measures it.
    ReadDisk,
}

impl Floor {
    /// Its name in the output.
    pub fn name(self) -> String {
        match self {
            Floor::Line(bytes) => format!("one way, {bytes} B"),
            Floor::Copy(bytes) => format!("memcpy, {bytes} B"),
            Floor::Wake => "futex wake".to_owned(),
            Floor::Teardown => "teardown by the kernel".to_owned(),
            Floor::DiskWrite => "4 KiB O_DIRECT + DSYNC write".to_owned(),
            Floor::GroupCommit(threads) => {
                format!("bare group commit, {threads} threads, one write in flight")
            }
            Floor::DiskStream => "sequential O_DIRECT writes of the same bytes".to_owned(),
            Floor::Unlogged => "the same without a log".to_owned(),
            Floor::ReadCached => "reading the same bytes, cached".to_owned(),
            Floor::ReadDisk => "reading the same bytes once, from the disk".to_owned(),
        }
    }
}

/// What is aimed at, on a quiet machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// The median, in nanoseconds.
    P50(f64),
    /// Times the floor.
    Ratio(f64),
    /// Operations in a second.
    Rate(f64),
    /// Reads in a second.
    Reads(f64),
    /// Reads and writes in a second, both.
    ReadsAndWrites(f64, f64),
    /// Times a commit of 64 B.
    Commits(f64),
    /// Bytes of memory.
    Memory(f64),
    /// Synced commits in a second where one small write takes 0.1 ms; in proportion where it takes more or less.
    SyncedRate(f64),
    /// Operations in a second, and at that rate nobody waits.
    SteadyRate(f64),
    /// Bytes in a second, or 80 % of what the disk can; and at that rate nobody waits.
    SteadyBytes(f64),
    /// Bytes in a second.
    Bytes(f64),
    /// Bytes of the log per operation.
    LogBytes(f64),
    /// Times the floor, and times the 99th percentile of writers that nothing disturbs.
    RatioAndWriters(f64, f64),
    /// Nothing was promised.
    None,
}

impl Target {
    /// As people write it.
    pub fn name(self) -> String {
        let millions = |rate: f64| format!("{} M/s", rate / 1e6);
        match self {
            Target::P50(ns) if ns >= 1e6 => format!("<= {} ms", ns / 1e6),
            Target::P50(ns) if ns >= 1e3 => format!("<= {} µs", ns / 1e3),
            Target::P50(ns) => format!("<= {ns} ns"),
            Target::Ratio(ratio) => format!("<= {ratio} x floor"),
            Target::Rate(rate) => format!(">= {}", millions(rate)),
            Target::Reads(rate) => format!(">= {} reads", millions(rate)),
            Target::ReadsAndWrites(reads, writes) => {
                format!(">= {} reads, {} writes", millions(reads), millions(writes))
            }
            Target::Commits(times) => format!("<= {times} x commit of 64 B"),
            Target::Memory(bytes) => format!("<= {} GiB", bytes / f64::from(1 << 30)),
            Target::SyncedRate(rate) => format!(">= {} k/s at 0.1 ms a write", rate / 1e3),
            Target::SteadyRate(rate) => format!(">= {}, without waits", millions(rate)),
            Target::SteadyBytes(rate) => {
                format!(">= {} GB/s or 80 % of the disk, without waits", rate / 1e9)
            }
            Target::Bytes(rate) => format!(">= {} GB/s", rate / 1e9),
            Target::LogBytes(bytes) => format!("<= {bytes} B of log each"),
            Target::RatioAndWriters(ratio, writers) => {
                format!("<= {ratio} x floor, writers' p99 <= {writers} x")
            }
            Target::None => String::new(),
        }
    }

    /// The figures of the output that it speaks of, each with whether more of it is better.
    pub fn figures(self) -> &'static [(&'static str, bool)] {
        match self {
            Target::P50(_) | Target::None => &[("p50_ns", false)],
            Target::Ratio(_) => &[("ratio_to_floor", false)],
            Target::Rate(_) | Target::SteadyRate(_) => &[("per_second", true)],
            Target::Reads(_) => &[("reads_per_second", true)],
            Target::ReadsAndWrites(..) => {
                &[("reads_per_second", true), ("writes_per_second", true)]
            }
            Target::Commits(_) => &[("times_a_commit", false)],
            Target::Memory(_) => &[("memory_bytes", false)],
            Target::SyncedRate(_) => &[("per_second_at_100_us", true)],
            Target::SteadyBytes(_) | Target::Bytes(_) => &[("bytes_per_second", true)],
            Target::LogBytes(_) => &[("log_bytes_each", false)],
            Target::RatioAndWriters(..) => {
                &[("ratio_to_floor", false), ("writer_p99_ratio", false)]
            }
        }
    }

    /// Figures that follow from what was measured and are told because [`Target::figures`] names them.
    pub fn derived(self, measured: &Measured) -> Option<(&'static str, f64)> {
        match self {
            Target::Commits(_) => {
                let commit = measured.number("commit_64_p50_ns")?;
                Some(("times_a_commit", measured.p50_ns / commit))
            }
            Target::SyncedRate(_) => {
                let write = measured.number("write_ns")?;
                Some((
                    "per_second_at_100_us",
                    measured.per_second * write / 100_000.0,
                ))
            }
            _ => None,
        }
    }

    /// Whether it was reached; `None` if nothing was promised.
    pub fn is_met(self, measured: &Measured, ratio: Option<f64>) -> Option<bool> {
        let at_least = |name: &str, least: f64| measured.number(name).map(|is| is >= least);
        match self {
            Target::P50(ns) => Some(measured.p50_ns <= ns),
            Target::Ratio(most) => ratio.map(|ratio| ratio <= most),
            Target::Rate(least) => Some(measured.per_second >= least),
            Target::Reads(least) => at_least("reads_per_second", least),
            Target::ReadsAndWrites(reads, writes) => {
                Some(at_least("reads_per_second", reads)? && at_least("writes_per_second", writes)?)
            }
            Target::Commits(times) => self.derived(measured).map(|(_, is)| is <= times),
            Target::Memory(most) => measured.number("memory_bytes").map(|is| is <= most),
            Target::SyncedRate(least) => self.derived(measured).map(|(_, is)| is >= least),
            Target::SteadyRate(least) => {
                Some(measured.per_second >= least && measured.number("paced_waits")? == 0.0)
            }
            Target::SteadyBytes(least) => {
                let is = measured.number("bytes_per_second")?;
                let disk = measured.number("disk_bytes_per_second")?;
                Some(is >= least.min(0.8 * disk) && measured.number("paced_waits")? == 0.0)
            }
            Target::Bytes(least) => at_least("bytes_per_second", least),
            Target::LogBytes(most) => measured.number("log_bytes_each").map(|is| is <= most),
            Target::RatioAndWriters(most, writers) => {
                Some(ratio? <= most && measured.number("writer_p99_ratio")? <= writers)
            }
            Target::None => None,
        }
    }
}

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name; cases of several sizes share one.
    pub name: &'static str,
    /// Bytes of one operation.
    pub bytes: usize,
    /// Threads that write, where the case is about their number.
    pub writers: Option<usize>,
    /// Whether it has to do with the disk: such cases are run when asked for.
    pub is_durable: bool,
    /// What it is compared with.
    pub floor: Floor,
    /// Whether it measures round trips whose way back is a bare line of 8 bytes.
    pub is_one_way: bool,
    /// Whether it is slow and fast where its floor is: the same work, or one in which the same lines cross.
    pub follows_floor: bool,
    /// What is aimed at.
    pub target: Target,
    /// What is done.
    pub what: &'static str,
}

const fn case(
    name: &'static str,
    bytes: usize,
    floor: Floor,
    target: Target,
    what: &'static str,
) -> Case {
    Case {
        name,
        bytes,
        writers: None,
        is_durable: false,
        floor,
        is_one_way: false,
        // What one process does by itself takes as long wherever the other core is.
        follows_floor: !matches!(floor, Floor::Line(_)),
        target,
        what,
    }
}

/// Two processes that take lines from each other, without taking turns.
const fn crossing(name: &'static str, bytes: usize, target: Target, what: &'static str) -> Case {
    Case {
        follows_floor: true,
        ..case(name, bytes, LINE, target, what)
    }
}

const fn one_way(name: &'static str, bytes: usize, target: Target, what: &'static str) -> Case {
    Case {
        is_one_way: true,
        follows_floor: true,
        ..case(name, bytes, Floor::Line(bytes), target, what)
    }
}

const fn durable(
    name: &'static str,
    bytes: usize,
    floor: Floor,
    target: Target,
    what: &'static str,
) -> Case {
    Case {
        is_durable: true,
        ..case(name, bytes, floor, target, what)
    }
}

const fn synced(writers: usize, floor: Floor, target: Target, what: &'static str) -> Case {
    Case {
        writers: Some(writers),
        ..durable("synced", 64, floor, target, what)
    }
}

impl Case {
    /// Its name, with what tells it from others of that name.
    pub fn label(&self) -> String {
        match self.writers {
            Some(1) => format!("{}, 1 writer", self.name),
            Some(writers) => format!("{}, {writers} writers", self.name),
            None => self.name.to_owned(),
        }
    }
}

const LINE: Floor = Floor::Line(8);

/// All cases, in the order in which they are run.
pub const CASES: &[Case] = &[
    case(
        "read",
        64,
        Floor::Copy(64),
        Target::P50(4.0),
        "copy a page that nobody writes",
    ),
    case("commit", 8, LINE, Target::P50(25.0), "patch a page"),
    case("commit", 64, LINE, Target::P50(32.0), "patch a page"),
    case(
        "commit_leased",
        8,
        LINE,
        Target::P50(18.0),
        "patch a page under a lease",
    ),
    case(
        "commit_batch",
        8,
        LINE,
        Target::Rate(80e6),
        "one delta of a batch of 64",
    ),
    case(
        "sparse",
        64,
        LINE,
        Target::P50(50e3),
        "patch 8 words in 8 places of a page of 1 KiB",
    ),
    one_way(
        "one_way_page",
        8,
        Target::Ratio(1.35),
        "commit to sight, by the page",
    ),
    one_way(
        "one_way_ring",
        8,
        Target::Ratio(1.22),
        "commit to sight, by the ring",
    ),
    one_way(
        "one_way_ring_leased",
        8,
        Target::Ratio(1.08),
        "the same, under a lease",
    ),
    one_way(
        "one_way_ring_leased",
        64,
        Target::Ratio(1.2),
        "the same, under a lease",
    ),
    crossing(
        "contended_page",
        1024,
        Target::Reads(0.5e6),
        "read a page while 8 B patches are made flat out",
    ),
    crossing(
        "contended_cell",
        64,
        Target::ReadsAndWrites(12e6, 20e6),
        "read a cell (K=16) written whole flat out",
    ),
    crossing(
        "contended_cell",
        1024,
        Target::None,
        "read a cell (K=16) while 8 B patches are made flat out",
    ),
    case(
        "wake",
        8,
        Floor::Wake,
        Target::Ratio(1.15),
        "wake a sleeping subscriber",
    ),
    case(
        "alloc_free",
        1024,
        LINE,
        Target::P50(100.0),
        "create and destroy a page",
    ),
    case(
        "loan_publish",
        1 << 20,
        LINE,
        Target::Commits(2.0),
        "publish a loan that is filled already",
    ),
    one_way(
        "one_way_large",
        1 << 20,
        Target::Ratio(1.1),
        "write whole, publish, read whole in place",
    ),
    case(
        "snapshot",
        1024,
        Floor::Copy(1024),
        Target::None,
        "one cut through 4 pages of 256 B",
    ),
    crossing(
        "two_writers",
        8,
        Target::Rate(22e6),
        "two processes patch a page each",
    ),
    crossing(
        "subscribe_throughput",
        64,
        Target::Rate(75e6),
        "batches of 64 to a gating subscriber who reads all",
    ),
    Case {
        is_one_way: true,
        ..case(
            "tick",
            64,
            Floor::Copy(640_000),
            Target::P50(16e6),
            "a delta for each of 10,000 pages, to sight of the last",
        )
    },
    case(
        "memory",
        1024,
        LINE,
        Target::Memory((1u64 << 30) as f64),
        "create 1,000,000 pages",
    ),
    case(
        "takeover",
        64,
        Floor::Teardown,
        Target::P50(5e6),
        "kill of a page's owner to the next writer's commit",
    ),
    synced(
        1,
        Floor::DiskWrite,
        Target::Ratio(1.25),
        "patch a page, and it is on disk",
    ),
    synced(
        8,
        Floor::GroupCommit(8),
        Target::SyncedRate(35e3),
        "the same by threads of 4 processes",
    ),
    synced(
        64,
        Floor::GroupCommit(64),
        Target::SyncedRate(150e3),
        "the same by threads of 4 processes",
    ),
    durable(
        "buffered",
        64,
        Floor::DiskStream,
        Target::SteadyRate(5e6),
        "patches flat out, all of them logged",
    ),
    durable(
        "buffered",
        1024,
        Floor::DiskStream,
        Target::SteadyBytes(1e9),
        "patches flat out, all of them logged",
    ),
    durable(
        "log_bytes",
        64,
        LINE,
        Target::LogBytes(132.0),
        "patches flat out; the bytes that they take in the log",
    ),
    durable(
        "attached_cost",
        64,
        Floor::Unlogged,
        Target::Ratio(1.1),
        "CPU time of a volatile patch at 2 M/s, with a log attached",
    ),
    durable(
        "replay",
        64,
        Floor::ReadCached,
        Target::Rate(8e6),
        "a patch of a log in the page cache, by all cores",
    ),
    durable(
        "replay",
        1024,
        Floor::ReadCached,
        Target::Bytes(2e9),
        "a patch of a log in the page cache, by all cores",
    ),
    durable(
        "checkpoint",
        1 << 30,
        Floor::DiskStream,
        Target::RatioAndWriters(1.25, 2.0),
        "a checkpoint of so many bytes of pages, beside a writer",
    ),
    durable(
        "restart",
        1 << 30,
        Floor::ReadDisk,
        Target::Ratio(1.0),
        "open and read, from a checkpoint and as much log behind it",
    ),
    durable(
        "provenance",
        64,
        LINE,
        Target::P50(50e6),
        "the 32 causes of a delta, in a log of a million that was asked before",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_case_is_there_twice() {
        for (at, case) in CASES.iter().enumerate() {
            let key = |case: &Case| (case.name, case.bytes, case.writers);
            let is_same = |other: &Case| key(other) == key(case);
            assert_eq!(CASES.iter().position(is_same), Some(at), "{}", case.name);
            assert!(case.bytes.is_multiple_of(8) && !case.what.is_empty());
        }
    }

    #[test]
    fn targets_are_met_from_their_own_side() {
        let measured = Measured {
            p50_ns: 25.0,
            per_second: 100.0,
            ..Measured::default()
        }
        .with("reads_per_second", 5.0)
        .with("writes_per_second", 6.0)
        .with("commit_64_p50_ns", 12.0)
        .with("memory_bytes", 10)
        .with("write_ns", 200_000.0)
        .with("paced_waits", 0)
        .with("bytes_per_second", 70.0)
        .with("disk_bytes_per_second", 80.0)
        .with("log_bytes_each", 131.5)
        .with("writer_p99_ratio", 1.5);
        let met = |target: Target| target.is_met(&measured, Some(1.1));
        assert_eq!(met(Target::P50(25.0)), Some(true));
        assert_eq!(met(Target::P50(24.9)), Some(false));
        assert_eq!(met(Target::Ratio(1.1)), Some(true));
        assert_eq!(met(Target::Ratio(1.0)), Some(false));
        assert_eq!(Target::Ratio(1.0).is_met(&measured, None), None);
        assert_eq!(met(Target::Rate(101.0)), Some(false));
        assert_eq!(met(Target::Reads(5.0)), Some(true));
        assert_eq!(met(Target::ReadsAndWrites(5.0, 7.0)), Some(false));
        assert_eq!(met(Target::ReadsAndWrites(5.0, 6.0)), Some(true));
        assert_eq!(met(Target::Commits(2.0)), Some(false));
        assert_eq!(met(Target::Memory(10.0)), Some(true));
        assert_eq!(met(Target::SyncedRate(200.0)), Some(true), "a slow disk");
        assert_eq!(met(Target::SyncedRate(201.0)), Some(false));
        assert_eq!(met(Target::SteadyRate(100.0)), Some(true));
        assert_eq!(met(Target::SteadyRate(101.0)), Some(false));
        let waited = measured.clone().with("paced_waits", 1);
        assert_eq!(
            Target::SteadyRate(1.0).is_met(&waited, Some(1.1)),
            Some(false)
        );
        assert_eq!(met(Target::SteadyBytes(71.0)), Some(true), "the disk's");
        assert_eq!(met(Target::Bytes(71.0)), Some(false));
        assert_eq!(met(Target::LogBytes(132.0)), Some(true));
        assert_eq!(met(Target::LogBytes(131.0)), Some(false));
        assert_eq!(met(Target::RatioAndWriters(1.1, 1.5)), Some(true));
        assert_eq!(met(Target::RatioAndWriters(1.1, 1.4)), Some(false));
        assert_eq!(met(Target::RatioAndWriters(1.0, 1.5)), Some(false));
        assert_eq!(met(Target::None), None);
    }

    #[test]
    fn targets_are_said_in_few_words() {
        assert_eq!(Target::P50(5e6).name(), "<= 5 ms");
        assert_eq!(Target::P50(50e3).name(), "<= 50 µs");
        assert_eq!(Target::P50(4.0).name(), "<= 4 ns");
        assert_eq!(Target::Memory((1u64 << 30) as f64).name(), "<= 1 GiB");
        assert_eq!(
            Target::ReadsAndWrites(12e6, 20e6).name(),
            ">= 12 M/s reads, 20 M/s writes"
        );
    }
}
