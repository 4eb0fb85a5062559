//! Tables for people: columns that line up, numbers to the right, nothing wider than the terminal.
//!
//! Cells may come from shared memory, where anybody may have written them: control characters are shown escaped,
//! so that a page's name cannot drive the terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use ratatui::text::Span;

/// Between two columns.
const GAP: usize = 2;
/// A text column is not cut below this many terminal cells.
const WIDTH_MIN: usize = 6;

/// The side on which a column's cells line up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// For text, which may be cut to fit the terminal.
    Left,
    /// For numbers, which are never cut.
    Right,
}

/// Where a table goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Terminal cells in a line; `None` for as many as it takes.
    pub width: Option<usize>,
    /// Whether to use escape sequences for emphasis.
    pub colours: bool,
}

impl Style {
    /// For a file or a pipe: whole cells, no colours.
    pub const PLAIN: Style = Style {
        width: None,
        colours: false,
    };

    /// What standard output takes: plain unless it is a terminal; no colours under `NO_COLOR`. `COLUMNS` overrides
    /// the terminal's width.
    pub fn of_stdout() -> Style {
        if !io::stdout().is_terminal() {
            return Style::PLAIN;
        }
        let columns = std::env::var("COLUMNS").ok();
        let width = columns
            .and_then(|columns| columns.parse().ok())
            .or_else(|| {
                let (columns, _) = ratatui::crossterm::terminal::size().ok()?;
                Some(usize::from(columns))
            });
        Style {
            // Some serial consoles say 0, which means that they do not know.
            width: width.filter(|width| *width > 0),
            colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }
}

/// Rows under a line of headings.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings and no rows.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        Table {
            columns: columns
                .iter()
                .map(|(heading, align)| (escaped(heading), *align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Cells that are missing are blank, cells beyond the last column are dropped.
    pub fn row<I>(&mut self, cells: I)
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut cells: Vec<String> = cells
            .into_iter()
            .take(self.columns.len())
            .map(|cell| escaped(cell.as_ref()))
            .collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes headings and rows, each as a line.
    ///
    /// # Errors
    ///
    /// What writing to `out` gave.
    pub fn print(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let widths = self.widths(style.width);
        let headings: Vec<&str> = self
            .columns
            .iter()
            .map(|(heading, _)| heading.as_str())
            .collect();
        let line = self.line(&headings, &widths);
        if style.colours {
            writeln!(out, "\x1b[1m{line}\x1b[0m")?;
        } else {
            writeln!(out, "{line}")?;
        }
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            writeln!(out, "{}", self.line(&cells, &widths))?;
        }
        Ok(())
    }

    /// The widest cell of each column, then cells taken from the widest text column until the line fits.
    fn widths(&self, line_width: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, (heading, _))| {
                let cells = self.rows.iter().map(|row| width_of(&row[i]));
                cells.fold(width_of(heading), usize::max)
            })
            .collect();
        let Some(line_width) = line_width else {
            return widths;
        };
        let gaps = GAP * widths.len().saturating_sub(1);
        let mut excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(line_width);
        while excess > 0 {
            let text = (0..widths.len()).filter(|&i| self.columns[i].1 == Align::Left);
            match text.max_by_key(|&i| widths[i]) {
                Some(widest) if widths[widest] > WIDTH_MIN => {
                    widths[widest] -= 1;
                    excess -= 1;
                }
                // Better a long line than none of the text or half a number.
                _ => break,
            }
        }
        widths
    }

    fn line(&self, cells: &[&str], widths: &[usize]) -> String {
        let mut line = String::new();
        for (i, (cell, &width)) in cells.iter().zip(widths).enumerate() {
            if i > 0 {
                line.extend([' '; GAP]);
            }
            let cell = cut(cell, width);
            let blanks = width.saturating_sub(width_of(&cell));
            match self.columns[i].1 {
                Align::Left => {
                    line.push_str(&cell);
                    line.extend(std::iter::repeat_n(' ', blanks));
                }
                Align::Right => {
                    line.extend(std::iter::repeat_n(' ', blanks));
                    line.push_str(&cell);
                }
            }
        }
        line.truncate(line.trim_end_matches(' ').len());
        line
    }
}

