//! `kvscope inspect`: what a file is, in words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::Outcome;
use crate::cli::common::Common;
use crate::cli::failure::{Context, Result, Usage};
use crate::cli::output::{as_saved, emit, emit_json, printable, size};
use crate::files::{Document, ModelIdentity, list, map_file, read_limited};
use crate::format::dump::{Dump, Manifest, Statistics};
use crate::format::profile::Profile;
use crate::format::run::Run;
use crate::format::scorer;
use crate::format::scorer::{Learning, Scorer};
use crate::format::stats;
use crate::format::stats::TableFacts;
use crate::hub;
use crate::hub::HubSettings;
use crate::model::gguf::{Gguf, Value as Metadata};

/// Longest text of a file that is shown, in characters.
const MOST_CHARS: usize = 200;
/// Longest array that is shown item by item.
const MOST_ITEMS: usize = 16;
/// Most fields of an object of a JSON file that are shown, and how deep.
const MOST_FIELDS: usize = 64;
const MOST_DEPTH: usize = 3;
/// A larger JSON file is not read to be looked at or checked.
pub(super) const MAX_JSON_BYTES: u64 = 512 << 20;
/// Keys are padded up to this width.
const KEY_WIDTH: usize = 48;
/// Samples are measured until this much was read: statistics of a large dump need not take minutes.
const MEASURED_BYTES: u64 = 256 << 20;

/// What inspect takes.
const TAKES: &str = "give a folder or file that kvscope wrote, a .gguf or .safetensors file, a model's folder, or the name of a pulled model";
/// Endings of the files that inspect knows.
const ENDINGS: [&str; 5] = ["gguf", "json", "jsonl", "parquet", "safetensors"];

/// Show what a folder or file holds: anything that kvscope writes, or a model
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A folder or file that kvscope wrote, a .gguf or .safetensors file, a model's folder, or a pulled model's name
    #[arg(value_name = "PATH|NAME")]
    path: PathBuf,
}

pub(crate) fn run(args: &Args, common: &Common) -> Result<Outcome> {
    let is_name = !args.path.exists() && !ending(&args.path).is_some_and(|ending| ENDINGS.contains(&ending));
    let path = match args.path.to_str().filter(|_| is_name) {
        Some(name) => hub::resolve(name, &HubSettings::from_env())?,
        None => args.path.clone(),
    };
    let facts = if path.is_dir() { of_folder(&path)? } else { of_file(&path)? };
    if common.json {
        emit_json(&facts)?;
    } else {
        let mut text = String::new();
        render(&facts, 0, &mut text);
        emit(&text)?;
    }
    Ok(Outcome::Done)
}

/// An object as indented `key  value` lines; lists of texts as one line each.
fn render(value: &Value, depth: usize, text: &mut String) {
    let Value::Object(fields) = value else { return };
    let keys: Vec<String> = fields.keys().map(|key| printable(key, MOST_CHARS)).collect();
    let width = keys.iter().map(|key| key.chars().count()).max().unwrap_or(0).min(KEY_WIDTH);
    for (key, value) in keys.iter().zip(fields.values()) {
        let pad = " ".repeat(2 * depth);
        match value {
            Value::Object(_) => {
                text.push_str(&format!("{pad}{key}\n"));
                render(value, depth + 1, text);
            }
            Value::Array(items) if items.iter().any(Value::is_string) => {
                text.push_str(&format!("{pad}{key}\n"));
                for item in items {
                    let item = item.as_str().map_or_else(|| item.to_string(), String::from);
                    text.push_str(&format!("{pad}  {}\n", printable(&item, MOST_CHARS)));
                }
            }
            Value::String(word) => text.push_str(&format!("{pad}{key:width$}  {}\n", printable(word, MOST_CHARS))),
            other => text.push_str(&format!("{pad}{key:width$}  {other}\n")),
        }
    }
}

fn ending(path: &Path) -> Option<&str> {
    path.extension().and_then(|ending| ending.to_str())
}

fn of_file(path: &Path) -> Result<Value> {
    match ending(path) {
        Some("gguf") => of_gguf(path),
        Some("safetensors") => of_safetensors(path),
        Some("json") => of_json(path),
        Some("jsonl") => of_lines(path),
        Some("parquet") => of_table(path),
        _ => Err(Usage::error(format!("{} is of no kind that inspect knows", path.display()), TAKES)),
    }
}

