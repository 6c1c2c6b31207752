//! One layer's weights on the host.

use std::sync::Arc;

use crate::math::scale;
use crate::model::ModelError;
use crate::model::config::{Bias, Config};
use crate::model::layers::{Linear, Mlp, add, rms_norm};
use crate::model::matrix::{Kernel, Scratch};
use crate::model::mixture::Mixture;
use crate::model::weights::Weights;

/// One layer's weights on the host.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Of what attention is given, where there is one.
    pub(crate) attn_norm: Option<Vec<f32>>,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) o: Linear,
    /// Of what attention adds to the residual stream, where there is one.
    pub(crate) attn_post_norm: Option<Vec<f32>>,
    /// Of what the feed-forward layer is given, where there is one.
    pub(crate) ffn_norm: Option<Vec<f32>>,
    pub(crate) ffn: FeedForward,
    /// Of what the feed-forward layer adds to the residual stream, where there is one.
    pub(crate) ffn_post_norm: Option<Vec<f32>>,
}

/// What each token passes by itself.
#[derive(Debug)]
pub(crate) enum FeedForward {
    Dense(Mlp),
    Mixture(Mixture),
}

impl FeedForward {
    /// `x` `[T, hidden]` → `[T, hidden]`.
    pub(crate) fn forward(&self, x: &[f32], scratch: &mut Scratch) -> Vec<f32> {
        match self {
            Self::Dense(mlp) => mlp.forward(x, scratch),
            Self::Mixture(mixture) => mixture.forward(x, scratch),
        }
    }

    /// Of gradients `y` by the outputs, adds those by the inputs `x`; all `[T, hidden]`. Where what this gives passes a norm,
    /// `through_norm` makes the gradients of it that count instead.
    pub(crate) fn add_backward(
        &self,
        x: &[f32],
        y: &[f32],
        through_norm: Option<impl FnOnce(&[f32]) -> Vec<f32>>,
        into: &mut [f32],
        scratch: &mut Scratch,
    ) {
        match self {
            Self::Dense(mlp) => {
                let inner = mlp.inner(x, scratch);
                let by_given = through_norm.map(|through| through(&mlp.given(&inner, scratch)));
                mlp.add_backward(inner, by_given.as_deref().unwrap_or(y), into, scratch);
            }
            Self::Mixture(mixture) => {
                let by_given = through_norm.map(|through| through(&mixture.forward(x, scratch)));
                mixture.add_backward(x, by_given.as_deref().unwrap_or(y), into, scratch);
            }
        }
    }

    fn maps(&self) -> Vec<(String, &Linear)> {
        match self {
            Self::Dense(mlp) => mlp.maps().map(|(part, map)| (format!("mlp.{part}"), map)).into(),
            Self::Mixture(mixture) => mixture.maps(),
        }
    }
}

/// The matrix that holds another's rows, the first of them, and how many it has in all.
fn fused(part: &str, [q_width, kv_width, ffn_size]: [usize; 3]) -> Option<(&'static str, usize, usize)> {
    let (qkv, gate_up) = (("self_attn.qkv_proj", q_width + 2 * kv_width), ("mlp.gate_up_proj", 2 * ffn_size));
    let ((whole, n_rows), first) = match part {
        "self_attn.q_proj" => (qkv, 0),
        "self_attn.k_proj" => (qkv, q_width),
        "self_attn.v_proj" => (qkv, q_width + kv_width),
        "mlp.gate_proj" => (gate_up, 0),
        "mlp.up_proj" => (gate_up, ffn_size),
        _ => return None,
    };
    Some((whole, first, n_rows))
}

