//! The last choice of a profile, by running the model.
//!
//! Candidates are compared by their KL to the full cache on calibration texts. What the chosen one does to texts that no
//! choice has seen is measured beside its control and a baseline.

use serde_json::json;

use crate::eval;
use crate::eval::task::task;
use crate::eval::{Arm, EvalError, Item, Settings, Skipped};
use crate::files::InputHash;
use crate::format::evaluation::Role;
use crate::format::profile::{CONTROL, HeldOutKl, Profile, ProfileError, TUNED, Tried};
use crate::hint::Hint;
use crate::math::{Float, Resamples, bootstrap_mean, paired};
use crate::model::Model;
use crate::prompts::Prompt;
use crate::runtime::{Budget, Compression};
use crate::say;
use crate::tune::Tuned;

/// What every profile is held against on held-out texts.
const BASELINE: &str = "h2o";

/// Why no choice could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChooseError {
    /// The model could not be run, or a text not be used.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The profile is of another model.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

impl Hint for ChooseError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Eval(error) => error.hint(),
            Self::Profile(error) => error.hint(),
        }
    }
}

/// What the model is run over.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    /// The texts. Those of the profile's held-out samples only judge.
    pub prompts: &'a [Prompt],
    /// Hashes of the files that they came from.
    pub hashes: &'a [InputHash],
    /// Tokens of a prompt.
    pub context_tokens: usize,
    /// Tokens of the continuation that is compared.
    pub continuation_tokens: usize,
}

/// What the choice stands on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Texts that were too short, by family and data set.
    pub skipped: Skipped,
    /// Texts that the candidates were compared on.
    pub n_chosen_on: usize,
    /// Texts that the chosen profiles were judged on.
    pub n_held_out: usize,
}

