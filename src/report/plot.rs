//! One frame of curves beneath a legend: the layout that most figures of curves share.

use plotters::style::RGBAColor;

use crate::report::Drawing;
use crate::report::ReportError;
use crate::report::axes::Axis;
use crate::report::axes::Frame;
use crate::report::canvas::Area;
use crate::report::canvas::Canvas;
use crate::report::legend::Key;
use crate::report::legend::Legend;
use crate::report::lines;
use crate::report::lines::Band;
use crate::report::lines::Curve;
use crate::report::theme;

/// Room for the labels of the y axis.
const LEFT: f64 = 56.0;
/// Height of the frame.
const HEIGHT: f64 = 380.0;

/// Curves over common axes.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub curves: Vec<Curve>,
    /// Drawn behind the curves, each in its colour.
    pub bands: Vec<(Band, RGBAColor)>,
    pub x: Axis,
    pub y: Axis,
    /// Legend beside the curves' names.
    pub more: Vec<(Key, String)>,
    /// Broken upright lines.
    pub upright: Vec<f64>,
}

impl Plot {
    /// The drawing, with the curves told in `alt` for those who do not see it.
    pub fn drawing(self, name: &str, title: &str, subtitle: String, alt: String) -> Drawing {
        let mut items: Vec<(Key, String)> = self.curves.iter().map(|c| (Key::Line(c.look), c.name.clone())).collect();
        items.extend(self.more.iter().cloned());
        if self.curves.iter().any(Curve::has_gaps) {
            items.push((Key::Cross, "no data".into()));
        }
        let legend = Legend::new(items, theme::WIDTH - 2.0 * theme::MARGIN - LEFT);
        let body = legend.height() + HEIGHT + 56.0;
        let drawing = Drawing::new(name, title, subtitle, body, move |canvas, area| {
            legend.draw(canvas, (area.x0 + LEFT, area.y0))?;
            let top = area.y0 + legend.height();
            self.draw(canvas, Area::new(area.x0 + LEFT, top, area.x1 - 8.0, top + HEIGHT))
        });
        drawing.alt(alt)
    }

    fn draw(&self, canvas: &mut Canvas<'_>, area: Area) -> Result<(), ReportError> {
        let frame = Frame { area, x: self.x.clone(), y: self.y.clone() };
        frame.draw(canvas)?;
        for (band, color) in &self.bands {
            lines::band(canvas, &frame, band, *color)?;
        }
        for x in &self.upright {
            let x = frame.px(*x);
            canvas.dashed((x, frame.area.y0), (x, frame.area.y1), theme::INK, 1.5)?;
        }
        lines::curves(canvas, &frame, &self.curves)
    }
}

/// An axis over named places 0, 1, 2, ….
pub(super) fn named(labels: Vec<String>, title: &str) -> Axis {
    let high = labels.len() as f64 - 0.5;
    let ticks = labels.into_iter().enumerate().map(|(i, label)| (i as f64, label)).collect();
    Axis { low: -0.5, high, log: false, ticks, title: title.into() }
}
