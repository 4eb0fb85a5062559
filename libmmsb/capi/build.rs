//! The soname: programs that were linked against ABI 1 find the library that speaks it. And it stays in a process that
//! has loaded it: its threads, and what it does when threads end and when the process forks, need its code.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libmmsb.so.1");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
