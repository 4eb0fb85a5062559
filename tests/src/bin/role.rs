//! A participant or an observer that obeys orders, one a line, and answers each with one line.
//!
//! | order | does |
//! | --- | --- |
//! | `join NAME TIMEOUT_MS` | attaches and joins: `joined NAMESPACE PID` |
//! | `observe` | maps `.pages` read-only: `observing` |
//! | `guard` | installs the SIGBUS guard |
//! | `arm STEP SKIP kill\|stop` | what happens at a step |
//! | `patch PAGE BYTE` | fills the page: `ok LSN` |
//! | `read PAGE` | as participant, or as observer: `bytes BYTE EPOCH` (`mixed` if they differ) |
//! | `people` | participants as `NAME:ALIVE` |
//! | `fork` | forks a child that tries a patch and lives on: `child PID RESULT` |
//! | `intrude` | tries to write what it may only read: `intruded` and how far it came |
//! | `touch` | reads every mapped byte up to the object's length: `touched SUM` |
//! | `everything` | every kind of look at the bus, whatever comes of it: `looked` |

use std::io::Write;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::time::Duration;

use mmsb_shm::sys::{sigbus, space::SegmentDir};
use mmsb_shm::testing::{Action, arm};
use mmsb_shm::{Core, Counter, Follower, PageError, Pages, Participant, ParticipantConfig};
use mmsb_tests::scenario::BUS;
use mmsb_tests::spawn::{orders, say};

struct Role {
    dir: SegmentDir,
    p: Option<Participant>,
    observer: Option<Pages>,
    followers: Option<(Follower, Follower)>,
}

fn main() {
    let dir = std::env::args().nth(1).expect("role DIR");
    let mut role = Role {
        dir: SegmentDir::at(dir),
        p: None,
        observer: None,
        followers: None,
    };
    say("here");
    for order in orders() {
        let words: Vec<&str> = order.split(' ').collect();
        let answer = role.obey(&words).unwrap_or_else(|e| format!("err {e}"));
        say(&answer);
    }
}

impl Role {
    fn p(&self) -> &Participant {
        self.p.as_ref().expect("joined")
    }

    fn obey(&mut self, words: &[&str]) -> Result<String, String> {
        match words {
            ["join", name, timeout] => {
                let core = Core::attach(&self.dir, BUS).map_err(|e| e.to_string())?;
                let config = ParticipantConfig {
                    name: (*name).to_owned(),
                    timeout: Duration::from_millis(timeout.parse().expect("milliseconds")),
                    ..ParticipantConfig::default()
                };
                let p = Participant::join(Arc::new(core), config).map_err(|e| e.to_string())?;
                let mut people = p.core().participants().into_iter();
                let me = people.find(|i| i.index == p.index()).expect("me");
                self.p = Some(p);
                Ok(format!("joined {} {}", me.pid_namespace, me.pid))
            }
            ["observe"] => {
                let pages = Pages::open(&self.dir, BUS, false).map_err(|e| e.to_string())?;
                self.observer = Some(pages);
                Ok("observing".into())
            }
            ["guard"] => {
                sigbus::install().map_err(|e| e.to_string())?;
                Ok("guarded".into())
            }
            ["arm", step, skip, action] => {
                let action = if *action == "stop" {
                    Action::Stop
                } else {
                    Action::Kill
                };
                arm(step, skip.parse().expect("a number"), action);
                Ok("armed".into())
            }
            ["patch", page, byte] => {
                let lsn = patch(self.p(), page, byte.parse().expect("a byte"));
                lsn.map(|lsn| format!("ok {lsn}"))
                    .map_err(|e| e.to_string())
            }
            ["read", page] => self.read(page).map_err(|e| e.to_string()),
            ["people"] => {
                let mut people: Vec<String> = self
                    .p()
                    .core()
                    .participants()
                    .into_iter()
                    .map(|i| format!("{}:{}", i.name, i.alive))
                    .collect();
                people.sort();
                Ok(format!("people {}", people.join(" ")))
            }
            ["fork"] => self.fork(),
            ["intrude"] => self.intrude(),
            ["touch"] => self.touch(),
            ["everything"] => {
                self.everything();
                Ok("looked".into())
            }
            _ => panic!("no such order: {words:?}"),
        }
    }

    fn read(&self, name: &str) -> Result<String, PageError> {
        let pages = match (&self.p, &self.observer) {
            (Some(p), _) => &p.core().pages,
            (None, Some(pages)) => pages,
            _ => panic!("neither participant nor observer"),
        };
        let page = pages.resolve(pages.find(name)?)?;
        let mut bytes = vec![0; page.size()];
        let version = match &self.p {
            Some(p) => p.read(&page, 0, &mut bytes)?,
            None => pages.observe(&page, 0, &mut bytes)?,
        };
        Ok(if bytes.iter().all(|b| *b == bytes[0]) {
            format!("bytes {} {}", bytes[0], version.epoch)
        } else {
            "mixed".into()
        })
    }

