//! Commits of every kind by one writer without a reader: what each costs the writer.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mmsb::{Bus, PageSpec};

fn bus() -> (tempfile::TempDir, Bus) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory on the tmpfs");
    let bus = Bus::builder("commit").dir(dir.path()).create();
    (dir, bus.expect("a bus"))
}

fn patches(c: &mut Criterion) {
    let (_dir, bus) = bus();
    let mut group = c.benchmark_group("commit/patch");
    for bytes in [8usize, 32, 64, 256, 1024, 4096] {
        let page = bus
            .create_page(PageSpec::new(bytes as u64))
            .expect("a page");
        let content = vec![7u8; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |b| {
            b.iter(|| page.patch(0, black_box(&content)).expect("a commit"));
        });
        let lease = page.lease().expect("the lease");
        group.bench_function(BenchmarkId::new("leased", bytes), |b| {
            b.iter(|| page.patch(0, black_box(&content)).expect("a commit"));
        });
        drop(lease);
    }
    group.finish();
}

fn shapes(c: &mut Criterion) {
    let (_dir, bus) = bus();
    let page = bus.create_page(PageSpec::new(1024)).expect("a page");
    let cell = bus
        .create_page(PageSpec::new(1024).versions(16))
        .expect("a cell");
    let bytes = [7u8; 64];
    let mask: Vec<u8> = (0..64).map(|at| at % 2).collect();
    let mut group = c.benchmark_group("commit");
    group.bench_function("cell, 8 of 1024 B", |b| {
        b.iter(|| cell.patch(8, black_box(&bytes[..8])).expect("a commit"));
    });
    group.bench_function("4 ranges of 8 B", |b| {
        let part = &bytes[..8];
        let ranges = [(0, part), (128, part), (256, part), (512, part)];
        b.iter(|| page.patch_many(black_box(&ranges)).expect("a commit"));
    });
    group.bench_function("masked 64 B", |b| {
        b.iter(|| {
            page.write_masked(64, black_box(&mask), &bytes)
                .expect("a commit")
        });
    });
    group.bench_function("update of 1024 B that changes 8", |b| {
        b.iter(|| {
            page.update(|page| page[0] = page[0].wrapping_add(1))
                .expect("a commit")
        });
    });
    group.bench_function("transaction of 2 pages", |b| {
        b.iter(|| {
            bus.transaction(|tx| {
                tx.patch(&page, 0, &bytes[..8])?;
                tx.patch(&cell, 0, &bytes[..8])
            })
            .expect("a commit")
        });
    });
    group.finish();
}

fn batches(c: &mut Criterion) {
    let (_dir, bus) = bus();
    let page = bus.create_page(PageSpec::new(4096)).expect("a page");
    let many: Vec<_> = (0..64)
        .map(|_| bus.create_page(PageSpec::new(64)).expect("a page"))
        .collect();
    let bytes = [7u8; 64];
    let mut group = c.benchmark_group("commit/batch of 64");
    group.throughput(Throughput::Elements(64));
    for size in [8, 64] {
        group.bench_function(BenchmarkId::new("one page", size), |b| {
            let mut batch = bus.batch();
            b.iter(|| {
                for at in 0..64 {
                    batch.patch(&page, at * 64, &bytes[..size]);
                }
                batch.commit().expect("a commit")
            });
        });
    }
    group.bench_function("64 pages/8", |b| {
        let mut batch = bus.batch();
        b.iter(|| {
            for page in &many {
                batch.patch(page, 0, &bytes[..8]);
            }
            batch.commit().expect("a commit")
        });
    });
    group.finish();
}

criterion_group!(benches, patches, shapes, batches);
criterion_main!(benches);
