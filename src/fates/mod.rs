//! What becomes of every token of a captured head: which stay, which merge with which, and which go.

use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::format::dump::{Dump, DumpError, Sample, State};
use crate::hint::Hint;
use crate::math::HeldRows;
use crate::merge::{Counters, Given, HeadPlan, HeadStates, MergeError, heaviest};
use crate::policy::{HeadView, Policy, Scope};

/// What becomes of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It keeps its slot and takes in no other.
    Kept,
    /// It keeps its slot whatever it is like: one of the newest tokens.
    Recent,
    /// It keeps its slot whatever it is like, for what it is worth.
    Heavy,
    /// It shares the slot with others, which take this place among the head's slots.
    Merged(usize),
    /// Nothing of it is stored.
    Evicted,
    /// The layer's window has left it behind: the whole cache does not hold it either.
    Passed,
}

impl Fate {
    /// Name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Recent => "recent",
            Self::Heavy => "heavy",
            Self::Merged(_) => "merged",
            Self::Evicted => "evicted",
            Self::Passed => "passed",
        }
    }
}

/// What becomes of a head's tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadFates {
    /// Of every token.
    pub of_tokens: Vec<Fate>,
    /// Slots of more than one token.
    pub n_sets: usize,
    /// Tokens of the largest of them.
    pub largest_set: usize,
    /// Lowest similarity that was joined.
    pub lowest_joined: Option<f32>,
    /// Tokens and slots.
    pub counters: Counters,
}

impl HeadFates {
    /// Behind so many tokens that the layer's window has left behind.
    fn behind(mut self, passed: usize) -> Self {
        self.of_tokens.splice(0..0, std::iter::repeat_n(Fate::Passed, passed));
        self
    }
}

/// Why nothing can be told of a head.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FatesError {
    /// The dump.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The policy looks at something that no dump holds.
    #[error("{policy} looks at {what}, which the dump does not hold")]
    NotCaptured {
        /// As typed.
        policy: String,
        /// What.
        what: &'static str,
    },
    /// The dump's window is another one.
    #[error(
        "{policy} looks at the attention of the last {wanted} queries, and the dump holds that of the last {found}"
    )]
    OtherWindow {
        /// As typed.
        policy: String,
        /// Queries that it looks at.
        wanted: usize,
        /// Queries of the dump's window.
        found: usize,
    },
    /// The policy cannot meet its budget on this head.
    #[error("{policy} cannot keep {budget_tokens} of {n_tokens} tokens of layer {layer} head {kv_head}: {source}")]
    Unmeetable {
        /// As typed.
        policy: String,
        /// Layer.
        layer: usize,
        /// KV head.
        kv_head: usize,
        /// Slots allowed.
        budget_tokens: usize,
        /// Tokens of the sample.
        n_tokens: usize,
        /// Why.
        source: MergeError,
    },
}

impl Hint for FatesError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Dump(error) => error.hint(),
            Self::NotCaptured { .. } => {
                Some("choose a policy that looks at keys, values, queries or attention mass".into())
            }
            Self::OtherWindow { found, .. } => {
                Some(format!("add window={found} to the policy, or capture again with the --window that it wants"))
            }
            Self::Unmeetable { .. } => Some("allow more slots, or choose another policy".into()),
        }
    }
}

/// A policy with the slots that each head may keep of a sample.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// As typed, for messages.
    pub name: &'a str,
    /// The policy.
    pub policy: &'a dyn Policy,
    /// Slots of every head before those that share a budget have shared it out, by layer and KV head.
    pub budget_tokens: &'a [usize],
}

