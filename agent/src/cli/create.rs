//! `mmsb create`: a bus, and pages in it.

use mmsb::PageSpec;
use mmsb::schema::Schema;
use serde_json::json;

use super::exit::{Code, Failure};
use super::{Context, info, table, units};

const EXAMPLES: &str = "\
Address space for --size is only reserved; memory is taken as pages are made. What is given here stays for the life of
the bus.

A page is NAME:SIZE, NAME:SIZE:SCHEMA or NAME::SCHEMA. SIZE takes units; `xN` behind it makes N version slots, so that
readers get through beside a writer that never pauses (4 to 64). A schema is an array, f64[128], or a record,
quote{price:f64,qty:u32,host:char[16]}.

Examples:
  mmsb create prices
  mmsb create prices --size 4G --ring 4M --pages-max 1M
  mmsb create prices --pages nyse/ibm:4K 'nyse/msft::quote{price:f64,qty:u32}' arm:1Kx8:f64[128]
  mmsb create shared --mode 0640 --ctl-mode 0660";

/// Arguments of `mmsb create`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Name of the bus
    pub bus: String,
    /// Greatest size of the bus [default: 64G]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub size: Option<u64>,
    /// Size of the delta ring, rounded up to a power of two [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub ring: Option<u64>,
    /// Most pages at one time [default: 64K]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub pages_max: Option<u32>,
    /// Most pages with a name, schema or metadata [default: 16K]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub names_max: Option<u32>,
    /// Most participants (writing threads) at one time [default: 128]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub participants_max: Option<u32>,
    /// Most subscriptions at one time [default: 128]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub cursors_max: Option<u32>,
    /// Most source names [default: 1024]
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub sources_max: Option<u32>,
    /// Permissions of the pages: who may read may observe [default: 0600]
    #[arg(long, value_name = "OCTAL", value_parser = units::mode)]
    pub mode: Option<u32>,
    /// Permissions of the control segment: who may write it may take part [default: 0600]
    #[arg(long, value_name = "OCTAL", value_parser = units::mode)]
    pub ctl_mode: Option<u32>,
    /// Pages to make.
    #[arg(long, value_name = "PAGE", num_args = 1.., value_parser = page,
          help = "Pages to make: NAME:SIZE[xVERSIONS][:SCHEMA]")]
    pub pages: Vec<NewPage>,
    /// Take a bus of this name as it is, and make only the pages that it lacks
    #[arg(long)]
    pub if_missing: bool,
}

/// A page to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPage {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Version slots, 1 for an ordinary page.
    pub versions: u32,
    /// What the bytes mean.
    pub schema: Option<Schema>,
}

impl NewPage {
    fn spec(&self) -> PageSpec {
        let spec = PageSpec::new(self.size).name(&self.name);
        let spec = if self.versions > 1 {
            spec.versions(self.versions)
        } else {
            spec
        };
        match &self.schema {
            Some(schema) => spec.schema(schema),
            None => spec,
        }
    }
}

/// Parses `NAME:SIZE[xVERSIONS][:SCHEMA]`. The size may be left out where a schema says it.
///
/// # Errors
///
/// A sentence that says what a page looks like, or what is wrong with the size or the schema.
pub fn page(text: &str) -> Result<NewPage, String> {
    let bad = || format!("{text:?} is no page: write NAME:SIZE, NAME:SIZE:SCHEMA or NAME::SCHEMA");
    let (name, rest) = text.split_once(':').ok_or_else(bad)?;
    let (size, schema) = match rest.split_once(':') {
        Some((size, schema)) => (size, Some(schema)),
        None => (rest, None),
    };
    if name.is_empty() {
        return Err(bad());
    }
    let schema = schema
        .map(Schema::parse)
        .transpose()
        .map_err(|e| format!("page {name}: {e}"))?;
    let (size, versions) = match size.split_once('x') {
        Some((size, versions)) => (size, units::count(versions)?),
        None => (size, 1),
    };
    let size = match (&schema, size) {
        (Some(schema), "") => schema.size() as u64,
        (Some(schema), size) => {
            let size = units::size(size)?;
            if size < schema.size() as u64 {
                return Err(format!(
                    "page {name}: its schema needs {} bytes, {size} are too few",
                    schema.size()
                ));
            }
            size
        }
        (None, "") => return Err(bad()),
        (None, size) => units::size(size)?,
    };
    Ok(NewPage {
        name: name.to_owned(),
        size,
        versions,
        schema,
    })
}

