//! Bad input and full tables: a typed error each time, nothing changed, and all goes on.

mod common;

use std::time::Duration;

use common::TestBus;
use mmsb::schema::Schema;
use mmsb::{AttachError, Bus, BusFull, Error, OnFull, PageError, PageId, PageSpec};

/// The page is as it was, and works.
fn unchanged(page: &mmsb::Page<'_>, bytes: &[u8], epoch: u64) {
    assert_eq!(page.to_vec().unwrap(), bytes);
    assert_eq!(page.version().unwrap().epoch, epoch);
}

macro_rules! refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        match $result {
            Err($pattern) $(if $guard)? => {}
            other => panic!("expected {}, got {other:?}", stringify!($pattern)),
        }
    };
}

#[test]
fn bad_bus_names_are_refused_everywhere() {
    let t = TestBus::new();
    let long = "x".repeat(101);
    for name in ["", ".hidden", "a/b", "../up", "a b", "a\0b", "ü", &long] {
        let builder = || Bus::builder(name).dir(t.dir());
        refused!(
            builder().create(),
            Error::Attach(AttachError::BadName { .. })
        );
        refused!(
            builder().attach(),
            Error::Attach(AttachError::BadName { .. })
        );
        refused!(
            builder().open_or_create(),
            Error::Attach(AttachError::BadName { .. })
        );
        refused!(
            builder().observe(),
            Error::Attach(AttachError::BadName { .. })
        );
        refused!(
            Bus::unlink_in(t.dir(), name),
            Error::Attach(AttachError::BadName { .. })
        );
    }
    let longest = "x".repeat(100);
    Bus::builder(&longest).dir(t.dir()).create().unwrap();
}

#[test]
fn a_bus_that_exists_or_does_not_is_told() {
    let t = TestBus::new();
    let error = t.builder().create().unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert!(
        matches!(&error, Error::Attach(AttachError::Exists { name, .. }) if name == "t"),
        "{error}"
    );
    for error in [
        Bus::builder("u").dir(t.dir()).attach().unwrap_err(),
        Bus::builder("u").dir(t.dir()).observe().unwrap_err(),
        Bus::unlink_in(t.dir(), "u").unwrap_err(),
    ] {
        assert!(error.is_missing(), "{error}");
    }
    assert!(Bus::builder("u").dir("/no/such/dir").create().is_err());
    refused!(Bus::list_in("/no/such/dir"), Error::Io { .. });
}

#[test]
fn bad_configurations_are_refused() {
    let t = TestBus::new();
    let b = || Bus::builder("u").dir(t.dir());
    for builder in [
        b().ring_bytes(0),
        b().ring_bytes(4095),
        b().ring_bytes(u64::MAX),
        b().pages_max(0),
        b().pages_max(u32::MAX),
        b().names_max(u32::MAX),
        b().participants_max(0),
        b().participants_max(1023),
        b().cursors_max(u32::MAX),
        b().sources_max(0),
        b().bytes_max(0),
        b().bytes_max(u64::MAX / 2),
        b().mode(0o777),
        b().mode(0o200),
        b().ctl_mode(0o606),
    ] {
        let text = format!("{builder:?}");
        let result = builder.create();
        assert!(
            matches!(result, Err(Error::Attach(AttachError::BadConfig(_)))),
            "{text}: {result:?}"
        );
    }
    assert_eq!(
        Bus::list_in(t.dir()).unwrap(),
        ["t"],
        "nothing is left behind"
    );
}

#[test]
fn files_that_are_no_bus_are_refused() {
    let t = TestBus::new();
    let path = |suffix: &str| t.dir().join(format!("mmsb.u.{suffix}"));
    for content in [vec![], vec![0; 100], vec![0; 8192], vec![0xff; 1 << 16]] {
        for suffix in ["pages", "ctl"] {
            std::fs::write(path(suffix), &content).unwrap();
        }
        let b = || Bus::builder("u").dir(t.dir());
        let error = b().attach().unwrap_err();
        assert!(
            matches!(
                error,
                Error::Attach(AttachError::Truncated { .. } | AttachError::WrongMagic { .. })
            ),
            "{error}"
        );
        assert!(b().observe().is_err() && b().create().unwrap_err().is_exists());
        Bus::unlink_in(t.dir(), "u").unwrap();
    }
}

