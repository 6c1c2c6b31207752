//! Speed of the analysis, as ratios within one run: similarity maps against numpy and torch and against the machine's
//! matrix peak, the analysis of a dump against reading it, and cost against length.
//!
//! `cargo bench --bench analysis`; `KVSCOPE_PEER_PYTHON` names a Python with numpy and torch (default `python3`).

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use kvscope::analyze::AnalyzeOptions;
use kvscope::analyze::MapMaker;
use kvscope::analyze::analyze;
use kvscope::dump::Dump;
use kvscope::dump::ElementType;
use kvscope::dump::Manifest;
use kvscope::dump::SampleEntry;
use kvscope::dump::SampleWriter;
use kvscope::dump::State;
use kvscope::dump::TensorSpec;
use kvscope::files::Document;
use kvscope::files::ModelIdentity;
use kvscope::files::Provenance;
use kvscope::files::write_json;
use rayon::prelude::*;

const REPEATS: usize = 7;

fn main() {
    // `cargo test` runs benchmarks too, to see that they work; it passes no `--bench`.
    let quick = !std::env::args().any(|arg| arg == "--bench");
    let peak = peak(quick);
    println!("peak: {:.1} GFLOP/s of f32 multiply-adds on {} threads", peak / 1e9, rayon::current_num_threads());
    let (tokens, shapes) = if quick { (256, [(1, 16), (2, 32)]) } else { (4096, [(3, 64), (32, 128)]) };
    for (heads, dim) in shapes {
        maps(heads, tokens, dim, peak, quick);
    }
    let dir = std::env::temp_dir().join(format!("kvscope-bench-{}", std::process::id()));
    // As many bytes at every length, so that the work is the same where it grows with the number of tokens alone.
    let (lengths, samples, layers) = if quick { ([64, 128, 256], 2, 2) } else { ([2048, 4096, 8192], 12, 30) };
    let mut first = None;
    for (step, tokens) in lengths.into_iter().enumerate() {
        let dump = write_dump(&dir.join(tokens.to_string()), tokens, layers, (samples >> step).max(1));
        let per_token = dump_against_reading(&dump, tokens, &dir.join("out"), quick);
        let base = *first.get_or_insert(per_token);
        println!("  cost per token against {} tokens: {:.2}", lengths[0], per_token / base);
    }
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        println!("left behind: {} ({error})", dir.display());
    }
}

/// Seconds of the fastest of several runs after one to warm up.
fn fastest(quick: bool, run: impl FnMut()) -> f64 {
    fastest_of(quick, REPEATS, run)
}

