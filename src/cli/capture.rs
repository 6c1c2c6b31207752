//! `kvscope capture`: runs a model over prompts and dumps their states.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;

use crate::capture;
use crate::capture::CaptureOptions;
use crate::capture::SampleInput;
use crate::cli::Outcome;
use crate::cli::failure::Usage;
use crate::cli::options::Common;
use crate::cli::options::DeviceArg;
use crate::cli::options::Dtype;
use crate::cli::options::load_model;
use crate::cli::options::out_dir;
use crate::cli::options::parse_layers;
use crate::cli::options::run_name;
use crate::cli::options::slug;
use crate::cli::options::stop_flag;
use crate::cli::output::bar;
use crate::cli::output::emit;
use crate::cli::output::emit_json;
use crate::cli::output::note;
use crate::cli::output::size;
use crate::dump::Manifest;
use crate::dump::State;
use crate::files::InputHash;
use crate::model::Model;
use crate::model::ModelError;
use crate::model::tokenizer::AddSpecial;
use crate::prompts;
use crate::prompts::Prompt;
use crate::prompts::ReadOptions;
use crate::prompts::Source;

/// Run a model over prompts and dump its KV states per layer
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model: a GGUF file, a Hugging Face folder, or a name that was pulled
    #[arg(long, value_name = "PATH|NAME")]
    model: String,
    /// Prompts: LongBench-style .jsonl, .txt, a folder of these, or - for stdin; may be repeated
    #[arg(long, value_name = "FILE|DIR|-", required = true)]
    prompts: Vec<PathBuf>,
    /// JSON object of prompt templates by data set [default: dataset2prompt.json or prompts.json beside the prompts]
    #[arg(long, value_name = "FILE")]
    templates: Option<PathBuf>,
    /// Samples of each data set, the first ones [default: all]
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Cut longer prompts to this many tokens, taking out the middle [default: refuse prompts beyond the context]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// States to write: any of k, v, k_pre_rope, q, mass
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "k,v,k_pre_rope,q,mass")]
    states: Vec<String>,
    /// Layers to write: all, or a list such as 0,3,last or 0-7
    #[arg(long, value_name = "LIST", default_value = "all")]
    layers: String,
    /// Element type of the written states
    #[arg(long, value_enum, default_value = "f16")]
    dtype: Dtype,
    /// Queries kept per sample: half of them the last, the others drawn from the rest
    #[arg(long, value_name = "N", default_value_t = 64)]
    queries: usize,
    /// Last queries that the windowed attention mass counts
    #[arg(long, value_name = "N", default_value_t = 32)]
    window: usize,
    /// Prompt tokens per forward pass; 0 for all at once, which holds one layer's states at a time
    #[arg(long, value_name = "N", default_value_t = 0)]
    chunk: usize,
    /// Seed of the drawn queries
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder of the dump [default: dumps/PROMPTS-MODEL]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with an interrupted capture
    #[arg(long)]
    resume: bool,
}

pub(crate) fn run(args: &Args, common: &Common) -> anyhow::Result<Outcome> {
    args.device.check()?;
    let mut states = BTreeSet::new();
    for name in &args.states {
        let state = State::from_name(name.trim()).ok_or_else(|| {
            Usage::error(format!("there is no state {name:?}"), "choose among k, v, k_pre_rope, q, mass")
        })?;
        states.insert(state);
    }
    let (prompts, hashes) = read_prompts(args, common)?;
    let model = load_model(&args.model, common)?;
    let inputs = encode(&model, &prompts, args.max_tokens)?;
    let options = CaptureOptions {
        states,
        layers: parse_layers(&args.layers, model.config().n_layers)?,
        dtype: args.dtype.into(),
        n_queries: args.queries,
        window_tokens: args.window,
        chunk_tokens: args.chunk,
        seed: args.seed,
    };
    let run = format!("{}-{}", prompts_name(&args.prompts), slug(&model.identity().name));
    let dir = out_dir(args.out.as_ref(), "dumps", &run);
    let manifest = capture_into(&model, &inputs, &hashes, &options, (&dir, args.resume), common)?;
    summarise(&manifest, &dir, common)?;
    Ok(Outcome::Done)
}

