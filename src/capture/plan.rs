//! What a run captures, and where it puts it.

use std::collections::BTreeSet;

use rand::SeedableRng;
use rand::seq::index::sample as sample_indices;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::files::{Document, InputHash, ModelIdentity, Provenance};
use crate::format::dump::{Manifest, State, TensorSpec};
use crate::format::run::Shard;
use crate::math::Float;

/// What is captured of every sample.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// States to write.
    pub states: BTreeSet<State>,
    /// Layers to write, rising.
    pub layers: Vec<usize>,
    /// KV heads of these layers to write, rising, with the query heads of their groups; `None` for all.
    pub kv_heads: Option<Vec<usize>>,
    /// Element type of keys, values and queries.
    pub dtype: Float,
    /// Queries kept per sample: half of them the last ones, the others a seeded sample of the rest; `None` for all.
    pub n_queries: Option<usize>,
    /// Queries in the observation window.
    pub window_tokens: usize,
    /// Prompt tokens that pass through a layer at a time; 0 for all at once.
    pub chunk_tokens: usize,
    /// Tokens to generate greedily after the prompt, whose states are captured too.
    pub decode_tokens: usize,
    /// Whether the prompts stand in the model's chat format, for the record.
    pub chat_template: bool,
    /// Seed of the query sample.
    pub seed: u64,
    /// Bytes of memory that the process may take.
    pub memory_limit: Option<u64>,
}

impl CaptureOptions {
    /// Queries kept of a sample of `n_tokens`.
    pub(super) fn queries_of(&self, n_tokens: usize) -> usize {
        self.n_queries.map_or(n_tokens, |n| n.min(n_tokens))
    }
}

/// One prompt, as tokens.
#[derive(Clone, Debug)]
pub struct SampleInput {
    /// Data set.
    pub dataset: String,
    /// Row id.
    pub id: String,
    /// Tokens to run.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt before truncation.
    pub n_tokens_full: usize,
}

/// Bytes that a run will write for these samples, headers left out.
pub fn estimated_bytes<'i>(
    model: &ModelIdentity,
    options: &CaptureOptions,
    inputs: impl IntoIterator<Item = &'i SampleInput>,
) -> u64 {
    let layout = new_manifest(model, &[], &[], options, None, "");
    let of_sample = |input: &SampleInput| {
        let n = input.tokens.len() + options.decode_tokens;
        layout.tensor_specs(n, options.queries_of(n)).iter().map(TensorSpec::bytes).sum::<u64>()
    };
    inputs.into_iter().map(of_sample).sum()
}

/// `00007-qasper.safetensors`; characters that a file system may mind become `_`.
pub(super) fn file_name(index: usize, dataset: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = dataset.chars().take(40).map(plain).collect();
    format!("{index:05}-{name}.safetensors")
}

/// The last half of the wanted number, and a seeded sample of the positions before; rising.
///
/// `index` is the sample's within the whole run, so that a shard draws what the whole run draws.
pub(super) fn query_positions(n_tokens: usize, options: &CaptureOptions, index: usize) -> Vec<usize> {
    let wanted = options.queries_of(n_tokens);
    let n_last = wanted.div_ceil(2);
    let first_last = n_tokens - n_last;
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    random.set_stream(index as u64);
    let mut positions = sample_indices(&mut random, first_last, wanted - n_last).into_vec();
    positions.sort_unstable();
    positions.extend(first_last..n_tokens);
    positions
}

/// The manifest of a run that has not begun.
pub(super) fn new_manifest(
    model: &ModelIdentity,
    inputs: &[SampleInput],
    input_hashes: &[InputHash],
    options: &CaptureOptions,
    shard: Option<Shard>,
    device: &str,
) -> Manifest {
    let settings = json!({
        "device": device,
        "n_queries": options.n_queries,
        "chunk_tokens": options.chunk_tokens,
        "decode_tokens": options.decode_tokens,
        "chat_template": options.chat_template,
        "samples": inputs.iter().map(|input| json!([input.dataset, input.id, input.tokens.len()])).collect::<Vec<_>>(),
    });
    Manifest {
        schema: Manifest::schema_id(),
        provenance: Provenance::new("capture", options.seed, settings, input_hashes.to_vec()),
        model: model.clone(),
        states: options.states.iter().copied().collect(),
        layers: options.layers.clone(),
        kv_heads: options.kv_heads.clone(),
        dtype: options.dtype,
        window_tokens: options.window_tokens,
        token_classes: None,
        shard,
        planned_samples: shard.map_or(inputs.len(), |shard| shard.n_samples()),
        samples: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(n_queries: usize) -> CaptureOptions {
        CaptureOptions {
            states: State::ALL.into_iter().collect(),
            layers: vec![0],
            kv_heads: None,
            dtype: Float::F16,
            n_queries: Some(n_queries),
            window_tokens: 32,
            chunk_tokens: 0,
            decode_tokens: 0,
            chat_template: false,
            seed: 3,
            memory_limit: None,
        }
    }

    #[test]
    fn queries_are_the_last_half_and_a_sample_of_the_rest() {
        let positions = query_positions(100, &options(7), 0);
        assert_eq!(positions.len(), 7);
        assert_eq!(positions[3..], [96, 97, 98, 99]);
        assert!(positions.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(query_positions(100, &options(7), 0), positions);
        assert_ne!(query_positions(100, &options(7), 1), positions);
        assert_eq!(query_positions(3, &options(7), 0), [0, 1, 2]);
        assert_eq!(query_positions(0, &options(7), 0), [0; 0]);
        assert_eq!(query_positions(5, &CaptureOptions { n_queries: None, ..options(7) }, 0), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn file_names_are_plain() {
        assert_eq!(file_name(7, "a/b ..\u{e9}"), "00007-a_b____.safetensors");
    }

    #[test]
    fn bytes_of_a_sample_by_hand() {
        let model = ModelIdentity::toy(2, 4, 2, 8);
        let input = SampleInput { dataset: "d".into(), id: "0".into(), tokens: vec![1; 7], n_tokens_full: 9 };
        let options = CaptureOptions { decode_tokens: 3, ..options(4) };
        // 10 tokens: ids 80 B; one layer: 3 states of 2 x 10 x 8 f16, q 4 x 4 x 8 f16 at 4 positions, 2 x 2 x 10 f32.
        assert_eq!(estimated_bytes(&model, &options, [&input]), 80 + 3 * 320 + 256 + 32 + 160);
        // One KV head of two, with its two query heads.
        let options = CaptureOptions { kv_heads: Some(vec![1]), ..options };
        assert_eq!(estimated_bytes(&model, &options, [&input]), 80 + 3 * 160 + 128 + 32 + 80);
    }
}
