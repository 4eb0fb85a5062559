//! What the multi-process tests of MMSB share: children that play roles and are killed, stopped and single-stepped;
//! watchdogs for tests that can hang; seeds that are always printed.
//!
//! | module | for |
//! | --- | --- |
//! | [`ptrace`] | kill a child at every instruction of one operation, or hold it there |
//! | [`spawn`] | worker processes with a line protocol, SIGKILL, SIGSTOP, reaping with a timeout |
//! | [`watchdog`] | a test that hangs is aborted, saying where its threads are |
//! | [`scenario`] | the operations that workers perform and die in |
//! | [`live`] | a bus under writers that never pause and are killed all the time, for foreign readers |
//! | [`foreign`] | finding compilers and interpreters, building what the tests need; what a missing one means |
//! | [`survey`] | what survivors check: worlds, replicas, that everything still works |
//! | [`soak`] | the kill-and-stop soak: parent, workers, checker |
//! | [`durable`] | the same for buses with a log: supervisors, writers, checkers, the durable soak |
//! | [`divergence`] | the same log, replayed in many ways, against the bus that wrote it |
//! | [`seed`] | `MMSB_SEED`, or a random seed; a generator whose numbers never change |

pub mod divergence;
pub mod durable;
pub mod foreign;
pub mod live;
pub mod ptrace;
pub mod scenario;
pub mod seed;
pub mod soak;
pub mod spawn;
pub mod survey;
pub mod watchdog;
