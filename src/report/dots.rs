//! The layout of estimates: a row for each thing that is compared, with its means and their intervals over one axis.

use crate::math::Interval;
use crate::report::axes::{Axis, extent};
use crate::report::canvas::{Area, Canvas};
use crate::report::drawing::Words;
use crate::report::legend::{Key, Legend};
use crate::report::table::{Table, cell};
use crate::report::text::{Type, text_width, wrap};
use crate::report::theme;
use crate::report::theme::{Look, number};
use crate::report::{Drawing, ReportError};

/// Height of one estimate, and of a heading.
const LINE: f64 = 27.0;
const HEADING: f64 = 34.0;
/// Room for the axis beneath the rows.
pub(super) const FOOT: f64 = 62.0;
/// Labels longer than this are broken into lines, and in half of a figure those longer than that.
const LONGEST: f64 = 300.0;
const LONGEST_IN_HALF: f64 = 200.0;

/// A mean with its interval, if it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dot {
    pub look: Look,
    pub filled: bool,
    pub value: Option<Interval>,
}

/// What is compared.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub label: String,
    /// Set off from the others.
    pub strong: bool,
    pub dots: Vec<Dot>,
}

/// Rows over a common axis, in groups with headings.
#[derive(Clone, Debug, Default)]
pub(super) struct Dots {
    pub groups: Vec<(String, Vec<Row>)>,
    pub axis: Axis,
    /// Decimals of the numbers beside the dots.
    pub decimals: usize,
    pub keys: Vec<(Key, String)>,
    /// Where a broken upright line stands.
    pub upright: Option<f64>,
    /// Whether the rows take half of a figure's width.
    pub in_half: bool,
}

/// Lowest and highest of the known values and ends of intervals.
pub(super) fn ends<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Option<(f64, f64)> {
    let known = rows.into_iter().flat_map(|row| &row.dots).filter_map(|dot| dot.value);
    extent(known.flat_map(|i| [Some(i.estimate), i.low, i.high]).flatten())
}

impl Dots {
    /// A row's label in lines.
    fn lines(&self, row: &Row) -> Vec<String> {
        let longest = if self.in_half { LONGEST_IN_HALF } else { LONGEST };
        wrap(&row.label, theme::LABEL, row.strong, longest, 3)
    }

    /// Height of a row: that of its estimates, or of its label.
    fn height_of(&self, row: &Row) -> f64 {
        (row.dots.len() as f64 * LINE).max(17.0 * self.lines(row).len() as f64 + 8.0)
    }

    pub fn drawing(self, name: &str, title: &str, subtitle: String) -> Result<Drawing, ReportError> {
        let alt = self.in_words();
        let legend = Legend::new(self.keys.clone(), theme::WIDTH - 2.0 * theme::MARGIN);
        let body = legend.height() + self.height() + FOOT;
        Drawing::new(Words::new(name, title, subtitle, alt), self.table(), body, |canvas, area| {
            legend.draw(canvas, (area.x0, area.y0));
            self.draw(canvas, Area { y0: area.y0 + legend.height(), x1: area.x1 - 12.0, ..area });
        })
    }

