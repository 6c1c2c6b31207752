//! The last choice of a profile, by running the model.
//!
//! Candidates are compared by their KL to the full cache on calibration texts, each with its refit and without, merging and
//! evicting. What the chosen one does to texts that no choice has seen is measured beside its control and plain policies.

mod error;
mod losses;
mod rivals;
mod variants;
mod ways;

pub use error::ChooseError;
pub use losses::{head_losses, projections};
pub use rivals::Worse;

use serde_json::json;

use crate::choose::rivals::{judge, rivals, worse_than};
use crate::choose::variants::{Variant, take_best, variants};
use crate::choose::ways::{Ways, measured_kls, sample_item, spread, way};
use crate::eval;
use crate::eval::task::task;
use crate::eval::{EvalError, Item, Settings, Skipped};
use crate::files::InputHash;
use crate::format::dump::Dump;
use crate::format::profile::{Profile, UsedSample};
use crate::math::Float;
use crate::model::Model;
use crate::prompts::Prompt;
use crate::tune::Tuned;

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
    /// Samples of these dumps, from their tokens: the held-out ones judge, some of the others choose.
    Samples {
        /// The dumps that the profile was tuned on.
        dumps: &'a [Dump],
        /// Calibration samples that choose, spread over all of them.
        n_choosing: usize,
    },
}

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

/// Chooses among the candidates of every budget, each with its refit and without, merging and evicting, by the mean KL to the
/// full cache on texts that may choose; then measures the chosen ones on held-out texts. Both go into the profiles. Where
/// samples choose, they are few, and candidates that cross-validation rules out are not run.
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
    let is_held_out = |dataset: &str, id: &str| is_among(&first.held_out, dataset, id);
    let (items, skipped) = items(model, texts, first)?;
    let (held_out, chosen_on): (Vec<Item>, Vec<Item>) =
        items.into_iter().partition(|item| is_held_out(&item.dataset, &item.id));
    let few = matches!(texts, Texts::Samples { .. });
    let variants: Vec<Vec<Variant>> = tuned.iter().map(|tuned| variants(tuned, few)).collect::<Result<_, _>>()?;
    let named = |variant: &Variant| way(variant.label(), &variant.profile);
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

fn is_among(samples: &[UsedSample], dataset: &str, id: &str) -> bool {
    samples.iter().any(|sample| (&*sample.dataset, &*sample.id) == (dataset, id))
}

/// Prompts with their continuations; of samples those that are held out, and some that the profile was tuned on.
fn items(model: &Model, texts: &Texts<'_>, profile: &Profile) -> Result<(Vec<Item>, Skipped), ChooseError> {
    match texts {
        Texts::Prompts { prompts, chat_template, context_tokens, continuation_tokens, .. } => {
            let settings = Settings {
                context_tokens: *context_tokens,
                continuation_tokens: *continuation_tokens,
                max_prompt_tokens: None,
                chat_template: *chat_template,
                hide_question: false,
                cache_type: Float::F32,
                seed: profile.provenance.seed,
            };
            let kl: Vec<_> = task("kl").into_iter().collect();
            Ok(eval::items(model, prompts, &kl, &settings)?)
        }
        Texts::Samples { dumps, n_choosing } => {
            let all = |dump| (0..Dump::manifest(dump).samples.len()).map(move |index| (dump, index));
            let of = |samples: &[UsedSample]| -> Vec<(&Dump, usize)> {
                let is_of = |(dump, index): &(&Dump, usize)| {
                    let entry = &dump.manifest().samples[*index];
                    is_among(samples, &entry.dataset, &entry.id)
                };
                dumps.iter().flat_map(all).filter(is_of).collect()
            };
            let calibration = of(&profile.calibration);
            let choosing = spread(calibration.len(), *n_choosing).map(|place| calibration[place]);
            let items = choosing.chain(of(&profile.held_out)).map(|(dump, index)| sample_item(dump, index));
            Ok((items.collect::<Result<_, _>>()?, Skipped::default()))
        }
    }
}

fn chosen(tuned: &mut Tuned) -> Option<&mut Profile> {
    tuned.candidates.get_mut(tuned.chosen)
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