/// What becomes of the tokens of one head of a sample, as at the end of a prompt of all its tokens.
///
/// A score that samples queries draws them from those that the dump holds, so it may rank tokens slightly otherwise than where
/// all queries are at hand.
///
/// - Errors: states that the dump lacks; a budget that cannot be met
pub fn of_head(
    dump: &Dump,
    sample: &Sample<'_>,
    [layer, kv_head]: [usize; 2],
    plan: Plan<'_>,
) -> Result<HeadFates, FatesError> {
    let Plan { name, policy, budget_tokens } = plan;
    check(dump, sample, layer, name, policy)?;
    let n_kv_heads = dump.manifest().model.n_kv_heads;
    let place = layer * n_kv_heads + kv_head;
    let sharing: Vec<usize> = match policy.scope() {
        Scope::Head => vec![place],
        Scope::Layer => (layer * n_kv_heads..(layer + 1) * n_kv_heads).collect(),
        Scope::Model => (0..budget_tokens.len()).collect(),
    };
    let size = match sharing[..] {
        [only] => budget_tokens[only],
        _ => {
            let claims = sharing
                .par_iter()
                .map(|head| {
                    let captured = Captured::read(dump, sample, *head, policy)?;
                    Ok(policy.claim(&captured.view(), budget_tokens[*head]))
                })
                .collect::<Result<Vec<_>, DumpError>>()?;
            let own = sharing.iter().position(|head| *head == place);
            own.and_then(|own| policy.sizes(&claims).get(own).copied()).unwrap_or(1)
        }
    };
    let captured = Captured::read(dump, sample, place, policy)?;
    let view = captured.view();
    let n_tokens = view.n_slots();
    let passed = sample.entry().n_tokens - n_tokens;
    let unmeetable =
        |source| FatesError::Unmeetable { policy: name.into(), layer, kv_head, budget_tokens: size, n_tokens, source };
    if size >= n_tokens && !policy.sets_own_size() {
        return Ok(fates(&HeadPlan::identity(n_tokens), n_tokens, None).behind(passed));
    }
    let worth = policy.worth(&view, size.clamp(1, n_tokens));
    let plan = policy.plan_by(&view, &worth, size).map_err(unmeetable)?;
    Ok(fates(&plan, n_tokens, policy.protected(&view, &worth, size)).behind(passed))
}

/// The tokens that a head's whole cache holds, the one first that a policy's score says is worth most where all may stay.
///
/// - Errors: states that the dump lacks
pub fn order(
    dump: &Dump,
    sample: &Sample<'_>,
    [layer, kv_head]: [usize; 2],
    (name, policy): (&str, &dyn Policy),
) -> Result<Vec<u32>, FatesError> {
    check(dump, sample, layer, name, policy)?;
    let captured = Captured::read(dump, sample, layer * dump.manifest().model.n_kv_heads + kv_head, policy)?;
    let view = captured.view();
    let n_tokens = view.n_slots();
    Ok(heaviest(&policy.worth(&view, n_tokens), n_tokens))
}

/// Refuses a policy that looks at what the dump does not hold of a sample's layer.
fn check(dump: &Dump, sample: &Sample<'_>, layer: usize, name: &str, policy: &dyn Policy) -> Result<(), FatesError> {
    let needs = policy.needs();
    let lacking = |what| Err(FatesError::NotCaptured { policy: name.into(), what });
    if needs.replay() {
        return lacking("a repetition of the prompt");
    }
    if needs.learned.is_some() {
        return lacking("the vectors that keys and values are made of");
    }
    if needs.projection {
        return lacking("the model's output projections");
    }
    if needs.queries.is_some() && !sample.has_queries_before(layer, sample.entry().n_tokens)? {
        return lacking("queries of the prompt, or the model's rotary frequencies");
    }
    let found = dump.manifest().window_tokens;
    match needs.mass_window.filter(|wanted| *wanted != found) {
        Some(wanted) => Err(FatesError::OtherWindow { policy: name.into(), wanted, found }),
        None => Ok(()),
    }
}

/// A head of a dump as a policy sees it, with no more than the policy needs.
struct Captured {
    /// Tokens that the layer's whole cache holds.
    held: Range<usize>,
    layer: usize,
    kv_head: usize,
    n_kv_heads: usize,
    group: usize,
    keys: HeldRows<'static>,
    values: Option<HeldRows<'static>>,
    queries: Option<HeldRows<'static>>,
    given: OnceLock<Given>,
    mass: Vec<f32>,
    mass_window: Vec<f32>,
}

