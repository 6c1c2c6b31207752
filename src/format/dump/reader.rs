//! Opens a dump: a manifest that does not contradict itself, and sample files one by one.

use std::path::{Path, PathBuf};

use crate::files::read_own_json;
use crate::format::dump::contradictions::manifest_faults;
use crate::format::dump::{DumpError, Manifest, Sample};
use crate::format::run::Run;

/// An opened dump.
#[derive(Debug)]
pub struct Dump {
    dir: PathBuf,
    manifest: Manifest,
}

impl Dump {
    /// Reads the manifest and checks that it does not contradict itself; sample files are opened later.
    pub fn open(dir: &Path) -> Result<Self, DumpError> {
        let path = dir.join(Manifest::FILE);
        if dir.is_dir() && path.symlink_metadata().is_err() {
            return Err(DumpError::NotADump(dir.into()));
        }
        let manifest: Manifest = read_own_json(&path)?;
        match manifest_faults(&manifest).into_iter().next() {
            Some(what) => Err(DumpError::inconsistent(&path, what)),
            None => Ok(Self { dir: dir.into(), manifest }),
        }
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The dump's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the file of sample `index` and checks it against the manifest, all but its digest ([`Sample::verified`]).
    pub fn sample(&self, index: usize) -> Result<Sample<'_>, DumpError> {
        let entry = self.manifest.samples.get(index).ok_or_else(|| {
            DumpError::inconsistent(&self.dir, format!("sample {index} of {}", self.manifest.samples.len()))
        })?;
        Sample::open(&self.manifest, entry, self.dir.join(&entry.file))
    }
}