fn fastest_of(quick: bool, runs: usize, mut run: impl FnMut()) -> f64 {
    run();
    let runs = if quick { 1 } else { runs };
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// Floating-point operations a second of multiply-adds in registers alone, on all threads: what no product can exceed.
fn peak(quick: bool) -> f64 {
    let rounds = if quick { 1000 } else { 20_000_000 };
    let threads = rayon::current_num_threads();
    let mut operations = 0;
    let secs = fastest(quick, || {
        let sums: Vec<(usize, f32)> = (0..threads).into_par_iter().map(|_| multiply_adds(rounds)).collect();
        operations = sums.iter().map(|(operations, _)| operations).sum();
        black_box(&sums);
    });
    operations as f64 / secs
}

/// Operations, and a sum that keeps them from being left out.
fn multiply_adds(rounds: usize) -> (usize, f32) {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the instructions were asked for")]
    unsafe {
        if is_x86_feature_detected!("avx512f") {
            return (rounds * 12 * 16 * 2, multiply_adds_avx512(rounds));
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return (rounds * 12 * 8 * 2, multiply_adds_avx2(rounds));
        }
    }
    let (x, y) = (black_box(0.5f32), black_box(0.25f32));
    let mut sums = [x; 32];
    (0..rounds).for_each(|_| sums.iter_mut().for_each(|sum| *sum = *sum * x + y));
    (rounds * 32 * 2, sums.iter().sum())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn multiply_adds_avx512(rounds: usize) -> f32 {
    use std::arch::x86_64::*;
    let (x, y) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
    let mut sums = [x; 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, x, y);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_adds_avx2(rounds: usize) -> f32 {
    use std::arch::x86_64::*;
    let (x, y) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
    let mut sums = [x; 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, x, y);
        }
    }
    sums.into_iter().map(|sum| _mm_cvtss_f32(_mm256_castps256_ps128(sum))).sum()
}

/// Numbers in [-1, 1) that look random.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn maps(heads: usize, tokens: usize, dim: usize, peak: f64, quick: bool) {
    let layer: Vec<Vec<f32>> = (0..heads).map(|head| noise(tokens * dim, head as u64 + 5)).collect();
    let run = |n_levels: usize| {
        let mut maker = MapMaker::default();
        let secs = fastest(quick, || {
            for head in &layer {
                black_box(maker.map(head, dim, n_levels));
            }
        });
        secs
    };
    let (ours, with_levels) = (run(1), run(5));
    // Both triangles are one: T² / 2 inner products of D multiplications and additions.
    let needed = heads as f64 * (tokens as f64).powi(2) * dim as f64;
    println!(
        "maps of {heads} heads, {tokens} tokens, dimension {dim}, in f16, both triangles written: {:.1} ms, {:.0} % of the \
         peak over one triangle; with four coarser levels {:.1} ms",
        1e3 * ours,
        100.0 * needed / ours / peak,
        1e3 * with_levels
    );
    match peer(heads, tokens, dim) {
        Ok(times) => {
            for (name, secs) in &times {
                println!("  {name}: {:.1} ms, {:.2}x", 1e3 * secs, secs / ours);
            }
        }
        Err(why) => println!("  no peer: {why}"),
    }
}

/// Seconds of numpy and torch.
fn peer(heads: usize, tokens: usize, dim: usize) -> Result<Vec<(String, f64)>, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/analysis.py");
    let python = std::env::var_os("KVSCOPE_PEER_PYTHON").unwrap_or_else(|| "python3".into());
    let sizes = [heads, tokens, dim].map(|n| n.to_string());
    let output =
        Command::new(&python).arg(script).args(sizes).output().map_err(|e| format!("{}: {e}", python.display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(text.lines().last().unwrap_or("it failed without a word").into());
    }
    let times: std::collections::BTreeMap<String, f64> =
        serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
    Ok(times.into_iter().collect())
}

/// Seconds per token of the analysis without maps and without queries, the part that reads every state once.
fn dump_against_reading(dump: &Dump, tokens: usize, out: &Path, quick: bool) -> f64 {
    let samples = &dump.manifest().samples;
    let paths: Vec<_> = samples.iter().map(|sample| dump.dir().join(&sample.file)).collect();
    let bytes: u64 = samples.iter().map(|sample| sample.bytes).sum();
    let into_memory = fastest_of(quick, 2, || {
        for path in &paths {
            black_box(std::fs::read(path).expect("the benchmark's own file"));
        }
    });
    let mut buffer = vec![0u8; 1 << 20];
    let streaming = fastest_of(quick, 3, || {
        for path in &paths {
            let mut file = std::fs::File::open(path).expect("the benchmark's own file");
            while std::io::Read::read(&mut file, &mut buffer).expect("the benchmark's own file") > 0 {}
        }
    });
    let run = |options: &AnalyzeOptions| {
        let analysis = analyze(std::slice::from_ref(dump), options, out, &mut |_, _| {});
        black_box(analysis.expect("the benchmark's own dump"));
    };
    let plain = fastest_of(quick, 3, || run(&AnalyzeOptions { budgets: Vec::new(), ..AnalyzeOptions::default() }));
    println!(
        "dump of {} samples of {tokens} tokens, {:.1} MB in page cache, read on one thread: into memory {:.1} ms, through a \
         buffer {:.1} ms; analysis without maps and queries {:.1} ms: {:.2}x and {:.2}x the speed of reading",
        samples.len(),
        bytes as f64 / 1e6,
        1e3 * into_memory,
        1e3 * streaming,
        1e3 * plain,
        into_memory / plain,
        streaming / plain,
    );
    plain / (tokens * samples.len()) as f64
}

