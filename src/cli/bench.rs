//! `kvscope bench`: speed and memory of prefill, compression and decoding against the length of the context.

use serde_json::json;

use crate::analyze::short;
use crate::cli::Outcome;
use crate::cli::failure::Result;
use crate::cli::failure::Usage;
use crate::cli::numbers;
use crate::cli::options::Common;
use crate::cli::options::DeviceArg;
use crate::cli::options::Dtype;
use crate::cli::options::load_model;
use crate::cli::output::bar;
use crate::cli::output::emit;
use crate::cli::output::emit_json;
use crate::cli::output::note;
use crate::cli::output::size;
use crate::runtime::BreakEven;
use crate::runtime::Budget;
use crate::runtime::Compression;
use crate::runtime::RaggedCache;
use crate::runtime::SpeedRow;
use crate::runtime::SpeedSamples;
use crate::runtime::measure;
use crate::runtime::read_bandwidth;

/// Widest policy name in the table.
const NAME_WIDTH: usize = 20;

/// Measure prefill, compression and decoding against context length, and where a policy begins to pay
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model: a GGUF file, a Hugging Face folder, or a name that was pulled
    #[arg(long, value_name = "PATH|NAME")]
    model: String,
    /// Prompt lengths
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512,1024,2048,4096", value_parser = numbers::count)]
    contexts: Vec<usize>,
    /// Policies to measure beside the full cache; give it again for another
    #[arg(long, value_name = "SPEC", default_value = "kvmerger")]
    policy: Vec<String>,
    /// Share of the slots that each policy keeps
    #[arg(long, value_name = "X", default_value_t = 0.5, value_parser = numbers::kept_share)]
    kept_fraction: f64,
    /// New tokens of every run, and of the text that must pay for compression
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = numbers::count)]
    max_new_tokens: usize,
    /// Runs of every cache at every context
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = numbers::count)]
    repeats: usize,
    /// Prompt tokens per forward pass; 0 for all at once
    #[arg(long, value_name = "N", default_value_t = 1024)]
    chunk: usize,
    /// Element type of the cache
    #[arg(long, value_enum, default_value = "f16")]
    cache_dtype: Dtype,
    #[command(flatten)]
    device: DeviceArg,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let compute = args.device.open()?;
    let mut contexts = args.contexts.clone();
    contexts.sort_unstable();
    contexts.dedup();
    let compressions: Vec<Compression> = args
        .policy
        .iter()
        .map(|spec| Compression::parse(spec, Budget::KeptFraction(args.kept_fraction)))
        .collect::<Result<_, _>>()?;
    let model = load_model(&args.model, &compute, common)?;
    let max_positions = model.config().max_positions;
    if let Some(context) = contexts.iter().find(|context| context.saturating_add(args.max_new_tokens) > max_positions) {
        let what = format!(
            "{context} tokens of context and {} new ones are more than the model's {max_positions}",
            args.max_new_tokens
        );
        return Err(Usage::error(what, "shorten --contexts or --max-new-tokens"));
    }
    let vocab_size = model.config().vocab_size;
    let caches: Vec<Option<&Compression>> = std::iter::once(None).chain(compressions.iter().map(Some)).collect();
    let mut samples = vec![vec![SpeedSamples::default(); caches.len()]; contexts.len()];
    let memory = read_bandwidth();
    let progress = bar(common, (args.repeats * contexts.len() * caches.len()) as u64, "runs");
    // Every repeat goes through all contexts and caches, so that a slow minute of the machine hits all of them.
    for _ in 0..args.repeats {
        for (samples, context) in samples.iter_mut().zip(&contexts) {
            // Ids spread over the vocabulary: what a token is does not change what it costs.
            let prompt: Vec<u32> = (0..*context).map(|i| ((i * 7919 + 13) % vocab_size) as u32).collect();
            for (samples, compression) in samples.iter_mut().zip(&caches) {
                let cache = RaggedCache::new(model.config(), args.cache_dtype.into(), compression.cloned());
                measure(&model, &prompt, cache, args.chunk, args.max_new_tokens, samples)?;
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    let weights = model.decode_bytes();
    let mut rows: Vec<SpeedRow> = Vec::new();
    for (samples, context) in samples.into_iter().zip(&contexts) {
        let mut full = None;
        for (samples, compression) in samples.into_iter().zip(&caches) {
            let name = compression.map_or("full", |compression| compression.name.as_str());
            let row = SpeedRow::new(name, *context, weights, samples, full.as_ref());
            full.get_or_insert_with(|| row.clone());
            rows.push(row);
        }
    }
    let break_even: Vec<BreakEven> = compressions
        .iter()
        .map(|compression| {
            let name = compression.name.as_str();
            let own: Vec<&SpeedRow> = rows.iter().filter(|row| row.policy == name).collect();
            BreakEven::of(name, &own, args.max_new_tokens)
        })
        .collect();
    if common.json {
        emit_json(&json!({
            "schema": "kvscope.bench/1",
            "model": model.identity()?,
            "options": {
                "contexts": contexts,
                "policies": args.policy,
                "kept_fraction": args.kept_fraction,
                "max_new_tokens": args.max_new_tokens,
                "repeats": args.repeats,
                "chunk": args.chunk,
                "cache_dtype": crate::runtime::CacheType::from(args.cache_dtype),
                "device": compute.name(),
                "threads": rayon::current_num_threads(),
            },
            "weight_bytes": weights,
            "memory_read_bytes_per_sec": memory,
            "rows": rows,
            "break_even": break_even,
        }))?;
        return Ok(Outcome::Done);
    }
    emit(&table(&rows))?;
    for found in &break_even {
        emit(&sentence(found, args.max_new_tokens))?;
    }
    note(
        common,
        &format!(
            "a token reads {} of weights and its cache; this machine reads memory at {:.1} GB/s with {} threads",
            size(weights),
            memory / 1e9,
            rayon::current_num_threads()
        ),
    );
    Ok(Outcome::Done)
}

/// Medians, a line per context and cache, at most 100 columns wide.
fn table(rows: &[SpeedRow]) -> String {
    let cell = |x: Option<f64>, factor: f64, digits: usize, unit: &str| {
        x.map_or_else(|| "-".to_string(), |x| format!("{:.digits$}{unit}", factor * x))
    };
    let line = |cells: [String; 10]| {
        let [context, policy, kept, cache, prefill, compress, decode, speed, bound, tokens] = cells;
        format!(
            "{context:>7} {policy:NAME_WIDTH$} {kept:>5} {cache:>9} {prefill:>8} {compress:>8} {decode:>9} {speed:>7} \
             {bound:>6} {tokens:>8}\n"
        )
    };
    let header =
        ["context", "policy", "kept", "cache", "prefill", "compress", "per token", "faster", "bound", "pays at"];
    let mut text = line(header.map(String::from));
    for row in rows {
        text += &line([
            row.context_tokens.to_string(),
            short(&row.policy, NAME_WIDTH),
            cell(row.kept_fraction, 100.0, 0, " %"),
            size(row.cache_bytes),
            cell(row.prefill_secs, 1.0, 2, " s"),
            cell(row.compress_secs.filter(|_| row.speedup.is_some()), 1.0, 3, " s"),
            cell(row.decode_secs, 1e3, 2, " ms"),
            cell(row.speedup, 1.0, 2, " x"),
            cell(row.bandwidth_bound, 1.0, 2, " x"),
            cell(row.break_even_new_tokens.map(f64::ceil), 1.0, 0, ""),
        ]);
    }
    text + "faster: than the full cache's decode step; bound: if time were bytes read; pays at: new tokens\n"
}

fn sentence(found: &BreakEven, new_tokens: usize) -> String {
    let policy = short(&found.policy, 2 * NAME_WIDTH);
    match found.context_tokens {
        Some(n) if found.at_shortest_measured => {
            format!("break-even: {policy} pays with {new_tokens} new tokens at {n:.0} of context already\n")
        }
        Some(n) => format!("break-even: {policy} pays with {new_tokens} new tokens from {n:.0} of context on\n"),
        None => format!("break-even: {policy} pays with {new_tokens} new tokens at no context measured\n"),
    }
}
