//! The forward pass beside what Hugging Face transformers computes with the same weights.
//!
//! `cargo test --test model_parity -- --nocapture` prints the largest relative errors.

mod kit {
    pub mod demo;
    pub mod error;
    pub mod fixtures;
    pub mod recorder;
}

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::Content;
use kit::demo::demo_model;
use kit::error::relative_error;
use kit::fixtures::fixture;
use kit::recorder::Recorder;
use kvscope::math::{Float, Rows};
use kvscope::model::{Compute, Config, LogitRows, Matmul, Model};
use kvscope::runtime::{GenerateOptions, RaggedCache, generate};
use safetensors::{Dtype, SafeTensors};

/// Queries of the observation window in the references.
const WINDOW: usize = 8;

/// Bound on max |a - b| / max |b| of every tensor.
///
/// Rounding of f32 leaves less than 1e-5. Activations of 16 bits leave up to 3e-4, less than half of what the f16 of a dump
/// or cache leaves (5e-4).
fn tolerance(matmul: Matmul) -> f64 {
    match matmul {
        Matmul::F32 => 1e-4,
        Matmul::Fixed16 => 5e-4,
    }
}

/// The arithmetics of this processor, exact first.
fn matmuls() -> Vec<Matmul> {
    let mut all = vec![Matmul::F32];
    all.extend(Some(Matmul::fastest()).filter(|fastest| *fastest != Matmul::F32));
    all
}

fn load_with(path: &Path, matmul: Matmul) -> Model {
    let kernels = Compute::Kernels { matmul };
    Model::load_on(path, &kernels).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of reference tensors, all read.
struct Reference {
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ids: BTreeMap<String, Vec<u32>>,
}

impl Reference {
    /// Reads f32 and i64 tensors; any other type is a fault of the file.
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut reference = Self { floats: BTreeMap::new(), ids: BTreeMap::new() };
        for (name, view) in file.tensors() {
            match view.dtype() {
                Dtype::F32 => {
                    let data = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
                    reference.floats.insert(name, (view.shape().to_vec(), data));
                }
                Dtype::I64 => {
                    let data = view.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32);
                    reference.ids.insert(name, data.collect());
                }
                other => panic!("{name} is {other:?}"),
            }
        }
        reference
    }

    /// A float tensor of that shape.
    fn floats(&self, name: &str, shape: &[usize]) -> &[f32] {
        let (found, data) = self.floats.get(name).unwrap_or_else(|| panic!("the reference has no {name}"));
        assert_eq!(found, shape, "{name}");
        data
    }

    /// Whether a float tensor is there.
    fn has(&self, name: &str) -> bool {
        self.floats.contains_key(name)
    }

    /// An integer tensor.
    fn ids(&self, name: &str) -> &[u32] {
        self.ids.get(name).unwrap_or_else(|| panic!("the reference has no {name}"))
    }
}

