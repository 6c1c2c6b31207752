//! The tuning run: measure, solve, choose, check.

use rayon::prelude::*;
use serde_json::json;

use crate::dump::Dump;
use crate::dump::DumpError;
use crate::dump::Sample;
use crate::dump::State;
use crate::files::Document;
use crate::files::InputHash;
use crate::files::ModelIdentity;
use crate::files::Provenance;
use crate::math::Interval;
use crate::math::bootstrap_mean;
use crate::merge::HeadStates;
use crate::merge::Kernel;
use crate::merge::MergeError;
use crate::merge::OutputProbe;
use crate::merge::Shares;
use crate::merge::ValueRule;
use crate::policy::HeadView;
use crate::policy::KvMerger;
use crate::policy::Policy;
use crate::profile::CurvePoint;
use crate::profile::HeadProfile;
use crate::profile::MergeRule;
use crate::profile::Profile;
use crate::profile::Quality;
use crate::profile::UsedSample;
use crate::tune::SEARCHES;
use crate::tune::TuneError;
use crate::tune::links::HeadLinks;
use crate::tune::split::split;

/// Resamples of every bootstrap interval.
const RESAMPLES: usize = 2000;
/// A budget counts as met when the calibration mean is at most this far above it.
const BUDGET_TOLERANCE: f64 = 0.005;

/// What to tune.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// Slots to keep per token seen.
    pub budget: f64,
    /// Line of [`SEARCHES`].
    pub search: String,
    /// Protected shares; `None` for the paper's at this budget.
    pub shares: Option<Shares>,
    /// Kernel width and bridging; kernel and variant are chosen.
    pub rule: MergeRule,
    /// Share of each data set's samples that are only measured.
    pub hold_out: f64,
    /// Seed of the split and the intervals.
    pub seed: u64,
}

/// A profile, and whether it keeps to the budget.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The profile.
    pub profile: Profile,
    /// Whether the calibration samples meet the budget.
    pub budget_met: bool,
}

/// A way to turn sets into slots, with its name in tables.
#[derive(Clone, Debug)]
struct Candidate {
    name: String,
    rule: MergeRule,
}

/// Every kernel and value rule that is tried; the last one is plain eviction, the control.
fn candidates(base: MergeRule) -> Vec<Candidate> {
    let name = |rule: ValueRule| json!(rule).as_str().unwrap_or_default().to_string();
    let merged = |kernel: Kernel, prefix: &str| {
        let prefix = prefix.to_string();
        ValueRule::ALL.map(|variant| Candidate {
            name: format!("{prefix}{}", name(variant)),
            rule: MergeRule { kernel, variant, ..base },
        })
    };
    let mut all = Vec::from(merged(Kernel::Gaussian, ""));
    all.extend(merged(Kernel::KeyFixed, "key-fixed "));
    all.push(Candidate {
        name: "evict".into(),
        rule: MergeRule { kernel: Kernel::Pivot, variant: ValueRule::Convex, ..base },
    });
    all
}

