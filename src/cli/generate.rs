//! `kvscope generate`: compressed generation with a named policy or a tuned profile.

use std::path::PathBuf;

use crate::cli::Outcome;
use crate::cli::chat::chat;
use crate::cli::common::Common;
use crate::cli::compression::CompressionArgs;
use crate::cli::failure::{Result, Usage};
use crate::cli::inputs::{FrameArgs, source_of};
use crate::cli::options::{DeviceArg, load_model};
use crate::cli::output::emit_json;
use crate::cli::session::{Job, encode_prompt};
use crate::format::generation::Generated;
use crate::prompts;
use crate::runtime::{GenerateOptions, Sampling};

/// Generate text with a compressed KV cache
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model: a GGUF file, a Hugging Face folder, or a name that was pulled
    #[arg(long, value_name = "PATH|NAME")]
    model: String,
    /// The prompt
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// A file with the prompt, or - for standard input
    #[arg(long, value_name = "FILE|-")]
    prompt_file: Option<PathBuf>,
    /// Chat: each line of standard input is a turn, and the compressed cache is kept between turns
    #[arg(long, conflicts_with = "compare")]
    interactive: bool,
    #[command(flatten)]
    frame: FrameArgs,
    #[command(flatten)]
    compression: CompressionArgs,
    /// New tokens at most
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_new_tokens: usize,
    /// Temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Sample from this many of the most likely tokens; 0 for all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the most likely tokens that together hold this share of the probability; 0 takes the best one
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Sample from tokens of at least this share of the most likely one's probability
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Make tokens that occurred before less likely; 1 changes nothing
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// End the text before this string. May be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seed of the sampling
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Continue after the model's end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Prompt tokens per forward pass; 0 for all at once, which compresses each layer as it is done
    #[arg(long, value_name = "N", default_value_t = 0)]
    chunk: usize,
    /// Also run the full cache, and compare texts and next-token distributions
    #[arg(long)]
    compare: bool,
    #[command(flatten)]
    device: DeviceArg,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let compute = args.device.open()?;
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(prompts::read_text(&source_of(path)?)?),
        (None, None) if args.interactive => None,
        (None, None) => {
            return Err(Usage::error("there is no prompt", "give --prompt, --prompt-file or --interactive"));
        }
    };
    let sampling = Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
    };
    sampling.check()?;
    args.compression.check()?;
    let model = load_model(&args.model, &compute, common)?;
    let chat_template = args.frame.of(&model, common)?;
    let job = Job {
        model: &model,
        chat_template,
        compression: args.compression.build(&model, chat_template, common)?,
        cache_type: args.compression.cache_dtype,
        options: GenerateOptions {
            max_new_tokens: args.max_new_tokens,
            sampling,
            chunk_tokens: args.chunk,
            stop_tokens: if args.ignore_eos { Vec::new() } else { model.tokenizer()?.eos().to_vec() },
        },
        stop: args.stop.clone(),
    };
    match text {
        text if args.interactive => chat(&job, text, common)?,
        Some(text) => {
            let report = job.report(&encode_prompt(&model, &text, job.chat_template)?, args.compare, common)?;
            if common.json {
                emit_json(&serde_json::to_value(Generated { prompt: Some(text), ..report })?)?;
            }
        }
        None => {}
    }
    Ok(Outcome::Done)
}
