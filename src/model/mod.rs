//! Weights and tokenizers as they lie on disk, and the forward pass over them.
//!
//! - [`gguf`]: reader of GGUF files: metadata and tensors, every size checked against the file.

pub mod gguf;
