//! Runs one operation of a child process instruction by instruction, and kills the child at any of them.
//!
//! The child marks the operation, on its main thread:
//!
//! ```no_run
//! mmsb_tests::ptrace::region_begin();
//! // the operation
//! mmsb_tests::ptrace::region_end();
//! ```
//!
//! The parent sweeps it, each time with a fresh child:
//!
//! ```no_run
//! # use std::process::Command;
//! let sweep = mmsb_tests::ptrace::at_every_instruction(
//!     |_step| Command::new("worker"),
//!     1,
//!     |step| if step < u64::MAX { Ok(()) } else { Err("a survivor saw half a delta".into()) },
//! );
//! println!("{} kills", sweep.unwrap().kills);
//! ```
//!
//! # What counts as an instruction
//!
//! One `PTRACE_SINGLESTEP`. A system call is one step, its effect whole: the kill comes before or after it. A `rep`
//! string instruction is one step per element on x86, so a `rep movsb` copy is killed in the middle too. Handlers of
//! signals that arrive in the region are stepped through like any code. Some twenty steps before and after the
//! operation belong to the markers.
//!
//! # How long it takes
//!
//! A step costs 2 to 5 µs on bare metal and up to 20 in a virtual machine, a child 1 to 2 ms; so a sweep of a thousand
//! instructions takes some seconds, one of five thousand some minutes, of which nearly all goes into stepping to where
//! it gets interesting. [`at_every_recorded_instruction`] runs there instead, and takes a few milliseconds a kill.
//!
//! # What surprises
//!
//! - Only the marked thread is stepped; other threads of the child run freely and die with it.
//! - Only the first region of a process counts. Without the harness (see [`ENV`]) the markers do nothing.
//! - A system call in the region that never returns hangs the parent: start a [`crate::watchdog`].
//! - The number of steps may differ from run to run (spinning, unaligned copies): a sweep goes on until a child
//!   reaches the end of its region, not until a number counted before.
//! - The kernel answers only the thread that started the child, so a [`Stepper`] cannot be sent to another.
//! - Load-linked/store-conditional loops (aarch64 without LSE) never end under single-stepping.
//!
//! Address space randomisation is switched off in the child where the kernel allows that, so the instruction pointers
//! reported are those of any run of the same binary under `setarch -R`, and in gdb.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::marker::PhantomData;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// The environment variable by which the harness tells a child that it is to be stepped.
pub const ENV: &str = "MMSB_PTRACE";

/// A region longer than this is taken for an endless loop by [`at_every_instruction`]. In instructions.
pub const STEPS_MAX: u64 = 20_000_000;

/// Signals that a child sends to itself, not to the process: another thread of it must not take them.
fn signal_self(signal: Signal) {
    // SAFETY: `tgkill` takes three integers and touches no memory; the ids are this thread's own.
    let sent = unsafe {
        let tid = libc::gettid();
        libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal as libc::c_int)
    };
    assert_eq!(sent, 0, "tgkill: {}", io::Error::last_os_error());
}

/// The first region has begun; or is there no harness? Set by `region_begin`.
static STEPPED: AtomicBool = AtomicBool::new(false);
/// A process is stepped through one region only.
static DONE: AtomicBool = AtomicBool::new(false);

/// In the child: the operation to be stepped begins when this returns. Does nothing without the harness, and on every
/// call but the first.
///
/// # Panics
///
/// When called from another thread than the main one, or when the kernel refuses to have this process traced (a
/// seccomp filter, `kernel.yama.ptrace_scope` = 3).
#[inline(never)]
pub fn region_begin() {
    // Relaxed: both flags are only touched by the main thread.
    if DONE.swap(true, Ordering::Relaxed) || std::env::var_os(ENV).is_none() {
        return;
    }
    // SAFETY: both calls only return an integer.
    let main_thread = unsafe { libc::gettid() == libc::getpid() };
    assert!(
        main_thread,
        "a region must be on the main thread: the tracer waits for the process's id"
    );
    ptrace::traceme().expect("PTRACE_TRACEME (is ptrace allowed here?)");
    STEPPED.store(true, Ordering::Relaxed);
    // The tracer sees this thread stop, suppresses the signal and steps from inside the system call on.
    signal_self(Signal::SIGSTOP);
}

