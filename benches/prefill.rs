//! Prefill and capture of the demo model beside transformers and llama.cpp, in one run on one machine.
//!
//! `cargo bench --bench prefill -- --python VENV/bin/python` prints medians and ratios and writes every sample to a file.
//! The peers (`benches/peers/`) are processes that answer one request at a time; requests go round in turn, forwards and
//! backwards, so that a slow minute of the machine hits all of them.

mod common {
    pub mod median;
    pub mod peak;
    pub mod peer;
    pub mod prompt;
}

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};

use common::median::median;
use common::peak::{PAUSE, peaks};
use common::peer::{Peer, PeerArgs};
use common::prompt::prompt;
use kvscope::capture;
use kvscope::capture::{CaptureOptions, SampleInput};
use kvscope::format::dump::State;
use kvscope::format::run::Target;
use kvscope::hub::{HubSettings, resolve};
use kvscope::math::Float;
use kvscope::model::{
    AttnMass, ChunkStates, Compute, HeadSlots, KvStore, LogitRows, Matmul, Model, Pass, SlotVectors, StoreNeeds,
};
use kvscope::runtime::{RaggedCache, start_threads};

/// Chunk of a capture, as the command line has it.
const CHUNK_TOKENS: usize = 1024;

/// Prefill and capture beside transformers and llama.cpp
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    peers: PeerArgs,
    /// Prompt lengths
    #[arg(long, value_delimiter = ',', default_value = "2048,4096")]
    tokens: Vec<usize>,
    /// Rounds; a prompt passes once in each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Threads of every engine
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Model
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// Raw samples
    #[arg(long, default_value = "target/bench/prefill.json")]
    out: PathBuf,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// What a capture asks of the forward pass, with one layer's keys and values kept and nothing written.
struct Sink {
    n_kv_heads: usize,
    n_tokens: usize,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    positions: Vec<u32>,
}

impl Sink {
    fn new(model: &Model, n_tokens: usize) -> Self {
        let n_kv_heads = model.config().n_kv_heads;
        Self {
            n_kv_heads,
            n_tokens,
            keys: vec![Vec::new(); n_kv_heads],
            values: vec![Vec::new(); n_kv_heads],
            positions: Vec::new(),
        }
    }
}

impl KvStore for Sink {
    type Error = std::convert::Infallible;

    fn needs(&self) -> StoreNeeds {
        let window = self.n_tokens.saturating_sub(32);
        StoreNeeds { mass: true, mass_from_position: Some(window), ..StoreNeeds::default() }
    }

    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), Self::Error> {
        if chunk.first_position == 0 {
            self.keys.iter_mut().chain(&mut self.values).for_each(Vec::clear);
            self.positions.clear();
        }
        for (from, into) in [(chunk.k, &mut self.keys), (chunk.v, &mut self.values)] {
            for (head, into) in into.iter_mut().enumerate() {
                from.every(self.n_kv_heads, head).for_each(|row| into.extend_from_slice(row));
            }
        }
        self.positions.extend((chunk.first_position..chunk.first_position + chunk.n_tokens).map(|p| p as u32));
        Ok(())
    }

    fn heads(&self, _layer: usize) -> Vec<HeadSlots<'_>> {
        let slots = |(keys, values)| HeadSlots {
            keys: SlotVectors::F32(keys),
            values: SlotVectors::F32(values),
            logit_bias: None,
            positions: &self.positions,
        };
        self.keys.iter().map(Vec::as_slice).zip(self.values.iter().map(Vec::as_slice)).map(slots).collect()
    }

    fn attended(&mut self, _chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), Self::Error> {
        std::hint::black_box(mass);
        Ok(())
    }
}

/// Seconds, and the first of the highest logits.
fn prefill(model: &Model, tokens: &[u32]) -> anyhow::Result<(f64, u32)> {
    let start = Instant::now();
    let mut cache = RaggedCache::new(model.config(), Float::F32, None);
    cache.begin_prompt(tokens.len());
    let logits = model.forward(tokens, 0, &mut cache, LogitRows::Last)?;
    let secs = start.elapsed().as_secs_f64();
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).context("no logits")?;
    Ok((secs, best.0 as u32))
}

fn unwritten(model: &Model, tokens: &[u32]) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut sink = Sink::new(model, tokens.len());
    Pass::new(model).forward_by_layer(tokens, 0, CHUNK_TOKENS, &mut sink, LogitRows::None)?;
    Ok(start.elapsed().as_secs_f64())
}

