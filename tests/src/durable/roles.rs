//! What the child processes do.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use mmsb::supervisor::Role;
use mmsb::tlog::Backend;
use mmsb::{AttachError, Bus, Durability, Error, Page, PageError, PageSpec};
use mmsb_shm::testing::{Action, arm, arm_process, trace_process};

use super::{BIG, OWN, PAIR, builder, pattern, supervisor_config};
use crate::seed::Rng;
use crate::spawn::{orders, say};

/// A step to die at: its name, and how often it is passed before.
pub type Armed = Option<(String, u64)>;

/// Supervises, or waits for its turn.
///
/// Says `up INCARNATION FORK`, then `role ROLE` at every change. Orders: `checkpoint`, `steps`, `status`, `reopen`,
/// `stop`; each is answered.
///
/// # Panics
/// When the bus cannot be opened; the parent sees the exit status.
pub fn supervisor(shm: &Path, disk: &Path, backend: Backend, busy: bool, armed: Armed) {
    if let Some((step, skip)) = armed {
        arm_process(&step, skip, Action::Kill);
    }
    trace_process();
    let bus = builder(shm, Duration::from_secs(5))
        .source("supervisor")
        .supervise(supervisor_config(disk, backend, busy))
        .open_or_create();
    let bus = match bus {
        Ok(bus) => bus,
        Err(e) => {
            say(&format!("failed {e}"));
            std::process::exit(2);
        }
    };
    let status = bus.log_status();
    say(&format!("up {} {}", status.incarnation, status.fork_lsn));
    let (order, ordered) = mpsc::channel();
    std::thread::spawn(move || orders().for_each(|o| order.send(o).unwrap_or(())));
    let supervisor = bus.supervisor().expect("a supervisor");
    let mut role = Role::Starting;
    loop {
        let now = supervisor.status();
        if now.role != role {
            role = now.role;
            let why = now.last_error.unwrap_or_default();
            say(&format!("role {role:?} {}", why.replace('\n', " ")));
        }
        match ordered.recv_timeout(Duration::from_millis(2)) {
            Ok(line) => match line.as_str() {
                "checkpoint" => match supervisor.checkpoint() {
                    Ok(info) => say(&format!("checkpoint {}", info.end_lsn)),
                    Err(e) => say(&format!("checkpoint failed {e}")),
                },
                "steps" => say(&format!("steps {}", trace_process().join(","))),
                "status" => {
                    let (now, log) = (supervisor.status(), bus.log_status());
                    say(&format!(
                        "status {:?} {} {} {} {}",
                        now.role,
                        log.durable_lsn,
                        log.end_lsn,
                        now.log.backend,
                        now.last_error.unwrap_or_default().replace('\n', " ")
                    ));
                }
                "reopen" => {
                    supervisor.reopen();
                    say("reopening");
                }
                "stop" => break,
                other => panic!("no such order: {other}"),
            },
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(bus);
    say(&format!("steps {}", trace_process().join(",")));
    say("stopped");
}

/// What a writer is told at its start.
#[derive(Debug)]
pub struct WriterRole {
    /// Directory of the segments.
    pub shm: PathBuf,
    /// Which writer it is: its pages carry the number.
    pub slot: u64,
    /// Its random numbers.
    pub seed: u64,
    /// Commits to make; 0: until it is told to stop.
    pub commits: u64,
    /// `synced`, `volatile`, or `mixed`.
    pub levels: String,
    /// Longest wait for others, and for the disk.
    pub timeout: Duration,
    /// A step to die at.
    pub armed: Armed,
}

/// Commits, and says so: `a KEY N LSN LEVEL` once the call that brought page KEY to number N has returned (LEVEL: `s`, `b`
/// or `v`), `c KEY N LSN WHY` if it is committed and not durable, `blocked WHY` when it was refused, `done` at the end.
///
/// # Panics
/// When something else goes wrong than what a supervisor's death explains.
pub fn writer(role: WriterRole) {
    let bus = attach(&role.shm, role.timeout, &format!("writer {}", role.slot));
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        orders().for_each(drop);
        told.store(true, Ordering::Relaxed);
    });
    let slot = role.slot;
    let page = |name: String, size: usize| loop {
        let spec = PageSpec::new(size as u64).name(&name);
        match bus.open_or_create_page(spec) {
            Ok(page) => return page,
            Err(e) if e.is_backpressure() || e.is_timeout() => say(&format!("blocked {e}")),
            Err(e) => panic!("{name}: {e}"),
        }
    };
    let mut writer = Writer {
        bus: &bus,
        slot,
        own: page(format!("own/{slot}"), OWN),
        pair: [
            page(format!("pair/{slot}/a"), PAIR),
            page(format!("pair/{slot}/b"), PAIR),
        ],
        big: page(format!("big/{slot}"), BIG),
        level: 's',
    };
    if let Some((step, skip)) = &role.armed {
        arm(step, *skip, Action::Kill);
    }
    say("joined");
    let mut rng = Rng::new(role.seed);
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) && (role.commits == 0 || made < role.commits) {
        writer.level = match rng.below(8) {
            _ if role.levels == "synced" => 's',
            _ if role.levels == "volatile" => 'v',
            0..3 => 's',
            3..6 => 'b',
            _ => 'v',
        };
        let durability = match writer.level {
            's' => Durability::Synced,
            'b' => Durability::Buffered(Duration::from_millis(rng.below(5) + 1)),
            _ => Durability::Volatile,
        };
        let kind = rng.below(16);
        let done = bus.with_durability(durability, || match kind {
            0..9 => writer.own(),
            9..12 => writer.pair(),
            12..14 => writer.big(),
            _ => writer.temporary(made),
        });
        match done {
            Ok(()) => made += 1,
            Err(e) if e.is_backpressure() || e.is_timeout() => {
                let no_supervisor = matches!(
                    &e,
                    Error::Page(PageError::Backpressure {
                        no_supervisor: true,
                        ..
                    })
                );
                say(&format!("blocked {no_supervisor} {e}"));
            }
            Err(e) => panic!("writer {slot}: {e:?}"),
        }
    }
    say("done");
}

