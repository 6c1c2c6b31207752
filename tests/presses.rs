//! The same slots as kvpress keeps, of the same prompt (tests/fixtures/presses).

mod kit {
    pub mod fixtures;
}

use std::path::Path;

use kit::fixtures::fixture;
use kvscope::math::Float;
use kvscope::model::{KvStore, Model, Pass};
use kvscope::runtime::{Budget, Compression, RaggedCache, prefill};
use serde_json::Value;

/// The reference model with room for so many positions; its rotary frequencies do not depend on that.
fn roomy_model(folder: &Path, n_positions: &Value) -> Model {
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("llama-gqa").join(name), folder.join(name)).unwrap();
    }
    let config = std::fs::read(fixture("llama-gqa").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["max_position_embeddings"] = n_positions.clone();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    Model::load(folder).unwrap()
}

#[test]
fn policies_keep_the_slots_that_kvpress_keeps() {
    let reference = include_str!("fixtures/presses/reference.json");
    let reference: Value = serde_json::from_str(reference).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let model = roomy_model(folder.path(), &reference["positions"]);
    let numbers = |list: &Value| list.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
    let prompt: Vec<u32> = numbers(&reference["tokens"]);
    for press in reference["presses"].as_array().unwrap() {
        let (spec, kept) = (press["policy"].as_str().unwrap(), press["kept_fraction"].as_f64().unwrap());
        let compression = Compression::parse(spec, Budget::KeptFraction(kept)).unwrap();
        let mut cache = RaggedCache::new(model.config(), Float::F32, Some(compression));
        prefill(&mut Pass::new(&model), &prompt, &mut cache, 0).unwrap();
        let found = (0..model.config().n_layers).flat_map(|layer| cache.heads(layer));
        for (head, (found, wanted)) in found.zip(press["kept"].as_array().unwrap()).enumerate() {
            let wanted: Vec<u32> = numbers(wanted);
            assert_eq!(found.positions, wanted, "{spec}, head {head}");
        }
    }
}
