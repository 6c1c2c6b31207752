//! Memory that a capture takes, as the operating system counts it.
//!
//! Without the test harness, as `tests/memory.rs`: the capture runs on the main thread, as in the program, and nothing
//! else allocates meanwhile. `cargo test --release --test capture_memory -- --ignored` measures the demo model.

mod kit {
    pub mod capture;
    pub mod demo;
    pub mod noise;
}

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use kit::capture::everything;
use kit::demo::demo_model;
use kit::noise::noise;
use kvscope::capture;
use kvscope::capture::{CaptureError, CaptureOptions, SampleInput, memory_estimate};
use kvscope::format::dump::Manifest;
use kvscope::format::run::Target;
use kvscope::math::Float;
use kvscope::model::Model;
use kvscope::runtime::{release_freed_memory, start_threads};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

const LENGTHS: [usize; 3] = [2048, 4096, 8192];
const RUNS: usize = 2;
const MB: f64 = 1e6;
/// Threads' packing buffers, the writer's, and what the allocator keeps: whatever does not grow with the prompt.
const CONSTANT_BYTES: f64 = 24.0 * MB;

fn main() {
    if cfg!(not(all(target_os = "linux", target_env = "gnu"))) {
        println!("not run: this system does not tell a process' peak, or keeps what is freed");
        return;
    }
    start_threads(None).unwrap();
    let wants = |flag: &str| std::env::args().any(|arg| arg == flag);
    if wants("--ignored") || wants("--include-ignored") {
        let model = Model::load(&demo_model()).unwrap();
        demo_model_peaks_grow_no_faster_than_one_layer(&model);
        demo_model_limits_are_kept(&model);
    }
    if !wants("--ignored") {
        let dir = tempfile::tempdir().unwrap();
        let model = wide_model(dir.path());
        peaks_grow_no_faster_than_one_layer(&model);
        limits_are_kept(&model);
        experts_are_read_when_a_token_passes_them();
    }
}

