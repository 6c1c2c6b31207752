//! Joins the shards of a run into the dump that one run would have written.

use std::path::Path;
use std::path::PathBuf;

use crate::dump::Dump;
use crate::dump::DumpError;
use crate::dump::Manifest;
use crate::dump::SampleEntry;
use crate::dump::Shard;
use crate::files::FileError;
use crate::files::create_dir;
use crate::files::sha256_file;
use crate::files::write_json;

/// Joins shards into `out`: their files are linked, or copied where linking fails, and the manifest is written last.
///
/// The result is byte for byte the dump of one run over all samples. Every file is checked against its SHA-256.
///
/// - Errors: a dump that is no shard or not complete, a shard that is missing or given twice, shards of different runs,
///   a damaged file, `out` holding a dump already
pub fn join(dirs: &[PathBuf], out: &Path, on_sample: &mut dyn FnMut(&SampleEntry)) -> Result<Manifest, DumpError> {
    let dumps = dirs.iter().map(|dir| Dump::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let manifest_path = out.join("manifest.json");
    if manifest_path.exists() {
        return Err(DumpError::NotJoinable { path: out.into(), what: "holds a dump already".into() });
    }
    let order = check(&dumps)?;
    create_dir(out)?;
    let Some(first) = dumps.first() else {
        return Err(DumpError::NotJoinable { path: out.into(), what: "no shard was given".into() });
    };
    let mut joined = bare(first.manifest(), order.len());
    for (dump, entry) in order {
        let (from, to) = (dump.dir().join(&entry.file), out.join(&entry.file));
        let sha256 = sha256_file(&from)?;
        if sha256 != entry.sha256 {
            let what = format!("has the SHA-256 {sha256} where the manifest says {}", entry.sha256);
            return Err(DumpError::inconsistent(&from, what));
        }
        link_or_copy(&from, &to)?;
        on_sample(entry);
        joined.samples.push(entry.clone());
    }
    write_json(&manifest_path, &joined)?;
    Ok(joined)
}

/// The manifest without what tells shards of a run apart.
fn bare(manifest: &Manifest, total_samples: usize) -> Manifest {
    Manifest { shard: None, planned_samples: total_samples, samples: Vec::new(), ..manifest.clone() }
}

/// The samples of all dumps by index, if they are exactly the shards of one run.
fn check(dumps: &[Dump]) -> Result<Vec<(&Dump, &SampleEntry)>, DumpError> {
    let mut seen: Vec<(Shard, &Dump)> = Vec::new();
    let mut samples = Vec::new();
    for dump in dumps {
        let fault = |what: String| Err(DumpError::NotJoinable { path: dump.dir().into(), what });
        let manifest = dump.manifest();
        let Some(shard) = manifest.shard else { return fault("is a whole dump, not a shard".into()) };
        let Shard { number, count, total_samples } = shard;
        if !manifest.is_complete() || manifest.planned_samples != shard.n_samples() {
            let (have, want) = (manifest.samples.len(), shard.n_samples());
            return fault(format!("has {have} of {want} samples: finish that capture with --resume first"));
        }
        if let Some((first, other)) = seen.first() {
            if (first.count, first.total_samples) != (count, total_samples) {
                return fault(format!(
                    "is shard {number} of {count} of {total_samples} samples, and {} is shard {} of {} of {}",
                    other.dir().display(),
                    first.number,
                    first.count,
                    first.total_samples
                ));
            }
            if let Some(what) = difference(&bare(manifest, 0), &bare(other.manifest(), 0)) {
                return fault(format!("was captured with another {what} than {}", other.dir().display()));
            }
        }
        if let Some((_, other)) = seen.iter().find(|(earlier, _)| earlier.number == number) {
            return fault(format!("is shard {number}, which {} is too", other.dir().display()));
        }
        if let Some(entry) = manifest.samples.iter().find(|entry| !shard.holds(entry.index)) {
            return fault(format!("holds sample {}, which does not belong to shard {number} of {count}", entry.index));
        }
        seen.push((shard, dump));
        samples.extend(manifest.samples.iter().map(|entry| (dump, entry)));
    }
    let Some((Shard { count, total_samples, .. }, dump)) = seen.first() else { return Ok(samples) };
    let fault = |what: String| Err(DumpError::NotJoinable { path: dump.dir().into(), what });
    // `count` comes from a file: the search ends at the first gap, which lies within the dumps given plus one.
    if let Some(missing) = (1..=*count).find(|number| seen.iter().all(|(shard, _)| shard.number != *number)) {
        return fault(format!("is of {count} shards, and shard {missing} was not given"));
    }
    samples.sort_by_key(|(_, entry)| entry.index);
    if samples.len() != *total_samples || samples.iter().enumerate().any(|(i, (_, entry))| entry.index != i) {
        return fault(format!("and its sister shards do not hold each of the {total_samples} samples once"));
    }
    let mut names: Vec<&str> = samples.iter().map(|(_, entry)| entry.file.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return fault(format!("and its sister shards both hold a file {}", pair[0]));
    }
    Ok(samples)
}

/// What differs between two runs, in a word.
fn difference(a: &Manifest, b: &Manifest) -> Option<&'static str> {
    if a == b {
        None
    } else if a.model != b.model {
        Some("model")
    } else if a.provenance.tool != b.provenance.tool {
        Some("version of the program")
    } else if a.provenance.inputs != b.provenance.inputs {
        Some("set of prompts")
    } else {
        Some("set of options")
    }
}

fn link_or_copy(from: &Path, to: &Path) -> Result<(), FileError> {
    // A join that was killed may have left the file.
    if to.exists() {
        std::fs::remove_file(to).map_err(|e| FileError::io("replace", to, e))?;
    }
    if std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to).map_err(|e| FileError::io("copy to", to, e))?;
    Ok(())
}
