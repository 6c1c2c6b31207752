//! The ragged cache: every KV head of every layer has its own number of slots, and memory is what is stored.

mod planning;
mod recording;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::format::scorer::Scorer;
use crate::math::{Float, LayerRopes, Projections, reach};
use crate::merge::{Counters, Origin, Repetition, Sampling, Weighing};
use crate::model::{AttnMass, ChunkStates, Config, HeadSlots, KvStore, StoreNeeds};
use crate::policy::{Needs, Scope, SlotExtras, SlotLayout};
use crate::runtime::cache::planning::NewLayer;
use crate::runtime::queries::QuerySample;
use crate::runtime::repeated::Repeated;
use crate::runtime::slots::{Head, SPARE_PART, Unstorable};
use crate::runtime::{Budget, Compression, RuntimeError};

/// Part of a prompt that is passing.
#[derive(Clone, Copy, Debug)]
struct Passing {
    /// Position behind the prompt.
    prompt_end: usize,
    /// Position behind the part whose last token triggers compression.
    part_end: usize,
}

/// Part of a prompt that is repeated behind the prompt.
#[derive(Clone, Copy, Debug)]
struct Replay {
    /// Position in the prompt of the first token that is repeated.
    first: usize,
    /// Tokens that ask for the repetition.
    n_asking: usize,
    /// Tokens seen before them.
    n_seen: usize,
    /// Tokens that are repeated at a time, at most.
    chunk_tokens: usize,
}

/// Keys and values of all heads, compressed layer by layer as the last tokens of a prompt, or of a part of it, pass; and
/// in decode, where a head has outgrown its budget.
///
/// When a prompt passes in one chunk, no more than one layer is ever whole. Allocated bytes are those of the slots, plus
/// at most a 256th (or two slots).
#[derive(Debug)]
pub struct RaggedCache {
    n_layers: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// The sliding window of each layer.
    windows: Vec<Option<usize>>,
    kind: Float,
    heads: Vec<Head>,
    compression: Option<Compression>,
    group: usize,
    ropes: LayerRopes,
    /// The model's, where a compression looks at them.
    projections: Option<Arc<Projections>>,
    /// What is recorded for compressions to come.
    needs: Needs,
    /// Who predicts what tokens are worth, each once.
    scorers: Vec<Arc<Scorer>>,
    /// Queries to sample, each once.
    samplings: Vec<Sampling>,
    samples: Vec<QuerySample>,
    /// Attention from repetitions of the prompt, each once; empty but while a prompt waits for compression.
    repeated: Vec<Repeated>,
    /// `None` between prompts and in decode.
    passing: Option<Passing>,
    /// While a prompt is repeated.
    replay: Option<Replay>,
    /// Slots of each head when it was last compressed.
    settled: Vec<usize>,
    /// Times that each layer was compressed.
    rewrites: Vec<u64>,
    /// Slots merged and evicted so far in each layer.
    gone: Vec<Counters>,
    /// Whether any head was asked to drop a slot.
    asked: bool,
    compress_time: Duration,
    n_seen: usize,
}

impl RaggedCache {
    /// An empty cache for a model.
    pub fn new(config: &Config, kind: Float, compression: Option<Compression>) -> Self {
        let needs = compression.as_ref().map_or_else(Needs::default, Compression::needs);
        let repeated = |wanted| Repeated::new(wanted, config.n_layers * config.n_kv_heads);
        let samplings = compression.as_ref().map(samplings).unwrap_or_default();
        let n_heads = config.n_layers * config.n_kv_heads;
        Self {
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            windows: config.windows.clone(),
            kind,
            heads: (0..n_heads).map(|_| Head::new(kind, config.head_dim)).collect(),
            compression,
            group: config.n_q_heads / config.n_kv_heads,
            ropes: config.ropes(),
            projections: None,
            scorers: needs.learned.clone().into_iter().collect(),
            samplings,
            samples: Vec::new(),
            repeated: needs.repetition.into_iter().map(repeated).collect(),
            needs,
            passing: None,
            replay: None,
            settled: vec![0; n_heads],
            rewrites: vec![0; config.n_layers],
            gone: vec![Counters::default(); config.n_layers],
            asked: false,
            compress_time: Duration::ZERO,
            n_seen: 0,
        }
    }

