//! The only door to atomics and fences: std's, or loom's under `cfg(loom)`, so that the models check the very code
//! that runs. Every other module of this crate imports its atomics from here.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64};

pub(crate) use core::sync::atomic::Ordering;

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::fence;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::fence;

/// One polite step of a busy wait.
#[inline(always)]
pub(crate) fn relax() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// The cheap half of an asymmetric barrier: it keeps the compiler from moving the load behind it before the store
/// ahead of it. The processor may still do so; whoever relies on the pair runs [`heavy`] on the other side.
///
/// Under loom both halves are real fences: loom has no membarrier, and the argument is the same.
#[inline(always)]
pub(crate) fn light() {
    #[cfg(not(loom))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// The heavy half: afterwards every thread of every registered process has passed a full barrier. Returns false
/// where the kernel refuses membarrier; the caller then has to bound its sleep.
#[inline]
pub(crate) fn heavy() -> bool {
    fence(Ordering::SeqCst);
    #[cfg(not(loom))]
    {
        crate::sys::barrier::membarrier()
    }
    #[cfg(loom)]
    {
        true
    }
}

/// Asks for the cache line of `at` in order to write it, without waiting for it. Only speed: a machine without the
/// instruction does nothing, and so do Miri and loom.
#[inline(always)]
pub(crate) fn prefetch_write<T>(at: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    // SAFETY: a prefetch changes nothing that a program can observe and never faults; a processor that lacks this one
    // executes the code as a no-op (every x86-64 decodes it).
    unsafe {
        core::arch::asm!("prefetchw byte ptr [{}]", in(reg) core::ptr::from_ref(at), options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = at;
}

/// Asks for the cache line of `at` in order to read it, without waiting for it. Only speed, as [`prefetch_write`].
#[inline(always)]
pub(crate) fn prefetch_read<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    // SAFETY: as in `prefetch_write`.
    unsafe {
        core::arch::asm!("prefetcht0 byte ptr [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = at;
}
