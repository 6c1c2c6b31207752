//! Dump in, analysis out: similarity, merging sets, sparsity, by layer, KV head and data set.

mod document;

pub use document::Agreement;
pub use document::Analysis;
pub use document::DatasetAnalysis;
pub use document::HeadSimilarity;
pub use document::HeadSparsity;
pub use document::MapEntry;
pub use document::Neighbours;
pub use document::StateSimilarity;
