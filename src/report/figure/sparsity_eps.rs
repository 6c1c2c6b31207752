//! Share of slots kept against the threshold.

use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::Axis;
use crate::report::axes::Frame;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::canvas::Area;
use crate::report::legend::Key;
use crate::report::legend::Legend;
use crate::report::lines;
use crate::report::lines::Band;
use crate::report::lines::Curve;
use crate::report::pool;
use crate::report::pool::Measure;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "sparsity-eps",
    title: "Slots kept against the merging threshold",
    question: "How small does the cache become at which threshold, and how far do the heads differ?",
    reading: "Lines are means over all heads of a data set; the band holds the middle 80 % of heads of all data sets. \
              Protected tokens count as kept, so that no curve falls below their share.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let grid: Vec<(usize, f64)> =
        analysis.eps_grid.iter().map(|e| f64::from(*e)).enumerate().filter(|(_, e)| e.is_finite()).collect();
    let with_sets = || analysis.datasets.iter().enumerate().filter(|(_, d)| !d.sparsity.is_empty());
    let curves: Vec<Curve> = with_sets()
        .map(|(i, dataset)| {
            let percent =
                |at: usize| pool::mean(pool::at_eps(dataset, Measure::Kept, at).into_values()).map(|v| 100.0 * v);
            let points = grid.iter().map(|(at, eps)| (*eps, percent(*at))).collect();
            Curve { name: dataset.dataset.clone(), look: theme::look(i), points }
        })
        .collect();
    let Some((first, last)) = extent(grid.iter().map(|g| g.1)).filter(|_| !curves.is_empty()) else {
        return Ok(Vec::new());
    };
    let heads: Band = grid
        .iter()
        .map(|(at, eps)| {
            let all = || {
                let values = with_sets().flat_map(|(_, d)| pool::at_eps(d, Measure::Kept, *at).into_values());
                values.flatten().map(|v| 100.0 * v)
            };
            (*eps, pool::quantile(all(), 0.1).zip(pool::quantile(all(), 0.9)))
        })
        .collect();
    let room = if last > first { 0.015 * (last - first) } else { 0.05 };
    let x = Axis::linear((first - room, last + room), 10, "Threshold: neighbours above this cosine are merged");
    let points = curves.iter().flat_map(|c| &c.points).filter_map(|p| p.1);
    let ends = extent(points.chain(heads.iter().filter_map(|b| b.1).flat_map(|(low, high)| [low, high])));
    let y = Axis::linear((0.0, rounded(ends, (0.0, 200.0), 5).1), 5, "Slots kept, % of tokens");
    let mut items: Vec<(Key, String)> = curves.iter().map(|c| (Key::Line(c.look), c.name.clone())).collect();
    items.push((Key::Band(theme::faint(theme::SOFT_INK, 0.16)), "middle 80 % of heads, all data sets".into()));
    let reference = pool::reference_eps(analysis);
    if let Some(eps) = reference {
        items.push((Key::Dashes(theme::INK), format!("reference threshold {}", theme::threshold(eps))));
    }
    for dataset in analysis.datasets.iter().filter(|d| d.sparsity.is_empty()) {
        items.push((Key::NoData, format!("{}: no data", dataset.dataset)));
    }
    if curves.iter().any(Curve::has_gaps) {
        items.push((Key::Cross, "no data".into()));
    }
    let legend = Legend::new(items, theme::WIDTH - 2.0 * theme::MARGIN - 56.0);
    let body = legend.height() + 400.0 + 56.0;
    let alt = curves.iter().map(in_words).collect::<Vec<_>>().join(" ");
    let drawing = Drawing::new(ENTRY.name, ENTRY.title, pool::subtitle(analysis), body, move |canvas, area| {
        let top = area.y0 + legend.height();
        let frame =
            Frame { area: Area::new(area.x0 + 56.0, top, area.x1 - 8.0, top + 400.0), x: x.clone(), y: y.clone() };
        legend.draw(canvas, (area.x0 + 56.0, area.y0))?;
        frame.draw(canvas)?;
        lines::band(canvas, &frame, &heads, theme::faint(theme::SOFT_INK, 0.16))?;
        if let Some(eps) = reference {
            let x = frame.px(f64::from(eps));
            canvas.dashed((x, frame.area.y0), (x, frame.area.y1), theme::INK, 1.5)?;
        }
        lines::curves(canvas, &frame, &curves)
    });
    Ok(vec![drawing.alt(alt)])
}

fn in_words(curve: &Curve) -> String {
    let known: Vec<(f64, f64)> = curve.points.iter().filter_map(|p| p.1.map(|y| (p.0, y))).collect();
    match (known.first(), known.last()) {
        (Some(a), Some(b)) => {
            format!("{}: {:.1} % kept at {:.2}, {:.1} % at {:.2}.", curve.name, a.1, a.0, b.1, b.0)
        }
        _ => format!("{}: no data.", curve.name),
    }
}
