//! A head's plan: which slots remain and what is folded into each. Plain data; nothing is moved here.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::math::{Rows, axpy};

/// One token's share in a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// Index of the old slot.
    pub source: u32,
    /// Its weight in the new key.
    pub key_weight: f32,
    /// Its weight in the new value.
    pub value_weight: f32,
}

impl Member {
    /// Whether anything of the token is left in the slot; otherwise it was evicted.
    pub fn weighs(&self) -> bool {
        self.key_weight != 0.0 || self.value_weight != 0.0
    }
}

/// One slot of the compressed head.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Old slot whose position the new one takes.
    pub pivot: u32,
    /// Its members, as a range into [`HeadPlan::members`].
    pub members: Range<usize>,
    /// Added to the pivot's own logit bias, in nats.
    pub logit_bias: f32,
}

/// A share of a value that is added to another one, before anything is folded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Old slot whose value it is.
    pub from: u32,
    /// Old slot that receives it.
    pub to: u32,
    /// Its weight.
    pub weight: f32,
}

/// What one KV head becomes.
///
/// Invariants ([`HeadPlan::check`]): pivots rise strictly, every old slot is a member of at most one new slot, and each
/// pivot is a member of its own slot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadPlan {
    /// New slots, by rising pivot.
    pub slots: Vec<Slot>,
    /// Members of all slots, slot after slot.
    pub members: Vec<Member>,
    /// Values handed on before folding, one after the other; what a value has received goes along when it is handed on.
    pub flows: Vec<Flow>,
    /// Lowest similarity that was joined; `None` for a policy that joins nothing.
    pub lowest_joined: Option<f32>,
}

/// What happened to the tokens of a head, layer or model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Old slots.
    pub seen: usize,
    /// New slots.
    pub kept: usize,
    /// Old slots folded into another one.
    pub merged: usize,
    /// Old slots dropped.
    pub evicted: usize,
}

impl Counters {
    /// Adds another head's counts.
    pub fn add(&mut self, other: Self) {
        self.seen += other.seen;
        self.kept += other.kept;
        self.merged += other.merged;
        self.evicted += other.evicted;
    }

    /// Slots kept per token seen; `None` when nothing was seen.
    pub fn kept_fraction(&self) -> Option<f64> {
        (self.seen > 0).then(|| self.kept as f64 / self.seen as f64)
    }

    /// Whether anything was merged or evicted.
    pub fn did_something(&self) -> bool {
        self.merged + self.evicted > 0
    }
}

/// Why a plan must not be applied: an error in a policy, not in its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanFault {
    /// No slot would remain.
    #[error("the plan keeps no slot")]
    Empty,
    /// Pivots do not rise.
    #[error("slot {0} does not stand after the one before it")]
    Order(usize),
    /// A member does not exist.
    #[error("slot {slot} takes in token {source_index} of {n_tokens}")]
    OutOfRange {
        /// Index of the new slot.
        slot: usize,
        source_index: u32,
        /// Old slots.
        n_tokens: usize,
    },
    /// A value is handed from or to a slot that does not exist.
    #[error("flow {flow} leaves the {n_tokens} tokens")]
    FlowOutOfRange {
        /// Index of the flow.
        flow: usize,
        /// Old slots.
        n_tokens: usize,
    },
    /// A token would be counted twice.
    #[error("token {source_index} is a member of two slots")]
    Twice { source_index: u32 },
    /// A slot does not hold its own pivot, or its members are not the next ones.
    #[error("slot {0} does not hold its pivot")]
    NoPivot(usize),
}

impl HeadPlan {
    /// Keeps the given old slots, in rising order, and drops the rest.
    pub fn keep(mut kept: Vec<u32>) -> Self {
        kept.sort_unstable();
        kept.dedup();
        let mut plan = Self::default();
        for source in kept {
            plan.push(source, [Member { source, key_weight: 1.0, value_weight: 1.0 }], 0.0);
        }
        plan
    }

    /// Keeps the old slots that are marked, and drops the rest.
    pub fn keep_marked(marked: &[bool]) -> Self {
        Self::keep((0..marked.len() as u32).filter(|source| marked[*source as usize]).collect())
    }

