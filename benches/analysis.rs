//! Speed of the analysis, as ratios within one run: similarity maps beside numpy and torch and against the machine's matrix
//! peak, the analysis of a dump against reading it, and cost against length.
//!
//! `cargo bench --bench analysis -- --python python3 [maps|dumps]`. The peers are in `benches/peers/analysis_peer.py`.

mod common {
    pub mod median;
    pub mod peak;
    pub mod peer;
}
#[path = "../tests/kit"]
mod kit {
    pub mod dump;
    pub mod identity;
}

use std::cell::Cell;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use memmap2::Mmap;
use serde_json::{Value, json};

use common::median::median;
use common::peak::{PAUSE, peaks};
use common::peer::{Peer, PeerArgs};
use kit::dump::{Sample, manifest};
use kit::identity::identity;
use kvscope::analyze::{AnalyzeOptions, MapMaker, analyze};
use kvscope::files::write_json;
use kvscope::format::dump::{Dump, Manifest, SampleEntry, State, Tensor};
use kvscope::math::{Float, Rows};
use kvscope::runtime::start_threads;

/// Levels of a map of 4,096 tokens, as `analyze` writes it.
const LEVELS: usize = 5;
/// Data sets of the dumps.
const DATASETS: usize = 4;

/// Maps beside numpy and torch, and the analysis of a dump against reading it
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    peers: PeerArgs,
    /// What to measure [default: both]
    part: Option<Part>,
    /// Tokens of a map
    #[arg(long, default_value_t = 4096)]
    map_tokens: usize,
    /// Heads of a layer and their dimension, one layer after the other
    #[arg(long, value_delimiter = ',', default_value = "3x64,32x128", value_parser = layer_shape)]
    layers: Vec<[usize; 2]>,
    /// Tokens of the dumps' samples
    #[arg(long, value_delimiter = ',', default_value = "2048,4096,8192")]
    dump_tokens: Vec<usize>,
    /// Tokens of each data set of a dump: at every length as many
    #[arg(long, default_value_t = 24_576)]
    dataset_tokens: usize,
    /// Rounds; every engine has one turn in each
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Threads of every engine
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Maps,
    Dumps,
}

fn layer_shape(text: &str) -> Result<[usize; 2], String> {
    let (heads, dim) = text.split_once('x').ok_or("give HEADSxDIMENSION")?;
    let number = |text: &str| text.parse::<usize>().ok().filter(|n| *n > 0).ok_or("give positive numbers");
    Ok([number(heads)?, number(dim)?])
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.rounds > 0 && args.map_tokens > 0, "nothing to measure");
    start_threads(Some(args.threads))?;
    let peak = 1e9 * peaks(args.threads)[0];
    println!("peak: {:.1} GFLOP/s of f32 multiply-adds on {} threads", peak / 1e9, args.threads);
    let threads = args.threads.to_string();
    let start = |python: &Path| Peer::start(python, "analysis_peer.py", &["--threads", &threads]);
    let mut peer = args.peers.python()?.map(start).transpose()?;
    if args.part != Some(Part::Dumps) {
        for layer in &args.layers {
            maps(&args, *layer, peak, peer.as_mut())?;
        }
    }
    if args.part != Some(Part::Maps) {
        let dir = tempfile::tempdir().context("a folder for the dumps")?;
        let mut first = None;
        for tokens in &args.dump_tokens {
            let samples = (args.dataset_tokens / tokens).max(1);
            let dump = write_dump(&dir.path().join(tokens.to_string()), *tokens, 30, samples);
            let per_token = dump_against_reading(&args, &dump, *tokens, peer.as_mut())?;
            let base = *first.get_or_insert(per_token);
            println!("  {:.2} µs per token, {:.2} of the first", 1e6 * per_token, per_token / base);
        }
    }
    Ok(())
}

/// Seconds of the second of two runs: the first wakes the threads, which may take as long as a short run.
fn secs(mut run: impl FnMut()) -> f64 {
    std::thread::sleep(PAUSE);
    run();
    let started = Instant::now();
    run();
    started.elapsed().as_secs_f64()
}

