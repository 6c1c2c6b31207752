//! Where merging sets lie: along the prompt, and among what kinds of token.

use crate::format::analysis::Placed;
use crate::format::analysis::SetPlaces;
use crate::format::dump::TokenClass;
use crate::report::Drawing;
use crate::report::FigureEntry;
use crate::report::ReportError;
use crate::report::ReportInput;
use crate::report::axes::Axis;
use crate::report::axes::extent;
use crate::report::axes::rounded;
use crate::report::lines::Curve;
use crate::report::plot::Plot;
use crate::report::plot::named;
use crate::report::pool;
use crate::report::theme;

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "set-places",
    title: "Where tokens are merged",
    question: "Which parts of a prompt and which kinds of token are merged?",
    reading: "Share of the unprotected tokens that are merged into a set of two or more, over all heads of a data set: by \
              tenth of the prompt, and, where the dump tells the tokens' classes, by kind of token in the second drawing. \
              The last tokens are protected, so that the last tenths may have no data.",
    needs: "merging sets in the analysis, for which keys and attention masses must have been captured",
    build,
};

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let tenths = (1..=10).map(|tenth| tenth.to_string()).collect();
    let kinds = TokenClass::ALL.map(|class| class.name().to_string()).to_vec();
    let by_position = drawing(input, ENTRY.name, "by tenth of the prompt", (tenths, "Tenth of the prompt"), |places| {
        &places.positions
    });
    let name = format!("{}-by-class", ENTRY.name);
    let by_class = drawing(input, &name, "by kind of token", (kinds, "Kind of token"), |places| &places.classes);
    Ok(by_position.into_iter().chain(by_class).collect())
}

fn drawing(
    input: &ReportInput,
    name: &str,
    what: &str,
    (labels, x_title): (Vec<String>, &str),
    of: fn(&SetPlaces) -> &Vec<Placed>,
) -> Option<Drawing> {
    let analysis = &input.analysis;
    let mut curves = Vec::new();
    for (index, dataset) in analysis.datasets.iter().enumerate() {
        let places = dataset.places.as_ref().map(of).filter(|placed| placed.len() == labels.len());
        if let Some(places) = places {
            let share = |(at, placed): (usize, &Placed)| (at as f64, placed.share().map(|share| 100.0 * share));
            let points = places.iter().enumerate().map(share).collect();
            curves.push(Curve { name: dataset.dataset.clone(), look: theme::look(index), points });
        }
    }
    let ends = extent(curves.iter().flat_map(|curve| &curve.points).filter_map(|point| point.1))?;
    let eps = pool::reference_eps(analysis)?;
    let alt = curves.iter().map(|curve| in_words(curve, &labels)).collect::<Vec<_>>().join(" ");
    let plot = Plot {
        x: named(labels, x_title),
        y: Axis::linear(rounded(Some(ends), (0.0, 100.0), 6), 6, "Unprotected tokens merged, %"),
        curves,
        bands: Vec::new(),
        more: Vec::new(),
        upright: Vec::new(),
    };
    let title = format!("{} {what}, at threshold {}", ENTRY.title, theme::threshold(eps));
    Some(plot.drawing(name, &title, pool::subtitle(analysis), alt))
}

fn in_words(curve: &Curve, labels: &[String]) -> String {
    let one = |((_, share), label): (&(f64, Option<f64>), &String)| {
        format!("{label} {}", share.map_or_else(|| "no data".into(), |share| format!("{share:.0} %")))
    };
    let all: Vec<String> = curve.points.iter().zip(labels).map(one).collect();
    format!("{}: {}.", curve.name, all.join(", "))
}
