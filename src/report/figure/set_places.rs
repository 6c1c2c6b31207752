//! Where merging sets lie: along the prompt, and among what kinds of token.

use crate::format::analysis::{DatasetAnalysis, Placed, SetPlaces};
use crate::format::dump::TokenClass;
use crate::report::axes::{Axis, rounded};
use crate::report::curves::{Curve, Curves, ends};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "set-places",
    title: "Where tokens are merged",
    question: "Which parts of a prompt and which kinds of token are merged?",
    reading: "Share of the unprotected tokens that are merged into a set of two or more, over all heads of a data set: by \
              tenth of the prompt, and, where the dump tells the tokens' classes, by kind of token in the second drawing. \
              The last tokens are protected, so that the last tenths may have no data.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build: Build::Analysis(build),
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let tenths = Axis::named((1..=10).map(|tenth| tenth.to_string()).collect(), "Tenth of the prompt");
    let kinds = Axis::named(TokenClass::ALL.map(|class| class.name().to_string()).to_vec(), "Kind of token");
    let by_position = drawing(input, ENTRY.name, "by tenth of the prompt", tenths, |places| &places.positions);
    let name = format!("{}-by-class", ENTRY.name);
    let by_class = drawing(input, &name, "by kind of token", kinds, |places| &places.classes);
    by_position.into_iter().chain(by_class).collect()
}

fn drawing(
    input: &ReportInput,
    name: &str,
    what: &str,
    x: Axis,
    of: fn(&SetPlaces) -> &Vec<Placed>,
) -> Option<Result<Drawing, ReportError>> {
    let analysis = &input.analysis;
    let curve = |(index, dataset): (usize, &DatasetAnalysis)| {
        let places = dataset.places.as_ref().map(of).filter(|placed| placed.len() == x.ticks.len())?;
        let share = |(at, placed): (usize, &Placed)| (at as f64, placed.share().map(|share| 100.0 * share));
        let points = places.iter().enumerate().map(share).collect();
        Some(Curve::new(&dataset.dataset, theme::look(index), points))
    };
    let curves: Vec<Curve> = analysis.datasets.iter().enumerate().filter_map(curve).collect();
    let ends = ends(&curves)?;
    let eps = pool::reference_eps(analysis)?;
    let figure = Curves {
        x,
        y: Axis::linear(rounded(Some(ends), (0.0, 100.0), 6), 6, "Unprotected tokens merged, %"),
        panels: vec![(String::new(), curves)],
        ..Curves::default()
    };
    let title = format!("{} {what}, at threshold {}", ENTRY.title, theme::threshold(eps));
    Some(figure.drawing(name, &title, pool::subtitle(analysis)))
}
