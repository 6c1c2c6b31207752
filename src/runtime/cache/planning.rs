//! What a compression makes of a cache's heads: their sizes, their plans, and the new heads.

use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::math::{HeldRows, reach};
use crate::merge::{Counters, Given, HeadPlan, RefitHead, Refitted, Sampling, refit_slots};
use crate::policy::{Claim, HeadView, Scope};
use crate::runtime::cache::samplings;
use crate::runtime::queries::QuerySample;
use crate::runtime::slots::Head;
use crate::runtime::{Compression, RaggedCache, RuntimeError};

/// A head as policies look at it.
struct Widened<'a> {
    keys: HeldRows<'a>,
    /// `None` where no queries are looked at.
    values: Option<HeldRows<'a>>,
    queries: Vec<Asked>,
    repetition: &'a [f32],
    predicted: &'a [f32],
    share_tokens: usize,
    counts: Option<Vec<u32>>,
}

/// A sample of queries that read a head.
struct Asked {
    sampling: Sampling,
    queries: HeldRows<'static>,
    /// What the head gives them, once that is known.
    given: OnceLock<Given>,
}

/// A layer after compression.
pub(super) struct NewLayer {
    pub heads: Vec<Head>,
    /// Of each head.
    pub counters: Vec<Counters>,
    /// Whether any head was asked to drop a slot.
    pub asked: bool,
}

/// What the heads of a layer are to become.
struct LayerPlan {
    heads: Vec<HeadPlan>,
    /// Whether any of them was asked to drop a slot.
    asked: bool,
}

impl RaggedCache {
    /// Slots that each head of some layers may keep.
    pub(super) fn sizes(&self, compression: &Compression, layers: Range<usize>) -> Result<Vec<usize>, RuntimeError> {
        self.check_samples(compression, layers.start)?;
        let heads = layers.start * self.n_kv_heads..layers.end * self.n_kv_heads;
        let mut sizes =
            heads.clone().map(|head| self.share_tokens(compression, head)).collect::<Result<Vec<usize>, _>>()?;
        if compression.policy.scope() == Scope::Head || !compression.wants_less() {
            return Ok(sizes);
        }
        let shares = |head: &usize| !compression.skip_layers.contains(&(head / self.n_kv_heads));
        let sharing: Vec<usize> = heads.clone().filter(shares).collect();
        // One head's keys are widened at a time on each thread.
        let claims: Vec<Claim> = sharing
            .par_iter()
            .map(|head| {
                let states = self.widened(compression, *head)?;
                let view = self.view(*head, &states, compression.policy.needs().queries);
                Ok(compression.policy.claim(&view, sizes[*head - heads.start]))
            })
            .collect::<Result<_, RuntimeError>>()?;
        for (head, size) in sharing.iter().zip(compression.policy.sizes(&claims)) {
            sizes[*head - heads.start] = size;
        }
        Ok(sizes)
    }

    /// Slots that the budget gives a head before heads share.
    fn share_tokens(&self, compression: &Compression, head: usize) -> Result<usize, RuntimeError> {
        compression.budget_tokens(&self.reaches(), self.n_kv_heads, head)
    }

    /// Refuses a policy whose queries were not recorded, whose prompt was not repeated, or that does not know the model's
    /// output projections.
    pub(super) fn check_samples(&self, compression: &Compression, layer: usize) -> Result<(), RuntimeError> {
        if compression.needs().projection && self.projections.is_none() {
            let what = "the model's output projections";
            return Err(RuntimeError::NotRecorded { policy: compression.name.clone(), what });
        }
        let heads = layer * self.n_kv_heads..(layer + 1) * self.n_kv_heads;
        let is_repeated = |head: usize| self.repetition(compression, head).len() == self.heads[head].len();
        if compression.needs().repetition.is_some() && !heads.clone().all(is_repeated) {
            let what = "attention from a repetition of the prompt";
            return Err(RuntimeError::NotRecorded { policy: compression.name.clone(), what });
        }
        let is_predicted = |head: usize| self.predicted(compression, head).len() == self.heads[head].len();
        if compression.needs().learned.is_some() && !heads.into_iter().all(is_predicted) {
            let what = "what its weights predict of every token";
            return Err(RuntimeError::NotRecorded { policy: compression.name.clone(), what });
        }
        let Some(sampling) = compression.needs().queries else {
            return Ok(());
        };
        if self.sample(sampling).is_some_and(|sample| sample.has(layer)) {
            return Ok(());
        }
        let what = "a sample of the prompt's queries";
        Err(RuntimeError::NotRecorded { policy: compression.name.clone(), what })
    }

