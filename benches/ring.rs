//! Following the log in the process that writes it: what a subscriber costs, and what it costs the writer.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mmsb::{Available, Bus, PageSpec};

fn bus() -> (tempfile::TempDir, Bus) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on the tmpfs");
    let bus = Bus::builder("ring").dir(dir.path()).create();
    (dir, bus.expect("a bus"))
}

/// A batch of 64 deltas, committed and received.
fn batches(c: &mut Criterion) {
    let (_dir, bus) = bus();
    let page = bus.create_page(PageSpec::new(64)).expect("a page");
    let bytes = [7u8; 64];
    let mut group = c.benchmark_group("ring/commit and receive 64");
    group.throughput(Throughput::Elements(64));
    for size in [8, 64] {
        for gating in [false, true] {
            let kind = if gating { "gating" } else { "lossy" };
            let mut stream = bus
                .subscribe()
                .page(page.id())
                .gating(gating)
                .build()
                .expect("a subscription");
            group.bench_function(BenchmarkId::new(kind, size), |b| {
                let mut batch = bus.batch();
                b.iter(|| {
                    for _ in 0..64 {
                        batch.patch(&page, 0, &bytes[..size]);
                    }
                    batch.commit().expect("a commit");
                    let mut sum = 0;
                    let mut left = 64;
                    while left > 0 {
                        let available = stream.for_each_available(|delta| {
                            delta.for_each_range(|_, bytes| sum += usize::from(bytes[0]));
                        });
                        match available.expect("a look") {
                            Available::Deltas(n) => left -= n,
                            other => panic!("{left} deltas are left, and {other:?} came"),
                        }
                    }
                    sum
                });
            });
        }
    }
    group.finish();
}

/// One delta at a time: as events with memory of their own, by the fast path, and through filters.
fn singles(c: &mut Criterion) {
    let (_dir, bus) = bus();
    let page = bus
        .create_page(PageSpec::new(64).name("robot/arm"))
        .expect("a page");
    let mut group = c.benchmark_group("ring/commit and receive 1");
    let mut all = bus.subscribe().build().expect("a subscription");
    group.bench_function("event", |b| {
        b.iter(|| {
            page.patch(0, &[1; 8]).expect("a commit");
            all.try_next().expect("a look").expect("an event")
        });
    });
    drop(all);
    let subscriptions = [
        ("everything", bus.subscribe()),
        ("page", bus.subscribe().page(page.id())),
        ("prefix", bus.subscribe().prefix("robot/")),
    ];
    for (name, builder) in subscriptions {
        let mut stream = builder.build().expect("a subscription");
        group.bench_function(name, |b| {
            b.iter(|| {
                page.patch(0, &[1; 8]).expect("a commit");
                let mut sum = 0;
                let available = stream
                    .for_each_available(|delta| sum += delta.changed_bytes())
                    .expect("a look");
                assert_eq!(available, Available::Deltas(1));
                sum
            });
        });
    }
    let mut stream = bus.subscribe().build().expect("a subscription");
    group.bench_function("nothing there", |b| {
        b.iter(|| stream.for_each_available(|_| ()).expect("a look"));
    });
    group.finish();
}

criterion_group!(benches, batches, singles);
criterion_main!(benches);
