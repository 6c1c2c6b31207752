//! What a forward pass would hand to a cache, without a model.

use kvscope::math::Rows;
use kvscope::model::{AttnMass, ChunkStates, Config, KvStore};
use kvscope::runtime::RaggedCache;

use super::noise::noise;

/// Masses of a head, so that slots which stand before the layer's tokens get some too.
const N_MASSES: usize = 1024;

/// Queries `[T, n_q_heads, D]`, keys and values `[T, n_kv_heads, D]` of one layer, and both masses by KV head, all synthetic.
///
/// Keys drift, so that neighbours are alike and merging has something to join.
pub struct Layer {
    pub head_dim: usize,
    pub n_tokens: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    /// What these are made of, `[T, hidden]`.
    pub inputs: Vec<f32>,
    pub hidden_size: usize,
    pub mass: AttnMass,
}

impl Layer {
    /// A layer of that shape.
    pub fn new(config: &Config, n_tokens: usize, seed: u64) -> Self {
        let width = config.n_kv_heads * config.head_dim;
        let mut k = noise(n_tokens * width, seed);
        for i in width..k.len() {
            k[i] = 0.9 * k[i - width] + 0.3 * k[i];
        }
        let n_masses = n_tokens.max(N_MASSES);
        let by_head = |seed: u64| -> Vec<Vec<f32>> {
            (0..config.n_kv_heads as u64)
                .map(|head| noise(n_masses, seed.wrapping_mul(31) + head).iter().map(|x| x * x * x * x).collect())
                .collect()
        };
        let mass = AttnMass { all: by_head(seed + 1), window: by_head(seed + 2) };
        let q = noise(n_tokens * config.n_q_heads * config.head_dim, seed + 4);
        Self {
            head_dim: config.head_dim,
            n_tokens,
            q,
            k,
            v: noise(n_tokens * width, seed + 3),
            inputs: noise(n_tokens * config.hidden_size, seed + 5),
            hidden_size: config.hidden_size,
            mass,
        }
    }

    /// What the forward pass would hand over.
    pub fn chunk(&self, layer: usize, first_position: usize) -> ChunkStates<'_> {
        let [q, k, k_pre_rope, v] = [&self.q[..], &self.k, &[], &self.v].map(|x| Rows::new(x, self.head_dim));
        let inputs = Rows::new(&self.inputs, self.hidden_size);
        ChunkStates { layer, first_position, n_tokens: self.n_tokens, q, k, k_pre_rope, v, inputs }
    }

    /// The masses that a cache asks for, one for every slot that it holds of that layer.
    pub fn masses(&self, cache: &RaggedCache, layer: usize) -> AttnMass {
        let (needs, heads) = (cache.needs(), cache.heads(layer));
        let pick = |wanted: bool, masses: &[Vec<f32>]| -> Vec<Vec<f32>> {
            let of_slots = heads.iter().zip(masses.iter().filter(|_| wanted));
            of_slots.map(|(head, mass)| mass.iter().copied().cycle().take(head.positions.len()).collect()).collect()
        };
        AttnMass {
            all: pick(needs.mass, &self.mass.all),
            window: pick(needs.mass_from_position.is_some(), &self.mass.window),
        }
    }
}
