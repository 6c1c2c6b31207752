//! Joins the shards of a capture to the dump that an unsharded run writes, byte for byte.

use std::collections::HashSet;
use std::path::Path;

use crate::files::{FileError, FolderLock, LOCK_NAME, copy_hashed, write_json};
use crate::format::dump::{Dump, DumpError, Manifest, SampleEntry};
use crate::format::join::{JoinError, whole_run};
use crate::format::run::Run;

/// Joins all shards of one run, in any order, to a dump in the new folder `out`.
///
/// The result is byte for byte what the run without shards writes. Every digest is checked. `out` appears when it is whole, or
/// not at all.
///
/// - Errors: anything at `out`; dumps that are no shards, of different runs, given twice, missing, unfinished or changed
pub fn join(dumps: &[Dump], out: &Path, on_sample: &mut dyn FnMut(&SampleEntry)) -> Result<Manifest, JoinError> {
    let parts: Vec<_> = dumps.iter().map(|dump| (dump.dir(), dump.manifest())).collect();
    let mut manifest = whole_run(&parts, out)?;
    manifest.samples = samples(dumps)?;
    let name = out.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = out.with_file_name(format!(".{name}.join.tmp"));
    let mut lock = FolderLock::take(&temporary)?;
    let made = clear(&temporary).map_err(JoinError::from).and_then(|()| fill(dumps, &manifest, &temporary, on_sample));
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

/// The samples of all shards, by rising index.
fn samples(dumps: &[Dump]) -> Result<Vec<SampleEntry>, DumpError> {
    let (mut samples, mut names) = (Vec::new(), HashSet::new());
    for dump in dumps {
        let entries = &dump.manifest().samples;
        if let Some(entry) = entries.iter().find(|entry| !names.insert(&entry.file)) {
            let what = format!("{} is a file of another shard too", entry.file);
            return Err(DumpError::inconsistent(dump.dir(), what));
        }
        samples.extend(entries.iter().cloned());
    }
    samples.sort_by_key(|entry| entry.index);
    Ok(samples)
}

fn fill(
    dumps: &[Dump],
    manifest: &Manifest,
    dir: &Path,
    on_sample: &mut dyn FnMut(&SampleEntry),
) -> Result<(), JoinError> {
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
    write_json(&dir.join(Manifest::FILE), manifest)?;
    Ok(())
}
