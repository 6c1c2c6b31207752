//! A run that leaves a folder and may be gone on with, in parts: capture's and evaluation's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::files::{Document, FileError, ModelIdentity, Provenance, read_own_json};
use crate::hint::Hint;

/// Which of the equal parts of a run's inputs, whatever their number: `2/8` is the second of eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    number: usize,
    count: usize,
}

/// A text that names no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write I/N with I from 1 to N, such as 1/4")]
pub struct NoPart;

impl FromStr for Part {
    type Err = NoPart;

    fn from_str(text: &str) -> Result<Self, NoPart> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (number, count) = numbers.filter(|(number, count)| (1..=*count).contains(number)).ok_or(NoPart)?;
        Ok(Self { number, count })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.number, self.count)
    }
}

impl Part {
    /// This part of a run of so many samples.
    pub fn of(self, total_samples: usize) -> Shard {
        Shard { number: self.number, count: self.count, total_samples }
    }
}

/// Which part of a run's samples a folder holds: every `count`-th, starting at `number - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// This shard, counted from 1.
    pub number: usize,
    /// Shards of the run.
    pub count: usize,
    /// Samples of the whole run.
    pub total_samples: usize,
}

impl Shard {
    /// Whether the sample of that index within the whole run belongs here.
    pub fn holds(&self, index: usize) -> bool {
        index < self.total_samples && self.count > 0 && index % self.count + 1 == self.number
    }

    /// Samples that belong here.
    pub fn n_samples(&self) -> usize {
        match self.number.checked_sub(1) {
            Some(before) => self.total_samples.saturating_sub(before).div_ceil(self.count.max(1)),
            None => 0,
        }
    }
}

/// The document of a run, which is written before the run begins and again as it goes on.
pub trait Run: Document + Clone + PartialEq {
    /// Name of its file in the run's folder.
    const FILE: &'static str;
    /// What the folder holds, in words.
    const WHAT: &'static str;
    /// What is done one by one, in words.
    const UNITS: &'static str;

    /// How it was made, by which model, and the part of the run; `None` for all.
    fn origin(&self) -> (&Provenance, &ModelIdentity, Option<Shard>);
    /// Units that are done, and those that the run, or its shard, will have.
    fn progress(&self) -> (usize, usize);
    /// The run, or that shard of it, before anything was done.
    fn planned(&self, shard: Option<Shard>) -> Self;
    /// What differs of all that only runs of this kind have, in words.
    fn own_difference(&self, _other: &Self) -> Option<&'static str> {
        None
    }
}

/// What keeps two documents from being of one run, in words; `shards` is what the caller finds wrong with their shards.
pub(super) fn difference<R: Run>(a: &R, b: &R, shards: Option<&'static str>) -> Option<&'static str> {
    let ((of_a, model_a, _), (of_b, model_b, _)) = (a.origin(), b.origin());
    if of_a.tool != of_b.tool {
        Some("version of kvscope")
    } else if model_a != model_b {
        Some("model")
    } else if of_a.inputs != of_b.inputs {
        Some("set of prompts")
    } else {
        let options = || (a.planned(None) != b.planned(None)).then_some("set of options");
        a.own_difference(b).or(shards).or_else(options)
    }
}

/// Where a run writes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Folder of the run.
    pub dir: &'a Path,
    /// Whether to go on with the run that the folder holds.
    pub resume: bool,
    /// The part of the samples that the run takes; `None` for all.
    pub part: Option<Part>,
}

impl<'a> Target<'a> {
    /// All samples into a new folder.
    pub fn new(dir: &'a Path) -> Self {
        Self { dir, resume: false, part: None }
    }

    /// The part that the run takes of so many samples.
    pub fn shard(&self, total_samples: usize) -> Option<Shard> {
        self.part.map(|part| part.of(total_samples))
    }

    /// The samples that the run takes, with their index within all of them.
    pub fn select<'i, T>(&self, all: &'i [T]) -> Vec<(usize, &'i T)> {
        let shard = self.shard(all.len());
        all.iter().enumerate().filter(|(index, _)| shard.is_none_or(|shard| shard.holds(*index))).collect()
    }

    /// The document of the run to go on with, `new` being what it says of itself; `None` where the folder holds no run.
    ///
    /// - Errors: a run that is not to be gone on with, or another one
    pub fn earlier<R: Run>(&self, new: &R) -> Result<Option<R>, RunError> {
        let path = self.dir.join(R::FILE);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        if !self.resume {
            return Err(RunError::Exists { dir: self.dir.into(), what: R::WHAT });
        }
        let old: R = read_own_json(&path)?;
        let shards = (old.origin().2 != new.origin().2).then_some("shard");
        match difference(&old, new, shards) {
            Some(what) => Err(RunError::OtherRun { dir: self.dir.into(), what }),
            None => Ok(Some(old)),
        }
    }
}

/// Why a run does not begin, or ends early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The folder's document cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder holds a run already.
    #[error("{} holds {what} already", dir.display())]
    Exists {
        /// The folder.
        dir: PathBuf,
        /// What it holds.
        what: &'static str,
    },
    /// The folder holds another run.
    #[error("{} was made with another {what}, so it cannot be resumed", dir.display())]
    OtherRun {
        /// The folder.
        dir: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The user asked to stop.
    #[error("interrupted after {done} of {planned} {units}; what is finished is valid")]
    Interrupted {
        /// Finished units.
        done: usize,
        /// Units of the run.
        planned: usize,
        /// What they are.
        units: &'static str,
    },
}

impl RunError {
    /// The run behind this document was interrupted.
    pub fn interrupted<R: Run>(run: &R) -> Self {
        let (done, planned) = run.progress();
        Self::Interrupted { done, planned, units: R::UNITS }
    }
}

impl Hint for RunError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File(error) => return error.hint(),
            Self::Exists { .. } => "pass --resume to go on with it, or choose another folder with --out".into(),
            Self::OtherRun { .. } => "choose another folder with --out, or repeat the command that began it".into(),
            Self::Interrupted { .. } => "run the same command with --resume to go on".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_from_one() {
        assert_eq!("2/8".parse::<Part>().unwrap().of(9), Shard { number: 2, count: 8, total_samples: 9 });
        for bad in ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", ""] {
            assert_eq!(bad.parse::<Part>(), Err(NoPart), "{bad}");
        }
    }

    #[test]
    fn shards_part_the_samples() {
        for total_samples in [0, 1, 2, 7, 9] {
            for count in 1..5 {
                let shards: Vec<Shard> = (1..=count).map(|number| Shard { number, count, total_samples }).collect();
                for index in 0..total_samples {
                    assert_eq!(shards.iter().filter(|shard| shard.holds(index)).count(), 1, "{index}");
                }
                for shard in shards {
                    let held = (0..total_samples + 3).filter(|index| shard.holds(*index)).count();
                    assert_eq!(shard.n_samples(), held, "{shard:?}");
                }
            }
        }
        // What a stranger's manifest may claim.
        let odd = Shard { number: 0, count: 0, total_samples: 3 };
        assert!(!odd.holds(0) && odd.n_samples() == 0);
    }
}
