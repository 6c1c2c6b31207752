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
use kvscope::format::dump::TensorSpec;

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

fn heads_of(state: State) -> usize {
    if state == State::Q { GROUP * KV_HEADS } else { KV_HEADS }
}

/// Writes a dump in f32 and opens it.
pub fn write_dump(dir: &Path, fingerprint: &str, states: &[State], samples: &[Planted<'_>]) -> Dump {
    std::fs::create_dir_all(dir).unwrap();
    let mut entries = Vec::new();
    for (number, sample) in samples.iter().enumerate() {
        let n_tokens = sample.n_tokens;
        let spec = |name: String, element, shape: Vec<usize>| TensorSpec { name, element, shape };
        let mut specs = vec![spec("token_ids".into(), ElementType::I64, vec![n_tokens])];
        if states.contains(&State::Q) {
            let positions = |layer| spec(format!("layers.{layer}.q_positions"), ElementType::I64, vec![n_tokens]);
            specs.extend(LAYERS.map(positions));
        }
        for layer in LAYERS {
            for state in states {
                let name = Manifest::tensor_name(layer, *state);
                if *state == State::Mass {
                    specs.push(spec(name.clone(), ElementType::F32, vec![KV_HEADS, n_tokens]));
                    specs.push(spec(format!("{name}_window"), ElementType::F32, vec![KV_HEADS, n_tokens]));
                } else {
                    specs.push(spec(name, ElementType::F32, vec![heads_of(*state), n_tokens, DIM]));
                }
            }
        }
        let file = format!("{number}.safetensors");
        let mut writer = SampleWriter::create(&dir.join(&file), specs, &[]).unwrap();
        writer.write_i64("token_ids", (0..n_tokens).map(|i| i as i64)).unwrap();
        if states.contains(&State::Q) {
            for layer in LAYERS {
                writer.write_i64(&format!("layers.{layer}.q_positions"), (0..n_tokens).map(|i| i as i64)).unwrap();
            }
        }
        for layer in LAYERS {
            for state in states {
                let name = Manifest::tensor_name(layer, *state);
                if *state == State::Mass {
                    let mass: Vec<f32> = (0..KV_HEADS * n_tokens)
                        .map(|i| if Some(i % n_tokens) == sample.heavy { 9.0 } else { 0.1 })
                        .collect();
                    writer.write_f32(&name, &mass).unwrap();
                    writer.write_f32(&format!("{name}_window"), &mass).unwrap();
                } else {
                    let rows: Vec<f32> = (0..heads_of(*state))
                        .flat_map(|head| (0..n_tokens).map(move |token| (head, token)))
                        .flat_map(|(head, token)| (sample.vectors)(*state, layer, head, token))
                        .collect();
                    writer.write_f32(&name, &rows).unwrap();
                }
            }
        }
        let (sha256, bytes) = writer.finish().unwrap();
        entries.push(SampleEntry {
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
    let manifest = Manifest {
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
        samples: entries,
    };
    write_json(&dir.join("manifest.json"), &manifest).unwrap();
    Dump::open(dir).unwrap()
}
