//! What the processes of each job do, whoever is measured: a system implements the trait of a job, and its calls are
//! compiled into the loop.

pub mod late_join;
pub mod latest;
pub mod one_way;
pub mod recovery;
pub mod synced;
pub mod throughput;
pub mod wake;
