//! The public API, one operation after the other.

mod common;

use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use common::TestBus;
use mmsb::schema::{Scalar, Schema, Value};
use mmsb::{Bus, Error, PageError, PageSpec};

#[test]
fn a_bus_is_created_attached_observed_listed_and_unlinked() {
    let t = TestBus::new();
    assert_eq!(Bus::list_in(t.dir()).unwrap(), ["t"]);
    let second = t.builder().source("second").attach().unwrap();
    let third = t.builder().open_or_create().unwrap();
    let observer = t.builder().observe().unwrap();
    for info in [
        t.info().unwrap(),
        second.info().unwrap(),
        third.info().unwrap(),
    ] {
        assert_eq!(info, t.info().unwrap());
    }
    let (info, seen) = (t.info().unwrap(), observer.info().unwrap());
    assert_eq!((&info.id, info.len_bytes), (&seen.id, seen.len_bytes));
    assert_eq!((info.mode, info.ctl_mode), (0o600, 0o600));
    assert_eq!(
        (info.ring_bytes, info.pages_max, info.participants_max),
        (1 << 16, 256, 128)
    );
    assert_eq!(seen.participants_max, 0, "an observer cannot know");
    assert!(info.pages_blocks_bytes >= info.ring_bytes);
    second
        .create_page(PageSpec::new(8).name("left behind"))
        .unwrap();
    second.detach();
    assert!(t.page("left behind").is_ok(), "pages outlive their makers");
    Bus::unlink_in(t.dir(), "t").unwrap();
    assert!(!t.is_named());
    assert!(t.page("left behind").is_ok(), "who is attached goes on");
    assert!(t.builder().attach().unwrap_err().is_missing());
    let again = t.builder().open_or_create().unwrap();
    assert_ne!(again.info().unwrap().id, info.id);
}

#[test]
fn pages_are_described_found_renamed_and_destroyed() {
    let t = TestBus::new();
    let schema = Schema::parse("quote{price:f64,qty:u32}").unwrap();
    let page = t
        .create_page(
            PageSpec::with_schema(&schema)
                .name("nyse/ibm")
                .meta("unit", "USD"),
        )
        .unwrap();
    let id = page.id();
    assert_eq!(page.size(), 16);
    assert_eq!(page.name().unwrap(), "nyse/ibm");
    assert_eq!(page.schema().unwrap(), Some(schema.clone()));
    page.expect_schema(&schema).unwrap();
    let info = page.info().unwrap();
    assert_eq!(info.cold.meta, [("unit".to_owned(), "USD".to_owned())]);
    let unnamed = t.create_page(PageSpec::new(1)).unwrap();
    let names = |prefix: &str| -> Vec<String> {
        t.pages(prefix)
            .unwrap()
            .into_iter()
            .map(|i| i.cold.name)
            .collect()
    };
    assert_eq!(names(""), ["nyse/ibm"]);
    assert_eq!(names("nasdaq/"), [""; 0]);
    assert_eq!(t.all_pages().unwrap().len(), 2);
    t.rename(id, "nasdaq/ibm").unwrap();
    assert!(t.page("nyse/ibm").unwrap_err().is_missing());
    assert_eq!(t.page("nasdaq/ibm").unwrap().id(), id);
    assert_eq!(names("nasdaq/"), ["nasdaq/ibm"]);
    t.set_meta(id, &[("unit", "EUR"), ("desk", "7")]).unwrap();
    t.set_meta(id, &[("desk", "")]).unwrap();
    assert_eq!(
        t.page_info(id).unwrap().cold.meta,
        [("unit".to_owned(), "EUR".to_owned())]
    );
    let other = Schema::array(Scalar::U8, 16).unwrap();
    t.set_schema(id, &other).unwrap();
    page.expect_schema(&other).unwrap();
    t.destroy(id).unwrap();
    t.destroy(unnamed.id()).unwrap();
    assert!(page.to_vec().unwrap_err().is_page_gone());
    assert_eq!(t.all_pages().unwrap(), []);
}

