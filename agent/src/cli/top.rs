//! `mmsb top`: what happens on the buses of this machine, while it happens.
//!
//! It looks from outside, as an observer, and needs no agent. What only participants may see (the control segment) is
//! left out where the permissions do not suffice.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use mmsb::{Bus, CursorStats, Inspection, ParticipantStats};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table as Grid, TableState};
use ratatui::{DefaultTerminal, Frame};
use serde::Serialize;

use super::exit::{Code, Failure};
use super::signals::Stop;
use super::table::{Align, Table, byte_rate, bytes, count, escaped, rate};
use super::{Context, units};
use crate::daemon::supervise;
use crate::sampling::{HotPage, HotPages};

const EXAMPLES: &str = "\
Keys: q ends it; up and down choose the bus; s changes the order of the buses, r turns it round.

Rates are over the time since the look before. With --once there are two looks, an interval apart. With --json and without
--once, each look is one line.

Examples:
  mmsb top
  mmsb top prices --interval 250ms
  mmsb top --once
  mmsb top --once --json | jq '.buses[] | {name, delta_rate}'";

/// Arguments of `mmsb top`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Only these buses
    #[arg(value_name = "BUS")]
    pub buses: Vec<String>,
    /// Time between two looks
    #[arg(long, short, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    pub interval: Duration,
    /// Print one look and end
    #[arg(long)]
    pub once: bool,
    /// Order of the buses
    #[arg(long, value_enum, default_value_t = Sort::Rate)]
    pub sort: Sort,
    /// Pages shown of each bus
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub pages: usize,
}

/// Order of the buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Most deltas a second first.
    Rate,
    /// By name.
    Name,
    /// Greatest lag first.
    Lag,
    /// Most memory first.
    Memory,
}

impl Sort {
    fn next(self) -> Sort {
        match self {
            Sort::Rate => Sort::Name,
            Sort::Name => Sort::Lag,
            Sort::Lag => Sort::Memory,
            Sort::Memory => Sort::Rate,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Sort::Rate => "deltas a second",
            Sort::Name => "name",
            Sort::Lag => "lag",
            Sort::Memory => "memory",
        }
    }
}

/// One bus at one look.
#[derive(Clone, Debug, Serialize)]
pub struct BusLook {
    /// Its name.
    pub name: String,
    /// `ok`, or the name of an exit code.
    pub state: &'static str,
    /// Why it could not be looked at.
    pub message: Option<String>,
    /// Pages.
    pub pages: u64,
    /// Memory of its page segment.
    pub memory_bytes: u64,
    /// Bytes of its ring.
    pub ring_bytes: u64,
    /// Deltas a second.
    pub delta_rate: f64,
    /// Payload bytes a second; `None` for who may only observe.
    pub byte_rate: Option<f64>,
    /// Where its ring ends.
    pub end_lsn: u64,
    /// Everything ahead of it is committed, as last noted.
    pub published_lsn: u64,
    /// How its log is.
    pub log: &'static str,
    /// Everything ahead of it is on disk.
    pub durable_lsn: u64,
    /// LSNs that are committed and not on disk.
    pub durable_lag: u64,
    /// The greatest lag of a subscription.
    pub cursor_lag: u64,
    /// Participants; `None` for who may only observe.
    pub participants: Option<Vec<ParticipantStats>>,
    /// Subscriptions with a cursor; `None` for who may only observe.
    pub cursors: Option<Vec<CursorStats>>,
    /// The pages that change most.
    pub hot_pages: Vec<HotPage>,
}

impl BusLook {
    fn failed(name: &str, failure: Failure) -> BusLook {
        BusLook {
            name: name.to_owned(),
            state: failure.code.name(),
            message: Some(failure.message),
            pages: 0,
            memory_bytes: 0,
            ring_bytes: 0,
            delta_rate: 0.0,
            byte_rate: None,
            end_lsn: 0,
            published_lsn: 0,
            log: supervise::LogState::None.name(),
            durable_lsn: 0,
            durable_lag: 0,
            cursor_lag: 0,
            participants: None,
            cursors: None,
            hot_pages: Vec::new(),
        }
    }

