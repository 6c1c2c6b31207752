//! Blocks of a tile in AVX-512 and AVX2 registers: sums in f32, rounded to half precision and stored from there.

use std::arch::x86_64::*;

use bytemuck::cast;

use crate::math::cosines::{PANEL, TILE};

/// 8 x 32: sixteen sums, two registers of columns, and one row's number at a time in all lanes.
#[target_feature(enable = "avx512f")]
pub(super) fn block_avx512(rows: &[f32], columns: &[f32], dim: usize, out: &mut [u16]) {
    let (left, right) = columns.split_at(PANEL * dim);
    let mut sums = [[_mm512_setzero_ps(); 2]; 8];
    let columns = left.as_chunks::<PANEL>().0.iter().zip(right.as_chunks::<PANEL>().0);
    for (rows, (left, right)) in rows.chunks(PANEL).zip(columns) {
        let Some(rows) = rows.first_chunk::<8>() else { return };
        let (left, right): (__m512, __m512) = (cast(*left), cast(*right));
        for r in 0..8 {
            let x = _mm512_set1_ps(rows[r]);
            sums[r] = [_mm512_fmadd_ps(x, left, sums[r][0]), _mm512_fmadd_ps(x, right, sums[r][1])];
        }
    }
    for (sums, out) in sums.into_iter().zip(out.chunks_mut(TILE)) {
        let Some(out) = out.first_chunk_mut::<32>() else { return };
        let [left, right] = sums;
        let halves = [half_avx512(left), half_avx512(right)];
        *out = cast(halves);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn half_avx512(x: __m512) -> __m256i {
    _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)
}

/// 4 x 16: eight sums, as many as hide the latency of two multipliers.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn block_avx2(rows: &[f32], columns: &[f32], _: usize, out: &mut [u16]) {
    let mut sums = [[_mm256_setzero_ps(); 2]; 4];
    for (rows, columns) in rows.chunks(PANEL).zip(columns.as_chunks::<PANEL>().0) {
        let Some(rows) = rows.first_chunk::<4>() else { return };
        let [left, right]: [__m256; 2] = cast(*columns);
        for r in 0..4 {
            let x = _mm256_set1_ps(rows[r]);
            sums[r] = [_mm256_fmadd_ps(x, left, sums[r][0]), _mm256_fmadd_ps(x, right, sums[r][1])];
        }
    }
    for (sums, out) in sums.into_iter().zip(out.chunks_mut(TILE)) {
        let Some(out) = out.first_chunk_mut::<16>() else { return };
        let [left, right] = sums;
        *out = cast([half_avx2(left), half_avx2(right)]);
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn half_avx2(x: __m256) -> __m128i {
    _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)
}

/// The transpose of 8 x 8 numbers, in the instructions that every x86-64 has.
#[inline]
pub(super) fn transposed(rows: [[u16; 8]; 8]) -> [[u16; 8]; 8] {
    #[expect(unsafe_code, reason = "SSE2 is part of x86-64")]
    unsafe {
        transposed_sse2(rows)
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn transposed_sse2(rows: [[u16; 8]; 8]) -> [[u16; 8]; 8] {
    let r: [__m128i; 8] = cast(rows);
    let pairs = |a, b| [_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)];
    let [a0, a1] = pairs(r[0], r[1]);
    let [b0, b1] = pairs(r[2], r[3]);
    let [c0, c1] = pairs(r[4], r[5]);
    let [d0, d1] = pairs(r[6], r[7]);
    let quads = |a, b| [_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b)];
    let top = [quads(a0, b0), quads(a1, b1)];
    let bottom = [quads(c0, d0), quads(c1, d1)];
    let out: [__m128i; 8] = std::array::from_fn(|i| {
        let (t, b) = (top[i / 4][i / 2 % 2], bottom[i / 4][i / 2 % 2]);
        if i % 2 == 0 { _mm_unpacklo_epi64(t, b) } else { _mm_unpackhi_epi64(t, b) }
    });
    cast(out)
}

/// Copies a row past the caches, which a map is too large for: its lines need not be read before they are written.
///
/// # Safety
///
/// `to` is valid for writes of the row's length.
#[expect(unsafe_code, reason = "several threads write parts of one row's memory")]
pub(super) unsafe fn copy_past_caches(row: &[u16], to: *mut u16) {
    const LEN: usize = 8;
    let whole = if to.addr().is_multiple_of(16) { row.as_chunks::<LEN>().0 } else { &[] };
    // SAFETY: all places lie within the row's length, whole registers at multiples of 16 bytes; SSE2 is part of x86-64.
    unsafe {
        for (i, x) in whole.iter().enumerate() {
            _mm_stream_si128(to.add(i * LEN).cast(), cast(*x));
        }
        let done = whole.len() * LEN;
        to.add(done).copy_from_nonoverlapping(row.as_ptr().add(done), row.len() - done);
    }
}

/// Makes what [`copy_past_caches`] wrote on this thread visible before anything that it writes later.
pub(super) fn settle() {
    #[expect(unsafe_code, reason = "SSE2 is part of x86-64")]
    unsafe {
        _mm_sfence();
    }
}
