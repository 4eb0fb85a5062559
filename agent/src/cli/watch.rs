//! `mmsb watch`: the deltas of a bus as they come, decoded by the pages' schemas.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use mmsb::{
    Bus, Error, Event, From, Gap, Kind, Observer, ObserverSubscription, OwnedDelta, PageError,
    PageId, PageImage, PageInfo, Subscription,
};
use serde_json::{Value, json};

use super::exit::{Code, Failure};
use super::info::schema_of;
use super::signals::Stop;
use super::{Context, units};

pub(super) mod changes;

use changes::Changes;

const EXAMPLES: &str = "\
A line for each delta: LSN, page, epoch, source, kind, and what changed, decoded by the page's schema, else in hex. The
watcher never delays a writer: one that is overtaken says what it missed. Ctrl-C ends it.

With --json, a line for each event: delta, image, created, entered, described, left, destroyed, gap, waiting. The epoch
is null where it is not known.

Examples:
  mmsb watch prices
  mmsb watch prices --prefix nyse/ --from snapshot
  mmsb watch prices --page nyse/ibm --count 10 --json
  mmsb watch prices --observe";

/// How long it sleeps at most before it looks whether it shall end.
const NAP: Duration = Duration::from_millis(100);

/// Arguments of `mmsb watch`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The bus
    pub bus: String,
    /// Only this page; can be given several times
    #[arg(long, value_name = "PAGE")]
    pub page: Vec<String>,
    /// Only pages whose name starts so, also those made later
    #[arg(long, conflicts_with = "page")]
    pub prefix: Option<String>,
    /// Where to begin
    #[arg(long, value_enum, default_value_t = Begin::Now)]
    pub from: Begin,
    /// End after so many deltas
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// End after this time
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub seconds: Option<Duration>,
    /// Map the bus read-only and take no part in it
    #[arg(long)]
    pub observe: bool,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Begin {
    /// With the next delta
    Now,
    /// With the present content of the pages
    Snapshot,
}

/// What is known of a page.
struct Known {
    name: String,
    changes: Changes,
    /// Epoch and LSN of a moment, from which later epochs are counted.
    at: Option<(u64, u64)>,
}

/// A participant's view of the bus, or an observer's.
enum Side<'b> {
    Participant(&'b Bus),
    Observer(&'b Observer),
}

impl Side<'_> {
    fn page_info(&self, id: PageId) -> Result<PageInfo, Error> {
        match self {
            Side::Participant(bus) => bus.page_info(id),
            Side::Observer(observer) => observer.page_info(id),
        }
    }

    fn source_name(&self, source: u16) -> Option<String> {
        match self {
            Side::Participant(bus) => bus.source_name(source),
            Side::Observer(observer) => observer.source_name(source),
        }
    }
}

enum Feed<'b> {
    Participant(Box<Subscription<'b>>),
    Observer(Box<ObserverSubscription<'b>>),
}

impl Feed<'_> {
    fn next(&mut self, timeout: Duration) -> Result<Option<Event>, Error> {
        match self {
            Feed::Participant(feed) => feed.next_timeout(timeout),
            Feed::Observer(feed) => feed.next_timeout(timeout),
        }
    }
}

/// Runs it.
///
/// # Errors
///
/// Why the bus or a page could not be followed, or that the bus was removed meanwhile.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let stop = Stop::on_signals()?;
    if args.observe {
        let observer = context.bus(&args.bus).observe()?;
        let ids = ids(&args.page, |name| observer.page(name).map(|page| page.id()))?;
        let feed = match &args.prefix {
            Some(prefix) => observer.follow_prefix(prefix)?,
            None if ids.is_empty() => observer.follow()?,
            None => observer.follow_pages(&ids)?,
        };
        // The follower has its place already, so a delta is in the images, behind them, or in both.
        let images = match args.from {
            Begin::Now => Vec::new(),
            Begin::Snapshot => images(&observer, args.prefix.as_deref(), &ids)?,
        };
        let mut watch = Watch::new(Side::Observer(&observer), context, &stop);
        watch.begin(images)?;
        return watch.follow(Feed::Observer(Box::new(feed)), args);
    }
    let bus = context.bus(&args.bus).attach()?;
    let ids = ids(&args.page, |name| bus.page(name).map(|page| page.id()))?;
    let subscribe = bus.subscribe().from(match args.from {
        Begin::Now => From::Now,
        Begin::Snapshot => From::Snapshot,
    });
    let subscribe = match &args.prefix {
        Some(prefix) => subscribe.prefix(prefix),
        None if ids.is_empty() => subscribe,
        None => subscribe.pages(&ids),
    };
    let feed = subscribe.build()?;
    Watch::new(Side::Participant(&bus), context, &stop)
        .follow(Feed::Participant(Box::new(feed)), args)
}

fn ids(
    names: &[String],
    find: impl Fn(&str) -> Result<PageId, Error>,
) -> Result<Vec<PageId>, Failure> {
    let ids = names.iter().map(|name| find(name));
    Ok(ids.collect::<Result<_, _>>()?)
}

