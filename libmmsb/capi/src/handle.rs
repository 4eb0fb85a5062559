//! Handles: numbers that lead to objects, or to an error when the object is gone or somebody else's.
//!
//! A handle is `generation << 32 | kind << 24 | index`. `index` leads to a slot of a table that only grows, so a handle
//! of any age can be looked up without touching freed memory; the slot holds the handle that it serves now, so one
//! comparison finds handles that were closed, invented or of another kind.
//!
//! Every handle belongs to a **root** (a bus; a log, state or list is its own root). The root says who may call: the
//! thread that used it first, until that thread ends; or, if it was opened as *serialised*, any thread, one at a time.
//! The root's slot is never freed either, so asking it is safe whoever closes it meanwhile. Only who was let in at the
//! root dereferences objects, and closing needs to be let in as well: nothing is freed under somebody's feet. Who comes
//! with a handle that is closed on the way may enter the root that has the slot since; the second look at the handle
//! sends it out again, and as its stay counts like any other, nobody else is inside meanwhile.
//!
//! A fork copies all of this. The forking thread keeps its number in the child, so what it owns stays its own there (a
//! bus then refuses by itself); what belongs to other threads may be half changed, and stays theirs for ever.

use std::cell::Cell;
use std::collections::HashSet;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::status::{Fault, mmsb_status};

/// What a handle leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Bus = 1,
    Page = 2,
    Loan = 3,
    View = 4,
    Lease = 5,
    Batch = 6,
    Transaction = 7,
    Subscription = 8,
    Log = 9,
    State = 10,
    List = 11,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Bus => "bus",
            Kind::Page => "page",
            Kind::Loan => "loan",
            Kind::View => "view",
            Kind::Lease => "lease",
            Kind::Batch => "batch",
            Kind::Transaction => "transaction",
            Kind::Subscription => "subscription",
            Kind::Log => "log",
            Kind::State => "state",
            Kind::List => "list",
        }
    }

    fn of(handle: u64) -> Option<Kind> {
        let byte = (handle >> INDEX_BITS) as u8;
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    const ALL: [Kind; 11] = [
        Kind::Bus,
        Kind::Page,
        Kind::Loan,
        Kind::View,
        Kind::Lease,
        Kind::Batch,
        Kind::Transaction,
        Kind::Subscription,
        Kind::Log,
        Kind::State,
        Kind::List,
    ];
}

/// An object behind a handle.
pub(crate) trait Object: 'static {
    const KIND: Kind;
}

const INDEX_BITS: u32 = 24;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
/// Slots of the first chunk, which is there from the beginning; each further one is twice as large.
const FIRST: u64 = 1024;
const CHUNKS: usize = 14;
/// What the chunks hold together.
const SLOTS_MAX: u64 = FIRST * ((1 << CHUNKS) - 1);
const UNOWNED: u64 = 0;
/// In [`Slot::owner`]: any thread, one at a time.
const SERIALISED: u64 = 1;

/// A place in the table. All-zero is a free one.
struct Slot {
    /// The handle that leads here now; 0: none.
    handle: AtomicU64,
    object: AtomicPtr<()>,
    /// The root's slot; null: never used.
    root: AtomicPtr<Slot>,
    /// Of a root: number of the thread that it belongs to.
    owner: AtomicU64,
    /// Of a serialised root: somebody is inside.
    busy: AtomicBool,
    generation: AtomicU64,
}

static BEGINNING: [Slot; FIRST as usize] = [const { Slot::new() }; FIRST as usize];
/// The further chunks; the first entry is not used.
static TABLE: [AtomicPtr<Slot>; CHUNKS] = [const { AtomicPtr::new(null_mut()) }; CHUNKS];

/// What is needed to open and close, which is rare.
struct Rest {
    used: u64,
    free: Vec<u64>,
    next_thread: u64,
    /// Threads that own something, perhaps, and have not ended.
    threads: Option<HashSet<u64>>,
}

