//! What a profile costs: error of the attention output, by rule.

use crate::format::profile::CONTROL;
use crate::format::profile::TUNED;
use crate::math::Interval;
use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::Axis;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::canvas::Area;
use crate::report::canvas::Type;
use crate::report::canvas::fit;
use crate::report::canvas::text_width;
use crate::report::legend::Key;
use crate::report::legend::Legend;
use crate::report::pool;
use crate::report::rows::interval;
use crate::report::theme;
use crate::report::theme::Look;
use crate::report::theme::Mark;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "profile-quality",
    title: "Error of the attention output, by policy",
    question: "Is the profile better than one policy for all heads, is merging better than evicting, and does it hold on samples that were not tuned on?",
    reading: "Relative error of the attention output of the tokens that follow, mean over layers; left is better. The \
              control keeps the profile's slots and folds nothing into them: a profile that is not left of it gains nothing by \
              merging. The other rows give every head one policy and one size.",
    needs: "a profile that was tuned on a dump with queries",
    build,
};

struct Row {
    label: String,
    control: bool,
    calibration: Option<Interval>,
    held_out: Option<Interval>,
}

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let Some(profile) = input.profile.as_ref().filter(|p| !p.quality.is_empty()) else { return Ok(Vec::new()) };
    let rows: Vec<Row> = profile
        .quality
        .iter()
        .take(40)
        .map(|q| Row {
            label: match () {
                () if q.rule == CONTROL => "the profile, evicting (control)".into(),
                () if q.rule == TUNED => "the profile".into(),
                () => q.rule.clone(),
            },
            control: q.rule == CONTROL,
            calibration: pool::known_interval(Some(q.calibration)),
            held_out: pool::known_interval(q.held_out),
        })
        .collect();
    let with_held_out = rows.iter().any(|r| r.held_out.is_some());
    let (filled, hollow) = (theme::look(0), Look { mark: Mark::Square, ..theme::look(1) });
    let mut items = vec![(Key::Point(filled, true), "calibration samples".to_string())];
    if with_held_out {
        items.push((Key::Point(hollow, false), "held-out samples".into()));
    }
    if rows.iter().any(|r| r.control) {
        items.push((Key::Dashes(theme::INK), "error of the control".into()));
    }
    let legend = Legend::new(items, theme::WIDTH - 2.0 * theme::MARGIN);
    const ROW: f64 = 58.0;
    let body = legend.height() + 8.0 + rows.len() as f64 * ROW + 58.0;
    let alt = rows.iter().map(in_words).collect::<Vec<_>>().join(" ");
    let subtitle = format!(
        "{} · {} calibration, {} held-out samples · bars: 95 % interval over samples",
        profile.model.name,
        profile.calibration.len(),
        profile.held_out.len()
    );
    let drawing = Drawing::new(ENTRY.name, ENTRY.title, subtitle, body, move |canvas, area| {
        let labels: Vec<String> = rows.iter().map(|r| fit(&r.label, theme::LABEL, r.control, 380.0)).collect();
        let label = labels.iter().zip(&rows).map(|(l, r)| text_width(l, theme::LABEL, r.control)).fold(0.0, f64::max);
        let top = area.y0 + legend.height() + 8.0;
        let plot = Area::new(area.x0 + label + 18.0, top, area.x1 - 12.0, top + rows.len() as f64 * ROW);
        legend.draw(canvas, (area.x0, area.y0))?;
        let all = rows.iter().flat_map(|r| [r.calibration, r.held_out]).flatten();
        let ends = extent(all.flat_map(|i| [Some(i.estimate), i.low, i.high]).flatten());
        let high = rounded(ends.map(|(_, high)| (0.0, high)), (0.0, 1e6), 6).1;
        let axis = Axis::linear((0.0, if ends.is_some() { high } else { 1.0 }), 8, "");
        let px = |v: f64| plot.x0 + axis.part(v) * plot.width();
        if let Some(i) = rows.iter().position(|r| r.control) {
            let y = plot.y0 + i as f64 * ROW;
            canvas.rect(Area::new(area.x0 - 8.0, y, plot.x1, y + ROW), theme::faint(theme::SOFT_INK, 0.09))?;
        }
        for (value, text) in &axis.ticks {
            let x = px(*value);
            canvas.line((x, plot.y0), (x, plot.y1), theme::GRID, 1.0)?;
            canvas.text((x, plot.y1 + 18.0), text, Type::new(theme::TICK, theme::SOFT_INK).center())?;
        }
        canvas.line((plot.x0, plot.y1), (plot.x1, plot.y1), theme::EDGE, 1.2)?;
        let title = Type::new(theme::LABEL, theme::INK).center();
        let text = "Relative error of the attention output, ‖o − o′‖ / ‖o‖";
        canvas.text(((plot.x0 + plot.x1) / 2.0, plot.y1 + 41.0), text, title)?;
        if let Some(control) = rows.iter().find(|r| r.control).and_then(|r| r.held_out.or(r.calibration)) {
            let x = px(control.estimate);
            canvas.dashed((x, plot.y0), (x, plot.y1), theme::INK, 1.3)?;
        }
        for (i, (row, label)) in rows.iter().zip(&labels).enumerate() {
            let y = plot.y0 + (i as f64 + 0.5) * ROW;
            let font = Type::new(theme::LABEL, theme::INK);
            let font = if row.control { font.bold() } else { font };
            canvas.text((area.x0, y + 0.36 * theme::LABEL), label, font)?;
            let offset = if with_held_out { 11.0 } else { 0.0 };
            interval(canvas, row.calibration, y - offset, &px, plot, (filled, true), 3)?;
            if with_held_out {
                interval(canvas, row.held_out, y + offset, &px, plot, (hollow, false), 3)?;
            }
        }
        Ok(())
    });
    Ok(vec![drawing.alt(alt)])
}

fn in_words(row: &Row) -> String {
    let one = |i: Option<Interval>| i.map_or("no data".to_string(), |i| format!("{:.4}", i.estimate));
    format!("{}: {} on calibration, {} on held-out samples.", row.label, one(row.calibration), one(row.held_out))
}