/// Every reference model: folder or GGUF file, and the file with its numbers.
const MODELS: &[(&str, &str)] = &[
    ("gemma3", "gemma3/reference.safetensors"),
    ("gemma3-f32.gguf", "gemma3/reference.safetensors"),
    ("gemma3-layer-types", "gemma3-layer-types/reference.safetensors"),
    ("granite", "granite/reference.safetensors"),
    ("granite-f32.gguf", "granite/reference.safetensors"),
    ("llama-bf16", "llama-bf16/reference.safetensors"),
    ("llama-biases", "llama-biases/reference.safetensors"),
    // Either part stands for the whole model.
    ("llama-biases-00001-of-00002.gguf", "llama-biases/reference.safetensors"),
    ("llama-biases-00002-of-00002.gguf", "llama-biases/reference.safetensors"),
    ("llama-gqa", "llama-gqa/reference.safetensors"),
    ("llama-gqa-f32.gguf", "llama-gqa/reference.safetensors"),
    ("llama-gqa-q8_0.gguf", "llama-gqa-q8_0.reference.safetensors"),
    ("llama-head-dim", "llama-head-dim/reference.safetensors"),
    ("llama-k-quants.gguf", "llama-k-quants.reference.safetensors"),
    ("llama-linear-rope", "llama-linear-rope/reference.safetensors"),
    ("llama-linear-rope-f32.gguf", "llama-linear-rope/reference.safetensors"),
    ("llama-llama3-rope", "llama-llama3-rope/reference.safetensors"),
    ("llama-llama3-rope-f32.gguf", "llama-llama3-rope/reference.safetensors"),
    ("llama-mha", "llama-mha/reference.safetensors"),
    ("llama-sharded", "llama-sharded/reference.safetensors"),
    ("llama-steps-and-digits.gguf", "llama-steps-and-digits.reference.safetensors"),
    ("llama-yarn", "llama-yarn/reference.safetensors"),
    ("llama-yarn-f32.gguf", "llama-yarn/reference.safetensors"),
    ("ministral-windows", "ministral-windows/reference.safetensors"),
    ("mistral-small", "mistral-small/reference.safetensors"),
    ("mistral-small-f32.gguf", "mistral-small/reference.safetensors"),
    ("mistral-window", "mistral-window/reference.safetensors"),
    ("mixtral", "mixtral/reference.safetensors"),
    ("mixtral-f32.gguf", "mixtral/reference.safetensors"),
    ("mixtral-q8_0.gguf", "mixtral-q8_0.reference.safetensors"),
    ("mixtral-split-f32.gguf", "mixtral/reference.safetensors"),
    ("mixtral-window", "mixtral-window/reference.safetensors"),
    ("olmo2", "olmo2/reference.safetensors"),
    ("olmo2-f32.gguf", "olmo2/reference.safetensors"),
    ("phi3", "phi3/reference.safetensors"),
    ("phi3-longrope", "phi3-longrope/reference.safetensors"),
    ("phi3-longrope-f32.gguf", "phi3-longrope/reference.safetensors"),
    ("qwen2", "qwen2/reference.safetensors"),
    ("qwen2-windows", "qwen2-windows/reference.safetensors"),
    ("qwen2-yarn", "qwen2-yarn/reference.safetensors"),
    ("qwen3", "qwen3/reference.safetensors"),
    ("qwen3-moe", "qwen3-moe/reference.safetensors"),
    ("qwen3-moe-f32.gguf", "qwen3-moe/reference.safetensors"),
    ("qwen3-moe-steps", "qwen3-moe-steps/reference.safetensors"),
    ("qwen3-windows", "qwen3-windows/reference.safetensors"),
    ("qwen3-yarn", "qwen3-yarn/reference.safetensors"),
    ("smollm3", "smollm3/reference.safetensors"),
    ("smollm3-f32.gguf", "smollm3/reference.safetensors"),
    ("smollm3-windows", "smollm3-windows/reference.safetensors"),
];

/// A model of the table with its numbers.
fn load(name: &str, matmul: Matmul) -> (Model, Reference) {
    let file = MODELS.iter().find(|model| model.0 == name).unwrap().1;
    (load_with(&fixture(name), matmul), Reference::read(&fixture(file)))
}

/// Every model of the table; those with block-quantised weights in every arithmetic.
fn models() -> Vec<(&'static (&'static str, &'static str), Matmul)> {
    let is_exact =
        |name: &str| !name.ends_with(".gguf") || name.ends_with("-f32.gguf") || name.starts_with("llama-biases");
    let of = |model: &'static (&'static str, &'static str)| {
        let n = if is_exact(model.0) { 1 } else { matmuls().len() };
        matmuls().into_iter().take(n).map(move |matmul| (model, matmul))
    };
    MODELS.iter().flat_map(of).collect()
}