/// Chooses thresholds and merge rule for a budget.
///
/// Thresholds come from the calibration samples' neighbour similarities alone; kernel and value rule (or plain eviction)
/// from the attention-output error on the same samples. Held-out samples have no part in any choice.
///
/// - Errors: dumps of different models, missing states or layers, a budget or share out of range
pub fn tune(dumps: &[Dump], options: &TuneOptions, progress: &mut dyn FnMut(usize, usize)) -> Result<Tuned, TuneError> {
    let model = check(dumps, options)?;
    let search = SEARCHES
        .iter()
        .find(|entry| entry.name == options.search)
        .ok_or_else(|| TuneError::UnknownSearch(options.search.clone()))?;
    let shares = options.shares.unwrap_or_else(|| Shares::of_paper(options.budget));
    let samples: Vec<Sample<'_>> = dumps
        .iter()
        .flat_map(|dump| (0..dump.manifest().samples.len()).map(|i| dump.sample(i)))
        .collect::<Result<_, DumpError>>()?;
    if samples.is_empty() {
        return Err(TuneError::NoSamples);
    }
    let names: Vec<&str> = samples.iter().map(|sample| sample.entry().dataset.as_str()).collect();
    let (calibration, held_out) = split(&names, options.hold_out, options.seed);
    let n_steps = 2 * samples.len();

    let mut links: Vec<Vec<HeadLinks>> = Vec::with_capacity(samples.len());
    for (i, sample) in samples.iter().enumerate() {
        links.push(head_links(sample, &model, shares, options.rule.bridge)?);
        progress(i + 1, n_steps);
    }
    let n_heads = model.n_layers * model.n_kv_heads;
    let by_head: Vec<Vec<HeadLinks>> =
        (0..n_heads).map(|head| calibration.iter().map(|s| links[*s][head].clone()).collect()).collect();
    let eps = (search.solve)(&by_head, options.budget);

    let candidates = candidates(options.rule);
    let mut errors: Vec<Vec<f64>> = Vec::with_capacity(samples.len());
    for (i, sample) in samples.iter().enumerate() {
        errors.push(sample_errors(sample, &model, shares, &eps, &candidates)?);
        progress(samples.len() + i + 1, n_steps);
    }
    let of = |split: &[usize], candidate: usize| -> Vec<f64> {
        split.iter().filter_map(|s| errors[*s].get(candidate).copied()).collect()
    };
    let interval = |values: &[f64]| bootstrap_mean(values, RESAMPLES, options.seed);
    let quality: Vec<Quality> = candidates
        .iter()
        .enumerate()
        .filter_map(|(c, candidate)| {
            Some(Quality {
                rule: candidate.name.clone(),
                calibration: interval(&of(&calibration, c))?,
                held_out: interval(&of(&held_out, c)),
            })
        })
        .collect();
    let best =
        (0..quality.len()).min_by(|a, b| quality[*a].calibration.estimate.total_cmp(&quality[*b].calibration.estimate));

    let kept_of =
        |s: usize| links[s].iter().zip(&eps).map(|(head, eps)| head.kept_fraction(*eps)).sum::<f64>() / n_heads as f64;
    let used = |split: &[usize]| -> Vec<UsedSample> {
        split
            .iter()
            .map(|s| {
                let entry = samples[*s].entry();
                UsedSample {
                    dataset: entry.dataset.clone(),
                    id: entry.id.clone(),
                    sha256: entry.sha256.clone(),
                    kept_fraction: kept_of(*s),
                }
            })
            .collect()
    };
    let kept = |split: &[usize]| interval(&split.iter().map(|s| kept_of(*s)).collect::<Vec<_>>());
    let calibration_kept = kept(&calibration).ok_or(TuneError::NoSamples)?;
    let budget_met = calibration_kept.estimate <= options.budget + BUDGET_TOLERANCE;
    let last = candidates.len() - 1;
    // Compared on samples that the choice has not seen, or, without any, on those that it has.
    let judged_on = if held_out.is_empty() { &calibration } else { &held_out };
    let gain = best.and_then(|best| {
        let pairs = of(judged_on, best).into_iter().zip(of(judged_on, last));
        interval(&pairs.map(|(merged, evicted)| merged - evicted).collect::<Vec<_>>())
    });
    let profile = Profile {
        schema: Profile::schema_id(),
        provenance: provenance(dumps, options),
        policy: "kvmerger".into(),
        rule: candidates[best.unwrap_or(last)].rule,
        shares,
        target_kept_fraction: options.budget,
        calibration_kept_fraction: calibration_kept,
        held_out_kept_fraction: kept(&held_out),
        verdict: verdict(best.map(|b| &quality[b]), quality.last(), gain, budget_met, options, !held_out.is_empty()),
        quality,
        calibration: used(&calibration),
        held_out: used(&held_out),
        heads: head_profiles(&model, &by_head, &eps),
        model,
    };
    Ok(Tuned { profile, budget_met })
}

fn check(dumps: &[Dump], options: &TuneOptions) -> Result<ModelIdentity, TuneError> {
    if !(options.budget > 0.0 && options.budget < 1.0) {
        return Err(TuneError::BadBudget(options.budget));
    }
    if !(0.0..1.0).contains(&options.hold_out) {
        return Err(TuneError::BadHoldOut(options.hold_out));
    }
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
    Ok(first.model.clone())
}

/// Runs `work` for every head of a sample, by layer and head.
fn for_heads<T: Send>(
    model: &ModelIdentity,
    work: impl Fn(usize, usize) -> Result<T, DumpError> + Sync,
) -> Result<Vec<T>, DumpError> {
    (0..model.n_layers * model.n_kv_heads)
        .into_par_iter()
        .map(|head| work(head / model.n_kv_heads, head % model.n_kv_heads))
        .collect()
}

fn head_links(
    sample: &Sample<'_>,
    model: &ModelIdentity,
    shares: Shares,
    bridge: bool,
) -> Result<Vec<HeadLinks>, DumpError> {
    for_heads(model, |layer, head| {
        let keys = sample.vectors(layer, State::K, head)?;
        Ok(HeadLinks::new(&keys, model.head_dim, &sample.mass(layer, head)?, shares, bridge))
    })
}

