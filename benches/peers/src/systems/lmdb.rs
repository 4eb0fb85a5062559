//! LMDB, by its C API: `heed` does not hand on `mdb_txn_reset` and `mdb_txn_renew`, which its documentation has for
//! readers that read again and again.

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use anyhow::{Context, Result, bail};
use lmdb_master_sys as ffi;

use crate::contender::{Contender, Kind, is_built_in};
use crate::drive::late_join::{self, State, VALUES};
use crate::drive::latest::{self, Value};
use crate::drive::one_way::{self, Link};
use crate::drive::recovery;
use crate::drive::synced::{self, Engine};
use crate::task::{Job, Side, Task, fill, number};

/// The ways to use LMDB.
pub const CONTENDERS: &[Contender] = &[
    Contender {
        name: "lmdb",
        system: "LMDB",
        kind: Kind::Peer,
        label: "LMDB",
        config: "In tmpfs, MDB_WRITEMAP | MDB_NOSYNC (lmdb.h, mdb_env_open: fewer mallocs, for databases that fit in RAM; \
                 nothing is to outlive the machine), MDB_NOTLS and mdb_txn_reset, mdb_txn_renew for the reader (lmdb.h: \
                 saves allocation and locking), readers open with MDB_RDONLY. One key in the unnamed MDB_INTEGERKEY \
                 database, a transaction for each write, written in place (MDB_RESERVE) and read in place. one_way: an \
                 environment for each direction; LMDB has no notification, so the receiver polls the ID of the last \
                 transaction (mdb_env_info: cheaper than renewing). late_join: one cursor.",
        server: None,
        entries: &[
            one_way::entry::<Polled>(&[64, 1024]),
            latest::read_alone::<Shared>(&[64, 1024]),
            latest::update_alone::<Shared>(&[64, 1024]),
            latest::contended::<Shared>(&[64, 1024]),
            late_join::entry::<Keys>(),
            recovery::entry::<Shared>(),
        ],
        lacks: &[
            (
                Job::Throughput,
                "no queue: a reader sees the latest snapshot, not every transaction",
            ),
            (
                Job::Wake,
                "no notification: a reader that waits for a change polls",
            ),
        ],
        is_here: is_built_in,
        version,
    },
    Contender {
        name: "lmdb/synced",
        system: "LMDB",
        kind: Kind::Peer,
        label: "LMDB, synced",
        config: "Default flags, so that mdb_txn_commit has synced data and meta page (lmdb.h, MDB_NOSYNC and MDB_NOMETASYNC \
                 say what leaving either out loses). A transaction for each commit, a key for each thread, one environment \
                 for all; its writer lock lets one commit after the other.",
        server: None,
        entries: &[synced::entry::<Durable>()],
        lacks: &[],
        is_here: is_built_in,
        version,
    },
];

fn version() -> String {
    let (mut major, mut minor, mut patch) = (0, 0, 0);
    // SAFETY: three integers to write to.
    unsafe { ffi::mdb_version(&mut major, &mut minor, &mut patch) };
    format!("{major}.{minor}.{patch}, mdb.master as heed 0.23 has it")
}

/// Room for everything that is ever written here, and some.
const MAP_BYTES: usize = 256 << 20;

/// The key of the only value.
const KEY: u64 = 1;

fn check(code: i32) -> Result<()> {
    if code == 0 { Ok(()) } else { failed(code) }
}

#[cold]
fn failed(code: i32) -> Result<()> {
    // SAFETY: always gives a string that lasts, at least until the next call of this thread.
    let text = unsafe { CStr::from_ptr(ffi::mdb_strerror(code)) };
    bail!("LMDB: {}", text.to_string_lossy())
}

fn val(bytes: &[u8]) -> ffi::MDB_val {
    ffi::MDB_val {
        mv_size: bytes.len(),
        mv_data: bytes.as_ptr().cast_mut().cast(),
    }
}

