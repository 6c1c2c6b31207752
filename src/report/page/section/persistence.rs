//! Is a head's sparsity the model's or the data's? Every head in every data set, with intervals.

use std::collections::BTreeMap;

use crate::files::is_inside;
use crate::format::analysis::{Analysis, DatasetAnalysis, Evidence, HeadPersistence};
use crate::format::stats::read_stats;
use crate::math::{Interval, Resamples, bootstrap_mean};
use crate::report::page::section::{Made, SectionEntry};
use crate::report::page::table::{Table, column, columns, explained, numeric, text, tint, whole};
use crate::report::page::words::{percent, told};
use crate::report::page::{Block, Facts, Figures};
use crate::report::pool::{Head, Measure};
use crate::report::theme::{number, threshold};
use crate::report::{Report, ReportError, ReportInput, pool};
use crate::say;

pub(super) const ENTRY: SectionEntry = SectionEntry { id: "persistence", title: "Persistence", build };

/// Seed of the intervals in the matrix, which nothing but this page has.
const SEED: u64 = 0;

fn build(report: &Report, figures: &mut Figures) -> Made {
    let Some(input) = &report.analysis else { return Ok(Vec::new()) };
    let Some(persistence) = &input.analysis.persistence else { return Ok(Vec::new()) };
    let mut blocks = told(&persistence.verdict);
    let Some(evidence) = &persistence.evidence else { return Ok(blocks) };
    blocks.push(Block::Facts(facts(evidence)));
    blocks.extend(figures.take("persistence").map(Block::Figures));
    let (table, note) = matrix(input, evidence, persistence.tolerance)?;
    blocks.push(Block::Table(table));
    blocks.push(Block::text("note", note));
    Ok(blocks)
}

fn facts(evidence: &Evidence) -> Facts {
    let in_words = |value: Interval| number(value.estimate, 2) + &say::bracketed(value, 2);
    let mut facts = Vec::new();
    let mut add =
        |name, value: Option<Interval>| facts.extend(pool::known_interval(value).map(|v| (name, in_words(v))));
    add("Absolute agreement of data sets, ICC(A,1)", evidence.icc_absolute);
    add("Consistency of data sets, ICC(C,1)", evidence.icc_consistency);
    add("Agreement on the heads' order, Kendall's W", evidence.kendall_w);
    add("Mean rank correlation of two data sets", evidence.mean_spearman);
    if let Some(variance) = &evidence.variance {
        facts.push(("Variance between heads, alike in all data sets", percent(variance.head.estimate)));
        facts.push(("Variance between data sets", percent(variance.of_datasets())));
        facts.push(("Variance between samples of one data set", percent(variance.of_samples())));
    }
    facts
}

/// The matrix, and how it is read.
fn matrix(input: &ReportInput, evidence: &Evidence, tolerance: f64) -> Result<(Table, String), ReportError> {
    let analysis = &input.analysis;
    let datasets: Vec<_> = analysis.datasets.iter().filter(|d| evidence.datasets.contains(&d.dataset)).collect();
    let means: Vec<_> = datasets.iter().map(|d| pool::at_eps(d, Measure::SetRatio, analysis.reference_eps)).collect();
    let intervals = intervals(input)?;
    let row = |head: &HeadPersistence| {
        let place = (head.layer, head.kv_head);
        let value = |(dataset, means): (&&DatasetAnalysis, &BTreeMap<Head, Option<f64>>)| {
            let value = pool::known(means.get(&place).copied().flatten());
            let found = intervals.as_ref().and_then(|all| all.get(&(dataset.dataset.as_str(), place)).copied());
            let said = found.and_then(|i| Some(format!("95 % interval {}, {} samples", say::ends(i, 3)?, i.n)));
            let cell = numeric(value, 3).tint(tint(value, (0.0, 1.0)));
            match said {
                Some(said) => {
                    cell.hint(format!("layer {}, head {}, {}: {said}", head.layer, head.kv_head, dataset.dataset))
                }
                None => cell,
            }
        };
        let mut row = vec![whole(head.layer), whole(head.kv_head)];
        row.extend(datasets.iter().zip(&means).map(value));
        row.push(numeric(Some(head.mean), 3));
        row.push(numeric(Some(head.deviation), 3));
        row.push(text(if head.persistent { "persistent" } else { "differs" }));
        row.push(numeric(head.test.map(|test| test.q), 3));
        row
    };
    let mut titles = columns(&["Layer", "KV head"]);
    titles.extend(datasets.iter().map(|dataset| column(&dataset.dataset)));
    titles.extend([
        column("Mean"),
        explained("Deviation", "Largest distance of a data set's mean from the head's mean"),
        explained("Verdict", format!("persistent: within {tolerance} of its mean in every data set")),
        explained("q", "Kruskal and Wallis' test over data sets, adjusted over heads (Benjamini and Hochberg)"),
    ]);
    let caption = format!(
        "Sets per unprotected token at threshold {}, by head and data set: dark merges most, bright merges nothing",
        threshold(evidence.eps)
    );
    let table = Table::new("persistence-caption", caption, titles, evidence.heads.iter().map(row).collect());
    let note = match intervals {
        Some(_) => {
            "Point at a cell for its 95 % interval over samples. Filter by words and numbers, as in \"layer=15\", \
                    \"deviation>0.1\" or \"differs\"."
        }
        None => {
            "Without intervals: the table stats.parquet, which has the samples one by one, is not beside the analysis."
        }
    };
    Ok((table, note.into()))
}

/// By data set and head.
type Intervals<'a> = BTreeMap<(&'a str, Head), Interval>;

/// Intervals over samples of every data set and head; `None` where the table of samples is not there.
fn intervals(input: &ReportInput) -> Result<Option<Intervals<'_>>, ReportError> {
    let Analysis { table: Some(table), eps_grid, reference_eps, datasets, .. } = &input.analysis else {
        return Ok(None);
    };
    let path = input.analysis_dir.join(&table.name);
    let Some(eps) = eps_grid.get(*reference_eps).filter(|_| is_inside(&table.name) && path.is_file()) else {
        return Ok(None);
    };
    let eps = eps.to_string();
    let stats = read_stats(&path, &|key| key.metric == "set_ratio" && key.eps.as_ref() == Some(&eps))?;
    let mut units: BTreeMap<(&str, Head), Vec<f64>> = BTreeMap::new();
    for ((dataset, _), heads) in stats.values().flatten() {
        let Some(dataset) = datasets.iter().map(|d| d.dataset.as_str()).find(|name| name == dataset) else { continue };
        for (head, value) in heads.iter().filter(|(_, value)| value.is_finite()) {
            units.entry((dataset, *head)).or_default().push(*value);
        }
    }
    let interval = |(key, units): (_, Vec<f64>)| Some((key, bootstrap_mean(&units, Resamples::of_tables(SEED))?));
    Ok(Some(units.into_iter().filter_map(interval).collect()))
}
