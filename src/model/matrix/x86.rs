//! Rows of blocks times a vector in AVX-512 and AVX2 registers, for the storage types that are common.
//!
//! Portable code leaves half of the speed: a compiler does not find the table look-up of 4-bit weights, nor the hardware's
//! conversion from half precision. Each function says whether it ran; it declines on processors without these instructions
//! and on rows that are no multiple of 32.

/// Weights that are turned into f32 at a time.
#[cfg(target_arch = "x86_64")]
const LEN: usize = 32;
/// Rows that share the loads of the vector, and hide the latency of each other's sums.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 4;

/// Chooses the instructions. `$width` names the argument that is as long as a row.
macro_rules! kernel {
    ($name:ident, $x:ident, $out:ident, $width:ident) => {
        pub(super) fn $name(rows: &[u8], $x: &[f32], $out: &mut [f32]) -> bool {
            #[cfg(target_arch = "x86_64")]
            {
                if !$width.len().is_multiple_of(LEN) {
                    return false;
                }
                let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") && has_avx2 {
                    #[expect(unsafe_code, reason = "the instructions were asked for just above")]
                    unsafe {
                        avx512::$name(rows, $x, $out);
                    }
                    return true;
                }
                if has_avx2 && is_x86_feature_detected!("f16c") {
                    #[expect(unsafe_code, reason = "the instructions were asked for just above")]
                    unsafe {
                        avx2::$name(rows, $x, $out);
                    }
                    return true;
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = (rows, $x, $out);
            false
        }
    };
}

kernel!(f16, x, out, x);
kernel!(bf16, x, out, x);
kernel!(q4_0, x, out, x);
kernel!(q4_1, x, out, x);
kernel!(q8_0, x, out, x);
kernel!(add_weighted_f16, weights, out, out);
kernel!(add_weighted_bf16, weights, out, out);

/// `out[j] = ⟨rows[j], x⟩` over blocks of `$bytes` that hold 32 weights. `$widen` turns one block into registers; all of it is inlined into one function.
#[cfg(target_arch = "x86_64")]
macro_rules! rows_times_vector {
    ($name:ident, $widen:ident, $bytes:literal, $features:literal, $register:ty, $per_block:literal, $zero:ident, $fma:ident) => {
        #[target_feature(enable = $features)]
        pub(super) fn $name(rows: &[u8], x: &[f32], out: &mut [f32]) {
            let x = x.as_chunks::<LEN>().0;
            let blocks = rows.as_chunks::<$bytes>().0;
            let n = x.len();
            let (full, rest) = out.as_chunks_mut::<ROWS>();
            let (blocks, last) = blocks.split_at(full.len() * ROWS * n);
            for (rows, out) in blocks.chunks_exact((ROWS * n).max(1)).zip(full) {
                let mut sums = [[$zero(); $per_block]; ROWS];
                let rows: [&[[u8; $bytes]]; ROWS] = std::array::from_fn(|r| &rows[r * n..(r + 1) * n]);
                for (i, x) in x.iter().enumerate() {
                    let x: [$register; $per_block] = cast(*x);
                    for r in 0..ROWS {
                        let weights = $widen(&rows[r][i]);
                        for j in 0..$per_block {
                            sums[r][j] = $fma(weights[j], x[j], sums[r][j]);
                        }
                    }
                }
                for r in 0..ROWS {
                    out[r] = fold(&cast(sums[r]));
                }
            }
            for (row, out) in last.chunks_exact(n.max(1)).zip(rest) {
                let mut sums = [$zero(); $per_block];
                for (block, x) in row.iter().zip(x) {
                    let x: [$register; $per_block] = cast(*x);
                    let weights = $widen(block);
                    for j in 0..$per_block {
                        sums[j] = $fma(weights[j], x[j], sums[j]);
                    }
                }
                *out = fold(&cast(sums));
            }
        }
    };
}

/// `out += Σ_j weights[j] · rows[j]`, 32 columns at a time in registers; even and odd rows apart, for more sums in flight.
#[cfg(target_arch = "x86_64")]
macro_rules! weighted_rows {
    ($name:ident, $widen:ident, $features:literal, $register:ty, $per_block:literal, $zero:ident, $splat:ident, $fma:ident, $add:ident) => {
        #[target_feature(enable = $features)]
        pub(super) fn $name(rows: &[u8], weights: &[f32], out: &mut [f32]) {
            let blocks = rows.as_chunks::<64>().0;
            let out = out.as_chunks_mut::<LEN>().0;
            let n = out.len();
            for (column, out) in out.iter_mut().enumerate() {
                let mut sums = [[$zero(); $per_block]; 2];
                let (pairs, last) = weights.as_chunks::<2>();
                for (j, pair) in pairs.iter().enumerate() {
                    for side in 0..2 {
                        let (row, weight) = ($widen(&blocks[(2 * j + side) * n + column]), $splat(pair[side]));
                        for i in 0..$per_block {
                            sums[side][i] = $fma(row[i], weight, sums[side][i]);
                        }
                    }
                }
                if let [weight] = last {
                    let (row, weight) = ($widen(&blocks[2 * pairs.len() * n + column]), $splat(*weight));
                    for i in 0..$per_block {
                        sums[0][i] = $fma(row[i], weight, sums[0][i]);
                    }
                }
                let before: [$register; $per_block] = cast(*out);
                *out = cast(std::array::from_fn::<_, $per_block, _>(|i| $add(before[i], $add(sums[0][i], sums[1][i]))));
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use bytemuck::cast;

    use super::{LEN, ROWS, split};
    use crate::math::fold;

    macro_rules! rows_of {
        ($name:ident, $widen:ident, $bytes:literal) => {
            rows_times_vector!(
                $name,
                $widen,
                $bytes,
                "avx512f,avx512vl,avx2,fma",
                __m512,
                2,
                _mm512_setzero_ps,
                _mm512_fmadd_ps
            );
        };
    }

    macro_rules! weighted {
        ($name:ident, $widen:ident) => {
            weighted_rows!(
                $name,
                $widen,
                "avx512f,avx512vl,avx2,fma",
                __m512,
                2,
                _mm512_setzero_ps,
                _mm512_set1_ps,
                _mm512_fmadd_ps,
                _mm512_add_ps
            );
        };
    }

    rows_of!(f16, widen_f16, 64);
    rows_of!(bf16, widen_bf16, 64);
    rows_of!(q4_0, widen_q4_0, 18);
    rows_of!(q4_1, widen_q4_1, 20);
    rows_of!(q8_0, widen_q8_0, 34);
    weighted!(add_weighted_f16, widen_f16);
    weighted!(add_weighted_bf16, widen_bf16);

    /// 0, 1, ..., 15: the value of each 4-bit weight.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn digits() -> __m512 {
        cast([0f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0])
    }

    /// Looks the 32 4-bit weights of 16 bytes up in a table of their 16 values.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn look_up(bytes: [u8; 16], table: __m512) -> [__m512; 2] {
        // The look-up reads the low four bits of each index and ignores the others.
        let low = _mm512_cvtepu8_epi32(cast(bytes));
        [_mm512_permutexvar_ps(low, table), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(low), table)]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn halves(scale: [u8; 2], minimum: [u8; 2]) -> [__m512; 2] {
        let both = u32::from_le_bytes([scale[0], scale[1], minimum[0], minimum[1]]);
        let pair = _mm256_castps256_ps128(_mm256_cvtph_ps(_mm_cvtsi32_si128(both as i32)));
        [_mm512_broadcastss_ps(pair), _mm512_broadcastss_ps(_mm_movehdup_ps(pair))]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn widen_q4_1(block: &[u8; 20]) -> [__m512; 2] {
        let ([a, b, c, d], bytes) = split::<20, 4, 16>(block);
        let [scale, minimum] = halves([a, b], [c, d]);
        look_up(bytes, _mm512_fmadd_ps(digits(), scale, minimum))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn widen_q4_0(block: &[u8; 18]) -> [__m512; 2] {
        let (scale, bytes) = split::<18, 2, 16>(block);
        let [scale, _] = halves(scale, [0; 2]);
        look_up(bytes, _mm512_mul_ps(_mm512_sub_ps(digits(), _mm512_set1_ps(8.0)), scale))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn widen_q8_0(block: &[u8; 34]) -> [__m512; 2] {
        let (scale, bytes) = split::<34, 2, 32>(block);
        let [scale, _] = halves(scale, [0; 2]);
        let bytes: [__m128i; 2] = cast(bytes);
        let widen = |x: __m128i| _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x)), scale);
        [widen(bytes[0]), widen(bytes[1])]
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn widen_f16(weights: &[u8; 64]) -> [__m512; 2] {
        let halves: [__m256i; 2] = cast(*weights);
        [_mm512_cvtph_ps(halves[0]), _mm512_cvtph_ps(halves[1])]
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn widen_bf16(weights: &[u8; 64]) -> [__m512; 2] {
        let halves: [__m256i; 2] = cast(*weights);
        let widen = |x: __m256i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)));
        [widen(halves[0]), widen(halves[1])]
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use bytemuck::cast;

    use super::{LEN, ROWS, split};
    use crate::math::fold;

    macro_rules! rows_of {
        ($name:ident, $widen:ident, $bytes:literal) => {
            rows_times_vector!($name, $widen, $bytes, "avx2,fma,f16c", __m256, 4, _mm256_setzero_ps, _mm256_fmadd_ps);
        };
    }

    macro_rules! weighted {
        ($name:ident, $widen:ident) => {
            weighted_rows!(
                $name,
                $widen,
                "avx2,fma,f16c",
                __m256,
                4,
                _mm256_setzero_ps,
                _mm256_set1_ps,
                _mm256_fmadd_ps,
                _mm256_add_ps
            );
        };
    }

    rows_of!(f16, widen_f16, 64);
    rows_of!(bf16, widen_bf16, 64);
    rows_of!(q4_0, widen_q4_0, 18);
    rows_of!(q4_1, widen_q4_1, 20);
    rows_of!(q8_0, widen_q8_0, 34);
    weighted!(add_weighted_f16, widen_f16);
    weighted!(add_weighted_bf16, widen_bf16);

    /// The 32 4-bit weights of 16 bytes, as numbers.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn digits(bytes: [u8; 16]) -> [__m256; 4] {
        let (bytes, mask) = (cast(bytes), _mm_set1_epi8(15));
        let (low, high) = (_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask));
        let widen = |x: __m128i| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x));
        [widen(low), widen(_mm_srli_si128::<8>(low)), widen(high), widen(_mm_srli_si128::<8>(high))]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn halves(scale: [u8; 2], minimum: [u8; 2]) -> [__m256; 2] {
        let both = u32::from_le_bytes([scale[0], scale[1], minimum[0], minimum[1]]);
        let pair = _mm_cvtph_ps(_mm_cvtsi32_si128(both as i32));
        [_mm256_broadcastss_ps(pair), _mm256_broadcastss_ps(_mm_movehdup_ps(pair))]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn widen_q4_1(block: &[u8; 20]) -> [__m256; 4] {
        let ([a, b, c, d], bytes) = split::<20, 4, 16>(block);
        let [scale, minimum] = halves([a, b], [c, d]);
        let [a, b, c, d] = digits(bytes);
        let widen = |x: __m256| _mm256_fmadd_ps(x, scale, minimum);
        [widen(a), widen(b), widen(c), widen(d)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn widen_q4_0(block: &[u8; 18]) -> [__m256; 4] {
        let (scale, bytes) = split::<18, 2, 16>(block);
        let [scale, _] = halves(scale, [0; 2]);
        let [a, b, c, d] = digits(bytes);
        let widen = |x: __m256| _mm256_mul_ps(_mm256_sub_ps(x, _mm256_set1_ps(8.0)), scale);
        [widen(a), widen(b), widen(c), widen(d)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn widen_q8_0(block: &[u8; 34]) -> [__m256; 4] {
        let (scale, bytes) = split::<34, 2, 32>(block);
        let [scale, _] = halves(scale, [0; 2]);
        let bytes: [[u8; 8]; 4] = cast(bytes);
        let widen = |x: [u8; 8]| {
            let x = _mm_cvtsi64_si128(i64::from_le_bytes(x));
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)), scale)
        };
        [widen(bytes[0]), widen(bytes[1]), widen(bytes[2]), widen(bytes[3])]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn widen_f16(weights: &[u8; 64]) -> [__m256; 4] {
        let halves: [__m128i; 4] = cast(*weights);
        [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1]), _mm256_cvtph_ps(halves[2]), _mm256_cvtph_ps(halves[3])]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn widen_bf16(weights: &[u8; 64]) -> [__m256; 4] {
        let halves: [__m128i; 4] = cast(*weights);
        let widen = |x: __m128i| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)));
        [widen(halves[0]), widen(halves[1]), widen(halves[2]), widen(halves[3])]
    }
}

/// A block's scales and its weights.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn split<const N: usize, const A: usize, const B: usize>(block: &[u8; N]) -> ([u8; A], [u8; B]) {
    const { assert!(A + B == N) };
    (std::array::from_fn(|i| block[i]), std::array::from_fn(|i| block[A + i]))
}
