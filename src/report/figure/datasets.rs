//! Data sets beside each other: slots kept, and whether they agree on which heads are compressible.

use crate::format::analysis::DatasetAnalysis;
use crate::report::axes::{Axis, covering};
use crate::report::canvas::Area;
use crate::report::dots::{Dot, Dots, FOOT, Row, ends};
use crate::report::drawing::Words;
use crate::report::figure::Build;
use crate::report::heat::Grid;
use crate::report::pool;
use crate::report::scale::Scale;
use crate::report::table::{Table, cell};
use crate::report::text::Type;
use crate::report::theme;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "datasets",
    title: "Data sets compared",
    question: "Does one threshold compress all kinds of text alike, and are the same heads compressible everywhere?",
    reading: "Left: slots kept over all heads, with the 95 % interval over samples. Right: Spearman's rank correlation \
              of the heads' set ratios between two data sets: near 1 the same heads merge well in both, so that \
              thresholds tuned on one carry over; near 0 they do not.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build: Build::Analysis(build),
};

/// From the left edge of the figure to the right end of the dots, and to the cells.
const DOTS: f64 = 440.0;
const CELLS: f64 = 540.0;
/// Above both halves.
const TOP: f64 = 36.0;

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let Some(eps) = pool::reference_eps(analysis) else { return Ok(Vec::new()) };
    if analysis.datasets.iter().all(|d| d.sparsity.is_empty()) {
        return Ok(Vec::new());
    }
    let row = |(i, dataset): (usize, &DatasetAnalysis)| {
        let kept = pool::known_interval(analysis.kept_fraction.get(i).copied().flatten());
        let dot = Dot { look: theme::look(i), filled: true, value: kept.map(|kept| kept.times(100.0)) };
        Row { label: format!("{}  {}", i + 1, dataset.dataset), strong: false, dots: vec![dot] }
    };
    let rows: Vec<Row> = analysis.datasets.iter().enumerate().map(row).collect();
    let axis = Axis::linear(covering((0.0, 100.0), ends(&rows), (0.0, 200.0)), 5, "Slots kept, % of tokens");
    let dots = Dots { groups: vec![(String::new(), rows)], axis, decimals: 1, in_half: true, ..Dots::default() };
    let agreement = agreement(input);
    let n = analysis.datasets.len();
    let height = dots.height().max((theme::WIDTH - 2.0 * theme::MARGIN - CELLS - 90.0).min(n as f64 * 46.0));
    let alt = format!("{} {}", dots.in_words(), agreement.in_words());
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(eps));
    let subtitle = pool::subtitle(analysis);
    if n < 2 {
        return Ok(vec![dots.drawing(ENTRY.name, &title, subtitle)?]);
    }
    let mut table = Table::new(["panel", "measure", "data set", "other data set", "value", "low", "high"]);
    for (dataset, kept) in analysis.datasets.iter().zip(&analysis.kept_fraction) {
        let kept = pool::known_interval(*kept).map(|kept| kept.times(100.0));
        let [low, high] = [kept.and_then(|kept| kept.low), kept.and_then(|kept| kept.high)].map(cell);
        let (panel, measure) = ("Slots kept".to_string(), "% of tokens".to_string());
        table.push([panel, measure, dataset.dataset.clone(), String::new(), cell(kept.map(|k| k.estimate)), low, high]);
    }
    for (at, value) in agreement.values.iter().enumerate() {
        let name = |at: usize| analysis.datasets[at].dataset.clone();
        let (panel, measure) = (agreement.title.clone(), agreement.measure.clone());
        table.push([panel, measure, name(at / n), name(at % n), cell(*value), String::new(), String::new()]);
    }
    let words = Words::new(ENTRY.name, &title, subtitle, alt);
    let drawing = Drawing::new(words, table, TOP + height + FOOT, |canvas, area| {
        let (y, bold) = (area.y0 + TOP - 14.0, Type::new(theme::LABEL, theme::INK).bold());
        canvas.text((area.x0, y), "Slots kept, with 95 % interval", bold);
        dots.draw(canvas, Area { y0: area.y0 + TOP, x1: area.x0 + DOTS, ..area });
        let cells = Area::new(area.x0 + CELLS, area.y0 + TOP, area.x1 - 90.0, area.y0 + TOP + height);
        agreement.draw(canvas, cells, true, ("Data set, as numbered", "Data set, as numbered"));
        agreement.bar(canvas, (cells.x1 + 22.0, cells.y0, cells.y1));
    });
    Ok(vec![drawing?])
}

/// Spearman's rank correlation of every two data sets.
fn agreement(input: &ReportInput) -> Grid {
    let analysis = &input.analysis;
    let names = || analysis.datasets.iter().map(|d| d.dataset.as_str());
    let spearman = |a: &str, b: &str| {
        let pair = analysis.agreement.iter().find(|p| (p.a == a && p.b == b) || (p.a == b && p.b == a));
        if a == b { Some(1.0) } else { pool::known(pair.and_then(|p| p.spearman)) }
    };
    let values = names().flat_map(|a| names().map(move |b| spearman(a, b))).collect();
    let numbers: Vec<usize> = (1..=analysis.datasets.len()).collect();
    let scale = (Scale::CORRELATION, "Spearman's ρ");
    Grid::new("Do data sets agree on heads?", (&numbers, &numbers), values, scale, 2)
}