#[test]
fn open_or_create_page_finds_what_is_there_and_refuses_what_differs() {
    let t = TestBus::new();
    let schema = Schema::parse("a:u64").unwrap();
    let spec = || PageSpec::with_schema(&schema).name("p");
    let id = t.open_or_create_page(spec()).unwrap().id();
    assert_eq!(t.open_or_create_page(spec()).unwrap().id(), id);
    assert!(matches!(
        t.open_or_create_page(PageSpec::new(9).name("p")),
        Err(Error::Page(PageError::WrongSize {
            wanted: 9,
            size: 8,
            ..
        }))
    ));
    let other = Schema::parse("b:u64").unwrap();
    assert!(matches!(
        t.open_or_create_page(PageSpec::with_schema(&other).name("p")),
        Err(Error::Page(PageError::WrongSchema { expected, found, .. }))
            if expected == other.hash() && found == schema.hash()
    ));
    assert!(t.open_or_create_page(PageSpec::new(1)).is_err());
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Big {
    words: [u64; 64],
}

#[test]
fn typed_values_of_any_size_are_set_and_read() {
    let t = TestBus::new();
    let observer = t.builder().observe().unwrap();
    let small = t.create_page(PageSpec::of::<[f32; 3]>()).unwrap();
    small.set(&[1.0f32, 2.0, 3.0]).unwrap();
    assert_eq!(small.read::<[f32; 3]>().unwrap(), [1.0, 2.0, 3.0]);
    let big = t.create_page(PageSpec::of::<Big>().versions(4)).unwrap();
    let value = Big { words: [7; 64] };
    let lsn = big.set(&value).unwrap();
    let (read, version) = big.read_versioned::<Big>().unwrap();
    assert_eq!((read, version.epoch, version.lsn), (value, 1, lsn));
    let seen = observer.page_by_id(big.id()).unwrap();
    assert_eq!(seen.read_versioned::<Big>().unwrap(), (value, version));
    big.update_as(|v: &mut Big| v.words[3] += 1).unwrap();
    assert_eq!(seen.read::<Big>().unwrap().words[3], 8);
}

#[test]
fn fields_are_read_and_written_by_name() {
    let t = TestBus::new();
    let schema = Schema::parse("price:f64,bids:f64[4],host:char[8]").unwrap();
    let page = t
        .create_page(PageSpec::with_schema(&schema).name("q"))
        .unwrap();
    page.field("price").unwrap().set_text("101.5").unwrap();
    page.field("bids")
        .unwrap()
        .set_text("[1, 2, 3, 4]")
        .unwrap();
    page.field("bids[2]").unwrap().set_text("9").unwrap();
    let lsn = page.field("host").unwrap().set_text("ams1").unwrap();
    assert_eq!(page.version().unwrap().lsn, lsn);
    let observer = t.builder().observe().unwrap();
    let seen = observer.page("q").unwrap();
    for (path, value) in [
        ("price", Value::F64(101.5)),
        ("bids[2]", Value::F64(9.0)),
        ("host", Value::Text("ams1".into())),
    ] {
        assert_eq!(page.field(path).unwrap().get().unwrap(), value);
        assert_eq!(seen.field(path).unwrap(), value);
    }
    assert!(matches!(
        page.field("ask"),
        Err(Error::NoSuchField { field, .. }) if field == "ask"
    ));
    assert!(page.field("price").unwrap().set_text("cheap").is_err());
    let plain = t.create_page(PageSpec::new(8)).unwrap();
    assert!(matches!(plain.field("x"), Err(Error::NoSchema(_))));
}

#[test]
fn an_unchanged_page_is_not_copied_again() {
    let t = TestBus::new();
    for versions in [1, 4] {
        let page = t.create_page(PageSpec::new(8).versions(versions)).unwrap();
        let mut copy = [0; 8];
        let known = page.read_into(&mut copy).unwrap();
        assert_eq!(page.read_if_newer(known, &mut copy).unwrap(), None);
        page.patch(0, b"new").unwrap();
        let now = page.read_if_newer(known, &mut copy).unwrap().unwrap();
        assert_eq!((now.epoch, &copy[..3]), (1, &b"new"[..]));
        assert_eq!(page.read_if_newer(now, &mut copy).unwrap(), None);
    }
}

#[test]
fn read_after_waits_for_the_delta_of_another_thread() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    let (id, mut copy) = (page.id(), [0; 8]);
    let other = t.another("other").unwrap();
    let next = t.end_lsn();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        other.page_by_id(id).unwrap().patch(0, b"x").unwrap()
    });
    // The source record of `other` may lie ahead of it, so the LSN is at least `next`.
    let version = page
        .read_after(next, &mut copy, Duration::from_secs(20))
        .unwrap();
    assert_eq!(version.lsn, writer.join().unwrap());
    assert_eq!(copy[0], b'x');
    let error = page
        .read_after(t.end_lsn() + 100, &mut copy, Duration::from_millis(20))
        .unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