/// # Safety
///
/// LMDB gave it, and its memory stays as it is for as long as `'a`.
unsafe fn bytes<'a>(val: ffi::MDB_val) -> &'a [u8] {
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(val.mv_data.cast(), val.mv_size) }
}

/// An environment and its unnamed database.
struct Env {
    env: NonNull<ffi::MDB_env>,
    dbi: ffi::MDB_dbi,
}

// SAFETY: lmdb.h lets all threads use an environment and its databases; what belongs to one thread are transactions.
unsafe impl Send for Env {}
// SAFETY: as above.
unsafe impl Sync for Env {}

impl Env {
    /// Opens the environment in this directory; whoever may write makes it if need be.
    fn open(dir: &Path, flags: u32) -> Result<Env> {
        let is_reader = flags & ffi::MDB_RDONLY != 0;
        if !is_reader {
            std::fs::create_dir_all(dir)?;
        }
        let path = CString::new(dir.as_os_str().as_bytes())?;
        let mut env = ptr::null_mut();
        // SAFETY: a place for the handle.
        check(unsafe { ffi::mdb_env_create(&mut env) })?;
        let mut this = Env {
            env: NonNull::new(env).context("LMDB gave no environment")?,
            dbi: 0,
        };
        if !is_reader {
            // SAFETY: the handle is not open yet.
            check(unsafe { ffi::mdb_env_set_mapsize(env, MAP_BYTES) })?;
        }
        // SAFETY: a handle that is not open yet, and a string that ends.
        check(unsafe { ffi::mdb_env_open(env, path.as_ptr(), flags, 0o600) })
            .with_context(|| dir.display().to_string())?;
        let txn = this.begin(flags & ffi::MDB_RDONLY)?;
        let kind = if is_reader { 0 } else { ffi::MDB_INTEGERKEY };
        let mut dbi = 0;
        // SAFETY: a living transaction, no name, and a place for the handle.
        check(unsafe { ffi::mdb_dbi_open(txn.0.as_ptr(), ptr::null(), kind, &mut dbi) })?;
        txn.commit()?;
        this.dbi = dbi;
        Ok(this)
    }

    /// Begins a transaction of this thread.
    #[inline(always)]
    fn begin(&self, flags: u32) -> Result<Txn<'_>> {
        let mut txn = ptr::null_mut();
        // SAFETY: an open environment, and a place for the handle.
        check(unsafe { ffi::mdb_txn_begin(self.env.as_ptr(), ptr::null_mut(), flags, &mut txn) })?;
        Ok(Txn(
            NonNull::new(txn).context("LMDB gave no transaction")?,
            PhantomData,
        ))
    }

    /// Puts a value of `len` bytes, which `write` makes, and commits.
    #[inline(always)]
    fn put(&self, key: u64, len: usize, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let txn = self.begin(0)?;
        txn.put(self.dbi, key, len, write)?;
        txn.commit()
    }

    /// The ID of the last transaction.
    #[inline(always)]
    fn last(&self) -> Result<usize> {
        // SAFETY: integers and a pointer, which nobody follows: zeroes are such.
        let mut info = unsafe { std::mem::zeroed() };
        // SAFETY: an open environment, and a place for what it says.
        check(unsafe { ffi::mdb_env_info(self.env.as_ptr(), &mut info) })?;
        Ok(info.me_last_txnid)
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // SAFETY: transactions borrow the environment: there are none any more.
        unsafe { ffi::mdb_env_close(self.env.as_ptr()) };
    }
}

/// A transaction; aborted when dropped.
struct Txn<'e>(NonNull<ffi::MDB_txn>, PhantomData<&'e Env>);

