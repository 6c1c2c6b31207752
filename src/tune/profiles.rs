//! From solutions and measurements to profiles.

use serde_json::json;

use crate::files::{Document, ModelIdentity, Provenance};
use crate::format::dump::{Dump, SampleEntry, sample_hashes};
use crate::format::profile::{CONTROL, CurvePoint, HeadProfile, Profile, Quality, TUNED, Tried, UsedSample};
use crate::math::{Interval, Paired, Resamples, bootstrap_mean, paired};
use crate::merge::Refit;
use crate::tune::cost::{Checked, EpsMeans};
use crate::tune::curves::{Choice, Curves, UNITS};
use crate::tune::solve::Solution;
use crate::tune::trial::{ByTrial, TrialKey};
use crate::tune::words;
use crate::tune::{HeadLosses, TuneOptions, Tuned};

/// What all profiles of a run stand on.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub dumps: &'a [Dump],
    pub options: &'a TuneOptions,
    pub model: &'a ModelIdentity,
    /// The refit of every budget.
    pub refits: Vec<Option<Refit>>,
    /// Lines of all samples.
    pub entries: Vec<&'a SampleEntry>,
    /// What each head's costs were multiplied by; `None` where no loss was measured.
    pub loss_weights: Option<Vec<f64>>,
    /// Indices of the samples that choices were made on.
    pub calibration: Vec<usize>,
    /// The others.
    pub held_out: Vec<usize>,
    /// Of all samples: every solution and its control, and every setting at equal sizes.
    pub checked: Vec<ByTrial<Checked>>,
    /// Sizes x settings on the calibration samples.
    pub eps_of_grid: EpsMeans,
    /// What was checked, on the calibration samples.
    pub eps_of_checks: EpsMeans,
    /// Whether each setting folds anything.
    pub merging: Vec<bool>,
}

