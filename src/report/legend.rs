//! Legends above the plot, in as many rows as the names need, so that they never cover data.

use plotters::style::RGBAColor;

use crate::report::canvas::{Area, Canvas};
use crate::report::text::{Type, fit, text_width};
use crate::report::theme;
use crate::report::theme::Look;

const ROW: f64 = 20.0;
const KEY: f64 = 30.0;
const GAP: f64 = 20.0;
/// Names longer than this are shortened in their middle.
const LONGEST: f64 = 440.0;

/// What stands before a legend's text.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    /// Line with the series' mark.
    Line(Look),
    /// Mark alone, filled or hollow.
    Point(Look, bool),
    /// Line without a mark.
    Stroke(RGBAColor),
    Dashes(RGBAColor),
    Band(RGBAColor),
    /// Bands in the colours of their curves.
    Bands,
    NoData,
    /// Cell that is left white.
    Blank,
    /// Cross at the foot of the plot.
    Cross,
}

/// A legend with its rows already broken.
#[derive(Debug)]
pub(super) struct Legend {
    rows: Vec<Vec<(Key, String, f64)>>,
}

impl Legend {
    /// Breaks the items into rows of at most `width`.
    pub fn new(items: Vec<(Key, String)>, width: f64) -> Self {
        let mut rows: Vec<Vec<(Key, String, f64)>> = Vec::new();
        let mut used = f64::INFINITY;
        for (key, text) in items {
            let text = fit(&text, theme::TICK, false, LONGEST);
            let size = KEY + 7.0 + text_width(&text, theme::TICK, false) + GAP;
            if used + size - GAP > width {
                rows.push(Vec::new());
                used = 0.0;
            }
            used += size;
            if let Some(row) = rows.last_mut() {
                row.push((key, text, size));
            }
        }
        Self { rows }
    }

    /// Height, with some room beneath.
    pub fn height(&self) -> f64 {
        if self.rows.is_empty() { 0.0 } else { self.rows.len() as f64 * ROW + 12.0 }
    }

    /// Draws the legend downwards from `at`.
    pub fn draw(&self, canvas: &mut Canvas<'_>, at: (f64, f64)) {
        for (i, row) in self.rows.iter().enumerate() {
            let (mut x, y) = (at.0, at.1 + i as f64 * ROW + 4.0);
            for (key, text, size) in row {
                draw_key(canvas, *key, (x, y));
                canvas.text((x + KEY + 7.0, y + 0.36 * theme::TICK), text, Type::new(theme::TICK, theme::INK));
                x += size;
            }
        }
    }
}

fn draw_key(canvas: &mut Canvas<'_>, key: Key, (x, y): (f64, f64)) {
    let box_ = Area::new(x + 4.0, y - 6.0, x + KEY, y + 6.0);
    let ends = ((x, y), (x + KEY, y));
    match key {
        Key::Line(look) => {
            canvas.line(ends.0, ends.1, look.color, 2.0);
            theme::mark(canvas, (x + KEY / 2.0, y), look, 4.0, true);
        }
        Key::Point(look, filled) => theme::mark(canvas, (x + KEY - 8.0, y), look, 4.5, filled),
        Key::Stroke(color) => canvas.line(ends.0, ends.1, color, 3.0),
        Key::Dashes(color) => canvas.dashed(ends.0, ends.1, color, 1.5),
        Key::Band(color) => canvas.rect(box_, color),
        Key::Bands => {
            for i in 0..3 {
                let x0 = box_.x0 + i as f64 * box_.width() / 3.0;
                let part = Area { x0, x1: x0 + box_.width() / 3.0, ..box_ };
                canvas.rect(part, theme::faint(theme::look(i).color, 0.25));
            }
        }
        Key::Blank => canvas.frame(box_, theme::EDGE, 1.0),
        Key::NoData => theme::hatch(canvas, box_),
        Key::Cross => theme::cross(canvas, (x + KEY - 8.0, y), theme::SOFT_INK),
    }
}
