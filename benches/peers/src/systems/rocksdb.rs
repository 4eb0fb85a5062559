//! RocksDB, by its C API.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use anyhow::{Context, Result, bail};

use crate::contender::{Contender, Entry, Kind, is_built_in};
use crate::drive::synced::{self, Engine};
use crate::task::Task;

const fn rocksdb(
    name: &'static str,
    label: &'static str,
    config: &'static str,
    entries: &'static [Entry],
) -> Contender {
    Contender {
        name,
        system: "RocksDB",
        kind: Kind::Peer,
        label,
        config,
        server: None,
        entries,
        lacks: &[],
        is_here: is_built_in,
        version,
    }
}

/// The ways to use RocksDB.
pub const CONTENDERS: &[Contender] = &[
    rocksdb(
        "rocksdb",
        "RocksDB, WAL",
        "WriteOptions::sync for each put, a key for each thread, all else as it is: the threads' puts share writes and \
         syncs of the WAL (its wiki, WAL Performance). enable_pipelined_write gained nothing. Debian's library, because the \
         source takes a quarter of an hour to build.",
        &[synced::entry::<Rocks<false>>()],
    ),
    rocksdb(
        "rocksdb/recycled",
        "RocksDB, recycled WAL",
        "As rocksdb, with recycle_log_file_num = 4 (options.h: a sync of a log that is written over need not update the \
         inode), and logs of 16 MiB that were filled before. This version recycles only with \
         WALRecoveryMode::kSkipAnyCorruptedRecords, which weakens what recovery promises of a damaged log.",
        &[synced::entry::<Rocks<true>>()],
    ),
];

fn version() -> String {
    env!("ROCKSDB_VERSION").to_owned()
}

/// The few functions of `rocksdb/c.h` that are needed.
mod ffi {
    use super::{c_char, c_int, c_void};

    /// An open database.
    #[repr(C)]
    pub struct Db([u8; 0]);
    /// How to open one.
    #[repr(C)]
    pub struct Options([u8; 0]);
    /// How to write.
    #[repr(C)]
    pub struct WriteOptions([u8; 0]);
    /// How to read.
    #[repr(C)]
    pub struct ReadOptions([u8; 0]);
    /// How to flush.
    #[repr(C)]
    pub struct FlushOptions([u8; 0]);

    unsafe extern "C" {
        pub fn rocksdb_options_create() -> *mut Options;
        pub fn rocksdb_options_destroy(options: *mut Options);
        pub fn rocksdb_options_set_create_if_missing(options: *mut Options, on: u8);
        pub fn rocksdb_options_set_recycle_log_file_num(options: *mut Options, files: usize);
        pub fn rocksdb_options_set_wal_recovery_mode(options: *mut Options, mode: c_int);
        pub fn rocksdb_open(
            options: *const Options,
            path: *const c_char,
            error: *mut *mut c_char,
        ) -> *mut Db;
        pub fn rocksdb_close(db: *mut Db);
        pub fn rocksdb_writeoptions_create() -> *mut WriteOptions;
        pub fn rocksdb_writeoptions_destroy(options: *mut WriteOptions);
        pub fn rocksdb_writeoptions_set_sync(options: *mut WriteOptions, on: u8);
        pub fn rocksdb_readoptions_create() -> *mut ReadOptions;
        pub fn rocksdb_readoptions_destroy(options: *mut ReadOptions);
        pub fn rocksdb_flushoptions_create() -> *mut FlushOptions;
        pub fn rocksdb_flushoptions_destroy(options: *mut FlushOptions);
        pub fn rocksdb_flush(db: *mut Db, options: *const FlushOptions, error: *mut *mut c_char);
        pub fn rocksdb_put(
            db: *mut Db,
            options: *const WriteOptions,
            key: *const c_char,
            key_len: usize,
            value: *const c_char,
            value_len: usize,
            error: *mut *mut c_char,
        );
        pub fn rocksdb_get(
            db: *mut Db,
            options: *const ReadOptions,
            key: *const c_char,
            key_len: usize,
            value_len: *mut usize,
            error: *mut *mut c_char,
        ) -> *mut c_char;
        pub fn rocksdb_free(memory: *mut c_void);
    }
}

