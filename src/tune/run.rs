//! The tuning run: measure, choose, check.

use std::collections::BTreeSet;

use crate::files::ModelIdentity;
use crate::format::dump::Dump;
use crate::format::dump::DumpError;
use crate::format::dump::Sample;
use crate::format::dump::SampleEntry;
use crate::format::profile::Profile;
use crate::merge::Refit;
use crate::policy;
use crate::policy::Policy;
use crate::policy::Scope;
use crate::tune::Measure;
use crate::tune::SEARCHES;
use crate::tune::TuneError;
use crate::tune::cost::Checked;
use crate::tune::cost::CostSums;
use crate::tune::cost::EpsMeans;
use crate::tune::cost::curves;
use crate::tune::curves::Choice;
use crate::tune::curves::Curves;
use crate::tune::curves::UNITS;
use crate::tune::measure::Trial;
use crate::tune::measure::measure;
use crate::tune::measure::prompt_end;
use crate::tune::profiles::Evidence;
use crate::tune::search::SearchEntry;
use crate::tune::search::Target;
use crate::tune::split::split;
use crate::tune::unit::BudgetUnit;
use crate::tune::unit::Weights;

/// Policies that heads choose among unless others are named. Of the merges those that bridge, so that protected tokens do
/// not cut chains: others cannot reach small sizes.
pub const DEFAULT_SETTINGS: &[&str] = &[
    "h2o",
    "h2o:recent=0.25",
    "h2o:recent=0.1",
    "evict:bridge=true",
    "kvmerger:bridge=true",
    "kvmerger:bridge=true,variant=convex",
    "kvmerger:bridge=true,variant=log-count",
    "kvmerger:bridge=true,variant=mass,kernel=key-fixed",
    "kvmerger:bridge=true,variant=convex,recent=0.08,heavy=0.16",
    "kvmerger:bridge=true,variant=log-count,recent=0.08,heavy=0.16",
    "evict:bridge=true,recent=0.08,heavy=0.16",
];

/// Sizes at which heads are measured, beside the budgets.
const SIZES: [f64; 8] = [0.06, 0.12, 0.18, 0.25, 0.35, 0.5, 0.65, 0.8];
/// Calibration samples from which on searches can be compared by cross-validation.
const FEWEST_TO_VALIDATE: usize = 4;

/// What to tune.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// Share of a full cache to keep, for each profile.
    pub budgets: Vec<f64>,
    /// What budgets are a share of.
    pub unit: BudgetUnit,
    /// Policies that heads choose among, as typed.
    pub settings: Vec<String>,
    /// Line of [`SEARCHES`]; `None` for the one that does best in cross-validation.
    pub search: Option<String>,
    /// What is minimised.
    pub measure: Measure,
    /// Least size of a head over the budget.
    pub min_share: f64,
    /// Last tokens of a sample that stand for the text to come; `None` for what the dump allows.
    pub n_late: Option<usize>,
    /// Refit that the profile asks for; it has no part in the choice.
    pub refit: Option<Refit>,
    /// Share of each data set's samples that are only measured.
    pub hold_out: f64,
    /// Seed of the split and the intervals.
    pub seed: u64,
}

impl Default for TuneOptions {
    fn default() -> Self {
        Self {
            budgets: vec![0.5],
            unit: BudgetUnit::default(),
            settings: DEFAULT_SETTINGS.iter().map(|setting| setting.to_string()).collect(),
            search: None,
            measure: Measure::default(),
            min_share: 0.25,
            n_late: None,
            refit: None,
            hold_out: 0.34,
            seed: 0,
        }
    }
}

/// What came of one budget.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The budget.
    pub budget: f64,
    /// One profile for each search that meets it, in the order of [`SEARCHES`]; none when no setting does.
    pub candidates: Vec<Profile>,
    /// The chosen one's place.
    pub chosen: usize,
}

impl Tuned {
    /// The chosen profile; `None` when no setting meets the budget.
    pub fn profile(&self) -> Option<&Profile> {
        self.candidates.get(self.chosen)
    }
}

/// Where a sample is. Opened when it is read, so that a run of many has few files open.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    dump: &'a Dump,
    index: usize,
}

impl<'a> Place<'a> {
    fn open(&self) -> Result<Sample<'a>, DumpError> {
        self.dump.sample(self.index)
    }

    fn entry(&self) -> &'a SampleEntry {
        &self.dump.manifest().samples[self.index]
    }
}

