//! What the crash tests of the log share: supervisors, writers and checkers as processes, and the books of a parent that
//! never maps the bus.
//!
//! Writers count. Every page holds, in its first eight bytes, how many commits it has seen, and behind them a pattern
//! made from that number; a transaction writes the same number to two pages. So a page's epoch, its number, its bytes
//! and the records of the log all say the same thing, and a delta that is lost, applied twice or torn shows.
//!
//! | module | |
//! | --- | --- |
//! | [`roles`] | what the child processes do |
//! | [`check`] | the checker: live pages against the log |
//! | [`books`] | what the parent knows from the pipes |
//! | [`site`] | directories, and processes in them |
//! | [`soak`] | the durable soak |

pub mod books;
pub mod check;
pub mod roles;
pub mod site;
pub mod soak;

use std::path::Path;
use std::time::Duration;

use mmsb::supervisor::{CheckpointPolicy, SupervisorConfig};
use mmsb::tlog::{Backend, Retention, WriterConfig};
use mmsb::{Bus, BusBuilder};

/// Name of the bus.
pub const BUS: &str = "d";
/// Bytes of its ring: few, so that it laps.
pub const RING: u64 = 1 << 14;
/// Bytes of a writer's own page.
pub const OWN: usize = 200;
/// Bytes of each page of a pair.
pub const PAIR: usize = 72;
/// Bytes of a page that loans write: several blocks of the log.
pub const BIG: usize = 40_000;

/// The bus in `shm`.
pub fn builder(shm: &Path, timeout: Duration) -> BusBuilder {
    Bus::builder(BUS)
        .dir(shm)
        .timeout(timeout)
        .ring_bytes(RING)
        .pages_max(4096)
        .bytes_max(1 << 30)
}

/// A log of small blocks and small files, so that it rotates, and is checkpointed, cut and compressed all the time.
/// `busy`: checkpoints by themselves.
pub fn supervisor_config(disk: &Path, backend: Backend, busy: bool) -> SupervisorConfig {
    SupervisorConfig {
        interval: Duration::from_millis(2),
        writer: WriterConfig {
            segment_bytes: 96 << 10,
            block_bytes: 16 << 10,
            depth: 8,
            backend,
            prewrite: true,
        },
        retention: Retention {
            bytes: busy.then_some(1 << 20),
            ..Retention::default()
        },
        compress: true,
        checkpoint: CheckpointPolicy {
            interval: None,
            log_bytes: busy.then_some(1 << 20),
            keep: 2,
            threads: 2,
        },
        retry: Some(Duration::from_millis(200)),
        ..SupervisorConfig::new(disk)
    }
}

/// The bytes of a page of `size` bytes that has seen `n` commits.
pub fn pattern(n: u64, size: usize) -> Vec<u8> {
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.extend((8..size).map(|i| (n.wrapping_mul(31).wrapping_add(i as u64) % 251) as u8));
    bytes.truncate(size);
    bytes
}

/// The number that bytes made by [`pattern`] hold. All zeros: 0. `None`: they are torn.
pub fn number(bytes: &[u8]) -> Option<u64> {
    let n = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let whole = if n == 0 {
        bytes.iter().all(|b| *b == 0)
    } else {
        bytes == pattern(n, bytes.len())
    };
    whole.then_some(n)
}
