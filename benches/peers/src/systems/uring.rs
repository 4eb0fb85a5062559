//! The disk itself, by io_uring: synced writes of a file that was written before, several of them in flight.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use io_uring::{IoUring, opcode, types};
use mmsb_benches::disk::{AREA, Buffer, SECTOR, Scratch};
use rustix::io::ReadWriteFlags;
use rustix::thread::futex;

use crate::contender::{Contender, Kind};
use crate::drive::synced::{self, Engine};
use crate::task::Task;

/// The floor of whoever writes with io_uring.
pub const CONTENDERS: &[Contender] = &[Contender {
    name: "bare/io_uring",
    system: "the machine",
    kind: Kind::Floor,
    label: "bare io_uring, O_DIRECT + DSYNC, group commit",
    config: "io_uring writes with RWF_DSYNC to a preallocated, zeroed file opened with O_DIRECT, four in flight at most (one \
             for one thread; two, and eight, did less), each on a ring of its own. Whoever comes while fewer are in flight \
             writes; the others fill a batch, whose first writes it as soon as one has ended, and wakes the rest. A commit \
             waits for its own write only. No format, no checksum, nothing to read back.",
    server: None,
    entries: &[synced::entry::<Rings>()],
    lacks: &[],
    is_here,
    version: super::bare::version,
}];

fn is_here() -> std::result::Result<(), String> {
    match IoUring::new(1) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the kernel gives no io_uring: {error}")),
    }
}

/// Writes in flight at most.
const DEPTH: usize = 4;

/// Committers that share writes.
struct Rings {
    file: Scratch,
    bytes: usize,
    depth: usize,
    batches: Vec<Batch>,
    state: Mutex<State>,
    has_failed: AtomicBool,
}

/// What shares one write: filled, then in flight, then free.
struct Batch {
    /// Whoever leads alone uses it.
    ring: Mutex<IoUring>,
    /// How often it has been written.
    done: AtomicU32,
    /// How often it was to be written, or less: who waits for it to become `done + 1` is to write it.
    lead: AtomicU32,
}

/// What is changed under the lock.
struct State {
    /// The batch that is being filled, and its records so far.
    open: usize,
    records: usize,
    /// Whoever came first to the open batch was told to write it.
    is_told: bool,
    /// Of each batch.
    buffers: Vec<Buffer>,
    /// Writes that are made or about to be.
    in_flight: usize,
    free: Vec<usize>,
    /// Where the next write goes.
    at: u64,
}

/// A write that is to be made.
#[derive(Clone, Copy)]
struct Write {
    from: *const u8,
    len: usize,
    at: u64,
}

impl Batch {
    fn new() -> Result<Batch> {
        Ok(Batch {
            ring: Mutex::new(IoUring::new(1)?),
            done: AtomicU32::new(0),
            lead: AtomicU32::new(0),
        })
    }
}

impl Rings {
    fn outcome(&self) -> Result<()> {
        // Relaxed: see `commit`.
        if self.has_failed.load(Ordering::Relaxed) {
            bail!("a synced write failed");
        }
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        // Plain data, whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the open batch: it is in flight from now on.
    fn close(&self, state: &mut State) -> Result<Write> {
        let len = (state.records * self.bytes).next_multiple_of(SECTOR);
        if state.at + len as u64 > AREA {
            state.at = 0;
        }
        let write = Write {
            from: state.buffers[state.open].as_ptr(),
            len,
            at: state.at,
        };
        state.at += len as u64;
        state.records = 0;
        state.is_told = false;
        state.open = state
            .free
            .pop()
            .context("more writes are in flight than there may be")?;
        Ok(write)
    }

    /// Writes, and returns when it is on disk.
    fn write(&self, batch: &Batch, write: Write) -> io::Result<()> {
        let mut ring = batch.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let file = types::Fd(self.file.file().as_raw_fd());
        let entry = opcode::Write::new(file, write.from, write.len as u32)
            .offset(write.at)
            .rw_flags(ReadWriteFlags::DSYNC.bits() as i32)
            .build();
        // SAFETY: the buffer lasts, and nobody changes it before the batch is free again: after the write, which is
        // awaited below whatever happens.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        loop {
            match ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    // The kernel may hold the buffer: nothing may go on here.
                    eprintln!("io_uring failed with a write in flight: {error}");
                    std::process::abort();
                }
                _ => {}
            }
            if let Some(entry) = ring.completion().next() {
                return match entry.result() {
                    written if written == write.len as i32 => Ok(()),
                    error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
                    _ => Err(io::ErrorKind::WriteZero.into()),
                };
            }
        }
    }
}

