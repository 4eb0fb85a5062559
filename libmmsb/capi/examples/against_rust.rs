//! What the C ABI costs: the same commits and reads by Rust's `Page` and by `libmmsb.so`, in turns, in one process.
//!
//! `cargo build --release -p libmmsb-c && cargo run --release -p libmmsb-c --example against_rust -- target/release/libmmsb.so`

use std::ffi::{CString, c_char, c_int, c_void};
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use bus::{Bus, PageSpec};

const ROUNDS: usize = 41;
const CALLS: u32 = 100_000;

type Status = c_int;
type OpenBus = unsafe extern "C" fn(*const c_char, *const c_void, *mut u64) -> Status;
type OpenPage = unsafe extern "C" fn(u64, *const c_char, *mut u64) -> Status;
type Patch = unsafe extern "C" fn(u64, usize, *const u8, usize, *mut u64) -> Status;
type Read = unsafe extern "C" fn(u64, *mut u8, usize, *mut [u64; 2]) -> Status;
type Close = unsafe extern "C" fn(u64) -> Status;

struct Library(*mut c_void);

impl Library {
    fn open(path: &Path) -> Library {
        let path = CString::new(path.to_str().expect("UTF-8")).expect("no NUL");
        // SAFETY: a path; the library's initialisers are Rust's own.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "{path:?} cannot be loaded");
        Library(handle)
    }

    /// # Safety
    /// `F` is the type of the function of this name.
    unsafe fn function<F: Copy>(&self, name: &str) -> F {
        let name = CString::new(name).expect("no NUL");
        // SAFETY: the library stays loaded.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "there is no {name:?}");
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
        // SAFETY: a function's address, of this type by the caller.
        unsafe { std::mem::transmute_copy(&found) }
    }
}

/// ns of one call.
fn time(mut call: impl FnMut()) -> f64 {
    let begin = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    begin.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Both sides in turns, so that what else the machine does meets both.
fn compare(what: &str, mut rust: impl FnMut(), mut c: impl FnMut()) {
    let (mut rust_times, mut c_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        rust_times.push(time(&mut rust));
        c_times.push(time(&mut c));
    }
    let (rust, c) = (median(rust_times), median(c_times));
    println!(
        "{what:<28} Rust {rust:7.1} ns   C {c:7.1} ns   {:+6.1} ns",
        c - rust
    );
}

fn main() {
    let path = std::env::args().nth(1).expect("the path of libmmsb.so");
    let library = Library::open(Path::new(&path));
    // SAFETY: as in mmsb.h; structs of one u64 are passed as it.
    let (attach, open, patch, read, observe, close) = unsafe {
        (
            library.function::<OpenBus>("mmsb_bus_attach"),
            library.function::<OpenPage>("mmsb_page_open"),
            library.function::<Patch>("mmsb_page_patch"),
            library.function::<Read>("mmsb_page_read"),
            library.function::<OpenBus>("mmsb_bus_observe"),
            library.function::<Close>("mmsb_bus_close"),
        )
    };
    let name = format!("against-rust-{}", std::process::id());
    let bus = Bus::create(&name).expect("a bus");
    let c_name = CString::new(name.as_str()).expect("no NUL");
    for size in [8usize, 64, 1024] {
        let page_name = format!("p{size}");
        let page = bus
            .create_page(PageSpec::new(size as u64).name(&page_name))
            .expect("a page");
        let c_page_name = CString::new(page_name).expect("no NUL");
        let (mut c_bus, mut observer, mut c_page, mut seen_page) = (0, 0, 0, 0);
        // SAFETY: strings, and places for results.
        unsafe {
            assert_eq!(attach(c_name.as_ptr(), std::ptr::null(), &mut c_bus), 0);
            assert_eq!(open(c_bus, c_page_name.as_ptr(), &mut c_page), 0);
            assert_eq!(observe(c_name.as_ptr(), std::ptr::null(), &mut observer), 0);
            assert_eq!(open(observer, c_page_name.as_ptr(), &mut seen_page), 0);
        }
        let data = vec![7u8; size];
        let mut lsn = 0u64;
        compare(
            &format!("commit {size} bytes"),
            || {
                black_box(page.patch(0, black_box(&data)).expect("committed"));
            },
            // SAFETY: `size` bytes to read, and a place for the LSN.
            || unsafe {
                assert_eq!(
                    patch(c_page, 0, black_box(data.as_ptr()), size, &mut lsn),
                    0
                )
            },
        );
        let (mut ours, mut theirs) = (vec![0u8; size], vec![0u8; size]);
        let mut version = [0u64; 2];
        compare(
            &format!("read {size} bytes"),
            || {
                black_box(page.read_range(0, black_box(&mut ours)).expect("read"));
            },
            // SAFETY: `size` bytes to fill, and a place for the version.
            || unsafe {
                assert_eq!(
                    read(c_page, black_box(theirs.as_mut_ptr()), size, &mut version),
                    0
                )
            },
        );
        let rust_observer = Bus::observe(&name).expect("an observer");
        let observed = rust_observer
            .page(c_page_name.to_str().expect("UTF-8"))
            .expect("a page");
        compare(
            &format!("read {size} bytes, observing"),
            || {
                black_box(observed.read_range(0, black_box(&mut ours)).expect("read"));
            },
            // SAFETY: as above.
            || unsafe {
                assert_eq!(
                    read(
                        seen_page,
                        black_box(theirs.as_mut_ptr()),
                        size,
                        &mut version
                    ),
                    0
                )
            },
        );
        assert_eq!(ours, theirs);
        // SAFETY: handles of this thread.
        unsafe { assert_eq!((close(c_bus), close(observer)), (0, 0)) };
    }
    Bus::unlink(&name).expect("removed");
}
