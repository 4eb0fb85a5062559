//! Worker processes: a line protocol over their standard input and output, signals, reaping with a timeout.
//!
//! What a worker acknowledges reaches the parent through a pipe and stays there when the worker is killed, so a parent
//! that never maps the bus knows what it may not lose. A line counts once its newline is in the pipe: [`say`] writes
//! each with one system call, and what a kill cuts off is dropped.
//!
//! ```no_run
//! # use std::{process::Command, time::Duration};
//! use mmsb_tests::spawn::Child;
//!
//! let mut worker = Child::spawn(Command::new("worker").arg("writer")).unwrap();
//! worker.send("commit 7").unwrap();
//! assert_eq!(worker.receive(Duration::from_secs(10)).unwrap(), "committed 7");
//! worker.kill().unwrap();
//! ```

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// A worker process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    orders: Option<ChildStdin>,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
}

impl Child {
    /// Starts the worker with its standard input and output connected to this process. Standard error is shared.
    ///
    /// Its lines are read by a thread as they come, without a limit, so that a worker never waits for the parent.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    ///
    /// # Panics
    ///
    /// When no thread can be started.
    pub fn spawn(command: &mut Command) -> io::Result<Child> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take();
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let (sender, lines) = channel();
        let reader = std::thread::Builder::new()
            .name(format!("reader-{}", child.id()))
            .spawn(move || {
                let mut output = BufReader::new(output);
                let mut line = Vec::new();
                loop {
                    line.clear();
                    match output.read_until(b'\n', &mut line) {
                        Ok(n) if n > 0 && line.ends_with(b"\n") => {}
                        // The end, or a line that a kill has cut off.
                        _ => return,
                    }
                    line.pop();
                    if sender
                        .send(String::from_utf8_lossy(&line).into_owned())
                        .is_err()
                    {
                        return;
                    }
                }
            })
            .expect("a thread to read a worker's lines");
        Ok(Child {
            child,
            orders,
            lines,
            reader: Some(reader),
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Writes a line to the worker's standard input.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the worker is gone, or after [`Child::close_input`].
    pub fn send(&mut self, line: &str) -> io::Result<()> {
        let orders = self.orders.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        orders.write_all(format!("{line}\n").as_bytes())
    }

    /// Closes the worker's standard input: its [`orders`] end.
    pub fn close_input(&mut self) {
        self.orders = None;
    }

    /// The worker's next line.
    ///
    /// # Errors
    ///
    /// `TimedOut`; `UnexpectedEof` when it has closed its output (died) and all its lines have been received.
    pub fn receive(&mut self, timeout: Duration) -> io::Result<String> {
        self.lines
            .recv_timeout(timeout)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no line from worker {} within {timeout:?}", self.id()),
                ),
                RecvTimeoutError::Disconnected => {
                    let message = format!("worker {} has closed its output", self.id());
                    io::Error::new(io::ErrorKind::UnexpectedEof, message)
                }
            })
    }

    /// The worker's next line, if it has already come.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` as from [`Child::receive`].
    pub fn try_receive(&mut self) -> io::Result<Option<String>> {
        match self.lines.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Skips lines up to and including the first that starts with `prefix`; what follows the prefix.
    ///
    /// # Errors
    ///
    /// As [`Child::receive`], the time being for all of them.
    pub fn expect(&mut self, prefix: &str, timeout: Duration) -> io::Result<String> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.receive(left).map_err(|error| {
                io::Error::new(error.kind(), format!("waiting for {prefix:?}: {error}"))
            })?;
            if let Some(rest) = line.strip_prefix(prefix) {
                return Ok(rest.to_owned());
            }
        }
    }

    /// Every line that a worker now dead had written and that was not received yet. Waits for a living one to end.
    pub fn last_lines(&mut self) -> Vec<String> {
        self.lines.iter().collect()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// `ESRCH` when the worker has been reaped.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // Asked first: once std has reaped the child, the id may be another process's.
        if self.child.try_wait()?.is_some() {
            return Err(Errno::ESRCH.into());
        }
        Ok(kill(self.pid(), signal)?)
    }

    /// SIGKILL, and reaps: when this returns, the worker's kernel locks and mappings are gone. The status is the
    /// worker's own if it ended before.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// SIGSTOP; returns when the worker has really stopped, all its threads.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when it ended instead.
    pub fn stop(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)?;
        // WNOWAIT: should it have died, std::process::Child reaps it.
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        loop {
            match waitid(Id::Pid(self.pid()), flags) {
                Ok(WaitStatus::Stopped(..)) => return Ok(()),
                Ok(status) => {
                    let message = format!("worker {} ended, not stopped: {status:?}", self.id());
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// SIGCONT.
    ///
    /// # Errors
    ///
    /// As [`Child::signal`].
    pub fn resume(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Waits for the worker to end by itself and reaps it; `None` after `timeout`. Sleeps in steps of at most 5 ms.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + timeout;
        let mut pause = Duration::from_micros(50);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    /// Closes the worker's input and waits for it to end with status 0.
    ///
    /// # Errors
    ///
    /// When it ends otherwise, or not within `timeout`.
    pub fn finish(mut self, timeout: Duration) -> io::Result<()> {
        self.close_input();
        match self.wait(timeout)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                let signal = status.signal().map(|number| format!(" (signal {number})"));
                let message = format!(
                    "worker {} failed: {status}{}",
                    self.id(),
                    signal.unwrap_or_default()
                );
                Err(io::Error::other(message))
            }
            None => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("worker {} has not ended within {timeout:?}", self.id()),
            )),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.kill();
        // The worker may have children of its own that keep its output open: the thread is then left behind.
        if let Some(reader) = self.reader.take()
            && reader.is_finished()
        {
            let _ = reader.join();
        }
    }
}

/// In a worker: writes a line to the parent with one system call. Lines of up to 4095 bytes from several threads do not
/// mix, and a kill leaves all of one or nothing.
///
/// # Panics
///
/// When the parent is gone: nobody is left to work for.
pub fn say(line: &str) {
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        // Only the descriptor of `io::stdout()`: its buffer would die with the process.
        match rustix::io::write(io::stdout(), rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the parent does not listen: {error}"),
        }
    }
}

/// In a worker: the parent's lines, until it closes the pipe or dies.
pub fn orders() -> impl Iterator<Item = String> {
    io::stdin().lines().map_while(Result::ok)
}

/// In a worker: from now on, the process exits with status 3 when the parent's end of standard input is closed, be it
/// that the parent was killed. For workers that do not come round to reading [`orders`].
///
/// Not `PR_SET_PDEATHSIG`, which fires when the *thread* that started the worker ends.
///
/// # Panics
///
/// When no thread can be started.
pub fn exit_when_orphaned() {
    use rustix::event::{PollFd, PollFlags, poll};
    std::thread::Builder::new()
        .name("orphan-watch".into())
        .spawn(|| {
            loop {
                // No events asked for: only a hang-up ends the wait, and the orders stay in the pipe.
                let stdin = io::stdin();
                let mut input = [PollFd::new(&stdin, PollFlags::empty())];
                match poll(&mut input, None) {
                    Ok(_)
                        if input[0]
                            .revents()
                            .intersects(PollFlags::HUP | PollFlags::ERR) =>
                    {
                        std::process::exit(3)
                    }
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    // Standard input is not a pipe: started by hand.
                    Err(_) => return,
                }
            }
        })
        .expect("a thread to watch for the parent");
}
