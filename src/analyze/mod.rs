//! Dump in, analysis out: similarity, merging sets, sparsity, by layer, KV head and data set.
//!
//! One pass over the samples, one head's states in memory per thread. What is kept is a fixed number of counters per
//! head; sums are taken in a fixed order, so that the numbers do not depend on the thread count.

mod check;
mod compare;
mod dataset;
mod document;
mod error;
mod maps;
mod options;
mod persistence;
mod plan;
mod queries;
mod run;
mod similarity;
mod sparsity;
mod summary;
mod table;

pub use check::faults;
pub use compare::ComparedRun;
pub use compare::Comparison;
pub use compare::FigureDifference;
pub use compare::HeadDifference;
pub use compare::compare;
pub use document::Agreement;
pub use document::Analysis;
pub use document::DatasetAnalysis;
pub use document::HeadQueries;
pub use document::HeadSimilarity;
pub use document::HeadSparsity;
pub use document::MapEntry;
pub use document::Neighbours;
pub use document::Placed;
pub use document::QueryAware;
pub use document::RuleError;
pub use document::SetOverlap;
pub use document::SetPlaces;
pub use document::StateSimilarity;
pub use error::AnalyzeError;
pub use maps::MapMaker;
pub use options::AnalyzeOptions;
pub use options::MapRequest;
pub use persistence::DatasetTest;
pub use persistence::EpsPersistence;
pub use persistence::Evidence;
pub use persistence::HeadPersistence;
pub use persistence::HeadTest;
pub use persistence::LengthDependence;
pub use persistence::Persistence;
pub use persistence::RankNull;
pub use persistence::VarianceShares;
pub use run::analyze;
pub use summary::DatasetSummary;
pub use summary::Summary;
pub use summary::summary;
