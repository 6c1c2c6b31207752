//! The last choice of a profile, by running the model.
//!
//! Candidates are compared by their KL to the full cache on calibration texts. What the chosen one does to texts that no
//! choice has seen is measured beside its control and a baseline.

mod losses;

pub use losses::{head_losses, projections};

use serde_json::json;

use crate::eval;
use crate::eval::task::task;
use crate::eval::{Arm, EvalError, Item, Settings, Skipped, Work};
use crate::files::InputHash;
use crate::format::dump::{Dump, DumpError};
use crate::format::evaluation::Role;
use crate::format::profile::{CONTROL, HeldOutKl, Profile, ProfileError, TUNED, Tried};
use crate::hint::Hint;
use crate::math::{Float, Resamples, bootstrap_mean, mean, paired};
use crate::model::Model;
use crate::prompts::Prompt;
use crate::runtime::{Budget, Compression};
use crate::say;
use crate::tune::Tuned;

/// A policy that every profile is held against on held-out texts.
const BASELINE: &str = "h2o";
/// The profile's own policy and refit at equal sizes.
const EQUAL: &str = "equal sizes";
/// What a profile must not be worse than.
const PLAIN: [&str; 2] = [BASELINE, EQUAL];

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
    /// A sample cannot be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The dumps are of another model.
    #[error("the dumps are of {dumps}, and the model is {model}, or has other weights")]
    OtherModel {
        /// Model of a dump.
        dumps: String,
        /// The model at hand.
        model: String,
    },
}

impl Hint for ChooseError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Eval(error) => error.hint(),
            Self::Profile(error) => error.hint(),
            Self::Dump(error) => error.hint(),
            Self::OtherModel { .. } => Some("name the model that was captured".into()),
        }
    }
}

/// What the model is run over.
#[derive(Clone, Copy, Debug)]
pub enum Texts<'a> {
    /// Texts of files. Those of the profile's held-out samples only judge, the others choose.
    Prompts {
        /// The texts.
        prompts: &'a [Prompt],
        /// Hashes of the files that they came from.
        hashes: &'a [InputHash],
        /// Whether texts stand in the model's chat format.
        chat_template: bool,
        /// Tokens of a prompt.
        context_tokens: usize,
        /// Tokens of the continuation that is compared.
        continuation_tokens: usize,
    },
    /// The held-out samples of these dumps, from their tokens: they judge, and nothing is chosen.
    Samples(&'a [Dump]),
}

/// Part of a sample's tokens that continues the rest.
const CONTINUED_PART: usize = 8;
/// Tokens of a sample that continue the rest, at most.
const MOST_CONTINUED: usize = 256;

/// What the choice stands on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// Texts that were too short, by family and data set.
    pub skipped: Skipped,
    /// Texts that the candidates were compared on.
    pub n_chosen_on: usize,
    /// Texts that the chosen profiles were judged on.
    pub n_held_out: usize,
    /// Budgets whose profile is worse than a plain policy.
    pub worse: Vec<Worse>,
}

/// A profile that costs more on held-out texts than a policy that needs no tuning.
#[derive(Clone, Debug, PartialEq)]
pub struct Worse {
    /// The budget.
    pub budget: f64,
    /// Its mean KL, in nats.
    pub kl: f64,
    /// The policy that is better.
    pub rival: String,
    /// The policy's mean KL, in nats.
    pub kl_of_rival: f64,
}

/// Chooses among the candidates of every budget, each with its refit and without, by the mean KL to the full cache, where
/// texts may choose; then measures the chosen ones on held-out texts. Both go into the profiles.
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
    let is_held_out = |dataset: &str, id: &str| first.held_out.iter().any(|s| (&*s.dataset, &*s.id) == (dataset, id));
    let (items, skipped) = items(model, texts, seed, &is_held_out)?;
    let (held_out, chosen_on): (Vec<Item>, Vec<Item>) =
        items.into_iter().partition(|item| is_held_out(&item.dataset, &item.id));
    let variants: Vec<Vec<(usize, Profile)>> = tuned.iter().map(variants).collect();
    let named = |(_, profile): &(usize, Profile)| way(label(profile), profile);
    let ways: Vec<Ways> =
        variants.iter().map(|variants| variants.iter().map(named).collect()).collect::<Result<_, EvalError>>()?;
    for ((tuned, variants), kls) in
        tuned.iter_mut().zip(&variants).zip(measured_kls(model, &chosen_on, &ways, progress)?)
    {
        take_best(tuned, variants, &kls, seed);
    }
    let ways: Vec<Ways> = tuned.iter().filter_map(Tuned::profile).map(rivals).collect::<Result<_, _>>()?;
    let measured = measured_kls(model, &held_out, &ways, progress)?;
    let mut worse = Vec::new();
    for ((profile, ways), kls) in tuned.iter_mut().filter_map(chosen).zip(&ways).zip(measured) {
        let names = ways.iter().map(|(_, way)| way.name.clone());
        let kls: Vec<(String, Vec<f64>)> = names.zip(kls).collect();
        judge(profile, &kls, seed);
        record(profile, texts);
        worse.extend(worse_than(profile.target_kept_fraction, &kls));
    }
    Ok(Choice { skipped, n_chosen_on: chosen_on.len(), n_held_out: held_out.len(), worse })
}

