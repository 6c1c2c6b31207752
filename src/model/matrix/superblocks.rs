//! Blocks of 256 quantised weights ("k-quants" and those after them) turned into f32. Layouts as the ggml project's files have them.
//!
//! A block has a scale of scales; its runs of 16 or 32 weights have small integer scales of their own.

use crate::model::matrix::blocks::{UNEVEN_STEPS, half};

/// Values of one block.
pub(super) const LEN: usize = 256;

/// 16 bytes of scale and minimum (4 bits each), 64 bytes of weights (2 bits each), scale of scales, scale of minima.
#[inline(always)]
pub(super) fn q2_k(block: &[u8; 84], out: &mut [f32; LEN]) {
    let (scale, minimum) = (half(block, 80), half(block, 82));
    for run in 0..16 {
        let (part, shift, side) = (run / 8, run % 8 / 2 * 2, run % 2);
        let factor = scale * f32::from(block[run] & 15);
        let offset = minimum * f32::from(block[run] >> 4);
        for i in 0..16 {
            let bits = block[16 + part * 32 + side * 16 + i] >> shift & 3;
            out[run * 16 + i] = factor * f32::from(bits) - offset;
        }
    }
}

/// 32 bytes of third bits, 64 bytes of weights (2 bits each), 16 scales of 6 bits in 12 bytes, scale of scales.
#[inline(always)]
pub(super) fn q3_k(block: &[u8; 110], out: &mut [f32; LEN]) {
    let scale = half(block, 108);
    let scales = &block[96..108];
    for run in 0..16 {
        let (part, step, side) = (run / 8, run % 8 / 2, run % 2);
        let low = if run < 8 { scales[run] & 15 } else { scales[run - 8] >> 4 };
        let high = scales[8 + run % 4] >> (run / 4 * 2) & 3;
        let factor = scale * (i32::from(low | high << 4) - 32) as f32;
        for i in 0..16 {
            let bits = block[32 + part * 32 + side * 16 + i] >> (2 * step) & 3;
            let third = block[side * 16 + i] >> (part * 4 + step) & 1;
            out[run * 16 + i] = factor * (i32::from(bits | third << 2) - 4) as f32;
        }
    }
}

/// Scale and minimum of run `run` among eight, 6 bits each in 12 bytes.
#[inline(always)]
fn scale_and_minimum(packed: &[u8], run: usize) -> (f32, f32) {
    let (scale, minimum) = if run < 4 {
        (packed[run] & 63, packed[run + 4] & 63)
    } else {
        (packed[run + 4] & 15 | packed[run - 4] >> 6 << 4, packed[run + 4] >> 4 | packed[run] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// Scale of scales, scale of minima, 12 bytes of scales and minima, 128 bytes of weights (4 bits each).
#[inline(always)]
pub(super) fn q4_k(block: &[u8; 144], out: &mut [f32; LEN]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for run in 0..8 {
        let (factor, offset) = scale_and_minimum(&block[4..16], run);
        let (factor, offset) = (scale * factor, minimum * offset);
        for i in 0..32 {
            let bits = block[16 + run / 2 * 32 + i] >> (run % 2 * 4) & 15;
            out[run * 32 + i] = factor * f32::from(bits) - offset;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the weights.
#[inline(always)]
pub(super) fn q5_k(block: &[u8; 176], out: &mut [f32; LEN]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for run in 0..8 {
        let (factor, offset) = scale_and_minimum(&block[4..16], run);
        let (factor, offset) = (scale * factor, minimum * offset);
        for i in 0..32 {
            let bits = block[48 + run / 2 * 32 + i] >> (run % 2 * 4) & 15;
            let fifth = block[16 + i] >> run & 1;
            out[run * 32 + i] = factor * f32::from(bits | fifth << 4) - offset;
        }
    }
}

/// 128 bytes of low bits (4 each), 64 bytes of high bits (2 each), 16 signed scales, scale of scales.
#[inline(always)]
pub(super) fn q6_k(block: &[u8; 210], out: &mut [f32; LEN]) {
    let scale = half(block, 208);
    for run in 0..16 {
        let (part, step, side) = (run / 8, run % 8 / 2, run % 2);
        let factor = scale * f32::from(block[192 + run] as i8);
        for i in 0..16 {
            let at = side * 16 + i;
            let low = block[part * 64 + step % 2 * 32 + at] >> (step / 2 * 4) & 15;
            let high = block[128 + part * 32 + at] >> (2 * step) & 3;
            out[run * 16 + i] = factor * (i32::from(low | high << 4) - 32) as f32;
        }
    }
}

/// Scale of scales, eight scales of 6 bits (2 high bits each in 2 bytes, 4 low ones each in 4), 128 bytes in the order of IQ4_NL.
#[inline(always)]
pub(super) fn iq4_xs(block: &[u8; 136], out: &mut [f32; LEN]) {
    let scale = half(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for run in 0..8 {
        let low = block[4 + run / 2] >> (run % 2 * 4) & 15;
        let high = (high >> (2 * run) & 3) as u8;
        let factor = scale * (i32::from(low | high << 4) - 32) as f32;
        for i in 0..16 {
            let byte = block[8 + run * 16 + i];
            out[run * 32 + i] = factor * f32::from(UNEVEN_STEPS[usize::from(byte & 15)]);
            out[run * 32 + i + 16] = factor * f32::from(UNEVEN_STEPS[usize::from(byte >> 4)]);
        }
    }
}

/// Five weights of three values each in a byte, as a fraction of 256 in base 3: the first digit is the first weight.
///
/// 32 bytes hold 160 weights, byte i weights i, i + 32 and so on; 16 bytes hold 80, 4 bytes the last 16 with four digits each;
/// scale.
#[inline(always)]
pub(super) fn tq1_0(block: &[u8; 54], out: &mut [f32; LEN]) {
    let scale = half(block, 52);
    let mut digits = |bytes: &[u8], n_digits: usize, first: usize| {
        for (i, byte) in bytes.iter().enumerate() {
            let mut fraction = *byte;
            for digit in 0..n_digits {
                let value = ((u16::from(fraction) * 3) >> 8) as i32;
                out[first + digit * bytes.len() + i] = (value - 1) as f32 * scale;
                fraction = fraction.wrapping_mul(3);
            }
        }
    };
    digits(&block[..32], 5, 0);
    digits(&block[32..48], 5, 160);
    digits(&block[48..52], 4, 240);
}

/// 64 bytes of weights, 2 bits each: byte i of each half has weights i, i + 32, i + 64 and i + 96 of it; scale.
#[inline(always)]
pub(super) fn tq2_0(block: &[u8; 66], out: &mut [f32; LEN]) {
    let scale = half(block, 64);
    for run in 0..8 {
        for i in 0..32 {
            let bits = block[run / 4 * 32 + i] >> (run % 4 * 2) & 3;
            out[run * 32 + i] = (i32::from(bits) - 1) as f32 * scale;
        }
    }
}
