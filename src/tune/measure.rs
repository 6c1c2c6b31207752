//! What a plan does to a head's attention, on the queries of the tokens that follow it.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::files::ModelIdentity;
use crate::format::dump::{Dump, DumpError, Sample, State};
use crate::math::{Projections, Rows, dot};
use crate::merge::{Attending, HeadPlan, HeadStates, OutputProbe, Refit, RefitHead, Refitted, Sampling, refit_slots};
use crate::policy::{HeadView, Policy};
use crate::tune::TuneError;
use crate::tune::trial::{ByTrial, Trial, TrialKey};
use crate::tune::utility::UtilityCurve;

/// Share of a sample's tokens that stand for the following text, at most, unless more are asked for.
const MOST_LATE: f64 = 1.0 / 8.0;

/// What trials did to the heads of one sample.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// ‖O_full‖² of every head.
    pub energy: Vec<f64>,
    /// What became of every head, by trial.
    pub heads: Vec<ByTrial<Outcome>>,
    /// Slots of all heads in the whole cache of the compressed part.
    pub n_slots: usize,
    /// What every head loses by LU-KV; empty where the first setting was not tried at a grid of sizes.
    pub utilities: Vec<UtilityCurve>,
}

/// What a trial did to a head.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// ‖O_full - O‖²; `None` where the trial cannot reach its size.
    pub square: Option<f32>,
    /// Lowest similarity that was joined; `None` where nothing was.
    pub eps: Option<f32>,
    /// Slots kept.
    pub kept: usize,
}

/// Where a sample's prompt ends for tuning: its first part is compressed, the queries of the rest tell what that costs.
///
/// That is where the captured prompt ends when tokens were generated behind it; else `n_late` tokens before the end, by
/// default as many as the dump keeps queries of at the end without a gap.
pub(super) fn prompt_end(sample: &Sample<'_>, layer: usize, n_late: Option<usize>) -> Result<usize, TuneError> {
    let entry = sample.entry();
    if entry.n_tokens > entry.n_prompt_tokens && n_late.is_none() {
        return Ok(entry.n_prompt_tokens);
    }
    let kept = sample.query_positions(layer)?;
    let in_a_row = kept.iter().rev().enumerate().take_while(|(i, at)| **at + i + 1 == entry.n_tokens).count();
    let most = ((entry.n_tokens as f64 * MOST_LATE) as usize).max(1);
    let wanted = n_late.unwrap_or(in_a_row.min(most));
    if wanted == 0 || wanted > in_a_row || wanted >= entry.n_tokens {
        return Err(TuneError::NoQueries { id: entry.id.clone(), in_a_row, wanted: wanted.max(1) });
    }
    Ok(entry.n_tokens - wanted)
}

/// Carries out trials on every head of a sample, those that `trials` gives for it.
///
/// Attention mass is that of the compressed part's own queries: what the following tokens attend to is taken off what the
/// dump has counted, so that no selection sees them.
pub(super) fn measure<'t>(
    dump: &Dump,
    sample: &Sample<'_>,
    prompt_end: usize,
    projections: Option<&Projections>,
    trials: &(dyn Fn(usize) -> Vec<Trial<'t>> + Sync),
) -> Result<Measured, DumpError> {
    let model = &dump.manifest().model;
    let n_heads = model.n_layers * model.n_kv_heads;
    let measured: Vec<HeadMeasured> = (0..n_heads)
        .into_par_iter()
        .map(|head| measure_head(sample, model, head, prompt_end, projections, &trials(head)))
        .collect::<Result<_, DumpError>>()?;
    let energy = measured.iter().map(|head| head.energy).collect();
    let (heads, utilities): (Vec<_>, Vec<_>) = measured.into_iter().map(|head| (head.outcomes, head.utility)).unzip();
    let n_slots = model.n_kv_heads * model.reaches(prompt_end).iter().sum::<usize>();
    Ok(Measured { energy, heads, n_slots, utilities: utilities.into_iter().flatten().collect() })
}

