//! The ragged cache: every KV head of every layer has its own number of slots, and memory is what is stored.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;
use std::time::Instant;

use half::bf16;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use serde::Deserialize;
use serde::Serialize;

use crate::math::axpy;
use crate::merge::Counters;
use crate::merge::HeadPlan;
use crate::model::AttnMass;
use crate::model::ChunkStates;
use crate::model::Config;
use crate::model::HeadSlots;
use crate::model::KvStore;
use crate::model::SlotVectors;
use crate::model::StoreError;
use crate::model::StoreNeeds;
use crate::policy::HeadView;
use crate::policy::Policy;
use crate::runtime::RuntimeError;

/// Element type of stored keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheType {
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Single precision.
    #[default]
    F32,
}

/// Vectors `[n, D]` in their storage type.
#[derive(Debug)]
enum Vectors {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

/// Room that a head of `n_slots` makes when it is full: a 128th, so that slack stays under 1 % of the cache.
///
/// Amortised, a new slot has 128 old ones copied, fewer than the attention of its own token reads.
fn growth(n_slots: usize) -> usize {
    (n_slots / 128).max(4)
}

/// Makes room for `more` numbers, `step` at least.
fn reserve<T>(values: &mut Vec<T>, more: usize, step: usize) {
    if values.capacity() - values.len() < more {
        values.reserve_exact(more.max(step));
    }
}

impl Vectors {
    fn new(kind: CacheType) -> Self {
        match kind {
            CacheType::F32 => Self::F32(Vec::new()),
            CacheType::F16 => Self::F16(Vec::new()),
            CacheType::Bf16 => Self::Bf16(Vec::new()),
        }
    }

    fn kind(&self) -> CacheType {
        match self {
            Self::F32(_) => CacheType::F32,
            Self::F16(_) => CacheType::F16,
            Self::Bf16(_) => CacheType::Bf16,
        }
    }

    fn reserve(&mut self, more: usize, step: usize) {
        match self {
            Self::F32(v) => reserve(v, more, step),
            Self::F16(v) => reserve(v, more, step),
            Self::Bf16(v) => reserve(v, more, step),
        }
    }

    fn push(&mut self, x: &[f32]) {
        match self {
            Self::F32(v) => v.extend_from_slice(x),
            Self::F16(v) => v.extend(x.iter().map(|x| f16::from_f32(*x))),
            Self::Bf16(v) => v.extend(x.iter().map(|x| bf16::from_f32(*x))),
        }
    }

    fn widened(&self) -> Cow<'_, [f32]> {
        match self {
            Self::F32(v) => v.into(),
            Self::F16(v) => v.to_f32_vec().into(),
            Self::Bf16(v) => v.to_f32_vec().into(),
        }
    }

    fn slots(&self) -> SlotVectors<'_> {
        match self {
            Self::F32(v) => SlotVectors::F32(v),
            Self::F16(v) => SlotVectors::F16(v),
            Self::Bf16(v) => SlotVectors::Bf16(v),
        }
    }

    fn bytes(&self) -> u64 {
        (match self {
            Self::F32(v) => v.capacity() * size_of::<f32>(),
            Self::F16(v) => v.capacity() * size_of::<f16>(),
            Self::Bf16(v) => v.capacity() * size_of::<bf16>(),
        }) as u64
    }

    /// The same type of storage, holding exactly `x`.
    fn replaced(&self, x: &[f32]) -> Self {
        let mut new = Self::new(self.kind());
        new.reserve(x.len(), 0);
        new.push(x);
        new
    }
}

/// One KV head's slots.
#[derive(Debug)]
struct Head {
    keys: Vectors,
    values: Vectors,
    positions: Vec<u32>,
    /// Tokens that each of the first slots stands for, as compression left them; every slot behind them stands for one.
    counts: Option<Vec<u32>>,
    /// `None` while all are zero.
    logit_bias: Option<Vec<f32>>,
    /// Attention mass so far, kept during prefill only, for the policies that ask for it.
    mass: Vec<f32>,
    mass_window: Vec<f32>,
}

impl Head {
    fn new(kind: CacheType) -> Self {
        Self {
            keys: Vectors::new(kind),
            values: Vectors::new(kind),
            positions: Vec::new(),
            counts: None,
            logit_bias: None,
            mass: Vec::new(),
            mass_window: Vec::new(),
        }
    }