    /// What is durable, in a word.
    fn durable(&self) -> String {
        match self.log {
            "none" => "volatile".to_owned(),
            "running" if self.durable_lag == 0 => "all".to_owned(),
            "running" => format!("{} behind", count(self.durable_lag)),
            other => format!("log {other}"),
        }
    }
}

/// What is remembered of a bus from look to look.
#[derive(Debug, Default)]
struct Memory {
    hot: HotPages,
    /// Id of the bus, deltas and bytes at the look before.
    totals: Option<(String, u64, u64, Instant)>,
}

/// Looks at buses again and again.
#[derive(Debug, Default)]
pub struct Watcher {
    memories: BTreeMap<String, Memory>,
}

impl Watcher {
    /// Looks at these buses, or at all in the directory.
    ///
    /// # Errors
    ///
    /// That the directory cannot be read. A bus that cannot be looked at is there with the reason.
    pub fn look(
        &mut self,
        context: &Context,
        names: &[String],
        pages: usize,
    ) -> Result<Vec<BusLook>, Failure> {
        let names = if names.is_empty() {
            Bus::list_in(&context.dir)?
        } else {
            names.to_vec()
        };
        self.memories.retain(|name, _| names.contains(name));
        let looks = names.iter().map(|name| {
            let memory = self.memories.entry(name.clone()).or_default();
            look(context, name, memory, pages)
                .unwrap_or_else(|failure| BusLook::failed(name, failure))
        });
        Ok(looks.collect())
    }
}

fn look(
    context: &Context,
    name: &str,
    memory: &mut Memory,
    most: usize,
) -> Result<BusLook, Failure> {
    let observer = context.bus(name).observe()?;
    let mut info = observer.info()?;
    let ring = observer.ring();
    let all = observer.all_pages()?;
    let log = supervise::log_of_observer(&observer);
    let now = Instant::now();
    if memory.totals.as_ref().is_some_and(|t| t.0 != info.id) {
        // Another bus of this name.
        *memory = Memory::default();
    }
    let hot_pages = memory.hot.look(&all, now, most);
    let stats = match Inspection::of(&context.dir, name) {
        Ok(inspection) => {
            info = inspection.info;
            Some(inspection.stats)
        }
        Err(error) => {
            let failure = Failure::from(error);
            if failure.code != Code::Permission {
                return Err(failure);
            }
            None
        }
    };
    let (deltas, payload) = stats.as_ref().map_or((0, 0), |s| (s.deltas, s.bytes));
    let before = memory
        .totals
        .replace((info.id.clone(), deltas, payload, now));
    let rates = match (&stats, before) {
        (Some(_), Some((_, d, b, at))) => {
            let passed = now.duration_since(at).as_secs_f64().max(1e-6);
            let per_second = |new: u64, old: u64| new.saturating_sub(old) as f64 / passed;
            Some((per_second(deltas, d), per_second(payload, b)))
        }
        _ => None,
    };
    let published = ring
        .published
        .max(stats.as_ref().map_or(0, |s| s.published_lsn));
    let durable_lag = if log.state == supervise::LogState::None {
        0
    } else {
        published.saturating_sub(log.durable_lsn)
    };
    Ok(BusLook {
        name: name.to_owned(),
        state: Code::Ok.name(),
        message: None,
        pages: all.len() as u64,
        memory_bytes: info.pages_blocks_bytes,
        ring_bytes: ring.bytes,
        delta_rate: rates.map_or(memory.hot.rate(), |(deltas, _)| deltas),
        byte_rate: rates.map(|(_, payload)| payload),
        end_lsn: ring.end,
        published_lsn: published,
        log: log.state.name(),
        durable_lsn: log.durable_lsn,
        durable_lag,
        cursor_lag: stats
            .iter()
            .flat_map(|s| &s.cursors)
            .map(|c| c.lag)
            .max()
            .unwrap_or(0),
        cursors: stats.as_ref().map(|s| s.cursors.clone()),
        participants: stats.map(|s| s.participants),
        hot_pages,
    })
}

