//! The writer over a disk that loses, tears, reorders and refuses, see [`faulty`](super::disk::faulty) for the faults.
//!
//! After each run the log is read as after a power cut: everything that was called durable is there, byte for byte; what
//! follows it is whole or cut cleanly; and recovering twice changes nothing.

use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::disk::faulty::{Faults, FaultyDisk, Rng};
use super::{Backend, Fork, LogError, LogMeta, LogReader, LogWriter, OpenOptions, WriterConfig};

const SLOT: usize = 64;
const FIRST: u64 = 64;

fn meta(incarnation: u64, fork_lsn: u64) -> LogMeta {
    LogMeta {
        config: None,
        log_id: [5, 6],
        incarnation,
        fork_lsn,
        forks: vec![Fork {
            incarnation,
            lsn: fork_lsn,
        }],
        created_ns: 0,
        ring_slots: 64,
        bus: "faulty".into(),
    }
}

fn config() -> WriterConfig {
    WriterConfig {
        segment_bytes: 48 << 10,
        block_bytes: 12 << 10,
        depth: 4,
        backend: Backend::Auto,
        prewrite: true,
    }
}

/// Bytes that only this LSN of this incarnation has.
fn slot(lsn: u64, incarnation: u64) -> [u8; SLOT] {
    let mut rng = Rng(lsn << 8 ^ incarnation);
    let mut bytes = [0; SLOT];
    for word in bytes.chunks_mut(8) {
        word.copy_from_slice(&rng.next().to_le_bytes());
    }
    bytes
}

/// A log on a faulty disk, through several generations of writers.
struct Run {
    disk: FaultyDisk,
    rng: Rng,
    /// What was called durable.
    durable: u64,
    /// Incarnations and where they began.
    line: Vec<(u64, u64)>,
}

impl Run {
    fn new(seed: u64) -> Run {
        Run {
            disk: FaultyDisk::new(seed),
            rng: Rng(!seed),
            durable: FIRST,
            line: vec![(1, 0)],
        }
    }

    fn incarnation(&self) -> u64 {
        self.line[self.line.len() - 1].0
    }

    /// Writes until `blocks` are submitted or something fails. Whether it failed.
    fn write(&mut self, at: u64, blocks: u64) -> Option<LogError> {
        let (incarnation, fork) = self.line[self.line.len() - 1];
        let created = LogWriter::create_on(
            Arc::new(self.disk.clone()),
            None,
            meta(incarnation, fork),
            at,
            config(),
        );
        let mut writer = match created {
            Ok(writer) => writer,
            Err(e) => return Some(e),
        };
        let failed = (0..blocks).find_map(|_| self.step(&mut writer, incarnation).err());
        self.durable = self.durable.max(writer.durable_lsn());
        let Some(failed) = failed else {
            let end = writer.end_lsn();
            return match writer.close() {
                Ok(()) => {
                    self.durable = end;
                    None
                }
                Err(e) => Some(e),
            };
        };
        // Nothing more is written, or called durable.
        let durable = writer.durable_lsn();
        assert!(matches!(writer.poll(), Err(LogError::Poisoned { .. })));
        assert!(matches!(writer.wait(None), Err(LogError::Poisoned { .. })));
        assert!(writer.begin().is_none() && writer.durable_lsn() == durable);
        assert!(writer.stats().last_error.is_some());
        assert!(matches!(writer.close(), Err(LogError::Poisoned { .. })));
        Some(failed)
    }

    fn step(&mut self, writer: &mut LogWriter, incarnation: u64) -> Result<(), LogError> {
        let mut block = loop {
            match writer.begin() {
                Some(block) => break block,
                None => writer.wait(None).map(drop)?,
            }
        };
        let first = writer.end_lsn();
        let mut end = first;
        for _ in 0..1 + self.rng.below(150) {
            block.room()[..SLOT].copy_from_slice(&slot(end, incarnation));
            block.advance(SLOT, 1);
            end += 1;
        }
        // A long padding that is left out.
        let end = end + [0, 0, 0, 1000][self.rng.below(4) as usize];
        writer.submit(block, end)?;
        match self.rng.below(5) {
            0 => writer.wait(None).map(drop)?,
            1 => {
                while writer.in_flight() > 0 {
                    writer.wait(None)?;
                }
            }
            2..4 => writer.poll().map(drop)?,
            _ => {}
        }
        self.durable = self.durable.max(writer.durable_lsn());
        Ok(())
    }

    /// Reads what is on the disk: the LSN at which it ends, or what is wrong.
    fn read(&self) -> Result<u64, String> {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        self.disk.copy_to(dir.path());
        self.read_dir(dir.path())
    }

    fn read_dir(&self, dir: &Path) -> Result<u64, String> {
        let options = OpenOptions {
            durable_at_least: self.durable,
            ..OpenOptions::default()
        };
        let mut reader = LogReader::open(dir, options).map_err(|e| e.to_string())?;
        if reader.header().is_none() {
            return match self.durable {
                FIRST => Ok(FIRST),
                durable => Err(format!("no log, but {durable} was durable")),
            };
        }
        let mut lsn = reader.lsn();
        if lsn != FIRST {
            return Err(format!("the log begins at {lsn}"));
        }
        while let Some(block) = reader.next().map_err(|e| e.to_string())? {
            if block.first_lsn != lsn {
                return Err(format!("{} behind {lsn}", block.first_lsn));
            }
            let known = self.line.iter().rev().find(|(_, from)| lsn >= *from);
            if known.map(|k| k.0) != Some(block.incarnation) {
                return Err(format!("{lsn} of incarnation {}", block.incarnation));
            }
            for (i, bytes) in block.body.chunks(SLOT).enumerate() {
                if bytes != slot(lsn + i as u64, block.incarnation) {
                    return Err(format!("other bytes at {}", lsn + i as u64));
                }
            }
            lsn = block.end_lsn;
        }
        match lsn >= self.durable {
            true => Ok(lsn),
            false => Err(format!("ends at {lsn}, but {} was durable", self.durable)),
        }
    }