/// A dump of SmolLM2's shape, every state captured, in f16: four data sets of as many samples, all of them one file under
/// several names, which takes as long to read.
fn write_dump(dir: &Path, tokens: usize, layers: usize, samples: usize) -> Dump {
    const KV: usize = 3;
    const GROUP: usize = 3;
    const DIM: usize = 64;
    const QUERIES: usize = 64;
    const DATASETS: usize = 4;
    std::fs::create_dir_all(dir).expect("a temporary folder");
    let spec = |name: String, element, shape: &[usize]| TensorSpec { name, element, shape: shape.to_vec() };
    let mut specs = vec![spec("token_ids".into(), ElementType::I64, &[tokens])];
    for layer in 0..layers {
        specs.push(spec(format!("layers.{layer}.q_positions"), ElementType::I64, &[QUERIES]));
    }
    for layer in 0..layers {
        for state in State::ALL {
            let name = Manifest::tensor_name(layer, state);
            match state {
                State::Q => specs.push(spec(name, ElementType::F16, &[KV * GROUP, QUERIES, DIM])),
                State::Mass => {
                    specs.push(spec(name.clone(), ElementType::F32, &[KV, tokens]));
                    specs.push(spec(format!("{name}_window"), ElementType::F32, &[KV, tokens]));
                }
                _ => specs.push(spec(name, ElementType::F16, &[KV, tokens, DIM])),
            }
        }
    }
    let name = |index: usize| format!("{index}.safetensors");
    let mut writer = SampleWriter::create(&dir.join(name(0)), specs.clone(), &[]).expect("a temporary file");
    for (seed, spec) in specs.iter().enumerate() {
        let n: usize = spec.shape.iter().product();
        if spec.element == ElementType::I64 {
            let last = tokens - n.min(tokens);
            writer.write_i64(&spec.name, (0..n).map(|i| (last + i) as i64)).expect("a temporary file");
            continue;
        }
        let mut values = noise(n, seed as u64 + 99);
        if spec.element == ElementType::F32 {
            values.iter_mut().for_each(|x| *x = x.abs());
        } else if spec.shape[1] == tokens {
            // Like neighbours, as keys are.
            for i in DIM..n {
                values[i] = 0.8 * values[i - DIM] + 0.4 * values[i];
            }
        }
        writer.write_f32(&spec.name, &values).expect("a temporary file");
    }
    let (sha256, bytes) = writer.finish().expect("a temporary file");
    let n_samples = DATASETS * samples;
    for index in 1..n_samples {
        std::fs::hard_link(dir.join(name(0)), dir.join(name(index))).expect("a temporary file");
    }
    let manifest = Manifest {
        schema: Manifest::schema_id(),
        provenance: Provenance::new("bench", 0, serde_json::json!({}), vec![]),
        model: ModelIdentity {
            name: "bench".into(),
            architecture: "LlamaForCausalLM".into(),
            fingerprint: "bench".into(),
            tokenizer_sha256: None,
            n_layers: layers,
            n_q_heads: KV * GROUP,
            n_kv_heads: KV,
            head_dim: DIM,
            rope_theta: 1e4,
            max_positions: 1 << 14,
        },
        states: State::ALL.to_vec(),
        layers: (0..layers).collect(),
        kv_heads: None,
        dtype: ElementType::F16,
        window_tokens: 32,
        token_classes: None,
        shard: None,
        planned_samples: n_samples,
        samples: (0..n_samples)
            .map(|index| SampleEntry {
                index,
                dataset: format!("noise {}", index % DATASETS),
                id: index.to_string(),
                n_tokens: tokens,
                n_prompt_tokens: tokens,
                n_tokens_full: tokens,
                file: name(index),
                bytes,
                sha256: sha256.clone(),
            })
            .collect(),
    };
    write_json(&dir.join("manifest.json"), &manifest).expect("a temporary file");
    Dump::open(dir).expect("the benchmark's own dump")
}