fn written(model: &Model, tokens: &[u32], dir: &Path) -> anyhow::Result<f64> {
    let input =
        SampleInput { dataset: "bench".into(), id: "0".into(), tokens: tokens.to_vec(), n_tokens_full: tokens.len() };
    let options = CaptureOptions {
        states: [State::K, State::V, State::Mass].into(),
        layers: (0..model.config().n_layers).collect(),
        dtype: Float::F16,
        n_queries: Some(0),
        kv_heads: None,
        window_tokens: 32,
        chunk_tokens: CHUNK_TOKENS,
        decode_tokens: 0,
        chat_template: false,
        seed: 0,
        memory_limit: None,
    };
    let start = Instant::now();
    capture::run(model, &[input], &[], &options, &Target::new(dir), &AtomicBool::new(false), &mut |_| ())?;
    Ok(start.elapsed().as_secs_f64())
}

/// 10^9 operations of a prompt, two for each multiplication: of weights, and within causal attention.
///
/// The output layer, which runs for one token, and everything that is not a matrix product are left out.
fn work(model: &Model, n_tokens: usize) -> [f64; 2] {
    let c = model.config();
    let (q, kv) = (c.n_q_heads * c.head_dim, c.n_kv_heads * c.head_dim);
    let weights = c.hidden_size * (2 * q + 2 * kv + 3 * c.ffn_size);
    let pairs = n_tokens * (n_tokens + 1) / 2;
    [weights * n_tokens, 2 * q * pairs].map(|multiplications| 2e-9 * (c.n_layers * multiplications) as f64)
}

#[derive(Clone, Copy, PartialEq)]
enum Engine {
    Prefill,
    Unwritten,
    Written,
    TorchPrefill,
    TorchCapture,
    LlamaPrefill,
    LlamaFusedPrefill,
}

impl Engine {
    const ALL: [Self; 7] = [
        Self::Prefill,
        Self::TorchPrefill,
        Self::LlamaPrefill,
        Self::LlamaFusedPrefill,
        Self::Unwritten,
        Self::Written,
        Self::TorchCapture,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill, kvscope",
            Self::TorchPrefill => "prefill, transformers",
            Self::LlamaPrefill => "prefill, llama.cpp",
            Self::LlamaFusedPrefill => "prefill, llama.cpp, fused attention",
            Self::Unwritten => "states and mass unwritten, kvscope",
            Self::Written => "capture, kvscope",
            Self::TorchCapture => "capture, transformers",
        }
    }

    fn is_peer(self) -> bool {
        !matches!(self, Self::Prefill | Self::Unwritten | Self::Written)
    }
}

struct Peers {
    torch: Peer,
    llama: Peer,
    llama_fused: Peer,
}

struct Bench {
    model: Model,
    peers: Option<Peers>,
    dir: tempfile::TempDir,
    runs: usize,
}

impl Bench {
    fn run(&mut self, engine: Engine, n_tokens: usize) -> anyhow::Result<f64> {
        std::thread::sleep(PAUSE);
        self.runs += 1;
        let tokens = prompt(n_tokens);
        let out = self.dir.path().join(self.runs.to_string());
        let peers = self.peers.as_mut().context("peers are left out");
        let secs = match engine {
            Engine::Prefill => prefill(&self.model, &tokens)?.0,
            Engine::Unwritten => unwritten(&self.model, &tokens)?,
            Engine::Written => written(&self.model, &tokens, &out)?,
            Engine::TorchPrefill => peers?.torch.ask(&prefill_of(n_tokens), "secs")?,
            Engine::TorchCapture => peers?.torch.ask(&capture_of(n_tokens, &out), "secs")?,
            Engine::LlamaPrefill => peers?.llama.ask(&prefill_of(n_tokens), "secs")?,
            Engine::LlamaFusedPrefill => peers?.llama_fused.ask(&prefill_of(n_tokens), "secs")?,
        };
        if out.is_dir() {
            std::fs::remove_dir_all(&out)?;
        } else if out.exists() {
            std::fs::remove_file(&out)?;
        }
        Ok(secs)
    }

    /// Warms everything up. All engines continue the prompt with the same token, or they did not run the same model.
    fn warm_up(&mut self, n_tokens: usize) -> anyhow::Result<()> {
        let own = prefill(&self.model, &prompt(n_tokens))?.1;
        let out = self.dir.path().join("warm");
        let Some(Peers { torch, llama, llama_fused }) = &mut self.peers else { return Ok(()) };
        torch.ask::<f64>(&capture_of(n_tokens, &out), "secs")?;
        std::fs::remove_file(&out)?;
        for peer in [torch, llama, llama_fused] {
            let token: u32 = peer.ask(&prefill_of(n_tokens), "token")?;
            ensure!(token == own, "{} continues with token {token}, kvscope with {own}", peer.name);
        }
        Ok(())
    }
}

fn prefill_of(n_tokens: usize) -> Value {
    json!({ "op": "prefill", "n_tokens": n_tokens })
}

