//! A child that performs one scripted operation and dies in it, at a named step or at an instruction.
//!
//! ```text
//! worker DIR OP trace              says `stage` after each commit (and waits for a line), then `steps a,b,c`
//! worker DIR OP kill STEP SKIP     is killed when it passes the step for the SKIP + 1st time
//! worker DIR OP linger STEP SKIP   the same, and a copy of its descriptors, so of its liveness lock, lives until its input ends
//! worker DIR OP ptrace             performs the operation inside a ptrace region
//! worker DIR recover trace|kill STEP SKIP|ptrace
//!                                  joins, says `joined`, waits for a line, recovers the dead
//! worker DIR create ...  /  worker DIR unlink ...
//!                                  makes or removes the bus
//! ```

use std::io::BufRead;
use std::sync::Arc;

use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::testing::{Action, arm, disarm, trace};
use mmsb_shm::{BusConfig, Core, segment};
use mmsb_tests::ptrace::{region_begin, region_end};
use mmsb_tests::scenario::{self, Actor, BUS};
use mmsb_tests::spawn;

fn wait_for_line() {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .expect("a line");
}

/// As if taking this process down took the kernel for ever: a child that was made behind the C library's back, so without
/// fork handlers, keeps copies of all descriptors until nobody has the other end of the input any more.
fn keep_descriptors() {
    // SAFETY: plain fork; the child only reads, and ends.
    let child = unsafe { libc::syscall(libc::SYS_fork) };
    assert!(child >= 0, "no child");
    if child == 0 {
        let mut byte = 0u8;
        // SAFETY: reads one byte into a place for one; the end of input or a line ends it.
        unsafe {
            libc::read(0, (&raw mut byte).cast(), 1);
            libc::_exit(0);
        }
    }
}

/// How the operation is to end.
enum Mode {
    Trace,
    Kill(String, u64),
    Linger(String, u64),
    Ptrace,
}

impl Mode {
    fn run(&self, begins_itself: bool, operation: impl FnOnce()) {
        match self {
            Mode::Trace => {
                let ((), steps) = trace(operation);
                spawn::say(&format!("steps {}", steps.join(",")));
            }
            Mode::Kill(step, skip) | Mode::Linger(step, skip) => {
                if let Mode::Linger(..) = self {
                    keep_descriptors();
                }
                arm(step, *skip, Action::Kill);
                operation();
                // What follows is clearing up, and no part of the operation.
                disarm();
            }
            Mode::Ptrace => {
                if !begins_itself {
                    region_begin();
                }
                operation();
                region_end();
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, name, mode, rest @ ..] = arguments.as_slice() else {
        panic!("worker DIR OP MODE");
    };
    let dir = SegmentDir::at(dir);
    let mode = match (mode.as_str(), rest) {
        ("trace", []) => Mode::Trace,
        ("kill", [step, skip]) => Mode::Kill(step.clone(), skip.parse().expect("a number")),
        ("linger", [step, skip]) => Mode::Linger(step.clone(), skip.parse().expect("a number")),
        ("ptrace", []) => Mode::Ptrace,
        _ => panic!("unknown mode {mode:?} {rest:?}"),
    };
    match name.as_str() {
        "create" => {
            let config: BusConfig = scenario::config(scenario::SMALL_RING);
            mode.run(false, || {
                drop(Core::create(&dir, BUS, &config).expect("to create"))
            });
        }
        "unlink" => mode.run(false, || segment::unlink(&dir, BUS).expect("to unlink")),
        "recover" => {
            let core = scenario::attach(&dir);
            let p = scenario::join(&core, "recoverer");
            spawn::say("joined");
            wait_for_line();
            mode.run(false, || {
                p.recover_all().expect("to recover");
            });
        }
        name => {
            let core = scenario::attach(&dir);
            let op = scenario::op(name);
            let mut stage = op.prepare(&core);
            let mark = || {
                if let Mode::Trace = mode {
                    spawn::say("stage");
                    wait_for_line();
                }
            };
            let actor = Actor {
                core: Arc::clone(&core),
                mark: &mark,
            };
            mode.run(op.begins_itself(), || op.act(&actor, &mut stage));
            mark();
        }
    }
    spawn::say("done");
}
