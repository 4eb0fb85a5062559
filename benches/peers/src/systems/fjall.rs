//! fjall.

use anyhow::{Context, Result};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::contender::{Contender, Kind, is_built_in};
use crate::drive::synced::{self, Engine};
use crate::task::Task;

/// The ways to use fjall.
pub const CONTENDERS: &[Contender] = &[Contender {
    name: "fjall",
    system: "fjall",
    kind: Kind::Peer,
    label: "fjall",
    config: "manual_journal_persist (its documentation: to handle persistence manually, with PersistMode::SyncData), insert, \
             then Database::persist(PersistMode::SyncData) after each, which is a fdatasync of the journal; a key for each \
             thread in one keyspace, all else as it is. An atomic batch with PersistMode::SyncData, or SyncAll, was no \
             quicker. Its documentation suggests no way to share a sync between threads.",
    server: None,
    entries: &[synced::entry::<Fjall>()],
    lacks: &[],
    is_here: is_built_in,
    version,
}];

fn version() -> String {
    env!("FJALL_VERSION").to_owned()
}

/// One keyspace of one database.
struct Fjall {
    database: Database,
    values: Keyspace,
}

impl Engine for Fjall {
    type Session<'e> = [u8; 8];

    fn open(task: &Task) -> Result<Fjall> {
        let database = Database::builder(task.disk.join("fjall"))
            .manual_journal_persist(true)
            .open()?;
        let options = || KeyspaceCreateOptions::default().manual_journal_persist(true);
        let values = database.keyspace("values", options)?;
        Ok(Fjall { database, values })
    }

    fn session(&self, thread: usize) -> Result<[u8; 8]> {
        // Big endian, as its README advises for integers.
        Ok((thread as u64).to_be_bytes())
    }

    fn commit(&self, key: &mut [u8; 8], payload: &[u8]) -> Result<()> {
        self.values.insert(*key, payload)?;
        self.database.persist(PersistMode::SyncData)?;
        Ok(())
    }

    fn newest(&self, key: &mut [u8; 8]) -> Result<Vec<u8>> {
        Ok(self
            .values
            .get(*key)?
            .context("the key is not there")?
            .to_vec())
    }
}
