//! Which files of a folder, repository or cache are the model, and what a model is called.
//!
//! Names in, names out: nothing is opened here, so that what is fetched, what is found in a cache and what is loaded follow one
//! rule. The rule is transformers': `model.safetensors` before an index, an index before anything else.

mod head;
mod parts;

pub(crate) use head::instead_of_weights;
pub use parts::Part;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// File that maps tensor names to shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// An index above this size is not one.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Settings of the model, without which safetensors mean nothing.
pub const CONFIG: &str = "config.json";

/// The one safetensors file that is looked for first.
const WHOLE: &str = "model.safetensors";

/// Files beside the weights that a model may have.
pub const SIDE_FILES: &[&str] = &[
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// The files that hold a model's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelFiles {
    /// One safetensors file.
    Safetensors(String),
    /// The shards that [`INDEX`] names.
    Sharded,
    /// A GGUF model: one file, or all its parts in order.
    Gguf(Vec<String>),
}

/// Why the files are not one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoModel {
    /// Safetensors without [`CONFIG`].
    NoConfig,
    /// Several models; the first file of each.
    Several(Vec<String>),
    /// A part of a split GGUF model is not there.
    MissingPart(String),
    /// Nothing but an adapter to another model.
    Adapter,
    /// Nothing but pickles.
    Pickled,
    /// No weights at all.
    Nothing,
}

impl std::fmt::Display for NoModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoConfig => write!(f, "safetensors but no {CONFIG}"),
            Self::Several(files) => write!(f, "{} weight files: {}", files.len(), files.join(", ")),
            Self::MissingPart(file) => write!(f, "a split GGUF model without its part {file}"),
            Self::Adapter => f.write_str("only an adapter (LoRA), which is no model without the one it adapts"),
            Self::Pickled => f.write_str("only pickled weights, which can run code when they are loaded"),
            Self::Nothing => f.write_str("neither safetensors nor GGUF weights"),
        }
    }
}

/// Chooses a model's weights among the names of a folder or repository, paths with `/`.
///
/// Safetensors count in the folder itself only, as subfolders hold other variants: `model.safetensors`, else the shards of the
/// index, else the only file. Without any, the only GGUF model is taken.
pub fn choose<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<ModelFiles, NoModel> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let ending =
        |ending: &'static str| names.iter().copied().filter(move |name| name.to_ascii_lowercase().ends_with(ending));
    let safetensors: Vec<&str> = ending(".safetensors").filter(|name| !name.contains('/')).collect();
    let (adapters, weights): (Vec<&str>, Vec<&str>) =
        safetensors.into_iter().partition(|name| name.starts_with("adapter_"));
    if !weights.is_empty() || names.contains(INDEX) {
        if !names.contains(CONFIG) {
            return Err(NoModel::NoConfig);
        }
        return match weights.as_slice() {
            _ if names.contains(WHOLE) => Ok(ModelFiles::Safetensors(WHOLE.into())),
            _ if names.contains(INDEX) => Ok(ModelFiles::Sharded),
            [only] => Ok(ModelFiles::Safetensors((*only).into())),
            several => Err(NoModel::Several(several.iter().map(|name| name.to_string()).collect())),
        };
    }
    let mut models = BTreeMap::<&str, &str>::new();
    for name in ending(".gguf") {
        models.entry(Part::of(name).map_or(name, |part| part.stem)).or_insert(name);
    }
    let firsts: Vec<&str> = models.into_values().collect();
    match firsts.as_slice() {
        [only] => whole(only, &names).map(ModelFiles::Gguf),
        [] if !adapters.is_empty() => Err(NoModel::Adapter),
        [] if [".bin", ".pt", ".pth", ".ckpt"].into_iter().any(|pickle| ending(pickle).next().is_some()) => {
            Err(NoModel::Pickled)
        }
        [] => Err(NoModel::Nothing),
        several => Err(NoModel::Several(several.iter().map(|name| name.to_string()).collect())),
    }
}

/// All parts of the model that a GGUF file belongs to, in order: itself, if it is no part.
///
/// - Errors: [`NoModel::MissingPart`] when one is not among the names
pub fn whole(file: &str, names: &BTreeSet<&str>) -> Result<Vec<String>, NoModel> {
    let parts = Part::of(file).map_or_else(|| vec![file.to_string()], |part| part.all());
    match parts.iter().find(|part| !names.contains(part.as_str())) {
        Some(missing) => Err(NoModel::MissingPart(missing.clone())),
        None => Ok(parts),
    }
}

/// The shards that an index names.
///
/// - Errors: what is wrong with it, as a phrase that follows "has"
pub fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|e| format!("a damaged {INDEX}: {e}"))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|shard| !is_shard(shard)) {
        Some(other) => Err(format!("a {INDEX} that names {}, which is no safetensors file beside it", brief(other))),
        None if shards.is_empty() => Err(format!("a {INDEX} that names no file")),
        None => Ok(shards),
    }
}

