//! What a plan does to a head's attention, on the queries of the tokens that follow it.

use rayon::prelude::*;

use crate::files::ModelIdentity;
use crate::format::dump::Dump;
use crate::format::dump::DumpError;
use crate::format::dump::Sample;
use crate::format::dump::State;
use crate::math::Rows;
use crate::merge::HeadStates;
use crate::merge::OutputProbe;
use crate::policy::HeadView;
use crate::policy::Policy;
use crate::tune::TuneError;

/// Share of a sample's tokens that stand for the following text, at most, unless more are asked for.
const MOST_LATE: f64 = 1.0 / 8.0;

/// A policy and the share of the slots that it may keep.
pub(super) type Trial<'a> = (&'a dyn Policy, f64);

/// What trials did to the heads of one sample.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    /// ‖O_full‖² of every head.
    pub energy: Vec<f64>,
    /// ‖O_full - O‖² by head and trial; NaN where a trial cannot reach its size.
    pub squares: Vec<Vec<f32>>,
    /// Lowest similarity that was joined, by head and trial; NaN where nothing was.
    pub eps: Vec<Vec<f32>>,
    /// Slots kept per token, over all heads, by trial.
    pub kept: Vec<f64>,
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
    trials: &(dyn Fn(usize) -> Vec<Trial<'t>> + Sync),
) -> Result<Measured, DumpError> {
    let model = &dump.manifest().model;
    let n_heads = model.n_layers * model.n_kv_heads;
    let heads: Vec<HeadMeasured> = (0..n_heads)
        .into_par_iter()
        .map(|head| measure_head(sample, model, head, prompt_end, &trials(head)))
        .collect::<Result<_, DumpError>>()?;
    let n_trials = heads.first().map_or(0, |head| head.kept.len());
    let kept = |trial: usize| heads.iter().map(|head| head.kept[trial]).sum::<usize>() as f64;
    Ok(Measured {
        kept: (0..n_trials).map(|trial| kept(trial) / (n_heads * prompt_end) as f64).collect(),
        energy: heads.iter().map(|head| head.energy).collect(),
        eps: heads.iter().map(|head| head.eps.clone()).collect(),
        squares: heads.into_iter().map(|head| head.squares).collect(),
    })
}

struct HeadMeasured {
    energy: f64,
    squares: Vec<f32>,
    eps: Vec<f32>,
    kept: Vec<usize>,
}

fn measure_head(
    sample: &Sample<'_>,
    model: &ModelIdentity,
    head: usize,
    prompt_end: usize,
    trials: &[Trial<'_>],
) -> Result<HeadMeasured, DumpError> {
    let (layer, kv_head, head_dim) = (head / model.n_kv_heads, head % model.n_kv_heads, model.head_dim);
    let keys = sample.vectors(layer, State::K, kv_head)?;
    let values = sample.vectors(layer, State::V, kv_head)?;
    let mut mass = sample.mass(layer, kv_head)?;
    let mut mass_window = sample.mass_window(layer, kv_head)?;
    let query_positions = sample.query_positions(layer)?;
    let group = model.group();
    let queries =
        (0..group).map(|g| sample.vectors(layer, State::Q, kv_head * group + g)).collect::<Result<Vec<_>, _>>()?;
    let states =
        HeadStates { head_dim, keys: &keys, values: &values, queries: &queries, query_positions: &query_positions };
    let mut measured = HeadMeasured { energy: 0.0, squares: Vec::new(), eps: Vec::new(), kept: Vec::new() };
    let probe = OutputProbe::new(states, prompt_end);
    if let (Some(probe), true) = (&probe, prompt_end < sample.entry().n_prompt_tokens) {
        let late = probe.attn_mass();
        mass.iter_mut().zip(&late).for_each(|(all, late)| *all = (*all - late).max(0.0));
    }
    mass.truncate(prompt_end);
    mass_window.truncate(prompt_end);
    let view = HeadView {
        layer,
        kv_head,
        n_kv_heads: model.n_kv_heads,
        mass: &mass,
        mass_window: &mass_window,
        ..HeadView::new(Rows::new(&keys, head_dim).first(prompt_end))
    };
    for (policy, share) in trials {
        let budget = ((prompt_end as f64 * share).round() as usize).clamp(1, prompt_end);
        // A head whose outputs are all zero loses nothing, whatever becomes of it.
        let (square, eps, kept) = match policy.plan(&view, budget) {
            Ok(plan) => {
                let (eps, kept) = (plan.lowest_joined.unwrap_or(f32::NAN), plan.slots.len());
                let plan = plan.followed_by(prompt_end..keys.len() / head_dim);
                (probe.as_ref().map_or(0.0, |probe| probe.squared_change(&plan)) as f32, eps, kept)
            }
            // A size that a setting cannot reach is a finding, not a failure.
            Err(_) => (f32::NAN, f32::NAN, prompt_end),
        };
        measured.squares.push(square);
        measured.eps.push(eps);
        measured.kept.push(kept);
    }
    measured.energy = probe.map_or(0.0, |probe| probe.energy());
    Ok(measured)
}
