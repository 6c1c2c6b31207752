//! One layer's weights on the host.

use std::sync::Arc;

use crate::model::ModelError;
use crate::model::config::{Bias, Config};
use crate::model::layers::{Linear, rms_norm};
use crate::model::matrix::Kernel;
use crate::model::weights::Weights;

/// One layer's weights on the host.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attn_norm: Vec<f32>,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) q_norm: Option<Vec<f32>>,
    pub(crate) k_norm: Option<Vec<f32>>,
    pub(crate) o: Linear,
    pub(crate) ffn_norm: Vec<f32>,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
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
        let vector = |part: &str, n: usize| weights.vector(&name(part, "weight"), n, config);
        let linear = |part: &str, n_out: usize, n_in: usize, bias: Bias| {
            let weight = weights.matrix(&name(part, "weight"), [n_out, n_in], config, kernel)?;
            let bias = weights.bias(&name(part, "bias"), n_out, config, bias)?;
            Ok::<_, ModelError>(Linear::new(Arc::new(weight), bias))
        };
        let head_norm = |part: &str| config.architecture.qk_norm.then(|| vector(part, head_dim)).transpose();
        Ok(Self {
            attn_norm: vector("input_layernorm", hidden_size)?,
            q: linear("self_attn.q_proj", q_width, hidden_size, qkv_bias)?,
            k: linear("self_attn.k_proj", kv_width, hidden_size, qkv_bias)?,
            v: linear("self_attn.v_proj", kv_width, hidden_size, qkv_bias)?,
            q_norm: head_norm("self_attn.q_norm")?,
            k_norm: head_norm("self_attn.k_norm")?,
            o: linear("self_attn.o_proj", hidden_size, q_width, o_bias)?,
            ffn_norm: vector("post_attention_layernorm", hidden_size)?,
            gate: linear("mlp.gate_proj", ffn_size, hidden_size, mlp_bias)?,
            up: linear("mlp.up_proj", ffn_size, hidden_size, mlp_bias)?,
            down: linear("mlp.down_proj", hidden_size, ffn_size, mlp_bias)?,
        })
    }

    /// Norms queries and keys, each head by itself, where the layer has norms for them.
    pub(crate) fn norm_heads(&self, q: &mut [f32], k: &mut [f32], eps: f64) {
        if let (Some(q_norm), Some(k_norm)) = (&self.q_norm, &self.k_norm) {
            rms_norm(q, q_norm, eps);
            rms_norm(k, k_norm, eps);
        }
    }

    /// The matrices by their names.
    pub(crate) fn maps(&self) -> [(&'static str, &Linear); 7] {
        [
            ("self_attn.q_proj", &self.q),
            ("self_attn.k_proj", &self.k),
            ("self_attn.v_proj", &self.v),
            ("self_attn.o_proj", &self.o),
            ("mlp.gate_proj", &self.gate),
            ("mlp.up_proj", &self.up),
            ("mlp.down_proj", &self.down),
        ]
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let norms = [Some(&self.attn_norm), self.q_norm.as_ref(), self.k_norm.as_ref(), Some(&self.ffn_norm)];
        self.maps().iter().map(|(_, map)| map.bytes()).sum::<u64>()
            + norms.into_iter().flatten().map(|norm| 4 * norm.len() as u64).sum::<u64>()
    }
}
