//! The machine itself: what any system that moves bytes between two processes must do, and nothing else. No names, no
//! order, no recovery, no second reader: floors, not something to use.

use std::arch::asm;
use std::fs::OpenOptions;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use anyhow::{Context, Result};
use mmsb_benches::disk::{self, Buffer};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::thread::futex;

use crate::contender::{Contender, Entry, Kind, is_built_in};
use crate::drive::late_join::{self, State, VALUES};
use crate::drive::latest::{self, Value};
use crate::drive::one_way::{self, Link};
use crate::drive::recovery;
use crate::drive::synced::{self, Engine};
use crate::drive::throughput::{self, Stream};
use crate::drive::wake::{self, Bell};
use crate::task::{Side, Task, fill, number};

/// The kernel's.
pub fn version() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

const fn floor(
    name: &'static str,
    label: &'static str,
    config: &'static str,
    entries: &'static [Entry],
) -> Contender {
    Contender {
        name,
        system: "the machine",
        kind: Kind::Floor,
        label,
        config,
        server: None,
        entries,
        lacks: &[],
        is_here: is_built_in,
        version,
    }
}

/// The floors.
pub const CONTENDERS: &[Contender] = &[
    floor(
        "bare/line",
        "bare shared memory",
        "One mapping of tmpfs. For each direction a word that counts messages, and the payload: in the same line where it \
         fits, else from the next line on. Written and read in place.",
        &[one_way::entry::<Lane>(&[8, 64, 1024, 64 << 10, 1 << 20])],
    ),
    floor(
        "bare/memcpy",
        "bare shared memory, copied",
        "As bare/line, but the payload is made in private memory and copied in, and copied out before it is read.",
        &[one_way::entry::<Copied>(&[64 << 10, 1 << 20])],
    ),
    floor(
        "bare/ring",
        "bare SPSC ring",
        "4096 slots of 64 B in one mapping, a head and a tail on lines of their own, each side with a cached copy of the \
         other's; the head is stored after each message.",
        &[throughput::entry::<Ring>(&[64])],
    ),
    floor(
        "bare/seqlock",
        "bare seqlock",
        "One value behind one sequence word in one mapping; the writer is alone and takes no lock.",
        &[
            latest::read_alone::<Seqlock<1>>(&[64, 1024]),
            latest::update_alone::<Seqlock<1>>(&[64, 1024]),
            latest::contended::<Seqlock<1>>(&[64, 1024]),
        ],
    ),
    floor(
        "bare/slots",
        "bare 16-slot value",
        "16 seqlocks in one mapping and a word that says which is newest; the writer is alone and takes no lock.",
        &[
            latest::read_alone::<Seqlock<16>>(&[64, 1024]),
            latest::update_alone::<Seqlock<16>>(&[64, 1024]),
            latest::contended::<Seqlock<16>>(&[64, 1024]),
            recovery::entry::<Seqlock<16>>(),
        ],
    ),
    floor(
        "bare/futex",
        "bare futex",
        "A word in a mapping and FUTEX_WAIT, FUTEX_WAKE on it, shared between processes.",
        &[wake::entry::<Futex>()],
    ),
    floor(
        "bare/map",
        "open, map, read",
        "A file of 1000 values in tmpfs is opened, mapped, and read.",
        &[late_join::entry::<Mapped>()],
    ),
    floor(
        "bare/disk",
        "bare O_DIRECT + DSYNC, group commit",
        "pwritev2 with RWF_DSYNC to a preallocated, zeroed file opened with O_DIRECT; whoever comes while no write is in \
         flight writes for all that wait. No format, no checksum, nothing to read back.",
        &[synced::entry::<Sharing>()],
    ),
];

/// A mapping that the sides of a measurement share. It lasts as long as the process.
#[derive(Clone, Copy)]
struct Shared {
    base: *mut u8,
    len: usize,
}

impl Shared {
    fn open(path: &Path, len: usize, side: Side) -> Result<Shared> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(side == Side::Lead)
            .truncate(false)
            .open(path)
            .with_context(|| path.display().to_string())?;
        if side == Side::Lead && file.metadata()?.len() == 0 {
            file.set_len(len as u64)?;
        }
        let (access, flags) = (
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::POPULATE,
        );
        // SAFETY: a new mapping where the kernel likes; nothing existing is replaced, and it is never unmapped.
        let base = unsafe { mmap(ptr::null_mut(), len, access, flags, &file, 0) }?;
        Ok(Shared {
            base: base.cast(),
            len,
        })
    }

    /// The word at this offset.
    fn word(self, at: usize) -> &'static AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len);
        // SAFETY: aligned, within the mapping, which lasts; only ever used as an atomic.
        unsafe { &*self.base.add(at).cast::<AtomicU64>() }
    }

    /// The bytes at this offset. Whoever writes through it must have been told by a word that nobody else uses them.
    fn bytes(self, at: usize, len: usize) -> *mut u8 {
        assert!(at + len <= self.len);
        // SAFETY: within the mapping.
        unsafe { self.base.add(at) }
    }
}