#[test]
fn bad_page_names_are_refused() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8).name("good")).unwrap();
    let long = "x".repeat(256);
    for name in ["a\nb", "a\0b", &long] {
        refused!(
            t.create_page(PageSpec::new(8).name(name)),
            Error::Page(PageError::BadName { .. })
        );
        refused!(t.page(name), Error::Page(PageError::BadName { .. }));
        refused!(
            t.rename(page.id(), name),
            Error::Page(PageError::BadName { .. })
        );
    }
    refused!(
        t.create_page(PageSpec::new(8).name("good")),
        Error::Page(PageError::NameTaken(_))
    );
    let longest = "ü".repeat(127);
    t.create_page(PageSpec::new(8).name(&longest)).unwrap();
    assert_eq!(t.page(&longest).unwrap().name().unwrap(), longest);
    refused!(
        t.create_page(PageSpec::new(8).meta("k", &"v".repeat(70_000))),
        Error::Page(PageError::TooLong { .. })
    );
    assert_eq!(page.name().unwrap(), "good");
    assert_eq!(t.all_pages().unwrap().len(), 2);
}

#[test]
fn impossible_pages_are_refused() {
    let t = TestBus::new();
    for size in [0, (1 << 30) + 1, u64::MAX] {
        refused!(
            t.create_page(PageSpec::new(size)),
            Error::Page(PageError::BadSize { bytes }) if bytes == size
        );
    }
    for versions in [2, 3, 65, u32::MAX] {
        assert!(t.create_page(PageSpec::new(8).versions(versions)).is_err());
    }
    // 64 versions of 512 MiB are more than a block can be.
    refused!(
        t.create_page(PageSpec::new(1 << 29).versions(64)),
        Error::Page(PageError::BadSize { .. })
    );
    assert_eq!(t.all_pages().unwrap(), []);
}

#[test]
fn a_page_that_is_gone_stays_gone() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8).name("p")).unwrap();
    let id = page.id();
    let next = PageId {
        generation: id.generation + 1,
        ..id
    };
    let nowhere = PageId {
        index: u32::MAX,
        generation: 1,
    };
    for wrong in [next, nowhere] {
        refused!(t.page_by_id(wrong), Error::Page(PageError::PageGone(i)) if i == wrong);
        assert!(t.destroy(wrong).unwrap_err().is_page_gone());
        assert!(t.rename(wrong, "q").unwrap_err().is_page_gone());
        assert!(t.snapshot(&[id, wrong]).unwrap_err().is_page_gone());
        assert!(
            t.subscribe()
                .page(wrong)
                .build()
                .unwrap_err()
                .is_page_gone()
        );
    }
    t.destroy(id).unwrap();
    // The index may come back, the generation does not.
    for _ in 0..600 {
        let again = t.create_page(PageSpec::new(8)).unwrap();
        assert_ne!(again.id(), id);
        assert!(page.patch(0, b"x").unwrap_err().is_page_gone());
        assert!(page.to_vec().unwrap_err().is_page_gone());
        t.destroy(again.id()).unwrap();
    }
    assert!(page.loan().unwrap_err().is_page_gone());
    assert!(page.update(|b| b[0] = 1).unwrap_err().is_page_gone());
    assert!(page.patch_many(&[(0, b"x")]).unwrap_err().is_page_gone());
    assert!(
        t.batch()
            .patch(&page, 0, b"x")
            .commit()
            .unwrap_err()
            .is_page_gone()
    );
    assert!(
        t.transaction(|tx| tx.patch(&page, 0, b"x"))
            .unwrap_err()
            .is_page_gone()
    );
    assert!(t.destroy(id).unwrap_err().is_page_gone());
}

#[test]
fn ranges_outside_the_page_change_nothing() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    for (at, len) in [
        (8, 1),
        (0, 9),
        (9, 0),
        (usize::MAX, 1),
        (u32::MAX as usize, 2),
        (1 << 33, 1),
    ] {
        let bytes = vec![1; len];
        let mut dst = vec![0; len];
        refused!(
            page.patch(at, &bytes),
            Error::Page(PageError::OutOfRange { .. })
        );
        refused!(
            page.read_range(at, &mut dst),
            Error::Page(PageError::OutOfRange { .. })
        );
        refused!(
            page.patch_many(&[(0, b"a"), (at, &bytes)]),
            Error::Page(PageError::OutOfRange { .. } | PageError::Overlap { .. })
        );
        refused!(
            page.write_masked(at, &bytes, &bytes),
            Error::Page(PageError::OutOfRange { .. })
        );
        refused!(
            page.caused_by(1).patch(at, &bytes),
            Error::Page(PageError::OutOfRange { .. })
        );
        refused!(
            t.batch()
                .patch(&page, 0, b"a")
                .patch(&page, at, &bytes)
                .commit(),
            Error::Page(PageError::OutOfRange { .. })
        );
        refused!(
            t.transaction(|tx| {
                tx.patch(&page, 0, b"a")?;
                tx.patch(&page, at, &bytes)
            }),
            Error::Page(PageError::OutOfRange { .. })
        );
    }
    unchanged(&page, &[0; 8], 0);
    page.patch(8, &[]).unwrap();
    page.patch(7, b"x").unwrap();
}

