//! Everything the library does, step by step: `cargo run -p mmsb-examples --example tutorial`.
//!
//! It makes a bus of its own in `$MMSB_DIR` or `/dev/shm`, and removes it at the end. The last chapter starts this very
//! program once more as a child, and kills it.

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use mmsb::schema::{Schema, Value};
use mmsb::{Bus, Event, From, PageError, PageSpec};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// `Pod` says that any bytes are a valid `Pose`, which is what shared memory may hold. Integers, floats and arrays of
/// them are; `bool`, enums and references are not.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Pose {
    position: [f64; 3],
    heading: f64,
}

fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("victim") {
        return victim(&arguments.next().unwrap_or_default());
    }
    let name = format!("tutorial-{}", std::process::id());
    let result = chapters(&name);
    // Also after an error: a tutorial leaves nothing behind.
    Bus::unlink(&name)?;
    result
}

fn chapters(name: &str) -> Result {
    let bus = Bus::builder(name).source("tutorial").create()?;
    pages(&bus)?;
    values(&bus)?;
    patches(&bus)?;
    large_values(&bus)?;
    batches_and_transactions(&bus)?;
    subscriptions(&bus)?;
    observers(&bus)?;
    recovery(&bus)
}

/// A page is a block of bytes with an id, and mostly a name.
fn pages(bus: &Bus) -> Result {
    println!("1. Pages");
    let page = bus.create_page(PageSpec::new(16).name("notes/first").meta("author", "me"))?;
    println!(
        "   page {} has {} bytes, all zero: {:?}",
        page.id(),
        page.size(),
        page.to_vec()?
    );

    // The name leads to the page, for everybody, until it is destroyed. The id is never used again.
    assert_eq!(bus.page("notes/first")?.id(), page.id());
    bus.rename(page.id(), "notes/renamed")?;
    for info in bus.pages("notes/")? {
        println!(
            "   found {:?}, author {:?}",
            info.cold.name, info.cold.meta[0].1
        );
    }
    bus.destroy(page.id())?;
    match page.to_vec() {
        Err(mmsb::Error::Page(PageError::PageGone(id))) => println!("   page {id} is gone"),
        other => println!("   not expected: {other:?}"),
    }
    Ok(())
}

/// Typed values for Rust programs, fields by name for all others.
fn values(bus: &Bus) -> Result {
    println!("2. Values");
    let page = bus.create_page(PageSpec::of::<Pose>().name("robot/pose"))?;
    page.set(&Pose {
        position: [1.0, 2.0, 0.0],
        heading: 0.5,
    })?;
    let (pose, version) = page.read_versioned::<Pose>()?;
    println!(
        "   {pose:?} at epoch {}, LSN {}",
        version.epoch, version.lsn
    );

    // A read-modify-write: nobody comes in between. Only the bytes that changed go into the log.
    page.update_as(|pose: &mut Pose| pose.heading += 0.25)?;
    println!("   heading is now {}", page.read::<Pose>()?.heading);

    // The schema is stored with the page, so that a program in any language can decode it.
    let schema = Schema::parse("pose{position:f64[3],heading:f64}")?;
    bus.set_schema(page.id(), &schema)?;
    page.expect_schema(&schema)?;
    page.field("position[2]")?.set_text("9.75")?;
    assert_eq!(page.field("position[2]")?.get()?, Value::F64(9.75));
    println!("   position by name: {}", page.field("position")?.get()?);
    Ok(())
}

/// Every write is one delta: atomic, with a place in the one order of the bus.
fn patches(bus: &Bus) -> Result {
    println!("3. Patches");
    let page = bus.create_page(PageSpec::new(32).name("text"))?;
    let first = page.patch(0, b"state x delta -> state'")?;
    // Several ranges, one delta.
    page.patch_many(&[(0, b"S"), (8, b"D")])?;
    // The bytes whose mask is not zero.
    page.write_masked(0, &[0, 1, 0, 1], b"?T?T")?;
    // What led to what: this delta names the first as its cause.
    let effect = page.caused_by(first).patch(22, b"!")?;
    println!(
        "   {:?}, caused by LSN {first}, result of LSN {effect}",
        String::from_utf8_lossy(&page.to_vec()?)
    );

    // A reader that comes by often pays one load if nothing has changed.
    let mut copy = [0; 32];
    let known = page.read_into(&mut copy)?;
    assert!(page.read_if_newer(known, &mut copy)?.is_none());

    // Whatever does not fit is refused with its numbers, and nothing is changed.
    println!("   refused: {}", page.patch(30, b"too long").unwrap_err());
    println!(
        "   refused: {}",
        page.patch_many(&[(4, b"over"), (6, b"lap")]).unwrap_err()
    );
    Ok(())
}

/// Large values are lent and published without a copy, and looked at in place.
fn large_values(bus: &Bus) -> Result {
    println!("4. Large values");
    let page = bus.create_page(PageSpec::new(8 << 20).name("camera/frame"))?;
    let mut frame = page.loan()?;
    frame.fill(0x80);
    frame.publish()?;
    let view = page.view()?;
    // The page moves on; the view stays as it is.
    let mut next = page.loan()?;
    next.fill(0xff);
    next.publish()?;
    println!(
        "   the view holds {:#x}, the page {:#x}",
        view[0],
        page.to_vec()?[0]
    );
    Ok(())
}