/// Calls what says through its last argument what it failed of.
fn check<T>(call: impl FnOnce(*mut *mut c_char) -> T) -> Result<T> {
    let mut error: *mut c_char = ptr::null_mut();
    let value = call(&mut error);
    if error.is_null() {
        return Ok(value);
    }
    // SAFETY: RocksDB gave it: a string that ends, and is ours.
    let text = unsafe { CStr::from_ptr(error) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: as above, and freed only here.
    unsafe { ffi::rocksdb_free(error.cast()) };
    bail!("RocksDB: {text}")
}

/// Bytes of a log that is to be written over.
const LOG_BYTES: usize = 16 << 20;
/// How many logs are kept to be written over.
const LOGS: usize = 4;
/// `kSkipAnyCorruptedRecords` of `WALRecoveryMode`.
const SKIP_ANY_CORRUPTED_RECORDS: c_int = 3;

/// An open database, and how it is written.
struct Rocks<const RECYCLED: bool> {
    db: NonNull<ffi::Db>,
    write: *mut ffi::WriteOptions,
}

// SAFETY: RocksDB lets all threads use a database; the options are only read.
unsafe impl<const RECYCLED: bool> Sync for Rocks<RECYCLED> {}

impl<const RECYCLED: bool> Rocks<RECYCLED> {
    fn at(path: &Path) -> Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: the options are made, set, used and destroyed here; the string ends.
        let db = unsafe {
            let options = ffi::rocksdb_options_create();
            ffi::rocksdb_options_set_create_if_missing(options, 1);
            if RECYCLED {
                ffi::rocksdb_options_set_recycle_log_file_num(options, LOGS);
                ffi::rocksdb_options_set_wal_recovery_mode(options, SKIP_ANY_CORRUPTED_RECORDS);
            }
            let db = check(|error| ffi::rocksdb_open(options, path.as_ptr(), error));
            ffi::rocksdb_options_destroy(options);
            db?
        };
        // SAFETY: options of our own.
        let write = unsafe {
            let write = ffi::rocksdb_writeoptions_create();
            ffi::rocksdb_writeoptions_set_sync(write, 1);
            write
        };
        Ok(Rocks {
            db: NonNull::new(db).context("RocksDB gave no database")?,
            write,
        })
    }

    fn put(&self, write: *const ffi::WriteOptions, key: &[u8], value: &[u8]) -> Result<()> {
        // SAFETY: an open database, living options, and bytes that are only read before the call returns.
        check(|error| unsafe {
            ffi::rocksdb_put(
                self.db.as_ptr(),
                write,
                key.as_ptr().cast(),
                key.len(),
                value.as_ptr().cast(),
                value.len(),
                error,
            );
        })
    }

    /// Writes one log full after the other, so that there are some to write over.
    fn age(&self) -> Result<()> {
        let value = vec![0x5a; 4096];
        // SAFETY: options of our own.
        let unsynced = unsafe { ffi::rocksdb_writeoptions_create() };
        let done = (0..LOGS).try_for_each(|_| {
            for key in 0..LOG_BYTES / value.len() {
                self.put(unsynced, &(u64::MAX - key as u64).to_be_bytes(), &value)?;
            }
            // SAFETY: an open database, and options of our own.
            unsafe {
                let options = ffi::rocksdb_flushoptions_create();
                let flushed = check(|error| ffi::rocksdb_flush(self.db.as_ptr(), options, error));
                ffi::rocksdb_flushoptions_destroy(options);
                flushed
            }
        });
        // SAFETY: options of our own, which nobody uses any more.
        unsafe { ffi::rocksdb_writeoptions_destroy(unsynced) };
        done
    }
}

impl<const RECYCLED: bool> Drop for Rocks<RECYCLED> {
    fn drop(&mut self) {
        // SAFETY: nobody uses either any more.
        unsafe {
            ffi::rocksdb_close(self.db.as_ptr());
            ffi::rocksdb_writeoptions_destroy(self.write);
        }
    }
}

impl<const RECYCLED: bool> Engine for Rocks<RECYCLED> {
    type Session<'e> = [u8; 8];

    fn open(task: &Task) -> Result<Self> {
        let rocks = Rocks::at(&task.disk.join("rocksdb"))?;
        if RECYCLED {
            rocks.age()?;
        }
        Ok(rocks)
    }

    fn session(&self, thread: usize) -> Result<[u8; 8]> {
        Ok((thread as u64).to_be_bytes())
    }

    fn commit(&self, key: &mut [u8; 8], payload: &[u8]) -> Result<()> {
        self.put(self.write, &*key, payload)
    }

    fn newest(&self, key: &mut [u8; 8]) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: an open database, options of our own, and bytes that are only read before the call returns.
        let value = unsafe {
            let options = ffi::rocksdb_readoptions_create();
            let value = check(|error| {
                ffi::rocksdb_get(
                    self.db.as_ptr(),
                    options,
                    key.as_ptr().cast(),
                    key.len(),
                    &mut len,
                    error,
                )
            });
            ffi::rocksdb_readoptions_destroy(options);
            value?
        };
        let value = NonNull::new(value).context("the key is not there")?;
        // SAFETY: RocksDB gave so many bytes, which are ours.
        let copy = unsafe { std::slice::from_raw_parts(value.as_ptr().cast::<u8>(), len) }.to_vec();
        // SAFETY: as above, and freed only here.
        unsafe { ffi::rocksdb_free(value.as_ptr().cast()) };
        Ok(copy)
    }
}
