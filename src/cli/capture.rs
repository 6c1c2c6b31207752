//! `kvscope capture`: runs a model over prompts and dumps their states.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::capture;
use crate::capture::CaptureOptions;
use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::{Result, Usage};
use crate::cli::inputs::{FrameArgs, Inputs, encode, note_cut};
use crate::cli::names::{names, one_of};
use crate::cli::numbers;
use crate::cli::options::{DeviceArg, load_model, out_dir, parse_heads, parse_layers, stop_flag};
use crate::cli::output::{counted, emit, emit_json, note, size};
use crate::format::dump::{Manifest, State};
use crate::math::Float;

/// Large enough for full-speed products, small enough that attention's partial masses stay small at any length.
const DEFAULT_CHUNK_TOKENS: usize = 1024;

/// Run a model over prompts and dump its KV states per layer
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    inputs: Inputs,
    #[command(flatten)]
    frame: FrameArgs,
    /// Cut longer prompts to this many tokens, taking out the middle [default: refuse prompts beyond the context]
    #[arg(long, value_name = "N", value_parser = numbers::count)]
    max_tokens: Option<usize>,
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = one_of("state", &State::ALL, |state| state.name()), help = format!("States to write: any of {} [default: all]", names(State::ALL.map(State::name))))]
    states: Vec<&'static State>,
    /// Layers to write: all, or a list such as 0,3,last or 0-7
    #[arg(long, value_name = "LIST", default_value = "all")]
    layers: String,
    /// KV heads of these layers to write, with the query heads of their groups: all, or a list such as 0,2 or 0-3
    #[arg(long, value_name = "LIST", default_value = "all")]
    heads: String,
    /// Element type of the written states
    #[arg(long, value_enum, default_value = "f16")]
    dtype: Float,
    /// Queries kept per sample, or all: half of them the last, the others drawn from the rest
    #[arg(long, value_name = "N", default_value = "256", value_parser = parse_queries)]
    queries: Queries,
    /// Last queries that the windowed attention mass counts
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = numbers::count)]
    window: usize,
    /// Prompt tokens that pass through a layer at a time; 0 for all at once [default: 1024]
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    /// Generate this many tokens after each prompt, greedily, and capture their states too
    #[arg(long, value_name = "N", default_value_t = 0)]
    decode: usize,
    /// Seed of the drawn queries
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArg,
    /// Folder of the dump [default: dumps/PROMPTS-MODEL]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Refuse to use more memory than this, such as 2GB, 1.5GiB or 50%. Chooses the chunk unless --chunk is given. Mapped
    /// files of the model do not count
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory_limit: Option<u64>,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let compute = args.device.open()?;
    let (prompts, hashes) = args.inputs.read(common)?;
    let model = load_model(&args.inputs.model, &compute, common)?;
    let max_positions = model.config().max_positions;
    if args.decode >= max_positions {
        return Err(Usage::error(
            format!("--decode {} leaves no room for a prompt in the model's context of {max_positions}", args.decode),
            "generate fewer tokens",
        ));
    }
    let chat_template = args.frame.of(&model, common)?;
    let inputs = encode(&model, &prompts, chat_template, args.max_tokens, max_positions - args.decode)?;
    note_cut(inputs.iter().filter(|input| input.tokens.len() < input.n_tokens_full).count(), inputs.len(), common);
    let options = CaptureOptions {
        states: if args.states.is_empty() { State::ALL.into() } else { args.states.iter().copied().copied().collect() },
        layers: parse_layers("--layers", &args.layers, model.config().n_layers)?,
        dtype: args.dtype,
        kv_heads: parse_heads("--heads", &args.heads, model.config().n_kv_heads)?,
        n_queries: args.queries.0,
        window_tokens: args.window,
        // A memory limit chooses by itself what it is not told.
        chunk_tokens: args.chunk.unwrap_or(if args.memory_limit.is_some() { 0 } else { DEFAULT_CHUNK_TOKENS }),
        decode_tokens: args.decode,
        chat_template,
        seed: args.seed,
        memory_limit: args.memory_limit,
    };
    let run = args.inputs.run_name(&model);
    let dir = out_dir(args.out.as_ref(), "dumps", &run);
    let target = args.inputs.target(&dir);
    let chosen = target.select(&inputs);
    let n_tokens: usize = chosen.iter().map(|(_, input)| input.tokens.len() + options.decode_tokens).sum();
    let bytes = capture::estimated_bytes(model.identity()?, &options, chosen.iter().map(|(_, input)| *input));
    let (n, shard, to) = (chosen.len(), args.inputs.shard_in_words(), size(bytes));
    note(common, &format!("capture: {n} samples{shard}, {n_tokens} tokens, {to} to write to {}", dir.display()));
    let stop = stop_flag()?;
    let manifest = counted(common, "capture", "tokens", n_tokens, |more| {
        capture::run(&model, &inputs, &hashes, &options, &target, &stop, &mut |entry| more(entry.n_tokens))
    })
    .map_err(|error| args.inputs.with_resume_command(error.into()))?;
    summarise(&manifest, &dir, common)?;
    Ok(Outcome::Done)
}

/// A number of queries; `None` for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queries(Option<usize>);

fn parse_queries(text: &str) -> Result<Queries, String> {
    match text {
        "all" => Ok(Queries(None)),
        _ => text.parse().map(|n| Queries(Some(n))).map_err(|_| "write a number, or all".into()),
    }
}

/// Bytes as [`numbers::bytes`] reads them, or a share such as `50%` of the machine's memory.
fn parse_memory(text: &str) -> Result<u64, String> {
    let Some(share) = text.strip_suffix('%') else {
        return numbers::bytes(text).map_err(|_| "write a size such as 2GB or 1.5GiB, or a share such as 50%".into());
    };
    let share = share.trim().parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share));
    let share = share.ok_or("write a share from 0 to 100%")?;
    let memory = capture::memory_of_machine().ok_or("this system does not tell how much memory it has")?;
    Ok((memory as f64 / 100.0 * share) as u64)
}

fn summarise(manifest: &Manifest, dir: &Path, common: &Common) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_may_be_a_share_of_the_machines() {
        assert_eq!(parse_memory("2GB"), Ok(2_000_000_000));
        let half = parse_memory("50 %");
        assert!(half.is_err() || half.unwrap() == crate::capture::memory_of_machine().unwrap() / 2);
        for bad in ["101%", "-1%", "x%", "", "nan%"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }
}