/// The pages as they are now. One that goes meanwhile, or does not hold still, is left out.
fn images(
    observer: &Observer,
    prefix: Option<&str>,
    ids: &[PageId],
) -> Result<Vec<PageImage>, Failure> {
    let ids: Vec<PageId> = match prefix {
        Some(prefix) => observer.pages(prefix)?.iter().map(|page| page.id).collect(),
        None if ids.is_empty() => observer.all_pages()?.iter().map(|page| page.id).collect(),
        None => ids.to_vec(),
    };
    let mut images = Vec::new();
    for id in ids {
        match observer.snapshot(&[id]) {
            Ok(mut image) => images.append(&mut image),
            Err(Error::Page(PageError::PageGone(_) | PageError::Contended(_))) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(images)
}

struct Watch<'b, 'c> {
    side: Side<'b>,
    context: &'c mut Context,
    stop: &'c Stop,
    known: HashMap<PageId, Known>,
    sources: HashMap<u16, String>,
    /// Images that were shown ahead of the feed hold the deltas up to here.
    held: HashMap<PageId, u64>,
    deltas: u64,
}

impl<'b, 'c> Watch<'b, 'c> {
    fn new(side: Side<'b>, context: &'c mut Context, stop: &'c Stop) -> Watch<'b, 'c> {
        Watch {
            side,
            context,
            stop,
            known: HashMap::new(),
            sources: HashMap::new(),
            held: HashMap::new(),
            deltas: 0,
        }
    }

    fn begin(&mut self, images: Vec<PageImage>) -> Result<(), Failure> {
        for image in images {
            self.held.insert(image.id, image.version.lsn);
            self.image(&image)?;
        }
        Ok(())
    }

    fn follow(mut self, mut feed: Feed<'_>, args: &Args) -> Result<Code, Failure> {
        let deadline = args.seconds.map(|time| Instant::now() + time);
        let mut looked_at = Instant::now();
        while !self.stop.is_requested()
            && args.count.is_none_or(|count| self.deltas < count)
            && deadline.is_none_or(|deadline| Instant::now() < deadline)
        {
            let left = deadline.map_or(NAP, |deadline| {
                deadline.saturating_duration_since(Instant::now()).min(NAP)
            });
            match feed.next(left) {
                Ok(Some(event)) => self.event(&event)?,
                Ok(None) => {}
                // Somebody is slow or stopped, nobody is wrong: say so, and go on waiting.
                Err(Error::Page(
                    error @ (PageError::Timeout { .. }
                    | PageError::Stalled { .. }
                    | PageError::Contended(_)),
                )) => {
                    self.say(
                        json!({"event": "waiting", "message": error.to_string()}),
                        || format!("waiting: {error}"),
                    )?;
                }
                Err(error) => return Err(error.into()),
            }
            if looked_at.elapsed() > Duration::from_secs(1) {
                looked_at = Instant::now();
                if let Side::Participant(bus) = self.side
                    && !bus.is_named()
                {
                    return Err(Error::from(PageError::BusGone).into());
                }
            }
        }
        Ok(Code::Ok)
    }

    /// One line, as JSON or as text, at once.
    fn say(&mut self, value: Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if !self.stop.may_write() {
            return Ok(());
        }
        if self.context.json {
            return self.context.event(&value);
        }
        let text = super::table::escaped(&text());
        self.context.line(text)?;
        self.context.out.flush()?;
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), Failure> {
        match event {
            Event::Delta(delta) => self.delta(delta),
            Event::Image(image) => self.image(image),
            Event::Created(info) => self.described("created", info),
            Event::Entered(info) => self.described("entered", info),
            Event::Described(info) => self.described("described", info),
            Event::Left(id) => self.gone("left", *id),
            Event::Destroyed(id) => self.gone("destroyed", *id),
            Event::Gap(gap) => self.gap(*gap),
            // Nothing to show for kinds of events that are not known yet.
            _ => Ok(()),
        }
    }

    /// What is known of the page; looked up once.
    fn known(&mut self, id: PageId) -> &mut Known {
        let side = &self.side;
        self.known.entry(id).or_insert_with(|| {
            // A page that is gone by now has a delta still to be shown.
            let info = side.page_info(id).ok();
            Known {
                name: info
                    .as_ref()
                    .map(|info| info.cold.name.clone())
                    .filter(|name| !name.is_empty())
                    .unwrap_or_else(|| id.to_string()),
                changes: Changes::new(info.as_ref().and_then(schema_of)),
                at: info.map(|info| (info.epoch, info.lsn)),
            }
        })
    }

    fn delta(&mut self, delta: &OwnedDelta) -> Result<(), Failure> {
        if self
            .held
            .get(&delta.page)
            .is_some_and(|held| delta.lsn <= *held)
        {
            return Ok(());
        }
        let side = &self.side;
        let source = self
            .sources
            .entry(delta.source)
            .or_insert_with(|| {
                side.source_name(delta.source)
                    .unwrap_or_else(|| format!("#{}", delta.source))
            })
            .clone();
        let kind = kind_name(delta.kind);
        if delta.kind == Kind::Mark {
            self.deltas += 1;
            let text = String::from_utf8_lossy(&delta.mark).into_owned();
            return self.say(
                json!({
                    "event": "mark", "lsn": delta.lsn, "source": source,
                    "time_ns": delta.time_ns, "text": text,
                }),
                || format!("{:>10}  mark by {source}: {text}", delta.lsn),
            );
        }
        let known = self.known(delta.page);
        let epoch = match known.at {
            Some((epoch, lsn)) if lsn < delta.lsn => {
                known.at = Some((epoch + 1, delta.lsn));
                Some(epoch + 1)
            }
            Some((epoch, lsn)) if lsn == delta.lsn => Some(epoch),
            // Older than what was looked up: the count back is not known.
            _ => None,
        };
        let name = known.name.clone();
        let (text, values) = if self.context.json {
            (
                String::new(),
                self.known(delta.page).changes.json(&delta.ranges),
            )
        } else {
            (
                self.known(delta.page).changes.text(&delta.ranges),
                Value::Null,
            )
        };
        self.deltas += 1;
        if self.context.json {
            let ranges: Vec<Value> = delta
                .ranges
                .iter()
                .map(|(offset, bytes)| json!({"offset": offset, "len": bytes.len()}))
                .collect();
            let value = json!({
                "event": "delta", "lsn": delta.lsn, "page": name, "id": delta.page.to_string(),
                "epoch": epoch, "source": source, "kind": kind, "time_ns": delta.time_ns,
                "cause": delta.cause, "transaction": delta.transaction,
                "ranges": ranges, "values": values,
            });
            return self.say(value, String::new);
        }
        let epoch = epoch.map_or("?".to_owned(), |epoch| epoch.to_string());
        let cause = match delta.cause {
            0 => String::new(),
            lsn => format!(" because of {lsn}"),
        };
        self.say(Value::Null, || {
            format!(
                "{:>10}  {name}  epoch {epoch}  {source}  {kind}{cause}  {text}",
                delta.lsn
            )
        })
    }

    fn image(&mut self, image: &PageImage) -> Result<(), Failure> {
        let known = self.known(image.id);
        known.at = Some((image.version.epoch, image.version.lsn));
        let name = known.name.clone();
        let whole = [(0u32, image.bytes.clone())];
        let changes = &self.known[&image.id].changes;
        let (epoch, lsn) = (image.version.epoch, image.version.lsn);
        if self.context.json {
            let value = json!({
                "event": "image", "lsn": lsn, "page": name, "id": image.id.to_string(),
                "epoch": epoch, "len": image.bytes.len(), "values": changes.json(&whole),
            });
            return self.say(value, String::new);
        }
        let text = changes.text(&whole);
        self.say(Value::Null, || {
            format!("{lsn:>10}  {name}  epoch {epoch}  image  {text}")
        })
    }

    fn described(&mut self, event: &str, info: &PageInfo) -> Result<(), Failure> {
        let at = self.known.remove(&info.id).and_then(|known| known.at);
        // A page that was just made begins with its first delta, whatever it is by now.
        let at = if event == "created" {
            Some((0, 0))
        } else {
            at.or(Some((info.epoch, info.lsn)))
        };
        let schema = schema_of(info);
        let described = schema.as_ref().map(ToString::to_string);
        let name = if info.cold.name.is_empty() {
            info.id.to_string()
        } else {
            info.cold.name.clone()
        };
        self.known.insert(
            info.id,
            Known {
                name: name.clone(),
                changes: Changes::new(schema),
                at,
            },
        );
        self.say(
            json!({
                "event": event, "page": name, "id": info.id.to_string(),
                "size": info.size, "schema": described,
            }),
            || {
                let schema = described.as_deref().unwrap_or("no schema");
                format!("            {name}  {event}: {} bytes, {schema}", info.size)
            },
        )
    }

    fn gone(&mut self, event: &str, id: PageId) -> Result<(), Failure> {
        let name = self.known(id).name.clone();
        self.known.remove(&id);
        self.say(
            json!({"event": event, "page": name, "id": id.to_string()}),
            || format!("            {name}  {event}"),
        )
    }

    fn gap(&mut self, gap: Gap) -> Result<(), Failure> {
        // Epochs went on meanwhile; they are looked up again.
        for known in self.known.values_mut() {
            known.at = None;
        }
        self.say(
            json!({"event": "gap", "from": gap.from, "to": gap.to}),
            || {
                format!(
                    "{:>10}  overtaken: missed LSN {} to {}",
                    gap.to,
                    gap.from,
                    gap.to.saturating_sub(1)
                )
            },
        )?;
        self.known.retain(|_, known| known.at.is_some());
        Ok(())
    }
}

pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Patch => "patch",
        Kind::Ranges => "ranges",
        Kind::Masked => "masked",
        Kind::Swap => "swap",
        Kind::Create => "create",
        Kind::Destroy => "destroy",
        Kind::Describe => "describe",
        Kind::Source => "source",
        Kind::Mark => "mark",
        _ => "other",
    }
}