impl Txn<'_> {
    #[inline(always)]
    fn put(
        &self,
        dbi: ffi::MDB_dbi,
        key: u64,
        len: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        let key = key.to_ne_bytes();
        let mut data = ffi::MDB_val {
            mv_size: len,
            mv_data: ptr::null_mut(),
        };
        // SAFETY: a living transaction and its environment's database; the key is copied, the value is only reserved.
        check(unsafe {
            ffi::mdb_put(
                self.0.as_ptr(),
                dbi,
                &mut val(&key),
                &mut data,
                ffi::MDB_RESERVE,
            )
        })?;
        // SAFETY: LMDB reserved so many bytes, which are initialised, this transaction's alone, and stay where they are
        // until its next update.
        write(unsafe { std::slice::from_raw_parts_mut(data.mv_data.cast(), data.mv_size) });
        Ok(())
    }

    /// The value, until the transaction ends.
    #[inline(always)]
    fn get(&self, dbi: ffi::MDB_dbi, key: u64) -> Result<Option<&[u8]>> {
        let key = key.to_ne_bytes();
        let mut data = val(&[]);
        // SAFETY: a living transaction and its environment's database; the key is only read.
        let code = unsafe { ffi::mdb_get(self.0.as_ptr(), dbi, &mut val(&key), &mut data) };
        if code == ffi::MDB_NOTFOUND {
            return Ok(None);
        }
        check(code)?;
        // SAFETY: LMDB gave it, and nothing is changed within a transaction that borrows are bound to: only readers'
        // come here.
        Ok(Some(unsafe { bytes(data) }))
    }

    #[inline(always)]
    fn commit(self) -> Result<()> {
        let txn = self.0;
        // Whatever happens, the handle is gone.
        std::mem::forget(self);
        // SAFETY: a living transaction, which nobody uses any more.
        check(unsafe { ffi::mdb_txn_commit(txn.as_ptr()) })
    }
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        // SAFETY: a living transaction, or a reset one, which nobody uses any more.
        unsafe { ffi::mdb_txn_abort(self.0.as_ptr()) };
    }
}

/// The handle of a reader, which is used for one transaction after the other.
struct Reader {
    /// Before the environment: it must be dropped first.
    txn: Txn<'static>,
    env: &'static Env,
}

impl Reader {
    /// Reads an environment that lasts.
    fn new(env: &'static Env) -> Result<Reader> {
        let txn = env.begin(ffi::MDB_RDONLY)?;
        // SAFETY: a reader's transaction that lives.
        unsafe { ffi::mdb_txn_reset(txn.0.as_ptr()) };
        Ok(Reader { txn, env })
    }

    /// The number of the value, all of which was read where it is.
    #[inline(always)]
    fn read(&mut self, key: u64) -> Result<Option<u64>> {
        // SAFETY: a reader's transaction that was reset.
        check(unsafe { ffi::mdb_txn_renew(self.txn.0.as_ptr()) })?;
        let n = match self.txn.get(self.env.dbi, key) {
            Ok(value) => value.map(number).transpose(),
            Err(error) => Err(error),
        };
        // SAFETY: a reader's transaction that lives.
        unsafe { ffi::mdb_txn_reset(self.txn.0.as_ptr()) };
        n
    }
}

/// Flags of whoever writes what nobody expects to outlive the machine.
const VOLATILE: u32 = ffi::MDB_WRITEMAP | ffi::MDB_NOSYNC | ffi::MDB_NOTLS;
/// Flags of whoever only reads that.
const READS: u32 = ffi::MDB_RDONLY | ffi::MDB_NOTLS;

/// An environment that lasts as long as the process.
fn lasting(dir: &Path, flags: u32) -> Result<&'static Env> {
    Ok(Box::leak(Box::new(Env::open(dir, flags)?)))
}

/// One value.
struct Shared {
    env: &'static Env,
    reader: Reader,
    bytes: usize,
}

impl Value for Shared {
    // Any process may write; the lock between them is a robust mutex.
    const STANDBY: bool = true;

    fn open(task: &Task, side: Side) -> Result<Shared> {
        let flags = match side {
            Side::Lead => VOLATILE,
            Side::Peer => READS,
        };
        let env = lasting(&task.dir.join("lmdb"), flags)?;
        Ok(Shared {
            env,
            reader: Reader::new(env)?,
            bytes: task.bytes,
        })
    }

    #[inline(always)]
    fn write(&mut self, n: u64) -> Result<()> {
        self.env.put(KEY, self.bytes, |value| fill(value, n))
    }

