//! A ridge for each budget's refit, by queries that the refit was not solved on.

use crate::format::dump::DumpError;
use crate::math::Mean;
use crate::merge::Refit;
use crate::policy::Policy;
use crate::tune::TuneOptions;
use crate::tune::cost::layer_error;
use crate::tune::measure::measure;
use crate::tune::profiles::chosen;
use crate::tune::solve::Solution;
use crate::tune::split::Place;
use crate::tune::trial::{Trial, TrialKey};

/// The refit of every budget: the one asked for, with the ridge of [`TuneOptions::ridges`] under which the budget's chosen solution
/// errs least on the late queries of the calibration samples `(place, prompt's end)`.
///
/// - Cost: ridges x budgets refits for every head of every sample
pub(super) fn refits(
    samples: &[(&Place<'_>, usize)],
    settings: &[Box<dyn Policy>],
    solved: &[Vec<Solution>],
    options: &TuneOptions,
    progress: &mut dyn FnMut(),
) -> Result<Vec<Option<Refit>>, DumpError> {
    let refits = options.refits();
    if refits.is_empty() {
        return Ok(vec![options.refit; solved.len()]);
    }
    let key = |budget, ridge| TrialKey::Ridge { budget, ridge };
    let trials = |head: usize| -> Vec<Trial<'_>> {
        let of_budget = |(budget, solutions): (usize, &Vec<Solution>)| {
            let choice = solutions.get(chosen(solutions))?.choices[head];
            let policy = settings[choice.setting].as_ref();
            let of_refit = move |(ridge, refit): (usize, &Refit)| Trial {
                key: key(budget, ridge),
                policy,
                share: choice.share(),
                refit: Some(*refit),
            };
            Some(refits.iter().enumerate().map(of_refit))
        };
        solved.iter().enumerate().filter_map(of_budget).flatten().collect()
    };
    let mut errors = vec![vec![Mean::default(); refits.len()]; solved.len()];
    for (place, end) in samples {
        let measured = measure(place.dump, &place.open()?, *end, options.projections.as_deref(), &trials)?;
        for (budget, of_budget) in errors.iter_mut().enumerate() {
            for (ridge, mean) in of_budget.iter_mut().enumerate() {
                mean.extend(layer_error(&measured, key(budget, ridge), place.dump.manifest().model.n_kv_heads));
            }
        }
        progress();
    }
    let best = |of_budget: &Vec<Mean>| {
        let known = of_budget.iter().zip(&refits).filter_map(|(mean, refit)| Some((mean.get()?, *refit)));
        let best = known.min_by(|a, b| a.0.total_cmp(&b.0));
        best.map(|(_, refit)| refit).or(options.refit)
    };
    Ok(errors.iter().map(best).collect())
}
