//! Prints the quotes that `publisher` writes: `cargo run -p mmsb-examples --example subscriber [BUS]`.
//!
//! It starts from a snapshot, so it knows all quotes at once, and then follows the changes. It is lossy: should it fall
//! behind by a whole ring, it is told so and gets fresh images; the publisher is never delayed.

use std::collections::BTreeMap;
use std::time::Duration;

use mmsb::schema::Schema;
use mmsb::{Bus, Event, From, PageId};

/// A page as this program knows it.
struct Known {
    name: String,
    schema: Option<Schema>,
    bytes: Vec<u8>,
}

impl Known {
    fn look_up(bus: &Bus, id: PageId, bytes: Vec<u8>) -> mmsb::Result<Known> {
        let page = bus.page_by_id(id)?;
        Ok(Known {
            name: page.name()?,
            schema: page.schema()?,
            bytes,
        })
    }

    fn print(&self, what: &str) -> mmsb::Result<()> {
        print!("{what:<8} {:<12}", self.name);
        if let Some(schema) = &self.schema {
            for field in schema.fields() {
                print!(
                    " {} = {:<10.10}",
                    field.name,
                    schema.read_value(field, &self.bytes)?.to_string()
                );
            }
        }
        println!();
        Ok(())
    }
}

fn attach(name: &str) -> mmsb::Result<Bus> {
    let mut told = false;
    loop {
        match Bus::builder(name).source("subscriber").attach() {
            Err(e) if e.is_missing() => {
                if !told {
                    println!("waiting for bus {name:?}; start the publisher");
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            other => return other,
        }
    }
}

fn main() -> mmsb::Result<()> {
    let name = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "quotes".to_owned());
    let bus = attach(&name)?;
    let mut quotes = bus
        .subscribe()
        .prefix("quotes/")
        .from(From::Snapshot)
        .build()?;
    let mut known: BTreeMap<PageId, Known> = BTreeMap::new();
    loop {
        let Some(event) = quotes.next_timeout(Duration::from_secs(1))? else {
            if !bus.is_named() {
                println!("bus {name:?} was removed");
                return Ok(());
            }
            continue;
        };
        match event {
            Event::Image(image) => {
                // Gone again before we could look: its end is an event of its own.
                if let Ok(page) = Known::look_up(&bus, image.id, image.bytes) {
                    page.print("image")?;
                    known.insert(image.id, page);
                }
            }
            Event::Created(info) => {
                if let Ok(page) = Known::look_up(&bus, info.id, vec![0; info.size as usize]) {
                    known.insert(info.id, page);
                }
            }
            Event::Delta(delta) => {
                if let Some(page) = known.get_mut(&delta.page) {
                    delta.apply(&mut page.bytes);
                    page.print("delta")?;
                }
            }
            Event::Destroyed(id) | Event::Left(id) => drop(known.remove(&id)),
            Event::Gap(gap) => {
                println!("missed LSN {} to {}; fresh images follow", gap.from, gap.to)
            }
            other => println!("{other:?}"),
        }
    }
}
