//! The forward pass in the tensor library's operations, for devices that our kernels do not run on.
//!
//! Runs on the CPU too, where the tests compare it with the kernels. Keys and values go through [`KvStore`] on the host as
//! they do there; the device keeps a padded copy of each layer's slots, to which a decode step adds what is new.

mod attention;
mod compute;
mod feed_forward;
mod linear;
mod mirror;

use candle_core::{D, DType, Device, Tensor};

pub use crate::model::device::compute::{Compute, Matmul};
pub(crate) use crate::model::device::mirror::Mirror;

use crate::math::{Float, LayerRopes, Rows, first_not_below};
use crate::model::ModelError;
use crate::model::attention::Geometry;
use crate::model::config::Config;
use crate::model::device::attention::attend;
use crate::model::device::feed_forward::DeviceFeedForward;
use crate::model::device::linear::{DeviceLinear, Place};
use crate::model::device::mirror::Target;
use crate::model::layer::Layer;
use crate::model::layers::Linear;
use crate::model::matrix::Matrix;
use crate::model::store::{ChunkStates, ForwardError, KvStore, LogitRows};

#[derive(Debug)]
struct DeviceLayer {
    attn_norm: Option<Tensor>,
    q: DeviceLinear,
    k: DeviceLinear,
    v: DeviceLinear,
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    o: DeviceLinear,
    attn_post_norm: Option<Tensor>,
    ffn_norm: Option<Tensor>,
    ffn: DeviceFeedForward,
    ffn_post_norm: Option<Tensor>,
}

/// Everything but the layers, as it is loaded.
pub(super) struct Ends<'a> {
    pub(super) embedding: &'a Matrix,
    pub(super) norm: &'a [f32],
    pub(super) output: &'a Linear,
    /// Whether the embedding is the output matrix too.
    pub(super) tied_output: bool,
}

/// A model's weights on a device.
#[derive(Debug)]
pub(super) struct DeviceDecoder {
    place: Place,
    embedding: Tensor,
    layers: Vec<DeviceLayer>,
    norm: Tensor,
    output: DeviceLinear,
    is_tied: bool,
}

impl DeviceDecoder {
    /// Without layers yet.
    pub(super) fn new(device: &Device, dtype: Float, ends: Ends<'_>) -> Result<Self, candle_core::Error> {
        let dtype = match dtype {
            Float::F16 => DType::F16,
            Float::Bf16 => DType::BF16,
            Float::F32 => DType::F32,
        };
        let place = Place { device: device.clone(), dtype };
        let embedding = place.weight(ends.embedding)?;
        let shared = ends.tied_output.then(|| embedding.clone());
        let output = DeviceLinear::with_weight(shared, ends.output, &place)?;
        Ok(Self {
            norm: place.vector(ends.norm)?,
            embedding,
            layers: Vec::new(),
            output,
            is_tied: ends.tied_output,
            place,
        })
    }

    /// Bytes of the weights on the device; the norms' are not worth counting.
    pub(super) fn bytes(&self) -> u64 {
        let layer = |layer: &DeviceLayer| {
            let maps = [&layer.q, &layer.k, &layer.v, &layer.o];
            maps.into_iter().map(DeviceLinear::bytes).sum::<u64>() + layer.ffn.bytes()
        };
        let output = if self.is_tied { 0 } else { self.output.bytes() };
        self.layers.iter().map(layer).sum::<u64>() + self.embedding_bytes() + output
    }

