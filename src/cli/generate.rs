//! `kvscope generate`: compressed generation with a named policy or a tuned profile.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use anyhow::Context;
use serde_json::Value;
use serde_json::json;

use crate::cli::Outcome;
use crate::cli::failure::Usage;
use crate::cli::options::Common;
use crate::cli::options::DeviceArg;
use crate::cli::options::Dtype;
use crate::cli::options::load_model;
use crate::cli::options::parse_layers;
use crate::cli::options::stop_flag;
use crate::cli::output::Style;
use crate::cli::output::emit;
use crate::cli::output::emit_json;
use crate::cli::output::size;
use crate::files::FileError;
use crate::files::read_json;
use crate::model::Model;
use crate::model::ModelError;
use crate::model::tokenizer::AddSpecial;
use crate::model::tokenizer::Message;
use crate::model::tokenizer::SkipSpecial;
use crate::policy;
use crate::profile::Profile;
use crate::runtime::Budget;
use crate::runtime::CacheType;
use crate::runtime::Comparison;
use crate::runtime::Compression;
use crate::runtime::GenerateOptions;
use crate::runtime::Generation;
use crate::runtime::RaggedCache;
use crate::runtime::Sampling;
use crate::runtime::compare;
use crate::runtime::generate;
use crate::runtime::resident_bytes;

/// Generate text with a compressed KV cache
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model: a GGUF file, a Hugging Face folder, or a name that was pulled
    #[arg(long, value_name = "PATH|NAME")]
    model: String,
    /// The prompt
    #[arg(long, value_name = "TEXT", required_unless_present = "prompt_file", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// A file with the prompt
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Give the prompt to the model as it is, even if the model has a chat template
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    compression: CompressionArgs,
    /// New tokens at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,
    /// 0 takes the most likely token every time
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Draw among this many most likely tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw among the most likely tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Seed of the draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Go on after the model's end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Prompt tokens per forward pass; 0 for all at once, which compresses each layer as it is done
    #[arg(long, value_name = "N", default_value_t = 0)]
    chunk: usize,
    /// Run the full cache beside it, and compare texts and next-token distributions
    #[arg(long)]
    compare: bool,
    #[command(flatten)]
    device: DeviceArg,
}

/// What compresses the cache.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompressionArgs {
    /// Policy, with parameters: NAME[:key=value,...]; kvmerger, evict, h2o, snapkv, streaming, random or full
    #[arg(long, value_name = "SPEC", conflicts_with = "profile")]
    policy: Option<String>,
    /// Profile made by `kvscope tune`
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Share of the slots to keep, over all layers and heads [default: 0.5]
    #[arg(long, value_name = "X", conflicts_with = "profile")]
    kept_fraction: Option<f64>,
    /// Layers to leave whole; they count in the budget
    #[arg(long, value_name = "LIST", conflicts_with = "profile")]
    skip_layers: Option<String>,
    /// Use the profile although it was made for another model
    #[arg(long, requires = "profile")]
    force: bool,
    /// Element type of the cache
    #[arg(long, value_enum, default_value = "f32")]
    cache_dtype: Dtype,
}

impl CompressionArgs {
    /// A profile and nothing else; for the demo.
    pub(crate) fn with_profile(path: PathBuf) -> Self {
        Self {
            policy: None,
            profile: Some(path),
            kept_fraction: None,
            skip_layers: None,
            force: false,
            cache_dtype: Dtype::F32,
        }
    }

    fn cache_type(&self) -> CacheType {
        self.cache_dtype.into()
    }

    /// Builds the compression; `None` for the full cache.
    fn build(&self, model: &Model) -> anyhow::Result<Option<Compression>> {
        let skip_layers: BTreeSet<usize> = match &self.skip_layers {
            Some(text) => parse_layers(text, model.config().n_layers)?.into_iter().collect(),
            None => BTreeSet::new(),
        };
        if let Some(path) = &self.profile {
            let (profile, name) = read_profile(path, model, self.force)?;
            return Ok(Some(Compression::from_profile(name, &profile)?));
        }
        let spec = self.policy.as_deref().unwrap_or("full");
        let (entry, policy) = policy::parse(spec)?;
        if entry.name == "full" {
            if self.policy.is_none() && self.kept_fraction.is_some() {
                return Err(Usage::error(
                    "--kept-fraction needs a policy that compresses",
                    "add --policy kvmerger, or another",
                ));
            }
            return Ok(None);
        }
        if policy.sets_own_size() && self.kept_fraction.is_some() {
            return Err(Usage::error(
                format!("policy {spec} decides its size by eps, so --kept-fraction would be ignored"),
                "leave out eps= or --kept-fraction",
            ));
        }
        let budget = Budget::KeptFraction(self.kept_fraction.unwrap_or(0.5));
        Ok(Some(Compression { skip_layers, ..Compression::new(spec, policy, budget) }))
    }
}