    /// A line for every estimate.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["group", "row", "series", &self.axis.title, "low", "high", "n"]);
        for (group, rows) in &self.groups {
            for row in rows {
                for (i, dot) in row.dots.iter().enumerate() {
                    let series =
                        self.keys.get(i).filter(|_| row.dots.len() > 1).map_or(String::new(), |key| key.1.clone());
                    let (value, n) = dot.value.map_or((None, String::new()), |v| (Some(v), v.n.to_string()));
                    let [low, high] = [value.and_then(|v| v.low), value.and_then(|v| v.high)].map(cell);
                    let estimate = cell(value.map(|v| v.estimate));
                    table.push([group.clone(), row.label.clone(), series, estimate, low, high, n]);
                }
            }
        }
        table
    }

    /// Every row with its numbers, below the title of its group.
    pub fn in_words(&self) -> String {
        let dot = |(i, dot): (usize, &Dot)| {
            let text = |value| number(value, self.decimals);
            let value = dot.value.map_or("no data".into(), |value| match value.low.zip(value.high) {
                Some((low, high)) => format!("{} ({} to {})", text(value.estimate), text(low), text(high)),
                None => text(value.estimate),
            });
            self.keys.get(i).map_or(value.clone(), |key| format!("{} {value}", key.1))
        };
        let row = |row: &Row| {
            let dots: Vec<String> = row.dots.iter().enumerate().map(dot).collect();
            format!("{}: {}.", row.label, dots.join(", "))
        };
        let groups = self.groups.iter().map(|(title, rows)| {
            let rows: Vec<String> = rows.iter().map(row).collect();
            format!("{title}{} {}", if title.is_empty() { "" } else { ":" }, rows.join(" "))
        });
        format!("{}.{}", self.axis.title, groups.collect::<Vec<_>>().join(" "))
    }

    /// Height without the axis' labels.
    pub fn height(&self) -> f64 {
        let group = |(title, rows): &(String, Vec<Row>)| {
            rows.iter().map(|row| self.height_of(row)).sum::<f64>() + if title.is_empty() { 0.0 } else { HEADING }
        };
        self.groups.iter().map(group).sum()
    }

    /// Draws labels, axis and rows from the top of `area`.
    pub fn draw(&self, canvas: &mut Canvas<'_>, area: Area) {
        let font = |row: &Row| Type { bold: row.strong, ..Type::new(theme::LABEL, theme::INK) };
        let all = || self.groups.iter().flat_map(|group| &group.1);
        let widths =
            all().flat_map(|row| self.lines(row).into_iter().map(|line| text_width(&line, theme::LABEL, row.strong)));
        let widest = widths.fold(0.0, f64::max).min(area.width() / 2.0);
        let number = |interval: Interval| text_width(&number(interval.estimate, self.decimals), theme::TICK, false);
        let numbers = all().flat_map(|row| &row.dots).filter_map(|dot| dot.value).map(number).fold(0.0, f64::max);
        // Every number has room at the right of its interval.
        let x1 = area.x1 - numbers - 12.0;
        let plot = Area::new(area.x0 + widest + 18.0, area.y0, x1, area.y0 + self.height());
        self.axis.draw(canvas, plot);
        if let Some(x) = self.upright {
            let x = plot.x0 + self.axis.part(x) * plot.width();
            canvas.dashed((x, plot.y0), (x, plot.y1), theme::INK, 1.3);
        }
        let mut y = plot.y0;
        for (title, rows) in &self.groups {
            if !title.is_empty() {
                // No grid line runs through a heading.
                let width = text_width(title, theme::LABEL, true);
                canvas.rect(Area::new(area.x0, y + 6.0, area.x0 + width + 6.0, y + HEADING - 4.0), theme::WHITE);
                canvas.text((area.x0, y + 22.0), title, Type::new(theme::LABEL, theme::INK).bold());
                y += HEADING;
            }
            for row in rows {
                let height = self.height_of(row);
                if row.strong {
                    let shade = theme::faint(theme::SOFT_INK, 0.09);
                    canvas.rect(Area::new(area.x0 - 8.0, y, area.x1, y + height), shade);
                }
                let lines = self.lines(row);
                let first = y + height / 2.0 + 0.36 * theme::LABEL - 8.5 * (lines.len() - 1) as f64;
                for (i, line) in lines.iter().enumerate() {
                    canvas.text((area.x0, first + 17.0 * i as f64), line, font(row));
                }
                for (i, dot) in row.dots.iter().enumerate() {
                    // Nearer to each other than to those of other rows.
                    let from_middle = 0.8 * (i as f64 - (row.dots.len() - 1) as f64 / 2.0);
                    self.dot(canvas, plot, *dot, y + height / 2.0 + from_middle * LINE);
                }
                y += height;
            }
        }
    }

    /// A mean with its interval at height `y`, and its number beside it.
    fn dot(&self, canvas: &mut Canvas<'_>, plot: Area, dot: Dot, y: f64) {
        let Dot { look, filled, value } = dot;
        let Some(interval) = value else {
            theme::hatch(canvas, Area::new(plot.x0 + 4.0, y - 7.0, plot.x0 + 64.0, y + 7.0));
            let soft = Type::new(theme::TICK, theme::SOFT_INK);
            return canvas.text((plot.x0 + 72.0, y + 4.5), "no data", soft);
        };
        let px = |v: f64| plot.x0 + self.axis.part(v) * plot.width();
        let at = px(interval.estimate);
        let mut right = at + 7.0;
        if let (Some(low), Some(high)) = (interval.low, interval.high) {
            canvas.line((px(low), y), (px(high), y), look.color, 2.2);
            for end in [low, high] {
                canvas.line((px(end), y - 4.0), (px(end), y + 4.0), look.color, 2.0);
            }
            right = right.max(px(high));
        }
        theme::mark(canvas, (at, y), look, 5.0, filled);
        let text = number(interval.estimate, self.decimals);
        let width = text_width(&text, theme::TICK, false);
        let x = right + 7.0;
        // A plate, so that no line runs through the number.
        canvas.rect(Area::new(x - 3.0, y - 7.0, x + width + 3.0, y + 7.0), theme::WHITE);
        canvas.text((x, y + 4.3), &text, Type::new(theme::TICK, theme::INK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_to_their_half() {
        let row = Row { label: format!("1  {}", "数据".repeat(12)), strong: false, dots: Vec::new() };
        for (in_half, longest) in [(false, LONGEST), (true, LONGEST_IN_HALF)] {
            let dots = Dots { in_half, ..Dots::default() };
            let lines = dots.lines(&row);
            assert!(lines.iter().all(|line| text_width(line, theme::LABEL, false) <= longest), "{lines:?}");
            assert!(dots.height_of(&row) >= 17.0 * lines.len() as f64);
        }
    }
}