    /// Bytes of the experts that a token does not pass.
    pub(super) fn idle_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.ffn.idle_bytes()).sum()
    }

    /// Takes a layer to the device.
    pub(super) fn push(&mut self, layer: &Layer) -> Result<(), candle_core::Error> {
        let place = &self.place;
        let linear = |linear: &Linear| DeviceLinear::new(linear, place);
        let optional = |values: &Option<Vec<f32>>| values.as_ref().map(|values| place.vector(values)).transpose();
        self.layers.push(DeviceLayer {
            attn_norm: optional(&layer.attn_norm)?,
            q: linear(&layer.q)?,
            k: linear(&layer.k)?,
            v: linear(&layer.v)?,
            q_norm: optional(&layer.q_norm)?,
            k_norm: optional(&layer.k_norm)?,
            o: linear(&layer.o)?,
            attn_post_norm: optional(&layer.attn_post_norm)?,
            ffn_norm: optional(&layer.ffn_norm)?,
            ffn: DeviceFeedForward::new(&layer.ffn, place)?,
            ffn_post_norm: optional(&layer.ffn_post_norm)?,
        });
        Ok(())
    }

    /// Bytes of the embedding.
    pub(super) fn embedding_bytes(&self) -> u64 {
        (self.embedding.elem_count() * self.place.dtype.size_in_bytes()) as u64
    }

    /// Rows of a layer's output projection from `first` on, `[rows, n_q_heads · D]`, as many as `out` holds.
    pub(super) fn output_projection(&self, layer: usize, first: usize, out: &mut [f32]) -> Result<(), ModelError> {
        let DeviceLinear { weight, factor, .. } = &self.layers[layer].o;
        let rows = weight.narrow(0, first, out.len() / weight.dim(1)?)?;
        out.copy_from_slice(&host(&(rows.to_dtype(DType::F32)? * *factor)?)?);
        Ok(())
    }

    /// As [`crate::model::Pass::forward_by_layer`], for tokens and positions that were checked.
    pub(super) fn forward<S: KvStore + ?Sized>(
        &self,
        (config, ropes): (&Config, &LayerRopes),
        tokens: &[u32],
        first_position: usize,
        chunk_tokens: usize,
        (store, mirror): (&mut S, &mut Mirror),
        rows: LogitRows,
    ) -> Result<Vec<f32>, ForwardError<S::Error>> {
        let device = &self.place.device;
        let ids = Tensor::from_slice(tokens, tokens.len(), device)?;
        let mut x = self.embedding.index_select(&ids, 0)?.to_dtype(DType::F32)?;
        match config.embedding_factor() {
            1.0 => {}
            factor => x = (x * f64::from(factor))?,
        }
        let mut turns = Vec::new();
        for rope in ropes.kinds() {
            let table = |values| Tensor::from_vec(values, (tokens.len(), 1, rope.frequencies().len()), device);
            let (sin, cos) = rope.tables(first_position, tokens.len());
            turns.push(Turn { sin: table(sin)?, cos: table(cos)? });
        }
        let mut chunks = Vec::new();
        for start in (0..tokens.len()).step_by(chunk_tokens) {
            let n_tokens = chunk_tokens.min(tokens.len() - start);
            chunks.push(Chunk {
                x: x.narrow(0, start, n_tokens)?,
                turns: turns.iter().map(|turn| turn.part(start, n_tokens)).collect::<Result<_, _>>()?,
                first_position: first_position + start,
                n_tokens,
            });
        }
        for (index, layer) in self.layers.iter().enumerate() {
            for chunk in &mut chunks {
                let x = self.attention_block((config, ropes.kind_of(index)), index, layer, chunk, store, mirror)?;
                let h = normed(&x, layer.ffn_norm.as_ref(), config.rms_norm_eps)?;
                let given = layer.ffn.forward(&h)?;
                chunk.x = add_block(&x, given, layer.ffn_post_norm.as_ref(), config.rms_norm_eps)?;
                self.check_tensor(&chunk.x, index)?;
            }
        }
        let mut logits = Vec::new();
        let last = chunks.len() - 1;
        for (i, Chunk { x, n_tokens, .. }) in chunks.iter().enumerate() {
            let x = match rows {
                LogitRows::All => x.clone(),
                LogitRows::Last if i == last => x.narrow(0, n_tokens - 1, 1)?,
                LogitRows::Last | LogitRows::None => continue,
            };
            logits.extend(host(&self.output.forward(&rms_norm(&x, &self.norm, config.rms_norm_eps)?)?)?);
        }
        self.check(&logits, None, "logits")?;
        Ok(logits)
    }

    pub(super) fn check(&self, values: &[f32], layer: Option<usize>, state: &'static str) -> Result<(), ModelError> {
        if first_not_below(values, f32::INFINITY).is_none() {
            return Ok(());
        }
        let hint = match self.place.dtype {
            DType::F16 => {
                "f16 ends at 65,504: use --compute-dtype bf16 or f32, or --device cpu, which names a damaged weight"
            }
            _ => "use --device cpu, which names the weight if one is damaged",
        };
        Err(ModelError::NotFinite { layer, state, hint: hint.into() })
    }

    /// As [`Self::check`], of hidden states that stay on the device.
    fn check_tensor(&self, x: &Tensor, layer: usize) -> Result<(), ModelError> {
        // What is not finite times 0 is NaN, and so is the sum.
        let sum = (x * 0.0)?.sum_all()?.to_scalar::<f32>()?;
        self.check(&[sum], Some(layer), "hidden states")
    }

    /// The residual stream after attention.
    fn attention_block<S: KvStore + ?Sized>(
        &self,
        (config, rope): (&Config, usize),
        index: usize,
        layer: &DeviceLayer,
        chunk: &Chunk,
        store: &mut S,
        mirror: &mut Mirror,
    ) -> Result<Tensor, ForwardError<S::Error>> {
        let Config { n_q_heads, n_kv_heads, head_dim, rms_norm_eps, .. } = *config;
        let geometry = Geometry::of(config, index);
        let Chunk { x, turns, first_position, n_tokens } = chunk;
        let turn = &turns[rope];
        let needs = store.needs();
        let h = normed(x, layer.attn_norm.as_ref(), rms_norm_eps)?;
        let heads = |linear: &DeviceLinear, n_heads: usize| linear.forward(&h)?.reshape((*n_tokens, n_heads, head_dim));
        let (mut q, mut k, v) =
            (heads(&layer.q, n_q_heads)?, heads(&layer.k, n_kv_heads)?, heads(&layer.v, n_kv_heads)?);
        if let (Some(q_norm), Some(k_norm)) = (&layer.q_norm, &layer.k_norm) {
            // Each head by itself, or all of a token together.
            let norm = |x: &Tensor, norm: &Tensor| {
                let rows = x.reshape((*n_tokens, (), norm.elem_count()))?;
                rms_norm(&rows, norm, rms_norm_eps)?.reshape(x.shape())
            };
            (q, k) = (norm(&q, q_norm)?, norm(&k, k_norm)?);
        }
        let k_pre_rope = if needs.k_pre_rope { host(&k)? } else { Vec::new() };
        let inputs = if needs.inputs { host(&h)? } else { Vec::new() };
        let (q, k) = (turn.rotate(&q)?, turn.rotate(&k)?);
        let (on_host_q, on_host_k, on_host_v) = (host(&q)?, host(&k)?, host(&v)?);
        for (values, state) in [(&on_host_q, "queries"), (&on_host_k, "keys"), (&on_host_v, "values")] {
            self.check(values, Some(index), state)?;
        }
        let states = ChunkStates {
            layer: index,
            first_position: *first_position,
            n_tokens: *n_tokens,
            q: Rows::new(&on_host_q, head_dim),
            k: Rows::new(&on_host_k, head_dim),
            k_pre_rope: Rows::new(&k_pre_rope, head_dim),
            v: Rows::new(&on_host_v, head_dim),
            inputs: Rows::new(&inputs, config.hidden_size),
        };
        store.append(&states).map_err(ForwardError::Store)?;
        let Place { device, dtype } = &self.place;
        let target = Target { device, dtype: *dtype, head_dim, has_positions: geometry.sliding_window.is_some() };
        let slots = store.heads(index);
        let layer_mirror = mirror.sync(index, &slots, store.rewrites(index), target)?;
        let (attended, mass) = attend(&q, layer_mirror, &slots, geometry, *first_position, needs)?;
        store.attended(&states, mass).map_err(ForwardError::Store)?;
        if store.heads(index).iter().all(|head| head.positions.is_empty()) {
            mirror.forget(index);
        }
        Ok(add_block(x, layer.o.forward(&attended)?, layer.attn_post_norm.as_ref(), rms_norm_eps)?)
    }
}