    /// Recovers on a copy, twice: the log ends where it did, and says so.
    fn recover_twice(&self, end: u64) -> Result<(), String> {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        self.disk.copy_to(dir.path());
        for more in 1..3 {
            let next = meta(self.incarnation() + more, end);
            let config = WriterConfig {
                backend: Backend::Plain,
                ..config()
            };
            LogWriter::create(dir.path(), next, end, config)
                .and_then(LogWriter::close)
                .map_err(|e| e.to_string())?;
            let again = self.read_dir(dir.path())?;
            if again != end {
                return Err(format!("ended at {end}, after a recovery at {again}"));
            }
        }
        Ok(())
    }

    /// Three generations of writers, with `faults` in the one that `turn` says.
    fn generations(seed: u64, turn: u64, faults: Faults) -> Result<(bool, u64), String> {
        let mut run = Run::new(seed);
        let mut operations = 0;
        let mut hit = false;
        let mut at = FIRST;
        for generation in 0..3 {
            let here = generation == turn;
            run.disk.set(if here {
                faults
            } else {
                Faults {
                    crash_at: None,
                    fail_at: None,
                    ..faults
                }
            });
            let blocks = 14 + run.rng.below(8);
            let failed = run.write(at, blocks);
            if let Some(e) = &failed
                && !here
            {
                return Err(format!("generation {generation}: {e}"));
            }
            hit |= failed.is_some();
            if here {
                operations = run.disk.operations();
            }
            if run.rng.below(3) == 0 {
                // Another supervisor takes over: it has the records from `durable` on.
                run.disk.kill();
                at = run.durable;
                continue;
            }
            run.disk.crash();
            let end = run.read()?;
            run.recover_twice(end)?;
            at = end;
            let next = run.incarnation() + 1;
            run.line.push((next, end));
        }
        run.disk.crash();
        let end = run.read()?;
        run.recover_twice(end)?;
        Ok((hit, operations))
    }
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let seed = std::env::var("MMSB_SEED").ok().and_then(|s| s.parse().ok());
    seed.map_or(0..default, |s| s..s + 1)
}

/// Every operation of a generation, in turn.
fn at_every_operation(seed: u64, turn: u64, faults: impl Fn(u64) -> Faults) -> u64 {
    let mut n = 0;
    loop {
        match Run::generations(seed, turn, faults(n)) {
            // The generation ended ahead of operation `n`: that was the last.
            Ok((hit, operations)) if n >= operations => {
                assert!(!hit, "operation {n} of {operations}");
                return n;
            }
            Ok(_) => {}
            Err(e) => panic!("MMSB_SEED={seed}, generation {turn}, operation {n}: {e}"),
        }
        n += 1;
    }
}

#[test]
fn nothing_durable_is_lost_by_a_crash_at_any_operation() {
    for seed in seeds(6) {
        let n = at_every_operation(seed, seed % 3, |n| Faults {
            crash_at: Some(n),
            ..Faults::default()
        });
        assert!(n > 40, "{n} operations");
    }
}

#[test]
fn nothing_durable_is_lost_when_any_operation_fails() {
    for seed in seeds(6) {
        let errno = [Errno::IO, Errno::NOSPC, Errno::DQUOT][seed as usize % 3].raw_os_error();
        at_every_operation(seed, seed % 3, |n| Faults {
            fail_at: Some((n, errno)),
            ..Faults::default()
        });
    }
}

#[test]
fn full_disk_is_told_from_a_broken_one() {
    for (errno, full) in [
        (Errno::NOSPC, true),
        (Errno::DQUOT, true),
        (Errno::IO, false),
    ] {
        for n in 0..60 {
            let mut run = Run::new(n);
            run.disk.set(Faults {
                fail_at: Some((n, errno.raw_os_error())),
                ..Faults::default()
            });
            if let Some(e) = run.write(FIRST, 10) {
                assert_eq!(e.is_full(), full, "{e}");
                assert_eq!(e.errno(), Some(errno.raw_os_error()));
            }
        }
    }
}

/// The tests above see it when the flag is missing: without it they would be worth nothing.
#[test]
fn writes_without_dsync_lose_what_was_called_durable() {
    let lost = (0..20)
        .filter(|seed| {
            let faults = Faults {
                without_dsync: true,
                crash_at: Some(30 + seed),
                ..Faults::default()
            };
            Run::generations(*seed, 0, faults).is_err()
        })
        .count();
    assert!(lost > 10, "{lost} of 20");
}

/// Likewise the directory.
#[test]
fn names_that_are_not_synced_are_lost() {
    let lost = (0..40)
        .filter(|seed| {
            let faults = Faults {
                without_sync_dir: true,
                crash_at: Some(30 + seed),
                ..Faults::default()
            };
            Run::generations(*seed, 0, faults).is_err()
        })
        .count();
    assert!(lost > 5, "{lost} of 40");
}