fn capture_of(n_tokens: usize, out: &Path) -> Value {
    json!({ "op": "capture", "n_tokens": n_tokens, "out": out })
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.tokens.is_empty() || args.rounds == 0 {
        bail!("nothing to measure");
    }
    start_threads(Some(args.threads))?;
    let path = resolve(&args.model, &HubSettings::from_env()).context("run `kvscope pull smollm2-135m` first")?;
    let peers = if let Some(python) = args.peers.python()? {
        let context = args.tokens.iter().copied().max().unwrap_or_default().to_string();
        let threads = args.threads.to_string();
        let model = path.to_str().context("the model's path is not UTF-8")?;
        let common = ["--model", model, "--threads", &threads];
        let llama = [common.as_slice(), &["--context", &context]].concat();
        Some(Peers {
            torch: Peer::start(python, "transformers_peer.py", &common)?,
            llama: Peer::start(python, "llama_cpp_peer.py", &llama)?,
            llama_fused: Peer::start(python, "llama_cpp_peer.py", &[llama.as_slice(), &["--flash"]].concat())?,
        })
    } else {
        None
    };
    let names: Vec<String> = peers.iter().flat_map(|p| [p.torch.name.clone(), p.llama.name.clone()]).collect();
    let mut bench = Bench { model: Model::load(&path)?, peers, dir: tempfile::tempdir()?, runs: 0 };
    let engines: Vec<Engine> = Engine::ALL.into_iter().filter(|e| !(args.peers.no_peers && e.is_peer())).collect();
    let peaks = peaks(args.threads);
    println!(
        "{} threads, peak {:.0} GFLOP/s in f32, {:.0} in 16-bit fixed point; kvscope on {}; {}",
        args.threads,
        peaks[0],
        peaks[1],
        bench.model.compute().name(),
        names.join("; ")
    );
    let mut report = json!({
        "threads": args.threads, "compute": bench.model.compute().name(), "peak_gflops_f32": peaks[0],
        "peak_gflops_fixed16": peaks[1], "peers": names, "samples": [],
    });
    for n_tokens in &args.tokens {
        bench.warm_up(*n_tokens)?;
        let mut secs = vec![Vec::new(); engines.len()];
        for round in 0..args.rounds {
            for turn in 0..engines.len() {
                let at = if round % 2 == 0 { turn } else { engines.len() - 1 - turn };
                secs[at].push(bench.run(engines[at], *n_tokens)?);
            }
        }
        for (engine, secs) in engines.iter().zip(&secs) {
            let row = json!({ "n_tokens": n_tokens, "engine": engine.name(), "secs": secs });
            report["samples"].as_array_mut().context("samples")?.push(row);
        }
        print_table(&bench.model, *n_tokens, peaks, &engines, &secs);
    }
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&args.out, serde_json::to_string_pretty(&report)?)?;
    println!("\nraw samples: {}", args.out.display());
    Ok(())
}

fn print_table(
    model: &Model,
    n_tokens: usize,
    [f32_peak, fixed_peak]: [f64; 2],
    engines: &[Engine],
    secs: &[Vec<f64>],
) {
    let of = |engine: Engine| engines.iter().position(|e| *e == engine).map(|at| median(&secs[at]));
    let [weights, attention] = work(model, n_tokens);
    let total = weights + attention;
    // The least that this model's products can take: of weights in its arithmetic, of attention in f32.
    let of_weights = match model.compute() {
        Compute::Kernels { matmul: Matmul::Fixed16 } => fixed_peak,
        _ => f32_peak,
    };
    let least = weights / of_weights + attention / f32_peak;
    println!("\n{n_tokens} tokens: {weights:.0} GFLOP with weights, {attention:.0} in attention; at peak {least:.2} s");
    for (engine, secs) in engines.iter().zip(secs) {
        let median = median(secs);
        let (lowest, highest) = secs.iter().fold((f64::MAX, 0f64), |(low, high), x| (low.min(*x), high.max(*x)));
        let of_peak =
            if engine.is_peer() { String::new() } else { format!("{:5.0} % of peak", 100.0 * least / median) };
        let rate = total / median;
        println!("  {:36}{median:7.2} s ({lowest:.2} to {highest:.2}) {rate:6.0} GFLOP/s{of_peak}", engine.name());
    }
    let ratio = |what: &str, over: Engine, under: Engine| {
        if let (Some(over), Some(under)) = (of(over), of(under)) {
            println!("  {what:36}{:7.2}", over / under);
        }
    };
    ratio("prefill: transformers / kvscope", Engine::TorchPrefill, Engine::Prefill);
    ratio("prefill: llama.cpp / kvscope", Engine::LlamaPrefill, Engine::Prefill);
    ratio("prefill: llama.cpp fused / kvscope", Engine::LlamaFusedPrefill, Engine::Prefill);
    ratio("capture: transformers / kvscope", Engine::TorchCapture, Engine::Written);
    ratio("written / unwritten", Engine::Written, Engine::Unwritten);
}
