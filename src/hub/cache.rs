//! The folder layout that Hugging Face's own tools share, so that a model is stored once for all of them:
//! `models--ORG--NAME/` with `blobs/ETAG`, `snapshots/COMMIT/FILE` (links to blobs) and `refs/REVISION` (a commit).

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use crate::hub::HubName;
use crate::hub::name::is_hex;
use crate::hub::name::is_safe_path;

/// File that maps tensor names to shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// An index above this size is not one.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The folder of one repository.
#[derive(Clone, Debug)]
pub(crate) struct RepoFolder(PathBuf);

impl RepoFolder {
    pub(crate) fn new(hub: &Path, name: &HubName) -> Self {
        Self(hub.join(format!("models--{}", name.repo.replace('/', "--"))))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.0.join("snapshots").join(commit)
    }

    pub(crate) fn reference(&self, revision: &str) -> PathBuf {
        self.0.join("refs").join(revision)
    }

    /// The commit that a revision stood for when it was last fetched.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        let stored = std::fs::read_to_string(self.reference(revision)).ok();
        let commit = stored.map_or_else(|| revision.to_string(), |text| text.trim().to_string());
        is_hex(&commit, 40).then_some(commit)
    }

    /// What [`crate::hub::resolve`] returns, if every file of it is there.
    pub(crate) fn model(&self, name: &HubName) -> Option<PathBuf> {
        let snapshot = self.snapshot(&self.commit(&name.revision)?);
        if let Some(file) = &name.file {
            return Some(snapshot.join(file)).filter(|path| path.is_file());
        }
        if has_safetensors(&snapshot) {
            return Some(snapshot);
        }
        let mut ggufs = files(&snapshot).into_iter().filter(|file| file.to_ascii_lowercase().ends_with(".gguf"));
        match (ggufs.next(), ggufs.next()) {
            (Some(only), None) => Some(snapshot.join(only)),
            _ => None,
        }
    }
}

fn files(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    entries.flatten().filter(|entry| entry.path().is_file()).map(|e| e.file_name().to_string_lossy().into()).collect()
}

fn has_safetensors(snapshot: &Path) -> bool {
    let present = files(snapshot);
    if !present.contains("config.json") {
        return false;
    }
    if present.contains(INDEX) {
        return shards(&snapshot.join(INDEX)).is_some_and(|shards| shards.iter().all(|s| snapshot.join(s).is_file()));
    }
    present.iter().any(|file| file.ends_with(".safetensors"))
}

/// The shards that an index names, or `None` if it is not a valid index.
pub(crate) fn shards(index: &Path) -> Option<BTreeSet<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    if std::fs::metadata(index).ok()?.len() > MAX_INDEX_BYTES {
        return None;
    }
    let index: Index = serde_json::from_slice(&std::fs::read(index).ok()?).ok()?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    let valid = !shards.is_empty() && shards.iter().all(|s| is_safe_path(s) && s.ends_with(".safetensors"));
    valid.then_some(shards)
}
