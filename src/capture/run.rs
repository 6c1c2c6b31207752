//! A capture run: a folder, its manifest, and one file per sample. Resumable between samples.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rand::SeedableRng;
use rand::seq::index::sample as sample_indices;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::capture::CaptureError;
use crate::capture::recorder::Recorder;
use crate::capture::recorder::Stopped;
use crate::capture::recorder::tensor_specs;
use crate::dump::DumpError;
use crate::dump::ElementType;
use crate::dump::Manifest;
use crate::dump::SampleEntry;
use crate::dump::SampleWriter;
use crate::dump::State;
use crate::files::Document;
use crate::files::InputHash;
use crate::files::ModelIdentity;
use crate::files::Provenance;
use crate::files::create_dir;
use crate::files::free_bytes;
use crate::files::read_json;
use crate::files::write_json;
use crate::model::LogitRows;
use crate::model::Model;
use crate::model::ModelError;

/// What is captured of every sample.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// States to write.
    pub states: BTreeSet<State>,
    /// Layers to write, rising.
    pub layers: Vec<usize>,
    /// Element type of keys, values and queries.
    pub dtype: ElementType,
    /// Queries kept per sample: half of them the last ones, the others a seeded sample of the rest.
    pub n_queries: usize,
    /// Queries in the observation window.
    pub window_tokens: usize,
    /// Prompt tokens per forward pass; 0 for all at once.
    pub chunk_tokens: usize,
    /// Seed of the query sample.
    pub seed: u64,
}

/// One prompt, as tokens.
#[derive(Clone, Debug)]
pub struct SampleInput {
    /// Data set.
    pub dataset: String,
    /// Row id.
    pub id: String,
    /// Tokens to run.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt before truncation.
    pub n_tokens_full: usize,
}

/// Bytes that a run will write, headers left out.
pub fn estimated_bytes(model: &ModelIdentity, options: &CaptureOptions, inputs: &[SampleInput]) -> u64 {
    inputs
        .iter()
        .map(|input| {
            let n = input.tokens.len();
            tensor_specs(model, options, n, options.n_queries.min(n)).iter().map(|spec| spec.bytes()).sum::<u64>()
        })
        .sum()
}

/// Captures `inputs` into `dir`, rewriting the manifest after every sample.
///
/// With `resume`, finished samples of an earlier run with the same settings are kept. Setting `stop` ends the run at the
/// next layer; at most the sample in flight is lost.
///
/// - Errors: a full disk, before starting where it can be foreseen; a folder in use; a sample the model cannot run
pub fn run(
    model: &Model,
    inputs: &[SampleInput],
    input_hashes: &[InputHash],
    options: &CaptureOptions,
    (dir, resume): (&Path, bool),
    stop: &AtomicBool,
    on_sample: &mut dyn FnMut(&SampleEntry),
) -> Result<Manifest, CaptureError> {
    if inputs.is_empty() {
        return Err(CaptureError::Nothing("no prompt was given"));
    }
    if options.layers.is_empty() || options.states.is_empty() {
        return Err(CaptureError::Nothing("no layer or no state was chosen"));
    }
    create_dir(dir)?;
    let path = dir.join("manifest.json");
    let mut manifest = new_manifest(model.identity(), inputs, input_hashes, options);
    if path.exists() {
        if !resume {
            return Err(CaptureError::Exists { dir: dir.into() });
        }
        manifest.samples = finished_samples(dir, &manifest)?;
    }
    let done = manifest.samples.len();
    for entry in &manifest.samples {
        on_sample(entry);
    }
    let needed = estimated_bytes(model.identity(), options, &inputs[done..]);
    if let Some(free) = free_bytes(dir).filter(|free| *free < needed) {
        return Err(CaptureError::NoSpace { dir: dir.into(), needed, free });
    }
    write_json(&path, &manifest)?;
    for (index, input) in inputs.iter().enumerate().skip(done) {
        let interrupted = CaptureError::Interrupted { done: index, planned: inputs.len() };
        if stop.load(Ordering::Relaxed) {
            return Err(interrupted);
        }
        let entry = match capture_sample(model, index, input, options, dir, stop) {
            Err(CaptureError::Sample { source: ModelError::Store(error), .. }) => {
                return Err(match error.downcast::<DumpError>() {
                    Ok(own) => (*own).into(),
                    Err(error) if error.is::<Stopped>() => interrupted,
                    Err(error) => sample_error(input, ModelError::Store(error)),
                });
            }
            other => other?,
        };
        on_sample(&entry);
        manifest.samples.push(entry);
        write_json(&path, &manifest)?;
    }
    Ok(manifest)
}

fn sample_error(input: &SampleInput, source: ModelError) -> CaptureError {
    CaptureError::Sample { dataset: input.dataset.clone(), id: input.id.clone(), source }
}

