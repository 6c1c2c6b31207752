//! What a cache stores.

use kvscope::model::{Config, KvStore, SlotVectors};
use kvscope::runtime::RaggedCache;

/// Everything stored: positions, keys, values, biases and counts of every head.
pub type Contents = Vec<(Vec<u32>, Vec<f32>, Vec<f32>, Vec<f32>, Vec<u32>)>;

/// Of every head, layer by layer.
pub fn contents(cache: &RaggedCache, config: &Config) -> Contents {
    (0..config.n_layers)
        .flat_map(|layer| {
            cache.heads(layer).into_iter().enumerate().map(move |(h, head)| {
                let bias = head.logit_bias.map_or_else(|| vec![0.0; head.positions.len()], <[f32]>::to_vec);
                let (keys, values) = (widened(head.keys), widened(head.values));
                (head.positions.to_vec(), keys, values, bias, cache.counts(layer, h))
            })
        })
        .collect()
}

/// Vectors as f32, whatever their type.
fn widened(vectors: SlotVectors<'_>) -> Vec<f32> {
    match vectors {
        SlotVectors::F32(x) => x.to_vec(),
        SlotVectors::F16(x) => x.iter().map(|x| x.to_f32()).collect(),
        SlotVectors::Bf16(x) => x.iter().map(|x| x.to_f32()).collect(),
    }
}