/// In the child: the operation is over. Does nothing without the harness.
#[inline(never)]
pub fn region_end() {
    // Relaxed: only the main thread touches it. The swap makes a second call harmless: the signal would kill us.
    if STEPPED.swap(false, Ordering::Relaxed) {
        signal_self(Signal::SIGUSR2);
    }
}

/// How far [`Stepper::step`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One more instruction was executed; the child is held before the next one.
    Stepped,
    /// The child has reached [`region_end`] and is no longer traced; it runs on by itself.
    Ended,
}

/// A child held somewhere in its region. Dropping it kills and reaps the child.
///
/// Held is not dead: its kernel locks stay, as under SIGSTOP, but at an instruction of the caller's choosing. Survivors
/// can be run against a child that is held, and the child can then be stepped, released or killed.
#[derive(Debug)]
pub struct Stepper {
    child: Child,
    pid: Pid,
    steps: u64,
    /// The region is over, or the child is.
    ended: bool,
    /// Reaped here, behind `child`'s back: its id may be another process's by now.
    reaped: bool,
    /// ptrace requests are answered only to the thread that started the child.
    not_send: PhantomData<*const ()>,
}

impl Stepper {
    /// Starts the child and lets it run up to the end of [`region_begin`].
    ///
    /// # Errors
    ///
    /// When it cannot be started, or ends without coming to a region.
    pub fn start(command: &mut Command) -> io::Result<Stepper> {
        command.env(ENV, "1");
        let child = {
            // The personality is this thread's, and inherited; set around the spawn, it needs no `pre_exec` closure,
            // which a `Command` used twice would collect.
            let _fixed = FixedAddresses::set();
            command.spawn()?
        };
        let pid = Pid::from_raw(child.id().cast_signed());
        let mut stepper = Stepper {
            child,
            pid,
            steps: 0,
            ended: false,
            reaped: false,
            not_send: PhantomData,
        };
        loop {
            let deliver = match waitpid(pid, None)? {
                WaitStatus::Stopped(_, Signal::SIGSTOP) if stepper.sent_by_itself()? => break,
                // An exec after TRACEME stops with SIGTRAP; a stop signal from elsewhere would only be in the way.
                WaitStatus::Stopped(_, signal) if signal == Signal::SIGTRAP || stops(signal) => {
                    None
                }
                WaitStatus::Stopped(_, signal) => Some(signal),
                other => return Err(stepper.ended_early(other, "before its region")),
            };
            ptrace::cont(pid, deliver)?;
        }
        // Should this process die (a watchdog, Ctrl-C), the child must not stay stopped for ever.
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL)?;
        Ok(stepper)
    }

    /// Executes one instruction.
    ///
    /// # Errors
    ///
    /// When the child ended inside its region.
    pub fn step(&mut self) -> io::Result<Step> {
        if self.ended {
            return Ok(Step::Ended);
        }
        let mut deliver = None;
        loop {
            ptrace::step(self.pid, deliver)?;
            deliver = match waitpid(self.pid, None)? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                    self.steps += 1;
                    return Ok(Step::Stepped);
                }
                WaitStatus::Stopped(_, Signal::SIGUSR2) if self.sent_by_itself()? => {
                    ptrace::detach(self.pid, None)?;
                    self.ended = true;
                    return Ok(Step::Ended);
                }
                // The child is as good as stopped already; delivered, it would wait for a SIGCONT.
                WaitStatus::Stopped(_, signal) if stops(signal) => None,
                WaitStatus::Stopped(_, signal) => Some(signal),
                other => {
                    let place = format!("{} instructions into its region", self.steps);
                    return Err(self.ended_early(other, &place));
                }
            };
        }
    }

    /// Executes up to `count` instructions; [`Step::Ended`] when the region was shorter.
    ///
    /// # Errors
    ///
    /// As [`Stepper::step`].
    pub fn step_by(&mut self, count: u64) -> io::Result<Step> {
        let allowed = self.share_core();
        let mut result = Ok(if self.ended {
            Step::Ended
        } else {
            Step::Stepped
        });
        for _ in 0..count {
            result = self.step();
            if !matches!(result, Ok(Step::Stepped)) {
                break;
            }
        }
        if let Some(allowed) = allowed {
            self.leave_core(&allowed);
        }
        result
    }

    /// Runs on at full speed until the instruction at `ip` is next, which is taken to be `steps` steps into the region.
    /// Uses a debug register, so the code is not touched. [`Step::Ended`] when the region ends first.
    ///
    /// # Errors
    ///
    /// As [`Stepper::step`]; `Unsupported` where the harness knows no debug registers or the kernel gives none.
    fn run_to(&mut self, ip: u64, steps: u64) -> io::Result<Step> {
        self.set_breakpoint(Some(ip))
            .map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error))?;
        let mut deliver = None;
        loop {
            ptrace::cont(self.pid, deliver)?;
            deliver = match waitpid(self.pid, None)? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                    self.set_breakpoint(None)?;
                    self.steps = steps;
                    return Ok(Step::Stepped);
                }
                WaitStatus::Stopped(_, Signal::SIGUSR2) if self.sent_by_itself()? => {
                    self.set_breakpoint(None)?;
                    ptrace::detach(self.pid, None)?;
                    self.ended = true;
                    return Ok(Step::Ended);
                }
                WaitStatus::Stopped(_, signal) if stops(signal) => None,
                WaitStatus::Stopped(_, signal) => Some(signal),
                other => return Err(self.ended_early(other, "inside its region")),
            };
        }
    }

    /// Has the child stop before the instruction at this address, in debug register 0.
    #[cfg(target_arch = "x86_64")]
    fn set_breakpoint(&self, ip: Option<u64>) -> io::Result<()> {
        let register = |n: usize| std::mem::offset_of!(libc::user, u_debugreg) + n * 8;
        // Off while the address changes; then L0 with length and condition 0: execution, in this thread.
        ptrace::write_user(self.pid, register(7) as _, 0)?;
        if let Some(ip) = ip {
            ptrace::write_user(self.pid, register(0) as _, ip.cast_signed())?;
            ptrace::write_user(self.pid, register(7) as _, 1)?;
        }
        Ok(())
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn set_breakpoint(&self, _ip: Option<u64>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Instructions executed in the region so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes. It must not be waited for.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The address of the instruction that would be executed next; 0 once the region has ended.
    ///
    /// # Errors
    ///
    /// When the registers cannot be read.
    pub fn ip(&self) -> io::Result<u64> {
        if self.ended {
            return Ok(0);
        }
        let registers = ptrace::getregs(self.pid)?;
        #[cfg(target_arch = "x86_64")]
        let ip = registers.rip;
        #[cfg(not(target_arch = "x86_64"))]
        let ip = registers.pc;
        Ok(ip)
    }

    /// Sends SIGKILL and reaps the child: when this returns, its kernel locks and mappings are gone.
    ///
    /// # Errors
    ///
    /// When the child turns out to have ended otherwise.
    pub fn kill(mut self) -> io::Result<()> {
        let status = self.kill_and_reap()?;
        if status.signal() == Some(libc::SIGKILL) {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the child to be killed ended with {status}"
        )))
    }

    /// Lets the child run on and waits for its end.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for. The status may be a failure: look.
    pub fn finish(mut self) -> io::Result<ExitStatus> {
        if !self.ended {
            // To the end marker at full speed: it is a signal, which a tracer sees without stepping.
            let mut deliver = None;
            loop {
                ptrace::cont(self.pid, deliver)?;
                deliver = match waitpid(self.pid, None)? {
                    WaitStatus::Stopped(_, Signal::SIGUSR2) if self.sent_by_itself()? => break,
                    WaitStatus::Stopped(_, signal) if stops(signal) => None,
                    WaitStatus::Stopped(_, signal) => Some(signal),
                    other => return Err(self.ended_early(other, "inside its region")),
                };
            }
            ptrace::detach(self.pid, None)?;
            self.ended = true;
        }
        self.child.wait()
    }

    /// Was the signal that stopped the child one of the markers?
    fn sent_by_itself(&self) -> io::Result<bool> {
        match ptrace::getsiginfo(self.pid) {
            Ok(info) => {
                // SAFETY: whatever the union holds, the sender's id is an integer inside it; it is the id when the
                // signal was sent by `tgkill`, which the code says.
                let sender = unsafe { info.si_pid() };
                Ok(info.si_code == libc::SI_TKILL && sender == self.pid.as_raw())
            }
            // A group stop has no siginfo.
            Err(Errno::EINVAL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The error for a child that ended by itself. It has been reaped by then.
    fn ended_early(&mut self, status: WaitStatus, place: &str) -> io::Error {
        self.ended = true;
        self.reaped = true;
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the child ended {place}: {status:?}"),
        )
    }

    /// Moves both sides to one core: they never run at the same time, and a switch on one core is several times faster
    /// than waking another. Gives back where this thread may run otherwise; best effort.
    fn share_core(&self) -> Option<CpuSet> {
        let allowed = sched_getaffinity(None).ok()?;
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).ok()?;
        let _ = sched_setaffinity(rustix::process::Pid::from_raw(self.pid.as_raw()), &here);
        Some(allowed)
    }

    /// Undoes [`Stepper::share_core`], so that what either side starts or does next is not confined to one core.
    fn leave_core(&self, allowed: &CpuSet) {
        let _ = sched_setaffinity(None, allowed);
        if !self.reaped {
            let _ = sched_setaffinity(rustix::process::Pid::from_raw(self.pid.as_raw()), allowed);
        }
    }

    fn kill_and_reap(&mut self) -> io::Result<ExitStatus> {
        self.ended = true;
        self.child.kill()?;
        // A traced child reports nothing more but its death: SIGKILL ends every kind of stop.
        self.child.wait()
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        if !self.reaped {
            // Does nothing when `kill` or `finish` has reaped it: `child` knows.
            let _ = self.kill_and_reap();
        }
    }
}

