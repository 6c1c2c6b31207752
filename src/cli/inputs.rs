//! The model and prompts of the commands that run one over the other.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::capture::{CaptureError, SampleInput};
use crate::cli::common::Common;
use crate::cli::failure::{Context, Failure, Result, Usage};
use crate::cli::numbers;
use crate::cli::options::run_name;
use crate::cli::output::{note, size};
use crate::eval::EvalError;
use crate::files::{InputHash, plain_name};
use crate::format::run::{Part, RunError, Target};
use crate::model::Model;
use crate::model::tokenizer::PromptTokens;
use crate::prompts;
use crate::prompts::{Prompt, ReadOptions, Source};

/// More is not held in memory.
const MAX_STDIN_BYTES: u64 = 256 << 20;

/// Which model runs over which prompts.
#[derive(Debug, clap::Args)]
pub(crate) struct Inputs {
    /// Model: a GGUF file, a Hugging Face folder, or a name that was pulled
    #[arg(long, value_name = "PATH|NAME")]
    pub model: String,
    /// Prompts: LongBench-style .jsonl or .json, .txt, a folder of .jsonl and .txt, or - for stdin; may be repeated
    #[arg(long, value_name = "FILE|DIR|-", required = true)]
    prompts: Vec<PathBuf>,
    /// JSON object of prompt templates by data set [default: dataset2prompt.json or prompts.json beside the prompts]
    #[arg(long, value_name = "FILE")]
    templates: Option<PathBuf>,
    /// Field of a JSON record that has the whole text [default: `context` and `input`; without them `text`, `prompt` or `content`]
    #[arg(long, value_name = "NAME", conflicts_with = "templates")]
    field: Option<String>,
    /// Samples of each data set, the first ones [default: all]
    #[arg(long, value_name = "N", value_parser = numbers::count)]
    samples: Option<usize>,
    /// Go on with an interrupted run
    #[arg(long)]
    resume: bool,
    /// Run the I-th of N shards of the samples, counted from 1; `kvscope join` joins them
    #[arg(long, value_name = "I/N")]
    shard: Option<Part>,
}

impl Inputs {
    /// Prompts of all places, and the hashes of what was read.
    pub fn read(&self, common: &Common) -> Result<(Vec<Prompt>, Vec<InputHash>)> {
        let options =
            ReadOptions { max_samples: self.samples, templates: self.templates.clone(), field: self.field.clone() };
        read_prompts(&self.prompts, &options, common)
    }

    /// What the folder of a run is called: its prompts, the model, and its shard.
    pub fn run_name(&self, model: &Model) -> String {
        let prompts = match self.prompts.as_slice() {
            [one] if one.as_os_str() == "-" => "stdin".into(),
            [one] => run_name(&one.with_extension("")),
            many => format!("{}-and-{}-more", run_name(&many[0].with_extension("")), many.len() - 1),
        };
        let run = format!("{prompts}-{}", plain_name(model.name()));
        self.shard.map_or(run.clone(), |part| format!("{run}-{}", plain_name(&part.to_string())))
    }

    /// Where the run writes.
    pub fn target<'a>(&self, dir: &'a Path) -> Target<'a> {
        Target { dir, resume: self.resume, part: self.shard }
    }

    /// The shard in words, where there is one.
    pub fn shard_in_words(&self) -> String {
        self.shard.map_or_else(String::new, |part| format!(", shard {part}"))
    }

    /// Tells someone who interrupted a run what to type to go on.
    pub fn with_resume_command(&self, error: Failure) -> Failure {
        let run_error = match (error.cause(), error.cause()) {
            (Some(CaptureError::Run(error)), _) | (_, Some(EvalError::Run(error))) => Some(error),
            _ => None,
        };
        if !matches!(run_error, Some(RunError::Interrupted { .. })) {
            return error;
        }
        let mut words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        if !self.resume {
            words.push("--resume".into());
        }
        // Arguments hold no NUL, which is all that cannot be quoted.
        let command = shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "));
        let from_stdin = self.prompts.iter().any(|path| path.as_os_str() == "-");
        let input = if from_stdin { ", with the same standard input" } else { "" };
        Usage::error(error.to_string(), format!("to go on, run{input}:\n  {command}"))
    }
}

