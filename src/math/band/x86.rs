//! Sums over many rows in AVX-512 and AVX2 registers; a compiler spills them.

use std::arch::x86_64::*;

use bytemuck::cast;

use crate::math::band::GROUP;
use crate::math::band::WIDTH;

type Piece = [f32; WIDTH];

/// Σ_i `here[i]` · `before[g][i]`, by lane, for every g.
#[target_feature(enable = "avx512f")]
pub(super) fn products_avx512(here: &[Piece], before: [&[Piece]; GROUP]) -> [Piece; GROUP] {
    let before = before.map(|pieces| &pieces[..here.len()]);
    let mut sums = [_mm512_setzero_ps(); GROUP];
    for (i, x) in here.iter().enumerate() {
        let x: __m512 = cast(*x);
        for g in 0..GROUP {
            sums[g] = _mm512_fmadd_ps(x, cast(before[g][i]), sums[g]);
        }
    }
    cast(sums)
}

/// The same with four at a time, for there are sixteen registers.
#[target_feature(enable = "avx2,fma")]
pub(super) fn products_avx2(here: &[Piece], before: [&[Piece]; GROUP]) -> [Piece; GROUP] {
    let before = before.map(|pieces| &pieces[..here.len()]);
    let mut all = [[0f32; WIDTH]; GROUP];
    for (before, out) in before.as_chunks::<4>().0.iter().zip(all.as_chunks_mut::<4>().0) {
        let mut sums = [[_mm256_setzero_ps(); 2]; 4];
        for (i, x) in here.iter().enumerate() {
            let x: [__m256; 2] = cast(*x);
            for g in 0..4 {
                let y: [__m256; 2] = cast(before[g][i]);
                sums[g] = [_mm256_fmadd_ps(x[0], y[0], sums[g][0]), _mm256_fmadd_ps(x[1], y[1], sums[g][1])];
            }
        }
        *out = cast(sums);
    }
    all
}

/// Rows `i` to `i + GROUP` and columns `j` to `j + WIDTH` of XᵀX.
#[target_feature(enable = "avx512f")]
pub(super) fn gram_avx512(rows: &[f32], dim: usize, [i, j]: [usize; 2]) -> [Piece; GROUP] {
    let mut sums = [_mm512_setzero_ps(); GROUP];
    for row in rows.chunks_exact(dim) {
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
pub(super) fn gram_avx2(rows: &[f32], dim: usize, [i, j]: [usize; 2]) -> [Piece; GROUP] {
    let mut all = [[0f32; WIDTH]; GROUP];
    for (part, out) in all.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let mut sums = [[_mm256_setzero_ps(); 2]; 4];
        for row in rows.chunks_exact(dim) {
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