static REST: Mutex<Rest> = Mutex::new(Rest {
    used: 0,
    free: Vec::new(),
    next_thread: SERIALISED + 1,
    threads: None,
});

fn rest() -> MutexGuard<'static, Rest> {
    // Every change of it is complete before anything that could panic.
    REST.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// The lock, while this thread forks.
    static FORKING: Cell<Option<MutexGuard<'static, Rest>>> = const { Cell::new(None) };
}

/// A child must find the lock free and what it guards whole: whoever forks has it meanwhile. Done when the library is
/// loaded, and not at its first use: a fork beside that would copy a thread half way through it.
extern "C" fn hold_over_forks() {
    extern "C" fn before() {
        let held = rest();
        // Too late in the life of the thread: the child may then wait for ever, which is what it gets for a fork there.
        let _ = FORKING.try_with(|forking| forking.set(Some(held)));
    }
    extern "C" fn behind() {
        let _ = FORKING.try_with(|forking| drop(forking.take()));
    }
    // SAFETY: functions of this library, which is never unloaded (`-z nodelete`). They take and drop one lock. A
    // refusal for want of memory leaves forks as they are without it.
    unsafe { libc::pthread_atfork(Some(before), Some(behind), Some(behind)) };
}

// SAFETY: the loader calls what stands in this section, without arguments that the function would look at, before any
// code of the program; it calls libc alone.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = hold_over_forks;

struct Ending(u64);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(threads) = &mut rest().threads {
            threads.remove(&self.0);
        }
        let _ = THREAD.try_with(|thread| thread.set(0));
    }
}

thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
    static ENDING: Cell<Option<Ending>> = const { Cell::new(None) };
}

/// Number of this thread, never used again.
#[inline]
fn this_thread() -> u64 {
    match THREAD.get() {
        0 => number_thread(),
        number => number,
    }
}

#[cold]
fn number_thread() -> u64 {
    let mut rest = rest();
    let number = rest.next_thread;
    rest.next_thread += 1;
    rest.threads.get_or_insert_default().insert(number);
    drop(rest);
    THREAD.set(number);
    // While the thread ends it may be too late to hear of its end: then what it owns stays its own.
    let _ = ENDING.try_with(|ending| ending.set(Some(Ending(number))));
    number
}

/// Chunk of a slot, and its place there.
#[inline]
fn place(index: u64) -> (usize, u64) {
    let chunk = (index / FIRST + 1).ilog2();
    (chunk as usize, index - FIRST * ((1 << chunk) - 1))
}

#[inline(always)]
fn slot(index: u64) -> Option<&'static Slot> {
    if let Some(slot) = BEGINNING.get(index as usize) {
        return Some(slot);
    }
    let (chunk, at) = place(index);
    // Acquire: whoever sees the chunk sees its slots.
    let chunk = TABLE.get(chunk)?.load(Ordering::Acquire);
    if chunk.is_null() {
        return None;
    }
    // SAFETY: a chunk has FIRST << number slots, `place` gives one of them, and chunks are never freed.
    Some(unsafe { &*chunk.add(at as usize) })
}

/// Takes a free slot.
fn take_slot() -> Result<u64, Fault> {
    let mut rest = rest();
    if let Some(index) = rest.free.pop() {
        return Ok(index);
    }
    let index = rest.used;
    if index >= SLOTS_MAX {
        return Err(Fault::new(
            mmsb_status::MMSB_FULL,
            "16 million handles are open in this process: close some",
        ));
    }
    let (chunk, at) = place(index);
    if chunk > 0 && at == 0 {
        let slots = FIRST << chunk;
        let memory: Vec<Slot> = (0..slots).map(|_| Slot::new()).collect();
        let memory = Box::leak(memory.into_boxed_slice());
        // Release: the slots are there for who sees the chunk.
        TABLE[chunk].store(memory.as_mut_ptr(), Ordering::Release);
    }
    rest.used += 1;
    Ok(index)
}

