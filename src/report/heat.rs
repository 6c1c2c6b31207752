//! The layout of heat maps: panels of cells beside each other, with the colour bars that explain them.

use plotters::style::RGBAColor;

use crate::report::axes::{Axis, extent};
use crate::report::canvas::{Area, Canvas};
use crate::report::drawing::Words;
use crate::report::legend::{Key, Legend};
use crate::report::raster::{NO_DATA, Raster, palette};
use crate::report::scale::Scale;
use crate::report::table::{Table, cell};
use crate::report::text::{Type, fit, text_width};
use crate::report::theme;
use crate::report::theme::number;
use crate::report::{Drawing, ReportError};

/// Above this many cells a panel is a raster; below, one rectangle a cell.
const MAX_RECTANGLES: usize = 1000;
/// Room above the cells, beneath them, and between panels.
const TOP: f64 = 24.0;
const FOOT: f64 = 56.0;
const GAP: f64 = 22.0;
/// Room for a colour bar and its labels.
const BAR: f64 = 96.0;

/// What a cell without a value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Gap {
    /// Not known.
    #[default]
    NoData,
    /// Known not to be; in these words.
    Blank(&'static str),
}

/// One value per row and column.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub title: String,
    /// Labels of the columns and rows.
    pub columns: Vec<String>,
    pub rows: Vec<String>,
    /// By row, then column.
    pub values: Vec<Option<f64>>,
    pub scale: Scale,
    /// What the values are, with their unit.
    pub measure: String,
    /// Decimals of numbers in cells.
    pub decimals: usize,
    pub gap: Gap,
    /// Where values are numbers of kinds: their names.
    pub kinds: Vec<String>,
}

/// Grids of one kind beside each other.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    pub grids: Vec<Grid>,
    /// What rows and columns are.
    pub axes: (&'static str, &'static str),
}

/// Labels of numbered rows or columns.
pub(super) fn labels(numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(usize::to_string).collect()
}

/// The letter of a kind: A to Z, and then a number.
fn letter(kind: usize) -> String {
    u8::try_from(kind)
        .ok()
        .filter(|kind| *kind < 26)
        .map_or(format!("{}", kind + 1), |kind| char::from(b'A' + kind).into())
}

/// The colour of a kind, light enough for dark letters.
fn kind_color(kind: usize) -> RGBAColor {
    let RGBAColor(r, g, b, _) = theme::look(kind).color;
    let light = |c: u8| (0.45 * f64::from(c) + 0.55 * 255.0) as u8;
    RGBAColor(light(r), light(g), light(b), 1.0)
}

impl Grid {
    /// Values by row, then column, in the colours of a scale.
    pub fn new(
        title: impl Into<String>,
        (rows, columns): (&[usize], &[usize]),
        values: Vec<Option<f64>>,
        (scale, measure): (Scale, &str),
        decimals: usize,
    ) -> Self {
        Self {
            title: title.into(),
            rows: labels(rows),
            columns: labels(columns),
            values,
            scale,
            measure: measure.into(),
            decimals,
            gap: Gap::NoData,
            kinds: Vec::new(),
        }
    }