/// How prompts are given to the model: the same default wherever a model runs.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FrameArgs {
    /// Give prompts to the model as they are, even if the model has a chat template
    #[arg(long)]
    raw: bool,
}

impl FrameArgs {
    /// Whether prompts stand in the model's chat format; says so.
    pub fn of(&self, model: &Model, common: &Common) -> Result<bool> {
        let chat = model.tokenizer()?.uses_chat(self.raw);
        let how = match (chat, self.raw) {
            (true, _) => "in the model's chat template (--raw: as they are)",
            (false, true) => "as they are",
            (false, false) => "as they are, as the model has no chat template",
        };
        note(common, &format!("prompts: {how}"));
        Ok(chat)
    }
}

/// Says how many prompts are not whole.
pub(crate) fn note_cut(n_cut: usize, n: usize, common: &Common) {
    if n_cut > 0 {
        note(common, &format!("{n_cut} of {n} prompts are longer than the limit and lose their middle"));
    }
}

/// Prompts of several places, and the hashes of what was read.
pub(crate) fn read_prompts(
    places: &[PathBuf],
    options: &ReadOptions,
    common: &Common,
) -> Result<(Vec<Prompt>, Vec<InputHash>)> {
    let (mut all, mut hashes) = (Vec::new(), Vec::new());
    for path in places {
        let source = source_of(path)?;
        let set = prompts::read(&source, options)?;
        for skipped in &set.skipped {
            note(common, &format!("skipped {}: neither .jsonl nor .txt", skipped.display()));
        }
        for used in &set.templates {
            let name = &used.dataset;
            note(
                common,
                &match &used.file {
                    Some(file) => format!("{name}: template of {}", file.name),
                    None => format!("{name}: no template, context and input are joined"),
                },
            );
        }
        all.extend(set.prompts);
        hashes.extend(set.inputs);
    }
    hashes.sort();
    hashes.dedup();
    Ok((all, hashes))
}

/// The file or folder at a path, or what standard input holds for `-`.
pub(crate) fn source_of(path: &Path) -> Result<Source> {
    if path.as_os_str() != "-" {
        return Ok(Source::Path(path.into()));
    }
    let mut bytes = Vec::new();
    std::io::stdin().take(MAX_STDIN_BYTES + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    if bytes.len() as u64 > MAX_STDIN_BYTES {
        return Err(Usage::error(
            format!("standard input holds more than {}", size(MAX_STDIN_BYTES)),
            "write it to a file, and give that",
        ));
    }
    Ok(Source::Stdin(bytes))
}

/// Tokens of every prompt, cut in the middle when a limit is given. They may take `max_positions` of the model's context.
pub(crate) fn encode(
    model: &Model,
    prompts: &[Prompt],
    chat_template: bool,
    max_tokens: Option<usize>,
    max_positions: usize,
) -> Result<Vec<SampleInput>> {
    let tokenizer = model.tokenizer()?;
    if let Some(max_tokens) = max_tokens.filter(|max| *max > max_positions || *max == 0) {
        return Err(Usage::error(
            format!(
                "--max-tokens {max_tokens} does not fit the {max_positions} tokens that the model's context leaves"
            ),
            format!("give a number from 1 to {max_positions}"),
        ));
    }
    let mut inputs = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let PromptTokens { tokens, n_tokens_full } =
            tokenizer.prompt(&prompt.earlier, &prompt.text, chat_template, max_tokens.unwrap_or(usize::MAX))?;
        if tokens.len() > max_positions {
            return Err(model.config().too_long(n_tokens_full, max_positions))
                .with_context(|| format!("sample {} of {}", prompt.id, prompt.dataset));
        }
        inputs.push(SampleInput { dataset: prompt.dataset.clone(), id: prompt.id.clone(), tokens, n_tokens_full });
    }
    Ok(inputs)
}
