//! Checkpoints as they are found: each is read as its own program reads it, or refused by name.

mod kit {
    pub mod fixtures;
    pub mod json;
    pub mod recorder;
}

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use kit::fixtures::fixture;
use kit::json;
use kit::recorder::Recorder;
use kvscope::hint::Hint;
use kvscope::math::Float;
use kvscope::model::{Compute, ForwardError, LogitRows, Matmul, Model, ModelError};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Tensors of f32 by name: shape and numbers.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

const TOKENS: [u32; 12] = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26];
const INDEX: &str = "model.safetensors.index.json";

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |view: &TensorView<'_>| view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    file.tensors().into_iter().map(|(name, view)| (name, (view.shape().to_vec(), numbers(&view)))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let bytes: BTreeMap<&String, Vec<u8>> =
        tensors.iter().map(|(name, (_, x))| (name, x.iter().flat_map(|x| x.to_le_bytes()).collect())).collect();
    let views = tensors
        .iter()
        .map(|(name, (shape, _))| (name, TensorView::new(Dtype::F32, shape.clone(), &bytes[name]).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A copy of a fixture that can be changed.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn of(model: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture(model).join(name), dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().into()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn weights(&self, change: impl FnOnce(&mut Tensors)) {
        let path = self.file("model.safetensors");
        let mut tensors = read(&path);
        change(&mut tensors);
        write(&path, &tensors);
    }

    fn set(&self, key: &str, value: Value) {
        let path = self.file("config.json");
        json::edit(&path, |config| config[key] = value);
    }

    /// The logits of the last token.
    fn logits(&self) -> Vec<f32> {
        let model = Model::load(&self.path()).unwrap_or_else(|error| panic!("{error}"));
        logits(&model).unwrap()
    }

    /// Message and hint.
    fn refusal(&self) -> String {
        told(&Model::load(&self.path()).unwrap_err())
    }
}

fn told(error: &ModelError) -> String {
    format!("{error}; {}", error.hint().unwrap_or_default())
}

fn logits(model: &Model) -> Result<Vec<f32>, ModelError> {
    let mut store = Recorder::new(model.config(), 0);
    model.forward(&TOKENS, 0, &mut store, LogitRows::Last).map_err(|error| match error {
        ForwardError::Model(error) => error,
        ForwardError::Store(never) => match never {},
    })
}

fn embedding(tensors: &Tensors) -> (Vec<usize>, Vec<f32>) {
    tensors["model.embed_tokens.weight"].clone()
}

#[test]
fn names_without_model_are_those_of_the_model_without_its_head() {
    let folder = Folder::of("llama-gqa");
    let expected = folder.logits();
    folder.weights(|tensors| {
        let old = std::mem::take(tensors);
        tensors.extend(old.into_iter().map(|(name, tensor)| (name.replacen("model.", "", 1), tensor)));
    });
    assert_eq!(folder.logits(), expected);
    folder.set("architectures", serde_json::json!(["LlamaModel"]));
    assert_eq!(folder.logits(), expected);
    folder.weights(|tensors| {
        let old = std::mem::take(tensors);
        tensors.extend(old.into_iter().map(|(name, tensor)| (format!("language_model.{name}"), tensor)));
    });
    assert!(folder.refusal().contains("\"language_model.\""), "{}", folder.refusal());
}

#[test]
fn a_tied_output_is_tied_only_where_the_weights_are() {
    let folder = Folder::of("llama-gqa");
    let expected = folder.logits();
    folder.weights(|tensors| drop(tensors.insert("lm_head.weight".into(), embedding(tensors))));
    assert_eq!(folder.logits(), expected);
    assert!(Model::load(&folder.path()).unwrap().config().tied_output);
    folder.weights(|tensors| {
        let (shape, mut numbers) = embedding(tensors);
        numbers.iter_mut().for_each(|x| *x *= -0.5);
        tensors.insert("lm_head.weight".into(), (shape, numbers));
    });
    let own = folder.logits();
    assert!(own.iter().zip(&expected).all(|(own, tied)| (own + 0.5 * tied).abs() < 1e-4));
    assert!(!Model::load(&folder.path()).unwrap().config().tied_output);
    // One of the two serves as both, whichever it is.
    folder.weights(|tensors| {
        let matrix = tensors.remove("model.embed_tokens.weight").unwrap();
        tensors.insert("lm_head.weight".into(), matrix);
    });
    assert_eq!(folder.logits(), expected);
    folder.set("tie_word_embeddings", false.into());
    assert!(folder.refusal().contains("no tensor model.embed_tokens.weight"), "{}", folder.refusal());
}

#[test]
fn tensors_without_a_place_are_refused_by_name() {
    let vector = |n: usize| (vec![n], vec![0.5; n]);
    for name in [
        "model.layers.0.self_attn.o_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.2.mlp.up_proj.weight",
        "lm_head.bias",
        "x",
    ] {
        let folder = Folder::of("llama-gqa");
        folder.weights(|tensors| drop(tensors.insert(name.into(), vector(4))));
        let refusal = folder.refusal();
        assert!(refusal.contains(name) && refusal.contains("no place for 1 of the tensors"), "{refusal}");
    }
    let folder = Folder::of("llama-gqa");
    let expected = folder.logits();
    folder.weights(|tensors| {
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vector(4));
        tensors.insert("model.embeddings.position_ids".into(), vector(4));
    });
    assert_eq!(folder.logits(), expected);
    folder.weights(|tensors| (0..9).for_each(|i| drop(tensors.insert(format!("x{i}"), vector(2)))));
    let refusal = folder.refusal();
    assert!(refusal.contains("no place for 9") && refusal.contains("x2") && !refusal.contains("x3"), "{refusal}");
}

#[test]
fn biases_that_the_settings_name_must_be_there() {
    let folder = Folder::of("llama-biases");
    folder.weights(|tensors| drop(tensors.remove("model.layers.1.self_attn.o_proj.bias")));
    assert!(folder.refusal().contains("no tensor model.layers.1.self_attn.o_proj.bias"), "{}", folder.refusal());
    let folder = Folder::of("llama-biases");
    folder.set("mlp_bias", false.into());
    assert!(folder.refusal().contains("no place for 6"), "{}", folder.refusal());
}

#[test]
fn checkpoints_of_other_kinds_are_told_by_their_tensors() {
    for (name, words) in [
        ("model.layers.0.self_attn.q_proj.qweight", "quantised"),
        ("model.layers.0.mlp.down_proj.weight.absmax", "quantised"),
        ("model.layers.0.mlp.down_proj.weight_scale_inv", "quantised"),
        ("model.layers.0.mlp.experts.0.up_proj.weight", "mixture of experts"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "adapter"),
        ("model.layers.0.self_attn.qkv_proj.weight", "several matrices in one"),
    ] {
        let folder = Folder::of("llama-gqa");
        folder.weights(|tensors| drop(tensors.insert(name.into(), (vec![2], vec![1.0; 2]))));
        let refusal = folder.refusal();
        assert!(refusal.contains(words) && refusal.contains(name), "{refusal}");
    }
}

#[test]
fn a_mixture_needs_all_of_its_experts_and_has_no_place_for_more() {
    let up = "model.layers.1.mlp.experts.3.up_proj.weight";
    let folder = Folder::of("qwen3-moe");
    let whole = folder.logits();
    folder.weights(|tensors| drop(tensors.remove(up)));
    assert!(folder.refusal().contains(&format!("no tensor {up}")), "{}", folder.refusal());
    folder.weights(|tensors| drop(tensors.insert(up.into(), (vec![12, 23], vec![0.5; 12 * 23]))));
    assert!(folder.refusal().contains(&format!("{up} has shape [12, 23]")), "{}", folder.refusal());
    for (name, words) in [
        ("model.layers.0.mlp.experts.5.up_proj.weight", "no place for 1 of the tensors"),
        ("model.layers.0.mlp.experts.gate_up_proj", "no place for 1 of the tensors"),
        ("model.layers.0.mlp.gate.bias", "no place for 1 of the tensors"),
        ("model.layers.0.mlp.gate.e_score_correction_bias", "no place for 1 of the tensors"),
        ("model.layers.0.mlp.shared_expert.up_proj.weight", "an expert that all tokens pass"),
    ] {
        let folder = Folder::of("qwen3-moe");
        folder.weights(|tensors| drop(tensors.insert(name.into(), (vec![5], vec![0.5; 5]))));
        assert!(folder.refusal().contains(words) && folder.refusal().contains(name), "{}", folder.refusal());
    }
    let folder = Folder::of("qwen3-moe-steps");
    folder.weights(|tensors| {
        let (shape, _) = tensors.get_mut("model.layers.3.mlp.experts.gate_up_proj").unwrap();
        *shape = vec![5, 16, 24];
    });
    assert!(folder.refusal().contains("the configuration needs [4, 20, 24]"), "{}", folder.refusal());
    // Both ways of storing experts are one model.
    let folder = Folder::of("qwen3-moe");
    folder.weights(|tensors| {
        let mut take = |part: &str, expert: usize| {
            tensors.remove(&format!("model.layers.0.mlp.experts.{expert}.{part}.weight")).unwrap().1
        };
        let of = |expert| [take("gate_proj", expert), take("up_proj", expert), take("down_proj", expert)];
        let experts: Vec<[Vec<f32>; 3]> = (0..5).map(of).collect();
        let joined = experts.iter().flat_map(|[gate, up, _]| [gate, up]).flatten().copied().collect();
        let down = experts.iter().flat_map(|[_, _, down]| down).copied().collect();
        tensors.insert("model.layers.0.mlp.experts.gate_up_proj".into(), (vec![5, 24, 24], joined));
        tensors.insert("model.layers.0.mlp.experts.down_proj".into(), (vec![5, 24, 12], down));
    });
    assert_eq!(folder.logits(), whole);
}

#[test]
fn a_damaged_expert_or_router_is_named() {
    for (name, index) in [("mlp.experts.2.down_proj", 30), ("mlp.gate", 7)] {
        let folder = Folder::of("qwen3-moe");
        let name = format!("model.layers.1.{name}.weight");
        folder.weights(|tensors| tensors.get_mut(&name).unwrap().1[index] = f32::NAN);
        let error = logits(&Model::load(&folder.path()).unwrap()).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor {name} holds NaN at place {index}")), "{error}");
    }
}

#[test]
fn a_whole_file_comes_before_a_stale_index() {
    let folder = Folder::of("llama-gqa");
    let expected = folder.logits();
    let stale = folder.file("model-00001-of-00001.safetensors");
    let index = |shard: &str| serde_json::json!({"weight_map": {"model.norm.weight": shard}}).to_string();
    std::fs::write(folder.file(INDEX), index("model-00001-of-00001.safetensors")).unwrap();
    assert_eq!(folder.logits(), expected);
    std::fs::write(&stale, "other weights").unwrap();
    assert_eq!(folder.logits(), expected);
    // Without the whole file, the index counts.
    std::fs::rename(folder.file("model.safetensors"), &stale).unwrap();
    assert_eq!(folder.logits(), expected);
    std::fs::write(folder.file(INDEX), index("model-00001-of-00002.safetensors")).unwrap();
    assert!(folder.refusal().contains("lacks 1 of the 1 shards"), "{}", folder.refusal());
    // And without both, the only file.
    std::fs::remove_file(folder.file(INDEX)).unwrap();
    std::fs::rename(&stale, folder.file("pytorch_model.safetensors")).unwrap();
    assert_eq!(folder.logits(), expected);
}

#[test]
fn a_folder_may_hold_a_gguf_model() {
    let dir = tempfile::tempdir().unwrap();
    for part in ["llama-biases-00001-of-00002.gguf", "llama-biases-00002-of-00002.gguf"] {
        assert!(Model::load(dir.path()).is_err());
        std::fs::copy(fixture(part), dir.path().join(part)).unwrap();
    }
    assert_eq!(Model::load(dir.path()).unwrap().config().n_layers, 2);
}

#[test]
fn what_stands_in_for_a_file_is_told() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    for (name, content, words) in [
        ("model.safetensors", pointer, "Git LFS pointer"),
        ("model.safetensors", "/annex/objects/SHA256E-s1--00\n", "git-annex pointer"),
        ("model.safetensors", "<!DOCTYPE html><html>", "web page"),
        ("model.safetensors", "", "empty"),
        ("model.safetensors", "PK\u{3}\u{4} archive/data.pkl", "zip archive"),
        ("config.json", pointer, "Git LFS pointer"),
        ("config.json", "{\"architectures\":", "no valid JSON"),
    ] {
        let folder = Folder::of("llama-gqa");
        std::fs::write(folder.file(name), content).unwrap();
        let refusal = folder.refusal();
        assert!(refusal.contains(words) && refusal.contains(name), "{refusal}");
    }
    let folder = Folder::of("llama-gqa");
    std::fs::rename(folder.file("model.safetensors"), folder.file("pytorch_model.bin")).unwrap();
    assert!(folder.refusal().contains("only pickled weights"), "{}", folder.refusal());
    let file = folder.file("m.gguf");
    std::fs::write(&file, pointer).unwrap();
    assert!(Model::load(&file).unwrap_err().to_string().contains("Git LFS pointer"));
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_folders_are_no_files() {
    for name in ["config.json", "model.safetensors"] {
        let refused = |make: &dyn Fn(&Path)| {
            let folder = Folder::of("llama-gqa");
            std::fs::remove_file(folder.file(name)).unwrap();
            make(&folder.file(name));
            assert!(folder.refusal().contains("not a file"), "{}", folder.refusal());
        };
        refused(&|path| std::os::unix::fs::symlink("/dev/zero", path).unwrap());
        refused(&|path| std::fs::create_dir(path).unwrap());
        refused(&|path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success()));
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let candle = Compute::Candle { device: Device::Cpu, dtype: Float::F32 };
    let kernels = Compute::Kernels { matmul: Matmul::F32 };
    let names: Vec<String> = read(&fixture("llama-biases/model.safetensors")).into_keys().collect();
    for name in &names {
        for value in [f32::NAN, f32::INFINITY] {
            let folder = Folder::of("llama-biases");
            // The row of a token that is in the prompt.
            let place = if name.contains("embed") { 14 * 16 } else { 1 };
            folder.weights(|tensors| tensors.get_mut(name).unwrap().1[place] = value);
            let told = |compute: &Compute| {
                let model = Model::load_on(&folder.path(), compute)?;
                logits(&model)
            };
            let error = told(&kernels).unwrap_err();
            assert!(
                matches!(&error, ModelError::DamagedTensor { name: found, .. } if found == name),
                "{name}: {error}"
            );
            assert!(told(&candle).is_err(), "{name}");
        }
    }
}

#[test]
fn states_that_overflow_are_told_apart_from_damage() {
    let folder = Folder::of("llama-biases");
    folder.weights(|tensors| {
        for part in ["up", "down"] {
            let name = format!("model.layers.1.mlp.{part}_proj.weight");
            tensors.get_mut(&name).unwrap().1.iter_mut().for_each(|x| *x *= 1e30);
        }
    });
    let error = logits(&Model::load(&folder.path()).unwrap()).unwrap_err();
    assert!(told(&error).contains("hidden states of layer 1 are not finite; no weight is NaN"), "{}", told(&error));
    let half = Compute::Candle { device: Device::Cpu, dtype: Float::F16 };
    let error = logits(&Model::load_on(&folder.path(), &half).unwrap()).unwrap_err();
    assert!(told(&error).contains("bf16"), "{}", told(&error));
}

#[test]
fn the_fingerprint_covers_whole_tensors_and_settings() {
    let of = |folder: &Folder| Model::load(&folder.path()).unwrap().identity().unwrap().fingerprint.clone();
    let folder = Folder::of("llama-gqa");
    let first = of(&folder);
    assert_eq!(of(&Folder::of("llama-gqa")), first);
    folder.weights(|tensors| *tensors.get_mut("model.embed_tokens.weight").unwrap().1.last_mut().unwrap() += 1.0);
    let second = of(&folder);
    assert_ne!(second, first);
    folder.set("rms_norm_eps", 1e-4.into());
    assert_ne!(of(&folder), second);
    // Weights that were changed behind a loaded model's back are not described as its own.
    let model = Model::load(&folder.path()).unwrap();
    let path = folder.file("model.safetensors");
    let file = std::fs::File::options().append(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() + 1).unwrap();
    assert!(model.identity().unwrap_err().to_string().contains("was changed after it was loaded"));
}

#[test]
fn models_are_called_by_their_whole_names() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = "models--org--Tiny-2.5-B/snapshots/0123456789abcdef0123456789abcdef01234567";
    for (place, name) in [("Llama-3.2-1B-Instruct", "Llama-3.2-1B-Instruct"), (snapshot, "Tiny-2.5-B")] {
        let folder = dir.path().join(place);
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture("llama-gqa").join(file), folder.join(file)).unwrap();
        }
        let model = Model::load(&folder).unwrap();
        assert_eq!((model.name(), model.identity().unwrap().name.as_str()), (name, name));
    }
    let split = Model::load(&fixture("llama-biases-00002-of-00002.gguf")).unwrap();
    assert_eq!(split.name(), "llama-biases");
}