impl Evidence<'_> {
    /// The profiles of every budget.
    pub fn profiles(&self, curves: &Curves, solved: &[Vec<Solution>]) -> Vec<Tuned> {
        let budgets = self.options.budgets.iter().zip(solved).enumerate();
        budgets
            .map(|(place, (budget, solutions))| Tuned {
                budget: *budget,
                candidates: (0..solutions.len()).map(|which| self.profile(place, curves, solutions, which)).collect(),
                chosen: chosen(solutions),
            })
            .collect()
    }

    fn profile(&self, budget: usize, curves: &Curves, solutions: &[Solution], which: usize) -> Profile {
        let Self { options, model, .. } = self;
        let solution = &solutions[which];
        let (tuned, control) =
            (TrialKey::Tuned { budget, solution: which }, TrialKey::Control { budget, solution: which });
        let merges = solution.choices.iter().any(|choice| self.merging[choice.setting]);
        let equal = |(i, setting): (usize, &String)| (setting.clone(), TrialKey::Equal { budget, setting: i });
        let rules = std::iter::once((TUNED.to_string(), tuned))
            .chain(merges.then(|| (CONTROL.to_string(), control)))
            .chain(options.settings.iter().enumerate().map(equal));
        let quality: Vec<Quality> = rules
            .filter_map(|(rule, trial)| {
                let held_out = self.interval(&self.errors(&self.held_out, trial)?);
                Some(Quality { rule, calibration: self.interval(&self.errors(&self.calibration, trial)?)?, held_out })
            })
            .collect();
        let kept =
            |samples: &[usize]| -> Vec<f64> { samples.iter().filter_map(|s| self.kept_fraction(*s, tuned)).collect() };
        let judged_on = if self.held_out.is_empty() { &self.calibration } else { &self.held_out };
        let against_control = merges.then(|| self.compare(judged_on, tuned, control)).flatten();
        let mut profile = Profile {
            schema: Profile::schema_id(),
            provenance: self.provenance(),
            model: (*model).clone(),
            chat_template: chat_template(self.dumps),
            settings: options.settings.clone(),
            beside: options.beside.clone(),
            refit: self.refits[budget],
            measure: options.measure.name().into(),
            search: solution.entry.name.into(),
            min_share: options.min_share,
            tried: tried(solutions, options.refit.is_some()),
            target_kept_fraction: options.budgets[budget],
            budget_unit: options.unit.name().into(),
            calibration_kept_fraction: self
                .interval(&kept(&self.calibration))
                .unwrap_or_else(|| point(mean_share(&solution.choices))),
            held_out_kept_fraction: self.interval(&kept(&self.held_out)),
            quality,
            held_out_kl: Vec::new(),
            verdict: String::new(),
            calibration: self.used(&self.calibration, tuned),
            held_out: self.used(&self.held_out, tuned),
            heads: self.heads(curves, solution, tuned),
        };
        profile.verdict = words::verdict(&profile, against_control.as_ref());
        profile
    }

    fn resamples(&self) -> Resamples {
        Resamples::of_means(self.options.seed)
    }

    fn interval(&self, values: &[f64]) -> Option<Interval> {
        bootstrap_mean(values, self.resamples())
    }

    /// Errors of a trial on samples; `None` when one of them has none.
    fn errors(&self, samples: &[usize], trial: TrialKey) -> Option<Vec<f64>> {
        samples.iter().map(|s| self.checked[*s].get(trial)?.error).collect()
    }

    fn kept_fraction(&self, sample: usize, trial: TrialKey) -> Option<f64> {
        self.checked[sample].get(trial).map(|checked| checked.kept)
    }

    /// Errors of one trial beside another's.
    fn compare(&self, samples: &[usize], a: TrialKey, b: TrialKey) -> Option<Paired> {
        paired(&self.errors(samples, a)?, &self.errors(samples, b)?, self.resamples())
    }

    fn used(&self, samples: &[usize], trial: TrialKey) -> Vec<UsedSample> {
        samples.iter().map(|s| UsedSample::of(self.entries[*s], self.kept_fraction(*s, trial))).collect()
    }

    fn heads(&self, curves: &Curves, solution: &Solution, trial: TrialKey) -> Vec<HeadProfile> {
        let choices = solution.choices.iter().enumerate();
        choices
            .map(|(head, choice)| HeadProfile {
                layer: head / self.model.n_kv_heads,
                kv_head: head % self.model.n_kv_heads,
                setting: choice.setting,
                loss_weight: self.loss_weights.as_ref().and_then(|weights| weights.get(head)).copied(),
                kept_fraction: choice.share(),
                eps: self.eps_of_checks.mean(head, trial),
                curve: curves
                    .sizes
                    .iter()
                    .enumerate()
                    .map(|(i, size)| CurvePoint {
                        kept_fraction: *size as f64 / UNITS as f64,
                        errors: curves.costs[head][i].iter().map(|cost| cost.map(|cost| cost as f32)).collect(),
                        eps: self.eps_of_grid.mean(head, TrialKey::Grid { size: i, setting: choice.setting }),
                        utility_fraction: curves.utility[i].as_ref().map(|shares| shares[head]),
                    })
                    .collect(),
            })
            .collect()
    }

    fn provenance(&self) -> Provenance {
        let TuneOptions { budgets, unit, search, hold_out, n_late, losses, ridges, .. } = self.options;
        let probed = losses
            .as_ref()
            .map(|HeadLosses { share, n_texts, .. }| json!({ "kept_fraction": share, "texts": n_texts }));
        let values = if self.options.projections.is_some() { "projected" } else { "stored" };
        let settings = json!({ "budgets": budgets, "budget_unit": unit.name(), "search": search, "hold_out": hold_out, "late_tokens": n_late, "losses": probed, "values": values, "ridges": ridges });
        Provenance::new("tune", self.options.seed, settings, sample_hashes(self.dumps))
    }
}

/// Whether the prompts of dumps stand in the model's chat format; `None` where one of them did not record it, or they differ.
pub fn chat_template(dumps: &[Dump]) -> Option<bool> {
    let mut recorded = dumps.iter().map(|dump| dump.manifest().chat_template());
    recorded.next().flatten().filter(|first| recorded.all(|other| other == Some(*first)))
}

/// Slots per token of a solution, over all heads.
pub(super) fn mean_share(choices: &[Choice]) -> f64 {
    choices.iter().map(|choice| choice.units).sum::<usize>() as f64 / (UNITS * choices.len()) as f64
}

/// A number without an interval.
pub(super) fn point(estimate: f64) -> Interval {
    Interval { estimate, low: None, high: None, n: 0 }
}

/// The searches of a budget, as a profile lists them.
pub(super) fn tried(solutions: &[Solution], refitted: bool) -> Vec<Tried> {
    let line = |solution: &Solution| Tried {
        search: solution.entry.name.into(),
        refitted,
        evicting: false,
        cross_validated: solution.cross_validated,
        kl: None,
    };
    solutions.iter().map(line).collect()
}

/// The search that does best on samples that it has not seen, the plainest of equals, and the plainest without such.
pub(super) fn chosen(solutions: &[Solution]) -> usize {
    let known = solutions.iter().enumerate().filter_map(|(i, solution)| Some((solution.cross_validated?, i)));
    known.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, i)| i)
}