    /// An empty cache that stays whole and records what the given compressions need, so that after one prefill
    /// [`RaggedCache::compressed`] makes a cache for each of them.
    ///
    /// - Errors: [`RuntimeError::DifferentWindows`] when two policies need attention mass over windows of different sizes
    pub fn recording<'a>(
        config: &Config,
        kind: Float,
        compressions: impl IntoIterator<Item = &'a Compression>,
    ) -> Result<Self, RuntimeError> {
        let (mut needs, mut all) = (Needs::default(), Vec::new());
        let (mut repetitions, mut scorers) = (Vec::<Repetition>::new(), Vec::<Arc<Scorer>>::new());
        for compression in compressions {
            for sampling in samplings(compression) {
                if !all.contains(&sampling) {
                    all.push(sampling);
                }
            }
            let wanted = compression.needs();
            needs.mass |= wanted.mass;
            repetitions.extend(wanted.repetition.filter(|wanted| !repetitions.contains(wanted)));
            scorers.extend(wanted.learned.filter(|wanted| !scorers.contains(wanted)));
            needs.projection |= wanted.projection;
            match (needs.mass_window, wanted.mass_window) {
                (Some(a), Some(b)) if a != b => return Err(RuntimeError::DifferentWindows(a, b)),
                (known, new) => needs.mass_window = known.or(new),
            }
        }
        let whole = Self::new(config, kind, None);
        let repeated = repetitions.into_iter().map(|wanted| Repeated::new(wanted, whole.heads.len())).collect();
        Ok(Self { needs, scorers, samplings: all, repeated, ..whole })
    }

    /// A compressed copy of this whole cache, bit for bit what the same compression gives at the end of the same prompt.
    ///
    /// - Errors: [`RuntimeError::NotRecorded`] when this cache is compressed, has not recorded what the policy needs, or
    ///   tokens came after the prompt; those of planning
    pub fn compressed(&self, compression: &Compression) -> Result<Self, RuntimeError> {
        let fault = |what| Err(RuntimeError::NotRecorded { policy: compression.name.clone(), what });
        let needs = compression.needs();
        if self.compression.is_some() || self.passing.is_some() {
            return fault("a whole cache at the end of a prompt");
        }
        if compression.every_tokens.is_some() {
            return fault("compression between the parts of a prompt, which changes what follows");
        }
        if needs.mass && self.heads.iter().any(|head| head.mass.len() != head.len()) {
            return fault("attention mass of every token");
        }
        if needs.mass_window.is_some()
            && (needs.mass_window != self.needs.mass_window
                || self.heads.iter().any(|head| head.mass_window.len() != head.len()))
        {
            return fault("attention mass over its window of queries");
        }
        if samplings(compression).iter().any(|wanted| !self.sample(*wanted).is_some_and(|sample| sample.has(0))) {
            return fault("a sample of the prompt's queries");
        }
        let mut copy = Self {
            heads: Vec::new(),
            compression: None,
            scorers: needs.learned.clone().into_iter().collect(),
            samplings: samplings(compression),
            samples: Vec::new(),
            repeated: needs.repetition.into_iter().map(|wanted| Repeated::new(wanted, self.heads.len())).collect(),
            needs,
            settled: vec![0; self.heads.len()],
            rewrites: vec![0; self.n_layers],
            gone: self.gone.clone(),
            ropes: self.ropes.clone(),
            windows: self.windows.clone(),
            projections: self.projections.clone(),
            ..*self
        };
        let started = Instant::now();
        for layers in (0..self.n_layers).filter_map(|layer| self.due(compression, layer)) {
            let sizes = self.sizes(compression, layers.clone())?;
            for (layer, sizes) in layers.zip(sizes.chunks_exact(self.n_kv_heads)) {
                let new = self.rewritten(compression, layer, sizes, compression.decode_slack.is_some())?;
                copy.settle(layer, &new);
                copy.heads.extend(new.heads);
            }
        }
        copy.compress_time += started.elapsed();
        copy.compression = Some(compression.clone());
        copy.end_prompt()?;
        Ok(copy)
    }

    /// Whether a compression looks at the model's output projections, and the cache does not know them yet.
    pub fn wants_projections(&self) -> bool {
        self.needs.projection && self.projections.is_none()
    }

    /// Tells the cache the output projections of its model, before a prompt's last tokens pass.
    pub fn set_projections(&mut self, projections: Arc<Projections>) {
        self.projections = Some(projections);
    }

    /// Announces a prompt of so many tokens, at whose end (and between parts, as the compression says) compression comes.
    pub fn begin_prompt(&mut self, n_tokens: usize) {
        let prompt_end = self.n_seen + n_tokens;
        self.begin_part(prompt_end);
    }

    fn begin_part(&mut self, prompt_end: usize) {
        let every = self.compression.as_ref().and_then(|compression| compression.every_tokens);
        let part_end = every.map_or(prompt_end, |every| self.n_seen.saturating_add(every.max(1)).min(prompt_end));
        self.passing = Some(Passing { prompt_end, part_end });
        let draw = |sampling: &Sampling| QuerySample::draw(*sampling, self.group, self.n_layers, self.n_seen..part_end);
        self.samples = self.samplings.iter().map(draw).collect();
        self.repeated.iter_mut().for_each(|repeated| repeated.forget(0..self.heads.len()));
    }

    /// Whether a prompt has to be repeated before it is compressed.
    pub(super) fn wants_replay(&self) -> bool {
        !self.replays().is_empty()
    }

    /// Tokens that are to be repeated at a time, for each repetition that the prompt needs.
    pub(super) fn replays(&self) -> BTreeSet<usize> {
        let of_queries = self.samplings.iter().filter(|sampling| sampling.from == Origin::Replay);
        let of_queries = of_queries.map(|_| Repetition::default().chunk);
        of_queries.chain(self.repeated.iter().map(|repeated| repeated.wanted().chunk)).collect()
    }

    /// Whether a repetition of so many tokens at a time counts attention so.
    pub(super) fn repeats_by(&self, chunk_tokens: usize, by: Weighing) -> bool {
        let mut wanted = self.repeated.iter().map(Repeated::wanted);
        wanted.any(|wanted| wanted.chunk == chunk_tokens && wanted.by == by)
    }

    /// Refuses a repetition that ends at a position from which some layer's window does not reach back over the prompt.
    ///
    /// - Errors: [`RuntimeError::WindowTooShort`]
    pub(super) fn check_sees_back(&self, n_tokens: usize) -> Result<(), RuntimeError> {
        let short = self
            .windows
            .iter()
            .enumerate()
            .find_map(|(layer, window)| Some((layer, (*window)?)).filter(|x| x.1 < n_tokens));
        short.map_or(Ok(()), |(layer, window)| Err(RuntimeError::WindowTooShort { layer, window, n_tokens }))
    }

    /// Announces tokens that ask for a repetition of the prompt from position `first` on, and the repetition of `chunk_tokens` at
    /// most; nothing of them stays.
    pub(super) fn begin_replay(&mut self, first: usize, n_asking: usize, chunk_tokens: usize) {
        self.replay = Some(Replay { first, n_asking, n_seen: self.n_seen, chunk_tokens });
    }

    /// Forgets all of a repetition but the sampled queries.
    pub(super) fn end_replay(&mut self) {
        let Some(Replay { n_seen, .. }) = self.replay.take() else { return };
        let n_new = self.n_seen - n_seen;
        self.heads.iter_mut().for_each(|head| head.pop(n_new));
        self.rewrites.iter_mut().for_each(|rewrites| *rewrites += 1);
        self.n_seen = n_seen;
    }

    fn compresses_in_decode(&self) -> bool {
        self.compression.as_ref().is_some_and(|compression| compression.decode_slack.is_some())
    }

    fn sample(&self, sampling: Sampling) -> Option<&QuerySample> {
        self.samples.iter().find(|sample| sample.sampling() == sampling)
    }

    /// Tokens of the prompt that may pass before the next compression.
    pub fn part_left(&self) -> Option<usize> {
        self.passing.map(|passing| passing.part_end - self.n_seen)
    }

    /// Ends the prompt: checks that a compression did something, and gives freed memory back.
    ///
    /// - Errors: [`RuntimeError::NothingCompressed`] when a compression was asked for and every slot is still there,
    ///   unless the budget is the whole cache; those of planning where the prompt had to be repeated first
    pub fn end_prompt(&mut self) -> Result<(), RuntimeError> {
        if self.wants_replay() && self.passing.is_some() {
            self.compress(0..self.n_layers, self.compresses_in_decode())?;
        }
        self.passing = None;
        let Some(compression) = &self.compression else { return Ok(()) };
        let total = self.counters();
        if self.asked && compression.wants_less() && !total.did_something() {
            return Err(RuntimeError::NothingCompressed { policy: compression.name.clone(), n_slots: total.seen });
        }
        crate::runtime::release_freed_memory();
        Ok(())
    }

    /// Refuses compressions that come when no sample of queries is at hand.
    ///
    /// - Errors: [`RuntimeError::NeedsPrompt`]
    pub(super) fn check_has_queries(&self) -> Result<(), RuntimeError> {
        let Some(Compression { name, policy, every_tokens, decode_slack, .. }) = &self.compression else {
            return Ok(());
        };
        let fault = |when| Err(RuntimeError::NeedsPrompt { policy: name.clone(), when });
        if policy.needs().prompt_only() && decode_slack.is_some() {
            return fault("in decode");
        }
        if self.wants_replay() && every_tokens.is_some() {
            return fault("between the parts of a prompt");
        }
        Ok(())
    }

    /// Refuses a budget of slots that one prompt and its new tokens can never exceed.
    ///
    /// - Errors: [`RuntimeError::HoldsAll`]
    pub fn check_will_act(&self, n_prompt_tokens: usize, max_new_tokens: usize) -> Result<(), RuntimeError> {
        let Some(Compression { budget: Budget::Tokens(budget_tokens), decode_slack, policy, .. }) = &self.compression
        else {
            return Ok(());
        };
        // Tokens behind the prompt are compressed where there is a slack only; the last one enters no cache.
        let n_new = decode_slack.map_or(0, |_| max_new_tokens.saturating_sub(1));
        let n_seen = self.n_seen.saturating_add(n_prompt_tokens).saturating_add(n_new);
        let n_tokens = self.windows.iter().map(|window| reach(*window, n_seen)).max().unwrap_or(0);
        if policy.sets_own_size() || n_tokens > budget_tokens.saturating_add(decode_slack.unwrap_or(0)) {
            return Ok(());
        }
        Err(RuntimeError::HoldsAll { budget_tokens: *budget_tokens, n_tokens })
    }

    /// Bytes allocated for slots and what belongs to them.
    pub fn bytes(&self) -> u64 {
        self.heads.iter().map(Head::bytes).sum()
    }

    /// Bytes that the same tokens take uncompressed: keys, values and positions of every token and head, in layers with a window
    /// those of the tokens within it.
    pub fn full_bytes(&self) -> u64 {
        let layout = SlotLayout { element: self.kind, head_dim: self.head_dim, extras: SlotExtras::default() };
        (self.full_slots() * layout.bytes()) as u64
    }

    /// Slots of the same tokens uncompressed, over all heads.
    fn full_slots(&self) -> usize {
        self.n_kv_heads * self.reaches().iter().sum::<usize>()
    }

    /// Of the tokens seen, how many each layer's whole cache holds.
    fn reaches(&self) -> Vec<usize> {
        self.windows.iter().map(|window| reach(*window, self.n_seen)).collect()
    }

    /// Slots stored within the layers' windows, over all heads.
    pub fn n_slots(&self) -> usize {
        (0..self.n_layers).map(|layer| self.n_slots_of(layer)).sum()
    }

    fn n_slots_of(&self, layer: usize) -> usize {
        let first = self.n_seen - reach(self.windows[layer], self.n_seen);
        self.of_layer(layer).iter().map(|head| head.len() - head.n_before(first)).sum()
    }

    /// Tokens that passed; the next one stands at this position.
    pub fn n_seen(&self) -> usize {
        self.n_seen
    }

    /// Slots stored per slot of the whole cache, over all layers and heads; `None` of an empty cache.
    pub fn kept_fraction(&self) -> Option<f64> {
        let full = self.full_slots();
        (full > 0).then(|| self.n_slots() as f64 / full as f64)
    }

    /// What became of the tokens within each layer's reach: stored, merged or evicted. Of those that went, more recent ones may
    /// have gone than the window still holds: evictions are what neither slots nor merges account for.
    pub fn counters_by_layer(&self) -> Vec<Counters> {
        let of_layer = |(layer, gone): (usize, &Counters)| {
            let (seen, kept) = (reach(self.windows[layer], self.n_seen) * self.n_kv_heads, self.n_slots_of(layer));
            if self.windows[layer].is_none() {
                return Counters { seen, kept, ..*gone };
            }
            let merged = gone.merged.min(seen - kept);
            Counters { seen, kept, merged, evicted: seen - kept - merged }
        };
        self.gone.iter().enumerate().map(of_layer).collect()
    }

    /// What became of the tokens seen, over all layers.
    pub fn counters(&self) -> Counters {
        let mut total = Counters::default();
        self.counters_by_layer().into_iter().for_each(|counters| total.add(counters));
        total
    }

    /// Time spent planning and applying.
    pub fn compress_time(&self) -> Duration {
        self.compress_time
    }

    /// Tokens that each slot of a head stands for.
    pub fn counts(&self, layer: usize, kv_head: usize) -> Vec<u32> {
        let head = &self.of_layer(layer)[kv_head];
        head.counts().unwrap_or_else(|| vec![1; head.len()])
    }

    fn of_layer(&self, layer: usize) -> &[Head] {
        &self.heads[layer * self.n_kv_heads..(layer + 1) * self.n_kv_heads]
    }

    /// Layers that are compressed when the last token of a prompt, or of a part of it, has passed `layer`.
    fn due(&self, compression: &Compression, layer: usize) -> Option<Range<usize>> {
        match compression.policy.scope() {
            Scope::Head | Scope::Layer => Some(layer..layer + 1),
            Scope::Model => (layer + 1 == self.n_layers).then_some(0..self.n_layers),
        }
    }

    fn settle(&mut self, layer: usize, new: &NewLayer) {
        for (kv_head, counters) in new.counters.iter().enumerate() {
            self.gone[layer].add(*counters);
            self.settled[layer * self.n_kv_heads + kv_head] = counters.kept;
        }
        self.asked |= new.asked;
    }

    /// Drops slots that the layer's window has left behind after `n_seen` tokens, where a head has more than `spare` of them.
    fn leave_behind(&mut self, layer: usize, n_seen: usize, spare: usize) {
        let first = n_seen - reach(self.windows[layer], n_seen);
        let heads = &mut self.heads[layer * self.n_kv_heads..(layer + 1) * self.n_kv_heads];
        if heads.iter().any(|head| head.n_before(first) > spare) {
            heads.iter_mut().for_each(|head| head.remove_first(head.n_before(first)));
            self.rewrites[layer] += 1;
        }
    }

    fn compress(&mut self, layers: Range<usize>, keep_mass: bool) -> Result<(), RuntimeError> {
        let Some(compression) = self.compression.clone() else { return Ok(()) };
        let started = Instant::now();
        layers.clone().for_each(|layer| self.leave_behind(layer, self.n_seen, 0));
        let sizes = self.sizes(&compression, layers.clone())?;
        for (layer, sizes) in layers.zip(sizes.chunks_exact(self.n_kv_heads)) {
            let new = self.rewritten(&compression, layer, sizes, keep_mass)?;
            self.settle(layer, &new);
            self.rewrites[layer] += 1;
            self.samples.iter_mut().for_each(|sample| sample.forget(layer));
            let first = layer * self.n_kv_heads;
            self.repeated.iter_mut().for_each(|repeated| repeated.forget(first..first + self.n_kv_heads));
            self.heads.splice(first..first + self.n_kv_heads, new.heads);
        }
        self.compress_time += started.elapsed();
        Ok(())
    }

    /// Whether a head of the layer has outgrown what it may hold by more than the slack.
    fn has_outgrown(&self, layer: usize) -> Result<bool, RuntimeError> {
        let Some(compression @ Compression { decode_slack: Some(slack), policy, .. }) = &self.compression else {
            return Ok(false);
        };
        if !policy.compresses() || compression.skip_layers.contains(&layer) {
            return Ok(false);
        }
        for head in layer * self.n_kv_heads..(layer + 1) * self.n_kv_heads {
            // What heads share is shared out when they are compressed: until then a head may hold what it was left with.
            let limit = if policy.sets_own_size() || policy.scope() != Scope::Head {
                self.settled[head]
            } else {
                compression.budget_tokens(&self.reaches(), self.n_kv_heads, head)?
            };
            if self.heads[head].len() > limit.saturating_add(*slack) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The samples of queries that a compression looks at, each once.
fn samplings(compression: &Compression) -> Vec<Sampling> {
    if !compression.wants_less() {
        return Vec::new();
    }
    let of_score = compression.policy.needs().queries;
    let of_refit = compression.policy.refit().map(|refit| refit.sampling()).filter(|refit| Some(*refit) != of_score);
    of_score.into_iter().chain(of_refit).collect()
}

impl KvStore for RaggedCache {
    type Error = RuntimeError;

    fn needs(&self) -> StoreNeeds {
        let Needs { mass, mass_window, .. } = self.needs;
        if let Some(Replay { chunk_tokens, .. }) = self.replay {
            let inputs = self.repeats_by(chunk_tokens, Weighing::Output);
            return StoreNeeds { inputs, ..StoreNeeds::default() };
        }
        let inputs = self.predicts();
        match (self.passing, &self.compression) {
            (Some(Passing { part_end, .. }), _) => StoreNeeds {
                mass,
                mass_from_position: mass_window.map(|window| part_end.saturating_sub(window)),
                inputs,
                ..StoreNeeds::default()
            },
            // When the next compression will come is not known in decode: its window is all queries since the last one.
            (None, Some(Compression { decode_slack: Some(_), .. })) => {
                StoreNeeds { mass, mass_from_position: mass_window.map(|_| 0), inputs, ..StoreNeeds::default() }
            }
            (None, _) => StoreNeeds { inputs, ..StoreNeeds::default() },
        }
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), RuntimeError> {
        let n_kv_heads = self.n_kv_heads;
        let heads = &mut self.heads[chunk.layer * n_kv_heads..(chunk.layer + 1) * n_kv_heads];
        for (kv_head, head) in heads.iter_mut().enumerate() {
            let rows = chunk.k.every(n_kv_heads, kv_head).zip(chunk.v.every(n_kv_heads, kv_head));
            head.append(chunk.first_position, rows).map_err(|fault| fault.at(chunk.layer, kv_head))?;
        }
        self.take_predicted(chunk)?;
        self.take_repetition(chunk, None);
        self.take_queries(chunk);
        if chunk.layer == 0 {
            self.n_seen += chunk.n_tokens;
        }
        Ok(())
    }

    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>> {
        self.of_layer(layer).iter().map(Head::slots).collect()
    }

    fn rewrites(&self, layer: usize) -> u64 {
        self.rewrites[layer]
    }

    fn attended(&mut self, chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), RuntimeError> {
        let heads = &mut self.heads[chunk.layer * self.n_kv_heads..(chunk.layer + 1) * self.n_kv_heads];
        for (kv_head, head) in heads.iter_mut().enumerate() {
            let at = |fault: Unstorable| fault.at(chunk.layer, kv_head);
            mass.all.get(kv_head).map_or(Ok(()), |new| head.add_mass(new)).map_err(at)?;
            mass.window.get(kv_head).map_or(Ok(()), |new| head.add_mass_window(new)).map_err(at)?;
        }
        if self.replay.is_some() {
            return Ok(());
        }
        let end = chunk.first_position + chunk.n_tokens;
        // Moving the rest up costs as much as attention over it: so it waits until some slots have gathered, but for the end of
        // a prompt.
        let ends_part = self.passing.is_some_and(|passing| end >= passing.part_end);
        let spare = self.windows[chunk.layer].map_or(0, |window| if ends_part { 0 } else { window / SPARE_PART });
        self.leave_behind(chunk.layer, end, spare);
        let in_decode = self.compresses_in_decode();
        let due = self.compression.as_ref().and_then(|compression| self.due(compression, chunk.layer));
        match self.passing {
            Some(Passing { prompt_end, part_end }) if end >= part_end && !self.wants_replay() => {
                due.map_or(Ok(()), |layers| self.compress(layers, in_decode || end < prompt_end))?;
                if chunk.layer + 1 == self.n_layers && end < prompt_end {
                    self.begin_part(prompt_end);
                }
            }
            Some(_) => {}
            None => {
                if let Some(layers) = due {
                    let outgrown =
                        layers.clone().map(|layer| self.has_outgrown(layer)).collect::<Result<Vec<_>, _>>()?;
                    if outgrown.contains(&true) {
                        self.compress(layers, true)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn sensed(&mut self, chunk: &ChunkStates<'_>, gradient_norms: &[f32]) -> Result<(), RuntimeError> {
        self.take_repetition(chunk, Some(gradient_norms));
        Ok(())
    }
}
