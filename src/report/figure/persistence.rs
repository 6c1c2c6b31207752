//! Is a head's sparsity the model's or the data's? Every head in every data set.

use crate::format::analysis::DatasetAnalysis;
use crate::report::axes::{Axis, extent, rounded};
use crate::report::curves::{Band, Curve, Curves, Marks, ends, values};
use crate::report::figure::Build;
use crate::report::pool;
use crate::report::pool::Measure;
use crate::report::theme;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "persistence",
    title: "Heads over data sets",
    question: "Does a head merge as much in every data set, so that one profile fits all texts?",
    reading: "Each column is one KV head, from the one that merges most to the one that merges least; each mark is a data \
              set's mean of its sets per unprotected token. The band is the tolerance about the head's mean: a head whose marks \
              all lie in it is persistent. If the model decides, marks stay together and columns differ.",
    needs: "persistence in the analysis: two data sets of two samples each with merging sets",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let found = analysis.persistence.as_ref().and_then(|p| Some((p.tolerance, p.evidence.as_ref()?)));
    let Some((tolerance, evidence)) = found else { return Ok(Vec::new()) };
    let mut heads: Vec<_> = evidence.heads.iter().filter(|head| head.mean.is_finite()).collect();
    heads.sort_by(|a, b| a.mean.total_cmp(&b.mean).then((a.layer, a.kv_head).cmp(&(b.layer, b.kv_head))));
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let marks = Marks::Only((280.0 / heads.len() as f64).clamp(1.6, 4.0));
    let curve = |(index, dataset): (usize, &DatasetAnalysis)| {
        let all = pool::at_eps(dataset, Measure::SetRatio, analysis.reference_eps);
        let value = |(layer, head)| all.get(&(layer, head)).copied().flatten();
        let known = heads.iter().enumerate().filter_map(|(i, h)| Some((i as f64, Some(value((h.layer, h.kv_head))?))));
        Curve { marks, ..Curve::new(&dataset.dataset, theme::look(index), known.collect()) }
    };
    let datasets = analysis.datasets.iter().enumerate().filter(|(_, d)| evidence.datasets.contains(&d.dataset));
    let curves: Vec<Curve> = datasets.map(curve).collect();
    let within = |mean: f64| Some(((mean - tolerance).max(0.0), mean + tolerance));
    let band: Band = heads.iter().enumerate().map(|(at, head)| (at as f64, within(head.mean))).collect();
    let all = extent(ends(&curves).into_iter().flat_map(|(low, high)| [low, high]).chain(values(&band)));
    let figure = Curves {
        panels: vec![(String::new(), curves)],
        x: Axis::whole(0, heads.len() - 1, 10, "KV heads, by their mean"),
        y: Axis::linear(rounded(all, (0.0, 2.0), 6), 6, "Sets per unprotected token"),
        band,
        band_name: format!("within {tolerance} of the head's mean"),
        threshold: None,
    };
    let persistent = heads.iter().filter(|head| head.persistent).count();
    let subtitle = format!("{} · {persistent} of {} heads persistent", pool::subtitle(analysis), heads.len());
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(evidence.eps));
    Ok(vec![figure.drawing(ENTRY.name, &title, subtitle)?])
}
