//! One register of AVX-512 for 16 columns.

use std::arch::x86_64::*;
use std::ops::Range;

use bytemuck::cast;

use super::{BLOCKS_AT_ONCE, Task, first};
use crate::model::matrix::fixed::activations::Block;
use crate::model::matrix::fixed::packed::LAYOUTS;
use crate::model::matrix::fixed::{GROUP, LEN, TASK_ROWS};

type Floats = __m512;
type Integers = __m512i;
const REGISTERS: usize = 1;
/// Of a panel: sums and products of two groups fill 24 of 32 registers.
pub(super) const ROWS: usize = 6;

kernels!("avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c", [0], 2, 4);

#[inline]
#[target_feature(enable = "avx512f")]
fn zero_floats() -> __m512 {
    _mm512_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero_integers() -> __m512i {
    _mm512_setzero_si512()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(x: f32) -> __m512 {
    _mm512_set1_ps(x)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat_integer(x: u32) -> __m512i {
    _mm512_set1_epi32(x as i32)
}

/// 16 words of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8]) -> [__m512i; 1] {
    cast(first::<64>(bytes))
}

/// 16 numbers in half precision.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(bytes: &[u8]) -> [__m512; 1] {
    [_mm512_cvtph_ps(cast(first::<32>(bytes)))]
}

/// The pair of 4-bit codes in place `step` of each word's halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn nibbles(words: __m512i, step: usize) -> __m512i {
    let shifted = _mm512_srl_epi32(words, _mm_cvtsi32_si128(4 * step as i32));
    _mm512_and_si512(shifted, _mm512_set1_epi32(0x000f_000f))
}

/// The pair of signed bytes in place `step` of each word's halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes(words: __m512i, step: usize) -> __m512i {
    _mm512_srai_epi16::<8>(if step == 0 { _mm512_slli_epi16::<8>(words) } else { words })
}

/// The fifth bits of pair `pair`, in their place.
#[inline]
#[target_feature(enable = "avx512f")]
fn fifth_bits(bits: __m512i, pair: usize) -> __m512i {
    let shifted = _mm512_srl_epi32(bits, _mm_cvtsi32_si128(pair as i32));
    _mm512_slli_epi32::<4>(_mm512_and_si512(shifted, _mm512_set1_epi32(0x0001_0001)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn or(a: __m512i, b: __m512i) -> __m512i {
    _mm512_or_si512(a, b)
}

/// Adds the products of a pair of 16-bit numbers to each sum of 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_products(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
    let mut sum = sum;
    // In assembly: the compiler would take the instruction apart into a product and a sum.
    #[expect(unsafe_code, reason = "the instruction was asked for, and touches these registers only")]
    unsafe {
        std::arch::asm!(
            "vpdpwssd {sum}, {a}, {b}",
            sum = inout(zmm_reg) sum,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

#[inline]
#[target_feature(enable = "avx512f")]
fn to_floats(x: __m512i) -> __m512 {
    _mm512_cvtepi32_ps(x)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_floats(a: __m512, b: __m512) -> __m512 {
    _mm512_mul_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
    _mm512_fmadd_ps(a, b, c)
}
