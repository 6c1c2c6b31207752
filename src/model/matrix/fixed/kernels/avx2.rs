//! Two registers of AVX2 for 16 columns.

use std::arch::x86_64::*;
use std::ops::Range;

use bytemuck::cast;

use super::{BLOCKS_AT_ONCE, Task, first};
use crate::model::matrix::fixed::activations::Block;
use crate::model::matrix::fixed::packed::LAYOUTS;
use crate::model::matrix::fixed::{GROUP, LEN, TASK_ROWS};

type Floats = __m256;
type Integers = __m256i;
const REGISTERS: usize = 2;
/// Of a panel: products of one group fill 8 of 16 registers.
pub(super) const ROWS: usize = 4;

kernels!("avx2,fma,f16c", [0 1], 1, 2);

#[inline]
#[target_feature(enable = "avx2")]
fn zero_floats() -> __m256 {
    _mm256_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx2")]
fn zero_integers() -> __m256i {
    _mm256_setzero_si256()
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(x: f32) -> __m256 {
    _mm256_set1_ps(x)
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat_integer(x: u32) -> __m256i {
    _mm256_set1_epi32(x as i32)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8]) -> [__m256i; 2] {
    cast(first::<64>(bytes))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(bytes: &[u8]) -> [__m256; 2] {
    let halves: [__m128i; 2] = cast(first::<32>(bytes));
    [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(words: __m256i, step: usize) -> __m256i {
    let shifted = _mm256_srl_epi32(words, _mm_cvtsi32_si128(4 * step as i32));
    _mm256_and_si256(shifted, _mm256_set1_epi32(0x000f_000f))
}

#[inline]
#[target_feature(enable = "avx2")]
fn bytes(words: __m256i, step: usize) -> __m256i {
    _mm256_srai_epi16::<8>(if step == 0 { _mm256_slli_epi16::<8>(words) } else { words })
}

#[inline]
#[target_feature(enable = "avx2")]
fn fifth_bits(bits: __m256i, pair: usize) -> __m256i {
    let shifted = _mm256_srl_epi32(bits, _mm_cvtsi32_si128(pair as i32));
    _mm256_slli_epi32::<4>(_mm256_and_si256(shifted, _mm256_set1_epi32(0x0001_0001)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn or(a: __m256i, b: __m256i) -> __m256i {
    _mm256_or_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_products(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
}

#[inline]
#[target_feature(enable = "avx2")]
fn to_floats(x: __m256i) -> __m256 {
    _mm256_cvtepi32_ps(x)
}

#[inline]
#[target_feature(enable = "avx2")]
fn multiply_floats(a: __m256, b: __m256) -> __m256 {
    _mm256_mul_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
    _mm256_fmadd_ps(a, b, c)
}