    /// Keeps all of `n_tokens`.
    pub fn identity(n_tokens: usize) -> Self {
        Self::keep((0..n_tokens as u32).collect())
    }

    /// The same plan for a head that these tokens came to later, and stay.
    pub fn followed_by(mut self, later: Range<usize>) -> Self {
        for source in later {
            self.push(source as u32, [Member { source: source as u32, key_weight: 1.0, value_weight: 1.0 }], 0.0);
        }
        self
    }

    /// Adds a slot; [`HeadPlan::sort`] puts slots in order when they were not added so.
    pub fn push(&mut self, pivot: u32, members: impl IntoIterator<Item = Member>, logit_bias: f32) {
        let start = self.members.len();
        self.members.extend(members);
        self.slots.push(Slot { pivot, members: start..self.members.len(), logit_bias });
    }

    /// Orders the slots by pivot.
    pub fn sort(&mut self) {
        self.slots.sort_unstable_by_key(|slot| slot.pivot);
    }

    /// The members of a slot.
    pub fn members_of(&self, slot: &Slot) -> &[Member] {
        &self.members[slot.members.clone()]
    }

    /// New keys `[slots, D]` from the old ones `[T, D]`: Σ key_weight · key over each slot's members.
    ///
    /// A slot of one whole member is copied bit for bit.
    pub fn fold_keys(&self, keys: Rows<'_>) -> Vec<f32> {
        self.fold(keys, |member| member.key_weight)
    }

    /// New values `[slots, D]` from the old ones, as [`HeadPlan::fold_keys`] makes keys, after all flows.
    pub fn fold_values(&self, values: Rows<'_>) -> Vec<f32> {
        let weight = |member: &Member| member.value_weight;
        if self.flows.is_empty() {
            return self.fold(values, weight);
        }
        let (d, mut values) = (values.width(), values.flat().to_vec());
        let mut handed_on = vec![0f32; d];
        for flow in &self.flows {
            handed_on.copy_from_slice(&values[flow.from as usize * d..][..d]);
            axpy(flow.weight, &handed_on, &mut values[flow.to as usize * d..][..d]);
        }
        self.fold(Rows::new(&values, d), weight)
    }

    fn fold(&self, vectors: Rows<'_>, weight: fn(&Member) -> f32) -> Vec<f32> {
        let mut folded = vec![0f32; self.slots.len() * vectors.width()];
        for (slot, out) in self.slots.iter().zip(folded.chunks_exact_mut(vectors.width())) {
            match self.members_of(slot) {
                [only] if weight(only) == 1.0 => out.copy_from_slice(vectors.row(only.source as usize)),
                members => members
                    .iter()
                    .filter(|member| weight(member) != 0.0)
                    .for_each(|member| axpy(weight(member), vectors.row(member.source as usize), out)),
            }
        }
        folded
    }

    /// Counts for `n_tokens` old slots. A member that weighs nothing in key and value was evicted, not merged; a slot
    /// that is no member but handed its value on was merged.
    pub fn counters(&self, n_tokens: usize) -> Counters {
        let mut is_in = vec![false; n_tokens];
        let members = self.members.iter().filter(|member| member.weighs()).map(|member| member.source);
        members.chain(self.flows.iter().map(|flow| flow.from)).for_each(|source| is_in[source as usize] = true);
        let represented = is_in.iter().filter(|is_in| **is_in).count();
        Counters {
            seen: n_tokens,
            kept: self.slots.len(),
            merged: represented.saturating_sub(self.slots.len()),
            evicted: n_tokens - represented,
        }
    }

