//! The layout of curves: panels over common axes beneath one legend, with gaps where there is no value.

use plotters::style::RGBAColor;

use crate::report::axes::{Axis, Frame, extent};
use crate::report::canvas::{Area, Canvas};
use crate::report::drawing::Words;
use crate::report::legend::{Key, Legend};
use crate::report::table::{Table, cell};
use crate::report::text::{Type, fit};
use crate::report::theme;
use crate::report::theme::Look;
use crate::report::{Drawing, ReportError};

/// Room for the labels of the y axis.
const LEFT: f64 = 56.0;
/// Most panels side by side; more go on below.
const PANELS: usize = 3;
/// Between two panels.
const GAP: f64 = 48.0;
/// Lines of crosses in the strip beneath the values.
const MOST_CROSSES: usize = 6;
/// Colour of bands that belong to no one curve.
const SHADE: RGBAColor = RGBAColor(0x57, 0x60, 0x6a, 0.16);

/// Lower and upper ends at each x.
pub(super) type Band = Vec<(f64, Option<(f64, f64)>)>;

/// Where a curve has marks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Marks {
    /// On its points, as far as they have room, other points than those of other curves.
    #[default]
    Spaced,
    /// None.
    None,
    /// On its points, of this size and without a line.
    Only(f64),
}

/// A named curve.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub name: String,
    pub look: Look,
    /// x, and y where it is known; none at all where there is no data.
    pub points: Vec<(f64, Option<f64>)>,
    pub band: Band,
    /// Ends of intervals, drawn as upright bars.
    pub whiskers: Band,
    pub marks: Marks,
    /// One of many, which the legend leaves out.
    pub unnamed: bool,
    pub thick: bool,
}

impl Curve {
    pub fn new(name: &str, look: Look, points: Vec<(f64, Option<f64>)>) -> Self {
        Self { name: name.into(), look, points, ..Self::empty(look) }
    }

    fn empty(look: Look) -> Self {
        let (name, points, marks) = (String::new(), Vec::new(), Marks::default());
        Self { name, look, points, band: Band::new(), whiskers: Band::new(), marks, unnamed: false, thick: false }
    }

    /// The points that have a value.
    pub fn known(&self) -> impl DoubleEndedIterator<Item = (f64, f64)> + '_ {
        self.points.iter().filter_map(|(x, y)| Some((*x, (*y)?)))
    }
}

/// Lowest and highest value of curves and their bands.
pub(super) fn ends<'a>(curves: impl IntoIterator<Item = &'a Curve>) -> Option<(f64, f64)> {
    extent(
        curves
            .into_iter()
            .flat_map(|curve| curve.known().map(|p| p.1).chain(values(&curve.band)).chain(values(&curve.whiskers))),
    )
}

/// Both ends of a band at all its places.
pub(super) fn values(band: &Band) -> impl Iterator<Item = f64> + '_ {
    band.iter().filter_map(|b| b.1).flat_map(|(low, high)| [low, high])
}

/// Curves over common axes, in one panel or several.
#[derive(Clone, Debug, Default)]
pub(super) struct Curves {
    /// The panels' titles and curves; the same names in the same order in each.
    pub panels: Vec<(String, Vec<Curve>)>,
    pub x: Axis,
    pub y: Axis,
    /// A band behind all curves.
    pub band: Band,
    /// What bands are, for the legend.
    pub band_name: String,
    /// Broken upright line at the reference threshold.
    pub threshold: Option<f32>,
    /// A stretch of x where there can be no value, and why.
    pub shaded: Option<(f64, f64, &'static str)>,
}

impl Curves {
    pub fn drawing(self, name: &str, title: &str, subtitle: String) -> Result<Drawing, ReportError> {
        let alt = format!("{} by {}. {}", self.y.title, self.x.title, self.in_words().join(" "));
        let legend = Legend::new(self.keys(), theme::WIDTH - 2.0 * theme::MARGIN - LEFT);
        let (head, height) = match self.panels.len() {
            0 | 1 => (0.0, 390.0),
            n if n <= PANELS => (26.0, 280.0),
            _ => (26.0, 230.0),
        };
        // Four stand two by two.
        let columns = if self.panels.len() == 4 { 2 } else { self.panels.len().clamp(1, PANELS) };
        let of_row = head + height + self.x.foot();
        let body = legend.height() + of_row * self.panels.len().div_ceil(columns) as f64;
        let words = Words::new(name, title, subtitle, alt);
        let strip = self.panels.iter().map(|panel| strip(&panel.1)).fold(0.0, f64::max);
        Drawing::new(words, self.table(), body, |canvas, area| {
            legend.draw(canvas, (area.x0 + LEFT, area.y0));
            let n = columns as f64;
            let width = (area.width() - LEFT - 8.0 - GAP * (n - 1.0)) / n;
            for (i, (title, curves)) in self.panels.iter().enumerate() {
                let x0 = area.x0 + LEFT + (i % columns) as f64 * (width + GAP);
                let top = area.y0 + legend.height() + head + (i / columns) as f64 * of_row;
                let panel = Area::new(x0, top, x0 + width, top + height - strip);
                let bold = Type::new(theme::LABEL, theme::INK).bold().center();
                canvas.text((panel.middle().0, top - 9.0), &fit(title, theme::LABEL, true, width + GAP / 2.0), bold);
                let frame = Frame { area: panel, x: &self.x, y: &self.y };
                self.shade(canvas, &frame);
                frame.draw(canvas, i % columns == 0, strip);
                self.panel(canvas, &frame, curves);
            }
        })
    }