    fn fork(&self) -> Result<String, String> {
        let mut ends = [0; 2];
        // SAFETY: two descriptors' room.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        // SAFETY: the child touches its own memory, writes to a pipe and sleeps; the only other thread of this process
        // would be one of the allocator's, of which there is none.
        match unsafe { libc::fork() } {
            0 => {
                let result = match patch(self.p(), "plain", 77) {
                    Err(PageError::Forked) => "forked".to_owned(),
                    other => format!("{other:?}"),
                };
                // SAFETY: the write end, open and used for nothing else.
                let mut to = unsafe { std::fs::File::from_raw_fd(ends[1]) };
                to.write_all(result.as_bytes()).expect("the parent listens");
                drop(to);
                // Lives on, with every descriptor and mapping that fork gave it, until the test ends it.
                loop {
                    std::thread::sleep(Duration::from_secs(600));
                }
            }
            child if child > 0 => {
                // SAFETY: the write end is the child's alone from here on.
                unsafe { libc::close(ends[1]) };
                // SAFETY: the read end, open and used for nothing else.
                let mut from = unsafe { std::fs::File::from_raw_fd(ends[0]) };
                let mut text = String::new();
                std::io::Read::read_to_string(&mut from, &mut text).map_err(|e| e.to_string())?;
                Ok(format!("child {child} {text}"))
            }
            _ => Err(std::io::Error::last_os_error().to_string()),
        }
    }

    /// Everything by which a reader could become a writer.
    fn intrude(&self) -> Result<String, String> {
        let pages = self.observer.as_ref().expect("observing");
        let mut came = Vec::new();
        let (base, len) = pages.mapping();
        // SAFETY: changes the protection of this process's own mapping, if the kernel lets it.
        if unsafe { libc::mprotect(base.cast(), len, libc::PROT_READ | libc::PROT_WRITE) } == 0 {
            came.push("mprotect");
        }
        let open = |path: &std::path::Path, write| {
            std::fs::OpenOptions::new()
                .read(true)
                .write(write)
                .open(path)
                .is_ok()
        };
        if open(pages.path(), true) {
            came.push("pages for writing");
        }
        let control = self.dir.object(BUS, "ctl");
        if open(&control, false) || open(&control, true) {
            came.push("ctl");
        }
        // Through /proc a descriptor can be opened again, with the rights of the file, not of the descriptor.
        for entry in std::fs::read_dir("/proc/self/fd").map_err(|e| e.to_string())? {
            let entry = entry.map_err(|e| e.to_string())?.path();
            let ours = std::fs::read_link(&entry).is_ok_and(|p| p == pages.path());
            if ours && open(&entry, true) {
                came.push("descriptor reopened");
            }
        }
        if Core::attach(&self.dir, BUS).is_ok() {
            came.push("attach");
        }
        if std::fs::remove_file(pages.path()).is_ok() {
            came.push("unlink");
        }
        Ok(format!("intruded {}", came.join(",")))
    }

    fn touch(&self) -> Result<String, String> {
        let pages = self.observer.as_ref().expect("observing");
        let len = pages.stat().map_err(|e| e.to_string())?.len as usize;
        let (base, mapped) = pages.mapping();
        assert!(len <= mapped);
        let mut sum = 0u64;
        for at in 0..len {
            // SAFETY: inside the mapping and inside the object as just asked; volatile, as others write there.
            sum = sum.wrapping_add(u64::from(unsafe { base.add(at).read_volatile() }));
        }
        Ok(format!("touched {sum}"))
    }

    /// Whatever comes of it: an answer or an error, but no crash, no panic, no endless loop.
    fn everything(&mut self) {
        let p = self.p();
        let observer = self.observer.as_ref().expect("observing");
        for pages in [observer, &p.core().pages] {
            for id in pages.list_pages() {
                let _ = pages.info(id);
                if let Ok(page) = pages.resolve(id) {
                    let mut bytes = vec![0; page.size()];
                    let _ = pages.observe(&page, 0, &mut bytes);
                }
                // A handle belongs to one mapping.
                if let Ok(page) = p.core().pages.resolve(id) {
                    let mut bytes = vec![0; page.size()];
                    let _ = p.read(&page, 0, &mut bytes);
                }
            }
            let _ = pages.list_names("");
            let _ = pages.find("plain");
            let _ = (pages.list_sources(), pages.ring_info(), pages.bus_id());
            let _ = (pages.floor_lsn(), pages.end_lsn(), pages.len_bytes());
            let _ = Counter::ALL.map(|(counter, _)| pages.counter(counter));
        }
        let _ = (p.core().participants(), p.core().cursors());
        let _ = observer.class_use();
        let mut followers = self.followers.take().unwrap_or_else(|| {
            let first = observer.floor_lsn();
            (Follower::at(first), Follower::at(first))
        });
        let _ = followers.0.poll(observer, 100, |_| ());
        let _ = self.p().poll(&mut followers.1, 100, |_| ());
        self.followers = Some(followers);
        let _ = Pages::open(&self.dir, BUS, false);
        let _ = Core::attach(&self.dir, BUS);
    }
}

fn patch(p: &Participant, name: &str, byte: u8) -> Result<u64, PageError> {
    let page = p.open_page(name)?;
    p.patch(&page, 0, &vec![byte; page.size()])
}
