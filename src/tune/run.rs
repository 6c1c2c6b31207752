//! The tuning run: measure, choose, check.

use std::collections::BTreeSet;

use crate::files::ModelIdentity;
use crate::format::dump::Dump;
use crate::policy;
use crate::policy::{Policy, PolicyError, Scope};
use crate::tune::cost::{Checked, CostSums, EpsMeans, curves};
use crate::tune::curves::UNITS;
use crate::tune::measure::{measure, prompt_end};
use crate::tune::options::check_options;
use crate::tune::profiles::Evidence;
use crate::tune::ridges::refits;
use crate::tune::search::SearchEntry;
use crate::tune::solve::{Solution, solutions, target};
use crate::tune::split::{Place, places, split_places};
use crate::tune::trial::{ByTrial, Trial, TrialKey};
use crate::tune::{SEARCHES, TuneError, TuneOptions, Tuned};

/// Sizes at which heads are measured, beside the budgets.
const SIZES: [f64; 12] = [0.01, 0.02, 0.035, 0.06, 0.09, 0.13, 0.18, 0.25, 0.35, 0.5, 0.65, 0.8];
/// Calibration samples from which on searches can be compared by cross-validation.
const FEWEST_TO_VALIDATE: usize = 4;

/// Chooses sizes and settings for every budget.
///
/// All choices come from the calibration samples: curves from all of them, the search by cross-validation between their
/// halves. Held-out samples are measured at what was chosen, and nothing else.
///
/// - Cost: samples x heads x settings x sizes, each O(late queries · slots · D)
/// - Memory: one head's states a thread; sums by head, setting and size; of a sample a few numbers for each setting
/// - Errors: dumps of different models, missing states or layers, a budget or share out of range, a faulty setting
pub fn tune(
    dumps: &[Dump],
    options: &TuneOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Tuned>, TuneError> {
    let model = check(dumps, options)?;
    let settings = parse_settings(&options.settings)?;
    let samples = places(dumps);
    if samples.is_empty() {
        return Err(TuneError::NoSamples);
    }
    let ends = samples
        .iter()
        .map(|place| prompt_end(&place.open()?, 0, options.n_late))
        .collect::<Result<Vec<usize>, TuneError>>()?;
    for (setting, policy) in options.settings.iter().zip(&settings) {
        check_window(setting, policy.as_ref(), &samples, &ends)?;
    }
    let mut projecting = options.settings.iter().zip(&settings).filter(|(_, policy)| policy.needs().projection);
    if let (Some((setting, _)), None) = (projecting.next(), &options.projections) {
        return Err(TuneError::NoProjections { setting: setting.clone() });
    }
    let mut samplings =
        settings.iter().zip(&options.settings).filter_map(|(policy, name)| Some((policy.needs().queries?, name)));
    if let Some((first, _)) = samplings.next()
        && let Some((_, setting)) = samplings.find(|(other, _)| *other != first)
    {
        let why = "its sample of queries is not that of the other policies";
        return Err(TuneError::Setting { setting: setting.clone(), why });
    }
    let looking = options.settings.iter().zip(&settings).find(|(_, policy)| policy.needs().queries.is_some());
    let looking = looking.map(|(setting, _)| setting.as_str()).or(options.refit.map(|_| "the refit"));
    if let Some(what) = looking {
        for (place, end) in samples.iter().zip(&ends) {
            if !place.open()?.has_queries_before(0, *end)? {
                return Err(TuneError::NoEarlyQueries { what: what.into(), id: place.entry().id.clone() });
            }
        }
    }
    let (refit, projections) = (options.refit, options.projections.as_deref());
    let (calibration, held_out) = split_places(&samples, options.hold_out, options.seed);
    let n_refitting = if options.refits().is_empty() { 0 } else { calibration.len() };
    let n_steps = calibration.len() + n_refitting + samples.len();

    let (sizes, kinds) = (sizes(&options.budgets), model.kinds());
    let grid: Vec<Trial<'_>> = sizes
        .iter()
        .enumerate()
        .flat_map(|(size, units)| {
            let share = *units as f64 / UNITS as f64;
            settings.iter().enumerate().map(move |(setting, policy)| {
                let key = TrialKey::Grid { size, setting };
                Trial { key, policy: policy.as_ref(), share, refit }
            })
        })
        .collect();
    // Every other sample, so that a search can be solved on one half and paid for on the other.
    let mut halves = [(); 2].map(|()| CostSums::new(options.measure, model.n_kv_heads, &sizes, &kinds));
    let mut eps_of_grid = EpsMeans::default();
    for (done, at) in calibration.iter().enumerate() {
        let sample = samples[*at].open()?;
        let measured =
            sample.verified(|| measure(samples[*at].dump, &sample, ends[*at], projections, &|_| grid.clone()))?;
        halves[done % 2].add(&measured);
        eps_of_grid.add(&measured);
        progress(done + 1, n_steps);
    }
    let curves_of = |parts: &[&CostSums]| curves(parts, settings.len());
    let mut whole = curves_of(&halves.each_ref());
    let mut folds = (calibration.len() >= FEWEST_TO_VALIDATE).then(|| halves.each_ref().map(|half| curves_of(&[half])));
    let loss_weights = options.losses.as_ref().map(|losses| losses.weights(&whole));
    if let Some(weights) = &loss_weights {
        std::iter::once(&mut whole).chain(folds.iter_mut().flatten()).for_each(|curves| curves.scale(weights));
    }
    let searches: Vec<&SearchEntry> =
        SEARCHES.iter().filter(|entry| options.search.as_ref().is_none_or(|name| entry.name == name)).collect();
    let weights = options.unit.weights(&model, &settings, options.refit);
    let solved: Vec<Vec<Solution>> = options
        .budgets
        .iter()
        .map(|budget| {
            let target = target(*budget, options.min_share);
            solutions(&searches, &whole, folds.as_ref(), target, (&weights, &kinds))
        })
        .collect();

    let choosing: Vec<(&Place<'_>, usize)> = calibration.iter().map(|at| (&samples[*at], ends[*at])).collect();
    let mut n_refitted = 0;
    let refits = refits(&choosing, &settings, &solved, options, &mut || {
        n_refitted += 1;
        progress(calibration.len() + n_refitted, n_steps);
    })?;

    // What was chosen, its controls, and every setting at equal sizes, on all samples.
    let controls: Vec<Option<Box<dyn Policy>>> = controls(&options.settings)?
        .iter()
        .map(|control| control.as_deref().map(|control| Ok(policy::parse(control)?.1)).transpose())
        .collect::<Result<_, TuneError>>()?;
    let checks = |head: usize| -> Vec<Trial<'_>> {
        let mut trials = Vec::new();
        for (budget, (share, solutions)) in options.budgets.iter().zip(&solved).enumerate() {
            let refit = refits[budget];
            for (solution, Solution { choices, .. }) in solutions.iter().enumerate() {
                let (choice, share) = (choices[head], choices[head].share());
                let policy = settings[choice.setting].as_ref();
                let control = controls[choice.setting].as_ref().map_or(policy, AsRef::as_ref);
                trials.push(Trial { key: TrialKey::Tuned { budget, solution }, policy, share, refit });
                trials.push(Trial { key: TrialKey::Control { budget, solution }, policy: control, share, refit });
            }
            for (setting, policy) in settings.iter().enumerate() {
                trials.push(Trial {
                    key: TrialKey::Equal { budget, setting },
                    policy: policy.as_ref(),
                    share: *share,
                    refit,
                });
            }
        }
        trials
    };
    let mut checked: Vec<ByTrial<Checked>> = Vec::with_capacity(samples.len());
    let mut eps_of_checks = EpsMeans::default();
    for (i, place) in samples.iter().enumerate() {
        let sample = place.open()?;
        let work = || measure(place.dump, &sample, ends[i], projections, &checks);
        let measured = if calibration.contains(&i) {
            // Verified above.
            let measured = work()?;
            eps_of_checks.add(&measured);
            measured
        } else {
            sample.verified(work)?
        };
        checked.push(Checked::all(&measured, model.n_kv_heads));
        progress(calibration.len() + n_refitting + i + 1, n_steps);
    }
    let entries = samples.iter().map(Place::entry).collect();
    let merging = controls.iter().map(Option::is_some).collect();
    let evidence = Evidence {
        dumps,
        options,
        model: &model,
        refits,
        entries,
        loss_weights,
        calibration,
        held_out,
        checked,
        eps_of_grid,
        eps_of_checks,
        merging,
    };
    Ok(evidence.profiles(&whole, &solved))
}

fn sizes(budgets: &[f64]) -> Vec<usize> {
    let all = SIZES.iter().chain(budgets).map(|share| (share * UNITS as f64).round() as usize);
    let all: BTreeSet<usize> = all.filter(|units| (1..UNITS).contains(units)).collect();
    all.into_iter().collect()
}

pub(super) fn parse_settings(settings: &[String]) -> Result<Vec<Box<dyn Policy>>, TuneError> {
    settings.iter().map(|setting| parse_setting(setting)).collect()
}

/// The eviction of what each setting merges, as it is typed; `None` where it merges nothing.
pub(super) fn controls(settings: &[String]) -> Result<Vec<Option<String>>, PolicyError> {
    settings.iter().map(|setting| Ok(policy::parse(setting)?.1.control().map(str::to_string))).collect()
}

fn parse_setting(setting: &str) -> Result<Box<dyn Policy>, TuneError> {
    let fault = |why| Err(TuneError::Setting { setting: setting.into(), why });
    let (_, policy) = policy::parse(setting)?;
    if policy.sets_own_size() {
        return fault("thresholds of its own decide its size");
    }
    if !policy.compresses() {
        return fault("it keeps everything");
    }
    if policy.scope() != Scope::Head {
        return fault("its allocation shares slots among heads, which is what tuning decides");
    }
    if policy.needs().replay() {
        return fault("its queries are those of a replay, which a dump does not hold");
    }
    if policy.needs().learned.is_some() {
        return fault("it predicts from vectors that a dump does not hold");
    }
    if policy.refit().is_some() {
        return fault("the refit is one for all heads: give it with --refit");
    }
    Ok(policy)
}

/// A window of queries counts only where it ends with the compressed part.
fn check_window(setting: &str, policy: &dyn Policy, samples: &[Place<'_>], ends: &[usize]) -> Result<(), TuneError> {
    let Some(needed) = policy.needs().mass_window else { return Ok(()) };
    let fits = samples
        .iter()
        .zip(ends)
        .all(|(place, end)| place.dump.manifest().window_tokens == needed && place.entry().n_prompt_tokens == *end);
    if fits { Ok(()) } else { Err(TuneError::Window { setting: setting.into(), needed }) }
}

fn check(dumps: &[Dump], options: &TuneOptions) -> Result<ModelIdentity, TuneError> {
    check_options(options)?;
    let first = dumps.first().ok_or(TuneError::NoSamples)?.manifest();
    for dump in dumps {
        let manifest = dump.manifest();
        if manifest.model.fingerprint != first.model.fingerprint {
            return Err(TuneError::MixedModels { first: first.model.name.clone(), other: manifest.model.name.clone() });
        }
        if manifest.layers.len() != manifest.model.n_layers {
            return Err(TuneError::MissingLayers { found: manifest.layers.len(), n_layers: manifest.model.n_layers });
        }
        let found = manifest.held_kv_heads().count();
        if found != manifest.model.n_kv_heads {
            return Err(TuneError::MissingHeads { found, n_kv_heads: manifest.model.n_kv_heads });
        }
    }
    let expected = (first.model.n_layers * first.model.n_q_heads, first.model.head_dim);
    match options.projections.as_ref().map(|projections| projections.shape()) {
        Some(found) if found != expected => Err(TuneError::OtherProjections { found, expected }),
        _ => Ok(first.model.clone()),
    }
}
