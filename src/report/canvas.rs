//! Drawing surface in logical units over any plotters backend: the same strokes become pixels and SVG.
//!
//! Plotters places text differently in its two backends and takes whole coordinates only. The canvas evens this out:
//! text is placed by its baseline, and lengths are scaled up before they are rounded.

use plotters::style::Color;
use plotters::style::RGBAColor;
use plotters::style::ShapeStyle;
use plotters_backend::BackendCoord;
use plotters_backend::DrawingBackend;
use plotters_backend::FontTransform;
use plotters_backend::text_anchor::HPos;

use crate::report::ReportError;
use crate::report::glyphs;
use crate::report::glyphs::Glyphs;
use crate::report::raster::Raster;

/// The operations of a plotters backend that are needed, without its type parameters.
pub(super) trait Surface {
    fn rect(&mut self, from: BackendCoord, to: BackendCoord, style: ShapeStyle) -> Result<(), String>;
    fn path(&mut self, points: Vec<BackendCoord>, style: ShapeStyle) -> Result<(), String>;
    fn polygon(&mut self, points: Vec<BackendCoord>, style: ShapeStyle) -> Result<(), String>;
    fn circle(&mut self, center: BackendCoord, radius: u32, style: ShapeStyle) -> Result<(), String>;
    fn text(&mut self, text: &str, style: &Glyphs, at: BackendCoord) -> Result<(), String>;
    fn blit(&mut self, at: BackendCoord, size: (u32, u32), rgb: &[u8]) -> Result<(), String>;
    fn finish(&mut self) -> Result<(), String>;
}

impl<B: DrawingBackend> Surface for B {
    fn rect(&mut self, from: BackendCoord, to: BackendCoord, style: ShapeStyle) -> Result<(), String> {
        self.draw_rect(from, to, &style, style.filled).map_err(|e| e.to_string())
    }

    fn path(&mut self, points: Vec<BackendCoord>, style: ShapeStyle) -> Result<(), String> {
        self.draw_path(points, &style).map_err(|e| e.to_string())
    }

    fn polygon(&mut self, points: Vec<BackendCoord>, style: ShapeStyle) -> Result<(), String> {
        self.fill_polygon(points, &style).map_err(|e| e.to_string())
    }

    fn circle(&mut self, center: BackendCoord, radius: u32, style: ShapeStyle) -> Result<(), String> {
        self.draw_circle(center, radius, &style, style.filled).map_err(|e| e.to_string())
    }

    fn text(&mut self, text: &str, style: &Glyphs, at: BackendCoord) -> Result<(), String> {
        self.draw_text(text, style, at).map_err(|e| e.to_string())
    }

    fn blit(&mut self, at: BackendCoord, size: (u32, u32), rgb: &[u8]) -> Result<(), String> {
        self.blit_bitmap(at, size, rgb).map_err(|e| e.to_string())
    }

    fn finish(&mut self) -> Result<(), String> {
        self.present().map_err(|e| e.to_string())
    }
}

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
}

/// How a line of text looks.
#[derive(Clone, Copy)]
pub(super) struct Type {
    pub em: f64,
    pub bold: bool,
    pub color: RGBAColor,
    pub align: HPos,
    pub upward: bool,
}

impl Type {
    pub fn new(em: f64, color: RGBAColor) -> Self {
        Self { em, bold: false, color, align: HPos::Left, upward: false }
    }

    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub fn center(self) -> Self {
        Self { align: HPos::Center, ..self }
    }

    pub fn right(self) -> Self {
        Self { align: HPos::Right, ..self }
    }

    /// Reading upwards.
    pub fn upward(self) -> Self {
        Self { upward: true, ..self }
    }
}

/// A raster and where it goes, kept aside for SVG.
pub(super) struct Placed {
    pub area: Area,
    pub raster: Raster,
}

/// What a drawing draws on.
pub(super) struct Canvas<'a> {
    surface: &'a mut dyn Surface,
    scale: f64,
    /// Rasters of an SVG, which are put beneath all other marks at their own resolution; none when drawing pixels.
    placed: Option<Vec<Placed>>,
}