/// Runs the prompt in chunks; every state and the logits of every token.
fn run(model: &Model, tokens: &[u32], chunk: usize) -> (Recorder, Vec<f32>) {
    let mut store = Recorder::new(model.config(), tokens.len() - WINDOW);
    let mut logits = Vec::new();
    for (i, part) in tokens.chunks(chunk).enumerate() {
        logits.extend(model.forward(part, i * chunk, &mut store, LogitRows::All).unwrap());
    }
    (store, logits)
}

/// Greedy continuation with an uncompressed cache.
fn greedy(model: &Model, tokens: &[u32], n: usize, chunk_tokens: usize) -> Vec<u32> {
    let mut cache = RaggedCache::new(model.config(), Float::F32, None);
    let options = GenerateOptions { max_new_tokens: n, chunk_tokens, ..GenerateOptions::default() };
    generate(model, tokens, &mut cache, &options, &mut |_| ControlFlow::Continue(())).unwrap().tokens
}

#[derive(Default)]
struct Errors {
    k: f64,
    v: f64,
    k_pre_rope: f64,
    mass: f64,
    mass_window: f64,
    logits: f64,
}

impl Errors {
    fn row(&self, name: &str) -> String {
        let columns = [self.k, self.v, self.k_pre_rope, self.mass, self.mass_window, self.logits];
        // No tensor of real size is met exactly: a zero is one that the reference does not have.
        let cell = |x: f64| if x > 0.0 { format!("{x:11.1e}") } else { format!("{:>11}", "-") };
        format!("{name:28}{}", columns.map(cell).concat())
    }

    fn worst(&self) -> f64 {
        [self.k, self.v, self.k_pre_rope, self.mass, self.mass_window, self.logits].into_iter().fold(0.0, f64::max)
    }
}

const HEADER: &str = "model                                 k          v k_pre_rope       mass     window     logits";

#[test]
fn every_reference_model_is_in_the_table() {
    let mut found = BTreeSet::new();
    let mut references = BTreeSet::new();
    for entry in std::fs::read_dir(fixture("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.join("reference.safetensors").exists() {
            references.insert(format!("{name}/reference.safetensors"));
        }
        if path.join("config.json").exists() || name.ends_with(".gguf") {
            found.insert(name);
        } else if name.ends_with(".safetensors") && name != "smollm2-135m.reference.safetensors" {
            references.insert(name);
        }
    }
    assert_eq!(found, MODELS.iter().map(|model| model.0.to_string()).collect());
    assert_eq!(references, MODELS.iter().map(|model| model.1.to_string()).collect());
}

#[test]
fn states_masses_and_logits_are_those_of_transformers() {
    let mut table = vec![HEADER.to_string()];
    for ((name, _), matmul) in models() {
        let (model, reference) = load(name, matmul);
        let c = model.config();
        let tokens = reference.ids("token_ids");
        let (store, logits) = run(&model, tokens, tokens.len());
        let mut errors = Errors::default();
        for (i, layer) in store.layers.iter().enumerate() {
            let vectors = [c.n_kv_heads, tokens.len(), c.head_dim];
            let error = |what: &str, found: &[Vec<f32>], shape: &[usize]| {
                let error = relative_error(&found.concat(), reference.floats(&format!("layers.{i}.{what}"), shape));
                assert!(
                    error <= tolerance(matmul),
                    "{name}, {matmul:?}, layer {i}, {what}: relative error {error:.1e}"
                );
                error
            };
            errors.k = errors.k.max(error("k", &layer.k, &vectors));
            errors.v = errors.v.max(error("v", &layer.v, &vectors));
            errors.k_pre_rope = errors.k_pre_rope.max(error("k_pre_rope", &layer.k_pre_rope, &vectors));
            errors.mass = errors.mass.max(error("attn_mass", &layer.mass, &vectors[..2]));
            errors.mass_window = errors.mass_window.max(error("attn_mass_window", &layer.mass_window, &vectors[..2]));
        }
        errors.logits = relative_error(&logits, reference.floats("logits", &[tokens.len(), c.vocab_size]));
        table.push(errors.row(&format!("{name}, {matmul:?}")));
        assert!(
            errors.worst() <= tolerance(matmul),
            "{name}, {matmul:?}: relative error of the logits {:.1e}",
            errors.logits
        );
    }
    println!("{}", table.join("\n"));
}

