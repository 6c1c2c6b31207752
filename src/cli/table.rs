//! The one writer of tables: names to the left, numbers to the right, within the width of a terminal.

use std::borrow::Cow;
use std::fmt;

use crate::cli::common::Common;
use crate::cli::output::{columns, printable};
use crate::math::Interval;
use crate::say;

/// Widest table, in columns of a terminal.
pub(crate) const MAX_COLUMNS: usize = 100;
/// Narrowest column of names.
const MIN_NAME: usize = 8;
/// Longest name, in columns: several lines of it.
const MOST_NAME: usize = 300;
/// Columns between two cells.
const GAP: usize = 2;

/// A column.
pub(crate) struct Column {
    head: String,
    kind: Kind,
}

/// What stands in a column.
#[derive(Clone, Copy)]
enum Kind {
    Names,
    Numbers,
    /// Numbers under a name, which is broken into lines no wider than that, behind the signs that join its parts.
    UnderName(usize),
}

impl Column {
    fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Names)
    }
}

/// A column of names: to the left, and shortened where the table is too wide.
pub(crate) fn name(head: &str) -> Column {
    Column { head: head.into(), kind: Kind::Names }
}

/// A column of numbers: to the right.
pub(crate) fn number(head: &str) -> Column {
    Column { head: head.into(), kind: Kind::Numbers }
}

/// A column of numbers under a name, in lines no wider than that.
pub(crate) fn parts(head: &str, widest: usize) -> Column {
    Column { head: head.into(), kind: Kind::UnderName(widest) }
}

/// Signs that join the parts of a name, and blanks.
const JOINTS: [char; 6] = [' ', '-', '_', '.', '/', ':'];

/// A name in its parts.
fn words_of_parts(line: &str) -> Box<dyn Iterator<Item = textwrap::core::Word<'_>> + '_> {
    Box::new(line.split_inclusive(JOINTS).map(textwrap::core::Word::from))
}

/// A table that is filled row by row.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row, a cell for every column.
    pub(crate) fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    /// Width of every column: that of its widest cell, or of its head, which numbers wrap. Names give way until all fit, the
    /// widest first.
    fn widths(&self) -> Vec<usize> {
        let longest = |column: &Column| {
            let head = &column.head;
            match column.kind {
                Kind::Names => columns(head),
                Kind::UnderName(widest) => columns(head).min(widest),
                Kind::Numbers => head.split(' ').map(columns).max().unwrap_or(0),
            }
        };
        let mut widths: Vec<usize> = self.columns.iter().map(longest).collect();
        for row in &self.rows {
            widths.iter_mut().zip(row).for_each(|(width, cell)| *width = columns(cell).max(*width));
        }
        let gaps = GAP * widths.len().saturating_sub(1);
        loop {
            let excess = (widths.iter().sum::<usize>() + gaps).saturating_sub(MAX_COLUMNS);
            let names = (0..widths.len()).filter(|i| self.columns[*i].is_name() && widths[*i] > MIN_NAME);
            match names.max_by_key(|i| widths[*i]) {
                Some(widest) if excess > 0 => widths[widest] -= 1,
                _ => return widths,
            }
        }
    }
}

