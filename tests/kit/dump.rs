//! Dumps with made-up numbers.

use std::path::Path;

use kvscope::files::{Document, ModelIdentity, Provenance, write_json};
use kvscope::format::dump::{Dump, Manifest, SampleEntry, SampleWriter, State, Tensor};
use kvscope::math::Float;

/// A manifest of no samples: all layers and heads, in f32.
pub fn manifest(model: ModelIdentity, states: &[State]) -> Manifest {
    Manifest {
        schema: Manifest::schema_id(),
        provenance: Provenance::new("capture", 0, serde_json::json!({}), vec![]),
        layers: (0..model.n_layers).collect(),
        model,
        states: states.to_vec(),
        kv_heads: None,
        dtype: Float::F32,
        window_tokens: 32,
        token_classes: None,
        shard: None,
        planned_samples: 0,
        samples: Vec::new(),
    }
}

/// A sample of that many tokens, of which the last ones' queries are kept. Token i has id i, the last one
/// more by what the sample's place and id say: those of another place or number are another text.
pub struct Sample {
    pub dataset: String,
    pub id: String,
    pub n_tokens: usize,
    pub n_queries: usize,
}

/// Numbers of a sample's tensor of a shape.
type Numbers<'a> = dyn Fn(usize, Tensor, &[usize]) -> Vec<f32> + 'a;

/// Writes samples and opens the dump; `numbers` gives a sample's tensor of that shape.
pub fn write_dump(dir: &Path, mut manifest: Manifest, samples: &[Sample], numbers: &Numbers<'_>) -> Dump {
    std::fs::create_dir_all(dir).unwrap();
    for (index, sample) in samples.iter().enumerate() {
        let n_tokens = sample.n_tokens;
        let file = format!("{index}.safetensors");
        let specs = manifest.tensor_specs(n_tokens, sample.n_queries);
        let mut writer = SampleWriter::create(&dir.join(&file), specs.clone(), &[]).unwrap();
        for (tensor, spec) in manifest.tensors().zip(specs) {
            match tensor {
                Tensor::TokenIds | Tensor::QueryPositions(_) => {
                    let of_sample = || 100 * index as i64 + sample.id.parse().unwrap_or(0);
                    let last = if tensor == Tensor::TokenIds { of_sample() } else { 0 };
                    let number = |i: usize| i as i64 + if i + 1 == n_tokens { last } else { 0 };
                    writer.write_i64(&spec.name, (n_tokens - spec.shape[0]..n_tokens).map(number)).unwrap();
                }
                Tensor::State(..) | Tensor::MassWindow(_) => {
                    writer.write_f32(&spec.name, &numbers(index, tensor, &spec.shape)).unwrap();
                }
            }
        }
        let (sha256, bytes) = writer.finish().unwrap();
        manifest.samples.push(SampleEntry {
            index,
            dataset: sample.dataset.clone(),
            id: sample.id.clone(),
            n_tokens,
            n_prompt_tokens: n_tokens,
            n_tokens_full: n_tokens,
            file,
            bytes,
            sha256,
        });
    }
    manifest.planned_samples = manifest.planned_samples.max(samples.len());
    write_json(&dir.join("manifest.json"), &manifest).unwrap();
    Dump::open(dir).unwrap()
}
