//! A disk that does the worst that real ones may.
//!
//! # Fault model
//! * **Durable** are the bytes of a write that was issued as synced and has completed, what was in a file when a
//!   completed `sync` of it began, and the names at a completed `sync_dir`. A completed call that was not issued as
//!   synced makes nothing durable ([`Faults::without_dsync`] and [`Faults::without_sync_dir`] take the flag, or the
//!   call, away from the code under test).
//! * **Crash**: of everything else, in flight or merely not synced, any subset of 512-byte sectors may have reached the
//!   disk, in any order; of names, any prefix of the changes; of lengths, any.
//! * Writes in flight complete **in any order**, some of them in two parts (short writes).
//! * An operation can **fail**, once, having done any part of its work; or the machine stops in the middle of it, and
//!   every later one fails.
//!
//! Every operation counts: [`Faults::crash_at`] and [`Faults::fail_at`] name one by its number. Everything random comes
//! from a seed, and nothing runs in other threads, so a number means the same operation each time.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::{AlignedBuffer, Backend, Completion, Disk, DiskFile, Engine, Patience, Write};
use crate::tlog::format::SECTOR;

const ATOM: usize = 512;

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The machine stops in the middle of this operation.
    pub crash_at: Option<u64>,
    /// This operation fails with this number.
    pub fail_at: Option<(u64, i32)>,
    /// Writes lose their DSYNC flag on the way.
    pub without_dsync: bool,
    /// `sync_dir` does nothing.
    pub without_sync_dir: bool,
}

enum Change {
    Bytes { at: u64, data: Vec<u8> },
    Length(u64),
}

#[derive(Default)]
struct FileState {
    stable: Vec<u8>,
    pending: Vec<Change>,
}