/// Chooses among the candidates of every budget, each with its refit and without, by the mean KL to the full cache; then
/// measures the chosen ones on held-out texts. Both go into the profiles.
///
/// - `progress`: rows that are done, and rows in all
/// - Errors: a profile of another model, a text or a policy that cannot be run
pub fn choose(
    tuned: &mut [Tuned],
    model: &Model,
    texts: &Texts<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Choice, ChooseError> {
    let Some(first) = tuned.iter().find_map(Tuned::profile) else { return Ok(Choice::default()) };
    first.check_model(model.identity().map_err(EvalError::from)?)?;
    let seed = first.provenance.seed;
    let settings = Settings {
        context_tokens: texts.context_tokens,
        continuation_tokens: texts.continuation_tokens,
        max_prompt_tokens: None,
        raw: true,
        cache_type: Float::F32,
        seed,
    };
    let kl: Vec<_> = task("kl").into_iter().collect();
    let (items, skipped) = eval::items(model, texts.prompts, &kl, &settings)?;
    let is_held_out = |item: &Item| first.held_out.iter().any(|s| (&s.dataset, &s.id) == (&item.dataset, &item.id));
    let (held_out, chosen_on): (Vec<Item>, Vec<Item>) = items.into_iter().partition(is_held_out);
    choose_on(tuned, model, &chosen_on, seed, progress)?;
    judge_on(tuned, model, &held_out, seed, progress)?;
    for profile in tuned.iter_mut().filter_map(chosen) {
        record(profile, texts);
    }
    Ok(Choice { skipped, n_chosen_on: chosen_on.len(), n_held_out: held_out.len() })
}

fn chosen(tuned: &mut Tuned) -> Option<&mut Profile> {
    tuned.candidates.get_mut(tuned.chosen)
}

/// Mean KL of every way on every text, `[way][text]`; fewer where a budget could not be met.
fn kls(
    model: &Model,
    items: &[Item],
    ways: impl IntoIterator<Item = (f64, Compression)>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<std::vec::IntoIter<Vec<f64>>, EvalError> {
    let arms: Vec<Arm> = ways
        .into_iter()
        .map(|(budget, compression)| Arm {
            policy: compression.name.clone(),
            budget: Some(budget),
            role: Role::Profile,
            control: None,
            compression,
        })
        .collect();
    let (mut done, total) = (0, items.len() * arms.len());
    let rows = eval::measure(model, items, &arms, Float::F32, &mut || {
        done += 1;
        progress(done, total);
    })?;
    let of = |arm: usize| rows.iter().filter_map(|text| text[arm].metrics.get("kl").copied()).collect();
    Ok((0..arms.len()).map(of).collect::<Vec<_>>().into_iter())
}

/// Takes, of every budget, the variant of least mean KL.
fn choose_on(
    tuned: &mut [Tuned],
    model: &Model,
    items: &[Item],
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), EvalError> {
    let variants: Vec<Vec<(usize, Profile)>> = tuned.iter().map(variants).collect();
    let mut ways = Vec::new();
    for (_, profile) in variants.iter().flatten() {
        ways.push((profile.target_kept_fraction, Compression::from_profile(label(profile), profile)?));
    }
    let mut kls = kls(model, items, ways, progress)?;
    for (tuned, variants) in tuned.iter_mut().zip(&variants) {
        let of_variants: Vec<Vec<f64>> = kls.by_ref().take(variants.len()).collect();
        take_best(tuned, variants, &of_variants, seed);
    }
    Ok(())
}

/// Every candidate, as it is and without its refit.
fn variants(tuned: &Tuned) -> Vec<(usize, Profile)> {
    let of = |(place, profile): (usize, &Profile)| {
        let plain = Profile { refit: None, ..profile.clone() };
        let refitted = profile.refit.is_some().then(|| (place, profile.clone()));
        std::iter::once((place, plain)).chain(refitted)
    };
    tuned.candidates.iter().enumerate().flat_map(of).collect()
}

fn label(profile: &Profile) -> String {
    format!("{}{}", profile.search, if profile.refit.is_some() { "+refit" } else { "" })
}

/// Takes the variant of least mean KL among those measured on every text, the first of equals.
fn take_best(tuned: &mut Tuned, variants: &[(usize, Profile)], kls: &[Vec<f64>], seed: u64) {
    let most = kls.iter().map(Vec::len).max().unwrap_or(0);
    if most == 0 {
        return;
    }
    let tried: Vec<Tried> = variants
        .iter()
        .zip(kls)
        .map(|((_, profile), kls)| Tried {
            search: profile.search.clone(),
            refitted: profile.refit.is_some(),
            cross_validated: profile.tried.iter().find(|t| t.search == profile.search).and_then(|t| t.cross_validated),
            kl: bootstrap_mean(kls, Resamples::of_means(seed)).filter(|_| kls.len() == most),
        })
        .collect();
    let known = tried.iter().enumerate().filter_map(|(i, tried)| Some((tried.kl?.estimate, i)));
    let Some((_, best)) = known.min_by(|a, b| a.0.total_cmp(&b.0)) else { return };
    let (place, profile) = &variants[best];
    let verdict =
        format!("{} Chosen by KL to the full cache on {most} calibration texts: {}.", profile.verdict, label(profile));
    tuned.chosen = *place;
    tuned.candidates[*place] = Profile { tried, verdict, ..profile.clone() };
}

/// Measures every chosen profile on held-out texts, beside the eviction of what it merges and a baseline.
fn judge_on(
    tuned: &mut [Tuned],
    model: &Model,
    items: &[Item],
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), EvalError> {
    let mut ways = Vec::new();
    for profile in tuned.iter().filter_map(Tuned::profile) {
        let budget = profile.target_kept_fraction;
        let control = Compression::evicting_profile(CONTROL, profile)?;
        let baseline = Compression::parse(BASELINE, Budget::KeptFraction(budget))?;
        let of_profile = [Some(Compression::from_profile(TUNED, profile)?), control, Some(baseline)];
        ways.push(of_profile.into_iter().flatten().map(|way| (budget, way)).collect::<Vec<_>>());
    }
    let names: Vec<Vec<String>> =
        ways.iter().map(|ways| ways.iter().map(|(_, way)| way.name.clone()).collect()).collect();
    let mut kls = kls(model, items, ways.into_iter().flatten(), progress)?;
    for (profile, names) in tuned.iter_mut().filter_map(chosen).zip(names) {
        let of_profile = names.into_iter().zip(kls.by_ref());
        judge(profile, &of_profile.collect::<Vec<_>>(), seed);
    }
    Ok(())
}

/// What held-out texts say of the chosen profile.
fn judge(profile: &mut Profile, kls: &[(String, Vec<f64>)], seed: u64) {
    let interval = |(policy, kls): &(String, Vec<f64>)| {
        Some(HeldOutKl { policy: policy.clone(), kl: bootstrap_mean(kls, Resamples::of_means(seed))? })
    };
    profile.held_out_kl = kls.iter().filter_map(interval).collect();
    let of = |name: &str| kls.iter().find(|(policy, _)| policy == name).map(|(_, kls)| kls);
    for other in [CONTROL, BASELINE] {
        if let Some((of_tuned, of_other)) = of(TUNED).zip(of(other))
            && let Some(found) = paired(of_tuned, of_other, Resamples::of_means(seed))
            && let Some(times) = say::times(&found, &format!("that of {other}"))
        {
            profile.verdict += &format!(" On {} held-out texts its mean KL is {times}.", found.difference.n);
        }
    }
}

fn record(profile: &mut Profile, texts: &Texts<'_>) {
    profile.provenance.inputs.extend(texts.hashes.iter().cloned());
    profile.provenance.inputs.sort();
    profile.provenance.inputs.dedup();
    if let Some(options) = profile.provenance.options.as_object_mut() {
        let (context, continuation) = (texts.context_tokens, texts.continuation_tokens);
        options.insert("validate".into(), json!({ "context_tokens": context, "continuation_tokens": continuation }));
    }
}