/// A search's solution.
#[derive(Clone, Debug)]
pub(super) struct Solution {
    pub entry: &'static SearchEntry,
    pub choices: Vec<Choice>,
    /// See [`crate::format::profile::Tried`].
    pub cross_validated: Option<f64>,
}

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
    let samples: Vec<Place<'_>> = dumps
        .iter()
        .flat_map(|dump| (0..dump.manifest().samples.len()).map(move |index| Place { dump, index }))
        .collect();
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
    let names: Vec<&str> = samples.iter().map(|place| place.entry().dataset.as_str()).collect();
    let (calibration, held_out) = split(&names, options.hold_out, options.seed);
    let n_steps = calibration.len() + samples.len();

    let sizes = sizes(&options.budgets);
    let grid: Vec<Trial<'_>> = sizes
        .iter()
        .flat_map(|size| settings.iter().map(move |policy| (policy.as_ref(), *size as f64 / UNITS as f64)))
        .collect();
    // Every other sample, so that a search can be solved on one half and paid for on the other.
    let mut halves = [(); 2].map(|()| CostSums::new(options.measure, model.n_kv_heads));
    let mut eps_of_grid = EpsMeans::default();
    for (done, at) in calibration.iter().enumerate() {
        let sample = samples[*at].open()?;
        let measured = sample.verified(|| measure(samples[*at].dump, &sample, ends[*at], &|_| grid.clone()))?;
        halves[done % 2].add(&measured);
        eps_of_grid.add(&measured);
        progress(done + 1, n_steps);
    }
    let curves_of = |parts: &[&CostSums]| curves(parts, &sizes, settings.len());
    let whole = curves_of(&halves.each_ref());
    let folds = (calibration.len() >= FEWEST_TO_VALIDATE).then(|| halves.each_ref().map(|half| curves_of(&[half])));
    let searches: Vec<&SearchEntry> =
        SEARCHES.iter().filter(|entry| options.search.as_ref().is_none_or(|name| entry.name == name)).collect();
    let weights = options.unit.weights(&model, &settings, options.refit);
    let solved: Vec<Vec<Solution>> = options
        .budgets
        .iter()
        .map(|budget| {
            let target = target(*budget, options.min_share);
            solutions(&searches, &whole, folds.as_ref(), target, &weights)
        })
        .collect();

    // What was chosen, its controls, and every setting at equal sizes, on all samples.
    let controls: Vec<Option<Box<dyn Policy>>> = settings
        .iter()
        .map(|policy| policy.control().map(|control| Ok(policy::parse(control)?.1)).transpose())
        .collect::<Result<_, TuneError>>()?;
    let checks = |head: usize| -> Vec<Trial<'_>> {
        let mut trials = Vec::new();
        for (budget, solutions) in options.budgets.iter().zip(&solved) {
            for solution in solutions {
                let choice = solution.choices[head];
                let policy = settings[choice.setting].as_ref();
                let control = controls[choice.setting].as_ref().map_or(policy, AsRef::as_ref);
                trials.extend([(policy, choice.share()), (control, choice.share())]);
            }
            trials.extend(settings.iter().map(|policy| (policy.as_ref(), *budget)));
        }
        trials
    };
    let mut checked: Vec<Checked> = Vec::with_capacity(samples.len());
    let mut eps_of_checks = EpsMeans::default();
    for (i, place) in samples.iter().enumerate() {
        let sample = place.open()?;
        let work = || measure(place.dump, &sample, ends[i], &checks);
        let measured = if calibration.contains(&i) {
            // Verified above.
            let measured = work()?;
            eps_of_checks.add(&measured);
            measured
        } else {
            sample.verified(work)?
        };
        checked.push(Checked::of(measured, model.n_kv_heads));
        progress(calibration.len() + i + 1, n_steps);
    }
    let entries = samples.iter().map(Place::entry).collect();
    let merging = controls.iter().map(Option::is_some).collect();
    let evidence = Evidence {
        dumps,
        options,
        model: &model,
        entries,
        calibration,
        held_out,
        checked,
        eps_of_grid,
        eps_of_checks,
        merging,
    };
    Ok(evidence.profiles(&whole, &solved))
}