/// A name out of a stranger's file, as it is shown in a message: in quotes, escaped, not too long.
pub fn brief(name: &str) -> String {
    const MOST: usize = 80;
    match name.char_indices().nth(MOST) {
        Some((end, _)) => format!("{:?}...", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// Whether an index may name this file: one beside it, never one elsewhere.
fn is_shard(name: &str) -> bool {
    let is_plain = |c: char| !matches!(c, '/' | '\\') && !c.is_control();
    name.ends_with(".safetensors") && name.len() <= 255 && !name.starts_with('.') && name.chars().all(is_plain)
}

/// What a model is called: its folder's whole name, a GGUF file's name without `.gguf` and without the number of its part, or
/// the repository's name where the folder is a snapshot in the hub's cache (`models--ORG--NAME/snapshots/COMMIT`).
pub fn model_name(path: &Path) -> String {
    let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    let absolute = path.file_name().is_none().then(|| path.canonicalize().ok()).flatten();
    let path = absolute.as_deref().unwrap_or(path);
    let name = path.file_name().map_or_else(|| "model".into(), text);
    if name.to_ascii_lowercase().ends_with(".gguf") {
        let stem = Part::of(&name).map_or(&name[..name.len() - ".gguf".len()], |part| part.stem);
        return stem.to_string();
    }
    let in_snapshots = path.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"));
    let repository = in_snapshots.and_then(Path::parent).and_then(Path::file_name).map(text);
    let repository = repository.as_deref().and_then(|folder| folder.strip_prefix("models--"));
    repository.and_then(|repository| repository.rsplit("--").next()).map_or(name, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safetensors(name: &str) -> Result<ModelFiles, NoModel> {
        Ok(ModelFiles::Safetensors(name.into()))
    }

    fn gguf(names: &[&str]) -> Result<ModelFiles, NoModel> {
        Ok(ModelFiles::Gguf(names.iter().map(|name| name.to_string()).collect()))
    }

    #[test]
    fn a_whole_file_comes_before_an_index_and_an_index_before_the_rest() {
        let files = ["config.json", WHOLE, INDEX, "model-00001-of-00002.safetensors", "a.gguf", "pytorch_model.bin"];
        assert_eq!(choose(files), safetensors(WHOLE));
        assert_eq!(choose(["config.json", INDEX, "consolidated.safetensors"]), Ok(ModelFiles::Sharded));
        assert_eq!(choose(["config.json", INDEX]), Ok(ModelFiles::Sharded));
        assert_eq!(choose(["config.json", "pytorch_model.safetensors", "adapter_model.safetensors"]), {
            safetensors("pytorch_model.safetensors")
        });
        let several = vec!["a.safetensors".to_string(), "b.safetensors".into()];
        assert_eq!(choose(["config.json", "b.safetensors", "a.safetensors"]), Err(NoModel::Several(several)));
        assert_eq!(choose([WHOLE, "tokenizer.json"]), Err(NoModel::NoConfig));
    }

    #[test]
    fn gguf_models_are_counted_by_model_and_not_by_file() {
        assert_eq!(choose(["config.json", "sub/a.GGUF"]), gguf(&["sub/a.GGUF"]));
        let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        assert_eq!(choose([parts[1], parts[0], "README.md"]), gguf(&parts));
        assert_eq!(choose([parts[1]]), Err(NoModel::MissingPart(parts[0].into())));
        let several = vec!["a.gguf".to_string(), parts[0].into()];
        assert_eq!(choose([parts[1], parts[0], "a.gguf"]), Err(NoModel::Several(several)));
        let names = BTreeSet::from(parts);
        assert_eq!(whole(parts[1], &names).unwrap(), parts);
        assert_eq!(whole("x.gguf", &BTreeSet::from(["x.gguf"])).unwrap(), ["x.gguf"]);
    }

    #[test]
    fn what_is_no_model_is_told_apart() {
        assert_eq!(
            choose(["config.json", "adapter_model.safetensors", "sub/model.safetensors"]),
            Err(NoModel::Adapter)
        );
        assert_eq!(choose(["config.json", "pytorch_model.bin"]), Err(NoModel::Pickled));
        assert_eq!(choose(["README.md"]), Err(NoModel::Nothing));
    }

    #[test]
    fn an_index_names_files_beside_it() {
        let map =
            |shard: &str| shards(serde_json::json!({"weight_map": {"a": shard, "b": shard}}).to_string().as_bytes());
        assert_eq!(map("model-1.safetensors").unwrap().len(), 1);
        for outside in ["../x.safetensors", "/x.safetensors", "a\\x.safetensors", "", ".", INDEX, "a\0.safetensors"] {
            assert!(map(outside).unwrap_err().contains("beside it"), "{outside:?}");
        }
        for (text, expected) in [("", "damaged"), ("{}", "weight_map"), (r#"{"weight_map": {}}"#, "names no file")] {
            assert!(shards(text.as_bytes()).unwrap_err().contains(expected), "{text}");
        }
    }

    #[test]
    fn models_keep_their_whole_names() {
        let of = |path: &str| model_name(Path::new(path));
        assert_eq!(of("models/Llama-3.2-1B-Instruct/"), "Llama-3.2-1B-Instruct");
        assert_eq!(of("SmolLM2-135M-Instruct.Q4_1.gguf"), "SmolLM2-135M-Instruct.Q4_1");
        assert_eq!(of("a/m-00001-of-00003.gguf"), "m");
        let snapshot = "hub/models--org--Tiny-Model/snapshots/0123456789abcdef0123456789abcdef01234567";
        assert_eq!(of(snapshot), "Tiny-Model");
        assert_eq!(of(&format!("{snapshot}/x.Q8_0.GGUF")), "x.Q8_0");
        assert_eq!(of("photos/snapshots/2024"), "2024");
        assert_eq!(of("."), std::env::current_dir().unwrap().file_name().unwrap().to_str().unwrap());
    }
}