    /// A line for every point, with the ends of its band, and one for every point of the band behind all.
    fn table(&self) -> Table {
        let mut table = Table::new(["panel", "curve", &self.x.title, &self.y.title, "low", "high"]);
        // Places with names are told by them.
        let place = |x: f64| match self.x.ticks.iter().find(|tick| tick.0 == x && tick.1.parse::<f64>().is_err()) {
            Some((_, label)) => label.clone(),
            None => cell(Some(x)),
        };
        let ends = |band: Option<&(f64, Option<(f64, f64)>)>| {
            let (low, high) = band.and_then(|band| band.1).unzip();
            [cell(low), cell(high)]
        };
        for (panel, curves) in &self.panels {
            for curve in curves {
                for (i, (x, y)) in curve.points.iter().enumerate() {
                    let [low, high] = ends(curve.band.get(i).or(curve.whiskers.get(i)));
                    table.push([panel.clone(), curve.name.clone(), place(*x), cell(*y), low, high]);
                }
            }
            for point in &self.band {
                let [low, high] = ends(Some(point));
                table.push([panel.clone(), self.band_name.clone(), place(point.0), String::new(), low, high]);
            }
        }
        table
    }

    /// Greys the stretch where there can be no value, and says why.
    fn shade(&self, canvas: &mut Canvas<'_>, frame: &Frame<'_>) {
        let Some((from, to, why)) = self.shaded else { return };
        let place = Area { x0: frame.px(from), x1: frame.px(to), ..frame.area };
        canvas.rect(place, theme::NO_DATA);
        let soft = Type::new(theme::TICK, theme::SOFT_INK).center().upward();
        canvas.text((place.middle().0 + 4.0, place.middle().1), why, soft);
    }

    /// A sentence a curve: its ends, its lowest and its highest point.
    fn in_words(&self) -> Vec<String> {
        let point = |(x, y): (f64, f64)| format!("{} at {}", self.y.text(y), self.x.text(x));
        let words = |panel: &str, curve: &Curve| {
            let name = if panel.is_empty() { curve.name.clone() } else { format!("{panel}, {}", curve.name) };
            let low = curve.known().reduce(|low, p| if p.1 < low.1 { p } else { low });
            let high = curve.known().reduce(|high, p| if p.1 > high.1 { p } else { high });
            let ends = curve.known().next().zip(curve.known().next_back());
            let Some(((first, last), (low, high))) = ends.zip(low.zip(high)) else {
                return format!("{name}: no data.");
            };
            let [first, last, low, high] = [first, last, low, high].map(point);
            format!("{name}: from {first} to {last}, lowest {low}, highest {high}.")
        };
        let named = |curve: &&Curve| !curve.unnamed;
        self.panels.iter().flat_map(|(panel, all)| all.iter().filter(named).map(move |one| words(panel, one))).collect()
    }

    /// The legend: every curve once, and what else is to be seen.
    fn keys(&self) -> Vec<(Key, String)> {
        let all = || self.panels.iter().flat_map(|panel| &panel.1);
        let key = |curve: &Curve| match curve.marks {
            _ if !all().any(|other| other.name == curve.name && !other.points.is_empty()) => {
                (Key::NoData, format!("{}: no data", curve.name))
            }
            Marks::Only(_) => (Key::Point(curve.look, true), curve.name.clone()),
            Marks::None => (Key::Stroke(curve.look.color), curve.name.clone()),
            _ => (Key::Line(curve.look), curve.name.clone()),
        };
        let mut keys: Vec<(Key, String)> = {
            let panels = self.panels.iter().take(if self.panels.iter().all(|panel| panel.1.len() == 1) {
                usize::MAX
            } else {
                1
            });
            panels.flat_map(|panel| &panel.1).filter(|curve| !curve.unnamed).map(key).collect()
        };
        if !self.band_name.is_empty() {
            let of_curves = self.band.is_empty() && all().any(|curve| !curve.band.is_empty());
            keys.push((if of_curves { Key::Bands } else { Key::Band(SHADE) }, self.band_name.clone()));
        }
        if let Some(eps) = self.threshold {
            keys.push((Key::Dashes(theme::INK), format!("reference threshold {}", theme::threshold(eps))));
        }
        if all().any(|curve| curve.points.iter().any(|p| p.1.is_none())) {
            keys.push((Key::Cross, "no data".into()));
        }
        keys
    }

