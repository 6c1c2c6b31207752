//! What is worth least is dropped.

use serde::{Deserialize, Serialize};

use crate::merge::{HeadPlan, MergeError, protect};
use crate::policy::fold::Fold;
use crate::policy::part;
use crate::policy::{HeadView, Params, Part, PolicyError};

pub(super) const PART: Part<dyn Fold> = Part {
    name: "drop",
    summary: "the rest is dropped; the first tokens (first=), the newest (last=) and a share of the budget for the newest (recent=) may stay whatever they are worth; with tau=, all that are worth as much stay, whatever the budget",
    source: "Zhang et al. 2023, arXiv 2306.14048",
    build: |params| {
        let fold: Dropping = params.read()?;
        fold.kept.check(params)?;
        if fold.tau.is_some() && fold.kept.recent > 0.0 {
            let what = "tau decides the size, so recent, a share of the budget, would be ignored: leave one out";
            return Err(params.bad(what));
        }
        part(fold, |fold| Box::new(fold))
    },
};

/// What stays: the newest tokens, and of the others those that are worth most.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    /// Share of the budget that goes to the newest tokens.
    recent: f64,
    /// First tokens that stay: attention sinks.
    first: usize,
    /// Newest tokens that stay, at least.
    last: usize,
}

impl Kept {
    pub(super) fn check(self, params: &Params) -> Result<(), PolicyError> {
        if (0.0..=1.0).contains(&self.recent) {
            return Ok(());
        }
        Err(params.bad(format!("recent is a share of the budget in [0, 1], not {}", self.recent)))
    }

    /// Newest tokens that stay whatever they are worth: `last` of them take half of the budget at most, unless their share is more.
    pub(super) fn n_recent(self, budget_tokens: usize) -> usize {
        ((budget_tokens as f64 * self.recent) as usize).max(self.last.min(budget_tokens.div_ceil(2)))
    }

    /// Whether each slot stays, `[T]`. The first tokens take half of what the newest leave at most.
    pub(super) fn marked(self, worth: &[f32], budget_tokens: usize) -> Vec<bool> {
        let n_recent = self.n_recent(budget_tokens);
        let n_other = budget_tokens - n_recent;
        let first = self.first.min(n_other / 2);
        let mut worth = worth.to_vec();
        worth[..first].fill(f32::INFINITY);
        protect(&worth, n_recent, n_other)
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Dropping {
    #[serde(flatten)]
    kept: Kept,
    /// What is worth as much stays, and decides the size: there is no budget.
    tau: Option<f64>,
}

impl Fold for Dropping {
    fn sets_own_size(&self) -> bool {
        self.tau.is_some()
    }

    fn plan(&self, _: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        let Self { kept, tau } = *self;
        let Some(tau) = tau else { return Ok(HeadPlan::keep_marked(&kept.marked(worth, budget_tokens))) };
        // The next query needs the newest token.
        let newest = worth.len() - kept.last.clamp(1, worth.len());
        let stays = |(slot, worth): (usize, &f32)| slot < kept.first || slot >= newest || f64::from(*worth) >= tau;
        Ok(HeadPlan::keep_marked(&worth.iter().enumerate().map(stays).collect::<Vec<bool>>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rows;

    #[test]
    fn recent_half_and_heavy_half_of_an_odd_budget() {
        let view = HeadView::new(Rows::new(&[0.0; 7], 1));
        let worth = [0.1, 3.0, 0.2, 0.9, 0.3, 9.0, 0.1];
        let kept = |recent: f64, first, last| {
            let plan = Dropping { kept: Kept { recent, first, last }, tau: None }.plan(&view, &worth, 5).unwrap();
            plan.slots.iter().map(|slot| slot.pivot).collect::<Vec<_>>()
        };
        // Recent 2: tokens 5 and 6. Heavy 3 of the rest: 1, 3, 4.
        assert_eq!(kept(0.5, 0, 0), [1, 3, 4, 5, 6]);
        assert_eq!(kept(0.0, 0, 0), [1, 2, 3, 4, 5]);
        // One newest token and the first one; of a whole window only 3, half of the budget, and 1 of the first tokens.
        assert_eq!(kept(0.0, 1, 1), [0, 1, 3, 5, 6]);
        assert_eq!(kept(0.5, 3, 100), [0, 1, 4, 5, 6]);
    }

    #[test]
    fn a_threshold_decides_the_size_by_hand() {
        let view = HeadView::new(Rows::new(&[0.0; 6], 1));
        let kept = |first, last, tau| {
            let fold = Dropping { kept: Kept { first, last, recent: 0.0 }, tau: Some(tau) };
            let plan = fold.plan(&view, &[-9.0, -2.5, f32::INFINITY, -2.0, -7.0, -8.0], 1).unwrap();
            plan.slots.iter().map(|slot| slot.pivot).collect::<Vec<_>>()
        };
        assert_eq!(kept(0, 0, -2.5), [1, 2, 3, 5]);
        assert_eq!(kept(1, 2, -2.25), [0, 2, 3, 4, 5]);
        assert_eq!(kept(0, 100, 1e9), [0, 1, 2, 3, 4, 5]);
    }
}
