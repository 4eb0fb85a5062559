//! The child processes of the log's crash tests; see [`mmsb_tests::durable`].
//!
//! ```text
//! durable supervisor SHM DISK auto|plain|uring quiet|busy [STEP SKIP]
//! durable writer SHM SLOT SEED COMMITS synced|volatile|mixed TIMEOUT_MS [STEP SKIP]
//! durable no-uring ...          the same, io_uring being refused by a seccomp filter
//! durable check SHM DISK
//! durable soak [--seconds S] [--seed N] [--disk DIR] [--json]
//! ```

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use mmsb::tlog::Backend;
use mmsb_tests::durable::roles::{self, WriterRole};
use mmsb_tests::durable::{check, soak};
use mmsb_tests::seed;

/// From here on, the three system calls of io_uring answer EPERM, in all threads to come.
fn refuse_uring() -> std::io::Result<()> {
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let jump = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let mut program = [
        // The number of the system call; 425 to 427 are io_uring's on every architecture.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(jump, 425, 0, 2),
        step(jump, 428, 1, 0),
        step(libc::BPF_RET | libc::BPF_K, refuse, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: two numbers; then a program that lives until the call returns.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    if done {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let armed = |words: &[&str]| match words {
        [step, skip] => Some(((*step).to_owned(), number(skip))),
        _ => None,
    };
    let words = match words.as_slice() {
        ["no-uring", rest @ ..] => {
            refuse_uring().expect("a seccomp filter");
            rest
        }
        words => words,
    };
    match words {
        ["supervisor", shm, disk, backend, load, rest @ ..] => {
            let backend = match *backend {
                "plain" => Backend::Plain,
                "uring" => Backend::Uring,
                _ => Backend::Auto,
            };
            let busy = *load == "busy";
            roles::supervisor(Path::new(shm), Path::new(disk), backend, busy, armed(rest));
        }
        [
            "writer",
            shm,
            slot,
            seed,
            commits,
            levels,
            timeout,
            rest @ ..,
        ] => {
            roles::writer(WriterRole {
                shm: shm.into(),
                slot: number(slot),
                seed: number(seed),
                commits: number(commits),
                levels: (*levels).to_owned(),
                timeout: Duration::from_millis(number(timeout)),
                armed: armed(rest),
            });
        }
        ["check", shm, disk] => check::run(Path::new(shm), Path::new(disk)),
        ["soak", options @ ..] => {
            let mut plan = soak::Plan::default();
            let mut given = None;
            let mut json = false;
            let mut rest = options.iter();
            while let Some(option) = rest.next() {
                match (*option, rest.as_slice()) {
                    ("--json", _) => {
                        json = true;
                        continue;
                    }
                    ("--seconds", [n, ..]) => plan.seconds = n.parse().expect("seconds"),
                    ("--disk", [dir, ..]) => plan.disk = dir.into(),
                    ("--seed", [n, ..]) => {
                        given = Some(match n.strip_prefix("0x") {
                            Some(digits) => u64::from_str_radix(digits, 16).expect("a seed"),
                            None => number(n),
                        });
                    }
                    (other, _) => {
                        eprintln!(
                            "usage: durable soak [--seconds S] [--seed N] [--disk DIR] [--json], not {other:?}"
                        );
                        return ExitCode::from(2);
                    }
                }
                rest.next();
            }
            plan.seed = match given {
                Some(seed) => {
                    eprintln!("durable soak: {}={seed:#x}", seed::ENV);
                    seed
                }
                None => seed::seed("durable soak"),
            };
            let report = soak::run(&plan);
            if json {
                println!("{}", report.json(&plan));
            } else {
                println!("{report:#?}");
            }
            let idle = report.idle();
            // What chance need not bring about in a short time.
            if plan.seconds >= 60.0 && !idle.is_empty() {
                eprintln!("durable soak: nothing happened of: {}", idle.join(", "));
                return ExitCode::FAILURE;
            }
            if !report.bad.is_empty() {
                return ExitCode::FAILURE;
            }
        }
        other => panic!("no such role: {other:?}"),
    }
    ExitCode::SUCCESS
}
