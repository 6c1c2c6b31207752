//! Panels of layers by heads, and the colour bar that explains them.

use plotters::style::RGBAColor;

use crate::format::dump::State;
use crate::report::Drawing;
use crate::report::ReportError;
use crate::report::axes::Axis;
use crate::report::canvas::Area;
use crate::report::canvas::Canvas;
use crate::report::canvas::Type;
use crate::report::canvas::fit;
use crate::report::canvas::text_width;
use crate::report::legend::Key;
use crate::report::legend::Legend;
use crate::report::raster::NO_DATA;
use crate::report::raster::Raster;
use crate::report::raster::index_of;
use crate::report::raster::palette;
use crate::report::theme;
use crate::report::theme::number;

/// Above this many cells a panel is a raster; below, one rectangle a cell.
const MAX_RECTANGLES: usize = 1000;

/// One value per layer and KV head.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub title: String,
    pub layers: Vec<usize>,
    pub heads: Vec<usize>,
    /// By layer, then head.
    pub values: Vec<Option<f64>>,
    pub range: (f64, f64),
    /// Decimals of numbers in cells.
    pub decimals: usize,
    /// What the columns are.
    pub columns: &'static str,
    /// What the rows are.
    pub rows: &'static str,
}

/// A panel for each state: its values by layer, then head, all on one range.
pub(super) fn by_state(
    states: &[State],
    (layers, heads): (&[usize], &[usize]),
    values: Vec<Vec<Option<f64>>>,
    range: (f64, f64),
    decimals: usize,
) -> Vec<Grid> {
    let grid = |(state, values): (&State, Vec<Option<f64>>)| Grid {
        title: theme::capitalised(theme::state_label(*state)),
        layers: layers.to_vec(),
        heads: heads.to_vec(),
        values,
        range,
        decimals,
        columns: "KV head",
        rows: "Layer",
    };
    states.iter().zip(values).map(grid).collect()
}

impl Grid {
    /// Height of a panel of this many layers.
    pub fn height(n_layers: usize) -> f64 {
        (n_layers as f64 * 17.0).clamp(170.0, 640.0)
    }

    pub fn has_gaps(&self) -> bool {
        self.values.iter().any(Option::is_none)
    }

    /// Draws cells, titles and axis labels around `area`; the layers' labels only in the first panel of a row.
    pub fn draw(&self, canvas: &mut Canvas<'_>, area: Area, first: bool) -> Result<(), ReportError> {
        let (rows, columns) = (self.layers.len().max(1), self.heads.len().max(1));
        let (height, width) = (area.height() / rows as f64, area.width() / columns as f64);
        let cell = |row: usize, column: usize| {
            let (x, y) = (area.x0 + column as f64 * width, area.y0 + row as f64 * height);
            Area::new(x, y, x + width, y + height)
        };
        let indices: Vec<u8> = self.values.iter().map(|v| v.map_or(NO_DATA, |v| index_of(v, self.range))).collect();
        let as_raster = indices.len() > MAX_RECTANGLES;
        if as_raster {
            canvas.image(area, &Raster { width: columns, height: rows, cells: indices.clone() })?;
        }
        let palette = palette();
        let text = Type::new(11.0, theme::INK).center();
        let roomy = height >= 14.0 && width >= text_width("−0.00", 11.0, false) + 4.0;
        for (i, index) in indices.iter().enumerate() {
            let place = cell(i / columns, i % columns);
            let [r, g, b] = palette[usize::from(*index)];
            if *index == NO_DATA {
                // On top of a raster the grey cell itself says it; strokes in every cell would be too many.
                if !as_raster {
                    theme::hatch(canvas, place)?;
                }
                continue;
            }
            if !as_raster {
                canvas.rect(place, RGBAColor(r, g, b, 1.0))?;
            }
            if let (true, Some(value)) = (roomy, self.values[i]) {
                let at = ((place.x0 + place.x1) / 2.0, (place.y0 + place.y1) / 2.0 + 4.0);
                let color = if luminance([r, g, b]) > 0.2 { theme::INK } else { theme::WHITE };
                canvas.text(at, &number(value, self.decimals), Type { color, ..text })?;
            }
        }
        canvas.frame(area, theme::EDGE, 1.0)?;
        let middle = (area.x0 + area.x1) / 2.0;
        let title = fit(&self.title, theme::LABEL, true, area.width() + 10.0);
        canvas.text((middle, area.y0 - 10.0), &title, Type::new(theme::LABEL, theme::INK).bold().center())?;
        let tick = Type::new(theme::TICK, theme::SOFT_INK);
        let every = thinning(height, 15.0);
        if first {
            for (row, layer) in self.layers.iter().enumerate().step_by(every) {
                let y = area.y0 + (row as f64 + 0.5) * height;
                canvas.text((area.x0 - 7.0, y + 0.36 * theme::TICK), &layer.to_string(), tick.right())?;
            }
            let title = Type::new(theme::LABEL, theme::INK).center().upward();
            canvas.text((area.x0 - 36.0, (area.y0 + area.y1) / 2.0), self.rows, title)?;
        }
        for (column, head) in self.heads.iter().enumerate().step_by(thinning(width, 24.0)) {
            let x = area.x0 + (column as f64 + 0.5) * width;
            canvas.text((x, area.y1 + 17.0), &head.to_string(), tick.center())?;
        }
        canvas.text((middle, area.y1 + 38.0), self.columns, Type::new(theme::LABEL, theme::INK).center())
    }
}

