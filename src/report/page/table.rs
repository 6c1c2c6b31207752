//! Tables of the page: what they are made of, however they are filled.

use serde::Serialize;

use crate::math::Interval;
use crate::report::pool;
use crate::report::raster::palette;
use crate::report::theme::{number, thousands};

/// A table that can be sorted by its columns, and filtered when it is long.
#[derive(Serialize)]
pub(in crate::report) struct Table {
    /// Of the caption; no two of a page are equal.
    pub id: String,
    pub caption: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
}

/// A column's title, and what it means where that needs words.
#[derive(Serialize)]
pub(in crate::report) struct Column {
    title: String,
    hint: Option<String>,
}

/// A cell: text, and what to sort by if it is a number; no text where there is no data.
#[derive(Default, Serialize)]
pub(in crate::report) struct Cell {
    text: Option<String>,
    value: Option<f64>,
    /// What is said when it is pointed at.
    hint: Option<String>,
    tint: Option<Tint>,
    /// Length of a bar below the number, in percent.
    bar: Option<f64>,
}

/// Steps of the palette that cells are coloured in, and of the differences on either side of 0.
const TINTS: usize = 48;
const STEPS: usize = 16;

/// The class of a cell that has a colour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::report) struct Tint(String);

/// The colour of a value between `low` and `high`, as the figures have it.
pub(in crate::report) fn tint(value: Option<f64>, (low, high): (f64, f64)) -> Option<Tint> {
    let value = pool::known(value)?;
    let at = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
    Some(Tint(format!("v{}", ((TINTS - 1) as f64 * at).round())))
}

/// The colour of a difference: blue below 0, orange above, white at 0 and full at `end`.
pub(in crate::report) fn diverging(value: Option<f64>, end: f64) -> Option<Tint> {
    let value = pool::known(value)?;
    let share = if end > 0.0 { (value / end).clamp(-1.0, 1.0) } else { 0.0 };
    Some(Tint(format!("d{}", STEPS as f64 + (STEPS as f64 * share).round())))
}

/// The rules of all classes of [`Tint`].
pub(super) fn tints() -> String {
    let palette = palette();
    let of_values = (0..TINTS).map(|step| (format!("v{step}"), palette[254 * step / (TINTS - 1)]));
    let of_differences = (0..=2 * STEPS).map(|step| (format!("d{step}"), difference(step)));
    let rule = |(class, [r, g, b]): (String, [u8; 3])| {
        format!(".{class} {{ background: #{r:02x}{g:02x}{b:02x}; color: {}; }}\n", ink([r, g, b]))
    };
    of_values.chain(of_differences).map(rule).collect()
}

fn difference(step: usize) -> [u8; 3] {
    const WHITE: [f64; 3] = [247.0, 247.0, 247.0];
    let share = (step as f64 - STEPS as f64) / STEPS as f64;
    let full = if share < 0.0 { [33.0, 102.0, 172.0] } else { [179.0, 88.0, 6.0] };
    [0, 1, 2].map(|c| (WHITE[c] + share.abs() * (full[c] - WHITE[c])).round() as u8)
}

/// Black or white, whichever can be read better on a colour: by relative luminance (WCAG 2) it is black above 0.18.
fn ink([r, g, b]: [u8; 3]) -> &'static str {
    let linear = |c: u8| (f64::from(c) / 255.0).powf(2.2);
    let luminance = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    if luminance > 0.18 { "#000000" } else { "#ffffff" }
}

impl Table {
    pub fn new(id: impl Into<String>, caption: impl Into<String>, columns: Vec<Column>, rows: Vec<Vec<Cell>>) -> Self {
        Self { id: id.into(), caption: caption.into(), columns, rows }
    }
}

impl Cell {
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub fn tint(self, tint: Option<Tint>) -> Self {
        Self { tint, ..self }
    }

    /// A bar as long as the cell's value is of `most`.
    pub fn bar(self, most: f64) -> Self {
        let share = self.value.filter(|_| most > 0.0).map(|value| (100.0 * value / most).clamp(0.0, 100.0));
        Self { bar: share, ..self }
    }
}

pub(in crate::report) fn text(text: &str) -> Cell {
    Cell { text: Some(text.into()), ..Cell::default() }
}

pub(in crate::report) fn numeric(value: Option<f64>, decimals: usize) -> Cell {
    let value = pool::known(value);
    sorted_by(value.map(|v| number(v, decimals)), value)
}

pub(in crate::report) fn whole(value: usize) -> Cell {
    Cell { text: Some(thousands(value as u64)), value: Some(value as f64), ..Cell::default() }
}

/// A text that is sorted by a number.
pub(in crate::report) fn sorted_by(text: Option<String>, value: Option<f64>) -> Cell {
    // Digits that nobody sorts by make pages large.
    let value = value.and_then(|value| format!("{value:.6e}").parse().ok());
    Cell { text, value, ..Cell::default() }
}

/// An estimate with the ends of its interval.
pub(in crate::report) fn interval(interval: Option<Interval>, decimals: usize) -> Cell {
    let Some(i) = pool::known_interval(interval) else { return Cell::default() };
    let text = |value| number(value, decimals);
    let ends = i.low.zip(i.high).map(|(low, high)| format!(" ({} to {})", text(low), text(high)));
    sorted_by(Some(text(i.estimate) + &ends.unwrap_or_default()), Some(i.estimate))
}

pub(in crate::report) fn column(title: impl Into<String>) -> Column {
    Column { title: title.into(), hint: None }
}

pub(in crate::report) fn explained(title: impl Into<String>, hint: impl Into<String>) -> Column {
    Column { title: title.into(), hint: Some(hint.into()) }
}

pub(in crate::report) fn columns(titles: &[&str]) -> Vec<Column> {
    titles.iter().map(|title| column(*title)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tints_reach_from_end_to_end() {
        let class = |value| tint(Some(value), (0.0, 1.0)).unwrap().0;
        assert_eq!([-9.0, 0.0, 0.5, 1.0].map(class), ["v0", "v0", "v24", "v47"]);
        assert!(tint(Some(f64::NAN), (0.0, 1.0)).is_none() && tint(None, (0.0, 1.0)).is_none());
        assert_eq!(tint(Some(3.0), (3.0, 3.0)).unwrap().0, "v24");
        let class = |value| diverging(Some(value), 0.2).unwrap().0;
        assert_eq!([-9.0, -0.1, 0.0, 0.2].map(class), ["d0", "d8", "d16", "d32"]);
    }

    #[test]
    fn what_is_written_on_a_tint_can_be_read() {
        let rules = tints();
        assert_eq!(rules.lines().count(), TINTS + 2 * STEPS + 1);
        for rule in rules.lines() {
            let paper = rule.split('#').nth(1).unwrap();
            let part = |at: usize| u8::from_str_radix(&paper[at..at + 2], 16).unwrap();
            let linear = |c: u8| {
                let c = f64::from(c) / 255.0;
                if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
            };
            let l = 0.2126 * linear(part(0)) + 0.7152 * linear(part(2)) + 0.0722 * linear(part(4));
            let contrast = if rule.contains("color: #000000") { (l + 0.05) / 0.05 } else { 1.05 / (l + 0.05) };
            assert!(contrast >= 4.5, "{rule}: {contrast}");
        }
    }
}