    /// Checks the invariants against the number of old slots.
    pub fn check(&self, n_tokens: usize) -> Result<(), PlanFault> {
        if self.slots.is_empty() && n_tokens > 0 {
            return Err(PlanFault::Empty);
        }
        let mut used = vec![false; n_tokens];
        for (slot, new) in self.slots.iter().enumerate() {
            if slot > 0 && self.slots[slot - 1].pivot >= new.pivot {
                return Err(PlanFault::Order(slot));
            }
            let members = self.members.get(new.members.clone()).ok_or(PlanFault::NoPivot(slot))?;
            if !members.iter().any(|m| m.source == new.pivot) {
                return Err(PlanFault::NoPivot(slot));
            }
            for Member { source: source_index, .. } in members.iter().copied() {
                match used.get_mut(source_index as usize) {
                    None => return Err(PlanFault::OutOfRange { slot, source_index, n_tokens }),
                    Some(true) => return Err(PlanFault::Twice { source_index }),
                    Some(free) => *free = true,
                }
            }
        }
        for (flow, Flow { from, to, .. }) in self.flows.iter().enumerate() {
            if *from.max(to) as usize >= n_tokens {
                return Err(PlanFault::FlowOutOfRange { flow, n_tokens });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(source: u32) -> Member {
        Member { source, key_weight: 0.5, value_weight: 0.5 }
    }

    #[test]
    fn counts_of_an_uneven_plan() {
        // Of 7 tokens: {0} alone, {2, 3, 4} merged on 3, 6 alone; 1 and 5 dropped.
        let mut plan = HeadPlan::keep(vec![6, 0]);
        plan.push(3, [member(2), member(3), member(4)], 1.0);
        plan.sort();
        assert_eq!(plan.check(7), Ok(()));
        assert_eq!(plan.slots.iter().map(|s| s.pivot).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(plan.counters(7), Counters { seen: 7, kept: 3, merged: 2, evicted: 2 });
        assert_eq!(HeadPlan::identity(4).counters(4), Counters { seen: 4, kept: 4, merged: 0, evicted: 0 });
        assert!(!HeadPlan::identity(4).counters(4).did_something());
    }

    #[test]
    fn folding_by_hand() {
        // Token 1 alone; tokens 0 and 2 merged on 2 with weights 1/4 and 3/4 (keys), 1 and 3 (values).
        let mut plan = HeadPlan::keep(vec![1]);
        let part = |source, key_weight| Member { source, key_weight, value_weight: 4.0 * key_weight };
        plan.push(2, [part(0, 0.25), part(2, 0.75)], 0.0);
        let x = Rows::new(&[4.0, 0.0, 9.0, 8.0, 8.0, 4.0], 2);
        assert_eq!(plan.fold_keys(x), [9.0, 8.0, 7.0, 3.0]);
        assert_eq!(plan.fold_values(x), [9.0, 8.0, 28.0, 12.0]);
    }

    #[test]
    fn values_are_handed_on_in_order() {
        // 0 gives half to 1; 1 gives all it then has to 2; 1 is dropped.
        let mut plan = HeadPlan::keep(vec![2, 3]);
        plan.flows = vec![Flow { from: 0, to: 1, weight: 0.5 }, Flow { from: 1, to: 2, weight: 1.0 }];
        assert_eq!(plan.check(4), Ok(()));
        let x = Rows::new(&[8.0, 1.0, 2.0, 7.0], 1);
        assert_eq!(plan.fold_values(x), [7.0, 7.0]);
        assert_eq!(plan.fold_keys(x), [2.0, 7.0]);
        assert_eq!(plan.counters(4), Counters { seen: 4, kept: 2, merged: 2, evicted: 0 });
        plan.flows.push(Flow { from: 3, to: 4, weight: 1.0 });
        assert_eq!(plan.check(4), Err(PlanFault::FlowOutOfRange { flow: 2, n_tokens: 4 }));
    }

    #[test]
    fn faults_are_named() {
        let mut plan = HeadPlan::keep(vec![0, 1]);
        assert_eq!(plan.check(1), Err(PlanFault::OutOfRange { slot: 1, source_index: 1, n_tokens: 1 }));
        plan.push(1, [member(1)], 0.0);
        assert_eq!(plan.check(3), Err(PlanFault::Order(2)));
        let mut plan = HeadPlan::keep(vec![0]);
        plan.push(1, [member(1), member(0)], 0.0);
        assert_eq!(plan.check(3), Err(PlanFault::Twice { source_index: 0 }));
        let mut plan = HeadPlan::default();
        assert_eq!(plan.check(3), Err(PlanFault::Empty));
        plan.push(1, [member(0)], 0.0);
        assert_eq!(plan.check(3), Err(PlanFault::NoPivot(0)));
    }
}