    /// Attention to a head's slots from the repetition that a compression looks at, `[T]`; empty where there was none.
    pub fn repetition(&self, compression: &Compression, head: usize) -> &[f32] {
        let wanted = compression.needs().repetition;
        let repeated = self.repeated.iter().find(|repeated| Some(repeated.wanted()) == wanted);
        repeated.map_or(&[], |repeated| repeated.of(head))
    }

    /// Where the scorer that a compression looks at stands among those of the cache.
    fn scorer(&self, compression: &Compression) -> Option<usize> {
        let wanted = compression.needs().learned?;
        self.scorers.iter().position(|scorer| *scorer == wanted)
    }

    /// What the scorer that a compression looks at predicts of a head's slots; empty where there is none.
    fn predicted(&self, compression: &Compression, head: usize) -> &[f32] {
        self.scorer(compression).map_or(&[], |scorer| self.heads[head].predicted(scorer))
    }

    /// What a compression looks at of a head and the head does not hold as such.
    fn widened(&self, compression: &Compression, index: usize) -> Result<Widened<'_>, RuntimeError> {
        let head = &self.heads[index];
        let layer = index / self.n_kv_heads;
        let samples = samplings(compression).into_iter().filter_map(|sampling| self.sample(sampling));
        let queries: Vec<_> = samples
            .filter(|sample| sample.has(layer))
            .map(|sample| Asked {
                sampling: sample.sampling(),
                queries: self.queries(sample, index, compression.query_step(self.n_seen)),
                given: OnceLock::new(),
            })
            .collect();
        let own_size = compression.policy.sets_own_size().then(|| Ok(head.len()));
        Ok(Widened {
            keys: head.keys(),
            values: (!queries.is_empty()).then(|| head.values()),
            queries,
            repetition: self.repetition(compression, index),
            predicted: self.predicted(compression, index),
            share_tokens: own_size.unwrap_or_else(|| self.share_tokens(compression, index))?,
            counts: head.counts(),
        })
    }

    /// Queries of a sample that read a head, of every `step`-th token, `[n, D]`.
    fn queries(&self, sample: &QuerySample, index: usize, step: usize) -> HeldRows<'static> {
        let place = [index / self.n_kv_heads, index % self.n_kv_heads, self.n_kv_heads];
        HeldRows::new(sample.rows(place, self.ropes.of(place[0]), self.n_seen, step), self.head_dim)
    }

    /// A head, with queries of the sampling where they are there.
    fn view<'a>(&'a self, index: usize, states: &'a Widened<'_>, sampling: Option<Sampling>) -> HeadView<'a> {
        let (head, keys) = (&self.heads[index], states.keys.rows());
        let none = keys.part(0..0);
        let asked = states.queries.iter().find(|asked| Some(asked.sampling) == sampling);
        HeadView {
            layer: index / self.n_kv_heads,
            kv_head: index % self.n_kv_heads,
            n_kv_heads: self.n_kv_heads,
            group: self.group,
            share_tokens: states.share_tokens,
            n_seen: reach(self.windows[index / self.n_kv_heads], self.n_seen),
            keys,
            values: states.values.as_ref().map_or(none, HeldRows::rows),
            queries: asked.map_or(none, |asked| asked.queries.rows()),
            given: asked.map(|asked| &asked.given),
            mass: &head.mass,
            mass_window: &head.mass_window,
            repetition: states.repetition,
            predicted: states.predicted,
            projection: self.projections.as_ref().map(|all| all.of_kv_head(index, self.group)),
            counts: states.counts.as_deref(),
            logit_bias: head.logit_bias.as_deref(),
        }
    }

    fn plan(
        &self,
        compression: &Compression,
        layer: usize,
        states: &[Widened<'_>],
        sizes: &[usize],
    ) -> Result<LayerPlan, RuntimeError> {
        let heads = self.of_layer(layer);
        let skip = compression.skip_layers.contains(&layer);
        let first = layer * self.n_kv_heads;
        let planned: Result<Vec<(HeadPlan, bool)>, RuntimeError> = heads
            .par_iter()
            .zip(states)
            .zip(sizes)
            .enumerate()
            .map(|(kv_head, ((head, states), budget_tokens))| {
                let (n_slots, budget_tokens) = (head.len(), *budget_tokens);
                if skip {
                    return Ok((HeadPlan::identity(n_slots), false));
                }
                let view = self.view(first + kv_head, states, compression.policy.needs().queries);
                let plan = compression.policy.plan(&view, budget_tokens).map_err(|source| {
                    RuntimeError::Unmeetable { layer, kv_head, budget_tokens, n_tokens: n_slots, source }
                })?;
                plan.check(n_slots).map_err(|source| RuntimeError::FaultyPlan {
                    policy: compression.name.clone(),
                    layer,
                    kv_head,
                    source,
                })?;
                let most = if compression.policy.sets_own_size() { 1 } else { budget_tokens };
                Ok((plan, n_slots > most))
            })
            .collect();
        let (heads, asked): (Vec<HeadPlan>, Vec<bool>) = planned?.into_iter().unzip();
        Ok(LayerPlan { heads, asked: asked.contains(&true) })
    }

    /// What a compression makes of a layer's heads.
    pub(super) fn rewritten(
        &self,
        compression: &Compression,
        layer: usize,
        sizes: &[usize],
        keep_mass: bool,
    ) -> Result<NewLayer, RuntimeError> {
        let old = self.of_layer(layer);
        // Widened on this thread: what worker threads allocate and free, the allocator keeps to itself.
        let first = layer * self.n_kv_heads;
        let states: Vec<Widened<'_>> =
            (0..old.len()).map(|head| self.widened(compression, first + head)).collect::<Result<_, _>>()?;
        let LayerPlan { heads: plans, asked } = self.plan(compression, layer, &states, sizes)?;
        let keep_mass = keep_mass && self.needs.mass && compression.policy.needs().mass;
        let scorer = self.scorer(compression);
        let folded = |(kv_head, (head, plan)): (usize, (&Head, &HeadPlan))| {
            head.folded(plan, keep_mass, scorer).map_err(|fault| fault.at(layer, kv_head))
        };
        let mut heads: Vec<Head> = old.iter().zip(&plans).enumerate().map(folded).collect::<Result<_, _>>()?;
        self.refit(compression, layer, &states, &mut heads)?;
        let counters = old.iter().zip(&plans).map(|(head, plan)| plan.counters(head.len())).collect();
        Ok(NewLayer { heads, counters, asked })
    }

    /// Refits a layer's new heads to what the old ones give for the sampled queries. Heads of which nothing went stay as
    /// they are; so do all in decode, which has no queries to spare.
    ///
    /// - Errors: a head whose system could not be solved, or whose values do not fit their type
    fn refit(
        &self,
        compression: &Compression,
        layer: usize,
        states: &[Widened<'_>],
        new: &mut [Head],
    ) -> Result<(), RuntimeError> {
        let Some(refit) = compression.policy.refit() else { return Ok(()) };
        let first = layer * self.n_kv_heads;
        let solved: Vec<(usize, Option<Refitted>)> = new
            .par_iter()
            .zip(states)
            .enumerate()
            .filter(|(kv_head, (new, _))| new.len() != self.heads[first + kv_head].len())
            .map(|(kv_head, (new, states))| {
                let whole = self.view(first + kv_head, states, Some(refit.sampling())).attending();
                let (keys, values) = (new.keys(), new.values());
                let logit_bias = new.logit_bias.as_deref();
                let stored = RefitHead { keys: keys.rows(), values: values.rows(), logit_bias };
                (kv_head, (!whole.queries.is_empty()).then(|| refit_slots(&whole, stored, refit)))
            })
            .filter_map(|(kv_head, refitted)| Some((kv_head, refitted?)))
            .collect();
        for (kv_head, refitted) in solved {
            let refitted = refitted.ok_or(RuntimeError::Refit { layer, kv_head })?;
            new[kv_head].set_refitted(refitted).map_err(|fault| fault.at(layer, kv_head))?;
        }
        Ok(())
    }
}
