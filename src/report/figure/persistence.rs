//! Is a head's sparsity the model's or the data's? Every head in every data set.

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
use crate::report::pool;
use crate::report::pool::Measure;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "persistence",
    title: "Heads over data sets",
    question: "Does a head merge as much in every data set, so that one profile fits all texts?",
    reading: "Each column is one KV head, from the one that merges most to the one that merges least; each mark is a data \
              set's mean of its sets per unprotected token. The band is the tolerance about the head's mean: a head whose marks \
              all lie in it is persistent. If the model decides, marks stay together and columns differ.",
    needs: "persistence in the analysis: two data sets of two samples each with merging sets",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let Some((tolerance, evidence)) =
        analysis.persistence.as_ref().and_then(|p| Some((p.tolerance, p.evidence.as_ref()?)))
    else {
        return Ok(Vec::new());
    };
    let mut heads: Vec<_> = evidence.heads.iter().filter(|head| head.mean.is_finite()).collect();
    heads.sort_by(|a, b| a.mean.total_cmp(&b.mean).then((a.layer, a.kv_head).cmp(&(b.layer, b.kv_head))));
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let mut series = Vec::new();
    for (index, dataset) in analysis.datasets.iter().enumerate().filter(|(_, d)| evidence.datasets.contains(&d.dataset))
    {
        let values = pool::at_eps(dataset, Measure::SetRatio, analysis.reference_eps);
        let points: Vec<(f64, f64)> = heads
            .iter()
            .enumerate()
            .filter_map(|(at, head)| Some((at as f64, values.get(&(head.layer, head.kv_head)).copied().flatten()?)))
            .collect();
        series.push((dataset.dataset.clone(), theme::look(index), points));
    }
    let band: Band = heads
        .iter()
        .enumerate()
        .map(|(at, head)| (at as f64, Some(((head.mean - tolerance).max(0.0), head.mean + tolerance))))
        .collect();
    let all = series.iter().flat_map(|(_, _, points)| points).map(|point| point.1);
    let ends = extent(all.chain(band.iter().filter_map(|b| b.1).flat_map(|(low, high)| [low, high])));
    let mut items: Vec<(Key, String)> =
        series.iter().map(|(name, look, _)| (Key::Point(*look, true), name.clone())).collect();
    let shade = theme::faint(theme::SOFT_INK, 0.16);
    items.push((Key::Band(shade), format!("within {tolerance} of the head's mean")));
    let legend = Legend::new(items, theme::WIDTH - 2.0 * theme::MARGIN - 56.0);
    let x = Axis::whole(0, heads.len() - 1, 10, "KV heads, by their mean");
    let y = Axis::linear(rounded(ends, (0.0, 2.0), 6), 6, "Sets per unprotected token");
    let persistent = heads.iter().filter(|head| head.persistent).count();
    let alt = format!("{persistent} of {} heads stay within {tolerance} of their mean in all data sets.", heads.len());
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(evidence.eps));
    let body = legend.height() + 400.0 + 56.0;
    let radius = (280.0 / heads.len() as f64).clamp(1.6, 4.0);
    let drawing = Drawing::new(ENTRY.name, title, pool::subtitle(analysis), body, move |canvas, area| {
        let top = area.y0 + legend.height();
        let frame =
            Frame { area: Area::new(area.x0 + 56.0, top, area.x1 - 8.0, top + 400.0), x: x.clone(), y: y.clone() };
        legend.draw(canvas, (area.x0 + 56.0, area.y0))?;
        frame.draw(canvas)?;
        lines::band(canvas, &frame, &band, shade)?;
        for (_, look, points) in &series {
            for (at, value) in points {
                theme::mark(canvas, frame.at(*at, *value), *look, radius, true)?;
            }
        }
        Ok(())
    });
    Ok(vec![drawing.alt(alt)])
}