impl<'a> Canvas<'a> {
    pub fn pixels(surface: &'a mut dyn Surface, scale: f64) -> Self {
        Self { surface, scale, placed: None }
    }

    pub fn vector(surface: &'a mut dyn Surface, scale: f64) -> Self {
        Self { surface, scale, placed: Some(Vec::new()) }
    }

    /// Completes the surface and gives the rasters that were kept aside.
    pub fn finish(self) -> Result<Vec<Placed>, ReportError> {
        self.surface.finish().map_err(ReportError::Draw)?;
        Ok(self.placed.unwrap_or_default())
    }

    fn length(&self, x: f64) -> i32 {
        // `as` saturates and maps NaN to 0, so that no number can bring the backend down.
        (x * self.scale).round().clamp(-1e6, 1e6) as i32
    }

    fn at(&self, (x, y): (f64, f64)) -> BackendCoord {
        (self.length(x), self.length(y))
    }

    fn stroke(&self, color: RGBAColor, width: f64) -> ShapeStyle {
        ShapeStyle { color, filled: false, stroke_width: self.length(width).max(1) as u32 }
    }

    pub fn rect(&mut self, area: Area, color: RGBAColor) -> Result<(), ReportError> {
        let (from, to) = (self.at((area.x0, area.y0)), self.at((area.x1, area.y1)));
        self.surface.rect(from, (to.0.max(from.0), to.1.max(from.1)), color.filled()).map_err(ReportError::Draw)
    }

    /// Outline of a rectangle.
    pub fn frame(&mut self, area: Area, color: RGBAColor, width: f64) -> Result<(), ReportError> {
        let Area { x0, y0, x1, y1 } = area;
        let h = width / 2.0;
        self.line((x0 - h, y0), (x1 + h, y0), color, width)?;
        self.line((x0 - h, y1), (x1 + h, y1), color, width)?;
        self.line((x0, y0), (x0, y1), color, width)?;
        self.line((x1, y0), (x1, y1), color, width)
    }

    pub fn line(&mut self, a: (f64, f64), b: (f64, f64), color: RGBAColor, width: f64) -> Result<(), ReportError> {
        self.path(&[a, b], color, width)
    }

    pub fn dashed(&mut self, a: (f64, f64), b: (f64, f64), color: RGBAColor, width: f64) -> Result<(), ReportError> {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let dashes = ((dx.hypot(dy) / 8.0).ceil() as usize).clamp(1, 500);
        for i in 0..dashes {
            let (from, to) = (i as f64 / dashes as f64, (i as f64 + 0.55) / dashes as f64);
            self.line((a.0 + dx * from, a.1 + dy * from), (a.0 + dx * to, a.1 + dy * to), color, width)?;
        }
        Ok(())
    }

    pub fn path(&mut self, points: &[(f64, f64)], color: RGBAColor, width: f64) -> Result<(), ReportError> {
        let mut scaled: Vec<BackendCoord> = points.iter().map(|p| self.at(*p)).collect();
        // Plotters divides by the length of each piece.
        scaled.dedup();
        if scaled.len() < 2 {
            return Ok(());
        }
        let style = self.stroke(color, width);
        if self.placed.is_some() {
            return self.surface.path(scaled, style).map_err(ReportError::Draw);
        }
        // Piece by piece with round joints: the pixel backend's own joints break on sharp turns of opaque lines.
        let radius = style.stroke_width / 2;
        for pair in scaled.windows(2) {
            self.surface
                .polygon(thick(pair[0], pair[1], style.stroke_width), style.color.filled())
                .map_err(ReportError::Draw)?;
        }
        if radius > 1 {
            for joint in &scaled[1..scaled.len() - 1] {
                self.surface.circle(*joint, radius, style.color.filled()).map_err(ReportError::Draw)?;
            }
        }
        Ok(())
    }

    pub fn polygon(&mut self, points: &[(f64, f64)], color: RGBAColor) -> Result<(), ReportError> {
        let mut scaled: Vec<BackendCoord> = points.iter().map(|p| self.at(*p)).collect();
        scaled.dedup();
        if scaled.len() < 3 {
            return Ok(());
        }
        self.surface.polygon(scaled, color.filled()).map_err(ReportError::Draw)
    }

