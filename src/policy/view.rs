//! What a policy is shown of a head, and what has to be recorded for it.

use std::sync::{Arc, OnceLock};

use crate::format::scorer::Scorer;
use crate::math::{Float, HeadProjection, Rows};
use crate::merge::{Attending, Given, MergeRule, Origin, Refit, Repetition, Sampling, SlotStates, ValueRule};

/// One KV head as a policy sees it: `T` stored slots in order of position.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    /// Layer.
    pub layer: usize,
    /// KV head within the layer.
    pub kv_head: usize,
    /// KV heads of a layer.
    pub n_kv_heads: usize,
    /// Query heads that read each of them.
    pub group: usize,
    /// Slots that the budget gives the head before heads share it; T or more where nothing has to go.
    pub share_tokens: usize,
    /// Tokens that the head has seen and that its layer's window has not left behind; more than T where slots were merged or
    /// dropped before.
    pub n_seen: usize,
    /// Keys after RoPE, `[T, D]`.
    pub keys: Rows<'a>,
    /// Values, `[T, D]`; empty when the policy needs no queries.
    pub values: Rows<'a>,
    /// Queries that stand for those to come, at their positions, `[n, D]`: of each sampled token those of all query heads
    /// that read this KV head; empty when the policy does not need them.
    pub queries: Rows<'a>,
    /// Where a score that finds what the head gives these queries leaves it for the refit.
    pub given: Option<&'a OnceLock<Given>>,
    /// Attention mass `[T]` over all queries so far; empty when the policy does not need it.
    pub mass: &'a [f32],
    /// Attention mass `[T]` over the last window of queries; empty when the policy does not need it.
    pub mass_window: &'a [f32],
    /// Largest attention `[T]` from a repetition of the prompt, as the policy counts it; empty when the policy does not need it.
    pub repetition: &'a [f32],
    /// Logarithm of what each slot is worth, `[T]`, as it was predicted; empty when the policy does not need it.
    pub predicted: &'a [f32],
    /// What the output projection makes of the outputs of the query heads that read it; `None` when the policy does not need it.
    pub projection: Option<HeadProjection<'a>>,
    /// Tokens that each slot stands for, `[T]`; `None` when all stand for one.
    pub counts: Option<&'a [u32]>,
    /// Logit bias of each slot in nats, `[T]`; `None` when all are zero.
    pub logit_bias: Option<&'a [f32]>,
}

impl<'a> HeadView<'a> {
    /// The only head of a layer, of which only the keys are known: a start for struct updates.
    pub fn new(keys: Rows<'a>) -> Self {
        Self {
            layer: 0,
            kv_head: 0,
            n_kv_heads: 1,
            group: 1,
            share_tokens: keys.len(),
            n_seen: keys.len(),
            keys,
            values: keys.part(0..0),
            queries: keys.part(0..0),
            given: None,
            mass: &[],
            mass_window: &[],
            repetition: &[],
            predicted: &[],
            projection: None,
            counts: None,
            logit_bias: None,
        }
    }

    /// Stored slots T.
    pub fn n_slots(&self) -> usize {
        self.keys.len()
    }

    /// What merging looks at.
    pub fn slots(&self) -> SlotStates<'a> {
        SlotStates { keys: self.keys, mass: self.mass, counts: self.counts, logit_bias: self.logit_bias }
    }

    /// Its queries, which see all of its slots.
    pub fn attending(&self) -> Attending<'a> {
        let Self { queries, keys, values, logit_bias, given, .. } = *self;
        Attending { queries, keys, values, logit_bias, given }
    }

    /// A stream of random numbers of its own for every head and time, so that no draw depends on the order of planning.
    pub(super) fn random_stream(&self) -> u64 {
        ((self.n_seen as u64) << 32) | (self.layer * self.n_kv_heads + self.kv_head) as u64
    }
}

/// What a policy must be shown beside the slots.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Attention mass over all queries.
    pub mass: bool,
    /// Attention mass over the last this many queries.
    pub mass_window: Option<usize>,
    /// Queries that stand for those to come.
    pub queries: Option<Sampling>,
    /// Attention from a repetition of the prompt.
    pub repetition: Option<Repetition>,
    /// What a scorer predicts of every token's worth.
    pub learned: Option<Arc<Scorer>>,
    /// What the output projection makes of a head's outputs: not recorded, but known of the model.
    pub projection: bool,
}

impl Needs {
    /// Attention mass over all queries, and nothing else.
    pub const MASS: Self =
        Self { mass: true, mass_window: None, queries: None, repetition: None, learned: None, projection: false };

    /// A sample of queries, and nothing else.
    pub(super) fn queries(sampling: Sampling) -> Self {
        Self { queries: Some(sampling), ..Self::default() }
    }

    /// What both need; of two windows, samples, repetitions or scorers the first.
    pub fn and(self, other: Self) -> Self {
        Self {
            mass: self.mass || other.mass,
            mass_window: self.mass_window.or(other.mass_window),
            queries: self.queries.or(other.queries),
            repetition: self.repetition.or(other.repetition),
            learned: self.learned.or(other.learned),
            projection: self.projection || other.projection,
        }
    }

    /// Whether it is recorded while a prompt passes only, so that there is none in decode.
    pub fn prompt_only(&self) -> bool {
        self.queries.is_some() || self.repetition.is_some()
    }

    /// Whether the prompt has to be repeated.
    pub fn replay(&self) -> bool {
        self.repetition.is_some() || self.queries.is_some_and(|sampling| sampling.from == Origin::Replay)
    }
}

/// What is stored of a slot beside key, value and position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotExtras {
    /// How many tokens it stands for.
    pub count: bool,
    /// What is added to its logits.
    pub logit_bias: bool,
    /// What it was predicted to be worth.
    pub predicted: bool,
}

impl SlotExtras {
    /// Those of slots that a rule merges.
    pub(super) fn of(rule: &MergeRule) -> Self {
        let is_biased = matches!(rule.variant, ValueRule::LogCount | ValueRule::Mass);
        Self { count: rule.folds(), logit_bias: rule.folds() && is_biased, predicted: false }
    }

    /// With what a refit may add.
    pub fn with(self, refit: Option<Refit>) -> Self {
        Self { logit_bias: self.logit_bias || refit.is_some_and(|refit| refit.mass), ..self }
    }

    /// With what either has.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            count: self.count || other.count,
            logit_bias: self.logit_bias || other.logit_bias,
            predicted: self.predicted || other.predicted,
        }
    }
}

/// What a slot takes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLayout {
    /// Type of keys and values.
    pub element: Float,
    /// Numbers in a key, and in a value.
    pub head_dim: usize,
    /// What is stored beside key, value and position.
    pub extras: SlotExtras,
}

impl SlotLayout {
    /// Bytes of a slot. Positions, biases and predictions take four bytes, counts two as long as they fit.
    pub fn bytes(self) -> usize {
        let SlotExtras { count, logit_bias, predicted } = self.extras;
        let words = 1 + usize::from(logit_bias) + usize::from(predicted);
        2 * self.head_dim * self.element.bytes() + 4 * words + 2 * usize::from(count)
    }
}
