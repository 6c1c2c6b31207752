//! A capture run: a folder, its manifest, and one file per sample. Resumable between samples.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::capture::classes::token_classes;
use crate::capture::memory::fitting_chunk;
use crate::capture::plan::{estimated_bytes, file_name, new_manifest, query_positions};
use crate::capture::recorder::{RecordError, Recorder, SampleOutput};
use crate::capture::{CaptureError, CaptureOptions, SampleInput};
use crate::files::{FileError, FolderLock, InputHash, free_bytes, sha256_own, write_json};
use crate::format::dump::{Manifest, SampleEntry};
use crate::format::run::{Run, RunError, Target};
use crate::math::argmax;
use crate::model::{Decoding, ForwardError, LogitRows, Model, Pass};

/// Captures `inputs`, rewriting the manifest after every sample.
///
/// With [`Target::resume`], finished samples of an earlier run with the same settings are kept. Setting `stop` ends the
/// run at the next layer; at most the sample in flight is lost. A sample whose file has changed is captured again. Whenever the run is killed, what it left is a valid dump
/// that can be resumed, and the resumed dump is byte for byte that of an unbroken run.
///
/// - Errors: a full disk or too low a memory limit, before starting where it can be foreseen; a folder in use; a sample
///   the model cannot run
pub fn run(
    model: &Model,
    inputs: &[SampleInput],
    input_hashes: &[InputHash],
    options: &CaptureOptions,
    target: &Target<'_>,
    stop: &AtomicBool,
    on_sample: &mut dyn FnMut(&SampleEntry),
) -> Result<Manifest, CaptureError> {
    if inputs.is_empty() {
        return Err(CaptureError::Nothing("no prompt was given"));
    }
    if options.layers.is_empty() || options.states.is_empty() {
        return Err(CaptureError::Nothing("no layer or no state was chosen"));
    }
    let mut options = options.clone();
    if let Some(limit) = options.memory_limit {
        // The longest of all samples decides, not the longest of the shard: shards must agree on the chunk.
        let longest = inputs.iter().map(|input| input.tokens.len()).max().unwrap_or(0);
        options.chunk_tokens = fitting_chunk(model, &options, longest, limit)?;
    }
    let dir = target.dir;
    let _lock = FolderLock::take(dir)?;
    let path = dir.join(Manifest::FILE);
    let (shard, device) = (target.shard(inputs.len()), model.compute().name());
    let mut manifest = new_manifest(model.identity()?, inputs, input_hashes, &options, shard, &device);
    // A model of tensors alone can be captured as well.
    manifest.token_classes = model.tokenizer().ok().map(token_classes);
    if let Some(earlier) = target.earlier(&manifest)? {
        manifest.samples = finished_samples(dir, earlier);
        remove_left_over(dir)?;
    } else if let Some(path) = target
        .select(inputs)
        .into_iter()
        .map(|(index, input)| dir.join(file_name(index, &input.dataset)))
        .find(|path| path.symlink_metadata().is_ok())
    {
        // Without a manifest no file is a sample of ours.
        return Err(CaptureError::Foreign(path));
    }
    manifest.samples.iter().for_each(&mut *on_sample);
    let mut left = target.select(inputs);
    left.retain(|(index, _)| !manifest.samples.iter().any(|entry| entry.index == *index));
    let is_new = path.symlink_metadata().is_err();
    let needed = estimated_bytes(model.identity()?, &options, left.iter().map(|(_, input)| *input));
    if let Some(free) = free_bytes(dir).filter(|free| *free < needed) {
        return Err(CaptureError::NoSpace { dir: dir.into(), needed, free });
    }
    write_json(&path, &manifest)?;
    for (index, input) in left {
        let interrupted = CaptureError::from(RunError::interrupted(&manifest));
        if stop.load(Ordering::Relaxed) {
            return Err(interrupted);
        }
        let captured = capture_sample(model, index, input, &options, &manifest, dir, stop);
        if captured.is_err() && is_new && manifest.samples.is_empty() {
            // Nothing is left of a run whose first sample is refused.
            std::fs::remove_file(&path).map_err(|e| FileError::io("remove", &path, e))?;
        }
        let entry = captured?.ok_or(interrupted)?;
        on_sample(&entry);
        let at = manifest.samples.partition_point(|earlier| earlier.index < index);
        manifest.samples.insert(at, entry);
        write_json(&path, &manifest)?;
    }
    Ok(manifest)
}