/// A profile that may be used with the model, and what messages and files call it.
pub(crate) fn read_profile(path: &Path, model: &Model, force: bool) -> anyhow::Result<(Profile, String)> {
    let profile: Profile = read_json(path)?;
    profile.check().with_context(|| format!("cannot use {}", path.display()))?;
    if !force {
        profile.check_model(model.identity())?;
    } else if profile.heads.len() != model.config().n_layers * model.config().n_kv_heads {
        let what = format!("{} has {} heads, another number than the model", path.display(), profile.heads.len());
        return Err(Usage::error(what, "tune a profile for this model"));
    }
    Ok((profile, format!("profile {}", path.file_name().unwrap_or_default().to_string_lossy())))
}

pub(crate) fn run(args: &Args, common: &Common) -> anyhow::Result<Outcome> {
    let compute = args.device.open()?;
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|e| FileError::io("read", path, e))?,
        (None, None) => return Err(Usage::error("there is no prompt", "give --prompt or --prompt-file")),
    };
    let model = load_model(&args.model, &compute, common)?;
    let prompt = encode_prompt(&model, &text, args.raw)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        sampling: Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed },
        chunk_tokens: args.chunk,
        stop_tokens: if args.ignore_eos { Vec::new() } else { model.tokenizer()?.eos().to_vec() },
    };
    let report = generate_and_report(&model, &prompt, &args.compression, &options, args.compare, common)?;
    if common.json {
        emit_json(&report)?;
    }
    Ok(Outcome::Done)
}

/// Tokens of a prompt, in the model's chat format unless `raw` or it has none.
pub(crate) fn encode_prompt(model: &Model, text: &str, raw: bool) -> anyhow::Result<Vec<u32>> {
    let tokenizer = model.tokenizer()?;
    let prompt = if raw || tokenizer.chat_template().is_none() {
        tokenizer.encode(text, AddSpecial::Yes)?
    } else {
        let chat = tokenizer.apply_chat(&[Message::new("user", text)], true)?;
        tokenizer.encode(&chat, AddSpecial::No)?
    };
    let max_positions = model.config().max_positions;
    if prompt.len() >= max_positions {
        return Err(ModelError::TooLong { n_tokens: prompt.len() + 1, max_positions }.into());
    }
    Ok(prompt)
}

/// Generates, streaming the text to stdout unless JSON is wanted; returns the run as JSON. Shared with the demo.
pub(crate) fn generate_and_report(
    model: &Model,
    prompt: &[u32],
    compression: &CompressionArgs,
    options: &GenerateOptions,
    with_full: bool,
    common: &Common,
) -> anyhow::Result<Value> {
    let built = compression.build(model)?;
    let is_compressed = built.is_some();
    if with_full && !is_compressed {
        return Err(Usage::error("--compare needs a compressed cache", "add --policy or --profile"));
    }
    let name = built.as_ref().map_or("full".to_string(), |c| c.name.clone());
    let params = built.as_ref().map(|c| c.policy.params());
    let kind = compression.cache_type();
    let stop = stop_flag()?;
    let before = resident_bytes();
    let mut cache = RaggedCache::new(model.config(), kind, built);
    let (generation, text) = stream(model, prompt, &mut cache, options, &stop, !common.json)?;
    let mut report = json!({
        "schema": "kvscope.generate/1",
        "model": model.identity(),
        "policy": name,
        "params": params,
        "text": text,
        "stop": generation.stop,
        "prompt_tokens": prompt.len(),
        "new_tokens": generation.tokens.len(),
        "cache_bytes": cache.bytes(),
        "full_cache_bytes": cache.full_bytes(),
        "kept_fraction": cache.kept_fraction(),
        "prompt_cache_bytes": generation.prompt_cache_bytes,
        "prompt_kept_fraction": generation.prompt_kept_fraction,
        "counters": is_compressed.then(|| cache.counters()),
        "counters_by_layer": is_compressed.then(|| cache.counters_by_layer()),
        "prefill_secs": generation.prefill.as_secs_f64(),
        "compress_secs": cache.compress_time().as_secs_f64(),
        "decode_tokens_per_sec": generation.decode_tokens_per_sec(),
        "process_bytes_grown": resident_bytes().zip(before).map(|(after, before)| after.saturating_sub(before)),
    });
    summarise(&name, &generation, &cache, is_compressed, common);
    drop(cache);
    if with_full {
        let mut full = RaggedCache::new(model.config(), kind, None);
        let (reference, reference_text) = stream(model, prompt, &mut full, options, &stop, false)?;
        let same = generation.tokens.iter().zip(&reference.tokens).take_while(|(a, b)| a == b).count();
        let differs = same < generation.tokens.len().max(reference.tokens.len());
        // Both caches are fed the full cache's text, so that every distribution is compared on the same tokens.
        let mut full = RaggedCache::new(model.config(), kind, None);
        let mut compressed = RaggedCache::new(model.config(), kind, compression.build(model)?);
        let comparison = compare(model, prompt, &reference.tokens, &mut full, &mut compressed, options.chunk_tokens)?;
        summarise_comparison(&reference, &reference_text, differs.then_some(same), &comparison, common);
        report["full"] = json!({
            "text": reference_text,
            "new_tokens": reference.tokens.len(),
            "prefill_secs": reference.prefill.as_secs_f64(),
            "decode_tokens_per_sec": reference.decode_tokens_per_sec(),
        });
        report["tokens_until_first_difference"] = json!(differs.then_some(same));
        report["comparison"] = json!(comparison);
    }
    Ok(report)
}

