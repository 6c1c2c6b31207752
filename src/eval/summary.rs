//! Means, paired comparisons and needle maps from rows.

use std::collections::{BTreeMap, BTreeSet};

use crate::eval::metric::metric;
use crate::eval::plant::asked_place;
use crate::eval::task::{Job, Take, task};
use crate::eval::verdict;
use crate::format::evaluation::{
    ArmEntry, ComparisonEntry, Evaluation, Headline, NeedleCell, NeedleMap, Question, Role, Row, SummaryEntry,
    at_sizes_of,
};
use crate::math::{Mean, Resamples, bootstrap_mean, mean, paired};
use crate::merge::Counters;
use crate::policy::split_refit;

/// Fills in everything that follows from the rows.
pub(super) fn fill_in(evaluation: &mut Evaluation, rows: &[Row]) {
    evaluation.rows = rows.len();
    evaluation.summary = entries(evaluation, rows);
    evaluation.comparisons = comparisons(evaluation, rows);
    evaluation.needle = needle_maps(evaluation, rows);
    evaluation.verdict = verdict::in_words(evaluation);
}

/// Families in the order of the texts.
fn tasks(evaluation: &Evaluation) -> Vec<&str> {
    let mut tasks: Vec<&str> = evaluation.texts.iter().map(|text| text.task.as_str()).collect();
    let mut seen = BTreeSet::new();
    tasks.retain(|task| seen.insert(*task));
    tasks
}

fn is_of(row: &Row, arm: &ArmEntry) -> bool {
    row.policy == arm.policy && row.budget == arm.budget
}

fn entries(evaluation: &Evaluation, rows: &[Row]) -> Vec<SummaryEntry> {
    let mut entries = Vec::new();
    for task in tasks(evaluation) {
        let datasets: BTreeSet<&str> =
            evaluation.texts.iter().filter(|text| text.task == task).map(|text| text.dataset.as_str()).collect();
        for dataset in std::iter::once(None).chain(datasets.into_iter().map(Some)) {
            for arm in &evaluation.arms {
                let chosen: Vec<&Row> = rows
                    .iter()
                    .filter(|row| row.task == task && dataset.is_none_or(|d| row.dataset == d) && is_of(row, arm))
                    .collect();
                if !chosen.is_empty() {
                    entries.push(entry(evaluation, task, dataset, arm, &chosen));
                }
            }
        }
    }
    entries
}

fn entry(evaluation: &Evaluation, task: &str, dataset: Option<&str>, arm: &ArmEntry, rows: &[&Row]) -> SummaryEntry {
    let interval = |values: Vec<f64>| bootstrap_mean(&values, Resamples::of_means(evaluation.provenance.seed));
    let mut counters = Counters::default();
    rows.iter().for_each(|row| counters.add(row.counters));
    let met: Vec<&&Row> = rows.iter().filter(|row| row.unmet.is_none()).collect();
    let bytes: Option<u64> = met.iter().map(|row| row.cache_bytes).sum();
    let full: u64 = met.iter().map(|row| row.full_cache_bytes).sum();
    let names: BTreeSet<&String> = rows.iter().flat_map(|row| row.metrics.keys()).collect();
    let metrics = names
        .into_iter()
        .filter_map(|name| {
            let values = rows.iter().filter_map(|row| row.metrics.get(name).copied()).collect();
            Some((name.clone(), interval(values)?))
        })
        .collect();
    SummaryEntry {
        task: task.into(),
        dataset: dataset.map(String::from),
        policy: arm.policy.clone(),
        budget: arm.budget,
        n: met.len(),
        n_unmet: rows.len() - met.len(),
        kept_fraction: interval(rows.iter().filter_map(|row| row.kept_fraction).collect()),
        cache_share: bytes.filter(|_| full > 0).map(|bytes| bytes as f64 / full as f64),
        counters,
        metrics,
        score_percent: dataset.and_then(|dataset| score_percent(task, dataset, rows)),
    }
}

/// The data set's score as the benchmark prints it.
fn score_percent(family: &str, dataset: &str, rows: &[&Row]) -> Option<f64> {
    let Take::Yes(Job::Answer(job)) = (task(family)?.take)(dataset) else { return None };
    let metric = metric(job.metric)?;
    let parts: Option<Vec<Vec<f64>>> =
        rows.iter().map(|row| metric.parts.iter().map(|part| row.metrics.get(*part).copied()).collect()).collect();
    Some((10_000.0 * (metric.aggregate)(&parts?)?).round() / 100.0)
}

