//! Slices of half precision to single precision and back, with one choice of instructions a slice.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::math::{Instructions, by_instructions};

/// The values of `from`, exactly.
///
/// - Panics: when `to` is not as long
pub fn widen_f16(from: &[f16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "as many numbers on both sides");
    by_instructions!(
        Instructions::best(),
        x86::widen_avx512(from, to),
        x86::widen_avx2(from, to),
        from.convert_to_f32_slice(to),
    )
}

/// The values of `from`, rounded to the nearest, ties to even.
///
/// - Panics: when `to` is not as long
pub fn narrow_f16(from: &[f32], to: &mut [f16]) {
    assert_eq!(from.len(), to.len(), "as many numbers on both sides");
    by_instructions!(
        Instructions::best(),
        x86::narrow_avx512(from, to),
        x86::narrow_avx2(from, to),
        to.convert_from_f32_slice(from),
    )
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use bytemuck::{cast, cast_slice, cast_slice_mut};
    use half::f16;
    use half::slice::HalfFloatSliceExt;

    #[target_feature(enable = "avx512f")]
    pub(super) fn widen_avx512(from: &[f16], to: &mut [f32]) {
        let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
        for (from, to) in cast_slice::<_, [u16; 16]>(from).iter().zip(to) {
            *to = cast(_mm512_cvtph_ps(cast(*from)));
        }
        from_rest.convert_to_f32_slice(to_rest);
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn widen_avx2(from: &[f16], to: &mut [f32]) {
        let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<8>(), to.as_chunks_mut::<8>());
        for (from, to) in cast_slice::<_, [u16; 8]>(from).iter().zip(to) {
            *to = cast(_mm256_cvtph_ps(cast(*from)));
        }
        from_rest.convert_to_f32_slice(to_rest);
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn narrow_avx512(from: &[f32], to: &mut [f16]) {
        let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
        for (from, to) in from.iter().zip(cast_slice_mut::<_, [u16; 16]>(to)) {
            *to = cast(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(cast(*from)));
        }
        to_rest.convert_from_f32_slice(from_rest);
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn narrow_avx2(from: &[f32], to: &mut [f16]) {
        let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<8>(), to.as_chunks_mut::<8>());
        for (from, to) in from.iter().zip(cast_slice_mut::<_, [u16; 8]>(to)) {
            *to = cast(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(cast(*from)));
        }
        to_rest.convert_from_f32_slice(from_rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_and_comes_back() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        // Not a multiple of a register, and once of none.
        for part in [&all[..], &all[1..65_530], &all[..5]] {
            let mut wide = vec![0f32; part.len()];
            widen_f16(part, &mut wide);
            let mut back = vec![f16::ZERO; part.len()];
            narrow_f16(&wide, &mut back);
            for ((x, wide), back) in part.iter().zip(&wide).zip(&back) {
                let exact = x.to_f32();
                assert!(*wide == exact || (wide.is_nan() && exact.is_nan()), "{x:?}: {wide}");
                assert!(back == x || (back.is_nan() && x.is_nan()), "{x:?}: {back:?}");
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        // Between 1 and 1 + 2^-10, the next half: the midpoint goes to the even one, 1.
        let step = 2f32.powi(-11);
        let mut out = [f16::ZERO; 20];
        narrow_f16(&[1.0 + step, 1.0 + 1.5 * step, 1.0 + 3.0 * step, 7e4].repeat(5), &mut out);
        let next = |n: u16| f16::from_bits(f16::ONE.to_bits() + n);
        assert_eq!(out[..4], [f16::ONE, next(1), next(2), f16::INFINITY]);
        assert_eq!(out[16..], out[..4]);
    }
}
