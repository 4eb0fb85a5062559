//! Prints what the disk itself takes, without MMSB: one small synced write, commits that share such writes, large writes.
//!
//! `disk [--dir DIR] [--threads N]... [--mib N] [--millis N] [--json]`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use mmsb_benches::disk::{Scratch, group_commit, sequential_write, write_ns};

const USAGE: &str = "usage: disk [--dir DIR] [--threads N]... [--mib N] [--millis N] [--json]";

/// Bytes of one record: what the log has of a patch of 64 B.
const RECORD: usize = 128;

struct Options {
    dir: PathBuf,
    threads: Vec<usize>,
    mib: u64,
    budget: Duration,
    json: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        dir: PathBuf::from("."),
        threads: Vec::new(),
        mib: 1024,
        budget: Duration::from_secs(1),
        json: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        let number = |text: &str| {
            text.parse::<u64>()
                .map_err(|_| format!("{text:?} is not a number"))
        };
        match argument.as_str() {
            "--json" => options.json = true,
            "--dir" => options.dir = value()?.into(),
            "--threads" => options
                .threads
                .push(number(&value()?)?.clamp(1, 4096) as usize),
            "--mib" => options.mib = number(&value()?)?.max(1),
            "--millis" => options.budget = Duration::from_millis(number(&value()?)?),
            _ => return Err(USAGE.into()),
        }
    }
    if options.threads.is_empty() {
        options.threads = vec![1, 8, 64];
    }
    Ok(options)
}

fn measure(options: &Options) -> std::io::Result<()> {
    let dir = &options.dir;
    let is_direct = Scratch::new(dir, 4096, false)?.is_direct();
    let small = write_ns(dir, options.budget)?;
    let mut groups = Vec::new();
    for &threads in &options.threads {
        let times = group_commit(dir, threads, RECORD, options.budget)?;
        groups.push((threads, times.commits));
    }
    let bandwidth = sequential_write(dir, options.mib << 20)?;
    if options.json {
        let groups: Vec<String> = groups
            .iter()
            .map(|(threads, times)| {
                format!(
                    "{{\"threads\":{threads},\"p50_ns\":{:.0},\"per_second\":{:.0}}}",
                    times.p50_ns, times.per_second
                )
            })
            .collect();
        let uring = small
            .uring
            .map_or("null".to_owned(), |times| format!("{:.0}", times.p50_ns));
        println!(
            "{{\"direct\":{is_direct},\"pwritev2_p50_ns\":{:.0},\"io_uring_p50_ns\":{uring},\
             \"group_commit\":[{}],\"sequential_write_per_second\":{bandwidth:.0}}}",
            small.plain.p50_ns,
            groups.join(",")
        );
        return Ok(());
    }
    if !is_direct {
        println!("this file system has no O_DIRECT: the page cache is measured");
    }
    let us = |ns: f64| ns / 1000.0;
    let line = |name: &str, times: &mmsb_benches::disk::Times| {
        println!(
            "{name:<28} p50 {:>8.1} us  p99 {:>8.1} us  {:>9.0} /s",
            us(times.p50_ns),
            us(times.p99_ns),
            times.per_second
        );
    };
    line("4 KiB synced, pwritev2", &small.plain);
    if let Some(times) = &small.uring {
        line("4 KiB synced, io_uring", times);
    }
    for (threads, times) in &groups {
        line(&format!("group commit, {threads} threads"), times);
    }
    println!(
        "sequential, {} MiB             {:.2} GB/s",
        options.mib,
        bandwidth / 1e9
    );
    Ok(())
}

fn main() -> ExitCode {
    let result = options().and_then(|options| measure(&options).map_err(|error| error.to_string()));
    if let Err(error) = result {
        eprintln!("disk: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
