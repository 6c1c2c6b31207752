//! Sizes, colours, marks and number formats that all figures share.

use plotters::style::RGBAColor;

use crate::format::dump::State;
use crate::report::canvas::{Area, Canvas};

/// Width of every figure in logical units.
pub(super) const WIDTH: f64 = 960.0;
/// White space at the left and right edges.
pub(super) const MARGIN: f64 = 24.0;
/// Height of title and subtitle.
pub(super) const HEAD: f64 = 70.0;
/// Text sizes in logical units.
pub(super) const TITLE: f64 = 19.0;
pub(super) const LABEL: f64 = 13.5;
pub(super) const TICK: f64 = 12.0;

pub(super) const INK: RGBAColor = RGBAColor(0x1f, 0x23, 0x28, 1.0);
pub(super) const SOFT_INK: RGBAColor = RGBAColor(0x57, 0x60, 0x6a, 1.0);
pub(super) const GRID: RGBAColor = RGBAColor(0xe4, 0xe7, 0xeb, 1.0);
pub(super) const EDGE: RGBAColor = RGBAColor(0x8c, 0x95, 0x9f, 1.0);
pub(super) const WHITE: RGBAColor = RGBAColor(0xff, 0xff, 0xff, 1.0);
pub(super) const NO_DATA: RGBAColor = RGBAColor(0xe9, 0xe9, 0xe9, 1.0);
pub(super) const HATCH: RGBAColor = RGBAColor(0xa8, 0xa8, 0xa8, 1.0);

/// Okabe and Ito's palette (2008) without yellow, which white swallows, and with dark grey for black.
const SERIES: [(u8, u8, u8); 7] = [
    (0x00, 0x72, 0xb2),
    (0xd5, 0x5e, 0x00),
    (0x00, 0x9e, 0x73),
    (0xcc, 0x79, 0xa7),
    (0xe6, 0x9f, 0x00),
    (0x56, 0xb4, 0xe9),
    (0x45, 0x4b, 0x52),
];

/// Shapes of data points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Disc,
    Square,
    Triangle,
    Diamond,
    Down,
}

/// Colour and mark of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    pub color: RGBAColor,
    pub mark: Mark,
}

/// Look of series `index`: 7 colours and 5 marks have no common divisor, so that 35 series differ.
pub(super) fn look(index: usize) -> Look {
    const MARKS: [Mark; 5] = [Mark::Disc, Mark::Square, Mark::Triangle, Mark::Diamond, Mark::Down];
    let (r, g, b) = SERIES[index % SERIES.len()];
    Look { color: RGBAColor(r, g, b, 1.0), mark: MARKS[index % MARKS.len()] }
}

/// Look of a state, the same in every figure.
pub(super) fn state_look(state: State) -> Look {
    look(match state {
        State::K => 0,
        State::KPreRope => 1,
        _ => 2,
    })
}

/// Name of a state as a title.
pub(super) fn state_title(state: State) -> String {
    capitalised(state_label(state))
}

/// Name of a state for readers.
pub(super) fn state_label(state: State) -> &'static str {
    match state {
        State::K => "keys after RoPE",
        State::KPreRope => "keys before RoPE",
        State::V => "values",
        State::Q => "queries",
        State::Mass => "attention mass",
    }
}

/// The text with a capital first letter.
pub(super) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The colour, see-through.
pub(super) fn faint(color: RGBAColor, alpha: f64) -> RGBAColor {
    RGBAColor(color.0, color.1, color.2, alpha)
}

/// Draws a data point: filled, or as an outline on white.
pub(super) fn mark(canvas: &mut Canvas<'_>, at: (f64, f64), look: Look, r: f64, filled: bool) {
    solid(canvas, at, look, r);
    if !filled {
        solid(canvas, at, Look { color: WHITE, ..look }, r - 1.8);
    }
}

fn solid(canvas: &mut Canvas<'_>, (x, y): (f64, f64), look: Look, r: f64) {
    let corners: &[(f64, f64)] = match look.mark {
        Mark::Disc => return canvas.disc((x, y), r, look.color),
        Mark::Square => &[(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        Mark::Triangle => &[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        Mark::Down => &[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
        Mark::Diamond => &[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)],
    };
    let corners: Vec<(f64, f64)> = corners.iter().map(|(dx, dy)| (x + dx * r, y + dy * r)).collect();
    canvas.polygon(&corners, look.color);
}

/// Grey with diagonal strokes: no data here.
pub(super) fn hatch(canvas: &mut Canvas<'_>, area: Area) {
    canvas.rect(area, NO_DATA);
    let mut c = area.x0 + area.y0 + 3.0;
    while c < area.x1 + area.y1 {
        // The line x + y = c within the area.
        let from_x = (c - area.y1).max(area.x0);
        let to_x = (c - area.y0).min(area.x1);
        canvas.line((from_x, c - from_x), (to_x, c - to_x), HATCH, 0.75);
        c += 6.0;
    }
}

/// A cross at `at`: this series has no value here.
pub(super) fn cross(canvas: &mut Canvas<'_>, (x, y): (f64, f64), color: RGBAColor) {
    canvas.line((x - 3.5, y - 3.5), (x + 3.5, y + 3.5), color, 1.5);
    canvas.line((x - 3.5, y + 3.5), (x + 3.5, y - 3.5), color, 1.5);
}

/// A number with a fixed number of decimals and a true minus sign; never "-0".
pub(super) fn number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.into(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// A threshold as it was given: no trailing zeros, none of f32's tail.
pub(super) fn threshold(value: f32) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.replace('-', "−") }
}

/// "1 layer", "2 layers".
pub(super) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{} {what}s", thousands(n as u64)) }
}

/// A whole number in groups of three with thin spaces.
pub(super) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && digits.len() > 4 {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_readers() {
        assert_eq!(number(-0.004, 2), "0.00");
        assert_eq!(number(-1.25, 1), "−1.2");
        assert_eq!(threshold(0.1 + 0.2), "0.3");
        assert_eq!(threshold(-1.0), "−1");
        assert_eq!(thousands(9876), "9876");
        assert_eq!(thousands(1234567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(1, "head"), "1 head");
        assert_ne!(look(0), look(7));
    }
}
