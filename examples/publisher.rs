//! Writes quotes to a bus until it is stopped: `cargo run -p mmsb-examples --example publisher [BUS]`.
//!
//! Start `subscriber` in another terminal, before or after. Kill either one, with any signal, and start it again: the
//! bus and its pages stay. `mmsb rm BUS`, or `publisher BUS --rm`, removes it.

use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use mmsb::schema::Schema;
use mmsb::{Bus, PageSpec};

/// What a quote page holds; the schema below says the same to programs in other languages.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Quote {
    bid: f64,
    ask: f64,
    updates: u64,
}

const SYMBOLS: [&str; 4] = ["ams", "ber", "cdg", "dub"];

fn main() -> mmsb::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "quotes".to_owned());
    if arguments.next().as_deref() == Some("--rm") {
        return Bus::unlink(&name);
    }
    let bus = Bus::builder(&name).source("publisher").open_or_create()?;
    let schema = Schema::parse("quote{bid:f64,ask:f64,updates:u64}")?;
    let pages = SYMBOLS
        .iter()
        .map(|symbol| {
            bus.open_or_create_page(
                PageSpec::with_schema(&schema).name(&format!("quotes/{symbol}")),
            )
        })
        .collect::<mmsb::Result<Vec<_>>>()?;
    println!(
        "publishing {} quotes on bus {name:?}; stop me with ctrl-c",
        pages.len()
    );
    // Where the last run stopped, if there was one.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ bus.end_lsn();
    loop {
        // xorshift: good enough for a random walk.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let page = &pages[(random % 4) as usize];
        let step = ((random >> 8) % 201) as f64 / 100.0 - 1.0;
        page.update_as(|quote: &mut Quote| {
            if quote.updates == 0 {
                quote.bid = 100.0;
            }
            quote.bid += step;
            quote.ask = quote.bid + 0.25;
            quote.updates += 1;
        })?;
        std::thread::sleep(Duration::from_millis(100));
    }
}
