//! A bus, a page, a subscriber in another thread: `cargo run -p mmsb-examples --example quickstart`.

use mmsb::{Bus, Event, PageSpec};

const READINGS: u32 = 5;

fn main() -> mmsb::Result<()> {
    // A name of our own, so that two runs do not meet.
    let name = format!("quickstart-{}", std::process::id());
    let bus = Bus::builder(&name).source("thermometer").create()?;
    let page = bus.create_page(PageSpec::of::<f64>().name("kitchen/celsius"))?;
    println!("bus {name:?}: page {} is {} bytes", page.id(), page.size());

    // Whoever reads along has a participant of his own; `gating` makes the writer wait for him, so he misses nothing.
    let display = bus.another("display")?;
    let (ready, go) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || -> mmsb::Result<()> {
        let mut kitchen = display
            .subscribe()
            .prefix("kitchen/")
            .gating(true)
            .build()?;
        let _ = ready.send(());
        for _ in 0..READINGS {
            if let Event::Delta(delta) = kitchen.next()? {
                let source = display.source_name(delta.source).unwrap_or_default();
                let celsius: f64 = bytemuck::pod_read_unaligned(&delta.ranges[0].1);
                println!("  LSN {} by {source}: {celsius} °C", delta.lsn);
            }
        }
        Ok(())
    });
    let _ = go.recv();
    for i in 0..READINGS {
        page.set(&(20.0 + f64::from(i) / 2.0))?;
    }
    if reader.join().is_err() {
        println!("the display broke");
    }

    let version = page.version()?;
    println!(
        "{} after {} deltas, the last at LSN {}",
        page.read::<f64>()?,
        version.epoch,
        version.lsn
    );
    Bus::unlink(&name)
}