/// The default action of these is to stop the process.
fn stops(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU
    )
}

/// While this lives, this thread's children start without address space randomisation.
struct FixedAddresses(Option<libc::c_int>);

impl FixedAddresses {
    fn set() -> FixedAddresses {
        // SAFETY: integers only. 0xffff_ffff asks without changing.
        let old = unsafe { libc::personality(0xffff_ffff) };
        // SAFETY: integers only; it affects programs started by this thread, not this program.
        let set = old >= 0
            && unsafe { libc::personality((old | libc::ADDR_NO_RANDOMIZE) as libc::c_ulong) } >= 0;
        // Containers may refuse; the addresses then differ from run to run, and nothing else.
        FixedAddresses(set.then_some(old))
    }
}

impl Drop for FixedAddresses {
    fn drop(&mut self) {
        if let Some(old) = self.0 {
            // SAFETY: integers only; the value is the one this thread had.
            unsafe { libc::personality(old as libc::c_ulong) };
        }
    }
}

/// How [`kill_at`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// The child was killed in its region, with the instruction at `at_ip` next.
    Killed {
        /// Address of the instruction that was not executed any more.
        at_ip: u64,
    },
    /// The region was shorter; the child ran on and exited with status 0.
    Finished,
}

/// Instructions in the region of this child, which then runs on to its end.
///
/// # Errors
///
/// When the region has more than `limit` instructions (the child is killed), the child ends inside or before it, or
/// fails after it.
pub fn count_steps(command: &mut Command, limit: u64) -> io::Result<u64> {
    let mut stepper = Stepper::start(command)?;
    if stepper.step_by(limit.saturating_add(1))? == Step::Stepped {
        let ip = stepper.ip()?;
        stepper.kill()?;
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the region has more than {limit} instructions; it was then at {ip:#x}"),
        ));
    }
    let steps = stepper.steps();
    succeeded(stepper.finish()?)?;
    Ok(steps)
}