    #[inline(always)]
    fn read(&mut self) -> Result<u64> {
        Ok(self.reader.read(KEY)?.unwrap_or(0))
    }
}

/// Messages: the latest value of an environment for each direction.
struct Polled {
    there: &'static Env,
    back: Reader,
    /// The transaction that was read last, and what it said.
    known: (usize, u64),
    bytes: usize,
}

impl Link for Polled {
    fn open(task: &Task, side: Side) -> Result<Polled> {
        let mut names = ["there", "back"];
        if side == Side::Peer {
            names.reverse();
        }
        let [there, back] = names.map(|name| task.dir.join(name));
        if side == Side::Lead {
            // So that it is there to be read.
            drop(Env::open(&back, VOLATILE)?);
        }
        let back = lasting(&back, READS)?;
        Ok(Polled {
            there: lasting(&there, VOLATILE)?,
            known: (back.last()?, 0),
            back: Reader::new(back)?,
            bytes: task.bytes,
        })
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        self.there.put(KEY, self.bytes, |value| fill(value, n))
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        let last = self.back.env.last()?;
        if last == self.known.0 {
            return Ok(None);
        }
        // A new transaction begins to be seen with its meta page, and is there for readers a little later.
        match self.back.read(KEY)? {
            Some(n) if n != self.known.1 => {
                self.known = (last, n);
                Ok(Some(n))
            }
            _ => Ok(None),
        }
    }
}

/// Many values.
struct Keys {
    _env: Env,
}

impl State for Keys {
    fn host(task: &Task) -> Result<Keys> {
        let env = Env::open(&task.dir.join("lmdb"), VOLATILE)?;
        let txn = env.begin(0)?;
        for at in 0..VALUES as u64 {
            txn.put(env.dbi, at, task.bytes, |value| fill(value, at + 1))?;
        }
        txn.commit()?;
        Ok(Keys { _env: env })
    }

    fn join(task: &Task, take: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let env = Env::open(&task.dir.join("lmdb"), READS)?;
        let txn = env.begin(ffi::MDB_RDONLY)?;
        let mut cursor = ptr::null_mut();
        // SAFETY: a living transaction, its environment's database, and a place for the handle.
        check(unsafe { ffi::mdb_cursor_open(txn.0.as_ptr(), env.dbi, &mut cursor) })?;
        let (mut key, mut data) = (val(&[]), val(&[]));
        let mut at = 0;
        let done = loop {
            // SAFETY: an open cursor, and places for what it finds.
            let code = unsafe { ffi::mdb_cursor_get(cursor, &mut key, &mut data, ffi::MDB_NEXT) };
            if code == ffi::MDB_NOTFOUND {
                break Ok(());
            }
            // SAFETY: LMDB gave it, and the transaction of a reader is as it is until it ends.
            let taken = check(code).and_then(|()| take(at, unsafe { bytes(data) }));
            if taken.is_err() {
                break taken;
            }
            at += 1;
        };
        // SAFETY: an open cursor, which nobody uses any more.
        unsafe { ffi::mdb_cursor_close(cursor) };
        done
    }
}

/// An environment on the disk, as LMDB is by default.
struct Durable {
    env: Env,
}

impl Engine for Durable {
    type Session<'e> = u64;

    fn open(task: &Task) -> Result<Durable> {
        Ok(Durable {
            env: Env::open(&task.disk.join("lmdb"), 0)?,
        })
    }

    fn session(&self, thread: usize) -> Result<u64> {
        Ok(thread as u64)
    }

    fn commit(&self, key: &mut u64, payload: &[u8]) -> Result<()> {
        self.env
            .put(*key, payload.len(), |value| value.copy_from_slice(payload))
    }

    fn newest(&self, key: &mut u64) -> Result<Vec<u8>> {
        let txn = self.env.begin(ffi::MDB_RDONLY)?;
        let value = txn.get(self.env.dbi, *key)?;
        Ok(value.context("the key is not there")?.to_vec())
    }
}