/// To which root a new handle belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Root {
    /// It is one, for one thread at a time; `serialised`: the threads see to that themselves.
    Own { serialised: bool },
    /// That of this handle, inside of which the caller is.
    Of(u64),
}

/// Makes a handle for an object.
pub(crate) fn open<T: Object>(object: Box<T>, root: Root) -> Result<u64, Fault> {
    let index = take_slot()?;
    let place = slot(index).ok_or_else(Fault::bug)?;
    let generation = place.generation.load(Ordering::Relaxed) as u32;
    let generation = generation.wrapping_add(1).max(1);
    place.generation.store(generation.into(), Ordering::Relaxed);
    let root = match root {
        Root::Own { serialised } => {
            let owner = if serialised { SERIALISED } else { UNOWNED };
            place.owner.store(owner, Ordering::Relaxed);
            // `busy` stays as it is: who is inside with a handle of an earlier root leaves by itself.
            std::ptr::from_ref(place).cast_mut()
        }
        Root::Of(parent) => slot(parent & INDEX_MASK)
            .ok_or_else(Fault::bug)?
            .root
            .load(Ordering::Relaxed),
    };
    // Relaxed, all of them: nobody comes here before the handle is stored below, but for those with a handle of an
    // earlier object, who look at it once more.
    place.root.store(root, Ordering::Relaxed);
    place
        .object
        .store(Box::into_raw(object).cast(), Ordering::Relaxed);
    let handle = u64::from(generation) << 32 | (T::KIND as u64) << INDEX_BITS | index;
    // Release: who finds the handle here finds the rest.
    place.handle.store(handle, Ordering::Release);
    Ok(handle)
}

/// The caller, let in at the root.
struct Inside {
    root: &'static Slot,
    serialised: bool,
    /// The root was nobody's or an ended thread's until just now.
    taken: bool,
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        if self.serialised {
            // Release: the next one sees what this one did.
            self.root.busy.store(false, Ordering::Release);
        }
    }
}

/// Whether the slot has had this generation.
fn was_given_out(handle: u64) -> bool {
    let generation = handle >> 32;
    slot(handle & INDEX_MASK)
        .is_some_and(|s| (1..=s.generation.load(Ordering::Relaxed)).contains(&generation))
}

#[cold]
fn refused(handle: u64, wanted: Kind) -> Fault {
    let name = wanted.name();
    if handle == 0 {
        return Fault::new(
            mmsb_status::MMSB_BAD_HANDLE,
            format!("the {name} is a null handle"),
        );
    }
    match Kind::of(handle) {
        Some(kind) if kind != wanted => Fault::new(
            mmsb_status::MMSB_BAD_HANDLE,
            format!(
                "a handle of a {} where one of a {name} is wanted",
                kind.name()
            ),
        ),
        Some(_) if was_given_out(handle) => Fault::new(
            mmsb_status::MMSB_STALE_HANDLE,
            format!("the {name} was closed, or its bus was"),
        ),
        _ => Fault::new(
            mmsb_status::MMSB_BAD_HANDLE,
            format!("{handle:#x} is no handle"),
        ),
    }
}

/// Lets the caller in at the root: as its thread, as the first one, or in the place of one that has ended.
#[inline(always)]
fn enter_root(root: &'static Slot) -> Result<Inside, Fault> {
    let owner = root.owner.load(Ordering::Acquire);
    let (serialised, taken) = match owner {
        SERIALISED => {
            // Acquire: what the last one did is seen.
            if root.busy.swap(true, Ordering::Acquire) {
                return Err(busy());
            }
            (true, false)
        }
        _ if owner == this_thread() => (false, false),
        _ => {
            take_over(root, owner)?;
            (false, true)
        }
    };
    Ok(Inside {
        root,
        serialised,
        taken,
    })
}

#[cold]
fn busy() -> Fault {
    Fault::new(
        mmsb_status::MMSB_BUSY,
        "another thread is inside a call with this handle or one of the same bus",
    )
}

