//! What to tune, and what comes of it.

use std::sync::Arc;

use crate::format::profile::Profile;
use crate::math::Projections;
use crate::merge::Refit;
use crate::tune::unit::BudgetUnit;
use crate::tune::{HeadLosses, Measure, SEARCHES, TuneError};

/// Policies that heads choose among unless others are named: two ways to keep tokens, and a merge of the first one's. The merge
/// bridges, so that protected tokens do not cut chains: others cannot reach small sizes.
pub const DEFAULT_SETTINGS: &[&str] = &["restkv", "h2o:first=4,last=32", "kvmerger:score=leave-one-out,bridge=true"];

/// What a profile has beside its settings where a model judges it and nothing else is named: a quarter of every head's slots for
/// what the end of the prompt attends to.
pub const BESIDE: &str = "window,share=0.25";

/// Ridges that a refit may have where none is named.
pub const RIDGES: [f32; 3] = [0.01, 0.03, 0.1];

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
    /// What the model loses by single heads, where it was run: by this they count.
    pub losses: Option<HeadLosses>,
    /// The model's output projections, where it is at hand: some settings look at them.
    pub projections: Option<Arc<Projections>>,
    /// Least size of a head over the budget.
    pub min_share: f64,
    /// Last tokens of a sample that stand for the text to come; `None` for what the dump allows.
    pub n_late: Option<usize>,
    /// What every profile has beside its settings' scores, as typed behind `beside=`; it is run with them and not measured here.
    pub beside: Option<String>,
    /// Refit of what stays, with which everything is measured.
    pub refit: Option<Refit>,
    /// Ridges of which every budget's refit gets the one that errs least; none for the refit's own.
    pub ridges: Vec<f32>,
    /// Share of each data set's samples that are only measured.
    pub hold_out: f64,
    /// Seed of the split and the intervals.
    pub seed: u64,
}

impl TuneOptions {
    /// The refits that a budget may get, one for each of the ridges; none where there is nothing to choose.
    pub(super) fn refits(&self) -> Vec<Refit> {
        let of = |refit: Refit| self.ridges.iter().map(move |lambda| Refit { lambda: *lambda, ..refit });
        self.refit.into_iter().flat_map(of).collect()
    }
}

impl Default for TuneOptions {
    fn default() -> Self {
        Self {
            budgets: vec![0.5],
            unit: BudgetUnit::default(),
            settings: DEFAULT_SETTINGS.iter().map(|setting| setting.to_string()).collect(),
            search: None,
            measure: Measure::default(),
            losses: None,
            projections: None,
            min_share: 0.1,
            n_late: None,
            beside: None,
            refit: Some(Refit::default()),
            ridges: Vec::new(),
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
