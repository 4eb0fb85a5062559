//! The cases: what the first process of each does, and the second where there is one.

mod contended;
mod durable;
mod large;
mod local;
mod memory;
mod one_way;
mod stream;
mod takeover;
mod tick;
mod wake;

use mmsb_benches::lines::Lines;

use super::rig::Job;
use super::samples::Measured;
use crate::cli::exit::Failure;

/// How a case ended.
#[derive(Debug)]
pub enum Outcome {
    /// With figures, everything checked.
    Measured(Box<Measured>),
    /// It cannot be measured here: why.
    Skipped(String),
}

/// Runs the first process of a case.
///
/// # Errors
///
/// What went wrong, or turned out to be wrong.
pub fn lead(job: &Job) -> Result<Outcome, Failure> {
    let measured = match job.case.as_str() {
        "read" => local::read(job),
        "commit" => local::commit(job, false),
        "commit_leased" => local::commit(job, true),
        "commit_batch" => local::commit_batch(job),
        "sparse" => local::sparse(job),
        "alloc_free" => local::alloc_free(job),
        "loan_publish" => local::loan_publish(job),
        "snapshot" => local::snapshot(job),
        "one_way_page" | "one_way_ring" | "one_way_ring_leased" => one_way::lead(job),
        "one_way_large" => large::lead(job),
        "contended_page" | "contended_cell" => contended::lead(job),
        "two_writers" => contended::two_writers(job),
        "wake" => wake::lead(job),
        "subscribe_throughput" => stream::lead(job),
        "tick" => tick::lead(job),
        "memory" => return memory::lead(job),
        "takeover" => takeover::lead(job),
        "synced" => durable::synced(job),
        "buffered" => durable::buffered(job),
        "attached_cost" => durable::attached_cost(job),
        "replay" => durable::replay(job),
        "checkpoint" => durable::checkpoint(job),
        "restart" => durable::restart(job),
        "log_bytes" => durable::log_bytes(job),
        "provenance" => durable::provenance(job),
        other => Err(Failure::usage(format!("there is no case {other:?}"))),
    };
    measured.map(|measured| Outcome::Measured(Box::new(measured)))
}

/// Runs the second process of a case.
///
/// # Errors
///
/// What went wrong, or turned out to be wrong.
pub fn peer(job: &Job) -> Result<(), Failure> {
    let lines = Lines::inherited(job.lines)?;
    match job.case.as_str() {
        "one_way_page" | "one_way_ring" | "one_way_ring_leased" => one_way::peer(job, &lines),
        "one_way_large" => large::peer(job, &lines),
        "contended_page" | "contended_cell" => contended::peer(job, &lines),
        "two_writers" => contended::second_writer(job, &lines),
        "wake" => wake::peer(job, &lines),
        "subscribe_throughput" => stream::peer(job, &lines),
        "tick" => tick::peer(job, &lines),
        "takeover" => takeover::victim(job),
        "synced" => durable::synced_writers(job, &lines),
        other => Err(Failure::usage(format!(
            "there is no second process in case {other:?}"
        ))),
    }
}
