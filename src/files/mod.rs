//! Files that can be trusted: written to a temporary name and renamed, hashed, carrying a schema and its version.
//!
//! Knows nothing of models, caches or figures; every artifact module stands on this one.

mod atomic;
mod document;
mod hash;
mod identity;
mod lock;
mod read;
mod space;

pub use atomic::create_dir;
pub(crate) use atomic::{AtomicFile, create_own_dir, write_atomic};
pub use document::{Document, read_json, write_json};
pub(crate) use document::{check_replaceable, parse_head, parse_json, read_own_json};
pub(crate) use hash::{HashingWriter, Sha256, copy_hashed, sha256_own};
pub use hash::{sha256_bytes, sha256_file};
pub(crate) use identity::TOOL_VERSION;
pub use identity::{InputHash, ModelIdentity, Provenance};
pub use lock::{FolderLock, LOCK_NAME, lock};
pub use read::map_file;
pub(crate) use read::{
    append_own, is_inside, map_opened, open_own, open_regular, open_to_append, read_at, read_limited, read_own,
};
pub(crate) use space::free_bytes;
pub use space::resident_bytes;

use std::path::{Path, PathBuf};

use crate::hint::Hint;

/// Letters, digits, `-`, `_` and `.` of a name, for a file or folder.
///
/// ```
/// assert_eq!(kvscope::files::plain_name("org/My Model.Q4_1"), "org-My-Model.Q4_1");
/// ```
pub fn plain_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    name.chars().take(60).map(plain).collect::<String>().trim_matches(['-', '.']).to_string()
}

/// What a folder holds, by name.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let io = |e| FileError::io("list", dir, e);
    let entries = std::fs::read_dir(dir).map_err(io)?;
    let mut paths = entries.map(|entry| Ok(entry.map_err(io)?.path())).collect::<Result<Vec<PathBuf>, FileError>>()?;
    paths.sort();
    Ok(paths)
}

/// What can go wrong with a file. Every variant names the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own answer.
        source: std::io::Error,
    },
    /// The file is not the JSON that was expected.
    #[error("{} is not a valid {expected} file: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Schema name that was looked for.
        expected: &'static str,
        /// Parser's answer, with line and column.
        source: serde_json::Error,
    },
    /// The file carries another schema, or none.
    #[error("{} holds {found}, not {expected}", path.display())]
    WrongSchema {
        /// The file.
        path: PathBuf,
        /// Schema name that was looked for.
        expected: &'static str,
        /// What the file says it is.
        found: String,
    },
    /// The file was written by a newer version of the format.
    #[error("{} is version {found} of {schema}; this kvscope reads up to version {known}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Schema name.
        schema: &'static str,
        /// Version in the file.
        found: u32,
        /// Newest version known here.
        known: u32,
    },
    /// A folder, a pipe, a device or a link where a file is due.
    #[error("{} is {found}", path.display())]
    NotRegular {
        /// The place.
        path: PathBuf,
        /// What is there, and what is due.
        found: &'static str,
    },
    /// A file of another kind stands where one of ours would go.
    #[error("{} is there already and is not a {expected} file", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Schema name of the file that would go there.
        expected: &'static str,
    },
    /// Another process writes to the folder.
    #[error("another kvscope is writing to {}", .0.display())]
    Busy(PathBuf),
    /// The file is larger than anything of its kind may be.
    #[error("{} has {bytes} bytes; a {expected} file may have at most {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Schema name that was looked for.
        expected: &'static str,
        /// Its size.
        bytes: u64,
        /// Largest size that is read.
        limit: u64,
    },
}

impl FileError {
    /// Wraps an I/O error with what was done to which path.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }
}

impl Hint for FileError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => source.hint(),
            Self::TooNew { .. } => Some("update kvscope".into()),
            Self::Foreign { .. } => Some("choose another folder with --out, or move that file away".into()),
            Self::Busy(_) => Some("wait for it to end, or choose another folder with --out".into()),
            Self::WrongSchema { .. } => Some("give a file that kvscope made for this".into()),
            Self::Json { .. } => Some("it was cut off or changed: make it again".into()),
            Self::TooLarge { .. } | Self::NotRegular { .. } => {
                Some("check the path: it leads to something else".into())
            }
        }
    }
}