/// One direction: a count of messages, the payload behind it.
#[derive(Clone, Copy)]
struct Way {
    count: &'static AtomicU64,
    payload: *mut u8,
    bytes: usize,
}

impl Way {
    fn pair(task: &Task, side: Side) -> Result<[Way; 2]> {
        // Half a page apart besides, so that the two ways do not share their low twelve address bits: x86 compares only
        // those when it looks for a store that a load must wait for.
        // What fits travels in the line of the count; what does not starts on a line, where copying is quickest.
        let payload = if task.bytes <= 56 { 8 } else { 64 };
        let step = (payload + task.bytes).next_multiple_of(4096) + 2048;
        let shared = Shared::open(&task.dir.join("bare"), 2 * step, side)?;
        let way = |at: usize| Way {
            count: shared.word(at),
            payload: shared.bytes(at + payload, task.bytes),
            bytes: task.bytes,
        };
        let mut ways = [way(0), way(step)];
        if side == Side::Peer {
            ways.reverse();
        }
        Ok(ways)
    }

    #[inline(always)]
    fn send(&self, n: u64, write: impl FnOnce(&mut [u8])) {
        // SAFETY: the other side reads between seeing the count and answering; now it waits for the count.
        write(unsafe { std::slice::from_raw_parts_mut(self.payload, self.bytes) });
        // Release: the payload is there before the count. Pairs with the Acquire in `receive`.
        self.count.store(n, Ordering::Release);
    }

    #[inline(always)]
    fn receive(&self, known: u64) -> Option<&[u8]> {
        // Acquire: see `send`.
        if self.count.load(Ordering::Acquire) == known {
            return None;
        }
        // SAFETY: the sender writes again only after our answer.
        Some(unsafe { std::slice::from_raw_parts(self.payload, self.bytes) })
    }
}

/// Payloads written and read in place.
struct Lane {
    there: Way,
    back: Way,
    known: u64,
}

impl Link for Lane {
    fn open(task: &Task, side: Side) -> Result<Lane> {
        let [there, back] = Way::pair(task, side)?;
        Ok(Lane {
            there,
            back,
            known: 0,
        })
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        self.there.send(n, |payload| fill(payload, n));
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        let Some(payload) = self.back.receive(self.known) else {
            return Ok(None);
        };
        self.known = number(payload)?;
        Ok(Some(self.known))
    }
}

/// Payloads made elsewhere and copied in, copied out and read there.
struct Copied {
    lane: Lane,
    out: Vec<u8>,
    into: Vec<u8>,
}

impl Link for Copied {
    fn open(task: &Task, side: Side) -> Result<Copied> {
        Ok(Copied {
            lane: Lane::open(task, side)?,
            out: vec![0; task.bytes],
            into: vec![0; task.bytes],
        })
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        fill(&mut self.out, n);
        let out = &self.out;
        self.lane
            .there
            .send(n, |payload| payload.copy_from_slice(out));
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        let Some(payload) = self.lane.back.receive(self.lane.known) else {
            return Ok(None);
        };
        self.into.copy_from_slice(payload);
        self.lane.known = number(&self.into)?;
        Ok(Some(self.lane.known))
    }
}

/// Slots of the bare ring.
const SLOTS: u64 = 4096;

/// A ring of 64-byte slots between one sender and one receiver.
struct Ring {
    shared: Shared,
    head: &'static AtomicU64,
    tail: &'static AtomicU64,
    other: u64,
}

impl Ring {
    #[inline(always)]
    fn slot(&self, n: u64) -> *mut u8 {
        // SAFETY: within the mapping, whose length is that of `open`.
        unsafe { self.shared.base.add(4096 + (n % SLOTS) as usize * 64) }
    }
}

impl Stream for Ring {
    fn open(task: &Task, side: Side) -> Result<Ring> {
        let shared = Shared::open(&task.dir.join("bare"), 4096 + SLOTS as usize * 64, side)?;
        Ok(Ring {
            shared,
            head: shared.word(0),
            tail: shared.word(1024),
            other: 0,
        })
    }