    /// Whether no cell has a value.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(Option::is_none)
    }

    fn known(&self) -> impl Iterator<Item = f64> + '_ {
        self.values.iter().flatten().copied()
    }

    /// "Overlap: mean 0.41, from 0.20 to 0.83."
    pub fn in_words(&self) -> String {
        let text = |value: f64| number(value, self.decimals);
        if !self.kinds.is_empty() {
            let count = |kind: usize| self.known().filter(|value| *value as usize == kind).count();
            let counts = self.kinds.iter().enumerate().map(|(kind, name)| format!("{name} in {}", count(kind)));
            return format!("{}: {}.", self.title, counts.collect::<Vec<_>>().join(", "));
        }
        match crate::math::mean(self.known()).zip(extent(self.known())) {
            Some((mean, (low, high))) => {
                format!("{}: mean {}, from {} to {}.", self.title, text(mean), text(low), text(high))
            }
            None => format!("{}: no data.", self.title),
        }
    }

    /// The grid's lines of a table of panel, measure, row, column and value.
    pub fn tabulate(&self, table: &mut Table) {
        for (i, value) in self.values.iter().enumerate() {
            let (row, column) = (i / self.columns.len().max(1), i % self.columns.len().max(1));
            let label = |of: &[String], at: usize| of.get(at).cloned().unwrap_or_default();
            let text = match value.and_then(|value| self.kinds.get(value as usize)) {
                Some(kind) => kind.clone(),
                None => cell(*value),
            };
            let (row, column) = (label(&self.rows, row), label(&self.columns, column));
            table.push([self.title.clone(), self.measure.clone(), row, column, text]);
        }
    }

    /// Draws cells, title and labels around `area`; the rows' labels only in the first panel.
    pub fn draw(&self, canvas: &mut Canvas<'_>, area: Area, first: bool, (rows_are, columns_are): (&str, &str)) {
        let (rows, columns) = (self.rows.len().max(1), self.columns.len().max(1));
        let (height, width) = (area.height() / rows as f64, area.width() / columns as f64);
        let indices: Vec<u8> = self.values.iter().map(|v| v.map_or(NO_DATA, |v| self.scale.index(v))).collect();
        let as_raster = indices.len() > MAX_RECTANGLES && self.kinds.is_empty();
        let palette = palette();
        let longest = extent(self.known()).map_or(4, |(low, high)| {
            number(low, self.decimals).chars().count().max(number(high, self.decimals).chars().count())
        });
        let sample = if self.kinds.is_empty() { "0".repeat(longest.max(3)) } else { "W".into() };
        let em = ((width - 4.0) / text_width(&sample, 1.0, false)).min(11.0);
        for (i, index) in indices.iter().enumerate() {
            let (x, y) = (area.x0 + (i % columns) as f64 * width, area.y0 + (i / columns) as f64 * height);
            let cell = Area::new(x, y, x + width, y + height);
            let Some(value) = self.values[i].filter(|_| *index != NO_DATA) else {
                // In a raster the grey cell itself says it; strokes in every cell would be too many.
                if !as_raster && self.gap == Gap::NoData {
                    theme::hatch(canvas, cell);
                }
                continue;
            };
            let ([r, g, b], text) = if self.kinds.is_empty() {
                (palette[usize::from(*index)], number(value, self.decimals))
            } else {
                let RGBAColor(r, g, b, _) = kind_color(value as usize);
                ([r, g, b], letter(value as usize))
            };
            if !as_raster {
                canvas.rect(cell, RGBAColor(r, g, b, 1.0));
            }
            if em >= 7.5 && height >= 14.0 {
                let color = if luminance([r, g, b]) > 0.2 { theme::INK } else { theme::WHITE };
                let (x, y) = cell.middle();
                canvas.text((x, y + 0.36 * em), &text, Type::new(em, color).center());
            }
        }
        if as_raster {
            canvas.image(area, Raster { width: columns, height: rows, cells: indices });
        }
        canvas.frame(area, theme::EDGE, 1.0);
        let bold = Type::new(theme::LABEL, theme::INK).bold().center();
        let title = fit(&self.title, theme::LABEL, true, area.width() + GAP - 4.0);
        canvas.text((area.middle().0, area.y0 - 10.0), &title, bold);
        let (tick, label) = (Type::new(theme::TICK, theme::SOFT_INK), Type::new(theme::LABEL, theme::INK).center());
        let across = thinning(width, widest(&self.columns) + 8.0);
        // What is compared with itself is numbered alike on both sides.
        let down = if rows_are == columns_are { across } else { thinning(height, 15.0) };
        if first {
            for (i, row) in self.rows.iter().enumerate().step_by(down) {
                let y = area.y0 + (i as f64 + 0.5) * height;
                canvas.text((area.x0 - 7.0, y + 0.36 * theme::TICK), row, tick.right());
            }
            canvas.text((area.x0 - 20.0 - widest(&self.rows), area.middle().1), rows_are, label.upward());
        }
        for (i, column) in self.columns.iter().enumerate().step_by(across) {
            let x = area.x0 + (i as f64 + 0.5) * width;
            canvas.text((x, area.y1 + 17.0), column, tick.center());
        }
        canvas.text((area.middle().0, area.y1 + 38.0), columns_are, label);
    }

    /// The grid's colour bar at the right of `x`, as high as the grid.
    pub fn bar(&self, canvas: &mut Canvas<'_>, (x, y0, y1): (f64, f64, f64)) {
        let axis = self.scale.axis(self.known(), &self.measure);
        color_bar(canvas, Area::new(x, y0, x + 16.0, y1), &axis);
    }
}

/// Width of the widest label.
fn widest(labels: &[String]) -> f64 {
    labels.iter().map(|label| text_width(label, theme::TICK, false)).fold(0.0, f64::max)
}

