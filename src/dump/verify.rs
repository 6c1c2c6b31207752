//! Looks for faults in a dump: everything that the layout promises and that a reader relies on.

use std::path::Path;

use safetensors::Dtype;

use crate::dump::Dump;
use crate::dump::DumpError;
use crate::dump::ElementType;
use crate::dump::Manifest;
use crate::dump::Sample;
use crate::dump::State;
use crate::files::FileError;
use crate::files::sha256_file;

/// Relative error that the sum of a head's masses may have: they are f32 sums of softmax rows.
const MASS_TOLERANCE: f64 = 5e-3;
/// Faults that are listed of one sample; a file of noise has one per head and state.
const MAX_FAULTS: usize = 20;

/// Faults of the dump in `dir`, one line each; empty when all is well.
///
/// Reads every file: hashes, shapes and types against the manifest, finite values, masses that are not negative and sum
/// to what the queries handed out, query positions that rise.
///
/// - Errors: the manifest cannot be read, or is not one of a dump
pub fn verify(dir: &Path) -> Result<Vec<String>, DumpError> {
    let dump = match Dump::open(dir) {
        Err(DumpError::Inconsistent { what, .. }) => return Ok(vec![format!("manifest.json: {what}")]),
        other => other?,
    };
    let manifest = dump.manifest();
    let mut faults = of_manifest(manifest);
    for (i, entry) in manifest.samples.iter().enumerate() {
        let mut found = Vec::new();
        let path = dir.join(&entry.file);
        match sha256_file(&path) {
            Ok(sha256) if sha256 == entry.sha256 => {}
            Ok(sha256) => found.push(format!("SHA-256 is {sha256}, the manifest says {}", entry.sha256)),
            Err(FileError::Io { action, source, .. }) => found.push(format!("cannot {action} it: {source}")),
            Err(other) => found.push(other.to_string()),
        }
        if path.is_file() {
            match dump.sample(i) {
                Ok(sample) => of_sample(manifest, &sample, &mut found),
                Err(error) => found.push(error.to_string()),
            }
        }
        if let Some(more) = found.len().checked_sub(MAX_FAULTS).filter(|more| *more > 0) {
            found.truncate(MAX_FAULTS);
            found.push(format!("and {more} more"));
        }
        faults.extend(found.iter().map(|fault| format!("{}: {fault}", entry.file)));
    }
    Ok(faults)
}

fn of_manifest(manifest: &Manifest) -> Vec<String> {
    let mut faults = Vec::new();
    let mut add = |what: String| faults.push(format!("manifest.json: {what}"));
    if !manifest.layers.is_sorted_by(|a, b| a < b) {
        add("the layers do not rise".into());
    }
    if !manifest.states.is_sorted_by(|a, b| a < b) {
        add("the states are not in order, or one is there twice".into());
    }
    if manifest.dtype == ElementType::I64 {
        add("states of integers cannot be".into());
    }
    if !manifest.samples.is_sorted_by(|a, b| a.index < b.index) {
        add("the samples' indices do not rise".into());
    }
    if manifest.samples.len() > manifest.planned_samples {
        add(format!("{} samples of {} planned", manifest.samples.len(), manifest.planned_samples));
    }
    if let Some(shard) = manifest.shard
        && (shard.n_samples() != manifest.planned_samples || manifest.samples.iter().any(|s| !shard.holds(s.index)))
    {
        add(format!("shard {} of {} holds other samples", shard.number, shard.count));
    }
    for entry in &manifest.samples {
        if entry.n_prompt_tokens > entry.n_tokens || entry.n_prompt_tokens > entry.n_tokens_full {
            add(format!(
                "sample {}: {} prompt tokens of {} captured and {} in full",
                entry.index, entry.n_prompt_tokens, entry.n_tokens, entry.n_tokens_full
            ));
        }
    }
    faults
}

fn of_sample(manifest: &Manifest, sample: &Sample<'_>, faults: &mut Vec<String>) {
    let model = &manifest.model;
    let (n_tokens, group) = (sample.entry().n_tokens, model.group() as f64);
    if let Err(error) = sample.token_ids() {
        faults.push(reason(error));
    }
    for layer in &manifest.layers {
        for state in &manifest.states {
            let name = Manifest::tensor_name(*layer, *state);
            if *state == State::Mass {
                let window = format!("{name}_window");
                let in_window = manifest.window_tokens.min(n_tokens);
                for head in 0..model.n_kv_heads {
                    let masses = [
                        (&name, sample.mass(*layer, head), n_tokens),
                        (&window, sample.mass_window(*layer, head), in_window),
                    ];
                    for (name, mass, n_queries) in masses {
                        faults.extend(mass_fault(mass, group * n_queries as f64, &format!("{name} head {head}")));
                    }
                }
                continue;
            }
            let is_declared = matches!(
                (manifest.dtype, sample.element_type(&name)),
                (ElementType::F16, Some(Dtype::F16))
                    | (ElementType::Bf16, Some(Dtype::BF16))
                    | (ElementType::F32, Some(Dtype::F32))
            );
            if !is_declared {
                faults.push(format!("{name} is not of the element type that the manifest gives"));
            }
            if *state == State::Q {
                faults.extend(positions_fault(sample, *layer));
            }
            for head in 0..if *state == State::Q { model.n_q_heads } else { model.n_kv_heads } {
                match sample.vectors(*layer, *state, head) {
                    Ok(values) => faults.extend(infinite_fault(&values, &format!("{name} head {head}"))),
                    Err(error) => faults.push(reason(error)),
                }
            }
        }
    }
}

fn reason(error: DumpError) -> String {
    match error {
        DumpError::Inconsistent { what, .. } => what,
        other => other.to_string(),
    }
}

fn infinite_fault(values: &[f32], place: &str) -> Option<String> {
    let bad = values.iter().filter(|x| !x.is_finite()).count();
    (bad > 0).then(|| format!("{place} has {bad} values that are not finite"))
}

fn mass_fault(mass: Result<Vec<f32>, DumpError>, expected: f64, place: &str) -> Option<String> {
    let mass = match mass {
        Ok(mass) => mass,
        Err(error) => return Some(reason(error)),
    };
    if let Some(fault) = infinite_fault(&mass, place) {
        return Some(fault);
    }
    if let Some(negative) = mass.iter().find(|x| **x < 0.0) {
        return Some(format!("{place} has a mass of {negative}"));
    }
    let sum: f64 = mass.iter().map(|x| f64::from(*x)).sum();
    let fits = (sum - expected).abs() <= MASS_TOLERANCE * expected;
    (!fits).then(|| format!("{place} has masses that sum to {sum:.3} where the queries hand out {expected}"))
}

fn positions_fault(sample: &Sample<'_>, layer: usize) -> Option<String> {
    let name = Manifest::tensor_name(layer, State::Q);
    match sample.query_positions(layer) {
        Err(error) => Some(reason(error)),
        Ok(positions) if !positions.is_sorted_by(|a, b| a < b) => {
            Some(format!("the positions of {name} do not rise"))
        }
        Ok(positions) => match sample.shape(&name) {
            Some([_, n, _]) if *n == positions.len() => None,
            _ => Some(format!("{name} has not one query for each of its {} positions", positions.len())),
        },
    }
}
