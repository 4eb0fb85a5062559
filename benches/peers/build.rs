//! Finds librocksdb, which is not built from source: that takes a quarter of an hour. Finds out what the others do not say
//! of themselves.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_ROCKSDB").is_some() {
        rocksdb();
    }
    if env::var_os("CARGO_FEATURE_SQLITE").is_some() {
        sqlite();
    }
    if env::var_os("CARGO_FEATURE_FJALL").is_some() {
        println!("cargo::rustc-env=FJALL_VERSION={}", locked("fjall"));
    }
    if env::var_os("CARGO_FEATURE_ICEORYX2").is_some() {
        println!("cargo::rustc-env=ICEORYX2_VERSION={}", locked("iceoryx2"));
    }
}

/// The version of this package that `Cargo.lock` names.
fn locked(package: &str) -> String {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines
        .nth(1)
        .and_then(|line| line.strip_prefix("version = "));
    version.map_or_else(|| "unknown".to_owned(), |version| version.replace('"', ""))
}

/// SQLite takes `fsync` for a commit unless told that there is `fdatasync`, which its configure looks for and its bundled
/// build does not.
fn sqlite() {
    println!("cargo::rerun-if-env-changed=LIBSQLITE3_FLAGS");
    let flags = env::var("LIBSQLITE3_FLAGS").unwrap_or_default();
    let sync = if flags.contains("HAVE_FDATASYNC") {
        "fdatasync"
    } else {
        println!(
            "cargo::warning=SQLite is built without fdatasync: set LIBSQLITE3_FLAGS=-DHAVE_FDATASYNC=1, as scripts/peers does"
        );
        "fsync"
    };
    println!("cargo::rustc-env=SQLITE_SYNC={sync}");
}

fn rocksdb() {
    for name in ["ROCKSDB_INCLUDE_DIR", "ROCKSDB_LIB_DIR"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let advice = "install RocksDB with its headers (Debian and Ubuntu: apt-get install librocksdb-dev), say where it is with \
                  ROCKSDB_INCLUDE_DIR and ROCKSDB_LIB_DIR, or leave it out: --no-default-features --features ...";
    let include = env::var_os("ROCKSDB_INCLUDE_DIR")
        .map_or_else(|| PathBuf::from("/usr/include"), PathBuf::from);
    let header = include.join("rocksdb/version.h");
    println!("cargo::rerun-if-changed={}", header.display());
    let Some(version) = fs::read_to_string(&header)
        .ok()
        .and_then(|text| version(&text))
    else {
        println!(
            "cargo::error=the feature `rocksdb` needs {}: {advice}",
            header.display()
        );
        return;
    };
    let dirs: Vec<PathBuf> = match env::var_os("ROCKSDB_LIB_DIR") {
        Some(dir) => vec![dir.into()],
        None => {
            let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
            let multiarch = format!("/usr/lib/{arch}-linux-gnu");
            [
                multiarch.as_str(),
                "/usr/lib64",
                "/usr/lib",
                "/usr/local/lib",
            ]
            .map(PathBuf::from)
            .to_vec()
        }
    };
    let has = |dir: &&PathBuf| Path::new(dir).join("librocksdb.so").exists();
    let Some(dir) = dirs.iter().find(has) else {
        println!("cargo::error=the feature `rocksdb` needs librocksdb.so: {advice}");
        return;
    };
    println!("cargo::rustc-env=ROCKSDB_VERSION={version}");
    println!("cargo::rustc-link-search=native={}", dir.display());
    println!("cargo::rustc-link-lib=dylib=rocksdb");
}

/// What `version.h` says.
fn version(text: &str) -> Option<String> {
    let part = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("#define") && words.next() == Some(name))
                .then(|| words.next())
                .flatten()
        })
    };
    Some(format!(
        "{}.{}.{}",
        part("ROCKSDB_MAJOR")?,
        part("ROCKSDB_MINOR")?,
        part("ROCKSDB_PATCH")?
    ))
}