/// Starts the child, executes `step` instructions of its region, kills it and reaps it.
///
/// # Errors
///
/// When the child ends by itself before that, or, with a shorter region, fails after it.
pub fn kill_at(command: &mut Command, step: u64) -> io::Result<StepOutcome> {
    let mut stepper = Stepper::start(command)?;
    if stepper.step_by(step)? == Step::Ended {
        succeeded(stepper.finish()?)?;
        return Ok(StepOutcome::Finished);
    }
    let at_ip = stepper.ip()?;
    stepper.kill()?;
    Ok(StepOutcome::Killed { at_ip })
}

fn succeeded(status: ExitStatus) -> io::Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the child failed after its region: {status}"
    )))
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Children killed inside their region.
    pub kills: u64,
    /// The first step asked for that was past the end of the region: about its length in instructions.
    pub steps: u64,
    /// Different instructions at which a child died.
    pub places: BTreeSet<u64>,
}

/// Kills a fresh child at instruction 0, `stride`, 2 × `stride`, … of its region, until one gets through.
///
/// `make(step)` gives the command; `after_kill(step)` runs after each kill, with the child reaped, and says what is
/// wrong with what it left behind. The child that gets through is not followed by `after_kill`.
///
/// # Errors
///
/// The first complaint of `after_kill`, with the step and the address of the instruction; a child that ended by itself;
/// a region longer than [`STEPS_MAX`].
pub fn at_every_instruction(
    make: impl FnMut(u64) -> Command,
    stride: u64,
    after_kill: impl FnMut(u64) -> Result<(), String>,
) -> Result<Sweep, String> {
    let stride = usize::try_from(stride.max(1)).map_err(|_| "stride too large".to_string())?;
    at_instructions((0..=STEPS_MAX).step_by(stride), make, after_kill)
}