#[test]
fn causes_are_carried_by_every_kind_of_write() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(64)).unwrap();
    let mut all = t.subscribe().build().unwrap();
    let cause = page.patch(0, b"first").unwrap();
    let effect = page.caused_by(cause);
    effect.patch(0, b"a").unwrap();
    effect.patch_many(&[(9, b"b"), (3, b"c")]).unwrap();
    effect.write_masked(0, &[1], b"d").unwrap();
    effect.set(&[1u8; 64]).unwrap();
    effect.update(|b| b[9] = 0).unwrap();
    page.loan().unwrap().publish_caused(cause).unwrap();
    t.batch()
        .patch(&page, 0, b"e")
        .cause(cause)
        .commit()
        .unwrap();
    t.transaction(|tx| {
        tx.cause(cause);
        tx.patch(&page, 0, b"f")
    })
    .unwrap();
    let mut causes = Vec::new();
    while let Some(event) = all.try_next().unwrap() {
        let mmsb::Event::Delta(delta) = event else {
            panic!("{event:?}")
        };
        assert_eq!(t.source_name(delta.source).as_deref(), Some("test"));
        causes.push(delta.cause);
    }
    assert_eq!(
        causes,
        [0].into_iter().chain([cause; 8]).collect::<Vec<_>>()
    );
}

#[test]
fn a_view_stays_as_it_is_while_the_page_moves_on() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(4096)).unwrap();
    let mut loan = page.loan().unwrap();
    loan.fill(1);
    loan.publish().unwrap();
    let view = page.view().unwrap();
    for i in 2..50 {
        let mut loan = page.loan().unwrap();
        loan.fill(i);
        loan.publish().unwrap();
    }
    page.patch(0, b"patched").unwrap();
    assert!(view.iter().all(|b| *b == 1));
    assert_eq!(view.values::<u64>().unwrap().len(), 512);
    assert_eq!(view.version().epoch, 1);
    assert_eq!(page.version().unwrap().epoch, 50);
    assert!(matches!(
        page.view(),
        Err(Error::Page(PageError::NotLoaned(_)))
    ));
}

#[test]
fn a_lease_is_written_through_the_page() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::of::<u64>()).unwrap();
    let lease = page.lease().unwrap();
    for i in 0..100u64 {
        page.set(&i).unwrap();
    }
    drop(lease);
    assert_eq!(page.read::<u64>().unwrap(), 99);
}

