//! Stored slots as attention reads them, and what attention tells about them.

use std::borrow::Cow;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

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

    /// The vectors in f32.
    pub fn widened(self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(x) => x.into(),
            Self::F16(x) => x.to_f32_vec().into(),
            Self::Bf16(x) => x.to_f32_vec().into(),
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

/// Attention that each slot received from a chunk's queries, summed over the query heads of its group.
#[derive(Clone, Debug, Default)]
pub struct AttnMass {
    /// Over all queries of the chunk: `[n_kv_heads][n]`; empty unless asked for.
    pub all: Vec<Vec<f32>>,
    /// Over the queries of the observation window: `[n_kv_heads][n]`; empty unless asked for.
    pub window: Vec<Vec<f32>>,
}
