//! Lines of text from the embedded fonts, each glyph at its own fraction of a pixel.
//!
//! Plotters' own text drops every glyph's side bearing, which sets words unevenly; a style of ours does the same job.

use std::convert::Infallible;
use std::sync::OnceLock;

use ab_glyph::Font;
use ab_glyph::FontRef;
use ab_glyph::PxScale;
use ab_glyph::ScaleFont;
use ab_glyph::point;
use plotters_backend::BackendColor;
use plotters_backend::BackendCoord;
use plotters_backend::BackendTextStyle;
use plotters_backend::FontFamily;
use plotters_backend::FontStyle;
use plotters_backend::FontTransform;
use plotters_backend::text_anchor::HPos;
use plotters_backend::text_anchor::Pos;
use plotters_backend::text_anchor::VPos;

/// What viewers of an SVG look for: fonts of like widths.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";
/// Plotters' SVG backend divides the size by this.
const SVG_SIZE_PER_EM: f64 = 1.24;

/// Regular and bold; `None` if the embedded bytes are no font.
fn font(bold: bool) -> Option<&'static FontRef<'static>> {
    static FONTS: OnceLock<[Option<FontRef<'static>>; 2]> = OnceLock::new();
    let load = |bytes| FontRef::try_from_slice(bytes).ok();
    FONTS.get_or_init(|| [load(dejavu::sans::regular()), load(dejavu::sans::bold())])[usize::from(bold)].as_ref()
}

/// How a line of text looks; plotters' backends draw it from its baseline.
pub(super) struct Glyphs {
    /// Pixels or SVG units in one em.
    pub em: f64,
    pub bold: bool,
    pub color: BackendColor,
    pub align: HPos,
    pub turn: FontTransform,
}

/// Calls `place` with each glyph's character and distance from the start, and gives the width; in units of one em.
fn layout(text: &str, bold: bool, mut place: impl FnMut(char, f32)) -> f32 {
    let Some(font) = font(bold) else { return 0.0 };
    let unit = font.units_per_em().unwrap_or(2048.0);
    let (mut x, mut before) = (0.0, None);
    for c in text.chars() {
        let id = font.glyph_id(c);
        x += before.map_or(0.0, |b| font.kern_unscaled(b, id)) / unit;
        place(c, x);
        x += font.h_advance_unscaled(id) / unit;
        before = Some(id);
    }
    x
}

/// Width of a line of text in em.
pub(super) fn width(text: &str, bold: bool) -> f64 {
    f64::from(layout(text, bold, |_, _| ()))
}

impl BackendTextStyle for Glyphs {
    type FontError = Infallible;

    fn color(&self) -> BackendColor {
        self.color
    }

    fn size(&self) -> f64 {
        self.em * SVG_SIZE_PER_EM
    }

    fn transform(&self) -> FontTransform {
        self.turn.clone()
    }

    fn style(&self) -> FontStyle {
        if self.bold { FontStyle::Bold } else { FontStyle::Normal }
    }

    fn anchor(&self) -> Pos {
        Pos::new(self.align, VPos::Top)
    }

    fn family(&self) -> FontFamily<'_> {
        FontFamily::Name(FAMILY)
    }

    fn layout_box(&self, text: &str) -> Result<((i32, i32), (i32, i32)), Infallible> {
        Ok(((0, 0), ((width(text, self.bold) * self.em).round() as i32, self.em.round() as i32)))
    }

    fn draw<E, D: FnMut(i32, i32, BackendColor) -> Result<(), E>>(
        &self,
        text: &str,
        (x0, y0): BackendCoord,
        mut draw: D,
    ) -> Result<Result<(), E>, Infallible> {
        let Some(font) = font(self.bold) else { return Ok(Ok(())) };
        // The font's scale counts from its descent to its ascent.
        let per_em = font.height_unscaled() / font.units_per_em().unwrap_or(2048.0);
        let scale = PxScale::from(self.em as f32 * per_em);
        let scaled = font.as_scaled(scale);
        let mut outcome = Ok(());
        layout(text, self.bold, |c, x| {
            let glyph = scaled.glyph_id(c).with_scale_and_position(scale, point(x * self.em as f32, 0.0));
            let Some(outline) = scaled.outline_glyph(glyph) else { return };
            let corner = outline.px_bounds().min;
            outline.draw(|x, y, coverage| {
                if outcome.is_ok() && coverage > 0.0 {
                    let color = self.color.mix(f64::from(coverage.min(1.0)));
                    outcome = draw(x0 + corner.x as i32 + x as i32, y0 + corner.y as i32 + y as i32, color);
                }
            });
        });
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_follow_the_letters() {
        // Advances of DejaVu Sans: i 569, M 1767, digits 1303, of 2048 units.
        assert!((width("i", false) - 569.0 / 2048.0).abs() < 1e-6);
        assert!((width("000", false) - 3.0 * 1303.0 / 2048.0).abs() < 1e-6);
        assert!(width("M", true) > width("M", false));
        assert_eq!(width("", false), 0.0);
    }
}