#[test]
fn overlapping_ranges_change_nothing() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    let ranges: &[(usize, &[u8])] = &[(4, b"cd"), (0, b"ab"), (1, b"x")];
    refused!(
        page.patch_many(ranges),
        Error::Page(PageError::Overlap {
            index: 1,
            offset: 1
        })
    );
    refused!(
        t.batch().patch_many(&page, ranges).commit(),
        Error::Page(PageError::Overlap { .. })
    );
    refused!(
        t.transaction(|tx| tx.patch_many(&page, ranges)),
        Error::Page(PageError::Overlap { .. })
    );
    unchanged(&page, &[0; 8], 0);
    // Touching and empty ranges overlap nothing.
    page.patch_many(&[(0, b"ab"), (2, b"c"), (2, b"")]).unwrap();
    unchanged(&page, b"abc\0\0\0\0\0", 1);
}

#[test]
fn a_mask_of_another_length_changes_nothing() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    for mask in [&b"1"[..], b"123"] {
        refused!(
            page.write_masked(0, mask, b"ab"),
            Error::Page(PageError::MaskLength { mask: m, payload: 2 }) if m == mask.len()
        );
        refused!(
            t.transaction(|tx| tx.write_masked(&page, 0, mask, b"ab")),
            Error::Page(PageError::MaskLength { .. })
        );
        refused!(
            t.batch().write_masked(&page, 0, mask, b"ab").commit(),
            Error::Page(PageError::MaskLength { .. })
        );
    }
    unchanged(&page, &[0; 8], 0);
}

#[test]
fn types_and_buffers_of_another_size_are_refused() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8).name("p")).unwrap();
    let observer = t.builder().observe().unwrap();
    let seen = observer.page("p").unwrap();
    let mut nine = [0; 9];
    refused!(
        page.read::<u32>(),
        Error::Page(PageError::WrongSize {
            wanted: 4,
            size: 8,
            ..
        })
    );
    refused!(
        page.read::<[u64; 64]>(),
        Error::Page(PageError::WrongSize { .. })
    );
    refused!(page.set(&1u32), Error::Page(PageError::WrongSize { .. }));
    refused!(page.write(&nine), Error::Page(PageError::WrongSize { .. }));
    refused!(
        page.read_into(&mut nine),
        Error::Page(PageError::WrongSize { .. })
    );
    refused!(
        page.read_if_newer(Default::default(), &mut nine),
        Error::Page(PageError::WrongSize { .. })
    );
    refused!(
        page.read_after(0, &mut nine, Duration::ZERO),
        Error::Page(PageError::WrongSize { .. })
    );
    refused!(
        page.update_as(|_: &mut u32| ()),
        Error::Page(PageError::WrongSize { .. })
    );
    refused!(seen.read::<u32>(), Error::Page(PageError::WrongSize { .. }));
    refused!(
        seen.read_into(&mut nine),
        Error::Page(PageError::WrongSize { .. })
    );
    refused!(
        t.transaction(|tx| tx.set(&page, &1u32)),
        Error::Page(PageError::WrongSize { .. })
    );
    refused!(
        t.transaction(|tx| tx.read::<u32>(&page)),
        Error::Page(PageError::WrongSize { .. })
    );
    unchanged(&page, &[0; 8], 0);
}

#[test]
fn a_page_of_another_schema_is_refused() {
    let t = TestBus::new();
    let (a, b) = (
        Schema::parse("a:u64").unwrap(),
        Schema::parse("b:u64").unwrap(),
    );
    let page = t.create_page(PageSpec::with_schema(&a).name("p")).unwrap();
    let plain = t.create_page(PageSpec::new(8)).unwrap();
    let observer = t.builder().observe().unwrap();
    page.expect_schema(&a).unwrap();
    refused!(
        page.expect_schema(&b),
        Error::Page(PageError::WrongSchema { expected, found, .. })
            if (expected, found) == (b.hash(), a.hash())
    );
    refused!(
        observer.page("p").unwrap().expect_schema(&b),
        Error::Page(PageError::WrongSchema { .. })
    );
    refused!(
        plain.expect_schema(&a),
        Error::Page(PageError::WrongSchema { found: 0, .. })
    );
    let larger = Schema::parse("u64[2]").unwrap();
    refused!(
        t.set_schema(page.id(), &larger),
        Error::Page(PageError::WrongSize {
            wanted: 16,
            size: 8,
            ..
        })
    );
    page.expect_schema(&a).unwrap();
}

