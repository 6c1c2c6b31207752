//! Numbers in the type of a cache.

use half::{bf16, f16};
use kvscope::math::Float;

/// A number as a cache of that type keeps it.
pub fn stored_as(kind: Float, x: f32) -> f32 {
    match kind {
        Float::F32 => x,
        Float::F16 => f16::from_f32(x).to_f32(),
        Float::Bf16 => bf16::from_f32(x).to_f32(),
    }
}
