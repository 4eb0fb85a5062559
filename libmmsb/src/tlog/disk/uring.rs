//! The io_uring engine: registered buffers and files, several synced writes in flight.
//!
//! The only unsafe code of the log: telling the kernel where the buffers are. A buffer belongs to the engine from
//! [`Engine::submit`] until its completion was reaped, so nobody changes or frees it while the kernel reads it; an
//! engine that is dropped waits for what is in flight, and leaks the buffers if it cannot.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use super::files::{RealFile, go_on};
use super::{AlignedBuffer, Completion, DiskFile, Engine, Patience, Write};

/// Files that can be registered at a time. The writer has two or three with writes in flight.
const FILES: u32 = 8;
const DSYNC: i32 = rustix::io::ReadWriteFlags::DSYNC.bits() as i32;

/// How long a single small write is waited for without sleeping.
const SPIN: Duration = Duration::from_micros(250);
/// What counts as small.
const SPIN_BYTES: usize = 64 << 10;

/// A write and how far it got.
struct Flight {
    write: Write,
    done: usize,
}

/// See the module.
pub(super) struct UringEngine {
    ring: IoUring,
    /// Not yet handed to the kernel.
    queued: VecDeque<Flight>,
    /// In the kernel; the index is the completion's user data.
    flying: Vec<Option<Flight>>,
    in_kernel: usize,
    /// Ended outside the ring.
    ended: Vec<Completion>,
    fixed_buffers: bool,
    /// Registered files, by the address of what the writer holds; they are kept open by the registration as well.
    files: Option<Vec<Option<Arc<dyn DiskFile>>>>,
    next_file: usize,
    broken: bool,
}

impl UringEngine {
    /// A ring for `depth` writes. Buffers and files are registered if the kernel takes them (a small
    /// `RLIMIT_MEMLOCK` keeps it from it); without, the same writes cost a little more.
    pub fn new(depth: usize, buffers: &mut [AlignedBuffer]) -> io::Result<UringEngine> {
        let entries = depth.max(1).next_power_of_two() as u32;
        let ring = IoUring::new(entries)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        let vectors: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|b| libc::iovec {
                iov_base: b.as_mut_ptr().cast(),
                iov_len: b.len(),
            })
            .collect();
        // SAFETY: the vectors describe live heap memory that is ours, and that does not move when the buffers do. The
        // kernel pins the pages, so even buffers that are freed before the ring could not become someone else's memory.
        let fixed_buffers = unsafe { ring.submitter().register_buffers(&vectors) }.is_ok();
        if fixed_buffers {
            for (i, buffer) in buffers.iter_mut().enumerate() {
                buffer.index = u16::try_from(i).ok();
            }
        }
        let files = ring.submitter().register_files_sparse(FILES).is_ok();
        Ok(UringEngine {
            ring,
            queued: VecDeque::new(),
            flying: (0..entries).map(|_| None).collect(),
            in_kernel: 0,
            ended: Vec::new(),
            fixed_buffers,
            files: files.then(|| (0..FILES).map(|_| None).collect()),
            next_file: 0,
            broken: false,
        })
    }

    /// The number of a file among the registered ones.
    fn register(&mut self, file: &Arc<dyn DiskFile>, fd: i32) -> Option<u32> {
        let files = self.files.as_mut()?;
        let known =
            |f: &Option<Arc<dyn DiskFile>>| f.as_ref().is_some_and(|f| Arc::ptr_eq(f, file));
        if let Some(at) = files.iter().position(known) {
            return Some(at as u32);
        }
        // Requests find their file when the kernel takes them. One that still waits in the submission queue (the kernel
        // had no room for it) must not find another, so numbers are not reused before it is gone.
        let at = self.next_file % FILES as usize;
        if files[at].is_some() && !self.ring.submission().is_empty() {
            return None;
        }
        self.ring
            .submitter()
            .register_files_update(at as u32, &[fd])
            .ok()?;
        self.next_file += 1;
        files[at] = Some(Arc::clone(file));
        Some(at as u32)
    }

    /// Puts what is queued into the submission queue, as much as there is room for.
    fn fill(&mut self) {
        while let Some(slot) = self.flying.iter().position(Option::is_none) {
            let Some(mut flight) = self.queued.pop_front() else {
                return;
            };
            let Ok(real) = RealFile::of(&*flight.write.file) else {
                self.end(flight.write, Err(io::ErrorKind::InvalidInput.into()));
                continue;
            };
            let fd = real.file.as_raw_fd();
            if !real.has_dsync() {
                let result =
                    real.write_synced(&flight.write.buffer[..flight.write.len], flight.write.at);
                self.end(flight.write, result);
                continue;
            }
            let file = Arc::clone(&flight.write.file);
            let fixed = self.register(&file, fd);
            let at = flight.write.at + flight.done as u64;
            let bytes = &mut flight.write.buffer[flight.done..flight.write.len];
            let (pointer, len) = (bytes.as_mut_ptr(), bytes.len() as u32);
            let index = flight.write.buffer.index.filter(|_| self.fixed_buffers);
            let entry = match (index, fixed) {
                (Some(i), Some(f)) => opcode::WriteFixed::new(types::Fixed(f), pointer, len, i)
                    .offset(at)
                    .rw_flags(DSYNC)
                    .build(),
                (Some(i), None) => opcode::WriteFixed::new(types::Fd(fd), pointer, len, i)
                    .offset(at)
                    .rw_flags(DSYNC)
                    .build(),
                (None, Some(f)) => opcode::Write::new(types::Fixed(f), pointer, len)
                    .offset(at)
                    .rw_flags(DSYNC)
                    .build(),
                (None, None) => opcode::Write::new(types::Fd(fd), pointer, len)
                    .offset(at)
                    .rw_flags(DSYNC)
                    .build(),
            };
            // SAFETY: the buffer lies in `flying` until the completion was reaped (or for ever), at the same address,
            // and is `len` bytes long there; the file is open as long as the flight holds it.
            if unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) }.is_err() {
                self.queued.push_front(flight);
                return;
            }
            self.flying[slot] = Some(flight);
            self.in_kernel += 1;
        }
    }

    fn end(&mut self, write: Write, result: io::Result<()>) {
        self.ended.push(Completion {
            tag: write.tag,
            buffer: write.buffer,
            result,
        });
    }

    /// Takes what the kernel completed.
    fn take(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else {
                return;
            };
            let slot = entry.user_data() as usize;
            let Some(mut flight) = self.flying.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            self.in_kernel -= 1;
            let result = entry.result();
            if result < 0 {
                let error = io::Error::from_raw_os_error(-result);
                match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => {
                        self.queued.push_front(flight);
                    }
                    _ => self.end(flight.write, Err(error)),
                }
                continue;
            }
            // A short write goes on where it stopped; nothing is durable before the last part is.
            match go_on(result as usize, flight.write.len - flight.done) {
                Ok(n) => {
                    flight.done += n;
                    if flight.done == flight.write.len {
                        self.end(flight.write, Ok(()));
                    } else {
                        self.queued.push_front(flight);
                    }
                }
                Err(e) => self.end(flight.write, Err(e)),
            }
        }
    }

    /// Hands the submission queue to the kernel; with `patience`, waits for a completion.
    fn enter(&mut self, patience: Patience) -> io::Result<()> {
        let wait = match patience {
            Patience::None => return self.entered(self.ring.submit()),
            Patience::Forever => return self.entered(self.ring.submit_and_wait(1)),
            Patience::For(time) => types::Timespec::from(time),
        };
        let args = types::SubmitArgs::new().timespec(&wait);
        self.entered(self.ring.submitter().submit_with_args(1, &args))
    }

    fn entered(&self, result: io::Result<usize>) -> io::Result<()> {
        match result {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                // A signal, the timeout, or no room just now: the caller looks again.
                Some(
                    rustix::io::Errno::INTR
                    | rustix::io::Errno::TIME
                    | rustix::io::Errno::BUSY
                    | rustix::io::Errno::AGAIN,
                ) => Ok(()),
                _ => Err(e),
            },
        }
    }

    /// Looks for a completion in a loop, for about the time of one small write, if there is just one in flight: going to
    /// sleep and being woken takes a good part of that time. The core is given away at each look, since the kernel's
    /// worker that ends a synced write may want this one (measured: 4 ms instead of 0.1 otherwise).
    fn spin(&mut self, begun: Instant, patience: Patience) {
        let small = |f: &Flight| f.write.len <= SPIN_BYTES;
        if self.in_kernel != 1 || !self.flying.iter().flatten().all(small) {
            return;
        }
        let longest = match patience {
            Patience::For(time) => time.min(SPIN),
            _ => SPIN,
        };
        while self.in_kernel == 1 && begun.elapsed() < longest {
            std::thread::yield_now();
            self.take();
        }
    }
}

