//! Whether a dump is what its manifest says and what a model can have produced.

use crate::dump::Dump;
use crate::dump::DumpError;
use crate::dump::ElementType;
use crate::dump::Manifest;
use crate::dump::Sample;
use crate::dump::State;
use crate::dump::TokenClass;
use crate::files::sha256_file;

/// Faults of the manifest itself, each in words; empty when there is none.
///
/// [`Dump::open`] has refused what no reader could use; this finds contradictions that it lets pass.
pub fn manifest_faults(manifest: &Manifest) -> Vec<String> {
    let mut faults = Vec::new();
    if !manifest.layers.is_sorted_by(|a, b| a < b) {
        faults.push(format!("layers {:?} do not rise", manifest.layers));
    }
    if !manifest.states.is_sorted_by(|a, b| a < b) {
        faults.push("states are not sorted, or one is there twice".into());
    }
    if manifest.dtype == ElementType::I64 {
        faults.push("states cannot have element type i64".into());
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
        if shard.n_samples() != manifest.planned_samples {
            let (number, count) = (shard.number, shard.count);
            let (has, planned) = (shard.n_samples(), manifest.planned_samples);
            faults.push(format!("shard {number} of {count} has {has} samples, not the {planned} planned"));
        }
        let stray = manifest.samples.iter().find(|entry| !shard.holds(entry.index));
        faults.extend(stray.map(|entry| format!("sample {} does not belong to the shard", entry.index)));
    }
    for entry in &manifest.samples {
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

/// Faults of sample `index`, each in words; empty when there is none.
///
/// Checks its digest, shapes and element types, that numbers are finite, token ids and query positions possible, and
/// the masses: a query gives 1 in all to the tokens up to its own, so the group of query heads of a KV head gives
/// group · T over all queries and group · min(window, T) over the window, and token t gets group · (T - t) at most.
///
/// - Memory: one head at a time
pub fn sample_faults(dump: &Dump, index: usize) -> Vec<String> {
    let mut faults = Vec::new();
    if let Err(error) = find_sample_faults(dump, index, &mut faults) {
        faults.push(error.to_string());
    }
    faults
}

fn find_sample_faults(dump: &Dump, index: usize, faults: &mut Vec<String>) -> Result<(), DumpError> {
    let sample = dump.sample(index)?;
    let got = sha256_file(sample.path())?;
    let expected = &sample.entry().sha256;
    if got != *expected {
        faults.push(format!("SHA-256 is {got:.12}… where the manifest says {expected:.12}…"));
    }
    sample.token_ids()?;
    let manifest = dump.manifest();
    for layer in &manifest.layers {
        for state in &manifest.states {
            let name = Manifest::tensor_name(*layer, *state);
            let wanted = if *state == State::Mass { ElementType::F32 } else { manifest.dtype };
            let names = if *state == State::Mass { vec![name.clone(), format!("{name}_window")] } else { vec![name] };
            for name in names {
                let got = sample.element_type(&name)?;
                if got != wanted.safetensors_name() {
                    faults.push(format!("{name} is {got} where {} is due", wanted.safetensors_name()));
                }
            }
            match state {
                State::Mass => mass_faults(&sample, manifest, *layer, faults)?,
                State::Q => {
                    query_faults(&sample, manifest, *layer, faults)?;
                    finite_faults(&sample, manifest, *layer, *state, faults)?;
                }
                _ => finite_faults(&sample, manifest, *layer, *state, faults)?,
            }
        }
    }
    Ok(())
}

fn query_faults(
    sample: &Sample<'_>,
    manifest: &Manifest,
    layer: usize,
    faults: &mut Vec<String>,
) -> Result<(), DumpError> {
    let positions = sample.query_positions(layer)?;
    if !positions.is_sorted_by(|a, b| a < b) {
        faults.push(format!("layers.{layer}.q_positions do not rise"));
    }
    let first = manifest.held_heads(State::Q).next().unwrap_or(0);
    let n_queries = sample.vectors(layer, State::Q, first)?.len() / sample.head_dim();
    if positions.len() != n_queries {
        faults.push(format!("layers.{layer}.q has {n_queries} queries at {} positions", positions.len()));
    }
    Ok(())
}

fn finite_faults(
    sample: &Sample<'_>,
    manifest: &Manifest,
    layer: usize,
    state: State,
    faults: &mut Vec<String>,
) -> Result<(), DumpError> {
    for head in manifest.held_heads(state) {
        let vectors = sample.vectors(layer, state, head)?;
        if let Some(at) = vectors.iter().position(|x| !x.is_finite()) {
            let (name, row) = (Manifest::tensor_name(layer, state), at / sample.head_dim());
            faults.push(format!("{name} has {} in row {row} of head {head}", vectors[at]));
        }
    }
    Ok(())
}

fn mass_faults(
    sample: &Sample<'_>,
    manifest: &Manifest,
    layer: usize,
    faults: &mut Vec<String>,
) -> Result<(), DumpError> {
    let n_tokens = sample.entry().n_tokens;
    let group = manifest.model.group() as f64;
    // Masses are f32 whatever the states are, but another program may have summed probabilities of the states' type.
    let tolerance = if manifest.dtype == ElementType::Bf16 { 1e-2 } else { 2e-3 };
    for head in manifest.held_kv_heads() {
        let whole = sample.mass(layer, head)?;
        let window = sample.mass_window(layer, head)?;
        let n_window = manifest.window_tokens.min(n_tokens);
        for (what, mass, n_queries) in [("", &whole, n_tokens), ("_window", &window, n_window)] {
            let name = format!("layers.{layer}.attn_mass{what}");
            if let Some(t) = mass.iter().position(|m| !(m.is_finite() && *m >= 0.0)) {
                faults.push(format!("{name} has {} at token {t} of head {head}", mass[t]));
                continue;
            }
            let (sum, due) = (mass.iter().map(|m| f64::from(*m)).sum::<f64>(), group * n_queries as f64);
            if (sum - due).abs() > tolerance * due {
                faults.push(format!("{name} of head {head} sums to {sum:.4}, not to {due}: group x queries"));
            }
            let most = |t: usize| group * n_queries.min(n_tokens - t) as f64 * (1.0 + tolerance);
            if let Some(t) = (0..mass.len().min(n_tokens)).find(|t| f64::from(mass[*t]) > most(*t)) {
                faults.push(format!("{name} has {} at token {t} of head {head}: too few queries see it", mass[t]));
            }
        }
    }
    Ok(())
}