/// Prompts with their continuations; of samples only those that are held out.
fn items(
    model: &Model,
    texts: &Texts<'_>,
    seed: u64,
    is_held_out: &dyn Fn(&str, &str) -> bool,
) -> Result<(Vec<Item>, Skipped), ChooseError> {
    match texts {
        Texts::Prompts { prompts, chat_template, context_tokens, continuation_tokens, .. } => {
            let settings = Settings {
                context_tokens: *context_tokens,
                continuation_tokens: *continuation_tokens,
                max_prompt_tokens: None,
                chat_template: *chat_template,
                hide_question: false,
                cache_type: Float::F32,
                seed,
            };
            let kl: Vec<_> = task("kl").into_iter().collect();
            Ok(eval::items(model, prompts, &kl, &settings)?)
        }
        Texts::Samples(dumps) => {
            let mut items = Vec::new();
            for dump in *dumps {
                let samples = dump.manifest().samples.iter().enumerate();
                for (index, _) in samples.filter(|(_, entry)| is_held_out(&entry.dataset, &entry.id)) {
                    items.push(sample_item(dump, index)?);
                }
            }
            Ok((items, Skipped::default()))
        }
    }
}

/// A captured sample, of which the end continues the rest.
fn sample_item(dump: &Dump, index: usize) -> Result<Item, DumpError> {
    let entry = &dump.manifest().samples[index];
    let mut prompt = dump.sample(index)?.token_ids()?;
    let n_continued = (prompt.len() / CONTINUED_PART).min(MOST_CONTINUED);
    let continuation = prompt.split_off(prompt.len() - n_continued);
    let (dataset, id) = (entry.dataset.clone(), entry.id.clone());
    Ok(Item { task: "kl", dataset, id, prompt, work: Work::Continue(continuation) })
}

/// The best plain policy, where it is better than the profile on the texts that both were measured on.
fn worse_than(budget: f64, kls: &[(String, Vec<f64>)]) -> Option<Worse> {
    let mean_of = |name: &str| kls.iter().find(|(way, _)| way == name).and_then(|(_, kls)| mean(kls.iter().copied()));
    let kl = mean_of(TUNED)?;
    let rivals = PLAIN.iter().filter_map(|name| Some((*name, mean_of(name)?)));
    let (rival, kl_of_rival) = rivals.min_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, rival)| *rival < kl)?;
    Some(Worse { budget, kl, rival: rival.into(), kl_of_rival })
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
fn measured_kls(
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
            evicting: false,
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

/// A chosen profile beside the eviction of what it merges and the plain policies.
fn rivals(profile: &Profile) -> Result<Ways, EvalError> {
    let tuned = way(TUNED, profile)?;
    let budget = tuned.0;
    let control = Compression::evicting_profile(CONTROL, profile)?.map(|control| (budget, control));
    let baseline = Compression::parse(BASELINE, Budget::KeptFraction(budget))?;
    let equal = way(EQUAL, &equal_sizes(profile))?;
    Ok([tuned].into_iter().chain(control).chain([(budget, baseline), equal]).collect())
}

/// The policy that most heads have, with the refit, at equal sizes.
fn equal_sizes(profile: &Profile) -> Profile {
    let n_heads = |setting: usize| profile.heads.iter().filter(|head| head.setting == setting).count();
    let setting = (0..profile.settings.len()).max_by_key(|setting| n_heads(*setting)).unwrap_or(0);
    let mut equal = profile.clone();
    for head in &mut equal.heads {
        (head.setting, head.kept_fraction) = (setting, profile.target_kept_fraction);
    }
    equal
}

/// What held-out texts say of the chosen profile.
fn judge(profile: &mut Profile, kls: &[(String, Vec<f64>)], seed: u64) {
    let interval = |(policy, kls): &(String, Vec<f64>)| {
        Some(HeldOutKl { policy: policy.clone(), kl: bootstrap_mean(kls, Resamples::of_means(seed))? })
    };
    profile.held_out_kl = kls.iter().filter_map(interval).collect();
    let of = |name: &str| kls.iter().find(|(policy, _)| policy == name).map(|(_, kls)| kls);
    for other in [CONTROL].iter().chain(&PLAIN) {
        if let Some((of_tuned, of_other)) = of(TUNED).zip(of(other))
            && let Some(found) = paired(of_tuned, of_other, Resamples::of_means(seed))
            && let Some(times) = say::times(&found, &format!("that of {other}"))
        {
            profile.verdict += &format!(" On {} held-out texts its mean KL is {times}.", found.difference.n);
        }
    }
}

fn record(profile: &mut Profile, texts: &Texts<'_>) {
    let Texts::Prompts { hashes, chat_template, context_tokens, continuation_tokens, .. } = texts else { return };
    profile.provenance.inputs.extend(hashes.iter().cloned());
    profile.provenance.inputs.sort();
    profile.provenance.inputs.dedup();
    if let Some(options) = profile.provenance.options.as_object_mut() {
        let validate = json!({
            "chat_template": chat_template,
            "context_tokens": context_tokens,
            "continuation_tokens": continuation_tokens,
        });
        options.insert("validate".into(), validate);
    }
}
