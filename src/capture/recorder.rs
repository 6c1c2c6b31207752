//! A key/value store that writes what passes through it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::capture::classes::token_texts;
use crate::files::ModelIdentity;
use crate::format::dump::{DumpError, Manifest, Sample, SampleWriter, State, Tensor};
use crate::math::{Rows, axpy};
use crate::model::tokenizer::{Tokenizer, TokenizerError};
use crate::model::{AttnMass, ChunkStates, HeadSlots, KvStore, SlotVectors, StoreNeeds};

/// One layer's states by head, until they are written.
#[derive(Default)]
struct LayerBuffer {
    k: Vec<Vec<f32>>,
    k_pre_rope: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    q: Vec<Vec<f32>>,
    positions: Vec<u32>,
    mass: Vec<Vec<f32>>,
    mass_window: Vec<Vec<f32>>,
}

/// Where a sample goes.
pub(super) struct SampleOutput {
    pub(super) path: PathBuf,
    pub(super) metadata: Vec<(&'static str, String)>,
    /// Tokens of the prompt and those to be generated.
    pub(super) n_tokens: usize,
    pub(super) query_positions: Vec<usize>,
}

/// Holds each layer until the sample's last token has passed it, then writes it and lets go.
pub(super) struct Recorder<'a> {
    /// What the dump holds of every sample.
    manifest: &'a Manifest,
    output: SampleOutput,
    /// Opened when the last token is known, as the tokens come first in the file.
    writer: Option<SampleWriter>,
    buffers: Vec<LayerBuffer>,
    tokens: Vec<u32>,
    /// `None` of a model without one.
    tokenizer: Option<&'a Tokenizer>,
    stop: &'a AtomicBool,
}

/// Why recording ended early.
#[derive(Debug)]
pub(super) enum RecordError {
    /// The user asked for it.
    Stopped,
    /// The dump's file.
    Dump(DumpError),
    /// The tokens have no text.
    Text(TokenizerError),
}

impl From<DumpError> for RecordError {
    fn from(error: DumpError) -> Self {
        Self::Dump(error)
    }
}

impl From<TokenizerError> for RecordError {
    fn from(error: TokenizerError) -> Self {
        Self::Text(error)
    }
}

impl<'a> Recorder<'a> {
    pub(super) fn new(
        manifest: &'a Manifest,
        output: SampleOutput,
        prompt: &[u32],
        tokenizer: Option<&'a Tokenizer>,
        stop: &'a AtomicBool,
    ) -> Self {
        let buffers = (0..manifest.model.n_layers).map(|_| LayerBuffer::default()).collect();
        Self { manifest, output, writer: None, buffers, tokens: prompt.to_vec(), tokenizer, stop }
    }

    /// Tells of a generated token before it is run.
    pub(super) fn push_token(&mut self, token: u32) {
        self.tokens.push(token);
    }

    pub(super) fn finish(mut self) -> Result<(String, u64), RecordError> {
        let writer = self.writer.take().map_or_else(|| self.open(), Ok)?;
        Ok(writer.finish()?)
    }

    fn open(&self) -> Result<SampleWriter, RecordError> {
        let SampleOutput { path, metadata, n_tokens, query_positions } = &self.output;
        let specs = self.manifest.tensor_specs(*n_tokens, query_positions.len());
        let mut metadata = metadata.clone();
        if let Some(tokenizer) = self.tokenizer {
            let texts = token_texts(tokenizer, &self.tokens)?;
            metadata.push((Sample::TOKEN_TEXTS, serde_json::json!(texts).to_string()));
        }
        let mut writer = SampleWriter::create(path, specs, &metadata)?;
        for tensor in self.manifest.tensors() {
            match tensor {
                Tensor::TokenIds => writer.write_i64(&tensor.name(), self.tokens.iter().map(|id| i64::from(*id)))?,
                Tensor::QueryPositions(_) => {
                    writer.write_i64(&tensor.name(), query_positions.iter().map(|p| *p as i64))?;
                }
                // Of the layers, as they come.
                Tensor::State(..) | Tensor::MassWindow(_) => {}
            }
        }
        Ok(writer)
    }

