//! Means with their intervals, one a row.

use crate::math::Interval;
use crate::report::ReportError;
use crate::report::canvas::Area;
use crate::report::canvas::Canvas;
use crate::report::canvas::Type;
use crate::report::canvas::text_width;
use crate::report::theme;
use crate::report::theme::Look;
use crate::report::theme::number;

/// Draws a mean with its interval at height `y`, and its number beside it.
pub(super) fn interval(
    canvas: &mut Canvas<'_>,
    interval: Option<Interval>,
    y: f64,
    px: &dyn Fn(f64) -> f64,
    plot: Area,
    (look, filled): (Look, bool),
    decimals: usize,
) -> Result<(), ReportError> {
    let Some(interval) = interval else {
        theme::hatch(canvas, Area::new(plot.x0 + 4.0, y - 7.0, plot.x0 + 64.0, y + 7.0))?;
        return canvas.text((plot.x0 + 72.0, y + 4.5), "no data", Type::new(theme::TICK, theme::SOFT_INK));
    };
    let mut right = px(interval.estimate) + 7.0;
    if let (Some(low), Some(high)) = (interval.low, interval.high) {
        canvas.line((px(low), y), (px(high), y), look.color, 2.2)?;
        for end in [low, high] {
            canvas.line((px(end), y - 4.0), (px(end), y + 4.0), look.color, 2.0)?;
        }
        right = right.max(px(high));
    }
    theme::mark(canvas, (px(interval.estimate), y), look, 5.0, filled)?;
    let text = number(interval.estimate, decimals);
    let width = text_width(&text, theme::TICK, false);
    let at = if right + 7.0 + width > plot.x1 {
        // No room at the right end: at the left of the interval instead.
        (interval.low.map_or(px(interval.estimate), px).min(px(interval.estimate)) - 9.0 - width, y + 4.3)
    } else {
        (right + 7.0, y + 4.3)
    };
    // A plate, so that no line runs through the number.
    canvas.rect(Area::new(at.0 - 3.0, y - 7.0, at.0 + width + 3.0, y + 7.0), theme::faint(theme::WHITE, 0.85))?;
    canvas.text(at, &text, Type::new(theme::TICK, theme::INK))
}
