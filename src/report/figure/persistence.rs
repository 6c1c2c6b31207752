//! Is a head's sparsity the model's or the data's? Every head in every data set.

use crate::format::analysis::DatasetAnalysis;
use crate::report::axes::{Axis, covering, extent};
use crate::report::curves::{Band, Curve, Curves, Marks, ends, values};
use crate::report::figure::Build;
use crate::report::heat::{Grid, Panels};
use crate::report::pool;
use crate::report::pool::Measure;
use crate::report::scale::Scale;
use crate::report::theme;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "persistence",
    title: "Heads over data sets",
    question: "Does a head merge as much in every data set, so that one profile fits all texts?",
    reading: "Each column is one KV head, from the one that merges most to the one that merges least; each mark is a data \
              set's mean of its sets per unprotected token. The band is the tolerance about the head's mean: a head whose marks \
              all lie in it is persistent. If the model decides, marks stay together and columns differ. The second drawing has the same \
              numbers by layer and head.",
    needs: "persistence in the analysis: two data sets of two samples each with merging sets",
    build: Build::Analysis(build),
};

/// Data sets beside each other that can still be read.
const MOST_PANELS: usize = 10;

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let found = analysis.persistence.as_ref().and_then(|p| Some((p.tolerance, p.evidence.as_ref()?)));
    let Some((tolerance, evidence)) = found else { return Ok(Vec::new()) };
    let mut heads: Vec<_> = evidence.heads.iter().filter(|head| head.mean.is_finite()).collect();
    heads.sort_by(|a, b| a.mean.total_cmp(&b.mean).then((a.layer, a.kv_head).cmp(&(b.layer, b.kv_head))));
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let persistent = heads.iter().filter(|head| head.persistent).count();
    let subtitle = format!("{} · {persistent} of {} heads persistent", pool::subtitle(analysis), heads.len());
    let title = |what: &str| format!("{what}, at threshold {}", theme::threshold(evidence.eps));
    let datasets = || analysis.datasets.iter().enumerate().filter(|(_, d)| evidence.datasets.contains(&d.dataset));
    let marks = Marks::Only((280.0 / heads.len() as f64).clamp(1.6, 4.0));
    let curve = |(index, dataset): (usize, &DatasetAnalysis)| {
        let all = pool::at_eps(dataset, Measure::SetRatio, analysis.reference_eps);
        let value = |(layer, head)| all.get(&(layer, head)).copied().flatten();
        let known = heads.iter().enumerate().filter_map(|(i, h)| Some((i as f64, Some(value((h.layer, h.kv_head))?))));
        Curve { marks, ..Curve::new(&dataset.dataset, theme::look(index), known.collect()) }
    };
    let curves: Vec<Curve> = datasets().map(curve).collect();
    let within = |mean: f64| Some(((mean - tolerance).max(0.0), (mean + tolerance).min(1.0)));
    let band: Band = heads.iter().enumerate().map(|(at, head)| (at as f64, within(head.mean))).collect();
    let all = extent(ends(&curves).into_iter().flat_map(|(low, high)| [low, high]).chain(values(&band)));
    let names = heads.iter().map(|head| pool::head_name((head.layer, head.kv_head))).collect();
    let by_rank = Curves {
        panels: vec![(String::new(), curves)],
        x: Axis { upright: true, ..Axis::named(names, "KV heads, by their mean") },
        y: Axis::linear(covering((0.0, 1.0), all, (0.0, 2.0)), 6, "Sets per unprotected token"),
        band,
        band_name: format!("within {tolerance} of the head's mean"),
        ..Curves::default()
    };
    // The same numbers where each head has its place.
    let (layers, kv_heads) = pool::layers_and_heads(analysis);
    let grid = |(_, dataset): (usize, &DatasetAnalysis)| {
        let values = pool::at_eps(dataset, Measure::SetRatio, analysis.reference_eps);
        let values = pool::grid(&values, &layers, &kv_heads);
        let scale = (Scale::linear(0.0, 1.0), "Sets per unprotected token");
        Grid::new(&dataset.dataset, (&layers, &kv_heads), values, scale, 2)
    };
    let panels = Panels { grids: datasets().take(MOST_PANELS).map(grid).collect(), axes: ("Layer", "KV head") };
    let name = format!("{}-heads", ENTRY.name);

    let left_out = if evidence.datasets.len() > MOST_PANELS {
        format!(" · the first {MOST_PANELS} data sets")
    } else {
        String::new()
    };
    Ok(vec![
        by_rank.drawing(ENTRY.name, &title(ENTRY.title), subtitle.clone())?,
        panels.drawing(&name, &title("Every head in every data set"), subtitle + &left_out)?,
    ])
}