    fn write_layer(&mut self, layer: usize) -> Result<(), RecordError> {
        let buffer = std::mem::take(&mut self.buffers[layer]);
        if !self.manifest.layers.contains(&layer) {
            return Ok(());
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.open()?,
        };
        let of_all = |heads| self.held(heads);
        for tensor in self.manifest.layer_tensors(layer) {
            let name = tensor.name();
            match tensor {
                Tensor::State(_, State::K) => writer.write_f32_parts(&name, &of_all(&buffer.k))?,
                Tensor::State(_, State::V) => writer.write_f32_parts(&name, &of_all(&buffer.v))?,
                Tensor::State(_, State::KPreRope) => writer.write_f32_parts(&name, &buffer.k_pre_rope)?,
                Tensor::State(_, State::Q) => writer.write_f32_parts(&name, &buffer.q)?,
                Tensor::State(_, State::Mass) => writer.write_f32_parts(&name, &of_all(&buffer.mass))?,
                Tensor::MassWindow(_) => writer.write_f32_parts(&name, &of_all(&buffer.mass_window))?,
                Tensor::TokenIds | Tensor::QueryPositions(_) => {}
            }
        }
        self.writer = Some(writer);
        Ok(())
    }

    /// Those of all KV heads' values that are written.
    fn held<'b>(&self, heads: &'b [Vec<f32>]) -> Vec<&'b [f32]> {
        self.manifest.held_kv_heads().map(|head| &heads[head][..]).collect()
    }
}

/// Appends `[T, n_heads, D]` to one growing `[n, D]` per head of `heads`, for which `n_tokens` rows are set aside at first.
fn split_heads(
    x: Rows<'_>,
    heads: impl Iterator<Item = usize>,
    [n_heads, n_tokens]: [usize; 2],
    into: &mut Vec<Vec<f32>>,
) {
    for (at, head) in heads.enumerate() {
        if at == into.len() {
            into.push(Vec::with_capacity(n_tokens * x.width()));
        }
        x.every(n_heads, head).for_each(|row| into[at].extend_from_slice(row));
    }
}

impl KvStore for Recorder<'_> {
    type Error = RecordError;

    fn needs(&self) -> StoreNeeds {
        let mass = self.manifest.states.contains(&State::Mass);
        StoreNeeds {
            k_pre_rope: self.manifest.states.contains(&State::KPreRope),
            mass,
            mass_from_position: mass.then(|| self.output.n_tokens.saturating_sub(self.manifest.window_tokens)),
            inputs: false,
        }
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), RecordError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(RecordError::Stopped);
        }
        let ModelIdentity { n_q_heads, n_kv_heads, .. } = self.manifest.model;
        let SampleOutput { n_tokens, query_positions, .. } = &self.output;
        let is_wanted = self.manifest.layers.contains(&chunk.layer);
        let buffer = &mut self.buffers[chunk.layer];
        let shape = [n_kv_heads, *n_tokens];
        // Attention needs the keys and values of all heads.
        split_heads(chunk.k, 0..n_kv_heads, shape, &mut buffer.k);
        split_heads(chunk.v, 0..n_kv_heads, shape, &mut buffer.v);
        if is_wanted && !chunk.k_pre_rope.is_empty() {
            split_heads(chunk.k_pre_rope, self.manifest.held_kv_heads(), shape, &mut buffer.k_pre_rope);
        }
        if is_wanted && self.manifest.states.contains(&State::Q) {
            let shape = [n_q_heads, query_positions.len()];
            let end = chunk.first_position + chunk.n_tokens;
            for position in query_positions.iter().filter(|p| (chunk.first_position..end).contains(p)) {
                let first = (position - chunk.first_position) * n_q_heads;
                let of_token = chunk.q.part(first..first + n_q_heads);
                split_heads(of_token, self.manifest.held_heads(State::Q), shape, &mut buffer.q);
            }
        }
        buffer.positions.extend((chunk.first_position..chunk.first_position + chunk.n_tokens).map(|p| p as u32));
        Ok(())
    }

    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>> {
        let buffer = &self.buffers[layer];
        let slots = |(keys, values)| HeadSlots {
            keys: SlotVectors::F32(keys),
            values: SlotVectors::F32(values),
            logit_bias: None,
            positions: &buffer.positions,
        };
        buffer.k.iter().map(Vec::as_slice).zip(buffer.v.iter().map(Vec::as_slice)).map(slots).collect()
    }

    fn attended(&mut self, chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), RecordError> {
        let buffer = &mut self.buffers[chunk.layer];
        for (sums, new) in [(&mut buffer.mass, &mass.all), (&mut buffer.mass_window, &mass.window)] {
            sums.resize(new.len(), Vec::new());
            // Slots that came after an earlier chunk had no mass then.
            for (sum, new) in sums.iter_mut().zip(new) {
                sum.resize(new.len(), 0.0);
                axpy(1.0, new, sum);
            }
        }
        if chunk.first_position + chunk.n_tokens == self.output.n_tokens {
            self.write_layer(chunk.layer)?;
        }
        Ok(())
    }
}
