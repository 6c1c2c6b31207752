//! Sums over many rows in AVX-512 and AVX2 registers; a compiler spills them.

use std::arch::x86_64::*;

use bytemuck::cast;

use crate::math::Rows;
use crate::math::band::{GROUP, Piece, WIDTH, filled_up, with_next};

/// Σ_i `here[i]` · `before[g][i]`, by lane, for every g.
#[target_feature(enable = "avx512f")]
pub(super) fn products_avx512(here: &[Piece], before: [&[Piece]; GROUP]) -> [[f32; WIDTH]; GROUP] {
    let mut sums = [_mm512_setzero_ps(); GROUP];
    let before = pointers(before, here.len());
    for (i, x) in here.iter().enumerate() {
        let x: __m512 = cast(x.0);
        for g in 0..GROUP {
            // SAFETY: there are as many pieces as `here` has.
            #[expect(unsafe_code, reason = "eight checks for eight multiplications")]
            let y = unsafe { (*before[g].add(i)).0 };
            sums[g] = _mm512_fmadd_ps(x, cast(y), sums[g]);
        }
    }
    cast(sums)
}

/// The same with four at a time, for there are sixteen registers.
#[target_feature(enable = "avx2,fma")]
pub(super) fn products_avx2(here: &[Piece], before: [&[Piece]; GROUP]) -> [[f32; WIDTH]; GROUP] {
    let mut all = [[0f32; WIDTH]; GROUP];
    for (before, out) in pointers(before, here.len()).as_chunks::<4>().0.iter().zip(all.as_chunks_mut::<4>().0) {
        let mut sums = [[_mm256_setzero_ps(); 2]; 4];
        for (i, x) in here.iter().enumerate() {
            let x: [__m256; 2] = cast(x.0);
            for g in 0..4 {
                // SAFETY: there are as many pieces as `here` has.
                #[expect(unsafe_code, reason = "four checks for eight multiplications")]
                let y: [__m256; 2] = cast(unsafe { (*before[g].add(i)).0 });
                sums[g] = [_mm256_fmadd_ps(x[0], y[0], sums[g][0]), _mm256_fmadd_ps(x[1], y[1], sums[g][1])];
            }
        }
        *out = cast(sums);
    }
    all
}

/// Where the pieces begin, once it is sure that there are `n` of each.
fn pointers(pieces: [&[Piece]; GROUP], n: usize) -> [*const Piece; GROUP] {
    pieces.map(|pieces| pieces[..n].as_ptr())
}

/// Rows `i` to `i + GROUP` and columns `j` to `j + WIDTH` of XᵀX.
#[target_feature(enable = "avx512f")]
pub(super) fn gram_avx512(rows: Rows<'_>, [i, j]: [usize; 2]) -> [[f32; WIDTH]; GROUP] {
    let mut sums = [_mm512_setzero_ps(); GROUP];
    for row in rows.iter() {
        let (Some(left), Some(right)) = (row[i..].first_chunk::<GROUP>(), row[j..].first_chunk::<WIDTH>()) else {
            break;
        };
        let right: __m512 = cast(*right);
        for g in 0..GROUP {
            sums[g] = _mm512_fmadd_ps(_mm512_set1_ps(left[g]), right, sums[g]);
        }
    }
    cast(sums)
}

/// The same with four rows at a time.
#[target_feature(enable = "avx2,fma")]
pub(super) fn gram_avx2(rows: Rows<'_>, [i, j]: [usize; 2]) -> [[f32; WIDTH]; GROUP] {
    let mut all = [[0f32; WIDTH]; GROUP];
    for (part, out) in all.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let mut sums = [[_mm256_setzero_ps(); 2]; 4];
        for row in rows.iter() {
            let left = row[i + 4 * part..].first_chunk::<4>();
            let (Some(left), Some(right)) = (left, row[j..].first_chunk::<WIDTH>()) else { break };
            let right: [__m256; 2] = cast(*right);
            for g in 0..4 {
                let x = _mm256_set1_ps(left[g]);
                sums[g] = [_mm256_fmadd_ps(x, right[0], sums[g][0]), _mm256_fmadd_ps(x, right[1], sums[g][1])];
            }
        }
        *out = cast(sums);
    }
    all
}

