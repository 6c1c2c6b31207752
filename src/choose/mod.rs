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
    let variants: Vec<Vec<(usize, Profile)>> = tuned.iter().map(variants).collect();
    let named = |(_, profile): &(usize, Profile)| way(label(profile), profile);
    let ways: Vec<Ways> =
        variants.iter().map(|variants| variants.iter().map(named).collect()).collect::<Result<_, EvalError>>()?;
    for ((tuned, variants), kls) in tuned.iter_mut().zip(&variants).zip(kls(model, &chosen_on, &ways, progress)?) {
        take_best(tuned, variants, &kls, seed);
    }
    let ways: Vec<Ways> = tuned.iter().filter_map(Tuned::profile).map(rivals).collect::<Result<_, _>>()?;
    let measured = kls(model, &held_out, &ways, progress)?;
    for ((profile, ways), kls) in tuned.iter_mut().filter_map(chosen).zip(&ways).zip(measured) {
        let names = ways.iter().map(|(_, way)| way.name.clone());
        judge(profile, &names.zip(kls).collect::<Vec<_>>(), seed);
        record(profile, texts);
    }
    Ok(Choice { skipped, n_chosen_on: chosen_on.len(), n_held_out: held_out.len() })
}

fn chosen(tuned: &mut Tuned) -> Option<&mut Profile> {
    tuned.candidates.get_mut(tuned.chosen)
}

/// Compressions to compare, each with its budget.
type Ways = Vec<(f64, Compression)>;

fn way(name: impl Into<String>, profile: &Profile) -> Result<(f64, Compression), EvalError> {
    Ok((profile.target_kept_fraction, Compression::from_profile(name, profile)?))
}

/// KL of every way of every group on every text, `[group][way][text]`; fewer where a budget could not be met.
fn kls(
    model: &Model,
    items: &[Item],
    groups: &[Ways],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<Vec<f64>>>, EvalError> {
    let arm = |(budget, compression): &(f64, Compression)| Arm {
        policy: compression.name.clone(),
        budget: Some(*budget),
        role: Role::Profile,
        control: None,
        compression: compression.clone(),
    };
    let arms: Vec<Arm> = groups.iter().flatten().map(arm).collect();
    let (mut done, total) = (0, items.len() * arms.len());
    let rows = eval::measure(model, items, &arms, Float::F32, &mut || {
        done += 1;
        progress(done, total);
    })?;
    let of = |arm: usize| rows.iter().filter_map(|text| text[arm].metrics.get("kl").copied()).collect();
    let mut all = (0..arms.len()).map(of);
    Ok(groups.iter().map(|ways| all.by_ref().take(ways.len()).collect()).collect())
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

/// A chosen profile beside the eviction of what it merges and a baseline.
fn rivals(profile: &Profile) -> Result<Ways, EvalError> {
    let tuned = way(TUNED, profile)?;
    let budget = tuned.0;
    let control = Compression::evicting_profile(CONTROL, profile)?.map(|control| (budget, control));
    let baseline = Compression::parse(BASELINE, Budget::KeptFraction(budget))?;
    Ok([tuned].into_iter().chain(control).chain([(budget, baseline)]).collect())
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
