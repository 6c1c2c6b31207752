//! Which files of a repository are fetched.

use std::collections::BTreeSet;

use crate::checkpoint::{INDEX, ModelFiles, NoModel, SIDE_FILES, choose, whole};
use crate::hub::name::is_safe_path;
use crate::hub::{HubError, HubName};

/// A model's files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// A GGUF model, which carries everything: one file, or all parts in order.
    Gguf(Vec<String>),
    /// Side files and one safetensors file.
    Single(Vec<String>),
    /// Side files and the index; the shards are known once the index was read.
    Sharded(Vec<String>),
}

/// Chooses among the repository's files: the GGUF file that the name gives, with its other parts, or what [`choose`] takes.
pub(crate) fn select(name: &HubName, siblings: &[String]) -> Result<Selection, HubError> {
    let repo = name.to_string();
    let names: BTreeSet<&str> = siblings.iter().map(String::as_str).filter(|file| is_safe_path(file)).collect();
    if let Some(file) = &name.file {
        let missing = |file: String| HubError::NotFound(format!("file {file} in {repo}"));
        if !names.contains(file.as_str()) {
            return Err(missing(file.clone()));
        }
        return match whole(file, &names) {
            Ok(parts) => Ok(Selection::Gguf(parts)),
            Err(NoModel::MissingPart(part)) => Err(missing(part)),
            Err(other) => Err(HubError::NoWeights { repo, found: other.to_string() }),
        };
    }
    let with_side_files = |file: String| {
        let side = SIDE_FILES.iter().filter(|file| names.contains(**file)).map(|file| file.to_string());
        side.chain([file]).collect()
    };
    match choose(names.iter().copied()) {
        Ok(ModelFiles::Safetensors(file)) => Ok(Selection::Single(with_side_files(file))),
        Ok(ModelFiles::Sharded) => Ok(Selection::Sharded(with_side_files(INDEX.into()))),
        Ok(ModelFiles::Gguf(parts)) => Ok(Selection::Gguf(parts)),
        Err(NoModel::Several(files)) => Err(HubError::SeveralModels { repo, files }),
        Err(other) => Err(HubError::NoWeights { repo, found: other.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint;

    fn choose(name: &str, files: &[&str]) -> Result<Selection, HubError> {
        let siblings: Vec<String> = files.iter().map(|file| file.to_string()).collect();
        select(&HubName::parse(name).unwrap(), &siblings)
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn side_files_come_with_safetensors() {
        let files =
            ["a.gguf", "model.safetensors", "config.json", "tokenizer.json", "added_tokens.json", "x.md", INDEX];
        let expected = ["config.json", "tokenizer.json", "added_tokens.json", "model.safetensors"];
        assert_eq!(choose("o/n", &files).unwrap(), Selection::Single(strings(&expected)));
        let files = ["config.json", INDEX, "model-00001-of-00002.safetensors", "consolidated.safetensors"];
        assert_eq!(choose("o/n", &files).unwrap(), Selection::Sharded(strings(&["config.json", INDEX])));
    }

    #[test]
    fn a_named_file_comes_with_its_other_parts() {
        let files =
            ["config.json", "model.safetensors", "a.gguf", "q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"];
        assert_eq!(choose("o/n:a.gguf", &files).unwrap(), Selection::Gguf(strings(&["a.gguf"])));
        let part = choose("o/n:q/m-00002-of-00002.gguf", &files).unwrap();
        assert_eq!(part, Selection::Gguf(strings(&files[3..])));
        for missing in ["o/n:b.gguf", "o/n:q/m-00001-of-00002.gguf"] {
            assert!(matches!(choose(missing, &files[..4]), Err(HubError::NotFound(_))), "{missing}");
        }
    }

    #[test]
    fn what_cannot_be_decided_is_listed() {
        let error = choose("o/n", &["a.Q4_0.gguf", "a.Q8_0.gguf", "config.json"]).unwrap_err();
        assert_eq!(error.to_string(), "o/n has 2 weight files: a.Q4_0.gguf, a.Q8_0.gguf");
        assert_eq!(error.hint().unwrap(), "choose one, such as o/n:a.Q4_0.gguf");
        let many: Vec<String> = (0..500).map(|i| format!("{i}.gguf")).collect();
        let error = select(&HubName::parse("o/n").unwrap(), &many).unwrap_err().to_string();
        assert!(error.contains("500 weight files") && error.ends_with("488 more") && error.len() < 200, "{error}");
        let error = choose("o/n", &["config.json", "pytorch_model.bin"]).unwrap_err().to_string();
        assert!(error.contains("pickled"), "{error}");
    }
}