    fn bytes(&self) -> u64 {
        let words = |n: usize| 4 * n as u64;
        self.keys.bytes()
            + self.values.bytes()
            + words(self.positions.capacity())
            + words(self.counts.as_ref().map_or(0, Vec::capacity))
            + words(self.logit_bias.as_ref().map_or(0, Vec::capacity))
            + words(self.mass.capacity() + self.mass_window.capacity())
    }

    fn apply(&mut self, plan: &HeadPlan, head_dim: usize) {
        self.keys = self.keys.replaced(&plan.fold_keys(&self.keys.widened(), head_dim));
        self.values = self.values.replaced(&plan.fold_values(&self.values.widened(), head_dim));
        self.positions = plan.slots.iter().map(|slot| self.positions[slot.pivot as usize]).collect();
        let count_of = |i: u32| self.counts.as_ref().and_then(|c| c.get(i as usize)).copied().unwrap_or(1);
        let counts: Vec<u32> = plan
            .slots
            .iter()
            .map(|slot| plan.members_of(slot).iter().filter(|m| m.weighs()).map(|m| count_of(m.source)).sum())
            .collect();
        let old_bias = self.logit_bias.take();
        let bias: Vec<f32> = plan
            .slots
            .iter()
            .map(|slot| match plan.members_of(slot) {
                [only] => old_bias.as_ref().map_or(0.0, |b| b[only.source as usize]) + slot.logit_bias,
                _ => slot.logit_bias,
            })
            .collect();
        self.counts = counts.iter().any(|c| *c != 1).then_some(counts);
        self.logit_bias = bias.iter().any(|b| *b != 0.0).then_some(bias);
    }
}

/// How a cache is to be compressed.
#[derive(Debug)]
pub struct Compression {
    /// Name for messages and artifacts.
    pub name: String,
    /// The policy.
    pub policy: Box<dyn Policy>,
    /// Slots kept per token seen, over all layers and heads; ignored by policies that set their own size.
    pub kept_fraction: f64,
    /// Layers left whole; they count in the budget.
    pub skip_layers: BTreeSet<usize>,
}

impl Compression {
    /// Slots that every compressed head of a layer may keep of `n_tokens`.
    ///
    /// Shares that are no whole number are rounded up for some heads and down for others, so that the total is the
    /// nearest to kept_fraction · tokens · heads.
    fn budget(&self, n_layers: usize, n_kv_heads: usize, head: usize, n_tokens: usize) -> Result<usize, RuntimeError> {
        let kept_fraction = self.kept_fraction;
        if !(kept_fraction > 0.0 && kept_fraction <= 1.0) {
            return Err(RuntimeError::BadKeptFraction(kept_fraction));
        }
        let n_skipped = self.skip_layers.iter().filter(|layer| **layer < n_layers).count();
        let rest = kept_fraction * n_layers as f64 - n_skipped as f64;
        if rest <= 0.0 || n_skipped == n_layers {
            return Err(RuntimeError::SkippedTooMuch { n_skipped, n_layers, kept_fraction });
        }
        let layer = head / n_kv_heads;
        let before = self.skip_layers.iter().filter(|skipped| **skipped < layer).count();
        let rank = head - before * n_kv_heads;
        let share = rest / (n_layers - n_skipped) as f64 * n_tokens as f64;
        // Shares are summed before they are rounded, so that no head's rounding adds to another's.
        let up_to = |n: usize| (share * n as f64).round() as usize;
        Ok((up_to(rank + 1) - up_to(rank)).clamp(1, n_tokens.max(1)))
    }
}

/// Keys and values of all heads, compressed layer by layer as the last chunk of the prompt passes.
///
/// With one chunk no more than one layer is ever whole. Allocated bytes are those of the slots, plus at most a 128th (or four slots).
#[derive(Debug)]
pub struct RaggedCache {
    n_layers: usize,
    n_kv_heads: usize,
    head_dim: usize,
    kind: CacheType,
    heads: Vec<Head>,
    compression: Option<Compression>,
    /// Tokens of the prompt while it passes; `None` before and after.
    prompt_tokens: Option<usize>,
    counters: Vec<Counters>,
    compress_time: Duration,
    n_seen: usize,
}