#[test]
fn transactions_of_many_threads_lose_no_money() {
    let t = TestBus::new();
    const ACCOUNTS: usize = 4;
    let ids: Vec<_> = (0..ACCOUNTS)
        .map(|_| {
            let page = t.create_page(PageSpec::of::<i64>()).unwrap();
            page.set(&1000i64).unwrap();
            page.id()
        })
        .collect();
    let auditor = t.another("auditor").unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let tellers: Vec<_> = (0..3)
            .map(|n| {
                let bus = t.another(&format!("teller {n}")).unwrap();
                let ids = &ids;
                s.spawn(move || {
                    let pages: Vec<_> = ids.iter().map(|id| bus.page_by_id(*id).unwrap()).collect();
                    for i in 0..400usize {
                        let (from, to) = ((i * 7 + n) % ACCOUNTS, (i * 3 + n + 1) % ACCOUNTS);
                        if from == to {
                            continue;
                        }
                        bus.transaction(|tx| {
                            let a = tx.read::<i64>(&pages[from])?;
                            let b = tx.read::<i64>(&pages[to])?;
                            // The others get in between, so that reads do go stale.
                            std::thread::yield_now();
                            tx.set(&pages[from], &(a - 1))?;
                            tx.set(&pages[to], &(b + 1))
                        })
                        .unwrap();
                    }
                })
            })
            .collect();
        let audit = s.spawn(|| {
            let bus = auditor;
            let mut cuts = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || cuts == 0 {
                let sum: i64 = bus
                    .snapshot(&ids)
                    .unwrap()
                    .iter()
                    .map(|image| bytemuck::pod_read_unaligned::<i64>(&image.bytes))
                    .sum();
                assert_eq!(
                    sum,
                    1000 * ACCOUNTS as i64,
                    "a cut holds whole transactions"
                );
                cuts += 1;
            }
        });
        for teller in tellers {
            teller.join().unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        audit.join().unwrap();
    });
    let moved: u64 = ids
        .iter()
        .map(|id| t.page_by_id(*id).unwrap().version().unwrap().epoch)
        .sum();
    // Every transfer is two deltas, exactly once each, plus the first setting.
    let transfers: u64 = (0..3usize)
        .map(|n| {
            (0..400usize)
                .filter(|i| (i * 7 + n) % ACCOUNTS != (i * 3 + n + 1) % ACCOUNTS)
                .count() as u64
        })
        .sum();
    assert_eq!(moved, 2 * transfers + ACCOUNTS as u64);
}

#[test]
fn a_transaction_that_read_a_changed_page_runs_again() {
    let t = TestBus::new();
    let (a, b) = (
        t.create_page(PageSpec::of::<u64>()).unwrap(),
        t.create_page(PageSpec::of::<u64>()).unwrap(),
    );
    let other = t.another("other").unwrap();
    let theirs = other.page_by_id(a.id()).unwrap();
    let mut runs = 0;
    let (seen, _) = t
        .transaction(|tx| {
            runs += 1;
            let first = tx.read::<u64>(&a)?;
            if runs == 1 {
                theirs.set(&41u64).unwrap();
            }
            if runs == 2 {
                theirs.set(&42u64).unwrap();
                // Now already the second read tells.
                assert!(matches!(tx.read::<u64>(&a), Err(Error::Conflict(_))));
            }
            tx.set(&b, &first)?;
            Ok(first)
        })
        .unwrap();
    assert_eq!((runs, seen, b.read::<u64>().unwrap()), (3, 42, 42));
    assert_eq!(b.version().unwrap().epoch, 1);
    // One that writes without reading has nothing that could change under it.
    let mut runs = 0;
    t.transaction(|tx| {
        runs += 1;
        theirs.set(&1u64).unwrap();
        tx.set(&b, &1u64)
    })
    .unwrap();
    assert_eq!(runs, 1);
}

#[test]
fn a_read_only_transaction_is_consistent_and_commits_nothing() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::of::<u64>()).unwrap();
    let end = t.end_lsn();
    let (value, receipt) = t.transaction(|tx| tx.read::<u64>(&page)).unwrap();
    assert_eq!((value, receipt.last, t.end_lsn()), (0, 0, end));
    assert_eq!(page.version().unwrap().epoch, 0);
}

#[test]
fn a_transaction_stages_every_kind_of_write() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(12)).unwrap();
    let (n, receipt) = t
        .transaction(|tx| {
            tx.write(&page, &[b'.'; 12])?;
            tx.patch_many(&page, &[(10, b"yz"), (0, b"ab")])?;
            tx.write_masked(&page, 4, &[1, 0, 1, 0], b"1234")?;
            tx.update(&page, |bytes| bytes[8] = b'!')?;
            tx.mark(b"here");
            let mut middle = [0; 4];
            tx.read_range(&page, 4, &mut middle)?;
            assert_eq!(&middle, b"1.3.");
            assert_eq!(page.to_vec().unwrap(), [0; 12], "nobody sees it yet");
            Ok(tx.len())
        })
        .unwrap();
    assert_eq!(n, 5);
    assert_eq!(page.to_vec().unwrap(), b"ab..1.3.!.yz");
    assert_eq!(page.version().unwrap().epoch, 4);
    assert!(receipt.last > receipt.first);
}

