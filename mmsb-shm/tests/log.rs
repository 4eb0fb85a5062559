//! The log's place in the ring, waiting for the disk, filling drafts, and ending a bus.

use std::sync::Arc;
use std::time::Duration;

use mmsb_shm::log::{LogState, LogTap, Tapped};
use mmsb_shm::restore::Restorer;
use mmsb_shm::segment::{Draft, Start};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::wire::{self, Item};
use mmsb_shm::{
    BusConfig, Clock, Cold, Core, Kind, NewPage, PageError, PageId, Participant, ParticipantConfig,
};

const LOG: [u64; 2] = [7, 8];

struct Bus {
    _tmp: tempfile::TempDir,
    dir: SegmentDir,
    core: Arc<Core>,
}

fn config(ring_bytes: u64) -> BusConfig {
    BusConfig {
        ring_bytes,
        pages_max: 64,
        names_max: 64,
        ..BusConfig::default()
    }
}

fn bus(ring_bytes: u64) -> Bus {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    let core = Arc::new(Core::create(&dir, "t", &config(ring_bytes)).unwrap());
    Bus {
        _tmp: tmp,
        dir,
        core,
    }
}

impl Bus {
    fn join(&self, name: &str) -> Participant {
        let config = ParticipantConfig {
            name: name.into(),
            timeout: Duration::from_millis(200),
            ..ParticipantConfig::default()
        };
        Participant::join(Arc::clone(&self.core), config).unwrap()
    }
}

fn page(by: &Participant, size: u64) -> PageId {
    by.create_page(&NewPage {
        size,
        ..NewPage::default()
    })
    .unwrap()
}