/// Every row times its factor, zeros where that is 0, piece p of row r in `out[p * height + r]`.
#[target_feature(enable = "avx512f")]
pub(super) fn scaled_columns_avx512(rows: Rows<'_>, factors: &[f32], out: &mut [Piece], height: usize) {
    for (r, (row, factor)) in rows.iter().zip(factors).enumerate() {
        let kept = if *factor == 0.0 { 0 } else { u16::MAX };
        let factor = _mm512_set1_ps(*factor);
        for (p, x) in row.chunks(WIDTH).enumerate() {
            out[p * height + r] = Piece(cast(_mm512_maskz_mul_ps(kept, cast(filled_up(x)), factor)));
        }
    }
}

/// The same.
#[target_feature(enable = "avx2")]
pub(super) fn scaled_columns_avx2(rows: Rows<'_>, factors: &[f32], out: &mut [Piece], height: usize) {
    for (r, (row, factor)) in rows.iter().zip(factors).enumerate() {
        let factor = _mm256_set1_ps(*factor);
        let kept = _mm256_cmp_ps::<_CMP_NEQ_OQ>(factor, _mm256_setzero_ps());
        for (p, x) in row.chunks(WIDTH).enumerate() {
            let [low, high]: [__m256; 2] = cast(filled_up(x));
            let (low, high) = (_mm256_mul_ps(low, factor), _mm256_mul_ps(high, factor));
            out[p * height + r] = Piece(cast([_mm256_and_ps(low, kept), _mm256_and_ps(high, kept)]));
        }
    }
}

/// ⟨x_i, x_i⟩ and ⟨x_i, x_{i+1}⟩ for every row.
#[target_feature(enable = "avx512f")]
pub(super) fn neighbour_products_avx512<'a>(rows: Rows<'_>, out: impl Iterator<Item = (&'a mut f32, &'a mut f32)>) {
    for (i, (square, product)) in out.enumerate() {
        let [row, next] = with_next(rows, i);
        let ((row, row_rest), (next, next_rest)) = (row.as_chunks::<WIDTH>(), next.as_chunks::<WIDTH>());
        let mut own = _mm512_setzero_ps();
        for x in row {
            own = _mm512_fmadd_ps(cast(*x), cast(*x), own);
        }
        let mut both = _mm512_setzero_ps();
        for (x, y) in row.iter().zip(next) {
            both = _mm512_fmadd_ps(cast(*x), cast(*y), both);
        }
        let mixed = _mm512_add_ps(_mm512_unpacklo_ps(own, both), _mm512_unpackhi_ps(own, both));
        let mixed = _mm256_add_ps(
            _mm512_castps512_ps256(mixed),
            _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(mixed))),
        );
        let [own, both] = mixed_sums(mixed);
        *square = own + short_dot(row_rest, row_rest);
        *product = both + short_dot(row_rest, next_rest);
    }
}

/// The same.
#[target_feature(enable = "avx2,fma")]
pub(super) fn neighbour_products_avx2<'a>(rows: Rows<'_>, out: impl Iterator<Item = (&'a mut f32, &'a mut f32)>) {
    const HALF: usize = WIDTH / 2;
    for (i, (square, product)) in out.enumerate() {
        let [row, next] = with_next(rows, i);
        let ((row, row_rest), (next, next_rest)) = (row.as_chunks::<HALF>(), next.as_chunks::<HALF>());
        let mut own = _mm256_setzero_ps();
        for x in row {
            own = _mm256_fmadd_ps(cast(*x), cast(*x), own);
        }
        let mut both = _mm256_setzero_ps();
        for (x, y) in row.iter().zip(next) {
            both = _mm256_fmadd_ps(cast(*x), cast(*y), both);
        }
        let [own, both] = mixed_sums(_mm256_add_ps(_mm256_unpacklo_ps(own, both), _mm256_unpackhi_ps(own, both)));
        *square = own + short_dot(row_rest, row_rest);
        *product = both + short_dot(row_rest, next_rest);
    }
}

/// Sums of the even and of the odd lanes.
#[inline]
#[target_feature(enable = "avx")]
fn mixed_sums(x: __m256) -> [f32; 2] {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    [_mm_cvtss_f32(x), _mm_cvtss_f32(_mm_movehdup_ps(x))]
}

/// Of less than a register.
#[inline(always)]
fn short_dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = 0.0;
    for (a, b) in a.iter().zip(b) {
        sum += a * b;
    }
    sum
}
