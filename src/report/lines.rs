//! Curves with gaps where there is no value, and bands.

use plotters::style::RGBAColor;

use crate::report::ReportError;
use crate::report::axes::Frame;
use crate::report::canvas::Canvas;
use crate::report::theme;
use crate::report::theme::Look;

/// A named curve.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    pub name: String,
    pub look: Look,
    /// x, and y where it is known.
    pub points: Vec<(f64, Option<f64>)>,
}

impl Curve {
    pub fn has_gaps(&self) -> bool {
        self.points.iter().any(|p| p.1.is_none())
    }
}

/// Lower and upper ends at each x.
pub(super) type Band = Vec<(f64, Option<(f64, f64)>)>;

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
pub(super) fn band(canvas: &mut Canvas<'_>, frame: &Frame, band: &Band, color: RGBAColor) -> Result<(), ReportError> {
    for run in runs(band) {
        if let [(x, (low, high))] = run[..] {
            canvas.line(frame.at(x, low), frame.at(x, high), color, 9.0)?;
            continue;
        }
        let upper = run.iter().map(|(x, (_, high))| frame.at(*x, *high));
        let lower = run.iter().rev().map(|(x, (low, _))| frame.at(*x, *low));
        canvas.polygon(&upper.chain(lower).collect::<Vec<_>>(), color)?;
    }
    Ok(())
}

/// Draws curves, with the crosses of each on a line of its own.
pub(super) fn curves(canvas: &mut Canvas<'_>, frame: &Frame, curves: &[Curve]) -> Result<(), ReportError> {
    let with_gaps = curves.iter().filter(|c| c.has_gaps());
    for (i, curve) in with_gaps.enumerate() {
        let y = frame.area.y1 - 7.0 - 9.0 * (i % 6) as f64;
        for (x, _) in curve.points.iter().filter(|p| p.1.is_none()) {
            theme::cross(canvas, (frame.px(*x), y), curve.look.color)?;
        }
    }
    curves.iter().try_for_each(|one| curve(canvas, frame, one))
}

/// Line, and marks where they have room.
fn curve(canvas: &mut Canvas<'_>, frame: &Frame, curve: &Curve) -> Result<(), ReportError> {
    let Look { color, .. } = curve.look;
    let room = frame.area.width() / curve.points.len().max(1) as f64;
    let every = (20.0 / room.max(0.1)).ceil().max(1.0) as usize;
    for run in runs(&curve.points) {
        let points: Vec<(f64, f64)> = run.iter().map(|(x, y)| frame.at(*x, *y)).collect();
        canvas.path(&points, color, 2.0)?;
        for point in points.iter().step_by(every) {
            theme::mark(canvas, *point, curve.look, if room > 16.0 { 3.8 } else { 2.8 }, true)?;
        }
    }
    Ok(())
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
