//! Where the demo is shown while it runs: tables on a terminal, or a line a second.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Table};

use crate::cli::table::{byte_rate, count, duration, escaped, rate};

use super::message::Latency;
use super::torment::{Picture, Screen};

/// A line a second, to standard error: standard output is for the summary.
#[derive(Debug, Default)]
pub struct Progress {
    said_at: Option<Instant>,
}

impl Screen for Progress {
    fn show(&mut self, picture: &Picture<'_>) -> io::Result<bool> {
        let now = Instant::now();
        if self
            .said_at
            .is_some_and(|at| now.duration_since(at) < Duration::from_secs(1))
        {
            return Ok(false);
        }
        self.said_at = Some(now);
        // Nobody has to listen.
        let _ = writeln!(io::stderr(), "{}", line(picture));
        Ok(false)
    }
}

/// The state in one line.
pub fn line(picture: &Picture<'_>) -> String {
    let recoveries = &picture.observed.recoveries;
    format!(
        "{:>5.1} s  {:>11} deltas  {} killed, {} inside a commit  {} read, {} torn",
        picture.elapsed.as_secs_f64(),
        rate(picture.rate),
        picture.facts.kills(),
        recoveries.inside_commits(),
        count(picture.observed.reads),
        picture.observed.torn + picture.followed.faults.torn,
    )
}

/// The whole terminal, until dropped.
#[derive(Debug)]
pub struct Terminal {
    terminal: DefaultTerminal,
}

