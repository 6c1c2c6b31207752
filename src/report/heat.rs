//! The layout of heat maps: panels of cells beside each other, with the colour bars that explain them.

use plotters::style::RGBAColor;

use crate::report::axes::{Axis, extent, rounded};
use crate::report::canvas::{Area, Canvas};
use crate::report::legend::{Key, Legend};
use crate::report::raster::{NO_DATA, Raster, index_of, palette};
use crate::report::text::{Type, fit, text_width};
use crate::report::theme;
use crate::report::theme::number;
use crate::report::{Drawing, ReportError};

/// Above this many cells a panel is a raster; below, one rectangle a cell.
const MAX_RECTANGLES: usize = 1000;
/// Room for the labels of the rows, above the cells, beneath them, and between panels.
const LEFT: f64 = 46.0;
const TOP: f64 = 24.0;
const FOOT: f64 = 56.0;
const GAP: f64 = 22.0;
/// Room for a colour bar and its labels.
const BAR: f64 = 96.0;
/// Longest colour bar.
const LONGEST_BAR: f64 = 420.0;

/// One value per row and column.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub title: String,
    /// Labels of the columns and rows.
    pub columns: Vec<usize>,
    pub rows: Vec<usize>,
    /// By row, then column.
    pub values: Vec<Option<f64>>,
    pub range: (f64, f64),
    /// Decimals of numbers in cells.
    pub decimals: usize,
}

/// Grids of one kind beside each other.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    pub grids: Vec<Grid>,
    /// What rows and columns are.
    pub axes: (&'static str, &'static str),
    /// What the colours of all grids are; `None` where each grid has its own colour bar, which its title explains.
    pub bar: Option<&'static str>,
    /// What hatched cells are.
    pub gaps: &'static str,
}

impl Grid {
    /// Values by row, then column, with colours over all that there are, within `limits`.
    pub fn new(
        title: impl Into<String>,
        (rows, columns): (&[usize], &[usize]),
        values: Vec<Option<f64>>,
        limits: (f64, f64),
        decimals: usize,
    ) -> Self {
        let range = rounded(extent(values.iter().flatten().copied()), limits, 6);
        Self { title: title.into(), rows: rows.to_vec(), columns: columns.to_vec(), values, range, decimals }
    }

    /// Whether no cell has a value.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(Option::is_none)
    }

    /// "Overlap: mean 0.41, from 0.20 to 0.83."
    pub fn in_words(&self) -> String {
        let known: Vec<f64> = self.values.iter().flatten().copied().collect();
        let text = |value: f64| number(value, self.decimals);
        match crate::math::mean(&known).zip(extent(known)) {
            Some((mean, (low, high))) => {
                format!("{}: mean {}, from {} to {}.", self.title, text(mean), text(low), text(high))
            }
            None => format!("{}: no data.", self.title),
        }
    }

    /// Draws cells, title and labels around `area`; the rows' labels only in the first panel.
    pub fn draw(&self, canvas: &mut Canvas<'_>, area: Area, first: bool, (rows_are, columns_are): (&str, &str)) {
        let (rows, columns) = (self.rows.len().max(1), self.columns.len().max(1));
        let (height, width) = (area.height() / rows as f64, area.width() / columns as f64);
        let indices: Vec<u8> = self.values.iter().map(|v| v.map_or(NO_DATA, |v| index_of(v, self.range))).collect();
        let as_raster = indices.len() > MAX_RECTANGLES;
        let palette = palette();
        let em = ((width - 4.0) / text_width("−0.00", 1.0, false)).min(11.0);
        for (i, index) in indices.iter().enumerate() {
            let (x, y) = (area.x0 + (i % columns) as f64 * width, area.y0 + (i / columns) as f64 * height);
            let cell = Area::new(x, y, x + width, y + height);
            let [r, g, b] = palette[usize::from(*index)];
            let Some(value) = self.values[i].filter(|_| *index != NO_DATA) else {
                // In a raster the grey cell itself says it; strokes in every cell would be too many.
                if !as_raster {
                    theme::hatch(canvas, cell);
                }
                continue;
            };
            if !as_raster {
                canvas.rect(cell, RGBAColor(r, g, b, 1.0));
            }
            if em >= 7.5 && height >= 14.0 {
                let color = if luminance([r, g, b]) > 0.2 { theme::INK } else { theme::WHITE };
                let (x, y) = cell.middle();
                canvas.text((x, y + 0.36 * em), &number(value, self.decimals), Type::new(em, color).center());
            }
        }
        if as_raster {
            canvas.image(area, Raster { width: columns, height: rows, cells: indices });
        }
        canvas.frame(area, theme::EDGE, 1.0);
        let bold = Type::new(theme::LABEL, theme::INK).bold().center();
        let title = fit(&self.title, theme::LABEL, true, area.width() + 10.0);
        canvas.text((area.middle().0, area.y0 - 10.0), &title, bold);
        let (tick, label) = (Type::new(theme::TICK, theme::SOFT_INK), Type::new(theme::LABEL, theme::INK).center());
        if first {
            for (i, row) in self.rows.iter().enumerate().step_by(thinning(height, 15.0)) {
                let y = area.y0 + (i as f64 + 0.5) * height;
                canvas.text((area.x0 - 7.0, y + 0.36 * theme::TICK), &row.to_string(), tick.right());
            }
            canvas.text((area.x0 - 36.0, area.middle().1), rows_are, label.upward());
        }
        let widest = self.columns.iter().map(|column| text_width(&column.to_string(), theme::TICK, false));
        let widest = widest.fold(0.0, f64::max) + 8.0;
        for (i, column) in self.columns.iter().enumerate().step_by(thinning(width, widest)) {
            let x = area.x0 + (i as f64 + 0.5) * width;
            canvas.text((x, area.y1 + 17.0), &column.to_string(), tick.center());
        }
        canvas.text((area.middle().0, area.y1 + 38.0), columns_are, label);
    }
}