impl Captured {
    fn read(dump: &Dump, sample: &Sample<'_>, head: usize, policy: &dyn Policy) -> Result<Self, DumpError> {
        let model = &dump.manifest().model;
        let (layer, kv_head) = (head / model.n_kv_heads, head % model.n_kv_heads);
        let needs = policy.needs();
        let n_tokens = sample.entry().n_tokens;
        let held = model.within_reach(layer, n_tokens);
        let keys = sample.vectors(layer, State::K, kv_head)?;
        let (mut values, mut queries) = (None, None);
        if let Some(sampling) = needs.queries {
            let own = sample.vectors(layer, State::V, kv_head)?;
            let (kept, positions) = (sample.queries(layer, kv_head)?, sample.query_positions(layer)?);
            let states = HeadStates {
                keys: keys.rows().part(held.clone()),
                values: own.rows().part(held.clone()),
                first_position: held.start,
                window: model.window(layer),
                queries: kept.rows(),
                query_positions: &positions,
            };
            let turned = states.turned_queries(&model.rope(layer), n_tokens, sampling);
            queries = Some(HeldRows::new(turned, model.head_dim));
            values = Some(own);
        }
        Ok(Self {
            layer,
            kv_head,
            n_kv_heads: model.n_kv_heads,
            group: model.group(),
            mass: if needs.mass { sample.mass(layer, kv_head)? } else { Vec::new() },
            mass_window: if needs.mass_window.is_some() { sample.mass_window(layer, kv_head)? } else { Vec::new() },
            held,
            keys,
            values,
            queries,
            given: OnceLock::new(),
        })
    }

    fn view(&self) -> HeadView<'_> {
        let keys = self.keys.rows().part(self.held.clone());
        let none = keys.part(0..0);
        HeadView {
            layer: self.layer,
            kv_head: self.kv_head,
            n_kv_heads: self.n_kv_heads,
            group: self.group,
            values: self.values.as_ref().map_or(none, |values| values.rows().part(self.held.clone())),
            queries: self.queries.as_ref().map_or(none, HeldRows::rows),
            given: Some(&self.given),
            mass: self.mass.get(self.held.clone()).unwrap_or_default(),
            mass_window: self.mass_window.get(self.held.clone()).unwrap_or_default(),
            ..HeadView::new(keys)
        }
    }
}

/// What a plan makes of so many tokens, some of which it left alone whatever they are like.
fn fates(plan: &HeadPlan, n_tokens: usize, protected: Option<Vec<bool>>) -> HeadFates {
    let mut of_tokens = vec![Fate::Evicted; n_tokens];
    let (mut n_sets, mut largest_set) = (0, 0);
    for (slot, entry) in plan.slots.iter().enumerate() {
        let members = plan.members_of(entry).iter().filter(|member| member.weighs());
        let members: Vec<usize> = members.map(|member| member.source as usize).collect();
        let is_set = members.len() > 1;
        n_sets += usize::from(is_set);
        largest_set = largest_set.max(if is_set { members.len() } else { 0 });
        members.iter().for_each(|token| of_tokens[*token] = if is_set { Fate::Merged(slot) } else { Fate::Kept });
    }
    if let Some(protected) = protected {
        let first_recent = protected.iter().rposition(|protected| !protected).map_or(0, |last| last + 1);
        for (token, fate) in of_tokens.iter_mut().enumerate().filter(|(token, _)| protected[*token]) {
            *fate = if token >= first_recent { Fate::Recent } else { Fate::Heavy };
        }
    }
    HeadFates { of_tokens, n_sets, largest_set, lowest_joined: plan.lowest_joined, counters: plan.counters(n_tokens) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::Member;

    #[test]
    fn an_uneven_plan_by_hand() {
        // Of seven tokens, 1 and 2 share a slot; 3 gives it nothing; 4 stays alone; 0, 5 and 6 are protected.
        let member = |source, weight| Member { source, key_weight: weight, value_weight: weight };
        let mut plan = HeadPlan::keep(vec![0, 4, 5, 6]);
        plan.push(1, [member(1, 0.5), member(2, 0.5), member(3, 0.0)], 0.0);
        plan.sort();
        let found = fates(&plan, 7, Some(vec![true, false, false, false, false, true, true]));
        let expected =
            [Fate::Heavy, Fate::Merged(1), Fate::Merged(1), Fate::Evicted, Fate::Kept, Fate::Recent, Fate::Recent];
        assert_eq!(found.of_tokens, expected);
        assert_eq!((found.n_sets, found.largest_set), (1, 2));
        assert_eq!(found.counters, Counters { seen: 7, kept: 5, merged: 1, evicted: 1 });
        // Without protection all single slots are alike.
        assert_eq!(fates(&plan, 7, None).of_tokens[0], Fate::Kept);
    }
}