#[test]
fn greedy_continuations_are_those_of_transformers() {
    for ((name, _), matmul) in models() {
        let (model, reference) = load(name, matmul);
        let expected = reference.ids("greedy");
        assert_eq!(expected.len(), 64);
        for chunk in [0, 7] {
            let found = greedy(&model, reference.ids("token_ids"), expected.len(), chunk);
            assert_eq!(found, expected, "{name}, {matmul:?}, chunks of {chunk}");
        }
    }
}

#[test]
fn a_prompt_in_chunks_gives_the_same_states() {
    let mut worst = [0f64; 2];
    for ((name, _), matmul) in models() {
        let (model, reference) = load(name, matmul);
        // Attention rounds differently in chunks; in fixed point, what lies between two steps may fall to the other.
        let (allowed, worst) = match matmul {
            Matmul::F32 => (1e-5, &mut worst[0]),
            Matmul::Fixed16 => (tolerance(matmul), &mut worst[1]),
        };
        let tokens = reference.ids("token_ids");
        let (whole, logits) = run(&model, tokens, tokens.len());
        // 48 tokens in chunks of 7 leave a last one of 6; of 1, every pass is a decode step that records masses.
        for chunk in [7, 1] {
            let (parts, parts_logits) = run(&model, tokens, chunk);
            let mut check = |what: &str, a: &[f32], b: &[f32]| {
                let error = relative_error(a, b);
                assert!(error <= allowed, "{name}, {matmul:?}, chunks of {chunk}, {what}: relative error {error:.1e}");
                *worst = worst.max(error);
            };
            check("logits", &parts_logits, &logits);
            for (i, (a, b)) in parts.layers.iter().zip(&whole.layers).enumerate() {
                assert_eq!(a.positions, b.positions, "{name}, layer {i}");
                check("k", &a.k.concat(), &b.k.concat());
                check("v", &a.v.concat(), &b.v.concat());
                check("k_pre_rope", &a.k_pre_rope.concat(), &b.k_pre_rope.concat());
                check("mass", &a.mass.concat(), &b.mass.concat());
                check("window mass", &a.mass_window.concat(), &b.mass_window.concat());
            }
        }
    }
    println!(
        "chunks against one pass: largest relative error {:.1e} in f32, {:.1e} in fixed point",
        worst[0], worst[1]
    );
}

#[test]
fn every_query_hands_out_a_mass_of_one_per_query_head() {
    for ((name, _), matmul) in models() {
        let (model, reference) = load(name, matmul);
        let tokens = reference.ids("token_ids");
        let (store, _) = run(&model, tokens, tokens.len());
        let group = model.config().group() as f32;
        for head in store.layers.iter().flat_map(|layer| layer.mass.iter().zip(&layer.mass_window)) {
            let (all, window): (f32, f32) = (head.0.iter().sum(), head.1.iter().sum());
            assert!((all / group - tokens.len() as f32).abs() < 1e-3, "{name}: {all}");
            assert!((window / group - WINDOW as f32).abs() < 1e-3, "{name}: {window}");
        }
    }
}

#[test]
fn rows_of_logits_are_those_asked_for() {
    let (model, reference) = load("llama-gqa", Matmul::F32);
    let tokens = reference.ids("token_ids");
    let vocab_size = model.config().vocab_size;
    let (_, all) = run(&model, tokens, tokens.len());
    let forward = |rows| {
        let mut store = Recorder::new(model.config(), 0);
        model.forward(tokens, 0, &mut store, rows).unwrap()
    };
    assert!(forward(LogitRows::None).is_empty());
    let last = forward(LogitRows::Last);
    assert_eq!(last.len(), vocab_size);
    assert!(relative_error(&last, &all[all.len() - vocab_size..]) <= 1e-6);
}