/// A batch is for speed, a transaction for all or nothing.
fn batches_and_transactions(bus: &Bus) -> Result {
    println!("5. Batches and transactions");
    let account = |name: &str| bus.create_page(PageSpec::of::<i64>().name(name));
    let (alice, bob) = (account("accounts/alice")?, account("accounts/bob")?);
    let receipt = bus
        .batch()
        .patch(&alice, 0, &100i64.to_ne_bytes())
        .patch(&bob, 0, &100i64.to_ne_bytes())
        .mark(b"opening balances")
        .commit()?;
    println!("   three deltas, LSN {} to {}", receipt.first, receipt.last);

    // The closure may run several times: whenever somebody else changed what it had read. So it has no effects of its own.
    let transfer = |amount: i64| {
        bus.transaction(|tx| {
            let (a, b) = (tx.read::<i64>(&alice)?, tx.read::<i64>(&bob)?);
            if a < amount {
                return Err(mmsb::Error::abort(format!("alice has only {a}")));
            }
            tx.set(&alice, &(a - amount))?;
            tx.set(&bob, &(b + amount))
        })
    };
    transfer(70)?;
    println!("   a second transfer: {}", transfer(70).unwrap_err());

    // A cut of several pages is one instant, and never holds half a transaction.
    let cut = bus.snapshot(&[alice.id(), bob.id()])?;
    let sum: i64 = cut
        .iter()
        .map(|image| bytemuck::pod_read_unaligned::<i64>(&image.bytes))
        .sum();
    println!("   alice and bob have {sum} together");
    Ok(())
}

/// Following the deltas, here from another thread. Between processes it is the same, with `Bus::attach`.
fn subscriptions(bus: &Bus) -> Result {
    println!("6. Subscriptions");
    bus.create_page(PageSpec::new(8).name("sensors/a"))?;
    // One participant per thread.
    let worker = bus.another("sensor thread")?;
    // A gating subscriber misses nothing: writers wait for it. A lossy one (the default) may get `Event::Gap`.
    let mut sensors = bus
        .subscribe()
        .prefix("sensors/")
        .from(From::Snapshot)
        .gating(true)
        .build()?;
    let thread = std::thread::spawn(move || -> mmsb::Result<()> {
        worker.page("sensors/a")?.patch(0, b"one")?;
        // The prefix covers what is created, renamed and destroyed later.
        let late = worker.create_page(PageSpec::new(8).name("sensors/b"))?;
        late.patch(0, b"two")?;
        worker.destroy(late.id())
    });
    // Wait without a CPU: until the next event, or for a while, or in an event loop with `pollable()`.
    while let Some(event) = sensors.next_timeout(Duration::from_millis(300))? {
        match event {
            Event::Image(image) => {
                println!("   image of {} at LSN {}", image.id, image.version.lsn)
            }
            Event::Created(info) => println!("   created {:?}", info.cold.name),
            Event::Delta(delta) => println!(
                "   LSN {} by {:?}: {} bytes of page {}",
                delta.lsn,
                bus.source_name(delta.source).unwrap_or_default(),
                delta
                    .ranges
                    .iter()
                    .map(|(_, bytes)| bytes.len())
                    .sum::<usize>(),
                delta.page
            ),
            Event::Destroyed(id) => println!("   page {id} was destroyed"),
            other => println!("   {other:?}"),
        }
    }
    thread.join().map_err(|_| "the sensor thread panicked")??;
    Ok(())
}

/// An observer maps the bus read-only.
fn observers(bus: &Bus) -> Result {
    println!("7. Observers");
    let observer = Bus::observe(bus.name())?;
    let pose = observer.page("robot/pose")?.read::<Pose>()?;
    println!(
        "   sees {pose:?}, and {} pages in all",
        observer.all_pages()?.len()
    );
    let mut follower = observer.follow_prefix("robot/")?;
    bus.page("robot/pose")?
        .update_as(|pose: &mut Pose| pose.heading = 0.0)?;
    if let Event::Delta(delta) = follower.next()? {
        println!("   follows to LSN {}", delta.lsn);
    }
    Ok(())
}

/// A process dies in the middle of whatever it does. Nobody has to be told.
fn recovery(bus: &Bus) -> Result {
    println!("8. Recovery");
    let page = bus.create_page(PageSpec::new(4096).name("victim/page"))?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["victim", bus.name()])
        .stdin(Stdio::null())
        .spawn()?;
    while page.version()?.epoch < 1000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // SIGKILL: wherever it is just now, probably inside a commit.
    child.kill()?;
    child.wait()?;
    // This read finishes its work if need be. The page holds one whole delta: 4096 times the same byte.
    let bytes = page.to_vec()?;
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "half a delta");
    println!(
        "   killed after {} deltas; the page is whole",
        page.version()?.epoch
    );
    println!("   repaired {} dead participants", bus.recover()?);
    let stats = bus.stats()?;
    println!(
        "   recoveries so far: {}, participants now: {}",
        stats.counter("recoveries"),
        stats.participants.len()
    );
    page.patch(0, b"life goes on")?;
    Ok(())
}

/// The child of the last chapter: overwrites a page until it is killed.
fn victim(bus: &str) -> Result {
    let bus = Bus::builder(bus).source("victim").attach()?;
    let page = bus.page("victim/page")?;
    for i in 0u64.. {
        page.write(&[i as u8; 4096])?;
    }
    Ok(())
}
