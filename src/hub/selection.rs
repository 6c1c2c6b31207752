//! Which files of a repository make up a model.

use crate::hub::HubError;
use crate::hub::HubName;
use crate::hub::cache::INDEX;
use crate::hub::name::is_safe_path;

/// Files beside the weights, fetched where the repository has them.
const SIDE_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// A model's files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// One GGUF file, which carries everything.
    Gguf(String),
    /// Side files and one safetensors file.
    Single(Vec<String>),
    /// Side files and the index; the shards are known once the index was read.
    Sharded(Vec<String>),
}

/// Chooses among the repository's files.
///
/// The file that the name gives; else safetensors (index, then `model.safetensors`, then the only one), else the only GGUF.
pub(crate) fn select(name: &HubName, siblings: &[String]) -> Result<Selection, HubError> {
    let repo = name.to_string();
    let has = |file: &str| siblings.iter().any(|sibling| sibling == file);
    if let Some(file) = &name.file {
        return match has(file) {
            true => Ok(Selection::Gguf(file.clone())),
            false => Err(HubError::NotFound { what: format!("file {file} in {repo}") }),
        };
    }
    let ending = |ending: &str| -> Vec<String> {
        let matches = |s: &&String| s.to_ascii_lowercase().ends_with(ending) && is_safe_path(s);
        siblings.iter().filter(matches).cloned().collect()
    };
    // Adapters are no models, and folders hold other variants.
    let mut weights = ending(".safetensors");
    weights.retain(|file| !file.contains('/') && !file.starts_with("adapter_"));
    let side = || SIDE_FILES.iter().filter(|file| has(file)).map(|file| file.to_string());
    if !weights.is_empty() {
        if !has("config.json") {
            return Err(HubError::NoWeights { repo, found: "safetensors but no config.json".into() });
        }
        if has(INDEX) {
            return Ok(Selection::Sharded(side().chain([INDEX.to_string()]).collect()));
        }
        let whole = weights.iter().find(|file| *file == "model.safetensors").cloned();
        return match (whole, weights.as_slice()) {
            (Some(file), _) => Ok(Selection::Single(side().chain([file]).collect())),
            (None, [only]) => Ok(Selection::Single(side().chain([only.clone()]).collect())),
            (None, _) => Err(HubError::SeveralModels { repo, files: weights }),
        };
    }
    let ggufs = ending(".gguf");
    match ggufs.as_slice() {
        [only] => Ok(Selection::Gguf(only.clone())),
        [] => {
            let pickled = siblings.iter().any(|s| [".bin", ".pt", ".pth", ".ckpt"].iter().any(|e| s.ends_with(e)));
            let found = match pickled {
                true => "only pickled weights, which can run code when they are loaded",
                false => "neither safetensors nor GGUF weights",
            };
            Err(HubError::NoWeights { repo, found: found.into() })
        }
        _ => Err(HubError::SeveralModels { repo, files: ggufs }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(name: &str, files: &[&str]) -> Result<Selection, HubError> {
        let siblings: Vec<String> = files.iter().map(|file| file.to_string()).collect();
        select(&HubName::parse(name).unwrap(), &siblings)
    }

    #[test]
    fn safetensors_come_before_gguf_and_pickles() {
        let files = ["pytorch_model.bin", "a.gguf", "model.safetensors", "config.json", "tokenizer.json", "x.md"];
        let expected = ["config.json", "tokenizer.json", "model.safetensors"].map(String::from).to_vec();
        assert_eq!(choose("o/n", &files).unwrap(), Selection::Single(expected));
        assert_eq!(choose("o/n:a.gguf", &files).unwrap(), Selection::Gguf("a.gguf".into()));
        assert!(matches!(choose("o/n:b.gguf", &files), Err(HubError::NotFound { .. })));
    }

    #[test]
    fn an_index_decides_over_other_weights() {
        let files = ["config.json", INDEX, "model-00001-of-00002.safetensors", "consolidated.safetensors"];
        let expected = ["config.json", INDEX].map(String::from).to_vec();
        assert_eq!(choose("o/n", &files).unwrap(), Selection::Sharded(expected));
    }

    #[test]
    fn what_cannot_be_decided_is_listed() {
        let error = choose("o/n", &["a.Q4_0.gguf", "a.Q8_0.gguf", "config.json"]).unwrap_err();
        assert_eq!(error.to_string(), "o/n has 2 weight files: a.Q4_0.gguf, a.Q8_0.gguf");
        assert_eq!(error.hint().unwrap(), "choose one, such as o/n:a.Q4_0.gguf");
        assert!(matches!(
            choose("o/n", &["config.json", "a.safetensors", "b.safetensors"]),
            Err(HubError::SeveralModels { .. })
        ));
    }

    #[test]
    fn pickles_are_refused_by_name() {
        let error = choose("o/n", &["config.json", "pytorch_model.bin"]).unwrap_err().to_string();
        assert!(error.contains("pickled"), "{error}");
        let adapter = choose("o/n", &["config.json", "adapter_model.safetensors", "sub/model.safetensors"]);
        assert!(matches!(adapter, Err(HubError::NoWeights { .. })));
    }
}