fn stream(
    model: &Model,
    prompt: &[u32],
    cache: &mut RaggedCache,
    options: &GenerateOptions,
    stop: &AtomicBool,
    show: bool,
) -> anyhow::Result<(Generation, String)> {
    let mut pieces = model.tokenizer()?.stream(SkipSpecial::Yes);
    let mut text = String::new();
    let mut failure = None;
    let put = |piece: String, text: &mut String| -> anyhow::Result<()> {
        if show {
            emit(&piece)?;
        }
        text.push_str(&piece);
        Ok(())
    };
    let generation = generate(model, prompt, cache, options, &mut |token| {
        let shown = pieces.push(token).map_err(anyhow::Error::from).and_then(|piece| put(piece, &mut text));
        match shown {
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
            Ok(()) if stop.load(Ordering::Relaxed) => ControlFlow::Break(()),
            Ok(()) => ControlFlow::Continue(()),
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    put(pieces.finish()?, &mut text)?;
    if show {
        emit("\n")?;
    }
    Ok((generation, text))
}

fn summarise(name: &str, generation: &Generation, cache: &RaggedCache, is_compressed: bool, common: &Common) {
    if common.quiet {
        return;
    }
    let style = Style::stderr(common);
    if !common.json && std::io::stderr().is_terminal() {
        eprintln!();
    }
    eprintln!("{} {name}", style.bold("policy"));
    let kept = cache.kept_fraction().map_or("-".into(), |x| format!("{:.1} %", 100.0 * x));
    let full = cache.full_bytes();
    if !is_compressed {
        eprintln!("  cache    {}", size(cache.bytes()));
    } else {
        eprintln!("  cache    {} of {} in full ({kept} of the slots)", size(cache.bytes()), size(full));
        let counters = cache.counters();
        eprintln!(
            "  slots    {} seen, {} kept, {} merged, {} evicted at the end of the prompt",
            counters.seen, counters.kept, counters.merged, counters.evicted
        );
    }
    let prompt_tokens = cache.n_seen() - generation.decode_steps;
    eprintln!(
        "  prefill  {prompt_tokens} tokens in {:.2} s, of which {:.2} s compressing",
        generation.prefill.as_secs_f64(),
        cache.compress_time().as_secs_f64()
    );
    match generation.decode_tokens_per_sec() {
        Some(speed) => eprintln!("  decode   {} tokens, {speed:.1} tokens/s", generation.tokens.len()),
        None => eprintln!("  decode   {} tokens", generation.tokens.len()),
    }
}

fn summarise_comparison(
    reference: &Generation,
    text: &str,
    first_difference: Option<usize>,
    comparison: &Comparison,
    common: &Common,
) {
    if common.quiet {
        return;
    }
    let style = Style::stderr(common);
    eprintln!("{} {}", style.bold("full cache says"), text.trim());
    match first_difference {
        Some(n) => eprintln!("  texts    part after {n} tokens"),
        None => eprintln!("  texts    are the same"),
    }
    if let Some(speed) = reference.decode_tokens_per_sec() {
        eprintln!("  decode   {speed:.1} tokens/s with the full cache");
    }
    let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.4}"));
    eprintln!(
        "  KL       mean {}, 95th percentile {} nats over {} tokens; top-1 agreement {}",
        number(comparison.mean_kl),
        number(comparison.p95_kl),
        comparison.n_tokens,
        number(comparison.top1_agreement)
    );
}
