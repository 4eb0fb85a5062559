//! Names, schemas, metadata: cold records in blocks of their own, found through a flat hash table in `.pages`.
//!
//! A cold block is immutable once a table entry leads to it; a change makes a new one. Every change of the table is one
//! store of one word, made under the name lock, as the effect of a record in the ring: so it is atomic for readers, and
//! whoever recovers the dead does it again. Readers take no lock: they copy the cold block, and believe it if the entry
//! is still the same afterwards.
//!
//! Two entries lead to each cold block: one by the hash of the name (if there is one), one by the hash of the page id.

mod cold;
mod pages;
mod sources;
mod table;

pub use cold::{COLD_BYTES_MAX, Cold, check_page_name};
pub use pages::{NewPage, PageInfo};
pub use sources::SourceInfo;
pub(crate) use sources::source_id;
pub(crate) use table::{attach_cold, detach_cold};
#[cfg(test)]
pub(crate) use table::{hash_id, hash_name, insert, remove};
