//! A log into a state, by as many threads as there are: one reads and checks blocks, one takes them apart, and the rest
//! apply, each the records of its own pages.
//!
//! Per page, records are applied in the order of the log; between pages the order does not matter, because a record is
//! about one page. So the result is the same whatever the number of threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use mmsb_shm::wire::{self, Item};
use mmsb_shm::{Clock, Delta, Kind, PageId};

use super::apply::{Context, Piece, Rare, Step, source_of, step_of};
use super::table::{Shard, place};
use super::{PageMemory, SHARDS, State, StateError};
use crate::tlog::{Block, LogReader};

/// Gives the blocks of a log, in order.
pub trait BlockSource: Send {
    /// Makes `block`, whose memory is used again, the next one. `false`: the end of the log.
    ///
    /// # Errors
    /// [`StateError::Log`].
    fn next_into(&mut self, block: &mut Block) -> Result<bool, StateError>;
}

impl<T: BlockSource + ?Sized> BlockSource for &mut T {
    fn next_into(&mut self, block: &mut Block) -> Result<bool, StateError> {
        (**self).next_into(block)
    }
}

impl BlockSource for LogReader {
    fn next_into(&mut self, block: &mut Block) -> Result<bool, StateError> {
        Ok(LogReader::next_into(self, block)?)
    }
}

/// Blocks in memory.
#[derive(Debug, Clone, Default)]
pub struct Blocks(pub std::collections::VecDeque<Block>);

impl FromIterator<Block> for Blocks {
    fn from_iter<I: IntoIterator<Item = Block>>(blocks: I) -> Blocks {
        Blocks(blocks.into_iter().collect())
    }
}

impl BlockSource for Blocks {
    fn next_into(&mut self, block: &mut Block) -> Result<bool, StateError> {
        match self.0.pop_front() {
            Some(next) => {
                *block = next;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// How far to replay. A transaction is replayed whole if its first record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Until {
    /// To the end of the log.
    #[default]
    End,
    /// Up to the record at this LSN, with it.
    Lsn(u64),
    /// Up to the last record ahead of the first that is younger than this (CLOCK_REALTIME, ns). Records carry their time
    /// in steps of about a millisecond.
    Time(u64),
}

/// How to replay.
#[derive(Default)]
pub struct ReplayOptions<'f> {
    /// Threads that apply; 0: as many as there are processors. With 1 everything is done by the caller's thread.
    pub threads: usize,
    /// How far.
    pub until: Until,
    /// Called after each block with what was done so far.
    pub progress: Option<&'f mut dyn FnMut(&Replayed)>,
}

impl std::fmt::Debug for ReplayOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplayOptions")
            .field("threads", &self.threads)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Records applied, or skipped because an image held them.
    pub records: u64,
    /// Blocks looked at.
    pub blocks: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Where the state ends now.
    pub end_lsn: u64,
    /// Whether the bound was met, and not the end of the log.
    pub bounded: bool,
}

/// Decides which records are within the bound, in order.
pub(crate) struct Gate {
    until: Until,
    time_ns: u64,
    /// The transaction up to here was let in.
    inside: u64,
    /// First record that was not let in.
    closed: Option<u64>,
}

impl Gate {
    pub(crate) fn new(until: Until) -> Gate {
        Gate {
            until,
            time_ns: 0,
            inside: 0,
            closed: None,
        }
    }

    #[inline(always)]
    pub(crate) fn admits(&mut self, delta: &Delta<'_>) -> bool {
        if self.closed.is_some() {
            return false;
        }
        if delta.lsn < self.inside {
            return true;
        }
        self.time_ns = self.time_ns.max(delta.time_ns);
        let admitted = match self.until {
            Until::End => true,
            Until::Lsn(lsn) => delta.lsn <= lsn,
            Until::Time(time_ns) => self.time_ns <= time_ns,
        };
        if !admitted {
            self.closed = Some(delta.lsn);
        } else if delta.transaction {
            self.inside = delta.group_end;
        }
        admitted
    }

