//! Where merging sets lie: along the prompt, and among what kinds of token.

use crate::format::analysis::{DatasetAnalysis, Placed, SetPlaces};
use crate::format::dump::TokenClass;
use crate::math::Interval;
use crate::report::axes::Axis;
use crate::report::curves::{Band, Curve, Curves, Marks, ends};
use crate::report::figure::Build;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};
use crate::report::{pool, theme};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "set-places",
    title: "Where tokens are merged",
    question: "Which parts of a prompt and which kinds of token are merged?",
    reading: "Share of the unprotected tokens that are merged into a set of two or more, over all heads of a data set: by \
              tenth of the prompt, and, where the dump tells the tokens' classes, by kind of token in the second drawing. \
              The last tokens are protected, so that the last tenths may hold none that could merge. Bands and bars are 95 % intervals \
              over samples.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build: Build::Analysis(build),
};

/// Counts by place, and their shares with intervals, which files of earlier versions do not have.
type Places<'a> = (&'a [Placed], &'a [Option<Interval>]);

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let tenths = Axis::named((1..=10).map(|tenth| tenth.to_string()).collect(), "Tenth of the prompt");
    let kinds = Axis::named(TokenClass::ALL.map(|class| class.name().to_string()).to_vec(), "Kind of token");
    let by_position = drawing(input, ENTRY.name, "by tenth of the prompt", tenths, |places| {
        (&places.positions, &places.position_shares)
    });
    let name = format!("{}-by-class", ENTRY.name);
    let by_class = drawing(input, &name, "by kind of token", kinds, |places| (&places.classes, &places.class_shares));
    by_position.into_iter().chain(by_class).collect()
}

fn drawing(
    input: &ReportInput,
    name: &str,
    what: &str,
    x: Axis,
    of: fn(&SetPlaces) -> Places<'_>,
) -> Option<Result<Drawing, ReportError>> {
    let analysis = &input.analysis;
    let with_places: Vec<(usize, &DatasetAnalysis, Places<'_>)> = analysis
        .datasets
        .iter()
        .enumerate()
        .filter_map(|(i, dataset)| Some((i, dataset, dataset.places.as_ref().map(of)?)))
        .filter(|(.., (placed, _))| placed.len() == x.ticks.len())
        .collect();
    // The last tenths, where no data set has a token that may merge, are protected.
    let is_free = |at: usize| with_places.iter().any(|(.., (placed, _))| placed[at].free > 0);
    let in_order = x.ticks.first().is_some_and(|tick| tick.1 == "1");
    let n_free = (0..x.ticks.len()).rev().find(|at| is_free(*at)).map_or(0, |last| last + 1);
    let shown = if in_order { n_free } else { x.ticks.len() };
    let n = with_places.len();
    let curve = |(nth, (index, dataset, (placed, shares))): (usize, &(usize, &DatasetAnalysis, Places<'_>))| {
        // Kinds have no order, so that no line joins them; marks stand side by side.
        let aside = if in_order { 0.0 } else { 0.6 * ((nth as f64 + 0.5) / n as f64 - 0.5) };
        let share = |at: usize| (at as f64 + aside, placed[at].share().map(|share| 100.0 * share));
        let ends = |at: usize| {
            let interval = pool::known_interval(shares.get(at).copied().flatten()).map(|share| share.times(100.0));
            (at as f64 + aside, interval.and_then(|share| share.low.zip(share.high)))
        };
        let intervals: Band = (0..shown).map(ends).collect();
        let curve = Curve::new(&dataset.dataset, theme::look(*index), (0..shown).map(share).collect());
        if in_order {
            Curve { band: intervals, ..curve }
        } else {
            Curve { marks: Marks::Only(4.5), whiskers: intervals, ..curve }
        }
    };
    let curves: Vec<Curve> = with_places.iter().enumerate().map(curve).collect();
    ends(&curves)?;
    let has_intervals = with_places.iter().any(|(.., (_, shares))| shares.iter().flatten().any(|i| i.low.is_some()));
    let eps = pool::reference_eps(analysis)?;
    let end = x.high;
    let figure = Curves {
        shaded: (shown < x.ticks.len()).then_some((shown as f64 - 0.5, end, "protected")),
        x,
        y: Axis::linear((0.0, 100.0), 6, "Unprotected tokens merged, %"),
        panels: vec![(String::new(), curves)],
        band_name: if has_intervals && in_order { "95 % interval over samples".into() } else { String::new() },
        ..Curves::default()
    };
    let mut subtitle = pool::subtitle(analysis);
    if has_intervals && !in_order {
        subtitle += " · bars are 95 % intervals over samples";
    }
    let title = format!("{} {what}, at threshold {}", ENTRY.title, theme::threshold(eps));
    Some(figure.drawing(name, &title, subtitle))
}