    pub fn disc(&mut self, center: (f64, f64), radius: f64, color: RGBAColor) -> Result<(), ReportError> {
        let (at, radius) = (self.at(center), self.length(radius).max(1) as u32);
        self.surface.circle(at, radius, color.filled()).map_err(ReportError::Draw)
    }

    /// One line of text from its baseline. Characters that could break out of a line or of XML are replaced.
    pub fn text(&mut self, (x, baseline): (f64, f64), text: &str, font: Type) -> Result<(), ReportError> {
        let em = font.em * self.scale;
        // The SVG backend sets the anchor `Top` this far above the baseline; the pixel backend draws from the baseline.
        let drop = if self.placed.is_some() { 0.76 * font.em } else { 0.0 };
        let at = if font.upward { self.at((x - drop, baseline)) } else { self.at((x, baseline - drop)) };
        let turn = if font.upward { FontTransform::Rotate270 } else { FontTransform::None };
        let color = font.color.to_backend_color();
        let style = Glyphs { em, bold: font.bold, color, align: font.align, turn };
        self.surface.text(&clean(text), &style, at).map_err(ReportError::Draw)
    }

    /// Fills `area` with a raster, cell by cell. In an SVG it lies beneath everything else.
    pub fn image(&mut self, area: Area, raster: &Raster) -> Result<(), ReportError> {
        if let Some(placed) = &mut self.placed {
            placed.push(Placed { area, raster: raster.clone() });
            return Ok(());
        }
        let (from, to) = (self.at((area.x0, area.y0)), self.at((area.x1, area.y1)));
        let size = ((to.0 - from.0).max(1) as u32, (to.1 - from.1).max(1) as u32);
        self.surface.blit(from, size, &raster.stretched(size)).map_err(ReportError::Draw)
    }
}

/// The four corners of a line of `width` pixels.
fn thick(a: BackendCoord, b: BackendCoord, width: u32) -> Vec<BackendCoord> {
    let (dx, dy) = (f64::from(b.0 - a.0), f64::from(b.1 - a.1));
    let length = dx.hypot(dy).max(1e-9);
    let half = f64::from(width) / 2.0;
    let (nx, ny) = (-dy / length * half, dx / length * half);
    [(a, 1.0), (b, 1.0), (b, -1.0), (a, -1.0)]
        .map(|(p, side)| ((f64::from(p.0) + side * nx).round() as i32, (f64::from(p.1) + side * ny).round() as i32))
        .to_vec()
}

/// Width of a line of text in logical units.
pub(super) fn text_width(text: &str, em: f64, bold: bool) -> f64 {
    glyphs::width(&clean(text), bold) * em
}

/// Shortens a text in its middle until it fits.
pub(super) fn fit(text: &str, em: f64, bold: bool, width: f64) -> String {
    let text = clean(text);
    // Nothing longer than this fits any figure, and measuring a megabyte at every step would take forever.
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= 400 && text_width(&text, em, bold) <= width {
        return text;
    }
    let longest = chars.len().min(400).saturating_sub(1);
    let shortened = |keep: usize| -> String {
        let head = keep.div_ceil(2);
        let tail = keep - head;
        chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect()
    };
    (1..=longest).rev().map(shortened).find(|s| text_width(s, em, bold) <= width).unwrap_or_else(|| "…".into())
}

/// Replaces what must not reach a label: control characters (not XML, or line breaks) and marks that reorder text.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_and_shortened_in_the_middle() {
        assert_eq!(clean("a\u{0}b\nc\u{202e}"), "a\u{fffd}b c\u{fffd}");
        assert_eq!(fit("short", 12.0, false, 200.0), "short");
        let long = fit("a-very-long-data-set-name-that-will-not-fit", 12.0, false, 120.0);
        assert!(long.starts_with("a-v") && long.contains('…') && long.ends_with("fit"), "{long}");
        assert!(text_width(&long, 12.0, false) <= 120.0);
        assert_eq!(fit("anything", 12.0, false, 0.0), "…");
        assert!(text_width("MMM", 10.0, false) > 2.0 * text_width("iii", 10.0, false));
    }
}
