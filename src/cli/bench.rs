//! `kvscope bench`: speed and memory of prefill, compression and decoding against the length of the context.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::compression::{note_published, profile_names, read_profile};
use crate::cli::failure::{Result, Usage};
use crate::cli::numbers;
use crate::cli::options::{DeviceArg, load_model};
use crate::cli::output::{bar, emit, emit_json, note, printable, size};
use crate::cli::table::{Table, digits, name, number};
use crate::files::{Document, check_replaceable, write_json};
use crate::format::bench::{Bench, BreakEven, SpeedRow};
use crate::math::Float;
use crate::runtime::{Budget, Compression, SpeedOptions, read_bandwidth, speed};

/// Widest policy name in a sentence.
const NAME_COLUMNS: usize = 40;

/// Measure prefill, compression and decoding by context length, and from where on a policy pays off
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model: a GGUF file, a Hugging Face folder, or a name that was pulled
    #[arg(long, value_name = "PATH|NAME")]
    model: String,
    /// Prompt lengths
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "512,1024,2048,4096", value_parser = numbers::count)]
    contexts: Vec<usize>,
    /// Policy to measure beside the full cache. May be repeated
    #[arg(long, value_name = "SPEC", default_value = "kvmerger")]
    policy: Vec<String>,
    /// Profile made by `kvscope tune` to measure, too, at its own budget. May be repeated
    #[arg(long, value_name = "FILE")]
    profile: Vec<PathBuf>,
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
    cache_dtype: Float,
    #[command(flatten)]
    device: DeviceArg,
    /// JSON file to write what was measured to, every single time included; that of an earlier run is replaced
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let compute = args.device.open()?;
    // Before the work, so that it is not lost to a file of another kind.
    args.out.as_deref().map_or(Ok(()), check_replaceable::<Bench>)?;
    let mut contexts = args.contexts.clone();
    contexts.sort_unstable();
    contexts.dedup();
    let mut compressions: Vec<Compression> = args
        .policy
        .iter()
        .map(|spec| Compression::parse(spec, Budget::KeptFraction(args.kept_fraction)))
        .collect::<Result<_, _>>()?;
    note_published(&args.policy, common)?;
    let model = load_model(&args.model, &compute, common)?;
    for (path, name) in args.profile.iter().zip(profile_names(&args.profile, model.name())?) {
        compressions.push(Compression::from_profile(name, &read_profile(path, &model, false)?)?);
    }
    let max_positions = model.config().max_positions;
    if let Some(context) = contexts.iter().find(|context| context.saturating_add(args.max_new_tokens) > max_positions) {
        let what = format!(
            "{context} tokens of context and {} new ones are more than the model's {max_positions}",
            args.max_new_tokens
        );
        return Err(Usage::error(what, "shorten --contexts or --max-new-tokens"));
    }
    let memory = read_bandwidth();
    let n_runs = args.repeats * contexts.len() * (compressions.len() + 1);
    let progress = bar(common, n_runs as u64, "runs");
    let options = SpeedOptions {
        contexts: &contexts,
        compressions: &compressions,
        cache_type: args.cache_dtype,
        chunk_tokens: args.chunk,
        new_tokens: args.max_new_tokens,
        repeats: args.repeats,
    };
    let speed = speed(&model, &options, &mut || progress.inc(1))?;
    progress.finish_and_clear();
    let bench = Bench {
        schema: Bench::schema_id(),
        model: model.identity()?.clone(),
        options: json!({
            "contexts": contexts,
            "policies": args.policy,
            "profiles": args.profile,
            "kept_fraction": args.kept_fraction,
            "max_new_tokens": args.max_new_tokens,
            "repeats": args.repeats,
            "chunk": args.chunk,
            "cache_dtype": options.cache_type,
            "device": compute.name(),
            "threads": rayon::current_num_threads(),
        }),
        weight_bytes: speed.weight_bytes,
        memory_read_bytes_per_sec: memory,
        rows: speed.rows,
        break_even: speed.break_even,
    };
    if let Some(path) = &args.out {
        write_json(path, &bench)?;
    }
    if common.json {
        emit_json(&json!(bench))?;
        return Ok(Outcome::Done);
    }
    emit(&table(&bench.rows))?;
    for found in &bench.break_even {
        emit(&sentence(found, args.max_new_tokens))?;
    }
    note(
        common,
        &format!(
            "a token reads {} of weights and its cache; this machine reads memory at {:.1} GB/s with {} threads",
            size(bench.weight_bytes),
            memory / 1e9,
            rayon::current_num_threads()
        ),
    );
    if let Some(path) = &args.out {
        emit(&format!("{}\n", path.display()))?;
    }
    Ok(Outcome::Done)
}

/// Medians, a row for every context and cache.
fn table(rows: &[SpeedRow]) -> String {
    let mut table = Table::new([
        number("context"),
        name("policy"),
        number("kept %"),
        number("cache"),
        number("prefill, s"),
        number("compress, s"),
        number("ms a token"),
        number("faster"),
        number("bound"),
        number("pays at"),
    ]);
    for row in rows {
        table.row([
            row.context_tokens.to_string(),
            row.policy.clone(),
            digits(row.kept_fraction.map(|kept| 100.0 * kept), 0),
            size(row.cache_bytes),
            digits(row.prefill_secs, 2),
            digits(row.compress_secs.filter(|_| row.speedup.is_some()), 3),
            digits(row.decode_secs.map(|secs| 1e3 * secs), 2),
            digits(row.speedup, 2),
            digits(row.bandwidth_bound, 2),
            digits(row.break_even_new_tokens.map(f64::ceil), 0),
        ]);
    }
    format!(
        "{table}faster: than a decode step of the full cache, as a factor.\n\
         bound: the factor if time were bytes read.\n\
         pays at: new tokens from which on compression has paid.\n"
    )
}

fn sentence(found: &BreakEven, new_tokens: usize) -> String {
    let policy = printable(&found.policy, NAME_COLUMNS);
    match found.context_tokens {
        Some(n) if found.at_shortest_measured => {
            format!("break-even: {policy} pays with {new_tokens} new tokens at {n:.0} of context already\n")
        }
        Some(n) => format!("break-even: {policy} pays with {new_tokens} new tokens from {n:.0} of context on\n"),
        None => format!("break-even: {policy} pays with {new_tokens} new tokens at no context measured\n"),
    }
}
