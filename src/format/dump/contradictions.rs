//! Whether a manifest contradicts itself.

use std::collections::HashSet;
use std::path::Path;

use crate::format::dump::{Manifest, State, TokenClass};
use crate::format::run::Run;

/// More heads or dimensions than any model has: what a stranger claims must not make a loop endless.
const MAX_COUNT: usize = 1 << 16;

/// Contradictions of a manifest, each in words; empty when there is none.
pub fn manifest_faults(manifest: &Manifest) -> Vec<String> {
    let mut faults = Vec::new();
    let model = &manifest.model;
    let (n_q_heads, n_kv_heads, head_dim) = (model.n_q_heads, model.n_kv_heads, model.head_dim);
    let counts = [n_q_heads, n_kv_heads, head_dim];
    if counts.iter().any(|n| !(1..=MAX_COUNT).contains(n)) || !n_q_heads.is_multiple_of(n_kv_heads) {
        faults.push(format!("no model has {n_q_heads} query heads, {n_kv_heads} KV heads of dimension {head_dim}"));
        // What follows loops over them.
        return faults;
    }
    faults.extend(model.layer_fault());
    if !manifest.layers.is_sorted_by(|a, b| a < b) {
        faults.push("the layers do not rise".into());
    }
    if let Some(layer) = manifest.layers.iter().find(|layer| **layer >= model.n_layers) {
        faults.push(format!("layer {layer} of a model of {} layers", model.n_layers));
    }
    if let Some(heads) = &manifest.kv_heads {
        let is_fit = !heads.is_empty() && heads.is_sorted_by(|a, b| a < b);
        if !is_fit || heads.iter().any(|head| *head >= n_kv_heads) {
            faults.push(format!("kv_heads {heads:?} do not rise within the model's {n_kv_heads}"));
        }
    }
    if !manifest.states.is_sorted_by(|a, b| a < b) {
        faults.push("states are not sorted, or one is there twice".into());
    }
    if manifest.states.contains(&State::Mass) && manifest.window_tokens == 0 {
        faults.push("the window of queries has 0 tokens".into());
    }
    let letters = manifest.token_classes.as_deref().unwrap_or_default();
    if let Some(at) = letters.bytes().position(|letter| TokenClass::from_letter(letter).is_none()) {
        faults.push(format!("token {at} has no class that is known"));
    }
    if manifest.samples.len() > manifest.planned_samples {
        faults.push(format!("{} samples where {} were planned", manifest.samples.len(), manifest.planned_samples));
    }
    if !manifest.samples.is_sorted_by(|a, b| a.index < b.index) {
        faults.push("sample indices do not rise".into());
    }
    if let Some(shard) = manifest.shard {
        let (number, count) = (shard.number, shard.count);
        if shard.n_samples() != manifest.planned_samples {
            let (has, planned) = (shard.n_samples(), manifest.planned_samples);
            faults.push(format!("shard {number} of {count} has {has} samples, not the {planned} planned"));
        }
        let stray = manifest.samples.iter().find(|entry| !shard.holds(entry.index));
        faults.extend(stray.map(|entry| format!("sample {} does not belong to the shard", entry.index)));
    }
    let mut names = HashSet::new();
    for entry in &manifest.samples {
        // A name from a stranger must not lead out of the folder.
        let is_plain = Path::new(&entry.file).components().count() == 1
            && Path::new(&entry.file).file_name().is_some_and(|name| name == entry.file.as_str())
            && !entry.file.starts_with('.')
            && entry.file != Manifest::FILE;
        if !is_plain || !names.insert(&entry.file) {
            faults.push(format!("sample file name {:?} is not a plain, unique name", entry.file));
        }
        if entry.n_tokens == 0 || entry.n_prompt_tokens > entry.n_tokens || entry.n_prompt_tokens > entry.n_tokens_full
        {
            faults.push(format!(
                "sample {} has {} tokens, {} of its prompt's {}",
                entry.index, entry.n_tokens, entry.n_prompt_tokens, entry.n_tokens_full
            ));
        }
    }
    faults
}