/// Gives all grids one range of colours.
pub(super) fn one_range(grids: &mut [Grid], limits: (f64, f64)) {
    let range = rounded(extent(grids.iter().flat_map(|grid| grid.values.iter().flatten().copied())), limits, 6);
    grids.iter_mut().for_each(|grid| grid.range = range);
}

impl Panels {
    pub fn drawing(self, name: &str, title: &str, subtitle: String) -> Result<Drawing, ReportError> {
        let alt = self.grids.iter().map(Grid::in_words).collect::<Vec<_>>().join(" ");
        let alt = format!("Heat maps by {} and {}. {alt}", self.axes.0, self.axes.1);
        let n = self.grids.len().max(1) as f64;
        let bars = if self.bar.is_some() { 1.0 } else { n };
        let width = (theme::WIDTH - 2.0 * theme::MARGIN - LEFT - bars * BAR - GAP * (n - 1.0)) / n;
        let rows = self.grids.first().map_or(0, |grid| grid.rows.len());
        // What is compared with itself is a square.
        let height = if self.axes.0 == self.axes.1 { width } else { (rows as f64 * 17.0).clamp(170.0, 640.0) };
        let gaps = self.grids.iter().any(|grid| grid.values.iter().any(Option::is_none));
        let body = TOP + height + FOOT + if gaps { 30.0 } else { 0.0 };
        Drawing::new(name, title, subtitle, alt, body, |canvas, area| {
            let (mut x, top) = (area.x0 + LEFT, area.y0 + TOP);
            for (i, grid) in self.grids.iter().enumerate() {
                grid.draw(canvas, Area::new(x, top, x + width, top + height), i == 0, self.axes);
                x += width;
                if self.bar.is_none() || i + 1 == self.grids.len() {
                    let bar = Area::new(x + GAP, top, x + GAP + 16.0, top + height.min(LONGEST_BAR));
                    color_bar(canvas, bar, grid.range, self.bar.unwrap_or_default());
                    x += BAR;
                }
                x += GAP;
            }
            if gaps {
                let legend = Legend::new(vec![(Key::NoData, self.gaps.into())], 200.0);
                legend.draw(canvas, (area.x0 + LEFT, top + height + 58.0));
            }
        })
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

/// An upright colour bar with ticks and a title at its right.
pub(super) fn color_bar(canvas: &mut Canvas<'_>, area: Area, range: (f64, f64), title: &str) {
    let axis = Axis::linear(range, 5, title);
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
    let title_at = (area.x1 + 8.0 + widest + 20.0, area.middle().1);
    canvas.text(title_at, title, Type::new(theme::LABEL, theme::INK).center().upward());
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
