//! What a cache stores.

use kvscope::model::{Config, KvStore};
use kvscope::runtime::RaggedCache;

/// Everything stored: positions, keys, values, biases and counts of every head.
pub type Contents = Vec<(Vec<u32>, Vec<f32>, Vec<f32>, Vec<f32>, Vec<u32>)>;

/// Of every head, layer by layer.
pub fn contents(cache: &RaggedCache, config: &Config) -> Contents {
    (0..config.n_layers)
        .flat_map(|layer| {
            cache.heads(layer).into_iter().enumerate().map(move |(h, head)| {
                let bias = head.logit_bias.map_or_else(|| vec![0.0; head.positions.len()], <[f32]>::to_vec);
                let (keys, values) = (head.keys.widened().to_vec(), head.values.widened().to_vec());
                (head.positions.to_vec(), keys, values, bias, cache.counts(layer, h))
            })
        })
        .collect()
}