/// Panels beside each other with one colour bar.
pub(super) fn panels(name: &str, title: &str, subtitle: String, grids: Vec<Grid>, bar_title: &'static str) -> Drawing {
    let gaps = grids.iter().any(Grid::has_gaps);
    let panel = Grid::height(grids.first().map_or(0, |grid| grid.layers.len()));
    let range = grids.first().map_or((0.0, 1.0), |grid| grid.range);
    let body = 24.0 + panel + 56.0 + if gaps { 30.0 } else { 0.0 };
    Drawing::new(name, title, subtitle, body, move |canvas, area| {
        let (left, right) = (area.x0 + 46.0, area.x1 - 96.0);
        let n = grids.len() as f64;
        let gap = 22.0;
        let width = (right - left - gap * (n - 1.0)) / n;
        let (top, bottom) = (area.y0 + 24.0, area.y0 + 24.0 + panel);
        for (i, grid) in grids.iter().enumerate() {
            let x = left + i as f64 * (width + gap);
            grid.draw(canvas, Area::new(x, top, x + width, bottom), i == 0)?;
        }
        let bar = Area::new(right + 22.0, top, right + 38.0, bottom.min(top + 420.0));
        color_bar(canvas, bar, range, bar_title)?;
        if gaps {
            Legend::new(vec![(Key::NoData, "no data".into())], 200.0).draw(canvas, (left, bottom + 58.0))?;
        }
        Ok(())
    })
}

/// Every how many cells of `size` a label of `needed` has room: 1, 2, 5, 10, ….
fn thinning(size: f64, needed: f64) -> usize {
    [1usize, 2, 5, 10, 20, 50, 100, 200, 500].into_iter().find(|n| *n as f64 * size >= needed).unwrap_or(1000)
}

/// Relative luminance of an sRGB colour (WCAG 2), in [0, 1].
pub(super) fn luminance(rgb: [u8; 3]) -> f64 {
    let linear = |c: u8| {
        let c = f64::from(c) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2])
}

/// An upright colour bar with ticks and a title at its right.
pub(super) fn color_bar(
    canvas: &mut Canvas<'_>,
    area: Area,
    range: (f64, f64),
    title: &str,
) -> Result<(), ReportError> {
    let axis = Axis::linear(range, 5, title);
    let palette = palette();
    const STEPS: usize = 85;
    // From the top, each step down to the foot and over the one before, so that no seam shows between them.
    for i in (0..STEPS).rev() {
        let [r, g, b] = palette[i * 254 / (STEPS - 1)];
        let top = area.y1 - (i + 1) as f64 / STEPS as f64 * area.height();
        canvas.rect(Area { y0: top, ..area }, RGBAColor(r, g, b, 1.0))?;
    }
    canvas.frame(area, theme::EDGE, 1.0)?;
    let mut widest: f64 = 0.0;
    for (value, label) in &axis.ticks {
        let y = area.y1 - axis.part(*value) * area.height();
        canvas.line((area.x1, y), (area.x1 + 4.0, y), theme::EDGE, 1.0)?;
        canvas.text((area.x1 + 8.0, y + 0.36 * theme::TICK), label, Type::new(theme::TICK, theme::SOFT_INK))?;
        widest = widest.max(text_width(label, theme::TICK, false));
    }
    let title_at = (area.x1 + 8.0 + widest + 20.0, (area.y0 + area.y1) / 2.0);
    canvas.text(title_at, title, Type::new(theme::LABEL, theme::INK).center().upward())
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