    /// The first record that was not let in.
    pub(crate) fn closed_at(&self) -> Option<u64> {
        self.closed
    }
}

/// Applies the blocks of `source` to `state`, up to a bound. What the state holds already is skipped.
///
/// # Errors
/// All of [`StateError`]. The state is then of no use but to say how far it came.
pub fn replay<M: PageMemory>(
    state: &mut State<M>,
    source: impl BlockSource,
    options: ReplayOptions<'_>,
) -> Result<Replayed, StateError> {
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
    .min(SHARDS);
    if threads <= 1 {
        replay_alone(state, source, options)
    } else {
        replay_together(state, source, options, threads)
    }
}

/// Checks that `block` goes on where `next` is, and that anything of it is new. `false`: it is not.
fn follows(next: u64, block: &Block) -> Result<bool, StateError> {
    if block.first_lsn > next && next != 0 {
        return Err(StateError::Gap {
            expected: next,
            found: block.first_lsn,
        });
    }
    // A block of chunks ends where it begins, and belongs to a record behind it.
    Ok(block.end_lsn >= next)
}

fn replay_alone<M: PageMemory>(
    state: &mut State<M>,
    mut source: impl BlockSource,
    mut options: ReplayOptions<'_>,
) -> Result<Replayed, StateError> {
    let mut done = Replayed::default();
    let mut gate = Gate::new(options.until);
    let before = state.records;
    let mut block = Block::default();
    while source.next_into(&mut block)? {
        if !follows(state.next, &block)? {
            continue;
        }
        let mut failed = Ok(());
        let clock = Clock::new(block.created_ns, block.time_ns);
        let (first, slots) = (block.first_lsn, block.ring_slots);
        let bytes = block.body.len() as u64;
        let walked = wire::walk(&mut block.body, first, slots, clock, &mut |item| {
            let admitted = match &item {
                Item::Delta(delta) if delta.lsn < state.next => return,
                Item::Delta(delta) => gate.admits(delta),
                Item::Chunk(_) => gate.closed.is_none(),
            };
            if admitted && failed.is_ok() {
                failed = state.apply(&item);
            }
        });
        failed?;
        state.meta.incarnation = state.meta.incarnation.max(block.incarnation);
        done.blocks += 1;
        done.bytes += bytes;
        if let Some(lsn) = gate.closed {
            state.next = state.next.max(lsn);
            done.bounded = true;
        } else {
            check_end(walked?, &block)?;
            state.next = state.next.max(block.end_lsn);
        }
        done.records = state.records - before;
        done.end_lsn = state.next;
        if let Some(progress) = &mut options.progress {
            progress(&done);
        }
        if done.bounded {
            break;
        }
    }
    done.end_lsn = state.next;
    Ok(done)
}

/// The records of a block end at `end`, or padding that is not in it follows them.
fn check_end(end: u64, block: &Block) -> Result<(), StateError> {
    if end > block.end_lsn {
        return Err(StateError::Corrupt {
            lsn: block.first_lsn,
            what: "records past the end of their block",
        });
    }
    Ok(())
}

/// A record, taken apart, with its payload in the body of its block.
#[derive(Debug)]
struct Op {
    lsn: u64,
    page: PageId,
    what: What,
}

#[derive(Debug)]
enum What {
    Bytes {
        kind: Kind,
        offset: u32,
        at: u32,
        len: u32,
    },
    Rare(Box<Rare>),
}

/// What one thread does of one block.
struct Job {
    body: Arc<Vec<u8>>,
    ops: Vec<Op>,
}

/// Blocks between the thread that reads and the one that takes apart.
const READ_AHEAD: usize = 3;
/// Blocks between that one and each of those that apply.
const QUEUED: usize = 3;

/// The part of a state that the thread in the middle works on.
struct Middle<'s> {
    next: &'s mut u64,
    time_ns: &'s mut u64,
    records: &'s mut u64,
    pending: &'s mut super::Pending,
    sources: &'s mut std::collections::BTreeMap<u16, super::Source>,
    incarnation: &'s mut u64,
}

