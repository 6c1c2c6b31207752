//! Dumps in, profiles out: a size and a setting for every head under a budget, chosen on some samples and checked on others.
//!
//! Never sees the runtime: what a setting does to a head is computed from the dump with the plans that the runtime carries
//! out, and judged by the attention of the queries that follow.

mod cost;
mod curves;
mod hull;
mod losses;
mod measure;
mod options;
mod profiles;
mod resolve;
mod ridges;
mod run;
mod search;
mod solve;
mod split;
mod trial;
mod unit;
mod utility;
mod variants;
mod words;

pub use cost::Measure;
pub use losses::HeadLosses;
pub use options::{BESIDE, DEFAULT_SETTINGS, RIDGES, TuneOptions, Tuned};
pub use profiles::chat_template;
pub use resolve::resolve;
pub use run::tune;
pub use search::{LUKV, SEARCHES, SearchEntry};
pub use split::{Place, split_samples};
pub use unit::BudgetUnit;
pub use variants::{evicting, lukv_sizes};

use crate::format::dump::DumpError;
use crate::hint::Hint;
use crate::policy::PolicyError;

/// What can go wrong while tuning.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// A dump cannot be read, or lacks a state that tuning needs.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// A setting is no policy, or has faulty parameters.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A setting cannot be given a size.
    #[error("{setting} cannot be tuned: {why}")]
    Setting {
        /// As typed.
        setting: String,
        /// Why.
        why: &'static str,
    },
    /// A setting looks at a window of queries that the dump has not counted before the end of what is compressed.
    #[error(
        "{setting} looks at the prompt's last {needed} queries, which this dump does not tell apart from those that judge it"
    )]
    Window {
        /// As typed.
        setting: String,
        /// Queries of the window.
        needed: usize,
    },
    /// A setting or refit looks at queries that the dump does not keep.
    #[error(
        "{what} looks at queries of the prompt, and sample {id} keeps none from before its end, or not how they turn"
    )]
    NoEarlyQueries {
        /// The setting as typed, or `refit`.
        what: String,
        /// Row id.
        id: String,
    },
    /// A setting looks at the model's output projections, and no model is at hand.
    #[error("{setting} looks at the model's output projections, which dumps do not hold")]
    NoProjections {
        /// As typed.
        setting: String,
    },
    /// The output projections are of another model.
    #[error("the output projections are those of {} heads of {}, and the dumps' model has {} of {}", found.0, found.1, expected.0, expected.1)]
    OtherProjections {
        /// Query heads of all layers, and the numbers in an output of each.
        found: (usize, usize),
        /// Those of the dumps' model.
        expected: (usize, usize),
    },
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
    /// A sample keeps no queries of its last tokens.
    #[error(
        "sample {id} keeps the queries of its last {in_a_row} tokens, and {wanted} are needed to tell what compressing does"
    )]
    NoQueries {
        /// Row id.
        id: String,
        /// Queries at the end without a gap.
        in_a_row: usize,
        /// Queries that are needed.
        wanted: usize,
    },
    /// A budget that is no share.
    #[error("a budget is a share in (0, 1), not {0}")]
    BadBudget(f64),
    /// Another option that is no share.
    #[error("{name} is a share in [0, 1), not {value}")]
    BadShare {
        /// The option.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// No such search.
    #[error("there is no search {0:?}")]
    UnknownSearch(String),
    /// A profile without curves.
    #[error("the profile keeps no curves to solve another budget from")]
    NoCurves,
}

impl Hint for TuneError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Dump(error) => error.hint(),
            Self::Policy(error) => error.hint(),
            Self::Setting { why, .. } if why.contains("thresholds") => {
                Some("leave out eps= or tau=, so that the budget decides".into())
            }
            Self::Setting { .. } => Some("leave it out of --policy".into()),
            Self::Window { .. } => {
                Some("capture with --window of as many queries and --decode N, and tune on that".into())
            }
            Self::MissingLayers { .. } => Some("capture again with --layers all".into()),
            Self::MissingHeads { .. } => Some("capture again with --heads all".into()),
            Self::BadShare { .. } => Some("give a number of at least 0 and below 1".into()),
            Self::NoSamples => Some("capture some prompts first".into()),
            Self::NoQueries { .. } => {
                Some("capture with more --queries (half of them are the last ones), or lower --late".into())
            }
            Self::UnknownSearch(_) => {
                let names: Vec<&str> = SEARCHES.iter().map(|entry| entry.name).collect();
                Some(format!("choose one of {}", names.join(", ")))
            }
            Self::NoEarlyQueries { .. } => Some(
                "capture again with this version, or tune with --refit none and policies that look at attention mass"
                    .into(),
            ),
            Self::NoProjections { .. } => Some("name the model with --model".into()),
            Self::OtherProjections { .. } => Some("take them from the model that was captured".into()),
            Self::NoCurves => Some("tune from the dumps".into()),
            Self::MixedModels { .. } => Some("tune on each model's dumps on their own".into()),
            Self::BadBudget(_) => Some("give a number above 0 and below 1".into()),
        }
    }
}
