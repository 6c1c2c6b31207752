//! Drawing in logical units over plotters' SVG backend, which takes whole coordinates only: lengths are scaled up before
//! they are rounded.

use std::borrow::Cow;
use std::fmt::Display;

use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, RGBAColor, ShapeStyle, TextStyle};

use crate::report::ReportError;
use crate::report::raster::Raster;
use crate::report::text::{FAMILY, Type, clean, drawable};

/// SVG units per logical unit.
pub(super) const SCALE: f64 = 4.0;

/// A rectangle in logical units, y downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub x0: f64,
    pub y0: f64,
    pub x1: f64,
    pub y1: f64,
}

impl Area {
    pub fn new(x0: f64, y0: f64, x1: f64, y1: f64) -> Self {
        Self { x0, y0, x1, y1 }
    }

    pub fn width(&self) -> f64 {
        self.x1 - self.x0
    }

    pub fn height(&self) -> f64 {
        self.y1 - self.y0
    }

    pub fn middle(&self) -> (f64, f64) {
        ((self.x0 + self.x1) / 2.0, (self.y0 + self.y1) / 2.0)
    }
}

/// How plotters says that text hangs from its place. It shifts the first letter and what follows it, which in text from the right to
/// the left is not the rest of the line: taken off, so that places are those of baselines.
pub(super) const HANGING: &str = " dy=\"0.76em\"";

/// What a drawing draws on.
pub(super) struct Canvas<'a> {
    svg: SVGBackend<'a>,
    /// Rasters and where they go: beneath all other marks.
    rasters: Vec<(Area, Raster)>,
    /// Whether a text has letters that no font at hand has.
    has_codes: bool,
    /// The first thing that went wrong.
    outcome: Result<(), String>,
}

impl<'a> Canvas<'a> {
    /// A canvas of a size in logical units, whose strokes are written to `svg`.
    pub fn new(svg: &'a mut String, (width, height): (f64, f64)) -> Self {
        let size = ((width * SCALE) as u32, (height * SCALE) as u32);
        Self { svg: SVGBackend::with_string(svg, size), rasters: Vec::new(), has_codes: false, outcome: Ok(()) }
    }

    /// Completes the SVG and gives the rasters, which are not in it yet.
    pub fn finish(mut self) -> Result<Vec<(Area, Raster)>, ReportError> {
        self.put(|svg| svg.present());
        self.outcome.map_err(ReportError::Draw)?;
        Ok(self.rasters)
    }

    /// Whether some text that was drawn has letters that no font at hand has.
    pub fn has_codes(&self) -> bool {
        self.has_codes
    }

    fn put<E: Display>(&mut self, draw: impl FnOnce(&mut SVGBackend<'a>) -> Result<(), E>) {
        if self.outcome.is_ok() {
            self.outcome = draw(&mut self.svg).map_err(|e| e.to_string());
        }
    }

    pub fn rect(&mut self, area: Area, color: RGBAColor) {
        let (from, to) = (at((area.x0, area.y0)), at((area.x1, area.y1)));
        self.put(|svg| svg.draw_rect(from, (to.0.max(from.0), to.1.max(from.1)), &color.filled(), true));
    }

    /// Outline of a rectangle.
    pub fn frame(&mut self, area: Area, color: RGBAColor, width: f64) {
        let Area { x0, y0, x1, y1 } = area;
        let h = width / 2.0;
        self.line((x0 - h, y0), (x1 + h, y0), color, width);
        self.line((x0 - h, y1), (x1 + h, y1), color, width);
        self.line((x0, y0), (x0, y1), color, width);
        self.line((x1, y0), (x1, y1), color, width);
    }

    pub fn line(&mut self, a: (f64, f64), b: (f64, f64), color: RGBAColor, width: f64) {
        self.path(&[a, b], color, width);
    }

    pub fn dashed(&mut self, a: (f64, f64), b: (f64, f64), color: RGBAColor, width: f64) {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let dashes = ((dx.hypot(dy) / 8.0).ceil() as usize).clamp(1, 500);
        for i in 0..dashes {
            let (from, to) = (i as f64 / dashes as f64, (i as f64 + 0.55) / dashes as f64);
            self.line((a.0 + dx * from, a.1 + dy * from), (a.0 + dx * to, a.1 + dy * to), color, width);
        }
    }

    pub fn path(&mut self, points: &[(f64, f64)], color: RGBAColor, width: f64) {
        let points = scaled(points);
        let style = ShapeStyle { color, filled: false, stroke_width: length(width).max(1) as u32 };
        if points.len() > 1 {
            self.put(|svg| svg.draw_path(points, &style));
        }
    }

    pub fn polygon(&mut self, points: &[(f64, f64)], color: RGBAColor) {
        let points = scaled(points);
        if points.len() > 2 {
            self.put(|svg| svg.fill_polygon(points, &color.filled()));
        }
    }

    pub fn disc(&mut self, center: (f64, f64), radius: f64, color: RGBAColor) {
        self.put(|svg| svg.draw_circle(at(center), length(radius).max(1) as u32, &color.filled(), true));
    }

    /// One line of text from its baseline. Characters that could break out of a line or of XML are replaced.
    pub fn text(&mut self, (x, baseline): (f64, f64), text: &str, font: Type) {
        // Plotters divides the size by 1.24.
        let desc = (FAMILY, font.em * SCALE * 1.24).into_font();
        let desc = desc.style(if font.bold { FontStyle::Bold } else { FontStyle::Normal });
        let turn = if font.upward { FontTransform::Rotate270 } else { FontTransform::None };
        let style = TextStyle {
            font: desc.transform(turn),
            color: font.color.to_backend_color(),
            pos: Pos::new(font.align, VPos::Top),
        };
        let text = clean(text);
        self.has_codes |= matches!(drawable(&text), Cow::Owned(_));
        self.put(|svg| svg.draw_text(&text, &style, at((x, baseline))));
    }

    /// Fills `area` with a raster, cell by cell, beneath everything else.
    pub fn image(&mut self, area: Area, raster: Raster) {
        self.rasters.push((area, raster));
    }
}

/// A length in SVG units.
pub(super) fn length(x: f64) -> i32 {
    // `as` saturates and maps NaN to 0, so that no number can bring the backend down.
    (x * SCALE).round().clamp(-1e6, 1e6) as i32
}

fn at((x, y): (f64, f64)) -> (i32, i32) {
    (length(x), length(y))
}

fn scaled(points: &[(f64, f64)]) -> Vec<(i32, i32)> {
    let mut scaled: Vec<(i32, i32)> = points.iter().map(|p| at(*p)).collect();
    scaled.dedup();
    scaled
}
