//! The last choice of `kvscope tune`, by running the model: candidates by their KL to the full cache, and what the chosen
//! one does to texts that no choice has seen.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::inputs::read_prompts;
use crate::cli::numbers;
use crate::cli::options::Common;
use crate::cli::options::DeviceArg;
use crate::cli::options::load_model;
use crate::cli::output::bar;
use crate::cli::output::note;
use crate::eval;
use crate::eval::Arm;
use crate::eval::Item;
use crate::eval::Settings;
use crate::eval::task::task;
use crate::files::InputHash;
use crate::format::evaluation::Role;
use crate::format::profile::CONTROL;
use crate::format::profile::HeldOutKl;
use crate::format::profile::Profile;
use crate::format::profile::TUNED;
use crate::format::profile::Tried;
use crate::math::bootstrap_mean;
use crate::math::paired;
use crate::model::Model;
use crate::prompts::ReadOptions;
use crate::runtime::Budget;
use crate::runtime::CacheType;
use crate::runtime::Compression;
use crate::tune::Tuned;

/// Resamples of every bootstrap interval.
const RESAMPLES: usize = 2000;
/// What every profile is held against on held-out texts.
const BASELINE: &str = "h2o";

/// Texts for the last choice.
#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// Run --model over these texts and choose, among searches and refit or none, by the KL to the full cache; held-out
    /// texts among them only judge. May be repeated
    #[arg(long, value_name = "FILE|DIR|-", requires = "model")]
    validate: Vec<PathBuf>,
    /// Model that --validate runs: a GGUF file, a Hugging Face folder, or a name that was pulled
    #[arg(long, value_name = "PATH|NAME", requires = "validate")]
    model: Option<String>,
    /// Samples of each data set of --validate, the first ones [default: all]
    #[arg(long, value_name = "N", value_parser = numbers::count, requires = "validate")]
    samples: Option<usize>,
    /// Tokens of a prompt of --validate
    #[arg(long, value_name = "N", default_value_t = 1536, value_parser = numbers::count)]
    context: usize,
    /// Tokens of the continuation that is compared
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = numbers::count)]
    continuation: usize,
}

