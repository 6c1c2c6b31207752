//! Whether numbers are numbers.

use multiversion::multiversion;

/// Numbers that are looked at before it is asked whether to go on.
const CHUNK: usize = 4096;

/// Whether no number is NaN or infinite.
///
/// - Cost: one pass; the first chunk that holds such a number ends it
pub fn all_finite(x: &[f32]) -> bool {
    x.chunks(CHUNK).all(chunk_is_finite)
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn chunk_is_finite(x: &[f32]) -> bool {
    // Without branches, so that it becomes vector code: of what is not finite, all bits of the exponent are set.
    const EXPONENT: u32 = 0x7f80_0000;
    x.iter().fold(0u32, |found, x| found | u32::from(x.to_bits() & EXPONENT == EXPONENT)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_that_is_none_is_found_anywhere() {
        let mut x = vec![f32::MAX; 3 * CHUNK + 5];
        x[7] = -0.0;
        x[9] = f32::MIN_POSITIVE / 2.0;
        assert!(all_finite(&x) && all_finite(&[]));
        for (place, value) in [(0, f32::NAN), (CHUNK, f32::INFINITY), (3 * CHUNK + 4, f32::NEG_INFINITY)] {
            let mut x = x.clone();
            x[place] = value;
            assert!(!all_finite(&x), "{place}");
        }
    }
}