/// A dump, or every file of a folder that inspect knows, by name.
fn of_folder(path: &Path) -> Result<Value> {
    if path.join(Manifest::FILE).exists() {
        return of_dump(path);
    }
    let is_known = |file: &&PathBuf| file.is_file() && ending(file).is_some_and(|ending| ENDINGS.contains(&ending));
    let mut facts = serde_json::Map::new();
    for file in list(path)?.iter().filter(is_known) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        facts.insert(cut(&name), of_file(file)?);
    }
    if facts.is_empty() {
        return Err(Usage::error(format!("{} holds nothing that inspect knows", path.display()), TAKES));
    }
    Ok(facts.into())
}

/// A profile in words; of any other JSON file its numbers and texts, of what is large the size.
fn of_json(path: &Path) -> Result<Value> {
    let text = read_limited(path, "a JSON file", MAX_JSON_BYTES)?;
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    if is_of::<Profile>(&value) { of_profile(path) } else { Ok(outline(&value, 0)) }
}

/// Whether a document says that it is of that kind.
fn is_of<T: Document>(document: &Value) -> bool {
    document["schema"].as_str().is_some_and(|schema| schema.split('/').next() == Some(T::NAME))
}

/// A JSON value down to some depth; long texts lose their middle, lists of more than numbers or words are counted.
fn outline(value: &Value, depth: usize) -> Value {
    match value {
        Value::String(text) => json!(cut(text)),
        Value::Array(items)
            if items.len() <= MOST_ITEMS && items.iter().all(|item| !item.is_object() && !item.is_array()) =>
        {
            items.iter().map(|item| outline(item, depth + 1)).collect()
        }
        Value::Array(items) => json!(format!("{} items", items.len())),
        Value::Object(fields) if depth < MOST_DEPTH && fields.len() <= MOST_FIELDS => fields
            .iter()
            .map(|(key, value)| (cut(key), outline(value, depth + 1)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Object(fields) => json!(format!("{} fields", fields.len())),
        other => other.clone(),
    }
}

/// The number of records, and the first one.
fn of_lines(path: &Path) -> Result<Value> {
    let text = read_limited(path, "JSON lines", MAX_JSON_BYTES)?;
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let first = match lines.next() {
        Some(line) => serde_json::from_slice(line).with_context(|| format!("{}, line 1 is no JSON", path.display()))?,
        None => Value::Null,
    };
    let n = if first.is_null() { 0 } else { lines.count() + 1 };
    Ok(json!({ "lines": n, "first": outline(&first, 0) }))
}

/// What a table says of itself, its columns, and how many rows it has of each metric.
fn of_table(path: &Path) -> Result<Value> {
    let TableFacts { metadata, columns, n_rows, metrics } = stats::facts(path)?;
    let metadata: serde_json::Map<String, Value> =
        metadata.into_iter().map(|(key, text)| (cut(&key), json!(cut(&text)))).collect();
    Ok(
        json!({ "format": "Parquet", "metadata": metadata, "columns": columns, "rows": n_rows, "rows_of_metric": metrics }),
    )
}

fn of_dump(path: &Path) -> Result<Value> {
    let dump = Dump::open(path)?;
    let manifest = dump.manifest();
    let mut samples = Vec::new();
    let mut statistics: Vec<Statistics> = vec![Statistics::default(); manifest.states.len()];
    let (mut bytes, mut n_measured) = (0, 0);
    for (i, entry) in manifest.samples.iter().enumerate() {
        let sample = dump.sample(i)?;
        let generated = match entry.n_tokens.saturating_sub(entry.n_prompt_tokens) {
            0 => String::new(),
            n => format!(", {n} of them generated"),
        };
        samples.push(format!(
            "{}  {} {}  {} tokens{generated}  {}",
            entry.file,
            entry.dataset,
            entry.id,
            entry.n_tokens,
            size(entry.bytes)
        ));
        if bytes < MEASURED_BYTES {
            bytes += entry.bytes;
            n_measured += 1;
            for (state, statistics) in manifest.states.iter().zip(&mut statistics) {
                sample.measure(*state, statistics)?;
            }
        }
    }
    let values: serde_json::Map<String, Value> = manifest
        .states
        .iter()
        .zip(statistics)
        .filter_map(|(state, statistics)| Some((state.name().to_string(), Value::String(line(statistics)?))))
        .collect();
    Ok(json!({
        "schema": manifest.schema,
        "tool": manifest.provenance.tool,
        "model": model(&manifest.model),
        "states": manifest.states.iter().map(|s| s.name()).collect::<Vec<_>>(),
        "values": values,
        "samples_measured": n_measured,
        "layers": manifest.layers.len(),
        "kv_heads": manifest.held_kv_heads().count(),
        "dtype": manifest.dtype,
        "shard": manifest.shard,
        "planned_samples": manifest.planned_samples,
        "complete": manifest.is_complete(),
        "samples": samples,
    }))
}

/// `None` where no number was measured.
fn line(statistics: Statistics) -> Option<String> {
    let [min, max] = statistics.range()?;
    let (mean, rms) = (statistics.mean()?, statistics.rms()?);
    Some(format!("min {min:.4}  mean {mean:.4}  max {max:.4}  rms {rms:.4}"))
}

/// A model as its files have it, of the rotary embeddings' frequencies only the ends, of windows how many layers have each.
fn model(identity: &ModelIdentity) -> Value {
    let ends = |frequencies: &[f32]| match frequencies {
        [first, .., last] => json!(format!("{first} to {last}, {} frequencies", frequencies.len())),
        [one] => json!(one.to_string()),
        [] => Value::Null,
    };
    let mut facts = json!(identity);
    facts["rope_frequencies"] = ends(&identity.rope_frequencies);
    if !identity.local_rope_frequencies.is_empty() {
        facts["local_rope_frequencies"] = ends(&identity.local_rope_frequencies);
    }
    if let Some(windows) = identity.windows_in_words() {
        facts["windows"] = json!(windows);
    }
    facts
}

/// Heads of each policy that some head has.
fn heads_by_setting(profile: &Profile) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    profile.heads.iter().for_each(|head| *counts.entry(profile.setting_of(head)).or_default() += 1);
    counts
}

fn of_profile(path: &Path) -> Result<Value> {
    let profile = Profile::read(path)?;
    let share = |join: fn(f64, f64) -> f64| profile.heads.iter().map(|head| head.kept_fraction).reduce(join);
    Ok(json!({
        "schema": profile.schema,
        "model": model(&profile.model),
        "settings": heads_by_setting(&profile),
        "beside": profile.beside,
        "refit": as_saved(&profile.refit)?,
        "measure": profile.measure,
        "search": profile.search,
        "target_kept_fraction": profile.target_kept_fraction,
        "budget_unit": profile.budget_unit,
        "calibration_kept_fraction": profile.calibration_kept_fraction,
        "held_out_kept_fraction": profile.held_out_kept_fraction,
        "heads": profile.heads.len(),
        "kept_fraction_of_heads": { "least": share(f64::min), "most": share(f64::max) },
        "held_out_kl": profile.held_out_kl,
        "calibration_samples": profile.calibration.len(),
        "held_out_samples": profile.held_out.len(),
        "verdict": profile.verdict,
    }))
}

fn of_gguf(path: &Path) -> Result<Value> {
    let gguf = Gguf::open(path)?;
    let read = gguf
        .tensors()
        .iter()
        .map(|(name, info)| (name, format!("{} {:?}  {}", info.dtype, info.shape, size(info.bytes))));
    let unread =
        gguf.unreadable().iter().map(|(name, dtype)| (name, format!("{dtype}  (a type that kvscope does not read)")));
    let tensors: BTreeMap<&String, String> = read.chain(unread).collect();
    let tensors: Vec<String> = tensors.iter().map(|(name, what)| format!("{}  {what}", cut(name))).collect();
    let metadata: serde_json::Map<String, Value> =
        gguf.metadata().iter().map(|(key, value)| (cut(key), shown(value))).collect();
    Ok(json!({ "format": format!("GGUF version {}", gguf.version()), "metadata": metadata, "tensors": tensors }))
}

/// A metadata value: itself where it is short; a long text without its middle, a long array by its length and kind.
fn shown(value: &Metadata) -> Value {
    fn few<T>(items: &[T], value: &Metadata, show: impl Fn(&T) -> Value) -> Value {
        if items.len() > MOST_ITEMS {
            return json!(format!("{}, {} items", value.kind(), items.len()));
        }
        items.iter().map(show).collect()
    }
    // JSON has no number for what is none; one of 32 bits has fewer digits than it gets in 64.
    let real = |x: &f64| match (x.is_finite(), f64::from(*x as f32) == *x) {
        (false, _) => json!(x.to_string()),
        (true, true) => json!((*x as f32).to_string().parse::<f64>().unwrap_or(*x)),
        (true, false) => json!(x),
    };
    match value {
        Metadata::U64(n) => json!(n),
        Metadata::I64(n) => json!(n),
        Metadata::F64(x) => real(x),
        Metadata::Bool(flag) => json!(flag),
        Metadata::String(text) => json!(cut(text)),
        Metadata::NotUtf8 => json!(value.kind()),
        Metadata::U64s(items) => few(items, value, |n| json!(n)),
        Metadata::I64s(items) => few(items, value, |n| json!(n)),
        Metadata::F64s(items) => few(items, value, real),
        Metadata::Bools(items) => few(items, value, |flag| json!(flag)),
        Metadata::Strings(items) => few(items, value, |text| json!(cut(text))),
        Metadata::Arrays(items) => few(items, value, shown),
    }
}

/// A text without its middle where it is long; control characters stay for JSON, which has its own escapes.
fn cut(text: &str) -> String {
    if text.chars().nth(MOST_CHARS).is_some() { printable(text, MOST_CHARS) } else { text.into() }
}

fn of_scorer(path: &Path) -> Result<Value> {
    let Scorer { learning, file, .. } = Scorer::read(path)?;
    let r2 = |join: fn(f64, f64) -> f64| learning.held_out_r2.iter().copied().flatten().reduce(join);
    Ok(json!({
        "schema": learning.schema,
        "sha256": file.sha256,
        "model": model(&learning.model),
        "hidden_size": learning.hidden_size,
        "chat_template": learning.chat_template,
        "lambda": learning.lambda,
        "held_out_r2_of_layers": { "least": r2(f64::min), "most": r2(f64::max) },
        "calibration_samples": learning.calibration.len(),
        "held_out_samples": learning.held_out.len(),
    }))
}

fn of_safetensors(path: &Path) -> Result<Value> {
    let map = map_file(path)?;
    let damaged = || format!("{} is damaged", path.display());
    let tensors = safetensors::SafeTensors::deserialize(&map).with_context(damaged)?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&map).with_context(damaged)?;
    let words = header.metadata().iter().flatten();
    let document =
        words.clone().find(|(key, _)| *key == scorer::WORD).and_then(|(_, word)| serde_json::from_str(word).ok());
    if document.as_ref().is_some_and(is_of::<Learning>) {
        return of_scorer(path);
    }
    let metadata: serde_json::Map<String, Value> =
        words.map(|(key, word)| (cut(key), json!(cut(word)))).collect::<BTreeMap<_, _>>().into_iter().collect();
    let mut lines: Vec<String> = tensors
        .tensors()
        .iter()
        .map(|(name, view)| {
            format!("{}  {:?} {:?}  {}", cut(name), view.dtype(), view.shape(), size(view.data().len() as u64))
        })
        .collect();
    lines.sort();
    let mut facts = json!({ "format": "safetensors", "metadata": metadata, "tensors": lines });
    if let Some(document) = document {
        facts["document"] = outline(&document, 0);
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_shown_short() {
        assert_eq!(shown(&Metadata::U64(777)), json!(777));
        assert_eq!(shown(&Metadata::F64(f64::NAN)), json!("NaN"));
        assert_eq!((shown(&Metadata::F64(f64::from(1e-5f32))), shown(&Metadata::F64(0.1))), (json!(1e-5), json!(0.1)));
        assert_eq!(shown(&Metadata::F64s(vec![0.5, f64::INFINITY])), json!([0.5, "inf"]));
        assert_eq!(shown(&Metadata::U64s(vec![1; 17])), json!("an array of unsigned integers, 17 items"));
        let Value::String(text) = shown(&Metadata::String("x".repeat(5000))) else { panic!() };
        assert_eq!(text.chars().count(), MOST_CHARS);
    }

    #[test]
    fn no_name_is_too_long_and_none_acts_on_the_terminal() {
        let mut text = String::new();
        let long = "k".repeat(70_000);
        let facts = json!({ long: { "\x1b[2J": "a\nerror: b" }, "list": ["a", "\x07", null] });
        render(&facts, 0, &mut text);
        assert!(text.lines().all(|line| line.chars().count() <= 2 * MOST_CHARS), "{text}");
        assert!(text.contains(r"\u{1b}[2J  a\nerror: b") && text.contains(r"\u{7}") && text.contains("null"), "{text}");
    }
}