/// Sleeps until the word has become `wanted`; it may be past it.
fn wait(word: &AtomicU32, wanted: u32) {
    loop {
        // Acquire: what was done before the word was stored is seen.
        let now = word.load(Ordering::Acquire);
        if now.wrapping_sub(wanted) < 1 << 31 {
            return;
        }
        // Woken for nothing, or changed meanwhile: the loop looks again.
        let _ = futex::wait(word, futex::Flags::PRIVATE, now, None);
    }
}

impl Engine for Rings {
    /// The newest record of the thread: nothing is read back.
    type Session<'e> = Vec<u8>;

    fn open(task: &Task) -> Result<Rings> {
        let depth = DEPTH.min(task.threads);
        // One is filled while all others are in flight.
        let batches: Vec<_> = (0..=depth).map(|_| Batch::new()).collect::<Result<_>>()?;
        let buffers =
            (0..=depth).map(|_| Buffer::new((task.threads * task.bytes).next_multiple_of(SECTOR)));
        Ok(Rings {
            file: Scratch::new(&task.disk, AREA, true)?,
            bytes: task.bytes,
            depth,
            batches,
            state: Mutex::new(State {
                open: 0,
                records: 0,
                is_told: false,
                buffers: buffers.collect::<io::Result<_>>()?,
                in_flight: 0,
                free: (1..=depth).collect(),
                at: 0,
            }),
            has_failed: AtomicBool::new(false),
        })
    }

    fn session(&self, _: usize) -> Result<Vec<u8>> {
        Ok(vec![0; self.bytes])
    }

    fn commit(&self, newest: &mut Vec<u8>, payload: &[u8]) -> Result<()> {
        newest.copy_from_slice(payload);
        let mut state = self.locked();
        let (at, place) = (state.open, state.records * self.bytes);
        state.buffers[at][place..place + self.bytes].copy_from_slice(payload);
        state.records += 1;
        let batch = &self.batches[at];
        // Relaxed: the last to change it let go of the lock since.
        let round = batch.done.load(Ordering::Relaxed).wrapping_add(1);
        if place > 0 {
            drop(state);
            wait(&batch.done, round);
            return self.outcome();
        }
        if state.in_flight == self.depth {
            drop(state);
            wait(&batch.lead, round);
            state = self.locked();
        } else {
            state.in_flight += 1;
        }
        let has_followers = state.records > 1;
        let write = self.close(&mut state)?;
        drop(state);
        if let Err(error) = self.write(batch, write) {
            eprintln!("a synced write failed: {error}");
            // Relaxed: those who look at it waited for `done`, which is stored later.
            self.has_failed.store(true, Ordering::Relaxed);
        }
        // Release: see `wait`. Before the batch is free to be filled again.
        batch.done.store(round, Ordering::Release);
        let mut state = self.locked();
        state.free.push(at);
        if state.records > 0 && !state.is_told {
            // The next write takes this one's place, and begins before anybody else is woken.
            state.is_told = true;
            let next = &self.batches[state.open];
            // Relaxed: as above.
            let round = next.done.load(Ordering::Relaxed).wrapping_add(1);
            drop(state);
            // Release: see `wait`.
            next.lead.store(round, Ordering::Release);
            futex::wake(&next.lead, futex::Flags::PRIVATE, 1)?;
        } else {
            state.in_flight -= 1;
            drop(state);
        }
        if has_followers {
            futex::wake(&batch.done, futex::Flags::PRIVATE, i32::MAX as u32)?;
        }
        self.outcome()
    }

    fn newest(&self, newest: &mut Vec<u8>) -> Result<Vec<u8>> {
        Ok(newest.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Job, fill};

    #[test]
    fn all_commits_of_all_threads_end() {
        if is_here().is_err() {
            return;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for threads in [1, 3, 9] {
            let task = Task {
                job: Job::Synced,
                bytes: 64,
                threads,
                contender: "bare/io_uring".to_owned(),
                name: String::new(),
                dir: dir.path().to_owned(),
                disk: dir.path().to_owned(),
                cpus: (0, 0),
                millis: 0,
                lines: -1,
                parent: 0,
            };
            let rings = Rings::open(&task).unwrap();
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let rings = &rings;
                    scope.spawn(move || {
                        let mut newest = rings.session(thread).unwrap();
                        let mut payload = [0; 64];
                        for n in 1..=50 {
                            fill(&mut payload, n);
                            rings.commit(&mut newest, &payload).unwrap();
                        }
                        assert_eq!(rings.newest(&mut newest).unwrap(), payload);
                    });
                }
            });
            let state = rings.locked();
            assert_eq!((state.records, state.in_flight), (0, 0));
            assert_eq!(state.free.len() + 1, rings.batches.len());
        }
    }
}
