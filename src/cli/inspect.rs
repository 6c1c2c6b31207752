//! `kvscope inspect`: what a file is, in words.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;
use serde_json::json;

use crate::cli::Outcome;
use crate::cli::failure::Usage;
use crate::cli::options::Common;
use crate::cli::output::emit;
use crate::cli::output::emit_json;
use crate::cli::output::size;
use crate::dump::Dump;
use crate::model::gguf::Gguf;
use crate::profile::Profile;

/// Show what a dump, profile, GGUF or safetensors file holds
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A dump's folder, a .profile.json, .gguf or .safetensors file
    path: PathBuf,
}

pub(crate) fn run(args: &Args, common: &Common) -> anyhow::Result<Outcome> {
    let path = &args.path;
    let facts = if path.is_dir() {
        of_dump(path)?
    } else {
        match path.extension().and_then(|e| e.to_str()) {
            Some("gguf") => of_gguf(path)?,
            Some("safetensors") => of_safetensors(path)?,
            Some("json") => of_profile(path)?,
            _ => {
                return Err(Usage::error(
                    format!("{} is of no kind that inspect knows", path.display()),
                    "give a dump's folder, or a .profile.json, .gguf or .safetensors file",
                ));
            }
        }
    };
    if common.json {
        emit_json(&facts)?;
    } else {
        let mut text = String::new();
        render(&facts, 0, &mut text);
        emit(&text)?;
    }
    Ok(Outcome::Done)
}

/// An object as indented `key  value` lines; lists of objects as one line each.
fn render(value: &Value, depth: usize, text: &mut String) {
    let Value::Object(fields) = value else { return };
    let width = fields.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in fields {
        let pad = " ".repeat(2 * depth);
        match value {
            Value::Object(_) => {
                text.push_str(&format!("{pad}{key}\n"));
                render(value, depth + 1, text);
            }
            Value::Array(items) if items.iter().any(Value::is_string) => {
                text.push_str(&format!("{pad}{key}\n"));
                for item in items {
                    text.push_str(&format!("{pad}  {}\n", item.as_str().unwrap_or_default()));
                }
            }
            Value::String(word) => text.push_str(&format!("{pad}{key:width$}  {word}\n")),
            other => text.push_str(&format!("{pad}{key:width$}  {other}\n")),
        }
    }
}

fn of_dump(path: &Path) -> anyhow::Result<Value> {
    let dump = Dump::open(path)?;
    let manifest = dump.manifest();
    let mut samples = Vec::new();
    for (i, entry) in manifest.samples.iter().enumerate() {
        dump.sample(i)?;
        samples.push(format!(
            "{}  {} {}  {} tokens  {}",
            entry.file,
            entry.dataset,
            entry.id,
            entry.n_tokens,
            size(entry.bytes)
        ));
    }
    Ok(json!({
        "schema": manifest.schema,
        "model": manifest.model,
        "states": manifest.states.iter().map(|s| s.name()).collect::<Vec<_>>(),
        "layers": manifest.layers.len(),
        "dtype": manifest.dtype,
        "complete": manifest.is_complete(),
        "samples": samples,
    }))
}

fn of_profile(path: &Path) -> anyhow::Result<Value> {
    let profile: Profile = crate::files::read_json(path)?;
    profile.check()?;
    Ok(json!({
        "schema": profile.schema,
        "model": profile.model,
        "policy": profile.policy,
        "rule": profile.rule,
        "shares": profile.shares,
        "target_kept_fraction": profile.target_kept_fraction,
        "calibration_kept_fraction": profile.calibration_kept_fraction,
        "held_out_kept_fraction": profile.held_out_kept_fraction,
        "heads": profile.heads.len(),
        "verdict": profile.verdict,
    }))
}

fn of_gguf(path: &Path) -> anyhow::Result<Value> {
    let gguf = Gguf::open(path)?;
    let tensors: Vec<String> = gguf
        .tensors()
        .iter()
        .map(|(name, info)| format!("{name}  {:?} {:?}  {}", info.dtype, info.shape, size(info.bytes as u64)))
        .collect();
    let keys: Vec<String> = gguf.metadata().iter().map(|(key, value)| format!("{key}  {}", value.kind())).collect();
    Ok(json!({ "format": format!("GGUF version {}", gguf.version()), "metadata": keys, "tensors": tensors }))
}

fn of_safetensors(path: &Path) -> anyhow::Result<Value> {
    let file = std::fs::File::open(path).map_err(|e| crate::files::FileError::io("open", path, e))?;
    #[expect(unsafe_code, reason = "mapping a file; the reader checks every offset against its length")]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| crate::files::FileError::io("map", path, e))?;
    let tensors =
        safetensors::SafeTensors::deserialize(&map).with_context(|| format!("{} is damaged", path.display()))?;
    let mut lines: Vec<String> = tensors
        .tensors()
        .iter()
        .map(|(name, view)| {
            format!("{name}  {:?} {:?}  {}", view.dtype(), view.shape(), size(view.data().len() as u64))
        })
        .collect();
    lines.sort();
    Ok(json!({ "format": "safetensors", "tensors": lines }))
}
