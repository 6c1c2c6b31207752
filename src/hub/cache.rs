//! The folder layout that Hugging Face's own tools share, so that a model is stored once for all of them:
//! `models--ORG--NAME/` with `blobs/ETAG`, `snapshots/COMMIT/FILE` (links to blobs) and `refs/REVISION` (a commit).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::checkpoint::{INDEX, MAX_INDEX_BYTES, ModelFiles, Part, choose, shards};
use crate::files::read_limited;
use crate::hub::HubName;
use crate::hub::name::is_hex;

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
        let is_there = |file: &str| snapshot.join(file).is_file();
        let first_of = |parts: Vec<String>| {
            let all_there = parts.iter().all(|part| is_there(part));
            parts.first().filter(|_| all_there).map(|first| snapshot.join(first))
        };
        if let Some(file) = &name.file {
            return first_of(Part::of(file).map_or_else(|| vec![file.clone()], |part| part.all()));
        }
        let present = files(&snapshot);
        match choose(present.iter().map(String::as_str)).ok()? {
            ModelFiles::Gguf(parts) => first_of(parts),
            ModelFiles::Safetensors(_) => Some(snapshot),
            ModelFiles::Sharded => {
                let shards = read_index(&snapshot.join(INDEX)).ok()?;
                shards.iter().all(|shard| is_there(shard)).then_some(snapshot)
            }
        }
    }
}

fn files(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    entries.flatten().filter(|entry| entry.path().is_file()).map(|e| e.file_name().to_string_lossy().into()).collect()
}

/// The shards that an index names.
///
/// - Errors: what the folder has instead of an index, as a phrase
pub(crate) fn read_index(index: &Path) -> Result<BTreeSet<String>, String> {
    let text = read_limited(index, "index", MAX_INDEX_BYTES).map_err(|error| format!("no readable index: {error}"))?;
    shards(&text)
}
