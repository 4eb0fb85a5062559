//! Markdown that reads well as it is, too.

/// The side on which a column's cells line up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// For text.
    Left,
    /// For numbers.
    Right,
}

/// Rows under a line of headings.
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings and no rows.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Table {
        let columns = columns.into_iter();
        Table {
            columns: columns
                .map(|(heading, align)| (heading.into(), align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells are Markdown already.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Whether there is nothing under the headings.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table, with a line end behind every row.
    pub fn to_markdown(&self) -> String {
        let width = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].chars().count());
            let heading = self.columns[at].0.chars().count();
            // A rule of three dashes is the shortest that every reader of Markdown takes.
            cells.chain([heading, 3]).max().unwrap_or(3)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = String>| {
            for cell in cells {
                text.push_str("| ");
                text.push_str(&cell);
                text.push(' ');
            }
            text.push_str("|\n");
        };
        let padded = |cell: &str, at: usize| {
            let room = " ".repeat(widths[at] - cell.chars().count());
            match self.columns[at].1 {
                Align::Left => format!("{cell}{room}"),
                Align::Right => format!("{room}{cell}"),
            }
        };
        let headings = self.columns.iter().enumerate();
        line(&mut headings.map(|(at, (heading, _))| padded(heading, at)));
        let rules = self.columns.iter().zip(&widths);
        line(&mut rules.map(|((_, align), width)| match align {
            Align::Left => "-".repeat(*width),
            Align::Right => format!("{}:", "-".repeat(width - 1)),
        }));
        for row in &self.rows {
            line(&mut row.iter().enumerate().map(|(at, cell)| padded(cell, at)));
        }
        text
    }
}

/// Text that means what it says: on one line, and no mark of Markdown or HTML in it is one.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut before = ' ';
    let mut rest = words.chars().peekable();
    while let Some(character) = rest.next() {
        let within = |other: Option<&char>| other.is_some_and(|other| other.is_alphanumeric());
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            // Within a word it is no mark: `try_claim`.
            '_' if within(Some(&before)) && within(rest.peek()) => out.push('_'),
            '|' | '*' | '_' | '[' | ']' | '`' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            _ => out.push(character),
        }
        before = character;
    }
    out
}

/// Prose that may hold code in backticks, and addresses in angle brackets: on one line, and no HTML. Not for tables.
pub fn prose(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out = String::with_capacity(words.len());
    let mut in_code = false;
    for (at, character) in words.char_indices() {
        in_code ^= character == '`';
        if character == '<' && !in_code && !words[at..].starts_with("<http") {
            out.push_str("&lt;");
        } else {
            out.push(character);
        }
    }
    out
}

/// Something to type, as code. A backtick would end it and becomes a quote.
pub fn code(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("`{}`", words.replace('`', "'").replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("what", Align::Left), ("µs", Align::Right)]);
        table.row(["a".into(), "1,234".into()]);
        table.row(["longer".into(), "×".into()]);
        let expected =
            "| what   |    µs |\n| ------ | ----: |\n| a      | 1,234 |\n| longer |     × |\n";
        assert_eq!(table.to_markdown(), expected);
    }

    #[test]
    fn a_short_row_is_filled_up() {
        let mut table = Table::new([("a", Align::Left), ("b", Align::Left)]);
        table.row(["x".into()]);
        assert!(table.to_markdown().ends_with("| x   |     |\n"));
    }

    #[test]
    fn text_from_a_file_stays_text() {
        assert_eq!(plain("a|b\n <c> *d*"), "a\\|b &lt;c> \\*d\\*");
        assert_eq!(plain("try_claim _it_"), "try_claim \\_it\\_");
        assert_eq!(
            prose("`a<b>`\n<c> <https://d>"),
            "`a<b>` &lt;c> <https://d>"
        );
        assert_eq!(code("x `y` | z"), "`x 'y' \\| z`");
    }
}