/// Chooses among the candidates of every budget, where texts were given.
pub(crate) fn validate(
    args: &ValidateArgs,
    device: &DeviceArg,
    tuned: &mut [Tuned],
    common: &Common,
) -> anyhow::Result<()> {
    let (Some(name), Some(first)) = (&args.model, tuned.iter().find_map(Tuned::profile).cloned()) else {
        return Ok(());
    };
    let seed = first.provenance.seed;
    let options = ReadOptions { max_samples: args.samples, templates: None };
    let (prompts, hashes) = read_prompts(&args.validate, &options, common)?;
    let model = load_model(name, &device.open()?, common)?;
    first.check_model(model.identity()?)?;
    let settings = Settings {
        context_tokens: args.context,
        continuation_tokens: args.continuation,
        max_prompt_tokens: None,
        raw: true,
        cache_type: CacheType::F32,
        seed,
    };
    let (items, skipped) = eval::items(&model, &prompts, &task("kl").into_iter().collect::<Vec<_>>(), &settings)?;
    for (name, n) in &skipped {
        note(common, &format!("skipped {n} texts of {name}: too short"));
    }
    let is_held_out = |item: &Item| first.held_out.iter().any(|s| (&s.dataset, &s.id) == (&item.dataset, &item.id));
    let (held_out, chosen_on): (Vec<Item>, Vec<Item>) = items.into_iter().partition(is_held_out);
    if chosen_on.is_empty() {
        note(common, "no text of --validate may be chosen on: all are held out");
    }

    let variants: Vec<Vec<(usize, Profile)>> = tuned.iter().map(variants).collect();
    let mut arms = Vec::new();
    for profile in variants.iter().flatten().map(|(_, profile)| profile) {
        arms.push(arm(Compression::from_profile(label(profile), profile)?, profile));
    }
    let kls = measure(&model, &chosen_on, &arms, common)?;
    let mut kls = kls.into_iter();
    for (tuned, variants) in tuned.iter_mut().zip(&variants) {
        let of_variants: Vec<Vec<f64>> = kls.by_ref().take(variants.len()).collect();
        choose(tuned, variants, &of_variants, seed);
    }

    let mut arms = Vec::new();
    let mut policies: Vec<Vec<&str>> = Vec::new();
    for profile in tuned.iter().filter_map(Tuned::profile) {
        let baseline = Compression::parse(BASELINE, Budget::KeptFraction(profile.target_kept_fraction))?;
        let all = [
            (TUNED, Some(Compression::from_profile(TUNED, profile)?)),
            (CONTROL, Compression::evicting_profile(CONTROL, profile)?),
            (BASELINE, Some(baseline)),
        ];
        let all: Vec<(&str, Compression)> = all.into_iter().filter_map(|(name, how)| Some((name, how?))).collect();
        policies.push(all.iter().map(|(name, _)| *name).collect());
        arms.extend(all.into_iter().map(|(_, compression)| arm(compression, profile)));
    }
    let mut kls = measure(&model, &held_out, &arms, common)?.into_iter();
    let of_chosen = tuned.iter_mut().filter_map(|tuned| tuned.candidates.get_mut(tuned.chosen));
    for (profile, policies) in of_chosen.zip(policies) {
        let of_policies: Vec<Vec<f64>> = kls.by_ref().take(policies.len()).collect();
        report(profile, &policies, &of_policies, chosen_on.len(), seed);
        record(profile, args, &hashes);
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

fn arm(compression: Compression, profile: &Profile) -> Arm {
    let budget = Some(profile.target_kept_fraction);
    Arm { policy: compression.name.clone(), budget, role: Role::Profile, control: None, compression }
}

/// Mean KL of every arm on every text, `[arm][text]`; fewer where a budget could not be met.
fn measure(model: &Model, items: &[Item], arms: &[Arm], common: &Common) -> anyhow::Result<Vec<Vec<f64>>> {
    let bar = bar(common, (items.len() * arms.len()) as u64, "rows");
    bar.set_message("validate");
    let rows = eval::measure(model, items, arms, CacheType::F32, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    let of = |arm: usize| rows.iter().filter_map(|text| text[arm].metrics.get("kl").copied()).collect();
    Ok((0..arms.len()).map(of).collect())
}

/// Takes the variant of least mean KL among those measured on every text, the first of equals.
fn choose(tuned: &mut Tuned, variants: &[(usize, Profile)], kls: &[Vec<f64>], seed: u64) {
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
            kl: bootstrap_mean(kls, RESAMPLES, seed).filter(|_| kls.len() == most),
        })
        .collect();
    let known = tried.iter().enumerate().filter_map(|(i, tried)| Some((tried.kl?.estimate, i)));
    let Some((_, best)) = known.min_by(|a, b| a.0.total_cmp(&b.0)) else { return };
    let (place, profile) = &variants[best];
    tuned.chosen = *place;
    tuned.candidates[*place] = Profile { tried, ..profile.clone() };
}

/// What held-out texts say of the chosen profile.
fn report(profile: &mut Profile, policies: &[&str], kls: &[Vec<f64>], n_chosen_on: usize, seed: u64) {
    let lines = policies.iter().zip(kls).filter_map(|(policy, kls)| {
        Some(HeldOutKl { policy: policy.to_string(), kl: bootstrap_mean(kls, RESAMPLES, seed)? })
    });
    profile.held_out_kl = lines.collect();
    if n_chosen_on > 0 {
        profile.verdict +=
            &format!(" Chosen by KL to the full cache on {n_chosen_on} calibration texts: {}.", label(profile));
    }
    let of = |name: &str| policies.iter().position(|policy| *policy == name).map(|i| &kls[i]);
    for other in [CONTROL, BASELINE] {
        let found = of(TUNED).zip(of(other)).and_then(|(a, b)| paired(a, b, RESAMPLES, seed));
        let Some((found, ratio)) = found.and_then(|found| Some((found.clone(), found.ratio?))) else { continue };
        let bounds = match (ratio.low, ratio.high) {
            (Some(low), Some(high)) => format!("{low:.2} to {high:.2}"),
            _ => "no interval from one text".into(),
        };
        let shown = if found.direction().is_none() { ", no difference shown" } else { "" };
        profile.verdict += &format!(
            " On {} held-out texts its mean KL is {:.2} times that of {other} (95 % interval {bounds}{shown}).",
            ratio.n, ratio.estimate
        );
    }
}

fn record(profile: &mut Profile, args: &ValidateArgs, hashes: &[InputHash]) {
    profile.provenance.inputs.extend(hashes.iter().cloned());
    profile.provenance.inputs.sort();
    profile.provenance.inputs.dedup();
    if let Some(options) = profile.provenance.options.as_object_mut() {
        let validate = json!({ "context_tokens": args.context, "continuation_tokens": args.continuation });
        options.insert("validate".into(), validate);
    }
}