impl Layer {
    pub(crate) fn load(
        weights: &Weights,
        config: &Config,
        kernel: Option<Kernel>,
        index: usize,
    ) -> Result<Self, ModelError> {
        let Config { hidden_size, ffn_size, head_dim, qkv_bias, o_bias, mlp_bias, .. } = *config;
        let (q_width, kv_width) = (config.n_q_heads * head_dim, config.n_kv_heads * head_dim);
        let name = |part: &str, kind: &str| format!("model.layers.{index}.{part}.{kind}");
        let style = config.architecture.style;
        let norm = |part: &str, n: usize| weights.norm(&name(part, "weight"), n, config);
        // With norms behind, the one behind attention has the name that Llama gives to the one before the feed-forward layer.
        let before_ffn = if style.post_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        let norm_if = |is_there: bool, part: &str| is_there.then(|| norm(part, hidden_size)).transpose();
        let linear = |part: &str, n_out: usize, n_in: usize, bias: Bias| {
            let weight = match fused(part, [q_width, kv_width, ffn_size]).filter(|_| style.is_phi) {
                None => weights.matrix(&name(part, "weight"), [n_out, n_in], config, kernel)?,
                Some((whole, first, n_rows)) => {
                    weights.rows(&name(whole, "weight"), first..first + n_out, [n_rows, n_in], config, kernel)?
                }
            };
            let bias = weights.bias(&name(part, "bias"), n_out, config, bias)?;
            Ok::<_, ModelError>(Linear::new(Arc::new(weight), bias))
        };
        // Here once, so that all who read queries may take logits for products over √D: in the queries' norm, or in their map.
        let query_factor = config.query_factor();
        let (of_norm, of_map) = if config.architecture.qk_norm { (query_factor, 1.0) } else { (1.0, query_factor) };
        let residual = config.multipliers.residual as f32;
        let head_norm = |part: &str, width: usize| {
            let width = if style.joint_qk_norm { width } else { head_dim };
            config.architecture.qk_norm.then(|| norm(part, width)).transpose()
        };
        let mut q_norm = head_norm("self_attn.q_norm", q_width)?;
        if let Some(q_norm) = &mut q_norm {
            scale(q_norm, of_norm);
        }
        Ok(Self {
            attn_norm: norm_if(style.pre_norms, "input_layernorm")?,
            q: linear("self_attn.q_proj", q_width, hidden_size, qkv_bias)?.times(of_map),
            k: linear("self_attn.k_proj", kv_width, hidden_size, qkv_bias)?,
            v: linear("self_attn.v_proj", kv_width, hidden_size, qkv_bias)?,
            q_norm,
            k_norm: head_norm("self_attn.k_norm", kv_width)?,
            o: linear("self_attn.o_proj", hidden_size, q_width, o_bias)?.times(residual),
            attn_post_norm: norm_if(style.post_norms, "post_attention_layernorm")?,
            ffn_norm: norm_if(style.pre_norms, before_ffn)?,
            ffn: match config.mixture_of(index) {
                Some(mixture) => FeedForward::Mixture(Mixture::load(weights, config, mixture, index)?),
                None => FeedForward::Dense(Mlp {
                    gate: linear("mlp.gate_proj", ffn_size, hidden_size, mlp_bias)?,
                    up: linear("mlp.up_proj", ffn_size, hidden_size, mlp_bias)?,
                    down: linear("mlp.down_proj", hidden_size, ffn_size, mlp_bias)?.times(residual),
                    activation: style.activation,
                }),
            },
            ffn_post_norm: norm_if(style.post_norms, "post_feedforward_layernorm")?,
        })
    }

    /// Norms queries and keys, where the layer has norms for them: each head by itself, or all of a token together.
    pub(crate) fn norm_heads(&self, q: &mut [f32], k: &mut [f32], eps: f64) {
        if let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) {
            rms_norm(q, q_norm, eps);
            rms_norm(k, k_norm, eps);
        }
    }

    /// Adds to the residual stream what a block gives, behind the block's own norm where there is one.
    pub(crate) fn add_block(x: &mut [f32], mut given: Vec<f32>, norm: Option<&Vec<f32>>, eps: f64) {
        if let Some(norm) = norm {
            rms_norm(&mut given, norm, eps);
        }
        add(x, &given);
    }

    /// The matrices by their names.
    pub(crate) fn maps(&self) -> Vec<(String, &Linear)> {
        let of_attention = [("q_proj", &self.q), ("k_proj", &self.k), ("v_proj", &self.v), ("o_proj", &self.o)];
        let of_attention = of_attention.map(|(part, map)| (format!("self_attn.{part}"), map));
        of_attention.into_iter().chain(self.ffn.maps()).collect()
    }

    /// Bytes in memory; of a mixture of experts when all were used.
    pub(crate) fn bytes(&self) -> u64 {
        let Self { attn_norm, q_norm, k_norm, attn_post_norm, ffn_norm, ffn_post_norm, .. } = self;
        let norms = [attn_norm, q_norm, k_norm, attn_post_norm, ffn_norm, ffn_post_norm].into_iter().flatten();
        self.maps().iter().map(|(_, map)| map.bytes()).sum::<u64>()
            + norms.map(|norm| 4 * norm.len() as u64).sum::<u64>()
    }

    /// Bytes that one token does not read: those of the experts that it does not pass.
    pub(crate) fn idle_bytes(&self) -> u64 {
        match &self.ffn {
            FeedForward::Dense(_) => 0,
            FeedForward::Mixture(mixture) => mixture.idle_bytes(),
        }
    }
}
