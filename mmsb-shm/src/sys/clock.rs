//! Clocks as plain nanosecond counts.
//!
//! Every record may carry a time, so what a time costs matters: about 20 ns for a precise clock and 3 ns for the
//! coarse one, which moves only with the kernel's tick ([`coarse_resolution_ns`], usually 1-4 ms).

use core::mem::MaybeUninit;

/// Wall-clock time since 1970 in nanoseconds, as of the kernel's last tick.
#[inline]
pub fn coarse_realtime_ns() -> u64 {
    // Each commit reads this clock. rustix calls the vDSO directly: 2.5 ns where libc's wrapper takes 3.9.
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    nanoseconds(libc::timespec {
        tv_sec: time.tv_sec,
        tv_nsec: time.tv_nsec,
    })
}

/// Wall-clock time since 1970 in nanoseconds. It can be set back.
#[inline]
pub fn realtime_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// Nanoseconds since boot, without the time spent suspended. It never goes back, and is the same for all processes
/// of one time namespace.
#[inline]
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// The step of [`coarse_realtime_ns`] in nanoseconds.
pub fn coarse_resolution_ns() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` is a valid place for the result.
    let done = unsafe { libc::clock_getres(libc::CLOCK_REALTIME_COARSE, time.as_mut_ptr()) };
    assert_eq!(done, 0, "every Linux since 2.6.32 has the coarse clock");
    // SAFETY: the call succeeded (asserted), so it filled `time`.
    nanoseconds(unsafe { time.assume_init() })
}

#[inline(always)]
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `time` is a valid place for the result, and all-zero is a valid timespec should the call fail, which
    // it cannot for the constant clocks above.
    let time = unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    };
    nanoseconds(time)
}

/// Wraps in the year 2554; a time before 1970 reads as 0.
#[inline(always)]
fn nanoseconds(time: libc::timespec) -> u64 {
    (time.tv_sec.max(0) as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn clocks_agree_with_the_standard_library() {
        let std = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64;
        let minute = 60_000_000_000;
        assert!(realtime_ns().abs_diff(std) < minute);
        assert!(coarse_realtime_ns().abs_diff(std) < minute);
    }

    #[test]
    fn monotonic_time_moves_forward() {
        let first = monotonic_ns();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(monotonic_ns() >= first + 2_000_000);
    }

    #[test]
    #[cfg(not(miri))]
    fn coarse_clock_never_leads_the_precise_one() {
        let resolution = coarse_resolution_ns();
        assert!((1..=10_000_000).contains(&resolution), "{resolution}");
        assert!(coarse_realtime_ns() <= realtime_ns());
    }

    #[test]
    fn conversion_handles_the_edges() {
        let time = |tv_sec, tv_nsec| nanoseconds(libc::timespec { tv_sec, tv_nsec });
        assert_eq!(time(1, 5), 1_000_000_005);
        assert_eq!(time(-3, 7), 7);
    }
}
