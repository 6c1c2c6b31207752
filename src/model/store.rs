//! The seam between the forward pass and whoever keeps its keys and values.

use std::ops::Range;

use half::bf16;
use half::f16;

use crate::model::device::Mirror;

/// What the forward pass computed for a chunk of tokens in one layer, before attention.
#[derive(Clone, Copy, Debug)]
pub struct ChunkStates<'a> {
    /// Layer.
    pub layer: usize,
    /// Position of the chunk's first token.
    pub first_position: usize,
    /// Tokens T in the chunk.
    pub n_tokens: usize,
    /// Queries after RoPE, `[T, n_q_heads, D]`.
    pub q: &'a [f32],
    /// Keys after RoPE, `[T, n_kv_heads, D]`.
    pub k: &'a [f32],
    /// Keys before RoPE, `[T, n_kv_heads, D]`; empty unless asked for.
    pub k_pre_rope: &'a [f32],
    /// Values, `[T, n_kv_heads, D]`.
    pub v: &'a [f32],
}

/// Stored vectors `[n, D]` of one head.
#[derive(Clone, Copy, Debug)]
pub enum SlotVectors<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// The upper half of single precision.
    Bf16(&'a [bf16]),
}

impl<'a> SlotVectors<'a> {
    /// The vectors of some slots.
    pub(in crate::model) fn part(self, head_dim: usize, slots: Range<usize>) -> Self {
        let range = slots.start * head_dim..slots.end * head_dim;
        match self {
            Self::F32(x) => Self::F32(&x[range]),
            Self::F16(x) => Self::F16(&x[range]),
            Self::Bf16(x) => Self::Bf16(&x[range]),
        }
    }
}

/// One KV head as attention reads it: n slots in order of position, the chunk's own tokens last.
#[derive(Clone, Copy, Debug)]
pub struct HeadSlots<'a> {
    /// Keys.
    pub keys: SlotVectors<'a>,
    /// Values.
    pub values: SlotVectors<'a>,
    /// Added to each slot's logit; `None` when all are zero.
    pub logit_bias: Option<&'a [f32]>,
    /// Position of each slot, rising.
    pub positions: &'a [u32],
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
}

/// Attention that each slot received from a chunk's queries, summed over the query heads of its group.
#[derive(Clone, Debug, Default)]
pub struct AttnMass {
    /// Over all queries of the chunk: `[n_kv_heads][n]`; empty unless asked for.
    pub all: Vec<Vec<f32>>,
    /// Over the queries of the observation window: `[n_kv_heads][n]`; empty unless asked for.
    pub window: Vec<Vec<f32>>,
}

/// A failure inside a store.
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps keys and values for a forward pass. The runtime's cache, and the writer behind `capture`, are stores.
pub trait KvStore: Send {
    /// What it wants to be told during the next chunk.
    fn needs(&self) -> StoreNeeds;

    /// Takes in a chunk's keys and values; afterwards [`KvStore::heads`] includes them.
    fn append(&mut self, chunk: &ChunkStates<'_>) -> Result<(), StoreError>;

    /// Every KV head of a layer.
    fn heads(&self, layer: usize) -> Vec<HeadSlots<'_>>;

    /// How often the layer's slots were changed other than by appending: what a device holds of them is then out of date.
    ///
    /// A store that rewrites slots and keeps a [`Mirror`] must count.
    fn rewrites(&self, _layer: usize) -> u64 {
        0
    }

    /// Where the forward pass keeps what a device holds of this store; without a place, everything is uploaded each time.
    fn mirror(&mut self) -> Option<&mut Mirror> {
        None
    }

    /// Called when the layer's attention over the chunk is done: the layer may now be written out or compressed.
    fn attended(&mut self, chunk: &ChunkStates<'_>, mass: AttnMass) -> Result<(), StoreError>;
}
