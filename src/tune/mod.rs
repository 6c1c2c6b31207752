//! Dumps in, profile out: thresholds for a budget, chosen on some samples and checked on others.
//!
//! Never sees the runtime: what a threshold does to a head is computed from the dump with the same plans.

mod links;
mod run;
mod search;
mod split;

pub use run::TuneOptions;
pub use run::Tuned;
pub use run::tune;
pub use search::SEARCHES;
pub use search::SearchEntry;

use crate::dump::DumpError;

/// What can go wrong while tuning.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// A dump cannot be read, or lacks a state that tuning needs.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The dumps are of different models.
    #[error("the dumps are of different models: {first} and {other}")]
    MixedModels {
        /// Model of the first dump.
        first: String,
        /// Another one.
        other: String,
    },
    /// Not every layer was captured.
    #[error("the dump holds {found} of {n_layers} layers, and a profile needs them all")]
    MissingLayers {
        /// Layers captured.
        found: usize,
        /// Layers of the model.
        n_layers: usize,
    },
    /// Not every head was captured.
    #[error("the dump holds {found} of a layer's {n_kv_heads} KV heads, and a profile needs them all")]
    MissingHeads {
        /// Heads captured.
        found: usize,
        /// KV heads of a layer.
        n_kv_heads: usize,
    },
    /// No samples.
    #[error("the dumps hold no sample")]
    NoSamples,
    /// A budget that is no share.
    #[error("a budget is a share in (0, 1), not {0}")]
    BadBudget(f64),
    /// A share for holding out that is no share.
    #[error("the share of held-out samples is in [0, 1), not {0}")]
    BadHoldOut(f64),
    /// No such search.
    #[error("there is no search {0:?}")]
    UnknownSearch(String),
}

impl TuneError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Dump(error) => error.hint(),
            Self::MissingLayers { .. } => Some("capture again with --layers all".into()),
            Self::MissingHeads { .. } => Some("capture again with --heads all".into()),
            Self::NoSamples => Some("capture some prompts first".into()),
            Self::UnknownSearch(_) => {
                let names: Vec<&str> = SEARCHES.iter().map(|entry| entry.name).collect();
                Some(format!("choose one of {}", names.join(", ")))
            }
            _ => None,
        }
    }
}