/// What is measured of a head.
struct HeadMeasured {
    /// ‖O_full‖².
    energy: f64,
    /// What became of it, by trial.
    outcomes: ByTrial<Outcome>,
    /// What it loses by LU-KV, where the first setting is tried at a grid of sizes.
    utility: Option<UtilityCurve>,
}

fn measure_head(
    sample: &Sample<'_>,
    model: &ModelIdentity,
    head: usize,
    prompt_end: usize,
    projections: Option<&Projections>,
    trials: &[Trial<'_>],
) -> Result<HeadMeasured, DumpError> {
    let (layer, kv_head) = (head / model.n_kv_heads, head % model.n_kv_heads);
    let keys = sample.vectors(layer, State::K, kv_head)?;
    let values = sample.vectors(layer, State::V, kv_head)?;
    let mut mass = sample.mass(layer, kv_head)?;
    let mut mass_window = sample.mass_window(layer, kv_head)?;
    let query_positions = sample.query_positions(layer)?;
    let queries = sample.queries(layer, kv_head)?;
    // What the layer's window has left behind when the prompt ends is no part of its cache: from here on, tokens count from there.
    let first_position = model.within_reach(layer, prompt_end).start;
    let from_there = first_position..sample.entry().n_tokens;
    let [keys, values] = [&keys, &values].map(|all| all.rows().part(from_there.clone()));
    let window = model.window(layer);
    let states =
        HeadStates { keys, values, first_position, window, queries: queries.rows(), query_positions: &query_positions };
    let (end, prompt_end) = (prompt_end, prompt_end - first_position);
    let projection = projections.map(|all| all.of_kv_head(head, model.group()));
    let probe = OutputProbe::new(states, prompt_end, projection);
    mass.drain(..first_position);
    mass_window.drain(..first_position.min(mass_window.len()));
    if let (Some(probe), true) = (&probe, end < sample.entry().n_prompt_tokens) {
        let late = probe.attn_mass();
        mass.iter_mut().zip(&late).for_each(|(all, late)| *all = (*all - late).max(0.0));
    }
    mass.truncate(prompt_end);
    mass_window.truncate(prompt_end);
    let (prompt_keys, prompt_values) = (keys.part(0..prompt_end), values.part(0..prompt_end));
    let rope = model.rope(layer);
    let turned = |sampling: Sampling| states.turned_queries(&rope, end, sampling);
    let of_scores = trials.iter().find_map(|trial| trial.policy.needs().queries);
    let of_refit = trials.iter().find_map(|trial| trial.refit).map(|refit| refit.sampling());
    let for_scores = of_scores.map(turned).unwrap_or_default();
    let for_refit = of_refit.filter(|sampling| Some(*sampling) != of_scores).map(turned);
    let given = OnceLock::new();
    let view = HeadView {
        layer,
        kv_head,
        n_kv_heads: model.n_kv_heads,
        group: model.group(),
        values: prompt_values,
        queries: Rows::new(&for_scores, model.head_dim),
        given: Some(&given),
        mass: &mass,
        mass_window: &mass_window,
        projection,
        ..HeadView::new(prompt_keys)
    };
    let given_to_others = OnceLock::new();
    let whole = match &for_refit {
        Some(queries) => {
            Attending { queries: Rows::new(queries, model.head_dim), given: Some(&given_to_others), ..view.attending() }
        }
        None => view.attending(),
    };
    let refitted = |plan: &HeadPlan, refit: Option<Refit>| -> Option<Option<Refitted>> {
        let Some(refit) = refit.filter(|_| plan.slots.len() < prompt_end) else { return Some(None) };
        let (keys, values) = (plan.fold_keys(prompt_keys), plan.fold_values(prompt_values));
        let biases: Vec<f32> = plan.slots.iter().map(|slot| slot.logit_bias).collect();
        let rows = |x| Rows::new(x, model.head_dim);
        let stored = RefitHead { keys: rows(&keys), values: rows(&values), logit_bias: Some(&biases) };
        refit_slots(&whole, stored, refit).map(Some)
    };
    // A score that is the same at every budget is asked once for all sizes and policies that have it.
    let mut worths: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for policy in trials.iter().map(|trial| trial.policy) {
        if let Some(score) = policy.fixed_score() {
            worths.entry(score).or_insert_with(|| policy.worth(&view, prompt_end));
        }
    }
    let fixed_worth = |policy: &dyn Policy| policy.fixed_score().and_then(|score| worths.get(score));
    let plan = |policy: &dyn Policy, budget| match fixed_worth(policy) {
        Some(worth) if budget < prompt_end => policy.plan_by(&view, worth, budget),
        _ => policy.plan(&view, budget),
    };
    let budget_of = |share: f64| ((prompt_end as f64 * share).round() as usize).clamp(1, prompt_end);
    let first_setting = |trial: &&Trial<'_>| matches!(trial.key, TrialKey::Grid { setting: 0, .. });
    let utility = trials.iter().find(first_setting).map(|Trial { policy, .. }| {
        let lengths = value_lengths(&view);
        let taken = probe.as_ref().map_or(vec![0.0; prompt_end], |probe| probe.largest_takes(&lengths));
        let budgets = trials.iter().filter(first_setting).map(|trial| budget_of(trial.share));
        let plans: Vec<Option<HeadPlan>> = budgets.map(|budget| plan(*policy, budget).ok()).collect();
        let worth = fixed_worth(*policy).cloned().unwrap_or_else(|| policy.worth(&view, prompt_end));
        UtilityCurve::new(&taken, &worth, &plans)
    });
    let outcome = |Trial { policy, refit, .. }: &Trial<'_>, budget: usize| {
        // A size that a setting cannot reach is a finding, not a failure.
        let Ok(plan) = plan(*policy, budget) else {
            return Outcome { square: None, eps: None, kept: prompt_end };
        };
        let (eps, kept) = (plan.lowest_joined, plan.slots.len());
        let Some(refitted) = refitted(&plan, *refit) else { return Outcome { square: None, eps, kept } };
        let plan = plan.followed_by(prompt_end..keys.len());
        // A head whose outputs are all zero loses nothing, whatever becomes of it.
        let square = probe.as_ref().map_or(0.0, |probe| probe.squared_change(&plan, refitted.as_ref())) as f32;
        Outcome { square: Some(square), eps, kept }
    };
    // Solutions of several searches agree in many heads, and where nothing is folded a control is what it controls.
    let mut known: BTreeMap<(usize, usize, Option<u32>), Outcome> = BTreeMap::new();
    let mut outcome_of = |trial: &Trial<'_>| {
        let budget = budget_of(trial.share);
        let identity = std::ptr::from_ref(trial.policy).cast::<()>().addr();
        let ridge = trial.refit.map(|refit| refit.lambda.to_bits());
        *known.entry((identity, budget, ridge)).or_insert_with(|| outcome(trial, budget))
    };
    let outcomes = trials.iter().map(|trial| (trial.key, outcome_of(trial))).collect();
    Ok(HeadMeasured { energy: probe.as_ref().map_or(0.0, |probe| probe.energy()), outcomes, utility })
}

/// Lengths of a head's values: as each query head of the group projects them, `[group][T]`, and as they are where no projection is
/// known, `[1][T]`.
fn value_lengths(view: &HeadView<'_>) -> Vec<Vec<f32>> {
    let squares: Vec<Vec<f32>> = match view.projection {
        Some(projection) => (0..view.group).map(|head| projection.squared_norms(view.values, head)).collect(),
        None => vec![view.values.iter().map(|value| dot(value, value)).collect()],
    };
    squares.into_iter().map(|of_head| of_head.into_iter().map(f32::sqrt).collect()).collect()
}