/// Terminal cells that `text` takes: wide characters count two, combining ones none.
pub fn width_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// `text` with its control characters written as `\n`, `\u{1b}` and so on.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Direction overrides are no control characters, but can make a line read as another one.
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn cut(text: &str, width: usize) -> String {
    if width_of(text) <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    let mut utf8 = [0; 4];
    for c in text.chars() {
        used += width_of(c.encode_utf8(&mut utf8));
        if used >= width {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// Three significant digits, so that a column of sizes or rates stays narrow.
fn three_digits(value: f64) -> String {
    // The limits are where rounding would add a digit: 9.996 is 10.0.
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // Where rounding would show `step` itself, the next unit is the shorter way to say it.
    while value >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let separator = if units[unit].is_empty() { "" } else { " " };
    format!("{}{separator}{}", three_digits(value), units[unit])
}

/// A size: `512 B`, `1.50 KiB`, `64.0 MiB`.
pub fn bytes(value: u64) -> String {
    if value < 1024 {
        return format!("{value} B");
    }
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    scaled(value as f64, 1024.0, &units)
}

/// Events in a second: `0.50/s`, `1.20 k/s`, `3.45 M/s`. What is no number is `-`.
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() || per_second < 0.0 {
        return "-".to_owned();
    }
    let number = scaled(per_second, 1000.0, &["", "k", "M", "G", "T"]);
    format!("{number}/s")
}

/// Bytes in a second: `1.50 MiB/s`. What is no number is `-`.
pub fn byte_rate(per_second: f64) -> String {
    if !per_second.is_finite() || per_second < 0.0 {
        return "-".to_owned();
    }
    format!("{}/s", bytes(per_second.round() as u64))
}

/// A duration: `85 ns`, `1.20 µs`, `3.00 ms`, `12.3 s`, `4 min 05 s`, `2 h 03 min`, `5 d 01 h`.
pub fn duration(value: Duration) -> String {
    let nanos = value.as_nanos();
    if nanos < 1000 {
        return format!("{nanos} ns");
    }
    let seconds = value.as_secs();
    if value < Duration::from_millis(59_950) {
        return scaled(nanos as f64, 1000.0, &["ns", "µs", "ms", "s"]);
    }
    // Not yet a minute, but too close to one to print as seconds with one digit after the point.
    let seconds = seconds.max(60);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if minutes < 60 {
        format!("{minutes} min {:02} s", seconds % 60)
    } else if hours < 24 {
        format!("{hours} h {:02} min", minutes % 60)
    } else {
        format!("{days} d {:02} h", hours % 24)
    }
}

/// A count with thousands apart: `1_234_567`, as `mmsb write` reads it back.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(table: &Table, style: Style) -> String {
        let mut out = Vec::new();
        table.print(&mut out, style).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn pages() -> Table {
        let mut table = Table::new(&[
            ("name", Align::Left),
            ("epoch", Align::Right),
            ("owner", Align::Left),
        ]);
        table.row(["proc/cpu", "7", "agent"]);
        table.row(["温度", "12345", ""]);
        table
    }

    #[test]
    fn columns_line_up_also_under_wide_characters() {
        assert_eq!(
            printed(&pages(), Style::PLAIN),
            "name      epoch  owner\nproc/cpu      7  agent\n温度      12345\n"
        );
    }

    #[test]
    fn text_is_cut_to_the_terminal_and_numbers_are_not() {
        let mut table = Table::new(&[("name", Align::Left), ("lsn", Align::Right)]);
        table.row(["a-rather-long-page-name", "1234567890"]);
        let narrow = Style {
            width: Some(20),
            colours: false,
        };
        assert_eq!(
            printed(&table, narrow),
            "name             lsn\na-rathe…  1234567890\n"
        );
        let hopeless = Style {
            width: Some(3),
            colours: false,
        };
        assert_eq!(
            printed(&table, hopeless),
            "name           lsn\na-rat…  1234567890\n"
        );
    }

    #[test]
    fn only_a_terminal_gets_escape_sequences() {
        assert!(!printed(&pages(), Style::PLAIN).contains('\x1b'));
        let coloured = Style {
            width: None,
            colours: true,
        };
        assert!(printed(&pages(), coloured).starts_with("\x1b[1mname"));
    }

    #[test]
    fn cells_cannot_drive_the_terminal_or_break_the_line() {
        let mut table = Table::new(&[("name", Align::Left)]);
        table.row(["a\nb\x1b[2J\u{202e}c"]);
        assert_eq!(
            printed(&table, Style::PLAIN),
            "name\na\\nb\\u{1b}[2J\\u{202e}c\n"
        );
    }

    #[test]
    fn rows_of_the_wrong_length_are_filled_or_cut() {
        let mut table = Table::new(&[("a", Align::Left), ("b", Align::Right)]);
        table.row(["1"]);
        table.row(["1", "2", "3"]);
        table.row(Vec::<String>::new());
        assert_eq!(printed(&table, Style::PLAIN), "a  b\n1\n1  2\n\n");
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn sizes_and_rates_have_three_digits_at_every_limit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(10 * 1024), "10.0 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.00 MiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(rate(0.5), "0.50/s");
        assert_eq!(rate(999.9), "1.00 k/s");
        assert_eq!(rate(3_450_000.0), "3.45 M/s");
        assert_eq!(rate(f64::NAN), "-");
        assert_eq!(byte_rate(1.5 * 1048576.0), "1.50 MiB/s");
        assert_eq!(byte_rate(-1.0), "-");
    }

    #[test]
    fn durations_read_naturally_at_every_limit() {
        let text = |nanos: u64| duration(Duration::from_nanos(nanos));
        assert_eq!(text(0), "0 ns");
        assert_eq!(text(999), "999 ns");
        assert_eq!(text(1_200), "1.20 µs");
        assert_eq!(text(999_999), "1.00 ms");
        assert_eq!(text(12_345_000_000), "12.3 s");
        assert_eq!(text(59_990_000_000), "1 min 00 s");
        assert_eq!(text(245_000_000_000), "4 min 05 s");
        assert_eq!(text(7_380_000_000_000), "2 h 03 min");
        assert_eq!(
            duration(Duration::from_secs(5 * 86_400 + 3_700)),
            "5 d 01 h"
        );
        assert!(duration(Duration::MAX).ends_with(" h"));
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1_000");
        assert_eq!(count(u64::MAX), "18_446_744_073_709_551_615");
    }
}
