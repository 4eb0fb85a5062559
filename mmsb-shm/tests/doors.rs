//! One door each to atomics and to the kernel. (A lint cannot hold it: clippy looks through the re-exports of `sync`.)

use std::path::{Path, PathBuf};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Files of `src` that contain one of `words` and are not under one of `allowed`.
fn strays(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20);
    files
        .iter()
        .filter_map(|path| {
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let text = std::fs::read_to_string(path).unwrap();
            let found = words.iter().any(|w| text.contains(w));
            (found && !allowed.iter().any(|a| name.starts_with(a))).then_some(name)
        })
        .collect()
}

#[test]
fn only_sync_names_the_atomics_so_that_loom_sees_every_one() {
    // The steps at which tests have a process die are no part of any protocol.
    assert_eq!(
        strays(
            &["core::sync::atomic", "std::sync::atomic"],
            &["sync.rs", "sys/", "copy", "testing.rs"]
        ),
        [""; 0]
    );
}

#[test]
fn only_sys_calls_the_kernel() {
    let words = ["rustix::", "nix::", "memmap2::"];
    // The effective user id when an owner is checked.
    assert_eq!(
        strays(&words, &["sys/", "copy/tests.rs", "segment/mod.rs"]),
        [""; 0]
    );
}