/// Mean over heads of every candidate's attention-output error; empty when the sample keeps no query late enough.
fn sample_errors(
    sample: &Sample<'_>,
    model: &ModelIdentity,
    shares: Shares,
    eps: &[f32],
    candidates: &[Candidate],
) -> Result<Vec<f64>, DumpError> {
    let n_tokens = sample.entry().n_tokens;
    let first_query = n_tokens - shares.counts(n_tokens).0;
    let heads = for_heads(model, |layer, head| {
        let keys = sample.vectors(layer, State::K, head)?;
        let values = sample.vectors(layer, State::V, head)?;
        let mass = sample.mass(layer, head)?;
        let query_positions = sample.query_positions(layer)?;
        let queries = (0..model.group())
            .map(|g| sample.vectors(layer, State::Q, head * model.group() + g))
            .collect::<Result<Vec<_>, _>>()?;
        let states = HeadStates {
            head_dim: model.head_dim,
            keys: &keys,
            values: &values,
            queries: &queries,
            query_positions: &query_positions,
        };
        let view = HeadView {
            layer,
            kv_head: head,
            n_kv_heads: model.n_kv_heads,
            head_dim: model.head_dim,
            n_seen: n_tokens,
            keys: &keys,
            mass: &mass,
            mass_window: &[],
            counts: None,
            logit_bias: None,
        };
        let Some(probe) = OutputProbe::new(states, first_query) else { return Ok(None) };
        let eps = eps[layer * model.n_kv_heads + head];
        let errors: Result<Vec<f64>, MergeError> = candidates
            .iter()
            .map(|candidate| {
                let plan = KvMerger::with_eps(candidate.rule, shares, eps).plan(&view, n_tokens)?;
                Ok(probe.error(&plan))
            })
            .collect();
        // A fixed threshold has no budget to miss, so planning cannot fail.
        Ok(errors.ok())
    })?;
    let measured: Vec<&Vec<f64>> = heads.iter().flatten().collect();
    if measured.is_empty() {
        return Ok(Vec::new());
    }
    let mean = |c: usize| measured.iter().map(|head| head[c]).sum::<f64>() / measured.len() as f64;
    Ok((0..candidates.len()).map(mean).collect())
}

fn head_profiles(model: &ModelIdentity, by_head: &[Vec<HeadLinks>], eps: &[f32]) -> Vec<HeadProfile> {
    let mean = |samples: &[HeadLinks], eps: f32| {
        samples.iter().map(|sample| sample.kept_fraction(eps)).sum::<f64>() / samples.len() as f64
    };
    by_head
        .iter()
        .zip(eps)
        .enumerate()
        .map(|(i, (samples, eps))| HeadProfile {
            layer: i / model.n_kv_heads,
            kv_head: i % model.n_kv_heads,
            eps: *eps,
            kept_fraction: mean(samples, *eps),
            curve: (-10..=20)
                .map(|step| {
                    let eps = step as f32 / 20.0;
                    CurvePoint { eps, kept_fraction: mean(samples, eps) }
                })
                .collect(),
        })
        .collect()
}

fn provenance(dumps: &[Dump], options: &TuneOptions) -> Provenance {
    let mut inputs: Vec<InputHash> = dumps
        .iter()
        .flat_map(|dump| &dump.manifest().samples)
        .map(|sample| InputHash { name: sample.file.clone(), sha256: sample.sha256.clone() })
        .collect();
    inputs.sort();
    let settings = json!({
        "budget": options.budget,
        "search": options.search,
        "hold_out": options.hold_out,
        "sigma": options.rule.sigma,
        "bridge": options.rule.bridge,
    });
    Provenance::new("tune", options.seed, settings, inputs)
}

/// The outcome in words, with its numbers.
fn verdict(
    best: Option<&Quality>,
    evict: Option<&Quality>,
    gain: Option<Interval>,
    budget_met: bool,
    options: &TuneOptions,
    held_out: bool,
) -> String {
    let mut words = String::new();
    if !budget_met {
        words.push_str(&format!(
            "No threshold reaches {:.1} % kept: protected tokens cut the chains of neighbours. ",
            100.0 * options.budget
        ));
    }
    let (Some(best), Some(evict), Some(gain)) = (best, evict, gain) else {
        return words
            + "The dumps keep no query among the recent tokens, so quality was not measured and pivots are kept unmerged.";
    };
    let place = if held_out { "held-out" } else { "calibration (no sample was held out)" };
    if best.rule == "evict" {
        return words
            + "Merging does not help: keeping each set's pivot and dropping the rest has the smallest attention-output error.";
    }
    let error = |quality: &Quality| 100.0 * quality.held_out.unwrap_or(quality.calibration).estimate;
    let points = |x: f64| format!("{:+.2}", 100.0 * x);
    let range = match (gain.low, gain.high) {
        (Some(low), Some(high)) => format!("{} to {}", points(low), points(high)),
        _ => "unknown from one sample".into(),
    };
    let conclusion = match (gain.low, gain.high) {
        (_, Some(high)) if high < 0.0 => "merging beats evicting the same tokens",
        (Some(low), _) if low > 0.0 => "evicting the same tokens is better",
        _ => "these samples cannot tell merging from evicting the same tokens",
    };
    words
        + &format!(
            "On {} {place} samples {conclusion}: attention-output error {:.1} % with {} against {:.1} % with evict \
             (difference {} points, 95 % interval {range}).",
            gain.n,
            error(best),
            best.rule,
            error(evict),
            points(gain.estimate),
        )
}