impl RaggedCache {
    /// An empty cache for a model.
    pub fn new(config: &Config, kind: CacheType, compression: Option<Compression>) -> Self {
        Self {
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            kind,
            heads: (0..config.n_layers * config.n_kv_heads).map(|_| Head::new(kind)).collect(),
            compression,
            prompt_tokens: None,
            counters: vec![Counters::default(); config.n_layers],
            compress_time: Duration::ZERO,
            n_seen: 0,
        }
    }

    /// Announces a prompt, whose last chunk triggers compression.
    pub fn begin_prompt(&mut self, n_tokens: usize) {
        self.prompt_tokens = Some(n_tokens);
    }

    /// Ends the prompt: checks that a compression did something, and gives freed memory back.
    ///
    /// - Errors: [`RuntimeError::NothingCompressed`] when a compression was asked for and every slot is still there,
    ///   unless the budget is the whole cache
    pub fn end_prompt(&mut self) -> Result<(), RuntimeError> {
        self.prompt_tokens = None;
        let Some(compression) = &self.compression else { return Ok(()) };
        let total = self.counters();
        let policy = &compression.policy;
        let asked_for_all = !policy.compresses() || (!policy.sets_own_size() && compression.kept_fraction >= 1.0);
        if !asked_for_all && !total.did_something() {
            return Err(RuntimeError::NothingCompressed { policy: compression.name.clone(), n_slots: total.seen });
        }
        crate::runtime::release_freed_memory();
        Ok(())
    }

    /// Bytes allocated for slots and what belongs to them.
    pub fn bytes(&self) -> u64 {
        self.heads.iter().map(Head::bytes).sum()
    }

    /// Bytes that the same tokens take uncompressed: keys, values and positions of every token and head.
    pub fn full_bytes(&self) -> u64 {
        let element = if self.kind == CacheType::F32 { 4 } else { 2 };
        (self.heads.len() * self.n_seen * (2 * self.head_dim * element + 4)) as u64
    }

    /// Slots stored, over all heads.
    pub fn n_slots(&self) -> usize {
        self.heads.iter().map(|head| head.positions.len()).sum()
    }

    /// Tokens that passed.
    pub fn n_seen(&self) -> usize {
        self.n_seen
    }

    /// Slots stored per token seen, over all layers and heads; `None` of an empty cache.
    pub fn kept_fraction(&self) -> Option<f64> {
        let seen = self.n_seen * self.heads.len();
        (seen > 0).then(|| self.n_slots() as f64 / seen as f64)
    }

    /// What compression did in each layer.
    pub fn counters_by_layer(&self) -> &[Counters] {
        &self.counters
    }

    /// What compression did over all layers.
    pub fn counters(&self) -> Counters {
        let mut total = Counters::default();
        self.counters.iter().for_each(|c| total.add(*c));
        total
    }

    /// Time spent planning and applying.
    pub fn compress_time(&self) -> Duration {
        self.compress_time
    }

    /// Tokens that each slot of a head stands for.
    pub fn counts(&self, layer: usize, kv_head: usize) -> Vec<u32> {
        let head = &self.heads[layer * self.n_kv_heads + kv_head];
        let mut counts = head.counts.clone().unwrap_or_default();
        counts.resize(head.positions.len(), 1);
        counts
    }