/// A model whose keys and values are large beside everything else: 4 layers, 4 KV heads of 128, hidden size 64.
fn wide_model(dir: &Path) -> Model {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 32,
        "max_position_embeddings": 16384, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "hidden_act": "silu",
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut shapes = vec![("model.embed_tokens".to_string(), vec![32, 64]), ("model.norm".to_string(), vec![64])];
    for layer in 0..4 {
        for (part, shape) in [
            ("input_layernorm", vec![64]),
            ("post_attention_layernorm", vec![64]),
            ("self_attn.q_proj", vec![512, 64]),
            ("self_attn.k_proj", vec![512, 64]),
            ("self_attn.v_proj", vec![512, 64]),
            ("self_attn.o_proj", vec![64, 512]),
            ("mlp.gate_proj", vec![64, 64]),
            ("mlp.up_proj", vec![64, 64]),
            ("mlp.down_proj", vec![64, 64]),
        ] {
            shapes.push((format!("model.layers.{layer}.{part}"), shape));
        }
    }
    let data: Vec<Vec<u8>> = shapes
        .iter()
        .enumerate()
        .map(|(i, (_, shape))| {
            noise(shape.iter().product(), i as u64).iter().flat_map(|x| (0.2 * x).to_le_bytes()).collect()
        })
        .collect();
    let views = shapes.iter().zip(&data).map(|((name, shape), data)| {
        (format!("{name}.weight"), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    Model::load(dir).unwrap()
}

/// Everything there is to capture, in chunks as the command takes them by default.
fn options(model: &Model) -> CaptureOptions {
    CaptureOptions { dtype: Float::F16, n_queries: Some(64), chunk_tokens: 1024, ..everything(model) }
}

fn input(model: &Model, n_tokens: usize) -> SampleInput {
    let vocab_size = model.config().vocab_size as u32;
    let tokens: Vec<u32> = (0..n_tokens as u32).map(|i| (i * 7919 + 13) % vocab_size).collect();
    SampleInput { dataset: "d".into(), id: "0".into(), n_tokens_full: n_tokens, tokens }
}

/// Bytes of the line of `/proc/PID/status`.
fn status(process: &str, line: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find(|text| text.starts_with(line))?;
    line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

/// Runs a capture; the most resident bytes during it.
fn peak_of(
    model: &Model,
    options: &CaptureOptions,
    n_tokens: usize,
    limit: Option<u64>,
) -> Result<(f64, Manifest), CaptureError> {
    let dir = tempfile::tempdir().unwrap();
    let options = CaptureOptions { memory_limit: limit, ..options.clone() };
    release_freed_memory();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let inputs = [input(model, n_tokens)];
    let manifest =
        capture::run(model, &inputs, &[], &options, &Target::new(dir.path()), &AtomicBool::new(false), &mut |_| {})?;
    Ok((status("self", "VmHWM:").unwrap(), manifest))
}

/// One layer's states while it is captured, f32: keys, values and keys before the rotation, queries, masses.
fn layer_bytes(model: &Model, n_tokens: usize) -> f64 {
    let c = model.config();
    let (kv_width, q_width) = (c.n_kv_heads * c.head_dim, c.n_q_heads * c.head_dim);
    (4 * (3 * n_tokens * kv_width + 64 * q_width + 2 * n_tokens * c.n_kv_heads)) as f64
}

/// Prints a table and asserts that the longest prompt adds one layer's states and the activations at most.
///
/// By luck of the threads a run takes less than it may, never more, up to 14 MB: each length is run `RUNS` times and its
/// highest peak counts, and the growth is judged over the whole range, where a second layer is as large as that luck.
fn assert_peaks(name: &str, model: &Model, options: &CaptureOptions) {
    release_freed_memory();
    let base = status("self", "VmRSS:").unwrap();
    println!("{name}: {} layers, weights {:.1} MB", model.config().n_layers, model.weight_bytes() as f64 / MB);
    println!("  tokens   peak above weights   estimated   one layer's states   all layers'");
    let mut first: Option<(f64, f64)> = None;
    for n_tokens in LENGTHS {
        let peak = (0..RUNS).map(|_| peak_of(model, options, n_tokens, None).unwrap().0).fold(0.0, f64::max);
        let estimate = memory_estimate(model, options, n_tokens);
        let (above, due) = (peak - base, (estimate.states + estimate.activations) as f64);
        let layer = layer_bytes(model, n_tokens);
        println!(
            "  {n_tokens:6}   {:15.1} MB {:8.1} MB {:17.1} MB {:10.1} MB",
            above / MB,
            due / MB,
            layer / MB,
            layer * model.config().n_layers as f64 / MB
        );
        assert_eq!(estimate.states as f64, layer, "the estimate's states are those of one layer");
        assert!(above <= due + CONSTANT_BYTES, "{n_tokens} tokens: {above} bytes above the weights, {due} due");
        let (first_above, first_due) = *first.get_or_insert((above, due));
        let (grew, may_grow) = (above - first_above, due - first_due);
        // Room for what the allocator keeps or not; a second layer or a T x T matrix is more.
        assert!(grew <= 1.1 * may_grow + 4.0 * MB, "{n_tokens} tokens: grew by {grew}, may grow by {may_grow}");
    }
}

fn peaks_grow_no_faster_than_one_layer(model: &Model) {
    assert_peaks("wide model", model, &options(model));
    println!("test peaks_grow_no_faster_than_one_layer ... ok");
}

fn limits_are_kept(model: &Model) {
    let n_tokens = 4096;
    let plain = options(model);
    for chunk_tokens in [1024, 256, 64] {
        let with = |chunk_tokens| CaptureOptions { chunk_tokens, ..plain.clone() };
        let limit = memory_estimate(model, &with(chunk_tokens), n_tokens).total();
        let (peak, manifest) = peak_of(model, &with(0), n_tokens, Some(limit)).unwrap();
        println!("limit {:.1} MB: peak {:.1} MB at {chunk_tokens} tokens a chunk", limit as f64 / MB, peak / MB);
        assert!(peak <= limit as f64, "limit {limit}, peak {peak}");
        assert_eq!(manifest.provenance.options["chunk_tokens"], chunk_tokens);
        let refused =
            peak_of(model, &with(64), n_tokens, Some(memory_estimate(model, &with(64), n_tokens).total() - 1));
        assert!(matches!(refused, Err(CaptureError::Memory { .. })));
    }
    println!("test limits_are_kept ... ok");
}

/// 2 layers of 64 experts in bf16, 302 MB, beside 2 MB of all else. Its tokens are many, so that some pass every expert.
fn write_mixture(dir: &Path) {
    let (hidden, expert_size, n_experts) = (512, 768, 64);
    let config = serde_json::json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": hidden,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32,
        "vocab_size": 1024, "max_position_embeddings": 16384, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "num_experts": n_experts, "num_experts_per_tok": 2, "moe_intermediate_size": expert_size, "norm_topk_prob": true,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut shapes =
        vec![("model.embed_tokens".to_string(), vec![1024, hidden]), ("model.norm".to_string(), vec![hidden])];
    for layer in 0..2 {
        let mut add =
            |part: &str, shape: &[usize]| shapes.push((format!("model.layers.{layer}.{part}"), shape.to_vec()));
        add("input_layernorm", &[hidden]);
        add("post_attention_layernorm", &[hidden]);
        add("self_attn.q_proj", &[128, hidden]);
        add("self_attn.k_proj", &[32, hidden]);
        add("self_attn.v_proj", &[32, hidden]);
        add("self_attn.o_proj", &[hidden, 128]);
        add("self_attn.q_norm", &[32]);
        add("self_attn.k_norm", &[32]);
        add("mlp.gate", &[n_experts, hidden]);
        for expert in 0..n_experts {
            add(&format!("mlp.experts.{expert}.gate_proj"), &[expert_size, hidden]);
            add(&format!("mlp.experts.{expert}.up_proj"), &[expert_size, hidden]);
            add(&format!("mlp.experts.{expert}.down_proj"), &[hidden, expert_size]);
        }
    }
    // The upper halves of f32. Tensors are parts of one row of numbers, the experts' of the same part.
    let numbers = noise(1 << 20, 9);
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| ((0.2 * x).to_bits() >> 16).to_le_bytes()[..2].to_vec()).collect();
    let views = shapes.iter().enumerate().map(|(i, (name, shape))| {
        let first = if name.contains("experts") { 0 } else { 256 * i };
        let data = &bytes[first..first + 2 * shape.iter().product::<usize>()];
        (format!("{name}.weight"), TensorView::new(Dtype::BF16, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

/// Pages of the file count like any other memory here, though the system takes them back when it needs them. A token passes 2 of
/// 64 experts of each layer, and their pages stay for the next one; 512 tokens pass all, one expert after the other.
fn experts_are_read_when_a_token_passes_them() {
    let dir = tempfile::tempdir().unwrap();
    write_mixture(dir.path());
    release_freed_memory();
    let now = |line: &str| status("self", line).unwrap();
    let (base, anonymous) = (now("VmRSS:"), now("RssAnon:"));
    let model = Model::load(dir.path()).unwrap();
    let weights = model.weight_bytes() as f64;
    let loaded = now("VmRSS:") - base;
    println!("mixture: weights {:.1} MB, {:.1} MB resident once loaded", weights / MB, loaded / MB);
    assert!(weights > 300.0 * MB && loaded < 16.0 * MB, "{loaded} of {weights} bytes");
    let passed = 2.0 / 64.0 * weights;
    for n_tokens in [1, 4, 512] {
        let (peak, _) = peak_of(&model, &options(&model), n_tokens, None).unwrap();
        let estimate = memory_estimate(&model, &options(&model), n_tokens);
        let due = (estimate.states + estimate.activations) as f64 + CONSTANT_BYTES;
        println!(
            "  {n_tokens:4} tokens: peak {:.1} MB above what was there before, anonymous {:.1} MB",
            (peak - base) / MB,
            (now("RssAnon:") - anonymous) / MB
        );
        assert!(peak - base <= passed + due, "{n_tokens} tokens: {} bytes", peak - base);
        assert!(now("RssAnon:") - anonymous <= due, "{n_tokens} tokens: experts were copied");
    }
    println!("test experts_are_read_when_a_token_passes_them ... ok");
}

fn demo_model_peaks_grow_no_faster_than_one_layer(model: &Model) {
    assert_peaks("SmolLM2-135M, chunks of 1024", model, &options(model));
    assert_peaks("SmolLM2-135M, chunks of 256", model, &CaptureOptions { chunk_tokens: 256, ..options(model) });
    println!("test demo_model_peaks_grow_no_faster_than_one_layer ... ok");
}

/// The program itself, from its start. Pages of the model's file, which the system takes back when it needs them, are left
/// out: they are mapped while the weights are read.
fn demo_model_limits_are_kept(model: &Model) {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "The tide had gone out by noon, and the harbour lay in the mud with its boats on their sides. ".repeat(500);
    std::fs::write(dir.path().join("tide.txt"), text).unwrap();
    for n_tokens in [2048, 4096, 8192] {
        let with = |chunk_tokens| CaptureOptions { chunk_tokens, ..options(model) };
        let limit = memory_estimate(model, &with(512), n_tokens).total();
        let (max_tokens, limit_text) = (n_tokens.to_string(), limit.to_string());
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvscope"))
            .args(["--quiet", "capture", "--model", "smollm2-135m", "--prompts", "tide.txt", "--out", &max_tokens])
            .args(["--max-tokens", &max_tokens, "--memory-limit", &limit_text])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (mut peak, mut n_readings) = (0f64, 0);
        let status_of_child = loop {
            peak = status(&child.id().to_string(), "RssAnon:").unwrap_or(0.0).max(peak);
            n_readings += 1;
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        assert!(status_of_child.success());
        assert!(n_readings > 100);
        println!("{n_tokens} tokens, limit {:.1} MB: the program's peak {:.1} MB", limit as f64 / MB, peak / MB);
        assert!(peak <= limit as f64, "limit {limit}, peak {peak}");
    }
    println!("test demo_model_limits_are_kept ... ok");
}