/// Waits for the bus: it may be about to be created or rebuilt.
fn attach(shm: &Path, timeout: Duration, source: &str) -> Bus {
    let begin = Instant::now();
    loop {
        match builder(shm, timeout).source(source).attach() {
            Ok(bus) => return bus,
            Err(Error::Attach(AttachError::Missing { .. } | AttachError::Initialising { .. }))
                if begin.elapsed() < Duration::from_secs(30) =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(e) => panic!("{source}: {e}"),
        }
    }
}

struct Writer<'b> {
    bus: &'b Bus,
    slot: u64,
    own: Page<'b>,
    pair: [Page<'b>; 2],
    big: Page<'b>,
    level: char,
}

/// The number of the page's next commit.
fn next(page: &Page<'_>) -> mmsb::Result<u64> {
    let mut head = [0; 8];
    page.read_range(0, &mut head)?;
    Ok(u64::from_le_bytes(head) + 1)
}

impl Writer<'_> {
    /// Says what came of commit `n` of the page `key`.
    fn said(&self, key: &str, n: u64, result: mmsb::Result<u64>) -> mmsb::Result<()> {
        match result {
            Ok(lsn) => {
                say(&format!("a {key} {n} {lsn} {}", self.level));
                Ok(())
            }
            Err(Error::Page(PageError::NotDurable { lsn, why, .. })) => {
                say(&format!("c {key} {n} {lsn} {why}"));
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn own(&self) -> mmsb::Result<()> {
        let n = next(&self.own)?;
        let result = self.own.write(&pattern(n, OWN));
        self.said(&format!("own/{}", self.slot), n, result)
    }

    fn pair(&self) -> mmsb::Result<()> {
        let n = next(&self.pair[0])?;
        let bytes = pattern(n, PAIR);
        let result = self.bus.transaction(|tx| {
            tx.patch(&self.pair[0], 0, &bytes)?;
            tx.patch(&self.pair[1], 0, &bytes)
        });
        self.said(
            &format!("pair/{}/b", self.slot),
            n,
            result.map(|(_, receipt)| receipt.last),
        )
    }

    fn big(&self) -> mmsb::Result<()> {
        let n = next(&self.big)?;
        let mut loan = self.big.loan()?;
        loan.copy_from_slice(&pattern(n, BIG));
        let result = loan.publish();
        self.said(&format!("big/{}", self.slot), n, result)
    }

    /// A page that comes and goes. What a kill leaves of it is found by its name later.
    fn temporary(&self, n: u64) -> mmsb::Result<()> {
        let prefix = format!("temp/{}/", self.slot);
        for old in self.bus.pages(&prefix)? {
            match self.bus.destroy(old.id) {
                Ok(()) => {}
                Err(e) if e.is_not_durable() => {}
                Err(e) => return Err(e),
            }
        }
        let size = 64 + (n % 5) * 1000;
        let spec = PageSpec::new(size).name(&format!("{prefix}{n}"));
        let page = match self.bus.create_page(spec) {
            Ok(page) => page,
            Err(e) if e.is_not_durable() => self.bus.page(&format!("{prefix}{n}"))?,
            Err(e) => return Err(e),
        };
        match page.write(&pattern(1, size as usize)) {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_durable() => Ok(()),
            Err(e) => Err(e),
        }
    }
}
