//! Weights and tokenizers as they lie on disk, and the forward pass over them.
//!
//! - [`gguf`]: reader of GGUF files: metadata and tensors, every size checked against the file.
//! - [`tokenizer`]: text to token ids and back, and the chat template.

pub mod gguf;
pub mod tokenizer;
