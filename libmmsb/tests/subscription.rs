//! Subscriptions: filters, snapshots, gaps, waiting, descriptors.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::TestBus;
use mmsb::{
    Available, Event, From, Kind, OwnedDelta, PageId, PageSpec, Subscription, WaitStrategy,
};
use rustix::event::{PollFd, PollFlags, poll};

fn all_events(sub: &mut Subscription<'_>) -> Vec<Event> {
    std::iter::from_fn(|| sub.try_next().unwrap()).collect()
}

fn delta(event: &Event) -> &OwnedDelta {
    match event {
        Event::Delta(delta) => delta,
        other => panic!("{other:?}"),
    }
}

/// What kind of event, and about which page.
fn brief(events: &[Event]) -> Vec<(&'static str, Option<PageId>)> {
    events
        .iter()
        .map(|e| {
            let kind = match e {
                Event::Image(_) => "image",
                Event::Delta(_) => "delta",
                Event::Created(_) => "created",
                Event::Entered(_) => "entered",
                Event::Described(_) => "described",
                Event::Left(_) => "left",
                Event::Destroyed(_) => "destroyed",
                Event::Gap(_) => "gap",
                _ => "?",
            };
            (kind, e.page())
        })
        .collect()
}

#[test]
fn a_page_filter_hears_of_its_pages_only() {
    let t = TestBus::new();
    let pages: Vec<_> = (0..3)
        .map(|_| t.create_page(PageSpec::new(8)).unwrap())
        .collect();
    let mut sub = t
        .subscribe()
        .page(pages[0].id())
        .page(pages[2].id())
        .build()
        .unwrap();
    for page in &pages {
        page.patch(0, b"x").unwrap();
    }
    t.batch().mark(b"not for page filters").commit().unwrap();
    t.destroy(pages[0].id()).unwrap();
    t.destroy(pages[1].id()).unwrap();
    let (a, c) = (Some(pages[0].id()), Some(pages[2].id()));
    assert_eq!(
        brief(&all_events(&mut sub)),
        [("delta", a), ("delta", c), ("destroyed", a)]
    );
}