fn replay_together<M: PageMemory>(
    state: &mut State<M>,
    mut source: impl BlockSource,
    mut options: ReplayOptions<'_>,
    threads: usize,
) -> Result<Replayed, StateError> {
    let context = Context {
        memory: &state.memory,
        fuzzy_until: state.fuzzy_until,
    };
    // Shard s belongs to thread s % threads, where it is number s / threads.
    let mut shares: Vec<Vec<&mut Shard<M::Bytes>>> = (0..threads).map(|_| Vec::new()).collect();
    for (at, shard) in state.shards.iter_mut().enumerate() {
        shares[at % threads].push(shard);
    }
    let mut middle = Middle {
        next: &mut state.next,
        time_ns: &mut state.time_ns,
        records: &mut state.records,
        pending: &mut state.pending,
        sources: &mut state.sources,
        incarnation: &mut state.meta.incarnation,
    };
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (block_in, blocks) = bounded(READ_AHEAD);
        // Bodies come back to be filled again: memory that was never touched is slow.
        let (body_in, bodies_back) = bounded::<Vec<u8>>(READ_AHEAD + threads * (QUEUED + 1));
        let reader = scope.spawn(move || -> Result<(), StateError> {
            loop {
                let mut block = Block {
                    body: bodies_back.try_recv().unwrap_or_default(),
                    ..Block::default()
                };
                if !source.next_into(&mut block)? || block_in.send(block).is_err() {
                    return Ok(());
                }
            }
        });
        let (mut jobs, mut workers) = (Vec::new(), Vec::new());
        let (used_in, used) = bounded::<Vec<Op>>(threads * (QUEUED + 1));
        for share in shares {
            let (job_in, queue) = bounded::<Job>(QUEUED);
            jobs.push(job_in);
            let (context, failed) = (&context, &failed);
            let (used_in, body_in) = (used_in.clone(), body_in.clone());
            workers.push(scope.spawn(move || {
                let done = work(context, share, threads, &queue, &used_in, &body_in);
                if done.is_err() {
                    // Relaxed: a hint to stop early; the error itself comes by `join`.
                    failed.store(true, Ordering::Relaxed);
                }
                done
            }));
        }
        let done = take_apart(&mut middle, &blocks, &jobs, &used, &mut options, &failed);
        // Ends those that still wait for more.
        drop((blocks, jobs, used, body_in));
        let mut errors = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(e)) => errors.push(e),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        let read = match reader.join() {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // What is furthest ahead in the log is the cause.
        errors.sort_by_key(lsn_of);
        if let Some(e) = errors.into_iter().next() {
            return Err(e);
        }
        let done = done?;
        // Behind the bound nothing was asked for.
        if !done.bounded {
            read?;
        }
        Ok(done)
    })
}

fn lsn_of(e: &StateError) -> u64 {
    match e {
        StateError::Corrupt { lsn, .. }
        | StateError::NoPage { lsn, .. }
        | StateError::BadRange { lsn, .. }
        | StateError::NoContent { lsn, .. } => *lsn,
        _ => u64::MAX,
    }
}

