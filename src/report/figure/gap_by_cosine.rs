//! Logit gap against cosine: how far real queries tell neighbours apart that are so alike.

use crate::format::analysis::GapByCosine;
use crate::report::figure::Build;
use crate::report::heat::{Gap, Grid, Panels};
use crate::report::pool;
use crate::report::scale::Scale;
use crate::report::{Drawing, FigureEntry, ReportError, ReportInput};

pub(super) const ENTRY: FigureEntry = FigureEntry {
    name: "gap-by-cosine",
    title: "Logit gap of neighbours against their cosine",
    question: "How far apart are neighbours of a given cosine to the queries that read them?",
    reading: "Left: of the pairs of neighbouring keys in a column of cosines, the share that has each logit gap, the root mean \
              square of q·(k − k′)/√D over real queries. Where the bright band falls to the right, alike means interchangeable; \
              a band as high at 0.9 as at 0.5 says that the cosine misleads. Right: how many pairs there are, all heads \
              and data sets together.",
    needs: "logit gaps in the analysis, for which queries must have been captured; run kvscope analyze again for files of earlier versions",
    build: Build::Analysis(build),
};

/// Columns with fewer pairs say nothing of shares.
const FEWEST: u64 = 20;

fn build(input: &ReportInput) -> Result<Vec<Drawing>, ReportError> {
    let analysis = &input.analysis;
    let mut all: Option<GapByCosine> = None;
    for found in analysis.datasets.iter().filter_map(|dataset| dataset.gap_by_cosine.as_ref()) {
        match &mut all {
            None => all = Some(found.clone()),
            Some(all) if all.gap_edges == found.gap_edges && all.pairs.len() == found.pairs.len() => all.join(found),
            Some(_) => return Err(ReportError::Damaged("the analysis has logit gaps in different bins".into())),
        }
    }
    let Some(all) = all.filter(|all| all.pairs.iter().all(|bins| bins.len() == all.gap_edges.len() + 1)) else {
        return Ok(Vec::new());
    };
    // Cosines below 0 are of no use to merging; what gaps no pair has is cut off.
    let n_bins = all.pairs.len();
    let columns: Vec<usize> = (0..n_bins).filter(|bin| 2 * bin >= n_bins).collect();
    let total = |bin: usize| all.pairs[bin].iter().sum::<u64>();
    if columns.iter().all(|bin| total(*bin) == 0) {
        return Ok(Vec::new());
    }
    let has_pairs = |row: &usize| columns.iter().any(|bin| all.pairs[*bin][*row] > 0);
    let used = || (0..=all.gap_edges.len()).filter(has_pairs);
    let rows: Vec<usize> = (used().min().unwrap_or(0)..=used().max().unwrap_or(0)).rev().collect();
    let edge = |bin: usize| -1.0 + 2.0 * bin as f64 / n_bins as f64;
    let cosines: Vec<String> = columns.iter().map(|bin| format!("{:.2}", edge(*bin))).collect();
    let gap = |row: &usize| row.checked_sub(1).map_or("0".to_string(), |below| digits(all.gap_edges[below]));
    let gaps: Vec<String> = rows.iter().map(gap).collect();
    let grid = |title: &str, scale, decimals, value: &dyn Fn(usize, u64) -> Option<f64>| {
        let cells = rows.iter().flat_map(|row| columns.iter().map(|bin| value(*bin, all.pairs[*bin][*row])));
        let grid = Grid::new(title, (&rows, &columns), cells.collect(), scale, decimals);
        Grid { rows: gaps.clone(), columns: cosines.clone(), ..grid }
    };
    // Cells without a pair are left white in both panels.
    let share = |bin: usize, n: u64| (total(bin) >= FEWEST && n > 0).then(|| 100.0 * n as f64 / total(bin) as f64);
    let number = |_: usize, n: u64| (n > 0).then_some(n as f64);
    let most = all.pairs.iter().flatten().copied().max().unwrap_or(1).max(10) as f64;
    let counts = Scale { low: 1.0, high: 10f64.powf(most.log10().ceil()), log: true };
    let mut grids = vec![
        grid("Gaps at each cosine", (Scale::linear(0.0, 50.0), "% of the pairs of that cosine"), 0, &share),
        grid("All pairs", (counts, "Pairs (log scale)"), 0, &number),
    ];
    grids.iter_mut().for_each(|grid| grid.gap = Gap::Blank("no pairs, or too few to tell their shares"));
    let panels = Panels { grids, axes: ("Logit gap, nats, from (log scale)", "Cosine, from") };
    Ok(vec![panels.drawing(ENTRY.name, ENTRY.title, pool::subtitle(analysis))?])
}

/// Two digits of a gap.
fn digits(gap: f64) -> String {
    if gap >= 10.0 {
        format!("{gap:.0}")
    } else if gap >= 1.0 {
        format!("{gap:.1}")
    } else {
        format!("{gap:.2}")
    }
}
