//! What the subcommands of `mmsb` share: page content, tables, JSON.

pub mod json;
pub mod table;
pub mod value;
