//! Data sets beside each other: slots kept, and whether they agree on which heads are compressible.

use colorous::RED_BLUE;
use plotters::style::RGBAColor;

use crate::math::Interval;
use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::Axis;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::canvas::Area;
use crate::report::canvas::Canvas;
use crate::report::canvas::Type;
use crate::report::canvas::fit;
use crate::report::canvas::text_width;
use crate::report::heat::luminance;
use crate::report::pool;
use crate::report::theme;
use crate::report::theme::number;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "datasets",
    title: "Data sets compared",
    question: "Does one threshold compress all kinds of text alike, and are the same heads compressible everywhere?",
    reading: "Left: slots kept over all heads, with the 95 % interval over samples. Right: Spearman's rank correlation \
              of the heads' set ratios between two data sets: near 1 the same heads merge well in both, so that \
              thresholds tuned on one carry over; near 0 they do not.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build,
};

struct Row {
    name: String,
    kept: Option<Interval>,
}

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let Some(eps) = pool::reference_eps(analysis) else { return Ok(Vec::new()) };
    if analysis.datasets.iter().all(|d| d.sparsity.is_empty()) {
        return Ok(Vec::new());
    }
    let rows: Vec<Row> = analysis
        .datasets
        .iter()
        .enumerate()
        .map(|(i, d)| Row {
            name: d.dataset.clone(),
            kept: pool::known_interval(analysis.kept_fraction.get(i).copied().flatten()),
        })
        .collect();
    let n = rows.len();
    let spearman = |a: &str, b: &str| {
        let pair = analysis.agreement.iter().find(|p| (p.a == a && p.b == b) || (p.a == b && p.b == a));
        pool::known(pair.and_then(|p| p.spearman))
    };
    let matrix: Vec<Option<f64>> =
        rows.iter().flat_map(|a| rows.iter().map(|b| spearman(&a.name, &b.name)).collect::<Vec<_>>()).collect();
    let row_height = if n <= 6 { 46.0 } else { (340.0 / n as f64).max(30.0) };
    let body = 36.0 + n as f64 * row_height + 62.0;
    let alt = rows.iter().map(in_words).collect::<Vec<_>>().join(" ");
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(eps));
    let drawing = Drawing::new(ENTRY.name, title, pool::subtitle(analysis), body, move |canvas, area| {
        let (top, bottom) = (area.y0 + 36.0, area.y0 + 36.0 + n as f64 * row_height);
        let middle = |i: usize| top + (i as f64 + 0.5) * row_height;
        let names: Vec<String> = rows
            .iter()
            .enumerate()
            .map(|(i, r)| fit(&format!("{}  {}", i + 1, r.name), theme::LABEL, false, 210.0))
            .collect();
        let label = names.iter().map(|t| text_width(t, theme::LABEL, false)).fold(40.0, f64::max);
        for (i, name) in names.iter().enumerate() {
            canvas.text((area.x0, middle(i) + 0.36 * theme::LABEL), name, Type::new(theme::LABEL, theme::INK))?;
        }
        let left = Area::new(area.x0 + label + 18.0, top, area.x0 + 520.0, bottom);
        dots(canvas, left, &rows, row_height)?;
        let side = area.x1 - (area.x0 + 560.0);
        let width = (side / n as f64).min(92.0);
        let right = Area::new(area.x0 + 560.0, top, area.x0 + 560.0 + n as f64 * width, bottom);
        agreement(canvas, right, area.x1, &matrix, n)
    });
    Ok(vec![drawing.alt(alt)])
}

fn in_words(row: &Row) -> String {
    match row.kept {
        Some(Interval { estimate, low: Some(low), high: Some(high), .. }) => format!(
            "{}: {:.1} % kept, interval {:.1} to {:.1} %.",
            row.name,
            100.0 * estimate,
            100.0 * low,
            100.0 * high
        ),
        Some(kept) => format!("{}: {:.1} % kept.", row.name, 100.0 * kept.estimate),
        None => format!("{}: no data.", row.name),
    }
}

