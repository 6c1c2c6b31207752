//! Lines of text: how they look, how wide they are, and what may stand in them.

use std::sync::{Arc, OnceLock};

use plotters::style::RGBAColor;
use plotters::style::text_anchor::HPos;
use resvg::usvg::fontdb::Database;
use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider};

/// What viewers of an SVG look for: the font that comes with the program, then one of like widths.
pub(super) const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

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

/// The fonts that PNG files are drawn with.
pub(super) fn fonts() -> Arc<Database> {
    static FONTS: OnceLock<Arc<Database>> = OnceLock::new();
    let load = || {
        let mut fonts = Database::new();
        for font in [dejavu::sans::regular(), dejavu::sans::bold()] {
            fonts.load_font_data(font.to_vec());
        }
        Arc::new(fonts)
    };
    Arc::clone(FONTS.get_or_init(load))
}

/// Width of a line of text in logical units, before pairs of letters are moved together.
pub(super) fn text_width(text: &str, em: f64, bold: bool) -> f64 {
    let font = if bold { dejavu::sans::bold() } else { dejavu::sans::regular() };
    let Ok(font) = FontRef::new(font) else { return 0.0 };
    let (letters, metrics) = (font.charmap(), font.glyph_metrics(Size::new(1.0), LocationRef::default()));
    let advance = |c| metrics.advance_width(letters.map(c).unwrap_or_default()).unwrap_or_default();
    clean(text).chars().map(|c| f64::from(advance(c))).sum::<f64>() * em
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

/// Replaces what must not reach a reader: control characters (not XML, or line breaks) and marks that reorder text.
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

/// Text for HTML and XML, as content or between double quotes; control characters are replaced.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_follow_the_letters() {
        // Advances of DejaVu Sans: i 569, M 1767, digits 1303, of 2048 units.
        assert!((text_width("i", 1.0, false) - 569.0 / 2048.0).abs() < 1e-6);
        assert!((text_width("000", 10.0, false) - 30.0 * 1303.0 / 2048.0).abs() < 1e-5);
        assert!(text_width("M", 1.0, true) > text_width("M", 1.0, false));
        assert_eq!(text_width("", 9.0, false), 0.0);
    }

    #[test]
    fn texts_are_cleaned_and_shortened_in_the_middle() {
        assert_eq!(clean("a\u{0}b\nc\u{202e}"), "a\u{fffd}b c\u{fffd}");
        assert_eq!(fit("short", 12.0, false, 200.0), "short");
        let long = fit("a-very-long-data-set-name-that-will-not-fit", 12.0, false, 120.0);
        assert!(long.starts_with("a-v") && long.contains('…') && long.ends_with("fit"), "{long}");
        assert!(text_width(&long, 12.0, false) <= 120.0);
        assert_eq!(fit("anything", 12.0, false, 0.0), "…");
    }
}
