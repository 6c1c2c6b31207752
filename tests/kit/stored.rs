//! The types that a cache keeps numbers in.

use half::{bf16, f16};
use kvscope::runtime::CacheType;

/// All of them.
pub const TYPES: [CacheType; 3] = [CacheType::F32, CacheType::F16, CacheType::Bf16];

/// A number as a cache of that type keeps it.
pub fn stored_as(kind: CacheType, x: f32) -> f32 {
    match kind {
        CacheType::F32 => x,
        CacheType::F16 => f16::from_f32(x).to_f32(),
        CacheType::Bf16 => bf16::from_f32(x).to_f32(),
    }
}
