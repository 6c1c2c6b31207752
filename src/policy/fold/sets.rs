//! KVMerger: protected tokens stay, runs of similar neighbours become one slot each.

use serde::{Deserialize, Serialize};

use crate::merge::{HeadPlan, MergeError, MergeRule, Merging, Protection};
use crate::policy::fold::Fold;
use crate::policy::part::joined;
use crate::policy::{HeadView, Needs, Params, Part, PolicyError, SlotExtras};

pub(super) const PART: Part<dyn Fold> = Part {
    name: "sets",
    summary: "runs of similar neighbours become one slot (variant=, kernel=, sigma=; eps=, bridge=, recent=, heavy=)",
    source: "Wang, Jin, Yu, Zhang 2024, arXiv 2407.08454",
    build: |params| {
        let (rule, (division, fields)) = (params.read::<MergeRule>()?, Division::read(params)?);
        Ok((Box::new(Sets { rule, division }), joined(fields, rule)))
    },
};

/// What decides which slots there are. What is `None` is the paper's: no threshold of its own, and its shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Division {
    /// Similarity above which all neighbours join; without it the budget decides.
    eps: Option<f32>,
    /// Shares of the tokens seen that are protected.
    recent: Option<f64>,
    heavy: Option<f64>,
    /// Whether runs go on across protected tokens.
    bridge: bool,
}

impl Division {
    /// Reads and checks the parameters; gives them as artifacts record them, too.
    pub(super) fn read(params: &mut Params) -> Result<(Self, serde_json::Value), PolicyError> {
        let division: Self = params.read()?;
        if let Some(eps) = division.eps.filter(|eps| !(-1.0..=1.0).contains(eps)) {
            return Err(params.bad(format!("eps is a cosine in [-1, 1], not {eps}")));
        }
        let (recent, heavy) = (division.recent.unwrap_or(0.0), division.heavy.unwrap_or(0.0));
        if !(recent >= 0.0 && heavy >= 0.0 && recent + heavy <= 1.0) {
            let what = format!("recent = {recent} and heavy = {heavy} are shares of the tokens and sum to at most 1");
            return Err(params.bad(what));
        }
        let mut fields = serde_json::json!(division);
        // As typed: the shortest decimal that reads back as this f32.
        fields["eps"] = serde_json::json!(division.eps.and_then(|eps| eps.to_string().parse::<f64>().ok()));
        Ok((division, fields))
    }

    pub(super) fn sets_own_size(&self) -> bool {
        self.eps.is_some()
    }

    /// The head's plan, sets folded by `rule`.
    pub(super) fn plan(
        &self,
        view: &HeadView<'_>,
        worth: &[f32],
        budget_tokens: usize,
        rule: &MergeRule,
    ) -> Result<HeadPlan, MergeError> {
        Ok(self.merging(view, worth, budget_tokens)?.plan(view.slots(), worth, rule))
    }

    /// The head, divided.
    pub(super) fn merging(
        &self,
        view: &HeadView<'_>,
        worth: &[f32],
        budget_tokens: usize,
    ) -> Result<Merging, MergeError> {
        let protection = Protection { recent: self.recent, heavy: self.heavy, bridge: self.bridge };
        match self.eps {
            Some(eps) => Ok(Merging::above(view.keys, worth, view.n_seen, eps, protection)),
            None => Merging::at_budget(view.keys, worth, view.n_seen, budget_tokens, protection),
        }
    }
}

#[derive(Debug)]
struct Sets {
    rule: MergeRule,
    division: Division,
}

impl Fold for Sets {
    fn needs(&self) -> Needs {
        Needs::MASS
    }

    fn sets_own_size(&self) -> bool {
        self.division.sets_own_size()
    }

    fn folds(&self) -> bool {
        self.rule.folds()
    }

    fn slot_extras(&self) -> SlotExtras {
        SlotExtras::of(&self.rule)
    }

    fn plan(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Result<HeadPlan, MergeError> {
        self.division.plan(view, worth, budget_tokens, &self.rule)
    }

    fn protected(&self, view: &HeadView<'_>, worth: &[f32], budget_tokens: usize) -> Option<Vec<bool>> {
        self.division.merging(view, worth, budget_tokens).ok().map(|merging| merging.protected)
    }
}