fn dots(canvas: &mut Canvas<'_>, area: Area, rows: &[Row], row_height: f64) -> Result<(), ReportError> {
    let ends = rows.iter().filter_map(|r| r.kept).flat_map(|k| [Some(k.estimate), k.low, k.high]).flatten();
    let ends = extent(ends.map(|v| 100.0 * v)).map(|(low, high)| (low - 1.0, high + 1.0));
    let axis = Axis::linear(rounded(ends, (0.0, 200.0), 5), 5, "");
    let px = |v: f64| area.x0 + axis.part(100.0 * v) * area.width();
    let title = Type::new(theme::LABEL, theme::INK).bold();
    canvas.text((area.x0, area.y0 - 14.0), "Slots kept, with 95 % interval", title)?;
    let tick = Type::new(theme::TICK, theme::SOFT_INK).center();
    for (value, label) in &axis.ticks {
        let x = area.x0 + axis.part(*value) * area.width();
        canvas.line((x, area.y0), (x, area.y1), theme::GRID, 1.0)?;
        canvas.text((x, area.y1 + 18.0), label, tick)?;
    }
    canvas.line((area.x0, area.y1), (area.x1, area.y1), theme::EDGE, 1.2)?;
    let axis_title = Type::new(theme::LABEL, theme::INK).center();
    canvas.text(((area.x0 + area.x1) / 2.0, area.y1 + 40.0), "Slots kept, % of tokens", axis_title)?;
    for (i, row) in rows.iter().enumerate() {
        let y = area.y0 + (i as f64 + 0.5) * row_height;
        let look = theme::look(i);
        let Some(kept) = row.kept else {
            theme::hatch(canvas, Area::new(area.x0 + 4.0, y - 8.0, area.x0 + 84.0, y + 8.0))?;
            canvas.text((area.x0 + 92.0, y + 4.5), "no data", Type::new(theme::TICK, theme::SOFT_INK))?;
            continue;
        };
        if let (Some(low), Some(high)) = (kept.low, kept.high) {
            canvas.line((px(low), y), (px(high), y), look.color, 2.4)?;
            for end in [low, high] {
                canvas.line((px(end), y - 5.0), (px(end), y + 5.0), look.color, 2.0)?;
            }
        }
        theme::mark(canvas, (px(kept.estimate), y), look, 5.5, true)?;
        let text = number(100.0 * kept.estimate, 1);
        canvas.text((px(kept.estimate), y - 10.0), &text, Type::new(theme::TICK, theme::INK).center())?;
    }
    Ok(())
}

fn agreement(
    canvas: &mut Canvas<'_>,
    area: Area,
    x1: f64,
    matrix: &[Option<f64>],
    n: usize,
) -> Result<(), ReportError> {
    let title = Type::new(theme::LABEL, theme::INK).bold();
    canvas.text((area.x0, area.y0 - 14.0), "Agreement on the heads (Spearman's ρ)", title)?;
    if n < 2 {
        let text = "Needs at least two data sets.";
        let text = fit(text, theme::LABEL, false, x1 - area.x0);
        return canvas.text((area.x0, area.y0 + 26.0), &text, Type::new(theme::LABEL, theme::SOFT_INK));
    }
    let (width, height) = (area.width() / n as f64, area.height() / n as f64);
    let em = ((width - 5.0) / text_width("−0.00", 1.0, false)).clamp(7.0, 12.5);
    for (i, value) in matrix.iter().enumerate() {
        let (row, column) = (i / n, i % n);
        let (x, y) = (area.x0 + column as f64 * width, area.y0 + row as f64 * height);
        let cell = Area::new(x, y, x + width, y + height);
        let at = (x + width / 2.0, y + height / 2.0 + 0.36 * em);
        match value {
            _ if row == column => canvas.text(at, "–", Type::new(em, theme::SOFT_INK).center())?,
            Some(value) => {
                let color = RED_BLUE.eval_continuous((value + 1.0).clamp(0.0, 2.0) / 2.0);
                canvas.rect(cell, RGBAColor(color.r, color.g, color.b, 1.0))?;
                let dark = luminance([color.r, color.g, color.b]) < 0.2;
                let ink = if dark { theme::WHITE } else { theme::INK };
                canvas.text(at, &number(*value, 2), Type::new(em, ink).center())?;
            }
            None => {
                theme::hatch(canvas, cell)?;
                canvas.text(at, "n/a", Type::new(em, theme::INK).center())?;
            }
        }
    }
    for i in 0..=n {
        let (x, y) = (area.x0 + i as f64 * width, area.y0 + i as f64 * height);
        canvas.line((x, area.y0), (x, area.y1), theme::WHITE, 1.5)?;
        canvas.line((area.x0, y), (area.x1, y), theme::WHITE, 1.5)?;
    }
    canvas.frame(area, theme::EDGE, 1.0)?;
    let tick = Type::new(theme::TICK, theme::SOFT_INK);
    for i in 0..n {
        let label = (i + 1).to_string();
        canvas.text((area.x0 + (i as f64 + 0.5) * width, area.y1 + 18.0), &label, tick.center())?;
        let y = area.y0 + (i as f64 + 0.5) * height;
        canvas.text((area.x0 - 8.0, y + 0.36 * theme::TICK), &label, tick.right())?;
    }
    let title = Type::new(theme::LABEL, theme::INK).center();
    canvas.text(((area.x0 + area.x1) / 2.0, area.y1 + 40.0), "Data set, as numbered at the left", title)
}
