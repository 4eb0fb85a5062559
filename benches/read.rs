//! Reads of pages that nobody writes to: what a copy costs over the copy itself.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mmsb::{Bus, PageSpec};

fn bus() -> (tempfile::TempDir, Bus) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on the tmpfs");
    let bus = Bus::builder("read").dir(dir.path()).create();
    (dir, bus.expect("a bus"))
}

fn copies(c: &mut Criterion) {
    let (dir, bus) = bus();
    let observer = Bus::builder("read")
        .dir(dir.path())
        .observe()
        .expect("an observer");
    let mut group = c.benchmark_group("read");
    for bytes in [8usize, 64, 256, 1024, 65536] {
        let page = bus
            .create_page(PageSpec::new(bytes as u64))
            .expect("a page");
        let cell = bus
            .create_page(PageSpec::new(bytes as u64).versions(4))
            .expect("a cell");
        let observed = observer.page_by_id(page.id()).expect("the page");
        let content = vec![7u8; bytes];
        page.patch(0, &content[..8]).expect("a commit");
        cell.patch(0, &content[..8]).expect("a commit");
        let mut buffer = vec![0u8; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("memcpy", bytes), |b| {
            b.iter(|| black_box(&mut buffer[..]).copy_from_slice(black_box(&content)));
        });
        group.bench_function(BenchmarkId::new("page", bytes), |b| {
            b.iter(|| page.read_into(black_box(&mut buffer)).expect("a read"));
        });
        group.bench_function(BenchmarkId::new("cell", bytes), |b| {
            b.iter(|| cell.read_into(black_box(&mut buffer)).expect("a read"));
        });
        group.bench_function(BenchmarkId::new("observer", bytes), |b| {
            b.iter(|| observed.read_into(black_box(&mut buffer)).expect("a read"));
        });
    }
    group.finish();
}

fn looks(c: &mut Criterion) {
    let (_dir, bus) = bus();
    let page = bus.create_page(PageSpec::new(1024)).expect("a page");
    page.patch(0, &[1]).expect("a commit");
    let large = bus.create_page(PageSpec::new(1 << 20)).expect("a page");
    large
        .loan()
        .and_then(|loan| loan.publish())
        .expect("a publication");
    let known = page.version().expect("a version");
    let mut buffer = vec![0u8; 1024];
    let mut group = c.benchmark_group("read");
    group.bench_function("version", |b| {
        b.iter(|| page.version().expect("a version"));
    });
    group.bench_function("nothing newer", |b| {
        b.iter(|| {
            page.read_if_newer(black_box(known), &mut buffer)
                .expect("a look")
        });
    });
    group.bench_function("view of 1 MiB", |b| {
        b.iter(|| large.view().expect("a view")[black_box(4096)]);
    });
    group.finish();
}

fn cuts(c: &mut Criterion) {
    let (_dir, bus) = bus();
    let ids: Vec<_> = (0..64)
        .map(|_| bus.create_page(PageSpec::new(256)).expect("a page").id())
        .collect();
    let mut group = c.benchmark_group("read/snapshot of 256 B pages");
    for pages in [1, 4, 64] {
        group.throughput(Throughput::Elements(pages as u64));
        group.bench_function(BenchmarkId::from_parameter(pages), |b| {
            b.iter(|| bus.snapshot(black_box(&ids[..pages])).expect("a cut"));
        });
    }
    group.finish();
}

criterion_group!(benches, copies, looks, cuts);
criterion_main!(benches);
