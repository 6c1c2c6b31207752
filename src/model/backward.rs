//! The backward pass of a layer: gradients by what came out of its two blocks become gradients by what went in.
//!
//! Nothing is kept of the forward pass but each layer's input; what lies between is computed again.

use crate::math::{Rope, Rows};
use crate::model::attention::{Geometry, StateGradients, attend, attend_backward};
use crate::model::config::Config;
use crate::model::layer::Layer;
use crate::model::layers::{Linear, add_normed_backward, add_rms_norm_backward, normed};
use crate::model::matrix::Scratch;
use crate::model::slots::HeadSlots;
use crate::model::store::{ChunkStates, StoreNeeds};

/// A chunk of tokens that has passed a layer.
pub(super) struct PassedChunk<'a> {
    pub config: &'a Config,
    pub rope: &'a Rope,
    pub layer: &'a Layer,
    pub index: usize,
    pub first_position: usize,
    /// The layer's input, `[T, hidden]`.
    pub input: &'a [f32],
}

/// Queries and keys before norm and rotation, where there are norms; and behind both, with the values.
pub(super) struct Projected {
    plain: Option<[Vec<f32>; 2]>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl PassedChunk<'_> {
    fn geometry(&self) -> Geometry {
        Geometry::of(self.config, self.index)
    }

    /// Queries, keys and values.
    pub fn project(&self, scratch: &mut Scratch) -> Projected {
        let (c, layer) = (self.config, self.layer);
        let h = normed(self.input, layer.attn_norm.as_ref(), c.rms_norm_eps);
        let [mut q, mut k, v] = Linear::forward_all([&layer.q, &layer.k, &layer.v], &h, scratch);
        let plain = layer.q_norm.is_some().then(|| [q.clone(), k.clone()]);
        layer.norm_heads(&mut q, &mut k, c.rms_norm_eps);
        self.rope.rotate(&mut q, c.n_q_heads, self.first_position);
        self.rope.rotate(&mut k, c.n_kv_heads, self.first_position);
        Projected { plain, q, k, v }
    }

    /// The states as a store was given them.
    pub fn states<'a>(&self, projected: &'a Projected) -> ChunkStates<'a> {
        let [q, k, v] = [&projected.q, &projected.k, &projected.v].map(|x| Rows::new(x, self.config.head_dim));
        ChunkStates {
            layer: self.index,
            first_position: self.first_position,
            n_tokens: self.input.len() / self.config.hidden_size,
            q,
            k,
            k_pre_rope: k.part(0..0),
            v,
            inputs: Rows::new(&[], self.config.hidden_size),
        }
    }

    /// Turns gradients by the layer's output into those by what its attention adds to the residual stream.
    pub fn through_mlp(
        &self,
        projected: &Projected,
        heads: &[HeadSlots<'_>],
        gradients: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (c, layer) = (self.config, self.layer);
        let (mut x, given) = (self.input.to_vec(), self.given_by_attention(projected, heads, scratch));
        Layer::add_block(&mut x, given, layer.attn_post_norm.as_ref(), c.rms_norm_eps);
        let h = normed(&x, layer.ffn_norm.as_ref(), c.rms_norm_eps);
        let mut by_h = vec![0f32; x.len()];
        let y: &[f32] = gradients;
        let through_norm = layer.ffn_post_norm.as_ref().map(|norm| |given: &[f32]| self.through_norm(given, norm, y));
        layer.ffn.add_backward(&h, y, through_norm, &mut by_h, scratch);
        add_normed_backward(&x, layer.ffn_norm.as_ref(), c.rms_norm_eps, &by_h, gradients);
    }

    /// Turns gradients by what attention adds to the residual stream into those by the layer's input.
    pub fn through_attention(
        &self,
        projected: &Projected,
        heads: &[HeadSlots<'_>],
        gradients: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (c, layer) = (self.config, self.layer);
        let mut by_attended = vec![0f32; projected.q.len()];
        let given = layer.attn_post_norm.as_ref().map(|norm| {
            let given = self.given_by_attention(projected, heads, scratch);
            self.through_norm(&given, norm, gradients)
        });
        layer.o.add_backward(given.as_deref().unwrap_or(gradients), &mut by_attended, scratch);
        let StateGradients { mut q, mut k, v } =
            attend_backward(&projected.q, heads, self.geometry(), self.first_position, &by_attended);
        self.rope.rotate_back(&mut q, c.n_q_heads, self.first_position);
        self.rope.rotate_back(&mut k, c.n_kv_heads, self.first_position);
        if let (Some(q_norm), Some(k_norm), Some([plain_q, plain_k])) = (&layer.q_norm, &layer.k_norm, &projected.plain)
        {
            q = self.through_norm(plain_q, q_norm, &q);
            k = self.through_norm(plain_k, k_norm, &k);
        }
        let mut by_h = vec![0f32; self.input.len()];
        for (map, by_output) in [(&layer.q, &q), (&layer.k, &k), (&layer.v, &v)] {
            map.add_backward(by_output, &mut by_h, scratch);
        }
        add_normed_backward(self.input, layer.attn_norm.as_ref(), c.rms_norm_eps, &by_h, gradients);
    }

    /// What attention gives, `[T, hidden]`, before its norm where it has one.
    fn given_by_attention(&self, projected: &Projected, heads: &[HeadSlots<'_>], scratch: &mut Scratch) -> Vec<f32> {
        let (attended, _) = attend(&projected.q, heads, self.geometry(), self.first_position, StoreNeeds::default());
        self.layer.o.forward(&attended, scratch)
    }

    fn through_norm(&self, x: &[f32], weight: &[f32], gradients: &[f32]) -> Vec<f32> {
        let mut by_x = vec![0f32; x.len()];
        add_rms_norm_backward(x, weight, self.config.rms_norm_eps, gradients, &mut by_x);
        by_x
    }
}
