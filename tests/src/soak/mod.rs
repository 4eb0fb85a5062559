//! The kill-and-stop soak: workers under load, killed and stopped from a printed seed, and a checker among them.
//!
//! | process | does |
//! | --- | --- |
//! | parent ([`parent`]) | starts, kills, stops; never maps the bus; knows what was acknowledged, by pipe |
//! | worker ([`worker`]) | random operations, flat out; says each commit of its own page once it has returned |
//! | checker ([`checker`]) | a participant that follows the whole log and reads everything, all the time |
//!
//! Fault model: SIGKILL and SIGSTOP at any instruction and at every named step, of any worker, also while it recovers
//! another. The checker is never killed; the rest of what may happen to a process is somebody else's test.

pub mod checker;
pub mod pages;
pub mod parent;
pub mod worker;

/// Writers with a page of their own; also the most workers at a time.
pub const WRITERS: usize = 12;