/// Lets the next thread that comes have the root of a handle.
pub(crate) fn release(handle: u64, kind: Kind) -> Result<(), Fault> {
    let (_, inside) = enter(handle, kind)?;
    if !inside.serialised {
        // Release: the next one sees what this one did.
        inside.root.owner.store(UNOWNED, Ordering::Release);
    }
    Ok(())
}

/// A thread that has ended left everything it owned as it was: its end and this look are ordered by the lock.
#[cold]
fn take_over(root: &'static Slot, owner: u64) -> Result<(), Fault> {
    let me = this_thread();
    let is_free = owner == UNOWNED || {
        let rest = rest();
        !rest.threads.as_ref().is_some_and(|t| t.contains(&owner))
    };
    if is_free
        && root
            .owner
            .compare_exchange(owner, me, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    {
        return Ok(());
    }
    Err(Fault::new(
        mmsb_status::MMSB_WRONG_THREAD,
        "the handle belongs to another thread: give each thread its own (mmsb_bus_another), or open the bus with \
         MMSB_SERIALISED",
    ))
}

/// An object that the caller may use.
pub(crate) struct Held<T> {
    object: *mut T,
    inside: Inside,
}

impl<T> std::ops::Deref for Held<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: it is freed only by `close`, by somebody inside the root; the caller is, and one at a time can be.
        unsafe { &*self.object }
    }
}

impl<T> std::ops::DerefMut for Held<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; no entry point calls another one, so this is the only reference.
        unsafe { &mut *self.object }
    }
}

/// The root of a slot that serves a handle, or did a moment ago.
#[inline]
fn root_of(of: &Slot) -> Result<&'static Slot, Fault> {
    let root = of.root.load(Ordering::Acquire);
    // SAFETY: `open` stored a slot of the table, which are never freed; null before that.
    unsafe { root.as_ref() }.ok_or_else(Fault::bug)
}

/// The handle was closed on the way here. If that made another's root the caller's, it is nobody's again.
#[cold]
fn astray(inside: &Inside, handle: u64, kind: Kind) -> Fault {
    if inside.taken {
        inside.root.owner.store(UNOWNED, Ordering::Release);
    }
    refused(handle, kind)
}

/// The slot that serves a handle now.
#[inline(always)]
fn served(handle: u64, kind: Kind) -> Result<&'static Slot, Fault> {
    // Acquire: who finds the handle finds the rest of the slot.
    slot(handle & INDEX_MASK)
        .filter(|s| s.handle.load(Ordering::Acquire) == handle)
        .filter(|_| (handle >> INDEX_BITS) as u8 == kind as u8)
        .ok_or_else(|| refused(handle, kind))
}

/// Looks a handle up, and lets the caller in.
#[inline(always)]
fn enter(handle: u64, kind: Kind) -> Result<(&'static Slot, Inside), Fault> {
    let found = served(handle, kind)?;
    let root = root_of(found)?;
    let inside = match enter_root(root) {
        Ok(inside) => inside,
        // Closed since: then what the root says, which may be another one's by now, is of no interest.
        Err(_) if found.handle.load(Ordering::Acquire) != handle => {
            return Err(refused(handle, kind));
        }
        Err(fault) => return Err(fault),
    };
    // Once more: until here it could be closed, and its root be another one's since.
    if found.handle.load(Ordering::Acquire) != handle {
        return Err(astray(&inside, handle, kind));
    }
    Ok((found, inside))
}

/// The object of a handle.
#[inline(always)]
pub(crate) fn held<T: Object>(handle: u64) -> Result<Held<T>, Fault> {
    let (slot, inside) = enter(handle, T::KIND)?;
    Ok(Held {
        // Relaxed, here and wherever the caller is inside: stored ahead of the handle, which was loaded with Acquire.
        object: slot.object.load(Ordering::Relaxed).cast(),
        inside,
    })
}

