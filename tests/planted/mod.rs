//! Dumps of a toy model with planted vectors.

use std::path::Path;

use kvscope::files::Document;
use kvscope::files::ModelIdentity;
use kvscope::files::Provenance;
use kvscope::files::write_json;
use kvscope::format::dump::Dump;
use kvscope::format::dump::ElementType;
use kvscope::format::dump::Manifest;
use kvscope::format::dump::SampleEntry;
use kvscope::format::dump::SampleWriter;
use kvscope::format::dump::State;
use kvscope::format::dump::Tensor;

pub const LAYERS: [usize; 2] = [1, 3];
pub const KV_HEADS: usize = 2;
pub const DIM: usize = 4;

/// Letters of [`kvscope::format::dump::TokenClass`] for ids 0, 1, …: token i of a sample has id i.
pub const CLASSES: &str = "wdpsowwwww";
/// Query heads of a KV head.
pub const GROUP: usize = 2;

/// The vector of a state, layer, head and token; queries, one at every token, are of query heads.
pub type Vectors<'a> = &'a dyn Fn(State, usize, usize, usize) -> [f32; DIM];

pub struct Planted<'a> {
    pub dataset: &'a str,
    pub id: &'a str,
    pub n_tokens: usize,
    pub heavy: Option<usize>,
    pub vectors: Vectors<'a>,
}

/// Writes a dump in f32 and opens it.
pub fn write_dump(dir: &Path, fingerprint: &str, states: &[State], samples: &[Planted<'_>]) -> Dump {
    std::fs::create_dir_all(dir).unwrap();
    let mut manifest = Manifest {
        schema: Manifest::schema_id(),
        provenance: Provenance::new("capture", 0, serde_json::json!({}), vec![]),
        model: ModelIdentity {
            name: "toy".into(),
            architecture: "LlamaForCausalLM".into(),
            fingerprint: fingerprint.into(),
            tokenizer_sha256: None,
            n_layers: 4,
            n_q_heads: GROUP * KV_HEADS,
            n_kv_heads: KV_HEADS,
            head_dim: DIM,
            rope_theta: 1e4,
            max_positions: 1024,
        },
        states: states.to_vec(),
        layers: LAYERS.to_vec(),
        kv_heads: None,
        dtype: ElementType::F32,
        window_tokens: 32,
        token_classes: Some(CLASSES.into()),
        shard: None,
        planned_samples: samples.len() + 1,
        samples: Vec::new(),
    };
    for (number, sample) in samples.iter().enumerate() {
        let n_tokens = sample.n_tokens;
        let file = format!("{number}.safetensors");
        let specs = manifest.tensor_specs(n_tokens, n_tokens);
        let mut writer = SampleWriter::create(&dir.join(&file), specs, &[]).unwrap();
        for tensor in manifest.tensors() {
            let values: Vec<f32> = match tensor {
                Tensor::TokenIds | Tensor::QueryPositions(_) => {
                    writer.write_i64(&tensor.name(), (0..n_tokens).map(|i| i as i64)).unwrap();
                    continue;
                }
                Tensor::State(_, State::Mass) | Tensor::MassWindow(_) => (0..KV_HEADS * n_tokens)
                    .map(|i| if Some(i % n_tokens) == sample.heavy { 9.0 } else { 0.1 })
                    .collect(),
                Tensor::State(layer, state) => manifest
                    .held_heads(state)
                    .flat_map(|head| (0..n_tokens).map(move |token| (head, token)))
                    .flat_map(|(head, token)| (sample.vectors)(state, layer, head, token))
                    .collect(),
            };
            writer.write_f32(&tensor.name(), &values).unwrap();
        }
        let (sha256, bytes) = writer.finish().unwrap();
        manifest.samples.push(SampleEntry {
            index: number,
            dataset: sample.dataset.into(),
            id: sample.id.into(),
            n_tokens,
            n_prompt_tokens: n_tokens,
            n_tokens_full: n_tokens,
            file,
            bytes,
            sha256,
        });
    }
    write_json(&dir.join("manifest.json"), &manifest).unwrap();
    Dump::open(dir).unwrap()
}