impl Terminal {
    /// Takes the terminal over. It is given back by dropping, and by a panic.
    ///
    /// # Errors
    ///
    /// What the terminal said.
    pub fn new() -> io::Result<Terminal> {
        Ok(Terminal {
            terminal: ratatui::try_init()?,
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

impl Screen for Terminal {
    fn show(&mut self, picture: &Picture<'_>) -> io::Result<bool> {
        self.terminal.draw(|frame| draw(frame, picture))?;
        while event::poll(Duration::ZERO)? {
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                // In raw mode Ctrl-C is a key, no signal.
                let is_interrupt =
                    key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
                if is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Draws the state.
pub fn draw(frame: &mut Frame<'_>, picture: &Picture<'_>) {
    let pages = picture.observed.pages.len() as u16 + 3;
    let [head, numbers, middle, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(8),
        Constraint::Min(pages.min(8)),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, picture);
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(numbers);
    draw_traffic(frame, left, picture);
    draw_torment(frame, right, picture);
    let [table, list] =
        Layout::horizontal([Constraint::Min(40), Constraint::Length(26)]).areas(middle);
    draw_pages(frame, table, picture);
    draw_processes(frame, list, picture);
    frame.render_widget(
        Paragraph::new(" q or Ctrl-C ends it, with the summary").style(dim()),
        foot,
    );
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// Green as long as it is zero.
fn must_be_zero(n: u64) -> Span<'static> {
    let colour = if n == 0 { Color::Green } else { Color::Red };
    Span::styled(n.to_string(), Style::new().fg(colour))
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let total = picture.options.duration.as_secs_f64();
    let elapsed = picture.elapsed.as_secs_f64();
    let label = format!(
        "mmsb demo: bus {}, seed {}, {elapsed:.0} of {total:.0} s",
        escaped(&picture.options.bus),
        picture.options.seed
    );
    let ratio = if total > 0.0 {
        (elapsed / total).clamp(0.0, 1.0)
    } else {
        1.0
    };
    frame.render_widget(
        Gauge::default()
            .ratio(ratio)
            .label(label)
            .gauge_style(Style::new().fg(Color::Blue)),
        area,
    );
}

fn latency_line(name: &str, latency: &Latency) -> Line<'static> {
    let time = |ns: u64| duration(Duration::from_nanos(ns));
    Line::from(format!(
        "{name:<9} p50 {}  p99 {}  max {}",
        time(latency.p50_ns),
        time(latency.p99_ns),
        time(latency.max_ns)
    ))
}

fn draw_traffic(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let lines = vec![
        Line::from(vec![
            Span::styled(rate(picture.rate), bold()),
            Span::raw(format!(" deltas, {}", byte_rate(picture.byte_rate))),
        ]),
        Line::from(format!(
            "{} deltas delivered, {} pages read",
            count(picture.followed.deltas),
            count(picture.observed.reads)
        )),
        latency_line("commit", &picture.commits),
        latency_line("delivery", &picture.followed.delivery),
        Line::from(vec![
            Span::raw("torn pages "),
            must_be_zero(picture.observed.torn + picture.followed.faults.torn),
            Span::raw("  holes "),
            must_be_zero(picture.followed.faults.holes),
            Span::raw("  duplicates "),
            must_be_zero(picture.followed.faults.duplicates),
        ]),
    ];
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(" traffic ")),
        area,
    );
}

fn draw_torment(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let r = &picture.observed.recoveries;
    let lines = vec![
        Line::from(vec![
            Span::styled(picture.facts.kills().to_string(), bold()),
            Span::raw(format!(
                " killed ({} writers, {} publishers), {} stopped",
                picture.facts.kills_of_writers,
                picture.facts.kills_of_publishers,
                picture.facts.stops
            )),
        ]),
        Line::from(vec![
            Span::styled(r.inside_commits().to_string(), bold()),
            Span::raw(" inside a commit, by what they left:"),
        ]),
        Line::from(format!("  CLAIMED {:<8} READY  {}", r.claimed, r.ready)),
        Line::from(format!("  odd     {:<8} locked {}", r.odd, r.locked)),
        Line::from(vec![
            Span::raw(format!("{} recovered, stuck ", r.all)),
            must_be_zero(picture.facts.stuck.len() as u64),
            Span::raw("  failed "),
            must_be_zero(picture.facts.failure_count),
        ]),
    ];
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(" torment ")),
        area,
    );
}

fn draw_pages(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let rows = picture.observed.pages.iter().map(|page| {
        Row::new([
            Cell::from(escaped(&page.name)),
            Cell::from(Line::from(count(page.epoch)).right_aligned()),
            Cell::from(escaped(&page.text)),
        ])
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(12),
        Constraint::Min(20),
    ];
    let header = Row::new([
        Cell::from("page"),
        Cell::from(Line::from("epoch").right_aligned()),
        Cell::from("values, as the observer decodes them"),
    ]);
    frame.render_widget(
        Table::new(rows, widths)
            .header(header.style(bold()))
            .block(Block::bordered().title(" pages ")),
        area,
    );
}

fn draw_processes(frame: &mut Frame<'_>, area: Rect, picture: &Picture<'_>) {
    let lines: Vec<Line<'_>> = picture
        .processes
        .iter()
        .map(|(name, doing)| {
            let colour = match *doing {
                "at work" => Color::Green,
                "stopped" => Color::Red,
                _ => Color::Yellow,
            };
            Line::from(vec![
                Span::raw(format!("{name:<13} ")),
                Span::styled(*doing, Style::new().fg(colour)),
            ])
        })
        .collect();
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(" processes ")),
        area,
    );
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use ratatui::backend::TestBackend;

    use super::super::message::{Followed, Observed, Recoveries, Shown};
    use super::super::report::Facts;
    use super::super::torment::Options;
    use super::*;

    #[test]
    fn the_screen_shows_pages_rates_kills_and_recoveries() {
        let options = Options {
            bus: "demo-1".into(),
            dir: PathBuf::from("/dev/shm"),
            duration: Duration::from_secs(20),
            seed: 42,
            writers: 2,
            kills_per_second: 10.0,
            ring_bytes: 1 << 20,
            keep: false,
        };
        let observed = Observed {
            recoveries: Recoveries {
                all: 9,
                claimed: 1,
                ready: 2,
                odd: 3,
                locked: 4,
                recoverer: 0,
            },
            pages: vec![Shown {
                name: "proc/cpu".into(),
                epoch: 1234,
                lsn: 5,
                text: "cpus 2\x1b[2J".into(),
            }],
            ..Observed::default()
        };
        let facts = Facts {
            kills_of_writers: 11,
            ..Facts::default()
        };
        let picture = Picture {
            options: &options,
            elapsed: Duration::from_secs(5),
            facts: &facts,
            observed: &observed,
            followed: &Followed::default(),
            rate: 1.5e6,
            byte_rate: 1e8,
            commits: Latency::default(),
            processes: vec![("writer 0".into(), "stopped")],
        };
        for (width, height) in [(100, 30), (20, 5), (1, 1)] {
            let mut terminal = ratatui::Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &picture)).unwrap();
            if width < 100 {
                continue;
            }
            let text: String = terminal
                .backend()
                .buffer()
                .content()
                .iter()
                .map(|cell| cell.symbol())
                .collect();
            for part in [
                "demo-1",
                "seed 42",
                "1.50 M/s",
                "proc/cpu",
                "1_234",
                "writer 0",
                "stopped",
                "odd     3",
                "11 writers",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(!text.contains('\x1b'));
        }
        assert!(line(&picture).contains("11 killed, 10 inside a commit"));
    }
}