    fn compress_layer(&mut self, layer: usize) -> Result<(), RuntimeError> {
        let Some(compression) = &self.compression else { return Ok(()) };
        let started = Instant::now();
        let (n_layers, n_kv_heads, head_dim) = (self.n_layers, self.n_kv_heads, self.head_dim);
        let skip = compression.skip_layers.contains(&layer);
        let heads = &mut self.heads[layer * n_kv_heads..(layer + 1) * n_kv_heads];
        for head in heads.iter_mut() {
            if let Some(counts) = &mut head.counts {
                counts.resize(head.positions.len(), 1);
            }
        }
        // Widened and applied on this thread: what worker threads allocate and free, the allocator keeps to itself.
        let keys: Vec<Cow<'_, [f32]>> = heads.iter().map(|head| head.keys.widened()).collect();
        let plans: Result<Vec<HeadPlan>, RuntimeError> = heads
            .par_iter()
            .zip(&keys)
            .enumerate()
            .map(|(kv_head, (head, keys))| {
                let n_tokens = head.positions.len();
                let budget_tokens = compression.budget(n_layers, n_kv_heads, layer * n_kv_heads + kv_head, n_tokens)?;
                if skip {
                    return Ok(HeadPlan::identity(n_tokens));
                }
                let view = HeadView {
                    layer,
                    kv_head,
                    n_kv_heads,
                    head_dim,
                    keys,
                    mass: &head.mass,
                    mass_window: &head.mass_window,
                    counts: head.counts.as_deref(),
                };
                let plan = compression
                    .policy
                    .plan(&view, budget_tokens)
                    .map_err(|source| RuntimeError::Unmeetable { layer, kv_head, budget_tokens, n_tokens, source })?;
                plan.check(n_tokens).map_err(|source| RuntimeError::FaultyPlan {
                    policy: compression.name.clone(),
                    layer,
                    kv_head,
                    source,
                })?;
                Ok(plan)
            })
            .collect();
        drop(keys);
        let plans = plans?;
        let mut total = Counters::default();
        for (head, plan) in heads.iter().zip(&plans) {
            total.add(plan.counters(head.positions.len()));
        }
        for (head, plan) in heads.iter_mut().zip(&plans) {
            head.apply(plan, head_dim);
            head.mass = Vec::new();
            head.mass_window = Vec::new();
        }
        self.counters[layer] = total;
        self.compress_time += started.elapsed();
        Ok(())
    }
}

impl KvStore for RaggedCache {
    fn needs(&self) -> StoreNeeds {
        let (Some(n_tokens), Some(compression)) = (self.prompt_tokens, &self.compression) else {
            return StoreNeeds::default();
        };
        let needs = compression.policy.needs();
        StoreNeeds {
            k_pre_rope: false,
            mass: needs.mass,
            mass_from_position: needs.mass_window.map(|window| n_tokens.saturating_sub(window)),
        }
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), StoreError> {
        let (n, head_dim) = (chunk.n_tokens, self.head_dim);
        let heads = &mut self.heads[chunk.layer * self.n_kv_heads..(chunk.layer + 1) * self.n_kv_heads];
        for (kv_head, head) in heads.iter_mut().enumerate() {
            let step = growth(head.positions.len());
            head.keys.reserve(n * head_dim, step * head_dim);
            head.values.reserve(n * head_dim, step * head_dim);
            reserve(&mut head.positions, n, step);
            for token in 0..n {
                let at = (token * self.n_kv_heads + kv_head) * head_dim;
                head.keys.push(&chunk.k[at..at + head_dim]);
                head.values.push(&chunk.v[at..at + head_dim]);
            }
            head.positions.extend((chunk.first_position..chunk.first_position + n).map(|p| p as u32));
            if let Some(bias) = &mut head.logit_bias {
                reserve(bias, n, step);
                bias.resize(bias.len() + n, 0.0);
            }
        }
        if chunk.layer == 0 {
            self.n_seen += n;
        }
        Ok(())
    }

    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>> {
        self.heads[layer * self.n_kv_heads..(layer + 1) * self.n_kv_heads]
            .iter()
            .map(|head| HeadSlots {
                keys: head.keys.slots(),
                values: head.values.slots(),
                logit_bias: head.logit_bias.as_deref(),
                positions: &head.positions,
            })
            .collect()
    }

    fn attended(&mut self, chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), StoreError> {
        let heads = &mut self.heads[chunk.layer * self.n_kv_heads..(chunk.layer + 1) * self.n_kv_heads];
        let accumulate = |sum: &mut Vec<f32>, new: &[f32]| {
            sum.resize(new.len(), 0.0);
            axpy(1.0, new, sum);
        };
        heads.iter_mut().zip(&mass.all).for_each(|(head, new)| accumulate(&mut head.mass, new));
        heads.iter_mut().zip(&mass.window).for_each(|(head, new)| accumulate(&mut head.mass_window, new));
        if self.prompt_tokens == Some(chunk.first_position + chunk.n_tokens) {
            self.compress_layer(chunk.layer)?;
        }
        Ok(())
    }
}
