//! A bus in a directory of its own, removed with it.

#![allow(dead_code)] // Every test file uses its part.

use std::path::Path;
use std::time::Duration;

use mmsb::{Bus, BusBuilder};

pub struct TestBus {
    tmp: tempfile::TempDir,
    pub bus: Bus,
}

impl TestBus {
    pub fn new() -> TestBus {
        TestBus::with(|b| b.ring_bytes(1 << 16).pages_max(256))
    }

    /// The smallest ring: 64 slots.
    pub fn small() -> TestBus {
        TestBus::with(|b| b.ring_bytes(4096).pages_max(256))
    }

    pub fn with(settings: impl FnOnce(BusBuilder) -> BusBuilder) -> TestBus {
        let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
        let builder = Bus::builder("t")
            .dir(tmp.path())
            .source("test")
            .timeout(Duration::from_secs(10));
        let bus = settings(builder).create().unwrap();
        TestBus { tmp, bus }
    }

    pub fn dir(&self) -> &Path {
        self.tmp.path()
    }

    pub fn builder(&self) -> BusBuilder {
        Bus::builder("t").dir(self.dir())
    }
}

impl std::ops::Deref for TestBus {
    type Target = Bus;

    fn deref(&self) -> &Bus {
        &self.bus
    }
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// CPU time of the whole process.
pub fn process_cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}