/// The path of one run through its region: the address of the instruction that is next after 0, 1, 2, … steps.
#[derive(Clone, Debug)]
pub struct Trace {
    addresses: Vec<u64>,
    /// For each step, the last step up to it whose instruction had not been executed before.
    anchors: Vec<usize>,
}

impl Trace {
    /// Steps a child through its whole region.
    ///
    /// # Errors
    ///
    /// As [`count_steps`], with [`STEPS_MAX`] for the limit.
    pub fn record(command: &mut Command) -> io::Result<Trace> {
        let mut stepper = Stepper::start(command)?;
        let allowed = stepper.share_core();
        let walked = Trace::walk(&mut stepper);
        if let Some(allowed) = allowed {
            stepper.leave_core(&allowed);
        }
        let trace = walked?;
        succeeded(stepper.finish()?)?;
        Ok(trace)
    }

    fn walk(stepper: &mut Stepper) -> io::Result<Trace> {
        let mut trace = Trace {
            addresses: Vec::new(),
            anchors: Vec::new(),
        };
        let mut met = HashSet::new();
        while stepper.steps() < STEPS_MAX {
            let (ip, step) = (stepper.ip()?, trace.addresses.len());
            let anchor = if met.insert(ip) {
                step
            } else {
                trace.anchors[step - 1]
            };
            trace.addresses.push(ip);
            trace.anchors.push(anchor);
            if stepper.step()? == Step::Ended {
                return Ok(trace);
            }
        }
        let message = format!("the region does not end within {STEPS_MAX} instructions");
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }

    /// Instructions in the region.
    pub fn steps(&self) -> u64 {
        self.addresses.len() as u64 - 1
    }