/// The target of a budget.
pub(super) fn target(budget: f64, min_share: f64) -> Target {
    let units = (budget * UNITS as f64).round() as usize;
    Target { units, min_units: ((units as f64 * min_share) as usize).max(1) }
}

/// What every search makes of the curves, those that meet the target.
///
/// With two halves of the samples, each search is solved on one and paid for on the other.
pub(super) fn solutions(
    searches: &[&'static SearchEntry],
    whole: &Curves,
    folds: Option<&[Curves; 2]>,
    target: Target,
    weights: &Weights,
) -> Vec<Solution> {
    let crossed = |entry: &SearchEntry| -> Option<f64> {
        let [a, b] = folds?;
        Some(b.total(&within(entry, a, target, weights)?)? + a.total(&within(entry, b, target, weights)?)?)
    };
    let plainest = SEARCHES.first().and_then(&crossed).filter(|cost| *cost > 0.0);
    searches
        .iter()
        .filter_map(|entry| {
            let choices = within(entry, whole, target, weights)?;
            let cross_validated = crossed(entry).zip(plainest).map(|(cost, plainest)| cost / plainest);
            Some(Solution { entry, choices, cross_validated })
        })
        .collect()
}

/// The search's solution at the target, or at the largest size below it that it finds whose slots weigh no more than the
/// target's share of a full cache.
fn within(entry: &SearchEntry, curves: &Curves, mut target: Target, weights: &Weights) -> Option<Vec<Choice>> {
    let most = target.units * curves.n_heads() * weights.full;
    let heaviest = weights.slots.iter().copied().max()?;
    while target.units > 0 {
        let choices = (entry.solve)(curves, target)?;
        let weight: usize = choices.iter().map(|choice| choice.units * weights.slots[choice.setting]).sum();
        if weight <= most {
            return Some(choices);
        }
        // Not less than what would do if all heads had the heaviest slots.
        target.units -= ((weight - most) / (curves.n_heads() * heaviest)).max(1).min(target.units);
    }
    None
}

fn sizes(budgets: &[f64]) -> Vec<usize> {
    let all = SIZES.iter().chain(budgets).map(|share| (share * UNITS as f64).round() as usize);
    let all: BTreeSet<usize> = all.filter(|units| (1..UNITS).contains(units)).collect();
    all.into_iter().collect()
}

pub(super) fn parse_settings(settings: &[String]) -> Result<Vec<Box<dyn Policy>>, TuneError> {
    settings.iter().map(|setting| parse_setting(setting)).collect()
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
    Ok(first.model.clone())
}

pub(super) fn check_options(options: &TuneOptions) -> Result<(), TuneError> {
    if let Some(budget) = options.budgets.iter().find(|budget| !(**budget > 0.0 && **budget < 1.0)) {
        return Err(TuneError::BadBudget(*budget));
    }
    for (name, value) in [("the share of held-out samples", options.hold_out), ("the least share", options.min_share)] {
        if !(0.0..1.0).contains(&value) {
            return Err(TuneError::BadShare { name, value });
        }
    }
    match &options.search {
        Some(name) if SEARCHES.iter().all(|entry| entry.name != name) => Err(TuneError::UnknownSearch(name.clone())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavier_slots_leave_room_for_fewer_by_hand() {
        // Two heads; setting 1 costs less in both and its slots weigh 26 instead of 25.
        let head = vec![vec![Some(9.0), Some(8.0)], vec![Some(2.0), Some(1.0)]];
        let curves = Curves { sizes: vec![2000, 6000], costs: vec![head.clone(), head] };
        let target = Target { units: 5000, min_units: 1000 };
        let units = |weights: Weights| -> Vec<(usize, usize)> {
            let choices = within(&SEARCHES[0], &curves, target, &weights).unwrap();
            choices.iter().map(|choice| (choice.setting, choice.units)).collect()
        };
        assert_eq!(units(Weights { full: 1, slots: vec![1, 1] }), [(1, 5000); 2]);
        // 2 · 5,000 · 25 = 250,000: 4,807 slots of 26 are 249,964, and 4,808 would be 250,016.
        assert_eq!(units(Weights { full: 25, slots: vec![25, 26] }), [(1, 4807); 2]);
        assert!(within(&SEARCHES[0], &curves, target, &Weights { full: 1, slots: vec![9, 9] }).is_none());
    }
}