    #[inline(always)]
    fn send(&mut self, next: u64) -> Result<u64> {
        if next == self.other + SLOTS {
            // Acquire: the receiver has read the slot. Pairs with the Release in `receive`.
            self.other = self.tail.load(Ordering::Acquire);
            if next == self.other + SLOTS {
                return Ok(0);
            }
        }
        // SAFETY: the receiver is past the slot, as its tail says, and looks at it again only once the head allows.
        fill(
            unsafe { std::slice::from_raw_parts_mut(self.slot(next), 64) },
            next,
        );
        // Release: the payload is there before the head. Pairs with the Acquire in `receive`.
        self.head.store(next + 1, Ordering::Release);
        Ok(1)
    }

    #[inline(always)]
    fn receive(&mut self, next: u64) -> Result<u64> {
        // Acquire: see `send`.
        let head = self.head.load(Ordering::Acquire);
        for n in next..head {
            // SAFETY: the sender does not touch the slot again before the tail allows.
            let payload = unsafe { std::slice::from_raw_parts(self.slot(n), 64) };
            throughput::expect(number(payload)?, n)?;
        }
        if head > next {
            // Release: all was read before the slots are free.
            self.tail.store(head, Ordering::Release);
        }
        Ok(head - next)
    }
}

/// `K` seqlocks, and which is newest.
struct Seqlock<const K: usize> {
    newest: &'static AtomicU64,
    /// How many values this writer knows of.
    written: u64,
    slots: [Slot; K],
    buffer: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Slot {
    seq: &'static AtomicU64,
    value: *mut u8,
}

/// Copies a multiple of 64 bytes that another process may be writing or reading: whatever comes of it is looked at only
/// if nobody did. In assembly, because to the compiler such a race would be undefined, and word by word as atomics it
/// takes several times as long.
///
/// # Safety
///
/// `len` bytes must be mapped at both.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    debug_assert!(len > 0 && len.is_multiple_of(64));
    // SAFETY: as the caller says; reads and writes nothing else, and leaves the stack alone.
    unsafe {
        asm!(
            "2:",
            "movups {a}, [{from} + {at}]",
            "movups {b}, [{from} + {at} + 16]",
            "movups {c}, [{from} + {at} + 32]",
            "movups {d}, [{from} + {at} + 48]",
            "movups [{to} + {at}], {a}",
            "movups [{to} + {at} + 16], {b}",
            "movups [{to} + {at} + 32], {c}",
            "movups [{to} + {at} + 48], {d}",
            "add {at}, 64",
            "jnz 2b",
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            from = in(reg) from.add(len),
            to = in(reg) to.add(len),
            at = inout(reg) -(len as isize) => _,
            options(nostack),
        );
    }
}

impl Slot {
    /// Makes it hold value number `at`, whose sequence is twice that.
    #[inline(always)]
    fn write(&self, at: u64, from: &[u8]) {
        // Relaxed: this writer alone changes it.
        self.seq.store(2 * at - 1, Ordering::Relaxed);
        // The odd number is there before any byte.
        fence(Ordering::Release);
        // SAFETY: `open` made room for a value here.
        unsafe { copy(from.as_ptr(), self.value, from.len()) };
        // Release: all bytes are there before the even number.
        self.seq.store(2 * at, Ordering::Release);
    }

    /// Copies the value if it holds one, and if it is number `at`, where a number is given.
    #[inline(always)]
    fn read(&self, at: Option<u64>, into: &mut [u8]) -> bool {
        // Acquire: the bytes are not read ahead of it.
        let seq = self.seq.load(Ordering::Acquire);
        if seq % 2 == 1 || at.is_some_and(|at| seq != 2 * at) {
            return false;
        }
        // SAFETY: as in `write`.
        unsafe { copy(self.value, into.as_mut_ptr(), into.len()) };
        // The bytes were read before the second look.
        fence(Ordering::Acquire);
        self.seq.load(Ordering::Relaxed) == seq
    }
}

impl<const K: usize> Value for Seqlock<K> {
    const STANDBY: bool = true;

    fn open(task: &Task, side: Side) -> Result<Self> {
        let step = 64 + task.bytes.next_multiple_of(64);
        let shared = Shared::open(&task.dir.join("bare"), 4096 + K * step, side)?;
        let slot = |at: usize| Slot {
            seq: shared.word(4096 + at * step + 56),
            value: shared.bytes(4096 + at * step + 64, task.bytes),
        };
        let newest = shared.word(0);
        Ok(Seqlock {
            newest,
            // An heir goes on where the first writer ended.
            written: newest.load(Ordering::Acquire),
            slots: std::array::from_fn(slot),
            buffer: vec![0; task.bytes],
        })
    }