/// Copies all that is there; the deltas in it.
fn drain(tap: &mut LogTap) -> Vec<(u64, Kind, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let first = tap.position();
        match tap.copy(&mut buffer).unwrap() {
            Tapped::Slots { bytes, end, .. } => {
                let at = wire::walk(
                    &mut buffer[..bytes],
                    first,
                    tap.ring_slots(),
                    Clock::new(0, 0),
                    &mut |item| match item {
                        Item::Delta(d) => seen.push((d.lsn, d.kind, d.payload.to_vec())),
                        Item::Chunk(_) => panic!("no chunks in the ring"),
                    },
                )
                .unwrap();
                assert!(at <= end);
            }
            Tapped::Content { lsn, total } => {
                let mut content = vec![0; total as usize];
                let (a, b) = content.split_at_mut(total as usize / 2);
                tap.content(0, a).unwrap();
                tap.content(a.len() as u64, b).unwrap();
                seen.push((lsn, Kind::Swap, content));
                tap.content_logged();
            }
            Tapped::Nothing => return seen,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_log_holds_the_ring_until_it_is_durable_and_writers_learn_why() {
    let bus = bus(4096);
    let by = bus.join("writer");
    let id = page(&by, 8);
    let at = bus.core.pages.resolve(id).unwrap();
    let mut tap = LogTap::open(&by).unwrap().unwrap();
    assert_eq!(tap.log_id(), None);
    let begin = tap.attach(&by, LOG).unwrap();
    assert!(begin.whole && begin.lsn == bus.core.pages.first_lsn());
    tap.set_state(LogState::Running);
    assert!(
        LogTap::open(&by).unwrap().is_none(),
        "one supervisor at a time"
    );
    let mut written = 0;
    let error = loop {
        match by.patch(&at, 0, &[1; 8]) {
            Ok(_) => written += 1,
            Err(e) => break e,
        }
        assert!(written < 1000, "the log does not hold the ring");
    };
    assert!(
        matches!(&error, PageError::Backpressure { no_supervisor: false, lsn, .. } if *lsn == begin.lsn),
        "{error:?}"
    );
    let seen = drain(&mut tap);
    assert_eq!(
        seen.iter().filter(|(_, k, _)| *k == Kind::Patch).count(),
        written
    );
    // Copied is not durable.
    assert!(by.patch(&at, 0, &[1; 8]).is_err());
    tap.set_durable(tap.position());
    by.patch(&at, 0, &[2; 8]).unwrap();
    let (place, durable) = (tap.position(), bus.core.pages.durable_lsn());
    drop(tap);
    let error = (0..1000).find_map(|_| by.patch(&at, 0, &[3; 8]).err());
    assert!(
        matches!(&error, Some(PageError::Backpressure { no_supervisor: true, blocker, .. }) if blocker.contains("supervises")),
        "{error:?}"
    );
    // The next one goes on where the disk ends.
    let mut tap = LogTap::open(&by).unwrap().unwrap();
    assert_eq!(tap.log_id(), Some(LOG));
    assert_eq!((tap.position(), durable), (place, place));
    assert!(drain(&mut tap).iter().any(|(_, _, b)| b == &[2; 8]));
}

#[test]
fn who_waits_for_the_disk_is_woken_and_told_of_failures() {
    let bus = bus(1 << 16);
    let by = bus.join("writer");
    let id = page(&by, 8);
    let supervisor = bus.join("supervisor");
    let at = bus.core.pages.resolve(id).unwrap();
    let lsn = by.patch(&at, 0, &[1; 8]).unwrap();
    let error = by.wait_durable(lsn, Duration::from_secs(1)).unwrap_err();
    assert!(matches!(error, PageError::NotDurable { .. }), "{error:?}");
    let mut tap = LogTap::open(&supervisor).unwrap().unwrap();
    tap.attach(&supervisor, LOG).unwrap();
    tap.set_state(LogState::Running);
    std::thread::scope(|s| {
        let by = bus.join("waiter");
        let waiter = s.spawn(move || by.wait_durable(lsn, Duration::from_secs(20)));
        while tap.wanted().is_none() {
            tap.sleep(Duration::from_millis(500), false);
        }
        assert_eq!(tap.wanted(), Some(lsn + 1));
        drain(&mut tap);
        assert_eq!(tap.wanted(), None);
        std::thread::sleep(Duration::from_millis(20));
        tap.set_durable(tap.position());
        waiter.join().unwrap().unwrap();
        // And now the disk fails.
        let lsn = supervisor.patch(&at, 0, &[2; 8]).unwrap();
        let by = bus.join("waiter");
        let waiter = s.spawn(move || by.wait_durable(lsn, Duration::from_secs(20)));
        while tap.wanted().is_none() {
            tap.sleep(Duration::from_millis(500), false);
        }
        tap.set_state(LogState::Failed(libc::ENOSPC as u32));
        let error = waiter.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
    });
}

#[test]
fn a_swap_is_kept_until_it_is_durable_and_its_content_comes_first() {
    let bus = bus(1 << 16);
    let by = bus.join("writer");
    let mut tap = LogTap::open(&by).unwrap().unwrap();
    tap.attach(&by, LOG).unwrap();
    let id = page(&by, 100_000);
    let at = bus.core.pages.resolve(id).unwrap();
    let publish = |n: u8| {
        let mut loan = by.loan(&at).unwrap();
        loan.fill(n);
        loan.publish(0).unwrap()
    };
    for n in 1..5 {
        publish(n);
    }
    let seen = drain(&mut tap);
    let swaps: Vec<u8> = seen
        .iter()
        .filter(|(_, k, b)| *k == Kind::Swap && !b.is_empty())
        .map(|(_, _, b)| {
            assert!(b.len() == 100_000 && b.iter().all(|x| *x == b[0]));
            b[0]
        })
        .collect();
    assert_eq!(swaps, [1, 2, 3, 4]);
}

#[test]
fn a_bus_that_swapped_ahead_of_its_log_is_not_whole() {
    let bus = bus(1 << 16);
    let by = bus.join("writer");
    let id = page(&by, 1000);
    let at = bus.core.pages.resolve(id).unwrap();
    by.loan(&at).unwrap().publish(0).unwrap();
    let mut tap = LogTap::open(&by).unwrap().unwrap();
    let begin = tap.attach(&by, LOG).unwrap();
    assert!(!begin.whole, "{begin:?}");
}

#[test]
fn a_log_of_a_bus_that_is_not_new_begins_where_its_ring_is() {
    let bus = bus(1 << 16);
    let by = bus.join("writer");
    let id = page(&by, 1000);
    let at = bus.core.pages.resolve(id).unwrap();
    // Blocks of these swaps are used again, while nobody has looked how far the ring is.
    for _ in 0..20 {
        by.loan(&at).unwrap().publish(0).unwrap();
    }
    let end = bus.core.pages.end_lsn();
    let mut tap = LogTap::open(&by).unwrap().unwrap();
    let begin = tap.attach(&by, LOG).unwrap();
    assert_eq!((begin.lsn, begin.whole), (end, false));
    let lsn = by.loan(&at).unwrap().publish(0).unwrap().last;
    assert!(drain(&mut tap).iter().all(|(of, ..)| *of == lsn));
}

#[test]
fn a_draft_filled_from_elsewhere_is_a_bus_like_any_other() {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    // A lap whose sign bit is set, and not the start of one.
    let start = Start {
        incarnation: 3,
        lsn: (0x8000_0005u64 << 6) + 11,
        created_ns: 1 << 60,
    };
    let draft = Draft::new(&dir, "t", &config(4096), Some(start)).unwrap();
    let mut restorer = Restorer::new(&draft).unwrap();
    restorer.source(2, "feed", 5).unwrap();
    let ids = [(5, 3), (6, 1), (63, 9)].map(|(index, generation)| PageId { index, generation });
    for (i, id) in ids.iter().enumerate() {
        let mut bytes = restorer.take(100, if i == 1 { 4 } else { 1 }).unwrap();
        bytes.fill(i as u8 + 1);
        let cold = Cold {
            name: format!("page/{i}"),
            meta: vec![("k".into(), "v".into())],
            ..Cold::default()
        };
        restorer
            .place(*id, bytes, 40 + i as u64, start.lsn - 10, &cold)
            .unwrap();
    }
    let spare = restorer.take(100, 1).unwrap();
    restorer.give_back(spare).unwrap();
    restorer.free_number(0, 77).unwrap();
    assert!(
        restorer.free_number(5, 1).is_err(),
        "that number has a page"
    );
    restorer.attach_log(LOG, start.lsn);
    drop(restorer);
    assert!(Core::attach(&dir, "t").is_err(), "it has no name yet");
    draft.link().unwrap();
    let bus = Bus {
        core: Arc::new(Core::attach(&dir, "t").unwrap()),
        dir,
        _tmp: tmp,
    };
    let by = bus.join("feed");
    assert_eq!(by.source(), 2);
    for (i, id) in ids.iter().enumerate() {
        let at = by.open_page(&format!("page/{i}")).unwrap();
        assert_eq!(at.id(), *id);
        let mut bytes = [0; 100];
        let version = by.read(&at, 0, &mut bytes).unwrap();
        assert_eq!(bytes, [i as u8 + 1; 100]);
        assert_eq!(
            (version.epoch, version.lsn),
            (40 + i as u64, start.lsn - 10)
        );
        let info = bus.core.pages.info(*id).unwrap();
        assert_eq!(info.cold.meta, [("k".to_owned(), "v".to_owned())]);
        // More than a lap of commits, followed and logged.
        for n in 0..100u8 {
            let lsn = by.patch(&at, 0, &[n; 40]).unwrap();
            assert!(lsn >= start.lsn);
            let mut tap = LogTap::open(&by).unwrap().unwrap();
            assert_eq!(tap.log_id(), Some(LOG));
            let seen = drain(&mut tap);
            assert_eq!(seen, [(lsn, Kind::Patch, vec![n; 40])]);
            tap.set_durable(tap.position());
        }
        let version = by.read(&at, 0, &mut bytes).unwrap();
        assert_eq!(version.epoch, 140 + i as u64);
    }
    // Numbers in use are not given out, and generations go on.
    let made: Vec<PageId> = (0..61).map(|_| page(&by, 8)).collect();
    assert!(
        made.iter()
            .all(|id| ids.iter().all(|old| old.index != id.index))
    );
    let first = made.iter().find(|id| id.index == 0).unwrap();
    assert_eq!(first.generation, 78);
    assert_eq!(bus.core.pages.incarnation(), 3);
    by.destroy_page(ids[1]).unwrap();
    let again = page(&by, 8);
    assert_eq!((again.index, again.generation), (6, 2));
    assert_eq!(bus.dir.buses().unwrap(), ["t"]);
}

#[test]
fn no_commit_gets_into_an_abandoned_bus_and_none_is_lost() {
    let bus = bus(4096);
    let by = bus.join("supervisor");
    let id = page(&by, 8);
    let done = std::thread::scope(|s| {
        let writers: Vec<_> = (0..2)
            .map(|i| {
                let by = bus.join(&format!("writer {i}"));
                let core = Arc::clone(&bus.core);
                s.spawn(move || {
                    let at = core.pages.resolve(id).unwrap();
                    let mut last = 0;
                    loop {
                        match by.patch(&at, 0, &[i; 8]) {
                            Ok(lsn) => last = lsn,
                            Err(PageError::BusGone) => return last,
                            Err(e) => panic!("{e:?}"),
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(20));
        by.abandon_bus().unwrap();
        let version = bus.core.pages.info(id).unwrap();
        let last = writers.into_iter().map(|w| w.join().unwrap()).max();
        (version.lsn, last.unwrap())
    });
    assert_eq!(
        done.0, done.1,
        "what was read behind it is all there ever was"
    );
    assert_eq!(bus.core.pages.info(id).unwrap().lsn, done.1);
    assert!(Core::attach(&bus.dir, "t").is_err());
}
