//! A line of the policy table.

use crate::policy::score::LEARNED;
use crate::policy::{Params, PolicyError};

/// What a policy is to a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The full cache.
    Reference,
    /// Published; a baseline.
    Published,
    /// The method that this tool is about; as published with [`PolicyEntry::published`] only.
    Paper,
    /// Drops what another one folds.
    Control,
    /// Chance.
    Chance,
}

/// A line of the policy table.
#[derive(Clone, Copy, Debug)]
pub struct PolicyEntry {
    /// Name on the command line.
    pub name: &'static str,
    /// What it keeps, in one line.
    pub summary: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// What it is to a comparison.
    pub standing: Standing,
    /// Line of [`crate::policy::SCORES`].
    pub score: &'static str,
    /// Line of [`crate::policy::ALLOCATIONS`].
    pub allocation: &'static str,
    /// Line of [`crate::policy::FOLDS`].
    pub fold: &'static str,
    /// Parameters of the parts that differ from their own defaults, as typed.
    pub with: &'static str,
    /// Parameters that differ in the published method from the defaults here, as typed.
    pub published: &'static str,
    /// What each word behind `base=` stands for; empty where there is no such parameter.
    pub bases: &'static [(&'static str, &'static str)],
    /// By score, the policy that drops what this one folds.
    pub evicting: &'static [(&'static str, &'static str)],
}

impl PolicyEntry {
    /// Whether it predicts by weights that were learned for a model, so that its name alone is no policy: `NAME:weights=FILE`.
    pub fn needs_weights(&self) -> bool {
        self.score == LEARNED
    }

    /// Puts what a word behind `base=` stands for in its place.
    pub(super) fn resolve_base(&self, params: &mut Params) -> Result<(), PolicyError> {
        if self.bases.is_empty() {
            return Ok(());
        }
        let Some(word) = params.take_word("base")? else { return Ok(()) };
        match self.bases.iter().find(|(base, _)| *base == word) {
            Some((_, meaning)) => params.or(&Params::parse(self.name, meaning)?),
            None => {
                let known: Vec<&str> = self.bases.iter().map(|(base, _)| *base).collect();
                return Err(params.bad(format!("there is no base {word:?}: choose one of {}", known.join(", "))));
            }
        }
        Ok(())
    }
}
