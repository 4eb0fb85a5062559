//! Records of a log, as lines for people and as JSON: what `log dump`, `log tail`, `history` and `provenance` print.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use clap::ValueEnum;
use mmsb::history::{Filter, Log, Record};
use mmsb::schema::Schema;
use mmsb::{Kind, PageId};
use serde_json::{Value, json};

use super::Context;
use super::exit::Failure;
use super::moments::{self, Moment};
use super::table::escaped;
use super::watch::changes::{Changes, hex_digits};
use super::watch::kind_name;

/// Which records.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Which {
    /// From this moment on
    #[arg(long, value_name = "MOMENT", value_parser = moments::moment, allow_hyphen_values = true)]
    pub from: Option<Moment>,
    /// Up to this moment
    #[arg(long, value_name = "MOMENT", value_parser = moments::moment, allow_hyphen_values = true)]
    pub to: Option<Moment>,
    /// Only pages whose name started so at that time
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// Only this page: a name, or an id such as 3.1
    #[arg(long, value_name = "PAGE")]
    pub page: Option<String>,
    /// Only what this source did
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Only records of these kinds
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    pub kind: Vec<KindName>,
}

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    /// One range of a page
    Patch,
    /// Several ranges of a page
    Ranges,
    /// Single bytes of a range
    Masked,
    /// A whole page
    Swap,
    /// A page that is made
    Create,
    /// A page that is destroyed
    Destroy,
    /// A page's name, schema or metadata
    Describe,
    /// A new source
    Source,
    /// A mark
    Mark,
}

impl From<KindName> for Kind {
    fn from(kind: KindName) -> Kind {
        match kind {
            KindName::Patch => Kind::Patch,
            KindName::Ranges => Kind::Ranges,
            KindName::Masked => Kind::Masked,
            KindName::Swap => Kind::Swap,
            KindName::Create => Kind::Create,
            KindName::Destroy => Kind::Destroy,
            KindName::Describe => Kind::Describe,
            KindName::Source => Kind::Source,
            KindName::Mark => Kind::Mark,
        }
    }
}

impl Which {
    /// First LSN, LSN behind the last, and what to look for between them.
    ///
    /// # Errors
    ///
    /// What reading the log gave, or that there is no such page.
    pub fn resolve(&self, log: &Log) -> Result<(u64, u64, Filter), Failure> {
        let from = self.from.map_or(Ok(0), |m| m.first_lsn(log))?;
        let to = self.to.map_or(Ok(u64::MAX), |m| m.end_lsn(log))?;
        let page = match &self.page {
            Some(page) => Some(moments::page(log, page, to)?),
            None => None,
        };
        let filter = Filter {
            prefix: self.prefix.clone(),
            source: self.source.clone(),
            kinds: self.kind.iter().map(|kind| Kind::from(*kind)).collect(),
            page,
        };
        Ok((from, to, filter))
    }
}

/// Shows records, decoding what they changed by the schema that the page had then.
#[derive(Default)]
pub struct Shown {
    known: HashMap<PageId, Known>,
    headed: bool,
}

/// What a page's bytes mean.
struct Known {
    /// Its schema, as the log has it.
    encoded: Option<Arc<[u8]>>,
    changes: Changes,
}

impl Known {
    fn new(encoded: Option<&Arc<[u8]>>) -> Known {
        let schema = encoded.and_then(|schema| Schema::decode(schema).ok());
        Known {
            encoded: encoded.cloned(),
            changes: Changes::new(schema),
        }
    }
}

impl Shown {
    /// What a schema in the log makes of ranges.
    fn changes(&mut self, page: PageId, schema: Option<&Arc<[u8]>>) -> &Changes {
        let known = self.known.entry(page).or_insert_with(|| Known::new(schema));
        if known.encoded.as_ref() != schema {
            *known = Known::new(schema);
        }
        &known.changes
    }

    /// What a record did, in a few words.
    pub fn what(&mut self, record: &Record) -> String {
        let delta = &record.delta;
        match delta.kind {
            Kind::Create => {
                let (size, versions) = record.created.unwrap_or_default();
                let cell = match versions {
                    0 | 1 => String::new(),
                    n => format!(" x{n}"),
                };
                let about = record.cold.as_ref().map(described).unwrap_or_default();
                format!("{size} bytes{cell}{about}")
            }
            Kind::Describe => record.cold.as_ref().map_or_else(String::new, |cold| {
                format!("name {:?}{}", cold.name, described(cold))
            }),
            Kind::Mark => String::from_utf8_lossy(&delta.mark).into_owned(),
            Kind::Patch | Kind::Ranges | Kind::Masked | Kind::Swap => self
                .changes(delta.page, record.schema.as_ref())
                .text(&delta.ranges),
            _ => String::new(),
        }
    }