fn sort(looks: &mut [BusLook], by: Sort, is_reversed: bool) {
    looks.sort_by(|a, b| {
        let order = match by {
            Sort::Rate => b.delta_rate.total_cmp(&a.delta_rate),
            Sort::Name => std::cmp::Ordering::Equal,
            Sort::Lag => {
                let lag = |look: &BusLook| look.cursor_lag.max(look.durable_lag);
                lag(b).cmp(&lag(a))
            }
            Sort::Memory => b.memory_bytes.cmp(&a.memory_bytes),
        };
        let order = order.then_with(|| a.name.cmp(&b.name));
        if is_reversed { order.reverse() } else { order }
    });
}

/// Runs it.
///
/// # Errors
///
/// That a bus which was named does not exist, that the directory cannot be read, or that there is no terminal.
pub fn run(args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let is_interactive = !args.once && !context.json;
    if is_interactive && !std::io::stdout().is_terminal() {
        return Err(Failure::usage(
            "standard output is no terminal: `mmsb top --once` prints one look, `mmsb top --json` one in each line",
        ));
    }
    if args.interval.is_zero() {
        return Err(Failure::usage("an interval of nothing"));
    }
    for name in &args.buses {
        context.bus(name).observe()?;
    }
    let mut watcher = Watcher::default();
    watcher.look(context, &args.buses, args.pages)?;
    if is_interactive {
        return Screen::new(args)?.run(&mut watcher, args, context);
    }
    if args.once {
        std::thread::sleep(args.interval);
        return once(&mut watcher, args, context);
    }
    let stop = Stop::on_signals()?;
    let mut next = Instant::now() + args.interval;
    while !stop.is_requested() {
        let left = next.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::sleep(left.min(Duration::from_millis(50)));
            continue;
        }
        next += args.interval;
        let mut looks = watcher.look(context, &args.buses, args.pages)?;
        sort(&mut looks, args.sort, false);
        if !stop.may_write() {
            break;
        }
        context.event(&document(&looks))?;
    }
    Ok(Code::Ok)
}

fn document(looks: &[BusLook]) -> serde_json::Value {
    serde_json::json!({ "buses": looks })
}

fn once(watcher: &mut Watcher, args: &Args, context: &mut Context) -> Result<Code, Failure> {
    let mut looks = watcher.look(context, &args.buses, args.pages)?;
    sort(&mut looks, args.sort, false);
    if context.json {
        context.document(&document(&looks))?;
        return Ok(Code::Ok);
    }
    if looks.is_empty() {
        context.line(format!("no buses in {}", context.dir.display()))?;
        return Ok(Code::Ok);
    }
    let mut buses = Table::new(&[
        ("bus", Align::Left),
        ("state", Align::Left),
        ("pages", Align::Right),
        ("memory", Align::Right),
        ("deltas", Align::Right),
        ("payload", Align::Right),
        ("participants", Align::Right),
        ("cursor lag", Align::Right),
        ("durable", Align::Left),
    ]);
    for look in &looks {
        buses.row(bus_cells(look));
    }
    context.table(&buses)?;
    let mut pages = Table::new(&[
        ("page", Align::Left),
        ("bus", Align::Left),
        ("deltas", Align::Right),
        ("epoch", Align::Right),
        ("size", Align::Right),
    ]);
    for look in &looks {
        for page in look.hot_pages.iter().filter(|page| page.rate > 0.0) {
            pages.row([
                page.name.as_str(),
                &look.name,
                &rate(page.rate),
                &count(page.epoch),
                &bytes(page.size.into()),
            ]);
        }
    }
    if !pages.is_empty() {
        context.line("")?;
        context.table(&pages)?;
    }
    Ok(Code::Ok)
}

fn bus_cells(look: &BusLook) -> [String; 9] {
    let state = match &look.message {
        Some(message) => message.clone(),
        None => look.state.to_owned(),
    };
    let alive = look
        .participants
        .as_ref()
        .map(|all| all.iter().filter(|p| p.alive).count() as u64);
    [
        look.name.clone(),
        state,
        count(look.pages),
        bytes(look.memory_bytes),
        rate(look.delta_rate),
        look.byte_rate.map_or_else(String::new, byte_rate),
        alive.map_or_else(String::new, count),
        count(look.cursor_lag),
        look.durable(),
    ]
}

