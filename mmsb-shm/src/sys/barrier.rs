//! A barrier that one side pays for.
//!
//! Where two sides store-then-check each other's word (a leaseholder and a requester, a waker and a sleeper), both
//! need a full fence between the store and the check. When one side runs millions of times more often, it keeps only
//! a compiler fence ([`light`]) and the rare side calls [`membarrier`], which makes every running thread of every
//! *registered* process execute a full fence. So: the frequent side's process must have called [`register`] with
//! success, or use a real fence; the rare side must fall back when [`membarrier`] answers `false`.
//!
//! # A gap in the kernel, across processes
//! `MEMBARRIER_CMD_GLOBAL_EXPEDITED` can miss a running thread of a registered process. A thread that exits clears its
//! CPU's mark "runs a registered process" (`exit_mm`, since Linux 5.11); if a sibling is scheduled there next, the address
//! space is the same, so `membarrier_switch_mm` returns early and does not set the mark again: until another process
//! has run there, the barrier skips that CPU. Measured on Linux 6.18 with store buffering between two threads: 2 to 29
//! violations in 10^6 rounds while siblings exit, up to 93 after a single exit, none in 3 * 10^6 without exits.
//! Threads of one's own process are reached by `MEMBARRIER_CMD_PRIVATE_EXPEDITED`, which looks at the address space
//! itself (none in 3 * 10^6 while siblings exit), so [`membarrier`] makes both calls. Across processes the gap remains:
//! where one missed fence would break an invariant, use [`membarrier_slow`], or a real fence on the frequent side.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst, compiler_fence, fence};

use rustix::thread::{MembarrierCommand, membarrier as syscall};

use super::fork;

/// What is known about this process: `(fork generation + 1) << 1 | accepted`, 0 before the first call.
static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// Makes this process one that [`membarrier`] calls of other processes reach. `false` when the kernel or a sandbox
/// refuses: then [`light`] is not enough here and the frequent side must use a real fence.
///
/// The kernel is asked once per process; a fork child asks again when it calls this.
pub fn register() -> bool {
    // Without it the generation would not move, and a child would trust its parent's answer.
    let tracked = fork::install();
    let era = (fork::generation() + 1) << 1;
    // Relaxed: the value says all; asking twice in a race is harmless, the kernel counts it once.
    let known = REGISTERED.load(Relaxed);
    if tracked && known & !1 == era {
        return known & 1 == 1;
    }
    let accepted = syscall(MembarrierCommand::RegisterPrivateExpedited).is_ok()
        && syscall(MembarrierCommand::RegisterGlobalExpedited).is_ok();
    // Relaxed: as above.
    REGISTERED.store(era | u64::from(accepted), Relaxed);
    accepted
}

/// Executes a full fence on the running threads of this process, and of all registered ones except as the module
/// says; and on this thread. `false` when the kernel or a sandbox refuses; then no fence happened elsewhere.
///
/// It registers this process first if need be. Costs one to some tens of microseconds.
pub fn membarrier() -> bool {
    // Threads of this process: by address space, which the kernel tracks exactly.
    let reached = register()
        && syscall(MembarrierCommand::PrivateExpedited).is_ok()
        && syscall(MembarrierCommand::GlobalExpedited).is_ok();
    // The kernel fences the caller too; this orders the thread even when the call was refused.
    fence(SeqCst);
    reached
}

/// Executes a full fence on every thread of every process, registered or not, without the gap of [`membarrier`].
/// `false` when the kernel (one with `nohz_full` CPUs) or a sandbox refuses.
///
/// It waits until every CPU has been through the scheduler: around 10 ms.
pub fn membarrier_slow() -> bool {
    let reached = syscall(MembarrierCommand::Global).is_ok();
    // As in `membarrier`.
    fence(SeqCst);
    reached
}

/// The frequent side's half: keeps the compiler from reordering, costs no instruction, and is a full fence only
/// together with [`membarrier`] on the other side.
#[inline(always)]
pub fn light() {
    compiler_fence(SeqCst);
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicBool;

    fn offered() -> bool {
        let query = rustix::thread::membarrier_query();
        query.contains_command(MembarrierCommand::RegisterGlobalExpedited)
            && query.contains_command(MembarrierCommand::RegisterPrivateExpedited)
    }

    #[test]
    fn registration_is_cached_and_agrees_with_the_kernel() {
        assert_eq!(register(), offered());
        assert_eq!(register(), offered());
        assert_eq!(
            REGISTERED.load(Relaxed),
            (fork::generation() + 1) << 1 | u64::from(offered())
        );
        assert_eq!(membarrier(), offered());
    }

    /// Store buffering (Dekker) with a light side: neither may miss the other. Returns the rounds in which both did.
    ///
    /// Threads come and go meanwhile, which is what an expedited global barrier alone does not survive.
    fn missed_rounds(rounds: u64, heavy: fn() -> bool) -> Vec<u64> {
        let (x, y, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let frequent = scope.spawn(|| {
                // Each value of `y` with the first store to `x` after which it was read.
                let (mut stored, mut seen) = (0, Vec::new());
                while !stop.load(Relaxed) {
                    stored += 1;
                    x.store(stored, Relaxed);
                    light();
                    let other = y.load(Relaxed);
                    if seen.last().is_none_or(|(_, last)| *last != other) {
                        seen.push((stored, other));
                    }
                }
                (stored, seen)
            });
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    std::thread::scope(|inner| drop(inner.spawn(|| ())));
                }
            });
            let mut checks = Vec::new();
            for round in 1..=rounds {
                y.store(round, Relaxed);
                if !heavy() {
                    break;
                }
                checks.push((round, x.load(Relaxed)));
            }
            stop.store(true, Relaxed);
            let (last, seen) = frequent.join().unwrap();
            assert_eq!(checks.len() as u64, rounds, "the barrier was refused");
            // The first store that a round did not see must have been followed by a load that saw the round.
            let missed = |&(round, x_seen): &(u64, u64)| {
                let next = x_seen + 1;
                let before = seen.partition_point(|(stored, _)| *stored <= next);
                next <= last && (before == 0 || seen[before - 1].1 < round)
            };
            checks
                .iter()
                .filter(|check| missed(check))
                .map(|check| check.0)
                .collect()
        })
    }

    #[test]
    fn light_side_and_heavy_side_never_both_miss_each_other() {
        if !offered() {
            println!("skipped: membarrier is refused here");
            return;
        }
        assert!(register());
        assert_eq!(missed_rounds(10_000, membarrier), []);
    }

    #[test]
    fn slow_barrier_needs_no_registration() {
        if !membarrier_slow() {
            println!("skipped: membarrier is refused here");
            return;
        }
        assert_eq!(missed_rounds(10, membarrier_slow), []);
    }
}