/// Runs it.
///
/// # Errors
///
/// Why the bus or a page could not be made. A bus made by this call is removed again if one of its pages cannot be.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let mut builder = context.bus(&args.bus);
    if let Some(size) = args.size {
        builder = builder.bytes_max(size);
    }
    if let Some(ring) = args.ring {
        builder = builder.ring_bytes(ring);
    }
    if let Some(pages) = args.pages_max {
        builder = builder.pages_max(pages);
    }
    if let Some(names) = args.names_max {
        builder = builder.names_max(names);
    }
    if let Some(participants) = args.participants_max {
        builder = builder.participants_max(participants);
    }
    if let Some(cursors) = args.cursors_max {
        builder = builder.cursors_max(cursors);
    }
    if let Some(sources) = args.sources_max {
        builder = builder.sources_max(sources);
    }
    if let Some(mode) = args.mode {
        builder = builder.mode(mode);
    }
    if let Some(mode) = args.ctl_mode {
        builder = builder.ctl_mode(mode);
    }
    let bus = if args.if_missing {
        builder.open_or_create()?
    } else {
        builder.create()?
    };
    let mut pages = Vec::new();
    for page in &args.pages {
        let made = if args.if_missing {
            bus.open_or_create_page(page.spec())
        } else {
            bus.create_page(page.spec())
        };
        match made {
            Ok(made) => pages.push(json!({
                "name": page.name, "id": made.id().to_string(), "size": made.size(),
            })),
            Err(e) => {
                let mut failure = Failure::from(e);
                failure.message = format!("page {}: {}", page.name, failure.message);
                if !args.if_missing {
                    drop(bus);
                    // Half a bus would be in the way of the next attempt.
                    mmsb::Bus::unlink_in(&context.dir, &args.bus)?;
                }
                return Err(failure);
            }
        }
    }
    let bus_info = bus.info()?;
    if context.json {
        let value = json!({"bus": info::bus_json(&bus_info), "pages": pages});
        context.document(&value)?;
    } else {
        let made = match pages.len() {
            0 => String::new(),
            1 => ", 1 page".to_owned(),
            n => format!(", {n} pages"),
        };
        context.line(format!(
            "bus {} in {}: up to {}, ring {}{made}",
            args.bus,
            bus_info.dir.display(),
            table::bytes(bus_info.bytes_max),
            table::bytes(bus_info.ring_bytes),
        ))?;
    }
    Ok(Code::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_a_name_a_size_and_a_schema() {
        let plain = page("a/b:4K").unwrap();
        assert_eq!((plain.name.as_str(), plain.size), ("a/b", 4096));
        assert_eq!((plain.versions, plain.schema), (1, None));
        let cell = page("a:64x8:f64[8]").unwrap();
        assert_eq!((cell.size, cell.versions), (64, 8));
        assert_eq!(cell.schema.map(|s| s.size()), Some(64));
        let record = page("q::quote{price:f64,qty:u32}").unwrap();
        assert_eq!(record.size, 16);
        assert_eq!(page("q::x:u8,y:u8").unwrap().size, 2);
        for bad in ["", "a", ":4K", "a:", "a:x", "a:4Q", "a:4:f64", "a::nope"] {
            assert!(page(bad).is_err(), "{bad}");
        }
    }
}
