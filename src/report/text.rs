//! Lines of text: how they look, how wide they are, and what may stand in them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use plotters::style::RGBAColor;
use plotters::style::text_anchor::HPos;
use resvg::usvg::fontdb::Database;
use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider};
use unicode_width::UnicodeWidthChar;

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

/// Whether the font that comes with the program has the letter.
fn is_ours(c: char) -> bool {
    static OURS: OnceLock<HashSet<u32>> = OnceLock::new();
    let load = || {
        let font = FontRef::new(dejavu::sans::regular());
        font.map(|font| font.charmap().mappings().map(|(letter, _)| letter).collect()).unwrap_or_default()
    };
    c.is_ascii() || OURS.get_or_init(load).contains(&(c as u32))
}

/// The fonts that a text is drawn with: ours, and those of the system where ours lacks a letter, so that what needs none
/// is drawn alike everywhere.
pub(super) fn fonts(text: &str) -> Arc<Database> {
    static OURS: OnceLock<Arc<Database>> = OnceLock::new();
    let load = || {
        let mut fonts = Database::new();
        for font in [dejavu::sans::regular(), dejavu::sans::bold()] {
            fonts.load_font_data(font.to_vec());
        }
        Arc::new(fonts)
    };
    let ours = OURS.get_or_init(load);
    Arc::clone(if text.chars().all(is_ours) { ours } else { all_fonts(ours) })
}

/// Our fonts and the system's.
fn all_fonts(ours: &Database) -> &'static Arc<Database> {
    static ALL: OnceLock<Arc<Database>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut fonts = ours.clone();
        fonts.load_system_fonts();
        Arc::new(fonts)
    })
}

/// Whether some font at hand has the letter.
fn is_drawable(c: char) -> bool {
    static KNOWN: Mutex<BTreeMap<char, bool>> = Mutex::new(BTreeMap::new());
    if is_ours(c) || c.is_control() {
        return true;
    }
    let fonts = fonts(c.encode_utf8(&mut [0; 4]));
    let has = |id| {
        let found = fonts.with_face_data(id, |data, index| {
            FontRef::from_index(data, index).is_ok_and(|font| font.charmap().map(c).is_some())
        });
        found.unwrap_or(false)
    };
    let search = || fonts.faces().any(|face| has(face.id));
    match KNOWN.lock() {
        Ok(mut known) => *known.entry(c).or_insert_with(search),
        Err(_) => search(),
    }
}

/// What stands for a letter that no font has.
fn code(c: char) -> String {
    format!("U+{:04X}", c as u32)
}

/// The text with a code for every letter that no font at hand has.
pub(super) fn drawable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_drawable) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_drawable(c) { c.to_string() } else { code(c) }).collect())
}

/// Width of a line of text in logical units, before pairs of letters are moved together. Letters that ours lack count
/// by the columns that terminals give them, and those that no font has by their code.
pub(super) fn text_width(text: &str, em: f64, bold: bool) -> f64 {
    let font = if bold { dejavu::sans::bold() } else { dejavu::sans::regular() };
    let Ok(font) = FontRef::new(font) else { return 0.0 };
    let (letters, metrics) = (font.charmap(), font.glyph_metrics(Size::new(1.0), LocationRef::default()));
    let advance = |c: char| metrics.advance_width(letters.map(c).unwrap_or_default()).unwrap_or_default();
    let width = |c: char| {
        if is_ours(c) {
            f64::from(advance(c))
        } else if is_drawable(c) {
            [0.0, 0.65, 1.0][c.width().unwrap_or(1).min(2)]
        } else {
            code(c).chars().map(|c| f64::from(advance(c))).sum()
        }
    };
    clean(text).chars().map(width).sum::<f64>() * em
}

/// Breaks a text into lines of at most `width`, at blanks, or behind a comma, colon, hyphen or slash; what fits nowhere is
/// shortened in its middle, and so is what is left at the last of `most` lines.
pub(super) fn wrap(text: &str, em: f64, bold: bool, width: f64, most: usize) -> Vec<String> {
    let text = clean(text);
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_inclusive([' ', ',', ':', '-', '/', '_']) {
        let n = lines.len();
        if let Some(line) = lines.last_mut() {
            let longer = format!("{line}{word}");
            if line.is_empty() || n >= most.max(1) || text_width(longer.trim_end(), em, bold) <= width {
                *line = longer;
            } else {
                lines.push(word.into());
            }
        }
    }
    lines.iter().map(|line| fit(line.trim(), em, bold, width)).collect()
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
    fn letters_that_no_font_has_become_codes() {
        // A private letter: no font of a system should have it.
        let private = '\u{f8fe}';
        assert_eq!(drawable("a\u{f8fe}b"), "aU+F8FEb");
        assert!((text_width("\u{f8fe}", 2.0, false) - text_width("U+F8FE", 2.0, false)).abs() < 1e-9, "{private}");
        assert!(matches!(drawable("plain, Ελληνικά, עברית"), Cow::Borrowed(_)), "ours has these");
    }

    #[test]
    fn long_labels_are_broken_where_words_end() {
        let label = "kvmerger:bridge=true,variant=log-count,score=leave-one-out";
        let lines = wrap(label, 10.0, false, 200.0, 3);
        assert_eq!(lines.concat(), label);
        assert!(lines.len() == 2 && lines.iter().all(|line| text_width(line, 10.0, false) <= 200.0), "{lines:?}");
        assert!(wrap(label, 10.0, false, 100.0, 2)[1].contains('…'));
        assert_eq!(wrap("", 10.0, false, 100.0, 2), [""]);
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