#[test]
#[ignore = "needs KVSCOPE_REAL_MODEL: a Gemma 3 GGUF file, with what tests/fixtures/models/gemma3.py wrote beside it"]
fn a_real_model_with_windows_is_that_of_transformers() {
    let path = PathBuf::from(std::env::var_os("KVSCOPE_REAL_MODEL").unwrap());
    let reference = Reference::read(&path.with_extension("reference.safetensors"));
    let (tokens, probes) = (reference.ids("token_ids"), reference.ids("positions"));
    println!("{HEADER}");
    for matmul in matmuls() {
        // Rounding of activations adds up over layers.
        let allowed = if matmul == Matmul::F32 { 1e-4 } else { 3e-4 };
        let model = load_with(&path, matmul);
        let c = model.config();
        assert!(c.windows.iter().flatten().any(|window| *window < tokens.len()), "the text stays within the windows");
        for chunk in [tokens.len(), 100] {
            let mut store = Recorder::new(c, tokens.len() - WINDOW);
            let mut probed = Vec::new();
            for (i, part) in tokens.chunks(chunk).enumerate() {
                let logits = model.forward(part, i * chunk, &mut store, LogitRows::All).unwrap();
                let here =
                    probes.iter().filter_map(|p| (*p as usize).checked_sub(i * chunk)).filter(|p| *p < part.len());
                probed.extend(here.flat_map(|p| logits[p * c.vocab_size..][..c.vocab_size].to_vec()));
            }
            let vectors = [c.n_kv_heads, tokens.len(), c.head_dim];
            let mut errors = Errors::default();
            for (i, layer) in store.layers.iter().enumerate() {
                let error = |what: &str, found: &[Vec<f32>], shape: &[usize]| {
                    relative_error(&found.concat(), reference.floats(&format!("layers.{i}.{what}"), shape))
                };
                errors.k = errors.k.max(error("k", &layer.k, &vectors));
                errors.v = errors.v.max(error("v", &layer.v, &vectors));
                errors.k_pre_rope = errors.k_pre_rope.max(error("k_pre_rope", &layer.k_pre_rope, &vectors));
                errors.mass = errors.mass.max(error("attn_mass", &layer.mass, &vectors[..2]));
                let window = error("attn_mass_window", &layer.mass_window, &vectors[..2]);
                errors.mass_window = errors.mass_window.max(window);
            }
            errors.logits = relative_error(&probed, reference.floats("logits", &[probes.len(), c.vocab_size]));
            println!("{}", errors.row(&format!("{matmul:?}, chunks of {chunk}")));
            assert!(errors.worst() <= allowed, "{matmul:?}: {:.1e}", errors.worst());
        }
        let expected = reference.ids("greedy");
        assert_eq!(greedy(&model, tokens, expected.len(), 0), expected, "{matmul:?}");
    }
}

fn demo_reference() -> Reference {
    let path: PathBuf = fixture("smollm2-135m.reference.safetensors");
    Reference::read(&path)
}

#[test]
#[ignore = "needs the demo model: kvscope pull smollm2-135m"]
fn demo_model_states_masses_and_logits_are_those_of_transformers() {
    for matmul in matmuls() {
        check_demo_model(&load_with(&demo_model(), matmul), matmul);
    }
}

