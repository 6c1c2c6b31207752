//! The same slots as kvpress keeps, of the same prompt (tests/fixtures/presses).

mod kit {
    pub mod fixtures;
    pub mod weights;
}

use kit::fixtures::fixture;
use kit::weights::kvzap;
use kvscope::math::Float;
use kvscope::model::{KvStore, Model, Pass};
use kvscope::runtime::{Budget, Compression, RaggedCache, prefill};
use serde_json::Value;

/// A reference model with room for so many positions and the tokenizer of one of them; its rotary frequencies do not depend on
/// that.
fn roomy_model(name: &str, n_positions: &Value) -> Model {
    let folder = tempfile::tempdir().unwrap();
    for (name, file) in
        [(name, "model.safetensors"), ("llama-gqa", "tokenizer.json"), ("llama-gqa", "tokenizer_config.json")]
    {
        std::fs::copy(fixture(name).join(file), folder.path().join(file)).unwrap();
    }
    let config = std::fs::read(fixture(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["max_position_embeddings"] = n_positions.clone();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    Model::load(folder.path()).unwrap()
}

#[test]
fn policies_keep_the_slots_that_kvpress_keeps() {
    let reference = include_str!("fixtures/presses/reference.json");
    let reference: Value = serde_json::from_str(reference).unwrap();
    let numbers = |list: &Value| list.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
    for case in reference["cases"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let model = roomy_model(name, &reference["positions"]);
        let prompt: Vec<u32> = numbers(&case["tokens"]);
        let weights = tempfile::tempdir().unwrap();
        let with_weights = kvzap(&weights.path().join("weights.safetensors"), &model, 0);
        for press in case["presses"].as_array().unwrap() {
            let (spec, kept) = (press["policy"].as_str().unwrap(), press["kept_fraction"].as_f64().unwrap());
            let spec = spec.replace("kvzap:", &format!("{with_weights},"));
            let compression = Compression::parse(&spec, Budget::KeptFraction(kept)).unwrap();
            let mut cache = RaggedCache::new(model.config(), Float::F32, Some(compression));
            prefill(&mut Pass::new(&model), &prompt, &mut cache, 0).unwrap();
            let found = (0..model.config().n_layers).flat_map(|layer| cache.heads(layer));
            for (head, (found, wanted)) in found.zip(press["kept"].as_array().unwrap()).enumerate() {
                let wanted: Vec<u32> = numbers(wanted);
                assert_eq!(found.positions, wanted, "{name}, {spec}, head {head}");
            }
        }
    }
}
