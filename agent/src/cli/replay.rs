//! `mmsb replay`: plays a recorded range into a bus, or makes a past state a bus.

use std::path::PathBuf;
use std::time::Duration;

use mmsb::history::{Filter, Log};
use mmsb::playback::{Played, Player, Range, Speed};
use mmsb::{AttachError, Bus, BusBuilder, Error};
use serde_json::json;

use super::exit::{Code, Failure};
use super::moments::{self, Moment};
use super::signals::Stop;
use super::{Context, table, units};

const EXAMPLES: &str = "\
Drives a live bus with what was recorded, at the recorded pace (--speed 1), faster (10), or without pauses (max). The bus is
made if there is none. Pages are found or made by name; a range that begins in the middle begins with the pages as they
were then. Deltas carry the names of their recorded sources, groups stay groups, and causes lead to the new LSNs. Ctrl-C
ends it.

With --state-at the state of the bus at that moment becomes a new bus, with all pages, ids, epochs and LSNs of then.

Examples:
  mmsb replay --log /var/lib/mmsb/prices --into rehearsal --speed 1
  mmsb replay --log /var/lib/mmsb/prices --into rehearsal --speed 10 --from -1h --prefix nyse/
  mmsb replay --log /var/lib/mmsb/prices --into copy --speed max --source feed --json
  mmsb replay --log /var/lib/mmsb/prices --state-at 1_000_000 --into then";

/// Arguments of `mmsb replay`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", moments::MOMENTS))]
pub struct Args {
    /// Directory of the log
    #[arg(long, value_name = "DIR")]
    pub log: PathBuf,
    /// The bus to play into, or to make
    #[arg(long, value_name = "BUS")]
    pub into: String,
    /// Times the recorded pace, or max
    #[arg(long, value_name = "X|max", value_parser = speed, default_value = "max")]
    pub speed: Speed,
    /// From this moment on
    #[arg(long, value_name = "MOMENT", value_parser = moments::moment, allow_hyphen_values = true)]
    pub from: Option<Moment>,
    /// Up to this moment
    #[arg(long, value_name = "MOMENT", value_parser = moments::moment, allow_hyphen_values = true)]
    pub to: Option<Moment>,
    /// Only pages whose name started so at that time
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// Only what this source did
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Make all deltas under the name of this tool
    #[arg(long)]
    pub one_source: bool,
    /// Do not play: make the state at this moment a new bus
    #[arg(long, visible_alias = "at", value_name = "MOMENT", value_parser = moments::moment,
          allow_hyphen_values = true, conflicts_with_all = ["from", "to", "prefix", "source", "speed", "one_source"])]
    pub state_at: Option<Moment>,
    /// Greatest size of the bus, if it is made [default: as recorded]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub size: Option<u64>,
    /// Size of its delta ring, if it is made [default: as recorded]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    pub ring: Option<u64>,
}

/// Parses a speed.
///
/// # Errors
///
/// A sentence that says what a speed looks like.
pub fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    let number = text.strip_suffix('x').unwrap_or(text);
    match number.parse::<f64>() {
        Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
        _ => Err(format!(
            "{text:?} is no speed: write a number greater than 0, such as 1 or 10, or max"
        )),
    }
}

/// Runs it.
///
/// # Errors
///
/// That there is no log, what is wrong with it, or what the bus did not take.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let stop = Stop::on_signals()?;
    let log = moments::open(&args.log)?;
    if let Some(moment) = args.state_at {
        return state(&log, moment, args, context);
    }
    let range = Range {
        from: args.from.map_or(Ok(0), |m| m.first_lsn(&log))?,
        to: args.to.map_or(Ok(u64::MAX), |m| m.end_lsn(&log))?,
        filter: Filter {
            prefix: args.prefix.clone(),
            source: args.source.clone(),
            ..Filter::default()
        },
        speed: args.speed,
        keep_sources: !args.one_source,
    };
    let bus = target(&log, args, context)?;
    if bus.log_status().log_id == log.meta().log_id {
        return Err(Failure::usage(format!(
            "{} is the bus that the log is of; playing it into itself would never end, so name another one",
            args.into
        )));
    }
    let played = Player::new(&bus).play(&log, &range, &|| stop.is_requested())?;
    told(&played, args, context)?;
    Ok(Code::Ok)
}

