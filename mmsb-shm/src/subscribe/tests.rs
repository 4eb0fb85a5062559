use super::*;
use crate::commit::{Change, Options};
use crate::names::NewPage;
use crate::participant::ParticipantConfig;
use crate::segment::BusConfig;
use crate::sys::space::SegmentDir;

#[test]
fn a_floor_ahead_of_what_is_published_is_corrupt_and_no_gap() {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    let core = Arc::new(Core::create(&dir, "t", &BusConfig::default()).unwrap());
    let p = Participant::join(Arc::clone(&core), ParticipantConfig::default()).unwrap();
    let mut follower = p.follow(false).unwrap();
    let start = follower.position();
    let new = NewPage {
        size: 8,
        ..NewPage::default()
    };
    p.create_page(&new).unwrap();
    let floor = core.pages.ring().floor;
    let whole = floor.load(Ordering::Relaxed);
    for scrambled in [start + 1, 1 << 40, u64::MAX] {
        floor.store(scrambled, Ordering::Relaxed);
        for mut follower in [Follower::at(start), Follower::at(core.pages.end_lsn() - 1)] {
            match follower.poll(&core.pages, 10, |_| {}) {
                // A floor within the ring is honoured as long as that leads on.
                Ok(Polled::Gap(gap)) => {
                    assert!(gap.to > gap.from, "{gap:?}, floor {scrambled}")
                }
                Ok(Polled::Deltas(_)) => assert!(scrambled <= follower.position()),
                Err(PageError::Corrupt(_)) => {}
                other => panic!("{other:?}, floor {scrambled}"),
            }
        }
        assert!(matches!(
            p.poll(&mut follower, 10, |_| {}),
            Err(PageError::Corrupt(_))
        ));
    }
    floor.store(whole, Ordering::Relaxed);
    let polled = p.poll(&mut follower, 10, |_| {});
    assert_eq!(polled, Ok(Polled::Deltas(1)), "nothing was skipped");
    assert_eq!(follower.missed(), 0);
}

fn bus() -> (tempfile::TempDir, Participant) {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    let core = Arc::new(Core::create(&dir, "t", &BusConfig::default()).unwrap());
    let config = ParticipantConfig {
        timeout: Duration::from_millis(50),
        ..ParticipantConfig::default()
    };
    (tmp, Participant::join(core, config).unwrap())
}

#[test]
fn what_may_be_overwritten_is_never_delivered() {
    let (_tmp, p) = bus();
    let new = NewPage {
        size: 1024,
        ..NewPage::default()
    };
    let page = p.core().pages.resolve(p.create_page(&new).unwrap());
    let page = page.unwrap();
    let ring = p.core().pages.ring();
    let patch = |bytes: &'static [u8]| Change::Patch {
        page: &page,
        offset: 0,
        bytes,
    };
    // One short record, one long one, and several in one group: each is copied in its own way.
    let groups: [&[Change<'_>]; 3] = [
        &[patch(&[1; 8])],
        &[patch(&[2; 1024])],
        &[patch(&[3; 8]), patch(&[4; 64])],
    ];
    for group in groups {
        let mut follower = p.follow(false).unwrap();
        let receipt = p.commit(group, &Options::default()).unwrap();
        let whole = ring.floor.load(Ordering::Relaxed);
        ring.floor.store(receipt.first + 1, Ordering::Relaxed);
        let polled = p.poll(&mut follower, 10, |delta| panic!("{delta:?}"));
        assert!(!matches!(polled, Ok(Polled::Deltas(_))), "{polled:?}");
        ring.floor.store(whole, Ordering::Relaxed);
        let mut follower = Follower::at(receipt.first);
        let mut seen = Vec::new();
        let polled = p.poll(&mut follower, 10, |delta| {
            seen.push((delta.lsn, delta.payload.to_vec()));
        });
        assert_eq!(polled, Ok(Polled::Deltas(group.len())));
        assert_eq!(seen[0].0, receipt.first);
        for (change, (_, payload)) in group.iter().zip(&seen) {
            let Change::Patch { bytes, .. } = change else {
                panic!("only patches were made");
            };
            assert_eq!(payload, bytes);
        }
    }
}

#[test]
fn what_stands_ahead_of_corrupt_bytes_in_a_group_is_delivered_once() {
    let (_tmp, p) = bus();
    let new = NewPage {
        size: 64,
        ..NewPage::default()
    };
    let page = p.core().pages.resolve(p.create_page(&new).unwrap());
    let page = page.unwrap();
    let mut follower = p.follow(true).unwrap();
    let patch = |offset| Change::Patch {
        page: &page,
        offset,
        bytes: &[7; 8],
    };
    let group = [patch(0), patch(8), patch(16)];
    let receipt = p.commit(&group, &Options::default()).unwrap();
    let ring = p.core().pages.ring();
    ring.slot(receipt.first + 1)
        .stamp
        .store(0, Ordering::Relaxed);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let polled = p.poll(&mut follower, 10, |d| seen.push(d.lsn));
        assert!(matches!(polled, Err(PageError::Corrupt(_))), "{polled:?}");
    }
    assert_eq!(seen, [receipt.first]);
}

#[test]
fn a_claim_of_nobody_is_corrupt_and_not_waited_for_for_ever() {
    let (_tmp, p) = bus();
    let mut follower = p.follow(true).unwrap();
    let ring = p.core().pages.ring();
    let at = follower.position();
    // Of the slot of this participant, but of another life.
    let stamp = Stamp::new(ring.lap(at), 1, p.me + (1 << 11), SlotState::Claimed);
    assert!(!stamp.is_by(p.me));
    ring.slot(at).stamp.store(stamp.0, Ordering::Relaxed);
    let begin = Instant::now();
    let error = loop {
        let soon = Instant::now() + Duration::from_secs(5);
        match p.wait(&mut follower, Some(soon)) {
            Ok(_) => assert!(begin.elapsed() < Duration::from_secs(5)),
            Err(e) => break e,
        }
    };
    assert!(matches!(error, PageError::Corrupt(_)), "{error:?}");
}