    fn panel(&self, canvas: &mut Canvas<'_>, frame: &Frame<'_>, curves: &[Curve]) {
        band(canvas, frame, &self.band, SHADE);
        for curve in curves {
            band(canvas, frame, &curve.band, theme::faint(curve.look.color, 0.10));
        }
        if let Some(eps) = self.threshold {
            let x = frame.px(f64::from(eps));
            canvas.dashed((x, frame.area.y0), (x, frame.area.y1), theme::INK, 1.5);
        }
        // The crosses of each curve stand on a line of their own, in the strip beneath the values.
        let mut y = frame.area.y1 + 9.0;
        for curve in curves.iter().filter(|curve| has_gaps(curve)).take(MOST_CROSSES) {
            for (x, _) in curve.points.iter().filter(|p| p.1.is_none()) {
                theme::cross(canvas, (frame.px(*x), y), curve.look.color);
            }
            y += 9.0;
        }
        for (i, one) in curves.iter().enumerate() {
            curve(canvas, frame, one, (i, curves.len()));
        }
        let missing = curves.iter().filter(|curve| curve.points.is_empty()).count();
        if missing > 0 && self.panels.len() > 1 {
            let at = (frame.area.x0 + 8.0, frame.area.y0 + 16.0);
            let text = format!("no data: {missing} of {}", curves.len());
            canvas.text(at, &text, Type::new(theme::TICK, theme::SOFT_INK));
        }
    }
}

/// Runs of neighbouring points that have a value.
fn runs<T: Copy>(points: &[(f64, Option<T>)]) -> Vec<Vec<(f64, T)>> {
    let mut runs = vec![Vec::new()];
    for (x, y) in points {
        match (y, runs.last_mut()) {
            (Some(y), Some(run)) => run.push((*x, *y)),
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// Draws a band; a lone point of it becomes a bar.
fn band(canvas: &mut Canvas<'_>, frame: &Frame<'_>, band: &Band, color: RGBAColor) {
    for run in runs(band) {
        if let [(x, (low, high))] = run[..] {
            canvas.line(frame.at(x, low), frame.at(x, high), color, 9.0);
            continue;
        }
        let upper = run.iter().map(|(x, (_, high))| frame.at(*x, *high));
        let lower = run.iter().rev().map(|(x, (low, _))| frame.at(*x, *low));
        canvas.polygon(&upper.chain(lower).collect::<Vec<_>>(), color);
        // Where bands lie over each other, their edges tell them apart.
        let edge = theme::faint(color, 0.45);
        canvas.path(&run.iter().map(|(x, (_, high))| frame.at(*x, *high)).collect::<Vec<_>>(), edge, 0.75);
        canvas.path(&run.iter().map(|(x, (low, _))| frame.at(*x, *low)).collect::<Vec<_>>(), edge, 0.75);
    }
}

/// Line and marks of the curve of a number among so many.
fn curve(canvas: &mut Canvas<'_>, frame: &Frame<'_>, curve: &Curve, (index, n_curves): (usize, usize)) {
    let room = frame.area.width() / curve.points.len().max(1) as f64;
    let every = (20.0 / room.max(0.1)).ceil().max(1.0) as usize;
    let first = index * every / n_curves.max(1);
    let mark = |canvas: &mut Canvas<'_>, at, r| theme::mark(canvas, at, curve.look, r, true);
    for (x, (low, high)) in curve.whiskers.iter().filter_map(|(x, ends)| Some((*x, (*ends)?))) {
        canvas.line(frame.at(x, low), frame.at(x, high), theme::faint(curve.look.color, 0.6), 1.4);
    }
    for run in runs(&curve.points) {
        let points: Vec<(f64, f64)> = run.iter().map(|(x, y)| frame.at(*x, *y)).collect();
        match curve.marks {
            Marks::Only(r) => points.iter().for_each(|point| mark(canvas, *point, r)),
            Marks::None => canvas.path(&points, curve.look.color, if curve.thick { 3.0 } else { 1.0 }),
            Marks::Spaced => {
                canvas.path(&points, curve.look.color, 2.0);
                let r = if room > 16.0 { 3.8 } else { 2.8 };
                // A lone point is seen by its mark alone.
                let from = if points.len() > first { first } else { 0 };
                points[from..].iter().step_by(every).for_each(|point| mark(canvas, *point, r));
            }
        }
    }
}

fn has_gaps(curve: &Curve) -> bool {
    curve.points.iter().any(|point| point.1.is_none())
}

/// Height of the strip with the crosses of curves that have gaps.
fn strip(curves: &[Curve]) -> f64 {
    match curves.iter().filter(|curve| has_gaps(curve)).count().min(MOST_CROSSES) {
        0 => 0.0,
        n => 9.0 + 9.0 * n as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_splits_a_curve() {
        let points = [(1.0, None), (2.0, Some(5.0)), (3.0, Some(6.0)), (4.0, None), (5.0, Some(7.0))];
        assert_eq!(runs(&points), [vec![(2.0, 5.0), (3.0, 6.0)], vec![(5.0, 7.0)]]);
        assert!(runs::<f64>(&[(1.0, None)]).is_empty());
    }
}