#[test]
fn a_prefix_filter_follows_creations_renames_and_destructions() {
    let t = TestBus::new();
    let inside = t.create_page(PageSpec::new(8).name("r/inside")).unwrap();
    let outside = t.create_page(PageSpec::new(8).name("outside")).unwrap();
    let unnamed = t.create_page(PageSpec::new(8)).unwrap();
    outside.patch(0, b"before").unwrap();
    let mut sub = t
        .subscribe()
        .prefix("r/")
        .from(From::Snapshot)
        .build()
        .unwrap();
    assert!(matches!(sub.next().unwrap(), Event::Image(image) if image.id == inside.id()));
    let made = t.create_page(PageSpec::new(8).name("r/made")).unwrap();
    let other = t.create_page(PageSpec::new(8).name("s/made")).unwrap();
    for page in [&inside, &outside, &unnamed, &made, &other] {
        page.patch(0, b"1").unwrap();
    }
    t.rename(outside.id(), "r/outside").unwrap();
    outside.patch(1, b"2").unwrap();
    t.rename(inside.id(), "gone elsewhere").unwrap();
    inside.patch(1, b"2").unwrap();
    t.rename(made.id(), "r/renamed").unwrap();
    t.destroy(made.id()).unwrap();
    t.destroy(inside.id()).unwrap();
    let (i, o, m) = (Some(inside.id()), Some(outside.id()), Some(made.id()));
    let events = all_events(&mut sub);
    assert_eq!(
        brief(&events),
        [
            ("created", m),
            ("delta", i),
            ("delta", m),
            ("entered", o),
            // Read when the rename was met: it holds the delta behind it too, which does not come again.
            ("image", o),
            ("left", i),
            // `r/renamed` is told by its end: the page was gone when the description was looked at.
            ("destroyed", m),
        ]
    );
    let Event::Image(image) = &events[4] else {
        panic!("{events:?}")
    };
    assert_eq!(&image.bytes[..6], b"12fore");
    t.rename(outside.id(), "r/again").unwrap();
    let events = all_events(&mut sub);
    let [Event::Described(info)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(info.cold.name, "r/again");
}

#[test]
fn a_page_that_ends_before_its_image_is_read_is_told_by_its_end_alone() {
    let t = TestBus::new();
    let (a, b) = (
        t.create_page(PageSpec::new(8)).unwrap(),
        t.create_page(PageSpec::new(8)).unwrap(),
    );
    let mut sub = t.subscribe().from(From::Snapshot).build().unwrap();
    a.patch(0, b"1").unwrap();
    b.patch(0, b"1").unwrap();
    t.destroy(a.id()).unwrap();
    b.patch(1, b"2").unwrap();
    let events = all_events(&mut sub);
    // Images are read when they are taken, so that of `b` holds both its deltas.
    assert_eq!(
        brief(&events),
        [("image", Some(b.id())), ("destroyed", Some(a.id()))]
    );
    assert!(sub.consistent_at().is_some());
}

/// A copy of all pages, kept from events alone.
#[derive(Default)]
struct Replica {
    pages: BTreeMap<PageId, Vec<u8>>,
    epochs: BTreeMap<PageId, u64>,
    images: u64,
    gaps: u64,
    last: u64,
}

impl Replica {
    fn take(&mut self, event: Event) {
        match event {
            Event::Image(image) => {
                self.images += 1;
                self.epochs.insert(image.id, image.version.epoch);
                self.pages.insert(image.id, image.bytes);
            }
            Event::Created(info) => {
                self.epochs.insert(info.id, info.epoch);
                self.pages.insert(info.id, vec![0; info.size as usize]);
            }
            Event::Delta(delta) => {
                assert!(delta.lsn > self.last, "in order, none twice");
                self.last = delta.lsn;
                delta.apply(self.pages.get_mut(&delta.page).unwrap());
                *self.epochs.get_mut(&delta.page).unwrap() += 1;
            }
            Event::Destroyed(id) => {
                self.pages.remove(&id);
                self.epochs.remove(&id);
            }
            Event::Gap(_) => self.gaps += 1,
            other => panic!("{other:?}"),
        }
    }
}

/// Writers at full speed, subscribers that start from a snapshot in the middle of it: in the end every replica is the
/// pages, and its epochs prove that no delta was missed or applied twice.
fn replicas_under_load(gating: bool) {
    let t = TestBus::small();
    let ids: Vec<PageId> = (0..6)
        .map(|i| {
            let spec = PageSpec::new(200).versions(if i % 3 == 2 { 4 } else { 1 });
            t.create_page(spec).unwrap().id()
        })
        .collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (images, gaps) = std::thread::scope(|s| {
        let writers: Vec<_> = (0..2usize)
            .map(|n| {
                let bus = t.another(&format!("writer {n}")).unwrap();
                let ids = &ids;
                s.spawn(move || {
                    for i in 0..3000usize {
                        let page = bus.page_by_id(ids[(i * 5 + n) % ids.len()]).unwrap();
                        let byte = [i as u8; 40];
                        match i % 4 {
                            0 => drop(page.patch(i % 160, &byte).unwrap()),
                            1 => drop(page.patch_many(&[(150, &byte), (i % 100, &byte)]).unwrap()),
                            2 if page.info().unwrap().versions == 1 => {
                                let mut loan = page.loan().unwrap();
                                loan.fill(i as u8);
                                loan.publish().unwrap();
                            }
                            _ => drop(page.update(|b| b[i % 200] ^= 1).unwrap()),
                        }
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|n| {
                let bus = t.another(&format!("reader {n}")).unwrap();
                let (ids, stop) = (&ids, &stop);
                s.spawn(move || {
                    let mut replica = Replica::default();
                    let mut sub = bus
                        .subscribe()
                        .from(From::Snapshot)
                        .gating(gating)
                        .build()
                        .unwrap();
                    loop {
                        let finished = stop.load(std::sync::atomic::Ordering::Acquire);
                        while let Some(event) = sub.next_timeout(Duration::from_millis(1)).unwrap()
                        {
                            if matches!(event, Event::Image(_)) && gating {
                                // The writers fill the ring meanwhile, and the next image holds what they did.
                                std::thread::sleep(Duration::from_millis(1));
                            }
                            replica.take(event);
                        }
                        if finished {
                            break;
                        }
                    }
                    if gating {
                        assert_eq!((replica.gaps, sub.missed()), (0, 0));
                    }
                    for id in ids {
                        let page = bus.page_by_id(*id).unwrap();
                        assert_eq!(replica.pages[id], page.to_vec().unwrap(), "page {id}");
                        assert_eq!(replica.epochs[id], page.version().unwrap().epoch);
                    }
                    assert!(sub.consistent_at().is_some());
                    assert_eq!(sub.stats().gaps, replica.gaps);
                    (replica.images, replica.gaps)
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Release);
        readers
            .into_iter()
            .map(|r| r.join().unwrap())
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    });
    assert!(images >= 12, "two snapshots of six pages");
    if gating {
        assert_eq!((images, gaps), (12, 0));
    }
}

#[test]
fn a_gating_replica_from_a_snapshot_under_load_is_exact() {
    replicas_under_load(true);
}

#[test]
fn a_lossy_replica_under_load_resyncs_to_the_same_state() {
    replicas_under_load(false);
}

#[test]
fn a_lossy_subscriber_is_told_of_its_gap_and_gets_images() {
    let t = TestBus::small();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    let doomed = t.create_page(PageSpec::new(8)).unwrap();
    let mut plain = t.subscribe().build().unwrap();
    let mut synced = t.subscribe().from(From::Snapshot).build().unwrap();
    assert_eq!(all_events(&mut synced).len(), 2);
    t.destroy(doomed.id()).unwrap();
    let fresh = t.create_page(PageSpec::new(8)).unwrap();
    for i in 0..500u64 {
        page.set(&i).unwrap();
    }
    let (p, d, f) = (Some(page.id()), Some(doomed.id()), Some(fresh.id()));
    let events = all_events(&mut synced);
    let Event::Gap(gap) = events[0] else {
        panic!("{events:?}")
    };
    assert!(gap.to > gap.from);
    assert_eq!(synced.missed(), gap.to - gap.from);
    // The index of the doomed page may serve the fresh one again, in either order of ids.
    let mut rest = brief(&events[1..]);
    rest.sort();
    assert_eq!(
        rest,
        [
            ("created", f),
            ("destroyed", d),
            ("image", p.min(f)),
            ("image", p.max(f))
        ]
    );
    // Without images, a subscriber to everything is told of the gap alone.
    assert_eq!(brief(&all_events(&mut plain)), [("gap", None)]);
    page.set(&7u64).unwrap();
    assert_eq!(brief(&all_events(&mut plain)), [("delta", p)]);
    assert_eq!(brief(&all_events(&mut synced)), [("delta", p)]);
}

#[test]
fn swaps_deliver_their_content_or_the_present_image() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(5000)).unwrap();
    let mut gating = t.subscribe().gating(true).build().unwrap();
    for i in 1..=20u8 {
        let mut loan = page.loan().unwrap();
        loan.fill(i);
        loan.publish().unwrap();
    }
    for (i, event) in (1..=20u8).zip(all_events(&mut gating)) {
        let delta = delta(&event);
        assert_eq!(delta.kind, Kind::Swap);
        assert_eq!(delta.ranges, [(0, vec![i; 5000])]);
    }
    drop(gating);
    let mut lossy = t.subscribe().build().unwrap();
    for i in 1..=100u8 {
        let mut loan = page.loan().unwrap();
        loan.fill(i);
        loan.publish().unwrap();
    }
    let mut copy = vec![0; 5000];
    let events = all_events(&mut lossy);
    for event in &events {
        match event {
            Event::Image(image) => copy.copy_from_slice(&image.bytes),
            Event::Delta(delta) => delta.apply(&mut copy),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(copy, vec![100; 5000]);
    assert!(lossy.stats().conflated > 0, "blocks were reused");
    assert!(events.len() < 100, "and the image stands for what it holds");
}

#[test]
fn transactions_and_marks_are_delivered_as_such() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    let mut sub = t.subscribe().build().unwrap();
    t.transaction(|tx| {
        tx.patch(&page, 0, b"a")?;
        tx.mark(b"between");
        tx.patch_many(&page, &[(1, b"b"), (4, b"c")])
    })
    .unwrap();
    let events = all_events(&mut sub);
    let deltas: Vec<_> = events.iter().map(delta).collect();
    assert_eq!(
        deltas.iter().map(|d| d.kind).collect::<Vec<_>>(),
        [Kind::Patch, Kind::Mark, Kind::Ranges]
    );
    assert!(deltas.iter().all(|d| d.transaction));
    assert_eq!(deltas[1].mark, b"between");
    assert_eq!(events[1].page(), None);
    assert_eq!(deltas[2].ranges, [(1, b"b".to_vec()), (4, b"c".to_vec())]);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64;
    assert!(now.abs_diff(deltas[0].time_ns) < 60_000_000_000);
}

#[test]
fn the_fast_path_keeps_the_order_among_events() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    let mut sub = t.subscribe().build().unwrap();
    let mut seen = Vec::new();
    page.patch(0, b"1").unwrap();
    page.patch(0, b"2").unwrap();
    let second = t.create_page(PageSpec::new(8)).unwrap();
    second.patch(0, b"3").unwrap();
    let mut take = |sub: &mut Subscription<'_>| {
        sub.for_each_available(|d| d.for_each_range(|_, b| seen.push(b[0])))
            .unwrap()
    };
    assert_eq!(take(&mut sub), Available::Deltas(2));
    assert_eq!(take(&mut sub), Available::Events);
    assert_eq!(
        brief(&all_events(&mut sub)),
        [("created", Some(second.id())), ("delta", Some(second.id()))]
    );
    assert_eq!(take(&mut sub), Available::Empty);
    second.patch(0, b"4").unwrap();
    assert!(sub.wait(Duration::from_secs(10)).unwrap());
    sub.for_each_available(|d| d.for_each_range(|_, b| seen.push(b[0])))
        .unwrap();
    assert_eq!(seen, b"124");
    assert!(!sub.wait(Duration::from_millis(5)).unwrap());
}

#[test]
fn a_group_at_a_time_is_no_more_than_a_group() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(2048)).unwrap();
    let other = t.create_page(PageSpec::new(8)).unwrap();
    let mut sub = t.subscribe().page(page.id()).build().unwrap();
    page.patch(0, b"1").unwrap();
    other.patch(0, b"x").unwrap();
    page.patch(0, &[b'2'; 2048]).unwrap();
    let mut batch = t.batch();
    batch.patch(&page, 0, b"3").patch(&page, 1, b"4");
    batch.commit().unwrap();
    let mut seen = Vec::new();
    let mut take = || {
        sub.for_each_in_group(|d| d.for_each_range(|at, b| seen.push((at, b.len(), b[0]))))
            .unwrap()
    };
    assert_eq!(take(), Available::Deltas(1));
    // What the filter does not cover is no group of this subscription.
    assert_eq!(take(), Available::Deltas(1));
    assert_eq!(take(), Available::Deltas(2));
    assert_eq!(take(), Available::Empty);
    assert_eq!(
        seen,
        [(0, 1, b'1'), (0, 2048, b'2'), (0, 1, b'3'), (1, 1, b'4')]
    );
}

#[test]
fn every_strategy_wakes_for_a_delta() {
    let t = TestBus::new();
    let id = t.create_page(PageSpec::new(8)).unwrap().id();
    for strategy in [
        WaitStrategy::Spin,
        WaitStrategy::SpinThenPark,
        WaitStrategy::Park,
    ] {
        let mut sub = t.subscribe().page(id).strategy(strategy).build().unwrap();
        assert_eq!(sub.next_timeout(Duration::from_millis(10)).unwrap(), None);
        let other = t.another("other").unwrap();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            other.page_by_id(id).unwrap().patch(0, b"x").unwrap()
        });
        let event = sub.next().unwrap();
        assert_eq!(delta(&event).lsn, writer.join().unwrap());
    }
}

#[test]
fn the_iterator_blocks_for_each_event() {
    let t = TestBus::new();
    let id = t.create_page(PageSpec::of::<u64>()).unwrap().id();
    let other = t.another("other").unwrap();
    let sub = t.subscribe().page(id).build().unwrap();
    let writer = std::thread::spawn(move || {
        let page = other.page_by_id(id).unwrap();
        for i in 0..50u64 {
            page.set(&i).unwrap();
        }
    });
    let values: Vec<u8> = sub
        .take(50)
        .map(|event| delta(&event.unwrap()).ranges[0].1[0])
        .collect();
    assert_eq!(values, (0..50).collect::<Vec<u8>>());
    writer.join().unwrap();
}

#[test]
fn an_idle_parked_subscriber_uses_no_cpu() {
    let t = TestBus::new();
    let mut sub = t.subscribe().strategy(WaitStrategy::Park).build().unwrap();
    let before = common::thread_cpu();
    assert_eq!(sub.next_timeout(Duration::from_secs(1)).unwrap(), None);
    let used = common::thread_cpu() - before;
    assert!(used < Duration::from_millis(50), "{used:?} in one second");
}

fn readable(sub: &mut Subscription<'_>, wait: Duration) -> bool {
    let fd = sub.pollable().unwrap();
    let timeout = rustix::time::Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(10);

#[test]
fn a_descriptor_is_readable_while_there_is_something_to_take() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    let mut late = t.subscribe().build().unwrap();
    page.patch(0, b"!").unwrap();
    assert!(
        readable(&mut late, NOW),
        "a delta was there before the descriptor"
    );
    let mut sub = t.subscribe().from(From::Snapshot).build().unwrap();
    assert!(readable(&mut sub, NOW), "the snapshot is due");
    assert_eq!(all_events(&mut sub).len(), 1);
    assert!(!readable(&mut sub, NOW));
    for round in 0..200 {
        page.patch(0, &[round]).unwrap();
        page.patch(1, &[round]).unwrap();
        assert!(readable(&mut sub, LONG), "round {round}");
        assert!(sub.try_next().unwrap().is_some());
        assert!(readable(&mut sub, NOW), "one is left");
        assert!(sub.try_next().unwrap().is_some());
        assert_eq!(sub.try_next().unwrap(), None);
        assert!(!readable(&mut sub, NOW), "round {round}");
    }
}

#[test]
fn one_helper_serves_subscriptions_to_several_buses() {
    let (a, b) = (TestBus::new(), TestBus::new());
    let (pa, pb) = (
        a.create_page(PageSpec::new(8)).unwrap(),
        b.create_page(PageSpec::new(8)).unwrap(),
    );
    let mut subs: Vec<_> = [&a, &a, &b]
        .into_iter()
        .map(|t| t.subscribe().build().unwrap())
        .collect();
    for sub in &mut subs {
        assert!(!readable(sub, NOW));
    }
    pb.patch(0, b"x").unwrap();
    assert!(readable(&mut subs[2], LONG) && !readable(&mut subs[0], NOW));
    pa.patch(0, b"x").unwrap();
    assert!(readable(&mut subs[0], LONG) && readable(&mut subs[1], LONG));
    let helpers = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter(|task| {
            let comm = task.as_ref().unwrap().path().join("comm");
            std::fs::read_to_string(comm).is_ok_and(|name| name.trim() == "mmsb-poll")
        })
        .count();
    assert_eq!(helpers, 1);
}

#[test]
fn no_wake_up_of_the_descriptor_is_lost_under_load() {
    let t = TestBus::new();
    let id = t.create_page(PageSpec::of::<u64>()).unwrap().id();
    let other = t.another("writer").unwrap();
    let mut sub = t.subscribe().page(id).gating(true).build().unwrap();
    const N: u64 = 3000;
    let writer = std::thread::spawn(move || {
        let page = other.page_by_id(id).unwrap();
        for i in 0..N {
            page.set(&i).unwrap();
            if i % 3 == 0 {
                std::thread::sleep(Duration::from_micros(i % 50));
            }
        }
    });
    let mut seen = 0;
    let begin = Instant::now();
    while seen < N {
        assert!(
            readable(&mut sub, LONG),
            "{seen} after {:?}",
            begin.elapsed()
        );
        while sub.try_next().unwrap().is_some() {
            seen += 1;
        }
    }
    writer.join().unwrap();
}

#[test]
fn an_observer_follows_and_is_told_of_gaps() {
    let t = TestBus::small();
    let page = t.create_page(PageSpec::new(8).name("o/p")).unwrap();
    let observer = t.builder().observe().unwrap();
    let mut all = observer.follow().unwrap();
    let mut prefix = observer.follow_prefix("o/").unwrap();
    let mut none = observer.follow_pages(&[]).unwrap();
    page.patch(0, b"x").unwrap();
    let made = t.create_page(PageSpec::new(8).name("o/made")).unwrap();
    made.patch(0, b"y").unwrap();
    for sub in [&mut all, &mut prefix] {
        assert_eq!(delta(&sub.next().unwrap()).ranges, [(0, b"x".to_vec())]);
        assert!(matches!(sub.next().unwrap(), Event::Created(_)));
        assert_eq!(delta(&sub.next().unwrap()).page, made.id());
        assert_eq!(sub.next_timeout(Duration::from_millis(5)).unwrap(), None);
    }
    assert_eq!(none.try_next().unwrap(), None);
    t.destroy(made.id()).unwrap();
    for i in 0..500u64 {
        page.set(&i).unwrap();
    }
    assert!(matches!(all.next().unwrap(), Event::Gap(_)));
    assert!(matches!(prefix.next().unwrap(), Event::Gap(_)));
    assert_eq!(prefix.next().unwrap(), Event::Destroyed(made.id()));
    assert!(prefix.missed() > 0);
    assert_eq!(
        observer.page("o/p").unwrap().read::<u64>().unwrap(),
        page.read::<u64>().unwrap()
    );
    assert_eq!(
        observer.snapshot(&[page.id()]).unwrap()[0].bytes,
        page.to_vec().unwrap()
    );
}

#[cfg(feature = "async")]
mod stream {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::Thread;

    use futures_core::Stream;

    use super::*;

    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn a_stream_yields_every_delta_without_a_runtime() {
        let t = TestBus::new();
        let id = t.create_page(PageSpec::of::<u64>()).unwrap().id();
        let other = t.another("writer").unwrap();
        let mut sub = t.subscribe().page(id).gating(true).build().unwrap();
        let writer = std::thread::spawn(move || {
            let page = other.page_by_id(id).unwrap();
            for i in 0..1000u64 {
                page.set(&i).unwrap();
                if i % 10 == 0 {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        });
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        let mut pending = 0;
        for i in 0..1000u64 {
            let event = loop {
                match Pin::new(&mut sub).poll_next(&mut cx) {
                    Poll::Ready(Some(event)) => break event.unwrap(),
                    Poll::Ready(None) => panic!("it never ends"),
                    Poll::Pending => {
                        pending += 1;
                        let begin = Instant::now();
                        std::thread::park_timeout(LONG);
                        assert!(begin.elapsed() < LONG, "a lost wake-up at {i}");
                    }
                }
            };
            assert_eq!(delta(&event).ranges[0].1, i.to_le_bytes());
        }
        assert!(pending > 0);
        writer.join().unwrap();
    }
}
