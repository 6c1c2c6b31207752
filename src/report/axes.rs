//! Axes with ticks that people would choose, and the frame that holds them.

use crate::report::canvas::{Area, Canvas};
use crate::report::text::{Type, text_width};
use crate::report::theme;
use crate::report::theme::number;

/// One axis: its ends, its scale and its ticks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Axis {
    pub low: f64,
    pub high: f64,
    pub log: bool,
    pub ticks: Vec<(f64, String)>,
    pub title: String,
    /// Whether the labels of the ticks stand upright, which lets many stand side by side.
    pub upright: bool,
}

/// Smallest and largest of the finite values.
pub(super) fn extent(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|v| v.is_finite()).fold(None, |ends, v| match ends {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

/// Distance of about `n` ticks over `span`: 1, 2 or 5 times a power of ten.
fn step(span: f64, n: usize) -> f64 {
    let raw = (span / n.max(1) as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let lead = raw / power;
    power
        * if lead <= 1.0 {
            1.0
        } else if lead <= 2.0 {
            2.0
        } else if lead <= 5.0 {
            5.0
        } else {
            10.0
        }
}

/// Decimals that tell multiples of `step` apart.
fn decimals(step: f64) -> usize {
    (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize
}

/// A number with the digits that it needs, at most six.
fn plain(value: f64) -> String {
    let digits = (5.0 - value.abs().max(1e-300).log10().floor()).clamp(0.0, 15.0) as i32;
    let factor = 10f64.powi(digits);
    format!("{}", (value * factor).round() / factor).replace('-', "−")
}

/// "10⁻⁵": powers of ten whose zeros are hard to count.
fn power(value: f64) -> Option<String> {
    let power = value.log10().round();
    let is_power = (value.log10() - power).abs() < 1e-9 && !(-3.5..3.5).contains(&power);
    let raised = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        c => char::from_u32(0x2070 + c.to_digit(10).unwrap_or(0)).unwrap_or(c),
    };
    is_power.then(|| format!("10{}", format!("{power}").chars().map(raised).collect::<String>()))
}

/// The usual ends, widened to whole steps, within `limits`, only where values lie beyond them.
pub(super) fn covering(usual: (f64, f64), ends: Option<(f64, f64)>, limits: (f64, f64)) -> (f64, f64) {
    let Some((low, high)) = ends.filter(|(low, high)| *low < usual.0 || *high > usual.1) else { return usual };
    let (low, high) = rounded(Some((low.min(usual.0), high.max(usual.1))), limits, 6);
    (low.min(usual.0), high.max(usual.1))
}

/// Multiples of `step` from `low` to `high`, at most 200.
fn multiples(low: f64, high: f64, step: f64) -> Vec<f64> {
    let first = (low / step - 1e-6).ceil();
    (0..200).map(|i| (first + f64::from(i)) * step).take_while(|v| *v <= high + step * 1e-6).collect()
}

/// Ends widened to whole steps of about `n` over the values, never beyond `limits`.
pub(super) fn rounded(ends: Option<(f64, f64)>, limits: (f64, f64), n: usize) -> (f64, f64) {
    let Some((low, high)) = ends else { return limits };
    // Values that hardly differ are not blown up to the full height.
    let least = (0.05 * low.abs().max(high.abs())).max(1e-6);
    let room = ((least - (high - low)) / 2.0).max(0.0);
    let (low, high) = ((low - room).clamp(limits.0, limits.1), (high + room).clamp(limits.0, limits.1));
    let step = step((high - low).max(least), n);
    let low_end = ((low / step + 1e-9).floor() * step).max(limits.0);
    let mut high_end = ((high / step - 1e-9).ceil() * step).min(limits.1);
    if high_end <= low_end {
        high_end = (low_end + step).min(limits.1);
    }
    if high_end <= low_end { (low_end - step, high_end) } else { (low_end, high_end) }
}

impl Axis {
    /// A linear axis with about `n` ticks.
    pub fn linear((low, high): (f64, f64), n: usize, title: &str) -> Self {
        let step = step(high - low, n);
        let decimals = decimals(step);
        let ticks = multiples(low, high, step).into_iter().map(|v| (v, number(v, decimals))).collect();
        Self { low, high, log: false, ticks, title: title.into(), upright: false }
    }

    /// A linear axis from zero to a round number over the highest value, which is never above `most`.
    pub fn from_zero(highest: f64, most: f64, title: &str) -> Self {
        Self::linear((0.0, rounded(Some((0.0, highest)), (0.0, most), 6).1), 6, title)
    }

    /// A linear axis over whole numbers, with half a unit of room at both ends.
    pub fn whole(low: usize, high: usize, n: usize, title: &str) -> Self {
        let step = step((high - low).max(1) as f64, n).max(1.0);
        let ticks = multiples(low as f64, high as f64, step).into_iter().map(|v| (v, number(v, 0))).collect();
        Self { low: low as f64 - 0.5, high: high as f64 + 0.5, log: false, ticks, title: title.into(), upright: false }
    }

    /// A logarithmic axis with ticks at the given positive values.
    pub fn logarithmic(values: &[f64], title: &str) -> Self {
        let (low, high) = extent(values.iter().copied().filter(|v| *v > 0.0)).unwrap_or((1.0, 10.0));
        let (low, high) = if high > low { (low, high) } else { (low / 2.0, high * 2.0) };
        let ticks = values.iter().filter(|v| **v > 0.0).map(|v| (*v, number(*v, 0))).collect();
        Self { low: low / 1.06, high: high * 1.06, log: true, ticks, title: title.into(), upright: false }
    }

    /// A logarithmic axis over whole powers of ten: from `low` to `high`, and further where values lie beyond.
    pub fn decades(values: impl IntoIterator<Item = f64>, (low, high): (f64, f64), title: &str) -> Self {
        let (least, most) = extent(values.into_iter().filter(|v| *v > 0.0)).unwrap_or((low, high));
        let power = |v: f64, round: fn(f64) -> f64| 10f64.powf(round(v.log10()).clamp(-12.0, 12.0));
        Self::powers_between(low.min(power(least, f64::floor)), high.max(power(most, f64::ceil)), title)
    }

    /// A logarithmic axis with ticks at the powers of ten, and at 2 and 5 times them where there are few.
    pub fn powers_between(low: f64, high: f64, title: &str) -> Self {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let leads: &[f64] = if last - first > 2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let all = (first..=last).flat_map(|power| leads.iter().map(move |lead| lead * 10f64.powi(power)));
        let within = all.filter(|v| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(v));
        let ticks = within.map(|v| (v, power(v).unwrap_or_else(|| plain(v)))).collect();
        Self { low, high, log: true, ticks, title: title.into(), upright: false }
    }

    /// A linear axis with ticks at these places only.
    pub fn at(places: &[f64], (low, high): (f64, f64), title: &str) -> Self {
        let ticks = places.iter().map(|v| (*v, plain(*v))).collect();
        Self { low, high, log: false, ticks, title: title.into(), upright: false }
    }

    /// An axis over named places 0, 1, 2, ….
    pub fn named(labels: Vec<String>, title: &str) -> Self {
        let high = labels.len() as f64 - 0.5;
        let ticks = labels.into_iter().enumerate().map(|(i, label)| (i as f64, label)).collect();
        Self { low: -0.5, high, log: false, ticks, title: title.into(), upright: false }
    }

    /// Where a value lies between the ends, in [0, 1].
    pub fn part(&self, value: f64) -> f64 {
        let part = if self.log {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// A value of the axis in words: a tick's label, or digits enough to tell a hundredth of the axis.
    pub fn text(&self, value: f64) -> String {
        match self.ticks.iter().find(|tick| tick.0 == value) {
            Some((_, label)) => label.clone(),
            None => number(value, decimals((self.high - self.low) / 100.0)),
        }
    }

    /// Room for labels and title beneath an area.
    pub fn foot(&self) -> f64 {
        56.0 + if self.upright { self.widest() } else { 0.0 }
    }

    fn widest(&self) -> f64 {
        self.ticks.iter().map(|tick| text_width(&tick.1, theme::TICK - 3.0, false)).fold(0.0, f64::max)
    }

    /// Draws the axis along the foot of `area`: upright grid lines, ticks with their labels, and the title.
    pub fn draw(&self, canvas: &mut Canvas<'_>, area: Area) {
        let mut taken = f64::NEG_INFINITY;
        for (value, label) in &self.ticks {
            let x = area.x0 + self.part(*value) * area.width();
            let half = if self.upright { 2.0 } else { text_width(label, theme::TICK, false) / 2.0 };
            if x - half < taken + 6.0 {
                continue;
            }
            taken = x + half;
            canvas.line((x, area.y0), (x, area.y1), theme::GRID, 1.0);
            canvas.line((x, area.y1), (x, area.y1 + 4.0), theme::EDGE, 1.0);
            let soft = Type::new(theme::TICK, theme::SOFT_INK);
            if self.upright {
                let small = Type { em: theme::TICK - 3.0, ..soft }.right().upward();
                canvas.text((x + 3.2, area.y1 + 7.0), label, small);
            } else {
                canvas.text((x, area.y1 + 18.0), label, soft.center());
            }
        }
        canvas.line((area.x0, area.y1), (area.x1, area.y1), theme::EDGE, 1.2);
        let title = Type::new(theme::LABEL, theme::INK).center();
        canvas.text((area.middle().0, area.y1 + self.foot() - 16.0), &self.title, title);
    }
}

/// A plotting area with its two axes.
#[derive(Clone, Debug)]
pub(super) struct Frame<'a> {
    pub area: Area,
    pub x: &'a Axis,
    pub y: &'a Axis,
}

impl Frame<'_> {
    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (self.px(x), self.py(y))
    }

    pub fn px(&self, x: f64) -> f64 {
        self.area.x0 + self.x.part(x) * self.area.width()
    }

    pub fn py(&self, y: f64) -> f64 {
        self.area.y1 - self.y.part(y) * self.area.height()
    }

    /// Grid, ticks, labels and titles, those of the y axis where it is the `first` of a row; to be drawn before the data.
    /// A `strip` of that height beneath the values is for what has none.
    pub fn draw(&self, canvas: &mut Canvas<'_>, first: bool, strip: f64) {
        let Area { x0, y0, x1, y1 } = self.area;
        let mut widest: f64 = 0.0;
        for (value, label) in &self.y.ticks {
            let y = self.py(*value);
            canvas.line((x0, y), (x1, y), theme::GRID, 1.0);
            if first {
                let tick = Type::new(theme::TICK, theme::SOFT_INK).right();
                canvas.text((x0 - 7.0, y + 0.36 * theme::TICK), label, tick);
                widest = widest.max(text_width(label, theme::TICK, false));
            }
        }
        self.x.draw(canvas, Area { y1: y1 + strip, ..self.area });
        if strip > 0.0 {
            canvas.line((x0, y1), (x1, y1), theme::EDGE, 0.75);
            let soft = Type::new(theme::TICK - 1.0, theme::SOFT_INK).right();
            let at = (x0 - 7.0, y1 + strip / 2.0 + 4.0);
            if first {
                canvas.text(at, "no data", soft);
            }
        }
        canvas.line((x0, y0), (x0, y1), theme::EDGE, 1.2);
        if first {
            let title = Type::new(theme::LABEL, theme::INK).center().upward();
            canvas.text((x0 - widest - 16.0, self.area.middle().1), &self.y.title, title);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let axis = Axis::linear((0.2, 0.93), 5, "");
        let labels: Vec<&str> = axis.ticks.iter().map(|t| t.1.as_str()).collect();
        assert_eq!(labels, ["0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(rounded(Some((0.23, 0.91)), (-1.0, 1.0), 5), (0.2, 1.0));
        assert_eq!(rounded(None, (0.0, 1.0), 5), (0.0, 1.0));
        let (low, high) = rounded(Some((1.0, 1.0)), (-1.0, 1.0), 5);
        assert!(low < high && high == 1.0, "{low} {high}");
        assert_eq!(Axis::whole(3, 3, 8, "").ticks, [(3.0, "3".to_string())]);
        assert_eq!(Axis::whole(0, 79, 8, "").ticks[1].0, 10.0);
    }

    #[test]
    fn decades_widen_only_for_what_lies_beyond() {
        let axis = |values: &[f64]| {
            let axis = Axis::decades(values.iter().copied(), (1e-3, 1.0), "");
            let labels: Vec<String> = axis.ticks.iter().map(|tick| tick.1.clone()).collect();
            (axis.low, axis.high, labels.join(" "))
        };
        assert_eq!(axis(&[0.02, 0.5]), (1e-3, 1.0, "0.001 0.01 0.1 1".into()));
        assert_eq!(axis(&[]), axis(&[0.0, 0.1]));
        let (low, high, _) = axis(&[2e-4, 3.0]);
        assert!((low - 1e-4).abs() < 1e-12 && (high - 10.0).abs() < 1e-9);
        assert_eq!(Axis::powers_between(1.0, 100.0, "").ticks.len(), 7);
        assert_eq!(
            [1e-5, 1e-3, 5e-5, 1e6, 1e13].map(power),
            [Some("10⁻⁵".into()), None, None, Some("10⁶".into()), Some("10¹³".into())]
        );
        assert_eq!(covering((0.0, 1.0), Some((0.2, 0.9)), (-1.0, 1.0)), (0.0, 1.0));
        assert_eq!(covering((0.0, 1.0), Some((-0.13, 0.9)), (-1.0, 1.0)), (-0.2, 1.0));
    }

    #[test]
    fn positions_survive_values_that_are_none() {
        let axis = Axis::logarithmic(&[1.0, 4.0, 64.0], "");
        assert!((axis.part(8.0) - 0.5).abs() < 0.01);
        assert_eq!(axis.part(f64::NAN), 0.0);
        assert_eq!(axis.part(0.0), 0.0);
        let empty = Axis::logarithmic(&[], "");
        assert!(empty.part(1.0) < 0.05 && empty.part(10.0) > 0.95 && empty.ticks.is_empty());
    }
}