fn capture_sample(
    model: &Model,
    index: usize,
    input: &SampleInput,
    options: &CaptureOptions,
    manifest: &Manifest,
    dir: &Path,
    stop: &AtomicBool,
) -> Result<Option<SampleEntry>, CaptureError> {
    let n_prompt_tokens = input.tokens.len();
    let n_tokens = n_prompt_tokens + options.decode_tokens;
    let file = file_name(index, &input.dataset);
    // `format: pt` is what Python readers look for.
    let metadata = vec![("format", "pt".to_string()), ("dataset", input.dataset.clone()), ("id", input.id.clone())];
    let output = SampleOutput {
        path: dir.join(&file),
        metadata,
        n_tokens,
        query_positions: query_positions(n_tokens, options, index),
    };
    let mut recorder = Recorder::new(manifest, output, &input.tokens, model.tokenizer().ok(), stop);
    let recorded = record(model, input, options, &mut recorder);
    let failed = |source| CaptureError::Sample { dataset: input.dataset.clone(), id: input.id.clone(), source };
    let (sha256, bytes) = match recorded.and_then(|()| recorder.finish().map_err(ForwardError::Store)) {
        Ok(written) => written,
        Err(ForwardError::Store(RecordError::Stopped)) => return Ok(None),
        Err(ForwardError::Store(RecordError::Dump(error))) => return Err(error.into()),
        Err(ForwardError::Store(RecordError::Text(error))) => return Err(failed(error.into())),
        Err(ForwardError::Model(source)) => return Err(failed(source)),
    };
    Ok(Some(SampleEntry {
        index,
        dataset: input.dataset.clone(),
        id: input.id.clone(),
        n_tokens,
        n_prompt_tokens,
        n_tokens_full: input.n_tokens_full,
        file,
        bytes,
        sha256,
    }))
}

/// Runs the prompt, and the tokens that the model would follow it with.
fn record(
    model: &Model,
    input: &SampleInput,
    options: &CaptureOptions,
    recorder: &mut Recorder<'_>,
) -> Result<(), ForwardError<RecordError>> {
    let n_tokens = input.tokens.len();
    let chunk = if options.chunk_tokens == 0 { n_tokens } else { options.chunk_tokens };
    let rows = if options.decode_tokens > 0 { LogitRows::Last } else { LogitRows::None };
    let mut pass = Pass::new(model);
    let logits = pass.forward_by_layer(&input.tokens, 0, chunk, recorder, rows)?;
    let mut decoding = Decoding::new(&mut pass, recorder, n_tokens, logits);
    for _ in 0..options.decode_tokens {
        let token = argmax(decoding.logits()) as u32;
        decoding.store().push_token(token);
        decoding.feed(token)?;
    }
    Ok(())
}

/// The samples of an earlier run that are whole.
fn finished_samples(dir: &Path, earlier: Manifest) -> Vec<SampleEntry> {
    let mut whole = Vec::new();
    // A file from a stranger's manifest must not lead out of the folder.
    for entry in earlier.samples.into_iter().filter(|entry| entry.file == file_name(entry.index, &entry.dataset)) {
        let path = dir.join(&entry.file);
        match sha256_own(&path) {
            Ok(found) if found == (entry.sha256.clone(), entry.bytes) => whole.push(entry),
            Ok(_) => tracing::warn!("{} has changed since it was captured; it is captured again", path.display()),
            Err(error) => tracing::warn!("{error}; the sample is captured again"),
        }
    }
    whole.sort_by_key(|entry| entry.index);
    whole.dedup_by_key(|entry| entry.index);
    whole
}

/// Removes the temporary files of a killed run.
fn remove_left_over(dir: &Path) -> Result<(), CaptureError> {
    let entries = std::fs::read_dir(dir).map_err(|e| FileError::io("list", dir, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| FileError::io("list", dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_sample = name.starts_with('.')
            && name.ends_with(".safetensors.tmp")
            && name[1..].split('-').next().is_some_and(|index| index.bytes().all(|b| b.is_ascii_digit()));
        if is_sample || name == ".manifest.json.tmp" {
            std::fs::remove_file(entry.path()).map_err(|e| FileError::io("remove", &entry.path(), e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_over_files_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let keep = ["00001-a.safetensors", ".mine.safetensors.tmp", "notes.tmp", "manifest.json"];
        let remove = [".00002-a-b.safetensors.tmp", ".manifest.json.tmp"];
        for name in keep.iter().chain(&remove) {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        remove_left_over(dir.path()).unwrap();
        assert!(keep.iter().all(|name| dir.path().join(name).exists()));
        assert!(remove.iter().all(|name| !dir.path().join(name).exists()));
    }
}