    /// As [`kill_at`], but runs at full speed up to the last instruction before `step` that is met there for the first
    /// time, and steps from there. A child that took another way and never came there is replaced by one that is
    /// stepped from the beginning.
    ///
    /// # Errors
    ///
    /// As [`kill_at`].
    pub fn kill_at(&self, mut make: impl FnMut() -> Command, step: u64) -> io::Result<StepOutcome> {
        let anchor = usize::try_from(step)
            .ok()
            .and_then(|step| self.anchors.get(step));
        let Some(&anchor) = anchor else {
            return kill_at(&mut make(), step);
        };
        let mut stepper = Stepper::start(&mut make())?;
        match stepper.run_to(self.addresses[anchor], anchor as u64) {
            Ok(Step::Stepped) => {}
            Ok(Step::Ended) => {
                succeeded(stepper.finish()?)?;
                return kill_at(&mut make(), step);
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                drop(stepper);
                return kill_at(&mut make(), step);
            }
            Err(error) => return Err(error),
        }
        if stepper.step_by(step - anchor as u64)? == Step::Ended {
            succeeded(stepper.finish()?)?;
            return kill_at(&mut make(), step);
        }
        let at_ip = stepper.ip()?;
        stepper.kill()?;
        Ok(StepOutcome::Killed { at_ip })
    }
}

/// As [`at_every_instruction`], for long regions: the first child's path is recorded, and the others run at full speed
/// up to the neighbourhood of their step, so that a sweep takes time in proportion to the region and not to its square.
///
/// "Every instruction" then means every step of the recorded path. Where the path differs from run to run (it depends
/// on what the kills leave behind, or on spinning), a step may be another one than counted; sweep such a region with
/// [`at_every_instruction`] or repeatedly.
///
/// # Errors
///
/// As [`at_every_instruction`].
pub fn at_every_recorded_instruction(
    mut make: impl FnMut(u64) -> Command,
    stride: u64,
    after_kill: impl FnMut(u64) -> Result<(), String>,
) -> Result<Sweep, String> {
    let stride = usize::try_from(stride.max(1)).map_err(|_| "stride too large".to_string())?;
    let trace = Trace::record(&mut make(0)).map_err(|error| format!("recording: {error}"))?;
    sweep(
        (0..=STEPS_MAX).step_by(stride),
        |step| trace.kill_at(|| make(step), step),
        after_kill,
    )
}

/// As [`at_every_instruction`], at the given steps, which rise: for another start, a random choice, or a narrower range
/// after a failure. Ends with the first child that gets through, or with the steps.
///
/// # Errors
///
/// As [`at_every_instruction`].
pub fn at_instructions(
    steps: impl IntoIterator<Item = u64>,
    mut make: impl FnMut(u64) -> Command,
    after_kill: impl FnMut(u64) -> Result<(), String>,
) -> Result<Sweep, String> {
    sweep(steps, |step| kill_at(&mut make(step), step), after_kill)
}

fn sweep(
    steps: impl IntoIterator<Item = u64>,
    mut kill: impl FnMut(u64) -> io::Result<StepOutcome>,
    mut after_kill: impl FnMut(u64) -> Result<(), String>,
) -> Result<Sweep, String> {
    let mut sweep = Sweep::default();
    for step in steps {
        if step >= STEPS_MAX {
            return Err(format!(
                "the region does not end within {STEPS_MAX} instructions"
            ));
        }
        sweep.steps = step;
        match kill(step) {
            Ok(StepOutcome::Killed { at_ip }) => {
                sweep.kills += 1;
                sweep.places.insert(at_ip);
                after_kill(step).map_err(|complaint| {
                    format!("killed at step {step}, ip {at_ip:#x}: {complaint}")
                })?;
            }
            Ok(StepOutcome::Finished) => return Ok(sweep),
            Err(error) => return Err(format!("step {step}: {error}")),
        }
    }
    Ok(sweep)
}