impl Panels {
    pub fn drawing(self, name: &str, title: &str, subtitle: String) -> Result<Drawing, ReportError> {
        let mut alt: Vec<String> = vec![format!("Heat maps by {} and {}.", self.axes.0, self.axes.1)];
        alt.extend(self.grids.iter().map(Grid::in_words));
        let mut table = Table::new(["panel", "measure", self.axes.0, self.axes.1, "value"]);
        self.grids.iter().for_each(|grid| grid.tabulate(&mut table));
        // One bar serves panels of one scale: it tells of what lies beyond it in any of them.
        let shared =
            self.grids.windows(2).all(|pair| (pair[0].scale, &pair[0].measure) == (pair[1].scale, &pair[1].measure));
        let has_bar = |i: usize| self.grids[i].kinds.is_empty() && (!shared || i + 1 == self.grids.len());
        let bars = (0..self.grids.len()).filter(|i| has_bar(*i)).count() as f64;
        let n = self.grids.len().max(1) as f64;
        let left = 32.0 + self.grids.first().map_or(0.0, |grid| widest(&grid.rows));
        let width = (theme::WIDTH - 2.0 * theme::MARGIN - left - bars * BAR - GAP * (n - 1.0)) / n;
        let rows = self.grids.first().map_or(0, |grid| grid.rows.len());
        // What is compared with itself is a square.
        let height = if self.axes.0 == self.axes.1 { width } else { (rows as f64 * 17.0).clamp(170.0, 640.0) };
        let legend = Legend::new(self.keys(), theme::WIDTH - 2.0 * theme::MARGIN - left);
        let body = TOP + height + FOOT + legend.height();
        let has_bar: Vec<bool> = (0..self.grids.len()).map(has_bar).collect();
        let all: Vec<f64> = if shared { self.grids.iter().flat_map(Grid::known).collect() } else { Vec::new() };
        Drawing::new(Words::new(name, title, subtitle, alt.join(" ")), table, body, |canvas, area| {
            let (mut x, top) = (area.x0 + left, area.y0 + TOP);
            for (i, grid) in self.grids.iter().enumerate() {
                grid.draw(canvas, Area::new(x, top, x + width, top + height), i == 0, self.axes);
                x += width;
                if has_bar[i] {
                    let values = grid.known().chain(all.iter().copied());
                    let axis = grid.scale.axis(values, &grid.measure);
                    color_bar(canvas, Area::new(x + GAP, top, x + GAP + 16.0, top + height), &axis);
                    x += BAR;
                }
                x += GAP;
            }
            legend.draw(canvas, (area.x0 + left, top + height + 58.0));
        })
    }

    /// What kinds are, and what cells without a value are.
    fn keys(&self) -> Vec<(Key, String)> {
        let mut keys: Vec<(Key, String)> = Vec::new();
        for grid in &self.grids {
            for (kind, name) in grid.kinds.iter().enumerate() {
                keys.push((Key::Band(kind_color(kind)), format!("{}  {name}", letter(kind))));
            }
        }
        for gap in self.grids.iter().filter(|grid| grid.values.iter().any(Option::is_none)).map(|grid| grid.gap) {
            let key = match gap {
                Gap::NoData => (Key::NoData, "no data".to_string()),
                Gap::Blank(words) => (Key::Blank, words.into()),
            };
            if !keys.iter().any(|known| known.1 == key.1) {
                keys.push(key);
            }
        }
        keys
    }
}

/// Every how many cells of `size` a label of `needed` has room: 1, 2, 5, 10, ….
fn thinning(size: f64, needed: f64) -> usize {
    [1usize, 2, 5, 10, 20, 50, 100, 200, 500].into_iter().find(|n| *n as f64 * size >= needed).unwrap_or(1000)
}

/// Relative luminance of an sRGB colour (WCAG 2), in [0, 1].
fn luminance(rgb: [u8; 3]) -> f64 {
    let linear = |c: u8| {
        let c = f64::from(c) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2])
}

/// An upright colour bar with the ticks and the title of an axis at its right.
pub(super) fn color_bar(canvas: &mut Canvas<'_>, area: Area, axis: &Axis) {
    let palette = palette();
    const STEPS: usize = 85;
    // From the top, each step down to the foot and over the one before, so that no seam shows between them.
    for i in (0..STEPS).rev() {
        let [r, g, b] = palette[i * 254 / (STEPS - 1)];
        let top = area.y1 - (i + 1) as f64 / STEPS as f64 * area.height();
        canvas.rect(Area { y0: top, ..area }, RGBAColor(r, g, b, 1.0));
    }
    canvas.frame(area, theme::EDGE, 1.0);
    let mut widest: f64 = 0.0;
    for (value, label) in &axis.ticks {
        let y = area.y1 - axis.part(*value) * area.height();
        canvas.line((area.x1, y), (area.x1 + 4.0, y), theme::EDGE, 1.0);
        canvas.text((area.x1 + 8.0, y + 0.36 * theme::TICK), label, Type::new(theme::TICK, theme::SOFT_INK));
        widest = widest.max(text_width(label, theme::TICK, false));
    }
    let title = fit(&axis.title, theme::LABEL, false, area.height() + 40.0);
    let title_at = (area.x1 + 8.0 + widest + 18.0, area.middle().1);
    canvas.text(title_at, &title, Type::new(theme::LABEL, theme::INK).center().upward());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_thinned_to_what_has_room() {
        assert_eq!(thinning(17.0, 15.0), 1);
        assert_eq!(thinning(8.0, 15.0), 2);
        assert_eq!(thinning(0.01, 15.0), 1000);
        assert!((luminance([255; 3]) - 1.0).abs() < 1e-9 && luminance([0; 3]) == 0.0);
    }
}
