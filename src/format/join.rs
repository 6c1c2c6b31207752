//! Which folders are all the shards of one run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::files::FileError;
use crate::format::dump::DumpError;
use crate::format::run::{Run, difference};
use crate::hint::Hint;

/// Why shards cannot be joined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Reading or writing failed.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// There is something at the place of the new folder.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// A folder of a whole run, or one whose shard cannot be.
    #[error("{} is not a shard of a run", .0.display())]
    NotAShard(PathBuf),
    /// Shards of different runs.
    #[error("{} was made with another {what} than {}", path.display(), first.display())]
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
    /// A shard whose run has not ended.
    #[error("{} has {found} of the {planned} {units} of its shard", path.display())]
    Unfinished {
        /// The folder.
        path: PathBuf,
        /// Units that are there.
        found: usize,
        /// Units that belong there.
        planned: usize,
        /// What they are.
        units: &'static str,
    },
}

impl From<FileError> for JoinError {
    fn from(error: FileError) -> Self {
        Self::Dump(error.into())
    }
}

impl Hint for JoinError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Dump(error) => return error.hint(),
            Self::Exists(_) => "choose another folder with --out".into(),
            Self::NotAShard(_) => "give the folders that a command with --shard I/N wrote".into(),
            Self::OtherRun { .. } => {
                "give shards of one run: same model, prompts and options, differing in I only".into()
            }
            Self::Twice { .. } => "give every shard once".into(),
            Self::Missing { number, count, .. } => {
                format!("run the same command with --shard {number}/{count}, or give its folder too")
            }
            Self::Unfinished { .. } => "run the same command of that shard with --resume".into(),
        })
    }
}

/// The plan of the run of which these are all the shards, finished and in any order, each with its folder.
///
/// - Errors: something at `out`, folders that are no shards, of different runs, given twice, missing or unfinished
pub fn whole_run<R: Run>(parts: &[(&Path, &R)], out: &Path) -> Result<R, JoinError> {
    if out.symlink_metadata().is_ok() {
        return Err(JoinError::Exists(out.into()));
    }
    let Some((first_dir, first)) = parts.first() else {
        return Err(JoinError::Missing { number: 1, count: 1, given: 0 });
    };
    let shard_of = |(dir, part): &(&Path, &R)| {
        let shard = part.origin().2.filter(|shard| (1..=shard.count).contains(&shard.number));
        shard.ok_or_else(|| JoinError::NotAShard((*dir).into()))
    };
    let whole = shard_of(&parts[0])?;
    let mut by_number: BTreeMap<usize, &Path> = BTreeMap::new();
    for part in parts {
        let (dir, shard) = (part.0, shard_of(part)?);
        let counts_differ = (shard.count, shard.total_samples) != (whole.count, whole.total_samples);
        let shards = counts_differ.then_some("number of shards or samples");
        if let Some(what) = difference(*first, part.1, shards) {
            return Err(JoinError::OtherRun { path: dir.into(), first: (*first_dir).into(), what });
        }
        if let Some(earlier) = by_number.insert(shard.number, dir) {
            return Err(JoinError::Twice { path: dir.into(), first: earlier.into(), number: shard.number });
        }
    }
    let count = whole.count;
    if let Some(number) = (1..=count).find(|number| !by_number.contains_key(number)) {
        return Err(JoinError::Missing { number, count, given: parts.len() });
    }
    for (dir, part) in parts {
        let (found, planned) = part.progress();
        if found != planned {
            return Err(JoinError::Unfinished { path: (*dir).into(), found, planned, units: R::UNITS });
        }
    }
    Ok(first.planned(None))
}
