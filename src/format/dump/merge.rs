//! Joins the shards of a capture to the dump that an unsharded run writes, byte for byte.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;

use crate::files::FileError;
use crate::files::FolderLock;
use crate::files::LOCK_NAME;
use crate::files::copy_hashed;
use crate::files::write_json;
use crate::format::dump::Dump;
use crate::format::dump::DumpError;
use crate::format::dump::Manifest;
use crate::format::dump::SampleEntry;
use crate::format::dump::Shard;
use crate::hint::Hint;

/// Why dumps cannot be joined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// Reading or writing failed.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// There is something at the place of the new dump.
    #[error("{} exists already", path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// A dump of a whole run, or one whose shard cannot be.
    #[error("{} is not a shard of a capture", path.display())]
    NotAShard {
        /// Its folder.
        path: PathBuf,
    },
    /// Shards of different runs.
    #[error("{} was captured with another {what} than {}", path.display(), first.display())]
    OtherRun {
        /// One folder.
        path: PathBuf,
        /// The folder that was given first.
        first: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// A shard was given twice.
    #[error("{} and {} are both shard {number}", path.display(), first.display())]
    Twice {
        /// One folder.
        path: PathBuf,
        /// The folder that was given before.
        first: PathBuf,
        /// The shard, counted from 1.
        number: usize,
    },
    /// A shard was not given.
    #[error("shard {number} of {count} is missing ({given} were given)")]
    Missing {
        /// The first one that is missing, counted from 1.
        number: usize,
        /// Shards of the run.
        count: usize,
        /// Shards given.
        given: usize,
    },
    /// A shard whose capture has not ended.
    #[error("{} has {found} of the {planned} samples of its shard", path.display())]
    Unfinished {
        /// Its folder.
        path: PathBuf,
        /// Samples that belong there and are there.
        found: usize,
        /// Samples that belong there.
        planned: usize,
    },
}

impl From<FileError> for MergeError {
    fn from(error: FileError) -> Self {
        Self::Dump(error.into())
    }
}

impl Hint for MergeError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Dump(error) => return error.hint(),
            Self::Exists { .. } => "choose another folder with --out".into(),
            Self::NotAShard { .. } => "give the folders that `kvscope capture --shard I/N` wrote".into(),
            Self::OtherRun { .. } => {
                "give shards of one run: same model, prompts and options, differing in I only".into()
            }
            Self::Twice { .. } => "give every shard once".into(),
            Self::Missing { number, count, .. } => {
                format!("run the same capture with --shard {number}/{count}, or give its folder too")
            }
            Self::Unfinished { .. } => "run the same capture of that shard with --resume".into(),
        })
    }
}

/// Joins all shards of one run, in any order, to a dump in the new folder `out`.
///
/// The result is byte for byte what the run without shards writes. Every digest is checked. `out` appears when it is whole, or
/// not at all.
///
/// - Errors: anything at `out`; dumps that are no shards, of different runs, given twice, missing, unfinished or changed
pub fn merge(dumps: &[Dump], out: &Path, on_sample: &mut dyn FnMut(&SampleEntry)) -> Result<Manifest, MergeError> {
    if out.symlink_metadata().is_ok() {
        return Err(MergeError::Exists { path: out.into() });
    }
    let manifest = joined(dumps)?;
    let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = out.with_file_name(format!(".{name}.merge.tmp"));
    let mut lock = FolderLock::take(&temporary)?;
    let made = clear(&temporary).map_err(MergeError::from).and_then(|()| fill(dumps, &manifest, &temporary, on_sample));
    let made = made.and_then(|()| Ok(lock.rename_folder(&temporary, out)?));
    if made.is_err() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    made.map(|()| manifest)
}

/// Removes what a killed run left in its temporary folder.
fn clear(dir: &Path) -> Result<(), FileError> {
    for entry in std::fs::read_dir(dir).map_err(|e| FileError::io("list", dir, e))? {
        let entry = entry.map_err(|e| FileError::io("list", dir, e))?;
        if entry.file_name() != LOCK_NAME {
            std::fs::remove_file(entry.path()).map_err(|e| FileError::io("remove", &entry.path(), e))?;
        }
    }
    Ok(())
}

