//! The types that numbers are stored in.

use std::fmt;
use std::fmt::{Display, Formatter};

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// A type of floating-point number, as caches, dumps and weights store it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Float {
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Single precision.
    #[default]
    F32,
}

impl Float {
    /// All types.
    pub const ALL: [Self; 3] = [Self::F16, Self::Bf16, Self::F32];

    /// Name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }

    /// The largest number.
    pub fn most(self) -> f32 {
        match self {
            Self::F16 => f16::MAX.to_f32(),
            Self::Bf16 => bf16::MAX.to_f32(),
            Self::F32 => f32::MAX,
        }
    }

    /// Magnitude from which on a number rounds to infinity: half a step above the largest.
    pub fn limit(self) -> f32 {
        match self {
            Self::F16 => 65_520.0,
            Self::Bf16 => f32::from_bits(0x7f7f_8000),
            Self::F32 => f32::INFINITY,
        }
    }
}

impl Display for Float {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_first_numbers_that_round_to_infinity() {
        let check = |float: Float, rounded: fn(f32) -> f32| {
            let below = f32::from_bits(float.limit().to_bits() - 1);
            assert_eq!((rounded(float.limit()), rounded(below)), (f32::INFINITY, float.most()), "{float}");
        };
        check(Float::F16, |x| f16::from_f32(x).to_f32());
        check(Float::Bf16, |x| bf16::from_f32(x).to_f32());
    }
}