/// The same of a peer.
fn peer_secs(peer: &mut Peer, request: &Value) -> anyhow::Result<f64> {
    std::thread::sleep(PAUSE);
    peer.ask::<f64>(request, "secs")?;
    peer.ask(request, "secs")
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

/// All maps of a layer, every engine in turn.
fn maps(args: &Args, [heads, dim]: [usize; 2], peak: f64, mut peer: Option<&mut Peer>) -> anyhow::Result<()> {
    let tokens = args.map_tokens;
    let layer: Vec<Vec<f32>> = (0..heads).map(|head| noise(tokens * dim, head as u64 + 5)).collect();
    let ways: &[&str] = if peer.is_some() { &["numpy", "torch", "torch_bmm", "torch_f16"] } else { &[] };
    let mut makers = [1, LEVELS].map(|n_levels| (n_levels, MapMaker::default()));
    let mut times = vec![Vec::new(); 2 + ways.len()];
    for _ in 0..args.rounds {
        let with_levels = |(n_levels, maker): &mut (usize, MapMaker)| {
            secs(|| {
                for head in &layer {
                    black_box(maker.map(Rows::new(head, dim), *n_levels));
                }
            })
        };
        let mut of_round: Vec<f64> = makers.iter_mut().map(with_levels).collect();
        for way in ways {
            let Some(peer) = &mut peer else { continue };
            of_round.push(peer_secs(peer, &json!({ "op": way, "heads": heads, "tokens": tokens, "dim": dim }))?);
        }
        times.iter_mut().zip(of_round).for_each(|(times, secs)| times.push(secs));
    }
    let middle: Vec<f64> = times.iter().map(|times| median(times)).collect();
    // Both triangles are one: T² / 2 inner products of D multiplications and additions.
    let needed = heads as f64 * (tokens as f64).powi(2) * dim as f64;
    println!(
        "maps of {heads} heads, {tokens} tokens, dimension {dim}, in f16, both triangles written: {:.1} ms, {:.0} % of the \
         peak over one triangle; with {} coarser levels {:.1} ms",
        1e3 * middle[0],
        100.0 * needed / middle[0] / peak,
        LEVELS - 1,
        1e3 * middle[1]
    );
    for (way, secs) in ways.iter().zip(&middle[2..]) {
        println!("  {way}: {:.1} ms, {:.2}x", 1e3 * secs, secs / middle[0]);
    }
    Ok(())
}

/// Seconds per token of the analysis without maps and without queries, the part that reads every state once.
fn dump_against_reading(args: &Args, dump: &Dump, tokens: usize, mut peer: Option<&mut Peer>) -> anyhow::Result<f64> {
    let samples = &dump.manifest().samples;
    let paths: Vec<PathBuf> = samples.iter().map(|sample| dump.dir().join(&sample.file)).collect();
    let bytes: u64 = samples.iter().map(|sample| sample.bytes).sum();
    let options = AnalyzeOptions { budgets: Vec::new(), ..AnalyzeOptions::default() };
    let out = tempfile::tempdir().context("a folder for the analysis")?;
    let mut ways = vec!["into memory", "mapped", "through a buffer of 1 MB"];
    ways.extend(peer.as_ref().map(|_| "with safetensors' load_file"));
    let mut times = vec![Vec::new(); ways.len() + 1];
    for _ in 0..args.rounds {
        let into_memory = secs(|| {
            for path in &paths {
                black_box(std::fs::read(path).expect("the benchmark's own file"));
            }
        });
        let mapped = secs(|| paths.iter().for_each(|path| read_mapped(path)));
        let through_buffer = secs(|| {
            let mut buffer = vec![0u8; 1 << 20];
            for path in &paths {
                let mut file = std::fs::File::open(path).expect("the benchmark's own file");
                while file.read(&mut buffer).expect("the benchmark's own file") > 0 {}
            }
        });
        let analysis = secs(|| {
            let analysis = analyze(std::slice::from_ref(dump), &options, out.path(), &mut |_, _| {});
            black_box(analysis.expect("the benchmark's own dump"));
        });
        let mut of_round = vec![analysis, into_memory, mapped, through_buffer];
        if let Some(peer) = &mut peer {
            of_round.push(peer_secs(peer, &json!({ "op": "load", "paths": paths }))?);
        }
        times.iter_mut().zip(of_round).for_each(|(times, secs)| times.push(secs));
    }
    let middle: Vec<f64> = times.iter().map(|times| median(times)).collect();
    let analysis = middle[0];
    println!(
        "dump of {} samples of {tokens} tokens, {:.1} MB in page cache; analysis without maps and queries {:.0} ms, {:.2} GB/s",
        samples.len(),
        bytes as f64 / 1e6,
        1e3 * analysis,
        bytes as f64 / analysis / 1e9,
    );
    for (way, secs) in ways.iter().zip(&middle[1..]) {
        println!("  read {way}, one thread: {:.0} ms; the analysis has {:.2}x its speed", 1e3 * secs, secs / analysis);
    }
    Ok(analysis / (tokens * samples.len()) as f64)
}

/// Maps a file and adds up its words, as the analysis maps and reads it.
#[expect(unsafe_code, reason = "nobody changes the benchmark's own file")]
fn read_mapped(path: &Path) {
    let file = std::fs::File::open(path).expect("the benchmark's own file");
    let map = unsafe { Mmap::map(&file) }.expect("the benchmark's own file");
    let words = map.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    black_box(words.fold(0, u64::wrapping_add));
}

/// A dump of SmolLM2's shape, every state captured, in f16: four data sets of as many samples, all of them one file under
/// several names, which takes as long to read.
fn write_dump(dir: &Path, tokens: usize, layers: usize, samples: usize) -> Dump {
    const KV: usize = 3;
    const GROUP: usize = 3;
    const DIM: usize = 64;
    const QUERIES: usize = 64;
    let manifest = Manifest { dtype: Float::F16, ..manifest(identity(layers, KV * GROUP, KV, DIM), &State::ALL) };
    let sample = Sample { dataset: "noise 0".into(), id: "0".into(), n_tokens: tokens, n_queries: QUERIES };
    let seed = Cell::new(99);
    let dump = kit::dump::write_dump(dir, manifest, &[sample], &|_, tensor, shape| {
        let mut values = noise(shape.iter().product(), seed.replace(seed.get() + 1));
        match tensor {
            Tensor::State(_, State::Mass) | Tensor::MassWindow(_) => values.iter_mut().for_each(|x| *x = x.abs()),
            Tensor::State(_, State::Q) => {}
            // Like neighbours, as keys are.
            _ => (DIM..values.len()).for_each(|i| values[i] = 0.8 * values[i - DIM] + 0.4 * values[i]),
        }
        values
    });
    let mut manifest = dump.manifest().clone();
    let first = manifest.samples[0].clone();
    manifest.planned_samples = DATASETS * samples;
    for index in 1..manifest.planned_samples {
        let file = format!("{index}.safetensors");
        std::fs::hard_link(dir.join(&first.file), dir.join(&file)).expect("a temporary folder");
        let dataset = format!("noise {}", index % DATASETS);
        manifest.samples.push(SampleEntry { index, dataset, id: index.to_string(), file, ..first.clone() });
    }
    write_json(&dir.join("manifest.json"), &manifest).expect("a temporary file");
    Dump::open(dir).expect("the benchmark's own dump")
}
