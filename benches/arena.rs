//! Page memory: pages come and go, loans are taken and given back.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use mmsb::{Bus, PageSpec};

fn bus() -> (tempfile::TempDir, Bus) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on the tmpfs");
    let bus = Bus::builder("arena").dir(dir.path()).create();
    (dir, bus.expect("a bus"))
}

fn pages(c: &mut Criterion) {
    let (_dir, bus) = bus();
    let mut group = c.benchmark_group("arena/create and destroy");
    for bytes in [64u64, 1024, 65536, 1 << 20] {
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| {
                let id = bus.create_page(PageSpec::new(bytes)).expect("a page").id();
                bus.destroy(id).expect("the end of a page");
            });
        });
    }
    group.bench_function("1024, named", |b| {
        b.iter(|| {
            let spec = PageSpec::new(1024).name("robot/arm/joints");
            let id = bus.create_page(spec).expect("a page").id();
            bus.destroy(id).expect("the end of a page");
        });
    });
    group.finish();
}

fn loans(c: &mut Criterion) {
    let (_dir, bus) = bus();
    let mut group = c.benchmark_group("arena/loan");
    for bytes in [1024u64, 1 << 20] {
        let page = bus.create_page(PageSpec::new(bytes)).expect("a page");
        group.bench_function(BenchmarkId::new("given back", bytes), |b| {
            b.iter(|| drop(page.loan().expect("a loan")));
        });
        group.bench_function(BenchmarkId::new("published", bytes), |b| {
            b.iter(|| {
                page.loan()
                    .and_then(|loan| loan.publish())
                    .expect("a publication")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pages, loans);
criterion_main!(benches);