/// The manifest of the whole run.
fn joined(dumps: &[Dump]) -> Result<Manifest, MergeError> {
    let mut by_number: BTreeMap<usize, &Dump> = BTreeMap::new();
    let Some(first) = dumps.first() else {
        return Err(MergeError::Missing { number: 1, count: 1, given: 0 });
    };
    let whole = shard_of(first)?;
    for dump in dumps {
        let shard = shard_of(dump)?;
        if let Some(what) = difference(first.manifest(), dump.manifest()) {
            return Err(MergeError::OtherRun { path: dump.dir().into(), first: first.dir().into(), what });
        }
        if let Some(earlier) = by_number.insert(shard.number, dump) {
            let (path, first) = (dump.dir().into(), earlier.dir().into());
            return Err(MergeError::Twice { path, first, number: shard.number });
        }
    }
    let count = whole.count;
    if let Some(number) = (1..=count).find(|number| !by_number.contains_key(number)) {
        return Err(MergeError::Missing { number, count, given: dumps.len() });
    }
    let (mut samples, mut names) = (Vec::new(), HashSet::from(["manifest.json"]));
    for dump in dumps {
        let shard = shard_of(dump)?;
        let entries = &dump.manifest().samples;
        let indices: HashSet<usize> = entries.iter().map(|entry| entry.index).filter(|i| shard.holds(*i)).collect();
        if indices.len() != shard.n_samples() || entries.len() != indices.len() {
            let (found, planned) = (indices.len(), shard.n_samples());
            return Err(MergeError::Unfinished { path: dump.dir().into(), found, planned });
        }
        if let Some(entry) = entries.iter().find(|entry| !names.insert(&entry.file)) {
            let what = format!("{} is a file of another shard too", entry.file);
            return Err(DumpError::inconsistent(dump.dir(), what).into());
        }
        samples.extend(entries.iter().cloned());
    }
    samples.sort_by_key(|entry| entry.index);
    Ok(Manifest { shard: None, planned_samples: whole.total_samples, samples, ..first.manifest().clone() })
}

fn shard_of(dump: &Dump) -> Result<Shard, MergeError> {
    let shard = dump.manifest().shard.filter(|shard| (1..=shard.count).contains(&shard.number));
    shard.ok_or_else(|| MergeError::NotAShard { path: dump.dir().into() })
}

/// What keeps two manifests from being shards of one run.
fn difference(a: &Manifest, b: &Manifest) -> Option<&'static str> {
    let run = |m: &Manifest| m.shard.map(|shard| (shard.count, shard.total_samples));
    let bare = |m: &Manifest| Manifest { shard: None, planned_samples: 0, samples: Vec::new(), ..m.clone() };
    if a.provenance.tool != b.provenance.tool {
        Some("version of kvscope")
    } else if a.model != b.model {
        Some("model")
    } else if a.provenance.inputs != b.provenance.inputs {
        Some("set of prompts")
    } else if run(a) != run(b) {
        Some("number of shards or samples")
    } else {
        (bare(a) != bare(b)).then_some("set of options")
    }
}

fn fill(
    dumps: &[Dump],
    manifest: &Manifest,
    dir: &Path,
    on_sample: &mut dyn FnMut(&SampleEntry),
) -> Result<(), MergeError> {
    for dump in dumps {
        for entry in &dump.manifest().samples {
            let (from, to) = (dump.dir().join(&entry.file), dir.join(&entry.file));
            let (sha256, _) = copy_hashed(&from, &to)?;
            if sha256 != entry.sha256 {
                return Err(DumpError::Changed { path: from, expected: entry.sha256.clone(), got: sha256 }.into());
            }
            on_sample(entry);
        }
    }
    write_json(&dir.join("manifest.json"), manifest)?;
    Ok(())
}
