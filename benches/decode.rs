//! Decode steps over the full and the compressed cache beside llama.cpp on the same file, in one run on one machine.
//!
//! `cargo bench --bench decode -- --python VENV/bin/python` prints medians and ratios and writes every sample to a file.
//! Both engines keep their cache in f16. Rounds alternate between the engines, so that a slow minute of the machine hits all.

mod common {
    pub mod median;
    pub mod peer;
    pub mod prompt;
}

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;
use serde_json::json;

use common::median::median;
use common::peer::{Peer, PeerArgs};
use common::prompt::prompt;
use kvscope::hub::{HubSettings, resolve};
use kvscope::math::Float;
use kvscope::model::{LogitRows, Model, Pass};
use kvscope::runtime::{Budget, Compression, RaggedCache, prefill, read_bandwidth, start_threads};

/// Decode beside llama.cpp
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    peers: PeerArgs,
    /// Context lengths; the new tokens are among them
    #[arg(long, value_delimiter = ',', default_value = "2048,4096,8192")]
    contexts: Vec<usize>,
    /// New tokens per context and cache, over all rounds
    #[arg(long, default_value_t = 512)]
    new_tokens: usize,
    /// Rounds that the new tokens are spread over
    #[arg(long, default_value_t = 8)]
    rounds: usize,
    /// Threads of every engine
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Model
    #[arg(long, default_value = "smollm2-135m")]
    model: String,
    /// The compressed cache
    #[arg(long, default_value = "kvmerger")]
    policy: String,
    /// Share of the slots that it keeps
    #[arg(long, default_value_t = 0.35)]
    kept_fraction: f64,
    /// llama.cpp with its fused attention
    #[arg(long)]
    flash: bool,
    /// Raw samples
    #[arg(long, default_value = "target/bench/decode.json")]
    out: PathBuf,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// A cache that grows by greedy tokens.
struct Run {
    name: String,
    cache: RaggedCache,
    token: u32,
    position: usize,
    bytes: u64,
    secs: Vec<f64>,
}

impl Run {
    fn new(name: String, cache: RaggedCache, position: usize) -> Self {
        Self { name, bytes: cache.bytes(), cache, token: 100, position, secs: Vec::new() }
    }

    fn steps(&mut self, model: &Model, n: usize) -> anyhow::Result<()> {
        for _ in 0..n {
            let start = Instant::now();
            let logits = model.forward(&[self.token], self.position, &mut self.cache, LogitRows::Last)?;
            self.secs.push(start.elapsed().as_secs_f64());
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            self.token = u32::try_from(best.context("no logits")?)?;
            self.position += 1;
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.rounds > 0 && args.new_tokens >= args.rounds && !args.contexts.is_empty(), "nothing to measure");
    start_threads(Some(args.threads))?;
    let path = resolve(&args.model, &HubSettings::from_env()).context("run `kvscope pull smollm2-135m` first")?;
    let model = Model::load(&path)?;
    let mut contexts = args.contexts.clone();
    // Longest first: the peer fills its cache once and is cut back from context to context.
    contexts.sort_unstable_by(|a, b| b.cmp(a));
    let steps = args.new_tokens / args.rounds;
    ensure!(contexts.iter().all(|c| *c > args.new_tokens), "a context must be longer than --new-tokens");
    let mut peer = None;
    if let Some(python) = args.peers.python()? {
        let (threads, context) = (args.threads.to_string(), contexts[0].to_string());
        let mut arguments = vec!["--model", path.to_str().context("the model's path is not UTF-8")?];
        arguments.extend(["--threads", &threads, "--context", &context]);
        arguments.extend(args.flash.then_some("--flash"));
        let mut started = Peer::start(python, "llama_cpp_peer.py", &arguments)?;
        let warm_up = json!({ "op": "prefill", "n_tokens": contexts[0] - args.new_tokens });
        started.ask::<f64>(&warm_up, "secs")?;
        peer = Some(started);
    }
    let bandwidth = read_bandwidth();
    let weights = model.decode_bytes();
    let peer_name = peer.as_ref().map_or("no peer".into(), |peer| peer.name.clone());
    println!(
        "{} threads, memory read at {:.1} GB/s; weights {:.1} MB; {peer_name}{}",
        args.threads,
        bandwidth / 1e9,
        weights as f64 / 1e6,
        if args.flash { ", fused attention" } else { "" }
    );
    let compression = Compression::parse(&args.policy, Budget::KeptFraction(args.kept_fraction))?;
    let mut report = json!({ "threads": args.threads, "read_bytes_per_sec": bandwidth, "weight_bytes": weights,
        "peer": peer_name, "flash": args.flash, "samples": [] });
    for context in contexts {
        let n_prompt = context - args.new_tokens;
        let prompt = prompt(n_prompt);
        let mut full = RaggedCache::recording(model.config(), Float::F16, [&compression])?;
        let start = Instant::now();
        prefill(&mut Pass::new(&model), &prompt, &mut full, 1024)?;
        let prefill_secs = start.elapsed().as_secs_f64();
        let compressed = full.compressed(&compression)?;
        let compress_secs = compressed.compress_time().as_secs_f64();
        let kept = format!("{} {}", args.policy, args.kept_fraction);
        let mut runs = [Run::new("full".into(), full, n_prompt), Run::new(kept, compressed, n_prompt)];
        let mut peer_secs = Vec::new();
        for round in 0..args.rounds {
            if let Some(peer) = &mut peer {
                let request = json!({ "op": "decode", "context": n_prompt + round * steps, "steps": steps });
                peer_secs.extend(peer.ask::<Vec<f64>>(&request, "step_secs")?);
            }
            for run in &mut runs {
                run.steps(&model, steps)?;
            }
        }
        println!(
            "\n{n_prompt} tokens of prompt, {} new; compressing takes {:.1} % of {prefill_secs:.2} s of prefill",
            args.rounds * steps,
            100.0 * compress_secs / prefill_secs
        );
        let [full, _] = &runs;
        for run in &runs {
            let secs = median(&run.secs);
            let read = (weights + run.bytes) as f64;
            let mut line = format!(
                "  {:24}{:7.2} ms {:6.1} tokens/s {:6.1} MB read, {:4.1} GB/s, {:3.0} % of memory's",
                run.name,
                1e3 * secs,
                1.0 / secs,
                read / 1e6,
                read / secs / 1e9,
                100.0 * read / secs / bandwidth
            );
            if run.name != "full" {
                let (speedup, bound) = (median(&full.secs) / secs, (weights + full.bytes) as f64 / read);
                line += &format!("\n  {:24}{speedup:7.2} x full, bound {bound:.2} x: {:.2}", "", speedup / bound);
            }
            println!("{line}");
            let row = json!({ "prompt_tokens": n_prompt, "engine": run.name, "cache_bytes": run.bytes,
                "prefill_secs": prefill_secs, "compress_secs": compress_secs, "step_secs": run.secs });
            report["samples"].as_array_mut().context("samples")?.push(row);
        }
        if !peer_secs.is_empty() {
            let secs = median(&peer_secs);
            println!(
                "  {:24}{:7.2} ms {:6.1} tokens/s; full cache {:.2} x as fast",
                "llama.cpp",
                1e3 * secs,
                1.0 / secs,
                secs / median(&full.secs)
            );
            let row = json!({ "prompt_tokens": n_prompt, "engine": "llama.cpp", "step_secs": peer_secs });
            report["samples"].as_array_mut().context("samples")?.push(row);
        }
    }
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&args.out, serde_json::to_string_pretty(&report)?)?;
    println!("\nraw samples: {}", args.out.display());
    Ok(())
}