impl Engine for UringEngine {
    fn submit(&mut self, write: Write) {
        self.queued.push_back(Flight { write, done: 0 });
    }

    fn start(&mut self) -> io::Result<()> {
        if self.queued.is_empty() && self.ring.submission().is_empty() {
            return Ok(());
        }
        self.fill();
        self.enter(Patience::None)
            .inspect_err(|_| self.broken = true)
    }

    fn reap(&mut self, patience: Patience, out: &mut Vec<Completion>) -> io::Result<()> {
        self.take();
        let begun = Instant::now();
        if patience == Patience::None || !self.ended.is_empty() {
            self.start()?;
            self.take();
            if self.ended.is_empty() && self.in_kernel > 0 {
                // For whoever polls in a loop, see `spin`.
                std::thread::yield_now();
                self.take();
            }
        } else {
            self.start()?;
            self.take();
            self.spin(begun, patience);
            loop {
                self.fill();
                if self.in_kernel == 0 || !self.ended.is_empty() {
                    break;
                }
                let patience = match patience {
                    Patience::For(time) => Patience::For(time.saturating_sub(begun.elapsed())),
                    other => other,
                };
                self.enter(patience).inspect_err(|_| self.broken = true)?;
                self.take();
                if !self.ended.is_empty() || patience == Patience::For(Duration::ZERO) {
                    break;
                }
            }
        }
        out.append(&mut self.ended);
        Ok(())
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        self.queued.clear();
        // What waits in the submission queue was never begun; it goes with the rest, the kernel may still take it.
        while self.in_kernel > 0 && !self.broken {
            let queued = self.queued.len();
            if self.enter(Patience::Forever).is_err() {
                break;
            }
            self.take();
            if self.queued.len() > queued {
                self.queued.clear();
            }
        }
        for flight in self.flying.drain(..).flatten() {
            std::mem::forget(flight);
        }
    }
}