impl Table {
    /// A row in lines: a name that is too wide goes on below, so that no two names are cut alike.
    fn lines(&self, row: &[String], widths: &[usize]) -> Vec<Vec<String>> {
        let cells = row.iter().zip(&self.columns).zip(widths);
        let in_lines = |((cell, column), width): ((&String, &Column), &usize)| -> Vec<String> {
            if column.is_name() { in_width(&printable(cell, MOST_NAME), *width) } else { vec![cell.clone()] }
        };
        let cells: Vec<Vec<String>> = cells.map(in_lines).collect();
        let n_lines = cells.iter().map(Vec::len).max().unwrap_or(0);
        let line = |i: usize| cells.iter().map(|cell| cell.get(i).cloned().unwrap_or_default()).collect();
        (0..n_lines).map(line).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        // Heads in as many lines as the tallest needs; the last one stands on the numbers.
        let in_lines = |(column, width): (&'_ Column, &usize)| {
            let lines = textwrap::Options::new(*width);
            match column.kind {
                Kind::UnderName(_) => {
                    let parts = textwrap::WordSeparator::Custom(words_of_parts);
                    let whole = textwrap::WordSplitter::NoHyphenation;
                    textwrap::wrap(&column.head, lines.word_separator(parts).word_splitter(whole))
                }
                Kind::Names | Kind::Numbers => textwrap::wrap(&column.head, lines),
            }
            .into_iter()
            .map(Cow::into_owned)
            .collect()
        };
        let heads: Vec<Vec<String>> = self.columns.iter().zip(&widths).map(in_lines).collect();
        let n_lines = heads.iter().map(Vec::len).max().unwrap_or(0);
        let line = |i: usize| -> Vec<String> {
            let of_head = |head: &Vec<String>| (i + head.len()).checked_sub(n_lines).map(|i| head[i].clone());
            heads.iter().map(|head| of_head(head).unwrap_or_default()).collect()
        };
        let heads: Vec<Vec<String>> = (0..n_lines).map(line).collect();
        let rows = self.rows.iter().flat_map(|row| self.lines(row, &widths));
        for row in heads.into_iter().chain(rows) {
            let mut line = String::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                let cell = printable(cell, *width);
                let pad = " ".repeat(width.saturating_sub(columns(&cell)));
                line += &if column.is_name() { cell + &pad } else { pad + &cell };
                line += &" ".repeat(GAP);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Lines of a label and what it says.
pub(crate) fn facts<'a>(lines: impl IntoIterator<Item = (&'a str, String)>) -> String {
    lines.into_iter().map(|(label, text)| format!("  {label:8} {text}\n")).collect()
}

/// A number that may be missing, with so many digits behind the point.
pub(crate) fn digits(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(missing, |value| format!("{value:.digits$}"))
}

/// What stands for a value that is not known.
pub(crate) fn missing() -> String {
    "-".into()
}

/// The middle of an interval.
pub(crate) fn estimate(interval: Option<Interval>, places: usize) -> String {
    digits(interval.map(|interval| interval.estimate), places)
}

/// Both ends of an interval.
pub(crate) fn bounds(interval: Option<Interval>, digits: usize) -> String {
    interval.and_then(|interval| say::ends(interval, digits)).unwrap_or_else(missing)
}

/// A verdict in lines: its first sentence, or all of it with --verbose. The saved file has all.
pub(crate) fn verdict(words: &str, common: &Common) -> String {
    let first = words.split_inclusive(". ").next().unwrap_or_default();
    wrapped(if common.verbose > 0 { words } else { first })
}

/// Text in lines that are no wider than a table.
pub(crate) fn wrapped(text: &str) -> String {
    textwrap::fill(text, lines_of(MAX_COLUMNS).break_words(false)) + "\n"
}

/// Lines of that width, not broken at hyphens: a policy that is broken cannot be copied.
fn lines_of(width: usize) -> textwrap::Options<'static> {
    textwrap::Options::new(width).word_splitter(textwrap::WordSplitter::NoHyphenation)
}

/// A name in lines of that width.
fn in_width(name: &str, width: usize) -> Vec<String> {
    textwrap::wrap(name, lines_of(width)).into_iter().map(Cow::into_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_to_the_left_and_numbers_to_the_right() {
        let mut table = Table::new([name("policy"), number("kept"), number("KL")]);
        table.row(["h2o".into(), digits(Some(5.0), 1), digits(None, 3)]);
        table.row(["漢字".into(), digits(Some(49.96), 1), digits(Some(0.0125), 3)]);
        assert_eq!(table.to_string(), "policy  kept     KL\nh2o      5.0      -\n漢字    50.0  0.013\n");
        // A long head takes several lines, not a wide column.
        let mut table = Table::new([name("policy"), number("mean KL (nats)")]);
        table.row(["h2o".into(), "0.01".into()]);
        assert_eq!(table.to_string(), "          mean\n            KL\npolicy  (nats)\nh2o       0.01\n");
    }

    #[test]
    fn names_above_numbers_break_at_their_joints() {
        let mut table = Table::new([name("figure"), parts("SmolLM2-135M.Q4_1", 12), parts("x".repeat(9).as_str(), 6)]);
        table.row(["kept".into(), digits(Some(0.5), 2), missing()]);
        let text = table.to_string();
        assert_eq!(text, "            SmolLM2-  xxxxxx\nfigure     135M.Q4_1     xxx\nkept            0.50       -\n");
    }

    #[test]
    fn hyphens_are_no_place_to_break() {
        let policy = "kvmerger:score=leave-one-out,bridge=true";
        assert!(wrapped(&format!("{} {policy}", "word ".repeat(14))).lines().any(|line| line == policy));
    }

    #[test]
    fn only_names_give_way() {
        let mut table = Table::new([name("a"), name("b"), number("c")]);
        table.row(["x".repeat(200), "z".repeat(60), "1".repeat(20)]);
        table.row(["\x1b[2J".into(), String::new(), String::new()]);
        let text = table.to_string();
        assert!(text.lines().all(|line| columns(line) <= MAX_COLUMNS) && text.contains(&"1".repeat(20)), "{text}");
        assert!(text.contains(r"\u{1b}[2J") && text.matches('x').count() == 200, "{text}");
    }
}