/// The object of a handle, and that of its root.
#[inline]
pub(crate) fn with_root<T: Object, R: Object>(handle: u64) -> Result<(Held<T>, &'static R), Fault> {
    let held = held::<T>(handle)?;
    let root = held.inside.root.object.load(Ordering::Relaxed);
    if root.is_null() {
        return Err(Fault::bug());
    }
    // SAFETY: children are handles of buses alone, so the root is one; it lives as long as the caller is inside, and no
    // caller keeps it for longer. It has no lifetime of its own because `Held` can't name one.
    Ok((held, unsafe { &*root.cast::<R>() }))
}

/// Several objects of one root, for one call: the second and later ones need not be let in again.
#[inline]
pub(crate) fn beside<T: Object, U>(with: &Held<U>, handle: u64) -> Result<*mut T, Fault> {
    let found = served(handle, T::KIND)?;
    let root = root_of(found)?;
    if !std::ptr::eq(root, with.inside.root) {
        return Err(Fault::new(
            mmsb_status::MMSB_OTHER_BUS,
            "the handle belongs to another bus, or to another attachment of this one",
        ));
    }
    Ok(found.object.load(Ordering::Relaxed).cast())
}

/// Takes the object out of its handle, which is stale from now on.
pub(crate) fn close<T: Object>(handle: u64) -> Result<Closed<T>, Fault> {
    let (_, inside) = enter(handle, T::KIND)?;
    take::<T>(handle, inside)
}

/// The same for who is inside with it already.
pub(crate) fn close_held<T: Object>(held: Held<T>, handle: u64) -> Result<Closed<T>, Fault> {
    take::<T>(handle, held.inside)
}

fn take<T: Object>(handle: u64, inside: Inside) -> Result<Closed<T>, Fault> {
    let slot = slot(handle & INDEX_MASK).ok_or_else(Fault::bug)?;
    slot.handle.store(0, Ordering::Release);
    let object = slot.object.swap(null_mut(), Ordering::Relaxed).cast::<T>();
    Ok(Closed {
        // SAFETY: `open` made it from a box of this type (the kind says so), and the caller, who is inside, found the
        // handle live: nobody else took it.
        object: unsafe { Box::from_raw(object) },
        freed: Freed {
            index: handle & INDEX_MASK,
            inside: Some(inside),
        },
    })
}

/// The same for a child of a root that is being closed.
pub(crate) fn close_child(handle: u64) -> Option<(Kind, *mut ())> {
    let kind = Kind::of(handle)?;
    let slot = slot(handle & INDEX_MASK)?;
    if slot.handle.load(Ordering::Acquire) != handle {
        return None;
    }
    slot.handle.store(0, Ordering::Release);
    let object = slot.object.swap(null_mut(), Ordering::Relaxed);
    rest().free.push(handle & INDEX_MASK);
    Some((kind, object))
}

/// What [`close`] took out. The slot is free once this is dropped, behind the object.
pub(crate) struct Closed<T> {
    pub(crate) object: Box<T>,
    freed: Freed,
}

impl<T> Closed<T> {
    /// The object of the root, of which the caller is inside.
    pub(crate) fn root_object<R: Object>(&self) -> *mut R {
        let inside = self.freed.inside.as_ref();
        inside.map_or(null_mut(), |i| i.root.object.load(Ordering::Relaxed).cast())
    }

    /// The object, to be ended with care, and what frees the slot afterwards.
    pub(crate) fn into_parts(self) -> (Box<T>, Freed) {
        (self.object, self.freed)
    }
}

/// Frees a slot when dropped.
pub(crate) struct Freed {
    index: u64,
    inside: Option<Inside>,
}

impl Drop for Freed {
    fn drop(&mut self) {
        // Out first: the slot may be a root's, and belong to the next one at once.
        drop(self.inside.take());
        rest().free.push(self.index);
    }
}

impl Slot {
    const fn new() -> Slot {
        Slot {
            handle: AtomicU64::new(0),
            object: AtomicPtr::new(null_mut()),
            root: AtomicPtr::new(null_mut()),
            owner: AtomicU64::new(UNOWNED),
            busy: AtomicBool::new(false),
            generation: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