fn put(content: &mut Vec<u8>, at: u64, data: &[u8]) {
    let (at, end) = (at as usize, at as usize + data.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(data);
}

impl FileState {
    fn settle(&mut self) {
        for change in self.pending.drain(..) {
            match change {
                Change::Bytes { at, data } => put(&mut self.stable, at, &data),
                Change::Length(len) => self.stable.resize(len as usize, 0),
            }
        }
    }

    /// Some of what was not durable is there, some is not.
    fn crash(&mut self, rng: &mut Rng) {
        // All or nothing of a write happens as well.
        for change in std::mem::take(&mut self.pending) {
            let mood = rng.below(4);
            match change {
                Change::Bytes { at, data } => {
                    for (i, atom) in data.chunks(ATOM).enumerate() {
                        if mood == 0 || (mood > 1 && rng.below(2) == 0) {
                            put(&mut self.stable, at + (i * ATOM) as u64, atom);
                        }
                    }
                }
                Change::Length(len) if mood < 2 => self.stable.resize(len as usize, 0),
                Change::Length(_) => {}
            }
        }
    }
}

type Names = BTreeMap<String, usize>;

struct State {
    faults: Faults,
    rng: Rng,
    operations: u64,
    dead: bool,
    files: Vec<FileState>,
    names: Names,
    /// Durable names, and each change since.
    stable_names: Names,
    name_changes: Vec<Names>,
}

/// How an operation goes.
enum Fate {
    Well,
    /// A part of it is done.
    Fails(io::Error),
}

impl State {
    fn operation(&mut self) -> Fate {
        let n = self.operations;
        self.operations += 1;
        if self.dead || self.faults.crash_at == Some(n) {
            self.dead = true;
            return Fate::Fails(io::Error::from_raw_os_error(Errno::IO.raw_os_error()));
        }
        match self.faults.fail_at {
            Some((at, errno)) if at == n => Fate::Fails(io::Error::from_raw_os_error(errno)),
            _ => Fate::Well,
        }
    }

    /// Changes names; at a failure perhaps, and not durably.
    fn rename(&mut self, change: impl FnOnce(&mut Names)) -> io::Result<()> {
        let was_dead = self.dead;
        let fate = self.operation();
        let done = match fate {
            Fate::Well => true,
            Fate::Fails(_) => !was_dead && self.rng.below(2) == 0,
        };
        if done {
            change(&mut self.names);
            self.name_changes.push(self.names.clone());
        }
        match fate {
            Fate::Well => Ok(()),
            Fate::Fails(e) => Err(e),
        }
    }

    fn write(&mut self, file: usize, at: u64, data: &[u8], synced: bool) -> io::Result<()> {
        let was_dead = self.dead;
        let fate = self.operation();
        let without = self.faults.without_dsync;
        let state = &mut self.files[file];
        match fate {
            Fate::Well if synced && !without => {
                put(&mut state.stable, at, data);
                Ok(())
            }
            fate => {
                if !was_dead {
                    state.pending.push(Change::Bytes {
                        at,
                        data: data.to_vec(),
                    });
                }
                match fate {
                    Fate::Well => Ok(()),
                    Fate::Fails(e) => Err(e),
                }
            }
        }
    }
}

/// A directory in memory. Clones are the same directory.
#[derive(Clone)]
pub struct FaultyDisk {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

impl FaultyDisk {
    pub fn new(seed: u64) -> FaultyDisk {
        FaultyDisk {
            path: PathBuf::from("/faulty"),
            state: Arc::new(Mutex::new(State {
                faults: Faults::default(),
                rng: Rng(seed),
                operations: 0,
                dead: false,
                files: Vec::new(),
                names: Names::new(),
                stable_names: Names::new(),
                name_changes: Vec::new(),
            })),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on; operations are counted from 0 again.
    pub fn set(&self, faults: Faults) {
        let mut state = self.state();
        state.faults = faults;
        state.operations = 0;
    }

    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The power goes and comes back: what is there now is durable.
    pub fn crash(&self) {
        let mut state = self.state();
        let State {
            rng,
            files,
            names,
            stable_names,
            name_changes,
            ..
        } = &mut *state;
        for file in files.iter_mut() {
            file.crash(rng);
        }
        let kept = rng.below(name_changes.len() as u64 + 1) as usize;
        if let Some(last) = kept.checked_sub(1) {
            *stable_names = name_changes.swap_remove(last);
        }
        *names = stable_names.clone();
        name_changes.clear();
        state.dead = false;
    }

    /// Only the process ends. What it had in flight is written at once, or later, beside its successor's writes, or torn
    /// by a crash that comes first.
    pub fn kill(&self) {
        let mut state = self.state();
        if state.rng.below(2) == 0 {
            for file in &mut state.files {
                file.settle();
            }
        }
        state.dead = false;
    }

    /// Puts what is durable into a real directory.
    pub fn copy_to(&self, dir: &Path) {
        let state = self.state();
        for (name, id) in &state.stable_names {
            std::fs::write(dir.join(name), &state.files[*id].stable).unwrap();
        }
    }
}

impl Disk for FaultyDisk {
    fn threads(&self) -> bool {
        false
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn read_head(&self, name: &str) -> io::Result<Vec<u8>> {
        let state = self.state();
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let content = &state.files[id].stable;
        Ok(content[..content.len().min(SECTOR)].to_vec())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let id = state.files.len();
        state.files.push(FileState::default());
        state.rename(|names| {
            names.insert(name.to_owned(), id);
        })?;
        Ok(Arc::new(FaultyFile {
            disk: self.clone(),
            id,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.state().rename(|names| {
            if let Some(id) = names.remove(from) {
                names.insert(to.to_owned(), id);
            }
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().rename(|names| {
            names.remove(name);
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.operation() {
            Fate::Well if state.faults.without_sync_dir => Ok(()),
            Fate::Well => {
                state.stable_names = state.names.clone();
                state.name_changes.clear();
                Ok(())
            }
            Fate::Fails(e) => Err(e),
        }
    }

    fn engine(
        &self,
        _: usize,
        buffers: &mut [AlignedBuffer],
        _: Backend,
    ) -> io::Result<Box<dyn Engine>> {
        for (i, buffer) in buffers.iter_mut().enumerate() {
            // What a block does not write must not matter.
            buffer.fill(0xA5);
            buffer.index = Some(i as u16);
        }
        Ok(Box::new(FaultyEngine {
            disk: self.clone(),
            flying: Vec::new(),
        }))
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    id: usize,
}

impl FaultyFile {
    fn of(file: &dyn DiskFile) -> &FaultyFile {
        file.as_any().downcast_ref().unwrap()
    }

    /// An operation whose effect is not durable.
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        let was_dead = state.dead;
        let fate = state.operation();
        if !was_dead {
            state.files[self.id].pending.push(change);
        }
        match fate {
            Fate::Well => Ok(()),
            Fate::Fails(e) => Err(e),
        }
    }
}

impl DiskFile for FaultyFile {
    fn allocate(&self, len: u64, _: bool) -> io::Result<()> {
        // Only lengthens: content that is there stays.
        let have = self.disk.state().files[self.id].stable.len() as u64;
        self.change(Change::Length(len.max(have)))
    }

    fn write_synced(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.disk.state().write(self.id, at, bytes, true)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        match state.operation() {
            Fate::Well => {
                state.files[self.id].settle();
                Ok(())
            }
            // As on Linux: what was not written is not tried again, so it may never be.
            Fate::Fails(e) => Err(e),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

struct FaultyEngine {
    disk: FaultyDisk,
    flying: Vec<(Write, usize)>,
}

impl FaultyEngine {
    /// Ends one of the writes, or a part of it.
    fn step(&mut self, out: &mut Vec<Completion>) {
        let mut state = self.disk.state();
        let at = state.rng.below(self.flying.len() as u64) as usize;
        let (write, done) = &mut self.flying[at];
        let left = write.len - *done;
        let mut part = left;
        if left > SECTOR && state.rng.below(4) == 0 {
            part = (1 + state.rng.below((left / SECTOR) as u64 - 1) as usize) * SECTOR;
        }
        let id = FaultyFile::of(&*write.file).id;
        let bytes = &write.buffer[*done..*done + part];
        let result = state.write(id, write.at + *done as u64, bytes, true);
        *done += part;
        if result.is_ok() && *done < write.len {
            return;
        }
        drop(state);
        let (write, _) = self.flying.swap_remove(at);
        out.push(Completion {
            tag: write.tag,
            buffer: write.buffer,
            result,
        });
    }
}

impl Engine for FaultyEngine {
    fn submit(&mut self, write: Write) {
        self.flying.push((write, 0));
    }

    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn reap(&mut self, patience: Patience, out: &mut Vec<Completion>) -> io::Result<()> {
        if patience == Patience::None && self.disk.state().rng.below(2) == 0 {
            return Ok(());
        }
        while !self.flying.is_empty() {
            self.step(out);
            if !out.is_empty() && self.disk.state().rng.below(2) == 0 {
                break;
            }
        }
        Ok(())
    }

    fn name(&self) -> &'static str {
        "faulty"
    }
}

impl Drop for FaultyEngine {
    /// What is in flight when the writer ends may reach the disk later, or not.
    fn drop(&mut self) {
        let mut state = self.disk.state();
        for (write, done) in self.flying.drain(..) {
            let id = FaultyFile::of(&*write.file).id;
            state.files[id].pending.push(Change::Bytes {
                at: write.at + done as u64,
                data: write.buffer[done..write.len].to_vec(),
            });
        }
    }
}
