//! Blocks of 32 quantised weights, and single weights, turned into f32. Layouts as the ggml project's files have them.
//!
//! Every function is small enough to be inlined into the loops of [`super::format`], which turn it into vector code.

use crate::math::{bf16_to_f32, f16_to_f32};

/// Values of one block.
pub(super) const LEN: usize = 32;

#[inline(always)]
pub(super) fn half(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

#[inline(always)]
pub(super) fn f32(weight: &[u8; 4], out: &mut [f32; 1]) {
    out[0] = f32::from_le_bytes(*weight);
}

#[inline(always)]
pub(super) fn f16(weight: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = f16_to_f32(u16::from_le_bytes(*weight));
}

#[inline(always)]
pub(super) fn bf16(weight: &[u8; 2], out: &mut [f32; 1]) {
    out[0] = bf16_to_f32(u16::from_le_bytes(*weight));
}

/// Scale, then 16 bytes: weight i in the low half of byte i, weight i + 16 in the high half, both shifted by 8.
#[inline(always)]
pub(super) fn q4_0(block: &[u8; 18], out: &mut [f32; LEN]) {
    let scale = half(block, 0);
    for i in 0..16 {
        let byte = block[2 + i];
        out[i] = (i32::from(byte & 15) - 8) as f32 * scale;
        out[i + 16] = (i32::from(byte >> 4) - 8) as f32 * scale;
    }
}

/// Scale and minimum, then 16 bytes as in Q4_0 without the shift.
#[inline(always)]
pub(super) fn q4_1(block: &[u8; 20], out: &mut [f32; LEN]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for i in 0..16 {
        let byte = block[4 + i];
        out[i] = f32::from(byte & 15) * scale + minimum;
        out[i + 16] = f32::from(byte >> 4) * scale + minimum;
    }
}

/// As Q4_0 with a fifth bit for each weight, in 32 bits behind the scale, all shifted by 16.
#[inline(always)]
pub(super) fn q5_0(block: &[u8; 22], out: &mut [f32; LEN]) {
    let scale = half(block, 0);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for i in 0..16 {
        let byte = u32::from(block[6 + i]);
        let (low, high) = (byte & 15 | (fifth >> i & 1) << 4, byte >> 4 | (fifth >> (i + 16) & 1) << 4);
        out[i] = (low as i32 - 16) as f32 * scale;
        out[i + 16] = (high as i32 - 16) as f32 * scale;
    }
}

/// As Q5_0 with a minimum instead of the shift.
#[inline(always)]
pub(super) fn q5_1(block: &[u8; 24], out: &mut [f32; LEN]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    let fifth = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for i in 0..16 {
        let byte = u32::from(block[8 + i]);
        let (low, high) = (byte & 15 | (fifth >> i & 1) << 4, byte >> 4 | (fifth >> (i + 16) & 1) << 4);
        out[i] = low as f32 * scale + minimum;
        out[i + 16] = high as f32 * scale + minimum;
    }
}

/// Scale, then 32 signed bytes.
#[inline(always)]
pub(super) fn q8_0(block: &[u8; 34], out: &mut [f32; LEN]) {
    let scale = half(block, 0);
    for i in 0..LEN {
        out[i] = f32::from(block[2 + i] as i8) * scale;
    }
}

/// Steps of a weight of 4 bits: close together near 0, where most weights are.
pub(super) const UNEVEN_STEPS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// As Q4_0, where the bits name one of [`UNEVEN_STEPS`].
#[inline(always)]
pub(super) fn iq4_nl(block: &[u8; 18], out: &mut [f32; LEN]) {
    let scale = half(block, 0);
    for i in 0..16 {
        let byte = block[2 + i];
        out[i] = f32::from(UNEVEN_STEPS[usize::from(byte & 15)]) * scale;
        out[i + 16] = f32::from(UNEVEN_STEPS[usize::from(byte >> 4)]) * scale;
    }
}

/// Numbers of 4 bits, a sign, two bits of exponent and one of fraction, times two.
const TWICE_E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The exponent of the scale in a byte (of 2, less 127), then 16 bytes in the order of Q4_0.
#[inline(always)]
pub(super) fn mxfp4(block: &[u8; 17], out: &mut [f32; LEN]) {
    // Half of 2^(e - 127), since the numbers are twice theirs; the two smallest are below the least normal number.
    let exponent = u32::from(block[0]);
    let scale = f32::from_bits(if exponent < 2 { 1 << (21 + exponent) } else { (exponent - 1) << 23 });
    for i in 0..16 {
        let byte = block[1 + i];
        out[i] = f32::from(TWICE_E2M1[usize::from(byte & 15)]) * scale;
        out[i + 16] = f32::from(TWICE_E2M1[usize::from(byte >> 4)]) * scale;
    }
}