#[test]
fn a_delta_that_no_ring_record_holds_is_refused_or_goes_through_a_block() {
    let t = TestBus::small();
    let big = vec![1; 4000];
    let page = t.create_page(PageSpec::new(8000)).unwrap();
    let cell = t.create_page(PageSpec::new(8000).versions(4)).unwrap();
    page.patch(5, &big).unwrap();
    page.caused_by(1).patch(6, &big).unwrap();
    page.update(|b| b.fill(9)).unwrap();
    unchanged(&page, &[9; 8000], 3);
    refused!(
        cell.patch(0, &big),
        Error::Page(PageError::DeltaTooLarge { .. })
    );
    refused!(
        cell.update(|b| b.fill(9)),
        Error::Page(PageError::DeltaTooLarge { .. })
    );
    for page in [&page, &cell] {
        refused!(
            page.patch_many(&[(0, &big), (5000, b"x")]),
            Error::Page(PageError::DeltaTooLarge { .. })
        );
        refused!(
            page.write_masked(0, &big, &big),
            Error::Page(PageError::DeltaTooLarge { .. })
        );
        refused!(
            t.batch().patch(page, 0, &big).commit(),
            Error::Page(PageError::DeltaTooLarge { .. })
        );
        refused!(
            t.transaction(|tx| tx.write(page, &[0; 8000])),
            Error::Page(PageError::DeltaTooLarge { slots, max }) if slots > max
        );
    }
    unchanged(&page, &[9; 8000], 3);
    unchanged(&cell, &[0; 8000], 0);
    refused!(
        t.create_page(PageSpec::new(8).meta("k", &"v".repeat(4000))),
        Error::Page(PageError::DeltaTooLarge { .. })
    );
    assert_eq!(t.all_pages().unwrap().len(), 2);
}

#[test]
fn pages_of_another_bus_are_refused() {
    let (t, u) = (TestBus::new(), TestBus::new());
    let (mine, theirs) = (
        t.create_page(PageSpec::new(8)).unwrap(),
        u.create_page(PageSpec::new(8)).unwrap(),
    );
    refused!(
        t.batch().patch(&mine, 0, b"x").patch(&theirs, 0, b"x").commit(),
        Error::OtherBus(id) if id == theirs.id()
    );
    refused!(
        t.transaction(|tx| tx.patch(&theirs, 0, b"x")),
        Error::OtherBus(_)
    );
    refused!(
        t.transaction(|tx| tx.read::<u64>(&theirs)),
        Error::OtherBus(_)
    );
    unchanged(&mine, &[0; 8], 0);
    unchanged(&theirs, &[0; 8], 0);
    // Another participant on the same mapping is of the same bus.
    let other = t.another("other").unwrap();
    let same = other.page_by_id(mine.id()).unwrap();
    t.batch().patch(&same, 0, b"x").commit().unwrap();
}

#[test]
fn tables_that_are_full_say_so_and_work_again_when_they_are_not() {
    let t = TestBus::with(|b| {
        b.ring_bytes(4096)
            .pages_max(16)
            .names_max(4)
            .participants_max(2)
            .cursors_max(2)
            .sources_max(3)
    });
    let second = t.another("second").unwrap();
    refused!(
        t.another("third"),
        Error::Attach(AttachError::TooManyParticipants { max: 2 })
    );
    refused!(
        t.builder().attach(),
        Error::Attach(AttachError::TooManyParticipants { .. })
    );
    second.detach();
    t.another("third").unwrap();
    let error = t.another("fourth").unwrap_err();
    assert!(
        matches!(error.full(), Some(BusFull::Sources { max: 3 })),
        "{error}"
    );
    t.another("third").unwrap();

    let subs = [
        t.subscribe().build().unwrap(),
        t.subscribe().build().unwrap(),
    ];
    let error = t.subscribe().build().unwrap_err();
    assert!(
        matches!(error.full(), Some(BusFull::Cursors { max: 2 })),
        "{error}"
    );
    drop(subs);
    t.subscribe().build().unwrap();

    let pages: Vec<_> = (0..16)
        .map(|_| t.create_page(PageSpec::new(8)).unwrap())
        .collect();
    let error = t.create_page(PageSpec::new(8)).unwrap_err();
    assert!(
        matches!(error.full(), Some(BusFull::Pages { max: 16 })),
        "{error}"
    );
    t.destroy(pages[3].id()).unwrap();
    t.create_page(PageSpec::new(8)).unwrap();

    let mut named = 0;
    let error = loop {
        match t.rename(pages[named + 4].id(), &format!("n{named}")) {
            Ok(()) => named += 1,
            Err(e) => break e,
        }
    };
    assert!(
        named >= 4 && matches!(error.full(), Some(BusFull::Names { .. })),
        "{error}"
    );
    t.rename(pages[4].id(), "").unwrap();
    t.rename(pages[15].id(), "again").unwrap();
    assert_eq!(t.pages("").unwrap().len(), named);
}