/// The terminal while it is ours.
struct Screen {
    terminal: DefaultTerminal,
    sort: Sort,
    is_reversed: bool,
    /// Name of the bus whose pages are shown.
    chosen: Option<String>,
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

impl Screen {
    fn new(args: &Args) -> Result<Screen, Failure> {
        Ok(Screen {
            terminal: ratatui::try_init()?,
            sort: args.sort,
            is_reversed: false,
            chosen: None,
        })
    }

    fn run(
        mut self,
        watcher: &mut Watcher,
        args: &Args,
        context: &Context,
    ) -> Result<Code, Failure> {
        let mut looks = Vec::new();
        let mut due = Instant::now();
        loop {
            if Instant::now() >= due {
                due = Instant::now() + args.interval;
                looks = watcher.look(context, &args.buses, args.pages)?;
            }
            sort(&mut looks, self.sort, self.is_reversed);
            let chosen = self.choice(&looks);
            let (by, is_reversed) = (self.sort, self.is_reversed);
            self.terminal.draw(|frame| {
                draw(frame, &looks, chosen, by, is_reversed);
            })?;
            let left = due.saturating_duration_since(Instant::now());
            if event::poll(left)? && self.takes(&event::read()?, &looks, chosen) {
                return Ok(Code::Ok);
            }
        }
    }

    /// Row of the chosen bus, wherever it is now.
    fn choice(&self, looks: &[BusLook]) -> usize {
        let chosen = self.chosen.as_ref();
        chosen
            .and_then(|name| looks.iter().position(|look| look.name == *name))
            .unwrap_or(0)
    }

    /// Takes a key; `true` for the end.
    fn takes(&mut self, event: &Event, looks: &[BusLook], chosen: usize) -> bool {
        let Event::Key(key) = event else { return false };
        if key.kind != KeyEventKind::Press {
            return false;
        }
        let mut choose = |row: usize| self.chosen = looks.get(row).map(|look| look.name.clone());
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            // In raw mode Ctrl-C is a key, no signal.
            KeyCode::Char('c') if key.modifiers == KeyModifiers::CONTROL => return true,
            KeyCode::Up | KeyCode::Char('k') => choose(chosen.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => {
                choose((chosen + 1).min(looks.len().saturating_sub(1)));
            }
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            _ => {}
        }
        false
    }
}

const BUS_HEADINGS: [&str; 9] = [
    "bus",
    "state",
    "pages",
    "memory",
    "deltas",
    "payload",
    "participants",
    "cursor lag",
    "durable",
];

fn draw(frame: &mut Frame<'_>, looks: &[BusLook], chosen: usize, by: Sort, is_reversed: bool) {
    let rows = u16::try_from(looks.len()).unwrap_or(u16::MAX);
    let height = frame.area().height;
    let [top, middle, foot] = Layout::vertical([
        Constraint::Length(rows.saturating_add(3).clamp(4, (height / 3).max(4))),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let order = if is_reversed { ", reversed" } else { "" };
    let grid = Grid::new(
        looks.iter().map(|look| {
            let style = match look.message {
                Some(_) => Style::new().fg(Color::Red),
                None => Style::new(),
            };
            Row::new(bus_cells(look).map(|cell| Cell::from(escaped(&cell)))).style(style)
        }),
        [
            Constraint::Min(12),
            Constraint::Min(6),
            Constraint::Length(9),
            Constraint::Length(10),
            Constraint::Length(11),
            Constraint::Length(11),
            Constraint::Length(12),
            Constraint::Length(11),
            Constraint::Length(14),
        ],
    )
    .header(heading(&BUS_HEADINGS))
    .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
    .block(Block::bordered().title(format!(" buses by {}{order} ", by.name())));
    let mut state = TableState::default().with_selected((!looks.is_empty()).then_some(chosen));
    frame.render_stateful_widget(grid, top, &mut state);
    if let Some(look) = looks.get(chosen) {
        draw_bus(frame, middle, look);
    }
    let keys = " q quit   ↑↓ bus   s order   r reverse ";
    let keys = Paragraph::new(Line::from(Span::styled(
        keys,
        Style::new().add_modifier(Modifier::DIM),
    )));
    frame.render_widget(keys, foot);
}

fn heading<'a>(names: &[&'a str]) -> Row<'a> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Row::new(names.iter().map(|name| Cell::from(*name))).style(bold)
}

