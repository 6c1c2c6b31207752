//! The seam between the forward pass and whoever keeps its keys and values.

use crate::math::Rows;
use crate::model::ModelError;
use crate::model::slots::{AttnMass, HeadSlots};

/// What the forward pass computed for a chunk of tokens in one layer, before attention.
#[derive(Clone, Copy, Debug)]
pub struct ChunkStates<'a> {
    /// Layer.
    pub layer: usize,
    /// Position of the chunk's first token.
    pub first_position: usize,
    /// Tokens T in the chunk.
    pub n_tokens: usize,
    /// Queries after RoPE, `[T · n_q_heads, D]`: those of all heads of a token, then those of the next.
    pub q: Rows<'a>,
    /// Keys after RoPE, `[T · n_kv_heads, D]`.
    pub k: Rows<'a>,
    /// Keys before RoPE, `[T · n_kv_heads, D]`; empty unless asked for.
    pub k_pre_rope: Rows<'a>,
    /// Values, `[T · n_kv_heads, D]`.
    pub v: Rows<'a>,
    /// What these are made of, the layer's input behind its norm, `[T, hidden]`; empty unless asked for.
    pub inputs: Rows<'a>,
}

/// Which logits a forward pass computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// None: states only.
    None,
    /// Those of the last token, `[1, vocab]`.
    Last,
    /// Those of every token, `[T, vocab]`.
    All,
}

/// What a store wants to be told beside keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreNeeds {
    /// Keys before RoPE.
    pub k_pre_rope: bool,
    /// Attention mass of all queries.
    pub mass: bool,
    /// Attention mass of the queries at this position and later.
    pub mass_from_position: Option<usize>,
    /// The vectors that queries, keys and values are made of.
    pub inputs: bool,
}

/// Keeps keys and values for a forward pass. The runtime's cache, and the writer behind `capture`, are stores.
pub trait KvStore: Send {
    /// Why it may fail.
    type Error: Send;

    /// What it wants to be told during the next chunk.
    fn needs(&self) -> StoreNeeds;

    /// Takes in a chunk's keys and values; afterwards [`KvStore::heads`] includes them.
    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), Self::Error>;

    /// Every KV head of a layer; without slots once the store has let go of the layer.
    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>>;

    /// How often the layer's slots were changed other than by appending. A store that rewrites slots must count: who holds a
    /// copy of them knows by that when it is out of date.
    fn rewrites(&self, _layer: usize) -> u64 {
        0
    }

    /// Called when the layer's attention over the chunk is done: the layer may now be written out or compressed.
    fn attended(&mut self, chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), Self::Error>;

    /// Called by a pass forward and back, for the last layer first, with the length of each token's gradient by what attention
    /// added to the residual stream, `[T]`.
    fn sensed(&mut self, _chunk: &ChunkStates<'_>, _gradient_norms: &[f32]) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Why a forward pass failed: in the model, or in the store that takes its keys and values.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum ForwardError<E> {
    /// The model.
    Model(#[from] ModelError),
    /// The store.
    Store(E),
}

impl<E> From<candle_core::Error> for ForwardError<E> {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
