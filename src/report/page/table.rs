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

/// Colours of a cell and of what is written on it.
#[derive(Clone, Serialize)]
pub(in crate::report) struct Tint {
    pub paper: String,
    pub ink: &'static str,
}

/// The colour of a value between `low` and `high`, as the figures have it.
pub(in crate::report) fn tint(value: Option<f64>, (low, high): (f64, f64)) -> Option<Tint> {
    let value = pool::known(value)?;
    let at = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
    Some(with_ink(palette()[(254.0 * at).round() as usize]))
}

/// The colour of a difference: blue below 0, orange above, white at 0 and full at `end`.
pub(in crate::report) fn diverging(value: Option<f64>, end: f64) -> Option<Tint> {
    const WHITE: [f64; 3] = [247.0, 247.0, 247.0];
    let value = pool::known(value)?;
    let full = if value < 0.0 { [33.0, 102.0, 172.0] } else { [179.0, 88.0, 6.0] };
    let share = if end > 0.0 { (value.abs() / end).min(1.0) } else { 0.0 };
    Some(with_ink([0, 1, 2].map(|c| (WHITE[c] + share * (full[c] - WHITE[c])).round() as u8)))
}

/// A colour with black or white on it, whichever can be read better.
fn with_ink([r, g, b]: [u8; 3]) -> Tint {
    // Relative luminance (WCAG 2); black has more contrast than white above 0.18.
    let linear = |c: u8| (f64::from(c) / 255.0).powf(2.2);
    let luminance = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    let ink = if luminance > 0.18 { "#000000" } else { "#ffffff" };
    Tint { paper: format!("#{r:02x}{g:02x}{b:02x}"), ink }
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
    Cell { text: value.map(|v| number(v, decimals)), value, ..Cell::default() }
}

pub(in crate::report) fn whole(value: usize) -> Cell {
    Cell { text: Some(thousands(value as u64)), value: Some(value as f64), ..Cell::default() }
}

/// A text that is sorted by a number.
pub(in crate::report) fn sorted_by(text: Option<String>, value: Option<f64>) -> Cell {
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
    fn tints_are_the_ends_of_the_palette_with_ink_that_can_be_read() {
        let (low, high) = (tint(Some(-9.0), (0.0, 1.0)).unwrap(), tint(Some(1.0), (0.0, 1.0)).unwrap());
        assert_eq!((low.ink, high.ink), ("#ffffff", "#000000"));
        assert_ne!(low.paper, high.paper);
        assert!(tint(Some(f64::NAN), (0.0, 1.0)).is_none() && tint(None, (0.0, 1.0)).is_none());
        assert_eq!(tint(Some(3.0), (3.0, 3.0)).unwrap().paper, tint(Some(0.5), (0.0, 1.0)).unwrap().paper);
        // Any value has a contrast of 4.5 at least.
        let tints = (0..=254).map(|i| tint(Some(f64::from(i)), (0.0, 254.0)).unwrap());
        for tint in tints.chain((-50..=50).map(|i| diverging(Some(f64::from(i)), 50.0).unwrap())) {
            let part = |at: usize| u8::from_str_radix(&tint.paper[at..at + 2], 16).unwrap();
            let linear = |c: u8| {
                let c = f64::from(c) / 255.0;
                if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
            };
            let l = 0.2126 * linear(part(1)) + 0.7152 * linear(part(3)) + 0.0722 * linear(part(5));
            let contrast = if tint.ink == "#000000" { (l + 0.05) / 0.05 } else { 1.05 / (l + 0.05) };
            assert!(contrast >= 4.5, "{}: {contrast}", tint.paper);
        }
    }
}