fn draw_bus(frame: &mut Frame<'_>, area: Rect, look: &BusLook) {
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(area);
    let title = format!(" hottest pages of {} ", escaped(&look.name));
    let pages = Grid::new(
        look.hot_pages.iter().map(|page| {
            Row::new([
                escaped(&page.name),
                rate(page.rate),
                count(page.epoch),
                bytes(page.size.into()),
            ])
        }),
        [
            Constraint::Min(12),
            Constraint::Length(11),
            Constraint::Length(14),
            Constraint::Length(10),
        ],
    )
    .header(heading(&["page", "deltas", "epoch", "size"]))
    .block(Block::bordered().title(title));
    frame.render_widget(pages, left);
    let [cursors, participants] =
        Layout::vertical([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(right);
    let title = format!(
        " LSN {}, durable {}: subscriptions ",
        look.end_lsn, look.durable_lsn
    );
    let (Some(people), Some(list)) = (&look.participants, &look.cursors) else {
        let text = "only participants may see them";
        let block = Block::bordered().title(title);
        frame.render_widget(Paragraph::new(text).block(block), right);
        return;
    };
    let rows = list.iter().map(|cursor| {
        let of = people.iter().find(|p| p.index == cursor.participant);
        Row::new([
            format!("#{}", cursor.index),
            of.map_or(String::new(), |p| escaped(&p.name)),
            if cursor.gating { "gating" } else { "lossy" }.to_owned(),
            count(cursor.lag),
            count(cursor.missed),
        ])
    });
    let grid = Grid::new(
        rows,
        [
            Constraint::Length(5),
            Constraint::Min(10),
            Constraint::Length(7),
            Constraint::Length(11),
            Constraint::Length(11),
        ],
    )
    .header(heading(&["", "of", "kind", "lag", "missed"]))
    .block(Block::bordered().title(title));
    frame.render_widget(grid, cursors);
    let rows = people.iter().map(|p| {
        let style = if p.alive {
            Style::new()
        } else {
            Style::new().fg(Color::Red)
        };
        Row::new([
            escaped(&p.name),
            p.pid.to_string(),
            if p.alive { "alive" } else { "dead" }.to_owned(),
            count(p.deltas),
            bytes(p.bytes),
        ])
        .style(style)
    });
    let grid = Grid::new(
        rows,
        [
            Constraint::Min(10),
            Constraint::Length(8),
            Constraint::Length(6),
            Constraint::Length(14),
            Constraint::Length(11),
        ],
    )
    .header(heading(&["participant", "pid", "state", "deltas", "bytes"]))
    .block(Block::bordered().title(" participants "));
    frame.render_widget(grid, participants);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn named(name: &str, rate: f64, memory: u64) -> BusLook {
        let mut look = BusLook::failed(name, Failure::problem(""));
        look.message = None;
        look.delta_rate = rate;
        look.memory_bytes = memory;
        look
    }

    #[test]
    fn buses_are_sorted_as_asked() {
        let mut looks = vec![named("a", 1.0, 5), named("b", 9.0, 3), named("c", 1.0, 9)];
        let mut order = |by, is_reversed| {
            sort(&mut looks, by, is_reversed);
            looks.iter().map(|l| l.name.clone()).collect::<String>()
        };
        assert_eq!(order(Sort::Rate, false), "bac");
        assert_eq!(order(Sort::Rate, true), "cab");
        assert_eq!(order(Sort::Name, false), "abc");
        assert_eq!(order(Sort::Memory, false), "cab");
    }

    #[test]
    fn the_screen_shows_the_chosen_bus() {
        let mut looks = vec![named("prices", 1.0, 5), named("arm", 9.0, 3)];
        looks[1].hot_pages.push(HotPage {
            name: "joint/1".to_owned(),
            id: "0.1".to_owned(),
            size: 8,
            epoch: 3,
            lsn: 4,
            rate: 12.0,
        });
        looks[1].participants = Some(Vec::new());
        looks[1].cursors = Some(Vec::new());
        let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
        terminal
            .draw(|frame| draw(frame, &looks, 1, Sort::Rate, false))
            .unwrap();
        let text = terminal.backend().to_string();
        for expected in [
            "prices",
            "hottest pages of arm",
            "joint/1",
            "participants",
            "q quit",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