/// A part of the prompt on its way through the layers.
struct Chunk {
    /// `[n_tokens, hidden]` in f32: the residual stream overflows half precision in some models.
    x: Tensor,
    /// One for each rotary embedding of the model.
    turns: Vec<Turn>,
    first_position: usize,
    n_tokens: usize,
}

/// Sines and cosines of a chunk's positions, `[n_tokens, 1, R / 2]`.
struct Turn {
    sin: Tensor,
    cos: Tensor,
}

impl Turn {
    /// Of some of its positions.
    fn part(&self, start: usize, n_tokens: usize) -> Result<Self, candle_core::Error> {
        Ok(Self { sin: self.sin.narrow(0, start, n_tokens)?, cos: self.cos.narrow(0, start, n_tokens)? })
    }

    /// Rotates `[n_tokens, heads, D]`, as [`Rope::rotate`](crate::math::Rope::rotate).
    fn rotate(&self, x: &Tensor) -> Result<Tensor, candle_core::Error> {
        let (head_dim, half) = (x.dim(2)?, self.sin.dim(2)?);
        if half == 0 {
            return Ok(x.clone());
        }
        let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let (sin, cos) = (&self.sin, &self.cos);
        let new_low = (low.broadcast_mul(cos)? - high.broadcast_mul(sin)?)?;
        let new_high = (high.broadcast_mul(cos)? + low.broadcast_mul(sin)?)?;
        match head_dim - 2 * half {
            0 => Tensor::cat(&[new_low, new_high], 2),
            rest => Tensor::cat(&[new_low, new_high, x.narrow(2, 2 * half, rest)?], 2),
        }
    }
}

/// x / √(mean(x²) + eps) · weight, over the last dimension.
fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor, candle_core::Error> {
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

/// As [`rms_norm`], where there is a norm.
fn normed(x: &Tensor, weight: Option<&Tensor>, eps: f64) -> Result<Tensor, candle_core::Error> {
    weight.map_or_else(|| Ok(x.clone()), |weight| rms_norm(x, weight, eps))
}

/// The residual stream with what a block gives, behind the block's own norm where there is one.
fn add_block(x: &Tensor, given: Tensor, norm: Option<&Tensor>, eps: f64) -> Result<Tensor, candle_core::Error> {
    x + normed(&given, norm, eps)?
}

/// Values in row-major order, on the host.
fn host(x: &Tensor) -> Result<Vec<f32>, candle_core::Error> {
    x.flatten_all()?.to_vec1()
}