/// Comparisons that the verdict needs, by family and budget.
fn comparisons(evaluation: &Evaluation, rows: &[Row]) -> Vec<ComparisonEntry> {
    let mut found = Vec::new();
    for task in tasks(evaluation) {
        let Some(Headline { metric, less_is_better, .. }) = evaluation.headline(task) else { continue };
        let values = |arm: &ArmEntry| -> BTreeMap<(&str, &str), f64> {
            let of_arm = rows.iter().filter(|row| row.task == task && is_of(row, arm));
            of_arm
                .filter_map(|row| Some(((row.dataset.as_str(), row.id.as_str()), *row.metrics.get(metric)?)))
                .collect()
        };
        let mut compare = |question: Question, a: &ArmEntry, b: &ArmEntry| {
            let (of_a, of_b) = (values(a), values(b));
            let both: Vec<(f64, f64)> = of_a.iter().filter_map(|(key, a)| Some((*a, *of_b.get(key)?))).collect();
            let (x, y): (Vec<f64>, Vec<f64>) = both.into_iter().unzip();
            if let Some(result) = paired(&x, &y, Resamples::of_means(evaluation.provenance.seed)) {
                found.push(ComparisonEntry {
                    task: task.into(),
                    metric: metric.clone(),
                    question,
                    a: a.policy.clone(),
                    b: b.policy.clone(),
                    budget: a.budget,
                    result,
                });
            }
        };
        let mut budgets: Vec<Option<f64>> = Vec::new();
        for arm in evaluation.arms.iter().filter(|arm| arm.role != Role::Reference) {
            if !budgets.contains(&arm.budget) {
                budgets.push(arm.budget);
            }
        }
        for budget in budgets {
            let arms: Vec<&ArmEntry> =
                evaluation.arms.iter().filter(|arm| arm.budget == budget && arm.role != Role::Reference).collect();
            let named = |name: &str| arms.iter().find(|other| other.policy == name);
            for arm in &arms {
                if let Some(control) = arm.control.as_deref().and_then(named) {
                    compare(Question::MergeOrEvict, arm, control);
                }
                // At a profile's sizes, the end of the name says whose they are.
                let (typed, sizes) = arm.policy.split_once(&at_sizes_of("", "")).unwrap_or((&arm.policy, ""));
                let (plain, refit) = split_refit(typed);
                let without = if sizes.is_empty() { plain.into() } else { at_sizes_of(plain, sizes) };
                if let Some(without) = named(&without).filter(|_| refit.is_some()) {
                    compare(Question::RefitOrNot, arm, without);
                }
            }
            if let Some(paper) = arms.iter().find(|arm| arm.role == Role::Paper) {
                for profile in arms.iter().filter(|arm| arm.role == Role::Profile) {
                    compare(Question::ProfileOrPaper, profile, paper);
                }
            }
            for profile in arms.iter().filter(|arm| arm.role == Role::Profile) {
                let has_its_sizes = |arm: &&&ArmEntry| arm.policy.ends_with(&at_sizes_of("", &profile.policy));
                for arm in arms.iter().filter(|arm| arm.role == Role::AtSizes).filter(has_its_sizes) {
                    compare(Question::ProfileOrAtSizes, profile, arm);
                }
            }
            let mut ranked: Vec<(f64, &ArmEntry)> = arms
                .iter()
                .filter(|arm| matches!(arm.role, Role::Baseline | Role::Paper))
                .filter_map(|arm| Some((mean(values(arm).into_values())?, *arm)))
                .collect();
            ranked.sort_by(|a, b| if *less_is_better { a.0.total_cmp(&b.0) } else { b.0.total_cmp(&a.0) });
            let Some((_, best)) = ranked.first() else { continue };
            if let Some((_, next)) = ranked.get(1) {
                compare(Question::BestBaselineOrNext, best, next);
            }
            for arm in arms.iter().filter(|arm| matches!(arm.role, Role::Candidate | Role::Profile)) {
                compare(Question::OrBestBaseline, arm, best);
            }
        }
    }
    found
}

fn needle_maps(evaluation: &Evaluation, rows: &[Row]) -> Vec<NeedleMap> {
    let scored = |row: &Row| row.depth_percent.zip(row.metrics.get(&evaluation.headline(&row.task)?.metric).copied());
    let reference: BTreeMap<(&str, &str), f64> = evaluation
        .arms
        .iter()
        .filter(|arm| arm.role == Role::Reference)
        .flat_map(|arm| rows.iter().filter(|row| is_of(row, arm)))
        .filter_map(|row| Some(((row.dataset.as_str(), row.id.as_str()), scored(row)?.1)))
        .collect();
    let mut maps = Vec::new();
    for arm in evaluation.arms.iter().filter(|arm| arm.role != Role::Reference) {
        let mut cells: BTreeMap<(usize, u32), [Mean; 2]> = BTreeMap::new();
        for row in rows.iter().filter(|row| is_of(row, arm)) {
            if let Some((depth, candidate)) = scored(row)
                && let Some(reference) = reference.get(&(row.dataset.as_str(), row.id.as_str()))
            {
                let about = (row.n_prompt_tokens as f64 / 500.0).round() as usize * 500;
                let place = asked_place(&row.dataset, &row.id).unwrap_or((about, depth));
                let means = cells.entry(place).or_default();
                means.iter_mut().zip([*reference, candidate]).for_each(|(mean, score)| mean.add(score));
            }
        }
        if cells.is_empty() {
            continue;
        }
        let cells = cells
            .into_iter()
            .filter_map(|((length_tokens, depth_percent), [reference, candidate])| {
                let n = reference.n() as usize;
                let (reference, candidate) = reference.get().zip(candidate.get())?;
                Some(NeedleCell { length_tokens, depth_percent, n, reference, candidate })
            })
            .collect();
        maps.push(NeedleMap { policy: arm.policy.clone(), budget: arm.budget, cells });
    }
    maps
}