    /// Prints a record as a line, and the headings ahead of the first.
    ///
    /// # Errors
    ///
    /// What writing gave.
    pub fn line(&mut self, record: &Record, context: &mut Context) -> Result<(), Failure> {
        if !self.headed {
            self.headed = true;
            writeln!(
                context.out,
                "{:>12}  {:24}  {:20}  {:8}  {:14}  what",
                "lsn", "time", "page", "kind", "source"
            )?;
        }
        let what = self.what(record);
        let delta = &record.delta;
        let cause = match delta.cause {
            0 => String::new(),
            lsn => format!("  because of {lsn}"),
        };
        let group = if delta.transaction {
            "  in a transaction"
        } else {
            ""
        };
        let line = format!(
            "{:>12}  {:24}  {:20}  {:8}  {:14}  {what}{cause}{group}",
            delta.lsn,
            moments::shown(delta.time_ns),
            page_name(record),
            kind_name(delta.kind),
            source_name(record),
        );
        context.line(escaped(line.trim_end()))
    }

    /// A record as JSON.
    pub fn json(&mut self, record: &Record) -> Value {
        let delta = &record.delta;
        let mut value = json!({
            "lsn": delta.lsn,
            "time": moments::shown(delta.time_ns),
            "time_ns": delta.time_ns,
            "page": record.page_name.to_string(),
            "id": about_page(delta.kind).then(|| delta.page.to_string()),
            "kind": kind_name(delta.kind),
            "source": record.source_name.as_deref(),
            "source_id": delta.source,
            "cause": delta.cause,
            "transaction": delta.transaction,
            "group_end": record.group_end,
        });
        match delta.kind {
            Kind::Patch | Kind::Ranges | Kind::Masked | Kind::Swap => {
                value["ranges"] = ranges_json(&delta.ranges);
                if record.schema.is_some() {
                    let changes = self.changes(delta.page, record.schema.as_ref());
                    value["values"] = changes.json(&delta.ranges);
                }
            }
            Kind::Mark => {
                value["text"] = json!(String::from_utf8_lossy(&delta.mark));
                value["hex"] = json!(hex_digits(&delta.mark));
            }
            _ => {}
        }
        if let Some((size, versions)) = record.created {
            value["size"] = json!(size);
            value["versions"] = json!(versions.max(1));
        }
        if let Some(cold) = &record.cold {
            let schema = Schema::decode(&cold.schema).ok();
            value["name"] = json!(cold.name);
            value["schema"] = json!(schema.map(|schema| schema.to_string()));
            let meta = cold.meta.iter().map(|(k, v)| (k.clone(), json!(v)));
            value["meta"] = Value::Object(meta.collect());
        }
        value
    }
}

/// Whether records of this kind are about a page.
pub fn about_page(kind: Kind) -> bool {
    !matches!(kind, Kind::Source | Kind::Mark)
}

/// The page of a record: its name, else its id.
pub fn page_name(record: &Record) -> String {
    match &*record.page_name {
        _ if !about_page(record.delta.kind) => String::new(),
        "" => record.delta.page.to_string(),
        name => name.to_owned(),
    }
}

/// Who made a record: a name, else a number.
pub fn source_name(record: &Record) -> String {
    match &record.source_name {
        Some(name) => name.to_string(),
        None => format!("#{}", record.delta.source),
    }
}

fn described(cold: &mmsb::Cold) -> String {
    let mut text = String::new();
    if let Ok(schema) = Schema::decode(&cold.schema) {
        text = format!(" {schema}");
    }
    for (key, value) in &cold.meta {
        text.push_str(&format!(" {key}={value}"));
    }
    text
}

/// Ranges as JSON, with their bytes in hex.
pub fn ranges_json(ranges: &[(u32, Vec<u8>)]) -> Value {
    ranges
        .iter()
        .map(|(offset, bytes)| json!({"offset": offset, "len": bytes.len(), "hex": hex_digits(bytes)}))
        .collect()
}
