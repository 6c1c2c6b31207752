//! Dump in, analysis out: similarity, merging sets, sparsity, by layer, KV head and data set.
//!
//! One pass over the samples, one head's states in memory per thread. What is kept is a fixed number of counters per
//! head; sums are taken in a fixed order, so that the numbers do not depend on the thread count.

mod agreement;
mod compare;
mod dataset;
mod error;
mod explorer;
mod maps;
mod options;
mod persistence;
mod plan;
mod queries;
mod run;
mod similarity;
mod sparsity;
mod summary;

pub use compare::compare;
pub use error::AnalyzeError;
pub use maps::MapMaker;
pub use options::{AnalyzeOptions, MapRequest};
pub use run::analyze;
pub use summary::summary;
