//! SQLite, bundled with the `rusqlite` crate.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use rusqlite::{Connection, params};

use crate::contender::{Contender, Kind, is_built_in};
use crate::drive::synced::{self, Engine};
use crate::task::Task;

/// The ways to use SQLite.
pub const CONTENDERS: &[Contender] = &[Contender {
    name: "sqlite",
    system: "SQLite",
    kind: Kind::Peer,
    label: "SQLite, WAL",
    config: "journal_mode = WAL, synchronous = FULL, with which a commit is on disk when it returns (sqlite.org/pragma.html), \
             all else as it is; built with HAVE_FDATASYNC if the version says so, as its own configure does. The WAL was \
             checkpointed once, so that it is written over and not extended (sqlite.org/wal.html). A transaction for each \
             commit: one cached statement, a row for each thread. The threads take turns with one connection behind a \
             mutex: a connection for each with busy_timeout, which polls for the write lock, does a tenth of that with 64 \
             threads.",
    server: None,
    entries: &[synced::entry::<Sqlite>()],
    lacks: &[],
    is_here: is_built_in,
    version,
}];

fn version() -> String {
    // Which of the two was known when it was built: see build.rs.
    format!("{}, {}", rusqlite::version(), env!("SQLITE_SYNC"))
}

/// The statement of every commit.
const COMMIT: &str = "INSERT INTO latest (thread, value) VALUES (?1, ?2) ON CONFLICT (thread) DO UPDATE SET value = excluded.value";

/// Pages of the WAL after which a commit checkpoints, and the next begins to write it over: `wal_autocheckpoint` as it is.
const WAL_PAGES: usize = 1000;

/// One connection, which the threads share.
struct Sqlite(Mutex<Connection>);

impl Sqlite {
    fn locked(&self) -> MutexGuard<'_, Connection> {
        // A thread that panicked left no transaction behind: each is one statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Sqlite {
    type Session<'e> = i64;

    fn open(task: &Task) -> Result<Sqlite> {
        let connection = Connection::open(task.disk.join("sqlite"))?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        ensure!(mode == "wal", "the journal's mode is {mode}");
        // Unsynced while there is nothing to lose yet.
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.execute(
            "CREATE TABLE latest (thread INTEGER PRIMARY KEY, value BLOB NOT NULL)",
            [],
        )?;
        for _ in 0..WAL_PAGES * 5 / 4 {
            connection
                .prepare_cached(COMMIT)?
                .execute(params![-1, [0u8; 64]])?;
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(Sqlite(Mutex::new(connection)))
    }

    fn session(&self, thread: usize) -> Result<i64> {
        Ok(thread as i64)
    }

    fn commit(&self, thread: &mut i64, payload: &[u8]) -> Result<()> {
        let connection = self.locked();
        let changed = connection
            .prepare_cached(COMMIT)?
            .execute(params![*thread, payload])?;
        ensure!(changed == 1, "{changed} rows were written in place of one");
        Ok(())
    }

    fn newest(&self, thread: &mut i64) -> Result<Vec<u8>> {
        let newest = "SELECT value FROM latest WHERE thread = ?1";
        self.locked()
            .query_row(newest, [*thread], |row| row.get(0))
            .context("the row is not there")
    }
}