/// Sorts the records of blocks by the thread that applies them.
fn take_apart(
    state: &mut Middle<'_>,
    blocks: &Receiver<Block>,
    jobs: &[Sender<Job>],
    used: &Receiver<Vec<Op>>,
    options: &mut ReplayOptions<'_>,
    failed: &AtomicBool,
) -> Result<Replayed, StateError> {
    let mut done = Replayed::default();
    let mut gate = Gate::new(options.until);
    let before = *state.records;
    let mut chunks: Vec<(wire::Chunk<'static>, usize, usize)> = Vec::new();
    while let Ok(mut block) = blocks.recv() {
        if failed.load(Ordering::Relaxed) {
            break;
        }
        if !follows(*state.next, &block)? {
            continue;
        }
        let clock = Clock::new(block.created_ns, block.time_ns);
        let base = block.body.as_ptr() as usize;
        let mut ops: Vec<Vec<Op>> = jobs
            .iter()
            .map(|_| used.try_recv().unwrap_or_default())
            .collect();
        let mut body = std::mem::take(&mut block.body);
        done.blocks += 1;
        done.bytes += body.len() as u64;
        let mut problem = Ok(());
        // A swap in this block may follow its chunks in this block, and these can be kept only once the walk is over:
        // so swaps are filled in then.
        let mut swaps: Vec<(usize, usize, u64)> = Vec::new();
        chunks.clear();
        let walked = wire::walk(
            &mut body,
            block.first_lsn,
            block.ring_slots,
            clock,
            &mut |item| {
                let delta = match item {
                    Item::Delta(delta) => delta,
                    Item::Chunk(chunk) => {
                        if chunk.lsn >= *state.next && gate.closed.is_none() {
                            let at = (chunk.bytes.as_ptr() as usize).wrapping_sub(base);
                            let len = chunk.bytes.len();
                            chunks.push((
                                wire::Chunk {
                                    bytes: &[],
                                    ..chunk
                                },
                                at,
                                len,
                            ));
                        }
                        return;
                    }
                };
                if delta.lsn < *state.next || !gate.admits(&delta) || problem.is_err() {
                    return;
                }
                *state.records += 1;
                *state.time_ns = (*state.time_ns).max(delta.time_ns);
                let worker = place(delta.page.index).0 % jobs.len();
                let what = match delta.kind {
                    Kind::Patch | Kind::Ranges | Kind::Masked => What::Bytes {
                        kind: delta.kind,
                        offset: delta.offset,
                        at: (delta.payload.as_ptr() as usize).wrapping_sub(base) as u32,
                        len: delta.payload.len() as u32,
                    },
                    Kind::Swap => {
                        swaps.push((worker, ops[worker].len(), delta.lsn));
                        What::Rare(Box::new(Rare::Swap(Default::default())))
                    }
                    Kind::Source => {
                        match source_of(&delta) {
                            Ok((id, source)) => drop(state.sources.entry(id).or_insert(source)),
                            Err(e) => problem = Err(e),
                        }
                        return;
                    }
                    _ => match step_of(&delta, state.pending) {
                        Ok(Some(Step::Rare(rare))) => What::Rare(Box::new(rare)),
                        Ok(_) => return,
                        Err(e) => {
                            problem = Err(e);
                            return;
                        }
                    },
                };
                ops[worker].push(Op {
                    lsn: delta.lsn,
                    page: delta.page,
                    what,
                });
            },
        );
        let body = Arc::new(body);
        if problem.is_ok() {
            for (chunk, at, len) in chunks.drain(..) {
                let body = Arc::clone(&body);
                state.pending.add(&chunk, Piece { body, at, len })?;
            }
            for (worker, at, lsn) in swaps {
                if let Some(op) = ops[worker].get_mut(at) {
                    op.what = What::Rare(Box::new(Rare::Swap(state.pending.take(lsn))));
                }
            }
        }
        for (job_in, ops) in jobs.iter().zip(ops) {
            if !ops.is_empty() {
                let body = Arc::clone(&body);
                // Who does not take it has failed, and says why when joined.
                if job_in.send(Job { body, ops }).is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
            }
        }
        // Whoever is done last gives the memory back.
        drop(body);
        problem?;
        *state.incarnation = (*state.incarnation).max(block.incarnation);
        if let Some(lsn) = gate.closed {
            *state.next = (*state.next).max(lsn);
            done.bounded = true;
        } else {
            check_end(walked?, &block)?;
            *state.next = (*state.next).max(block.end_lsn);
        }
        done.records = *state.records - before;
        done.end_lsn = *state.next;
        if let Some(progress) = &mut options.progress {
            progress(&done);
        }
        if done.bounded {
            break;
        }
    }
    done.end_lsn = *state.next;
    Ok(done)
}

/// Applies jobs to the shards of one thread.
fn work<M: PageMemory>(
    context: &Context<'_, M>,
    mut shards: Vec<&mut Shard<M::Bytes>>,
    threads: usize,
    queue: &Receiver<Job>,
    used: &Sender<Vec<Op>>,
    bodies: &Sender<Vec<u8>>,
) -> Result<(), StateError> {
    while let Ok(mut job) = queue.recv() {
        for op in job.ops.drain(..) {
            let (shard, _) = place(op.page.index);
            let step = match op.what {
                What::Bytes {
                    kind,
                    offset,
                    at,
                    len,
                } => {
                    let payload = job
                        .body
                        .get(at as usize..at as usize + len as usize)
                        .unwrap_or_default();
                    Step::Bytes {
                        kind,
                        offset,
                        payload,
                    }
                }
                What::Rare(rare) => Step::Rare(*rare),
            };
            shards[shard / threads].apply(context, op.lsn, op.page, step)?;
        }
        // Its memory is used again; if nobody waits for it, it is freed.
        let _ = used.try_send(job.ops);
        if let Some(body) = Arc::into_inner(job.body) {
            let _ = bodies.try_send(body);
        }
    }
    Ok(())
}
