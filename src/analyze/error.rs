//! What can stop an analysis.

use std::path::PathBuf;

use crate::fates::FatesError;
use crate::files::FileError;
use crate::format::FormatError;
use crate::format::dump::{DumpError, State};
use crate::hint::Hint;
use crate::policy::PolicyError;

/// Why dumps could not be analysed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnalyzeError {
    /// A dump cannot be read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// Of a head cannot be told what becomes of its tokens.
    #[error(transparent)]
    Fates(#[from] FatesError),
    /// A score that is saved for the explorer is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of the analysis cannot be read or written.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// An option has a value that cannot be used.
    #[error("{option} cannot be used: {what}")]
    Option {
        /// Field of the options.
        option: &'static str,
        /// The value and what is allowed.
        what: String,
    },
    /// No dump was given, or none holds a sample.
    #[error("{0} dumps were given and none holds a finished sample")]
    NoSamples(usize),
    /// Two dumps come from different models.
    #[error("{} was captured from {got}, {} from {expected}", path.display(), first.display())]
    DifferentModels {
        /// The first dump.
        first: PathBuf,
        /// Name and fingerprint of its model.
        expected: String,
        /// The dump that does not belong.
        path: PathBuf,
        /// Name and fingerprint of its model.
        got: String,
    },
    /// Two dumps hold different layers or KV heads.
    #[error("{} holds {what} {got}, {} holds {expected}", path.display(), first.display())]
    DifferentLayers {
        /// Layers or KV heads.
        what: &'static str,
        /// The first dump.
        first: PathBuf,
        /// What it holds.
        expected: String,
        /// The other.
        path: PathBuf,
        /// What it holds.
        got: String,
    },
    /// A dump has neither keys nor values.
    #[error("{} holds no keys and no values, only {found}", path.display())]
    NoVectors {
        /// The dump.
        path: PathBuf,
        /// States it does hold.
        found: String,
    },
    /// The same row was given twice.
    #[error("sample {id} of {dataset} in {} was already given in {}", path.display(), first.display())]
    Duplicate {
        /// Data set.
        dataset: String,
        /// The sample's row id.
        id: String,
        /// Dump that holds it first.
        first: PathBuf,
        /// Dump that holds it again.
        path: PathBuf,
    },
    /// More heads than any model has.
    #[error("{}: {n_layers} layers of {n_kv_heads} KV heads; at most {limit} heads are analysed", path.display())]
    TooManyHeads {
        /// The dump.
        path: PathBuf,
        /// Layers of the model.
        n_layers: usize,
        /// KV heads of a layer.
        n_kv_heads: usize,
        /// Most heads over all layers.
        limit: usize,
    },
    /// Too few runs to compare, or too many to show beside each other.
    #[error("{n} runs cannot be compared: a comparison has 2 to {most}")]
    NumberOfRuns {
        /// Runs that were named.
        n: usize,
        /// Most that there may be.
        most: usize,
    },
    /// Two runs that were measured by different rules.
    #[error("the runs were analysed with different {what}: {a}, and {b}")]
    RulesDiffer {
        /// The rule.
        what: &'static str,
        /// In the first run.
        a: String,
        /// In the second.
        b: String,
    },
    /// Two runs without a figure in common.
    #[error("{a} and {b} have no figure in common")]
    NothingToCompare {
        /// The first run.
        a: String,
        /// The other.
        b: String,
    },
    /// A map was asked for of something that was not captured.
    #[error("no map of {} of layer {layer}, KV head {kv_head}: {what}", state.name())]
    NoMap {
        /// Layer asked for.
        layer: usize,
        /// KV head asked for.
        kv_head: usize,
        /// State asked for.
        state: State,
        /// What there is instead.
        what: String,
    },
}

impl Hint for AnalyzeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Dump(error) => error.hint(),
            Self::Fates(error) => error.hint(),
            Self::Policy(error) => error.hint(),
            Self::File(error) => error.hint(),
            Self::Format(error) => error.hint(),
            Self::NoSamples(_) => Some("run the capture again with --resume".into()),
            Self::DifferentModels { .. } => Some("analyse each model's dumps on their own".into()),
            Self::DifferentLayers { .. } => {
                Some("capture both with the same --layers and --heads, or analyse them on their own".into())
            }
            Self::NoVectors { .. } => Some("capture again with k or v among --states".into()),
            Self::Duplicate { .. } => Some("give each dump once, and of dumps that share rows one".into()),
            Self::NumberOfRuns { .. } => Some("name two analyses or more, and compare the others by themselves".into()),
            Self::RulesDiffer { .. } => {
                Some("analyse all with the same --reference-eps, --recent, --heavy and --bridge".into())
            }
            Self::NothingToCompare { .. } => Some("capture and analyse the same states in both".into()),
            Self::NoMap { .. } => Some("ask for a layer, head and state that the dump holds".into()),
            Self::Option { .. } => Some("kvscope analyze --help says what each option takes".into()),
            Self::TooManyHeads { .. } => Some("the manifest is damaged: capture again".into()),
        }
    }
}