    fn inherit(task: &Task) -> Result<Self> {
        Self::open(task, Side::Peer)
    }

    #[inline(always)]
    fn write(&mut self, n: u64) -> Result<()> {
        if self.written == 0 {
            self.written = self.newest.load(Ordering::Acquire);
        }
        self.written += 1;
        fill(&mut self.buffer, n);
        self.slots[self.written as usize % K].write(self.written, &self.buffer);
        if K > 1 {
            // Release: whoever is sent to the slot finds it written.
            self.newest.store(self.written, Ordering::Release);
        }
        Ok(())
    }

    #[inline(always)]
    fn read(&mut self) -> Result<u64> {
        loop {
            let (slot, at) = match K {
                1 => (0, None),
                // Acquire: see `write`.
                _ => match self.newest.load(Ordering::Acquire) {
                    0 => return Ok(0),
                    // Its number must be in the slot: one that was overwritten meanwhile is newer than what is newest.
                    newest => (newest as usize % K, Some(newest)),
                },
            };
            if self.slots[slot].read(at, &mut self.buffer) {
                return number(&self.buffer);
            }
        }
    }
}

/// A word that a reader sleeps on.
struct Futex {
    word: &'static AtomicU32,
    known: u32,
}

impl Bell for Futex {
    fn open(task: &Task, side: Side) -> Result<Futex> {
        let shared = Shared::open(&task.dir.join("bare"), 4096, side)?;
        // SAFETY: aligned, within the mapping, which lasts; only ever used as an atomic.
        let word = unsafe { &*shared.base.cast::<AtomicU32>() };
        Ok(Futex { word, known: 0 })
    }

    fn ring(&mut self, n: u64) -> Result<()> {
        // Release: pairs with the Acquire in `wait`.
        self.word.store(n as u32, Ordering::Release);
        futex::wake(self.word, futex::Flags::empty(), 1)?;
        Ok(())
    }

    fn wait(&mut self) -> Result<u64> {
        loop {
            // Acquire: see `ring`.
            let now = self.word.load(Ordering::Acquire);
            if now != self.known {
                self.known = now;
                return Ok(now.into());
            }
            // Woken for nothing, or changed meanwhile: the loop looks again.
            let _ = futex::wait(self.word, futex::Flags::empty(), self.known, None);
        }
    }
}

/// Values in a file.
struct Mapped;

impl State for Mapped {
    fn host(task: &Task) -> Result<Mapped> {
        let mut values = vec![0; VALUES * task.bytes];
        for (at, value) in values.chunks_exact_mut(task.bytes).enumerate() {
            fill(value, at as u64 + 1);
        }
        std::fs::write(task.dir.join("values"), values)?;
        Ok(Mapped)
    }

    fn join(task: &Task, take: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let file = std::fs::File::open(task.dir.join("values"))?;
        let len = VALUES * task.bytes;
        // SAFETY: a new mapping where the kernel likes, of a file that is as long as that and no longer changes.
        let values = unsafe {
            let flags = MapFlags::SHARED | MapFlags::POPULATE;
            let base = mmap(ptr::null_mut(), len, ProtFlags::READ, flags, &file, 0)?;
            std::slice::from_raw_parts(base.cast::<u8>(), len)
        };
        for (at, value) in values.chunks_exact(task.bytes).enumerate() {
            take(at, value)?;
        }
        Ok(())
    }
}

/// Committers that share synced writes.
struct Sharing(disk::Sharing, usize);

impl Engine for Sharing {
    /// What it writes from, and its newest record: nothing is read back.
    type Session<'e> = (Buffer, Vec<u8>);

    fn open(task: &Task) -> Result<Sharing> {
        Ok(Sharing(
            disk::Sharing::new(&task.disk, task.bytes)?,
            task.threads,
        ))
    }

    fn session(&self, _: usize) -> Result<(Buffer, Vec<u8>)> {
        Ok((self.0.buffer(self.1)?, Vec::new()))
    }

    fn commit(&self, (buffer, newest): &mut (Buffer, Vec<u8>), payload: &[u8]) -> Result<()> {
        newest.clear();
        newest.extend_from_slice(payload);
        buffer[..payload.len()].copy_from_slice(payload);
        self.0.commit(buffer)?;
        Ok(())
    }

    fn newest(&self, (_, newest): &mut (Buffer, Vec<u8>)) -> Result<Vec<u8>> {
        Ok(newest.clone())
    }
}