#[test]
fn a_cut_waits_for_what_it_shall_hold() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(4)).unwrap();
    let lsn = page.patch(0, b"here").unwrap();
    let second = Duration::from_secs(1);
    let cut = t.cut_at(lsn, &[page.id()], second).unwrap();
    assert_eq!((cut[0].version.lsn, &cut[0].bytes[..]), (lsn, &b"here"[..]));
    assert!(t.applied_lsn().unwrap() > lsn && t.published_lsn().unwrap() > lsn);
    let error = t
        .cut_at(t.end_lsn(), &[page.id()], Duration::from_millis(20))
        .unwrap_err();
    assert!(error.is_timeout(), "{error}");
}

#[test]
fn a_newcomer_goes_through_all_pages_there_are() {
    let t = TestBus::new();
    let mut wanted = Vec::new();
    for n in 0..200u8 {
        // Larger than what is asked for ahead of time, cells and blocks among them, more than one word of numbers.
        let bytes = 1 + usize::from(n) * 7;
        let mut spec = PageSpec::new(bytes as u64);
        if n % 3 == 0 {
            spec = spec.versions(4);
        }
        let page = t.create_page(spec).unwrap();
        if n % 5 == 0 && n % 3 != 0 {
            let mut loan = page.loan().unwrap();
            loan.fill(n);
            loan.publish().unwrap();
        } else {
            page.write(&vec![n; bytes]).unwrap();
        }
        wanted.push((page.id(), page.version().unwrap(), vec![n; bytes]));
    }
    for n in (0..200).rev().step_by(4) {
        t.destroy(wanted.remove(n).0).unwrap();
    }
    wanted.sort_by_key(|(id, ..)| id.index);
    let (mut seen, mut observed) = (Vec::new(), Vec::new());
    t.for_each_page(|id, version, bytes| {
        seen.push((id, version, bytes.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, wanted);
    let observer = t.builder().observe().unwrap();
    observer
        .for_each_page(|id, version, bytes| {
            observed.push((id, version, bytes.to_vec()));
            Ok(())
        })
        .unwrap();
    assert_eq!(observed, wanted);
    // What the caller says ends it.
    let mut calls = 0;
    let ended = observer.for_each_page(|id, _, _| {
        calls += 1;
        Err(PageError::PageGone(id).into())
    });
    assert!(matches!(ended, Err(Error::Page(PageError::PageGone(_)))));
    assert_eq!(calls, 1);
}

#[test]
fn stats_count_what_happened() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(100).name("p")).unwrap();
    let before = t.stats().unwrap();
    let sub = t.subscribe().gating(true).build().unwrap();
    for _ in 0..10 {
        page.patch(0, b"0123456789").unwrap();
    }
    let stats = t.stats().unwrap();
    assert_eq!((stats.pages, stats.names, stats.sources), (1, 1, 1));
    assert_eq!(stats.deltas - before.deltas, 10);
    assert_eq!(stats.bytes - before.bytes, 100);
    assert_eq!(stats.counter("joins"), 1);
    assert_eq!(stats.cursors.len(), 1);
    assert!(stats.cursors[0].gating && stats.cursors[0].lag == 10);
    assert_eq!(stats.participants.len(), 1);
    assert_eq!(stats.participants[0].pid, std::process::id());
    assert!(stats.participants[0].alive);
    let blocks: u64 = stats.classes.iter().map(|c| c.blocks - c.free).sum();
    assert_eq!(blocks, 2, "a page and its name");
    drop(sub);
    assert_eq!(t.stats().unwrap().cursors, []);
}

#[test]
fn a_batch_can_be_used_again_and_keeps_nothing() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    let mut batch = t.batch();
    assert!(batch.is_empty());
    assert_eq!(batch.commit().unwrap(), mmsb::Receipt::default());
    batch
        .patch(&page, 0, b"a")
        .write_masked(&page, 1, &[1], b"b");
    assert_eq!(batch.len(), 2);
    batch.commit().unwrap();
    batch
        .patch_many(&page, &[(5, b"d"), (2, b"c")])
        .commit()
        .unwrap();
    assert_eq!(page.to_vec().unwrap(), b"abc\0\0d\0\0");
    assert_eq!(page.version().unwrap().epoch, 3);
}