fn capture_sample(
    model: &Model,
    index: usize,
    input: &SampleInput,
    options: &CaptureOptions,
    dir: &Path,
    stop: &AtomicBool,
) -> Result<SampleEntry, CaptureError> {
    let n_tokens = input.tokens.len();
    let file = file_name(index, &input.dataset);
    let queries = query_positions(n_tokens, options, index);
    let specs = tensor_specs(model.identity(), options, n_tokens, queries.len());
    // `format: pt` is what Python readers look for.
    let metadata = [("format", "pt".to_string()), ("dataset", input.dataset.clone()), ("id", input.id.clone())];
    let writer = SampleWriter::create(&dir.join(&file), specs, &metadata)?;
    let mut recorder = Recorder::new(model.identity(), options, writer, &input.tokens, &queries, stop)?;
    let chunk = if options.chunk_tokens == 0 { n_tokens.max(1) } else { options.chunk_tokens };
    if input.tokens.is_empty() {
        return Err(sample_error(input, ModelError::Empty));
    }
    for (i, part) in input.tokens.chunks(chunk).enumerate() {
        model.forward(part, i * chunk, &mut recorder, LogitRows::None).map_err(|e| sample_error(input, e))?;
    }
    let (sha256, bytes) = recorder.finish()?;
    Ok(SampleEntry {
        dataset: input.dataset.clone(),
        id: input.id.clone(),
        n_tokens,
        n_tokens_full: input.n_tokens_full,
        file,
        bytes,
        sha256,
    })
}

/// `00007-qasper.safetensors`; characters that a file system may mind become `_`.
fn file_name(index: usize, dataset: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = dataset.chars().take(40).map(plain).collect();
    format!("{index:05}-{name}.safetensors")
}

/// The last half of the wanted number, and a seeded sample of the positions before; rising.
fn query_positions(n_tokens: usize, options: &CaptureOptions, index: usize) -> Vec<usize> {
    let wanted = options.n_queries.min(n_tokens);
    let n_last = wanted.div_ceil(2);
    let first_last = n_tokens - n_last;
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    random.set_stream(index as u64);
    let mut positions = sample_indices(&mut random, first_last, wanted - n_last).into_vec();
    positions.sort_unstable();
    positions.extend(first_last..n_tokens);
    positions
}

fn new_manifest(
    model: &ModelIdentity,
    inputs: &[SampleInput],
    input_hashes: &[InputHash],
    options: &CaptureOptions,
) -> Manifest {
    let settings = json!({
        "n_queries": options.n_queries,
        "chunk_tokens": options.chunk_tokens,
        "samples": inputs.iter().map(|input| json!([input.dataset, input.id, input.tokens.len()])).collect::<Vec<_>>(),
    });
    Manifest {
        schema: Manifest::schema_id(),
        provenance: Provenance::new("capture", options.seed, settings, input_hashes.to_vec()),
        model: model.clone(),
        states: options.states.iter().copied().collect(),
        layers: options.layers.clone(),
        dtype: options.dtype,
        window_tokens: options.window_tokens,
        planned_samples: inputs.len(),
        samples: Vec::new(),
    }
}

/// The samples of an earlier run that are whole, if that run had the same settings.
fn finished_samples(dir: &Path, new: &Manifest) -> Result<Vec<SampleEntry>, CaptureError> {
    let old: Manifest = read_json(&dir.join("manifest.json"))?;
    let other = |what| Err(CaptureError::OtherRun { dir: dir.into(), what });
    if old.model != new.model {
        return other("model");
    }
    if old.provenance.inputs != new.provenance.inputs {
        return other("set of prompts");
    }
    if (Manifest { samples: Vec::new(), ..old.clone() }) != *new {
        return other("set of options");
    }
    let is_whole = |entry: &&SampleEntry| {
        std::fs::metadata(dir.join(&entry.file)).is_ok_and(|file| file.is_file() && file.len() == entry.bytes)
    };
    Ok(old.samples.iter().take_while(is_whole).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(n_queries: usize) -> CaptureOptions {
        CaptureOptions {
            states: State::ALL.into_iter().collect(),
            layers: vec![0],
            dtype: ElementType::F16,
            n_queries,
            window_tokens: 32,
            chunk_tokens: 0,
            seed: 3,
        }
    }

    #[test]
    fn queries_are_the_last_half_and_a_sample_of_the_rest() {
        let positions = query_positions(100, &options(7), 0);
        assert_eq!(positions.len(), 7);
        assert_eq!(positions[3..], [96, 97, 98, 99]);
        assert!(positions.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(query_positions(100, &options(7), 0), positions);
        assert_ne!(query_positions(100, &options(7), 1), positions);
        assert_eq!(query_positions(3, &options(7), 0), [0, 1, 2]);
        assert_eq!(query_positions(0, &options(7), 0), [0; 0]);
    }

    #[test]
    fn file_names_are_plain() {
        assert_eq!(file_name(7, "a/b ..\u{e9}"), "00007-a_b____.safetensors");
    }
}
