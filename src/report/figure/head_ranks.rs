//! Every head's sets per token with its interval, in the order of the means.

use crate::report::axes::{Axis, covering};
use crate::report::curves::{Curve, Curves, Marks, ends};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "head-ranks",
    title: "Heads in the order of how much they merge",
    question: "Which heads merge most, and how sure is their order?",
    reading: "Each column is one KV head: its mean sets per unprotected token over data sets, with the 95 % interval over \
              samples. The order of two heads whose intervals lie apart holds for other samples too.",
    needs: "intervals of the heads' means in the analysis: two data sets of two samples each with merging sets",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let evidence = analysis.persistence.as_ref().and_then(|persistence| persistence.evidence.as_ref());
    let Some(evidence) = evidence else { return Ok(Vec::new()) };
    let of_head = |head: &crate::format::analysis::HeadPersistence| {
        Some(((head.layer, head.kv_head), pool::known_interval(head.interval)?))
    };
    let mut heads: Vec<_> = evidence.heads.iter().filter_map(of_head).collect();
    heads.sort_by(|a, b| a.1.estimate.total_cmp(&b.1.estimate).then(a.0.cmp(&b.0)));
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let place = |at: usize| at as f64;
    let points = heads.iter().enumerate().map(|(at, head)| (place(at), Some(head.1.estimate))).collect();
    let whiskers: Vec<_> =
        heads.iter().enumerate().map(|(at, head)| (place(at), head.1.low.zip(head.1.high))).collect();
    let marks = Marks::Only((280.0 / heads.len() as f64).clamp(1.4, 3.4));
    let curve = Curve { whiskers, marks, ..Curve::new("mean and 95 % interval", theme::look(0), points) };
    let ends = ends([&curve]);
    let names = heads.iter().map(|head| pool::head_name(head.0)).collect();
    let figure = Curves {
        panels: vec![(String::new(), vec![curve])],
        x: Axis { upright: true, ..Axis::named(names, "KV heads, by their mean") },
        y: Axis::linear(covering((0.0, 1.0), ends, (0.0, 2.0)), 6, "Sets per unprotected token"),
        ..Curves::default()
    };
    let title = format!("{}, at threshold {}", ENTRY.title, theme::threshold(evidence.eps));
    Ok(vec![figure.drawing(ENTRY.name, &title, pool::subtitle(analysis))?])
}
