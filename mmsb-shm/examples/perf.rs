use std::sync::Arc;
use std::time::Instant;
use mmsb_shm::participant::{Participant, ParticipantConfig};
use mmsb_shm::segment::{BusConfig, Core};
use mmsb_shm::sys::space::SegmentDir;
use mmsb_shm::*;
fn t(name: &str, n: u64, mut f: impl FnMut(u64)) {
    for i in 0..n / 10 { f(i); }
    let mut best = f64::MAX;
    for _ in 0..5 {
        let b = Instant::now();
        for i in 0..n { f(i); }
        best = best.min(b.elapsed().as_nanos() as f64 / n as f64);
    }
    println!("{name:24} {best:8.2} ns");
}
fn main() {
    let tmp = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = SegmentDir::at(tmp.path());
    let core = Arc::new(Core::create(&dir, "t", &BusConfig::default()).unwrap());
    let p = Participant::join(core.clone(), ParticipantConfig::default()).unwrap();
    let only = std::env::args().nth(1).unwrap_or_default();
    let on = |n: &str| only.is_empty() || n.contains(&only);
    let mk = |size: u64, versions: u32| {
        let id = p.create_page(&NewPage { size, versions, ..Default::default() }).unwrap();
        p.core().pages.resolve(id).unwrap()
    };
    let p8 = mk(8, 1);
    let p64 = mk(64, 1);
    let p1k = mk(1024, 1);
    let c64 = mk(64, 16);
    let c1k = mk(1024, 16);
    let mut buf = vec![0u8; 1 << 20];
    if on("read 64") { t("read 64", 10_000_000, |_| { p.read(&p64, 0, &mut buf[..64]).unwrap(); }); }
    if on("read 1k") { t("read 1k", 3_000_000, |_| { p.read(&p1k, 0, &mut buf[..1024]).unwrap(); }); }
    if on("read cell") { t("read cell 64", 10_000_000, |_| { p.read(&c64, 0, &mut buf[..64]).unwrap(); }); }
    if on("commit 8") { t("commit 8", 3_000_000, |i| { p.patch(&p8, 0, &i.to_le_bytes()).unwrap(); }); }
    if on("commit 64") { t("commit 64", 3_000_000, |i| { buf[0] = i as u8; p.patch(&p64, 0, &buf[..64]).unwrap(); }); }
    if on("commit 1k") { t("commit 1k", 1_000_000, |i| { buf[0] = i as u8; p.patch(&p1k, 0, &buf[..1024]).unwrap(); }); }
    if on("commit cell") { t("commit cell 64", 3_000_000, |i| { buf[0] = i as u8; p.patch(&c64, 0, &buf[..64]).unwrap(); });
    t("commit cell 1k", 1_000_000, |i| { buf[0] = i as u8; p.patch(&c1k, 0, &buf[..1024]).unwrap(); }); }
    if on("leased") {
        let l = p.lease(&p8).unwrap();
        t("leased 8", 3_000_000, |i| { p.patch(&p8, 0, &i.to_le_bytes()).unwrap(); });
        drop(l);
        let l = p.lease(&p64).unwrap();
        t("leased 64", 3_000_000, |i| { buf[0] = i as u8; p.patch(&p64, 0, &buf[..64]).unwrap(); });
        drop(l);
    }
    if on("batch") {
        let words: Vec<[u8; 8]> = (0..64u64).map(|i| i.to_le_bytes()).collect();
        t("batch 64x8 (per delta)", 30_000, |_| {
            let ch: Vec<Change> = words.iter().map(|w| Change::Patch { page: &p8, offset: 0, bytes: w }).collect();
            p.commit(&ch, &Options::default()).unwrap();
        });
        let words: Vec<[u8; 64]> = (0..64u64).map(|i| [i as u8; 64]).collect();
        t("batch 64x64 (/64)", 30_000, |_| {
            let ch: Vec<Change> = words.iter().map(|w| Change::Patch { page: &p64, offset: 0, bytes: w }).collect();
            p.commit(&ch, &Options::default()).unwrap();
        });
    }
    if on("alloc") { t("alloc_free 1k", 300_000, |_| { let id = p.create_page(&NewPage { size: 1024, ..Default::default() }).unwrap(); p.destroy_page(id).unwrap(); }); }
    if on("loan") {
        let big = mk(1 << 20, 1);
        let mut n = 0u64; let mut tot = 0f64;
        for _ in 0..20000 { let mut l = p.loan(&big).unwrap(); l[0] = 1; let b = Instant::now(); l.publish(0).unwrap(); tot += b.elapsed().as_nanos() as f64; n += 1; }
        println!("loan publish {:.1} ns (incl 2x Instant)", tot / n as f64);
        t("loan+publish", 100_000, |_| { p.loan(&big).unwrap().publish(0).unwrap(); });
    }
    t("cas", 10_000_000, { let x = std::sync::atomic::AtomicU64::new(0); move |i| { let _ = x.compare_exchange(i, i + 1, std::sync::atomic::Ordering::AcqRel, std::sync::atomic::Ordering::Relaxed); } });
}
