//! A key/value store that writes what passes through it.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use crate::capture::CaptureOptions;
use crate::dump::DumpError;
use crate::dump::ElementType;
use crate::dump::Manifest;
use crate::dump::SampleWriter;
use crate::dump::State;
use crate::dump::TensorSpec;
use crate::files::ModelIdentity;
use crate::math::axpy;
use crate::model::AttnMass;
use crate::model::ChunkStates;
use crate::model::HeadSlots;
use crate::model::KvStore;
use crate::model::SlotVectors;
use crate::model::StoreError;
use crate::model::StoreNeeds;

/// The tensors of one sample, in the order in which they are written: integers first, so that every tensor is aligned.
pub(super) fn tensor_specs(
    model: &ModelIdentity,
    options: &CaptureOptions,
    n_tokens: usize,
    n_queries: usize,
) -> Vec<TensorSpec> {
    let spec = |name: String, element, shape: &[usize]| TensorSpec { name, element, shape: shape.to_vec() };
    let mut specs = vec![spec("token_ids".into(), ElementType::I64, &[n_tokens])];
    if options.states.contains(&State::Q) {
        let positions = |layer: &usize| spec(format!("layers.{layer}.q_positions"), ElementType::I64, &[n_queries]);
        specs.extend(options.layers.iter().map(positions));
    }
    for layer in &options.layers {
        for state in &options.states {
            let name = Manifest::tensor_name(*layer, *state);
            match state {
                State::Q => specs.push(spec(name, options.dtype, &[model.n_q_heads, n_queries, model.head_dim])),
                State::Mass => {
                    specs.push(spec(name.clone(), ElementType::F32, &[model.n_kv_heads, n_tokens]));
                    specs.push(spec(format!("{name}_window"), ElementType::F32, &[model.n_kv_heads, n_tokens]));
                }
                _ => specs.push(spec(name, options.dtype, &[model.n_kv_heads, n_tokens, model.head_dim])),
            }
        }
    }
    specs
}

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

/// Holds each layer until the prompt's last token has passed it, then writes it and lets go.
pub(super) struct Recorder<'a> {
    model: &'a ModelIdentity,
    options: &'a CaptureOptions,
    writer: SampleWriter,
    buffers: Vec<LayerBuffer>,
    n_tokens: usize,
    query_positions: &'a [usize],
    stop: &'a AtomicBool,
}

/// Tells an interrupt from a failure on its way through the model.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Stopped;

impl<'a> Recorder<'a> {
    pub(super) fn new(
        model: &'a ModelIdentity,
        options: &'a CaptureOptions,
        mut writer: SampleWriter,
        tokens: &[u32],
        query_positions: &'a [usize],
        stop: &'a AtomicBool,
    ) -> Result<Self, DumpError> {
        writer.write_i64("token_ids", tokens.iter().map(|id| i64::from(*id)))?;
        if options.states.contains(&State::Q) {
            for layer in &options.layers {
                let positions = query_positions.iter().map(|p| *p as i64);
                writer.write_i64(&format!("layers.{layer}.q_positions"), positions)?;
            }
        }
        let buffers = (0..model.n_layers).map(|_| LayerBuffer::default()).collect();
        Ok(Self { model, options, writer, buffers, n_tokens: tokens.len(), query_positions, stop })
    }

    pub(super) fn finish(self) -> Result<(String, u64), DumpError> {
        self.writer.finish()
    }

    fn write_layer(&mut self, layer: usize) -> Result<(), DumpError> {
        let buffer = std::mem::take(&mut self.buffers[layer]);
        if !self.options.layers.contains(&layer) {
            return Ok(());
        }
        for state in &self.options.states {
            let name = Manifest::tensor_name(layer, *state);
            match state {
                State::K => self.writer.write_f32(&name, &buffer.k.concat())?,
                State::V => self.writer.write_f32(&name, &buffer.v.concat())?,
                State::KPreRope => self.writer.write_f32(&name, &buffer.k_pre_rope.concat())?,
                State::Q => self.writer.write_f32(&name, &buffer.q.concat())?,
                State::Mass => {
                    self.writer.write_f32(&name, &buffer.mass.concat())?;
                    self.writer.write_f32(&format!("{name}_window"), &buffer.mass_window.concat())?;
                }
            }
        }
        Ok(())
    }
}

/// Appends `[T, heads, D]` to one growing `[n, D]` per head.
fn split_heads(x: &[f32], n_heads: usize, head_dim: usize, into: &mut Vec<Vec<f32>>) {
    into.resize(n_heads, Vec::new());
    for (head, vectors) in into.iter_mut().enumerate() {
        vectors.reserve_exact(x.len() / n_heads);
        for token in x.chunks_exact(n_heads * head_dim) {
            vectors.extend_from_slice(&token[head * head_dim..][..head_dim]);
        }
    }
}

impl KvStore for Recorder<'_> {
    fn needs(&self) -> StoreNeeds {
        let mass = self.options.states.contains(&State::Mass);
        StoreNeeds {
            k_pre_rope: self.options.states.contains(&State::KPreRope),
            mass,
            mass_from_position: mass.then(|| self.n_tokens.saturating_sub(self.options.window_tokens)),
        }
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), StoreError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Stopped.into());
        }
        let ModelIdentity { n_q_heads, n_kv_heads, head_dim, .. } = *self.model;
        let buffer = &mut self.buffers[chunk.layer];
        split_heads(chunk.k, n_kv_heads, head_dim, &mut buffer.k);
        split_heads(chunk.v, n_kv_heads, head_dim, &mut buffer.v);
        if !chunk.k_pre_rope.is_empty() {
            split_heads(chunk.k_pre_rope, n_kv_heads, head_dim, &mut buffer.k_pre_rope);
        }
        if self.options.states.contains(&State::Q) {
            let width = n_q_heads * head_dim;
            let end = chunk.first_position + chunk.n_tokens;
            for position in self.query_positions.iter().filter(|p| (chunk.first_position..end).contains(p)) {
                let row = &chunk.q[(position - chunk.first_position) * width..][..width];
                split_heads(row, n_q_heads, head_dim, &mut buffer.q);
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

    fn attended(&mut self, chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), StoreError> {
        let buffer = &mut self.buffers[chunk.layer];
        for (sums, new) in [(&mut buffer.mass, &mass.all), (&mut buffer.mass_window, &mass.window)] {
            sums.resize(new.len(), Vec::new());
            for (sum, new) in sums.iter_mut().zip(new) {
                sum.resize(new.len(), 0.0);
                axpy(1.0, new, sum);
            }
        }
        if chunk.first_position + chunk.n_tokens == self.n_tokens {
            self.write_layer(chunk.layer)?;
        }
        Ok(())
    }
}