/// Captures with a plan first and a bar; shared with the demo.
pub(crate) fn capture_into(
    model: &Model,
    inputs: &[SampleInput],
    hashes: &[InputHash],
    options: &CaptureOptions,
    (dir, resume): (&Path, bool),
    common: &Common,
) -> anyhow::Result<Manifest> {
    let n_tokens: usize = inputs.iter().map(|input| input.tokens.len()).sum();
    let bytes = capture::estimated_bytes(model.identity(), options, inputs);
    let plan =
        format!("capture: {} samples, {n_tokens} tokens, {} to write to {}", inputs.len(), size(bytes), dir.display());
    note(common, &plan);
    let stop = stop_flag()?;
    let bar = bar(common, n_tokens as u64, "tokens");
    bar.set_message("capture");
    let manifest = capture::run(model, inputs, hashes, options, (dir, resume), &stop, &mut |entry| {
        bar.inc(entry.n_tokens as u64);
    })?;
    bar.finish_and_clear();
    Ok(manifest)
}

fn summarise(manifest: &Manifest, dir: &Path, common: &Common) -> anyhow::Result<()> {
    let bytes: u64 = manifest.samples.iter().map(|sample| sample.bytes).sum();
    let n_tokens: usize = manifest.samples.iter().map(|sample| sample.n_tokens).sum();
    if common.json {
        return emit_json(&json!({
            "schema": "kvscope.capture/1",
            "dump": dir,
            "samples": manifest.samples.len(),
            "n_tokens": n_tokens,
            "bytes": bytes,
            "datasets": manifest.datasets(),
        }));
    }
    emit(&format!("{}\n", dir.display()))?;
    note(common, &format!("{} samples, {n_tokens} tokens, {}", manifest.samples.len(), size(bytes)));
    note(common, &format!("next: kvscope analyze {}", dir.display()));
    Ok(())
}

fn read_prompts(args: &Args, common: &Common) -> anyhow::Result<(Vec<Prompt>, Vec<InputHash>)> {
    let options = ReadOptions { max_samples: args.samples, templates: args.templates.clone() };
    let (mut all, mut hashes) = (Vec::new(), Vec::new());
    for path in &args.prompts {
        let source = if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
            Source::Stdin(bytes)
        } else {
            Source::Path(path.clone())
        };
        let set = prompts::read(&source, &options)?;
        for skipped in &set.skipped {
            note(common, &format!("skipped {}: neither .jsonl nor .txt", skipped.display()));
        }
        all.extend(set.prompts);
        hashes.extend(set.inputs);
    }
    hashes.sort();
    hashes.dedup();
    Ok((all, hashes))
}

/// Tokens of every prompt, cut in the middle when a limit is given.
pub(crate) fn encode(model: &Model, prompts: &[Prompt], max_tokens: Option<usize>) -> anyhow::Result<Vec<SampleInput>> {
    let tokenizer = model.tokenizer()?;
    let max_positions = model.config().max_positions;
    if let Some(max_tokens) = max_tokens.filter(|max| *max > max_positions || *max == 0) {
        return Err(Usage::error(
            format!("--max-tokens {max_tokens} does not fit the model's context of {max_positions}"),
            format!("give a number from 1 to {max_positions}"),
        ));
    }
    let mut inputs = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let ids = tokenizer.encode(&prompt.text, AddSpecial::Yes)?;
        let n_tokens_full = ids.len();
        let tokens = match max_tokens {
            Some(max_tokens) => prompts::middle_truncate(&ids, max_tokens),
            None if n_tokens_full > max_positions => {
                return Err(ModelError::TooLong { n_tokens: n_tokens_full, max_positions })
                    .with_context(|| format!("sample {} of {}", prompt.id, prompt.dataset));
            }
            None => ids,
        };
        inputs.push(SampleInput { dataset: prompt.dataset.clone(), id: prompt.id.clone(), tokens, n_tokens_full });
    }
    Ok(inputs)
}

fn prompts_name(paths: &[PathBuf]) -> String {
    match paths {
        [one] if one.as_os_str() == "-" => "stdin".into(),
        [one] => run_name(&one.with_extension("")),
        many => format!("{}-and-{}-more", run_name(&many[0].with_extension("")), many.len() - 1),
    }
}