/// A builder with the sizes of the recorded bus.
fn like_recorded(log: &Log, args: &Args, context: &Context) -> Result<BusBuilder, Failure> {
    let mut builder = context
        .bus(&args.into)
        .ring_bytes(u64::from(log.meta().ring_slots) * 64);
    let newest = log.checkpoints()?.into_iter().next();
    if let Some(config) = newest.and_then(|info| info.config) {
        builder = builder
            .bytes_max(config.bytes_max)
            .pages_max(config.pages_max)
            .names_max(config.names_max)
            .sources_max(config.sources_max);
    }
    if let Some(size) = args.size {
        builder = builder.bytes_max(size);
    }
    if let Some(ring) = args.ring {
        builder = builder.ring_bytes(ring);
    }
    Ok(builder)
}

/// The bus to play into, made unless it is there.
fn target(log: &Log, args: &Args, context: &Context) -> Result<Bus, Failure> {
    match context.bus(&args.into).attach() {
        Err(Error::Attach(AttachError::Missing { .. })) => {
            Ok(like_recorded(log, args, context)?.open_or_create()?)
        }
        other => Ok(other?),
    }
}

fn state(log: &Log, moment: Moment, args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let state = log.state_at(moment.at(log)?)?;
    let bus = like_recorded(log, args, context)?.create_from(&state)?;
    let pages = state.len();
    if context.json {
        context.document(&json!({
            "bus": bus.name(),
            "lsn": state.lsn(),
            "time": moments::shown(state.time_ns()),
            "time_ns": state.time_ns(),
            "pages": pages,
            "hash": format!("{:032x}", state.hash()),
        }))?;
        return Ok(Code::Ok);
    }
    context.line(format!(
        "{}: {pages} pages as of LSN {}, {}; hash {:032x}",
        bus.name(),
        state.lsn(),
        moments::shown(state.time_ns()),
        state.hash()
    ))?;
    Ok(Code::Ok)
}

fn told(played: &Played, args: &Args, context: &mut Context) -> Result<(), Failure> {
    let seconds = |time: Duration| time.as_secs_f64();
    if context.json {
        return context.document(&json!({
            "bus": args.into,
            "from_lsn": played.from_lsn,
            "to_lsn": played.to_lsn,
            "records": played.records,
            "groups": played.groups,
            "bytes": played.bytes,
            "pages_created": played.created,
            "pages_adopted": played.adopted,
            "pages_destroyed": played.destroyed,
            "skipped": played.skipped,
            "recorded_seconds": seconds(played.recorded),
            "seconds": seconds(played.took),
            "late_seconds": seconds(played.late),
            "stopped": played.stopped,
        }));
    }
    let per_second = played.records as f64 / seconds(played.took).max(1e-9);
    context.line(format!(
        "{} records of {} in {} ({}), LSN {} to {}",
        table::count(played.records),
        table::duration(played.recorded),
        table::duration(played.took),
        table::rate(per_second),
        played.from_lsn,
        played.to_lsn
    ))?;
    context.line(format!(
        "{} pages made, {} adopted, {} destroyed; {} of pages written",
        played.created,
        played.adopted,
        played.destroyed,
        table::bytes(played.bytes)
    ))?;
    if played.late > Duration::from_millis(10) {
        context.line(format!(
            "at worst {} behind the recorded pace",
            table::duration(played.late)
        ))?;
    }
    if played.skipped > 0 {
        context.line(format!(
            "{} records left out: the log does not reach back to their pages, and the bus has none of that name",
            played.skipped
        ))?;
    }
    if played.stopped {
        context.line("stopped ahead of the end")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_factors_or_max() {
        assert_eq!(speed("max"), Ok(Speed::Max));
        assert_eq!(speed("1"), Ok(Speed::Times(1.0)));
        assert_eq!(speed("0.5x"), Ok(Speed::Times(0.5)));
        for text in ["", "0", "-1", "fast", "inf", "nan"] {
            assert!(speed(text).is_err(), "{text}");
        }
    }
}