#[test]
fn a_bus_that_reaches_its_maximum_says_so_and_goes_on() {
    let t = TestBus::with(|b| b.ring_bytes(4096).pages_max(256).bytes_max(16 << 20));
    let mut pages = Vec::new();
    let error = loop {
        match t.create_page(PageSpec::new(1 << 20)) {
            Ok(page) => pages.push(page),
            Err(e) => break e,
        }
    };
    assert!(
        matches!(error.full(), Some(BusFull::Bytes { max, .. }) if *max == 16 << 20),
        "{error}"
    );
    assert!(pages.len() >= 4, "{}", pages.len());
    pages[0].patch(0, b"still works").unwrap();
    t.destroy(pages[1].id()).unwrap();
    let page = t.create_page(PageSpec::new(1 << 20)).unwrap();
    assert_eq!(page.to_vec().unwrap(), vec![0; 1 << 20]);
}

#[test]
fn a_full_ring_is_backpressure_that_names_the_subscriber() {
    let t = TestBus::small();
    let slow = t.another("slow reader").unwrap();
    let mut gating = slow.subscribe().gating(true).build().unwrap();
    let mut writer = t.another("writer").unwrap();
    writer.set_on_full(OnFull::Fail);
    let id = t.create_page(PageSpec::of::<u64>()).unwrap().id();
    let page = writer.page_by_id(id).unwrap();
    let mut n = 0u64;
    let error = loop {
        match page.set(&n) {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
    };
    assert!(error.is_backpressure(), "{error}");
    assert!(error.to_string().contains("slow reader"), "{error}");
    assert_eq!(page.read::<u64>().unwrap(), n - 1);
    assert_eq!(page.version().unwrap().epoch, n, "nothing was changed");
    assert!(
        writer
            .batch()
            .patch(&page, 0, b"x")
            .commit()
            .unwrap_err()
            .is_backpressure()
    );
    let mut runs = 0;
    let tried = writer.transaction(|tx| {
        runs += 1;
        tx.patch(&page, 0, b"x")
    });
    assert!(tried.unwrap_err().is_backpressure());
    assert!(
        writer
            .create_page(PageSpec::new(8))
            .unwrap_err()
            .is_backpressure()
    );
    assert!(writer.destroy(id).unwrap_err().is_backpressure());
    assert_eq!(runs, 1);
    let mut seen = 0;
    while let Some(event) = gating.try_next().unwrap() {
        seen += u64::from(matches!(event, mmsb::Event::Delta(_)));
    }
    assert_eq!(seen, n, "and nothing was lost");
    page.set(&n).unwrap();
}

#[test]
fn an_aborted_transaction_changes_nothing_and_says_why() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    let result: mmsb::Result<((), _)> = t.transaction(|tx| {
        tx.write(&page, b"12345678")?;
        Err(Error::abort("no stock"))
    });
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), "aborted: no stock");
    assert!(std::error::Error::source(&error).is_some());
    unchanged(&page, &[0; 8], 0);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = page.update(|bytes| {
            bytes[0] = 1;
            panic!("in the closure");
        });
    }));
    assert!(panicked.is_err());
    unchanged(&page, &[0; 8], 0);
    page.patch(0, b"x").unwrap();
}

#[test]
fn at_most_sixteen_loans_and_views_are_held() {
    let t = TestBus::new();
    let page = t.create_page(PageSpec::new(8)).unwrap();
    refused!(page.view(), Error::Page(PageError::NotLoaned(_)));
    let mut loans = Vec::new();
    let error = loop {
        match page.loan() {
            Ok(loan) => loans.push(loan),
            Err(e) => break e,
        }
    };
    assert!(
        matches!(error, Error::Page(PageError::TooManyHeld { .. })),
        "{error}"
    );
    loans.pop().unwrap().publish().unwrap();
    drop(loans);
    let mut views = Vec::new();
    let error = loop {
        match page.view() {
            Ok(view) => views.push(view),
            Err(e) => break e,
        }
    };
    assert!(
        matches!(error, Error::Page(PageError::TooManyHeld { .. })),
        "{error}"
    );
    drop(views);
    page.view().unwrap();
}