fn check_demo_model(model: &Model, matmul: Matmul) {
    let reference = demo_reference();
    let c = model.config();
    assert_eq!((c.n_layers, c.n_q_heads, c.n_kv_heads, c.head_dim), (30, 9, 3, 64));
    let tokens = reference.ids("token_ids");
    let probes = reference.ids("positions");
    for chunk in [tokens.len(), 50] {
        let (store, logits) = run(model, tokens, chunk);
        let mut errors = Errors::default();
        let mut n_pre_rope = 0;
        for (i, layer) in store.layers.iter().enumerate() {
            let probed = |heads: &[Vec<f32>]| -> Vec<f32> {
                heads.iter().flat_map(|h| probes.iter().flat_map(|p| h[*p as usize * 64..][..64].to_vec())).collect()
            };
            let error = |what: &str, found: &[f32], shape: &[usize]| {
                let error = relative_error(found, reference.floats(&format!("layers.{i}.{what}"), shape));
                assert!(error <= tolerance(matmul), "{matmul:?}, layer {i}, {what}: relative error {error:.1e}");
                error
            };
            errors.k = errors.k.max(error("k", &probed(&layer.k), &[3, probes.len(), 64]));
            errors.v = errors.v.max(error("v", &probed(&layer.v), &[3, probes.len(), 64]));
            errors.mass = errors.mass.max(error("attn_mass", &layer.mass.concat(), &[3, tokens.len()]));
            if reference.has(&format!("layers.{i}.k_pre_rope")) {
                let found = error("k_pre_rope", &probed(&layer.k_pre_rope), &[3, probes.len(), 64]);
                errors.k_pre_rope = errors.k_pre_rope.max(found);
                n_pre_rope += 1;
            }
        }
        assert_eq!(n_pre_rope, 2);
        let last = &logits[logits.len() - c.vocab_size..];
        errors.logits = relative_error(last, reference.floats("logits_last", &[c.vocab_size]));
        println!("{HEADER}\n{}", errors.row(&format!("{matmul:?}, chunks of {chunk}")));
        assert!(errors.worst() <= tolerance(matmul), "{matmul:?}: relative error of the logits {:.1e}", errors.logits);
    }
}

#[test]
#[ignore = "needs the demo model: kvscope pull smollm2-135m"]
fn demo_model_greedy_continuation_is_that_of_transformers() {
    let reference = demo_reference();
    for matmul in matmuls() {
        let model = load_with(&demo_model(), matmul);
        for chunk in [0, 50] {
            let found = greedy(&model, reference.ids("token_ids"), 64, chunk);
            assert_eq!(found, reference.ids("greedy"), "{matmul:?}, chunks of {chunk}");
        }
    }
}

#[test]
fn output_projections_are_those_of_the_weights_in_f64() {
    for name in ["llama-gqa-f32.gguf", "llama-gqa-q8_0.gguf", "llama-k-quants.gguf"] {
        let path = fixture(name);
        let mut file = std::fs::File::open(&path).unwrap();
        let content = Content::read(&mut file).unwrap();
        for model in matmuls().into_iter().map(|matmul| load_with(&path, matmul)) {
            let Config { n_layers, n_q_heads, n_kv_heads, head_dim, .. } = *model.config();
            let group = n_q_heads / n_kv_heads;
            let x: Vec<f32> = (0..3 * head_dim).map(|i| ((i * 37 + 11) % 29) as f32 / 29.0 - 0.4).collect();
            for (layer, head) in (0..n_layers).flat_map(|layer| (0..n_q_heads).map(move |head| (layer, head))) {
                let tensor = format!("blk.{layer}.attn_output.weight");
                let tensor = content.tensor(&mut file, &tensor, &Device::Cpu).unwrap();
                let weight: Vec<Vec<f32>> = tensor.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap();
                let exact = x.chunks(head_dim).map(|x| -> f64 {
                    let of_row = |row: &Vec<f32>| {
                        let terms = row[head * head_dim..].iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                        terms.sum::<f64>().powi(2)
                    };
                    weight.iter().map(of_row).sum()
                });
                let projection = model.projections().unwrap().of_kv_head((layer * n_q_heads + head) / group, group);
                let found = projection.squared_norms(Rows::new(&x, head_dim), head % group);
                for (found, exact) in found.iter().zip(exact) {
                    assert!((f64::from(*found) - exact).abs() <= 1e-5 * exact, "{name}, layer {layer}, head {head}");
                }
            }
        }
    }
}
